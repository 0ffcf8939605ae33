"""Figure 2b: the cycle survives small perturbations of the problem.

Each of 20 runs adds N(0, σ²), σ = 0.05, to all seven constants of the bilevel problem (box, line
and weights) and starts from its own perturbed point (Appendix E.1.2).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from . import bilevel, style
from .bilevel_cycle import START, draw_plane
from .claim import Experiment, Outcome, Ticker, at_least, at_most, counts, ours

SOURCE = "Bolte et al. 2021, Figure 2b and Appendix E.1.2"
OURS = ours(SOURCE)
RUNS = 20
SIGMA = 0.05


def perturbed(key: jax.Array) -> tuple[jax.Array, bilevel.Constants]:
    """Starts and constants of all runs."""
    constants = bilevel.published_constants()
    leaves, tree = jax.tree.flatten((jnp.array(START), constants))
    keys = jax.random.split(key, len(leaves))
    noisy = [
        leaf + SIGMA * jax.random.normal(k, (RUNS, *leaf.shape))
        for k, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, noisy)


def sides_of(paths: np.ndarray, constants: bilevel.Constants) -> np.ndarray:
    """c(u) along each path, with that run's constants."""
    slopes, offsets = np.asarray(constants.slope), np.asarray(constants.offset)
    return np.einsum("rtk,rk->rt", paths, slopes) + offsets[:, None]


def run(quick: bool, tick: Ticker) -> Outcome:
    """Run all 20 descents at once, and measure each."""
    steps = 1500 if quick else 5000
    starts, constants = perturbed(jax.random.key(0))
    paths, gradients = jax.vmap(lambda u, c: bilevel.descend(u, c, steps))(starts, constants)
    paths, gradients = np.asarray(paths), np.asarray(gradients)
    sides = sides_of(paths, constants)
    tick(0.8)
    laps = [bilevel.crossings(path, c)[0] for path, c in zip(paths, sides, strict=True)]
    tail = slice(steps // 2, None)
    least = np.linalg.norm(gradients[:, tail], axis=2).min(axis=1)
    reach = np.linalg.norm(paths[:, tail], axis=2).max(axis=1)
    recent = [np.diff(steps_of)[-4:] for steps_of in laps]
    # a cycle of the discrete map returns within one iteration of its period
    steady = [len(r) == 4 and r.max() - r.min() <= 1 for r in recent]
    fewest = min(len(steps_of) for steps_of in laps) - 1

    claims = [
        counts("runs that cycle steadily (laps equal to one iteration)", SOURCE, RUNS, sum(steady),
               "runs"),
        at_least("fewest laps completed by a run", OURS, np.floor(steps / 190), fewest),
        at_least("least ‖∇f‖ over all runs, second half", OURS, 0.5, float(least.min())),
        at_most("largest ‖u‖ over all runs, second half", OURS, 7.0, float(reach.max())),
    ]  # fmt: skip
    means = [float(r.mean()) for r in recent]
    remarks = (
        f"{RUNS} runs of {steps} iterations, step {bilevel.STEP}, seed 0. The perturbation, normal "
        f"with σ = {SIGMA}, is added to the start and to every constant of the problem; laps take "
        f"{min(means):.0f} to {max(means):.0f} iterations.",
    )
    return Outcome(_draw(paths, steps, sum(steady)), claims, remarks)


def _draw(paths: np.ndarray, steps: int, cycles: int) -> style.Figure:
    from matplotlib import colormaps

    fig = style.figure(7.4, 5.6)
    ax = fig.subplots()
    draw_plane(ax, (0.2, 3.4), (-0.5, 5.7), ", unperturbed")
    colours = colormaps["plasma"](np.linspace(0.05, 0.85, RUNS))
    for path, colour in zip(paths, colours, strict=True):
        ax.plot(*path[steps // 2 : steps // 2 + 320].T, color=colour, lw=1.1, alpha=0.85)
    ax.set_title(f"{RUNS} perturbed problems, $\\sigma = {SIGMA}$: {cycles} cycles")
    ax.plot([], [], color=colours[RUNS // 2], label="gradient descent, after the transient")
    fig.legend(loc="outside lower center", ncols=2)
    return fig


EXPERIMENT = Experiment(
    name="bilevel-noise",
    title="The cycle survives perturbations",
    source=SOURCE,
    description=(
        "The same descent on twenty problems whose constants, and whose starting points, are "
        "perturbed at random: the cycle is no accident of the numbers."
    ),
    run=run,
)
