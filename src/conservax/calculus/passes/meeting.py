"""Where torn values meet: several, or the entries of one, decide one result together.

One active comparison among them steers the result; where two different ones are active the result
gets a switch of its own (a predicate) or jumps (a number). What the decided ones settle is settled.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from ..operations.tape import Tape
from ..operations.torn import Steering, Torn, joined
from ..tracing.jaxprs import bind
from ..tracing.program import Step
from .sides import Value

# Results along an axis, of booleans or integers that comparisons decide.
REDUCTIONS = {
    "reduce_or", "reduce_and", "reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "argmax", "argmin",
    "cumsum", "cummax", "cummin", "cumprod",
}  # fmt: skip
# Of booleans: with all open ones False and all of them True the result takes its two extremes.
_SETTLED = {"and", "or", "reduce_or", "reduce_and", "argmax"}


def combine(step: Step, operands: Sequence[Value], tape: Tape) -> list[Value]:
    """The operation on either side, steered by the one comparison that is active, if it is one."""
    values = [o.value for o in operands]
    (value,) = bind(step.eqn, *values)

    def where_open(take: Any) -> Any:
        changed = [
            v if o.torn is None else jnp.where(o.torn.steering.active, take(o.torn), v)
            for v, o in zip(values, operands, strict=True)
        ]
        return bind(step.eqn, *changed)[0]

    upper, lower = where_open(lambda t: t.upper), where_open(lambda t: t.lower)
    above, by = _candidates(step, operands, value.shape)
    undecided = by.active
    if step.eqn.primitive.name in _SETTLED and all(map(_is_boolean, values)):
        undecided &= where_open(lambda t: True) != where_open(lambda t: False)
    open_ = jnp.any(undecided, axis=0)
    slots = jnp.where(undecided, by.slot, -1)
    if tape.measures:
        last = jnp.max(slots, axis=0)
        several = jnp.any(undecided & (by.slot != last), axis=0)
    else:  # later passes cannot tell one comparison from another
        several = jnp.sum(undecided, axis=0) > 1
    own_side = value if value.dtype == bool else jnp.any(undecided & above, axis=0)
    own = tape.meet(several, own_side)
    compound = own.active  # as the first pass found
    alone = Steering(
        open_ & ~compound,
        jnp.max(slots, axis=0),
        jnp.max(jnp.where(undecided, by.q, 0), axis=0),
    )
    if value.dtype == bool:
        upper, lower = upper | compound, lower & ~compound
    side = jnp.where(compound, own_side, jnp.any(undecided & above, axis=0))
    return [Value(value, torn=Torn(upper, lower, side, joined(own, alone, compound)))]


def _is_boolean(value: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(value), jnp.bool_)


def _candidates(
    step: Step, operands: Sequence[Value], shape: tuple[int, ...]
) -> tuple[Any, Steering]:
    """``above`` and the steering of everything that has a say in each entry: leading axis, then ``shape``."""
    name, params = step.eqn.primitive.name, step.eqn.params
    torn = [o.torn for o in operands if o.torn is not None]

    def together(parts: Sequence[Any]) -> Any:
        if name not in REDUCTIONS:
            return jnp.stack([jnp.broadcast_to(p, shape) for p in parts])
        (entries,) = parts
        axes = params["axes"] if "axes" in params else (params["axis"],)
        first = jnp.moveaxis(entries, axes, range(len(axes)))
        count = 1
        for axis in axes:
            count *= entries.shape[axis]
        first = first.reshape(count, *first.shape[len(axes) :])
        if "axis" not in params:
            return first
        # a running result hears the entries up to its own
        place = jnp.arange(count)
        heard = place[:, None] >= place if params["reverse"] else place[:, None] <= place
        spread = jnp.where(
            heard.reshape(count, count, *[1] * (first.ndim - 1)),
            first[:, None],
            first.dtype.type(0),
        )
        return jnp.moveaxis(spread, 1, params["axis"] + 1)

    steering = Steering(
        *(together(parts) for parts in zip(*(t.steering for t in torn), strict=True))
    )
    return together([t.above for t in torn]), steering
