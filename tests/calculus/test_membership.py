"""Distances and membership against vertices, bounded least squares and elements known to be inside."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog, lsq_linear

import conservax as cx
from conservax import ConservativeJacobian, errors
from conservax.calculus.sets.hull import Hull, nearest_point
from conservax.calculus.sets.membership import nearest_in_hull

from .test_pivots import KINDS, a_form, all_weights

SEEDS = st.integers(0, 10**6)


def is_combination(point, vertices, atol=1e-7):
    """Whether a point is a convex combination of vertices, by a linear program."""
    V = vertices.reshape(len(vertices), -1).T
    slack = np.vstack([V, -V])
    bound = np.concatenate([point.ravel() + atol, atol - point.ravel()])
    return linprog(np.zeros(V.shape[1]), slack, bound, np.ones((1, V.shape[1])), [1.0]).status == 0


@given(KINDS, SEEDS, st.booleans(), st.floats(0.1, 4.0))
def test_the_nearest_point_satisfies_the_conditions_that_characterise_it(kinds, seed, nested, size):
    form = a_form(kinds, seed=seed, nested=nested)
    target = size * np.random.default_rng(seed).normal(size=(2, 3))
    vertices = form.jacobian(form.diagonal(all_weights(form)))
    found = nearest_in_hull(form, target)
    assert found.lower == pytest.approx(found.upper, abs=1e-8)
    assert is_combination(found.point, vertices)
    # P is nearest iff ⟨X − P, V − P⟩ ≤ 0 at every vertex V
    gap = target - found.point
    assert np.max(np.tensordot(vertices - found.point, gap, axes=2)) < 1e-7
    assert ConservativeJacobian(form).distance(target) == pytest.approx(np.linalg.norm(gap))


@given(st.integers(1, 60), SEEDS)
def test_the_distance_without_nesting_is_a_bounded_least_squares_problem(k, seed):
    form = a_form([("segment", 1)] * k, seed=seed, nested=False)
    target = 3 * np.random.default_rng(seed).normal(size=(2, 3))
    design = np.einsum("ak,kb->abk", form.H, form.E).reshape(6, k)
    best = lsq_linear(design, (target - form.A).ravel(), bounds=(0, 1), tol=1e-14)
    distance = ConservativeJacobian(form).distance(target)
    assert distance == pytest.approx(np.sqrt(2 * best.cost), abs=1e-6)
    assert ConservativeJacobian(form).contains(target) is (distance < 1e-6)


@given(KINDS, SEEDS, st.booleans(), st.integers(1, 15))
def test_the_distance_of_a_matrix_that_is_all_but_an_element(kinds, seed, nested, digits):
    # P minimises ⟨C, ·⟩ over the set: it is the nearest point to P − s C
    form = a_form(kinds, seed=seed, nested=nested)
    vertices = form.jacobian(form.diagonal(all_weights(form)))
    rng = np.random.default_rng(seed)
    C = rng.normal(size=(2, 3)) * (rng.random((2, 3)) < 0.5)
    P = vertices[np.argmin(np.tensordot(vertices, C, axes=2))]
    step = 10.0**-digits * C
    distance = ConservativeJacobian(form).distance(P - step)
    assert distance == pytest.approx(np.linalg.norm(step), abs=1e-12)


def clipped_norm(x):
    n = cx.norm(x)
    return jnp.where(n > 1, 1.0, n)


def of_a_symmetric_matrix(x):
    return jnp.linalg.eigvalsh(jnp.eye(2) + jnp.array([[x[0], x[1]], [x[1], x[2]]]))


@pytest.mark.parametrize(
    ("fun", "x"),
    [
        (clipped_norm, [0.6, 0.8]),
        (of_a_symmetric_matrix, [0.0, 0.0, 0.0]),
        (lambda x: jnp.linalg.norm(x, "nuc"), [[1.0, 0.0], [0.0, 0.0]]),
        (cx.projections.projection_psd_cone, [[1.0, 0.0], [0.0, 0.0]]),
        (cx.norm, [0.0, 0.0, 0.0]),
    ],
)
def test_the_distance_to_one_kink_is_in_closed_form(fun, x):
    J = cx.conservative_jacobian(fun)(jnp.array(x))
    rng = np.random.default_rng(0)
    for s in (1.0, 1e-8, 1.5e-8, 1e-12):
        C = rng.normal(size=J.shape)
        C[:, -1] = 0.0
        P = Hull.of(J.form).support(C)[1]
        expected = np.linalg.norm(s * C)
        assert J.distance(P - s * C) == pytest.approx(expected, rel=1e-7, abs=3e-15)
        assert J.distance(P + 1e-9 * (J.element() - P)) < 3e-15  # inside
    if fun is clipped_norm:  # across the end of a segment
        X = [[0.6000000143877675, 0.7999999892091741]]
        distance = np.hypot(X[0][0] - 0.6, X[0][1] - 0.8)
        assert J.distance(X) == pytest.approx(distance, abs=1e-15)


def test_the_distance_to_a_ball_and_to_a_sum_of_balls():
    J = cx.conservative_jacobian(cx.norm)(jnp.zeros(3))
    assert J.distance([[3.0, 4.0, 0.0]]) == pytest.approx(4.0, abs=1e-9)
    assert J.distance([[0.5, 0.5, 0.5]]) == pytest.approx(0.0, abs=1e-9)
    # |x| + 2‖(x, y)‖ + shift: a disc of radius 2 swept along the segment [−1, 1] × {0}
    J = cx.conservative_jacobian(lambda x: jnp.abs(x[0]) + 2 * cx.norm(x) + 5 * x[1])(jnp.zeros(2))
    for X in np.random.default_rng(0).normal(size=(20, 2)) * 6 + [0, 5]:
        axis = np.array([np.clip(X[0], -1, 1), 5.0])
        expected = max(0.0, np.linalg.norm(X - axis) - 2.0)
        assert J.distance(X[None]) == pytest.approx(expected, abs=1e-8)


@given(KINDS, SEEDS, st.booleans(), st.booleans())
def test_elements_are_contained_and_their_neighbours_are_not(kinds, seed, nested, wide):
    form = a_form(kinds, m=9 if not wide else 2, n=3 if not wide else 9, seed=seed, nested=nested)
    J = ConservativeJacobian(form)
    rng = np.random.default_rng(seed)
    weights = np.concatenate([np.zeros(0), *(g.draw(rng, 1)[0] for g in form.groups)])
    element = J.element(weights)
    assert J.contains(element)
    assert J.contains(element, hull=False)
    # H has full column rank or E full row rank, so that the set is thin
    away = element + 0.01 * rng.normal(size=element.shape)
    assert not J.contains(away, hull=False)
    if not nested:
        assert not J.contains(away)


@given(SEEDS)
def test_the_exact_set_of_an_implicit_function(seed):
    form = a_form([("segment", 1), ("segment", 1), ("simplex", 2)], m=6, seed=seed, implicit=True)
    J = ConservativeJacobian(form)
    rng = np.random.default_rng(seed)
    weights = np.concatenate([g.draw(rng, 1)[0] for g in form.groups])
    assert J.contains(J.element(weights), hull=False)
    assert not J.contains(J.element(weights) + 0.01, hull=False)


@given(SEEDS)
def test_a_search_finds_elements_that_no_closed_form_gives(seed):
    # five kinks, two outputs, two inputs: neither H nor E determines the weights
    form = a_form([("segment", 1)] * 5, n=2, seed=seed)
    J = ConservativeJacobian(form)
    q = np.random.default_rng(seed).uniform(size=5)
    assert J.contains(J.element(q), hull=False)
    assert not J.contains(J.bounds()[1] + 1, hull=False)


def test_the_hull_is_larger_than_a_nested_set():
    # (relu(x), relu(relu(x) + y)) has the elements [[q, 0], [p q, p]]: a saddle
    def fun(v):
        z = jax.nn.relu(v[0])
        return jnp.stack([z, jax.nn.relu(z + v[1])])

    J = cx.conservative_jacobian(fun)(jnp.zeros(2))
    middle = np.array([[0.5, 0.0], [0.5, 0.5]])  # between q = p = 0 and q = p = 1
    assert J.contains(middle)
    assert not J.contains(middle, hull=False)
    assert J.contains([[0.5, 0.0], [0.25, 0.5]], hull=False)
    assert not J.contains([[0.5, 0.0], [0.6, 0.5]])


def test_many_nested_kinks_are_decided_or_refused():
    def deep(x):
        for i in range(1, 19):
            x = jnp.abs(x) - (0.5 + 0.01 * i) * x
        return x

    J = cx.conservative_jacobian(deep)(0.0)
    assert len(J.kinks) == 18
    assert J.contains(J.element([0.5] * 18), hull=True)
    assert not J.contains([[1e12]])
    with pytest.raises(errors.TooManyKinksError, match="17 nested"):
        J.bounds()
    assert all(J.contains(X) for X in J.sample(jax.random.key(0), 3))


def test_wolfes_algorithm_stops_at_a_degenerate_vertex():
    vertices = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 1e-15], [2.0, 5.0]])

    def support(direction):
        values = vertices @ direction
        best = int(np.argmin(values))
        return float(values[best]), vertices[best]

    found = nearest_point(support, np.zeros(2), vertices[3])
    assert found.upper == pytest.approx(1.0)
    assert found.lower == pytest.approx(1.0)


def test_shapes_are_checked():
    J = cx.conservative_jacobian(jnp.abs)(jnp.zeros(2))
    for bad in (np.zeros(4), np.zeros((2, 3)), np.full((2, 2), np.nan)):
        for question in (J.distance, J.contains):
            with pytest.raises(errors.InvalidInputError, match=r"\(2, 2\)"):
                question(bad)
