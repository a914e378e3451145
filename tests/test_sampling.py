"""What `make test` leaves out is run by a target, and stands in the documents."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
SAMPLING = re.compile(r"pytest\.mark\.whole|\bfull: bool|getoption\(\"full\"\)")


def rows() -> list[list[str]]:
    """Cells of the table of what is sampled."""
    text = (ROOT / "docs" / "verification.md").read_text()
    section = text.split("## What `make test` samples\n")[1].split("\n## ")[0]
    return [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]


def test_every_file_that_samples_is_listed() -> None:
    sampling = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("test_*.py")
        if path != Path(__file__) and SAMPLING.search(path.read_text())
    }
    assert sampling == {name for row in rows() for name in re.findall(r"`(tests/[^`]+)`", row[0])}


def test_every_target_is_one_that_runs_the_whole() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for files, _, _, target in rows():
        name = re.findall(r"`make ([a-z-]+)`", target)[0]
        recipe = re.search(rf"^{name}: .*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
        assert recipe is not None, name
        assert "--full" in recipe[1], name
        # Of all tests, of a folder, or of the file.
        given = re.findall(r"tests/\S+", recipe[1])
        for file in re.findall(r"`(tests/[^`]+)`", files):
            assert not given or any(file.startswith(path) for path in given), (name, file)
