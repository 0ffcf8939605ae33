"""min_x ½xᵀHx − cᵀx + Σ λ_j |x_j|, solved exactly by active sets on a small dense H."""

import numpy as np

_PIVOTS = 20


def cholesky(H: np.ndarray) -> tuple[np.ndarray, bool] | None:
    """The factor of H as SciPy's ``cho_solve`` takes it, or None where H is singular to rounding."""
    from scipy.linalg import cho_factor

    try:
        factor = cho_factor(H, lower=True, check_finite=False)
    except np.linalg.LinAlgError:
        return None
    # 1 − R² of each column on those before it: the units of the columns do not matter
    shares = np.diagonal(factor[0]) ** 2 / np.diagonal(H)
    return factor if shares.min(initial=np.inf) > 4 * len(H) * np.finfo(float).eps else None


def solve_positive(H: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, bool]:
    """H⁻¹ right by Cholesky; where H is singular to rounding, of H + a little I, and False."""
    from scipy.linalg import cho_factor, cho_solve

    if not len(H):
        return right, True
    if (factor := cholesky(H)) is not None:
        return cho_solve(factor, right, check_finite=False), True
    largest = float(np.diagonal(H).max())
    try:
        shift = 1e-10 * max(largest, np.finfo(float).tiny)
        factor = cho_factor(H + shift * np.eye(len(H)), lower=True, check_finite=False)
    except np.linalg.LinAlgError:
        return np.linalg.lstsq(H, right, rcond=None)[0], False
    return cho_solve(factor, right, check_finite=False), False


def solve_part(H: np.ndarray, right: np.ndarray) -> np.ndarray:
    """x with H x = right, a right in the range of a singular H ≽ 0: zero but on an independent part."""
    from scipy.linalg import cho_solve, get_lapack_funcs

    units = np.sqrt(np.diagonal(H))
    units = np.where(units > 0, units, 1.0)
    (pstrf,) = get_lapack_funcs(("pstrf",), (H,))
    tol = 4 * len(H) * np.finfo(float).eps
    factor, order, rank, _ = pstrf(H / np.outer(units, units), lower=1, tol=tol)
    at = order[:rank] - 1
    x = np.zeros(len(right))
    x[at] = cho_solve((factor[:rank, :rank], True), (right / units)[at], check_finite=False)
    return x / units


def _singular_step(
    H: np.ndarray, gradient: np.ndarray, noise: np.ndarray, x: np.ndarray, free: np.ndarray
) -> np.ndarray:
    """From x, for H singular: to where the last coefficient crosses zero along a null direction that descends.

    Where none does, the shortest Newton step. Lengths are measured in units of the columns.
    """
    units = np.sqrt(np.diagonal(H))
    units = np.where(units > 0, units, 1.0)
    values, vectors = np.linalg.eigh(H / np.outer(units, units))
    null = values <= max(16 * len(H) * np.finfo(float).eps, values[0])
    slope = gradient / units
    inside = -vectors[:, null] @ (vectors[:, null].T @ slope)
    inside[np.abs(inside) <= 1e-12 * np.abs(inside).max(initial=0.0)] = 0.0
    if -(inside @ slope) > 2 * np.abs(inside) @ (noise / units):
        step = inside / units
        crossing = np.divide(-x, step, out=np.full(len(x), -1.0), where=(step != 0) & ~free)
        if crossing.max() > 0:
            return crossing.max() * step
    rest = vectors[:, ~null]
    return -rest @ (rest.T @ slope / values[~null]) / units


def inverse_positive(H: np.ndarray) -> np.ndarray:
    """H⁻¹ by Cholesky; where H is singular to rounding, of H + a little I."""
    from scipy.linalg import get_lapack_funcs

    if not len(H) or (factor := cholesky(H)) is None:
        return solve_positive(H, np.eye(len(H)))[0]
    (potri,) = get_lapack_funcs(("potri",), (H,))
    half = np.tril(potri(factor[0], lower=1)[0])
    return half + np.tril(half, -1).T


def l1_quadratic(
    H: np.ndarray, c: np.ndarray, weights: np.ndarray, x: np.ndarray, tol: float
) -> np.ndarray:
    """min ½xᵀHx − cᵀx + Σ λ_j |x_j| for H ≽ 0 (r, r), λ = ``weights`` ≥ 0, from ``x``.

    Each round solves on the active set with its signs, goes to the best point on the way there, where
    coefficients that reach zero drop out, and then lets in those that violate optimality by more than
    ``tol``, many at once. The objective falls in every round, so that it ends.

    Source: the feature-sign search of Lee, Battle, Raina, Ng (NeurIPS 2006), in blocks.

    >>> l1_quadratic(np.eye(2), np.array([3.0, 0.5]), np.ones(2), np.zeros(2), 1e-12).tolist()
    [2.0, 0.0]
    """
    free = weights == 0
    x = np.array(x, dtype=float)
    active = (x != 0) | free
    signs = np.where(free, 0.0, np.sign(x))
    left = _PIVOTS * (len(c) + 5)  # solves, in all
    while left > 0:
        left -= _settle(H, c, weights, x, active, signs, free, left)
        gradient = H @ x - c
        excess = np.where(active, -np.inf, np.abs(gradient) - weights)
        if excess.max(initial=-np.inf) <= tol:
            break
        joining = np.flatnonzero(excess > tol)
        most = max(1, (len(joining) + 1) // 2)
        joining = joining[np.argsort(-excess[joining], kind="stable")[:most]]
        active[joining] = True
        signs[joining] = -np.sign(gradient[joining])
    return x


def _settle(
    H: np.ndarray,
    c: np.ndarray,
    weights: np.ndarray,
    x: np.ndarray,
    active: np.ndarray,
    signs: np.ndarray,
    free: np.ndarray,
    most: int,
) -> int:
    """Minimise over the coefficients in ``active``, in place; those that end at zero leave it.

    Returns the number of solves, ``most`` at most.
    """
    from scipy.linalg import cho_solve

    again = 3  # times, where H is singular and a solve reaches the minimum up to a little
    for done in range(1, most + 1):
        at = np.flatnonzero(active)
        sub = H[np.ix_(at, at)]
        right = c[at] - weights[at] * signs[at]
        factor = cholesky(sub) if len(at) else None
        regular = factor is not None or not len(at)
        if factor is not None:
            step = cho_solve(factor, right, check_finite=False) - x[at]
        elif len(at):
            noise = np.abs(sub) @ np.abs(x[at]) + np.abs(c[at]) + weights[at]
            noise *= 8 * np.finfo(float).eps
            step = _singular_step(sub, sub @ x[at] - right, noise, x[at], free[at])
        else:
            step = right
        # of those that just came in, some may want to the other side once the rest has moved
        astray = (x[at] == 0) & ~free[at] & (step * signs[at] <= 0)
        if astray.any():
            active[at[astray]] = False
            continue
        t, dropped = _best_on_the_way(sub, c[at], weights[at], x[at], step, signs[at])
        x[at] += t * step
        x[at[dropped]] = 0.0
        active[at[dropped]] = False
        moved = at[~dropped]
        crossed = np.sign(x[moved]) * signs[moved] < 0
        signs[moved] = np.where(free[moved], 0.0, np.sign(x[moved]))
        if t == 1.0 and not dropped.any() and not crossed.any():
            again -= 1
            if regular or not again:
                return done
        if t == 0.0 and not dropped.any():
            return done
    return most


def _best_on_the_way(
    H: np.ndarray,
    c: np.ndarray,
    weights: np.ndarray,
    x: np.ndarray,
    step: np.ndarray,
    signs: np.ndarray,
) -> tuple[float, np.ndarray]:
    """The t in [0, 1] that minimises the objective at x + t step, and which entries are zero there."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        crossing = np.where((x != 0) & (weights > 0), -x / step, np.inf)
    crossing[~((crossing > 0) & (crossing <= 1))] = np.inf
    nothing = np.zeros(len(x), dtype=bool)
    order = np.argsort(crossing)
    order = order[np.isfinite(crossing[order])]
    if not len(order):
        return 1.0, nothing
    slope = float((H @ x - c) @ step + weights @ (signs * step))
    bend = float(step @ (H @ step))
    for j in order:
        t = crossing[j]
        here = slope + t * bend
        if here >= 0:  # the minimum lies before this crossing
            return float(min(1.0, max(0.0, -slope / bend))), nothing
        slope += 2 * weights[j] * abs(step[j])
        if slope + t * bend >= 0:
            return float(t), crossing == t
    end = -slope / bend if bend > 0 else 1.0
    return float(min(1.0, max(crossing[order[-1]], end))), nothing
