"""Rules of interval arithmetic for JAX's operations: the value on a box, and its derivative.

Derivatives are carried forward, one direction a row. A rule takes an equation and the nodes of its
operands; those that act entry by entry return (value, tangent, jumps) and can be re-evaluated at a
switch, which is how the branches of a where are shown to agree there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from ...errors import DiscontinuousError
from ..tracing.jaxprs import unsupported
from ..tracing.locations import locate
from . import intervals as iv
from .interval_functions import SMOOTH, exp, log
from .intervals import Interval

Part = tuple[Interval, Interval | None, np.ndarray | None]


@dataclass(frozen=True, eq=False)
class Node:
    """One value of the program on the box, with how it came about.

    ``tangent`` (directions, *shape) encloses its derivatives, None where it does not move; ``moving``
    says that it depends on the box; ``jumps`` marks the entries of a float that may jump in the box.
    """

    value: Interval
    tangent: Interval | None = None
    moving: bool = False
    eqn: Any = None
    parents: tuple["Node", ...] = ()
    jumps: np.ndarray | None = None

    @property
    def open(self) -> bool:
        """Whether a condition on the box could go either way, or a jump stands in it."""
        if self.jumps is not None:
            return True
        return self.moving and not self.value.is_float and bool(np.any(self.value.undecided))


def jump(eqn: Any, what: str) -> DiscontinuousError:
    """The refusal: a jump that the box may hold."""
    return DiscontinuousError(
        f"{locate(eqn)}: {what} ('{eqn.primitive.name}') is not decided on the box, so the program may "
        "jump inside it. Move the point away from the switch, or write the line with max, min or abs."
    )


def tangent_of(node: Node, n: int) -> Interval:
    """The tangent in n directions, zero where the node does not move."""
    if node.tangent is not None:
        return node.tangent
    return iv.point(np.zeros((n, *node.value.shape)))


def _scaled(slope: Interval, tangent: Interval | None) -> Interval | None:
    return None if tangent is None else iv.multiply(slope, tangent)


def _sum(parts: Sequence[Interval | None]) -> Interval | None:
    there = [p for p in parts if p is not None]
    return None if not there else there[0] if len(there) == 1 else iv.add(*there)


def _whole(eqn: Any, nodes: Sequence[Node]) -> None:
    if any(n.open for n in nodes):
        raise jump(eqn, "a value that jumps")


def _smooth(eqn: Any, nodes: list[Node]) -> Part:
    _whole(eqn, nodes)
    value, slope = SMOOTH[eqn.primitive.name]
    (a,) = nodes
    v = value(a.value)
    return v, None if a.tangent is None else iv.multiply(slope(a.value, v), a.tangent), None


def _same(eqn: Any, nodes: list[Node]) -> Part:
    return nodes[0].value, nodes[0].tangent, nodes[0].jumps


def _add(eqn: Any, nodes: list[Node]) -> Part:
    _whole(eqn, nodes)
    a, b = nodes
    shape = eqn.outvars[0].aval.shape
    tangent = _sum([spread(n.tangent, shape) for n in nodes])
    return iv.add(a.value, b.value), tangent, None


def _sub(eqn: Any, nodes: list[Node]) -> Part:
    _whole(eqn, nodes)
    a, b = nodes
    negative = None if b.tangent is None else iv.negate(b.tangent)
    shape = eqn.outvars[0].aval.shape
    value = iv.point(np.zeros(shape)) if a is b else iv.subtract(a.value, b.value)
    return value, _sum([spread(a.tangent, shape), spread(negative, shape)]), None


def spread(tangent: Interval | None, shape: tuple[int, ...]) -> Interval | None:
    """A scalar's tangent, ready to meet one of this shape."""
    if tangent is None or len(tangent.shape) == len(shape) + 1:
        return tangent
    return tangent.map(lambda t: t.reshape((-1, *(1,) * len(shape))))


def _mul(eqn: Any, nodes: list[Node]) -> Part:
    a, b = nodes
    for one, other in ((a, b), (b, a)):
        if one.open:
            # 0 times a jump does not jump; whatever else meets one may
            at = True if one.jumps is None else one.jumps
            null = (other.value.lo == 0) & (other.value.hi == 0)
            if other.open or np.any(at & ~null):
                raise jump(eqn, "a factor that jumps")
    shape = eqn.outvars[0].aval.shape
    value = iv.square(a.value) if a is b else iv.multiply(a.value, b.value)
    parts = [_scaled(b.value, spread(a.tangent, shape)), _scaled(a.value, spread(b.tangent, shape))]
    return value, _sum(parts), None


def _div(eqn: Any, nodes: list[Node]) -> Part:
    _whole(eqn, nodes)
    a, b = nodes
    shape = eqn.outvars[0].aval.shape
    value = iv.divide(a.value, b.value)
    top = _sum([spread(a.tangent, shape), _scaled(iv.negate(value), spread(b.tangent, shape))])
    return value, None if top is None else iv.divide(top, b.value), None


def _integer_pow(eqn: Any, nodes: list[Node]) -> Part:
    _whole(eqn, nodes)
    (a,), k = nodes, eqn.params["y"]
    slope = iv.multiply(iv.point(float(k)), iv.integer_power(a.value, k - 1 if k else 0))
    return iv.integer_power(a.value, k), _scaled(slope, a.tangent), None


def _pow(eqn: Any, nodes: list[Node]) -> Part:
    _whole(eqn, nodes)
    a, b = nodes
    k = b.value.lo.flat[0] if b.value.lo.size else 0.0
    whole = np.isfinite(k) and k == int(k) and np.all(b.value.lo == k) and np.all(b.value.hi == k)
    if whole and b.tangent is None:
        slope = iv.multiply(iv.point(float(k)), iv.integer_power(a.value, int(k) - 1 if k else 0))
        return iv.integer_power(a.value, int(k)), _scaled(slope, a.tangent), None
    shape = eqn.outvars[0].aval.shape
    base, exponent = (
        n.value if n.value.is_float else n.value.map(lambda v: v.astype(np.float64)) for n in nodes
    )
    value = exp(iv.multiply(exponent, log(base)))
    in_base = _scaled(iv.divide(iv.multiply(exponent, value), base), spread(a.tangent, shape))
    in_exponent = _scaled(iv.multiply(value, log(base)), spread(b.tangent, shape))
    return value, _sum([in_base, in_exponent]), None


def _extremum(eqn: Any, nodes: list[Node]) -> Part:
    _whole(eqn, nodes)
    a, b = nodes
    if eqn.primitive.name == "max":
        value, truth = iv.maximum(a.value, b.value), beats(a.value, b.value)
    else:
        value, truth = iv.minimum(a.value, b.value), beats(b.value, a.value)
    return value, picked(truth, b, a, value.shape), None


def beats(a: Interval, b: Interval) -> Interval:
    """Whether a > b: certain when strictly so, possible when they touch."""
    return Interval(iv.compare("gt", a, b).lo, iv.compare("ge", a, b).hi)


def picked(truth: Interval, no: Node, yes: Node, shape: tuple[int, ...]) -> Interval | None:
    """The tangent of ``yes`` where the truth is certain, of ``no`` where it is excluded, or the hull."""
    known = [n.tangent.shape[0] for n in (no, yes) if n.tangent is not None]
    if not known:
        return None
    first, second = (spread(tangent_of(n, known[0]), shape) for n in (no, yes))
    assert first is not None
    assert second is not None
    out = iv.choose(truth.lo, second, iv.choose(truth.hi, iv.hull([first, second]), first))
    return out.map(lambda t: np.broadcast_to(t, (known[0], *shape)))


def _clamp(eqn: Any, nodes: list[Node]) -> Part:
    _whole(eqn, nodes)
    low, x, high = nodes
    raised = iv.maximum(low.value, x.value)
    shape = raised.shape
    inner = Node(raised, picked(beats(x.value, low.value), low, x, shape))
    truth = beats(high.value, inner.value)
    return iv.minimum(raised, high.value), picked(truth, high, inner, shape), None


def _abs(eqn: Any, nodes: list[Node]) -> Part:
    _whole(eqn, nodes)
    (a,) = nodes
    if not a.value.is_float:
        return a.value.map(np.abs), None, None
    slope = Interval(np.where(a.value.lo > 0, 1.0, -1.0), np.where(a.value.hi < 0, -1.0, 1.0))
    return iv.absolute(a.value), _scaled(slope, a.tangent), None


def _step_function(fun: Callable[[np.ndarray], np.ndarray]) -> Callable[[Any, list[Node]], Part]:
    """Floor, sign, …: constant on pieces; what the box leaves open jumps."""

    def rule(eqn: Any, nodes: list[Node]) -> Part:
        _whole(eqn, nodes)
        (a,) = nodes
        value = a.value.map(fun)
        return value, None, value.undecided if a.moving and np.any(value.undecided) else None

    return rule


def _round(eqn: Any, nodes: list[Node]) -> Part:
    if int(eqn.params["rounding_method"]) == 0:  # away from zero
        return _step_function(lambda v: np.copysign(np.floor(np.abs(v) + 0.5), v))(eqn, nodes)
    return _step_function(np.rint)(eqn, nodes)


def _convert(eqn: Any, nodes: list[Node]) -> Part:
    (a,) = nodes
    dtype = eqn.params["new_dtype"]
    if jnp.issubdtype(dtype, jnp.floating):
        if a.value.is_float:
            return a.value, a.tangent, a.jumps
        if a.value.lo.dtype != np.bool_ and np.any(
            np.abs(a.value.lo.astype(np.float64)) >= 2.0**53
        ):
            raise unsupported("an integer beyond 2⁵³ on intervals", locate(eqn))
        value = a.value.map(lambda v: v.astype(np.float64))
        return value, None, value.undecided if a.open else None
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise unsupported("complex numbers on intervals", locate(eqn))
    if a.value.is_float:
        if dtype == np.bool_:
            truth = iv.compare("ne", a.value, iv.point(0.0))
            return truth, None, None
        _whole(eqn, nodes)
        value = a.value.map(np.trunc)
        if np.any(value.undecided):
            raise jump(eqn, "an integer made from a real number")
        return value.map(lambda v: v.astype(dtype)), None, None
    if dtype != np.bool_ and np.any(a.value.undecided):
        raise jump(eqn, "an integer made from a comparison")
    return a.value.map(lambda v: v.astype(dtype)), None, None


def _compare(eqn: Any, nodes: list[Node]) -> Part:
    if any(n.jumps is not None for n in nodes):
        raise jump(eqn, "a value that jumps")
    a, b = nodes
    name = eqn.primitive.name
    if a is b and a.value.is_float:  # x != x asks for NaN, which a real number is not
        truth = np.broadcast_to(name in ("eq", "ge", "le"), a.value.shape)
        undefined = np.isnan(a.value.lo)
        return Interval(truth & ~undefined, truth | undefined), None, None
    if name.endswith("_to"):  # the total order tells −0 from 0, which the reals do not
        truth = iv.compare(name.removesuffix("_to"), a.value, b.value)
        zeros = (a.value.lo <= 0) & (0 <= a.value.hi) & (b.value.lo <= 0) & (0 <= b.value.hi)
        return Interval(truth.lo & ~zeros, truth.hi | zeros), None, None
    if not (a.moving or b.moving) or name in ("eq", "ne"):
        return iv.compare(name, a.value, b.value), None, None
    # a box that only touches the switch leaves it open: the kink there is one of the program's
    return beats(*((a.value, b.value) if name[0] == "g" else (b.value, a.value))), None, None


def _is_finite(eqn: Any, nodes: list[Node]) -> Part:
    finite = np.isfinite(nodes[0].value.lo) & np.isfinite(nodes[0].value.hi)
    return Interval(finite, np.ones(finite.shape, bool)), None, None


def _boolean(fun: Callable[..., np.ndarray]) -> Callable[[Any, list[Node]], Part]:
    def rule(eqn: Any, nodes: list[Node]) -> Part:
        ends = [n.value for n in nodes]
        return Interval(fun(*(e.lo for e in ends)), fun(*(e.hi for e in ends))), None, None

    return rule


def _not(eqn: Any, nodes: list[Node]) -> Part:
    lo, hi = nodes[0].value
    return Interval(~hi, ~lo), None, None


def _select(eqn: Any, nodes: list[Node]) -> Part:
    which, *cases = nodes
    whole = not cases[0].value.is_float and cases[0].value.lo.dtype != np.bool_
    if any(c.jumps is not None for c in cases) or (whole and np.any(which.value.undecided)):
        raise jump(eqn, "a value that jumps")
    if which.value.lo.dtype != np.bool_:
        if np.any(which.value.undecided):
            raise jump(eqn, "which case is taken")
        masks = [which.value.lo == i for i in range(len(cases))]
    else:
        masks = [~which.value.lo, which.value.hi]
        if len(cases) == 1:
            masks = [np.ones_like(which.value.lo)]
    shape = eqn.outvars[0].aval.shape
    masks = [np.broadcast_to(m, shape) for m in masks]
    values = [c.value for c in cases]
    value = _hull_of(masks, values, 0)
    known = [c.tangent.shape[0] for c in cases if c.tangent is not None]
    tangent = None
    if known:
        tangent = _hull_of(masks, [tangent_of(c, known[0]) for c in cases], 1)
    is_float = cases[0].value.is_float
    if is_float and which.open and not _branches_agree(which, cases, np.logical_and.reduce(masks)):
        raise jump(eqn, "a where whose branches could not be shown to agree at its switch")
    return value, tangent, None


def _hull_of(masks: Sequence[np.ndarray], cases: Sequence[Interval], lead: int) -> Interval:
    """Entry by entry the hull of the cases whose mask holds there."""
    out = None
    taken = np.zeros_like(masks[0])
    for mask, case in zip(masks, cases, strict=True):
        out = (
            case
            if out is None
            else iv.choose(mask & taken, iv.hull([out, case]), iv.choose(mask & ~taken, case, out))
        )
        taken = taken | mask
    assert out is not None
    return out


def _branches_agree(which: Node, cases: Sequence[Node], doubtful: np.ndarray) -> bool:
    """Whether the two branches are equal wherever the condition can switch, entry by entry.

    Shown in two cases: the condition compares the very two branches; or it compares a value u with
    a constant c, and both branches, re-evaluated from u = c entry by entry, are one exact number.
    """
    while which.eqn is not None and which.eqn.primitive.name == "not":
        which = which.parents[0]
    if which.eqn is None or which.eqn.primitive.name not in ("gt", "ge", "lt", "le"):
        return False
    left, right = which.parents
    if {id(left), id(right)} == {id(c) for c in cases}:
        return True
    base, level = (left, right) if left.moving else (right, left)
    if level.moving or np.any(level.value.undecided) or base.value.shape != doubtful.shape:
        return False
    constant = level.value.map(lambda v: np.broadcast_to(v, base.value.shape))
    known = {id(base): constant}
    try:
        ends = [_at_switch(c, base.value.shape, known) for c in cases]
    except RecursionError:  # a branch too deep to follow back
        return False
    same = (ends[0].lo == ends[1].hi) & (ends[0].hi == ends[1].lo)
    return bool(np.all(same | ~doubtful))


def _at_switch(node: Node, shape: tuple[int, ...], known: dict[int, Interval]) -> Interval:
    """The value of a node with some values set, followed through operations entry by entry only."""
    if id(node) in known:
        return known[id(node)]
    value = node.value
    if (
        node.moving
        and node.eqn is not None
        and node.eqn.primitive.name in ELEMENTWISE
        and value.shape == shape
        and all(p.value.shape == shape or not p.moving for p in node.parents)
    ):
        parents = [
            Node(_at_switch(p, shape, known), eqn=p.eqn, parents=p.parents) for p in node.parents
        ]
        value = ELEMENTWISE[node.eqn.primitive.name](node.eqn, parents)[0]
    known[id(node)] = value
    return value


ELEMENTWISE: dict[str, Callable[[Any, list[Node]], Part]] = {
    **dict.fromkeys(SMOOTH, _smooth),
    **dict.fromkeys(("copy", "copy_p", "stop_gradient", "name", "device_put"), _same),
    **dict.fromkeys(("gt", "ge", "lt", "le", "eq", "ne", "lt_to", "le_to", "eq_to"), _compare),
    **dict.fromkeys(("max", "min"), _extremum),
    "add": _add,
    "add_any": _add,
    "sub": _sub,
    "mul": _mul,
    "div": _div,
    "integer_pow": _integer_pow,
    "pow": _pow,
    "clamp": _clamp,
    "abs": _abs,
    "sign": _step_function(np.sign),
    "floor": _step_function(np.floor),
    "ceil": _step_function(np.ceil),
    "round": _round,
    "convert_element_type": _convert,
    "is_finite": _is_finite,
    "and": _boolean(np.bitwise_and),
    "or": _boolean(np.bitwise_or),
    "not": _not,
    "select_n": _select,
}
