"""``compare``: errors of a linear iteration in closed form, and the plot."""

import jax.numpy as jnp
import numpy as np
import pytest

import conservax as cx

it = cx.iterates


def test_errors_of_a_linear_iteration_in_closed_form():
    """x_t = 2θ(1 − 2⁻ᵗ), J_t = 2 − 2^{1−t}, J* = 2; the last step alone gives 1."""
    found = it.compare(it.from_step(lambda x, t: x / 2 + t), 0.0, 3.0, steps=30)
    np.testing.assert_allclose(found.iterate_error, 6 * 2.0**-found.steps, atol=1e-13)
    np.testing.assert_allclose(
        found.derivative_error["piggyback"], 2 * 2.0**-found.steps, atol=1e-13
    )
    np.testing.assert_allclose(
        found.derivative_error["unroll"], found.derivative_error["piggyback"]
    )
    np.testing.assert_allclose(found.derivative_error["one-step"], 1.0)
    np.testing.assert_allclose(found.derivative_error["implicit"], 0.0, atol=1e-13)
    assert all(np.all(np.diff(s) > 0) for s in found.seconds.values())
    left, right = found.plot().axes
    np.testing.assert_allclose(left.lines[0].get_ydata(), found.iterate_error, atol=1e-16)
    assert len(right.lines) == 4
    given = it.compare(
        it.from_step(lambda x, t: x / 2 + t),
        0.0,
        3.0,
        steps=30,
        reference=(jnp.array(6.0), jnp.array(5.0)),
    )
    np.testing.assert_allclose(given.derivative_error["implicit"], 3.0)


def test_bad_references():
    alg = it.from_step(lambda x, t: x / 2 + t)
    with pytest.raises(cx.errors.InvalidInputError, match="reference: x has shapes"):
        it.compare(
            alg, jnp.zeros(2), jnp.ones(2), steps=3, reference=(jnp.zeros(3), jnp.zeros((3, 2)))
        )
    with pytest.raises(cx.errors.InvalidInputError, match="steps=0"):
        it.compare(alg, 0.0, 1.0, steps=0)
    with pytest.raises(cx.errors.NotConvergedError):
        it.compare(it.from_step(lambda x, t: 2 * x + t), 1.0, 1.0, steps=3)
