"""Shifts and units of columns and targets change the numbers of a fit, and nothing else."""

import pickle

import jax
import numpy as np
import pytest
import scipy.sparse as sp

import conservax as cx
from conservax.sparse import (
    ElasticNetSearchCV,
    GroupLassoSearchCV,
    LassoSearchCV,
    WeightedLassoSearchCV,
)

S = cx.sparse


def data():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(60, 12))
    return X, X[:, :5].sum(axis=1) + rng.normal(size=60)


@pytest.mark.parametrize(
    ("scale", "shift"), [(1.0, 3e3), (1.0, 1e4), (1.0, 1e6), (1e7, 0.0), (1e-8, 0.0)]
)
def test_the_certificate_of_the_search_knows_no_units(scale, shift):
    X, y = data()
    plain, moved = LassoSearchCV().fit(X, y), LassoSearchCV().fit(scale * X + shift, y)
    assert moved.certificate_.regularity.verdict == cx.Verdict.PROVEN
    np.testing.assert_allclose(scale * moved.coef_, plain.coef_, atol=1e-8)
    np.testing.assert_allclose(moved.predict(scale * X + shift), plain.predict(X), atol=1e-6)


def test_equal_columns_far_from_zero_are_refuted_still():
    X, y = data()
    X[:, 1] = X[:, 0]
    for scale, shift in ((1.0, 0.0), (1.0, 1e4), (1e7, 0.0), (1e-8, 0.0)):
        report = LassoSearchCV().fit(scale * X + shift, y).certificate_.regularity
        assert report.verdict == cx.Verdict.REFUTED
        assert report.recheck()[0] <= 1e-10 * max(report.recheck()[1], 1e-300)
        np.testing.assert_allclose(np.abs(report.witness.null_vector[:2]), np.sqrt(0.5), atol=1e-6)


def test_columns_of_mixed_units_are_independent():
    X, y = data()
    units = np.geomspace(1e-6, 1e6, 12)
    report = S.weighted_lasso.check(X * units, y, 0.01 * units)
    assert report.verdict == cx.Verdict.PROVEN
    H = (X * units)[:, report.equicorrelation]
    assert report.margin <= np.linalg.eigvalsh(H.T @ H / 60)[0] * (1 + 1e-6)


G = np.arange(12) // 3
CASES = {
    "lasso": (0.1,),
    "weighted_lasso": (np.linspace(0.05, 0.2, 12),),
    "elastic_net": (0.1, 0.1),
    "group_lasso": (0.1, G),
    "fused_lasso": (0.1,),
    "slope": (np.linspace(0.2, 0.05, 12),),
    "huber": (0.1,),
    "mcp": (0.1,),
    "poisson": (0.1,),
    "sparse_logistic": (0.05,),
    "multinomial": (0.03,),
    "svm": (5.0,),
    "svr": (5.0, 0.3),
}


@pytest.mark.parametrize("name", CASES)
def test_an_intercept_takes_up_a_shift_of_the_columns(name):
    """β stands still, b moves by −1ᵀβ times the shift, and so do their derivatives."""
    X, y = data()
    model = getattr(S, name).with_intercept
    y = {
        "poisson": np.round(np.abs(y)),
        "sparse_logistic": np.where(y > 0, 1.0, -1.0),
        "svm": np.where(y > 0, 1.0, -1.0),
        "multinomial": (y > 0).astype(int) + (y > 1),
    }.get(name, y)
    first, *rest = CASES[name]
    weight = np.random.default_rng(0).random(60) + 0.5

    def value(shift, theta):
        coef, b = model(X + shift, y, theta, *rest, sample_weight=weight)
        return coef, b + shift * coef.sum(axis=0)

    theta = np.asarray(first, dtype=float)
    found = [(value(s, theta), jax.jacrev(lambda t, s=s: value(s, t))(theta)) for s in (0.0, 1e4)]
    for here, there in zip(jax.tree.leaves(found[0]), jax.tree.leaves(found[1]), strict=True):
        np.testing.assert_allclose(here, there, atol=1e-6, rtol=1e-6)
    moved = [
        jax.grad(lambda A: (model(A, y, first, *rest)[0] ** 2).sum())(X + s) for s in (0.0, 1e4)
    ]
    np.testing.assert_allclose(*moved, atol=1e-6, rtol=1e-6)


def test_sparse_columns_of_many_entries_are_centred():
    X, y = data()
    for shift in (1e4, 1e5):
        dense = S.lasso.with_intercept(X + shift, y, 0.1)
        found = S.lasso.with_intercept(sp.csc_matrix(X + shift), y, 0.1)
        np.testing.assert_allclose(found[0], dense[0], atol=1e-9)
        np.testing.assert_allclose(found[1], dense[1], rtol=1e-9)
    slope = jax.grad(lambda a: S.lasso.with_intercept(sp.csc_matrix(X + 1e5), y, a)[0].sum())(0.1)
    plain = jax.grad(lambda a: S.lasso.with_intercept(X, y, a)[0].sum())(0.1)
    assert slope == pytest.approx(float(plain), rel=1e-8)


@pytest.mark.parametrize("value", [0.0, 1e5, 3.0, 0.1, -7.3])
def test_a_constant_target_has_no_features(value):
    X, _ = data()
    searches = [
        LassoSearchCV(),
        LassoSearchCV(certify="path"),
        LassoSearchCV(n_jobs=1),
        ElasticNetSearchCV(),
        WeightedLassoSearchCV(),
        GroupLassoSearchCV(groups=G),
    ]
    for model in searches:
        model.fit(X, np.full(60, value))
        assert not model.coef_.any()
        assert model.intercept_ == pytest.approx(value, rel=1e-12)
        assert model.alpha_ >= np.abs(X.T @ np.full(60, value)).max() / 60
        assert "any penalty gives zero" in model.certificate_.note


def test_constant_columns_explain_nothing():
    _, y = data()
    columns = np.tile([0.1, 0.2, 0.3], (60, 1))
    for X in (columns, sp.csr_matrix(columns)):
        model = LassoSearchCV().fit(X, y)
        assert not model.coef_.any()
        assert model.intercept_ == pytest.approx(y.mean())
        assert "constant" in str(model.certificate_)
    faint = LassoSearchCV().fit(data()[0], 1e5 + 1e-4 * y)  # not constant
    np.testing.assert_allclose(
        faint.coef_, 1e-4 * LassoSearchCV().fit(data()[0], y).coef_, rtol=1e-4
    )


@pytest.mark.parametrize(("columns", "target"), [(1.0, 1e6), (1e-6, 1.0), (1e6, 1e-6)])
def test_the_elastic_net_search_knows_no_units(columns, target):
    X, y = data()
    plain = ElasticNetSearchCV().fit(X, y)
    moved = ElasticNetSearchCV().fit(columns * X, target * y)
    assert moved.certificate_.error / target**2 == pytest.approx(plain.certificate_.error, rel=1e-6)
    np.testing.assert_allclose(moved.coef_ * columns / target, plain.coef_, rtol=1e-4, atol=1e-6)


def test_one_ratio_may_be_a_number():
    X, y = data()
    found = [ElasticNetSearchCV(l1_ratio=ratio).fit(X, y).alpha_ for ratio in (1.0, [1.0])]
    assert found[0] == found[1]


def test_models_travel_in_pickles():
    for name in (*CASES, "scad", "sparse_group_lasso"):
        model = getattr(S, name)
        assert pickle.loads(pickle.dumps(model)) is model
