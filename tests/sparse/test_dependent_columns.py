"""Equal and dependent columns, repeated rows, and paths near saturation."""

import numpy as np
import pytest
from sklearn.linear_model import Lasso

from conservax.sparse import (
    ElasticNetSearchCV,
    GroupLassoSearchCV,
    LassoSearchCV,
    WeightedLassoSearchCV,
    weighted_lasso,
)
from conservax.sparse.fold_paths import FoldPath, exact_stretches
from conservax.sparse.path import Columns, LassoPath


def data(seed=1, n=60, p=12):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p))
    return X, X[:, :5].sum(axis=1) + rng.normal(size=n)


def reference(X, y, alpha, **options):
    return Lasso(alpha=alpha, tol=1e-14, max_iter=100_000, **options).fit(X, y)


@pytest.mark.parametrize("seed", range(6))
def test_weights_of_equal_columns(seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(80, 6))
    X = np.c_[X, X[:, 0]]
    y = X[:, 0] + X[:, 1] + rng.normal(size=80)
    for options in ({"keep": 1.0}, {"keep": 1.0, "n_jobs": 1}, {}):
        model = WeightedLassoSearchCV(**options).fit(X, y)
        alphas = model.alphas_by_feature_
        expected = reference(X / alphas, y, 1.0)
        np.testing.assert_allclose(model.predict(X), expected.predict(X / alphas), atol=1e-6)


@pytest.mark.parametrize("seed", range(12))
def test_fits_of_dependent_columns_are_optimal(seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(30, 6))
    X = np.c_[X, X[:, :3], X[:, :2] + X[:, 1:3]]
    y = X[:, 0] + X[:, 1] + rng.normal(size=30)
    alphas = np.full(11, 0.1) if seed % 3 == 0 else rng.random(11) * 0.2 + 0.01
    beta = np.asarray(weighted_lasso(X, y, alphas))
    expected = reference(X / alphas, y, 1.0, fit_intercept=False).coef_ / alphas
    np.testing.assert_allclose(X @ beta, X @ expected, atol=1e-6)
    pull = X.T @ (y - X @ beta) / 30
    assert np.all(np.abs(pull) <= alphas * (1 + 1e-9))


@pytest.mark.parametrize("seed", range(4))
def test_a_path_through_dependent_columns_is_exact(seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(30, 6))
    X = np.c_[X, X[:, :3], X[:, :2] + X[:, 1:3], np.eye(3)[np.arange(30) % 3], np.ones(30)]
    y = X[:, 0] + X[:, 1] + rng.normal(size=30)
    Z = X - X.mean(axis=0)
    path = LassoPath(Columns(Z, y - y.mean()))
    path.follow(0.01 * path.alpha_max)
    assert path.exact
    for piece in path.pieces[::3]:
        alpha = (piece.high + piece.low) / 2
        fit = Z[:, piece.support] @ (piece.a - alpha * piece.d)
        expected = Z @ reference(Z, y - y.mean(), alpha / 30, fit_intercept=False).coef_
        np.testing.assert_allclose(fit, expected, atol=1e-6)


def test_paths_near_saturation_are_certified_as_a_whole():
    """A feature that has just come in does not leave at once by rounding."""
    for seed in (6, 7, 12):
        X, y = data(seed, 30, 80)
        certificate = LassoSearchCV(certify="path").fit(X, y).certificate_
        assert certificate.certified == certificate.searched
        assert not certificate.note


def test_equal_columns_are_certified_in_their_bracket():
    X, y = data()
    X[:, 3] = X[:, 0]
    certificate = LassoSearchCV().fit(X, y).certificate_
    assert certificate.certified is not None
    least = min(
        held_out(X, y, alpha, five(60)) for alpha in np.linspace(*certificate.certified, 20)
    )
    assert certificate.error <= least * (1 + 1e-9)


def test_what_is_left_where_folds_lose_their_path():
    X, y = data()
    path = LassoPath(Columns(X, y))
    path.gaps = [(0.5, 0.4), (0.2, 0.1)]
    folds = [FoldPath(path, lambda S: X[:, S], y, np.ones(60))]
    assert exact_stretches(folds, 0.05, 1.0) == [(0.05, 0.1), (0.2, 0.4), (0.5, 1.0)]
    assert exact_stretches(folds, 0.15, 0.45) == [(0.2, 0.4)]
    assert exact_stretches(folds, 0.1, 0.2) == []


def five(n):
    from sklearn.model_selection import KFold

    return list(KFold(5).split(np.zeros((n, 1))))


def held_out(X, y, alpha, splits):
    errors = [
        np.mean((y[out] - reference(X[rows], y[rows], alpha).predict(X[out])) ** 2)
        for rows, out in splits
    ]
    return np.mean(errors)


def test_a_row_that_is_repeated_counts_as_often():
    X, y = data()
    draws = [np.random.default_rng(s) for s in range(4)]
    splits = [(r.integers(0, 60, 60), r.integers(0, 60, 20)) for r in draws]
    for options in ({}, {"certify": "path"}, {"n_jobs": 1}):
        model = LassoSearchCV(cv=splits, **options).fit(X, y)
        assert model.certificate_.error == pytest.approx(
            held_out(X, y, model.alpha_, splits), rel=1e-9
        )
    for search in (ElasticNetSearchCV, WeightedLassoSearchCV, GroupLassoSearchCV):
        assert np.isfinite(search(cv=splits).fit(X, y).certificate_.error)
    rows = np.arange(60)
    once = [(np.r_[rows[:30], 0], rows[30:])]
    weight = np.ones(60)
    weight[0] = 2
    repeated = LassoSearchCV(cv=once).fit(X, y)
    weighted = LassoSearchCV(cv=[(rows[:30], rows[30:])]).fit(X, y, weight)
    assert repeated.alpha_ == pytest.approx(weighted.alpha_, rel=1e-9)


def test_splits_may_be_masks_lists_or_a_generator():
    X, y = data()
    rows = np.arange(60)
    plain = [(rows[:30], rows[30:]), (rows[30:], rows[:30])]
    forms = [
        [(rows < 30, rows >= 30), (rows >= 30, rows < 30)],
        [(a.tolist(), b.tolist()) for a, b in plain],
        [(a - 60, b) for a, b in plain],
    ]
    for search in (LassoSearchCV, ElasticNetSearchCV, WeightedLassoSearchCV):
        expected = search(cv=plain).fit(X, y).alpha_
        for cv in (*forms, (pair for pair in plain)):
            assert search(cv=cv).fit(X, y).alpha_ == expected
