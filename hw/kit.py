"""What travels with the Verilog into somebody's design: lint waivers, timing constraints, a FuseSoC core, memories."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from hw.rtlil import parse_modules

__all__ = ["WAIVERS", "constraints", "fusesoc_core", "memories", "waiver_file"]

#: Warnings of ``verilator --lint-only -Wall`` that the Verilog of any instance may give, and why they mean no harm.
WAIVERS = {
    "WIDTHEXPAND": "Yosys leaves widths of operands implicit",
    "WIDTHTRUNC": "Yosys leaves widths of results implicit",
    "CASEINCOMPLETE": "Yosys leaves out the values of a case that change nothing",
    "UNUSEDSIGNAL": "Yosys declares a wire for every bit of a sum, needed or not",
    "DECLFILENAME": "the file has the instance's name and holds all modules",
    "PROCASSINIT": "registers have initial values beside their reset",
    "PINCONNECTEMPTY": "outputs of a block that an instance has no use for stay open",
}

# How hw.memory.sram writes its storage; Amaranth's own memories have other names.
_STORAGE = re.compile(r"^  memory width (?P<width>\d+) size (?P<depth>\d+) \\mem$", re.MULTILINE)


def memories(rtlil: str, top: str) -> list[dict[str, Any]]:
    """The static memories of a design: what a memory compiler's macros take the place of.

    Parameters
    ----------
    rtlil
        The design, with equal modules merged.
    top
        Name of its top module.

    Returns
    -------
    list
        For each module that is a memory (:class:`hw.memory.sram.Sram`): its name, ``depth`` in words, ``width`` in
        bits, and how many ``instances`` the design has. The largest first.
    """
    modules = parse_modules(rtlil)
    counts: Counter[str] = Counter()

    def count(name: str, times: int) -> None:
        counts[name] += times
        for kind, instances in Counter(kind for _, kind, _ in modules[name].instances if kind in modules).items():
            count(kind, times * instances)

    count(f"\\{top}", 1)
    found = [
        {"module": name[1:], "depth": int(size["depth"]), "width": int(size["width"]), "instances": counts[name]}
        for name, module in modules.items()
        if (size := _STORAGE.search("\n".join(module.body)))
    ]
    return sorted(found, key=lambda memory: (-memory["depth"] * memory["width"], memory["module"]))


def waiver_file(name: str) -> str:
    """Verilator's configuration file that waives :data:`WAIVERS` for ``<name>.v`` alone, in any folder."""
    lines = ["`verilator_config"]
    for rule, reason in WAIVERS.items():
        # Not "*<name>.v", which others' files may end in, too.
        lines += [f"// {reason}", *(f'lint_off -rule {rule} -file "{folder}{name}.v"' for folder in ("", "*/"))]
    return "\n".join(lines) + "\n"


def constraints(name: str, inputs: list[str], outputs: list[str], period: float) -> str:
    """Synopsys Design Constraints of an instance: its one clock, and a third of the period for the outside.

    Parameters
    ----------
    name
        Of the instance.
    inputs, outputs
        Ports beside ``clk``. ``rst`` is synchronous, so it is an input like the others.
    period
        Of the clock, in nanoseconds.
    """
    lines = [
        f"# {name}: one clock; all inputs, the synchronous reset among them, and all outputs belong to it.",
        # With a point in it: Tcl divides whole numbers to whole ones, and a third of 2 is 0.
        f"set period {float(period)!r}",
        "create_clock -name clk -period $period [get_ports clk]",
    ]
    for command, ports in (("set_input_delay", inputs), ("set_output_delay", outputs)):
        lines += [f"{command} -clock clk [expr $period / 3] [get_ports {{{' '.join(ports)}}}]"] if ports else []
    return "\n".join(lines) + "\n"


def fusesoc_core(name: str, top: str) -> str:
    """A FuseSoC core description (CAPI2) of the files of an instance, with a target ``lint``.

    Parameters
    ----------
    name
        Of the files.
    top
        The top module.
    """
    return f"""CAPI=2:
name: "::{name}:0"
description: Accelerator for networks with masked and sign-split vector quantisation.

filesets:
  rtl:
    files:
      - {name}.v: {{file_type: verilogSource}}
  waivers:
    files:
      - {name}.vlt: {{file_type: vlt}}
  constraints:
    files:
      - {name}.sdc: {{file_type: SDC}}

targets:
  default:
    filesets: [rtl, "tool_verilator? (waivers)", "!tool_verilator? (constraints)"]
    toplevel: "{top}"
  lint:
    filesets: [rtl, waivers]
    toplevel: "{top}"
    flow: lint
    flow_options:
      tool: verilator
      verilator_options: [-Wall]
"""
