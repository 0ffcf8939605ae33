"""Projection onto one face of a polyhedron, whether or not the rows that cut it out are independent."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..arrays.lapack import cholesky, forward_substitution
from ..arrays.namespace import Array, transpose
from ..numerics import machine_epsilon
from .failed_items import partial_identity


def project_onto_face(
    p: Array, M: Array, t: Array, held: Array, free: Array, spare: int = 0
) -> Array:
    """argmin ½‖x − p‖² over the x with Mx = t in the rows that are held, and x = 0 off the free entries.

    x = p − M⁺(Mp − t): its derivative in p, I − M⁺M, exists always, for M⁺M depends on the span of the
    rows alone. In M and t it exists if the held rows are independent, and is NaN otherwise.

    Args:
        p: (..., n). M: (..., m, n). t: (..., m), in the range of M. held: (..., m) and free: (..., n),
            boolean. spare: so many rows are known to follow from the others for every M and t.
    """
    m = M.shape[-2]
    weights = held.astype(p.dtype)
    idle = (1 - weights)[..., None] * jnp.eye(m, dtype=p.dtype)

    def gram(M: Array) -> tuple[Array, Array]:
        rows = M * weights[..., None] * free.astype(p.dtype)[..., None, :]
        return rows, rows @ transpose(rows) + idle

    frozen = gram(lax.stop_gradient(M))[1]
    size = jnp.max(jnp.diagonal(frozen, axis1=-2, axis2=-1), axis=-1, initial=0.0)
    ridge = 8 * m * machine_epsilon(p.dtype) * jnp.where(size > 0, size, 1.0)[..., None, None]
    eye = jnp.broadcast_to(jnp.eye(m, dtype=p.dtype), frozen.shape)
    inverse = forward_substitution(cholesky(frozen + ridge * eye), eye)
    # ridge · tr (K + ridge I)⁻¹ counts the eigenvalues of K below the ridge
    dependent = ridge[..., 0, 0] * jnp.sum(inverse * inverse, axis=(-1, -2))
    exists = dependent < spare + 0.5

    def solve(_: Any, right: Array) -> Array:
        """K⁺ right for a right-hand side in the range of K; each round divides the error by λ/ridge."""
        y = jnp.zeros_like(right)
        for _ in range(3):
            left = right - _times(frozen, y)
            y = y + _times(transpose(inverse), _times(inverse, left))
        return y

    each_M = jnp.broadcast_to(M, (*exists.shape, *M.shape[-2:]))
    each_t = jnp.broadcast_to(t, (*exists.shape, *t.shape[-1:]))
    rows, K = gram(_where_exists(each_M, exists))
    right = _times(rows, p) - weights * _where_exists(each_t, exists)
    y = lax.custom_linear_solve(lambda y: _times(K, y), right, solve, symmetric=True)
    return free.astype(p.dtype) * (p - _times(transpose(rows), y))


@jax.custom_jvp
def _where_exists(datum: Array, exists: Array) -> Array:
    """The datum of each item, with NaN as its derivative where none exists, and 0 for no change."""
    return datum


@_where_exists.defjvp
def _(primals: Any, tangents: Any) -> tuple[Array, Array]:
    datum, exists = primals
    return _where_exists(datum, exists), partial_identity(tangents[0], exists)


def _times(matrix: Array, vector: Array) -> Array:
    return jnp.einsum("...ij,...j->...i", matrix, vector)
