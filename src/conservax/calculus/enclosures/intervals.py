"""Interval arithmetic on arrays: every result encloses the exact real result, rounding included.

An interval is a pair of float64 arrays lo ≤ hi; NaN in both stands for *undefined somewhere on the
box* (1/[−1, 1], √[−1, 1]) and spreads. A truth value is a pair of booleans: [False, True] is
undecided. Sums and differences are widened only where a sum's exact error says so, products and
quotients by one float; dot products by an a-priori bound; exp, tanh, … are taken from python-flint.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

UNIT = 2.0**-53
TINY = float(np.finfo(np.float64).tiny)


class Interval(NamedTuple):
    """All arrays x with lo ≤ x ≤ hi."""

    lo: np.ndarray
    hi: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.lo.shape

    @property
    def is_float(self) -> bool:
        return self.lo.dtype == np.float64

    @property
    def undecided(self) -> np.ndarray:
        """Where more than one value is possible; NaN counts."""
        return ~(self.lo == self.hi)

    @property
    def magnitude(self) -> np.ndarray:
        """The largest absolute value, exact."""
        return np.maximum(np.abs(self.lo), np.abs(self.hi))

    def map(self, fun: Callable[[np.ndarray], Any]) -> "Interval":
        """A monotone map that rounds nothing (moving entries about), end by end."""
        lo = np.asarray(fun(self.lo))
        return Interval(lo, lo if self.lo is self.hi else np.asarray(fun(self.hi)))


def point(value: Any) -> Interval:
    """The interval that holds one array; every float dtype is exact in float64."""
    array = np.asarray(value)
    if array.dtype.kind == "f" or array.dtype.name in ("bfloat16",):
        array = array.astype(np.float64)
    return Interval(array, array)


def around(lo: np.ndarray, hi: np.ndarray, error: Any) -> Interval:
    """[lo − error, hi + error], rounded outward; exact where the error is 0."""
    return Interval(
        np.where(error == 0, lo, np.nextafter(lo - error, -np.inf)),
        np.where(error == 0, hi, np.nextafter(hi + error, np.inf)),
    )


def hull(intervals: Sequence[Interval]) -> Interval:
    """The least interval that holds them all, shapes broadcast."""
    lo, hi = intervals[0]
    for other in intervals[1:]:
        lo, hi = np.minimum(lo, other.lo), np.maximum(hi, other.hi)
    return Interval(lo, hi)


def choose(mask: np.ndarray, yes: Interval, no: Interval) -> Interval:
    """Entry by entry, ``yes`` where the mask holds."""
    return Interval(np.where(mask, yes.lo, no.lo), np.where(mask, yes.hi, no.hi))


def _undefined(mask: Any, x: Interval) -> Interval:
    return Interval(np.where(mask, np.nan, x.lo), np.where(mask, np.nan, x.hi))


def _checked(lo: np.ndarray, hi: np.ndarray) -> Interval:
    bad = np.isnan(lo) | np.isnan(hi)
    return _undefined(bad, Interval(lo, hi)) if np.any(bad) else Interval(lo, hi)


def _two_sum(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a + b = s + e exactly (Knuth), e NaN on overflow."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def add(a: Interval, b: Interval) -> Interval:
    """a + b."""
    lo, below = _two_sum(a.lo, b.lo)
    hi, above = _two_sum(a.hi, b.hi)
    return _checked(
        np.where(below >= 0, lo, np.nextafter(lo, -np.inf)),
        np.where(above <= 0, hi, np.nextafter(hi, np.inf)),
    )


def negate(a: Interval) -> Interval:
    """−a, exact."""
    return Interval(-a.hi, -a.lo)


def subtract(a: Interval, b: Interval) -> Interval:
    """a − b."""
    return add(a, negate(b))


def _exact_factor(x: np.ndarray) -> np.ndarray:
    """Where multiplying by x rounds nothing above the subnormal range: 0 and ± powers of two."""
    return (x == 0) | (np.abs(np.frexp(x)[0]) == 0.5)


def _outward(lo: np.ndarray, hi: np.ndarray, exact: np.ndarray) -> Interval:
    """Widened by one float, save where a normal result is known to be exact."""
    keep_lo = exact & ((np.abs(lo) > TINY) | (lo == 0)) & np.isfinite(lo)
    keep_hi = exact & ((np.abs(hi) > TINY) | (hi == 0)) & np.isfinite(hi)
    return _checked(
        np.where(keep_lo, lo, np.nextafter(lo, -np.inf)),
        np.where(keep_hi, hi, np.nextafter(hi, np.inf)),
    )


def multiply(a: Interval, b: Interval) -> Interval:
    """a · b; exact where one factor is 0 or a power of two and nothing underflows."""
    exact_a = _exact_factor(a.lo) & _exact_factor(a.hi)
    exact_b = _exact_factor(b.lo) & _exact_factor(b.hi)
    zero = ((a.lo == 0) & (a.hi == 0)) | ((b.lo == 0) & (b.hi == 0))
    ends = [x * y for x in a for y in b]
    lo, hi = np.minimum.reduce(ends), np.maximum.reduce(ends)
    # a product that underflows to 0 is not exact
    exact = (exact_a | exact_b) & (zero | ((lo != 0) & (hi != 0)))
    return _outward(lo, hi, exact)


def square(a: Interval) -> Interval:
    """a², at least 0."""
    small = np.where((a.lo <= 0) & (a.hi >= 0), 0.0, np.minimum(np.abs(a.lo), np.abs(a.hi)))
    out = multiply(Interval(small, a.magnitude), Interval(small, a.magnitude))
    return Interval(np.maximum(out.lo, 0.0), out.hi)


def divide(a: Interval, b: Interval) -> Interval:
    """a / b; undefined where b may be 0."""
    safe = _undefined((b.lo <= 0) & (b.hi >= 0), b)
    ends = [x / y for x in a for y in safe]
    lo, hi = np.minimum.reduce(ends), np.maximum.reduce(ends)
    zero = (a.lo == 0) & (a.hi == 0)
    powers = _exact_factor(b.lo) & _exact_factor(b.hi)
    return _outward(lo, hi, zero | (powers & (lo != 0) & (hi != 0)))


def sqrt(a: Interval) -> Interval:
    """√a; undefined where a may be negative."""
    low, high = (np.sqrt(np.maximum(end, 0.0)) for end in a)
    small = (np.rint(low) == low) & (np.rint(high) == high) & (high < 2.0**26)
    out = _outward(low, high, small & (low * low == a.lo) & (high * high == a.hi))
    return _undefined(a.lo < 0, Interval(np.maximum(out.lo, 0.0), out.hi))


def absolute(a: Interval) -> Interval:
    """|a|, exact."""
    lo, hi = np.minimum(np.abs(a.lo), np.abs(a.hi)), a.magnitude
    return Interval(np.where((a.lo <= 0) & (a.hi >= 0), 0.0, lo), hi)


def maximum(a: Interval, b: Interval) -> Interval:
    """max(a, b), exact."""
    return Interval(np.maximum(a.lo, b.lo), np.maximum(a.hi, b.hi))


def minimum(a: Interval, b: Interval) -> Interval:
    """min(a, b), exact."""
    return Interval(np.minimum(a.lo, b.lo), np.minimum(a.hi, b.hi))


def _positive_power(a: Interval, k: int) -> Interval:
    out, base = None, a
    while k:
        if k & 1:
            out = base if out is None else multiply(out, base)
        k >>= 1
        if k:
            base = square(base)
    return point(np.ones(a.shape)) if out is None else out


def integer_power(a: Interval, k: int) -> Interval:
    """aᵏ for a whole k; undefined at 0 for k < 0."""
    if k < 0:
        return divide(point(1.0), integer_power(a, -k))
    if k % 2 == 0:
        return _positive_power(absolute(a), k)
    ends = [_positive_power(point(end), k) for end in a]
    return Interval(ends[0].lo, ends[1].hi)


def gamma(k: int) -> float:
    """A bound on the relative error of k roundings in any order, with some to spare."""
    return (k + 4) * UNIT / (1 - (k + 4) * UNIT)


def total(a: Interval, axes: Any) -> Interval:
    """Sum over axes, with the a-priori bound of a sum in any order."""
    n = a.lo.size // max(1, np.sum(a.lo, axis=axes).size)
    lo, hi = np.sum(a.lo, axis=axes), np.sum(a.hi, axis=axes)
    if n <= 1:
        return Interval(np.asarray(lo), np.asarray(hi))
    return around(lo, hi, gamma(2 * n) * np.sum(a.magnitude, axis=axes))


def running_total(a: Interval, axis: int) -> Interval:
    """Cumulative sums along an axis."""
    bound = gamma(2 * a.shape[axis]) * np.cumsum(a.magnitude, axis=axis)
    return around(np.cumsum(a.lo, axis=axis), np.cumsum(a.hi, axis=axis), bound)


def matmul(a: Interval, b: Interval) -> Interval:
    """Batched matrix product a @ b, in midpoint–radius form.

    |C − fl(mid a · mid b)| ≤ |mid a| rad b + rad a (|mid b| + rad b) + γ |mid a||mid b|.

    Source: S. M. Rump, *Fast and parallel interval arithmetic*, BIT 39 (1999).
    """
    k = a.shape[-1]
    if k == 0 or a.lo.size == 0 or b.lo.size == 0:
        return point(a.lo @ b.lo)
    (a_mid, a_rad), (b_mid, b_rad) = _midpoint_radius(a), _midpoint_radius(b)
    centre = a_mid @ b_mid
    size = np.abs(a_mid) @ np.abs(b_mid)
    radius = gamma(k) * size
    if a_rad is not None:
        radius = radius + a_rad @ (np.abs(b_mid) if b_rad is None else np.abs(b_mid) + b_rad)
    if b_rad is not None:
        radius = radius + np.abs(a_mid) @ b_rad
    # the bound is itself rounded, and may have underflowed
    radius = np.where(radius == 0, 0.0, radius * (1 + 4 * gamma(k)) + 4 * k * TINY)
    if _least((a_mid, a_rad)) * _least((b_mid, b_rad)) < TINY:
        radius = radius + 4 * k * TINY
    return _checked(*around(centre, centre, radius))


def _midpoint_radius(a: Interval) -> tuple[np.ndarray, np.ndarray | None]:
    if a.lo is a.hi or np.array_equal(a.lo, a.hi):
        return a.lo, None
    mid = a.lo / 2 + a.hi / 2
    radius = np.nextafter(np.maximum(mid - a.lo, a.hi - mid), np.inf)
    return mid, np.where(a.lo == a.hi, 0.0, radius)


def _least(parts: Sequence[np.ndarray | None]) -> float:
    """The least nonzero size: products of two such may come out as 0."""
    sizes = [np.abs(x) for x in parts if x is not None]
    return min(float(np.min(x, where=x != 0, initial=np.inf)) for x in sizes)


def compare(name: str, a: Interval, b: Interval) -> Interval:
    """A comparison's truth: [certainly, possibly]."""
    if name in ("lt", "le"):
        return compare({"lt": "gt", "le": "ge"}[name], b, a)
    if name == "ne":
        same = compare("eq", a, b)
        return Interval(~same.hi, ~same.lo)
    if name == "gt":
        certain, possible = a.lo > b.hi, a.hi > b.lo
    elif name == "ge":
        certain, possible = a.lo >= b.hi, a.hi >= b.lo
    else:
        certain, possible = (a.lo == b.hi) & (a.hi == b.lo), (a.lo <= b.hi) & (a.hi >= b.lo)
    undefined = (a.lo != a.lo) | (b.lo != b.lo)
    return Interval(certain & ~undefined, possible | undefined)


def arb_map(fun: Callable[[Any], Any], a: Interval, trend: int) -> Interval:
    """An elementary function of python-flint's ``arb``, entry by entry.

    ``trend`` is +1 where the function increases, −1 where it decreases, on all of its domain; 0 has
    it evaluated on whole balls. Undefined (NaN) where ``arb`` gives no finite ball.
    """
    try:
        from flint import arb, ctx
    except ImportError as error:
        raise ImportError(
            "verified mode encloses exp, tanh and the like by python-flint, which is not installed: "
            "pip install 'conservax[verified]'"
        ) from error

    def ends(ball: Any) -> tuple[float, float]:
        if not ball.is_finite():
            return math.nan, math.nan
        lower, upper = ball.lower(), ball.upper()
        lo, hi = float(lower), float(upper)
        return (
            lo if arb(lo) == lower else math.nextafter(lo, -math.inf),
            hi if arb(hi) == upper else math.nextafter(hi, math.inf),
        )

    lo, hi = np.empty(a.shape), np.empty(a.shape)
    with ctx.workprec(90):
        for i in np.ndindex(a.shape):
            x, y = float(a.lo[i]), float(a.hi[i])
            if not (math.isfinite(x) and math.isfinite(y)):
                lo[i] = hi[i] = math.nan
            elif x == y:
                lo[i], hi[i] = ends(fun(arb(x)))
            elif trend:
                first, last = (x, y) if trend > 0 else (y, x)
                lo[i], hi[i] = ends(fun(arb(first)))[0], ends(fun(arb(last)))[1]
            else:
                lo[i], hi[i] = ends(fun(arb(x).union(arb(y))))
    return _checked(lo, hi)
