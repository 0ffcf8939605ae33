"""Sizes: finite wherever values are, and silent where a term has no say."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import conservax as cx
from conservax import errors
from conservax.calculus.cuts.point import cutter_for
from conservax.calculus.tracing.invocation import Invocation
from conservax.numerics import Tolerance

TAU = float(np.sqrt(np.finfo(float).eps))


def size(fun, *args):
    """The value and the size of the terms that made it."""
    call = Invocation.of(fun, args)
    found = cutter_for(call, call.owned_by(range(len(args)))).discover(
        call.leaves, Tolerance(0.0, 0.0)
    )
    return found.outputs[0], found.sizes[0]


@pytest.mark.parametrize("mask", [-np.inf, -1e9, -3e38, -1e300])
def test_a_mask_has_no_say(mask):
    """Softmax over two entries that tie, the third masked: one kink, whatever the mask."""
    kept = jnp.array([True, True, False])

    def fun(x):
        return jnp.abs(jax.nn.softmax(jnp.where(kept, x, mask))[0] - 0.5)

    J = cx.conservative_jacobian(fun)(jnp.array([1.0, 1.0, 2.0]))
    np.testing.assert_allclose(J.vertices()[:, 0], [[-0.25, 0.25, 0], [0.25, -0.25, 0]], atol=1e-12)
    np.testing.assert_allclose(J.directional([1.0, 0.0, 0.0]), [0.25])
    assert J.clarke_exact is True
    assert J.kinks[0].tolerance < 4 * TAU


@pytest.mark.parametrize("start", [-np.inf, -1e9])
def test_a_start_that_loses_has_no_say(start):
    def running(x):
        return jax.lax.scan(lambda m, a: (jnp.maximum(m, a), None), start, x)[0]

    J = cx.conservative_jacobian(running)(jnp.array([0.0, 5.0, 1.0]))
    np.testing.assert_array_equal(J.vertices(), [[[0.0, 1.0, 0.0]]])
    assert J.kinks == ()
    tied = cx.conservative_jacobian(running)(jnp.array([0.0, 5.0, 5.0])).vertices()
    np.testing.assert_array_equal(tied, [[[0.0, 0.0, 1.0]], [[0.0, 1.0, 0.0]]])


def test_an_infinite_bound_measures_nothing():
    J = cx.conservative_jacobian(lambda x: jax.nn.relu(jnp.clip(x, 0, jnp.inf) - 1))(3.0)
    assert J.kinks == ()
    assert J.nearest_inactive.distance == 2.0
    np.testing.assert_allclose(J.nearest_inactive.tolerance, 4 * TAU, rtol=1e-3)
    box = lambda y, p: y - jnp.clip(y - 0.1 * (2 * y - p), 0, jnp.inf)  # noqa: E731
    with pytest.raises(errors.NotARootError, match="= 1 against"):
        cx.check(box, 7.0, 4.0)
    assert cx.check(box, 2.0, 4.0).verdict == cx.Verdict.PROVEN


def test_attention_with_masked_scores_is_an_equation():
    kept = jnp.tril(jnp.ones((3, 3), bool))

    def residual(y, a):
        scores = jnp.where(kept, a[:, None] * a[None, :], -jnp.inf)
        return y - jax.nn.softmax(scores, axis=-1) @ a

    a = jnp.array([1.0, -0.5, 2.0])
    y = -residual(jnp.zeros(3), a)
    report = cx.check(residual, y, a)
    assert report.verdict == cx.Verdict.PROVEN
    np.testing.assert_allclose(report.margin, 1.0)


def shortest_path(w):
    distance = jnp.array([0.0, jnp.inf, jnp.inf])
    for _ in range(2):
        distance = jnp.minimum(distance, jnp.min(distance[:, None] + w, axis=0))
    return distance[2]


def test_shortest_paths_over_missing_edges():
    """0 → 1 → 2 and 0 → 2 of equal length: either path."""
    missing = jnp.array([[True, False, False], [True, True, False], [True, True, True]])
    weights = jnp.array([[0.0, 1.0, 2.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    J = cx.conservative_jacobian(lambda w: shortest_path(jnp.where(missing, jnp.inf, w)))(weights)
    paths = np.zeros((2, 1, 9))
    paths[0, 0, 2] = paths[1, 0, [1, 5]] = 1
    np.testing.assert_array_equal(J.vertices(), paths)


def warping(cost):
    """Dynamic time warping with infinite borders."""
    n = len(cost)
    table = jnp.full((n + 1, n + 1), jnp.inf).at[0, 0].set(0.0)
    for i in range(1, n + 1):
        for j in range(1, n + 1):
            before = jnp.minimum(jnp.minimum(table[i - 1, j], table[i, j - 1]), table[i - 1, j - 1])
            table = table.at[i, j].set(cost[i - 1, j - 1] + before)
    return table[n, n]


def test_time_warping_with_infinite_borders():
    J = cx.conservative_jacobian(warping)(jnp.array([[0.0, 1.0], [0.0, 0.0]]))
    np.testing.assert_array_equal(J.vertices()[:, 0], [[1, 0, 0, 1], [1, 0, 1, 1]])


def test_quotients_of_large_numbers():
    J = cx.conservative_jacobian(lambda x: jnp.abs(x / 1e200 - 1e-200))(1.0)
    np.testing.assert_allclose(J.bounds(), [[[-1e-200]], [[1e-200]]])


def test_in_single_precision_a_mask_of_3e4():
    fun = lambda x: jnp.abs(jnp.max(jnp.append(x, jnp.float32(-3e4))) - 1)  # noqa: E731
    J = cx.conservative_jacobian(fun)(jnp.array([1.01, 0.5], jnp.float32))
    assert J.kinks == ()


def test_a_loser_that_may_win_counts():
    """max(1, z) with z = 0 made of terms of 1e18: within the tolerance it may be the larger one."""
    value, made_of = size(lambda x, y: jnp.maximum(x, y + 1e18 - 1e18), 1.0, 0.0)
    assert value == 1.0
    np.testing.assert_allclose(made_of, 2e18, rtol=1e-6)
    value, made_of = size(lambda x, y: jnp.maximum(x, y + 1e3 - 1e3), 1.0, 0.0)
    np.testing.assert_allclose(made_of, 1.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("fun", "x", "expected"),
    [
        (jnp.exp, 2.0, 2 * np.exp(2.0)),
        (jnp.exp, -np.inf, 0.0),
        (jnp.log, 1.0, 1.0),
        (jnp.sqrt, 4.0, 2.0),
        (jnp.sqrt, 0.0, 0.0),
        (jnp.tanh, 30.0, 1.0),
        (lambda x: (x - 1) ** 2, 1.0, 4 * TAU),
        (lambda x: x * jnp.inf, 2.0, 0.0),
        (lambda x: jnp.where(x > 5, jnp.nan, x), 2.0, 2.0),
        (lambda x: jnp.sort(jnp.stack([x, x + 1e9]))[0], 2.0, 2.0),
    ],
)
def test_sizes_in_closed_form(fun, x, expected):
    value, made_of = size(fun, x)
    if np.isfinite(value):
        assert made_of >= abs(value)
        expected = max(expected, abs(value))
    np.testing.assert_allclose(made_of, expected, rtol=1e-6, atol=1e-300)


operations = st.lists(
    st.tuples(st.sampled_from("+-*x"), st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=6
)


@given(
    operations,
    st.lists(st.sampled_from([0.1, 0.2, 0.3, -0.1, -0.3, 0.7, 3.0]), min_size=3, max_size=3),
)
def test_the_error_is_within_the_size(steps, start):
    """In rationals: |computed − true| ≤ d · eps · S, d the number of operations."""

    def run(values, maximum):
        values = list(values)
        for op, i, j in steps:
            u, v = values[i % len(values)], values[j % len(values)]
            made = {"+": u + v, "-": u - v, "*": u * v}
            values.append(maximum(u, v) if op == "x" else made[op])
        return values[-1]

    value, made_of = size(lambda x: run(list(x), jnp.maximum), jnp.array(start))
    true = run([Fraction(x) for x in start], max)
    assert abs(Fraction(float(value)) - true) <= len(steps) * Fraction(2.0**-52) * Fraction(
        float(made_of)
    )
