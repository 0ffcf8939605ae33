"""Run a planned program with a tape: each equation as JAX would, each kink as the tape says."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex_core

from . import smooth
from .kinks import carrying, mix
from .program import Block, Program, Step
from .tape import Discover


def run_program(program: Program, args: Sequence[Any], tape: Any) -> list[Any]:
    """The program's flat outputs at flat inputs ``args``."""
    none = [None] * len(args)
    return _run(program.block, program.consts, list(args), none, none, tape)[0]


def measured_outputs(program: Program, args: Sequence[Any]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The program's outputs and the size of the terms that made each."""

    def run(args: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        none = [None] * len(args)
        outs, sizes, _ = _run(program.block, program.consts, args, none, none, Discover(program.dtype))
        return outs, [smooth.size_of(jnp.asarray(o), s) for o, s in zip(outs, sizes, strict=True)]

    return jax.tree.map(np.asarray, jax.jit(run)(list(args)))


def _run(
    block: Block,
    consts: Sequence[Any],
    args: Sequence[Any],
    sizes: Sequence[Any],
    companions: Sequence[Any],
    tape: Any,
) -> tuple[list[Any], list[Any], list[Any]]:
    """Outputs of a block with their sizes (None: the absolute value) and comparison companions."""
    jaxpr = block.jaxpr
    value = dict(zip(jaxpr.constvars, consts, strict=True)) | dict(zip(jaxpr.invars, args, strict=True))
    size = dict(zip(jaxpr.invars, sizes, strict=True))
    companion = dict(zip(jaxpr.invars, companions, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, jex_core.Literal) else value[atom]

    def side(table: dict[Any, Any], atom: Any) -> Any:
        return None if isinstance(atom, jex_core.Literal) else table.get(atom)

    for step in block.steps:
        eqn = step.eqn
        values = [read(a) for a in eqn.invars]
        in_sizes = [side(size, a) for a in eqn.invars]
        in_companions = [side(companion, a) for a in eqn.invars]
        out_sizes: Sequence[Any] = [None] * len(eqn.outvars)
        out_companions: Sequence[Any] = [None] * len(eqn.outvars)
        if step.action == "plain":
            outs = bind(eqn, *values)
            if tape.watches and step.varied:
                tape.watch(eqn, values, lambda *v, e=eqn: bind(e, *v))
            if tape.measures and step.varied:
                out_sizes = smooth.sizes_after(eqn, values, in_sizes, outs, lambda *v, e=eqn: bind(e, *v))
        elif step.action == "inline":
            (sub,) = step.blocks
            outs, out_sizes, out_companions = _run(
                sub, inner_consts(eqn), values, in_sizes, in_companions, tape
            )
        elif step.action == "scan":
            outs, out_sizes = _run_scan(step, values, in_sizes, in_companions, tape)
        elif step.action == "kink":
            if tape.measures:
                tape.sizes = tuple(
                    smooth.size_of(jnp.asarray(v), s) for v, s in zip(values, in_sizes, strict=True)
                )
                out_sizes = [step.entry.size(step, tape.sizes)]
            outs = [step.entry.run(tape, step, *values)]
        elif step.action == "compare":
            outs = bind(eqn, *values)
            if step.first:
                u, v = values[::-1] if step.swap else values
                total = sum(
                    smooth.size_of(jnp.asarray(x), s) for x, s in zip(values, in_sizes, strict=True)
                )
                tape.companions[step.comparison] = tape.compare(jnp.asarray(u - v), total, step.tie)
            out_companions = [tape.companions[step.comparison]]
        elif step.action == "steer":
            outs = bind(eqn, *values)
            if eqn.primitive.name == "not":
                out_companions = [in_companions[0]]
            else:
                carried = [v if c is None else c for v, c in zip(values, in_companions, strict=True)]
                out_companions = bind(eqn, *carried)
        else:
            outs, out_sizes = _run_branch(step, values, in_sizes, in_companions[0], tape)
        for var, v, s, c in zip(eqn.outvars, outs, out_sizes, out_companions, strict=True):
            value[var] = v
            if s is not None:
                size[var] = s
            if c is not None:
                companion[var] = c
    return (
        [read(v) for v in jaxpr.outvars],
        [side(size, v) for v in jaxpr.outvars],
        [side(companion, v) for v in jaxpr.outvars],
    )


def bind(eqn: Any, *values: Any) -> list[Any]:
    """Run one equation as it stands."""
    out = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params))
    return list(out) if eqn.primitive.multiple_results else [out]


def inner_consts(eqn: Any) -> Sequence[Any]:
    """The constants that a call's closed jaxpr carries."""
    for name in ("jaxpr", "call_jaxpr"):
        if isinstance(eqn.params.get(name), jex_core.ClosedJaxpr):
            return eqn.params[name].consts
    return ()


def _run_branch(
    step: Step, values: Sequence[Any], sizes: Sequence[Any], companion: Any, tape: Any
) -> tuple[list[Any], list[Any]]:
    predicate, on_false, on_true = (jnp.asarray(v) for v in values)
    value = step.eqn.primitive.bind(predicate, on_false, on_true)
    positive = step.polarity > 0
    upper, lower = (on_true, on_false) if positive else (on_false, on_true)
    out_sizes: list[Any] = [None]
    total: Any = 0.0
    if tape.measures:
        false_size, true_size = (
            smooth.size_of(v, s) for v, s in zip((on_false, on_true), sizes[1:], strict=True)
        )
        total = false_size + true_size
        out_sizes = [jnp.where(predicate, true_size, false_size)]
    q, r = tape.branch(upper, lower, total, predicate if positive else ~predicate, companion)
    return [carrying(value, mix(q, upper, lower)) + r], out_sizes


def _run_scan(
    step: Step, values: Sequence[Any], sizes: Sequence[Any], companions: Sequence[Any], tape: Any
) -> tuple[list[Any], list[Any]]:
    (sub,) = step.blocks
    params = step.eqn.params
    first, last = params["num_consts"], params["num_consts"] + params["num_carry"]
    consts, const_sizes = values[:first], sizes[:first]

    def measured(v: Any, s: Any) -> Any:
        is_float = jnp.issubdtype(jnp.result_type(v), jnp.floating)
        return smooth.size_of(jnp.asarray(v), s) if tape.measures and is_float else None

    carry = [jnp.asarray(v) for v in values[first:last]]
    carry_sizes = [measured(v, s) for v, s in zip(carry, sizes[first:last], strict=True)]
    xs = values[last:]
    xs_sizes = [measured(v, s) for v, s in zip(xs, sizes[last:], strict=True)]

    def body(state: Any, inputs: Any) -> Any:
        carry, carry_sizes = state
        xs, xs_sizes, tape_inputs = inputs
        child = tape.child(tape_inputs)
        outs, out_sizes, _ = _run(
            sub,
            params["jaxpr"].consts,
            [*consts, *carry, *xs],
            [*const_sizes, *carry_sizes, *xs_sizes],
            [*companions[:first], *[None] * (len(carry) + len(xs))],
            child,
        )
        out_sizes = [measured(v, s) for v, s in zip(outs, out_sizes, strict=True)]
        n = last - first
        new = [jnp.asarray(o, c.dtype) for o, c in zip(outs[:n], carry, strict=True)]
        return (new, out_sizes[:n]), (outs[n:], out_sizes[n:], child.outputs())

    tape_inputs = tape.loop_inputs(sub.size, params["length"])
    (carry, carry_sizes), (ys, ys_sizes, recorded) = jax.lax.scan(
        body,
        (carry, carry_sizes),
        (xs, xs_sizes, tape_inputs),
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    tape.absorb(recorded)
    return [*carry, *ys], [*carry_sizes, *ys_sizes]
