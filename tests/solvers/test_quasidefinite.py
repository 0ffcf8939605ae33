"""Sparse quasi-definite systems against dense linear algebra, and bounds against eigenvalues."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from conservax.solvers import quasidefinite
from conservax.solvers.quasidefinite import (
    QuasiDefinite,
    RecentFactors,
    assemble,
    eigenvalue_bound,
    factorise,
    plus_diagonal,
    row_bound,
)


def _parts(n: int, k: int, seed: int, rank: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(n, n if rank is None else rank))
    B = rng.normal(size=(k, n)) * (rng.random((k, n)) < 0.5)
    return root @ root.T, B


def _dense(P: np.ndarray, B: np.ndarray, corner: np.ndarray) -> np.ndarray:
    return np.block([[P, B.T], [B, -np.diag(corner)]])


@given(st.integers(1, 8), st.integers(0, 8), st.integers(0, 99))
def test_solutions_are_those_of_the_dense_system(n, k, seed):
    P, B = _parts(n, k, seed)
    d = np.where(np.arange(k) % 2 == 0, 0.5, 1.0 if k <= n else 0.9)
    K = _dense(P, np.sqrt(d)[:, None] * B, 1 - d)
    if np.linalg.cond(K) > 1e9:
        return
    right = np.random.default_rng(seed).normal(size=(n + k, 2))
    system = RecentFactors().system(sparse.csc_matrix(P), sparse.csr_matrix(B), d)
    solution, met = system.solve(right)
    expected = np.linalg.solve(K, right)
    assert met.all()
    np.testing.assert_allclose(
        solution, expected, rtol=1e-13 * np.linalg.cond(K) + 1e-12, atol=1e-9
    )


def test_an_ill_conditioned_system_takes_the_smaller_shift():
    P = np.array([1.0, 1e-9])
    system = RecentFactors().system(
        sparse.diags(P, format="csc"), sparse.csr_matrix((0, 2)), np.zeros(0)
    )
    solution, met = system.solve(np.ones((2, 1)))
    assert met.all()
    np.testing.assert_allclose(solution[:, 0], 1 / P, rtol=1e-12)


@pytest.mark.parametrize("case", ["P", "rows"])
def test_a_right_hand_side_without_preimage_is_not_met(case):
    if case == "P":
        P, B = np.diag([1.0, 0.0]), np.zeros((0, 2))
    else:
        P, B = np.eye(2), np.array([[1.0, 1.0], [1.0, 1.0]])
    zeros = np.zeros(len(B))
    system = RecentFactors().system(sparse.csc_matrix(P), sparse.csr_matrix(B), 1 - zeros)
    noise = np.random.default_rng(0).uniform(-1, 1, size=(2 + len(B), 1))
    consistent = _dense(P, B, zeros) @ noise
    solution, met = system.solve(np.column_stack([consistent, noise]))
    assert met.tolist() == [True, False]
    np.testing.assert_allclose(_dense(P, B, zeros) @ solution[:, :1], consistent, atol=1e-12)


WAYS = pytest.mark.parametrize(
    ("denser", "small"), [(0, 0), (50, 0), (50, 225)], ids=["augmented", "sparse", "dense"]
)


@WAYS
@given(st.integers(1, 7), st.integers(0, 9), st.integers(0, 6), st.integers(0, 99))
def test_the_bound_is_one_and_close(denser, small, n, k, rank, seed):
    P, B = _parts(n, k, seed, min(rank, n))
    least = np.linalg.eigvalsh(P + B.T @ B)[0]
    matrices = sparse.csc_matrix(P), sparse.csr_matrix(B)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quasidefinite, "_DENSER", denser)
        patch.setattr(quasidefinite, "_SMALL", small)
        for share in (0.5, 2.0):
            shift = share * max(least, 1e-3)
            bound = eigenvalue_bound(*matrices, shift)
            assert bound <= max(least, 0.0) + 1e-12
            # the augmented form loses where the shift is large beside the identity that it adds
            if share == 0.5 and 1e-2 < least and shift < 0.5:
                assert bound > 0.9 * shift


def _is_semidefinite(M: np.ndarray) -> bool:
    """Of fractions, by elimination."""
    if not len(M):
        return True
    pivot, row = M[0, 0], M[0, 1:]
    if pivot <= 0:
        return pivot == 0 and not row.any() and _is_semidefinite(M[1:, 1:])
    return _is_semidefinite(M[1:, 1:] - np.outer(row, row) / pivot)


def _exact(P: np.ndarray, B: np.ndarray, bound: float) -> np.ndarray:
    """P + BᵀB − bound·I."""
    P, B = (np.vectorize(Fraction, otypes=[object])(part) for part in (P, B))
    own = np.full(len(P), Fraction(bound), object)
    return P + (B.T @ B if len(B) else 0) - np.diag(own)


@WAYS
@given(
    st.integers(1, 5),
    st.integers(0, 4),
    st.sampled_from([0.0, 3.0, 7.0]),
    st.sampled_from([1e-4, 1e-9]),
    st.sampled_from([-1e-3, -1e-9, 0.0, 1e-12, 1e-6, 0.5]),
    st.integers(0, 999),
)
def test_no_bound_is_wrong_where_an_eigenvalue_is_next_to_it(
    denser, small, n, k, spread, shift, off, seed
):
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.uniform(-spread, spread, size=n)
    root = scale[:, None] * rng.normal(size=(n, n - 1))
    whole = root @ root.T  # singular to rounding
    B = scale * rng.normal(size=(k, n)) * (rng.random((k, n)) < 0.5)
    # the sum is next to singular, P alone or with BᵀB
    P = whole - (seed % 2) * B.T @ B
    P = (P + P.T) / 2 + shift * (1 + off) * np.eye(n)
    matrices = sparse.csc_matrix(P), sparse.csr_matrix(B)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quasidefinite, "_DENSER", denser)
        patch.setattr(quasidefinite, "_SMALL", small)
        bound = eigenvalue_bound(*matrices, shift)
    assert bound == 0 or _is_semidefinite(_exact(P, B, bound))
    assert bound <= shift


@given(
    st.integers(1, 5),
    st.integers(0, 4),
    st.sampled_from([0.0, 3.0, 7.0]),
    st.sampled_from([0.0, 0.1, 1.0]),
    st.integers(0, 999),
)
def test_bounds_by_discs_hold_exactly(n, k, spread, beside, seed):
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.uniform(-spread, spread, size=n)
    sums = np.where(rng.random((n, n)) < 0.5, 0.0, rng.normal(size=(n, n)))
    P = np.diag(scale) + beside * np.sqrt(np.outer(scale, scale)) * (sums + sums.T)
    B = scale * rng.normal(size=(k, n)) * (rng.random((k, n)) < 0.5)
    full = sparse.csc_matrix(P), sparse.csr_matrix(B)
    for bound, rows in ((row_bound(full[0]), B[:0]), (row_bound(*full), B)):
        assert _is_semidefinite(_exact(P, rows, bound))
    if not beside:  # attained by what is diagonal
        np.testing.assert_allclose(row_bound(full[0]), scale.min(), rtol=1e-14)


def test_discs_of_rows_with_one_entry_are_points():
    P, B = sparse.csc_matrix((2, 2)), sparse.csr_matrix(np.diag([2.0, 3.0]))
    np.testing.assert_allclose(row_bound(P, B), 4.0, rtol=1e-14)


def test_a_factor_that_is_not_there_is_no_error(monkeypatch):
    def fails(matrix):
        raise RuntimeError("Factor is exactly singular")

    one = sparse.eye(1, format="csc")
    system = QuasiDefinite(one, sparse.csr_matrix((0, 1)), np.zeros(0))
    monkeypatch.setattr(quasidefinite, "factorise", fails)
    solution, met = system.solve(np.ones((1, 2)))
    assert np.isnan(solution).all()
    assert met.tolist() == [False, False]


@given(st.integers(0, 999))
def test_dependent_rows_and_a_singular_P_raise_nothing(seed):
    rng = np.random.default_rng(seed)
    n, k = rng.integers(1, 20, size=2)
    root = rng.normal(size=(n, n // 2))
    B = rng.normal(size=(k, k // 2)) @ rng.normal(size=(k // 2, n))
    system = QuasiDefinite(sparse.csc_matrix(root @ root.T), sparse.csr_matrix(B), np.ones(k))
    _, met = system.solve(rng.normal(size=(n + k, 1)))
    assert not met.any() or (n == 1 and k < 2)


def test_systems_met_again_keep_their_factors():
    recent = RecentFactors()
    P, B = sparse.csc_matrix(np.eye(3)), sparse.csr_matrix(np.ones((1, 3)))
    first = recent.system(P, B, np.ones(1))
    first.solve(np.ones((4, 1)))
    assert recent.system(P, B, np.ones(1)) is first
    assert recent.system(P, 2 * B, np.ones(1)) is not first
    assert recent.system(P, B, np.zeros(1)) is not first


@given(st.integers(1, 8), st.integers(1, 8), st.sampled_from([0.0, 1e-4]), st.integers(0, 999))
def test_a_system_next_to_one_with_factors_needs_none(n, k, off, seed):
    P, A = _parts(n, k, seed)
    P += 0.1 * np.eye(n)
    rng = np.random.default_rng(seed)
    first, second = (
        rng.choice([0.0, 0.3, 0.9], k) for _ in range(2)
    )  # rows come, go, change weight
    known = QuasiDefinite(sparse.csc_matrix(P), sparse.csr_matrix(A), first)
    known.factor(1e-8)
    P, A = P * (1 + off), A * (1 + off * rng.random(A.shape))
    system = QuasiDefinite(sparse.csc_matrix(P), sparse.csr_matrix(A), second, known)
    held = second > 0
    K = _dense(P, np.sqrt(second[held])[:, None] * A[held], 1 - second[held])
    right = rng.normal(size=(len(K), 2))
    solution, met = system.solve(right)
    assert met.all()
    np.testing.assert_allclose(K @ solution, right, atol=1e-9)
    assert not system.factors


def test_a_singular_neighbour_is_not_met():
    matrices = sparse.eye(2, format="csc"), sparse.csr_matrix(np.ones((2, 2)))  # one row twice
    known = QuasiDefinite(*matrices, np.array([1.0, 0.0]))
    known.solve(np.ones((3, 1)))
    system = QuasiDefinite(*matrices, np.ones(2), known)
    noise = np.random.default_rng(0).uniform(-1, 1, size=(4, 1))
    consistent = system.matrix @ noise
    solution, met = system.solve(np.column_stack([consistent, noise]))
    assert met.tolist() == [True, False]
    assert system.near is None  # what the neighbour could not solve has factors of its own
    np.testing.assert_allclose(system.matrix @ solution[:, :1], consistent, atol=1e-12)


def test_factors_are_lent_to_systems_that_are_close():
    recent, rng, size = RecentFactors(), np.random.default_rng(0), 40
    P, A = sparse.csc_matrix(np.diag(rng.random(size) + 1)), rng.normal(size=(size, size))
    A, d = sparse.csr_matrix(A), np.ones(size)
    known = recent.system(P, A, d)
    known.solve(np.ones((2 * size, 1)))
    one_row_less = np.where(np.arange(size) == 3, 0.0, d)
    assert recent.system(P, A, one_row_less).near is known
    assert recent.system(1.001 * P, A, d).near is known
    assert recent.system(P, 1.001 * A, d).near is known
    assert recent.system(1.1 * P, A, d).near is None
    assert recent.system(P, A, np.zeros(size)).near is None  # all rows are others
    other_pattern = sparse.csr_matrix(A.toarray() * (rng.random(A.shape) < 0.9))
    assert recent.system(P, other_pattern, d).near is None


def test_of_several_neighbours_the_nearest_lends():
    recent, rng, size = RecentFactors(), np.random.default_rng(0), 60
    P, A = sparse.eye(size, format="csc"), sparse.csr_matrix(rng.normal(size=(size, size)))
    far = np.where(np.arange(size) < 2, 0.0, 1.0)
    nearest = recent.system(P, A, np.ones(size))
    nearest.solve(np.ones((2 * size, 1)))
    other = recent.system(P, A, far)
    other.near = None
    other.solve(np.ones((2 * size - 2, 1)))
    assert recent.system(P, A, np.where(np.arange(size) == 5, 0.0, 1.0)).near is nearest


def test_a_chain_has_factors_too_cheap_to_be_borrowed_for_a_border():
    recent, size = RecentFactors(), 50
    P = sparse.diags([np.full(size, 2.0), np.ones(size - 1)], [0, 1], format="csc")
    P, A = sparse.csc_matrix(P + P.T), sparse.eye(size, format="csr")
    recent.system(P, A, np.zeros(size)).solve(np.ones((size, 1)))
    assert recent.system(P, A, (np.arange(size) < 2).astype(float)).near is None


def test_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(quasidefinite, "_KEPT", 100)
    recent = RecentFactors()
    for k in range(5):
        P = (k + 1) * sparse.eye(3, format="csc")
        system = recent.system(P, sparse.csr_matrix((0, 3)), np.zeros(0))
        system.solve(np.ones((3, 1)))
    assert len(recent.kept) <= 3


def test_many_that_are_kept_stay_near_the_bound(monkeypatch):
    recent, size = RecentFactors(), 0
    for k in range(200):
        P = (2.0**k) * sparse.eye(3, format="csc")
        system = recent.system(P, sparse.csr_matrix((0, 3)), np.zeros(0))
        system.solve(np.ones((3, 1)))
        size = size or system.bytes
        monkeypatch.setattr(quasidefinite, "_KEPT", 40 * size)
    assert 40 <= len(recent.kept) <= 48


def test_assembled():
    P, B = _parts(3, 2, 0)
    corner = np.array([0.0, 0.25])
    K = assemble(sparse.csc_matrix(P), sparse.csr_matrix(B), corner)
    np.testing.assert_array_equal(K.toarray(), _dense(P, B, corner))


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "not stored"])
def test_a_diagonal_is_added_and_the_matrix_stays(stored):
    M = np.array([[1.0, 2.0], [2.0, 3.0 if stored else 0.0]])
    matrix = sparse.csc_matrix(M)
    found = plus_diagonal(matrix, np.array([0.5, -1.0]))
    np.testing.assert_array_equal(found.toarray(), M + np.diag([0.5, -1.0]))
    np.testing.assert_array_equal(matrix.toarray(), M)


def test_factors_leave_a_matrix_as_it_is():
    unsorted = sparse.csc_matrix(
        (np.array([1.0, 4.0, 3.0, 1.0]), np.array([1, 0, 1, 0]), np.array([0, 2, 4])), shape=(2, 2)
    )
    M = unsorted.toarray()
    factor = factorise(unsorted)
    np.testing.assert_array_equal(unsorted.toarray(), M)
    np.testing.assert_allclose(M @ factor.solve(np.array([1.0, 2.0])), [1.0, 2.0], rtol=1e-14)
