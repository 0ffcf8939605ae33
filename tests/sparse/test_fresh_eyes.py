"""What a reader of the manual tried, and what he should have got."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.sparse import BCOO

import conservax as cx
from conservax.errors import InvalidInputError
from sparse.sparse_cases import data

X, Y = data()
FIT = {
    "lasso": lambda s, w: cx.sparse.lasso(X, Y, 0.2 * s, sample_weight=w),
    "elastic_net": lambda s, w: cx.sparse.elastic_net(X, Y, 0.2, 0.1 * s, sample_weight=w),
    "fused_lasso": lambda s, w: cx.sparse.fused_lasso(X, Y, 0.2 * s, sample_weight=w),
    "svr": lambda s, w: cx.sparse.svr(X, Y, 1.0 * s, 0.1, sample_weight=w),
}


@pytest.mark.parametrize("name", FIT)
def test_what_is_refused_eagerly_is_nan_under_jit(name):
    """A negative penalty, and a negative weight: never the solution of another problem."""
    fit, weight = FIT[name], np.ones(20)
    for scale, w in ((-1.0, weight), (1.0, np.where(np.arange(20), 1.0, -1.0))):
        with pytest.raises(InvalidInputError):
            fit(scale, w)
        assert np.isnan(jax.jit(fit)(scale, w)).all()
    np.testing.assert_allclose(jax.jit(fit)(1.0, weight), fit(1.0, None), rtol=1e-6, atol=1e-6)


def test_multinomial_intercepts_are_optimal_and_have_derivatives():
    """The intercepts' stationarity is: every class is as frequent as predicted; their sum is zero."""
    rng = np.random.default_rng(7)
    X, labels = rng.normal(size=(24, 5)), rng.integers(0, 3, 24)
    with jax.enable_x64(True):
        fit = lambda a: cx.sparse.multinomial.with_intercept(X, labels, a)  # noqa: E731
        coef, shift = fit(0.03)
        mean = np.asarray(jax.nn.softmax(X @ coef + shift)).mean(axis=0)
        np.testing.assert_allclose(mean, np.bincount(labels) / 24, atol=1e-10)
        assert abs(float(shift.sum())) < 1e-12
        h = 1e-5
        (beta, b), (down, below) = fit(0.03 + h), fit(0.03 - h)
        found = jax.jvp(fit, (0.03,), (1.0,))[1]
        np.testing.assert_allclose(found[0], (beta - down) / (2 * h), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found[1], (b - below) / (2 * h), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cx.sparse.svm(X, np.sign(Y), 1.0, 2.0), "svm takes X, y and C"),
        (lambda: cx.sparse.svm(X, np.sign(Y), 1.0, epsilon=0.1), "svm takes X, y and C"),
        (lambda: cx.sparse.svr(X, Y, 1.0, 0.1, 3.0), "svr takes X, y and C, epsilon"),
        (lambda: cx.sparse.svr(X, Y, 1.0, C=2.0), "svr takes X, y and C, epsilon"),
        (lambda: cx.sparse.lasso(X, np.array(["a"] * 20), 0.1), "y must hold real numbers"),
    ],
)
def test_arguments_are_never_dropped(call, message):
    with pytest.raises(InvalidInputError, match=message):
        call()


def test_a_traced_sparse_design_says_what_to_do():
    S = BCOO.fromdense(jnp.asarray(X))
    with pytest.raises(InvalidInputError, match=r"hand over X.todense\(\)"):
        jax.grad(lambda v: cx.sparse.lasso(BCOO((v, S.indices), shape=S.shape), Y, 0.1).sum())(
            S.data
        )
    dense = jax.grad(lambda v: cx.sparse.lasso(v, Y, 0.1).sum())(jnp.asarray(X))
    again = jax.grad(
        lambda v: cx.sparse.lasso(BCOO((v, S.indices), shape=S.shape).todense(), Y, 0.1).sum()
    )(S.data)
    np.testing.assert_allclose(again, dense[tuple(S.indices.T)], rtol=1e-5, atol=1e-6)
