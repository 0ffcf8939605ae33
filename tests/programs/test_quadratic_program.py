"""Oracles: closed forms, the KKT system of the active set, one-sided finite differences."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

import conservax as cx
from conservax.errors import InfeasibleError, InvalidInputError, UnboundedError
from conservax.invertibility import Verdict
from conservax.programs import QuadraticProgram, Status
from programs.compiled import both_ways, with_jacobian

QP = QuadraticProgram()


def random_program(seed: int, n: int = 4, p: int = 1, m: int = 5):
    rng = np.random.default_rng(seed)
    R, A, G = rng.normal(size=(n, n)), rng.normal(size=(p, n)), rng.normal(size=(m, n))
    x = rng.normal(size=n)
    return R.T @ R, 3 * rng.normal(size=n), A, A @ x, G, G @ x + 0.3 * rng.uniform(size=m)


def simplex(p):
    n = p.shape[-1]
    return QP(jnp.eye(n), -p, jnp.ones((1, n)), jnp.ones(1), -jnp.eye(n), jnp.zeros(n)).primal


def test_projection_onto_a_box_and_its_jacobian():
    p = jnp.array([-0.5, 0.3, 1.7])
    G, h = jnp.concatenate([-jnp.eye(3), jnp.eye(3)]), jnp.repeat(jnp.array([0.0, 1.0]), 3)

    def box(p):
        return QP(jnp.eye(3), -p, G=G, h=h).primal

    x, *jacobians = both_ways(box)(p)
    np.testing.assert_allclose(x, [0, 0.3, 1], atol=1e-14)
    for jacobian in jacobians:
        np.testing.assert_allclose(jacobian, np.diag([0.0, 1, 0]), atol=1e-12)


def test_projection_onto_the_simplex_and_its_jacobian():
    """On its support S it is p_S − (Σp_S − 1)/|S|, with Jacobian I_S − 11ᵀ/|S|."""
    p = jnp.array([0.9, 0.6, -0.4, 0.2])
    x, jacobian = with_jacobian(simplex)(p)
    np.testing.assert_allclose(x, [0.65, 0.35, 0, 0], atol=1e-14)
    truth = np.zeros((4, 4))
    truth[:2, :2] = np.eye(2) - 0.5
    np.testing.assert_allclose(jacobian, truth, atol=1e-12)


def test_ridge_is_exact_in_its_parameter():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(8, 3)), rng.normal(size=8)

    def ridge(lam):
        return QP(X.T @ X + lam * jnp.eye(3), -X.T @ y).primal

    def slope(lam):
        J, x = jax.jacrev(lambda lam: (ridge(lam),) * 2, has_aux=True)(lam)
        return J, (J, x)

    found_second, (found_first, x) = jax.jit(jax.jacfwd(slope, has_aux=True))(0.7)
    H = X.T @ X + 0.7 * np.eye(3)
    beta = np.linalg.solve(H, X.T @ y)
    first = -np.linalg.solve(H, beta)
    second = -2 * np.linalg.solve(H, first)
    np.testing.assert_allclose(x, beta, rtol=1e-12)
    np.testing.assert_allclose(found_first, first, rtol=1e-10)
    np.testing.assert_allclose(found_second, second, rtol=1e-9)


def test_minimum_variance_portfolio():
    """min ½wᵀΣw with 1ᵀw = 1: w = Σ⁻¹1 / 1ᵀΣ⁻¹1."""
    sigma = jnp.array([[0.04, 0.01], [0.01, 0.09]])
    w = jnp.linalg.solve(sigma, jnp.ones(2))
    portfolio = QP(sigma, jnp.zeros(2), jnp.ones((1, 2)), jnp.ones(1), -jnp.eye(2), jnp.zeros(2))
    np.testing.assert_allclose(portfolio.primal, w / w.sum(), rtol=1e-12)


@functools.cache
def losses():
    """A loss and its gradient, and its derivative along a direction."""

    def loss(*data):
        solution = QP(*data)
        weights = jnp.cos(jnp.arange(4.0))
        return weights @ solution.primal + jnp.sum(solution.dual**2) + jnp.sum(solution.slack)

    gradient = jax.value_and_grad(loss, argnums=tuple(range(6)))
    return jax.jit(gradient), jax.jit(lambda data, along: jax.jvp(loss, data, along)[1])


@pytest.mark.parametrize("seed", range(4))
def test_derivatives_in_every_datum_meet_finite_differences(seed):
    data, rng = random_program(seed), np.random.default_rng(seed)
    direction = tuple(rng.normal(size=part.shape) for part in data)
    both, tangent = losses()
    gradients = both(*data)[1]
    step = 1e-5
    for i, (part, along) in enumerate(zip(data, direction, strict=True)):
        up, down = (
            both(*data[:i], part + sign * step * along, *data[i + 1 :])[0] for sign in (1, -1)
        )
        truth = (up - down) / (2 * step)
        assert float(np.sum(gradients[i] * along)) == pytest.approx(
            float(truth), rel=2e-5, abs=1e-6
        )
    total = sum(float(np.sum(g * d)) for g, d in zip(gradients, direction, strict=True))
    assert float(tangent(data, direction)) == pytest.approx(total, rel=1e-9)


def test_the_map_over_a_batch_is_the_batch():
    programs = [random_program(seed) for seed in range(5)]
    data = tuple(jnp.asarray(np.stack(part)) for part in zip(*programs, strict=True))
    batched, mapped = QP(*data), jax.jit(jax.vmap(QP))(*data)
    twice = jax.jit(jax.vmap(jax.vmap(QP)))(*(part[None] for part in data))
    for i, program in enumerate(programs):
        alone = QP(*map(jnp.asarray, program)).primal
        for other in (batched.primal[i], mapped.primal[i], twice.primal[0, i]):
            np.testing.assert_allclose(other, alone, rtol=1e-9, atol=1e-11)


def test_a_failed_item_is_nan_and_leaves_the_others_unharmed():
    """x ≤ h₁, x ≥ −h₂: the second item asks for x ≤ −1 and x ≥ 0."""
    G, h = jnp.array([[1.0], [-1.0]]), jnp.array([[2.0, 0.0], [-1.0, 0.0], [0.5, 0.0]])

    def solve(h):
        return QP(jnp.eye(1), -jnp.ones(1), G=G, h=h)

    solution = solve(h)
    assert solution.info.status.tolist() == [
        Status.SOLVED,
        Status.PRIMAL_INFEASIBLE,
        Status.SOLVED,
    ]
    np.testing.assert_allclose(solution.primal[:, 0], [1.0, np.nan, 0.5], atol=1e-12)
    jacobian = jax.jit(jax.vmap(jax.jacrev(lambda h: solve(h).primal[0])))(h)
    np.testing.assert_allclose(jacobian[0], [0, 0], atol=1e-12)
    assert np.all(np.isnan(jacobian[1]))
    np.testing.assert_allclose(jacobian[2], [1, 0], atol=1e-12)


def test_eager_failures_are_loud():
    one, G = jnp.eye(1), jnp.array([[1.0], [-1.0]])
    with pytest.raises(InfeasibleError, match="contradicts"):
        QP(one, jnp.zeros(1), G=G, h=jnp.array([-1.0, 0.0]))
    with pytest.raises(UnboundedError, match="without bound"):
        QP(0 * one, jnp.ones(1), G=G[:1], h=jnp.ones(1))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((np.eye(3), np.zeros(2)), "P has shape"),
        ((-np.eye(2), np.zeros(2)), "not positive semidefinite"),
        ((np.eye(2), np.array([0, np.nan])), "NaN"),
        ((np.eye(2), np.zeros(2), np.ones((1, 2))), "come together"),
        ((np.eye(2), np.zeros(2), np.ones((1, 3)), np.ones(1)), "A has shape"),
    ],
)
def test_bad_input_is_refused(data, message):
    with pytest.raises(InvalidInputError, match=message):
        QP(*data)


def test_at_a_kink_the_derivative_is_the_chosen_element_and_is_certified():
    """max(p, 0) at 0: both elements 0 and 1 are valid, and nothing between them is noise."""
    found = {}
    for selection in ("lower", "upper"):
        layer = QuadraticProgram(selection=selection)
        data = -jnp.eye(1), jnp.zeros(1)

        def relu(p, layer=layer, data=data):
            return layer(jnp.eye(1), -p, G=data[0], h=data[1]).primal

        found[selection] = float(jax.jit(jax.jacobian(relu))(jnp.zeros(1))[0, 0])
    assert found == pytest.approx({"lower": 1.0, "upper": 0.0}, abs=1e-15)
    report = QP.check(np.eye(1), np.zeros(1), G=-np.eye(1), h=np.zeros(1))
    assert report.verdict == Verdict.PROVEN
    assert report.weakly_active == (0,)
    assert report.licq
    assert report.second_order
    assert report.unique


@pytest.mark.parametrize("seed", range(4))
def test_the_margin_bounds_every_active_set(seed):
    """A solution with two weakly active rows by design; all 2² systems, and mixtures."""
    rng = np.random.default_rng(seed)
    n, m = 4, 5
    R, G, x = rng.normal(size=(n, n)), rng.normal(size=(m, n)), rng.normal(size=n)
    Q = R.T @ R + 0.1 * np.eye(n)
    y, s = np.array([1.0, 0, 0, 0, 0]), np.array([0.0, 0, 0, 1, 2])
    report = QP.check(Q, -Q @ x - G.T @ y, G=G, h=G @ x + s)
    assert report.verdict == Verdict.PROVEN
    assert (report.strongly_active, report.weakly_active) == ((0,), (1, 2))
    assert report.margin is not None
    for q in itertools.product([0, 0.5, 1], repeat=2):
        V = np.diag([1.0, *q, 0, 0])
        U = np.block([[Q, G.T @ V], [G, V - np.eye(m)]])
        assert report.margin <= np.linalg.svd(U, compute_uv=False)[-1] * (1 + 1e-9)


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_which_pieces_are_active_does_not_depend_on_the_unit_of_a_row(unit):
    """min ½x² − (1 + c) x over u x ≤ u: x = 1 with the multiplier c/u, of terms of size 1."""
    for c, strongly in ((1.0, True), (1e-12, False)):
        report = QP.check(np.eye(1), [-1 - c], G=[[unit]], h=[unit])
        rows = (report.strongly_active, report.weakly_active)
        assert rows == (((0,), ()) if strongly else ((), (0,)))


def test_the_derivative_at_a_degenerate_point_is_one_active_set():
    rng = np.random.default_rng(7)
    n, m = 4, 5
    R, G, x = rng.normal(size=(n, n)), rng.normal(size=(m, n)), rng.normal(size=n)
    Q = R.T @ R + 0.1 * np.eye(n)
    y, s = np.array([1.0, 0, 0, 0, 0]), np.array([0.0, 0, 0, 1, 2])
    q, h = -Q @ x - G.T @ y, G @ x + s
    for selection, rows in (("lower", [0]), ("upper", [0, 1, 2])):
        layer = QuadraticProgram(selection=selection)
        jacobian = jax.jit(jax.jacobian(lambda q, own=layer: own(Q, q, G=G, h=h).primal))(q)
        k = len(rows)
        kkt = np.block([[Q, G[rows].T], [G[rows], np.zeros((k, k))]])
        truth = -np.linalg.inv(kkt)[:n, :n]
        np.testing.assert_allclose(jacobian, truth, atol=1e-9)


def test_linear_programs_that_tie_are_refuted_with_their_direction():
    """min x₁ + x₂ over x₁ + x₂ ≥ 1, x ≥ 0: a whole edge is optimal."""
    G, h = np.array([[-1.0, -1], [-1, 0], [0, -1]]), np.array([-1.0, 0, 0])
    report = QP.check(np.zeros((2, 2)), np.ones(2), G=G, h=h)
    assert report.verdict == Verdict.REFUTED
    assert report.unique is False
    assert report.direction is not None
    assert abs(report.direction @ np.ones(2)) < 1e-9
    assert report.witness is not None
    V = report.witness.element
    U = np.block([[np.zeros((2, 2)), G.T @ V], [G, V - np.eye(3)]])
    assert np.linalg.svd(U, compute_uv=False)[-1] < 1e-12
    np.testing.assert_allclose(U @ report.witness.null_vector, 0, atol=1e-12)


def test_a_regular_linear_program_is_proven_and_meets_highs():
    c, G, h = np.array([1.0, 2]), np.array([[-1.0, -1], [-1, 0], [0, -1]]), np.array([-1.0, 0, 0])
    layer = QP(np.zeros((2, 2)), c, G=G, h=h)
    np.testing.assert_allclose(layer.primal, linprog(c, A_ub=G, b_ub=h).x, atol=1e-12)
    assert layer.info.verdict == Verdict.PROVEN
    assert QP.check(np.zeros((2, 2)), c, G=G, h=h).verdict == Verdict.PROVEN


def test_a_repeated_constraint_has_no_licq():
    G, h = -np.ones((2, 1)), np.zeros(2)
    report = QP.check(np.eye(1), np.ones(1), G=G, h=h)
    assert report.verdict == Verdict.REFUTED
    assert not report.licq
    assert report.unique


def test_the_layer_agrees_with_the_library_s_own_optimality_conditions():
    """The same Jacobian as Theorem 2 gives for cx.argmin."""
    Q, q, A, b, G, h = map(jnp.asarray, random_program(2))
    optimality = cx.argmin(
        lambda x, q: x @ Q @ x / 2 + q @ x, lambda x, q: G @ x - h, lambda x, q: A @ x - b
    )
    solution = QP(Q, q, A, b, G, h)
    point = solution.primal, solution.dual[1:], solution.dual[:1]
    truth = cx.implicit_jacobian(optimality)(point, q).element("jax")[:4]
    jacobian = jax.jit(jax.jacobian(lambda q: QP(Q, q, A, b, G, h).primal))(q)
    np.testing.assert_allclose(jacobian, truth, atol=1e-8)


def test_single_precision():
    data = [jnp.asarray(part, jnp.float32) for part in random_program(1)]
    exact = QP(*(part.astype(jnp.float64) for part in data))
    single = QP(*data)
    assert single.primal.dtype == jnp.float32
    np.testing.assert_allclose(single.primal, exact.primal, rtol=1e-4, atol=1e-5)
