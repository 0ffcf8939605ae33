"""Batches of matrices, dense or sparse with one pattern, and the products and norms that solvers need."""

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from ..arrays.namespace import Array, namespace

_FEW = 4  # columns


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["values", "rows", "columns"],
    meta_fields=["shape"],
)
@dataclass(frozen=True)
class SparseMatrix:
    """``values`` (batch, stored) at ``rows``, ``columns`` (stored,) of matrices of this ``shape``.

    All items have one pattern; entries met twice add up, entries outside the shape do not count.
    """

    values: Array
    rows: Array
    columns: Array
    shape: tuple[int, ...]

    def with_values(self, values: Any) -> "SparseMatrix":
        """The same pattern with other values."""
        return SparseMatrix(values, self.rows, self.columns, self.shape)

    @property
    def transposed(self) -> "SparseMatrix":
        return SparseMatrix(self.values, self.columns, self.rows, self.shape[::-1])


Matrix: TypeAlias = Array | SparseMatrix


def times(matrix: Matrix | None, vector: Array) -> Array:
    """M v for (batch, i, j) and (batch, j); M = None is the identity."""
    if isinstance(matrix, SparseMatrix):
        return _spread(matrix, matrix.values * _gathered(vector, matrix.columns))
    if matrix is None:
        return vector
    if namespace(matrix, vector) is np:
        if len(matrix) == 1:  # shared by the batch
            return vector @ matrix[0].T
        return (matrix @ vector[..., None])[..., 0]
    return jnp.einsum("bij,bj->bi", matrix, vector)


def times_transposed(matrix: Matrix, vector: Array) -> Array:
    """Mᵀ v for (batch, i, j) and (batch, i)."""
    if isinstance(matrix, SparseMatrix):
        return times(matrix.transposed, vector)
    if namespace(matrix, vector) is np:
        if len(matrix) == 1:
            return vector @ matrix[0]
        return (vector[..., None, :] @ matrix)[..., 0, :]
    return jnp.einsum("bij,bi->bj", matrix, vector)


def by_columns(multiply: Callable[[Any, Array], Array], matrix: Any, columns: Array) -> Array:
    """``times`` or ``times_transposed`` for (batch, j, columns).

    A few columns one by one: on a CPU a product of matrices takes several times as long for two.
    """
    count, xp = columns.shape[-1], namespace(columns)
    sparse = isinstance(matrix, SparseMatrix)
    if (sparse and xp is np) or (0 < count <= _FEW and xp is jnp):
        return xp.stack([multiply(matrix, columns[..., k]) for k in range(count)], axis=-1)
    if sparse:
        return jax.vmap(multiply, in_axes=(None, -1), out_axes=-1)(matrix, columns)
    return (matrix if multiply is times else xp.swapaxes(matrix, -1, -2)) @ columns


def scaled(left: Array, matrix: Matrix, right: Array) -> Any:
    """diag(left) M diag(right), of the kind of M; left (batch, i), right (batch, j)."""
    if isinstance(matrix, SparseMatrix):
        factors = _gathered(left, matrix.rows) * _gathered(right, matrix.columns)
        return matrix.with_values(matrix.values * factors)
    if namespace(matrix, left) is np and np.all(left == 1) and np.all(right == 1):
        return matrix
    return left[:, :, None] * matrix * right[:, None, :]


def magnitudes(matrix: Matrix) -> Any:
    """|M|, entry by entry; entries of a sparse matrix that are met twice do not cancel."""
    if isinstance(matrix, SparseMatrix):
        return matrix.with_values(abs(matrix.values))
    return abs(matrix)


def row_norms(matrix: Matrix, weights: Array | None = None) -> Array:
    """max_j |M_ij| w_j, (batch, i); weights are positive or zero, one by default.

    On the host one item stands for all where the matrix is shared and the weights are one.
    """
    if isinstance(matrix, SparseMatrix):
        values = abs(matrix.values)
        values = values if weights is None else values * _gathered(weights, matrix.columns)
        if namespace(values) is np:
            return _largest_on_host(matrix, values)
        zeros = jnp.zeros((len(values), matrix.shape[0]), values.dtype)
        return zeros.at[:, matrix.rows].max(values)
    entries: Array = abs(matrix)
    entries = entries if weights is None or _is_one(weights) else entries * weights[:, None, :]
    return entries.max(axis=-1, initial=0.0)


def column_norms(matrix: Matrix, weights: Array | None = None) -> Array:
    """max_i |M_ij| w_i, (batch, j)."""
    if isinstance(matrix, SparseMatrix):
        return row_norms(matrix.transposed, weights)
    if namespace(matrix) is np:  # along rows, as they lie in memory
        entries = abs(matrix)
        entries = entries if weights is None or _is_one(weights) else entries * weights[:, :, None]
        return entries.max(axis=-2, initial=0.0)
    return row_norms(jnp.swapaxes(matrix, -1, -2), weights)


def _is_one(weights: Array) -> bool:
    return namespace(weights) is np and bool(np.all(weights == 1))


def plus_diagonal(matrix: Matrix, diagonal: Array) -> Any:
    """M + diag(d) for d (batch, n)."""
    if namespace(diagonal) is np and not diagonal.any():
        return matrix
    if isinstance(matrix, SparseMatrix):
        xp = namespace(matrix.values, diagonal)
        own = xp.arange(diagonal.shape[-1], dtype=matrix.rows.dtype)
        values = xp.broadcast_to(matrix.values, (len(diagonal), matrix.values.shape[-1]))
        return SparseMatrix(
            xp.concatenate([values, diagonal], axis=-1),
            xp.concatenate([matrix.rows, own]),
            xp.concatenate([matrix.columns, own]),
            matrix.shape,
        )
    xp = namespace(matrix, diagonal)
    return matrix + diagonal[..., None] * xp.eye(diagonal.shape[-1], dtype=matrix.dtype)


def symmetric_part(matrix: Matrix) -> Any:
    """(M + Mᵀ)/2."""
    if isinstance(matrix, SparseMatrix):
        xp = namespace(matrix.values, matrix.rows)
        return SparseMatrix(
            xp.concatenate([matrix.values, matrix.values], axis=-1) / 2,
            xp.concatenate([matrix.rows, matrix.columns]),
            xp.concatenate([matrix.columns, matrix.rows]),
            matrix.shape,
        )
    return (matrix + namespace(matrix).swapaxes(matrix, -1, -2)) / 2


def column_major(matrix: SparseMatrix) -> SparseMatrix:
    """NumPy's entries column by column, each once, none outside the shape."""
    rows, columns = np.asarray(matrix.rows), np.asarray(matrix.columns)
    height, width = matrix.shape
    values = np.asarray(matrix.values)
    inside = (rows < height) & (columns < width)
    key = columns.astype(np.int64) * height + rows
    if inside.all() and np.all(key[1:] > key[:-1]):
        return matrix
    kept = np.flatnonzero(inside)
    order = kept[np.argsort(key[kept], kind="stable")]
    key, values = key[order], values[:, order]
    firsts = np.flatnonzero(np.diff(key, prepend=-1))
    if len(firsts) < len(key):
        values, order = np.add.reduceat(values, firsts, axis=1), order[firsts]
    return SparseMatrix(values, rows[order], columns[order], matrix.shape)


def with_values(matrix: Any, values: np.ndarray) -> Any:
    """A matrix of SciPy with the pattern of another, which they share; nothing is checked again."""
    found = copy.copy(matrix)
    found.data = values
    return found


def dense(matrix: Matrix) -> Array:
    """All entries, (batch, i, j)."""
    if isinstance(matrix, SparseMatrix):
        if namespace(matrix.values) is np:
            matrix = column_major(matrix)  # each entry once
            full = np.zeros((len(matrix.values), *matrix.shape), matrix.values.dtype)
            full[:, matrix.rows, matrix.columns] = matrix.values
            return full
        zeros = jnp.zeros((len(matrix.values), *matrix.shape), matrix.values.dtype)
        return zeros.at[:, matrix.rows, matrix.columns].add(matrix.values)
    return matrix


def tangent_of(matrix: Matrix, tangent: Any) -> Any:
    """The tangent of a matrix as a matrix: indices have none."""
    return matrix.with_values(tangent.values) if isinstance(matrix, SparseMatrix) else tangent


def _gathered(vector: Array, places: Array) -> Array:
    """(batch, stored) from (batch, j)."""
    # take: three times as quick as indexing in NumPy
    return vector.take(places, axis=1) if namespace(vector, places) is np else vector[:, places]


def _spread(matrix: SparseMatrix, terms: Array) -> Array:
    height = matrix.shape[0]
    if namespace(terms) is np:
        rows = np.asarray(matrix.rows)
        found = np.zeros((len(terms), height), terms.dtype)
        for own, values in zip(found, terms, strict=True):
            own[:] = np.bincount(rows, values, height)[:height]
        return found
    return jnp.zeros((len(terms), height), terms.dtype).at[:, matrix.rows].add(terms)


def _largest_on_host(matrix: SparseMatrix, terms: np.ndarray) -> np.ndarray:
    """The largest of the terms (batch, stored), none below zero, of each row."""
    found = np.zeros((len(terms), matrix.shape[0]), terms.dtype)
    rows = np.asarray(matrix.rows)
    inside = rows < matrix.shape[0]
    for own, values in zip(found, terms, strict=True):
        np.maximum.at(own, rows[inside], values[inside])
    return found
