"""What the host does for one call of a layer: parameters in, variables out, and the derivative both ways.

Between them lies the cone program, affine in θ (``canonical``); where θ moves, only the terms that move
are met, so that neither P̄ nor Ā is formed.
"""

import functools
from typing import Any, NamedTuple, cast

import numpy as np
import scipy

from ..host import calls as host_calls
from ..host.calls import Form, Slot
from ..host.leads import Columns, broadcast, lead_of, summed
from .canonical import AffineMap, Canonical, ParameterSlot


class LayerForm(NamedTuple):
    """The program behind a layer, and how its data are laid out."""

    canonical: Canonical
    form: Form

    @property
    def cores(self) -> tuple[int, ...]:
        """How many axes of each parameter are no leading ones."""
        return tuple(len(slot.shape) for slot in self.canonical.slots)

    def lead(self, values: Any) -> tuple[int, ...]:
        """The broadcast leading axes of the parameters."""
        pairs = zip(values, self.cores, strict=True)
        return broadcast(*(lead_of(value.shape, core) for value, core in pairs))

    def maps(self) -> tuple[AffineMap, AffineMap, AffineMap, AffineMap]:
        """θ ↦ P, c, A, b."""
        canonical = self.canonical
        return canonical.P, canonical.c, canonical.A, canonical.b

    def leaves(self, values: Any) -> list[Any]:
        """Of P, c, A, b; c with the leading axes of all parameters, those that nothing depends on as well."""
        leaves: list[Any] = []
        sparse = self.form.P_shape is not None
        for into in self.maps():
            theta = _theta(self.canonical, values, into)
            entries = into.entries(theta, sparse and len(into.shape) == 2)
            if into is self.canonical.c:
                entries = np.broadcast_to(entries, (*self.lead(values), *into.shape))
            leaves.append(entries)
            if sparse and len(into.shape) == 2:
                leaves += into.stored
        return leaves

    def moving(self, params: tuple[bool, ...]) -> tuple[bool, ...]:
        """Which of P, c, A, b move with these parameters."""
        slots = [slot for slot, on in zip(self.canonical.slots, params, strict=True) if on]
        return tuple(any(_reaches(into, slot) for slot in slots) for into in self.maps())


def _reaches(into: AffineMap, slot: ParameterSlot) -> bool:
    return any(into.depends_on(place.start, place.stop) for place, _ in slot.places)


def _flat(value: np.ndarray, slot: ParameterSlot) -> np.ndarray:
    """(..., entries) that CVXPY keeps; both halves of a symmetric value count the same."""
    own = lead_of(value.shape, len(slot.shape))
    axes = (*range(len(own)), *range(value.ndim - 1, len(own) - 1, -1))
    flat = value.transpose(axes).reshape(*own, int(np.prod(slot.shape)))
    return (flat[..., slot.entries] + flat[..., slot.mirrored]) / 2


def _unflat(bar: np.ndarray, slot: ParameterSlot) -> np.ndarray:
    """The transpose of ``_flat``."""
    own = bar.shape[:-1]
    flat = np.zeros((*own, int(np.prod(slot.shape))))
    flat[..., slot.entries] += bar / 2
    flat[..., slot.mirrored] += bar / 2
    axes = (*range(len(own)), *range(len(own) + len(slot.shape) - 1, len(own) - 1, -1))
    return flat.reshape((*own, *slot.shape[::-1])).transpose(axes)


def _theta(canonical: Canonical, values: Any, into: AffineMap) -> np.ndarray:
    """θ (..., size), of the parameters alone that this map depends on."""
    own = [
        (np.asarray(value, np.float64), slot)
        for value, slot in zip(values, canonical.slots, strict=True)
        if _reaches(into, slot)
    ]
    lead = broadcast(*(lead_of(value.shape, len(slot.shape)) for value, slot in own))
    theta = np.zeros((*lead, canonical.size))
    theta[..., -1] = 1.0
    for value, slot in own:
        flat = _flat(value, slot)
        for place, log in slot.places:
            theta[..., place] = np.log(flat) if log else flat
    return theta


def _slopes(canonical: Canonical, values: Any, moving: tuple[bool, ...]) -> list[Any]:
    """d log(value)/d(value) of each parameter that enters by its logarithm, None for the others."""
    return [
        1 / _flat(np.asarray(value, np.float64), slot)
        if on and slot.log_start is not None
        else None
        for value, slot, on in zip(values, canonical.slots, moving, strict=True)
    ]


class _Terms(NamedTuple):
    """The terms of an affine map that move: where they go, from where, how much; and sums of them.

    ``rows``, ``columns`` of a matrix, or rows alone; ``of_theta`` (terms, size), scaled.
    """

    rows: np.ndarray
    columns: np.ndarray
    of_theta: Any

    def gathered(self, places: np.ndarray, size: int, terms: np.ndarray) -> np.ndarray:
        """Sums of terms (batch, terms, columns) at these places, (batch, size, columns)."""
        count, (batch, _, columns) = len(places), terms.shape
        if not count:
            return np.zeros((batch, size, columns))
        sums = scipy.sparse.csr_array(
            (np.ones(count), (places, np.arange(count))), shape=(size, count)
        )
        flat = np.moveaxis(terms, 1, 0).reshape(count, -1)
        return np.moveaxis((sums @ flat).reshape(size, batch, columns), 0, 1)


@functools.lru_cache(maxsize=256)
def _terms(into: AffineMap, size: int) -> _Terms:
    moving = into.columns < size - 1
    width = into.shape[1] if len(into.shape) == 2 else 1
    rows, columns = np.divmod(into.places[moving], width)
    count = int(moving.sum())
    of_theta = scipy.sparse.csr_array(
        (into.values[moving], (np.arange(count), into.columns[moving])), shape=(count, size)
    )
    return _Terms(rows, columns, of_theta)


def solve(layer: LayerForm, *values: np.ndarray) -> tuple[np.ndarray, ...]:
    """What was asked for; then as ``host_calls.solve``."""
    return _read(layer, host_calls.solve(layer.form, *layer.leaves(values)))


def solve_once(layer: LayerForm, told: bool, *values: np.ndarray) -> tuple[np.ndarray, ...]:
    """What was asked for; then as ``host_calls.solve_once``."""
    return _read(layer, host_calls.solve_once(layer.form, told, *layer.leaves(values)))


def _read(layer: LayerForm, found: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    return *(read(found[0], found[1]) for read in layer.canonical.readers), *found


def verdict(layer: LayerForm, *args: np.ndarray) -> tuple[np.ndarray, ...]:
    """Verdict and margin at solutions; values, point, ticket."""
    return host_calls.verdict(layer.form, *layer.leaves(args[:-4]), *args[-4:])


def derivative(
    layer: LayerForm, moving: tuple[bool, ...], *args: np.ndarray
) -> tuple[np.ndarray, ...]:
    """The tangents of outputs and solution for those of the parameters that move, which come first."""
    canonical, count = layer.canonical, sum(moving)
    tangents, rest = args[:count], args[count:]
    values, point, ticket = rest[:-4], rest[-4:-1], np.asarray(rest[-1])
    own, lead = iter(tangents), lead_of(point[0].shape, 1)
    by_slot = [np.asarray(next(own), np.float64) if on else None for on in moving]
    leads = [
        lead_of(part.shape, core)
        for part, core in zip(by_slot, layer.cores, strict=True)
        if part is not None
    ]
    columns = Columns(broadcast(*leads, lead), lead)
    d_theta = np.zeros((*columns.full, canonical.size))
    slopes = _slopes(canonical, values, moving)
    for part, slot, slope in zip(by_slot, canonical.slots, slopes, strict=True):
        if part is not None:
            flat = _flat(part, slot)
            for place, log in slot.places:
                d_theta[..., place] = flat * slope if log else flat
    change = columns.split(d_theta, 1)
    P, c, A, b = (_terms(into, canonical.size) for into in layer.maps())

    def along(terms: _Terms) -> np.ndarray:
        """(batch, terms, columns)"""
        batch, size, k = change.shape
        flat = terms.of_theta @ np.moveaxis(change, 1, 0).reshape(size, batch * k)
        return np.moveaxis(flat.reshape(len(terms.rows), batch, k), 0, 1)

    def sides(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        n, m = x.shape[1], y.shape[1]
        upper = -c.gathered(c.rows, n, along(c))
        lower = b.gathered(b.rows, m, along(b))
        if len(P.rows):
            dP = along(P)
            upper -= P.gathered(P.rows, n, dP * x[:, P.columns, None]) / 2
            upper -= P.gathered(P.columns, n, dP * x[:, P.rows, None]) / 2
        if len(A.rows):
            dA = along(A)
            upper -= A.gathered(A.columns, n, dA * y[:, A.rows, None])
            lower -= A.gathered(A.rows, m, dA * x[:, A.columns, None])
        return upper, lower

    on_P, _, on_A, _ = layer.moving(moving)
    moved = np.any(change != 0, axis=1, keepdims=True)
    dx, dy, ds = host_calls.forward(
        layer.form, columns, sides, moved, (not on_P, not on_A), layer.leaves(values), point, ticket
    )
    outs = []
    for read in canonical.readers:
        change_of = (dy if read.of_dual else dx)[..., read.index] * read.weights
        if read.exponential:
            change_of = change_of * np.exp(np.asarray(point[0])[..., read.index])
        outs.append(change_of.reshape((*columns.full, *read.shape)).astype(layer.form.dtype))
    return *outs, dx, dy, ds


def transposed(
    layer: LayerForm, moving: tuple[bool, ...], slots: tuple[Slot, ...], *args: np.ndarray
) -> tuple[np.ndarray, ...]:
    """The cotangents of the parameters that are moving, for those of the outputs; then values, …"""
    canonical = layer.canonical
    outputs = len(canonical.readers)
    bars, of_point, rest = args[:outputs], args[outputs : outputs + 3], args[outputs + 3 :]
    values, point, ticket = rest[:-4], rest[-4:-1], np.asarray(rest[-1])
    n, m, x_given = point[0].shape[-1], point[1].shape[-1], np.asarray(point[0], np.float64)
    lead = broadcast(
        lead_of(x_given.shape, 1),
        *(
            lead_of(bar.shape, len(read.shape))
            for bar, read in zip(bars, canonical.readers, strict=True)
        ),
        *(lead_of(bar.shape, 1) for bar in of_point),
    )
    x_bar, y_bar = np.zeros((*lead, n)), np.zeros((*lead, m))
    x_bar += of_point[0]
    y_bar += of_point[1]
    for bar, read in zip(bars, canonical.readers, strict=True):
        own = lead_of(bar.shape, len(read.shape))
        flat = np.asarray(bar, np.float64).reshape(*own, -1) * read.weights
        if read.exponential:
            flat = np.where(flat == 0, 0.0, flat * np.exp(x_given[..., read.index]))
        into = y_bar if read.of_dual else x_bar
        np.add.at(into, cast(Any, (..., read.index)), flat)
    on_P, _, on_A, _ = layer.moving(moving)
    a, w, x, y = host_calls.adjoint(
        layer.form,
        (x_bar, y_bar, of_point[2]),
        (not on_P, not on_A),
        layer.leaves(values),
        point,
        ticket,
    )
    P, c, A, b = (_terms(into, canonical.size) for into in layer.maps())
    products = [
        (P, -(a[..., P.rows] * x[..., P.columns] + a[..., P.columns] * x[..., P.rows]) / 2),
        (c, -a[..., c.rows]),
        (A, -(y[..., A.rows] * a[..., A.columns] + w[..., A.rows] * x[..., A.columns])),
        (b, w[..., b.rows]),
    ]
    full = a.shape[:-1]
    theta_bar = np.zeros((canonical.size, int(np.prod(full))))
    for terms, product in products:
        if len(terms.rows):
            theta_bar += terms.of_theta.T @ product.reshape(-1, len(terms.rows)).T
    theta_bar = theta_bar.T.reshape(*full, canonical.size)
    results, own_slots = [], iter(slots)
    slopes = _slopes(canonical, values, moving)
    for slot, on, slope in zip(canonical.slots, moving, slopes, strict=True):
        if on:
            target = next(own_slots)
            parts = (theta_bar[..., place] * (slope if log else 1.0) for place, log in slot.places)
            bar = functools.reduce(np.add, parts, np.zeros((*full, len(slot.entries))))
            result = summed(_unflat(bar, slot), len(slot.shape), target.lead)
            results.append(np.ascontiguousarray(result, target.dtype).reshape(target.shape))
    return tuple(results)
