"""A few kills, full disks and forbidden folders, and that the tool finds commands that do not withstand them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from tests.faults import __main__ as module
from tests.faults.__main__ import COMMANDS, Command, FaultError, Project, kills, main, publish, refused, table


@pytest.mark.parametrize("name", ["run golden", "generate"])
def test_killed_and_run_again_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    assert kills(name, 1, 3, tmp_path)["kills"] == 1


def test_kills_at_a_time_are_as_many_each_in_a_project_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A kill between the file's opening and its text would leave it empty.
    code = (
        "import time, pathlib; time.sleep(0.2); new = pathlib.Path('new'); new.write_text('whole'); new.replace('out')"
    )
    monkeypatch.setitem(COMMANDS, "good", Command(f"-c {shlex.quote(code)}", ("out",), (), ()))
    found = kills("good", 7, 0, tmp_path, jobs=3)
    assert found["kills"] == 7
    assert 1 <= found["early"] <= 7
    assert [(path / "out").read_text() for path in sorted(tmp_path.iterdir())] == ["whole"] * 3


def test_a_killed_set_up_is_made_again(tmp_path: Path, full: bool) -> None:
    if not full:
        pytest.skip("half a minute; make faults")
    assert kills("set-up", 1, 0, tmp_path)["early"] == 1


@pytest.mark.parametrize("name", ["compile", "compress", "generate", "run golden"])
def test_a_full_disk_is_one_line(name: str, tmp_path: Path) -> None:
    line = refused(Project(COMMANDS[name], tmp_path), size=100)
    assert "File too large" in line
    assert line.startswith("python -m ")


@pytest.mark.parametrize("name", ["generate", "run golden"])
def test_a_folder_that_forbids_is_one_line(name: str, tmp_path: Path) -> None:
    assert "Permission denied" in refused(Project(COMMANDS[name], tmp_path))


_SLOW = "import time; f = open('out', 'w', buffering=1); f.write('half, '); time.sleep(1); f.write('whole')"
_ONCE = "import os, pathlib, time; time.sleep(0.3); seen = os.path.exists('seen'); pathlib.Path('seen').touch();"
_ONCE += "time.sleep(0.3); pathlib.Path('out').write_text(str(seen))"


@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize(
    ("code", "message"),
    [
        (_SLOW, r"kill \d after \d.\d\d s: out is there in part"),
        (_ONCE, r"kill \d after \d.\d\d s: the next run gives other bytes"),
        ("raise SystemExit('a reason')", "exit code 1: a reason"),
        ("pass", "there is no output"),
    ],
)
def test_what_does_not_withstand_is_found(
    code: str, message: str, jobs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = ("seen",) if "seen" in code else ()
    monkeypatch.setitem(COMMANDS, "bad", Command(f"-c {shlex.quote(code)}", ("out",), kept, ()))
    with pytest.raises(FaultError, match=message):
        kills("bad", 8, 0, tmp_path, jobs)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import pathlib; pathlib.Path('out').write_text('x' * 1000)", "exit code 1, .*File too large"),
        ("import sys; sys.stderr.write('why\\n'); open('left', 'w'); sys.exit(2)", "left behind: left"),
        ("open('out', 'w')", r"exit code 0, ''"),
    ],
)
def test_what_does_not_refuse_is_found(code: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(FaultError, match=message):
        refused(Project(Command(f"-c {shlex.quote(code)}", ("out",), (), ()), tmp_path), size=100)


def test_page_is_the_committed_results() -> None:
    committed = json.loads(module.COMMITTED.read_text())
    assert "\n".join(table(committed)) in module.PAGE.read_text()
    assert set(committed) <= set(COMMANDS)


def test_commands_that_were_not_run_keep_their_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COMMITTED", "PAGE"):
        monkeypatch.setattr(module, name, tmp_path / name)
    module.PAGE.write_text("<!-- faults: begin -->\n<!-- faults: end -->\n")
    publish({"search": {"kills": 9, "early": 8, "seconds": 1.5}})
    publish({"compile": {"failure": "exit code 1"}})
    rows = module.PAGE.read_text().splitlines()[3:5]
    assert rows == ["| search | 9 | 8 | 1.5 | nothing |", "| compile |  |  |  | exit code 1 |"]


def test_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setitem(COMMANDS, "bad", Command("-c pass", ("out",), (), ()))
    assert main(["--command", "bad", "--kills", "1"]) == 1
    assert capsys.readouterr().out == 'bad {"failure": "there is no output"}\n'
    assert "there is no output" in (tmp_path / "build" / "faults" / "faults.json").read_text()
    for name in ("kills", "jobs"):
        with pytest.raises(SystemExit, match="2"):
            main([f"--{name}", "0"])
        assert f"{name} must be at least 1, not 0" in capsys.readouterr().err
