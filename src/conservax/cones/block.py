"""A number of equal cones side by side in the rows of a program: all that solvers and certificates ask of them.

Vectors are (batch, size), several of them side by side (batch, size, columns). What is asked on the host
works on NumPy's arrays as on JAX's (``arrays.namespace``).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import ModuleType
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..arrays.namespace import Array
from .cone import Cone


class Elements(NamedTuple):
    """The elements V = T diag(d) Tᵀ, low ≤ d ≤ high, of the Clarke Jacobian of the projection onto the dual.

    ``basis``: what T is made of, None for the identity; ``low``, ``high``: (batch, size); ``bounded``
    (batch,): whether every element lies between the two, None where that is so always.
    """

    basis: Any
    low: Array
    high: Array
    bounded: Array | None = None


class Block(ABC):
    """``count`` equal cones. ``polyhedral``: their rows stand alone; ``equations``: each row is s = 0."""

    polyhedral: ClassVar[bool] = False
    equations: ClassVar[bool] = False

    count: int

    @property
    @abstractmethod
    def size(self) -> int:
        """The rows of all of them."""

    @abstractmethod
    def duals(self) -> Sequence[Cone]:
        """The dual of each cone, or one that all of them share."""

    def onto_dual(self, v: Array) -> Array:
        """The projection of (batch, size) onto the duals, in steps that the calculus knows."""
        duals = self.duals()
        parts = v.reshape(*v.shape[:-1], self.count, self.size // self.count)
        if len(duals) == 1:
            return jax.vmap(jax.vmap(duals[0].project))(parts).reshape(v.shape)
        each = [jax.vmap(cone.project)(parts[:, i]) for i, cone in enumerate(duals)]
        return jnp.stack(each, axis=1).reshape(v.shape)

    @abstractmethod
    def elements(self, v: Array, dual: Array, slack: Array) -> Elements:
        """At v (batch, size), where an eigenvalue in [−slack, dual] counts as zero."""

    @abstractmethod
    def rotate(self, basis: Any, x: Array) -> Array:
        """Tᵀ x for (batch, size, columns)."""

    @abstractmethod
    def unrotate(self, basis: Any, x: Array) -> Array:
        """T x for (batch, size, columns)."""

    @abstractmethod
    def for_clarabel(self, clarabel: ModuleType) -> list[Any]:
        """Its cones, as Clarabel names them."""

    def onto_clarabel(self) -> tuple[Any, Any] | None:
        """Sparse R and R⁻¹ with s_Clarabel = R s; None for the identity."""
        return None


class SymmetricBlock(Block):
    """Symmetric cones, with the Nesterov–Todd scaling of an interior pair.

    For s, z in its interior the scaling W has W z = W⁻ᵀ s = λ; ∘ is the Jordan product and e its
    identity (Nesterov, Todd 1997; Vandenberghe, The CVXOPT linear and quadratic cone program solvers,
    2010).
    """

    @property
    @abstractmethod
    def degree(self) -> int:
        """The barrier parameter."""

    @abstractmethod
    def identity(self) -> np.ndarray:
        """e."""

    @abstractmethod
    def interior(self, x: Array) -> Array:
        """The least eigenvalue of x."""

    @abstractmethod
    def scaling(self, s: Array, z: Array) -> tuple[Any, Array]:
        """The data of W, and λ."""

    @abstractmethod
    def scale(self, W: Any, x: Array) -> Array:
        """W⁻ᵀ x for a slack x; (batch, size, columns)."""

    @abstractmethod
    def unscale(self, W: Any, s: Array, z: Array) -> tuple[Array, Array]:
        """Wᵀ s and W⁻¹ z."""

    @abstractmethod
    def product(self, x: Array, y: Array) -> Array:
        """x ∘ y."""

    @abstractmethod
    def divide(self, lam: Array, x: Array) -> Array:
        """The u with λ ∘ u = x."""

    @abstractmethod
    def steepness(self, lam: Array, x: Array) -> Array:
        """The ρ ≥ 0 such that λ + αx stays in the cone as long as αρ ≤ 1."""


class Rows(SymmetricBlock):
    """Cones of one row each, which nothing turns."""

    polyhedral = True

    def rotate(self, basis: Any, x: Array) -> Array:
        return x

    def unrotate(self, basis: Any, x: Array) -> Array:
        return x
