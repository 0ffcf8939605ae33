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

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from ..numerics import machine_epsilon
from ..solution import Status

_PATIENCE = 100  # iterations without progress after which round-off is to blame
_RUNNING = -1  # no status yet
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

    def unit(self) -> jax.Array:
        """The largest entry of r and σ(r): measured in it, squares neither vanish nor overflow."""
        largest = jnp.maximum(jnp.max(jnp.abs(self.r)), jnp.max(jnp.abs(self.sigma(self.r))))
        return jnp.maximum(jax.lax.stop_gradient(largest), jnp.finfo(self.r.dtype).tiny)


class Found(NamedTuple):
    """What a splitting found: the point, a bound on its distance to the solution, steps, status."""

    value: jax.Array
    error: jax.Array
    iterations: jax.Array
    status: jax.Array


class _Memory(NamedTuple):
    """What Anderson's acceleration knows; after an image that was taken back, still what was before."""

    plain: jax.Array  # the last image, before extrapolation
    step: jax.Array  # it less its point, in units
    points: tuple[jax.Array, ...]  # differences of earlier images
    steps: tuple[jax.Array, ...]  # differences of their steps


class _State(NamedTuple):
    turn: jax.Array
    status: jax.Array  # _RUNNING until it is decided
    point: jax.Array  # u of Peaceman–Rachford, t of forward–backward
    value: jax.Array  # σ(M t + r)
    error: jax.Array
    best: jax.Array  # the least error so far
    since: jax.Array  # iterations since it fell
    alpha: jax.Array | None  # None: it stays what it was
    memory: _Memory | None


def length(t: jax.Array, unit: Any = None) -> jax.Array:
    """‖t‖₂ of an array of any shape, measured in a unit if one is given."""
    if unit is None:
        return jnp.sqrt(jnp.sum(t * t))
    t = t * (1 / unit)
    return unit * jnp.sqrt(jnp.sum(t * t))


def closeness(
    equation: Equation, settings: Settings, unit: jax.Array
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Of a value and its error: whether the error is small against the solution."""
    dtype = equation.r.dtype
    size = length(equation.r, unit) / (1 + equation.norm)
    # round-off leaves the preactivation this uncertain, and the solution ‖M‖/m times as much
    floor = 4 * machine_epsilon(dtype) * (1 + equation.norm / equation.m)
    tol = jnp.maximum(settings.tolerance(dtype), floor)

    def close(value: jax.Array, error: jax.Array) -> jax.Array:
        scale = jnp.maximum(length(value, unit), size)
        return (error <= tol * scale) & jnp.isfinite(scale)

    return close


def judged(equation: Equation, settings: Settings, value: jax.Array, error: jax.Array) -> jax.Array:
    """The status of a value that all the iterations led to."""
    ended = jnp.where(jnp.isfinite(error), Status.MAX_ITERATIONS, Status.DIVERGED)
    close = closeness(equation, settings, equation.unit())(value, error)
    return jax.lax.stop_gradient(jnp.where(close, Status.SOLVED, ended).astype(jnp.int8))


def solve(equation: Equation, start: jax.Array | None, settings: Settings) -> Found:
    """Iterate until ‖M‖‖t − σ(M t + r)‖/m, which bounds the error, is small against the solution.

    ``start`` is a guess of t. The status is SOLVED, STALLED (round-off is
    in the way), MAX_ITERATIONS or DIVERGED.
    """
    r, dtype = equation.r, equation.r.dtype
    ratio = equation.norm / equation.m
    unit = equation.unit()
    close = closeness(equation, settings, unit)
    peaceman = settings.method == "peaceman_rachford"
    image = peaceman_rachford if peaceman else forward_backward

    def advance(state: _State) -> _State:
        alpha = equation.alpha if state.alpha is None else state.alpha
        new, value, gap = image(equation, state.point, alpha)
        error = ratio * length(gap, unit)
        since = jnp.where(error < state.best, 0, state.since + 1)
        # what made things worse is taken back: an extrapolation, or a step too long to be safe
        bad = error > 4 * state.best
        fresh = bad | (state.turn == 0)
        if state.alpha is not None:
            shorter = (bad | (since >= _TRIAL)) & (state.alpha > equation.safe)
            alpha = jnp.where(shorter, jnp.maximum(alpha / 2, equation.safe), alpha)
            since, fresh = jnp.where(shorter, 0, since), fresh | shorter
        point, memory = new, state.memory
        if memory is not None:
            step = (new - state.point) / unit
            point, memory = _accelerated(memory, new, step, bad, fresh)
        turn = state.turn + 1
        ended = jnp.where(since < _PATIENCE, _RUNNING, Status.STALLED)
        ended = jnp.where(turn < settings.max_steps, ended, Status.MAX_ITERATIONS)
        ended = jnp.where(jnp.isfinite(error), ended, Status.DIVERGED)
        status = jnp.where(close(value, error), Status.SOLVED, ended).astype(jnp.int8)
        best = jnp.minimum(error, state.best)
        return _State(
            turn, status, point, value, error, best, since,
            None if state.alpha is None else alpha, memory,
        )  # fmt: skip

    zero = jnp.zeros_like(r)
    start = zero if start is None else start
    point = start
    if peaceman and start is not zero:
        point = start + equation.alpha * (equation.multiply(start) + r - start)
    earlier = (zero,) * (settings.memory - 1)
    none, infinite = jnp.zeros((), jnp.int32), jnp.full((), jnp.inf, dtype)
    # the decision is part of the state, so that a batch works it out once an iteration
    state = jax.lax.while_loop(
        lambda state: state.status == _RUNNING,
        advance,
        _State(
            none, jnp.full((), _RUNNING, jnp.int8), point, start, infinite, infinite, none,
            None if peaceman else equation.alpha,
            _Memory(point, zero, earlier, earlier) if settings.memory else None,
        ),
    )  # fmt: skip
    return Found(state.value, state.error, state.turn, state.status)


def _accelerated(
    memory: _Memory, new: jax.Array, step: jax.Array, bad: jax.Array, fresh: jax.Array
) -> tuple[jax.Array, _Memory]:
    """Where to go from an image and its step; from the last image where this one is bad."""
    points = (new - memory.plain, *memory.points)
    steps = (step - memory.step, *memory.steps)
    steps = tuple(jnp.where(fresh, 0, d) for d in steps)  # one that vanishes takes no part
    point = jnp.where(bad, memory.plain, extrapolate(new, step, points, steps))
    plain = jnp.where(bad, memory.plain, new)
    return point, _Memory(plain, jnp.where(bad, memory.step, step), points[:-1], steps[:-1])


def peaceman_rachford(
    equation: Equation, u: jax.Array, alpha: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """u⁺, t̃ = σ(M t̂ + r) and t̂ − t̃, where M t̂ costs nothing: (I − M) t̂ = (h + αr − t̂)/α."""
    assert equation.resolvent is not None
    t = equation.prox(u, alpha)
    h = 2 * t - u
    hat = equation.resolvent(h + alpha * equation.r)
    value = equation.sigma(hat + (hat - h) / alpha)
    return 2 * hat - h, value, hat - value


def forward_backward(
    equation: Equation, t: jax.Array, alpha: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """t⁺, t̃ = σ(M t + r) and t − t̃."""
    before = equation.multiply(t) + equation.r
    value = equation.sigma(before)
    new = equation.prox(t + alpha * (before - t), alpha)
    return new, value, t - value


def extrapolate(
    new: jax.Array,
    step: jax.Array,
    points: Sequence[jax.Array] | jax.Array,
    steps: Sequence[jax.Array] | jax.Array,
) -> jax.Array:
    """Anderson's acceleration: the affine combination of the last images with the least step.

    Differences that vanish, or repeat each other, take no part. Written out for one and two, for a
    batch of small systems costs more than an iteration.

    Source: Walker, Ni, Anderson acceleration for fixed-point iterations (2011).
    """
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
    all_points, all_steps = jnp.asarray(points), jnp.asarray(steps)
    axes = tuple(range(1, all_steps.ndim))
    gram = jnp.tensordot(all_steps, all_steps, (axes, axes))
    right = jnp.tensordot(all_steps, step, (axes, tuple(range(step.ndim))))
    size = jnp.trace(gram)
    damped = gram + (10 * jnp.finfo(gram.dtype).eps * size + (size == 0)) * jnp.eye(
        len(gram), dtype=gram.dtype
    )
    return new - jnp.tensordot(jnp.linalg.solve(damped, right), all_points, 1)
