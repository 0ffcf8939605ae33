"""The command line: ``conservax reproduce``, ``conservax check`` and ``conservax info``.

JAX is imported by the commands that compute, so that help and version come at once.
"""

import importlib.util
import inspect
import itertools
import json
import platform
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import conservax as cx
from conservax.errors import ConservaxError, InvalidInputError


class ExitCode(IntEnum):
    """What the shell sees."""

    OK = 0
    REFUTED = 1
    USAGE = 2
    UNKNOWN = 3
    ERROR = 4


LONGEST_MESSAGE = 300  # characters of an error that is not ours

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


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"conservax {cx.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and stop."
        ),
    ] = False,
) -> None:
    """What stands before a command."""


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
    rtol: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="A kink counts as active within this distance of it, relative to the size of the terms that "
            "make it; by default the square root of the larger of eps and the relative residual.",
        ),
    ] = None,
    float64: Annotated[
        bool | None,
        typer.Option(
            "--float64/--float32",
            help="The precision in which arrays are made; by default JAX's own setting, that of the file "
            "included. Double precision separates a kink from a near miss.",
        ),
    ] = None,
    budget: Annotated[
        int | None,
        typer.Option(
            help="How much work the certificate may do, in minors of a matrix; by default 33554432."
        ),
    ] = None,
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
    This command says whether it is, as cx.check(*problem()) does in Python: with
    the same tolerance, and in the same precision unless you ask for another one.

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
        4  no check was possible (an error in the file, not a root, ...)
    """
    file, name = _parsed(target)
    import jax

    with nullcontext() if float64 is None else jax.enable_x64(float64):
        function = _load(file, name, debug)
        with _explained(file, debug, function):
            problem = function()
            if not isinstance(problem, tuple) or len(problem) < 2 or not callable(problem[0]):
                raise InvalidInputError(
                    f"{target} must return a tuple (optimality_fun, sol, *args), with a function "
                    f"first and the solution second; it returned {type(problem).__name__}."
                )
            asked = {"rtol": rtol, "budget": budget}
            options = {key: value for key, value in asked.items() if value is not None}
            report = cx.check(*problem, verified=verified, **options)
            if as_json:
                typer.echo(json.dumps(report.to_dict(), indent=2, allow_nan=False))
            else:
                # Piped text keeps its line breaks: a report is a table, not prose to be wrapped.
                out.print(str(report), markup=False, soft_wrap=True)
    codes = {"PROVEN": ExitCode.OK, "REFUTED": ExitCode.REFUTED, "UNKNOWN": ExitCode.UNKNOWN}
    raise typer.Exit(codes[report.verdict.name])


def _parsed(target: str) -> tuple[Path, str]:
    """The file and the name in ``FILE.py:NAME``."""
    file, _, name = target.rpartition(":")
    if not file or not name:
        raise typer.BadParameter(
            f"write FILE.py:NAME, for example model.py:problem; got {target!r}"
        )
    if not Path(file).is_file():
        raise typer.BadParameter(f"there is no file {file}")
    return Path(file), name


def _load(file: Path, name: str, debug: bool) -> Callable[[], Any]:
    """The function of that name in the file, with the file's directory importable."""
    path = file.resolve()
    # A name of its own: the file may be called like a module that somebody else imports.
    spec = importlib.util.spec_from_file_location(f"_checked_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise typer.BadParameter(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    sys.modules[module.__name__] = module
    with _explained(file, debug):
        spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        functions = [key for key, value in vars(module).items() if callable(value)]
        known = ", ".join(key for key in functions if not key.startswith("_"))
        raise typer.BadParameter(f"{file} has no function {name}; it has: {known or 'none'}")
    return function


@contextmanager
def _explained(
    file: Path, debug: bool, function: Callable[[], Any] | None = None
) -> Iterator[None]:
    """Whatever a user's file raises, told in five lines; never with the exit code of a verdict."""
    try:
        yield
    except (Exception, SystemExit) as error:  # a file may call sys.exit
        if debug:
            err.print(traceback.format_exc(), markup=False, soft_wrap=True)
        else:
            err.print(f"[bold red]{type(error).__name__}[/]", end="")
            lines = [_message(error), *_places(error, file, function)]
            if not isinstance(error, ConservaxError):
                lines.append("conservax check --debug shows the whole traceback.")
            err.print("\n".join(lines), markup=False, soft_wrap=True)
        raise typer.Exit(ExitCode.ERROR) from None


def _message(error: BaseException) -> str:
    """What follows the error's name: in full if the words are ours, else the first line."""
    if isinstance(error, ConservaxError):
        return f": {error}"
    text = str(error.msg if isinstance(error, SyntaxError) else error).strip()
    first = textwrap.shorten(text.partition("\n")[0], LONGEST_MESSAGE, placeholder=" …")
    return f": {first}" if first else ""


def _places(error: BaseException, file: Path, function: Callable[[], Any] | None) -> list[str]:
    """Where in the user's file it happened, and where in a neighbour of the file, with that line of code.

    An error that comes from elsewhere is placed where the function begins.
    """
    path = file.resolve()
    frames = [f for f in _frames(error) if _beside(path, f.filename)]
    shown = [f for f in frames if f.filename == str(path)][-1:]
    code = getattr(inspect.unwrap(function), "__code__", None) if function else None
    if not shown and code:
        shown = [traceback.FrameSummary(code.co_filename, code.co_firstlineno, code.co_name)]
    if frames and frames[-1:] != shown:
        shown.append(frames[-1])
    if not shown:
        return [f"  {file}"]
    lines = []
    for frame in shown:
        own = frame.filename == str(path)
        place = file if own else Path(frame.filename).relative_to(path.parent)
        inside = "" if frame.name == "<module>" else f", in {frame.name}"
        lines.append(f"  {place}:{frame.lineno}{inside}")
    return [*lines, f"    {shown[-1].line}"]


def _frames(error: BaseException | None) -> Iterator[traceback.FrameSummary]:
    """Of an error and of what it was raised for, outermost call first, the error's own last."""
    if error is None:
        return
    yield from _frames(error.__cause__ or error.__context__)
    yield from traceback.extract_tb(error.__traceback__)
    if isinstance(error, SyntaxError) and error.filename:
        line = (error.text or "").strip()
        yield traceback.FrameSummary(error.filename, error.lineno or 1, "<module>", line=line)


def _beside(path: Path, filename: str) -> bool:
    """Whether a source file belongs to the user: it lies beside the file at ``path`` or below."""
    inside = Path(filename).is_relative_to
    return (
        inside(path.parent)
        and not inside(Path(__file__).parent)
        and "site-packages" not in Path(filename).parts
    )


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
    from importlib.metadata import PackageNotFoundError, version

    import jax
    import jax.numpy as jnp

    packages = ("conservax", "jax", "jaxlib", "lineax", "equinox", "numpy", "scipy")
    facts = {"python": platform.python_version(), "system": platform.platform()}
    for package in packages:
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
