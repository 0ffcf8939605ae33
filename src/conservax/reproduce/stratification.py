"""The projection formula: along each stratum all of D is one gradient (f = |x₁| + |x₂|)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import conservax as cx

from . import style
from .claim import Experiment, Outcome, Ticker, at_most, ours, same_points

SOURCE = "Bolte, Daniilidis, Lewis, Shiota 2007; Bolte and Pauwels 2021, Theorem 4"
# strata: the free coordinates (their tangent space), and how many of them there are
STRATA = {"quadrants": (0, 1), "axis $x_2 = 0$": (0,), "axis $x_1 = 0$": (1,), "origin": ()}


def taxicab(x: jax.Array) -> jax.Array:
    """|x₁| + |x₂|."""
    return jnp.abs(x[0]) + jnp.abs(x[1])


def run(quick: bool, tick: Ticker) -> Outcome:
    """Project every extreme element on the tangent space of the stratum, at points of each."""
    rng = np.random.default_rng(0)
    at = cx.conservative_jacobian(taxicab)
    worst = {}
    for number, (name, free) in enumerate(STRATA.items()):
        gaps = [0.0]
        for _ in range(4 if quick else 40):
            x = np.zeros(2)
            x[list(free)] = rng.uniform(0.2, 2, len(free)) * rng.choice([-1, 1], len(free))
            along = np.sign(x)[list(free)]  # the gradient of f along the stratum
            elements = at(jnp.asarray(x)).vertices()[:, 0][:, list(free)]
            gaps.append(float(np.max(np.abs(elements - along), initial=0.0)))
        worst[name] = max(gaps)
        tick((number + 1) / len(STRATA))
    corner = at(jnp.zeros(2)).vertices()[:, 0]
    square = [[a, b] for a in (-1.0, 1.0) for b in (-1.0, 1.0)]
    claims = [
        at_most(
            f"{name.replace('$', '')}: largest |P v − ∇f| over the vertices v of D",
            ours(SOURCE),
            0.0,
            gap,
        )
        for name, gap in worst.items()
    ] + [
        same_points(
            "vertices of D at the origin, where every projection is 0", SOURCE, square, corner
        )
    ]
    return Outcome(_draw(), claims)


def _draw() -> style.Figure:
    fig = style.figure(5.6, 5.2)
    ax = fig.subplots()
    ax.axhline(0, color=style.SET, lw=2.5, alpha=0.5)
    ax.axvline(0, color=style.SET, lw=2.5, alpha=0.5)
    ax.plot(0, 0, "o", color=style.SET, ms=9, zorder=5)
    length = 0.55
    at = cx.conservative_jacobian(taxicab)
    for x in ([1.1, 0.8], [-1.2, 0.9], [-0.9, -1.1], [1.2, -1.0], [1.3, 0.0], [0.0, 1.4]):
        point = np.array(x)
        vertices = at(jnp.asarray(point)).vertices()[:, 0]
        colour = style.AD if len(vertices) > 1 else style.TRUTH
        for v in vertices:
            ax.annotate("", tuple(point - length * v), tuple(point), arrowprops={
                "arrowstyle": "-|>", "color": colour, "lw": 1.5})  # fmt: skip
        if len(vertices) > 1:
            ends = point - length * vertices
            ax.plot(*ends.T, color=style.AD, lw=4, alpha=0.35)
            along = np.sign(point)
            ax.annotate("", tuple(point - length * along), tuple(point), arrowprops={
                "arrowstyle": "-|>", "color": style.TRUTH, "lw": 2.6}, zorder=6)  # fmt: skip
        ax.plot(*point, "o", color=style.INK, ms=4, zorder=6)
    for level in (0.7, 1.4, 2.1):
        ax.plot([level, 0, -level, 0, level], [0, level, 0, -level, 0], color=style.MUTED, lw=0.7)
    ax.plot([], [], color=style.TRUTH, label="$-$ gradient along the stratum")
    ax.plot([], [], color=style.AD, label="$-$ vertices of $D$, and their hull")
    ax.plot([], [], color=style.SET, lw=2.5, alpha=0.5, label="strata of dimension 1 and 0")
    ax.set(xlim=(-2.1, 2.1), ylim=(-2.1, 2.1), xlabel="$x_1$", ylabel="$x_2$", aspect="equal")
    ax.grid(False)
    ax.legend(loc="lower right", fontsize=9.5)
    return fig


EXPERIMENT = Experiment(
    name="stratification",
    title="Along each stratum, one gradient",
    source=SOURCE,
    description=(
        "The plane in strata on which |x₁| + |x₂| is smooth: quadrants, half-axes, the origin. At each point "
        "every element of D, projected on the tangent space of its stratum, is the gradient of f along "
        "it. That is why f decreases along the flow ẇ ∈ −D(w), whichever element is taken."
    ),
    run=run,
)
