"""The exponent that the timings are reduced to, on numbers that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conservax.reproduce import cheap_gradient

SIZES = 2.0 ** np.arange(3, 10)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_exponent_of_a_power(power):
    assert cheap_gradient.exponent(SIZES, 3 * SIZES**power) == pytest.approx(power, abs=1e-12)


@pytest.mark.parametrize("place", range(7))
def test_one_bad_timing_moves_it_little(place):
    times = SIZES.copy()
    times[place] *= 4
    # by least squares it were moved by up to log₂ 4 · 3/28 = 0.21
    assert cheap_gradient.exponent(SIZES, times) == pytest.approx(1.0, abs=0.01)


def test_differences_agree_with_the_gradient():
    f = cheap_gradient.network(8, np.random.default_rng(0))
    x = jnp.asarray(np.random.default_rng(1).standard_normal(8))
    found = cheap_gradient.difference_gradient(f, x)
    np.testing.assert_allclose(found, jax.grad(f)(x), atol=1e-6)  # √ε times the curvature
