"""The table's own tools: brute force, and what counts as valid."""

import numpy as np
import pytest

from conservax.reproduce import degenerate_programs
from conservax.reproduce.degenerate_cases import CASES
from conservax.reproduce.degenerate_programs import SLACK, brute_force, invalid, is_valid

BY_NAME = {case.name: case for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_brute_force_finds_the_set(case):
    found = brute_force(case, 100)
    if case.answers is None:
        assert found is None
    else:
        np.testing.assert_allclose(found, case.answers, atol=1e-4)


def test_what_counts_as_valid():
    relu, tie = BY_NAME["relu"], BY_NAME["linear program with a tie"]
    assert is_valid(relu, 0.5)
    assert is_valid(relu, 1 + SLACK / 2)
    assert not is_valid(relu, 1.011)
    assert not is_valid(relu, -0.018)
    assert not is_valid(BY_NAME["quartic"], 0.825)
    assert not is_valid(tie, 0.0)


def test_invalid_answers_are_named():
    answers = [case.answers[0] if case.answers else None for case in CASES]
    assert invalid({"some solver": answers}) == []
    answers[0] = 1.5
    assert invalid({"some solver": answers}) == ["relu 1.500 (some solver)"]


@pytest.mark.parametrize(
    ("value", "text"), [(1.0, "1"), (5e-17, "0"), (-1e-16, "0"), (-0.5, "−0.5"), (100.0, "100")]
)
def test_numbers_without_round_off(value, text):
    assert degenerate_programs._number(value) == text


def test_a_pair_hides_no_number():
    assert degenerate_programs._pair(np.nan, np.nan) == "NaN"
    assert degenerate_programs._pair(np.nan, 1.0) == "NaN, 1"
    assert degenerate_programs._pair(1.0, 0.0) == "1, 0"
