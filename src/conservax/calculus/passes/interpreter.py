"""Run a planned program with a tape: each equation as JAX would, each kink as the tape says."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex_core
from jax.flatten_util import ravel_pytree

from ..operations.discover import Discover
from ..operations.mixtures import difference
from ..operations.sizes import sizes_after
from ..operations.sorting import permuted
from ..operations.tape import Tape
from ..operations.torn import Torn, of_comparison
from ..tracing.jaxprs import bind, unsupported
from ..tracing.program import Block, Program, Step
from .both_sides import both, sides
from .copies import followed, increment, numbered, unknown
from .decided import decided_kink
from .meeting import combine
from .placing import scattered
from .sides import Value, branch, branched, decided, mended, push
from .steps import tear, torn_sort


def run_program(program: Program, args: Sequence[Any], tape: Tape) -> list[Any]:
    """The program's flat outputs at flat inputs ``args``."""
    return [v.value for v in run_block(program.block, [Value(a) for a in args], tape)]


def measured_outputs(
    program: Program, args: Sequence[Any], tape: Discover
) -> tuple[list[Any], list[Any]]:
    """The program's outputs and the size of the terms that made each."""
    outs = run_block(program.block, [Value(a) for a in args], tape)
    return [o.value for o in outs], [o.measure for o in outs]


def run_block(block: Block, args: Sequence[Value], tape: Tape) -> list[Value]:
    """Outputs of one execution of a block."""
    jaxpr, follows = block.jaxpr, block.late and tape.copies
    args = numbered(block, args) if follows else args
    env = dict(zip(jaxpr.constvars, map(Value, block.consts), strict=True))
    env |= zip(jaxpr.invars, args, strict=True)

    def read(atom: Any) -> Value:
        return Value(atom.val) if isinstance(atom, jex_core.Literal) else env[atom]

    for step in block.steps:
        operands = [read(a) for a in step.eqn.invars]
        if step.silent:
            operands = [Value(jax.lax.stop_gradient(o.value)) for o in operands]
        for place in step.mend:
            operands[place] = unknown(mended(operands[place], tape, step.late))
        one_side = tape.decides and step.action in ("push", "combine", "branch")
        outs = decided(step, operands) if one_side else _ACTIONS[step.action](step, operands, tape)
        outs = followed(step, operands, outs, tape) if follows else outs
        env |= zip(step.eqn.outvars, outs, strict=True)
    outs = [read(v) for v in jaxpr.outvars]
    for place in block.mend:
        outs[place] = mended(outs[place], tape, block.late)
    return outs


def _plain(step: Step, operands: Sequence[Value], tape: Tape) -> list[Value]:
    eqn, values = step.eqn, [o.value for o in operands]
    try:
        outs = bind(eqn, *values)
    except NotImplementedError as error:  # JAX's own derivative of it is missing
        raise unsupported(f"the operation '{eqn.primitive.name}': {error}", step.location) from None
    for edge in step.edges:
        edge.record(
            tape, step, values, [o.measure for o in operands] if tape.measures else (), outs
        )
    if not (step.varied and tape.measures):
        return [Value(o) for o in outs]

    def again(*v: Any) -> list[Any]:
        return bind(eqn, *v)

    tape.watch(step, values, again)
    sizes = sizes_after(eqn, values, [o.size for o in operands], outs, again, tape.tau)
    return [Value(o, s) for o, s in zip(outs, sizes, strict=True)]


def _inline(step: Step, operands: Sequence[Value], tape: Tape) -> list[Value]:
    return run_block(step.blocks[0], operands, tape)


def _kink(step: Step, operands: Sequence[Value], tape: Tape) -> list[Value]:
    sizes: Sequence[Any] = ()
    if tape.measures:
        tape.sizes = tuple(o.measure for o in operands)
        sizes = tape.sizes
    values = [o.value if hasattr(o.value, "shape") else jnp.asarray(o.value) for o in operands]
    if tape.decides and not step.entry.orders:
        return [Value(o) for o in decided_kink(step, tape, values)]
    outs = step.entry.run(tape, step, *values)
    outs = outs if step.eqn.primitive.multiple_results else [outs]
    if not tape.measures:
        return [Value(o) for o in outs]
    return [
        Value(o, s if jnp.issubdtype(o.dtype, jnp.floating) else None)
        for o, s in zip(outs, step.entry.size(step, values, sizes, outs, tape.tau), strict=True)
    ]


def _compare(step: Step, operands: Sequence[Value], tape: Tape) -> list[Value]:
    (value,) = bind(step.eqn, *[o.value for o in operands])
    if tape.decides:
        side = tape.side(step.entry, step.swap, *[o.value for o in operands])
        return [Value(value, torn=Torn(side, side, None, None))]
    if step.first:
        u, *v = operands[::-1] if step.swap else operands
        z = jnp.broadcast_to(difference(u.value, v[0].value) if v else u.value, value.shape)
        total = sum(o.measure for o in operands) if tape.measures else 0.0
        if step.late and tape.copies:
            z = increment(step, z, u, v[0] if v else None, tape)
        tape.torn[step.comparison] = tape.compare(z, total, step.side)
    above, steering = tape.torn[step.comparison]
    return [Value(value, torn=of_comparison(step.entry, above, steering, value.dtype))]


def _permute(step: Step, operands: Sequence[Value], tape: Tape) -> list[Value]:
    """A gather by the order of a sort: its entries swap where the sort's do."""
    (value,) = bind(step.eqn, *[o.value for o in operands])
    size: Any = 0.0
    if tape.measures:
        size = jnp.max(operands[0].measure, initial=0.0)
    moved = permuted(tape, tape.orders[id(step.sort)], value, size)
    return [Value(moved, jnp.full(value.shape, size) if tape.measures else None)]


def _jump(step: Step, operands: Sequence[Value], tape: Tape) -> list[Value]:
    """Any other use of the order of a sort jumps where two keys tie."""
    tape.jump(tape.orders[id(step.sort)].ties, 1.0)
    return _plain(step, operands, tape)


def _switch(step: Step, operands: Sequence[Value], tape: Tape) -> list[Value]:
    index, *rest = operands
    last = len(step.blocks) - 1
    if index.torn is None:
        return _constant_switch(step, jnp.clip(index.value, 0, last), rest, tape)
    torn = index.torn
    outs = []
    for i, block in enumerate(step.blocks):
        reachable = index.value == i
        if not tape.decides:
            reachable |= torn.steering.active & ((torn.upper == i) | (torn.lower == i))
        child = tape.masked(reachable)
        outs.append(run_block(block, rest, child))
        if child is not tape:
            tape.absorb(child.outputs())
    results = []
    for cases in zip(*outs, strict=True):
        values = [jnp.asarray(c.value) for c in cases]
        value, upper, lower = (
            jax.lax.select_n(jnp.asarray(i, jnp.int32), *values)
            for i in (index.value, torn.upper, torn.lower)
        )
        size = 0.0
        if tape.measures:
            sizes = [c.measure for c in cases]
            own, above, below = (
                jax.lax.select_n(jnp.asarray(i, jnp.int32), *sizes)
                for i in (index.value, torn.upper, torn.lower)
            )
            size = jnp.where(torn.steering.active, jnp.maximum(above, below), own)
        results.append(branched(value, upper, lower, size, torn, index.value, tape))
    return results


def _constant_switch(step: Step, index: Any, operands: Sequence[Value], tape: Tape) -> list[Value]:
    """Only the chosen branch runs; the slots of the others stay empty."""
    starts = np.cumsum([0, *[b.size for b in step.blocks]])
    base = tape.next_input(int(starts[-1]))
    sizes = [_floating_size(o, tape) for o in operands]

    def branch(i: int) -> Callable[..., Any]:
        def run(values: Sequence[Any], sizes: Sequence[Any]) -> Any:
            inputs = jax.tree.map(
                lambda a: a[starts[i] :][: step.blocks[i].size] if jnp.ndim(a) else a + starts[i],
                base,
            )
            child = tape.child(inputs)
            child.keeps = False  # branches keep different things
            outs = run_block(
                step.blocks[i],
                [Value(v, s, o.torn) for v, s, o in zip(values, sizes, operands, strict=True)],
                child,
            )
            parts = [
                child.outputs() if j == i else tape.blank(b.size) for j, b in enumerate(step.blocks)
            ]
            recorded = jax.tree.map(lambda *p: jnp.concatenate(p), *parts)
            return (
                [jnp.asarray(o.value) for o in outs],
                [_floating_size(o, tape) for o in outs],
                recorded,
            )

        return run

    values = [o.value for o in operands]
    outs, out_sizes, recorded = jax.lax.switch(
        index, [branch(i) for i in range(len(step.blocks))], values, sizes
    )
    tape.absorb(recorded)
    return [Value(o, s) for o, s in zip(outs, out_sizes, strict=True)]


def _floating_size(operand: Value, tape: Tape) -> Any:
    is_float = jnp.issubdtype(jnp.result_type(operand.value), jnp.floating)
    return operand.measure if tape.measures and is_float else None


def _scan(step: Step, operands: Sequence[Value], tape: Tape) -> list[Value]:
    (sub,) = step.blocks
    params = step.eqn.params
    first, last = params["num_consts"], params["num_consts"] + params["num_carry"]
    consts, moving = operands[:first], operands[first:]
    state = [(jnp.asarray(o.value), _floating_size(o, tape)) for o in moving]
    n = last - first
    sites: list[Any] = []

    def body(carry: Any, inputs: Any) -> Any:
        xs, tape_inputs = inputs
        child = tape.child(tape_inputs)
        outs = run_block(
            sub, [*consts, *(Value(*c) for c in carry), *(Value(*x) for x in xs)], child
        )
        pairs = [(jnp.asarray(o.value), _floating_size(o, tape)) for o in outs]
        carried = [(v.astype(c[0].dtype), s) for (v, s), c in zip(pairs[:n], carry, strict=True)]
        kept = child.kept if tape.keeps else []
        sites[:] = [site for site, _ in kept]
        return carried, (pairs[n:], child.outputs(), [arrays for _, arrays in kept])

    tape_inputs = tape.loop_inputs(sub.size, params["length"])
    carry, (ys, recorded, stacked) = jax.lax.scan(
        body,
        state[:n],
        (state[n:], tape_inputs),
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    tape.absorb(recorded)
    for site, arrays in zip(sites, stacked, strict=True):
        tape.keep(site, arrays)
    return [Value(v, s) for v, s in (*carry, *ys)]


def _while(step: Step, operands: Sequence[Value], tape: Tape) -> list[Value]:
    """Run the loop and keep, for each kink inside, its nearest approach."""
    cond, body = step.blocks
    params = step.eqn.params
    n_cond, n_body = params["cond_nconsts"], params["body_nconsts"]
    cond_consts, body_consts = operands[:n_cond], operands[n_cond : n_cond + n_body]
    state = [(jnp.asarray(o.value), _floating_size(o, tape)) for o in operands[n_cond + n_body :]]

    def test(carry: Any) -> tuple[Any, Any]:
        child = tape.inside_while()
        (go,) = run_block(cond, [*cond_consts, *(Value(*c) for c in carry)], child)
        return go.value, child.outputs()

    def advance(carry: Any) -> tuple[Any, Any]:
        child = tape.inside_while()
        outs = run_block(body, [*body_consts, *(Value(*c) for c in carry)], child)
        pairs = [
            (jnp.asarray(o.value).astype(c[0].dtype), _floating_size(o, tape))
            for o, c in zip(outs, carry, strict=True)
        ]
        return pairs, child.outputs()

    measures = tape.measures

    def loop_body(loop: Any) -> Any:
        carry, go, tested, ran = loop
        del go
        carry, recorded = advance(carry)
        go, tested_again = test(carry)
        if not measures:
            return carry, go, (), ()
        return carry, go, tape.nearest(tested, tested_again), tape.nearest(ran, recorded)

    go, tested = test(state)
    ran = tape.blank(body.size) if measures else ()
    carry, _, tested, ran = jax.lax.while_loop(
        lambda loop: loop[1], loop_body, (state, go, tested if measures else (), ran)
    )
    if measures:
        tape.absorb(jax.tree.map(lambda *p: jnp.concatenate(p), tested, ran))
    else:
        tape.absorb(tape.blank(cond.size + body.size))
    return [Value(*pair) for pair in carry]


def _solve(step: Step, operands: Sequence[Value], tape: Tape) -> list[Value]:
    """A call that holds a node, which says how its solution moves; a policy leaves it its own rule."""
    (sub,) = step.blocks
    if tape.lifts:
        return run_block(sub, operands, tape)
    tape.next_input(sub.size)
    return [Value(o) for o in bind(step.eqn, *[o.value for o in operands])]


def _root(step: Step, operands: Sequence[Value], tape: Tape) -> list[Value]:
    """A node: the tangent of its solution is cut, and its residual joins the system."""
    leaves, (sub,) = step.eqn.params["leaves"], step.blocks
    kept = operands[leaves:]
    flat, unravel = ravel_pytree([jnp.asarray(o.value) for o in operands[:leaves]])
    if tape.keeps and step.eqn.params["node"].certificate is not None:
        tape.keep(step.site, [o.value for o in operands])

    def residual_of(solution: Any, tape: Tape) -> tuple[Any, Any]:
        inputs = [Value(x, jnp.abs(x) if tape.measures else None) for x in unravel(solution)]
        rows = run_block(sub, [*inputs, *kept], tape)
        sizes = ravel_pytree([r.measure for r in rows])[0] if tape.measures else None
        return ravel_pytree([jnp.asarray(r.value) for r in rows])[0], sizes

    solution = tape.root(flat, residual_of, sub.size)
    return [Value(x, jnp.abs(x) if tape.measures else None) for x in unravel(solution)]


_ACTIONS: dict[str, Callable[[Step, Sequence[Value], Any], list[Value]]] = {
    "plain": _plain,
    "inline": _inline,
    "kink": _kink,
    "compare": _compare,
    "push": push,
    "combine": combine,
    "branch": branch,
    "both": both,
    "scatter": scattered,
    "sides": sides,
    "tear": tear,
    "torn_sort": torn_sort,
    "permute": _permute,
    "jump": _jump,
    "switch": _switch,
    "scan": _scan,
    "while": _while,
    "solve": _solve,
    "root": _root,
}
