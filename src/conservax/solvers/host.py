"""Solvers of one cone program on the host, in double precision: Moreau, Clarabel, SCS."""

import functools
import importlib
import importlib.util
from collections.abc import Callable
from enum import IntEnum
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import scipy

from ..cones.table import Cones, families
from ..errors import InvalidInputError, MissingPackageError
from ..solution import Status
from .matrices import SparseMatrix, column_major, with_values

_TOLERANCE = 1e-8
_FEW = 200  # iterations of SCS, where Clarabel follows
_SHIFT = 1e-7  # of the pivots of Clarabel's factors; its refinement takes it back
_LAST_RESORT = 2000  # iterations of SCS, where nobody else has decided


class Solver(IntEnum):
    """What solved a program; an int8 array inside jit."""

    INTERIOR_POINT = 0
    CLARABEL = 1
    SCS = 2
    MOREAU = 3


class Answer(NamedTuple):
    """Of one program: status, iterations, x (n,), y and s (m,)."""

    status: int
    iterations: int
    x: np.ndarray
    y: np.ndarray
    s: np.ndarray


def package(solver: Solver) -> ModuleType:
    """The module of a solver; MissingPackageError names the remedy."""
    name = solver.name.lower()
    try:
        return importlib.import_module(_module(solver))
    except ImportError:
        raise MissingPackageError(
            f"the solver {name} is not installed, which programs on the host and "
            f'solver="{name}" need: pip install "conservax[programs]", or pip install {name}.'
        ) from None


@functools.cache
def is_installed(solver: Solver) -> bool:
    """Whether a solver is here; Moreau has no wheels for Windows, and none for macOS on Intel."""
    return importlib.util.find_spec(_module(solver)) is not None


def _module(solver: Solver) -> str:
    # the part of Moreau that solves; the rest of it looks for PyTorch as it is imported
    return "moreau_cpu" if solver == Solver.MOREAU else solver.name.lower()


def matrices_of(matrix: Any, by_rows: bool = False) -> Callable[[int], Any]:
    """k ↦ the k-th matrix of a batch, dense or sparse, CSC or CSR, in double precision; one may serve all.

    Where the entries of sparse ones stand is found once for the batch, and shared: not to be changed.
    """
    kind = scipy.sparse.csr_matrix if by_rows else scipy.sparse.csc_matrix
    if not isinstance(matrix, SparseMatrix):
        values = np.asarray(matrix, np.float64)
        if len(values) == 1:
            shared = kind(values[0])
            return lambda item: shared
        return lambda item: kind(values[item])
    shape, matrix = matrix.shape, column_major(matrix)
    values = np.asarray(matrix.values, np.float64)
    pointers = np.searchsorted(matrix.columns, np.arange(shape[1] + 1)).astype(np.int32)
    places = np.arange(values.shape[1]), matrix.rows.astype(np.int32), pointers
    pattern = kind(scipy.sparse.csc_matrix(places, shape=shape))
    if by_rows:
        values = values.take(pattern.data, axis=1)
    return lambda item: with_values(pattern, values[item if len(values) > 1 else 0])


def relative_gap(P: Any, c: np.ndarray, b: np.ndarray, answer: Answer) -> float:
    """|xᵀPx + cᵀx + bᵀy| beside the largest of its terms."""
    x, y = answer.x, answer.y
    terms = np.array([x @ (P @ x), c @ x, b @ y])
    size = np.abs(terms).max()
    return float(abs(terms.sum()) / (size if size > 0 else 1.0))


def nothing(status: Status, n: int, m: int) -> Answer:
    """No point."""
    return Answer(status, 0, *(np.full(size, np.nan) for size in (n, m, m)))


@functools.cache
def rows_for_clarabel(cones: Cones) -> tuple[Any, Any] | None:
    """R and R⁻¹ with s_Clarabel = R s: matrices by upper triangles, and no duals of curved cones."""
    both = [block.onto_clarabel() for block, _ in cones.pieces]
    if not any(both):
        return None  # the identity
    eyes = (scipy.sparse.eye(block.size) for block, _ in cones.pieces)
    both = [pair or (eye, eye) for pair, eye in zip(both, eyes, strict=True)]
    forth, back = ([pair[k] for pair in both] for k in (0, 1))
    return scipy.sparse.block_diag(forth, format="csr"), scipy.sparse.block_diag(back, format="csr")


def _clarabel(
    cones: Cones, tolerance: float, max_iterations: int | None, **options: Any
) -> Callable[..., Answer]:
    clarabel = package(Solver.CLARABEL)
    settings = clarabel.DefaultSettings()
    for name, value in options.items():
        setattr(settings, name, value)
    settings.verbose = False
    # with shifts of its own it often ends at the first step, where rows are dense and P = 0
    settings.static_regularization_constant = _SHIFT
    settings.dynamic_regularization_enable = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = tolerance
    if max_iterations is not None:
        settings.max_iter = max_iterations
    turned = rows_for_clarabel(cones)
    kinds = [kind for block, _ in cones.pieces for kind in block.for_clarabel(clarabel)]
    statuses = {
        "Solved": Status.SOLVED,
        "PrimalInfeasible": Status.PRIMAL_INFEASIBLE,
        "DualInfeasible": Status.DUAL_INFEASIBLE,
        "MaxIterations": Status.MAX_ITERATIONS,
    }

    def solve(P: Any, c: np.ndarray, A: Any, b: np.ndarray) -> Answer:
        rows, right = (A, b) if turned is None else (turned[0] @ A, turned[0] @ b)
        rows = scipy.sparse.csc_matrix(rows)
        try:
            found = clarabel.DefaultSolver(_upper(P), c, rows, right, kinds, settings).solve()
        except BaseException as panic:  # Clarabel's own, where an eigenvalue routine meets NaN
            if type(panic).__name__ != "PanicException":
                raise
            return nothing(Status.STALLED, len(c), len(b))
        status = statuses.get(str(found.status), Status.STALLED)
        y, s = np.array(found.z), np.array(found.s)
        if turned is not None:
            y, s = turned[0].T @ y, turned[1] @ s
        return Answer(status, found.iterations, np.array(found.x), y, s)

    return solve


def _upper(P: "scipy.sparse.csc_matrix") -> "scipy.sparse.csc_matrix":
    """The upper triangle of a CSC matrix."""
    n = P.shape[1]
    columns = np.repeat(np.arange(n), np.diff(P.indptr))
    kept = P.indices <= columns
    if kept.all():
        return P
    pointers = np.searchsorted(columns[kept], np.arange(n + 1)).astype(P.indptr.dtype)
    return scipy.sparse.csc_matrix((P.data[kept], P.indices[kept], pointers), shape=P.shape)


def _scs(cones: Cones, tolerance: float, max_iterations: int | None) -> Callable[..., Answer]:
    scs = package(Solver.SCS)
    kinds: dict[str, Any] = {}
    for name, family in families(type(cones)).items():
        value = getattr(cones, name)
        if family.scs is not None:
            kinds[family.scs] = family.for_scs(value)
        elif value:
            raise InvalidInputError(f'SCS has no {name} cones: solve with solver="clarabel".')
    options = {"verbose": False, "eps_abs": tolerance, "eps_rel": tolerance}
    if max_iterations is not None:
        options["max_iters"] = max_iterations
    statuses = {
        1: Status.SOLVED,
        -1: Status.DUAL_INFEASIBLE,
        -2: Status.PRIMAL_INFEASIBLE,
        2: Status.MAX_ITERATIONS,
    }

    def solve(P: Any, c: np.ndarray, A: Any, b: np.ndarray) -> Answer:
        data = {
            "P": _upper(P),
            "A": scipy.sparse.csc_matrix(A),
            "b": np.array(b),
            "c": np.array(c),
        }
        found = scs.SCS(data, kinds, **options).solve()
        info = found["info"]
        status = statuses.get(info["status_val"], Status.STALLED)
        return Answer(status, info["iter"], found["x"], found["y"], found["s"])

    return solve


class _ActiveSet:
    """Moreau's active-set method for programs of one shape; a solver to each thread, kept."""

    def __init__(self, n: int, m: int, zero: int, max_iterations: int | None) -> None:
        self.sizes, self.idle = (n, m, zero, max_iterations), list[Any]()

    def take(self) -> Any:
        try:
            return self.idle.pop()
        except IndexError:
            pass
        moreau = package(Solver.MOREAU)
        n, m, zero, max_iterations = self.sizes
        limit = {} if max_iterations is None else {"max_iter": max_iterations}
        return moreau.ActiveSetSolver(
            *(n, m, np.arange(0, n * n + 1, n), np.tile(np.arange(n), n)),
            *(np.arange(0, n * m + 1, n), np.tile(np.arange(n), m)),
            moreau.Cones(num_zero_cones=zero, num_nonneg_cones=m - zero),
            SimpleNamespace(**limit),
            batch_size=1,
        )


_active_sets = functools.lru_cache(maxsize=64)(_ActiveSet)


def _moreau(cones: Cones, tolerance: float, max_iterations: int | None) -> Callable[..., Answer]:
    statuses = {
        1: Status.SOLVED,
        2: Status.PRIMAL_INFEASIBLE,
        3: Status.DUAL_INFEASIBLE,
        7: Status.MAX_ITERATIONS,
    }

    def solve(P: Any, c: np.ndarray, A: Any, b: np.ndarray) -> Answer:
        shape = _active_sets(len(c), len(b), cones.zero, max_iterations)
        solver = shape.take()
        P, A = (part.toarray() if scipy.sparse.issparse(part) else part for part in (P, A))
        solver.setup(P.ravel(), A.ravel())
        found = solver.solve(c, b)
        shape.idle.append(solver)
        y = found["z"]
        # a row is active or it is not: what rounding left of its slack is none
        s = np.where(y > 0, 0.0, np.maximum(b - A @ found["x"], 0.0))
        s[: cones.zero] = 0.0
        status = statuses.get(int(found["status"]), Status.STALLED)
        return Answer(status, int(found["iterations"]), found["x"], y, s)

    return solve


_SOLVERS = {Solver.CLARABEL: _clarabel, Solver.SCS: _scs, Solver.MOREAU: _moreau}
_ROUGH = {Solver.CLARABEL: 1e-7, Solver.SCS: 1e-4}


def solver_of_item(
    solver: Solver, cones: Cones, tolerance: float | None, max_iterations: int | None, rough: bool
) -> Callable[..., Answer]:
    """(P, c, A, b) of one program ↦ Answer.

    Args:
        tolerance: absolute and relative; 1e-8 by default, and where ``rough`` will do 1e-7 of Clarabel, 1e-4
            of SCS.
        max_iterations: of the solver; its own default by default, and of a rough SCS few.

    Raises:
        MissingPackageError: the solver is not installed.

    Source: Goulart, Chen, Clarabel (2024); O'Donoghue, Chu, Parikh, Boyd, SCS (2016); Arnström,
    Bemporad, Axehill, DAQP (2022), for the active-set method of Moreau.
    """
    if tolerance is None:
        tolerance = _ROUGH.get(solver, _TOLERANCE) if rough else _TOLERANCE
    if rough and solver == Solver.SCS and max_iterations is None:
        max_iterations = _FEW
    return _SOLVERS[solver](cones, tolerance, max_iterations)


def patient_solver(solver: Solver, cones: Cones) -> Callable[..., Answer]:
    """Clarabel with shorter steps and more of them, or SCS, for what others have left undecided."""
    if solver == Solver.SCS:
        return _scs(cones, _TOLERANCE, _LAST_RESORT)
    steps = {"max_step_fraction": 0.9, "min_terminate_step_length": 1e-8}
    return _clarabel(cones, _TOLERANCE, 2 * _LAST_RESORT // 10, **steps)
