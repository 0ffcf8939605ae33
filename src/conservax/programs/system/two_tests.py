"""The verdict from inside jit: U(V) is invertible for every element V if two matrices are definite.

    H = P + AᵀV_lo A  and  C = I − V_hi + V_hi A M AᵀV_hi,  for any one positive definite M

(docs/theory.md#two-tests), V_lo and V_hi being the least and the greatest element.
"""

from typing import NamedTuple

from ...arrays.lapack import cholesky
from ...arrays.namespace import Array, namespace, transpose
from ...cones.spectrum import Spectrum, rotate
from ...cones.table import Cones
from ...numerics import machine_epsilon
from ...solvers.triangular import triangular_inverse
from .system import corner


class TwoTests(NamedTuple):
    """Per item: the verdict (int8) and a lower bound on the smaller λ_min of the two tests."""

    verdict: Array
    margin: Array


class Factors(NamedTuple):
    """``turned`` = TᵀA, L with LLᵀ ≈ H, R with RRᵀ ≈ C, X ≈ L⁻¹, Y ≈ R⁻¹; NaN where there are none."""

    turned: Array
    L: Array
    R: Array
    X: Array
    Y: Array


def factorise_extremes(P: Array, A: Array, parts: Spectrum, cones: Cones) -> Factors:
    """Of H and C, for one M = XᵀX."""
    turned_A = rotate(parts.basis, A, cones)
    B = namespace(A).sqrt(parts.low)[..., None] * turned_A
    L = cholesky(P + transpose(B) @ B)
    X = triangular_inverse(L)
    R = corner(X @ transpose(parts.high[..., None] * turned_A), parts.high)
    return Factors(turned_A, L, R, X, triangular_inverse(R))


def two_tests(
    P: Array,
    A: Array,
    parts: Spectrum,
    cones: Cones,
    eps: float | None = None,
    factors: Factors | None = None,
) -> TwoTests:
    """1 (PROVEN), −1 (REFUTED at the precision of the data) or 0 (too close to tell), per item.

    With H ≈ LLᵀ, X ≈ L⁻¹, W = fl(XBᵀ), C = I − diag(d) + WᵀW ≈ RRᵀ and Y ≈ R⁻¹,

        λ_min(H) ≥ (1 − ‖fl(XL − I)‖ − nε‖X‖‖L‖)² / ‖X‖² − (n + m + 2) ε (tr P + ‖B‖²),

    and λ_min(C) likewise, M being XᵀX; there λ_min(C)^½ must exceed what the product W lost,
    nε‖X‖‖B‖. For second-order and semidefinite cones the rounding of the eigenvectors, 16·(order)·ε,
    counts too. ``eps``: of the data, where that is coarser than of the arithmetic; ``factors``: where they
    are there already.

    Source: docs/theory.md#the-tests-in-floating-point; Rump, Verification of positive definiteness
    (2006), for Cholesky's rounding.
    """
    xp, eps = namespace(A), eps or machine_epsilon(P.dtype)
    n, m = A.shape[-1], A.shape[-2]
    if factors is None:
        factors = factorise_extremes(P, A, parts, cones)
    turned_A, L, R, X, Y = factors
    B = xp.sqrt(parts.low)[..., None] * turned_A
    weighted = parts.high[..., None] * turned_A

    rounding = (n + m + 2) * eps
    # what the rounding of eigenvectors adds
    turned = 16 * cones.largest_order * eps
    A_norm, B_norm, weighted_norm = (xp.sqrt(_square(part)) for part in (A, B, weighted))
    trace_H, trace_C = xp.trace(P, axis1=-2, axis2=-1) + B_norm**2, _square(R)
    X_square, Y_square = _square(X), _square(Y)
    H_least = (
        _least(L, X) - rounding * trace_H - 2 * turned * B_norm * A_norm - (turned * A_norm) ** 2
    )
    C_least = _least(R, Y) - rounding * trace_C
    lost_in_W = (n * eps * weighted_norm + turned * A_norm) * xp.sqrt(X_square)
    C_least = xp.maximum(xp.sqrt(xp.maximum(C_least, 0.0)) - lost_in_W, 0.0) ** 2
    proven = (H_least > 0) & (C_least > 0) & parts.bounded
    # a factor that is not there, or whose inverse is as large as rounding can make it
    lost = ~(1 > rounding * trace_H * X_square) | ~(1 > rounding * trace_C * Y_square)
    verdict = xp.where(proven, 1, xp.where(lost, -1, 0)).astype(xp.int8)
    return TwoTests(verdict, xp.where(proven, xp.minimum(H_least, C_least), 0.0))


def _least(L: Array, X: Array) -> Array:
    """A lower bound on λ_min(LLᵀ) from X ≈ L⁻¹; none where half of it may be rounding."""
    n, eps, xp = L.shape[-1], machine_epsilon(L.dtype), namespace(L)
    X_square = _square(X)
    defect = xp.sqrt(_square(X @ L - xp.eye(n, dtype=L.dtype)))
    defect = (1 + n * n * eps) * (defect + n * eps * xp.sqrt(X_square * _square(L)))
    return xp.where(defect < 0.5, (1 - defect) ** 2 / (X_square * (1 + n * n * eps)), 0.0)


def _square(matrix: Array) -> Array:
    return namespace(matrix).einsum("...ij,...ij->...", matrix, matrix)
