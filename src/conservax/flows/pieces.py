"""One smooth piece of a program: every kink held on one side, and continued beyond it.

A field with kinks is smooth on pieces. ``Pieces`` runs it with a given side q_i of each kink, whatever the sign
of its increment z_i, so that an integrator sees a smooth function and finds where z_i changes sign.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core as jex_core

from ..calculus.tracing.jaxprs import INLINE, function_name, opened
from ..calculus.tracing.locations import defined_in_jax

_TIES = {"gt": 0.0, "ge": 1.0, "lt": 1.0, "le": 0.0}  # the side that equality stands on


class Sides(NamedTuple):
    """For each kink: increment z, the size of its terms, weight q, JAX's weight at a tie, whether of many.

    q = 1 stands for z > 0. Of a maximum over axes each entry has a slot: z = u_j − Σ q_i u_i, q one-hot.
    """

    z: jax.Array
    size: jax.Array
    q: jax.Array
    tie: jax.Array
    grouped: jax.Array


@dataclass
class _Tape:
    """Weights to use (None: those that the values ask for), and what was met so far."""

    q: Any
    dtype: Any
    cursor: int = 0
    met: list[Sides] = field(default_factory=list)

    def take(self, count: int) -> Any:
        here = None if self.q is None else self.q[self.cursor : self.cursor + count]
        self.cursor += count
        return here

    def kink(self, z: Any, size: Any, tie: float) -> Any:
        q = self.take(z.size)
        natural = jnp.where(z == 0, tie, z > 0).astype(z.dtype)
        q = natural if q is None else lax.stop_gradient(q).reshape(z.shape).astype(z.dtype)
        self.note(z, size, q, jnp.full(z.shape, tie), False)
        return q

    def group(self, u: Any, axes: tuple[int, ...]) -> Any:
        best = u == jnp.max(u, axis=axes, keepdims=True)
        balanced = best / jnp.sum(best, axis=axes, keepdims=True)
        q = self.take(u.size)
        q = balanced if q is None else q.reshape(u.shape)
        q = lax.stop_gradient(q).astype(u.dtype)
        leader = jnp.sum(jnp.where(q == 0, 0, q * u), axis=axes, keepdims=True)
        self.note(u - leader, jnp.abs(u) + jnp.abs(leader), q, balanced, True)
        return q

    def note(self, z: Any, size: Any, q: Any, tie: Any, grouped: bool) -> None:
        def flat(a: Any) -> jax.Array:
            return jnp.ravel(jnp.broadcast_to(a, z.shape)).astype(self.dtype)

        of_many = jnp.full(z.size, grouped)
        self.met.append(Sides(flat(z), flat(size), flat(q), flat(tie), of_many))

    def outputs(self) -> Sides:
        none = jnp.zeros(0, self.dtype)
        blank = Sides(none, none, none, none, jnp.zeros(0, bool))
        return jax.tree.map(lambda *parts: jnp.concatenate(parts), blank, *self.met)

    def absorb(self, sides: Sides) -> None:
        self.met.append(jax.tree.map(jnp.ravel, sides))


class Pieces:
    """A function ``fun(*args)`` of arrays, to be run on its pieces."""

    def __init__(self, fun: Callable[..., Any], *args: Any) -> None:
        closed, shape = jax.make_jaxpr(fun, return_shape=True)(*args)
        self._closed, self._tree = closed, jax.tree.structure(shape)
        self.dtype = jnp.result_type(*jax.tree.leaves(shape))
        # traced once each, however many stages a step has
        self._outs = jax.jit(lambda q, args: self._run(q, args)[0])
        self._sides = jax.jit(lambda q, args: self._run(q, args)[1])
        self.count = jax.eval_shape(self.sides, *args).z.size

    def __call__(self, q: Any, *args: Any) -> Any:
        """The result on the piece q, continued."""
        return self._outs(q, args)

    def sides(self, *args: Any) -> Sides:
        """The sides that the values ask for."""
        return self._sides(None, args)

    def increments(self, q: Any, *args: Any) -> Sides:
        """The increments on the piece q."""
        return self._sides(q, args)

    def _run(self, q: Any, args: Sequence[Any]) -> tuple[Any, Sides]:
        tape = _Tape(q, self.dtype)
        outs = _evaluate(self._closed.jaxpr, self._closed.consts, jax.tree.leaves(args), tape)
        return jax.tree.unflatten(self._tree, outs), tape.outputs()


def _mix(q: Any, above: Any, below: Any) -> Any:
    between = below + q * (above - below)
    return jnp.where(q == 1, above, jnp.where(q == 0, below, between))


def _evaluate(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], tape: _Tape) -> list[Any]:
    env = dict(zip(jaxpr.constvars, consts, strict=True)) | dict(
        zip(jaxpr.invars, args, strict=True)
    )

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, jex_core.Literal) else env[atom]

    for eqn in jaxpr.eqns:
        operands = [read(a) for a in eqn.invars]
        outs = _equation(eqn, operands, tape)
        env |= zip(eqn.outvars, outs, strict=True)
    return [read(v) for v in jaxpr.outvars]


def _equation(eqn: Any, operands: list[Any], tape: _Tape) -> list[Any]:
    name = eqn.primitive.name
    if name in INLINE:
        return _evaluate(*opened(eqn.params[INLINE[name]]), operands, tape)
    if name == "custom_jvp_call":
        body, consts = opened(eqn.params["call_jaxpr"])
        if function_name(body) in ("relu", "relu6") and defined_in_jax(body):
            before = len(tape.met)
            outs = _evaluate(body, consts, operands, tape)
            # JAX's slope of relu at 0 is 0, though it is written as a maximum
            for i in range(before, len(tape.met)):
                met = tape.met[i]
                tape.met[i] = met._replace(tie=jnp.zeros_like(met.tie))
            return outs
    if name == "scan" and _has_kinks(eqn.params["jaxpr"]):
        return _scan(eqn, operands, tape)
    if name == "cond" and any(map(_has_kinks, eqn.params["branches"])):
        return _cond(eqn, operands, tape)
    if eqn.invars and jnp.issubdtype(eqn.invars[-1].aval.dtype, jnp.floating):
        found = _kink(eqn, name, operands, tape)
        if found is not None:
            return [found]
    out = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(eqn.params))
    return list(out) if eqn.primitive.multiple_results else [out]


def _kink(eqn: Any, name: str, operands: list[Any], tape: _Tape) -> Any:
    if name in ("max", "min"):
        a, b = operands
        q = tape.kink(a - b, jnp.abs(a) + jnp.abs(b), 0.5)
        return _mix(q, a, b) if name == "max" else _mix(q, b, a)
    if name in _TIES:
        a, b = operands
        above = tape.kink(a - b, jnp.abs(a) + jnp.abs(b), _TIES[name]) > 0.5
        return above if name in ("gt", "ge") else ~above
    if name in ("abs", "sign"):
        (x,) = operands
        q = tape.kink(x, jnp.abs(x), 1.0 if name == "abs" else 0.5)
        return _mix(q, x, -x) if name == "abs" else _mix(q, jnp.ones_like(x), -jnp.ones_like(x))
    if name == "clamp":
        low, x, high = operands
        low, high = jnp.broadcast_to(low, x.shape), jnp.broadcast_to(high, x.shape)
        x = _mix(tape.kink(x - low, jnp.abs(x) + jnp.abs(low), 0.0), x, low)
        return _mix(tape.kink(x - high, jnp.abs(x) + jnp.abs(high), 1.0), high, x)
    if name in ("reduce_max", "reduce_min"):
        (u,), axes = operands, eqn.params["axes"]
        sign = 1 if name == "reduce_max" else -1
        q = tape.group(sign * u, axes)
        return jnp.sum(jnp.where(q == 0, 0, q * u), axis=axes)
    return None


_SEEN = {*_TIES, "max", "min", "abs", "sign", "clamp", "reduce_max", "reduce_min"}


def _has_kinks(closed: Any) -> bool:
    body, _ = opened(closed)
    for eqn in body.eqns:
        floating = eqn.invars and jnp.issubdtype(eqn.invars[-1].aval.dtype, jnp.floating)
        if eqn.primitive.name in _SEEN and floating:
            return True
        inner = [p for p in eqn.params.values() if hasattr(p, "eqns") or hasattr(p, "jaxpr")]
        inner += [
            b for p in eqn.params.values() if isinstance(p, tuple) for b in p if hasattr(b, "jaxpr")
        ]
        if eqn.primitive.name not in ("while", "custom_vjp_call") and any(map(_has_kinks, inner)):
            return True
    return False


def _scan(eqn: Any, operands: list[Any], tape: _Tape) -> list[Any]:
    params = eqn.params
    body, consts = opened(params["jaxpr"])
    first, last = params["num_consts"], params["num_consts"] + params["num_carry"]
    fixed, carry, xs = operands[:first], operands[first:last], operands[last:]

    def run(carry: Any, xs: Any, q: Any) -> Any:
        inner = _Tape(q, tape.dtype)
        outs = _evaluate(body, consts, [*fixed, *carry, *xs], inner)
        return outs[: last - first], (outs[last - first :], inner.outputs())

    length = params["length"]
    first_x = [jax.eval_shape(lambda a: a[0], x) for x in xs]
    size = jax.eval_shape(lambda c, x: run(c, x, None), carry, first_x)[1][1].z.size
    q = tape.take(size * length)
    options = {name: params[name] for name in ("reverse", "unroll")}
    if q is None:
        carry, (ys, sides) = lax.scan(
            lambda c, x: run(c, x, None), carry, xs, length=length, **options
        )
    else:
        carry, (ys, sides) = lax.scan(
            lambda c, x: run(c, x[0], x[1]),
            carry,
            (xs, q.reshape(length, size)),
            length=length,
            **options,
        )
    tape.absorb(sides)
    return [*carry, *ys]


def _cond(eqn: Any, operands: list[Any], tape: _Tape) -> list[Any]:
    """All branches run; kinks of those not taken are infinitely far, on their side."""
    index, *rest = operands
    index = jnp.clip(jnp.asarray(index, jnp.int32), 0, len(eqn.params["branches"]) - 1)
    results = []
    for i, branch in enumerate(eqn.params["branches"]):
        body, consts = opened(branch)
        before = len(tape.met)
        results.append(_evaluate(body, consts, rest, tape))
        for j in range(before, len(tape.met)):
            met = tape.met[j]
            far = jnp.where(met.grouped, -jnp.inf, jnp.where(met.q > 0.5, jnp.inf, -jnp.inf))
            far = jnp.where(met.grouped & (met.q > 0), 0.0, far)
            tape.met[j] = met._replace(z=jnp.where(index == i, met.z, far.astype(tape.dtype)))
    return [lax.select_n(index, *map(jnp.asarray, outs)) for outs in zip(*results, strict=True)]
