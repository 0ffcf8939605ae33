"""Newton's method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from ..contract import Algorithm, called, floats


@dataclass(frozen=True, eq=False)
class Newton(Algorithm):
    """x⁺ = x − ∇²f(x, θ)⁻¹ ∇f(x, θ)."""

    smooth: Callable[..., Any]
    name: str = "newton"

    def init(self, x0: Any, theta: Any) -> Any:
        return floats(x0, self.name)

    def step(self, state: Any, theta: Any) -> Any:
        flat, unravel = ravel_pytree(state)

        def gradient(flat: jax.Array) -> jax.Array:
            return ravel_pytree(jax.grad(self.smooth)(unravel(flat), theta))[0]

        slope, apply = jax.linearize(gradient, flat)
        hessian = jax.vmap(apply)(jnp.eye(flat.size, dtype=flat.dtype))
        return unravel(flat - jnp.linalg.solve(hessian, slope))

    def residual(self, y: Any, theta: Any) -> Any:
        return jax.grad(self.smooth)(y, theta)


def newton(smooth: Callable[..., Any]) -> Algorithm:
    """min_x f(x, θ), or a critical point, by x⁺ = x − ∇²f(x, θ)⁻¹ ∇f(x, θ).

    Its derivative in x vanishes at the solution, so that one step gives the derivative: ``one_step``.

    Args:
        smooth: f(x, θ), a number; differentiated by JAX twice.

    Returns:
        An Algorithm; its state and output are x, its residual ∇f.

    Source: Bolte, Pauwels, Vaiter (NeurIPS 2023), Section 2.2, for its derivatives.

    >>> import jax.numpy as jnp, conservax as cx
    >>> alg = cx.iterates.newton(lambda x, t: jnp.exp(x) - t * x)
    >>> round(float(cx.iterates.implicit(alg)(0.0, 2.0)), 4)
    0.6931
    """
    return Newton(called(smooth, "smooth", "newton"))
