"""The certificate of a program at its solution: which pieces may switch, and whether all are regular.

U(V) = [[P, AᵀV], [A, V − I]] is invertible for every element V between V_lo and V_hi if and only if

    P a = 0, V_lo A a = 0   has only the solution a = 0    (strong second-order condition), and
    Aᵀw = 0, V_hi w = w     has only the solution w = 0    (nondegeneracy; LICQ for polyhedral K)

(docs/theory.md#two-tests). Both ask for the rank of a matrix, which does not change with the units of
rows and columns: the matrices are equilibrated by powers of two first.
"""

import math

import numpy as np

from ...arrays.namespace import Array, namespace
from ...cones.spectrum import Spectrum, Tolerances, unrotate
from ...cones.table import Cones
from ...invertibility import Rigour, Verdict
from ...invertibility.exact import determinant_sign
from ...numerics import machine_epsilon, singular_value_floor, solver_output_tolerance
from ..forward import accuracy
from .program_report import ConstraintState, ProgramReport, ProgramWitness
from .regularity import Drift, RankTest, margin_of_set
from .uniqueness import Pieces, free_direction

_LARGEST_EXACT = 64  # rows of a determinant taken in rational arithmetic


def certify_program(
    P: Array,
    A: Array,
    parts: Spectrum,
    cones: Cones,
    residual: float,
    v: Array | None = None,
    tolerances: Tolerances | None = None,
    left_out: bool = True,
) -> ProgramReport:
    """Whether every element is regular, by the ranks of two matrices.

    PROVEN is a theorem about the floats P and A with rounding accounted for: P stands for the
    positive semidefinite matrix next to it, and eigenvalues of v within the tolerance stand for zero.
    For curved cones, whose eigenvectors are computed, it holds at v and at every point within
    round-off and ``residual``, relative, times the condition of the matrices; at an edge or the apex
    of an exponential or power cone, and where ``parts`` is not bounded since the point is rough, the
    verdict is UNKNOWN.
    REFUTED: an element is singular to the precision of the data, or the solution was seen to move.

    Args:
        P: (n, n). A: (m, n). parts: of v at the solution, a batch of one. cones: K.
        residual: of the optimality conditions, relative to their terms.
        v: (m,), y − s; without it no distances are told, and for curved cones ``unique`` only where
            it follows from the second-order condition. tolerances: what counted as zero, (1, m) each.
        left_out: whether the variables that P leaves out are free at every element; if not, the
            verdict is UNKNOWN.

    Source: docs/theory.md#two-tests; Bonnans, Shapiro (2000), for nondegeneracy; Davis, Kahan
    (1970), for the turning of eigenspaces; the normals at kinks of exponential and power cones are
    bounded beside their formulas (``cones.kinds``).
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
    bounded = bool(parts.bounded[0]) and left_out
    witness = _witness(pieces, drift, *tests, direction) if bounded else None
    verdict = Verdict.UNKNOWN
    if not bounded:
        strong = licq = None
    elif strong and licq:
        verdict = Verdict.PROVEN
    elif witness is not None:
        verdict = Verdict.REFUTED
    reason = _reason(verdict, pieces, direction, licq, strong)
    if not bounded:
        reason = _HELD if not left_out else _ROUGH if residual > accuracy(float) else _EDGE
    states = _states(pieces, point, tolerances)
    dependent = _dependent(pieces, tests[1])
    idle = [state for state in states if not state.active and not math.isnan(state.distance)]
    name = "nondegeneracy" if pieces.curved else "LICQ"
    told = (name, licq), ("second-order condition", strong), ("unique solution", unique)
    return ProgramReport(
        verdict=verdict,
        reason=reason,
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
        dependent=dependent,
        residual=residual,
        tolerance=solver_output_tolerance(pieces.dtype, residual * (residual > accurate)).rtol,
        rigour=_rigour(pieces, witness, point),
        undecided=_UNDECIDED if verdict == Verdict.UNKNOWN and bounded else "",
        pieces=pieces,
    )


_ANSWERS = {True: "yes", False: "no", None: "not decided"}
_EDGE = (
    "the point lies at an edge or the apex of an exponential or power cone, where the set of elements is "
    "not known between two extremes."
)
_ROUGH = (
    "the polish did not bring the solution to round-off: its distance from a kink may be a root of what its "
    "residual is, so that it does not tell which pieces are active."
)
_HELD = (
    "a weakly active constraint touches an auxiliary variable that the solution leaves free, so that the "
    "system is singular at one of the elements; state the constraint without it, such as "
    "cp.SOC(cp.Constant(1), x) for cp.norm(x) <= 1."
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
        eye = namespace(parts.low).eye(len(low), dtype=parts.low.dtype)[None]
        T = np.asarray(unrotate(parts.basis, eye, cones)[0])
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


def _dependent(pieces: Pieces, first: RankTest) -> tuple[ConstraintState, ...]:
    """The constraints that the kernel of the nondegeneracy test touches."""
    if not first.kernel.size:
        return ()
    sizes = np.abs(pieces.T[:, first.index] @ first.kernel).max(axis=1)
    touched = sizes > machine_epsilon(pieces.dtype) ** 0.5 * sizes.max()
    return tuple(
        ConstraintState(
            part.kind,
            (part.number,),
            range(part.rows.start, part.rows.stop),
            math.nan,
            math.nan,
            (float(pieces.low[part.rows].min()), float(pieces.high[part.rows].max())),
            False,
        )
        for part in pieces.constraints
        if touched[part.rows].any()
    )


def _states(
    pieces: Pieces, v: np.ndarray | None, tolerances: Tolerances | None
) -> list[ConstraintState]:
    """Every constraint that can switch: its zero eigenvalues (active), and the next one (not)."""
    states = []
    for part in pieces.constraints:
        if not part.switches:
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
            return "no constraint is weakly active and the system is regular." + _vertex(pieces)
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
        "have one."
    )


def _vertex(pieces: Pieces) -> str:
    """Of a regular system without choice: as many active rows as unknowns hold x."""
    if pieces.curved or int((pieces.low > 0).sum()) < len(pieces.P):
        return ""
    return (
        " The derivative of the primal in the objective is zero, because the solution is a vertex: it does not "
        "move with P and c until another one is better. For a gradient that looks ahead take perturbed=τ."
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
