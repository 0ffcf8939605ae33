"""The convex hull of a set of Jacobians: support function, entrywise bounds, nearest point.

Kinks that no kink sees, or that see none, enter linearly once the others are decided: the hull is
that of a union over the decisions s of {A_s + H_s D E_s : D free}. Its support function is a minimum
over s of sums that are in closed form, one term a kink. A program whose active kinks are not nested
needs no decision at all, so that thousands of them are no burden.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...errors import NotPolyhedralError, SingularError, TooManyKinksError
from ...numerics import singular_value_floor
from .abs_normal import AbsNormal, Group
from .pivots import SmallPivotError, decide, is_p_matrix

MAX_DECISIONS = 1 << 16
_MAX_NUMBERS = 1 << 27  # 1 GiB of float64
CONDITION_LIMIT = 1e13

Support = Callable[[np.ndarray], tuple[float, np.ndarray]]


@dataclass(frozen=True)
class Hull:
    """conv ⋃_s {A_s + H_s D E_s}: A (S, m, n), H (S, m, k), E (S, k, n), columns grouped by kink.

    ``linear`` are the groups that stay free; their columns follow one another in H and E.
    """

    A: np.ndarray
    H: np.ndarray
    E: np.ndarray
    linear: tuple[Group, ...]

    @classmethod
    def of(cls, form: AbsNormal) -> "Hull":
        """Split the kinks of a form.

        Raises TooManyKinksError beyond 2¹⁶ decisions, NotPolyhedralError where the set is curved (a
        norm at 0 that other kinks meet on both sides, a ``where`` of rank ≥ 2 in an implicit
        function), SingularError where an implicit system is singular at a decision.
        """
        moving = [form.groups[i] for i in form.moving()]
        linear = _free_groups(form, moving)
        chosen = {g.columns for g in linear}
        decided = [g for g in moving if g.columns not in chosen]
        if any(g.kind == "ball" for g in decided):
            raise NotPolyhedralError(
                "a norm at 0 stands between other kinks (or in an implicit function), so that the hull of "
                "the set is no hull of a union of balls. Use .element and .sample."
            )
        if form.order() is None and any(_is_curved(form, g) for g in decided):
            raise NotPolyhedralError(
                "a kink whose branches differ by rank two or more stands in an implicit function: its "
                "elements run along a curve, so that the extreme ones do not span the hull. Use .sample."
            )
        columns = [c for g in linear for c in g.columns]
        m, n = form.A.shape
        count = math.prod(max(2, g.ways) for g in decided)
        size = count * (m * n + len(columns) * (m + n))
        if count > MAX_DECISIONS or size > _MAX_NUMBERS:
            raise TooManyKinksError(
                f"{len(decided)} nested kinks have {count:.3g} extreme selections, more than can be visited. "
                "Use .inner_bounds and .outer_bounds (.inner_support, .outer_support), .sample or .element; or "
                "lower the tolerance if kinks are active that should not be."
            )
        try:
            table = decide(form, decided, columns)
        except SmallPivotError:
            if columns:
                raise SingularError(
                    "the system of the nested kinks is nearly singular at a selection."
                ) from None
            table = solve_vertices(form, decided)
        k = len(columns)
        return cls(table[:, k:, k:], table[:, k:, :k], table[:, :k, k:], tuple(linear))

    def support(self, direction: np.ndarray) -> tuple[float, np.ndarray]:
        """min ⟨C, J⟩ over the hull and an element that attains it, for a direction C (m, n)."""
        by_column = ((np.swapaxes(self.H, 1, 2) @ direction) * self.E).sum(axis=2)
        values = np.tensordot(self.A, direction, axes=2)
        weights = np.zeros_like(by_column)
        for kind, columns in self._columns():
            coefficients = by_column[:, columns]  # (S, groups, columns of a group)
            weights[:, columns] = chosen = _lowest(kind, coefficients)
            values = values + (chosen * coefficients).sum(axis=(1, 2))
        best = int(np.argmin(values))
        element = self.A[best] + (self.H[best] * weights[best]) @ self.E[best]
        return float(values[best]), element

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Entrywise minimum and maximum, each (m, n)."""
        low, high = self.A, self.A
        for kind, columns in self._columns():
            H, E = self.H[:, :, columns], self.E[:, columns]
            if kind == "segment" and columns.shape[1] == 1:
                (up, down), (right, left) = _parts(H[..., 0]), _parts(E[:, :, 0])
                low = low - (up @ left + down @ right)
                high = high + (up @ right + down @ left)
                continue
            for g in range(columns.shape[0]):
                products = np.moveaxis(
                    H[:, :, g, :, None] * E[:, None, g], 2, -1
                )  # (S, m, n, columns)
                low = low + (products * _lowest(kind, products)).sum(axis=-1)
                high = high + (products * _lowest(kind, -products)).sum(axis=-1)
        return low.min(axis=0), high.max(axis=0)

    def _columns(self) -> list[tuple[str, np.ndarray]]:
        """Columns of the linear groups, an array (groups, columns) for each kind and width."""
        sorted_groups: dict[tuple[str, int], list[np.ndarray]] = {}
        at = 0
        for g in self.linear:
            width = len(g.columns)
            sorted_groups.setdefault((g.kind, width), []).append(np.arange(at, at + width))
            at += width
        return [(kind, np.array(columns)) for (kind, _), columns in sorted_groups.items()]


def solve_vertices(form: AbsNormal, decided: list[Group]) -> np.ndarray:
    """The vertices by batched solves, in the order of ``decide``; SingularError where there is none."""
    diagonals = np.zeros((1, form.L.shape[0]))
    for g in decided:
        block = np.array([[w[p] for p in g.places] for w in g.vertices()])
        diagonals = np.repeat(diagonals, len(block), axis=0)
        diagonals[:, list(g.columns)] = np.tile(block, (len(diagonals) // len(block), 1))
    return elements(form, diagonals)


def elements(form: AbsNormal, diagonals: np.ndarray) -> np.ndarray:
    """Elements at diagonals (V, k); SingularError where an implicit function's system is singular."""
    if form.order() is None:
        systems = np.eye(form.L.shape[0]) - diagonals[:, :, None] * form.L
        conditions = np.linalg.cond(systems)
        if not np.all(conditions < CONDITION_LIMIT):
            worst = diagonals[int(np.argmax(np.nan_to_num(conditions, nan=np.inf)))]
            raise SingularError(
                f"the implicit system is singular at the selection D = diag({np.round(worst, 6).tolist()}), "
                f"so the set is unbounded. Kinks: {'; '.join(map(str, form.kinks))}. "
                "Run cx.check for the witness."
            )
    return form.jacobian(diagonals)


def spans_clarke_jacobian(form: AbsNormal) -> bool:
    """Whether the hull is known to be the Clarke Jacobian (docs/theory.md#exactness).

    Then every pattern of signs is met nearby.
    """
    if form.given_rules:  # a user's rule may be no derivative at all
        return False
    moving = [form.groups[i] for i in form.moving()]
    if not moving:
        return True
    if any(
        g.on_switch or g.switch is not None or (g.kind == "segment" and len(g.columns) > 1)
        for g in moving
    ):
        return False
    columns = [c for g in moving for c in g.columns]
    E = form.E[columns]
    if len(columns) > E.shape[1]:
        return False
    lengths = np.linalg.norm(E, axis=1, keepdims=True)
    if np.any(lengths == 0):
        return False
    E = E / lengths
    if np.linalg.svd(E, compute_uv=False)[-1] <= singular_value_floor(E, form.dtype):
        return False
    if form.order() is None:
        scalar = all(g.kind == "segment" for g in moving)
        N = np.eye(len(columns)) - form.L[np.ix_(columns, columns)]
        return scalar and is_p_matrix(N) is True
    return True


def _lowest(kind: str, coefficients: np.ndarray) -> np.ndarray:
    """Weights, a column each, that minimise Σ weights · coefficients over the last axis."""
    if kind == "segment":
        taken = coefficients.sum(axis=-1, keepdims=True) < 0
        return np.broadcast_to(taken, coefficients.shape).astype(float)
    if kind == "simplex":
        first = np.argmin(coefficients, axis=-1)[..., None]
        taken = (np.arange(coefficients.shape[-1]) == first) & (coefficients < 0)
        return taken.astype(float)
    length = np.linalg.norm(coefficients, axis=-1, keepdims=True)
    return -coefficients / np.where(length == 0, 1.0, length)


def _parts(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.maximum(a, 0.0), np.maximum(-a, 0.0)


def _free_groups(form: AbsNormal, moving: list[Group]) -> list[Group]:
    """Groups that no moving group sees, or that see none: the more telling of the two lists."""
    columns = [c for g in moving for c in g.columns]
    L = np.zeros_like(form.L)
    L[np.ix_(columns, columns)] = form.L[np.ix_(columns, columns)]
    unseen = [g for g in moving if not np.any(L[:, list(g.columns)])]
    unseeing = [g for g in moving if not np.any(L[list(g.columns)])]

    def worth(groups: list[Group]) -> tuple[int, float]:
        balls = sum(g.kind == "ball" for g in groups)
        return balls, sum(math.log(max(2, g.ways)) for g in groups)

    return max(unseen, unseeing, key=worth)


def _is_curved(form: AbsNormal, group: Group) -> bool:
    columns = list(group.columns)
    if len(columns) == 1:
        return False
    seen_by = np.concatenate([form.L[:, columns], form.H[:, columns]])
    sees = np.concatenate([form.L[columns], form.E[columns]], axis=1)
    return all(np.linalg.matrix_rank(M, rtol=1e-9) > 1 for M in (seen_by, sees))


@dataclass(frozen=True)
class Nearest:
    """The nearest point of a hull to a target: the point and bounds of its distance."""

    point: np.ndarray
    lower: float
    upper: float


def nearest_point(
    support: Support, target: np.ndarray, start: np.ndarray, *, max_steps: int = 10_000
) -> Nearest:
    """min ‖P − X‖ over a convex hull that is known by its support function.

    Wolfe's algorithm: keep an affinely independent set of extreme points with the nearest point of
    their hull inside; add the extreme point that lies furthest towards X. It is finite on polytopes.
    With s the extreme point, ⟨x, s⟩/‖x‖ bounds the distance from below.

    Args:
        support: C ↦ (min ⟨C, P⟩, a P that attains it).
        target: X; start: any point of the hull. Same shape.

    Returns:
        A Nearest; upper − lower is the gap that round-off (or ``max_steps``) left.

    Source: Wolfe, Finding the nearest point in a polytope (Math. Programming 1976);
    docs/theory.md#the-shortest-element.
    """
    points = (start - target).ravel()[None]
    weights = np.ones(1)
    x = points[0]
    lower, scale = 0.0, float(np.linalg.norm(x))
    for _ in range(max_steps):
        length = float(np.linalg.norm(x))
        if length <= 1e-15 * scale:
            break
        _, element = support(x.reshape(target.shape) / length)
        s = (element - target).ravel()
        scale = max(scale, float(np.linalg.norm(s)))
        lower = max(lower, float(x @ s) / length)
        if length - lower <= 1e-14 * scale or np.any(np.all(points == s, axis=1)):
            break
        before = points, weights
        points, weights = np.concatenate([points, s[None]]), np.append(weights, 0.0)
        while True:
            affine = _affine_minimiser(points)
            if np.all(affine > 1e-14):
                weights = affine
                break
            falling = affine <= 1e-14
            steps = weights[falling] / np.maximum(weights[falling] - affine[falling], 1e-300)
            step = min(1.0, float(steps.min(initial=1.0)))
            weights = (1 - step) * weights + step * affine
            keep = weights > 1e-14
            if np.all(keep):  # round-off: drop the one that should have fallen to zero
                keep[int(np.argmin(np.where(falling, weights, np.inf)))] = False
            points, weights = points[keep], weights[keep] / weights[keep].sum()
        moved = _across(points, weights @ points)
        if np.linalg.norm(moved) >= length:  # no progress beyond round-off
            points, weights = before
            break
        x = moved
    upper = float(np.linalg.norm(x))
    if upper - lower > 1e-12 * scale:
        lower = max(lower, _bound_across(support, points, x, target, scale))
    return Nearest(x.reshape(target.shape) + target, min(max(lower, 0.0), upper), upper)


def _bound_across(
    support: Support, points: np.ndarray, x: np.ndarray, target: np.ndarray, scale: float
) -> float:
    """min ⟨y, P − X⟩/‖y‖ over the hull, for the y nearest to x across the extreme points that x nearly ties.

    Beside a point that is nearly in the hull, round-off turns x by more than its distance allows.
    """
    best, y = 0.0, x
    while len(points) <= x.size and (length := float(np.linalg.norm(y))) > 1e-15 * scale:
        s = (support(y.reshape(target.shape) / length)[1] - target).ravel()
        best = max(best, float(y @ s) / length)
        if np.any(np.all(points == s, axis=1)):
            break
        points = np.concatenate([points, s[None]])
        y = _across(points, x)
    return best


def _across(points: np.ndarray, x: np.ndarray) -> np.ndarray:
    """x without its components along the affine hull of the points: of its nearest point they are round-off.

    Beside a point that is nearly in the hull that round-off would turn the direction.
    """
    if len(points) == 1 or len(points) > points.shape[1]:
        return x
    basis = np.linalg.qr((points[1:] - points[0]).T)[0]
    for _ in range(2):
        x = x - basis @ (basis.T @ x)
    return x


def _affine_minimiser(points: np.ndarray) -> np.ndarray:
    """Weights, of sum 1 and any sign, of the shortest affine combination of points."""
    if len(points) == 1:
        return np.ones(1)
    edges = points[1:] - points[0]
    step = np.linalg.lstsq(edges.T, -points[0], rcond=1e-13)[0]
    return np.concatenate([[1.0 - step.sum()], step])
