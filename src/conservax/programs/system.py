"""The de-homogenised system of a cone program, factorised by two Cholesky decompositions.

At z = (x, v), v = y − s, the optimality conditions P x + Aᵀ Π(v) + c = 0, A x + Π(v) − v = b have the
Jacobian U(V) = [[P, AᵀV], [A, V − I]], V an element of the Clarke Jacobian of Π, the projection onto
K*. With V = T diag(d) Tᵀ and B = d^½ TᵀA it is singular together with the symmetric

    [[P, Bᵀ], [B, diag(d) − I]],    that is, unless  H = P + BᵀB  and
    C = I − diag(d) + d^½ B H⁻¹ Bᵀ d^½  are both positive definite (THEORY §2).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from ..numerics import machine_epsilon
from ..solvers import normal_equations
from ..solvers.cones import Array, Cones, transpose
from ..solvers.normal_equations import (
    cholesky,
    cholesky_solve,
    forward_substitution,
    times,
    times_transposed,
)
from .spectrum import Spectrum, rotate, unrotate

_REFINEMENTS = 2


class Factor(NamedTuple):
    """Of one U(V): basis and eigenvalues d of V, B, and the Cholesky factors LLᵀ = H, RRᵀ = C."""

    basis: tuple[Any, ...]
    d: Array
    B: Array
    L: Array
    R: Array


def factorise(P: Array, A: Array, basis: tuple[Any, ...], d: Array, cones: Cones) -> Factor:
    """NaN in an item whose U(V) is singular."""
    root = jnp.sqrt(d)[..., None]
    B = root * rotate(basis, A, cones)
    L = cholesky(P + transpose(B) @ B)
    return Factor(basis, d, B, L, _corner(L, root * B, d))


def _corner(L: Array, weighted: Array, d: Array) -> Array:
    """R with RRᵀ = C = I − diag(d) + WᵀW, W = L⁻¹ (d^½B)ᵀ."""
    W = forward_substitution(L, transpose(weighted))
    C = transpose(W) @ W
    place = jnp.eye(d.shape[-1], dtype=bool)
    return cholesky(jnp.where(place, C + (1 - d)[..., None], C))


def _symmetric(factor: Factor, upper: Array, lower: Array) -> tuple[Array, Array]:
    """[[P, Bᵀ], [B, diag(d) − I]] (x, t) = (upper, lower), by Woodbury from d = 0 in the corner."""
    root, B = jnp.sqrt(factor.d), factor.B

    def plain(lower: Array) -> tuple[Array, Array]:
        x = cholesky_solve(factor.L, (upper + times_transposed(B, lower))[..., None])[..., 0]
        return x, times(B, x) - lower

    _, t = plain(lower)
    moved = cholesky_solve(factor.R, (root * t)[..., None])[..., 0]
    return plain(lower - root * moved)


def apply_element(basis: tuple[Any, ...], d: Array, x: Array, cones: Cones) -> Array:
    """V x for (batch, m)."""
    return unrotate(basis, d[..., None] * rotate(basis, x[..., None], cones), cones)[..., 0]


def newton_point(
    P: Array,
    A: Array,
    basis: tuple[Any, ...],
    d: Array,
    upper: Array,
    lower: Array,
    cones: Cones,
) -> tuple[Array, Array]:
    """U(V) (x, v) = (upper, lower) by normal equations in which 1 − d is at least √eps, refined.

    A fraction of the work of ``factorise``, but it does not notice a singular U(V).
    """
    width = jnp.sqrt(jnp.maximum(1 - d, machine_epsilon(d.dtype) ** 0.5))
    root = jnp.sqrt(d)
    system = normal_equations.factor(P, (root / width)[..., None] * rotate(basis, A, cones))

    def once(upper: Array, lower: Array) -> tuple[Array, Array]:
        rotated = rotate(basis, lower[..., None], cones)[..., 0]
        [(x, z)] = normal_equations.solve(system, [(upper, root * rotated / width)])
        y = unrotate(basis, (root * z / width)[..., None], cones)[..., 0]
        return x, y + times(A, x) - lower

    return _refined(once, _product(P, A, basis, d, cones), upper, lower)


def solve(
    factor: Factor, P: Array, A: Array, upper: Array, lower: Array, cones: Cones
) -> tuple[Array, Array]:
    """U(V) (x, v) = (upper, lower), refined."""

    def once(upper: Array, lower: Array) -> tuple[Array, Array]:
        root = jnp.sqrt(factor.d)
        rotated = rotate(factor.basis, lower[..., None], cones)[..., 0]
        x, t = _symmetric(factor, upper, root * rotated)
        y = unrotate(factor.basis, (root * t)[..., None], cones)[..., 0]
        return x, y + times(A, x) - lower

    return _refined(once, _product(P, A, factor.basis, factor.d, cones), upper, lower)


def _product(
    P: Array, A: Array, basis: tuple[Any, ...], d: Array, cones: Cones
) -> Callable[[Array, Array], tuple[Array, Array]]:
    """(x, v) ↦ U(V) (x, v)."""

    def product(x: Array, v: Array) -> tuple[Array, Array]:
        y = apply_element(basis, d, v, cones)
        return times(P, x) + times_transposed(A, y), times(A, x) + y - v

    return product


def solve_transposed(
    factor: Factor, P: Array, A: Array, upper: Array, lower: Array, cones: Cones
) -> tuple[Array, Array]:
    """U(V)ᵀ (a, w) = (upper, lower), refined."""

    def once(upper: Array, lower: Array) -> tuple[Array, Array]:
        root = jnp.sqrt(factor.d)
        rotated = rotate(factor.basis, lower[..., None], cones)[..., 0]
        a, t = _symmetric(factor, upper + times_transposed(A, lower), root * rotated)
        return a, unrotate(factor.basis, (root * t)[..., None], cones)[..., 0] - lower

    def product(a: Array, w: Array) -> tuple[Array, Array]:
        image = apply_element(factor.basis, factor.d, times(A, a) + w, cones)
        return times(P, a) + times_transposed(A, w), image - w

    return _refined(once, product, upper, lower)


def _refined(
    once: Callable[[Array, Array], tuple[Array, Array]],
    product: Callable[[Array, Array], tuple[Array, Array]],
    upper: Array,
    lower: Array,
) -> tuple[Array, Array]:
    """Iterative refinement, as a loop so that it is compiled once."""

    def improve(_: int, solution: tuple[Array, Array]) -> tuple[Array, Array]:
        x, v = solution
        above, below = product(x, v)
        dx, dv = once(upper - above, lower - below)
        return x + dx, v + dv

    # the first pass, from zero, is the solve itself
    zero = jnp.zeros_like(upper), jnp.zeros_like(lower)
    return lax.fori_loop(0, 1 + _REFINEMENTS, improve, zero)


class TwoTests(NamedTuple):
    """Per item: the verdict (int8) and a lower bound on the smaller λ_min of the two tests."""

    verdict: Array
    margin: Array


def two_tests(
    P: Array, A: Array, parts: Spectrum, low: Factor, again: Array, cones: Cones
) -> TwoTests:
    """Whether U(V) is invertible for every element V: H at V_lo and C at V_hi are definite.

    1 (PROVEN), −1 (REFUTED at the precision of the data) or 0 (too close to tell). With X = fl(L⁻¹)
    and Y = fl(R⁻¹), rounding included,

        λ_min(H) ≥ (1 − nε‖L‖‖X‖)² / ‖X‖² − (n + m + 2) ε (tr P + ‖B‖²),

    and λ_min(C) likewise, less what W = fl(L⁻¹Bᵀ) lost: σ_min(C)^½ must exceed nε‖L‖‖X‖‖W‖, for a
    regular matrix near L⁻¹ serves as well. For second-order and semidefinite cones the rounding of
    the eigenvectors, 16·(order)·ε, counts too.

    Args:
        low: of V_lo. again: whether some item has V_hi ≠ V_lo.

    Source: the two-test theorem, THEORY §2; Rump, Verification of positive definiteness (2006), and
    Higham, Accuracy and Stability of Numerical Algorithms, for Cholesky's rounding.
    """
    eps = machine_epsilon(P.dtype)
    n, m = A.shape[-1], A.shape[-2]
    high = parts.high

    def corner() -> Array:
        return _corner(low.L, high[..., None] * rotate(parts.basis, A, cones), high)

    R = lax.cond(again, corner, lambda: low.R)
    rounding = (n + m + 2) * eps
    # what the rounding of eigenvectors adds
    turned = 16 * max((*cones.second_order, *cones.semidefinite), default=0) * eps
    A_norm, B_norm = jnp.sqrt(_square(A)), jnp.sqrt(_square(low.B))
    trace_H, trace_C = jnp.trace(P, axis1=-2, axis2=-1) + B_norm**2, _square(R)
    X_square, Y_square = _inverse_square(low.L), _inverse_square(R)
    H_least = _least(n, eps, trace_H, X_square)
    H_least = H_least - rounding * trace_H - 2 * turned * B_norm * A_norm - (turned * A_norm) ** 2
    C_least = _least(m, eps, trace_C, Y_square) - rounding * trace_C
    # ‖W‖² ≤ tr C, and 1/(1 − nε‖L‖‖X‖) ≤ 2 where H is definite
    lost_in_W = (2 * n * eps * jnp.sqrt(trace_H * trace_C) + turned * A_norm) * jnp.sqrt(X_square)
    C_least = jnp.maximum(jnp.sqrt(jnp.maximum(C_least, 0.0)) - lost_in_W, 0.0) ** 2
    proven = (H_least > 0) & (C_least > 0)
    # a factor that is not there, or whose inverse is as large as rounding can make it
    lost = ~(1 > rounding * trace_H * X_square) | ~(1 > rounding * trace_C * Y_square)
    verdict = jnp.where(proven, 1, jnp.where(lost, -1, 0)).astype(jnp.int8)
    return TwoTests(verdict, jnp.where(proven, jnp.minimum(H_least, C_least), 0.0))


def is_regular(factor: Factor) -> Array:
    """Whether no pivot of H or C is within what rounding makes of zero."""
    eps = machine_epsilon(factor.d.dtype)
    rounding = 8 * (factor.L.shape[-1] + factor.d.shape[-1]) * eps

    def sound(L: Array) -> Array:
        pivot = jnp.min(jnp.diagonal(L, axis1=-2, axis2=-1), axis=-1)
        # NaN compares as false
        return pivot**2 > rounding * _square(L)

    return sound(factor.L) & sound(factor.R)


def _least(n: int, eps: float, trace: Array, inverse: Array) -> Array:
    """A lower bound on λ_min(LLᵀ) from tr LLᵀ and ‖fl(L⁻¹)‖²; none where half of it may be rounding."""
    lost = n * eps * jnp.sqrt(trace * inverse)
    bound = (1 - lost) ** 2 / (inverse * (1 + n * n * eps))
    return jnp.where(lost < 0.5, bound, 0.0)


def _square(matrix: Array) -> Array:
    return jnp.sum(matrix * matrix, axis=(-1, -2))


def _inverse_square(L: Array) -> Array:
    """‖fl(L⁻¹)‖²."""
    eye = jnp.broadcast_to(jnp.eye(L.shape[-1], dtype=L.dtype), L.shape)
    return _square(forward_substitution(L, eye))
