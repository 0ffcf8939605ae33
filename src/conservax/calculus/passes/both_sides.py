"""Programs that jump and mend it later: both sides of a torn value go on until they meet.

The second reading of a program, taken where the first one refuses a jump. A value that a comparison tears
keeps its two sides, varied ones too, through all that works entry by entry, moves or sums entries; steps are
torn like comparisons (``steps.py``). Only where sides are needed as one, or entries that different comparisons
tear are summed, must they agree.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from ..operations import kinks
from ..operations.domains import edges_of
from ..operations.policy import Select
from ..operations.sizes import sizes_after
from ..operations.tape import Tape
from ..operations.torn import Steering, Torn
from ..tracing import smooth
from ..tracing.jaxprs import bind
from ..tracing.planner import Planner
from ..tracing.program import Info, Scope, Step
from .grouping import grouped
from .sides import Value, branched, spread_of

_KINKS = {"max", "min", "abs", "clamp"}
_SUMS = {"reduce_sum", "reduce_prod"}


def plan_both_sides(
    planner: Planner, step: Step, operands: Sequence[Info], scope: Scope, at: int, plain: list[Info]
) -> list[Info] | None:
    """Let both sides of torn operands through, if the operation can; None if it cannot."""
    eqn, name = step.eqn, step.eqn.primitive.name
    torn = [i for i, o in enumerate(operands) if o.torn]
    out = eqn.outvars[0].aval
    varied = any(o.varied for o in operands)
    if scope.whiles or len(eqn.outvars) > 1 or edges_of(step):
        return None
    steered = name == "gather" and torn == [1]
    if steered:  # the columns of one index must be torn by one comparison
        rows = eqn.invars[1].aval.shape[:-1]
        planner.add_site(step, "comparison", "jump", rows, None, scope, at)
    if steered and not varied:
        step.action = "both"
        return [plain[0]._replace(torn=True)]
    if not varied or not jnp.issubdtype(out.dtype, jnp.floating):
        return None
    shapes = {eqn.invars[i].aval.shape for i in torn}
    entrywise = name in smooth.ELEMENTWISE and shapes <= {(), out.shape}
    if name in _KINKS and entrywise and shapes == {out.shape}:
        step.action, step.entry = "sides", kinks.TABLE[name]
        _contend(planner, step, torn if len(torn) > 1 else (), scope, at)
        for _ in range(2):
            for operation, kind, shape, slopes in step.entry.sites(step, planner):
                planner.add_site(step, operation, kind, shape, slopes, scope, at)
        return [plain[0]._replace(torn=True, varied=True)]
    mixes = name in smooth.SMOOTH and name not in (*smooth.ELEMENTWISE, *smooth.STRUCTURAL)
    moves = name in smooth.JOINS or (name in smooth.STRUCTURAL and torn == [0])
    slices = name == "dynamic_slice" and 0 not in torn
    entrywise &= name in smooth.SMOOTH
    if not (entrywise or moves or slices or steered or mixes):
        return None
    step.action = "both"
    if name == "reduce_sum" and math.prod(eqn.invars[0].aval.shape) <= planner.places:
        step.groups, planner.torn_sums = planner.groups, True
    if step.groups:
        results = [math.prod(out.shape)]
        shape = (*out.shape, math.prod(eqn.invars[0].aval.shape) // max(1, *results))
        planner.add_site(step, "where", "places", shape, None, scope, at)
    if not (moves or steered) and (len(torn) > 1 or mixes):
        _contend(planner, step, torn, scope, at)
    return [plain[0]._replace(torn=True, varied=True)]


def _contend(planner: Planner, step: Step, places: Sequence[int], scope: Scope, at: int) -> None:
    """Where other comparisons than the one that leads tear entries, these must be whole at once."""
    for i in places:
        aval = step.eqn.invars[i].aval
        planner.add_site(step, "where", "mark", aval.shape, None, scope, at)
        if jnp.issubdtype(aval.dtype, jnp.floating):
            planner.add_site(step, "where", "branch", aval.shape, None, scope, at)
            planner.add_site(step, "where", "stand", aval.shape, None, scope, at)
        else:
            planner.add_site(step, "comparison", "index", aval.shape, None, scope, at)
    step.contend = tuple(places)


def both(step: Step, operands: Sequence[Value], tape: Tape) -> list[Value]:
    """The operation on the values, on the upper and on the lower sides."""
    if step.groups:
        operands = [grouped(step, operands[0], tape)]
    operands = _settled(step, operands, tape)
    if _indexed(step):
        operands[1] = one_index(operands[1], tape)
    standing, steering = _steering(step, operands, step.eqn.outvars[0].aval.shape)
    return on_both_sides(step, operands, standing, steering, tape)


def on_both_sides(
    step: Step, operands: Sequence[Value], standing: Any, steering: Steering, tape: Tape
) -> list[Value]:
    """The results on either side, given what steers them."""
    values = [o.value for o in operands]
    (out,) = bind(step.eqn, *values)
    above, below = _sides(operands)
    (upper,), (lower,) = bind(step.eqn, *above), bind(step.eqn, *below)
    size = None
    if tape.measures and jnp.issubdtype(out.dtype, jnp.floating):
        tau = tape.tau
        made = [
            sizes_after(
                step.eqn,
                at,
                [o.size for o in operands],
                [result],
                lambda *v: bind(step.eqn, *v),
                tau,
            )[0]
            for at, result in ((values, out), (above, upper), (below, lower))
        ]
        size = jnp.where(steering.active, jnp.maximum(made[1], made[2]), made[0])
    return [Value(out, size, Torn(upper, lower, standing, steering))]


def sides(step: Step, operands: Sequence[Value], tape: Tape) -> list[Value]:
    """A kink on either side, each with its own selection; where nothing is torn the lower one is idle."""
    operands = _settled(step, operands, tape)
    values = [jnp.asarray(o.value) for o in operands]
    out = step.entry.run(Select("jax"), step, *values)
    standing, steering = _steering(step, operands, out.shape)
    results = []
    for side, executed in zip(_sides(operands), (True, steering.active), strict=True):
        child = tape.masked(executed)
        if tape.measures:
            child.sizes = tuple(o.measure for o in operands)
        results.append(step.entry.run(child, step, *map(jnp.asarray, side)))
        if child is not tape:
            tape.absorb(child.outputs())
    out = jnp.where(steering.active, out, results[0])  # with the kinks of what is not torn
    size = None
    if tape.measures:
        measures = tuple(o.measure for o in operands)
        size = step.entry.size(step, values, measures, [out], tape.tau)[0]
    return [Value(out, size, Torn(results[0], results[1], standing, steering))]


def _settled(step: Step, operands: Sequence[Value], tape: Tape) -> list[Value]:
    """Operands of which only what one comparison tears, entry by entry of the result, is still torn."""
    settled = list(operands)
    if not step.contend:
        return settled
    lead: Any = 0
    shape = step.eqn.outvars[0].aval.shape
    for i in step.contend if tape.measures else ():
        steering = operands[i].torn.steering  # pyright: ignore[reportOptionalMemberAccess]
        slot = jnp.where(steering.active, steering.slot, -1)
        lead = jnp.maximum(lead, jnp.broadcast_to(_heard(step, slot, -1), shape))
    for i in step.contend:
        torn = operands[i].torn
        assert torn is not None
        steering = torn.steering
        other: Any = jnp.zeros(jnp.shape(operands[i].value), bool)
        if tape.measures:
            own = lead
            if step.eqn.primitive.name in _SUMS:
                own = jnp.broadcast_to(jnp.expand_dims(lead, step.eqn.params["axes"]), other.shape)
            elif _mixes(step):
                own = jnp.max(lead, initial=-1)
            other = steering.active & (steering.slot != own)
            if jnp.shape(other) != jnp.shape(operands[i].value):  # one for all entries
                other = jnp.any(other)
        other = tape.mark(other)
        settled[i] = whole_where(other, operands[i], torn, tape)
    return settled


def _indexed(step: Step) -> bool:
    """Whether only the indices of a gather are torn."""
    return step.eqn.primitive.name == "gather" and step.torn == (False, True)


def one_index(index: Value, tape: Tape) -> Value:
    """Indices whose columns (last axis) are torn together: by one comparison, or there is a jump."""
    torn = index.torn
    assert torn is not None
    on = torn.steering.active

    def widest(part: Any, blank: Any) -> Any:
        return jnp.max(jnp.where(on, part, blank), axis=-1, keepdims=True)

    slot, active = widest(torn.steering.slot, -1), jnp.any(on, axis=-1, keepdims=True)
    several = jnp.any(on & (torn.steering.slot != slot), axis=-1)
    tape.jump(jnp.where(several, 0.0, jnp.inf), 1.0)
    upper, lower = (jnp.where(on, side, index.value) for side in (torn.upper, torn.lower))
    above = widest(jnp.asarray(torn.above, jnp.int32), 0) > 0
    steering = Steering(active, slot, widest(torn.steering.q, 0))
    return replace(index, torn=Torn(upper, lower, above, steering))


def _mixes(step: Step) -> bool:
    """Whether any entry of the operands may be in any entry of the result."""
    name = step.eqn.primitive.name
    if _indexed(step):
        return False
    return name not in (*smooth.ELEMENTWISE, *smooth.STRUCTURAL)


def _heard(step: Step, part: Any, blank: Any) -> Any:
    """The largest of what has a say in each entry of the result."""
    if step.eqn.primitive.name in _SUMS:
        return jnp.max(part, axis=step.eqn.params["axes"], initial=blank)
    return jnp.max(part, initial=blank) if _mixes(step) else part


def whole_where(other: Any, operand: Value, torn: Torn, tape: Tape) -> Value:
    """An operand made whole at some entries, where both sides must agree."""
    steering = torn.steering
    value = jnp.asarray(operand.value)
    rest = steering._replace(active=steering.active & ~other)
    if not jnp.issubdtype(value.dtype, jnp.floating):
        apart = steering.active & other & (torn.upper != torn.lower)
        tape.jump(jnp.where(apart, 0.0, jnp.inf), 1.0)
        return replace(operand, torn=torn._replace(steering=rest))
    here = torn._replace(steering=steering._replace(active=steering.active & other))
    upper, lower = (jnp.where(other, s, value) for s in (torn.upper, torn.lower))
    size = operand.measure if tape.measures else 0.0
    whole = branched(value, upper, lower, size, here, value, tape, stand=True).value
    at = [jnp.where(other, whole, a) for a in (value, torn.upper, torn.lower)]
    return Value(at[0], operand.size, Torn(at[1], at[2], torn.above, rest))


def _sides(operands: Sequence[Value]) -> tuple[list[Any], list[Any]]:
    """Upper and lower sides of all operands; where nothing is torn both are the value."""

    def at(side: Callable[[Torn], Any]) -> list[Any]:
        return [
            o.value if o.torn is None else jnp.where(o.torn.steering.active, side(o.torn), o.value)
            for o in operands
        ]

    return at(lambda t: t.upper), at(lambda t: t.lower)


def _steering(
    step: Step, operands: Sequence[Value], shape: tuple[int, ...]
) -> tuple[Any, Steering]:
    """Where the result stands and what decides it."""
    eqn, name = step.eqn, step.eqn.primitive.name
    torn = [o.torn for o in operands if o.torn is not None]
    if _indexed(step):

        def placed(part: Any) -> Any:
            dims = eqn.params["dimension_numbers"].offset_dims
            return jnp.broadcast_to(jnp.expand_dims(jnp.squeeze(part, -1), dims), shape)

        return jax.tree.map(placed, (torn[0].above, torn[0].steering))
    if name in smooth.JOINS or (len(torn) == 1 and not _mixes(step)):
        return spread_of(step, operands, shape)

    def together(part: Callable[[Torn], Any], blank: Any) -> Any:
        heard = [_heard(step, jnp.where(t.steering.active, part(t), blank), blank) for t in torn]
        return functools.reduce(jnp.maximum, [jnp.broadcast_to(h, shape) for h in heard])

    active = together(lambda t: t.steering.active.astype(jnp.int32), 0) > 0
    above = together(lambda t: jnp.asarray(t.above, jnp.int32), 0) > 0
    slot, q = together(lambda t: t.steering.slot, -1), together(lambda t: t.steering.q, 0)
    return above, Steering(active, slot, q)
