"""O-minimal dictionaries, and where each operation is locally Lipschitz.

The dictionaries of Bolte, Le, Pauwels, Silveti-Falls (2021), Appendix A.2, with what JAX has beside:

    ALG ⊂ AN, EXP ⊂ AN_EXP ⊂ PFAFFIAN ⊂ BOUNDED ⊂ UNKNOWN

semialgebraic; with analytic functions on compact boxes; with exp and log; with both; with solutions of
Pfaffian equations (erf); definable on bounded sets only (sin); nothing known. A function analytic
around a compact box that holds its operand is in AN there, whatever it is elsewhere.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..operations.kinks import TABLE
from ..tracing.smooth import SMOOTH
from .ranges import Range

ORDER = ("ALG", "AN", "EXP", "AN_EXP", "PFAFFIAN", "BOUNDED", "UNKNOWN")
_EXACT_EXPONENTS = 8  # exponents that are multiples of 1/8 are roots of integer powers


def join(*names: str) -> str:
    """The least dictionary that holds all of these.

    >>> join("AN", "EXP"), join("ALG", "AN"), join()
    ('AN_EXP', 'AN', 'ALG')
    """
    if "AN" in names and "EXP" in names:
        names = (*names, "AN_EXP")
    return max(names, key=ORDER.index, default="ALG")


def dictionary(
    name: str, ranges: Sequence[Range], below: str, exponent: float | None, inside: bool
) -> str:
    """The dictionary that an operation adds to one in ``below``.

    ``inside`` says that the operands stay strictly within the operation's natural domain, where it is
    analytic; ``exponent`` is the constant exponent of a power.
    """
    own = SMOOTH.get(name) or (TABLE[name].dictionary if name in TABLE else "ALG")
    if name == "pow" and exponent is not None and exponent * _EXACT_EXPONENTS % 1 == 0:
        return "ALG"
    if own == "ALG" or not all(r.bounded for r in ranges):
        return own
    if name in ("floor", "ceil", "round", "truncate", "rem"):
        return "ALG"  # finitely many steps
    if inside and (own != "EXP" or below in ("ALG", "AN")):
        return "AN"
    return own


Good = Callable[..., Any]


def _everywhere(*_: Range) -> bool:
    return True


def _positive(a: Range, *_: Range) -> np.ndarray:
    return (a.lo > 0) | ((a.lo == 0) & a.above)


def _nonzero(a: Range) -> np.ndarray:
    return _positive(a) | (a.hi < 0) | ((a.hi == 0) & a.below)


def _within(low: float, high: float) -> Good:
    def good(a: Range) -> np.ndarray:
        over = (a.lo > low) | ((a.lo == low) & a.above)
        return over & ((a.hi < high) | ((a.hi == high) & a.below))

    return good


def _all_positive(*ranges: Range) -> Any:
    good: Any = True
    for a in ranges:
        good = good & _positive(a)
    return good


def _one_piece(fun: Callable[[Any], Any], ends_jump: bool) -> Good:
    """Whether a step function is constant on the range, and no jump touches it."""

    def good(a: Range) -> np.ndarray:
        bounded = np.isfinite(a.lo) & np.isfinite(a.hi)
        lo, hi = np.where(bounded, a.lo, 0.0), np.where(bounded, a.hi, 0.0)
        touches = (fun(lo) != fun(np.nextafter(lo, -np.inf))) & (not a.above or not ends_jump)
        return bounded & (fun(lo) == fun(hi)) & ~touches

    return good


def _tan(a: Range) -> np.ndarray:
    bounded = np.isfinite(a.lo) & np.isfinite(a.hi)
    lo, hi = np.where(bounded, a.lo, 0.0), np.where(bounded, a.hi, 9.0)
    pole = np.floor(lo / np.pi + 0.5) != np.floor(hi / np.pi + 0.5)
    return bounded & ~pole & (hi - lo < 3)


def _off_the_cut(y: Range, x: Range) -> np.ndarray:
    return _positive(x) | _nonzero(y)


def _rem(a: Range, b: Range) -> np.ndarray:
    if not (b.decided and np.all(b.lo != 0)):
        return np.zeros(np.broadcast_shapes(a.lo.shape, b.lo.shape), bool)
    with np.errstate(all="ignore"):
        turns = _one_piece(np.trunc, True)(Range(*sorted_ends(a, b)))
        small = (np.maximum(np.abs(a.lo), np.abs(a.hi)) < np.abs(b.lo)) & np.isfinite(a.lo)
    return turns | small


def sorted_ends(a: Range, b: Range) -> tuple[np.ndarray, np.ndarray]:
    """The ends of a/b for a known b ≠ 0."""
    low, high = a.lo / b.lo, a.hi / b.lo
    return np.minimum(low, high), np.maximum(low, high)


# operation: (where it is locally Lipschitz, given the ranges of its operands; what happens elsewhere)
DOMAINS: dict[str, tuple[Good, str]] = {
    "sqrt": (_positive, "the slope of the square root is unbounded at 0"),
    "rsqrt": (_positive, "1/√x is unbounded at 0"),
    "cbrt": (_nonzero, "the slope of the cube root is unbounded at 0"),
    "log": (_positive, "log is unbounded at 0"),
    "log1p": (_within(-1, np.inf), "log(1 + x) is unbounded at −1"),
    "asin": (_within(-1, 1), "the slope of asin is unbounded at ±1"),
    "acos": (_within(-1, 1), "the slope of acos is unbounded at ±1"),
    "atanh": (_within(-1, 1), "atanh is unbounded at ±1"),
    "acosh": (_within(1, np.inf), "the slope of acosh is unbounded at 1"),
    "erf_inv": (_within(-1, 1), "erf_inv is unbounded at ±1"),
    "tan": (_tan, "tan has poles"),
    "atan2": (_off_the_cut, "atan2 jumps where y = 0 and x ≤ 0"),
    "lgamma": (_positive, "lgamma is unbounded at 0, −1, −2, …"),
    "digamma": (_positive, "digamma is unbounded at 0, −1, −2, …"),
    "polygamma": (_all_positive, "polygamma is unbounded at 0, −1, −2, …"),
    "igamma": (_all_positive, "igamma is Lipschitz for positive arguments only"),
    "igammac": (_all_positive, "igammac is Lipschitz for positive arguments only"),
    "zeta": (
        lambda s, q: _within(1, np.inf)(s) & _positive(q),
        "zeta(s, q) is unbounded at s = 1 and q = 0",
    ),
    "regularized_incomplete_beta": (
        lambda a, b, x: _positive(a) & _positive(b) & _within(0, 1)(x),
        "the incomplete beta function has unbounded slopes at 0 and 1",
    ),
    "div": (lambda a, b: _nonzero(b), "the denominator can be 0"),
    "floor": (_one_piece(np.floor, True), "floor jumps"),
    "ceil": (_one_piece(lambda x: -np.floor(-x), True), "ceil jumps"),
    "round": (_one_piece(np.rint, True), "round jumps"),
    "truncate": (_one_piece(np.trunc, True), "the conversion to an integer jumps"),
    "rem": (_rem, "the remainder jumps"),
}
EVERYWHERE: tuple[Good, str] = (_everywhere, "")
