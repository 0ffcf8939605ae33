"""Gradient sampling: the shortest combination of gradients at random points nearby."""

import numpy as np

from ..solution import Status
from .certificate import in_ball
from .oracle import Oracle
from .run import Outcome, Settings, start_at
from .simplex import shortest

_ARMIJO, _SHRINK, _FIRST = 1e-4, 0.1, 0.1


def gradient_sampling(oracle: Oracle, x: np.ndarray, settings: Settings) -> Outcome:
    """d = −g/‖g‖ with g the shortest element of conv{∇f(x), ∇f(x + r u_i)}, u_i uniform in the unit ball.

    n + 1 points a round, evaluated in one batch; a backtracking line search asks for f(x) − c t ‖g‖.
    Where ‖g‖ falls below its target, radius r and target shrink; it stops once ‖g‖ ≤ tol at r ≤ delta.

    Source: Burke, Lewis, Overton, A robust gradient sampling algorithm (SIAM J. Optim. 2005);
    Kiwiel, Convergence of the gradient sampling algorithm (SIAM J. Optim. 2007), Algorithm 2.1.
    """
    x, f, g = start_at(oracle, x, settings.rng)
    n = len(x)
    radius = max(_FIRST * max(1.0, float(np.max(np.abs(x)))), settings.delta)
    target, k, status = max(0.1 * float(np.linalg.norm(g)), settings.tol), 0, Status.MAX_ITERATIONS
    while oracle.left > n + 1:
        k += 1
        _, near = oracle.many(x + radius * in_ball(settings.rng, n + 1, n))
        gradients = np.vstack([g, near])
        direction = shortest(gradients) @ gradients
        norm = float(np.linalg.norm(direction))
        if norm <= target:
            if norm <= settings.tol and radius <= settings.delta:
                status = Status.SOLVED
                break
            radius = max(_SHRINK * radius, 0.5 * settings.delta)
            target = max(_SHRINK * target, settings.tol)
            continue
        t, moved = max(1.0, radius / norm), False
        while oracle.left > 0 and t * norm > 1e-3 * radius:
            y = x - t * direction
            f_y, g_y = oracle(y)
            if f_y <= f - _ARMIJO * t * norm**2:
                x, f, g, moved = y, f_y, g_y, True
                break
            t *= 0.5
        if not moved:
            if radius <= 1e-12 * (1 + float(np.max(np.abs(x)))):
                status = Status.STALLED
                break
            radius *= _SHRINK
    return Outcome(x, f, status, k)
