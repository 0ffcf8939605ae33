"""One fold of the samples."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .datafits import Datafit
from .design import Design
from .penalties import Penalty
from .solvers import Problem


@dataclass(frozen=True, eq=False)
class Fold:
    """Samples to fit on and samples to judge by, with their weights."""

    X: Any
    y: np.ndarray
    weight: np.ndarray
    X_out: Any
    y_out: np.ndarray
    weight_out: np.ndarray

    def problem(self, datafit: Datafit, penalty: Penalty, intercept: bool) -> Problem:
        """The fit on this fold."""
        omega = self.weight / self.weight.sum()
        return Problem(Design.of(self.X, 1, intercept), datafit, self.y, omega, penalty)
