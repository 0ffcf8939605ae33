"""Elementary functions on intervals: each with its slope over the interval, from python-flint."""

from collections.abc import Callable

from . import intervals as iv
from .intervals import Interval


def _arb(name: str, trend: int) -> Callable[[Interval], Interval]:
    return lambda a: iv.arb_map(lambda ball: getattr(ball, name)(), a, trend)


_ONE, _TWO = iv.point(1.0), iv.point(2.0)
exp, _cosh, _sinh = _arb("exp", 1), _arb("cosh", 0), _arb("sinh", 1)
log, _sin, _cos = _arb("log", 1), _arb("sin", 0), _arb("cos", 0)


def _ln2() -> Interval:
    return log(_TWO)


def _exp2(a: Interval) -> Interval:
    from flint import arb

    return iv.arb_map(lambda ball: arb(2) ** ball, a, 1)


def _logistic(a: Interval) -> Interval:
    return iv.arb_map(lambda ball: 1 / (1 + (-ball).exp()), a, 1)


def _gauss(a: Interval) -> Interval:
    """2 exp(−a²)/√π, the derivative of erf."""
    from flint import arb

    root = iv.arb_map(lambda ball: 2 / ball.sqrt(), iv.arb_map(lambda b: arb.pi() * b, _ONE, 1), -1)
    return iv.multiply(root, exp(iv.negate(iv.square(a))))


def _root_of(sign: int, one: int) -> Callable[[Interval, Interval], Interval]:
    """1/√(one + sign·a²)."""
    return lambda a, v: iv.divide(
        _ONE,
        iv.sqrt(
            iv.add(iv.point(float(one)), iv.square(a) if sign > 0 else iv.negate(iv.square(a)))
        ),
    )


# value of a, and slope from a and the value
SMOOTH: dict[
    str, tuple[Callable[[Interval], Interval], Callable[[Interval, Interval], Interval]]
] = {
    "neg": (iv.negate, lambda a, v: iv.point(-1.0)),
    "square": (iv.square, lambda a, v: iv.multiply(_TWO, a)),
    "sqrt": (iv.sqrt, lambda a, v: iv.divide(_ONE, iv.multiply(_TWO, v))),
    "rsqrt": (
        lambda a: iv.divide(_ONE, iv.sqrt(a)),
        lambda a, v: iv.divide(iv.multiply(iv.point(-0.5), v), a),
    ),
    "exp": (exp, lambda a, v: v),
    "exp2": (_exp2, lambda a, v: iv.multiply(v, _ln2())),
    "log": (log, lambda a, v: iv.divide(_ONE, a)),
    "log1p": (_arb("log1p", 1), lambda a, v: iv.divide(_ONE, iv.add(_ONE, a))),
    "expm1": (_arb("expm1", 1), lambda a, v: exp(a)),
    "sin": (_sin, lambda a, v: _cos(a)),
    "cos": (_cos, lambda a, v: iv.negate(_sin(a))),
    "tan": (_arb("tan", 0), lambda a, v: iv.add(_ONE, iv.square(v))),
    "tanh": (_arb("tanh", 1), lambda a, v: iv.subtract(_ONE, iv.square(v))),
    "logistic": (_logistic, lambda a, v: iv.multiply(v, iv.subtract(_ONE, v))),
    "sinh": (_sinh, lambda a, v: _cosh(a)),
    "cosh": (_cosh, lambda a, v: _sinh(a)),
    "asin": (_arb("asin", 1), _root_of(-1, 1)),
    "acos": (_arb("acos", -1), lambda a, v: iv.negate(_root_of(-1, 1)(a, v))),
    "atan": (_arb("atan", 1), lambda a, v: iv.divide(_ONE, iv.add(_ONE, iv.square(a)))),
    "asinh": (_arb("asinh", 1), _root_of(1, 1)),
    "acosh": (_arb("acosh", 1), _root_of(1, -1)),
    "atanh": (_arb("atanh", 1), lambda a, v: iv.divide(_ONE, iv.subtract(_ONE, iv.square(a)))),
    "erf": (_arb("erf", 1), lambda a, v: _gauss(a)),
    "erfc": (_arb("erfc", -1), lambda a, v: iv.negate(_gauss(a))),
}
