"""Weight loader: executes the load part of each command (MVQ section 5.2)."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.config import AcceleratorConfig
from hw.control.command import LoopNest, command_layout
from hw.decoder.unpacker import Unpacker
from hw.decoder.weight_decoder import WeightDecoder

__all__ = ["WeightLoader"]


class WeightLoader(wiring.Component):
    """Fills the CRF and the WRFs from the packed streams, one array row a cycle, and passes the command on.

    For each command: ``codewords`` codewords into the CRF; then, for ``q < D: r < B: s < A`` and every row with an
    input channel, one field of each packed stream is decoded and written; then the command goes to the loop
    controller. The WRF is a ring: the next layer tile is loaded beside the running one as far as there are free
    entries.

    Members
    -------
    i_command, o_command
        Commands in; commands whose weights are in place out.
    i_codebook
        Codewords, in variants that have a CRF.
    i_index, i_mask, i_sign, i_weight
        Packed words of ``word_width`` bits: the streams of the variant.
    o_write, o_write_address, o_write_weights, o_write_positions
        To the tiles: H row enables, the WRF entry, and one row of L weights, or of Q of every d with their positions.
    i_release
        A WRF entry is no longer needed, in the order in which they were written.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        command = command_layout(config)
        members = {
            "i_command": In(stream.Signature(command)),
            "o_command": Out(stream.Signature(command)),
            **{f"i_{name}": In(stream.Signature(config.word_width)) for name in config.streams},
            "o_write": Out(config.H),
            "o_write_address": Out(range(config.wrf_depth)),
            "o_write_weights": Out(config.tiles * config.multipliers * 8),
            "i_release": In(1),
        }
        if config.features.codebook:
            members["i_codebook"] = In(stream.Signature(config.d * config.codeword_bits))
        if config.position_bits:
            members["o_write_positions"] = Out(config.tiles * config.mrf_width)
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        config = self.config

        command = Signal(command_layout(config))
        m.submodules.nest = nest = LoopNest(config)
        m.d.comb += [nest.i_A.eq(command.A), nest.i_B.eq(command.B), nest.i_D.eq(command.D)]

        row = Signal(range(config.H))
        used = Signal(range(config.wrf_depth + 1))
        address = Signal(range(config.wrf_depth))
        request = Signal()
        take = Signal()
        opens_entry = take & (row == 0)
        m.d.sync += used.eq(used + opens_entry - self.i_release)

        fields = {}
        flush = Signal()
        for name, bits in config.streams.items():
            m.submodules[f"unpack_{name}"] = unpacker = Unpacker(config.word_width, bits)
            wiring.connect(m, wiring.flipped(getattr(self, f"i_{name}")), unpacker.i_word)
            m.d.comb += [
                unpacker.i_flush.eq(flush),
                unpacker.i_request.eq(request),
                unpacker.o_field.ready.eq(take),
            ]
            fields[name] = unpacker.o_field
        m.d.comb += take.eq(Cat(field.valid for field in fields.values()).all())

        # Row number and entry go down a pipeline beside the decoder's.
        stages = WeightDecoder.stages if config.features.codebook else 1
        valid, row_at, address_at = take, row, address
        valids = []
        for stage in range(stages):
            next_valid = Signal(name=f"valid_{stage}")
            next_row = Signal.like(row, name=f"row_{stage}", reset_less=True)
            next_address = Signal.like(address, name=f"address_{stage}", reset_less=True)
            m.d.sync += [next_valid.eq(valid), next_row.eq(row_at), next_address.eq(address_at)]
            valid, row_at, address_at = next_valid, next_row, next_address
            valids.append(valid)
        m.d.comb += [
            self.o_write.eq(Mux(valid, 1 << row_at, 0)),
            self.o_write_address.eq(address_at),
        ]

        last_row = Signal()
        m.d.comb += last_row.eq(row + 1 == Mux(nest.o_last_r, command.rows, config.H))
        m.d.comb += nest.i_step.eq(take & last_row)
        with m.If(take):
            m.d.sync += row.eq(Mux(last_row, 0, row + 1))
            with m.If(last_row):
                m.d.sync += address.eq(address + 1)

        m.d.comb += self.o_command.payload.eq(command)
        codeword = Signal(range(config.k))
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.i_command.ready.eq(1)
                with m.If(self.i_command.valid):
                    m.d.comb += flush.eq(self.i_command.payload.start)
                    m.d.sync += command.eq(self.i_command.payload)
                    m.next = "ROWS"
                    if config.features.codebook:
                        with m.If(self.i_command.payload.codewords != 0):
                            m.next = "CODEBOOK"
            if config.features.codebook:
                with m.State("CODEBOOK"):
                    m.d.comb += self.i_codebook.ready.eq(1)
                    with m.If(self.i_codebook.valid):
                        m.d.sync += codeword.eq(codeword + 1)
                        with m.If(codeword + 1 == command.codewords):
                            m.d.sync += codeword.eq(0)
                            m.next = "ROWS"
            with m.State("ROWS"):
                m.d.comb += request.eq((row != 0) | (used != config.wrf_depth))
                with m.If(take & last_row & nest.o_last):
                    m.next = "PASS"
            with m.State("PASS"):
                # The controller reads the WRF from the cycle after it takes the command.
                m.d.comb += self.o_command.valid.eq(~Cat(valids).any())
                with m.If(self.o_command.valid & self.o_command.ready):
                    m.next = "IDLE"

        if config.features.codebook:
            m.submodules.decoder = decoder = WeightDecoder(config)
            m.d.comb += [
                decoder.i_codeword_write.eq(self.i_codebook.valid & self.i_codebook.ready),
                decoder.i_codeword_address.eq(codeword),
                decoder.i_codeword.eq(self.i_codebook.payload),
                *(getattr(decoder, f"i_{name}").eq(field.payload) for name, field in fields.items()),
                self.o_write_weights.eq(decoder.o_weights),
            ]
            if config.position_bits:
                m.d.comb += self.o_write_positions.eq(decoder.o_positions)
        else:
            weights = Signal(8 * config.L, reset_less=True)
            m.d.sync += weights.eq(fields["weight"].payload)
            m.d.comb += self.o_write_weights.eq(weights)
        return m
