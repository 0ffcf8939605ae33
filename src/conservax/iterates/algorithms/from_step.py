"""An algorithm of the user's own, from its step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..contract import Algorithm, called, floats


@dataclass(frozen=True, eq=False)
class FromStep(Algorithm):
    """x⁺ = F(x, θ)."""

    fun: Callable[..., Any]
    name: str = "the step function"

    def init(self, x0: Any, theta: Any) -> Any:
        return floats(x0, self.name)

    def step(self, state: Any, theta: Any) -> Any:
        return self.fun(state, theta)


def from_step(step_fun: Callable[..., Any]) -> Algorithm:
    """x⁺ = F(x, θ): an algorithm whose state is its output.

    Args:
        step_fun: F(x, θ), a pytree of the structure and shapes of x. For a state that is not the
            output, subclass ``cx.iterates.Algorithm``.

    Returns:
        An Algorithm; its residual is x − F(x, θ).

    Source: Bolte, Pauwels, Vaiter (NeurIPS 2022), Section 2.

    >>> import jax.numpy as jnp, conservax as cx
    >>> alg = cx.iterates.from_step(lambda x, t: jnp.cos(x) * t)
    >>> round(float(cx.iterates.implicit(alg)(1.0, 1.0)), 4)
    0.7391
    """
    return FromStep(called(step_fun, "step_fun", "from_step"))
