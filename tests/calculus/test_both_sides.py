"""Programs that jump and mend it: accepted where their pieces meet, refused where they part."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import conservax as cx
from conservax import errors
from helpers import assert_same_set, limits

EXAMPLES = 200 if "CONSERVAX_PROGRAMS" in os.environ else 20  # make fuzz, make test
HEIGHTS = jnp.array([0.0, 1.0, 4.0, 2.0, 2.0])
EXPERTS = jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 9.0]])
POINTS = jnp.array([[1.0, 0.0], [1.0, 3.0], [5.0, 5.0]])


def from_table(x):
    """Linear interpolation between entries that the integer part picks."""
    i = jnp.floor(x).astype(int)
    return HEIGHTS[i] + (x - i) * (HEIGHTS[i + 1] - HEIGHTS[i])


def k_means(centres):
    distances = jnp.sum((POINTS[:, None] - centres) ** 2, axis=-1)
    nearest = jnp.argmin(distances, axis=1)
    return jnp.mean(jnp.sum((POINTS - centres[nearest]) ** 2, axis=-1))


def k_means_by_min(centres):
    return jnp.mean(jnp.min(jnp.sum((POINTS[:, None] - centres) ** 2, axis=-1), axis=1))


def nearest_by_rows(centres):
    """The entry of each row, by two columns of indices."""
    distances = jnp.sum((POINTS[:, None] - centres) ** 2, axis=-1)
    return jnp.mean(distances[jnp.arange(3), jnp.argmin(distances, axis=1)])


def by_row_and_column(x):
    """x₀ or x₁, by the place of the larger and its complement."""
    i = jnp.argmax(x)
    return jnp.array([[5.0, x[1]], [x[0], 7.0]])[1 - i, i]


def gated(x):
    values, chosen = jax.lax.top_k(x, 2)
    return jax.nn.softmax(values) @ EXPERTS[chosen]


def gated_by_scatter(x):
    values, chosen = jax.lax.top_k(x, 2)
    return jnp.zeros(4).at[chosen].set(jax.nn.softmax(values)) @ EXPERTS


def two_largest(x):
    return jnp.sum(jnp.where(x >= jax.lax.top_k(x, 2)[0][-1], jnp.exp(x), 0.0))


def two_largest_scattered(x):
    return jnp.zeros_like(x).at[jax.lax.top_k(x, 2)[1]].set(1.0) @ x


def masks(x):
    first = (x[0] >= x[1]) * (x[0] >= x[2])
    second = (x[1] > x[0]) * (x[1] >= x[2])
    return first * x[0] + second * x[1] + (1 - first) * (1 - second) * x[2]


def captured(x):
    positive = x[0] > 0
    return jax.lax.cond(jnp.array(True), lambda y: jnp.where(positive, y, 0.0), jnp.negative, x[0])


def triangle(x):
    part = x - jnp.floor(x)
    return jnp.minimum(part, 1 - part)


# a program that is continuous, a point where something in it jumps, whether the set is known to be Clarke's
MENDED = {
    "double where": (
        lambda x: jnp.where(x[0] > 0, jnp.where(x[0] > 0, x[0], 1.0) ** 2 + x[0], 0.0),
        [0.0],
        True,
    ),
    "double where, a logarithm": (
        lambda x: jnp.where(x[0] > 1, jnp.log(jnp.where(x[0] > 1, x[0], 2.0)), 0.0),
        [1.0],
        True,
    ),
    "x times a step": (
        lambda x: x[0] * jnp.where(x[0] < 0, 0, jnp.where(x[0] > 0, 1, 0.3)),
        [0.0],
        True,
    ),
    "x[argmax(x)]": (lambda x: x[jnp.argmax(x)], [1.0, 1.0, 0.0], True),
    "x[argmin(x)]²": (lambda x: x[jnp.argmin(x)] ** 2, [3.0, -1.0, -1.0], True),
    "double where, a power": (
        lambda x: jnp.where(x[0] > 0, jnp.where(x[0] > 0, x[0], 1.0) ** 2.5, 0.0) + jnp.abs(x[0]),
        [0.0],
        True,
    ),
    "x[argmax(x)] of three": (lambda x: x[jnp.argmax(x)], [1.0, 1.0, 1.0, 0.0], True),
    "an argmin of four products": (
        lambda x: (x * x[::-1])[jnp.argmin(x * x[::-1])],
        [1.0, 1.0, 1.0, 1.0],
        None,
    ),
    "two uses of one argmax of three": (
        lambda x: x[jnp.argmax(x)] ** 2 + jnp.sin(x)[jnp.argmax(x)],
        [1.0, 1.0, 1.0],
        True,
    ),
    "all but the largest of three": (
        lambda x: jnp.sum(jnp.sin(x.at[jnp.argmax(x)].set(0.0))),
        [1.0, 1.0, 1.0],
        True,
    ),
    "rows of three and of two": (
        lambda x: jnp.sum(jax.vmap(lambda r: r[jnp.argmax(r)])(x.reshape(2, 3)) ** 2),
        [1.0, 1.0, 1.0, 2.0, 2.0, 0.0],
        True,
    ),
    "k-means, three centres as near": (
        lambda c: jnp.sum((c[jnp.argmin((c - 1) ** 2)] - 1) ** 2),
        [0.0, 2.0, 2.0],
        True,
    ),
    "k-means": (lambda c: k_means(c.reshape(3, 2)), [0.0, 0.0, 2.0, 0.0, 9.0, 9.0], True),
    "k-means, by two indices": (
        lambda c: nearest_by_rows(c.reshape(3, 2)),
        [0.0, 0.0, 2.0, 0.0, 9.0, 9.0],
        True,
    ),
    "a row and a column of one comparison": (by_row_and_column, [1.0, 1.0], True),
    "gates, a tie inside the chosen": (gated, [1.0, 1.0, 0.0, -1.0], True),
    "gates by scatter": (gated_by_scatter, [1.0, 1.0, 0.0, -1.0], True),
    "|x − round(x)|": (lambda x: jnp.sum(jnp.abs(x - jnp.round(x))), [0.5, 1.5, 0.25, 1.0], True),
    "a table": (lambda x: from_table(x[0]), [1.0], True),
    "a table, many at once": (lambda x: jnp.sum(from_table(x) ** 2), [1.0, 2.0, 0.5], True),
    "products of masks": (masks, [2.0, 2.0, 1.0], True),
    "products of masks, the last": (masks, [1.0, 2.0, 2.0], True),
    "a mask and its complement": (
        lambda x: x[0] * (x[0] > x[1]) + x[1] * (x[1] >= x[0]),
        [1.0, 1.0],
        True,
    ),
    "a triangle wave": (lambda x: triangle(x[0]), [2.0], True),
    "a wave of the fractional part": (
        lambda x: jnp.abs(x[0] - 1) * jnp.cos(2 * jnp.pi * (x[0] - jnp.floor(x[0]))),
        [1.0],
        True,
    ),
    "a wave of remainders": (lambda x: x[0] % 1 * (1 - x[0] % 1), [1.0], True),
    "a wave of remainders by a negative number": (
        lambda x: jnp.mod(x[0], -1.0) * (1 + jnp.mod(x[0], -1.0)),
        [2.0],
        True,
    ),
    "a triangle wave of remainders": (
        lambda x: jnp.sum(jnp.minimum(x % 1, 1 - x % 1)),
        [1.0, -3.0, 0.25],
        True,
    ),
    "a wave, by //": (lambda x: (x[0] - x[0] // 2 * 2) * (2 - x[0] + x[0] // 2 * 2), [2.0], True),
    "a wave next to a multiple of a tenth": (
        lambda x: x[0] % 0.1 * (0.1 - x[0] % 0.1),
        [1.0],
        True,
    ),
    "a captured predicate": (captured, [0.0], True),
    "the two largest, by a threshold": (two_largest, [2.0, 1.0, 0.0], True),
    "probabilities above the second": (
        lambda x: jnp.sum(jnp.where((p := jax.nn.softmax(x)) >= jnp.sort(p)[-2], p**2, 0.0)),
        [2.0, 1.0, 0.0],
        True,
    ),
    "entries that are the maximum": (lambda x: jnp.sum(x**2 * (x == jnp.max(x))), [2.0, 1.0], True),
    "entries not below the maximum": (
        lambda x: jnp.sum(jnp.where(x - jnp.max(x) >= 0, x**2, 0.0)),
        [2.0, 1.0, 0.0],
        True,
    ),
    "the two largest, scattered": (two_largest_scattered, [1.0, 1.0, 0.0], True),
    "the two largest, scattered, a tie with the third": (
        two_largest_scattered,
        [2.0, 1.0, 1.0],
        True,
    ),
    "all but the largest": (
        lambda x: jnp.sum(jnp.sin(x.at[jnp.argmax(x)].set(0.0))),
        [1.0, 1.0, 0.5],
        True,
    ),
    "pieces that part, and the next line mends": (
        lambda x: jnp.where(x[0] > 0, 1 + x[1] ** 2, 1.0) - jnp.where(x[0] > 0, x[1] ** 2, -x[0]),
        [0.0, 0.0],
        True,
    ),
    "pieces that meet on a circle": (
        lambda x: jnp.where(x[:2] @ x[:2] > 1, (x[:2] @ x[:2] - 1) * (x[2] + 2), 0.0),
        [0.6, 0.8, 0.0],
        True,
    ),
    "a jump that begins at a distance": (
        lambda x: jnp.where(x[0] > 0, jax.nn.relu(x[1] - 1e-3), x[0]),
        [0.0, 0.0],
        True,
    ),
    "sin(x)/x": (
        lambda x: x[1] * jnp.sinc(x[0]),
        [0.0, 2.0],
        True,
    ),
    "entries added at the two largest": (
        lambda x: jnp.sum(x.at[jax.lax.top_k(x, 2)[1]].add(x[:2]) ** 2),
        [1.0, 1.0, 0.0],
        True,
    ),
}


@pytest.mark.parametrize("name", MENDED)
def test_accepted_with_the_derivatives_nearby(name):
    fun, x, exact = MENDED[name]
    x = jnp.array(x)
    J = cx.conservative_jacobian(fun)(x)
    assert_same_set(J.vertices(), limits(fun, x), atol=1e-5)
    assert J.clarke_exact is exact
    expected = np.reshape(jax.jacobian(fun)(x), J.shape)
    np.testing.assert_allclose(J.element("jax"), expected, atol=1e-12)
    rng = np.random.default_rng(0)
    for _ in range(3):
        v = rng.normal(size=x.shape)
        one_sided = (fun(x + 1e-7 * v) - fun(x)) / 1e-7
        np.testing.assert_allclose(J.directional(v), np.ravel(one_sided), atol=1e-5)


def heaviside_sum(x):
    return (x > 0) * x + (x >= 0) * (1.0 + x)


# a program whose pieces part, at or next to the point
TORN = {
    "a saw tooth": (lambda x: x[0] - jnp.floor(x[0]), [1.0]),
    "a saw tooth of remainders": (lambda x: x[0] % 1, [1.0]),
    "a sum of steps": (lambda x: heaviside_sum(x[0]), [0.0]),
    "a third value at the tie": (lambda x: x[0] * (x[0] > x[1]) + x[1] * (x[1] > x[0]), [1.0, 1.0]),
    "an entry that was not compared": (lambda x: x[1 + jnp.argmax(x[:2])], [1.0, 1.0, 0.0]),
    "a row and a column of two comparisons": (
        lambda x: x.reshape(2, 2)[jnp.argmax(x[:2]), jnp.argmax(x[2:])],
        [1.0, 1.0, 1.0, 1.0],
    ),
    "an entry that was not compared, of three": (
        lambda x: x[1 + jnp.argmax(x[:3])],
        [1.0, 1.0, 1.0, 1.0],
    ),
    "of three entries one reads another": (
        lambda x: jnp.array([x[0], x[1], 2 * x[2] - 1])[jnp.argmax(x)],
        [1.0, 1.0, 1.0],
    ),
    "gates, a tie with the next": (gated, [1.0, 0.0, 0.0, -1.0]),
    "pieces that meet at this point alone": (lambda x: jnp.where(x[0] > 0, x[1], 0.0), [0.0, 0.0]),
    "pieces that meet at this point alone, read late": (
        lambda x: (x[0] > 0) * (x[1] + 1) - jnp.where(x[0] > 0, 1.0, 0.0),
        [0.0, 0.0],
    ),
    "the two largest, a tie with the third": (two_largest, [2.0, 1.0, 1.0]),
    "the maximum, where it ties": (lambda x: x[0] * (x[0] >= jnp.max(x)), [1.0, 1.0]),
    "entries of two iterations": (
        lambda x: jnp.sum(jax.lax.scan(lambda c, e: (e, jnp.where(c >= e, e, 0.0)), x[2], x)[1]),
        [1.0, 1.0, 3.0],
    ),
    "an entry and its negative": (lambda x: jnp.where(x[0] >= -x[0], 1 + x[0], 0.0), [0.0]),
    "pieces that part in the second order": (
        lambda x: jnp.where(x[0] > 0, x[1] ** 2, 0.0),
        [0.0, 0.0],
    ),
    "pieces that part in the third order": (
        lambda x: jnp.where(x[0] > x[2], 1 + x[1] ** 3, 1.0),
        [2.0, 0.0, 2.0],
    ),
    "pieces that part on one side of the point": (
        lambda x: jnp.where(x[0] > 0, jax.nn.relu(x[1]) ** 2, 0.0),
        [0.0, 0.0],
    ),
    "pieces that part along a circle": (
        lambda x: jnp.where(x @ x > 1, (x[1] - 0.8) ** 2, 0.0),
        [0.6, 0.8],
    ),
    "a step that grows": (lambda x: jnp.floor(x[0]) * x[1] ** 2, [1.0, 0.0]),
    "many pieces, of which one parts": (
        lambda x: jnp.sum(jnp.where(x > 0, x, 0.0)) + jnp.where(x[3] > 0, x[5] ** 2, 0.0),
        [0.0] * 8,
    ),
    "a place that reads what parts": (
        lambda x: jnp.array([x[0], x[1] + x[3] ** 2, x[2]])[jnp.argmax(x[:3])],
        [1.0, 1.0, 1.0, 0.0],
    ),
    "another value on the tie": (lambda x: jnp.where(x[0] == 0, 0.0, x[1] ** 2), [0.0, 0.0]),
    "sides that are zero at this point alone": (
        lambda x: jnp.where(jnp.where(x[0] > 0, x[0], 2 * x[0]) >= 0, x[1], 0.0),
        [0.0, 1.0],
    ),
    "kinks named again, sides that part": (
        lambda x: jnp.where(jnp.abs(x[0]) > x[1], jnp.abs(x[0]), 2 * x[1]) + x[jnp.argmax(x)],
        [0.0, 0.0],
    ),
    "kinks named again, sides that part for negative numbers": (
        lambda x: (
            jnp.where(jnp.abs(x[0]) > x[1], jnp.abs(x[0]), 2 * x[1] - x[0]) + x[jnp.argmax(x)]
        ),
        [0.0, 0.0],
    ),
    "double where that jumps": (
        lambda x: jnp.where(x[0] > 0, 1 / jnp.where(x[0] > 0, x[0] + 1, 1.0), 0.0),
        [0.0],
    ),
}


# kinks that are executed twice, by the comparison and by what it chooses: larger sets, true directions
NAMED_AGAIN = {
    "abs": lambda x: jnp.where(jnp.abs(x[0]) > x[1], jnp.abs(x[0]), x[1]) + x[jnp.argmax(x)],
    "relu": lambda x: (
        jnp.where(jnp.maximum(x[0], 0) > x[1], jnp.maximum(x[0], 0), x[1]) + x[jnp.argmax(x)]
    ),
    "min": lambda x: (
        jnp.where(jnp.minimum(x[0], 2 * x[1]) > 0, jnp.minimum(x[0], 2 * x[1]), 0.0)
        + x[jnp.argmax(x)]
    ),
    "max of three": lambda x: (
        jnp.where(jnp.max(x) > jnp.abs(x[2]), jnp.max(x), jnp.abs(x[2])) + x[jnp.argmax(x[:2])]
    ),
    "a wave": lambda x: (
        jnp.where(jnp.abs(x[0]) > x[1], jnp.abs(x[0]), x[1])
        + (x[1] - jnp.floor(x[1])) * (jnp.ceil(x[1]) - x[1])
    ),
}


@pytest.mark.parametrize("name", NAMED_AGAIN)
def test_kinks_that_are_executed_twice_take_one_side(name):
    fun, x = NAMED_AGAIN[name], jnp.zeros(3)
    J = cx.conservative_jacobian(fun)(x)
    for limit in limits(fun, x):
        assert J.distance(limit.reshape(J.shape)) < 1e-5
    rng = np.random.default_rng(0)
    for _ in range(6):
        v = rng.normal(size=x.shape)
        np.testing.assert_allclose(J.directional(v), [(fun(1e-7 * v) - fun(x)) / 1e-7], atol=1e-5)


@pytest.mark.parametrize("name", TORN)
def test_refused_where_pieces_part(name):
    fun, x = TORN[name]
    with pytest.raises((errors.DiscontinuousError, errors.UnsupportedOperationError)):
        cx.conservative_jacobian(fun)(jnp.array(x))


def test_a_kink_that_is_written_twice_takes_one_side():
    """The larger of relu(x₀) + x₁ and 2x₁, the relu being executed for the comparison and for what is read."""

    def fun(x):
        read, compared = (jnp.stack([jax.nn.relu(x[0]) + x[1], 2 * x[1]]) for _ in range(2))
        return read[jnp.argmax(compared)]

    J = cx.conservative_jacobian(fun)(jnp.zeros(2))
    assert_same_set(J.vertices(), [[[0.0, 1.0]], [[1.0, 1.0]], [[0.0, 2.0]]], atol=1e-12)
    for v in np.random.default_rng(0).normal(size=(10, 2)):
        np.testing.assert_allclose(J.directional(v), max(max(v[0], 0) + v[1], 2 * v[1]), atol=1e-12)


@pytest.mark.parametrize(
    "fun",
    [
        lambda x: jnp.where(x > 0, x * jnp.log(jnp.where(x > 0, x, 1.0)), 0.0),
        lambda x: jnp.where(x > 0, jnp.sin(x) / jnp.where(x > 0, x, 1.0), 1.0),
    ],
)
def test_a_side_that_is_an_undetermined_form_is_not_said_to_jump(fun):
    with pytest.raises(
        errors.NotLipschitzError, match=r"test_both_sides.py:\d+.*no value at the switch"
    ):
        cx.conservative_jacobian(fun)(0.0)


def test_what_takes_too_many_passes_or_has_no_scalar_kinks_is_named():
    """No jump is claimed where it is the calculus that ends."""
    with pytest.raises(errors.TooManyKinksError, match="more than 64 entries tie at this argmax"):
        cx.conservative_jacobian(lambda x: x[jnp.argmax(x)])(jnp.ones(70))
    with pytest.raises(
        errors.TooManyKinksError, match="more than 4 entries in a row tie at this top_k"
    ):
        cx.conservative_jacobian(
            lambda x: jax.nn.softmax(jax.lax.top_k(x, 2)[0]) @ x[jax.lax.top_k(x, 2)[1]]
        )(jnp.ones(5))
    with pytest.raises(errors.UnsupportedOperationError, match="three or more entries tie at this"):
        cx.conservative_jacobian(lambda x: x[jnp.argsort(x)[-1]])(jnp.ones(3))
    with pytest.raises(errors.UnsupportedOperationError, match="other kinks are active"):
        cx.conservative_jacobian(lambda x: jax.nn.relu(x[jnp.argmax(x)]))(jnp.zeros(3))


def test_an_extremum_of_three_within_rounding_is_one_tie_and_a_verdict():
    W = jnp.array(np.random.default_rng(3).normal(size=(3, 3)), jnp.float32)
    b = 1 - W @ jnp.ones(3, jnp.float32)
    J = cx.conservative_jacobian(lambda x: (W @ x + b)[jnp.argmax(W @ x + b)])(
        jnp.ones(3, jnp.float32)
    )
    assert [k.ways for k in J.kinks] == [3]
    assert_same_set(J.vertices(), np.asarray(W)[:, None], atol=1e-6)

    def equation(y, p, slope):  # slope + {1, −1, ½}
        lines = jnp.array([y, -y, y / 2])
        return slope * y + lines[jnp.argmax(lines)] - p

    verdicts = [cx.check(equation, 0.0, 0.0, slope).verdict for slope in (2.0, 0.7)]
    assert verdicts == [cx.Verdict.PROVEN, cx.Verdict.REFUTED]


def test_a_verdict_through_a_table():
    def equation(y, p):
        return from_table(y) - 3 * y - p  # slopes 1 − 3 and 3 − 3 meet at 1

    assert cx.check(equation, 1.0, -2.0).verdict == cx.Verdict.REFUTED
    assert cx.check(lambda y, p: from_table(y) + y - p, 1.0, 2.0).verdict == cx.Verdict.PROVEN


def test_off_the_jumps_nothing_is_read_twice():
    J = cx.conservative_jacobian(from_table)(1.5)
    assert J.kinks == ()
    np.testing.assert_allclose(J.element(), [[3.0]])


def piecewise(x, knots, slopes, table):
    """Continuous in x: a table, masks of one comparison, a double where, entries by argmax."""
    low, high = x[0] - knots[0], x[1] - knots[1]
    safe = jnp.where(low > 0, low, 1.0)
    bent = jnp.where(low > 0, slopes[0] * jnp.expm1(safe), slopes[1] * low)
    masked = slopes[2] * high * (high > 0) + slopes[3] * high * (high <= 0)
    i = jnp.clip(jnp.floor(x[2]), 0, 3).astype(int)
    read = table[i] + (x[2] - i) * (table[i + 1] - table[i])
    entries = jnp.stack([bent, masked, read])
    return jnp.stack([entries[jnp.argmax(entries)], bent * masked + read])


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=EXAMPLES)
def test_random_continuous_programs_against_their_neighbours(seed):
    """At ties of one, two or none of its decisions: one-sided differences, and gradients nearby."""
    rng = np.random.default_rng(seed)
    knots = rng.integers(-2, 3, size=2).astype(float)
    slopes = rng.integers(-3, 4, size=4).astype(float)
    table = rng.integers(-3, 4, size=5).astype(float) + 0.25
    free = rng.normal(size=3) + 1.3
    tied = rng.uniform(size=3) < 0.6
    x = np.where(tied, [*knots, rng.integers(1, 4)], [*(knots + free[:2]), 1.5])
    data = (knots, slopes, table)
    J = cx.conservative_jacobian(piecewise)(jnp.array(x), *data)
    v, h = rng.normal(size=3), 1e-7
    values = [np.asarray(_value(x + t * v, *data)) for t in (h, 0.0)]
    np.testing.assert_allclose(J.directional(v), (values[0] - values[1]) / h, atol=2e-5)
    gradient = np.asarray(_gradient(x + 1e-7 * v, *data))
    assert J.distance(gradient) < 1e-4 * (1 + np.abs(gradient).max())
    np.testing.assert_allclose(J.element("jax"), _gradient(x, *data), atol=1e-9)


_value, _gradient = jax.jit(piecewise), jax.jit(jax.jacobian(piecewise))


def test_a_cond_under_vmap_chooses_with_and_without_derivatives():
    """JAX holds its operands still by a select of their own; the branches meet at x₁ = x₀ all the same."""

    def both(x):
        u, v = x
        return jax.lax.cond(v < u, lambda: v - (v - u) / 2, lambda: v - 2 * (v - u))

    found = cx.conservative_jacobian(lambda x: jax.vmap(both)(x[None])[0])(jnp.zeros(2))
    expected = [[0.5, 0.5], [2.0, -1.0]]
    np.testing.assert_allclose(sorted(found.vertices()[:, 0].tolist()), expected, atol=1e-12)
