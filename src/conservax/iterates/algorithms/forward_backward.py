"""Forward–backward splitting (proximal gradient)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from ..contract import Algorithm, Scalar, StepBound, at, called, floats, positive
from .curvature import largest_curvature


@dataclass(frozen=True, eq=False)
class ForwardBackward(Algorithm):
    """x⁺ = prox_{γg}(x − γ ∇f(x, θ))."""

    smooth: Callable[..., Any]
    prox: Callable[..., Any]
    size: Scalar
    name: str = "forward_backward"

    def init(self, x0: Any, theta: Any) -> Any:
        return floats(x0, self.name)

    def step(self, state: Any, theta: Any) -> Any:
        size = at(self.size, theta)
        slope = jax.grad(self.smooth)(state, theta)
        return self.prox(jax.tree.map(lambda x, g: x - size * g, state, slope), theta, size)

    def solution(self, y: Any, theta: Any, **linear: Any) -> Any:
        # where the prox returns zeros its rows are those of the identity
        return super().solution(y, theta, **{"structure": "coupled", **linear})

    def step_bounds(self, x0: Any, theta: Any) -> tuple[StepBound, ...]:
        L = largest_curvature(self.smooth, floats(x0, self.name), theta)
        return (StepBound("step", float(at(self.size, theta)), 2 / L, "2/L"),)


def forward_backward(
    smooth: Callable[..., Any], prox: Callable[..., Any], step: Scalar
) -> Algorithm:
    """min_x f(x, θ) + g(x, θ) by x⁺ = prox_{γg}(x − γ ∇f(x, θ)).

    Args:
        smooth: f(x, θ), a number; differentiated by JAX.
        prox: prox(v, θ, γ) = argmin_x γ g(x, θ) + ½‖x − v‖², such as a function of ``cx.proximal``.
        step: γ, a positive number or a function of θ; below 2/L where ∇f is L-Lipschitz.

    Returns:
        An Algorithm; its state and output are x, its residual x − x⁺.

    Raises:
        InvalidInputError: the step is not positive.

    Source: Combettes, Wajs, Signal recovery by proximal forward-backward splitting (2005).

    >>> import conservax as cx
    >>> alg = cx.iterates.forward_backward(
    ...     lambda x, t: (x - 3) ** 2 / 2,
    ...     lambda v, t, step: cx.proximal.prox_lasso(v, t, step),
    ...     0.5,
    ... )
    >>> round(float(cx.iterates.implicit(alg)(0.0, 1.0)), 4)
    2.0
    """
    return ForwardBackward(
        called(smooth, "smooth", "forward_backward"),
        called(prox, "prox", "forward_backward"),
        positive(step, "step", "forward_backward"),
    )
