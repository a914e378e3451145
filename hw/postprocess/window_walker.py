"""Addresses of the vector unit: windows over a tensor in L2, one after the other."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.config import AcceleratorConfig
from hw.control.bodies import body_layout
from hw.control.descriptor import Opcode, VectorOp
from hw.postprocess.loops import count

__all__ = ["WindowWalker", "tap_layout", "upsampled_step"]


def tap_layout(config: AcceleratorConfig) -> data.StructLayout:
    """One word of a window: its address, or that it is outside the tensor, and whether it is the first or the last."""
    return data.StructLayout({"address": range(config.l2_depth), "outside": 1, "first": 1, "last": 1})


def upsampled_step(upsample: Value, at: Signal, extent: Value, pitch: Signal) -> Value:
    """The step of the source from one position to the next: where it is upsampled, it goes on at odd ones inside it.

    It does not go on beyond its last.
    """
    return Mux(~upsample | (at[0] & ~at[-1] & (at + 1 < extent << 1)), pitch, 0)


class WindowWalker(wiring.Component):
    """Walks the windows of a VECTOR command: output row, output column, channel word, kernel row, kernel column.

    A window of ADD is one word of each tensor, whatever kernel, stride and padding are. A tap a cycle; a command starts
    with some 20 cycles in which its products of sizes and pitches are added up.

    With all functions, pixels of each tensor may lie further apart than their words, or nearer. MULTIPLY is like ADD.
    The second tap of MERGE is of the second tensor, too. Upsampling takes a step of the source at every other pixel and
    row of the result; ``padding_rows`` and ``padding_columns`` are then rows and columns of the result beyond the edge,
    where the ones at the edge repeat.

    Members
    -------
    i_command
        A VECTOR.
    o_tap
        :func:`tap_layout`.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "i_command": In(stream.Signature(body_layout(Opcode.VECTOR, config))),
                "o_tap": Out(stream.Signature(tap_layout(config))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        depth = config.l2_depth
        command = Signal(body_layout(Opcode.VECTOR, config))
        full = config.full_vector_unit
        add = command.operation == VectorOp.ADD

        # Pitches in L2 words, modulo the addresses. `corner` is the word of the first window's upper left corner.
        row_words, line_words, column_words, corner = pitches = [
            Signal(range(depth), name=name) for name in ("row_words", "line_words", "column_words", "corner")
        ]
        pixel_pitch, corner_rows, corner_columns = command.pixel_words, command.padding_rows, command.padding_columns
        if full:
            pixel_pitch, b_pitch = (Signal(range(depth), name=f"{name}_pitch") for name in "ab")
            b_pixel, b_word = (Signal(range(depth), name=name) for name in ("b_pixel", "b_word"))
            upsample, zeros = command.upsample != 0, command.upsample[1]
            # Beyond the edge the same row counts again: the first one read is that of the tensor.
            corner_rows, corner_columns = Mux(upsample, 0, corner_rows), Mux(upsample, 0, corner_columns)
            add |= (command.operation == VectorOp.MULTIPLY) | (command.operation == VectorOp.MERGE)
        products = (
            (command.columns, pixel_pitch, row_words),
            (command.stride_rows, row_words, line_words),
            (command.stride_columns, pixel_pitch, column_words),
            (corner_rows, -row_words, corner),
            (corner_columns, -pixel_pitch, corner),
        )
        row, first_row, column, first_column = (
            Signal(signed(18), name=name) for name in ("row", "first_row", "column", "first_column")
        )
        line, pixel, word, kernel_row, tap = (
            Signal(range(depth), name=name) for name in ("line", "pixel", "word", "kernel_row", "tap")
        )
        step, first = Signal(), Signal()

        ends = count(
            m,
            step,
            {
                "kernel_column": command.kernel_columns,
                "kernel_row": command.kernel_rows,
                "channel": command.pixel_words,
                "column": command.width,
                "line": command.height,
            },
        )
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.i_command.ready.eq(1)
                with m.If(self.i_command.valid):
                    m.d.sync += [
                        command.eq(self.i_command.payload),
                        *(pitch.eq(0) for pitch in pitches),
                        corner.eq(self.i_command.payload.a_base),
                    ]
                    given = self.i_command.payload
                    pair = given.operation == VectorOp.ADD
                    if full:
                        pair |= given.operation == VectorOp.MULTIPLY
                        m.d.sync += [
                            pixel_pitch.eq(given.pixel_words + given.a_skip),
                            b_pitch.eq(given.pixel_words + given.b_skip),
                            *(pointer.eq(given.b_base) for pointer in (b_pixel, b_word)),
                        ]
                    with m.If(pair):
                        self._one_of_each(m, command)
                    m.next = "FACTORS"
            self._add_products(m, products)
            with m.State("START"):
                m.d.sync += [
                    *(pointer.eq(corner) for pointer in (line, pixel, word, kernel_row, tap)),
                    *(start.eq(-command.padding_rows) for start in (row, first_row)),
                    *(start.eq(-command.padding_columns) for start in (column, first_column)),
                    first.eq(1),
                ]
                m.next = "WALK"
            with m.State("WALK"):
                m.d.comb += [self.o_tap.valid.eq(1), step.eq(self.o_tap.ready)]
                with m.If(step & ends["line"]):
                    m.next = "IDLE"

        outside = (row < 0) | (row >= command.rows) | (column < 0) | (column >= command.columns)
        line_step, column_step = line_words, column_words
        if full:
            outside = Mux(upsample, zeros & (row[0] | column[0]), outside)
            line_step = upsampled_step(upsample, first_row, command.rows, line_words)
            column_step = upsampled_step(upsample, first_column, command.columns, column_words)
            with m.If(step & ends["channel"]):
                m.d.sync += [pointer.eq(b_pixel + b_pitch) for pointer in (b_pixel, b_word)]
            with m.Elif(step & ends["kernel_row"]):
                m.d.sync += b_word.eq(b_word + 1)
        m.d.comb += [
            self.o_tap.p.address.eq(tap),
            self.o_tap.p.outside.eq(outside),
            self.o_tap.p.first.eq(first),
            self.o_tap.p.last.eq(ends["kernel_row"]),
        ]
        next_line, next_pixel, next_word = line + line_step, pixel + column_step, word + 1
        next_kernel_row = kernel_row + row_words
        with m.If(step):
            m.d.sync += first.eq(ends["kernel_row"])
            with m.If(ends["column"]):
                m.d.sync += [pointer.eq(next_line) for pointer in (line, pixel, word, kernel_row, tap)]
                m.d.sync += [first_row.eq(first_row + command.stride_rows), row.eq(first_row + command.stride_rows)]
                m.d.sync += [start.eq(-command.padding_columns) for start in (column, first_column)]
            with m.Elif(ends["channel"]):
                following = first_column + command.stride_columns
                m.d.sync += [pointer.eq(next_pixel) for pointer in (pixel, word, kernel_row, tap)]
                m.d.sync += [row.eq(first_row), first_column.eq(following), column.eq(following)]
            with m.Elif(ends["kernel_row"]):
                m.d.sync += [pointer.eq(next_word) for pointer in (word, kernel_row, tap)]
                m.d.sync += [row.eq(first_row), column.eq(first_column)]
            with m.Elif(ends["kernel_column"]):
                m.d.sync += [pointer.eq(next_kernel_row) for pointer in (kernel_row, tap)]
                m.d.sync += [row.eq(row + 1), column.eq(first_column)]
            with m.Elif(add):
                m.d.sync += tap.eq(b_word if full else tap + command.b_base - command.a_base)
            with m.Else():
                m.d.sync += [tap.eq(tap + pixel_pitch), column.eq(column + 1)]
        return m

    def _one_of_each(self, m: Module, command: data.View) -> None:
        """Windows of one word of each tensor, which lie beside each other as two columns of a kernel."""
        m.d.sync += [
            command.kernel_rows.eq(1),
            command.kernel_columns.eq(2),
            command.stride_rows.eq(1),
            command.stride_columns.eq(1),
            command.padding_rows.eq(0),
            command.padding_columns.eq(0),
        ]

    def _add_products(self, m: Module, products: Sequence[tuple[Value, Value, Signal]]) -> None:
        """States that add each product of a size and a pitch to its sum, a bit of the size a cycle; then START."""
        product = Signal(range(len(products)))
        factor, pitch = Signal(16), Signal(range(self.config.l2_depth))
        with m.State("FACTORS"):
            with m.Switch(product):
                for number, (times, of, _) in enumerate(products):
                    with m.Case(number):
                        m.d.sync += [factor.eq(times), pitch.eq(of)]
            m.next = "PRODUCT"
        with m.State("PRODUCT"):
            m.d.sync += [factor.eq(factor >> 1), pitch.eq(pitch << 1)]
            with m.If(factor[0]), m.Switch(product):
                for number, (_, _, total) in enumerate(products):
                    with m.Case(number):
                        m.d.sync += total.eq(total + pitch)
            with m.If(factor[1:] == 0):
                m.d.sync += product.eq(product + 1)
                m.next = "FACTORS"
                with m.If(product == len(products) - 1):
                    m.d.sync += product.eq(0)
                    m.next = "START"
