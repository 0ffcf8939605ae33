"""Planning of what holds other programs: calls, custom rules, solves, loops and branches.

Each function decides how one such equation runs, plans the blocks inside, and returns what is known
of the equation's results.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..implicit_node import NAME
from ..operations.domains import RULES
from ..tracing.jaxprs import CUSTOM_RULES, function_name, is_float, opened, unsupported
from ..tracing.locations import defined_here, defined_in_jax, defined_in_library
from ..tracing.planner import Planner
from ..tracing.program import Info, Scope, Step

# Functions of jax.nn with a custom rule that is a choice at a kink, not a different function.
_SEEN_THROUGH = {"relu", "relu6"}
# What ``select`` leaves in a program: a derivative that its user chose.
_CHOSEN = {"_carrying", "value_of"}
# The identity, but for what failed, where value and derivative are NaN: its body says as much.
_MASKS = {"_masked"}


def plan_call(
    planner: Planner,
    step: Step,
    closed: Any,
    operands: Sequence[Info],
    scope: Scope,
    at: int,
    felt: Sequence[bool],
) -> list[Info]:
    """The body of a call is planned in its place; what JAX wrote is reported where the user called it."""
    inside = scope._replace(call=step.origin) if defined_in_library(opened(closed)[0]) else scope
    sub, results = planner.block(closed, operands, inside, at, felt)
    step.action, step.blocks = "inline", (sub,)
    return results


def plan_custom_rule(
    planner: Planner,
    step: Step,
    operands: Sequence[Info],
    results: list[Info],
    scope: Scope,
    at: int,
    felt: Sequence[bool],
) -> list[Info]:
    """jax.nn's relus are seen through, implicit functions lifted; other rules are taken as given."""
    eqn, name = step.eqn, step.eqn.primitive.name
    closed = eqn.params["call_jaxpr"] if "call_jaxpr" in eqn.params else eqn.params["fun_jaxpr"]
    body = opened(closed)[0]
    function = function_name(body)
    ours = defined_in_jax(body)
    if ours and function in _SEEN_THROUGH:
        inside = scope._replace(call=step.origin, tie="constant", operation=function)
        return plan_call(planner, step, closed, operands, inside, at, felt)
    if (
        planner.late and ours and function == "_softmax"
    ):  # its body is smooth but for what it subtracts
        return plan_call(planner, step, closed, operands, scope, at, felt)
    if defined_here(body) and function in _MASKS:
        return plan_call(planner, step, closed, operands, scope, at, felt)
    moving = planner.mend(step, operands, scope, at)
    if function == NAME:
        return plan_solve(planner, step, closed, moving, scope, at, felt)
    if defined_here(body) and function not in _CHOSEN:
        raise unsupported(
            f"'{function}', a rule of the library's own that is no node", step.location
        )
    planner.modes.discard(CUSTOM_RULES[name])
    if ours and function in RULES:
        planner.watch(step, RULES[function], scope, at)
    else:  # JAX's solvers and integrators too hold what a user wrote
        planner.given_rules.append((function, step.location))
    return results


def plan_solve(
    planner: Planner,
    step: Step,
    closed: Any,
    operands: Sequence[Info],
    scope: Scope,
    at: int,
    felt: Sequence[bool],
) -> list[Info]:
    """A call that holds a node: how it comes by the solution is of no concern, what the node says is."""
    inside = scope._replace(call=step.origin, opaque=True)
    sub, results = planner.block(closed, operands, inside, at + step.own_size, felt)
    step.action, step.blocks = "solve", (sub,)
    return results


def plan_root(
    planner: Planner,
    step: Step,
    operands: Sequence[Info],
    scope: Scope,
    at: int,
    results: list[Info],
) -> list[Info]:
    """A node: its unknowns get slots, its residual is planned like any program."""
    eqn = step.eqn
    node, leaves = eqn.params["node"], eqn.params["leaves"]
    residual = node.equation(leaves, [a.aval for a in eqn.invars])
    unknowns = sum(math.prod(v.aval.shape) for v in eqn.outvars)
    planner.add_site(step, "root", "root", (unknowns,), None, scope, at)
    step.site = planner.sites[-1] = replace(planner.sites[-1], node=node, leaves=leaves)
    infos = [Info(planner.fresh(), True) for _ in range(leaves)]
    with planner.apart():
        sub, _ = planner.block(
            residual,
            [*infos, *operands[leaves:]],
            scope._replace(call=step.origin if node.hidden else None, opaque=False),
            at + step.own_size,
            whole=True,
        )
    step.action, step.blocks = "root", (sub,)
    return [r._replace(varied=True) for r in results]


def plan_linear_solve(planner: Planner, step: Step, operands: Sequence[Info], scope: Scope) -> None:
    """A linear solve is smooth in its matrix: what makes the matrix inside it must be smooth too."""
    count, closed = step.eqn.params["const_lengths"].matvec, step.eqn.params["jaxprs"].matvec
    x = [Info(planner.fresh(), True) for _ in step.eqn.outvars]
    before = len(planner.sites)
    with planner.apart():
        planner.block(closed, [*operands[:count], *x], scope, 0)
    if len(planner.sites) > before:
        site = planner.sites[before]
        raise unsupported(f"'{site.operation}' inside the matrix of a linear solve", site.location)


def plan_scan(
    planner: Planner, step: Step, operands: Sequence[Info], scope: Scope, at: int
) -> list[Info]:
    """Each iteration has its own slots; what a comparison tears may enter as a constant of the loop."""
    params = step.eqn.params
    first, last = params["num_consts"], params["num_consts"] + params["num_carry"]
    entering = [o._replace(torn=o.torn and i >= first) for i, o in enumerate(operands)]
    entering = planner.mend(step, entering, scope, at)
    inside = scope._replace(
        call=step.origin if defined_in_library(opened(params["jaxpr"])[0]) else scope.call,
        loops=(*scope.loops, params["length"]),
    )
    varied = [o.varied for o in entering]
    before = len(planner.sites), len(planner.given_rules)
    while True:  # each pass can only add varied carries
        infos = [
            Info(planner.fresh(), v, o.torn and i < first)
            for i, (o, v) in enumerate(zip(operands, varied, strict=True))
        ]
        with planner.apart():
            sub, outs = planner.block(
                params["jaxpr"], infos, inside, at + step.own_size, whole=True
            )
        after = [v or o.varied for v, o in zip(varied[first:last], outs, strict=False)]
        if after == varied[first:last]:
            break
        varied[first:last] = after
        # the trial plan leaves nothing behind: only the one at the fixed point counts
        del planner.sites[before[0] :], planner.given_rules[before[1] :]
    for site in planner.sites[before[0] :]:
        site.strides[len(scope.loops)] = sub.size
    step.action, step.blocks = "scan", (sub,)
    return [Info(planner.fresh(), v) for v in (*after, *sub.out_varied[last - first :])]


def plan_while(
    planner: Planner, step: Step, operands: Sequence[Info], scope: Scope, at: int
) -> list[Info]:
    """Allowed where no kink inside is active: then the trip count and all slopes stay as they are."""
    params = step.eqn.params
    n_cond, n_body = params["cond_nconsts"], params["body_nconsts"]
    varied = [o.varied for o in planner.mend(step, operands, scope, at)]
    start = at + step.own_size
    inside = scope._replace(whiles=True)
    before = len(planner.sites), len(planner.given_rules)
    first = n_cond + n_body
    while True:
        infos = [Info(planner.fresh(), v) for v in varied]
        with planner.apart():
            cond, _ = planner.block(
                params["cond_jaxpr"], [*infos[:n_cond], *infos[first:]], inside, start
            )
        with planner.apart():
            body, outs = planner.block(
                params["body_jaxpr"],
                [*infos[n_cond:first], *infos[first:]],
                inside,
                start + cond.size,
                whole=True,
            )
        after = [v or o.varied for v, o in zip(varied[first:], outs, strict=True)]
        if after == varied[first:]:
            break
        varied[first:] = after
        del planner.sites[before[0] :], planner.given_rules[before[1] :]
    if any(after):
        planner.modes.discard("reverse")
    step.action, step.blocks = "while", (cond, body)
    return [Info(planner.fresh(), v) for v in after]


def plan_switch(
    planner: Planner,
    step: Step,
    operands: Sequence[Info],
    scope: Scope,
    at: int,
    felt: Sequence[bool],
) -> list[Info]:
    """A branch chosen by a constant runs alone; one chosen by a comparison is a ``where``."""
    index, *rest = operands
    if not planner.late:  # else what is torn may enter, and leaves whole
        _, *rest = planner.mend(step, (index._replace(torn=False), *rest), scope, at)
    start = inner_at = at + step.own_size
    blocks = []
    outs: list[list[Info]] = []
    shapes = [v.aval.shape for v in step.eqn.outvars]
    for closed in step.eqn.params["branches"]:
        with planner.apart():
            sub, results = planner.block(closed, rest, scope, inner_at, felt, whole=True)
        inner_at += sub.size
        blocks.append(sub)
        outs.append(results)
    varied = [any(o[i].varied for o in outs) for i in range(len(shapes))]
    if index.torn:
        for var in step.eqn.outvars:
            if not is_float(var):
                raise unsupported(
                    "a cond on varied values that returns integers or booleans", step.location
                )
            # the choice comes after the branches: so do its slots
            planner.add_site(
                step, "cond", "branch", var.aval.shape, None, scope, at + inner_at - start
            )
        varied = [True] * len(shapes)
    step.action, step.blocks = "switch", tuple(blocks)
    return [Info(planner.fresh(), v) for v in varied]
