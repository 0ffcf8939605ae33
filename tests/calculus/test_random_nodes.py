"""Random programs of solves against the same programs with the solutions written out.

``make test`` draws 8 of them, ``make test-all`` 200 (CONSERVAX_PROGRAMS).
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import conservax as cx
from conservax import Verdict
from helpers import assert_same_set

PROGRAMS = min(int(os.environ.get("CONSERVAX_PROGRAMS", "8")), 200)


SOLUTIONS = {
    "relu": (lambda y, a: 2 * y - jax.nn.relu(a), lambda a: jax.nn.relu(a) / 2),
    "abs": (lambda y, a: y - 0.5 * jnp.abs(a), lambda a: 0.5 * jnp.abs(a)),
    "leaky": (lambda y, a: jnp.where(y > 0, y, 4 * y) - a, lambda a: jnp.where(a > 0, a, a / 4)),
    "cubic": (lambda y, a: y**3 + y - a, lambda a: _cubic(a)),
    "clip": (lambda y, a: y - jnp.clip(a, 0.0, 2.0), lambda a: jnp.clip(a, 0.0, 2.0)),
}


def _cubic(a):
    """The root of y³ + y = a, by Cardano, smooth."""
    s = jnp.sqrt(a**2 / 4 + 1 / 27)
    return jnp.cbrt(a / 2 + s) + jnp.cbrt(a / 2 - s)


def wrapped(rng, fun):
    """The map, entry by entry of a vector (2,), through one transformation."""
    return [
        lambda x: jax.vmap(fun)(x),
        lambda x: jax.jit(jax.vmap(fun))(x),
        lambda x: jax.lax.map(fun, x),
        lambda x: jax.vmap(jax.vmap(fun))(x[:, None])[:, 0],
        lambda x: jax.vmap(jax.vmap(fun), in_axes=1, out_axes=1)(x[None])[0],
        lambda x: jax.vmap(lambda t: jax.checkpoint(fun)(t))(x),
        lambda x: jax.lax.map(lambda t: jax.vmap(fun)(t[None])[0], x),
        lambda x: jax.lax.scan(lambda c, t: (c, jax.vmap(fun)(t[None])[0]), 0.0, x)[1],
        lambda x: jax.vmap(lambda t: jax.lax.cond(True, fun, lambda u: u, t))(x),
        lambda x: jnp.stack([fun(t) for t in x]),
        lambda x: fun(x),
    ][rng.integers(11)]


def solve_of(equation, solution):
    solver = cx.custom_root(equation)(lambda init, a: solution(a))
    return lambda a: solver(None, a)


def programs(seed):
    """A program of one to three layers W s(x) + d, once with solves and once without."""
    rng = np.random.default_rng(seed)
    layers = []
    for _ in range(rng.integers(1, 4)):
        equation, solution = SOLUTIONS[list(SOLUTIONS)[rng.integers(len(SOLUTIONS))]]
        state = rng.bit_generator.state
        solved = wrapped(rng, solve_of(equation, solution))
        rng.bit_generator.state = state
        written = wrapped(rng, solution)
        # small integers, so that later kinks are met exactly
        W = jnp.asarray(rng.integers(-2, 3, size=(2, 2)), float)
        layers.append((W, solved, written))
    x = jnp.asarray(rng.integers(-1, 2, size=2), float)

    def program(x, which):
        for layer in layers:
            x = layer[0] @ layer[which](x)
        return x

    return (lambda x: program(x, 1)), (lambda x: program(x, 2)), x


@pytest.mark.parametrize("seed", range(PROGRAMS))
def test_solves_have_the_sets_of_their_solutions(seed):
    solved, written, x = programs(seed)
    found, expected = (cx.conservative_jacobian(f)(x) for f in (solved, written))
    assert len(found.kinks) == len(expected.kinks)
    assert_same_set(found.vertices(), expected.vertices(), atol=1e-6)
    np.testing.assert_allclose(found.element(), expected.element(), atol=1e-6)
    if seed % 4 == 0:  # the same verdict inside an equation
        verdicts = [
            cx.check(lambda y, f=f: y + f(y - x) - f(-x), 0 * x).verdict for f in (solved, written)
        ]
        if Verdict.UNKNOWN not in verdicts:
            assert verdicts[0] == verdicts[1]
