"""The proximal operator of the sorted ℓ1 norm (SLOPE): a sort and an isotonic regression.

p is constant in absolute value on blocks of the sorted entries. Its derivative averages over them
(with signs), and vanishes on the block at 0. Where a block could split, the choice that keeps it
whole is an element of the Clarke Jacobian: the projector onto the directions along which the norm
is linear at p. The set there is no product of segments, and the calculus refuses it.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ..calculus.marking import guard, smooth


def _isotonic(z: jax.Array) -> jax.Array:
    """argmin ‖v − z‖ over v_1 ≥ v_2 ≥ …: v_i = min over a ≤ i of max over b ≥ i of mean(z_a, …, z_b)."""
    n = z.size
    sums = jnp.concatenate([jnp.zeros(1, z.dtype), jnp.cumsum(z)])
    first, last = jnp.arange(n)[:, None], jnp.arange(n)
    means = (sums[1:] - sums[:-1, None]) / jnp.maximum(last - first + 1, 1)
    means = jnp.where(last >= first, means, -jnp.inf)
    best = jnp.flip(jax.lax.cummax(jnp.flip(means, 1), axis=1), 1)
    return jnp.min(jnp.where(first <= last, best, jnp.inf), axis=0)


def _sorted_parts(x: jax.Array, weights: jax.Array) -> tuple[jax.Array, ...]:
    """The order, the excess |x| − λ, the sorted absolute values of p, and each entry's block."""
    order = jnp.argsort(-jnp.abs(x), stable=True)
    excess = jnp.abs(x)[order] - weights
    values = jnp.maximum(_isotonic(excess), 0)
    # blocks of equal weights are split already: the norm is linear there in any order
    rounding = 8 * x.size * jnp.finfo(x.dtype).eps * (jnp.max(jnp.abs(x)) + weights[0])
    level = values[:-1] - values[1:] <= rounding
    block = jnp.cumsum(jnp.concatenate([jnp.zeros(1, jnp.int32), (~level).astype(jnp.int32)]))
    return order, excess, values, block


def _value(x: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    order, _, values, _ = _sorted_parts(x, weights)
    p = values[jnp.argsort(order)] * jnp.sign(x)
    return p, jnp.full_like(p, jnp.max(jnp.abs(x)) + jnp.max(jnp.abs(weights)))


def _frozen(x: jax.Array, weights: jax.Array) -> tuple[jax.Array, ...]:
    return jax.lax.stop_gradient(_sorted_parts(x, weights))


def _extremes(values: jax.Array, block: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The largest and the smallest value of each entry's block."""
    top = jnp.full_like(values, -jnp.inf).at[block].max(values)[block]
    return top, jnp.full_like(values, jnp.inf).at[block].min(values)[block]


def _rule(primals: Any, tangents: Any) -> jax.Array:
    (x, weights), (dx, dweights) = primals, tangents
    order, _, values, block = _frozen(x, weights)
    signs = jnp.sign(x)[order]
    moves = signs * dx[order] - dweights
    sums = jnp.zeros_like(moves).at[block].add(moves)
    mean = (sums / jnp.maximum(jnp.zeros_like(moves).at[block].add(1), 1))[block]
    heaviest, lightest = _extremes(weights, block)
    averaged = jnp.where(heaviest > lightest, mean, moves)
    at_zero = values <= 0
    free = at_zero & (heaviest <= 0)  # weights 0: the identity
    result = jnp.where(at_zero, 0, signs * averaged)
    return jnp.where(free, dx[order], result)[jnp.argsort(order)]


def _margin(x: jax.Array, weights: jax.Array) -> jax.Array:
    """How far x is from a point at which a block splits, or two blocks merge."""
    _, excess, values, block = _frozen(x, weights)
    n = x.size
    heaviest, lightest = _extremes(weights, block)
    same = block[:-1] == block[1:]
    nothing = jnp.inf
    gaps = jnp.where(same, nothing, values[:-1] - values[1:])
    gaps = jnp.where(heaviest[:-1] > lightest[1:], gaps, nothing)  # equal weights merge smoothly
    place = jnp.arange(n)
    start = jnp.full(n, n).at[block].min(place)[block]
    sums = jnp.concatenate([jnp.zeros(1, x.dtype), jnp.cumsum(excess - values)])
    slack = sums[start] - sums[1:]  # ≥ 0 within a block, 0 at the end of one that is not at 0
    ends = jnp.concatenate([~same, jnp.ones(1, bool)])
    inner = jnp.where(ends | (heaviest <= lightest), nothing, slack)
    at_zero = values <= 0
    of_zero = jnp.where(at_zero & (heaviest > 0), slack, nothing)
    leaving = jnp.where(~at_zero & (weights[0] > 0), values, nothing)
    return jnp.min(jnp.concatenate([gaps, jnp.where(at_zero, nothing, inner), of_zero, leaving]))


_shrunk = smooth("sorted_l1", _value, _rule)
_off_splits = guard("prox_sorted_l1")


def shrink_sorted(x: jax.Array, weights: jax.Array) -> jax.Array:
    """argmin_p ½‖p − x‖² + Σ_i λ_i |p|_(i) for x (n,), λ_1 ≥ … ≥ λ_n ≥ 0 and |p|_(1) ≥ |p|_(2) ≥ …."""
    return _off_splits(_shrunk(x, weights), _margin(x, weights))
