"""The power cone K = {(x, y, z) : x^α y^(1−α) ≥ |z|, x, y ≥ 0}, 0 < α < 1: its projection, by one root.

Off K and K°, with r = |z_p| in (0, |z|): x_p = (x + √(x² + 4 α r (|z| − r)))/2, y_p alike with
1 − α, and x_p^α y_p^(1−α) = r (Hien, Differential properties of Euclidean projection onto power
cone, 2015).
"""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from ...arrays.namespace import Array, namespace
from ...errors import InvalidInputError
from ..block import Block
from ..cone import ClarkeJacobian, Cone, Dual, is_dual_of, limit_at
from ..constraint import Constraint
from ..curved.block import CurvedBlock, CurvedConstraint
from ..curved.found import (
    CurvedCone,
    Edges,
    Found,
    at_own_size,
    at_unit_size,
    clarke,
    curved_cone,
    increasing_root,
    length,
    unit,
)
from ..curved.host_root import host_root
from ..family import Sized

_TINY = float(np.finfo(float).tiny)


def _coordinate(x: Array, product: Array) -> tuple[Array, Array]:
    """The positive root p of p² − x p = product, which nothing cancels, and 2p − x."""
    xp = namespace(x, product)
    root = xp.sqrt(x * x + 4 * product)
    other = root + xp.abs(x)
    small = 2 * product / xp.where(other > 0, other, 1)
    return xp.where(x > 0, (x + root) / 2, small), root


def _edges(v: Array, alpha: float | Array, limit: Array) -> Edges:
    """Normals of K where x, y > 0, and of K° where x, y < 0."""
    xp, (x, y, z) = namespace(v), v
    height, sign, smooth = xp.abs(z), xp.sign(z), xp.abs(z) > limit
    a, b = (xp.where(t > 0, t, 1) for t in (x, y))
    normal = unit(xp.stack([-alpha * height / a, (alpha - 1) * height / b, sign]))
    a, b = (xp.where(t < 0, -t, 1) for t in (x, y))
    ray = unit(xp.stack([alpha * height / a, (1 - alpha) * height / b, sign]))
    inner, polar = (x > limit) & (y > limit), (x < -limit) & (y < -limit)
    # the curvature of the boundary next to an edge is a power of |z|
    steep = ~smooth & (z != 0) & ~((x > limit) == (y > limit))
    return Edges(normal, ray, smooth & inner, smooth & polar, steep)


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
        return _coordinate(sx, alpha * product)[0], _coordinate(sy, beta * product)[0]

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
        jnp.stack([jnp.ones_like(x), jnp.zeros_like(x), across(x, -y, beta)]),
        jnp.stack([jnp.zeros_like(x), jnp.ones_like(x), across(y, -x, alpha)]),
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
def _located(v: jax.Array, alpha: jax.Array) -> Found:
    """``power_cone(alpha).locate(v)`` for an exponent that is an array: one program serves all."""
    return at_own_size(*at_unit_size(_find, v, alpha))


def _turn(v: jax.Array, error: float, ray: bool) -> jax.Array:
    """A bound on ‖n(v) − n(v + δ)‖, ‖δ‖ ≤ error, n being the normal of K or that of K°, a ray.

    Both are unit(a |z/x|, b |z/y|, 1), up to signs: they change by no more than the greater of the two
    quotients does, relatively.
    """
    edge, height = jnp.minimum(jnp.abs(v[0]), jnp.abs(v[1])) - error, jnp.abs(v[2]) - error
    left = jnp.minimum(edge, height)
    return jnp.where(left > 0, error / height + error / edge, jnp.inf)


def _find_on_host(v: np.ndarray, alpha: np.ndarray) -> Found:
    """``_find`` in NumPy, at many points at once; the slope of the equation is written out."""
    x, y, z = v
    beta, height = 1 - alpha, np.abs(z)

    def geometric(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.maximum(a, 0) ** alpha * np.maximum(b, 0) ** beta

    value, dual = geometric(x, y), geometric(-x / alpha, -y / beta)
    inside = (x >= 0) & (y >= 0) & (value >= height)
    polar = (x <= 0) & (y <= 0) & (dual >= height) & ~inside
    on_face = (z == 0) & ~inside & ~polar
    off = ~(inside | polar | (z == 0))
    sx, sy, sz = np.where(off, x, 0.0), np.where(off, y, 0.0), np.where(off, height, 1.0)

    def equation(share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        part = np.exp(share)
        product, turn = sz * sz * part * -np.expm1(share), sz * sz * part * (1 - 2 * part)
        (a, a_root), (b, b_root) = _coordinate(sx, alpha * product), _coordinate(sy, beta * product)
        value = share + np.log(sz) - alpha * np.log(a) - beta * np.log(b)
        slope = 1 - alpha**2 * turn / (a * a_root) - beta**2 * turn / (b * b_root)
        return value, slope

    low = np.full_like(x, np.log(_TINY) / 2)
    share = host_root(equation, low, np.zeros_like(x), np.full_like(x, -1.0))
    product = sz * sz * np.exp(share) * -np.expm1(share)
    a, b = _coordinate(sx, alpha * product)[0], _coordinate(sy, beta * product)[0]
    r, sign = sz * np.exp(share), np.sign(z)
    point = np.stack([a, b, sign * r])
    normal = unit(np.stack([-alpha * r * b, -beta * r * a, sign * a * b]))
    tangent = unit(np.cross(normal, unit(point), axis=0))
    steep = np.sqrt((alpha * r * b) ** 2 + (beta * r * a) ** 2 + (a * b) ** 2)
    bottom = a * b * steep
    turn = alpha * beta * r * (tangent[0] * b - tangent[1] * a) ** 2
    curvature = np.where(bottom > 0, turn / np.where(bottom > 0, bottom, 1.0), np.inf)
    one, zero = np.ones_like(x), np.zeros_like(x)

    def across(edge: np.ndarray, depth: np.ndarray, power: np.ndarray) -> np.ndarray:
        # next to an edge the boundary is depth = |z|^(1/power) edge^(1 − 1/power)
        even = edge / np.where(edge > 0, edge + 2 * depth, 1.0)
        return np.where(power == 0.5, even, np.where(power < 0.5, 1.0, 0.0))

    flat = np.where(
        x > 0,
        np.stack([one, zero, across(x, -y, beta)]),
        np.stack([zero, one, across(y, -x, alpha)]),
    )
    point = np.where(on_face, np.stack([np.maximum(x, 0), np.maximum(y, 0), zero]), point)
    point = np.where(inside, v, np.where(polar, 0.0, point))

    def distance(gap: np.ndarray, s: np.ndarray, t: np.ndarray, value: np.ndarray) -> np.ndarray:
        # to first order, and never beyond the quadrant
        along = alpha * value / np.maximum(s, _TINY), beta * value / np.maximum(t, _TINY)
        return np.minimum(gap / np.sqrt(1 + along[0] ** 2 + along[1] ** 2), np.minimum(s, t))

    away = np.minimum(length(v - point), length(point))
    margin = np.where(on_face, np.minimum(np.abs(x), np.abs(y)), away)
    margin = np.where(inside, distance(value - height, x, y, value), margin)
    margin = np.where(polar, distance(dual - height, -x, -y, dual), margin)
    return Found(point, normal, curvature, inside, polar, flat, on_face, margin)


@dataclass(frozen=True)
class Power(Cone):
    """{(x, y, z) : x^α y^(1−α) ≥ |z|, x, y ≥ 0} for a fixed 0 < α < 1; extremes as ``Exponential``.

    >>> import jax.numpy as jnp
    >>> Power(0.3).project(jnp.array([1.0, 1.0, 1.0])).tolist()
    [1.0, 1.0, 1.0]
    """

    alpha: float

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise InvalidInputError(f"0 < alpha < 1 is required, got {self.alpha}.")

    @property
    def size(self) -> int:
        return 3

    def project(self, v: jax.Array) -> jax.Array:
        v = self.point(v)
        return power_cone(self.alpha).project(v)

    def dual(self) -> "Dual":
        return Dual(self)

    def clarke(self, v: jax.Array, tolerance: float | None = None) -> ClarkeJacobian:
        v = self.point(v)
        limit = limit_at(v, tolerance)
        edges = _edges(v, self.alpha, limit)
        return clarke(power_cone(self.alpha), edges, v, limit)


@dataclass(frozen=True)
class PowerBlock(CurvedBlock):
    """The cones of these exponents, or their duals."""

    alphas: tuple[float, ...]
    dual: bool
    count: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", len(self.alphas))

    @property
    def parameters(self) -> np.ndarray:
        return np.array(self.alphas, float)

    def primal(self, k: int) -> Cone:
        return Power(self.alphas[k])

    def located(self, w: jax.Array, parameter: Any) -> Found:
        return _located(w, parameter)

    def located_on_host(self, w: np.ndarray, parameters: Any) -> Found:
        return _find_on_host(w, parameters)

    def edges(self, w: Array, limit: Array, parameters: Any) -> Edges:
        return _edges(w, parameters, limit)

    def for_clarabel(self, clarabel: ModuleType) -> list[Any]:
        return [clarabel.PowerConeT(alpha) for alpha in self.alphas]

    def onto_primal(self, k: int) -> np.ndarray:
        alpha = self.alphas[k]
        return np.diag([1 / alpha, 1 / (1 - alpha), 1.0])


@dataclass(frozen=True)
class Exponents(Sized):
    """The value is a list of exponents α, −α for the dual of the cone of exponent α."""

    def checked(self, name: str, value: Any) -> tuple[float, ...]:
        exponents = tuple(float(alpha) for alpha in value)
        for alpha in exponents:
            if not 0 < abs(alpha) < 1:
                raise InvalidInputError(
                    f"power takes exponents 0 < α < 1 (−α for the dual cone), but got {alpha}."
                )
        return exponents

    def read(self, value: Any) -> tuple[float, ...]:
        return tuple(float(alpha) for alpha in value)


def _blocks(exponents: Sequence[float]) -> list[Block]:
    grouped = itertools.groupby(exponents, key=lambda alpha: alpha < 0)
    return [PowerBlock(tuple(abs(alpha) for alpha in group), dual) for dual, group in grouped]


def _member(cone: Cone) -> float | None:
    if type(cone) is Power:
        return cone.alpha
    return -cast(Power, cone.cone).alpha if is_dual_of(cone, Power) else None


def _constraints(exponents: Sequence[float]) -> list[Constraint]:
    found: list[Constraint] = []
    for k, alpha in enumerate(exponents):
        kind = "dual power cone" if alpha < 0 else "power cone"
        number = sum(other.kind == kind for other in found)
        rows, cone = slice(3 * k, 3 * k + 3), power_cone(abs(alpha))
        found.append(CurvedConstraint(kind, number, 3, rows, cone, alpha < 0, _turn))
    return found


POWER = Exponents(
    blocks=_blocks,
    member=_member,
    constraints=_constraints,
    scs="p",
    cvxpy="p3d",
    symmetric=False,
)
