"""The simplex and the box section: one multiplier, found exactly by sorting.

p = clip(x + τ w, α, β) with wᵀp = c. The pair (p, τ) solves an equation with one scalar kink an
entry, so its set of derivatives is {D − D w wᵀ D / wᵀ D w : D = diag(q)}: the Clarke Jacobian.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ..calculus.marking import lifted


def fill_simplex(x: jax.Array, total: jax.Array) -> tuple[jax.Array, jax.Array]:
    """p = max(x − τ, 0) with Σ p_i = total ≥ 0, and τ, for x (n,)."""
    return lifted(_solve_simplex, _simplex_residual, _simplex_rule, x, total)


@jax.jit
def _solve_simplex(x: jax.Array, total: jax.Array) -> tuple[jax.Array, jax.Array]:
    top = jnp.max(x)  # relative to it, no common shift of x costs digits
    descending = jnp.sort(x - top)[::-1]
    counts = jnp.arange(1, x.size + 1, dtype=x.dtype)
    level = jnp.max((jnp.cumsum(descending) - total) / counts) + top
    return jax.nn.relu(x - level), level


def _simplex_residual(y: Any, x: jax.Array, total: jax.Array) -> tuple[jax.Array, jax.Array]:
    p, level = y
    return p - jax.nn.relu(x - level), jnp.sum(p) - total


def _simplex_rule(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    ((_, level), (x, _)), (dx, dtotal) = primals, tangents
    support, leaders = x - level > 0, x >= level
    empty = ~jnp.any(support)  # total = 0: p = 0 for every x, and what is added goes to the largest
    carrying = jnp.where(empty, leaders, support).astype(x.dtype)
    dlevel = (carrying @ dx - dtotal) / jnp.maximum(jnp.sum(carrying), 1)
    moves = jnp.where(empty, carrying @ dx / jnp.sum(carrying), dx)
    return carrying * (moves - dlevel), dlevel


def fill_box(
    x: jax.Array, lower: jax.Array, upper: jax.Array, weights: jax.Array, total: jax.Array
) -> jax.Array:
    """p = clip(x + τ w, α, β) with wᵀp = total, for x (n,) and w > 0; NaN where no such p exists."""
    return lifted(_solve_box, _box_residual, _box_rule, x, lower, upper, weights, total)[0]


def _clipped(z: jax.Array, lower: jax.Array, upper: jax.Array) -> jax.Array:
    # slope 0 at either bound, as for an entry that leaves its support
    return lower + jax.nn.relu(z - lower) - jax.nn.relu(z - upper)


@jax.jit
def _solve_box(
    x: jax.Array, lower: jax.Array, upper: jax.Array, weights: jax.Array, total: jax.Array
) -> tuple[jax.Array, jax.Array]:
    knots = jnp.sort(jnp.concatenate([(lower - x) / weights, (upper - x) / weights]))
    filled = jax.vmap(lambda t: weights @ jnp.clip(x + t * weights, lower, upper))(knots)
    # between neighbouring knots the filling is linear and increasing
    i = jnp.clip(jnp.searchsorted(filled, total, side="left"), 1, knots.size - 1)
    rise, run = filled[i] - filled[i - 1], knots[i] - knots[i - 1]
    share = (total - filled[i - 1]) / jnp.where(rise > 0, rise, 1)
    level = knots[i - 1] + jnp.where(rise > 0, share, 0) * run
    size = jnp.abs(weights) @ (jnp.abs(lower) + jnp.abs(upper))
    slack = 8 * x.size * jnp.finfo(x.dtype).eps * size
    feasible = (total >= weights @ lower - slack) & (total <= weights @ upper + slack)
    level = jnp.where(feasible, level, jnp.nan)
    return jnp.where(feasible, jnp.clip(x + level * weights, lower, upper), jnp.nan), level


def _box_residual(y: Any, x: Any, lower: Any, upper: Any, weights: Any, total: Any) -> Any:
    p, level = y
    return p - _clipped(x + level * weights, lower, upper), weights @ p - total


def _box_rule(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (p, level), (x, lower, upper, weights, _) = primals
    dx, dlower, dupper, dweights, dtotal = tangents
    z = x + level * weights
    above, below = (z - lower > 0).astype(x.dtype), (z - upper <= 0).astype(x.dtype)
    free = jax.lax.stop_gradient(above * below)
    fixed = (1 - above) * dlower + (1 - below) * dupper + free * (dx + level * dweights)
    steep = jnp.sum(weights * weights * free)
    need = dtotal - dweights @ p - weights @ fixed
    dlevel = jnp.where(steep > 0, need / jnp.where(steep > 0, steep, 1), 0)
    return fixed + free * weights * dlevel, dlevel
