"""The set at a tie, its named elements, its one-sided derivatives, and the certificate."""

import jax
import numpy as np
import pytest

import conservax as cx
from conservax.errors import InvalidInputError, SingularError
from sparse.sparse_cases import GROUPS, ROOTS, cases, data


def tied(seed=0, n=20, p=6):
    """X, y, α and S, T: at α the coefficients S are not zero, those of T sit exactly at their kink.

    From the optimality conditions backwards: choose β and the subgradient, then y.
    """
    rng = np.random.default_rng(seed)
    X = np.linalg.qr(rng.normal(size=(n, n)))[0][:, :p] @ rng.normal(size=(p, p)) * np.sqrt(n)
    S, T = [0, 1], [2, 3]
    beta, g = np.zeros(p), rng.uniform(-0.6, 0.6, p)
    beta[S] = [1.5, -2.0]
    g[S], g[T] = np.sign(beta[S]), [1.0, -1.0]
    alpha = 0.3
    y = X @ beta + X @ np.linalg.solve(X.T @ X, n * alpha * g)
    return X, y, alpha, S, T, g


def closed_form(X, members, g, alpha, n):
    """dβ/d log α on the members of a support."""
    slope = np.zeros(X.shape[1])
    Z = X[:, members]
    slope[members] = -alpha * n * np.linalg.solve(Z.T @ Z, g[members])
    return slope


@pytest.mark.parametrize("seed", range(5))
def test_the_set_at_a_tie_is_that_of_proposition_5(seed):
    X, y, alpha, S, T, g = tied(seed)
    n = len(y)
    J = cx.sparse.lasso.jacobian(X, y, alpha)
    assert J.shape == (6, 1)
    assert [kink.index for kink in J.kinks] == [(2,), (3,)]
    between = [S, [*S, 2], [*S, 3], [*S, *T]]
    expected = np.array([closed_form(X, m, g, alpha, n) for m in between])
    found = J.vertices()[:, :, 0]
    assert len(found) == 4
    for one in expected:
        assert np.abs(found - one).max(axis=1).min() < 1e-9
    np.testing.assert_allclose(J.element("support")[:, 0], expected[0], atol=1e-9)
    np.testing.assert_allclose(J.element("lars")[:, 0], expected[3], atol=1e-9)
    np.testing.assert_allclose(J.element([1.0, 0.0])[:, 0], expected[1], atol=1e-9)
    low, high = J.bounds()
    np.testing.assert_allclose(low[:, 0], expected.min(axis=0), atol=1e-9)
    np.testing.assert_allclose(high[:, 0], expected.max(axis=0), atol=1e-9)
    middle = J.element([0.3, 0.6])
    assert J.contains(middle)
    assert J.contains(middle, hull=False)


@pytest.mark.parametrize("seed", range(5))
def test_one_sided_derivatives_are_differences(seed):
    X, y, alpha, *_ = tied(seed)
    J = cx.sparse.lasso.jacobian(X, y, alpha)
    here = np.asarray(cx.sparse.lasso(X, y, alpha))
    for side in (1.0, -1.0):
        h = 1e-7
        there = np.asarray(cx.sparse.lasso(X, y, alpha * np.exp(side * h)))
        np.testing.assert_allclose(J.directional([side]), (there - here) / h, atol=1e-5)


def test_jax_uses_the_selection_asked_for():
    X, y, alpha, S, T, g = tied()
    for selection, members in (("support", S), ("lars", [*S, *T])):
        slope = jax.jacobian(lambda a, s=selection: cx.sparse.lasso(X, y, a, selection=s))(alpha)
        expected = closed_form(X, members, g, alpha, len(y)) / alpha
        np.testing.assert_allclose(slope, expected, atol=1e-9)


def test_the_certificate_at_a_tie():
    X, y, alpha, S, T, _ = tied()
    report = cx.sparse.lasso.check(X, y, alpha)
    assert report.verdict == cx.Verdict.PROVEN
    assert report.support.tolist() == S
    assert report.equicorrelation.tolist() == [*S, *T]
    Z = X[:, [*S, *T]]
    least = np.linalg.eigvalsh(Z.T @ Z / len(y))[0]
    assert report.margin == pytest.approx(least, rel=1e-9)
    assert report.margin <= least
    assert "PROVEN" in str(report)
    assert report.to_dict()["verdict"] == "proven"
    assert "PROVEN" in report._repr_html_()
    with pytest.raises(InvalidInputError, match="PROVEN"):
        report.recheck()


def test_equal_columns_are_refuted_with_their_null_vector():
    X, y = data()
    X[:, 1] = X[:, 0]
    report = cx.sparse.lasso.check(X, y, 0.1)
    assert report.verdict == cx.Verdict.REFUTED
    assert {0, 1} <= set(report.equicorrelation.tolist())
    v = report.witness.null_vector
    np.testing.assert_allclose(np.abs(X @ v), 0, atol=1e-10)
    np.testing.assert_allclose(np.abs(v[:2]), np.sqrt(0.5), atol=1e-10)
    assert report.recheck()[0] < 1e-10
    ridged = cx.sparse.elastic_net.check(X, y, 0.1, 0.01)
    assert ridged.verdict == cx.Verdict.PROVEN
    assert ridged.margin == pytest.approx(0.01, rel=1e-6)
    with pytest.raises(SingularError, match="not unique"):
        cx.sparse.lasso.jacobian(X, y, 0.1, warm_start=np.eye(8)[0] + np.eye(8)[1])


@pytest.mark.parametrize("name", list(cases()))
def test_away_from_kinks_the_set_is_jaxs_derivative(name):
    case = cases()[name]
    J = case.model.jacobian(case.X, case.y, *case.parameters)
    assert not J.kinks
    assert J.nearest_inactive is None or J.nearest_inactive.margin > 0
    assert case.model.check(case.X, case.y, *case.parameters).verdict == cx.Verdict.PROVEN
    value = np.asarray(case.parameters[0], dtype=float)
    slope = jax.jacobian(lambda a: case.model(case.X, case.y, a, *case.parameters[1:]))(value)
    slope = np.asarray(slope * value).reshape(J.shape[0], -1)
    np.testing.assert_allclose(J.element("support")[:, : slope.shape[1]], slope, atol=1e-10)


def test_a_group_at_its_kink_moves_along_its_residual():
    """β_g = 0 with ‖X_gᵀr‖ = nαw_g: two vertices, the one-sided derivatives, by differences."""
    rng = np.random.default_rng(3)
    n, alpha = 24, 0.2
    X = rng.normal(size=(n, 8))
    beta, pull = np.zeros(8), np.zeros(8)
    beta[:2] = [1.0, -0.5]
    pull[:2] = ROOTS[0] * beta[:2] / np.linalg.norm(beta[:2])
    unit = np.array([2.0, -1.0, 2.0]) / 3
    pull[2:5] = ROOTS[1] * unit
    y = X @ beta + X @ np.linalg.solve(X.T @ X, n * alpha * pull)
    J = cx.sparse.group_lasso.jacobian(X, y, alpha, GROUPS)
    assert [kink.index for kink in J.kinks] == [(1,)]
    assert len(J.vertices()) == 2
    moved = J.element("lars")[2:5, 0]
    np.testing.assert_allclose(moved, (moved @ unit) * unit, atol=1e-10)
    here = np.asarray(cx.sparse.group_lasso(X, y, alpha, GROUPS))
    for side in (1.0, -1.0):
        h = 1e-6
        there = np.asarray(cx.sparse.group_lasso(X, y, alpha * np.exp(side * h), GROUPS))
        np.testing.assert_allclose(J.directional([side]), (there - here) / h, atol=2e-5)
    report = cx.sparse.group_lasso.check(X, y, alpha, GROUPS)
    assert report.verdict == cx.Verdict.PROVEN
