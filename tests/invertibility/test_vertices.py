"""Certificates by enumeration, on abs-normal forms made by hand."""

import numpy as np
import pytest

from conservax.calculus import AbsNormal
from conservax.calculus.abs_normal import Group, Kink
from conservax.calculus.locations import Location
from conservax.invertibility import Verdict, certify_by_vertices


def form_of(A, H, E, L=None, ways=None, dtype=np.float64):
    """A + H (I − D L)⁻¹ D E with scalar kinks, or with ties of the given numbers of ways."""
    A, H, E = (np.asarray(M, float) for M in (A, H, E))
    k = H.shape[1]
    groups, column = [], 0
    for r in ways or [1] * k:
        count = max(1, r - 1)
        kink = Kink("max", Location("model.py", 1), (), 0.0, 0.0, (0.0, 1.0), True, r)
        groups.append(
            Group(
                kink,
                tuple(range(column, column + count)),
                (1 / r,) * r,
                0,
                "segment" if r == 1 else "simplex",
            )
        )
        column += count
    return AbsNormal(
        A, H, E, np.zeros((k, k)) if L is None else np.asarray(L, float), tuple(groups), None, dtype
    )


def singular_values(form, selection):
    return np.linalg.svd(form.jacobian(form.diagonal(selection)), compute_uv=False)


@pytest.mark.parametrize("seed", range(10))
def test_verdicts_agree_with_determinant_signs_and_witnesses_are_singular(seed):
    rng = np.random.default_rng(seed)
    k, n = 4, 3
    form = form_of(
        np.eye(n) + 0.3 * rng.normal(size=(n, n)),
        rng.normal(size=(n, k)) / 2,
        rng.normal(size=(k, n)) / 2,
        np.tril(rng.normal(size=(k, k)), -1),
    )
    corners = np.array(np.meshgrid(*[[0.0, 1.0]] * k)).reshape(k, -1).T
    det = np.linalg.det(form.jacobian(corners))
    certificate = certify_by_vertices(form)
    one_sign = np.all(det > 0) or np.all(det < 0)
    assert certificate.verdict == (Verdict.PROVEN if one_sign else Verdict.REFUTED)
    assert certificate.determinant_signs == (np.sum(det < 0), 0, np.sum(det > 0))
    assert certificate.n_vertices == 2**k
    inside = form.jacobian(rng.uniform(size=(3000, k)))
    smallest = np.linalg.svd(inside, compute_uv=False)[:, -1].min()
    at_corners = np.linalg.svd(form.jacobian(corners), compute_uv=False)[:, -1].min()
    assert certificate.sigma_min <= at_corners * (1 + 1e-9)
    if one_sign:
        np.testing.assert_allclose(certificate.sigma_min, at_corners, rtol=1e-9)
        # THEORY T5: the smallest singular value over the set is attained at a vertex
        assert smallest >= at_corners - 1e-12
        assert 0 < certificate.margin <= at_corners
    else:
        values = singular_values(form, certificate.witness.selection)
        assert values[-1] < 1e-12 * values[0]
        assert np.all((certificate.witness.selection >= 0) & (certificate.witness.selection <= 1))
        np.testing.assert_allclose(values[0], certificate.witness.sigma_max)


def test_determinants_far_apart_in_size_still_give_an_exact_witness():
    # det = 1e-6 (1 − q) − 1e6 q
    form = form_of([[1e-6]], [[-1e6 - 1e-6]], [[1.0]])
    certificate = certify_by_vertices(form)
    assert certificate.verdict == Verdict.REFUTED
    q = certificate.witness.selection
    np.testing.assert_allclose(q, [1e-6 / (1e6 + 1e-6)], rtol=0, atol=1e-15)
    assert singular_values(form, q)[-1] < 1e-15 * 1e6


@pytest.mark.parametrize("size", [1e-8, 1.0, 1e8])
def test_the_verdict_does_not_depend_on_the_units_of_the_equations(size):
    A, H, E = np.array([[2.0, 1.0], [0.0, 1.0]]), np.array([[1.0], [0.5]]), np.array([[0.3, -0.4]])
    unit = certify_by_vertices(form_of(A, H, E))
    scaled = certify_by_vertices(form_of(size * A, size * H, E))
    assert unit.verdict == scaled.verdict == Verdict.PROVEN
    np.testing.assert_allclose(scaled.margin, size * unit.margin, rtol=1e-9)


def test_a_matrix_singular_to_the_users_precision_is_refuted():
    A = np.diag([1.0, 1e-9])
    none = np.zeros((2, 0))
    assert certify_by_vertices(form_of(A, none, none.T)).verdict == Verdict.PROVEN
    assert (
        certify_by_vertices(form_of(A, none, none.T, dtype=np.float32)).verdict == Verdict.REFUTED
    )
    exact = certify_by_vertices(form_of(np.zeros((2, 2)), none, none.T))
    assert exact.verdict == Verdict.REFUTED
    assert exact.determinant_signs == (0, 1, 0)


def test_ties_are_enumerated_by_entry():
    # a three-way tie: A, A + H₁E₁, A + H₂E₂
    form = form_of([[1.0]], [[1.0, -0.5]], [[1.0], [1.0]], ways=[3])
    certificate = certify_by_vertices(form)
    assert certificate.verdict == Verdict.PROVEN
    assert certificate.n_vertices == 3
    np.testing.assert_allclose(certificate.sigma_min, 0.5)
    refuted = certify_by_vertices(form_of([[1.0]], [[1.0, -3.0]], [[1.0], [1.0]], ways=[3]))
    assert refuted.verdict == Verdict.REFUTED
    w = refuted.witness.selection
    np.testing.assert_allclose([w.sum(), 1 + w[1] - 3 * w[2]], [1, 0], atol=1e-12)


def test_kinks_that_move_nothing_are_not_enumerated():
    k = 30
    H = np.zeros((1, k))
    H[0, 3] = 0.5
    certificate = certify_by_vertices(form_of([[1.0]], H, np.ones((k, 1))))
    assert certificate.verdict == Verdict.PROVEN
    assert certificate.n_vertices == 2


def test_beyond_twelve_kinks_only_a_refutation_is_found():
    k = 13
    certificate = certify_by_vertices(form_of(np.eye(k), 0.5 * np.eye(k), np.eye(k)))
    assert certificate.verdict == Verdict.UNKNOWN
    assert certificate.margin is None
    assert certificate.n_vertices == k + 1
    refuted = certify_by_vertices(form_of(np.eye(k), -3 * np.eye(k), np.eye(k)))
    assert refuted.verdict == Verdict.REFUTED
    values = singular_values(
        form_of(np.eye(k), -3 * np.eye(k), np.eye(k)), refuted.witness.selection
    )
    assert values[-1] < 1e-12


def test_branches_that_no_single_slope_joins_are_not_proven():
    # one weight, two columns: det B(q) = (1 − 2q)² is not affine in q
    form = form_of([[1.0, 0.0], [0.0, 1.0]], np.diag([-2.0, -2.0]), np.eye(2))
    shared = Group(form.groups[0].kink, (0, 1), (0.5,), 0)
    form = AbsNormal(form.A, form.H, form.E, form.L, (shared,), None, np.float64)
    # both vertices have determinant 1, q = ½ is singular: PROVEN would be wrong
    assert np.linalg.det(form.jacobian(form.diagonal(np.array([0.5])))) == 0
    assert certify_by_vertices(form).verdict != Verdict.PROVEN


def test_the_verdict_is_ordered_and_small():
    assert Verdict.REFUTED < Verdict.UNKNOWN < Verdict.PROVEN
    assert [int(v) for v in (Verdict.REFUTED, Verdict.UNKNOWN, Verdict.PROVEN)] == [-1, 0, 1]
