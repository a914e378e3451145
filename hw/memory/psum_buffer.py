"""Psum buffer: the partial sums between the tiles of a group of output channels."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.config import AcceleratorConfig
from hw.control.bodies import SUM_FIELDS, body_layout
from hw.control.descriptor import Opcode
from hw.memory.sram import Sram

__all__ = ["PsumBuffer"]


class PsumBuffer(wiring.Component):
    """Runs the sums of TILE: takes them from the core, keeps them, and gives those of the tile before back to it.

    A tile has ``width * height * A`` vectors at ``psum_base`` and behind it. One that accumulates reads them, ahead of
    the core by at most the two vectors that wait here; one that is not ``last`` writes them; those of a last one go on
    to ``o_sums``. One vector a cycle each way, with no gap between tiles.

    Where weights have less than 8 bits, a tile with ``shift`` gets each sum times ``2**digit_bits``, modulo
    ``2**psum_width``: the sums before are those of the digits above its own. As all sums are modulo ``2**psum_width``,
    the last one is right if it fits, whatever those on the way were.

    Reading may be one tile ahead of writing. It then waits for every entry at or above the next one that the tile
    before will write: tiles that add to the same output channels use the same entries, so that this is all that a read
    can depend on.

    In the same cycle, ``i_psum.ready`` depends on ``o_sums.ready`` and ``i_command.ready`` on ``o_psum.ready``, and
    nothing else on anything: the core's own paths between ``i_psum`` and ``o_psum`` close no loop here.

    Members
    -------
    i_command
        TILE.
    i_psum, o_psum
        From ``o_psum`` of the core, and to its ``i_psum``.
    o_sums
        The sums of last tiles.
    o_read, o_write
        A vector was read from or written to the memory: for the performance counters.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        psums = stream.Signature(data.ArrayLayout(signed(config.psum_width), config.L))
        super().__init__(
            {
                "i_command": In(stream.Signature(body_layout(Opcode.TILE, config, SUM_FIELDS))),
                "i_psum": In(psums),
                "o_psum": Out(psums),
                "o_sums": Out(psums),
                "o_read": Out(1),
                "o_write": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        width = config.L * config.psum_width
        sram = Sram(config.l1_psum_depth, width)
        m.submodules[sram.name] = sram

        tile_layout = data.StructLayout(
            {
                "A": range(min(config.wrf_depth, config.prf_depth) + 1),
                "width": config.loop_bits,
                "height": config.loop_bits,
            }
        )

        def vectors(name, tile, step):
            """Counts the vectors of a tile; whether the present one is its last. Back at zero after that."""
            last = step
            for bound in tile_layout.members:
                count = Signal.like(tile[bound], name=f"{name}_{bound}")
                at_end = count + 1 == tile[bound]
                with m.If(last):
                    m.d.sync += count.eq(Mux(at_end, 0, count + 1))
                last = last & at_end
            ends = Signal(name=f"{name}_ends")
            m.d.comb += ends.eq(last)
            return ends

        def fields(tile, values):
            return [tile[name].eq(values[name]) for name in tile_layout.members]

        # A command waits here for the tile before to be written, while its vectors are read.
        offered = self.i_command.payload
        tile = Signal(tile_layout, reset_less=True)
        shift = Signal(reset_less=True)
        reading, waiting = Signal(), Signal()
        next_base, next_last = Signal.like(sram.i_write_address), Signal()
        read_address = Signal.like(sram.i_read_address)
        read = Signal()
        ends_reading = vectors("read", tile, read)
        with m.If(ends_reading):
            m.d.sync += reading.eq(0)
        with m.If(read):
            m.d.sync += read_address.eq(read_address + 1)
        m.d.comb += self.i_command.ready.eq(~waiting & (~reading | ends_reading))
        with m.If(self.i_command.ready):
            m.d.sync += [
                waiting.eq(self.i_command.valid),
                reading.eq(self.i_command.valid & offered.accumulate),
                *fields(tile, offered),
                next_base.eq(offered.psum_base),
                next_last.eq(offered.last),
                read_address.eq(offered.psum_base),
            ]
            if "shift" in offered.shape().members:
                m.d.sync += shift.eq(offered.shift)

        # Writing
        writing, last = Signal(), Signal()
        write_tile = Signal(tile_layout, reset_less=True)
        write_address = Signal.like(sram.i_write_address)
        full, sums = Signal(), Signal(width, reset_less=True)
        taken = Signal()
        m.d.comb += [
            taken.eq(writing & full & (~last | self.o_sums.ready)),
            self.i_psum.ready.eq(~full | taken),
            self.o_sums.valid.eq(writing & full & last),
            self.o_sums.payload.as_value().eq(sums),
            sram.i_write.eq(writing & full & ~last),
            sram.i_write_address.eq(write_address),
            sram.i_write_data.eq(sums),
            self.o_write.eq(sram.i_write),
        ]
        with m.If(self.i_psum.ready):
            m.d.sync += [full.eq(self.i_psum.valid), sums.eq(self.i_psum.payload.as_value())]
        with m.If(taken):
            m.d.sync += write_address.eq(write_address + 1)
        with m.If(~writing | vectors("write", write_tile, taken)):
            m.d.sync += [
                writing.eq(waiting),
                waiting.eq(self.i_command.ready & self.i_command.valid),
                *fields(write_tile, tile),
                write_address.eq(next_base),
                last.eq(next_last),
            ]

        # Reading: the memory's output holds one vector and a register the next one to leave.
        blocked, fetched, loaded, move = Signal(), Signal(), Signal(), Signal()
        out = Signal(width, reset_less=True)
        m.d.comb += [
            blocked.eq(waiting & writing & (read_address >= write_address)),
            move.eq(fetched & (~loaded | self.o_psum.ready)),
            read.eq(reading & ~blocked & (~fetched | move)),
            sram.i_read.eq(read),
            sram.i_read_address.eq(read_address),
            self.o_read.eq(read),
            self.o_psum.valid.eq(loaded),
            self.o_psum.payload.as_value().eq(out),
        ]
        m.d.sync += [
            fetched.eq(read | (fetched & ~move)),
            loaded.eq(move | (loaded & ~self.o_psum.ready)),
        ]
        found = sram.o_data
        if "shift" in offered.shape().members:
            # Of the vector that the memory gives, which may be the last one of the tile before.
            shifts = Signal(reset_less=True)
            with m.If(read):
                m.d.sync += shifts.eq(shift)
            lanes = [found.word_select(lane, config.psum_width) for lane in range(config.L)]
            found = Cat(Mux(shifts, (lane << config.digit_bits)[: config.psum_width], lane) for lane in lanes)
        with m.If(move):
            m.d.sync += out.eq(found)
        return m
