"""The house rules: who may import whom, what is a dependency, and a quiet, light import."""

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "conservax"
FREE = {"errors", "numerics", "report", "solution"}
FLOORS = {"arrays", "calculus", "cones", "invertibility", "operators", "implicit", "solvers"}
APPLICATIONS = {
    "programs",
    "sparse",
    "equilibrium",
    "iterates",
    "stochastic",
    "flows",
    "minimisers",
    "values",
}
TOP = {"reproduce", "interop", "cli", "__main__"}
FACE = "conservax"  # the package's own __init__, the public names
PROJECTIONS = {"projections"}  # of the face: gathers those of operators and of programs
MAY_IMPORT = {
    "errors": set(),
    "numerics": {"errors"},
    "report": {"errors", "numerics"},
    "solution": set(),
    "arrays": set(),
    "calculus": FREE,
    "invertibility": FREE | {"calculus"},
    "cones": FREE | {"arrays", "calculus"},
    "operators": FREE | {"calculus", "cones"},
    "implicit": FREE | {"calculus", "invertibility"},
    "solvers": FREE | {"arrays", "cones"},
    FACE: FREE | FLOORS | APPLICATIONS | PROJECTIONS,
    "projections": {"operators", "programs"},
    **dict.fromkeys(APPLICATIONS, FREE | FLOORS),
    **{name: FREE | FLOORS | APPLICATIONS | TOP | {FACE} | PROJECTIONS for name in TOP},
}
PRIVATE = ("jax._src", "equinox.internal")
PROJECT = tomllib.loads((PACKAGE.parents[1] / "pyproject.toml").read_text())["project"]
ON_DEMAND = ("sparse/estimators/",)  # imported when first used, with an extra
DISTRIBUTIONS = {"flint": "python-flint", "mpl_toolkits": "matplotlib"}  # others are called alike
DISTRIBUTIONS |= {"sklearn": "scikit-learn"}


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


@pytest.mark.parametrize("floor", ["calculus", "cones", "programs"])
def test_parts_of_a_floor_form_no_cycle(floor):
    """Folders and single files of a floor, in an order in which each imports only those before it."""
    needs: dict[str, set[str]] = {}
    for path in (PACKAGE / floor).rglob("*.py"):
        *package, stem = path.relative_to(PACKAGE.parent).with_suffix("").parts
        names = imported_names(path.read_text(), package)
        own = [*package, stem][2]
        found = {name.split(".")[2] for name in names if name.startswith(f"conservax.{floor}.")}
        needs.setdefault(own, set()).update(found - {own})
    needs = {part: found & set(needs) for part, found in needs.items() if part != "__init__"}
    assert len(needs) > 5
    order = list(TopologicalSorter(needs).static_order())  # raises CycleError, which names them
    assert set(order) == set(needs)


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


def outside_functions(tree):
    """The statements of a module that run when it is imported."""
    for node in ast.iter_child_nodes(tree):
        typing_alone = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if not isinstance(node, ast.FunctionDef | ast.Lambda) and not typing_alone:
            yield node
            yield from outside_functions(node)


def distributions(nodes):
    """What has to be installed for these statements to work, but for Python itself and ourselves."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names.add(node.module.split(".")[0])
    names -= {*sys.stdlib_module_names, "conservax"}
    return {DISTRIBUTIONS.get(name, name) for name in names}


def required(requirements):
    names = {re.match(r"[\w.-]+", text)[0] for text in requirements} - {"conservax"}
    return {re.sub(r"[-_.]+", "-", name).lower() for name in names}


def test_a_dependency_is_what_the_package_imports():
    trees = [ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")]
    prompt = [
        ast.parse(path.read_text())
        for path in PACKAGE.rglob("*.py")
        if not path.relative_to(PACKAGE).as_posix().startswith(ON_DEMAND)
    ]
    always = set().union(*(distributions(outside_functions(tree)) for tree in prompt))
    anywhere = set().union(*(distributions(ast.walk(tree)) for tree in trees))
    dependencies = required(PROJECT["dependencies"])
    assert always <= dependencies
    assert dependencies <= anywhere
    extras = {name: required(texts) for name, texts in PROJECT["optional-dependencies"].items()}
    assert anywhere - dependencies <= set().union(*extras.values())
    # extras of the library; the others are for those who work on it, and for its examples
    named = anywhere | {"clarabel"}  # by solvers/host.py, by its name
    assert extras["plots"] | extras["cvxpy"] | extras["verified"] | extras["flows"] <= named
    assert set(extras) == {
        "plots", "programs", "cvxpy", "verified", "flows", "sklearn", "examples", "reproduce", "bench", "dist",
        "test", "dev",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import jax.numpy as jnp\nfrom scipy import linalg\nimport os", {"jax", "scipy"}),
        ("class A:\n    import flint", {"python-flint"}),
        ("try:\n    from numpy.linalg import svd\nexcept ImportError:\n    pass", {"numpy"}),
        ("def f():\n    import cvxpy", set()),
        ("if TYPE_CHECKING:\n    import lineax as lx\nfrom . import errors", set()),
    ],
)
def test_what_a_source_needs(source, expected):
    assert distributions(outside_functions(ast.parse(source))) == expected


def run_python(program):
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout + run.stderr


def test_import_is_quiet_and_light():
    """Every public name is there without what only some of its uses need."""
    assert not run_python("""
import sys, conservax
assert "jax" not in sys.modules
for name in conservax.__all__:
    getattr(conservax, name)
import jax
assert not jax.config.jax_enable_x64, "x64 switched on"
heavy = {"cvxpy", "scs", "clarabel", "flint", "matplotlib", "sklearn", "torch", "rich", "typer", "jinja2"}
heavy |= {"lineax", "equinox", "diffrax", "scipy.linalg", "scipy.sparse", "scipy.special", "scipy.optimize"}
heavy |= {"jax.experimental.sparse", "conservax.reproduce", "conservax.cli"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
""")


@pytest.mark.parametrize("arguments", [["--help"], ["check", "--help"], ["--version"]])
def test_the_command_line_answers_without_jax(arguments):
    program = f"""
import sys
from conservax.cli import app
try:
    app({arguments})
except SystemExit as stop:
    assert not stop.code
heavy = {{"jax", "numpy", "scipy", "jinja2", "matplotlib"}} & set(sys.modules)
assert not heavy, heavy
"""
    assert "conservax" in run_python(program)


def test_the_face_knows_its_names():
    """Each public name, wherever it lives; parts without asking for them; no others."""
    import conservax as cx

    assert all(getattr(cx, name) is not None for name in cx.__all__)
    assert cx.check is sys.modules["conservax.implicit"].check
    assert cx.proximal is cx.operators.proximal is sys.modules["conservax.operators.proximal"]
    assert {*cx.__all__, "__version__", "solvers"} <= set(dir(cx))
    assert cx.__version__ == PROJECT["version"]
    with pytest.raises(AttributeError, match="'conservax' has no attribute 'chekc'"):
        cx.chekc  # noqa: B018
    with pytest.raises(ImportError, match="chekc"):
        from conservax import chekc  # noqa: F401


def test_the_face_is_told_once_to_type_checkers_and_once_to_python():
    (names,) = (
        node.body
        for node in ast.parse((PACKAGE / "__init__.py").read_text()).body
        if isinstance(node, ast.If)
    )
    import conservax as cx

    told = {(alias.name, node.module) for node in names for alias in node.names}
    assert {name for name, _ in told} == set(cx.__all__)
    assert {(name, home) for name, home in told if home} == set(cx._HOMES.items())
