"""A parametrised CVXPY problem as data of a cone program: affine in one vector of parameters.

CVXPY canonicalises once (Agrawal, Amos, Barratt, Boyd, Diamond, Kolter, Differentiable convex
optimization layers, 2019): with θ the parameters one below the other, and a 1 at the end,

    vec P = M_P θ,  (c, d) = M_c θ,  vec [A b] = M_A θ,

M sparse and constant. Rows are in SCS order.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
import scipy

from ...arrays.namespace import Array, namespace
from ...cones.table import Cones
from ...solvers.matrices import SparseMatrix
from .parameter_maps import ParameterMap

if TYPE_CHECKING:
    pass

_DENSE = 1 << 16  # entries of P and A that are always held dense
_FILLED = 10  # one in so many entries at least is not zero where more are held dense


@dataclass(frozen=True, eq=False)
class Readout:
    """What a user asked for: entries of the primal or the dual, times weights, in a shape.

    ``index`` and ``weights``: of each entry of the result, row by row. ``exponential``: of them.
    """

    of_dual: bool
    index: np.ndarray
    weights: np.ndarray
    shape: tuple[int, ...]
    exponential: bool = False

    @classmethod
    def by_columns(
        cls,
        of_dual: bool,
        own: np.ndarray,
        shape: tuple[int, ...],
        entries: np.ndarray,
        mirrored: np.ndarray,
        divisors: np.ndarray | None = None,
        exponential: bool = False,
    ) -> "Readout":
        """Of ``own`` entries that stand, and are repeated, at these places of an array filled by columns."""
        size = int(np.prod(shape))
        index, weights = np.zeros(size, int), np.zeros(size)
        for places in (entries, mirrored):
            index[places] = own
            weights[places] = 1.0 if divisors is None else 1 / divisors
        order = np.arange(size).reshape(shape, order="F").ravel()
        return cls(of_dual, index[order], weights[order], shape, exponential)

    def __call__(self, primal: Array, dual: Array) -> Array:
        """(..., *shape) for (..., n) and (..., m)."""
        source = dual if self.of_dual else primal
        found = source[..., self.index] * self.weights.astype(source.dtype)
        found = found.reshape((*source.shape[:-1], *self.shape))
        return namespace(found).exp(found) if self.exponential else found


@dataclass(frozen=True, eq=False)
class AffineMap:
    """θ ↦ the entries of a matrix or vector: sums of values · θ[columns] into places.

    ``shape``: of the result. ``places`` (flat), ``columns``, ``values``: of the terms.
    """

    shape: tuple[int, ...]
    places: np.ndarray
    columns: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, matrix: Any, places: np.ndarray, shape: tuple[int, ...]) -> "AffineMap":
        """From a sparse matrix whose rows belong at ``places`` of the flat result."""
        terms = scipy.sparse.coo_array(matrix)
        return cls(shape, np.asarray(places)[terms.row], terms.col, terms.data)

    def depends_on(self, start: int, stop: int) -> bool:
        """Whether on the entries start … stop − 1 of θ."""
        return bool(np.any((self.columns >= start) & (self.columns < stop)))

    def constant(self, last: int) -> np.ndarray | None:
        """The result, if it does not depend on θ but for its last entry, 1."""
        if self.depends_on(0, last):
            return None
        result = np.zeros(int(np.prod(self.shape)))
        np.add.at(result, self.places, self.values)
        return result.reshape(self.shape)

    def __call__(self, theta: Array) -> Array:
        """(..., *shape) for θ (..., size)."""
        size = int(np.prod(self.shape))
        return self._sums(theta, self.places, size).reshape(*theta.shape[:-1], *self.shape)

    @functools.cached_property
    def pattern(self) -> tuple[np.ndarray, np.ndarray]:
        """The flat places that are filled, in order, and which of them each term goes to."""
        stored, positions = np.unique(self.places, return_inverse=True)
        return stored, positions

    @functools.cached_property
    def stored(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the filled places of a matrix."""
        return tuple(part.astype(np.int32) for part in np.divmod(self.pattern[0], self.shape[1]))  # type: ignore[return-value]

    def entries(self, theta: np.ndarray, only_stored: bool) -> np.ndarray:
        """NumPy's: all entries (..., *shape), or those of filled places (..., stored)."""
        stored, positions = self.pattern
        shape = (len(stored), theta.shape[-1])
        terms = scipy.sparse.csr_array((self.values, (positions, self.columns)), shape=shape)
        lead = theta.shape[:-1]
        values = (terms @ theta.reshape(-1, theta.shape[-1]).T).T
        if only_stored:
            return np.ascontiguousarray(values).reshape(*lead, len(stored))
        full = np.zeros((len(values), int(np.prod(self.shape))))
        full[:, stored] = values
        return full.reshape(*lead, *self.shape)

    def sparse(self, theta: Array) -> SparseMatrix:
        """The matrix, its values (..., stored) for θ (..., size)."""
        stored, positions = self.pattern
        rows, columns = np.divmod(stored, self.shape[1])
        values = self._sums(theta, positions, len(stored))
        indices = jnp.asarray(rows, jnp.int32), jnp.asarray(columns, jnp.int32)
        return SparseMatrix(values, *indices, (self.shape[0], self.shape[1]))

    def _sums(self, theta: Array, places: np.ndarray, size: int) -> Array:
        # what is known is a constant to XLA, unless that would make a large one
        moving = (self.columns < theta.shape[-1] - 1) | (size > _DENSE)
        known = np.zeros(size)
        np.add.at(known, places[~moving], self.values[~moving])
        sums = jnp.broadcast_to(jnp.asarray(known, theta.dtype), (*theta.shape[:-1], size))
        if not moving.any():
            return sums
        terms = theta[..., self.columns[moving]] * jnp.asarray(self.values[moving], theta.dtype)
        return sums.at[..., places[moving]].add(terms)


@dataclass(frozen=True, eq=False)
class ParameterSlot:
    """Where a parameter enters θ: from ``start`` on, and from ``log_start`` on its logarithm.

    Both are None for one that enters through a ``ParameterMap`` alone; a geometric program has a
    parameter in both where it is an exponent and a factor. ``entries`` of its value count, column by
    column; ``mirrored``: where a symmetric one repeats them. ``sign``: 1 or −1 if it was declared to have
    one, else 0.
    """

    name: str
    shape: tuple[int, ...]
    start: int | None
    log_start: int | None
    entries: np.ndarray
    mirrored: np.ndarray
    sign: int

    @property
    def places(self) -> list[tuple[slice, bool]]:
        """The parts of θ that it fills, and whether with its logarithm."""
        starts = (self.start, False), (self.log_start, True)
        count = len(self.entries)
        return [(slice(start, start + count), log) for start, log in starts if start is not None]

    @functools.cached_property
    def zeros(self) -> np.ndarray:
        """The entries, column by column, that were declared to be zero."""
        held = np.union1d(self.entries, self.mirrored)
        return np.setdiff1d(np.arange(int(np.prod(self.shape))), held)


@dataclass(frozen=True, eq=False)
class Canonical:
    """The cone program behind a problem.

    Attributes:
        cones: K. P, c, A, b: from θ. size: of θ. parameters: in the user's order. own: the values of
        further parameters, from the user's; derived: where these enter.
        readers: from (primal, dual) to what the user asked for.
        rows: for each constraint of the user its name and its rows. added: for each that CVXPY added the
            names of the user's variables in it, and its rows.
        auxiliary: the variables that CVXPY added.
    """

    cones: Cones
    P: AffineMap
    c: AffineMap
    A: AffineMap
    b: AffineMap
    size: int
    parameters: tuple[ParameterSlot, ...]
    own: ParameterMap
    derived: tuple[ParameterSlot, ...]
    readers: tuple[Readout, ...]
    rows: tuple[tuple[str, range], ...]
    added: tuple[tuple[tuple[str, ...], range], ...]
    auxiliary: tuple[int, ...]

    @property
    def large(self) -> bool:
        """Whether dense matrices would be large, and mostly zeros."""
        entries = self.entries(False)
        return entries > _DENSE and self.entries(True) * _FILLED < entries

    def entries(self, stored: bool) -> int:
        """Of P and A: all of them, or those that are stored."""
        if stored:
            return len(self.A.pattern[0]) + len(self.P.pattern[0])
        return int(np.prod(self.A.shape)) + int(np.prod(self.P.shape))

    @property
    def slots(self) -> tuple[ParameterSlot, ...]:
        """Of all parameters, the user's first."""
        return self.parameters + self.derived

    def complete(self, values: Sequence[Array]) -> tuple[Array, ...]:
        """The values of all parameters, from those of the user's."""
        return (*values, *self.own(values, [slot.shape for slot in self.parameters]))

    def theta(self, values: Sequence[Array], dtype: Any, into: AffineMap | None = None) -> Array:
        """θ (..., size) from the values of all parameters, which share their leading axes, or have none.

        ``into``: without the parameters that this map does not depend on, which so has no tangent of theirs.
        """
        lead = np.broadcast_shapes(
            *(
                value.shape[: value.ndim - len(slot.shape)]
                for value, slot in zip(values, self.slots, strict=True)
            )
        )
        theta = jnp.zeros((*lead, self.size), dtype).at[..., -1].set(1.0)
        for value, slot in zip(values, self.slots, strict=True):
            places = [
                (place, log)
                for place, log in slot.places
                if into is None or into.depends_on(place.start, place.stop)
            ]
            if not places:
                continue
            own = value.shape[: value.ndim - len(slot.shape)]
            # column by column, as CVXPY has it
            axes = tuple(range(len(own))) + tuple(range(value.ndim - 1, len(own) - 1, -1))
            flat = jnp.transpose(value.astype(dtype), axes).reshape(*own, int(np.prod(slot.shape)))
            # both halves count the same, so that gradients are symmetric too
            flat = (flat[..., slot.entries] + flat[..., slot.mirrored]) / 2
            for place, log in places:
                theta = theta.at[..., place].set(jnp.log(flat) if log else flat)
        return theta
