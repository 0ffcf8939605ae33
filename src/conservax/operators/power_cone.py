"""The power cone K = {(x, y, z) : x^α y^(1−α) ≥ |z|, x, y ≥ 0}, 0 < α < 1: its projection, by one root.

Off K and K°, with r = |z_p| in (0, |z|): x_p = (x + √(x² + 4 α r (|z| − r)))/2, y_p alike with
1 − α, and x_p^α y_p^(1−α) = r (Hien, Differential properties of Euclidean projection onto power
cone, 2015).
"""

import functools

import jax
import jax.numpy as jnp

from .curved_cones import (
    CurvedCone,
    Found,
    at_own_size,
    at_unit_size,
    curved_cone,
    increasing_root,
    unit,
)


def _coordinate(x: jax.Array, product: jax.Array) -> jax.Array:
    """The positive root of p² − x p = product, which nothing cancels."""
    root = jnp.sqrt(x * x + 4 * product)
    other = root + jnp.abs(x)
    small = 2 * product / jnp.where(other > 0, other, 1)
    return jnp.where(x > 0, (x + root) / 2, small)


def _find(v: jax.Array, alpha: float | jax.Array) -> Found:
    x, y, z = v
    beta, height = 1 - alpha, jnp.abs(z)
    tiny = jnp.finfo(v.dtype).tiny

    def geometric(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.maximum(a, 0) ** alpha * jnp.maximum(b, 0) ** beta

    inside = (x >= 0) & (y >= 0) & (geometric(x, y) >= height)
    dual = geometric(-x / alpha, -y / beta)
    polar = (x <= 0) & (y <= 0) & (dual >= height) & ~inside
    on_face = (z == 0) & ~inside & ~polar
    # deep inside K or K° the root is not needed; next to their boundaries it is found all the same,
    # since a compiler may round the two gaps differently wherever they are used
    deep = inside & (geometric(x, y) - height > 1e-3) | polar & (dual - height > 1e-3)
    off = ~(deep | (z == 0))
    sx, sy, sz = jnp.where(off, x, 0.0), jnp.where(off, y, 0.0), jnp.where(off, height, 1.0)

    def coordinates(share: jax.Array) -> tuple[jax.Array, jax.Array]:
        product = sz * sz * jnp.exp(share) * -jnp.expm1(share)
        return _coordinate(sx, alpha * product), _coordinate(sy, beta * product)

    def excess(share: jax.Array) -> jax.Array:
        a, b = coordinates(share)
        return share + jnp.log(sz) - alpha * jnp.log(a) - beta * jnp.log(b)

    low = jnp.log(tiny).astype(v.dtype) / 2
    share = increasing_root(excess, low, jnp.zeros_like(low))
    a, b = coordinates(share)
    r = sz * jnp.exp(share)
    point = jnp.stack([a, b, jnp.sign(z) * r])
    normal = unit(jnp.stack([-alpha * r * b, -beta * r * a, jnp.sign(z) * a * b]))
    tangent = unit(jnp.cross(normal, unit(point)))
    steep = jnp.sqrt((alpha * r * b) ** 2 + (beta * r * a) ** 2 + (a * b) ** 2)
    bottom = a * b * steep
    turn = alpha * beta * r * (tangent[0] * b - tangent[1] * a) ** 2
    curvature = jnp.where(bottom > 0, turn / jnp.where(bottom > 0, bottom, 1), jnp.inf)

    def across(edge: jax.Array, depth: jax.Array, power: float | jax.Array) -> jax.Array:
        # next to an edge the boundary is depth = |z|^(1/power) edge^(1 − 1/power)
        even = edge / jnp.where(edge > 0, edge + 2 * depth, 1)
        return jnp.where(power == 0.5, even, jnp.where(power < 0.5, jnp.ones_like(edge), 0))

    flat = jnp.where(
        x > 0,
        jnp.diag(jnp.stack([jnp.ones_like(x), jnp.zeros_like(x), across(x, -y, beta)])),
        jnp.diag(jnp.stack([jnp.zeros_like(x), jnp.ones_like(x), across(y, -x, alpha)])),
    )
    corner = jnp.stack([jnp.maximum(x, 0), jnp.maximum(y, 0), jnp.zeros_like(x)])
    point = jnp.where(on_face, corner, point)

    def distance(gap: jax.Array, s: jax.Array, t: jax.Array, value: jax.Array) -> jax.Array:
        # to first order, and never beyond the quadrant
        slope = jnp.sqrt(
            1
            + (alpha * value / jnp.maximum(s, tiny)) ** 2
            + (beta * value / jnp.maximum(t, tiny)) ** 2
        )
        return jnp.minimum(gap / slope, jnp.minimum(s, t))

    away = jnp.minimum(jnp.linalg.norm(v - point), jnp.linalg.norm(point))
    margin = jnp.where(on_face, jnp.minimum(jnp.abs(x), jnp.abs(y)), away)
    value = geometric(x, y)
    margin = jnp.where(inside, distance(value - height, x, y, value), margin)
    margin = jnp.where(polar, distance(dual - height, -x, -y, dual), margin)
    return Found(point, normal, curvature, inside, polar, flat, on_face, margin)


@functools.lru_cache(maxsize=256)
def power_cone(alpha: float) -> CurvedCone:
    """The cone of exponent α."""
    return curved_cone("projection_power_cone", functools.partial(_find, alpha=alpha))


@jax.jit
def power_cone_located(v: jax.Array, alpha: jax.Array) -> Found:
    """``power_cone(alpha).locate(v)`` for an exponent that is an array: one program serves all."""
    return at_own_size(*at_unit_size(_find, v, alpha))


def boundary_normal(v: jax.Array, alpha: float | jax.Array) -> jax.Array:
    """The unit outer normal of K at a point of its boundary with x, y > 0."""
    x, y = (jnp.where(a > 0, a, 1) for a in v[:2])
    return unit(
        jnp.stack([-alpha * jnp.abs(v[2]) / x, (alpha - 1) * jnp.abs(v[2]) / y, jnp.sign(v[2])])
    )


def boundary_ray(v: jax.Array, alpha: float | jax.Array) -> jax.Array:
    """The unit outer normal of K°, a ray of K, at a point of its boundary with x, y < 0."""
    x, y = (jnp.where(a < 0, -a, 1) for a in v[:2])
    return unit(
        jnp.stack([alpha * jnp.abs(v[2]) / x, (1 - alpha) * jnp.abs(v[2]) / y, jnp.sign(v[2])])
    )


def boundary_turn(v: jax.Array, error: float) -> jax.Array:
    """A bound on ‖n(v) − n(v + δ)‖, ‖δ‖ ≤ error, n being ``boundary_normal`` or ``boundary_ray``.

    Both are unit(a |z/x|, b |z/y|, 1), up to signs: they change by no more than the greater of the two
    quotients does, relatively.
    """
    edge, height = jnp.minimum(jnp.abs(v[0]), jnp.abs(v[1])) - error, jnp.abs(v[2]) - error
    left = jnp.minimum(edge, height)
    return jnp.where(left > 0, error / height + error / edge, jnp.inf)
