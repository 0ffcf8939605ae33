"""The solution map of the host engine: a call to solve, and its derivative, a linear call."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.interpreters import ad

from ...arrays.namespace import Array
from ...calculus.implicit_node import NAME, node_p
from ...cones.spectrum import apply_element, spectrum
from ...cones.table import Cones
from ...solvers.equilibrate import Scaling
from ...solvers.matrices import SparseMatrix
from ..equations import host_node
from . import calls as host_calls
from .calls import Form, Slot
from .leads import broadcast, lead_of
from .primitives import LinearCall, Shape, host_primitive, of_jax, stands_still, zero_tangent


class HostOutcome(NamedTuple):
    """As ``ProgramSolution`` and ``ProgramInfo``, with leading axes, and a ticket for the derivative.

    ``verdict``, ``margin``: None where nobody is told.
    """

    x: Array
    y: Array
    s: Array
    status: Array
    iterations: Array
    primal_residual: Array
    dual_residual: Array
    gap: Array
    solver: Array
    ticket: Array
    verdict: Array | None = None
    margin: Array | None = None


@functools.lru_cache(maxsize=256)
def host_solution_map(form: Form) -> Callable[..., HostOutcome]:
    """The leaves of P, c, A, b ↦ HostOutcome; differentiable in all four any number of times."""
    call = ProgramCall(form)
    node = host_node(form.parts, form.cones, form.settings.auxiliary)

    def find(*leaves: Array) -> HostOutcome:
        # a call of its own, which XLA leaves out where nobody asks for the verdict
        outcome = HostOutcome(*solve_p.bind(*leaves, form=form))
        solution = outcome.x, outcome.y, outcome.s
        verdict, margin = verdict_p.bind(*leaves, *solution, outcome.ticket, form=form)
        x, y, s = node_p.bind(*solution, *leaves, node=node, leaves=3)
        return outcome._replace(x=x, y=y, s=s, verdict=verdict, margin=margin)

    find.__name__ = find.__qualname__ = NAME
    solved = jax.custom_jvp(find)

    def derivative(primals: Any, tangents: Any) -> tuple[HostOutcome, HostOutcome]:
        outcome = solved(*primals)
        values = form.values(tangents)
        moving = tuple(not isinstance(part, SymbolicZero) for part in values)
        blank = HostOutcome(*map(zero_tangent, outcome))
        if not any(moving):
            return outcome, blank
        own = [part for part, on in zip(values, moving, strict=True) if on]
        dx, dy, ds = call.bind(moving, *own, *primals, *outcome[:3], outcome.ticket)
        return outcome, blank._replace(x=dx, y=dy, s=ds)

    solved.defjvp(derivative, symbolic_zeros=True)
    return lambda *leaves: solved(*map(of_jax, leaves))


def solve_now(form: Form, *leaves: np.ndarray) -> HostOutcome:
    """The same for NumPy's arrays, where nobody differentiates: no ticket."""
    if 0 in form.lead(leaves):
        found = solve_p.bind(*leaves, form=form)
        return HostOutcome(*found, *verdict_p.bind(*leaves, *found[:3], found[-1], form=form))
    return at_once(jax.device_put(host_calls.solve_once(form, True, *leaves)))


def at_once(found: Any) -> HostOutcome:
    """Of ``solve_once``."""
    nothing = np.zeros((*found[3].shape, 0), np.int32)
    return HostOutcome._make((*found[:9], nothing, *(found[9:] or (None, None))))


@dataclass(frozen=True)
class ProgramCall(LinearCall):
    """(dP, dc, dA, db) ↦ (dx, dy, ds) at the leaves of P, c, A, b, a solution and its ticket."""

    form: Form

    @property
    def tangent_cores(self) -> tuple[int, ...]:
        return (1 if self.form.P_shape else 2, 1, 1 if self.form.A_shape else 2, 1)

    @property
    def place_cores(self) -> tuple[int, ...]:
        return (*self.form.cores, 1, 1, 1, 1)

    def results(self, place: Any) -> tuple[Shape, ...]:
        dtype = np.dtype(self.form.dtype)
        return tuple(Shape(part.shape[-1:], dtype) for part in place[-4:-1])

    def forward(self, moving: tuple[bool, ...], *args: np.ndarray) -> tuple[np.ndarray, ...]:
        return host_calls.derivative(self.form, moving, *args)

    def backward(
        self, moving: tuple[bool, ...], slots: tuple[Slot, ...], *args: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        return host_calls.transposed(self.form, moving, slots, *args)

    def differentiable(self, place: Any) -> list[Any]:
        P, _, A, _ = self.form.values(place[:-4])
        return [P, A, *place[-4:-1]]

    def moved(
        self, moving: tuple[bool, ...], tangents: Any, place: Any, changes: Any, found: Any
    ) -> list[Array]:
        """With w = V̇ dv, P ẋ' + Aᵀẏ' = −(dP ẋ + dAᵀẏ + Ṗ dx + Ȧᵀdy) and A ẋ' + ṡ' = −(dA ẋ + Ȧ dx)

        are met by the map itself, once w is added to ẏ' and ṡ'.
        """
        form = self.form
        P, _, A, _ = form.parts(place[:-4])
        P_dot, A_dot, x_dot, y_dot, s_dot = (
            None if isinstance(part, ad.Zero) else part for part in self.differentiable(changes)
        )
        column, row, cost, d, verdict, *basis = pieces_p.bind(*place, form=form)
        own = iter(tangents)
        dP, _, dA, _ = (next(own) if on else None for on in moving)
        dx, dy, ds = found
        # of what is not unique one of many was taken, which would count here
        refuted = jnp.where(verdict < 0, jnp.nan, 1.0).astype(dx.dtype)[..., None]
        upper: list[Array] = []
        lower: list[Array] = []
        if dP is not None and x_dot is not None:
            upper.append(_symmetric_product(P, dP, x_dot))
        if dA is not None and y_dot is not None:
            upper.append(_product(A, dA, y_dot, transposed=True))
        if dA is not None and x_dot is not None:
            lower.append(_product(A, dA, x_dot))
        if P_dot is not None:
            upper.append(refuted * _symmetric_product(P, P_dot, dx))
        if A_dot is not None:
            upper.append(refuted * _product(A, A_dot, dy, transposed=True))
            lower.append(refuted * _product(A, A_dot, dx))
        of_dual = of_slack = None
        if not form.cones.polyhedral and (y_dot is not None or s_dot is not None):
            scaling, point = Scaling(column, row, cost), place[-4:-1]
            w = _turned(form.cones, scaling, basis, d, point, (y_dot, s_dot), (dy, ds))
            # w in units of the dual, and of the slack
            of_dual, of_slack = row / cost[..., None] * w, w / row
            upper.append(_product(A, form.values(place[:-4])[2], of_dual, transposed=True))
            lower.append(of_slack)
        moves = bool(upper), bool(lower)
        if not any(moves):
            return [jnp.zeros_like(part) for part in found]
        sides = [*([sum(upper[1:], upper[0])] if upper else [])]
        sides += [-sum(lower[1:], lower[0])] if lower else []
        dx, dy, ds = self.bind((False, moves[0], False, moves[1]), *sides, *place)
        if of_dual is not None and of_slack is not None:
            dy, ds = dy + of_dual, ds + of_slack
        return [dx, dy, ds]


def _solve_shapes(*leaves: Any, form: Form) -> tuple[Shape, ...]:
    lead = form.lead(leaves)
    _, c, _, b = form.parts(leaves)
    n, m, dtype = c.shape[-1], b.shape[-1], np.dtype(form.dtype)
    return solution_shapes(lead, n, m, dtype)


def solution_shapes(lead: tuple[int, ...], n: int, m: int, dtype: np.dtype) -> tuple[Shape, ...]:
    """Of what ``host_calls.solve`` finds."""
    kinds = (dtype,) * 3 + (np.int8, np.int32) + (dtype,) * 3 + (np.int8, np.int32)
    sizes: list[tuple[int, ...]] = [(n,), (m,), (m,), *[()] * 6, (3,)]
    return tuple(Shape((*lead, *size), kind) for size, kind in zip(sizes, kinds, strict=True))


def verdict_shapes(*args: Any, form: Form) -> tuple[Shape, ...]:
    """Of verdict and margin."""
    lead = lead_of(args[-4].shape, 1)
    return Shape(lead, np.int8), Shape(lead, np.dtype(form.dtype))


def _pieces_shapes(*args: Any, form: Form) -> tuple[Shape, ...]:
    x, y = args[-4], args[-3]
    lead, n, m = lead_of(x.shape, 1), x.shape[-1], y.shape[-1]
    dtype = np.dtype(form.dtype)
    v = jax.ShapeDtypeStruct((1, m), dtype)
    basis = jax.eval_shape(lambda v: spectrum(v, None, form.cones).basis, v)
    own = [part.shape[1:] for part in jax.tree.leaves(basis)]
    kinds = [dtype, dtype, dtype, dtype, np.dtype(np.int8)] + [dtype] * len(own)
    sizes = [(n,), (m,), (), (m,), (), *own]
    return tuple(Shape((*lead, *s), kind) for s, kind in zip(sizes, kinds, strict=True))


solve_p = host_primitive(
    "conservax.program",
    lambda *leaves, form: host_calls.solve(form, *leaves),
    _solve_shapes,
    lambda *, form: form.cores,
)
verdict_p = host_primitive(
    "conservax.program_verdict",
    lambda *args, form: host_calls.verdict(form, *args),
    verdict_shapes,
    lambda *, form: (*form.cores, 1, 1, 1, 1),
)
# scaling, d, verdict and basis, at a place
pieces_p = host_primitive(
    "conservax.program_pieces",
    lambda *args, form: host_calls.pieces(form, *args),
    _pieces_shapes,
    lambda *, form: (*form.cores, 1, 1, 1, 1),
)
stands_still(pieces_p)
stands_still(verdict_p)


def _product(like: Any, values: Array, vector: Array, transposed: bool = False) -> Array:
    """M v or Mᵀ v for values with leading axes, laid out like a given matrix."""
    if not isinstance(like, SparseMatrix):
        return jnp.einsum("...ij,...i->...j" if transposed else "...ij,...j->...i", values, vector)
    rows, columns, count = like.rows, like.columns, like.shape[0]
    if transposed:
        rows, columns, count = columns, rows, like.shape[1]
    terms = values * vector[..., columns]
    return jnp.zeros((*terms.shape[:-1], count), terms.dtype).at[..., rows].add(terms)


def _symmetric_product(like: Any, values: Array, vector: Array) -> Array:
    return (_product(like, values, vector) + _product(like, values, vector, transposed=True)) / 2


def _turned(
    cones: Cones,
    scaling: Scaling,
    basis: Any,
    d: Array,
    point: Any,
    moved: tuple[Array | None, Array | None],
    changes: tuple[Array, Array],
) -> Array:
    """w = V̇ dv in equilibrated units, where v = ŷ − ŝ moves; V's own pieces stand still."""
    row, cost = scaling.row, scaling.cost[..., None]

    def in_units(y: Array | None, s: Array | None) -> Any:
        y_part = 0.0 if y is None else cost * y / row
        return y_part - (0.0 if s is None else row * s)

    _, y, s = point
    v, v_dot, dv = in_units(y, s), in_units(*moved), in_units(*changes)
    lead = broadcast(*(lead_of(part.shape, 1) for part in (v, v_dot, dv)))
    rows = v.shape[-1]

    def flat(part: Array) -> Array:
        return jnp.broadcast_to(part, (*lead, rows)).reshape(-1, rows)

    flat_dv = flat(dv)

    def apply(v: Array) -> Array:
        here = spectrum(v, None, cones)
        return apply_element(here.basis, here.low, flat_dv, cones)

    _, w = jax.jvp(apply, (flat(v),), (flat(v_dot),))
    return w.reshape(*lead, rows)
