"""The design matrix on the host: dense or sparse, with or without an intercept, for K outputs."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np


def is_sparse(X: Any) -> bool:
    """Whether X is a SciPy sparse matrix, without importing SciPy."""
    return hasattr(X, "tocsc") and hasattr(X, "nnz")


@dataclass(frozen=True, eq=False)
class Design:
    """X (n, p), dense or CSC, and what the coefficients do to it.

    Coefficients are flat: p × K penalised ones, feature by feature, then K intercepts if there are any.
    With a ``centre`` c (p,) columns are x − c, and intercepts those of the centred columns, b + cᵀβ.
    """

    X: Any
    outputs: int = 1
    intercept: bool = False
    centre: np.ndarray | None = None

    @classmethod
    def of(cls, X: Any, outputs: int, intercept: bool) -> "Design":
        """Of an array or SciPy matrix, as float64."""
        if is_sparse(X):
            X = X.tocsc()
            X = X if X.dtype == np.float64 else X.astype(np.float64)
        else:
            X = np.asarray(X, dtype=np.float64)
        return cls(X, outputs, intercept)

    def centred(self, omega: np.ndarray) -> "Design":
        """The same with columns centred by the weights ω, where an intercept is free; X is not copied.

        A sparse column of which most entries are zero is left: its mean is below its deviation.
        """
        if not self.intercept:
            return self
        centre = np.asarray(self.X.T @ omega)
        if is_sparse(self.X):
            centre = np.where(2 * np.diff(self.X.indptr) > self.samples, centre, 0.0)
        return replace(self, centre=centre)

    def to_centred(self, coef: np.ndarray) -> np.ndarray:
        """Coefficients of X, as those of the centred columns; along the first axis."""
        return self._moved(coef, 1.0)

    def from_centred(self, coef: np.ndarray) -> np.ndarray:
        """Coefficients of the centred columns, as those of X."""
        return self._moved(coef, -1.0)

    def _moved(self, coef: np.ndarray, sign: float) -> np.ndarray:
        if self.centre is None:
            return coef
        beta = coef[: self.penalised].reshape(-1, self.outputs)
        return np.concatenate(
            [coef[: self.penalised], coef[self.penalised :] + sign * (self.centre @ beta)]
        )

    def pulled_from_centred(self, cotangent: np.ndarray) -> np.ndarray:
        """The transpose of ``from_centred``."""
        if self.centre is None:
            return cotangent
        free = cotangent[self.penalised :]
        inside = cotangent[: self.penalised] - np.outer(self.centre, free).ravel()
        return np.concatenate([inside, free])

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
        if self.centre is not None:
            z = z - self.centre @ beta
        return z + coef[self.penalised :] if self.intercept else z

    def transposed(self, v: np.ndarray) -> np.ndarray:
        """The gradient in the coefficients of ⟨v, prediction⟩, v (n, K)."""
        flat = np.asarray(self.X.T @ v)
        if self.centre is not None:
            flat = flat - np.outer(self.centre, v.sum(axis=0))
        flat = flat.reshape(-1)
        return np.concatenate([flat, v.sum(axis=0)]) if self.intercept else flat

    def columns(self, rows: np.ndarray) -> Any:
        """∂prediction/∂coefficients in ``rows``, (n K, r): sparse only if X is and K = 1."""
        inside = rows[rows < self.penalised]
        beyond = rows[rows >= self.penalised] - self.penalised
        k = self.outputs
        if is_sparse(self.X) and k == 1:
            from scipy import sparse

            part = self.X[:, inside]
            if self.centre is not None and self.centre[inside].any():
                part = self._centred(part.toarray(), inside)
                return np.concatenate([part, np.ones((self.samples, len(beyond)))], axis=1)
            if not len(beyond):
                return part
            return sparse.hstack([part, np.ones((self.samples, 1))], format="csc")
        part = self.X[:, inside // k]
        part = part.toarray() if is_sparse(part) else part
        if self.centre is not None:
            part = self._centred(part, inside // k)
        if k == 1:
            if len(beyond):
                part = np.concatenate([part, np.ones((self.samples, 1))], axis=1)
            return part
        spread = np.zeros((self.samples, k, len(rows)))
        spread[:, inside % k, np.arange(len(inside))] = part
        spread[:, beyond, len(inside) + np.arange(len(beyond))] = 1
        return spread.reshape(self.samples * k, -1)

    def _centred(self, part: np.ndarray, features: np.ndarray) -> np.ndarray:
        """These columns, centred; what is rounding of the mean is zero."""
        assert self.centre is not None
        mean = self.centre[features]
        part = part - mean
        rounding = 4 * np.sqrt(self.samples) * np.finfo(float).eps * np.abs(mean)
        part[:, np.abs(part).max(axis=0, initial=0.0) <= rounding] = 0.0
        return part


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
