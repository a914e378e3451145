"""Every ``python -m`` command answers ``--help``, a wrong argument and Ctrl-C at once, each in the way that it should.

Processor time is not what is measured, as it depends on the machine: no library that takes long to load may be loaded.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]

#: Packages that take from a fifth of a second to several to load.
SLOW = (
    *("torch", "torchvision", "timm", "onnx", "scipy", "sklearn", "PIL"),
    *("amaranth", "pyosys", "cocotb", "z3", "serial"),
)

#: Every command, with arguments that it takes.
COMMANDS = {
    "demo": "",
    "experiments.dinov2": "state.pt out.pt",
    "experiments.distil": "dinov2-s",
    "experiments.fewshot": "mobilenetv2 --images . -o out.msvq",
    "experiments.gpt": "report",
    "experiments.images": ". out.npz",
    "experiments.narrow": "resnet20",
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
    "tools.papers": "",
    "tools.pictures": "",
    "tools.readme": "",
    "tools.report": "",
    "tools.tasks": "",
}

#: Those that do their work at once, with nothing left to interrupt.
AT_ONCE = ("hw.bus.register_map", "hw.control.descriptor", "tools.boards", "tools.comparison", "tools.papers")

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
