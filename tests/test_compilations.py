"""A call compiles once: repeat calls, with the same functions and shapes, compile nothing."""

import functools
import gc
import itertools
import weakref

import cvxpy as cp
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import conservax as cx
from conservax.programs import ConeProgram, Cones, CvxpyLayer, QuadraticProgram, WarmStart

_compiled = [0]


def _count(name, duration, **_):
    _compiled[0] += name == "/jax/core/compile/backend_compile_duration"


jax.monitoring.register_event_duration_secs_listener(_count)


def residual(y, a, scale=1.0):
    return y - jax.nn.relu(y / 2 - scale * a)


class Model:
    def __init__(self, scale):
        self.scale = scale

    def residual(self, y, a):
        return residual(y, a, self.scale)


class Layer(eqx.Module):
    weight: jax.Array
    activation: object = jax.nn.relu
    name: str = "layer"
    repeats: int = 2
    slope: float = 0.5
    nothing: None = None

    def __call__(self, z, x):
        for _ in range(self.repeats):
            x = self.weight * x
        return z - self.activation(self.slope * z - x)


@cx.custom_root(residual)
def solve(init, a, scale=1.0):
    return jnp.maximum(0.0, -2 * a * scale)


def twice(x):
    return 2 * x + jnp.abs(x)


WEIGHTS = itertools.count(0.5, 0.125)
MODEL = Model(1.0)
ZERO = jnp.zeros(3)
PROGRAM = ConeProgram(Cones(nonnegative=3))
QUADRATIC = QuadraticProgram()
DATA = jnp.eye(3), jnp.array([1.0, -1.0, 2.0]), -jnp.eye(3), jnp.zeros(3)


def layer():
    """A new module each time, with other numbers."""
    return Layer(jnp.full(3, next(WEIGHTS)))


CALLS = {
    "check": lambda: cx.check(residual, ZERO, ZERO).lipschitz,
    "check of a partial": lambda: cx.check(functools.partial(residual, scale=2.0), ZERO, ZERO),
    "check of a method": lambda: cx.check(MODEL.residual, ZERO, ZERO),
    "check of a module": lambda: cx.check(layer(), ZERO, ZERO),
    "check with a module": lambda: cx.check(call_layer, ZERO, layer(), jnp.zeros(3)),
    "check of a solver": lambda: solve.check(ZERO, ZERO, scale=1.0),
    "implicit_jacobian": lambda: cx.implicit_jacobian(residual)(ZERO, ZERO),
    "inverse_jacobian": lambda: cx.inverse_jacobian(twice)(ZERO),
    "conservative_jacobian": lambda: cx.conservative_jacobian(twice)(ZERO),
    "polish": lambda: cx.polish(residual, ZERO + 1e-3, ZERO),
    "monitor": lambda: cx.monitor(total)(0, ZERO),
    "the gradient of a solver": lambda: jax.grad(total)(ZERO),
    "the gradient of a selection": lambda: jax.jacobian(SELECTED)(ZERO),
    "a cone program": lambda: PROGRAM(*DATA).primal,
    "the gradient of a cone program": lambda: jax.grad(objective)(DATA[1]),
    "the check of a cone program": lambda: PROGRAM.check(*DATA),
    "a quadratic program": lambda: QUADRATIC(*DATA[:2], G=DATA[2], h=DATA[3]).primal,
}


def call_layer(z, module, x):
    return module(z, x)


def total(a):
    return jnp.sum(solve(None, a))


def objective(c):
    return jnp.sum(PROGRAM(DATA[0], c, *DATA[2:]).primal)


SELECTED = cx.select(twice, "upper")


@pytest.mark.parametrize("name", CALLS)
def test_a_repeated_call_compiles_nothing(name):
    CALLS[name]()
    before = _compiled[0]
    CALLS[name]()
    assert _compiled[0] == before


def test_a_program_without_a_feasible_point_compiles_nothing():
    """Nor does another batch size, of a program or of a layer."""
    near = QuadraticProgram(infeasible="closest")
    x, b = cp.Variable(2), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x)), [np.ones((2, 2)) @ x == b])
    layer = CvxpyLayer(problem, [b], [x], infeasible="closest")
    right = np.array([1.0, -1.0])
    before = _compiled[0]
    for many in (right, np.stack([right] * 7)):
        found = near(np.eye(2), np.zeros(2), np.ones((2, 2)), many)
        (own,) = layer(many)
        np.testing.assert_allclose(found.primal, np.zeros(many.shape), atol=1e-6)
        np.testing.assert_allclose(own, np.zeros(many.shape), atol=1e-6)
    assert _compiled[0] == before


def test_the_counter_counts():
    before = _compiled[0]
    jax.jit(lambda x: x + 1)(jnp.zeros(7))
    assert _compiled[0] > before


def test_what_a_function_reads_is_read_anew():
    """A rebound global, attribute or cell counts: a stale trace would be a wrong answer."""
    scale = 2.0
    own = Model(3.0)

    def closure(x):
        return scale * jnp.abs(x)

    def by_attribute(x):
        return own.scale * jnp.abs(x)

    def upper(fun):
        return cx.conservative_jacobian(fun)(0.0).bounds()[1].item()

    assert (upper(closure), upper(by_attribute)) == (2.0, 3.0)
    scale, own.scale = 5.0, 7.0
    assert (upper(closure), upper(by_attribute)) == (5.0, 7.0)
    weights = np.array([1.0, 2.0])
    assert upper(lambda x: weights @ (jnp.abs(x) * jnp.ones(2))) == 3.0
    reads = lambda x: jnp.sum(weights * jnp.abs(x))  # noqa: E731
    assert upper(reads) == 3.0
    weights[0] = 9.0
    assert upper(reads) == 11.0


def test_two_marked_functions_of_one_name_keep_their_own_arrays():
    def marked(array):
        def hinge(x):
            return jnp.where(x > 0, array * x, 0.0)

        return jax.jit(hinge)

    one, two = marked(jnp.array(2.0)), marked(jnp.array(3.0))
    slopes = [jax.grad(cx.select(f, "upper"))(0.0) for f in (one, two)]
    np.testing.assert_allclose(slopes, [2.0, 3.0])


def test_caches_let_go_of_functions_and_of_warm_starts():
    data = jnp.arange(3.0)

    def fun(x):
        return jnp.sum(jnp.abs(x - data))

    cx.conservative_jacobian(fun)(data)
    starts = WarmStart()
    program = ConeProgram(Cones(nonnegative=3), solver="clarabel", warm_start=starts)
    assert program(*DATA).primal.shape == (3,)
    gone = weakref.ref(fun), weakref.ref(starts)
    del fun, starts, program
    gc.collect()
    assert [g() for g in gone] == [None, None]
