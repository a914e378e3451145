"""Run Yosys (the ``pyosys`` wheel) in a process of its own.

Yosys keeps global state and ends the whole process on an error, so it never runs inside the caller's.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

__all__ = ["YosysError", "run_yosys", "yosys_version"]

_RUNNER = """
import sys
from pyosys import libyosys
design = libyosys.Design()
for line in sys.stdin.read().splitlines():
    libyosys.run_pass(line, design)
"""


class YosysError(RuntimeError):
    """Yosys stopped with an error. The message is Yosys' own."""


def yosys_version() -> str:
    """Version of the installed Yosys."""
    return metadata.version("pyosys")


def run_yosys(commands: Sequence[str], folder: Path) -> str:
    """Run Yosys commands, one a line, in one process and return the log.

    Parameters
    ----------
    commands
        Yosys commands. File names are relative to ``folder``.
    folder
        Working folder of the process.

    Raises
    ------
    YosysError
        A command failed.
    """
    done = subprocess.run(
        [sys.executable, "-c", _RUNNER],
        input="\n".join(commands),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        errors = re.findall(r"^ERROR: (.*)", done.stderr, re.MULTILINE)
        lines = errors or done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        # Yosys only says that ABC left no file; ABC says why, and its first reason is the cause of the others.
        reasons = re.findall(r"^ABC: (.*cannot be used.*|Error: .*)", done.stdout, re.MULTILINE)
        raise YosysError(f"ABC: {reasons[0]}" if reasons and "ABC output file" in lines[-1] else lines[-1])
    return done.stdout
