"""Proximal operators: optimality conditions, peers, closed forms, and both sides of every kink."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxopt import prox as theirs

import conservax as cx
from conservax import errors
from conservax.operators import proximal as ours
from helpers import assert_same_set, on_numpy

WEIGHTS = np.array([2.0, 1.0, 0.5, 0.0])


def tv(p):
    return np.abs(np.diff(p)).sum()


def slope_norm(p):
    return np.sort(np.abs(p))[::-1] @ WEIGHTS


def nuclear(p):
    return np.linalg.svd(p.reshape(2, 2), compute_uv=False).sum()


def mcp(p, lam=1.0, gamma=3.0):
    p = np.abs(p)
    return np.where(p <= gamma * lam, lam * p - p**2 / (2 * gamma), gamma * lam**2 / 2).sum()


def scad(p, lam=1.0, a=3.7):
    p = np.abs(p)
    middle = (2 * a * lam * p - p**2 - lam**2) / (2 * (a - 1))
    return np.where(p <= lam, lam * p, np.where(p <= a * lam, middle, lam**2 * (a + 1) / 2)).sum()


def huber(p):
    p = np.abs(p)
    return np.where(p <= 1, p**2 / 2, p - 0.5).sum()


# name: (our operator of (x, scaling), f, jaxopt's, is f convex)
OPERATORS = {
    "lasso": (
        lambda x, s: ours.prox_lasso(x, 0.8, s),
        lambda p: 0.8 * np.abs(p).sum(),
        lambda x, s: theirs.prox_lasso(x, 0.8, s),
        True,
    ),
    "non_negative_lasso": (
        lambda x, s: ours.prox_non_negative_lasso(x, 0.8, s),
        lambda p: 0.8 * p.sum() if p.min() >= 0 else np.inf,
        lambda x, s: theirs.prox_non_negative_lasso(x, 0.8, s),
        True,
    ),
    "elastic_net": (
        lambda x, s: ours.prox_elastic_net(x, (0.8, 0.5), s),
        lambda p: 0.8 * (np.abs(p).sum() + 0.25 * p @ p),
        lambda x, s: theirs.prox_elastic_net(x, (0.8, 0.5), s),
        True,
    ),
    "group_lasso": (
        lambda x, s: ours.prox_group_lasso(x, 0.8, s),
        lambda p: 0.8 * np.linalg.norm(p),
        lambda x, s: theirs.prox_group_lasso(x, 0.8, s),
        True,
    ),
    "ridge": (
        lambda x, s: ours.prox_ridge(x, 0.8, s),
        lambda p: 0.4 * p @ p,
        lambda x, s: theirs.prox_ridge(x, 0.8, s),
        True,
    ),
    "non_negative_ridge": (
        lambda x, s: ours.prox_non_negative_ridge(x, 0.8, s),
        lambda p: 0.4 * p @ p if p.min() >= 0 else np.inf,
        lambda x, s: theirs.prox_non_negative_ridge(x, 0.8, s),
        True,
    ),
    "linf_norm": (
        lambda x, s: ours.prox_linf_norm(x, 1.0, s),
        lambda p: np.abs(p).max(),
        None,
        True,
    ),
    "total_variation_1d": (
        lambda x, s: ours.prox_total_variation_1d(x, 1.0, s),
        tv,
        None,
        True,
    ),
    "nuclear_norm": (
        lambda x, s: ours.prox_nuclear_norm(x.reshape(2, 2), 1.0, s).ravel(),
        nuclear,
        None,
        True,
    ),
    "huber": (lambda x, s: ours.prox_huber(x, 1.0, s), huber, None, True),
    "logistic": (
        lambda x, s: ours.prox_logistic(x, -1.0, s),
        lambda p: np.logaddexp(0, p).sum(),
        None,
        True,
    ),
    "sorted_l1": (lambda x, s: ours.prox_sorted_l1(x, WEIGHTS, s), slope_norm, None, True),
    "mcp": (lambda x, s: ours.prox_mcp(x, (1.0, 3.0), s), mcp, None, False),
    "scad": (lambda x, s: ours.prox_scad(x, (1.0, 3.7), s), scad, None, False),
}


@functools.cache
def compiled(name):
    """value, forward and reverse Jacobian in x, and the derivative in the scaling."""
    fun = OPERATORS[name][0]
    return (
        on_numpy(fun),
        on_numpy(jax.jacfwd(fun)),
        on_numpy(jax.jacrev(fun)),
        on_numpy(jax.jacfwd(fun, 1)),
    )


def points():
    rng = np.random.default_rng(1)
    yield from rng.normal(size=(6, 4)) * np.array([[0.3], [1], [1], [2], [3], [5]])
    yield from rng.integers(-3, 4, size=(6, 4)) / 2.0
    yield np.zeros(4)
    yield np.array([1.0, 1, -1, 0])


@pytest.mark.parametrize("name", OPERATORS)
def test_no_point_nearby_is_better_and_peers_agree(name):
    """½‖p − x‖² + s f(p) is strongly convex: a local minimum among many directions is the minimum."""
    value = compiled(name)[0]
    _, f, peer, _ = OPERATORS[name]
    peer = peer and on_numpy(peer)
    rng = np.random.default_rng(2)
    for x in points():
        for s in (0.3, 1.0):
            p = value(x, s)
            if peer is not None:
                other = peer(x, s)
                if np.all(np.isfinite(other)):  # jaxopt's group Lasso is NaN at 0
                    np.testing.assert_allclose(p, other, atol=1e-14)

            def objective(q, x=x, s=s):
                return (q - x) @ (q - x) / 2 + s * f(q)

            best = objective(p)
            trials = [p + 10.0**-k * d for k in (1, 2, 3, 4) for d in rng.normal(size=(25, 4))]
            # directions within the face that p lies on, too
            trials += [p + t * p * (p == p[i]) for t in (1e-3, -1e-3) for i in range(4)]
            trials += [x, np.zeros(4), np.full(4, x.mean())]
            assert min(map(objective, trials)) >= best - 1e-13 * (1 + abs(best))


@pytest.mark.parametrize(
    "name", ["total_variation_1d", "sorted_l1", "linf_norm", "nuclear_norm", "logistic"]
)
def test_a_general_minimiser_ends_no_lower_than_strong_convexity_allows(name):
    """At a minimum p of a 1-strongly convex h, h(q) ≥ h(p) + ½‖q − p‖² for every q."""
    value, f = compiled(name)[0], OPERATORS[name][1]
    for x in np.random.default_rng(3).normal(size=(2, 4)) * 2:
        p = value(x, 1.0)

        def objective(q, x=x):
            return (q - x) @ (q - x) / 2 + f(q)

        for start in (x, np.zeros(4)):
            options = {"xatol": 1e-9, "fatol": 1e-13, "maxiter": 3000, "adaptive": True}
            found = scipy.optimize.minimize(objective, start, method="Nelder-Mead", options=options)
            assert found.fun >= objective(p) + (found.x - p) @ (found.x - p) / 2 - 1e-12


@pytest.mark.parametrize("name", OPERATORS)
def test_derivatives_are_elements_at_every_point(name):
    _, forward, reverse, _ = compiled(name)
    for x in points():
        V = forward(x, 1.0)
        assert np.all(np.isfinite(V))
        np.testing.assert_allclose(reverse(x, 1.0), V, atol=1e-12)
        np.testing.assert_allclose(V, V.T, atol=1e-12)
        eigenvalues = np.linalg.eigvalsh(V)
        assert eigenvalues[0] > -1e-12
        if OPERATORS[name][3]:
            assert eigenvalues[-1] < 1 + 1e-12


@pytest.mark.parametrize("name", OPERATORS)
def test_derivatives_are_finite_differences_in_x_and_in_the_scaling(name):
    value, forward, _, in_scaling = compiled(name)
    for x in np.random.default_rng(4).normal(size=(4, 4)) * 2:
        quotients = [(value(x + h, 0.7) - value(x - h, 0.7)) / 2e-6 for h in 1e-6 * np.eye(4)]
        np.testing.assert_allclose(np.transpose(quotients), forward(x, 0.7), atol=1e-7)
        quotient = (value(x, 0.7 + 1e-6) - value(x, 0.7 - 1e-6)) / 2e-6
        np.testing.assert_allclose(in_scaling(x, 0.7), quotient, atol=1e-7)


@pytest.mark.parametrize("name", OPERATORS)
def test_float32_batches_and_a_scaling_of_0(name):
    value, forward, _, _ = compiled(name)
    batch = np.array(list(points()), np.float32)
    out = jax.jit(jax.vmap(OPERATORS[name][0], in_axes=(0, None)))(batch, np.float32(0.5))
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, [value(x.astype(float), 0.5) for x in batch], atol=1e-5)
    if not name.startswith("non_negative"):
        for x in (np.zeros(4), np.array([1.0, 1, -1, 0])):
            np.testing.assert_allclose(value(x, 0.0), x, atol=1e-14)
            np.testing.assert_allclose(forward(x, 0.0), np.eye(4), atol=1e-14)


@pytest.mark.parametrize(
    ("name", "x"),
    [
        ("lasso", [0.8, -0.8, 2, 0]),
        ("elastic_net", [0.8, 0, 2, 0]),
        ("group_lasso", [0.0, 0.8, 0, 0]),
        ("huber", [2.0, -2, 1, 5]),
        ("mcp", [1.0, -3, 0, 2]),
        ("scad", [1.0, 2, 3.7, 0]),
        ("total_variation_1d", [0.0, 1, 5, 5]),
        ("linf_norm", [2.0, 1, 0.5, 0]),
        ("nuclear_norm", [1.0, 0, 0, 3]),
    ],
)
def test_the_calculus_knows_the_set_and_jax_returns_its_element(name, x):
    value, forward, _, _ = compiled(name)
    x = np.array(x, float)
    J = cx.conservative_jacobian(lambda x: OPERATORS[name][0](x, 1.0))(jnp.array(x))
    assert J.kinks
    np.testing.assert_allclose(J.element("jax"), forward(x, 1.0), atol=1e-12)
    for v in np.random.default_rng(5).normal(size=(4, 4)):
        quotient = (value(x + 1e-7 * v, 1.0) - value(x, 1.0)) / 1e-7
        np.testing.assert_allclose(J.directional(v), quotient, atol=1e-5)


def test_the_sets_of_the_group_lasso_and_of_total_variation_are_the_closed_forms():
    x = np.array([0.0, 1.0])
    J = cx.conservative_jacobian(ours.prox_group_lasso)(jnp.array(x))
    assert_same_set(J.vertices(), [np.zeros((2, 2)), np.outer(x, x)])
    # p = (1, 1, 4.5, 4.5) and u_1 = λ: the first two are one piece or two
    J = cx.conservative_jacobian(ours.prox_total_variation_1d)(jnp.array([0.0, 1.0, 5.0, 5.0]))
    pair, zero = np.full((2, 2), 0.5), np.zeros((2, 2))
    expected = [np.block([[first, zero], [zero, pair]]) for first in (pair, np.eye(2))]
    assert_same_set(J.vertices(), expected)


def test_the_nuclear_norm_meets_its_conditions():
    """‖x − p‖₂ ≤ λ and ⟨x − p, p⟩ = λ ‖p‖_*."""
    value = on_numpy(ours.prox_nuclear_norm)
    for X in np.random.default_rng(6).normal(size=(5, 3, 4)) * 2:
        P = value(X, 1.2)
        assert np.linalg.norm(X - P, 2) <= 1.2 + 1e-12
        assert abs(np.sum((X - P) * P) - 1.2 * np.linalg.norm(P, "nuc")) < 1e-12


@pytest.mark.parametrize(
    ("name", "x"), [("sorted_l1", [3.0, 2, 0, 0]), ("nuclear_norm", [1.0, 0, 0, 1])]
)
def test_where_the_set_is_unknown_the_calculus_refuses_by_name(name, x):
    fun = OPERATORS[name][0]
    with pytest.raises(errors.UnsupportedOperationError, match=f"prox_{name}"):
        cx.conservative_jacobian(lambda x: fun(x, 1.0))(jnp.array(x))


def test_the_sorted_norm_away_from_its_splits_is_known():
    fun = OPERATORS["sorted_l1"][0]
    x = jnp.array([5.0, 4.8, -2.0, 0.1])  # 5 − 2 < 4.8 − 1: the first two are one block
    J = cx.conservative_jacobian(lambda x: fun(x, 1.0))(x)
    expected = np.diag([0.5, 0.5, 1, 1]) + 0.5 * (np.eye(4)[[1, 0, 2, 3]] - np.eye(4)) * [
        [1, 1, 0, 0],
        [1, 1, 0, 0],
        [0] * 4,
        [0] * 4,
    ]
    expected[:2, :2] = 0.5
    np.testing.assert_allclose(J.element(), expected, atol=1e-14)


total_variation = on_numpy(ours.prox_total_variation_1d)
sorted_l1 = on_numpy(ours.prox_sorted_l1)


@settings(max_examples=25)
@given(st.lists(st.integers(-4, 4), min_size=6, max_size=6), st.sampled_from([0.5, 1.0, 1.5]))
def test_total_variation_meets_its_dual_conditions_at_ties_too(entries, strength):
    """u_j = Σ_{i ≤ j} (p_i − x_i) lies in [−λ, λ], and is λ sign(p_{j+1} − p_j) at every jump."""
    x = np.array(entries, float)
    p = total_variation(x, strength)
    u = np.cumsum(p - x)
    assert abs(u[-1]) < 1e-12
    assert np.max(np.abs(u[:-1])) <= strength + 1e-12
    jumps = np.diff(p)
    far = np.abs(jumps) > 1e-10
    np.testing.assert_allclose(u[:-1][far], strength * np.sign(jumps[far]), atol=1e-12)


@settings(max_examples=25)
@given(st.lists(st.integers(-6, 6), min_size=4, max_size=4))
def test_the_sorted_norm_meets_its_conditions_at_ties_too(entries):
    """g = x − p has ⟨g, p⟩ = J(p), and J°(g) ≤ 1: the largest k of |g| sum to at most λ_1 + … + λ_k."""
    x = np.array(entries) / 2
    p = sorted_l1(x, WEIGHTS)
    g = x - p
    assert abs(g @ p - slope_norm(p)) < 1e-12
    assert np.all(np.cumsum(np.sort(np.abs(g))[::-1]) <= np.cumsum(WEIGHTS) + 1e-12)


def test_weak_convexity_constants_are_sharp():
    """f + ½ ρ p² has increasing slopes; with less it has not."""
    p = np.linspace(-6, 6, 4001)
    for f, rho in (
        (lambda q: mcp(q[:, None] if q.ndim else q), ours.mcp_weak_convexity((1.0, 3.0))),
        (scad, ours.scad_weak_convexity((1.0, 3.7))),
    ):
        values = np.array([f(np.array([v])) for v in p])
        assert np.diff(values + rho * p**2 / 2, 2).min() > -1e-12
        assert np.diff(values + 0.9 * rho * p**2 / 2, 2).min() < -1e-7


def test_no_nan_at_0_where_jaxopt_has_one():
    assert np.isnan(on_numpy(jax.jacrev(theirs.prox_group_lasso))(np.zeros(2))).any()
    for derivative in (jax.jacfwd, jax.jacrev, jax.hessian):
        found = on_numpy(derivative(ours.prox_group_lasso))(np.zeros(2))
        np.testing.assert_array_equal(found, np.zeros_like(found))


def test_pytrees():
    x = {"a": jnp.array([3.0]), "b": jnp.array([[4.0]])}
    p = ours.prox_group_lasso(x, 1.0)
    np.testing.assert_allclose([p["a"][0], p["b"][0, 0]], [2.4, 3.2], rtol=1e-14)
    p = ours.prox_lasso(x, {"a": jnp.array([1.0]), "b": jnp.array([[0.5]])})
    assert (float(p["a"][0]), float(p["b"][0, 0])) == (2.0, 3.5)
    nuclear_norm = on_numpy(ours.prox_nuclear_norm)
    wide = nuclear_norm(np.random.default_rng(7).normal(size=(2, 5)), 0.3)
    tall = nuclear_norm(wide.T, 0.3)
    assert tall.shape == (5, 2)


@pytest.mark.parametrize("shape", [(2, 3), (3, 2)])
def test_the_nuclear_norm_of_a_rectangular_matrix_by_finite_differences(shape):
    rng = np.random.default_rng(8)
    X = rng.normal(size=shape) * 2
    fun = on_numpy(lambda X: ours.prox_nuclear_norm(X, 0.7))
    along = on_numpy(lambda X, D: jax.jvp(lambda X: ours.prox_nuclear_norm(X, 0.7), (X,), (D,))[1])
    for D in rng.normal(size=(2, *shape)):
        quotient = (fun(X + 1e-6 * D) - fun(X - 1e-6 * D)) / 2e-6
        np.testing.assert_allclose(along(X, D), quotient, atol=1e-7)


def test_bad_input_is_named():
    with pytest.raises(errors.InvalidInputError, match="l1reg must be at least 0"):
        ours.prox_lasso(jnp.ones(2), -1.0)
    with pytest.raises(errors.InvalidInputError, match="is not below gamma"):
        ours.prox_mcp(jnp.ones(2), (1.0, 1.0), 1.0)
    with pytest.raises(errors.InvalidInputError, match="is not below a"):
        ours.prox_scad(jnp.ones(2), (1.0, 2.0), 1.5)
    with pytest.raises(errors.InvalidInputError, match="must not increase"):
        ours.prox_sorted_l1(jnp.ones(2), jnp.array([1.0, 2.0]))
    with pytest.raises(errors.InvalidInputError, match="pass one each"):
        ours.prox_sorted_l1(jnp.ones(2), jnp.ones(3))
    assert np.isnan(jax.jit(ours.prox_mcp)(jnp.ones(2), (1.0, 1.0), 1.0)).all()
