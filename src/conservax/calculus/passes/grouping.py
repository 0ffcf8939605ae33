"""Entries of a sum, those that one comparison tears put together: only their sum need be continuous.

The k largest entries with weights of their own, `softmax(values) @ table[places]`, jump one by one where two
of them tie and change their places; together they do not.
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..operations.tape import Tape
from ..operations.torn import Torn
from ..tracing.program import Step
from .sides import Value


def grouped(step: Step, operand: Value, tape: Tape) -> Value:
    """The operand of a sum, in which the first entry of each comparison's is the sum of them all.

    The others of that comparison are 0 and whole.
    """
    torn = operand.torn
    assert torn is not None
    axes = step.eqn.params["axes"]
    value = jnp.asarray(operand.value)
    kept = [d for d in range(value.ndim) if d not in axes]
    there = (*kept, *axes)
    back = [there.index(d) for d in range(value.ndim)]
    lead_shape = tuple(value.shape[d] for d in kept)

    def rows(part: Any) -> Any:
        """One row for each result, the entries that it sums along the last axis."""
        full = jnp.broadcast_to(part, value.shape)
        return jnp.transpose(full, there).reshape(*lead_shape, -1)

    def as_before(part: Any) -> Any:
        return jnp.transpose(part.reshape(tuple(value.shape[d] for d in there)), back)

    active = rows(torn.steering.active)
    count = active.shape[-1]
    place = jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32), active.shape)
    first = tape.rivals(
        jnp.zeros(active.shape, bool), _first_of_each(active, rows(torn.steering.slot), place)
    )
    leads = first == place

    def summed(part: Any) -> Any:
        flat = rows(part).reshape(-1, count)
        totals = jax.vmap(lambda f, row: jnp.zeros_like(row).at[f].add(row))(
            first.reshape(-1, count), flat
        )
        return as_before(totals.reshape(active.shape))

    value, upper, lower = (
        summed(jnp.where(torn.steering.active, side, operand.value))
        for side in (operand.value, torn.upper, torn.lower)
    )
    steering = torn.steering._replace(active=as_before(active & leads))
    size = summed(operand.measure) if tape.measures else None
    return replace(operand, value=value, size=size, torn=Torn(upper, lower, torn.above, steering))


def _first_of_each(active: Any, slot: Any, place: Any) -> Any:
    """Of each entry (last axis) the first that the same comparison tears; itself where none does."""
    widest = jnp.iinfo(jnp.int32).max - active.shape[-1]
    keys = jnp.where(active, slot, widest + place)
    order = jnp.argsort(keys, axis=-1, stable=True)
    ordered = jnp.take_along_axis(keys, order, -1)
    new = jnp.concatenate(
        [jnp.ones((*keys.shape[:-1], 1), bool), ordered[..., 1:] != ordered[..., :-1]], -1
    )
    start = lax.cummax(jnp.where(new, place, 0), axis=keys.ndim - 1)
    lead = jnp.take_along_axis(order, start, -1)
    ranks = jnp.argsort(order, axis=-1)
    return jnp.take_along_axis(lead, ranks, -1).astype(jnp.int32)
