"""Whether the solution of a cone program is the only one, and along which direction it moves if not.

With a multiplier y all solutions are the points x + a with

    P a = 0,    s − A a ∈ F = {s' ∈ K : yᵀs' = 0},

F a face of K (an optimal x + a has P a = 0 and cᵀa = −yᵀA a = 0). Where s lies in the relative
interior of F only its span counts; elsewhere the directions form a convex cone, met here by linear
programs, cuts, and restriction to the face on which a curved cone lets nothing but its ray pass.
"""

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy

from ...numerics import machine_epsilon
from ...solvers.cones import Cones, Curved, triangle
from ..system.curved_blocks import distance_to_kink, turn

EQUALITY, INEQUALITY = "equality", "inequality"
SECOND_ORDER, SEMIDEFINITE = "second-order cone", "semidefinite cone"
EXPONENTIAL, POWER = "exponential cone", "power cone"  # "dual …" where K* stands for K
_STILL = 1e-6  # a coordinate in [−1, 1] that no direction moves further than this stands still
_FEASIBLE = 1e-9  # violation of a cut that asks for another one
_CUTS, _HALVINGS = 40, 13
_COARSE = 1e-2  # a residual that lets every direction pass


@dataclass(frozen=True)
class Constraint:
    """One cone of the product K, or one row of it: its kind, number within the kind, order, rows.

    ``distance`` of an exponential or power cone: v ↦ that to the nearest kink of the projection;
    ``turn``: v, error, ray ↦ how far its normal, or its ray, turns within that error.
    """

    kind: str
    number: int
    order: int
    rows: slice
    distance: Callable[[np.ndarray], float] | None = None
    turn: Callable[[np.ndarray, float, bool], float] | None = None

    @property
    def curved(self) -> bool:
        return self.order > 1

    def matrix(self, x: np.ndarray) -> np.ndarray:
        """The symmetric matrix of which x is the svec."""
        rows, columns, weights = triangle(self.order)
        X = np.zeros((self.order, self.order))
        X[rows, columns] = X[columns, rows] = x / weights
        return X

    def eigenvalues(self, v: np.ndarray) -> np.ndarray:
        """Of the constraint's own part of v (m,), in descending order.

        Exponential and power cones have none: the distance to the nearest kink stands for two of
        opposite sign, which is never more than ‖y‖ and ‖s‖, those of normal and ray.
        """
        own = v[self.rows]
        if self.distance is not None:
            return self.distance(own) * np.array([1.0, -1.0])
        if not self.curved:
            return own
        if self.kind == SEMIDEFINITE:
            return np.linalg.eigvalsh(self.matrix(own))[::-1]
        length = float(np.linalg.norm(own[1:]))
        return np.array([own[0] + length, own[0] - length])

    def counts(self, low: np.ndarray, high: np.ndarray) -> tuple[int, int]:
        """How many of these eigenvalues count as positive, and how many as zero."""
        low, high = low[self.rows], high[self.rows]
        if self.curved and self.kind == SEMIDEFINITE:
            rows, columns, _ = triangle(self.order)
            low, high = low[rows == columns], high[rows == columns]
        positive, zero = low == 1, high > low
        if self.curved and self.kind != SEMIDEFINITE:
            return _ends(positive), _ends(zero)
        return int(positive.sum()), int(zero.sum())


def _ends(mask: np.ndarray) -> int:
    """Of the two ends of a second-order, exponential or power cone; those across agree with one of them."""
    return 2 if mask.all() else int(mask.any())


def constraints(cones: Cones) -> list[Constraint]:
    """The factors of K in their order.

    >>> [(c.kind, c.rows.start) for c in constraints(Cones(nonnegative=1, second_order=(3,)))]
    [('inequality', 0), ('second-order cone', 1)]
    """
    found: list[Constraint] = []
    sizes = (
        (EQUALITY, [1] * cones.zero),
        (INEQUALITY, [1] * cones.nonnegative),
        (SECOND_ORDER, cones.second_order),
        (SEMIDEFINITE, cones.semidefinite),
    )
    start = 0
    for kind, orders in sizes:
        for number, order in enumerate(orders):
            stop = start + (order * (order + 1) // 2 if kind == SEMIDEFINITE else order)
            found.append(Constraint(kind, number, order, slice(start, stop)))
            start = stop
    return found + _asymmetric(cones)


def _asymmetric(cones: Cones) -> list[Constraint]:
    """The exponential and power cones, and their duals."""
    found = []
    for block, rows in cones.pieces:
        if isinstance(block, Curved):
            for k, alpha in enumerate(block.alphas):
                kind = "dual " * block.dual + (EXPONENTIAL if alpha is None else POWER)
                number = sum(other.kind == kind for other in found)
                own = slice(rows.start + 3 * k, rows.start + 3 * k + 3)
                local = (functools.partial(f, alpha, block.dual) for f in (distance_to_kink, turn))
                found.append(Constraint(kind, number, 3, own, *local))
    return found


@dataclass(frozen=True)
class Pieces:
    """P, A, and the elements V = T diag(d) Tᵀ, low ≤ d ≤ high, at one solution; all in float64.

    ``dtype`` is the user's. ``choice`` marks the columns of T along which V may vary.
    """

    P: np.ndarray
    A: np.ndarray
    T: np.ndarray
    low: np.ndarray
    high: np.ndarray
    cones: Cones
    dtype: np.dtype

    @cached_property
    def choice(self) -> np.ndarray:
        return self.high > self.low

    @cached_property
    def constraints(self) -> list[Constraint]:
        return constraints(self.cones)

    @property
    def curved(self) -> bool:
        return any(part.curved for part in self.constraints)

    @property
    def extremes(self) -> list[np.ndarray]:
        """The weights of V_lo and of V_hi; one alone where they agree."""
        count = int(self.choice.sum())
        return [np.zeros(count), np.ones(count)] if count else [np.zeros(0)]

    def element(self, selection: np.ndarray) -> np.ndarray:
        """V with the weights (K,) of its K free eigenvalues: 0 the least, 1 the greatest element."""
        d = self.low.copy()
        d[self.choice] += selection * (self.high - self.low)[self.choice]
        return (self.T * d) @ self.T.T

    def system(self, element: np.ndarray) -> np.ndarray:
        """U(V) = [[P, AᵀV], [A, V − I]]."""
        return np.block([[self.P, self.A.T @ element], [self.A, element - np.eye(len(element))]])


@dataclass(frozen=True)
class _Limit:
    """h = span t must lie in a cone, t the coordinates of a direction: a half line, second-order or PSD.

    Where ``total`` t = 0 on all directions, h is on a face, and ``stuck`` t = 0 as well.
    """

    span: np.ndarray
    total: np.ndarray
    stuck: np.ndarray
    kind: str

    def lowest(self, t: np.ndarray) -> tuple[float, np.ndarray]:
        """The least eigenvalue of h, and a row r with λ_min ≤ r t' everywhere and equality at t."""
        h = self.span @ t
        if self.kind == INEQUALITY:
            row = self.span[0]
        elif self.kind == SECOND_ORDER:
            length = float(np.linalg.norm(h[1:]))
            axis = h[1:] / length if length > 0 else np.zeros(len(h) - 1)
            row = self.span[0] - axis @ self.span[1:]
        else:
            order = (math.isqrt(8 * len(h) + 1) - 1) // 2
            q = np.linalg.eigh(Constraint(SEMIDEFINITE, 0, order, slice(0)).matrix(h))[1][:, 0]
            rows, columns, weights = triangle(order)
            row = (weights * q[rows] * q[columns]) @ self.span
        return float(row @ t), row


def _limits(pieces: Pieces, kernel: np.ndarray) -> Iterator[_Limit]:
    """What the weakly active constraints ask of a direction ``kernel`` t."""
    moved = -pieces.A @ kernel
    rotated = pieces.T.T @ moved
    for part in pieces.constraints:
        own, choice = part.rows, pieces.choice[part.rows]
        if not choice.any():
            continue
        kind, span, stuck = INEQUALITY, rotated[own][choice], moved[:0]
        total = span[0]
        if part.curved and part.kind == SEMIDEFINITE:
            rows, columns, _ = triangle(part.order)
            zero = rows[(rows == columns) & choice]
            total = rotated[own][(rows == columns) & choice].sum(axis=0)
            # a zero on the diagonal of a matrix ≽ 0 takes its row and its column with it
            cross = np.isin(rows, zero) | np.isin(columns, zero)
            stuck = rotated[own][cross & (pieces.low[own] == 0)]
            kind = SEMIDEFINITE if len(zero) > 1 else INEQUALITY
        elif part.curved and choice.all():
            kind, span, stuck, total = SECOND_ORDER, moved[own], moved[own], moved[own][0]
        elif part.curved:
            first = pieces.T[own.start, own]
            span = span * np.sign(first[choice])  # inward
            total = span[0]
            stuck = rotated[own][(np.abs(first) < 0.5) & (pieces.high[own] == 0)]
        rounding = 1e3 * len(moved) * machine_epsilon(pieces.dtype)
        rounding *= float(np.abs(pieces.A[own]).max(initial=0.0))
        span, total, stuck = (_unit_rows(rows, rounding) for rows in (span, total, stuck))
        yield _Limit(span, total, stuck, kind)


class _Outer:
    """A polyhedral cone around the directions t, in the box [−1, 1]^k."""

    def __init__(self, limits: list[_Limit], count: int) -> None:
        self.limits = limits
        self.cuts = [limit.span[0] for limit in limits if limit.kind == INEQUALITY]
        self.equalities = np.zeros((0, count))
        self.count = count

    def maximise(self, objective: np.ndarray) -> tuple[float, np.ndarray]:
        """max objective · t, over the outer cone, which is cut until its answer is nearly inside."""
        t = np.zeros(self.count)
        for _ in range(_CUTS):
            found = scipy.optimize.linprog(
                -objective,
                A_ub=-np.array(self.cuts) if self.cuts else None,
                b_ub=np.zeros(len(self.cuts)) if self.cuts else None,
                A_eq=self.equalities if len(self.equalities) else None,
                b_eq=np.zeros(len(self.equalities)) if len(self.equalities) else None,
                bounds=(-1, 1),
                options={"primal_feasibility_tolerance": 1e-10},
            )
            if found.status != 0:
                return math.inf, t
            t = np.asarray(found.x)
            values = [limit.lowest(t) for limit in self.limits if limit.kind != INEQUALITY]
            new = [row for value, row in values if value < -_FEASIBLE]
            if not new:
                break
            self.cuts += new
        return float(objective @ t), t

    def restrict(self, limit: _Limit) -> None:
        self.equalities = np.vstack([self.equalities, limit.total, limit.stuck])
        self.limits = [other for other in self.limits if other is not limit]


def free_direction(
    pieces: Pieces, v: np.ndarray, kernel: np.ndarray, residual: float
) -> tuple[bool | None, np.ndarray | None]:
    """Is the solution at v = y − s the only one? If not, a unit direction (n,) along which it moves.

    Args:
        v: (m,). kernel: (n, k), an orthonormal basis of {a : P a = 0, A a ∈ span F}, which is
            {a : P a = 0, A a ∈ ker V} for the least element V. residual: of v, relative.

    Returns:
        (True, None), (False, direction) or (None, None) where it was not decided. The direction was
        followed for a finite step: the point met is feasible and as good, to round-off and residual.
    """
    k = kernel.shape[1]
    if k == 0:
        return True, None
    limits = list(_limits(pieces, kernel))
    slight = 1e3 * machine_epsilon(pieces.dtype) + 10 * residual
    if slight > _COARSE:
        return None, None
    if not limits or k == 1:
        bent = 0
        for a in (*kernel.T, *-kernel.T):
            walk = _Walk(pieces, v, a, slight)
            if walk.moves():
                return False, a
            bent += k == 1 and walk.bends()
        return (True, None) if bent == 2 else (None, None)
    outer = _Outer(limits, k)
    inner = np.zeros(k)
    for t in _restrict(outer):
        inner = 0.8 * inner + t
    still = True
    for objective in (np.zeros(k), *np.eye(k), *-np.eye(k)):
        best, t = outer.maximise(objective)
        if best > _STILL:
            still = False
            inner = 0.8 * inner + t
        for candidate in (inner, t):
            direction = _unit(kernel @ candidate)
            if direction is not None and _Walk(pieces, v, direction, slight).moves():
                return False, direction
    return (True, None) if still else (None, None)


def _unit_rows(matrix: np.ndarray, negligible: float) -> np.ndarray:
    """Scaled to entries of size 1; zero where nothing but rounding is left."""
    size = float(np.abs(matrix).max(initial=0.0))
    return matrix / size if size > negligible else np.zeros_like(matrix)


def _restrict(outer: _Outer) -> list[np.ndarray]:
    """Keep to the face that every direction is on; return what makes each remaining limit positive."""
    while True:
        reached = []
        for limit in outer.limits:
            best, t = outer.maximise(limit.total)
            if best <= _STILL:
                outer.restrict(limit)
                break
            reached.append(t)
        else:
            return reached


def _unit(a: np.ndarray) -> np.ndarray | None:
    length = float(np.linalg.norm(a))
    return a / length if length > _STILL else None


class _Walk:
    """The points x + t a, t > 0; ``slight`` is the relative error that does not count."""

    def __init__(self, pieces: Pieces, v: np.ndarray, a: np.ndarray, slight: float) -> None:
        self.pieces, self.slight = pieces, slight
        e = pieces.T.T @ v
        e[pieces.choice] = 0.0
        self.y, self.s = pieces.T @ (pieces.low * e), pieces.T @ ((pieces.low - 1) * e)
        self.a, self.h = a, -pieces.A @ a
        doubt = slight * len(a)
        sizes = [(_largest(x[p.rows]) for x in (e, self.h, pieces.A)) for p in pieces.constraints]
        self.sizes = [(s, h if h > doubt * A else 0.0, A) for s, h, A in sizes]
        self.weak = [bool(pieces.choice[part.rows].any()) for part in pieces.constraints]
        P_size = _largest(pieces.P)
        gain = doubt * (P_size + _largest(pieces.A)) * float(np.abs(self.y).sum())
        flat = _largest(pieces.P @ a) <= doubt * P_size
        self.optimal = flat and abs(float(self.y @ self.h)) <= gain

    def inside(self, t: float, parts: list[bool]) -> bool:
        """Whether these constraints hold after a step t."""
        point = self.s + t * self.h
        return all(
            self._lowest(part, point) >= -self.slight * (s + t * A)
            for part, (s, _, A), asked in zip(
                self.pieces.constraints, self.sizes, parts, strict=True
            )
            if asked
        )

    def _lowest(self, part: Constraint, point: np.ndarray) -> float:
        if part.kind == EQUALITY:
            return -abs(float(point[part.rows.start]))
        return float(part.eigenvalues(point)[-1])

    def shortest(self, least: float) -> float:
        """The step that moves every weakly active curved part by ``least``, relative to its slack.

        A curved cone bends away from a tangent by t² or so, which a shorter one would not show.
        """
        parts = zip(self.pieces.constraints, self.sizes, self.weak, strict=True)
        return max(
            (least * s / h for p, (s, h, _), w in parts if w and p.curved and h), default=0.0
        )

    def moves(self) -> bool:
        """Whether a finite step stays feasible and is as good."""
        if not self.optimal:
            return False
        shortest = self.shortest(max(1e-3, 10 * math.sqrt(self.slight)))
        reach = min((s / h for s, h, _ in self.sizes if s and h), default=1.0)
        longest = max(4 * shortest, reach)
        for i, part in enumerate(self.pieces.constraints):
            slack, rate = self.s[part.rows.start], self.h[part.rows.start]
            if not part.curved and part.kind != EQUALITY and slack > 0 > rate and self.sizes[i][1]:
                longest = min(longest, -slack / rate / 2)
        steps = (longest / 2**power for power in range(_HALVINGS))
        return any(t >= shortest and self.inside(t, [True] * len(self.weak)) for t in steps)

    def bends(self) -> bool:
        """Whether even a very short step leaves a weakly active constraint."""
        step = self.shortest(10 * math.sqrt(self.slight))
        return not self.inside(step or 1.0, self.weak)


def _largest(x: np.ndarray) -> float:
    return float(np.abs(x).max(initial=0.0))
