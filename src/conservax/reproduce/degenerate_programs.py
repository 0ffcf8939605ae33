"""A table of degenerate programs: the valid answers, ours, the verdict, and cvxpylayers' answers.

Where the solution has a kink there are several valid derivatives, where it jumps there is none. The
valid answers are found by brute force: derivatives of the closed-form solution at many points next
to the degenerate one.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

import conservax as cx
from conservax.programs import ConeProgram

from . import peers, style
from .claim import MEASURED, Experiment, Outcome, Ticker, at_least, at_most, counts, same_points
from .degenerate_cases import CASES, CONES, Case, Data

SOURCE = "Two-test theorem; closed forms"
SLACK = 1e-3
"""An answer of cvxpylayers counts as valid within this: its solvers stop at a tolerance."""

Answer = float | None  # None: the tool raised or warned


def run(quick: bool, tick: Ticker) -> Outcome:
    """Differentiate all cases as one batch, once for each selection; then ask cvxpylayers."""
    points = 200 if quick else 2000
    brute = [brute_force(case, points) for case in CASES]
    batch, tangents = stacked()
    tick(0.1)
    lower, verdicts = derivatives("lower", batch, tangents)
    upper, _ = derivatives("upper", batch, tangents)
    tick(0.5)
    program = ConeProgram(CONES)
    reports = {
        case.name: program.check(*case.data(jnp.array(case.point)))
        for case, verdict in zip(CASES, verdicts, strict=True)
        if verdict == cx.Verdict.REFUTED
    }
    theirs = peer_answers() if peers.installed() else None
    tick(0.95)

    gaps = [
        np.abs(np.subtract(found or (np.inf, np.inf), case.answers)).max()
        for case, found in zip(CASES, brute, strict=True)
        if case.answers is not None
    ]
    right = [
        verdict == (cx.Verdict.PROVEN if case.proven else cx.Verdict.REFUTED)
        for case, verdict in zip(CASES, verdicts, strict=True)
    ]
    silent = [
        np.isnan(low) and np.isnan(high)
        for case, low, high in zip(CASES, lower, upper, strict=True)
        if not case.proven
    ]
    claims = [
        *(
            same_points(f"{case.name}: “lower” and “upper” are the ends of the set",
                   SOURCE, case.answers, (low, high))
            for case, low, high in zip(CASES, lower, upper, strict=True) if case.proven
        ),
        counts("PROVEN where the condition holds, REFUTED where it fails", SOURCE, len(CASES),
               sum(right), "programs"),
        counts("NaN wherever REFUTED", SOURCE, len(silent), sum(map(bool, silent)), "programs"),
        at_most("the valid sets, by brute force: largest error of an end", MEASURED, 1e-4,
                float(max(gaps))),
        counts("the linear program's solution jumps, by brute force", MEASURED, 1,
               sum(found is None for found in brute), "programs"),
    ]  # fmt: skip
    remarks = [
        f"conservax {report.verdict.name} – {name}: {report.reason.rstrip('.')}."
        for name, report in reports.items()
    ]
    if theirs is not None:
        wrong = invalid(theirs)
        given = sum(answer is not None for answers in theirs.values() for answer in answers)
        claims.append(
            at_least("cvxpylayers: answers outside the valid set, of "
                     f"{given} given without error or warning", MEASURED, 1, len(wrong))
        )  # fmt: skip
        remarks.append(f"{peers.name()}. Red marks and figures are answers that are not valid.")
    else:
        remarks.append(peers.name())
    return Outcome(_draw(lower, upper, verdicts, theirs), claims, remarks)


def stacked() -> tuple[Data, Data]:
    """The data of all cases, and their derivative in each case's parameter."""
    pairs = []
    for case in CASES:
        theta = jnp.array(case.point)
        direction = jnp.zeros_like(theta).at[case.parameter].set(1.0)
        pairs.append(jax.jvp(case.data, (theta,), (direction,)))
    return jax.tree.map(lambda *parts: jnp.stack(parts), *pairs)


def derivatives(
    selection: Literal["lower", "upper"], batch: Data, tangents: Data
) -> tuple[np.ndarray, np.ndarray]:
    """Every case's entry of the Jacobian, and its verdict, from inside jit."""
    program = ConeProgram(CONES, selection=selection)

    def solve(*data: jax.Array) -> tuple[jax.Array, jax.Array]:
        solution = program(*data)
        return solution.primal, solution.info.verdict

    _, slopes, verdicts = jax.jit(lambda d, t: jax.jvp(solve, d, t, has_aux=True))(batch, tangents)
    outputs = [case.output for case in CASES]
    return np.asarray(slopes)[np.arange(len(CASES)), outputs], np.asarray(verdicts)


def brute_force(case: Case, points: int) -> tuple[float, float] | None:
    """Smallest and largest derivative of the closed form next to the point; None if it jumps."""
    rng = np.random.default_rng(0)
    theta = np.array(case.point)
    near, step = 1e-5, 1e-9
    bump = np.zeros_like(theta)
    bump[case.parameter] = step
    found = []
    for direction in rng.normal(size=(points, theta.size)):
        away = near * direction / np.linalg.norm(direction)
        if abs(case.solution(theta + away) - case.solution(theta - away)) > 1e3 * near:
            return None
        ends = [case.solution(theta + away + sign * bump) for sign in (1, -1)]
        found.append((ends[0] - ends[1]) / (2 * step))
    return min(found), max(found)


def peer_answers() -> dict[str, list[Answer]]:
    """cvxpylayers' answer to every case, by setup."""
    return {setup: [_peer_answer(case, setup) for case in CASES] for setup in peers.SETUPS}


def _peer_answer(case: Case, setup: str) -> Answer:
    problem, parameter, variable = case.peer()
    solve = peers.layer(problem, [parameter], variable, setup)
    gradient = jax.grad(lambda p: solve(p)[case.peer_output])
    slope = peers.silently(lambda: gradient(jnp.asarray(case.peer_point)))
    return None if slope is None else float(slope[case.peer_parameter])


def invalid(theirs: dict[str, list[Answer]]) -> list[str]:
    """The numbers that are no element of the valid set."""
    return [
        f"{case.name} {answer:.3f} ({setup})"
        for setup, answers in theirs.items()
        for case, answer in zip(CASES, answers, strict=True)
        if answer is not None and not is_valid(case, answer)
    ]


def is_valid(case: Case, answer: float) -> bool:
    """Whether an answer lies in the case's set, up to SLACK."""
    if case.answers is None:
        return False
    return case.answers[0] - SLACK <= answer <= case.answers[1] + SLACK


def _draw(
    lower: np.ndarray,
    upper: np.ndarray,
    verdicts: np.ndarray,
    theirs: dict[str, list[Answer]] | None,
) -> style.Figure:
    """A table whose middle column is a number line."""
    fig = style.figure(9.6, 6.6)
    text, line, table = fig.subplots(
        1, 3, width_ratios=(1.2, 0.85, 1.95), sharey=True, gridspec_kw={"wspace": 0.0}
    )
    for ax in (text, table):
        ax.axis("off")
    rows = np.arange(len(CASES))[::-1]
    text.set(xlim=(0, 1), ylim=(-0.6, len(CASES) + 0.35))
    header = {"fontsize": 11.5, "weight": "bold", "va": "center"}
    text.text(0, len(CASES) - 0.1, "minimise", **header)
    line.set_title("valid (bar) and given", fontsize=11.5, weight="bold", pad=2)
    for row, case in zip(rows, CASES, strict=True):
        text.text(0, row + 0.16, case.formula, fontsize=12, va="center")
        text.text(0.04, row - 0.22, case.entry, fontsize=10.5, va="center", color=style.MUTED)
        for ax in (text, line, table):
            ax.axhline(row + 0.5, color="#dfe3ea", lw=0.8)
    _draw_lines(line, rows, lower, upper, theirs)
    _draw_table(table, rows, lower, upper, verdicts, theirs)
    fig.legend(loc="outside lower center", ncols=6, columnspacing=1.0, handletextpad=0.3)
    return fig


_PEER_MARKS = ("s", "^", "v")


def _draw_lines(
    ax: style.Axes,
    rows: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
    theirs: dict[str, list[Answer]] | None,
) -> None:
    for row, case in zip(rows, CASES, strict=True):
        if case.answers:
            low, high = case.answers
            ends = (low - 0.012, high + 0.012)  # a set of one number is a bar too
            ax.plot(ends, [row, row], color=style.SET, lw=9, alpha=0.35, zorder=2,
                    solid_capstyle="butt", label="valid" if row == rows[0] else None)  # fmt: skip
    for values, mark, name in ((lower, "<", "lower"), (upper, ">", "upper")):
        ax.plot(values, rows, mark, color=style.AD, ms=9, zorder=4, label=f"conservax, {name}")
    for (setup, answers), mark, shift in zip(
        (theirs or {}).items(), _PEER_MARKS, (0.26, 0.0, -0.26), strict=False
    ):
        known = [(a, r, is_valid(c, a)) for a, r, c in zip(answers, rows, CASES, strict=True)
                 if a is not None]  # fmt: skip
        for valid, colour in ((True, style.TRUTH), (False, style.BAD)):
            chosen = [(a, r + shift) for a, r, ok in known if ok == valid]
            if chosen:
                ax.plot(*zip(*chosen, strict=True), mark, color=colour, ms=6, mfc="none", mew=1.6,
                        zorder=5)  # fmt: skip
        ax.plot([], [], mark, color=style.TRUTH, mfc="none", mew=1.6, label=setup)
    ax.set(xlim=(-0.2, 1.25), xticks=[0, 0.5, 1], yticks=[])
    ax.spines["left"].set_visible(False)
    ax.grid(False)
    for tick in (0, 0.5, 1):
        ax.axvline(tick, color="#e6e9ee", lw=0.7, zorder=0)


def _draw_table(
    ax: style.Axes,
    rows: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
    verdicts: np.ndarray,
    theirs: dict[str, list[Answer]] | None,
) -> None:
    columns = (0.0, 0.15, 0.345, 0.565, 0.715, 0.865)
    heads = ["valid", "conservax", "verdict", "SCS\nlsqr", "Clarabel\nlsqr", "Clarabel\ndense"]
    ax.set(xlim=(0, 1))
    for x, head in zip(columns, heads, strict=True):
        ax.text(
            x, len(CASES) - 0.1, head, fontsize=11, weight="bold", va="center", linespacing=0.95
        )
    ax.text(columns[3], len(CASES) + 0.42, "cvxpylayers: diffcp with", fontsize=10.5,
            color=style.MUTED, va="center")  # fmt: skip
    for k, (row, case) in enumerate(zip(rows, CASES, strict=True)):
        refuted = verdicts[k] == cx.Verdict.REFUTED
        verdict = cx.Verdict(int(verdicts[k])).name
        cells = [
            (_set(case), style.SET),
            (_pair(lower[k], upper[k]), style.AD),
            (verdict, style.BAD if refuted else style.GOOD),
        ]  # fmt: skip
        for x, (content, colour) in zip(columns, cells, strict=False):
            ax.text(x, row, content, fontsize=11, va="center", color=colour)
        for x, answers in zip(columns[3:], (theirs or {}).values(), strict=False):
            answer = answers[k]
            good = answer is None or is_valid(case, answer)
            content = "refused" if answer is None else _number(answer, 3)
            ax.text(x, row, content, fontsize=11, va="center",
                    color=style.TRUTH if good else style.BAD)  # fmt: skip
    if theirs is None:
        ax.text(columns[4] + 0.05, len(CASES) / 2 - 0.5, peers.MISSING, fontsize=11, va="center",
                ha="center", color=style.MUTED)  # fmt: skip


def _set(case: Case) -> str:
    if case.answers is None:
        return "none"
    low, high = case.answers
    return f"{{{_number(low)}}}" if low == high else f"[{_number(low)}, {_number(high)}]"


def _pair(lower: float, upper: float) -> str:
    """The answers of both selections, in this order."""
    both = np.isnan(lower) and np.isnan(upper)
    return "NaN" if both else f"{_number(lower)}, {_number(upper)}"


def _number(value: float, decimals: int = 9) -> str:
    """Round-off left out."""
    if np.isnan(value):
        return "NaN"
    text = f"{round(value, decimals) + 0.0:.{decimals}f}"
    return text.rstrip("0").rstrip(".").replace("-", "−")


EXPERIMENT = Experiment(
    name="degenerate-programs",
    title="Nine degenerate programs and their derivatives",
    source=SOURCE,
    description=(
        "At a degenerate point a solution has several valid derivatives, or none. conservax returns "
        "the two ends of the set at will, and a verdict: where the condition is refuted it returns "
        "no number. All nine are solved as one batch."
    ),
    run=run,
    compares=True,
)
