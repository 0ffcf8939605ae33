"""Operations that are programs of simpler ones: values, JAX's element, and the set at points of ties."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import conservax as cx
from helpers import assert_same_set, limits, on_numpy

SEGMENTS = jnp.array([0, 0, 1, 0])
OPERATIONS = {
    "segment_max": lambda x: jax.ops.segment_max(x, SEGMENTS, 2),
    "segment_min": lambda x: jax.ops.segment_min(x, SEGMENTS, 2),
    "at max": lambda x: jnp.zeros(2).at[SEGMENTS].max(x),
    "at min": lambda x: x.at[jnp.array([0, 2])].min(0.0),
    "rows": lambda x: jnp.zeros((2, 2)).at[jnp.array([1, 1])].max(x.reshape(2, 2)),
    "dropped": lambda x: jnp.zeros(2).at[jnp.array([0, 5, 1, 1])].max(x, mode="drop"),
    "carried": lambda x: lax.sort((x, jnp.sin(x) + x**2), num_keys=1)[1],
    "carried columns": lambda x: lax.sort((x, 2 * x), num_keys=1)[1],
    "key fixed": lambda x: lax.sort((jnp.array([2.0, 1, 4, 3]), jnp.abs(x)), num_keys=1)[1],
    "interp": lambda x: jnp.interp(x, jnp.array([-1.0, 0, 1, 2]), jnp.array([0.0, 1, 0, 3])),
    "sinc": jnp.sinc,
}
POINTS = [[0.0, 1.0, -1.0, 0.0], [0.0, 0.0, 0.0, 0.0], [2.0, 0.0, -1.5, 1.0], [0.3, 0.7, -0.2, 2.5]]


@functools.cache
def compiled(name):
    """The value, the value with a selection, and the Jacobian, compiled once for all points."""
    fun = OPERATIONS[name]
    return on_numpy(lambda x: (fun(x), cx.select(fun, "upper")(x), jax.jacobian(fun)(x)))


@pytest.mark.parametrize("x", POINTS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_the_set_is_spanned_by_the_derivatives_nearby(name, x):
    fun, x = OPERATIONS[name], jnp.array(x)
    J = cx.conservative_jacobian(fun)(x)
    value, selected, jacobian = compiled(name)(x)
    np.testing.assert_allclose(J.element("jax"), jacobian.reshape(J.shape), atol=1e-12)
    assert_same_set(J.vertices(), limits(fun, x), 1e-5)
    np.testing.assert_allclose(selected, value, rtol=1e-15)


def test_interpolation_varies_with_its_knots_and_values():
    def fun(xp, fp):
        return jnp.interp(jnp.array([0.5, 1.0, 3.0]), xp, fp)

    args = jnp.array([0.0, 1.0, 2.0]), jnp.array([0.0, 1.0, -1.0])
    J = cx.conservative_jacobian(fun, (0, 1))(*args)
    flat = lambda z: fun(z[:3], z[3:])  # noqa: E731
    assert_same_set(J.vertices(), limits(flat, jnp.concatenate(args)), 1e-4)


@pytest.mark.parametrize("options", [{"left": -1.0}, {"right": "extrapolate"}, {"period": 3.0}])
def test_interpolation_with_other_ends_is_differentiated_off_its_knots(options):
    def fun(x):
        return jnp.interp(x, jnp.array([0.0, 1.0, 2.0]), jnp.array([0.0, 1.0, -1.0]), **options)

    x = jnp.array([0.5, 1.25, 2.25])
    np.testing.assert_allclose(
        cx.conservative_jacobian(fun)(x).element(), on_numpy(jax.jacobian(fun))(x), atol=1e-12
    )
