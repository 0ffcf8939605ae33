"""Support vector machines with an intercept, beside libsvm and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.svm import SVC, SVR

import conservax as cx
from conservax.errors import InvalidInputError, SingularError
from conservax.sparse.solvers.box_quadratic import box_quadratic

RNG = np.random.default_rng(0)


def problem(name, n, p):
    X = RNG.normal(size=(n, p))
    y = X[:, 0] + 0.3 + 0.5 * RNG.normal(size=n)
    return X, (np.sign(y) if name == "svm" else 2 * y)


def ours(name, X, y, C, epsilon=0.2, **more):
    if name == "svm":
        return cx.sparse.svm.with_intercept(X, y, C, **more)
    return cx.sparse.svr.with_intercept(X, y, C, epsilon, **more)


def theirs(name, X, y, C, weight=None):
    """libsvm; its C multiplies a sum, and its tolerance is on the dual's gradient."""
    share = np.ones(len(y)) if weight is None else weight / weight.mean()
    made = {"svm": SVC, "svr": SVR}[name](kernel="linear", C=C / len(y), tol=1e-10)
    if name == "svr":
        made.set_params(epsilon=0.2)
    made.fit(X, y, sample_weight=share)
    return made.coef_[0], made.intercept_[0]


# more features than samples: every sample may be free; two features: p + 1 free samples, whose y x depend
@pytest.mark.parametrize(("n", "p", "C"), [(40, 3, 5.0), (20, 40, 2.0), (40, 2, 100.0)])
@pytest.mark.parametrize("name", ["svm", "svr"])
def test_values_are_libsvms_and_derivatives_are_differences(name, n, p, C):
    X, y = problem(name, n, p)
    weight = RNG.uniform(0.5, 2, n)
    for given in (None, weight):
        beta, b = ours(name, X, y, C, sample_weight=given)
        expected = theirs(name, X, y, C, given)
        np.testing.assert_allclose(beta, expected[0], atol=1e-6)
        assert b == pytest.approx(expected[1], abs=1e-6)

    def f(C, X, epsilon, y, weight):
        beta, b = ours(name, X, y, C, epsilon, sample_weight=weight)
        return beta @ jnp.arange(1.0, p + 1) + 3 * b

    at = (C, X, 0.2, y, weight)
    moving = (0, 1, 4) if name == "svm" else (0, 1, 2, 3, 4)
    slopes = jax.grad(f, moving)(*map(jnp.asarray, at))
    h = 1e-6
    for place, slope in zip(moving, slopes, strict=True):
        along = RNG.normal(size=np.shape(at[place]))
        up, down = (
            f(*at[:place], at[place] + side * h * along, *at[place + 1 :]) for side in (1, -1)
        )
        assert np.sum(slope * along) == pytest.approx(
            float(up - down) / (2 * h), rel=1e-5, abs=1e-6
        )
    compiled = jax.jit(jax.grad(f))(*map(jnp.asarray, at))
    assert compiled == pytest.approx(float(slopes[0]), rel=1e-9, abs=1e-9)
    forward = jax.jvp(lambda C: f(C, *at[1:]), (C,), (1.0,))[1]
    assert forward == pytest.approx(float(slopes[0]), rel=1e-9, abs=1e-9)


def test_an_interval_of_intercepts_has_its_middle_and_no_derivative():
    """With a small C all multipliers are at their bound: b is anything between the classes' last margins."""
    X = np.array([[1.0], [3.0], [-1.0], [-2.0]])
    y = np.array([1.0, 1.0, -1.0, -1.0])
    beta, b = cx.sparse.svm.with_intercept(X, y, 0.04)
    assert beta[0] == pytest.approx(0.04 / 4 * 7)
    # y (xβ + b) ≤ 1 for all: −1 + 2β ≤ b ≤ 1 − 3β
    assert b == pytest.approx((-1 + 2 * beta[0] + 1 - 3 * beta[0]) / 2)
    intercept = lambda C: cx.sparse.svm.with_intercept(X, y, C)[1]  # noqa: E731
    with pytest.raises(SingularError, match="interval of intercepts"):
        jax.grad(intercept)(0.04)
    assert np.isnan(jax.jit(jax.grad(intercept))(0.04))


def test_one_class_is_all_intercept():
    X = RNG.normal(size=(6, 2))
    beta, b = cx.sparse.svm.with_intercept(X, np.ones(6), 1.0)
    np.testing.assert_array_equal(beta, 0)
    assert b == 1


def test_faults_of_arguments_are_named():
    X = np.random.default_rng(0).normal(size=(12, 3))
    y = np.where(X[:, 0] > 0, 1.0, -1.0)
    for model in (cx.sparse.svm, cx.sparse.svm.with_intercept):
        with pytest.raises(InvalidInputError, match="foo"):
            model(X, y, 1.0, foo=3)
        with pytest.raises(InvalidInputError, match="labels -1 and 1 as numbers"):
            model(X, np.where(y > 0, "a", "b"), 1.0)
    with pytest.raises(SingularError, match="samples between their bounds"):
        jax.grad(lambda C: cx.sparse.svm(np.r_[X, X], np.r_[y, y], C).sum())(5.0)


@pytest.mark.parametrize(
    ("n", "p", "C"), [(400, 20, 50.0), (1000, 20, 10.0), (1000, 20, 1000.0), (60, 90, 10.0)]
)
def test_many_samples_are_optimal_to_rounding(n, p, C):
    """Optimality of the primal: β = Σ a_i c_i x_i with multipliers in the box, and Σ c_i a_i = 0."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, p))
    y = np.where(X[:, 0] + rng.normal(size=n) > 0.3, 1.0, -1.0)
    target = X[:, 0] + 0.3 * rng.normal(size=n)
    for M, slope, c, margin, two_sided in (
        (y[:, None] * X, np.ones(n), y, 0.0, False),
        (X, target, np.ones(n), 0.1, True),
    ):
        found = box_quadratic(M.T, slope, np.full(n, C / n), margin, two_sided, c)
        beta, b = M.T @ found.a, found.multiplier
        rest = M @ beta - slope + b * c
        low = -C / n if two_sided else 0.0
        assert found.near
        assert abs(c @ found.a) <= 1e-12 * np.abs(found.a).sum()
        assert np.all((found.a >= low) & (found.a <= C / n))
        signs = np.sign(found.a)
        inside = (found.a != 0) & (np.abs(found.a) < C / n)
        np.testing.assert_allclose((rest + margin * signs)[inside], 0, atol=1e-10)
        assert np.all((rest * signs + margin)[(found.a != 0) & ~inside] <= 1e-10)
        zero = rest[found.a == 0]
        assert np.all(zero + margin >= -1e-10)
        assert not two_sided or np.all(zero - margin <= 1e-10)
        parameters = (C, 0.1) if two_sided else (C,)
        model = cx.sparse.svr if two_sided else cx.sparse.svm
        coef, shift = model.with_intercept(X, target if two_sided else y, *parameters)
        np.testing.assert_allclose(coef, beta, atol=1e-9)
        assert shift == pytest.approx(b, abs=1e-9)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3, 1e6])
def test_units_of_the_samples_do_not_matter(scale):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(12, 3))
    y = np.where(X[:, 0] > 0, 1.0, -1.0)
    beta, b = cx.sparse.svm.with_intercept(X, y, 5.0)
    moved, c = cx.sparse.svm.with_intercept(X * scale, y, 5.0 / scale**2)
    np.testing.assert_allclose(moved * scale, beta, rtol=1e-8)
    assert float(c) == pytest.approx(float(b), rel=1e-8)
