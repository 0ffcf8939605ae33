"""Predicates and indices that several comparisons decide: the set against derivatives at points nearby."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import conservax as cx
from conservax import errors
from helpers import assert_same_set, limits

FLAT, LINE, PARABOLA = (lambda x: 0 * x), (lambda x: 2 * x - 1), (lambda x: x**2)


def by_select(x):
    return jnp.select([x < 0, x < 1], [FLAT(x), PARABOLA(x)], LINE(x))


def by_piecewise(x):
    return jnp.piecewise(x, [x < 0, (x >= 0) & (x < 1), x >= 1], [FLAT, PARABOLA, LINE])


def by_count(x):
    """The number of thresholds passed, as an index."""
    passed = jnp.sum(x[:, None] >= jnp.array([0.0, 1.0]), axis=1)
    return jax.lax.select_n(passed, FLAT(x), PARABOLA(x), LINE(x))


@pytest.mark.parametrize("fun", [by_select, by_piecewise, by_count])
def test_a_choice_among_three_pieces(fun):
    x = jnp.array([0.0, 1.0, -1.0, 0.5, 2.0])
    J = cx.conservative_jacobian(fun)(x)
    # the pieces have the same slope where they meet
    np.testing.assert_allclose(J.vertices(), [np.diag([0, 2, 0, 1, 2.0])])
    np.testing.assert_allclose(J.element("jax"), jax.jacobian(fun)(x))


def kinked(x):
    return jnp.select([x < 0, x < 1], [-x, 3 * x], 4 - x)


def kinked_piecewise(x):
    return jnp.piecewise(x, [x < 0, x >= 1], [lambda x: -x, lambda x: 4 - x, lambda x: 3 * x])


@pytest.mark.parametrize("fun", [kinked, kinked_piecewise])
@pytest.mark.parametrize("x", [[0.0, 1.0], [1.0, 0.5], [-2.0, 0.0], [3.0, 0.25]])
def test_a_choice_among_pieces_with_different_slopes(fun, x):
    x = jnp.array(x)
    J = cx.conservative_jacobian(fun)(x)
    assert_same_set(J.vertices(), limits(fun, x))
    np.testing.assert_allclose(J.element("jax"), jax.jacobian(fun)(x))
    for v in ([1.0, 1.0], [-1.0, 0.5]):
        step = 1e-7 * jnp.array(v)
        np.testing.assert_allclose(J.directional(v), (fun(x + step) - fun(x)) / 1e-7, atol=1e-6)


@pytest.mark.parametrize(
    "reduce",
    [
        lambda c: jnp.any(c),
        lambda c: ~jnp.all(~c),
        lambda c: jnp.sum(c) > 0,
        lambda c: jnp.max(c),
        lambda c: c[0] | c[1],
        lambda c: jnp.cumsum(c)[-1] > 0,
    ],
)
def test_reductions_of_predicates(reduce):
    def fun(x):  # 2|x₀| once x₀ passes 0, or x₁ passes 1
        return jnp.where(reduce(jnp.stack([x[0] > 0, x[1] > 1])), 3 * x[0], x[0])

    for x in ([0.0, 0.0], [0.0, 2.0]):
        x = jnp.array(x)
        assert_same_set(cx.conservative_jacobian(fun)(x).vertices(), limits(fun, x))


def test_a_predicate_settled_by_decided_ones_has_no_kink():
    def fun(x):
        return jnp.where(jnp.any(jnp.stack([x > 0, x > -1])), 3 * x, 5 * x)

    J = cx.conservative_jacobian(fun)(0.0)
    np.testing.assert_allclose(J.vertices(), [[[3.0]]])


def test_the_same_comparison_twice_is_one():
    def fun(x):
        return jnp.select([x > 0, x > 0], [x, 7 * x], -x)

    assert_same_set(cx.conservative_jacobian(fun)(0.0).vertices(), [1, -1])


def test_a_mask_in_a_product_of_matrices():
    x = jnp.array([0.0, 1.0, -1.0, 0.0])
    A = jnp.arange(1.0, 9.0).reshape(2, 4)
    for fun in (
        lambda x: (x > 0) @ x,
        lambda x: jnp.sign(x) @ x,
        lambda x: (A * x) @ (x > 0).astype(x.dtype),
        lambda x: jnp.einsum("j,ij->ij", (x > 0).astype(x.dtype), A * x),
    ):
        assert_same_set(cx.conservative_jacobian(fun)(x).vertices(), limits(fun, x))


def test_an_index_that_the_calculus_cannot_follow_is_refused_at_its_tie_alone():
    def fun(x):
        return x * jnp.array([1.0, 1.0, 2.0])[jnp.searchsorted(jnp.array([0.0, 1.0]), x)]

    np.testing.assert_allclose(cx.conservative_jacobian(fun)(0.5).element(), [[1.0]])
    np.testing.assert_allclose(cx.conservative_jacobian(fun)(1.5).element(), [[2.0]])
    with pytest.raises(errors.UnsupportedOperationError, match=r"decides an integer.*jnp\.where"):
        cx.conservative_jacobian(fun)(0.0)
