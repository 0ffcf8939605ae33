"""Ellipsoidal norms ‖x‖ = ‖R x‖₂ in which a set of matrices is as small as can be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_EPS = float(np.finfo(np.float64).eps)
_STEPS = 150


@dataclass(frozen=True)
class Ellipsoid:
    """‖A‖ = ‖R A R⁻¹‖₂ with P = RᵀR; ``radius`` is the largest norm of the set it was made for."""

    R: np.ndarray
    inverse: np.ndarray
    radius: float

    @classmethod
    def of(cls, P: np.ndarray, A: np.ndarray) -> Ellipsoid | None:
        """From P ≻ 0; None where that has no Cholesky factor."""
        try:
            R = np.linalg.cholesky(P).T
            inverse = np.linalg.inv(R)
        except np.linalg.LinAlgError:
            return None
        made = cls(R, inverse, 0.0)
        return cls(R, inverse, float(made.norms(A).max()))

    def norms(self, A: np.ndarray) -> np.ndarray:
        """‖R A R⁻¹‖₂ of matrices (k, d, d), an upper bound in spite of rounding."""
        B = self.R @ A @ self.inverse
        gram = np.swapaxes(B, 1, 2) @ B
        top = np.sqrt(np.maximum(np.linalg.eigvalsh(gram)[:, -1], 0.0))
        d = A.shape[1]
        spread = np.linalg.norm(self.R) * np.linalg.norm(self.inverse)
        return top * (1 + 8 * d * _EPS) + 4 * d * _EPS * spread * np.linalg.norm(A, axis=(1, 2))

    def contracts(self, products: np.ndarray) -> bool:
        """Whether P − A_wᵀP A_w ≻ 0 for all, by Cholesky factors of what rounding leaves of it."""
        P = self.R.T @ self.R
        moved = self.R @ products
        gaps = P - np.swapaxes(moved, 1, 2) @ moved
        d = len(P)
        shift = 8 * d * _EPS * (np.trace(P) + (moved**2).sum(axis=(1, 2)))
        try:
            np.linalg.cholesky(gaps - shift[:, None, None] * np.eye(d))
        except np.linalg.LinAlgError:
            return False
        return True


def adapted_ellipsoid(A: np.ndarray, regularisation: float | None) -> Ellipsoid:
    """The best ellipsoid of a fixed-point iteration for P; the Euclidean ball for None.

    P ← Σ w_i A_iᵀP A_i + δ tr(P) I/d, normalised, w_i ← w_i (‖A_i‖_P / max_j ‖A_j‖_P)²: the weights
    stay with the matrices that are largest.
    """
    k, d = A.shape[:2]
    P = np.eye(d)
    best = Ellipsoid(P, P.copy(), float(np.linalg.norm(A, 2, axis=(1, 2)).max()) * (1 + d * _EPS))
    if regularisation is None or best.radius == 0:
        return best
    weights, transposed = np.full(k, 1 / k), np.swapaxes(A, 1, 2)
    stale = 0
    for _ in range(_STEPS):
        P = np.tensordot(weights, transposed @ P @ A, axes=1)
        trace = np.trace(P)
        if not trace > 0:
            break
        P = P * (d / trace) + regularisation * np.eye(d)
        found = Ellipsoid.of(P, A)
        if found is None:
            break
        stale = 0 if found.radius < best.radius * (1 - 1e-4) else stale + 1
        if found.radius < best.radius:
            best = found
        if stale > 40:
            break
        norms = found.norms(A)
        weights = weights * (norms / norms.max()) ** 2
        weights = np.maximum(weights, 1e-12) / weights.sum()
    return best
