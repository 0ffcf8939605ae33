"""SGD leaves an artificial critical point from almost every start, and stays from the exceptional one.

f(w) = |w − zero(w) + 1| is |w + 1| written so that automatic differentiation gives 0 at w = 0.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import conservax as cx

from . import style
from .claim import Claim, Experiment, Outcome, Ticker, agrees, at_most, counts, ours
from .relu_variants import identity_minus_zero

SOURCE = "Bolte and Pauwels 2020, Theorem 4; Bolte, Le, Pauwels, Silveti-Falls 2021, Theorem 3"
STEPS = 4000


def loss(w: jax.Array) -> jax.Array:
    """|w − zero(w) + 1|."""
    return jnp.abs(identity_minus_zero(w) + 1)


def run(quick: bool, tick: Ticker) -> Outcome:
    """SGD with a random step scale from many starts, and from 0."""
    starts = 300 if quick else 3000
    schedule = cx.stochastic.schedules.inverse_power(0.2, 0.6)

    def path(start: jax.Array, key: jax.Array) -> jax.Array:
        optimiser = cx.stochastic.sgd(schedule, key=key)

        def step(carry: tuple[jax.Array, Any], _: None) -> tuple[tuple[jax.Array, Any], jax.Array]:
            w, state = carry
            update: Any
            update, state = optimiser.update(jax.grad(loss)(w), state)
            return (w + update, state), w

        return jax.lax.scan(step, (start, optimiser.init(start)), None, length=STEPS)[1]

    keys = jax.random.split(jax.random.key(0), starts)
    drawn = jax.random.uniform(jax.random.key(1), (starts,), minval=-0.5, maxval=1.5)
    paths = np.asarray(jax.jit(jax.vmap(path))(jnp.append(drawn, 0.0), jnp.append(keys, keys[:1])))
    tick(0.8)
    random, exceptional = paths[:-1], paths[-1]
    found = cx.stochastic.criticality(loss, 0.0)
    claims: list[Claim] = [
        counts("runs from random starts that leave 0 behind", SOURCE, starts,
               int(np.sum(np.abs(random[:, -1]) > 0.5)), "runs"),
        at_most("their largest distance to the minimiser −1", ours(SOURCE), 0.01,
                float(np.max(np.abs(random[:, -1] + 1)))),
        agrees("distance travelled from 0", SOURCE, 0.0, float(np.max(np.abs(exceptional)))),
        agrees("dist(0, conv D(0)) and dist(0, ∂ᶜf(0))", SOURCE, [0.0, 1.0],
               [found.conservative, found.clarke]),
    ]  # fmt: skip
    return Outcome(_draw(random, exceptional), claims)


def _draw(random: np.ndarray, exceptional: np.ndarray) -> style.Figure:
    fig = style.figure(9.4, 4.0)
    left, right = fig.subplots(1, 2, width_ratios=(1.9, 1))
    shown = np.unique(np.geomspace(1, random.shape[1], 400).astype(int)) - 1
    for w in random[:60]:
        left.plot(shown + 1, w[shown], color=style.TRUTH, lw=0.7, alpha=0.45)
    left.plot([], [], color=style.TRUTH, lw=1, label="60 random starts and scales")
    left.plot(shown + 1, exceptional[shown], color=style.AD, lw=2.4, label="from 0")
    left.set(xscale="log", xlabel="step", ylabel="$w$", ylim=(-1.55, 1.6))
    left.legend(loc="upper right")
    grid = np.linspace(-1.5, 1.5, 301)
    right.plot(np.abs(grid + 1), grid, color=style.TRUTH)
    right.plot(1, 0, "D", color=style.AD, ms=8)
    right.annotate("AD stops here", (1, 0), (10, -4), textcoords="offset points", color=style.AD)
    right.set(xlabel="$f(w)$", ylim=(-1.55, 1.6), xlim=(-0.05, 2.6), yticklabels=[])
    return fig


EXPERIMENT = Experiment(
    name="training-artefact",
    title="Almost every run leaves an artificial critical point",
    source=SOURCE,
    description=(
        "f(w) = |w − zero(w) + 1| is |w + 1|, written so that automatic differentiation gives 0 at "
        "w = 0. SGD with vanishing steps and a random step scale passes 0 from every start drawn and "
        "ends at the minimiser; started at 0 exactly, it stays. The criticality report tells the two "
        "apart: 0 lies in conv D(0), and at distance 1 from Clarke's subdifferential."
    ),
    run=run,
)
