"""What the host does for one call: a solve, the derivative at it as a linear map, and its transpose.

    (dP, dc, dA, db) ↦ (dx, dy, ds)  and  (x̄, ȳ, s̄) ↦ (P̄, c̄, Ā, b̄)

at the solution (x, y, s); with (a, w) = U(V)⁻ᵀ (x̄, V(ȳ + s̄) − s̄),

    c̄ = −a,  b̄ = w,  P̄ = −½(a xᵀ + x aᵀ),  Ā = −(y aᵀ + w xᵀ).

NumPy alone; leading axes broadcast. What a solve knows is kept for its derivatives under a ticket.
"""

import itertools
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, cast

import numpy as np

from ...cones.table import Cones
from ...numerics import machine_epsilon
from ...solvers import ConicPoint
from ...solvers.equilibrate import Data
from ...solvers.matrices import SparseMatrix, column_major, dense, symmetric_part
from ...solvers.threads import threaded
from ..cone_inputs import items_of
from ..forward import Settings
from .engine import Answered, place_of, solve_programs
from .leads import Columns, broadcast, flat, lead_of, summed, summed_product
from .place import Place

_KEPT = 1 << 27  # bytes of places
FILLED, _FULL = 0.1, 1 << 30  # share of entries, and bytes, of what is made dense
SMALL = 150  # variables and rows up to which dense factors are quicker than sparse ones
_QUIETLY = np.errstate(all="ignore")  # a failed item has its status


class Form(NamedTuple):
    """How a program is laid out: the shapes of P and A where they are sparse, and what else is fixed.

    ``dtype``: of the results.
    """

    P_shape: tuple[int, int] | None
    A_shape: tuple[int, int] | None
    cones: Cones
    settings: Settings
    dtype: str

    @property
    def eps(self) -> float:
        return machine_epsilon(self.dtype)

    @property
    def cores(self) -> tuple[int, ...]:
        """How many axes of each leaf are no leading ones; of indices −1."""
        P = (2,) if self.P_shape is None else (1, -1, -1)
        A = (2,) if self.A_shape is None else (1, -1, -1)
        return (*P, 1, *A, 1)

    def parts(self, leaves: Any) -> tuple[Any, Any, Any, Any]:
        """P, c, A, b: each its leaves."""
        leaves = list(leaves)
        P, rest = self._split(leaves, self.P_shape)
        A, last = self._split(rest[1:], self.A_shape)
        return P, rest[0], A, last[0]

    def _split(self, leaves: list[Any], shape: tuple[int, int] | None) -> tuple[Any, list[Any]]:
        if shape is None:
            return leaves[0], leaves[1:]
        values, rows, columns, *rest = leaves
        return SparseMatrix(values, rows, columns, shape), rest

    def values(self, leaves: Any) -> list[Any]:
        """The leaves that have derivatives: of P, c, A, b."""
        return [
            part.values if isinstance(part, SparseMatrix) else part for part in self.parts(leaves)
        ]

    def lead(self, leaves: Any) -> tuple[int, ...]:
        """The broadcast leading axes."""
        cores = (1 if self.P_shape else 2, 1, 1 if self.A_shape else 2, 1)
        values = self.values(leaves)
        return broadcast(*(lead_of(v.shape, core) for v, core in zip(values, cores, strict=True)))


class _Tickets:
    """The places of the last solves."""

    def __init__(self) -> None:
        self.kept: OrderedDict[int, Place] = OrderedDict()
        self.numbers, self.size = itertools.count(), 0
        self.process = int.from_bytes(os.urandom(4), "little") & 0x7FFFFFFF
        self.lock = threading.Lock()

    def keep(self, places: list[Place]) -> np.ndarray:
        """A ticket (3,) for each item."""
        found = []
        with self.lock:
            for place in places:
                number = next(self.numbers) & 0x7FFFFFFF
                own = np.empty((len(place.d), 3), np.int32)
                own[:, 0], own[:, 1], own[:, 2] = self.process, number, np.arange(len(own))
                found.append(own)
                self.kept[number] = place
                self.size += place.bytes
            while self.size > _KEPT and len(self.kept) > 1:
                self.size -= self.kept.popitem(last=False)[1].bytes
        return np.concatenate(found)

    def find(self, tickets: np.ndarray) -> list[tuple[np.ndarray, Place | None]]:
        """Items that have a place in common, and that; None where it is gone."""
        found: list[tuple[np.ndarray, Place | None]] = []
        numbers = np.where(tickets[:, 0] == self.process, tickets[:, 1], -1)
        for number in np.unique(numbers):
            items = np.flatnonzero(numbers == number)
            with self.lock:
                place = self.kept.get(int(number))
            if place is not None:
                own = tickets[items, 2]
                if not (len(own) == len(place.d) and np.array_equal(own, np.arange(len(own)))):
                    place = place.some(own)
            found.append((items, place))
        return found


_TICKETS = _Tickets()


def _is_better_dense(A: SparseMatrix, cones: Cones, batch: int) -> bool:
    """Small, or filled by the bases of curved cones, which turn rows into mixtures of all of their cone."""
    if max(A.shape) <= SMALL:
        return True
    if cones.polyhedral or 8 * batch * math.prod(A.shape) > _FULL:
        return False
    rows, columns, filled = np.asarray(A.rows), np.asarray(A.columns), 0
    for block, place in cones.pieces:
        size = 1 if block.polyhedral else block.size // block.count
        inside = (rows >= place.start) & (rows < place.stop) & (columns < A.shape[1])
        own = (rows[inside] - place.start) // size
        filled += size * len(np.unique(own * A.shape[1] + columns[inside]))
    return filled > FILLED * math.prod(A.shape)


def _data(form: Form, leaves: Any, lead: tuple[int, ...]) -> Data:
    """One batch, symmetric, in double precision; P and A with one item where all share it."""
    P, c, A, b = form.parts(leaves)

    full = isinstance(A, SparseMatrix) and _is_better_dense(A, form.cones, math.prod(lead))

    def matrix(part: Any) -> Any:
        if isinstance(part, SparseMatrix):
            values = flat(np.asarray(part.values), 1, lead, shared=full)
            part = column_major(part.with_values(values))
            return dense(part) if full else part
        return flat(np.asarray(part), 2, lead, shared=True)

    P, A = matrix(P), matrix(A)
    if isinstance(P, SparseMatrix) or not np.array_equal(P, np.swapaxes(P, -1, -2)):
        P = symmetric_part(P)
    if isinstance(P, SparseMatrix):
        P = column_major(P)
    return Data(P, flat(np.asarray(c), 1, lead), A, flat(np.asarray(b), 1, lead))


@_QUIETLY
def solve(form: Form, *leaves: np.ndarray) -> tuple[np.ndarray, ...]:
    """x, y, s, status, iterations, residuals, gap, solver, and a ticket."""
    lead = form.lead(leaves)
    answered, places = _solve(form, leaves, lead)
    return *_shaped(form, lead, answered), *_shaped(form, lead, [_TICKETS.keep(places)])


@_QUIETLY
def solve_once(form: Form, told: bool, *leaves: np.ndarray) -> tuple[np.ndarray, ...]:
    """The same where nobody differentiates: no ticket, but verdict and margin, if they are ``told``."""
    lead = form.lead(leaves)
    answered, places = _solve(form, leaves, lead)
    found = _shaped(form, lead, answered)
    if not told:
        return found
    _test(places)
    tests = (np.concatenate(part) for part in zip(*(p.tests for p in places), strict=True))
    return *found, *_shaped(form, lead, tests)


def _solve(form: Form, leaves: Any, lead: tuple[int, ...]) -> tuple[Answered, list[Place]]:
    return solve_programs(_data(form, leaves, lead), form.cones, form.settings, form.eps)


def _shaped(form: Form, lead: tuple[int, ...], parts: Iterable[np.ndarray]) -> tuple[Any, ...]:
    """With the leading axes back, in the dtype of the results."""
    found = (part.astype(form.dtype, copy=False) if part.dtype == float else part for part in parts)
    return tuple(part.reshape((*lead, *part.shape[1:])) for part in found)


def _test(places: list[Place]) -> None:
    """The two tests, side by side."""
    threaded(lambda k: places[k].tests, len(places), max(places[0].data.A.shape[-2:]))


@_QUIETLY
def verdict(form: Form, *args: np.ndarray) -> tuple[np.ndarray, ...]:
    """Verdict and margin at solutions; leaves, point, ticket."""
    leaves, point, ticket = args[:-4], args[-4:-1], np.asarray(args[-1])
    found, x, _ = _places(form, leaves, point, ticket)
    _test([place for _, place in found])
    verdicts, margins = np.zeros(len(x), np.int8), np.zeros(len(x))
    for items, place in found:
        verdicts[items], margins[items] = place.tests
    return _shaped(form, lead_of(point[0].shape, 1), (verdicts, margins))


def _places(form: Form, leaves: Any, point: Any, ticket: np.ndarray) -> Any:
    """(items, Place) of a batch, and x, y, zero in items that have none."""
    lead = lead_of(point[0].shape, 1)
    x, y, s = (flat(np.asarray(part), 1, lead) for part in point)
    tickets = np.broadcast_to(ticket, (*lead, 3)).reshape(-1, 3)
    found = _TICKETS.find(tickets)
    if any(place is None for _, place in found):
        data = _data(form, leaves, lead)

        def anew(items: np.ndarray) -> Place:
            own = ConicPoint(*(part[items] for part in (x, y, s)))
            return place_of(items_of(data, items), own, form.cones, form.settings, form.eps)

        found = [(items, place or anew(items)) for items, place in found]
    known = np.all(np.isfinite(x), axis=-1)[:, None]
    return found, np.where(known, x, 0.0), np.where(known, y, 0.0)


@_QUIETLY
def derivative(form: Form, moving: tuple[bool, ...], *args: np.ndarray) -> tuple[np.ndarray, ...]:
    """dx, dy, ds for the tangents of those of P, c, A, b that are moving; then leaves, point, ticket."""
    count = sum(moving)
    tangents, rest = list(args[:count]), args[count:]
    leaves, point, ticket = rest[:-4], rest[-4:-1], np.asarray(rest[-1])
    cores = [1 if form.P_shape else 2, 1, 1 if form.A_shape else 2, 1]
    own = iter(tangents)
    by_part = [np.asarray(next(own)) if on else None for on in moving]
    leads = [
        lead_of(part.shape, core)
        for part, core in zip(by_part, cores, strict=True)
        if part is not None
    ]
    lead = lead_of(point[0].shape, 1)
    columns = Columns(broadcast(*leads, lead), lead)
    P, _, A, _ = form.parts(leaves)
    dP, dc, dA, db = (
        None if part is None else columns.split(part, core)
        for part, core in zip(by_part, cores, strict=True)
    )

    def sides(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        upper = np.zeros((*x.shape, columns.count))
        lower = np.zeros((*y.shape, columns.count))
        if dc is not None:
            upper -= dc
        if db is not None:
            lower += db
        if dP is not None:
            upper -= (_times(dP, P, x) + _times_transposed(dP, P, x)) / 2
        if dA is not None:
            upper -= _times_transposed(dA, A, y)
            lower -= _times(dA, A, x)
        return upper, lower

    moved = np.zeros((columns.batch, 1, columns.count), bool)
    for part in (dP, dc, dA, db):
        if part is not None:
            moved |= np.any(part != 0, axis=tuple(range(1, part.ndim - 1)))[:, None]
    return forward(form, columns, sides, moved, (dP is None, dA is None), leaves, point, ticket)


@_QUIETLY
def forward(
    form: Form,
    columns: Columns,
    sides: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    moved: np.ndarray,
    still: tuple[bool, bool],
    leaves: Any,
    point: Any,
    ticket: np.ndarray,
) -> tuple[np.ndarray, ...]:
    """dx, dy, ds with P dx + Aᵀdy = upper, A dx + ds = lower.

    Args:
        sides: (x, y), zero in items that have none, ↦ (upper, lower), (batch, n or m, columns).
        moved: (batch, 1, columns), whether any datum does. still: whether P, and A, stand still.
    """
    found, x, y = _places(form, leaves, point, ticket)
    upper, lower = sides(x, y)
    outs = np.zeros_like(upper), np.zeros_like(lower), np.zeros_like(lower)

    @_QUIETLY  # of each thread
    def run(index: int) -> None:
        items, place = found[index]
        column, row, cost = place.scaling
        up = (cost[:, None] * column)[..., None] * upper[items]
        dx, dv = place.solve(up, row[..., None] * lower[items], False, still)
        dy = place.system.element(dv)
        ds = dy - dv
        lost = ~place.known[:, None, None] & moved[items]
        outs[0][items] = np.where(lost, np.nan, column[..., None] * dx)
        outs[1][items] = np.where(lost, np.nan, (row / cost[:, None])[..., None] * dy)
        outs[2][items] = np.where(lost, np.nan, ds / row[..., None])

    threaded(run, len(found), max(x.shape[1], y.shape[1]))
    return tuple(columns.join(out).astype(form.dtype, copy=False) for out in outs)


class Slot(NamedTuple):
    """Where a cotangent goes: leading axes, of the rank of all, its shape and dtype."""

    lead: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: str


@_QUIETLY
def transposed(
    form: Form,
    moving: tuple[bool, ...],
    slots: tuple[Slot, ...],
    *args: np.ndarray,
) -> tuple[np.ndarray, ...]:
    """The cotangents of those of P, c, A, b that are moving, for x̄, ȳ, s̄; then leaves, point, ticket."""
    bars, rest = args[:3], args[3:]
    leaves, point, ticket = rest[:-4], rest[-4:-1], np.asarray(rest[-1])
    a, w, x, y = adjoint(form, bars, (not moving[0], not moving[2]), leaves, point, ticket)
    P, _, A, _ = form.parts(leaves)
    results, own = [], iter(slots)
    for k, on in enumerate(moving):
        if not on:
            continue
        slot = next(own)
        if k == 0:
            result = -_products(a, x, P, slot.lead) / 2 - _products(x, a, P, slot.lead) / 2
        elif k == 1:
            result = -summed(a, 1, slot.lead)
        elif k == 2:
            result = -_products(y, a, A, slot.lead) - _products(w, x, A, slot.lead)
        else:
            result = summed(w, 1, slot.lead)
        results.append(np.ascontiguousarray(result, slot.dtype).reshape(slot.shape))
    return tuple(results)


@_QUIETLY
def adjoint(
    form: Form,
    bars: Any,
    still: tuple[bool, bool],
    leaves: Any,
    point: Any,
    ticket: np.ndarray,
) -> tuple[np.ndarray, ...]:
    """a and w, with all leading axes, and x and y, zero in items that have none."""
    lead = lead_of(point[0].shape, 1)
    full = broadcast(*(lead_of(bar.shape, 1) for bar in bars), lead)
    columns = Columns(full, lead)
    found, x, y = _places(form, leaves, point, ticket)
    x_bar, y_bar, s_bar = (columns.split(np.asarray(bar), 1) for bar in bars)
    a_all, w_all = np.zeros_like(x_bar), np.zeros_like(y_bar)

    @_QUIETLY  # of each thread
    def run(index: int) -> None:
        items, place = found[index]
        column, row, cost = place.scaling
        along = (row / cost[:, None])[..., None] * y_bar[items]
        slack = s_bar[items] / row[..., None]
        right = place.system.element(along + slack) - slack
        a, w = place.solve(column[..., None] * x_bar[items], right, True, still)
        a_all[items] = (cost[:, None] * column)[..., None] * a
        w_all[items] = row[..., None] * w
        bad = ~place.known[:, None, None]
        if bad.any():
            # zero goes to zero; what is not is lost
            moved = np.any(x_bar[items] != 0, axis=1, keepdims=True)
            moved |= np.any(along != 0, axis=1, keepdims=True)
            moved |= np.any(slack != 0, axis=1, keepdims=True)
            a_all[items] = np.where(bad & moved, np.nan, a_all[items])
            w_all[items] = np.where(bad & moved, np.nan, w_all[items])

    threaded(run, len(found), max(x.shape[1], y.shape[1]))
    x, y = x.reshape((*lead, x.shape[-1])), y.reshape((*lead, y.shape[-1]))
    return columns.join(a_all), columns.join(w_all), x, y


def _products(left: np.ndarray, right: np.ndarray, part: Any, lead: tuple[int, ...]) -> np.ndarray:
    """left rightᵀ, in the stored entries of a sparse matrix."""
    if isinstance(part, SparseMatrix):
        rows, columns = np.asarray(part.rows), np.asarray(part.columns)
        inside = (rows < left.shape[-1]) & (columns < right.shape[-1])
        rows, columns = np.where(inside, rows, 0), np.where(inside, columns, 0)
        found = summed_product(left[..., rows], right[..., columns], lead, outer=False)
        return np.where(inside, found, 0.0)
    return summed_product(left, right, lead, outer=True)


def _times(tangent: np.ndarray, part: Any, x: np.ndarray) -> np.ndarray:
    """(batch, *matrix, columns) times (batch, j)."""
    if isinstance(part, SparseMatrix):
        return _spread(tangent, np.asarray(part.rows), np.asarray(part.columns), part.shape[0], x)
    return np.einsum("bijk,bj->bik", tangent, x, optimize=True)


def _times_transposed(tangent: np.ndarray, part: Any, y: np.ndarray) -> np.ndarray:
    if isinstance(part, SparseMatrix):
        return _spread(tangent, np.asarray(part.columns), np.asarray(part.rows), part.shape[1], y)
    return np.einsum("bijk,bi->bjk", tangent, y, optimize=True)


def _spread(
    values: np.ndarray, rows: np.ndarray, columns: np.ndarray, count: int, x: np.ndarray
) -> np.ndarray:
    inside = (rows < count) & (columns < x.shape[1])
    terms = values[:, inside] * x[:, columns[inside], None]
    found = np.zeros((len(values), count, values.shape[-1]))
    np.add.at(found, cast(Any, (slice(None), rows[inside])), terms)
    return found


@_QUIETLY
def pieces(form: Form, *args: np.ndarray) -> tuple[np.ndarray, ...]:
    """Scaling, d, verdict and basis at solutions, for derivatives of derivatives."""
    leaves, point, ticket = args[:-4], args[-4:-1], np.asarray(args[-1])
    found, x, _ = _places(form, leaves, point, ticket)
    lead = lead_of(point[0].shape, 1)
    results: list[np.ndarray] | None = None
    for items, place in found:
        basis = [own for own in place.parts.basis if own is not None]
        own = [*place.scaling, place.d, place.tests.verdict, *basis]
        if results is None:
            results = [np.zeros((len(x), *part.shape[1:]), part.dtype) for part in own]
        for result, part in zip(results, own, strict=True):
            result[items] = part
    assert results is not None
    return _shaped(form, lead, results)
