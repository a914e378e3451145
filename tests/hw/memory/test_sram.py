"""The memory for Amaranth's simulator and the one in Verilog behave alike."""

from __future__ import annotations

from pathlib import Path

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Module
from amaranth.lib import wiring

from hw.config import AcceleratorConfig, preset
from hw.generate import to_rtlil
from hw.memory.activation_reader import ActivationReader
from hw.memory.ifmap_loader import IfmapLoader
from hw.memory.l2 import IfmapMemory, L2Memory
from hw.memory.psum_buffer import PsumBuffer
from hw.memory.sram import Sram, sram_rtlil
from hw.memory.transfer import LoadUnit, StoreUnit
from hw.yosys import YosysError, run_yosys


def compare(tmp_path: Path, ours: str, theirs: str) -> None:
    """Every output of the two modules is equal for 6 cycles, whatever the inputs; contents begin as zeros."""
    (tmp_path / "ours.il").write_text(ours)
    (tmp_path / "theirs.il").write_text(theirs)
    # Amaranth's has a reset that nothing uses.
    commands = ["read_rtlil ours.il", "read_rtlil theirs.il", "delete -port theirs/rst"]
    commands += [
        "miter -equiv -make_assert -flatten ours theirs miter",
        "hierarchy -top miter",
        "proc",
        "flatten",
        "memory_collect",
        "memory_map",
        "opt_clean",
    ]
    run_yosys([*commands, "sat -verify -prove-asserts -seq 6 -set-init-zero miter"], tmp_path)


@pytest.mark.parametrize(("depth", "width"), [(2, 2), (4, 3)])
def test_emitted_module_is_the_simulated_one(tmp_path: Path, depth: int, width: int) -> None:
    theirs = rtlil.convert(Sram(depth, width), name="theirs", emit_src=False)
    ours = sram_rtlil("ours", depth, width)
    compare(tmp_path, ours, theirs)
    with pytest.raises(YosysError):
        compare(tmp_path, ours.replace("MASK 1'0", "MASK 1'1", 1), theirs)


class Wrapped(wiring.Component):
    """A memory behind ports of the same names, as its users have it."""

    def __init__(self, depth: int, width: int) -> None:
        self.sram = Sram(depth, width)
        super().__init__(dict(self.sram.signature.members))

    def elaborate(self, platform):
        m = Module()
        m.submodules.sram = sram = self.sram
        for name, member in self.signature.members.items():
            inner, outer = getattr(sram, name), getattr(self, name)
            m.d.comb += inner.eq(outer) if member.flow is wiring.In else outer.eq(inner)
        return m


def test_emitted_instance_is_connected(tmp_path: Path) -> None:
    theirs = rtlil.convert(Sram(4, 3), name="theirs", emit_src=False)
    ours = to_rtlil(Wrapped(4, 3), "ours")
    (tmp_path / "first.il").write_text(ours)
    run_yosys(["read_rtlil first.il", "hierarchy -top ours", "flatten", "write_rtlil flat.il"], tmp_path)
    flat = (tmp_path / "flat.il").read_text()
    assert "cell $memrd_v2" in flat
    if r"\rst" in flat:
        run_yosys(["read_rtlil flat.il", "delete -port ours/rst", "write_rtlil flat.il"], tmp_path)
        flat = (tmp_path / "flat.il").read_text()
    compare(tmp_path, flat, theirs)


def l2_memory(config: AcceleratorConfig) -> L2Memory:
    return L2Memory(config, 3, 3)


@pytest.mark.parametrize(
    "unit", [l2_memory, IfmapMemory, PsumBuffer, LoadUnit, StoreUnit, IfmapLoader, ActivationReader]
)
@pytest.mark.parametrize("name", ["ws-64", "ews-msvq-64"])
def test_presets_are_emitted_without_the_contents_of_memories(name: str, unit) -> None:
    text = to_rtlil(unit(preset(name)), "unit")
    assert len(text) < 100_000
    if unit in (l2_memory, IfmapMemory, PsumBuffer):
        assert "cell $memwr_v2" in text
        assert "$meminit" not in text


def test_modules_are_called_after_their_size() -> None:
    text = to_rtlil(L2Memory(preset("ews-64"), 2, 2), "top")
    assert text.count("module \\top_sram_32768x512\n") == 1
