"""What a singular system U(V) still determines.

Two kinds of vectors span its kernel (THEORY §2): changes of x that neither the objective nor an active
row sees, and of multipliers of active rows that depend on each other. Where no piece is weakly
active, and those rows are of polyhedral cones, the program is next to the point one with the active
rows as equations. As long as they keep their rank, and agree, the others among its unknowns are
differentiable: the derivative of x in c does not ask which of the multipliers is meant.

A shift of the diagonal leaves those vectors alone, and so does refinement with the shifted system. From
two starts it ends in two solutions that agree in just the entries that are determined.

Equations that depend on each other leave a program only where their right-hand sides agree. There its
derivative in them is known up to what they cannot do, and any of those that the solves give will serve.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..numerics import machine_epsilon
from ..solvers.cones import Array, Cones, Curved, Orthant, SecondOrder, Semidefinite, Zero
from ..solvers.matrices import by_columns, plus_diagonal, times
from .system import Solver, System, refined

_PASSES = 8


def shifted(system: System) -> System:
    """P with a diagonal that is small, but no rounding of the rows' weights in the normal equations."""
    shift = jnp.full(system.P.shape[:2], machine_epsilon(system.d.dtype) ** 0.375, system.d.dtype)
    return dataclasses.replace(system, P=plus_diagonal(system.P, shift))


def determined(
    system: System, inverse: Solver, product: Solver, right: Array, any_of_equations: Array
) -> Array:
    """The entries of U⁻¹ right, or of U⁻ᵀ right, that the system determines, NaN for the others.

    Args:
        inverse: of a system with a shifted diagonal; product: of U or Uᵀ itself.
        right: (batch, n + m, columns). A column that has no solution, or one that is free in a curved
            cone, is NaN throughout.
        any_of_equations: (batch,), where rows of equations that depend on no other rows get one of their
            values.
    """
    n, columns, eps = system.P.shape[-1], right.shape[-1], machine_epsilon(right.dtype)
    noise = np.random.default_rng(1).uniform(-1, 1, size=(right.shape[1], 1))
    size = jnp.max(jnp.abs(right), axis=1, keepdims=True)
    start = jnp.concatenate([jnp.zeros_like(right), size * noise.astype(right.dtype)], axis=-1)
    both = jnp.concatenate([right, right], axis=-1)
    found = refined(
        inverse, product, both[:, :n], both[:, n:], (start[:, :n], start[:, n:]), _PASSES
    )
    solution, residual = (jnp.concatenate(parts, axis=1) for parts in found)
    first, second = solution[..., :columns], solution[..., columns:]
    met = jnp.all(jnp.abs(residual) <= eps**0.75 * jnp.tile(size, 2), axis=1, keepdims=True)
    met = met[..., :columns] & met[..., columns:]
    limit = eps**0.5 * jnp.maximum(size, jnp.max(jnp.abs(first), axis=1, keepdims=True))
    free = jnp.abs(first - second) > limit
    cones = system.cones
    curved = _rows(cones, SecondOrder | Semidefinite | Curved)
    if len(curved):
        # U⁻ᵀ does not see the slack of a free x
        slack: Any = by_columns(times, system.A, (first - second)[:, :n])
        moved = free[:, n:] | (jnp.abs(slack) > limit)
        met &= ~jnp.any(moved[:, curved], axis=1, keepdims=True)
    if cones.zero:
        others = jnp.any(free[:, n + _rows(cones, Orthant)], axis=1, keepdims=True)
        kept = jnp.zeros_like(free).at[:, n + _rows(cones, Zero)].set(True)
        free &= ~(kept & any_of_equations[:, None, None] & ~others)
    return jnp.where(met & ~free, first, jnp.nan)


def _rows(cones: Cones, kinds: Any) -> np.ndarray:
    """Those of the blocks of these kinds."""
    parts = (
        np.arange(rows.start, rows.stop) for block, rows in cones.pieces if isinstance(block, kinds)
    )
    return np.concatenate([np.zeros(0, int), *parts])
