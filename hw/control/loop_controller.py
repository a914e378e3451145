"""Loop controller: walks the EWS loop nest of one layer tile (MVQ section 5.1, figure 7)."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.config import AcceleratorConfig
from hw.control.command import LoopNest, command_layout

__all__ = ["LoopController"]


class LoopController(wiring.Component):
    """Issues one array operation a cycle: for each output position ``q < D: r < B: s < A``.

    The activation register file (ARF) is a ring that the activation stream fills. An output position reads a window of
    ``B*D`` vectors in order, each for A cycles, and the next position's window begins ``advance`` vectors later: an
    activation is fetched once for A*Ds operations at stride 1 (Ds kernel columns of D = Dr*Ds). Vectors are released
    as they are read for the last time, so that the stream runs beside the array. The partial-sum register file (PRF)
    is a ring too: A entries accumulate for the current position while finished ones wait to leave.

    The array's pipeline never stalls. An operation is issued when its activation is in the ARF and its PRF entry is
    free.

    Members
    -------
    i_command
        Commands whose weights are in the WRF.
    i_activation
        The handshake of the activation stream: ``i_activation_valid``, ``o_activation_ready``.
    o_arf_write_address, o_arf_address, o_wrf_address
        Register file addresses; the ARF is written when valid and ready are high.
    o_release
        The WRF entry read in this cycle is no longer needed.
    o_accumulate, o_first, o_slot, o_next_first, o_next_slot, o_forward
        For the tiles, as in :class:`hw.array.tile.Tile`.
    o_drain_slot, o_drain_valid, o_drain_accumulate, i_drain
        The oldest finished PRF entry, whether ``i_psum`` is to be added to it, and that it has left.
    o_idle
        No command runs and no finished entry waits.
    o_running, o_issue, o_wait_activations, o_wait_psums
        A command runs; while it does, in each cycle exactly one of the other three: an operation is issued, or has to
        wait for its activation, or for a PRF entry.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        slot = range(config.prf_depth)
        following = {"o_next_first": Out(1), "o_next_slot": Out(slot), "o_forward": Out(1)}
        super().__init__(
            {
                "i_command": In(stream.Signature(command_layout(config))),
                "i_activation_valid": In(1),
                "o_activation_ready": Out(1),
                "o_arf_write_address": Out(range(config.arf_depth)),
                "o_arf_address": Out(range(config.arf_depth)),
                "o_wrf_address": Out(range(config.wrf_depth)),
                "o_release": Out(1),
                "o_accumulate": Out(1),
                "o_first": Out(1),
                "o_slot": Out(slot),
                "o_drain_slot": Out(slot),
                "o_drain_valid": Out(1),
                "o_drain_accumulate": Out(1),
                "i_drain": In(1),
                "o_idle": Out(1),
                "o_running": Out(1),
                "o_issue": Out(1),
                "o_wait_activations": Out(1),
                "o_wait_psums": Out(1),
                **(following if config.psum_register else {}),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config

        running = Signal()
        command = Signal(command_layout(config))
        m.submodules.nest = nest = LoopNest(config)
        m.d.comb += [nest.i_A.eq(command.A), nest.i_B.eq(command.B), nest.i_D.eq(command.D)]

        issue = Signal()
        m.d.comb += nest.i_step.eq(issue)
        ends_position = issue & nest.o_last

        # Output positions
        column, line = Signal(config.loop_bits), Signal(config.loop_bits)
        last_column, last_line = Signal(), Signal()
        ends_tile = Signal()
        m.d.comb += [
            last_column.eq(column + 1 == command.width),
            last_line.eq(line + 1 == command.height),
            ends_tile.eq(ends_position & last_column & last_line),
        ]
        with m.If(ends_position):
            m.d.sync += column.eq(column + 1)
            with m.If(last_column):
                m.d.sync += [column.eq(0), line.eq(Mux(last_line, 0, line + 1))]

        m.d.comb += self.i_command.ready.eq(~running | ends_tile)
        with m.If(self.i_command.ready):
            m.d.sync += [running.eq(self.i_command.valid), command.eq(self.i_command.payload)]

        self._wrf(m, issue, ends_position, ends_tile, release=issue & last_column & last_line)
        unread = self._arf(m, command, nest, issue, ends_position, last_column)

        # PRF
        first_slot, occupied = Signal(range(config.prf_depth)), Signal(range(config.prf_depth + 1))
        m.d.sync += occupied.eq(occupied + (issue & nest.o_first) - self.i_drain)
        with m.If(ends_position):
            m.d.sync += first_slot.eq(first_slot + command.A)

        activation, entry_free = unread != 0, ~nest.o_first | (occupied != config.prf_depth)
        m.d.comb += [
            issue.eq(running & activation & entry_free),
            self.o_running.eq(running),
            self.o_issue.eq(issue),
            self.o_wait_activations.eq(running & ~activation),
            self.o_wait_psums.eq(running & activation & ~entry_free),
        ]

        following, tag = self._tag(m, command, nest, issue, first_slot)
        m.d.comb += [
            self.o_accumulate.eq(tag.valid),
            self.o_first.eq(tag.first),
            self.o_slot.eq(tag.slot),
        ]
        if config.psum_register:
            m.d.comb += [
                self.o_next_first.eq(following.first),
                self.o_next_slot.eq(following.slot),
                self.o_forward.eq(tag.valid & (following.slot == tag.slot)),
            ]

        self._drain(m, tag)
        m.d.comb += self.o_idle.eq(~running & (occupied == 0))
        return m

    def _wrf(self, m: Module, issue: Signal, ends_position: Value, ends_tile: Signal, release: Value) -> None:
        """Entries ``first_entry .. first_entry + A*B*D - 1`` for every position, released on the last one."""
        entry, first_entry = Signal.like(self.o_wrf_address), Signal.like(self.o_wrf_address)
        with m.If(issue):
            m.d.sync += entry.eq(Mux(ends_position & ~ends_tile, first_entry, entry + 1))
            with m.If(ends_tile):
                m.d.sync += first_entry.eq(entry + 1)
        m.d.comb += [
            self.o_wrf_address.eq(entry),
            self.o_release.eq(release),
        ]

    def _arf(
        self,
        m: Module,
        command: data.View,
        nest: LoopNest,
        issue: Signal,
        ends_position: Value,
        last_column: Signal,
    ) -> Signal:
        """The ring of activations; returns how many vectors in it this position, or the next one, has yet to read."""
        config = self.config
        window = Signal.like(command.advance)
        kept = Signal.like(command.advance)
        m.d.comb += [
            window.eq(command.B * command.D),
            kept.eq(Mux(last_column, 0, window - command.advance)),
        ]
        vector = Signal.like(command.advance)  # number in the window of the vector being read
        held, unread = Signal(range(config.arf_depth + 1)), Signal(range(config.arf_depth + 1))
        write = Signal()
        done = issue & nest.o_last_s
        m.d.comb += [
            self.o_activation_ready.eq(held != config.arf_depth),
            write.eq(self.i_activation_valid & self.o_activation_ready),
        ]
        m.d.sync += [
            self.o_arf_write_address.eq(self.o_arf_write_address + write),
            held.eq(held + write - (done & (last_column | (vector < command.advance)))),
            unread.eq(unread + write - done + Mux(ends_position, kept, 0)),
        ]
        with m.If(done):
            m.d.sync += [
                self.o_arf_address.eq(self.o_arf_address + 1 - Mux(nest.o_last, kept, 0)),
                vector.eq(Mux(nest.o_last, 0, vector + 1)),
            ]
        return unread

    def _tag(
        self, m: Module, command: data.View, nest: LoopNest, issue: Signal, first_slot: Signal
    ) -> tuple[data.View, data.View]:
        """What the accumulator needs to know, which travels beside the operands through the array's pipeline.

        Returns that of the next operation, and that of the one which is accumulated.
        """
        config = self.config
        tag_layout = data.StructLayout(
            {"valid": 1, "first": 1, "last": 1, "accumulate": 1, "slot": range(config.prf_depth)}
        )
        tag = Signal(tag_layout)
        m.d.comb += [
            tag.valid.eq(issue),
            tag.first.eq(nest.o_first),
            tag.last.eq(nest.o_last_r & nest.o_last_q),
            tag.accumulate.eq(command.accumulate),
            tag.slot.eq(first_slot + nest.o_s),
        ]
        before = tag
        for stage in range(config.latency - 1):
            following = Signal(tag_layout, name=f"tag_{stage}")
            m.d.sync += following.eq(tag)
            before, tag = tag, following
        return before, tag

    def _drain(self, m: Module, tag: data.View) -> None:
        """Finished entries leave in order."""
        config = self.config
        finished = Signal(range(config.prf_depth + 1))
        adds = Signal(config.prf_depth)
        finish = tag.valid & tag.last
        m.d.sync += [
            finished.eq(finished + finish - self.i_drain),
            self.o_drain_slot.eq(self.o_drain_slot + self.i_drain),
        ]
        with m.If(finish):
            m.d.sync += adds.bit_select(tag.slot, 1).eq(tag.accumulate)
        m.d.comb += [
            self.o_drain_valid.eq(finished != 0),
            self.o_drain_accumulate.eq(adds.bit_select(self.o_drain_slot, 1)),
        ]
