"""What the passes of a cut program hand over: what the first one found, and the linearised program."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from ..operations.discover import Records


class Findings(NamedTuple):
    """What the first pass finds: every kink, the outputs, and the size of the terms that made each.

    ``kept``: the values at the solves whose layer has a certificate, in the order of ``Cutter.keepers``.
    """

    records: Records
    outputs: list[np.ndarray]
    sizes: list[np.ndarray]
    kept: list[list[np.ndarray]]


class Linearised(NamedTuple):
    """(x, r) ↦ (F, z) of a cut program, flat, and where it is differentiated."""

    run: Callable[[jax.Array], jax.Array]
    at: jax.Array
    outputs: int
    unknowns: int
    dtype: Any

    @property
    def columns(self) -> int:
        return int(self.at.size)
