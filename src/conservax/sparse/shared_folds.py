"""Least squares with an ℓ1 penalty on all folds of one sample at once, for one penalty after the other.

Fold k solves min_β ½ Σ ω_ki (y_i − b − x_iᵀβ)² + Σ α_j |β_j| + ρ ‖β‖²/2, with ω_k zero on the samples it holds
out. The folds share X, which is never copied: one product gives all predictions X [β₁ … β_K], and one all
correlations Xᵀ[ω₁∘r₁ … ω_K∘r_K]. Columns that have come to matter are kept by their fold, centred and weighted,
and the Gram matrix of those that were solved for exactly.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import NotConvergedError
from .cross_validation import Judged, Parameters
from .fold_paths import FoldPath
from .path import LassoPath
from .penalties import L1, Penalty
from .solvers.by_celer import available, celer_start
from .solvers.l1_quadratic import cholesky, l1_quadratic, solve_part

_FIRST = 200  # features that a fold takes up at once, or twice as many as are not zero
_ROUNDS = 100
_NEAR = 0.9  # share of a penalty from which on a correlation is looked at in an exact solve
_ROUGH, _FINE = 6e-3, 5e-4
_REMEMBERED = 12  # solutions to start from
_NEARBY = 0.05  # in log θ: an exact fit goes on from there directly
_LARGE = 200_000  # entries of X, from which on rough fits are worth their while


@dataclass(eq=False)
class FoldColumns:
    """The samples a fold is fitted on: columns √ω (x − x̄), kept once they are asked for, and √ω (y − ȳ).

    ``centre`` is x̄, ``mean`` ȳ, both 0 without an intercept; ``b`` (p,) all correlations at β = 0.
    """

    X: np.ndarray
    rows: np.ndarray
    root: np.ndarray
    centre: np.ndarray
    mean: float
    y: np.ndarray
    b: np.ndarray

    def __post_init__(self) -> None:
        p = self.X.shape[1]
        self.features = np.zeros(0, dtype=np.intp)
        self._place = np.full(p, -1)
        self._Z = np.empty((len(self.rows), 0), order="F")
        self._known = np.zeros(0, dtype=np.intp)  # features whose Gram matrix is known
        self._known_place = np.full(p, -1)
        self._G = np.empty((0, 0))

    def has(self) -> np.ndarray:
        """(p,): which columns are kept."""
        return self._place >= 0

    def add(self, features: np.ndarray) -> None:
        """Keep these columns."""
        new = features[self._place[features] < 0]
        if not len(new):
            return
        k, needed = len(self.features), len(self.features) + len(new)
        if needed > self._Z.shape[1]:
            grown = np.empty((len(self.rows), 2 * needed), order="F")
            grown[:, :k] = self._Z[:, :k]
            self._Z = grown
        part = self.X[:, new][self.rows]
        self._Z[:, k:needed] = self.root[:, None] * (part - self.centre[new])
        self._place[new] = np.arange(k, needed)
        self.features = np.concatenate([self.features, new])

    def all(self) -> np.ndarray:
        """The columns kept, in the order of ``features``."""
        return self._Z[:, : len(self.features)]

    def columns(self, features: np.ndarray) -> np.ndarray:
        """These columns."""
        self.add(features)
        return self._Z[:, self._place[features]]

    def gram(self, features: np.ndarray) -> np.ndarray:
        """Their inner products; what was computed once is kept."""
        new = features[self._known_place[features] < 0]
        k, needed = len(self._known), len(self._known) + len(new)
        if len(new):
            if needed > len(self._G):
                grown = np.empty((needed + needed // 2, needed + needed // 2))
                grown[:k, :k] = self._G[:k, :k]
                self._G = grown
            Z = self.columns(new)
            if k:
                cross = self.columns(self._known).T @ Z
                self._G[:k, k:needed], self._G[k:needed, :k] = cross, cross.T
            self._G[k:needed, k:needed] = Z.T @ Z
            self._known_place[new] = np.arange(k, needed)
            self._known = np.concatenate([self._known, new])
        at = self._known_place[features]
        return self._G[np.ix_(at, at)]

    def gram_once(self, features: np.ndarray) -> np.ndarray:
        """The same, of columns that may not matter again: nothing new is kept."""
        if np.all(self._known_place[features] >= 0):
            return self.gram(features)
        Z = self.columns(features)
        return Z.T @ Z

    def live(self, features: np.ndarray) -> np.ndarray:
        """Which of these columns are not constant."""
        return np.einsum("ij,ij->j", Z := self.columns(features), Z) > 0

    def correlations(self, beta: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """(p, m): the correlations of all columns with the residuals of m fits (support, coefficients)."""
        used = np.unique(np.concatenate([support for support, _ in beta]))
        coef = np.zeros((len(used), len(beta)))
        for i, (support, values) in enumerate(beta):
            coef[np.searchsorted(used, support), i] = values
        ends = np.zeros((self.X.shape[0], len(beta)))
        ends[self.rows] = self.root[:, None] * (self.y[:, None] - self.columns(used) @ coef)
        return self.X.T @ ends - np.outer(self.centre, ends.sum(axis=0))


@dataclass(eq=False)
class SharedFolds:
    """θ ↦ the mean squared error on held-out samples, fitted on all folds at once.

    As ``CrossValidation`` for least squares with ``L1``: ``parameters`` hold alpha, () or (p,), and perhaps
    rho. X (n, p) is dense; fold k fits on the rows ``splits[k][0]`` and is judged on ``splits[k][1]``.
    """

    X: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    splits: Sequence[tuple[np.ndarray, np.ndarray]]
    intercept: bool
    tol: float
    penalty: Callable[..., Penalty] = L1
    evaluations: int = 0
    folds: list[FoldColumns] = field(default_factory=list)

    def __post_init__(self) -> None:
        n, p = self.X.shape
        K = len(self.splits)
        self._rows = []  # a row that is repeated, as in a bootstrap, counts as often
        self.shift = float(self.weight @ self.y / self.weight.sum()) if self.intercept else 0.0
        self._y = self.y - self.shift
        self._omega, self._out = np.zeros((n, K)), np.zeros((n, K))
        for k, (fit_on, out) in enumerate(self.splits):
            rows, times = np.unique(fit_on, return_counts=True)
            self._rows.append(rows)
            self._omega[rows, k] = self.weight[rows] * times / self.weight[fit_on].sum()
            np.add.at(self._out[:, k], out, self.weight[out])
        centres = self.X.T @ self._omega if self.intercept else np.zeros((p, K), order="F")
        means = self._omega.T @ self._y if self.intercept else np.zeros(K)
        self._centres = centres
        self._means = means
        self._largest = max(float(self.X.max()), -float(self.X.min()))
        self._B = np.zeros((p, K), order="F")
        self._solved: list[tuple[np.ndarray, np.ndarray]] = []
        self._given = False  # whether the next start was given
        self._look()
        self.folds = []
        for k, rows in enumerate(self._rows):
            root = np.sqrt(self._omega[rows, k])
            self.folds.append(
                FoldColumns(
                    self.X,
                    rows,
                    root,
                    np.ascontiguousarray(centres[:, k]),
                    float(means[k]),
                    root * (self._y[rows] - means[k]),
                    np.ascontiguousarray(self._pull[:, k]),
                )
            )

    @property
    def gaps(self) -> tuple[float, float]:
        """Relative duality gaps with which a coarse path, and points between it, do; 0 is exact."""
        return (_ROUGH, _FINE) if available() and self.X.size >= _LARGE else (0.0, 0.0)

    def __call__(self, parameters: Parameters, gap: float = 0.0) -> Judged:
        """The error at these parameters, of fits to a duality ``gap`` relative to ‖y − ȳ‖²/2; 0: exact."""
        alpha = np.broadcast_to(parameters["alpha"], self.X.shape[1:])
        rho = float(parameters.get("rho", 0.0))
        here = np.log(np.maximum(np.append(alpha, rho), np.finfo(float).tiny))
        distance = self._start_near(here)
        if alpha.min(initial=1.0) <= 0 or (rho and np.ptp(alpha)):
            gap = 0.0
        elif start := gap or self.gaps[1] * (
            distance > _NEARBY
        ):  # active sets change slowly from afar
            self._roughly(alpha, rho, start)
        if not gap:
            self._exactly(alpha, rho)
        self._solved = [*self._solved[1 - _REMEMBERED :], (here, self._B.copy(order="F"))]
        self.evaluations += 1
        misfit = np.where(self._out > 0, self._residual, 0.0)
        losses = np.einsum("ik,ik,ik->k", self._out, misfit, misfit)
        shares = self._out.sum(axis=0)
        return Judged(
            float(losses.sum() / shares.sum()),
            losses / shares,
            self._slopes(parameters, -2 * self._out * misfit / shares.sum()),
        )

    def coefficients(self) -> list[np.ndarray]:
        """The folds' coefficients at the last parameters."""
        return [column.copy() for column in self._B.T]

    def on_all(self, parameters: Parameters) -> np.ndarray:
        """The coefficients of a fit on all samples, from those that most folds agree on."""
        rows = np.flatnonzero(self.weight > 0)
        whole = SharedFolds(
            self.X, self.y, self.weight, [(rows, rows)], self.intercept, self.tol, self.penalty
        )
        most = 2 * np.count_nonzero(self._B, axis=1) > len(self.splits)
        whole._begin([np.where(most, self._B.mean(axis=1), 0.0)])
        whole(parameters)
        return whole.coefficients()[0]

    def start(self, coefficients: list[np.ndarray]) -> None:
        """Coefficients that are next to the solution at the parameters that come next."""
        self._begin(coefficients)
        self._given = True

    def _begin(self, coefficients: list[np.ndarray]) -> None:
        self._B = np.asfortranarray(np.stack(coefficients, axis=1))
        for fold, beta in zip(self.folds, self._B.T, strict=True):
            fold.add(np.flatnonzero(beta))
        self._look()

    def paths(self, alpha: float, rho: float) -> list[FoldPath]:
        """The folds' exact paths in α from the last solutions, which are those at ``alpha``, downwards."""
        found = []
        for fold, coef, (_, out), pull in zip(
            self.folds, self.coefficients(), self.splits, self._pull.T, strict=True
        ):
            found.append(
                FoldPath(
                    LassoPath(fold, rho, (alpha, coef, np.ascontiguousarray(pull))),
                    lambda S, fold=fold, out=out: self.X[:, S][out] - fold.centre[S],
                    self._y[out] - fold.mean,
                    self.weight[out],
                )
            )
        return found

    def _look(self) -> None:
        """Residuals on all samples and correlations of all columns, for all folds."""
        residual = self._y[:, None] - self.X @ self._B
        if self.intercept:
            residual -= np.einsum("ik,ik->k", self._omega, residual)
        pull = self._omega * residual
        self._residual = residual
        self._pull = self.X.T @ pull - self._centres * pull.sum(axis=0)
        self._floor = 8 * np.finfo(float).eps * self._largest * np.abs(pull).sum(axis=0)

    def _start_near(self, here: np.ndarray) -> float:
        """Go back to the known solution with the nearest parameters, if it is not the last; how near."""
        if self._given:
            self._given = False
            return 0.0
        if not self._solved:
            return np.inf
        distances = [float(np.abs(there - here).max()) for there, _ in self._solved]
        nearest = int(np.argmin(distances))
        if distances[nearest] < distances[-1]:
            self._B = self._solved[nearest][1].copy(order="F")
            self._look()
        return distances[nearest]

    def _roughly(self, alpha: np.ndarray, rho: float, gap: float) -> None:
        """Celer on the columns that a fold keeps, until no others matter to the gap."""
        slack = np.sqrt(gap) / 3
        for done in range(_ROUNDS):
            moved = False
            for k, fold in enumerate(self.folds):
                excess = np.where(fold.has(), -np.inf, np.abs(self._pull[:, k]) - alpha)
                if done and not np.any(excess > slack * alpha):
                    continue
                self._take_up(fold, k, excess, 0.0)
                if len(at := fold.features):
                    start = self._B[at, k]
                    self._B[at, k] = celer_start(fold.all(), fold.y, alpha[at], start, gap, rho)
                moved = True
            if not moved:
                return
            self._look()

    def _exactly(self, alpha: np.ndarray, rho: float) -> None:
        """Active sets on the columns near their penalty, until none violates optimality."""
        looked = [np.zeros(len(alpha), dtype=bool) for _ in self.folds]
        for _ in range(_ROUNDS):
            moved = False
            for k, fold in enumerate(self.folds):
                gradient = self._pull[:, k] - rho * self._B[:, k]
                size = np.abs(gradient)
                tol = max(self.tol * max(size.max(initial=0.0), alpha.max()), self._floor[k])
                beta = self._B[:, k]
                off = np.where(beta == 0, size - alpha, np.abs(gradient - alpha * np.sign(beta)))
                if off.max(initial=0.0) <= tol:
                    continue
                self._take_up(fold, k, np.where(fold.has(), -np.inf, off), tol)
                looked[k] |= fold.has() & ((size >= _NEAR * alpha) | (beta != 0))
                at = np.flatnonzero(looked[k])
                H = fold.gram(at)
                if rho:
                    H[np.diag_indices_from(H)] += rho
                self._B[at, k] = l1_quadratic(H, fold.b[at], alpha[at], beta[at], tol / 4)
                moved = True
            if not moved:
                return
            self._look()
        raise NotConvergedError(
            "the folds' fits do not settle: standardise the columns of X, or raise the penalty."
        )

    def _take_up(self, fold: FoldColumns, k: int, excess: np.ndarray, tol: float) -> None:
        """Keep the columns that violate optimality most."""
        out = np.flatnonzero(excess > tol)
        most = max(_FIRST, int(np.count_nonzero(self._B[:, k])))
        if len(out) > most:
            out = out[np.argpartition(-excess[out], most)[:most]]
        fold.add(np.sort(out))

    def _slopes(
        self, parameters: Parameters, push: np.ndarray
    ) -> Callable[[], dict[str, np.ndarray]]:
        """The gradient of the error in log θ, when it is asked for: on the folds' supports."""
        supports = map(np.flatnonzero, self._B.T)
        held = [(S, self._B[S, k]) for k, S in enumerate(supports)]

        def gradient() -> dict[str, np.ndarray]:
            reach = self.X.T @ push - self._centres * push.sum(axis=0)
            slope = {name: np.zeros(np.shape(value)) for name, value in parameters.items()}
            for k, (S, beta) in enumerate(held):
                moved = self._adjoint(k, S, reach[S, k], float(parameters.get("rho", 0.0)))
                by_alpha = -np.sign(beta) * moved
                if np.ndim(parameters["alpha"]):
                    slope["alpha"][S] += by_alpha * parameters["alpha"][S]
                else:
                    slope["alpha"] += by_alpha.sum() * parameters["alpha"]
                if "rho" in slope:
                    slope["rho"] -= beta @ moved * parameters["rho"]
            return slope

        return gradient

    def _adjoint(self, k: int, S: np.ndarray, right: np.ndarray, rho: float) -> np.ndarray:
        """(Z_SᵀZ_S + ρI)⁻¹ right: on an independent part of it where the support is dependent."""
        from scipy.linalg import cho_solve

        H = self.folds[k].gram_once(S)
        H[np.diag_indices_from(H)] += rho
        if not len(S):
            return right
        if (factor := cholesky(H)) is None:
            return solve_part(H, right)
        return cho_solve(factor, right, check_finite=False)
