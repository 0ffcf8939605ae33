"""``perturbed``: the difference of two solutions, by enumeration of the vertices of a simplex."""

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conservax.errors import InvalidInputError, UnboundedError, UnsupportedOperationError
from conservax.programs import ConeProgram, Cones, CvxpyLayer, QuadraticProgram

ROWS, RIGHT = np.vstack([np.ones((1, 3)), -np.eye(3)]), np.array([1.0, 0, 0, 0])
C, TARGET, TAU = jnp.array([1.0, 1.5, 3.0]), jnp.array([0.0, 1.0, 0.0]), 2.0
CONES = Cones(zero=1, nonnegative=3)


def vertex(c):
    """The solution on the simplex."""
    return np.eye(3)[int(np.argmin(c))]


def difference(c):
    g = 2 * (vertex(c) - np.asarray(TARGET))
    return (vertex(c + TAU * g) - vertex(c)) / TAU


def loss_of(program):
    return lambda c: jnp.sum((program(np.zeros((3, 3)), c, ROWS, RIGHT).primal - TARGET) ** 2)


def test_the_gradient_is_a_difference_of_vertices_and_the_derivative_is_zero():
    ahead, plain = loss_of(ConeProgram(CONES, perturbed=TAU)), loss_of(ConeProgram(CONES))
    np.testing.assert_allclose(jax.grad(plain)(C), 0.0, atol=1e-12)
    np.testing.assert_allclose(jax.grad(ahead)(C), difference(C), atol=1e-12)
    assert np.abs(difference(C)).max() > 0
    batch = jnp.stack([C, C[::-1], 3 * C])
    mapped = jax.jit(jax.vmap(jax.grad(ahead)))(batch)
    np.testing.assert_allclose(mapped, [difference(c) for c in np.asarray(batch)], atol=1e-12)


def test_other_data_get_the_derivative():
    def first(b, program):
        return program(np.zeros((3, 3)), C, ROWS, b).primal[0]

    slopes = [
        jax.grad(first)(jnp.asarray(RIGHT), ConeProgram(CONES, perturbed=tau))
        for tau in (TAU, None)
    ]
    np.testing.assert_allclose(slopes[0], slopes[1], atol=1e-12)


def test_dual_and_slack_get_the_derivative():
    weights = np.array([[0.3, -1.0, 0.5, 2.0], [1.0, 0.2, -0.4, 0.6]])

    def slope(tau):
        def loss(c):
            found = ConeProgram(CONES, perturbed=tau)(np.zeros((3, 3)), c, ROWS, RIGHT)
            return jnp.vdot(weights[0], found.dual) + jnp.vdot(weights[1], found.slack)

        return jax.grad(loss)(C)

    assert np.abs(slope(None)).max() > 0.1
    np.testing.assert_allclose(slope(TAU), slope(None), atol=1e-12)


def test_quadratic_programs_and_layers_pass_it_on():
    program = QuadraticProgram(perturbed=TAU)

    def loss(c):
        args = np.zeros((3, 3)), c, np.ones((1, 3)), np.ones(1), -np.eye(3), np.zeros(3)
        return jnp.sum((program(*args).primal - TARGET) ** 2)

    x, c = cp.Variable(3), cp.Parameter(3)
    problem = cp.Problem(cp.Minimize(c @ x), [cp.sum(x) == 1, x >= 0])
    layer = CvxpyLayer(problem, [c], [x], perturbed=TAU)
    for own in (loss, lambda c: jnp.sum((layer(c)[0] - TARGET) ** 2)):
        np.testing.assert_allclose(jax.grad(own)(C), difference(C), atol=1e-12)


def test_the_report_says_why_a_gradient_is_zero_and_what_to_take():
    program = ConeProgram(CONES)
    reason = program.check(np.zeros((3, 3)), C, ROWS, RIGHT).reason
    assert "zero, because the solution is a vertex" in reason
    assert "perturbed" in reason
    inside = program.check(np.eye(3), -jnp.array([0.5, 0.3, 0.2]), ROWS, RIGHT).reason
    assert "vertex" not in inside


@pytest.mark.parametrize("tau", [0.0, -1.0, float("nan"), float("inf"), "a", (1.0,)])
def test_only_forward_steps(tau):
    with pytest.raises(InvalidInputError, match="perturbed"):
        ConeProgram(CONES, perturbed=tau)
    with pytest.raises(InvalidInputError, match="perturbed"):
        QuadraticProgram(perturbed=tau)


def upwards(c):
    """x ≥ 0 minimises cᵀx at 0 for c ≥ 0; a loss of −x₁ asks for c₁ − τ, and the objective falls."""
    program = QuadraticProgram(perturbed=TAU)
    return -program(np.zeros((2, 2)), c, G=-np.eye(2), h=np.zeros(2)).primal[0]


def test_what_is_unbounded_a_step_ahead_is_said_to_be_of_the_step():
    c = jnp.array([1.0, 1.5])
    with pytest.raises(UnboundedError, match=r"perturbed=2 .* smaller τ"):
        jax.grad(upwards)(c)
    assert np.isnan(jax.jit(jax.grad(upwards))(c)).all()


def test_forward_mode_is_refused_by_name():
    for derive in (jax.jacfwd, lambda f: jax.jit(jax.jacfwd(f))):
        with pytest.raises(UnsupportedOperationError, match=r"perturbed=2 .* no forward mode"):
            derive(upwards)(jnp.array([1.0, 1.5]))


def test_in_a_strictly_convex_program_it_is_the_difference_all_the_same():
    def first(c):  # x(c) = max(−c, 0)
        return QuadraticProgram(perturbed=TAU)(np.eye(2), c, G=-np.eye(2), h=np.zeros(2)).primal[0]

    slope = jax.grad(first)(jnp.array([-1.0, 0.5]))  # (max(1 − 2, 0) − 1)/2, and not −1
    np.testing.assert_allclose(slope, [-0.5, 0.0], atol=1e-10)
