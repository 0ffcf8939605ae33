"""Inverses of batched triangular matrices by block recursion: matrix products only.

A batched triangular solve costs more than the Cholesky factor it belongs to, on a CPU with several
BLAS threads many times more; the inverse costs less, and each solve after it two products.
"""

import jax.numpy as jnp
import numpy as np
from jax.lax import linalg

from .cones import Array, transpose

_BASE = 24  # up to this size a triangular solve is the faster way


def lower_inverse(L: Array) -> Array:
    """The inverses of lower triangular matrices (..., n, n); inf or NaN where one is singular.

    >>> import jax.numpy as jnp
    >>> lower_inverse(jnp.array([[2.0, 0.0], [1.0, 1.0]])).tolist()
    [[0.5, 0.0], [-0.5, 1.0]]
    """
    n = L.shape[-1]
    blocks = 1
    while n > _BASE * blocks:
        blocks *= 2
    base = -(-n // blocks)
    extra = base * blocks - n
    if extra:
        L = jnp.pad(L, [(0, 0)] * (L.ndim - 2) + [(0, extra)] * 2)
        L = L + np.diag([0.0] * n + [1.0] * extra).astype(L.dtype)
    starts = range(0, base * blocks, base)
    parts = jnp.stack([L[..., i : i + base, i : i + base] for i in starts], axis=-3)
    unit = jnp.broadcast_to(jnp.eye(base, dtype=L.dtype), parts.shape)
    parts = linalg.triangular_solve(parts, unit, left_side=True, lower=True)
    inverse = [parts[..., i, :, :] for i in range(blocks)]
    while len(inverse) > 1:
        size = inverse[0].shape[-1]
        inverse = [
            _join(L[..., (i + 1) * size : (i + 2) * size, i * size : (i + 1) * size],
                  inverse[i], inverse[i + 1])
            for i in range(0, len(inverse), 2)
        ]  # fmt: skip
    return inverse[0][..., :n, :n]


def _join(between: Array, upper: Array, lower: Array) -> Array:
    corner = -lower @ (between @ upper)
    top = jnp.concatenate([upper, jnp.zeros_like(corner)], axis=-1)
    return jnp.concatenate([top, jnp.concatenate([corner, lower], axis=-1)], axis=-2)


def cholesky_inverse(H: Array) -> Array:
    """L⁻¹ for symmetric H = LLᵀ ≻ 0 (..., n, n), only whose lower triangle is read; NaN elsewhere.

    >>> import jax.numpy as jnp
    >>> cholesky_inverse(jnp.array([[4.0]])).tolist()
    [[0.5]]
    """
    if H.shape[-1] == 0:
        return H
    return lower_inverse(linalg.cholesky(H, symmetrize_input=False))


def apply_inverse(inverse: Array, right: Array) -> Array:
    """H⁻¹ right, from L⁻¹; columns side by side."""
    return transpose(inverse) @ (inverse @ right)
