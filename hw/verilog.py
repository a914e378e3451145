"""What Yosys' Verilog needs so that every simulator runs it in every language mode."""

from __future__ import annotations

import re

__all__ = ["KEYWORDS", "VerilogError", "run_at_time_zero"]

_WORDS = """
    accept_on alias always always_comb always_ff always_latch and assert assign assume automatic before begin bind
    bins binsof bit break buf bufif0 bufif1 byte case casex casez cell chandle checker class clocking cmos config
    const constraint context continue cover covergroup coverpoint cross deassign default defparam design disable
    dist do edge else end endcase endchecker endclass endclocking endconfig endfunction endgenerate endgroup
    endinterface endmodule endpackage endprimitive endprogram endproperty endsequence endspecify endtable endtask
    enum event eventually expect export extends extern final first_match for force foreach forever fork forkjoin
    function generate genvar global highz0 highz1 if iff ifnone ignore_bins illegal_bins implements implies import
    incdir include initial inout input inside instance int integer interconnect interface intersect join join_any
    join_none large let liblist library local localparam logic longint macromodule matches medium modport module
    nand negedge nettype new nexttime nmos nor noshowcancelled not notif0 notif1 null or output package packed
    parameter pmos posedge primitive priority program property protected pull0 pull1 pulldown pullup
    pulsestyle_ondetect pulsestyle_onevent pure rand randc randcase randsequence rcmos real realtime ref reg
    reject_on release repeat restrict return rnmos rpmos rtran rtranif0 rtranif1 s_always s_eventually s_nexttime
    s_until s_until_with scalared sequence shortint shortreal showcancelled signed small soft solve specify
    specparam static string strong strong0 strong1 struct super supply0 supply1 sync_accept_on sync_reject_on table
    tagged task this throughout time timeprecision timeunit tran tranif0 tranif1 tri tri0 tri1 triand trior trireg
    type typedef union unique unique0 unsigned until until_with untyped use uwire var vectored virtual void wait
    wait_order wand weak weak0 weak1 while wildcard wire with within wor xnor xor
"""

#: Words that no module can be called by in SystemVerilog without a backslash (IEEE 1800-2017, annex B).
KEYWORDS = frozenset(_WORDS.split())


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
