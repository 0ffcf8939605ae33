"""Operations under a named policy: the value as JAX computes it, the derivative of one side.

Each is built once for all its repetitions and enters a trace as a single equation, since tracing
is what users feel first.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax

from ..operations.tape import Tape
from ..tracing.captures import Reference
from ..tracing.jaxprs import bind, opened
from ..tracing.program import Step

_BUILT: dict[Any, Callable[..., Any]] = {}
_CAPACITY = 512


def decided_kink(step: Step, tape: Tape, values: Sequence[Any]) -> list[Any]:
    """A kink of the table, differentiated along the side that the policy takes."""

    def one_side(*values: Any) -> list[Any]:
        outs = step.entry.run(tape.child(None), step, *values)
        return list(outs) if step.eqn.primitive.multiple_results else [outs]

    key = (step.entry, tape.policy, step.tie, step.in_varied, step.slots)
    return _carried(step, key, lambda *values: bind(step.eqn, *values), one_side, values)


def decided_branch(step: Step, place: int, side: Any, values: Sequence[Any]) -> list[Any]:
    """An operation on varied values, differentiated with ``side`` in place of one operand."""

    def stands(side: Any, *values: Any) -> list[Any]:
        return bind(step.eqn, *values)

    def one_side(side: Any, *values: Any) -> list[Any]:
        return bind(step.eqn, *values[:place], side, *values[place + 1 :])

    return _carried(step, place, stands, one_side, (side, *values))


def _token(param: Any) -> Hashable:
    """What tells a parameter from another: programs and functions by identity, plain values as such."""
    try:
        hash(param)
    except TypeError:
        return Reference.to(param)
    return type(param), param


def _carried(
    step: Step,
    key: Any,
    value_of: Callable[..., list[Any]],
    one_side: Callable[..., list[Any]],
    operands: Sequence[Any],
) -> list[Any]:
    """``value_of(*operands)``, exactly, with the derivative of ``one_side(*operands)``."""
    avals = tuple(map(jax.typeof, operands))
    key = (step.eqn.primitive, *map(_token, step.eqn.params.values()), key, avals)
    if key in _BUILT:
        return _BUILT[key](*operands)
    carried = jax.custom_jvp(value_of)

    @jax.jit
    def tangents_of(primals: Any, tangents: Any) -> Any:
        return jax.jvp(one_side, primals, tangents)[1]

    @carried.defjvp
    def _(primals: Any, tangents: Any) -> tuple[Any, Any]:
        # the value's rule is this rule again: second derivatives see the same side
        return carried(*primals), tangents_of(primals, tangents)

    built = jax.jit(carried, inline=True)
    if not any(opened(param)[1] for param in step.eqn.params.values()):  # no data of the user's
        while len(_BUILT) >= _CAPACITY:
            _BUILT.pop(next(iter(_BUILT)))
        _BUILT[key] = built
    return built(*operands)
