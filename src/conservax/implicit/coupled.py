"""A linear system of which many rows or columns are those of the identity, as where a prox returns 0.

With B = I − A let R be the nonzero rows of A, C its nonzero columns, S = R ∩ C. Then

    (I − A_SS) x_S = (b + A b_{∉S})_S,    x = b + A (x_S, b_{∉S}),

for x = b outside of R, and outside of C no entry of x is read. B is singular iff I − A_SS is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

Matvec = Callable[[jax.Array], jax.Array]


def coupled_solve(
    operator: Matvec,
    b: jax.Array,
    solve: Callable[[Matvec, jax.Array], jax.Array],
    width: int,
) -> jax.Array:
    """x with B x = b by ``solve(operator, rhs)`` in ``width`` unknowns where all of S fits, else in all.

    Args:
        operator: v ↦ B v, from arrays (n,) to arrays (n,), which JAX can transpose.
        b: right-hand side (n,).
        solve: solves a system given by its matvec, NaN where it is singular.
        width: of the smaller system, at most n.

    >>> import jax.numpy as jnp
    >>> B = jnp.eye(4).at[0].set(jnp.array([2.0, 1.0, 1.0, 0.0]))  # one unknown coupled to others
    >>> dense = lambda op, rhs: jnp.linalg.solve(jax.vmap(op, out_axes=1)(jnp.eye(rhs.size)), rhs)
    >>> coupled_solve(lambda v: B @ v, jnp.array([9.0, 1, 2, 3]), dense, 2).tolist()
    [3.0, 1.0, 2.0, 3.0]
    """
    probe = probe_like(b)
    across = jax.linear_transpose(operator, b)(probe)[0]
    coupled = (operator(probe) != probe) & (across != probe)  # an A below round-off may be left out
    places = jnp.argsort(~coupled, stable=True)[:width]
    inside = coupled[places]  # what fills up the smaller system keeps its row of the identity

    def in_part() -> jax.Array:
        def spread(v: jax.Array) -> jax.Array:
            return jnp.zeros_like(b).at[places].set(jnp.where(inside, v, 0))

        def part(v: jax.Array) -> jax.Array:
            return jnp.where(inside, operator(spread(v))[places], v)

        still = jnp.where(coupled, 0, b)
        right = jnp.where(inside, (b + still - operator(still))[places], 0)
        found = solve(part, right)
        y = still + spread(found)
        return jnp.where(jnp.any(jnp.isnan(found)), jnp.nan, b + y - operator(y))

    def in_all() -> jax.Array:
        return solve(operator, b)

    return jax.lax.cond(_fits(jnp.sum(coupled), jnp.asarray(width)), in_part, in_all)


def probe_like(b: jax.Array) -> jax.Array:
    """A right-hand side that no singular matrix can solve: b may lie in its range, and hide it."""
    return jnp.cos(jnp.arange(b.size, dtype=b.dtype) + 1)


@custom_vmap
def _fits(count: jax.Array, width: jax.Array) -> jax.Array:
    return count <= width


@_fits.def_vmap
def _(size: int, mapped: Any, count: jax.Array, width: jax.Array) -> tuple[jax.Array, bool]:
    """One answer for a batch: a choice of its own for each item would solve both systems for all."""
    del size, mapped
    return _fits(jnp.max(count), jnp.max(width)), False
