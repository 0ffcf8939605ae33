"""Step functions as comparisons with their nearest step: floor, round, argmax, the order of a sort.

The second reading of a program (``both_sides.py``) tears them. An extremum that several entries share has one
leader and several rivals: each pass over the program holds one rival against the leader, and ``cuts/rivals.py``
makes one tie of all passes. So do entries that tie in a sort: each pass takes one of their other orders.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..operations.mixtures import carrying
from ..operations.sorting import gaps
from ..operations.tape import Tape
from ..operations.torn import Steering, Torn
from ..tracing.jaxprs import bind
from ..tracing.planner import Planner
from ..tracing.program import Info, Scope, Step
from .sides import Value

_EXTREMA = ("argmax", "argmin")
# How many other orders the entries of a sort have that tie, by their number: each takes a pass.
_COUNTS = {r: math.factorial(r) - 1 for r in (2, 3, 4)}
LONGEST_RUN = max(_COUNTS)
STEPS = {"floor", "ceil", "round", "truncate", *_EXTREMA}


def plan_tear(
    planner: Planner,
    step: Step,
    name: str,
    operands: Sequence[Info],
    scope: Scope,
    at: int,
    plain: list[Info],
) -> list[Info] | None:
    """A step function as a comparison with its nearest step; None for what has no two sides."""
    eqn = step.eqn
    if scope.whiles or eqn.outvars[0].aval.dtype == bool:
        return None
    if name == "sort":
        if eqn.params["num_keys"] > 1 or eqn.outvars[0].aval.ndim > 1 or not any(step.felt[1:]):
            return None
        pairs = (eqn.outvars[0].aval.shape[0] - 1,)
        if pairs[0] < 1 or pairs[0] >= planner.places:
            return None
        planner.add_site(step, "sort", "comparison", pairs, None, scope, at)
        planner.add_site(step, "sort", "order", (pairs[0] + 1,), None, scope, at)
        planner.add_site(step, "sort", "run", (pairs[0] + 1,), None, scope, at)
        step.action = "torn_sort"
        varied = [step.in_varied[0], *step.in_varied[1:]]
        return [p._replace(torn=True, varied=v) for p, v in zip(plain, varied, strict=True)]
    shape = eqn.outvars[0].aval.shape
    if name in _EXTREMA:
        entries = eqn.invars[0].aval.shape[eqn.params["axes"][0]]
        if entries < 2 or entries > planner.places:
            return None
    step.action, step.entry = "tear", name
    # floor and ceil of one number tie together
    kind = "integer" if name in ("floor", "ceil", "truncate") else name
    key = (kind, operands[0].number, shape, str(eqn.params.get("axes", "")))
    step.first = key not in planner.comparisons
    if step.first:
        planner.comparisons[key] = next(planner.comparison_numbers)
        if name in _EXTREMA:
            planner.add_site(step, name, "rival", (2, *shape), None, scope, at)
        planner.add_site(step, name, "comparison", shape, None, scope, at)
    step.comparison = planner.comparisons[key]
    return [plain[0]._replace(torn=True)]


def tear(step: Step, operands: Sequence[Value], tape: Tape) -> list[Value]:
    """A step function, torn at its nearest step."""
    (operand,) = operands
    x = operand.value
    (value,) = bind(step.eqn, jax.lax.stop_gradient(x))
    size = operand.measure if tape.measures else jnp.zeros(jnp.shape(x))
    nearest = jax.lax.stop_gradient(jnp.round(x))
    name = step.entry
    if name in _EXTREMA:
        if step.first:
            tape.torn[step.comparison] = _leader_and_rival(step, x, size, value, tape)
        leader, rival, above, steering = tape.torn[step.comparison]
        ends = (leader.astype(value.dtype), rival.astype(value.dtype))
        return [Value(value, torn=Torn(*ends, above, steering))]
    if name == "round":
        floor = jax.lax.stop_gradient(jnp.floor(x))
        z, upper, lower = x - (floor + 0.5), floor + 1, floor
    elif name == "floor":
        z, upper, lower = x - nearest, nearest, nearest - 1
    elif name == "ceil":
        z, upper, lower = x - nearest, nearest + 1, nearest
    else:
        z = x - nearest  # towards zero: no step at 0 itself
        upper = jnp.where(nearest < 0, nearest + 1, nearest)
        lower = jnp.where(nearest > 0, nearest - 1, nearest)
    if step.first:
        tape.torn[step.comparison] = tape.compare(z, size, "upper")
    above, steering = tape.torn[step.comparison]
    ends = (upper.astype(value.dtype), lower.astype(value.dtype))
    return [Value(value, torn=Torn(*ends, above, steering))]


def _leader_and_rival(
    step: Step, x: Any, size: Any, leader: Any, tape: Tape
) -> tuple[Any, Any, Any, Steering]:
    """The places of the largest (smallest) entry and of the rival that this pass holds against it.

    Rivals are the entries that tie with the leader, the nearest first; where none does, the runner-up.
    """
    (axis,) = step.eqn.params["axes"]
    u = x if step.entry == "argmax" else -x
    still = jax.lax.stop_gradient(u)
    order = jnp.arange(x.shape[axis]).reshape([-1 if d == axis else 1 for d in range(x.ndim)])

    def entry(a: Any, place: Any) -> Any:
        place = jnp.expand_dims(place, axis)
        return jnp.squeeze(jnp.take_along_axis(a, place, axis=axis), axis)

    others = order != jnp.expand_dims(leader, axis)
    behind = jnp.expand_dims(entry(still, leader), axis) - still
    near: Any = others & jnp.isfinite(behind)
    if tape.measures:
        sizes = size + jnp.expand_dims(entry(size, leader), axis)
        near &= behind <= tape.atol + tape.rtol * jnp.maximum(sizes, behind)
    count = jnp.sum(near, axis=axis)
    candidates = others & (near | jnp.expand_dims(count == 0, axis))
    if tape.rival is None:
        rival = jnp.argmax(jnp.where(candidates, still, -jnp.inf), axis=axis)
        rival = jnp.where(rival == leader, jnp.where(leader == 0, 1, 0), rival)  # all infinite
    else:
        ranked = jnp.argsort(jnp.where(candidates, behind, jnp.inf), axis=axis, stable=True)
        rival = entry(ranked, jnp.clip(tape.rival, 0, jnp.maximum(count - 1, 0)))
    places = jnp.stack([leader, rival.astype(leader.dtype)])
    more = count > (1 if tape.rival is None else tape.rival + 1)
    leader, rival = tape.rivals(jnp.broadcast_to(more, places.shape), places)
    z = entry(u, leader) - entry(u, rival)
    return leader, rival, *tape.compare(z, entry(size, leader) + entry(size, rival), "upper")


def torn_sort(step: Step, operands: Sequence[Value], tape: Tape) -> list[Value]:
    """A sort of one axis: entries that tie leave in the order they have, or in one other (``Tape.rival``)."""
    values = [jnp.asarray(o.value) for o in operands]
    outs = bind(step.eqn, *values)
    key = values[0]
    order = jnp.argsort(jax.lax.stop_gradient(key), stable=True)
    size = operands[0].measure if tape.measures else jnp.zeros(key.shape)
    ordered, sizes = key[order], size[order]
    above, pair = tape.compare(gaps(ordered), sizes[1:] + sizes[:-1], "upper")
    place = jnp.arange(len(order))
    edge = jnp.zeros(1, bool)
    before = _in_a_row(jnp.concatenate([edge, pair.active]), -1)  # joined to the entry before
    after = _in_a_row(jnp.concatenate([pair.active, edge]), 1)
    start, length = place - before, before + after + 1
    tied, swaps, more, long = length > 1, place, edge, edge
    if tape.measures:
        swaps = _other_order(start, place + after, place, tape.rival)
        count: Any = 0
        for r, orders in _COUNTS.items():
            count = jnp.where(length == r, orders, count)
        more = count > (1 if tape.rival is None else tape.rival + 1)
        long = (length > LONGEST_RUN) & (place < step.read)
    swapped = tape.rivals(more, swaps)
    tape.jump(jnp.where(jnp.broadcast_to(long, place.shape), 0.0, jnp.inf), 1.0)

    def of_first_pair(part: Any) -> Any:
        return jnp.concatenate([part, jnp.zeros(1, part.dtype)])[start]

    slot, q = (of_first_pair(part) for part in (pair.slot, pair.q))
    steering = Steering(tied, jnp.where(tied, slot, -1), q)
    results = []
    for out, value, operand in zip(outs, values, operands, strict=True):
        upper, lower = carrying_all(out, value[order]), value[order[swapped]]
        measure = None
        if tape.measures and jnp.issubdtype(out.dtype, jnp.floating):
            measure = jnp.broadcast_to(jnp.max(operand.measure, initial=0.0), out.shape)
        results.append(Value(out, measure, Torn(upper, lower, of_first_pair(above), steering)))
    return results


def _in_a_row(joined: Any, step: int) -> Any:
    """How many in a row, from each place on (forwards, or backwards for −1), at most the longest run."""
    count, on, n = joined.astype(jnp.int32), joined, len(joined)
    edge = jnp.zeros(LONGEST_RUN, bool)
    padded = jnp.concatenate([edge, joined, edge])
    for i in range(1, LONGEST_RUN):
        first = LONGEST_RUN + i * step
        on = on & jax.lax.slice_in_dim(padded, first, first + n)
        count = count + on
    return count


def _other_order(start: Any, end: Any, place: Any, number: Any) -> Any:
    """Where each place takes its entry from, in the ``number``-th other order of its run; the first is None."""
    length = end - start + 1
    fits = (length > 1) & (length <= LONGEST_RUN)
    if number is None:  # the last two change places
        swapped = jnp.where(place == end, place - 1, jnp.where(place == end - 1, end, place))
        return jnp.where(fits, swapped, place)
    table = np.zeros((LONGEST_RUN + 1, _COUNTS[LONGEST_RUN], LONGEST_RUN), np.int32)
    counts = np.zeros(LONGEST_RUN + 1, np.int32)
    for r, count in _COUNTS.items():
        counts[r] = count
        table[r, :count, :r] = list(itertools.permutations(range(r)))[1:]
    own = jnp.where(fits, length, 0)
    at = jnp.clip(number, 0, jnp.maximum(jnp.asarray(counts)[own] - 1, 0))
    moved = start + jnp.asarray(table)[own, at, jnp.clip(place - start, 0, LONGEST_RUN - 1)]
    return jnp.where(fits, moved, place)


def carrying_all(value: Any, carrier: Any) -> Any:
    """``value`` with the derivative of ``carrier``, where it has one."""
    return carrying(value, carrier) if jnp.issubdtype(value.dtype, jnp.floating) else value
