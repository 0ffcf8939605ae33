"""{p ≥ 0}: the non-negative orthant."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...arrays.namespace import Array
from ..block import Block, Elements, Rows
from ..cone import ClarkeJacobian, Cone, integer, limit_at
from ..constraint import Constraint
from ..family import Counted, rows_alone


@dataclass(frozen=True)
class NonNegative(Cone):
    """{p ≥ 0}; V = diag(q), q_i ∈ [0, 1] at v_i = 0.

    >>> import jax.numpy as jnp
    >>> NonNegative(2).clarke(jnp.array([0.0, 1.0])).upper.tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    length: int

    def __post_init__(self) -> None:
        integer("length", self.length, 0)

    @property
    def size(self) -> int:
        return self.length

    def project(self, v: jax.Array) -> jax.Array:
        v = self.point(v)
        return jax.nn.relu(v)

    def dual(self) -> "NonNegative":
        return self

    def clarke(self, v: jax.Array, tolerance: float | None = None) -> ClarkeJacobian:
        v = self.point(v)
        limit = limit_at(v, tolerance)
        element, lower, upper = (
            jnp.diag(side.astype(v.dtype)) for side in (v > 0, v > limit, v >= -limit)
        )
        return ClarkeJacobian(
            element, lower, upper, jnp.min(jnp.abs(v), initial=jnp.inf), jnp.asarray(True)
        )


@dataclass(frozen=True)
class OrthantBlock(Rows):
    """``count`` non-negative numbers."""

    count: int

    @property
    def size(self) -> int:
        return self.count

    @property
    def degree(self) -> int:
        return self.count

    def identity(self) -> np.ndarray:
        return np.ones(self.count)

    def interior(self, x: Array) -> Array:
        return jnp.min(x, axis=-1)

    def scaling(self, s: Array, z: Array) -> tuple[Any, Array]:
        return jnp.sqrt(s / z), jnp.sqrt(s * z)

    def scale(self, W: Any, x: Array) -> Array:
        return x / W[..., None]

    def unscale(self, W: Any, s: Array, z: Array) -> tuple[Array, Array]:
        return W * s, z / W

    def product(self, x: Array, y: Array) -> Array:
        return x * y

    def divide(self, lam: Array, x: Array) -> Array:
        return x / lam

    def steepness(self, lam: Array, x: Array) -> Array:
        return jnp.max(-x / lam, axis=-1, initial=0.0)

    def duals(self) -> list[Cone]:
        return [NonNegative(1)]

    def onto_dual(self, v: Array) -> Array:
        return jax.nn.relu(v)

    def elements(self, v: Array, dual: Array, slack: Array) -> Elements:
        return Elements(None, (v > dual).astype(v.dtype), (v >= -slack).astype(v.dtype))

    def for_clarabel(self, clarabel: ModuleType) -> list[Any]:
        return [clarabel.NonnegativeConeT(self.count)]


NONNEGATIVE = Counted(
    blocks=lambda count: [OrthantBlock(count)],
    member=lambda cone: cone.length if type(cone) is NonNegative else None,
    constraints=lambda count: rows_alone(Constraint, "inequality", count),
    scs="l",
    cvxpy="nonneg",
    polyhedral=True,
)


def side_by_side(kind: Callable[[int, int], Block], sizes: Sequence[int]) -> list[Block]:
    """``kind(count, size)`` for equal sizes in a row; a cone of size 1 is a non-negative number."""
    grouped = [(size, len(list(group))) for size, group in itertools.groupby(sizes)]
    return [OrthantBlock(count) if size == 1 else kind(count, size) for size, count in grouped]
