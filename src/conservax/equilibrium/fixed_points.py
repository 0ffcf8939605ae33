"""z = T(z) for any map T: iteration, Anderson's acceleration and Broyden's method, with one status."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..numerics import machine_epsilon
from ..solution import Status
from .splitting import extrapolate, length

SOLVERS = ("fixed_point", "anderson", "broyden")


class Residuals(NamedTuple):
    """iterations, and residual: ‖z − T(z)‖."""

    iterations: jax.Array
    residual: jax.Array


class _State(NamedTuple):
    turn: jax.Array
    point: jax.Array
    image: jax.Array
    step: jax.Array  # T(z) − z
    residual: jax.Array
    first: jax.Array  # history of the method
    second: jax.Array


def find(
    map_: Callable[[jax.Array], jax.Array],
    start: jax.Array,
    solver: str,
    memory: int,
    tol: float | None,
    max_steps: int,
) -> tuple[jax.Array, jax.Array, Residuals]:
    """(z, status, residuals) with ‖z − T(z)‖ ≤ tol max(‖T(z)‖, ‖T(start)‖); z is NaN if not found."""
    dtype = start.dtype
    small = machine_epsilon(dtype) ** 0.8 if tol is None else tol

    def enough(state: _State) -> jax.Array:
        close = state.residual <= small * jnp.maximum(size(state.image), size(first))
        return close & jnp.isfinite(state.residual)

    def going(state: _State) -> jax.Array:
        return ~enough(state) & jnp.isfinite(state.residual) & (state.turn < max_steps)

    def body(state: _State) -> _State:
        point = _next(solver, state)
        image = map_(point)
        step = image - point
        one, two = _remember(solver, state, point, image, step)
        return _State(state.turn + 1, point, image, step, size(step), one, two)

    first = map_(start)
    size = _measure(first)
    history = jnp.zeros((memory if solver != "fixed_point" else 0, *start.shape), dtype)
    gap = first - start
    state = _State(jnp.ones((), jnp.int32), start, first, gap, size(gap), history, history)
    state = jax.lax.while_loop(going, body, state)
    ended = jnp.where(jnp.isfinite(state.residual), Status.MAX_ITERATIONS, Status.DIVERGED)
    status = jnp.where(enough(state), Status.SOLVED, ended).astype(jnp.int8)
    z = jnp.where(status == Status.SOLVED, state.image, jnp.nan)
    return z, status, Residuals(state.turn, state.residual)


def judged(
    map_: Callable[[jax.Array], jax.Array], start: jax.Array, z: jax.Array, tol: float | None
) -> tuple[jax.Array, jax.Array]:
    """(status, ‖z − T(z)‖) of a z that all the iterations led to, by the measure of ``find``."""
    z = jax.lax.stop_gradient(z)
    small = machine_epsilon(z.dtype) ** 0.8 if tol is None else tol
    image = map_(z)
    first = map_(start)
    size = _measure(first)
    residual = size(z - image)
    close = residual <= small * jnp.maximum(size(image), size(first))
    close = close & jnp.isfinite(residual)
    ended = jnp.where(jnp.isfinite(residual), Status.MAX_ITERATIONS, Status.DIVERGED)
    return jnp.where(close, Status.SOLVED, ended).astype(jnp.int8), residual


def _measure(first: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """‖t‖₂ for t of about this size, whose squares may leave the precision."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(first), initial=0))
    unit = jnp.maximum(largest, jnp.finfo(first.dtype).tiny)
    return lambda t: length(t, unit)


def _next(solver: str, state: _State) -> jax.Array:
    """Where the method evaluates T next."""
    if solver == "anderson":
        return extrapolate(state.image, state.step, state.first, state.second)
    if solver == "broyden":  # z + H(T(z) − z), H = I + Σ u vᵀ
        return state.point + _apply(state.step, state.first, state.second)
    return state.image


def _apply(t: jax.Array, u: jax.Array, v: jax.Array) -> jax.Array:
    weights = jnp.sum(v * t, axis=tuple(range(1, v.ndim)))
    return t + jnp.tensordot(weights, u, 1)


def _remember(
    solver: str,
    state: _State,
    point: jax.Array,
    image: jax.Array,
    step: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The history with this evaluation in it: differences, or the u and v of Broyden's good update."""
    one, two = state.first, state.second
    if solver == "fixed_point":
        return one, two
    if solver == "anderson":
        ring = (state.turn - 1) % len(one)
        return one.at[ring].set(image - state.image), two.at[ring].set(step - state.step)
    moved, change = point - state.point, state.step - step  # Δz, ΔF for F = z − T(z)
    image_of_change = _apply(change, one, two)
    transposed = _apply(moved, two, one)
    pivot = jnp.sum(moved * image_of_change)
    safe = jnp.abs(pivot) > 1e-12 * length(moved) * length(image_of_change)
    u = jnp.where(safe, (moved - image_of_change) / jnp.where(safe, pivot, 1), 0)
    place = (state.turn - 1) % len(one)
    full = (state.turn > 1) & (place == 0)  # begin anew
    one, two = jnp.where(full, 0, one), jnp.where(full, 0, two)
    return one.at[place].set(u), two.at[place].set(jnp.where(full, moved, transposed))
