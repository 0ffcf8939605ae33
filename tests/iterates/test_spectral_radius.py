"""Joint spectral radii: families where it is known exactly, random pairs beside brute force over words."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

import conservax as cx
from conservax import Verdict
from conservax.errors import InvalidInputError
from conservax.invertibility import Rigour

jsr = cx.iterates.joint_spectral_radius


def step(c):
    """One step of the heavy ball on c x²/2, with step 1 and β = 3/4."""
    return np.array([[1.75 - c, -0.75], [1.0, 0.0]])


def triangular(rng, d, rho):
    """Conjugates of triangular matrices: the radius is the largest diagonal entry."""
    diagonals = rng.uniform(-1, 1, (2, d))
    diagonals *= rho / np.abs(diagonals).max()
    Q = rng.normal(size=(d, d)) + 2 * np.eye(d)
    return [
        Q @ (np.triu(rng.normal(size=(d, d)), 1) + np.diag(r)) @ np.linalg.inv(Q) for r in diagonals
    ]


def symmetric(rng, d, rho):
    S = rng.normal(size=(2, d, d))
    S = S + np.swapaxes(S, 1, 2)
    return S * rho / np.linalg.norm(S, 2, axis=(1, 2)).max()


def with_transpose(rng, d, rho):
    A = rng.normal(size=(d, d))
    A *= rho / np.linalg.norm(A, 2)
    return [A, A.T]


def rank_one(rng, d, rho):
    """u_i v_iᵀ: the largest geometric mean of |v_i·u_j| over a cycle."""
    U, V = rng.normal(size=(2, 3, d))
    G = np.abs(V @ U.T)
    cycles = (c for r in (1, 2, 3) for c in itertools.permutations(range(3), r))
    best = max(
        np.prod([G[a, b] for a, b in zip(c, c[1:] + c[:1], strict=True)]) ** (1 / len(c))
        for c in cycles
    )
    return [np.outer(u, v) * rho / best for u, v in zip(U, V, strict=True)]


@pytest.mark.parametrize("family", [triangular, symmetric, with_transpose, rank_one])
def test_families_whose_radius_is_known(family):
    rng = np.random.default_rng(3)
    for rho, d in itertools.product((0.5, 0.9, 0.98, 1.02, 1.1, 1.5), (2, 3)):
        found = jsr(family(rng, d, rho))
        assert found.verdict == (Verdict.PROVEN if rho < 1 else Verdict.REFUTED), (rho, d, found)
        assert found.lower <= rho * (1 + 1e-7)
        assert found.upper >= rho * (1 - 1e-7)


def words_up_to(A, length):
    """max ρ(A_w)^{1/|w|} over all words of at most so many letters."""
    products, best = np.eye(len(A[0]))[None], 0.0
    for n in range(1, length + 1):
        products = np.concatenate([a @ products for a in A])
        radii = np.abs(np.linalg.eigvals(products)).max(axis=1)
        best = max(best, float(radii.max()) ** (1 / n))
    return best


def test_random_pairs():
    """No false verdict, at most two UNKNOWN of a hundred away from 1; the word attains the bound."""
    rng = np.random.default_rng(11)
    unknown = 0
    for _ in range(100):
        A = rng.normal(size=(2, 3, 3))
        rho = rng.choice([rng.uniform(0.9, 0.98), rng.uniform(1.02, 1.1)])
        A *= rho / words_up_to(A, 9)
        found = jsr(A)
        unknown += found.verdict == Verdict.UNKNOWN
        product = np.eye(3)
        for i in found.word:
            product = A[i] @ product
        attained = np.abs(np.linalg.eigvals(product)).max() ** (1 / len(found.word))
        assert found.lower == pytest.approx(attained, rel=1e-9)
        assert found.lower <= found.upper
        if rho > 1:
            assert found.verdict != Verdict.PROVEN
            assert found.upper >= rho * (1 - 1e-9)
        elif found.verdict == Verdict.REFUTED:
            assert words_up_to(A, len(found.word)) >= 1 - 1e-9
    assert unknown <= 2


def test_heavy_ball_is_refuted_by_a_word_of_length_four():
    found = jsr([step(1.0), step(0.25)])
    assert found.verdict == Verdict.REFUTED
    assert found.rigour == Rigour.EXACT
    assert sorted(found.word) == [0, 0, 1, 1]

    def exact(c):
        return np.array([[Fraction(7, 4) - c, Fraction(-3, 4)], [Fraction(1), Fraction(0)]])

    product = np.array([[Fraction(1), Fraction(0)], [Fraction(0), Fraction(1)]])
    for i in found.word:
        product = exact((Fraction(1), Fraction(1, 4))[i]) @ product
    trace, det = (
        product[0, 0] + product[1, 1],
        product[0, 0] * product[1, 1] - product[0, 1] * product[1, 0],
    )
    assert (trace, det) == (Fraction(-45, 32), Fraction(81, 256))  # eigenvalues −9/8 and −9/32
    assert found.lower == pytest.approx((9 / 8) ** 0.25, rel=1e-12)
    assert found.lower <= found.upper < 1.06


def test_each_alone_contracts():
    for c in (1.0, 0.25):
        found = jsr([step(c)])
        assert found.verdict == Verdict.PROVEN
        assert found.lower == pytest.approx(0.75**0.5, rel=1e-9)
        assert found.upper < 0.9


def test_radius_one_is_refuted_and_zero_is_proven():
    assert jsr(np.eye(2)).verdict == Verdict.REFUTED
    assert jsr(np.eye(2)).rigour == Rigour.AT_TOLERANCE
    nilpotent = jsr([[[0.0, 5.0], [0.0, 0.0]], [[0.0, 7.0], [0.0, 0.0]]])
    assert nilpotent.verdict == Verdict.PROVEN
    assert nilpotent.lower == 0.0
    assert jsr(np.zeros((1, 2, 2))).verdict == Verdict.PROVEN


def test_a_spent_budget_is_unknown():
    scale = 0.999 / (9 / 8) ** 0.25
    found = jsr([scale * step(1.0), scale * step(0.25)], budget=20)
    assert found.verdict == Verdict.UNKNOWN
    assert "budget" in found.reason


@pytest.mark.parametrize(
    "bad", [np.zeros((2, 3)), np.zeros((1, 2, 3)), [], [[[np.nan]]], "x", [[[1]], [[1, 2]]]]
)
def test_bad_input(bad):
    with pytest.raises(cx.errors.InvalidInputError, match="matrices"):
        jsr(bad)


def test_complex_matrices_are_refused():
    """i I has radius 1; without its imaginary part, 0."""
    with pytest.raises(InvalidInputError, match="complex"):
        cx.iterates.joint_spectral_radius([1j * np.eye(2)])
