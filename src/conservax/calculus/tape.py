"""The three passes over a program, as tapes that an interpreter runs it with.

``Discover`` records every kink's increment, its size and JAX's choice; ``Linearise`` runs with a
base selection and a cut r at chosen slots, and records increments; ``Select`` runs with a policy.
A tape holds one flat slot array; a loop's slots are (iterations, slots of the body), row-major.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .kinks import weigh

POLICIES = ("jax", "lower", "upper")


class Records(NamedTuple):
    """What ``Discover`` learns of each slot.

    ``steer``: the slot of the comparison that decides a branch, of the leader of a tie; else −1.
    ``natural``: the selection that the values ask for; ``jax``: JAX's own, different only at z = 0.
    """

    z: jax.Array
    size: jax.Array
    natural: jax.Array
    jax: jax.Array
    steer: jax.Array


@dataclass
class Discover:
    """Record (z, size, natural and JAX's selection, steering slot) of every slot."""

    dtype: Any
    offset: Any = 0
    records: list[Records] = field(default_factory=list)
    sizes: tuple[Any, ...] = ()
    companions: dict[int, Any] = field(default_factory=dict)
    cursor: int = 0
    measures = True
    watches = False

    def size(self, operand: int) -> Any:
        return self.sizes[operand]

    def _record(self, z: Any, size: Any, natural: Any, choice: Any, steer: Any) -> None:
        def flat(a: Any, dtype: Any) -> Any:
            return jnp.broadcast_to(jnp.asarray(a, dtype), z.shape).ravel()

        self.records.append(
            Records(
                flat(z, self.dtype),
                flat(size, self.dtype),
                flat(natural, self.dtype),
                flat(choice, self.dtype),
                flat(steer, jnp.int32),
            )
        )
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

    def tie(self, u: Any, size: Any, axes: tuple[int, ...]) -> tuple[Any, Any]:
        best = jnp.max(u, axis=axes, keepdims=True)
        winners = u == best
        slots = self._slots(u.shape)
        first = jnp.min(jnp.where(winners, slots, jnp.iinfo(jnp.int32).max), axis=axes, keepdims=True)
        leader = (slots == first).astype(u.dtype)
        leader_size = jnp.sum(weigh(leader, size), axis=axes, keepdims=True)
        self._record(
            jnp.where(winners, 0, u - best),
            jnp.where(jnp.isfinite(size), size, 0) + leader_size,
            leader,
            winners / jnp.sum(winners, axis=axes, keepdims=True),
            jnp.broadcast_to(first, u.shape),
        )
        return leader, jnp.zeros_like(u)

    def compare(self, z: Any, size: Any, side: str) -> Any:
        slots = self._slots(z.shape)
        if side == "equal":
            natural = choice = (z == 0).astype(z.dtype)
        else:
            natural = jnp.where(z > 0, 1.0, 0.0)
            choice = jnp.where(z == 0, 1.0 if side == "upper" else 0.0, natural)
        self._record(z, size, natural, choice, -1)
        return slots

    def branch(self, upper: Any, lower: Any, size: Any, takes_upper: Any, companion: Any) -> tuple[Any, Any]:
        gap = upper - lower
        # an infinite branch (a mask) differs from the other by more than any tolerance
        gap = jnp.where(jnp.isnan(gap) & (upper == lower), 0, gap)
        natural = jnp.broadcast_to(takes_upper, gap.shape).astype(gap.dtype)
        self._record(gap, size, natural, natural, jnp.broadcast_to(companion, gap.shape))
        return natural, jnp.zeros_like(gap)

    def loop_inputs(self, body: int, length: int) -> Any:
        start = self.offset + self.cursor
        self.cursor += body * length
        return start + body * jnp.arange(length, dtype=jnp.int32)

    def child(self, inputs: Any) -> "Discover":
        return Discover(self.dtype, inputs)

    def outputs(self) -> Records:
        if not self.records:
            empty = jnp.zeros(0, self.dtype)
            return Records(empty, empty, empty, empty, jnp.zeros(0, jnp.int32))
        return Records(*(jnp.concatenate(parts) for parts in zip(*self.records, strict=True)))

    def absorb(self, stacked: Records) -> None:
        self.records.append(Records(*(a.reshape(-1) for a in stacked)))


@dataclass
class Linearise:
    """Run with the selection ``base`` and the cut ``r``, and record the increments z."""

    base: Any
    r: Any
    records: list[Any] = field(default_factory=list)
    cursor: int = 0
    companions: dict[int, Any] = field(default_factory=dict)
    measures = False
    watches = False

    def size(self, operand: int) -> float:
        return 0.0

    def _next(self, z: Any) -> tuple[Any, Any]:
        here = slice(self.cursor, self.cursor + z.size)
        self.cursor += z.size
        q = jax.lax.stop_gradient(self.base[here]).reshape(z.shape).astype(z.dtype)
        return q, self.r[here].reshape(z.shape).astype(z.dtype)

    def _record(self, z: Any) -> None:
        self.records.append(z.ravel().astype(self.base.dtype))

    def kink(self, z: Any, size: Any, tie: float) -> tuple[Any, Any]:
        q, r = self._next(z)
        self._record(z)
        return q, r

    def tie(self, u: Any, size: Any, axes: tuple[int, ...]) -> tuple[Any, Any]:
        weights, r = self._next(u)
        self._record(u - jnp.sum(weigh(weights, u), axis=axes, keepdims=True))
        return weights, r

    def compare(self, z: Any, size: Any, side: str) -> Any:
        self._next(z)
        self._record(z)
        return jnp.zeros(z.shape, bool)

    def branch(self, upper: Any, lower: Any, size: Any, takes_upper: Any, companion: Any) -> tuple[Any, Any]:
        gap = upper - lower
        q, r = self._next(gap)
        self._record(gap)
        return q, r

    def loop_inputs(self, body: int, length: int) -> Any:
        here = slice(self.cursor, self.cursor + body * length)
        self.cursor += body * length
        return self.base[here].reshape(length, body), self.r[here].reshape(length, body)

    def child(self, inputs: Any) -> "Linearise":
        return Linearise(*inputs)

    def outputs(self) -> Any:
        return jnp.concatenate(self.records) if self.records else jnp.zeros_like(self.base)

    def absorb(self, stacked: Any) -> None:
        self.records.append(stacked.reshape(-1))


@dataclass
class Select:
    """Run with a policy at exact ties: its name, or a flat array of weights (NaN: JAX's choice)."""

    policy: Any
    cursor: int = 0
    companions: dict[int, Any] = field(default_factory=dict)
    measures = False
    watches = False

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
        chosen = self._chosen(z, tie)
        if chosen.dtype == bool:
            return jnp.where(z == 0, chosen, z > 0), jnp.zeros((), z.dtype)
        return jnp.where(z == 0, chosen, (z > 0).astype(z.dtype)), jnp.zeros((), z.dtype)

    def tie(self, u: Any, size: Any, axes: tuple[int, ...]) -> tuple[Any, Any]:
        winners = u == jnp.max(u, axis=axes, keepdims=True)
        balanced = winners / jnp.sum(winners, axis=axes, keepdims=True)
        chosen = self._chosen(u, balanced)
        if chosen.dtype == bool:
            # row-major order among the tied entries: the first for "lower", the last for "upper"
            order = jnp.arange(u.size).reshape(u.shape)
            if self.policy == "upper":
                pick = jnp.max(jnp.where(winners, order, -1), axis=axes, keepdims=True)
            else:
                pick = jnp.min(jnp.where(winners, order, u.size), axis=axes, keepdims=True)
            chosen = (order == pick).astype(u.dtype)
        return jax.lax.stop_gradient(chosen), jnp.zeros((), u.dtype)

    def compare(self, z: Any, size: Any, side: str) -> Any:
        tie = {"upper": 1.0, "lower": 0.0, "equal": 1.0}[side]
        off = jnp.zeros_like(z) if side == "equal" else (z > 0).astype(z.dtype)
        return jnp.where(z == 0, self._chosen(z, tie).astype(z.dtype), off)

    def branch(self, upper: Any, lower: Any, size: Any, takes_upper: Any, companion: Any) -> tuple[Any, Any]:
        self.cursor += upper.size
        return jnp.broadcast_to(companion, upper.shape).astype(upper.dtype), jnp.zeros((), upper.dtype)

    def loop_inputs(self, body: int, length: int) -> Any:
        here = slice(self.cursor, self.cursor + body * length)
        self.cursor += body * length
        if isinstance(self.policy, str):
            return jnp.zeros((length, 0))
        return self.policy[here].reshape(length, body)

    def child(self, inputs: Any) -> "Select":
        return Select(self.policy if isinstance(self.policy, str) else inputs)

    def outputs(self) -> tuple[()]:
        return ()

    def absorb(self, stacked: Any) -> None:
        pass
