"""The verdict from inside jit: U(V) is invertible for every element V if two matrices are definite.

    H = P + AᵀV_lo A  and  C = I − V_hi + V_hi A M AᵀV_hi,  for any one positive definite M

(docs/theory.md#two-tests), V_lo and V_hi being the least and the greatest element.
"""

from typing import NamedTuple

import jax.numpy as jnp

from ..numerics import machine_epsilon
from ..solvers.cones import Array, Cones, transpose
from ..solvers.lapack import cholesky
from ..solvers.triangular import triangular_inverse
from .spectrum import Spectrum, rotate
from .system import corner


class TwoTests(NamedTuple):
    """Per item: the verdict (int8) and a lower bound on the smaller λ_min of the two tests."""

    verdict: Array
    margin: Array


def two_tests(P: Array, A: Array, parts: Spectrum, cones: Cones) -> TwoTests:
    """1 (PROVEN), −1 (REFUTED at the precision of the data) or 0 (too close to tell), per item.

    With H ≈ LLᵀ, X ≈ L⁻¹, W = fl(XBᵀ), C = I − diag(d) + WᵀW ≈ RRᵀ and Y ≈ R⁻¹,

        λ_min(H) ≥ (1 − ‖fl(XL − I)‖ − nε‖X‖‖L‖)² / ‖X‖² − (n + m + 2) ε (tr P + ‖B‖²),

    and λ_min(C) likewise, M being XᵀX; there λ_min(C)^½ must exceed what the product W lost,
    nε‖X‖‖B‖. For second-order and semidefinite cones the rounding of the eigenvectors, 16·(order)·ε,
    counts too.

    Source: docs/theory.md#the-tests-in-floating-point; Rump, Verification of positive definiteness
    (2006), for Cholesky's rounding.
    """
    eps = machine_epsilon(P.dtype)
    n, m = A.shape[-1], A.shape[-2]
    turned_A = rotate(parts.basis, A, cones)
    B = jnp.sqrt(parts.low)[..., None] * turned_A
    L = cholesky(P + transpose(B) @ B)
    X = triangular_inverse(L)
    weighted = parts.high[..., None] * turned_A
    R = corner(X @ transpose(weighted), parts.high)
    Y = triangular_inverse(R)

    rounding = (n + m + 2) * eps
    # what the rounding of eigenvectors adds
    orders = (*cones.second_order, *cones.semidefinite, *(() if cones.symmetric else (3,)))
    turned = 16 * max(orders, default=0) * eps
    A_norm, B_norm, weighted_norm = (jnp.sqrt(_square(part)) for part in (A, B, weighted))
    trace_H, trace_C = jnp.trace(P, axis1=-2, axis2=-1) + B_norm**2, _square(R)
    X_square, Y_square = _square(X), _square(Y)
    H_least = (
        _least(L, X) - rounding * trace_H - 2 * turned * B_norm * A_norm - (turned * A_norm) ** 2
    )
    C_least = _least(R, Y) - rounding * trace_C
    lost_in_W = (n * eps * weighted_norm + turned * A_norm) * jnp.sqrt(X_square)
    C_least = jnp.maximum(jnp.sqrt(jnp.maximum(C_least, 0.0)) - lost_in_W, 0.0) ** 2
    proven = (H_least > 0) & (C_least > 0) & parts.bounded
    # a factor that is not there, or whose inverse is as large as rounding can make it
    lost = ~(1 > rounding * trace_H * X_square) | ~(1 > rounding * trace_C * Y_square)
    verdict = jnp.where(proven, 1, jnp.where(lost, -1, 0)).astype(jnp.int8)
    return TwoTests(verdict, jnp.where(proven, jnp.minimum(H_least, C_least), 0.0))


def _least(L: Array, X: Array) -> Array:
    """A lower bound on λ_min(LLᵀ) from X ≈ L⁻¹; none where half of it may be rounding."""
    n, eps = L.shape[-1], machine_epsilon(L.dtype)
    X_square = _square(X)
    defect = jnp.sqrt(_square(X @ L - jnp.eye(n, dtype=L.dtype)))
    defect = (1 + n * n * eps) * (defect + n * eps * jnp.sqrt(X_square * _square(L)))
    return jnp.where(defect < 0.5, (1 - defect) ** 2 / (X_square * (1 + n * n * eps)), 0.0)


def _square(matrix: Array) -> Array:
    return jnp.sum(matrix * matrix, axis=(-1, -2))
