"""A proximal bundle method with adaptive weight."""

import numpy as np

from ..numerics import machine_epsilon
from ..solution import Status
from .oracle import Oracle
from .run import Outcome, Settings, start_at
from .simplex import on_simplex

_SERIOUS, _GOOD = 0.1, 0.5
_LOCALITY = 0.1  # weight of ‖x − y‖² in the locality measure, where f is not convex


def bundle(oracle: Oracle, x: np.ndarray, settings: Settings) -> Outcome:
    """y = argmin max_j (f(x) − α_j + g_jᵀ(y − x)) + ‖y − x‖²/2t; x moves where f falls as promised.

    α_j is the linearisation error f(x) − f(y_j) − g_jᵀ(x − y_j), or a multiple of ‖x − y_j‖² where
    that is larger or the error negative, so that f need not be convex. With the weights λ of the
    dual program, g = Σλ_j g_j and e = Σλ_j α_j certify f(z) ≥ f(x) + gᵀ(z − x) − e for convex f. It
    stops where ‖g‖ ≤ tol and e ≤ tol · max(1, |f|)/100, and, once a tangent above f has shown that f is not
    convex, all y_j in use are within delta of x; or where the predicted decrease is lost in rounding.

    Source: Kiwiel, Proximity control in bundle methods for convex nondifferentiable minimization
    (Math. Program. 1990); Mäkelä, Neittaanmäki, Nonsmooth Optimization (1992) for nonconvex f.
    """
    x, f, g = start_at(oracle, x, settings.rng)
    n = len(x)
    limit = n + 60
    G, errors, distances = g[None], np.zeros(1), np.zeros(1)
    gram = G @ G.T
    weights = np.ones(1)
    t = 1.0 / max(float(np.linalg.norm(g)), 1e-12)
    t = min(t, 1.0) if np.any(g) else 1.0
    convex, rounding = True, (64 + n) * machine_epsilon(oracle.dtype)
    k, nulls, status = 0, 0, Status.MAX_ITERATIONS
    error = norm = np.nan
    while oracle.left > 0:
        k += 1
        alpha = errors if convex else np.maximum(np.abs(errors), _LOCALITY * distances**2)
        weights = on_simplex(t * gram, alpha, weights)
        slope = weights @ G
        norm, error = float(np.linalg.norm(slope)), float(weights @ alpha)
        predicted = t * norm**2 + error
        if norm <= settings.tol and error <= settings.tol * max(1.0, abs(f)) * 1e-2:
            near = distances <= settings.delta
            if convex or np.all(near[weights > 0]):
                status = Status.SOLVED
                break
            # where f is not convex, tangents from afar bound nothing: look closer
            G, errors, distances = G[near], errors[near], distances[near]
            gram, weights = gram[np.ix_(near, near)], np.ones(len(G))
            t = min(t, 0.5 * settings.delta / max(float(np.max(np.diag(gram))) ** 0.5, 1e-300))
            continue
        if predicted <= 4 * machine_epsilon(oracle.dtype) * max(1.0, abs(f)):
            if t < 1e3 and norm > settings.tol:  # a step too short for floating-point numbers
                t *= 10.0
                continue
            status = Status.SOLVED if norm <= settings.tol else Status.STALLED
            break
        y = x - t * slope
        f_y, g_y = oracle(y)
        fall = f - f_y
        if not np.isfinite(f_y):
            t *= 0.1
            continue
        line = f - f_y - float(g_y @ (x - y))
        terms = abs(f) + abs(f_y) + float(np.abs(g_y) @ (np.abs(x) + np.abs(y)))
        convex = convex and line >= -rounding * (1 + terms)
        serious = fall >= _SERIOUS * predicted
        step = float(np.linalg.norm(y - x))
        keep = _kept((weights > 0) | (distances == 0), limit)
        G, errors, distances = G[keep], errors[keep], distances[keep]
        gram, weights = gram[np.ix_(keep, keep)], weights[keep]
        curve = 2 * (1 - fall / predicted)  # of the parabola through f, its slope and f(y)
        wanted = t / curve if curve > 0.1 else 10 * t
        if serious:
            errors = errors + (f_y - f) - G @ (y - x)
            # a tangent of earlier that f has come to lie below
            terms = abs(f) + abs(f_y) + np.abs(G) @ (np.abs(x) + np.abs(y))
            convex = convex and bool(np.all(errors >= -rounding * (1 + terms)))
            errors = np.maximum(errors, 0.0) if convex else errors
            distances = distances + step
            G, errors, distances = (
                np.vstack([G, g_y]), np.append(errors, 0.0), np.append(distances, 0.0)
            )  # fmt: skip
            if nulls <= 0 and fall >= _GOOD * predicted and float(g_y @ slope) > 0:
                t = min(max(wanted, t), 10 * t)
            elif nulls < -3:
                t = min(2 * t, max(wanted, t))
            nulls = min(nulls - 1, -1)
            x, f = y, f_y
        else:
            own = max(line, 0.0) if convex else line
            G, errors, distances = (
                np.vstack([G, g_y]), np.append(errors, own), np.append(distances, step)
            )  # fmt: skip
            nulls = max(nulls, 0) + 1
            far = max(abs(line), _LOCALITY * step**2 if not convex else 0.0)
            if far > max(norm + error, 10 * predicted) or (nulls > 3 and far > predicted):
                t = max(min(wanted, t), 0.1 * t)
        column = G @ G[-1]
        grown = np.empty((len(G), len(G)))
        grown[:-1, :-1] = gram
        grown[-1, :] = grown[:, -1] = column
        gram = grown
        weights = np.append(weights, 0.0)
    return Outcome(x, f, status, k, error if convex else np.nan, norm)


def _kept(held: np.ndarray, limit: int) -> np.ndarray:
    """Which cuts stay: those in use and that of x, and of the others the youngest."""
    used, idle = np.flatnonzero(held), np.flatnonzero(~held)
    room = max(limit - len(used) - 1, 0)
    return np.sort(np.concatenate([used, idle[len(idle) - min(room, len(idle)) :]]))
