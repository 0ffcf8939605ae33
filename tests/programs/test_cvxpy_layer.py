"""CvxpyLayer: closed forms, CVXPY's own solves and dual variables, central differences."""

import copy
import pickle
import subprocess
import sys
import types
import warnings

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conservax.errors import InfeasibleError, InvalidInputError, MissingPackageError, UnboundedError
from conservax.invertibility import Verdict
from conservax.programs import CvxpyLayer, Solver
from programs.compiled import with_jacobian


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def assert_gradients(layer, values, tolerance, step=1e-5):
    """Against central differences in every entry; all points are one batch."""

    def value(*values):
        return sum(jnp.sum(jnp.cos(out)) for out in layer(*values))

    values = [np.asarray(value, float) for value in values]
    gradient = jax.value_and_grad(value, tuple(range(len(values))))
    moves = [(k, place) for k, own in enumerate(values) for place in np.ndindex(own.shape)]
    points = [np.repeat(own[None], 1 + 2 * len(moves), axis=0) for own in values]
    for i, (k, place) in enumerate(moves):
        points[k][(1 + 2 * i, *place)] += step
        points[k][(2 + 2 * i, *place)] -= step
    found, gradients = jax.jit(jax.vmap(gradient))(*points)
    expected = (found[1::2] - found[2::2]) / (2 * step)
    own = np.concatenate([np.ravel(part[0]) for part in gradients])
    np.testing.assert_allclose(own, expected, atol=tolerance, rtol=tolerance)


@pytest.fixture(scope="module")
def ridge():
    A, b, x = cp.Parameter((6, 3), name="A"), cp.Parameter(6, name="b"), cp.Variable(3)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b) + cp.sum_squares(x)))
    return CvxpyLayer(problem, [A, b], [x])


def closed_ridge(A, b):
    return jnp.linalg.solve(A.T @ A + jnp.eye(3), A.T @ b)


def test_ridge_in_closed_form_with_batched_and_unbatched_values(ridge, rng):
    A, b = rng.normal(size=(6, 3)), rng.normal(size=(4, 6))

    def everything(solve, batch):
        def run(A, b):
            jacobian = jax.jacrev(lambda A: solve(A, b[0]))(A)
            return batch(A, b), jacobian

        return jax.jit(run)(A, b)

    x, found = everything(lambda A, b: ridge(A, b)[0], lambda A, b: ridge(A, b)[0])
    expected, jacobian = everything(closed_ridge, jax.vmap(closed_ridge, (None, 0)))
    assert x.shape == (4, 3)
    np.testing.assert_allclose(x, expected, atol=1e-10)
    np.testing.assert_allclose(found, jacobian, atol=1e-9)
    mapped = jax.jit(jax.vmap(lambda b: ridge(A, b)[0]))(b)
    np.testing.assert_allclose(mapped, x, atol=1e-12)
    alone = ridge(A, b[:1])[0]
    assert alone.shape == (1, 3)
    np.testing.assert_allclose(alone, x[:1], atol=1e-12)


def test_hessians_and_forward_mode(ridge, rng):
    A, b = rng.normal(size=(6, 3)), rng.normal(size=6)
    found = jax.jit(jax.hessian(lambda A: jnp.sum(ridge(A, b)[0] ** 2)))(A)
    expected = jax.jit(jax.hessian(lambda A: jnp.sum(closed_ridge(A, b) ** 2)))(A)
    np.testing.assert_allclose(found, expected, atol=1e-8)


def test_structured_parameters_and_a_parametric_quadratic_form(rng):
    n = 3
    S, D = cp.Parameter((n, n), PSD=True), cp.Parameter((n, n), diag=True)
    T = cp.Parameter((n, n), sparsity=([0, 1], [2, 0]))
    M = cp.Parameter((n, n), symmetric=True)
    x = cp.Variable(n)
    objective = cp.quad_form(x, S) + cp.sum_squares(D @ x - 1) + cp.sum((M + T) @ x)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(objective)), [S, T, D, M], [x])
    root = rng.normal(size=(n, n))
    values = [root @ root.T, np.zeros((n, n)), np.diag([1.0, 2.0, 3.0]), root + root.T]
    values[1][0, 2], values[1][1, 0] = 0.7, -0.4

    def closed(S, T, D, M):
        return jnp.linalg.solve(2 * S + 2 * D.T @ D, 2 * D.T @ jnp.ones(n) - (M + T).sum(axis=0))

    # along directions that keep the structure
    directions = [values[0] + np.eye(n), values[1], values[2], values[3] * 0.5]
    x, found = jax.jit(lambda v, d: jax.jvp(lambda *v: layer(*v)[0], v, d))(values, directions)
    value, expected = jax.jit(lambda v, d: jax.jvp(closed, v, d))(values, directions)
    np.testing.assert_allclose(x, value, atol=1e-9)
    np.testing.assert_allclose(found, expected, atol=1e-8)


def test_problems_without_constraints():
    """Also such as get constraints only when CVXPY rewrites them, after it has chosen a solver."""
    x, p, g = cp.Variable(2), cp.Parameter(2), cp.Parameter(nonneg=True)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(g * cp.sum_squares(x) + p @ x)), [p, g], [x])
    values = jnp.array([1.0, -2.0]), jnp.array(0.5)
    np.testing.assert_allclose(layer(*values)[0], -values[0], atol=1e-9)
    assert_gradients(layer, values, 1e-7)
    # the largest of |x₁ − p₁|, |x₂ − p₂|, |x₁ + x₂ − 3|: x = p + u, with the three residuals equal
    A, b = cp.Parameter((3, 2)), cp.Parameter(3)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.norm_inf(A @ x - b))), [A, b], [x])
    values = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), jnp.array([0.4, 0.8, 3.0])
    np.testing.assert_allclose(layer(*values)[0], [1.0, 1.4], atol=1e-8)
    assert_gradients(layer, values, 1e-5)
    positive, q = cp.Variable(pos=True), cp.Parameter(pos=True)
    geometric = cp.Problem(cp.Minimize(positive + q / positive))
    layer = CvxpyLayer(geometric, [q], [positive], gp=True)
    np.testing.assert_allclose(layer(jnp.array(4.0))[0], 2.0, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("unit", [1e-6, 1e-2, 1.0, 50.0, 1e3, 1e6])
def test_the_unit_of_the_data_does_not_matter(projections, dtype, unit):
    p = jnp.array([1.0, -2.0, 0.5], dtype) * unit
    # onto the orthant, and onto the simplex of size 1 unit
    for layer, data, expected, J in zip(
        projections,
        [(p,), (p, jnp.asarray(unit, dtype))],
        [[1.0, 0.0, 0.5], [0.75, 0.0, 0.25]],
        [np.diag([1.0, 0.0, 1.0]), [[0.5, 0.0, -0.5], [0.0, 0.0, 0.0], [-0.5, 0.0, 0.5]]],
        strict=True,
    ):
        found, jacobian, info = layer(*data)
        eps = float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(np.asarray(found) / unit, expected, atol=20 * eps)
        np.testing.assert_allclose(jacobian, J, atol=20 * eps)
        assert info.verdict == 1
        assert info.margin > 1e-2


@pytest.fixture(scope="module")
def projections():
    """p, … ↦ the projection, its Jacobian and info; least squares as CVXPY writes them, P x + c in b."""
    p, x, size = cp.Parameter(3), cp.Variable(3), cp.Parameter(nonneg=True)
    nearest = cp.Minimize(cp.sum_squares(x - p))

    def compiled(layer):
        def both(*data):
            (found,), info = layer.solve(*data)
            return found, (found, info)

        def run(*data):
            J, (found, info) = jax.jacrev(both, has_aux=True)(*data)
            return found, J, info

        return jax.jit(run)

    return [
        compiled(CvxpyLayer(cp.Problem(nearest, [x >= 0]), [p], [x])),
        compiled(CvxpyLayer(cp.Problem(nearest, [x >= 0, cp.sum(x) == size]), [p, size], [x])),
    ]


def test_a_batch_of_none():
    p, x = cp.Parameter(2), cp.Variable(2)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x >= 0]), [p], [x])
    assert layer(jnp.ones((0, 2)))[0].shape == (0, 2)


def test_gradients_in_a_symmetric_parameter_are_symmetric():
    S, x = cp.Parameter((2, 2), PSD=True), cp.Variable(2)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.quad_form(x, S) + cp.sum(x))), [S], [x])
    value = jnp.array([[2.0, 0.5], [0.5, 1.0]])

    def closed_form(S):
        return -jnp.linalg.solve(S + S.T, jnp.ones(2))[0]

    both = jax.jit(jax.value_and_grad(lambda S: layer(S)[0][0]))
    np.testing.assert_allclose(both(value)[1], jax.grad(closed_form)(value), atol=1e-9)
    # of any other value the symmetric part counts, so that differences see the same gradient
    moved = value.at[0, 1].add(1e-4)
    np.testing.assert_allclose(both(moved)[0], closed_form(moved), atol=1e-9)


@pytest.mark.parametrize("length", [3.0, 0.56])
def test_dual_variables_of_every_kind_of_constraint(length):
    """The second-order cone is active where it is short, the first bound where it is long."""
    p = cp.Parameter(3, name="p")
    x, X = cp.Variable(3), cp.Variable((2, 2), symmetric=True)
    constraints = [
        cp.sum(x) == 1,
        x <= 0.6,
        cp.SOC(length * cp.sum(p), x),
        X >> np.eye(2),
        cp.ExpCone(x[:2] - 1, np.ones(2), np.array([1.0, 0.4])),
    ]
    objective = cp.sum_squares(x - p) + cp.trace(X @ np.array([[2.0, 0.3], [0.3, 1.0]]))
    problem = cp.Problem(cp.Minimize(objective), constraints)
    duals = [dual for constraint in constraints for dual in constraint.dual_variables]
    layer = CvxpyLayer(problem, [p], [x, X, *duals])
    value = np.array([0.9, 0.2, 0.1])
    outputs, info = layer.solve(jnp.asarray(value))
    assert info.solver == Solver.CLARABEL
    p.value = value
    problem.solve(solver="CLARABEL", tol_gap_abs=1e-11, tol_gap_rel=1e-11, tol_feas=1e-11)
    idle = constraints[2 if length > 1 else 1]
    for constraint in constraints:
        largest = max(np.abs(dual.value).max() for dual in constraint.dual_variables)
        assert (largest > 0.1) == (constraint is not idle)
    for found, expected in zip(outputs, [x, X, *duals], strict=True):
        assert found.shape == expected.shape
        # CVXPY's value of a vector in a second-order cone is a column
        np.testing.assert_allclose(found, np.reshape(expected.value, found.shape), atol=1e-6)
    assert_gradients(layer, [value], 1e-5)


def test_sparse_logistic_regression_in_its_penalty(rng):
    features, labels = rng.normal(size=(12, 4)), np.sign(rng.normal(size=12))
    lam, w = cp.Parameter(nonneg=True), cp.Variable(4)
    loss = cp.sum(cp.logistic(-cp.multiply(labels, features @ w)))
    layer = CvxpyLayer(cp.Problem(cp.Minimize(loss + lam * cp.norm1(w))), [lam], [w])
    both = jax.jacfwd(lambda lam: (layer(lam)[0],) * 2, has_aux=True)
    found, weights = jax.device_get(jax.jit(both)(1.5))
    margins = labels * (features @ weights)
    slope = -features.T @ (labels / (1 + np.exp(margins)))
    active = np.abs(weights) > 1e-8
    np.testing.assert_allclose(slope[active], -1.5 * np.sign(weights[active]), atol=1e-8)
    assert (np.abs(slope[~active]) <= 1.5 + 1e-8).all()
    curvature = (features.T * (np.exp(-margins) / (1 + np.exp(-margins)) ** 2)) @ features
    expected = np.zeros(4)
    expected[active] = -np.linalg.solve(curvature[np.ix_(active, active)], np.sign(weights[active]))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_entropic_transport_is_sinkhorn(rng):
    n, eps = 3, 0.5
    cost, P = cp.Parameter((n, n)), cp.Variable((n, n))
    entropy = cp.sum(cp.entr(P))
    shares = np.full(n, 1 / n)
    constraints = [cp.sum(P, axis=1) == shares, cp.sum(P, axis=0)[:-1] == shares[:-1]]
    objective = cp.Minimize(cp.sum(cp.multiply(cost, P)) - eps * entropy)
    layer = CvxpyLayer(cp.Problem(objective, constraints), [cost], [P])

    def sinkhorn(cost):
        K = jnp.exp(-cost / eps)
        v = jnp.ones(n)

        def sweep(v, _):
            return shares / (K.T @ (shares / (K @ v))), None

        v, _ = jax.lax.scan(sweep, v, length=200)
        return (shares / (K @ v))[:, None] * K * v

    C = rng.uniform(size=(n, n))
    plan, found = with_jacobian(lambda C: layer(C)[0])(C)
    expected, jacobian = with_jacobian(sinkhorn)(C)
    np.testing.assert_allclose(plan, expected, atol=1e-8)
    np.testing.assert_allclose(found, jacobian, atol=1e-6)


def test_log_det_in_closed_form():
    """max log det X − ⟨S, X⟩ is X = S⁻¹."""
    S, X = cp.Parameter((2, 2), symmetric=True), cp.Variable((2, 2), PSD=True)
    layer = CvxpyLayer(cp.Problem(cp.Maximize(cp.log_det(X) - cp.trace(S @ X))), [S], [X])
    value = np.array([[2.0, 0.4], [0.4, 1.0]])
    direction = np.array([[0.3, -0.2], [-0.2, 0.5]])
    tangent = jax.jit(lambda S, d: jax.jvp(lambda S: layer(S)[0], (S,), (d,)))
    found, slope = tangent(value, direction)
    inverse = np.linalg.inv(value)
    np.testing.assert_allclose(found, inverse, atol=1e-7)
    np.testing.assert_allclose(slope, -inverse @ direction @ inverse, atol=1e-6)


def test_a_geometric_program_in_closed_form():
    """min 1/(xy) over a x + b y ≤ c: x = c/(2a), y = c/(2b)."""
    x, y = cp.Variable(pos=True), cp.Variable(pos=True)
    a, b, c = (cp.Parameter(pos=True, name=name) for name in "abc")
    problem = cp.Problem(cp.Minimize(1 / (x * y)), [a * x + b * y <= c])
    layer = CvxpyLayer(problem, [c, a, b], [y, x], gp=True)
    values = [jnp.asarray(v) for v in ([3.0, 2.0], [1.5, 1.0], [0.5, 0.7])]
    C, A, B = values

    def total(*values):
        y, x = layer(*values)
        return jnp.sum(x), (y, x)

    run = jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))
    (_, (found_y, found_x)), gradients = run(*values)
    np.testing.assert_allclose(found_x, C / (2 * A), rtol=1e-8)
    np.testing.assert_allclose(found_y, C / (2 * B), rtol=1e-8)
    for found, expected in zip(gradients, (1 / (2 * A), -C / (2 * A**2), 0 * B), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-7)
    with pytest.raises(InvalidInputError, match="must be positive"):
        layer(C, -A, B)


def test_max_cut_is_refuted_where_it_is_degenerate():
    """max ⟨L, X⟩/4 over X ≽ 0 with ones on the diagonal; a path: X = vvᵀ, v = (1, −1, 1)."""
    L, X = cp.Parameter((3, 3), symmetric=True), cp.Variable((3, 3), PSD=True)
    one = cp.diag(X) == 1
    layer = CvxpyLayer(cp.Problem(cp.Maximize(cp.trace(L @ X) / 4), [one]), [L], [X])
    path = jnp.array([[1.0, -1, 0], [-1, 2, -1], [0, -1, 1]])
    signs = jnp.array([1.0, -1.0, 1.0])
    np.testing.assert_allclose(layer(path)[0], jnp.outer(signs, signs), atol=1e-7)
    assert layer.check(path).verdict == Verdict.PROVEN
    assert layer.check(jnp.zeros((3, 3))).verdict == Verdict.REFUTED


def test_check_names_the_weakly_active_constraint():
    p, x = cp.Parameter(2), cp.Variable(2)
    above = (x >= 0).set_label("above the floor")
    layer = CvxpyLayer(
        cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [cp.sum(x) <= 9, above]), [p], [x]
    )
    report = layer.check(jnp.array([1.0, 0.0]))
    assert report.verdict == Verdict.PROVEN
    ((name, index),) = [(kink.operation, kink.index) for kink in report.kinks]
    assert name == "above the floor"
    assert index == (1,)
    assert "above the floor" in str(report)


def test_a_constraint_without_label_is_named_by_number_and_shape():
    p, x, X, t = cp.Parameter(2), cp.Variable(2), cp.Variable((2, 3)), cp.Variable()
    matrix = np.arange(4.0).reshape(2, 2)
    constraints = [matrix @ x <= 9, x >= 0, X == np.ones((2, 3)), t >= 1]
    objective = cp.Minimize(cp.sum_squares(x - p) + cp.square(t - 1))
    layer = CvxpyLayer(cp.Problem(objective, constraints), [p], [x])
    names = [name for name, _ in layer.canonical.rows]
    numbered = ["constraints[0] (2)", "constraints[1] (2)", "constraints[2] (2 × 3)"]
    assert names == [*numbered, "constraints[3] (scalar)"]
    report = layer.check(jnp.array([1.0, 0.0]))
    assert {str(kink) for kink in report.kinks} == {"constraints[1] (2) [1]", f"{names[3]} [0]"}
    assert "constraints[1] (2)" in str(report)


def test_a_failed_item_is_nan_alone():
    x, p = cp.Variable(), cp.Parameter()
    layer = CvxpyLayer(cp.Problem(cp.Minimize(x), [x >= p, x <= 1]), [p], [x])
    outputs, info = layer.solve(jnp.array([0.5, 2.0, -1.0]))
    np.testing.assert_allclose(outputs[0], [0.5, np.nan, -1.0], atol=1e-9)
    assert info.status.tolist() == [0, 1, 0]
    with pytest.raises(InfeasibleError):
        layer(jnp.array(2.0))
    free = CvxpyLayer(cp.Problem(cp.Minimize(x), [x <= p, 0 * x <= 1]), [p], [x])
    with pytest.raises(UnboundedError):
        free(jnp.array(2.0))


def test_errors_are_those_of_diffcp_too_where_it_is_in_use(monkeypatch):
    peer = types.ModuleType("diffcp")
    peer.SolverError = type("SolverError", (Exception,), {})
    monkeypatch.setitem(sys.modules, "diffcp", peer)
    x, p = cp.Variable(), cp.Parameter()
    layer = CvxpyLayer(cp.Problem(cp.Minimize(x), [x >= p, x <= 1]), [p], [x])
    with pytest.raises(peer.SolverError) as caught:
        layer(jnp.array(2.0))
    assert isinstance(caught.value, InfeasibleError)


def test_bad_input(ridge, monkeypatch):
    x, p, q = cp.Variable(2, name="x"), cp.Parameter(2), cp.Parameter(2)
    stated = cp.Problem(cp.Minimize(cp.sum_squares(x - p) + q @ x))

    def relaxed(y):
        return cp.Problem(cp.Minimize(cp.sum_squares(cp.abs(y)))), [], [y]

    cases = [
        ((stated, [p], [x]), "must exactly match problem.parameters"),
        ((stated, {p, q}, [x]), "as a list or tuple"),
        ((stated, [p, q], [cp.Variable(2)]), "must be a subset of problem.variables"),
        ((stated, [p, q], ["x"]), "Variable x must be a subset of problem.variables"),
        ((stated.objective, [p, q], [x]), "must be a cvxpy.Problem, but is "),
        ((cp.Problem(cp.Minimize(cp.sum_squares(p[0] * (q[0] * x)))), [p, q], [x]), "must be DPP"),
        ((cp.Problem(cp.Maximize(cp.sum_squares(x - p))), [p], [x]), "DPP, and .* not even convex"),
        (relaxed(cp.Variable(2, integer=True)), "relax it to an interval"),
        (relaxed(cp.Variable(2, imag=True)), "split it into two real ones"),
    ]
    for arguments, message in cases:
        with pytest.raises(InvalidInputError, match=message):
            CvxpyLayer(*arguments)
    A, b = jnp.zeros((6, 3)), jnp.zeros(6)
    calls = [
        ((A,), "A tensor must be provided for each CVXPY parameter"),
        ((A, jnp.zeros(5)), r"Invalid parameter shape for parameter 1 \(b\)"),
        ((A, jnp.zeros((2, 2, 6))), "Invalid parameter dimensionality for parameter 1"),
        ((jnp.zeros((3, 6, 3)), jnp.zeros((2, 6))), "Inconsistent batch sizes"),
        ((A, b.at[2].set(jnp.nan)), r"parameter 1 \(b\) holds NaN"),
    ]
    for values, message in calls:
        with pytest.raises(InvalidInputError, match=message):
            ridge(*values)
        with pytest.raises(InvalidInputError, match=message):
            ridge.check(*values)
    symmetric, diagonal = cp.Parameter((2, 2), symmetric=True), cp.Parameter((2, 2), diag=True)
    structured = cp.Problem(cp.Minimize(cp.sum_squares(x)), [(symmetric + diagonal) @ x <= 1])
    layer, lower = CvxpyLayer(structured, [symmetric, diagonal], [x]), jnp.array([[1.0, 0], [5, 1]])
    with pytest.raises(InvalidInputError, match=r"parameter 1 .* is not diagonal"):
        layer(jnp.eye(2), lower)
    with pytest.raises(InvalidInputError, match=r"parameter 1 .* is not diagonal"):
        layer(jnp.stack([jnp.eye(2)] * 2), jnp.stack([jnp.eye(2), lower]))
    with pytest.raises(AttributeError, match="pass an array"):
        ridge(A, None)
    with pytest.raises(InvalidInputError, match="unknown key 'epps'"):
        ridge(A, b, solver_args={"epps": 1})
    with pytest.raises(InvalidInputError, match="solver must be one of"):
        CvxpyLayer(stated, [p, q], [x], solver="MOSEK")
    monkeypatch.setitem(sys.modules, "cvxpy", None)
    with pytest.raises(MissingPackageError, match=r"pip install \"conservax\[cvxpy\]\""):
        CvxpyLayer(stated, [p, q], [x])


def test_values_have_the_sign_they_were_declared_with():
    x, weight, ceiling = (
        cp.Variable(),
        cp.Parameter(nonneg=True, name="w"),
        cp.Parameter(nonpos=True),
    )
    objective = cp.Minimize(weight * cp.square(x) + x)
    layer = CvxpyLayer(cp.Problem(objective, [x <= ceiling]), [weight, ceiling], [x])
    np.testing.assert_allclose(layer(jnp.array(0.25), jnp.array(-1.0))[0], -2.0, atol=1e-9)
    layer(jnp.array(0.25), jnp.array(1e-9))  # a slip of rounding
    with pytest.raises(InvalidInputError, match=r"parameter 0 \(w\) was declared to be positive"):
        layer(jnp.array(-0.5), jnp.array(-1.0))
    with pytest.raises(InvalidInputError, match=r"parameter 1 .* negative or zero"):
        layer(jnp.array([0.5, 0.2]), jnp.array([-1.0, 1.0]))


def test_a_problem_that_was_solved_before_keeps_its_values():
    """The mean of the largest 2.2 of four losses."""
    losses, w, p = np.array([[1.0, 0], [0, 1], [2, 0], [0, 3]]), cp.Variable(2), cp.Parameter(2)
    objective = cp.cvar(losses @ w, 0.45) + cp.sum_squares(w - p)
    problem = cp.Problem(cp.Minimize(objective), [cp.sum(w) == 1])
    p.value = np.array([0.7, 0.4])
    problem.solve(solver="CLARABEL")
    solved = w.value.copy()
    (found,) = CvxpyLayer(problem, [p], [w])(jnp.asarray(p.value))
    np.testing.assert_allclose(found, solved, atol=1e-6)
    np.testing.assert_array_equal(w.value, solved)


def test_a_layer_travels_and_says_what_it_is(ridge, rng):
    A, b = rng.normal(size=(6, 3)), rng.normal(size=6)
    for again in (pickle.loads(pickle.dumps(ridge)), copy.deepcopy(ridge)):
        np.testing.assert_array_equal(again(A, b)[0], ridge(A, b)[0])
    assert repr(ridge).startswith("CvxpyLayer(A (6, 3), b (6,) → var")
    # where CVXPY numbers its variables anew
    script = (
        "import pickle, sys, jax, numpy as np; jax.config.update('jax_enable_x64', True); "
        "layer, values = pickle.loads(sys.stdin.buffer.read()); "
        "sys.stdout.buffer.write(pickle.dumps(np.asarray(layer(*values)[0])))"
    )
    sent = pickle.dumps((ridge, (np.asarray(A), np.asarray(b))))
    there = subprocess.run(
        [sys.executable, "-c", script], input=sent, capture_output=True, check=True
    )
    np.testing.assert_allclose(pickle.loads(there.stdout), ridge(A, b)[0], rtol=1e-12)


@pytest.mark.parametrize("name", ["DIFFCP", "MPAX", "MOREAU", "cuclarabel"])
def test_names_of_solvers_that_are_not_here_are_accepted(name):
    x, p = cp.Variable(2), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x >= 0])
    layer = CvxpyLayer(problem, [p], [x], solver=name)
    _, info = layer.solve(jnp.array([1.0, -1.0]), solver_args={"alpha": 1.5})
    assert info.solver == (Solver.CLARABEL if name == "cuclarabel" else Solver.MOREAU)
    (found,) = layer(jnp.array([1.0, -1.0]), solver_args={"solve_method": "ECOS", "abstol": 1e-9})
    np.testing.assert_allclose(found, [1.0, 0.0], atol=1e-9)


def test_what_cvxpy_added_may_be_left_free():
    """|xᵢ| ≤ 1 becomes |xᵢ| ≤ tᵢ ≤ 1: where |xᵢ| < 1 no one determines tᵢ, and xᵢ moves on."""
    p, x = cp.Parameter(3), cp.Variable(3)
    constraints = [cp.abs(x) <= 1, cp.norm(x) <= 9, cp.max(cp.abs(x)) <= 8]
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - p)), constraints), [p], [x])
    point = jnp.array([0.5, 2.0, -0.3])
    expected = np.diag([1.0, 0.0, 1.0])

    def square(p):
        (x,), info = layer.solve(p)
        return x**2, (x, info)

    def jacobian(p):
        J, solution = jax.jacrev(square, has_aux=True)(p)
        return J, (J, *solution)

    second, (first, found, info) = jax.jit(jax.jacfwd(jacobian, has_aux=True))(point)
    np.testing.assert_allclose(found, [0.5, 1.0, -0.3], atol=1e-9)
    assert info.verdict == 1
    np.testing.assert_allclose(first, 2 * point * expected, atol=1e-9)
    np.testing.assert_allclose(second[0, 0, 0], 2.0)
    assert layer.check(point).verdict == Verdict.PROVEN


def test_what_the_user_asked_for_may_not():
    """min |x₁| + |x₂| over x₁ + x₂ = p has many solutions, whatever stands for the moduli."""
    p, x = cp.Parameter(), cp.Variable(2)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.norm1(x)), [cp.sum(x) == p]), [p], [x])

    def solve(p):
        (x,), info = layer.solve(p)
        return x, info

    slope, info = jax.jit(jax.jacrev(solve, has_aux=True))(jnp.array(1.0))
    assert info.verdict == -1
    assert np.isnan(slope).all()
    assert layer.check(jnp.array(1.0)).verdict == Verdict.REFUTED


def test_rows_that_cvxpy_added_are_named_as_its_own():
    """λ_max of a sum that is symmetric, of which CVXPY does not know it: it asks for X = Xᵀ, 0 = 0."""
    X = cp.Variable((2, 2), symmetric=True, name="X")
    plain, known = cp.Parameter((2, 2)), cp.Parameter((2, 2), symmetric=True)
    reports = []
    for parameter, sum_ in ((plain, plain + plain.T), (known, 2 * known)):
        objective = cp.lambda_max(X + sum_) + cp.sum_squares(X)
        layer = CvxpyLayer(cp.Problem(cp.Minimize(objective), [X[0, 0] >= -9]), [parameter], [X])
        reports.append(layer.check(np.array([[1.0, 0.3], [0.3, -1.0]])))
    assert reports[0].verdict == Verdict.REFUTED
    names = {state.operation for state in reports[0].dependent}
    assert names == {"equality that CVXPY added on X"}
    assert len({str(state) for state in reports[0].dependent}) == len(reports[0].dependent)
    assert "symmetric=True" in reports[0].reason
    assert reports[1].verdict == Verdict.PROVEN
    assert "CVXPY" not in reports[1].reason


def test_a_parameter_with_a_pattern_makes_nothing_warn():
    x, p = cp.Variable(2), cp.Parameter((2, 2), sparsity=([0, 1], [0, 1]))
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p @ np.ones(2))))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer = CvxpyLayer(problem, [p], [x])
        (found,) = layer(np.diag([1.0, 2.0]))
    np.testing.assert_allclose(found, [1.0, 2.0], atol=1e-9)


def test_a_parameter_that_nothing_depends_on_may_have_the_batch(rng):
    """CVXPY leaves 0 · r out; its batch axis counts all the same, and its gradient is zero."""
    x, p, r = cp.Variable(2), cp.Parameter(2), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p) + 0 * cp.sum(r)), [x >= 0])
    layer = CvxpyLayer(problem, [p, r], [x])
    one, many = jnp.array([0.5, -1.0]), rng.normal(size=(3, 2))
    expected = np.tile([0.5, 0.0], (3, 1))
    for solve in (layer, jax.jit(lambda a, b: layer(a, b))):
        np.testing.assert_allclose(solve(one, many)[0], expected, atol=1e-12)
    mapped = jax.vmap(lambda b: layer(one, b)[0])(many)
    np.testing.assert_allclose(mapped, expected, atol=1e-12)
    assert layer.solve(one, many)[1].verdict.tolist() == [1, 1, 1]
    slopes = jax.grad(lambda a, b: jnp.sum(layer(a, b)[0]), (0, 1))(one, many)
    np.testing.assert_allclose(slopes[0], [3.0, 0.0], atol=1e-12)
    np.testing.assert_array_equal(slopes[1], np.zeros((3, 2)))


def test_a_check_in_single_precision_knows_its_solution_in_double():
    """The solution rounded to single precision is 3e-8 off: no kink is near, and none is missed."""
    x, p = cp.Variable(3), cp.Parameter(3)
    layer = CvxpyLayer(
        cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [cp.sum(x) == 1, x >= 0]), [p], [x]
    )
    with jax.enable_x64(False):
        plain = layer.check(jnp.array([0.3, 0.5, -0.4]))
        kink = layer.check(jnp.array([0.5, 0.75, 0.125]))  # the third enters here
    assert (plain.verdict, len(plain.kinks)) == (Verdict.PROVEN, 0)
    assert (kink.verdict, len(kink.kinks)) == (Verdict.PROVEN, 1)
