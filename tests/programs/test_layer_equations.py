"""A CvxpyLayer inside another program: its node brings the same set as the plain program's."""

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import conservax as cx
from conservax import Verdict, errors
from conservax.programs import CvxpyLayer, QuadraticProgram
from helpers import assert_same_set


@pytest.fixture(scope="module")
def onto_orthant():
    """max(p, 0) of two numbers."""
    p, x = cp.Parameter(2, name="p"), cp.Variable(2)
    return CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - p) / 2), [x >= 0]), [p], [x])


@pytest.fixture(scope="module")
def with_rows():
    """½|x|² + qᵀx over the rows Gx ≤ h, all of them parameters; x and the rows' multipliers."""
    q, G, h = cp.Parameter(2, name="q"), cp.Parameter((3, 2), name="G"), cp.Parameter(3, name="h")
    x = cp.Variable(2)
    rows = G @ x <= h
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x) / 2 + q @ x), [rows])
    return CvxpyLayer(problem, [q, G, h], [x, rows.dual_variables[0]])


def test_a_projection_layer_inside_an_equation_refutes(onto_orthant):
    """y − 2 max(y, 0): slopes 1 and −1 for each number, of opposite determinants."""
    at = jnp.zeros(2)
    report = cx.check(lambda y, a: y - 2 * onto_orthant(y)[0] - a, at, at)
    assert report.verdict == Verdict.REFUTED
    assert [kink.location.file for kink in report.kinks] == [__file__] * 2
    assert report.given_rules == ()
    assert [c.verdict for _, c in report.solves] == [Verdict.PROVEN]
    assert report.recheck()[0] < 1e-9
    off = jnp.array([0.0, -1.0])  # the second number is off its kink
    assert len(cx.check(lambda y, a: y - 2 * onto_orthant(y)[0] - a, off, off).kinks) == 1


def test_a_layer_inside_an_equation_brings_its_set(onto_orthant):
    """y + ½ max(y, 0) = a: each number has 1/(1 + q/2), q in [0, 1]."""

    def equation(y, a):
        return y + onto_orthant(y)[0] / 2 - a

    at = jnp.zeros(2)
    assert cx.check(equation, at, at).verdict == Verdict.PROVEN
    low, high = cx.implicit_jacobian(equation)(at, at).bounds()
    np.testing.assert_allclose(low, np.diag([2 / 3, 2 / 3]), atol=1e-9)
    np.testing.assert_allclose(high, np.eye(2), atol=1e-9)


def test_data_that_move_against_the_plain_program(with_rows):
    """Along a line through q, G and h: one row weakly active, one strongly, one not at all."""
    q, G, h = np.array([-2.0, -1.0]), np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), [1.0, 1, 5]
    dq, dG, dh = (
        np.array([0.3, -0.8]),
        np.array([[0.2, 0.1], [-0.5, 0.7], [1.0, 2.0]]),
        [0.4, -1, 3],
    )

    def data(t):
        return q + t * dq, G + t * dG, jnp.asarray(h) + t * jnp.asarray(dh)

    def by_layer(t):
        return jnp.concatenate(with_rows(*data(t)))

    def by_program(t):
        own, rows, limits = data(t)
        found = QuadraticProgram()(jnp.eye(2), own, None, None, rows, limits)
        return jnp.concatenate([found.primal, found.dual])

    J = cx.conservative_jacobian(by_layer)(0.0)
    assert len(J.kinks) == 1
    np.testing.assert_allclose(by_layer(0.0), [1, 1, 1, 0, 0], atol=1e-9)
    assert_same_set(J.vertices(), cx.conservative_jacobian(by_program)(0.0).vertices(), atol=1e-8)
    # the two sides of t = 0 are members, the kink lies between them
    step = 1e-6
    sides = [(by_layer(s * step) - by_layer(0.0)) / (s * step) for s in (1.0, -1.0)]
    assert not np.allclose(*sides, atol=1e-2)
    assert_same_set(J.vertices(), [np.asarray(side) for side in sides], atol=1e-4)


def test_a_second_order_cone_with_and_without_a_variable_of_cvxpy():
    """The projection onto the disc: I inside; on its boundary I and the projection onto the tangent."""
    x, c = cp.Variable(2), cp.Parameter(2)
    nearest = cp.Minimize(cp.sum_squares(x - c))
    by_norm, by_cone = (
        CvxpyLayer(cp.Problem(nearest, [inside]), parameters=[c], variables=[x])
        for inside in (cp.norm(x) <= 1, cp.SOC(cp.Constant(1), x))
    )
    for layer in (by_norm, by_cone):
        J = cx.conservative_jacobian(lambda c, f=layer: f(c)[0])(jnp.array([0.3, 0.4]))
        assert_same_set(J.vertices(), [np.eye(2)], atol=1e-8)
    point = jnp.array([0.6, 0.8])
    J = cx.conservative_jacobian(lambda c: by_cone(c)[0])(point)
    assert_same_set(J.vertices(), [np.eye(2), np.eye(2) - np.outer(point, point)], atol=1e-8)
    with pytest.raises(errors.SingularError):  # ‖x‖ ≤ t ≤ 1: t is free where neither is active
        cx.conservative_jacobian(lambda c: by_norm(c)[0])(point)


def test_a_mapped_layer_and_a_batch_of_its_own(onto_orthant):
    """Under vmap, and with a batch axis: max(p, 0) row by row, two of four numbers on their kinks."""
    p = jnp.array([[0.0, 1.0], [-2.0, 0.0]])
    corners = [np.diag([a, 1.0, 0.0, b]) for a in (0.0, 1.0) for b in (0.0, 1.0)]
    for layer in (jax.vmap(lambda row: onto_orthant(row)[0]), lambda p: onto_orthant(p)[0]):
        J = cx.conservative_jacobian(lambda flat, f=layer: f(flat.reshape(2, 2)).ravel())(p.ravel())
        assert len(J.kinks) == 2
        assert_same_set(J.vertices(), corners, atol=1e-9)


def test_a_layer_in_single_precision(onto_orthant):
    J = cx.conservative_jacobian(lambda p: onto_orthant(p)[0])(jnp.array([0.0, 2.0], jnp.float32))
    assert_same_set(J.vertices(), [np.diag([0.0, 1.0]), np.eye(2)], atol=1e-6)


def test_powers_and_sparse_data_join_too():
    """min ½|x − g²|², x ≥ 1 at g = (1, 2), by a map of the parameters, in sparse data: slopes 0 … 2, and 4."""
    g, x = cp.Parameter(2, pos=True, name="g"), cp.Variable(2)
    layer = CvxpyLayer(
        cp.Problem(cp.Minimize(cp.sum_squares(x) / 2 - (g**2) @ x), [x >= 1]), [g], [x]
    )
    layer._sparse, layer._P = True, None
    J = cx.conservative_jacobian(lambda g: layer(g)[0])(jnp.array([1.0, 2.0]))
    assert_same_set(J.vertices(), [np.diag([0.0, 4.0]), np.diag([2.0, 4.0])], atol=1e-8)


def test_geometric_programs_read_by_their_exponential():
    """max x, x·a ≤ 1, x ≤ 2 at a = ½: x = min(1/a, 2), slopes −4 … 0."""
    a, x = cp.Parameter(pos=True, name="a"), cp.Variable(pos=True)
    problem = cp.Problem(cp.Maximize(x), [x * a <= 1, x <= 2])
    layer = CvxpyLayer(problem, [a], [x], gp=True)
    with pytest.raises(errors.SingularError, match="test_layer_equations"):  # two dependent rows
        cx.conservative_jacobian(lambda a: layer(a)[0])(0.5)
    J = cx.conservative_jacobian(lambda a: layer(a)[0])(0.25)
    assert_same_set(J.vertices(), [np.zeros(())], atol=1e-9)
    J = cx.conservative_jacobian(lambda a: layer(a)[0])(1.0)
    assert_same_set(J.vertices(), [np.asarray(-1.0)], atol=1e-8)


def test_a_curved_cone_by_its_elements_or_a_refusal_by_line():
    """The projection onto the unit disc: I and I − vvᵀ on its boundary."""
    p, x = cp.Parameter(2, name="p"), cp.Variable(2)
    distance = cp.Minimize(cp.sum_squares(x - p) / 2)
    v = np.array([0.6, 0.8])
    layer = CvxpyLayer(cp.Problem(distance, [cp.SOC(cp.Constant(1), x)]), [p], [x])
    J = cx.conservative_jacobian(lambda p: layer(p)[0])(jnp.asarray(v))
    assert_same_set(J.vertices(), [np.eye(2), np.eye(2) - np.outer(v, v)], atol=1e-7)
    assert layer.check(jnp.asarray(v)).verdict == Verdict.PROVEN
    # |x| ≤ t ≤ 1, as CVXPY writes the norm: with both rows off, nothing determines t
    layer = CvxpyLayer(cp.Problem(distance, [cp.norm(x) <= 1]), [p], [x])
    with pytest.raises(errors.SingularError, match=f"{__file__}:"):
        cx.conservative_jacobian(lambda p: layer(p)[0])(jnp.asarray(v))
    report = layer.check(jnp.asarray(v))
    assert report.verdict == layer.solve(jnp.asarray(v))[1].verdict == Verdict.UNKNOWN
    assert "auxiliary variable" in report.reason
