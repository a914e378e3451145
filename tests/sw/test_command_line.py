"""Whatever ends a command, it says so in one line."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from sw.command_line import OptionError, check_outputs, exit_status


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ValueError("k must be in 1..8, not 9"), 2, "command: k must be in 1..8, not 9"),
        (ValueError("a name\nwith lines"), 2, "command: a name with lines"),
        (OSError("no such file"), 2, "command: no such file"),
        (MemoryError(), 2, "command: there is not enough memory: an allocation failed"),
        (
            RuntimeError("CPU: can't allocate memory: you"),
            2,
            "command: there is not enough memory: CPU: can't allocate",
        ),
        (RecursionError("maximum recursion depth exceeded"), 2, "command: what a file holds is nested too deeply"),
        (KeyboardInterrupt(), 130, "command: interrupted"),
        (KeyError("x"), 70, "command: internal error, KeyError: 'x' (test_command_line.py, line "),
    ],
)
def test_one_line(error: BaseException, status: int, line: str, capsys, monkeypatch) -> None:
    monkeypatch.delenv("MSVQ_TRACEBACK", raising=False)

    def run() -> None:
        raise error

    assert exit_status("command", run) == status
    shown = capsys.readouterr().err
    assert shown.startswith(line)
    assert shown.count("\n") == 1


def test_faults_of_the_program_can_be_looked_into(monkeypatch) -> None:
    monkeypatch.setenv("MSVQ_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        exit_status("command", lambda: 1 // 0)
    assert exit_status("command", lambda: None) == 0
    assert exit_status("command", lambda: 1) == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"output": "./net.pt", "weights": Path("net.pt")}, "cannot write './net.pt': it would replace 'net.pt'"),
        ({"json": "b.npy", "inputs": ["a.npy", "b.npy"]}, "cannot write 'b.npy': it would replace 'b.npy'"),
        ({"output": "net.py", "network": "net:Net"}, r"cannot write 'net.py': it would replace 'net.py'"),
        ({"output": "new", "json": "./new"}, r"-o and --json must name different files, not 'new', './new'"),
        ({"json": "old", "classes": "old"}, "cannot write 'old': it would replace 'old'"),
        ({"output": "net.py", "model": "net:Net"}, r"cannot write 'net.py': it would replace 'net.py'"),
        ({"output": "p2.pt", "weights": "m.index.json"}, "cannot write 'p2.pt': it would replace 'p2.pt', which the"),
        ({"output": "old", "weights": "m.index.json", "checkpoint": "bad.index.json"}, None),
        ({"output": ""}, "-o must name a file, not ''"),
        ({"output": "new", "json": ""}, "--json must name a file, not ''"),
        ({"output": "none/new"}, "cannot write 'none/new': the folder 'none' does not exist"),
        ({"output": "old", "json": "new", "weights": "net.pt", "rate": 0.1, "method": "vq"}, None),
        # What is no file that the command reads may be called as one is.
        ({"output": "old", "preset": "old", "method": "old"}, None),
        ({"output": None, "json": None, "weights": "net.pt"}, None),
    ],
)
def test_no_output_replaces_an_input(
    given: dict[str, object], message: str | None, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.index.json").write_text(json.dumps({"weight_map": {"a": "p1.pt", "b": "p2.pt", "c": 3, "d": "../old"}}))
    Path("bad.index.json").write_text("[]")
    for name in ("p1.pt", "p2.pt", "net.pt", "a.npy", "b.npy", "net.py", "old"):
        Path(name).touch()
    options = argparse.Namespace(**{"output": None, "json": None} | given)
    if message is None:
        check_outputs(options, "output", "json")
        return
    with pytest.raises((OSError, OptionError), match=message):
        check_outputs(options, "output", "json")
