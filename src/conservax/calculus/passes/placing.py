"""Scatters at places that comparisons decide: what lands at one place, one comparison moves."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..operations.tape import Tape
from ..operations.torn import Steering
from ..tracing.jaxprs import is_float
from ..tracing.planner import Planner
from ..tracing.program import Info, Scope, Step
from .both_sides import on_both_sides, one_index, whole_where
from .sides import Value

_SCATTERS = {"scatter", "scatter-add", "scatter_add"}


def plan_scatter(
    planner: Planner, step: Step, operands: Sequence[Info], scope: Scope, at: int, plain: list[Info]
) -> list[Info] | None:
    """Let both sides of torn indices through a scatter into a whole array; None for what is no such scatter."""
    eqn = step.eqn
    if eqn.primitive.name not in _SCATTERS or scope.whiles:
        return None
    if operands[0].torn or not operands[1].torn:
        return None
    varied = any(o.varied for o in operands)
    if (operands[2].torn or varied) and not is_float(eqn.outvars[0]):
        return None
    rows = eqn.invars[1].aval.shape[:-1]
    planner.add_site(step, "comparison", "jump", rows, None, scope, at)
    if operands[2].torn:
        shape = eqn.invars[2].aval.shape
        for kind in ("mark", "branch", "stand"):
            planner.add_site(step, "where", kind, shape, None, scope, at)
    planner.add_site(step, "comparison", "jump", eqn.outvars[0].aval.shape, None, scope, at)
    step.action = "scatter"
    return [plain[0]._replace(torn=True, varied=varied or operands[2].torn)]


def scattered(step: Step, operands: Sequence[Value], tape: Tape) -> list[Value]:
    """The scatter on both sides; a place at which two comparisons have their say jumps."""
    target, index, updates = operands[0], one_index(operands[1], tape), operands[2]
    assert index.torn is not None
    params = step.eqn.params
    windows = params["dimension_numbers"].update_window_dims
    shape = jnp.shape(updates.value)

    def at_updates(part: Any) -> Any:
        return jnp.broadcast_to(jnp.expand_dims(jnp.squeeze(part, -1), windows), shape)

    above, by = jax.tree.map(at_updates, (index.torn.above, index.torn.steering))
    if updates.torn is not None:
        own = updates.torn.steering
        other: Any = jnp.zeros(shape, bool)
        if tape.measures:
            other = own.active & by.active & (own.slot != by.slot)
        updates = whole_where(tape.mark(other), updates, updates.torn, tape)
        assert updates.torn is not None
        own = updates.torn.steering
        above = jnp.where(by.active, above, updates.torn.above)
        by = Steering(
            by.active | own.active,
            *(jnp.where(by.active, i, o) for i, o in zip(by[1:], own[1:], strict=True)),
        )
    out = step.eqn.outvars[0].aval.shape

    def landed(part: Any, blank: Any) -> Any:
        """The largest of what lands at each place on either side."""
        part = jnp.where(by.active, part, blank)
        places = jnp.full(out, blank, part.dtype)
        for side in (index.torn.upper, index.torn.lower):  # pyright: ignore[reportOptionalMemberAccess]
            places = lax.scatter_max(
                places,
                side,
                part,
                params["dimension_numbers"],
                mode=params["mode"],
            )
        return places

    slot, below = landed(by.slot, -1), landed(-by.slot, jnp.iinfo(jnp.int32).min)
    active = landed(by.active.astype(jnp.int32), 0) > 0
    tape.jump(jnp.where(active & (slot != -below), 0.0, jnp.inf), 1.0)
    standing = landed(jnp.asarray(above, jnp.int32), 0) > 0
    steering = Steering(active, slot, landed(by.q, 0))
    return on_both_sides(step, [target, index, updates], standing, steering, tape)
