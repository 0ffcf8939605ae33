"""One rule an operation for the walk behind ``definability``."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from . import ranges as rg
from . import roots, smooth
from .definability_walk import Known, Walk, is_real, size_of
from .dictionaries import DOMAINS, EVERYWHERE, dictionary, join, sorted_ends
from .jaxprs import CUSTOM_RULES, INLINE, function_name, function_of_jax, marker, opened
from .kinks import TABLE
from .locations import _JAX, defined_in_jax
from .ranges import Range
from .switches import Switch

_COMPARE = {"gt", "ge", "lt", "le", "eq", "ne"}
_MOVES = {"broadcast_in_dim", "reshape", "squeeze", "expand_dims", "transpose", "rev", "slice"}
_SAME = {"copy", "copy_p", "device_put", "name", "sharding_constraint", "optimization_barrier",
         "reduce_precision", "stop_gradient"}  # fmt: skip
# JAX's functions that are polynomial or analytic although their bodies factorise or choose
_FUNCTIONS = {"_det": "ALG", "det": "ALG", "sinc": "BOUNDED"}
_WRAPPED = {"remainder", "floor_divide"}  # JAX's, whose bodies mend the sign of lax.rem
_SMALL = 3  # determinants up to this size are written out
_MIXING = set(
    "reduce_sum reduce_prod reduce_max reduce_min dot_general cumsum cumprod cummax cummin cumlogsumexp "
    "conv_general_dilated gather dynamic_slice dynamic_update_slice scatter scatter-add scatter_add "
    "scatter-mul scatter_mul scatter-max scatter-min concatenate pad split stack unstack fft real imag "
    "conj complex reduce_window_sum reduce_window_max reduce_window_min tile tridiagonal_solve psum "
    "reduce_and reduce_or reduce_xor top_k argmax argmin sort iota clamp square integer_pow householder_product "
    "select_and_scatter_add complex_abs bitcast_convert_type shift_right_logical shift_left population_count "
    "lu_pivots_to_permutation is_finite random_bits random_wrap random_unwrap random_seed random_fold_in "
    "threefry2x32 nextafter copy xor shift_right_arithmetic rng_bit_generator clz".split()
)


def step(walk: Walk, eqn: Any, values: list[Known], call: Any) -> list[Known]:
    """What is known of the results of one equation."""
    name = eqn.primitive.name
    where = call or eqn
    marked = marker(eqn)
    if marked in TABLE:
        return _marked(walk, eqn, values, where, marked)
    if name in INLINE:
        return _called(walk, eqn, eqn.params[INLINE[name]], values, call)
    if name in CUSTOM_RULES:
        return _custom(walk, eqn, values, call)
    if name in _CONTROL:
        return _CONTROL[name](walk, eqn, values, call)
    if not any(v.varied for v in values) and not any(not v.sound for v in values):
        return _fixed(walk, eqn, values)
    if name in _RULES:
        return _RULES[name](walk, eqn, values, where)
    if name in _MOVES:
        return [_moved(walk, eqn, values[0])]
    if name in smooth.ELEMENTWISE or name in DOMAINS or name in smooth.SMOOTH or name in _MIXING:
        if len(eqn.outvars) == 1 and name not in _MIXING:
            return [_entrywise(walk, eqn, values, where)]
        return _mixing(walk, eqn, values)
    why = "the calculus has no rule for this operation"
    walk.outside_of(name, where, why)
    fault = walk.offence(name, where, why)
    base = walk.combined(values)
    bad = replace(base, dictionary="UNKNOWN", faults={**base.faults, fault: None})
    return [replace(bad, number=walk.expressions.opaque(v.aval.shape)) for v in eqn.outvars]


def _key(eqn: Any) -> Any:
    name, p = eqn.primitive.name, eqn.params
    if name == "integer_pow":
        return p["y"]
    if name == "broadcast_in_dim":
        return tuple(p["shape"]), tuple(p["broadcast_dimensions"])
    return tuple(sorted((k, str(v)) for k, v in p.items() if k != "sharding"))


def _number(walk: Walk, eqn: Any, values: Sequence[Known], result: int = 0) -> int:
    """The expression of one result; several results are told apart."""
    name, shape = eqn.primitive.name, eqn.outvars[result].aval.shape
    key = _key(eqn) if len(eqn.outvars) == 1 else (_key(eqn), result)
    return walk.expressions.make(name, key, [v.number for v in values], shape)


def _fixed(walk: Walk, eqn: Any, values: Sequence[Known]) -> list[Known]:
    """Operations on what does not vary: constants, of which the range is kept where it is cheap."""
    name = eqn.primitive.name
    out = []
    for i, var in enumerate(eqn.outvars):
        known = Range(np.array(-np.inf), np.array(np.inf))
        if name == "iota":
            n, axis = var.aval.shape, eqn.params["dimension"]
            places = np.arange(n[axis], dtype=np.float64)
            places = places.reshape([-1 if a == axis else 1 for a in range(len(n))])
            known = rg.point(np.broadcast_to(places, n))
        elif len(eqn.outvars) == 1:
            known = _range(walk, eqn, values)
        out.append(
            Known(
                known,
                _number(walk, eqn, values, i),
                dictionary="ALG",
                rootable=known.exceeds(0, or_equal=True),
            )
        )
    return out


def _exponent(eqn: Any, values: Sequence[Known]) -> float | None:
    if eqn.primitive.name != "pow" or values[1].varied or not values[1].range.decided:
        return None
    lo = values[1].range.lo
    return float(lo.flat[0]) if lo.size and np.all(lo == lo.flat[0]) else None


def _range(walk: Walk, eqn: Any, values: Sequence[Known]) -> Range:
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
        return _power_range(r[0], _exponent(eqn, values))
    if name == "max":
        return rg.maximum(*r)
    if name == "min":
        return rg.minimum(*r)
    if name == "clamp":
        return rg.minimum(rg.maximum(r[1], r[0]), r[2])
    if name == "abs":
        return rg.absolute(r[0])
    if name in _COMPARE or name in ("and", "or", "not", "is_finite", "reduce_and", "reduce_or"):
        return _truth(eqn, values)
    if name in _SAME or (name == "convert_element_type"):
        return _converted(eqn, r[0])
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
        return _moved_range(eqn, r[0], shape)
    if name == "select_n":
        return _chosen(values[0].range, r[1:])
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


def _converted(eqn: Any, a: Range) -> Range:
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
        if a.number == b.number and _squares(eqn):
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


def _squares(eqn: Any) -> bool:
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


def _move(eqn: Any, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
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


def _moved_range(eqn: Any, a: Range, shape: tuple[int, ...]) -> Range:
    if a.lo.shape != eqn.invars[0].aval.shape or int(np.prod(shape)) > rg._LARGEST:
        return rg.hulled(a)
    return a._replace(lo=_move(eqn, a.lo, shape), hi=_move(eqn, a.hi, shape))


def _moved(walk: Walk, eqn: Any, value: Known) -> Known:
    """Entries moved about: so are the switches and the masks of the faults."""
    shape, before = eqn.outvars[0].aval.shape, eqn.invars[0].aval.shape
    store, name, key = walk.expressions, eqn.primitive.name, _key(eqn)
    tears = frozenset(
        Switch(*(store.make(name, key, [n], shape) for n in (t.left, t.right)), t.place)
        for t in value.tears
    )
    faults = {
        n: _move(eqn, mask, shape) if mask is not None and mask.shape == before else None
        for n, mask in value.faults.items()
    }
    made = store.make(name, key, [value.number], shape)
    moved_range = _moved_range(eqn, value.range, shape)
    return replace(value, range=moved_range, number=made, tears=tears, faults=faults)


def _aligned(walk: Walk, value: Known, shape: tuple[int, ...]) -> Known:
    """An operand among larger ones: its expression and its switches, spread."""
    store = walk.expressions
    if store[value.number].shape == shape:
        return value
    tears = frozenset(
        Switch(store.spread(t.left, shape), store.spread(t.right, shape), t.place)
        for t in value.tears
    )
    return replace(value, number=store.spread(value.number, shape), tears=tears)


def _merged_faults(values: Sequence[Known]) -> dict[int, np.ndarray | None]:
    out: dict[int, np.ndarray | None] = {}
    for v in values:
        for n, mask in v.faults.items():
            if n in out:
                old = out[n]
                mask = None if old is None or mask is None else old | mask
            out[n] = mask
    return {n: m for n, m in out.items() if m is None or np.any(m)}


def _healed(walk: Walk, value: Known) -> Known:
    """Drop the switches on whose two sides the value is the same."""
    left = frozenset(t for t in value.tears if not walk.expressions.continuous(t, value.number))
    return value if left == value.tears else replace(value, tears=left)


def _entrywise(walk: Walk, eqn: Any, values: list[Known], where: Any) -> Known:
    """An operation entry by entry: its domain, its dictionary, its switches."""
    name, aval = eqn.primitive.name, eqn.outvars[0].aval
    values = [_aligned(walk, v, aval.shape) for v in values]
    number = _number(walk, eqn, values)
    known = _range(walk, eqn, values)
    if not is_real(aval) and known.decided:
        return Known(known, number)
    operands = [v.range for v in values]
    below = join(*(v.dictionary for v in values))
    exponent = _exponent(eqn, values)
    good, why = _domain(eqn, exponent, values)
    varied = [v.varied or not v.sound for v in values]
    fine = good(*operands) if any(varied) else True
    fine, all_fine = np.asarray(fine), bool(np.all(fine))
    faults = _merged_faults(values)
    if not all_fine:
        masked = fine.shape == aval.shape and fine.shape != ()
        fault = walk.offence(name, where, why)
        faults[fault] = ~fine if masked else None
        walk.remember(fault, *_cause(name, good, values))
    own = dictionary(name, operands, below, exponent, all_fine)
    if own == "BOUNDED":
        walk.outside_of(
            name, where, "definable on bounded sets only, and its operand is not bounded"
        )
    notes = frozenset().union(*(v.notes for v in values))
    if name == "sqrt" and not operands[0].exceeds(0) and all_fine:
        note = "Lipschitz as a norm, but its automatic derivative is NaN at 0: use cx.norm"
        notes |= {walk.offence(name, where, note)}
    result = Known(
        known,
        number,
        any(v.varied for v in values),
        join(below, own),
        faults,
        notes,
        frozenset().union(*(v.solves for v in values)),
        frozenset().union(*(v.tears for v in values)),
        _is_rootable(name, eqn, values, known),
        next((v.follows for v in values if v.follows), None),
    )
    return _healed(walk, result) if result.tears and is_real(aval) else result


def _cause(name: str, good: Any, values: Sequence[Known]) -> tuple[int, Any]:
    """The operand that has left the domain, and the test whether a smaller range of it would do."""
    if name in ("atan2", "rem") or len(values) > 2:
        return -1, None
    i = 1 if name == "div" else 0
    ranges = [v.range for v in values]
    return values[i].number, lambda r: good(*ranges[:i], r, *ranges[i + 1 :])


_POLE = (lambda a, *_: DOMAINS["div"][0](a, a), "the base can be 0")


def _domain(eqn: Any, exponent: float | None, values: Sequence[Known]) -> Any:
    """Where the operation is locally Lipschitz, and what to say elsewhere."""
    name = eqn.primitive.name
    if name == "sqrt" and values[0].rootable:
        return EVERYWHERE
    if name == "convert_element_type":
        return EVERYWHERE
    if name == "integer_pow":
        return _POLE if eqn.params["y"] < 0 else EVERYWHERE
    if name == "pow":
        return _power_domain(exponent, values)
    if name == "sign":
        return _nonzero_sign, "the sign jumps at 0"
    return DOMAINS.get(name, EVERYWHERE)


def _nonzero_sign(a: Range) -> Any:
    return True  # its jump is a switch: see _sign


def _power_domain(k: float | None, values: Sequence[Known]) -> Any:
    positive = DOMAINS["log"][0]
    if k is None:
        return lambda a, b: positive(a), "a power with a varying exponent needs a positive base"
    if k == int(k):
        return EVERYWHERE if k >= 0 else _POLE
    if k >= 1:
        return lambda a, b: a.lo >= 0, "a real power of a negative number is undefined"
    if k >= 0.5 and values[0].rootable and not values[0].tears:
        return EVERYWHERE
    return lambda a, b: positive(a), f"the slope of x^{k:g} is unbounded at 0"


def _is_rootable(name: str, eqn: Any, values: Sequence[Known], known: Range) -> bool:
    if not all(v.sound for v in values):
        return False
    if name == "square" or (name == "integer_pow" and eqn.params["y"] % 2 == 0 < eqn.params["y"]):
        return True
    if known.exceeds(0) and bool(np.all(known.lo > 0)):
        return True
    if name == "mul" and values[0].number == values[1].number:
        return True
    if name in ("add", "add_any", "mul", "max", "min", "select_n"):
        return all(v.rootable for v in (values[1:] if name == "select_n" else values))
    if name == "div":
        return values[0].rootable and bool(np.all(values[1].range.lo > 0))
    return (name in _SAME or name == "convert_element_type") and values[0].rootable


def _compare(walk: Walk, eqn: Any, values: list[Known], where: Any) -> list[Known]:
    """A comparison that the ranges leave open is a switch."""
    shape = eqn.outvars[0].aval.shape
    values = [_aligned(walk, v, shape) for v in values]
    number, known = _number(walk, eqn, values), _range(walk, eqn, values)
    constant = walk.expressions[number].constant
    if constant is not None or known.decided:
        return [Known(known if constant is None else rg.point(constant), number)]
    base = walk.combined(values)
    place = walk.offence(
        eqn.primitive.name, where, "its two sides do not give the same value at the switch"
    )
    tears = frozenset({Switch(values[0].number, values[1].number, place)})
    return [replace(base, number=number, range=known, tears=tears)]


def _sign(walk: Walk, eqn: Any, values: list[Known], where: Any) -> list[Known]:
    (value,) = values
    known = _range(walk, eqn, values)
    if value.range.avoids(0):
        return [Known(known, walk.expressions.opaque(eqn.outvars[0].aval.shape))]
    place = walk.offence("sign", where, "the sign jumps at 0")
    base = walk.combined(values)
    zero = walk.expressions.constant(0.0, eqn.outvars[0].aval.shape)
    tears = value.tears | {Switch(value.number, zero, place)}
    return [replace(base, number=_number(walk, eqn, values), range=known, tears=tears)]


def _chosen(which: Range, cases: Sequence[Range]) -> Range:
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


def _select(walk: Walk, eqn: Any, values: list[Known], where: Any) -> list[Known]:
    which, *cases = values
    return [chosen_at(walk, which, cases, eqn.outvars[0].aval)]


def chosen_at(walk: Walk, which: Known, cases: list[Known], aval: Any) -> Known:
    """A choice: what is decided takes its case alone; what is not must be continuous at its switch."""
    which, *cases = [_aligned(walk, v, aval.shape) for v in (which, *cases)]
    known = _chosen(which.range, [c.range for c in cases])
    operands = [which.number, *(c.number for c in cases)]
    number = walk.expressions.make("select_n", None, operands, aval.shape)
    low, high = which.range.lo, which.range.hi
    if which.range.decided and low.size and np.all(low == low.flat[0]):
        return cases[int(np.clip(low.flat[0], 0, len(cases) - 1))]
    constant = walk.expressions[which.number].constant
    if constant is not None:
        return cases[int(constant)]
    if len({c.number for c in cases}) == 1:
        return cases[0]
    merged: dict[int, np.ndarray | None] = dict(which.faults)
    for i, case in enumerate(cases):
        possible = np.broadcast_to((low <= i) & (i <= high), aval.shape)
        told = walk.implied(which.number, bool(i)) if len(cases) == 2 else []
        for n, mask in case.faults.items():
            if walk.undone(n, told):
                continue
            here = possible if mask is None else mask & possible
            old = merged.get(n)
            merged[n] = here if n not in merged else None if old is None else old | here
    every = [which, *cases]
    result = Known(
        known,
        number,
        any(v.varied for v in every),
        join(*(v.dictionary for v in every)),
        {n: m for n, m in merged.items() if m is None or np.any(m)},
        frozenset().union(*(v.notes for v in every)),
        frozenset().union(*(v.solves for v in every)),
        frozenset().union(*(v.tears for v in every)),
        all(c.rootable for c in cases),
        next((v.follows for v in every if v.follows), None),
    )
    return _healed(walk, result)


def _mixing(walk: Walk, eqn: Any, values: list[Known]) -> list[Known]:
    """Operations that mix entries, all of them Lipschitz: sums, products, maxima, moves."""
    name = eqn.primitive.name
    base = walk.combined(values)
    rootable = all(v.sound and v.rootable for v in values) and name in (
        "reduce_sum", "reduce_max", "reduce_min", "gather", "dynamic_slice", "concatenate", "cumsum",
        "pad", "tile", "dot_general", "reduce_prod",
    )  # fmt: skip
    rootable |= (
        name == "dot_general"
        and values[0].number == values[1].number
        and values[0].sound
        and _squares(eqn)
    )
    own = dictionary(name, [v.range for v in values], base.dictionary, None, True)
    out = []
    for i, var in enumerate(eqn.outvars):
        known = _range(walk, eqn, values) if len(eqn.outvars) == 1 else rg.ALL
        number = _number(walk, eqn, values, i)
        out.append(
            replace(
                base,
                range=known,
                number=number,
                dictionary=join(base.dictionary, own),
                rootable=rootable,
                follows=next((v.follows for v in values if v.follows), None)
                if not is_real(var.aval)
                else None,
            )
        )
    return out


def _convert(walk: Walk, eqn: Any, values: list[Known], where: Any) -> list[Known]:
    """A conversion to an integer is a truncation, one to a boolean a comparison with 0."""
    (value,) = values
    from_real, to = is_real(eqn.invars[0].aval), eqn.outvars[0].aval
    if from_real and not is_real(to) and not jax.numpy.issubdtype(to.dtype, np.complexfloating):
        good, why = DOMAINS["truncate"]
        if to.dtype == bool:
            good, why = DOMAINS["div"][0], "the conversion to a boolean jumps at 0"
            good = lambda a, nonzero=good: nonzero(a, a)
        if not np.all(good(value.range)):
            fault = walk.offence("convert_element_type", where, why)
            base = walk.combined(values)
            faults = {**base.faults, fault: None}
            number = walk.expressions.opaque(to.shape)
            return [replace(base, range=_converted(eqn, value.range), number=number, faults=faults)]
        return [Known(_converted(eqn, value.range), walk.expressions.opaque(to.shape))]
    return [replace(value, range=_converted(eqn, value.range))]


def _stop(walk: Walk, eqn: Any, values: list[Known], where: Any) -> list[Known]:
    (value,) = values
    traceback = eqn.source_info.traceback
    frames = [] if traceback is None else list(traceback.frames)
    names = [f.function_name for f in frames]
    at = names.index("stop_gradient") + 1 if "stop_gradient" in names else 0
    caller = frames[at].file_name if at < len(frames) else ""
    if (
        caller.startswith(_JAX) or not value.varied
    ):  # JAX keeps a shift of its own from the derivative
        return [value]
    note = "its value varies, its automatic derivative is 0: no conservative field unless you know better"
    return [replace(value, notes=value.notes | {walk.offence("stop_gradient", where, note)})]


def _concatenated(walk: Walk, eqn: Any, values: list[Known], where: Any) -> list[Known]:
    """Conditions side by side, as jnp.select lays them, are remembered one by one."""
    (joined,) = _mixing(walk, eqn, values)
    if eqn.outvars[0].aval.dtype != bool:
        return [joined]
    if eqn.primitive.name == "stack":
        return [replace(joined, parts=(eqn.params["axis"], tuple(values)))]
    axis, shape = eqn.params["dimension"], eqn.outvars[0].aval.shape
    slim = shape[:axis] + shape[axis + 1 :]
    if any(v.aval.shape[axis] != 1 for v in eqn.invars):
        return [joined]

    def squeezed(n: int) -> int:
        return walk.expressions.make("squeeze", axis, [n], slim)

    parts = [
        replace(
            v,
            number=squeezed(v.number),
            range=rg.hulled(v.range),
            tears=frozenset(Switch(squeezed(t.left), squeezed(t.right), t.place) for t in v.tears),
            faults=dict.fromkeys(v.faults),
        )
        for v in values
    ]
    return [replace(joined, parts=(axis, tuple(parts)))]


def _first_true(walk: Walk, aval: Any, parts: Sequence[Known]) -> Known:
    """The place of the first condition that holds; 0 if none does."""
    found = walk.constant(np.zeros(aval.shape))
    for i, part in reversed(list(enumerate(parts))):
        found = chosen_at(walk, part, [found, walk.constant(np.full(aval.shape, float(i)))], aval)
    return found


def _ordered(walk: Walk, eqn: Any, values: list[Known], where: Any) -> list[Known]:
    """Sorted values are Lipschitz; the order itself, and what is carried along, jumps at ties."""
    name = eqn.primitive.name
    if (
        name == "argmax"
        and values[0].parts is not None
        and eqn.params["axes"] == (values[0].parts[0],)
    ):
        return [_first_true(walk, eqn.outvars[0].aval, values[0].parts[1])]
    base, key = walk.combined(values), values[0]
    fault = walk.offence(name, where, "the order jumps where two entries are equal")
    jumping = {**base.faults, fault: None}
    out = []
    for i, var in enumerate(eqn.outvars):
        number = _number(walk, eqn, values, i)
        follows = (key.number, fault)
        only_order = name in ("argmax", "argmin") or not is_real(var.aval)
        if name == "sort" and eqn.params["num_keys"] > 1:
            out.append(replace(base, number=number, faults=jumping))
        elif only_order and i < len(values) + 2:
            n = Range(np.array(0.0), np.array(float(max(size_of(eqn.invars[0].aval) - 1, 0))))
            if not key.varied:
                jumping_here: Any = base.faults
            else:
                jumping_here = jumping
            out.append(replace(base, number=number, range=n, faults=jumping_here, follows=follows))
        elif i == 0 or not key.varied or values[i].number == key.number:
            out.append(
                replace(base, number=number, range=rg.hulled(key.range), rootable=key.rootable)
            )
        else:
            out.append(replace(base, number=number, faults=jumping))
    return out


def _gather(walk: Walk, eqn: Any, values: list[Known], where: Any) -> list[Known]:
    """Entries of x in the order of a sort of x, or its largest: then the order's jump is undone."""
    array, *indices = values
    undone = {
        v.follows[1] for v in indices if v.follows is not None and v.follows[0] == array.number
    }
    kept = [
        replace(v, faults={n: m for n, m in v.faults.items() if n not in undone}) for v in indices
    ]
    return _mixing(walk, eqn, [array, *kept])


def _invertible(a: Range, n: int) -> bool:
    """Whether every matrix of a box is invertible: σ_min of the centre exceeds ‖radius‖_F."""
    if a.lo.shape != (n, n) or not a.bounded:
        return False
    centre, radius = (a.lo + a.hi) / 2, (a.hi - a.lo) / 2
    smallest = float(np.linalg.svd(centre, compute_uv=False)[-1]) if n else np.inf
    return smallest > float(np.linalg.norm(radius)) + 1e-12 * float(np.abs(centre).max(initial=0))


def _factorised(walk: Walk, eqn: Any, values: list[Known], where: Any) -> list[Known]:
    """Factorisations: singular values and eigenvalues are Lipschitz, the rest where it is determined."""
    name, base = eqn.primitive.name, walk.combined(values)
    n = eqn.invars[0].aval.shape[-1]
    a = values[0].range
    out = []
    for i, var in enumerate(eqn.outvars):
        number = _number(walk, eqn, values, i)
        result = replace(base, number=number)
        smaller = len(var.aval.shape) < len(eqn.invars[0].aval.shape)
        why = ""
        if name == "cholesky":
            symmetric = Range((a.lo + a.lo.T) / 2, (a.hi + a.hi.T) / 2) if a.lo.ndim == 2 else a
            positive = (
                _invertible(symmetric, n)
                and float(np.linalg.eigvalsh((symmetric.lo + symmetric.hi) / 2)[0]) > 0
            )
            if not positive:
                why = "Lipschitz where the matrix is positive definite, which was not shown"
        elif name == "triangular_solve":
            if a.lo.shape == (n, n):
                diagonal = Range(np.diag(a.lo), np.diag(a.hi))
                fine = eqn.params["unit_diagonal"] or diagonal.avoids(0)
            else:
                fine = eqn.params["unit_diagonal"] or a.avoids(0)
            why = "" if fine else "the diagonal can be 0"
        elif name in ("eigh", "svd") and smaller:
            if name == "svd":
                result = replace(result, range=Range(np.array(0.0), np.array(np.inf)))
        else:
            why = {
                "eigh": "eigenvectors turn abruptly where eigenvalues meet, and have no sign",
                "svd": "singular vectors turn abruptly where singular values meet, and have no sign",
                "qr": "the signs of the factors jump, and they are undetermined at rank deficiency",
                "lu": "pivoting jumps, and the factors are undetermined at singular matrices",
            }.get(name, "its result can jump")
        if why and values[0].varied:
            result = replace(result, faults={**base.faults, walk.offence(name, where, why): None})
        out.append(result)
    return out


def _linear_solve(walk: Walk, eqn: Any, values: list[Known], call: Any) -> list[Known]:
    """A⁻¹b, Lipschitz where A is invertible; how it is solved does not matter."""
    counts = eqn.params["const_lengths"]
    matrix = values[: counts.matvec]
    rhs = values[sum(counts) :]
    base = walk.combined([*matrix, *rhs])
    faults = dict(base.faults)
    square = [
        v for v in matrix if v.range.lo.ndim == 2 and v.range.lo.shape[0] == v.range.lo.shape[1]
    ]
    fixed = not any(v.varied for v in matrix)
    shown = (
        len(matrix) == 1
        and len(square) == 1
        and _invertible(square[0].range, square[0].range.lo.shape[0])
    )
    if not (fixed or shown):
        why = "Lipschitz where the matrix is invertible, which was not shown"
        faults[walk.offence("solve", call or eqn, why)] = None
    return [
        replace(base, number=walk.expressions.opaque(v.aval.shape), faults=faults)
        for v in eqn.outvars
    ]


def _called(walk: Walk, eqn: Any, closed: Any, values: list[Known], call: Any) -> list[Known]:
    function = function_of_jax(closed)
    if function in _WRAPPED and values[1].range.decided and np.all(values[1].range.lo != 0):
        return _in_turns(walk, eqn, values, function, call or eqn)
    if function in _FUNCTIONS and not (
        function.endswith("det") and eqn.invars[0].aval.shape[-1] <= _SMALL
    ):
        base = walk.combined(values)
        own = _FUNCTIONS[function]
        if own == "BOUNDED" and all(v.range.bounded for v in values):
            own = "AN"
        elif own == "BOUNDED":
            walk.outside_of(function, call or eqn, "definable on bounded sets only")
        return [
            replace(
                base,
                number=walk.expressions.opaque(v.aval.shape),
                dictionary=join(base.dictionary, own),
            )
            for v in eqn.outvars
        ]
    return walk.called(closed, eqn, values, call)


def _in_turns(walk: Walk, eqn: Any, values: list[Known], function: str, where: Any) -> list[Known]:
    """The remainder of x by a constant, or the number of turns: both jump at its multiples."""
    base = walk.combined(values)
    aval = eqn.outvars[0].aval
    turns = Range(*sorted_ends(values[0].range, values[1].range))
    faults = dict(base.faults)
    if values[0].varied and not np.all(DOMAINS["floor"][0](turns)):
        faults[walk.offence(function, where, "it jumps at the multiples of the divisor")] = None
    own = dictionary("floor", [turns], base.dictionary, None, False)
    if own == "BOUNDED":
        walk.outside_of(
            function, where, "definable on bounded sets only, and its operand is not bounded"
        )
    known = Range(np.minimum(values[1].range.lo, 0), np.maximum(values[1].range.hi, 0))
    if function == "floor_divide":
        known = Range(np.floor(turns.lo), np.floor(turns.hi))
    number = walk.expressions.make(function, None, [v.number for v in values], aval.shape)
    return [
        replace(
            base, range=known, number=number, faults=faults, dictionary=join(base.dictionary, own)
        )
    ]


def _custom(walk: Walk, eqn: Any, values: list[Known], call: Any) -> list[Known]:
    """JAX's own rules are trusted; an implicit function is named; a user's rule is noted."""
    closed = next(eqn.params[k] for k in ("call_jaxpr", "fun_jaxpr", "jaxpr") if k in eqn.params)
    body = opened(closed)[0]
    function = function_name(body)
    root = roots.find(function)
    if root is not None:
        return _implicit(walk, eqn, values, call, root)
    if defined_in_jax(body):
        return _called(walk, eqn, closed, values, call)
    outs = walk.called(closed, eqn, values, call)
    if not any(v.varied for v in values):
        return outs
    note = walk.offence(function, call or eqn, "its derivative rule is your own, taken as given")
    return [replace(o, notes=o.notes | {note}) for o in outs]


def _implicit(walk: Walk, eqn: Any, values: list[Known], call: Any, root: Any) -> list[Known]:
    """The implicit function lives in the dictionary of its equation (Theorem 5 of Bolte et al. 2021)."""
    where = call or eqn
    hoisted = eqn.params.get("num_consts", 0)
    kept = [values[hoisted + i] for i in root.inputs]
    solution = [v.aval for v in eqn.outvars[: root.leaves]]
    avals = [eqn.invars[hoisted + i].aval for i in root.inputs]
    residual = root.residual_of([*solution, *avals])
    base = walk.combined(kept)
    unknowns = [
        replace(base, number=walk.expressions.opaque(a.shape), varied=True, faults={})
        for a in solution
    ]
    outs = [] if residual is None else walk.run(residual, [*unknowns, *kept], where)
    all_of = walk.combined([base, *outs])
    if residual is None:
        fault = walk.offence("solve", where, "a solve under a vmap within a vmap cannot be read")
        all_of = replace(all_of, faults={**all_of.faults, fault: None})
    solve = walk.offence(
        "solve",
        where,
        "Lipschitz where every element of ∂F/∂y is invertible: certified by cx.check",
    )
    if not root.hidden:
        all_of = replace(all_of, solves=all_of.solves | {solve})
    return [
        replace(
            all_of if i < root.leaves else walk.combined(values),
            number=walk.expressions.opaque(v.aval.shape),
        )
        for i, v in enumerate(eqn.outvars)
    ]


def _marked(walk: Walk, eqn: Any, values: list[Known], where: Any, name: str) -> list[Known]:
    """Functions of the calculus' own table: norms, projections and proximal operators are Lipschitz."""
    base = walk.combined(values)
    known = rg.ALL
    if name == "conservax.norm":
        known = Range(np.array(0.0), np.array(np.inf), above=values[-1].range.avoids(0))
    dictionary_ = join(base.dictionary, TABLE[name].dictionary)
    if "exp" in name.rsplit(".", 1)[-1] or "logistic" in name:
        dictionary_ = join(dictionary_, "EXP")
    key = (name, str(eqn.outvars[0].aval.shape), str(eqn.invars[-1].aval.shape))
    return [
        replace(
            base,
            number=walk.expressions.make(
                name, (key, i), [v.number for v in values], var.aval.shape
            ),
            range=known,
            dictionary=dictionary_,
        )
        for i, var in enumerate(eqn.outvars)
    ]


def _abs(walk: Walk, eqn: Any, values: list[Known], where: Any) -> list[Known]:
    if jax.numpy.issubdtype(eqn.invars[0].aval.dtype, np.complexfloating):
        base = walk.combined(values)
        known = Range(np.array(0.0), np.array(np.inf))
        return [replace(base, number=_number(walk, eqn, values), range=known)]
    return [_entrywise(walk, eqn, values, where)]


_RULES: dict[str, Callable[[Walk, Any, list[Known], Any], list[Known]]] = {
    **dict.fromkeys(_COMPARE, _compare),
    **dict.fromkeys(("sort", "top_k", "argmax", "argmin"), _ordered),
    **dict.fromkeys(("cholesky", "qr", "lu", "eigh", "svd", "triangular_solve"), _factorised),
    **dict.fromkeys(("gather", "dynamic_slice"), _gather),
    **dict.fromkeys(("square", "integer_pow"), lambda w, e, v, s: [_entrywise(w, e, v, s)]),
    "abs": _abs,
    **dict.fromkeys(("concatenate", "stack"), _concatenated),
    "sign": _sign,
    "select_n": _select,
    "convert_element_type": _convert,
    "stop_gradient": _stop,
}
from .definability_loops import CONTROL as _LOOPS  # noqa: E402

_CONTROL = {**_LOOPS, "custom_linear_solve": _linear_solve}
