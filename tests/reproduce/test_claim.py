"""A claim must be able to fail."""

import json
import math

import numpy as np
import pytest

from conservax import Verdict
from conservax.reproduce import claim


@pytest.mark.parametrize(
    ("made", "holds"),
    [
        (claim.agrees("c", "s", 1.0, 1.0 + 1e-12), True),
        (claim.agrees("c", "s", 1.0, 1.1), False),
        (claim.agrees("c", "s", 1.0, math.nan), False),
        (claim.agrees("c", "s", [1.0], [1.0, 1.0]), False),
        (claim.same_points("c", "s", [1.0, 0.0], np.array([0.0, 1.0])), True),
        (claim.same_points("c", "s", [1.0, 0.0], [0.0, 1.0, 2.0]), False),
        (claim.at_most("c", "s", 1.0, 2.0), False),
        (claim.at_most("c", "s", 1.0, math.nan), False),
        (claim.at_least("c", "s", 1.0, 0.5), False),
        (claim.at_least("c", "s", 1.0, math.nan), False),
        (claim.within_factor("c", "s", 1e-8, 3e-8, 10), True),
        (claim.within_factor("c", "s", 1e-8, 3e-6, 10), False),
        (claim.about("c", "s", -1.0, -1.05, 0.1), True),
        (claim.about("c", "s", -1.0, 1.0, 0.1), False),
        (claim.counts("c", "s", 3, 2, "cases"), False),
        (claim.has_verdict("c", "s", Verdict.REFUTED, Verdict.REFUTED), True),
        (claim.has_verdict("c", "s", Verdict.REFUTED, Verdict.UNKNOWN), False),
        (claim.has_verdict("c", "s", Verdict.PROVEN, Verdict.UNKNOWN), False),
        (claim.has_verdict("c", "s", Verdict.UNKNOWN, Verdict.REFUTED), False),
    ],
)
def test_holds_follows_from_the_numbers(made, holds):
    assert made.holds is holds
    json.dumps(made.as_json())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"),
        (-0.25, "−0.25"),
        (2.5e-9, "2.5 × 10⁻⁹"),
        (1e-12, "10⁻¹²"),
        ([1.0, -2.0], "(1, −2)"),
        ([[1.0, 2.0], [3.0, 4.0]], "[1 2; 3 4]"),
        ("7 of 7", "7 of 7"),
        (True, "True"),
    ],
)
def test_format_value(value, text):
    assert claim.format_value(value) == text
