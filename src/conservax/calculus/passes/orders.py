"""Planning of what reads the order of a sort: indices that swap where two keys tie."""

from collections.abc import Sequence

from ..tracing import smooth
from ..tracing.jaxprs import INLINE, is_float, unsupported
from ..tracing.planner import Planner
from ..tracing.program import Info, Scope, Step
from .calls import plan_call

_KEEPS_ORDER = smooth.ELEMENTWISE | {"broadcast_in_dim", "reshape"}


def plan_order(
    planner: Planner,
    step: Step,
    sort: Step,
    operands: Sequence[Info],
    scope: Scope,
    at: int,
    plain: list[Info],
    smooth_result: list[Info],
) -> list[Info]:
    """Indices that a sort ordered: they pass through, steer a gather, or jump where keys tie."""
    eqn, name = step.eqn, step.eqn.primitive.name
    n = sort.eqn.invars[0].aval.shape[0]
    out = eqn.outvars[0].aval
    step.sort = sort
    if name in INLINE:
        return plan_call(planner, step, eqn.params[INLINE[name]], operands, scope, at, step.felt)
    integers = not any(o.varied or o.torn for o in operands[: 1 if name == "gather" else None])
    keeps = name in _KEEPS_ORDER and out.shape[:1] == (n,)
    if keeps and integers and not is_float(eqn.outvars[0]):
        return [p._replace(order=sort) for p in plain]
    if name == "gather" and out.shape[:1] == (n,) and operands[0].order is None:
        if not operands[0].varied:
            return _jumps(planner, step, scope, at, plain)
        step.action = "permute"
        for _ in range(sort.kink_slots[0][0]):
            planner.add_site(step, "argsort", "branch", (n - 1, *out.shape[1:]), None, scope, at)
        return smooth_result
    return _jumps(planner, step, scope, at, smooth_result if any(step.in_varied) else plain)


def _jumps(planner: Planner, step: Step, scope: Scope, at: int, results: list[Info]) -> list[Info]:
    """Whatever else reads the order of a sort jumps where two keys tie."""
    assert step.sort is not None
    name = step.eqn.primitive.name
    if name not in smooth.SMOOTH and name not in smooth.CONSTANT:
        raise unsupported(f"'{name}' of the order of a sort", step.location)
    step.action = "jump"
    neighbours = (step.sort.eqn.invars[0].aval.shape[0] - 1,)
    planner.add_site(step, "argsort", "jump", neighbours, None, scope, at)
    return results
