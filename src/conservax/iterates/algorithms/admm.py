"""The alternating direction method of multipliers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..contract import Algorithm, Scalar, at, called, floats, linear_map, positive


class AdmmState(NamedTuple):
    """z and the scaled multipliers u of A x = z."""

    z: Any
    u: Any


@dataclass(frozen=True, eq=False)
class Admm(Algorithm):
    """x = argmin f + ρ/2‖A x − z + u‖²;  z⁺ = prox_{g/ρ}(A x + u);  u⁺ = u + A x − z⁺."""

    argmin_x: Callable[..., Any]
    prox: Callable[..., Any]
    apply: Callable[..., Any]
    rho: Scalar
    name: str = "admm"

    def init(self, x0: Any, theta: Any) -> AdmmState:
        z = self.apply(floats(x0, self.name))
        return AdmmState(z, jax.tree.map(jnp.zeros_like, z))

    def step(self, state: AdmmState, theta: Any) -> AdmmState:
        rho = at(self.rho, theta)
        image = jax.tree.map(jnp.add, self.apply(self.output(state, theta)), state.u)
        z = self.prox(image, theta, 1 / rho)
        return AdmmState(z, jax.tree.map(jnp.subtract, image, z))

    def output(self, y: AdmmState, theta: Any) -> Any:
        target = jax.tree.map(jnp.subtract, y.z, y.u)
        return self.argmin_x(target, theta, at(self.rho, theta))


def admm(argmin_x: Callable[..., Any], prox: Callable[..., Any], A: Any, rho: Scalar) -> Algorithm:
    """min f(x, θ) + g(z, θ) subject to A x = z.

    x = argmin_x f(x, θ) + ρ/2 ‖A x − (z − u)‖²,  z⁺ = prox_{g/ρ}(A x + u),  u⁺ = u + A x − z⁺.

    Args:
        argmin_x: argmin_x(v, θ, ρ), the minimiser of f(x, θ) + ρ/2 ‖A x − v‖² in x.
        prox: prox(v, θ, γ) = argmin_z γ g(z, θ) + ½‖z − v‖², called with γ = 1/ρ.
        A: a matrix (m, n), or a linear function of x.
        rho: ρ, a positive number or a function of θ; any converges.

    Returns:
        An Algorithm with state (z, u) and output x.

    Raises:
        InvalidInputError: ρ is not positive, A neither a matrix nor a function.

    Source: Boyd, Parikh, Chu, Peleato, Eckstein, Distributed optimization and statistical learning via
    the alternating direction method of multipliers (2011), Section 3.1.1.

    >>> import conservax as cx
    >>> alg = cx.iterates.admm(
    ...     lambda v, t, rho: (3 + rho * v) / (1 + rho),
    ...     lambda v, t, step: cx.proximal.prox_lasso(v, t, step),
    ...     lambda x: x,
    ...     1.0,
    ... )
    >>> round(float(cx.iterates.implicit(alg)(0.0, 1.0)), 4)
    2.0
    """
    return Admm(
        called(argmin_x, "argmin_x", "admm"), called(prox, "prox", "admm"), linear_map(A, "A", "admm"),
        positive(rho, "rho", "admm"),
    )  # fmt: skip
