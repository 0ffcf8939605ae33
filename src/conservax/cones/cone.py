"""Convex cones: projection, dual, and the Clarke Jacobian between its extremes.

Coordinates and order are those of SCS: a second-order cone is (t, y) with ‖y‖ ≤ t; a matrix is the
lower triangle of its columns, off-diagonal entries times √2.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InvalidInputError


class ClarkeJacobian(NamedTuple):
    """V_lo ≼ V ≼ V_hi for every element V of the Clarke Jacobian of a projection at v.

    ``element``, ``lower``, ``upper``: (n, n), symmetric; ``margin``: the distance from v to the
    nearest kink (to first order), 0 on one; ``exact``: V_lo and V_hi are elements themselves, as
    the necessity in the two-test theorem asks.
    """

    element: jax.Array
    lower: jax.Array
    upper: jax.Array
    margin: jax.Array
    exact: jax.Array


class Cone(ABC):
    """A closed convex cone K in ℝⁿ, n = ``size``."""

    def point(self, v: jax.Array) -> jax.Array:
        """v, which must be a point of ℝⁿ."""
        if jnp.shape(v) != (self.size,):
            raise InvalidInputError(
                f"v has shape {jnp.shape(v)}, but a point of {self!r} is ({self.size},), {self.size} entries "
                "in all: map over batches with jax.vmap."
            )
        return v

    @property
    @abstractmethod
    def size(self) -> int: ...

    @abstractmethod
    def project(self, v: jax.Array) -> jax.Array:
        """argmin ‖p − v‖ over p ∈ K, for v (n,)."""

    @abstractmethod
    def dual(self) -> "Cone":
        """K* = {w : wᵀp ≥ 0 for all p ∈ K}."""

    @abstractmethod
    def clarke(self, v: jax.Array, tolerance: float | None = None) -> ClarkeJacobian:
        """The Clarke Jacobian of the projection at v (n,), kinks within ``tolerance`` · ‖v‖∞ counted in.

        The default tolerance is √eps of v's dtype. Works under jit and vmap.
        """


def limit_at(v: jax.Array, tolerance: float | None) -> jax.Array:
    """The distance within which a kink counts as met at v."""
    relative = math.sqrt(float(jnp.finfo(v.dtype).eps)) if tolerance is None else tolerance
    return relative * jnp.max(jnp.abs(v))


def without_kinks(V: jax.Array) -> ClarkeJacobian:
    """That of a projection which is linear."""
    return ClarkeJacobian(V, V, V, jnp.asarray(jnp.inf, V.dtype), jnp.asarray(True))


def integer(name: str, value: Any, least: int) -> int:
    """A size as an int; InvalidInputError names it."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise InvalidInputError(f"{name} takes integers ≥ {least}, but got {value!r}.")
    return int(value)


@dataclass(frozen=True)
class Dual(Cone):
    """K*, by Moreau: P_{K*}(v) = v + P_K(−v), so that V* = I − V(−v) and the extremes change places.

    >>> import jax.numpy as jnp
    >>> from conservax.cones import Exponential
    >>> Dual(Exponential()).project(jnp.array([0.0, 1.0, 1.0])).tolist()
    [0.0, 1.0, 1.0]
    """

    cone: Cone

    @property
    def size(self) -> int:
        return self.cone.size

    def project(self, v: jax.Array) -> jax.Array:
        return self.point(v) + self.cone.project(-v)

    def dual(self) -> Cone:
        return self.cone

    def clarke(self, v: jax.Array, tolerance: float | None = None) -> ClarkeJacobian:
        of = self.cone.clarke(-self.point(v), tolerance)
        eye = jnp.eye(self.size, dtype=v.dtype)
        return ClarkeJacobian(eye - of.element, eye - of.upper, eye - of.lower, of.margin, of.exact)


def is_dual_of(cone: Cone, kind: type[Cone]) -> TypeGuard[Dual]:
    """Whether it is the dual of a cone of exactly this kind."""
    return type(cone) is Dual and type(cone.cone) is kind


@dataclass(frozen=True, init=False)
class Product(Cone):
    """K₁ × K₂ × …, in any order: projection and Clarke Jacobian block by block.

    ``tolerance`` counts relative to the entries of each block; ``margin`` is the smallest one.

    >>> import jax.numpy as jnp
    >>> from conservax.cones import NonNegative, Power, Zero
    >>> K = Product(Power(0.3), NonNegative(2), Zero(1))
    >>> K.project(jnp.array([1.0, 1.0, 0.0, -1.0, 2.0, 3.0])).tolist()
    [1.0, 1.0, 0.0, 0.0, 2.0, 0.0]
    """

    cones: tuple[Cone, ...]

    def __init__(self, *cones: Cone) -> None:
        for cone in cones:
            if not isinstance(cone, Cone):
                raise InvalidInputError(
                    f"Product takes cones, as in Product(Zero(1), SecondOrder(3)), but got {cone!r}."
                )
        object.__setattr__(self, "cones", cones)

    @property
    def size(self) -> int:
        return sum(cone.size for cone in self.cones)

    def project(self, v: jax.Array) -> jax.Array:
        parts = (cone.project(part) for cone, part in self._blocks(v))
        return jnp.concatenate([v[:0], *parts])

    def dual(self) -> "Product":
        return Product(*(cone.dual() for cone in self.cones))

    def clarke(self, v: jax.Array, tolerance: float | None = None) -> ClarkeJacobian:
        found = [cone.clarke(part, tolerance) for cone, part in self._blocks(v)]
        if not found:
            return without_kinks(jnp.zeros((0, 0), v.dtype))
        element, lower, upper, margins, exact = zip(*found, strict=True)
        joined = jax.scipy.linalg.block_diag
        return ClarkeJacobian(
            joined(*element),
            joined(*lower),
            joined(*upper),
            jnp.min(jnp.stack(margins)),
            jnp.all(jnp.stack(exact)),
        )

    def _blocks(self, v: jax.Array) -> list[tuple[Cone, jax.Array]]:
        v = self.point(v)
        ends = np.cumsum([0, *(cone.size for cone in self.cones)])
        return [(cone, v[i:j]) for cone, i, j in zip(self.cones, ends[:-1], ends[1:], strict=True)]
