"""min_a ½‖Ma‖² − tᵀa + ε‖a‖₁ on a box, M (p, n) of few rows: interior points, and the face they tend to."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Solve = Callable[[np.ndarray], np.ndarray]

_ROUNDS = 80
_NEAR = 1e-14  # relative complementarity at which the interior points end
_CLOSE = 1e-6  # up to which they came near
_SIDES = 20  # rounds in which coefficients change sides on the face
_STAY = 0.995  # share of the way to the boundary


class BoxPoint(NamedTuple):
    """a (n,); the multiplier of cᵀa = 0, 0 without one; whether interior points came near a solution."""

    a: np.ndarray
    multiplier: float
    near: bool


def box_quadratic(
    M: np.ndarray,
    target: np.ndarray,
    bound: np.ndarray,
    margin: float = 0.0,
    two_sided: bool = False,
    balance: np.ndarray | None = None,
) -> BoxPoint:
    """Near the minimum over 0 ≤ a ≤ ``bound`` (−bound ≤ a if ``two_sided``), with cᵀa = 0 for c = ``balance``.

    ½‖Ma‖² − tᵀa + b cᵀa is stationary up to the bounds, b the multiplier. Primal-dual interior points, each
    step by a p × p system (n × n where n < p); then one solve on the face they tend to.

    Source: Mehrotra (1992); Ferris, Munson (2002), for the low rank.

    >>> box_quadratic(np.eye(2), np.array([0.5, 3.0]), np.ones(2)).a.round(9).tolist()
    [0.5, 1.0]
    """
    n = M.shape[1]
    live = np.flatnonzero(bound > 0)
    signs = (1.0, -1.0) if two_sided else (1.0,)
    columns = np.concatenate([s * M[:, live] for s in signs], axis=1)
    slope = np.concatenate([s * target[live] - margin for s in signs])
    size = np.tile(bound[live], len(signs))
    c = None if balance is None else np.concatenate([s * balance[live] for s in signs])
    a = np.zeros(n)
    if not len(live):
        return BoxPoint(a, 0.0, True)
    if c is not None and not c.min() < 0 < c.max():  # only a = 0 balances: no point is interior
        return BoxPoint(a, 0.0, False)
    # a in units of its bound, the objective in those of its slope
    unit = float(np.abs(size * slope).max()) or 1.0
    A = columns * size / np.sqrt(unit)
    with np.errstate(
        over="ignore", invalid="ignore", divide="ignore"
    ):  # of steps that are not taken
        found, multiplier, near = _interior(A, size * slope / unit, None if c is None else c * size)
    np.add.at(a, np.tile(live, len(signs)), np.repeat(signs, len(live)) * size * found)
    return BoxPoint(a, multiplier * unit, near)


class _State(NamedTuple):
    """x and 1 − x, with the multipliers of their signs; that of the balance; residuals of both equations."""

    x: np.ndarray
    s: np.ndarray
    z: np.ndarray
    w: np.ndarray
    b: float

    def gap(self) -> float:
        """The mean complementarity."""
        return float(self.x @ self.z + self.s @ self.w) / (2 * len(self.x))

    def reach(self, dx: np.ndarray, dz: np.ndarray, dw: np.ndarray) -> float:
        """How far all stay positive, 1 at most."""
        least = 1.0
        for value, step in ((self.x, dx), (self.s, -dx), (self.z, dz), (self.w, dw)):
            falling = step < 0
            least = min(least, np.min(-value[falling] / step[falling], initial=np.inf))
        return float(least)

    def moved(
        self, t: float, dx: np.ndarray, dz: np.ndarray, dw: np.ndarray, db: float
    ) -> "_State":
        """At t times a step."""
        x, s, z, w, b = self
        return _State(x + t * dx, s - t * dx, z + t * dz, w + t * dw, b + t * db)


def _interior(A: np.ndarray, t: np.ndarray, c: np.ndarray | None) -> tuple[np.ndarray, float, bool]:
    """min ½‖Ax‖² − tᵀx over 0 ≤ x ≤ 1, cᵀx = 0: x on the face that interior points tend to; b; if they did."""
    m = len(t)
    half, one = np.full(m, 0.5), np.ones(m)
    here = _State(half, half, one, one, 0.0)
    balance = np.zeros(m) if c is None else c
    near = False
    for _ in range(_ROUNDS):
        pull = A.T @ (A @ here.x) - t - here.z + here.w + here.b * balance
        off = float(balance @ here.x)
        gap, left = here.gap(), max(float(np.abs(pull).max()), abs(off) / m)
        size = 1.0 + float((np.abs(A).T @ (np.abs(A) @ here.x)).max())
        near = gap <= _CLOSE and left <= _CLOSE * size
        if gap <= _NEAR and (left <= 64 * np.finfo(float).eps * size or gap <= _NEAR**2):
            break
        try:
            solve = _system(A, here.z / here.x + here.w / here.s)
        except np.linalg.LinAlgError:  # as near as rounding lets it come
            break
        through = None if c is None else solve(c)
        low, high = -here.x * here.z, -here.s * here.w
        step = _direction(solve, here, pull, off, balance, through, low, high)
        dx, dz, dw, _ = step
        after = here.moved(here.reach(dx, dz, dw), *step).gap()
        aim = gap * (after / gap) ** 3
        low, high = low + aim - dx * dz, high + aim + dx * dw
        step = _direction(solve, here, pull, off, balance, through, low, high)
        length = min(1.0, _STAY * here.reach(*step[:3]))
        if not np.isfinite(step[0]).all() or length < 1e-10:
            break
        here = here.moved(length, *step)
    return *_on_face(A, t, c, here), near


def _direction(
    solve: Solve,
    here: _State,
    pull: np.ndarray,
    off: float,
    balance: np.ndarray,
    through: np.ndarray | None,
    low: np.ndarray,
    high: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """A Newton step: x ż + z ẋ = ``low``, s ẇ − w ẋ = ``high``, and no residuals. ``through``: solve(c)."""
    dx, db = solve(-pull + low / here.x - high / here.s), 0.0
    if through is not None:
        db = (balance @ dx + off) / max(float(balance @ through), np.finfo(float).tiny)
        dx = dx - db * through
    return dx, (low - here.z * dx) / here.x, (high + here.w * dx) / here.s, float(db)


def _on_face(
    A: np.ndarray, t: np.ndarray, c: np.ndarray | None, here: _State
) -> tuple[np.ndarray, float]:
    """Stationary where neither bound holds; a few coefficients change sides where that leaves the box.

    Source: the primal-dual active sets of Hintermüller, Ito, Kunisch (2003).
    """
    x, s, z, w, b = here
    low, high = (x < z) & (x <= s), (s < w) & (s < x)
    best, balance = (
        (np.where(low, 0.0, np.where(high, 1.0, x)), b),
        np.zeros(len(x)) if c is None else c,
    )
    noise = (
        64 * np.finfo(float).eps * (np.abs(t) + np.abs(A).T @ (np.abs(A) @ x) + abs(b * balance))
    )
    for _ in range(_SIDES):
        free = ~low & ~high
        x = np.where(low, 0.0, np.where(high, 1.0, here.x))
        rest = t - A.T @ (A @ x) - here.b * balance
        delta, db = _stationary(
            A[:, free], rest[free], balance[free], -float(balance @ x), c is not None
        )
        x[free] += delta
        b = here.b + db
        slope = A.T @ (A @ x) - t + b * balance
        below, above = free & (x < 0), free & (x > 1)
        up, down = low & (slope < -noise), high & (slope > noise)
        if not (below | above | up | down).any():
            tiny = np.finfo(float).eps  # of the box: at its side
            return np.where(x <= tiny, 0.0, np.where(x >= 1 - tiny, 1.0, x)), b
        low, high = (low | below) & ~up, (high | above) & ~down
    return best


def _stationary(
    F: np.ndarray, right: np.ndarray, c: np.ndarray, off: float, balanced: bool
) -> tuple[np.ndarray, float]:
    """δ and b with FᵀF δ + b c = right and cᵀδ = ``off``, the shortest."""
    k = F.shape[1]
    if not k:
        return np.zeros(0), 0.0
    system = np.zeros((k + balanced, k + balanced))
    system[:k, :k] = F.T @ F
    if balanced:
        system[:k, k] = system[k, :k] = c
        right = np.append(right, off)
    found = np.linalg.lstsq(system, right, rcond=None)[0]
    return found[:k], float(found[k]) if balanced else 0.0


def _system(A: np.ndarray, D: np.ndarray) -> Solve:
    """right ↦ (AᵀA + diag D)⁻¹ right, by the smaller of both orders."""
    from scipy.linalg import cho_factor, cho_solve

    p, m = A.shape
    root = np.sqrt(D)
    B = A / root
    if m <= p:
        whole = cho_factor(np.eye(m) + B.T @ B, check_finite=False)
        return lambda right: cho_solve(whole, right / root, check_finite=False) / root
    factor = cho_factor(np.eye(p) + B @ B.T, check_finite=False)

    def solve(right: np.ndarray) -> np.ndarray:
        inner = cho_solve(factor, B @ (right / root), check_finite=False)
        return (right / root - B.T @ inner) / root

    return solve
