"""Sorting networks for ties, and gathers by the order of a sort."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import conservax as cx
from conservax import errors
from conservax.calculus.operations.sorting import active_comparators
from helpers import assert_same_set, on_numpy


def orders(x):
    """Every permutation matrix that sorts x, ties in any order."""
    return [
        np.eye(len(x))[list(order)]
        for order in itertools.permutations(range(len(x)))
        if all(x[i] <= x[j] for i, j in itertools.pairwise(order))
    ]


def by_order(x):
    return x[jnp.argsort(x)]


SORTS = [(fun, on_numpy(jax.jacobian(fun))) for fun in (jnp.sort, by_order)]


@settings(max_examples=20)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=4))
def test_a_sort_and_a_gather_by_its_order_have_every_order_of_the_ties(values):
    x = jnp.array(values, float)
    for fun, jacobian in SORTS:
        J = cx.conservative_jacobian(fun)(x)
        assert_same_set(J.vertices(), orders(values))
        np.testing.assert_array_equal(J.element(), jacobian(x))


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_the_network_of_a_tie_reaches_every_order_and_wastes_no_comparator(size):
    active, needed = active_comparators(np.ones(size - 1, bool), size, size)
    assert needed == (1 if size == 2 else size)
    pairs = [tuple(p) for p in np.argwhere(active)]
    assert len(pairs) == size * (size - 1) // 2
    reached = set()
    for swaps in itertools.product([False, True], repeat=len(pairs)):
        entries = list(range(size))
        for (_, i), swap in zip(pairs, swaps, strict=True):
            if swap:
                entries[i], entries[i + 1] = entries[i + 1], entries[i]
        reached.add(tuple(entries))
    assert len(reached) == len(list(itertools.permutations(range(size))))


def test_other_arrays_follow_the_same_comparators():
    """y = 2x sorted by x moves as one with x: two orders, not four."""
    x = jnp.array([1.0, 0.0, 1.0])

    def fun(x):
        order = jnp.argsort(x)
        return jnp.concatenate([x[order], (2 * x)[order]])

    expected = [np.concatenate([p, 2 * p]) for p in orders([1, 0, 1])]
    assert_same_set(cx.conservative_jacobian(fun)(x).vertices(), expected)


def test_rows_follow_their_key():
    x = jnp.array([1.0, 0.0, 1.0])
    fun = lambda x: jnp.stack([x, 3 * x], axis=1)[jnp.argsort(x)]  # noqa: E731
    expected = [np.kron(p, [[1], [3]]) for p in orders([1, 0, 1])]
    assert_same_set(cx.conservative_jacobian(fun)(x).vertices(), expected)


@pytest.mark.parametrize(
    "fun",
    [
        lambda x: (x * jnp.arange(3.0))[jnp.argsort(x)],
        lambda x: jnp.arange(3.0)[jnp.argsort(x)] * x,
        lambda x: jnp.argsort(x).astype(float) + x,
    ],
)
def test_what_differs_where_keys_tie_is_refused_there_and_allowed_elsewhere(fun):
    with pytest.raises(errors.DiscontinuousError, match=r"test_sorting\.py:\d+"):
        cx.conservative_jacobian(fun)(jnp.array([1.0, 0.0, 1.0]))
    x = jnp.array([1.0, 0.0, 3.0])
    np.testing.assert_allclose(
        cx.conservative_jacobian(fun)(x).vertices(), [on_numpy(jax.jacobian(fun))(x)]
    )


@pytest.mark.parametrize("policy", ["lower", "upper"])
def test_a_policy_orders_gathers_and_sorts_alike(policy):
    x = jnp.array([1.0, 0.0, 1.0])
    gathered, in_order = (
        on_numpy(jax.jacobian(cx.select(fun, policy)))(x) for fun in (by_order, jnp.sort)
    )
    np.testing.assert_array_equal(gathered, in_order)
    assert any(np.array_equal(gathered, p) for p in orders([1, 0, 1]))


def test_a_long_tie_is_planned_again_with_as_many_rounds():
    J = cx.conservative_jacobian(lambda x: jnp.sort(x)[0])(jnp.zeros(6))
    assert len(J.kinks) == 15
    assert_same_set(J.vertices()[:, 0], np.eye(6))


def bump(t):
    return (t - jnp.floor(t)) * (jnp.ceil(t) - t)


def with_largest(x):
    return jnp.stack([x[0], x[1], x[jnp.argmax(x)]])


def with_bump(x):
    return jnp.stack([x[0], x[1], bump(x[0])])


@pytest.mark.parametrize("sort", [jnp.sort, jnp.median])
@pytest.mark.parametrize(
    ("torn", "plain"),
    [
        (with_largest, lambda x: jnp.stack([x[0], x[1], jnp.maximum(x[0], x[1])])),
        (with_bump, lambda x: jnp.stack([x[0], x[1], jnp.abs(x[0])])),  # near 0
    ],
)
def test_a_sort_of_three_entries_one_of_which_a_comparison_decides(sort, torn, plain):
    J = cx.conservative_jacobian(lambda x: sort(torn(x)))(jnp.zeros(2))
    K = cx.conservative_jacobian(lambda x: sort(plain(x)))(jnp.zeros(2))
    assert_same_set(J.vertices(), K.vertices())
    V = np.array([[1.0, -2.0], [-1.0, 3.0], [2.0, 1.0], [-3.0, -1.0], [1.0, 1.0], [-1.0, -1.0]])
    for v in V:
        np.testing.assert_allclose(J.directional(v), np.ravel(sort(plain(v))), atol=1e-9)
