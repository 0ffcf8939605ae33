"""What a solver returns: the value, a status per item of a batch, and what it took."""

from enum import IntEnum
from typing import Any, NamedTuple

import jax


class Status(IntEnum):
    """How a solve ended; an int8 array inside jit, one entry per item of the batch.

    Source: the termination rules of each solver's own module.

    >>> Status.MAX_ITERATIONS.remedy
    'raise the limit of iterations, loosen the tolerance, or start nearer the solution'
    """

    _remedy: str

    def __new__(cls, value: int, remedy: str = "") -> "Status":
        """A number that knows what to do about it."""
        member = int.__new__(cls, value)
        member._value_ = value
        member._remedy = remedy
        return member

    @property
    def remedy(self) -> str:
        """What a user can do about a solve that ended like this; empty for SOLVED."""
        return self._remedy

    SOLVED = 0, ""
    """within the tolerance"""
    PRIMAL_INFEASIBLE = 1, "relax a constraint: no point satisfies them all"
    """no feasible point; the dual is a certificate"""
    DUAL_INFEASIBLE = 2, "bound the variables: the objective falls without end"
    """the objective falls without bound along the primal, or no dual point exists"""
    STALLED = 3, "rescale the data, loosen the tolerance, or compute in float64"
    """round-off ended the progress before the tolerance"""
    MAX_ITERATIONS = (
        4,
        "raise the limit of iterations, loosen the tolerance, or start nearer the solution",
    )
    """the budget is spent"""
    NOT_CONVEX = 5, "make the quadratic form positive semidefinite"
    """the quadratic form of the objective is not positive semidefinite"""
    DIVERGED = 6, "shrink the step, or check that the iteration contracts"
    """the iterates grow without bound or are no numbers"""
    CLOSEST = 7, "relax a constraint: this solves the closest program that has a feasible point"
    """no feasible point; the answer is of the closest program that has one, as was asked for"""


class Solution(NamedTuple):
    """``value`` of whatever type the solver has, ``status`` (int8), ``stats`` of the solver."""

    value: Any
    status: jax.Array
    stats: Any
