"""Values and derivatives of every model, in every argument, by minimality and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from celer.datasets import make_correlated_data
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse as sp
from scipy.optimize import linprog
from sklearn.linear_model import ElasticNet, Lasso, LogisticRegression

import conservax as cx
from conservax.errors import InvalidInputError, NotConvergedError, SingularError
from conservax.sparse.solvers import working_set
from sparse.sparse_cases import cases, data

NAMES = list(cases())


@pytest.mark.parametrize("name", NAMES)
def test_no_nearby_point_has_a_lower_objective(name):
    case = cases()[name]
    weight = case.arguments()[2]
    beta = np.asarray(case(*case.arguments()))
    if name not in (
        "fused_lasso",
        "svm",
        "svr",
        "slope",
    ):  # whose coefficients are sparse otherwise
        assert 0 < np.count_nonzero(beta) < beta.size
    rng = np.random.default_rng(0)
    best = case.objective(beta, weight)
    for size in (1e-1, 1e-3, 1e-5):
        for _ in range(200):
            moved = beta + size * rng.normal(size=beta.shape) * (rng.uniform(size=beta.shape) < 0.4)
            if size < 1e-1 or name not in ("mcp", "scad"):  # stationary points
                assert case.objective(moved, weight) >= best - 1e-13


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_are_those_of_finite_differences(name):
    """Forward along a random direction, by central differences; reverse as its transpose."""
    case = cases()[name]
    arguments = case.arguments()
    rng = np.random.default_rng(2)
    beta = np.asarray(case(*arguments))
    cotangent = rng.normal(size=beta.shape)
    names = ("X", "y", "weight", *(f"parameter {i}" for i in case.smooth))
    _, pull = jax.vjp(case, *map(jnp.asarray, arguments))
    pulled = pull(jnp.asarray(cotangent))
    h = 1e-6
    for place, argument in enumerate(names):
        if argument == "y" and not case.targets:
            continue
        if argument == "y" and set(np.unique(case.y)) == {-1.0, 1.0}:
            continue  # labels do not move
        direction = rng.normal(size=np.shape(arguments[place]))
        ends = [
            np.asarray(
                case(
                    *(
                        a + side * h * direction if i == place else a
                        for i, a in enumerate(arguments)
                    )
                )
            )
            for side in (1, -1)
        ]
        expected = (ends[0] - ends[1]) / (2 * h)
        tangents = [jnp.zeros_like(jnp.asarray(a)) for a in arguments]
        tangents[place] = jnp.asarray(direction)
        _, moved = jax.jvp(case, tuple(map(jnp.asarray, arguments)), tuple(tangents))
        scale = 1 + np.abs(expected).max()
        np.testing.assert_allclose(moved, expected, atol=1e-6 * scale, err_msg=argument)
        np.testing.assert_allclose(
            np.vdot(pulled[place], direction),
            np.vdot(moved, cotangent),
            rtol=1e-9,
            err_msg=argument,
        )


@pytest.mark.parametrize("name", NAMES)
def test_under_jit_and_vmap(name):
    """The transformed function is the eager one, item by item; an axis may be the weights' or X's alone."""
    case = cases()[name]
    arguments = [jnp.asarray(a) for a in case.arguments()]
    total = lambda *a: jnp.sum(jnp.sin(case(*a)))  # noqa: E731
    where = (0, 2, 3)
    eager = jax.grad(total, where)(*arguments)
    for one, other in zip(eager, jax.jit(jax.grad(total, where))(*arguments), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)
    factors = jnp.array([0.9, 1.1])
    scaled = lambda t: total(*arguments[:3], t * arguments[3], *arguments[4:])  # noqa: E731
    together = jax.vmap(jax.grad(scaled))(factors)
    apart = jnp.stack([jax.grad(scaled)(t) for t in factors])
    np.testing.assert_allclose(together, apart, rtol=1e-10)
    summed = jax.grad(lambda t: jax.vmap(lambda s: scaled(t * s))(factors).sum())(1.0)
    np.testing.assert_allclose(summed, apart @ factors, rtol=1e-10)
    inputs = jax.grad(
        lambda X: jax.vmap(lambda s: total(X, arguments[1], s * arguments[2], *arguments[3:]))(
            factors
        ).sum()
    )(arguments[0])
    np.testing.assert_allclose(inputs, 2 * eager[0], rtol=1e-9, atol=1e-12)


def test_the_anchors_of_held_out_hypergradients():
    """Value and gradient of sparse-ho's problem, as measured with sparse-ho itself."""
    X, y, _ = make_correlated_data(50, 30, random_state=0)
    alpha = np.abs(X[:25].T @ y[:25]).max() / 25 / 5

    def error(beta):
        return jnp.mean((y[25:] - X[25:] @ beta) ** 2)

    value, slope = jax.value_and_grad(lambda t: error(cx.sparse.lasso(X[:25], y[:25], jnp.exp(t))))(
        jnp.log(alpha)
    )
    assert value == pytest.approx(0.9214149150160622, rel=1e-7)
    assert slope == pytest.approx(0.56213214, rel=1e-7)
    value, slopes = jax.value_and_grad(
        lambda t: error(cx.sparse.elastic_net(X[:25], y[:25], *jnp.exp(t)))
    )(jnp.log(jnp.array([alpha, alpha])))
    assert value == pytest.approx(1.1002250991495872, rel=1e-7)
    np.testing.assert_allclose(slopes, [0.74949190, 0.18120054], rtol=1e-7)


@given(st.integers(0, 10_000))
def test_the_lasso_is_scikit_learns_and_its_slope_the_closed_form(seed):
    rng = np.random.default_rng(seed)
    n, p = int(rng.integers(5, 30)), int(rng.integers(1, 40))
    X, y = data(n, p, seed)
    alpha = np.abs(X.T @ y).max() / n * rng.uniform(0.05, 0.9)
    beta, slope = jax.jvp(lambda a: cx.sparse.lasso(X, y, a), (alpha,), (1.0,))
    theirs = Lasso(alpha, fit_intercept=False, tol=1e-12, max_iter=100_000).fit(X, y).coef_
    np.testing.assert_allclose(beta, theirs, atol=1e-5)
    S = np.flatnonzero(beta)
    expected = np.zeros(p)
    expected[S] = -n * np.linalg.solve(X[:, S].T @ X[:, S], np.sign(np.asarray(beta)[S]))
    np.testing.assert_allclose(slope, expected, rtol=1e-9, atol=1e-9 * (1 + np.abs(expected).max()))


def test_intercepts_are_scikit_learns():
    X, y = data(30, 10, 4)
    y = y + 3.0
    X = X + 1.0
    beta, b = cx.sparse.lasso.with_intercept(X, y, 0.1)
    theirs = Lasso(0.1, tol=1e-12, max_iter=100_000).fit(X, y)
    np.testing.assert_allclose(beta, theirs.coef_, atol=1e-7)
    assert b == pytest.approx(theirs.intercept_, abs=1e-7)
    beta, b = cx.sparse.elastic_net.with_intercept(X, y, 0.1, 0.2)
    theirs = ElasticNet(0.3, l1_ratio=1 / 3, tol=1e-12, max_iter=100_000).fit(X, y)
    np.testing.assert_allclose(beta, theirs.coef_, atol=1e-7)
    assert b == pytest.approx(theirs.intercept_, abs=1e-7)
    signs = np.where(y > np.median(y), 1.0, -1.0)
    beta, b = cx.sparse.sparse_logistic.with_intercept(X, signs, 0.05)
    theirs = LogisticRegression(
        C=1 / (30 * 0.05), l1_ratio=1.0, solver="saga", tol=1e-10, max_iter=100_000
    ).fit(X, signs)
    np.testing.assert_allclose(beta, theirs.coef_[0], atol=1e-5)
    assert b == pytest.approx(theirs.intercept_[0], abs=1e-5)


def test_an_intercept_has_derivatives_too():
    X, y = data(30, 10, 4)

    def both(X, y, a):
        beta, b = cx.sparse.lasso.with_intercept(X, y + 3.0, a)
        return jnp.sum(beta**2) + b**3

    args = (jnp.asarray(X), jnp.asarray(y), 0.1)
    grads = jax.grad(both, (0, 1, 2))(*args)
    rng = np.random.default_rng(0)
    for place, grad in enumerate(grads):
        d, h = rng.normal(size=np.shape(args[place])), 1e-6
        ends = [
            float(both(*(a + s * h * d if i == place else a for i, a in enumerate(args))))
            for s in (1, -1)
        ]
        assert np.vdot(grad, d) == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("convert", [sp.csr_matrix, sp.csc_array, "bcoo"])
def test_sparse_designs_are_the_dense_ones(convert):
    from jax.experimental.sparse import BCOO

    X, y = data(30, 12, 7)
    X[np.abs(X) < 0.7] = 0
    held = BCOO.fromdense(X) if convert == "bcoo" else convert(X)
    for model, rest in ((cx.sparse.lasso, (0.1,)), (cx.sparse.elastic_net, (0.1, 0.2))):
        loss = lambda a, X=X, m=model, r=rest: jnp.sum(m(X, y, a, *r[1:]) ** 2)  # noqa: E731
        np.testing.assert_allclose(model(held, y, *rest), model(X, y, *rest), atol=1e-10)
        np.testing.assert_allclose(
            jax.grad(lambda a, f=loss: f(a, held))(0.1), jax.grad(loss)(0.1), rtol=1e-8
        )
    one, two = (float(cx.sparse.lasso.with_intercept(A, y, 0.1)[1]) for A in (held, X))
    assert one == pytest.approx(two, abs=1e-10)


def test_large_problems_start_with_celer_and_end_exact():
    X, y, _ = make_correlated_data(100, 400, random_state=1)
    for alpha in np.abs(X.T @ y).max() / 100 / np.array([3.0, 30.0]):
        by_celer, alone = (cx.sparse.lasso(X, y, alpha, solver=s) for s in ("auto", "numpy"))
        np.testing.assert_allclose(by_celer, alone, atol=1e-9)
        pull = X.T @ (y - X @ np.asarray(alone)) / 100
        assert np.abs(pull).max() <= alpha * (1 + 1e-9)
        on = np.asarray(alone) != 0
        np.testing.assert_allclose(pull[on], alpha * np.sign(np.asarray(alone)[on]), rtol=1e-8)


def test_single_precision():
    X, y = (a.astype(np.float32) for a in data(30, 10, 4))
    beta = cx.sparse.lasso(X, y, np.float32(0.1))
    assert beta.dtype == np.float32
    double = cx.sparse.lasso(X.astype(float), y.astype(float), 0.1)
    np.testing.assert_allclose(beta, double, atol=1e-3)
    slope = jax.grad(lambda X: cx.sparse.lasso(X, y, 0.1).sum())(jnp.asarray(X))
    exact = jax.grad(lambda X: cx.sparse.lasso(X, y.astype(float), 0.1).sum())(
        jnp.asarray(X, float)
    )
    assert slope.dtype == np.float32
    np.testing.assert_allclose(slope, exact, atol=1e-3)


def test_warm_starts_change_nothing():
    X, y = data(30, 10, 4)
    cold = cx.sparse.lasso(X, y, 0.1)
    for start in (cold, np.ones(10), -100 * np.ones(10)):
        np.testing.assert_allclose(cx.sparse.lasso(X, y, 0.1, warm_start=start), cold, atol=1e-10)


def test_above_the_largest_penalty_all_is_zero():
    X, y = data()
    largest = np.abs(X.T @ y).max() / len(y)
    beta, slope = jax.jvp(lambda a: cx.sparse.lasso(X, y, a), (1.01 * largest,), (1.0,))
    assert not np.any(beta)
    assert not np.any(slope)
    assert not np.any(cx.sparse.lasso(X, 0 * y, 0.1))
    X[:, 2] = 1.0
    beta, b = cx.sparse.lasso.with_intercept(X, y, 0.05)
    assert beta[2] == 0
    assert np.isfinite(b)


def test_dependent_columns_have_no_derivative():
    """Raised eagerly; NaN under jit; and a zero cotangent has a zero gradient."""
    X, y = data()
    X[:, 1] = X[:, 0]
    solve = lambda a: cx.sparse.lasso(X, y, a, warm_start=np.eye(8)[0] + np.eye(8)[1])  # noqa: E731
    beta = np.asarray(solve(0.1))
    assert beta[0] != 0
    assert beta[1] != 0
    with pytest.raises(SingularError, match="depend on each other"):
        jax.grad(lambda a: solve(a).sum())(0.1)
    assert np.isnan(jax.jit(jax.grad(lambda a: solve(a).sum()))(0.1))
    assert jax.jit(jax.grad(lambda a: 0.0 * solve(a).sum()))(0.1) == 0
    assert jax.grad(lambda a: 0.0 * solve(a).sum())(0.1) == 0


def test_one_bad_item_of_a_batch_fails_alone():
    X, y = data()
    ys = jnp.stack([jnp.asarray(y), jnp.full(len(y), jnp.nan), 2 * jnp.asarray(y)])
    betas = jax.jit(jax.vmap(lambda y: cx.sparse.lasso(X, y, 0.2)))(ys)
    assert np.isnan(betas[1]).all()
    np.testing.assert_allclose(betas[0], cx.sparse.lasso(X, y, 0.2), atol=1e-12)
    safe = jax.grad(
        lambda ys: jnp.sum(
            jnp.where(jnp.array([True, False, True])[:, None],
                      jax.vmap(lambda y: cx.sparse.lasso(X, y, 0.2))(ys), 0.0) ** 2
        )
    )(ys)  # fmt: skip
    assert np.isfinite(safe).all()
    assert not safe[1].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 0.0}, "alpha must be positive"),
        ({"alpha": -1.0}, "alpha must be positive"),
        ({"alpha": np.ones(2)}, "alpha must be a number"),
        ({"y": np.ones(3)}, "y must have shape"),
        ({"X": np.ones(3)}, "X must be a matrix"),
        ({"X": np.full((20, 8), np.nan)}, "Input X contains NaN"),
        ({"y": np.full(20, np.inf)}, "Input y contains infinity"),
        ({"sample_weight": np.zeros(20)}, "sample_weight must be nonnegative"),
        ({"sample_weight": np.ones(3)}, "sample_weight must have shape"),
        ({"selection": "nonsense"}, "neither 'support' nor 'lars'"),
        ({"solver": "nonsense"}, "neither 'auto' nor 'numpy'"),
        ({"warm_start": np.ones(3)}, "warm_start must hold"),
    ],
)
def test_bad_input_is_named(change, message):
    X, y = data()
    given = {"X": X, "y": y, "alpha": 0.1} | change
    with pytest.raises(InvalidInputError, match=message):
        cx.sparse.lasso(given.pop("X"), given.pop("y"), given.pop("alpha"), **given)
    with pytest.raises(InvalidInputError, match="labels"):
        cx.sparse.sparse_logistic(X, y, 0.1)


def test_a_repeated_call_compiles_nothing(caplog):
    X, y = data()
    loss = lambda a: jnp.sum(cx.sparse.lasso(X, y, a) ** 2)  # noqa: E731
    jax.grad(loss)(0.1)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        jax.grad(loss)(0.12)
    assert not [r for r in caplog.records if "Compiling" in r.message or "compilation" in r.message]


@pytest.mark.parametrize("name", ["svm", "svr"])
def test_samples_of_weight_zero_take_no_part_in_a_dual(name):
    case = cases()[name]
    kept = np.arange(len(case.y)) >= 5
    model, C = getattr(cx.sparse, name), case.parameters[0]
    beta = model(case.X, case.y, C, sample_weight=kept.astype(float))
    np.testing.assert_allclose(beta, model(case.X[kept], case.y[kept], C), atol=1e-9)


@pytest.mark.parametrize(("scale", "rtol"), [(1e2, 1e-9), (1e4, 1e-6), (1e6, 1e-3)])
def test_a_machine_of_large_features_is_the_linear_programs(scale, rtol):
    """β(sX) = β(X, s²C)/s, and where C is large the mean hinge loss alone decides.

    The dual's Gram matrix grows by s², and the rounding of its gradient with it.
    """
    X, y = data(40, 6, 3, labels=True)
    n, p = X.shape
    program = linprog(
        np.r_[np.zeros(p), np.ones(n)],
        A_ub=np.hstack([-y[:, None] * X, -np.eye(n)]),
        b_ub=-np.ones(n),
        bounds=[(None, None)] * p + [(0, None)] * n,
    )
    rounds = []

    def solver(problem, start):
        rounds.append(working_set(problem, start, rounds=10))
        return rounds[-1]

    beta = cx.sparse.svm(scale * X, y, 2.0, solver=solver)
    np.testing.assert_allclose(scale * beta, program.x[:p], rtol=rtol)
    assert rounds[0].solved
    with pytest.raises(NotConvergedError):  # nothing is left of the gradient
        cx.sparse.svm(1e10 * X, y, 2.0)


@pytest.mark.parametrize("scale", [1.0, 31.0])
def test_a_large_penalty_of_errors_is_solved_on_its_faces(scale):
    """More free samples than features, and no gradient at zero to measure by: liblinear's answer."""
    from sklearn.svm import LinearSVC

    X, y = data(30, 6, 3, labels=True)
    rows = np.repeat(np.arange(30), np.arange(30) % 3)  # some samples twice
    X, y = scale * X[rows], y[rows]
    rounds = []

    def solver(problem, start):
        rounds.append(working_set(problem, start, rounds=8))
        return rounds[-1]

    beta = cx.sparse.svm(X, y, 300.0, solver=solver)
    theirs = LinearSVC(
        C=300.0 / len(y), loss="hinge", fit_intercept=False, tol=1e-10, max_iter=5_000_000
    )
    np.testing.assert_allclose(beta, theirs.fit(X, y).coef_[0], rtol=1e-5, atol=1e-7)
    assert rounds[0].solved
