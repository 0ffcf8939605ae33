"""Operator splitting for t = σ(M t + r), with I − sym(M) ≽ m I and σ = prox_f.

Both passes of a monotone equilibrium are such an equation: forwards with σ the activation, M = W and
r = Ux + b; backwards with σ = J its Jacobian, M = Wᵀ and r the cotangent.

    forward–backward    t⁺ = prox_{αf}(t − α((I − M)t − r))
    Peaceman–Rachford   t = prox_{αf}(u),  h = 2t − u,  t̂ = (I + α(I − M))⁻¹(h + αr),  u⁺ = 2t̂ − h

Peaceman–Rachford converges for every α > 0, forward–backward for α < 2m/L², L = ‖I − M‖, and often
for much larger ones.

Source: Winston, Kolter, Monotone operator equilibrium networks (NeurIPS 2020), Section 4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from ..numerics import machine_epsilon
from ..solution import Status

_PATIENCE = 100  # iterations without progress after which round-off is to blame
_TRIAL = 10  # iterations without progress after which a step that is not known to be safe is halved
Map = Callable[[jax.Array], jax.Array]


class Settings(eqx.Module):
    """How a splitting iterates.

    ``memory`` is how many differences Anderson's acceleration keeps (0: none); ``tol`` bounds the
    relative error (None: eps^0.8 of the dtype).
    """

    method: str = eqx.field(static=True)
    memory: int = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)
    tol: float | None = eqx.field(static=True)

    def tolerance(self, dtype: Any) -> float:
        return machine_epsilon(dtype) ** 0.8 if self.tol is None else self.tol


class Equation(NamedTuple):
    """t = σ(M t + r) as the maps a splitting applies; ``norm`` estimates ‖M‖, ``m`` is its monotonicity.

    ``sigma`` is σ, ``prox(u, α)`` is prox_{αf}(u), ``multiply`` is M, ``resolvent`` is (I + α(I − M))⁻¹
    (None for forward–backward, whose α falls from ``alpha`` to ``safe`` as long as it does not converge).
    """

    sigma: Map
    prox: Callable[[jax.Array, jax.Array], jax.Array]
    multiply: Map
    resolvent: Map | None
    r: jax.Array
    alpha: jax.Array
    safe: jax.Array
    m: float
    norm: jax.Array


class Found(NamedTuple):
    """What a splitting found: the point, a bound on its distance to the solution, steps, status."""

    value: jax.Array
    error: jax.Array
    iterations: jax.Array
    status: jax.Array


class _State(NamedTuple):
    turn: jax.Array
    point: jax.Array  # u of Peaceman–Rachford, t of forward–backward
    plain: jax.Array  # the last image, before extrapolation
    step: jax.Array  # the last image less its point
    points: jax.Array  # differences of the last images
    steps: jax.Array  # differences of the last steps
    value: jax.Array  # σ(M t + r)
    error: jax.Array
    best: jax.Array  # the least error so far
    since: jax.Array  # iterations since it fell
    alpha: jax.Array


def length(t: jax.Array) -> jax.Array:
    """‖t‖₂ of an array of any shape."""
    return jnp.sqrt(jnp.sum(t * t))


def closeness(
    equation: Equation, settings: Settings
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Of a value and its error: whether the error is small against the solution."""
    dtype = equation.r.dtype
    size = length(equation.r) / (1 + equation.norm)
    # round-off leaves the preactivation this uncertain, and the solution ‖M‖/m times as much
    floor = 4 * machine_epsilon(dtype) * (1 + equation.norm / equation.m)
    tol = jnp.maximum(settings.tolerance(dtype), floor)

    def close(value: jax.Array, error: jax.Array) -> jax.Array:
        scale = jnp.maximum(length(value), size)
        return (error <= tol * scale) & jnp.isfinite(scale)

    return close


def judged(equation: Equation, settings: Settings, value: jax.Array, error: jax.Array) -> jax.Array:
    """The status of a value that all the iterations led to."""
    ended = jnp.where(jnp.isfinite(error), Status.MAX_ITERATIONS, Status.DIVERGED)
    close = closeness(equation, settings)(value, error)
    return jax.lax.stop_gradient(jnp.where(close, Status.SOLVED, ended).astype(jnp.int8))


def solve(equation: Equation, start: jax.Array | None, settings: Settings) -> Found:
    """Iterate until ‖M‖‖t − σ(M t + r)‖/m, which bounds the error, is small against the solution.

    ``start`` is a guess of t. The status is SOLVED, STALLED (round-off is
    in the way), MAX_ITERATIONS or DIVERGED.
    """
    r, dtype = equation.r, equation.r.dtype
    ratio = equation.norm / equation.m
    close = closeness(equation, settings)
    image = peaceman_rachford if settings.method == "peaceman_rachford" else forward_backward

    def enough(state: _State) -> jax.Array:
        return close(state.value, state.error)

    def going(state: _State) -> jax.Array:
        moves = jnp.isfinite(state.error) & (state.since < _PATIENCE)
        return ~enough(state) & moves & (state.turn < settings.max_steps)

    def advance(state: _State) -> _State:
        new, value, gap = image(equation, state.point, state.alpha)
        step = new - state.point
        error = ratio * gap
        since = jnp.where(error < state.best, 0, state.since + 1)
        # what made things worse is taken back: an extrapolation, or a step too long to be safe
        bad = (state.turn > 0) & (error > 4 * state.best)
        shorter = (bad | (since >= _TRIAL)) & (state.alpha > equation.safe)
        alpha = jnp.where(shorter, jnp.maximum(state.alpha / 2, equation.safe), state.alpha)
        points, steps, point = state.points, state.steps, new
        if settings.memory:
            fresh = (state.turn == 0) | bad | shorter
            points = jnp.roll(points, 1, axis=0).at[0].set(new - state.plain)
            steps = jnp.roll(steps, 1, axis=0).at[0].set(step - state.step)
            points, steps = jnp.where(fresh, 0, points), jnp.where(fresh, 0, steps)
            point = jnp.where(bad, state.plain, extrapolate(new, step, points, steps))
        plain = jnp.where(bad, state.plain, new)
        return _State(
            state.turn + 1, point, plain, step, points, steps, value, error,
            jnp.minimum(error, state.best), jnp.where(shorter, 0, since), alpha,
        )  # fmt: skip

    zero = jnp.zeros_like(r)
    if start is None:
        start, point = zero, zero
    elif settings.method == "peaceman_rachford":
        point = start + equation.alpha * (equation.multiply(start) + r - start)
    else:
        point = start
    history = jnp.zeros((settings.memory, *r.shape), dtype)
    none = jnp.zeros((), jnp.int32)
    infinite = jnp.full((), jnp.finfo(dtype).max, dtype)
    state = _State(
        none, point, point, zero, history, history, start, infinite, infinite, none, equation.alpha
    )
    state = jax.lax.while_loop(going, advance, state)
    stalled = jnp.where(state.since < _PATIENCE, Status.MAX_ITERATIONS, Status.STALLED)
    ended = jnp.where(jnp.isfinite(state.error), stalled, Status.DIVERGED)
    status = jnp.where(enough(state), Status.SOLVED, ended).astype(jnp.int8)
    return Found(state.value, state.error, state.turn, status)


def peaceman_rachford(
    equation: Equation, u: jax.Array, alpha: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """u⁺, t̃ = σ(M t̂ + r) and ‖t̂ − t̃‖, where M t̂ costs nothing: (I − M) t̂ = (h + αr − t̂)/α."""
    assert equation.resolvent is not None
    t = equation.prox(u, alpha)
    h = 2 * t - u
    hat = equation.resolvent(h + alpha * equation.r)
    value = equation.sigma(hat + (hat - h) / alpha)
    return 2 * hat - h, value, length(hat - value)


def forward_backward(
    equation: Equation, t: jax.Array, alpha: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """t⁺, t̃ = σ(M t + r) and ‖t − t̃‖."""
    before = equation.multiply(t) + equation.r
    value = equation.sigma(before)
    new = equation.prox(t + alpha * (before - t), alpha)
    return new, value, length(t - value)


def extrapolate(new: jax.Array, step: jax.Array, points: jax.Array, steps: jax.Array) -> jax.Array:
    """Anderson's acceleration: the affine combination of the last images with the least step.

    Differences that vanish, or repeat each other, take no part. Written out for one and two, for a
    batch of small systems costs more than an iteration.

    Source: Walker, Ni, Anderson acceleration for fixed-point iterations (2011).
    """
    axes = tuple(range(1, points.ndim))
    d = steps[0]
    dd, df = jnp.sum(d * d), jnp.sum(d * step)
    one = jnp.where(dd > 0, df / jnp.where(dd > 0, dd, 1), 0)
    if len(points) == 1:
        return new - one * points[0]
    if len(points) == 2:
        e = steps[1]
        ee, ef, de = jnp.sum(e * e), jnp.sum(e * step), jnp.sum(d * e)
        determinant = dd * ee - de * de
        apart = determinant > 1e-4 * dd * ee
        safe = jnp.where(apart, determinant, 1)
        first = jnp.where(apart, (ee * df - de * ef) / safe, one)
        second = jnp.where(apart, (dd * ef - de * df) / safe, 0)
        return new - first * points[0] - second * points[1]
    gram = jnp.tensordot(steps, steps, (axes, axes))
    right = jnp.tensordot(steps, step, (axes, tuple(range(step.ndim))))
    size = jnp.trace(gram)
    damped = gram + (10 * jnp.finfo(gram.dtype).eps * size + (size == 0)) * jnp.eye(
        len(gram), dtype=gram.dtype
    )
    return new - jnp.tensordot(jnp.linalg.solve(damped, right), points, 1)
