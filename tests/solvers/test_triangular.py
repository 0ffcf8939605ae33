"""Against substitution, and against extended precision for the size of the residual."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from conservax.solvers.triangular import triangular_inverse


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("size", [1, 2, 31, 32, 33, 70, 130])
def test_the_inverse_of_a_cholesky_factor(size, dtype):
    rng = np.random.default_rng(size)
    factor = rng.normal(size=(3, size, size + 2))
    L = np.linalg.cholesky(factor @ np.swapaxes(factor, 1, 2)).astype(dtype)
    found = np.asarray(triangular_inverse(jnp.asarray(L)))
    assert found.dtype == dtype
    for X, own in zip(found, L, strict=True):
        expected = scipy.linalg.solve_triangular(own.astype(float), np.eye(size), lower=True)
        allowed = 8 * size * np.finfo(dtype).eps * np.linalg.cond(own.astype(float))
        assert np.abs(X - expected).max() <= allowed * np.abs(expected).max()
        np.testing.assert_array_equal(X, np.tril(X))


def test_what_is_above_the_diagonal_is_not_read_and_nan_stays_in_its_item():
    rng = np.random.default_rng(0)
    L = np.tril(rng.normal(size=(2, 40, 40))) / 8 + np.eye(40)
    L[1, 20, 3] = np.nan
    found = np.asarray(triangular_inverse(jnp.asarray(L + np.triu(np.ones((40, 40)), 1))))
    np.testing.assert_allclose(found[0] @ L[0], np.eye(40), atol=1e-12)
    assert np.isnan(found[1]).any()
