"""Backward: U(V)⁻¹ and U(V)⁻ᵀ at the chosen element, a few items at a time.

Normal equations give the solution; a right-hand side of noise travels with it, whose residual tells
whether they may be trusted: if U(V) is singular noise has no preimage. Where they may not, the system
is solved by its two factors, and if one of them is singular to round-off what the system still
determines is kept where no piece is weakly active, NaN for the rest.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap

from ...arrays.namespace import Array
from ...cones.table import Cones
from ...numerics import machine_epsilon
from ...solvers.batching import join_axis, split_axis
from ...solvers.chunks import in_chunks
from ...solvers.equilibrate import Data, Scaling
from ...solvers.interior_point import choose
from ...solvers.matrices import SparseMatrix, plus_diagonal
from .determined import determined, shifted
from .sparse_system import by_sparse_factor
from .system import (
    Solver,
    System,
    by_corner,
    by_normal_equations,
    factorise,
    is_regular,
    refined,
)


class Place(NamedTuple):
    """Where a batch is differentiated.

    Attributes:
        data, scaling: the program, in user units. basis, d: of the chosen element, equilibrated.
        idle: 1 for variables that are left out.
        known: whether there is a solution. decided: whether there is one element.
        P_still, A_still: whether P, or A, stands still; (batch,), as these two.
    """

    data: Data
    scaling: Scaling
    basis: tuple[Any, ...]
    d: Array
    idle: Array
    known: Array
    decided: Array
    P_still: Array
    A_still: Array


@functools.cache
def linear_solve(cones: Cones, transposed: bool) -> Callable[[Place, Array], Array]:
    """(place, right) ↦ U(V)⁻¹ right, or U(V)⁻ᵀ right; right is (batch, n + m, columns)."""

    @jax.jit  # traced once, however often a derivative meets it
    def chunk(place: Place, right: Array) -> Array:
        return _solve(place, right, cones, transposed)

    @custom_vmap
    def solve(place: Place, right: Array) -> Array:
        return in_chunks(chunk, place, right)

    @solve.def_vmap
    def _(axis_size: int, in_batched: Any, place: Place, right: Array) -> tuple[Array, bool]:
        """A mapped axis of right-hand sides joins the columns, one of programs the batch."""
        place_batched, right_batched = in_batched
        if not any(jax.tree.leaves(place_batched)):
            columns = right.shape[-1]
            joined = jnp.moveaxis(right, 0, -1).reshape(*right.shape[1:-1], columns * axis_size)
            solution = solve(place, joined)
            return jnp.moveaxis(solution.reshape(*right.shape[1:], axis_size), -1, 0), True
        joined = join_axis(axis_size, (place, right), (place_batched, right_batched))
        return split_axis(axis_size, solve(*joined)), True

    return solve


def _solve(place: Place, right: Array, cones: Cones, transposed: bool) -> Array:
    data = place.scaling.apply(place.data)
    system = System(plus_diagonal(data.P, place.idle), data.A, place.basis, place.d, cones)
    product = system.transposed_product if transposed else system.product
    inverse = system.transposed_inverse if transposed else system.inverse
    n = data.c.shape[-1]
    # a factor, for a mask would turn NaN into zero in reverse mode
    known = jnp.where(place.known, 1.0, jnp.nan).astype(right.dtype)[:, None, None]
    # dP x and dAᵀy, passing forward, may be made with one of several x or y; passing backward the entries
    # that belong to those are NaN
    in_part = place.decided if transposed else place.decided & place.P_still & place.A_still
    any_of_equations = place.A_still & transposed

    def some(symmetric: Solver) -> Array:
        found = determined(system, inverse(symmetric), product, right, any_of_equations)
        return jnp.where(in_part[:, None, None], found, jnp.nan)

    if isinstance(data.A, SparseMatrix):
        parts = inverse(by_sparse_factor(system, probed=True))(right[:, :n], right[:, n:])
        solution = jnp.concatenate(parts, axis=1)
        lost = place.known & jnp.any(jnp.isnan(solution), axis=(1, 2))

        def rest() -> Array:
            return choose(lost, some(by_sparse_factor(system, probed=False)), solution)

        return lax.cond(jnp.any(lost & in_part), rest, lambda: solution) * known

    def attempt(symmetric: Solver) -> tuple[Array, Array]:
        """The solution and whether every column of an item has a small residual."""
        solution, residual = refined(inverse(symmetric), product, probed[:, :n], probed[:, n:])
        solution, residual = (jnp.concatenate(parts, axis=1) for parts in (solution, residual))
        within = machine_epsilon(right.dtype) ** 0.75 * jnp.max(jnp.abs(probed), axis=1)
        fits = jnp.max(jnp.abs(residual), axis=1) <= within
        return solution[..., 1:], jnp.all(fits, axis=-1)

    noise = np.random.default_rng(0).uniform(-1, 1, size=right.shape[1])
    noise = jnp.broadcast_to(
        jnp.asarray(noise, right.dtype)[:, None], (len(right), *noise.shape, 1)
    )
    probed = jnp.concatenate([noise, right], axis=-1)
    solution, trusted = attempt(by_normal_equations(system))
    lost = place.known & ~trusted

    def again() -> Array:
        factor = factorise(system)
        exact, _ = attempt(by_corner(system, factor))
        singular = lost & ~is_regular(factor)
        rest = lax.cond(
            jnp.any(singular & in_part),
            lambda: some(by_normal_equations(shifted(system))),
            lambda: jnp.full_like(solution, jnp.nan),
        )
        return choose(singular, rest, choose(lost, exact, solution))

    solution = lax.cond(jnp.any(lost), again, lambda: solution)
    return solution * known
