"""The exact path of the Lasso in α: piece by piece, β(α) = a − α d, with its kinks.

Between kinks the support S and the signs s stand still, and with H = X_SᵀX_S + ρI

    a = H⁻¹ X_Sᵀy ,   d = H⁻¹ s .

The path is followed on the features that may matter (the strong rule); all others are verified at every
kink, where their correlations, which are linear in between, would first exceed α.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from .solvers.l1_quadratic import cholesky, inverse_positive, l1_quadratic, solve_part

_REFRESH = 32  # pivots after which the inverse is computed anew
_STRIDE = 0.88  # how far α falls between two verifications


class Piece(NamedTuple):
    """β = a − α d on ``support`` for low ≤ α ≤ high."""

    high: float
    low: float
    support: np.ndarray
    a: np.ndarray
    d: np.ndarray


class Source(Protocol):
    """What the path asks of X and y: ``b`` = Xᵀy, and what depends on the columns in ``features``."""

    b: np.ndarray

    def gram(self, features: np.ndarray) -> np.ndarray:
        """Their inner products."""
        ...

    def live(self, features: np.ndarray) -> np.ndarray:
        """Which of them are not zero."""
        ...

    def correlations(self, beta: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """Xᵀ(y − Xβ), (p, m), for m pairs of a support and its coefficients."""
        ...


@dataclass(eq=False)
class Columns:
    """The source that is an array X (n, p) with y (n,); inner products that were computed once are kept."""

    X: np.ndarray
    y: np.ndarray

    def __post_init__(self) -> None:
        self.b = self.X.T @ self.y
        self._norms = np.einsum("ij,ij->j", self.X, self.X)
        self._rows = np.zeros(0, dtype=np.intp)  # features whose Gram matrix is known
        self._place = np.zeros(self.X.shape[1], dtype=np.intp)
        self._G = np.zeros((0, 0))

    def live(self, features: np.ndarray) -> np.ndarray:
        """Which columns are not zero."""
        return self._norms[features] > 0

    def correlations(self, beta: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """Xᵀ(y − Xβ), (p, m)."""
        ends = np.zeros((len(self.y), len(beta)))
        for i, (support, values) in enumerate(beta):
            ends[:, i] = self.y - self.X[:, support] @ values
        return self.X.T @ ends

    def gram(self, features: np.ndarray) -> np.ndarray:
        """The inner products of these columns."""
        new = np.setdiff1d(features, self._rows)
        if len(new):
            self._watch(new)
        at = self._place[features]
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


@dataclass(eq=False)
class LassoPath:
    """argmin ‖y − Xβ‖²/2 + α ‖β‖₁ + ρ ‖β‖²/2 for X (n, p), y (n,), from α_max downwards.

    ``pieces`` grows as ``follow`` goes on. ``exact`` says whether all kinks were found as kinks of the
    path: it is lost where several fall together and the path had to be picked up again below them;
    ``gaps`` are those stretches, (high, low).

    Source: Osborne, Presnell, Turlach (2000); Efron and others (2004); Tibshirani and others (2012), the
    strong rule.
    """

    source: Source
    rho: float = 0.0
    start: tuple[float, np.ndarray, np.ndarray | None] | None = None
    """α, the solution there, and the correlations if they are known, to begin below α_max."""
    pieces: list[Piece] = field(default_factory=list)
    gaps: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        b = self.source.b
        self.alpha_max = float(np.abs(b).max(initial=0.0))
        self.alpha = self.alpha_max
        self._correlation = b
        self._beta = np.zeros(len(b))
        self.started = self.start is not None and self.start[0] < self.alpha_max
        """Whether it begins below α_max."""
        if self.started and self.start is not None:
            self.alpha, self._beta, known = self.start
            if known is None:
                support = np.flatnonzero(self._beta)
                known = self.source.correlations([(support, self._beta[support])])[:, 0]
            self._correlation = known

    @property
    def exact(self) -> bool:
        """Whether all kinks were found as kinks of the path."""
        return not self.gaps

    def coefficients(self) -> np.ndarray:
        """β at the α reached."""
        return self._beta

    def coefficients_at(self, alpha: float) -> np.ndarray:
        """β at an α on the way here."""
        beta = np.zeros(len(self._beta))
        for piece in self.pieces:
            if piece.low <= alpha <= piece.high:
                beta[piece.support] = piece.a - alpha * piece.d
                break
        return beta

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
        rows = np.flatnonzero(likely | (beta != 0))
        rows = rows[self.source.live(rows) | (beta[rows] != 0)]
        while True:
            G = self.source.gram(rows)
            found = _homotopy(G, self.source.b[rows], self.rho, beta[rows], start, to)
            pieces = [Piece(p.high, p.low, rows[p.support], p.a, p.d) for p in found.pieces]
            lows = np.array([p.low for p in pieces])
            pull = self.source.correlations([(p.support, p.a - p.low * p.d) for p in pieces])
            outside = np.ones(len(beta), dtype=bool)
            outside[rows] = False
            over = outside & np.any(np.abs(pull) > lows * (1 + 1e-10), axis=1)
            if not over.any():
                break
            rows = np.flatnonzero(over | ~outside)
        self.pieces[kept:] = pieces
        if not found.exact:
            self.gaps.append((found.lost, to))
        self._beta = np.zeros(len(beta))
        self._beta[rows] = found.beta
        self._correlation = pull[:, -1]
        self.alpha = to


class _Found(NamedTuple):
    pieces: list[Piece]
    beta: np.ndarray
    exact: bool
    lost: float  # the α down to which all kinks were found


def _homotopy(
    G: np.ndarray, b: np.ndarray, rho: float, beta: np.ndarray, alpha: float, to: float
) -> _Found:
    """The pieces of min ½βᵀGβ − bᵀβ + α‖β‖₁ + ρ‖β‖²/2 between α and ``to``, from its solution at α."""
    ridge = G + rho * np.eye(len(b)) if rho else G
    active, start_at = _Active(ridge, b, beta, alpha), alpha
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
        active.change(event)
    x = np.zeros(len(b))
    x[active.members] = active.at(alpha)
    lost = alpha
    if alpha > to or not _optimal(ridge, b, x, to):
        exact = False
        lost = alpha if alpha > to else start_at
        x = l1_quadratic(ridge, b, np.full(len(b), to), x, 1e-12 * to)
        support = np.flatnonzero(x)
        start = pieces.pop() if pieces and alpha <= to else None
        high = alpha if start is None else start.high
        if (
            high > to
        ):  # the solution at the lower end, held over the stretch that could not be followed
            pieces.append(Piece(high, to, support, x[support], np.zeros(len(support))))
    return _Found(pieces, x, exact, lost)


def _optimal(G: np.ndarray, b: np.ndarray, x: np.ndarray, alpha: float) -> bool:
    pull = b - G @ x
    size = np.abs(x).max(initial=0.0)
    on = np.abs(x) > 1e-9 * size
    inside = np.abs(pull) <= alpha * (1 + 1e-7)
    return bool(np.all(inside) and np.all(np.abs(pull - alpha * np.sign(x))[on] <= 1e-7 * alpha))


def _independent(G: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """The same fit from independent columns, if their coefficients keep their signs."""
    S = np.flatnonzero(beta)
    H = G[np.ix_(S, S)]
    if not len(S) or cholesky(H) is not None:
        return beta
    part = np.zeros(len(beta))
    part[S] = solve_part(H, H @ beta[S])
    return part if np.all(part * beta >= 0) else beta


class _Active:
    """The active set, its signs, and the inverse of its Gram matrix."""

    def __init__(self, G: np.ndarray, b: np.ndarray, beta: np.ndarray, alpha: float) -> None:
        self.G, self.b = G, b
        beta = _independent(G, beta)
        self.members = [int(j) for j in np.flatnonzero(beta)]
        self.signs = [float(s) for s in np.sign(beta[self.members])]
        self.pivots = 0
        self.left: tuple[int, float] | None = None
        self.idle: list[int] = []  # at ±α all along this piece, as they depend on the members
        self.joined = False  # whether the last member has just come in
        if not self.members:  # at α_max the first feature enters
            pull = b - G @ beta
            if len(b) and (size := np.abs(pull)).max() >= alpha * (1 - 1e-12):
                j = int(np.argmax(size))
                self.members, self.signs = [j], [float(np.sign(pull[j]))]
        self.known = np.empty((len(self.members) + 64, len(b)))  # rows of G of the members
        self.known[: len(self.members)] = G[self.members]
        self._invert()

    def _invert(self) -> None:
        k = len(self.members)
        self._held = np.empty((k + 64, k + 64))  # the inverse, with room to grow in place
        self._update = np.empty((k + 64, k + 64))
        self.inverse[:] = inverse_positive(self.G[np.ix_(self.members, self.members)])

    @property
    def inverse(self) -> np.ndarray:
        """(G_SS)⁻¹, S the members."""
        return self._held[: len(self.members), : len(self.members)]

    def _add(self, w: np.ndarray, factor: float) -> None:
        """Add ``factor`` w wᵀ to the first entries of the inverse."""
        k = len(w)
        np.multiply(w[:, None], factor * w, out=self._update[:k, :k])
        self._held[:k, :k] += self._update[:k, :k]

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
        u[S], u[self.idle] = np.nan, np.nan
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
        if self.joined:  # it starts from zero, and away from it
            out[-1] = -np.inf
        candidates = [
            (float(rate.max(initial=-np.inf)), kind, int(np.argmax(rate)) if len(rate) else -1)
            for rate, kind in ((up, "+"), (down, "-"), (out, "out"))
        ]
        best, kind, place = max(candidates)
        if best == -np.inf:
            return to, None
        return best, (kind, place, best)

    def change(self, event: tuple[str, int, float]) -> None:
        """Carry it out. A column x_j = X_S w that depends on the members stays out: it is at α wᵀs always."""
        kind, place, _ = event
        self.pivots += 1
        if kind == "out":
            self.left, self.joined, self.idle = (self.members[place], self.signs[place]), False, []
            last = len(self.members) - 1  # takes the place of the one that leaves
            inverse = self.inverse
            inverse[[place, last]] = inverse[[last, place]]
            inverse[:, [place, last]] = inverse[:, [last, place]]
            self.known[place] = self.known[last]
            self.members[place], self.signs[place] = self.members[last], self.signs[last]
            self._add(inverse[:last, last].copy(), -1 / inverse[last, last])
            del self.members[last], self.signs[last]
        else:
            g = self.G[self.members, place]
            w = self.inverse @ g
            pivot = self.G[place, place] - g @ w
            if pivot <= 1e-10 * self.G[place, place]:
                self.idle.append(place)
                return
            self.left, self.joined, self.idle = None, True, []
            k = len(self.members)
            if k == len(self.known):
                self.known = np.concatenate([self.known, np.empty((k + 16, len(self.b)))])
            self.known[k] = self.G[place]
            self.members.append(place)
            self.signs.append(1.0 if kind == "+" else -1.0)
            if k == len(self._held):
                self._invert()
            else:
                self._add(w, 1 / pivot)
                self.inverse[:k, k] = self.inverse[k, :k] = -w / pivot
                self.inverse[k, k] = 1 / pivot
        if self.pivots % _REFRESH == 0:
            self._invert()
