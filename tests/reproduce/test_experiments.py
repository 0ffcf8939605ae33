"""The claims, looked at one by one: a claim that fails names itself."""

import numpy as np
import pytest

from conservax import reproduce

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
    assert all(c.measured > 0 for c in report.claims)
