"""The command line: what it prints, what it returns to the shell, how it fails."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
from typer.testing import CliRunner

import conservax as cx
from conservax.cli import ExitCode, app
from conservax.invertibility.ladder import BUDGET

PROBLEMS = '''
import jax.numpy as jnp

def smooth():
    def F(s, p):
        return s - jnp.maximum(p, 0.0)
    p = jnp.array([1.0, 0.0])
    return F, jnp.maximum(p, 0.0), p

def equation():
    """s + relu(s) / 2 = p at the kink: slopes 1 and 3/2, both invertible."""
    def F(s, p):
        return s + jnp.maximum(s, 0.0) / 2 - p
    return F, jnp.zeros(1), jnp.zeros(1)

def fold():
    """|s| = p at p = 0: slopes -1 and 1, and 0 between them."""
    def F(s, p):
        return jnp.abs(s) - p
    return F, jnp.zeros(1), jnp.zeros(1)

def wrong():
    def F(s, p):
        return s - p
    return F, jnp.zeros(1), jnp.ones(1)

def dtype():
    x = jnp.ones(1)
    raise RuntimeError(str(x.dtype))

def no_tuple():
    return 3

def near():
    """s + 2 |s - 1| a millionth beside its kink: near for float32, but not for float64."""
    s = jnp.full(1, 1 + 1e-6)
    return (lambda s, p: s + 2 * jnp.abs(s - 1) - p), s, s + 2 * jnp.abs(s - 1)

def from_neighbour():
    import neighbour_of_the_problem
    return neighbour_of_the_problem.problem()
'''


@pytest.fixture
def run(tmp_path, monkeypatch):
    (tmp_path / "problems.py").write_text(PROBLEMS)
    (tmp_path / "neighbour_of_the_problem.py").write_text(PROBLEMS + "\nproblem = equation\n")
    # a command is a process of its own: it never meets the module of another test's folder
    monkeypatch.delitem(sys.modules, "neighbour_of_the_problem", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def test_a_proof_exits_with_0_and_names_the_kink(run):
    result = run("check", "problems.py:equation")
    assert result.exit_code == ExitCode.OK, result.output
    assert result.stdout.startswith("✓ PROVEN")
    line = PROBLEMS.splitlines().index("        return s + jnp.maximum(s, 0.0) / 2 - p") + 1
    assert f"problems.py:{line}" in result.stdout


def test_json_holds_the_smallest_singular_value(run):
    result = run("check", "problems.py:equation", "--json")
    assert result.exit_code == ExitCode.OK
    data = json.loads(result.stdout)
    assert data["verdict"] == "proven"
    assert data["sigma_min"] == pytest.approx(1.0, abs=1e-12)
    assert data["determinant_signs"] == {"negative": 0, "zero": 0, "positive": 2}


def test_a_refutation_exits_with_1_and_shows_a_witness(run):
    result = run("check", "problems.py:fold", "--json")
    assert result.exit_code == ExitCode.REFUTED
    data = json.loads(result.stdout)
    assert data["witness"]["selection"] == pytest.approx([0.5], abs=1e-12)
    assert data["witness"]["sigma_min"] == pytest.approx(0.0, abs=1e-12)


def test_a_verified_check_shows_the_ball(run):
    result = run("check", "problems.py:equation", "--verified", "--json")
    assert result.exit_code == ExitCode.OK
    proof = json.loads(result.stdout)["proof"]
    assert 0 <= proof["error"] < proof["radius"]
    assert json.loads(run("check", "problems.py:equation", "--json").stdout)["proof"] is None


def test_a_budget_of_zero_is_an_error(run):
    result = run("check", "problems.py:equation", "--budget", "0")
    assert result.exit_code == ExitCode.ERROR
    assert "at least one minor" in result.stderr


def test_an_unknown_verdict_has_its_own_exit_code(run, monkeypatch):
    report = SimpleNamespace(verdict=SimpleNamespace(name="UNKNOWN"))
    monkeypatch.setattr("conservax.check", lambda *_, **__: report)
    assert run("check", "problems.py:smooth").exit_code == ExitCode.UNKNOWN


def test_a_kink_in_the_parameters_alone_leaves_the_inverse_alone(run):
    assert run("check", "problems.py:smooth").exit_code == ExitCode.OK


def test_an_error_is_one_message_without_traceback(run):
    result = run("check", "problems.py:wrong")
    assert result.exit_code == ExitCode.ERROR
    assert result.stderr.startswith("NotARootError: ")
    assert "Traceback" not in result.stderr
    assert "Traceback" in run("check", "problems.py:wrong", "--debug").stderr


@pytest.mark.parametrize(
    ("flag", "dtype"), [([], "float64"), (["--float32"], "float32"), (["--float64"], "float64")]
)
def test_precision(run, flag, dtype):
    before = jax.config.jax_enable_x64
    result = run("check", "problems.py:dtype", *flag)
    assert result.stderr.startswith(f"RuntimeError: {dtype}\n")
    assert jax.config.jax_enable_x64 == before


def test_the_precision_is_that_of_jax_unless_asked_for(run):
    with jax.enable_x64(False):
        assert run("check", "problems.py:dtype").stderr.startswith("RuntimeError: float32\n")
    Path("own.py").write_text('import jax\njax.config.update("jax_enable_x64", True)\n' + PROBLEMS)
    program = "import sys; from conservax.cli import app; app(['check', 'own.py:dtype'])"
    own = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert own.stderr.startswith("RuntimeError: float64\n")


@pytest.mark.parametrize(
    ("float64", "options", "verdict"),
    [
        (True, {}, "proven"),
        (False, {}, "refuted"),
        (True, {"rtol": 1e-3}, "refuted"),
        (True, {"rtol": 0.0}, "proven"),
        (False, {"rtol": 1e-8}, "proven"),
        (False, {"budget": 7}, "refuted"),
    ],
)
def test_the_command_line_answers_as_python_does(run, float64, options, verdict):
    with jax.enable_x64(float64):
        expected = cx.check(
            *runpy.run_path(str(Path("problems.py").resolve()))["near"](), **options
        ).to_dict()
    assert expected["verdict"] == verdict
    flags = [text for key, value in options.items() for text in (f"--{key}", str(value))]
    precision = "--float64" if float64 else "--float32"
    told = json.loads(run("check", "problems.py:near", "--json", precision, *flags).stdout)
    assert told == expected


@pytest.mark.parametrize("rtol", ["-1", "nan", "small"])
def test_a_tolerance_that_is_none_is_a_usage_error(run, rtol):
    assert run("check", "problems.py:near", "--rtol", rtol).exit_code == ExitCode.USAGE


BROKEN = {
    "undefined": (
        "def problem():\n    p = jmp.zeros(2)",
        ["NameError: name 'jmp' is not defined", "broken.py:2, in problem", "p = jmp.zeros(2)"],
    ),
    "syntax": ("def problem(:\n    pass", ["SyntaxError: ", "broken.py:1", "def problem(:"]),
    "import": ("\nraise ImportError('no')", ["ImportError: no", "broken.py:2", "raise ImportEr"]),
    "exit": ("import sys\nsys.exit(1)", ["SystemExit: 1", "broken.py:2", "sys.exit(1)"]),
    "arguments": (
        "def problem(x):\n    pass",
        ["TypeError: problem() missing 1 required", "broken.py:1, in problem", "def problem(x):"],
    ),
    "equations": (
        "def F(s, p):\n    return s if s > p else p\n\ndef problem():\n    return F, 0.0, 0.0",
        ["TracerBoolConversionError: Attempted", "broken.py:2, in F", "return s if s > p else p"],
    ),
    "many lines": (
        "def problem():\n    raise ValueError('[b]first[/]\\n' + 'second\\n' * 99)",
        ["ValueError: [b]first[/]\n", "broken.py:2, in problem", "raise ValueError("],
    ),
    "neighbour": (
        "import neighbour_of_the_problem as n\ndef problem():\n    return n.dtype()",
        ["RuntimeError: float64", "broken.py:3, in problem", "neighbour_of_the_problem.py:",
         "in dtype", "raise RuntimeError(str(x.dtype))"],
    ),
    "neighbour's syntax": (
        "\nimport broken_neighbour\n",
        ["SyntaxError: ", "broken.py:2", "broken_neighbour.py:1", "import ("],
    ),
    "null": ("x\0 = 1", ["SyntaxError: source code", "broken.py"]),
    "click": ("import typer\nraise typer.Exit(1)", ["Exit", "broken.py:2", "raise typer.Exit(1)"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_an_error_in_the_users_file_is_told_in_five_lines(run, kind):
    source, told = BROKEN[kind]
    Path("broken.py").write_text(source)
    Path("broken_neighbour.py").write_text("import (")
    result = run("check", "broken.py:problem")
    assert result.exit_code == ExitCode.ERROR
    assert len(result.stderr.splitlines()) <= 5
    assert "Traceback" not in result.stderr
    assert "--debug" in result.stderr
    assert result.stderr.startswith(told[0])
    at = 0
    for text in told:
        assert text in result.stderr[at:]
        at = result.stderr.index(text, at)
    assert "Traceback" in run("check", "broken.py:problem", "--debug").stderr


def test_an_error_of_ours_names_the_function_of_the_user(run):
    result = run("check", "problems.py:wrong")
    line = PROBLEMS.splitlines().index("def wrong():") + 1
    assert result.stderr.splitlines()[1:] == [f"  problems.py:{line}, in wrong", "    def wrong():"]


def test_the_version(run):
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout == f"conservax {cx.__version__}\n"


def test_the_directory_of_the_file_is_importable(run):
    assert run("check", "problems.py:from_neighbour").exit_code == ExitCode.OK


def test_a_file_called_like_a_library_hides_nothing(run):
    Path("json.py").write_text(PROBLEMS)
    assert json.loads(run("check", "json.py:equation", "--json").stdout)["verdict"] == "proven"
    assert sys.modules["json"] is json


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("problems.py", "write FILE.py:NAME"),
        ("nowhere.py:fold", "there is no file nowhere.py"),
        ("problems.py:nothing", "it has: smooth, equation, fold"),
    ],
)
def test_a_wrong_command_line_exits_with_2(run, target, message):
    result = run("check", target)
    assert result.exit_code == ExitCode.USAGE
    assert message in result.stderr


def test_a_problem_of_the_wrong_shape_is_told(run):
    result = run("check", "problems.py:no_tuple")
    assert result.exit_code == ExitCode.ERROR
    assert "must return a tuple (optimality_fun, sol, *args)" in result.stderr
    assert "it returned int" in result.stderr


@pytest.mark.parametrize("command", ["check", "reproduce", "info"])
def test_help_teaches_with_an_example(run, command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Example" in result.stdout
    assert f"conservax {command}" in result.stdout


def test_the_help_of_check_knows_the_default_budget(run):
    assert f"by default {BUDGET}." in " ".join(
        run("check", "--help").stdout.replace("│", "").split()
    )


def test_the_example_in_the_help_of_check_runs(run):
    help_text = run("check", "--help").stdout
    lines = [line.strip(" ") for line in help_text.splitlines()]
    start = lines.index("import jax.numpy as jnp")
    raw = help_text.splitlines()[start : start + 6]
    indent = len(raw[0]) - len(raw[0].lstrip())
    Path("kink.py").write_text("\n".join(line[indent:].rstrip() for line in raw))
    assert run("check", "kink.py:problem").exit_code == ExitCode.OK


def test_info_names_versions_and_devices(run):
    facts = json.loads(run("info", "--json").stdout)
    assert facts["jax"] == jax.__version__
    assert "cpu" in facts["devices"].lower() or "gpu" in facts["devices"].lower()
    plain = run("info").stdout
    assert all(name in plain for name in facts)


def claim(name, holds):
    return SimpleNamespace(
        name=name, source="Figure [1]", published=1, measured=0.5, holds=holds, experiment="e"
    )


@pytest.mark.parametrize(("holds", "code"), [(True, ExitCode.OK), (False, ExitCode.REFUTED)])
def test_reproduce_prints_the_claims_and_fails_when_one_fails(run, monkeypatch, holds, code):
    from conservax import reproduce

    asked = {}

    def fake_run(names, out, quick):
        asked.update(names=names, out=out, quick=quick)
        claims = (claim("the first", True), claim("the second", holds))
        page = out / "index.html"
        return SimpleNamespace(claims=claims, ok=holds, page=page, seconds=1.0, missing="")

    monkeypatch.setattr(reproduce, "run", fake_run)
    result = run("reproduce", "one", "--out", "figures", "--quick")
    assert asked == {"names": ["one"], "out": Path("figures"), "quick": True}
    assert result.exit_code == code
    assert f"{1 + holds} of 2 claims hold" in result.stdout
    assert "Figure [1]" in result.stdout
    assert str(Path("figures", "index.html")) in result.stdout
    assert ("✗" in result.stdout) == (not holds)


def test_reproduce_lists_its_experiments(run):
    from conservax import reproduce

    result = run("reproduce", "--list")
    assert result.exit_code == 0
    assert all(experiment.name in result.stdout for experiment in reproduce.catalogue())


def test_reproduce_refuses_an_unknown_name_as_a_usage_error(run):
    result = run("reproduce", "no_such_experiment")
    assert result.exit_code == ExitCode.USAGE
    assert "no_such_experiment" in result.stderr


def test_python_runs_it_as_a_module():
    program = [sys.executable, "-m", "conservax", "--version"]
    told = subprocess.run(program, capture_output=True, text=True, check=True)
    assert told.stdout.split()[-1] == cx.__version__
