"""The proximal operator of the total variation of a signal: the taut string.

p = x − Dᵀu with u = clip(u + D p, −λ, λ), (D p)_j = p_{j+1} − p_j. The equation for u has one
scalar kink an edge and joins the calculus, so that the set of derivatives is the Clarke Jacobian.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ..calculus.marking import lifted


def denoise(x: jax.Array, strength: jax.Array) -> jax.Array:
    """argmin_p ½‖p − x‖² + λ Σ_j |p_{j+1} − p_j| for x (n,) and λ ≥ 0."""
    if x.size < 2:
        return x
    # at λ = 0 the map is the identity in x, whatever entries are equal
    moving = jnp.where(jax.lax.stop_gradient(strength) > 0, x, jax.lax.stop_gradient(x))
    (dual,) = lifted(_solve, _residual, _rule, moving, strength)
    return x - _transposed(dual)


def _transposed(dual: jax.Array) -> jax.Array:
    padded = jnp.pad(dual, 1)
    return padded[:-1] - padded[1:]


def _moved(dual: jax.Array, x: jax.Array) -> jax.Array:
    return dual + jnp.diff(x - _transposed(dual))


def _residual(y: Any, x: jax.Array, strength: jax.Array) -> tuple[jax.Array]:
    (dual,) = y
    z = _moved(dual, x)
    # slope 1 at either bound: an edge that could break stays whole
    return (dual - (z - jax.nn.relu(z - strength) + jax.nn.relu(-z - strength)),)


def _broken(dual: jax.Array, x: jax.Array, strength: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Which edges jump upwards, and which downwards."""
    z = _moved(dual, x)
    return z - strength > 0, -z - strength > 0


@jax.jit
def _solve(x: jax.Array, strength: jax.Array) -> tuple[jax.Array]:
    """The shortest path through the tube of radius λ around the cumulated signal, knot by knot."""
    n = x.size
    sums = jnp.cumsum(jnp.concatenate([jnp.zeros(1, x.dtype), x - jnp.mean(x)]))
    tube = strength * (jnp.arange(n + 1) < n)  # the ends are fixed
    low, high = sums - tube, sums + tube
    places = jnp.arange(n + 1)

    def from_knot(state: Any) -> Any:
        at, height, signs = state
        run = jnp.where(places > at, places - at, 1)
        rise_low = jnp.where(places > at, (low - height) / run, -jnp.inf)
        rise_high = jnp.where(places > at, (high - height) / run, jnp.inf)
        steepest, flattest = jax.lax.cummax(rise_low), jax.lax.cummin(rise_high)
        crossed = steepest > flattest
        stop = jnp.where(jnp.any(crossed), jnp.argmax(crossed), n + 1)
        within = places < stop
        tightest_low = jnp.max(jnp.where(within, rise_low, -jnp.inf))
        tightest_high = jnp.min(jnp.where(within, rise_high, jnp.inf))
        # what crosses at ``stop`` decides which wall the string bends around
        up = rise_low[jnp.minimum(stop, n)] > tightest_high
        touched = jnp.where(up, rise_high == tightest_high, rise_low == tightest_low)
        touched = touched & within & (places > at)
        knot = jnp.where(stop > n, n, jnp.max(jnp.where(touched, places, 0)))
        height = jnp.where(up, high[knot], low[knot])
        sign = jnp.where(stop > n, 0, jnp.where(up, 1, -1)).astype(x.dtype)
        return knot, height, signs.at[knot].set(sign)

    start = (jnp.zeros((), places.dtype), jnp.zeros((), x.dtype), jnp.zeros(n + 1, x.dtype))
    _, _, signs = jax.lax.while_loop(lambda state: state[0] < n, from_knot, start)
    # given the breaks, each piece is a mean: nothing of the search's rounding stays
    broken = signs[1:n] != 0
    pieces = _pieces(broken)
    pushes = strength * (jnp.append(signs[1:n], 0) - jnp.insert(signs[1:n], 0, 0))
    p = _piecewise_mean(x + pushes, pieces)
    dual = jnp.cumsum(p - x)[:-1]
    return (jnp.where(broken, strength * signs[1:n], jnp.clip(dual, -strength, strength)),)


def _pieces(broken: jax.Array) -> jax.Array:
    return jnp.cumsum(jnp.concatenate([jnp.zeros(1, jnp.int32), broken.astype(jnp.int32)]))


def _piecewise_mean(x: jax.Array, pieces: jax.Array) -> jax.Array:
    sums = jnp.zeros_like(x).at[pieces].add(x)
    counts = jnp.zeros_like(x).at[pieces].add(1)
    return (sums / jnp.maximum(counts, 1))[pieces]


def _rule(primals: Any, tangents: Any) -> tuple[jax.Array]:
    ((dual,), (x, strength)), (dx, dstrength) = primals, tangents
    up, down = _broken(dual, x, strength)
    signs = up.astype(x.dtype) - down.astype(x.dtype)
    pushes = jnp.append(signs, 0) - jnp.insert(signs, 0, 0)
    dp = _piecewise_mean(dx + dstrength * pushes, _pieces(up | down))
    broken = up | down
    return (jnp.where(broken, signs * dstrength, jnp.cumsum(dp - dx)[:-1]),)
