"""Where the values of a program can lie: ranges with open ends, for a box of inputs or for all of ℝⁿ.

A range holds, entry by entry or as one hull for all entries (shape ()), bounds on a value and
whether each bound can be attained: exp(x) > 0 although its infimum is 0. Unlike the enclosures in
``intervals.py`` it carries no derivative, bears infinite bounds through every operation, and is cheap.
Every bound is widened by a few units in the last place, so that it holds over the real numbers.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

_LARGEST = 1 << 18  # entries; a larger array is kept as one hull
_TINY = float(np.finfo(np.float64).tiny)
_ULPS = 4 * float(np.finfo(np.float64).eps)


class Range(NamedTuple):
    """lo ≤ x ≤ hi; ``above``: lo is attained by no entry; ``below``: nor is hi."""

    lo: np.ndarray
    hi: np.ndarray
    above: bool = False
    below: bool = False

    @property
    def decided(self) -> bool:
        """Whether every entry is one number."""
        return bool(np.all(self.lo == self.hi))

    @property
    def bounded(self) -> bool:
        return bool(np.all(np.isfinite(self.lo)) and np.all(np.isfinite(self.hi)))

    def exceeds(self, level: float, or_equal: bool = False) -> bool:
        """Whether all values are > level (≥ with ``or_equal``)."""
        least = np.min(self.lo, initial=np.inf)
        return bool(least > level or (least == level and (self.above or or_equal)))

    def under(self, level: float, or_equal: bool = False) -> bool:
        """Whether all values are < level (≤ with ``or_equal``)."""
        most = np.max(self.hi, initial=-np.inf)
        return bool(most < level or (most == level and (self.below or or_equal)))

    def avoids(self, level: float) -> bool:
        """Whether every entry stays on one side of the level, strictly."""
        over = (self.lo > level) | ((self.lo == level) & self.above)
        beneath = (self.hi < level) | ((self.hi == level) & self.below)
        return bool(np.all(over | beneath))


ALL = Range(np.array(-np.inf), np.array(np.inf))


def point(value: Any) -> Range:
    """The range of one known array."""
    array = np.asarray(value)
    if array.dtype.kind == "c":
        return ALL
    if array.dtype.kind not in "biuf":
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError):
            return ALL
    array = array.astype(np.float64)
    if not np.all(np.isfinite(array)):
        lo, hi = np.nan_to_num(array, nan=-np.inf), np.nan_to_num(array, nan=np.inf)
        return hulled(Range(lo, np.where(np.isnan(array), np.inf, hi)))
    return hulled(Range(array, array)) if array.size > _LARGEST else Range(array, array)


def hulled(x: Range) -> Range:
    """One interval for all entries."""
    if x.lo.shape == ():
        return x
    lo, hi = np.min(x.lo, initial=np.inf), np.max(x.hi, initial=-np.inf)
    return Range(np.asarray(lo), np.asarray(hi), x.above, x.below) if x.lo.size else ALL


def around(value: np.ndarray, radius: float) -> Range:
    """The box of half-width ``radius`` about an array; all of ℝ for an infinite radius."""
    if np.isinf(radius):
        return ALL
    value = np.asarray(value, np.float64)
    return Range(value - radius, value + radius)


def union(ranges: Sequence[Range]) -> Range:
    """The least range that holds them all."""

    def two(a: Range, b: Range) -> Range:
        if a.lo.shape != b.lo.shape:
            a, b = hulled(a), hulled(b)
        lo, hi = np.minimum(a.lo, b.lo), np.maximum(a.hi, b.hi)
        met_lo = (not a.above and np.any(a.lo == lo)) or (not b.above and np.any(b.lo == lo))
        met_hi = (not a.below and np.any(a.hi == hi)) or (not b.below and np.any(b.hi == hi))
        return Range(lo, hi, not met_lo, not met_hi)

    return functools.reduce(two, ranges)


def widened(old: Range, new: Range) -> Range:
    """``new``, with every bound that still moves sent to infinity: loops end."""
    old, new = hulled(old), hulled(new)
    lo = np.where(new.lo < old.lo, -np.inf, new.lo)
    hi = np.where(new.hi > old.hi, np.inf, new.hi)
    return Range(lo, hi, new.above and bool(np.isfinite(lo)), new.below and bool(np.isfinite(hi)))


def _out(lo: Any, hi: Any, above: bool = False, below: bool = False) -> Range:
    """Rounded outward, bounds that are no numbers dropped."""
    lo, hi = np.asarray(lo, np.float64), np.asarray(hi, np.float64)
    with np.errstate(all="ignore"):
        lo = np.where(np.isnan(lo), -np.inf, lo)
        hi = np.where(np.isnan(hi), np.inf, hi)
        low, high = lo - _ULPS * np.abs(lo), hi + _ULPS * np.abs(hi)
    return Range(
        np.where(np.isfinite(lo), low, lo), np.where(np.isfinite(hi), high, hi), above, below
    )


def _ends(x: Range) -> tuple[bool, bool]:
    """Whether the ends are open; infinite ones always are."""
    return (
        x.above or bool(np.all(np.isinf(x.lo))),
        x.below or bool(np.all(np.isinf(x.hi))),
    )


def add(a: Range, b: Range) -> Range:
    """a + b."""
    exact = np.all(a.lo + b.lo - a.lo == b.lo) and np.all(a.hi + b.hi - b.hi == a.hi)
    lo, hi = a.lo + b.lo, a.hi + b.hi
    made = Range(lo, hi) if exact and np.all(np.isfinite(lo) & np.isfinite(hi)) else _out(lo, hi)
    return made._replace(above=a.above or b.above, below=a.below or b.below)


def neg(a: Range) -> Range:
    """−a."""
    return Range(-a.hi, -a.lo, a.below, a.above)


def mul(a: Range, b: Range) -> Range:
    """a b."""
    with np.errstate(all="ignore"):
        ends = [np.asarray(x * y) for x in (a.lo, a.hi) for y in (b.lo, b.hi)]
    ends = [np.where(np.isnan(e), 0.0, e) for e in ends]  # 0 · ∞ is 0 among bounds
    lo, hi = functools.reduce(np.minimum, ends), functools.reduce(np.maximum, ends)
    positive = all(x.exceeds(0) for x in (a, b)) or all(x.under(0) for x in (a, b))
    negative = (a.exceeds(0) and b.under(0)) or (a.under(0) and b.exceeds(0))
    above, below = positive and bool(np.all(lo == 0)), negative and bool(np.all(hi == 0))
    small_a = a.exceeds(-1) and a.under(1) and bool(np.all((a.lo >= -1) & (a.hi <= 1)))
    if positive and small_a and b.under(1) and bool(np.all(hi == 1)):
        below = True
    return _out(lo, hi, above, below)


def square(a: Range) -> Range:
    """a²."""
    above, below = _ends(a)
    lo = np.where(a.lo > 0, a.lo**2, np.where(a.hi < 0, a.hi**2, 0.0))
    hi = np.maximum(a.lo**2, a.hi**2)
    open_hi = bool(np.all(np.where(-a.lo >= a.hi, above, below))) and (
        not np.any(-a.lo == a.hi) or (above and below)
    )
    strictly = a.avoids(0) and bool(np.all(lo == 0))
    return _out(lo, hi, strictly, open_hi)


def reciprocal(a: Range) -> Range:
    """1/a; all of ℝ where a can be 0."""
    if not a.avoids(0):
        return ALL
    above, below = _ends(a)
    with np.errstate(all="ignore"):
        lo = np.where(a.hi == 0, -np.inf, 1 / np.where(a.hi == 0, 1, a.hi))
        hi = np.where(a.lo == 0, np.inf, 1 / np.where(a.lo == 0, 1, a.lo))
    return _out(lo, hi, below, above)


def integer_power(a: Range, k: int) -> Range:
    """a^k."""
    if k < 0:
        return reciprocal(integer_power(a, -k))
    if k == 0:
        return point(1.0)
    if k == 2:
        return square(a)
    above, below = _ends(a)
    with np.errstate(all="ignore"):
        if k % 2:
            return _out(a.lo**k, a.hi**k, above, below)
        even = square(a)
        return _out(even.lo ** (k // 2), even.hi ** (k // 2), even.above, even.below)


def maximum(a: Range, b: Range) -> Range:
    """max(a, b)."""
    lo, hi = np.maximum(a.lo, b.lo), np.maximum(a.hi, b.hi)
    # the larger of two numbers exceeds lo if the operand that has the larger bound does
    above = (a.above and bool(np.all(a.lo >= b.lo))) or (b.above and bool(np.all(b.lo >= a.lo)))
    return Range(lo, hi, above, a.below and b.below)


def minimum(a: Range, b: Range) -> Range:
    """min(a, b)."""
    return neg(maximum(neg(a), neg(b)))


def absolute(a: Range) -> Range:
    """|a|."""
    above, below = _ends(a)
    lo = np.where(a.lo > 0, a.lo, np.where(a.hi < 0, -a.hi, 0.0))
    return Range(
        lo, np.maximum(-a.lo, a.hi), a.avoids(0) and bool(np.all(lo == 0)), above and below
    )


def monotone(
    fun: Callable[[Any], Any], a: Range, least: float, most: float, sign: int = 1
) -> Range:
    """A strictly monotone function with values between ``least`` and ``most``."""
    above, below = _ends(a)
    with np.errstate(all="ignore"):
        ends = np.asarray(fun(a.lo)), np.asarray(fun(a.hi))
    lo, hi = ends if sign > 0 else ends[::-1]
    if sign < 0:
        above, below = below, above
    made = _out(lo, hi, above, below)
    # the limits are attained by no number, whatever rounding says
    at_least, at_most = np.all(made.lo <= least), np.all(made.hi >= most)
    lo, hi = np.maximum(made.lo, least), np.minimum(made.hi, most)
    if math.isfinite(least):  # what is rounded to a limit lies beside it
        hi = np.maximum(hi, least + max(_TINY, _ULPS * abs(least)))
    if math.isfinite(most):
        lo = np.minimum(lo, most - max(_TINY, _ULPS * abs(most)))
    return Range(
        lo,
        hi,
        made.above or bool(at_least) or bool(np.all(lo == least)),
        made.below or bool(at_most) or bool(np.all(hi == most)),
    )


def dot(a: Range, b: Range, terms: int) -> Range:
    """A sum of ``terms`` products, as one hull."""
    if terms == 0:
        return point(0.0)
    one = mul(hulled(a), hulled(b))
    return total(one, terms)


def total(a: Range, terms: int) -> Range:
    """A sum of ``terms`` values of one hull."""
    one = hulled(a)
    if terms == 0:
        return point(0.0)
    slack = 1 + terms * _ULPS
    with np.errstate(all="ignore"):
        lo = np.where(one.lo < 0, one.lo * terms * slack, one.lo * terms / slack)
        hi = np.where(one.hi > 0, one.hi * terms * slack, one.hi * terms / slack)
    return _out(lo, hi, one.above, one.below)


def reduced(name: str, a: Range, axes: tuple[int, ...]) -> Range:
    """Sums, maxima and minima over axes, entry by entry of what is left."""
    if name != "reduce_sum":
        fun = np.max if name == "reduce_max" else np.min
        empty = -np.inf if name == "reduce_max" else np.inf
        return Range(fun(a.lo, axis=axes, initial=empty), fun(a.hi, axis=axes, initial=empty))
    terms = max(1, a.lo.size)
    low, high = np.sum(a.lo, axis=axes), np.sum(a.hi, axis=axes)
    with np.errstate(all="ignore"):
        low = low - terms * _ULPS * np.sum(np.abs(a.lo), axis=axes)
        high = high + terms * _ULPS * np.sum(np.abs(a.hi), axis=axes)
    low = np.where(np.all(a.lo >= 0, axis=axes), np.maximum(low, 0), low)
    return _out(low, high, a.above, a.below)


def _inside(fun: Callable[[Any], Any], least: float, most: float) -> Callable[[Any], Any]:
    return lambda x: fun(np.clip(x, least, most))


def _logistic(x: Any) -> Any:
    small = np.exp(-np.abs(x))
    return np.where(np.asarray(x) < 0, small, 1.0) / (1 + small)


def _of_floats(fun: Callable[[float], float]) -> Callable[[Any], Any]:
    return np.vectorize(fun, otypes=[float])


_INF = np.inf
# function, infimum, supremum, direction
MONOTONE: dict[str, tuple[Callable[[Any], Any], float, float, int]] = {
    "exp": (np.exp, 0.0, _INF, 1),
    "exp2": (np.exp2, 0.0, _INF, 1),
    "expm1": (np.expm1, -1.0, _INF, 1),
    "log": (_inside(np.log, 0, _INF), -_INF, _INF, 1),
    "log1p": (_inside(np.log1p, -1, _INF), -_INF, _INF, 1),
    "tanh": (np.tanh, -1.0, 1.0, 1),
    "logistic": (_logistic, 0.0, 1.0, 1),
    "sinh": (np.sinh, -_INF, _INF, 1),
    "atan": (np.arctan, -np.pi / 2, np.pi / 2, 1),
    "asinh": (np.arcsinh, -_INF, _INF, 1),
    "atanh": (_inside(np.arctanh, -1, 1), -_INF, _INF, 1),
    "cbrt": (np.cbrt, -_INF, _INF, 1),
    "erf": (_of_floats(math.erf), -1.0, 1.0, 1),
    "erfc": (_of_floats(math.erfc), 0.0, 2.0, -1),
}
_CONSTANT_BOUNDS = {
    "sin": (-1.0, 1.0),
    "cos": (-1.0, 1.0),
    "bessel_i0e": (0.0, 1.0),
    "bessel_i1e": (-1.0, 1.0),
}


def elementary(name: str, a: Range) -> Range | None:
    """The range of a unary operation, None where nothing is known."""
    if name in MONOTONE:
        return monotone(MONOTONE[name][0], a, *MONOTONE[name][1:])
    if name == "sqrt":
        root = monotone(_inside(np.sqrt, 0, _INF), a, -_INF, _INF)
        return root._replace(lo=np.maximum(root.lo, 0.0), above=a.exceeds(0))
    if name == "rsqrt":
        root = elementary("sqrt", a)
        return reciprocal(root) if root is not None and a.exceeds(0) else ALL
    if name in _CONSTANT_BOUNDS:
        if a.decided and name in ("sin", "cos"):
            value = getattr(np, name)(a.lo)
            return _out(value, value)
        low, high = _CONSTANT_BOUNDS[name]
        return Range(np.full(a.lo.shape, low), np.full(a.lo.shape, high))
    if name == "cosh":
        even = absolute(a)
        return monotone(np.cosh, even, 1.0, _INF)._replace(above=False)
    if name == "asin":
        return monotone(_inside(np.arcsin, -1, 1), a, -_INF, _INF)
    if name == "acos":
        return monotone(_inside(np.arccos, -1, 1), a, -_INF, _INF, -1)
    if name == "acosh":
        return monotone(_inside(np.arccosh, 1, _INF), a, -_INF, _INF)
    if name in ("floor", "ceil", "round", "sign"):
        fun = {"floor": np.floor, "ceil": np.ceil, "round": np.rint, "sign": np.sign}[name]
        lo = fun(a.lo)
        if name in ("floor", "sign") and a.above and name == "sign":
            lo = np.where(a.lo == 0, 1.0, lo)
        hi = fun(a.hi)
        if name == "sign" and a.below:
            hi = np.where(a.hi == 0, -1.0, hi)
        return Range(np.asarray(lo), np.asarray(hi))
    return None
