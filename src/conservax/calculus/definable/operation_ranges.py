"""The range of each operation's result, from those of its operands."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import ranges as rg
from .ranges import Range
from .walk import Known, Walk, is_real, size_of

_COMPARE = {"gt", "ge", "lt", "le", "eq", "ne"}
LOGIC = {"and", "or", "not", "reduce_and", "reduce_or"}
_MOVES = {"broadcast_in_dim", "reshape", "squeeze", "expand_dims", "transpose", "rev", "slice"}
_SAME = {"copy", "copy_p", "device_put", "name", "sharding_constraint", "optimization_barrier",
         "reduce_precision", "stop_gradient"}  # fmt: skip


def exponent_of(eqn: Any, values: Sequence[Known]) -> float | None:
    """The constant exponent of a power, None if there is none."""
    if eqn.primitive.name != "pow" or values[1].varied or not values[1].range.decided:
        return None
    lo = values[1].range.lo
    return float(lo.flat[0]) if lo.size and np.all(lo == lo.flat[0]) else None


def range_of(walk: Walk, eqn: Any, values: Sequence[Known]) -> Range:
    """The range of an operation's one result."""
    name, shape = eqn.primitive.name, eqn.outvars[0].aval.shape
    r = [v.range for v in values]
    n_in = size_of(eqn.invars[0].aval) if eqn.invars else 1
    n_out = max(1, size_of(eqn.outvars[0].aval))
    if name in ("add", "add_any"):
        return rg.add(*r)
    if name == "sub":
        same = values[0].number == values[1].number
        return rg.point(0.0) if same else rg.add(r[0], rg.neg(r[1]))
    if name == "mul":
        return rg.square(r[0]) if values[0].number == values[1].number else rg.mul(*r)
    if name == "div":
        return rg.mul(r[0], rg.reciprocal(r[1]))
    if name == "neg":
        return rg.neg(r[0])
    if name == "square":
        return rg.square(r[0])
    if name == "integer_pow":
        return rg.integer_power(r[0], eqn.params["y"])
    if name == "pow":
        return _power_range(r[0], exponent_of(eqn, values))
    if name == "max":
        return rg.maximum(*r)
    if name == "min":
        return rg.minimum(*r)
    if name == "clamp":
        return rg.minimum(rg.maximum(r[1], r[0]), r[2])
    if name == "abs":
        return rg.absolute(r[0])
    if name in LOGIC and eqn.invars[0].aval.dtype != bool:
        return rg.ALL  # bit by bit
    if name in _COMPARE or name in LOGIC or name == "is_finite":
        return _truth(eqn, values)
    if name in _SAME or (name == "convert_element_type"):
        return converted_range(eqn, r[0])
    if (
        name in ("reduce_sum", "reduce_max", "reduce_min")
        and r[0].lo.shape == eqn.invars[0].aval.shape
    ):
        return rg.reduced(name, r[0], tuple(eqn.params["axes"]))
    if name == "reduce_sum":
        return rg.total(r[0], n_in // n_out)
    if name in ("reduce_max", "reduce_min", "cummax", "cummin", "gather", "dynamic_slice", "tile"):
        return rg.hulled(r[0])
    if name == "cumsum":
        n = eqn.invars[0].aval.shape[eqn.params["axis"]]
        return rg.union([rg.total(r[0], 1), rg.total(r[0], n)])
    if name in ("dot_general", "conv_general_dilated"):
        return _products(eqn, values)
    if name in ("concatenate", "pad", "stack"):
        return _joined(eqn, r)
    if name == "reduce_prod":
        positive = r[0].exceeds(0)
        return Range(np.array(0.0), np.array(np.inf), above=True) if positive else rg.ALL
    if name in ("argmax", "argmin"):
        return Range(np.array(0.0), np.array(float(max(n_in - 1, 0))))
    if name in _MOVES:
        return moved_range(eqn, r[0], shape)
    if name == "select_n":
        return chosen_range(values[0].range, r[1:])
    if len(r) == 1:
        return rg.elementary(name, r[0]) or rg.ALL
    return rg.ALL


def _power_range(a: Range, k: float | None) -> Range:
    if k is not None and k == int(k) and abs(k) < 100:
        return rg.integer_power(a, int(k))
    if k is not None and k > 0:
        made = rg.monotone(lambda x: np.power(np.maximum(x, 0), k), a, -np.inf, np.inf)
        return made._replace(lo=np.maximum(made.lo, 0.0), above=a.exceeds(0))
    return Range(np.array(0.0), np.array(np.inf), above=a.exceeds(0))


def _truth(eqn: Any, values: Sequence[Known]) -> Range:
    """0 or 1 where decided, [0, 1] where not."""
    name, r = eqn.primitive.name, [v.range for v in values]
    unit = Range(np.array(0.0), np.array(1.0))
    if name == "is_finite":
        return rg.point(1.0)
    if name == "not":
        return Range(1 - r[0].hi, 1 - r[0].lo)
    if name == "and":
        return Range(np.minimum(r[0].lo, r[1].lo), np.minimum(r[0].hi, r[1].hi))
    if name == "or":
        return Range(np.maximum(r[0].lo, r[1].lo), np.maximum(r[0].hi, r[1].hi))
    if name not in _COMPARE:
        return unit if not r[0].decided else Range(np.min(r[0].lo), np.max(r[0].hi))
    a, b = r
    if values[0].number == values[1].number:
        return rg.point(1.0 if name in ("eq", "ge", "le") else 0.0)
    if name in ("lt", "le"):
        a, b, name = b, a, {"lt": "gt", "le": "ge"}[name]
    apart = (a.above or b.below, a.below or b.above)
    over = (a.lo > b.hi) | ((a.lo == b.hi) & (name == "ge" or apart[0]))
    under = (a.hi < b.lo) | ((a.hi == b.lo) & (name == "gt" or apart[1]))
    fixed = (a.lo == a.hi) & (b.lo == b.hi)
    if name in ("eq", "ne"):
        equal = fixed & (a.lo == b.lo)
        lo, hi = np.where(equal, 1.0, 0.0), np.where(over | under, 0.0, 1.0)
        return Range(lo, hi) if name == "eq" else Range(1 - hi, 1 - lo)
    if not any(v.varied for v in values) and np.all(fixed):
        truth = (a.lo > b.lo) if name == "gt" else (a.lo >= b.lo)
        return rg.point(truth.astype(np.float64))
    return Range(np.where(over, 1.0, 0.0), np.where(under, 0.0, 1.0))


def converted_range(eqn: Any, a: Range) -> Range:
    """The range after a conversion: truncated, where the result is an integer."""
    if eqn.primitive.name == "convert_element_type" and not is_real(eqn.outvars[0].aval):
        if eqn.invars[0].aval.dtype == bool or not is_real(eqn.invars[0].aval):
            return a
        return Range(np.trunc(a.lo), np.trunc(a.hi))
    return a


def _products(eqn: Any, values: Sequence[Known]) -> Range:
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        terms = math.prod(eqn.invars[0].aval.shape[d] for d in contracted)
        a, b = values
        if a.number == b.number and sums_squares(eqn):
            return rg.total(rg.square(rg.hulled(a.range)), terms)
        full = all(
            v.range.lo.shape == o.aval.shape for v, o in zip(values, eqn.invars, strict=True)
        )
        if full and a.range.bounded and b.range.bounded:
            return _box_product(eqn, a.range, b.range, terms)
        return rg.dot(a.range, b.range, terms)
    window = math.prod(eqn.invars[1].aval.shape)
    return rg.dot(values[0].range, values[1].range, window)


def _box_product(eqn: Any, a: Range, b: Range, terms: int) -> Range:
    """A product of two boxes, by their centres and radii."""
    (left, right), (left_batch, right_batch) = eqn.params["dimension_numbers"]

    def product(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        letters = iter("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
        first = [next(letters) for _ in range(x.ndim)]
        second = [next(letters) for _ in range(y.ndim)]
        for i, j in zip((*left, *left_batch), (*right, *right_batch), strict=True):
            second[j] = first[i]
        batch = [first[i] for i in left_batch]
        free = [c for i, c in enumerate(first) if i not in (*left, *left_batch)]
        free += [c for i, c in enumerate(second) if i not in (*right, *right_batch)]
        return np.einsum(f"{''.join(first)},{''.join(second)}->{''.join(batch + free)}", x, y)

    (ca, ra), (cb, rb) = (((r.lo + r.hi) / 2, (r.hi - r.lo) / 2) for r in (a, b))
    centre = product(ca, cb)
    radius = product(np.abs(ca) + ra, rb) + product(ra, np.abs(cb))
    slack = (terms + 4) * 4e-16 * product(np.abs(ca) + ra, np.abs(cb) + rb)
    return Range(centre - radius - slack, centre + radius + slack)


def sums_squares(eqn: Any) -> bool:
    """Whether a product of an array with itself sums squares."""
    (left, right), (left_batch, right_batch) = eqn.params["dimension_numbers"]
    alike = tuple(left) == tuple(right) and tuple(left_batch) == tuple(right_batch)
    return alike and len(left) + len(left_batch) == len(eqn.invars[0].aval.shape)


def _joined(eqn: Any, r: Sequence[Range]) -> Range:
    shapes = [v.aval.shape for v in eqn.invars]
    full = all(a.lo.shape == s and s for a, s in zip(r, shapes, strict=True))
    if eqn.primitive.name == "concatenate" and full:
        axis = eqn.params["dimension"]
        lo, hi = (np.concatenate([a[end] for a in r], axis=axis) for end in (0, 1))
        return Range(lo, hi, all(a.above for a in r), all(a.below for a in r))
    return rg.union([rg.hulled(a) for a in r])


def move_entries(eqn: Any, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The operation on an array, for what only moves entries."""
    name, p = eqn.primitive.name, eqn.params
    if name == "broadcast_in_dim":
        sides = [1] * len(shape)
        for i, d in enumerate(p["broadcast_dimensions"]):
            sides[d] = array.shape[i]
        return np.broadcast_to(array.reshape(sides), shape)
    if name == "transpose":
        return np.transpose(array, p["permutation"])
    if name == "rev":
        return np.flip(array, p["dimensions"])
    if name == "slice":
        strides = p["strides"] or (1,) * array.ndim
        cut = zip(p["start_indices"], p["limit_indices"], strides, strict=True)
        return array[tuple(slice(*c) for c in cut)]
    return array.reshape(shape)


def moved_range(eqn: Any, a: Range, shape: tuple[int, ...]) -> Range:
    """The range of moved entries."""
    if a.lo.shape != eqn.invars[0].aval.shape or int(np.prod(shape)) > rg._LARGEST:
        return rg.hulled(a)
    return a._replace(lo=move_entries(eqn, a.lo, shape), hi=move_entries(eqn, a.hi, shape))


def chosen_range(which: Range, cases: Sequence[Range]) -> Range:
    """Case by case where the choice is decided, the union where not."""
    lo, hi = np.clip(which.lo, 0, len(cases) - 1), np.clip(which.hi, 0, len(cases) - 1)
    if which.decided and lo.size and np.all(lo == lo.flat[0]):
        return cases[int(lo.flat[0])]
    if len(cases) == 2 and len({c.lo.shape for c in cases} | {lo.shape}) == 1:
        no, yes = cases
        low = np.where(lo == 1, yes.lo, np.where(hi == 0, no.lo, np.minimum(no.lo, yes.lo)))
        high = np.where(lo == 1, yes.hi, np.where(hi == 0, no.hi, np.maximum(no.hi, yes.hi)))
        return Range(low, high, no.above and yes.above, no.below and yes.below)
    first, last = int(np.min(lo, initial=0)), int(np.max(hi, initial=0))
    return rg.union([rg.hulled(c) for c in cases[first : last + 1]] or [rg.ALL])
