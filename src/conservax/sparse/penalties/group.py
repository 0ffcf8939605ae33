"""α Σ_g w_g ‖β_g‖₂, alone and beside an ℓ1 norm."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .base import Face, Kinks, Penalty, Slope


@dataclass(frozen=True, eq=False)
class GroupL2(Penalty):
    """φ(β) = α (τ Σ_j |β_j| + (1 − τ) Σ_g w_g ‖β_g‖₂), groups by integer labels.

    Its prox soft-thresholds each entry by ατ, then each group's length by α(1 − τ)w_g (Simon and others,
    2013). τ = 0 is the group Lasso. On a group with β_g ≠ 0 the curvature is α(1 − τ)w_g (I − ûûᵀ)/‖β_g‖,
    û = β_g/‖β_g‖.

    >>> import numpy as np
    >>> GroupL2(np.array(5.0), np.zeros(2, int), np.ones(1)).prox(
    ...     np.array([6.0, 8.0]), 1.0
    ... ).tolist()
    [3.0, 4.0]
    """

    alpha: np.ndarray
    groups: np.ndarray
    weights: np.ndarray
    l1_ratio: float = 0.0

    @cached_property
    def _ball(self) -> np.ndarray:
        """α(1 − τ) w_g."""
        return float(self.alpha) * (1 - self.l1_ratio) * self.weights

    @property
    def _threshold(self) -> float:
        return float(self.alpha) * self.l1_ratio

    def lengths(self, v: np.ndarray) -> np.ndarray:
        """‖v_g‖, one a group."""
        return np.sqrt(np.bincount(self.groups, v**2, minlength=len(self.weights)))

    def value(self, beta: np.ndarray) -> float:
        return float(self._threshold * np.abs(beta).sum() + self._ball @ self.lengths(beta))

    def prox(self, v: np.ndarray, step: float) -> np.ndarray:
        v = _soft(v, step * self._threshold)
        lengths = self.lengths(v)
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = np.where(lengths > 0, np.maximum(1 - step * self._ball / lengths, 0), 0.0)
        return v * factor[self.groups]

    def violation(self, beta: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        lengths = self.lengths(beta)
        live = lengths[self.groups] > 0
        with np.errstate(divide="ignore", invalid="ignore"):
            pull = np.where(live, (self._ball / lengths)[self.groups] * beta, 0.0)
        rest = gradient + pull
        inside = np.abs(_soft(rest, self._threshold))
        outside = np.abs(rest + self._threshold * np.sign(beta))
        alive = np.where(beta == 0, inside, outside)
        dead = np.maximum(self.lengths(_soft(gradient, self._threshold)) - self._ball, 0)
        return np.where(live, alive, dead[self.groups])

    def face(self, beta: np.ndarray, gradient: np.ndarray | None = None, rtol: float = 0.0) -> Face:
        lengths = self.lengths(beta)
        live = lengths[self.groups] > 0
        member = beta != 0 if self.l1_ratio else live
        units = np.zeros(len(beta))
        units[live] = beta[live] / lengths[self.groups[live]]
        signs = np.sign(beta)
        kinks, nearest, basis, found = None, None, None, []
        if gradient is not None:
            member, units, signs, found, nearest = self._kinks(
                beta, gradient, rtol, live, member, units, signs
            )
        rows = np.flatnonzero(member)
        if gradient is not None:
            columns = [column[rows] for _, column, _, _ in found]
            kinks = Kinks(
                np.stack(columns, axis=1) if columns else np.zeros((len(rows), 0)),
                tuple(index for index, _, _, _ in found),
                np.array([distance for _, _, distance, _ in found]),
                np.array([tolerance for _, _, _, tolerance in found]),
                "group soft threshold",
            )
            basis = np.eye(len(rows))[:, (beta != 0)[rows] if self.l1_ratio else live[rows]]
        group, unit = self.groups[rows], units[rows]
        same = group[:, None] == group[None, :]
        with np.errstate(divide="ignore"):
            bend = np.where(lengths > 0, self._ball / lengths, 0.0)[group]
        curvature = bend[:, None] * (np.eye(len(rows)) - np.where(same, np.outer(unit, unit), 0.0))
        per_alpha = self.l1_ratio * signs[rows] + (1 - self.l1_ratio) * self.weights[group] * unit
        return Face(
            rows,
            basis,
            curvature if len(rows) else None,
            float(self.alpha) * per_alpha,
            {
                "alpha": Slope(per_alpha),
                "weights": Slope(float(self.alpha) * (1 - self.l1_ratio) * unit, group),
            },
            kinks,
            nearest=nearest,
        )

    def _kinks(
        self,
        beta: np.ndarray,
        gradient: np.ndarray,
        rtol: float,
        live: np.ndarray,
        member: np.ndarray,
        units: np.ndarray,
        signs: np.ndarray,
    ):
        """Groups at zero on the brink, and in living groups entries on theirs."""
        rest = _soft(gradient, self._threshold)
        reach = self.lengths(rest)
        dead = np.bincount(self.groups, live, minlength=len(self.weights)) == 0
        slack = np.where(dead, self._ball - reach, np.inf)
        tolerance = rtol * (self._ball + reach + self._threshold)
        member, units, signs = member.copy(), units.copy(), signs.copy()
        found = []
        for g in np.flatnonzero(slack <= tolerance):
            own = (self.groups == g) & (rest != 0)
            column = np.where(own, -rest / max(reach[g], np.finfo(float).tiny), 0.0)
            member |= own
            units = np.where(own, column, units)
            signs = np.where(own, np.sign(column), signs)
            found.append((int(g), column, float(abs(slack[g])), float(tolerance[g])))
        if self.l1_ratio:
            gap = np.where(live & (beta == 0), self._threshold - np.abs(gradient), np.inf)
            near = rtol * (self._threshold + np.abs(gradient))
            for j in np.flatnonzero(gap <= near):
                column = np.zeros(len(beta))
                column[j] = signs[j] = -np.sign(gradient[j])
                member[j] = True
                found.append((int(j), column, float(abs(gap[j])), float(near[j])))
        waiting = np.where(slack > tolerance, slack - tolerance, np.inf)
        nearest = None
        if np.isfinite(waiting).any():
            g = int(np.argmin(waiting))
            nearest = g, float(slack[g]), float(tolerance[g])
        return member, units, signs, found, nearest

    def restrict(self, rows: np.ndarray) -> "GroupL2":
        labels, groups = np.unique(self.groups[rows], return_inverse=True)
        return GroupL2(self.alpha, groups, self.weights[labels], self.l1_ratio)

    def closure(self, rows: np.ndarray) -> np.ndarray:
        return np.flatnonzero(np.isin(self.groups, np.unique(self.groups[rows])))

    def zero_above(self, gradient: np.ndarray) -> float:
        """Of the group Lasso in closed form; beside an ℓ1 norm by bisection."""
        alpha = float(self.alpha)
        low, high = (
            0.0,
            float(np.abs(gradient).max(initial=0.0))
            / max(
                alpha * max(self.l1_ratio, (1 - self.l1_ratio) * float(self.weights.min())), 1e-300
            ),
        )
        if not self.l1_ratio:
            return float(np.max(self.lengths(gradient) / self._ball, initial=0.0))
        for _ in range(100):
            middle = (low + high) / 2
            reach = self.lengths(_soft(gradient, middle * self._threshold))
            low, high = (middle, high) if np.any(reach > middle * self._ball) else (low, middle)
        return high


def _soft(v: np.ndarray, t: float) -> np.ndarray:
    return np.sign(v) * np.maximum(np.abs(v) - t, 0)
