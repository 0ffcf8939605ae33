"""Convex quadratic programs on the simplex: shortest combinations of gradients, bundle directions."""

import numpy as np

_RIDGE = 1e-14  # relative: makes dependent gradients a strictly convex program


def on_simplex(gram: np.ndarray, linear: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
    """argmin ½ λᵀQλ + eᵀλ over λ ≥ 0, Σλ = 1, for Q (k, k) positive semidefinite and e (k,).

    A primal active-set method: solve on the support, step to the first weight that vanishes, let in
    the weight whose reduced cost is lowest. A good ``start`` costs few changes of the support.

    Source: Kiwiel, A method for solving certain quadratic programming problems arising in
    nonsmooth optimization (IMA J. Numer. Anal. 1986); Wolfe (1976) for e = 0.
    """
    k = len(linear)
    gram, linear = np.asarray(gram, np.float64), np.asarray(linear, np.float64)
    ridge = _RIDGE * max(float(np.max(np.diag(gram))), 1e-300)
    if start is not None and np.sum(start) > 0:
        weights = np.maximum(start, 0.0)
        weights = weights / np.sum(weights)
    else:
        weights = np.zeros(k)
        weights[int(np.argmin(0.5 * np.diag(gram) + linear))] = 1.0
    inside = weights > 0
    best, best_value, stuck = weights, np.inf, 0
    for _ in range(3 * k + 50):
        weights, inside = _solve_on_support(gram, linear, weights, inside, ridge)
        slope = gram @ weights + linear
        level = float(slope @ weights)
        value = 0.5 * float(weights @ (slope + linear))
        stuck = stuck + 1 if value >= best_value else 0  # round-off: no progress is left
        if value < best_value:
            best, best_value = weights, value
        reduced = np.where(inside, np.inf, slope - level)
        enter = int(np.argmin(reduced))
        size = abs(level) + float(np.max(np.abs(slope))) + 1e-300
        if not reduced[enter] < -1e-12 * size or stuck > 2:
            break
        inside = inside.copy()
        inside[enter] = True
    return best


def shortest(gradients: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
    """Weights λ of the shortest Σ λ_i g_i, for gradients (k, n)."""
    scale = max(float(np.max(np.abs(gradients))), 1e-300)
    scaled = gradients / scale
    return on_simplex(scaled @ scaled.T, np.zeros(len(gradients)), start)


def _solve_on_support(
    gram: np.ndarray, linear: np.ndarray, weights: np.ndarray, inside: np.ndarray, ridge: float
) -> tuple[np.ndarray, np.ndarray]:
    """The minimiser over the affine hull of the support, shrinking the support until it is feasible."""
    while True:
        support = np.flatnonzero(inside)
        block = gram[np.ix_(support, support)].copy()
        block[np.diag_indices_from(block)] += ridge
        candidate = _affine(block, linear[support])
        if np.all(candidate > 0):
            full = np.zeros_like(weights)
            full[support] = candidate / np.sum(candidate)
            return full, inside
        current = weights[support]
        falling = candidate <= 0
        steps = current[falling] / np.maximum(current[falling] - candidate[falling], 1e-300)
        step = min(1.0, float(np.min(steps)))
        moved = (1 - step) * current + step * candidate
        out = falling & (current <= step * (current - candidate) * (1 + 1e-12))
        if not np.any(out):
            out[int(np.argmin(np.where(falling, moved, np.inf)))] = True
        moved[out] = 0.0
        moved = np.maximum(moved, 0.0)
        weights = np.zeros_like(weights)
        if np.sum(moved) <= 0:  # all left: restart from the best single one
            keep = support[int(np.argmin(0.5 * np.diag(gram)[support] + linear[support]))]
            weights[keep] = 1.0
            inside = np.zeros_like(inside)
            inside[keep] = True
            return weights, inside
        weights[support] = moved / np.sum(moved)
        inside = np.zeros_like(inside)
        inside[support[~out]] = True


def _affine(block: np.ndarray, linear: np.ndarray) -> np.ndarray:
    """argmin ½ λᵀQλ + eᵀλ over Σλ = 1, any sign: from the centre along Σ = 0, where nothing cancels."""
    k = len(linear)
    centre, size = np.full(k, 1.0 / k), float(np.max(np.diag(block)))
    along = block - block.mean(axis=0) - block.mean(axis=1)[:, None] + block.mean()
    slope = block @ centre + linear
    right = slope.mean() - slope
    try:
        step = np.linalg.solve(along + size / k, right)
    except np.linalg.LinAlgError:
        step = np.linalg.lstsq(along + size / k, right, rcond=1e-14)[0]
    return centre + step - step.mean() if np.all(np.isfinite(step)) else centre
