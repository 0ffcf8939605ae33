"""Run an algorithm to a tolerance or for a number of steps: loops, status, error estimates."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from ..numerics import machine_epsilon
from ..solution import Status

if TYPE_CHECKING:
    from .contract import Algorithm

_GROWTH = 1e8  # steps that have grown by so much mean that the iteration diverges


class Run(NamedTuple):
    """Where a run ended: its point, how, after how many steps, the last change and the rate met."""

    point: Any
    status: jax.Array
    steps: jax.Array
    change: jax.Array
    rate: jax.Array


class Stats(NamedTuple):
    """What a run took and how far it may be from its limit.

    ``steps`` taken; ``residual``: the sup norm of the last change of the state; ``rate``: the ratio ρ
    of the last two changes. ``iterate_error`` estimates ‖x_t − x*‖ by ρ/(1 − ρ) times the last change,
    ``derivative_error`` ‖(J_t − J*)δ‖ by the change of one more step over 1 − ρ, in one direction δ of
    θ. Both are estimates of linear convergence: infinite where ρ ≥ 1.
    """

    steps: jax.Array
    residual: jax.Array
    rate: jax.Array
    iterate_error: jax.Array
    derivative_error: jax.Array


def moving(state: Any) -> list[jax.Array]:
    """The floating-point leaves of a state: counters do not count."""
    return [x for x in jax.tree.leaves(state) if jnp.issubdtype(jnp.result_type(x), jnp.floating)]


def sup(leaves: list[jax.Array]) -> jax.Array:
    """The largest magnitude of all entries."""
    parts = [jnp.max(jnp.abs(x), initial=0.0) for x in leaves]
    return jnp.max(jnp.stack(parts)) if parts else jnp.zeros(())


def change(before: Any, after: Any) -> jax.Array:
    """The sup norm of the difference of two states."""
    return sup([b - a for a, b in zip(moving(before), moving(after), strict=True)])


def reachable(tol: Any, state: Any) -> jax.Array:
    """The tolerance, or what round-off of the state's dtype allows."""
    dtype = jnp.result_type(*moving(state))
    return jnp.maximum(jnp.asarray(tol, dtype), 8 * machine_epsilon(dtype))


def iterate(alg: Algorithm, state: Any, theta: Any, tol: Any, max_steps: int) -> Run:
    """Step until ‖s⁺ − s‖_∞ ≤ tol · max(1, ‖s‖_∞), the limit of steps, or divergence.

    A run diverges when a state is no number, or a change is 10⁸ times the first.
    """
    tol = reachable(tol, state)
    dtype = tol.dtype
    state = jax.tree.map(jnp.asarray, state)

    def unfinished(carry: Any) -> jax.Array:
        return carry[-1] == -1

    def body(carry: Any) -> Any:
        state, steps, last, first, _, _ = carry
        after = alg.step(state, theta)
        moved = change(state, after).astype(dtype)
        first = jnp.where(steps == 0, moved, first)
        done = moved <= tol * jnp.maximum(1.0, sup(moving(after)).astype(dtype))
        broken = ~jnp.isfinite(moved) | (moved > _GROWTH * jnp.maximum(first, 1.0))
        rate = jnp.where(last > 0, moved / last, jnp.where(moved > 0, jnp.inf, 0.0))
        status = jnp.where(
            broken,
            Status.DIVERGED,
            jnp.where(
                done,
                Status.SOLVED,
                jnp.where(steps + 1 >= max_steps, Status.MAX_ITERATIONS, -1),
            ),
        ).astype(jnp.int8)
        return after, steps + 1, moved, first, rate.astype(dtype), status

    zero = jnp.zeros((), dtype)
    start = state, jnp.zeros((), jnp.int32), zero, zero, zero, jnp.full((), -1, jnp.int8)
    state, steps, moved, _, rate, status = jax.lax.while_loop(unfinished, body, start)
    return Run(alg.point(state), status, steps, moved, rate)


def repeat(step: Callable[[Any], Any], state: Any, steps: int) -> Any:
    """``steps`` applications of a function; reverse mode keeps 2√steps states, not all of them.

    The outer loop saves a state every √steps and runs each segment again on the way back.
    """

    def one(carry: Any, _: None) -> tuple[Any, None]:
        return step(carry), None

    if steps <= 32:
        return jax.lax.scan(one, state, None, length=steps)[0]
    length = math.isqrt(steps)

    @jax.checkpoint
    def segment(carry: Any, _: None) -> tuple[Any, None]:
        return jax.lax.scan(jax.checkpoint(one), carry, None, length=length)[0], None

    state = jax.lax.scan(segment, state, None, length=steps // length)[0]
    rest = steps % length
    return jax.lax.scan(jax.checkpoint(one), state, None, length=rest)[0] if rest else state


def frozen(fun: Callable[..., Any], *args: Any) -> Any:
    """``fun(*args)`` without a derivative, in what it closes over either."""
    args = jax.tree.map(jnp.asarray, args)
    converted, consts = jax.closure_convert(fun, *args)
    return converted(*jax.lax.stop_gradient(args), *jax.lax.stop_gradient(consts))
