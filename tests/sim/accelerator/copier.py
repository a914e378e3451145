"""Stands for the accelerator: a program is copied to behind its end."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.bus.axi import Axi4LiteSignature, Axi4Signature, connect_flat, flat_members, word_bytes
from hw.bus.reader import ID_BITS, DmaReader
from hw.bus.registers import ADDRESS_BITS, RegisterBank
from hw.bus.writer import DmaWriter
from hw.config import AcceleratorConfig
from hw.control.descriptor import BYTES
from hw.control.errors import Cause


class Copier(wiring.Component):
    """Ports of :class:`hw.accelerator.Accelerator`; "descriptors" are pieces of 64 bytes."""

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                **flat_members("s_axil", Axi4LiteSignature(ADDRESS_BITS), In),
                **flat_members("m_axi", Axi4Signature(config.address_bits, config.word_width, ID_BITS), Out),
                "o_interrupt": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.registers = registers = RegisterBank(config)
        m.submodules.reader = reader = DmaReader(config)
        m.submodules.writer = writer = DmaWriter(config)
        connect_flat(m, self, "s_axil", registers.s_axil)
        connect_flat(m, self, "m_axi", reader.m_axi)
        connect_flat(m, self, "m_axi", writer.m_axi)
        wiring.connect(m, reader.o_descriptor, writer.i_data)

        words = BYTES // word_bytes(config)
        cycles = Signal(32)
        cause = Signal(Cause)
        asked = Signal(2)
        read, write = reader.i_descriptor_request, writer.i_request
        m.d.comb += [
            self.o_interrupt.eq(registers.o_interrupt),
            registers.i_counters.eq(cycles),
            registers.i_descriptors.eq(registers.o_program_descriptors),
            read.payload.address.eq(registers.o_program_address),
            read.payload.words.eq(registers.o_program_descriptors * words),
            write.payload.address.eq(registers.o_program_address + registers.o_program_descriptors * BYTES),
            write.payload.words.eq(registers.o_program_descriptors * words),
            registers.i_cause.eq(cause),
            registers.i_descriptor.eq(7),
        ]
        with m.FSM() as fsm:
            with m.State("IDLE"), m.If(registers.o_start):
                m.d.sync += [asked.eq(0), cycles.eq(0)]
                m.next = "COPY"
            with m.State("COPY"):
                m.d.comb += [read.valid.eq(~asked[0]), write.valid.eq(~asked[1])]
                m.d.sync += [asked.eq(asked | (read.ready << 0) | (write.ready << 1)), cycles.eq(cycles + 1)]
                with m.If(writer.o_done):
                    m.d.comb += registers.i_done.eq(~writer.o_error)
                    m.next = "IDLE"
                with m.If(registers.o_abort):
                    m.d.sync += cause.eq(Cause.ABORTED)
                    m.next = "STOP"
                with m.If(writer.o_error):
                    m.d.sync += cause.eq(writer.o_error_cause)
                    m.next = "STOP"
                with m.If(reader.o_error):
                    m.d.sync += cause.eq(reader.o_error_cause)
                    m.next = "STOP"
            with m.State("STOP"):
                m.d.comb += [reader.i_stop.eq(1), writer.i_stop.eq(1)]
                with m.If(reader.o_idle & writer.o_idle):
                    m.d.comb += registers.i_failed.eq(1)
                    m.next = "IDLE"
        m.d.comb += registers.i_busy.eq(~fsm.ongoing("IDLE"))
        return m
