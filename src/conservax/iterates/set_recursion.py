"""``piggyback_set``: the set-valued recursion of derivatives at a fixed point, and what it converges to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InvalidInputError
from ..implicit import implicit_jacobian
from ..invertibility import Verdict
from .along import columns_of, pushed
from .contract import Algorithm
from .contraction import Contraction, contraction_at
from .estimator import count
from .hulls import distance, extreme_points
from .linearised import FixedPoint, Pieces

_LIMIT = 1000  # vertices of a hull
_WORDS = 4096  # products that bound the error


@dataclass(frozen=True)
class PiggybackSet:
    """conv J_t of J_{t+1} = {A X + B : [A B] ∈ J_F, X ∈ J_t}, in the coordinates of the output.

    ``error`` bounds the Hausdorff distance (Frobenius) between this hull and that of the limit, the set
    with J = {A X + B}; infinite where the iteration is not proven to contract. ``contraction`` is that
    certificate. ``steps`` were taken.
    """

    contraction: Contraction
    steps: int
    error: float
    _vertices: np.ndarray
    _implicit: np.ndarray

    def vertices(self) -> np.ndarray:
        """The vertices of the hull, an array (V, m, p)."""
        return self._vertices.copy()

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Entrywise bounds, each (m, p), that no element of the limit exceeds: widened by ``error``."""
        low, high = self._vertices.min(axis=0), self._vertices.max(axis=0)
        return low - self.error, high + self.error

    def contains(self, matrix: Any, tol: float = 1e-9) -> bool:
        """Whether a matrix (m, p) lies within ``error`` + ``tol`` of the hull."""
        return self.distance(matrix) <= self.error + tol

    def distance(self, matrix: Any) -> float:
        """The Frobenius distance of a matrix (m, p) to the hull.

        Raises InvalidInputError for another shape.
        """
        X = np.asarray(matrix, dtype=np.float64)
        shape = self._vertices.shape[1:]
        if X.size != shape[0] * shape[1]:
            raise InvalidInputError(
                f"the matrix must have shape {shape}, flattened as that of a ConservativeJacobian; it has "
                f"{X.shape}."
            )
        return distance(X.ravel(), _flat(self._vertices))

    @cached_property
    def gap(self) -> float:
        """How far beyond the implicit derivatives the hull reaches: max over vertices of the distance.

        The gap of the limit is this number up to ``error``. The implicit set {(I − A)⁻¹B} lies in the
        limit, sometimes strictly.
        """
        implicit = _flat(self._implicit)
        return max(distance(v, implicit) for v in _flat(self._vertices))


def piggyback_set(
    alg: Algorithm, x: Any, theta: Any, steps: int, *, initial: Any = None
) -> PiggybackSet:
    """The set-valued piggyback recursion at a fixed point, T = ``steps`` times from J_{x0}(θ).

    J_{t+1} = {A X + B : [A B] ∈ J_F(x, θ), X ∈ J_t}. Where the iteration contracts, J_t converges to
    the only compact set that the recursion leaves as it is, and there every limit of piggyback or
    unrolled derivatives of a run that converges to x lies. Hulls need vertices only, since A X + B is
    affine in each: after every step the points that are no vertices are dropped.

    Args:
        alg: the algorithm.
        x: its output at a fixed point, as an estimator returned it.
        theta: the parameters, p numbers.
        steps: how often the recursion is applied, T.
        initial: the Jacobian of the initial state's point in θ, as ``jax.jacobian`` returns it; zero by
            default.

    Returns:
        A PiggybackSet: hull, error, gap. With ρ the norm of the step in the ellipsoid of the certificate
        the error is ρᵀ dist(J_0, J_1)/(1 − ρ), and more where vertices beyond 1000 were dropped.

    Raises:
        NotARootError, NotConvergedError: x is no output of a fixed point. TooManyKinksError,
        NotPolyhedralError: the step's set has no list of vertices.

    Source: Bolte, Pauwels, Vaiter (NeurIPS 2022), Theorem 1 and its proof; Hutchinson (1981) for the
    fixed point.

    >>> import jax.numpy as jnp, conservax as cx
    >>> alg = cx.iterates.from_step(lambda y, a: jnp.maximum(0.0, y / 2 - a))
    >>> sets = cx.iterates.piggyback_set(alg, 0.0, 0.0, 40)
    >>> [round(float(v), 6) for v in sets.vertices().ravel()], round(sets.gap, 6)
    ([-2.0, 0.0], 0.0)
    """
    return recursion(FixedPoint.of(alg, x, theta), count(steps, "steps"), initial)


def recursion(
    point: FixedPoint, steps: int, initial: Any = None, contraction: Contraction | None = None
) -> PiggybackSet:
    """``piggyback_set`` at a fixed point that is known."""
    pieces = Pieces.of(point)
    contraction = contraction or contraction_at(point)
    n, p = pieces.B.shape[1:]
    start = _start(point, initial, n, p)
    X, short = start[None], 0.0
    for _ in range(steps):
        X, lost = extreme_points(_flat(_images(pieces.A, pieces.B, X)), _LIMIT)
        X, short = X.reshape(-1, n, p), max(short, lost)
    out, lost = extreme_points(_flat(_images(pieces.C, pieces.D, X)), _LIMIT)
    error = _error(pieces, contraction, start, steps, short) + lost
    m = pieces.C.shape[1]
    implicit = implicit_jacobian(point.alg.residual, rtol=point.rtol)
    if point.basis is None:
        Y = implicit(point.y, point.theta).vertices()
        rest = _output_of_point(point, n)
        inner = _images(rest[0], rest[1], Y)
    else:  # one smooth piece, or the quotient's own formula
        Y = np.stack(
            [np.linalg.solve(np.eye(n) - A, B) for A, B in zip(pieces.A, pieces.B, strict=True)]
        )
        inner = _images(pieces.C, pieces.D, Y)
    return PiggybackSet(contraction, steps, error, out.reshape(-1, m, p), inner)


def _output_of_point(point: FixedPoint, n: int) -> tuple[np.ndarray, np.ndarray]:
    """[C D] of the output in the point rather than the state."""
    from ..calculus import conservative_jacobian

    found = conservative_jacobian(point.alg.output, argnums=(0, 1), rtol=point.rtol)(
        point.y, point.theta
    ).vertices()
    size = sum(jnp.size(leaf) for leaf in jax.tree.leaves(point.y))
    return found[:, :, :size], found[:, :, size:]


def _images(A: np.ndarray, B: np.ndarray, X: np.ndarray) -> np.ndarray:
    """A_i X_j + B_i, (all pairs, m, p)."""
    images = A[:, None] @ X[None] + B[:, None]
    return images.reshape(-1, *images.shape[2:])


def _start(point: FixedPoint, initial: Any, n: int, p: int) -> np.ndarray:
    """J_{s0}(θ), (n, p): the Jacobian of the first state."""
    if initial is None:
        return np.zeros((n, p))
    columns = columns_of(initial, point.x, point.theta)
    _, tangents = pushed(point.alg.init, point.x, columns, point.theta)
    matrix = np.concatenate([np.asarray(t).reshape(p, -1) for t in tangents], axis=1).T
    return matrix if point.basis is None else point.basis.T @ matrix


def _error(
    pieces: Pieces, contraction: Contraction, start: np.ndarray, steps: int, short: float
) -> float:
    """Σ_{i ≥ t} c_i dist(J_0, J_1), c_i the largest norm of a product of i letters, in the output's units."""
    radius = contraction.radius
    if radius is None or contraction.verdict != Verdict.PROVEN:
        return np.inf
    R = radius.norm
    inverse = np.linalg.inv(R)
    A = R @ pieces.A @ inverse
    letters, products, norms = len(A), np.eye(len(R))[None], [1.0]
    while len(products) * letters <= _WORDS:
        products = (A[:, None] @ products[None]).reshape(-1, *A.shape[1:])
        norms.append(float(np.linalg.norm(products, 2, axis=(1, 2)).max()))
        if norms[-1] < 1 - 1e-9:
            break
    if not norms[-1] < 1 - 1e-9:
        return np.inf
    period, falls, total = len(norms) - 1, norms[-1], sum(norms[:-1])
    first = max(
        float(np.linalg.norm(R @ (A_i @ start + B_i - start)))
        for A_i, B_i in zip(pieces.A, pieces.B, strict=True)
    )
    back = float(np.linalg.norm(inverse, 2)) * max(np.linalg.norm(C, 2) for C in pieces.C)
    lost = short * float(np.linalg.norm(R, 2)) * total / (1 - falls)
    return float(back * (total * falls ** (steps // period) * first / (1 - falls) + lost))


def _flat(matrices: np.ndarray) -> np.ndarray:
    return matrices.reshape(len(matrices), -1)
