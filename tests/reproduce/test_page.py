"""The page and the exit code of a run, with an experiment that costs nothing."""

import json
import re

import pytest
from typer.testing import CliRunner

from conservax.cli import ExitCode, app
from conservax.errors import ConservaxError
from conservax.reproduce import claim, peers, runner, style


def experiment(measured, name="tiny", compares=False):
    def run(quick, tick):
        figure = style.figure(2, 1)
        figure.subplots().plot([0, 1], [0, measured])
        return claim.Outcome(figure, [claim.at_most("a < b", "Figure 1", 1.0, measured)], ["Done."])

    return claim.Experiment(name, "A title", "Figure 1", "What it shows.", run, compares)


@pytest.fixture
def reproduce(tmp_path, monkeypatch):
    """``conservax reproduce`` with these experiments: the outcome, the claims, the page."""

    def invoke(*experiments):
        monkeypatch.setattr(runner, "_EXPERIMENTS", experiments)
        result = CliRunner().invoke(app, ["reproduce", "--quick", "--out", str(tmp_path)])
        page = tmp_path / "index.html"
        return result, page.read_text() if page.exists() else ""

    return invoke


@pytest.mark.parametrize(
    ("measured", "code", "held"),
    [(0.5, ExitCode.OK, "2 of 2"), (1.5, ExitCode.REFUTED, "1 of 2")],
)
def test_a_claim_that_fails_makes_the_exit_code(reproduce, tmp_path, measured, code, held):
    result, page = reproduce(experiment(0.5), experiment(measured, "other"))
    assert result.exit_code == code, result.output
    assert f"{held} claims hold" in result.stdout
    assert f"{held}\nclaims hold" in page
    claims = json.loads((tmp_path / "claims.json").read_text())
    assert [c["measured"] for c in claims] == [0.5, measured]
    assert [c["holds"] for c in claims] == [True, measured <= 1.0]


def test_an_experiment_that_raises(reproduce):
    def run(quick, tick):
        raise ConservaxError("no such luck")

    result, _ = reproduce(claim.Experiment("tiny", "A title", "Figure 1", "", run))
    assert result.exit_code == ExitCode.ERROR
    assert "no such luck" in result.stderr


def test_the_page_needs_no_other_file(reproduce):
    _, page = reproduce(experiment(0.5))
    addresses = re.findall(r"(?:src|href)\s*=\s*\"([^\"]*)\"", page)
    assert [address.split(",")[0] for address in addresses] == ["#tiny", "data:image/png;base64"]
    assert "url(" not in page
    assert "@import" not in page
    assert "<script" not in page


def test_the_page_shows_a_claim_with_both_numbers(reproduce):
    _, page = reproduce(experiment(0.5))
    assert "a &lt; b" in page
    numbers = re.findall(r'<td class="number"[^>]*>([^<]*)</td>', page)
    assert numbers == ["≤ 1", "0.5"]
    assert "--inches: 2" in page


@pytest.mark.parametrize("compares", [True, False])
@pytest.mark.parametrize("installed", [True, False])
def test_a_comparison_that_was_not_made_is_named(reproduce, monkeypatch, compares, installed):
    monkeypatch.setattr(peers, "installed", lambda: installed)
    result, page = reproduce(experiment(0.5, compares=compares), experiment(0.5, "other"))
    said = "not installed" in result.stdout
    assert said == ("not installed" in page) == (compares and not installed)
    assert ("conservax[reproduce]" in result.stdout) == said
    assert ("Left out in: tiny." in result.stdout) == said
