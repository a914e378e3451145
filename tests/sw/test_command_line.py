"""Whatever ends a command, it says so in one line."""

from __future__ import annotations

import pytest

from sw.command_line import exit_status


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ValueError("k must be in 1..8, not 9"), 2, "command: k must be in 1..8, not 9"),
        (ValueError("a name\nwith lines"), 2, "command: a name with lines"),
        (OSError("no such file"), 2, "command: no such file"),
        (MemoryError(), 2, "command: there is not enough memory: an allocation failed"),
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
