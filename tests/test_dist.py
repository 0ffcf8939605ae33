"""`make dist`: the wheel and the source archive hold what a user needs, and the wheel runs."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NAME = f"conservax-{PROJECT['version']}"


def run(*command):
    own = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(list(map(str, command)), env=own, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """Built as the Makefile does it: the archive from the checkout, the wheel from the archive."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT)
    assert {path.name for path in out.iterdir()} == {
        f"{NAME}.tar.gz",
        f"{NAME}-py3-none-any.whl",
    }
    return out


@pytest.fixture(scope="module")
def wheel(dist):
    return dist / f"{NAME}-py3-none-any.whl"


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """Empty but for the wheel; what it depends on comes from the environment that runs the tests."""
    path = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", path)
    python = path / "bin" / "python"
    quiet = ("--quiet", "--disable-pip-version-check")
    pip = (sys.executable, "-m", "pip", *quiet, "--python", python)
    run(*pip, "install", "--no-deps", "--no-index", wheel)
    # a path in a .pth file comes after the environment's own, and .pth files in it (an editable
    # conservax) are not read
    folders = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
    (site,) = path.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text("\n".join(folders))
    return path


def test_the_wheel_holds_the_whole_package_and_nothing_else(wheel):
    package = ROOT / "src" / "conservax"
    files = [path for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    expected = {str(path.relative_to(package.parent)) for path in files}
    assert {"conservax/py.typed", "conservax/reproduce/page.html.jinja"} < expected
    names = set(zipfile.ZipFile(wheel).namelist())
    info = {name for name in names if name.startswith(f"{NAME}.dist-info/")}
    assert names - info == expected
    kept = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}
    assert {name.partition("/")[2] for name in info} == kept


def test_the_metadata_says_what_the_project_says(wheel):
    text = zipfile.ZipFile(wheel).read(f"{NAME}.dist-info/METADATA").decode()
    about = HeaderParser().parsestr(text)
    assert (about["Name"], about["Version"]) == ("conservax", PROJECT["version"])
    assert about["License-Expression"] == "Apache-2.0"
    plain = [text for text in about.get_all("Requires-Dist") if "extra ==" not in text]
    assert plain == PROJECT["dependencies"]
    assert set(about.get_all("Provides-Extra")) == set(PROJECT["optional-dependencies"])
    assert about.get_all("Project-URL") is None


def test_the_source_archive_holds_what_building_and_testing_needs(dist):
    with tarfile.open(dist / f"{NAME}.tar.gz") as archive:
        names = archive.getnames()
    for name in ("CITATION.cff", "LICENSE", "Makefile", "README.md", "constraints.txt",
                 "pyproject.toml", "src/conservax/py.typed", "tests/test_dist.py"):  # fmt: skip
        assert f"{NAME}/{name}" in names


def test_the_wheel_runs_in_an_empty_environment(environment):
    program = """
import conservax
from importlib.resources import files
from pathlib import Path
print(conservax.__version__, conservax.check(lambda s, p: s - p, 0.0, 0.0).verdict)
print(files("conservax.reproduce").joinpath("page.html.jinja").is_file())
print(conservax.__file__)
"""
    *told, file = run(environment / "bin" / "python", "-I", "-c", program).splitlines()
    assert told == [f"{PROJECT['version']} PROVEN", "True"]
    assert Path(file).is_relative_to(environment)
    command = environment / "bin" / "conservax"
    assert run(command, "--version") == f"conservax {PROJECT['version']}\n"
    assert "bilevel" in run(command, "reproduce", "--list")


def test_the_citation_is_of_this_version():
    lines = (ROOT / "CITATION.cff").read_text().splitlines()
    assert lines[0] == "cff-version: 1.2.0"
    assert f"version: {PROJECT['version']}" in lines
    assert f"license: {PROJECT['license']}" in lines
    assert not any("url:" in line or "repository" in line for line in lines)
