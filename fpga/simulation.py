"""The board in Verilator: the design as it goes to nextpnr, or its netlist, with a UART and LEDs."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Self

from fpga.block_ram import block_ram_verilog
from fpga.flow import TOP
from hw.command_line import write_text
from hw.yosys import run_yosys
from sim.runner import BuildError, library, locked
from sim.toolchain import verilator_environment, verilator_version

__all__ = ["SimulatedPort", "build_simulation", "netlist_sources", "source_verilog"]

_HERE = Path(__file__).parent

_WAIVED = (
    "WIDTHEXPAND", "WIDTHTRUNC", "CASEINCOMPLETE", "PINMISSING", "PINCONNECTEMPTY", "MULTIDRIVEN", "UNOPTFLAT",
    "SPECIFYIGN", "TIMESCALEMOD", "INITIALDLY", "COMBDLY", "BLKANDNBLK", "REDEFMACRO", "DECLFILENAME",
)  # fmt: skip


def source_verilog(sources: Mapping[str, str], folder: Path) -> list[Path]:
    """The :func:`fpga.flow.sources` as Verilog files in a folder, with models of the primitives in them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("accelerator.v", f"{TOP}.il"):
        write_text(folder / name, sources[name])
    run_yosys(
        [f"read_rtlil {TOP}.il", "proc -nomux -norom", "memory_collect", f"write_verilog -noattr {TOP}.v"], folder
    )
    return [folder / f"{TOP}.v", folder / "accelerator.v", _HERE / "pads.v", _HERE / "primitives.v"]


def netlist_sources(folder: Path) -> list[Path]:
    """What :func:`fpga.flow.synthesise` left in a folder, with Yosys' models of the cells, and ours of the others."""
    cells = files("pyosys") / "share" / "lattice"
    write_text(folder / "block_ram.v", block_ram_verilog())
    write_text(folder / "cells.v", '`include "common_sim.vh"\n`include "ccu2c_sim.vh"\n')
    return [
        folder / "netlist.v",
        folder / "cells.v",
        folder / "block_ram.v",
        _HERE / "primitives.v",
        Path(str(cells)),
    ]


def _bench(top: str) -> str:
    """A module with the ports of every board around a top module, whose ports are called after its board's."""
    found = re.search(rf"^module \\?{TOP}\s*\(([^)]*)\)", top, re.MULTILINE)
    assert found is not None
    ports = [name.strip().lstrip("\\") for name in found[1].split(",")]
    # Of each board: a clock, a UART, and LEDs in their order; the UART's other lines are open.
    links, lights = [], 0
    for port in ports:
        if re.match(r"clk\w*_0__(io|p)$", port):
            links.append(f".{port}(clk)")
        elif port == "uart_0__rx__io":
            links.append(f".{port}(rx)")
        elif port == "uart_0__tx__io":
            links.append(f".{port}(tx)")
        elif found := re.match(r"led_(\d)__io$", port):
            links.append(f".{port}(leds[{found[1]}])")
            lights = max(lights, int(found[1]) + 1)
    return (
        "module bench (input clk, input rx, output tx, output [7:0] leds);\n"
        f"  {TOP} {TOP} ({', '.join(links)});\n  assign leds[7:{lights}] = 0;\nendmodule\n"
    )


def build_simulation(verilog: list[Path], folder: Path, quick: bool = False) -> Path:
    """Build the model, unless it is there already.

    Parameters
    ----------
    verilog
        Of :func:`source_verilog` or :func:`netlist_sources`; the first file has the top module. Folders are searched
        for included files.
    folder
        Where the model goes.
    quick
        Build quickly; the model is slower.

    Returns
    -------
    Path
        The program.

    Raises
    ------
    sim.runner.BuildError
        Verilator refuses the design.
    """
    sources = [path for path in verilog if path.is_file()]
    bench = folder / "bench.v"
    folder.mkdir(parents=True, exist_ok=True)
    write_text(bench, _bench(sources[0].read_text()))
    digest = hashlib.sha256(f"{verilator_version()} {quick}".encode())
    for path in (*sources, bench, _HERE / "harness.cpp"):
        digest.update(path.read_bytes())
    program, stamp = folder / "model" / "board", folder / "fingerprint"
    with locked(folder / "lock"):
        if program.exists() and stamp.exists() and stamp.read_text() == digest.hexdigest():
            return program
        command = [
            "verilator", "--cc", "--exe", "--top-module", "bench", "--Mdir", "model",
            "-o", "board", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert", "--timescale", "1ns/1ns",
            *(f"-Wno-{kind}" for kind in _WAIVED),
            *(f"-I{path}" for path in verilog if path.is_dir()),
            *(["--output-split", "0"] if quick else []),
            *map(str, [*(path.resolve() for path in sources), bench.resolve(), _HERE / "harness.cpp"]),
        ]  # fmt: skip
        options = ["OPT_FAST=-O0", "OPT_SLOW=-O0", "OPT_GLOBAL=-O0"] if quick else ["OPT_FAST=-O2", "OPT_SLOW=-O0"]
        _run(command, folder)
        # What other models have left of the simulator's own library, younger than the makefile.
        for compiled in library().glob("verilated*.o"):
            shutil.copy(compiled, folder / "model")
        _run(["make", "-C", "model", "-f", "Vbench.mk", *options], folder)
        write_text(stamp, digest.hexdigest())
    return program


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, env=verilator_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError("\n".join([f"{command[0]}: exit code {done.returncode}", *done.stderr.splitlines()[-20:]]))


class SimulatedPort:
    """The other end of the simulated board's UART, with the methods of ``serial.Serial`` that a host needs.

    Parameters
    ----------
    program
        Of :func:`build_simulation`.
    clock, baud
        Of the board and of this end, in Hz.
    timeout
        Seconds of the board's time that :meth:`read` waits for all its bytes.

    Attributes
    ----------
    cycles
        Cycles of the board's clock so far.
    leds
        Its LEDs, as bits.
    """

    def __init__(self, program: Path, clock: int, baud: int, timeout: float = 1.0) -> None:
        self.clock, self.timeout = clock, timeout
        self.cycles = self.leds = 0
        self._queue = b""
        self._process = subprocess.Popen(
            [str(program), repr(clock / baud)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the simulation."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def write(self, data: bytes) -> int:
        """Send bytes; the board sees them as time goes on, in :meth:`read` and :meth:`run`."""
        self._queue += data
        return len(data)

    def read(self, size: int = 1) -> bytes:
        """That many bytes, or fewer where the time is out."""
        return self._run(int(self.timeout * self.clock), size) if size else b""

    def run(self, cycles: int) -> bytes:
        """Let that many cycles pass: the bytes that came."""
        return self._run(cycles, 0)

    def reset_input_buffer(self) -> None:
        """Nothing waits here that has not been read."""

    def _run(self, cycles: int, size: int) -> bytes:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{cycles} {size} {self._queue.hex() or '-'}\n")
        process.stdin.flush()
        self._queue = b""
        now, leds, wrong, received = process.stdout.readline().split()
        if wrong != "0":
            raise ValueError("a byte came without a stop bit")
        self.cycles, self.leds = int(now), int(leds)
        return b"" if received == "-" else bytes.fromhex(received)
