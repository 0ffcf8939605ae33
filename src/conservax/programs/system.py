"""The de-homogenised system of a cone program, factorised by two Cholesky decompositions.

At z = (x, v), v = y − s, the optimality conditions P x + Aᵀ Π(v) + c = 0, A x + Π(v) − v = b have the
Jacobian U(V) = [[P, AᵀV], [A, V − I]], V an element of the Clarke Jacobian of Π, the projection onto
K*. With V = T diag(d) Tᵀ and B = d^½ TᵀA it is singular together with the symmetric

    [[P, Bᵀ], [B, diag(d) − I]],    that is, unless  H = P + BᵀB  and
    C = I − diag(d) + d^½ B H⁻¹ Bᵀ d^½  are both positive definite (THEORY §2).
"""

from typing import Any, NamedTuple

import jax.numpy as jnp

from ..numerics import machine_epsilon
from ..solvers.cones import Array, Cones, transpose
from ..solvers.normal_equations import (
    cholesky,
    cholesky_solve,
    forward_substitution,
    times,
    times_transposed,
)
from .spectrum import Spectrum, rotate, unrotate


class Factor(NamedTuple):
    """Of one U(V): basis and eigenvalues d of V, B, and the Cholesky factors of H and C."""

    basis: tuple[Any, ...]
    d: Array
    B: Array
    H: Array
    C: Array


def factorise(P: Array, A: Array, basis: tuple[Any, ...], d: Array, cones: Cones) -> Factor:
    """NaN in an item whose U(V) is singular."""
    root = jnp.sqrt(d)[..., None]
    B = root * rotate(basis, A, cones)
    H = cholesky(P + transpose(B) @ B)
    return Factor(basis, d, B, H, cholesky(_corner(H, root * B, d)))


def _corner(H: Array, weighted: Array, d: Array) -> Array:
    """C from the factor of H and d^½B."""
    across = forward_substitution(H, transpose(weighted))
    C = transpose(across) @ across
    return C + (1 - d)[..., None] * jnp.eye(d.shape[-1], dtype=d.dtype)


def _symmetric(factor: Factor, upper: Array, lower: Array) -> tuple[Array, Array]:
    """[[P, Bᵀ], [B, diag(d) − I]] (x, t) = (upper, lower), by Woodbury from d = 0 in the corner."""
    root, B = jnp.sqrt(factor.d)[..., None], factor.B

    def plain(lower: Array) -> tuple[Array, Array]:
        x = cholesky_solve(factor.H, upper + times_transposed(B, lower[..., 0])[..., None])
        return x, times(B, x[..., 0])[..., None] - lower

    _, t = plain(lower)
    return plain(lower - root * cholesky_solve(factor.C, root * t))


def apply_element(basis: tuple[Any, ...], d: Array, x: Array, cones: Cones) -> Array:
    """V x for (batch, m)."""
    return unrotate(basis, d[..., None] * rotate(basis, x[..., None], cones), cones)[..., 0]


def solve(
    factor: Factor, P: Array, A: Array, upper: Array, lower: Array, cones: Cones
) -> tuple[Array, Array]:
    """U(V) (x, v) = (upper, lower), refined once."""

    def once(upper: Array, lower: Array) -> tuple[Array, Array]:
        rotated = rotate(factor.basis, lower[..., None], cones)
        root = jnp.sqrt(factor.d)[..., None]
        x, t = _symmetric(factor, upper[..., None], root * rotated)
        y = unrotate(factor.basis, root * t, cones)
        return x[..., 0], y[..., 0] + times(A, x[..., 0]) - lower

    x, v = once(upper, lower)
    y = apply_element(factor.basis, factor.d, v, cones)
    residual = upper - times(P, x) - times_transposed(A, y), lower - times(A, x) - y + v
    dx, dv = once(*residual)
    return x + dx, v + dv


def solve_transposed(
    factor: Factor, P: Array, A: Array, upper: Array, lower: Array, cones: Cones
) -> tuple[Array, Array]:
    """U(V)ᵀ (a, w) = (upper, lower), refined once."""

    def once(upper: Array, lower: Array) -> tuple[Array, Array]:
        rotated = rotate(factor.basis, lower[..., None], cones)
        root = jnp.sqrt(factor.d)[..., None]
        right = upper + times_transposed(A, lower)
        a, t = _symmetric(factor, right[..., None], root * rotated)
        return a[..., 0], unrotate(factor.basis, root * t, cones)[..., 0] - lower

    a, w = once(upper, lower)
    Aa_w = times(A, a) + w
    residual = (
        upper - times(P, a) - times_transposed(A, w),
        lower - apply_element(factor.basis, factor.d, Aa_w, cones) + w,
    )
    da, dw = once(*residual)
    return a + da, w + dw


class TwoTests(NamedTuple):
    """Per item: the verdict (int8) and a lower bound on the smaller λ_min of the two tests."""

    verdict: Array
    margin: Array


def two_tests(P: Array, A: Array, parts: Spectrum, low: Factor, high_corner: Array) -> TwoTests:
    """Whether U(V) is invertible for every element V: H at V_lo and C at V_hi are definite.

    1 (PROVEN), −1 (REFUTED at the precision of the data) or 0 (too close to tell).

    Args:
        low: of V_lo. high_corner: the Cholesky factor of C at V_hi, with the H of V_lo.

    Source: the two-test theorem, THEORY §2.
    """
    eps = machine_epsilon(P.dtype)
    n, m = A.shape[-1], A.shape[-2]
    H = P + transpose(low.B) @ low.B
    H_size, inverse = jnp.sqrt(_square(H)), _inverse_square(low.H)
    H_least = 1 / inverse
    C_least = 1 / jnp.maximum(_inverse_square(high_corner), 1e-300 if eps < 1e-10 else 1e-30)
    C_size = 1 + inverse * _square(jnp.sqrt(parts.high)[..., None] * A)
    rounding = 8 * (n + m) * eps
    H_noise = rounding * H_size
    C_noise = rounding * C_size * (1 + H_size / H_least)
    proven = (H_least > H_noise) & (C_least > C_noise)
    # where H is definite for sure, its Cholesky factor says how far from singular C is
    lost = jnp.isnan(H_least) | (H_least <= H_noise) | jnp.isnan(C_least)
    lost = lost | (C_least <= rounding * C_size)
    verdict = jnp.where(proven, 1, jnp.where(lost, -1, 0)).astype(jnp.int8)
    margin = jnp.where(proven, jnp.minimum(H_least, C_least), 0.0)
    return TwoTests(verdict, margin)


def corner(A: Array, parts: Spectrum, low: Factor, cones: Cones) -> Array:
    """The Cholesky factor of C at V_hi, with the H of V_lo."""
    B = parts.high[..., None] * rotate(parts.basis, A, cones)
    return cholesky(_corner(low.H, B, parts.high))


def _square(matrix: Array) -> Array:
    return jnp.sum(matrix * matrix, axis=(-1, -2))


def _inverse_square(L: Array) -> Array:
    """‖L⁻¹‖_F² ≥ 1/λ_min(LLᵀ)."""
    eye = jnp.broadcast_to(jnp.eye(L.shape[-1], dtype=L.dtype), L.shape)
    return _square(forward_substitution(L, eye))
