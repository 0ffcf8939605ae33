"""A verdict as text, as a number, and as data."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

import conservax as cx
from conservax import Verdict


@pytest.mark.parametrize("verdict", Verdict)
def test_text_shows_the_name(verdict):
    name = {-1: "REFUTED", 0: "UNKNOWN", 1: "PROVEN"}[int(verdict)]
    assert str(verdict) == f"{verdict}" == f"{verdict!s}" == "%s" % verdict == name  # noqa: UP031
    assert f"{verdict:>9}" == name.rjust(9)
    assert f"{verdict:.3}" == name[:3]
    assert repr(verdict) == f"<Verdict.{name}: {int(verdict)}>"
    assert cx.Verdict[name] is verdict


@pytest.mark.parametrize("spec", ["d", "+d", "03d", "x", "+", ".1f", ",", "e", "%"])
@pytest.mark.parametrize("verdict", Verdict)
def test_a_format_of_numbers_shows_the_number(verdict, spec):
    assert format(verdict, spec) == format(int(verdict), spec)
    assert "%d" % verdict == str(int(verdict))  # noqa: UP031


def test_a_format_of_neither_is_refused():
    with pytest.raises(ValueError, match="format"):
        format(Verdict.PROVEN, "q")


def test_as_data():
    assert json.dumps(list(Verdict)) == "[-1, 0, 1]"
    for module in (np, jnp):
        array = module.asarray([module.int8(v) for v in Verdict])
        assert array.dtype == np.int8
        assert array.tolist() == [-1, 0, 1]
        assert module.where(True, Verdict.PROVEN, module.int8(0)) == 1
        assert module.full(2, Verdict.REFUTED, module.int8).tolist() == [-1, -1]
    assert [Verdict(int(v)) for v in jnp.array([1, -1], jnp.int8)] == [1, -1]


def test_a_report_prints_its_verdict():
    report = cx.check(lambda s, p: s - p, 0.0, 0.0)
    assert f"{report.verdict}" == str(report.verdict) == "PROVEN"
    assert report.to_dict()["verdict"] == "proven"
