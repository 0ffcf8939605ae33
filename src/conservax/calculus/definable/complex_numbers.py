"""Operations on complex numbers: two reals each, of which no range and no expression is kept."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jax import numpy as jnp

from . import ranges as rg
from .dictionaries import join
from .walk import Known, Walk

# what is no polynomial of the real and the imaginary parts; all else is Lipschitz as for reals
_ENTIRE = set("exp exp2 expm1 sin cos sinh cosh".split())
_ALGEBRAIC = set("sqrt rsqrt cbrt div integer_pow sign sort".split())
_LOGARITHMS = {"log", "log1p"}
_MEROMORPHIC = set("pow tan tanh asin acos atan asinh acosh atanh logistic".split())
_OTHERS = _ENTIRE | _ALGEBRAIC | _LOGARITHMS | _MEROMORPHIC


def is_complex(aval: Any) -> bool:
    """Whether the entries are complex."""
    return bool(jnp.issubdtype(aval.dtype, np.complexfloating))


def needs_care(eqn: Any, values: Sequence[Known]) -> bool:
    """Whether the rule for reals does not hold for this operation on complex numbers."""
    name = eqn.primitive.name
    if name not in _OTHERS or not any(is_complex(v.aval) for v in eqn.invars):
        return False
    return name != "integer_pow" or eqn.params["y"] < 0


def complex_operation(walk: Walk, eqn: Any, values: Sequence[Known], where: Any) -> list[Known]:
    """exp, sin, … are entire, with a cos of the imaginary part; the others have poles, cuts or jumps."""
    name, base = eqn.primitive.name, walk.combined(values)
    own = "ALG" if name in _ALGEBRAIC else "AN_EXP" if name in _LOGARITHMS else "BOUNDED"
    if own == "BOUNDED":
        walk.outside_of(name, where, "of complex numbers it is definable on bounded sets only")
    faults = dict(base.faults)
    fixed = name == "div" and not values[1].varied  # by 0 it gives no number anywhere
    if name not in _ENTIRE and not fixed:
        why = "of complex numbers it has poles, cuts or jumps: that its operand avoids them was not shown"
        faults[walk.offence(name, where, why)] = None
    known = replace(base, dictionary=join(base.dictionary, own), faults=faults)
    return [replace(known, number=walk.expressions.opaque(v.aval.shape)) for v in eqn.outvars]


def without_order(walk: Walk, value: Known, shape: tuple[int, ...]) -> Known:
    """A complex result: the ranges and identities of the reals (x² ≥ 0) do not hold of it."""
    value = walk.whole(value)
    number = walk.expressions.opaque(shape)
    return replace(value, range=rg.ALL, number=number, rootable=False)
