"""OpenSTA (Debian's package ``opensta``) as a second opinion on a netlist that :func:`synth.sta.enclosed` made.

It reads the same Liberty files and the netlist as Verilog, and knows nothing of :mod:`synth.sta`. It takes the wire
load that a file names as its default, and no other.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from synth.liberty import Library
from synth.power.cells import Characterisation
from synth.power.netlist import FlatNetlist

__all__ = ["HINT", "OpenSTAError", "available", "opensta_delay", "verilog"]

#: What to say where it is not there.
HINT = "OpenSTA is not on the path (apt-get install opensta)"


class OpenSTAError(RuntimeError):
    """OpenSTA did not find a path. The message has its last line."""


def available() -> str | None:
    """The path of OpenSTA, or None."""
    return shutil.which("sta")


def verilog(netlist: FlatNetlist) -> str:
    """A netlist of one clock ``clk`` and no other ports."""
    clock = int(netlist.ports["clk"][0])
    used = {net for cell in netlist.cells.values() for net in set(cell.nets.reshape(-1).tolist())} - {0, 1, clock}
    names = {0: "1'b0", 1: "1'b1", clock: "clk"}
    lines = ["module top (clk);", "input clk;", *(f"wire n{net};" for net in sorted(used))]
    number = 0
    for name, cell in netlist.cells.items():
        for row in cell.nets.tolist():
            ports = ", ".join(
                f".\\{pin} ({names.get(net, f'n{net}')})" for pin, net in zip(cell.pins, row, strict=True)
            )
            lines.append(f"\\{name} u{number} ({ports});")
            number += 1
    return "\n".join([*lines, "endmodule", ""])


def opensta_delay(netlist: FlatNetlist, library: Library, cells: Characterisation, clock_slew: float) -> float:
    """ps of the longest path, from clock edge to clock edge with the set-up, as OpenSTA has it.

    Parameters
    ----------
    netlist
        As :func:`synth.sta.enclosed` gives it.
    library, cells
        Its library, and what was read from it.
    clock_slew
        ps of the clock at registers.

    Raises
    ------
    OpenSTAError
        It refuses a file, or finds no path.
    """
    period = 1e5
    unit = cells.time
    commands = [
        *(f"read_liberty {number}.lib" for number in range(len(library.texts))),
        "read_verilog top.v",
        "link_design top",
        f"create_clock -name clk -period {period / unit:.9g} clk",
        f"set_clock_transition {clock_slew / unit:.9g} clk",
        "report_checks -path_delay max -digits 6",
        "exit",
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, text in enumerate(library.texts):
            (folder / f"{number}.lib").write_text(text)
        (folder / "top.v").write_text(verilog(netlist))
        (folder / "run.tcl").write_text("\n".join(commands) + "\n")
        done = subprocess.run(
            ["sta", "-no_splash", "-exit", "run.tcl"], cwd=folder, capture_output=True, text=True, check=False
        )
    slack = re.search(r"(-?[\d.]+)\s+slack", done.stdout)
    if slack is None:
        last = (done.stdout + done.stderr).strip().splitlines()[-1:] or ["no output"]
        raise OpenSTAError(f"OpenSTA found no path: {last[0]}")
    return period - float(slack[1]) * unit
