"""The inverse of a triangular matrix by products, for batches of small matrices.

LAPACK's substitution with many right-hand sides is slow on small ones; and it wakes threads that then
wait for more work, busily, on the cores that the rest of the program needs.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax

from ..arrays.lapack import triangular_inverse_on_host
from ..arrays.namespace import Array, namespace

_LEAF = 32  # rows of a block inverted by substitution, at most


def triangular_inverse(L: Array) -> Array:
    """X ≈ L⁻¹ for lower triangular L (batch, n, n).

    Blocks on the diagonal by substitution, then pairs of them by [[A, 0], [B, C]]⁻¹ =
    [[A⁻¹, 0], [−C⁻¹BA⁻¹, C⁻¹]]. ‖XL − I‖ may exceed that of plain substitution by a power of the
    condition number: measure it where it matters.
    """
    if namespace(L) is np:
        return triangular_inverse_on_host(L)
    n = L.shape[-1]
    count = 1 << (-(-n // _LEAF) - 1).bit_length()
    leaf = -(-n // count)
    extra = count * leaf - n
    row, column = (lax.broadcasted_iota(jnp.int32, (n + extra, n + extra), axis) for axis in (0, 1))
    L = jnp.where((row == column) & (row >= n), 1.0, jnp.pad(L, ((0, 0), (0, extra), (0, extra))))

    def blocks(size: int, below: int) -> Array:
        """(blocks, size, size): all on the diagonal, or every second one below it."""
        starts = range(0, n + extra - below, size + below)
        return jnp.concatenate([L[:, k + below : k + below + size, k : k + size] for k in starts])

    size, X = leaf, _substitute(blocks(leaf, 0))
    while size < n + extra:
        # blocks are ordered by place first, by item second
        X = X.reshape(-1, 2, len(L), size, size)
        A, C = (X[:, side].reshape(-1, size, size) for side in (0, 1))
        corner = -(C @ (blocks(size, size) @ A))
        upper = jnp.concatenate([A, jnp.zeros_like(A)], axis=-1)
        X = jnp.concatenate([upper, jnp.concatenate([corner, C], axis=-1)], axis=-2)
        size *= 2
    return X[:, :n, :n]


def _substitute(L: Array) -> Array:
    """Row by row: L_ii X_i = e_i − Σ_{j<i} L_ij X_j."""
    size = L.shape[-1]
    identity = jnp.eye(size, dtype=L.dtype)

    def next_row(i: int, X: Array) -> Array:
        row = lax.dynamic_slice_in_dim(L, i, 1, axis=-2)
        pivot = lax.dynamic_slice_in_dim(row, i, 1, axis=-1)
        # the rows of X from i on are still zero
        new = (lax.dynamic_slice_in_dim(identity, i, 1, axis=0) - row @ X) / pivot
        return lax.dynamic_update_slice_in_dim(X, new, i, axis=-2)

    return lax.fori_loop(0, size, next_row, jnp.zeros_like(L))
