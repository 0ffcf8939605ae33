"""The projection onto the dual of exponential and power cones, and its element V = T diag(d) Tᵀ.

K and K* change places by Moreau: P_{K*}(v) = v + P_K(−v). With w = −v, p = P_K(w), d = p/‖p‖, the
normal n and t = n × d, the derivative of P_K at w is d dᵀ + t tᵀ/(1 + bend), so that of P_{K*} at v
has the eigenvectors (d, t, n) and the eigenvalues (0, bend/(1 + bend), 1).
"""

import jax
import jax.numpy as jnp
import numpy as np

from ...arrays.namespace import Array
from ...operators.curved_cones import CurvedCone, Found, unit
from ...operators.exponential_cone import (
    EXPONENTIAL_CONE,
    exponential_normal,
    exponential_normal_turn,
    exponential_ray,
    exponential_ray_turn,
)
from ...operators.power_cone import (
    boundary_normal,
    boundary_ray,
    boundary_turn,
    power_cone,
    power_cone_located,
)
from ...solvers.cones import Curved


def curved(block: Curved, v: Array, dual: Array, slack: Array) -> tuple[Array, Array, Array, Array]:
    """T (batch, count, 3, 3), d_lo, d_hi (batch, size), and where they bound the set (batch,).

    At an edge of the cone, and at its apex, the set is not known between two extremes; there both are
    the derivative at a point next to v.
    """
    shape = (len(v), block.count, 3)
    w = v.reshape(shape) if block.dual else -v.reshape(shape)
    dual, slack = (jnp.max(t.reshape(shape), axis=-1) for t in (dual, slack))
    near, far = (slack, dual) if block.dual else (dual, slack)
    # the exponents are an array, so that many cones compile as quickly as one
    exponential = block.alphas[0] is None
    alphas = None if exponential else jnp.asarray(block.alphas, v.dtype)
    each = jax.vmap(jax.vmap(_located, (0, 0, 0, None if exponential else 0)), (0, 0, 0, None))
    T, low, high, known = each(w, near, far, alphas)
    if not block.dual:
        low, high = 1 - high, 1 - low
    return T, low.reshape(len(v), -1), high.reshape(len(v), -1), jnp.all(known, axis=1)


def distance_to_kink(alpha: float | None, dual: bool, v: np.ndarray) -> float:
    """Of v (3,) to the nearest kink of the projection onto K*, to first order."""
    cone: CurvedCone = EXPONENTIAL_CONE if alpha is None else power_cone(alpha)
    return float(cone.locate(jnp.asarray(v if dual else -v)).margin)


def turn(alpha: float | None, dual: bool, v: np.ndarray, error: float, ray: bool) -> float:
    """A bound on the change of the normal, or of the ray, that T holds at a kink next to v (3,).

    ``error``: the distance to the kink.
    """
    w = jnp.asarray(v if dual else -v)
    if alpha is not None:
        return float(boundary_turn(w, error))
    return float(exponential_ray_turn(w, error) if ray else exponential_normal_turn(w, error))


def _located(
    w: Array, near: Array, far: Array, alpha: Array | None
) -> tuple[Array, Array, Array, Array]:
    """T, d_lo, d_hi of P_K at w (3,), and whether they are extremes of the set.

    ``near`` and ``far``: within what the distance to K, and to its polar, counts as zero. ``alpha``: of
    a power cone; None is the exponential one.
    """
    found = EXPONENTIAL_CONE.locate(w) if alpha is None else power_cone_located(w, alpha)
    limit_near, limit_far = jnp.maximum(near, 0.0), jnp.maximum(far, 0.0)
    away = jnp.sqrt(jnp.sum((w - found.point) ** 2))
    near_polar = jnp.sqrt(jnp.sum(found.point**2)) <= away
    near_polar = jnp.where(found.inside, False, near_polar | found.polar)
    # outside K the distance to it is that of the dual variable, inside it is the slack's
    limit = jnp.where(
        near_polar,
        jnp.where(found.polar, limit_near, limit_far),
        jnp.where(found.inside, limit_far, limit_near),
    )
    kink = found.margin <= limit
    normal, ray, on_boundary, on_polar = _edges(alpha, w, limit)
    on_boundary, on_polar = kink & on_boundary & ~near_polar, kink & on_polar & near_polar
    T, d = _frame(found, w)
    # on the boundary I − nnᵀ ≼ V ≼ I, on the polar's 0 ≼ V ≼ ddᵀ
    T = jnp.where(on_boundary, _frame_of(normal, 2), jnp.where(on_polar, _frame_of(ray, 0), T))
    one, zero, last = jnp.ones(3, w.dtype), jnp.zeros(3, w.dtype), jnp.arange(3) == 2
    low = jnp.where(on_boundary, jnp.where(last, zero, one), jnp.where(on_polar, zero, d))
    first = jnp.arange(3) == 0
    high = jnp.where(on_boundary, one, jnp.where(on_polar, jnp.where(first, one, zero), d))
    return T, low, high, ~kink | on_boundary | on_polar


def _edges(alpha: Array | None, w: Array, limit: Array) -> tuple[Array, Array, Array, Array]:
    """Normals of K and of its polar at w, and whether either boundary is smooth there."""
    if alpha is None:
        return exponential_normal(w), exponential_ray(w), w[1] > limit, w[0] > limit
    smooth = jnp.abs(w[2]) > limit
    return (
        boundary_normal(w, alpha),
        boundary_ray(w, alpha),
        smooth & (w[0] > limit) & (w[1] > limit),
        smooth & (w[0] < -limit) & (w[1] < -limit),
    )


def _frame(found: Found, w: Array) -> tuple[Array, Array]:
    """T and d of P_K off its kinks."""
    ray, normal = unit(found.point), found.normal
    across = unit(jnp.cross(normal, ray))
    away = jnp.sqrt(jnp.sum((w - found.point) ** 2))
    # the curvature is that at w/‖w‖∞
    size = jnp.max(jnp.abs(w))
    away = away / jnp.where(size > 0, size, 1)
    bend = jnp.where(jnp.isinf(found.curvature), jnp.inf, found.curvature * away)
    T = jnp.stack([ray, across, normal], axis=-1)
    d = jnp.stack([jnp.ones_like(bend), 1 / (1 + bend), jnp.zeros_like(bend)])
    plain = found.inside | found.polar | found.on_face
    eye = jnp.eye(3, dtype=w.dtype)
    T = jnp.where(plain, eye, T)
    d = jnp.where(found.on_face, jnp.diagonal(found.flat), d)
    d = jnp.where(found.inside, 1.0, jnp.where(found.polar, 0.0, d))
    return T, d


def _frame_of(axis: Array, column: int) -> Array:
    """An orthogonal matrix with this unit vector as one of its columns."""
    least = jnp.argmin(jnp.abs(axis))
    other = unit(jnp.cross(axis, jax.nn.one_hot(least, 3, dtype=axis.dtype)))
    third = jnp.cross(axis, other)
    columns = [other, third]
    columns.insert(column, axis)
    return jnp.stack(columns, axis=-1)
