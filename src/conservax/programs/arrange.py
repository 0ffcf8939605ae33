"""Products of cones in any order, brought into the order of ``Cones``."""

from typing import Any, NamedTuple

import numpy as np

from ..errors import InvalidInputError
from ..operators import cones as operators
from ..solvers import Cones

_ORDER = (
    "zero",
    "nonnegative",
    "second_order",
    "semidefinite",
    "exponential",
    "dual_exponential",
    "power",
)


class Arrangement(NamedTuple):
    """``cones`` in SCS order; ``rows`` (m,): which row of yours stands where, A[rows] and b[rows]."""

    cones: Cones
    rows: np.ndarray


def arrange(*cones: operators.Cone) -> Arrangement:
    """K = K₁ × K₂ × … as ``Cones``, and the order of rows that this asks for.

    Dual and slack come back in the new order; ``dual[np.argsort(rows)]`` has that of yours.

    Args:
        cones: of ``conservax.operators.cones``, their duals and products.

    Raises:
        InvalidInputError: a cone that ``Cones`` does not have, such as ``Free``.

    >>> from conservax.operators.cones import NonNegative, Power, Zero
    >>> arrange(Power(0.3), NonNegative(1), Zero(1)).rows.tolist()
    [4, 3, 0, 1, 2]
    """
    factors = [factor for cone in cones for factor in _factors(cone)]
    kinds = [_kind(factor) for factor in factors]
    ends = np.cumsum([0, *(factor.size for factor in factors)])
    # a stable sort: cones of one kind keep their order
    order = sorted(range(len(factors)), key=lambda k: _ORDER.index(kinds[k][0]))
    rows = [np.arange(ends[k], ends[k + 1]) for k in order]
    sizes: dict[str, Any] = {
        name: [kinds[k][1] for k in order if kinds[k][0] == name] for name in _ORDER
    }
    for name in ("zero", "nonnegative", "exponential", "dual_exponential"):
        sizes[name] = sum(sizes[name])
    return Arrangement(Cones(**sizes), np.concatenate([np.zeros(0, int), *rows]))


def _factors(cone: operators.Cone) -> list[operators.Cone]:
    if isinstance(cone, operators.Product):
        return [factor for part in cone.cones for factor in _factors(part)]
    return [cone]


def _kind(cone: operators.Cone) -> tuple[str, float]:
    """The name of ``Cones``, and the size, number or exponent."""
    match cone:
        case operators.Zero(length):
            return "zero", length
        case operators.NonNegative(length):
            return "nonnegative", length
        case operators.SecondOrder(size):
            return "second_order", size
        case operators.PositiveSemidefinite(order):
            return "semidefinite", order
        case operators.Exponential():
            return "exponential", 1
        case operators.Dual(operators.Exponential()):
            return "dual_exponential", 1
        case operators.Power(alpha):
            return "power", alpha
        case operators.Dual(operators.Power(alpha)):
            return "power", -alpha
    raise InvalidInputError(
        f"{cone!r} is no cone of a program: they are Zero, NonNegative, SecondOrder, PositiveSemidefinite, "
        "Exponential, Power and their duals. Rows that restrict nothing (Free) are left out."
    )
