"""Ofmap storer: finished sums, requantised, into L2 (MVQ section 5.1)."""

from __future__ import annotations

from itertools import pairwise

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.config import AcceleratorConfig
from hw.control.bodies import body_layout
from hw.control.descriptor import Opcode
from hw.decoder.unpacker import Unpacker
from hw.memory.ports import WritePort
from hw.memory.sram import Sram
from hw.postprocess.loops import count
from hw.postprocess.requantiser import PARAMETERS, Requantiser
from hw.postprocess.word_assembler import WordAssembler

__all__ = ["PARAMETER_BITS", "OfmapStorer"]

#: Bits of a channel's parameters in the parameter stream: bias, multiplier and shift, of 32 bits each.
PARAMETER_BITS = 96


def _advanced(address: Signal, depth: int) -> Value:
    """The next address of a ring."""
    return Mux(address == depth - 1, 0, address + 1)


class OfmapStorer(wiring.Component):
    """Runs OUTPUT commands: takes the sums of ``A`` vectors a position, requantises them and writes them to L2.

    A vector takes L / ``requantiser_lanes`` cycles, or those of its L2 words where these are more; wide ones 4 times
    as many. The parameters are a ring of ``prf_depth`` vectors: those of the next command are loaded beside the running
    one as far as there is room.

    Members
    -------
    i_command
        An OUTPUT. It is taken one command ahead, to load its parameters.
    i_parameter
        Entries of :data:`PARAMETER_BITS`, packed; a command that takes some starts with a new word.
    i_sums
        Sums of L channels, for each output position ``A`` vectors.
    o_l2
        To L2.
    o_done
        The last word of a command is in L2.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "i_command": In(stream.Signature(body_layout(Opcode.OUTPUT, config))),
                "i_parameter": In(stream.Signature(config.word_width)),
                "i_sums": In(stream.Signature(data.ArrayLayout(signed(config.psum_width), config.L))),
                "o_l2": Out(WritePort(config.l2_depth, config.l2_bits)),
                "o_done": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        lanes, groups, depth = self._sizes()

        layout = body_layout(Opcode.OUTPUT, config)
        command, following = Signal(layout), Signal(layout)
        running = Signal()
        start, finish = Signal(), Signal()

        # Parameters: `following` is filled from the stream, then it becomes `command`.
        base = Signal(range(depth), name="base")
        store, following_base = self._load(m, following, running, start)

        # Sums into the requantiser: one group of lanes a cycle; if wide, a group four times.
        enable = Signal()
        address = Signal(range(depth))
        taking = Signal()
        issue = Signal()
        m.d.comb += issue.eq(taking & enable & self.i_sums.valid)
        taken = count(
            m,
            issue,
            {
                "quarter": Mux(command.wide, 4, 1),
                "sums_group": groups,
                "sums_vector": command.A,
                "sums_column": command.width,
                "sums_row": command.height,
            },
        )
        m.d.comb += self.i_sums.ready.eq(taking & enable & taken["sums_group"])
        group = Signal(range(groups))
        with m.If(issue & taken["quarter"]):
            m.d.sync += [
                group.eq(Mux(taken["sums_group"], 0, group + 1)),
                address.eq(Mux(taken["sums_vector"], base, _advanced(address, depth))),
            ]
        with m.If(issue & taken["sums_row"]):
            m.d.sync += taking.eq(0)

        m.submodules.requantiser = requantiser = Requantiser(config)
        selected = Signal(config.psum_width * lanes, reset_less=True)
        # What goes with a slot: it is there; its group of lanes ends with it; its position does.
        tags = [Signal(3, name=f"tag_{i}") for i in range(1 + requantiser.stages)]
        with m.If(enable):
            m.d.sync += [
                selected.eq(self.i_sums.payload.as_value().word_select(group, len(selected))),
                tags[0].eq(Cat(issue, taken["quarter"], taken["sums_vector"])),
                # Wide ones leave after the first stage.
                *(after.eq(Mux(command.wide, 0, before)) for before, after in pairwise(tags[1:])),
                tags[1].eq(tags[0]),
            ]
        m.d.comb += [
            store.i_read_address.eq(address),
            store.i_read.eq(enable),
            requantiser.i_enable.eq(enable),
            requantiser.i_sums.eq(selected),
            requantiser.i_parameters.eq(store.o_data),
            requantiser.i_low.eq(command.low),
            requantiser.i_high.eq(command.high),
        ]

        # Slots of as many bytes as lanes. Lanes beyond the last channel are 0.
        slot_valid, group_end, position_end = Mux(command.wide, tags[1], tags[-1])
        left = Signal.like(command.channels)
        exists = [left > i for i in range(lanes)]
        wide_slots = Cat(requantiser.o_biased[i].as_unsigned() & exists[i].replicate(32) for i in range(lanes))
        slot = Cat(requantiser.o_results[i].as_unsigned() & exists[i].replicate(8) for i in range(lanes))
        quarter = Signal(2)
        m.submodules.assembler = assembler = WordAssembler(lanes, config.l2_word)
        m.d.comb += [
            assembler.i_slot.valid.eq(slot_valid),
            assembler.i_slot.payload.eq(Mux(command.wide, wide_slots.word_select(quarter, 8 * lanes), slot)),
            enable.eq(~slot_valid | assembler.i_slot.ready),
        ]
        with m.If(slot_valid & assembler.i_slot.ready):
            m.d.sync += quarter.eq(quarter + 1)
            with m.If(group_end):
                m.d.sync += [quarter.eq(0), left.eq(Mux(left > lanes, left - lanes, 0))]
            with m.If(position_end):
                m.d.sync += left.eq(command.channels)

        line, position, word = self._store(m, command, assembler, finish)

        m.d.sync += self.o_done.eq(finish)
        with m.If(finish):
            m.d.sync += running.eq(0)
        with m.If(start):
            m.d.sync += [
                running.eq(1),
                taking.eq(1),
                command.eq(following),
                left.eq(following.channels),
                line.eq(following.l2_base),
                position.eq(following.l2_base),
                word.eq(following.l2_base),
                base.eq(following_base),
                address.eq(following_base),
            ]
        return m

    def _sizes(self) -> tuple[int, int, int]:
        """Lanes of the requantiser, groups of them in a vector of sums, and groups of parameters that are kept."""
        lanes = self.config.requantiser_lanes
        groups = self.config.L // lanes
        return lanes, groups, self.config.prf_depth * groups

    def _load(self, m: Module, following: data.View, running: Signal, start: Signal) -> tuple[Sram, Signal]:
        """Takes commands and their parameters, beside the running command; ``start`` once one has all.

        Returns the memory of parameters, and where those of ``following`` begin in it.
        """
        config = self.config
        lanes, groups, depth = self._sizes()
        m.submodules.parameters = store = Sram(depth, PARAMETERS.size * lanes)
        m.submodules.unpacker = unpacker = Unpacker(config.word_width, PARAMETER_BITS)
        wiring.connect(m, wiring.flipped(self.i_parameter), unpacker.i_word)
        entry = Signal(PARAMETERS)
        row, row_filled = Signal(PARAMETERS.size * lanes, reset_less=True), Signal()
        bias, multiplier, shift = (unpacker.o_field.payload.word_select(i, 32) for i in range(3))
        fill = unpacker.o_field.valid
        filled = count(m, fill, {"lane": lanes, "group": groups, "vector": following.A})
        fill_address, write_address, following_base = (
            Signal(range(depth), name=name) for name in ("fill_address", "write_address", "following_base")
        )
        loaded = Signal.like(following.A)

        m.d.comb += [
            unpacker.o_field.ready.eq(1),
            entry.bias.eq(bias),
            entry.multiplier.eq(multiplier),
            entry.shift.eq(shift),
            store.i_write.eq(row_filled),
            store.i_write_address.eq(write_address),
            store.i_write_data.eq(row),
        ]
        m.d.sync += [row_filled.eq(fill & filled["lane"]), write_address.eq(fill_address)]
        with m.If(fill):
            m.d.sync += row.eq(Cat(row[PARAMETERS.size :], entry))
            with m.If(filled["lane"]):
                m.d.sync += fill_address.eq(_advanced(fill_address, depth))

        with m.FSM(name="load"):
            with m.State("IDLE"):
                m.d.comb += [self.i_command.ready.eq(1), unpacker.i_flush.eq(1)]
                with m.If(self.i_command.valid):
                    m.d.sync += following.eq(self.i_command.payload)
                    m.next = "READY"
                    with m.If(self.i_command.payload.parameters):
                        m.next = "ROOM"
            with m.State("ROOM"), m.If(~running | (loaded + following.A <= config.prf_depth)):
                m.d.sync += [loaded.eq(following.A), following_base.eq(fill_address)]
                m.next = "LOAD"
            with m.State("LOAD"):
                m.d.comb += unpacker.i_request.eq(1)
                with m.If(fill & filled["vector"]):
                    m.next = "READY"
            with m.State("READY"), m.If(~running):
                m.d.comb += start.eq(1)
                m.next = "IDLE"
        return store, following_base

    def _store(
        self, m: Module, command: data.View, assembler: WordAssembler, finish: Signal
    ) -> tuple[Signal, Signal, Signal]:
        """Writes words into L2; returns the addresses of the row, of the position and of the word."""
        config = self.config
        put = Signal()
        line, position, word = (Signal(range(config.l2_depth), name=name) for name in ("line", "position", "word"))
        words = config.L // config.l2_word
        stored = count(
            m,
            put,
            {
                "word": Mux(command.wide, 4 * words, words),
                "word_vector": command.A,
                "word_column": command.width,
                "word_row": command.height,
            },
        )
        next_line, next_position = line + command.line_words, position + command.position_words
        m.d.comb += [
            self.o_l2.valid.eq(assembler.o_word.valid),
            self.o_l2.data.eq(assembler.o_word.payload),
            self.o_l2.address.eq(word),
            assembler.o_word.ready.eq(self.o_l2.ready),
            put.eq(assembler.o_word.valid & self.o_l2.ready),
            finish.eq(put & stored["word_row"]),
        ]
        with m.If(put):
            m.d.sync += word.eq(word + 1)
            with m.If(stored["word_column"]):
                m.d.sync += [line.eq(next_line), position.eq(next_line), word.eq(next_line)]
            with m.Elif(stored["word_vector"]):
                m.d.sync += [position.eq(next_position), word.eq(next_position)]
        return line, position, word
