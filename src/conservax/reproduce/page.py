"""One self-contained HTML page: each figure beside the claims that it reproduces."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from .claim import Experiment, Outcome


def write_page(
    outcomes: Sequence[tuple[Experiment, Outcome, float]], out: Path, *, quick: bool, seconds: float
) -> Path:
    """Write OUT/index.html with the figures of OUT inlined, and return its path."""
    template = files(__package__).joinpath("page.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["value"] = format_value
    sections = [
        {
            "experiment": experiment,
            "outcome": outcome,
            "seconds": elapsed,
            "image": base64.b64encode((out / f"{experiment.name}.png").read_bytes()).decode(),
            "held": sum(claim.holds for claim in outcome.claims),
        }
        for experiment, outcome, elapsed in outcomes
    ]
    html = environment.from_string(template).render(
        sections=sections,
        held=sum(section["held"] for section in sections),
        total=sum(len(outcome.claims) for _, outcome, _ in outcomes),
        quick=quick,
        seconds=seconds,
        jax_version=version("jax"),
    )
    page = out / "index.html"
    page.write_text(html, encoding="utf-8")
    return page


def format_value(value: Any) -> str:
    """A number, a vector or a matrix as a reader would write it."""
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, list):
        opening, closing = "[]" if value and isinstance(value[0], list) else "()"
        return opening + ", ".join(format_value(entry) for entry in value) + closing
    if isinstance(value, int):
        return str(value)
    if not math.isfinite(value):
        return str(value)
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        mantissa, exponent = f"{value:.2e}".split("e")
        digits = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        return f"{float(mantissa):g} × 10{digits}".replace("-", "−")
    return f"{value:.5g}".replace("-", "−")
