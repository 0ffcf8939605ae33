"""A box with a linear term and an ℓ1 norm: the duals of support vector machines."""

from dataclasses import dataclass

import numpy as np

from .base import Face, Kinks, Penalty, Slope


@dataclass(frozen=True, eq=False)
class Box(Penalty):
    """φ(beta) = −tᵀa + ε ‖β‖₁ on the box −ℓC_i ≤ a_i ≤ C_i, ℓ = 0 or 1, and ∞ outside.

    ``target`` is t, ``bound`` C, ``two_sided`` ℓ. Coefficients on beta bound move with it.

    >>> import numpy as np
    >>> Box(np.zeros(2), np.ones(2)).prox(np.array([-1.0, 2.0]), 1.0).tolist()
    [0.0, 1.0]
    """

    target: np.ndarray
    bound: np.ndarray
    epsilon: np.ndarray | None = None
    two_sided: bool = False
    affine = ("target", "bound", "epsilon")

    @property
    def _margin(self) -> float:
        return 0.0 if self.epsilon is None else float(self.epsilon)

    @property
    def _low(self) -> np.ndarray:
        return -self.bound if self.two_sided else np.zeros(len(self.bound))

    def value(self, beta: np.ndarray) -> float:
        inside = np.all((beta >= self._low) & (beta <= self.bound))
        return float(-self.target @ beta + self._margin * np.abs(beta).sum()) if inside else np.inf

    def prox(self, v: np.ndarray, step: float) -> np.ndarray:
        v = v + step * self.target
        v = np.sign(v) * np.maximum(np.abs(v) - step * self._margin, 0)
        return np.clip(v, self._low, self.bound) + 0.0

    def violation(self, beta: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        rest = gradient - self.target
        rise, fall = rest + self._margin, rest - self._margin  # one-sided slopes at zero
        top, low = beta >= self.bound, beta <= self._low
        excess = np.abs(rest + self._margin * np.sign(beta))
        zero = (
            np.maximum(-rise, 0) if not self.two_sided else np.maximum(np.maximum(-rise, fall), 0)
        )
        excess = np.where(beta == 0, zero, excess)
        excess = np.where(top, np.maximum(rest + self._margin, 0), excess)
        excess = np.where(low & (beta != 0), np.maximum(-(rest - self._margin), 0), excess)
        excess = np.where(self.bound == 0, 0.0, excess)  # a sample of weight zero is held
        return np.maximum(excess, np.maximum(beta - self.bound, self._low - beta))

    def face(self, beta: np.ndarray, gradient: np.ndarray | None = None, rtol: float = 0.0) -> Face:
        at_bound = (beta >= self.bound) | ((beta <= self._low) & (beta != 0))
        signs = np.sign(beta)
        direction = np.zeros(len(beta))  # into the face, at beta kink
        distance = np.full(len(beta), np.inf)
        if gradient is not None:
            rest = gradient - self.target
            scale = np.abs(gradient) + np.abs(self.target) + self._margin
            gaps = [(at_bound, np.abs(rest + self._margin * signs), -signs)]
            gaps.append((beta == 0, np.abs(rest + self._margin), np.ones(len(beta))))
            if self.two_sided:
                gaps.append((beta == 0, np.abs(rest - self._margin), -np.ones(len(beta))))
            for where, gap, way in gaps:
                hit = where & (gap <= rtol * scale)
                direction = np.where(hit, way, direction)
                distance = np.where(hit, gap, distance)
            signs = np.where((beta == 0) & (direction != 0), direction, signs)
        kink = direction != 0
        rows = np.flatnonzero((beta != 0) | kink)
        free = (beta != 0) & ~at_bound
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
            offsets={"bound": Slope(np.where(at_bound, np.sign(beta), 0.0)[rows], rows)},
        )

    @property
    def scale(self) -> float:
        return float(np.abs(self.target).max(initial=0.0))

    def truncated(self, beta: np.ndarray, along: np.ndarray) -> tuple[np.ndarray, bool]:
        rising = np.where(beta < 0, 0.0, self.bound)
        end = np.where(along > 0, rising, np.where(beta > 0, 0.0, self._low))
        reach = np.full(len(beta), np.inf)
        moving = along != 0
        reach[moving] = (end[moving] - beta[moving]) / along[moving]
        t = float(reach.min(initial=np.inf))
        if t >= 1:
            return np.where(reach == 1, end, beta + along), True
        return np.where(reach <= t, end, beta + t * along), False

    def restrict(self, rows: np.ndarray) -> "Box":
        return Box(self.target[rows], self.bound[rows], self.epsilon, self.two_sided)

    def zero_above(self, gradient: np.ndarray) -> float:
        return np.inf
