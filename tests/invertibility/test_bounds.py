"""Bounds that rounding cannot break, against exact arithmetic and long decimals."""

from fractions import Fraction

import flint
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conservax.invertibility.bounds import (
    cut,
    inverse_norm_bound,
    m_matrix_inverse_bound,
    signed_bound,
    two_norm_bound,
    verified_inverse,
)
from conservax.invertibility.exact import determinant_sign
from soundness import rational


def near_singular(rng, n, gap):
    """A matrix with a singular value ``gap`` and the others of size one."""
    U, V = (np.linalg.qr(rng.normal(size=(n, n)))[0] for _ in range(2))
    return U @ np.diag([*np.linspace(1, 2, n - 1), gap]) @ V


@pytest.mark.parametrize("gap", [1.0, 1e-6, 1e-12, 1e-15])
@pytest.mark.parametrize("n", [1, 4, 12])
def test_determinants_and_inverses_against_rational_arithmetic(n, gap):
    rng = np.random.default_rng(n)
    for _ in range(5):
        A = near_singular(rng, n, gap)
        det = rational(A).det()
        bound = signed_bound(A, 0.0)
        if gap > 1e-10:
            assert bound is not None
        if bound is not None:
            assert 0 < bound / float(Fraction(int(det.p), int(det.q))) <= 1 + 1e-12
        inverse = verified_inverse(A)
        if inverse is not None:
            gaps = rational(np.eye(n)) - rational(inverse.R) * rational(A)
            size = sum(float(Fraction(int(v.p), int(v.q))) ** 2 for v in gaps.entries()) ** 0.5
            assert size <= inverse.defect
            mpmath.mp.dps = 40
            least = min(mpmath.svd_r(mpmath.matrix(A.tolist()), compute_uv=False))
            assert inverse_norm_bound(A, inverse) >= 1 / least
            if gap > 1e-10:
                assert inverse_norm_bound(A, inverse) <= (1 + 1e-3) / float(least)


def test_a_doubt_that_reaches_a_singular_matrix_gives_no_sign():
    A = np.diag([1.0, 1e-3])
    assert signed_bound(A, 1e-6) is not None
    assert signed_bound(A, 2e-3) is None
    assert verified_inverse(np.zeros((2, 2))) is None
    assert signed_bound(-np.eye(3), 0.0) == pytest.approx(-1.0)


@pytest.mark.parametrize("gap", [1.0, 1e-5, 1e-9])
def test_the_cut_lies_within_its_radius(gap):
    rng = np.random.default_rng(3)
    for _ in range(10):
        n, k = 5, 3
        A = near_singular(rng, n, gap)
        H, E, L = rng.normal(size=(n, k)), rng.normal(size=(k, n)), rng.normal(size=(k, k))
        M, radius = cut(A, H, E, L)
        exact = rational(L) - rational(E) * rational(A).inv() * rational(H)
        off = (exact - rational(M)).entries()
        assert max(abs(float(Fraction(int(v.p), int(v.q)))) for v in off) <= radius
        assert radius < 1e-9 / gap**2


@pytest.mark.parametrize("of_E", [0.0, 1.0])
@pytest.mark.parametrize("radius", [1e-9, 1e-5])
def test_the_cut_holds_for_all_data_within_their_radius(radius, of_E):
    rng = np.random.default_rng(4)
    for _ in range(10):
        n, k = 4, 2
        A, H = near_singular(rng, n, 0.5), rng.normal(size=(n, k))
        E, L = of_E * rng.normal(size=(k, n)), rng.normal(size=(k, k))
        M, reach = cut(A, H, E, L, radius)
        assert reach < 1e3 * radius
        X = np.linalg.solve(A, H)
        # as far as E and L alone can move an entry: towards the signs of a column of A⁻¹H
        towards = -np.sign(X[:, :1]).T * np.ones((k, 1))
        ends = [(0, 0, towards, 1)] + [
            tuple(rng.choice([-1.0, 1.0], size=part.shape) for part in (A, H, E, L))
            for _ in range(20)
        ]
        for dA, dH, dE, dL in ends:
            moved = E + radius * dE
            exact = L + radius * dL - moved @ np.linalg.solve(A + radius * dA, H + radius * dH)
            # what rounding makes of the comparison itself
            assert np.abs(exact - M).max() <= reach + 1e-14


def test_norms():
    rng = np.random.default_rng(0)
    for shape in ((3, 3), (5, 200), (700, 4), (650, 650)):
        M = rng.normal(size=shape)
        exact = np.linalg.norm(M, 2)
        assert exact * (1 - 1e-13) <= two_norm_bound(M)
        assert two_norm_bound(M) <= exact * (1 + 1e-9 if min(shape) < 600 else 30)
    assert two_norm_bound(np.zeros((0, 3))) == 0.0


def test_m_matrices():
    C = np.array([[2.0, -1.0], [-0.5, 1.0]])
    bound = m_matrix_inverse_bound(C)
    assert np.linalg.norm(np.linalg.inv(C), 2) <= bound < 3
    assert m_matrix_inverse_bound(np.array([[1.0, -1.0], [-1.0, 1.0]])) is None
    assert m_matrix_inverse_bound(np.array([[1.0, -2.0], [-1.0, 1.0]])) is None


@settings(deadline=None, max_examples=80)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(0, 4), st.booleans())
def test_exact_signs_against_flint(seed, n, k, whole):
    rng = np.random.default_rng(seed)
    draw = (lambda *s: rng.integers(-1, 2, size=s) * 1.0) if whole else rng.standard_normal
    shapes = ((n, n), (n, k), (k, n), (k, k))
    A, H, E, L = (draw(*s) if whole else draw(s) for s in shapes)
    D = rng.choice([0.0, 0.5, 1.0, 0.1], size=k)
    rows = [[flint.fmpq(0)] * (n + k) for _ in range(n + k)]
    q = [flint.fmpq(*float(v).as_integer_ratio()) for v in D]
    for i in range(k):
        for j in range(k):
            rows[i][j] = int(i == j) - q[i] * flint.fmpq(*float(L[i, j]).as_integer_ratio())
        for j in range(n):
            rows[i][k + j] = -q[i] * flint.fmpq(*float(E[i, j]).as_integer_ratio())
    for i in range(n):
        for j, v in enumerate((*H[i], *A[i])):
            rows[k + i][j] = flint.fmpq(*float(v).as_integer_ratio())
    det = flint.fmpq_mat(rows).det()
    assert determinant_sign((A, H, E, L), D) == (det > 0) - (det < 0)
