"""Clarabel's answer to a program in our order of rows."""

from typing import NamedTuple

import clarabel
import numpy as np
from scipy import sparse

from conservax.cones.table import Cones
from conservax.solution import Status

_STATUS = {
    "Solved": Status.SOLVED,
    "PrimalInfeasible": Status.PRIMAL_INFEASIBLE,
    "DualInfeasible": Status.DUAL_INFEASIBLE,
    "MaxIterations": Status.MAX_ITERATIONS,
}


class Answer(NamedTuple):
    """What is no clear answer ("almost" solved, or infeasible) counts as STALLED."""

    status: Status
    primal: np.ndarray
    dual: np.ndarray
    slack: np.ndarray
    value: float


def rows_for_clarabel(cones: Cones) -> np.ndarray:
    """Where Clarabel's rows stand in ours: it stacks the upper triangle by columns, we the lower."""
    order = list(range(cones.zero + cones.nonnegative + sum(cones.second_order)))
    for dim in cones.semidefinite:
        columns, rows = np.triu_indices(dim)  # our k-th entry is (rows[k], columns[k])
        place = {
            (row, column): len(order) + k
            for k, (row, column) in enumerate(zip(rows, columns, strict=True))
        }
        order += [place[j, i] for j in range(dim) for i in range(j + 1)]
    return np.array(order, int)


def clarabel_answer(P, c, A, b, cones: Cones, tolerance: float = 1e-9) -> Answer:
    """Solve min ½xᵀPx + cᵀx, Ax + s = b, s ∈ K by Clarabel."""
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = tolerance
    kinds = [clarabel.ZeroConeT(cones.zero)] if cones.zero else []
    kinds += [clarabel.NonnegativeConeT(cones.nonnegative)] if cones.nonnegative else []
    kinds += [clarabel.SecondOrderConeT(dim) for dim in cones.second_order]
    kinds += [clarabel.PSDTriangleConeT(dim) for dim in cones.semidefinite]
    order = rows_for_clarabel(cones)
    solver = clarabel.DefaultSolver(
        sparse.csc_matrix(np.triu(P)), c, sparse.csc_matrix(A[order]), b[order], kinds, settings
    )
    try:
        found = solver.solve()
    except BaseException as panic:  # Clarabel's own, when an eigenvalue routine meets NaN
        if type(panic).__name__ != "PanicException":
            raise
        nothing = np.full_like(b, np.nan)
        return Answer(Status.STALLED, np.full_like(c, np.nan), nothing, nothing, np.nan)
    dual, slack = np.zeros(len(b)), np.zeros(len(b))
    dual[order], slack[order] = found.z, found.s
    return Answer(
        _STATUS.get(str(found.status), Status.STALLED),
        np.array(found.x),
        dual,
        slack,
        float(found.obj_val),
    )
