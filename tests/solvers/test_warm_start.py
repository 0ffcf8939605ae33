"""Starts against a search by hand."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from conservax.solvers import WarmStart


def _parts(rng: np.random.Generator, spread: float) -> tuple[np.ndarray, ...]:
    """Entries of two parts around ones, of sizes as different as parts of data are."""
    return 1 + spread * rng.normal(size=3), 1e3 * (1 + spread * rng.normal(size=(2, 2)))


def _distance(own: tuple[np.ndarray, ...], other: tuple[np.ndarray, ...]) -> float:
    return max(np.abs(a - b).max() / np.abs(a).max() for a, b in zip(own, other, strict=True))


@given(st.integers(1, 8), st.integers(1, 6), st.sampled_from([0.01, 0.1, 0.5]), st.integers(0, 99))
def test_the_nearest_of_the_latest_is_found_if_it_is_close(met, room, spread, seed):
    rng = np.random.default_rng(seed)
    starts, known = WarmStart(programs=room), [_parts(rng, spread) for _ in range(met)]
    for k, parts in enumerate(known):
        starts.keep(parts, np.array([k, -k]))
    asked = _parts(rng, spread)
    distances = {k: _distance(known[k], asked) for k in range(max(0, met - room), met)}
    nearest = min(distances, key=distances.__getitem__)
    found = starts.nearest(asked, 2)
    if distances[nearest] > 0.3:
        assert found is None
    else:
        np.testing.assert_array_equal(found, [nearest, -nearest])


def test_another_shape_starts_anew():
    starts = WarmStart()
    starts.keep((np.ones(2), np.zeros(0)), np.ones(3))
    assert starts.nearest((np.ones(2), np.zeros(1)), 3) is None
    assert starts.nearest((np.ones(2), np.zeros(0)), 4) is None
    np.testing.assert_array_equal(starts.nearest((np.ones(2), np.zeros(0)), 3), np.ones(3))
    starts.keep((np.ones(3), np.zeros(0)), np.ones(4))
    assert starts.nearest((np.ones(2), np.zeros(0)), 3) is None


def test_memory_is_bounded():
    starts = WarmStart(
        megabytes=8 * 130 * 3 / 1e6
    )  # three programs of a hundred data, thirty results
    for k in range(5):
        starts.keep((np.full(100, 2.0**k),), np.full(30, k))
    kept = [starts.nearest((np.full(100, 2.0**k),), 30) is not None for k in range(5)]
    assert kept == [False, False, True, True, True]


def test_a_part_of_zeros_is_close_to_zeros_only():
    starts = WarmStart()
    starts.keep((np.ones(2), np.zeros(2)), np.ones(1))
    assert starts.nearest((np.ones(2), np.full(2, 1e-9)), 1) is None
    assert starts.nearest((np.ones(2), np.zeros(2)), 1) is not None
