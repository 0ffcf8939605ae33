"""The de-homogenised system of a cone program and its transpose, solved in two ways.

At z = (x, v), v = y − s, the optimality conditions P x + Aᵀ Π(v) + c = 0, A x + Π(v) − v = b have the
Jacobian U(V) = [[P, AᵀV], [A, V − I]], V an element of the Clarke Jacobian of Π, the projection onto
K*. With V = T diag(d) Tᵀ and B = d^½ TᵀA both U(V) and its transpose reduce to the symmetric

    [[P, Bᵀ], [B, diag(d) − I]] (x, t) = (upper, lower).

``by_normal_equations`` costs one Cholesky factor and refinement, but does not notice a singular
system: its residual does. ``by_corner`` costs two factors; it is singular where one of them is, that
is, unless  H = P + BᵀB  and  C = I − diag(d) + d^½ B H⁻¹ Bᵀ d^½  are positive definite
(docs/theory.md#two-tests).
Right-hand sides and solutions are (batch, rows, columns).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ...arrays.lapack import cholesky, cholesky_solve, forward_substitution
from ...arrays.namespace import Array, fori_loop, namespace, transpose
from ...cones.spectrum import rotate, unrotate
from ...cones.table import Cones
from ...numerics import machine_epsilon
from ...solvers import normal_equations
from ...solvers.equilibrate import per_cone
from ...solvers.matrices import (
    Matrix,
    SparseMatrix,
    by_columns,
    column_norms,
    times,
    times_transposed,
)

PASSES = 3  # the solve itself and two refinements


def touched(A: Matrix, basis: tuple[Any, ...], marked: Array, cones: Cones) -> Array:
    """The variables in which a row of TᵀA that is marked has an entry; (batch, n), boolean.

    ``marked`` (batch, m) is boolean. If A is sparse one marked row stands for all of its cone.
    """
    if isinstance(A, SparseMatrix):
        return column_norms(A, per_cone(marked.astype(A.values.dtype), cones)) > 0
    return namespace(A).any((rotate(basis, A, cones) != 0) & marked[..., None], axis=-2)


def idle_variables(
    P: Matrix,
    A: Matrix,
    basis: tuple[Any, ...],
    d: Array,
    cones: Cones,
    auxiliary: tuple[int, ...],
) -> Array:
    """1 for the auxiliary variables that neither P nor a row with d > 0 touches, else 0; (batch, n).

    The solution leaves them free, and the derivative of the others does not see them: with a 1 in
    their place of P the system has a solution in which they stand still.
    """
    xp = namespace(d)
    if not auxiliary:
        return xp.zeros((len(d), P.shape[-1]), d.dtype)
    marked = xp.asarray(np.isin(np.arange(P.shape[-1]), auxiliary))
    held = (column_norms(P) > 0) | touched(A, basis, d > 0, cones)
    return (marked & ~held).astype(d.dtype)


Solver: TypeAlias = Callable[[Array, Array], tuple[Array, Array]]
"""(upper, lower) ↦ the two parts of a solution, or of a product."""


@dataclass(frozen=True)
class System:
    """U(V) of each item: P (batch, n, n), A (batch, m, n), dense or sparse, and basis and eigenvalues of V."""

    P: Any
    A: Any
    basis: tuple[Any, ...]
    d: Array
    cones: Cones

    @property
    def norm(self) -> Array:
        """Sums of |P| and |A| along rows and columns, the largest: what multiplies rounding; (batch,)."""
        xp = namespace(self.d)
        of_A = xp.max(xp.sum(abs(self.A), axis=-1), axis=-1, initial=0.0)
        of_columns = xp.max(xp.sum(abs(self.A), axis=-2), axis=-1, initial=0.0)
        of_P = xp.max(xp.sum(abs(self.P), axis=-1), axis=-1, initial=0.0)
        return of_P + xp.maximum(of_A, of_columns) + 1

    def turn(self, x: Array) -> Array:
        """d^½ Tᵀ x."""
        return namespace(self.d).sqrt(self.d)[..., None] * rotate(self.basis, x, self.cones)

    def turn_back(self, t: Array) -> Array:
        """T d^½ t."""
        return unrotate(self.basis, namespace(self.d).sqrt(self.d)[..., None] * t, self.cones)

    def element(self, x: Array) -> Array:
        """V x."""
        d = self.d[..., None]
        return unrotate(self.basis, d * rotate(self.basis, x, self.cones), self.cones)

    def product(self, x: Array, v: Array) -> tuple[Array, Array]:
        """U(V) (x, v)."""
        y = self.element(v)
        return self._times(self.P, x) + self._transposed(y), self._times(self.A, x) + y - v

    def transposed_product(self, a: Array, w: Array) -> tuple[Array, Array]:
        """U(V)ᵀ (a, w)."""
        image = self.element(self._times(self.A, a) + w)
        return self._times(self.P, a) + self._transposed(w), image - w

    def inverse(self, symmetric: Solver) -> Solver:
        """U(V)⁻¹, given a solver of the symmetric system."""

        def solve(upper: Array, lower: Array) -> tuple[Array, Array]:
            x, t = symmetric(upper, self.turn(lower))
            return x, self.turn_back(t) + self._times(self.A, x) - lower

        return solve

    def transposed_inverse(self, symmetric: Solver) -> Solver:
        """U(V)⁻ᵀ, given a solver of the symmetric system."""

        def solve(upper: Array, lower: Array) -> tuple[Array, Array]:
            a, t = symmetric(upper + self._transposed(lower), self.turn(lower))
            return a, self.turn_back(t) - lower

        return solve

    def _times(self, matrix: Matrix, x: Array) -> Array:
        return by_columns(times, matrix, x)

    def _transposed(self, y: Array) -> Array:
        return by_columns(times_transposed, self.A, y)


def by_normal_equations(system: System) -> Solver:
    """1 − d is at least √eps, so that one Cholesky factor serves: to be refined."""
    xp = namespace(system.d)
    width = xp.maximum(1 - system.d, machine_epsilon(system.d.dtype) ** 0.5)
    width = xp.sqrt(width)[..., None]
    scale = xp.sqrt(system.d)[..., None] / width
    turned = rotate(system.basis, system.A, system.cones)
    factor = normal_equations.factor(system.P, scale * turned)

    def symmetric(upper: Array, lower: Array) -> tuple[Array, Array]:
        x, z = factor.solve(upper, lower / width)
        return x, z / width

    return symmetric


class Factor(NamedTuple):
    """B, and the Cholesky factors LLᵀ = H, RRᵀ = C; NaN where they are not definite."""

    B: Array
    L: Array
    R: Array


def factorise(system: System) -> Factor:
    """B, L and R of each item."""
    P, d = system.P, system.d
    B = system.turn(system.A)
    L = cholesky(P + transpose(B) @ B)
    W = forward_substitution(L, transpose(namespace(d).sqrt(d)[..., None] * B))
    return Factor(B, L, corner(W, d))


def corner(W: Array, d: Array) -> Array:
    """R with RRᵀ = I − diag(d) + WᵀW."""
    C = transpose(W) @ W
    xp = namespace(C, d)
    place = xp.eye(d.shape[-1], dtype=bool)
    return cholesky(xp.where(place, C + (1 - d)[..., None], C))


def by_corner(system: System, factor: Factor) -> Solver:
    """By Woodbury from d = 0 in the corner."""
    root, B = namespace(system.d).sqrt(system.d)[..., None], factor.B

    def symmetric(upper: Array, lower: Array) -> tuple[Array, Array]:
        def plain(lower: Array) -> tuple[Array, Array]:
            x = cholesky_solve(factor.L, upper + transpose(B) @ lower)
            return x, B @ x - lower

        _, t = plain(lower)
        return plain(lower - root * cholesky_solve(factor.R, root * t))

    return symmetric


def is_regular(factor: Factor) -> Array:
    """Whether no pivot of H or C is within what rounding makes of zero, per item."""
    n, m = factor.L.shape[-1], factor.R.shape[-1]
    rounding = 8 * (n + m) * machine_epsilon(factor.L.dtype)

    def sound(L: Array) -> Array:
        xp = namespace(L)
        pivot = xp.min(xp.diagonal(L, axis1=-2, axis2=-1), axis=-1)
        # NaN compares as false
        return pivot**2 > rounding * xp.sum(L * L, axis=(-1, -2))

    return sound(factor.L) & sound(factor.R)


def refined(
    inverse: Solver,
    product: Solver,
    upper: Array,
    lower: Array,
    start: tuple[Array, Array] | None = None,
    passes: int = PASSES,
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """The solution after iterative refinement, and its residuals; of several the one next to ``start``."""

    def improve(_: int, solution: tuple[Array, Array]) -> tuple[Array, Array]:
        x, v = solution
        above, below = residual(x, v)
        dx, dv = inverse(above, below)
        return x + dx, v + dv

    def residual(x: Array, v: Array) -> tuple[Array, Array]:
        above, below = product(x, v)
        return upper - above, lower - below

    # a loop, so that it is compiled once; the first pass, from zero, is the solve itself
    if start is None:
        xp = namespace(upper)
        start = xp.zeros_like(upper), xp.zeros_like(lower)
    solution = fori_loop(passes, improve, start)
    return solution, residual(*solution)
