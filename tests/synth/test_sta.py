"""Static timing: by hand, and beside OpenSTA where it is installed (Debian's package opensta)."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from synth.flow import GateNetlist
from synth.generic import generic
from synth.liberty import LibraryError, library_from_texts, load
from synth.opensta import HINT, OpenSTAError, available, opensta_delay
from synth.power.cells import WireLoad, characterise
from synth.sta import DIRECT, Borders, Tree, _tree_delay, border_delays, enclosed, longest_path, tree

#: No wires, so that sums stay short.
NO_WIRE = WireLoad("none", {1: 0.0}, 0.0, 0.0)
LIBRARY = replace(characterise(generic(), ["NAND2", "INV", "XOR2", "FA", "DFF", "CLOCKGATE"]), wire=NO_WIRE)
#: In tau: a flip-flop's clock to output without a load, and the load of a NAND2 input. Gates take 1 or 2, and loads of
#: other inputs 1.
FLOP, NAND = 4.0, 4 / 3
TREE = tree(LIBRARY)
FAN, ROOT = TREE.fan, TREE.root
(INTO,) = TREE.buffer.capacitance.values()


def gates(cells, ports=None, inputs=("clk", "rst"), instances=()) -> GateNetlist:
    return GateNetlist(ports or {"clk": [2], "rst": [3]}, list(inputs), cells, list(instances))


def delay(netlist: GateNetlist, **borders) -> float:
    return longest_path(enclosed(netlist, LIBRARY, Borders(**borders)), LIBRARY, 0.0).delay


def test_a_path_by_hand() -> None:
    """In units of tau: flip-flop 4 + its load of 4/3; NAND2 2 + 1; inverter 1 + 1; no set-up in the library."""
    netlist = gates(
        {
            "DFF": (["CK", "D", "Q"], [[2, 6, 4]]),
            "NAND2": (["A", "B", "Y"], [[4, 1, 5]]),
            "INV": (["A", "Y"], [[5, 6]]),
        }
    )
    assert delay(netlist) == pytest.approx(FLOP + NAND + 2 + 1 + 1 + 1, rel=1e-4)
    # A wire of one NAND2 input for each of the three loads.
    wired = characterise(generic(), ["NAND2", "INV", "DFF"])
    path = longest_path(enclosed(netlist, wired, Borders()), wired, 0.0)
    assert path.delay == pytest.approx(FLOP + NAND + 2 + 1 + 1 + 1 + 3 * NAND, rel=1e-4)
    assert (path.net, path.capture) == (6, 0.0)
    assert border_delays(LIBRARY, 0.0) == pytest.approx((FLOP, 0.0))


def test_a_net_of_many_loads_goes_through_buffers() -> None:
    def many(loads: int) -> float:
        cells = {
            "DFF": (["CK", "D", "Q"], [[2, 5, 4]]),
            "INV": (["A", "Y"], [[4, 5 + i] for i in range(loads)]),
        }
        return delay(gates(cells))

    last = 1 + 1  # inverter into the flip-flop
    assert many(DIRECT) == pytest.approx(FLOP + DIRECT + last, rel=1e-4)
    assert TREE.levels(FAN) == [1]
    assert many(DIRECT + 1) < FLOP + 3 * (2 + FAN * INTO) + last
    # Full levels.
    loads = FAN * FAN * ROOT
    assert TREE.levels(loads) == [FAN * ROOT, ROOT]
    wanted = FLOP + ROOT * INTO + 2 + FAN * INTO + 2 + FAN + last
    assert many(loads) == pytest.approx(wanted, rel=1e-4)


def test_the_tree_is_the_fastest_of_its_kind() -> None:
    for root in (1, 2, 4, 8):
        for fan in (4, 8, 16):
            if root <= fan:
                other = Tree(TREE.buffer, fan, root)
                assert _tree_delay(LIBRARY, TREE) <= _tree_delay(LIBRARY, other)


def test_copies_and_black_boxes() -> None:
    """An input that goes to all copies comes from a register through a tree, of which one leaf is the section's."""
    ports = {"clk": [2], "rst": [3], "i": [4], "o": [5]}
    netlist = gates({"INV": (["A", "Y"], [[4, 5]])}, ports, ("clk", "rst", "i"))
    one = delay(netlist)
    assert one == pytest.approx(FLOP + 1 + 1 + 1, rel=1e-4)
    few = FLOP + ROOT * INTO + 2 + 1 + 1 + 1
    assert delay(netlist, copies={4: ROOT}) == pytest.approx(few, rel=1e-4)
    many = FLOP + ROOT * INTO + 2 + FAN * INTO + 2 + 1 + 1 + 1
    assert delay(netlist, copies={4: ROOT * FAN}) == pytest.approx(many, rel=1e-4)
    assert delay(netlist, copies={4: 2 * ROOT * FAN}) > many
    # What is left out reads the output, three times: each is a flip-flop's input.
    assert delay(netlist, ends=(5, 5, 5)) == pytest.approx(one + 3, rel=1e-4)
    # And what it drives begins a path.
    boxed = gates({"INV": (["A", "Y"], [[6, 5]])}, {**ports, "i": [7]}, ("clk", "rst", "i"))
    assert delay(boxed) < one
    assert delay(boxed, sources=(6,)) == pytest.approx(one, rel=1e-4)


def test_a_clock_gate_ends_paths() -> None:
    """Its enable has to be there in time, and the clock behind it is no data."""
    model = LIBRARY.cells["CLOCKGATE"]
    (enable,), (out,) = model.inputs, model.outputs
    netlist = gates(
        {
            "DFF": (["CK", "D", "Q"], [[5, 4, 4]]),
            "INV": (["A", "Y"], [[4, 6]]),
            "CLOCKGATE": ([model.clock, enable, out], [[2, 6, 5]]),
        }
    )
    assert delay(netlist) == pytest.approx(FLOP + (1 + 1) + 1 + model.capacitance[enable], rel=1e-4)


def test_loops_are_refused() -> None:
    netlist = gates({"DFF": (["CK", "D", "Q"], [[2, 5, 4]]), "INV": (["A", "Y"], [[5, 6], [6, 5]])})
    with pytest.raises(LibraryError, match="2 cells are in loops of logic"):
        delay(netlist)
    without = replace(LIBRARY, cells={"INV": LIBRARY.cells["INV"]})
    with pytest.raises(LibraryError, match="library generic has no flip-flop among the cells of this design"):
        enclosed(gates({"INV": (["A", "Y"], [[3, 6]])}), without, Borders())


def _random_logic(library, names: dict[str, str], count: int, seed: int) -> GateNetlist:
    """Flip-flops, gates in any order behind them, and back into the flip-flops."""
    rng = np.random.default_rng(seed)
    flops = 8
    nets = list(range(4, 4 + flops))
    uses = dict.fromkeys(nets, 0)
    cells: dict[str, tuple[list[str], list[list[int]]]] = {}

    def pick() -> int:
        recent = [net for net in nets[-24:] if uses[net] < 12]
        net = int(rng.choice(recent))
        uses[net] += 1
        return net

    kinds = [names[kind] for kind in ("nand", "inverter", "xor", "adder")]
    for _ in range(count):
        name = kinds[int(rng.integers(len(kinds)))]
        model = library.cells[name]
        pins = [*model.inputs, *model.outputs]
        row = [pick() for _ in model.inputs]
        for _ in model.outputs:
            nets.append(max(nets) + 1)
            uses[nets[-1]] = 0
            row.append(nets[-1])
        cells.setdefault(name, (pins, []))[1].append(row)
    flop = library.cells[names["flop"]]
    output = next(iter(flop.outputs))
    rows = [[2, nets[-1 - i], 4 + i] for i in range(flops)]
    cells[flop.name] = ([flop.clock, flop.inputs[0], output], rows)
    return gates(cells)


def _generic_for_opensta():
    """The generic library with what OpenSTA needs: thresholds, and a set-up, without which a path has no end."""
    (text,) = generic().texts
    edges = [f"{kind}_{edge}" for kind in ("input_threshold_pct", "output_threshold_pct") for edge in ("rise", "fall")]
    thresholds = [f"{name} : 50;" for name in edges]
    for end, share in (("lower", 20), ("upper", 80)):
        thresholds += [f"slew_{end}_threshold_pct_{edge} : {share};" for edge in ("rise", "fall")]
    before, cell, behind = text.replace("{", "{ " + " ".join(thresholds), 1).partition("cell (DFF)")
    pin = "pin (D) { direction : input; capacitance : 1.0000; "
    assert pin in behind
    tables = " ".join(f'{edge}_constraint (scalar) {{ values ("3.0"); }}' for edge in ("rise", "fall"))
    setup = f'timing () {{ related_pin : "CK"; timing_type : setup_rising; {tables} }} '
    changed = before + cell + behind.replace(pin, pin + setup, 1)
    return library_from_texts("generic", [(Path("generic.lib"), changed)], "NAND2")


@pytest.mark.skipif(available() is None, reason=HINT)
@pytest.mark.parametrize("source", ["generic", "file"])
def test_opensta_finds_the_same(source: str) -> None:
    """A second opinion on random logic; a Liberty file of a foundry by $LIBERTY."""
    if source == "file" and not os.environ.get("LIBERTY"):
        pytest.skip("no Liberty file: $LIBERTY names one")
    loaded = _generic_for_opensta() if source == "generic" else load([Path(os.environ["LIBERTY"])])

    def smallest(wanted) -> str:
        usable = [cell for cell in loaded.cells.values() if not cell.dont_use and cell.area]
        return min((cell for cell in usable if wanted(cell)), key=lambda cell: (cell.area, cell.name)).name

    two = {name for name, cell in loaded.cells.items() if len(cell.inputs) == 2 and not cell.sequential}
    names = {
        "nand": loaded.nand2.name,
        "xor": smallest(lambda cell: cell.name in two and re.search(r"\^", next(iter(cell.outputs.values()), ""))),
        "inverter": smallest(lambda cell: list(cell.outputs.values()) in ([f"!{x}"] for x in cell.inputs)),
        "adder": loaded.full_adder.cell,
        "flop": smallest(lambda cell: cell.flip_flop and len(cell.inputs) == 2),
    }  # fmt: skip
    library = characterise(loaded, list(names.values()))
    if source == "generic":
        # OpenSTA takes a file's default wire load, and no other.
        library = replace(library, wire=NO_WIRE)
    slew = library.nominal_slew
    for seed in range(3):
        # An input that goes to 40 copies, and a net of 40 loads in what is left out.
        netlist = enclosed(_random_logic(library, names, 60, seed), library, Borders({3: 40}, (), (4,) * 40))
        wanted = opensta_delay(netlist, loaded, library, slew)
        assert wanted > 0
        assert longest_path(netlist, library, slew).delay == pytest.approx(wanted, rel=0.01)


def test_opensta_without_a_path_says_why(tmp_path, monkeypatch) -> None:
    tool = tmp_path / "sta"
    tool.write_text("#!/bin/sh\necho 'Error: 0.lib line 1, syntax error'\n")
    tool.chmod(tool.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert available() == str(tool)
    netlist = enclosed(gates({"INV": (["A", "Y"], [[3, 4]])}), LIBRARY, Borders())
    with pytest.raises(OpenSTAError, match=r"OpenSTA found no path: Error: 0\.lib line 1, syntax error"):
        opensta_delay(netlist, generic(), LIBRARY, 0.0)
