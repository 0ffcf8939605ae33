"""The curvature L that bounds the step sizes of gradient methods, found when one failed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

_STEPS = 50


def largest_curvature(smooth: Callable[..., Any], x: Any, theta: Any) -> float:
    """|λ|_max of ∇²f(x, θ), by the power method: a lower bound of the Lipschitz constant of ∇f."""
    flat, unravel = ravel_pytree(x)

    def gradient(flat: jax.Array) -> jax.Array:
        return ravel_pytree(jax.grad(smooth)(unravel(flat), theta))[0]

    def power(_: Any, v: jax.Array) -> jax.Array:
        image = jax.jvp(gradient, (flat,), (v,))[1]
        return image / jnp.maximum(jnp.linalg.norm(image), jnp.finfo(flat.dtype).tiny)

    v = jnp.cos(jnp.arange(flat.size, dtype=flat.dtype))
    v = jax.lax.fori_loop(0, _STEPS, power, v / jnp.linalg.norm(v))
    return float(jnp.linalg.norm(jax.jvp(gradient, (flat,), (v,))[1]))
