"""The exponential cone K = cl{(x, y, z) : y > 0, y exp(x/y) ≤ z}: its projection, by one root.

Off K, its polar K° and the quadrant x, y ≤ 0, v = y_p (ρ, 1, e^ρ) + μ (e^ρ, (1 − ρ) e^ρ, −1) with
y_p, μ > 0: a point of the boundary and its outer normal, both given by the ratio ρ.
"""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...arrays.namespace import Array, namespace
from ..cone import ClarkeJacobian, Cone, Dual, is_dual_of, limit_at
from ..constraint import Constraint
from ..curved.block import CurvedBlock, CurvedConstraint
from ..curved.found import Edges, Found, clarke, curved_cone, increasing_root, length, unit
from ..curved.host_root import host_root
from ..family import Counted


def _factors(ratio: Array) -> tuple[Array, Array]:
    """exp ρ and 1, both in units of max(1, exp ρ)."""
    xp = namespace(ratio)
    return xp.exp(xp.minimum(ratio, 0)), xp.exp(-xp.maximum(ratio, 0))


def _ray(ratio: Array) -> Array:
    power, one = _factors(ratio)
    return namespace(ratio).stack([ratio * one, one, power])


def _normal(ratio: Array) -> Array:
    power, one = _factors(ratio)
    return namespace(ratio).stack([power, (1 - ratio) * power, -one])


def _gap(x: Array, y: Array, z: Array) -> Array:
    """The signed distance to K's boundary to first order, for y > 0."""
    ratio = x / namespace(y).where(y > 0, y, 1)
    power, one = _factors(ratio)
    return (y * power - z * one) / length(_normal(ratio))


def _polar_gap(x: Array, y: Array, z: Array) -> Array:
    """The same for K° = {x > 0, x exp(y/x − 1) ≤ −z} and its boundary, for x > 0."""
    ratio = 1 - y / namespace(x).where(x > 0, x, 1)
    power, one = _factors(ratio)
    return (x * one + z * power) / length(_ray(ratio))


def _edges(v: Array, limit: Array) -> Edges:
    """Normals of K where y > 0, and of K° where x > 0."""
    xp, (x, y, _) = namespace(v), v
    normal = unit(_normal(x / xp.where(y > 0, y, 1)))
    ray = unit(_ray(1 - y / xp.where(x > 0, x, 1)))
    return Edges(normal, ray, y > limit, x > limit, xp.zeros_like(y, bool))


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
    size = length(point)
    bend = jnp.exp(ratio) * (length(_ray(ratio)) / length(_normal(ratio))) ** 3
    one, zero = jnp.ones_like(x), jnp.zeros_like(x)
    away = jnp.minimum(length(v - point), size)
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
        jnp.stack([one, zero, jnp.where(z > 0, one, zero)]),
        on_face,
        margin,
    )


EXPONENTIAL_CONE = curved_cone("projection_exponential_cone", _find)


def _normal_turn(v: jax.Array, error: float) -> jax.Array:
    """A bound on ‖n(v) − n(v + δ)‖, ‖δ‖ ≤ error, n being the normal of K."""
    # ‖dn/dρ‖ ≤ √((1 + ρ²)/(1 + (1 − ρ)²)), which is never above the golden ratio
    return (1 + 5**0.5) / 2 * _ratio_turn(v[0], v[1], error)


def _ray_turn(v: jax.Array, error: float) -> jax.Array:
    """The same for the normal of K°, a ray of K."""
    return _ratio_turn(v[1], v[0], error)  # its derivative in ρ is no longer than itself


def _ratio_turn(over: jax.Array, under: jax.Array, error: float) -> jax.Array:
    """A bound on the change of over/under, under > 0."""
    left = under - error
    ratio = over / jnp.where(under > 0, under, 1)
    return jnp.where(left > 0, error * jnp.sqrt(1 + ratio**2) / left, jnp.inf)


def _ratio_on_host(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """``_ratio`` in NumPy."""

    def equation(ratio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # y_p exp ρ − N exp −ρ − z and its slope, in units of exp |ρ|
        q, turn = ratio * ratio - ratio + 1, 2 * ratio - 1
        point, normal = ((ratio - 1) * x + y) / q, (x - ratio * y) / q
        fall = np.exp(-np.abs(ratio))
        up = np.where(ratio < 0, fall * fall, 1.0)
        down = np.where(ratio < 0, 1.0, fall * fall)
        slope = up * (point + (x - point * turn) / q) + down * (normal + (y + normal * turn) / q)
        return point * up - normal * down - z * fall, slope

    far = 2.0**60
    low = np.where(x > 0, np.clip(1 - y / np.where(x > 0, x, 1.0), -far, far), -far)
    high = np.where(y > 0, np.clip(x / np.where(y > 0, y, 1.0), -far, far), far)
    return host_root(equation, low, high, np.clip(0.0, low, high))


def _find_on_host(v: np.ndarray) -> Found:
    """``_find`` in NumPy, at many points at once; the slope of the equation is written out."""
    x, y, z = v
    gap, polar_gap = _gap(x, y, z), _polar_gap(x, y, z)
    inside = ((y > 0) & (gap <= 0)) | ((y == 0) & (x <= 0) & (z >= 0))
    polar = ((x > 0) & (polar_gap <= 0)) | ((x == 0) & (y <= 0) & (z <= 0))
    on_face = (x <= 0) & (y <= 0)
    off = ~(inside | polar | on_face)
    ratio = _ratio_on_host(*(np.where(off, a, b) for a, b in zip(v, (1.0, 1.0, 0.0), strict=True)))
    q = ratio * ratio - ratio + 1
    # for ρ > 0 the third coordinate is known best, and the second for ρ ≤ 0
    fall = np.exp(-np.maximum(ratio, 0))
    third = np.maximum(z + (x - ratio * y) / q * fall, 0)
    second = np.where(ratio > 0, third * fall, np.maximum(((ratio - 1) * x + y) / q, 0))
    third = np.where(ratio > 0, third, second * np.exp(np.minimum(ratio, 0)))
    point = np.stack([ratio * second, second, third])
    point = np.where(on_face, np.stack([x, np.zeros_like(y), np.maximum(z, 0)]), point)
    point = np.where(inside, v, np.where(polar, 0.0, point))
    size = length(point)
    bend = np.exp(ratio) * (length(_ray(ratio)) / length(_normal(ratio))) ** 3
    away = np.minimum(length(v - point), size)
    away = np.where(x < 0, np.minimum(away, np.abs(y)), away)
    away = np.where(y < 0, np.minimum(away, np.abs(x)), away)
    margin = np.where(on_face, np.abs(v).min(axis=0), away)
    margin = np.where(inside, np.where(y > 0, np.minimum(-gap, y), 0.0), margin)
    margin = np.where(polar & ~inside, np.where(x > 0, np.minimum(-polar_gap, x), 0.0), margin)
    one, zero = np.ones_like(x), np.zeros_like(x)
    return Found(
        point,
        unit(_normal(ratio)),
        np.where(size > 0, bend / np.where(size > 0, size, 1.0), np.inf),
        inside,
        polar & ~inside,
        np.stack([one, zero, np.where(z > 0, one, zero)]),
        on_face & ~inside & ~polar,
        margin,
    )


@dataclass(frozen=True)
class Exponential(Cone):
    """cl{(x, y, z) : y > 0, y exp(x/y) ≤ z}.

    On the smooth boundary I − nnᵀ ≼ V ≼ I, on the smooth boundary of the polar 0 ≼ V ≼ ddᵀ; at the
    faces and the apex only 0 ≼ V ≼ I is known, and ``exact`` is False.

    >>> import jax.numpy as jnp
    >>> bool(Exponential().clarke(jnp.array([-1.0, 0.0, -1.0])).exact)
    False
    """

    @property
    def size(self) -> int:
        return 3

    def project(self, v: jax.Array) -> jax.Array:
        v = self.point(v)
        return EXPONENTIAL_CONE.project(v)

    def dual(self) -> "Dual":
        return Dual(self)

    def clarke(self, v: jax.Array, tolerance: float | None = None) -> ClarkeJacobian:
        v = self.point(v)
        limit = limit_at(v, tolerance)
        return clarke(EXPONENTIAL_CONE, _edges(v, limit), v, limit)


@dataclass(frozen=True)
class ExponentialBlock(CurvedBlock):
    """``count`` exponential cones, or their duals."""

    count: int
    dual: bool

    @property
    def parameters(self) -> None:
        return None

    def primal(self, k: int) -> Cone:
        return Exponential()

    def located(self, w: jax.Array, parameter: Any) -> Found:
        return EXPONENTIAL_CONE.locate(w)

    def located_on_host(self, w: np.ndarray, parameters: Any) -> Found:
        return _find_on_host(w)

    def edges(self, w: Array, limit: Array, parameters: Any) -> Edges:
        return _edges(w, limit)

    def for_clarabel(self, clarabel: ModuleType) -> list[Any]:
        return [clarabel.ExponentialConeT()] * self.count

    def onto_primal(self, k: int) -> np.ndarray:
        return np.array([[1.0, -1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


def _turn(w: jax.Array, error: float, ray: bool) -> jax.Array:
    return _ray_turn(w, error) if ray else _normal_turn(w, error)


def _constraints(count: int, dual: bool) -> list[Constraint]:
    kind = "dual exponential cone" if dual else "exponential cone"
    return [
        CurvedConstraint(kind, k, 3, slice(3 * k, 3 * k + 3), EXPONENTIAL_CONE, dual, _turn)
        for k in range(count)
    ]


EXPONENTIAL = Counted(
    blocks=lambda count: [ExponentialBlock(count, dual=False)],
    member=lambda cone: 1 if type(cone) is Exponential else None,
    constraints=lambda count: _constraints(count, dual=False),
    scs="ep",
    cvxpy="exp",
    symmetric=False,
)
DUAL_EXPONENTIAL = Counted(
    blocks=lambda count: [ExponentialBlock(count, dual=True)],
    member=lambda cone: 1 if is_dual_of(cone, Exponential) else None,
    constraints=lambda count: _constraints(count, dual=True),
    scs="ed",
    symmetric=False,
)
