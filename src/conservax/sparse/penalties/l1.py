"""Σ α_j |β_j| + ρ ‖β‖²/2."""

from dataclasses import dataclass

import numpy as np

from .base import Face, Kinks, Penalty, Slope


@dataclass(frozen=True, eq=False)
class L1(Penalty):
    """φ(β) = Σ α_j |β_j| + ρ ‖β‖²/2, α a number or one a coefficient; α_j = 0 leaves β_j free.

    >>> import numpy as np
    >>> L1(np.array(1.0)).prox(np.array([3.0, -0.5]), 1.0).tolist()
    [2.0, 0.0]
    """

    alpha: np.ndarray
    rho: float = 0.0
    affine = ("alpha",)

    def weights(self, size: int) -> np.ndarray:
        """α, one a coefficient."""
        return np.broadcast_to(self.alpha, (size,))

    def value(self, beta: np.ndarray) -> float:
        return float(np.sum(self.alpha * np.abs(beta)) + self.rho / 2 * beta @ beta)

    def prox(self, v: np.ndarray, step: float) -> np.ndarray:
        moved = np.sign(v) * np.maximum(np.abs(v) - step * self.alpha, 0)
        return moved / (1 + step * self.rho) + 0.0  # no minus zero

    def violation(self, beta: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        inside = np.maximum(np.abs(gradient) - self.alpha, 0)
        outside = np.abs(gradient + self.alpha * np.sign(beta) + self.rho * beta)
        return np.where(beta == 0, inside, outside)

    def face(self, beta: np.ndarray, gradient: np.ndarray | None = None, rtol: float = 0.0) -> Face:
        weights = self.weights(len(beta))
        support = (beta != 0) | (weights == 0)
        if gradient is None:
            rows = np.flatnonzero(support)
            return self._face(rows, None, np.sign(beta[rows]), beta, None, None)
        size = np.abs(gradient)
        # a coefficient that is zero but for rounding sits at its kink as well
        slack = np.where(support, np.inf, weights - size)
        tolerance = rtol * (weights + size)
        tiny = (weights > 0) & (beta != 0) & (np.abs(beta) <= rtol * np.abs(beta).max(initial=0.0))
        free = ((slack <= tolerance) & ~support) | tiny
        slack = np.where(tiny, 0.0, slack)
        rows = np.flatnonzero(support | free)
        signs = np.where(free & ~tiny, -np.sign(gradient), np.sign(beta))[rows]
        at = np.flatnonzero(free[rows])
        directions = np.zeros((len(rows), len(at)))
        directions[at, np.arange(len(at))] = signs[at]
        places = rows[at]
        kinks = Kinks(directions, tuple(map(int, places)), np.abs(slack[places]), tolerance[places])
        basis = np.eye(len(rows))[:, ~free[rows]]
        margin = np.where(free | support, np.inf, slack - tolerance)
        nearest = None
        if np.isfinite(margin).any():
            j = int(np.argmin(margin))
            nearest = j, float(slack[j]), float(tolerance[j])
        return self._face(rows, basis, signs, beta, kinks, nearest)

    def _face(
        self,
        rows: np.ndarray,
        basis: np.ndarray | None,
        signs: np.ndarray,
        beta: np.ndarray,
        kinks: Kinks | None,
        nearest: tuple[int, float, float] | None,
    ) -> Face:
        alone = self.alpha.ndim == 0
        weights = self.weights(len(beta))[rows]
        return Face(
            rows,
            basis,
            np.full(len(rows), self.rho) if self.rho else None,
            weights * signs + self.rho * beta[rows],
            {
                "alpha": Slope(signs, None if alone else rows),
                "rho": Slope(beta[rows]),
            },
            kinks,
            nearest=nearest,
        )

    def restrict(self, rows: np.ndarray) -> "L1":
        return self if self.alpha.ndim == 0 else L1(self.alpha[rows], self.rho)

    def zero_above(self, gradient: np.ndarray) -> float:
        weights = self.weights(len(gradient))
        held = weights > 0
        return float(np.max(np.abs(gradient[held]) / weights[held], initial=0.0))
