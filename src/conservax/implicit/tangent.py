"""The tangent of a root: dy = −B⁻¹ dF, or nothing where there is no derivative."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.custom_batching import custom_vmap
from jax.custom_derivatives import SymbolicZero
from jax.flatten_util import ravel_pytree

from ..errors import InvalidInputError, NotARootError, SingularError
from ..numerics import is_root
from .linear import probe_like

OnFailure = Literal["raise", "nan", "keep"]

# In the domain of all elementary functions but arcosh: 0 · F′ there is 0.
_SOMEWHERE = 0.5


def require_on_failure(on_failure: str) -> None:
    """InvalidInputError where it is none of the three."""
    if on_failure not in get_args(OnFailure):
        raise InvalidInputError(
            f"on_failure={on_failure!r} is not one of {', '.join(get_args(OnFailure))}."
        )


def implicit_tangent(
    residual: Callable[..., Any],
    solution: Sequence[jax.Array],
    inputs: Sequence[Any],
    moves: Sequence[Any],
    solve: Callable[..., jax.Array],
    on_failure: OnFailure,
) -> Sequence[jax.Array]:
    """ẏ with B ẏ + Σ (∂F/∂inputs) moves = 0 at a solution of F(y, *inputs) = 0.

    Where y is no root of F, or B is singular, the map from the moves to ẏ has the domain {0}: 0 ↦ 0 and
    all else ↦ NaN, forward and transposed (docs/theory.md#failed-items).

    Args:
        residual: F(leaves, *inputs), a list of arrays.
        solution: y, a tuple of arrays. inputs, moves: arrays and their tangents, ``SymbolicZero`` or
            float0 where one stands still.
        solve: ``linear_solve``, its options bound.
        on_failure: "raise" NotARootError and SingularError where values are at hand, "nan", or "keep"
            what the formula says at a point that is no root.
    """
    moving = [
        not isinstance(t, SymbolicZero) and getattr(t, "dtype", None) != jax.dtypes.float0
        for t in moves
    ]
    if not any(moving):
        return tuple(jnp.zeros_like(y) for y in solution)
    flat, unravel = ravel_pytree(tuple(solution))

    def flat_residual(leaves: Sequence[Any], inputs: Sequence[Any]) -> jax.Array:
        return ravel_pytree(residual(leaves, *inputs))[0].astype(flat.dtype)

    frozen = jax.lax.stop_gradient((flat, list(inputs)))
    value = flat_residual(unravel(frozen[0]), frozen[1])
    finite = jnp.all(jnp.isfinite(frozen[0])) & jnp.all(jnp.isfinite(value))
    # 0 · NaN is NaN: in an item that failed, what is no number gives way to one among the factors of 0
    safe = jnp.where(~finite & ~jnp.isfinite(frozen[0]), _SOMEWHERE, flat)
    numbers = [_with_numbers(x, finite) for x in inputs]

    def of_solution(y: jax.Array) -> jax.Array:
        return flat_residual(unravel(y), numbers)

    def of_inputs(*some: Any) -> jax.Array:
        changed = iter(some)
        full = [next(changed) if m else x for m, x in zip(moving, numbers, strict=True)]
        return flat_residual(unravel(safe), full)

    some = [x for x, m in zip(numbers, moving, strict=True) if m]
    tangents = [t for t, m in zip(moves, moving, strict=True) if m]
    change = jax.jvp(of_inputs, some, tangents)[1]
    _, of_moves = jax.linearize(of_solution, safe)
    known = finite
    eager = not any(isinstance(x, Tracer) for x in (flat, *inputs))  # errors can be raised
    if on_failure != "keep":
        size, scale = _largest(value), jax.lax.stop_gradient(_largest(of_moves(safe)))
        known = finite & is_root(size, scale, flat.dtype)
        if on_failure == "raise" and eager:
            _require_root(known, size, scale)
    if on_failure != "nan" and eager:
        _require_invertible(of_moves, flat, solve)
    # of a failed item all moves count, also those that F does not see at the number put in; its own
    # equations are left out, before NaN can meet a 0 in a second derivative
    lost = jnp.where(known, 0, 1).astype(flat.dtype)
    all_moves = sum(
        jnp.sum(t).astype(flat.dtype)
        for t in tangents
        if jnp.issubdtype(jnp.result_type(t), jnp.floating)
    )
    # which leaves derivatives of every order something to be NaN of
    all_moves = all_moves * _itself_by_every_derivative(some, flat.dtype)
    right = -(jnp.where(known, change, 0) + lost * all_moves)

    def own_equations(v: jax.Array) -> jax.Array:
        return jnp.where(known, of_moves(jnp.where(known, v, 0)), v)

    return unravel(solve(own_equations, right, known=known))


def _itself_by_every_derivative(inputs: Sequence[Any], dtype: Any) -> jax.Array:
    """exp of 0, of which the derivatives of all orders in the inputs are 1 and not 0."""
    moved = jnp.zeros((), dtype)
    for x in inputs:
        if jnp.issubdtype(jnp.result_type(x), jnp.floating):
            at = jax.lax.stop_gradient(x)
            moved += jnp.sum(jnp.where(jnp.isfinite(at), x - at, 0)).astype(dtype)
    return jnp.exp(moved)


def _with_numbers(x: Any, defined: jax.Array) -> Any:
    """An input, some number in place of its NaN where the item failed."""
    if not jnp.issubdtype(jnp.result_type(x), jnp.inexact):
        return x
    gives_way = _gives_way(jax.lax.stop_gradient(x), defined)
    return jnp.where(gives_way, jnp.asarray(_SOMEWHERE, jnp.result_type(x)), x)


@custom_vmap
def _gives_way(x: jax.Array, defined: jax.Array) -> jax.Array:
    """NaN in an item that failed; ``defined`` has leading axes of ``x``."""
    failed = ~defined.reshape(defined.shape + (1,) * (x.ndim - defined.ndim))
    return jnp.isnan(x) & failed


@_gives_way.def_vmap
def _(size: int, mapped: Any, x: jax.Array, defined: jax.Array) -> tuple[jax.Array, bool]:
    """What all items share stays shared: an item of its own each would cost as much memory as all."""
    if not mapped[0]:
        return jnp.zeros(x.shape, bool), False
    if not mapped[1]:
        defined = jnp.broadcast_to(defined, (size, *defined.shape))
    return _gives_way(x, defined), True


def _largest(x: jax.Array) -> jax.Array:
    return jnp.max(jnp.abs(x), initial=0.0)


def _require_root(known: Any, residual: Any, scale: Any) -> None:
    if not known:
        raise NotARootError(
            f"‖optimality_fun(sol, *args)‖ = {float(residual):.3g} at the point that the solver returned, "
            f"against terms of size {float(scale):.3g}. Let the solver run longer, check that optimality_fun "
            "belongs to this solver, or refine the point with cx.polish."
        )


def _require_invertible(apply_jacobian: Any, sol: Any, solve: Callable[..., jax.Array]) -> None:
    """No singular system can be solved for a probe; the user's own right-hand side might hide it."""
    if bool(jnp.any(jnp.isnan(solve(apply_jacobian, probe_like(sol))))):
        raise SingularError(
            "∂F/∂sol is singular to working precision (or, beyond 300 unknowns, too ill-conditioned for a "
            "matrix-free method), so the solution has no derivative here. Run cx.check for the kinks and "
            'the null vector; pass singular="least_norm", or solve=lineax.LU() for an ill-conditioned one.'
        )
