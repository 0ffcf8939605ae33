"""The first pass: what each kink is, how far away, and what JAX chooses there."""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ...numerics import machine_epsilon
from .mixtures import weigh
from .tape import Tape, unit_vectors
from .torn import Steering


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


@dataclass
class Discover(Tape):
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
    rival: Any = None
    copies: bool = False
    runs: list[Any] = field(default_factory=list)
    measures = True

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

    def rivals(self, more: Any, places: Any) -> Any:
        self._record(jnp.where(more, 0.0, jnp.inf), 0.0, places, 0.0, -1, limit=0.0)
        return places

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
        return Discover(
            self.dtype,
            self.atol,
            self.rtol,
            inputs,
            self.executed,
            keeps=self.keeps,
            rival=self.rival,
            copies=self.copies,
        )

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
