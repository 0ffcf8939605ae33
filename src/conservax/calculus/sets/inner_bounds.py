"""Bounds from inside: extreme selections found by search, one kink at a time.

Along a single kink's weight an element moves on a straight segment
(docs/theory.md#one-weight-at-a-time), so that ⟨C, J⟩ has its extremes at the ends; going from end to
end while that improves stops at a selection that no single kink can better. From three starts; what is
found is attained, and need not be the best.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import SingularError
from .abs_normal import AbsNormal, Group
from .hull import Support

_GAIN = 1e-12  # relative; a smaller one is round-off


def searched_support(form: AbsNormal) -> Support:
    """C ↦ (⟨C, J⟩, J) for an extreme element J that a search finds to be small.

    The support function takes minima; NotPolyhedralError for a norm at 0, SingularError where an
    implicit function's system is singular at a selection on the way.
    """
    groups = [form.groups[i] for i in form.moving()]
    extremes = [
        np.array([[w[p] for p in g.places] for w in g.vertices()], dtype=np.float64) for g in groups
    ]

    def alone(slopes: np.ndarray) -> list[int]:
        return [
            int(np.argmin(weights @ slopes[list(g.columns)]))
            for g, weights in zip(groups, extremes, strict=True)
        ]

    def support(direction: np.ndarray) -> tuple[float, np.ndarray]:
        slopes = np.sum((form.H.T @ direction) * form.E, axis=1)
        found = []
        # as if no kink saw another, and two starts that are far apart
        for choice in (alone(slopes), [0] * len(groups), [-1] * len(groups)):
            diagonal = np.zeros(form.L.shape[0])
            for g, weights, place in zip(groups, extremes, choice, strict=True):
                diagonal[list(g.columns)] = weights[place]
            element = form.jacobian(_descend(form, groups, extremes, diagonal, direction))
            found.append((float(np.sum(element * direction)), element))
        return min(found, key=lambda pair: pair[0])

    return support


@dataclass
class _Pivoted:
    """The element at a diagonal D and what a change of D does to it.

    With K = (I − L D)⁻¹ L, Z = (I − L D)⁻¹ E and Y = H (I − D L)⁻¹, changing D by Σ on the columns S
    adds Y_S (I − Σ K_SS)⁻¹ Σ Z_S to the element: a principal pivot, of rank |S|.
    """

    K: np.ndarray
    Z: np.ndarray
    Y: np.ndarray

    @classmethod
    def at(cls, form: AbsNormal, diagonal: np.ndarray) -> "_Pivoted":
        k = form.L.shape[0]
        inverse = _inverse(np.eye(k) - form.L * diagonal)
        K = inverse @ form.L
        # H (I − D L)⁻¹ = H (I + D K)
        return cls(K, inverse @ form.E, form.H + (form.H * diagonal) @ K)

    def step(self, columns: Sequence[int], change: np.ndarray) -> np.ndarray:
        """(I − Σ K_SS)⁻¹ Σ; SingularError if its determinant is not positive: a zero lies between."""
        at = list(columns)
        system = np.eye(len(at)) - change[:, None] * self.K[np.ix_(at, at)]
        if not np.linalg.det(system) > 0:
            raise _unbounded()
        return np.linalg.solve(system, np.diag(change))

    def move(self, columns: Sequence[int], change: np.ndarray) -> None:
        at = list(columns)
        step = self.step(columns, change)
        left, right = self.K[:, at] @ step, step @ self.K[at]
        self.Z = self.Z + left @ self.Z[at]
        self.Y = self.Y + self.Y[:, at] @ right
        self.K = self.K + left @ self.K[at]


def _descend(
    form: AbsNormal,
    groups: Sequence[Group],
    extremes: Sequence[np.ndarray],
    diagonal: np.ndarray,
    direction: np.ndarray,
) -> np.ndarray:
    """From one extreme diagonal to another, the best single kink at a time, while ⟨C, J⟩ falls."""
    state = _Pivoted.at(form, diagonal)
    singles = np.array([g.columns[0] for g in groups if len(g.columns) == 1], dtype=np.int64)
    wide = [(g, w) for g, w in zip(groups, extremes, strict=True) if len(g.columns) > 1]
    size = float(np.sum(np.abs(form.A * direction))) + float(
        np.sum(np.abs(form.H.T @ direction) * np.abs(form.E))
    )
    for count in range(1, 8 * len(groups) + 8):
        if count % 256 == 0:
            state = _Pivoted.at(form, diagonal)
        best: tuple[float, Sequence[int], np.ndarray] = (0.0, (), np.zeros(0))
        if singles.size:
            change = 1.0 - 2.0 * diagonal[singles]
            pivots = 1.0 - change * state.K[singles, singles]
            if not np.all(pivots > 0):
                raise _unbounded()
            slopes = np.sum((state.Y[:, singles].T @ direction) * state.Z[singles], axis=1)
            gains = change * slopes / pivots
            place = int(np.argmin(gains))
            best = (float(gains[place]), (int(singles[place]),), change[place : place + 1])
        for g, weights in wide:
            at = list(g.columns)
            inner = state.Y[:, at].T @ direction @ state.Z[at].T
            for target in weights:
                change = target - diagonal[at]
                if np.any(change):
                    gain = float(np.sum(inner * state.step(at, change)))
                    best = min(best, (gain, at, change), key=lambda move: move[0])
        gain, columns, change = best
        if gain >= -_GAIN * size:
            break
        state.move(columns, change)
        diagonal[list(columns)] += change
    return diagonal


def _inverse(system: np.ndarray) -> np.ndarray:
    try:
        return np.linalg.inv(system)
    except np.linalg.LinAlgError:
        raise _unbounded() from None


def _unbounded() -> SingularError:
    return SingularError(
        "the implicit system is singular at a selection, so the set is unbounded. Run cx.check for the "
        "witness."
    )


def inner_bounds(form: AbsNormal) -> tuple[np.ndarray, np.ndarray]:
    """Entrywise minimum and maximum, each (m, n), over the elements that the search meets."""
    support = searched_support(form)
    m, n = form.A.shape
    low, high = np.full((m, n), np.inf), np.full((m, n), -np.inf)
    for a in range(m):
        for b in range(n):
            for sign in (1.0, -1.0):
                direction = np.zeros((m, n))
                direction[a, b] = sign
                _, element = support(direction)
                low, high = np.minimum(low, element), np.maximum(high, element)
    return low, high
