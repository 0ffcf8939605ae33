"""Accelerated forward–backward splitting, FISTA."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..contract import Algorithm, Scalar, StepBound, at, called, floats, positive
from .curvature import largest_curvature

_LATE = 1 << 30  # a count of steps after which the momentum is 1


class FistaState(NamedTuple):
    """x, the x before, and the number of steps."""

    x: Any
    before: Any
    taken: jax.Array


@dataclass(frozen=True, eq=False)
class Fista(Algorithm):
    """x⁺ = prox_{γg}(v − γ ∇f(v, θ)) with v = x + k/(k + 4) (x − x₋)."""

    smooth: Callable[..., Any]
    prox: Callable[..., Any]
    size: Scalar
    name: str = "fista"

    def init(self, x0: Any, theta: Any) -> FistaState:
        x0 = floats(x0, self.name)
        return FistaState(x0, x0, jnp.zeros((), jnp.int32))

    def step(self, state: FistaState, theta: Any) -> FistaState:
        def extrapolated(x: jax.Array, before: jax.Array) -> jax.Array:
            k = state.taken.astype(x.dtype)
            return x + k / (k + 4) * (x - before)

        v = jax.tree.map(extrapolated, state.x, state.before)
        return FistaState(self._forward_backward(v, theta), state.x, state.taken + 1)

    def point(self, state: FistaState) -> Any:
        return state.x

    def rest(self, y: Any) -> FistaState:
        return FistaState(y, y, jnp.full((), _LATE, jnp.int32))

    def residual(self, y: Any, theta: Any) -> Any:
        return jax.tree.map(lambda a, b: a - b, y, self._forward_backward(y, theta))

    def solution(self, y: Any, theta: Any, **linear: Any) -> Any:
        # where the prox returns zeros its rows are those of the identity
        return super().solution(y, theta, **{"structure": "coupled", **linear})

    def step_bounds(self, x0: Any, theta: Any) -> tuple[StepBound, ...]:
        L = largest_curvature(self.smooth, floats(x0, self.name), theta)
        # beyond 1/L the proof ends, beyond 4/(3 L) the iteration diverges on quadratics
        return (StepBound("step", float(at(self.size, theta)), 1 / L, "1/L"),)

    def _forward_backward(self, v: Any, theta: Any) -> Any:
        size = at(self.size, theta)
        slope = jax.grad(self.smooth)(v, theta)
        return self.prox(jax.tree.map(lambda x, g: x - size * g, v, slope), theta, size)


def fista(smooth: Callable[..., Any], prox: Callable[..., Any], step: Scalar) -> Algorithm:
    """min_x f(x, θ) + g(x, θ) by forward–backward steps from extrapolated points.

    v = x + k/(k + 4) (x − x₋),    x⁺ = prox_{γg}(v − γ ∇f(v, θ)).

    Args:
        smooth: f(x, θ), a number; differentiated by JAX.
        prox: prox(v, θ, γ) = argmin_x γ g(x, θ) + ½‖x − v‖².
        step: γ, a positive number or a function of θ; at most 1/L.

    Returns:
        An Algorithm with state (x, x₋, k) and output x; the residual is that of forward–backward.

    Raises:
        InvalidInputError: the step is not positive.

    Source: Beck, Teboulle (2009); the momentum is that of Chambolle, Dossal, On the convergence of the
    iterates of FISTA (2015), with a = 3.

    >>> import conservax as cx
    >>> alg = cx.iterates.fista(
    ...     lambda x, t: (x - 3) ** 2 / 2,
    ...     lambda v, t, step: cx.proximal.prox_lasso(v, t, step),
    ...     0.5,
    ... )
    >>> round(float(cx.iterates.implicit(alg)(0.0, 1.0)), 4)
    2.0
    """
    return Fista(
        called(smooth, "smooth", "fista"),
        called(prox, "prox", "fista"),
        positive(step, "step", "fista"),
    )
