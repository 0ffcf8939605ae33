"""Between pytrees and the matrices that sets of Jacobians live in."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from .invocation import differentiable


def without_duplicates(matrices: np.ndarray) -> np.ndarray:
    """The distinct matrices of a stack, equal to round-off counting as equal, in lexicographic order."""
    if len(matrices) < 2:
        return matrices + 0.0
    flat = matrices.reshape(len(matrices), -1)
    scale = np.abs(flat).max(initial=0.0)
    digits = np.round(flat / (scale or 1.0), 11) + 0.0  # + 0.0 turns −0 into 0
    _, first = np.unique(digits, axis=0, return_index=True)
    return matrices[first] + 0.0


def columns_in_order(args: Sequence[Any], argnums: Sequence[int]) -> np.ndarray | None:
    """Column order for argnums given out of order; None when they are in order."""
    if list(argnums) == sorted(argnums):
        return None
    widths = {
        n: sum(np.size(leaf) for leaf in jax.tree.leaves(differentiable(args[n]))) for n in argnums
    }
    starts, at = {}, 0
    for n in sorted(argnums):
        starts[n] = at
        at += widths[n]
    return np.concatenate([starts[n] + np.arange(widths[n]) for n in argnums])


def as_pytree(matrix: np.ndarray, outputs: Any, inputs: Any) -> Any:
    """Split a matrix (m, n) into the pytree of ``jax.jacobian``: outputs outside, inputs inside."""
    out_leaves, out_tree = jax.tree.flatten(outputs)
    in_leaves, in_tree = jax.tree.flatten(inputs)
    row_ends = np.cumsum([int(np.prod(np.shape(o))) for o in out_leaves])[:-1]
    column_ends = np.cumsum([np.size(leaf) for leaf in in_leaves])[:-1]
    blocks: list[Any] = []
    for out, rows in zip(out_leaves, np.split(matrix, row_ends, axis=0), strict=True):
        pieces = np.split(rows, column_ends, axis=1)
        inner = [
            p.reshape((*np.shape(out), *np.shape(leaf)))
            for p, leaf in zip(pieces, in_leaves, strict=True)
        ]
        blocks.append(jax.tree.unflatten(in_tree, inner))
    return jax.tree.unflatten(out_tree, blocks)
