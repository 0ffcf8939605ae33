"""The one linear solve: its solution, its refusals, its derivatives."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import conservax as cx
from conservax.implicit.linear import linear_solve
from helpers import central_difference, on_numpy


def system(n, seed=0, symmetric=False):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(n, n)) / np.sqrt(n)
    A = A @ A.T + np.eye(n) if symmetric else A + 2 * np.eye(n)
    return A, rng.normal(size=n)


def solved(matrix, b, **options):
    """``linear_solve`` of a matrix, compiled as one."""
    return on_numpy(lambda b: linear_solve(lambda v: matrix @ v, b, **options))(b)


@pytest.mark.parametrize("n", [1, 2, 5, 200, 250])
@pytest.mark.parametrize("structure", ["general", "symmetric", "positive_definite"])
def test_solves_below_and_above_the_krylov_threshold(n, structure):
    A, b = system(n, symmetric=structure != "general")
    expected = np.linalg.solve(A, b)
    np.testing.assert_allclose(solved(A, b, structure=structure), expected, atol=1e-9)
    if structure == "general" and n in (2, 200):  # and outside jit
        x = linear_solve(lambda v: A @ v, b, structure=structure)
        np.testing.assert_allclose(x, expected, atol=1e-9)


def test_symmetric_indefinite_systems():
    for n in (6, 250):
        A, b = system(n, symmetric=True)
        A = A - 2.3 * np.eye(n)
        x = solved(A, b, structure="symmetric")
        np.testing.assert_allclose(A @ x, b, atol=1e-6)


def test_float32():
    A, b = system(5)
    x = solved(np.float32(A), np.float32(b))
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, np.linalg.solve(A, b), rtol=1e-4)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_singular_matrix_gives_nan_even_where_b_is_in_its_range(size):
    A = np.ones((size, size)) if size > 1 else np.zeros((1, 1))
    for b in (np.ones(size), A @ np.arange(1.0, size + 1)):
        # of a map with the domain {0}, 0 is the value at 0
        assert np.all(np.isnan(solved(A, b)) if np.any(b) else solved(A, b) == 0)


def test_nearly_singular_by_round_off_counts_as_singular():
    A = np.array([[1.0, 1.0], [1.0, 1.0 + 1e-16]])
    assert np.all(np.isnan(solved(A, np.ones(2))))
    # a condition number of 1e6 is no singularity
    A = np.diag([1.0, 1e-6])
    np.testing.assert_allclose(solved(A, np.ones(2)), [1, 1e6], rtol=1e-9)


def test_a_badly_scaled_regular_matrix_is_solved():
    A = np.diag([1e8, 1e-8]) @ np.array([[2.0, 1.0], [1.0, 3.0]])
    b = A @ np.array([1.0, -1.0])
    x = solved(A, b)
    # either right or refused: never a plausible wrong number
    assert np.all(np.isnan(x)) or np.allclose(x, [1, -1], atol=1e-6)


def test_an_indefinite_matrix_declared_definite_is_refused():
    A = np.diag([1.0, -1.0])
    x = solved(A, np.array([1.0, 2.0]), structure="positive_definite")
    assert np.all(np.isnan(x)) or np.allclose(x, [1, -2])


def test_a_users_solver_that_misses_is_masked():
    A, b = system(4)
    for wrong in (lambda mv, b: b, lambda mv, b: jnp.zeros_like(b)):
        assert np.all(np.isnan(solved(A, b, solve=wrong)))
    stopped = lx.CG(rtol=1e-14, atol=1e-14, max_steps=1)
    S, b = system(8, symmetric=True)
    assert np.all(np.isnan(solved(S, b, solve=stopped, structure="positive_definite")))


def test_right_hand_side_zero():
    A, _ = system(3)
    for options in ({}, {"solve": lambda mv, b: jnp.linalg.solve(A, b)}):
        np.testing.assert_array_equal(solved(A, np.zeros(3), **options), np.zeros(3))


@pytest.mark.parametrize(
    "options", [{}, {"singular": "least_norm"}, {"solve": lx.LU()}], ids=["LU", "SVD", "lineax"]
)
def test_derivatives_in_the_matrix_and_the_right_hand_side(options):
    A, b = system(3)

    def fun(t):
        M = A + t * jnp.diag(jnp.arange(1.0, 4.0))
        return linear_solve(lambda v: M @ v, b * jnp.cos(t), **options)

    expected = central_difference(
        lambda t: np.linalg.solve(A + t * np.diag([1, 2, 3]), b * np.cos(t)), 0.3
    )[:, 0]
    for transform in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(on_numpy(transform(fun))(0.3), expected, atol=1e-8)
    M = A + 0.3 * np.diag([1, 2, 3])
    x, D = np.linalg.solve(M, b * np.cos(0.3)), np.diag([1.0, 2, 3])
    first = np.linalg.solve(M, -b * np.sin(0.3) - D @ x)
    second = np.linalg.solve(M, -b * np.cos(0.3) - 2 * D @ first)
    np.testing.assert_allclose(first, expected, atol=1e-8)
    np.testing.assert_allclose(on_numpy(jax.hessian(fun))(0.3), second, atol=1e-9)


@pytest.mark.parametrize("shape", [(3, 3), (4, 4)])
def test_least_norm_against_numpy(shape):
    rng = np.random.default_rng(3)
    A = rng.normal(size=(shape[0], 2)) @ rng.normal(size=(2, shape[1]))
    b = rng.normal(size=shape[0])  # outside the range: least squares, then least norm
    x = solved(A, b, singular="least_norm")
    np.testing.assert_allclose(x, np.linalg.pinv(A, rcond=1e-12) @ b, atol=1e-10)


def test_least_norm_of_zero_is_zero():
    np.testing.assert_array_equal(
        solved(np.zeros((3, 3)), np.ones(3), singular="least_norm"), np.zeros(3)
    )


def test_under_vmap_a_singular_item_is_alone():
    matrices = jnp.array(
        [[[2.0, 0.0], [0.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]], [[1.0, 0.0], [0.0, 4.0]]]
    )
    x = on_numpy(jax.vmap(lambda M: linear_solve(lambda v: M @ v, jnp.ones(2))))(matrices)
    np.testing.assert_allclose(x[[0, 2]], [[0.5, 1], [1, 0.25]])
    assert np.all(np.isnan(x[1]))


@pytest.mark.parametrize("structure", ["general", "positive_definite"])
@pytest.mark.parametrize("condition", [1e3, 1e6])
def test_ill_conditioned_large_systems_fall_back_on_a_factorisation(structure, condition):
    n = 220
    Q, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(n, n)))
    A = Q @ np.diag(np.geomspace(1, condition, n)) @ Q.T
    truth = np.random.default_rng(1).normal(size=n)
    x = solved(A, A @ truth, structure=structure)
    bound = 1e-13 * condition * np.linalg.norm(truth) + 1e-9
    np.testing.assert_allclose(x, truth, rtol=0, atol=bound)


@pytest.mark.parametrize("n", [20, 300])
def test_a_singular_system_that_could_be_solved_is_refused_all_the_same(n):
    """b in the range of a singular B has solutions, none of which is the derivative."""
    A = np.diag(np.r_[0.0, np.linspace(1, 2, n - 1)])
    b = np.r_[0.0, np.random.default_rng(0).normal(size=n - 1)]
    assert np.all(np.isnan(solved(A, b)))


def few_coupled(n, coupled, seed=0):
    """I − A with nonzero rows of A in ``coupled`` alone: what a proximal step leaves of n unknowns."""
    A = np.zeros((n, n))
    A[coupled] = np.random.default_rng(seed).normal(size=(len(coupled), n)) / np.sqrt(n)
    return np.eye(n) - A


@pytest.mark.parametrize(
    "coupled", [[], [3], range(10, 30), range(0, 100, 3), range(60), range(100)]
)
@pytest.mark.parametrize("transposed", [False, True])
def test_rows_and_columns_of_the_identity(coupled, transposed):
    """The smaller system, its last size (33 of 100) and the whole one, in both directions."""
    B = few_coupled(100, list(coupled))
    matrix, b = B.T if transposed else B, np.random.default_rng(1).normal(size=100)
    np.testing.assert_allclose(
        solved(matrix, b, structure="coupled"), np.linalg.solve(matrix, b), atol=1e-11
    )
    pulled = on_numpy(
        lambda b: jax.vjp(lambda b: linear_solve(lambda v: matrix @ v, b, structure="coupled"), b)[
            1
        ](b)[0]
    )(b)
    np.testing.assert_allclose(pulled, np.linalg.solve(matrix.T, b), atol=1e-11)


def test_rows_and_columns_of_the_identity_at_once():
    """An unknown that moves others and none that moves it, and the other way round."""
    B = few_coupled(100, list(range(20)))
    B[:, 10:30] = np.eye(100)[:, 10:30]
    b = np.random.default_rng(2).normal(size=100)
    np.testing.assert_allclose(solved(B, b, structure="coupled"), np.linalg.solve(B, b), atol=1e-11)


def test_a_batch_whose_systems_couple_different_numbers_of_unknowns():
    rng = np.random.default_rng(3)
    B = np.stack([few_coupled(80, list(range(k)), k) for k in (0, 5, 26, 70)])
    b = rng.normal(size=(4, 80))
    want = np.linalg.solve(B, b[..., None])[..., 0]
    for part in (slice(0, 3), slice(0, 4)):  # all of them small, and one of them not
        each = jax.vmap(lambda B, b: linear_solve(lambda v: B @ v, b, structure="coupled"))
        np.testing.assert_allclose(on_numpy(each)(B[part], b[part]), want[part], atol=1e-11)


def test_few_coupled_unknowns_that_are_singular():
    B = few_coupled(100, [4, 7, 9])
    B[7] = 0
    B[9] = B[4]  # of rank 98
    for b in (np.ones(100), B @ np.arange(1.0, 101)):
        assert np.all(np.isnan(solved(B, b, structure="coupled")))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision(dtype):
    """y = relu(y/2 + a) is 2a for a > 0; a singular matrix is as singular in single precision."""
    solver = cx.custom_root(lambda y, a: y - jax.nn.relu(y / 2 + a))(
        lambda init, a: jnp.maximum(2 * a, 0)
    )
    slope = jax.grad(lambda a: jnp.sum(solver(None, a)))(jnp.array([1.0, -1.0, 3.0], dtype))
    assert slope.dtype == dtype
    assert slope.tolist() == [2.0, 0.0, 2.0]
    matrix = jnp.array([[1.0, 2.0], [0.5, 1.0]], dtype)
    assert jnp.isnan(linear_solve(lambda v: matrix @ v, jnp.ones(2, dtype))).all()
