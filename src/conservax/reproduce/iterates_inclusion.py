"""A limit of piggyback derivatives that is strictly larger than the implicit set.

    y⁺ = max(0, y/2 − a) + w/4,    w⁺ = y,    at a = 0

The implicit derivatives are (t, t), −4 ≤ t ≤ 0. The limit of the set-valued recursion has infinitely many
vertices: (0, 0), (−4, −4), (−1, −4), (−4/3, 0), (0, −4/3) and, with l_k = −4/3 − 4⁻ᵏ(7/6 + k/2),
(l_k, −4⁻ᵏ) and (−4⁻ᵏ⁻¹, l_k), k ≥ 0.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import conservax as cx

from . import style
from .claim import (
    MEASURED,
    Experiment,
    Outcome,
    Ticker,
    agrees,
    at_most,
    has_verdict,
    ours,
    same_points,
)

SOURCE = "Bolte, Pauwels, Vaiter 2022, Section 3"


def step(state: jax.Array, a: jax.Array) -> jax.Array:
    """(max(0, y/2 − a) + w/4, y)."""
    return jnp.stack([jnp.maximum(0.0, state[0] / 2 - a) + state[1] / 4, state[0]])


def plain(y: jax.Array, a: jax.Array) -> jax.Array:
    """max(0, y/2 − a)."""
    return jnp.maximum(0.0, y / 2 - a)


def closed_form(terms: int = 30) -> np.ndarray:
    """The vertices of the limit, (5 + 2 terms, 2)."""
    k = np.arange(terms)
    length = -4 / 3 - 4.0**-k * (7 / 6 + k / 2)
    first = [[0, 0], [-4, -4], [-1, -4], [-4 / 3, 0], [0, -4 / 3]]
    return np.concatenate(
        [first, np.stack([length, -(4.0**-k)], 1), np.stack([-(4.0**-k) / 4, length], 1)]
    )


def images(points: np.ndarray) -> np.ndarray:
    """{A X + B} over both selections, worked out by hand."""
    return np.concatenate([points @ np.array([[q / 2, 0.25], [1, 0]]).T + [-q, 0] for q in (0, 1)])


def run(quick: bool, tick: Ticker) -> Outcome:
    """The hull after 200 steps, its error, the gap to the implicit set; the plain map beside it."""
    alg = cx.iterates.from_step(step)
    origin = jnp.zeros(2)
    sets = cx.iterates.piggyback_set(alg, origin, 0.0, 200)
    tick(0.4)
    early = [cx.iterates.piggyback_set(alg, origin, 0.0, t) for t in (2, 4, 8)]
    implicit = cx.implicit_jacobian(alg.residual)(origin, 0.0).vertices()[:, :, 0]
    report = cx.check(alg.residual, origin, 0.0)
    single = cx.iterates.piggyback_set(cx.iterates.from_step(plain), 0.0, 0.0, 60)
    tick(0.9)
    found, known = sets.vertices()[:, :, 0], closed_form()
    exact = cx.iterates.PiggybackSet(
        sets.contraction, 0, 0.0, known[:, :, None], implicit[:, :, None]
    )
    image = cx.iterates.PiggybackSet(
        sets.contraction, 0, 0.0, images(known)[:, :, None], implicit[:, :, None]
    )
    claims = [
        has_verdict("the iteration contracts", SOURCE, cx.Verdict.PROVEN, sets.contraction.verdict),
        has_verdict("the implicit equation", SOURCE, cx.Verdict.PROVEN, report.verdict),
        same_points("vertices of the implicit set", MEASURED, [[-4.0, -4.0], [0.0, 0.0]], implicit),
        at_most("bound of the hull's distance to the limit", MEASURED, 1e-9, sets.error),
        at_most("hull beyond the closed form", MEASURED, 1e-9, max(map(exact.distance, found))),
        at_most("closed form beyond the hull", MEASURED, 1e-9, max(map(sets.distance, known))),
        at_most("images beyond the closed form: it is invariant", MEASURED, 1e-9,
                max(map(exact.distance, images(known)))),
        at_most("closed form beyond its images", MEASURED, 1e-9, max(map(image.distance, known))),
        agrees("how far the limit reaches beyond the implicit set", MEASURED, 3 / np.sqrt(2), sets.gap, 1e-8),
        same_points("y = max(0, y/2 − a) alone: vertices of the limit", ours(SOURCE), [-2.0, 0.0],
                    single.vertices().ravel()),
        at_most("and its gap", ours(SOURCE), 1e-9, single.gap),
    ]  # fmt: skip
    return Outcome(_draw(found, early, implicit), claims)


def _draw(
    found: np.ndarray, early: list[cx.iterates.PiggybackSet], implicit: np.ndarray
) -> style.Figure:
    from scipy.spatial import ConvexHull

    def outline(points: np.ndarray) -> np.ndarray:
        order = ConvexHull(points).vertices
        return points[[*order, order[0]]]

    fig = style.figure(10.0, 4.8)
    left, right = fig.subplots(1, 2)
    whole = outline(found)
    for ax in (left, right):
        ax.fill(*whole.T, color=style.SET, alpha=0.18, lw=0)
        ax.plot(*whole.T, color=style.SET, lw=1.4, label="limit of the recursion")
        ax.plot(*found.T, "o", color="white", mec=style.SET, ms=4.5, label="its vertices")
        ax.plot(*implicit.T, color=style.AD, lw=2.6, label="implicit derivatives")
        ax.set(xlabel="derivative of $y$", ylabel="derivative of $w$", aspect="equal")
    for sets, colour in zip(early, ("#c9ccd4", "#a3a9b6", "#7b8494"), strict=True):
        left.plot(*outline(sets.vertices()[:, :, 0]).T, color=colour, lw=1.0, ls="--",
                  label=f"after {sets.steps} steps")  # fmt: skip
    left.set(title="The sets of derivatives at $a = 0$")
    right.set(
        xlim=(-1.9, 0.08),
        ylim=(-0.62, 0.05),
        aspect="auto",
        title="Vertices near the edge (−4/3, 0)",
    )
    fig.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return fig


EXPERIMENT = Experiment(
    name="iterates-inclusion",
    title="Piggyback limits beyond the implicit derivatives",
    source=SOURCE,
    description=(
        "Two numbers, one kink, and a memory: an iteration whose derivative can take another selection at "
        "every step reaches derivatives that no single selection explains. Both sets are conservative "
        "Jacobians of the fixed point. The larger one is convex and has infinitely many vertices, here from "
        "the recursion of hulls beside the closed form. Without the memory the two sets are equal."
    ),
    run=run,
)
