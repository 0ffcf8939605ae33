"""Sizes: the magnitude of the terms that made a value, against which a kink is measured.

τ S(v) bounds how far v moves when each term that made it moves by τ relative, τ being the tolerance
within which kinks count as active. S is at least |v|, larger after a cancellation, finite wherever v is,
and 0 where v is infinite: an infinity is exact. A term that is multiplied by zero, or loses a maximum
by more than it may move, has no say (docs/theory.md#sizes).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ..tracing.smooth import STRUCTURAL, UNARY

_SUMS = {
    "reduce_sum", "reduce_window_sum", "psum", "cumsum", "scatter-add", "scatter_add", "pad", "scatter",
    "dynamic_update_slice", "split",
}  # fmt: skip
_ELEMENTWISE_ADD = {"add", "sub", "add_any"}
_BILINEAR = {"mul", "dot_general", "conv_general_dilated"}
_OF_TWO = {"pow", "atan2"}
# Increasing functions that saturate or grow beyond their slope: the difference at x ± τ S counts.
_MONOTONE = {"exp", "exp2", "expm1", "logistic", "tanh", "sinh", "erf", "erfc", "atan", "asinh"}
_WAVES = {"sin", "cos"}


def size_of(value: Any, size: Any) -> Any:
    """The recorded size of a value; its absolute value, 0 for an infinite one, if nothing was recorded."""
    if size is not None:
        return jnp.asarray(size, jnp.result_type(value))
    return jnp.where(jnp.isinf(value), 0, jnp.abs(value))


def settled(value: Any, size: Any) -> Any:
    """A size made finite wherever the value is, at least its absolute value, and 0 where it is not."""
    size, least = jnp.asarray(size, value.dtype), jnp.abs(value)
    finite = jnp.minimum(size, jnp.finfo(value.dtype).max)
    size = jnp.where(size > least, finite, least)  # NaN is larger than nothing
    return jnp.where(jnp.isfinite(value), size, 0)


def of_monotone(
    run: Callable[..., Any], values: Sequence[Any], sizes: Sequence[Any], out: Any, tau: Any
) -> Any:
    """The size of an increasing function of all operands, exactly: from its values at v ± τ S(v)."""
    above, below = (
        run(*[(v + sign * tau * s).astype(v.dtype) for v, s in zip(values, sizes, strict=True)])
        for sign in (1, -1)
    )
    return settled(out, jnp.maximum(above - out, out - below) / tau)


def sizes_after(
    eqn: Any,
    values: Sequence[Any],
    sizes: Sequence[Any],
    outs: Sequence[Any],
    bind: Callable[..., Any],
    tau: Any,
) -> list[Any]:
    """Sizes of the outputs of a smooth equation, given its inputs, their sizes and its outputs."""
    name = eqn.primitive.name
    if not all(jnp.issubdtype(jnp.result_type(o), jnp.floating) for o in outs):
        return [None] * len(outs)
    floats = [jnp.issubdtype(jnp.result_type(v), jnp.floating) for v in values]
    full = [size_of(v, s) if f else v for v, s, f in zip(values, sizes, floats, strict=True)]
    if name in STRUCTURAL or name in _SUMS or name == "select_n":
        made = bind(*full)
    elif name in _ELEMENTWISE_ADD:
        made = [full[0] + full[1]]
    elif name in _BILINEAR:
        u, v = (_finite(x) for x in values)
        made = [a + b for a, b in zip(bind(full[0], v), bind(u, full[1]), strict=True)]
    elif name == "div":
        made = [full[0] / jnp.abs(values[1]) + jnp.abs(outs[0]) * (full[1] / jnp.abs(values[1]))]
    elif name == "sqrt":
        x = values[0]
        made = [jnp.minimum(full[0] / jnp.sqrt(jnp.where(x > 0, x, 0)), jnp.sqrt(full[0] / tau))]
    elif name in _MONOTONE:
        sign = -1 if name == "erfc" else 1
        made = [of_monotone(lambda x: sign * bind(x)[0], values, full, sign * outs[0], tau)]
    elif name in UNARY:
        made = [jnp.abs(jax.jvp(lambda x: bind(x)[0], (values[0],), (full[0],))[1])]
        if name in _WAVES:  # where the slope vanishes the second order counts
            made = [jnp.minimum(made[0] + tau * full[0] ** 2 / 2, full[0])]
        if name == "square" or eqn.params.get("y", -1) > 0:
            made = [jnp.maximum(made[0], bind((tau * full[0]).astype(full[0].dtype))[0] / tau)]
    elif name in _OF_TWO and all(floats):
        slopes = [
            jax.jvp(lambda *v: bind(*v)[0], tuple(values), tuple(direction))[1]
            for direction in (
                (full[0], jnp.zeros_like(values[1])),
                (jnp.zeros_like(values[0]), full[1]),
            )
        ]
        made = [jnp.abs(slopes[0]) + jnp.abs(slopes[1])]
    else:  # every output entry may have been made from the largest one, and lost what an operand has
        lost = jnp.ones((), outs[0].dtype)
        for v, s, f in zip(values, full, floats, strict=True):
            if f and jnp.size(v):
                largest = jnp.max(_finite(v))
                lost = jnp.maximum(lost, jnp.max(s) / jnp.where(largest > 0, largest, 1))
        made = [
            jnp.broadcast_to(jnp.max(jnp.abs(o), initial=0.0) * lost.astype(o.dtype), o.shape)
            for o in outs
        ]
    return [settled(o, m) for o, m in zip(outs, made, strict=True)]


def _finite(x: Any) -> Any:
    """|x|, and 0 in place of an infinity: among sizes 0 · ∞ is 0."""
    return jnp.where(jnp.isinf(x), 0, jnp.abs(x))
