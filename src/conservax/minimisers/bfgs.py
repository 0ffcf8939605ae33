"""BFGS with a weak Wolfe line search: it needs no smoothness, and uses none."""

import numpy as np

from ..errors import UnboundedError
from ..solution import Status
from .oracle import Oracle, unbounded
from .run import Outcome, Settings, start_at

_ARMIJO, _WOLFE = 1e-4, 0.5
_BISECTIONS = 60
_ENDLESS = 1e15  # relative length of a step on which f has fallen at half its first rate or faster
_FLAT = 1e-13  # relative decrease that counts as none


def bfgs(oracle: Oracle, x: np.ndarray, settings: Settings) -> Outcome:
    """d = −H g, t by bisection: f(x + td) ≤ f + c₁ t gᵀd and ∇f(x + td)ᵀd ≥ c₂ gᵀd, c₁ < c₂.

    The inverse Hessian H grows ill-conditioned on purpose: its small eigenvalues span the directions
    across the kink. It stops where no step decreases f, or decreases have ended.

    Source: Lewis, Overton, Nonsmooth optimization via quasi-Newton methods (Math. Program. 2013),
    Algorithms 2.1 and 2.6.
    """
    x, f, g = start_at(oracle, x, settings.rng)
    n = len(x)
    H = np.eye(n)
    fresh, flat, k, status = True, 0, 0, Status.MAX_ITERATIONS
    while oracle.left > 0:
        k += 1
        d = -(H @ g)
        slope = float(g @ d)
        if not np.any(g):
            status = Status.SOLVED
            break
        if not slope < 0 or not np.isfinite(slope):
            if fresh:
                status = Status.STALLED
                break
            H, fresh = np.eye(n), True
            continue
        t = min(1.0, 1.0 / float(np.linalg.norm(d))) if k == 1 else 1.0
        found = weak_wolfe(oracle, x, f, d, slope, t)
        if found is None:
            if fresh:
                status = Status.STALLED if oracle.left > 0 else Status.MAX_ITERATIONS
                break
            H, fresh = np.eye(n), True
            continue
        t, f_new, g_new = found
        s, y = t * d, g_new - g
        flat = flat + 1 if f - f_new <= _FLAT * max(1.0, abs(f)) else 0
        x, f, g = x + s, f_new, g_new
        sy = float(s @ y)
        if sy > 0:
            if fresh:
                H *= sy / float(y @ y)
            Hy = H @ y
            H += np.outer(s, s) * ((1 + float(y @ Hy) / sy) / sy)
            H -= (np.outer(Hy, s) + np.outer(s, Hy)) / sy
            fresh = False
        if flat > 5:
            status = Status.SOLVED
            break
    return Outcome(x, f, status, k)


def weak_wolfe(
    oracle: Oracle, x: np.ndarray, f: float, d: np.ndarray, slope: float, t: float
) -> tuple[float, float, np.ndarray] | None:
    """(t, f, g) of a weak Wolfe step; the last Armijo step where bisection ends; None if there is none.

    Raises UnboundedError where f falls along d without end.
    """
    low, high, held = 0.0, np.inf, None
    for _ in range(_BISECTIONS):
        if oracle.left <= 0:
            break
        f_t, g_t = oracle(x + t * d)
        if not f_t < f + _ARMIJO * t * slope:
            high = t
        elif float(g_t @ d) < _WOLFE * slope:
            low, held = t, (t, f_t, g_t)
        else:
            return t, f_t, g_t
        t = 2 * low if np.isinf(high) else 0.5 * (low + high)
        if high < np.inf and high - low <= 1e-15 * high:
            break
    if held is not None and np.isinf(high):
        length = held[0] * float(np.linalg.norm(d))
        if length > _ENDLESS * (1 + float(np.linalg.norm(x))):
            raise UnboundedError(unbounded(held[1]))
    return held
