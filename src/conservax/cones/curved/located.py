"""The element V = T diag(d) Tᵀ of the projection onto a cone in ℝ³, and its extremes at a kink.

One text for both engines: coordinates come first, and on the host more axes may follow, w (3, …).
"""

from collections.abc import Callable

from ...arrays.namespace import Array, namespace
from .found import Edges, Found, length, unit


def extremes(
    found: Found, edges: Callable[[Array], Edges], w: Array, near: Array, far: Array
) -> tuple[Array, Array, Array, Array]:
    """T (3, 3, …), d_lo, d_hi (3, …) of P_K at w, and whether they are extremes of the set.

    At an edge of the cone, and at its apex, the set is not known between two extremes; there both are
    the derivative at a point next to w.

    Args:
        found: at w. edges: at w, of the distance within which a point counts as an edge's.
        near, far: within what the distance to K, and to its polar, counts as zero.
    """
    xp = namespace(w)
    limit_near, limit_far = xp.maximum(near, 0.0), xp.maximum(far, 0.0)
    away = length(w - found.point)
    near_polar = length(found.point) <= away
    near_polar = xp.where(found.inside, False, near_polar | found.polar)
    # outside K the distance to it is that of the dual variable, inside it is the slack's
    limit = xp.where(
        near_polar,
        xp.where(found.polar, limit_near, limit_far),
        xp.where(found.inside, limit_far, limit_near),
    )
    normal, ray, smooth, polar_smooth, steep = edges(limit)
    kink = (found.margin <= limit) | steep
    on_boundary, on_polar = kink & smooth & ~near_polar, kink & polar_smooth & near_polar
    T, d = _frame(found, w)
    # on the boundary I − nnᵀ ≼ V ≼ I, on the polar's 0 ≼ V ≼ ddᵀ
    T = xp.where(on_boundary, _frame_of(normal, 2), xp.where(on_polar, _frame_of(ray, 0), T))
    one, zero = xp.ones_like(w[0]), xp.zeros_like(w[0])
    first, but_last = xp.stack([one, zero, zero]), xp.stack([one, one, zero])
    low = xp.where(on_boundary, but_last, xp.where(on_polar, 0.0, d))
    high = xp.where(on_boundary, 1.0, xp.where(on_polar, first, d))
    return T, low, high, ~kink | on_boundary | on_polar


def _frame(found: Found, w: Array) -> tuple[Array, Array]:
    """T and d of P_K off its kinks."""
    xp = namespace(w)
    ray, normal = unit(found.point), found.normal
    across = unit(xp.cross(normal, ray, axis=0))
    away = length(w - found.point)
    # the curvature is that at w/‖w‖∞
    size = xp.max(xp.abs(w), axis=0)
    away = away / xp.where(size > 0, size, 1)
    bend = xp.where(xp.isinf(found.curvature), xp.inf, found.curvature * away)
    T = xp.stack([ray, across, normal], axis=1)
    d = xp.stack([xp.ones_like(bend), 1 / (1 + bend), xp.zeros_like(bend)])
    plain = found.inside | found.polar | found.on_face
    eye = xp.eye(3, dtype=w.dtype).reshape(3, 3, *[1] * (w.ndim - 1))
    T = xp.where(plain, eye, T)
    d = xp.where(found.on_face, found.flat, d)
    return T, xp.where(found.inside, 1.0, xp.where(found.polar, 0.0, d))


def _frame_of(axis: Array, column: int) -> Array:
    """An orthogonal matrix with this unit vector as one of its columns."""
    xp = namespace(axis)
    least = xp.argmin(xp.abs(axis), axis=0)
    other = unit(
        xp.cross(axis, xp.stack([(least == k).astype(axis.dtype) for k in range(3)]), axis=0)
    )
    columns = [other, xp.cross(axis, other, axis=0)]
    columns.insert(column, axis)
    return xp.stack(columns, axis=1)
