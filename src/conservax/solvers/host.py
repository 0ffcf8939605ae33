"""Cone programs on the host: Clarabel or SCS, an item to a thread, in double precision."""

import functools
import importlib
import os
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import IntEnum
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jax import lax

from ..errors import MissingPackageError
from ..solution import Solution, Status
from .cones import Cones, Curved, SecondOrder, Semidefinite, Zero, triangle
from .equilibrate import ConicPoint, Data
from .matrices import SparseMatrix
from .termination import InteriorPointStats
from .warm_start import WarmStart

_TOLERANCE, _ROUGH = 1e-8, 1e-7
_THREADS = ThreadPoolExecutor(os.cpu_count() or 1)


class Solver(IntEnum):
    """What solved a program; an int8 array inside jit."""

    INTERIOR_POINT = 0
    CLARABEL = 1
    SCS = 2


class Answer(NamedTuple):
    """Of one program: status, iterations, x (n,), y and s (m,)."""

    status: int
    iterations: int
    x: np.ndarray
    y: np.ndarray
    s: np.ndarray


class Wanted(NamedTuple):
    """Which items are solved, (batch,), and whether a warm start or a looser tolerance will do."""

    items: jax.Array
    rough: jax.Array


def solve_on_host(
    data: Data,
    cones: Cones,
    solver: Solver,
    tolerance: float | None,
    max_iterations: int | None,
    warm_start: "weakref.ref[WarmStart] | None" = None,
    wanted: Wanted | None = None,
) -> Solution:
    """Solve a batch of min ½xᵀPx + cᵀx subject to Ax + s = b, s ∈ K, from inside jit.

    Args:
        data: of the batch. cones: K. solver: CLARABEL or SCS.
        tolerance: absolute and relative; 1e-8 by default, and of Clarabel 1e-7 where rough will do.
        max_iterations: of the solver; its own default by default.
        warm_start: where items may start, while it lives; what comes from there has 0 iterations.
        wanted: all items, and nothing rough, by default; the others have no point.

    Returns:
        Solution(ConicPoint, status, InteriorPointStats); the stats hold iterations and the relative
        gap. NaN where the solver has no point.

    Raises:
        MissingPackageError: Clarabel or SCS is not installed.

    Source: Goulart, Chen, Clarabel (2024); O'Donoghue, Chu, Parikh, Boyd, SCS (2016).
    """
    package(solver)
    batch, n, m = *data.c.shape, data.b.shape[1]
    if wanted is None:
        wanted = Wanted(jnp.ones(batch, bool), jnp.array(False))
    leaves, tree = jax.tree.flatten((data, wanted))
    dtype = data.c.dtype
    shapes = (
        *(jax.ShapeDtypeStruct((batch, size), dtype) for size in (n, m, m)),
        jax.ShapeDtypeStruct((batch,), np.int8),
        jax.ShapeDtypeStruct((batch,), np.int32),
        jax.ShapeDtypeStruct((batch,), dtype),
    )
    solve = _SOLVERS[solver](cones, tolerance or _TOLERANCE, max_iterations)
    loose = solve
    if tolerance is None and solver == Solver.CLARABEL:
        loose = _SOLVERS[solver](cones, _ROUGH, max_iterations)
    run = functools.partial(_solve_batch, solve, loose, warm_start, tree)
    x, y, s, status, iterations, gap = call_on_host(run, shapes, *leaves)
    # residuals are measured by whoever knows the scaling
    return Solution(ConicPoint(x, y, s), status, InteriorPointStats(iterations, gap, gap, gap))


def keep_on_host(
    warm_start: "weakref.ref[WarmStart]", data: Data, point: ConicPoint, good: jax.Array
) -> jax.Array:
    """Keep the points that are ``good`` (batch,) as starts; ``good``, for XLA drops what nobody uses."""
    leaves, tree = jax.tree.flatten((data, point, good))

    def run(*leaves: np.ndarray) -> tuple[np.ndarray, ...]:
        data, point, good = jax.tree.unflatten(tree, leaves)
        starts = warm_start()
        if starts is not None:
            for item in np.flatnonzero(good).tolist():
                starts.keep(_entries(data, item), np.concatenate([part[item] for part in point]))
        return (good,)

    return call_on_host(run, (jax.ShapeDtypeStruct(good.shape, good.dtype),), *leaves)[0]


def call_on_host(
    run: Callable[..., tuple[np.ndarray, ...]],
    shapes: tuple[jax.ShapeDtypeStruct, ...],
    *arrays: jax.Array,
) -> tuple[jax.Array, ...]:
    """``run(*arrays)`` with NumPy arrays, from inside jit.

    Double precision travels as pairs of words: in a thread that does not know of ``jax.enable_x64``
    JAX would cut it to single.
    """
    double = np.dtype(np.float64)

    def packed(array: jax.Array) -> jax.Array:
        return lax.bitcast_convert_type(array, jnp.uint32) if array.dtype == double else array

    def on_host(*words: Any) -> tuple[np.ndarray, ...]:
        inputs = (
            np.asarray(part).view(double)[..., 0] if array.dtype == double else np.asarray(part)
            for part, array in zip(words, arrays, strict=True)
        )
        return tuple(
            np.ascontiguousarray(out).view(np.uint32).reshape(*out.shape, 2)
            if shape.dtype == double
            else out
            for out, shape in zip(run(*inputs), shapes, strict=True)
        )

    sent = tuple(
        jax.ShapeDtypeStruct((*shape.shape, 2), np.uint32) if shape.dtype == double else shape
        for shape in shapes
    )
    found = jax.pure_callback(on_host, sent, *map(packed, arrays), vmap_method="sequential")
    return tuple(
        lax.bitcast_convert_type(part, double) if shape.dtype == double else part
        for part, shape in zip(found, shapes, strict=True)
    )


def package(solver: Solver) -> ModuleType:
    """The module of a solver; MissingPackageError names the remedy."""
    name = solver.name.lower()
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingPackageError(
            f"the solver {name} is not installed, which exponential and power cones, sparse data and "
            f'solver="{name}" need: pip install "conservax[cvxpy]", or pip install {name}.'
        ) from None


def _solve_batch(
    solve: Callable[..., Answer],
    loose: Callable[..., Answer],
    warm_start: "weakref.ref[WarmStart] | None",
    tree: Any,
    *leaves: np.ndarray,
) -> tuple[np.ndarray, ...]:
    data, wanted = jax.tree.unflatten(tree, leaves)
    (batch, n), m, dtype = data.c.shape, data.b.shape[1], data.c.dtype

    def one(item: int) -> tuple[Answer, float]:
        P, A = matrix_of_item(data.P, item), matrix_of_item(data.A, item)
        c, b = (np.asarray(part[item], np.float64) for part in (data.c, data.b))
        finite = all(np.isfinite(part).all() for part in (P.data, c, A.data, b))
        if not (finite and wanted.items[item]):
            return _nothing(Status.STALLED, n, m), np.nan
        starts = warm_start() if warm_start is not None else None
        start = None
        if starts is not None and wanted.rough:
            start = starts.nearest(_entries(data, item), n + 2 * m)
        if start is None:
            answer = (loose if wanted.rough else solve)(P, c, A, b)
        else:
            answer = Answer(Status.SOLVED, 0, *np.split(start, [n, n + m]))
        return answer, _relative_gap(P, c, b, answer)

    found = threaded(one, batch)
    x, y, s = (
        np.array([getattr(answer, name) for answer, _ in found], dtype).reshape(batch, size)
        for name, size in (("x", n), ("y", m), ("s", m))
    )
    status = np.array([answer.status for answer, _ in found], np.int8)
    iterations = np.array([answer.iterations for answer, _ in found], np.int32)
    return x, y, s, status, iterations, np.array([gap for _, gap in found], dtype)


def _entries(data: Any, item: int) -> tuple[np.ndarray, ...]:
    """What tells a program from others of its shape."""
    values = (part.values if isinstance(part, SparseMatrix) else part for part in data)
    return tuple(np.asarray(part[item]) for part in values)


def matrix_of_item(matrix: Any, item: int) -> "scipy.sparse.csc_matrix":
    """One matrix of a batch, dense or sparse, for SciPy, in double precision."""
    if isinstance(matrix, SparseMatrix):
        rows, columns = matrix.shape
        inside = (matrix.rows < rows) & (matrix.columns < columns)  # the rest fills up
        places = matrix.rows[inside], matrix.columns[inside]
        values = np.asarray(matrix.values[item][inside], np.float64)
        return scipy.sparse.csc_matrix((values, places), shape=matrix.shape)
    return scipy.sparse.csc_matrix(np.asarray(matrix[item], np.float64))


def threaded(run: Callable[[int], Any], count: int) -> list[Any]:
    """``[run(0), …, run(count − 1)]``, side by side.

    In threads that stay: each would keep memory of its own for what the solvers allocate and free.
    """
    return list(_THREADS.map(run, range(count)))


def _relative_gap(P: Any, c: np.ndarray, b: np.ndarray, answer: Answer) -> float:
    """|xᵀPx + cᵀx + bᵀy| beside the largest of its terms."""
    x, y = answer.x, answer.y
    terms = np.array([x @ (P @ x), c @ x, b @ y])
    size = np.abs(terms).max()
    return float(abs(terms.sum()) / (size if size > 0 else 1.0))


def _nothing(status: Status, n: int, m: int) -> Answer:
    return Answer(status, 0, *(np.full(size, np.nan) for size in (n, m, m)))


@functools.cache
def rows_for_clarabel(cones: Cones) -> tuple[Any, Any]:
    """R and R⁻¹ with s_Clarabel = R s: matrices by upper triangles, and no duals of curved cones."""
    forth, back = [], []
    for block, _ in cones.pieces:
        R: Any = scipy.sparse.eye(block.size)
        if isinstance(block, Semidefinite):
            rows, columns, _ = triangle(block.dim)
            # the entry (i, j) of a lower triangle, column by column, is (j, i) of an upper one
            R = scipy.sparse.kron(
                scipy.sparse.eye(block.count),
                scipy.sparse.eye(len(rows)).tocsr()[np.lexsort((columns, rows))],
            )
        elif isinstance(block, Curved) and block.dual:
            R = scipy.sparse.block_diag([_onto_primal(alpha) for alpha in block.alphas])
        forth.append(R)
        back.append(
            scipy.sparse.csr_matrix(np.linalg.inv(R.toarray()))
            if isinstance(block, Curved)
            else R.T
        )
    return scipy.sparse.block_diag(forth, format="csr"), scipy.sparse.block_diag(back, format="csr")


def _onto_primal(alpha: float | None) -> np.ndarray:
    """A linear map from the dual cone onto the cone."""
    if alpha is None:
        return np.array([[1.0, -1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    return np.diag([1 / alpha, 1 / (1 - alpha), 1.0])


def _clarabel(cones: Cones, tolerance: float, max_iterations: int | None) -> Callable[..., Answer]:
    clarabel = package(Solver.CLARABEL)
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = tolerance
    if max_iterations is not None:
        settings.max_iter = max_iterations
    forth, back = rows_for_clarabel(cones)
    kinds: list[Any] = []
    for block, _ in cones.pieces:
        if isinstance(block, Zero):
            kinds.append(clarabel.ZeroConeT(block.size))
        elif isinstance(block, Semidefinite):
            kinds += [clarabel.PSDTriangleConeT(block.dim)] * block.count
        elif isinstance(block, Curved):
            kinds += [
                clarabel.ExponentialConeT() if alpha is None else clarabel.PowerConeT(alpha)
                for alpha in block.alphas
            ]
        elif isinstance(block, SecondOrder):
            kinds += [clarabel.SecondOrderConeT(block.dim)] * block.count
        else:
            kinds.append(clarabel.NonnegativeConeT(block.size))
    statuses = {
        "Solved": Status.SOLVED,
        "PrimalInfeasible": Status.PRIMAL_INFEASIBLE,
        "DualInfeasible": Status.DUAL_INFEASIBLE,
        "MaxIterations": Status.MAX_ITERATIONS,
    }

    def solve(P: Any, c: np.ndarray, A: Any, b: np.ndarray) -> Answer:
        upper = scipy.sparse.csc_matrix(scipy.sparse.triu(P))
        try:
            found = clarabel.DefaultSolver(
                upper,
                c,
                scipy.sparse.csc_matrix(forth @ A),
                forth @ b,
                kinds,
                settings,
            ).solve()
        except BaseException as panic:  # Clarabel's own, where an eigenvalue routine meets NaN
            if type(panic).__name__ != "PanicException":
                raise
            return _nothing(Status.STALLED, len(c), len(b))
        status = statuses.get(str(found.status), Status.STALLED)
        y, s = forth.T @ np.array(found.z), back @ np.array(found.s)
        return Answer(status, found.iterations, np.array(found.x), y, s)

    return solve


def _scs(cones: Cones, tolerance: float, max_iterations: int | None) -> Callable[..., Answer]:
    scs = package(Solver.SCS)
    kinds = {
        "z": cones.zero,
        "l": cones.nonnegative,
        "q": list(cones.second_order),
        "s": list(cones.semidefinite),
        "ep": cones.exponential,
        "ed": cones.dual_exponential,
        "p": list(cones.power),
    }
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
            "P": scipy.sparse.csc_matrix(scipy.sparse.triu(P)),
            "A": scipy.sparse.csc_matrix(A),
            "b": np.array(b),
            "c": np.array(c),
        }
        found = scs.SCS(data, kinds, **options).solve()
        info = found["info"]
        status = statuses.get(info["status_val"], Status.STALLED)
        return Answer(status, info["iter"], found["x"], found["y"], found["s"])

    return solve


_SOLVERS = {Solver.CLARABEL: _clarabel, Solver.SCS: _scs}
