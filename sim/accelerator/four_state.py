"""Runs a program on generated Verilog in Icarus, a simulator of four values: what is not known yet is X.

The bench is ``four_state.v``.
"""

from __future__ import annotations

import re
import shutil
import string
import subprocess
from collections.abc import Sequence
from pathlib import Path

from hw.bus.reader import ID_BITS
from hw.bus.register_map import REGISTERS
from hw.config import AcceleratorConfig
from sim.runner import BuildError, SimulationError
from sim.toolchain import ToolchainError

__all__ = ["MODES", "Icarus", "missing", "without_initial_values"]

#: Language modes of Icarus that the Verilog is for.
MODES = ("2005", "2005-sv", "2009", "2012")

TOP = "four_state"
_BENCH = Path(__file__).with_name("four_state.v")
_REGISTER = re.compile(r"^(  reg .*?) = \d+'s?[bdh][0-9a-f]+;$", re.M)
_MODULE = re.compile(r"^module (\S+)\(.*?^endmodule$", re.M | re.S)
_MEMORY = re.compile(r"^  initial begin\n(?:    \S+ ?\[\d+\] = \d+'s?[bdh]0+;\n)+  end\n", re.M)


def missing() -> str | None:
    """Why there is no four-state simulation, with the way out; None where there is."""
    programs = [program for program in ("iverilog", "vvp") if shutil.which(program) is None]
    if not programs:
        return None
    return f"{' and '.join(programs)} not on PATH, so nothing is simulated with X; on Debian: apt install iverilog"


def without_initial_values(verilog: str, but: Sequence[str] = ()) -> str:
    """The Verilog with registers and memories that hold X until something is written into them.

    Tables of constants keep their contents, and the triggers of combinational blocks their event.

    Parameters
    ----------
    but
        Endings of the names of modules whose memories keep their initial contents.
    """

    def module(found: re.Match[str]) -> str:
        text = _REGISTER.sub(lambda register: f"{register[1]};", found[0])
        return text if but and found[1].endswith(tuple(but)) else _MEMORY.sub("", text)

    return _MODULE.sub(module, verilog)


class Icarus:
    """One program on one accelerator in Icarus Verilog.

    Parameters
    ----------
    verilog
        The accelerator.
    config
        Its configuration.
    memory, base
        The DRAM's contents from the byte address ``base`` on.
    address, descriptors
        DRAM byte address of the program's first descriptor, and their number.
    folder
        Where the files of the simulation go.
    mode
        One of :data:`MODES`.

    Raises
    ------
    sim.runner.BuildError
        Icarus refuses the Verilog in this mode.
    sim.toolchain.ToolchainError
        There is no Icarus.
    """

    def __init__(
        self,
        verilog: str,
        config: AcceleratorConfig,
        memory: bytes,
        base: int,
        address: int,
        descriptors: int,
        folder: Path,
        mode: str = MODES[-1],
    ) -> None:
        self.folder, self.size = folder, len(memory)
        word = config.word_width // 8
        memory += bytes(-len(memory) % word)
        words = [memory[start : start + word][::-1].hex() for start in range(0, len(memory), word)]
        (folder / "memory.hex").write_text("\n".join(words) + "\n")
        (folder / "design.v").write_text(verilog)
        parameters = {
            "ADDRESS_BITS": config.address_bits,
            "WORD_WIDTH": config.word_width,
            "ID_BITS": ID_BITS,
            "WORDS": len(words),
            "BASE": f"64'd{base}",
            "PROGRAM": f"64'd{address}",
            "DESCRIPTORS": descriptors,
        }
        given = [f"-P{TOP}.{name}={value}" for name, value in parameters.items()]
        given += [f"-D{register.name}=12'd{register.offset}" for register in REGISTERS]
        command = ["iverilog", f"-g{mode}", "-s", TOP, "-o", "bench.vvp", *given, "design.v", str(_BENCH)]
        self._call(command, BuildError)

    def _call(self, command: Sequence[str], error: type[RuntimeError]) -> str:
        if (reason := missing()) is not None:
            raise ToolchainError(reason)
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode:
            tail = (done.stdout + done.stderr).strip().splitlines()[-10:]
            raise error("\n".join([f"{command[0]} ended with {done.returncode}", *tail]))
        return done.stdout

    def run(self, **arguments: int) -> bytes:
        """The DRAM after the program.

        Parameters
        ----------
        arguments
            ``reset``, ``seed``, ``stall``, ``limit``: see ``four_state.v``.

        Raises
        ------
        sim.runner.SimulationError
            X where none may be, a program that failed or hung, or a read or write outside the memory.
        """
        result = self.folder / "result.hex"
        result.unlink(missing_ok=True)
        given = [f"+{name}={value}" for name, value in arguments.items()]
        command = ["vvp", "-n", "bench.vvp", "+memory=memory.hex", f"+result={result.name}", *given]
        log = self._call(command, SimulationError).strip()
        if "FAIL" in log or not re.search("^done", log, re.MULTILINE):
            raise SimulationError(log[-1000:] or "the simulation ended without a word")
        words = re.sub(r"//.*", "", result.read_text()).lower().split()
        if any(set(word) - set(string.hexdigits) for word in words):
            raise SimulationError("X in the DRAM")
        return b"".join(bytes.fromhex(word)[::-1] for word in words)[: self.size]
