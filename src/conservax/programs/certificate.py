"""The certificate of a program at its solution: which pieces may switch, and whether all are regular."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from scipy.linalg import null_space
from scipy.optimize import linprog

from ..invertibility import Verdict
from ..numerics import singular_value_floor
from ..solvers.cones import Array, Cones
from .spectrum import Spectrum, unrotate

_CLEAR = 100.0  # PROVEN asks for so many times the singular value that rounding could have made


@dataclass(frozen=True)
class ProgramWitness:
    """An element V of the Clarke Jacobian of the projection onto K*, with U(V) singular.

    ``element`` is V (m, m); ``null_vector`` = (a, w) has U(V) (a, w) ≈ 0, n + m numbers.
    """

    element: np.ndarray
    null_vector: np.ndarray
    sigma_min: float
    sigma_max: float


@dataclass(frozen=True)
class ProgramReport:
    """Whether U(V) = [[P, AᵀV], [A, V − I]] is invertible for every element V.

    Attributes:
        verdict: PROVEN, REFUTED or UNKNOWN, to the precision of the data; reason: one sentence.
        margin: a lower bound on σ_min over the whole set; None unless proven for polyhedral cones,
            or for others without a weakly active piece.
        witness: a singular element (None unless REFUTED).
        strongly_active, weakly_active: rows of A with a positive multiplier, and with neither
            multiplier nor slack; for other cones the rows of cones with a choice are weakly active.
        licq: whether the gradients of all active constraints are independent.
        second_order: whether P is positive definite where the strongly active ones stand still.
        unique: whether the primal solution is unique; None if not decided.
        direction: a feasible direction (n,) along which all points are solutions, if it is not.
        residual: of the optimality conditions, relative to their terms.
    """

    verdict: Verdict
    reason: str
    margin: float | None
    witness: ProgramWitness | None
    strongly_active: tuple[int, ...]
    weakly_active: tuple[int, ...]
    licq: bool
    second_order: bool
    unique: bool | None
    direction: np.ndarray | None
    residual: float


def certify_program(
    P_data: Array, A_data: Array, parts: Spectrum, cones: Cones, residual: float
) -> ProgramReport:
    """The two tests, by singular values of the two extreme systems.

    Args:
        P_data: (n, n). A_data: (m, n). parts: of v at the solution, a batch of one. cones: K.

    Source: the two-test theorem, THEORY §2.
    """
    dtype = np.dtype(A_data.dtype)
    low, high = (np.asarray(d[0], np.float64) for d in (parts.low, parts.high))
    m, n = A_data.shape
    eye = jnp.eye(m, dtype=dtype)[None]
    T = np.asarray(unrotate(parts.basis, eye, cones)[0], np.float64)
    P, A = np.asarray(P_data, np.float64), np.asarray(A_data, np.float64)
    systems = []
    for d in (low, high):
        V = (T * d) @ T.T
        U = np.block([[P, A.T @ V], [A, V - np.eye(m)]])
        _, values, right = np.linalg.svd(U)
        systems.append((V, U, values, right[-1], singular_value_floor(U, dtype)))
    rotated = T.T @ A
    clear = [values[-1] > _CLEAR * floor for _, _, values, _, floor in systems]
    lost = [values[-1] <= floor for _, _, values, _, floor in systems]
    witness = None
    for (V, _, values, null, _), gone in zip(systems, lost, strict=True):
        if gone and witness is None:
            witness = ProgramWitness(V, null, float(values[-1]), float(values[0]))

    choice = high > low
    rows_of_choice = np.any(np.abs(T[:, choice]) > 0, axis=1)
    strong = ~rows_of_choice & np.any((np.abs(T) > 0) & (low > 0), axis=1)
    stacked = np.vstack([P, rotated[low > 0]])
    kernel = _kernel(stacked, dtype)
    active = rotated[high == 1]
    licq = active.shape[0] == 0 or (
        active.shape[0] <= n
        and np.linalg.svd(active, compute_uv=False)[-1] > singular_value_floor(active, dtype)
    )
    unique, direction = _uniqueness(kernel, A, rows_of_choice, cones)

    if all(clear):
        verdict = Verdict.PROVEN
        count = int(choice.sum())
        reason = (
            "no constraint is weakly active and the system is regular."
            if count == 0
            else f"both extremes of the {count} weakly active pieces are regular, hence every element is."
        )
    elif witness is not None:
        verdict = Verdict.REFUTED
        reason = _refutation(direction, bool(licq), kernel.shape[1] == 0)
    else:
        verdict = Verdict.UNKNOWN
        reason = (
            "an extreme system is too close to singular for this precision; float64 data, better "
            "scaled, or a solution away from the degenerate point would decide it."
        )
    return ProgramReport(
        verdict,
        reason,
        _margin(systems, A, T, choice, cones) if verdict == Verdict.PROVEN else None,
        witness if verdict == Verdict.REFUTED else None,
        tuple(np.flatnonzero(strong).tolist()),
        tuple(np.flatnonzero(rows_of_choice).tolist()),
        bool(licq),
        kernel.shape[1] == 0,
        unique,
        direction,
        residual,
    )


def _kernel(matrix: np.ndarray, dtype: np.dtype) -> np.ndarray:
    size = float(np.linalg.norm(matrix, 2)) if matrix.size else 0.0
    return null_space(matrix, rcond=singular_value_floor(matrix, dtype) / size if size else 0.0)


def _uniqueness(
    kernel: np.ndarray, A: np.ndarray, weak: np.ndarray, cones: Cones
) -> tuple[bool | None, np.ndarray | None]:
    """Whether a direction a ≠ 0 with Pa = 0, A_α a = 0, A_β a ≤ 0 exists: it keeps the optimum."""
    if kernel.shape[1] == 0:
        return True, None
    if not weak.any():
        # a curved piece bends away: to first order only does the objective stand still
        polyhedral = not (cones.second_order or cones.semidefinite)
        return (False, kernel[:, 0]) if polyhedral else (None, None)
    if cones.second_order or cones.semidefinite:
        return None, None
    limits = A[weak] @ kernel
    for axis in range(kernel.shape[1]):
        for sign in (-1.0, 1.0):
            cost = np.zeros(kernel.shape[1])
            cost[axis] = sign
            found = linprog(cost, A_ub=limits, b_ub=np.zeros(len(limits)), bounds=(-1, 1))
            if found.status == 0 and found.fun < -1e-6:
                direction = kernel @ found.x
                return False, direction / np.linalg.norm(direction)
    return True, None


def _refutation(direction: np.ndarray | None, licq: bool, second_order: bool) -> str:
    if direction is not None:
        return "the solution is not unique: it moves freely along `direction`."
    if not licq:
        return (
            "the gradients of the active constraints are dependent, so the multipliers are not unique; "
            "drop redundant constraints, or move the data off the degenerate point."
        )
    if not second_order:
        return (
            "the objective is flat along a direction that only weakly active constraints hold; add "
            "curvature to P, or move the data off the degenerate point."
        )
    return "an extreme element is singular to the precision of the data."


def _margin(
    systems: list, A: np.ndarray, T: np.ndarray, choice: np.ndarray, cones: Cones
) -> float | None:
    """[‖U⁻¹‖ (1 + ‖H‖ ‖G U⁻¹‖ / μ)]⁻¹ from the least element, μ = λ_min of sym(I + G U⁻¹ H)."""
    _, U, values, _, _ = systems[0]
    if not choice.any():
        return float(values[-1])
    if cones.second_order or cones.semidefinite:
        return None
    G = np.hstack([np.zeros((int(choice.sum()), A.shape[1])), T[:, choice].T])
    H = np.vstack([A.T @ T[:, choice], T[:, choice]])
    GU = np.linalg.solve(U.T, G.T).T
    N = np.eye(len(G)) + GU @ H
    mu = float(np.linalg.eigvalsh((N + N.T) / 2)[0])
    if mu <= 0:
        return None
    bound = (1 + np.linalg.norm(H, 2) * np.linalg.norm(GU, 2) / mu) / values[-1]
    return float((1 - 1e-6) / bound)
