"""Products of symmetric cones in SCS order, and the Nesterov–Todd scaling of an interior pair.

A block is a number of equal cones side by side. For s, z in its interior the scaling W has
W z = W⁻ᵀ s = λ; ∘ is the Jordan product and e its identity (Nesterov, Todd 1997; Vandenberghe, The
CVXOPT linear and quadratic cone program solvers, 2010). Vectors are (batch, size), several of them
side by side (batch, size, columns).
"""

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from ..arrays.lapack import cholesky, eigvalsh, svd
from ..arrays.namespace import Array, transpose
from ..errors import InvalidInputError


@dataclass(frozen=True)
class Zero:
    """``count`` zeros. Its dual is free; W = eps^¼ stands in for the scaling, W = 0."""

    count: int

    degree = 0

    @property
    def size(self) -> int:
        return self.count

    def identity(self) -> np.ndarray:
        return np.zeros(self.count)

    def interior(self, x: Array) -> Array:
        return jnp.full(x.shape[:-1], jnp.inf, x.dtype)

    def scaling(self, s: Array, z: Array) -> tuple[Any, Array]:
        return None, jnp.zeros_like(s)

    def scale(self, W: Any, x: Array) -> Array:
        return x / self._width(x)

    def unscale(self, W: Any, s: Array, z: Array) -> tuple[Array, Array]:
        return jnp.zeros_like(s), z / self._width(z)

    def product(self, x: Array, y: Array) -> Array:
        return jnp.zeros_like(x)

    def divide(self, lam: Array, x: Array) -> Array:
        return jnp.zeros_like(x)

    def steepness(self, lam: Array, x: Array) -> Array:
        return jnp.zeros_like(x[..., 0])

    def _width(self, x: Array) -> float:
        return float(jnp.finfo(x.dtype).eps) ** 0.25


@dataclass(frozen=True)
class Orthant:
    """``count`` non-negative numbers."""

    count: int

    @property
    def size(self) -> int:
        return self.count

    @property
    def degree(self) -> int:
        return self.count

    def identity(self) -> np.ndarray:
        return np.ones(self.count)

    def interior(self, x: Array) -> Array:
        """The least eigenvalue of x."""
        return jnp.min(x, axis=-1)

    def scaling(self, s: Array, z: Array) -> tuple[Any, Array]:
        """The data of W, and λ."""
        return jnp.sqrt(s / z), jnp.sqrt(s * z)

    def scale(self, W: Any, x: Array) -> Array:
        """W⁻ᵀ x for a slack x; (batch, size, columns)."""
        return x / W[..., None]

    def unscale(self, W: Any, s: Array, z: Array) -> tuple[Array, Array]:
        """Wᵀ s and W⁻¹ z."""
        return W * s, z / W

    def product(self, x: Array, y: Array) -> Array:
        """x ∘ y."""
        return x * y

    def divide(self, lam: Array, x: Array) -> Array:
        """The u with λ ∘ u = x."""
        return x / lam

    def steepness(self, lam: Array, x: Array) -> Array:
        """The ρ ≥ 0 such that λ + αx stays in the cone as long as αρ ≤ 1."""
        return jnp.max(-x / lam, axis=-1, initial=0.0)


@dataclass(frozen=True)
class SecondOrder:
    """``count`` cones {(t, x) : ‖x‖ ≤ t} of dimension ``dim`` ≥ 2."""

    count: int
    dim: int

    @property
    def size(self) -> int:
        return self.count * self.dim

    @property
    def degree(self) -> int:
        return self.count

    def identity(self) -> np.ndarray:
        return np.tile(np.eye(self.dim)[0], self.count)

    def _split(self, x: Array) -> tuple[Array, Array]:
        x = x.reshape(*x.shape[:-1], self.count, self.dim)
        return x[..., 0], x[..., 1:]

    def _join(self, t: Array, x: Array) -> Array:
        both = jnp.concatenate([t[..., None], x], axis=-1)
        return both.reshape(*both.shape[:-2], self.size)

    def _residue(self, x: Array) -> Array:
        """√(t² − ‖x‖²), without cancellation."""
        t, x = self._split(x)
        norm = jnp.linalg.norm(x, axis=-1)
        return jnp.sqrt(jnp.maximum((t - norm) * (t + norm), jnp.finfo(t.dtype).tiny))

    def interior(self, x: Array) -> Array:
        t, x = self._split(x)
        return jnp.min(t - jnp.linalg.norm(x, axis=-1), axis=-1)

    def scaling(self, s: Array, z: Array) -> tuple[Any, Array]:
        size_s, size_z = self._residue(s), self._residue(z)
        (s0, s1), (z0, z1) = self._split(s), self._split(z)
        s0, s1 = s0 / size_s, s1 / size_s[..., None]
        z0, z1 = z0 / size_z, z1 / size_z[..., None]
        gamma = jnp.sqrt((1 + s0 * z0 + jnp.sum(s1 * z1, axis=-1)) / 2)
        w1 = (s1 - z1) / (2 * gamma)[..., None]
        w0 = jnp.sqrt(1 + jnp.sum(w1 * w1, axis=-1))
        W = jnp.sqrt(size_s / size_z), w0, w1
        return W, self._apply(W, z, 1.0)

    def _apply(self, W: Any, x: Array, sign: float) -> Array:
        """W x (sign 1) or W⁻¹ x (sign −1): W = η [[w₀, wᵀ], [w, I + wwᵀ/(1 + w₀)]]."""
        eta, w0, w1 = W
        t, x = self._split(x)
        along = jnp.sum(w1 * x, axis=-1)
        rest = x + (sign * t + along / (1 + w0))[..., None] * w1
        factor = eta if sign > 0 else 1 / eta
        return self._join(factor * (w0 * t + sign * along), factor[..., None] * rest)

    def scale(self, W: Any, x: Array) -> Array:
        W = jax.tree.map(lambda part: part[:, None], W)
        return transpose(self._apply(W, transpose(x), -1.0))

    def unscale(self, W: Any, s: Array, z: Array) -> tuple[Array, Array]:
        return self._apply(W, s, 1.0), self._apply(W, z, -1.0)

    def product(self, x: Array, y: Array) -> Array:
        (x0, x1), (y0, y1) = self._split(x), self._split(y)
        cross = x0[..., None] * y1 + y0[..., None] * x1
        return self._join(x0 * y0 + jnp.sum(x1 * y1, axis=-1), cross)

    def divide(self, lam: Array, x: Array) -> Array:
        (l0, l1), (x0, x1) = self._split(lam), self._split(x)
        u0 = (l0 * x0 - jnp.sum(l1 * x1, axis=-1)) / self._residue(lam) ** 2
        return self._join(u0, (x1 - u0[..., None] * l1) / l0[..., None])

    def steepness(self, lam: Array, x: Array) -> Array:
        # an automorphism of the cone that carries λ to e, where eigenvalues are plain
        size = self._residue(lam)
        l0, l1 = self._split(lam)
        W = (size, l0 / size, l1 / size[..., None])
        t, rest = self._split(self._apply(W, x, -1.0))
        return jnp.max(jnp.linalg.norm(rest, axis=-1) - t, axis=-1, initial=0.0)


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
class Semidefinite:
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
        return smat(x.reshape(*x.shape[:-1], self.count, -1), self.dim)

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


@dataclass(frozen=True)
class Curved:
    """Exponential or power cones in ℝ³ side by side, or their duals; no symmetric cones: no scaling.

    ``alphas``: the exponent of each power cone; None for an exponential cone. ``dual``: K* for K.
    """

    alphas: tuple[float | None, ...]
    dual: bool

    dim = 3

    @property
    def count(self) -> int:
        return len(self.alphas)

    @property
    def size(self) -> int:
        return 3 * self.count


Symmetric: TypeAlias = Zero | Orthant | SecondOrder | Semidefinite
Block: TypeAlias = Symmetric | Curved


class Piece(NamedTuple):
    """A block and the rows that it occupies."""

    block: Block
    rows: slice


@dataclass(frozen=True)
class Cones:
    """K = {0}^zero × ℝ₊^nonnegative × Π second-order cones × Π semidefinite cones × Π cones in ℝ³.

    Order and scaling are those of SCS.

    Attributes:
        zero: number of equality rows. nonnegative: number of inequality rows.
        second_order: dimensions d of {(t, x) ∈ ℝ × ℝ^{d−1} : ‖x‖ ≤ t}.
        semidefinite: orders d of positive semidefinite matrices; each takes d(d + 1)/2 rows, the
            lower triangle column by column, entries off the diagonal times √2.
        exponential: number of cones cl{(x, y, z) : y > 0, y exp(x/y) ≤ z}.
        dual_exponential: number of their duals cl{(u, v, w) : u < 0, −u exp(v/u) ≤ e w}.
        power: exponents α of {(x, y, z) : x^α y^(1−α) ≥ |z|, x, y ≥ 0}, 0 < α < 1; −α stands for the
            dual of the cone of exponent α.

    Raises:
        InvalidInputError: a size is no non-negative integer (positive for a cone of its own), or an
            exponent leaves (−1, 1) or is 0.

    >>> Cones(zero=1, nonnegative=2, second_order=(3,), semidefinite=(2,)).size
    9
    """

    zero: int = 0
    nonnegative: int = 0
    second_order: tuple[int, ...] = ()
    semidefinite: tuple[int, ...] = ()
    exponential: int = 0
    dual_exponential: int = 0
    power: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in ("zero", "nonnegative", "exponential", "dual_exponential"):
            object.__setattr__(self, name, _integer(name, getattr(self, name), 0))
        for name in ("second_order", "semidefinite"):
            sizes = getattr(self, name)
            if not isinstance(sizes, Sequence):
                raise InvalidInputError(
                    f"{name} is a list of sizes, one per cone; got {sizes!r}. For one cone write "
                    f"{name}=({sizes!r},)."
                )
            object.__setattr__(self, name, tuple(_integer(name, size, 1) for size in sizes))
        object.__setattr__(self, "power", tuple(float(alpha) for alpha in self.power))
        for alpha in self.power:
            if not 0 < abs(alpha) < 1:
                raise InvalidInputError(
                    f"power takes exponents 0 < α < 1 (−α for the dual cone), but got {alpha}."
                )

    @property
    def polyhedral(self) -> bool:
        """Whether K is a polyhedron: equalities and inequalities alone."""
        return self.symmetric and not (self.second_order or self.semidefinite)

    @property
    def symmetric(self) -> bool:
        """Whether K is a product of symmetric cones: no exponential and no power cones."""
        return not (self.exponential or self.dual_exponential or self.power)

    @property
    def size(self) -> int:
        """Number of rows of A."""
        return sum(piece.block.size for piece in self.pieces)

    @property
    def degree(self) -> int:
        """The barrier parameter of a product of symmetric cones: sᵀy = μ·degree on the central path."""
        return sum(block.degree for block, _ in self.symmetric_pieces)

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The blocks in order of rows; a cone of dimension 1 is a non-negative number."""
        return _pieces(self)

    @property
    def symmetric_pieces(self) -> "list[tuple[Symmetric, slice]]":
        """The same; InvalidInputError if a cone is not symmetric."""
        if not self.symmetric:
            raise InvalidInputError(
                "exponential and power cones have no Nesterov–Todd scaling, which this method needs: "
                'solve with ConeProgram(..., solver="clarabel") or "scs".'
            )
        return [(block, rows) for block, rows in self.pieces if not isinstance(block, Curved)]


@functools.cache
def _pieces(cones: Cones) -> tuple[Piece, ...]:
    blocks: list[Block] = [Zero(cones.zero)] if cones.zero else []
    if cones.nonnegative:
        blocks.append(Orthant(cones.nonnegative))
    kinds = (SecondOrder, cones.second_order), (Semidefinite, cones.semidefinite)
    for kind, sizes in kinds:
        for dim, group in itertools.groupby(sizes):
            count = len(list(group))
            blocks.append(Orthant(count) if dim == 1 else kind(count, dim))
    if cones.exponential:
        blocks.append(Curved((None,) * cones.exponential, dual=False))
    if cones.dual_exponential:
        blocks.append(Curved((None,) * cones.dual_exponential, dual=True))
    for dual, group in itertools.groupby(cones.power, key=lambda alpha: alpha < 0):
        blocks.append(Curved(tuple(abs(alpha) for alpha in group), dual))
    ends = list(itertools.accumulate((block.size for block in blocks), initial=0))
    return tuple(
        Piece(block, slice(start, stop))
        for block, start, stop in zip(blocks, ends[:-1], ends[1:], strict=True)
    )


def _integer(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise InvalidInputError(f"{name} takes integers ≥ {least}, but got {value!r}.")
    return int(value)
