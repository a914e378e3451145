"""No page of the documentation says anything twice, as merges leave it."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("experiments/**/*.md")])

#: Shorter ones may come again: a command, the head of a table.
SENTENCE = 60


def _prose(text: str) -> str:
    return re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.MULTILINE | re.DOTALL)


def headings(text: str) -> list[str]:
    """Headings of a page, each under those that it stands under: fields of two registers may have one name."""
    above: list[str] = []
    found = []
    for marks, title in re.findall(r"^(#+) +(.*?) *$", _prose(text), re.MULTILINE):
        above = [*above[: len(marks) - 1], title]
        found.append(" / ".join(above))
    return found


def paragraphs(text: str) -> list[str]:
    """Paragraphs of a page with spaces as one, without tables."""
    parts = (" ".join(part.split()) for part in re.split(r"\n[ \t]*\n", _prose(text)))
    return [part for part in parts if len(part) >= SENTENCE and not part.startswith("|")]


def _twice(parts: list[str]) -> list[str]:
    return [part for part, count in Counter(parts).items() if count > 1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_nothing_stands_twice(page: Path) -> None:
    text = page.read_text()
    assert _twice(headings(text)) == []
    assert _twice(paragraphs(text)) == []


def test_what_stands_twice_is_found() -> None:
    one = "A sentence that is long enough that nobody writes it by chance in two places of a page."
    text = f"# Page\n\n## Part\n\n{one}\n\n## Other\n\n### Part\n\n## Part\n\n{one.replace(' of', chr(10) + 'of')}\n"
    assert _twice(headings(text)) == ["Page / Part"]
    assert _twice(paragraphs(text)) == [one]
    assert headings("# A\n\n```sh\n# no heading\n```\n") == ["A"]


@pytest.mark.parametrize("page", ["registers", "descriptors"])
def test_make_docs_that_fails_leaves_the_page_as_it_was(page: str, tmp_path: Path) -> None:
    module = {"registers": "hw.bus.register_map", "descriptors": "hw.control.descriptor"}[page]
    files = ["pyproject.toml", "constraints.txt", "tools/setup.sh", "docs/registers.md", "docs/descriptors.md"]
    for name in [*files, ".venv/.ready"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("as it was\n")
    stub = tmp_path / "stub"
    stub.write_text(f'#!/bin/sh\necho half\n[ "$2" != {module} ]\n')
    stub.chmod(0o755)
    make = ["make", "-f", str(ROOT / "Makefile"), "-o", ".venv/.ready", "docs", f"RUN={stub}"]
    done = subprocess.run(make, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode
    assert (tmp_path / "docs" / f"{page}.md").read_text() == "as it was\n"
    if page == "descriptors":
        assert (tmp_path / "docs" / "registers.md").read_text() == "half\n"
