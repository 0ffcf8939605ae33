"""Gradient descent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from ..contract import Algorithm, Scalar, StepBound, at, called, floats, positive
from .curvature import largest_curvature


@dataclass(frozen=True, eq=False)
class GradientDescent(Algorithm):
    """x⁺ = x − γ ∇f(x, θ)."""

    smooth: Callable[..., Any]
    size: Scalar
    name: str = "gradient_descent"

    def init(self, x0: Any, theta: Any) -> Any:
        return floats(x0, self.name)

    def step(self, state: Any, theta: Any) -> Any:
        size = at(self.size, theta)
        return jax.tree.map(lambda x, g: x - size * g, state, jax.grad(self.smooth)(state, theta))

    def residual(self, y: Any, theta: Any) -> Any:
        return jax.grad(self.smooth)(y, theta)

    def step_bounds(self, x0: Any, theta: Any) -> tuple[StepBound, ...]:
        L = largest_curvature(self.smooth, floats(x0, self.name), theta)
        return (StepBound("step", float(at(self.size, theta)), 2 / L, "2/L"),)


def gradient_descent(smooth: Callable[..., Any], step: Scalar) -> Algorithm:
    """min_x f(x, θ) by x⁺ = x − γ ∇f(x, θ).

    Args:
        smooth: f(x, θ), a number; differentiated by JAX.
        step: γ, a positive number or a function of θ; below 2/L where ∇f is L-Lipschitz.

    Returns:
        An Algorithm; its state and output are x, its residual ∇f.

    Raises:
        InvalidInputError: the step is not positive.

    Source: Cauchy 1847; Polyak, Introduction to Optimization (1987), Section 1.4.

    >>> import conservax as cx
    >>> alg = cx.iterates.gradient_descent(lambda x, t: (x - t) ** 2 / 2, 0.5)
    >>> round(float(cx.iterates.implicit(alg)(0.0, 3.0)), 4)
    3.0
    """
    return GradientDescent(
        called(smooth, "smooth", "gradient_descent"), positive(step, "step", "gradient_descent")
    )
