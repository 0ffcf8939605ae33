"""Douglas–Rachford splitting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from ..contract import Algorithm, Scalar, at, called, floats, positive


@dataclass(frozen=True, eq=False)
class DouglasRachford(Algorithm):
    """z⁺ = z + prox_g(2 prox_f(z) − z) − prox_f(z)."""

    prox_f: Callable[..., Any]
    prox_g: Callable[..., Any]
    size: Scalar
    name: str = "douglas_rachford"

    def init(self, x0: Any, theta: Any) -> Any:
        return floats(x0, self.name)

    def step(self, state: Any, theta: Any) -> Any:
        size = at(self.size, theta)
        x = self.prox_f(state, theta, size)
        mirrored = jax.tree.map(lambda x, z: 2 * x - z, x, state)
        after = self.prox_g(mirrored, theta, size)
        return jax.tree.map(lambda z, a, x: z + (a - x), state, after, x)

    def output(self, y: Any, theta: Any) -> Any:
        return self.prox_f(y, theta, at(self.size, theta))


def douglas_rachford(
    prox_f: Callable[..., Any], prox_g: Callable[..., Any], step: Scalar
) -> Algorithm:
    """min_x f(x, θ) + g(x, θ), or 0 ∈ F(x) + G(x), by z⁺ = z + prox_g(2 prox_f(z) − z) − prox_f(z).

    Args:
        prox_f: prox_f(v, θ, γ), the proximal operator of γ f(·, θ), or the resolvent (I + γF)⁻¹ of a
            maximally monotone operator. prox_g: likewise.
        step: γ, a positive number or a function of θ; any converges.

    Returns:
        An Algorithm with state z and output x = prox_f(z).

    Raises:
        InvalidInputError: the step is not positive.

    Source: Lions, Mercier, Splitting algorithms for the sum of two nonlinear operators (1979).

    >>> import jax.numpy as jnp, conservax as cx
    >>> alg = cx.iterates.douglas_rachford(
    ...     lambda v, t, step: (v + step * 3) / (1 + step),
    ...     lambda v, t, step: cx.proximal.prox_lasso(v, t, step),
    ...     1.0,
    ... )
    >>> round(float(cx.iterates.implicit(alg)(0.0, 1.0)), 4)
    2.0
    """
    return DouglasRachford(
        called(prox_f, "prox_f", "douglas_rachford"),
        called(prox_g, "prox_g", "douglas_rachford"),
        positive(step, "step", "douglas_rachford"),
    )
