"""A batch solved a few items at a time, where that is faster.

Matrices that fit the processor's caches make a batched factorisation on a CPU twice as fast, an easy
part of the batch does not wait for a hard one, and memory stays bounded. Sparse programs are solved on
the host, which takes an item to a thread. A GPU takes all at once, and
multiplies in full precision: shortened products (TF32) would void what is said of rounding.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from .matrices import SparseMatrix

_CACHED = 1 << 20  # bytes of one matrix of each item of a chunk
_LEAST = 8  # items: below, the two cores of a small machine wait for each other

Result = TypeVar("Result")


def in_chunks(solve: Callable[..., Result], *data: Any) -> Result:
    """``solve(*data)`` for pytrees with a leading batch axis; equal chunks, the last one padded."""
    if jax.default_backend() != "cpu":
        with jax.default_matmul_precision("highest"):
            return solve(*data)
    leaves = jax.tree.leaves(data, is_leaf=lambda part: isinstance(part, SparseMatrix))
    if any(isinstance(leaf, SparseMatrix) for leaf in leaves):
        return solve(*data)
    batch = leaves[0].shape[0]
    per_item = max(leaf.size * leaf.dtype.itemsize for leaf in leaves) // max(batch, 1)
    fitting = max(_LEAST, _CACHED // max(per_item, 1))
    if batch <= fitting:
        return solve(*data)
    chunks = -(-batch // fitting)
    size = -(-batch // chunks)

    def split(leaf: jax.Array) -> jax.Array:
        # repeated items end when their originals do
        padded = (
            jnp.concatenate([leaf, leaf[: chunks * size - batch]])
            if chunks * size > batch
            else leaf
        )
        return padded.reshape(chunks, size, *leaf.shape[1:])

    results = lax.map(lambda part: solve(*part), jax.tree.map(split, data))
    return jax.tree.map(lambda leaf: leaf.reshape(chunks * size, *leaf.shape[2:])[:batch], results)
