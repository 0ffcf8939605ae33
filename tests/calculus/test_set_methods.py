"""min_norm, bounds, clarke_exact, and sets that are no polytopes."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import lsq_linear

import conservax as cx
from conservax import ConservativeJacobian, errors
from helpers import Program, at, points, programs

from .test_pivots import KINDS, a_form, all_weights

SEEDS = st.integers(0, 10**6)


@given(programs(), points(2))
def test_min_norm_is_a_descent_direction_or_zero(program: Program, x):
    J = cx.conservative_jacobian(program.to_jax())(at(x))
    g = J.min_norm()
    vertices = J.vertices()[:, 0]
    # the shortest point of a hull: ⟨g, V⟩ ≥ ‖g‖² at every vertex, and it is in the hull
    assert np.min(vertices @ g) >= g @ g - 1e-8
    assert J.distance(g[None]) < 1e-8
    if np.linalg.norm(g) > 1e-6:
        downhill = program.directional(x, [-Fraction(float(v)) for v in g])  # exact
        assert downhill[0] <= -(g @ g) + 1e-7


def test_min_norm_of_thousands_of_kinks():
    rng = np.random.default_rng(0)
    form = a_form([("segment", 1)] * 3000, m=1, n=10, nested=False)
    form = type(form)(
        form.A + 200 * rng.normal(size=10),
        form.H / 5,
        form.E,
        form.L,
        form.groups,
        None,
        form.dtype,
    )
    design = (form.H * form.E.T).astype(float)
    best = lsq_linear(design, -form.A[0], bounds=(0, 1), tol=1e-14)
    g = ConservativeJacobian(form).min_norm()
    assert np.linalg.norm(g) > 1
    assert np.linalg.norm(g) == pytest.approx(np.sqrt(2 * best.cost), rel=1e-9)


def test_min_norm_needs_a_scalar_function():
    with pytest.raises(errors.InvalidInputError, match="2 outputs"):
        cx.conservative_jacobian(jnp.abs)(jnp.zeros(2)).min_norm()


def test_min_norm_at_an_artefact_is_zero_and_proves_nothing():
    # relu(x) − relu(−x) is x, but its set is [0, 2]
    J = cx.conservative_jacobian(lambda x: jax.nn.relu(x) - jax.nn.relu(-x))(0.0)
    assert J.min_norm() == pytest.approx(0.0, abs=1e-12)
    assert J.clarke_exact is None
    assert J.directional(1.0) == 1.0


@given(KINDS, SEEDS, st.sampled_from(["nested", "flat", "implicit"]))
def test_bounds_are_those_of_the_vertices(kinds, seed, shape):
    if shape == "implicit":  # single columns: others may run along curves
        kinds = [("segment", 1)] * len(kinds)
    form = a_form(kinds, seed=seed, nested=shape != "flat", implicit=shape == "implicit")
    low, high = ConservativeJacobian(form).bounds()
    vertices = form.jacobian(form.diagonal(all_weights(form)))
    np.testing.assert_allclose(low, vertices.min(axis=0), atol=1e-9, rtol=1e-8)
    np.testing.assert_allclose(high, vertices.max(axis=0), atol=1e-9, rtol=1e-8)


def test_bounds_of_many_kinks_in_closed_form():
    J = cx.conservative_jacobian(lambda x: jnp.sum(jnp.abs(x) * jnp.arange(1.0, 41.0)))(
        jnp.zeros(40)
    )
    low, high = J.bounds()
    np.testing.assert_allclose(high[0], np.arange(1.0, 41.0))
    np.testing.assert_allclose(low[0], -np.arange(1.0, 41.0))
    with pytest.raises(errors.TooManyKinksError, match="40"):
        J.vertices()


def test_a_last_layer_of_any_width_costs_no_decisions():
    # two hidden kinks that many see: four decisions, and a closed form for the rest
    W = np.random.default_rng(0).normal(size=(100, 2))

    def fun(x):
        return jnp.sum(jnp.abs(W @ jnp.abs(x) + W @ x))

    J = cx.conservative_jacobian(fun)(jnp.zeros(2))
    assert len(J.kinks) == 102
    _, high = J.bounds()
    for signs in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        slopes = np.abs(W @ np.diag(signs) + W).sum(axis=0)
        assert np.all(slopes <= high[0] + 1e-9)
    best = np.max([np.abs(W * (1 + np.array(s))).sum(axis=0) for s in ((1, 1), (-1, -1))], axis=0)
    np.testing.assert_allclose(high[0], best)


def test_a_curved_set_is_refused():
    form = a_form([("segment", 2)], m=2, n=2, implicit=True)
    with pytest.raises(errors.NotPolyhedralError, match="curve"):
        ConservativeJacobian(form).bounds()


# The set of a norm at 0 is a ball.


def test_the_ball_of_a_norm():
    J = cx.conservative_jacobian(lambda x: 2 * cx.norm(x) + x[0])(jnp.zeros(3))
    with pytest.raises(errors.NotPolyhedralError, match="norm"):
        J.vertices()
    low, high = J.bounds()
    np.testing.assert_allclose(low, [[-1, -2, -2]])
    np.testing.assert_allclose(high, [[3, 2, 2]])
    np.testing.assert_allclose(J.element("jax"), [[1, 0, 0]])
    np.testing.assert_allclose(J.element([0.6, 0.0, -0.8]), [[2.2, 0, -1.6]])
    sample = J.sample(jax.random.key(0), 2000)[:, 0] - [1, 0, 0]
    radii = np.linalg.norm(sample, axis=1) / 2
    assert radii.max() <= 1
    # uniform in a ball of dimension 3: the median radius is (1/2)^(1/3); 5 standard errors
    assert abs(np.mean(radii <= 0.5 ** (1 / 3)) - 0.5) < 5 * 0.5 / np.sqrt(2000)
    np.testing.assert_allclose(J.directional([0.0, 3.0, 4.0]), 10.0)
    np.testing.assert_allclose(J.min_norm(), 0, atol=1e-9)
    with pytest.raises(errors.SelectionError, match="length"):
        J.element([0.8, 0.8, 0.0])
    assert J.clarke_exact is True


def test_min_norm_of_a_ball_that_misses_the_origin():
    slope = np.array([3.0, 4.0])
    J = cx.conservative_jacobian(lambda x: cx.norm(x) + slope @ x)(jnp.zeros(2))
    np.testing.assert_allclose(J.min_norm(), 0.8 * slope, atol=1e-8)
    np.testing.assert_allclose(J.element("upper")[0], slope)
    np.testing.assert_allclose(J.element([0.6, -0.8])[0], slope + np.array([0.6, -0.8]))


def test_a_norm_between_kinks_has_no_hull_to_enumerate():
    J = cx.conservative_jacobian(lambda x: jax.nn.relu(cx.norm(jnp.abs(x) + x) - x[0]))(
        jnp.zeros(2)
    )
    assert J.sample(jax.random.key(0), 5).shape == (5, 1, 2)
    for question in (J.bounds, J.min_norm, lambda: J.distance(np.zeros((1, 2)))):
        with pytest.raises(errors.NotPolyhedralError, match="norm at 0 stands between"):
            question()


# clarke_exact: where it says True, the limits of derivatives fill the hull.


@settings(max_examples=10)
@given(programs(), points(2))
def test_clarke_exact_sets_are_spanned_by_limits(program: Program, x):
    fun = jax.jit(program.to_jax())
    J = cx.conservative_jacobian(fun)(at(x))
    if not J.clarke_exact or any(k.distance > 0 for k in J.kinks):
        return
    derivative = jax.jit(jax.jacobian(fun))
    rng = np.random.default_rng(0)
    limits = [
        np.asarray(derivative(at(x) + 1e-6 * d))
        for d in rng.normal(size=(60 * 2 ** len(J.kinks), 2))
    ]
    for vertex in J.vertices():
        assert min(np.abs(vertex - g).max() for g in limits) < 1e-4


def test_clarke_exact_by_example():
    def exact(fun, x):
        return cx.conservative_jacobian(fun)(jnp.asarray(x)).clarke_exact

    assert exact(jnp.sin, 1.0) is True
    assert exact(jnp.abs, np.zeros(3)) is True
    assert (
        exact(lambda x: jnp.abs(jnp.abs(x[0]) - x[1]), np.zeros(2)) is True
    )  # nested, independent
    assert exact(lambda x: jnp.max(x), np.zeros(3)) is True
    assert exact(lambda x: jnp.abs(x) + jnp.abs(2 * x), 0.0) is None
    implicit = cx.implicit_jacobian(lambda y, a: y - jnp.maximum(0.0, y / 2 - a))
    assert implicit(0.0, 0.0).clarke_exact is True
    assert cx.check(lambda y, a: y - jnp.maximum(0.0, y / 2 - a), 0.0, 0.0).clarke_exact is True
