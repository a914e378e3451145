"""What Yosys' Verilog needs so that every simulator runs it in every language mode."""

from __future__ import annotations

import re

__all__ = ["VerilogError", "run_at_time_zero"]


class VerilogError(RuntimeError):
    """Verilog that is not as Yosys writes it. The message says what is missing."""


_DECLARED = re.compile(r"^  reg (\\\S*verilog_backend\S*:dump_module\S*)  = 0;$", re.MULTILINE)
# Verilator, which knows no X, would warn of the nonblocking assignment.
_TRIGGER = r"""  reg \1 ;
  /* verilator lint_off INITIALDLY */
  initial \1 <= 1'h0;
  /* verilator lint_on INITIALDLY */"""
_BLOCK = re.compile(r"^( *)always @\*(?: begin\n *if \((\\\S+) \) begin end\n)?", re.MULTILINE)
_MODULE = re.compile(r"^module .*?^endmodule$", re.MULTILINE | re.DOTALL)


def run_at_time_zero(verilog: str) -> str:
    """Make all ``always @*`` of Yosys' Verilog run at time 0 in four-state simulators, whatever the language mode.

    A block whose inputs never change is run by its module's trigger, ``reg trigger = 0;``. In Verilog (IEEE 1364-2005,
    6.2.1) that is an assignment at time 0; in SystemVerilog (IEEE 1800-2017, 6.8) the declaration's value is there
    before time 0 and is no event, and what the block drives stays X for ever. A nonblocking assignment in an
    ``initial`` block is an event in both, and comes after every block waits for it.

    Parameters
    ----------
    verilog
        As ``write_verilog`` of Yosys makes it.

    Raises
    ------
    VerilogError
        An ``always @*`` has no trigger, or its module does not declare it: Yosys writes something else than is known.
    """

    def module(found: re.Match[str]) -> str:
        text = found[0]
        declared = _DECLARED.findall(text)
        for block in _BLOCK.finditer(text):
            if [block[2]] != declared:
                line = verilog.count("\n", 0, found.start() + block.start()) + 1
                raise VerilogError(f"line {line} of Yosys' Verilog: an always @* that nothing starts at time 0")
        return _DECLARED.sub(_TRIGGER, text)

    return _MODULE.sub(module, verilog)
