"""How a monitor's history is shown: a table in text, and a figure.

Both read observations by their attributes and group them by the place of the solve.
"""

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..errors import ConservaxError, InvalidInputError
from ..report import COLOURS, MARKS, WIDTH

_SHOWN = 12  # steps of each solve in the text, the latest ones
_SHAPES = {"proven": "o", "unknown": "D", "refuted": "X"}
_INK, _MUTED, _GRID = "#22303f", "#8a94a3", "#e6e9ee"
_SEVERITY = ("refuted", "unknown", "proven")  # the worst verdict of a step stands for it


class Line:
    """The history of one solve: an entry a step, the worst of its executions."""

    def __init__(self, place: str, history: Iterable[Any]) -> None:
        self.place = place
        by_step: dict[int, list[Any]] = {}
        for o in history:
            by_step.setdefault(o.step, []).append(o)
        self.steps = np.array(sorted(by_step))
        seen = [by_step[s] for s in self.steps.tolist()]
        self.verdicts = [
            min((o.verdict.name.lower() for o in group), key=_SEVERITY.index) for group in seen
        ]
        self.sizes = np.array([_least(o.margin for o in group) for group in seen])
        met = np.array([_least(o.sigma_min for o in group) for group in seen])
        proven = np.array([v == "proven" for v in self.verdicts])
        # a margin bounds the whole set; without one, the smallest singular value met
        self.sizes = np.where(proven & np.isfinite(self.sizes), self.sizes, met)
        self.kinks = np.array([sum(len(o.kinks) for o in group) for group in seen])
        self.residuals = np.array(
            [max((np.nan if o.residual is None else o.residual) for o in group) for group in seen]
        )
        self.fallbacks = np.array([sum(o.fallback is not None for o in group) for group in seen])
        self.latest_fallback = next(
            (f"step {o.step}: {o.fallback}" for g in reversed(seen) for o in g if o.fallback), ""
        )


def lines(history: Sequence[Any]) -> list[Line]:
    """The history, one ``Line`` a solve, in order of appearance."""
    places = dict.fromkeys(o.place for o in history)
    return [Line(p, (o for o in history if o.place == p)) for p in places]


def to_text(history: Sequence[Any], every: int) -> str:
    """A summary line and a small table for each solve; the latest steps."""
    if not history:
        return f"monitor: nothing recorded yet (every {every} steps)"
    blocks = []
    for line in lines(history):
        counts = {v: line.verdicts.count(v) for v in ("proven", "refuted", "unknown")}
        told = ", ".join(f"{MARKS[v]} {n} {v}" for v, n in counts.items() if n)
        head = f"{line.place}: {len(line.steps)} steps, {told}"
        if fallbacks := int(np.sum(line.fallbacks > 0)):
            head += f", {fallbacks} without a gradient"
        rows = [("step", "verdict", "σ_min ≥", "active kinks", "residual", "fallback")]
        rows += [
            (
                str(step),
                f"{MARKS[verdict]} {verdict}",
                _bound(verdict, size),
                str(kinks),
                f"{residual:.1e}" if np.isfinite(residual) else "–",
                "yes" if fallback else "–",
            )
            for step, verdict, size, kinks, residual, fallback in list(
                zip(
                    line.steps,
                    line.verdicts,
                    line.sizes,
                    line.kinks,
                    line.residuals,
                    line.fallbacks,
                    strict=True,
                )
            )[-_SHOWN:]
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        pads = (str.rjust, str.ljust, str.rjust, str.rjust, str.rjust, str.rjust)
        table = [
            "  "
            + "  ".join(pad(t, w) for pad, t, w in zip(pads, row, widths, strict=True)).rstrip()
            for row in rows
        ]
        rule = "  " + "─" * (sum(widths) + 2 * len(widths) - 2)
        hidden = len(line.steps) - _SHOWN
        earlier = [f"  … {hidden} earlier"] if hidden > 0 else []
        told = textwrap.wrap(line.latest_fallback, WIDTH - 4, max_lines=3, placeholder=" …")
        blocks.append(
            "\n".join([head, table[0], rule, *earlier, *table[1:], *(f"  {part}" for part in told)])
        )
    return "\n\n".join(blocks)


def criticality_line(records: Sequence[Any]) -> str:
    """One line: how the distance to criticality went, and the share of steps at a kink."""
    known = [r.distance for r in records if r.distance is not None]
    share = sum(r.kinks > 0 for r in records) / len(records)
    went = f"dist(0, conv D) {known[0]:.3g} → {known[-1]:.3g}, " if known else ""
    return f"criticality: {len(records)} steps, {went}{share:.0%} at a kink"


def draw_criticality(records: Sequence[Any], axes: Sequence[Any] | None = None) -> Any:
    """Two panels: the distance to criticality on a logarithmic axis, active kinks below."""
    plt = _pyplot()
    if axes is None:
        figure, made = plt.subplots(
            2, 1, figsize=(8.6, 4.6), sharex=True, height_ratios=(2.6, 1), layout="constrained"
        )
        upper, lower = made
    else:
        upper, lower = axes
        figure = upper.figure
    steps = [r.step for r in records]
    upper.semilogy(
        steps, [np.nan if r.distance is None else r.distance for r in records], color=_INK, lw=1.4
    )
    upper.set_title("How far from critical?", loc="left", color=_INK, fontsize=12)
    upper.set_ylabel("dist(0, conv D)")
    lower.step(steps, [r.kinks for r in records], where="mid", color=_INK, lw=1.4)
    lower.set(ylabel="active kinks", xlabel="step")
    for ax in (upper, lower):
        ax.grid(visible=True, color=_GRID, lw=0.7)
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(colors=_INK)
    return figure


def draw(history: Sequence[Any], axes: Sequence[Any] | None = None) -> Any:
    """Two panels: margins on a logarithmic axis, coloured by verdict; active kinks below."""
    if not history:
        raise InvalidInputError("the monitor has recorded nothing: call it in the loop first.")
    plt = _pyplot()
    if axes is None:
        figure, made = plt.subplots(
            2, 1, figsize=(8.6, 5.2), sharex=True, height_ratios=(2.6, 1), layout="constrained"
        )
        upper, lower = made
    else:
        upper, lower = axes
        figure = upper.figure
    solves = lines(history)
    floor = _floor(solves)
    styles = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
    for number, line in enumerate(solves):
        style = styles[number % len(styles)]
        shown = np.where(line.sizes > floor, line.sizes, floor)  # NaN and 0 stand on the floor
        upper.plot(line.steps, shown, color=_MUTED, lw=1.3, ls=style, zorder=2)
        for verdict in _SEVERITY:
            here = np.array([v == verdict for v in line.verdicts])
            upper.plot(
                line.steps[here], shown[here], ls="none", marker=_SHAPES[verdict],
                color=COLOURS[verdict], mec="white", mew=0.8,
                ms=8.5 if verdict == "refuted" else 6.5, zorder=4 if verdict == "refuted" else 3,
            )  # fmt: skip
        lost = line.fallbacks > 0
        upper.plot(
            line.steps[lost], shown[lost], ls="none", marker="o", mfc="none",
            mec=COLOURS["refuted"], mew=1.4, ms=14, zorder=5,
        )  # fmt: skip
        lower.step(
            line.steps, line.kinks, where="mid", color=_INK, lw=1.4, ls=style,
            label=line.place if len(solves) > 1 else None,
        )  # fmt: skip
        if len(solves) == 1:
            lower.fill_between(line.steps, line.kinks, step="mid", color=_INK, alpha=0.08, lw=0)
    _dress(upper, lower, solves, floor)
    return figure


def _dress(upper: Any, lower: Any, solves: Sequence[Line], floor: float) -> None:
    """Scales, labels and a legend that holds only what is drawn."""
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    upper.set_yscale("log")
    top = max((float(np.nanmax(np.append(s.sizes, floor))) for s in solves), default=1.0)
    upper.set_ylim(floor / 2.5, 2.5 * top)
    if any(not np.all(s.sizes > floor) for s in solves):
        upper.axhline(floor, color=_MUTED, lw=0.8, ls=(0, (2, 2)), zorder=1)
        upper.annotate(
            "0, or no element known", (0, floor), xycoords=("axes fraction", "data"), xytext=(6, -4),
            textcoords="offset points", ha="left", va="top", color=_MUTED, fontsize=9,
        )  # fmt: skip
    present = [v for v in ("proven", "unknown", "refuted") if any(v in s.verdicts for s in solves)]
    meaning = {
        "proven": "proven: on the whole set",
        "unknown": "unknown: smallest met",
        "refuted": "refuted: smallest met",
    }
    handles = [
        Line2D([], [], ls="none", marker=_SHAPES[v], color=COLOURS[v], mec="white", ms=8,
               label=meaning[v])
        for v in present
    ]  # fmt: skip
    if any(np.any(s.fallbacks > 0) for s in solves):
        handles.append(
            Line2D([], [], ls="none", marker="o", mfc="none", mec=COLOURS["refuted"], mew=1.4,
                   ms=12, label="no gradient")
        )  # fmt: skip
    title = "Can the implicit derivative be trusted?"
    if len(solves) == 1:
        title = f"{title}  {solves[0].place}"
    else:
        lower.legend(frameon=False, fontsize=9, loc="upper right", ncols=min(3, len(solves)))
    upper.set_title(title, loc="left", color=_INK, fontsize=12, pad=30)
    upper.legend(
        handles=handles, frameon=False, fontsize=9, ncols=len(handles), loc="lower left",
        bbox_to_anchor=(-0.01, 1.0), handletextpad=0.3, columnspacing=1.4, borderaxespad=0.2,
    ).set_in_layout(False)  # fmt: skip
    upper.set_ylabel(r"$\sigma_{\min}$ of $\partial F/\partial y$")
    lower.set_ylabel("active kinks")
    lower.set_xlabel("step")
    lower.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
    most = max(int(s.kinks.max(initial=0)) for s in solves)
    lower.set_ylim(0, max(1.0, most) * (1.2 if len(solves) == 1 else 1.6))
    for ax in (upper, lower):
        ax.grid(visible=True, color=_GRID, lw=0.7)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(colors=_INK)


def _floor(solves: Sequence[Line]) -> float:
    """Where values that are 0, or not known, are drawn: well below the smallest other one."""
    sizes = np.concatenate([s.sizes for s in solves])
    largest = np.nanmax(sizes[np.isfinite(sizes)], initial=0.0) or 1.0
    positive = np.isfinite(sizes) & (sizes > 1e-12 * largest)
    if not np.any(positive):
        return 1e-3
    return float(sizes[positive].min()) / (3 if np.all(positive) else 6)


def _least(values: Iterable[float | None]) -> float:
    return min((v for v in values if v is not None), default=np.nan)


def _bound(verdict: str, size: float) -> str:
    if not np.isfinite(size):
        return "–"
    return f"{size:.3g}" if verdict == "proven" else f"({size:.3g})"


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ConservaxError(
            "the monitor draws with matplotlib, which is not installed: pip install 'conservax[plots]'"
        ) from error
    return plt
