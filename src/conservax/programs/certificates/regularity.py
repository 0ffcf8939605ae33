"""Ranks of the two matrices of the certificate, and a margin, with all errors on the safe side."""

import math
from functools import cached_property

import numpy as np

from ...cones.constraint import Constraint
from ...invertibility.bounds import UNIT, cut, inverse_norm_bound, two_norm_bound, verified_inverse
from ...invertibility.definite import definite_margin
from ...numerics import machine_epsilon, singular_value_floor
from .uniqueness import Pieces


class Drift:
    """How far errors in v and rounding turn the eigenspaces of a curved cone (by Davis, Kahan)."""

    def __init__(self, pieces: Pieces, v: np.ndarray | None, residual: float) -> None:
        self.parts = [part for part in pieces.constraints if part.curved]
        self.v = v
        self.low, self.high = pieces.low, pieces.high
        self.unit = 16 * machine_epsilon(pieces.dtype)
        self.residual = residual
        T = pieces.T
        defect = float(np.linalg.norm(T.T @ T - np.eye(len(T)))) if self.parts else 0.0
        self.basis = 2 * defect + 8 * (len(T) + 4) * UNIT * bool(self.parts)

    def turned(self, part: Constraint, above: int, condition: float) -> float:
        """A bound on the change of the columns of T that belong to the ``above`` greatest eigenvalues.

        v moves by round-off, and by ``condition`` times its own relative error.
        """
        if self.v is None:
            return self.basis
        values = part.eigenvalues(self.v)
        if above in (0, len(values)):
            return self.basis
        round_off = self.unit * part.order
        error = round_off + (round_off + self.residual) * condition
        error *= float(np.linalg.norm(self.v[part.rows]))
        choice = (self.high > self.low)[part.rows]
        if choice.any():
            # the kink counts as met: T's ray, its first column, or its normal is that of a point nearby
            nearest = error + 2 * float(np.abs(values).max())
            angle = part.turn(self.v, nearest, bool(choice[0]))
            if angle is not None:
                return self.basis + 2 * angle
        gap = float(values[above - 1] - values[above]) - 2 * error
        return self.basis + (3 * error / gap if gap > 0 else math.inf)

    def of_rows(self, scale: np.ndarray, A: np.ndarray, positive: bool, condition: float) -> float:
        """‖·‖_F of the error in the rows of diag(scale) TᵀA; those of scale 0 do not count."""
        total = 0.0
        for part in self.parts:
            size = float(np.linalg.norm(scale[part.rows]))
            if size > 0:
                count = part.counts(self.low, self.high)
                angle = self.turned(part, count[0] + (0 if positive else count[1]), condition)
                total += (angle * size * float(np.linalg.norm(A[part.rows]))) ** 2
        return math.sqrt(total)

    @cached_property
    def largest(self) -> float:
        """Of all angles, those of eigenspaces that round-off already mixes left out."""
        angles = [
            self.turned(part, above, 0.0)
            for part in self.parts
            for count in [part.counts(self.low, self.high)]
            for above in (count[0], sum(count))
        ]
        return max((angle for angle in angles if math.isfinite(angle)), default=0.0)

    def of_system(self, pieces: Pieces, angle: float) -> float:
        """‖·‖ of the error in U(V), where rounding, and ``angle``, changed V = T diag(d) Tᵀ."""
        if not self.parts:
            return 0.0
        element = 2 * max(self.basis, angle) + self.unit + 4 * len(pieces.T) ** 1.5 * UNIT
        return element * math.hypot(1.0, float(np.linalg.norm(pieces.A)))


class RankTest:
    """Whether a matrix M = R N C of the pieces has a trivial kernel; R, C only change the units.

    N is [P; TᵀA] for the second-order condition and (TᵀA)ᵀ for nondegeneracy, TᵀA restricted to the
    rows ``index``; ``kernel`` is an orthonormal basis of its kernel, once ``holds`` has found one.
    """

    def __init__(self, pieces: Pieces, index: np.ndarray, P: np.ndarray | None) -> None:
        rows = (pieces.T.T @ pieces.A)[index]
        n = rows.shape[1]
        self.curvature = np.zeros((n, n)) if P is None else P
        c, r = _equilibrate(self.curvature, _sizes(pieces)[index])
        self.curvature = c[:, None] * self.curvature * c
        size = float(np.abs(self.curvature).max(initial=0.0))
        self.curvature *= math.ldexp(1.0, -round(math.log2(size))) if size > 0 else 1.0
        rows = r[:, None] * rows * c
        self.strict = P is not None  # only rows of positive multipliers count
        self.M, self.inner = (np.vstack([self.curvature, rows]), c) if self.strict else (rows.T, r)
        self.pieces, self.index = pieces, index
        self.A, self.scale = pieces.A * c, np.zeros(len(pieces.A))
        self.scale[index] = r
        self.kernel = np.zeros((len(self.inner), 0))
        count = self.M.shape[1]
        self.left, values, self.right = np.linalg.svd(self.M) if count else (np.eye(n), r, r)
        self.values = np.pad(values, (0, count - len(values)))

    def condition(self) -> float:
        """How much larger the data are than σ_min; a rotated M may be small by cancellation alone."""
        if not len(self.values):
            return 1.0
        parts = [part.rows for part in self.pieces.constraints if part.curved]
        sizes = (np.linalg.norm(self.scale[own]) * np.linalg.norm(self.A[own]) for own in parts)
        return float(max(self.values[0], *sizes, 0.0) / self.values[-1])

    def fails(self, drift: Drift, condition: float) -> bool:
        """Whether M is singular to the precision at hand; finds the kernel."""
        slight = drift.of_rows(self.scale, self.A, self.strict, condition)
        floor = singular_value_floor(self.M, self.pieces.dtype)
        lost = self.values <= floor + (slight if math.isfinite(slight) else 0.0)
        self.kernel = np.linalg.qr(self.inner[:, None] * self.right[lost].T)[0]
        return bool(lost.any())

    def holds(self, drift: Drift, condition: float) -> bool:
        """Whether the kernel is trivial for sure, rounding accounted for."""
        count = self.M.shape[1]
        if count == 0:
            return True
        # other columns beside M: the square matrix is regular only if M has full rank
        square = np.hstack([self.M, self.left[:, count:]])
        inverse = verified_inverse(square)
        if inverse is None:
            return False
        least = (1 - 4 * UNIT) / inverse_norm_bound(square, inverse)
        doubt = drift.of_rows(self.scale, self.A, self.strict, condition)
        return least > doubt + _indefinite(self.curvature)


def _sizes(pieces: Pieces) -> np.ndarray:
    """|TᵀA|; in a rotated cone the norms of A's columns, for short rows may be nothing but rounding."""
    sizes = np.abs(pieces.A)
    for part in pieces.constraints:
        if part.curved:
            sizes[part.rows] = np.linalg.norm(sizes[part.rows], axis=0)
    return sizes


def _equilibrate(P: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Powers of two c, r for which c P c and r ``rows`` c have rows and columns of similar sizes."""
    c, r = np.ones(rows.shape[1]), np.ones(len(rows))
    P = np.abs(P)
    for _ in range(8):
        scaled, across = c[:, None] * P * c, r[:, None] * rows * c
        widest = np.maximum(scaled.max(axis=0, initial=0.0), across.max(axis=0, initial=0.0))
        longest = across.max(axis=1, initial=0.0)
        c /= np.sqrt(np.where(widest > 0, widest, 1.0))
        r /= np.sqrt(np.where(longest > 0, longest, 1.0))
    c, r = (np.ldexp(1.0, np.rint(np.log2(scale)).astype(int)) for scale in (c, r))
    return c, r


def _indefinite(P: np.ndarray) -> float:
    """A bound on the distance of a symmetric P from the positive semidefinite matrices."""
    if not P.any() or definite_margin(P) > 0:
        return 0.0
    rounding = 4 * len(P) * UNIT * float(np.linalg.norm(P))
    return max(0.0, -float(np.linalg.eigvalsh(P)[0])) + rounding


def margin_of_set(pieces: Pieces, drift: Drift) -> float | None:
    """A lower bound on σ_min(U(V)) over V = V_lo + T_c Δ^½ D Δ^½ T_cᵀ, 0 ≼ D ≼ I, Δ = high − low.

    U(V) = U₀ + H D G from either end, so σ_min ≥ [‖U₀⁻¹‖ (1 + ‖H‖ ‖G U₀⁻¹‖ / μ)]⁻¹ with
    μ = λ_min of sym(I + G U₀⁻¹ H) (docs/theory.md#margin-of-a-program); every quantity is bounded on
    the safe side.
    """
    root = np.sqrt((pieces.high - pieces.low)[pieces.choice])
    spread = pieces.T[:, pieces.choice] * root
    G = np.hstack([np.zeros((len(root), len(pieces.P))), spread.T])
    H = np.vstack([pieces.A.T @ spread, spread])
    bounds = [
        _base_margin(pieces.system(pieces.element(q)), sign * H, G)
        for q, sign in zip(pieces.extremes, (1.0, -1.0), strict=False)
    ]
    # the bend of exponential and power cones changes with v as their eigenvectors do
    best = max(bounds) - drift.of_system(pieces, 0.0 if pieces.cones.symmetric else drift.largest)
    return best if best > 0 else None


def _base_margin(U: np.ndarray, H: np.ndarray, G: np.ndarray) -> float:
    inverse = verified_inverse(U)
    if inverse is None:
        return 0.0
    norm = inverse_norm_bound(U, inverse)
    if len(G) == 0:
        return (1 - 8 * UNIT) / norm
    M, radius = cut(U, H, G, np.zeros((len(G), len(G))))
    N = np.eye(len(G)) - M
    doubt = len(G) * radius + 4 * UNIT * (float(np.linalg.norm(N)) + 1)
    mu = definite_margin((N + N.T) / 2) - doubt if math.isfinite(radius) else 0.0
    if not mu > 0:
        return 0.0
    across = two_norm_bound(G @ inverse.R)
    across += float(np.linalg.norm(G)) * (
        inverse.defect * norm + len(U) * UNIT * float(np.linalg.norm(inverse.R))
    )
    return (1 - 16 * UNIT) / (norm * (1 + two_norm_bound(H) * across / mu))
