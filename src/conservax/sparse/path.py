"""The exact path of the Lasso in α: piece by piece, β(α) = a − α d, with its kinks.

Between kinks the support S and the signs s stand still, and with H = X_SᵀX_S + ρI

    a = H⁻¹ X_Sᵀy ,   d = H⁻¹ s .

The path is followed on the features that may matter (the strong rule); all others are verified at every
kink, where their correlations, which are linear in between, would first exceed α.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from .solvers.l1_quadratic import l1_quadratic, solve_positive

_REFRESH = 32  # pivots after which the inverse is computed anew
_STRIDE = 0.88  # how far α falls between two verifications


class Piece(NamedTuple):
    """β = a − α d on ``support`` for low ≤ α ≤ high."""

    high: float
    low: float
    support: np.ndarray
    a: np.ndarray
    d: np.ndarray


@dataclass(eq=False)
class LassoPath:
    """argmin ‖y − Xβ‖²/2 + α ‖β‖₁ + ρ ‖β‖²/2 for X (n, p), y (n,), from α_max downwards.

    ``pieces`` grows as ``follow`` goes on. ``exact`` says whether all kinks were found as kinks of the
    path: it is lost where several fall together and the path had to be picked up again below them.

    Source: Osborne, Presnell, Turlach (2000); Efron and others (2004); Tibshirani and others (2012), the
    strong rule.
    """

    X: np.ndarray
    y: np.ndarray
    rho: float = 0.0
    start: tuple[float, np.ndarray] | None = None
    """α and the solution there, to begin below α_max."""
    pieces: list[Piece] = field(default_factory=list)
    exact: bool = True

    def __post_init__(self) -> None:
        self.b = self.X.T @ self.y
        self.alpha_max = float(np.abs(self.b).max(initial=0.0))
        self.alpha = self.alpha_max
        self._norms = np.einsum("ij,ij->j", self.X, self.X)
        self._rows = np.zeros(0, dtype=np.intp)  # features whose Gram matrix is known
        self._place = np.zeros(self.X.shape[1], dtype=np.intp)
        self._G = np.zeros((0, 0))
        self._correlation = self.b
        self._beta = np.zeros(self.X.shape[1])
        if self.start is not None and self.start[0] < self.alpha_max:
            self.alpha, self._beta = self.start
            self._correlation = self.X.T @ (self.y - self.X @ self._beta)

    def coefficients(self) -> np.ndarray:
        """β at the α reached."""
        return self._beta

    def follow(self, to: float) -> None:
        """Append the pieces down to α = ``to``."""
        while self.alpha > to:
            if self.alpha_max == 0:
                self.alpha = to
                return
            self._segment(max(to, _STRIDE * self.alpha))

    def _segment(self, to: float) -> None:
        start, kept = self.alpha, len(self.pieces)
        beta = self.coefficients()
        likely = np.abs(self._correlation) >= 2 * to - start
        rows = np.flatnonzero((likely & (self._norms > 0)) | (beta != 0))
        while True:
            G = self._gram(rows)
            found = _homotopy(G, self.b[rows], self.rho, beta[rows], start, to)
            pieces = [Piece(p.high, p.low, rows[p.support], p.a, p.d) for p in found.pieces]
            ends = np.zeros((len(self.y), len(pieces)))
            for i, p in enumerate(pieces):
                ends[:, i] = self.y - self.X[:, p.support] @ (p.a - p.low * p.d)
            lows = np.array([p.low for p in pieces])
            pull = self.X.T @ ends
            outside = np.ones(self.X.shape[1], dtype=bool)
            outside[rows] = False
            over = outside & np.any(np.abs(pull) > lows * (1 + 1e-10), axis=1)
            if not over.any():
                break
            rows = np.flatnonzero(over | ~outside)
        self.pieces[kept:] = pieces
        self.exact &= found.exact
        self._beta = np.zeros(self.X.shape[1])
        self._beta[rows] = found.beta
        self._correlation = pull[:, -1]
        self.alpha = to

    def _gram(self, rows: np.ndarray) -> np.ndarray:
        """X_rowsᵀX_rows; what was computed once is kept."""
        new = np.setdiff1d(rows, self._rows)
        if len(new):
            self._watch(new)
        at = self._place[rows]
        return self._G[np.ix_(at, at)]

    def _watch(self, new: np.ndarray) -> None:
        k = len(self._rows)
        old, Z = self.X[:, self._rows], self.X[:, new]
        G = np.empty((k + len(new), k + len(new)))
        G[:k, :k] = self._G
        G[:k, k:] = old.T @ Z
        G[k:, :k] = G[:k, k:].T
        G[k:, k:] = Z.T @ Z
        self._G = G
        self._place[new] = k + np.arange(len(new))
        self._rows = np.concatenate([self._rows, new])


class _Found(NamedTuple):
    pieces: list[Piece]
    beta: np.ndarray
    exact: bool


def _homotopy(
    G: np.ndarray, b: np.ndarray, rho: float, beta: np.ndarray, alpha: float, to: float
) -> _Found:
    """The pieces of min ½βᵀGβ − bᵀβ + α‖β‖₁ + ρ‖β‖²/2 between α and ``to``, from its solution at α."""
    ridge = G + rho * np.eye(len(b)) if rho else G
    active = _Active(ridge, b, beta, alpha)
    pieces, exact = [], True
    for _ in range(50 * (len(b) + 10)):
        a, d = active.line()
        support = np.array(active.members, dtype=np.intp)
        low, event = active.next_event(a, d, alpha, to)
        if low < alpha:
            pieces.append(Piece(alpha, low, support, a, d))
        alpha = low
        if event is None:
            break
        if not active.change(event):
            exact = False
            break
    x = np.zeros(len(b))
    x[active.members] = active.at(alpha)
    if alpha > to or not _optimal(ridge, b, x, to):
        exact = False
        x = l1_quadratic(ridge, b, np.full(len(b), to), x, 1e-12 * to)
        support = np.flatnonzero(x)
        start = pieces.pop() if pieces and alpha <= to else None
        high = alpha if start is None else start.high
        if (
            high > to
        ):  # the solution at the lower end, held over the stretch that could not be followed
            pieces.append(Piece(high, to, support, x[support], np.zeros(len(support))))
    return _Found(pieces, x, exact)


def _optimal(G: np.ndarray, b: np.ndarray, x: np.ndarray, alpha: float) -> bool:
    pull = b - G @ x
    size = np.abs(x).max(initial=0.0)
    on = np.abs(x) > 1e-9 * size
    inside = np.abs(pull) <= alpha * (1 + 1e-7)
    return bool(np.all(inside) and np.all(np.abs(pull - alpha * np.sign(x))[on] <= 1e-7 * alpha))


class _Active:
    """The active set, its signs, and the inverse of its Gram matrix."""

    def __init__(self, G: np.ndarray, b: np.ndarray, beta: np.ndarray, alpha: float) -> None:
        self.G, self.b = G, b
        self.members = [int(j) for j in np.flatnonzero(beta)]
        self.signs = [float(s) for s in np.sign(beta[self.members])]
        self.pivots = 0
        self.left: tuple[int, float] | None = None
        if not self.members:  # at α_max the first feature enters
            pull = b - G @ beta
            if len(b) and (size := np.abs(pull)).max() >= alpha * (1 - 1e-12):
                j = int(np.argmax(size))
                self.members, self.signs = [j], [float(np.sign(pull[j]))]
        self.known = np.empty((len(self.members) + 64, len(b)))  # rows of G of the members
        self.known[: len(self.members)] = G[self.members]
        self._invert()

    def _invert(self) -> None:
        S = self.members
        self.inverse = (
            solve_positive(self.G[np.ix_(S, S)], np.eye(len(S)))[0] if S else np.zeros((0, 0))
        )

    def line(self) -> tuple[np.ndarray, np.ndarray]:
        S = self.members
        both = self.inverse @ np.stack([self.b[S], np.array(self.signs)], axis=1)
        self.a, self.d = both[:, 0], both[:, 1]
        return self.a, self.d

    def at(self, alpha: float) -> np.ndarray:
        return self.a - alpha * self.d

    def next_event(
        self, a: np.ndarray, d: np.ndarray, alpha: float, to: float
    ) -> tuple[float, tuple[str, int, float] | None]:
        """The next α at which something changes, and what."""
        S = self.members
        below = alpha * (1 - 1e-11)
        reach = np.stack([a, d]) @ self.known[: len(S)]
        u, v = self.b - reach[0], reach[1]  # correlations u + α v
        u[S] = np.nan
        with np.errstate(divide="ignore", invalid="ignore"):
            up, down = u / (1 - v), -u / (1 + v)
            out = a / d
        for rate in (up, down):
            rate[~((rate < below) & (rate > to))] = -np.inf
        if (
            self.left is not None
        ):  # the one that just left is at ±α: it comes back on the other side only
            j, sign = self.left
            (up if sign > 0 else down)[j] = -np.inf
        out[~((out < below) & (out > to))] = -np.inf
        candidates = [
            (float(rate.max(initial=-np.inf)), kind, int(np.argmax(rate)) if len(rate) else -1)
            for rate, kind in ((up, "+"), (down, "-"), (out, "out"))
        ]
        best, kind, place = max(candidates)
        if best == -np.inf:
            return to, None
        return best, (kind, place, best)

    def change(self, event: tuple[str, int, float]) -> bool:
        """Carry it out; False if the active columns would become dependent."""
        kind, place, _ = event
        self.pivots += 1
        if kind == "out":
            self.left = self.members[place], self.signs[place]
            last = len(self.members) - 1
            self.known[place:last] = self.known[place + 1 : last + 1].copy()
            keep = np.arange(len(self.members)) != place
            column = self.inverse[keep, place]
            self.inverse = (
                self.inverse[np.ix_(keep, keep)]
                - np.outer(column, column) / self.inverse[place, place]
            )
            del self.members[place], self.signs[place]
        else:
            self.left = None
            g = self.G[self.members, place]
            w = self.inverse @ g
            pivot = self.G[place, place] - g @ w
            if pivot <= 1e-10 * self.G[place, place]:
                return False
            k = len(self.members)
            if k == len(self.known):
                self.known = np.concatenate([self.known, np.empty((k + 16, len(self.b)))])
            self.known[k] = self.G[place]
            grown = np.empty((k + 1, k + 1))
            grown[:k, :k] = self.inverse + np.outer(w, w) / pivot
            grown[:k, k] = grown[k, :k] = -w / pivot
            grown[k, k] = 1 / pivot
            self.inverse = grown
            self.members.append(place)
            self.signs.append(1.0 if kind == "+" else -1.0)
        if self.pivots % _REFRESH == 0:
            self._invert()
        return True
