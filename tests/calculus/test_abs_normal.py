"""The abs-normal form: A, H, E, L of programs whose matrices are known, and its algebra."""

import jax
import jax.numpy as jnp
import numpy as np

import conservax as cx
from conservax.calculus import AbsNormal
from conservax.calculus.sets.abs_normal import Group, Kink
from conservax.calculus.tracing.locations import Location
from helpers import extreme_selections

relu = jax.nn.relu


def group(columns, ways=1, leader=0):
    kink = Kink("abs", Location("model.py", 3), (), 0.0, 0.0, (-1.0, 1.0), True, ways)
    return Group(kink, columns, (0.5,) * ways, leader)


def random_form(k=4, m=2, n=3, seed=0):
    rng = np.random.default_rng(seed)
    L = np.tril(rng.normal(size=(k, k)), -1)
    groups = tuple(group((i,)) for i in range(k))
    return AbsNormal(
        rng.normal(size=(m, n)),
        rng.normal(size=(m, k)),
        rng.normal(size=(k, n)),
        L,
        groups,
        None,
        np.float64,
    )


def test_the_matrices_of_example_1():
    # Φ(x, y) = (|x| + y, 2x + |y|): base slopes −1, jumps of the slope 2
    def phi(v):
        return jnp.stack([jnp.abs(v[0]) + v[1], 2 * v[0] + jnp.abs(v[1])])

    form = cx.conservative_jacobian(phi)(jnp.zeros(2)).form
    np.testing.assert_array_equal(form.A, [[-1, 1], [2, -1]])
    np.testing.assert_array_equal(form.H, 2 * np.eye(2))
    np.testing.assert_array_equal(form.E, np.eye(2))
    np.testing.assert_array_equal(form.L, np.zeros((2, 2)))
    dets = [
        np.linalg.det(form.jacobian(q))
        for q in ([0, 0], [0, 1], [1, 0], [1, 1])
        for q in [np.array(q, float)]
    ]
    np.testing.assert_allclose(dets, [-1, -3, -3, -1], atol=1e-12)


def test_later_kinks_see_earlier_ones():
    # z₁ = x, z₂ = |z₁| + 3x = (−1 + 3) ẋ + 2 r₁ on the base
    form = cx.conservative_jacobian(lambda x: relu(jnp.abs(x) + 3 * x) - x)(0.0).form
    np.testing.assert_array_equal(form.E, [[1], [2]])
    np.testing.assert_array_equal(form.L, [[0, 0], [2, 0]])
    np.testing.assert_array_equal(form.A, [[-1]])
    np.testing.assert_array_equal(form.H, [[0, 1]])


def test_l_is_strictly_lower_triangular_in_execution_order():
    def fun(x):
        y = jnp.abs(x)
        for _ in range(3):
            y = relu(y - jnp.abs(y[::-1]) + x)
        return y

    L = cx.conservative_jacobian(fun)(jnp.zeros(2)).form.L
    assert L.shape == (14, 14)
    np.testing.assert_array_equal(np.triu(L), 0)
    assert np.any(L)


def test_the_jacobian_formula_against_a_forward_recursion():
    form = random_form()
    rng = np.random.default_rng(1)
    for q in [*extreme_selections([1] * 4), *rng.uniform(size=(5, 4))]:
        r = np.zeros((4, 3))
        for i in range(4):  # r_i = q_i ż_i one kink after the other
            r[i] = q[i] * (form.E[i] + form.L[i] @ r)
        np.testing.assert_allclose(form.jacobian(form.diagonal(q)), form.A + form.H @ r, atol=1e-12)


def test_the_jacobian_formula_is_batched():
    form = random_form()
    q = np.random.default_rng(2).uniform(size=(5, 4))
    np.testing.assert_allclose(form.jacobian(q), [form.jacobian(row) for row in q], atol=1e-14)
    smooth = AbsNormal(
        form.A, np.zeros((2, 0)), np.zeros((0, 3)), np.zeros((0, 0)), (), None, np.float64
    )
    np.testing.assert_array_equal(
        smooth.jacobian(np.zeros((7, 0))), np.broadcast_to(form.A, (7, 2, 3))
    )


def test_the_diagonal_leaves_out_the_leader_of_a_tie_and_repeats_a_shared_weight():
    form = random_form(k=5)
    groups = (group((0, 1)), group((2, 3), ways=3, leader=1), group((4,)))
    form = AbsNormal(form.A, form.H, form.E, form.L, groups, None, np.float64)
    assert form.weight_count == 5
    np.testing.assert_array_equal(
        form.diagonal(np.array([0.5, 0.1, 0.2, 0.7, 0.9])), [0.5, 0.5, 0.1, 0.7, 0.9]
    )


def test_extreme_weights_of_a_group():
    assert list(group((0,)).vertices()) == [(0.0,), (1.0,)]
    assert list(group((0, 1), ways=3).vertices()) == [(1, 0, 0), (0, 1, 0), (0, 0, 1)]


def test_restricted_forms_are_columns_of_the_jacobian():
    form = random_form()
    q = np.array([0.2, 1.0, 0.0, 0.7])
    np.testing.assert_allclose(form.restricted(slice(1, 3)).jacobian(q), form.jacobian(q)[:, 1:3])
    np.testing.assert_allclose(
        form.restricted(np.array([2, 0])).jacobian(q), form.jacobian(q)[:, [2, 0]]
    )


def test_kinks_that_reach_nothing_do_not_move():
    form = random_form()
    form.H[:, 1] = 0
    form.L[:, 1] = 0
    form.E[3] = 0
    form.L[3] = 0
    assert form.moving() == (0, 2)
    q = np.array([0.2, 0.3, 0.4, 0.5])
    other = np.array([0.2, 0.9, 0.4, 0.1])
    np.testing.assert_allclose(form.jacobian(q), form.jacobian(other), atol=1e-14)


def test_a_kink_prints_its_place():
    kink = Kink("max", Location("/home/someone/model.py", 12), (0, 3), 1e-9, 1e-8, (0.0, 1.0), True)
    assert str(kink) == "max[0, 3] at model.py:12"
    assert kink.margin == 0.0
    inactive = Kink("max", Location("", 0), (), 3.0, 1.0, (0.0, 1.0), False)
    assert inactive.margin == 2.0
    assert "unknown" in str(inactive)
