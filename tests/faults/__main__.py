"""``python -m tests.faults``: commands killed at random moments and run again; full disks, and folders that forbid.

Each command runs in a project of its own, a copy of the packages with small inputs: undisturbed first, then so many
times killed (``kill -9``, all its processes) at a random moment and run again. Under the name of an output there is
nothing or all of it at any time, and in the end there are the bytes of the undisturbed run. The figures are in
``build/faults/faults.json``; ``--publish`` writes them into docs/results/faults.json and docs/verification.md, where
commands that were not run keep what was there.
"""

from __future__ import annotations

import ctypes
import json
import os
import queue
import random
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hw.command_line import Parser, interruptible, write_text
from sw.format.strict_json import json_text
from tests.options import run_options
from tools.marked import row, write_parts

__all__ = ["COMMANDS", "Command", "FaultError", "Project", "kills", "main", "publish", "table"]

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "docs" / "results" / "faults.json"
PAGE = ROOT / "docs" / "verification.md"
#: Of each command, by default.
KILLS = 50

_NETWORK = """
import torch
from torch import nn


def make():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )
"""

#: For the set-up: a package without dependencies, and a build backend that needs none.
_PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "faulted"
version = "1"
[project.optional-dependencies]
sim = []
demo = []
test = []
"""
_BACKEND = """
import os, zipfile
NAME = "faulted-1-py3-none-any.whl"
METADATA = "Metadata-Version: 2.1\\nName: faulted\\nVersion: 1\\nProvides-Extra: sim\\nProvides-Extra: demo\\n"
FILES = {
    "faulted.py": "answer = 42\\n",
    "faulted-1.dist-info/METADATA": METADATA + "Provides-Extra: test\\n",
    "faulted-1.dist-info/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
}


def build_editable(folder, config_settings=None, metadata_directory=None):
    record = "".join(f"{name},,\\n" for name in FILES) + "faulted-1.dist-info/RECORD,,\\n"
    with zipfile.ZipFile(os.path.join(folder, NAME), "w") as file:
        for name, text in {**FILES, "faulted-1.dist-info/RECORD": record}.items():
            file.writestr(name, text)
    return NAME


build_wheel = build_editable
"""


class FaultError(AssertionError):
    """A command did not withstand. The message says which, and what is wrong."""


@dataclass(frozen=True)
class Command:
    """One command."""

    #: Arguments of the interpreter, or of ``sh`` where the first one ends with ``.sh``.
    line: str
    #: What it writes, under the project's folder; of a folder, all files in it.
    outputs: tuple[str, ...]
    #: What the next run may use: caches, checkpoints, built models.
    kept: tuple[str, ...] = ()
    #: Copied into the project.
    packages: tuple[str, ...] = ("hw", "sw")


_ALL = ("hw", "sw", "sim")
COMMANDS: dict[str, Command] = {
    "finetune": Command(
        "-m sw.compress finetune inputs:make --data data.npz --method msvq --k 8 --d 8 --nm 4:8 --sparse sr-ste"
        " --sparse-epochs 2 --epochs 3 --threads 1 --quiet --work work -o out.msvq --json out.json",
        ("out.msvq", "out.json"),
        ("work",),
    ),
    "search": Command(
        "-m sw.compress search weights.npz --bytes 3000 -o rules.json --threads 1 --quiet", ("rules.json",)
    ),
    "compress": Command(
        "-m sw.compress --checkpoint weights.npz --method mvq --k 8 --d 8 --nm 4:8 -o c.msvq --quiet", ("c.msvq",)
    ),
    "compile": Command(
        "-m sw.compiler network.msvq -o network.msvqp --preset ews-msvq-tiny --image 3,9,7 --quiet",
        ("network.msvqp",),
    ),
    "run golden": Command("-m sw.run program.msvqp x.npy --output y.npy --check --quiet", ("y.npy",)),
    "run rtl": Command(
        "-m sw.run program.msvqp x.npy --backend rtl --output y.npy --check --quiet", ("y.npy",), ("build",), _ALL
    ),
    "generate": Command("-m hw.generate --unit core --preset ews-msvq-tiny -o ip", ("ip",), packages=("hw",)),
    "synth": Command("-m synth --preset ews-tiny -o reports", ("reports",), ("build",), (*_ALL, "synth")),
    # Without areas, whose minutes are those of synth; both kinds of results are kept in one way.
    "explore": Command(
        "-m synth.explore network.msvq --preset ews-msvq-tiny --image 3,9,7 --no-area --jobs 1 -o explored"
        " --sweep word_width=16,32,64 --sweep burst_words=4,8",
        ("explored",),
        ("build",),
        (*_ALL, "synth"),
    ),
    "set-up": Command("tools/setup.sh environment", ("environment/.ready",), ("environment",), ("tools",)),
}


def _without_override() -> None:
    """Take from root, before the program starts, that no file's permissions bind it."""
    if not os.geteuid():
        libc = ctypes.CDLL(None, use_errno=True)
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            if libc.prctl(24, capability, 0, 0, 0):  # PR_CAPBSET_DROP
                raise OSError(ctypes.get_errno(), "prctl")


class Project:
    """A copy of the packages with small inputs.

    Parameters
    ----------
    command
        What runs in it.
    folder
        Empty, or not there.
    """

    def __init__(self, command: Command, folder: Path) -> None:
        self.command, self.folder = command, folder
        folder.mkdir(parents=True, exist_ok=True)
        for package in command.packages:
            shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "build"))
        if command.line.startswith("tools/"):
            (folder / "pyproject.toml").write_text(_PYPROJECT)
            (folder / "backend.py").write_text(_BACKEND)
            (folder / "constraints.txt").write_text("")
        elif "sw" in command.packages:
            self._inputs()

    def _inputs(self) -> None:
        from hw.config import preset
        from sw.compiler.compile import compile_layer
        from sw.format.example import random_layer
        from sw.network.file import write_network
        from sw.program import write_program
        from tests.sw.networks import every_operation

        config = preset("ews-msvq-tiny")
        rng = np.random.default_rng(0)
        images, labels = rng.integers(0, 256, (256, 8, 8, 3), np.uint8), rng.integers(0, 10, 256)
        np.savez(
            self.folder / "data.npz",
            train_images=images, train_labels=labels, test_images=images[:64], test_labels=labels[:64],
        )  # fmt: skip
        weights = {f"{at}.weight": rng.standard_normal((16, 16, 3, 3)).astype(np.float32) for at in range(3)}
        np.savez(self.folder / "weights.npz", **weights)
        (self.folder / "inputs.py").write_text(_NETWORK)
        codes = {"d": config.d, "k": config.k, "n": config.N, "m": config.M}
        layer = random_layer(rng, "msvq", (16, 8, 3, 3), requantised=True, padding=(1, 1), **codes)
        write_network(
            self.folder / "network.msvq", every_operation(np.random.default_rng(1), config, channels=3, width=8)
        )
        write_program(self.folder / "program.msvqp", compile_layer(layer, (8, 12, 12), config))
        np.save(self.folder / "x.npy", rng.integers(-128, 128, (8, 12, 12)).astype(np.int8))

    def start(self, before: Callable[[], None] | None = None) -> subprocess.Popen[str]:
        """Start the command, as the leader of a group of processes."""
        arguments = shlex.split(self.command.line)
        script = arguments[0].endswith(".sh")
        environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        environment |= {"PYTHON": sys.executable, "PIP_NO_INDEX": "1"} if script else {}
        return subprocess.Popen(
            ["sh" if script else sys.executable, *arguments],
            cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=before,
        )  # fmt: skip

    def run(self) -> float:
        """Run the command to its end, and say how many seconds it took."""
        begin = time.perf_counter()
        process = self.start()
        _, error = process.communicate()
        if process.returncode:
            raise FaultError(f"exit code {process.returncode}: {error.strip()[-300:]}")
        return time.perf_counter() - begin

    def outputs(self) -> dict[str, bytes]:
        """The bytes of what was written, by name; hidden files in a folder of outputs do not count."""
        found: dict[str, bytes] = {}
        for name in self.command.outputs:
            path = self.folder / name
            if path.is_dir():
                files = (part for part in sorted(path.rglob("*")) if part.is_file() and part.name[0] != ".")
                found |= {str(part.relative_to(self.folder)): part.read_bytes() for part in files}
            elif path.exists():
                found[name] = path.read_bytes()
        return found

    def clear(self) -> None:
        """Remove outputs, and what the next run might use."""
        for name in (*self.command.outputs, *self.command.kept):
            path = self.folder / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def kills(name: str, count: int, seed: int, folder: Path, jobs: int = 1) -> dict[str, Any]:
    """Kill a command so many times, each time with a fresh start and then another run.

    Parameters
    ----------
    name
        One of :data:`COMMANDS`.
    count
        Kills.
    seed
        Of their moments.
    folder
        Empty.
    jobs
        Kills at a time, each in a project of its own.

    Returns
    -------
    dict
        ``kills``, how many of them came before the command's end (``early``), ``seconds`` of the undisturbed run.

    Raises
    ------
    FaultError
        An output is there in part, or differs in the end.
    """
    projects = [Project(COMMANDS[name], folder / str(at)) for at in range(jobs)]
    seconds = projects[0].run()
    # What else the machine does changes with time: a moment is a part of how long the longest of the last runs took.
    # One that goes on with what a killed one has left is short.
    lasted = [seconds]
    wanted = projects[0].outputs()
    if not wanted:
        raise FaultError("there is no output")
    rng = random.Random(f"{seed} {name}")
    free: queue.Queue[Project] = queue.Queue()
    for project in projects:
        free.put(project)

    def one(number: int, part: float) -> bool:
        project = free.get()
        try:
            moment = part * max(lasted[-4:])
            early, whole = _killed(project, moment, wanted, f"kill {number} after {moment:.2f} s")
            lasted.append(whole)
            return early
        finally:
            free.put(project)

    with ThreadPoolExecutor(jobs) as pool:
        try:
            early = sum(pool.map(one, range(count), [rng.random() for _ in range(count)]))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {"kills": count, "early": early, "seconds": round(seconds, 1)}


def _killed(project: Project, moment: float, wanted: dict[str, bytes], where: str) -> tuple[bool, float]:
    """Kill the command after ``moment`` seconds and run it again.

    Returns
    -------
    early, seconds
        Whether the kill came before its end, and how long the other run took.
    """
    project.clear()
    process = project.start()
    early = False
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        early = True
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    for path, data in project.outputs().items():
        if data != wanted.get(path):
            raise FaultError(f"{where}: {path} is there in part")
    seconds = project.run()
    if project.outputs() != wanted:
        raise FaultError(f"{where}: the next run gives other bytes")
    return early, seconds


def refused(project: Project, size: int | None = None) -> str:
    """The line with which a command ends that cannot write: no file may grow beyond ``size``, or no folder be written.

    Raises
    ------
    FaultError
        It does not end so, or leaves something.
    """
    before = sorted(project.folder.rglob("*"))
    if size is not None:
        limits = (size, resource.RLIM_INFINITY)
        process = project.start(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits))
    else:
        project.folder.chmod(0o555)
        process = project.start(_without_override)
    _, error = process.communicate()
    project.folder.chmod(0o755)
    if process.returncode != 2 or error.count("\n") != 1:
        raise FaultError(f"exit code {process.returncode}, {error.strip()[-500:]!r}")
    left = [
        str(path.relative_to(project.folder))
        for path in sorted(project.folder.rglob("*"))
        if path not in before and path.is_file()
    ]
    if left:
        raise FaultError(f"left behind: {', '.join(left)}")
    return error.strip()


def table(report: dict[str, Any]) -> Iterator[str]:
    """A row for each command that was run."""
    yield row("command", "kills", "before its end", "seconds undisturbed", "what was wrong")
    yield "|---|--:|--:|--:|---|"
    for name, found in report.items():
        figures = (found.get(key, "") for key in ("kills", "early", "seconds"))
        yield row(name, *figures, found.get("failure", "nothing"))


def publish(report: dict[str, Any]) -> None:
    """Write the committed figures and their table."""
    committed = json.loads(COMMITTED.read_text()) if COMMITTED.exists() else {}
    merged = {name: {**committed, **report}[name] for name in COMMANDS if name in committed or name in report}
    write_text(COMMITTED, json_text(merged))
    write_text(PAGE, write_parts(PAGE.read_text(), {"faults": lambda: table(merged)}, PAGE.name))


@interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns 0, or 1 where a command did not withstand."""
    parser = Parser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=KILLS, help="of each command (%(default)s)")
    parser.add_argument("--command", action="append", choices=COMMANDS, help="only this one; repeatable")
    options = run_options(parser, arguments, 1, "kills")
    report: dict[str, Any] = {}
    target = ROOT / "build" / "faults" / "faults.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    failed = 0
    for name in options.command or COMMANDS:
        with tempfile.TemporaryDirectory() as folder:
            try:
                report[name] = kills(name, options.kills, options.seed, Path(folder), options.jobs)
            except FaultError as error:
                report[name] = {"failure": str(error)}
                failed += 1
        print(name, json.dumps(report[name]), flush=True)
        write_text(target, json_text({"seed": options.seed, "commands": report}))
    if options.publish:
        publish(report)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
