"""The cone of positive semidefinite matrices, as vectors: their lower triangle, √2 off the diagonal.

The projection is P(X) = Σ relu(λ_i(X)) q_i(X) q_i(X)ᵀ over the eigenvalues: one scalar kink an
eigenvalue. Where two of them vanish at once the Clarke Jacobian is no product of segments.
"""

import functools
import math
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy

from ...arrays.lapack import cholesky, eigh, eigvalsh, svd
from ...arrays.namespace import Array, namespace, transpose
from ...calculus.marking import guard, smooth
from ..block import Elements, SymmetricBlock
from ..cone import ClarkeJacobian, Cone, integer, limit_at
from ..constraint import Constraint, Limit, half_line
from ..family import Sized, one_by_one
from ..slopes import divided_differences, slope, snap
from .orthant import side_by_side


def _eigenvalues(X: jax.Array) -> tuple[jax.Array, jax.Array]:
    values = jnp.linalg.eigvalsh(X)
    return values, jnp.full_like(values, jnp.max(jnp.abs(values)))


def _eigenvalues_rule(primals: Any, tangents: Any) -> jax.Array:
    (X,), (dX,) = primals, tangents
    _, Q = jnp.linalg.eigh(X)
    return jnp.einsum("ki,kl,li->i", Q, dX, Q)


def _matrix(X: jax.Array, parts: jax.Array) -> tuple[jax.Array, jax.Array]:
    _, Q = jnp.linalg.eigh(X)
    made = (Q * parts) @ Q.T
    return (made + made.T) / 2, jnp.full_like(made, jnp.max(jnp.abs(X)))


def _matrix_rule(primals: Any, tangents: Any) -> jax.Array:
    (X, _), (dX, dparts) = primals, tangents
    values, Q = jnp.linalg.eigh(X)
    rotated = Q.T @ ((dX + dX.T) / 2) @ Q
    apart = 1 - jnp.eye(len(values), dtype=X.dtype)
    return Q @ (apart * divided_differences(values) * rotated + jnp.diag(dparts)) @ Q.T


_matrix_eigenvalues = smooth("eigenvalues", _eigenvalues, _eigenvalues_rule)
_matrix_recomposed = smooth("matrix_recomposed", _matrix, _matrix_rule)
_off_double_zeros = guard("projection_psd_cone")


def project_psd_cone(X: jax.Array) -> jax.Array:
    """argmin ‖P − X‖ over symmetric P ≽ 0, for X (n, n); the symmetric part of X counts."""
    values = _matrix_eigenvalues(X)
    if len(values) > 1:
        values = _off_double_zeros(values, jnp.sort(jnp.abs(values))[1])
    return _matrix_recomposed(X, jax.nn.relu(values))


@dataclass(frozen=True)
class PositiveSemidefinite(Cone):
    """{P ≽ 0} of ``order`` k, as vectors of size k (k + 1)/2.

    With eigenvalues α (+), β (0), γ (−): 1 on αα and αβ, λ_i/(λ_i − λ_j) on αγ, W on ββ, 0 on βγ and
    γγ; V_lo has W = 0 and V_hi the identity.

    Source: Malick, Sendov (2006); coordinates of O'Donoghue, Chu, Parikh, Boyd, SCS (2016).

    >>> import jax.numpy as jnp
    >>> PositiveSemidefinite(2).project(jnp.array([1.0, 0.0, -1.0])).tolist()
    [1.0, 0.0, 0.0]
    """

    order: int

    def __post_init__(self) -> None:
        integer("order", self.order, 1)

    @property
    def size(self) -> int:
        return self.order * (self.order + 1) // 2

    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        columns, rows = np.triu_indices(self.order)
        return rows, columns

    def matrix(self, v: jax.Array) -> jax.Array:
        """The symmetric matrix of a vector."""
        rows, columns = self._places()
        entries = v * jnp.asarray(np.where(rows == columns, 1, math.sqrt(0.5)), v.dtype)
        X = jnp.zeros((self.order, self.order), v.dtype).at[rows, columns].set(entries)
        return X.at[columns, rows].set(entries)

    def vector(self, X: jax.Array) -> jax.Array:
        """The vector of a symmetric matrix; the inner product stays what it is."""
        rows, columns = self._places()
        scale = jnp.asarray(np.where(rows == columns, 1, math.sqrt(2)), X.dtype)
        return X[rows, columns] * scale

    def project(self, v: jax.Array) -> jax.Array:
        v = self.point(v)
        return self.vector(project_psd_cone(self.matrix(v)))

    def dual(self) -> "PositiveSemidefinite":
        return self

    def clarke(self, v: jax.Array, tolerance: float | None = None) -> ClarkeJacobian:
        v = self.point(v)
        limit = limit_at(v, tolerance)
        values, Q = jnp.linalg.eigh(self.matrix(v))
        snapped = jnp.where(jnp.abs(values) <= limit, 0, values)
        zero = snapped == 0
        both = (zero[:, None] & zero).astype(v.dtype)

        def assembled(weights: jax.Array) -> jax.Array:
            def column(e: jax.Array) -> jax.Array:
                inner = weights * (Q.T @ self.matrix(e) @ Q)
                return self.vector(Q @ inner @ Q.T)

            V = jax.vmap(column)(jnp.eye(self.size, dtype=v.dtype))
            return (V + V.T) / 2

        low = divided_differences(snapped)
        return ClarkeJacobian(
            assembled(divided_differences(values)),
            assembled(low),
            assembled(low + both),
            jnp.min(jnp.abs(values)),
            jnp.asarray(True),
        )


@functools.cache
def triangle(dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and weights of svec: the lower triangle, column by column, √2 off the diagonal."""
    columns, rows = np.triu_indices(dim)
    return rows, columns, np.where(rows == columns, 1.0, math.sqrt(2))


def svec(matrix: Array) -> Array:
    """The scaled lower triangle of symmetric matrices (..., dim, dim), as vectors."""
    rows, columns, weights = triangle(matrix.shape[-1])
    return matrix[..., rows, columns] * weights.astype(matrix.dtype)


def smat(vector: Array, dim: int) -> Array:
    """The symmetric matrices of which ``vector`` is the svec."""
    rows, columns, weights = triangle(dim)
    place = np.zeros((dim, dim), int)
    place[rows, columns] = place[columns, rows] = np.arange(len(rows))
    return (vector / weights.astype(vector.dtype))[..., place]


@dataclass(frozen=True)
class SemidefiniteBlock(SymmetricBlock):
    """``count`` cones of positive semidefinite ``dim`` × ``dim`` matrices, as svec."""

    count: int
    dim: int

    @property
    def size(self) -> int:
        return self.count * self.dim * (self.dim + 1) // 2

    @property
    def degree(self) -> int:
        return self.count * self.dim

    def identity(self) -> np.ndarray:
        rows, columns, _ = triangle(self.dim)
        return np.tile((rows == columns).astype(float), self.count)

    def matrices(self, x: Array) -> Array:
        return smat(x.reshape(*x.shape[:-1], self.count, self.size // self.count), self.dim)

    def vector(self, X: Array) -> Array:
        x = svec(X)
        return x.reshape(*x.shape[:-2], self.size)

    def interior(self, x: Array) -> Array:
        return jnp.min(eigvalsh(self.matrices(x)), axis=(-1, -2))

    def scaling(self, s: Array, z: Array) -> tuple[Any, Array]:
        """W Z = RᵀZR with R⁻¹ S R⁻ᵀ = RᵀZR = diag(λ)."""
        Ls, Lz = (cholesky(self.matrices(x)) for x in (s, z))
        U, values, Vt = svd(transpose(Lz) @ Ls)
        root = jnp.sqrt(values)
        R = Ls @ transpose(Vt) / root[..., None, :]
        inverse = transpose(Lz @ U / root[..., None, :])
        lam = self.vector(values[..., None] * jnp.eye(self.dim, dtype=s.dtype))
        return (R, inverse), lam

    def scale(self, W: Any, x: Array) -> Array:
        inverse = W[1][:, None]
        X = self.matrices(transpose(x))
        return transpose(self.vector(inverse @ X @ transpose(inverse)))

    def unscale(self, W: Any, s: Array, z: Array) -> tuple[Array, Array]:
        R, inverse = W
        S, Z = self.matrices(s), self.matrices(z)
        return self.vector(R @ S @ transpose(R)), self.vector(transpose(inverse) @ Z @ inverse)

    def product(self, x: Array, y: Array) -> Array:
        XY = self.matrices(x) @ self.matrices(y)
        return self.vector((XY + transpose(XY)) / 2)

    def divide(self, lam: Array, x: Array) -> Array:
        values = self._diagonal(lam)
        X = self.matrices(x)
        return self.vector(2 * X / (values[..., :, None] + values[..., None, :]))

    def steepness(self, lam: Array, x: Array) -> Array:
        root = jnp.sqrt(self._diagonal(lam))
        X = self.matrices(x) / (root[..., :, None] * root[..., None, :])
        return jnp.maximum(jnp.max(-eigvalsh(X), axis=(-1, -2)), 0.0)

    def _diagonal(self, x: Array) -> Array:
        return jnp.diagonal(self.matrices(x), axis1=-2, axis2=-1)

    def duals(self) -> list[Cone]:
        return [PositiveSemidefinite(self.dim)]

    def elements(self, v: Array, dual: Array, slack: Array) -> Elements:
        xp = namespace(v)
        values, vectors = eigh(self.matrices(v))
        shape = (len(v), self.count, self.size // self.count)
        dual, slack = (xp.max(t.reshape(shape), axis=-1, keepdims=True) for t in (dual, slack))
        values = snap(values, dual, slack)
        a, b = xp.broadcast_arrays(values[..., :, None], values[..., None, :])

        def eigenvalues(tie: float) -> Array:
            plain = slope(a, b, tie)
            # svec would put √2 off the diagonal, but these are factors, not coordinates
            return self.vector(plain) / self.vector(xp.ones_like(plain))

        return Elements(vectors, eigenvalues(0.0), eigenvalues(1.0))

    def rotate(self, basis: Any, x: Array) -> Array:
        Q = basis[:, None]
        return transpose(self.vector(transpose(Q) @ self.matrices(transpose(x)) @ Q))

    def unrotate(self, basis: Any, x: Array) -> Array:
        Q = basis[:, None]
        return transpose(self.vector(Q @ self.matrices(transpose(x)) @ transpose(Q)))

    def for_clarabel(self, clarabel: ModuleType) -> list[Any]:
        return [clarabel.PSDTriangleConeT(self.dim)] * self.count

    def onto_clarabel(self) -> tuple[Any, Any]:
        rows, columns, _ = triangle(self.dim)
        # the entry (i, j) of a lower triangle, column by column, is (j, i) of an upper one
        R = scipy.sparse.kron(
            scipy.sparse.eye(self.count),
            scipy.sparse.eye(len(rows)).tocsr()[np.lexsort((columns, rows))],
        )
        return R, R.T


class SemidefiniteConstraint(Constraint):
    """The whole cone; ``order`` is that of its matrices."""

    def eigenvalues(self, v: np.ndarray) -> np.ndarray:
        return np.linalg.eigvalsh(smat(v[self.rows], self.order))[::-1]

    def counts(self, low: np.ndarray, high: np.ndarray) -> tuple[int, int]:
        rows, columns, _ = triangle(self.order)
        own = np.arange(self.rows.start, self.rows.stop)[rows == columns]
        return int((low[own] == 1).sum()), int((high[own] > low[own]).sum())

    def limit(
        self,
        T: np.ndarray,
        low: np.ndarray,
        high: np.ndarray,
        moved: np.ndarray,
        rotated: np.ndarray,
    ) -> Limit:
        own = self.rows
        choice = (high > low)[own]
        rows, columns, _ = triangle(self.order)
        zero = rows[(rows == columns) & choice]
        total = rotated[own][(rows == columns) & choice].sum(axis=0)
        # a zero on the diagonal of a matrix ≽ 0 takes its row and its column with it
        cross = np.isin(rows, zero) | np.isin(columns, zero)
        stuck = rotated[own][cross & (low[own] == 0)]
        support = _support if len(zero) > 1 else half_line
        return Limit(rotated[own][choice], total, stuck, support)


def _support(h: np.ndarray, span: np.ndarray) -> np.ndarray:
    order = (math.isqrt(8 * len(h) + 1) - 1) // 2
    q = np.linalg.eigh(smat(h, order))[1][:, 0]
    rows, columns, weights = triangle(order)
    return (weights * q[rows] * q[columns]) @ span


def _constraint(number: int, order: int, start: int) -> Constraint:
    stop = start + order * (order + 1) // 2
    own = "semidefinite cone", number, order, slice(start, stop)
    return SemidefiniteConstraint(*own) if order > 1 else Constraint(*own)


SEMIDEFINITE = Sized(
    blocks=lambda orders: side_by_side(SemidefiniteBlock, orders),
    member=lambda cone: cone.order if type(cone) is PositiveSemidefinite else None,
    constraints=lambda orders: one_by_one(_constraint, orders),
    scs="s",
    cvxpy="psd",
)
