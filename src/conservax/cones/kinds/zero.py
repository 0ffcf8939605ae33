"""{0}^n, the cone of equations, and its dual, all of ℝⁿ."""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...arrays.namespace import Array, namespace
from ..block import Elements, Rows
from ..cone import ClarkeJacobian, Cone, integer, without_kinks
from ..constraint import Constraint
from ..family import Counted, rows_alone


@dataclass(frozen=True)
class Zero(Cone):
    """{0}: the cone of equality constraints; its dual is ``Free``.

    >>> import jax.numpy as jnp
    >>> Zero(2).project(jnp.ones(2)).tolist()
    [0.0, 0.0]
    """

    length: int

    def __post_init__(self) -> None:
        integer("length", self.length, 0)

    @property
    def size(self) -> int:
        return self.length

    def project(self, v: jax.Array) -> jax.Array:
        v = self.point(v)
        return jnp.zeros_like(v)

    def dual(self) -> "Free":
        return Free(self.length)

    def clarke(self, v: jax.Array, tolerance: float | None = None) -> ClarkeJacobian:
        v = self.point(v)
        return without_kinks(jnp.zeros((self.length, self.length), v.dtype))


@dataclass(frozen=True)
class Free(Cone):
    """All of ℝⁿ, the dual of ``Zero``.

    >>> import jax.numpy as jnp
    >>> Free(2).project(jnp.ones(2)).tolist()
    [1.0, 1.0]
    """

    length: int

    def __post_init__(self) -> None:
        integer("length", self.length, 0)

    @property
    def size(self) -> int:
        return self.length

    def project(self, v: jax.Array) -> jax.Array:
        return self.point(v)

    def dual(self) -> Zero:
        return Zero(self.length)

    def clarke(self, v: jax.Array, tolerance: float | None = None) -> ClarkeJacobian:
        v = self.point(v)
        return without_kinks(jnp.eye(self.length, dtype=v.dtype))


@dataclass(frozen=True)
class ZeroBlock(Rows):
    """``count`` zeros. Its dual is free; W = eps^¼ stands in for the scaling, W = 0."""

    count: int

    equations = True

    @property
    def size(self) -> int:
        return self.count

    @property
    def degree(self) -> int:
        return 0

    def identity(self) -> np.ndarray:
        return np.zeros(self.count)

    def interior(self, x: Array) -> Array:
        return jnp.full(x.shape[:-1], jnp.inf, x.dtype)

    def scaling(self, s: Array, z: Array) -> tuple[Any, Array]:
        return None, jnp.zeros_like(s)

    def scale(self, W: Any, x: Array) -> Array:
        return x / self._width(x)

    def unscale(self, W: Any, s: Array, z: Array) -> tuple[Array, Array]:
        return jnp.zeros_like(s), z / self._width(z)

    def product(self, x: Array, y: Array) -> Array:
        return jnp.zeros_like(x)

    def divide(self, lam: Array, x: Array) -> Array:
        return jnp.zeros_like(x)

    def steepness(self, lam: Array, x: Array) -> Array:
        return jnp.zeros_like(x[..., 0])

    def _width(self, x: Array) -> float:
        return float(jnp.finfo(x.dtype).eps) ** 0.25

    def duals(self) -> list[Cone]:
        return [Free(1)]

    def onto_dual(self, v: Array) -> Array:
        return v

    def elements(self, v: Array, dual: Array, slack: Array) -> Elements:
        one = namespace(v).ones_like(v)
        return Elements(None, one, one)

    def for_clarabel(self, clarabel: ModuleType) -> list[Any]:
        return [clarabel.ZeroConeT(self.count)]


class Equality(Constraint):
    """One row s = 0, which is always active."""

    switches = False

    def depth(self, s: np.ndarray) -> float:
        return -abs(float(s[self.rows.start]))


ZERO = Counted(
    blocks=lambda count: [ZeroBlock(count)],
    member=lambda cone: cone.length if type(cone) is Zero else None,
    constraints=lambda count: rows_alone(Equality, "equality", count),
    scs="z",
    cvxpy="zero",
    polyhedral=True,
)
