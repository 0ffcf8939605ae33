"""The design matrix on the host: dense or sparse, with or without an intercept, for K outputs."""

from dataclasses import dataclass
from typing import Any

import numpy as np


def is_sparse(X: Any) -> bool:
    """Whether X is a SciPy sparse matrix, without importing SciPy."""
    return hasattr(X, "tocsc") and hasattr(X, "nnz")


@dataclass(frozen=True, eq=False)
class Design:
    """X (n, p), dense or CSC, and what the coefficients do to it.

    Coefficients are flat: p × K penalised ones, feature by feature, then K intercepts if there are any.
    """

    X: Any
    outputs: int = 1
    intercept: bool = False

    @classmethod
    def of(cls, X: Any, outputs: int, intercept: bool) -> "Design":
        """Of an array or SciPy matrix, as float64."""
        if is_sparse(X):
            X = X.tocsc()
            X = X if X.dtype == np.float64 else X.astype(np.float64)
        else:
            X = np.asarray(X, dtype=np.float64)
        return cls(X, outputs, intercept)

    @property
    def samples(self) -> int:
        return self.X.shape[0]

    @property
    def penalised(self) -> int:
        """P = p K."""
        return self.X.shape[1] * self.outputs

    @property
    def size(self) -> int:
        """All coefficients."""
        return self.penalised + self.outputs * self.intercept

    def predict(self, coef: np.ndarray) -> np.ndarray:
        """X β + b, (n, K), from the nonzero coefficients alone."""
        beta = coef[: self.penalised].reshape(-1, self.outputs)
        used = np.flatnonzero(np.any(beta != 0, axis=1))
        if 2 * len(used) < len(beta):
            z = np.asarray(self.X[:, used] @ beta[used])
        else:
            z = np.asarray(self.X @ beta)
        return z + coef[self.penalised :] if self.intercept else z

    def transposed(self, v: np.ndarray) -> np.ndarray:
        """The gradient in the coefficients of ⟨v, prediction⟩, v (n, K)."""
        flat = np.asarray(self.X.T @ v).reshape(-1)
        return np.concatenate([flat, v.sum(axis=0)]) if self.intercept else flat

    def columns(self, rows: np.ndarray) -> Any:
        """∂prediction/∂coefficients in ``rows``, (n K, r): sparse only if X is and K = 1."""
        inside = rows[rows < self.penalised]
        beyond = rows[rows >= self.penalised] - self.penalised
        k = self.outputs
        if is_sparse(self.X) and k == 1:
            from scipy import sparse

            part = self.X[:, inside]
            if not len(beyond):
                return part
            return sparse.hstack([part, np.ones((self.samples, 1))], format="csc")
        part = self.X[:, inside // k]
        part = part.toarray() if is_sparse(part) else part
        if k == 1:
            if len(beyond):
                part = np.concatenate([part, np.ones((self.samples, 1))], axis=1)
            return part
        spread = np.zeros((self.samples, k, len(rows)))
        spread[:, inside % k, np.arange(len(inside))] = part
        spread[:, beyond, len(inside) + np.arange(len(beyond))] = 1
        return spread.reshape(self.samples * k, -1)


def weigh(curvature: np.ndarray, M: Any) -> Any:
    """D M for the block diagonal D of a loss's curvature, (n, K, K), and M (n K, r)."""
    n, k, _ = curvature.shape
    if is_sparse(M):
        return M.multiply(curvature.reshape(-1, 1)).tocsc()
    if k == 1:
        return curvature[:, 0] * M
    return np.einsum("nab,nbr->nar", curvature, M.reshape(n, k, -1)).reshape(n * k, -1)


def gram(curvature: np.ndarray, left: Any, right: Any = None) -> np.ndarray:
    """leftᵀ D right, dense; ``right`` is ``left`` if not given."""
    product = left.T @ weigh(curvature, left if right is None else right)
    return product.toarray() if is_sparse(product) else product
