"""A quick run of each experiment: its claims, its published numbers, its sources, its files."""

import json
import math
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from conservax import reproduce
from conservax.reproduce import counterexamples, peers
from conservax.reproduce.claim import MEASURED

# The folder of a complete quick run, which .ci/run hands over; without it each test makes its own.
FINISHED = os.environ.get("CONSERVAX_REPRODUCTION")

# Timings depend on the machine: its claims count in `conservax reproduce`, here only their shape.
TIMED = "cheap-gradient"

THEIR_BOUNDS = {"Baur and Strassen 1983: cost(f, ∇f) ≤ 5 cost(f)"}
INVERSES = sorted(
    [[b / (a * b - 2), -1 / (a * b - 2)], [-2 / (a * b - 2), a / (a * b - 2)]]
    for a in (1, -1)
    for b in (1, -1)
)
# the cycle of the flow in closed form: x = 2.32124, and a lap takes log(x / (3 - x)) = 1.22958
CYCLE = {"the cycle leaves −3x + y + 2 > 0 at x": pytest.approx(2.3212, rel=0.02)}
PUBLISHED = {
    "fixed-point": {
        "AD's derivative of z at 0": 2.0,
        "vertices of the conservative set at 0": [0.0, 1.0, 2.0],
    },
    "implicit-quadratic": {"its conservative set at 0": [-0.5, 0.5]},
    "relu-variants": {
        "AD at 0: relu₃": 0.5,
        "AD at 0: zero": 1.0,
        "AD at 0: t − zero(t)": 0.0,
    },
    "clarke": {"sum of the Clarke sets (set of the program)": [-2.0, 2.0]},
    "inverse": {
        "affine dimension of the Clarke Jacobian of Φ": 2,
        "affine dimension of that of Φ⁻¹": 3,
        "vertices of the inverse's conservative Jacobian at 0 (Corollary 2)": INVERSES,
    },
    "counterexamples": {
        "two shears: determinants of the four extreme selections": [1.0] * 4,
        "determinant at q = ½": 0.0,
        "rank of their mean, an element too": 1,
        "eigenvalues of the word M₁M₁M¼M¼": [-9 / 8, -9 / 32],
    },
    "bilevel-cycle": CYCLE
    | {
        "iterations per lap; the flow's cycle in closed form": pytest.approx(122.96, rel=0.02),
        "check refutes invertibility on the line −3x + y + 2 = 0": "12 of 12",
    },
    "bilevel-cycle-cone": CYCLE
    | {"PROVEN by the layer, from inside jit, along the path": "2000 of 2000"},
    "bilevel-noise-cone": {"inner problems PROVEN along the paths": "30000 of 30000"},
    "iterates-heavy-ball": {
        "length of the word that check found": 4,
        "eigenvalues along it": [-9 / 8, -9 / 32],
        "heavy ball: contraction of the iteration": "REFUTED",
        "gradient descent: contraction of the iteration": "PROVEN",
    },
    "iterates-inclusion": {
        "vertices of the implicit set": [[-4.0, -4.0], [0.0, 0.0]],
        "how far the limit reaches beyond the implicit set": 3 / np.sqrt(2),
    },
    "lorenz": {"invertibility condition at the root": "REFUTED"},
}


@pytest.mark.parametrize("experiment", reproduce.catalogue(), ids=lambda e: e.name)
def test_experiment(experiment, tmp_path):
    folder = Path(FINISHED) if FINISHED else tmp_path
    if not FINISHED:
        reproduce.run([experiment.name], folder, quick=True, progress=lambda *_: None)
    every = json.loads((folder / "claims.json").read_text())
    claims = [claim for claim in every if claim["experiment"] == experiment.name]
    assert claims
    assert experiment.name == TIMED or not [claim for claim in claims if not claim["holds"]]
    for claim in claims:
        assert_well_formed(claim)
    assert_their_numbers_are_theirs(claims)
    measured = {claim["name"]: claim["measured"] for claim in claims}
    assert len(measured) == len(claims)
    for name, value in PUBLISHED.get(experiment.name, {}).items():
        if isinstance(value, list | float):
            np.testing.assert_allclose(measured[name], value, atol=1e-9)
        else:
            assert measured[name] == value
    compared = any("cvxpylayers" in name for name in measured)
    assert compared == (experiment.compares and peers.installed())
    assert (folder / f"{experiment.name}.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / f"{experiment.name}.svg").read_text().rstrip().endswith("</svg>")
    page = (folder / "index.html").read_text()
    assert f'<section id="{experiment.name}">' in page
    assert page.count('<td class="number"') == 2 * len(every)


def assert_well_formed(claim):
    assert set(claim) == {"experiment", "name", "source", "published", "measured", "holds"}
    assert type(claim["holds"]) is bool
    assert claim["name"]
    assert claim["source"]
    for value in (claim["published"], claim["measured"]):
        assert isinstance(value, str | int | float | list)
        assert not isinstance(value, float) or math.isfinite(value)


def assert_their_numbers_are_theirs(claims):
    """A bound names a publication as its source only if it stands there."""
    for claim in claims:
        if str(claim["published"]).startswith(("≤", "≥")) and claim["source"] not in THEIR_BOUNDS:
            assert "our" in claim["source"] or claim["source"] == MEASURED, claim


def test_no_experiment_speaks_of_a_comparison_before_it_was_made():
    for experiment in reproduce.catalogue():
        assert "cvxpylayers" not in experiment.title + experiment.source + experiment.description


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
