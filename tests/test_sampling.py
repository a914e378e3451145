"""What `make test` leaves out is run by a target, and stands in the documents; what takes long is named."""

from __future__ import annotations

import re
import subprocess
import sys
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


def test_what_takes_long_is_named(tmp_path: Path) -> None:
    """A test's fixtures and processes count, other tests' and waiting do not."""
    conftest = (ROOT / "tests" / "conftest.py").read_text()
    for name, value in (("BUDGET", 20.0), ("LONG_RUN", 60.0)):
        assert f"\n{name} = {value}\n" in conftest
        conftest = conftest.replace(f"\n{name} = {value}\n", f"\n{name} = 0.3\n")
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_a.py").write_text(
        "import subprocess, sys, time, pytest\n"
        "BUSY = 'import time\\nwhile time.process_time() < 0.5: pass'\n"
        "@pytest.fixture\n"
        "def busy(): subprocess.run([sys.executable, '-c', BUSY])\n"
        "def test_busy(busy): pass\n"
        "@pytest.mark.costly('why')\n"
        "def test_known(busy): pass\n"
        "def test_waits(): time.sleep(0.6)\n"
    )
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--strict-markers", "-p", "no:cacheprovider",
         "-p", "no:hypothesispytest", "--numprocesses", "2"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    lines = result.stdout.splitlines()
    assert "3 passed" in lines[-1], result.stdout
    assert [line.split(": ")[1].split(";")[0] for line in lines if "of a processor" in line] == [
        "tests/test_a.py::test_busy"
    ]
    seconds = {line.split()[2]: int(line.split()[0]) for line in lines if line.strip().endswith(("s all", "s tests"))}
    assert seconds.keys() == {"all", "tests"}
    assert seconds["all"] == seconds["tests"] >= 1
