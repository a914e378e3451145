"""The accelerator: core, memories, data movers, post-processing, bus masters and sequencer (MVQ section 5.1)."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, ResetInserter, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Member, Out

from hw.bus.axi import Axi4LiteSignature, Axi4Signature, connect_flat, flat_members, word_bytes
from hw.bus.reader import ID_BITS, DmaReader
from hw.bus.registers import ADDRESS_BITS, RegisterBank
from hw.bus.writer import DmaWriter
from hw.config import AcceleratorConfig
from hw.control.counters import COUNTER_BITS, COUNTERS
from hw.control.sequencer import Sequencer
from hw.core import AcceleratorCore
from hw.memory.activation_reader import ActivationReader
from hw.memory.ifmap_loader import IfmapLoader
from hw.memory.l2 import IfmapMemory, L2Memory
from hw.memory.psum_buffer import PsumBuffer
from hw.memory.transfer import LoadUnit, StoreUnit
from hw.postprocess.ofmap_storer import OfmapStorer
from hw.postprocess.vector_unit import VectorUnit

__all__ = ["Accelerator", "accelerator_ports"]


def accelerator_ports(config: AcceleratorConfig) -> dict[str, Member]:
    """The ports of an instance: AXI4-Lite of the host, AXI4 of the DRAM, and the interrupt."""
    return {
        **flat_members("s_axil", Axi4LiteSignature(ADDRESS_BITS), In),
        **flat_members("m_axi", Axi4Signature(config.address_bits, config.word_width, ID_BITS), Out),
        "o_interrupt": Out(1),
    }


class Accelerator(wiring.Component):
    """The whole IP: registers in, an interrupt out, DRAM behind an AXI4 manager.

    Parameters
    ----------
    config
        The instance. ``word_width`` is the width of the AXI data.

    Members
    -------
    s_axil_*
        AXI4-Lite subordinate: the registers (:mod:`hw.bus.registers`).
    m_axi_*
        AXI4 manager of DRAM.
    o_interrupt
        Level, active high.

    Raises
    ------
    ConfigError
        ``word_width`` is no power of two.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        word_bytes(config)
        self.config = config
        super().__init__(accelerator_ports(config))

    def elaborate(self, platform):
        m = Module()
        config = self.config

        m.submodules.registers = registers = RegisterBank(config)
        m.submodules.sequencer = sequencer = Sequencer(config)
        # A flip-flop of its own drives the reset of everything.
        reset = Signal()
        m.d.sync += reset.eq(sequencer.o_reset)

        def unit(name, component):
            m.submodules[name] = ResetInserter(reset)(component)
            return component

        reader = unit("reader", DmaReader(config))
        writer = unit("writer", DmaWriter(config))
        core = unit("core", AcceleratorCore(config))
        load, store = unit("load_unit", LoadUnit(config)), unit("store_unit", StoreUnit(config))
        ifmap_loader = unit("ifmap_loader", IfmapLoader(config))
        activation_reader = unit("activation_reader", ActivationReader(config))
        psum_buffer = unit("psum_buffer", PsumBuffer(config))
        storer = unit("ofmap_storer", OfmapStorer(config))
        vector = unit("vector_unit", VectorUnit(config))
        l2 = unit("l2", L2Memory(config, readers=3, writers=3))
        ifmap = unit("l1_ifmap", IfmapMemory(config))

        connect_flat(m, self, "s_axil", registers.s_axil)
        connect_flat(m, self, "m_axi", reader.m_axi)
        connect_flat(m, self, "m_axi", writer.m_axi)
        m.d.comb += self.o_interrupt.eq(registers.o_interrupt)

        # DRAM to streams
        for name in sequencer.channels:
            wiring.connect(m, getattr(sequencer, f"o_request_{name}"), getattr(reader, f"i_{name}_request"))
        for name in config.channels:
            wiring.connect(m, getattr(reader, f"o_{name}"), getattr(core, f"i_{name}"))
        wiring.connect(m, reader.o_parameter, storer.i_parameter)
        wiring.connect(m, sequencer.o_descriptor_request, reader.i_descriptor_request)
        wiring.connect(m, reader.o_descriptor, sequencer.i_words)
        wiring.connect(m, load.o_request, reader.i_load_request)
        wiring.connect(m, reader.o_load, load.i_words)
        wiring.connect(m, store.o_request, writer.i_request)
        wiring.connect(m, store.o_words, writer.i_data)
        m.d.comb += store.i_writer_done.eq(writer.o_done)

        # Commands
        for output, taker in (
            (sequencer.o_load, load),
            (sequencer.o_copy, ifmap_loader),
            (sequencer.o_tile, core),
            (sequencer.o_read, activation_reader),
            (sequencer.o_psum, psum_buffer),
            (sequencer.o_output, storer),
            (sequencer.o_vector, vector),
            (sequencer.o_store, store),
        ):
            wiring.connect(m, output, taker.i_command)

        # Feature maps and sums
        wiring.connect(m, load.o_l2, l2.i_write_0)
        wiring.connect(m, storer.o_l2, l2.i_write_1)
        wiring.connect(m, vector.o_l2_write, l2.i_write_2)
        wiring.connect(m, ifmap_loader.o_l2, l2.i_read_0)
        wiring.connect(m, vector.o_l2_read, l2.i_read_1)
        wiring.connect(m, store.o_l2, l2.i_read_2)
        wiring.connect(m, ifmap_loader.o_l1, ifmap.i_write_0)
        wiring.connect(m, activation_reader.o_l1, ifmap.i_read_0)
        wiring.connect(m, activation_reader.o_activation, core.i_activation)
        wiring.connect(m, core.o_psum, psum_buffer.i_psum)
        wiring.connect(m, psum_buffer.o_psum, core.i_psum)
        wiring.connect(m, psum_buffer.o_sums, storer.i_sums)

        m.d.comb += [
            sequencer.i_loaded.eq(load.o_done),
            sequencer.i_copied.eq(ifmap_loader.o_done),
            sequencer.i_fed.eq(activation_reader.o_done),
            sequencer.i_stored.eq(storer.o_done),
            sequencer.i_vectored.eq(vector.o_done),
            sequencer.i_written.eq(store.o_done),
            sequencer.i_start.eq(registers.o_start),
            sequencer.i_abort.eq(registers.o_abort),
            sequencer.i_address.eq(registers.o_program_address),
            sequencer.i_descriptors.eq(registers.o_program_descriptors),
            registers.i_busy.eq(sequencer.o_busy),
            registers.i_done.eq(sequencer.o_done),
            registers.i_failed.eq(sequencer.o_failed),
            registers.i_cause.eq(sequencer.o_cause),
            registers.i_descriptor.eq(sequencer.o_descriptor),
            registers.i_descriptors.eq(sequencer.o_count),
            sequencer.i_quiet.eq(reader.o_idle & writer.o_idle),
            reader.i_stop.eq(sequencer.o_stop),
            writer.i_stop.eq(sequencer.o_stop),
            sequencer.i_error.eq(reader.o_error | writer.o_error),
        ]
        with m.If(reader.o_error):
            m.d.comb += sequencer.i_error_cause.eq(reader.o_error_cause)
        with m.Else():
            m.d.comb += sequencer.i_error_cause.eq(writer.o_error_cause)

        # Performance counters
        events = {
            "cycles": sequencer.o_busy,
            "operations": core.o_events.issue,
            "wait_weights": core.o_events.wait_weights,
            "wait_activations": core.o_events.wait_activations,
            "wait_psums": core.o_events.wait_psums,
            "row_writes": core.o_events.row_write,
            "dram_reads": self.m_axi_rvalid & self.m_axi_rready,
            "dram_writes": self.m_axi_wvalid & self.m_axi_wready,
            "l2_reads": l2.o_read,
            "l2_writes": l2.o_write,
            "l1_reads": ifmap.o_read,
            "l1_writes": ifmap.o_write,
            "psum_reads": psum_buffer.o_read,
            "psum_writes": psum_buffer.o_write,
            "vector_cycles": vector.o_busy,
        }
        live = self._counters(m, events, sequencer, begin=registers.o_start & ~sequencer.o_busy)
        m.d.comb += [store.i_counters.eq(live), registers.i_counters.eq(live)]
        return m

    def _counters(self, m: Module, events: dict[str, Value], sequencer: Sequencer, begin: Value) -> Value:
        """Counts events while a program runs; all counters, in the order of :data:`hw.control.counters.COUNTERS`."""
        counters = {name: Signal(COUNTER_BITS, name=f"counter_{name}") for name in events}
        for name, event in events.items():
            happened = Signal(name=f"event_{name}")
            m.d.sync += happened.eq(event & sequencer.o_busy)
            m.d.sync += counters[name].eq(counters[name] + happened)
            with m.If(begin):
                m.d.sync += counters[name].eq(0)
        return Cat(counters.get(name, sequencer.o_count) for name in COUNTERS)
