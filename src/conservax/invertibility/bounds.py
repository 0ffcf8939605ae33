"""Linear algebra with error bounds: norms, inverses, determinants and Schur complements.

No rounding mode is switched: every bound is computed in round-to-nearest and widened by
γ_n = n u / (1 − n u) times the size of its terms, with a factor of two to spare.
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy

from .definite import definite_margin

UNIT = float(np.finfo(float).eps)  # twice the unit round-off: every bound has room to spare
_TIGHT_NORM = 600  # rows up to which a norm comes from eigenvalues


@dataclass(frozen=True)
class Inverse:
    """An approximate inverse R of A with ‖I − R A‖_F ≤ defect < 1."""

    R: np.ndarray
    defect: float


def two_norm_bound(M: np.ndarray) -> float:
    """An upper bound on ‖M‖₂: from M Mᵀ, or √(‖M‖₁ ‖M‖_∞) where both sides are long."""
    if M.size == 0:
        return 0.0
    if min(M.shape) <= _TIGHT_NORM:
        wide = M if M.shape[0] <= M.shape[1] else M.T
        total = float(np.linalg.norm(M)) ** 2
        square = float(np.linalg.eigvalsh(wide @ wide.T)[-1]) + 8 * max(M.shape) * UNIT * total
        return math.sqrt(square) * (1 + 4 * UNIT)
    size = np.abs(M)
    crude = float(np.sqrt(size.sum(axis=0).max() * size.sum(axis=1).max()))
    return crude * (1 + 2 * max(M.shape) * UNIT)


def rows_alone(A: np.ndarray) -> np.ndarray:
    """Which rows of a square matrix hold a diagonal entry and nothing else.

    A unit that is off at the solution has such a row, a feature without weight too; often that is
    most of them. With these rows first A = [[D, 0], [C, B]].
    """
    return (np.count_nonzero(A, axis=1) == 1) & (np.diagonal(A) != 0)


def inverse_norm_bound(A: np.ndarray, inverse: Inverse) -> float:
    """An upper bound on ‖A⁻¹‖₂: from ‖R‖₂, and for a large A from a lower bound on λ_min(AᵀA).

    With R = [[D⁻¹, 0], [X, B⁻¹]], δ = ‖D⁻¹‖ and Y Yᵀ = X Xᵀ, ‖R‖ ≤ ‖[[δ I, 0], [Y, B⁻¹]]‖.
    """
    R, alone = inverse.R, rows_alone(inverse.R)
    if len(A) > _TIGHT_NORM and 2 * np.count_nonzero(~alone) <= _TIGHT_NORM:
        rest = np.flatnonzero(~alone)
        X, s = R[np.ix_(rest, np.flatnonzero(alone))], len(rest)
        Y = np.asarray(np.linalg.qr(X.T, mode="r")).T
        small = np.zeros((Y.shape[1] + s, Y.shape[1] + s))
        np.fill_diagonal(small, np.abs(np.diagonal(R)[alone]).max())
        small[-s:] = np.hstack([Y, R[np.ix_(rest, rest)]])
        rounding = 8 * len(A) * s * UNIT * float(np.linalg.norm(X))
        return (two_norm_bound(small) + rounding) / (1 - inverse.defect) * (1 + 4 * UNIT)
    bound = two_norm_bound(R) / (1 - inverse.defect) * (1 + 4 * UNIT)
    if len(A) > _TIGHT_NORM:
        square = A.T @ A
        doubt = 2 * len(A) * UNIT * float(np.linalg.norm(A)) ** 2
        least = definite_margin((square + square.T) / 2) - doubt
        if least > 0:
            bound = min(bound, (1 + 8 * UNIT) / math.sqrt(least))
    return bound


def verified_inverse(A: np.ndarray, radius: float = 0.0) -> Inverse | None:
    """An inverse of every matrix within ``radius`` (entrywise) of A; None where that is not shown.

    ‖I − R A‖_F is computed, and γ_{n+2} ‖R‖_F ‖A‖_F bounds what rounding did to it.
    """
    n = A.shape[0]
    if n == 0:
        return Inverse(np.zeros((0, 0)), 0.0)
    alone = rows_alone(A)
    single, rest = np.flatnonzero(alone), np.flatnonzero(~alone)
    R = np.zeros_like(A)
    try:
        inner = np.linalg.inv(A[np.ix_(rest, rest)])
    except np.linalg.LinAlgError:
        return None
    R[single, single] = 1 / A[single, single]
    R[np.ix_(rest, rest)] = inner
    R[np.ix_(rest, single)] = -(inner @ A[np.ix_(rest, single)]) * R[single, single]
    size = float(np.linalg.norm(R))
    gap = R[rest] @ A
    gap[np.arange(len(rest)), rest] -= 1.0
    gap = np.append(gap, R[single, single] * A[single, single] - 1.0)
    rounding = (n + 2) * UNIT * (size * float(np.linalg.norm(A)) + 1.0)
    defect = (float(np.linalg.norm(gap)) + rounding + size * n * radius) * (1 + n * UNIT)
    return Inverse(R, defect) if defect < 0.5 else None


def signed_bound(A: np.ndarray, doubt: float) -> float | None:
    """A number of the sign of det A' and no larger, for every A' within ``doubt`` of A in each entry.

    None where some A' may be singular. With R = A⁻¹ up to a defect none is; and LU gives the
    determinant of a matrix P L U = A'(I + F), whose distance from A' is computed, not bounded a
    priori (pivots may grow), so that |det A'| ≥ |det P L U| / (1 + ‖F‖)ⁿ.
    """
    n = A.shape[0]
    inverse = verified_inverse(A, doubt)
    if inverse is None:
        return None
    P, L, U = (np.asarray(factor) for factor in scipy.linalg.lu(A))
    distance = float(np.linalg.norm(A - P @ (L @ U))) + n * doubt
    distance += (n + 2) * UNIT * float(np.linalg.norm(L)) * float(np.linalg.norm(U))
    F = float(np.linalg.norm(inverse.R)) * 2 * distance
    if F >= 0.5:
        return None
    value = float(np.linalg.det(P).round() * np.prod(np.diagonal(U)))
    return value / (1 + F) ** n * (1 - 4 * n * UNIT)


def cut(
    A: np.ndarray, H: np.ndarray, E: np.ndarray, L: np.ndarray, radius: float = 0.0
) -> tuple[np.ndarray, float]:
    """L − E A⁻¹ H and a bound on the error of its entries (infinite if A was not inverted surely).

    The four are known up to ``radius`` in every entry. With X ≈ A⁻¹H and R ≈ A⁻¹,
    ‖(A⁻¹H − X) e_j‖₂ ≤ ‖R (H − A X) e_j‖₂ / (1 − defect).
    """
    n = A.shape[0]
    if n == 0 or H.shape[1] == 0:
        return L.copy(), radius
    inverse = verified_inverse(A, radius)
    if inverse is None:
        return L.copy(), np.inf
    X = inverse.R @ H
    X += inverse.R @ (H - A @ X)
    gamma = (n + 3) * UNIT
    size = np.abs(X)
    longest = float(size.sum(axis=0).max())
    left = np.abs(H - A @ X).max(axis=1) + radius * (1 + longest)
    left += gamma * (np.abs(H).max(axis=1) + np.abs(A) @ size.max(axis=1))
    error = float(np.linalg.norm(np.abs(inverse.R) @ left)) / (1 - inverse.defect)
    M = L - E @ X
    sums = np.abs(E).sum(axis=1) + n * radius
    terms = np.abs(L).max(axis=1) + np.abs(E) @ size.max(axis=1)
    spread = float(np.max(sums * error + gamma * terms, initial=0.0)) + radius * (1 + longest)
    return M, spread * (1 + 4 * gamma)


def m_matrix_inverse_bound(C: np.ndarray) -> float | None:
    """A bound on ‖C⁻¹‖₂ of an M-matrix C; None if C, with off-diagonal entries ≤ 0, is not shown one.

    C x ≥ t > 0 for an x > 0 shows it, and ‖C⁻¹‖_∞ ≤ max x / t; ‖·‖₂² ≤ ‖·‖_∞ ‖·‖₁.
    """
    bounds = []
    for matrix in (C, C.T):
        try:
            x = np.linalg.solve(matrix, np.ones(len(C)))
        except np.linalg.LinAlgError:
            return None
        if not np.all(x > 0):
            return None
        slack = (len(C) + 3) * UNIT * float((np.abs(matrix) @ x).max())
        least = float((matrix @ x).min()) - slack
        if not least > 0:
            return None
        bounds.append(float(x.max()) / least * (1 + 4 * UNIT))
    return math.sqrt(bounds[0] * bounds[1]) * (1 + 4 * UNIT)
