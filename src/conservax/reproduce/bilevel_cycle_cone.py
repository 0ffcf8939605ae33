"""Figure 2a through a cone program: the cycle, and what two layers say next to the line."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import conservax as cx

from . import bilevel, bilevel_cone, peers, style
from .bilevel_cycle import FLOW, START, THEOREM, draw_plane
from .claim import (
    MEASURED,
    Claim,
    Experiment,
    Outcome,
    Ticker,
    about,
    at_least,
    at_most,
    counts,
    ours,
)

SOURCE = "Bolte et al. 2021, Figure 2a and Appendix E.1.3"
OURS = ours(SOURCE)
ON_LINE = ((0.5, -0.5), (1.0, 1.0), (1.5, 2.5), (2.0, 4.0))
SIDES = (*(10.0**-k for k in range(10)), 0.0)
NOISE = 1e3
"""A slope this large, where the truth is 0, is noise."""


def run(quick: bool, tick: Ticker) -> Outcome:
    """Follow the path through the layer, then look at the derivative next to the line."""
    constants = bilevel.published_constants()
    steps = 2000 if quick else 10_000
    start = jnp.array(START)
    single = jax.tree.map(lambda part: part[None], constants)
    descent = bilevel_cone.descend(np.array([START]), single, steps, lambda done: tick(0.6 * done))
    path, gradients, verdicts = (part[:, 0] for part in descent)
    relus = np.asarray(bilevel.descend(start, constants, steps)[0])
    sides = -3 * path[:, 0] + path[:, 1] + 2
    laps, points = bilevel.crossings(path, sides)
    where, period = bilevel.flow_cycle()
    least = np.linalg.norm(gradients[steps // 2 :], axis=1).min()
    near = bilevel_cone.solve(np.array(SIDES), np.tile(constants.box, (len(SIDES), 1)))
    on_line = [
        bilevel_cone.INNER.check(
            *bilevel_cone.inner_data(bilevel.side(jnp.array(u), constants), constants.box)
        )
        for u in ON_LINE
    ]
    tick(0.8)
    slopes, said = near.slope[:, 0], near.verdict
    given = np.isfinite(slopes)
    refuted = [report for report in on_line if report.verdict == cx.Verdict.REFUTED]

    claims = [
        at_least("laps completed", OURS, np.floor(0.9 * steps * bilevel.STEP / period),
                 len(laps) - 1),
        about("iterations per lap; the flow's cycle in closed form", FLOW,
              period / bilevel.STEP, float(np.diff(laps)[-5:].mean()), 0.02),
        about("the cycle leaves −3x + y + 2 > 0 at x", FLOW, where[0], points[-1, 0], 0.02),
        at_least("it never stops: least ‖∇f‖ on the second half", OURS, 1.0, float(least)),
        at_most("largest distance to the path through relus (Appendix E.1.1)", OURS, 1e-9,
                float(np.abs(path - relus).max())),
        counts("PROVEN by the layer, from inside jit, along the path", THEOREM, steps,
               int(np.sum(verdicts == cx.Verdict.PROVEN)), "points"),
        counts("REFUTED on the line −3x + y + 2 = 0, with a direction along which all points are "
               "solutions", THEOREM, len(ON_LINE), _free_directions(refuted), "points"),
        counts(f"next to the line, c = 1 … {SIDES[-2]:.0e} and 0: a derivative with PROVEN, NaN "
               "without".replace("e-0", "e−"), THEOREM, len(SIDES),
               int(np.sum(given == (said == cx.Verdict.PROVEN))), "points"),
        at_most("… where there is one, |∂s₁/∂c|; the corner does not move", MEASURED, 1e-9,
                float(np.abs(slopes[given]).max())),
    ]  # fmt: skip
    because = f", because {refuted[-1].reason.rstrip('.')}" if refuted else ""
    silent = " The layer returns no gradient there." if np.isnan(slopes[-1]) else ""
    remarks = [
        f"conservax on the line −3x + y + 2 = 0: REFUTED at {len(refuted)} of {len(on_line)} points"
        f"{because}.{silent}",
        f"Step {bilevel.STEP}, {steps} iterations from {START}.",
    ]
    theirs = None
    if peers.installed():
        theirs = {setup: _peer_near_the_line(setup, constants) for setup in peers.SETUPS}
        tick(0.9)
        peer_steps = 100 if quick else 600
        peer_path = bilevel_cone.peer_descend(start[None], single, peer_steps)[:, 0]
        claims += _peer_claims(peer_path, path[: peer_steps + 1], theirs)
        remarks.append(
            f"{peers.name()}: {peer_steps} iterations. At c = 10⁻⁵ its default solver puts s at "
            f"({theirs['SCS, lsqr'][0][5, 0]:.2f}, {theirs['SCS, lsqr'][0][5, 1]:.2f}); the "
            f"solution is (3, 5). Next to the line {sum(noise > NOISE for noise in _noise(theirs))} "
            f"of {len(theirs)} setups return, without error or warning, slopes above 10³ where the "
            "truth is 0: the solver’s noise."
        )
    else:
        peer_path = None
        remarks.append(peers.name())
    note = f": REFUTED at {len(refuted)} of {len(on_line)}"
    return Outcome(_draw(path, peer_path, points, where, near, theirs, note), claims, remarks)


def _peer_near_the_line(setup: str, constants: bilevel.Constants) -> tuple[np.ndarray, np.ndarray]:
    """s and ∂s₁/∂c as cvxpylayers returns them; NaN where it raises or warns."""
    solve = bilevel_cone.peer_inner(setup)

    def first(c: jax.Array) -> tuple[jax.Array, jax.Array]:
        s = solve(-c * jnp.ones(2), constants.box)
        return s[0], s

    gradient = jax.grad(first, has_aux=True)
    refused = jnp.asarray(jnp.nan), jnp.full(2, jnp.nan)
    found = [peers.silently(lambda c=c: gradient(jnp.asarray(c))) or refused for c in SIDES]
    return np.array([s for _, s in found]), np.array([float(slope) for slope, _ in found])


def _free_directions(refuted: list) -> int:
    """How many say that the inner solution may move, and along which direction."""
    free = [r for r in refuted if r.unique is False and r.direction is not None]
    lengths = [np.linalg.norm(r.direction) for r in free]
    return sum(bool(length > 0.5) for length in lengths)


def _noise(theirs: dict[str, tuple[np.ndarray, np.ndarray]]) -> list[float]:
    """The largest |∂s₁/∂c| of each setup; 0 where it returns none."""
    return [float(np.nan_to_num(np.abs(slopes)).max()) for _, slopes in theirs.values()]


def _peer_claims(
    peer_path: np.ndarray, path: np.ndarray, theirs: dict[str, tuple[np.ndarray, np.ndarray]]
) -> list[Claim]:
    away = [np.linalg.norm(path - point, axis=1).min() for point in peer_path]
    finite = sum(np.isfinite(slopes[-1]) for _, slopes in theirs.values())
    return [
        at_most("cvxpylayers follows the same path: largest distance to it", OURS, 0.1,
                float(max(away))),
        counts("cvxpylayers on the line: a number, and no word", MEASURED, len(theirs), int(finite),
               "setups"),
        at_least("cvxpylayers next to the line: largest |∂s₁/∂c|, which is 0; the least over its "
                 "setups", MEASURED, NOISE, min(_noise(theirs))),
    ]  # fmt: skip


def _draw(
    path: np.ndarray,
    peer_path: np.ndarray | None,
    points: np.ndarray,
    where: np.ndarray,
    near: bilevel_cone.Inner,
    theirs: dict[str, tuple[np.ndarray, np.ndarray]] | None,
    note: str,
) -> style.Figure:
    fig = style.figure(10.4, 5.5)
    left, right = fig.subplots(1, 2, width_ratios=(1.15, 1))
    draw_plane(left, (0.2, 3.4), (-0.5, 5.7), note)
    left.plot(*path[:2000].T, color=style.AD, lw=1.6, label="through conservax")
    if peer_path is not None:
        left.plot(*peer_path[:240].T, color=style.TRUTH, lw=1.4, ls=(0, (1, 2)),
                  label="through cvxpylayers")  # fmt: skip
    left.plot(*path[0], "o", color=style.INK, ms=7)
    left.plot(*points[-1], "o", color="white", mec=style.AD, mew=2, ms=8, zorder=5,
              label="crossing, last lap")  # fmt: skip
    left.plot(*where, "x", color=style.TRUTH, ms=8, mew=2, zorder=6, label="flow, closed form")
    left.set_title("Descent, the inner problem a cone program")
    _draw_near(right, near, theirs)
    fig.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=3,
               columnspacing=1.2, handletextpad=0.5)  # fmt: skip
    return fig


def _draw_near(
    ax: style.Axes,
    near: bilevel_cone.Inner,
    theirs: dict[str, tuple[np.ndarray, np.ndarray]] | None,
) -> None:
    """|∂s₁/∂c| over c, from far to near; where there is no number a cross lies on the axis."""
    place = np.arange(len(SIDES))
    slopes = near.slope[:, 0]
    given = np.isfinite(slopes)
    marks = (("s", style.TRUTH), ("^", style.BAD), ("v", style.SET))
    for (setup, (_, found)), (mark, colour) in zip((theirs or {}).items(), marks, strict=False):
        ax.plot(place, np.abs(found), mark, ls="-", lw=0.9, color=colour, ms=6, mfc="white",
                label=f"cvxpylayers ({setup})")  # fmt: skip
    for verdict in cx.Verdict:
        number, none = (part & (near.verdict == verdict) for part in (given, ~given))
        if number.any():
            ax.plot(place[number], np.abs(slopes[number]), "o", color=style.AD, ms=6.5, zorder=5,
                    label=f"conservax: {verdict.name}")  # fmt: skip
        if none.any():
            ax.plot(place[none], np.zeros(none.sum()), "x", color=style.BAD, ms=9, mew=2.2,
                    zorder=6, label=f"conservax: {verdict.name}, no number")  # fmt: skip
    ax.set_yscale("symlog", linthresh=1.0)
    ax.set(ylim=(-0.6, 1e11), xlabel="$c = -3x + y + 2$", title="Next to the line")
    ax.set_ylabel(r"$|\partial s_1/\partial c|$ as returned; the truth is 0")
    ax.set_yticks([0, 1e2, 1e4, 1e6, 1e8])
    ax.set_xticks(place[::2], [*(f"$10^{{-{k}}}$" if k else "1" for k in place[:-1:2]), "0"])
    if theirs is None:
        ax.text(0.5, 0.5, f"cvxpylayers: {peers.MISSING}", transform=ax.transAxes, ha="center",
                color=style.MUTED)  # fmt: skip
    ax.legend(loc="upper left", fontsize=9.5)


EXPERIMENT = Experiment(
    name="bilevel-cycle-cone",
    title="The cycle through a cone program",
    source=SOURCE,
    description=(
        "The bilevel problem of the previous figures, its inner problem handed to a layer as the "
        "linear program that it is. The descent goes round the same cycle. The layer certifies "
        "every point of the path from inside jit, and the one place where no derivative exists, "
        "the line, it refutes."
    ),
    run=run,
    compares=True,
)
