"""Elements of the set as matrices: their singular values, all vertices, a witness."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import scipy

from ..calculus import AbsNormal
from ..calculus.sets.abs_normal import Group
from .bounds import UNIT, rows_alone
from .certificate import Witness
from .reduced import Block

_MAX_VERTICES = 1 << 12
_MAX_SINGULAR_VALUES = 10**8  # vertices · n³
_DENSE = 400  # rows up to which singular values are computed rather than iterated for
_ITERATIONS = 30
_SETTLED = 1e-2  # relative change of both estimates at which the iteration ends


def base_weights(form: AbsNormal) -> np.ndarray:
    """The flat weights at which no kink passes anything on: D = 0."""
    weights = np.zeros(form.weight_count)
    at = 0
    for g in form.groups:
        if g.kind == "simplex":
            weights[at + g.leader] = 1.0
        at += g.ways
    return weights


def flat_weights(block: Block, rows: np.ndarray) -> np.ndarray:
    """Flat weights with a block's rows at the given weights and all other kinks at the base."""
    weights = base_weights(block.form)
    given = dict(zip(block.columns.tolist(), np.clip(rows, -1.0, 1.0).tolist(), strict=True))
    at = 0
    for g in block.form.groups:
        if g.columns and g.columns[0] in given:
            local = weights[at : at + g.ways]
            for column, place in zip(g.columns, g.places, strict=True):
                local[place] = given[column]
            if g.kind == "simplex":
                local[g.leader] = 0.0
                local[g.leader] = max(0.0, 1.0 - local.sum())
        at += g.ways
    return weights


def extreme_singular_values(matrix: np.ndarray) -> tuple[float, float]:
    """(σ_min, σ_max): by an SVD up to 400 rows, beyond by iteration, which errs to the inside."""
    if matrix.size == 0:
        return 1.0, 1.0
    if len(matrix) <= _DENSE:
        values = np.linalg.svd(matrix, compute_uv=False)
        return float(values[-1]), float(values[0])
    smallest, _, largest = _iterated(matrix)
    return smallest, largest


def _iterated(matrix: np.ndarray) -> tuple[float, np.ndarray, float]:
    """σ_min, its right vector and σ_max by power iteration, inverse iteration for the least."""
    x = y = np.random.default_rng(0).normal(size=len(matrix))
    factor = _Factor(matrix)
    seen = (np.inf, 0.0)
    for _ in range(_ITERATIONS):
        x, y = factor.solve(factor.solve_transposed(x)), matrix.T @ (matrix @ y)
        lengths = float(np.linalg.norm(x)), float(np.linalg.norm(y))
        x, y = x / lengths[0], y / lengths[1]
        if np.allclose(lengths, seen, rtol=_SETTLED):
            break
        seen = lengths
    return float(np.linalg.norm(matrix @ x)), x, float(np.linalg.norm(matrix @ y))


class _Factor:
    """LU of what is left of a matrix without the rows that hold a diagonal entry alone."""

    def __init__(self, matrix: np.ndarray) -> None:
        diagonal = np.diagonal(matrix)
        alone = rows_alone(matrix)
        self.matrix, self.diagonal = matrix, diagonal
        self.single, self.rest = np.flatnonzero(alone), np.flatnonzero(~alone)
        block = matrix[np.ix_(self.rest, self.rest)]
        self.factor = scipy.linalg.lu_factor(block, overwrite_a=True, check_finite=False)
        pivots = np.einsum("ii->i", self.factor[0])
        tiny = UNIT * float(np.abs(self.factor[0]).max(initial=0.0)) * 1e-3
        pivots[np.abs(pivots) < tiny] = tiny

    def solve(self, b: np.ndarray) -> np.ndarray:
        x = np.zeros_like(b)
        x[self.single] = b[self.single] / self.diagonal[self.single]
        remaining = b - self.matrix @ x
        x[self.rest] = scipy.linalg.lu_solve(self.factor, remaining[self.rest], check_finite=False)
        return x

    def solve_transposed(self, c: np.ndarray) -> np.ndarray:
        y = np.zeros_like(c)
        y[self.rest] = scipy.linalg.lu_solve(self.factor, c[self.rest], trans=1, check_finite=False)
        remaining = c - self.matrix.T @ y
        y[self.single] = remaining[self.single] / self.diagonal[self.single]
        return y


def polished(form: AbsNormal, selection: np.ndarray) -> np.ndarray:
    """A selection nearby whose element is singular to working accuracy, if one weight can do that.

    Towards a vertex of one kink, B moves along a line B + t C (but for kinks inside a solve), and
    t = −σ / (uᵀ C v) makes it singular to first order.
    """
    if len(form.A) > _DENSE:
        return selection
    for _ in range(3):
        B = form.jacobian(form.diagonal(selection))
        left, values, right = np.linalg.svd(B)
        if values[-1] <= 1e-13 * values[0]:
            break
        best, step, at = 0.0, None, 0
        for g in form.groups:
            for vertex in [] if g.kind == "ball" else g.vertices():
                there = selection.copy()
                there[at : at + g.ways] = vertex
                C = form.jacobian(form.diagonal(there)) - B
                slope = -float(left[:, -1] @ C @ right[-1])
                if slope > max(best, values[-1]):
                    best, step = slope, (values[-1] / slope) * (there - selection)
            at += g.ways
        if step is None:
            break
        selection = np.clip(selection + step, 0.0, 1.0)
    return selection


def witness(form: AbsNormal, selection: np.ndarray) -> Witness:
    """The element at a selection, with its null vector."""
    element = form.jacobian(form.diagonal(selection))
    if len(element) <= _DENSE:
        _, values, vectors = np.linalg.svd(element)
        return Witness(selection, vectors[-1], float(values[-1]), float(values[0]))
    smallest, vector, largest = _iterated(element)
    return Witness(selection, vector, smallest, largest)


@dataclass(frozen=True)
class Vertices:
    """Every vertex of a set: flat weights (V, …), extreme singular values and determinant signs.

    ``floor`` is the user's precision of each σ_min, ``rounding`` adds what floating point did to it.
    """

    weights: np.ndarray
    smallest: np.ndarray
    largest: np.ndarray
    floor: np.ndarray
    rounding: np.ndarray
    signs: np.ndarray

    @property
    def at_zero(self) -> np.ndarray:
        return self.smallest <= self.floor

    @property
    def margin(self) -> float:
        """The least σ_min, less the rounding and the user's precision."""
        return float(np.min(self.smallest - self.rounding))

    @property
    def counts(self) -> tuple[int, int, int]:
        """How many determinants are negative, zero and positive."""
        signs = np.where(self.at_zero, 0, self.signs)
        return int((signs < 0).sum()), int((signs == 0).sum()), int((signs > 0).sum())


def all_vertices(form: AbsNormal, relative_floor: float) -> Vertices | None:
    """All vertices, if they are finitely many and few enough for an SVD each."""
    moving = set(form.moving())
    if any(form.groups[i].kind == "ball" for i in moving):
        return None
    n = form.A.shape[0]
    count = math.prod(max(2, form.groups[i].ways) for i in moving)
    if count > _MAX_VERTICES or (n > 1 and count * n**3 > _MAX_SINGULAR_VALUES):
        return None
    base, at, choices = base_weights(form), 0, []
    for i, g in enumerate(form.groups):
        choices.append(_extremes(g) if i in moving else [tuple(base[at : at + g.ways])])
        at += g.ways
    weights = np.array([list(itertools.chain(*p)) for p in itertools.product(*choices)])
    diagonal = form.diagonal(weights).reshape(count, -1)
    elements = form.jacobian(diagonal)
    values = np.linalg.svd(elements, compute_uv=False) if n else np.ones((count, 1))
    signs = np.linalg.slogdet(elements)[0]
    growth = np.ones(count)
    k = form.L.shape[0]
    if np.any(form.L):
        system = np.eye(k) - diagonal[:, :, None] * form.L
        signs = signs * np.linalg.slogdet(system)[0]
        # R = (I − D L)⁻¹ D E is known up to γ ‖(I − D L)⁻¹‖ ‖I − D L‖ ‖R‖
        inverse = np.linalg.norm(np.linalg.inv(system), axis=(1, 2))
        growth += inverse**2 * np.linalg.norm(system, axis=(1, 2))
    terms = float(np.linalg.norm(form.H)) * float(np.linalg.norm(form.E)) * growth
    smallest, largest = values[:, -1], values[:, 0]
    floor = relative_floor * largest
    rounding = floor + 4 * (k + 3) * UNIT * terms
    return Vertices(weights, smallest, largest, floor, rounding, signs)


def _extremes(group: Group) -> list[tuple[float, ...]]:
    return list(group.vertices())
