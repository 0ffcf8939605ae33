"""The claims, looked at one by one: a claim that fails names itself."""

import math
from fractions import Fraction

import numpy as np
import pytest

from conservax import reproduce
from conservax.reproduce import counterexamples

PUBLISHED = {
    ("fixed-point", "AD's derivative of z at 0"): 2.0,
    ("fixed-point", "vertices of the conservative set at 0"): [0.0, 1.0, 2.0],
    ("implicit-quadratic", "its conservative set at 0"): [-0.5, 0.5],
    ("relu-variants", "AD at 0: relu₃"): 0.5,
    ("relu-variants", "AD at 0: zero"): 1.0,
    ("relu-variants", "AD at 0: t − zero(t)"): 0.0,
    ("clarke", "sum of the Clarke sets (set of the program)"): [-2.0, 2.0],
    ("inverse", "affine dimension of the Clarke Jacobian of Φ"): 2,
    ("inverse", "affine dimension of that of Φ⁻¹"): 3,
    ("counterexamples", "two shears: determinants of the four extreme selections"): [1.0] * 4,
    ("counterexamples", "determinant at q = ½"): 0.0,
    ("counterexamples", "rank of their mean, an element too"): 1,
    ("counterexamples", "eigenvalues of the word M₁M₁M¼M¼"): [-9 / 8, -9 / 32],
}


@pytest.mark.parametrize("name", [e.name for e in reproduce.catalogue()])
def test_every_claim_of_an_experiment_holds(report, name):
    failed = [c for c in report.claims if c.experiment == name and not c.holds]
    assert not failed


@pytest.mark.parametrize(("experiment", "claim"), PUBLISHED)
def test_measured_value(report, experiment, claim):
    (found,) = [c for c in report.claims if (c.experiment, c.name) == (experiment, claim)]
    np.testing.assert_allclose(found.measured, PUBLISHED[experiment, claim], atol=1e-9)


def test_inverse_pieces(report):
    (found,) = [c for c in report.claims if c.name.startswith("vertices of the inverse's")]
    inverses = [np.linalg.inv([[a, 1], [2, b]]) for a in (1, -1) for b in (1, -1)]
    for inverse in inverses:
        gaps = np.abs(np.asarray(found.measured) - inverse).max(axis=(1, 2))
        assert gaps.min() < 1e-9


def test_cycle_agrees_with_the_flow(report):
    measured = {c.name: c.measured for c in report.claims if c.experiment == "bilevel-cycle"}
    # closed form: x = 2.32124, and a lap takes log(x / (3 - x)) = 1.22958
    assert measured["the cycle leaves −3x + y + 2 > 0 at x"] == pytest.approx(2.3212, rel=0.02)
    assert measured["iterations per lap; the flow's cycle in closed form"] == pytest.approx(
        122.96, rel=0.02
    )


def test_timings_have_claims_of_the_right_shape(tmp_path):
    report = reproduce.run(["cheap-gradient"], out=tmp_path, quick=True, progress=lambda *_: None)
    assert [type(c.measured) for c in report.claims] == [float] * 4
    # a difference of two times may be negative where the machine is busy
    assert all(math.isfinite(c.measured) for c in report.claims)


def test_the_hull_of_two_shears_is_singular_in_exact_arithmetic():
    # F(x, y) = (x', y − 2 relu(x')), x' = x + 2 relu(y), worked out by hand
    corners = [np.array([[1, 2 * p], [-2 * q, 1 - 4 * p * q]]) for p in (0, 1) for q in (0, 1)]
    determinants = [int(m[0, 0] * m[1, 1] - m[0, 1] * m[1, 0]) for m in corners]
    assert determinants == [1, 1, 1, 1]
    twice = corners[0] + corners[3]
    assert twice[0, 0] * twice[1, 1] - twice[0, 1] * twice[1, 0] == 0


def test_the_shears_are_one_to_one():
    u = np.random.default_rng(0).normal(size=(50, 2))
    image = np.array([np.asarray(counterexamples.shears(point)) for point in u])
    y = image[:, 1] + 2 * np.maximum(image[:, 0], 0)
    back = np.stack([image[:, 0] - 2 * np.maximum(y, 0), y], axis=1)
    np.testing.assert_allclose(back, u, atol=1e-12)


def test_the_heavy_ball_word_by_exact_fractions():
    def step(c):
        return [[Fraction(7, 4) - c, Fraction(-3, 4)], [Fraction(1), Fraction(0)]]

    def times(a, b):
        return [[sum(a[i][k] * b[k][j] for k in range(2)) for j in range(2)] for i in range(2)]

    flat, convex = step(Fraction(1, 4)), step(Fraction(1))
    word = times(times(convex, convex), times(flat, flat))
    trace = word[0][0] + word[1][1]
    determinant = word[0][0] * word[1][1] - word[0][1] * word[1][0]
    assert (trace, determinant) == (Fraction(-45, 32), Fraction(81, 256))  # −9/8 and −9/32
    np.testing.assert_allclose(counterexamples.step_jacobian(0.25), np.array(flat, float))
    np.testing.assert_allclose(counterexamples.step_jacobian(1.0), np.array(convex, float))
