"""How a run is asked for, reports its progress, and refuses."""

import builtins
import sys

import jax
import jax.numpy as jnp
import pytest

from conservax import reproduce
from conservax.errors import ConservaxError
from conservax.reproduce import relu_variants
from conservax.reproduce.runner import _select


def test_double_precision_stays_inside(tmp_path):
    with jax.enable_x64(False):
        report = reproduce.run(["clarke"], out=tmp_path, quick=True, progress=lambda *_: None)
        assert jnp.zeros(()).dtype == jnp.float32
    assert report.ok


def test_unknown_name_lists_the_valid_ones(tmp_path):
    with pytest.raises(reproduce.UnknownExperimentError, match="'lorentz'") as error:
        reproduce.run(["lorentz"], out=tmp_path)
    assert all(experiment.name in str(error.value) for experiment in reproduce.catalogue())
    assert not list(tmp_path.iterdir())


def test_names_are_unique_and_keep_the_order_of_the_page():
    names = [experiment.name for experiment in reproduce.catalogue()]
    assert len(set(names)) == len(names)
    assert [e.name for e in _select(names[::-1])] == names


def test_progress_runs_to_one(tmp_path):
    seen = []
    reproduce.run(["clarke"], tmp_path, True, lambda name, fraction: seen.append((name, fraction)))
    assert seen[0] == ("clarke", 0.0)
    assert seen[-1] == ("clarke", 1.0)
    assert [fraction for _, fraction in seen] == sorted(fraction for _, fraction in seen)


def test_without_matplotlib(tmp_path, monkeypatch):
    real_import = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.split(".")[0] == "matplotlib":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    for module in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ConservaxError, match=r"conservax\[plots\]"):
        reproduce.run(["clarke"], out=tmp_path, progress=lambda *_: None)


def test_a_false_claim_is_reported(tmp_path, monkeypatch):
    # without the spurious critical point, gradient descent leaves 0
    monkeypatch.setattr(relu_variants, "identity_minus_zero", lambda t: t)
    report = reproduce.run(["relu-variants"], tmp_path, quick=True, progress=lambda *_: None)
    assert not report.ok
    assert [c.name for c in report.claims if not c.holds] == [
        "gradient descent on t − zero(t) from 0: distance"
    ]
    assert 'class="score no"' in report.page.read_text()
