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


# name: (expansion, JAX's choice at a tie)
EXPANSIONS: dict[str, tuple[Expansion, str]] = {
    "cummax": (_cumulative(jnp.maximum), "balanced"),
    "cummin": (_cumulative(jnp.minimum), "balanced"),
    "reduce_window_max": (_window(jnp.max, -jnp.inf), "first"),
    "reduce_window_min": (_window(jnp.min, jnp.inf), "first"),
    "top_k": (_top_k, "balanced"),
    "complex_abs": (_complex_abs, "balanced"),
}
