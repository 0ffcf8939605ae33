"""How a verdict is shown: text, JSON and notebook HTML.

The functions here read a check report by its attributes alone and import none of ours:

``verdict`` (an enum with a ``name``), ``reason``, ``method``, ``rigour`` (a string), ``work`` (a
dataclass of counts), ``undecided`` (a sentence, or empty), ``margin``, ``sigma_min``,
``n_vertices``, ``determinant_signs``, ``witness`` (``selection``, ``null_vector``, ``sigma_min``,
``sigma_max``), ``residual``, ``residual_scale``, ``tolerance``, ``kinks`` and ``nearest_inactive``
(``operation``, ``file``, ``line``, ``index``, ``distance``, ``tolerance``, ``slopes``, ``active``),
``lipschitz``, ``clarke_exact``, ``solves`` (pairs of a place and a certificate), ``given_rules``
(pairs of a name and a place) and ``proof`` (None, or ``radius``, ``error``, ``center``, ``lower``,
``upper``). `to_dict` is the only reader; the text and the HTML are drawn from its answer.
"""

import html
import math
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

WIDTH = 100
SHOWN_KINKS = 12
SHOWN_ENTRIES = 6
COARSE = 1e-10  # a relative residual above this leaves room for polishing
COLOURS = {"proven": "#1a7f4b", "refuted": "#c0362c", "unknown": "#9a6700"}
MARKS = {"proven": "✓", "refuted": "✗", "unknown": "?"}

Number = float | int | str | None
Facts = Iterable[tuple[str, str]]


def to_dict(report: Any) -> dict[str, Any]:
    """The report as plain data that ``json.dumps(..., allow_nan=False)`` accepts.

    Args:
        report: any object with the attributes that the module lists.

    Returns:
        Lower-case verdict; NaN becomes ``None`` and ±∞ the strings ``"inf"`` and ``"-inf"``,
        since JSON has neither.
    """
    witness, nearest, signs = report.witness, report.nearest_inactive, report.determinant_signs
    return {
        "verdict": report.verdict.name.lower(),
        "reason": report.reason,
        "method": report.method,
        "rigour": str(report.rigour),
        "work": {name: int(count) for name, count in vars(report.work).items()},
        "undecided": report.undecided,
        "margin": _finite(report.margin),
        "sigma_min": _finite(report.sigma_min),
        "n_vertices": _finite(report.n_vertices),
        "determinant_signs": signs
        and dict(zip(("negative", "zero", "positive"), map(int, signs), strict=True)),
        "residual": _finite(report.residual),
        "residual_scale": _finite(report.residual_scale),
        "tolerance": _finite(report.tolerance),
        "lipschitz": _finite(report.lipschitz),
        "clarke_exact": None if report.clarke_exact is None else bool(report.clarke_exact),
        "solves": [
            {"place": place.short, "verdict": inner.verdict.name.lower(), "reason": inner.reason}
            for place, inner in report.solves
        ],
        "given_rules": [
            {"function": name, "place": place.short} for name, place in report.given_rules
        ],
        "witness": witness
        and {
            "selection": _vector(witness.selection),
            "null_vector": _vector(witness.null_vector),
            "sigma_min": _finite(witness.sigma_min),
            "sigma_max": _finite(witness.sigma_max),
        },
        "proof": report.proof
        and {
            "radius": _finite(report.proof.radius),
            "error": _finite(report.proof.error),
            "center": _vector(report.proof.center),
            "lower": None if report.proof.lower is None else _vector(report.proof.lower),
            "upper": None if report.proof.upper is None else _vector(report.proof.upper),
        },
        "kinks": [_kink(kink) for kink in report.kinks],
        "nearest_inactive": nearest and _kink(nearest),
    }


def to_text(report: Any, facts: Facts = (), remedy: str = "") -> str:
    """The report as plain text: verdict, reason, kinks, numbers, and what to do next.

    Args:
        report: any object with the attributes that the module lists.
        facts: what else there is to tell, names and texts; remedy: what to do next, if not the usual.

    Returns:
        Several lines without a trailing newline, free of terminal colours.
    """
    data = to_dict(report)
    verdict = data["verdict"]
    headline = f"{MARKS[verdict]} {verdict.upper()}: {data['reason']}"
    blocks = [textwrap.wrap(headline, WIDTH, subsequent_indent="  ")]
    active = [kink for kink in data["kinks"] if kink["active"]]
    if active:
        rows = [KINK_HEADER, *map(_kink_row, active[:SHOWN_KINKS])]
        blocks.append([f"  {line}" for line in _aligned(rows, right=(3, 4))])
        if len(active) > SHOWN_KINKS:
            blocks[-1].append(f"  … and {len(active) - SHOWN_KINKS} more")
    facts = (*_facts(data, len(active)), *facts)
    width = max(len(name) for name, _ in facts)
    indent = " " * (width + 4)
    blocks.append(
        [
            line
            for name, value in facts
            for line in textwrap.wrap(
                f"  {name:<{width}}  {value}", WIDTH, subsequent_indent=indent, drop_whitespace=True
            )
        ]
    )
    advice = f"  Next: {remedy or _advice(data, len(active))}"
    blocks.append(textwrap.wrap(advice, WIDTH, subsequent_indent="  "))
    return "\n\n".join("\n".join(block) for block in blocks)


def to_html(report: Any, facts: Facts = (), remedy: str = "") -> str:
    """The report as one self-contained HTML fragment: inline style, everything escaped.

    Args: as of ``to_text``.

    Returns:
        A ``<div>``; what a notebook shows when it is the value of ``_repr_html_``.
    """
    data = to_dict(report)
    active = [kink for kink in data["kinks"] if kink["active"]]
    colour = COLOURS[data["verdict"]]
    cell = "padding:.2em 1.1em .2em 0;text-align:left;vertical-align:top;border:0"
    head = f"{cell};font-weight:600;opacity:.65;white-space:nowrap"
    table = "<table style='border-collapse:collapse;margin:.7em 0;background:none;font-size:.93em'>"
    parts = [
        "<div style='font-family:system-ui,sans-serif;line-height:1.45;max-width:56em;"
        f"border-left:4px solid {colour};padding:.3em 0 .3em 1em;margin:.5em 0'>",
        f"<div><span style='background:{colour};color:#fff;border-radius:.3em;"
        f"padding:.15em .6em;font-weight:600;margin-right:.6em'>{data['verdict'].upper()}</span>"
        f"{html.escape(data['reason'])}</div>",
    ]
    if active:
        parts.append(table + "<tr>" + _cells(KINK_HEADER, "th", head) + "</tr>")
        parts += [
            f"<tr title='{html.escape(kink['file'])}'>{_cells(_kink_row(kink), 'td', cell)}</tr>"
            for kink in active[:SHOWN_KINKS]
        ]
        parts.append("</table>")
        if len(active) > SHOWN_KINKS:
            parts.append(f"<div>… and {len(active) - SHOWN_KINKS} more</div>")
    parts.append(table)
    parts += [
        f"<tr>{_cells([name], 'th', head)}{_cells([value], 'td', cell)}</tr>"
        for name, value in (*_facts(data, len(active)), *facts)
    ]
    parts.append("</table>")
    advice = html.escape(remedy or _advice(data, len(active)))
    parts.append(f"<div><b>Next:</b> {advice}</div></div>")
    return "".join(parts)


RIGOUR = {
    "exact": "exact for the matrices as computed, rounding accounted for",
    "at the tolerance": "at the tolerance: singular to the precision at hand, or by a kink only near active",
}
KINK_HEADER = ("active kink", "operation", "index", "distance", "tolerance", "slopes")


def _finite(value: Any) -> Number:
    """A Python number that JSON can hold; NaN as None, ±∞ as a string."""
    if value is None:
        return None
    number = np.asarray(value).item()
    if isinstance(number, bool | int):
        return int(number)
    if math.isnan(number):
        return None
    return number if math.isfinite(number) else str(number)


def _vector(values: Any) -> list[Number]:
    return [_finite(value) for value in np.ravel(values)]


def _kink(kink: Any) -> dict[str, Any]:
    return {
        "operation": str(kink.operation),
        "file": str(kink.file),
        "line": _finite(kink.line),
        "index": [int(position) for position in kink.index],
        "distance": _finite(kink.distance),
        "tolerance": _finite(kink.tolerance),
        "slopes": None if kink.slopes is None else _vector(kink.slopes),
        "active": bool(kink.active),
    }


def _show(value: Number) -> str:
    """A number for the eye: three significant digits, no needless zeros."""
    if value is None:
        return "not a number"
    return value.replace("inf", "∞") if isinstance(value, str) else f"{value:.3g}"


def _show_vector(values: Sequence[Number]) -> str:
    """All entries of a short vector; the largest ones, by name, of a long one."""
    if len(values) <= SHOWN_ENTRIES:
        return "(" + ", ".join(map(_show, values)) + ")"
    sizes = [abs(v) if isinstance(v, int | float) else math.inf for v in values]
    largest = sorted(np.argsort(sizes)[::-1][:SHOWN_ENTRIES].tolist())
    entries = ", ".join(f"[{i}] = {_show(values[i])}" for i in largest)
    return f"{entries}, the {len(values) - SHOWN_ENTRIES} others smaller or equal"


def _place(kink: dict[str, Any]) -> str:
    path = Path(kink["file"])
    here = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else Path(path.name)
    return f"{here}:{kink['line']}"


def _kink_row(kink: dict[str, Any]) -> tuple[str, ...]:
    index = str(kink["index"]) if kink["index"] else "–"
    slopes = "–" if kink["slopes"] is None else " … ".join(map(_show, kink["slopes"]))
    numbers = (_show(kink["distance"]), _show(kink["tolerance"]))
    return (_place(kink), kink["operation"], index, *numbers, slopes)


def _cells(texts: Iterable[str], tag: str, style: str) -> str:
    return "".join(f"<{tag} style='{style}'>{html.escape(text)}</{tag}>" for text in texts)


def _aligned(rows: Sequence[Sequence[str]], right: Iterable[int]) -> list[str]:
    """Lines of a table under its header, with a rule between the two."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    pad = [str.rjust if i in set(right) else str.ljust for i in range(len(widths))]
    lines = [
        "  ".join(put(text, width) for put, text, width in zip(pad, row, widths, strict=True))
        for row in rows
    ]
    return [lines[0].rstrip(), "─" * len(lines[0]), *(line.rstrip() for line in lines[1:])]


def _facts(data: dict[str, Any], n_active: int) -> list[tuple[str, str]]:
    """The numbers of the report, each with the words that say what it means."""
    facts = []
    if data["margin"] is not None:
        facts.append(
            (
                "margin",
                f"{_show(data['margin'])}: σ_min is at least this on the whole "
                f"{'ball' if data['proof'] else 'set'}",
            )
        )
    elif data["verdict"] == "proven":
        facts.append(("margin", "positive, but no number came with the proof"))
    vertices = data["n_vertices"]
    found = f"{_show(data['sigma_min'])}: the smallest σ_min found"
    if vertices:
        found += f", over {vertices} {'vertex' if vertices == 1 else 'vertices'}"
    facts.append(("σ_min", found))
    if data["determinant_signs"] is not None:
        signs = data["determinant_signs"]
        counts = (f"{count} {name}" for name, count in signs.items() if count)
        facts.append(("determinants", ", ".join(counts)))
    if data["witness"] is not None:
        witness = data["witness"]
        sizes = f"σ_min = {_show(witness['sigma_min'])}, σ_max = {_show(witness['sigma_max'])}"
        if n_active:
            facts.append(("witness", f"q = {_show_vector(witness['selection'])} gives {sizes}"))
        else:
            facts.append(("witness", sizes))
        facts.append(("null vector", _show_vector(witness["null_vector"])))
    proof = data["proof"] if data["verdict"] == "proven" else None
    if proof:
        facts.append(
            ("root", f"it exists, within {_show(proof['error'])} of sol in every entry (proved)")
        )
        facts.append(("ball", f"it is the only one within {_show(proof['radius'])} (proved)"))
    sizes = f"{_show(data['residual'])}, against terms of size {_show(data['residual_scale'])}"
    facts.append(
        ("residual", f"{sizes}; so kinks within {_show(data['tolerance'])} (relative) are active")
    )
    if data["lipschitz"] is not None:
        facts.append(("Lipschitz", f"{_show(data['lipschitz'])}: bounds every implicit derivative"))
    if data["clarke_exact"] is not None:
        exact = (
            "exactly the Clarke Jacobian" if data["clarke_exact"] else "may be larger than Clarke's"
        )
        facts.append(("set", exact))
    facts += [("inner solve", f"{s['verdict']} at {s['place']}") for s in data["solves"]]
    facts += [
        ("own rule", f"{rule['function']} at {rule['place']}: its derivative is taken as given")
        for rule in data["given_rules"]
    ]
    if data["nearest_inactive"] is not None:
        kink = data["nearest_inactive"]
        place, operation, index, distance, *_ = _kink_row(kink)
        facts.append(("next kink", f"{distance} away: {operation} {index} at {place}"))
    facts.append(("method", data["method"] + _counts(data["work"])))
    if data["verdict"] != "unknown":
        about = "a theorem about the program over the reals" if proof else RIGOUR[data["rigour"]]
        facts.append(("rigour", about))
    return facts


def _counts(work: dict[str, int]) -> str:
    """What was visited, in brackets; nothing if nothing was counted."""
    names = {"minors": ("minor", "minors"), "boxes": ("box", "boxes"),
             "vertices": ("vertex", "vertices"),
             "exact": ("exact determinant", "exact determinants")}  # fmt: skip
    told = [f"{count} {names[key][count != 1]}" for key, count in work.items() if count]
    return f" ({', '.join(told)})" if told else ""


def _advice(data: dict[str, Any], n_active: int) -> str:
    """What a user who has read the verdict should do."""
    if data["verdict"] == "proven":
        if n_active == 0:
            return "differentiate; no kink is active, so the derivative is unique."
        return "differentiate; any selection gives an element of a bounded set of derivatives."
    if data["verdict"] == "unknown":
        residual, scale = data["residual"], data["residual_scale"]
        known = all(isinstance(value, int | float) for value in (residual, scale))
        if not known or residual > COARSE * scale:
            return "solve more accurately, or move `sol` on with cx.polish, and check again."
        if data["undecided"]:
            return f"treat the gradient as unproven. {data['undecided'][:1].upper()}{data['undecided'][1:]}"
        return "treat the gradient as unproven, or move the parameters off some kinks."
    remedy = "regularise the problem so that the null vector is no longer free"
    if n_active == 0:
        return f"do not use a gradient here: no kink is active, the Jacobian is singular; {remedy}."
    return f"do not use a gradient here: move the parameters off the kinks above, or {remedy}."
