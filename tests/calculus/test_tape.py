"""What the passes record, and that a run with any tape returns the program's own values."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings

from conservax.calculus.operations.discover import Discover
from conservax.calculus.operations.linearise import Linearise
from conservax.calculus.operations.policy import Select
from conservax.calculus.passes.interpreter import measured_outputs, run_program
from conservax.calculus.passes.planning import trace
from helpers import Program, at, on_numpy, points, programs


def discover(fun, *args):
    program = trace(lambda leaves: fun(*leaves), args, [True] * len(args))

    def run(*inputs):
        tape = Discover(program.dtype)
        return run_program(program, inputs, tape), tape.outputs()

    return jax.jit(run)(*args)


@settings(max_examples=10)
@given(programs(outputs=2), points(2))
def test_every_tape_computes_the_programs_value(program: Program, x):
    fun, point = program.to_jax(), at(x)
    traced = trace(lambda leaves: fun(*leaves), [point], (True,))
    expected = program(x)

    @on_numpy
    def run_each(x):
        tapes = [
            Discover(traced.dtype),
            Select("upper"),
            Select("jax"),
            Select(jnp.full(traced.size, 0.5)),
            Linearise(jnp.full(traced.size, 0.25), jnp.zeros(traced.size)),
        ]
        return [run_program(traced, [x], tape) for tape in tapes]

    for (value,) in run_each(point):
        np.testing.assert_array_equal(value, expected)


def test_increments_sizes_and_choices_of_scalar_kinks():
    fun = lambda x: jnp.sum(jax.nn.relu(x - 1.0)) + jnp.abs(x[0] * 3)  # noqa: E731
    _, records = discover(fun, jnp.array([1.0, 4.0, -2.0]))
    np.testing.assert_allclose(records.z, [0.0, 3.0, -3.0, 3.0])
    np.testing.assert_allclose(records.size, [2.0, 5.0, 3.0, 6.0])  # 3 x: both factors may move
    np.testing.assert_array_equal(records.natural, [0, 1, 0, 1])
    np.testing.assert_array_equal(records.choice, [0, 1, 0, 1])


def test_increments_of_a_tie_are_measured_from_its_leader():
    _, records = discover(jnp.max, jnp.array([2.0, 5.0, 5.0, 1.0]))
    np.testing.assert_array_equal(records.z, [-3.0, 0.0, 0.0, -4.0])
    np.testing.assert_array_equal(records.natural, [0, 1, 0, 0])
    np.testing.assert_array_equal(records.choice, [0, 0.5, 0.5, 0])
    np.testing.assert_array_equal(records.steer, [1, 1, 1, 1])


def test_a_branch_points_to_the_comparison_that_steers_it():
    fun = lambda x: jnp.where(x > 0, 2 * x, x)  # noqa: E731
    _, records = discover(fun, jnp.array([0.5, 0.0]))
    np.testing.assert_array_equal(records.z, [0.5, 0.0, 0.5, 0.0])
    assert records.steer[3] == 1  # at the switch, where it matters


def test_a_loop_records_its_iterations_in_order():
    fun = lambda x: jax.lax.fori_loop(0, 3, lambda i, y: jnp.abs(y - 1.0), x)  # noqa: E731
    value, records = discover(fun, 2.5)
    np.testing.assert_allclose(records.z, [1.5, 0.5, -0.5])
    np.testing.assert_allclose(value, [0.5])

    def backwards(x):
        step = lambda y, w: (jnp.abs(y - w), None)  # noqa: E731
        return jax.lax.scan(step, x, jnp.array([1.0, 2.0]), reverse=True)[0]

    _, records = discover(backwards, 2.5)
    np.testing.assert_allclose(records.z, [-0.5, 0.5])  # slot 0 is the entry ys[0], run last


def test_sizes_remember_what_cancelled():
    fun = lambda x: (x + 1e6) - 1e6  # noqa: E731
    program = trace(lambda leaves: fun(*leaves), [1.0], (True,))
    (value,), (size,) = measured_outputs(program, [1.0], Discover(program.dtype))
    np.testing.assert_allclose(value, 1.0)
    assert 1e6 <= size <= 4e6


def test_sizes_bound_the_value_and_scale_with_it():
    rng = np.random.default_rng(0)
    A, x = rng.normal(size=(4, 3)), rng.normal(size=3)
    fun = lambda x: jnp.sum(jnp.abs(A @ x) * 2 - x[0]) + jnp.max(x)  # noqa: E731
    program = trace(lambda leaves: fun(*leaves), [x], (True,))
    (unscaled,) = measured_outputs(program, [x], Discover(program.dtype))[1]
    for scale in (1.0, 1e-6, 1e6):
        (value,), (size,) = measured_outputs(program, [scale * x], Discover(program.dtype))
        assert size >= abs(value)
        np.testing.assert_allclose(size / scale, unscaled, rtol=1e-9)


def test_a_program_without_kinks_records_nothing():
    value, records = discover(jnp.sin, 0.5)
    assert records.z.shape == (0,)
    np.testing.assert_allclose(value, [np.sin(0.5)])
