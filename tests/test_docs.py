"""The README shows what its code prints, and its links and commands exist."""

import contextlib
import io
import re
import shutil
import subprocess
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")])
BLOCK = re.compile(r"```python\n(.*?)```\n+```text\n(.*?)```", re.DOTALL)


def shown_blocks():
    return BLOCK.findall((ROOT / "README.md").read_text())


def test_every_python_block_of_the_readme_shows_its_output():
    assert len(shown_blocks()) == (ROOT / "README.md").read_text().count("```python")
    assert shown_blocks()


@pytest.mark.parametrize("block", range(len(shown_blocks())))
def test_readme_prints_what_it_shows(block):
    code, expected = shown_blocks()[block]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), jax.enable_x64(False):  # as a reader runs it
        exec(compile(code, "example.py", "exec"), {"__name__": "example"})
    assert printed.getvalue() == expected


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    missing = [
        target
        for target in targets
        if not target.startswith("https://") and not (page.parent / target).exists()
    ]
    assert missing == []


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_help_lists_the_commands_of_the_readme():
    commands = set(re.findall(r"^make ([a-z-]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert {"reproduce", "test"} <= commands
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for command in commands:
        assert f"make {command} " in listed.stdout
