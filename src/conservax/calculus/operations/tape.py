"""The three passes over a program, as tapes that an interpreter runs it with.

``Discover`` records every kink's increment, its tolerance and JAX's choice; ``Linearise`` runs with
a base selection and a cut r at chosen slots, and records increments; ``Select`` runs with a policy.
A tape holds one flat slot array; a loop's slots are (iterations, slots of the body), row-major.
"""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ...numerics import machine_epsilon
from .kinks import weigh
from .torn import Steering

POLICIES = ("jax", "lower", "upper")


class Records(NamedTuple):
    """What ``Discover`` learns of each slot.

    ``size``: of the terms that made z; ``limit``: the distance within which the kink is active;
    ``steer``: the slot of the comparison that decides a branch, of the leader of a tie; else −1.
    ``natural``: the selection that the values ask for; ``choice``: JAX's, different only at z = 0.
    """

    z: jax.Array
    size: jax.Array
    limit: jax.Array
    natural: jax.Array
    choice: jax.Array
    steer: jax.Array


def unit_vectors(z: Any, axis: int) -> Any:
    """z/‖z‖ along an axis, and 0 at 0; a constant, since the kink's own rule carries the derivative."""
    z = jax.lax.stop_gradient(z)
    length = jnp.linalg.norm(z, axis=axis, keepdims=True)
    return jnp.where(length > 0, z / jnp.where(length > 0, length, 1), 0)


@dataclass
class Discover:
    """Record (z, size, limit, natural and JAX's selection, steering slot) of every slot."""

    dtype: Any
    atol: Any = 0.0
    rtol: Any = 0.0
    offset: Any = 0
    executed: Any = True
    records: list[Records] = field(default_factory=list)
    sizes: tuple[Any, ...] = ()
    torn: dict[int, Any] = field(default_factory=dict)
    orders: dict[int, Any] = field(default_factory=dict)
    cursor: int = 0
    keeps: bool = False
    kept: list[tuple[Any, Any]] = field(default_factory=list)
    measures = True
    watches = False
    lifts = True  # a solve moves as its equation says
    decides = False
    follows = False

    @property
    def tau(self) -> Any:
        """The relative change that sizes are about: the tolerance, √eps where it is zero."""
        return jnp.where(self.rtol > 0, self.rtol, math.sqrt(machine_epsilon(self.dtype))).astype(
            self.dtype
        )

    def size(self, operand: int) -> Any:
        return self.sizes[operand]

    def _record(
        self, z: Any, size: Any, natural: Any, choice: Any, steer: Any, limit: Any = None
    ) -> None:
        if limit is None:
            limit = self.atol + self.rtol * jnp.maximum(size, jnp.abs(z))
            limit = jnp.where(jnp.isfinite(z), limit, 0.0)  # a mask of infinities ties with nothing
        z = jnp.where(self.executed, z, jnp.inf)
        limit = jnp.where(self.executed, limit, 0.0)

        shape = z.shape

        def flat(a: Any, dtype: Any) -> Any:
            return jnp.broadcast_to(jnp.asarray(a, dtype), shape).ravel()

        z, size, limit, natural, choice = (
            flat(a, self.dtype) for a in (z, size, limit, natural, choice)
        )
        self.records.append(Records(z, size, limit, natural, choice, flat(steer, jnp.int32)))
        self.cursor += z.size

    def _slots(self, shape: tuple[int, ...]) -> Any:
        count = 1
        for n in shape:
            count *= n
        return (self.offset + self.cursor + jnp.arange(count, dtype=jnp.int32)).reshape(shape)

    def kink(self, z: Any, size: Any, tie: float) -> tuple[Any, Any]:
        natural = jnp.where(z > 0, 1.0, 0.0).astype(z.dtype)
        self._record(z, size, natural, jnp.where(z == 0, tie, natural), -1)
        return natural, jnp.zeros_like(z)

    def tie(self, u: Any, size: Any, axes: tuple[int, ...], first: bool) -> tuple[Any, Any]:
        best = jnp.max(u, axis=axes, keepdims=True)
        winners = u == best
        slots = self._slots(u.shape)
        leader_slot = jnp.min(
            jnp.where(winners, slots, jnp.iinfo(jnp.int32).max), axis=axes, keepdims=True
        )
        leader = (slots == leader_slot).astype(u.dtype)
        leader_size = jnp.sum(weigh(leader, size), axis=axes, keepdims=True)
        balanced = winners.astype(u.dtype) / jnp.sum(
            winners, axis=axes, keepdims=True, dtype=u.dtype
        )
        behind = jnp.where(winners, 0, u - best)
        self._record(
            jnp.where(jnp.isfinite(best) | (leader > 0), behind, jnp.inf),  # infinities do not tie
            size + leader_size,
            leader,
            leader if first else balanced,
            jnp.broadcast_to(leader_slot, u.shape),
        )
        return leader, jnp.zeros_like(u)

    def next_slots(self, shape: tuple[int, ...]) -> Any:
        return self._slots(shape)

    def comparator(self, q: Any, aligned: Any) -> Any:
        return q

    def ball(self, z: Any, size: Any, axis: int, tie: float) -> tuple[Any, Any]:
        length = jnp.linalg.norm(z, axis=axis, keepdims=True)
        total = jnp.linalg.norm(size, axis=axis, keepdims=True)
        leader = jnp.take(self._slots(z.shape), jnp.array([0]), axis=axis)
        self._record(
            jnp.broadcast_to(length, z.shape),
            jnp.broadcast_to(total, z.shape),
            0.0,
            tie,
            jnp.broadcast_to(leader, z.shape),
        )
        return unit_vectors(z, axis), jnp.zeros_like(z)

    def spectrum(self, distance: Any, increments: Any, size: Any, natural: Any) -> tuple[Any, Any]:
        self._record(jax.lax.stop_gradient(distance), size, natural, natural, -1)
        return natural, jnp.zeros_like(natural)

    def jump(self, distance: Any, size: Any) -> None:
        self._record(distance, size, 0.0, 0.0, -1, limit=0.0)

    def compare(self, z: Any, size: Any, side: str) -> tuple[Any, Steering]:
        slots = self._slots(z.shape)
        above = z == 0 if side == "equal" else z > 0
        tie = {"upper": 1.0, "lower": 0.0, "equal": 1.0, "middle": 0.5}[side]
        self._record(z, size, above, jnp.where(z == 0, tie, above), -1)
        active = jnp.abs(z) <= self.atol + self.rtol * jnp.maximum(size, jnp.abs(z))
        active &= jnp.isfinite(z)  # nothing finite ties with an infinity
        return above, Steering(active, slots, above.astype(self.dtype))

    def meet(self, compound: Any, above: Any) -> Steering:
        """Where two active comparisons meet, their result gets a switch of its own (or is a jump)."""
        slots = self._slots(compound.shape)
        z = jnp.where(compound, 0.0, jnp.inf)
        self._record(z, 1.0, above, above, -1, limit=jnp.where(compound, 1.0, 0.0))
        return Steering(compound, slots, above.astype(self.dtype))

    def branch(
        self, upper: Any, lower: Any, size: Any, above: Any, steering: Steering, choice: Any
    ) -> tuple[Any, Any]:
        gap = jnp.where(upper == lower, 0, upper - lower)
        steer = jnp.where(steering.active, steering.slot, -1)
        self._record(gap, size, above, choice, steer)
        return above.astype(gap.dtype), jnp.zeros_like(gap)

    def mark(self, where: Any) -> Any:
        """Remember a choice of entries for the later passes."""
        self._record(jnp.full(where.shape, jnp.inf), 0.0, where, where, -1)
        return where

    def stand(self, standing: Any) -> None:
        self._record(jnp.full(standing.shape, jnp.inf), 0.0, 0.0, 0.0, -1)

    def root(self, solution: Any, residual_of: Any, size: int) -> Any:
        """A solution is known to the square root of its residual: so are the kinks of its equation."""
        residual, sizes = residual_of(solution, Discover(self.dtype))
        scale = jnp.max(sizes, initial=0.0)
        worst = jnp.max(jnp.abs(residual), initial=0.0)
        relative = jnp.where(scale > 0, worst / jnp.where(scale > 0, scale, 1), worst)
        self._record(residual, scale, 1.0, 1.0, -1, limit=0.0)
        inner = self.child(self.offset + self.cursor)
        inner.rtol = jnp.maximum(self.rtol, jnp.sqrt(relative))
        residual_of(solution, inner)
        self.absorb(inner.outputs())
        self.kept += inner.kept
        return solution

    def child(self, inputs: Any) -> "Discover":
        return Discover(self.dtype, self.atol, self.rtol, inputs, self.executed, keeps=self.keeps)

    def keep(self, site: Any, arrays: Any) -> None:
        """Keep the values at a solve whose layer has a certificate; a loop stacks them."""
        self.kept.append((site, arrays))

    def masked(self, executed: Any) -> "Discover":
        """A child for a branch that may not be executed: its kinks are then infinitely far."""
        child = self.child(self.offset + self.cursor)
        child.executed = self.executed & executed
        child.keeps = False
        return child

    def loop_inputs(self, body: int, length: int) -> Any:
        return self.offset + self.cursor + body * jnp.arange(length, dtype=jnp.int32)

    def next_input(self, size: int) -> Any:
        return self.offset + self.cursor

    def blank(self, size: int) -> Records:
        far, zero = jnp.full(size, jnp.inf, self.dtype), jnp.zeros(size, self.dtype)
        return Records(far, zero, zero, zero, zero, jnp.full(size, -1, jnp.int32))

    def outputs(self) -> Records:
        return Records(
            *(jnp.concatenate(parts) for parts in zip(*[self.blank(0), *self.records], strict=True))
        )

    def absorb(self, recorded: Records) -> None:
        self.records.append(Records(*(a.reshape(-1) for a in recorded)))
        self.cursor += self.records[-1].z.size

    def nearest(self, previous: Records, recorded: Records) -> Records:
        """Of two passes through a while loop, each kink's nearer one."""
        nearer = jnp.abs(recorded.z) - recorded.limit < jnp.abs(previous.z) - previous.limit
        return jax.tree.map(lambda new, old: jnp.where(nearer, new, old), recorded, previous)

    def inside_while(self) -> "Discover":
        child = self.child(self.offset + self.cursor)
        child.keeps = False
        return child


@dataclass
class Linearise:
    """Run with the selection ``base`` and the cut ``r``, and record the increments z."""

    base: Any
    r: Any
    records: list[Any] = field(default_factory=list)
    torn: dict[int, Any] = field(default_factory=dict)
    orders: dict[int, Any] = field(default_factory=dict)
    cursor: int = 0
    measures = False
    watches = False
    lifts = True
    keeps = False
    decides = False
    follows = False

    def size(self, operand: int) -> float:
        return 0.0

    def _next(self, z: Any) -> tuple[Any, Any]:
        here = slice(self.cursor, self.cursor + z.size)
        self.cursor += z.size
        self.records.append(z.ravel().astype(self.base.dtype))
        q = jax.lax.stop_gradient(self.base[here]).reshape(z.shape).astype(z.dtype)
        return q, self.r[here].reshape(z.shape).astype(z.dtype)

    def kink(self, z: Any, size: Any, tie: float) -> tuple[Any, Any]:
        return self._next(z)

    def tie(self, u: Any, size: Any, axes: tuple[int, ...], first: bool) -> tuple[Any, Any]:
        here = slice(self.cursor, self.cursor + u.size)
        weights = jax.lax.stop_gradient(self.base[here]).reshape(u.shape).astype(u.dtype)
        return weights, self._next(u - jnp.sum(weigh(weights, u), axis=axes, keepdims=True))[1]

    def next_slots(self, shape: tuple[int, ...]) -> Any:
        return jnp.zeros(shape, jnp.int32)

    def comparator(self, q: Any, aligned: Any) -> Any:
        return q

    def ball(self, z: Any, size: Any, axis: int, tie: float) -> tuple[Any, Any]:
        """Base 1 marks a norm away from its kink, which has its gradient; at the kink r carries all."""
        smooth, r = self._next(z)
        return smooth * unit_vectors(z, axis), r

    def spectrum(self, distance: Any, increments: Any, size: Any, natural: Any) -> tuple[Any, Any]:
        """Base: each value's share in those that meet it, whose differences r carries."""
        here = slice(self.cursor, self.cursor + natural.size)
        base = jax.lax.stop_gradient(self.base[here]).reshape(natural.shape).astype(natural.dtype)
        return base, self._next(increments(base))[1]

    def jump(self, distance: Any, size: Any) -> None:
        self._next(distance)

    def compare(self, z: Any, size: Any, side: str) -> tuple[Any, Steering]:
        active, _ = self._next(z)
        above = z == 0 if side == "equal" else z > 0
        return above, Steering(active == 1, jnp.zeros(z.shape, jnp.int32), active)

    def meet(self, compound: Any, above: Any) -> Steering:
        active, _ = self._next(jnp.zeros(compound.shape, self.base.dtype))
        return Steering(active == 1, jnp.zeros(compound.shape, jnp.int32), active)

    def branch(
        self, upper: Any, lower: Any, size: Any, above: Any, steering: Steering, choice: Any
    ) -> tuple[Any, Any]:
        return self._next(upper - lower)

    def mark(self, where: Any) -> Any:
        return self._next(jnp.zeros(where.shape, self.base.dtype))[0] == 1

    def stand(self, standing: Any) -> None:
        self._next(standing)

    def root(self, solution: Any, residual_of: Any, size: int) -> Any:
        """The solution moves with its own cut r alone; its residual is one more increment."""
        r = self.r[self.cursor : self.cursor + solution.size].astype(solution.dtype)
        self.cursor += solution.size
        place = len(self.records)
        self.records.append(None)
        moved = jax.lax.stop_gradient(solution) + r
        self.records[place] = residual_of(moved, self)[0].astype(self.base.dtype)
        return moved

    def child(self, inputs: Any) -> "Linearise":
        return Linearise(*inputs)

    def masked(self, executed: Any) -> "Linearise":
        return self

    def next_input(self, size: int) -> Any:
        here = slice(self.cursor, self.cursor + size)
        return self.base[here], self.r[here]

    def loop_inputs(self, body: int, length: int) -> Any:
        base, r = self.next_input(body * length)
        return base.reshape(length, body), r.reshape(length, body)

    def blank(self, size: int) -> Any:
        return jnp.zeros(size, self.base.dtype)

    def outputs(self) -> Any:
        return jnp.concatenate([self.blank(0), *self.records])

    def absorb(self, recorded: Any) -> None:
        self.records.append(recorded.reshape(-1))
        self.cursor += self.records[-1].size

    def nearest(self, previous: Any, recorded: Any) -> Any:
        return previous

    def inside_while(self) -> "Select":
        # no kink in there is active: the values decide, as they do for JAX
        return Select("jax")


@dataclass
class Select:
    """Run with a policy at exact ties: its name, or a flat array of weights (NaN: JAX's choice)."""

    policy: Any
    cursor: int = 0
    torn: dict[int, Any] = field(default_factory=dict)
    orders: dict[int, Any] = field(default_factory=dict)
    measures = False
    watches = False
    lifts = False
    keeps = False
    follows = True  # JAX's own rule, where no policy is known

    @property
    def decides(self) -> bool:
        """Whether the policy takes one side at every tie, so that only that side need be followed."""
        return isinstance(self.policy, str) and self.policy != "jax"

    def side(self, name: str, swap: bool, *operands: Any) -> Any:
        """A comparison (or a sign) with equality counted to the side that the policy takes."""
        upper = self.policy == "upper"
        if name == "sign":
            sign = lax.sign(operands[0])
            return jnp.where(sign == 0, 1.0 if upper else -1.0, sign).astype(sign.dtype)
        if name in ("eq", "ne"):
            equal = lax.eq(*operands) & upper
            return equal if name == "eq" else ~equal
        u, v = operands[::-1] if swap else operands
        if name in ("gt", "ge"):
            return (lax.ge if upper else lax.gt)(u, v)
        return (lax.lt if upper else lax.le)(u, v)

    def size(self, operand: int) -> float:
        return 0.0

    def _chosen(self, z: Any, tie: Any) -> Any:
        """The weights at ties: booleans for a named policy, floats for an explicit choice."""
        here = slice(self.cursor, self.cursor + z.size)
        self.cursor += z.size
        if isinstance(self.policy, str):
            if self.policy == "jax":
                return jnp.asarray(tie, z.dtype)
            return jnp.full((), self.policy == "upper")
        chosen = jax.lax.stop_gradient(self.policy[here]).reshape(z.shape).astype(z.dtype)
        return jnp.where(jnp.isnan(chosen), tie, chosen)

    def kink(self, z: Any, size: Any, tie: float) -> tuple[Any, Any]:
        if self.decides:
            return (jnp.greater if self.policy == "lower" else jnp.greater_equal)(z, 0), 0.0
        return jnp.where(z == 0, self._chosen(z, tie), (z > 0).astype(z.dtype)), 0.0

    def tie(self, u: Any, size: Any, axes: tuple[int, ...], first: bool) -> tuple[Any, Any]:
        winners = u == jnp.max(u, axis=axes, keepdims=True)
        # row-major order among the tied entries: the first for "lower", the last for "upper"
        order = jnp.arange(u.size).reshape(u.shape)
        earliest = jnp.min(jnp.where(winners, order, u.size), axis=axes, keepdims=True)
        latest = jnp.max(jnp.where(winners, order, -1), axis=axes, keepdims=True)
        balanced = winners.astype(u.dtype) / jnp.sum(
            winners, axis=axes, keepdims=True, dtype=u.dtype
        )
        chosen = self._chosen(u, (order == earliest).astype(u.dtype) if first else balanced)
        if chosen.dtype == bool:
            chosen = (order == (latest if self.policy == "upper" else earliest)).astype(u.dtype)
        return jax.lax.stop_gradient(chosen), jnp.zeros((), u.dtype)

    def next_slots(self, shape: tuple[int, ...]) -> Any:
        return jnp.zeros(shape, jnp.int32)

    def comparator(self, q: Any, aligned: Any) -> Any:
        # neighbours that overlap never swap in one round
        return jnp.where(aligned, q, 1)

    def ball(self, z: Any, size: Any, axis: int, tie: float) -> tuple[Any, Any]:
        self.cursor += z.size
        return unit_vectors(z, axis), jnp.zeros_like(z)

    def jump(self, distance: Any, size: Any) -> None:
        self.cursor += distance.size

    def compare(self, z: Any, size: Any, side: str) -> tuple[Any, Steering]:
        tie = {"upper": 1.0, "lower": 0.0, "equal": 1.0, "middle": 0.5}[side]
        above = z == 0 if side == "equal" else z > 0
        q = jnp.broadcast_to(self._chosen(z, tie).astype(z.dtype), z.shape)
        return above, Steering(z == 0, jnp.zeros(z.shape, jnp.int32), jnp.where(z == 0, q, above))

    def meet(self, compound: Any, above: Any) -> Steering:
        self.cursor += compound.size
        return Steering(compound, jnp.zeros(compound.shape, jnp.int32), above.astype(jnp.float32))

    def branch(
        self, upper: Any, lower: Any, size: Any, above: Any, steering: Steering, choice: Any
    ) -> tuple[Any, Any]:
        self.cursor += upper.size
        q = jnp.where(steering.active, steering.q, above).astype(upper.dtype)
        return jax.lax.stop_gradient(q), jnp.zeros((), upper.dtype)

    def root(self, solution: Any, residual_of: Any, size: int) -> Any:
        """A policy selects in the user's own code; a solve keeps the selection it was made with."""
        self.cursor += solution.size + size
        return solution

    def child(self, inputs: Any) -> "Select":
        return Select(self.policy if isinstance(self.policy, str) else inputs)

    def masked(self, executed: Any) -> "Select":
        return self

    def next_input(self, size: int) -> Any:
        here = slice(self.cursor, self.cursor + size)
        return jnp.zeros(0) if isinstance(self.policy, str) else self.policy[here]

    def loop_inputs(self, body: int, length: int) -> Any:
        flat = self.next_input(body * length)
        return flat.reshape(length, -1) if flat.size else jnp.zeros((length, 0))

    def blank(self, size: int) -> tuple[()]:
        return ()

    def outputs(self) -> tuple[()]:
        return ()

    def absorb(self, recorded: Any) -> None:
        pass

    def nearest(self, previous: Any, recorded: Any) -> Any:
        return ()

    def inside_while(self) -> "Select":
        return Select("jax")
