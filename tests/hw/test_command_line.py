"""What the command lines share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import demo.__main__
import hw.generate
import sim.__main__
import synth.__main__
import synth.choices
import synth.explore.__main__
from hw.command_line import Parser, interruptible, path_argument, writable_folder, write_text
from tests.refusals import Refused

pytestmark = pytest.mark.usefixtures("settled")

MODULES = {
    "hw.generate": hw.generate.main,
    "sim": sim.__main__.main,
    "synth": synth.__main__.main,
    "synth.choices": synth.choices.main,
    "demo": demo.__main__.main,
}


@pytest.mark.parametrize("module", MODULES)
def test_interrupt_is_one_line(module: str, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def interrupted(parser: Parser, arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Parser, "parse_args", interrupted)
    assert MODULES[module]([]) == 130
    assert capsys.readouterr().err == "interrupted\n"


ELABORATION = """
import sys
from amaranth.back import rtlil
from amaranth.hdl import Elaboratable, Module
from hw.command_line import interruptible
class Unit(Elaboratable):
    def __init__(self, parts):
        self.parts = [Unit(0) for _ in range(parts)]
    def elaborate(self, platform):
        m = Module()
        m.submodules += self.parts
        raise KeyboardInterrupt
@interruptible
def main(arguments=None):
    rtlil.convert(Unit(9), name="unit", ports=[])
    return 0
sys.exit(main())
"""


def test_an_interrupt_while_hardware_is_elaborated_is_one_line() -> None:
    """Amaranth warns of what is not elaborated, which is all the rest."""
    done = subprocess.run([sys.executable, "-c", ELABORATION], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


# A shell starts its background jobs with SIGINT ignored, and they hand that down.
POOL = """
import signal, sys, time
from hw.command_line import interruptible, worker_pool
signal.signal(signal.SIGINT, signal.default_int_handler)
@interruptible
def main(arguments=None):
    with worker_pool(2) as pool:
        futures = [pool.submit(time.sleep, 60) for _ in range(8)]
        pool.submit(int)
        print("started", flush=True)
        time.sleep(60)
    return 0
sys.exit(main())
"""


@pytest.mark.parametrize("everyone", [True, False])
def test_interrupt_ends_workers(everyone: bool) -> None:
    """A terminal interrupts all processes of the group; ``kill`` interrupts one."""
    process = subprocess.Popen(
        [sys.executable, "-c", POOL], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    time.sleep(0.5)
    (os.killpg if everyone else os.kill)(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=20)
    assert (process.returncode, error) == (130, "interrupted\n")


@pytest.mark.parametrize("module", ["hw.generate", "synth", "synth.choices", "demo"])
def test_empty_folder_is_refused(module: str, tmp_path, monkeypatch, refused) -> None:
    monkeypatch.chdir(tmp_path)
    error = refused(MODULES[module], ["-o", ""])
    assert "must not be empty" in error
    assert "argument -o" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("module", "work"), [("synth", "synth.report.rtlil_texts"), ("synth.choices", "synth.choices.measure")]
)
def test_folder_is_checked_before_the_work(module: str, work: str, tmp_path, monkeypatch, refused) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(work, lambda *arguments, **named: pytest.fail("the work has begun"))
    error = refused(MODULES[module], ["-o", str(tmp_path / "file" / "out")])
    assert "cannot write: " in error
    assert "Not a directory" in error


def test_folder_without_permission(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(os, "access", lambda folder, mode: False)
    with pytest.raises(PermissionError, match=r"Permission denied: '.*out'"):
        writable_folder(tmp_path / "out")


def test_a_file_is_no_folder(tmp_path: Path, refused: Refused) -> None:
    path = tmp_path / "out.json"
    path.write_text("mine")
    arguments = ["--sweep", "H=8,16", "--no-area", "-o", str(path)]
    assert f"{str(path)!r} must be a folder, not a file" in refused(synth.explore.__main__.main, arguments)
    assert path.read_text() == "mine"


def test_text_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new \ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    write_text(path, "new")
    assert path.read_text() == "new"


def test_threads_write_one_file(tmp_path: Path) -> None:
    path, texts = tmp_path / "summary.json", [letter * 10_000 for letter in "abcdefgh"]
    with ThreadPoolExecutor(len(texts)) as pool:
        for written in [pool.submit(write_text, path, text) for _ in range(50) for text in texts]:
            written.result()
    assert path.read_text() in texts
    assert list(tmp_path.iterdir()) == [path]


def test_values_pass() -> None:
    assert path_argument("out") == Path("out")
    assert interruptible(lambda arguments: 3)([]) == 3
