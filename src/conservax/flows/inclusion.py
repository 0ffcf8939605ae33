"""Monotone inclusions 0 ∈ A(x) + B(x), given by two resolvents."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from ..errors import InvalidInputError
from ..implicit import custom_fixed_point
from ..invertibility import Certificate
from ..invertibility.structural import certify_contraction

Resolvent = Callable[..., Any]


def inclusion(
    resolvent_a: Resolvent,
    resolvent_b: Resolvent,
    *,
    tol: float | None = None,
    max_iterations: int = 10_000,
) -> Callable[..., Any]:
    """A solver of 0 ∈ A(x, θ) + B(x, θ), A and B maximally monotone, with the derivative of x in θ.

    Douglas–Rachford iterates z ← z + J_B(2 J_A(z) − z) − J_A(z), J_A = (I + γA)⁻¹, to a fixed point
    z; x = J_A(z). The derivative is the implicit one of that fixed point, along AD's element of the
    resolvents' Jacobians; the iteration is not differentiated.

    Args:
        resolvent_a, resolvent_b: J_A(z, *args), J_B(z, *args), pytrees like z, with the same γ.
        tol: on ‖z⁺ − z‖ relative to 1 + ‖z‖; by default 1e-12 in float64, 1e-6 in float32.
        max_iterations: NaN is returned where they do not suffice.

    Returns:
        solver(z0, *args) ↦ x, under every transformation; ``solver.fixed_point(z0, *args)`` is z, and
        ``solver.check(z, *args)`` the verdict on its equation.

    Source: Lions, Mercier, Splitting algorithms for the sum of two nonlinear operators (1979);
    Bolte, Pauwels, Silveti-Falls, Differentiating nonsmooth solutions to parametric monotone inclusion
    problems (SIAM J. Optim. 2024).

    >>> import jax, jax.numpy as jnp, conservax as cx
    >>> lasso = cx.flows.inclusion(  # 0 ∈ x − b + ∂|x|
    ...     lambda z, b: (z + b) / 2, lambda z, b: jnp.sign(z) * jax.nn.relu(jnp.abs(z) - 1)
    ... )
    >>> round(float(lasso(0.0, 3.0)), 5), round(float(jax.grad(lasso, 1)(0.0, 3.0)), 5)
    (2.0, 1.0)
    """

    def splitting(z: Any, *args: Any) -> Any:
        x = resolvent_a(z, *args)
        y = resolvent_b(jax.tree.map(lambda x, z: 2 * x - z, x, z), *args)
        return jax.tree.map(lambda z, x, y: z + y - x, z, x, y)

    @custom_fixed_point(splitting)
    def fixed_point(z0: Any, *args: Any) -> Any:
        z0 = jax.tree.map(jnp.asarray, z0)
        dtype = ravel_pytree(z0)[0].dtype
        limit = (1e-12 if dtype == jnp.float64 else 1e-6) if tol is None else tol

        def unfinished(state: Any) -> Any:
            _, off, k = state
            return (off > limit) & (k < max_iterations)

        def iterate(state: Any) -> Any:
            z, _, k = state
            new = splitting(z, *args)
            flat, _ = ravel_pytree(new)
            gap = flat - ravel_pytree(z)[0]
            return new, jnp.linalg.norm(gap) / (1 + jnp.linalg.norm(flat)), k + 1

        z, off, _ = lax.while_loop(
            unfinished, iterate, (z0, jnp.asarray(jnp.inf, dtype), jnp.zeros((), int))
        )
        return jax.tree.map(lambda a: jnp.where(off <= limit, a, jnp.nan), z)

    def solver(z0: Any, *args: Any) -> Any:
        return resolvent_a(fixed_point(z0, *args), *args)

    solver.fixed_point = fixed_point  # type: ignore[attr-defined]
    solver.check = fixed_point.check  # type: ignore[attr-defined]
    return solver


def certify_inclusion(strong: float, lipschitz: float, step: float = 1.0) -> Certificate:
    """Is the fixed point of Douglas–Rachford differentiable, A being μ-strongly monotone and L-Lipschitz?

    The reflected resolvent of γA contracts by δ = √(1 − 4γμ/(1 + 2γμ + γ²L²)), that of B does not
    expand, and so the iteration contracts by (1 + δ)/2: for every selection of the resolvents'
    Jacobians I − ∂T is invertible, with σ_min ≥ (1 − δ)/2.

    Args:
        strong: μ > 0 and ``lipschitz``: L ≥ μ, of A, that you vouch for. step: γ of the resolvents.

    Returns:
        A Certificate: PROVEN, with its margin.

    Source: Giselsson, Tight global linear convergence rate bounds for Douglas–Rachford splitting
    (J. Fixed Point Theory Appl. 2017), Theorem 6.5.

    >>> import conservax as cx
    >>> certificate = cx.flows.certify_inclusion(strong=1.0, lipschitz=1.0)
    >>> certificate.verdict, round(certificate.margin, 6)
    (<Verdict.PROVEN: 1>, 0.5)
    """
    if not (strong > 0 and lipschitz >= strong and step > 0 and math.isfinite(lipschitz * step)):
        raise InvalidInputError(
            f"strong={strong}, lipschitz={lipschitz}, step={step}: needed are 0 < strong ≤ lipschitz and "
            "step > 0."
        )
    squared = 1 - 4 * step * strong / (1 + 2 * step * strong + (step * lipschitz) ** 2)
    factor = math.sqrt(max(squared, 0.0))
    return certify_contraction((1 + factor) / 2)
