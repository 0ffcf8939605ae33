"""Products of cones in any order, brought into the order of ``Cones``."""

from typing import Any, NamedTuple

import numpy as np

from ..errors import InvalidInputError
from .cone import Cone, Product
from .table import Cones, families


class Arrangement(NamedTuple):
    """``cones`` in SCS order; ``rows`` (m,): which row of yours stands where, A[rows] and b[rows]."""

    cones: Cones
    rows: np.ndarray


def arrange(*cones: Cone, table: type[Cones] = Cones) -> Arrangement:
    """K = K₁ × K₂ × … as ``Cones``, and the order of rows that this asks for.

    Dual and slack come back in the new order; ``dual[np.argsort(rows)]`` has that of yours.

    Args:
        cones: of ``conservax.cones``, their duals and products. A subclass of one is a cone of its own.
        table: ``Cones``, or a class that adds kinds to it.

    Raises:
        InvalidInputError: a cone that ``Cones`` does not have, such as ``Free``.

    >>> from conservax.cones import NonNegative, Power, Zero
    >>> arrange(Power(0.3), NonNegative(1), Zero(1)).rows.tolist()
    [4, 3, 0, 1, 2]
    """
    factors = [factor for cone in cones for factor in _factors(cone)]
    kinds = [_kind(factor, table) for factor in factors]
    ends = np.cumsum([0, *(factor.size for factor in factors)])
    order: list[int] = []
    values: dict[str, Any] = {}
    for name, family in families(table).items():
        # cones of one kind keep their order
        own = [k for k, (kind, _) in enumerate(kinds) if kind == name]
        order += own
        values[name] = family.joined([kinds[k][1] for k in own])
    rows = [np.arange(ends[k], ends[k + 1]) for k in order]
    return Arrangement(table(**values), np.concatenate([np.zeros(0, int), *rows]))


def _factors(cone: Cone) -> list[Cone]:
    if type(cone) is Product:
        return [factor for part in cone.cones for factor in _factors(part)]
    return [cone]


def _kind(cone: Cone, table: type[Cones]) -> tuple[str, Any]:
    """The field of the table, and what this cone adds to it."""
    for name, family in families(table).items():
        member = family.member(cone)
        if member is not None:
            return name, member
    raise InvalidInputError(
        f"{cone!r} is no cone of a program: they are Zero, NonNegative, SecondOrder, PositiveSemidefinite, "
        "Exponential, Power and their duals, themselves and not subclasses of them, which need a field of "
        "their own (table=…). Rows that restrict nothing (Free) are left out."
    )
