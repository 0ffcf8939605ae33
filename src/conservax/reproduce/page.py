"""One self-contained HTML page: each figure beside the claims that it reproduces."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import jinja2

from .claim import Experiment, Outcome, format_value


def write_page(
    outcomes: Sequence[tuple[Experiment, Outcome, float]],
    out: Path,
    *,
    quick: bool,
    seconds: float,
    missing: str = "",
) -> Path:
    """Write OUT/index.html with the figures of OUT inlined, and return its path."""
    template = files("conservax.reproduce").joinpath("page.html.jinja").read_text(encoding="utf-8")
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
            "inches": outcome.figure.get_figwidth(),
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
        missing=missing,
        jax_version=version("jax"),
    )
    page = out / "index.html"
    page.write_text(html, encoding="utf-8")
    return page
