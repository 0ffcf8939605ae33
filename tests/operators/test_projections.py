"""Projections: against closed forms, other libraries, Moreau's conditions and one-sided slopes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxopt import projection as theirs

import conservax as cx
from conservax import errors
from conservax.operators import projections as ours
from helpers import assert_same_set, line_of, on_numpy

A = np.random.default_rng(0).normal(size=(2, 4))
OPERATORS = {
    "non_negative": (ours.projection_non_negative, theirs.projection_non_negative),
    "box": (
        lambda x: ours.projection_box(x, (-0.5, 1.0)),
        lambda x: theirs.projection_box(x, (-0.5, 1.0)),
    ),
    "hypercube": (ours.projection_hypercube, theirs.projection_hypercube),
    "linf_ball": (ours.projection_linf_ball, theirs.projection_linf_ball),
    "simplex": (
        lambda x: ours.projection_simplex(x, 1.5),
        lambda x: theirs.projection_simplex(x, 1.5),
    ),
    "l1_ball": (ours.projection_l1_ball, theirs.projection_l1_ball),
    "l2_ball": (ours.projection_l2_ball, theirs.projection_l2_ball),
    "hyperplane": (
        lambda x: ours.projection_hyperplane(x, (jnp.array(A[0]), 0.3)),
        lambda x: theirs.projection_hyperplane(x, (A[0], 0.3)),
    ),
    "halfspace": (
        lambda x: ours.projection_halfspace(x, (jnp.array(A[0]), 0.3)),
        lambda x: theirs.projection_halfspace(x, (A[0], 0.3)),
    ),
    "affine_set": (
        lambda x: ours.projection_affine_set(x, (A, A @ np.ones(4))),
        lambda x: x - np.linalg.pinv(A) @ (A @ x - A @ np.ones(4)),
    ),
    "box_section": (
        lambda x: ours.projection_box_section(x, (-1.0, 1.0, jnp.array([1.0, 2.0, 0.5, 1.0]), 1.0)),
        lambda x: theirs.projection_box_section(
            x, (-jnp.ones(4), jnp.ones(4), jnp.array([1.0, 2.0, 0.5, 1.0]), 1.0)
        ),
    ),
    "second_order_cone": (ours.projection_second_order_cone, None),
    "psd_cone": (
        lambda x: ours.projection_psd_cone(x.reshape(2, 2)).ravel(),
        None,
    ),
}
EXACT = {"simplex", "l1_ball"}


@functools.cache
def compiled(name):
    """value, forward and reverse Jacobian of an operator on vectors (4,), each compiled once."""
    fun = OPERATORS[name][0]
    return on_numpy(fun), on_numpy(jax.jacfwd(fun)), on_numpy(jax.jacrev(fun))


def points():
    """Random points, and points with ties and zeros, at which most operators have kinks."""
    rng = np.random.default_rng(1)
    yield from rng.normal(size=(6, 4)) * np.array([[0.1], [0.5], [1], [1], [3], [10]])
    yield from rng.integers(-2, 3, size=(8, 4)) / 2.0
    yield np.zeros(4)
    yield np.array([1.0, 0, 0, 0])
    yield np.array([0.5, 0.5, 0, 0])


def assert_element_of_a_projection(V):
    assert np.all(np.isfinite(V))
    np.testing.assert_allclose(V, V.T, atol=1e-12)
    eigenvalues = np.linalg.eigvalsh(V)
    assert eigenvalues[0] > -1e-12
    assert eigenvalues[-1] < 1 + 1e-12


@pytest.mark.parametrize("name", OPERATORS)
def test_values_agree_with_a_peer_and_derivatives_are_between_0_and_the_identity(name):
    value, forward, reverse = compiled(name)
    peer = OPERATORS[name][1]
    if peer is not None:
        tolerance = 1e-4 if name == "box_section" else 1e-12  # jaxopt bisects
        theirs_at = on_numpy(jax.vmap(peer))(np.array(list(points())))
        ours_at = [value(x) for x in points()]
        np.testing.assert_allclose(ours_at, theirs_at, atol=tolerance)
    for x in points():
        V = forward(x)
        assert_element_of_a_projection(V)
        np.testing.assert_allclose(reverse(x), V, atol=1e-12)


@pytest.mark.parametrize("name", OPERATORS)
def test_projections_are_firmly_nonexpansive_and_idempotent(name):
    value = compiled(name)[0]
    some = list(points())
    for x, y in zip(some, some[::-1], strict=True):
        p, q = value(x), value(y)
        assert (p - q) @ (p - q) <= (p - q) @ (x - y) + 1e-12
        np.testing.assert_allclose(value(p), p, atol=1e-12)
        assert (x - p) @ (q - p) <= 1e-12 * (1 + abs(x).max() ** 2)  # the variational inequality


@pytest.mark.parametrize("name", OPERATORS)
def test_derivatives_are_limits_of_finite_differences_nearby(name):
    value, forward, _ = compiled(name)
    for x in np.random.default_rng(2).normal(size=(4, 4)):
        steps = 1e-6 * np.eye(4)
        quotients = [(value(x + h) - value(x - h)) / 2e-6 for h in steps]
        np.testing.assert_allclose(np.transpose(quotients), forward(x), atol=1e-8)


@pytest.mark.parametrize("name", OPERATORS)
def test_float32_batches_and_gradients_of_compiled_functions(name):
    value, forward, _ = compiled(name)
    batch = np.array(list(points()), np.float32)
    fun = OPERATORS[name][0]
    out = on_numpy(jax.vmap(fun))(batch)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, [value(x.astype(float)) for x in batch], atol=3e-5)
    x = np.random.default_rng(3).normal(size=4)
    within = jax.jit(fun)
    gradient = on_numpy(jax.grad(lambda x: jnp.sum(within(x) ** 2)))(x)
    np.testing.assert_allclose(gradient, 2 * forward(x).T @ value(x), atol=1e-12)


@pytest.mark.parametrize(
    ("name", "x"),
    [
        ("non_negative", [0.0, 1, -1, 0]),
        ("box", [1.0, 0, -0.5, 3]),
        ("halfspace", list(0.3 * A[0] / (A[0] @ A[0]))),
        ("l2_ball", [1.0, 0, 0, 0]),
        ("simplex", [1.5, 0, 0, -3]),
        ("box_section", [1.0, 0, 0, 0]),
        ("second_order_cone", [1.0, 1, 0, 0]),
        ("psd_cone", [0.0, 0, 0, 2]),
        ("l1_ball", [3.0, 1, 2, 0]),
    ],
)
def test_the_calculus_knows_the_set_and_jax_returns_its_element(name, x):
    value, _, reverse = compiled(name)
    x = np.array(x, float)
    J = cx.conservative_jacobian(OPERATORS[name][0])(jnp.array(x))
    element = reverse(x)
    np.testing.assert_allclose(J.element("jax"), element, atol=1e-12)
    assert J.contains(element, tol=1e-9)
    rng = np.random.default_rng(4)
    for sign in (1, -1):  # both one-sided derivatives, by the value alone
        for v in rng.normal(size=(3, 4)) * sign:
            quotient = (value(x + 1e-7 * v) - value(x)) / 1e-7
            np.testing.assert_allclose(J.directional(v), quotient, atol=1e-5)


def test_the_set_of_the_simplex_is_the_closed_form():
    """{D_S − 1_S 1_Sᵀ/|S|}, S between the strict and the weak support."""
    J = cx.conservative_jacobian(ours.projection_simplex)(jnp.array([1.0, 0.0, 0.0]))
    expected = []
    for S in ([1, 0, 0], [1, 1, 0], [1, 0, 1], [1, 1, 1]):
        S = np.array(S, float)
        expected.append(np.diag(S) - np.outer(S, S) / S.sum())
    assert_same_set(J.vertices(), expected)


def test_the_set_of_the_second_order_cone_off_the_apex_is_the_closed_form():
    w = np.array([0.6, 0.8])
    c = np.array([1, *-w])
    J = cx.conservative_jacobian(ours.projection_second_order_cone)(jnp.array([5.0, 3.0, 4.0]))
    assert_same_set(J.vertices(), [np.eye(3), np.eye(3) - np.outer(c, c) / 2])


@pytest.mark.parametrize(
    ("fun", "x"),
    [
        (ours.projection_second_order_cone, np.zeros(3)),
        (ours.projection_psd_cone, np.zeros((2, 2))),
        (ours.projection_exponential_cone, np.array([0.0, 1, 1])),
        (ours.projection_exponential_dual_cone, np.zeros(3)),
        (functools.partial(ours.projection_power_cone, alpha=0.3), np.array([1.0, 1, 1])),
    ],
)
def test_where_the_set_is_unknown_the_calculus_refuses_and_jax_returns_an_element(fun, x):
    J = on_numpy(jax.jacrev(fun))(x).reshape(x.size, x.size)
    assert_element_of_a_projection(J)
    with pytest.raises(errors.UnsupportedOperationError, match="projection_"):
        cx.conservative_jacobian(fun)(jnp.array(x))


def test_no_nan_at_0_in_any_mode_where_jaxopt_has_one():
    zero = np.zeros(3)
    assert np.isnan(on_numpy(jax.jacrev(theirs.projection_l2_sphere))(zero)).any()
    for derivative in (jax.jacfwd, jax.jacrev, jax.hessian):
        assert np.all(np.isfinite(on_numpy(derivative(ours.projection_l2_ball))(zero)))
    np.testing.assert_array_equal(jax.jacrev(ours.projection_l2_ball)(zero), np.eye(3))


def test_spheres():
    sphere = ours.projection_l2_sphere
    x = np.array([3.0, 4.0])
    forward, reverse = on_numpy(jax.jacfwd(sphere)), on_numpy(jax.jacrev(sphere))
    np.testing.assert_allclose(on_numpy(sphere)(x, 2.0), [1.2, 1.6], rtol=1e-14)
    np.testing.assert_allclose(forward(x), (np.eye(2) - np.outer(x, x) / 25) / 5, atol=1e-14)
    np.testing.assert_array_equal(sphere(jnp.zeros(2)), [1.0, 0.0])
    # the map jumps at 0: no derivative, in any mode, and the calculus says so
    assert np.isnan(forward(np.zeros(2))).any()
    assert np.isnan(reverse(np.zeros(2))).any()
    with pytest.raises(errors.NotLipschitzError):
        cx.conservative_jacobian(sphere)(jnp.zeros(2))
    np.testing.assert_allclose(
        ours.projection_l1_sphere(jnp.array([0.1, 0.0])), [0.55, 0.45], atol=1e-14
    )
    with pytest.raises(errors.DiscontinuousError):
        cx.conservative_jacobian(ours.projection_l1_sphere)(jnp.array([0.1, 0.0]))


def test_pytrees():
    x = {"a": jnp.array([3.0]), "b": jnp.array([[4.0]])}
    p = ours.projection_l2_ball(x, 1.0)
    np.testing.assert_allclose([p["a"][0], p["b"][0, 0]], [0.6, 0.8], rtol=1e-14)
    boxed = ours.projection_box(x, (0.0, {"a": jnp.array([1.0]), "b": jnp.array([[2.0]])}))
    assert (float(boxed["a"][0]), float(boxed["b"][0, 0])) == (1.0, 2.0)


def test_derivatives_in_the_parameters():
    x = jnp.array([2.0, 0.5, -1.0])
    projections = (
        ours.projection_simplex,
        ours.projection_l1_ball,
        ours.projection_l2_ball,
        ours.projection_linf_ball,
    )
    values = on_numpy(lambda r: jnp.stack([fun(x, r) for fun in projections]))
    slopes = on_numpy(lambda r: jnp.stack([jax.jacfwd(fun, 1)(x, r) for fun in projections]))
    for r in (0.7, 1.3):
        quotients = (values(r + 1e-6) - values(r - 1e-6)) / 2e-6
        np.testing.assert_allclose(slopes(r), quotients, atol=1e-8)
    w = jnp.array([1.0, 2.0, 0.5])

    def section(w, c, lower, upper):
        return ours.projection_box_section(x, (lower, upper, w, c))

    at = (w, 1.0, -jnp.ones(3), jnp.array([1.0, 0.3, 2.0]))
    from jax.test_util import check_grads

    check_grads(jax.jit(section), at, order=1, atol=1e-6, rtol=1e-6)


def test_a_radius_of_0_and_a_box_of_one_point_do_not_move():
    for fun in (ours.projection_l1_ball, ours.projection_l2_ball, ours.projection_simplex):
        value, reverse = on_numpy(fun), on_numpy(jax.jacrev(fun))
        for x in (np.zeros(2), np.array([1.0, 2.0])):
            np.testing.assert_array_equal(value(x, 0.0), np.zeros(2))
            np.testing.assert_array_equal(reverse(x, 0.0), np.zeros((2, 2)))
    one = on_numpy(jax.jacfwd(lambda x: ours.projection_box(x, (1.0, 1.0))))(np.ones(2))
    np.testing.assert_array_equal(one, np.zeros((2, 2)))


simplex = on_numpy(ours.projection_simplex)


@settings(max_examples=25)
@given(st.lists(st.integers(-6, 6), min_size=4, max_size=4), st.sampled_from([0.5, 1.0, 2.0]))
def test_the_simplex_meets_its_conditions_at_ties_too(entries, value):
    """p ≥ 0, Σp = value, x − p = τ on the support and ≤ τ off it."""
    x = np.array(entries) / 2
    p = simplex(x, value)
    assert abs(p.sum() - value) < 1e-12
    assert p.min() >= 0
    slack = x - p
    support = p > 0
    assert np.ptp(slack[support]) < 1e-12
    assert np.all(slack[~support] <= slack[support].max() + 1e-12)


def test_bad_input_is_named():
    with pytest.raises(errors.InvalidInputError, match="projection_simplex takes a vector"):
        ours.projection_simplex(jnp.ones((2, 2)))
    with pytest.raises(errors.InvalidInputError, match="value must be at least 0"):
        ours.projection_simplex(jnp.ones(2), -1.0)
    assert np.isnan(jax.jit(ours.projection_simplex)(jnp.ones(2), -1.0)).all()
    with pytest.raises(errors.InvalidInputError, match="strictly between 0 and 1"):
        ours.projection_power_cone(jnp.ones(3), 1.0)
    with pytest.raises(errors.InfeasibleError, match="no α ≤ p ≤ β"):
        ours.projection_box_section(jnp.ones(2), (0.0, 1.0, 1.0, 3.0))
    with pytest.raises(errors.InvalidInputError, match="square"):
        ours.projection_psd_cone(jnp.ones((2, 3)))
    with pytest.raises(errors.InvalidInputError, match="neither a number nor"):
        ours.projection_box({"a": jnp.ones(2)}, (0.0, {"b": 1.0}))
    with pytest.raises(errors.InvalidInputError, match="A must be"):
        ours.projection_affine_set(jnp.ones(2), (jnp.ones((3, 2)), jnp.ones(3)))


def test_hessians_at_smooth_points():
    X = jnp.array([[1.0, 2.0], [2.0, -1.0]])
    for fun, x in (
        (ours.projection_second_order_cone, jnp.array([0.1, 1.0, 0.5])),
        (ours.projection_l2_ball, jnp.array([1.0, 2.0, 0.5])),
        (ours.projection_psd_cone, X),
        (ours.projection_exponential_cone, jnp.array([1.0, 1.0, 1.0])),
    ):
        second, x = on_numpy(jax.jacfwd(jax.jacrev(fun)))(x), np.asarray(x)
        v = np.random.default_rng(5).normal(size=x.shape)
        first = on_numpy(jax.jacfwd(fun))
        quotient = (first(x + 1e-5 * v) - first(x - 1e-5 * v)) / 2e-5
        np.testing.assert_allclose(np.tensordot(second, v, x.ndim), quotient, atol=1e-6)


def test_kinks_and_refusals_name_the_line_that_calls_the_operator():
    def fun(x):
        return ours.projection_simplex(2 * x)  # called here

    def apex(x):
        return ours.projection_second_order_cone(2 * x)  # refused here

    J = cx.conservative_jacobian(fun)(jnp.array([0.25, 0.25, 0.0]))
    assert {(k.file, k.line) for k in J.kinks} == {(__file__, line_of("called here", __file__))}
    here = f"{__file__}:{line_of('refused here', __file__)}"
    with pytest.raises(errors.UnsupportedOperationError, match="whose set the calculus") as caught:
        cx.conservative_jacobian(apex)(jnp.zeros(3))
    assert here in str(caught.value)
