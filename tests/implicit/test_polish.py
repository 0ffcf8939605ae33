"""``polish`` reaches round-off, finds the active pieces, and says when it cannot."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import conservax as cx
from conservax import errors
from helpers import soft_threshold

relu = jax.nn.relu


def hinge(y, a):
    return y - relu(y / 2 - a)


@pytest.mark.parametrize("noise", [1e-4, -1e-4, 1e-2])
@pytest.mark.parametrize(("a", "root"), [(-0.5, 1.0), (0.5, 0.0), (0.0, 0.0)])
def test_a_hinge_is_solved_exactly(noise, a, root):
    y = cx.polish(hinge, jnp.asarray(root + noise), a)
    np.testing.assert_allclose(y, root, atol=1e-15)


def lasso(seed=0):
    """A Lasso with 20 unknowns, and its solution by many proximal steps."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(12, 20))
    y = X[:, :3] @ np.array([2.0, -1.5, 1.0]) + 0.1 * rng.normal(size=12)
    lam = 0.2 * np.max(np.abs(X.T @ y))
    step = 1 / np.linalg.norm(X, 2) ** 2
    w = np.zeros(20)
    for _ in range(20_000):
        w = soft_threshold(w - step * X.T @ (X @ w - y), step * lam)
    return X, y, lam, step, w


def lasso_equation(w, X, y, lam, step):
    return w - soft_threshold(w - step * X.T @ (X @ w - y), step * lam)


def test_a_lasso_from_noise_reaches_round_off_and_its_support():
    X, y, lam, step, exact = lasso()
    start = exact + 1e-4 * np.random.default_rng(1).normal(size=20)
    w = np.asarray(cx.polish(lasso_equation, jnp.asarray(start), X, y, lam, step))
    residual = np.abs(np.asarray(lasso_equation(jnp.asarray(w), X, y, lam, step)))
    assert residual.max() < 1e-14
    np.testing.assert_allclose(w, exact, atol=1e-10)
    np.testing.assert_array_equal(w != 0, np.abs(exact) > 1e-8)  # exact zeros off the support


def test_a_nonsmooth_nonlinear_system():
    equation = lambda y, t: jnp.abs(y) * 0.25 + y**3 + y - t  # noqa: E731
    y = cx.polish(equation, 0.99 * jnp.ones(3), jnp.full(3, 2.25))
    np.testing.assert_allclose(y, 1.0, atol=1e-15)


def test_a_smooth_system_in_a_pytree():
    equation = lambda sol, t: {"u": sol["u"] ** 2 - t, "v": sol["v"] - sol["u"]}  # noqa: E731
    sol = cx.polish(equation, {"u": jnp.array(1.4), "v": jnp.array(1.0)}, 2.0)
    np.testing.assert_allclose([sol["u"], sol["v"]], np.sqrt([2.0, 2.0]), rtol=1e-15)


def test_float32_reaches_its_own_round_off():
    y = cx.polish(lambda y, t: y**2 - t, jnp.float32(1.4), jnp.float32(2.0))
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, np.sqrt(2), rtol=3e-7)


def test_a_root_stays_where_it_is():
    exact = jnp.array([0.0, 1.0])
    y = cx.polish(hinge, exact, jnp.array([0.5, -0.5]))
    np.testing.assert_array_equal(y, exact)


def test_the_residual_never_grows():
    start = jnp.array([0.3, 5.0, -2.0])
    a = jnp.array([-0.5, -0.5, 0.5])
    y = cx.polish(hinge, start, a)
    np.testing.assert_allclose(y, [1.0, 1.0, 0.0], atol=1e-15)


def test_polishing_makes_a_check_decide_at_a_tighter_tolerance():
    equation = lambda y, a: y - 1 - relu((y - 1) / 2 - a)  # noqa: E731
    rough = cx.check(equation, 1 + 1e-7, 0.0)
    fine = cx.check(equation, cx.polish(equation, 1 + 1e-7, 0.0), 0.0)
    assert fine.tolerance < rough.tolerance
    assert (len(rough.kinks), len(fine.kinks)) == (1, 1)


def test_a_singular_point_is_refused():
    with pytest.raises(errors.SingularError, match="check"):
        cx.polish(
            lambda y, t: jnp.stack([y[0] + y[1] - t, y[0] + y[1] - t]), jnp.array([0.6, 0.6]), 1.0
        )
    with pytest.raises(errors.SingularError):
        cx.polish(lambda y, t: 0 * y - t, 1.0, 0.5)


def test_an_equation_without_a_root_does_not_converge():
    with pytest.raises((errors.NotConvergedError, errors.SingularError)):
        cx.polish(lambda y, t: y**2 + t, 0.5, 1.0)
    with pytest.raises(errors.NotConvergedError, match="max_steps"):
        cx.polish(lambda y, t: jnp.exp(y) - t, 5.0, 1.0, max_steps=2)


def test_bad_input_is_refused():
    with pytest.raises(errors.InvalidInputError, match="sol"):
        cx.polish(hinge, np.nan, 0.0)
    with pytest.raises(errors.InvalidInputError, match="unknown"):
        cx.polish(lambda y, t: jnp.stack([y, y]), 1.0, 0.0)
