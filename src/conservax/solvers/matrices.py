"""Batches of matrices, dense or sparse with one pattern, and the products and norms that solvers need."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

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

    values: jax.Array
    rows: jax.Array
    columns: jax.Array
    shape: tuple[int, ...]

    def with_values(self, values: Any) -> "SparseMatrix":
        """The same pattern with other values."""
        return SparseMatrix(values, self.rows, self.columns, self.shape)

    @property
    def transposed(self) -> "SparseMatrix":
        return SparseMatrix(self.values, self.columns, self.rows, self.shape[::-1])


Matrix: TypeAlias = jax.Array | SparseMatrix


def times(matrix: Matrix | None, vector: jax.Array) -> jax.Array:
    """M v for (batch, i, j) and (batch, j); M = None is the identity."""
    if isinstance(matrix, SparseMatrix):
        return _spread(matrix, matrix.values * vector[:, matrix.columns])
    return vector if matrix is None else jnp.einsum("bij,bj->bi", matrix, vector)


def times_transposed(matrix: Matrix, vector: jax.Array) -> jax.Array:
    """Mᵀ v for (batch, i, j) and (batch, i)."""
    if isinstance(matrix, SparseMatrix):
        return times(matrix.transposed, vector)
    return jnp.einsum("bij,bi->bj", matrix, vector)


def by_columns(
    multiply: Callable[[Any, jax.Array], jax.Array], matrix: Any, columns: jax.Array
) -> jax.Array:
    """``times`` or ``times_transposed`` for (batch, j, columns).

    A few columns one by one: on a CPU a product of matrices takes several times as long for two.
    """
    count = columns.shape[-1]
    if count <= _FEW:
        return jnp.stack([multiply(matrix, columns[..., k]) for k in range(count)], axis=-1)
    if isinstance(matrix, SparseMatrix):
        return jax.vmap(multiply, in_axes=(None, -1), out_axes=-1)(matrix, columns)
    return (matrix if multiply is times else jnp.swapaxes(matrix, -1, -2)) @ columns


def scaled(left: jax.Array, matrix: Matrix, right: jax.Array) -> Any:
    """diag(left) M diag(right), of the kind of M; left (batch, i), right (batch, j)."""
    if isinstance(matrix, SparseMatrix):
        factors = left[:, matrix.rows] * right[:, matrix.columns]
        return matrix.with_values(matrix.values * factors)
    return left[:, :, None] * matrix * right[:, None, :]


def magnitudes(matrix: Matrix) -> Any:
    """|M|, entry by entry; entries of a sparse matrix that are met twice do not cancel."""
    if isinstance(matrix, SparseMatrix):
        return matrix.with_values(jnp.abs(matrix.values))
    return jnp.abs(matrix)


def row_norms(matrix: Matrix, weights: jax.Array | None = None) -> jax.Array:
    """max_j |M_ij| w_j, (batch, i); weights are positive or zero, one by default."""
    if isinstance(matrix, SparseMatrix):
        values = jnp.abs(matrix.values)
        values = values if weights is None else values * weights[:, matrix.columns]
        zeros = jnp.zeros((len(values), matrix.shape[0]), values.dtype)
        return zeros.at[:, matrix.rows].max(values)
    matrix = jnp.abs(matrix)
    matrix = matrix if weights is None else matrix * weights[:, None, :]
    return jnp.max(matrix, axis=-1, initial=0.0)


def column_norms(matrix: Matrix, weights: jax.Array | None = None) -> jax.Array:
    """max_i |M_ij| w_i, (batch, j)."""
    if isinstance(matrix, SparseMatrix):
        return row_norms(matrix.transposed, weights)
    return row_norms(jnp.swapaxes(matrix, -1, -2), weights)


def plus_diagonal(matrix: Matrix, diagonal: jax.Array) -> Any:
    """M + diag(d) for d (batch, n)."""
    if isinstance(matrix, SparseMatrix):
        own = jnp.arange(diagonal.shape[-1], dtype=matrix.rows.dtype)
        return SparseMatrix(
            jnp.concatenate([matrix.values, diagonal], axis=-1),
            jnp.concatenate([matrix.rows, own]),
            jnp.concatenate([matrix.columns, own]),
            matrix.shape,
        )
    return matrix + diagonal[..., None] * jnp.eye(diagonal.shape[-1], dtype=matrix.dtype)


def symmetric_part(matrix: Matrix) -> Any:
    """(M + Mᵀ)/2."""
    if isinstance(matrix, SparseMatrix):
        return SparseMatrix(
            jnp.concatenate([matrix.values, matrix.values], axis=-1) / 2,
            jnp.concatenate([matrix.rows, matrix.columns]),
            jnp.concatenate([matrix.columns, matrix.rows]),
            matrix.shape,
        )
    return (matrix + jnp.swapaxes(matrix, -1, -2)) / 2


def dense(matrix: Matrix) -> jax.Array:
    """All entries, (batch, i, j)."""
    if isinstance(matrix, SparseMatrix):
        zeros = jnp.zeros((len(matrix.values), *matrix.shape), matrix.values.dtype)
        return zeros.at[:, matrix.rows, matrix.columns].add(matrix.values)
    return matrix


def tangent_of(matrix: Matrix, tangent: Any) -> Any:
    """The tangent of a matrix as a matrix: indices have none."""
    return matrix.with_values(tangent.values) if isinstance(matrix, SparseMatrix) else tangent


def _spread(matrix: SparseMatrix, terms: jax.Array) -> jax.Array:
    zeros = jnp.zeros((len(terms), matrix.shape[0]), terms.dtype)
    return zeros.at[:, matrix.rows].add(terms)
