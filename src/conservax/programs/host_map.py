"""The solution map of the host engine as JAX sees it: a call to solve, and its derivative, a linear call.

Called eagerly both run NumPy and compile nothing; inside jit each is one callback, which XLA compiles in
no time. The derivative is a primitive that is linear in the tangents, its transpose another one; both
are differentiated again by the rule at the end of this file, so that every order and mode is there.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from ..errors import UnsupportedOperationError
from ..solvers.callback import call_on_host
from ..solvers.cones import Array, Cones
from ..solvers.equilibrate import Scaling
from ..solvers.matrices import SparseMatrix
from . import host_calls
from .host_calls import Form, Slot
from .host_leads import aligned, broadcast, lead_of
from .spectrum import apply_element, spectrum

_SHAPE = jax.ShapeDtypeStruct


class HostOutcome(NamedTuple):
    """As ``ProgramSolution`` and ``ProgramInfo``, with leading axes, and a ticket for the derivative."""

    x: Array
    y: Array
    s: Array
    status: Array
    iterations: Array
    primal_residual: Array
    dual_residual: Array
    gap: Array
    verdict: Array
    margin: Array
    solver: Array
    ticket: Array


@functools.lru_cache(maxsize=256)
def host_solution_map(form: Form) -> Callable[..., HostOutcome]:
    """The leaves of P, c, A, b ↦ HostOutcome; differentiable in all four any number of times."""

    @jax.custom_jvp
    def solved(*leaves: Array) -> HostOutcome:
        return HostOutcome(*solve_p.bind(*leaves, form=form))

    def derivative(primals: Any, tangents: Any) -> tuple[HostOutcome, HostOutcome]:
        outcome = solved(*primals)
        values = form.values(tangents)
        moving = tuple(not isinstance(part, SymbolicZero) for part in values)
        blank = HostOutcome(*map(_zero, outcome))
        if not any(moving):
            return outcome, blank
        own = [part for part, on in zip(values, moving, strict=True) if on]
        dx, dy, ds = derivative_p.bind(
            *own, *primals, *outcome[:3], outcome.ticket, form=form, moving=moving
        )
        return outcome, blank._replace(x=dx, y=dy, s=ds)

    solved.defjvp(derivative, symbolic_zeros=True)
    return solved


def solve_now(form: Form, *leaves: np.ndarray) -> HostOutcome:
    """The same for NumPy's arrays, where nobody differentiates: no ticket."""
    found = host_calls.solve(form, *leaves, differentiated=False)
    return HostOutcome(*jax.device_put(found), np.zeros((*found[3].shape, 0), np.int32))


def _zero(part: Array) -> np.ndarray:
    """The tangent of what stands still; NumPy's, for XLA would compile a constant."""
    moves = jnp.issubdtype(part.dtype, jnp.floating)
    return np.zeros(part.shape, part.dtype if moves else jax.dtypes.float0)


def _primitive(
    name: str,
    run: Callable[..., Any],
    shapes: Callable[..., tuple[Any, ...]],
    cores: Callable[..., tuple[int, ...]],
) -> Primitive:
    """A call of ``run(*arrays)``, whose operands have leading axes before so many others."""
    primitive = Primitive(name)
    primitive.multiple_results = True

    @primitive.def_impl
    def _(*arrays: Any, **params: Any) -> Any:
        found = run(*map(np.asarray, arrays), **params)
        return jax.device_put(list(found))

    @primitive.def_abstract_eval
    def _(*avals: Any, **params: Any) -> Any:
        return [_aval(shape) for shape in shapes(*avals, **params)]

    def lowered(*arrays: Array, **params: Any) -> tuple[Array, ...]:
        return call_on_host(functools.partial(run, **params), shapes(*arrays, **params), *arrays)

    mlir.register_lowering(primitive, mlir.lower_fun(lowered, multiple_results=True))

    def batched(arrays: Any, dims: Any, **params: Any) -> Any:
        own = cores(**params)
        for dim, core in zip(dims, own, strict=True):
            if core < 0 and dim is not None:
                raise UnsupportedOperationError(
                    "the items of a batch share one pattern: map over the stored entries, with the "
                    "indices held fixed, as in jax.vmap(lambda data: program(…, BCOO((data, indices), …)))."
                )
        plain = [abs(core) for core in own]
        before = [
            array.shape if dim is None else tuple(np.delete(array.shape, dim))
            for array, dim in zip(arrays, dims, strict=True)
        ]
        size = next(a.shape[d] for a, d in zip(arrays, dims, strict=True) if d is not None)
        new = aligned(arrays, dims, plain)
        if "slots" in params:
            leads = [lead_of(s, c) for s, c in zip(before, plain, strict=True) if c > 0]
            rank = len(broadcast(*leads))
            params["slots"] = tuple(_mapped(slot, size, rank) for slot in params["slots"])
        found = primitive.bind(*new, **params)
        return found, [0] * len(found)

    batching.primitive_batchers[primitive] = batched
    return primitive


def _mapped(slot: Slot, size: int, rank: int) -> Slot:
    """With a mapped axis in front."""
    lead = (size, *(1,) * (rank - len(slot.lead)), *slot.lead)
    return Slot(lead, (size, *slot.shape), slot.dtype)


def _aval(shape: Any) -> Any:
    return jax.core.ShapedArray(shape.shape, shape.dtype)


def _solve_shapes(*leaves: Any, form: Form) -> tuple[Any, ...]:
    lead = form.lead(leaves)
    _, c, _, b = form.parts(leaves)
    n, m, dtype = c.shape[-1], b.shape[-1], np.dtype(form.dtype)
    kinds = (dtype,) * 3 + (np.int8, np.int32) + (dtype,) * 3 + (np.int8, dtype, np.int8)
    sizes: list[tuple[int, ...]] = [(n,), (m,), (m,)] + [()] * 8
    found = [_SHAPE((*lead, *size), kind) for size, kind in zip(sizes, kinds, strict=True)]
    return *found, _SHAPE((*lead, 3), np.int32)


def _derivative_shapes(*args: Any, form: Form, moving: tuple[bool, ...]) -> tuple[Any, ...]:
    count = sum(moving)
    cores = _derivative_cores(form=form, moving=moving)
    leads = (lead_of(a.shape, core) for a, core in zip(args, cores, strict=True) if core > 0)
    lead = broadcast(*leads)
    point = args[count:][-4:-1]
    return tuple(_SHAPE((*lead, part.shape[-1]), np.dtype(form.dtype)) for part in point)


def _derivative_cores(*, form: Form, moving: tuple[bool, ...]) -> tuple[int, ...]:
    values = (1 if form.P_shape else 2, 1, 1 if form.A_shape else 2, 1)
    tangents = (core for core, on in zip(values, moving, strict=True) if on)
    return (*tangents, *form.cores, 1, 1, 1, 1)


def _transposed_cores(*, form: Form, **_: Any) -> tuple[int, ...]:
    return (1, 1, 1, *form.cores, 1, 1, 1, 1)


def _transposed_shapes(*_: Any, slots: tuple[Slot, ...], **__: Any) -> tuple[Any, ...]:
    return tuple(_SHAPE(slot.shape, np.dtype(slot.dtype)) for slot in slots)


def _pieces_shapes(*args: Any, form: Form) -> tuple[Any, ...]:
    x, y = args[-4], args[-3]
    lead, n, m = lead_of(x.shape, 1), x.shape[-1], y.shape[-1]
    dtype = np.dtype(form.dtype)
    v = _SHAPE((1, m), dtype)
    basis = jax.eval_shape(lambda v: spectrum(v, None, form.cones).basis, v)
    own = [part.shape[1:] for part in jax.tree.leaves(basis)]
    kinds = [dtype, dtype, dtype, dtype, np.dtype(np.int8)] + [dtype] * len(own)
    sizes = [(n,), (m,), (), (m,), (), *own]
    return tuple(_SHAPE((*lead, *s), kind) for s, kind in zip(sizes, kinds, strict=True))


solve_p = _primitive(
    "conservax.program",
    lambda *leaves, form: host_calls.solve(form, *leaves),
    _solve_shapes,
    lambda *, form: form.cores,
)
derivative_p = _primitive(
    "conservax.program_derivative",
    lambda *args, form, moving: host_calls.derivative(form, moving, *args),
    _derivative_shapes,
    _derivative_cores,
)
transposed_p = _primitive(
    "conservax.program_transposed",
    lambda *args, form, moving, slots: host_calls.transposed(form, moving, slots, *args),
    _transposed_shapes,
    _transposed_cores,
)
pieces_p = _primitive(
    "conservax.program_pieces",
    lambda *args, form: host_calls.pieces(form, *args),
    _pieces_shapes,
    lambda *, form: (*form.cores, 1, 1, 1, 1),
)


def _transpose_of_derivative(bars: Any, *args: Any, form: Form, moving: tuple[bool, ...]) -> Any:
    count = sum(moving)
    rest = args[count:]
    point = rest[-4:-1]
    cores = _derivative_cores(form=form, moving=moving)[:count]
    # what is known of a linear map's arguments is zero
    linear = [ad.is_undefined_primal(arg) for arg in args[:count]]
    names = np.flatnonzero(moving)[np.array(linear, bool)]
    moving = tuple(k in names for k in range(4))
    cores = [core for core, on in zip(cores, linear, strict=True) if on]
    avals = [arg.aval for arg, on in zip(args, linear, strict=False) if on]
    lead = broadcast(
        *(lead_of(aval.shape, core) for aval, core in zip(avals, cores, strict=True)),
        lead_of(point[0].shape, 1),
    )
    full = tuple(
        np.zeros((*lead, part.shape[-1]), part.dtype) if isinstance(bar, ad.Zero) else bar
        for bar, part in zip(bars, point, strict=True)
    )
    slots = []
    for aval, core in zip(avals, cores, strict=True):
        own = lead_of(aval.shape, core)
        padded = (1,) * (len(lead) - len(own)) + own
        slots.append(Slot(padded, aval.shape, np.dtype(aval.dtype).name))
    found = iter(transposed_p.bind(*full, *rest, form=form, moving=moving, slots=tuple(slots)))
    return [*(next(found) if on else None for on in linear), *([None] * len(rest))]


ad.primitive_transposes[derivative_p] = _transpose_of_derivative


def _transpose_of_transposed(
    tangents: Any, *args: Any, form: Form, moving: tuple[bool, ...], slots: tuple[Slot, ...]
) -> Any:
    rest = args[3:]
    own, kept = [], []
    for tangent, slot, k in zip(tangents, slots, np.flatnonzero(moving), strict=True):
        if not isinstance(tangent, ad.Zero):
            core = len(slot.shape) - len(slot.lead)
            own.append(tangent if core >= 0 and tangent.shape == slot.shape else tangent)
            kept.append(int(k))
    if not own:
        return [ad.Zero(arg.aval) if ad.is_undefined_primal(arg) else None for arg in args]
    by_name = tuple(k in kept for k in range(4))
    # leading axes of rank one each, as the slots have them
    cores = _derivative_cores(form=form, moving=by_name)
    lined = [
        jnp.reshape(
            part,
            (*slots[list(np.flatnonzero(moving)).index(k)].lead, *part.shape[part.ndim - core :]),
        )
        for part, k, core in zip(own, kept, cores, strict=False)
    ]
    found = derivative_p.bind(*lined, *rest, form=form, moving=by_name)
    results = []
    for bar, part in zip(args[:3], found, strict=True):
        if not ad.is_undefined_primal(bar):
            results.append(None)
            continue
        results.append(_sum_to(part, bar.aval.shape).astype(bar.aval.dtype))
    return [*results, *([None] * len(rest))]


ad.primitive_transposes[transposed_p] = _transpose_of_transposed


def _sum_to(array: Array, shape: tuple[int, ...]) -> Array:
    """Summed over the axes along which an array of this shape was broadcast."""
    extra = array.ndim - len(shape)
    axes = [*range(extra)]
    axes += [k + extra for k, size in enumerate(shape) if size == 1 and array.shape[k + extra] > 1]
    return jnp.sum(array, axis=tuple(axes)).reshape(shape) if axes else array


def _derive_derivative(primals: Any, tangents: Any, *, form: Form, moving: tuple[bool, ...]) -> Any:
    count = sum(moving)
    found = derivative_p.bind(*primals, form=form, moving=moving)
    terms: list[Any] = []
    own = [not isinstance(t, ad.Zero) for t in tangents[:count]]
    if any(own):
        names = [int(k) for k in np.flatnonzero(moving)]
        by_name = tuple(k in [n for n, on in zip(names, own, strict=True) if on] for k in range(4))
        moved = [t for t, on in zip(tangents[:count], own, strict=True) if on]
        terms.append(derivative_p.bind(*moved, *primals[count:], form=form, moving=by_name))
    if any(not isinstance(t, ad.Zero) for t in _floats(form, tangents[count:])):
        terms.append(
            _moved_place(form, moving, primals[:count], primals[count:], tangents[count:], found)
        )
    if not terms:
        return found, [ad.Zero(jax.typeof(part).to_tangent_aval()) for part in found]
    total = terms[0] if len(terms) == 1 else [a + b for a, b in zip(*terms, strict=True)]
    return found, total


ad.primitive_jvps[derivative_p] = _derive_derivative


def _derive_transposed(
    primals: Any,
    tangents: Any,
    *,
    form: Form,
    moving: tuple[bool, ...],
    slots: tuple[Slot, ...],
) -> Any:
    params = {"form": form, "moving": moving, "slots": slots}
    found = transposed_p.bind(*primals, **params)
    terms: list[Any] = []
    if any(not isinstance(t, ad.Zero) for t in tangents[:3]):
        bars = [
            jnp.zeros_like(p) if isinstance(t, ad.Zero) else t
            for p, t in zip(primals[:3], tangents[:3], strict=True)
        ]
        terms.append(transposed_p.bind(*bars, *primals[3:], **params))
    if any(not isinstance(t, ad.Zero) for t in _floats(form, tangents[3:])):
        # the transpose of how the derivative moves
        def moved(*lined: Array) -> Any:
            own = derivative_p.bind(*lined, *primals[3:], form=form, moving=moving)
            return _moved_place(form, moving, lined, primals[3:], tangents[3:], own)

        cores = _derivative_cores(form=form, moving=moving)
        lined = [
            _SHAPE((*slot.lead, *slot.shape[len(slot.shape) - core :]), np.dtype(slot.dtype))
            for slot, core in zip(slots, cores, strict=False)
        ]
        shapes = jax.eval_shape(moved, *lined)
        bars = [jnp.broadcast_to(bar, s.shape) for bar, s in zip(primals[:3], shapes, strict=True)]
        own = jax.linear_transpose(moved, *lined)(bars)
        terms.append([part.reshape(slot.shape) for part, slot in zip(own, slots, strict=True)])
    if not terms:
        return found, [ad.Zero(jax.typeof(part).to_tangent_aval()) for part in found]
    total = terms[0] if len(terms) == 1 else [a + b for a, b in zip(*terms, strict=True)]
    return found, total


ad.primitive_jvps[transposed_p] = _derive_transposed


def _still_pieces(primals: Any, tangents: Any, *, form: Form) -> Any:
    found = pieces_p.bind(*primals, form=form)
    return found, [ad.Zero(jax.typeof(part).to_tangent_aval()) for part in found]


ad.primitive_jvps[pieces_p] = _still_pieces


def _floats(form: Form, rest: Any) -> list[Any]:
    """Of leaves, point and ticket those that may move a derivative."""
    P, _, A, _ = form.values(rest[:-4])
    return [P, A, *rest[-4:-1]]


def _moved_place(
    form: Form,
    moving: tuple[bool, ...],
    moved: Any,
    rest: Any,
    changes: Any,
    found: Any,
) -> list[Array]:
    """How (dx, dy, ds) = D(dP, dc, dA, db) changes with the place, for fixed dP, dc, dA, db.

    With w = V̇ dv, P ẋ' + Aᵀẏ' = −(dP ẋ + dAᵀẏ + Ṗ dx + Ȧᵀdy) and A ẋ' + ṡ' = −(dA ẋ + Ȧ dx) are met by
    D as well, once w is added to ẏ' and ṡ'.
    """
    P, _, A, _ = form.parts(rest[:-4])
    P_dot, A_dot, x_dot, y_dot, s_dot = (
        None if isinstance(part, ad.Zero) else part for part in _floats(form, changes)
    )
    point, ticket = rest[-4:-1], rest[-1]
    column, row, cost, d, verdict, *basis = pieces_p.bind(*rest, form=form)
    own = iter(moved)
    dP, _, dA, _ = (next(own) if on else None for on in moving)
    dx, dy, ds = found
    refuted = jnp.where(verdict < 0, jnp.nan, 1.0).astype(dx.dtype)[..., None]
    upper: Any = 0.0
    lower: Any = 0.0
    if dP is not None and x_dot is not None:
        upper += _symmetric_product(P, dP, x_dot)
    if dA is not None and y_dot is not None:
        upper += _product(A, dA, y_dot, transposed=True)
    if dA is not None and x_dot is not None:
        lower += _product(A, dA, x_dot)
    # of what is not unique one of many was taken, which would count here
    if P_dot is not None:
        upper += refuted * _symmetric_product(P, P_dot, dx)
    if A_dot is not None:
        upper += refuted * _product(A, A_dot, dy, transposed=True)
        lower += refuted * _product(A, A_dot, dx)
    w: Any = None
    if not form.cones.polyhedral and (y_dot is not None or s_dot is not None):
        scaling = Scaling(column, row, cost)
        w = _turned(form.cones, scaling, basis, d, point, (y_dot, s_dot), (dy, ds))
        # w in units of the dual, and of the slack
        of_dual, of_slack = row / cost[..., None] * w, w / row
        upper += _product(A, _values(A), of_dual, transposed=True)
        lower += of_slack
    if isinstance(upper, float) and isinstance(lower, float):
        return [jnp.zeros_like(part) for part in found]
    moves = not isinstance(upper, float), not isinstance(lower, float)
    own_rhs = [part for part, on in zip((upper, -lower), moves, strict=True) if on]
    along = (False, moves[0], False, moves[1])
    results = derivative_p.bind(*own_rhs, *rest, form=form, moving=along)
    if w is not None:
        results = [results[0], results[1] + of_dual, results[2] + of_slack]
    return list(results)


def _values(matrix: Any) -> Array:
    return matrix.values if isinstance(matrix, SparseMatrix) else matrix


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
