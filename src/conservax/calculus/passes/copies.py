"""Which entry each value is a copy of, so that an entry compared with itself decides nothing.

In ``where(x >= sort(x)[-2], x, 0)`` or ``x * (x == max(x))`` an entry meets itself: no step of x tears that
comparison. Entries carry a number; what only moves or picks entries passes it on, an operation that
computes gives its results numbers of their own. Twice a number is an entry, one more its negative, and
0 is zero. Where what is picked ties, within the tolerance, the result is an entry of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from ..operations.tape import Tape
from ..tracing import smooth
from ..tracing.jaxprs import bind, is_float
from ..tracing.program import Block, Step
from .order_bounds import never_crossed, remember
from .sides import Value

_UNKNOWN = -1


def numbered(block: Block, args: Sequence[Value]) -> list[Value]:
    """Inputs of a block: those that no step outside has numbered are entries of their own."""
    start, outs = block.own_entries, []
    for var, arg in zip(block.jaxpr.invars, args, strict=True):
        if is_float(var) and arg.copied is None:
            arg = replace(arg, copied=_own(start, var.aval))
        start += var.aval.size
        outs.append(arg)
    return outs


def followed(
    step: Step, operands: Sequence[Value], outs: Sequence[Value], tape: Tape
) -> list[Value]:
    """The results of a step with the numbers of their entries."""
    if not step.varied:
        return list(outs)
    start, results = step.own_entries, []
    picked = _PICKS.get(step.eqn.primitive.name) if step.action != "permute" else None
    if step.eqn.primitive.name in smooth.STRUCTURAL and step.action != "permute":
        picked = _moved
    found = picked(step, operands, tape) if picked else [None] * len(outs)
    for var, out, own in zip(step.eqn.outvars, outs, found, strict=True):
        if is_float(var) and out.copied is None:
            numbers = fresh = _own(start, var.aval)
            if own is not None:
                numbers = jnp.where(own >= 0, own, fresh)
            if out.torn is not None:
                numbers = jnp.where(out.torn.steering.active, fresh, numbers)
            out = replace(out, copied=numbers)
        start += var.aval.size
        results.append(out)
    return results


def unknown(operand: Value) -> Value:
    """A value made of two sides, which is no copy."""
    return replace(operand, copied=jnp.full(jnp.shape(operand.value), _UNKNOWN))


def alike(u: Value, v: Value | None, shape: tuple[int, ...]) -> Any:
    """Where two operands of a comparison are one entry; or, without the second, where one is zero."""
    first = _numbers(u)
    second = 0 if v is None else _numbers(v)
    return jnp.broadcast_to((first == second) & (first >= 0), shape)


def increment(step: Step, z: Any, u: Value, v: Value | None, tape: Tape) -> Any:
    """u − v, or an infinity where it is known that the comparison of the two is constant near the point."""
    z = jnp.where(alike(u, v, z.shape), jnp.inf, z)
    if v is None or not tape.runs:
        return z
    first, second = (jnp.broadcast_to(_numbers(o), z.shape) for o in (u, v))
    above, below = never_crossed(first, second, tape)
    other_below, other_above = never_crossed(second, first, tape)
    if step.sides == {"upper"}:
        z = jnp.where(above | other_above, jnp.inf, z)
    if step.sides == {"lower"}:
        z = jnp.where(below | other_below, -jnp.inf, z)
    return z


def _own(start: int, aval: Any) -> Any:
    return 2 * (start + jnp.arange(aval.size, dtype=jnp.int32)).reshape(aval.shape)


def _numbers(operand: Value) -> Any:
    """Of constants only zero is known, and nothing of what was torn."""
    if operand.copied is not None:
        return operand.copied
    if operand.torn is not None:
        return jnp.full(jnp.shape(operand.value), _UNKNOWN)
    return jnp.where(jnp.asarray(operand.value) == 0, 0, _UNKNOWN).astype(jnp.int32)


def _moved(step: Step, operands: Sequence[Value], tape: Tape) -> list[Any]:
    joins = step.eqn.primitive.name in smooth.JOINS
    parts = [_numbers(o) if joins or i == 0 else o.value for i, o in enumerate(operands)]
    return list(bind(step.eqn, *parts))


def _negated(step: Step, operands: Sequence[Value], tape: Tape) -> list[Any]:
    number = _numbers(operands[0])
    return [jnp.where(number > 0, number ^ 1, number)]


def _subtracted(step: Step, operands: Sequence[Value], tape: Tape) -> list[Any]:
    u, v = operands
    return [jnp.where(alike(u, v, step.eqn.outvars[0].aval.shape), 0, _UNKNOWN)]


def _chosen(step: Step, operands: Sequence[Value], tape: Tape) -> list[Any]:
    shape = step.eqn.outvars[0].aval.shape
    cases = [jnp.broadcast_to(_numbers(o), shape) for o in operands[1:]]
    return [jax.lax.select_n(operands[0].value, *cases)]


def _limit(tape: Tape, value: Any, size: Any) -> Any:
    """How far apart entries must be not to tie."""
    return tape.atol + tape.rtol * jnp.maximum(size, jnp.abs(value))


def _larger(sign: int) -> Callable[..., list[Any]]:
    def picked(step: Step, operands: Sequence[Value], tape: Tape) -> list[Any]:
        u, v = operands
        gap = sign * (jnp.asarray(u.value) - v.value)
        limit = _limit(tape, gap, u.measure + v.measure)
        number = jnp.where(gap > 0, _numbers(u), _numbers(v))
        return [jnp.where(jnp.abs(gap) > limit, number, _UNKNOWN)]

    return picked


def _largest(sign: int) -> Callable[..., list[Any]]:
    def picked(step: Step, operands: Sequence[Value], tape: Tape) -> list[Any]:
        axes = step.eqn.params["axes"]
        last = tuple(range(-len(axes), 0))

        def flat(part: Any) -> Any:
            part = jnp.moveaxis(jnp.asarray(part), axes, last)
            return part.reshape(*part.shape[: part.ndim - len(axes)], -1)

        value, size, number = map(
            flat, (operands[0].value, operands[0].measure, _numbers(operands[0]))
        )
        best = jnp.argmax(sign * value, -1, keepdims=True)

        def at_best(part: Any) -> Any:
            return jnp.take_along_axis(part, best, -1)

        gap = sign * (at_best(value) - value)
        near = gap <= _limit(tape, gap, size + at_best(size))
        alone = jnp.sum(near, -1) == 1
        return [jnp.where(alone, at_best(number)[..., 0], _UNKNOWN)]

    return picked


def _sorted(step: Step, operands: Sequence[Value], tape: Tape) -> list[Any]:
    """By its one key; neighbours that tie are entries of their own."""
    axis = step.eqn.params["dimension"]
    if step.eqn.params["num_keys"] > 1:
        return [None] * len(operands)
    order = jnp.argsort(operands[0].value, axis, stable=True)

    def ordered(part: Any) -> Any:
        return jnp.moveaxis(jnp.take_along_axis(jnp.asarray(part), order, axis), axis, -1)

    key, size = ordered(operands[0].value), ordered(operands[0].measure)
    gap = key[..., 1:] - key[..., :-1]
    tied = ~(gap > _limit(tape, gap, size[..., 1:] + size[..., :-1]))
    remember(step, tied, ordered(_numbers(operands[0])), axis, tape)
    alone = jnp.zeros((*key.shape[:-1], 1), bool)
    tied = jnp.concatenate([tied, alone], -1) | jnp.concatenate([alone, tied], -1)
    return [
        jnp.moveaxis(jnp.where(tied, _UNKNOWN, ordered(_numbers(o))), -1, axis) for o in operands
    ]


_PICKS: dict[str, Callable[..., list[Any]]] = {
    "neg": _negated,
    "sub": _subtracted,
    "select_n": _chosen,
    "max": _larger(1),
    "min": _larger(-1),
    "reduce_max": _largest(1),
    "reduce_min": _largest(-1),
    "sort": _sorted,
}
