"""Theorem 2 on an implicitly defined quadratic, with and without the invertibility condition.

    z² + |x| z − 1 = 0, z > 0    ∂F/∂z = 2z + |x| > 0: Theorem 2 applies, kink at x = 0 included
    z² − |x|       = 0, z ≥ 0    ∂F/∂z = 2z vanishes at x = 0: z = √|x| has no bounded slope there

The pair is our choice of quadratic: the same equation degree, one nonsmooth coefficient, and only
the hypothesis changes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import conservax as cx

from . import style
from .claim import Experiment, Outcome, Ticker, agrees, at_least, at_most, has_verdict

SOURCE = "Bolte et al. 2021, Theorem 2; our example"
NEAR = 1e-8


def regular(z: jax.Array, x: jax.Array) -> jax.Array:
    """F(z, x) = z² + |x| z − 1."""
    return z**2 + jnp.abs(x) * z - 1


def degenerate(z: jax.Array, x: jax.Array) -> jax.Array:
    """F(z, x) = z² − |x|."""
    return z**2 - jnp.abs(x)


@cx.custom_root(regular)
def solve_regular(init: jax.Array, x: jax.Array) -> jax.Array:
    """The positive root, in closed form."""
    del init
    return (jnp.sqrt(x**2 + 4) - jnp.abs(x)) / 2


@cx.custom_root(degenerate)
def solve_degenerate(init: jax.Array, x: jax.Array) -> jax.Array:
    """The nonnegative root, in closed form."""
    del init
    return jnp.sqrt(jnp.abs(x))


def run(quick: bool, tick: Ticker) -> Outcome:
    """Differentiate both roots on a grid, and ask for a certificate at the kink."""
    side = 2 * np.linspace(0, 1, 101 if quick else 301)[1:] ** 3  # dense near 0, without it
    grid = np.concatenate([-side[::-1], side])
    curves = []
    for solve in (solve_regular, solve_degenerate):
        curve = jax.jit(jax.vmap(jax.value_and_grad(lambda x, solve=solve: solve(1.0, x))))
        values, slopes = curve(jnp.append(grid, NEAR))
        curves.append((np.asarray(values)[:-1], np.asarray(slopes)[:-1]))
    near = float(slopes[-1])
    tick(0.5)
    zero = jnp.asarray(0.0)
    implicit = cx.implicit_jacobian(regular)(jnp.asarray(1.0), zero)
    bounds = [float(side[0, 0]) for side in implicit.bounds()]
    verdicts = (
        cx.check(regular, jnp.asarray(1.0), zero).verdict,
        cx.check(degenerate, zero, zero).verdict,
    )
    exact = np.sign(grid) * (np.abs(grid) / np.sqrt(grid**2 + 4) - 1) / 2

    claims = [
        has_verdict("condition for z² + |x|z = 1 at x = 0", SOURCE, cx.Verdict.PROVEN, verdicts[0]),
        agrees("its conservative set at 0", SOURCE, [-0.5, 0.5], bounds),
        at_most("away from 0, |implicit AD − closed form|", SOURCE, 1e-12,
                float(np.max(np.abs(curves[0][1] - exact)))),
        has_verdict("condition for z² = |x| at x = 0", SOURCE, cx.Verdict.REFUTED, verdicts[1]),
        at_least("its slope at x = 1e−8 (no bounded set can hold it)", SOURCE, 4999.0, near),
    ]  # fmt: skip
    return Outcome(_draw(grid, curves, bounds, verdicts), claims)


def _draw(
    grid: np.ndarray,
    curves: list[tuple[np.ndarray, np.ndarray]],
    bounds: list[float],
    verdicts: tuple[cx.Verdict, cx.Verdict],
) -> style.Figure:
    fig = style.figure(9.2, 4.3)
    titles = (
        f"$z^2 + |x|\\,z = 1$: {verdicts[0].name} at 0",
        f"$z^2 = |x|$: {verdicts[1].name} at 0",
    )
    half = grid.size // 2
    for ax, (values, slopes), title in zip(fig.subplots(1, 2), curves, titles, strict=True):
        ax.plot(grid, values, color=style.TRUTH, label="$z(x)$")
        for part in (slice(None, half), slice(half, None)):
            label = "implicit derivative" if part.start is None else None
            ax.plot(grid[part], slopes[part], color=style.AD, lw=1.8, label=label)
        ax.set(xlabel="$x$", title=title)
        ax.axhline(0, color=style.MUTED, lw=0.8)
    left, right = fig.axes
    style.segment(left, 0.0, bounds[0], bounds[1], "conservative set at 0")
    style.vertices(left, 0.0, bounds)
    left.set(ylim=(-0.75, 1.25), ylabel="value and slope")
    left.legend(loc="lower left")
    right.set(ylim=(-4, 4))
    right.axvline(0, color=style.BAD, lw=1.4, ls=":", label="$\\partial F/\\partial z = 0$")
    right.legend(loc="lower right")
    return fig


EXPERIMENT = Experiment(
    name="implicit-quadratic",
    title="An implicit quadratic, with and without the condition",
    source=SOURCE,
    description=(
        "Two quadratics with the nonsmooth coefficient |x|, chosen by us so that only the "
        "hypothesis differs. Where ∂F/∂z stays away from 0 the implicit formula gives the "
        "derivative, and at the kink a set, [−1/2, 1/2]. Where ∂F/∂z vanishes the slopes are "
        "unbounded and no conservative Jacobian exists; the check refutes the condition there."
    ),
    run=run,
)
