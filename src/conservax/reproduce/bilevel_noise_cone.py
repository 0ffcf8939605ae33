"""Figure 2b through cone programs: twenty perturbed problems, solved as one batch at each step."""

from __future__ import annotations

import jax
import numpy as np

import conservax as cx

from . import bilevel, bilevel_cone, bilevel_noise, peers, style
from .bilevel_cycle import THEOREM, draw_plane
from .claim import Experiment, Outcome, Ticker, at_least, at_most, counts, ours

SOURCE = "Bolte et al. 2021, Figure 2b and Appendix E.1.3"
OURS = ours(SOURCE)
RUNS = bilevel_noise.RUNS


def run(quick: bool, tick: Ticker) -> Outcome:
    """The same starts and constants as in the experiment with relus, all runs at once."""
    steps = 1500 if quick else 5000
    starts, constants = bilevel_noise.perturbed(jax.random.key(0))
    descent = bilevel_cone.descend(
        np.asarray(starts), constants, steps, lambda done: tick(0.7 * done)
    )
    paths, gradients, verdicts = (part.swapaxes(0, 1) for part in descent)
    relus = jax.vmap(lambda u, c: bilevel.descend(u, c, steps))(starts, constants)[0]
    sides = bilevel_noise.sides_of(paths, constants)
    tick(0.8)
    laps = [bilevel.crossings(path, c)[0] for path, c in zip(paths, sides, strict=True)]
    recent = [np.diff(steps_of)[-4:] for steps_of in laps]
    # a cycle of the discrete map returns within one iteration of its period
    steady = [len(r) == 4 and r.max() - r.min() <= 1 for r in recent]
    least = np.linalg.norm(gradients[:, steps // 2 :], axis=2).min()

    claims = [
        counts("runs that cycle steadily (laps equal to one iteration)", SOURCE, RUNS,
               int(sum(steady)), "runs"),
        at_least("least ‖∇f‖ over all runs, second half", OURS, 0.5, float(least)),
        at_most("largest distance to the paths through relus", OURS, 1e-9,
                float(np.abs(paths - relus).max())),
        counts("inner problems PROVEN along the paths", THEOREM, verdicts.size,
               int(np.sum(verdicts == cx.Verdict.PROVEN)), "programs"),
    ]  # fmt: skip
    remarks = [
        f"{verdicts.size} linear programs: each of {steps} steps solves, differentiates and "
        f"certifies a batch of {RUNS} in one compiled call; seed 0, σ = {bilevel_noise.SIGMA}."
    ]
    theirs = None
    if peers.installed():
        peer_steps = 15 if quick else 250
        theirs = bilevel_cone.peer_descend(starts, constants, peer_steps)
        # a run that takes a step more or less before it crosses is on the same cycle
        away = [
            np.linalg.norm(path[: peer_steps + 1, None] - theirs[:, k], axis=2).min(axis=0).max()
            for k, path in enumerate(paths)
        ]
        claims.append(
            at_most("cvxpylayers follows the same paths: largest distance to them", OURS, 0.1,
                    float(max(away)))
        )  # fmt: skip
        remarks.append(f"{peers.name()}: {peer_steps} steps, dotted.")
    else:
        remarks.append(peers.name())
    return Outcome(_draw(paths, theirs, steps), claims, remarks)


def _draw(paths: np.ndarray, theirs: np.ndarray | None, steps: int) -> style.Figure:
    from matplotlib import colormaps

    fig = style.figure(7.4, 5.6)
    ax = fig.subplots()
    draw_plane(ax, (0.2, 3.4), (-0.5, 5.7), ", unperturbed")
    colours = colormaps["plasma"](np.linspace(0.05, 0.85, RUNS))
    for path, colour in zip(paths, colours, strict=True):
        ax.plot(*path[steps // 2 : steps // 2 + 320].T, color=colour, lw=1.1, alpha=0.85)
    ax.plot([], [], color=colours[RUNS // 2], label="through conservax, after the transient")
    if theirs is not None:
        for k in range(RUNS):
            ax.plot(*theirs[:150, k].T, color=style.TRUTH, lw=0.9, ls=(0, (1, 2)),
                    label="through cvxpylayers, from the start" if k == 0 else None)  # fmt: skip
    ax.set_title(f"{RUNS} perturbed problems as one batch of cone programs")
    fig.legend(loc="outside lower center", ncols=2)
    return fig


EXPERIMENT = Experiment(
    name="bilevel-noise-cone",
    title="Twenty perturbed cycles through cone programs",
    source=SOURCE,
    description=(
        "The twenty perturbed problems with their inner problems as cone programs: one batch per "
        "step, in one compiled call, with a verdict for every program that it solves."
    ),
    run=run,
    compares=True,
)
