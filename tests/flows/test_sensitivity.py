"""Sets of sensitivities: one element off kinks and at crossings, all of them on a kink."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import conservax as cx
from conservax.errors import SelectionError


def spring(t, state):
    """x″ = −x − 3 relu(x): at rest on its kink."""
    x, v = state
    return jnp.stack([v, -x - 3 * jax.nn.relu(x)])


def test_staying_on_a_kink_leaves_an_interval():
    sets = cx.flows.sensitivity_set(lambda t, x: jax.nn.relu(x), 0.0, 1.0)
    low, high = sets.bounds()
    np.testing.assert_allclose([low.item(), high.item()], [1.0, np.e], atol=1e-9)
    assert (sets.single, sets.kinks) == (False, (0,))
    np.testing.assert_allclose(sets.time, 1.0)
    np.testing.assert_allclose(sets.element("upper"), [[np.e]], atol=1e-9)


def test_weights_that_switch_reach_further_than_constant_ones():
    """x″ = −(1 + 3q)x: constant q keeps M₁₁ in [−1, 1], switching reaches −1.76 and 1.37."""
    sets = cx.flows.sensitivity_set(spring, jnp.zeros(2), 3.0)
    low, high = sets.bounds()
    np.testing.assert_allclose(sets.element("lower")[0, 0], np.cos(3.0), atol=1e-9)
    np.testing.assert_allclose(sets.element([1.0])[0, 0], np.cos(6.0), atol=1e-9)
    assert -1.78 <= low[0, 0] <= -1.76
    assert 1.37 <= high[0, 0] <= 1.39
    with pytest.raises(SelectionError):
        sets.element([0.5])


def test_crossings_leave_one():
    sets = cx.flows.sensitivity_set(spring, jnp.array([0.0, 1.0]), 3.0)
    assert sets.single
    assert sets.crossings == 1
    s = 3 - np.pi / 2  # half a period above the kink is −1 times a rotation by nothing
    exact = -np.array([[np.cos(s), np.sin(s)], [-np.sin(s), np.cos(s)]])
    for bound in sets.bounds():
        np.testing.assert_allclose(bound, exact, atol=1e-6)
