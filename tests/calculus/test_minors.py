"""The recursive test of minors, against determinants of all of them."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conservax.calculus.sets.minors import scan_minors


def all_minors(N, counts):
    """Every minor with the choice that makes it, by LU."""
    starts = np.cumsum([0, *counts])
    for choice in itertools.product(*(range(c + 1) for c in counts)):
        on = [g for g, c in enumerate(choice) if c]
        rows = [starts[g] + choice[g] - 1 for g in on]
        yield choice, np.linalg.det(N[np.ix_(rows, on)])


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("counts", [(1,) * 5, (1, 2, 1, 3), (2, 2), (1,), (3, 1, 1)])
def test_signs_of_all_minors(seed, counts):
    rng = np.random.default_rng(seed)
    N = np.eye(len(counts))[np.repeat(range(len(counts)), counts)]
    N = N + rng.choice([0.2, 0.5, 1.0]) * rng.normal(size=N.shape)
    scan = scan_minors(N, 0.0, counts)
    minors = dict(all_minors(N, counts))
    assert not scan.uncertain
    assert scan.all_positive == (min(minors.values()) > 0)
    if scan.all_positive:
        assert scan.visited == len(minors) - 1
        np.testing.assert_allclose(scan.least, min(minors.values()), rtol=1e-9)
        assert scan.least <= min(minors.values()) * (1 + 1e-14)
    else:
        assert minors[scan.negative + (0,) * (len(counts) - len(scan.negative))] < 0


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(-2, 2), min_size=16, max_size=16))
def test_zero_minors_are_never_given_a_sign(entries):
    N = np.array(entries, float).reshape(4, 4)
    exact = {c: round(v) for c, v in all_minors(N, (1,) * 4)}
    scan = scan_minors(N, 0.0)
    if scan.all_positive:
        assert min(exact.values()) > 0
    if scan.negative is not None:
        assert exact[scan.negative + (0,) * (4 - len(scan.negative))] < 0
    assert scan.all_positive or scan.negative is not None or scan.uncertain


def test_a_radius_makes_close_calls_uncertain():
    N = np.array([[1.0, 1.0], [1.0, 1.0 + 1e-6]])
    assert scan_minors(N, 1e-8).all_positive
    assert scan_minors(N, 1e-6).uncertain == ((1, 1),)
    assert Fraction(float(N[1, 1])) - 1 > 0


def test_pieces_and_batches_agree(monkeypatch):
    rng = np.random.default_rng(0)
    N = np.eye(12) + 0.1 * rng.normal(size=(12, 12))
    whole = scan_minors(N, 1e-15)
    monkeypatch.setattr("conservax.calculus.sets.minors._PIECE", 16)
    pieces = scan_minors(N, 1e-15)
    assert whole.visited == pieces.visited == 2**12 - 1
    np.testing.assert_allclose(whole.least, pieces.least, rtol=1e-12)
