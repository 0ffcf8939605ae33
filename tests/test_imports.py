"""The house rules: who may import whom, no private interfaces, and a quiet, light import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "conservax"
FREE = {"errors", "numerics", "report"}
FLOORS = {"calculus", "invertibility", "operators", "implicit", "solvers"}
APPLICATIONS = {"programs", "sparse", "equilibrium", "iterates", "stochastic", "flows"}
TOP = {"reproduce", "interop", "cli"}
FACE = "conservax"  # the package's own __init__, the public names
PROJECTIONS = {"projections"}  # of the face: gathers those of operators and of programs
MAY_IMPORT = {
    "errors": set(),
    "numerics": {"errors"},
    "report": {"errors", "numerics"},
    "calculus": FREE,
    "invertibility": FREE | {"calculus"},
    "operators": FREE | {"calculus"},
    "implicit": FREE | {"calculus", "invertibility"},
    "solvers": FREE | {"operators"},
    FACE: FREE | FLOORS | APPLICATIONS | PROJECTIONS,
    "projections": {"operators", "programs"},
    **dict.fromkeys(APPLICATIONS, FREE | FLOORS),
    **{name: FREE | FLOORS | APPLICATIONS | TOP | {FACE} | PROJECTIONS for name in TOP},
}
PRIVATE = ("jax._src", "equinox.internal")


def room(name: str) -> str:
    """The part of the house that a dotted name belongs to: conservax.calculus.kinks is calculus."""
    second = [*name.split("."), ""][1]
    return second if second in MAY_IMPORT else FACE


def imported_names(source: str, package: list[str]) -> set[str]:
    """Absolute dotted names of all that a source text imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = package[: len(package) + 1 - node.level] if node.level else []
            origin = [*origin, *([node.module] if node.module else [])]
            names |= {".".join([*origin, alias.name]) for alias in node.names}
    return names


def violations(source: str, path: str) -> list[str]:
    *package, stem = Path("conservax", path).with_suffix("").parts
    own = room(".".join([*package, stem]))
    allowed = MAY_IMPORT[own] | {own}
    names = imported_names(source, package)
    ours = {name for name in names if name.split(".")[0] == "conservax"}
    return sorted(
        {f"{path} ({own}) imports {name}" for name in ours if room(name) not in allowed}
        | {f"{path} imports the private {name}" for name in names if name.startswith(PRIVATE)}
    )


@pytest.mark.parametrize(
    "path", [str(path.relative_to(PACKAGE)) for path in sorted(PACKAGE.rglob("*.py"))]
)
def test_import_rules(path):
    assert violations((PACKAGE / path).read_text(), path) == []


def test_every_part_of_the_package_has_a_rule():
    parts = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py"}
    parts |= {path.parent.name for path in PACKAGE.glob("*/*.py")}
    assert parts - {"__init__"} <= set(MAY_IMPORT)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("calculus/kinks.py", "from conservax.implicit import root"),
        ("calculus/kinks.py", "from ..implicit import root"),
        ("calculus/__init__.py", "from .. import implicit"),
        ("calculus/kinks.py", "def f():\n    import conservax as cx"),
        ("implicit/root.py", "from conservax.cli import app"),
        ("sparse/lasso.py", "from conservax import equilibrium"),
        ("errors.py", "from conservax import numerics"),
        ("implicit/root.py", "from jax._src import core"),
        ("cli.py", "import equinox.internal as eqxi"),
    ],
)
def test_the_rules_catch_a_violation(path, source):
    assert len(violations(source, path)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("calculus/kinks.py", "from conservax import errors\nfrom .selection import Selection"),
        ("implicit/check.py", "from ..invertibility.certificate import Verdict"),
        ("cli.py", "import conservax as cx\nfrom conservax import reproduce"),
    ],
)
def test_the_rules_let_pass_what_is_allowed(path, source):
    assert violations(source, path) == []


def test_import_is_quiet_and_light():
    program = """
import sys, conservax, jax
assert not jax.config.jax_enable_x64, "x64 switched on"
heavy = {"matplotlib", "sklearn", "rich", "typer", "torch"} & set(sys.modules)
assert not heavy, heavy
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout + run.stderr == ""
