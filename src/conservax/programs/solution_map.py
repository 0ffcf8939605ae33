"""The solution map of a cone program as one differentiable, batched function.

The derivative solves the de-homogenised system at one consistent element.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jax.custom_derivatives import SymbolicZero, zero_from_primal

from ..arrays.namespace import Array
from ..cones.spectrum import apply_element, spectrum
from ..cones.table import Cones
from ..solution import Status
from ..solvers import ConicPoint
from ..solvers.batching import join_axis, split_axis
from ..solvers.chunks import in_chunks
from ..solvers.equilibrate import Data
from ..solvers.matrices import Matrix, SparseMatrix, tangent_of, times, times_transposed
from .equations import with_equations
from .failed_items import partial_identity, partial_solution
from .forward import Outcome, Settings, solve_and_polish
from .system.backward import Place, linear_solve


@functools.lru_cache(maxsize=256)
def solution_map(cones: Cones, settings: Settings) -> Callable[..., Outcome]:
    """(P, c, A, b) ↦ Outcome for a batch, differentiable in all four any number of times."""

    @jax.jit  # each derivative traces the solve again, and finds it here
    def chunk(data: Data) -> Outcome:
        return solve_and_polish(data, cones, settings)

    @custom_vmap
    def forward(P: Matrix, c: Array, A: Matrix, b: Array) -> Outcome:
        return in_chunks(chunk, Data(P, c, A, b))

    @forward.def_vmap
    def _(axis_size: int, in_batched: Any, *data: Any) -> tuple[Outcome, Any]:
        """A mapped axis joins the batch axis: one loop solves all."""
        outcome = split_axis(axis_size, forward(*join_axis(axis_size, data, tuple(in_batched))))
        return outcome, jax.tree.map(lambda part: True, outcome)

    solved = jax.custom_jvp(with_equations(forward, cones))

    def derivative(primals: Any, tangents: Any) -> tuple[Outcome, Outcome]:
        data = Data(*primals)
        dP, dc, dA, db = (_moving(*pair) for pair in zip(primals, tangents, strict=True))
        outcome = solved(*data)
        known = outcome.status == Status.SOLVED
        found, outcome = outcome, _with_numbers(outcome, known)
        # the solution does not depend on the scaling: any constant one serves
        scaling = lax.stop_gradient(outcome.scaling)
        upper, lower = jnp.zeros_like(data.c), jnp.zeros_like(data.b)
        upper = upper if dc is None else -dc
        lower = lower if db is None else db
        if dP is not None:
            upper = upper - times(dP, outcome.x)
        if dA is not None:
            upper = upper - times_transposed(dA, outcome.y)
            lower = lower - times(dA, outcome.x)
        upper, lower = scaling.cost[:, None] * scaling.column * upper, scaling.row * lower
        still = dP is None, dA is None
        dx, dv = _implicit_step(data, outcome, upper, lower, cones, still)
        dy = _element(outcome, cones)(dv)
        blank = jax.tree.map(zero_from_primal, found)
        dx, dy, ds = scaling.undo(ConicPoint(dx, dy, dy - dv))
        return found, blank._replace(x=dx, y=dy, s=ds, v=dv)

    solved.defjvp(derivative, symbolic_zeros=True)
    return solved


def _with_numbers(outcome: Outcome, known: Array) -> Outcome:
    """The outcome; numbers in place of the NaN of an item that failed, which are factors of 0."""

    def numbers(part: Array, number: Array | float) -> Array:
        return jnp.where(known.reshape(-1, *(1,) * (part.ndim - 1)), part, number)

    return outcome._replace(
        x=numbers(outcome.x, 1.0),
        y=numbers(outcome.y, 1.0),
        s=numbers(outcome.s, 1.0),
        # of simple eigenvalues and no norm 0, where the projection is differentiable
        v=numbers(outcome.v, jnp.cos(jnp.arange(outcome.v.shape[-1], dtype=outcome.v.dtype) + 1)),
        scaling=jax.tree.map(lambda part: numbers(part, 1.0), outcome.scaling),
        basis=jax.tree.map(lambda part: numbers(part, 0.0), outcome.basis),
        d=numbers(outcome.d, 0.0),
        idle=numbers(outcome.idle, 0.0),
    )


def _moving(part: Matrix, tangent: Any) -> Any:
    """The tangent of a part of the data; None where it is known to stand still."""
    tangent = tangent_of(part, tangent)
    values = tangent.values if isinstance(tangent, SparseMatrix) else tangent
    return None if isinstance(values, SymbolicZero) else tangent


def _element(outcome: Outcome, cones: Cones) -> Callable[[Array], Array]:
    """x ↦ V x at the chosen element, (batch, m); differentiable in v where Π is twice differentiable."""
    basis, d = lax.stop_gradient((outcome.basis, outcome.d))
    if cones.polyhedral:
        return lambda x: d * x
    here = spectrum(outcome.v, None, cones)
    still = lax.stop_gradient(here)

    def apply(x: Array) -> Array:
        # the difference of the last two is zero: it only carries the derivative of V in v
        moving = apply_element(here.basis, here.low, x, cones)
        return (
            apply_element(basis, d, x, cones)
            + moving
            - apply_element(still.basis, still.low, x, cones)
        )

    return apply


def _implicit_step(
    data: Data,
    outcome: Outcome,
    upper: Array,
    lower: Array,
    cones: Cones,
    still: tuple[bool, bool],
) -> tuple[Array, Array]:
    """U(V)⁻¹ (upper, lower); NaN in an item without a solution, and where U(V) does not determine it.

    ``still``: whether P, and A, stand still.
    """
    n = upper.shape[-1]
    place = lax.stop_gradient(
        Place(
            data,
            outcome.scaling,
            outcome.basis,
            outcome.d,
            outcome.idle,
            outcome.status == Status.SOLVED,
            outcome.decided,
            *(jnp.full_like(outcome.decided, part) for part in still),
        )
    )

    element = _element(outcome, cones)
    # a linear solve whose map is constant must not close over anything that moves
    matrices = Data(
        _for_regular(data.P, outcome.tests.verdict),
        lax.stop_gradient(data.c),
        _for_regular(data.A, outcome.tests.verdict),
        lax.stop_gradient(data.b),
    )

    known = place.known

    def apply_system(z: Array) -> Array:
        # a failed item has the identity in place of its equations, which no second derivative follows
        return jnp.where(known[:, None], equations(jnp.where(known[:, None], z, 0)), z)

    def equations(z: Array) -> Array:
        P, _, A, _ = place.scaling.apply(matrices)
        dx, dv = z[:, :n], z[:, n:]
        dy = element(dv)
        upper = times(P, dx) + place.idle * dx + times_transposed(A, dy)
        return _join(upper, times(A, dx) + dy - dv)

    # one right-hand side: JAX transposes a solve only if no part of it is constant
    z = lax.custom_linear_solve(
        apply_system,
        _join(upper, lower),
        solve=lambda _, z: partial_solution(
            linear_solve(cones, False)(place, z[..., None])[..., 0], z, known
        ),
        transpose_solve=lambda _, z: partial_solution(
            linear_solve(cones, True)(place, z[..., None])[..., 0], z, known
        ),
    )
    return z[:, :n], z[:, n:]


def _for_regular(matrix: Matrix, verdict: Array) -> Any:
    """The matrix; where the verdict is REFUTED the solve does not follow it when it is differentiated again.

    Of what is not unique one of many was taken, which would count there.
    """
    if isinstance(matrix, SparseMatrix):
        return matrix.with_values(_stiff(matrix.values, verdict))
    return _stiff(matrix, verdict)


@jax.custom_jvp
def _stiff(values: Array, verdict: Array) -> Array:
    return values


@_stiff.defjvp
def _(primals: Any, tangents: Any) -> tuple[Array, Array]:
    values, verdict = primals
    return values, partial_identity(tangents[0], verdict >= 0)


def _join(upper: Array, lower: Array) -> Array:
    return jnp.concatenate([upper, lower], axis=-1)
