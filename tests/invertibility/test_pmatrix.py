"""What each proof leaves behind: β bounds ‖(I − W M)⁻¹ W‖₂ over the whole set, by sampling it."""

import itertools

import numpy as np
import pytest

from conservax.invertibility.pmatrix import h_matrix, minor_bound, monotone, regular_box, whole_set
from invertibility.test_reduced import block_with, tied


def largest(block, rng, draws=300):
    """The largest ‖(I − W M)⁻¹ W‖₂ met, for scalar kinks: at vertices, and between them."""
    k = len(block.columns)
    weights = np.vstack([rng.integers(0, 2, (draws, k)), rng.uniform(size=(draws, k))])
    inverse = np.linalg.inv(np.eye(k) - weights[:, :, None] * block.M) * weights[:, None, :]
    return np.linalg.norm(inverse, 2, axis=(1, 2)).max()


def test_a_scaling_counts_in_the_bound():
    """N = [[1, −100], [0, 1]]: (I − W M)⁻¹ W = [[1, 100], [0, 1]] at W = I, whatever the scaling."""
    block = block_with(np.array([[1.0, -100.0], [0.0, 1.0]]))
    assert monotone(block) is None
    assert monotone(block, np.array([1e-3, 1.0])) >= 100.0
    assert monotone(block, np.array([1e-3, 1.0])) <= 1e3 * 1.1


@pytest.mark.parametrize("seed", range(6))
def test_every_bound_holds_where_the_set_is_sampled(seed):
    rng = np.random.default_rng(seed)
    tried = 0
    while tried < 4:
        k = int(rng.integers(2, 5))
        N = np.eye(k) + rng.normal(size=(k, k)) * rng.choice([0.2, 0.5])
        block = block_with(N)
        scale = np.exp(rng.normal(size=k))
        stretched = block_with(N * scale / scale[:, None])
        minors = [
            np.linalg.det(N[np.ix_(s, s)]) for s in map(list, _subsets(k)) if len(s)
        ]  # brute force
        bounds = [
            (block, h_matrix(block)),
            (block, monotone(block)),
            (stretched, monotone(stretched, scale)),
            (block, regular_box(block, *whole_set(block))),
            (block, minor_bound(block, min(minors)) if min(minors) > 0 else None),
        ]
        found = [(own, bound) for own, bound in bounds if bound is not None]
        for own, bound in found:
            assert largest(own, rng) <= bound
        tried += len(found) >= 3


def _subsets(k):
    return ([i for i in range(k) if s >> i & 1] for s in range(1 << k))


def choices(block, rng, draws=200):
    """Weights (draws, K): each unit takes none or one of its rows, or some of each."""
    weights = np.zeros((draws, len(block.columns)))
    for unit in block.units:
        count = unit.rows.stop - unit.rows.start
        ends = np.eye(count + 1)[rng.integers(0, count + 1, draws)]
        between = rng.dirichlet(np.ones(count + 1), draws)
        whole = rng.uniform(size=(draws, 1)) < 0.7
        weights[:, unit.rows] = np.where(whole, ends, between)[:, 1:]
    return weights


def length_at(block, weights):
    """‖(I − W M)⁻¹ W‖₂, W (units, rows)."""
    W = np.zeros((len(block.units), len(weights)))
    W[block.owner, np.arange(len(weights))] = weights
    return np.linalg.norm(np.linalg.solve(np.eye(len(W)) - W @ block.M, W), 2)


@pytest.mark.parametrize("seed", range(6))
def test_every_bound_holds_for_ties(seed):
    rng = np.random.default_rng(seed)
    ways, tried = [4, 1, 3], 0
    while tried < 6:
        block = tied(rng.normal(size=(6, 3)) * rng.choice([0.2, 0.4]), ways)
        vertices = itertools.product(*(np.eye(c + 1)[:, 1:] for c in block.counts))
        least = min(np.linalg.det(block.weighted(np.concatenate(v))) for v in vertices)
        low, high = whole_set(block)
        bounds = (
            h_matrix(block),
            monotone(block),
            regular_box(block, low.copy(), high.copy()),
            minor_bound(block, min(least, 1.0)) if least > 0 else None,
        )
        found = [bound for bound in bounds if bound is not None]
        if found:
            assert least > 0
            lengths = [length_at(block, weights) for weights in choices(block, rng)]
            assert max(lengths) <= min(found)
        tried += len(found) >= 2


def test_rows_of_a_tie_cost_no_more_than_kinks():
    """M = 0: (I − W M)⁻¹ W = w, whose length over the simplex is at most 1."""
    block = tied(np.zeros((3, 1)), [4])
    assert max(length_at(block, weights) for weights in np.eye(3)) == 1.0
    for bound in (monotone(block), h_matrix(block)):
        assert 1.0 <= bound <= 1 + 1e-12


def test_a_tie_that_is_off_counts_however_many_rows_it_has():
    """N = [[1, 2], [−1, −0.2]]: both minors with the tie taken are positive, the other kink's alone is not."""
    block = tied(np.array([[0.0, -2.0]] * 19 + [[1.0, 1.2]]), [20, 1])
    assert np.linalg.det(block.weighted(np.eye(20)[-1])) < 0
    assert regular_box(block, *whole_set(block)) is None
    # for N = [[1, 0.2], [−0.1, 0.2]] the criterion holds
    block = tied(np.array([[0.0, -0.2]] * 19 + [[0.1, 0.8]]), [20, 1])
    assert regular_box(block, *whole_set(block)) is not None
