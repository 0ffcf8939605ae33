"""What a singular system U(V) still determines.

Two kinds of vectors span its kernel (docs/theory.md#singular-systems): changes of x that neither the
objective nor an active row sees, and of multipliers of active rows that depend on each other. Where no
piece is weakly active, and those rows are of polyhedral cones, the program is next to the point one
with the active rows as equations. As long as they keep their rank, and agree, the others among its
unknowns are differentiable: the derivative of x in c does not ask which of the multipliers is meant.

A shift of the diagonal leaves those vectors alone, and so does refinement with the shifted system. From
several starts it ends in solutions that agree in just the entries that are determined.

Equations that depend on each other leave a program only where their right-hand sides agree. There its
derivative in them is known up to what they cannot do, and any of those that the solves give will serve.
"""

import dataclasses
from typing import Any

import numpy as np

from ...arrays.namespace import Array, namespace
from ...numerics import machine_epsilon
from ...solvers.matrices import by_columns, plus_diagonal, times
from .system import Solver, System, refined

_PASSES = 8
_STARTS, _FAR = 2, 16.0  # from noise, so many times as large as the solution


def shifted(system: System) -> System:
    """P with a diagonal that is small, but no rounding of the rows' weights in the normal equations."""
    size = machine_epsilon(system.d.dtype) ** 0.375
    shift = namespace(system.d).full((len(system.d), system.P.shape[-1]), size, system.d.dtype)
    return dataclasses.replace(system, P=plus_diagonal(system.P, shift))


def determined(
    system: System, inverse: Solver, product: Solver, right: Array, any_of_equations: Array
) -> Array:
    """The entries of U⁻¹ right, or of U⁻ᵀ right, that the system determines, NaN for the others.

    Args:
        inverse: of a system with a shifted diagonal; product: of U or Uᵀ itself.
        right: (batch, n + m, columns). A column that has no solution, or one that is free in a curved
            cone, is NaN throughout.
        any_of_equations: (batch,), where rows of equations get one of their values if no inequality's is
            free.
    """
    n, columns, eps = system.P.shape[-1], right.shape[-1], machine_epsilon(right.dtype)
    xp = namespace(right)

    def solved(right: Array, start: Array) -> tuple[Array, Array]:
        """A solution, and whether it is one; (batch, n + m, columns), (batch, 1, columns)."""
        given = right[:, :n], right[:, n:]
        found = refined(inverse, product, *given, (start[:, :n], start[:, n:]), _PASSES)
        solution, residual = (xp.concatenate(parts, axis=1) for parts in found)
        limit = eps**0.75 * _largest(right) + 64 * eps * _largest(solution)
        return solution, _largest(residual) <= limit

    first, met = solved(right, xp.zeros_like(right))
    scale = xp.maximum(_largest(right), _largest(first))
    noise = np.random.default_rng(1).uniform(-1, 1, size=(right.shape[1], 1, _STARTS))
    noise = _FAR * scale[..., None] * noise.astype(right.dtype)
    others, reached = solved(
        xp.repeat(right, _STARTS, axis=-1), noise.reshape(*right.shape[:2], columns * _STARTS)
    )
    apart = others.reshape(*right.shape, _STARTS) - first[..., None]
    met &= xp.all(reached.reshape(len(right), 1, columns, _STARTS), axis=-1)
    limit = eps**0.5 * scale
    free = xp.max(xp.abs(apart), axis=-1) > limit
    cones = system.cones
    curved = cones.rows_of(polyhedral=False)
    if len(curved):
        # U⁻ᵀ does not see the slack of a free x
        moves = apart[:, :n].reshape(len(right), n, columns * _STARTS)
        slack: Any = by_columns(times, system.A, moves)
        slack = xp.max(xp.abs(slack).reshape(*free[:, n:].shape, _STARTS), axis=-1)
        moved = free[:, n:] | (slack > limit)
        met &= ~xp.any(moved[:, curved], axis=1, keepdims=True)
    if cones.zero:
        unequal = xp.any(free[:, n + cones.rows_of(polyhedral=True)], axis=1, keepdims=True)
        kept = np.isin(
            np.arange(free.shape[1]), n + cones.rows_of(polyhedral=True, equations=True)
        )[:, None]
        free &= ~(kept & any_of_equations[:, None, None] & ~unequal)
    return xp.where(met & ~free, first, xp.nan)


def _largest(columns: Array) -> Array:
    return namespace(columns).max(abs(columns), axis=1, keepdims=True)
