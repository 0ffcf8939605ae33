"""Loops and branches in the walk behind ``definability``."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..tracing.jaxprs import opened
from . import ranges as rg
from .ranges import Range
from .walk import Known, Walk

_WRITTEN_OUT = 64  # turns of a loop that are followed one by one, while the walk's budget lasts
_TURNS = 2048  # of a while loop, for which a bound on its turns is looked for
_PASSES = (
    12  # until the state of a loop must have settled; ranges are sent to infinity from the third
)


def _entry(walk: Walk, value: Known, i: int, shape: tuple[int, ...]) -> Known:
    """Entry i along the first axis."""
    whole = walk.whole(value)
    r = whole.range
    known = (
        Range(r.lo[i], r.hi[i], r.above, r.below) if r.lo.shape and r.lo.shape[1:] == shape else r
    )
    number = walk.expressions.make("entry", i, [whole.number], shape)
    return replace(whole, range=known, number=number, faults=dict.fromkeys(whole.faults))


def _settled(walk: Walk, values: Sequence[Known], shape: tuple[int, ...]) -> Known:
    """What holds for a value whichever of these it is."""
    base = walk.combined(values)
    return replace(
        base,
        range=rg.union([rg.hulled(v.range) for v in values]),
        number=walk.expressions.opaque(shape),
        rootable=all(v.rootable and v.sound for v in values),
    )


def _stable(
    walk: Walk,
    body: Callable[[list[Known]], list[Known]],
    carry: list[Known],
    shapes: Sequence[tuple[int, ...]],
) -> tuple[list[Known], list[Known]]:
    """A state that the body of a loop maps into itself, ranges sent to infinity until it does."""
    state = [_settled(walk, [c], s) for c, s in zip(carry, shapes, strict=True)]
    outs = body(state)
    for turn in range(_PASSES):
        merged = [_settled(walk, [s, o], n) for s, o, n in zip(state, outs, shapes, strict=False)]
        if turn >= 2:
            merged = [
                replace(m, range=rg.widened(s.range, m.range))
                for m, s in zip(merged, state, strict=True)
            ]
        same = all(_alike(m, s) for m, s in zip(merged, state, strict=True))
        state = merged
        if same:
            break
        outs = body(state)
    return state, outs


def _alike(a: Known, b: Known) -> bool:
    ranges = np.array_equal(a.range.lo, b.range.lo) and np.array_equal(a.range.hi, b.range.hi)
    return (
        bool(ranges)
        and (a.range.above, a.range.below, a.varied, a.dictionary, a.rootable)
        == (b.range.above, b.range.below, b.varied, b.dictionary, b.rootable)
        and set(a.faults) == set(b.faults)
        and (a.notes, a.solves) == (b.notes, b.solves)
    )


def _scan(walk: Walk, eqn: Any, values: list[Known], call: Any) -> list[Known]:
    """A loop of static length: written out while it is short, else by a state that does not change."""
    p = eqn.params
    first, last = p["num_consts"], p["num_consts"] + p["num_carry"]
    consts, carry, xs = values[:first], values[first:last], values[last:]
    body, length = p["jaxpr"], p["length"]
    jaxpr = opened(body)[0]
    slices = [v.aval.shape for v in jaxpr.invars[last:]]
    collected: list[list[Known]] = []
    if length <= _WRITTEN_OUT and length * len(jaxpr.eqns) < walk.budget:
        order = range(length - 1, -1, -1) if p["reverse"] else range(length)
        for i in order:
            entries = [_entry(walk, x, i, s) for x, s in zip(xs, slices, strict=True)]
            outs = walk.called(body, eqn, [*consts, *carry, *entries], call)
            carry = outs[: p["num_carry"]]
            collected.append(outs[p["num_carry"] :])
    else:
        entries = [_settled(walk, [x], s) for x, s in zip(xs, slices, strict=True)]
        shapes = [v.aval.shape for v in jaxpr.invars[first:last]]

        def run(state: list[Known]) -> list[Known]:
            return walk.called(body, eqn, [*consts, *state, *entries], call)

        carry, outs = _stable(walk, run, carry, shapes)
        collected.append(outs[p["num_carry"] :])
    ys = [
        _settled(walk, [turn[j] for turn in collected], v.aval.shape)
        if collected
        else walk.combined([])
        for j, v in enumerate(eqn.outvars[p["num_carry"] :])
    ]
    return [*carry, *ys]


def _while(walk: Walk, eqn: Any, values: list[Known], call: Any) -> list[Known]:
    """Followed until its condition is certainly false; where it depends on the input, the turns jump."""
    p = eqn.params
    split = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
    test, body, carry = values[: split[0]], values[split[0] : split[1]], values[split[1] :]
    shapes = [v.aval.shape for v in eqn.outvars]
    exits: list[list[Known]] = []
    conditions: list[Known] = []
    before: list[Known] = []
    for turn in range(_TURNS):
        (go,) = walk.called(p["cond_jaxpr"], eqn, [*test, *carry], call)
        if not go.range.exceeds(0):
            exits.append(carry)
            conditions.append(go)
        if go.range.under(1):  # certainly false
            break
        if walk.budget < 0 or (turn and all(map(_alike, carry, before))):
            turn = _TURNS - 1  # nothing changes any more: no counter will end it
            break
        before = carry
        if turn > 1 and len(exits) > 1:  # only counters need to be followed exactly
            carry = [
                c if c.range.decided and not c.varied else replace(c, range=rg.hulled(c.range))
                for c in carry
            ]
        carry = walk.called(p["body_jaxpr"], eqn, [*body, *carry], call)
    else:
        turn = _TURNS
    if turn >= _TURNS - 1:
        return _unbounded(walk, eqn, values, call)
    if len(exits) == 1:
        return exits[0]
    outs = [
        _settled(walk, list(one), s)
        for one, s in zip(zip(*exits, strict=True), shapes, strict=True)
    ]
    where = call or eqn
    fault = walk.offence("while", where, "the number of turns depends on the input, and may jump")
    of_test = walk.combined(conditions)
    return [
        replace(
            o,
            varied=o.varied or of_test.varied,
            faults={**o.faults, fault: None},
            dictionary=max(o.dictionary, of_test.dictionary, key=_rank),
        )
        for o in outs
    ]


def _rank(name: str) -> int:
    from .dictionaries import ORDER

    return ORDER.index(name)


def _unbounded(walk: Walk, eqn: Any, values: list[Known], call: Any) -> list[Known]:
    why = "no bound on the number of turns was found"
    where = call or eqn
    walk.outside_of("while", where, why)
    base = walk.combined(values)
    faults = {**base.faults, walk.offence("while", where, why): None}
    return [
        replace(
            base,
            number=walk.expressions.opaque(v.aval.shape),
            dictionary="UNKNOWN",
            faults=faults,
        )
        for v in eqn.outvars
    ]


def _cond(walk: Walk, eqn: Any, values: list[Known], call: Any) -> list[Known]:
    """A branch that is decided runs alone; else the branches must agree at the switch, as in a where."""
    from .entries import chosen_at

    index, *operands = values
    branches = eqn.params["branches"]
    if index.range.decided:
        i = int(np.clip(index.range.lo.flat[0], 0, len(branches) - 1))
        return walk.called(branches[i], eqn, operands, call)
    results = [walk.called(b, eqn, operands, call) for b in branches]
    return [
        chosen_at(walk, index, list(cases), var.aval)
        for cases, var in zip(zip(*results, strict=True), eqn.outvars, strict=True)
    ]


CONTROL = {"scan": _scan, "while": _while, "cond": _cond}
