"""The integral rule: exact sets of finite distributions, rates of sampled derivatives."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import conservax as cx
from conservax import errors
from conservax.calculus.tracing.flattening import without_duplicates

expected, finite = cx.stochastic.expected, cx.stochastic.finite


def kinky(w, xi):
    """Piecewise linear in w, with a kink at w = 0 whatever ξ: a|⟨u, w⟩| + max(⟨v, w⟩, 0) + ⟨c, w⟩."""
    return xi["a"] * jnp.abs(xi["u"] @ w) + jax.nn.relu(xi["v"] @ w) + xi["c"] @ w


def own_vertices(a, u, v, c):
    """By hand: ±au + {0, v} + c."""
    return np.array([s * a * u + q * v + c for s in (-1, 1) for q in (0, 1)])


def test_vertices_of_fifty_random_distributions_equal_brute_force():
    rng = np.random.default_rng(0)
    for _ in range(50):
        xi = {k: rng.integers(-2, 3, size=(3, 2)).astype(float) for k in "uvc"}
        xi["a"] = rng.integers(-2, 3, size=3).astype(float)
        p = rng.dirichlet(np.ones(3))
        found = expected(kinky, finite(xi, p)).jacobian(np.zeros(2)).vertices()[:, 0]
        each = [own_vertices(xi["a"][i], xi["u"][i], xi["v"][i], xi["c"][i]) for i in range(3)]
        sums = np.array(
            [sum(q * v for q, v in zip(p, c, strict=True)) for c in itertools.product(*each)]
        )
        brute = without_duplicates(sums[:, None])[:, 0]
        # the same points: each has its partner, to round-off of a handful of sums
        apart = np.linalg.norm(found[:, None] - brute[None], axis=-1)
        assert apart.min(axis=0).max() < 1e-12
        assert apart.min(axis=1).max() < 1e-12


def test_the_set_is_that_of_the_mean_as_one_program():
    """The calculus applied to the sum gives the same hull: one weight for each executed kink."""
    xi = {"a": np.ones(2), "u": np.eye(2), "v": np.ones((2, 2)), "c": np.zeros((2, 2))}
    mean = expected(kinky, finite(xi))
    ours, whole = mean.jacobian(np.zeros(2)), cx.conservative_jacobian(mean)(np.zeros(2))
    for d in np.random.default_rng(1).normal(size=(8, 1, 2)):
        assert ours.support(d) == pytest.approx(whole.support(d), abs=1e-12)
    np.testing.assert_allclose(ours.bounds(), whole.bounds(), atol=1e-12)
    np.testing.assert_allclose(ours.min_norm(), whole.min_norm(), atol=1e-12)
    np.testing.assert_allclose(ours.element(), whole.element("jax"), atol=1e-12)
    assert ours.contains([[0.0, 0.0]])
    assert ours.distance([[9.0, 0.0]]) == pytest.approx(whole.distance([[9.0, 0.0]]), abs=1e-10)


def test_a_thousand_points_need_no_enumeration():
    data = np.random.default_rng(0).normal(size=(300, 3))
    J = expected(lambda w, x: jnp.abs(x @ w), finite(data)).jacobian(np.zeros(3))
    assert np.linalg.norm(J.min_norm()) < 1e-9
    np.testing.assert_allclose(J.bounds()[1][0], np.abs(data).mean(axis=0), rtol=1e-12)
    with pytest.raises(errors.TooManyKinksError):
        J.vertices()


def test_expected_clarke_sets_are_too_large():
    """E[s|w|] = 0, whose Clarke set is {0}; the mean of the Clarke sets is [−1, 1]."""
    mean = expected(lambda w, s: s * jnp.abs(w), finite(np.array([-1.0, 1.0])))
    J = mean.jacobian(0.0)
    assert J.bounds()[0].item() == -1
    assert J.bounds()[1].item() == 1
    report = cx.stochastic.criticality(mean, 0.0)
    assert report.verdict.name == "PROVEN"  # of the mean itself: its pieces have slope 0
    tilted = expected(lambda w, s: s * jnp.abs(w) + 0.5 * w, finite(np.array([-1.0, 1.0])))
    assert tilted.jacobian(0.0).contains([[0.0]])  # an artefact: the mean is w/2
    assert cx.stochastic.criticality(tilted, 0.0).clarke == pytest.approx(0.5)


def uniform(key):
    return jax.random.uniform(key, minval=-1.0, maxval=1.0)


def test_sampled_derivatives_converge_like_monte_carlo():
    """d/dw E|w − ξ| = w for ξ uniform on (−1, 1); the error falls like samples^(−1/2)."""
    mean = expected(lambda w, x: jnp.abs(w - x), uniform)
    counts = (10, 100, 1_000, 10_000, 100_000)
    keys = jax.random.split(jax.random.key(0), 48)

    def errors_of(n):
        slopes = jax.jit(jax.vmap(lambda k: jax.grad(lambda w: mean(w, key=k, samples=n))(0.3)))(
            keys
        )
        return float(jnp.sqrt(jnp.mean((slopes - 0.3) ** 2)))

    slope = np.polyfit(np.log(counts), np.log([errors_of(n) for n in counts]), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.1)


def test_every_transformation_of_a_sampled_mean():
    mean = expected(lambda w, x: jnp.sum(jnp.abs(w - x) ** 3), uniform)
    key = jax.random.key(0)
    draws = jax.vmap(uniform)(jax.random.split(key, 64))
    w = jnp.array([0.2, -0.4])

    def f(w):
        return mean(w, key=key, samples=64)

    by_hand = np.mean(
        3 * np.sign(w[None] - draws[:, None]) * (w[None] - draws[:, None]) ** 2, axis=0
    )
    np.testing.assert_allclose(jax.jit(jax.grad(f))(w), by_hand, rtol=1e-12)
    np.testing.assert_allclose(jax.jacfwd(f)(w), by_hand, rtol=1e-12)
    np.testing.assert_allclose(jax.vmap(jax.grad(f))(w[None])[0], by_hand, rtol=1e-12)
    second = np.diag(np.mean(6 * np.abs(w[None] - draws[:, None]), axis=0))
    np.testing.assert_allclose(jax.hessian(f)(w), second, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: finite(np.ones(3), [0.5, 0.6, 0.1]), "sum to 1.2"),
        (lambda: finite(np.ones(3), [1.5, -0.5, 0.0]), "non-negative"),
        (lambda: finite(np.ones(2), [math.nan, 1.0]), "nan"),
        (lambda: finite(np.ones(2), [1.0]), r"weights has shape \(1,\)"),
        (lambda: finite({"a": np.ones(2), "b": np.ones(3)}), "leading axis"),
        (lambda: finite(1.0), "leading axis"),
        (lambda: finite(np.ones((0, 2))), "at least 1"),
        (lambda: finite({}), "no arrays"),
        (lambda: finite({"x": np.array([1.0, math.nan])}), r"points\['x'\] holds NaN"),
        (lambda: expected(jnp.add, 3), "distribution=3"),
        (lambda: expected(jnp.add, uniform)(0.0), "key and samples"),
        (lambda: expected(jnp.add, uniform)(0.0, key=jax.random.key(0), samples=0), "samples=0"),
        (lambda: expected(jnp.add, finite(np.ones(2)))(0.0, samples=3), "exact"),
        (lambda: expected(jnp.add, uniform).jacobian(0.0), "finite distributions"),
    ],
)
def test_what_is_no_distribution_is_named(make, named):
    with pytest.raises(errors.InvalidInputError, match=named):
        make()
