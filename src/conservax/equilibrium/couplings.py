"""The linear part W of a monotone equilibrium, and its resolvent (I + α(I − W))⁻¹.

A coupling is a pytree of real arrays, differentiable in them; a resolvent is data made from it once
and used in every iteration of both passes.
"""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .certificates import norm_bound, rounded_modulus


class Resolvent(eqx.Module):
    """(I + α(I − W))⁻¹ and its transpose."""

    @abc.abstractmethod
    def apply(self, u: jax.Array) -> jax.Array:
        """(I + α(I − W))⁻¹ u."""

    @abc.abstractmethod
    def apply_transposed(self, u: jax.Array) -> jax.Array:
        """(I + α(I − Wᵀ))⁻¹ u."""


class Coupling(eqx.Module):
    """W, from arrays of the units' shape to arrays of that shape."""

    @abc.abstractmethod
    def multiply(self, z: jax.Array) -> jax.Array:
        """W z."""

    @abc.abstractmethod
    def multiply_transposed(self, z: jax.Array) -> jax.Array:
        """Wᵀ z."""

    @abc.abstractmethod
    def norm_bound(self) -> float:
        """An upper bound of ‖W‖₂, rounding accounted for; of concrete arrays."""

    @abc.abstractmethod
    def modulus(self, m: float) -> float:
        """What is left of m, I − sym(W) ≽ m I, after rounding in W; of concrete arrays."""

    def resolvent(self, alpha: jax.Array) -> Resolvent | None:
        """(I + α(I − W))⁻¹, or None where it costs more than it gains."""
        del alpha
        return None


class Inverse(Resolvent):
    """A matrix, formed: (I + α(I − W)) is well conditioned, and a product is quicker than two solves."""

    matrix: jax.Array

    def apply(self, u: jax.Array) -> jax.Array:
        return product(self.matrix, u.ravel()).reshape(u.shape)

    def apply_transposed(self, u: jax.Array) -> jax.Array:
        return product(u.ravel(), self.matrix).reshape(u.shape)


class Dense(Coupling):
    """W as a matrix (n, n)."""

    matrix: jax.Array

    def multiply(self, z: jax.Array) -> jax.Array:
        return product(self.matrix, z.ravel()).reshape(z.shape)

    def multiply_transposed(self, z: jax.Array) -> jax.Array:
        return product(z.ravel(), self.matrix).reshape(z.shape)

    def norm_bound(self) -> float:
        return norm_bound(self.matrix)

    def modulus(self, m: float) -> float:
        return rounded_modulus(m, self.matrix)

    def resolvent(self, alpha: jax.Array) -> Resolvent:
        one = jnp.eye(len(self.matrix), dtype=self.matrix.dtype)
        return Inverse(jnp.linalg.inv(one + alpha * (one - self.matrix)))


def product(a: jax.Array, b: jax.Array) -> jax.Array:
    """a @ b to the precision of its dtype, on accelerators too."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def norms(coupling: Coupling, like: Any) -> tuple[jax.Array, jax.Array]:
    """Estimates of ‖W‖ and ‖I − W‖ by ten steps of the power method, raised by a tenth.

    Stops and step sizes rest on them, never a certificate.
    """
    shifts = jnp.arange(2).astype(like.dtype).reshape(2, *[1] * like.ndim)
    several = tuple(range(1, like.ndim + 1))

    def sizes(v: jax.Array) -> jax.Array:
        return jnp.sqrt(jnp.sum(v * v, several, keepdims=True))

    def turn(_: Any, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        v, _ = state
        image = shifts * v - jax.vmap(coupling.multiply)(v)  # −W and I − W, both at once
        back = shifts * image - jax.vmap(coupling.multiply_transposed)(image)
        size = sizes(back)
        return back / jnp.where(size > 0, size, 1), sizes(image)

    v = jnp.cos(jnp.arange(like.size, dtype=like.dtype) ** 2 + 1).reshape(1, *like.shape)
    v = jnp.concatenate([v, v]) / sizes(v)
    _, found = jax.lax.fori_loop(0, 11, turn, (v, jnp.zeros_like(shifts)))
    found = 1.1 * found.ravel()
    return found[0], found[1]
