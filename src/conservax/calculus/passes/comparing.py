"""Comparisons in the plan: one of u and v is a kink of u − v, and its result is torn until it steers something.

The same comparison written twice is one kink; what is computed from torn operands alone is torn as well.
"""

from collections.abc import Sequence

from ..tracing import smooth
from ..tracing.planner import Planner
from ..tracing.program import Info, Scope, Step
from .meeting import REDUCTIONS

_MIRROR = {"gt": "lt", "lt": "gt", "ge": "le", "le": "ge"}
# At equality gt is false and le true: both stand on the side z <= 0; ge and lt on z >= 0.
_SIDE = {
    "sign": "middle",
    "gt": "lower",
    "le": "lower",
    "ge": "upper",
    "lt": "upper",
    "eq": "equal",
    "ne": "equal",
}


def plan_comparison(
    planner: Planner,
    step: Step,
    operands: Sequence[Info],
    scope: Scope,
    at: int,
    plain: list[Info],
) -> list[Info]:
    """A comparison of u and v is a kink of u − v; the same comparison twice is one kink."""
    name = step.eqn.primitive.name.removesuffix("_to")
    u, v = operands[0].number, operands[-1].number
    if name == "sign":
        v = -1
    if u == v:  # x != x asks for NaN, and decides nothing
        return plain
    # z = varied − constant, so that "upper" is the side where the user's value is larger
    if name == "sign" and planner.late:
        v = planner.number(("literal", 0.0, str(step.eqn.invars[0].aval.dtype)))
    step.swap = not step.in_varied[0]
    if planner.late and all(step.in_varied) and u > v and name != "sign":
        step.swap = True
    if step.swap:
        u, v, name = v, u, _MIRROR.get(name, name)
    step.action, step.side = "compare", _SIDE[name]
    step.entry = name
    key = (u, v, step.side)
    if planner.late and step.side != "equal":  # z ≥ 0 and z > 0 tie together
        key = (u, v, "")
    step.first = key not in planner.comparisons
    if step.first:
        planner.comparisons[key] = next(planner.comparison_numbers)
    step.comparison = planner.comparisons[key]
    step.sides = planner.compared_sides.setdefault(step.comparison, set())
    step.sides.add(step.side)
    if step.first:
        planner.add_site(step, name, "comparison", step.eqn.outvars[0].aval.shape, None, scope, at)
    return [plain[0]._replace(torn=True)]


def plan_torn(planner: Planner, step: Step, scope: Scope, at: int) -> bool:
    """Whether the result of an operation on torn operands is torn; sets how the step runs."""
    eqn, name = step.eqn, step.eqn.primitive.name
    torn = [i for i, t in enumerate(step.torn) if t]
    scalar = all(eqn.invars[i].aval.shape == () for i in torn)
    moves = name in smooth.STRUCTURAL and torn == [0]
    entrywise = scalar or name in smooth.ELEMENTWISE
    if any(step.in_varied):
        if (entrywise or moves) and name in smooth.SMOOTH and len(torn) == 1:
            step.action = "branch"
        return False
    if moves or name in smooth.JOINS or (entrywise and len(torn) == 1):
        step.action = "push"
        return True
    if not entrywise and name not in REDUCTIONS:
        return False
    step.action = "combine"
    out = eqn.outvars[0].aval
    kind = "comparison" if out.dtype == bool else "index"
    planner.add_site(step, name.removeprefix("reduce_"), kind, out.shape, None, scope, at)
    return True
