"""Figure 5: two copies of the cycle at incommensurate speeds fill a torus.

    g(x, y, z, w) = f(x, y) + η f(z, w),    f the bilevel objective of Figure 2a.

Gradient descent on g runs f's cycle in (x, y) with step 0.01 and in (z, w) with step 0.01 η. With
η = (√5 − 1)/2, the number worst approximated by fractions, the path in R⁴ does not close, and its
projection on (y, z) fills up.
"""

from __future__ import annotations

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np

from . import bilevel, style
from .claim import Claim, Experiment, Outcome, Ticker, at_least, at_most, ours

SOURCE = "Bolte et al. 2021, Figure 5"
OURS = ours(SOURCE)
ETA = (5**0.5 - 1) / 2
START = (2.0, 2.0, 2.0, 2.0)
ITERATIONS = (500, 1000, 5000)
CELLS = 20


@jax.jit(static_argnames=("steps",))
def descend(start: jax.Array, constants: bilevel.Constants, steps: int) -> jax.Array:
    """Gradient descent on g in R⁴."""

    def g(u: jax.Array) -> jax.Array:
        return bilevel.objective(u[:2], constants) + ETA * bilevel.objective(u[2:], constants)

    def step(u: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        return u - bilevel.STEP * jax.grad(g)(u), u

    return jax.lax.scan(step, start, None, length=steps)[1]


def filled(points: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Which cells of the grid over the box [low, high] contain a point."""
    box = list(zip(low, high, strict=True))
    return np.histogram2d(*points.T, bins=CELLS, range=box)[0] > 0


def run(quick: bool, tick: Ticker) -> Outcome:
    """Follow the path and count the cells that its (y, z) projection has entered."""
    del quick  # the figure is its three iteration counts, and costs a second
    path = np.asarray(descend(jnp.array(START), bilevel.published_constants(), ITERATIONS[-1] + 1))
    tick(0.7)
    projected = path[:, [1, 2]]
    low, high = projected.min(axis=0), projected.max(axis=0)
    shares = [float(filled(projected[: n + 1], low, high).mean()) for n in ITERATIONS]
    growing = all(b > a + 0.1 for a, b in pairwise(shares))
    # one copy alone is a curve: its share of the same kind of grid does not grow
    single = path[:, :2]
    box = single.min(axis=0), single.max(axis=0)
    curve = [float(filled(single[: n + 1], *box).mean()) for n in ITERATIONS]

    claims = [
        Claim("share of the 20 × 20 grid filled after 500, 1000, 5000 iterations", SOURCE,
              "grows", shares, growing),
        at_least("share after 5000 iterations", OURS, 0.9, shares[-1]),
        at_most("for comparison, (x, y) alone is a closed curve: share after 5000 iterations",
                OURS, 0.35, curve[-1]),
        at_most("… and its growth from 500 to 5000", OURS, 0.02, curve[-1] - curve[0]),
    ]  # fmt: skip
    remarks = (
        f"Our choice: η = (√5 − 1)/2 = {ETA:.4f}, step {bilevel.STEP}, start {START}; the visited "
        f"box is [{low[0]:.2f}, {high[0]:.2f}] × [{low[1]:.2f}, {high[1]:.2f}].",
    )
    return Outcome(_draw(projected, low, high, shares), claims, remarks)


def _draw(
    projected: np.ndarray, low: np.ndarray, high: np.ndarray, shares: list[float]
) -> style.Figure:
    fig = style.figure(10, 4.1)
    axes = fig.subplots(1, 3, sharex=True, sharey=True)
    for ax, n, share in zip(axes, ITERATIONS, shares, strict=True):
        hit = filled(projected[: n + 1], low, high)
        extent = (low[0], high[0], low[1], high[1])
        shade = np.where(hit.T, 1.0, np.nan)
        ax.imshow(shade, origin="lower", extent=extent, aspect="auto", cmap="Purples", vmin=0,
                  vmax=4.5)  # fmt: skip
        ax.plot(*projected[: n + 1].T, color=style.AD, lw=0.55, alpha=0.9)
        ax.set(title=f"{n} iterations: {share:.1%}", xlabel="$y$")
        ax.grid(False)
    axes[0].set_ylabel("$z$")
    return fig


EXPERIMENT = Experiment(
    name="torus",
    title="Two cycles fill a torus",
    source=SOURCE,
    description=(
        "g(x, y, z, w) = f(x, y) + η f(z, w) with f the bilevel objective of Figure 2a. Gradient "
        "descent runs both cycles at speeds whose ratio is irrational; the path, seen in the "
        "plane (y, z), enters more and more of the cells (violet) of a 20 × 20 grid."
    ),
    run=run,
)
