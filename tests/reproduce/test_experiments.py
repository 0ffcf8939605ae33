"""One quick run of everything: its claims, one by one (one that fails names itself), and its files."""

import json
import math
import re
from fractions import Fraction

import numpy as np
import pytest

from conservax import reproduce
from conservax.reproduce import counterexamples

# Timings depend on the machine: the test of that experiment looks at its claims' shape only.
TIMED = "cheap-gradient"
NAMES = [e.name for e in reproduce.catalogue() if e.name != TIMED]
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


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Takes minutes, so what needs it stands in this file."""
    out = tmp_path_factory.mktemp("reproduction")
    return reproduce.run(NAMES, out=out, quick=True, progress=lambda name, fraction: None)


@pytest.mark.parametrize("name", NAMES)
def test_every_claim_of_an_experiment_holds(report, name):
    claims = [c for c in report.claims if c.experiment == name]
    assert claims
    assert not [c for c in claims if not c.holds]


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


def test_the_cycle_through_a_cone_program(report):
    measured = {c.name: c.measured for c in report.claims if c.experiment == "bilevel-cycle-cone"}
    assert measured["the cycle leaves −3x + y + 2 > 0 at x"] == pytest.approx(2.3212, rel=0.02)
    assert measured["PROVEN by the layer, from inside jit, along the path"] == "2000 of 2000"
    noise = {c.name: c.measured for c in report.claims if c.experiment == "bilevel-noise-cone"}
    assert noise["inner problems PROVEN along the paths"] == "30000 of 30000"


def test_files(report):
    out = report.page.parent
    for name in {claim.experiment for claim in report.claims}:
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (out / f"{name}.svg").read_text().rstrip().endswith("</svg>")


def test_claims_json(report):
    claims = json.loads((report.page.parent / "claims.json").read_text())
    assert len(claims) == len(report.claims) > 50
    for claim in claims:
        assert set(claim) == {"experiment", "name", "source", "published", "measured", "holds"}
        assert type(claim["holds"]) is bool
        assert all(claim[key] for key in ("experiment", "name", "source"))
        assert isinstance(claim["published"], str | int | float | list)
        assert isinstance(claim["measured"], str | int | float | list)
    keys = [(claim["experiment"], claim["name"]) for claim in claims]
    assert len(set(keys)) == len(keys)


def test_page_needs_no_other_file(report):
    page = report.page.read_text()
    addresses = re.findall(r"(?:src|href)\s*=\s*\"([^\"]*)\"", page)
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert "url(" not in page
    assert "@import" not in page
    assert "<script" not in page


def test_page_shows_every_claim(report):
    page = report.page.read_text()
    assert page.count('<td class="number">') == 2 * len(report.claims)
    assert page.count("data:image/png;base64,") == len({c.experiment for c in report.claims})
    assert "REFUTED" in page


def test_timings_have_claims_of_the_right_shape(tmp_path):
    report = reproduce.run([TIMED], out=tmp_path, quick=True, progress=lambda *_: None)
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
