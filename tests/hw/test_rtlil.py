"""Merging equal modules keeps the design and removes the copies."""

from __future__ import annotations

import re

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.config import preset
from hw.core import AcceleratorCore
from hw.memory.register_file import RegisterFile
from hw.rtlil import RtlilError, merge_equal_modules, parse_modules
from hw.yosys import YosysError, run_yosys


class Cell(wiring.Component):
    """A register file and an adder: a block with state, a memory and a child of its own."""

    def __init__(self, step: int) -> None:
        self.step = step
        super().__init__({"i_a": In(4), "i_b": In(4), "i_slot": In(1), "o_sum": Out(5)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.store = store = RegisterFile(2, 4)
        # Halves of different drivers: the child's port is no whole signal and gets a number.
        m.d.comb += [
            store.i_write.eq(self.i_b[0]),
            store.i_write_address.eq(self.i_slot),
            store.i_write_data.eq(Cat(self.i_a[:2], self.i_b[2:])),
            store.i_address_0.eq(~self.i_slot),
        ]
        m.d.sync += self.o_sum.eq(self.i_a + store.o_data_0 + self.step)
        return m


class Row(wiring.Component):
    """Cells in a chain; every second one is different."""

    def __init__(self, steps: list[int]) -> None:
        self.steps = steps
        super().__init__({"i_a": In(4), "i_b": In(4), "i_slot": In(1), "o_sum": Out(5)})

    def elaborate(self, platform):
        m = Module()
        value = self.i_a
        for i, step in enumerate(self.steps):
            m.submodules[f"cell_{i}"] = cell = Cell(step)
            following = Signal(5, name=f"following_{i}")
            m.d.comb += [cell.i_a.eq(value[1:] if i else value), cell.i_b.eq(self.i_b), cell.i_slot.eq(self.i_slot)]
            m.d.sync += following.eq(cell.o_sum)
            value = following
        m.d.comb += self.o_sum.eq(value)
        return m


@pytest.fixture(scope="module")
def text() -> str:
    return rtlil.convert(Row([0, 1, 0, 1, 0]), name="core")


def assert_equivalent(tmp_path, first: str, second: str) -> None:
    commands = []
    for name, rtlil_text in (("first", first), ("second", second)):
        (tmp_path / f"{name}.il").write_text(rtlil_text)
        commands += [f"read_rtlil {name}.il", "hierarchy -check -top core", "proc", "memory_map", "flatten"]
        commands += [f"rename core {name}", f"design -stash {name}"]
    commands += [f"design -copy-from {name} -as {name} {name}" for name in ("first", "second")]
    commands += ["equiv_make first second both", "hierarchy -top both", "opt_clean", "equiv_simple", "equiv_induct"]
    run_yosys([*commands, "equiv_status -assert"], tmp_path)


def test_merged_design_is_equivalent(text, tmp_path) -> None:
    merged = merge_equal_modules(text)
    assert_equivalent(tmp_path, text, merged)
    broken = merged.replace("connect \\B 1'1\n", "connect \\B 1'0\n")  # the step of the cells with odd numbers
    assert broken != merged
    with pytest.raises(YosysError, match="unproven"):
        assert_equivalent(tmp_path, text, broken)


def test_merged_core_is_equivalent(tmp_path) -> None:
    # Two tiles, a sparse row, ports that are pieces of signals at several depths; memories of the fewest words.
    few = ["H=2", "k=2", "wrf_depth=4", "arf_depth=2", "prf_depth=2", "loop_bits=6", "psum_width=16"]
    core = rtlil.convert(AcceleratorCore(preset("ews-msvq-tiny").override(few)), name="core")
    merged = merge_equal_modules(core)
    assert_equivalent(tmp_path, core, merged)
    names = list(parse_modules(merged))
    assert sum(bool(re.fullmatch(r"\\core_multiplier(_\d+)?", name)) for name in names) == 1
    assert sum(bool(re.fullmatch(r"\\core_wrf(_\d+)?", name)) for name in names) == 1


def test_copies_are_merged_and_named_after_the_first_instance(text) -> None:
    assert text.count("\nmodule ") == 11
    assert list(parse_modules(merge_equal_modules(text))) == [
        "\\core", "\\core_cell", "\\core_cell_2", "\\core_store"
    ]  # fmt: skip


def test_idempotent(text) -> None:
    merged = merge_equal_modules(text)
    assert merge_equal_modules(merged) == merged


def test_no_path_of_this_machine(text) -> None:
    assert __file__ in text
    merged = merge_equal_modules(text)
    assert __file__ not in merged
    assert "src" not in merged
    assert ".py" not in merged


def test_unused_alias_wires_go_and_ports_of_the_top_stay() -> None:
    merged = merge_equal_modules(rtlil.convert(Row([0]), name="core"))
    top = parse_modules(merged)["\\core"]
    assert [port.rsplit(" ", 1)[1] for port in top.ports] == [
        "\\i_a", "\\i_b", "\\i_slot", "\\clk", "\\rst", "\\o_sum"
    ]  # fmt: skip
    assert not any("i_b$" in wire for wire in top.wires)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("", "no module in the text"),
        ("garbage\n", "line 1: expected a module, not 'garbage'"),
        ("module \\a\n", r"module \\a has no end"),
        ("module \\a\nend\nmodule \\a\nend\n", r"line 3: module \\a is defined twice"),
        ("module \\t\n  cell \\a \\x\n  end\nend\nmodule \\a\n  cell \\a \\x\n  end\nend\n", "instantiates itself"),
    ],
)
def test_bad_text(bad, message) -> None:
    with pytest.raises(RtlilError, match=message):
        merge_equal_modules(bad)
