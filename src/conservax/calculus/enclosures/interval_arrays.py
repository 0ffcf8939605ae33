"""Rules of interval arithmetic for operations on whole arrays: moving entries, sums, products, order."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import jax
import numpy as np

from . import intervals as iv
from .interval_rules import ELEMENTWISE, Node, jump, tangent_of
from .intervals import Interval


def _result(
    eqn: Any, nodes: Sequence[Node], value: Interval, tangent: Interval | None = None
) -> list[Node]:
    return [Node(value, tangent, any(n.moving for n in nodes), eqn, tuple(nodes))]


def _directions(nodes: Sequence[Node]) -> int | None:
    return next((n.tangent.shape[0] for n in nodes if n.tangent is not None), None)


def _structural(eqn: Any, nodes: list[Node]) -> list[Node]:
    """Entries moved about: the operation itself on both ends, and on every direction."""
    if any(n.value.lo.dtype.kind in "iu" and np.any(n.value.undecided) for n in nodes):
        raise jump(eqn, "an index")

    def bind(*operands: Any) -> tuple[Any, ...]:
        out = eqn.primitive.bind(*operands, **eqn.params)
        return tuple(out) if eqn.primitive.multiple_results else (out,)

    ends = [bind(*(n.value[end] for n in nodes)) for end in (0, 1)]
    values = [Interval(np.asarray(lo), np.asarray(hi)) for lo, hi in zip(*ends, strict=True)]
    moving = any(n.moving for n in nodes)
    n = _directions(nodes)
    if n is None or not values[0].is_float:
        return [Node(v, None, moving, eqn, tuple(nodes)) for v in values]
    floats = [i for i, node in enumerate(nodes) if node.value.is_float]
    parts = [tangent_of(nodes[i], n) for i in floats]

    def moved(*rows: Any) -> tuple[Any, ...]:
        operands: list[Any] = [node.value.lo for node in nodes]
        for i, row in zip(floats, rows, strict=True):
            operands[i] = row
        return bind(*operands)

    if n == 0:
        tangents = [iv.point(np.zeros((0, *v.shape))) for v in values]
    else:
        rows = [jax.vmap(moved)(*(p[end] for p in parts)) for end in (0, 1)]
        tangents = [Interval(np.asarray(lo), np.asarray(hi)) for lo, hi in zip(*rows, strict=True)]
    return [Node(v, t, moving, eqn, tuple(nodes)) for v, t in zip(values, tangents, strict=True)]


def _scatter_add(eqn: Any, nodes: list[Node]) -> list[Node]:
    operand, indices, updates = nodes
    if np.any(indices.value.undecided):
        raise jump(eqn, "an index")
    error = iv.gamma(updates.value.lo[..., None].size + 1)

    def bind(x: Any, u: Any) -> Any:
        return eqn.primitive.bind(x, indices.value.lo, u, **eqn.params)

    def summed(fun: Callable[[Any, Any], Any], x: Interval, u: Interval) -> Interval:
        lo, hi, size = (
            np.asarray(fun(a, b))
            for a, b in ((x.lo, u.lo), (x.hi, u.hi), (x.magnitude, u.magnitude))
        )
        # adding may flush what is subnormal to zero
        return iv.around(lo, hi, np.where(size == 0, 0.0, error * size + iv.TINY))

    value = summed(bind, operand.value, updates.value)
    n = _directions((operand, updates))
    tangent = None
    if n:
        tangent = summed(jax.vmap(bind), tangent_of(operand, n), tangent_of(updates, n))
    return _result(eqn, nodes, value, tangent)


def _reduce_sum(eqn: Any, nodes: list[Node]) -> list[Node]:
    (a,), axes = nodes, tuple(eqn.params["axes"])
    shifted = tuple(i + 1 for i in axes)
    tangent = None if a.tangent is None else iv.total(a.tangent, shifted)
    return _result(eqn, nodes, iv.total(a.value, axes), tangent)


def _cumsum(eqn: Any, nodes: list[Node]) -> list[Node]:
    (a,), axis = nodes, eqn.params["axis"]

    def run(x: Interval, axis: int) -> Interval:
        if not eqn.params["reverse"]:
            return iv.running_total(x, axis)
        flipped = x.map(lambda v: np.flip(v, axis))
        return iv.running_total(flipped, axis).map(lambda v: np.flip(v, axis))

    tangent = None if a.tangent is None else run(a.tangent, axis + 1)
    return _result(eqn, nodes, run(a.value, axis), tangent)


def _merged(node: Node, axes: Sequence[int]) -> Node:
    """The axes moved to the end and made one."""
    kept = [i for i in range(len(node.value.shape)) if i not in axes]
    shape = [node.value.shape[i] for i in kept]

    def turn(v: np.ndarray, lead: int) -> np.ndarray:
        order = [*range(lead), *(i + lead for i in (*kept, *axes))]
        size = prod(node.value.shape[i] for i in axes)
        return v.transpose(order).reshape(
            (
                *v.shape[:lead],
                *shape,
                size,
            )
        )

    tangent = None if node.tangent is None else node.tangent.map(lambda t: turn(t, 1))
    return Node(node.value.map(lambda v: turn(v, 0)), tangent, node.moving)


def _reduce_prod(eqn: Any, nodes: list[Node]) -> list[Node]:
    a = _merged(nodes[0], eqn.params["axes"])
    out = Node(iv.point(np.ones(a.value.shape[:-1])))

    for i in range(a.value.shape[-1]):
        tangent = None if a.tangent is None else a.tangent.map(lambda t, i=i: t[..., i])
        factor = Node(a.value.map(lambda v, i=i: v[..., i]), tangent, a.moving)
        out = Node(*ELEMENTWISE["mul"](eqn, [out, factor])[:2], a.moving)
    return _result(eqn, nodes, out.value, out.tangent)


def _attained(candidates: np.ndarray, tangent: Interval) -> Interval:
    """Over the last axis, the hull of the tangents of the candidates."""
    return Interval(
        np.min(tangent.lo, axis=-1, where=candidates, initial=np.inf),
        np.max(tangent.hi, axis=-1, where=candidates, initial=-np.inf),
    )


def _reduce_extremum(eqn: Any, nodes: list[Node]) -> list[Node]:
    a = _merged(nodes[0], eqn.params["axes"])
    largest = eqn.primitive.name == "reduce_max"
    value = a.value.map(lambda v: (np.max if largest else np.min)(v, axis=-1))
    tangent = None
    if a.tangent is not None:
        may = a.value.hi >= value.lo[..., None] if largest else a.value.lo <= value.hi[..., None]
        tangent = _attained(np.broadcast_to(may, a.tangent.shape), a.tangent)
    return _result(eqn, nodes, value, tangent)


def _reduce_boolean(fun: Callable[..., Any]) -> Callable[[Any, list[Node]], list[Node]]:
    def rule(eqn: Any, nodes: list[Node]) -> list[Node]:
        return _result(eqn, nodes, nodes[0].value.map(lambda v: fun(v, axis=eqn.params["axes"])))

    return rule


def _dot_general(eqn: Any, nodes: list[Node]) -> list[Node]:
    a, b = nodes
    dims = eqn.params["dimension_numbers"]
    value = dot(a.value, b.value, dims)
    (left, right), (batch, _) = dims
    if a is b and not batch and tuple(left) == tuple(right) and len(left) == len(a.value.shape):
        value = iv.total(iv.square(a.value), None)
    parts = []
    if a.tangent is not None:
        parts.append(dot(a.tangent, b.value, dims, lead=0))
    if b.tangent is not None:
        parts.append(dot(a.value, b.tangent, dims, lead=1))
    tangent = None if not parts else parts[0] if len(parts) == 1 else iv.add(*parts)
    return _result(eqn, nodes, value, tangent)


def dot(a: Interval, b: Interval, dims: Any, lead: int | None = None) -> Interval:
    """``lax.dot_general`` on intervals; operand ``lead`` may carry one further axis in front."""
    contract, batch = ([list(d) for d in pair] for pair in dims)
    if lead is not None:
        contract[lead] = [i + 1 for i in contract[lead]]
        batch[lead] = [i + 1 for i in batch[lead]]
    free = [
        [i for i in range(len(x.shape)) if i not in contract[k] and i not in batch[k]]
        for k, x in enumerate((a, b))
    ]
    shared = [a.shape[i] for i in batch[0]]
    inner = prod(a.shape[i] for i in contract[0])
    sizes = [[x.shape[i] for i in free[k]] for k, x in enumerate((a, b))]
    rows, columns = prod(sizes[0]), prod(sizes[1])
    left = a.map(
        lambda v: v.transpose(batch[0] + free[0] + contract[0]).reshape(
            (
                *shared,
                rows,
                inner,
            )
        )
    )
    right = b.map(
        lambda v: v.transpose(batch[1] + contract[1] + free[1]).reshape(
            (
                *shared,
                inner,
                columns,
            )
        )
    )
    out = iv.matmul(left, right).map(
        lambda v: v.reshape(
            (
                *shared,
                *sizes[0],
                *sizes[1],
            )
        )
    )
    if lead is None:
        return out
    place = len(shared) + (len(sizes[0]) if lead else 0)
    return out.map(lambda v: np.moveaxis(v, place, 0))


def _sort(eqn: Any, nodes: list[Node]) -> list[Node]:
    """One operand: order statistics, at any ties. More operands: the order must be decided."""
    axis = eqn.params["dimension"]
    key = _merged(nodes[0], [axis])
    # an undefined entry may belong at any place
    lost = np.any(np.isnan(key.value.lo), axis=-1, keepdims=True)
    ordered = key.value.map(lambda v: np.where(lost, np.nan, np.sort(v, axis=-1)))
    size = key.value.shape[-1]
    if len(nodes) == 1:
        value = ordered.map(lambda v: np.moveaxis(v, -1, axis))
        if key.tangent is None:
            return _result(eqn, nodes, value)
        rows = []
        for i in range(size):  # x_j may stand at place i only where their ranges meet
            may = (key.value.lo <= ordered.hi[..., i : i + 1]) & (
                key.value.hi >= ordered.lo[..., i : i + 1]
            )
            rows.append(_attained(np.broadcast_to(may, key.tangent.shape), key.tangent))
        stacked = Interval(*(np.stack([r[end] for r in rows], axis=-1) for end in (0, 1)))
        return _result(eqn, nodes, value, stacked.map(lambda t: np.moveaxis(t, -1, axis + 1)))
    order = np.argsort(key.value.lo, axis=-1, stable=True)
    low, high = (np.take_along_axis(end, order, axis=-1) for end in key.value)
    fixed = eqn.params["num_keys"] == 1 and not (key.moving or np.any(key.value.undecided))
    if not fixed and not np.all(high[..., :-1] < low[..., 1:]):
        raise jump(eqn, "the order of a sort")
    outs = []
    for node in nodes:
        x = _merged(node, [axis])
        value = x.value.map(lambda v: np.moveaxis(np.take_along_axis(v, order, -1), -1, axis))
        tangent = None
        if x.tangent is not None:
            tangent = x.tangent.map(
                lambda t: np.moveaxis(np.take_along_axis(t, order[None], -1), -1, axis + 1)
            )
        outs.append(Node(value, tangent, any(n.moving for n in nodes), eqn, tuple(nodes)))
    return outs


def _arg_extremum(eqn: Any, nodes: list[Node]) -> list[Node]:
    a = _merged(nodes[0], eqn.params["axes"])
    x = a.value if eqn.primitive.name == "argmax" else iv.negate(a.value)
    best = np.argmax(x.lo, axis=-1)
    rivals = np.sum(x.hi >= np.max(x.lo, axis=-1, keepdims=True), axis=-1)
    if (a.moving or np.any(x.undecided)) and np.any(rivals != 1):
        raise jump(eqn, "the place of an extremum")
    return _result(eqn, nodes, iv.point(best.astype(eqn.params["index_dtype"])))


RULES: dict[str, Callable[[Any, list[Node]], list[Node]]] = {
    **dict.fromkeys(
        (
            "broadcast_in_dim", "reshape", "squeeze", "expand_dims", "transpose", "rev", "slice",
            "concatenate", "gather", "dynamic_slice", "dynamic_update_slice", "pad", "split", "scatter",
            "stack", "unstack", "tile",
        ),
        _structural,
    ),
    **dict.fromkeys(("scatter-add", "scatter_add"), _scatter_add),
    **dict.fromkeys(("reduce_max", "reduce_min"), _reduce_extremum),
    **dict.fromkeys(("argmax", "argmin"), _arg_extremum),
    "reduce_sum": _reduce_sum,
    "reduce_prod": _reduce_prod,
    "reduce_and": _reduce_boolean(np.all),
    "reduce_or": _reduce_boolean(np.any),
    "cumsum": _cumsum,
    "dot_general": _dot_general,
    "sort": _sort,
}  # fmt: skip
