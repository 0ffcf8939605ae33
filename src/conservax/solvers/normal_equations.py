"""Newton systems [[P, Ãᵀ], [Ã, −D]] of an interior-point method, by Cholesky of P + ÃᵀÃ.

D is the identity, with zeros at equalities: there the factor keeps a small multiple of the identity
in its place, and refinement removes it. Static regularisation in the sense of Vanderbei (1995).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.lax import linalg

from ..numerics import machine_epsilon
from .cones import Array, Cones, transpose

_REFINEMENTS = 3


class Factor(NamedTuple):
    """P, Ã = W⁻ᵀA, and L with LLᵀ = P + ÃᵀÃ + shift."""

    P: Array
    scaled: Array
    L: Array


def times(matrix: Array, vector: Array) -> Array:
    """M v for (batch, i, j) and (batch, j)."""
    return jnp.einsum("bij,bj->bi", matrix, vector)


def times_transposed(matrix: Array, vector: Array) -> Array:
    """Mᵀ v for (batch, i, j) and (batch, i)."""
    return jnp.einsum("bij,bi->bj", matrix, vector)


def cholesky(H: Array) -> Array:
    """L with LLᵀ = H ≻ 0 (batch, n, n), symmetric, of which one triangle is read; NaN if it is not."""
    # LAPACK reads columns where XLA writes rows: the transpose of H is H, and saves a copy
    return linalg.cholesky(transpose(H), symmetrize_input=False)


def forward_substitution(L: Array, right: Array) -> Array:
    """L⁻¹ right, for lower triangular L (batch, n, n) and right (batch, n, columns)."""
    return linalg.triangular_solve(L, right, left_side=True, lower=True)


def cholesky_solve(L: Array, right: Array) -> Array:
    """(LLᵀ)⁻¹ right, for right (batch, n, columns)."""
    half = forward_substitution(L, right)
    return linalg.triangular_solve(L, half, left_side=True, lower=True, transpose_a=True)


def factor(P: Array, scaled: Array) -> Factor:
    """NaN in an item that is not finite."""
    eps = machine_epsilon(P.dtype)
    H = P + transpose(scaled) @ scaled
    row, column = (lax.broadcasted_iota(jnp.int32, H.shape[-2:], axis) for axis in (0, 1))
    # rounding moves entry (i, j) by eps √(Hᵢᵢ Hⱼⱼ): the shift of the diagonal is relative as well
    shifted = jnp.where(row == column, H * (1 + 8 * eps) + eps ** (2 / 3), H)
    return Factor(P, scaled, cholesky(shifted))


def solve(factor: Factor, upper: Array, lower: Array) -> tuple[Array, Array]:
    """(x, z) with Px + Ãᵀz = upper, Ãx − z = lower, by columns: (batch, n or m, columns)."""
    x = cholesky_solve(factor.L, upper + transpose(factor.scaled) @ lower)
    return x, factor.scaled @ x - lower


def refine(
    factor: Factor, upper: Array, lower: Array, x: Array, z: Array, cones: Cones
) -> tuple[Array, Array]:
    """Iterative refinement of Px + Ãᵀz = upper, Ãx − Dz = lower, as far as each item needs.

    An item is left alone once its residual is within eps^¾ of the terms; at most three steps.
    """
    enough = max(machine_epsilon(x.dtype) ** 0.75, machine_epsilon(x.dtype) ** 0.5 / 200)

    def residual(x: Array, z: Array) -> tuple[Array, Array, Array]:
        Px, Atz, Ax = (
            times(factor.P, x),
            times_transposed(factor.scaled, z),
            times(factor.scaled, x),
        )
        inner = z.at[:, : cones.zero].set(0.0)
        above, below = upper - Px - Atz, lower - Ax + inner
        poor = _exceeds(above, enough, (upper, Px, Atz)) | _exceeds(
            below, enough, (lower, Ax, inner)
        )
        return above, below, poor

    def unfinished(carry: tuple[Array, Array, tuple[Array, Array, Array], Array]) -> Array:
        _, _, (_, _, poor), step = carry
        return jnp.any(poor) & (step < _REFINEMENTS)

    def improve(
        carry: tuple[Array, Array, tuple[Array, Array, Array], Array],
    ) -> tuple[Array, Array, tuple[Array, Array, Array], Array]:
        x, z, (above, below, poor), step = carry
        dx, dz = (part[..., 0] for part in solve(factor, above[..., None], below[..., None]))
        x, z = jnp.where(poor[:, None], x + dx, x), jnp.where(poor[:, None], z + dz, z)
        return x, z, residual(x, z), step + 1

    x, z, _, _ = lax.while_loop(unfinished, improve, (x, z, residual(x, z), jnp.array(0)))
    return x, z


def _exceeds(residual: Array, share: float, terms: tuple[Array, ...]) -> Array:
    """Whether ‖residual‖∞ is more than this share of the largest term, per item."""
    largest = [jnp.max(jnp.abs(term), axis=-1, initial=0.0) for term in (residual, *terms)]
    return largest[0] > share * jnp.max(jnp.stack(largest[1:]), axis=0)
