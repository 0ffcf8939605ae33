"""Figure 1, left: a fixed point whose derivative AD gets wrong at one point.

    z = f(x),    f(x) = tanh(x) + relu(−x) + x − relu(x),    so that z(x) = tanh(x).

Theorem 2 applies everywhere (∂/∂z (f(x) − z) = −1), so AD returns an element of a conservative
Jacobian of z; at x = 0 that element, 2, is not the derivative, 1.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import conservax as cx

from . import style
from .claim import Experiment, Outcome, Ticker, agrees, at_most, has_verdict, ours, same_points

SOURCE = "Bolte et al. 2021, Figure 1 (left)"


def f(x: jax.Array) -> jax.Array:
    """tanh(x), written with relus that cancel except in their derivative at 0."""
    return jnp.tanh(x) + jax.nn.relu(-x) + x - jax.nn.relu(x)


def fixed_point_map(z: jax.Array, x: jax.Array) -> jax.Array:
    """T(z, x) = f(x): one iteration reaches the fixed point."""
    del z
    return f(x)


def residual(z: jax.Array, x: jax.Array) -> jax.Array:
    """F(z, x) = f(x) − z."""
    return f(x) - z


@cx.custom_fixed_point(fixed_point_map)
def solve(init: jax.Array, x: jax.Array) -> jax.Array:
    """Iterate the map from `init`."""
    return fixed_point_map(init, x)


def run(quick: bool, tick: Ticker) -> Outcome:
    """Differentiate z through `custom_fixed_point` on a grid that contains 0."""
    grid = np.linspace(-2.0, 2.0, 161 if quick else 401)
    at_zero = np.flatnonzero(grid == 0.0)
    curve = jax.jit(jax.vmap(jax.value_and_grad(lambda x: solve(0.0, x))))
    values, slopes = map(np.asarray, curve(jnp.asarray(grid)))
    tick(0.5)
    truth = 1 - np.tanh(grid) ** 2
    smooth = np.delete(np.arange(grid.size), at_zero)

    origin = jnp.asarray(0.0)
    sol = solve(0.0, origin)
    implicit = cx.implicit_jacobian(residual)(sol, origin)
    points = implicit.vertices().ravel()
    report = cx.check(residual, sol, origin)
    h = 1e-5
    above, below = jax.vmap(lambda x: solve(0.0, x))(jnp.array([h, -h]))
    difference = float(above - below) / (2 * h)
    ad = float(slopes[at_zero[0]])

    claims = [
        agrees("derivative of z at 0 (central difference)", SOURCE, 1.0, difference, 1e-8),
        agrees("AD's derivative of z at 0", SOURCE, 2.0, ad),
        same_points("vertices of the conservative set at 0", SOURCE, [0.0, 1.0, 2.0], points),
        at_most(
            "elsewhere on the grid, |AD − derivative|",
            ours(SOURCE),
            1e-12,
            float(np.max(np.abs(slopes - truth)[smooth])),
        ),
        has_verdict(
            "invertibility condition at 0",
            "Bolte et al. 2021, Theorem 2",
            cx.Verdict.PROVEN,
            report.verdict,
        ),
    ]
    return Outcome(_draw(grid, values, slopes, truth, int(at_zero[0]), points), claims)


def _draw(
    grid: np.ndarray,
    values: np.ndarray,
    slopes: np.ndarray,
    truth: np.ndarray,
    at_zero: int,
    points: np.ndarray,
) -> style.Figure:
    fig = style.figure(9.2, 4.6)
    left, right = fig.subplots(1, 2)
    left.plot(grid, values, color=style.TRUTH)
    left.set(xlabel="$x$", ylabel="$z(x)$", title=r"The fixed point $z = f(x) = \tanh x$")
    left.axhline(0, color=style.MUTED, lw=0.8)
    left.axvline(0, color=style.MUTED, lw=0.8)

    style.segment(right, 0.0, points.min(), points.max(), "conservative set at 0")
    right.plot(grid, truth, color=style.TRUTH, label="derivative of $z$", zorder=3)
    away = np.insert(slopes.astype(float), at_zero, np.nan)
    right.plot(
        np.insert(grid, at_zero, np.nan), np.where(away == slopes[at_zero], np.nan, away),
        color=style.AD, ls=(0, (4, 3)), lw=1.8, label="implicit AD", zorder=3,
    )  # fmt: skip
    style.vertices(right, 0.0, points)
    right.plot(0, slopes[at_zero], "D", color=style.AD, ms=7, zorder=5, label="implicit AD at 0")
    right.set(xlabel="$x$", ylabel="slope", title="Its derivative, and AD's", ylim=(-0.15, 2.3))
    fig.legend(loc="outside lower center", ncols=4)
    return fig


EXPERIMENT = Experiment(
    name="fixed-point",
    title="A fixed point that AD differentiates wrongly at one point",
    source=SOURCE,
    description=(
        "The fixed point of z = f(x) with f(x) = tanh(x) + relu(−x) + x − relu(x) is tanh(x), "
        "smooth with slope 1 at 0. The two relus cancel in value, not in AD's derivative: implicit "
        "differentiation returns 2 at 0. It is still an element of a conservative Jacobian, the "
        "vertical segment, because the invertibility condition of Theorem 2 holds."
    ),
    run=run,
)
