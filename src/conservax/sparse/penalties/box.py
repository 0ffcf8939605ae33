"""A box with a linear term and an ℓ1 norm: the duals of support vector machines."""

from dataclasses import dataclass

import numpy as np

from .base import Face, Kinks, Penalty, Slope


@dataclass(frozen=True, eq=False)
class Box(Penalty):
    """φ(a) = −tᵀa + ε ‖a‖₁ on the box −ℓC_i ≤ a_i ≤ C_i, ℓ = 0 or 1, and ∞ outside.

    ``target`` is t, ``bound`` C, ``two_sided`` ℓ. Coefficients on a bound move with it.

    >>> import numpy as np
    >>> Box(np.zeros(2), np.ones(2)).prox(np.array([-1.0, 2.0]), 1.0).tolist()
    [0.0, 1.0]
    """

    target: np.ndarray
    bound: np.ndarray
    epsilon: np.ndarray | None = None
    two_sided: bool = False

    @property
    def _margin(self) -> float:
        return 0.0 if self.epsilon is None else float(self.epsilon)

    @property
    def _low(self) -> np.ndarray:
        return -self.bound if self.two_sided else np.zeros(len(self.bound))

    def value(self, a: np.ndarray) -> float:
        inside = np.all((a >= self._low) & (a <= self.bound))
        return float(-self.target @ a + self._margin * np.abs(a).sum()) if inside else np.inf

    def prox(self, v: np.ndarray, step: float) -> np.ndarray:
        v = v + step * self.target
        v = np.sign(v) * np.maximum(np.abs(v) - step * self._margin, 0)
        return np.clip(v, self._low, self.bound) + 0.0

    def violation(self, a: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        rest = gradient - self.target
        rise, fall = rest + self._margin, rest - self._margin  # one-sided slopes at zero
        top, low = a >= self.bound, a <= self._low
        excess = np.abs(rest + self._margin * np.sign(a))
        zero = (
            np.maximum(-rise, 0) if not self.two_sided else np.maximum(np.maximum(-rise, fall), 0)
        )
        excess = np.where(a == 0, zero, excess)
        excess = np.where(top, np.maximum(rest + self._margin, 0), excess)
        excess = np.where(low & (a != 0), np.maximum(-(rest - self._margin), 0), excess)
        return np.maximum(excess, np.maximum(a - self.bound, self._low - a))

    def face(self, a: np.ndarray, gradient: np.ndarray | None = None, rtol: float = 0.0) -> Face:
        at_bound = (a >= self.bound) | ((a <= self._low) & (a != 0))
        signs = np.sign(a)
        direction = np.zeros(len(a))  # into the face, at a kink
        distance = np.full(len(a), np.inf)
        if gradient is not None:
            rest = gradient - self.target
            scale = np.abs(gradient) + np.abs(self.target) + self._margin
            gaps = [(at_bound, np.abs(rest + self._margin * signs), -signs)]
            gaps.append((a == 0, np.abs(rest + self._margin), np.ones(len(a))))
            if self.two_sided:
                gaps.append((a == 0, np.abs(rest - self._margin), -np.ones(len(a))))
            for where, gap, way in gaps:
                hit = where & (gap <= rtol * scale)
                direction = np.where(hit, way, direction)
                distance = np.where(hit, gap, distance)
            signs = np.where((a == 0) & (direction != 0), direction, signs)
        kink = direction != 0
        rows = np.flatnonzero((a != 0) | kink)
        free = (a != 0) & ~at_bound
        basis = np.eye(len(rows))[:, free[rows]]
        kinks = None
        if gradient is not None:
            at = np.flatnonzero(kink[rows])
            directions = np.zeros((len(rows), len(at)))
            directions[at, np.arange(len(at))] = direction[rows[at]]
            kinks = Kinks(
                directions,
                tuple(map(int, rows[at])),
                distance[rows[at]],
                rtol * np.ones(len(at)),
                "box",
            )
        return Face(
            rows,
            basis,
            None,
            (self._margin * signs - self.target)[rows],
            {
                "target": Slope(-np.ones(len(rows)), rows),
                "epsilon": Slope(signs[rows]),
                "bound": Slope(np.zeros(len(rows)), rows),
            },
            kinks,
            offsets={"bound": Slope(np.where(at_bound, np.sign(a), 0.0)[rows], rows)},
        )

    def restrict(self, rows: np.ndarray) -> "Box":
        return Box(self.target[rows], self.bound[rows], self.epsilon, self.two_sided)

    def zero_above(self, gradient: np.ndarray) -> float:
        return np.inf
