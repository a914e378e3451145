"""Ifmap loader: a region of a feature map from L2 to L1, with its zero padding."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.config import AcceleratorConfig
from hw.control.bodies import body_layout
from hw.control.descriptor import Opcode
from hw.memory.ports import ReadPort, WritePort

__all__ = ["IfmapLoader"]


class IfmapLoader(wiring.Component):
    """Runs COPY: collects L2 words to activation vectors of H channels and writes those to L1.

    For every row, column and group of the region one vector. It takes a cycle for each L2 word that it is made of, and
    one cycle where there is none: a pixel in the padding, or a group beyond the last channel word. A command begins
    with a cycle for each bit of the first row or column, whichever is longer, and two more.

    Members
    -------
    i_command
        COPY.
    o_l2
        Source.
    o_l1
        Destination, which is always ready.
    o_done
        The last vector of a command is in L1.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "i_command": In(stream.Signature(body_layout(Opcode.COPY, config))),
                "o_l2": Out(ReadPort(config.l2_depth, config.l2_bits)),
                "o_l1": Out(WritePort(config.l1_ifmap_depth, 8 * config.H)),
                "o_done": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        lanes = config.H // config.l2_word  # L2 words of a vector

        offered = self.i_command.payload
        command = Signal(body_layout(Opcode.COPY, config), reset_less=True)

        # Place in the region. Rows and columns count as in the tensor: below zero in the padding.
        row, last_row = Signal(signed(18)), Signal(signed(18))
        column, last_column = Signal(signed(18)), Signal(signed(18))
        group = Signal.like(command.groups)
        lane = Signal(range(lanes))
        left = Signal.like(command.channel_words)  # channel words of the pixel that are not read yet

        # Addresses of the row's first column, of the pixel and of the word; in the padding before the tensor, those of
        # its edge.
        address = self.o_l2.address
        names = ("line", "pixel", "word", "next_line", "next_pixel")
        line, pixel, word, next_line, next_pixel = (Signal.like(address, name=name) for name in names)

        in_rows, in_columns = Signal(), Signal()
        m.d.comb += [
            in_rows.eq((row >= 0) & (row < command.rows)),
            in_columns.eq((column >= 0) & (column < command.columns)),
            next_line.eq(line + Mux(in_rows, command.row_words, 0)),
            next_pixel.eq(pixel + Mux(in_columns, command.pixel_words, 0)),
        ]

        running = Signal()
        reads, step, ends_vector, ends_command = Signal(), Signal(), Signal(), Signal()
        ends_pixel, ends_line = Signal(), Signal()
        m.d.comb += [
            reads.eq(in_rows & in_columns & (left != 0)),
            ends_vector.eq(~reads | (left == 1) | (lane == lanes - 1)),
            ends_pixel.eq(ends_vector & (group + 1 == command.groups)),
            ends_line.eq(ends_pixel & (column == last_column)),
            ends_command.eq(ends_line & (row == last_row)),
            self.o_l2.valid.eq(running & reads),
            self.o_l2.address.eq(word),
            step.eq(running & (self.o_l2.ready | ~reads)),
        ]
        with m.If(step):
            m.d.sync += lane.eq(Mux(ends_vector, 0, lane + 1))
            with m.If(reads):
                m.d.sync += [word.eq(word + 1), left.eq(left - 1)]
            with m.If(ends_vector):
                m.d.sync += group.eq(group + 1)
            with m.If(ends_pixel):
                m.d.sync += [
                    group.eq(0),
                    left.eq(command.channel_words),
                    column.eq(column + 1),
                    pixel.eq(next_pixel),
                    word.eq(next_pixel),
                ]
            with m.If(ends_line):
                m.d.sync += [
                    column.eq(command.first_column),
                    row.eq(row + 1),
                    line.eq(next_line),
                    pixel.eq(next_line),
                    word.eq(next_line),
                ]

        l1_address = Signal.like(self.o_l1.address)
        with m.If(self.o_l1.valid):
            m.d.sync += l1_address.eq(l1_address + 1)

        # The address of the first pixel, by shifting and adding: a multiplier would do nothing the rest of the time.
        rows_left, columns_left = Signal(15), Signal(15)
        row_step, column_step = (Signal.like(address, name=name) for name in ("row_step", "column_step"))
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.i_command.ready.eq(1)
                m.d.sync += [
                    command.eq(offered),
                    line.eq(offered.l2_base + offered.first_word),
                    rows_left.eq(Mux(offered.first_row < 0, 0, offered.first_row)),
                    columns_left.eq(Mux(offered.first_column < 0, 0, offered.first_column)),
                    row_step.eq(offered.row_words),
                    column_step.eq(offered.pixel_words),
                    row.eq(offered.first_row),
                    last_row.eq(offered.first_row + offered.height - 1),
                    column.eq(offered.first_column),
                    last_column.eq(offered.first_column + offered.width - 1),
                    left.eq(offered.channel_words),
                ]
                with m.If(self.i_command.valid):
                    m.next = "SEEK"
            with m.State("SEEK"):
                m.d.sync += [
                    line.eq(line + Mux(rows_left[0], row_step, 0) + Mux(columns_left[0], column_step, 0)),
                    row_step.eq(row_step << 1),
                    column_step.eq(column_step << 1),
                    rows_left.eq(rows_left >> 1),
                    columns_left.eq(columns_left >> 1),
                ]
                with m.If((rows_left == 0) & (columns_left == 0)):
                    # The last vector of the command before leaves in this cycle at the latest.
                    m.d.sync += [pixel.eq(line), word.eq(line), l1_address.eq(command.l1_base)]
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += running.eq(1)
                with m.If(step & ends_command):
                    m.next = "IDLE"

        vector = self._collect(m, step, reads, lane, ends_vector, ends_command)
        m.d.comb += [self.o_l1.address.eq(l1_address), self.o_l1.data.eq(vector)]
        return m

    def _collect(
        self, m: Module, step: Signal, reads: Signal, lane: Signal, ends_vector: Signal, ends_command: Signal
    ) -> Signal:
        """Puts words together to the vector that is returned: what was asked for arrives one cycle later."""
        config = self.config
        lanes = config.H // config.l2_word
        # So does its description.
        tag_layout = data.StructLayout({"reads": 1, "lane": range(lanes), "last": 1, "end": 1})
        stepped = Signal()
        tag = Signal(tag_layout, reset_less=True)
        vector = Signal(8 * config.H, reset_less=True)
        end = Signal()
        m.d.sync += [
            stepped.eq(step),
            tag.reads.eq(reads),
            tag.lane.eq(lane),
            tag.last.eq(ends_vector),
            tag.end.eq(ends_command),
            self.o_l1.valid.eq(stepped & tag.last),
            end.eq(stepped & tag.end),
            self.o_done.eq(end),
        ]
        with m.If(stepped):
            for i in range(lanes):
                place = vector.word_select(i, config.l2_bits)
                with m.If(tag.reads & (tag.lane == i)):
                    m.d.sync += place.eq(self.o_l2.data)
                with m.Elif(tag.lane == 0):
                    m.d.sync += place.eq(0)
        return vector
