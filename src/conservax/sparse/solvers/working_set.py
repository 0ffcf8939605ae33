"""min_β Σ ω_i ℓ(x_iᵀβ + b, y_i) + φ(β): Newton's method on a working set that grows by violation."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from ...errors import NotConvergedError
from ..datafits import Datafit
from ..design import Design, gram, is_sparse
from ..penalties import L1, Penalty
from .by_celer import available, celer_start
from .l1_quadratic import l1_quadratic
from .proximal import proximal_quadratic, rounding

ROUNDS = 100
_NEWTON = 60
_FIRST = 20, 300  # features in the first working set, and one in 20 between
_MANY = (
    30  # coefficients that join at once, from which on celer finds the signs sooner than pivots do
)
_ROUGH = 1e-3  # the relative duality gap to which it does on a working set
_FIRST_GAP = 6e-3  # and at the start, on all features
_LOOSE = 1e-7  # relative violation up to which round-off may end the progress
_EXCUSED = 1e-3  # and up to which a Gram matrix too large for the gradient excuses it


@dataclass(frozen=True, eq=False)
class Problem:
    """Everything of one fit: design (n, p), loss, targets (n,), weights ω (n,) that sum to 1, penalty."""

    design: Design
    datafit: Datafit
    y: np.ndarray
    omega: np.ndarray
    penalty: Penalty

    def loss_gradient(self, z: np.ndarray) -> np.ndarray:
        """ω ∂ℓ/∂z, (n, K)."""
        return self.omega[:, None] * self.datafit.gradient(z, self.y)

    def curvature(self, z: np.ndarray) -> np.ndarray:
        """ω ∂²ℓ/∂z², (n, K, K)."""
        return self.omega[:, None, None] * self.datafit.curvature(z, self.y)

    def gradient(self, z: np.ndarray) -> np.ndarray:
        """The loss's gradient in all coefficients."""
        return self.design.transposed(self.loss_gradient(z))

    def violation(self, coef: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """How far each coefficient is from optimal."""
        held = self.design.penalised
        inside = self.penalty.violation(coef[:held], gradient[:held])
        free = np.abs(gradient[held:])
        if self.datafit.quadratic:  # what the mean of y leaves by rounding
            rounding = 4 * np.finfo(float).eps * float(self.omega @ np.abs(self.y))
            free = np.where(free <= rounding, 0.0, free)
        return np.concatenate([inside, free])


class Outcome(NamedTuple):
    """A fit: coefficients, predictions and loss gradient there; ``solved``; rounds; what is left."""

    coef: np.ndarray
    z: np.ndarray
    gradient: np.ndarray
    solved: bool
    rounds: int
    violation: float

    def required(self) -> "Outcome":
        """This outcome, if it is a solution; NotConvergedError otherwise."""
        if not self.solved:
            raise NotConvergedError(
                f"a fit stopped with an optimality violation of {self.violation:.3g}: standardise the "
                "columns of X, or raise the penalty."
            )
        return self


def working_set(
    problem: Problem,
    start: np.ndarray | None = None,
    tol: float = 1e-10,
    rounds: int = ROUNDS,
    compiled: bool = True,
) -> Outcome:
    """Solve to a violation of ``tol`` relative to the gradient's largest entry.

    ``compiled``: let celer start large problems, where it is installed.

    Source: the working sets of Johnson and Guestrin (2015) and of skglm (Bertrand and others, 2022).

    >>> from conservax.sparse.datafits import Quadratic
    >>> y, omega = np.array([3.0, 1.0]), np.full(2, 0.5)
    >>> fit = Problem(Design(np.eye(2)), Quadratic(), y, omega, L1(np.array(0.5)))
    >>> working_set(fit).coef.round(9).tolist()
    [2.0, 0.0]
    """
    design = problem.design.centred(problem.omega)
    problem = replace(problem, design=design)
    coef = np.zeros(design.size) if start is None else np.array(design.to_centred(start), float)
    members = np.zeros(design.size, dtype=bool)
    state: _Subproblem | None = None
    grown = int(np.clip(design.size // 20, *_FIRST))
    best, floor, idle, done = np.inf, 0.0, 0, 0
    for done in range(rounds):
        z = design.predict(coef)
        pull = problem.loss_gradient(z)
        gradient = design.transposed(pull)
        if not done:
            noise = max(
                float(np.abs(gradient).max(initial=problem.penalty.scale)),
                float(np.abs(pull).sum()),
            )
            floor = 4 * np.finfo(float).eps * noise
        excess = problem.violation(coef, gradient)
        largest = float(excess.max(initial=0.0))
        scale = float(np.abs(gradient).max(initial=problem.penalty.scale))
        if largest <= max(tol * scale, floor) or not np.isfinite(largest):
            break
        idle = 0 if largest < 0.5 * best else idle + 1
        best = min(best, largest)
        if idle > 4 and largest <= _LOOSE * scale:
            break
        if not done and compiled and np.count_nonzero(excess > tol * scale) > _MANY:
            coef = _by_celer(problem, design.X, problem.penalty, coef, _FIRST_GAP)
            if design.intercept:
                coef[-1] += problem.omega @ (problem.y - design.predict(coef)[:, 0])
            z = design.predict(coef)
            gradient = problem.gradient(z)
            excess = problem.violation(coef, gradient)
        members |= coef != 0
        members[design.penalised :] = True
        outside = np.flatnonzero((excess > max(tol * scale, floor)) & ~members)
        if len(outside):
            top = outside[np.argsort(-excess[outside], kind="stable")[:grown]]
            members[problem.penalty.closure(top)] = True
            grown = max(grown, 2 * int(np.count_nonzero(coef)))
        rows = np.flatnonzero(members)
        state = _Subproblem.grow(state, problem, rows, compiled)
        target = max(tol * scale, floor) / 4
        if not problem.datafit.quadratic and len(outside):
            target = max(target, largest / 10)
        coef[rows] = state.minimise(coef[rows], z, target)
        if state.H is not None:
            floor = max(floor, min(rounding(np.abs(state.H), coef[rows]), _EXCUSED * scale))
    else:
        z = design.predict(coef)
        gradient = problem.gradient(z)
    left = float(problem.violation(coef, gradient).max(initial=0.0))
    scale = float(np.abs(gradient).max(initial=problem.penalty.scale))
    solved = bool(np.isfinite(left) and left <= max(max(tol, _LOOSE) * scale, floor))
    return Outcome(design.from_centred(coef), z, gradient, solved, done, left)


@dataclass(eq=False)
class _Subproblem:
    """The coefficients in ``rows`` alone; the last of them are intercepts."""

    problem: Problem
    rows: np.ndarray
    M: Any
    penalty: Penalty
    held: int
    H: np.ndarray | None
    compiled: bool

    @classmethod
    def grow(
        cls, old: "_Subproblem | None", problem: Problem, rows: np.ndarray, compiled: bool
    ) -> "_Subproblem":
        """The subproblem on more rows; of a quadratic loss only the new part of the Gram matrix is formed."""
        if old is not None and np.array_equal(old.rows, rows):
            return old
        inside = rows[rows < problem.design.penalised]
        M = problem.design.columns(rows)
        H = None
        if problem.datafit.quadratic:
            curvature = problem.omega[:, None, None]
            if old is None or old.H is None:
                H = gram(curvature, M)
            else:
                H = np.empty((len(rows), len(rows)))
                known = np.isin(rows, old.rows)
                H[np.ix_(known, known)] = old.H
                cross = gram(curvature, M, M[:, np.flatnonzero(~known)])
                H[:, ~known] = cross
                H[~known] = cross.T
        return cls(problem, rows, M, problem.penalty.restrict(inside), len(inside), H, compiled)

    def minimise(self, x: np.ndarray, z: np.ndarray, tol: float) -> np.ndarray:
        """One exact solve for a quadratic loss, else proximal Newton steps with a line search."""
        problem = self.problem
        if self.H is not None:
            return self._model(self.H, self.M.T @ problem.loss_gradient(z).ravel(), x, tol)
        damping = problem.datafit.damping
        for _ in range(_NEWTON):
            gradient = self.M.T @ problem.loss_gradient(z).ravel()
            excess = self._excess(x, gradient)
            if excess <= tol:
                break
            curvature = problem.curvature(z)
            if damping:
                bound = problem.datafit.curvature_bound or 1.0
                curvature = curvature + damping * bound * problem.omega[:, None, None]
            H = gram(curvature, self.M)
            mean = max(float(np.trace(H)) / max(len(H), 1), 1e-300)
            H[np.diag_indices_from(H)] += 1e-12 * mean
            if (
                len(x) - self.held > 1
            ):  # a common shift of several intercepts changes no loss: hold it
                H[self.held :, self.held :] += mean
            step = self._model(H, gradient, x, min(tol, 1e-3 * excess)) - x
            x, z, moved = self._search(x, step, z, gradient)
            if not moved and damping in (0.0, problem.datafit.damping):
                break
            damping = damping / 10 if moved else problem.datafit.damping
            damping = damping if damping > 1e-10 else 0.0
        return x

    def _model(self, H: np.ndarray, gradient: np.ndarray, x: np.ndarray, tol: float) -> np.ndarray:
        c = H @ x - gradient
        if isinstance(self.penalty, L1):
            weights = np.zeros(len(x))
            weights[: self.held] = self.penalty.alpha
            excess = self.penalty.violation(x[: self.held], gradient[: self.held])
            if self.compiled and np.count_nonzero(excess > tol) > _MANY:
                x = _by_celer(self.problem, self.M[:, : self.held], self.penalty, x, _ROUGH)
            if self.penalty.rho:
                H = H + np.diag(np.where(np.arange(len(x)) < self.held, self.penalty.rho, 0.0))
            return l1_quadratic(H, c, weights, x, tol)
        return proximal_quadratic(H, c, self.penalty, self.held, x, tol)

    def _excess(self, x: np.ndarray, gradient: np.ndarray) -> float:
        inside = self.penalty.violation(x[: self.held], gradient[: self.held])
        return max(inside.max(initial=0.0), np.abs(gradient[self.held :]).max(initial=0.0))

    def _search(
        self, x: np.ndarray, step: np.ndarray, z: np.ndarray, gradient: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, bool]:
        """The longest of 1, ½, ¼ … times the step that lowers the objective, or the violation at its end."""
        problem = self.problem
        moved_z = np.asarray(self.M @ step).reshape(z.shape)

        def objective(x: np.ndarray, z: np.ndarray) -> float:
            loss = problem.omega @ problem.datafit.value(z, problem.y)
            return float(loss + self.penalty.value(x[: self.held]))

        now = objective(x, z)
        before = self._excess(x, gradient)
        t = 1.0
        while t > 1e-10:
            new, new_z = x + t * step, z + t * moved_z
            if t == 1.0:  # near the end differences of the objective are rounding
                after = self._excess(new, self.M.T @ problem.loss_gradient(new_z).ravel())
                if after <= 0.5 * before:
                    return new, new_z, True
            if objective(new, new_z) < now:
                return new, new_z, True
            t /= 2
        return x, z, False


def _by_celer(problem: Problem, X: Any, penalty: Penalty, x: np.ndarray, gap: float) -> np.ndarray:
    """Nearer the solution, where celer can help: least squares, dense columns X, all penalised, no ridge.

    ``x`` holds the coefficients of the columns, and then the intercept if there is one.
    """
    if not isinstance(penalty, L1) or penalty.rho or not np.all(penalty.alpha > 0):
        return x
    if not problem.datafit.quadratic or is_sparse(X) or not X.shape[1] or not available():
        return x
    columns, weights, y, omega = X, penalty.weights(X.shape[1]), problem.y, problem.omega
    if problem.design.intercept:
        X, y = X - omega @ X, y - omega @ y
    if np.ptp(omega):
        root = np.sqrt(omega)
        found = celer_start(root[:, None] * X, root * y, weights, x[: len(weights)], gap)
    else:  # no copy of X
        found = celer_start(X, y, weights / omega[0], x[: len(weights)], gap)
    if not problem.design.intercept:
        return found
    return np.concatenate([found, [omega @ (problem.y - columns @ found)]])
