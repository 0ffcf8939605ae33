"""``perturbed``: the difference of two solutions, by enumeration of the vertices of a simplex."""

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conservax.errors import InvalidInputError
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


@pytest.mark.parametrize("tau", [0.0, -1.0])
def test_only_forward_steps(tau):
    with pytest.raises(InvalidInputError, match="perturbed"):
        ConeProgram(CONES, perturbed=tau)
