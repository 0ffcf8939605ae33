"""Values on their way through a program, and operations on both sides of a torn one.

A torn value goes through an operation side by side (``push``; ``combine`` of ``meeting.py``) until it
meets a varied one (``branch``) or must be whole (``mended``): there the sides must agree, and the tape
decides.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from ..operations.mixtures import carrying, mix
from ..operations.sizes import size_of, sizes_after
from ..operations.tape import Tape
from ..operations.torn import Steering, Torn, broadcast_steering
from ..tracing import smooth
from ..tracing.jaxprs import bind
from ..tracing.program import Step
from .decided import decided_branch


@dataclass(frozen=True)
class Value:
    """A value with the size of the terms that made it (None: its absolute value) and its two sides.

    ``copied``: which entry each of its own is a copy of (``copies.py``); None where nobody asks.
    """

    value: Any
    size: Any = None
    torn: Torn | None = None
    copied: Any = None

    @property
    def measure(self) -> Any:
        return size_of(jnp.asarray(self.value), self.size)


def mended(operand: Value, tape: Tape, stand: bool = False) -> Value:
    """A torn operand as one value: its sides must agree where it is torn."""
    torn = operand.torn
    assert torn is not None
    value = jnp.asarray(operand.value)
    if not jnp.issubdtype(value.dtype, jnp.floating):
        if not tape.decides:
            apart = torn.steering.active & (torn.upper != torn.lower)
            tape.jump(jnp.where(apart, 0.0, jnp.inf), 1.0)
        return Value(value)
    size = operand.measure if tape.measures else 0.0
    return branched(value, torn.upper, torn.lower, size, torn, value, tape, stand)


def branched(
    value: Any,
    upper: Any,
    lower: Any,
    size: Any,
    torn: Torn,
    stands: Any,
    tape: Tape,
    stand: bool = False,
) -> Value:
    """``value``, whose derivative is that of the side the tape takes, or a mixture of both.

    ``torn`` decides, ``stands`` being its own value: at equality JAX follows that side, if it is one.
    With ``stand`` the value may be neither, and what JAX makes of it is recorded.
    """
    if tape.decides:
        return Value(carrying(value, upper))
    choice = jnp.where(stands == torn.upper, 1.0, jnp.where(stands == torn.lower, 0.0, 0.5))
    shape = jnp.shape(value)
    above, steering = broadcast_steering(torn, shape)
    if stand:
        upper, lower = (jnp.where(steering.active, side, value) for side in (upper, lower))
        if tape.measures:  # a third value must agree as well
            gap = jnp.abs(upper - lower)
            third = (jnp.abs(value - upper) > gap) & (jnp.abs(value - lower) > gap)
            upper = jnp.where(third, value, upper)
    q, r = tape.branch(upper, lower, size, above, steering, jnp.broadcast_to(choice, shape))
    if stand:
        tape.stand(value - lower)
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


def push(step: Step, operands: Sequence[Value], tape: Tape) -> list[Value]:
    """Both sides go through an operation that keeps apart what different comparisons decide."""

    def through(side: Callable[[Torn], Any]) -> list[Any]:
        return bind(step.eqn, *[o.value if o.torn is None else side(o.torn) for o in operands])

    outs = bind(step.eqn, *[o.value for o in operands])
    uppers, lowers = through(lambda t: t.upper), through(lambda t: t.lower)
    results = []
    for out, upper, lower in zip(outs, uppers, lowers, strict=True):
        above, steering = spread_of(step, operands, out.shape)
        results.append(Value(out, torn=Torn(upper, lower, above, steering)))
    return results


def spread_of(
    step: Step, operands: Sequence[Value], shape: tuple[int, ...]
) -> tuple[Any, Steering]:
    """``above`` and the steering of the result, moved about like the entries of the operands."""
    name = step.eqn.primitive.name
    if name not in smooth.JOINS and not (name in smooth.STRUCTURAL and step.torn[0]):
        return broadcast_steering(next(o.torn for o in operands if o.torn is not None), shape)

    def moved(part: Callable[[Torn], Any], blank: Any) -> Any:
        # what is not torn joins with a blank, or says where the entries go
        dtype = next(part(o.torn).dtype for o in operands if o.torn is not None)
        parts = [
            part(o.torn)
            if o.torn is not None
            else jnp.full(jnp.shape(o.value), blank, dtype)
            if name in smooth.JOINS
            else o.value
            for o in operands
        ]
        return bind(step.eqn, *parts)[0]

    steering = Steering(
        moved(lambda t: t.steering.active, False),
        moved(lambda t: t.steering.slot, -1),
        moved(lambda t: t.steering.q, 0.0),
    )
    return moved(lambda t: t.above, False), steering


def branch(step: Step, operands: Sequence[Value], tape: Tape) -> list[Value]:
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

        def sizes_at(side: Any, results: Sequence[Any]) -> list[Any]:
            at = [*values[:place], jnp.asarray(side), *values[place + 1 :]]
            sizes = [None if i == place else o.size for i, o in enumerate(operands)]
            return sizes_after(
                step.eqn, at, sizes, results, lambda *v: bind(step.eqn, *v), tape.tau
            )

        # away from the switch the branch that was not taken has no say
        sizes = [
            jnp.where(broadcast_steering(torn, o.shape)[1].active, jnp.maximum(u, v), s)
            for o, s, u, v in zip(
                outs,
                sizes_at(values[place], outs),
                sizes_at(torn.upper, uppers),
                sizes_at(torn.lower, lowers),
                strict=True,
            )
        ]
    return [
        branched(o, u, v, s, torn, values[place], tape)
        for o, u, v, s in zip(outs, uppers, lowers, sizes, strict=True)
    ]
