"""``polish``: find the active pieces of a root and solve them to round-off."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ..calculus import select
from ..errors import NotConvergedError, SingularError
from ..numerics import machine_epsilon
from .linear import linear_solve
from .residual import Equation

_SELECTIONS = ("jax", "lower", "upper")


def polish(optimality_fun: Callable[..., Any], sol: Any, *args: Any, max_steps: int = 20) -> Any:
    """Refine an approximate root of F(sol, *args) = 0 to round-off by semismooth Newton steps.

    y ← y − B⁻¹ F(y), B an element of ∂F/∂y at y: near a root where every element is invertible the
    iteration identifies the active pieces in finitely many steps when F is piecewise affine, and
    converges superlinearly otherwise (Qi, Sun 1993).

    Args:
        optimality_fun: F(sol, *args), a pytree with as many numbers as ``sol``.
        sol: the approximate root. args: parameters. max_steps: Newton steps at most.

    Returns:
        A pytree like ``sol``, whose residual is no larger than that of ``sol``.

    Raises:
        NotConvergedError: the residual stays above 1e3·eps times the terms of F.
        SingularError: every selection tried has a singular B.

    >>> import jax.numpy as jnp, conservax as cx
    >>> float(cx.polish(lambda y, a: y - jnp.maximum(0.0, y / 2 - a), -0.9, -0.5))
    1.0
    """
    call = Equation.of(optimality_fun, sol, args).call
    count = len(jax.tree.leaves(sol))
    start, unravel = ravel_pytree(sol)
    steps = [
        functools.partial(
            call.kept((polish, s), lambda s=s: _newton(select(call.run, s), unravel, count)),
            call.leaves,
        )
        for s in _SELECTIONS
    ]
    norm = functools.partial(
        call.kept((polish,), lambda: _norm(call.run, unravel, count)), call.leaves
    )
    best, smallest = start, float(norm(start))
    for _ in range(max_steps):
        if smallest == 0:
            break
        candidates = (step(best) for step in steps)
        improved, singular = False, True
        for candidate in candidates:
            value = float(norm(candidate))
            singular &= not np.isfinite(value)
            if value < smallest:
                best, smallest, improved = candidate, value, True
                break
        if singular:
            raise SingularError(
                "∂F/∂sol is singular at the point for every selection tried, so Newton's method has no step. "
                "Run cx.check at the point, or start closer to the root."
            )
        if not improved:
            break
    scale = Equation.of(optimality_fun, unravel(best), args).residual.scale
    if smallest > 1e3 * machine_epsilon(start.dtype) * max(scale, np.finfo(np.float64).tiny):
        raise NotConvergedError(
            f"polish stopped at a residual of {smallest:.3g} against terms of size {scale:.3g} after at most "
            f"{max_steps} steps. Start from a better solution, or raise max_steps."
        )
    return unravel(best)


def _flat(
    run: Callable[[Sequence[Any]], Any], unravel: Callable[[jax.Array], Any], count: int
) -> Callable[[Sequence[Any], jax.Array], jax.Array]:
    """F at flat unknowns, which are the first ``count`` leaves of the call."""

    def at(leaves: Sequence[Any], y: jax.Array) -> jax.Array:
        return ravel_pytree(run([*jax.tree.leaves(unravel(y)), *leaves[count:]]))[0]

    return at


def _newton(
    run: Callable[[Sequence[Any]], Any], unravel: Callable[[jax.Array], Any], count: int
) -> Callable[[Sequence[Any], jax.Array], jax.Array]:
    flat = _flat(run, unravel, count)

    def step(leaves: Sequence[Any], y: jax.Array) -> jax.Array:
        value, apply_jacobian = jax.linearize(functools.partial(flat, leaves), y)
        return y - linear_solve(apply_jacobian, value)

    return jax.jit(step)


def _norm(
    run: Callable[[Sequence[Any]], Any], unravel: Callable[[jax.Array], Any], count: int
) -> Callable[[Sequence[Any], jax.Array], jax.Array]:
    flat = _flat(run, unravel, count)
    return jax.jit(lambda leaves, y: jnp.max(jnp.abs(flat(leaves, y)), initial=0.0))
