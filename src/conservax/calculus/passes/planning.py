"""Plan a traced program before anything runs: what varies, what is torn, which slot each kink has.

One walk over the jaxpr follows which variables depend on the inputs that are differentiated (they
are *varied*) and which a comparison tears; gives every kink of every execution its own slot (loop
iteration first, then row-major); shares a comparison's kink between all that it steers; and refuses
by name, file and line whatever the calculus does not know.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex_core

from ...errors import InvalidInputError
from ...numerics import machine_epsilon
from ..implicit_node import node_p
from ..operations import kinks
from ..operations.domains import MATRIX_EDGES, Edge, edges_of
from ..operations.expansions import (
    EXPANSIONS,
    FUNCTION_EXPANSIONS,
    LATE_EXPANSIONS,
    TORN_EXPANSIONS,
)
from ..tracing import smooth
from ..tracing.jaxprs import (
    CUSTOM_RULES,
    INLINE,
    entries_read,
    function_of_jax,
    is_float,
    live_equations,
    marker,
    opened,
    parameters,
    unsupported,
)
from ..tracing.locations import Location
from ..tracing.program import Block, Info, Program, Scope, Site, Step
from .both_sides import plan_both_sides
from .calls import (
    plan_call,
    plan_custom_rule,
    plan_linear_solve,
    plan_root,
    plan_scan,
    plan_switch,
    plan_while,
)
from .comparing import plan_comparison, plan_torn
from .orders import plan_order
from .placing import plan_scatter
from .steps import STEPS, plan_tear

_NUMBERED = {
    "broadcast_in_dim",
    "convert_element_type",
    "reshape",
    "squeeze",
    "neg",
    "sub",
    "add",
    "mul",
}

_NUMBERED_LATE = {*smooth.STRUCTURAL, *smooth.ELEMENTWISE, "stop_gradient"}


def trace(
    run: Callable[[Sequence[Any]], Any],
    leaves: Sequence[Any],
    varied: Sequence[bool],
    sort_rounds: int = 2,
    late: bool = False,
    groups: bool = False,
) -> Program:
    """Trace ``run(leaves)`` and plan it for differentiation in the leaves marked ``varied``.

    ``sort_rounds`` is the largest number of equal entries that a sort may meet; ``late``: jumps may be
    mended further on (``both_sides.py``); ``groups``: by sums, too (``grouping.py``).
    """
    moving = [a for a, v in zip(leaves, varied, strict=True) if v]
    dtype = jnp.result_type(*moving) if moving else jnp.result_type(float)
    out_trees = []

    def flat(*arrays: Any) -> list[Any]:
        out_leaves, out_tree = jax.tree.flatten(run(arrays))
        out_trees.append(out_tree)
        return out_leaves

    closed = jax.make_jaxpr(flat)(*leaves)
    for var in closed.jaxpr.outvars:
        if not jnp.issubdtype(var.aval.dtype, jnp.floating):
            raise InvalidInputError(
                f"the function returns {var.aval.dtype}; derivatives exist for real floating-point outputs."
            )
    planner = _Planner(sort_rounds, late, groups, dtype)
    infos = [Info(planner.fresh(), v) for v in varied]
    block, _ = planner.block(closed, infos, Scope(), 0, whole=True)
    sites = tuple(sorted(planner.sites, key=lambda s: s.start))
    return Program(
        block,
        sites,
        tuple(planner.given_rules),
        frozenset(planner.modes),
        out_trees[-1],
        dtype,
        planner.torn_sums,
        bool(planner.compared_sides),
    )


class _Planner:
    def __init__(self, sort_rounds: int, late: bool, groups: bool, dtype: Any) -> None:
        self.late = late
        self.groups = groups
        self.torn_sums = False
        self.places = int(1 / machine_epsilon(dtype))
        self.sites: list[Site] = []
        self.given_rules: list[tuple[str, Location]] = []
        self.modes = {"forward", "reverse"}
        self.numbers: dict[Any, int] = {}
        self.counter = itertools.count()
        self.comparisons: dict[Any, int] = {}
        self.comparison_numbers = itertools.count()
        self.compared_sides: dict[int, set[str]] = {}
        self.sort_rounds = sort_rounds
        self.entries = 1

    def own_entries(self, variables: Sequence[Any]) -> int:
        """Numbers for the entries of some variables; the first of them."""
        first = self.entries
        self.entries += sum(v.aval.size for v in variables if hasattr(v.aval, "size"))
        return first

    def number(self, key: Any) -> int:
        """The number of what ``key`` describes: equal keys, equal values."""
        if key not in self.numbers:
            self.numbers[key] = next(self.counter)
        return self.numbers[key]

    def fresh(self) -> int:
        return next(self.counter)

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Blocks that run with a tape of their own share no comparison with what is outside."""
        outside, self.comparisons = self.comparisons, {}
        yield
        self.comparisons = outside

    def block(
        self,
        closed: Any,
        in_infos: Sequence[Info],
        scope: Scope,
        start: int,
        out_felt: Sequence[bool] | None = None,
        *,
        whole: bool = False,
    ) -> tuple[Block, list[Info]]:
        """Plan one jaxpr; returns its block and what is known of its outputs.

        ``out_felt`` says whose derivative matters: a kink behind a stop_gradient has none.
        ``whole``: nothing torn may leave.
        """
        jaxpr, consts = opened(closed)
        block = Block(jaxpr, consts, late=self.late, own_entries=self.own_entries(jaxpr.invars))
        infos: dict[Any, Info] = dict(zip(jaxpr.invars, in_infos, strict=True))
        infos |= {
            v: Info(self.number(("const", id(c))))
            for v, c in zip(jaxpr.constvars, consts, strict=True)
        }
        equations, felt = live_equations(jaxpr, out_felt)

        def info(atom: Any) -> Info:
            return self.literal(atom) if isinstance(atom, jex_core.Literal) else infos[atom]

        for eqn in equations:
            step = Step(eqn, scope.call or eqn, tie=scope.tie, late=self.late)
            step.own_entries = self.own_entries(eqn.outvars)
            if eqn.primitive.name == "sort":
                step.read = entries_read(eqn, jaxpr, equations)
            operands = [info(a) for a in eqn.invars]
            felt_here = [v in felt for v in eqn.outvars]
            if not any(felt_here):
                step.silent = any(o.varied or o.torn for o in operands)
                operands = [o._replace(varied=False, torn=False, order=None) for o in operands]
            results = self.step(step, operands, scope, start + block.size, felt_here)
            step.varied = any(r.varied for r in results)
            block.steps.append(step)
            block.size += step.own_size + self.inner_size(step)
            infos |= zip(eqn.outvars, results, strict=True)
        outs = [info(v) for v in jaxpr.outvars]
        if whole and any(o.torn for o in outs):
            outs = self.mend_outputs(block, outs, scope, start + block.size)
        block.out_varied = tuple(o.varied for o in outs)
        block.out_torn = tuple(o.torn for o in outs)
        return block, outs

    def mend_outputs(self, block: Block, outs: list[Info], scope: Scope, at: int) -> list[Info]:
        """Torn outputs leave as one value, whose two sides must agree."""
        leave = Step(None, block.steps[-1].origin)
        whole = [
            self.mended(leave, var, out, scope, at) if out.torn else out
            for var, out in zip(block.jaxpr.outvars, outs, strict=True)
        ]
        block.mend = tuple(i for i, o in enumerate(outs) if o.torn)
        block.size += leave.own_size
        return [Info(o.number, o.varied) for o in whole]

    @staticmethod
    def inner_size(step: Step) -> int:
        repeats = step.eqn.params["length"] if step.action == "scan" else 1
        return repeats * sum(b.size for b in step.blocks)

    def literal(self, atom: Any) -> Info:
        value = np.asarray(atom.val)
        key = (value.item(), str(value.dtype)) if value.size == 1 else (id(atom),)
        return Info(self.number(("literal", *key)))

    def step(
        self,
        step: Step,
        operands: Sequence[Info],
        scope: Scope,
        at: int,
        out_felt: Sequence[bool],
    ) -> list[Info]:
        """Decide how one equation runs; returns what is known of its results."""
        eqn, name = step.eqn, step.eqn.primitive.name
        outs = eqn.outvars
        step.in_varied = tuple(o.varied for o in operands)
        step.torn = tuple(o.torn for o in operands)
        step.felt = tuple(out_felt)
        some_varied, some_torn = any(step.in_varied), any(step.torn)
        plain = [Info(self.fresh()) for _ in outs]
        if scope.opaque and name != node_p.name:
            step.silent, step.torn = True, ()
            return plain
        if name in _NUMBERED or (self.late and name in _NUMBERED_LATE):
            plain = [Info(self.number((name, *(o.number for o in operands), *parameters(eqn))))]
        smooth_result = [p._replace(varied=is_float(v)) for p, v in zip(plain, outs, strict=True)]

        orders = [o.order for o in operands if o.order is not None]
        if orders:
            return plan_order(self, step, orders[0], operands, scope, at, plain, smooth_result)
        if not some_varied and not some_torn:
            return plain
        if name == node_p.name:
            operands = self.mend(step, operands, scope, at)
            return plan_root(self, step, operands, scope, at, plain)
        entry = kinks.TABLE.get(marker(eqn))
        if entry is not None:
            return self.kink(step, entry, operands, scope, at, plain)
        function = function_of_jax(eqn.params[INLINE[name]]) if name in INLINE else name
        if self.late and function in LATE_EXPANSIONS and not some_torn and is_float(outs[0]):
            return self.expanded(step, LATE_EXPANSIONS[function](eqn), operands, scope, at)
        if name in INLINE:
            closed = eqn.params[INLINE[name]]
            if function in smooth.FUNCTIONS:
                self.mend(step, operands, scope, at)
                return smooth_result
            expansion = FUNCTION_EXPANSIONS.get(function, lambda eqn: None)(eqn)
            if expansion is not None:
                tie = "halves" if function == "hypot" else scope.tie
                operands = self.mend(step, operands, scope, at)
                return self.expanded(step, expansion, operands, scope._replace(tie=tie), at)
            return plan_call(self, step, closed, operands, scope, at, out_felt)
        if name in CUSTOM_RULES:
            return plan_custom_rule(self, step, operands, smooth_result, scope, at, out_felt)
        if any(jnp.issubdtype(v.aval.dtype, jnp.complexfloating) for v in eqn.invars):
            if name in ("abs", "sign", "eq", "ne") or (name == "select_n" and some_torn):
                name = f"complex_{name}"
            elif name in MATRIX_EDGES:  # their kinks are known for real matrices alone
                self.mend(step, operands, scope, at)
                self.watch(step, MATRIX_EDGES[name], scope, at)
                return smooth_result
            elif name in kinks.TABLE or name in smooth.COMPARISONS:
                raise unsupported(f"'{name}' of complex numbers", step.location)
        if name == "sort" and eqn.params["num_keys"] == 1 and any(step.in_varied[1:]):
            name = "sort_carrying"
        if name in TORN_EXPANSIONS and some_torn:
            return self.expanded(step, TORN_EXPANSIONS[name](eqn), operands, scope, at)
        if name in EXPANSIONS:
            expansion, tie = EXPANSIONS[name]
            operands = self.mend(step, operands, scope, at)
            inside = scope._replace(tie=tie, operation=scope.operation or name)
            return self.expanded(step, expansion(eqn), operands, inside, at)
        if name == "custom_linear_solve":
            operands = self.mend(step, operands, scope, at)
            plan_linear_solve(self, step, operands, scope)
            return smooth_result
        if name == "scan":
            return plan_scan(self, step, operands, scope, at)
        if name == "while":
            return plan_while(self, step, operands, scope, at)
        if name == "cond":
            return plan_switch(self, step, operands, scope, at, out_felt)
        if self.late and some_torn:
            through = plan_scatter(self, step, operands, scope, at, plain)
            through = through or plan_both_sides(self, step, operands, scope, at, plain)
            if through is not None:
                return through
        if some_torn and edges_of(step):  # they ask for the values of what varies
            operands = self.mend(step, operands, scope, at)
            step.in_varied = tuple(o.varied for o in operands)
            some_varied, some_torn, step.torn = True, False, (False,) * len(operands)
        if (
            some_varied and sum(step.torn) > 1
        ):  # one torn operand can steer the others, once they are whole
            whole = [
                o._replace(torn=o.torn and is_float(a))
                for o, a in zip(operands, eqn.invars, strict=True)
            ]
            self.mend(step, whole, scope, at)
            step.torn = tuple(t and i not in step.mend for i, t in enumerate(step.torn))
            step.in_varied = tuple(v or i in step.mend for i, v in enumerate(step.in_varied))
            some_torn = any(step.torn)
        if some_torn and plan_torn(self, step, scope, at):
            return [Info(p.number, torn=True) for p in plain]
        if some_torn and step.action == "branch":
            for var in outs:
                if not jnp.issubdtype(var.aval.dtype, jnp.floating):
                    raise unsupported(
                        f"'{name}' of varied values steered by a comparison", step.location
                    )
                self.add_site(step, "where", "branch", var.aval.shape, None, scope, at)
            return smooth_result
        if some_torn:  # an operation that mixes its entries, or has kinks of its own
            left = [o._replace(torn=t) for o, t in zip(operands, step.torn, strict=True)]
            step.in_varied = tuple(o.varied for o in self.mend(step, left, scope, at))
            if not any(step.in_varied):
                return plain
        if name in smooth.COMPARISONS or name == "sign":
            return plan_comparison(self, step, operands, scope, at, plain)
        if name == "convert_element_type" and not is_float(outs[0]):
            name = "truncate"
        if self.late and (name in STEPS or name == "sort"):
            torn = plan_tear(self, step, name, operands, scope, at, plain)
            if torn is not None:
                return torn
        if name in kinks.TABLE:
            return self.kink(step, kinks.TABLE[name], operands, scope, at, plain)
        if name in smooth.CONSTANT:
            return plain
        if name in smooth.SMOOTH:
            if not all(r.varied for r in smooth_result):
                raise unsupported(
                    f"'{name}' of varied values with a result that is not real", step.location
                )
            self.watch(step, edges_of(step), scope, at)
            return smooth_result
        raise unsupported(f"the operation '{name}'", step.location)

    def expanded(
        self,
        step: Step,
        program: Callable[..., Any],
        operands: Sequence[Info],
        scope: Scope,
        at: int,
    ) -> list[Info]:
        """An operation that is a program of simpler ones, planned in its place."""
        closed = jax.make_jaxpr(program)(*[v.aval for v in step.eqn.invars])
        inside = scope._replace(call=step.origin)
        return plan_call(self, step, closed, operands, inside, at + step.own_size, step.felt)

    def watch(self, step: Step, edges: Sequence[Edge], scope: Scope, at: int) -> None:
        """Give the edges of a smooth operation their sites, where a result they are about is felt."""
        for edge in edges:
            if not edge.results or any(step.felt[i] for i in edge.results):
                self.add_site(step, edge.operation, edge.kind, edge.shape(step), None, scope, at)
                step.edges = (*step.edges, edge)

    def kink(
        self,
        step: Step,
        entry: "kinks.Entry",
        operands: Sequence[Info],
        scope: Scope,
        at: int,
        plain: list[Info],
    ) -> list[Info]:
        """An operation of the table: its sites in order, its results varied where they are real."""
        if not step.mend and any(step.torn):
            self.mend(step, operands, scope, at)
        step.action, step.entry = "kink", entry
        for operation, kind, shape, slopes in entry.sites(step, self):
            self.add_site(step, operation, kind, shape, slopes, scope, at)
        ordered = step if entry.orders and step.eqn.outvars[0].aval.ndim == 1 else None
        return [
            p._replace(varied=is_float(v) and entry.varies, order=ordered if i else None)
            for i, (p, v) in enumerate(zip(plain, step.eqn.outvars, strict=True))
        ]

    def add_site(
        self,
        step: Step,
        operation: str,
        kind: str,
        shape: tuple[int, ...],
        slopes: tuple[float, float] | None,
        scope: Scope,
        at: int,
    ) -> None:
        row_major = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
        in_while = scope.whiles and kind in (
            "kink",
            "comparison",
            "tie",
            "sort",
            "ball",
            "spectrum",
            "null",
        )
        self.sites.append(
            Site(
                scope.operation or operation,
                "loop" if in_while else kind,
                step.origin,
                scope.loops + shape,
                at + step.own_size,
                [0] * len(scope.loops) + row_major,  # a scan sets its own stride once it is planned
                slopes,
                len(scope.loops),
                read=step.read,
            )
        )
        step.slots = (*step.slots, shape)

    def mend(self, step: Step, operands: Sequence[Info], scope: Scope, at: int) -> list[Info]:
        """Turn torn operands into single values, whose two sides must agree where they meet.

        Returns what is known of them then: real ones vary; others are constant and may jump.
        """
        whole = list(operands)
        for i, operand in enumerate(operands):
            if operand.torn:
                step.mend = (*step.mend, i)
                whole[i] = self.mended(step, step.eqn.invars[i], operand, scope, at)
        return whole

    def mended(self, step: Step, var: Any, info: Info, scope: Scope, at: int) -> Info:
        """One torn value made whole, at a site of ``step``."""
        real = jnp.issubdtype(var.aval.dtype, jnp.floating)
        operation, kind = ("where", "branch") if real else ("comparison", "index")
        self.add_site(step, operation, kind, var.aval.shape, None, scope, at)
        if real and self.late:
            self.add_site(step, operation, "stand", var.aval.shape, None, scope, at)
        step.mending = len(step.slots)
        return info._replace(torn=False, varied=info.varied or real)
