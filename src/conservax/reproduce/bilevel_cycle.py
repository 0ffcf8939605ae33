"""Figure 2a: gradient descent on the bilevel problem goes round a cycle for ever."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import conservax as cx

from . import bilevel, style
from .claim import Experiment, Outcome, Ticker, about, at_least, at_most, counts, ours

SOURCE = "Bolte et al. 2021, Figure 2a and Appendix E.1.1"
OURS = ours(SOURCE)
FLOW = "Closed form of the gradient flow's cycle, ours; Figure 2a of Bolte et al. 2021 shows it"
THEOREM = "Bolte et al. 2021, Theorem 2: its condition"
START = (3.0, 1.0)
_PLATE = {"boxstyle": "round,pad=0.2", "fc": "white", "ec": "none", "alpha": 0.8}


def run(quick: bool, tick: Ticker) -> Outcome:
    """Follow the path, measure the cycle, and ask for certificates on and off the line."""
    constants = bilevel.published_constants()
    steps = 2000 if quick else 10_000
    path, gradients = map(np.asarray, bilevel.descend(jnp.array(START), constants, steps))
    tick(0.5)
    sides = -3 * path[:, 0] + path[:, 1] + 2
    laps, points = bilevel.crossings(path, sides)
    where, period = bilevel.flow_cycle()
    tail = slice(steps // 2, None)
    lap = round(np.diff(laps)[-5:].mean())
    shift = np.linalg.norm(path[-1] - path[-1 - lap])
    length = np.linalg.norm(np.diff(path[-lap - 1 :], axis=0), axis=1).sum()
    norms = np.linalg.norm(gradients[tail], axis=1)

    refuted, reasons = _verdicts_on_line(constants)
    proven, off_line = _verdicts_on_path(path, constants, 4 if quick else 12)
    tick(0.95)

    claims = [
        at_least("laps completed", OURS, np.floor(0.9 * steps * bilevel.STEP / period),
                 len(laps) - 1),
        about("iterations per lap; the flow's cycle in closed form", FLOW,
              period / bilevel.STEP, float(np.diff(laps)[-5:].mean()), 0.02),
        about("the cycle leaves −3x + y + 2 > 0 at x", FLOW, where[0], points[-1, 0], 0.02),
        about("… and at y", FLOW, where[1], points[-1, 1], 0.02),
        at_most("it closes: distance after one lap / length of the lap", OURS, 1e-3,
                float(shift / length)),
        at_least("it never stops: least ‖∇f‖ on the second half", OURS, 1.0, float(norms.min())),
        at_most("it stays bounded: largest ‖u‖ on the second half", OURS, 6.0,
                float(np.linalg.norm(path[tail], axis=1).max())),
        counts("check refutes invertibility on the line −3x + y + 2 = 0", THEOREM,
               refuted[1], refuted[0], "points"),
        counts("check proves it off the line, along the path", THEOREM, off_line, proven, "points"),
    ]  # fmt: skip
    because = f", because {reasons[-1].rstrip('.')}" if reasons else ""
    remarks = (
        f"conservax check on the line −3x + y + 2 = 0: REFUTED at {refuted[0]} of {refuted[1]} "
        f"points{because}. Where the condition fails Theorem 2 says nothing, and nothing forbids "
        "the cycle.",
        f"Step {bilevel.STEP}, {steps} iterations from {START}; the inner solution is "
        "differentiated through s = P(s + c(u)(1, 1)), P written with relus. The reference is the "
        "cycle of the gradient flow, which solves (3x − 2)((3 − x)/x)⁴ = 7 − 3x.",
    )
    note = f": REFUTED at {refuted[0]} of {refuted[1]}"
    return Outcome(_draw(path, points, where, note), claims, remarks)


def _verdicts_on_line(constants: bilevel.Constants) -> tuple[tuple[int, int], list[str]]:
    """Check at points of the line, at every kind of inner solution: interior, edge, corner.

    How many are refuted, of how many, and why.
    """
    total, reasons = 0, []
    for x in (0.9, 1.5, 2.1):
        u = jnp.array([x, 3 * x - 2])
        for s in ([1.5, 2.5], [0.0, 2.5], [0.0, 0.0], [3.0, 5.0]):
            report = cx.check(bilevel.inner_residual, jnp.array(s), u, constants)
            total += 1
            if report.verdict == cx.Verdict.REFUTED:
                reasons.append(report.reason)
    return (len(reasons), total), reasons


def _verdicts_on_path(
    path: np.ndarray, constants: bilevel.Constants, count: int
) -> tuple[int, int]:
    found = 0
    for u in path[np.linspace(0, len(path) - 1, count).astype(int)]:
        s = bilevel.inner_solution(constants.box / 2, jnp.asarray(u), constants)
        report = cx.check(bilevel.inner_residual, jax.device_get(s), jnp.asarray(u), constants)
        found += report.verdict == cx.Verdict.PROVEN
    return int(found), count


def draw_plane(
    ax: style.Axes, xlim: tuple[float, float], ylim: tuple[float, float], note: str = ""
) -> None:
    """The two half planes, the line between them and a note on it, and the gradient field."""
    x = np.array(xlim)
    ax.fill_between(x, 3 * x - 2, ylim[1], color=style.QUADRANTS[2], alpha=0.13, lw=0)
    ax.fill_between(x, 3 * x - 2, ylim[0], color=style.QUADRANTS[0], alpha=0.16, lw=0)
    ax.plot(x, 3 * x - 2, color=style.BAD, lw=1.5, ls=(0, (5, 2)),
            label=f"$-3x + y + 2 = 0${note}")  # fmt: skip
    gx, gy = np.meshgrid(np.linspace(*xlim, 15)[1:-1], np.linspace(*ylim, 13)[1:-1])
    far = -3 * gx + gy + 2 > 0
    dx, dy = -2 * (gx - 3 * far), -8 * (gy - 5 * far)
    size = np.hypot(dx, dy)
    ax.quiver(gx, gy, dx / size, dy / size, color=style.MUTED, alpha=0.55, scale=34, width=0.0028)
    ax.set(xlim=xlim, ylim=ylim, xlabel="$x$", ylabel="$y$")


def _draw(path: np.ndarray, points: np.ndarray, where: np.ndarray, note: str) -> style.Figure:
    fig = style.figure(7.4, 5.6)
    ax = fig.subplots()
    draw_plane(ax, (0.2, 3.4), (-0.5, 5.7), note)
    ax.plot(*path[:2000].T, color=style.AD, lw=1.6, label="gradient descent")
    ax.plot(*path[0], "o", color=style.INK, ms=7)
    ax.annotate("start", path[0], (8, -4), textcoords="offset points", bbox=_PLATE)
    arrow = {"arrowstyle": "-|>", "color": style.AD, "lw": 1.6, "mutation_scale": 18}
    for k in (-30, -75, -95, -10):
        ax.annotate("", path[k + 1], path[k], arrowprops=arrow)
    ax.plot(*points[-1], "o", color="white", mec=style.AD, mew=2, ms=9, zorder=5,
            label="crossing, last lap")  # fmt: skip
    ax.plot(*where, "x", color=style.TRUTH, ms=9, mew=2, zorder=6, label="flow, closed form")
    ax.text(0.55, 3.4, "$s = (3, 5)$", fontsize=14, color="#4a5f94", bbox=_PLATE)
    ax.text(2.75, 2.6, "$s = (0, 0)$", fontsize=14, color="#8f6d1c", bbox=_PLATE)
    ax.set_title("Gradient descent through an implicit layer, step 0.01")
    fig.legend(loc="outside lower center", ncols=2, columnspacing=1.2, handletextpad=0.5)
    return fig


EXPERIMENT = Experiment(
    name="bilevel-cycle",
    title="Gradient descent that goes round in circles",
    source=SOURCE,
    description=(
        "The inner problem maximises (a + b)(−3x + y + 2) over a box, the outer one pulls (x, y) "
        "to the inner solution with weights 1 and 4. Away from the line −3x + y + 2 = 0 the inner "
        "solution is a corner of the box and the implicit gradient is right; on the line the "
        "invertibility condition fails, the objective jumps, and the descent follows a cycle."
    ),
    run=run,
)
