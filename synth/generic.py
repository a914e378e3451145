"""A library of gate equivalents, for comparisons where no cell library is at hand.

Area is the number of transistors of the static CMOS circuit divided by the four of a NAND2, so that NAND2 = 1. Delay
is logical effort (Sutherland, Sproull and Harris, "Logical Effort", 1999): parasitic delay plus load, in units of tau,
with every gate at the drive of a unit inverter, so that an input's capacitance is the gate's logical effort.

Energy follows from the same theory: a parasitic delay of p is a capacitance of p unit inverters' inputs at the output,
which every transition charges or discharges: p * C * V**2 / 2, with 1 fF and 1 V for the units. Clock pins: the clock
inverters and the gates of clocked transistors, counted from the circuits below. There is no leakage.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from synth.liberty import Library, library_from_texts

__all__ = ["generic"]


@dataclass(frozen=True)
class _Gate:
    function: str
    inputs: str
    transistors: int
    effort: float
    parasitic: float


# Complementary gates: two transistors an input. Efforts and parasitics: Logical Effort, tables 1.1 and 1.2 (gamma = 2).
_GATES = {
    "INV": _Gate("!A", "A", 2, 1, 1),
    "BUF": _Gate("A", "A", 4, 1, 2),  # two inverters
    "NAND2": _Gate("!(A*B)", "AB", 4, 4 / 3, 2),
    "NAND3": _Gate("!(A*B*C)", "ABC", 6, 5 / 3, 3),
    "NAND4": _Gate("!(A*B*C*D)", "ABCD", 8, 2, 4),
    "NOR2": _Gate("!(A+B)", "AB", 4, 5 / 3, 2),
    "NOR3": _Gate("!(A+B+C)", "ABC", 6, 7 / 3, 3),
    "NOR4": _Gate("!(A+B+C+D)", "ABCD", 8, 3, 4),
    "AND2": _Gate("A*B", "AB", 6, 4 / 3, 3),  # NAND2 and inverter
    "OR2": _Gate("A+B", "AB", 6, 5 / 3, 3),  # NOR2 and inverter
    "AOI21": _Gate("!(A*B+C)", "ABC", 6, 2, 7 / 3),
    "OAI21": _Gate("!((A+B)*C)", "ABC", 6, 2, 7 / 3),
    "AOI22": _Gate("!(A*B+C*D)", "ABCD", 8, 2, 4),
    "OAI22": _Gate("!((A+B)*(C+D))", "ABCD", 8, 2, 4),
    "AOI211": _Gate("!(A*B+C+D)", "ABCD", 8, 7 / 3, 4),
    "OAI211": _Gate("!((A+B)*C*D)", "ABCD", 8, 7 / 3, 4),
    "XOR2": _Gate("A^B", "AB", 10, 4, 4),  # NOR2 and AOI21
    "XNOR2": _Gate("!(A^B)", "AB", 10, 4, 4),  # NAND2 and OAI21
    "MUX2": _Gate("(A*!S)+(B*S)", "ABS", 12, 2, 4),  # select inverter, AOI22, output inverter
}
# Mirror adder: 24 transistors, and an inverter at each output (Weste and Harris, "CMOS VLSI Design", section 11.2.1).
_FULL_ADDER = _Gate("", "ABC", 28, 4, 7)
# Two transmission-gate latches: each a transmission gate (2), an inverter (2) and a clocked feedback inverter (4); two
# clock inverters (4) and an output inverter (2) more make 22 for the flip-flop. A latch is 8, one clock and one output
# inverter: 12.
_FLIP_FLOP, _LATCH = 22, 12
_CLOCK_GATE = _LATCH + 6  # and an AND2
# Capacitances that a clock edge charges, in unit inverters' inputs, an average transistor's gate being half of one. Of
# the flip-flop: two parasitics and one input of the clock inverters, and eight clocked transistors. Of the clock gate,
# whose output arc has the AND2: one inverter's parasitic, and four transistors.
_FLIP_FLOP_CLOCK, _CLOCK_GATE_CLOCK = 7.0, 3.0
# And that a new value charges: input and parasitic of the flip-flop's four inverters.
_FLIP_FLOP_DATA = 8.0


def _timing(related: str, parasitic: float, kind: str = "combinational") -> str:
    # Linear in the load; tables at loads 0 and 64.
    delay = f'("{parasitic:.4f}, {parasitic + 64:.4f}", "{parasitic:.4f}, {parasitic + 64:.4f}")'
    slew = '("1.0, 65.0", "1.0, 65.0")'
    tables = "".join(
        f"{name} (load) {{ values {values}; }} "
        for name, values in (
            ("cell_rise", delay),
            ("cell_fall", delay),
            ("rise_transition", slew),
            ("fall_transition", slew),
        )
    )
    return f'timing () {{ related_pin : "{related}"; timing_type : {kind}; {tables}}}'


def _power(capacitance: float, related: str = "") -> str:
    """Energy of a transition that charges a capacitance inside."""
    pin = f'related_pin : "{related}"; ' if related else ""
    return f'internal_power () {{ {pin}power (scalar) {{ values ("{capacitance / 2:.4f}"); }} }}'


def _input(pin: str, effort: float, more: str = "") -> str:
    return f"pin ({pin}) {{ direction : input; capacitance : {effort:.4f}; {more}}}"


def _cell(name: str, transistors: int, *parts: str) -> str:
    return f"cell ({name}) {{ area : {transistors / 4}; {' '.join(parts)} }}"


def _text() -> str:
    cells = []
    for name, gate in _GATES.items():
        out = f'pin (Y) {{ direction : output; function : "{gate.function}"; '
        out += " ".join(f"{_timing(pin, gate.parasitic)} {_power(gate.parasitic, pin)}" for pin in gate.inputs) + " }"
        cells.append(_cell(name, gate.transistors, *(_input(pin, gate.effort) for pin in gate.inputs), out))
    adder = [_input(pin, _FULL_ADDER.effort) for pin in _FULL_ADDER.inputs]
    for pin, function in (("S", "A^B^C"), ("CO", "(A*B)+(C*(A+B))")):
        arcs = " ".join(
            f"{_timing(related, _FULL_ADDER.parasitic)} {_power(_FULL_ADDER.parasitic, related)}"
            for related in _FULL_ADDER.inputs
        )
        adder.append(f'pin ({pin}) {{ direction : output; function : "{function}"; {arcs} }}')
    cells.append(_cell("FA", _FULL_ADDER.transistors, *adder))
    clock = _input("CK", 1, f"clock : true; {_power(_FLIP_FLOP_CLOCK)} ")
    q = 'pin (Q) {{ direction : output; function : "IQ"; {} }}'
    cells.append(
        _cell(
            "DFF",
            _FLIP_FLOP,
            'ff (IQ, IQN) { clocked_on : "CK"; next_state : "D"; }',
            clock,
            _input("D", 1),
            q.format(f"{_timing('CK', 4, 'rising_edge')} {_power(_FLIP_FLOP_DATA, 'CK')}"),
        )
    )
    cells.append(
        _cell(
            "LATCH",
            _LATCH,
            'latch (IQ, IQN) { enable : "G"; data_in : "D"; }',
            _input("G", 1),
            _input("D", 1),
            q.format(_timing("G", 3, "rising_edge")),
        )
    )
    clocked = f"{_timing('CK', 3)} {_power(_GATES['AND2'].parasitic, 'CK')}"
    cells.append(
        _cell(
            "CLOCKGATE",
            _CLOCK_GATE,
            "clock_gating_integrated_cell : latch_posedge;",
            'statetable ("CK E", "IQ") { table : "L L : - : L, L H : - : H, H - : - : N"; }',
            _input("CK", 1, f"clock : true; clock_gate_clock_pin : true; {_power(_CLOCK_GATE_CLOCK)} "),
            _input("E", 1, "clock_gate_enable_pin : true; "),
            'pin (IQ) { direction : internal; internal_node : "IQ"; }',
            f'pin (GCK) {{ direction : output; clock_gate_out_pin : true; state_function : "CK*IQ"; {clocked} }}',
        )
    )
    header = [
        "delay_model : table_lookup;",
        'time_unit : "1ps";',
        "capacitive_load_unit (1, ff);",
        'voltage_unit : "1V";',
        "nom_voltage : 1.0;",
        'current_unit : "1mA";',
        'leakage_power_unit : "1nW";',
        'pulling_resistance_unit : "1kohm";',
        "lu_table_template (load) { variable_1 : input_net_transition; variable_2 : total_output_net_capacitance; "
        'index_1 ("0.0, 64.0"); index_2 ("0.0, 64.0"); }',
    ]
    return "\n".join(["library (generic) {", *header, *cells, "}", ""])


def generic() -> Library:
    """The generic library: area in NAND2 equivalents, time in tau."""
    return library_from_texts("generic", [(Path("generic.lib"), _text())], "NAND2")
