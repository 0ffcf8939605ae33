"""Errors on held-out folds as functions of the penalties, with their gradients."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, cast

import numpy as np

from .datafits import Datafit, Quadratic
from .derivative import Reduced
from .design import Design
from .fold_paths import FoldPath, fold_path
from .folds import Fold
from .penalties import Penalty
from .solvers import working_set

Parameters = dict[str, np.ndarray]


class Held(NamedTuple):
    """What one fold says: Σ w ℓ on the held-out samples, its gradient in log θ, and the coefficients."""

    loss: float
    slopes: dict[str, np.ndarray]
    coef: np.ndarray


@dataclass(eq=False)
class Judged:
    """The mean error over all held-out samples, and the folds' own means (K,)."""

    error: float
    each: np.ndarray
    gradient: Callable[[], dict[str, np.ndarray]]

    @cached_property
    def slopes(self) -> dict[str, np.ndarray]:
        """The error's gradient in log θ, computed when it is asked for."""
        return self.gradient()


def hold_out(
    fold: Fold,
    datafit: Datafit,
    penalty: Callable[..., Penalty],
    parameters: Parameters,
    intercept: bool,
    start: np.ndarray | None,
    tol: float,
) -> Held:
    """Fit on the fold, and judge: the squared error for least squares, else the loss itself."""
    problem = fold.problem(datafit, penalty(**parameters), intercept)
    outcome = working_set(problem, start, tol).required()
    out = Design.of(fold.X_out, 1, intercept)
    z = out.predict(outcome.coef)
    factor = 2.0 if isinstance(datafit, Quadratic) else 1.0
    loss = factor * float(fold.weight_out @ datafit.value(z, fold.y_out))
    push = factor * fold.weight_out[:, None] * datafit.gradient(z, fold.y_out)
    reduced = Reduced(
        problem,
        outcome.coef,
        outcome.z,
        problem.penalty.face(outcome.coef[: problem.design.penalised]),
        float(fold.weight.sum()),
        in_part=True,
    )
    pulled = reduced.pull(out.transposed(push), parameters)
    slopes = {name: pulled[name] * parameters[name] for name in parameters}
    return Held(loss, slopes, outcome.coef)


@dataclass(eq=False)
class CrossValidation:
    """θ ↦ the mean error on held-out samples, remembering solutions to start from.

    ``penalty`` builds the penalty from the parameters; ``run`` maps a function over the folds (joblib's
    ``Parallel``, or a loop).
    """

    folds: Sequence[Fold]
    datafit: Datafit
    penalty: Callable[..., Penalty]
    intercept: bool
    tol: float
    run: Callable[..., list[Held]]
    evaluations: int = 0
    _known: list[tuple[np.ndarray, list[np.ndarray]]] = field(default_factory=list)
    gaps = 0.0, 0.0
    """Relative duality gaps with which a coarse path, and points between it, do: fits here are exact."""

    def __call__(self, parameters: Parameters, gap: float = 0.0) -> Judged:
        """The error at these parameters; ``gap`` is for judges to whom it makes a difference."""
        here = np.concatenate([np.log(np.ravel(v)) for v in parameters.values()])
        starts: list[Any] = [None] * len(self.folds)
        if self._known:
            distances = [float(np.linalg.norm(there - here)) for there, _ in self._known]
            starts = self._known[int(np.argmin(distances))][1]
        held = self.run(
            hold_out,
            [
                (f, self.datafit, self.penalty, parameters, self.intercept, s, self.tol)
                for f, s in zip(self.folds, starts, strict=True)
            ],
        )
        self.evaluations += 1
        self._known = [*self._known[-7:], (here, [h.coef for h in held])]
        total = sum(float(f.weight_out.sum()) for f in self.folds)
        each = np.array(
            [h.loss / f.weight_out.sum() for h, f in zip(held, self.folds, strict=True)]
        )
        slopes = {
            name: cast(np.ndarray, sum(np.asarray(h.slopes[name]) for h in held) / total)
            for name in parameters
        }
        return Judged(sum(h.loss for h in held) / total, each, lambda: slopes)

    def coefficients(self) -> list[np.ndarray]:
        """The folds' coefficients at the last parameters; none before."""
        return self._known[-1][1] if self._known else []

    def start(self, coefficients: list[np.ndarray]) -> None:
        """Coefficients to start from; solutions are remembered here anyway."""

    def paths(self, alpha: float, rho: float) -> list[FoldPath]:
        """The folds' exact paths in α from the last solutions, which are those at ``alpha``, downwards."""
        known = [(alpha, coef) for coef in self.coefficients()]
        starts = known or [None] * len(self.folds)
        return [
            fold_path(fold, self.intercept, rho, start)
            for fold, start in zip(self.folds, starts, strict=True)
        ]
