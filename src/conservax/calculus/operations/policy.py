"""The pass of ``select``: the program with a policy at its ties."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .tape import Tape, unit_vectors
from .torn import Steering

POLICIES = ("jax", "lower", "upper")


@dataclass
class Select(Tape):
    """Run with a policy at exact ties: its name, or a flat array of weights (NaN: JAX's choice)."""

    policy: Any
    cursor: int = 0
    torn: dict[int, Any] = field(default_factory=dict)
    orders: dict[int, Any] = field(default_factory=dict)
    lifts = False
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

    def rivals(self, more: Any, places: Any) -> Any:
        self.cursor += places.size
        return places

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
