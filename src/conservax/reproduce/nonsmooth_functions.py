"""The standard test set of nonsmooth minimisation, any number of variables.

Sources: Haarala, Miettinen, Mäkelä, New limited memory bundle method for large-scale nonsmooth
optimization (Optim. Methods Softw. 2004), and the references there; Gürbüzbalaban, Overton, On
Nesterov's nonsmooth Chebyshev–Rosenbrock functions (Nonlinear Anal. 2012).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Problem(NamedTuple):
    """A function, its usual start at n variables, its minimum at n variables, whether it is convex."""

    name: str
    fun: Callable[[jax.Array], jax.Array]
    start: Callable[[int], np.ndarray]
    minimum: Callable[[int], float]
    convex: bool


def maxq(x: jax.Array) -> jax.Array:
    """max_i x_i²."""
    return jnp.max(x**2)


def chained_lq(x: jax.Array) -> jax.Array:
    """Σ max(−x_i − x_{i+1}, −x_i − x_{i+1} + x_i² + x_{i+1}² − 1)."""
    a, b = x[:-1], x[1:]
    return jnp.sum(-a - b + jnp.maximum(0.0, a**2 + b**2 - 1))


def _cb3(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    a, b = x[:-1], x[1:]
    return a**4 + b**2, (2 - a) ** 2 + (2 - b) ** 2, 2 * jnp.exp(b - a)


def chained_cb3_i(x: jax.Array) -> jax.Array:
    """Σ max(x_i⁴ + x_{i+1}², (2 − x_i)² + (2 − x_{i+1})², 2 exp(x_{i+1} − x_i))."""
    first, second, third = _cb3(x)
    return jnp.sum(jnp.maximum(jnp.maximum(first, second), third))


def chained_cb3_ii(x: jax.Array) -> jax.Array:
    """The largest of the three sums of ``chained_cb3_i``."""
    return jnp.max(jnp.sum(jnp.stack(_cb3(x)), axis=1))


def l1_hilbert(x: jax.Array) -> jax.Array:
    """Σ_i |Σ_j x_j/(i + j − 1)|."""
    i = jnp.arange(1, x.size + 1)
    return jnp.sum(jnp.abs((1 / (i[:, None] + i - 1.0)).astype(x.dtype) @ x))


def crescent_i(x: jax.Array) -> jax.Array:
    """max(Σ(x_i² + (x_{i+1} − 1)² + x_{i+1} − 1), Σ(−x_i² − (x_{i+1} − 1)² + x_{i+1} + 1))."""
    a, b = x[:-1], x[1:]
    q = a**2 + (b - 1) ** 2
    return jnp.maximum(jnp.sum(q + b - 1), jnp.sum(-q + b + 1))


def crescent_ii(x: jax.Array) -> jax.Array:
    """Σ of the larger of the two terms of ``crescent_i``."""
    a, b = x[:-1], x[1:]
    q = a**2 + (b - 1) ** 2
    return jnp.sum(jnp.maximum(q + b - 1, -q + b + 1))


def chebyshev_rosenbrock_i(x: jax.Array) -> jax.Array:
    """¼(x₁ − 1)² + Σ|x_{i+1} − 2x_i² + 1|."""
    return (x[0] - 1) ** 2 / 4 + jnp.sum(jnp.abs(x[1:] - 2 * x[:-1] ** 2 + 1))


def chebyshev_rosenbrock_ii(x: jax.Array) -> jax.Array:
    """¼|x₁ − 1| + Σ|x_{i+1} − 2|x_i| + 1|: 2ⁿ⁻¹ Clarke critical points, one minimiser."""
    return jnp.abs(x[0] - 1) / 4 + jnp.sum(jnp.abs(x[1:] - 2 * jnp.abs(x[:-1]) + 1))


def _alternating(n: int) -> np.ndarray:
    return np.where(np.arange(n) % 2 == 0, -1.5, 2.0)


def _counting(n: int) -> np.ndarray:
    i = np.arange(1, n + 1)
    return np.where(i <= n // 2, i, -i).astype(float)


def off_the_kinks(n: int) -> np.ndarray:
    """(−1, 1, …, 1), which lies on all kinks of the Chebyshev–Rosenbrock functions, moved by 0.01."""
    x = np.ones(n)
    x[0] = -1
    return x + 0.01 * np.random.default_rng(0).normal(size=n)


CONVEX = (
    Problem("maxQ", maxq, _counting, lambda n: 0.0, True),
    Problem("chained LQ", chained_lq, lambda n: np.full(n, -0.5), lambda n: -np.sqrt(2) * (n - 1), True),
    Problem("chained CB3 I", chained_cb3_i, lambda n: np.full(n, 2.0), lambda n: 2.0 * (n - 1), True),
    Problem("chained CB3 II", chained_cb3_ii, lambda n: np.full(n, 2.0), lambda n: 2.0 * (n - 1), True),
    Problem("L1 Hilbert", l1_hilbert, np.ones, lambda n: 0.0, True),
)  # fmt: skip
CRESCENTS = (
    Problem("chained Crescent I", crescent_i, _alternating, lambda n: 0.0, False),
    Problem("chained Crescent II", crescent_ii, _alternating, lambda n: 0.0, False),
)
ROSENBROCKS = (
    Problem("Chebyshev–Rosenbrock I", chebyshev_rosenbrock_i, off_the_kinks, lambda n: 0.0, False),
    Problem(
        "Chebyshev–Rosenbrock II", chebyshev_rosenbrock_ii, off_the_kinks, lambda n: 0.0, False
    ),
)
