"""Stands for the accelerator: a program is copied to behind its end."""

from __future__ import annotations

from amaranth.hdl import Module, ResetSignal, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from hw.accelerator import Accelerator
from hw.bus.axi import connect_flat, word_bytes
from hw.bus.reader import DmaReader
from hw.bus.registers import RegisterBank
from hw.bus.writer import DmaWriter
from hw.config import preset
from hw.control.descriptor import BYTES
from hw.control.errors import Cause
from sim.accelerator.host import OFFSETS
from sim.accelerator.model import accelerator_runner
from sim.runner import VerilatorRunner

#: The lowest of the two bits of an address that say which rule is broken.
KIND = 28


class Copier(Accelerator):
    """Has its ports alone; "descriptors" are pieces of 64 bytes."""

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


class Faulty(Copier):
    """Breaks a rule: which one, bits of the program's address say; with none of them it is a :class:`Copier`."""

    KINDS = ("none", "B goes", "R changes", "interrupt in reset")

    def elaborate(self, platform):
        m = Module()
        m.submodules.inner = inner = Copier(self.config)
        for name, member in self.signature.members.items():
            outside, inside = getattr(self, name), getattr(inner, name)
            m.d.comb += outside.eq(inside) if member.flow is Out else inside.eq(outside)
        kind, flip = Signal(2, reset_less=True), Signal()
        m.d.sync += flip.eq(~flip)
        with m.If(self.s_axil_wvalid & (self.s_axil_awaddr == OFFSETS["PROGRAM_LOW"])):
            m.d.sync += kind.eq(self.s_axil_wdata[KIND:])
        with m.Switch(kind):
            with m.Case(1):
                m.d.comb += [
                    self.s_axil_bvalid.eq(inner.s_axil_bvalid & flip),
                    inner.s_axil_bready.eq(self.s_axil_bready & flip),
                ]
            with m.Case(2):
                m.d.comb += self.s_axil_rdata.eq(inner.s_axil_rdata ^ flip)
            with m.Case(3):
                m.d.comb += self.o_interrupt.eq(inner.o_interrupt | ResetSignal())
        return m


def copier() -> VerilatorRunner:
    """The model that all tests share."""
    return accelerator_runner(preset("ews-cms-16"), "copier", Faulty, quick=True)
