"""Lower bounds on least eigenvalues: against exact rational arithmetic and closed forms."""

import math
from fractions import Fraction

import numpy as np
import pytest
from flint import fmpq, fmpq_mat
from hypothesis import given, settings
from hypothesis import strategies as st

from conservax.errors import InvalidInputError
from conservax.invertibility.definite import definite_margin


def positive_definite(S, shift=0.0):
    """Whether S − shift·I ≻ 0, decided by the exact leading minors (Sylvester)."""
    n = len(S)

    def rational(v):
        exact = Fraction(float(v))
        return fmpq(exact.numerator, exact.denominator)

    rows = [
        [rational(S[i, j]) - (rational(shift) if i == j else 0) for j in range(n)] for i in range(n)
    ]
    return all(
        fmpq_mat(k, k, [rows[i][j] for i in range(k) for j in range(k)]).det() > 0
        for k in range(1, n + 1)
    )


def symmetric(seed, n, least, spread=1.0, dtype=np.float64):
    """A symmetric matrix with eigenvalues between about ``least`` and ``spread``."""
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.normal(size=(n, n)))[0]
    S = (Q * np.r_[least, rng.uniform(abs(least), spread, n - 1)]) @ Q.T
    return ((S + S.T) / 2).astype(dtype)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 7),
    st.floats(-17, 0),
    st.booleans(),
    st.sampled_from([np.float32, np.float64]),
)
def test_the_bound_lies_below_the_least_eigenvalue_in_exact_arithmetic(seed, n, size, minus, dtype):
    S = symmetric(seed, n, (-1 if minus else 1) * 10.0**size, dtype=dtype)
    bound = definite_margin(S)
    assert bound > 0 or bound == -math.inf
    if bound > 0:
        assert positive_definite(S, np.nextafter(bound, -1))
    if not positive_definite(S):
        assert bound == -math.inf


@pytest.mark.parametrize("n", [2, 30, 450])
def test_close_to_the_least_eigenvalue_of_the_second_difference(n):
    S = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    exact = 4 * math.sin(math.pi / (2 * (n + 1))) ** 2
    assert 0.99 * exact <= definite_margin(S) <= exact


@pytest.mark.parametrize("n", [5, 60, 450])
@pytest.mark.parametrize("least", [1e-15, 1e-12, 1e-8])
def test_shown_down_to_the_rounding_of_the_factorisation_and_not_below(n, least):
    Q = symmetric(0, n, 0.1)
    S = Q @ Q.T
    S = (S + S.T) / 2
    S -= (np.linalg.eigvalsh(S)[0] - least) * np.eye(n)
    bound = definite_margin(S)
    assert bound <= least + 1e-13 * n
    if least >= 100 * n**2 * 2.0**-53:
        assert bound > 0.5 * least


@pytest.mark.parametrize("n", [3, 450])
def test_indefinite_and_singular_matrices_are_not_shown(n):
    assert definite_margin(np.ones((n, n))) == -math.inf
    assert definite_margin(-np.eye(n)) == -math.inf
    assert definite_margin(np.zeros((n, n))) == -math.inf
    S = np.eye(n)
    S[0, 1] = S[1, 0] = 1 + 2**-40
    assert definite_margin(S) == -math.inf


@pytest.mark.parametrize("scale", [1e-200, 1e-3, 1e200])
def test_scales_with_the_matrix(scale):
    S = symmetric(1, 8, 0.1)
    assert definite_margin(scale * S) == pytest.approx(scale * definite_margin(S), rel=1e-6)


def test_float32_is_taken_as_exact():
    S = symmetric(2, 20, 1e-3, dtype=np.float32)
    least = np.linalg.eigvalsh(S.astype(np.float64))[0]
    assert 0.99 * least <= definite_margin(S) <= least + 1e-14


def test_nothing_to_show_in_dimension_zero():
    assert definite_margin(np.zeros((0, 0))) == math.inf


@pytest.mark.parametrize(
    ("S", "match"),
    [
        (np.ones((2, 3)), "square"),
        (np.ones((2, 2), int), "float"),
        (np.array([[1.0, 2.0], [0.0, 1.0]]), "symmetric"),
        (np.array([[np.nan]]), "NaN"),
    ],
)
def test_bad_input_is_named(S, match):
    with pytest.raises(InvalidInputError, match=match):
        definite_margin(S)
