"""The report's text, JSON and HTML say what the report holds, whatever it holds."""

import html
import json
from enum import IntEnum
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest

from conservax import report


class Verdict(IntEnum):
    PROVEN = 1
    UNKNOWN = 0
    REFUTED = -1


def kink(index=(), active=True, **changes):
    values = {
        "operation": "relu",
        "file": "/somewhere/model.py",
        "line": 7,
        "index": index,
        "distance": 0.0,
        "tolerance": 1.5e-8,
        "slopes": (0.0, 1.0),
        "active": active,
    }
    return SimpleNamespace(**values | changes)


def make(verdict=Verdict.PROVEN, **changes):
    values = {
        "verdict": verdict,
        "reason": "the solution is unique near here for every selection",
        "method": "all vertices",
        "rigour": "exact",
        "work": SimpleNamespace(minors=4, boxes=0, vertices=2, exact=1),
        "undecided": "",
        "margin": 0.25,
        "sigma_min": np.float32(0.5),
        "n_vertices": 2,
        "determinant_signs": (0, 0, 2),
        "witness": None,
        "residual": 1e-17,
        "residual_scale": 2.0,
        "tolerance": 1.5e-8,
        "kinks": (kink((3,)), kink((4, 1), active=False, distance=0.125)),
        "nearest_inactive": kink((4, 1), active=False, distance=0.125),
        "lipschitz": 2.0,
        "clarke_exact": True,
        "solves": (),
        "given_rules": (),
        "proof": None,
    }
    return SimpleNamespace(**values | changes)


def refuted(**changes):
    witness = SimpleNamespace(
        selection=np.array([1.0]),
        null_vector=np.array([0.6, -0.8]),
        sigma_min=0.0,
        sigma_max=3.0,
    )
    values = {"margin": None, "witness": witness, "determinant_signs": (1, 0, 1)}
    return make(Verdict.REFUTED, **values | changes)


def test_dict_holds_every_field():
    assert report.to_dict(refuted()) == {
        "verdict": "refuted",
        "reason": "the solution is unique near here for every selection",
        "method": "all vertices",
        "rigour": "exact",
        "work": {"minors": 4, "boxes": 0, "vertices": 2, "exact": 1},
        "undecided": "",
        "margin": None,
        "sigma_min": 0.5,
        "n_vertices": 2,
        "determinant_signs": {"negative": 1, "zero": 0, "positive": 1},
        "residual": 1e-17,
        "residual_scale": 2.0,
        "tolerance": 1.5e-8,
        "lipschitz": 2.0,
        "clarke_exact": True,
        "solves": [],
        "given_rules": [],
        "proof": None,
        "witness": {
            "selection": [1.0],
            "null_vector": [0.6, -0.8],
            "sigma_min": 0.0,
            "sigma_max": 3.0,
        },
        "kinks": [
            {
                "operation": "relu",
                "file": "/somewhere/model.py",
                "line": 7,
                "index": index,
                "distance": distance,
                "tolerance": 1.5e-8,
                "slopes": [0.0, 1.0],
                "active": active,
            }
            for index, distance, active in [([3], 0.0, True), ([4, 1], 0.125, False)]
        ],
        "nearest_inactive": report.to_dict(make())["kinks"][1],
    }


def test_json_has_no_nan_and_no_infinity():
    data = report.to_dict(
        refuted(sigma_min=np.nan, residual=np.inf, lipschitz=-np.inf, n_vertices=np.int64(4))
    )
    back = json.loads(json.dumps(data, allow_nan=False))
    assert back["sigma_min"] is None
    assert (back["residual"], back["lipschitz"], back["n_vertices"]) == ("inf", "-inf", 4)


def test_text_of_a_proof():
    assert report.to_text(make()).splitlines() == [
        "✓ PROVEN: the solution is unique near here for every selection",
        "",
        "  active kink  operation  index  distance  tolerance  slopes",
        "  ──────────────────────────────────────────────────────────",
        "  model.py:7   relu       [3]           0    1.5e-08  0 … 1",
        "",
        "  margin        0.25: σ_min is at least this on the whole set",
        "  σ_min         0.5: the smallest σ_min found, over 2 vertices",
        "  determinants  2 positive",
        "  residual      1e-17, against terms of size 2; so kinks within 1.5e-08 (relative) are active",
        "  Lipschitz     2: bounds every implicit derivative",
        "  set           exactly the Clarke Jacobian",
        "  next kink     0.125 away: relu [4, 1] at model.py:7",
        "  method        all vertices (4 minors, 2 vertices, 1 exact determinant)",
        "  rigour        exact for the matrices as computed, rounding accounted for",
        "",
        "  Next: differentiate; any selection gives an element of a bounded set of derivatives.",
    ]


def proof(**changes):
    values = {
        "radius": 0.125,
        "error": 1e-15,
        "center": np.array([1.0, 2.0]),
        "lower": np.array([0.5, 1.5]),
        "upper": np.array([1.5, 2.5]),
    }
    return SimpleNamespace(**values | changes)


def test_a_verified_proof_shows_its_ball():
    text = report.to_text(make(proof=proof()))
    assert "1e-15 of sol" in text
    assert "the only one within 0.125" in text
    assert "on the whole ball" in text
    assert "over the reals" in text
    assert report.to_dict(make(proof=proof()))["proof"]["upper"] == [1.5, 2.5]
    failed = proof(radius=None, error=None, lower=None, upper=None)
    unknown = make(Verdict.UNKNOWN, margin=None, undecided="a better solution.", proof=failed)
    assert "proved" not in report.to_text(unknown)
    assert report.to_dict(unknown)["proof"]["lower"] is None


def test_text_of_a_refutation_shows_the_witness():
    text = report.to_text(refuted())
    assert text.startswith("✗ REFUTED: ")
    assert "q = (1) gives σ_min = 0, σ_max = 3" in text
    assert "null vector   (0.6, -0.8)" in text
    assert "1 negative, 1 positive" in text
    assert "move the parameters off the kinks" in text


def test_text_of_a_smooth_singularity_speaks_of_no_kinks():
    text = report.to_text(refuted(kinks=(), nearest_inactive=None))
    assert "active kink " not in text
    assert "no kink is active, the Jacobian is singular" in text


@pytest.mark.parametrize("residual", [1.0, np.nan, np.inf])
def test_an_inexact_root_is_told_to_be_polished(residual):
    assert "cx.polish" in report.to_text(make(Verdict.UNKNOWN, residual=residual))
    assert "cx.polish" not in report.to_text(make(Verdict.UNKNOWN, residual=0.0))


def test_an_unknown_says_what_would_decide_it():
    unknown = make(Verdict.UNKNOWN, margin=None, undecided="a budget of 99 minors decides it.")
    text = report.to_text(unknown)
    assert "Next: treat the gradient as unproven. A budget of 99 minors decides it." in text
    assert "A budget of 99 minors" in report.to_html(unknown)
    assert "rigour" not in text
    assert report.to_dict(unknown)["undecided"] == unknown.undecided


def test_a_verdict_at_the_tolerance_says_so():
    text = report.to_text(refuted(rigour="at the tolerance"))
    assert "at the tolerance: singular to the precision at hand" in text


def test_kinks_without_slopes_show_none():
    made = make(kinks=(kink((0,), slopes=None, operation="where"),))
    assert report.to_dict(made)["kinks"][0]["slopes"] is None
    assert "not a number" not in report.to_text(made)


def test_a_proof_without_a_number_says_so():
    assert "no number came with the proof" in report.to_text(make(margin=None))


def test_no_line_runs_over_the_width():
    witness = refuted().witness
    witness.null_vector = witness.selection = np.arange(100.0) / 7
    text = report.to_text(refuted(witness=witness))
    assert max(map(len, text.splitlines())) <= report.WIDTH


def test_many_kinks_and_long_vectors_are_cut():
    witness = refuted().witness
    witness.null_vector = np.arange(100.0)
    many = refuted(kinks=tuple(kink((i,)) for i in range(40)), witness=witness)
    text = report.to_text(many)
    assert text.count("model.py:7   relu") == report.SHOWN_KINKS
    assert f"… and {40 - report.SHOWN_KINKS} more" in text
    assert "[94] = 94, [95] = 95" in text
    assert "[93]" not in text
    assert f"… and {40 - report.SHOWN_KINKS} more" in report.to_html(many)
    assert len(report.to_dict(many)["kinks"]) == 40


def test_files_under_the_working_directory_are_shown_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inside = make(kinks=(kink((0,), file=str(tmp_path / "src" / "model.py")),))
    assert "src/model.py:7" in report.to_text(inside)


@pytest.mark.parametrize("made", [make(), refuted(), make(Verdict.UNKNOWN, margin=None)])
def test_html_is_balanced_and_escaped(made):
    made.reason = "<script>alert('x' & 1)</script>"
    made.kinks = (*made.kinks, kink((0,), file="a'b<c>.py", operation="where<"))
    page = report.to_html(made)
    assert "<script>" not in page
    assert html.escape(made.reason) in page
    assert "http" not in page
    assert "where&lt;" in page

    class Balance(HTMLParser):
        def __init__(self):
            super().__init__()
            self.open = []

        def handle_starttag(self, tag, attrs):
            self.open.append(tag)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    assert f">{made.verdict.name}</span>" in page
