"""Polyak's heavy ball."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer

from ...errors import InvalidInputError
from ..contract import Algorithm, Scalar, StepBound, at, called, floats, number_at, positive
from .curvature import largest_curvature


class HeavyBallState(NamedTuple):
    """x and the x before."""

    x: Any
    before: Any


@dataclass(frozen=True, eq=False)
class HeavyBall(Algorithm):
    """x⁺ = x − γ ∇f(x, θ) + β (x − x₋)."""

    smooth: Callable[..., Any]
    size: Scalar
    beta: Scalar
    name: str = "heavy_ball"

    def init(self, x0: Any, theta: Any) -> HeavyBallState:
        x0 = floats(x0, self.name)
        return HeavyBallState(x0, x0)

    def step(self, state: HeavyBallState, theta: Any) -> HeavyBallState:
        size, beta = at(self.size, theta), number_at(self.beta, theta)
        slope = jax.grad(self.smooth)(state.x, theta)
        after = jax.tree.map(
            lambda x, before, g: x - size * g + beta * (x - before), state.x, state.before, slope
        )
        return HeavyBallState(after, state.x)

    def point(self, state: HeavyBallState) -> Any:
        return state.x

    def rest(self, y: Any) -> HeavyBallState:
        return HeavyBallState(y, y)

    def residual(self, y: Any, theta: Any) -> Any:
        return jax.grad(self.smooth)(y, theta)

    def step_bounds(self, x0: Any, theta: Any) -> tuple[StepBound, ...]:
        L = largest_curvature(self.smooth, floats(x0, self.name), theta)
        bound = 2 * (1 + float(number_at(self.beta, theta))) / L
        return (StepBound("step", float(at(self.size, theta)), bound, "2(1 + β)/L"),)


def heavy_ball(smooth: Callable[..., Any], step: Scalar, beta: Scalar) -> Algorithm:
    """min_x f(x, θ) by x⁺ = x − γ ∇f(x, θ) + β (x − x₋), x₋ the iterate before.

    On a function that is C^{1,1} but not C² the iterates may converge while their derivatives do not:
    see ``cx.iterates.check``.

    Args:
        smooth: f(x, θ), a number; differentiated by JAX.
        step: γ, a positive number or a function of θ; below 2(1 + β)/L.
        beta: β in [0, 1), or a function of θ.

    Returns:
        An Algorithm with state (x, x₋), output x and residual ∇f.

    Raises:
        InvalidInputError: the step is not positive, or β outside [0, 1).

    Source: Polyak, Some methods of speeding up the convergence of iteration methods (1964).

    >>> import conservax as cx
    >>> alg = cx.iterates.heavy_ball(lambda x, t: (x - t) ** 2 / 2, 0.5, 0.2)
    >>> round(float(cx.iterates.implicit(alg)(0.0, 3.0)), 4)
    3.0
    """
    return HeavyBall(
        called(smooth, "smooth", "heavy_ball"),
        positive(step, "step", "heavy_ball"),
        _momentum(beta),
    )


def _momentum(beta: Scalar) -> Scalar:
    if callable(beta) or isinstance(beta, Tracer):
        return beta
    if np.ndim(beta) or not 0 <= float(beta) < 1:
        raise InvalidInputError(f"heavy_ball: beta={beta!r} must lie in [0, 1).")
    return beta
