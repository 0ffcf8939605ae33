"""All folds at once, beside each fold on its own, and a search beside a grid."""

import numpy as np
import pytest
from sklearn.model_selection import KFold

from conservax.sparse import LassoSearchCV
from conservax.sparse.cross_validation import CrossValidation
from conservax.sparse.datafits import Quadratic
from conservax.sparse.folds import Fold
from conservax.sparse.penalties import L1
from conservax.sparse.shared_folds import SharedFolds
from sparse.sparse_cases import data


def penalty(alpha, rho=0.0):
    return L1(alpha, float(rho))


def both(n, p, intercept, seed=3):
    """The same folds, shared and apart: weights, a shifted X with a constant column, folds that overlap."""
    X, y = data(n, p, seed)
    X, y = X + 2, y + 1
    X[:, 3] = 1
    rng = np.random.default_rng(seed)
    weight = rng.uniform(0.5, 2, n)
    order = rng.permutation(n)
    splits = [(np.sort(order[k:][: 2 * n // 3]), np.sort(order[:k])) for k in (n // 4, n // 3)]
    splits.append((np.sort(order[: n // 2]), np.sort(order[n // 2 :])))
    shared = SharedFolds(X, y, weight, splits, intercept, 1e-11, penalty)
    folds = [Fold(X[a], y[a], weight[a], X[b], y[b], weight[b]) for a, b in splits]

    def run(function, jobs):
        return [function(*job) for job in jobs]

    return shared, CrossValidation(folds, Quadratic(), penalty, intercept, 1e-11, run)


def families():
    """Penalties one after the other; the last of the first go back to a solution that is remembered."""
    nets = [(3.0, 1e-3), (0.3, 0.1), (0.05, 1.0), (0.4, 0.1)]
    yield [{"alpha": np.asarray(alpha), "rho": np.asarray(rho)} for alpha, rho in nets]
    yield [{"alpha": np.asarray(0.2)}, {"alpha": np.random.default_rng(0).uniform(0.1, 0.4, 60)}]


@pytest.mark.parametrize("intercept", [False, True])
def test_errors_and_slopes_are_those_of_each_fold_alone(intercept):
    for steps in families():
        shared, apart = both(40, 60, intercept)
        for parameters in steps:
            here, there = shared(parameters), apart(parameters)
            assert here.error == pytest.approx(there.error, rel=1e-9)
            np.testing.assert_allclose(here.each, there.each, rtol=1e-9)
            for name in parameters:
                np.testing.assert_allclose(
                    here.slopes[name], there.slopes[name], rtol=1e-7, atol=1e-10
                )
            for mine, alone in zip(shared.coefficients(), apart.coefficients(), strict=True):
                np.testing.assert_allclose(mine, alone[:60], atol=1e-9)


@pytest.mark.parametrize("intercept", [False, True])
def test_paths_from_a_solution_are_those_of_each_fold_alone(intercept):
    shared, apart = both(40, 60, intercept)
    top = {"alpha": np.asarray(0.5)}
    shared(top), apart(top)
    alphas = np.geomspace(0.45, 0.1, 7)
    for mine, alone in zip(shared.paths(0.5, 0.0), apart.paths(0.5, 0.0), strict=True):
        mine.path.follow(0.09)
        alone.path.follow(0.09)
        assert mine.path.exact
        np.testing.assert_allclose(mine.error(alphas), alone.error(alphas), rtol=1e-9)
        np.testing.assert_allclose(
            mine.path.coefficients_at(0.2), alone.path.coefficients_at(0.2), atol=1e-10
        )


@pytest.mark.parametrize("rho", [0.0, 0.05])
def test_rough_fits_are_as_near_as_their_gap_says(rho):
    """Strong convexity in the predictions: ‖Z(β − β*)‖² ≤ 2 · gap · ‖y − ȳ‖²/2, on each fold."""
    pytest.importorskip("celer")
    X, y = data(200, 1000, 4)
    rows = np.arange(200)
    splits = [(rows[:100], rows[100:]), (rows[100:], rows[:100])]
    judge = SharedFolds(X, y, np.ones(200), splits, True, 1e-10, penalty)
    assert all(judge.gaps)
    parameters = {"alpha": np.asarray(0.2)} | ({"rho": np.asarray(rho)} if rho else {})
    gap = judge.gaps[0]
    judge(parameters, gap)
    near = judge.coefficients()
    judge(parameters)
    for fold, rough, exact in zip(judge.folds, near, judge.coefficients(), strict=True):
        at = np.flatnonzero((rough != 0) | (exact != 0))
        moved = fold.columns(at) @ (rough - exact)[at]
        assert moved @ moved <= gap * (fold.y @ fold.y)
        assert not np.array_equal(rough, exact)


def test_a_large_search_is_no_worse_than_a_grid_and_its_certificate_holds():
    X, y = data(200, 1100, 5)
    ours = LassoSearchCV().fit(X, y)
    largest = np.abs((X - X.mean(0)).T @ (y - y.mean())).max() / 200
    low, high = ours.certificate_.certified
    assert low <= ours.alpha_ <= high
    rows = np.arange(200)
    folds = [
        Fold(X[a], y[a], np.ones(len(a)), X[b], y[b], np.ones(len(b)))
        for a, b in KFold(5).split(rows)
    ]

    def run(function, jobs):
        return [function(*job) for job in jobs]

    alone = CrossValidation(folds, Quadratic(), penalty, True, 1e-8, run)
    grid = largest * np.geomspace(1, 0.01, 25)
    best = min(alone({"alpha": np.asarray(alpha)}).error for alpha in grid)
    assert ours.certificate_.error <= best * 1.001
    for alpha in np.geomspace(high, low, 6):
        assert ours.certificate_.error <= alone({"alpha": np.asarray(alpha)}).error * (1 + 1e-9)
