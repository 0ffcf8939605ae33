"""The table of cones: what a product K is made of, in the order of its rows.

A field of ``Cones`` is one kind of cone, and its ``family`` says the rest: a new cone is a file of
``kinds`` and a line here.
"""

import dataclasses
import functools
import itertools
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ..errors import InvalidInputError
from .block import Block, SymmetricBlock
from .constraint import Constraint
from .family import Family
from .kinds.exponential import DUAL_EXPONENTIAL, EXPONENTIAL
from .kinds.orthant import NONNEGATIVE
from .kinds.power import POWER
from .kinds.second_order import SECOND_ORDER
from .kinds.semidefinite import SEMIDEFINITE
from .kinds.zero import ZERO


class Piece(NamedTuple):
    """A block and the rows that it occupies."""

    block: Block
    rows: slice


@dataclass(frozen=True)
class Cones:
    """K = {0}^zero × ℝ₊^nonnegative × Π second-order cones × Π semidefinite cones × Π cones in ℝ³.

    Order and scaling are those of SCS.

    Attributes:
        zero: number of equality rows. nonnegative: number of inequality rows.
        second_order: dimensions d of {(t, x) ∈ ℝ × ℝ^{d−1} : ‖x‖ ≤ t}.
        semidefinite: orders d of positive semidefinite matrices; each takes d(d + 1)/2 rows, the
            lower triangle column by column, entries off the diagonal times √2.
        exponential: number of cones cl{(x, y, z) : y > 0, y exp(x/y) ≤ z}.
        dual_exponential: number of their duals cl{(u, v, w) : u < 0, −u exp(v/u) ≤ e w}.
        power: exponents α of {(x, y, z) : x^α y^(1−α) ≥ |z|, x, y ≥ 0}, 0 < α < 1; −α stands for the
            dual of the cone of exponent α.

    Raises:
        InvalidInputError: a size is no non-negative integer (positive for a cone of its own), or an
            exponent leaves (−1, 1) or is 0.

    >>> Cones(zero=1, nonnegative=2, second_order=(3,), semidefinite=(2,)).size
    9
    """

    zero: int = field(default=0, metadata={"family": ZERO})
    nonnegative: int = field(default=0, metadata={"family": NONNEGATIVE})
    second_order: tuple[int, ...] = field(default=(), metadata={"family": SECOND_ORDER})
    semidefinite: tuple[int, ...] = field(default=(), metadata={"family": SEMIDEFINITE})
    exponential: int = field(default=0, metadata={"family": EXPONENTIAL})
    dual_exponential: int = field(default=0, metadata={"family": DUAL_EXPONENTIAL})
    power: tuple[float, ...] = field(default=(), metadata={"family": POWER})

    def __post_init__(self) -> None:
        for name, family in families(type(self)).items():
            object.__setattr__(self, name, family.checked(name, getattr(self, name)))

    @cached_property
    def polyhedral(self) -> bool:
        """Whether K is a polyhedron: equalities and inequalities alone."""
        return all(family.polyhedral for family, _ in self.values)

    @cached_property
    def symmetric(self) -> bool:
        """Whether K is a product of symmetric cones: no exponential and no power cones."""
        return all(family.symmetric for family, _ in self.values)

    @property
    def values(self) -> list[tuple[Family, Any]]:
        """The kinds that there are, and the value of each."""
        kinds = ((family, getattr(self, name)) for name, family in families(type(self)).items())
        return [(family, value) for family, value in kinds if value]

    @property
    def size(self) -> int:
        """Number of rows of A."""
        return sum(piece.block.size for piece in self.pieces)

    @property
    def degree(self) -> int:
        """The barrier parameter of a product of symmetric cones: sᵀy = μ·degree on the central path."""
        return sum(block.degree for block, _ in self.symmetric_pieces)

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The blocks in order of rows; a cone of dimension 1 is a non-negative number."""
        return _pieces(self)

    @property
    def symmetric_pieces(self) -> list[tuple[SymmetricBlock, slice]]:
        """The same; InvalidInputError if a cone is not symmetric."""
        if not self.symmetric:
            raise InvalidInputError(
                "exponential and power cones have no Nesterov–Todd scaling, which this method needs: "
                'solve with ConeProgram(..., solver="clarabel") or "scs".'
            )
        return [(block, rows) for block, rows in self.pieces if isinstance(block, SymmetricBlock)]

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """The factors of K in their order.

        >>> [(c.kind, c.rows.start) for c in Cones(nonnegative=1, second_order=(3,)).constraints]
        [('inequality', 0), ('second-order cone', 1)]
        """
        return _constraints(self)

    @cached_property
    def largest_order(self) -> int:
        """Of the cones that are no half lines; 0 if there are none."""
        found = [
            part.order
            for family, value in self.values
            for part in family.constraints(value)
            if not family.polyhedral
        ]
        return max(found, default=0)

    def rows_of(self, *, polyhedral: bool, equations: bool = False) -> np.ndarray:
        """The rows of equations, of inequalities, or of cones that are no polyhedra."""
        parts = (
            np.arange(rows.start, rows.stop)
            for block, rows in self.pieces
            if (block.polyhedral, block.equations) == (polyhedral, equations)
        )
        return np.concatenate([np.zeros(0, int), *parts])


@functools.cache
def families(table: type[Cones] = Cones) -> dict[str, Family]:
    """Of each field of ``Cones``, or of a class that adds to them, in the order of rows."""
    return {kind.name: kind.metadata["family"] for kind in dataclasses.fields(table)}


@functools.cache
def _pieces(cones: Cones) -> tuple[Piece, ...]:
    blocks = [block for family, value in cones.values for block in family.blocks(value)]
    ends = list(itertools.accumulate((block.size for block in blocks), initial=0))
    return tuple(
        Piece(block, slice(start, stop))
        for block, start, stop in zip(blocks, ends[:-1], ends[1:], strict=True)
    )


@functools.cache
def _constraints(cones: Cones) -> tuple[Constraint, ...]:
    found: list[Constraint] = []
    for family, value in cones.values:
        start = found[-1].rows.stop if found else 0
        for part in family.constraints(value):
            rows = slice(start + part.rows.start, start + part.rows.stop)
            found.append(dataclasses.replace(part, rows=rows))
    return tuple(found)
