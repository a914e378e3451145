"""The energy of cells, one by one, against values worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from synth.generic import generic
from synth.liberty import LibraryError, library_from_texts
from synth.power.cells import characterise
from synth.power.energy import Activity, Calculator, CellEnergy
from synth.power.memories import access_energy
from synth.power.netlist import CellArray, FlatNetlist

# 1 pF and 2 V units: energies are in 4 pJ. Slews in ns, loads in pF.
LIBRARY = """
library (hand) {
  time_unit : "1ns"; voltage_unit : "2V"; capacitive_load_unit (1, pf); leakage_power_unit : "1uW"; nom_voltage : 1.5;
  power_lut_template (two) {
    variable_1 : input_transition_time; variable_2 : total_output_net_capacitance;
    index_1 ("0.0, 1.0"); index_2 ("0.0, 2.0");
  }
  power_lut_template (one) { variable_1 : input_transition_time; index_1 ("0.0, 1.0"); }
  wire_load ("short") { capacitance : 0.1; slope : 0.5; fanout_length (1, 1.0); fanout_length (3, 2.0); }
  default_wire_load : "short";
  cell (NAND2) { area : 1; cell_leakage_power : 9;
    leakage_power () { when : "A * B"; value : 4; }
    leakage_power () { when : "!A"; value : 1; }
    leakage_power () { value : 2; }
    pin (A) { direction : input; capacitance : 0.01; }
    pin (B) { direction : input; capacitance : 0.02; }
    pin (Y) { direction : output; function : "!(A*B)";
      internal_power () { related_pin : "A"; rise_power (two) { values ("1, 3", "2, 4"); }
                                             fall_power (two) { values ("0, 0", "0, 0"); } }
      internal_power () { related_pin : "B"; power (scalar) { values ("10"); } }
    } }
  cell (BUF) { area : 1; pin (A) { direction : input; capacitance : 0.005; }
    pin (Y) { direction : output; function : "A"; } }
  cell (XOR2) { area : 2;
    pin (A) { direction : input; capacitance : 0.01; }
    pin (B) { direction : input; capacitance : 0.01; internal_power () { power (scalar) { values ("0.5"); } } }
    pin (Y) { direction : output; function : "A^B";
      internal_power () { related_pin : "A"; when : "B"; power (scalar) { values ("8"); } }
      internal_power () { related_pin : "A"; when : "!B"; power (scalar) { values ("4"); } }
      internal_power () { related_pin : "B"; power (scalar) { values ("2"); } }
    } }
  cell (DFF) { area : 3; ff (IQ, IQN) { clocked_on : "CK"; next_state : "D"; }
    pin (D) { direction : input; capacitance : 0.01; }
    pin (CK) { direction : input; clock : true; capacitance : 0.01;
      internal_power () { when : "D * Q";
        rise_power (scalar) { values ("1"); } fall_power (scalar) { values ("2"); } }
      internal_power () { when : "!D * !Q";
        rise_power (scalar) { values ("3"); } fall_power (scalar) { values ("4"); } }
      internal_power () { when : "D * !Q"; fall_power (scalar) { values ("6"); } }
      internal_power () { when : "!D * Q"; fall_power (scalar) { values ("8"); } } }
    pin (Q) { direction : output; function : "IQ";
      internal_power () { related_pin : "CK"; power (scalar) { values ("20"); } } } }
  cell (GATE) { area : 3; clock_gating_integrated_cell : latch_posedge;
    statetable ("CK E", "IQ") { table : "L L : - : L, L H : - : H, H - : - : N"; }
    pin (CK) { direction : input; clock : true; clock_gate_clock_pin : true; capacitance : 0.01;
      internal_power () { when : "!E & !GCK";
        rise_power (scalar) { values ("1"); } fall_power (scalar) { values ("3"); } } }
    pin (E) { direction : input; clock_gate_enable_pin : true; capacitance : 0.01; }
    pin (IQ) { direction : internal; internal_node : "IQ"; }
    pin (GCK) { direction : output; clock_gate_out_pin : true; state_function : "CK*IQ";
      internal_power () { related_pin : "CK"; when : "E"; power (scalar) { values ("5"); } } } }
  cell (INV) { area : 1; pin (A) { direction : input; capacitance : 0.01; }
    pin (Y) { direction : output; function : "!A"; } }
}
"""
UNIT = 4e3  # fJ

#: Cell, slews and loads, toggles and probabilities of inputs, clock and outputs; fJ of data and clock, nW of leakage.
BY_HAND = [
    # Only A toggles, at a slew of half a ns and a load of 1 pF: rises are the mean of 1, 3, 2 and 4, falls nothing.
    # Leakage: A and B high in a quarter, A low in half, else 2.
    ("NAND2", [500, 0], [1000], [6, 0, 6], [0.5, 0.5, 0.75], 6 * 2.5 / 2 * UNIT, 0, (1 + 0.5 + 0.5) * 1e3),
    # Both toggle alike. A matters where B is high, 3/4; B where A is high, 1/4: of four toggles three are A's.
    ("NAND2", [500, 0], [1000], [8, 8, 4], [0.25, 0.75, 0.8], (3 * 1.25 + 10) * UNIT, 0, (0.75 + 0.75 + 0.125) * 1e3),
    # B is high a quarter of the time: A's toggles take 8 or 4; B's 2, and 0.5 inside whether the output moves or not.
    ("XOR2", [0, 0], [0], [10, 0, 10], [0.5, 0.25, 0.5], 10 * (0.25 * 8 + 0.75 * 4) * UNIT, 0, 0),
    ("XOR2", [0, 0], [0], [0, 10, 10], [0.5, 0.25, 0.5], 10 * 2.5 * UNIT, 0, 0),
    # Eight pulses, two of which bring a new value. The other six rise at D = Q; at falls all four states are alike.
    ("DFF", [0, 0], [0], [4, 16, 2], [0.5, 0.5, 0.5], 40 * UNIT, (6 * 2 + 8 * 5) * UNIT, 0),
    # Never a new value, and D is 1.
    ("DFF", [0, 0], [0], [0, 16, 0], [1.0, 0.5, 1.0], 0, (8 * 1 + 8 * 2) * UNIT, 0),
    # Of eight pulses three pass; the others take 1 to rise, and 3 to fall where the enable is low.
    ("GATE", [0, 0], [0], [0, 16, 6], [0.5, 0.5, 0.2], 0, (6 * 5 + 5 * 1 + 5 * 0.5 * 3) * UNIT, 0),
]


def library(text: str = LIBRARY):
    return library_from_texts("hand", [(Path("hand.lib"), text)])


def cells(text: str = LIBRARY):
    return characterise(library(text), ["NAND2", "XOR2", "DFF", "GATE", "BUF", "INV"])


def worked_out(text: str) -> list[bool]:
    """Whether each line of the table comes out."""
    models = cells(text).cells
    right = []
    for name, slews, loads, toggles, high, *wanted in BY_HAND:
        inside = CellEnergy(models[name], np.array([slews], float), np.array([loads], float))
        found = inside.at(np.array([toggles], float), np.array([high]))
        right.append(np.allclose([part[0] for part in found], wanted, rtol=1e-9))
    return right


def test_cells_by_hand() -> None:
    assert worked_out(LIBRARY) == [True] * len(BY_HAND)


@pytest.mark.parametrize(
    ("right", "wrong", "lines"),
    [
        ('values ("1, 3", "2, 4")', 'values ("1, 3", "2, 5")', [0, 1]),
        ('when : "B"; power (scalar) { values ("8")', 'when : "B"; power (scalar) { values ("9")', [2]),
        ('values ("20")', 'values ("2")', [4]),
        ('fall_power (scalar) { values ("3")', 'fall_power (scalar) { values ("30")', [6]),
    ],
)
def test_a_wrong_table_is_found(right: str, wrong: str, lines: list[int]) -> None:
    assert LIBRARY.count(right) == 1
    found = worked_out(LIBRARY.replace(right, wrong))
    assert [number for number, fits in enumerate(found) if not fits] == lines


def test_nets_by_hand() -> None:
    """Two NAND2 in a row: pins, wire by the number of loads, and V**2 / 2."""
    nets = np.array([[2, 3, 4], [4, 4, 5]], np.int32)
    netlist = FlatNetlist(
        6,
        {"i": np.array([2, 3], np.int32), "clk": np.array([0], np.int32), "o": np.array([5], np.int32)},
        ["i"],
        {"NAND2": CellArray(["A", "B", "Y"], nets, np.zeros(2, np.uint8))},
        ["other"],
    )
    found = Calculator(netlist, cells(), 1000.0)
    # Net 4 has two loads: 1.5 lengths of 0.1 pF, and 0.03 pF of pins; it toggles eight times, and no cell's own energy
    # is counted at toggles of inputs alone.
    activity = Activity(np.array([0, 0, 0, 0, 8, 0]), np.zeros(6), 0)
    inside = found.energies(activity)
    own = CellEnergy(found.library.cells["NAND2"], np.full((1, 2), found.nominal), np.array([[180.0]]))
    driver, _, _ = own.at(np.array([[0, 0, 8.0]]), np.zeros((1, 3)))
    assert inside.total == pytest.approx(8 * 180 * 1.5**2 / 2 + driver[0])


def test_many_loads_have_buffers() -> None:
    count = 40
    nets = np.stack([np.full(count, 2), np.arange(3, 3 + count)], axis=1).astype(np.int32)
    ports = {"i": np.array([2], np.int32), "clk": np.array([0], np.int32)}
    netlist = FlatNetlist(
        3 + count, ports, ["i"], {"INV": CellArray(["A", "Y"], nets, np.zeros(count, np.uint8))}, ["other"]
    )
    found = Calculator(netlist, cells(), 1000.0)
    toggles = np.zeros(3 + count)
    toggles[2] = 2
    # 40 loads: three buffers of up to 14, each with 40/3 inputs of 10 fF; the driver has three of 5 fF.
    leaves = 3 * (40 / 3 * 10 + 100 * (2 + 11 * 0.5))
    driver = 3 * 5 + 100 * 2
    assert found.energies(Activity(toggles, np.zeros(3 + count), 0)).total == pytest.approx(
        2 * (leaves + driver) * 1.5**2 / 2
    )


def test_generic_energy_is_that_of_its_parasitics() -> None:
    model = characterise(generic(), ["NAND3"]).cells["NAND3"]
    inside = CellEnergy(model, np.ones((1, 3)), np.full((1, 1), 7.0))
    assert inside.at(np.array([[2, 0, 0, 2.0]]), np.full((1, 4), 0.5))[0] == pytest.approx(2 * 3 / 2)


def test_what_power_cannot_use_is_refused() -> None:
    with pytest.raises(LibraryError, match="unknown wire load 'long'; the library has short"):
        characterise(library(), ["NAND2"], "long")
    with pytest.raises(LibraryError, match="library generic has no cell NONE"):
        characterise(generic(), ["NONE"])
    with pytest.raises(LibraryError, match="power has no model of latch LATCH"):
        characterise(generic(), ["LATCH"])
    without = LIBRARY.replace('function : "A"; }', 'function : "!A"; }')
    with pytest.raises(LibraryError, match="library hand has no buffer, which nets of many loads need"):
        cells(without)


def test_memories_by_capacity() -> None:
    assert access_energy(8 << 10, 0.9) == pytest.approx(1250)
    assert access_energy(16 << 10, 0.9) == pytest.approx(1250 * 2**0.5)
    assert access_energy(1 << 20, 1.8) == pytest.approx(4 * 12500)
