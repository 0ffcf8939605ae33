"""Sparse symmetric systems [[P, Bᵀ], [B, −C]], P, C ≽ 0, on the host, in double precision.

With a small multiple of diag(I, −I) added they can be factorised along the diagonal in every order
(Vanderbei 1995), which SuperLU does supernode by supernode (Li, Demmel, Gilbert); refinement takes
away what was added, and what tells a system from one of the same pattern whose factors it borrows.
"""

import hashlib
import itertools
import threading
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import scipy

from ..arrays.lapack import cholesky
from ..numerics import machine_epsilon
from .matrices import with_values

if TYPE_CHECKING:
    from scipy.sparse.linalg import SuperLU

_EPS = machine_epsilon(np.float64)
_SHIFT, _SMALLER_SHIFT = _EPS**0.5, _EPS**0.75  # of the diagonal; the second where one does not do
_PASSES = 20  # of refinement, at most
_KEPT = 1 << 26  # bytes of factors, beside those of the last system
_DENSER = 50  # times as many entries as B may have BᵀB, where it is formed
_SMALL = 225  # rows up to which a dense factor is quicker than a sparse one
_LOOKED_AT = 128  # systems, for one that lends its factors
_SOLVES = 8  # with factors, times the entries of a row of them, cost as much as new ones
_CLOSE = 0.01  # how far entries may be from those of another system, relative to the largest


class Factor(Protocol):
    """What solves with a matrix, or with one close to it."""

    def solve(self, right: np.ndarray) -> np.ndarray: ...


class QuasiDefinite:
    """[[P, Bᵀ], [B, diag(d) − I]], B = d^½ A, in the rows of A (m, n) with d > 0, 0 ≤ d ≤ 1, and its factors.

    ``near``: a system that has factors, of the same pattern, its entries close and all but a few of its d;
    until there are factors of its own.
    """

    def __init__(self, P: Any, A: Any, d: np.ndarray, near: "QuasiDefinite | None" = None) -> None:
        self.P, self.A, self.d, self.near = P, A, d, near
        self.rows = np.flatnonzero(d > 0)
        self.B = weighted_rows(A, np.sqrt(d))
        self.size = P.shape[0]
        self.signs = np.ones(self.size + len(self.rows))
        self.signs[self.size :] = -1.0
        self.matrix = assemble(P, self.B, 1 - d[self.rows])
        self.norm = float(np.bincount(self.matrix.indices, abs(self.matrix.data)).max(initial=0.0))
        self.factors: dict[float, SuperLU] = {}
        self._bordered: Bordered | None = None

    @property
    def bytes(self) -> int:
        """That the factors take, those of ``near`` as well."""
        own = sum(12 * factor.nnz for factor in self.factors.values())
        near, bordered = self.near, self._bordered
        return own + (near.bytes if near else 0) + (bordered.bytes if bordered else 0)

    @property
    def reach(self) -> float:
        """In how many of its d a system may differ, for which its factors are to serve."""
        return self.factor(_SHIFT).nnz / len(self.signs) / _SOLVES

    def is_close(self, P: Any, A: Any) -> bool:
        """Whether these entries, of its pattern, are next to its own."""
        pairs = (self.P.data, P.data), (self.A.data, A.data)
        return all(_largest(own - new) <= _CLOSE * _largest(own) for own, new in pairs)

    def solve(self, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The solution for right-hand sides (n + k, columns), and for which of them it is one.

        Where the matrix is singular to round-off, what comes nearest with the larger shift.
        """
        borrowed = self._borrowed()
        if borrowed:
            solution, met = self._refined(borrowed, right)
            if met.all():
                return solution, met
        met, found = np.zeros(right.shape[1], bool), list[np.ndarray]()
        for shift in (_SHIFT, _SMALLER_SHIFT):
            try:
                factor = self.factor(shift)
            except RuntimeError:  # a pivot that rounding made zero
                continue
            solution, met = self._refined(factor, right)
            if met.all():
                return solution, met
            found.append(solution)
        return (found[0] if found else np.full_like(right, np.nan)), met

    def factor(self, shift: float) -> "SuperLU":
        """The factors of the matrix with this multiple of diag(I, −I) added."""
        if shift not in self.factors:
            self.factors[shift] = factorise(plus_diagonal(self.matrix, shift * self.signs))
            self.near = self._bordered = None
        return self.factors[shift]

    def _borrowed(self) -> "Bordered | None":
        near = self.near
        if near and self._bordered is None:
            self._bordered = Bordered(near, self)
        return self._bordered

    def _refined(self, factor: Factor, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Refined as long as that halves a residual."""
        x = factor.solve(right)
        left = right - self.matrix @ x
        size, given = _largest(left), _largest(right)
        for _ in range(_PASSES):
            next_x = x + factor.solve(left)
            next_left = right - self.matrix @ next_x
            next_size = _largest(next_left)
            better, going = next_size < size, np.any(next_size < size / 2)
            if better.all():
                x, left, size = next_x, next_left, next_size
            else:
                x, left = np.where(better, next_x, x), np.where(better, next_left, left)
                size = np.where(better, next_size, size)
            if not going or np.all(size <= 4 * _EPS * given):
                break
        # rounding leaves some eps of the terms; of a singular system a share of the right-hand side is left
        return x, size <= _EPS**0.75 * given + 64 * _EPS * self.norm * _largest(x)


class Bordered:
    """Solves with a system by the factors of one near to it, to be refined.

    Rows that are left out get a multiplier that holds their t at zero, others are new rows and columns:
    [[K, F], [Fᵀ, G]], eliminated from K.
    """

    def __init__(self, known: QuasiDefinite, system: QuasiDefinite) -> None:
        n, rows = known.size, known.rows
        kept = (known.d == system.d)[rows]
        added = np.setdiff1d(system.rows, rows[kept], assume_unique=True)
        dropped = n + np.flatnonzero(~kept)
        self.size, self.dropped = len(known.signs), len(dropped)
        # where the unknowns of the system are among those of K and of the border
        self.shared = np.concatenate([np.arange(n), n + np.flatnonzero(kept)])
        in_system = np.searchsorted(system.rows, rows[kept])
        self.own = np.concatenate([np.arange(n), n + in_system])
        of_system = np.searchsorted(system.rows, added)
        self.added = n + of_system
        self.F = np.zeros((self.size, len(dropped) + len(added)))
        self.F[dropped, np.arange(len(dropped))] = 1.0
        self.F[:n, len(dropped) :] = system.B[of_system].T.toarray()
        self.factor = known.factor(_SHIFT)
        self.solved_F = self.factor.solve(self.F)
        corner = np.concatenate([np.zeros(len(dropped)), 1 - system.d[added] + _SHIFT])
        # pseudo-inverse: of a singular system refinement finds that it is none
        self.schur = np.linalg.pinv(-np.diag(corner) - self.F.T @ self.solved_F)

    @property
    def bytes(self) -> int:
        """That the border takes."""
        return 2 * self.F.nbytes

    def solve(self, right: np.ndarray) -> np.ndarray:
        """For right-hand sides (unknowns, columns) of the system."""
        inner = np.zeros((self.size, right.shape[1]))
        inner[self.shared] = right[self.own]
        border = np.zeros((self.F.shape[1], right.shape[1]))
        border[self.dropped :] = right[self.added]
        inner = self.factor.solve(inner)
        border = self.schur @ (border - self.F.T @ inner)
        found = np.empty_like(right)
        found[self.own] = (inner - self.solved_F @ border)[self.shared]
        found[self.added] = border[self.dropped :]
        return found


def _largest(columns: np.ndarray) -> np.ndarray:
    return np.abs(columns).max(axis=0, initial=0.0)


def weighted_rows(A: Any, weights: np.ndarray) -> "scipy.sparse.csr_matrix":
    """diag(weights) A for CSR A, in the rows whose weight is positive."""
    counts = np.diff(A.indptr)
    held = weights > 0
    kept = np.repeat(held, counts)
    pointers = np.concatenate([np.zeros(1, A.indptr.dtype), np.cumsum(counts[held])])
    values = (A.data * np.repeat(weights, counts))[kept]
    shape = len(pointers) - 1, A.shape[1]
    return scipy.sparse.csr_matrix((values, A.indices[kept], pointers), shape=shape)


def assemble(P: Any, B: Any, corner: np.ndarray) -> Any:
    """[[P, Bᵀ], [B, −diag(corner)]] for CSC P and CSR B, of zeros those on the diagonal alone."""
    n, k = P.shape[0], len(corner)
    in_P, in_B = np.flatnonzero(P.data), np.flatnonzero(B.data)
    own, of_B, in_row = np.arange(n + k), _majors(B)[in_B] + n, B.indices[in_B]
    rows = np.concatenate([P.indices[in_P], of_B, in_row, own])
    columns = np.concatenate([_majors(P)[in_P], in_row, of_B, own])
    values = np.concatenate([P.data[in_P], B.data[in_B], B.data[in_B], np.zeros(n), -corner])
    return scipy.sparse.csc_matrix((values, (rows, columns)), shape=(n + k, n + k))


def plus_diagonal(matrix: Any, diagonal: np.ndarray) -> Any:
    """M + diag(d) for CSC M, whose pattern it shares if the diagonal is stored."""
    own = np.flatnonzero(matrix.indices == _majors(matrix))
    if len(own) < len(diagonal):
        return matrix + diagonal_matrix(diagonal)
    values = matrix.data.copy()
    values[own] += diagonal[matrix.indices[own]]
    return with_values(matrix, values)


def diagonal_matrix(values: np.ndarray) -> "scipy.sparse.csc_matrix":
    """diag(values), zeros stored."""
    places = np.arange(len(values) + 1, dtype=np.int32)
    shape = len(values), len(values)
    return scipy.sparse.csc_matrix((values, places[:-1], places), shape=shape)


def _majors(matrix: Any) -> np.ndarray:
    """The row of each entry of a CSR matrix, the column of a CSC one."""
    return np.repeat(np.arange(len(matrix.indptr) - 1), np.diff(matrix.indptr))


def factorise(matrix: Any) -> "SuperLU":
    """LU along the diagonal, in an order that keeps the factors sparse."""
    matrix = matrix.sorted_indices()  # SuperLU would sort what others share
    pointers = (part.astype(np.intc, copy=False) for part in (matrix.indices, matrix.indptr))
    return scipy.sparse.linalg.splu(
        scipy.sparse.csc_matrix((matrix.data, *pointers), shape=matrix.shape),
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )


def row_bound(P: Any, B: Any | None = None) -> float:
    """A lower bound on the least eigenvalue of P + BᵀB by Gershgorin's discs, for CSC P and CSR B.

    min_i P_ii − Σ_{j≠i} |P_ij| + Σ_k (2 B_ki² − |B_ki| Σ_j |B_kj|), what rounding may have added
    taken off (Higham 2002, Section 3.1).
    """
    n = P.shape[0]
    sizes = np.bincount(P.indices, abs(P.data), n)
    own = P.diagonal()
    terms = 2 + int(np.diff(P.indptr).max(initial=0))
    least, rounded = own + abs(own) - sizes, terms * (2 * abs(own) + sizes)
    if B is not None:
        sizes, rows = abs(B.data), _majors(B)
        of_rows = np.bincount(rows, sizes, B.shape[0])
        products = np.bincount(B.indices, sizes * of_rows[rows], n)
        squares = np.bincount(B.indices, sizes * sizes, n)
        terms += 4 + int(np.diff(B.indptr).max(initial=0) + np.bincount(B.indices).max(initial=0))
        least, rounded = least + 2 * squares - products, rounded + terms * 3 * products
    return float(np.min(least - _EPS * rounded, initial=np.inf))


def eigenvalue_bound(P: Any, B: Any, shift: float) -> float:
    """A lower bound near ``shift`` on the least eigenvalue of P + BᵀB, or 0 if it is smaller or unclear.

    P is CSC, B is CSR.

    By the inertia of P + BᵀB − shift·I or, where that would be dense, of [[P − shift·I, Bᵀ], [B, −I]]:
    the pivots of L D Lᵀ = M − E, with ‖E‖ at most γ ‖|L||U|‖∞ + ‖|L||U − DLᵀ|‖∞ (Higham 2002,
    Theorem 9.3; Sylvester's law). Of the second matrix n positive pivots make (1 − ‖E‖)(shift − ‖E‖).
    A small P + BᵀB − shift·I has a dense factor LLᵀ = M − E, with ‖E‖ at most γ tr M/(1 − γ) (Demmel 1989;
    Rump, Verification of positive definiteness, 2006).
    """
    n, k = P.shape[0], B.shape[0]
    products = float(np.sum(np.diff(B.indptr).astype(float) ** 2))
    formed = products <= _DENSER * (B.nnz + n)
    shifted = plus_diagonal(P, np.full(n, -shift))
    rounding = 3 * _EPS * float(np.bincount(P.indices, abs(P.data)).max(initial=shift))
    if formed:
        k, matrix = 0, shifted + B.T @ B
        sizes, of_B = abs(B.data), _majors(B)
        of_rows = np.bincount(of_B, sizes, B.shape[0])
        of_columns = np.bincount(B.indices, sizes * of_rows[of_B], n)
        terms = int(np.bincount(B.indices, minlength=1).max()) + 3
        rounding += terms * _EPS * float(of_columns.max(initial=0.0))
        if n <= _SMALL:
            full = matrix.toarray()
            error = rounding + (n + 2) * _EPS * max(np.trace(full), 0.0)
            definite = bool(np.isfinite(cholesky(full)).all())
            return shift - error if definite and error < shift else 0.0
    else:
        matrix = assemble(shifted, B, np.ones(k))
    try:
        factor = factorise(matrix)
    except RuntimeError:  # a pivot that is zero
        return 0.0
    if np.any(factor.perm_r != factor.perm_c):
        return 0.0
    U, size = factor.U, n + k
    pivots = U.diagonal()
    if np.sum(pivots > 0) != n:
        return 0.0
    L = factor.L
    terms = int(np.bincount(L.indices, minlength=1).max()) + 2  # of the longest sum
    sums = 2 * terms * _EPS * np.bincount(U.indices, abs(U.data), size) + _asymmetry(L, U, pivots)
    bounds = np.bincount(L.indices, abs(L.data) * sums[_majors(L)], size)
    error = float(np.max(bounds, initial=0.0)) + rounding
    if not error < min(shift, 0.5):
        return 0.0
    return (shift - error) * (1.0 if formed else 1 - error)


def _asymmetry(L: Any, U: Any, pivots: np.ndarray) -> np.ndarray:
    """|U − DLᵀ| 1 for CSC L and U."""
    Lt = L.tocsr()  # the columns of Lᵀ, sorted
    U.sort_indices()
    if not (np.array_equal(Lt.indptr, U.indptr) and np.array_equal(Lt.indices, U.indices)):
        return abs(U - scipy.sparse.diags(pivots) @ L.T) @ np.ones(len(pivots))
    return np.bincount(U.indices, abs(U.data - pivots[U.indices] * Lt.data), len(pivots))


class RecentFactors:
    """Of the last systems: the next step, or the pass backward, meets them or their neighbours again.

    They are kept as long as one of those lives whom they serve.
    """

    def __init__(self) -> None:
        self.users: dict[int, weakref.finalize] = {}
        self.kept: OrderedDict[tuple[bytes, bytes], QuasiDefinite] = OrderedDict()
        self.lock, self.unweighed = threading.Lock(), 0  # calls since the last look at their size

    def serve(self, user: object) -> None:
        """Keep factors for a user, until the last one is gone."""
        number = id(user)
        if number not in self.users:
            self.users[number] = weakref.finalize(user, self._left, number)
            self.users[number].atexit = False

    def _left(self, number: int) -> None:
        del self.users[number]
        if not self.users:
            with self.lock:
                self.kept.clear()

    def system(self, P: Any, A: Any, d: np.ndarray) -> QuasiDefinite:
        """The system, with the factors that it or a neighbour had when that was met before."""
        pattern = _digest(P.indices, P.indptr, A.indices, A.indptr)
        key = pattern, _digest(P.data, A.data, d)
        with self.lock:
            found = self.kept.pop(key, None) or self._new(pattern, P, A, d)
            self.kept[key] = found
            self._forget()
        return found

    def _forget(self) -> None:
        """Let the oldest go beyond the bytes that may be kept; of many that is looked at now and then."""
        self.unweighed += 1
        if 8 * self.unweighed < len(self.kept):
            return
        self.unweighed, size = 0, sum(system.bytes for system in self.kept.values())
        while size > _KEPT and len(self.kept) > 1:
            size -= self.kept.popitem(last=False)[1].bytes

    def _new(self, pattern: bytes, P: Any, A: Any, d: np.ndarray) -> QuasiDefinite:
        """A system, next to the one that shares most of its d of those that can lend it factors."""
        latest = itertools.islice(reversed(self.kept.items()), _LOOKED_AT)
        of_pattern = [
            system if _SHIFT in system.factors else system.near
            for (of, _), system in latest
            if of == pattern
        ]
        known = [system for system in of_pattern if system]
        if known:
            apart = np.count_nonzero(np.array([system.d for system in known]) != d, axis=1)
            for k in np.argsort(apart, kind="stable"):
                if apart[k] > known[k].reach:
                    break
                if known[k].is_close(P, A):
                    return QuasiDefinite(P, A, d, known[k])
        return QuasiDefinite(P, A, d)


def _digest(*arrays: np.ndarray) -> bytes:
    of_all = hashlib.blake2b(digest_size=20)
    for array in arrays:
        of_all.update(repr(array.shape).encode())
        of_all.update(np.ascontiguousarray(array).data)
    return of_all.digest()
