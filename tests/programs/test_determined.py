"""Derivatives where multipliers, or some of the variables, are not unique: closed forms, differences."""

import functools

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.sparse import BCOO

from conservax.programs import ConeProgram, Cones, CvxpyLayer
from programs.compiled import both_ways

N, OWN, DEPENDENT, EQUATIONS = 5, 2, 2, 1
ROWS = OWN + DEPENDENT

pytestmark = pytest.mark.usefixtures("sparse_factors")


def every_entry(matrix):
    """All entries stored, so that it may be traced."""
    places = np.stack(np.unravel_index(np.arange(matrix.size), matrix.shape), axis=1)
    return BCOO((matrix.ravel(), jnp.asarray(places)), shape=matrix.shape)


WAYS = {"dense": lambda matrix: matrix, "sparse": every_entry}


def program_with_dependent_rows(seed):
    """All rows strongly active, of rank OWN; row 0 depends on no other; the first EQUATIONS are equations."""
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(OWN, N))
    combinations = np.column_stack([np.zeros(DEPENDENT), rng.uniform(0.5, 2, size=DEPENDENT)])
    A = np.vstack([A, combinations @ A])
    x, y = rng.normal(size=N), rng.uniform(0.5, 1.5, size=ROWS)
    root = rng.normal(size=(N, N - 1))  # P may be singular: the rows hold what it leaves
    P = root @ root.T
    return jnp.asarray(P), jnp.asarray(-P @ x - A.T @ y), jnp.asarray(A), jnp.asarray(A @ x)


def closed_form(P, A):
    """dx/dc = −Z (ZᵀPZ)⁻¹ Zᵀ, Z a basis of ker A."""
    Z = scipy.linalg.null_space(np.asarray(A))
    return -Z @ np.linalg.solve(Z.T @ np.asarray(P) @ Z, Z.T)


@functools.cache
def derivatives(way):
    """The Jacobians of x in (P, c, A, b) backward, and in (c, b) forward, P and A standing still."""
    program = ConeProgram(Cones(zero=EQUATIONS, nonnegative=ROWS - EQUATIONS))
    kind = WAYS[way]

    def solve(P, c, A, b):
        return program(kind(P), c, kind(A), b).primal

    return jax.jit(jax.jacrev(solve, (0, 1, 2, 3))), jax.jit(jax.jacfwd(solve, (1, 3)))


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_solution_moves_as_the_active_rows_let_it(way, seed):
    """Row 0 depends on no other: what moves there is determined, what moves in the others is not."""
    P, c, A, b = program_with_dependent_rows(seed)
    backward, forward = derivatives(way)
    _, of_c, of_A, of_b = backward(P, c, A, b)
    expected = closed_form(P, A)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(of_c, expected, atol=1e-8 * scale)
    along_c, along_b = forward(P, c, A, b)
    np.testing.assert_allclose(along_c, expected, atol=1e-8 * scale)
    # as if there were no dependent rows
    K = np.block([[P, A[:OWN].T], [A[:OWN], np.zeros((OWN, OWN))]])
    inverse = np.linalg.inv(K)
    size = np.abs(inverse).max()
    np.testing.assert_allclose(of_b[:, 0], inverse[:N, N], atol=1e-8 * size)
    assert np.isfinite(of_A[:, 0]).all()
    for undetermined in (of_b[:, 1:], of_A[:, 1:], along_b[:, 1:]):
        assert np.isnan(undetermined).all()


def equations_twice():
    """x₁ + x₂ = b₁ twice, x₃ = b₃: next to the point there is a solution only where b₁ = b₂."""
    A = jnp.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    return (
        jnp.diag(jnp.array([1.0, 3.0, 1.0])),
        jnp.array([0.2, -0.1, 0.4]),
        A,
        jnp.array([1.0, 1, 2]),
    )


@pytest.mark.parametrize("way", WAYS)
def test_equations_that_repeat_each_other(way):
    P, c, A, b = equations_twice()
    program, kind = ConeProgram(Cones(zero=3)), WAYS[way]
    solve = jax.jit(lambda c, b: program(kind(P), c, kind(A), b).primal)
    of_c, of_b = jax.jit(jax.jacrev(solve, (0, 1)))(c, b)
    # min ½x₁² + 3/2 x₂² on the line x₁ + x₂ = b₁: x₁ = (3b₁ − c₁ + c₂)/4
    expected = np.array([[-0.25, 0.25, 0.0], [0.25, -0.25, 0.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(of_c, expected, atol=1e-12)
    # where both equations move together; the third depends on no other
    together = of_b @ jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(together, [[0.75, 0.0], [0.25, 0.0], [0.0, 1.0]], atol=1e-12)
    tangent = jax.jit(lambda direction: jax.jvp(lambda b: solve(c, b), (b,), (direction,))[1])
    along = tangent(jnp.array([1.0, 1.0, 0.0]))
    np.testing.assert_allclose(along, [0.75, 0.25, 0.0], atol=1e-12)
    # apart they have no solution
    apart = tangent(jnp.array([1.0, 0.0, 0.0]))
    assert np.isnan(apart).all()


def test_where_the_matrix_of_equations_moves_their_right_hand_sides_are_not_determined():
    P, c, A, b = equations_twice()
    program = ConeProgram(Cones(zero=3))
    backward = jax.jacrev(lambda c, A, b: program(P, c, A, b).primal, (0, 1, 2))
    of_c, of_A, of_b = jax.jit(backward)(c, A, b)
    assert np.isfinite(of_c).all()
    assert np.isfinite(of_b[:, 2]).all()
    assert np.isnan(of_b[:, :2]).all()
    assert np.isnan(of_A[:, :2]).all()


@pytest.mark.parametrize("way", WAYS)
def test_a_vertex_with_a_row_too_many_is_a_kink_in_b_but_not_in_c(way):
    """min cᵀx over x₂ ≥ |x₁|, x₂ ≥ 0, which are three rows."""
    program, kind = ConeProgram(Cones(nonnegative=3)), WAYS[way]
    A = jnp.array([[1.0, -1.0], [-1.0, -1.0], [0.0, -1.0]])

    def solve(c, b):
        return program(kind(jnp.zeros((2, 2))), c, kind(A), b).primal

    jacobian = jax.jit(jax.jacrev(solve, (0, 1)))
    of_c, of_b = jacobian(jnp.array([0.2, 1.0]), jnp.zeros(3))
    np.testing.assert_allclose(of_c, np.zeros((2, 2)), atol=1e-12)
    assert np.isnan(of_b).all()
    # |c₁| = c₂: with the third row inactive a whole edge is optimal
    of_c, _ = jacobian(jnp.array([1.0, 1.0]), jnp.zeros(3))
    assert np.isnan(of_c).all()


@pytest.mark.parametrize("way", WAYS)
def test_no_derivative_where_a_dependent_row_is_weakly_active(way):
    """x ≥ 0 twice at p = 0: the projection has a kink there, whatever the multipliers."""
    A, program, kind = -jnp.ones((2, 1)), ConeProgram(Cones(nonnegative=2)), WAYS[way]

    def project(p):
        return program(kind(jnp.eye(1)), -p, kind(A), jnp.zeros(2)).primal

    slope = jax.jit(jax.vmap(jax.jacrev(project)))
    found = slope(jnp.array([[-1.0], [0.0], [2.0]]))
    np.testing.assert_allclose(found[jnp.array([0, 2]), 0, 0], [0.0, 1.0], atol=1e-12)
    # "lower" leaves both rows out, which is an element: that of p > 0
    np.testing.assert_allclose(found[1, 0, 0], 1.0, atol=1e-12)
    upper = ConeProgram(Cones(nonnegative=2), selection="upper")

    def project_upper(p):
        return upper(kind(jnp.eye(1)), -p, kind(A), jnp.zeros(2)).primal

    assert np.isnan(jax.jit(jax.jacrev(project_upper))(jnp.zeros(1))).all()


def test_a_curved_constraint_that_is_met_twice_is_left_alone():
    """Its multipliers bend the solution, and they are not unique."""
    program = ConeProgram(Cones(second_order=(3, 3)))
    A = jnp.asarray(np.vstack([np.zeros((1, 2)), -np.eye(2)] * 2))
    b = jnp.array([1.0, 0, 0] * 2)
    project = jax.jit(jax.jacrev(lambda p: program(jnp.eye(2), -p, A, b).primal))
    assert np.isnan(project(jnp.array([2.0, 1.0]))).all()
    np.testing.assert_allclose(project(jnp.array([0.2, 0.1])), np.eye(2), atol=1e-12)


@pytest.mark.parametrize("way", WAYS)
def test_variables_that_are_free_only_together(way):
    """min ½‖x − p‖² over z₁ + z₂ = 1, x₃ ≤ z₁ + z₂ + 1: nothing tells z₁ from z₂."""
    kind = WAYS[way]
    P = jnp.diag(jnp.array([1.0, 1.0, 1.0, 0.0, 0.0]))
    A = jnp.array([[0.0, 0, 0, 1, 1], [0.0, 0, 1, -1, -1]])
    program = ConeProgram(Cones(zero=1, nonnegative=1))

    def solve(p, b):
        c = jnp.concatenate([-p, jnp.zeros(2)])
        solution = program(kind(P), c, kind(A), b)
        return solution.primal, solution.info.verdict

    p, b = jnp.array([0.5, -0.3, 4.0]), jnp.array([1.0, 1.0])
    (of_p, of_b), verdict = jax.jit(jax.jacrev(solve, (0, 1), has_aux=True))(p, b)
    assert verdict == -1
    np.testing.assert_allclose(of_p[:3], np.diag([1.0, 1.0, 0.0]), atol=1e-12)
    np.testing.assert_allclose(of_b[:3], [[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]], atol=1e-12)
    assert np.isnan(of_p[3:]).all()  # they have none
    c = jnp.concatenate([-p, jnp.zeros(2)])
    report = program.check(P, c, A, b)
    np.testing.assert_allclose(report.direction[:3], 0.0, atol=1e-9)
    assert "differentiate only what `direction` leaves still" in str(report)
    (along_p, along_b), _ = jax.jit(jax.jacfwd(solve, (0, 1), has_aux=True))(p, b)
    np.testing.assert_allclose(along_p[:3], of_p[:3], atol=1e-12)
    np.testing.assert_allclose(along_b[:3], of_b[:3], atol=1e-12)
    assert np.isnan(along_b[3:]).all()


def test_a_parameter_that_moves_elsewhere_does_not_count():
    """A parametrised A stands still where another parameter moves."""
    x, A, t = cp.Variable(2), cp.Parameter((2, 2)), cp.Parameter()
    total = [cp.sum(x) == t, 2 * cp.sum(x) == 2 * t]
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(A @ x - 1)), total), [A, t], [x])
    value, t_value = jnp.array([[1.0, 0.5], [0.0, 2.0]]), jnp.array(1.0)

    def line(A, t):
        """On x = (z, t − z)."""
        slope, start = A @ jnp.array([1.0, -1.0]), A @ jnp.array([0.0, 1.0]) * t - 1
        z = -(slope @ start) / (slope @ slope)
        return jnp.array([z, t - z])

    of_A, of_t = jax.jit(jax.jacrev(line, (0, 1)))(value, t_value)
    for found in both_ways(lambda t: layer(value, t)[0])(t_value)[1:]:
        np.testing.assert_allclose(found, of_t, atol=1e-9)
    # where it moves itself, no multiplier that is one of many may enter: passing backward none does
    _, forward, backward = both_ways(lambda A: layer(A, t_value)[0])(value)
    np.testing.assert_allclose(backward, of_A, atol=1e-9)
    assert np.isnan(forward).all()


@pytest.mark.parametrize("solver", ["auto", "interior_point"])
def test_second_derivatives_do_not_use_one_of_many_multipliers(solver):
    """x₁ + x₂ = b twice: a third variable that enters one of the two has no derivative along b."""
    P, c, A, b = equations_twice()
    P, c, A, b = P, c, A[:2], b[:2]
    program = ConeProgram(Cones(zero=2), solver=solver)

    def solve(c, A, b):
        return program(P, c, A, b).primal

    mixed = jax.jit(jax.jacfwd(jax.jacrev(lambda A, b: solve(c, A, b)[2], 1), 0))(A, b)
    assert np.isnan(mixed[:, :, 2]).all()
    # x₃ = −c₃ whatever the multipliers, and x is affine in (c, b)
    second = jax.jit(jax.jacfwd(jax.jacrev(lambda c: solve(c, A, b)[2])))(c)
    np.testing.assert_allclose(second, np.zeros((3, 3)), atol=1e-12)


def test_a_free_variable_that_lets_a_curved_constraint_slide_is_left_alone():
    """(x₁, x₂) on the boundary of the cone along which z moves it: the bend depends on where z is."""
    # min ½(x₁ − p)² + z − x₂ over ‖(x₁, x₂)‖ ≤ z ≤ 2: optimal is every (0, x₂, x₂) at p = 0
    A = jnp.array([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    program = ConeProgram(Cones(nonnegative=1, second_order=(3,)))

    def solve(p):
        c = jnp.array([0.0, -1.0, 1.0]).at[0].set(-p)
        return program(jnp.diag(jnp.array([1.0, 0.0, 0.0])), c, A, jnp.array([2.0, 0, 0, 0])).primal

    x, forward, reverse = both_ways(solve)(jnp.zeros(()))
    assert 0.1 < x[2] < 1.9  # amid the solutions
    for slopes in (forward, reverse):
        assert np.isnan(slopes[0])


def differences(value, point, direction, step=1e-5):
    return (value(point + step * direction) - value(point - step * direction)) / (2 * step)


def test_the_graphical_lasso_as_people_write_it():
    """Each entry of a symmetric matrix is met twice in Σ|X_ij|, and so is its kink at zero."""
    rng, order = np.random.default_rng(0), 3
    S, X = cp.Parameter((order, order), symmetric=True), cp.Variable((order, order), PSD=True)
    objective = cp.trace(S @ X) - cp.log_det(X) + 0.2 * cp.sum(cp.abs(X))
    layer = CvxpyLayer(cp.Problem(cp.Minimize(objective)), [S], [X])
    data = rng.normal(size=(order, 9))
    weights = jnp.asarray(rng.normal(size=(order, order)))

    def weighed(S):
        (found,) = layer(S)
        return jnp.sum(weights * found), found

    run = jax.jit(jax.value_and_grad(weighed, has_aux=True))
    point = jnp.asarray(data @ data.T / 9)
    (_, found), gradient = run(point)
    assert np.sum(np.abs(found) < 1e-9) >= 2  # at a kink
    direction = rng.normal(size=(order, order))
    direction = jnp.asarray(direction + direction.T)
    expected = differences(lambda S: run(S)[0][0], point, direction)
    np.testing.assert_allclose(jnp.sum(gradient * direction), expected, rtol=1e-6)


def test_a_transport_plan_with_both_marginals_in_full():
    """One equation too many; along marginals of equal mass the gradient is that of the plan."""
    rng = np.random.default_rng(1)
    a, b, X = cp.Parameter(3), cp.Parameter(4), cp.Variable((3, 4))
    C = cp.Parameter((3, 4))
    marginals = [cp.sum(X, axis=1) == a, cp.sum(X, axis=0) == b]
    objective = cp.sum(cp.multiply(C, X)) - 0.1 * cp.sum(cp.entr(X))
    layer = CvxpyLayer(cp.Problem(cp.Minimize(objective), marginals), [a, b, C], [X])
    weights = jnp.asarray(rng.normal(size=(3, 4)))

    def value(logits, C):
        a, b = jax.nn.softmax(logits[:3]), jax.nn.softmax(logits[3:])
        return jnp.sum(weights * layer(a, b, C)[0])

    logits, cost = jnp.asarray(rng.normal(size=7)), jnp.asarray(rng.uniform(size=(3, 4)))
    run = jax.jit(jax.value_and_grad(value, (0, 1)))
    _, (of_logits, of_cost) = run(logits, cost)
    along = jnp.asarray(rng.normal(size=7))
    expected = differences(lambda p: run(p, cost)[0], logits, along)
    np.testing.assert_allclose(of_logits @ along, expected, rtol=1e-6)
    along = jnp.asarray(rng.normal(size=(3, 4)))
    expected = differences(lambda C: run(logits, C)[0], cost, along)
    np.testing.assert_allclose(jnp.sum(of_cost * along), expected, rtol=1e-6)


def test_the_report_names_what_depends_and_what_may_be_differentiated():
    p, x = cp.Parameter(3), cp.Variable(3)
    total, most = (cp.sum(x) == 1).set_label("total"), (x <= 1).set_label("most")
    problem = cp.Problem(
        cp.Minimize(cp.sum_squares(x - p)), [(x >= 0).set_label("least"), total, most]
    )
    layer = CvxpyLayer(problem, [p], [x])
    # at the corner (1, 0, 0) four constraints meet
    corner = jnp.array([3.0, 0.0, -0.5])
    report = layer.check(corner)
    assert report.verdict == -1
    names = {"total [0]", "least [1]", "least [2]", "most [0]"}
    assert {str(state) for state in report.dependent} == names
    assert set(report.to_dict()["dependent"]) == names
    assert report.unique
    assert "differentiate the primal" in str(report)
    assert "total [0]" in report._repr_html_()
    np.testing.assert_allclose(jax.jacrev(lambda p: layer(p)[0])(corner), 0.0, atol=1e-12)
    inside = layer.check(jnp.array([0.5, 0.2, 0.3]))
    assert inside.verdict == 1
    assert inside.dependent == ()
    # a curved constraint met twice has no derivative at all
    balls = [cp.SOC(cp.Constant(1.0), x), cp.SOC(cp.Constant(1.0), x)]
    ball = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), balls)
    twice = CvxpyLayer(ball, [p], [x]).check(jnp.array([2.0, 1.0, 0.0]))
    assert len(twice.dependent) == 2
    assert "differentiate the primal" not in str(twice)
    assert "drop what is redundant" in str(twice)
