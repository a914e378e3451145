"""The register bank does what the register map says; page, header and manifest say the same."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from hw.bus import register_map
from hw.bus.axi import Response
from hw.bus.register_map import CAUSES, ID, REGISTERS, VERSION, Access, header, manifest, markdown
from hw.bus.registers import RegisterBank
from hw.config import preset
from hw.control.counters import COUNTERS
from hw.control.errors import Cause
from hw.generate import to_rtlil
from sim.accelerator.axi_memory import LiteHost

TINY = preset("ews-cms-tiny")
OFFSETS = {register.name: register.offset for register in REGISTERS}


class Host(LiteHost):
    """Accesses registers by name and expects OKAY."""

    async def get(self, ctx, name: str) -> int:
        value, response = await self.read(ctx, OFFSETS[name])
        assert response is Response.OKAY
        return value

    async def set(self, ctx, name: str, value: int, strobe: int = 0xF) -> None:
        assert await self.write(ctx, OFFSETS[name], value, strobe) is Response.OKAY


class Sequencer:
    """Stands for the sequencer: busy from the start on, until told how the program ends."""

    def __init__(self, bank: RegisterBank) -> None:
        self.bank = bank
        self.started: list[int] = []
        self.aborted = 0
        self.busy = False

    async def run(self, ctx) -> None:
        bank = self.bank
        while True:
            _, _, start, abort, program = await ctx.tick().sample(bank.o_start, bank.o_abort, bank.o_program_address)
            if start:
                assert not self.busy
                self.started.append(program)
                self.busy = True
            self.aborted += abort
            ctx.set(bank.i_busy, self.busy)

    async def end(self, ctx, cause: Cause = Cause.NONE, descriptor: int = 0) -> None:
        bank = self.bank
        ctx.set(bank.i_failed if cause else bank.i_done, 1)
        ctx.set(bank.i_cause, cause)
        ctx.set(bank.i_descriptor, descriptor)
        self.busy = False
        await ctx.tick()
        ctx.set(bank.i_failed, 0)
        ctx.set(bank.i_done, 0)
        ctx.set(bank.i_cause, 0)
        ctx.set(bank.i_descriptor, 0)
        await ctx.tick()


@pytest.mark.parametrize("stall", [0, 0.6])
def test_values_after_reset_and_addresses_that_do_not_exist(simulate, stall: float) -> None:
    bank = RegisterBank(TINY)
    host = Host(bank.s_axil, stall)

    async def bench(ctx) -> None:
        for register in REGISTERS:
            assert await host.read(ctx, register.offset) == (register.reset, Response.OKAY)
        for address in (0x30, 0x3C, 0x80, 0x400, 0x800, 0xFFC):
            assert await host.read(ctx, address) == (0, Response.SLVERR)
            assert await host.write(ctx, address, 0xFFFFFFFF) is Response.SLVERR
        for register in REGISTERS:
            if register.access is Access.READ:
                assert await host.write(ctx, register.offset, 0xFFFFFFFF) is Response.SLVERR
                assert await host.get(ctx, register.name) == register.reset

    simulate(bank, bench)


def test_counters_are_shown_in_order(simulate) -> None:
    bank = RegisterBank(TINY)
    host = Host(bank.s_axil)
    values = {name: 0x1234567 * (number + 1) & 0xFFFFFFFF for number, name in enumerate(COUNTERS)}

    async def bench(ctx) -> None:
        ctx.set(bank.i_counters, sum(value << 32 * number for number, value in enumerate(values.values())))
        ctx.set(bank.i_descriptors, 77)
        assert [await host.get(ctx, f"COUNTER_{name.upper()}") for name in values] == list(values.values())
        assert await host.get(ctx, "DESCRIPTORS") == 77

    simulate(bank, bench)


@pytest.mark.parametrize("address_bits", [16, 32, 40, 64])
def test_program_address(simulate, address_bits: int) -> None:
    bank = RegisterBank(TINY.override([f"address_bits={address_bits}"]))
    host = Host(bank.s_axil)
    within = (1 << address_bits) - 64

    async def bench(ctx) -> None:
        await host.set(ctx, "PROGRAM_LOW", 0xFFFFFFFF)
        await host.set(ctx, "PROGRAM_HIGH", 0xFFFFFFFF)
        assert ctx.get(bank.o_program_address) == within
        assert await host.get(ctx, "PROGRAM_LOW") == within & 0xFFFFFFFF
        assert await host.get(ctx, "PROGRAM_HIGH") == within >> 32
        await host.set(ctx, "PROGRAM_LOW", 0x12345678, 0b0010)
        assert await host.get(ctx, "PROGRAM_LOW") == (within & 0xFFFF00FF) | 0x5600
        await host.set(ctx, "PROGRAM_DESCRIPTORS", 0x89ABCDEF)
        assert ctx.get(bank.o_program_descriptors) == await host.get(ctx, "PROGRAM_DESCRIPTORS") == 0x89ABCDEF

    simulate(bank, bench)


@pytest.mark.parametrize("stall", [0, 0.5])
def test_programs_end_in_every_way(simulate, stall: float) -> None:
    bank = RegisterBank(TINY)
    host = Host(bank.s_axil, stall)
    sequencer = Sequencer(bank)

    async def state(ctx) -> tuple[int, ...]:
        names = ("STATUS", "INTERRUPT", "ERROR", "ERROR_DESCRIPTOR")
        return tuple([await host.get(ctx, name) for name in names])

    async def bench(ctx) -> None:
        await host.set(ctx, "INTERRUPT_ENABLE", 0b011)
        await host.set(ctx, "PROGRAM_LOW", 0x1000)
        await host.set(ctx, "CONTROL", 0b10)  # nothing to abort
        await host.set(ctx, "CONTROL", 0b01, 0b1110)  # not the byte with the bit
        assert (sequencer.started, sequencer.aborted) == ([], 0)
        await host.set(ctx, "CONTROL", 0b01)
        assert sequencer.started == [0x1000]
        assert await state(ctx) == (0b001, 0, 0, 0)
        assert await host.get(ctx, "CONTROL") == 0

        await host.set(ctx, "CONTROL", 0b01)
        assert sequencer.started == [0x1000]
        assert await state(ctx) == (0b001, 0b100, Cause.DOORBELL_WHILE_BUSY, 0)
        assert not ctx.get(bank.o_interrupt)
        await host.set(ctx, "INTERRUPT_ENABLE", 0b111)
        assert ctx.get(bank.o_interrupt)
        await host.set(ctx, "INTERRUPT", 0b011)
        assert ctx.get(bank.o_interrupt)
        await host.set(ctx, "INTERRUPT", 0b100)
        await ctx.tick()
        assert not ctx.get(bank.o_interrupt)

        await sequencer.end(ctx)
        assert ctx.get(bank.o_interrupt)
        assert await state(ctx) == (0b010, 0b001, Cause.DOORBELL_WHILE_BUSY, 0)
        await host.set(ctx, "INTERRUPT", 0b001)

        await host.set(ctx, "PROGRAM_LOW", 0x2000)
        await host.set(ctx, "CONTROL", 0b01)
        assert sequencer.started == [0x1000, 0x2000]
        assert await state(ctx) == (0b001, 0, 0, 0)
        await host.set(ctx, "CONTROL", 0b11)  # abort wins
        assert sequencer.aborted == 1
        await sequencer.end(ctx, Cause.ABORTED, 9)
        assert await state(ctx) == (0b100, 0b010, Cause.ABORTED, 9)
        assert ctx.get(bank.o_interrupt)
        await host.set(ctx, "CONTROL", 0b11)  # nothing to abort, and no start
        assert len(sequencer.started) == 2
        await host.set(ctx, "CONTROL", 0b01)
        assert await state(ctx) == (0b001, 0b010, 0, 0)
        await sequencer.end(ctx, Cause.CHECKSUM, 3)
        assert await state(ctx) == (0b100, 0b010, Cause.CHECKSUM, 3)

    simulate(bank, bench, beside=[sequencer.run])


def test_two_doorbells_in_a_row(simulate) -> None:
    """The second one is refused even in the cycle in which the first one goes out."""
    bank = RegisterBank(TINY)
    axi = bank.s_axil

    async def bench(ctx) -> None:
        ctx.set(axi.awaddr, OFFSETS["CONTROL"])
        ctx.set(axi.awvalid, 1)
        ctx.set(axi.wdata, 1)
        ctx.set(axi.wstrb, 0xF)
        ctx.set(axi.wvalid, 1)
        ctx.set(axi.bready, 1)
        starts = []
        for _ in range(30):
            _, _, start = await ctx.tick().sample(bank.o_start)
            starts.append(start)
            ctx.set(bank.i_busy, any(starts))
        assert sum(starts) == 1

    simulate(bank, bench)


def test_offsets_and_fields_do_not_overlap() -> None:
    offsets = [register.offset for register in REGISTERS]
    assert offsets == sorted(set(offsets))
    assert all(offset % 4 == 0 and offset < 1 << register_map.ADDRESS_BITS for offset in offsets)
    for register in REGISTERS:
        bits = [bit for field in register.fields for bit in range(field.offset, field.offset + field.width)]
        assert len(bits) == len(set(bits))
        assert all(bit < 32 for bit in bits)
    assert set(CAUSES) == set(Cause)
    assert (ID, VERSION) == (0x4D535651, 0x10000)


def test_page_header_and_manifest_agree() -> None:
    described = manifest()["registers"]
    offsets = {register["name"]: register["offset"] for register in described}
    fields = {
        (register["name"], field["name"]): ((1 << field["width"]) - 1) << field["offset"]
        for register in described
        for field in register["fields"]
    }

    defined = {name: int(value, 0) for name, value in re.findall(r"#define MSVQ_(\w+) (\w+?)u\b", header())}
    wanted = {name: offset for name, offset in offsets.items()}
    wanted |= {f"{register}_{field.upper()}": mask for (register, field), mask in fields.items()}
    wanted |= {f"{register['name']}_VALUE": register["reset"] for register in described if register["reset"]}
    wanted |= {f"CAUSE_{name}": value for name, value in manifest()["causes"].items()}
    assert defined == wanted

    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in markdown().splitlines() if line[:1] == "|"
    ]
    assert {row[1]: int(row[0], 16) for row in rows if row[0].startswith("0x")} == offsets
    listed = {}
    for register, field, *rest in rows:
        if (register, field) in fields:
            high, _, low = rest[0].partition(":")
            listed[register, field] = sum(1 << bit for bit in range(int(low or high), int(high) + 1))
    assert listed == fields
    assert {row[1]: int(row[0]) for row in rows if row[0].isdigit()} == manifest()["causes"]


def test_committed_page_is_the_generated_one() -> None:
    page = Path(__file__).parents[3] / "docs" / "registers.md"
    assert page.read_text() == markdown(), "python -m hw.bus.register_map markdown > docs/registers.md"


def test_c_compiler_takes_the_header(tmp_path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    (tmp_path / "registers.h").write_text(header())
    source = '#include "registers.h"\n#include "registers.h"\n_Static_assert(MSVQ_COUNTER_CYCLES == 0x40, "");\n'
    (tmp_path / "use.c").write_text(source)
    command = [compiler, "-std=c11", "-Wall", "-Werror", "-fsyntax-only", "use.c"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("form", "start"), [("markdown", "# Registers"), ("header", "/* Registers"), ("json", '{\n  "address_bits": 12')]
)
def test_command_line(capsys, form: str, start: str) -> None:
    assert register_map.main([form]) == 0
    assert capsys.readouterr().out.startswith(start)


def test_elaborates_for_a_large_array() -> None:
    assert "s_axil__araddr" in to_rtlil(RegisterBank(preset("ews-msvq-64")))
