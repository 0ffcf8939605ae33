"""Run experiments, write their figures, their claims and the page that shows both."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import jax

from conservax.errors import ConservaxError

from . import (
    bilevel_cycle,
    bilevel_cycle_cone,
    bilevel_noise,
    bilevel_noise_cone,
    cheap_gradient,
    clarke,
    counterexamples,
    degenerate_programs,
    equilibrium_selections,
    equilibrium_splittings,
    finite_differences,
    fixed_point,
    implicit_quadratic,
    inverse,
    iterates_convergence,
    iterates_heavy_ball,
    iterates_inclusion,
    iterates_one_step,
    iterates_sinkhorn,
    lorenz,
    lorenz_cone,
    nonsmooth_methods,
    ode_kinks,
    ode_method,
    peers,
    relu_at_zero,
    relu_variants,
    sparse_lasso,
    stratification,
    style,
    torus,
    training_artefact,
    training_methods,
    value_function,
)
from .claim import Claim, Experiment, Outcome
from .page import write_page

Progress = Callable[[str, float], None]
"""Called with the running experiment's name and the fraction of it that is done."""

_EXPERIMENTS: tuple[Experiment, ...] = (
    fixed_point.EXPERIMENT,
    implicit_quadratic.EXPERIMENT,
    relu_variants.EXPERIMENT,
    clarke.EXPERIMENT,
    inverse.EXPERIMENT,
    bilevel_cycle.EXPERIMENT,
    bilevel_noise.EXPERIMENT,
    bilevel_cycle_cone.EXPERIMENT,
    bilevel_noise_cone.EXPERIMENT,
    lorenz.EXPERIMENT,
    lorenz_cone.EXPERIMENT,
    degenerate_programs.EXPERIMENT,
    torus.EXPERIMENT,
    finite_differences.EXPERIMENT,
    counterexamples.EXPERIMENT,
    cheap_gradient.EXPERIMENT,
    iterates_convergence.EXPERIMENT,
    iterates_heavy_ball.EXPERIMENT,
    iterates_inclusion.EXPERIMENT,
    iterates_sinkhorn.EXPERIMENT,
    iterates_one_step.EXPERIMENT,
    training_artefact.EXPERIMENT,
    training_methods.EXPERIMENT,
    ode_method.EXPERIMENT,
    relu_at_zero.EXPERIMENT,
    stratification.EXPERIMENT,
    ode_kinks.EXPERIMENT,
    value_function.EXPERIMENT,
    nonsmooth_methods.EXPERIMENT,
    sparse_lasso.EXPERIMENT,
    equilibrium_selections.EXPERIMENT,
    equilibrium_splittings.EXPERIMENT,
)


class UnknownExperimentError(ConservaxError, ValueError):
    """A name that is no experiment's; the message lists the valid ones."""


@dataclass(frozen=True)
class Report:
    """All claims of a run, in the order of the page, and where they were written.

    `missing` says which comparisons were not made and how to get them; empty if all were.
    """

    claims: tuple[Claim, ...]
    page: Path
    seconds: float
    missing: str = ""

    @property
    def ok(self) -> bool:
        """Every claim holds."""
        return all(claim.holds for claim in self.claims)


def catalogue() -> list[Experiment]:
    """The experiments, in the order of the page."""
    return list(_EXPERIMENTS)


def run(
    names: Sequence[str] | None = None,
    out: Path = Path("reproduction"),
    quick: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Run the named experiments (all of them by default) and write the results to `out`.

    Writes NAME.png and NAME.svg for each experiment, `claims.json`, and `index.html`, which needs
    no other file. Computes in double precision, whatever the caller's setting. Without `progress`
    a progress bar is shown on standard error.

    Raises:
        UnknownExperimentError: a name is no experiment's.
        ConservaxError: matplotlib is not installed.
    """
    chosen = _select(names)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    outcomes: list[tuple[Experiment, Outcome, float]] = []
    with _reporter(chosen, progress) as report, jax.enable_x64(True), style.applied():
        for experiment in chosen:
            started = time.perf_counter()
            report(experiment.name, 0.0)
            outcome = experiment.run(quick, lambda done, e=experiment: report(e.name, done))
            outcome = replace(outcome, claims=_label(outcome.claims, experiment))
            style.save(outcome.figure, out / experiment.name)
            outcomes.append((experiment, outcome, time.perf_counter() - started))
            report(experiment.name, 1.0)
    seconds = time.perf_counter() - begin
    claims = tuple(claim for _, outcome, _ in outcomes for claim in outcome.claims)
    text = json.dumps([claim.as_json() for claim in claims], indent=2, ensure_ascii=False)
    (out / "claims.json").write_text(text + "\n", encoding="utf-8")
    missing = _missing(chosen)
    page = write_page(outcomes, out, quick=quick, seconds=seconds, missing=missing)
    return Report(claims, page, seconds, missing)


def _missing(chosen: Sequence[Experiment]) -> str:
    without = [experiment.name for experiment in chosen if experiment.compares]
    if peers.installed() or not without:
        return ""
    return f"{peers.ABSENT}. Left out in: {', '.join(without)}."


def _select(names: Sequence[str] | None) -> list[Experiment]:
    if not names:
        return catalogue()
    known = {experiment.name: experiment for experiment in _EXPERIMENTS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UnknownExperimentError(
            f"no experiment is called {', '.join(map(repr, unknown))}; "
            f"the experiments are: {', '.join(known)}"
        )
    return [experiment for experiment in _EXPERIMENTS if experiment.name in names]


def _label(claims: Sequence[Claim], experiment: Experiment) -> tuple[Claim, ...]:
    return tuple(replace(claim, experiment=experiment.name) for claim in claims)


@contextmanager
def _reporter(chosen: Sequence[Experiment], progress: Progress | None) -> Iterator[Progress]:
    """The caller's callback, or a rich progress bar over experiments with one for the current."""
    if progress is not None:
        yield progress
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(
        TextColumn("{task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )
    with bar:
        overall = bar.add_task("experiments", total=len(chosen))
        current = bar.add_task("", total=100)
        finished: set[str] = set()

        def advance(name: str, fraction: float) -> None:
            if fraction == 0.0:
                bar.reset(current, description=name)
            bar.update(current, completed=round(100 * fraction))
            finished.update({name} if fraction == 1.0 else ())
            bar.update(overall, completed=len(finished))

        yield advance
