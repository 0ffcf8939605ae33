"""Pages show what their code prints, and their links and commands exist."""

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
BLOCK = re.compile(r"```python\n((?:(?!```).)*)```\n+```text\n(.*?)```", re.DOTALL)


def shown_blocks():
    """(page, code, output) of every Python block that shows what it prints."""
    return [
        pytest.param(*block, id=f"{page.name}-{number}")
        for page in PAGES
        for number, block in enumerate(BLOCK.findall(page.read_text()))
    ]


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_every_python_block_shows_its_output(page):
    text = (ROOT / page).read_text()
    assert len(BLOCK.findall(text)) == text.count("```python") > 0


@pytest.mark.parametrize(("code", "expected"), shown_blocks())
def test_code_prints_what_its_page_shows(code, expected):
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
