"""The certificate of a program at its solution: which pieces may switch, and whether all are regular.

U(V) = [[P, AᵀV], [A, V − I]] is invertible for every element V between V_lo and V_hi if and only if

    P a = 0, V_lo A a = 0   has only the solution a = 0    (strong second-order condition), and
    Aᵀw = 0, V_hi w = w     has only the solution w = 0    (nondegeneracy; LICQ for polyhedral K)

(THEORY §2). Both ask for the rank of a matrix, which does not change with the units of rows and
columns: the matrices are equilibrated by powers of two first.
"""

import math
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np

from .. import report as presentation
from ..errors import ConservaxError, InvalidInputError
from ..invertibility import Rigour, Verdict, Work
from ..invertibility.exact import determinant_sign
from ..numerics import machine_epsilon, singular_value_floor, solver_output_tolerance
from ..solvers.cones import Array, Cones
from .regularity import Drift, RankTest, margin_of_set
from .spectrum import Spectrum, Tolerances, unrotate
from .uniqueness import EQUALITY, Pieces, free_direction

_LARGEST_EXACT = 64  # rows of a determinant taken in rational arithmetic


@dataclass(frozen=True)
class ConstraintState:
    """A constraint as a kink: how far its nearest eigenvalue is from zero, where it may switch.

    Attributes:
        operation: "inequality", "second-order cone", "semidefinite cone", "exponential cone", "power
            cone" or "dual" one of the last two.
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
    For curved cones, whose eigenvectors are computed, it holds at v and at every point within
    round-off and ``residual``, relative, times the condition of the matrices; at an edge or the apex
    of an exponential or power cone the verdict is UNKNOWN.
    REFUTED: an element is singular to the precision of the data, or the solution was seen to move.

    Args:
        P: (n, n). A: (m, n). parts: of v at the solution, a batch of one. cones: K.
        residual: of the optimality conditions, relative to their terms.
        v: (m,), y − s; without it no distances are told, and for curved cones ``unique`` only where
            it follows from the second-order condition. tolerances: what counted as zero, (1, m) each.

    Source: the two-test theorem, THEORY §2; Bonnans, Shapiro (2000), for nondegeneracy; Davis, Kahan
    (1970), for the turning of eigenspaces; the normals at kinks of exponential and power cones are
    bounded beside their formulas (``operators.exponential_cone``, ``power_cone``).
    """
    pieces = _pieces(P, A, parts, cones)
    accurate = 1e3 * machine_epsilon(pieces.dtype)  # a smaller residual is round-off
    point = None if v is None else np.asarray(v, np.float64)
    tests = (
        RankTest(pieces, np.flatnonzero(pieces.low > 0), pieces.P),
        RankTest(pieces, np.flatnonzero(pieces.high == 1), None),
    )
    drift = Drift(pieces, point, residual)
    failed = [test.fails(drift, 0.0) for test in tests]
    left = [test.condition() for test, lost in zip(tests, failed, strict=True) if not lost]
    condition = max(left, default=1.0)
    strong, licq = (
        False if lost else test.holds(drift, condition) or None
        for test, lost in zip(tests, failed, strict=True)
    )
    unique, direction = _uniqueness(pieces, strong, tests[0], drift, point)
    strong = strong if unique is not False else False
    bounded = bool(parts.bounded[0])
    witness = _witness(pieces, drift, *tests, direction) if bounded else None
    verdict = Verdict.UNKNOWN
    if not bounded:
        strong = licq = None
    elif strong and licq:
        verdict = Verdict.PROVEN
    elif witness is not None:
        verdict = Verdict.REFUTED
    states = _states(pieces, point, tolerances)
    idle = [state for state in states if not state.active and not math.isnan(state.distance)]
    name = "nondegeneracy" if pieces.curved else "LICQ"
    told = (name, licq), ("second-order condition", strong), ("unique solution", unique)
    return ProgramReport(
        verdict=verdict,
        reason=_reason(verdict, pieces, direction, licq, strong) if bounded else _EDGE,
        method="two rank tests; " + ", ".join(f"{what}: {_ANSWERS[known]}" for what, known in told),
        margin=margin_of_set(pieces, drift) if verdict == Verdict.PROVEN else None,
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
_EDGE = (
    "the point lies at an edge or the apex of an exponential or power cone, where the set of elements is "
    "not known between two extremes."
)
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
    if not cones.polyhedral:
        T = np.asarray(unrotate(parts.basis, jnp.eye(len(low), dtype=dtype)[None], cones)[0])
        T = T.astype(np.float64)
        for _ in range(2):  # Newton's iteration for the orthogonal matrix next to T
            T = T @ (3 * np.eye(len(T)) - T.T @ T) / 2
    P_data, A_data = np.asarray(P, np.float64), np.asarray(A, np.float64)
    return Pieces((P_data + P_data.T) / 2, A_data, T, low, high, cones, dtype)


def _least_singular_value(pieces: Pieces, selection: np.ndarray) -> float:
    U = pieces.system(pieces.element(selection))
    return float(np.linalg.svd(U, compute_uv=False)[-1])


def _witness(
    pieces: Pieces,
    drift: Drift,
    second: RankTest,
    first: RankTest,
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
    pieces: Pieces, strong: bool | None, test: RankTest, drift: Drift, v: np.ndarray | None
) -> tuple[bool | None, np.ndarray | None]:
    """Where rank alone does not tell, a direction that was followed does."""
    if strong or (strong is None and not test.fails(drift, 1.0)):
        return strong, None
    if not pieces.cones.symmetric or (v is None and pieces.curved):
        return None, None
    if v is None:
        v = pieces.low + pieces.high - 1  # a polyhedral K looks alike at all points of these pieces
    unique, direction = free_direction(pieces, v, test.kernel, drift.residual)
    return (None if strong is None and unique else unique), direction


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
