"""The pass that cuts: the program with a base selection, and its increments as results."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from .mixtures import weigh
from .policy import Select
from .tape import Tape, unit_vectors
from .torn import Steering


@dataclass
class Linearise(Tape):
    """Run with the selection ``base`` and the cut ``r``, and record the increments z."""

    base: Any
    r: Any
    records: list[Any] = field(default_factory=list)
    torn: dict[int, Any] = field(default_factory=dict)
    orders: dict[int, Any] = field(default_factory=dict)
    cursor: int = 0

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

    def rivals(self, more: Any, places: Any) -> Any:
        here = slice(self.cursor, self.cursor + places.size)
        self._next(jnp.zeros(places.shape, self.base.dtype))
        return self.base[here].reshape(places.shape).astype(places.dtype)

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
