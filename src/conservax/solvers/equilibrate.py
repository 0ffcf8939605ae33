"""Ruiz scaling: rows and columns of [[P, Aᵀ], [A, 0]] brought to unit size (Ruiz 2001)."""

from typing import Any, NamedTuple

import numpy as np

from ..arrays.namespace import Array, join, namespace, while_loop
from ..cones.table import Cones
from .matrices import Matrix, column_norms, row_norms, scaled

PASSES = 12
_FAIR = 10.0  # norms within this factor of one are left as they are


class Data(NamedTuple):
    """P (batch, n, n), c (batch, n), A (batch, m, n), b (batch, m); P and A are of one kind of ``Matrix``."""

    P: Any
    c: Array
    A: Any
    b: Array


class WhiteData(NamedTuple):
    """As ``Data``, P being the identity: ``None`` stands for it."""

    c: Array
    A: Array
    b: Array

    P = None


class ConicPoint(NamedTuple):
    """Primal (batch, n), dual and slack (batch, m)."""

    primal: Array
    dual: Array
    slack: Array


class Scaling(NamedTuple):
    """x = column · x̂, s = ŝ / row, y = row · ŷ / cost; all positive, one value per cone in a row."""

    column: Array
    row: Array
    cost: Array

    def apply(self, data: Data) -> Data:
        """The program in terms of x̂, ŷ, ŝ."""
        column, row, cost = self.column, self.row, self.cost
        if namespace(column) is np and all(np.all(factor == 1) for factor in self):
            return data
        return Data(
            scaled(cost[:, None] * column, data.P, column),
            cost[:, None] * column * data.c,
            scaled(row, data.A, column),
            row * data.b,
        )

    def apply_point(self, point: ConicPoint) -> ConicPoint:
        """(x̂, ŷ, ŝ)."""
        x, y, s = point
        return ConicPoint(x / self.column, self.cost[:, None] * y / self.row, self.row * s)

    def undo(self, point: ConicPoint) -> ConicPoint:
        """(x, y, s)."""
        x, y, s = point
        return ConicPoint(self.column * x, self.row * y / self.cost[:, None], s / self.row)


def equilibrate(P: Matrix, c: Array, A: Matrix, b: Array, cones: Cones) -> Scaling:
    """Scale factors for a batch of programs; ones where the data are well scaled already.

    Args:
        P: (batch, n, n); c: (batch, n); A: (batch, m, n); b: (batch, m).
    """
    xp = namespace(c)

    def norms(scaling: Scaling) -> tuple[Array, Array]:
        column, row, _ = scaling
        of_rows = row * row_norms(A, column)
        by_cost = row_norms(P, column)
        by_rows = column_norms(A, row)
        return column * xp.maximum(by_cost, by_rows), per_cone(of_rows, cones)

    def unfair(sizes: tuple[Array, Array]) -> Array:
        """Per item: one item's scaling does not depend on its neighbours."""
        bad = [(size > 0) & ((size > _FAIR) | (size < 1 / _FAIR)) for size in sizes]
        return xp.any(bad[0], axis=-1) | xp.any(bad[1], axis=-1)

    def unfinished(carry: tuple[Scaling, tuple[Array, Array], Array]) -> Array:
        _, sizes, step = carry
        return (step < PASSES) & xp.any(unfair(sizes))

    def pass_once(
        carry: tuple[Scaling, tuple[Array, Array], Array],
    ) -> tuple[Scaling, tuple[Array, Array], Array]:
        scaling, sizes, step = carry
        go = unfair(sizes)[:, None]
        factors = [
            xp.where(go & (size > 0), 1 / xp.sqrt(xp.where(size > 0, size, 1.0)), 1.0)
            for size in sizes
        ]
        scaling = Scaling(scaling.column * factors[0], scaling.row * factors[1], scaling.cost)
        return scaling, norms(scaling), step + 1

    one = Scaling(xp.ones_like(c), xp.ones_like(b), xp.ones_like(c[:, 0]))
    scaling, _, _ = while_loop(unfinished, pass_once, (one, norms(one), xp.array(0)))
    # the unit of the primal variables is the size of b, or that of P⁻¹c where b is zero
    of_b, of_c = _largest(b * scaling.row), _largest(c * scaling.column)
    of_P = _largest(row_norms(P, scaling.column) * scaling.column)
    free = (of_b == 0) & (of_P > 0)
    unit = _unit(xp.where(free, of_c / xp.where(free, of_P, 1.0), of_b))
    # that of the dual ones is the size of c or of Px
    cost = 1 / _unit(unit * xp.maximum(of_c, unit * of_P))
    return Scaling(scaling.column * unit[:, None], scaling.row / unit[:, None], cost)


def _largest(vector: Array) -> Array:
    """The size of the largest entry, per item."""
    return abs(vector).max(axis=-1, initial=0.0)


def _unit(size: Array) -> Array:
    """One where the size is fair, or zero, or beyond all numbers."""
    xp = namespace(size)
    return xp.where((size > 0) & (size < xp.inf) & ((size > _FAIR) | (size < 1 / _FAIR)), size, 1.0)


def per_cone(of_rows: Array, cones: Cones) -> Array:
    """The largest value for all rows of a cone that is no product, so that scaling keeps the cone."""
    if cones.polyhedral:
        return of_rows
    parts, xp = [], namespace(of_rows)
    for block, rows in cones.pieces:
        part = of_rows[:, rows]
        if not block.polyhedral:
            grouped = part.reshape(len(part), block.count, block.size // block.count)
            part = xp.broadcast_to(xp.max(grouped, axis=-1, keepdims=True), grouped.shape)
            part = part.reshape(len(of_rows), block.size)
        parts.append(part)
    return join(parts)
