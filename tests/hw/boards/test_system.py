"""What is around the accelerator on a board, in Amaranth's simulator; a small one with true registers stands for it."""

from __future__ import annotations

import pytest
from amaranth.hdl import Cat, Const, Fragment, Module, Signal

from hw.accelerator import Accelerator
from hw.boards import system
from hw.boards.firmware import FAIL, PASS, RUNNING, SelfTest, configuration_number
from hw.boards.protocol import check_word
from hw.boards.system import LEDS, BoardSystem
from hw.bus.axi import Axi4Signature, connect_flat
from hw.bus.reader import ID_BITS
from hw.bus.register_map import ID, VERSION
from hw.bus.registers import RegisterBank
from hw.config import preset
from hw.control.counters import COUNTERS

CONFIG = preset("ews-tiny")
DIVISOR, BEAT, SIZE = 8, 6, 4096
SOURCE, RESULT = 0x40, 0x86
WORD = CONFIG.word_width // 8
CONTENTS = bytes(SOURCE) + bytes(range(0x51, 0x51 + WORD))
#: The source with all bits the other way, which nothing but the accelerator writes.
EXPECTED = bytes(value ^ 0xFF for value in CONTENTS[SOURCE:])


class Inverter(Accelerator):
    """For a program it reads one word of DRAM, where its descriptors begin, and writes all bits the other way."""

    def elaborate(self, platform):
        m = Module()
        m.submodules.registers = registers = RegisterBank(self.config)
        connect_flat(m, self, "s_axil", registers.s_axil)
        bus = Axi4Signature(self.config.address_bits, self.config.word_width, ID_BITS).create()
        connect_flat(m, self, "m_axi", bus)
        size = (WORD - 1).bit_length()
        m.d.comb += [
            *(getattr(bus, f"{channel}size").eq(size) for channel in ("ar", "aw")),
            *(getattr(bus, f"{channel}burst").eq(1) for channel in ("ar", "aw")),
            bus.araddr.eq(registers.o_program_address),
            bus.awaddr.eq(RESULT),
            bus.wstrb.eq(~0),
            bus.wlast.eq(1),
            registers.i_descriptors.eq(registers.o_program_descriptors),
            registers.i_counters.eq(Cat(Const(0x0ABC_0000 + number, 32) for number in range(len(COUNTERS)))),
            self.o_interrupt.eq(registers.o_interrupt),
        ]
        word = Signal(self.config.word_width)
        m.d.comb += bus.wdata.eq(~word)
        with m.FSM() as fsm:
            m.d.comb += registers.i_busy.eq(~fsm.ongoing("rest"))
            with m.State("rest"), m.If(registers.o_start):
                m.next = "ask"
            for state, ours, theirs, following in (
                ("ask", bus.arvalid, bus.arready, "read"),
                ("read", bus.rready, bus.rvalid, "address"),
                ("address", bus.awvalid, bus.awready, "write"),
                ("write", bus.wvalid, bus.wready, "answer"),
                ("answer", bus.bready, bus.bvalid, "rest"),
            ):
                with m.State(state):
                    m.d.comb += ours.eq(1)
                    with m.If(theirs):
                        m.next = following
        with m.If(bus.rready & bus.rvalid):
            m.d.sync += word.eq(bus.rdata)
        m.d.comb += registers.i_done.eq(bus.bready & bus.bvalid)
        return m


def test_self_test_and_a_request(monkeypatch: pytest.MonkeyPatch, simulate) -> None:
    """The report, LEDs and the beat; then what it is, over the UART. The line rests high."""
    monkeypatch.setattr(system, "Accelerator", Inverter)
    test = SelfTest("x", SOURCE, 7, RESULT, EXPECTED)
    dut = BoardSystem(CONFIG, test, CONTENTS, SIZE, DIVISOR, beat=BEAT, patience=2000)
    said = bytearray()

    async def watch(ctx) -> None:
        """The beat at each cycle; a byte is looked at in the middle of its bits."""
        cycles, at, byte = 0, -1, 0
        while True:
            assert ctx.get(dut.o_leds) >> (LEDS - 1) == cycles >> BEAT & 1
            level = ctx.get(dut.o_tx)
            if at >= 0 or not level:
                at += 1
                bit, rest = divmod(at - DIVISOR // 2, DIVISOR)
                if rest == 0 and bit == 9:
                    assert level, "a stop bit is missing"
                    said.append(byte >> 1)
                    at, byte = -1, 0
                elif rest == 0:
                    byte |= level << bit
            await ctx.tick()
            cycles += 1

    async def until(ctx, end: bytes | int, limit: int) -> None:
        for _ in range(limit // 50):
            if said.endswith(end) if isinstance(end, bytes) else len(said) >= end:
                return
            await ctx.tick().repeat(50)
        raise AssertionError(bytes(said))

    async def bench(ctx) -> None:
        assert ctx.get(dut.i_rx)
        await ctx.tick().repeat(20)
        assert ctx.get(dut.o_leds[: LEDS - 1]) == RUNNING
        await until(ctx, b"S\r\n", 60_000)
        await ctx.tick().repeat(20)
        counters = "".join(f"{name} {0x0ABC_0000 + number:08X}\r\n" for number, name in enumerate(COUNTERS))
        assert said.decode() == f"\r\nx\r\n{counters}PASS\r\n"
        assert ctx.get(dut.o_leds[: LEDS - 1]) == PASS != FAIL
        said.clear()
        for byte in b"I" + check_word([]).to_bytes(4, "little"):
            for level in (0, *(byte >> bit & 1 for bit in range(8)), 1):
                ctx.set(dut.i_rx, level)
                await ctx.tick().repeat(DIVISOR)
        words = (SIZE, ID, VERSION, configuration_number(CONFIG))
        answer = b"K" + b"".join(word.to_bytes(4, "little") for word in (*words, check_word(words)))
        await until(ctx, len(answer), 5000)
        assert said == answer

    simulate(dut, bench, beside=[watch])


def test_where_nothing_is_said() -> None:
    """A memory about as slow as a DRAM; requests that break off are given up within a second at 20 MHz."""
    dut = BoardSystem(CONFIG, SelfTest("x", SOURCE, 7, RESULT, EXPECTED), CONTENTS, SIZE, DIVISOR, verilog=True)
    assert dut.memory.wait_states == 3
    assert dut.processor.patience == 1 << 24
    assert len(dut.o_leds) == 4
    Fragment.get(dut, None)
