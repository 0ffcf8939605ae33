"""A value function with two maximisers: its gradient jumps, its set is the segment between."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import conservax as cx

from . import style
from .claim import Experiment, Outcome, Ticker, agrees, at_most, ours, same_points

SOURCE = "Danskin 1967"


def payoff(x: jax.Array, y: jax.Array) -> jax.Array:
    """xy − (y² − 1)²: for large |x| one maximiser in y, at x = 0 two, ±1."""
    return x * y - (y**2 - 1) ** 2


def maximisers(x: jax.Array) -> jax.Array:
    """The best y to the left and to the right of 0, by Newton's method on 4y³ − 4y = x."""

    def polish(y: jax.Array, _: None) -> tuple[jax.Array, None]:
        return y - (4 * y**3 - 4 * y - x) / (12 * y**2 - 4), None

    start = jnp.array([-1.0, 1.0]) * (1 + jnp.abs(x))
    return jax.lax.scan(polish, start, None, length=30)[0]


def run(quick: bool, tick: Ticker) -> Outcome:
    """Differentiate the value function on a grid, and ask for its set at 0."""
    v = cx.value(payoff, maximisers, stacked=True)
    grid = np.linspace(-1.0, 1.0, 101 if quick else 401)
    values, slopes = map(np.asarray, jax.jit(jax.vmap(jax.value_and_grad(v)))(jnp.asarray(grid)))
    ys = np.linspace(-2, 2, 4001)
    brute = np.max(grid[:, None] * ys - (ys**2 - 1) ** 2, axis=1)
    best = ys[np.argmax(grid[:, None] * ys - (ys**2 - 1) ** 2, axis=1)]
    tick(0.5)
    J = cx.conservative_jacobian(v)(0.0)
    sides = [float(J.directional([s])[0]) for s in (1.0, -1.0)]
    off = np.abs(grid) > 1e-9
    claims = [
        at_most("|v − brute force|", ours(SOURCE), 1e-5, float(np.max(np.abs(values - brute)))),
        at_most(
            "|v′ − maximiser of a fine grid| off 0",
            ours(SOURCE),
            1e-3,
            float(np.max(np.abs(slopes - best)[off])),
        ),
        same_points("vertices of the set at 0", SOURCE, [-1.0, 1.0], J.vertices().ravel()),
        agrees("one-sided derivatives at 0 along 1 and −1", SOURCE, [1.0, 1.0], sides),
    ]
    fig = style.figure(8.6, 3.9)
    left, right = fig.subplots(1, 2)
    left.plot(grid, values, color=style.TRUTH)
    left.set(xlabel="$x$", ylabel="$v(x)$", title=r"$v(x) = \max_y\ xy - (y^2 - 1)^2$")
    style.segment(right, 0.0, -1.0, 1.0, "set at 0")
    right.plot(
        np.where(off, grid, np.nan), np.where(off, slopes, np.nan), color=style.AD, label="gradient"
    )
    style.vertices(right, 0.0, J.vertices().ravel())
    right.set(xlabel="$x$", ylabel="slope", title="Two maximisers, two slopes")
    right.legend(loc="upper left")
    return Outcome(fig, claims)


EXPERIMENT = Experiment(
    name="value-function",
    title="A value function with two maximisers",
    source=SOURCE,
    description=(
        "The largest of xy − (y² − 1)² over y is attained near −1 for x < 0 and near 1 for x > 0. At 0 both "
        "attain it: v has a kink there, and its set is the segment between their slopes."
    ),
    run=run,
)
