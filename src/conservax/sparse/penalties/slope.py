"""SLOPE: the sorted ℓ1 norm Σ α_i |β|_(i)."""

from dataclasses import dataclass

import numpy as np

from .base import Face, Kinks, Penalty, Slope


@dataclass(frozen=True, eq=False)
class SortedL1(Penalty):
    """φ(β) = Σ α_i |β|_(i), sizes in decreasing order, α₁ ≥ α₂ ≥ … ≥ 0.

    Coefficients of one size form a cluster, which moves as one; it may split where the sorted pull of the
    loss fills the penalties of the cluster's first ones.

    >>> import numpy as np
    >>> SortedL1(np.array([2.0, 1.0])).prox(np.array([5.0, 4.5]), 1.0).tolist()
    [3.25, 3.25]
    """

    alpha: np.ndarray
    affine = ("alpha",)

    def value(self, beta: np.ndarray) -> float:
        return float(self.alpha @ np.sort(np.abs(beta))[::-1])

    def prox(self, v: np.ndarray, step: float) -> np.ndarray:
        from scipy.optimize import isotonic_regression

        order = np.argsort(-np.abs(v), kind="stable")
        fitted = isotonic_regression(np.abs(v)[order] - step * self.alpha, increasing=False).x
        found = np.empty_like(v)
        found[order] = np.maximum(fitted, 0.0)
        return np.sign(v) * found + 0.0

    def violation(self, beta: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        return np.abs(beta - self.prox(beta - gradient, 1.0))

    def _clusters(self, beta: np.ndarray, rtol: float) -> list[np.ndarray]:
        """Coefficients of equal size, the largest first, zeros last (perhaps none)."""
        order = np.argsort(-np.abs(beta), kind="stable")
        size = np.abs(beta)[order]
        cut = np.flatnonzero(-np.diff(size) > rtol * size.max(initial=0.0)) + 1
        clusters = np.split(order, cut)
        if not len(order) or size[-1] > rtol * size.max(initial=0.0):
            clusters.append(np.zeros(0, dtype=np.intp))
        return clusters

    def face(self, beta: np.ndarray, gradient: np.ndarray | None = None, rtol: float = 0.0) -> Face:
        *live, dead = self._clusters(beta, max(rtol, 1e-12))
        signs = np.sign(beta)
        rank = np.empty(len(beta), dtype=np.intp)
        found: list[tuple[np.ndarray, int, float, float]] = []
        first = 0
        for cluster in [*live, dead]:
            if gradient is not None and len(cluster):
                if cluster is dead:
                    signs[cluster] = -np.sign(gradient[cluster])
                pull = -signs[cluster] * gradient[cluster]
                cluster = cluster[np.argsort(-pull, kind="stable")]
                found += self._splits(
                    cluster, gradient, signs, first, rtol, cluster.size, live, dead
                )
            rank[cluster] = first + np.arange(len(cluster))
            first += len(cluster)
        moved = [column for column, *_ in found]
        member = beta != 0
        if gradient is not None and len(dead):
            member[dead] = False
        for column in moved:
            member |= column != 0
        rows = np.flatnonzero(member)
        basis = np.zeros((len(rows), len(live)))
        for i, cluster in enumerate(live):
            column = np.zeros(len(beta))
            column[cluster] = np.sign(beta[cluster])
            basis[:, i] = column[rows]
        kinks = None
        if gradient is not None:
            kinks = Kinks(
                np.stack([c[rows] for c in moved], axis=1) if moved else np.zeros((len(rows), 0)),
                tuple(index for _, index, _, _ in found),
                np.array([distance for _, _, distance, _ in found]),
                np.array([tolerance for *_, tolerance in found]),
                "sorted soft threshold",
            )
        values = signs[rows]
        slope = self.alpha[rank[rows]] * values
        return Face(rows, basis, None, slope, {"alpha": Slope(values, rank[rows])}, kinks)

    def _splits(
        self,
        cluster: np.ndarray,
        gradient: np.ndarray,
        signs: np.ndarray,
        first: int,
        rtol: float,
        size: int,
        live: list[np.ndarray],
        dead: np.ndarray,
    ) -> list[tuple[np.ndarray, int, float, float]]:
        """Where the first i of a cluster carry all the penalty they can."""
        pull = np.cumsum(-signs[cluster] * gradient[cluster])
        room = np.cumsum(self.alpha[first : first + size])
        last = size if len(dead) and set(cluster) == set(dead) else size - 1
        found = []
        for i in range(last):
            slack, near = room[i] - pull[i], rtol * (abs(room[i]) + abs(pull[i]))
            if slack <= near:
                column = np.zeros(len(gradient))
                column[cluster[: i + 1]] = signs[cluster[: i + 1]]
                found.append((column, int(cluster[i]), float(abs(slack)), float(near)))
        return found

    def restrict(self, rows: np.ndarray) -> "SortedL1":
        return self  # ``closure`` leaves nothing out

    def closure(self, rows: np.ndarray) -> np.ndarray:
        return np.arange(len(self.alpha))

    def zero_above(self, gradient: np.ndarray) -> float:
        pull = np.cumsum(np.sort(np.abs(gradient))[::-1])
        return float(np.max(pull / np.maximum(np.cumsum(self.alpha), 1e-300), initial=0.0))
