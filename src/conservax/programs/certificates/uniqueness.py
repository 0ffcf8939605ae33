"""Whether the solution of a cone program is the only one, and along which direction it moves if not.

With a multiplier y all solutions are the points x + a with

    P a = 0,    s − A a ∈ F = {s' ∈ K : yᵀs' = 0},

F a face of K (an optimal x + a has P a = 0 and cᵀa = −yᵀA a = 0). Where s lies in the relative
interior of F only its span counts; elsewhere the directions form a convex cone, met here by linear
programs, cuts, and restriction to the face on which a curved cone lets nothing but its ray pass.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy

from ...cones.constraint import Constraint, Limit
from ...cones.table import Cones
from ...numerics import machine_epsilon

_STILL = 1e-6  # a coordinate in [−1, 1] that no direction moves further than this stands still
_FEASIBLE = 1e-9  # violation of a cut that asks for another one
_CUTS, _HALVINGS = 40, 13
_COARSE = 1e-2  # a residual that lets every direction pass


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
    def constraints(self) -> tuple[Constraint, ...]:
        return self.cones.constraints

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


def _limits(pieces: Pieces, kernel: np.ndarray) -> Iterator[Limit]:
    """What the weakly active constraints ask of a direction ``kernel`` t."""
    moved = -pieces.A @ kernel
    rotated = pieces.T.T @ moved
    for part in pieces.constraints:
        own = part.rows
        if not pieces.choice[own].any():
            continue
        limit = part.limit(pieces.T, pieces.low, pieces.high, moved, rotated)
        rounding = 1e3 * len(moved) * machine_epsilon(pieces.dtype)
        rounding *= float(np.abs(pieces.A[own]).max(initial=0.0))
        rows = (limit.span, limit.total, limit.stuck)
        span, total, stuck = (_unit_rows(each, rounding) for each in rows)
        yield Limit(span, total, stuck, limit.support)


class _Outer:
    """A polyhedral cone around the directions t, in the box [−1, 1]^k."""

    def __init__(self, limits: list[Limit], count: int) -> None:
        self.limits = limits
        self.cuts = [limit.span[0] for limit in limits if limit.half_line]
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
            values = [limit.lowest(t) for limit in self.limits if not limit.half_line]
            new = [row for value, row in values if value < -_FEASIBLE]
            if not new:
                break
            self.cuts += new
        return float(objective @ t), t

    def restrict(self, limit: Limit) -> None:
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
            part.depth(point) >= -self.slight * (s + t * A)
            for part, (s, _, A), asked in zip(
                self.pieces.constraints, self.sizes, parts, strict=True
            )
            if asked
        )

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
            if not part.curved and part.switches and slack > 0 > rate and self.sizes[i][1]:
                longest = min(longest, -slack / rate / 2)
        steps = (longest / 2**power for power in range(_HALVINGS))
        return any(t >= shortest and self.inside(t, [True] * len(self.weak)) for t in steps)

    def bends(self) -> bool:
        """Whether even a very short step leaves a weakly active constraint."""
        step = self.shortest(10 * math.sqrt(self.slight))
        return not self.inside(step or 1.0, self.weak)


def _largest(x: np.ndarray) -> float:
    return float(np.abs(x).max(initial=0.0))
