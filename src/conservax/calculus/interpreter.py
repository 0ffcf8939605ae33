"""Run a planned program with a tape: each equation as JAX would, each kink as the tape says."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex_core
from jax.flatten_util import ravel_pytree

from . import smooth
from .kinks import carrying, mix
from .program import Block, Program, Step
from .sorting import permuted
from .tape import Discover
from .torn import Steering, Torn, broadcast_steering, joined, of_comparison

_DECIDED: dict[Any, Callable[..., Any]] = {}
_DECIDED_CAPACITY = 512


@dataclass(frozen=True)
class Value:
    """A value with the size of the terms that made it (None: its absolute value) and its two sides."""

    value: Any
    size: Any = None
    torn: Torn | None = None

    @property
    def measure(self) -> Any:
        return smooth.size_of(jnp.asarray(self.value), self.size)


def run_program(program: Program, args: Sequence[Any], tape: Any) -> list[Any]:
    """The program's flat outputs at flat inputs ``args``."""
    return [v.value for v in run_block(program.block, [Value(a) for a in args], tape)]


def measured_outputs(program: Program, args: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The program's outputs and the size of the terms that made each."""
    outs = run_block(program.block, [Value(a) for a in args], Discover(program.dtype))
    return [o.value for o in outs], [o.measure for o in outs]


def run_block(block: Block, args: Sequence[Value], tape: Any) -> list[Value]:
    """Outputs of one execution of a block."""
    jaxpr = block.jaxpr
    env = dict(zip(jaxpr.constvars, map(Value, block.consts), strict=True))
    env |= zip(jaxpr.invars, args, strict=True)

    def read(atom: Any) -> Value:
        return Value(atom.val) if isinstance(atom, jex_core.Literal) else env[atom]

    for step in block.steps:
        operands = [read(a) for a in step.eqn.invars]
        if step.silent:
            operands = [Value(jax.lax.stop_gradient(o.value)) for o in operands]
        for place in step.mend:
            operands[place] = _mended(operands[place], tape)
        decided = tape.decides and step.action in ("push", "combine", "branch")
        outs = _decided(step, operands) if decided else _ACTIONS[step.action](step, operands, tape)
        env |= zip(step.eqn.outvars, outs, strict=True)
    outs = [read(v) for v in jaxpr.outvars]
    for place in block.mend:
        outs[place] = _mended(outs[place], tape)
    return outs


def bind(eqn: Any, *values: Any) -> list[Any]:
    """Run one equation as it stands."""
    out = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params))
    return list(out) if eqn.primitive.multiple_results else [out]


def _mended(operand: Value, tape: Any) -> Value:
    """A torn operand as one varied value: its sides must agree where it is torn."""
    torn = operand.torn
    assert torn is not None
    return _branched(
        jnp.asarray(operand.value),
        torn.upper,
        torn.lower,
        operand.measure,
        torn.above,
        torn.steering,
        tape,
    )


def _branched(
    value: Any, upper: Any, lower: Any, size: Any, above: Any, steering: Steering, tape: Any
) -> Value:
    if tape.decides:
        return Value(carrying(value, upper))
    q, r = tape.branch(upper, lower, size, above, steering)
    return Value(carrying(value, mix(q, upper, lower)) + r, size if tape.measures else None)


def _decided(step: Step, operands: Sequence[Value]) -> list[Value]:
    """Under a named policy one side of a torn value is chosen: the operation on that side alone."""
    outs = bind(step.eqn, *[o.value for o in operands])
    chosen = bind(step.eqn, *[o.value if o.torn is None else o.torn.upper for o in operands])
    if step.action == "branch":
        return [Value(carrying(o, c)) for o, c in zip(outs, chosen, strict=True)]
    return [Value(o, torn=Torn(c, c, None, None)) for o, c in zip(outs, chosen, strict=True)]


def _plain(step: Step, operands: Sequence[Value], tape: Any) -> list[Value]:
    eqn, values = step.eqn, [o.value for o in operands]
    outs = bind(eqn, *values)
    if not (step.varied and tape.measures):
        return [Value(o) for o in outs]

    def again(*v: Any) -> list[Any]:
        return bind(eqn, *v)

    if tape.watches:
        tape.watch(step, values, again)
    sizes = smooth.sizes_after(eqn, values, [o.size for o in operands], outs, again)
    return [Value(o, s) for o, s in zip(outs, sizes, strict=True)]


def _inline(step: Step, operands: Sequence[Value], tape: Any) -> list[Value]:
    return run_block(step.blocks[0], operands, tape)


def _kink(step: Step, operands: Sequence[Value], tape: Any) -> list[Value]:
    sizes: Sequence[Any] = ()
    if tape.measures:
        tape.sizes = tuple(o.measure for o in operands)
        sizes = tape.sizes
    values = [o.value if hasattr(o.value, "shape") else jnp.asarray(o.value) for o in operands]
    if tape.decides and not step.entry.orders:
        outs = _decided_kink(step, tape, values)
    else:
        outs = step.entry.run(tape, step, *values)
    outs = outs if step.eqn.primitive.multiple_results else [outs]
    if not tape.measures:
        return [Value(o) for o in outs]
    return [
        Value(o, s if jnp.issubdtype(o.dtype, jnp.floating) else None)
        for o, s in zip(outs, step.entry.size(step, sizes, outs), strict=True)
    ]


def _decided_kink(step: Step, tape: Any, values: Sequence[Any]) -> Any:
    """A kink under a named policy, traced once for all its repetitions in a program."""
    params = tuple(map(str, step.eqn.params.values()))
    shapes = tuple((v.shape, v.dtype) for v in values)
    key = (step.entry, tape.policy, step.tie, step.in_varied, step.slots, params, shapes)
    if key not in _DECIDED:
        while len(_DECIDED) >= _DECIDED_CAPACITY:
            _DECIDED.pop(next(iter(_DECIDED)))
        _DECIDED[key] = jax.jit(
            functools.partial(step.entry.run, tape.child(None), step), inline=True
        )
    return _DECIDED[key](*values)


def _compare(step: Step, operands: Sequence[Value], tape: Any) -> list[Value]:
    (value,) = bind(step.eqn, *[o.value for o in operands])
    if tape.decides:
        side = tape.side(step.entry, step.swap, *[o.value for o in operands])
        return [Value(value, torn=Torn(side, side, None, None))]
    if step.first:
        u, *v = operands[::-1] if step.swap else operands
        z = jnp.broadcast_to(u.value - (v[0].value if v else 0), value.shape)
        total = sum(o.measure for o in operands) if tape.measures else 0.0
        tape.torn[step.comparison] = tape.compare(z, total, step.side)
    above, steering = tape.torn[step.comparison]
    return [Value(value, torn=of_comparison(step.entry, above, steering, value.dtype))]


def _push(step: Step, operands: Sequence[Value], tape: Any) -> list[Value]:
    """Both sides of the one torn operand go through the operation."""
    place = step.torn.index(True)
    torn = operands[place].torn
    assert torn is not None
    values = [o.value for o in operands]

    def through(side: Any) -> list[Any]:
        return bind(step.eqn, *values[:place], side, *values[place + 1 :])

    outs, uppers, lowers = through(values[place]), through(torn.upper), through(torn.lower)
    results = []
    for out, upper, lower in zip(outs, uppers, lowers, strict=True):
        if step.eqn.primitive.name in smooth.STRUCTURAL and torn.above.shape:
            above, steering = jax.tree.map(lambda a: through(a)[0], (torn.above, torn.steering))
        else:
            above, steering = broadcast_steering(torn, out.shape)
        results.append(Value(out, torn=Torn(upper, lower, above, steering)))
    return results


def _combine(step: Step, operands: Sequence[Value], tape: Any) -> list[Value]:
    """Two torn values meet: where one of them is decided the other one steers the result."""
    name = step.eqn.primitive.name
    values = [o.value for o in operands]
    (value,) = bind(step.eqn, *values)
    torn = [o.torn for o in operands if o.torn is not None]
    if name in ("reduce_or", "reduce_and"):
        return [Value(value, torn=_reduced(step, values[0], torn[0], value, tape))]
    places = [i for i, t in enumerate(step.torn) if t]

    def at(first: Any, second: Any) -> Any:
        changed = list(values)
        changed[places[0]], changed[places[1]] = first, second
        return bind(step.eqn, *changed)[0]

    a, b = torn
    one, two = values[places[0]], values[places[1]]
    shape = value.shape
    (above_a, by_a), (above_b, by_b) = broadcast_steering(a, shape), broadcast_steering(b, shape)
    only_a = Torn(at(a.upper, two), at(a.lower, two), above_a, by_a)
    only_b = Torn(at(one, b.upper), at(one, b.lower), above_b, by_b)
    both = Torn(at(a.upper, b.upper), at(a.lower, b.lower), above_a, by_a)
    same = (by_a.slot == by_b.slot) & (above_a == above_b) & tape.measures
    compound = by_a.active & by_b.active & ~same
    if value.dtype == bool:
        meeting = Torn(
            jnp.ones(shape, bool), jnp.zeros(shape, bool), value, tape.meet(compound, value, "or")
        )
    else:
        meeting = both._replace(steering=tape.meet(compound, above_a, "jump"))
    single = joined(only_a, only_b, by_a.active)
    return [
        Value(
            value, torn=joined(meeting, joined(both, single, by_a.active & by_b.active), compound)
        )
    ]


def _reduced(step: Step, value: Any, torn: Torn, result: Any, tape: Any) -> Torn:
    """any or all of booleans: one active entry steers the result unless the decided ones settle it."""
    axes = step.eqn.params["axes"]
    settles = step.eqn.primitive.name == "reduce_or"
    active = torn.steering.active
    settled = jnp.any((value == settles) & ~active, axis=axes)
    count = jnp.sum(active, axis=axes)

    def of_active(a: Any) -> Any:
        return jnp.sum(jnp.where(active, a, 0), axis=axes)

    open_ = ~settled & (count > 0)
    meeting = tape.meet(open_ & (count > 1), result, "or")
    above = jnp.where(count == 1, of_active(torn.above) > 0, result)
    steering = Steering(
        open_ & (count == 1), of_active(torn.steering.slot), of_active(torn.steering.q)
    )
    alone = Torn(of_active(torn.upper) > 0, of_active(torn.lower) > 0, above, steering)
    together = Torn(jnp.ones_like(result), jnp.zeros_like(result), result, meeting)
    decided = Torn(result, result, result, steering._replace(active=jnp.zeros_like(open_)))
    return joined(joined(together, alone, count > 1), decided, open_)


def _branch(step: Step, operands: Sequence[Value], tape: Any) -> list[Value]:
    """A torn value meets varied ones: the operation on either side, chosen by the comparison."""
    place = step.torn.index(True)
    torn = operands[place].torn
    assert torn is not None
    values = [o.value for o in operands]

    def through(side: Any) -> list[Any]:
        return bind(step.eqn, *values[:place], jnp.asarray(side), *values[place + 1 :])

    outs, uppers, lowers = through(values[place]), through(torn.upper), through(torn.lower)
    sizes: Sequence[Any] = [0.0] * len(outs)
    if tape.measures:
        sizes = smooth.sizes_after(
            step.eqn, values, [o.size for o in operands], outs, lambda *v: bind(step.eqn, *v)
        )
        sizes = [
            jnp.maximum(s, jnp.maximum(jnp.abs(u), jnp.abs(v)))
            for s, u, v in zip(sizes, uppers, lowers, strict=True)
        ]
    return [
        _branched(o, u, v, s, *broadcast_steering(torn, o.shape), tape)
        for o, u, v, s in zip(outs, uppers, lowers, sizes, strict=True)
    ]


def _permute(step: Step, operands: Sequence[Value], tape: Any) -> list[Value]:
    """A gather by the order of a sort: its entries swap where the sort's do."""
    (value,) = bind(step.eqn, *[o.value for o in operands])
    size: Any = 0.0
    if tape.measures:
        size = jnp.max(operands[0].measure, initial=0.0)
    moved = permuted(tape, tape.orders[id(step.sort)], value, size)
    return [Value(moved, jnp.full(value.shape, size) if tape.measures else None)]


def _jump(step: Step, operands: Sequence[Value], tape: Any) -> list[Value]:
    """Any other use of the order of a sort jumps where two keys tie."""
    tape.jump(tape.orders[id(step.sort)].ties, 1.0)
    return _plain(step, operands, tape)


def _switch(step: Step, operands: Sequence[Value], tape: Any) -> list[Value]:
    index, *rest = operands
    last = len(step.blocks) - 1
    if index.torn is None:
        return _constant_switch(step, jnp.clip(index.value, 0, last), rest, tape)
    torn = index.torn
    outs = []
    for i, block in enumerate(step.blocks):
        reachable = (index.value == i) | (
            torn.steering.active & ((torn.upper == i) | (torn.lower == i))
        )
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
        sizes = [c.measure for c in cases] if tape.measures else []
        size = functools.reduce(jnp.maximum, sizes) if sizes else 0.0
        results.append(
            _branched(value, upper, lower, size, *broadcast_steering(torn, value.shape), tape)
        )
    return results


def _constant_switch(step: Step, index: Any, operands: Sequence[Value], tape: Any) -> list[Value]:
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
            outs = run_block(
                step.blocks[i], [Value(v, s) for v, s in zip(values, sizes, strict=True)], child
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


def _floating_size(operand: Value, tape: Any) -> Any:
    is_float = jnp.issubdtype(jnp.result_type(operand.value), jnp.floating)
    return operand.measure if tape.measures and is_float else None


def _scan(step: Step, operands: Sequence[Value], tape: Any) -> list[Value]:
    (sub,) = step.blocks
    params = step.eqn.params
    first, last = params["num_consts"], params["num_consts"] + params["num_carry"]
    consts, moving = operands[:first], operands[first:]
    state = [(jnp.asarray(o.value), _floating_size(o, tape)) for o in moving]
    n = last - first

    def body(carry: Any, inputs: Any) -> Any:
        xs, tape_inputs = inputs
        child = tape.child(tape_inputs)
        outs = run_block(
            sub, [*consts, *(Value(*c) for c in carry), *(Value(*x) for x in xs)], child
        )
        pairs = [(jnp.asarray(o.value), _floating_size(o, tape)) for o in outs]
        carried = [(v.astype(c[0].dtype), s) for (v, s), c in zip(pairs[:n], carry, strict=True)]
        return carried, (pairs[n:], child.outputs())

    tape_inputs = tape.loop_inputs(sub.size, params["length"])
    carry, (ys, recorded) = jax.lax.scan(
        body,
        state[:n],
        (state[n:], tape_inputs),
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    tape.absorb(recorded)
    return [Value(v, s) for v, s in (*carry, *ys)]


def _while(step: Step, operands: Sequence[Value], tape: Any) -> list[Value]:
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


def _root(step: Step, operands: Sequence[Value], tape: Any) -> list[Value]:
    """An implicit function: its solution's tangent is cut, and its residual joins the system."""
    root, (sub,) = step.root, step.blocks
    outs = bind(step.eqn, *[o.value for o in operands])
    kept = [operands[i] for i in step.kept]
    flat, unravel = ravel_pytree([jnp.asarray(o) for o in outs[: root.leaves]])

    def residual_of(solution: Any, tape: Any) -> tuple[Any, Any]:
        leaves = [Value(x, jnp.abs(x) if tape.measures else None) for x in unravel(solution)]
        rows = run_block(sub, [*leaves, *kept], tape)
        sizes = ravel_pytree([r.measure for r in rows])[0] if tape.measures else None
        return ravel_pytree([jnp.asarray(r.value) for r in rows])[0], sizes

    solution = tape.root(flat, residual_of, sub.size)
    sized = [Value(x, jnp.abs(x) if tape.measures else None) for x in unravel(solution)]
    return [*sized, *[Value(o) for o in outs[root.leaves :]]]


_ACTIONS: dict[str, Callable[[Step, Sequence[Value], Any], list[Value]]] = {
    "plain": _plain,
    "inline": _inline,
    "kink": _kink,
    "compare": _compare,
    "push": _push,
    "combine": _combine,
    "branch": _branch,
    "permute": _permute,
    "jump": _jump,
    "switch": _switch,
    "scan": _scan,
    "while": _while,
    "root": _root,
}
