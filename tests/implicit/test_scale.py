"""Equations of unequal size: scaled before they are judged, and rounding stays rounding."""

import jax.numpy as jnp
import numpy as np
import pytest

import conservax as cx
from conservax import Verdict
from conservax.calculus.cuts.entry_sizes import entry_sizes
from conservax.calculus.cuts.point import point_of
from conservax.calculus.tracing.invocation import Invocation
from conservax.invertibility import Rigour


@pytest.mark.parametrize(("small", "dtype"), [(1e-16, np.float64), (1e-7, np.float32)])
def test_a_small_equation_is_invertible(small, dtype):
    scale = np.array([1.0, small], dtype)
    report = cx.check(lambda y, a: scale * y - a, np.zeros(2, dtype), np.zeros(2, dtype))
    assert report.verdict == Verdict.PROVEN
    assert small / 10 < report.margin <= small * (1 + 1e-6)  # σ_min of the equations as they are
    assert "scaled" in report.method


def test_with_kinks_between_the_scales():
    """Rows y₁ + relu(y₁)/2 and 1e-17 (y₂ − 3 relu(y₂)/2 …) + their coupling: PROVEN and REFUTED."""

    def system(slope):
        def equation(y, a):
            first = y[0] + jnp.maximum(y[0], 0.0) / 2
            second = 1e-17 * (y[1] - slope * jnp.maximum(y[1], 0.0))
            return jnp.stack([first, second]) - a

        return equation

    at = np.zeros(2)
    assert cx.check(system(0.5), at, at).verdict == Verdict.PROVEN
    assert cx.check(system(2.0), at, at).verdict == Verdict.REFUTED


def test_rounding_that_is_scaled_up_proves_nothing():
    def cancelled(y, a):
        return jnp.stack([y[0], 0.1 * y[1] + 0.2 * y[1] - 0.3 * y[1]]) - a

    report = cx.check(cancelled, np.zeros(2), np.zeros(2))
    assert (report.verdict, report.rigour) == (Verdict.REFUTED, Rigour.AT_TOLERANCE)


def test_the_sizes_of_entries_are_those_of_their_terms():
    def fun(y):
        return jnp.stack([3.0 * y[0] - 5.0 * y[1] + 5.0 * y[0], jnp.maximum(y[1], 0.0) * 4.0])

    y = np.zeros(2)
    point = point_of(Invocation.of(fun, (y,)), (y,), (0,))
    sizes = entry_sizes(point, (True,))
    # a product counts each of its factors: 3 y and 5 y together twice, a cut through max three times
    np.testing.assert_allclose(sizes.A, [[2 * 8.0, 2 * 5.0], [0.0, 0.0]])
    np.testing.assert_allclose(sizes.H, [[0.0], [3 * 4.0]])
    np.testing.assert_allclose(sizes.E, [[0.0, 1.0]])
    # terms that cancel leave their size
    less = entry_sizes(
        point_of(Invocation.of(lambda y: 0.1 * y + 0.2 * y - 0.3 * y, (y,)), (y,), (0,)), (True,)
    )
    np.testing.assert_allclose(np.diag(less.A), 2 * 0.6)


def test_a_proof_is_tried_after_a_refusal_at_the_tolerance():
    """Slopes 2e-17 and 4e-17 beside 1: singular at the tolerance, and proved by intervals."""

    def equation(y, a):
        return jnp.stack([y[0] + y[1] * 1e-13, jnp.abs(y[1]) * 1e-17 + 3e-17 * y[1]]) - a

    at = np.zeros(2)
    report = cx.check(equation, at, at, verified=True)
    assert report.verdict == Verdict.PROVEN


CANCELLED = {  # identically zero in exact arithmetic, and of entries near 1e-17 in floats
    "sums": lambda y, a: 5 * (a[0] * y + a[0] ** 2 * y - a[0] * (1 + a[0]) * y),
    "softmax": lambda y, a: jnp.sum(jnp.exp(a) / jnp.sum(jnp.exp(a))) * y - y,
    "factor": lambda y, a: 1e8 * (jnp.sin(a[1]) ** 2 + jnp.cos(a[1]) ** 2 - 1) * y,
    "constants": lambda y, a: 1e8 * (0.1 * y + 0.2 * y - 0.3 * y),
    "tanh": lambda y, a: y * (jnp.tanh(a[0]) - jnp.sinh(a[0]) / jnp.cosh(a[0])),
}


@pytest.mark.parametrize("name", CANCELLED)
def test_what_cancels_to_rounding_is_never_proven(name):
    for seed in range(8):
        a = np.random.default_rng(seed).normal(size=4)
        report = cx.check(CANCELLED[name], 0.0, a)
        assert report.verdict != Verdict.PROVEN
        assert report.verdict == Verdict.UNKNOWN or report.sigma_min == 0


def test_a_factor_that_cancels_beside_an_equation_that_does_not():
    def equation(y, a):
        return jnp.stack([1e20 * (jnp.sin(a) ** 2 + jnp.cos(a) ** 2 - 1) * y[0], y[1]])

    assert cx.check(equation, np.zeros(2), 0.3).verdict == Verdict.UNKNOWN


def test_an_ill_conditioned_system_of_plain_entries_is_proven():
    hilbert = 1 / (np.arange(8)[:, None] + np.arange(8) + 1)  # of condition 1.5e10
    report = cx.check(lambda y, a: hilbert @ y - a, np.zeros(8), np.zeros(8))
    assert report.verdict == Verdict.PROVEN
    assert 0.5e-10 < report.margin <= np.linalg.svd(hilbert)[1][-1] * (1 + 1e-6)
