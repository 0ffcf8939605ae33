"""Tolerances: their values, and that units do not matter."""

import jax.numpy as jnp
import numpy as np
import pytest

from conservax import numerics


@pytest.mark.parametrize(
    ("dtype", "eps"),
    [
        (np.float32, 2.0**-23),
        (np.float64, 2.0**-52),
        (np.float16, 2.0**-10),
        (jnp.bfloat16, 2.0**-7),
    ],
)
def test_machine_epsilon(dtype, eps):
    assert numerics.machine_epsilon(dtype) == eps
    np.testing.assert_allclose(numerics.exact_input_tolerance(dtype), (0.0, np.sqrt(eps)))


def test_a_solvers_tolerance_is_the_root_of_the_larger_of_eps_and_residual():
    assert numerics.solver_output_tolerance(np.float64, 1e-6) == (0.0, 1e-3)
    assert numerics.solver_output_tolerance(np.float64, 0.0).rtol == 2.0**-26
    assert numerics.solver_output_tolerance(np.float32, 1e-10).rtol == np.sqrt(2.0**-23)


@pytest.mark.parametrize("units", [1e-3, 1.0, 1e12])
def test_a_root_is_judged_against_its_terms(units):
    assert numerics.is_root(1e-5 * units, units, np.float64)
    assert not numerics.is_root(1e-3 * units, units, np.float64)
    assert numerics.is_root(1e-2 * units, units, np.float32)
    assert not numerics.is_root(np.nan, units, np.float64)
    assert not numerics.is_root(np.inf, units, np.float64)


def test_a_root_where_all_terms_vanish_is_judged_absolutely():
    """At a root at 0 the terms are as small as the solver's error: sqrt(eps) is the bound there."""
    assert numerics.is_root(0.0, 0.0, np.float64)
    assert numerics.is_root(1e-9, 1e-9, np.float64)
    assert not numerics.is_root(1e-7, 1e-7, np.float64)


@pytest.mark.parametrize("units", [1e-12, 1.0, 1e12])
def test_the_singular_value_floor_scales_with_the_matrix(units):
    A = np.diag([3.0, 1.0])
    eps = np.finfo(float).eps
    np.testing.assert_allclose(
        numerics.singular_value_floor(units * A, np.float64), 4 * 2 * eps * 3 * units
    )
    assert numerics.singular_value_floor(A, np.float32) > 1e8 * numerics.singular_value_floor(
        A, np.float64
    )
    assert numerics.singular_value_floor(np.zeros((0, 0)), np.float64) == 0.0


def test_matrices_that_round_off_makes_regular_lie_below_the_floor():
    rng = np.random.default_rng(0)
    for n in (2, 5, 20):
        low_rank = rng.normal(size=(n, n - 1)) @ rng.normal(size=(n - 1, n))
        smallest = np.linalg.svd(low_rank, compute_uv=False)[-1]
        assert smallest < numerics.singular_value_floor(low_rank, np.float64)
