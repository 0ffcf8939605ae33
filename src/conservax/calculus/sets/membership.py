"""Is a matrix an element of the set, or of its convex hull; and how far from the hull is it."""

import contextlib
from collections.abc import Sequence

import numpy as np
import scipy

from ...errors import NotPolyhedralError, SingularError, TooManyKinksError
from .abs_normal import AbsNormal, Group
from .hull import Hull, Nearest, nearest_point
from .inner_bounds import searched_support
from .outer_bounds import outer_support

_STARTS = 32


def nearest_in_hull(form: AbsNormal, target: np.ndarray) -> Nearest:
    """The nearest point of the hull to ``target``, exact where the hull's support function is.

    Beyond 2¹⁶ nested selections the support function is searched kink by kink: ``upper`` then is the
    distance to a point that the hull does hold, and ``lower`` follows from a bound from outside.
    """
    try:
        hull = Hull.of(form)
    except TooManyKinksError:
        return _bracketed(form, target)
    if len(hull.A) == 1 and len(hull.linear) == 1 and hull.linear[0].kind != "simplex":
        return _nearest_of_one(hull, target)
    direction = hull.A[0] - target
    return nearest_point(hull.support, target, hull.support(direction)[1])


def _nearest_of_one(hull: Hull, target: np.ndarray) -> Nearest:
    """The nearest point of {A + q Σ M_j : 0 ≤ q ≤ 1} or {A + Σ w_j M_j : ‖w‖ ≤ 1}, M_j = H_j E_j.

    In closed form: with M = U S Vᵀ the ball's w is V S Uᵀ y / (S² + λ), λ ≥ 0 such that ‖w‖ ≤ 1
    (docs/theory.md#the-shortest-element).
    """
    A, moves = hull.A[0], np.einsum("mk,kn->kmn", hull.H[0], hull.E[0])
    gap = (target - A).ravel()
    if hull.linear[0].kind == "segment":
        move = moves.sum(axis=0).ravel()
        square = float(move @ move)
        step = min(1.0, max(0.0, float(move @ gap) / square if square else 0.0)) * move
    else:
        U, S, Vt = np.linalg.svd(moves.reshape(len(moves), gap.size).T, full_matrices=False)
        kept = S > 1e-14 * S.max(initial=0.0)
        U, S, Vt = U[:, kept], S[kept], Vt[kept]
        along = U.T @ gap

        def excess(shift: float) -> float:
            return float(np.linalg.norm(S * along / (S**2 + shift))) - 1.0

        shift = 0.0
        if excess(0.0) > 0:  # the norm falls below 1 at ‖S Uᵀ y‖
            most = float(np.linalg.norm(S * along))
            shift = scipy.optimize.brentq(excess, 0.0, most, xtol=1e-300, rtol=1e-15)
        step = U @ (S**2 * along / (S**2 + shift))
    distance = float(np.linalg.norm(gap - step))
    return Nearest(A + step.reshape(A.shape), distance, distance)


def _bracketed(form: AbsNormal, target: np.ndarray) -> Nearest:
    start = form.jacobian(form.diagonal(np.array([w for g in form.groups for w in g.named("jax")])))
    found = nearest_point(searched_support(form), target, start, max_steps=200)
    lower = 0.0
    if found.upper > 0:
        inward = (target - found.point) / found.upper
        with contextlib.suppress(TooManyKinksError):
            lower = max(0.0, float(np.sum(inward * target)) - outer_support(form, inward))
    return Nearest(found.point, min(lower, found.upper), found.upper)


def has_exact_element(form: AbsNormal, target: np.ndarray, tolerance: float) -> bool:
    """Whether some selection's element lies within ``tolerance`` (Frobenius) of ``target``.

    True is certain: a selection was found whose element is that near. False is certain up to
    round-off if no kink sees another (the set is convex), if H has full column rank or E full row
    rank (the selection is determined), and where the hull excludes the target; otherwise it means
    that a search from 32 starts found none.
    """
    moving = [form.groups[i] for i in form.moving()]
    if _excluded_by(form, target) > tolerance:
        return False
    columns = [c for g in moving for c in g.columns]
    if not np.any(form.L[np.ix_(columns, columns)]):
        return nearest_in_hull(form, target).upper <= tolerance
    candidate = _determined(form, target, moving, columns)
    if candidate is not None:
        return _polished(form, target, moving, candidate, tolerance)
    rng = np.random.default_rng(0)
    starts = [np.concatenate([_centre(g) for g in moving])]
    starts += [np.concatenate([g.draw(rng, 1)[0] for g in moving]) for _ in range(_STARTS - 1)]
    return any(_polished(form, target, moving, start, tolerance) for start in starts)


def _excluded_by(form: AbsNormal, target: np.ndarray) -> float:
    """A lower bound of the distance to the hull; 0 where the hull has no support function."""
    try:
        return nearest_in_hull(form, target).lower
    except (NotPolyhedralError, SingularError):
        return 0.0


def _determined(
    form: AbsNormal, target: np.ndarray, groups: Sequence[Group], columns: Sequence[int]
) -> np.ndarray | None:
    """The only weights that can give the target, where they follow from it; else None.

    X = A + H r with r = D (E + L r): H of full column rank determines r, and each kink's weight is a
    ratio of its rows. By transposition X = A + s E with s = (H + s L) D, for E of full row rank.
    """
    at = list(columns)
    H, E, L = form.H[:, at], form.E[at], form.L[np.ix_(at, at)]
    gap = target - form.A
    if np.linalg.matrix_rank(H, rtol=1e-8) == len(at):
        passed = np.linalg.lstsq(H, gap, rcond=None)[0]
        arriving = E + L @ passed
    elif np.linalg.matrix_rank(E, rtol=1e-8) == len(at):
        passed = np.linalg.lstsq(E.T, gap.T, rcond=None)[0]
        arriving = (H + passed.T @ L).T
    else:
        return None
    weights: list[np.ndarray] = []
    start = 0
    for g in groups:
        rows = slice(start, start + len(g.columns))
        start += len(g.columns)
        if g.kind == "segment":
            weights.append(np.array([_ratio(passed[rows].ravel(), arriving[rows].ravel())]))
        else:
            ratios = [_ratio(p, z) for p, z in zip(passed[rows], arriving[rows], strict=True)]
            weights.append(np.array(ratios))
    return np.concatenate(
        [
            w if g.kind != "simplex" else _with_leader(g, w)
            for g, w in zip(groups, weights, strict=True)
        ]
    )


def _ratio(passed: np.ndarray, arriving: np.ndarray) -> float:
    size = arriving @ arriving
    return float(passed @ arriving / size) if size > 0 else 0.0


def _with_leader(group: Group, by_column: np.ndarray) -> np.ndarray:
    weights = np.zeros(group.ways)
    weights[list(group.places)] = by_column
    weights[group.leader] = 1.0 - by_column.sum()
    return weights


def _centre(group: Group) -> np.ndarray:
    if group.kind == "ball":
        return np.zeros(group.ways)
    return np.full(group.ways, 0.5 if group.kind == "segment" else 1.0 / group.ways)


def _admissible(group: Group, u: np.ndarray) -> np.ndarray:
    """Weights from free parameters, one a weight; weights that are admissible already stay as they are."""
    if group.kind == "segment":
        return np.clip(u, 0.0, 1.0)
    if group.kind == "ball":
        return u / max(1.0, float(np.linalg.norm(u)))
    # projection on the simplex (Held, Wolfe, Crowder 1974)
    falling = np.sort(u)[::-1]
    excess = (np.cumsum(falling) - 1.0) / np.arange(1, u.size + 1)
    level = excess[int(np.flatnonzero(falling > excess)[-1])]
    return np.maximum(u - level, 0.0)


def _polished(
    form: AbsNormal,
    target: np.ndarray,
    groups: Sequence[Group],
    start: np.ndarray,
    tolerance: float,
) -> bool:
    """Whether weights near ``start`` have an element within the tolerance of the target."""
    ends = np.cumsum([g.ways for g in groups])[:-1]

    def residual(u: np.ndarray) -> np.ndarray:
        diagonal = np.zeros(form.L.shape[0])
        for g, part in zip(groups, np.split(u, ends), strict=True):
            diagonal[list(g.columns)] = _admissible(g, part)[list(g.places)]
        try:
            gap = (form.jacobian(diagonal) - target).ravel()
        except np.linalg.LinAlgError:
            gap = np.full(target.size, np.inf)
        # leaving the admissible weights costs, so that the projection has no flat directions
        outside = np.concatenate(
            [p - _admissible(g, p) for g, p in zip(groups, np.split(u, ends), strict=True)]
        )
        return np.concatenate([np.nan_to_num(gap, posinf=1e150, neginf=-1e150), outside])

    def distance(u: np.ndarray) -> float:
        return float(np.linalg.norm(residual(u)[: target.size]))

    if distance(start) <= tolerance:
        return True
    try:
        found = scipy.optimize.least_squares(
            residual, start, xtol=1e-15, ftol=1e-15, gtol=1e-15, max_nfev=200
        ).x
    except ValueError:
        return False
    return distance(found) <= tolerance
