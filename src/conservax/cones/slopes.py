"""Slopes of λ ↦ λ⁺ between two eigenvalues: what projections onto symmetric cones make of eigenvectors."""

import jax
import jax.numpy as jnp

from ..arrays.namespace import Array, namespace


def divided_differences(values: jax.Array) -> jax.Array:
    """(λ_i⁺ − λ_j⁺)/(λ_i − λ_j) as (λ_i⁺ + λ_j⁺)/(|λ_i| + |λ_j|), which no cancellation spoils; 0 at 0/0."""
    positive, size = jnp.maximum(values, 0), jnp.abs(values)
    total = size[:, None] + size
    return jnp.where(
        total > 0, (positive[:, None] + positive) / jnp.where(total > 0, total, 1), 0.0
    )


def slope(a: Array, b: Array, tie: float) -> Array:
    """(a⁺ − b⁺)/(a − b) for eigenvalues of which those that count as zero are zero; ``tie`` at 0/0."""
    apart, xp = a != b, namespace(a, b)
    gap = xp.where(apart, a - b, 1.0)
    ratio = (xp.maximum(a, 0.0) - xp.maximum(b, 0.0)) / gap
    return xp.where(apart, ratio, xp.where(a > 0, 1.0, xp.where(a < 0, 0.0, tie)))


def snap(value: Array, dual: Array, slack: Array) -> Array:
    """0 for what counts as zero."""
    return namespace(value).where((value <= dual) & (value >= -slack), 0.0, value)
