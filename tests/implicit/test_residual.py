"""How far from a root: values, scales, and the tolerance that follows."""

import jax.numpy as jnp
import numpy as np
import pytest

from conservax import errors
from conservax.implicit.residual import Residual, measure_residual, require_root, root_tolerance

EPS = np.finfo(float).eps


def test_value_scale_and_size():
    r = measure_residual(lambda y, t: 3 * y - t, jnp.array([1.0, 2.0]), (jnp.array([3.0, 7.0]),))
    assert (r.value, r.unknowns, r.dtype) == (1.0, 2, np.float64)
    assert r.scale == 19.0  # |3|·|2| + |2|·|3| + |7|
    np.testing.assert_allclose(r.relative, 1 / 19)


@pytest.mark.parametrize("rtol", [-1e-9, float("nan")])
def test_a_tolerance_that_is_none_is_refused(rtol):
    with pytest.raises(errors.InvalidInputError, match=r"rtol=.* must be a number"):
        root_tolerance(Residual(0.0, 1.0, 1, np.float64), rtol)


def test_scaling_the_equations_and_the_unknowns_changes_nothing_relative():
    for s in (1e-8, 1e8):
        r = measure_residual(lambda y, t, s=s: s * (y**2 - t), 2.0 + 1e-6, (4.0,))
        base = measure_residual(lambda y, t: y**2 - t, 2.0 + 1e-6, (4.0,))
        np.testing.assert_allclose(r.relative, base.relative, rtol=1e-6)
        np.testing.assert_allclose(r.value, s * base.value, rtol=1e-6)


def test_an_exact_root_made_of_nothing_is_a_root():
    r = measure_residual(lambda y, t: y * t, 0.0, (0.0,))
    assert (r.value, r.relative) == (0.0, 0.0)
    require_root(lambda y, t: y * t, 0.0, (0.0,))
    assert Residual(1.0, 0.0, 1, np.float64).relative == 1.0


@pytest.mark.parametrize(
    ("dtype", "good", "bad"), [(np.float64, 1e-5, 1e-3), (np.float32, 1e-3, 0.2)]
)
def test_a_root_is_small_against_its_terms(dtype, good, bad):
    equation = lambda y, t: y - t  # noqa: E731
    one = jnp.ones((), dtype)
    require_root(equation, one + dtype(good), (one,))
    with pytest.raises(errors.NotARootError, match="polish"):
        require_root(equation, one + dtype(bad), (one,))


def test_the_tolerance_is_the_root_of_the_residual_or_the_users():
    r = Residual(1e-8, 1.0, 1, np.float64)
    assert root_tolerance(r, None) == (0.0, 1e-4)
    assert root_tolerance(r, 0.25) == (0.0, 0.25)
    exact = Residual(0.0, 1.0, 1, np.float64)
    np.testing.assert_allclose(root_tolerance(exact, None), (0.0, np.sqrt(EPS)))
    single = Residual(0.0, 1.0, 1, np.float32)
    np.testing.assert_allclose(root_tolerance(single, None).rtol, np.sqrt(np.finfo(np.float32).eps))


def test_pytrees_are_flattened_and_integers_left_alone():
    equation = lambda sol, n, t: {"a": sol["a"] * n - t["x"], "b": sol["b"]}  # noqa: E731
    sol = {"a": jnp.array([1.0, 2.0]), "b": 0.5}
    r = measure_residual(equation, sol, (2, {"x": jnp.array([2.0, 4.0])}))
    assert (r.value, r.unknowns) == (0.5, 3)


@pytest.mark.parametrize(
    ("sol", "args", "words"),
    [
        (jnp.array([np.nan, 1.0]), (1.0,), "sol"),
        (jnp.array([1.0, 1.0]), (np.inf,), r"args\[0\]"),
        (jnp.array([1, 1]), (1.0,), "floating"),
    ],
)
def test_bad_values_are_refused_by_name(sol, args, words):
    with pytest.raises(errors.InvalidInputError, match=words):
        measure_residual(lambda y, t: y - t, sol, args)
