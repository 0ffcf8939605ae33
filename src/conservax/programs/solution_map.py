"""The solution map of a cone program as one differentiable, batched function.

The derivative solves the de-homogenised system at one consistent element, by the forward pass' factor.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jax.custom_derivatives import zero_from_primal

from ..solvers import Cones, ConicPoint, Status
from ..solvers.chunks import in_chunks
from ..solvers.cones import Array
from ..solvers.equilibrate import Data
from ..solvers.normal_equations import times, times_transposed
from .forward import Outcome, Settings, solve_and_polish
from .spectrum import spectrum
from .system import apply_element, solve, solve_transposed


@functools.cache
def solution_map(cones: Cones, settings: Settings) -> Callable[..., Outcome]:
    """(P, c, A, b) ↦ Outcome for a batch, differentiable in all four any number of times."""

    @custom_vmap
    def forward(P: Array, c: Array, A: Array, b: Array) -> Outcome:
        return in_chunks(lambda data: solve_and_polish(data, cones, settings), Data(P, c, A, b))

    @forward.def_vmap
    def _(axis_size: int, in_batched: Any, *data: Array) -> tuple[Outcome, Any]:
        """A mapped axis joins the batch axis: one loop solves all."""
        full = [
            part if batched else jnp.broadcast_to(part, (axis_size, *part.shape))
            for part, batched in zip(data, in_batched, strict=True)
        ]
        size = full[0].shape[1]
        outcome = forward(*(part.reshape(axis_size * size, *part.shape[2:]) for part in full))
        split = jax.tree.map(lambda part: part.reshape(axis_size, size, *part.shape[1:]), outcome)
        return split, jax.tree.map(lambda part: True, split)

    @jax.custom_jvp
    def solved(P: Array, c: Array, A: Array, b: Array) -> Outcome:
        return forward(P, c, A, b)

    @solved.defjvp
    def _(primals: Any, tangents: Any) -> tuple[Outcome, Outcome]:
        P, c, A, b = primals
        dP, dc, dA, db = tangents
        outcome = solved(P, c, A, b)
        # the solution does not depend on the scaling: any constant one serves
        scaling = lax.stop_gradient(outcome.scaling)
        upper = -(times(dP, outcome.x) + times_transposed(dA, outcome.y) + dc)
        lower = db - times(dA, outcome.x)
        upper, lower = scaling.cost[:, None] * scaling.column * upper, scaling.row * lower
        # a factor, for a mask would turn NaN into zero in reverse mode
        known = (outcome.status == Status.SOLVED) & outcome.regular
        known = jnp.where(known, 1.0, jnp.nan).astype(upper.dtype)
        data = scaling.apply(Data(P, c, A, b))
        dx, dv = _implicit_step(data.P, data.A, outcome.v, outcome, upper, lower, cones)
        dx, dv = dx * known[:, None], dv * known[:, None]
        dy = _element_of(outcome.v, outcome, dv, cones)
        blank = jax.tree.map(zero_from_primal, outcome)
        dx, dy, ds = scaling.undo(ConicPoint(dx, dy, dy - dv))
        return outcome, blank._replace(x=dx, y=dy, s=ds, v=dv)

    return solved


def _element_of(v: Array, outcome: Outcome, x: Array, cones: Cones) -> Array:
    """V x at the chosen element; differentiable in v where Π is twice differentiable."""
    if not (cones.second_order or cones.semidefinite):
        return lax.stop_gradient(outcome.factor.d) * x
    frozen = apply_element(*lax.stop_gradient(outcome.factor)[:2], x, cones)
    # the moving part has the value zero: it only carries the derivative of V in v
    here = spectrum(v, None, cones)
    moving = apply_element(here.basis, here.low, x, cones)
    return frozen + moving - lax.stop_gradient(moving)


def _implicit_step(
    P: Array, A: Array, v: Array, outcome: Outcome, upper: Array, lower: Array, cones: Cones
) -> tuple[Array, Array]:
    """U(V)⁻¹ (upper, lower), NaN in an item where U(V) is singular."""
    factor = lax.stop_gradient(outcome.factor)
    data = lax.stop_gradient((P, A))

    n = upper.shape[-1]

    def apply_system(z: Array) -> Array:
        dx, dv = z[:, :n], z[:, n:]
        dy = _element_of(v, outcome, dv, cones)
        return _join(times(P, dx) + times_transposed(A, dy), times(A, dx) + dy - dv)

    # one right-hand side: JAX transposes a solve only if no part of it is constant
    z = lax.custom_linear_solve(
        apply_system,
        _join(upper, lower),
        solve=lambda _, z: _join(*solve(factor, *data, z[:, :n], z[:, n:], cones)),
        transpose_solve=lambda _, z: _join(
            *solve_transposed(factor, *data, z[:, :n], z[:, n:], cones)
        ),
    )
    return z[:, :n], z[:, n:]


def _join(upper: Array, lower: Array) -> Array:
    return jnp.concatenate([upper, lower], axis=-1)
