"""``python -m tools.digests``: what all presets, methods and committed networks come out as, as SHA-256 of the bytes.

Writes ``docs/results/digests.json``. A change that is meant to leave Verilog, containers and programs alone leaves this
file alone, and the tests compare with it; one that is meant to change them says which, by the lines that it changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np

from hw.command_line import Parser, interruptible, write_text
from hw.config import PRESETS, preset
from hw.generate import UNITS, generate
from sw.compress.methods import RECIPE_METHODS
from sw.format.container import read_container, write_container
from sw.format.npz import write_npz
from sw.format.strict_json import json_text, parse_json
from tools.answers import RESULTS, ROOT

__all__ = ["COMMITTED", "CONTAINERS", "KINDS", "REFUSED", "digest", "made_by"]

COMMITTED = RESULTS / "digests.json"
CONTAINERS = ROOT / "experiments" / "containers"

#: Of a program that an instance cannot have, as the array lacks what the weights need.
REFUSED = "refused"

#: Instances that the committed networks are compiled for: every way to store weights, narrow multipliers, and all
#: functions of the vector unit, which detectors need.
INSTANCES = ("ews-16", "ews-c-16", "ews-cms-16", "ews-ssvq-16", "ews-msvq-16", "ews-msvq4-16", "ews-msvq-full-16")

#: Methods that need no images.
METHODS = tuple(name for name in RECIPE_METHODS if name != "pqf")


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _run(command: Callable[[Sequence[str]], int], *arguments: str | Path) -> int:
    """The exit status of a command, which prints nothing."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return command([str(argument) for argument in arguments])


def verilog_digest(name: str) -> str:
    """Of the Verilog of ``"PRESET UNIT"``."""
    preset_name, unit = name.split()
    return digest(generate(preset(preset_name), preset_name, unit=unit).verilog.encode())


def container_digest(name: str) -> str:
    """Of a committed container that is read and written again; or of what ``msvq compress`` makes of fixed weights.

    Raises
    ------
    ValueError
        The method does not take the weights.
    """
    from sw.compress.__main__ import main

    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "net.msvq")
        if name in METHODS:
            rng = np.random.default_rng(0)
            shapes = {"first.weight": (16, 3, 3, 3), "middle.weight": (32, 16, 3, 3), "last.weight": (10, 32)}
            with open(checkpoint := Path(folder, "net.npz"), "wb") as file:
                write_npz(file, {key: rng.standard_normal(shape, np.float32) for key, shape in shapes.items()})
            how = ("--method", name, "--k", "16", "--d", "8" if name == "ssvq" else "16", "--threads", "1", "--quiet")
            if _run(main, "--checkpoint", checkpoint, *how, "-o", output):
                raise ValueError(f"method {name!r} does not take the weights")
        else:
            found = read_container(CONTAINERS / name)
            schedules = {layer.name: schedule for layer, schedule in zip(found.layers, found.schedules, strict=True)}
            write_container(output, found.layers, schedules, found.metadata)
        return digest(output.read_bytes())


def program_digest(name: str) -> str:
    """Of the program of ``"CONTAINER INSTANCE"``, or :data:`REFUSED`."""
    from sw.compiler.__main__ import main

    container, instance = name.split()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "net.prog")
        status = _run(main, CONTAINERS / container, "--preset", instance, "--quiet", "-o", output)
        return digest(output.read_bytes()) if status == 0 else REFUSED


def _committed() -> list[str]:
    return sorted(path.relative_to(CONTAINERS).as_posix() for path in CONTAINERS.rglob("*.msvq"))


#: Each kind of output: all names that it has, and what one comes out as.
KINDS: dict[str, tuple[Callable[[], list[str]], Callable[[str], str]]] = {
    "verilog": (lambda: [f"{name} {unit}" for name in PRESETS for unit in UNITS], verilog_digest),
    "containers": (lambda: [*METHODS, *_committed()], container_digest),
    "programs": (lambda: [f"{path} {instance}" for path in _committed() for instance in INSTANCES], program_digest),
}


def made_by() -> dict[str, str]:
    """Versions of the tools that write Verilog: others may write it otherwise."""
    return {name: metadata.version(name) for name in ("amaranth", "pyosys")}


@interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = Parser(prog="python -m tools.digests", description=__doc__)
    parser.add_argument("--only", metavar="TEXT", help="make what has TEXT in its name, and keep the rest of the file")
    options = parser.parse_args(arguments)
    before = parse_json(COMMITTED.read_bytes()) if options.only else {}
    if options.only and before["tools"] != made_by():
        parser.error(f"--only needs the tools of the file, {before['tools']}, not {made_by()}")
    if not any((options.only or "") in name for names, _ in KINDS.values() for name in names()):
        parser.error(f"--only: nothing has {options.only!r} in its name")
    found: dict[str, dict[str, str]] = {"tools": made_by()}
    for kind, (names, digest_of) in KINDS.items():
        for name in names():
            if options.only and options.only not in name and name in before[kind]:
                found.setdefault(kind, {})[name] = before[kind][name]
                continue
            value = found.setdefault(kind, {})[name] = digest_of(name)
            print(f"{value[:12]}  {kind}  {name}", flush=True)
    write_text(COMMITTED, json_text(found))
    print(COMMITTED)
    return 0


if __name__ == "__main__":
    sys.exit(main())
