"""Adaptive integration of a field with kinks, each crossing located and stepped onto."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..numerics import machine_epsilon
from .pieces import Pieces, Sides
from .runge_kutta import Method

_SAFETY, _SHRINK, _GROW = 0.9, 0.2, 10.0
_SAMPLES = (0.0, 1 / 3, 2 / 3, 1.0)  # of each step, where increments are looked at
_CUBIC = np.linalg.inv(np.vander(_SAMPLES, increasing=True))  # values there → coefficients
_DIP = 0.05  # of a kink's range over the step: a predicted minimum below is looked at
_ROUNDING = 64.0  # units in the last place of its terms that an increment may be off
_JUMP = 1e-5  # relative: two pieces of the field that differ by more where they meet
_ROOT_STEPS = 60

SOLVED, MAX_STEPS, JUMPS, NOT_FINITE = 0, 1, 2, 3


class Mesh(NamedTuple):
    """The steps taken: ``count`` of them from t[k] to t[k + 1] on the piece q[k].

    ``saved``: the rows of the outputs.
    ``out`` are the states there; ``slot[k]`` is the kink whose crossing ends step k, −1 where none does.
    ``crossings`` counts changes of piece; ``code`` is SOLVED, MAX_STEPS, JUMPS or NOT_FINITE; ``kink`` the
    slot at which a jump was met.
    """

    t: jax.Array
    y: jax.Array
    q: jax.Array
    slot: jax.Array
    out: jax.Array
    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]
    saved: jax.Array
    crossings: jax.Array
    code: jax.Array
    kink: jax.Array


class Options(NamedTuple):
    """Tolerances of a step, its method, how many steps there may be, the weight of kinks that are stayed on."""

    method: Method
    rtol: float
    atol: float
    max_steps: int
    selection: str


class _State(NamedTuple):
    t: Any
    h: Any
    y: Any
    slope: Any  # f at (t, y) on the present piece
    q: Any
    on: Any  # kinks that the trajectory stays on
    landing: Any  # whether the next step ends on a located crossing
    target: Any  # its length
    flips: Any  # the kinks that are crossed there
    attempts: Any
    row: Any  # of the next output
    probe: Any  # a tangent of y, of size one at most; theta's share beside it
    mesh: Mesh


def integrate(
    pieces: Pieces,
    y0: jax.Array,
    times: jax.Array,
    theta: Any,
    options: Options,
    probed: bool = False,
) -> Mesh:
    """ẋ = f(t, x), x(times[0]) = y0, through ``times``: the mesh of the steps.

    ``probed``: the error of a sensitivity, along one direction in y0 and theta, is held to the
    tolerance, too, so that the mesh serves derivatives.
    """
    method, K = options.method, options.max_steps
    dtype = y0.dtype
    eps = machine_epsilon(dtype)
    end = times[-1]
    rows = times.size

    def f(q: Any, t: Any, y: Any) -> Any:
        return pieces(q, t, y, *theta)

    t0 = times[0]
    sign = jnp.where(end >= t0, 1.0, -1.0).astype(dtype)
    q, on = _first_piece(pieces, t0, y0, theta, sign, options.selection)
    slope = f(q, t0, y0)
    mesh = Mesh(
        jnp.zeros(K + 1, dtype).at[0].set(t0),
        jnp.zeros((K + 1, y0.size), dtype).at[0].set(y0),
        jnp.zeros((K, pieces.count), dtype),
        jnp.full(K, -1, jnp.int32),
        jnp.zeros((rows, y0.size), dtype),
        jnp.zeros((), jnp.int32),
        jnp.zeros(rows, jnp.int32),
        jnp.zeros((), jnp.int32),
        jnp.zeros((), jnp.int32),
        jnp.zeros((), jnp.int32),
    )
    state = _State(
        t0, _first_step(f, q, t0, y0, slope, end, options), y0, slope, q, on,
        jnp.array(False), jnp.zeros((), dtype), jnp.zeros(pieces.count, bool),
        jnp.zeros((), jnp.int32), jnp.ones((), jnp.int32),
        (_signs(y0), jnp.ones((), dtype)) if probed else (), mesh,
    )  # fmt: skip
    moved = [jnp.issubdtype(a.dtype, jnp.floating) for a in theta]
    turned = [_signs(a) for a, m in zip(theta, moved, strict=True) if m]

    def tangent_of_step(s: _State, h: Any, step: Any) -> tuple[Any, Any]:
        """The probe after the step and its error, relative to its size."""
        u, w = s.probe

        def phi(y: Any, *some: Any) -> Any:
            rest = iter(some)
            full = [next(rest) if m else a for a, m in zip(theta, moved, strict=True)]

            def g(t: Any, y: Any) -> Any:
                return pieces(s.q, t, y, *full)

            found = method.step(g, s.t, h, y, g(s.t, y))
            return found.y, found.error

        some = [a for a, m in zip(theta, moved, strict=True) if m]
        _, (u, error) = jax.jvp(phi, (s.y, *some), (u, *[w * d for d in turned]))
        size = jnp.maximum(
            jnp.max(jnp.abs(u), initial=0.0), jnp.max(jnp.abs(s.probe[0]), initial=0.0)
        )
        size = jnp.maximum(size, w)
        u, w = u / size, w / size  # only its direction matters, and it must not overflow
        error = jnp.sqrt(jnp.mean(error**2)) / size
        return (u, w), error / (options.rtol + options.atol)

    def advance(s: _State) -> _State:
        left = times[jnp.minimum(s.row, rows - 1)] - s.t
        wanted = jnp.where(s.landing, s.target, s.h)
        arrives = jnp.abs(wanted) >= jnp.abs(left) * (1 - 1e-10)
        h = jnp.where(arrives, left, wanted)
        step = method.step(lambda t, y: f(s.q, t, y), s.t, h, s.y, s.slope)
        scale = options.atol + options.rtol * jnp.maximum(jnp.abs(s.y), jnp.abs(step.y))
        error = jnp.sqrt(jnp.mean((step.error / scale) ** 2))
        probe = s.probe
        if probed:
            probe, off = tangent_of_step(s, h, step)
            error = jnp.maximum(error, off)
        fine = error <= 1.0
        factor = _SAFETY * jnp.where(error > 0, error, 1e-30) ** (-1 / method.order)
        factor = jnp.clip(jnp.where(jnp.isfinite(factor), factor, _SHRINK), _SHRINK, _GROW)
        factor = jnp.where(fine, jnp.maximum(factor, 1.0), jnp.minimum(factor, _SAFETY))
        curve = method.interpolant(s.t, h, s.y, step)

        def margins(u: Any) -> Any:
            sides = pieces.increments(s.q, s.t + u * h, curve(u), *theta)
            return _margins(sides, s.on, eps)

        crosses, length, flips = jnp.array(False), s.target, s.flips
        if pieces.count:
            at = jnp.asarray(_SAMPLES, dtype)
            samples = jax.vmap(margins)(at)
            dip, low = _lowest(samples)
            worst = jnp.min(samples[1:], axis=1)
            # a dip between the samples, there and back: looked at where a cubic through them has it
            at, worst = lax.cond(
                low < 0,
                lambda: _inserted(at[1:], worst, dip, jnp.min(margins(dip))),
                lambda: _inserted(at[1:], worst, at[-1], worst[-1]),
            )
            first = jnp.argmax(worst < 0)
            crosses = fine & jnp.any(worst < 0) & ~s.landing

            def locate() -> Any:
                before = jnp.concatenate([jnp.zeros(1, dtype), at])[first]
                u = _first_negative(lambda u: jnp.min(margins(u)), before, at[first], worst[first])
                return u * h, margins(u) < 0

            length, flips = lax.cond(crosses, locate, lambda: (s.target, s.flips))
        # a crossing that is here already: change the piece without a step
        here = crosses & (jnp.abs(length) <= 4 * eps * jnp.maximum(jnp.abs(s.t), jnp.abs(left)))
        accepted = fine & ~crosses
        lands = (accepted & s.landing) | here
        t = jnp.where(
            accepted, jnp.where(arrives, times[jnp.minimum(s.row, rows - 1)], s.t + h), s.t
        )
        y = jnp.where(accepted, step.y, s.y)
        changed = jnp.where(here, flips, s.flips)
        q, on, code, kink, slope = s.q, s.on, s.mesh.code, s.mesh.kink, s.slope
        if pieces.count:

            def cross() -> Any:
                q_new, on_new = _crossed(pieces, s.q, s.on, changed, t, y, theta)
                old, new = f(s.q, t, y), f(q_new, t, y)
                apart = jnp.max(jnp.abs(new - old), initial=0.0)
                size = 1e-6 + jnp.max(jnp.abs(old), initial=0.0)
                jumps = apart > _JUMP * size
                return (
                    q_new,
                    on_new,
                    jnp.where(jumps, JUMPS, code),
                    jnp.argmax(changed).astype(kink.dtype),
                    new,
                )

            def stay() -> Any:
                new = step.last if step.last is not None else f(s.q, t, y)
                return s.q, s.on, code, kink, jnp.where(accepted, new, s.slope)

            q, on, code, kink, slope = lax.cond(lands, cross, stay)
        else:
            new = step.last if step.last is not None else f(s.q, t, y)
            slope = jnp.where(accepted, new, s.slope)
        k = s.mesh.count
        count = k + accepted
        saves = accepted & arrives
        finite = jnp.all(jnp.isfinite(slope)) & jnp.isfinite(h)
        stuck = jnp.abs(s.h) <= 4 * eps * jnp.maximum(jnp.abs(s.t), eps)
        code = jnp.where((code == SOLVED) & (~finite | stuck), NOT_FINITE, code)
        done = s.row + saves >= rows
        attempts = s.attempts + 1
        over = ((count >= K) | (attempts >= 4 * K)) & ~done
        code = jnp.where((code == SOLVED) & over, MAX_STEPS, code)
        spot = jnp.where(accepted, k + 1, K + 1)  # beyond the end: dropped
        mesh = Mesh(
            s.mesh.t.at[spot].set(t, mode="drop"),
            s.mesh.y.at[spot].set(y, mode="drop"),
            s.mesh.q.at[jnp.where(accepted, k, K)].set(s.q, mode="drop"),
            s.mesh.slot.at[jnp.where(accepted & s.landing & ~arrives, k, K)].set(
                jnp.argmax(s.flips).astype(jnp.int32) if pieces.count else -1, mode="drop"
            ),
            s.mesh.out,
            count,
            s.mesh.saved.at[jnp.where(saves, s.row, rows)].set(count, mode="drop"),
            s.mesh.crossings + lands,
            code,
            kink,
        )
        # a step cut short by an output or a crossing says little about the length of the next
        grown = jnp.where(
            accepted & (arrives | s.landing),
            jnp.maximum(jnp.abs(s.h), jnp.abs(h * factor)),
            jnp.abs(h * factor),
        )
        next_h = jnp.where(crosses, s.h, sign * grown)
        return _State(
            t, next_h, y, slope, q, on, crosses & ~here, length, flips, attempts,
            s.row + saves,
            jax.tree.map(lambda new, old: jnp.where(accepted, new, old), probe, s.probe), mesh,
        )  # fmt: skip

    final = lax.while_loop(lambda s: (s.row < rows) & (s.mesh.code == SOLVED), advance, state)
    return final.mesh._replace(out=final.mesh.y[final.mesh.saved])


def _margins(sides: Sides, on: Any, eps: float) -> Any:
    """How far each kink is from leaving its side: negative once it has."""
    slack = _ROUNDING * eps * sides.size
    outward = jnp.where(sides.grouped, -sides.z, (2 * sides.q - 1) * sides.z)
    outward = jnp.where(sides.grouped & (sides.q > 0), 0.0, outward)
    margin = jnp.where(on, -jnp.abs(sides.z), outward) + slack
    return jnp.where(slack + jnp.abs(sides.z) == 0, jnp.inf, margin)


def _signs(a: Any) -> Any:
    """±1 in an order that no structure of the problem has."""
    i = np.arange(a.size)
    return jnp.asarray(1.0 - 2.0 * (np.sin(i * i + 1.0) > 0), a.dtype).reshape(a.shape)


def _lowest(samples: Any) -> tuple[Any, Any]:
    """Where in the step the cubics through the margins (4, k) dip lowest, and how low.

    Negative where the minimum is below a share of the range: a dip worth a look.
    """
    samples = jnp.where(jnp.isfinite(samples), samples, 1.0)
    _, b, c, d = jnp.asarray(_CUBIC, samples.dtype) @ samples
    root = jnp.sqrt(jnp.maximum(c**2 - 3 * b * d, 0.0))
    # the minimum of a + bu + cu² + du³, in the form that does not cancel
    below = jnp.where(c >= 0, c + root, root - c)
    u = jnp.where(c >= 0, -b / jnp.where(below > 0, below, 1), below / jnp.where(d == 0, 1, 3 * d))
    inside = (below > 0) & (u > 0) & (u < 1) & (c**2 > 3 * b * d)
    value = (jnp.vander(u, 4, increasing=True) * (jnp.asarray(_CUBIC, u.dtype) @ samples).T).sum(1)
    spread = jnp.max(samples, axis=0) - jnp.min(samples, axis=0)
    low = jnp.where(inside, value - _DIP * spread, jnp.inf)
    lowest = jnp.argmin(low)
    return u[lowest], low[lowest]


def _inserted(at: Any, worst: Any, u: Any, value: Any) -> tuple[Any, Any]:
    at, worst = jnp.append(at, u), jnp.append(worst, value)
    order = jnp.argsort(at)
    return at[order], worst[order]


def _first_piece(
    pieces: Pieces, t: Any, y: Any, theta: Any, sign: Any, selection: str
) -> tuple[Any, Any]:
    """The piece that the trajectory enters, and the kinks that it seems to stay on."""
    if not pieces.count:
        return jnp.zeros(0, y.dtype), jnp.zeros(0, bool)
    sides = pieces.sides(t, y, *theta)
    eps = machine_epsilon(y.dtype)
    near = jnp.abs(sides.z) <= _ROUNDING * eps * sides.size
    near &= ~sides.grouped
    q = sides.q
    slope = pieces(q, t, y, *theta)
    ahead = jax.jvp(
        lambda t, y: pieces.increments(q, t, y, *theta).z,
        (t, y),
        (sign * jnp.ones_like(t), sign * slope),
    )[1]
    moves = jnp.abs(ahead) > jnp.sqrt(eps) * (sides.size + jnp.max(jnp.abs(slope), initial=0.0))
    chosen = {"lower": jnp.zeros_like(q), "upper": jnp.ones_like(q)}.get(selection, sides.tie)
    q = jnp.where(near, jnp.where(moves, (ahead > 0).astype(q.dtype), chosen), q)
    return q, near & ~moves


def _crossed(
    pieces: Pieces, q: Any, on: Any, flips: Any, t: Any, y: Any, theta: Any
) -> tuple[Any, Any]:
    """The piece beyond a crossing: scalar kinks change sides, a maximum asks for its leader."""
    now = pieces.increments(q, t, y, *theta)
    natural = pieces.sides(t, y, *theta)
    scalar = jnp.where(on, (now.z > 0).astype(q.dtype), 1 - q)
    return (
        jnp.where(now.grouped, natural.q, jnp.where(flips, scalar, q)),
        on & ~flips,
    )


def _first_step(
    f: Callable[..., Any], q: Any, t: Any, y: Any, slope: Any, end: Any, options: Options
) -> Any:
    """Hairer, Nørsett, Wanner, Solving Ordinary Differential Equations I, II.4, without its second slope."""
    scale = options.atol + options.rtol * jnp.abs(y)
    size, speed = (jnp.sqrt(jnp.mean((v / scale) ** 2)) for v in (y, slope))
    guess = jnp.where(
        (size > 1e-5) & (speed > 1e-5), 0.01 * size / jnp.where(speed > 0, speed, 1), 1e-6
    )
    span = end - t
    moved = f(q, t + jnp.sign(span) * guess, y + jnp.sign(span) * guess * slope)
    bend = jnp.sqrt(jnp.mean(((moved - slope) / scale) ** 2)) / guess
    top = jnp.maximum(speed, bend)
    longer = jnp.where(
        top > 1e-15,
        (0.01 / jnp.where(top > 0, top, 1)) ** (1 / (options.method.order + 1)),
        guess * 1e3,
    )
    h = jnp.minimum(jnp.minimum(100 * guess, longer), jnp.abs(span))
    return jnp.sign(span) * jnp.where(jnp.isfinite(h), h, 1e-6)


def _first_negative(margin: Callable[[Any], Any], low: Any, high: Any, at_high: Any) -> Any:
    """A point where the margin is barely negative, by the Illinois variant of regula falsi."""
    eps = machine_epsilon(jnp.result_type(high))

    def unfinished(state: Any) -> Any:
        low, high, _, at_high, _, n = state
        return (n < _ROOT_STEPS) & (high - low > 16 * eps) & (at_high < 0)

    def narrow(state: Any) -> Any:
        low, high, at_low, at_high, last, n = state
        u = high - at_high * (high - low) / jnp.where(at_high == at_low, -1.0, at_high - at_low)
        # every third step halves: the bracket itself has to shrink
        inside = (u > low) & (u < high) & (n % 3 != 2)
        u = jnp.where(inside, u, 0.5 * (low + high))
        at_u = margin(u)
        left = at_u >= 0
        at_low_halved = jnp.where(last == -1, 0.5 * at_low, at_low)
        at_high_halved = jnp.where(last == 1, 0.5 * at_high, at_high)
        return (
            jnp.where(left, u, low),
            jnp.where(left, high, u),
            jnp.where(left, at_u, at_low_halved),
            jnp.where(left, at_high_halved, at_u),
            jnp.where(left, 1, -1),
            n + 1,
        )

    start = (
        low,
        high,
        jnp.maximum(margin(low), 0.0),
        at_high,
        jnp.zeros((), int),
        jnp.zeros((), int),
    )
    return lax.while_loop(unfinished, narrow, start)[1]
