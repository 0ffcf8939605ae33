"""The command line: ``conservax reproduce``, ``conservax check`` and ``conservax info``."""

import importlib.util
import itertools
import json
import platform
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import conservax as cx
from conservax.errors import ConservaxError, InvalidInputError
from conservax.invertibility.ladder import BUDGET
from conservax.report import to_dict


class ExitCode(IntEnum):
    """What the shell sees."""

    OK = 0
    REFUTED = 1
    USAGE = 2
    UNKNOWN = 3
    ERROR = 4


out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    help="""
Differentiate through anything nonsmooth, and know when to trust the answer.

\b
  [bold]conservax check model.py:problem[/]   can this derivative be trusted?
  [bold]conservax reproduce[/]                draw the figures of the paper
  [bold]conservax info[/]                     versions, devices, precision

Each command explains itself, with an example: conservax check --help
""",
)


@contextmanager
def _readable_errors(debug: bool) -> Iterator[None]:
    """One message for whatever conservax raises on purpose; the traceback only on request."""
    try:
        yield
    except ConservaxError as error:
        if debug:
            err.print(traceback.format_exc(), markup=False, soft_wrap=True)
        else:
            err.print(f"[bold red]{type(error).__name__}[/]", end=": ")
            err.print(str(error), markup=False, soft_wrap=True)
        raise typer.Exit(ExitCode.ERROR) from None


DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@app.command()
def check(
    target: Annotated[
        str,
        typer.Argument(
            metavar="FILE.py:NAME",
            help="A function without arguments that returns (optimality_fun, sol, *args).",
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
    float64: Annotated[
        bool,
        typer.Option(
            "--float64/--float32",
            help="Double precision separates a kink from a near miss; "
            "--float32 checks what a float32 program will meet.",
        ),
    ] = True,
    budget: Annotated[
        int,
        typer.Option(help="How much work the certificate may do, in minors of a matrix."),
    ] = BUDGET,
    verified: Annotated[
        bool,
        typer.Option(
            "--verified",
            help="Also prove, in interval arithmetic, that a root exists nearby, alone in a ball, "
            "and that the verdict holds on that ball.",
        ),
    ] = False,
    debug: DebugOption = False,
) -> None:
    """
    Can the derivative of a solution map be trusted?

    The solution s(θ) of F(s, θ) = 0 has the derivatives -B⁻¹A, with [[B, A]] from
    the conservative Jacobian of F, provided that every B in it is invertible.
    This command says whether it is.

    [bold]Example[/]: the file kink.py holds s = max(p, 0) as the root of F,

    \b
        import jax.numpy as jnp
        def problem():
            def F(s, p):
                return s - jnp.maximum(p, 0.0)
            p = jnp.array([1.0, 0.0])
            return F, jnp.maximum(p, 0.0), p

    and [bold]conservax check kink.py:problem[/] prints the verdict, the numbers behind
    it, and what to do next.

    [bold]Exit code[/]

    \b
        0  proven: every selection gives a derivative
        1  refuted: the witness shows a singular element
        2  the command line is wrong
        3  unknown
        4  no check was possible (not a root, an unsupported operation, ...)
    """
    with jax.enable_x64(float64), _readable_errors(debug):
        problem = _load(target)()
        if not isinstance(problem, tuple) or len(problem) < 2 or not callable(problem[0]):
            raise InvalidInputError(
                f"{target} must return a tuple (optimality_fun, sol, *args), with a function first "
                f"and the solution second; it returned {type(problem).__name__}."
            )
        report = cx.check(*problem, budget=budget, verified=verified)
    if as_json:
        typer.echo(json.dumps(to_dict(report), indent=2, allow_nan=False))
    else:
        # Piped text keeps its line breaks: a report is a table, not prose to be wrapped.
        out.print(str(report), markup=False, soft_wrap=True)
    codes = {"PROVEN": ExitCode.OK, "REFUTED": ExitCode.REFUTED, "UNKNOWN": ExitCode.UNKNOWN}
    raise typer.Exit(codes[report.verdict.name])


def _load(target: str) -> Callable[[], Any]:
    """The function NAME of the file in ``FILE.py:NAME``, with the file's directory importable."""
    file, _, name = target.rpartition(":")
    if not file or not name:
        raise typer.BadParameter(
            f"write FILE.py:NAME, for example model.py:problem; got {target!r}"
        )
    path = Path(file).resolve()
    if not path.is_file():
        raise typer.BadParameter(f"there is no file {file}")
    # A name of its own: the file may be called like a module that somebody else imports.
    spec = importlib.util.spec_from_file_location(f"_checked_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise typer.BadParameter(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        functions = [key for key, value in vars(module).items() if callable(value)]
        known = ", ".join(key for key in functions if not key.startswith("_"))
        raise typer.BadParameter(f"{file} has no function {name}; it has: {known or 'none'}")
    return function


@app.command()
def reproduce(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...", help="Which experiments; all of them if none is named."
        ),
    ] = None,
    directory: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where figures, claims and page go.")
    ] = Path("reproduction"),
    list_only: Annotated[
        bool, typer.Option("--list", help="Print the experiments and stop.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer iterations: does everything run?")
    ] = False,
    debug: DebugOption = False,
) -> None:
    """
    Draw the figures of the paper and check its claims.

    Writes every figure (PNG, SVG), claims.json and one self-contained HTML page
    into DIR, and prints each claim with the published and the measured number.

    [bold]Example[/]: all experiments by name, then one of them in a hurry

    \b
        conservax reproduce --list
        conservax reproduce NAME --out figures --quick

    [bold]Exit code[/]

    \b
        0  all claims hold
        1  a claim does not hold
        2  the command line is wrong
        4  an experiment raised an error
    """
    with _readable_errors(debug):
        # Here, not above: matplotlib takes a while and the other commands do without it.
        from conservax import reproduce as reproduction

        if list_only:
            out.print(_catalogue_table(reproduction.catalogue()))
            return
        try:
            result = reproduction.run(names, out=directory, quick=quick)
        except reproduction.UnknownExperimentError as error:
            raise typer.BadParameter(str(error)) from None
    _print_claims(result.claims)
    held = sum(claim.holds for claim in result.claims)
    summary = f"{held} of {len(result.claims)} claims hold, in {result.seconds:.0f} s."
    out.print(f"\n{summary} The page: {result.page}", soft_wrap=True)
    if result.missing:
        out.print(result.missing, markup=False, soft_wrap=True)
    raise typer.Exit(ExitCode.OK if result.ok else ExitCode.REFUTED)


def _catalogue_table(experiments: Sequence[Any]) -> Table:
    table = Table("name", "what it shows", "source", box=None, pad_edge=False, header_style="bold")
    for experiment in experiments:
        table.add_row(
            f"[cyan]{experiment.name}[/]", *map(escape, (experiment.title, experiment.source))
        )
    return table


def _print_claims(claims: Sequence[Any]) -> None:
    """The claims under a heading for each experiment and source, in aligned columns."""
    groups = itertools.groupby(claims, key=lambda claim: (claim.experiment, claim.source))
    for (experiment, source), group in groups:
        out.print(f"\n[bold cyan]{escape(experiment)}[/]  [dim]{escape(source)}[/]")
        table = Table(box=None, pad_edge=False, expand=True, header_style="dim")
        table.add_column("")
        table.add_column("claim", ratio=3)
        table.add_column("published", ratio=2)
        table.add_column("measured", ratio=2)
        for claim in group:
            mark = "[green]✓[/]" if claim.holds else "[bold red]✗[/]"
            cells = (claim.name, _brief(claim.published), _brief(claim.measured))
            table.add_row(mark, *map(escape, cells))
        out.print(table)


def _brief(value: Any) -> str:
    """A claim's value in a table cell; a list of matrices does not fit one."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list) and value and isinstance(value[0], list):
        return f"{len(value)} matrices (claims.json)"
    return f"[{', '.join(map(_brief, value))}]" if isinstance(value, list) else str(value)


@app.command()
def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """
    Say what is installed, on which device, and in which precision.

    [bold]Example[/]: what to paste into a bug report

    \b
        conservax info
        conservax info --json > environment.json
    """
    packages = ("conservax", "jax", "jaxlib", "equinox", "lineax", "optimistix", "optax", "numpy")
    facts = {"python": platform.python_version(), "system": platform.platform()}
    for package in (*packages, "scipy"):
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed"
    facts["devices"] = ", ".join(map(str, jax.devices()))
    facts["default dtype"] = str(jnp.zeros(()).dtype)
    facts["jax_enable_x64"] = str(jax.config.read("jax_enable_x64"))
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        out.print(f"[bold]{name:<{width}}[/]  {value}", soft_wrap=True)


if __name__ == "__main__":
    app()
