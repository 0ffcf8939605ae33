"""Values on their way through a program, and operations on both sides of a torn one.

A torn value goes through an operation side by side (``push``, ``combine``) until it meets a varied
one (``branch``) or must be whole (``mended``): there the sides must agree, and the tape decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from . import smooth
from .decided import decided_branch
from .jaxprs import bind
from .kinks import carrying, mix
from .program import Step
from .torn import Steering, Torn, broadcast_steering, joined


@dataclass(frozen=True)
class Value:
    """A value with the size of the terms that made it (None: its absolute value) and its two sides."""

    value: Any
    size: Any = None
    torn: Torn | None = None

    @property
    def measure(self) -> Any:
        return smooth.size_of(jnp.asarray(self.value), self.size)


def mended(operand: Value, tape: Any) -> Value:
    """A torn operand as one varied value: its sides must agree where it is torn."""
    torn = operand.torn
    assert torn is not None
    value = jnp.asarray(operand.value)
    size = operand.measure if tape.measures else 0.0
    return branched(value, torn.upper, torn.lower, size, torn, value, tape)


def branched(
    value: Any, upper: Any, lower: Any, size: Any, torn: Torn, stands: Any, tape: Any
) -> Value:
    """``value``, whose derivative is that of the side the tape takes, or a mixture of both.

    ``torn`` decides, ``stands`` being its own value: at equality JAX follows that side, if it is one.
    """
    if tape.decides:
        return Value(carrying(value, upper))
    choice = jnp.where(stands == torn.upper, 1.0, jnp.where(stands == torn.lower, 0.0, 0.5))
    shape = jnp.shape(value)
    above, steering = broadcast_steering(torn, shape)
    q, r = tape.branch(upper, lower, size, above, steering, jnp.broadcast_to(choice, shape))
    return Value(carrying(value, mix(q, upper, lower)) + r, size if tape.measures else None)


def decided(step: Step, operands: Sequence[Value]) -> list[Value]:
    """Under a named policy one side of a torn value is chosen: the operation on that side alone."""
    values = [o.value for o in operands]
    if step.action == "branch":
        place = step.torn.index(True)
        side = jnp.asarray(operands[place].torn.upper)  # pyright: ignore[reportOptionalMemberAccess]
        return [Value(o) for o in decided_branch(step, place, side, values)]
    outs = bind(step.eqn, *values)
    chosen = bind(step.eqn, *[o.value if o.torn is None else o.torn.upper for o in operands])
    return [Value(o, torn=Torn(c, c, None, None)) for o, c in zip(outs, chosen, strict=True)]


def push(step: Step, operands: Sequence[Value], tape: Any) -> list[Value]:
    """Both sides of the one torn operand go through the operation."""
    place = step.torn.index(True)
    torn = operands[place].torn
    assert torn is not None
    values = [o.value for o in operands]

    def through(side: Any) -> list[Any]:
        return bind(step.eqn, *values[:place], side, *values[place + 1 :])

    outs, uppers, lowers = through(values[place]), through(torn.upper), through(torn.lower)
    results = []
    for out, upper, lower in zip(outs, uppers, lowers, strict=True):
        if step.eqn.primitive.name in smooth.STRUCTURAL and torn.above.shape:
            above, steering = jax.tree.map(lambda a: through(a)[0], (torn.above, torn.steering))
        else:
            above, steering = broadcast_steering(torn, out.shape)
        results.append(Value(out, torn=Torn(upper, lower, above, steering)))
    return results


def combine(step: Step, operands: Sequence[Value], tape: Any) -> list[Value]:
    """Two torn values meet: where one of them is decided the other one steers the result."""
    name = step.eqn.primitive.name
    values = [o.value for o in operands]
    (value,) = bind(step.eqn, *values)
    torn = [o.torn for o in operands if o.torn is not None]
    if name in ("reduce_or", "reduce_and"):
        return [Value(value, torn=_reduced(step, values[0], torn[0], value, tape))]
    places = [i for i, t in enumerate(step.torn) if t]

    def at(first: Any, second: Any) -> Any:
        changed = list(values)
        changed[places[0]], changed[places[1]] = first, second
        return bind(step.eqn, *changed)[0]

    a, b = torn
    one, two = values[places[0]], values[places[1]]
    shape = value.shape
    (above_a, by_a), (above_b, by_b) = broadcast_steering(a, shape), broadcast_steering(b, shape)
    only_a = Torn(at(a.upper, two), at(a.lower, two), above_a, by_a)
    only_b = Torn(at(one, b.upper), at(one, b.lower), above_b, by_b)
    both = Torn(at(a.upper, b.upper), at(a.lower, b.lower), above_a, by_a)
    same = (by_a.slot == by_b.slot) & (above_a == above_b) & tape.measures
    side = value if value.dtype == bool else above_a
    own = tape.meet(by_a.active & by_b.active & ~same, side)
    compound = (
        own.active
    )  # as the first pass found: later ones cannot tell one comparison from another
    if value.dtype == bool:
        meeting = Torn(jnp.ones(shape, bool), jnp.zeros(shape, bool), value, own)
    else:
        meeting = both._replace(steering=own)
    single = joined(only_a, only_b, by_a.active)
    return [
        Value(
            value, torn=joined(meeting, joined(both, single, by_a.active & by_b.active), compound)
        )
    ]


def _reduced(step: Step, value: Any, torn: Torn, result: Any, tape: Any) -> Torn:
    """any or all of booleans: one active entry steers the result unless the decided ones settle it."""
    axes = step.eqn.params["axes"]
    settles = step.eqn.primitive.name == "reduce_or"
    active = torn.steering.active
    settled = jnp.any((value == settles) & ~active, axis=axes)
    count = jnp.sum(active, axis=axes)

    def of_active(a: Any) -> Any:
        return jnp.sum(jnp.where(active, a, 0), axis=axes)

    open_ = ~settled & (count > 0)
    meeting = tape.meet(open_ & (count > 1), result)
    above = jnp.where(count == 1, of_active(torn.above) > 0, result)
    steering = Steering(
        open_ & (count == 1), of_active(torn.steering.slot), of_active(torn.steering.q)
    )
    alone = Torn(of_active(torn.upper) > 0, of_active(torn.lower) > 0, above, steering)
    together = Torn(jnp.ones_like(result), jnp.zeros_like(result), result, meeting)
    decided = Torn(result, result, result, steering._replace(active=jnp.zeros_like(open_)))
    return joined(joined(together, alone, count > 1), decided, open_)


def branch(step: Step, operands: Sequence[Value], tape: Any) -> list[Value]:
    """A torn value meets varied ones: the operation on either side, chosen by the comparison."""
    place = step.torn.index(True)
    torn = operands[place].torn
    assert torn is not None
    values = [o.value for o in operands]

    def through(side: Any) -> list[Any]:
        return bind(step.eqn, *values[:place], jnp.asarray(side), *values[place + 1 :])

    outs, uppers, lowers = through(values[place]), through(torn.upper), through(torn.lower)
    sizes: Sequence[Any] = [0.0] * len(outs)
    if tape.measures:
        sizes = smooth.sizes_after(
            step.eqn, values, [o.size for o in operands], outs, lambda *v: bind(step.eqn, *v)
        )
        sizes = [
            jnp.maximum(s, jnp.maximum(jnp.abs(u), jnp.abs(v)))
            for s, u, v in zip(sizes, uppers, lowers, strict=True)
        ]
    return [
        branched(o, u, v, s, torn, values[place], tape)
        for o, u, v, s in zip(outs, uppers, lowers, sizes, strict=True)
    ]
