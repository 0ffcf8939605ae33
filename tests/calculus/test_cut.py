"""The cut: comparisons, ties and near ties, padding, and the way columns meet kinks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import conservax as cx
from conservax import errors
from helpers import assert_same_set

relu = jax.nn.relu


def test_one_compiled_program_serves_points_with_any_number_of_active_kinks():
    traces = []

    def fun(x):
        traces.append(1)
        return jnp.sum(jnp.abs(x) * jnp.array([1.0, 2.0, 4.0, 8.0, 16.0]))

    jacobian = cx.conservative_jacobian(fun)
    for active in range(6):
        x = jnp.where(jnp.arange(5) < active, 0.0, 1.0)
        J = jacobian(x)
        slopes = (
            np.array(np.meshgrid(*[[-1, 1] if i < active else [1] for i in range(5)]))
            .reshape(5, -1)
            .T
        )
        assert len(J.kinks) == active
        assert_same_set(J.vertices()[:, 0], slopes * 2.0 ** np.arange(5))
    assert len(traces) <= 2 + 6  # one plan; jax.eval_shape looks at the output once a call


def test_forward_and_reverse_linearisation_agree():
    rng = np.random.default_rng(0)
    W = rng.normal(size=(3, 3))

    def fun(x):  # wide: reverse mode is cheaper
        return jnp.sum(relu(W @ x[:3])) + jnp.max(x) * jnp.exp(x[5])

    wide = cx.conservative_jacobian(fun)(jnp.zeros(40))
    tall = cx.conservative_jacobian(lambda y: jnp.stack([fun(jnp.pad(y, (0, 34)))] * 40))(
        jnp.zeros(6)
    )
    q = np.full(3 + 40, 1 / 40)
    q[:3] = [1.0, 0.5, 0.0]
    np.testing.assert_allclose(wide.element(q)[0, :3], W.T @ [1, 0.5, 0] + 1 / 40, atol=1e-12)
    np.testing.assert_allclose(wide.element("jax")[0, :6], tall.element("jax")[7], atol=1e-12)


def test_a_near_tie_within_the_tolerance_is_a_tie():
    J = cx.conservative_jacobian(jnp.max)(jnp.array([1.0, 1.0 - 1e-12, 1.0 - 1e-3]))
    assert [k.ways for k in J.kinks] == [2]
    assert_same_set(J.vertices()[:, 0], [[1, 0, 0], [0, 1, 0]])
    np.testing.assert_array_equal(J.element("jax"), [[1, 0, 0]])


def test_the_leader_of_a_tie_may_stand_anywhere():
    for order in ([0, 1, 2], [1, 2, 0], [2, 0, 1]):
        x = jnp.array([1.0, 1.0 + 1e-12, 1.0 - 1e-12])[jnp.array(order)]
        J = cx.conservative_jacobian(jnp.max)(x)
        np.testing.assert_allclose(J.element([0.2, 0.3, 0.5]), [[0.2, 0.3, 0.5]], atol=1e-14)


def test_a_maximum_of_differences_of_large_terms():
    J = cx.conservative_jacobian(
        lambda x: jnp.max(jnp.stack([x[0] - x[1], x[2] - x[0], x[1] - x[2]]))
    )(jnp.full(3, 1e7))
    assert_same_set(J.vertices()[:, 0], [[1, -1, 0], [-1, 0, 1], [0, 1, -1]])


def test_branches_of_one_comparison_that_feed_each_other_switch_together():
    # |relu(x)| written with one comparison: its slope is 0 or 1, never −1
    def fun(x):
        positive = x > 0
        y = jnp.where(positive, x, 0.0)
        return jnp.where(positive, y, -y)

    J = cx.conservative_jacobian(fun)(0.0)
    assert len(J.kinks) == 1
    assert_same_set(J.vertices(), [0.0, 1.0])


def test_branches_that_feed_each_other_are_affine_in_the_shared_weight():
    def fun(x):
        positive = x > 0
        y = jnp.where(positive, 2 * x, 3 * x)
        return jnp.where(positive, 5 * y, 7 * y)

    J = cx.conservative_jacobian(fun)(0.0)
    assert_same_set(J.vertices(), [10.0, 21.0])
    assert 10 <= J.element([0.5]).item() <= 21


def test_a_where_over_an_array_has_a_kink_for_each_entry():
    J = cx.conservative_jacobian(
        lambda x: jnp.sum(jnp.where(x > 0, 2 * x, x) * jnp.array([1.0, 10.0]))
    )(jnp.zeros(2))
    assert [k.index for k in J.kinks] == [(0,), (1,)]
    assert [k.operation for k in J.kinks] == ["where", "where"]
    assert_same_set(J.vertices()[:, 0], [[a, 10 * b] for a in (1, 2) for b in (1, 2)])


def test_a_scalar_comparison_steers_a_whole_array():
    J = cx.conservative_jacobian(lambda x: jnp.where(x[0] > x[1], x, x[::-1]))(
        jnp.array([1.0, 1.0])
    )
    assert len(J.kinks) == 1
    assert_same_set(J.vertices(), [np.eye(2), np.eye(2)[::-1]])


def test_a_where_steered_by_a_function_with_no_slope_at_the_switch():
    # where(x² > 0, x, 0) is x everywhere: continuous, no inequality to attach a slope to
    J = cx.conservative_jacobian(lambda x: jnp.where(x * x > 0, x, 0.0))(0.0)
    assert 1.0 in J.vertices().ravel()


def test_comparison_inside_a_loop_steers_its_own_iteration():
    fun = lambda x: jax.lax.fori_loop(0, 2, lambda i, y: jnp.where(y > 0, 2 * y, -y), x)  # noqa: E731
    J = cx.conservative_jacobian(fun)(0.0)
    assert len(J.kinks) == 2
    assert_same_set(J.vertices(), [4.0, -2.0, 1.0])


def test_a_comparison_made_outside_a_loop_steers_every_iteration_together():
    def fun(x):
        positive = x > 0
        return jax.lax.fori_loop(0, 2, lambda i, y: jnp.where(positive, 2 * y, -y), x)

    J = cx.conservative_jacobian(fun)(0.0)
    assert len(J.kinks) == 1
    assert_same_set(J.vertices(), [4.0, 1.0])


def test_a_jump_hidden_in_an_entry_is_found():
    fun = lambda x: jnp.where(x > 0, x + jnp.array([0.0, 1.0, 0.0]), x)  # noqa: E731
    cx.conservative_jacobian(fun)(jnp.array([0.0, 1.0, 0.0]))
    with pytest.raises(errors.DiscontinuousError):
        cx.conservative_jacobian(fun)(jnp.array([1.0, 0.0, 1.0]))


def test_float32_inputs_give_sets_to_float32_accuracy():
    W = jnp.asarray(np.random.default_rng(0).normal(size=(2, 2)), jnp.float32)
    J = cx.conservative_jacobian(lambda x: relu(W @ x))(jnp.zeros(2, jnp.float32))
    assert J.vertices().dtype == np.float64
    expected = [np.diag(q) @ W for q in ([0, 0], [0, 1], [1, 0], [1, 1])]
    assert_same_set(J.vertices(), expected, atol=1e-6)


@pytest.mark.parametrize("size", [0, 1])
def test_empty_inputs_and_outputs(size):
    J = cx.conservative_jacobian(lambda x: jnp.abs(x))(jnp.zeros(size))
    assert J.shape == (size, size)
    assert J.vertices().shape == (max(1, 2 * size), size, size)


def test_an_entry_masked_by_infinity_is_no_part_of_a_tie():
    mask = jnp.array([True, False, True, True])
    J = cx.conservative_jacobian(lambda x: jnp.max(jnp.where(mask, x, -jnp.inf)))(
        jnp.array([1.0, 5.0, 1.0, 0.0])
    )
    assert [k.ways for k in J.kinks] == [2]
    assert_same_set(J.vertices()[:, 0], [[1, 0, 0, 0], [0, 0, 1, 0]])
