"""Step sizes: values against formulas, proofs against partial sums, other people's schedules."""

import math

import jax
import mpmath
import numpy as np
import optax
import pytest

from conservax import errors
from conservax.stochastic import schedules
from conservax.stochastic.schedules import Status


def test_values_are_those_of_the_formulas():
    k = np.arange(50)
    power = jax.vmap(schedules.inverse_power(0.3, 0.75, 2.0))(k)
    np.testing.assert_allclose(power, 0.3 * (k + 2.0) ** -0.75, rtol=1e-6)
    log = jax.vmap(schedules.inverse_log(0.3, 1.5, 3.0))(k)
    np.testing.assert_allclose(log, 0.3 * np.log(k + 3.0) ** -1.5, rtol=1e-6)


@pytest.mark.parametrize("power", [0.25, 0.5, 0.75, 1.0, 1.25])
def test_proofs_of_inverse_powers_are_those_of_the_zeta_function(power):
    """Σ k^−p converges iff ζ(p) is finite and positive, which mpmath knows."""
    proof = schedules.inverse_power(1.0, power).proof

    def converges(p):
        return p != 1 and float(mpmath.zeta(p)) > 0

    assert (proof.divergent.status == Status.HOLDS) == (not converges(power))
    assert (proof.square_summable.status == Status.HOLDS) == converges(2 * power)
    assert proof.sublogarithmic.status == proof.vanishing.status == Status.HOLDS


@pytest.mark.parametrize("power", [0.5, 1.0, 1.5, 3.0])
def test_proofs_of_inverse_logs_follow_the_limit(power):
    proof = schedules.inverse_log(1.0, power).proof
    # α_k log k = (log k)^{1 − power}, at doubly exponential k
    tail = [math.exp(x * (1 - power)) for x in (5, 50)]
    assert (proof.sublogarithmic.status == Status.HOLDS) == (tail[1] < tail[0])
    assert proof.divergent.status == proof.vanishing.status == Status.HOLDS
    assert proof.square_summable.status == Status.FAILS


def test_constants_and_the_schedules_of_optax():
    for constant in (0.1, schedules.constant(0.1), optax.constant_schedule(0.1)):
        proof = schedules.proof_of(constant)
        assert proof.divergent.status == Status.HOLDS
        assert proof.vanishing.status == proof.sublogarithmic.status == Status.FAILS
    for finite in (
        optax.cosine_decay_schedule(0.1, 100),
        optax.linear_schedule(0.1, 0.0, 100),
        optax.polynomial_schedule(0.1, 0.0, 2.0, 90, 10),
    ):
        proof = schedules.proof_of(finite)
        assert proof.divergent.status == Status.FAILS
        assert "k = 100" in proof.divergent.reason
        assert float(finite(100)) == 0
    ends = schedules.proof_of(optax.cosine_decay_schedule(0.1, 100, alpha=0.5))
    assert (ends.divergent.status, ends.vanishing.status) == (Status.HOLDS, Status.FAILS)
    assert "0.05 from k = 100 on" in ends.vanishing.reason


def test_unknown_functions_are_looked_at_and_never_called_proved():
    seen = schedules.proof_of(lambda k: 1 / (k + 1) ** 0.75)
    assert seen.divergent.status == seen.square_summable.status == Status.ASSUMED
    assert "not proved" in seen.divergent.reason
    fast = schedules.proof_of(lambda k: 1 / (k + 1) ** 1.5)
    assert fast.divergent.status == Status.FAILS
    geometric = schedules.proof_of(optax.exponential_decay(0.1, 10, 0.5))
    assert geometric.divergent.status == Status.FAILS
    flat = schedules.proof_of(lambda k: 0.1)
    assert flat.vanishing.status == Status.FAILS
    assert Status.HOLDS not in {p.status for p in vars(flat).values()}
    slow = schedules.proof_of(lambda k: 1 / np.log(k + 3.0) ** 0.5)
    assert slow.sublogarithmic.status == Status.FAILS


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: schedules.inverse_power(0.0), "scale=0"),
        (lambda: schedules.inverse_power(0.1, power=-1), "power=-1"),
        (lambda: schedules.inverse_power(math.nan), "scale=nan"),
        (lambda: schedules.inverse_log(0.1, offset=1.0), "offset=1"),
        (lambda: schedules.constant(math.inf), "value=inf"),
        (lambda: schedules.proof_of("fast"), "schedule='fast'"),
        (lambda: schedules.proof_of(lambda k: -0.1), "α_1 = -0.1"),
        (lambda: schedules.proof_of(lambda k: math.nan), "nan"),
        (lambda: schedules.proof_of(optax.constant_schedule(-1.0)), "at least 0"),
    ],
)
def test_bad_numbers_are_named(make, named):
    with pytest.raises(errors.InvalidInputError, match=named.replace("(", r"\(")):
        make()


def test_proofs_as_text():
    text = str(schedules.inverse_power(0.1, 0.6).proof)
    assert "Σα_k² < ∞         holds: Σ k^−1.2 converges (2 · 0.6 > 1)" in text
    assert text.count("\n") == 3


def test_steps_that_go_up_and_down_are_not_said_to_fall_at_a_rate():
    """(1 + sin k)/k vanishes, and 1 + sin k does not; two numbers of either would say anything."""
    fading = schedules.proof_of(lambda k: (1 + np.sin(k)) / (k + 1.0))
    assert fading.divergent.status == fading.vanishing.status == Status.ASSUMED
    assert "no rate" in fading.vanishing.reason
    cycling = schedules.proof_of(lambda k: 1 + np.sin(k))
    assert cycling.vanishing.status == cycling.sublogarithmic.status == Status.FAILS


@pytest.mark.parametrize(
    ("schedule", "diverges"),
    [
        (lambda k: 0.1 / ((k + 2.0) * np.log(k + 2.0)), True),  # Bertrand, p = 1
        (lambda k: 0.1 / ((k + 9.0) * np.sqrt(np.log(k + 9.0))), True),
        (lambda k: 0.1 / ((k + 2.0) * np.log(k + 2.0) ** 2), False),
        (lambda k: 0.1 / (k + 1.0) ** 1.05, False),
        (lambda k: 0.1 / (k + 1.0) ** 1.01, False),
        (lambda k: 0.1 / (k + 1.0), True),
    ],
)
def test_series_near_the_harmonic_one_are_told_apart_by_their_logarithms(schedule, diverges):
    status = schedules.proof_of(schedule).divergent.status
    assert status == (schedules.Status.ASSUMED if diverges else schedules.Status.FAILS)


@pytest.mark.parametrize("value", ["a", np.ones(3), np.inf])
def test_a_schedule_that_returns_no_finite_number_is_named(value):
    with pytest.raises(errors.InvalidInputError, match="α_1 = "):
        schedules.proof_of(lambda k: value)


def test_steps_that_pause_are_steps():
    """0.1/k at odd k and none at even ones: the sum still diverges, and nobody says that it does not."""
    proof = schedules.proof_of(lambda k: 0.1 / (k + 1) if k % 2 else 0.0)
    assert {p.status for p in (proof.divergent, proof.vanishing, proof.sublogarithmic)} == {
        Status.ASSUMED
    }
    assert "up and down" in proof.divergent.reason
    assert schedules.proof_of(lambda k: 0.1 if k % 2 else 0.0).vanishing.status == Status.FAILS
