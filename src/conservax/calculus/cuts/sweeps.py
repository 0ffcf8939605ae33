"""Sweeps of a linear map over all unit vectors, few shapes to compile and bounded memory."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

_AT_ONCE = 1 << 25  # numbers in one intermediate result of the sweeps that run together


def on_basis(linear: Callable[[jax.Array], jax.Array], like: jax.Array, tape: int) -> jax.Array:
    """A linear map at every unit vector: all at once, or in chunks where that takes too much memory."""
    chunk = max(1, _AT_ONCE // max(tape, like.size, 1))
    if chunk >= like.size:
        return jax.vmap(linear)(jnp.eye(like.size, dtype=like.dtype))

    def at(i: jax.Array) -> jax.Array:
        return linear(jax.nn.one_hot(i, like.size, dtype=like.dtype))

    return jax.lax.map(at, jnp.arange(like.size), batch_size=chunk)


def padded(index: np.ndarray, filler: int) -> np.ndarray:
    """An index made as long as a power of two, so that few lengths are compiled."""
    size = 0 if index.size == 0 else 1 << (int(index.size) - 1).bit_length()
    return np.concatenate([index, np.full(size - index.size, filler)]).astype(np.int32)
