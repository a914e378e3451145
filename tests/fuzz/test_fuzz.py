"""The fuzzer: a little of it for every reader, and that it finds readers that do what they must not."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.fuzz import __main__ as module
from tests.fuzz.__main__ import READERS, Reader, fuzz, main


@pytest.mark.parametrize("name", [name for name in READERS if name not in ("steps", "network")])
def test_a_little_of_every_reader(name: str, tmp_path: Path) -> None:
    if READERS[name].missing:
        pytest.skip(f"{READERS[name].needs} is not installed")
    found = fuzz(name, 25, 1, tmp_path)
    assert found["failures"] == []
    assert found["inputs"] >= 20
    assert found["taken"] + sum(found["refused"].values()) == found["inputs"]
    assert found["refused"]


def _reader(read, header: bool = False) -> Reader:
    return Reader(".txt", lambda: [b"0123456789abcdef sound"], read, lambda: (ValueError,), header)


def _late(path: Path) -> None:
    if b"sound" not in path.read_bytes():
        begin = time.process_time()
        while time.process_time() - begin < 2:
            pass


def _hangs(path: Path) -> None:
    if b"sound" not in path.read_bytes():
        time.sleep(30)


def _lines(path: Path) -> None:
    if b"sound" not in path.read_bytes():
        raise ValueError("two\nlines")


def _other(path: Path) -> None:
    if b"sound" not in path.read_bytes():
        raise KeyError("x")


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        (_reader(_late), "it took more than 0.2 s"),
        (_reader(_hangs), "it took more than 0.2 s"),
        (_reader(_lines), "the message must be one line, not 'two"),
        (_reader(_other), "KeyError: 'x'"),
        (_reader(lambda path: None, header=True), "a changed file was taken"),
    ],
)
def test_readers_that_fail_are_found(reader: Reader, message: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(READERS, "bad", reader)
    monkeypatch.setattr(module, "SECONDS", 0.2)
    monkeypatch.setattr(module, "PATIENCE", 2)
    found = fuzz("bad", 200, 0, tmp_path)
    (failure,) = found["failures"]
    assert message in failure["message"]
    assert (tmp_path / failure["file"]).is_file()


def test_the_report(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--reader", "rules", "--reader", "liberty", "--inputs", "40", "--jobs", "1"]) == 0
    assert "40 inputs, 2 readers, 0 failures" in capsys.readouterr().out
    assert (tmp_path / "build" / "fuzz" / "fuzz.json").is_file()
