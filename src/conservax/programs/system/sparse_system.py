"""The symmetric system and the verdict of sparse programs, on the host.

    [[P, Bᵀ], [B, diag(d) − I]] (x, t) = (upper, lower),  B = d^½ TᵀA,  in the rows with d > 0;

in the others t = −lower. The verdict is that of ``two_tests``, with M = I in the second test:
P + A_loᵀA_lo and I − V_hi + A_hi A_hiᵀ are definite by Gershgorin's discs, a Cholesky factor of small ones,
or the inertia of sparse matrices.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
import scipy

from ...cones.spectrum import Spectrum, basis_matrices
from ...cones.table import Cones
from ...solvers.host import matrices_of
from ...solvers.matrices import SparseMatrix
from ...solvers.quasidefinite import (
    RecentFactors,
    diagonal_matrix,
    eigenvalue_bound,
    row_bound,
    weighted_rows,
)
from .system import Solver, System
from .two_tests import TwoTests

RECENT_FACTORS = RecentFactors()
_SHIFTS = 1e-4, 1e-9  # bounds on the eigenvalues of the two tests that are tried
_CLEAR = _SHIFTS[0] / 2  # a margin with which no solve fails


def by_sparse_factor(system: System, probed: bool) -> Solver:
    """The symmetric system solved to round-off for (batch, rows, columns).

    Where it has no solution, ``probed`` or not decides between NaN and what comes nearest. Probed, a
    right-hand side of noise has to be met as well, which has no preimage if the system is singular.
    """
    parts = _Parts.of(system.P, system.A, basis_matrices(system.basis, system.cones))

    def symmetric(upper: np.ndarray, lower: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _solve_batch(system.cones, parts, system.d, probed, upper, lower)

    return symmetric


def sparse_two_tests(
    P: SparseMatrix, A: SparseMatrix, parts: Spectrum, cones: Cones, eps: float
) -> TwoTests:
    """``two_tests`` for sparse data; the margin is a bound that was tried, not the best one."""
    given = _Parts.of(P, A, basis_matrices(parts.basis, cones))
    verdict, margin = _test_batch(cones, given, parts.low, parts.high, eps)
    known = parts.bounded | (verdict < 0)
    return TwoTests(np.where(known, verdict, 0).astype(np.int8), np.where(known, margin, 0.0))


class _Parts(NamedTuple):
    """What a system is made of but d: P and A by item, and T of its curved blocks."""

    P: Any
    A: Any
    T: tuple[Any, ...]

    @staticmethod
    def of(P: SparseMatrix, A: SparseMatrix, T: tuple[Any, ...]) -> "_Parts":
        return _Parts(matrices_of(P), matrices_of(A, by_rows=True), T)

    def item(self, k: int, cones: Cones) -> tuple[Any, Any]:
        """P, CSC, and TᵀA, CSR, of one item."""
        P, A = self.P(k), self.A(k)
        if not self.T:
            return P, A
        blocks, turned = [], iter(self.T)
        for block, _ in cones.pieces:
            if not block.polyhedral:
                blocks += list(next(turned)[k])
            else:
                blocks.append(scipy.sparse.eye(block.size))
        return P, scipy.sparse.csr_matrix(scipy.sparse.block_diag(blocks).T @ A)


def _finite(*parts: Any) -> bool:
    values = (part.data if scipy.sparse.issparse(part) else part for part in parts)
    return all(np.isfinite(value).all() for value in values)


def _solve_batch(
    cones: Cones,
    parts: _Parts,
    d: np.ndarray,
    probed: bool,
    upper: np.ndarray,
    lower: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    batch, n, _ = upper.shape

    def one(item: int) -> tuple[np.ndarray, np.ndarray]:
        P, turned_A = parts.item(item, cones)
        if not _finite(P, turned_A, d[item], upper[item], lower[item]):
            return np.full_like(upper[item], np.nan), np.full_like(lower[item], np.nan)
        system, held = RECENT_FACTORS.system(P, turned_A, d[item]), d[item] > 0
        right = np.concatenate([upper[item], lower[item][held]])
        if probed:
            right = np.column_stack([right, _noise(len(right))])
        found, met = system.solve(right)
        if probed and not met.all():
            found = np.full_like(found, np.nan)
        columns, t = upper.shape[-1], -lower[item]
        t[held] = found[n:, :columns]
        return found[:n, :columns], t

    found = [one(item) for item in range(batch)]
    x = np.array([x for x, _ in found]).reshape(upper.shape)
    return x, np.array([t for _, t in found]).reshape(lower.shape)


def _test_batch(
    cones: Cones, parts: _Parts, low: np.ndarray, high: np.ndarray, eps: float
) -> tuple[np.ndarray, np.ndarray]:
    def one(item: int) -> tuple[int, float]:
        P, turned_A = parts.item(item, cones)
        if not _finite(P, turned_A, low[item], high[item]):
            return 0, 0.0
        first = _first(P, turned_A, low[item], eps)
        second = _second(turned_A, high[item], eps) if first else 0.0
        margin = min(first, second)
        if margin > _CLEAR:
            return 1, margin
        ends = (low[item],) if np.array_equal(low[item], high[item]) else (low[item], high[item])
        for d in ends:
            system = RECENT_FACTORS.system(P, turned_A, d)
            if not system.solve(_noise(len(system.signs)))[1].all():
                return -1, 0.0
        return (1, margin) if margin else (0, 0.0)

    found = [one(item) for item in range(len(low))]
    return np.array([v for v, _ in found], np.int8), np.array([margin for _, margin in found])


def _first(P: Any, A: Any, low: np.ndarray, eps: float) -> float:
    """A lower bound on λ_min(P + Aᵀ diag(low) A), or 0."""
    alone = row_bound(P) - 64 * eps * _norm(P)  # a sum with what is semidefinite
    return alone if alone > _SHIFTS[0] else _bound(P, weighted_rows(A, np.sqrt(low)), eps)


def _second(A: Any, high: np.ndarray, eps: float) -> float:
    """A lower bound on λ_min(I − diag(high) + diag(high) A Aᵀ diag(high)), or 0."""
    weighted = weighted_rows(A, high).tocsc().T
    return _bound(diagonal_matrix(1 - high[high > 0]), weighted, eps)


def _bound(P: Any, B: Any, eps: float) -> float:
    """A lower bound on λ_min(P + BᵀB), or 0, rounding of the data's and of T's entries accounted for."""
    doubt = 64 * eps * (_norm(P) + _norm(B) ** 2)
    of_rows = row_bound(P, B) - doubt
    for shift in _SHIFTS:
        if shift > max(2 * doubt, of_rows):
            bound = eigenvalue_bound(P, B, shift)
            if bound > doubt:
                return bound - doubt
    return max(of_rows, 0.0)


def _norm(matrix: Any) -> float:
    """A bound on the 2-norm of |M|."""
    sizes, minors = abs(matrix.data), np.bincount(matrix.indices, abs(matrix.data))
    majors = np.bincount(
        np.repeat(np.arange(len(matrix.indptr) - 1), np.diff(matrix.indptr)), sizes
    )
    return float(np.sqrt(minors.max(initial=0.0) * majors.max(initial=0.0)))


@functools.lru_cache(maxsize=64)
def _noise(size: int) -> np.ndarray:
    noise = np.random.default_rng(0).uniform(-1, 1, size=(size, 1))
    noise.flags.writeable = False
    return noise
