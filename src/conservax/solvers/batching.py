"""An axis that ``jax.vmap`` maps joins the batch axis of pytrees whose leaves have one in front."""

from typing import Any

import jax
import jax.numpy as jnp

from ..errors import UnsupportedOperationError
from .matrices import SparseMatrix


def join_axis(axis_size: int, tree: Any, mapped: Any) -> Any:
    """(axis, batch, …) ↦ (axis · batch, …) for the leaves that are mapped, the others repeated.

    ``mapped`` has the structure of ``tree``, with booleans. The pattern of a sparse matrix has no batch.
    """

    def join(part: Any, own: Any) -> Any:
        if isinstance(part, SparseMatrix):
            if own.rows or own.columns:
                raise UnsupportedOperationError(
                    "the items of a batch share one pattern: map over the stored entries, with the "
                    "indices held fixed, as in jax.vmap(lambda data: program(…, BCOO((data, indices), …)))."
                )
            return part.with_values(join(part.values, own.values))
        full = part if own else jnp.broadcast_to(part, (axis_size, *part.shape))
        return full.reshape(axis_size * full.shape[1], *full.shape[2:])

    return jax.tree.map(join, tree, mapped, is_leaf=lambda part: isinstance(part, SparseMatrix))


def split_axis(axis_size: int, tree: Any) -> Any:
    """(axis · batch, …) ↦ (axis, batch, …) for every leaf."""
    return jax.tree.map(
        lambda part: part.reshape(axis_size, part.shape[0] // axis_size, *part.shape[1:]), tree
    )
