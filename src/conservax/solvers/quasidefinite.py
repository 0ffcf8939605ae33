"""Sparse symmetric systems [[P, Bᵀ], [B, −C]], P, C ≽ 0, on the host, in double precision.

With a small multiple of diag(I, −I) added they can be factorised along the diagonal in every order
(Vanderbei 1995), which SuperLU does supernode by supernode (Li, Demmel, Gilbert); refinement takes
away what was added.
"""

import hashlib
import threading
from collections import OrderedDict
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import SuperLU, splu

from ..numerics import machine_epsilon

_EPS = machine_epsilon(np.float64)
_SHIFT, _SMALLER_SHIFT = _EPS**0.5, _EPS**0.75  # of the diagonal; the second where one does not do
_PASSES = 20  # of refinement, at most
_KEPT = 1 << 26  # bytes of factors, beside those of the last system
_DENSER = 50  # times as many entries as B may have BᵀB, where it is formed


class QuasiDefinite:
    """A matrix as above, P (n, n), and its factors."""

    def __init__(self, matrix: Any, n: int) -> None:
        self.matrix = matrix
        self.signs = np.where(np.arange(matrix.shape[0]) < n, 1.0, -1.0)
        self.norm = float(abs(matrix).sum(axis=1).max())
        self.factors: dict[float, SuperLU] = {}

    @property
    def bytes(self) -> int:
        """That the factors take."""
        return sum(12 * factor.nnz for factor in self.factors.values())

    def solve(self, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The solution for right-hand sides (n + k, columns), and for which of them it is one.

        Where the matrix is singular to round-off, what comes nearest with the larger shift.
        """
        first, met = self._refined(self._factor(_SHIFT), right)
        if met.all():
            return first, met
        solution, met = self._refined(self._factor(_SMALLER_SHIFT), right)
        return (solution if met.all() else first), met

    def _factor(self, shift: float) -> SuperLU:
        if shift not in self.factors:
            shifted = self.matrix + sparse.diags(shift * self.signs)
            self.factors[shift] = factorise(sparse.csc_matrix(shifted))
        return self.factors[shift]

    def _refined(self, factor: SuperLU, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Refined as long as that halves a residual."""
        x = factor.solve(right)
        left = right - self.matrix @ x
        size, given = _largest(left), _largest(right)
        for _ in range(_PASSES):
            next_x = x + factor.solve(left)
            next_left = right - self.matrix @ next_x
            next_size = _largest(next_left)
            better, going = next_size < size, np.any(next_size < size / 2)
            x, left = np.where(better, next_x, x), np.where(better, next_left, left)
            size = np.where(better, next_size, size)
            if not going or np.all(size <= 4 * _EPS * given):
                break
        # rounding leaves some eps of the terms; of a singular system a share of the right-hand side is left
        return x, size <= _EPS**0.75 * given + 64 * _EPS * self.norm * _largest(x)


def _largest(columns: np.ndarray) -> np.ndarray:
    return np.abs(columns).max(axis=0, initial=0.0)


def assemble(P: Any, B: Any, corner: np.ndarray) -> Any:
    """[[P, Bᵀ], [B, −diag(corner)]]."""
    n, k = P.shape[0], len(corner)
    P, B, own = sparse.coo_matrix(P), sparse.coo_matrix(B), np.arange(n, n + k)
    rows = np.concatenate([P.row, B.row + n, B.col, own])
    columns = np.concatenate([P.col, B.col, B.row + n, own])
    values = np.concatenate([P.data, B.data, B.data, -corner])
    matrix = sparse.csc_matrix((values, (rows, columns)), shape=(n + k, n + k))
    matrix.eliminate_zeros()
    return matrix


def factorise(matrix: Any) -> SuperLU:
    """LU along the diagonal, in an order that keeps the factors sparse."""
    matrix.indices, matrix.indptr = (
        part.astype(np.intc) for part in (matrix.indices, matrix.indptr)
    )
    return splu(
        matrix,
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )


def eigenvalue_bound(P: Any, B: Any, shift: float) -> float:
    """A lower bound near ``shift`` on the least eigenvalue of P + BᵀB, or 0 if it is smaller or unclear.

    By the inertia of P + BᵀB − shift·I or, where that would be dense, of [[P − shift·I, Bᵀ], [B, −I]]:
    the pivots of L D Lᵀ = M − E, with ‖E‖ at most γ ‖|L||U|‖∞ + ‖|L||U − DLᵀ|‖∞ (Higham 2002,
    Theorem 9.3; Sylvester's law). Of the second matrix n positive pivots make (1 − ‖E‖)(shift − ‖E‖).
    """
    n, k, B = P.shape[0], B.shape[0], sparse.csr_matrix(B)
    shifted = P - shift * sparse.eye(n)
    products = float(np.sum(np.diff(B.indptr).astype(float) ** 2))
    formed = products <= _DENSER * (B.nnz + n)
    if formed:
        matrix, k = sparse.csc_matrix(shifted + B.T @ B), 0
        sizes = abs(B)
        terms = int(np.bincount(B.indices, minlength=1).max()) + 3
        rounding = terms * _EPS * float((sizes.T @ (sizes @ np.ones(n))).max(initial=0.0))
    else:
        matrix, rounding = assemble(shifted, B, np.ones(k)), 0.0
    try:
        factor = factorise(matrix)
    except RuntimeError:  # a pivot that is zero
        return 0.0
    if np.any(factor.perm_r != factor.perm_c):
        return 0.0
    L, U = factor.L, factor.U
    pivots, one = U.diagonal(), np.ones(n + k)
    terms = int(np.bincount(L.indices, minlength=1).max()) + 2  # of the longest sum
    asymmetry = abs(U - sparse.diags(pivots) @ L.T) @ one
    bounds = abs(L) @ (2 * terms * _EPS * (abs(U) @ one) + asymmetry)
    error = float(np.max(bounds, initial=0.0)) + rounding
    if np.sum(pivots > 0) != n or not error < min(shift, 0.5):
        return 0.0
    return (shift - error) * (1.0 if formed else 1 - error)


class RecentFactors:
    """Of the last systems: the pass backward meets those of the pass forward again."""

    def __init__(self) -> None:
        self.kept: OrderedDict[bytes, QuasiDefinite] = OrderedDict()
        self.lock = threading.Lock()

    def system(self, P: Any, B: Any, corner: np.ndarray) -> QuasiDefinite:
        """[[P, Bᵀ], [B, −diag(corner)]], with the factors that it had when it was met before."""
        matrix, n = assemble(P, B, corner), P.shape[0]
        digest = hashlib.blake2b(str(n).encode(), digest_size=20)
        for part in (matrix.data, matrix.indices, matrix.indptr):
            digest.update(part.tobytes())
        key = digest.digest()
        with self.lock:
            found = self.kept.pop(key, None)
            found = QuasiDefinite(matrix, n) if found is None else found
            self.kept[key] = found
            while len(self.kept) > 1 and sum(f.bytes for f in self.kept.values()) > _KEPT:
                self.kept.popitem(last=False)
        return found
