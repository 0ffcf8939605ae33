"""Figure 2a through a cone program: the cycle, and what two layers say next to the line."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import conservax as cx

from . import bilevel, bilevel_cone, peers, style
from .bilevel_cycle import START, draw_plane
from .claim import Claim, Experiment, Outcome, Ticker, about, at_least, at_most, counts

SOURCE = "Bolte et al. 2021, Figure 2a and Appendix E.1.3"
HERE = "This run"
ON_LINE = ((0.5, -0.5), (1.0, 1.0), (1.5, 2.5), (2.0, 4.0))
SIDES = (*(10.0**-k for k in range(10)), 0.0)
Near = tuple[np.ndarray, np.ndarray, np.ndarray]


def run(quick: bool, tick: Ticker) -> Outcome:
    """Follow the path through the layer, then look at the derivative next to the line."""
    constants = bilevel.published_constants()
    steps = 2000 if quick else 10_000
    start = jnp.array(START)
    path, gradients, verdicts = map(np.asarray, bilevel_cone.descend(start, constants, steps))
    relus = np.asarray(bilevel.descend(start, constants, steps)[0])
    tick(0.4)
    sides = -3 * path[:, 0] + path[:, 1] + 2
    laps, points = bilevel.crossings(path, sides)
    where, period = bilevel.flow_cycle()
    least = np.linalg.norm(gradients[steps // 2 :], axis=1).min()
    near = _near_the_line(constants)
    on_line = [
        bilevel_cone.INNER.check(
            *bilevel_cone.inner_data(bilevel.side(jnp.array(u), constants), constants.box)
        )
        for u in ON_LINE
    ]
    tick(0.6)
    _, slopes, said = near
    given = np.isfinite(slopes)

    claims = [
        at_least("laps completed", SOURCE, np.floor(0.9 * steps * bilevel.STEP / period),
                 len(laps) - 1),
        about("iterations per lap; the flow's cycle in closed form", SOURCE,
              period / bilevel.STEP, float(np.diff(laps)[-5:].mean()), 0.02),
        about("the cycle leaves −3x + y + 2 > 0 at x", SOURCE, where[0], points[-1, 0], 0.02),
        at_least("it never stops: least ‖∇f‖ on the second half", SOURCE, 1.0, float(least)),
        at_most("largest distance to the path through relus (Appendix E.1.1)", SOURCE, 1e-9,
                float(np.abs(path - relus).max())),
        counts("PROVEN by the layer, from inside jit, along the path", SOURCE, steps,
               int(np.sum(verdicts == cx.Verdict.PROVEN)), "points"),
        counts("REFUTED on the line −3x + y + 2 = 0, with a direction along which all points are "
               "solutions", SOURCE, len(ON_LINE), _free_directions(on_line), "points"),
        counts(f"next to the line, c = 1 … {SIDES[-2]:.0e} and 0: a derivative with PROVEN, NaN "
               "without".replace("e-0", "e−"), HERE, len(SIDES),
               int(np.sum(given == (said == cx.Verdict.PROVEN))), "points"),
        at_most("… where there is one, |∂s₁/∂c|; the corner does not move", HERE, 1e-9,
                float(np.abs(slopes[given]).max())),
    ]  # fmt: skip
    remarks = [
        "conservax on the line −3x + y + 2 = 0: REFUTED, because "
        f"{on_line[0].reason.rstrip('.')}. The layer returns no gradient there.",
        f"Step {bilevel.STEP}, {steps} iterations from {START}.",
    ]
    theirs = None
    if peers.installed():
        theirs = {setup: _peer_near_the_line(setup, constants) for setup in peers.SETUPS}
        tick(0.8)
        peer_steps = 150 if quick else 600
        batch = jax.tree.map(lambda part: part[None], constants)
        peer_path = bilevel_cone.peer_descend(start[None], batch, peer_steps)[:, 0]
        claims += _peer_claims(peer_path, path[: peer_steps + 1], theirs)
        remarks.append(
            f"{peers.name()}: {peer_steps} iterations. At c = 10⁻⁵ its default solver puts s at "
            f"({theirs['SCS, lsqr'][0][5, 0]:.2f}, {theirs['SCS, lsqr'][0][5, 1]:.2f}); the "
            "solution is (3, 5). Closer to the line than its tolerance every setup returns slopes "
            "of pure solver noise, and nothing says so."
        )
    else:
        peer_path = None
        remarks.append(peers.name())
    return Outcome(_draw(path, peer_path, points, where, near, theirs), claims, remarks)


def _near_the_line(constants: bilevel.Constants) -> Near:
    """s, ∂s₁/∂c and the verdict for every c of SIDES, in one batch."""

    def first(c: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        solution = bilevel_cone.inner_solution(c, constants.box)
        return solution.primal[0], (solution.primal, solution.info.verdict)

    slopes, (solutions, verdicts) = jax.vmap(jax.grad(first, has_aux=True))(jnp.array(SIDES))
    return np.asarray(solutions), np.asarray(slopes), np.asarray(verdicts)


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


def _free_directions(reports: list) -> int:
    """How many are refuted with a direction along which the inner solution may move."""
    refuted = [r for r in reports if r.verdict == cx.Verdict.REFUTED and r.unique is False]
    lengths = [np.linalg.norm(r.direction) for r in refuted if r.direction is not None]
    return sum(bool(length > 0.5) for length in lengths)


def _peer_claims(
    peer_path: np.ndarray, path: np.ndarray, theirs: dict[str, tuple[np.ndarray, np.ndarray]]
) -> list[Claim]:
    away = [np.linalg.norm(path - point, axis=1).min() for point in peer_path]
    noise = [np.nanmax(np.abs(slopes)) for _, slopes in theirs.values()]
    finite = sum(np.isfinite(slopes[-1]) for _, slopes in theirs.values())
    return [
        at_most("cvxpylayers follows the same path: largest distance to it", SOURCE, 0.1,
                float(max(away))),
        counts("cvxpylayers on the line: a number, and no word", HERE, len(theirs), int(finite),
               "setups"),
        at_least("cvxpylayers next to the line: largest |∂s₁/∂c|, which is 0; the least over its "
                 "setups", HERE, 1e3, float(min(noise))),
    ]  # fmt: skip


def _draw(
    path: np.ndarray,
    peer_path: np.ndarray | None,
    points: np.ndarray,
    where: np.ndarray,
    near: Near,
    theirs: dict[str, tuple[np.ndarray, np.ndarray]] | None,
) -> style.Figure:
    fig = style.figure(10.4, 5.5)
    left, right = fig.subplots(1, 2, width_ratios=(1.15, 1))
    draw_plane(left, (0.2, 3.4), (-0.5, 5.7))
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
    ax: style.Axes, near: Near, theirs: dict[str, tuple[np.ndarray, np.ndarray]] | None
) -> None:
    """|∂s₁/∂c| over c, from far to near; a refusal is a cross below the axis."""
    place = np.arange(len(SIDES))
    _, slopes, _ = near
    given = np.isfinite(slopes)
    marks = (("s", style.TRUTH), ("^", style.BAD), ("v", style.SET))
    for (setup, (_, found)), (mark, colour) in zip((theirs or {}).items(), marks, strict=False):
        ax.plot(place, np.abs(found), mark, ls="-", lw=0.9, color=colour, ms=6, mfc="white",
                label=f"cvxpylayers ({setup})")  # fmt: skip
    ax.plot(place[given], np.abs(slopes[given]), "o", color=style.AD, ms=6.5, zorder=5,
            label="conservax: PROVEN")  # fmt: skip
    refused = place[~given]
    ax.plot(refused, np.full(len(refused), 0.0), "x", color=style.BAD, ms=9, mew=2.2, zorder=6,
            label="conservax: REFUTED, no number")  # fmt: skip
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
        "the line, it refutes. Beside it stands cvxpylayers, which returns a number everywhere: "
        "next to the line that number is its solver’s noise."
    ),
    run=run,
)
