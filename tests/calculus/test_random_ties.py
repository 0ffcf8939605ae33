"""Random programs at ties of several entries: places of extrema, thresholds, gates, double ``where``."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import conservax as cx
from conservax import errors

EXAMPLES = 200 if "CONSERVAX_PROGRAMS" in os.environ else 20  # make fuzz, make test
TABLE = jnp.array([[1.0, -2.0], [3.0, 4.0], [-5.0, 6.0], [7.0, 0.5], [0.0, 2.0]])


def held_to_neighbours(fun, x, data, rng, step=1e-7, close=2e-4):
    """One-sided differences, a gradient nearby, and JAX's own."""
    J = cx.conservative_jacobian(fun)(jnp.array(x), *data)
    value, gradient = COMPILED[fun]
    for _ in range(2):
        v = rng.normal(size=x.shape)
        change = np.ravel(value(x + step * v, *data) - value(x, *data)) / step
        size = 1 + np.abs(change).max()
        np.testing.assert_allclose(J.directional(v), change, atol=close * size)
        nearby = np.asarray(gradient(x + step * v, *data))
        away = (
            np.abs(J.vertices() - nearby).max(axis=(1, 2)).min()
        )  # nothing ties at a random neighbour
        assert away < close * (1 + np.abs(nearby).max())
    np.testing.assert_allclose(J.element("jax"), gradient(x, *data), atol=1e-9)
    return J


def extrema(x, W, b, bend):
    """Continuous in x: what is read at a place is a function of the entry that decides it."""
    u = W @ x + b + bend * jnp.sum(x * x)
    read = jnp.stack([u[jnp.argmax(u)] ** 2, jnp.sin(u)[jnp.argmin(u)]])
    rest = jnp.sum(jnp.cos(u.at[jnp.argmax(u)].set(0.0)))
    centres = (u[:, None] - jnp.array([1.0, 3.0])) ** 2
    nearest = u[jnp.argmin(centres, axis=0)]
    return jnp.concatenate([read, rest[None], (nearest - jnp.array([1.0, 3.0])) ** 2])


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=EXAMPLES)
def test_places_of_extrema_that_up_to_four_entries_share(seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(-2, 3, size=3).astype(float)
    W = rng.normal(size=(5, 3))
    bend = rng.integers(-1, 2) / 2
    # the largest, the smallest, and entries as near to 1 or 3 as others
    u = rng.choice([0.0, 2.0, 4.0], size=5) + np.where(rng.uniform(size=5) < 0.3, 0.3, 0.0)
    u[:4][rng.uniform(size=4) < 0.4] = u[4]
    b = u - W @ x - bend * np.sum(x * x)
    held_to_neighbours(extrema, x, (W, b, bend), rng)


def chosen(x, w, table=TABLE):
    """The three largest, by a threshold."""
    return jnp.sum(jnp.where(x >= jnp.sort(x)[-3], jnp.exp(w * x), 0.0))[None]


def gated(x, w, table=TABLE):
    """The three largest, by their places."""
    values, places = jax.lax.top_k(x, 3)
    gates = jax.nn.softmax(values)
    return gates @ (table * w)[places]


def scattered(x, w, table=TABLE):
    values, places = jax.lax.top_k(x, 3)
    return jnp.zeros(len(x)).at[places].set(jax.nn.softmax(values)) @ (table * w)


@pytest.mark.parametrize("fun", [chosen, gated, scattered])
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=EXAMPLES)
def test_the_three_largest_wherever_they_tie(fun, seed):
    """Refused exactly where the third ties with the fourth."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 4, size=5) / 2
    w = float(rng.integers(1, 4)) / 2
    largest = np.sort(x)[::-1]
    if largest[2] == largest[3]:
        refusals = (errors.DiscontinuousError, errors.UnsupportedOperationError)
        refusals = (*refusals, errors.TooManyKinksError) if np.ptp(x) == 0 else refusals
        with pytest.raises(refusals):
            cx.conservative_jacobian(fun)(jnp.array(x), w)
    else:
        J = held_to_neighbours(fun, x, (w,), rng)
        assert J.vertices().shape[0] == 1


@pytest.mark.parametrize("fun", [chosen, gated, scattered])
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=EXAMPLES)
def test_any_number_of_entries_may_tie_where_nobody_reads_them(fun, seed):
    """Refused where one of them is among the three largest."""
    rng = np.random.default_rng(seed)
    large, w = rng.integers(1, 3, size=3) / 2, float(rng.integers(1, 4)) / 2
    order, table = rng.permutation(9), rng.normal(size=(9, 2))
    x = np.concatenate([large, np.zeros(6)])[order]
    J = held_to_neighbours(fun, x, (w, table), rng)
    assert J.vertices().shape[0] == 1
    with pytest.raises((errors.DiscontinuousError, errors.TooManyKinksError)):
        cx.conservative_jacobian(fun)(jnp.where(x == large.min(), 0.0, x), w, table)


def test_values_that_are_read_know_nothing_of_ties_behind_them():
    """One element however many tie there; those that tie with the last value read are all in its set."""
    x = jnp.array([0.0, 2.0, *[0.0] * 10])
    for fun in (lambda x: jax.lax.top_k(x, 1)[0], lambda x: -jax.lax.sort(-x)[:1]):
        J = cx.conservative_jacobian(fun)(x)
        np.testing.assert_array_equal(J.vertices(), [np.eye(12)[[1]]])
    J = cx.conservative_jacobian(lambda x: jax.lax.top_k(x, 2)[0])(x[:4])
    others = np.eye(4)[[0, 2, 3]]
    expected = np.stack([np.tile(np.eye(4)[1], (3, 1)), others], axis=1)
    found = np.unique(J.vertices(), axis=0)
    np.testing.assert_array_equal(found, np.unique(expected, axis=0))


def test_rows_of_a_batch_may_tie_where_nobody_reads_them():
    """In all rows at once as one by one; a tie that is read is refused, and not said to jump."""

    def gate(row, table):
        values, places = jax.lax.top_k(row, 2)
        return jax.nn.softmax(values) @ table[places]

    x, table = jnp.array([[3.0, 1, 0.5, 0.5, 0.5], [0, 4, 0, 2, 0]]), TABLE[:, 0]
    J = cx.conservative_jacobian(lambda x: jax.vmap(gate, (0, None))(x, table))(x)
    one_by_one = jnp.stack([jax.grad(gate)(row, table) for row in x])
    expected = jnp.einsum("ij,ik->ijk", jnp.eye(2), one_by_one)
    for element in J.vertices().reshape(-1, 2, 2, 5):
        np.testing.assert_allclose(element, expected, atol=1e-12)
    with pytest.raises(
        errors.UnsupportedOperationError, match=r"a row of this top_k.*jax\.lax\.map"
    ):
        cx.conservative_jacobian(lambda x: jax.vmap(gate, (0, None))(x, table))(x.at[0, 1].set(0.5))


def test_masked_entries_tie_with_nothing():
    """Several infinities are no NaN, in values and in places, in one row and in several."""
    mask, x = jnp.array([True, True, False, True, False]), jnp.array([1.0, 1.0, 0.0, 0.2, 0.0])
    v = jnp.array([1.0, 2.0, 3.0, 4.0, 5.0])

    def values(x):
        return jax.lax.top_k(jnp.where(mask, x, -jnp.inf), 2)[0]

    J = cx.conservative_jacobian(values)(x)
    np.testing.assert_allclose(J.directional(v), [2.0, 1.0])
    rows = np.sort(J.vertices(), axis=0)
    np.testing.assert_allclose(rows, np.sort([np.eye(5)[:2], np.eye(5)[1::-1]], axis=0))

    def gated(x):
        largest, places = jax.lax.top_k(jnp.where(mask, x, -jnp.inf), 4)
        return jax.nn.softmax(largest) @ TABLE[places, 0]

    x = x.at[1].set(0.5)
    for fun in (gated, lambda x: jax.vmap(gated)(x[None])[0]):
        J = cx.conservative_jacobian(fun)(x)
        np.testing.assert_allclose(J.element("jax"), jax.grad(gated)(x)[None], atol=1e-12)
        assert not J.kinks


def powers(x, knots, p, slopes):
    """Powers of at least 1 from a knot on, by a double where; a line before it."""
    z = x - knots
    safe = jnp.where(z > 0, z, 1.0)
    pieces = jnp.where(z > 0, slopes[0] * safe**p, slopes[1] * z)
    return jnp.stack([jnp.sum(pieces), pieces[0] * pieces[1] + jnp.abs(pieces[2])])


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=EXAMPLES)
def test_powers_by_a_double_where(seed):
    rng = np.random.default_rng(seed)
    knots = rng.integers(-1, 2, size=3).astype(float)
    x = knots + np.where(rng.uniform(size=3) < 0.7, 0.0, rng.normal(size=3))
    p = rng.choice([1.0, 1.5, 2.0, 2.5, 3.0], size=3)
    slopes = rng.integers(-2, 3, size=(2, 3)).astype(float)
    # √step, times slopes and directions: what a power 1.5 differs by
    held_to_neighbours(powers, x, (knots, p, slopes), rng, 1e-9, 2e-3)


def across_a_surface(x, at, w, bend, parts):
    """Pieces that meet where s(x) = 0, and part there by cᵢ qᵏ, which vanishes at ``at`` to first order."""
    d = x - at
    s = w[0] @ d + bend * d @ d
    safe = jnp.where(s > 0, s, 1.0)
    q = w[1] @ d
    meeting = jnp.where(s > 0, jnp.sin(q) * s + safe**1.5, 0.0) + s * q * jnp.heaviside(s, 0.5)
    parting = jnp.where(s > 0, parts[0] * q**2 + parts[1] * q**3, 0.0)
    entries = jnp.stack([w[2] @ d, s, -jnp.ones(())])
    read = (entries + parts[2] * jnp.array([1.0, 0.0, 0.0]) * q**2)[jnp.argmax(entries)]
    return jnp.stack([meeting + parting, read + 1.0])


@given(st.integers(0, 2**32 - 1), st.integers(-1, 2))
@settings(max_examples=EXAMPLES)
def test_pieces_that_part_beyond_the_first_order_are_refused(seed, parting):
    rng = np.random.default_rng(seed)
    at = rng.integers(-2, 3, size=4).astype(float)
    w = rng.normal(size=(3, 4))
    bend = rng.integers(-1, 2) / 2
    parts = np.zeros(3)
    data = (at, w, bend, parts)
    if parting < 0:
        held_to_neighbours(across_a_surface, at, data, rng, 1e-9, 2e-3)
    else:
        parts[parting] = rng.choice([-1.0, 0.5, 2.0])
        with pytest.raises(errors.DiscontinuousError, match=r"jumps by .* where its inputs change"):
            cx.conservative_jacobian(across_a_surface)(jnp.array(at), *data)


COMPILED = {
    fun: (jax.jit(fun), jax.jit(jax.jacobian(fun)))
    for fun in (extrema, chosen, gated, scattered, powers, across_a_surface)
}
