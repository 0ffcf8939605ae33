"""Projections onto the exponential and the power cones in ℝ³: one root, then a closed form.

Off the cone K and its polar, p = P_K(v) lies on a smooth piece of the boundary, with the unit
normal n = (v − p)/‖v − p‖. With d = p/‖p‖ and t = n × d,

    V = d dᵀ + t tᵀ / (1 + k ‖v − p‖),

k being the curvature of the boundary at p along t; the boundary is flat along d.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ...arrays.namespace import Array, namespace
from ...calculus.marking import guard, smooth
from ..cone import ClarkeJacobian

_STEPS = 90


class Found(NamedTuple):
    """A projection with what its derivative needs; coordinates come first, on the host with more axes.

    ``point``: p; ``normal``: n; ``curvature``: k, infinite at an edge; ``inside``, ``polar``: v ∈ K,
    v ∈ K°; ``flat``: the diagonal of V where p lies on a flat face, used where ``on_face``;
    ``margin``: the distance of v to the nearest kink, to first order.
    """

    point: Array
    normal: Array
    curvature: Array
    inside: Array
    polar: Array
    flat: Array
    on_face: Array
    margin: Array


class Edges(NamedTuple):
    """At v the unit outer normals of K and of K°, a ray of K, and whether either boundary is smooth there.

    ``steep``: whether v is next to where the derivative of the projection changes at an unbounded rate, so
    that what it is there says nothing about what it is here.
    """

    normal: Array
    ray: Array
    smooth: Array
    polar_smooth: Array
    steep: Array


def length(v: Array) -> Array:
    """‖v‖, along the first axis."""
    xp = namespace(v)
    return xp.sqrt(xp.sum(v * v, axis=0))


def unit(v: Array) -> Array:
    """v/‖v‖ along the first axis, and 0 at 0."""
    xp = namespace(v)
    scale = xp.max(xp.abs(v), axis=0)
    v = v / xp.where(scale > 0, scale, 1)
    size = length(v)
    return v / xp.where(size > 0, size, 1)


def increasing_root(
    h: Callable[[jax.Array], jax.Array], low: jax.Array, high: jax.Array
) -> jax.Array:
    """The root of an increasing function in [low, high]: Newton's steps and bisections in turn.

    Differentiable in what h depends on, by the implicit function theorem.
    """

    def slope_at(h: Callable[[jax.Array], jax.Array], x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.jvp(h, (x,), (jnp.ones_like(x),))

    def solve(h: Callable[[jax.Array], jax.Array], start: jax.Array) -> jax.Array:
        def step(i: Any, bracket: Any) -> Any:
            low, high, x = bracket
            value, slope = slope_at(h, x)
            low, high = jnp.where(value <= 0, x, low), jnp.where(value >= 0, x, high)
            newton = x - value / slope
            middle = low + (high - low) / 2
            good = (newton > low) & (newton < high) & (i % 2 == 0)
            return low, high, jnp.where(good, newton, middle)

        left, right, x = jax.lax.fori_loop(0, _STEPS, step, (low, high, start))
        # one more step of Newton's, if it stays in the bracket
        value, slope = slope_at(h, x)
        newton = x - value / slope
        return jnp.where((newton >= left) & (newton <= right), newton, x)

    low, high = jax.lax.stop_gradient((low, high))
    middle = low + (high - low) / 2
    return jax.lax.custom_root(h, middle, solve, lambda g, y: y / g(jnp.ones_like(y)))


def element(found: Found, v: jax.Array) -> jax.Array:
    """An element V (3, 3) of the Clarke Jacobian of the projection at v."""
    d, n = unit(found.point), found.normal
    t = unit(jnp.cross(n, d))
    away = jnp.sqrt(jnp.sum((v - found.point) ** 2))
    bend = jnp.where(jnp.isinf(found.curvature), jnp.inf, found.curvature * away)
    V = jnp.outer(d, d) + jnp.outer(t, t) / (1 + bend)
    V = jnp.where(found.on_face, jnp.diag(found.flat), V)
    one = jnp.eye(3, dtype=v.dtype)
    return jnp.where(found.inside, one, jnp.where(found.polar, 0, V))


class CurvedCone(NamedTuple):
    """The projection v ↦ P_K(v) as a marked function, its element V(v), and where v lies."""

    project: Callable[[jax.Array], jax.Array]
    element: Callable[[jax.Array], jax.Array]
    locate: Callable[[jax.Array], Found]


def at_unit_size(
    find: Callable[..., Found], v: jax.Array, *shape: jax.Array
) -> tuple[Found, jax.Array]:
    """``find`` at v/‖v‖∞, and ‖v‖∞; ``shape``: further arguments of ``find``."""
    scale = jnp.max(jnp.abs(v))
    scale = jnp.where(scale > 0, scale, 1)
    return find(v / scale, *shape), scale


def at_own_size(found: Found, scale: jax.Array) -> Found:
    """What was found at v/‖v‖∞, for v."""
    return found._replace(point=found.point * scale, margin=found.margin * scale)


def curved_cone(name: str, find: Callable[[jax.Array], Found]) -> CurvedCone:
    """The cone that ``find`` projects onto, given points with ‖v‖∞ = 1."""

    @jax.jit
    def scaled(v: jax.Array) -> tuple[Found, jax.Array]:
        return at_unit_size(find, v)

    def locate(v: jax.Array) -> Found:
        return at_own_size(*scaled(v))

    def value(v: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = locate(v)
        p = jnp.where(found.inside, v, jnp.where(found.polar, 0, found.point))
        return p, jnp.full_like(v, jnp.max(jnp.abs(v)))

    def matrix(v: jax.Array) -> jax.Array:
        found, scale = scaled(v)
        return element(found, v / scale)

    def rule(primals: Any, tangents: Any) -> jax.Array:
        return matrix(*primals) @ tangents[0]

    marked, refuse = smooth(name, value, rule), guard(name)

    def project(v: jax.Array) -> jax.Array:
        return refuse(marked(v), locate(jax.lax.stop_gradient(v)).margin)

    return CurvedCone(project, matrix, locate)


def clarke(cone: CurvedCone, edges: Edges, v: jax.Array, limit: jax.Array) -> ClarkeJacobian:
    """The extremes at v, kinks within ``limit`` counted in."""
    found, V = cone.locate(v), cone.element(v)
    kink = (found.margin <= limit) | edges.steep
    eye = jnp.eye(3, dtype=v.dtype)
    near_polar = jnp.linalg.norm(found.point) <= jnp.linalg.norm(v - found.point)
    near_polar = jnp.where(found.inside, False, near_polar | found.polar)
    on_boundary, on_polar = edges.smooth & ~near_polar, edges.polar_smooth & near_polar
    lower = jnp.where(on_boundary, eye - jnp.outer(edges.normal, edges.normal), 0)
    upper = jnp.where(on_polar, jnp.outer(edges.ray, edges.ray), eye)
    return ClarkeJacobian(
        V,
        jnp.where(kink, lower, V),
        jnp.where(kink, upper, V),
        found.margin,
        ~kink | on_boundary | on_polar,
    )
