"""A comparison written again in a branch or a loop is a kink of its own there, and no error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import conservax as cx

YES = jnp.array(True)


def ramp(x):
    return jnp.where(x > 0, x, 0.0)


def steep(x):
    return jnp.where(x > 0, 2 * x, 0.0)


PROGRAMS = {
    "cond": (lambda x: jax.lax.cond(YES, ramp, steep, x), [0.0, 1.0]),
    "cond, the other branch": (lambda x: jax.lax.cond(~YES, ramp, steep, x), [0.0, 2.0]),
    "switch": (lambda x: jax.lax.switch(1, [ramp, steep, ramp], x), [0.0, 2.0]),
    "a vector": (lambda x: jax.lax.cond(YES, ramp, steep, x * jnp.ones(2))[1], [0.0, 1.0]),
    "before and inside a scan": (
        lambda x: ramp(x) + jax.lax.scan(lambda c, _: (c + ramp(x), None), 0.0, None, 2)[0],
        [0.0, 1.0, 2.0, 3.0],
    ),
    "nested": (
        lambda x: jax.lax.cond(YES, lambda x: jax.lax.cond(YES, ramp, steep, x), ramp, x),
        [0.0, 1.0],
    ),
    "scanned": (
        lambda x: jax.lax.scan(
            lambda c, i: (c + jax.lax.cond(i > 0, ramp, steep, x), None), 0.0, jnp.arange(2)
        )[0],
        [0.0, 1.0, 2.0, 3.0],
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_set_and_slopes_on_either_side(name):
    fun, slopes = PROGRAMS[name]
    J = cx.conservative_jacobian(fun)
    np.testing.assert_array_equal(np.ravel(J(0.0).vertices()), slopes)
    for x in (-1.0, 1.0):
        np.testing.assert_array_equal(J(x).vertices()[0, 0], jax.grad(fun)(x))
        np.testing.assert_array_equal(J(0.0).directional([x]), fun(x))  # homogeneous


def test_a_captured_predicate_away_from_its_tie():
    def fun(x):
        on = x > 0
        return jax.lax.cond(YES, lambda x: jnp.where(on, x, 0.0), ramp, x)

    for x, slope in ((-1.0, 0.0), (1.0, 1.0)):
        np.testing.assert_array_equal(cx.conservative_jacobian(fun)(x).vertices(), [[[slope]]])


def test_a_while_loop_away_from_its_kinks():
    fun = lambda x: jax.lax.while_loop(  # noqa: E731
        lambda s: s > 1, lambda s: jnp.where(s > 1, s / 2, s), x
    )
    np.testing.assert_array_equal(cx.conservative_jacobian(fun)(3.0).vertices(), [[[0.25]]])


@pytest.mark.parametrize("selection", ["lower", "upper"])
@pytest.mark.parametrize(
    "x", [[1.0, 1, 1], [3.0, 1, 1, 1, 2, 2, 0, 1], [5.0, 2, 2, 2], [1.0, 2, 3]], ids=len
)
def test_sorts_under_a_policy_are_the_element_of_that_name(selection, x):
    x = jnp.array(x)
    permuted = lambda x: x[jnp.argsort(x)] ** 2 * jnp.arange(len(x))  # noqa: E731
    largest = lambda x: jax.lax.top_k(x, 2)[0]  # noqa: E731
    for fun in (jnp.sort, permuted, largest):
        element = cx.conservative_jacobian(fun)(x).element(selection)
        selected = jax.jacobian(cx.select(fun, selection))(x)
        np.testing.assert_allclose(selected, element, atol=1e-12)


def test_clamps_in_scalar_bounds_under_a_policy():
    x = jnp.array([0.0, 0.5, 1.0, 2.0])
    slopes = {"lower": [0, 1, 1, 0], "upper": [1, 1, 0, 0]}
    for policy, expected in slopes.items():
        fun = cx.select(lambda x: jax.lax.clamp(0.0, x, 1.0), policy)
        np.testing.assert_array_equal(jax.jacobian(fun)(x), np.diag(expected))


def test_the_distance_of_what_is_nearly_an_element():
    """Beside a vertex or inside a face the distance is that of one point, to round-off."""
    rng = np.random.default_rng(0)
    A, B = rng.normal(size=(3, 3)), rng.normal(size=(3, 3))
    J = cx.conservative_jacobian(lambda x: A @ jnp.abs(B @ x))(jnp.zeros(3))
    vertices = J.vertices()
    for size in (1e-10, 3e-8, 1e-6):
        for inside in (vertices[0], vertices[:2].mean(axis=0), vertices.mean(axis=0)):
            off = size * rng.normal(size=(3, 3))
            assert J.distance(inside + off) <= np.linalg.norm(off) * (1 + 1e-9) + 1e-14
    normal = np.linalg.svd((vertices - vertices[0]).reshape(len(vertices), -1))[2][-1]
    matrix = vertices[3] + 3e-8 * normal.reshape(3, 3)  # across all of the set
    np.testing.assert_allclose(J.distance(matrix), 3e-8, rtol=1e-6)
