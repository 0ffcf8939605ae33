"""The homogeneous embedding of a cone program, and one Newton step on it.

    Px + Aᵀz + cτ = 0,   Ax + s = bτ,   κ = −xᵀPx/τ − cᵀx − bᵀz,   s ∈ K, z ∈ K*, τ, κ ≥ 0

A point with τ > 0 is a solution of the program, one with κ > 0 a certificate that there is none
(Goulart, Chen, Clarabel: an interior-point solver for conic programs with quadratic objectives, 2024).
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from ..arrays.namespace import Array, join, transpose
from ..cones.table import Cones
from .equilibrate import Data, WhiteData
from .matrices import times, times_transposed
from .normal_equations import factor, factor_either, refine

_BACK_OFF = 0.99  # least share of the way to the boundary
_NEAR = 1e-3  # a step never comes closer to the boundary than this share


class Iterate(NamedTuple):
    """x (batch, n); z, s (batch, m), the slack of an equality being zero; τ, κ (batch,)."""

    x: Array
    z: Array
    s: Array
    tau: Array
    kappa: Array


class Products(NamedTuple):
    """What a step and its judgement both need."""

    Px: Array
    Atz: Array
    Ax: Array


def dot(a: Array, b: Array) -> Array:
    """aᵀb per item."""
    return jnp.sum(a * b, axis=-1)


def products(data: Data | WhiteData, point: Iterate) -> Products:
    """Px, Aᵀz and Ax."""
    return Products(
        times(data.P, point.x), times_transposed(data.A, point.z), times(data.A, point.x)
    )


def enter(x: Array, z: Array, s: Array, cones: Cones, depth: float = 1.0) -> Iterate:
    """Slack and dual moved along the identity until they are inside the cone, at this depth.

    κ = sᵀz: next to it the step of τ is short, so that a program with solutions is solved as if
    there were no embedding; κ = τ costs up to five steps more.
    """

    def inside(vector: Array) -> Array:
        parts = []
        for block, rows in cones.symmetric_pieces:
            own = vector[:, rows]
            size = 1 + jnp.max(jnp.abs(own), axis=-1, initial=0.0)
            least = block.interior(own)
            shift = jnp.where(least < 1e-3 * depth * size, depth - least, 0.0)
            e = jnp.asarray(block.identity(), own.dtype)
            parts.append(own + shift[:, None] * e)
        return join(parts)

    z, s = inside(z), inside(s.at[:, : cones.zero].set(0.0))
    return Iterate(x, z, s, jnp.ones_like(x[:, 0]), jnp.maximum(dot(s, z), 1e-3))


def centre(data: Data | WhiteData, cones: Cones) -> Iterate:
    """x = 0, s = z = e: there the scaling is the identity."""
    e = jnp.broadcast_to(_identity(cones, data.b), data.b.shape)
    one = jnp.ones_like(data.c[:, 0])
    return Iterate(jnp.zeros_like(data.c), e, e, one, one)


def _identity(cones: Cones, like: Array) -> Array:
    return jnp.asarray(
        np.concatenate([block.identity() for block, _ in cones.symmetric_pieces]), like.dtype
    )


class Step(NamedTuple):
    """The next point, and (x, z) of the least-squares problem min ½xᵀPx + cᵀx + ½‖W⁻ᵀ(b − Ax)‖².

    ``poor``: which items' linear systems were not solved accurately.
    """

    point: Iterate
    least_squares: tuple[Array, Array]
    poor: Array


class RowSystem(NamedTuple):
    """What the steps share where P = I: AAᵀ, and whether the systems of rows are accurate so far."""

    gram: Array
    trusted: Array


def system_of_rows(data: Data | WhiteData, cones: Cones) -> RowSystem | None:
    """Where P = I, K is polyhedral, and there are no more rows than unknowns.

    The scaling of a curved cone is no multiplication of rows: rounding would grow with its square.
    """
    if data.P is None and cones.polyhedral and data.A.shape[-2] <= data.A.shape[-1]:
        return RowSystem(data.A @ transpose(data.A), jnp.array(True))
    return None


def newton(
    data: Data | WhiteData, rows: RowSystem | None, point: Iterate, known: Products, cones: Cones
) -> Step:
    """One predictor–corrector step with Nesterov–Todd scaling (Mehrotra 1992; Vandenberghe 2010)."""
    x, z, s, tau, kappa = point
    blocks = [
        (block, rows, *block.scaling(s[:, rows], z[:, rows]))
        for block, rows in cones.symmetric_pieces
    ]
    lam = join([lam for *_, lam in blocks])

    def scale(matrix: Array) -> Array:
        """W⁻ᵀ by columns, (batch, m, columns)."""
        return join([block.scale(W, matrix[:, rows]) for block, rows, W, _ in blocks], axis=1)

    def divide(vector: Array) -> Array:
        return join([block.divide(own, vector[:, rows]) for block, rows, _, own in blocks])

    def multiply(a: Array, b: Array) -> Array:
        return join([block.product(a[:, rows], b[:, rows]) for block, rows, *_ in blocks])

    def unscale(right: Array, left: Array) -> tuple[Array, Array]:
        """Wᵀ right and W⁻¹ left."""
        pairs = [block.unscale(W, right[:, rows], left[:, rows]) for block, rows, W, _ in blocks]
        slack, dual = zip(*pairs, strict=True)
        return join(slack), join(dual)

    primal_residual = known.Ax + s - data.b * tau[:, None]
    dual_residual = known.Px + known.Atz + data.c * tau[:, None]
    curvature = dot(x, known.Px) / tau
    gap_residual = dot(data.c, x) + dot(data.b, z) + kappa + curvature
    gradient = data.c + (2 / tau)[:, None] * known.Px
    mu = (dot(lam, lam) + tau * kappa) / (cones.degree + 1)
    scaled = scale(jnp.stack([primal_residual, data.b], axis=-1))
    scaled_residual, scaled_b = scaled[..., 0], scaled[..., 1]
    scaled_A = scale(data.A)
    if rows is None:
        system = factor(data.P, scaled_A)
    else:
        gram = rows.gram
        system = factor_either(rows.trusted, scaled_A, lambda: scale(transpose(scale(gram))))

    # the predictor and the direction of τ share one solve
    upper = jnp.stack([-dual_residual, -data.c], axis=-1)
    lower = jnp.stack([lam - scaled_residual, scaled_b], axis=-1)
    both_x, both_z = system.solve(upper, lower)
    x1, x2, z1, z2 = both_x[..., 0], both_x[..., 1], both_z[..., 0], both_z[..., 1]
    away = x2 - x / tau[:, None]
    inner = z2.at[:, : cones.zero].set(0.0)
    steep = dot(away, times(data.P, away)) + dot(inner, inner) + kappa / tau

    def tau_step(x1: Array, z1: Array, share: Array, d_kappa: Array) -> tuple[Array, Array]:
        """Steps of τ and κ."""
        numerator = share * gap_residual - d_kappa / tau + dot(gradient, x1) + dot(scaled_b, z1)
        d_tau = numerator / steep
        return d_tau, -(d_kappa + kappa * d_tau) / tau

    def length(dz: Array, ds: Array, d_tau: Array, d_kappa: Array) -> Array:
        """The step to the boundary of the cone, at most one."""
        rho = jnp.maximum(-d_tau / tau, -d_kappa / kappa)
        for block, rows, _, own in blocks:
            rho = jnp.maximum(rho, block.steepness(own, dz[:, rows]))
            rho = jnp.maximum(rho, block.steepness(own, ds[:, rows]))
        return 1 / jnp.maximum(rho, 1.0)

    one = jnp.ones_like(mu)
    d_tau, d_kappa = tau_step(x1, z1, one, tau * kappa)
    dz = z1 + d_tau[:, None] * z2
    ds = -lam - dz
    affine = length(dz, ds, d_tau, d_kappa)
    sigma = (1 - affine) ** 3
    target = sigma * mu
    e = _identity(cones, lam)
    corrected = divide(multiply(ds, dz) - target[:, None] * e) + lam
    corrected_kappa = tau * kappa + d_tau * d_kappa - target
    share = 1 - sigma

    upper = -share[:, None] * dual_residual
    lower = corrected - share[:, None] * scaled_residual
    x1, z1 = (part[..., 0] for part in system.solve(upper[..., None], lower[..., None]))
    d_tau, d_kappa = tau_step(x1, z1, share, corrected_kappa)
    go = d_tau[:, None]
    upper, lower = upper - go * data.c, lower + go * scaled_b
    dx, dz, poor = refine(system, upper, lower, x1 + go * x2, z1 + go * z2, cones)
    ds = -corrected - dz
    # the better the predictor did, the closer to the boundary the step may go
    back_off = jnp.maximum(_BACK_OFF, 1 - 0.1 * (1 - affine) ** 2 - _NEAR)
    alpha = back_off * length(dz, ds, d_tau, d_kappa)
    slack, dual = unscale(ds, dz)
    go = alpha[:, None]
    moved = Iterate(
        x + go * dx, z + go * dual, s + go * slack, tau + alpha * d_tau, kappa + alpha * d_kappa
    )
    # the embedding is homogeneous: keep max(τ, κ) at one
    size = 1 / jnp.maximum(moved.tau, moved.kappa)
    x, z, s = (size[:, None] * part for part in moved[:3])
    moved = Iterate(x, z, s, size * moved.tau, size * moved.kappa)
    return Step(moved, (x2, unscale(z2, z2)[1]), poor)
