"""A layer inside another program: the calculus reads its equations as it does those of a program."""

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import conservax as cx
from conservax import Verdict
from conservax.programs import CvxpyLayer
from helpers import assert_same_set


@pytest.fixture(scope="module")
def onto_orthant():
    p, x = cp.Parameter(2), cp.Variable(2)
    limits = x >= 0
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p) / 2), [limits])
    return CvxpyLayer(problem, [p], [x, limits.dual_variables[0]])


def test_its_weakly_active_constraints_are_kinks(onto_orthant):
    """max(p, 0) and its multiplier max(−p, 0), at p = (0, 1)."""
    found = cx.conservative_jacobian(lambda p: jnp.stack(onto_orthant(p)))(jnp.array([0.0, 1.0]))
    inside, outside = np.diag([1.0, 1.0]), np.diag([0.0, 1.0])
    expected = [[inside, np.zeros((2, 2))], [outside, -np.diag([1.0, 0.0])]]
    assert_same_set(found.vertices().reshape(-1, 8), np.reshape(expected, (2, 8)))
    assert found.clarke_exact


def test_an_equation_around_it_is_judged_as_a_whole(onto_orthant):
    """y − 2 max(y, 0): slopes 1 and −1, though the layer alone is proven; y + ½ max(y, 0): ⅔ and 1."""
    at = jnp.zeros(2)
    report = cx.check(lambda y, a: y - 2 * onto_orthant(y)[0] - a, at, at)
    assert report.verdict == Verdict.REFUTED
    assert len(report.kinks) == 2
    assert {kink.location.file for kink in report.kinks} == {__file__}
    assert report.given_rules == ()

    def equation(y, a):
        return y + onto_orthant(y)[0] / 2 - a

    assert cx.check(equation, at, at).verdict == Verdict.PROVEN
    low, high = cx.implicit_jacobian(equation)(at, at).bounds()
    np.testing.assert_allclose(np.diag(low), 2 / 3, atol=1e-9)
    np.testing.assert_allclose(np.diag(high), 1.0, atol=1e-9)


def test_under_jit_and_vmap(onto_orthant):
    points = jnp.array([[0.0, 1.0], [2.0, 0.0]])
    batch = jax.jit(jax.vmap(lambda p: onto_orthant(p)[0]))
    found = cx.conservative_jacobian(batch)(points)
    expected = [np.diag([a, 1.0, 1.0, b]) for a in (0.0, 1.0) for b in (0.0, 1.0)]
    assert_same_set(found.vertices().reshape(-1, 16), np.reshape(expected, (4, 16)))


def test_a_geometric_program():
    """minimise x over x ≥ a, x ≥ b: max(a, b), whose slopes at a tie are those of either."""
    a, b, x = cp.Parameter(pos=True), cp.Parameter(pos=True), cp.Variable(pos=True)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(x), [x >= a, x >= b]), [a, b], [x], gp=True)
    apart = cx.conservative_jacobian(lambda v: layer(v[0], v[1])[0])(jnp.array([2.0, 1.0]))
    np.testing.assert_allclose(apart.vertices().reshape(-1, 2), [[1.0, 0.0]], atol=1e-8)


def test_a_ball_and_a_sparse_layer():
    """The projection of p onto the unit ball off its boundary, and onto a box by the sparse path."""
    n = 3
    p, x = cp.Parameter(n), cp.Variable(n)
    near = cp.Minimize(cp.sum_squares(x - p))
    ball = CvxpyLayer(cp.Problem(near, [cp.norm(x) <= 1]), [p], [x])
    at = np.array([1.0, 2.0, 2.0])
    expected = np.eye(n) / 3 - np.outer(at, at) / 27
    found = cx.conservative_jacobian(lambda p: ball(p)[0])(jnp.array(at))
    np.testing.assert_allclose(found.vertices()[0], expected, atol=1e-7)

    n = 120
    p, x = cp.Parameter(n), cp.Variable(n)
    box = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x >= 0, x <= 1]), [p], [x])
    at = np.linspace(-0.5, 1.5, n)
    at[60] = 0.0
    found = cx.conservative_jacobian(lambda p: box(p)[0])(jnp.array(at))
    low, high = found.bounds()
    np.testing.assert_allclose(np.diag(high), (at >= 0) & (at < 1), atol=1e-9)
    np.testing.assert_allclose(np.diag(low), (at > 0) & (at < 1), atol=1e-9)
