"""Exact paths, the best point on them, and gradients of held-out errors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import lars_path

from conservax.sparse.cross_validation import CrossValidation, Fold
from conservax.sparse.datafits import Logistic, Quadratic
from conservax.sparse.fold_paths import best_on_paths, fold_path
from conservax.sparse.path import Columns, LassoPath
from conservax.sparse.penalties import L1, GroupL2
from sparse.sparse_cases import data


def on_path(path, alpha):
    """β at α, from the pieces."""
    beta = np.zeros(len(path.source.b))
    for piece in path.pieces:
        if piece.low <= alpha <= piece.high:
            beta[piece.support] = piece.a - alpha * piece.d
    return beta


@given(st.integers(0, 10_000))
def test_the_path_is_optimal_everywhere(seed):
    """The optimality conditions at random α, for more samples than features and for fewer."""
    rng = np.random.default_rng(seed)
    X, y = data(int(rng.integers(5, 40)), int(rng.integers(1, 60)), seed)
    rho = float(rng.choice([0.0, 0.5]))
    path = LassoPath(Columns(X, y), rho)
    path.follow(path.alpha_max / 50)
    assert path.exact
    for alpha in path.alpha_max * np.exp(-rng.uniform(0, np.log(50), 30)):
        beta = on_path(path, alpha)
        pull = X.T @ (y - X @ beta) - rho * beta
        assert np.abs(pull).max() <= alpha * (1 + 1e-8)
        on = beta != 0
        np.testing.assert_allclose(pull[on], alpha * np.sign(beta[on]), rtol=1e-7)


def test_the_kinks_are_those_of_lars():
    X, y = data(30, 50, 2)
    path = LassoPath(Columns(X, y))
    path.follow(path.alpha_max / 100)
    changes = [
        a.low for a, b in zip(path.pieces, path.pieces[1:], strict=False)
        if set(a.support) != set(b.support)
    ]  # fmt: skip
    theirs = 30 * lars_path(X, y, method="lasso", alpha_min=path.alpha_max / 3000)[0]
    np.testing.assert_allclose([path.alpha_max, *changes], theirs[:-1], rtol=1e-8)


def test_equal_columns_are_told():
    """The path goes on and stays optimal at its verified ends; ``exact`` is lost or one column is kept out."""
    X, y = data(20, 6, 1)
    X[:, 1] = X[:, 0]
    path = LassoPath(Columns(X, y))
    path.follow(path.alpha_max / 20)
    beta = path.coefficients()
    pull = X.T @ (y - X @ beta)
    assert np.abs(pull).max() <= path.alpha * (1 + 1e-8)


def folds(X, y, k=4):
    parts = np.array_split(np.arange(len(y)), k)
    rng = np.random.default_rng(0)
    weight = rng.uniform(0.5, 2, len(y))
    made = []
    for out in parts:
        keep = np.setdiff1d(np.arange(len(y)), out)
        made.append(Fold(X[keep], y[keep], weight[keep], X[out], y[out], weight[out]))
    return made


def one_by_one(function, jobs):
    return [function(*job) for job in jobs]


@pytest.mark.parametrize(
    ("datafit", "penalty", "parameters"),
    [
        (Quadratic(), L1, {"alpha": np.asarray(0.1)}),
        (
            Quadratic(),
            lambda alpha, rho: L1(alpha, float(rho)),
            {"alpha": np.asarray(0.1), "rho": np.asarray(0.2)},
        ),
        (Quadratic(), L1, {"alpha": np.linspace(0.05, 0.2, 8)}),
        (Quadratic(), lambda alpha: GroupL2(alpha, np.arange(8) // 2, np.ones(4)), {"alpha": np.asarray(0.1)}),
        (Logistic(), L1, {"alpha": np.asarray(0.02)}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("intercept", [False, True])
def test_slopes_of_the_held_out_error_are_differences(datafit, penalty, parameters, intercept):
    X, y = data(40, 8, 5, labels=isinstance(datafit, Logistic))
    judge = CrossValidation(folds(X, y), datafit, penalty, intercept, 1e-11, one_by_one)
    slopes = judge(parameters).slopes
    h = 1e-6
    for name, value in parameters.items():
        direction = np.random.default_rng(0).normal(size=value.shape)
        ends = [
            judge(parameters | {name: value * np.exp(side * h * direction)}).error
            for side in (1, -1)
        ]
        assert np.sum(slopes[name] * direction) == pytest.approx(
            (ends[0] - ends[1]) / (2 * h), rel=1e-5, abs=1e-8
        )


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("rho", [0.0, 0.1])
def test_no_grid_point_beats_the_best_on_the_path(intercept, rho):
    X, y = data(40, 12, 6)
    y = y + 1
    made = folds(X, y)
    paths = [fold_path(fold, intercept, rho) for fold in made]
    high = max(path.path.alpha_max for path in paths)
    low = high / 100
    for path in paths:
        path.path.follow(low)
    alpha, error, kinks = best_on_paths(paths, low, high)
    judge = CrossValidation(
        made, Quadratic(), lambda alpha: L1(alpha, rho), intercept, 1e-11, one_by_one
    )
    assert judge({"alpha": np.asarray(alpha)}).error == pytest.approx(error, rel=1e-9)
    grid = [judge({"alpha": np.asarray(a)}).error for a in np.geomspace(low, high, 60)]
    assert error <= min(grid) * (1 + 1e-10)
    assert kinks > 10
