"""The certificate of a program at its solution: which pieces may switch, and whether all are regular.

U(V) = [[P, AᵀV], [A, V − I]] is invertible for every element V between V_lo and V_hi if and only if

    P a = 0, V_lo A a = 0   has only the solution a = 0    (strong second-order condition), and
    Aᵀw = 0, V_hi w = w     has only the solution w = 0    (nondegeneracy; LICQ for polyhedral K)

(THEORY §2). Both ask for the rank of a matrix, which does not change with the units of rows and
columns: the matrices are equilibrated by powers of two first.
"""

import math
from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np

from .. import report as presentation
from ..errors import ConservaxError, InvalidInputError
from ..invertibility import Rigour, Verdict, Work
from ..invertibility.bounds import (
    UNIT,
    cut,
    inverse_norm_bound,
    two_norm_bound,
    verified_inverse,
)
from ..invertibility.definite import definite_margin
from ..invertibility.exact import determinant_sign
from ..numerics import machine_epsilon, singular_value_floor, solver_output_tolerance
from ..solvers.cones import Array, Cones
from .spectrum import Spectrum, Tolerances, unrotate
from .uniqueness import EQUALITY, Constraint, Pieces, free_direction

_LARGEST_EXACT = 64  # rows of a determinant taken in rational arithmetic


@dataclass(frozen=True)
class ConstraintState:
    """A constraint as a kink: how far its nearest eigenvalue is from zero, where it may switch.

    Attributes:
        operation: "inequality", "second-order cone" or "semidefinite cone".
        index: its number within its kind. rows: of A and b.
        distance: the smallest |eigenvalue| of v = y − s there. tolerance: within which it counts as
            zero. slopes: the least and the greatest eigenvalue that V may take there.
        active: whether V has a choice there.
    """

    operation: str
    index: tuple[int, ...]
    rows: range
    distance: float
    tolerance: float
    slopes: tuple[float, float]
    active: bool

    @property
    def file(self) -> str:
        return "row"

    @property
    def line(self) -> int:
        return self.rows.start


@dataclass(frozen=True)
class ProgramWitness:
    """An element V of the Clarke Jacobian of the projection onto K*, with U(V) singular.

    ``selection`` holds the weights of the free eigenvalues: 0 for V_lo, 1 for V_hi; ``element`` is V
    (m, m); ``null_vector`` = (a, w), n + m numbers, a unit vector with U(V) (a, w) ≈ 0.
    """

    selection: np.ndarray
    element: np.ndarray
    null_vector: np.ndarray
    sigma_min: float
    sigma_max: float


@dataclass(frozen=True)
class ProgramReport:
    """Whether U(V) = [[P, AᵀV], [A, V − I]] is invertible for every element V.

    ``print(report)`` shows it, notebooks render it, ``to_dict`` gives JSON.

    Attributes:
        verdict: PROVEN, REFUTED or UNKNOWN; reason: one sentence; method: how it was decided.
        margin: a lower bound on σ_min over the whole set; None unless PROVEN and bounded.
        sigma_min: the smallest singular value met, at V_lo and V_hi.
        witness: a singular element (None unless REFUTED).
        strongly_active, weakly_active: rows of A with a positive multiplier, and with neither
            multiplier nor slack; of other cones the rows in which V has a choice are weakly active.
        kinks: the weakly active constraints, cone by cone; nearest_inactive: the next one beyond.
        licq: whether the gradients of all active constraints are independent (for second-order and
            semidefinite cones: whether the solution is nondegenerate); None if too close to tell.
        second_order: whether P is positive definite where the strongly active ones stand still (the
            strong second-order condition); None if too close to tell.
        unique: whether the primal solution is unique; None if not decided.
        direction: a unit vector (n,) along which the solution moves, if it is not.
        residual: of the optimality conditions, relative to their terms; tolerance: relative distance
            within which an eigenvalue counted as zero.
        rigour: EXACT if the verdict holds for the floats P and A with rounding accounted for.
        undecided: what would decide an UNKNOWN (else empty).
        pieces: P, A and the elements, for ``recheck``.
    """

    verdict: Verdict
    reason: str
    method: str
    margin: float | None
    sigma_min: float
    witness: ProgramWitness | None
    strongly_active: tuple[int, ...]
    weakly_active: tuple[int, ...]
    kinks: tuple[ConstraintState, ...]
    nearest_inactive: ConstraintState | None
    licq: bool | None
    second_order: bool | None
    unique: bool | None
    direction: np.ndarray | None
    residual: float
    tolerance: float
    rigour: Rigour
    undecided: str
    pieces: Pieces = field(repr=False, compare=False)

    def __str__(self) -> str:
        return presentation.to_text(self._shown())

    def _repr_html_(self) -> str:
        return presentation.to_html(self._shown())

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready data, verdicts in lower case."""
        return presentation.to_dict(self._shown()) | {
            "strongly_active": list(self.strongly_active),
            "weakly_active": list(self.weakly_active),
            "licq": self.licq,
            "second_order": self.second_order,
            "unique": self.unique,
            "direction": None if self.direction is None else self.direction.tolist(),
        }

    def recheck(self) -> tuple[float, float]:
        """σ_min and σ_max of the witness: its element built anew from its selection, and one SVD.

        Raises InvalidInputError if the report has no witness, and ConservaxError if the witness is
        not what the report says: a report that was altered, or a defect of this library.

        >>> import numpy as np
        >>> from conservax.programs import Cones, ConeProgram
        >>> program = ConeProgram(Cones(nonnegative=2))  # min x₁ over x₁, x₂ ≥ 0: x₂ is free
        >>> report = program.check(np.zeros((2, 2)), [1.0, 0.0], -np.eye(2), np.zeros(2))
        >>> report.recheck()[0] < 1e-12, np.abs(report.direction).tolist()
        (True, [0.0, 1.0])
        """
        if self.witness is None:
            raise InvalidInputError(
                f"the verdict is {self.verdict.name}: there is no witness to check; a witness is an "
                "element that is singular, and only a REFUTED has one."
            )
        U = self.pieces.system(self.pieces.element(self.witness.selection))
        values = np.linalg.svd(U, compute_uv=False)
        image = float(np.linalg.norm(U @ self.witness.null_vector))
        floor = singular_value_floor(U, self.pieces.dtype)
        if max(float(values[-1]), image) > self.witness.sigma_min + floor:
            raise ConservaxError(
                f"the witness does not hold: its element has σ_min = {values[-1]:.3g} and maps the "
                f"null vector to length {image:.3g}, the report says {self.witness.sigma_min:.3g}. "
                "Please report this."
            )
        return float(values[-1]), float(values[0])

    def _shown(self) -> SimpleNamespace:
        """What ``conservax.report`` reads."""
        return SimpleNamespace(
            **vars(self),
            work=Work(),
            n_vertices=2 if self.pieces.choice.any() else 1,
            determinant_signs=None,
            residual_scale=1.0,
            lipschitz=None,
            clarke_exact=None,
            solves=(),
            given_rules=(),
            proof=None,
        )


def certify_program(
    P: Array,
    A: Array,
    parts: Spectrum,
    cones: Cones,
    residual: float,
    v: Array | None = None,
    tolerances: Tolerances | None = None,
) -> ProgramReport:
    """Whether every element is regular, by the ranks of two matrices.

    PROVEN is a theorem about the floats P and A with rounding accounted for: P stands for the
    positive semidefinite matrix next to it, and eigenvalues of v within the tolerance stand for zero.
    For second-order and semidefinite cones, whose eigenvectors are computed, it holds at v and at
    every point within round-off and ``residual``, relative, times the condition of the matrices.
    REFUTED: an element is singular to the precision of the data, or the solution was seen to move.

    Args:
        P: (n, n). A: (m, n). parts: of v at the solution, a batch of one. cones: K.
        residual: of the optimality conditions, relative to their terms.
        v: (m,), y − s; without it no distances are told, and for curved cones ``unique`` only where
            it follows from the second-order condition. tolerances: what counted as zero, (1, m) each.

    Source: the two-test theorem, THEORY §2; Bonnans, Shapiro (2000), for nondegeneracy; Davis, Kahan
    (1970), for the turning of eigenspaces.
    """
    pieces = _pieces(P, A, parts, cones)
    accurate = 1e3 * machine_epsilon(pieces.dtype)  # a smaller residual is round-off
    point = None if v is None else np.asarray(v, np.float64)
    tests = (
        _RankTest(pieces, np.flatnonzero(pieces.low > 0), pieces.P),
        _RankTest(pieces, np.flatnonzero(pieces.high == 1), None),
    )
    drift = _Drift(pieces, point, residual)
    failed = [test.fails(drift, 0.0) for test in tests]
    left = [test.condition() for test, lost in zip(tests, failed, strict=True) if not lost]
    condition = max(left, default=1.0)
    strong, licq = (
        False if lost else test.holds(drift, condition) or None
        for test, lost in zip(tests, failed, strict=True)
    )
    unique, direction = _uniqueness(pieces, strong, tests[0], drift, point)
    strong = strong if unique is not False else False
    witness = _witness(pieces, drift, *tests, direction)
    verdict = Verdict.UNKNOWN
    if strong and licq:
        verdict = Verdict.PROVEN
    elif witness is not None:
        verdict = Verdict.REFUTED
    states = _states(pieces, point, tolerances)
    idle = [state for state in states if not state.active and not math.isnan(state.distance)]
    name = "nondegeneracy" if pieces.curved else "LICQ"
    told = (name, licq), ("second-order condition", strong), ("unique solution", unique)
    return ProgramReport(
        verdict=verdict,
        reason=_reason(verdict, pieces, direction, licq, strong),
        method="two rank tests; " + ", ".join(f"{what}: {_ANSWERS[known]}" for what, known in told),
        margin=_margin(pieces, drift) if verdict == Verdict.PROVEN else None,
        sigma_min=min(_least_singular_value(pieces, q) for q in pieces.extremes),
        witness=witness,
        strongly_active=_rows(pieces, (pieces.low > 0) & ~pieces.choice, pieces.choice),
        weakly_active=_rows(pieces, pieces.choice, np.zeros(len(pieces.T), bool)),
        kinks=tuple(state for state in states if state.active),
        nearest_inactive=min(idle, key=lambda state: state.distance, default=None),
        licq=licq,
        second_order=strong,
        unique=unique,
        direction=direction,
        residual=residual,
        tolerance=solver_output_tolerance(pieces.dtype, residual * (residual > accurate)).rtol,
        rigour=_rigour(pieces, witness, point),
        undecided=_UNDECIDED if verdict == Verdict.UNKNOWN else "",
        pieces=pieces,
    )


_ANSWERS = {True: "yes", False: "no", None: "not decided"}
_UNDECIDED = (
    "a more accurate solution, float64 data, or data of similar sizes would tell this system from a "
    "singular one."
)


def _pieces(P: Array, A: Array, parts: Spectrum, cones: Cones) -> Pieces:
    dtype = np.dtype(A.dtype)
    low, high = (np.asarray(d[0], np.float64) for d in (parts.low, parts.high))
    edge = 8 * machine_epsilon(dtype)  # what rounding made of 0 and 1
    low, high = (np.where(d <= edge, 0.0, np.where(d >= 1 - edge, 1.0, d)) for d in (low, high))
    T = np.eye(len(low))
    if cones.second_order or cones.semidefinite:
        T = np.asarray(unrotate(parts.basis, jnp.eye(len(low), dtype=dtype)[None], cones)[0])
        T = T.astype(np.float64)
        for _ in range(2):  # Newton's iteration for the orthogonal matrix next to T
            T = T @ (3 * np.eye(len(T)) - T.T @ T) / 2
    P_data, A_data = np.asarray(P, np.float64), np.asarray(A, np.float64)
    return Pieces((P_data + P_data.T) / 2, A_data, T, low, high, cones, dtype)


class _Drift:
    """How far errors in v and rounding turn the eigenspaces of a curved cone (by Davis, Kahan)."""

    def __init__(self, pieces: Pieces, v: np.ndarray | None, residual: float) -> None:
        self.parts = [part for part in pieces.constraints if part.curved]
        self.v = v
        self.low, self.high = pieces.low, pieces.high
        self.unit = 16 * machine_epsilon(pieces.dtype)
        self.residual = residual
        T = pieces.T
        defect = float(np.linalg.norm(T.T @ T - np.eye(len(T)))) if self.parts else 0.0
        self.basis = 2 * defect + 8 * (len(T) + 4) * UNIT * bool(self.parts)

    def turned(self, part: Constraint, above: int, condition: float) -> float:
        """A bound on the change of the columns of T that belong to the ``above`` greatest eigenvalues.

        v moves by round-off, and by ``condition`` times its own relative error.
        """
        if self.v is None:
            return self.basis
        values = part.eigenvalues(self.v)
        if above in (0, len(values)):
            return self.basis
        round_off = self.unit * part.order
        error = round_off + (round_off + self.residual) * condition
        error *= float(np.linalg.norm(self.v[part.rows]))
        gap = float(values[above - 1] - values[above]) - 2 * error
        return self.basis + (3 * error / gap if gap > 0 else math.inf)

    def of_rows(self, scale: np.ndarray, A: np.ndarray, positive: bool, condition: float) -> float:
        """‖·‖_F of the error in the rows of diag(scale) TᵀA; those of scale 0 do not count."""
        total = 0.0
        for part in self.parts:
            size = float(np.linalg.norm(scale[part.rows]))
            if size > 0:
                count = part.counts(self.low, self.high)
                angle = self.turned(part, count[0] + (0 if positive else count[1]), condition)
                total += (angle * size * float(np.linalg.norm(A[part.rows]))) ** 2
        return math.sqrt(total)

    @cached_property
    def largest(self) -> float:
        """Of all angles, those of eigenspaces that round-off already mixes left out."""
        angles = [
            self.turned(part, above, 0.0)
            for part in self.parts
            for count in [part.counts(self.low, self.high)]
            for above in (count[0], sum(count))
        ]
        return max((angle for angle in angles if math.isfinite(angle)), default=0.0)

    def of_system(self, pieces: Pieces, angle: float) -> float:
        """‖·‖ of the error in U(V), where rounding, and ``angle``, changed V = T diag(d) Tᵀ."""
        if not self.parts:
            return 0.0
        element = 2 * max(self.basis, angle) + self.unit + 4 * len(pieces.T) ** 1.5 * UNIT
        return element * math.hypot(1.0, float(np.linalg.norm(pieces.A)))


class _RankTest:
    """Whether a matrix M = R N C of the pieces has a trivial kernel; R, C only change the units.

    N is [P; TᵀA] for the second-order condition and (TᵀA)ᵀ for nondegeneracy, TᵀA restricted to the
    rows ``index``; ``kernel`` is an orthonormal basis of its kernel, once ``holds`` has found one.
    """

    def __init__(self, pieces: Pieces, index: np.ndarray, P: np.ndarray | None) -> None:
        rows = (pieces.T.T @ pieces.A)[index]
        n = rows.shape[1]
        self.curvature = np.zeros((n, n)) if P is None else P
        c, r = _equilibrate(self.curvature, _sizes(pieces)[index])
        self.curvature = c[:, None] * self.curvature * c
        size = float(np.abs(self.curvature).max(initial=0.0))
        self.curvature *= math.ldexp(1.0, -round(math.log2(size))) if size > 0 else 1.0
        rows = r[:, None] * rows * c
        self.strict = P is not None  # only rows of positive multipliers count
        self.M, self.inner = (np.vstack([self.curvature, rows]), c) if self.strict else (rows.T, r)
        self.pieces, self.index = pieces, index
        self.A, self.scale = pieces.A * c, np.zeros(len(pieces.A))
        self.scale[index] = r
        self.kernel = np.zeros((len(self.inner), 0))
        count = self.M.shape[1]
        self.left, values, self.right = np.linalg.svd(self.M) if count else (np.eye(n), r, r)
        self.values = np.pad(values, (0, count - len(values)))

    def condition(self) -> float:
        """How much larger the data are than σ_min; a rotated M may be small by cancellation alone."""
        if not len(self.values):
            return 1.0
        parts = [part.rows for part in self.pieces.constraints if part.curved]
        sizes = (np.linalg.norm(self.scale[own]) * np.linalg.norm(self.A[own]) for own in parts)
        return float(max(self.values[0], *sizes, 0.0) / self.values[-1])

    def fails(self, drift: "_Drift", condition: float) -> bool:
        """Whether M is singular to the precision at hand; finds the kernel."""
        slight = drift.of_rows(self.scale, self.A, self.strict, condition)
        floor = singular_value_floor(self.M, self.pieces.dtype)
        lost = self.values <= floor + (slight if math.isfinite(slight) else 0.0)
        self.kernel = np.linalg.qr(self.inner[:, None] * self.right[lost].T)[0]
        return bool(lost.any())

    def holds(self, drift: "_Drift", condition: float) -> bool:
        """Whether the kernel is trivial for sure, rounding accounted for."""
        count = self.M.shape[1]
        if count == 0:
            return True
        # other columns beside M: the square matrix is regular only if M has full rank
        square = np.hstack([self.M, self.left[:, count:]])
        inverse = verified_inverse(square)
        if inverse is None:
            return False
        least = (1 - 4 * UNIT) / inverse_norm_bound(square, inverse)
        doubt = drift.of_rows(self.scale, self.A, self.strict, condition)
        return least > doubt + _indefinite(self.curvature)


def _sizes(pieces: Pieces) -> np.ndarray:
    """|TᵀA|; in a rotated cone the norms of A's columns, for short rows may be nothing but rounding."""
    sizes = np.abs(pieces.A)
    for part in pieces.constraints:
        if part.curved:
            sizes[part.rows] = np.linalg.norm(sizes[part.rows], axis=0)
    return sizes


def _equilibrate(P: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Powers of two c, r for which c P c and r ``rows`` c have rows and columns of similar sizes."""
    c, r = np.ones(rows.shape[1]), np.ones(len(rows))
    P = np.abs(P)
    for _ in range(8):
        scaled, across = c[:, None] * P * c, r[:, None] * rows * c
        widest = np.maximum(scaled.max(axis=0, initial=0.0), across.max(axis=0, initial=0.0))
        longest = across.max(axis=1, initial=0.0)
        c /= np.sqrt(np.where(widest > 0, widest, 1.0))
        r /= np.sqrt(np.where(longest > 0, longest, 1.0))
    c, r = (np.ldexp(1.0, np.rint(np.log2(scale)).astype(int)) for scale in (c, r))
    return c, r


def _indefinite(P: np.ndarray) -> float:
    """A bound on the distance of a symmetric P from the positive semidefinite matrices."""
    if not P.any() or definite_margin(P) > 0:
        return 0.0
    rounding = 4 * len(P) * UNIT * float(np.linalg.norm(P))
    return max(0.0, -float(np.linalg.eigvalsh(P)[0])) + rounding


def _least_singular_value(pieces: Pieces, selection: np.ndarray) -> float:
    U = pieces.system(pieces.element(selection))
    return float(np.linalg.svd(U, compute_uv=False)[-1])


def _witness(
    pieces: Pieces,
    drift: _Drift,
    second: _RankTest,
    first: _RankTest,
    direction: np.ndarray | None,
) -> ProgramWitness | None:
    """V_lo with (a, Aa), or V_hi with (0, w), where U(V) maps it to zero to the precision at hand.

    A direction that was followed is proof enough that V_lo is singular but for errors of the solution.
    """
    least, greatest = pieces.extremes[0], pieces.extremes[-1]
    found = [(least, np.concatenate([a, pieces.A @ a])) for a in second.kernel.T]
    basis, zeros = pieces.T[:, first.index], np.zeros(len(pieces.P))
    found += [(greatest, np.concatenate([zeros, basis @ w])) for w in first.kernel.T]
    slight = drift.of_system(pieces, drift.largest)
    for selection, null in found:
        V = pieces.element(selection)
        U, null = pieces.system(V), null / np.linalg.norm(null)
        if np.linalg.norm(U @ null) <= singular_value_floor(U, pieces.dtype) + slight:
            values = np.linalg.svd(U, compute_uv=False)
            return ProgramWitness(selection, V, null, float(values[-1]), float(values[0]))
    if direction is None:
        return None
    V = pieces.element(least)
    _, values, right = np.linalg.svd(pieces.system(V))
    return ProgramWitness(least, V, right[-1], float(values[-1]), float(values[0]))


def _uniqueness(
    pieces: Pieces, strong: bool | None, test: _RankTest, drift: _Drift, v: np.ndarray | None
) -> tuple[bool | None, np.ndarray | None]:
    """Where rank alone does not tell, a direction that was followed does."""
    if strong or (strong is None and not test.fails(drift, 1.0)):
        return strong, None
    if v is None:
        if pieces.curved:
            return None, None
        v = pieces.low + pieces.high - 1  # a polyhedral K looks alike at all points of these pieces
    unique, direction = free_direction(pieces, v, test.kernel, drift.residual)
    return (None if strong is None and unique else unique), direction


def _margin(pieces: Pieces, drift: _Drift) -> float | None:
    """A lower bound on σ_min(U(V)) over V = V_lo + T_c Δ^½ D Δ^½ T_cᵀ, 0 ≼ D ≼ I, Δ = high − low.

    U(V) = U₀ + H D G from either end, so σ_min ≥ [‖U₀⁻¹‖ (1 + ‖H‖ ‖G U₀⁻¹‖ / μ)]⁻¹ with
    μ = λ_min of sym(I + G U₀⁻¹ H) (THEORY §1); every quantity is bounded on the safe side.
    """
    root = np.sqrt((pieces.high - pieces.low)[pieces.choice])
    spread = pieces.T[:, pieces.choice] * root
    G = np.hstack([np.zeros((len(root), len(pieces.P))), spread.T])
    H = np.vstack([pieces.A.T @ spread, spread])
    bounds = [
        _base_margin(pieces.system(pieces.element(q)), sign * H, G)
        for q, sign in zip(pieces.extremes, (1.0, -1.0), strict=False)
    ]
    best = max(bounds) - drift.of_system(pieces, 0.0)
    return best if best > 0 else None


def _base_margin(U: np.ndarray, H: np.ndarray, G: np.ndarray) -> float:
    inverse = verified_inverse(U)
    if inverse is None:
        return 0.0
    norm = inverse_norm_bound(U, inverse)
    if len(G) == 0:
        return (1 - 8 * UNIT) / norm
    M, radius = cut(U, H, G, np.zeros((len(G), len(G))))
    N = np.eye(len(G)) - M
    doubt = len(G) * radius + 4 * UNIT * (float(np.linalg.norm(N)) + 1)
    mu = definite_margin((N + N.T) / 2) - doubt if math.isfinite(radius) else 0.0
    if not mu > 0:
        return 0.0
    across = two_norm_bound(G @ inverse.R)
    across += float(np.linalg.norm(G)) * (
        inverse.defect * norm + len(U) * UNIT * float(np.linalg.norm(inverse.R))
    )
    return (1 - 16 * UNIT) / (norm * (1 + two_norm_bound(H) * across / mu))


def _rows(pieces: Pieces, columns: np.ndarray, others: np.ndarray) -> tuple[int, ...]:
    """The rows in which T has an entry in these columns, and in ``others`` none."""
    touched = np.any(pieces.T[:, columns] != 0, axis=1)
    return tuple(np.flatnonzero(touched & ~np.any(pieces.T[:, others] != 0, axis=1)).tolist())


def _states(
    pieces: Pieces, v: np.ndarray | None, tolerances: Tolerances | None
) -> list[ConstraintState]:
    """Every constraint that can switch: its zero eigenvalues (active), and the next one (not)."""
    states = []
    for part in pieces.constraints:
        if part.kind == EQUALITY:
            continue
        low, high = pieces.low[part.rows], pieces.high[part.rows]
        choice = high > low
        positive, zero = part.counts(pieces.low, pieces.high)
        values = part.eigenvalues(v) if v is not None else np.full(positive + zero + 1, math.nan)
        zeros = slice(positive, positive + zero)
        groups = ((values[zeros], choice, True), (np.delete(values, zeros), ~choice, False))
        for own, rows, active in groups:
            if len(own) and rows.any():
                nearest = float(own[np.argmin(np.abs(own))])
                limit = math.nan
                if tolerances is not None:
                    side = tolerances.dual if nearest >= 0 else tolerances.slack
                    limit = float(np.max(np.asarray(side)[0, part.rows]))
                ends = float(low[rows].min()), float(high[rows].max())
                spot = range(part.rows.start, part.rows.stop)
                states.append(
                    ConstraintState(
                        part.kind, (part.number,), spot, abs(nearest), limit, ends, active
                    )
                )
    return states


def _reason(
    verdict: Verdict,
    pieces: Pieces,
    direction: np.ndarray | None,
    licq: bool | None,
    strong: bool | None,
) -> str:
    count = int(pieces.choice.sum())
    pieces_of = f"{count} weakly active piece{'s' if count != 1 else ''}"
    if verdict == Verdict.PROVEN:
        if count == 0:
            return "no constraint is weakly active and the system is regular."
        return f"both extremes of the {pieces_of} are regular, hence every element is."
    if verdict == Verdict.UNKNOWN:
        return "an extreme system is too close to singular for this precision."
    if direction is not None:
        return "the solution is not unique: it moves freely along `direction`."
    if strong is False:
        return (
            "the objective is flat along a direction that no strongly active constraint holds; add "
            "curvature to P, or move the data off the degenerate point."
        )
    gradients = (
        "normals of the faces in use" if pieces.curved else "gradients of active constraints"
    )
    return (
        f"the {gradients} are dependent, so (primal, dual) has no derivative, though the primal alone may "
        "still have one; drop redundant constraints, or move the data off the degenerate point."
    )


def _rigour(pieces: Pieces, witness: ProgramWitness | None, v: np.ndarray | None) -> Rigour:
    """EXACT for a witness of exact zeros: polyhedral, at v exactly, with a determinant exactly zero."""
    if witness is None:
        return Rigour.EXACT
    sure = not pieces.curved and len(pieces.P) + len(pieces.A) <= _LARGEST_EXACT
    if not sure or (pieces.choice.any() and (v is None or np.any(v[pieces.choice] != 0))):
        return Rigour.AT_TOLERANCE
    U = pieces.system(witness.element)
    none = np.zeros((len(U), 0)), np.zeros((0, len(U))), np.zeros((0, 0))
    singular = determinant_sign((U, *none), np.zeros(0)) == 0
    return Rigour.EXACT if singular else Rigour.AT_TOLERANCE
