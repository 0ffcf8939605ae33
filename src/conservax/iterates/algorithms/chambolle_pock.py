"""The primal–dual method of Chambolle and Pock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..contract import Algorithm, Scalar, StepBound, at, called, floats, linear_map, positive
from .curvature import largest_curvature


class ChambollePockState(NamedTuple):
    """The primal x and the dual y."""

    x: Any
    y: Any


@dataclass(frozen=True, eq=False)
class ChambollePock(Algorithm):
    """x⁺ = prox_{τf}(x − τ Kᵀy);  y⁺ = prox_{σg*}(y + σ K(2x⁺ − x))."""

    prox_f: Callable[..., Any]
    prox_conjugate: Callable[..., Any]
    apply: Callable[..., Any]
    tau: Scalar
    sigma: Scalar
    name: str = "chambolle_pock"

    def init(self, x0: Any, theta: Any) -> ChambollePockState:
        x0 = floats(x0, self.name)
        image = jax.eval_shape(self.apply, x0)
        return ChambollePockState(x0, jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), image))

    def step(self, state: ChambollePockState, theta: Any) -> ChambollePockState:
        tau, sigma = at(self.tau, theta), at(self.sigma, theta)
        (back,) = jax.linear_transpose(self.apply, state.x)(state.y)
        x = self.prox_f(jax.tree.map(lambda x, b: x - tau * b, state.x, back), theta, tau)
        image = self.apply(jax.tree.map(lambda after, x: 2 * after - x, x, state.x))
        moved = jax.tree.map(lambda y, k: y + sigma * k, state.y, image)
        return ChambollePockState(x, self.prox_conjugate(moved, theta, sigma))

    def output(self, y: ChambollePockState, theta: Any) -> Any:
        return y.x

    def step_bounds(self, x0: Any, theta: Any) -> tuple[StepBound, ...]:
        def energy(x: Any, _: Any) -> jax.Array:
            return sum(jnp.sum(k**2) for k in jax.tree.leaves(self.apply(x))) / 2  # pyright: ignore[reportReturnType]

        squared = largest_curvature(energy, floats(x0, self.name), theta)
        product = float(at(self.tau, theta)) * float(at(self.sigma, theta))
        return (StepBound("tau · sigma", product, 1 / squared, "1/‖K‖²"),)


def chambolle_pock(
    prox_f: Callable[..., Any],
    prox_conjugate: Callable[..., Any],
    K: Any,
    tau: Scalar,
    sigma: Scalar,
) -> Algorithm:
    """min_x f(x, θ) + g(K x, θ) by x⁺ = prox_{τf}(x − τ Kᵀy), y⁺ = prox_{σg*}(y + σ K(2x⁺ − x)).

    Args:
        prox_f: prox_f(v, θ, τ), of f. prox_conjugate: prox_conjugate(v, θ, σ), of the conjugate g*.
        K: a matrix (m, n), or a linear function of x.
        tau, sigma: positive numbers or functions of θ with τσ‖K‖² < 1.

    Returns:
        An Algorithm with state (x, y) and output x.

    Raises:
        InvalidInputError: a step is not positive, K neither a matrix nor a function.

    Source: Chambolle, Pock, A first-order primal-dual algorithm for convex problems with applications
    to imaging (2011), Algorithm 1.

    >>> import jax.numpy as jnp, conservax as cx
    >>> alg = cx.iterates.chambolle_pock(
    ...     lambda v, t, step: (v + step * 3) / (1 + step),
    ...     lambda v, t, step: jnp.clip(v, -t, t),
    ...     lambda x: x,
    ...     0.5,
    ...     0.5,
    ... )
    >>> round(float(cx.iterates.implicit(alg)(0.0, 1.0)), 4)
    2.0
    """
    return ChambollePock(
        called(prox_f, "prox_f", "chambolle_pock"),
        called(prox_conjugate, "prox_conjugate", "chambolle_pock"),
        linear_map(K, "K", "chambolle_pock"),
        positive(tau, "tau", "chambolle_pock"),
        positive(sigma, "sigma", "chambolle_pock"),
    )
