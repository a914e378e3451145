"""The fuzzer: a little of it for every reader, and that it finds readers that do what they must not."""

from __future__ import annotations

import ctypes
import gc
import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.fuzz import __main__ as module
from tests.fuzz.__main__ import fuzz, main, table
from tests.fuzz.readers import READERS, Reader

# Whatever is found to be destroyed late is made in a test.
pytestmark = pytest.mark.usefixtures("settled")

#: Those that have a cheaper relative.
_LEFT_OUT = ("steps", "network", "mosaics", "task segmentation", "photograph")


@pytest.mark.parametrize("name", [name for name in READERS if name not in _LEFT_OUT])
def test_a_little_of_every_reader(name: str, tmp_path: Path) -> None:
    if READERS[name].missing:
        pytest.skip(f"{READERS[name].needs} is not installed")
    found = fuzz(name, 25, 1, tmp_path / "failures", tmp_path)
    assert found["failures"] == []
    assert found["inputs"] >= 20
    assert found["taken"] + sum(found["refused"].values()) == found["inputs"]
    assert found["refused"]


def _reader(read, header: bool = False) -> Reader:
    return Reader(".txt", lambda: [b"0123456789abcdef sound"], read, lambda: (ValueError,), header)


def _late(path: Path) -> None:
    if b"sound" not in path.read_bytes():
        begin = time.process_time()
        while time.process_time() - begin < 0.15:
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


class _Destroyed:
    def __init__(self, holds_itself: bool = False) -> None:
        self.held = self if holds_itself else None

    def __del__(self) -> None:
        raise RuntimeError("in a destructor")


def _takes_and_prints(path: Path) -> None:
    if b"sound" not in path.read_bytes():
        _Destroyed()


def _prints_in_c(path: Path) -> None:
    """A buffer that is destroyed while C holds it, of which bytearray's destructor prints an error by itself."""
    if b"sound" not in path.read_bytes():
        given, holder = bytearray(8), ctypes.create_string_buffer(200)
        ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(given), holder, 0)
        ctypes.pythonapi.Py_DecRef(ctypes.py_object(given))


def _refuses_and_prints(path: Path) -> None:
    if b"sound" not in path.read_bytes():
        _held = _Destroyed()
        raise ValueError("one line")


def _prints_late(path: Path) -> None:
    if b"sound" not in path.read_bytes():
        _Destroyed(holds_itself=True)


HANGS, LATE = _reader(_hangs), _reader(_late)


@pytest.fixture
def uncollected() -> Iterator[None]:
    """What holds itself is there until somebody has all garbage collected, not until there happens to be enough."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        (LATE, "it took more than 0.05 s"),
        (HANGS, "it took more than 0.2 s"),
        (_reader(_lines), "the message must be one line, not 'two"),
        (_reader(_other), "KeyError: 'x'"),
        (_reader(lambda path: None, header=True), "a changed file was taken"),
        (_reader(_takes_and_prints), "ignored: RuntimeError: in a destructor"),
        (_reader(_prints_in_c), "ignored: SystemError: deallocated bytearray object has exported buffers"),
        (_reader(_refuses_and_prints), "ignored: RuntimeError: in a destructor"),
        (_reader(_prints_late), "ignored: RuntimeError: in a destructor"),
    ],
)
def test_readers_that_fail_are_found(
    reader: Reader, message: str, uncollected: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(READERS, "bad", reader)
    monkeypatch.setattr(module, "SECONDS", 0.2)
    # Seconds of the processor are used up until the file is as small as can be.
    if reader is LATE:
        monkeypatch.setattr(module, "SECONDS", 0.05)
        monkeypatch.setattr(module, "PATIENCE", 80)
    # The clock is for what only waits; where others use the processor, it would find sound readers late.
    if reader is HANGS:
        monkeypatch.setattr(module, "PATIENCE", 2)
    found = fuzz("bad", 200, 0, tmp_path / "failures", tmp_path)
    (failure,) = found["failures"]
    assert message in failure["message"]
    assert (tmp_path / "failures" / failure["file"]).is_file()


@pytest.fixture
def forked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Children that know the readers of a test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "_CONTEXT", SimpleNamespace(Pipe=multiprocessing.Pipe, Process=_Forked))
    monkeypatch.setattr(_Forked, "started", 0)


class _Forked(multiprocessing.get_context("fork").Process):
    started = 0

    def start(self) -> None:
        _Forked.started += 1
        super().start()


def test_the_report(forked: None, tmp_path: Path, monkeypatch, capsys) -> None:
    arguments = ["--reader", "rules", "--reader", "liberty", "--inputs", "40", "--jobs", "1"]
    assert main(arguments) == 0
    assert "40 inputs, 2 readers, 0 failures" in capsys.readouterr().out
    report = (tmp_path / "build" / "fuzz" / "fuzz.json").read_bytes()
    assert json.loads(report)["readers"]["rules"]["inputs"] == 20
    # Interrupted while it wrote the second chunk: the first is not tried again.
    chunks = tmp_path / "build" / "fuzz" / "chunks.jsonl"
    chunks.write_bytes(chunks.read_bytes()[:-9])
    assert main(arguments) == 0
    assert _Forked.started == 3
    assert (tmp_path / "build" / "fuzz" / "fuzz.json").read_bytes() == report
    for name in ("inputs", "jobs"):
        with pytest.raises(SystemExit, match="2"):
            main([f"--{name}", "0"])
        assert f"{name} must be at least 1, not 0" in capsys.readouterr().err


def _ends(path: Path) -> None:
    if b"sound" not in path.read_bytes():
        os._exit(3)


def test_a_reader_that_ends_the_process_is_found_and_tried_again(
    forked: None, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setitem(READERS, "bad", _reader(_ends))
    arguments = ["--reader", "bad", "--inputs", "200", "--jobs", "2"]
    assert main(arguments) == 1
    assert "FAIL bad: the process ended with 3 (bad-" in capsys.readouterr().out
    (kept,) = (tmp_path / "build" / "fuzz" / "failures").iterdir()
    assert b"sound" not in kept.read_bytes()
    monkeypatch.setitem(READERS, "bad", _reader(lambda path: None))
    assert main(arguments) == 0
    assert "200 inputs, 1 readers, 0 failures" in capsys.readouterr().out


def test_page_is_the_committed_results() -> None:
    report = json.loads(module.COMMITTED.read_text())
    assert "\n".join(table(report)) in module.PAGE.read_text()
    assert set(report["readers"]) <= set(READERS)
