"""Steepest descent by the shortest element of the conservative gradient of near kinks."""

import jax.numpy as jnp
import numpy as np

from ..calculus import conservative_jacobian
from ..errors import ConservaxError
from ..solution import Status
from .oracle import Oracle
from .run import Outcome, Settings, start_at

_ARMIJO, _SHRINK, _FIRST = 0.1, 0.1, 1e-1


def min_norm(oracle: Oracle, x: np.ndarray, settings: Settings) -> Outcome:
    """d = −g with g the shortest element of the hull of D_r f(x): kinks with |z| ≤ r max(1, ‖x‖_∞) count.

    No gradient is sampled: the program itself says which pieces meet nearby. A backtracking line
    search asks for f(x) − c t ‖g‖². Where ‖g‖ falls below its target, or no step decreases f, r shrinks; it
    stops at the smallest r, √eps. Where the hull holds artefacts, 0 may be among them: the search for a
    certificate, which sees gradients alone, goes on from there.

    Source: Bertsekas, Mitter, A descent numerical method for optimization problems with
    nondifferentiable cost functionals (SIAM J. Control 1973), with docs/theory.md#the-shortest-element.
    """
    x, f, g = start_at(oracle, x, settings.rng)
    least = float(jnp.finfo(oracle.dtype).eps) ** 0.5
    r, target, t = _FIRST, max(0.1 * float(np.linalg.norm(g)), settings.tol), 1.0
    k, status = 0, Status.MAX_ITERATIONS
    while oracle.left > 0:
        k += 1
        scale = max(1.0, float(np.max(np.abs(x))))
        try:
            jacobian = conservative_jacobian(oracle.fun, atol=r * scale, rtol=0.0)(
                oracle.unravel(jnp.asarray(x, oracle.dtype)), *oracle.args
            )
            direction = jacobian.min_norm()
        except (
            ConservaxError
        ):  # too many nested kinks, branches that differ at a distance: fewer of them
            direction = g if r <= least else None
        if direction is not None:
            norm = float(np.linalg.norm(direction))
            if norm > target:
                found = _backtrack(oracle, x, f, direction, norm, t)
                if found is not None:
                    step, f_new, g = found
                    x, f = x - step * direction, f_new
                    t = min(2 * step, 1e6)
                    continue
            elif norm <= settings.tol and r <= least:
                status = Status.SOLVED
                break
        if r <= least and target <= settings.tol:
            status = Status.STALLED
            break
        r, target, t = max(_SHRINK * r, least), max(_SHRINK * target, settings.tol), 1.0
    return Outcome(x, f, status, k)


def _backtrack(
    oracle: Oracle, x: np.ndarray, f: float, d: np.ndarray, norm: float, t: float
) -> tuple[float, float, np.ndarray] | None:
    """The first t, t/2, … with f(x − t d) ≤ f − c t ‖d‖², and f and the gradient there."""
    while oracle.left > 0 and t * norm > 1e-14 * (1 + float(np.linalg.norm(x))):
        f_t, g_t = oracle(x - t * d)
        if f_t <= f - _ARMIJO * t * norm**2:
            return t, f_t, g_t
        t *= 0.5
    return None
