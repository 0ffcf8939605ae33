"""What a batched solver returns: the value, a status per item, and what it took."""

from enum import IntEnum
from typing import Any, NamedTuple

import jax


class Status(IntEnum):
    """How a solve ended; an int8 array inside jit, one entry per item of the batch.

    SOLVED: within the tolerance. PRIMAL_INFEASIBLE: no feasible point; the dual is a certificate.
    DUAL_INFEASIBLE: the objective falls without bound along the primal, or no dual point exists.
    STALLED: round-off ended the progress before the tolerance. MAX_ITERATIONS: the budget is spent.
    NOT_CONVEX: the quadratic form of the objective is not positive semidefinite.
    """

    SOLVED = 0
    PRIMAL_INFEASIBLE = 1
    DUAL_INFEASIBLE = 2
    STALLED = 3
    MAX_ITERATIONS = 4
    NOT_CONVEX = 5


class Solution(NamedTuple):
    """``value`` of whatever type the solver has, ``status`` (int8), ``stats`` of the solver."""

    value: Any
    status: jax.Array
    stats: Any
