"""The direction of descent at a kink: minus the shortest element of a hull of gradients."""

from collections.abc import Callable

import numpy as np

from ..calculus.sets.hull import nearest_point

_ROUNDS = 12
_KEPT = 8  # gradients
_NEAREST = 1e-4  # in log θ
_PROMISE = 1e-6  # of the value, below which a step is not worth an evaluation
_SUFFICIENT = 1e-4  # of the decrease that the slope promises

Evaluate = Callable[[np.ndarray], tuple[float, np.ndarray]]


def shortest(gradients: np.ndarray) -> np.ndarray:
    """argmin ‖g‖ over the convex hull of the rows of ``gradients`` (m, d).

    Source: Wolfe (1976), by ``nearest_point``.

    >>> import numpy as np
    >>> shortest(np.array([[2.0, 1.0], [-2.0, 1.0]])).round(9).tolist()
    [0.0, 1.0]
    """

    def support(c: np.ndarray) -> tuple[float, np.ndarray]:
        along = gradients @ c
        least = int(np.argmin(along))
        return float(along[least]), gradients[least]

    return nearest_point(support, np.zeros(gradients.shape[1]), gradients[0]).point


def leave_kink(
    evaluate: Evaluate,
    x: np.ndarray,
    value: float,
    gradient: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    budget: int,
    reach: float = 0.1,
) -> None:
    """Descend from x, where a smooth method got stuck, by the shortest of the gradients nearby.

    A step that does not descend enough lies beyond a kink: its gradient, an element of the set to within
    the step, joins the hull, and the direction is sought anew (a null step). ``evaluate`` remembers the best
    point. Where the hull holds 0 only gradients from closer by count. Ends after ``budget`` evaluations.

    Source: Lemaréchal (1975); Mifflin (1977), the line search of bundle methods.
    """
    seen, start = [(x, gradient)], float(np.linalg.norm(gradient))
    left = min(budget, _ROUNDS)
    while left > 0 and start > 0 and reach > _NEAREST:
        seen = [(at, g) for at, g in seen if np.linalg.norm(at - x) <= 2 * reach][-_KEPT:]
        pull = shortest(np.array([g for _, g in seen]))
        # what a bound stops is no descent
        pull = np.where((x <= low) & (pull > 0) | (x >= high) & (pull < 0), 0.0, pull)
        norm = float(np.linalg.norm(pull))
        if reach * norm <= _PROMISE * abs(value):
            return
        if norm <= 1e-3 * start:  # nothing descends as seen from this far: look closer
            reach /= 2
            continue
        there = np.clip(x - reach * pull / norm, low, high)
        new, slope = evaluate(there)
        left -= 1
        if new <= value - _SUFFICIENT * reach * norm:
            x, value, reach = there, new, 2 * reach
        elif slope @ pull > 0.5 * norm**2:  # no kink between: the step was only too long
            reach /= 2
            continue
        seen.append((there, slope))
