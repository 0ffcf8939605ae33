"""Operations entry by entry: domains, switches, choices, conversions."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from ..tracing.locations import _JAX
from . import ranges as rg
from .dictionaries import DOMAINS, EVERYWHERE, dictionary, join
from .operation_ranges import (
    LOGIC,
    chosen_range,
    converted_range,
    exponent_of,
    move_entries,
    moved_range,
    range_of,
)
from .ranges import Range
from .switches import Switch
from .walk import Known, Walk, is_real

_SAME = {"copy", "copy_p", "device_put", "name", "sharding_constraint", "optimization_barrier",
         "reduce_precision", "stop_gradient"}  # fmt: skip


def key_of(eqn: Any) -> Any:
    """What tells one equation of an operation from another."""
    name, p = eqn.primitive.name, eqn.params
    if name == "integer_pow":
        return p["y"]
    if name == "broadcast_in_dim":
        return tuple(p["shape"]), tuple(p["broadcast_dimensions"])
    return tuple(sorted((k, str(v)) for k, v in p.items() if k != "sharding"))


def number_of(walk: Walk, eqn: Any, values: Sequence[Known], result: int = 0) -> int:
    """The expression of one result; several results are told apart."""
    name, shape = eqn.primitive.name, eqn.outvars[result].aval.shape
    key = key_of(eqn) if len(eqn.outvars) == 1 else (key_of(eqn), result)
    if name in LOGIC and eqn.invars[0].aval.dtype != bool:
        name = f"bitwise {name}"  # the laws of truth values do not hold
    return walk.expressions.make(name, key, [v.number for v in values], shape)


def moved(walk: Walk, eqn: Any, value: Known) -> Known:
    """Entries moved about: so are the switches and the masks of the faults."""
    shape, before = eqn.outvars[0].aval.shape, eqn.invars[0].aval.shape
    store, name, key = walk.expressions, eqn.primitive.name, key_of(eqn)
    tears = frozenset(
        Switch(
            store.make(name, key, [t.left], shape),
            store.make(name, key, [t.right], shape),
            t.place,
        )
        for t in value.tears
    )
    faults = {
        n: move_entries(eqn, mask, shape) if mask is not None and mask.shape == before else None
        for n, mask in value.faults.items()
    }
    made = store.make(name, key, [value.number], shape)
    return replace(
        value, range=moved_range(eqn, value.range, shape), number=made, tears=tears, faults=faults
    )


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


def entrywise(walk: Walk, eqn: Any, values: list[Known], where: Any) -> Known:
    """An operation entry by entry: its domain, its dictionary, its switches."""
    name, aval = eqn.primitive.name, eqn.outvars[0].aval
    values = [_aligned(walk, v, aval.shape) for v in values]
    number = number_of(walk, eqn, values)
    known = range_of(walk, eqn, values)
    if not is_real(aval) and known.decided:
        return Known(known, number)
    operands = [v.range for v in values]
    below = join(*(v.dictionary for v in values))
    exponent = exponent_of(eqn, values)
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
    return True  # its jump is a switch: see sign


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


NOT_SHOWN = "its two sides were not shown to give the same value at the switch"


def compare(walk: Walk, eqn: Any, values: list[Known], where: Any) -> list[Known]:
    """A comparison that the ranges leave open is a switch."""
    shape = eqn.outvars[0].aval.shape
    values = [_aligned(walk, v, shape) for v in values]
    number, known = number_of(walk, eqn, values), range_of(walk, eqn, values)
    constant = walk.expressions[number].constant
    if constant is not None or known.decided:
        return [Known(known if constant is None else rg.point(constant), number)]
    base = walk.combined(values)
    place = walk.offence(eqn.primitive.name, where, NOT_SHOWN)
    tears = frozenset({Switch(values[0].number, values[1].number, place)})
    return [replace(base, number=number, range=known, tears=tears)]


def sign(walk: Walk, eqn: Any, values: list[Known], where: Any) -> list[Known]:
    """The sign is a step: a switch at 0."""
    (value,) = values
    known = range_of(walk, eqn, values)
    if value.range.avoids(0):
        return [Known(known, walk.expressions.opaque(eqn.outvars[0].aval.shape))]
    place = walk.offence("sign", where, "the sign jumps at 0")
    base = walk.combined(values)
    zero = walk.expressions.constant(0.0, eqn.outvars[0].aval.shape)
    tears = value.tears | {Switch(value.number, zero, place)}
    return [replace(base, number=number_of(walk, eqn, values), range=known, tears=tears)]


def select(walk: Walk, eqn: Any, values: list[Known], where: Any) -> list[Known]:
    """A choice among cases."""
    which, *cases = values
    return [chosen_at(walk, which, cases, eqn.outvars[0].aval)]


def chosen_at(walk: Walk, which: Known, cases: list[Known], aval: Any) -> Known:
    """A choice: what is decided takes its case alone; what is not must be continuous at its switch."""
    which, *cases = [_aligned(walk, v, aval.shape) for v in (which, *cases)]
    known = chosen_range(which.range, [c.range for c in cases])
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


def convert(walk: Walk, eqn: Any, values: list[Known], where: Any) -> list[Known]:
    """A conversion to an integer is a truncation, one to a boolean a comparison with 0."""
    (value,) = values
    from_real, to = is_real(eqn.invars[0].aval), eqn.outvars[0].aval
    if from_real and not is_real(to) and not jax.numpy.issubdtype(to.dtype, np.complexfloating):
        good, why = DOMAINS["truncate"]
        if to.dtype == bool:
            good, why = DOMAINS["div"][0], "the conversion to a boolean jumps at 0"
        operands = (value.range,) * (2 if to.dtype == bool else 1)
        if not np.all(good(*operands)):
            fault = walk.offence("convert_element_type", where, why)
            base = walk.combined(values)
            faults = {**base.faults, fault: None}
            number = walk.expressions.opaque(to.shape)
            return [
                replace(base, range=converted_range(eqn, value.range), number=number, faults=faults)
            ]
        return [Known(converted_range(eqn, value.range), walk.expressions.opaque(to.shape))]
    return [replace(value, range=converted_range(eqn, value.range))]


def bits(walk: Walk, eqn: Any, values: list[Known], where: Any) -> list[Known]:
    """The bits of a number, or a number of bits: neither follows the other continuously."""
    base = walk.combined(values)
    fault = walk.offence("bitcast_convert_type", where, "the bits of a number jump")
    number = walk.expressions.opaque(eqn.outvars[0].aval.shape)
    return [replace(base, number=number, faults={**base.faults, fault: None})]


def stop_gradient(walk: Walk, eqn: Any, values: list[Known], where: Any) -> list[Known]:
    """The identity, of which automatic differentiation knows nothing: named, unless JAX wrote it."""
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


def absolute(walk: Walk, eqn: Any, values: list[Known], where: Any) -> list[Known]:
    """The absolute value, or the modulus of a complex number."""
    if jax.numpy.issubdtype(eqn.invars[0].aval.dtype, np.complexfloating):
        base = walk.combined(values)
        known = Range(np.array(0.0), np.array(np.inf))
        return [replace(base, number=number_of(walk, eqn, values), range=known)]
    return [entrywise(walk, eqn, values, where)]
