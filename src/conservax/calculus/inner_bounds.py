"""Bounds from inside: extreme selections found by search, one kink at a time.

Along a single kink's weight an element moves on a straight segment (THEORY T5), so that ⟨C, J⟩ has
its extremes at the ends; going from end to end while that improves stops at a selection that no
single kink can better. From three starts; what is found is attained, and need not be the best.
"""

from collections.abc import Callable

import numpy as np

from ..errors import SingularError
from .abs_normal import AbsNormal
from .hull import Support


def searched_support(form: AbsNormal) -> Support:
    """C ↦ (⟨C, J⟩, J) for an extreme element J that a search finds to be small.

    The support function takes minima; NotPolyhedralError for a norm at 0, SingularError where an
    implicit function's system is singular at a selection on the way.
    """
    moving = form.moving()
    extremes = {i: list(form.groups[i].vertices()) for i in moving}
    starts = np.cumsum([0, *(g.ways for g in form.groups)])
    base = np.array([w for g in form.groups for w in g.named("jax")], dtype=np.float64)

    def start(choice: Callable[[int], int]) -> np.ndarray:
        weights = base.copy()
        for i in moving:
            weights[starts[i] : starts[i + 1]] = extremes[i][choice(i)]
        return weights

    def climb(weights: np.ndarray, direction: np.ndarray) -> tuple[float, np.ndarray]:
        element = form.jacobian(form.diagonal(weights))
        best, improved = float(np.sum(element * direction)), True
        while improved:
            improved = False
            for i in moving:
                trials = np.repeat(weights[None], len(extremes[i]), axis=0)
                trials[:, starts[i] : starts[i + 1]] = extremes[i]
                candidates = form.jacobian(form.diagonal(trials))
                values = np.tensordot(candidates, direction, axes=2)
                place = int(np.argmin(values))
                if values[place] < best - 1e-12 * abs(values[place]):
                    best, weights, improved = float(values[place]), trials[place], True
                    element = candidates[place]
        return best, element

    def support(direction: np.ndarray) -> tuple[float, np.ndarray]:
        slopes = np.sum((form.H.T @ direction) * form.E, axis=1)  # as if no kink saw another

        def alone(i: int) -> int:
            group = form.groups[i]
            gains = [
                sum(w[p] * slopes[c] for p, c in zip(group.places, group.columns, strict=True))
                for w in extremes[i]
            ]
            return int(np.argmin(gains))

        try:
            found = [
                climb(start(choice), direction) for choice in (alone, lambda _: 0, lambda _: -1)
            ]
        except np.linalg.LinAlgError:
            raise SingularError(
                "the implicit system is singular at an extreme selection, so the set is unbounded. "
                "Run cx.check for the witness."
            ) from None
        return min(found, key=lambda pair: pair[0])

    return support


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
