"""scikit-learn's own checks, and answers beside scikit-learn's estimators."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import ElasticNetCV, LassoCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import conservax as cx
from conservax.sparse import (
    ElasticNetSearchCV,
    GroupLassoSearchCV,
    LassoSearchCV,
    SparseLogisticSearchCV,
    WeightedLassoSearchCV,
)
from sparse.sparse_cases import data


@pytest.mark.slow
@pytest.mark.parametrize(
    "estimator",
    [
        LassoSearchCV,
        ElasticNetSearchCV,
        WeightedLassoSearchCV,
        GroupLassoSearchCV,
        SparseLogisticSearchCV,
    ],
)
def test_scikit_learns_checks(estimator, monkeypatch):
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    results = check_estimator(estimator(), on_fail=None)
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    assert not failed


@pytest.fixture(scope="module")
def problem():
    X, y = data(60, 12, 8)
    return X + 0.5, y + 2


@pytest.mark.parametrize("certify", ["bracket", "path"])
def test_the_lasso_is_no_worse_than_a_fine_grid(problem, certify):
    X, y = problem
    ours = LassoSearchCV(certify=certify, alpha_min_ratio=0.01).fit(X, y)
    theirs = LassoCV(alphas=400, eps=0.01, tol=1e-10, max_iter=100_000).fit(X, y)
    best = theirs.mse_path_.mean(axis=1).min()
    assert ours.certificate_.error <= best * (1 + 1e-9)
    assert ours.certificate_.error == pytest.approx(best, rel=1e-3)
    assert ours.alpha_ == pytest.approx(theirs.alpha_, rel=0.05)
    assert ours.certificate_.exact
    low, high = ours.certificate_.certified
    assert low <= ours.alpha_ <= high
    assert ours.certificate_.regularity.verdict == cx.Verdict.PROVEN
    assert ours.mse_path_.shape == (len(ours.alphas_), 5)
    assert np.all(np.diff(ours.alphas_) <= 0)
    at = np.flatnonzero(ours.alphas_ == ours.alpha_)[0]
    assert ours.mse_path_[at].mean() == pytest.approx(ours.certificate_.error)
    fit = cx.sparse.lasso.with_intercept(X, y, ours.alpha_)
    np.testing.assert_allclose(ours.coef_, fit[0], atol=1e-9)
    assert "no lower error" in str(ours.certificate_)


def test_the_elastic_net_is_no_worse_than_a_grid(problem):
    X, y = problem
    ours = ElasticNetSearchCV().fit(X, y)
    theirs = ElasticNetCV(
        l1_ratio=[0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99], alphas=40, tol=1e-8, max_iter=100_000
    ).fit(X, y)
    best = theirs.mse_path_.mean(axis=-1).min()
    assert ours.certificate_.error <= best * (1 + 1e-4)
    assert 0 < ours.l1_ratio_ <= 1
    rho = ours.alpha_ * (1 - ours.l1_ratio_)
    fit = cx.sparse.elastic_net.with_intercept(X, y, ours.alpha_ * ours.l1_ratio_, rho)
    np.testing.assert_allclose(ours.coef_, fit[0], atol=1e-8)


def test_weights_lower_the_error_of_the_common_penalty(problem):
    X, y = problem
    common = LassoSearchCV().fit(X, y)
    weighted = WeightedLassoSearchCV(keep=1.0).fit(X, y)
    assert weighted.certificate_.error < common.certificate_.error
    fit = cx.sparse.weighted_lasso.with_intercept(X, y, weighted.alphas_by_feature_)
    np.testing.assert_allclose(weighted.coef_, fit[0], atol=1e-9)


def test_of_a_penalty_a_feature_is_kept_what_unseen_folds_confirm():
    """Over four draws with ten strong features the error on new samples falls; of noise nothing is kept."""
    error, beside, kept = 0.0, 0.0, []
    truth = np.repeat([1.0, 0.0], [10, 290])
    for seed in range(4):
        rng = np.random.default_rng(seed)
        X, new = rng.normal(size=(100, 300)), rng.normal(size=(2000, 300))
        y = X @ truth + 0.3 * rng.normal(size=100)
        weighted, common = WeightedLassoSearchCV().fit(X, y), LassoSearchCV().fit(X, y)
        kept.append(weighted.keep_)
        error += np.mean((new @ truth - weighted.predict(new)) ** 2)
        beside += np.mean((new @ truth - common.predict(new)) ** 2)
    assert max(kept) > 0
    assert error < 0.9 * beside
    noise = rng.normal(size=100)
    nothing = WeightedLassoSearchCV().fit(X, noise)
    assert nothing.keep_ == 0
    np.testing.assert_allclose(nothing.coef_, LassoSearchCV().fit(X, noise).coef_, atol=1e-9)


def test_groups_and_classes(problem):
    X, y = problem
    groups = np.repeat(np.arange(4), 3)
    grouped = GroupLassoSearchCV(groups).fit(X, y)
    live = np.array([np.any(grouped.coef_[groups == g] != 0) for g in range(4)])
    assert all(np.all(grouped.coef_[groups == g] != 0) for g in np.flatnonzero(live))
    names = np.where(y > np.median(y), "high", "low")
    classifier = SparseLogisticSearchCV().fit(X, names)
    assert classifier.score(X, names) > 0.85
    np.testing.assert_allclose(classifier.predict_proba(X).sum(axis=1), 1)
    assert classifier.loss_path_.shape == (len(classifier.alphas_), 5)


def test_clones_pickles_pipelines_and_processes(problem, capsys):
    X, y = problem
    model = make_pipeline(StandardScaler(), LassoSearchCV(cv=3, verbose=1))
    model.fit(X, y)
    assert "error" in capsys.readouterr().out
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    parallel = clone(model[-1]).set_params(n_jobs=2, verbose=0).fit(model[0].transform(X), y)
    assert parallel.alpha_ == pytest.approx(model[-1].alpha_, rel=1e-12)
    with pytest.raises(NotFittedError):
        LassoSearchCV().predict(X)


def test_nothing_to_explain_and_constant_columns(problem):
    X, y = problem
    silent = LassoSearchCV().fit(X, np.full(60, 3.0))
    assert not silent.coef_.any()
    assert silent.intercept_ == pytest.approx(3)
    X = X.copy()
    X[:, 4] = 1
    assert LassoSearchCV().fit(X, y).coef_[4] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": np.full((60, 12), np.nan)}, "Input X contains NaN"),
        ({"cv": 100}, "n_splits=100"),
        ({"alpha_min_ratio": 2.0}, "alpha_min_ratio"),
        ({"certify": "hope"}, "certify"),
        ({"sample_weight": -np.ones(60)}, "Negative values in data passed to `sample_weight`"),
    ],
)
def test_bad_input_is_worded_as_scikit_learn_does(problem, change, message):
    given = {"X": problem[0], "y": problem[1], "sample_weight": None} | change
    X, y, weight = (given.pop(name) for name in ("X", "y", "sample_weight"))
    with pytest.raises(ValueError, match=message):
        LassoSearchCV(**given).fit(X, y, weight)
    with pytest.raises(ValueError, match="Only binary classification"):
        SparseLogisticSearchCV().fit(problem[0], np.arange(60) % 3)
