"""Kinks are reported where the user wrote them."""

import jax
import jax.numpy as jnp

import conservax as cx
from helpers import line_of


def inner(x):
    return jnp.abs(x)  # inside a helper


@jax.jit
def jitted(x):
    return jax.nn.relu(x)  # inside jit


def outer(x):
    y = inner(x) + jitted(x)
    y = jax.lax.scan(lambda c, _: (jnp.maximum(c, x), None), y, None, length=1)[0]  # inside a scan
    return y + jax.vmap(jnp.abs)(jnp.stack([x]))[0]  # through vmap


def lines(fun, x):
    return [k.line for k in cx.conservative_jacobian(fun)(x).kinks]


def test_the_innermost_line_of_the_user_counts():
    markers = ["inside a helper", "inside jit", "inside a scan", "through vmap"]
    assert lines(outer, 0.0) == [line_of(m, __file__) for m in markers]


def test_two_callers_of_one_jax_function_are_told_apart():
    # JAX caches the trace of its own relu: the second call must not report the first one's line
    def fun(x):
        y = jax.nn.relu(x)  # first caller
        return y + jax.nn.relu(-x)  # second caller

    expected = [line_of("first caller", __file__), line_of("second caller", __file__)]
    assert lines(fun, 0.0) == expected
    assert lines(lambda x: fun(x) + 0 * x, 0.0) == expected


def test_files_are_whole_paths_and_short_names_their_ends():
    (kink,) = cx.conservative_jacobian(inner)(0.0).kinks
    assert kink.file == __file__
    assert kink.location.short == f"test_locations.py:{kink.line}"
    assert str(kink.location) == f"{__file__}:{kink.line}"
