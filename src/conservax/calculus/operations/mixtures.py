"""Values with the derivative of another, and mixtures of the two sides of a kink."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def difference(u: Any, v: Any) -> Any:
    """u − v, the increment of a kink; equal infinities are exact and tie with nothing."""
    return jnp.where(jnp.isinf(u) & (u == v), jnp.inf, u - v)


@jax.custom_jvp
def _carrying(value: jax.Array, tangent_carrier: jax.Array) -> jax.Array:
    del tangent_carrier
    return value


@_carrying.defjvp
def _carrying_jvp(primals: Any, tangents: Any) -> Any:
    # the derivative of the rule is the rule again: second derivatives see the same selection
    return _carrying(*primals), tangents[1]


@functools.partial(jax.jit, inline=True)  # traced once a shape: tracing is what users feel first
def carrying(value: jax.Array, tangent_carrier: jax.Array) -> jax.Array:
    """``value``, exactly, with the derivative of ``tangent_carrier``."""
    return _carrying(value, tangent_carrier)


def mix(q: Any, upper: Any, lower: Any) -> Any:
    """``lower + q (upper − lower)``, exact at q = 0 and 1 so that an unused branch cannot leak NaN."""
    if q.dtype == bool:
        shape = jnp.shape(q)
        return lax.select(q, spread(upper, shape), spread(lower, shape))
    between = lower + q * (upper - lower)
    return jnp.where(q == 1, upper, jnp.where(q == 0, lower, between))


def cut(p: Any, jump: float, r: Any) -> Any:
    """p + jump · r; p itself where the pass injects nothing, r being the float 0.0 then."""
    return p if isinstance(r, float) else p + jump * r


def spread(x: Any, shape: tuple[int, ...]) -> Any:
    """``x`` in a shape; ``x`` itself where it has it."""
    return x if jnp.shape(x) == shape else jnp.broadcast_to(x, shape)


def weigh(weights: Any, u: Any) -> Any:
    """Entries times weights, in which a weight 0 silences even an infinite entry (a masked maximum)."""
    return jnp.where(weights == 0, 0, weights * u)
