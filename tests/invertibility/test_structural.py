"""Structural certificates: against SVDs of sampled elements, closed forms, and exact arithmetic."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conservax.errors import InvalidInputError
from conservax.invertibility import Verdict
from conservax.invertibility.structural import Monotone, certify_contraction, certify_monotone


def monotone(W):
    """Whether 2I − W − Wᵀ ≻ 0, by exact elimination."""
    n = len(W)
    F = [[Fraction(float(x)) for x in row] for row in W]
    S = [[2 * (i == j) - F[i][j] - F[j][i] for j in range(n)] for i in range(n)]
    for k in range(n):
        if S[k][k] <= 0:
            return False
        for i in range(k + 1, n):
            ratio = S[i][k] / S[k][k]
            S[i] = [a - ratio * b for a, b in zip(S[i], S[k], strict=True)]
    return True


def smallest(M):
    return np.linalg.svd(M, compute_uv=False)[-1]


def projections(rng, n, count=40):
    """Symmetric 0 ≼ V ≼ I: diagonal 0/1, diagonal in between, and full."""
    for i in range(count):
        q = rng.integers(0, 2, n).astype(float) if i % 2 else rng.uniform(size=n)
        Q = np.eye(n) if i % 3 else np.linalg.qr(rng.normal(size=(n, n)))[0]
        yield (Q * q) @ Q.T


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.floats(-0.5, 1.2), st.booleans())
def test_monotone_agrees_with_exact_arithmetic_and_its_margin_holds(seed, n, m, single):
    rng = np.random.default_rng(seed)
    A, B = rng.normal(size=(2, n, n))
    W = (1 - m) * np.eye(n) - 0.1 * A.T @ A + B - B.T
    W = W.astype(np.float32 if single else np.float64)
    certificate = certify_monotone(W)
    exact = W.astype(np.float64)
    if certificate.verdict == Verdict.PROVEN:
        assert monotone(W)
        for V in projections(rng, n):
            assert smallest(np.eye(n) - V @ exact) >= certificate.margin - 1e-13
    elif np.linalg.eigvalsh(np.eye(n) - (exact + exact.T) / 2)[0] > 1e-6:
        pytest.fail("a clearly monotone matrix was not shown")


def test_the_right_sign_of_the_hypothesis():
    # W = 2I is singular at V = I/2: monotone means W + Wᵀ ≼ 2(1 − m)I
    certificate = certify_monotone(2 * np.eye(3))
    assert certificate.verdict == Verdict.UNKNOWN
    assert certificate.margin is None
    assert "check" in certificate.undecided
    assert certify_monotone(-2 * np.eye(3)).verdict == Verdict.PROVEN
    assert certify_monotone(np.eye(3)).verdict == Verdict.UNKNOWN
    assert certify_monotone((1 - 1e-12) * np.eye(3)).verdict == Verdict.PROVEN


def test_margin_of_a_scalar_equilibrium_in_closed_form():
    # 1 − v w over v in [0, 1] with w = −3: m = 4, ‖W‖ = 3, least 1; the bound is 1/(1 + 3/4)
    certificate = certify_monotone(np.array([[-3.0]]))
    assert certificate.margin == pytest.approx(1 / 1.75, rel=1e-9)
    assert certificate.margin <= 1 / 1.75


@pytest.mark.parametrize("seed", range(5))
def test_monotone_by_construction_holds_for_its_matrix(seed):
    rng = np.random.default_rng(seed)
    n, m = 5, 0.2
    A, B = rng.normal(size=(2, n, n))
    W = (1 - m) * np.eye(n) - A.T @ A + B - B.T
    for form in (Monotone(m, A, B), Monotone(m, norm=np.linalg.norm(W, 2) * (1 + 1e-12))):
        certificate = certify_monotone(form)
        assert certificate.verdict == Verdict.PROVEN
        assert 0 < certificate.margin
        for V in projections(rng, n):
            assert smallest(np.eye(n) - V @ W) >= certificate.margin
    assert certify_monotone(Monotone(0.0, A, B)).verdict == Verdict.UNKNOWN


def test_margin_by_construction_in_closed_form():
    # W = B − Bᵀ = 6 [[0, 1], [−1, 0]] has m = 1 and ‖W‖ = 6; W = −AᵀA = −4 with m = 1 has ‖W‖ = 4
    B = 3 * np.array([[0.0, 1.0], [-1.0, 0.0]])
    assert certify_monotone(Monotone(1.0, B=B)).margin == pytest.approx(1 / 7, rel=1e-12)
    assert certify_monotone(Monotone(1.0, A=[[2.0]])).margin == pytest.approx(1 / 5, rel=1e-12)


def test_operators_without_a_norm_are_proven_without_a_margin():
    import jax
    import lineax as lx

    operator = lx.FunctionLinearOperator(
        lambda v: 2 * v, jax.ShapeDtypeStruct((10**6,), np.float32)
    )
    certificate = certify_monotone(Monotone(0.1, A=operator))
    assert certificate.verdict == Verdict.PROVEN
    assert certificate.margin is None


@pytest.mark.parametrize("n", [1, 5, 450])
@pytest.mark.parametrize("norm", [0.5, 0.999, 1.0, 1.001])
def test_contraction_of_a_matrix_of_known_norm(n, norm):
    rng = np.random.default_rng(n)
    U, V = (np.linalg.qr(rng.normal(size=(n, n)))[0] for _ in range(2))
    W = (U * np.r_[1.0, rng.uniform(0, 0.9, n - 1)]) @ V.T
    W *= norm / np.linalg.norm(W, 2)
    certificate = certify_contraction(matrix=W)
    if norm >= 1:
        assert certificate.verdict == Verdict.UNKNOWN
    else:
        assert certificate.verdict == Verdict.PROVEN
        assert 0.99 * (1 - norm) - 1e-3 <= certificate.margin <= (1 - norm) * (1 + 1e-12)
        for D in rng.integers(0, 2, (5, n)):
            assert smallest(np.eye(n) - D[:, None] * W) >= certificate.margin


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1.0])
def test_contraction_at_any_scale(scale):
    W = scale * np.array([[0.3, -0.2], [0.1, 0.4]])
    certificate = certify_contraction(matrix=W.astype(np.float64))
    assert certificate.verdict == Verdict.PROVEN
    assert certificate.margin <= 1 - np.linalg.norm(W, 2) + 1e-15


def test_weighted_bounds_find_the_perron_scaling():
    # ‖C‖ is 10 in every unweighted norm, ρ(C) = 0.5
    C = np.array([[0.25, 10.0], [0.00625, 0.25]])
    certificate = certify_contraction(bounds=C)
    assert certificate.verdict == Verdict.PROVEN
    rng = np.random.default_rng(0)
    for _ in range(300):
        V = C * rng.uniform(-1, 1, (2, 2))
        assert smallest(np.eye(2) - V) >= certificate.margin
    assert certify_contraction(bounds=C, scaling=[1.0, 1.0]).verdict == Verdict.UNKNOWN
    assert certify_contraction(bounds=2.01 * C).verdict == Verdict.UNKNOWN


def test_the_margin_of_bounds_is_one_in_the_euclidean_norm():
    # V = ½ 1 e₁ᵀ has V² = V/2: (I − V)⁻¹ = I + 2 V, and ‖V‖₂ = √n/2 where ‖V‖_∞ = ½
    n = 100
    V = np.zeros((n, n))
    V[:, 0] = 0.5
    certificate = certify_contraction(bounds=V)
    assert certificate.verdict == Verdict.PROVEN
    exact = smallest(np.eye(n) - V)
    assert exact < 0.1
    assert 0.4 * exact < certificate.margin <= exact


def test_a_stated_modulus_and_its_scaling():
    assert certify_contraction(0.75).margin == pytest.approx(0.25, rel=1e-12)
    assert certify_contraction(0.75).margin <= 0.25
    assert certify_contraction(0.75, scaling=[1.0, 5.0]).margin == pytest.approx(0.05, rel=1e-12)
    certificate = certify_contraction(1.0)
    assert certificate.verdict == Verdict.UNKNOWN
    assert math.isnan(certificate.sigma_min)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: certify_contraction(), "exactly one"),
        (lambda: certify_contraction(0.5, matrix=np.eye(2)), "exactly one"),
        (lambda: certify_contraction(-1.0), "modulus"),
        (lambda: certify_contraction(math.nan), "modulus"),
        (lambda: certify_contraction(0.5, scaling=[0.0]), "positive"),
        (lambda: certify_contraction(matrix=np.eye(2), scaling=[1.0, 2.0]), "scale the matrix"),
        (lambda: certify_contraction(matrix=np.ones((2, 3))), "square"),
        (lambda: certify_contraction(bounds=-np.eye(2)), "nonnegative"),
        (lambda: certify_contraction(bounds=np.eye(2), scaling=[1.0]), "2 entries"),
        (lambda: certify_monotone(np.ones((2, 3))), "square"),
        (lambda: certify_monotone(np.array([[np.inf]])), "infinity"),
        (lambda: certify_monotone(np.eye(2, dtype=int)), "float"),
    ],
)
def test_bad_input_is_named(call, match):
    with pytest.raises(InvalidInputError, match=match):
        call()
