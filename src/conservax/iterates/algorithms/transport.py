"""Entropic transport at speed: Sinkhorn's iteration on an absorbed kernel, and the plan's derivative."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve

from ...numerics import machine_epsilon
from ...solution import Status
from ..running import Run

_FAR = 1e60  # scalings beyond this, or below its inverse, are absorbed into the kernel


def log_sum_exp(x: jax.Array, axis: int) -> jax.Array:
    """log Σ exp(x) along an axis, smooth: which entry is the largest does not matter."""
    top = jax.lax.stop_gradient(jnp.max(x, axis=axis, keepdims=True))
    return jnp.log(jnp.sum(jnp.exp(x - top), axis=axis)) + jnp.squeeze(top, axis)


def absorbed(
    u: jax.Array,
    cost: jax.Array,
    a: jax.Array,
    b: jax.Array,
    epsilon: jax.Array,
    tol: Any,
    max_steps: int,
) -> Run:
    """Iterate u until every marginal holds to ``tol`` relatively: a kernel, and scalings close to one.

    K = exp(u + v − C/ε) is formed after a step in the log domain; then c = b/(Kᵀr), r = a/(K c) are
    two products a step, until they have converged or grown, when u takes log r up.
    """
    dtype = u.dtype
    tol = jnp.maximum(jnp.asarray(tol, dtype), 8 * machine_epsilon(dtype))
    far = jnp.asarray(min(_FAR, float(jnp.finfo(dtype).max) ** 0.2), dtype)
    scaled = cost / epsilon
    log_a, log_b = jnp.log(a), jnp.log(b)

    def unfinished(carry: Any) -> jax.Array:
        return carry[-1] == -1

    def outer(carry: Any) -> Any:
        u, steps, _, _, _ = carry
        v = log_b - log_sum_exp(u[:, None] - scaled, axis=0)
        u = log_a - log_sum_exp(v - scaled, axis=1)
        kernel = jnp.exp(u[:, None] + v - scaled)

        def near(r: jax.Array, moved: jax.Array) -> jax.Array:
            tame = (jnp.max(r) < far) & (jnp.min(r) > 1 / far)
            return tame & (moved > tol)

        def keep_on(state: Any) -> jax.Array:
            r, _, count, moved, _ = state
            return near(r, moved) & (count < max_steps)

        def inner(state: Any) -> Any:
            r, _, count, last, _ = state
            after = a / (kernel @ (b / (r @ kernel)))
            moved = jnp.max(jnp.abs(after / r - 1))
            return after, r, count + 1, moved, jnp.where(last > 0, moved / last, 0.0)

        one = jnp.ones_like(u)
        start = one, one, steps + 1, jnp.asarray(jnp.inf, dtype), jnp.zeros((), dtype)
        r, before, steps, moved, rate = jax.lax.while_loop(keep_on, inner, start)
        good = jnp.isfinite(moved) & (jnp.min(r) > 0) & jnp.all(jnp.isfinite(r))
        u = u + jnp.log(
            jnp.where(good, r, before)
        )  # a kernel that underflowed: back to the log domain
        status = jnp.where(
            moved <= tol,
            Status.SOLVED,
            jnp.where(
                ~jnp.all(jnp.isfinite(u)),
                Status.DIVERGED,
                jnp.where(steps >= max_steps, Status.MAX_ITERATIONS, -1),
            ),
        )
        return u, steps, moved, rate, status.astype(jnp.int8)

    zero = jnp.zeros((), dtype)
    start = u, jnp.zeros((), jnp.int32), zero, zero, jnp.full((), -1, jnp.int8)
    u, steps, moved, rate, status = jax.lax.while_loop(unfinished, outer, start)
    return Run(u, status, steps, moved, rate)


@jax.custom_jvp
def plan_with_derivative(
    u: jax.Array, cost: jax.Array, a: jax.Array, b: jax.Array, epsilon: jax.Array
) -> jax.Array:
    """The plan of the potential u; its derivative in (C, a, b, ε) is that of the entropic problem."""
    scaled = cost / epsilon
    v = jnp.log(b) - log_sum_exp(u[:, None] - scaled, axis=0)
    return jnp.exp(u[:, None] + v - scaled)


@plan_with_derivative.defjvp
def _rule(primals: Any, tangents: Any) -> Any:
    _, cost, a, b, epsilon = primals
    _, cost_dot, a_dot, b_dot, epsilon_dot = tangents
    plan = plan_with_derivative(*primals)
    # Ṗ = P∘(u̇ 1ᵀ + 1 v̇ᵀ) + M keeps the marginals at (ȧ, ḃ)
    moved = plan * ((cost * (epsilon_dot / epsilon) - cost_dot) / epsilon)
    u_dot, v_dot = _potentials(
        plan, a, b, a_dot - jnp.sum(moved, axis=1), b_dot - jnp.sum(moved, axis=0)
    )
    return plan, plan * (u_dot[:, None] + v_dot) + moved


def _potentials(
    plan: jax.Array, a: jax.Array, b: jax.Array, rows: jax.Array, columns: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(x, y) with a∘x + P y = rows and Pᵀx + b∘y = columns, in the quotient by (1, −1)."""
    n, m = plan.shape
    if m < n:
        y, x = _potentials(plan.T, b, a, columns, rows)
        return x, y
    system = jnp.diag(a) - (plan / b) @ plan.T + jnp.sum(a) / n**2
    factor = cho_factor(system)

    def solve(_: Any, rhs: jax.Array) -> jax.Array:
        return cho_solve(factor, rhs)

    def apply(x: jax.Array) -> jax.Array:
        return system @ x

    rhs = rows - plan @ (columns / b)
    x = jax.lax.custom_linear_solve(apply, rhs, solve, solve, symmetric=True)
    return x, (columns - x @ plan) / b
