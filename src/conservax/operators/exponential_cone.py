"""The exponential cone K = cl{(x, y, z) : y > 0, y exp(x/y) ≤ z}: its projection, by one root.

Off K, its polar K° and the quadrant x, y ≤ 0, v = y_p (ρ, 1, e^ρ) + μ (e^ρ, (1 − ρ) e^ρ, −1) with
y_p, μ > 0: a point of the boundary and its outer normal, both given by the ratio ρ.
"""

import jax
import jax.numpy as jnp

from .curved_cones import Found, curved_cone, increasing_root, unit


def _factors(ratio: jax.Array) -> tuple[jax.Array, jax.Array]:
    """exp ρ and 1, both in units of max(1, exp ρ)."""
    return jnp.exp(jnp.minimum(ratio, 0)), jnp.exp(-jnp.maximum(ratio, 0))


def _ray(ratio: jax.Array) -> jax.Array:
    power, one = _factors(ratio)
    return jnp.stack([ratio * one, one, power])


def _normal(ratio: jax.Array) -> jax.Array:
    power, one = _factors(ratio)
    return jnp.stack([power, (1 - ratio) * power, -one])


def _length(v: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(v * v))


def _gap(x: jax.Array, y: jax.Array, z: jax.Array) -> jax.Array:
    """The signed distance to K's boundary to first order, for y > 0."""
    ratio = x / jnp.where(y > 0, y, 1)
    power, one = _factors(ratio)
    return (y * power - z * one) / _length(_normal(ratio))


def _polar_gap(x: jax.Array, y: jax.Array, z: jax.Array) -> jax.Array:
    """The same for K° = {x > 0, x exp(y/x − 1) ≤ −z} and its boundary, for x > 0."""
    ratio = 1 - y / jnp.where(x > 0, x, 1)
    power, one = _factors(ratio)
    return (x * one + z * power) / _length(_ray(ratio))


def _ratio(x: jax.Array, y: jax.Array, z: jax.Array) -> jax.Array:
    """ρ, the root of an increasing function between the zeros of y_p and μ."""

    def height(ratio: jax.Array) -> jax.Array:
        # y_p exp ρ − μ − z, in units of exp |ρ|
        q = ratio * ratio - ratio + 1
        point, normal = ((ratio - 1) * x + y) / q, (x - ratio * y) / q
        fall = jnp.exp(-jnp.abs(ratio))
        return jnp.where(ratio < 0, point * fall * fall - normal, point - normal * fall * fall) - (
            z * fall
        )

    far = jnp.asarray(2.0**60, x.dtype)
    low = jnp.where(x > 0, jnp.clip(1 - y / jnp.where(x > 0, x, 1), -far, far), -far)
    high = jnp.where(y > 0, jnp.clip(x / jnp.where(y > 0, y, 1), -far, far), far)
    steps = 2.0 ** jnp.arange(-20, 60, dtype=x.dtype)
    grid = jnp.concatenate([low + steps, high - steps, steps, -steps, jnp.stack([low, high])])
    grid = jnp.clip(grid, low, high)
    heights = jax.vmap(height)(grid)
    return increasing_root(
        height,
        jnp.max(jnp.where(heights <= 0, grid, low)),
        jnp.min(jnp.where(heights >= 0, grid, high)),
    )


def _find(v: jax.Array) -> Found:
    x, y, z = v
    gap, polar_gap = _gap(x, y, z), _polar_gap(x, y, z)
    inside = ((y > 0) & (gap <= 0)) | ((y == 0) & (x <= 0) & (z >= 0))
    polar = ((x > 0) & (polar_gap <= 0)) | ((x == 0) & (y <= 0) & (z <= 0))
    on_face = (x <= 0) & (y <= 0)
    # deep inside K or K° the root is not needed; next to their boundaries it is found all the same,
    # since a compiler may round the two gaps differently wherever they are used
    deep = ((y > 0) & (gap < -1e-3)) | ((x > 0) & (polar_gap < -1e-3))
    off = ~(deep | on_face)
    ratio = _ratio(*(jnp.where(off, a, b) for a, b in zip(v, (1.0, 1.0, 0.0), strict=True)))
    q = ratio * ratio - ratio + 1
    # for ρ > 0 the third coordinate is known best, and the second for ρ ≤ 0
    third = jnp.maximum(z + (x - ratio * y) / q * jnp.exp(-jnp.maximum(ratio, 0)), 0)
    second = jnp.where(
        ratio > 0,
        third * jnp.exp(-jnp.maximum(ratio, 0)),
        jnp.maximum(((ratio - 1) * x + y) / q, 0),
    )
    third = jnp.where(ratio > 0, third, second * jnp.exp(jnp.minimum(ratio, 0)))
    point = jnp.stack([ratio * second, second, third])
    point = jnp.where(on_face, jnp.stack([x, jnp.zeros_like(y), jnp.maximum(z, 0)]), point)
    size = _length(point)
    bend = jnp.exp(ratio) * (_length(_ray(ratio)) / _length(_normal(ratio))) ** 3
    one, zero = jnp.ones_like(x), jnp.zeros_like(x)
    away = jnp.minimum(_length(v - point), size)
    away = jnp.where(x < 0, jnp.minimum(away, jnp.abs(y)), away)
    away = jnp.where(y < 0, jnp.minimum(away, jnp.abs(x)), away)
    margin = jnp.where(on_face, jnp.min(jnp.abs(v)), away)
    margin = jnp.where(inside, jnp.where(y > 0, jnp.minimum(-gap, y), 0), margin)
    margin = jnp.where(polar & ~inside, jnp.where(x > 0, jnp.minimum(-polar_gap, x), 0), margin)
    return Found(
        point,
        unit(_normal(ratio)),
        jnp.where(size > 0, bend / jnp.where(size > 0, size, 1), jnp.inf),
        inside,
        polar & ~inside,
        jnp.diag(jnp.stack([one, zero, jnp.where(z > 0, one, zero)])),
        on_face,
        margin,
    )


EXPONENTIAL_CONE = curved_cone("projection_exponential_cone", _find)


def exponential_normal(v: jax.Array) -> jax.Array:
    """The unit outer normal of K at a point of its boundary with y > 0."""
    y = jnp.where(v[1] > 0, v[1], 1)
    return unit(_normal(v[0] / y))


def exponential_ray(v: jax.Array) -> jax.Array:
    """The unit outer normal of K°, a ray of K, at a point of its boundary with x > 0."""
    x = jnp.where(v[0] > 0, v[0], 1)
    return unit(_ray(1 - v[1] / x))


def exponential_normal_turn(v: jax.Array, error: float) -> jax.Array:
    """A bound on ‖n(v) − n(v + δ)‖, ‖δ‖ ≤ error, n being ``exponential_normal``."""
    # ‖dn/dρ‖ ≤ √((1 + ρ²)/(1 + (1 − ρ)²)), which is never above the golden ratio
    return (1 + 5**0.5) / 2 * _ratio_turn(v[0], v[1], error)


def exponential_ray_turn(v: jax.Array, error: float) -> jax.Array:
    """The same for ``exponential_ray``."""
    return _ratio_turn(v[1], v[0], error)  # its derivative in ρ is no longer than itself


def _ratio_turn(over: jax.Array, under: jax.Array, error: float) -> jax.Array:
    """A bound on the change of over/under, under > 0."""
    left = under - error
    ratio = over / jnp.where(under > 0, under, 1)
    return jnp.where(left > 0, error * jnp.sqrt(1 + ratio**2) / left, jnp.inf)
