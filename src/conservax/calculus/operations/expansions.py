"""Operations that are programs of simpler ones: planned as what they stand for.

An expansion takes an equation and returns a function of its operands, traced and planned in its
place; JAX's own choice at a tie must come out the same.
"""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core as jex_core

from ..tracing.jaxprs import opened
from .norm import norm

Expansion = Callable[[Any], Callable[..., Any]]


def _cumulative(combine: Callable[[Any, Any], Any]) -> Expansion:
    """JAX differentiates cummax as the associative scan of max; so do we."""

    def expand(eqn: Any) -> Callable[..., Any]:
        params = eqn.params
        return lambda x: lax.associative_scan(
            combine, x, reverse=params["reverse"], axis=params["axis"]
        )

    return expand


def _window(reduce: Callable[..., Any], filler: float) -> Expansion:
    """A windowed maximum is the maximum over shifted strided slices, in the window's row-major order."""

    def expand(eqn: Any) -> Callable[..., Any]:
        p = eqn.params

        def pooled(x: jax.Array) -> jax.Array:
            dilated = [
                (low, high, base - 1)
                for (low, high), base in zip(p["padding"], p["base_dilation"], strict=True)
            ]
            padded = lax.pad(x, jnp.asarray(filler, x.dtype), dilated)
            shape = eqn.outvars[0].aval.shape
            slices = []
            for offsets in itertools.product(*map(range, p["window_dimensions"])):
                start = [o * d for o, d in zip(offsets, p["window_dilation"], strict=True)]
                stop = [
                    s + (n - 1) * k + 1
                    for s, n, k in zip(start, shape, p["window_strides"], strict=True)
                ]
                slices.append(lax.slice(padded, start, stop, p["window_strides"]))
            return reduce(jnp.stack(slices, axis=-1), axis=-1)

        return pooled

    return expand


def _top_k(eqn: Any) -> Callable[..., Any]:
    """The k largest, largest first, the earlier entry first among equals."""
    axis, k = eqn.params["axis"], eqn.params["k"]

    def top(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        order = lax.broadcasted_iota(eqn.outvars[1].aval.dtype, x.shape, axis)
        descending, index = lax.sort((-x, order), dimension=axis, num_keys=1)
        return -lax.slice_in_dim(descending, 0, k, axis=axis), lax.slice_in_dim(
            index, 0, k, axis=axis
        )

    return top


def _complex_abs(eqn: Any) -> Callable[..., Any]:
    """The modulus is the norm of the real and the imaginary part."""
    return lambda z: norm(jnp.stack([z.real, z.imag], axis=-1), axis=-1)


def _complex_sign(eqn: Any) -> Callable[..., Any]:
    """z/|z|, which has no derivative at 0."""
    return lambda z: z / norm(jnp.stack([z.real, z.imag], axis=-1), axis=-1)


def _complex_equality(differ: bool) -> Expansion:
    """Complex numbers are equal where both their parts are."""

    def expand(eqn: Any) -> Callable[..., Any]:
        def compared(u: jax.Array, v: jax.Array) -> jax.Array:
            equal = (u.real == v.real) & (u.imag == v.imag)
            return ~equal if differ else equal

        return compared

    return expand


def _complex_choice(eqn: Any) -> Callable[..., Any]:
    """Complex numbers that a comparison chooses, part by part."""

    def chosen(which: jax.Array, *cases: jax.Array) -> jax.Array:
        parts = [[part(c) for c in cases] for part in (jnp.real, jnp.imag)]
        return lax.complex(*[lax.select_n(which, *p) for p in parts])

    return chosen


def _reduce(eqn: Any) -> Callable[..., Any]:
    """A reduction by an operation of the user's own: of halves, as JAX differentiates it."""
    closed, axes = eqn.params["jaxpr"], eqn.params["dimensions"]
    count = len(eqn.outvars)
    operation = jex_core.jaxpr_as_fun(closed)

    def combine(u: Any, v: Any) -> Any:
        shape = jnp.shape(u[0])
        flat = [jnp.reshape(a, -1) for a in (*u, *v)]
        return [jnp.reshape(a, shape) for a in jax.vmap(operation)(*flat)]

    def reduced(*operands: jax.Array) -> Any:
        values, start = operands[:count], operands[count:]
        kept = [d for d in range(values[0].ndim) if d not in axes]
        shape = [values[0].shape[d] for d in kept]
        rows = [jnp.transpose(a, (*axes, *kept)).reshape(-1, *shape) for a in values]
        while len(rows[0]) > 1:
            half = len(rows[0]) // 2
            paired = combine([a[:half] for a in rows], [a[half : 2 * half] for a in rows])
            rows = [jnp.concatenate([p, a[2 * half :]]) for p, a in zip(paired, rows, strict=True)]
        start = [jnp.broadcast_to(a, shape) for a in start]
        if not len(rows[0]):
            return start
        return combine(start, [a[0] for a in rows])

    return reduced


def _scatter(reduce: Callable[..., Any], filler: float) -> Expansion:
    """A scattered maximum is the maximum over the operand's entry and all updates that land on it.

    One candidate for each pair of an update and an entry: quadratic, and the only way to tell ties.
    """

    def expand(eqn: Any) -> Callable[..., Any]:
        dims, mode = eqn.params["dimension_numbers"], eqn.params["mode"]
        aligned = {*dims.inserted_window_dims, *dims.operand_batching_dims}
        taken = lax.GatherDimensionNumbers(
            offset_dims=dims.update_window_dims,
            collapsed_slice_dims=dims.inserted_window_dims,
            start_index_map=dims.scatter_dims_to_operand_dims,
            operand_batching_dims=dims.operand_batching_dims,
            start_indices_batching_dims=dims.scatter_indices_batching_dims,
        )

        def scattered(operand: jax.Array, indices: jax.Array, updates: jax.Array) -> jax.Array:
            windows = iter(updates.shape[d] for d in dims.update_window_dims)
            sizes = [1 if d in aligned else next(windows) for d in range(operand.ndim)]
            places = jnp.arange(operand.size).reshape(operand.shape)
            target = lax.gather(places, indices, taken, sizes, mode=mode, fill_value=-1)
            lands = target.reshape(-1, 1) == jnp.arange(operand.size)
            landed = jnp.where(lands, updates.reshape(-1, 1), jnp.asarray(filler, updates.dtype))
            candidates = jnp.concatenate([operand.reshape(1, -1), landed])
            return reduce(candidates, axis=0).reshape(operand.shape)

        return scattered

    return expand


def _sort_carrying(eqn: Any) -> Callable[..., Any]:
    """What a sort carries along is gathered in the order of its key."""
    axis, stable = eqn.params["dimension"], eqn.params["is_stable"]

    def sorted_along(key: jax.Array, *carried: jax.Array) -> list[jax.Array]:
        places = lax.broadcasted_iota(jnp.int32, key.shape, axis)
        ordered, order = lax.sort((key, places), dimension=axis, num_keys=1, is_stable=stable)
        if key.ndim == 1:
            return [ordered, *(a[order] for a in carried)]
        return [ordered, *(jnp.take_along_axis(a, order, axis) for a in carried)]

    return sorted_along


def _products_and_sums(eqn: Any) -> Callable[..., Any]:
    """A product of matrices entry by entry, where a comparison decides entries of one."""
    ((left, right), (left_batch, right_batch)) = eqn.params["dimension_numbers"]
    out = eqn.outvars[0].aval

    def arranged(a: jax.Array, batch: Any, summed: Any) -> tuple[jax.Array, int]:
        """Batch axes first, then free ones, then those summed over."""
        free = [d for d in range(a.ndim) if d not in (*batch, *summed)]
        return jnp.transpose(a, (*batch, *free, *summed)), len(free)

    def dot(a: jax.Array, b: jax.Array) -> jax.Array:
        a, a_free = arranged(a.astype(out.dtype), left_batch, left)
        b, b_free = arranged(b.astype(out.dtype), right_batch, right)
        n = len(left_batch)
        a = jnp.expand_dims(a, tuple(range(n + a_free, n + a_free + b_free)))
        b = jnp.expand_dims(b, tuple(range(n, n + a_free)))
        return jnp.sum(a * b, axis=tuple(range(n + a_free + b_free, a.ndim)))

    return dot


def _interp(eqn: Any) -> Callable[..., Any] | None:
    """Linear interpolation: the segment of x, and the change of slope on the far side of its two knots.

    None where the ends are not constant (``left``, ``right``, ``period``): then the call is inlined.
    """
    names = [
        e.primitive.name
        for e in opened(eqn.params["jaxpr"])[0].eqns
        if e.primitive.name in ("lt", "gt") and jnp.issubdtype(e.invars[0].aval.dtype, jnp.floating)
    ]
    if len(eqn.invars) != 3 or sorted(names) != ["gt", "lt"]:
        return None

    def interpolated(x: jax.Array, xp: jax.Array, fp: jax.Array) -> jax.Array:
        knots, at = lax.stop_gradient(xp), lax.stop_gradient(x)
        i = jnp.clip(jnp.searchsorted(knots, at, side="right"), 1, len(xp) - 1)
        width, rise = jnp.diff(xp), jnp.diff(fp)
        slopes = rise / jnp.where(width == 0, 1, width)
        slopes = jnp.concatenate([jnp.zeros_like(fp, shape=1), slopes, jnp.zeros_like(fp, shape=1)])
        before, after = x - xp[i - 1], x - xp[i]
        return (
            (fp[i - 1] + before / width[i - 1] * rise[i - 1])
            + (slopes[i - 1] - slopes[i]) * jnp.where(before < 0, before, 0)
            + (slopes[i + 1] - slopes[i]) * jnp.where(after > 0, after, 0)
        )

    return interpolated


def _hypot(eqn: Any) -> Callable[..., Any]:
    """√(x² + y²), whose body divides by the larger of both."""
    return lambda x, y: norm(jnp.stack(jnp.broadcast_arrays(x, y), axis=-1), axis=-1)


def _heaviside(eqn: Any) -> Callable[..., Any]:
    """One comparison in place of the two in its body, which tie together."""

    def step_of(x: jax.Array, at_zero: jax.Array) -> jax.Array:
        sign = jnp.sign(x)
        return jnp.where(sign == 1, 1, jnp.where(sign == -1, 0, at_zero)).astype(x.dtype)

    return step_of


def _turns(x: jax.Array, y: jax.Array) -> jax.Array:
    """⌊x/y⌋ = (x − m)/y for JAX's remainder m, also where rounding takes x/y to the next integer.

    In operations of lax alone, so that two turns of the same numbers are known to jump together.
    """
    x, y = lax.stop_gradient(x), lax.stop_gradient(y)
    r = lax.rem(x, y)
    other_sign = lax.ne(lax.lt(r, lax.full_like(r, 0)), lax.lt(y, lax.full_like(y, 0)))
    m = lax.select(lax.bitwise_and(other_sign, lax.ne(r, lax.full_like(r, 0))), r + y, r)
    return lax.round((x - m) / y)


def _floor_divide(eqn: Any) -> Callable[..., Any]:
    """The floor of the quotient."""
    dtype = eqn.outvars[0].aval.dtype
    eps = float(jnp.finfo(dtype).eps)

    def turns(x: jax.Array, y: jax.Array) -> jax.Array:
        x, y = jnp.broadcast_arrays(*[lax.convert_element_type(a, dtype) for a in (x, y)])
        q, whole = x / y, _turns(x, y)
        next_one = whole + 1 - 4 * eps * (lax.abs(whole) + 1)
        value = lax.max(whole, lax.min(lax.stop_gradient(q), next_one))
        return lax.floor(q + (value - lax.stop_gradient(q)))

    return turns


def _remainder(eqn: Any) -> Callable[..., Any]:
    """x − y ⌊x/y⌋."""
    turns = _floor_divide(eqn)
    return lambda x, y: x - y * turns(x, y)


# name: (expansion, JAX's choice at a tie)
EXPANSIONS: dict[str, tuple[Expansion, str]] = {
    "cummax": (_cumulative(jnp.maximum), "balanced"),
    "cummin": (_cumulative(jnp.minimum), "balanced"),
    "reduce_window_max": (_window(jnp.max, -jnp.inf), "first"),
    "reduce_window_min": (_window(jnp.min, jnp.inf), "first"),
    "top_k": (_top_k, "balanced"),
    "complex_abs": (_complex_abs, "balanced"),
    "complex_sign": (_complex_sign, "balanced"),
    "complex_eq": (_complex_equality(False), "balanced"),
    "complex_ne": (_complex_equality(True), "balanced"),
    "reduce": (_reduce, "balanced"),
    "scatter-max": (_scatter(jnp.max, -jnp.inf), "balanced"),
    "scatter-min": (_scatter(jnp.min, jnp.inf), "balanced"),
    "sort_carrying": (_sort_carrying, "balanced"),
}
# Where a comparison decides an operand: it stays torn inside.
TORN_EXPANSIONS: dict[str, Expansion] = {
    "dot_general": _products_and_sums,
    "complex_select_n": _complex_choice,
}
# By the second reading, which follows both sides of a floor.
LATE_EXPANSIONS: dict[str, Expansion] = {
    "remainder": _remainder,
    "floor_divide": _floor_divide,
}
# Functions of jax.numpy whose body chooses by integers; None: not in this form.
FUNCTION_EXPANSIONS: dict[str, Callable[[Any], Callable[..., Any] | None]] = {
    "_interp": _interp,
    "hypot": _hypot,
    "heaviside": _heaviside,
}
