"""``curved_blocks`` in NumPy: the projection onto exponential and power cones, many at a time.

The formulas are those of ``operators.exponential_cone`` and ``operators.power_cone``; the slopes of the
two equations are written out. Coordinates come first: v is (3, …).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ...solvers.cones import Curved

_STEPS = 200
_EPS, _TINY = float(np.finfo(float).eps), float(np.finfo(float).tiny)
Equation = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class _Found(NamedTuple):
    """As ``operators.curved_cones.Found``; ``flat``: the diagonal of V on a flat face."""

    point: np.ndarray
    normal: np.ndarray
    curvature: np.ndarray
    inside: np.ndarray
    polar: np.ndarray
    flat: np.ndarray
    on_face: np.ndarray
    margin: np.ndarray


def curved_on_host(
    block: Curved, v: np.ndarray, dual: np.ndarray, slack: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """T (batch, count, 3, 3), d_lo, d_hi (batch, size), and where they bound the set (batch,)."""
    shape = (len(v), block.count, 3)
    w = np.moveaxis((v if block.dual else -v).reshape(shape), -1, 0)
    dual, slack = (np.max(t.reshape(shape), axis=-1) for t in (dual, slack))
    near, far = (slack, dual) if block.dual else (dual, slack)
    alphas = None if block.alphas[0] is None else np.array(block.alphas, float)
    with np.errstate(all="ignore"):
        T, low, high, known = _located(w, near, far, alphas)
    T = np.moveaxis(T, (0, 1), (-2, -1))
    low, high = (np.moveaxis(d, 0, -1) for d in (low, high))
    if not block.dual:
        low, high = 1 - high, 1 - low
    return T, low.reshape(len(v), -1), high.reshape(len(v), -1), np.all(known, axis=1)


def _located(
    w: np.ndarray, near: np.ndarray, far: np.ndarray, alpha: np.ndarray | None
) -> tuple[np.ndarray, ...]:
    """T (3, 3, …), d_lo, d_hi (3, …) of P_K at w, and whether they are extremes of the set."""
    scale = np.abs(w).max(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    found = _exponential(w / scale) if alpha is None else _power(w / scale, alpha)
    found = found._replace(point=found.point * scale, margin=found.margin * scale)
    limit_near, limit_far = np.maximum(near, 0.0), np.maximum(far, 0.0)
    away = _length(w - found.point)
    near_polar = _length(found.point) <= away
    near_polar = np.where(found.inside, False, near_polar | found.polar)
    # outside K the distance to it is that of the dual variable, inside it is the slack's
    limit = np.where(
        near_polar,
        np.where(found.polar, limit_near, limit_far),
        np.where(found.inside, limit_far, limit_near),
    )
    kink = found.margin <= limit
    normal, ray, on_boundary, on_polar = _edges(alpha, w, limit)
    on_boundary, on_polar = kink & on_boundary & ~near_polar, kink & on_polar & near_polar
    T, d = _frame(found, w)
    # on the boundary I − nnᵀ ≼ V ≼ I, on the polar's 0 ≼ V ≼ ddᵀ
    T = np.where(on_boundary, _frame_of(normal, 2), np.where(on_polar, _frame_of(ray, 0), T))
    first = np.broadcast_to(np.array([1.0, 0.0, 0.0]).reshape(3, *[1] * (w.ndim - 1)), w.shape)
    last = np.broadcast_to(np.array([0.0, 0.0, 1.0]).reshape(3, *[1] * (w.ndim - 1)), w.shape)
    low = np.where(on_boundary, 1 - last, np.where(on_polar, 0.0, d))
    high = np.where(on_boundary, 1.0, np.where(on_polar, first, d))
    return T, low, high, ~kink | on_boundary | on_polar


def _edges(alpha: np.ndarray | None, w: np.ndarray, limit: np.ndarray) -> tuple[np.ndarray, ...]:
    """Normals of K and of its polar at w, and whether either boundary is smooth there."""
    x, y, z = w
    if alpha is None:
        over_y, over_x = x / np.where(y > 0, y, 1.0), y / np.where(x > 0, x, 1.0)
        return _unit(_normal(over_y)), _unit(_ray(1 - over_x)), y > limit, x > limit
    smooth = np.abs(z) > limit
    height, sign = np.abs(z), np.sign(z)
    plus = [np.where(a > 0, a, 1.0) for a in (x, y)]
    minus = [np.where(a < 0, -a, 1.0) for a in (x, y)]
    return (
        _unit(np.stack([-alpha * height / plus[0], (alpha - 1) * height / plus[1], sign])),
        _unit(np.stack([alpha * height / minus[0], (1 - alpha) * height / minus[1], sign])),
        smooth & (x > limit) & (y > limit),
        smooth & (x < -limit) & (y < -limit),
    )


def _frame(found: _Found, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """T and d of P_K off its kinks."""
    ray, normal = _unit(found.point), found.normal
    across = _unit(np.cross(normal, ray, axis=0))
    away = _length(w - found.point)
    # the curvature is that at w/‖w‖∞
    size = np.abs(w).max(axis=0)
    away = away / np.where(size > 0, size, 1.0)
    bend = np.where(np.isinf(found.curvature), np.inf, found.curvature * away)
    T = np.stack([ray, across, normal], axis=1)
    d = np.stack([np.ones_like(bend), 1 / (1 + bend), np.zeros_like(bend)])
    plain = found.inside | found.polar | found.on_face
    T = np.where(plain, np.eye(3).reshape(3, 3, *[1] * (w.ndim - 1)), T)
    d = np.where(found.on_face, found.flat, d)
    return T, np.where(found.inside, 1.0, np.where(found.polar, 0.0, d))


def _frame_of(axis: np.ndarray, column: int) -> np.ndarray:
    """An orthogonal matrix with this unit vector as one of its columns."""
    least = np.argmin(np.abs(axis), axis=0)
    hot = np.stack([(least == k).astype(float) for k in range(3)])
    other = _unit(np.cross(axis, hot, axis=0))
    columns = [other, np.cross(axis, other, axis=0)]
    columns.insert(column, axis)
    return np.stack(columns, axis=1)


def _length(v: np.ndarray) -> np.ndarray:
    return np.sqrt(np.sum(v * v, axis=0))


def _unit(v: np.ndarray) -> np.ndarray:
    """v/‖v‖, and 0 at 0."""
    scale = np.abs(v).max(axis=0)
    v = v / np.where(scale > 0, scale, 1.0)
    length = _length(v)
    return v / np.where(length > 0, length, 1.0)


def _root(equation: Equation, low: np.ndarray, high: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Of an increasing function: Newton's steps that stay in the bracket, else its middle by asinh."""
    x, last = start, np.full_like(low, np.inf)
    for _ in range(_STEPS):
        value, slope = equation(x)
        low, high = np.where(value <= 0, x, low), np.where(value >= 0, x, high)
        newton = x - value / slope
        good = (newton >= low) & (newton <= high) & (np.abs(newton - x) <= 0.7 * last)
        middle = np.sinh((np.arcsinh(low) + np.arcsinh(high)) / 2)
        new = np.where(value == 0, x, np.where(good, newton, middle))
        last = np.where(good, np.abs(new - x), (high - low) / 2)
        done = np.abs(new - x) <= 2 * _EPS * np.abs(x)
        x = np.where(np.isnan(new), x, new)
        if np.all(done | (value == 0) | np.isnan(value)):
            break
    return x


def _factors(ratio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """exp ρ and 1, both in units of max(1, exp ρ)."""
    return np.exp(np.minimum(ratio, 0)), np.exp(-np.maximum(ratio, 0))


def _ray(ratio: np.ndarray) -> np.ndarray:
    power, one = _factors(ratio)
    return np.stack([ratio * one, one, power])


def _normal(ratio: np.ndarray) -> np.ndarray:
    power, one = _factors(ratio)
    return np.stack([power, (1 - ratio) * power, -one])


def _ratio(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """ρ, the root of an increasing function between the zeros of y_p and μ."""

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
    return _root(equation, low, high, np.clip(0.0, low, high))


def _exponential(v: np.ndarray) -> _Found:
    x, y, z = v
    over_y, over_x = x / np.where(y > 0, y, 1.0), 1 - y / np.where(x > 0, x, 1.0)
    power, one = _factors(over_y)
    gap = (y * power - z * one) / _length(_normal(over_y))
    power, one = _factors(over_x)
    polar_gap = (x * one + z * power) / _length(_ray(over_x))
    inside = ((y > 0) & (gap <= 0)) | ((y == 0) & (x <= 0) & (z >= 0))
    polar = ((x > 0) & (polar_gap <= 0)) | ((x == 0) & (y <= 0) & (z <= 0))
    on_face = (x <= 0) & (y <= 0)
    off = ~(inside | polar | on_face)
    ratio = _ratio(*(np.where(off, a, b) for a, b in zip(v, (1.0, 1.0, 0.0), strict=True)))
    q = ratio * ratio - ratio + 1
    # for ρ > 0 the third coordinate is known best, and the second for ρ ≤ 0
    fall = np.exp(-np.maximum(ratio, 0))
    third = np.maximum(z + (x - ratio * y) / q * fall, 0)
    second = np.where(ratio > 0, third * fall, np.maximum(((ratio - 1) * x + y) / q, 0))
    third = np.where(ratio > 0, third, second * np.exp(np.minimum(ratio, 0)))
    point = np.stack([ratio * second, second, third])
    point = np.where(on_face, np.stack([x, np.zeros_like(y), np.maximum(z, 0)]), point)
    point = np.where(inside, v, np.where(polar, 0.0, point))
    size = _length(point)
    bend = np.exp(ratio) * (_length(_ray(ratio)) / _length(_normal(ratio))) ** 3
    away = np.minimum(_length(v - point), size)
    away = np.where(x < 0, np.minimum(away, np.abs(y)), away)
    away = np.where(y < 0, np.minimum(away, np.abs(x)), away)
    margin = np.where(on_face, np.abs(v).min(axis=0), away)
    margin = np.where(inside, np.where(y > 0, np.minimum(-gap, y), 0.0), margin)
    margin = np.where(polar & ~inside, np.where(x > 0, np.minimum(-polar_gap, x), 0.0), margin)
    one, zero = np.ones_like(x), np.zeros_like(x)
    return _Found(
        point,
        _unit(_normal(ratio)),
        np.where(size > 0, bend / np.where(size > 0, size, 1.0), np.inf),
        inside,
        polar & ~inside,
        np.stack([one, zero, np.where(z > 0, one, zero)]),
        on_face & ~inside & ~polar,
        margin,
    )


def _coordinate(x: np.ndarray, product: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The positive root p of p² − x p = product, and 2p − x."""
    root = np.sqrt(x * x + 4 * product)
    other = root + np.abs(x)
    small = 2 * product / np.where(other > 0, other, 1.0)
    return np.where(x > 0, (x + root) / 2, small), root


def _power(v: np.ndarray, alpha: np.ndarray) -> _Found:
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
    share = _root(equation, low, np.zeros_like(x), np.full_like(x, -1.0))
    product = sz * sz * np.exp(share) * -np.expm1(share)
    a, b = _coordinate(sx, alpha * product)[0], _coordinate(sy, beta * product)[0]
    r, sign = sz * np.exp(share), np.sign(z)
    point = np.stack([a, b, sign * r])
    normal = _unit(np.stack([-alpha * r * b, -beta * r * a, sign * a * b]))
    tangent = _unit(np.cross(normal, _unit(point), axis=0))
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

    away = np.minimum(_length(v - point), _length(point))
    margin = np.where(on_face, np.minimum(np.abs(x), np.abs(y)), away)
    margin = np.where(inside, distance(value - height, x, y, value), margin)
    margin = np.where(polar, distance(dual - height, -x, -y, dual), margin)
    return _Found(point, normal, curvature, inside, polar, flat, on_face, margin)
