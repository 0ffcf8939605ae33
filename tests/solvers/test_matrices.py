"""Sparse matrices against the dense ones that they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conservax.cones import Cones
from conservax.errors import UnsupportedOperationError
from conservax.solvers import matrices
from conservax.solvers.batching import join_axis, split_axis
from conservax.solvers.equilibrate import equilibrate
from conservax.solvers.host import matrices_of
from conservax.solvers.matrices import SparseMatrix

BATCH, ROWS, COLUMNS = 2, 4, 3
PLACES = st.tuples(st.integers(0, ROWS - 1), st.integers(0, COLUMNS - 1))


def _pair(places: list[tuple[int, int]], seed: int) -> tuple[SparseMatrix, jax.Array]:
    """A sparse batch, with places met twice and places outside, and NumPy's sum of it."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(BATCH, len(places)))
    full = np.zeros((BATCH, ROWS, COLUMNS))
    for k, (row, column) in enumerate(places):
        full[:, row, column] += values[:, k]
    rows, columns = (np.array([place[axis] for place in places], np.int32) for axis in (0, 1))
    values = np.column_stack([values, np.zeros(BATCH)])
    rows, columns = np.append(rows, ROWS), np.append(columns, COLUMNS)
    parts = (jnp.asarray(part) for part in (values, rows, columns))
    return SparseMatrix(*parts, (ROWS, COLUMNS)), jnp.asarray(full)


@given(st.lists(PLACES, max_size=8), st.integers(0, 99))
def test_products_and_norms_are_those_of_the_dense_matrix(places, seed):
    sparse, dense = _pair(places, seed)
    rng = np.random.default_rng(seed)
    x, y = jnp.asarray(rng.normal(size=(BATCH, COLUMNS))), jnp.asarray(rng.random((BATCH, ROWS)))
    np.testing.assert_allclose(matrices.dense(sparse), dense, atol=1e-14)
    np.testing.assert_allclose(matrices.times(sparse, x), matrices.times(dense, x), atol=1e-14)
    np.testing.assert_allclose(
        matrices.times_transposed(sparse, y), matrices.times_transposed(dense, y), atol=1e-14
    )
    scaled = matrices.dense(matrices.scaled(y, sparse, x))
    np.testing.assert_allclose(scaled, matrices.scaled(y, dense, x), atol=1e-14)
    for columns in (2, 6):  # one by one, and all at once
        many = jnp.asarray(rng.normal(size=(BATCH, COLUMNS, columns)))
        np.testing.assert_allclose(
            matrices.by_columns(matrices.times, sparse, many), dense @ many, atol=1e-14
        )


@given(st.lists(PLACES, max_size=8, unique=True), st.integers(0, 99))
def test_norms_are_those_of_the_dense_matrix(places, seed):
    sparse, dense = _pair(places, seed)
    weights = jnp.asarray(np.random.default_rng(seed).random((BATCH, ROWS)))
    for norms, own in (
        (matrices.column_norms, weights),
        (matrices.row_norms, weights[:, :COLUMNS]),
    ):
        np.testing.assert_allclose(norms(sparse), norms(dense), atol=1e-15)
        np.testing.assert_allclose(norms(sparse, own), norms(dense, own), atol=1e-15)


@pytest.mark.parametrize("size", [1.0, 1e4])
def test_what_a_batch_shares_is_scaled_as_if_each_item_had_its_own(size):
    rng = np.random.default_rng(0)
    P, A = size * np.eye(COLUMNS)[None], rng.normal(size=(1, ROWS, COLUMNS))
    c, b = rng.normal(size=(BATCH, COLUMNS)), size * rng.normal(size=(BATCH, ROWS))
    cones = Cones(nonnegative=ROWS)
    shared = equilibrate(P, c, A, b, cones)
    own = equilibrate(np.repeat(P, BATCH, 0), c, np.repeat(A, BATCH, 0), b, cones)
    for part, other in zip(shared, own, strict=True):
        np.testing.assert_array_equal(part, other)


def test_symmetric_part_and_diagonal_keep_their_kind():
    rng = np.random.default_rng(0)
    full = jnp.asarray(rng.normal(size=(BATCH, 3, 3)))
    rows, columns = (jnp.asarray(part.ravel()) for part in np.indices((3, 3)))
    sparse = SparseMatrix(full.reshape(BATCH, 9), rows, columns, (3, 3))
    d = jnp.asarray(rng.normal(size=(BATCH, 3)))
    for change in (matrices.symmetric_part, lambda matrix: matrices.plus_diagonal(matrix, d)):
        np.testing.assert_allclose(matrices.dense(change(sparse)), change(full), atol=1e-15)


def test_a_mapped_axis_joins_the_batch_and_leaves_it():
    sparse, _ = _pair([(0, 0), (1, 2)], 0)
    other = jnp.arange(6.0).reshape(3, BATCH)
    mapped = sparse.with_values(jnp.stack([sparse.values] * 3))
    flags = SparseMatrix(True, False, False, sparse.shape)  # type: ignore[arg-type]
    joined, vector = join_axis(3, (mapped, other), (flags, True))
    assert joined.values.shape == (6, 3)
    assert joined.rows is sparse.rows
    np.testing.assert_array_equal(vector, np.arange(6.0))
    np.testing.assert_array_equal(split_axis(3, vector), other)
    still = SparseMatrix(False, False, False, sparse.shape)  # type: ignore[arg-type]
    repeated = join_axis(3, sparse, still)
    np.testing.assert_array_equal(repeated.values, np.tile(sparse.values, (3, 1)))
    with pytest.raises(UnsupportedOperationError, match="one pattern"):
        join_axis(3, sparse, SparseMatrix(True, True, True, sparse.shape))  # type: ignore[arg-type]


@given(st.lists(PLACES, max_size=8), st.integers(0, 99))
def test_entries_in_order_are_those_of_the_dense_matrix(places, seed):
    sparse, dense = (jax.tree.map(np.asarray, part) for part in _pair(places, seed))
    ordered, of_item = matrices.column_major(sparse), matrices_of(sparse)
    by_rows = matrices_of(sparse, by_rows=True)
    assert np.all(np.diff(ordered.columns * ROWS + ordered.rows) > 0)
    np.testing.assert_allclose(matrices.dense(ordered), dense, atol=1e-14)
    for item in range(BATCH):
        np.testing.assert_allclose(of_item(item).toarray(), dense[item], atol=1e-14)
        rows = by_rows(item)
        assert rows.format == "csr"
        np.testing.assert_allclose(rows.toarray(), dense[item], atol=1e-14)
