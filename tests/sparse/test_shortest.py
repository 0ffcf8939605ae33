"""Descent by the shortest gradient, where a smooth line search gets stuck."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conservax.sparse.cross_validation import Judged
from conservax.sparse.search import minimise, most_evaluations
from conservax.sparse.shortest import leave_kink, shortest


@settings(max_examples=40)
@given(st.integers(0, 10_000))
def test_the_shortest_element_is_that_of_its_variational_inequality(seed):
    """v is the projection of 0 onto the hull iff v·g ≥ v·v for every row, and v lies in the hull."""
    rng = np.random.default_rng(seed)
    G = rng.normal(size=(rng.integers(1, 6), 3)) + rng.normal(size=3)
    v = shortest(G)
    assert np.all(G @ v >= v @ v - 1e-9)
    weights = np.linalg.lstsq(np.vstack([G.T, np.ones(len(G))]), np.append(v, 1.0))[0]
    np.testing.assert_allclose(weights @ G, v, atol=1e-9)


def test_two_gradients_by_hand():
    """The hull of (1, 2) and (3, −2) is nearest to 0 at (1.6, 0.8), orthogonal to (2, −4)."""
    np.testing.assert_allclose(shortest(np.array([[1.0, 2.0], [3.0, -2.0]])), [1.6, 0.8])


def valley(x):
    """max(9 |x₀|, …): a crease along x₀ = 0 that falls to its minimum, 0, at (0, 0)."""
    side = 1.0 if x[0] >= 0 else -1.0
    return 9 * abs(x[0]) + abs(x[1]), np.array([9 * side, 1.0 if x[1] >= 0 else -1.0])


def test_a_crease_is_followed():
    """On the crease each side's gradient alone points across it."""
    seen = []

    def evaluate(x):
        found = valley(x)
        seen.append(found[0])
        return found

    x = np.array([0.0, 1.0])
    value, slope = valley(x)
    leave_kink(evaluate, x, value, slope, np.full(2, -5.0), np.full(2, 5.0), 12)
    assert len(seen) <= 12
    assert min(seen) < 0.3


def test_the_search_leaves_a_start_on_a_crease():
    def judge(parameters):
        error, slope = valley(np.log(parameters["alpha"]))
        return Judged(error, np.array([error]), lambda: {"alpha": slope})

    start = {"alpha": np.exp(np.array([0.0, 1.0]))}
    best, judged, count = minimise(judge, start, [(-5.0, 5.0)] * 2, 20)
    assert count <= most_evaluations(20)
    assert judged.error < 0.3
    assert judged.error == pytest.approx(valley(np.log(best["alpha"]))[0])
