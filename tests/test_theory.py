"""docs/theory.md is what the code cites: its sections exist, its files exist, its formulas survive Markdown."""

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "theory.md"
TEXT = PAGE.read_text()
CITATION = re.compile(r"theory\.md(#[\w-]*)?")
SOURCES = sorted(
    path
    for folder in ("src", "tests", "examples", "benchmarks", "docs")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".md", ".jinja") and path != Path(__file__)
) + sorted(ROOT.glob("*.md"))


def anchors(page: str) -> list[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings]


def formulas() -> list[str]:
    """What stands between dollar signs, on lines of their own or in a line, code left out."""
    displayed = re.findall(r"^\$\$\n(.*?)\n\$\$$", TEXT, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^\$\$\n.*?\n\$\$$", "", TEXT, flags=re.MULTILINE | re.DOTALL)
    rest = re.sub(r"`[^`\n]*`", "", rest)
    inline = re.findall(r"\$([^$\n]+)\$", rest)
    assert rest.count("$") == 2 * len(inline)
    return displayed + inline


def test_every_section_has_an_anchor_of_its_own():
    assert [a for a, count in Counter(anchors(TEXT)).items() if count > 1] == []


def test_citations_name_sections_that_exist():
    known = set(anchors(TEXT))
    cited = {
        (str(path.relative_to(ROOT)), anchor[1:])
        for path in SOURCES
        for anchor in CITATION.findall(path.read_text())
        if anchor
    }
    assert {anchor for _, anchor in cited} - known == set()
    assert {"margins", "elimination", "two-tests"} <= {anchor for _, anchor in cited}


def test_docstrings_cite_a_section_and_not_the_page():
    bare = [
        str(path.relative_to(ROOT))
        for path in SOURCES
        if path.suffix == ".py" and "" in CITATION.findall(path.read_text())
    ]
    assert bare == []


def test_nothing_cites_a_page_that_is_not_here():
    name = "theory".upper()
    assert [str(p.relative_to(ROOT)) for p in SOURCES if name in p.read_text()] == []


def test_links_within_the_page_lead_somewhere():
    assert set(re.findall(r"\]\(#([^)]*)\)", TEXT)) - set(anchors(TEXT)) == set()


def test_the_files_that_it_names_exist():
    named = set(re.findall(r"`([\w/]+\.py)`", TEXT))
    assert "invertibility/ladder.py" in named
    assert [
        f for f in named if not any((ROOT / base / f).is_file() for base in ("src/conservax", "."))
    ] == []


def test_every_statement_says_who_uses_it():
    sections = re.split(r"^### ", TEXT, flags=re.MULTILINE)[1:]
    assert len(sections) > 30
    assert [s.splitlines()[0] for s in sections if "*Used in* `" not in " ".join(s.split())] == []


@pytest.mark.parametrize(
    ("what", "pattern"),
    [
        ("a backslash before punctuation, which Markdown takes away", r"\\[^A-Za-z]"),
        ("a character that Markdown reads", r"[*~<>]|\]\("),
        ("an underscore that may open emphasis", r"(?<![A-Za-z0-9])_"),
        ("a line that begins like a list or a heading", r"(?:\A|\n)\s*[-+=#] "),
    ],
)
def test_formulas_survive_markdown(what, pattern):
    assert [f for f in formulas() if re.search(pattern, f)] == [], what


def test_braces_and_environments_are_closed():
    for formula in formulas():
        assert formula.count("{") == formula.count("}"), formula
        begun, ended = (re.findall(rf"\\{w}{{(\w+)}}", formula) for w in ("begin", "end"))
        assert begun == ended, formula
