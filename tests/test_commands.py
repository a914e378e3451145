"""Every ``python -m`` command answers ``--help``, a wrong argument and Ctrl-C at once, each in the way that it should.

Processor time is not what is measured, as it depends on the machine: no library that takes long to load may be loaded.
"""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from msvq.__main__ import COMMANDS as msvq_commands

ROOT = Path(__file__).parents[1]

#: Packages that take from a fifth of a second to several to load.
SLOW = (
    *("torch", "torchvision", "timm", "onnx", "scipy", "sklearn", "PIL"),
    *("amaranth", "pyosys", "cocotb", "z3", "serial"),
)

#: Every command, with arguments that it takes.
COMMANDS = {
    "demo": "",
    "experiments.camvid": "",
    "experiments.detect": "",
    "experiments.dinov2": "state.pt out.pt",
    "experiments.distil": "dinov2-s",
    "experiments.fewshot": "mobilenetv2 --images . -o out.msvq",
    "experiments.gpt": "report",
    "experiments.images": ". out.npz",
    "experiments.invert": "mobilenetv2 -o out.npz",
    "experiments.measured": "dinov2-s",
    "experiments.minilm": "",
    "experiments.narrow": "resnet20",
    "experiments.photographs": ". out",
    "experiments.score": "mobilenetv2 net.msvq --data .",
    "experiments.signs": "vit",
    "experiments.table3": "resnet18",
    "experiments.tiny": "dinov2-s",
    "experiments.train_float": "resnet20",
    "formal": "",
    "fpga": "",
    "fpga.digits": "out.msvq",
    "fpga.host": "--port /dev/none",
    "hw.board": "",
    "hw.bus.register_map": "json",
    "hw.control.descriptor": "",
    "hw.generate": "--preset ews-tiny -o build",
    "msvq": "check net:Net",
    "msvq calibrate": "net:Net --data a.npz -o out.msvq",
    "msvq check": "net:Net",
    "msvq compile": "net.msvq -o out.prog",
    "msvq compress": "--checkpoint a.pt -o out.msvq",
    "msvq evaluate": "net.msvq --data a.npz",
    "msvq example": "build/first",
    "msvq finetune": "net:Net --data a.npz -o out.msvq",
    "msvq generate": "--preset ews-tiny -o build",
    "msvq list": "net.prog",
    "msvq perf": "net.msvq",
    "msvq report": "",
    "msvq run": "net.prog",
    "msvq search": "net:Net --bytes 1000",
    "msvq simulate": "ews-tiny",
    "msvq.example": "build/first",
    "sim": "ews-tiny",
    "sim.accelerator": "a b c",
    "sim.networks": "resnet20",
    "sim.networks.estimates": "",
    "sim.networks.odd": "",
    "sim.networks.speed": "",
    "sw.compiler": "net.msvq -o out.prog",
    "sw.compiler list": "net.prog",
    "sw.compiler.listing": "net.prog",
    "sw.compress": "--checkpoint a.pt -o out.msvq",
    "sw.compress calibrate": "net:Net --data a.npz -o out.msvq",
    "sw.compress check": "net:Net",
    "sw.compress evaluate": "net.msvq --data a.npz",
    "sw.compress finetune": "net:Net --data a.npz -o out.msvq",
    "sw.compress search": "net:Net --bytes 1000",
    "sw.compress.commands.calibrate": "net:Net --data a.npz -o out.msvq",
    "sw.compress.commands.check": "net:Net",
    "sw.compress.commands.evaluate": "net.msvq --data a.npz",
    "sw.compress.commands.finetune": "net:Net --data a.npz -o out.msvq",
    "sw.compress.commands.mosaics": ". out.npz",
    "sw.compress.commands.search": "net:Net --bytes 1000",
    "sw.perf": "net.msvq",
    "sw.run": "net.prog",
    "synth": "",
    "synth.choices": "",
    "synth.explore": "",
    "synth.levers": "",
    "synth.papers": "",
    "synth.power": "",
    "synth.timing": "",
    "tests.fuzz": "",
    "tools.answers": "",
    "tools.first": "",
    "tools.boards": "",
    "tools.comparison": "",
    "tools.digests": "",
    "tools.papers": "",
    "tools.power": "",
    "tools.pictures": "",
    "tools.readme": "",
    "tools.report": "",
    "tools.tasks": "",
}

#: How a command is called where it is not by its module.
NAMES = {
    "fpga": "python -m hw.board",
    "msvq": "msvq",
    "msvq.example": "msvq example",
    "sw.compiler.listing": "python -m sw.compiler list",
} | {
    f"sw.compress.commands.{name}": f"python -m sw.compress {name}"
    for name in ("calibrate", "check", "evaluate", "finetune", "search")
}

#: Those that do their work at once, with nothing left to interrupt.
AT_ONCE = (
    *("hw.bus.register_map", "hw.control.descriptor"),
    *("tools.boards", "tools.comparison", "tools.papers", "tools.power", "tools.readme"),
)

#: Runs all of them in one process, which has nothing loaded when it begins.
DRIVER = r"""
import argparse, builtins, contextlib, io, json, runpy, sys, traceback

slow, commands, at_once = map(json.loads, sys.argv[1:4])
real_import, real_parse = builtins.__import__, argparse.ArgumentParser.parse_args
loaded, armed = [], False

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name in slow:
            loaded.append(name)
            raise ImportError(f"{name} is slow")

def parse(self, args=None, namespace=None):
    global armed
    options = real_parse(self, args, namespace)
    armed = interrupt
    return options

def interrupted(*arguments, **named):
    global armed
    if armed:
        armed = False
        raise KeyboardInterrupt
    return real_import(*arguments, **named)

sys.meta_path.insert(0, Watch())
argparse.ArgumentParser.parse_args = parse
builtins.__import__ = interrupted

def run(words):
    loaded.clear()
    module, *arguments = words
    sys.argv = [module, *arguments]
    status, out, err = None, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
            status = 0
        except SystemExit as end:
            status = end.code
        except BaseException:
            status = traceback.format_exc()
    return {"status": status, "out": out.getvalue(), "err": err.getvalue(), "loaded": list(loaded)}

found = {}
for command, good in commands.items():
    interrupt = False
    words = command.split()
    found[command] = {"help": run([*words, "--help"]), "wrong": run([*words, *good.split(), "--no-such-option"])}
    interrupt = True
    if command not in at_once:
        found[command]["interrupt"] = run([*words, *good.split()])
    armed = False
print(json.dumps(found))
"""


@functools.cache
def answers() -> dict[str, dict[str, Any]]:
    """What each command says to ``--help``, to a wrong option, and to Ctrl-C after its arguments are read."""
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(SLOW), json.dumps(COMMANDS), json.dumps(AT_ONCE)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return found


def test_all_commands_are_known() -> None:
    rooms = ("demo", "experiments", "formal", "fpga", "hw", "msvq", "sim", "sw", "synth", "tools", "tests/fuzz")
    files = [path for room in rooms for path in (ROOT / room).rglob("*.py")]
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        for path in files
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
    }
    assert modules == {command for command in COMMANDS if " " not in command}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_and_loads_nothing_slow(command: str) -> None:
    answer = answers()[command]["help"]
    assert answer["status"] == 0, answer
    assert answer["out"].startswith("usage: ")
    assert answer["loaded"] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_help_calls_the_program_as_the_user_does_and_has_no_marks(command: str) -> None:
    shown = answers()[command]["help"]["out"]
    name = NAMES.get(command, command if command.startswith("msvq ") else f"python -m {command}")
    assert " ".join(shown.split()).startswith(f"usage: {name} ")
    assert not re.search(r":\w+:`|``|::\s|default: None|%\(", shown), shown
    if command.startswith("msvq"):
        assert "python -m" not in shown


def test_all_commands_of_msvq_are_known() -> None:
    assert {f"msvq {name}" for name in msvq_commands} == {name for name in COMMANDS if name.startswith("msvq ")}


@pytest.mark.parametrize(
    "command",
    ["demo", "experiments.gpt", "formal", "fpga", "hw.generate", "msvq", "sim", "sw.run", "synth", "tools.first"],
)
def test_an_interrupt_while_modules_load_is_one_line(command: str, tmp_path: Path) -> None:
    """One command of each package that has some. A module that all of them load interrupts its process."""
    (tmp_path / "argparse.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nsignal.pause()\n")
    done = subprocess.run(
        [sys.executable, "-m", command, "--help"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        # What a shell starts in the background ignores it, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert done.stderr == "interrupted\n"
    # As the interpreter ends: by the signal, which a shell shows as 130.
    assert done.returncode in (130, -signal.SIGINT)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_argument_is_one_line_and_loads_nothing_slow(command: str) -> None:
    answer = answers()[command]["wrong"]
    assert answer["status"] == 2, answer
    assert answer["err"].count("\n") == 1
    assert "--no-such-option" in answer["err"]
    assert answer["loaded"] == []


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in AT_ONCE])
def test_an_interrupt_is_one_line_and_status_130(command: str) -> None:
    answer = answers()[command]["interrupt"]
    assert answer["status"] == 130, answer
    assert "interrupted" in answer["err"]
    assert answer["err"].count("\n") == 1
