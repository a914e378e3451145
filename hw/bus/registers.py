"""Register bank: the host's view of the accelerator, over AXI4-Lite."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.bus.axi import Axi4LiteSignature, Response
from hw.bus.register_map import ADDRESS_BITS, REGISTERS, Access
from hw.config import AcceleratorConfig
from hw.control.counters import COUNTER_BITS, COUNTERS
from hw.control.descriptor import BYTES
from hw.control.errors import Cause

__all__ = ["ADDRESS_BITS", "RegisterBank"]


class RegisterBank(wiring.Component):
    """The registers of :data:`hw.bus.register_map.REGISTERS`, and the interrupt.

    Members
    -------
    s_axil
        AXI4-Lite, the subordinate's side. One read and one write at a time; they don't wait for each other.
    o_start, o_abort
        One cycle each. A start comes only while nothing runs, an abort only while something does.
    o_program_address, o_program_descriptors
        Byte address of the first descriptor, and their number.
    i_busy
        A program runs: high from the cycle after ``o_start``.
    i_done, i_failed
        One cycle at the end of a program: one of them.
    i_cause, i_descriptor
        Why, and at which descriptor; together with ``i_failed``.
    i_descriptors, i_counters
        Shown as they are; counter 0 in the lowest bits.
    o_interrupt
        Level.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "s_axil": In(Axi4LiteSignature(ADDRESS_BITS)),
                "o_start": Out(1),
                "o_abort": Out(1),
                "o_program_address": Out(config.address_bits),
                "o_program_descriptors": Out(32),
                "i_busy": In(1),
                "i_done": In(1),
                "i_failed": In(1),
                "i_cause": In(Cause),
                "i_descriptor": In(32),
                "i_descriptors": In(32),
                "i_counters": In(COUNTER_BITS * len(COUNTERS)),
                "o_interrupt": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        axi = self.s_axil
        by_name = {register.name: register for register in REGISTERS}

        program = Signal(64)
        interrupt = Signal(3)
        enable = Signal(3)
        done, failed = Signal(), Signal()
        cause = Signal(Cause)
        error_descriptor = Signal(32)
        busy = Signal()
        m.d.comb += [busy.eq(self.i_busy | self.o_start), self.o_program_address.eq(program)]
        values: dict[str, Value] = {
            **{name: Const(by_name[name].reset, 32) for name in ("ID", "VERSION")},
            "CONTROL": Const(0, 32),
            "STATUS": Cat(busy, done, failed),
            "INTERRUPT": interrupt,
            "INTERRUPT_ENABLE": enable,
            "ERROR": cause,
            "ERROR_DESCRIPTOR": error_descriptor,
            "PROGRAM_LOW": program[:32],
            "PROGRAM_HIGH": program[32:],
            "DESCRIPTORS": self.i_descriptors,
            "PROGRAM_DESCRIPTORS": self.o_program_descriptors,
            **{
                f"COUNTER_{name.upper()}": self.i_counters.word_select(number, COUNTER_BITS)
                for number, name in enumerate(COUNTERS)
            },
        }

        # Reads: the address, then the register.
        reading = Signal()
        read_address = Signal(ADDRESS_BITS - 2)
        m.d.comb += axi.arready.eq(~reading & ~axi.rvalid)
        with m.If(axi.arvalid & axi.arready):
            m.d.sync += [reading.eq(1), read_address.eq(axi.araddr[2:])]
        with m.If(reading):
            m.d.sync += [reading.eq(0), axi.rvalid.eq(1), axi.rresp.eq(Response.OKAY)]
            with m.Switch(read_address):
                for name, value in values.items():
                    with m.Case(by_name[name].offset >> 2):
                        m.d.sync += axi.rdata.eq(value)
                with m.Default():
                    m.d.sync += [axi.rdata.eq(0), axi.rresp.eq(Response.SLVERR)]
        with m.If(axi.rvalid & axi.rready):
            m.d.sync += axi.rvalid.eq(0)

        # Writes: address and data in any order, then the register.
        has_address, has_data = Signal(), Signal()
        write_address = Signal(ADDRESS_BITS - 2)
        write_data = Signal(32)
        strobe = Signal(4)
        write = Signal()
        m.d.comb += [
            axi.awready.eq(~has_address),
            axi.wready.eq(~has_data),
            write.eq(has_address & has_data & ~axi.bvalid),
        ]
        with m.If(axi.awvalid & axi.awready):
            m.d.sync += [has_address.eq(1), write_address.eq(axi.awaddr[2:])]
        with m.If(axi.wvalid & axi.wready):
            m.d.sync += [has_data.eq(1), write_data.eq(axi.wdata), strobe.eq(axi.wstrb)]
        with m.If(axi.bvalid & axi.bready):
            m.d.sync += axi.bvalid.eq(0)

        mask = Cat(bit.replicate(8) for bit in strobe)
        ones = write_data & mask
        start, abort, clear = Signal(), Signal(), Signal(3)
        with m.If(write):
            m.d.sync += [has_address.eq(0), has_data.eq(0), axi.bvalid.eq(1), axi.bresp.eq(Response.OKAY)]
            with m.Switch(write_address):
                for register in REGISTERS:
                    if register.access is not Access.READ:
                        with m.Case(register.offset >> 2):
                            if register.name == "CONTROL":
                                m.d.comb += [start.eq(ones[0] & ~ones[1]), abort.eq(ones[1])]
                            elif register.name == "INTERRUPT":
                                m.d.comb += clear.eq(ones)
                            else:
                                kept = values[register.name]
                                m.d.sync += kept.eq((kept & ~mask) | ones)
                with m.Default():
                    m.d.sync += axi.bresp.eq(Response.SLVERR)
        # Descriptors are aligned to their size, and an instance has no more address bits than it has.
        m.d.sync += [program[: (BYTES - 1).bit_length()].eq(0), program[self.config.address_bits :].eq(0)]

        refused = start & busy
        m.d.sync += [
            self.o_start.eq(start & ~busy),
            self.o_abort.eq(abort & busy),
            interrupt.eq((interrupt & ~clear) | Cat(self.i_done, self.i_failed, refused)),
            self.o_interrupt.eq((interrupt & enable).any()),
        ]
        with m.If(start & ~busy):
            m.d.sync += [done.eq(0), failed.eq(0), cause.eq(Cause.NONE), error_descriptor.eq(0)]
        with m.If(refused):
            m.d.sync += cause.eq(Cause.DOORBELL_WHILE_BUSY)
        with m.If(self.i_done):
            m.d.sync += done.eq(1)
        with m.If(self.i_failed):
            m.d.sync += [failed.eq(1), cause.eq(self.i_cause), error_descriptor.eq(self.i_descriptor)]
        return m
