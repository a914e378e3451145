"""Weight loader: executes the load part of each command (MVQ section 5.2)."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, EnableInserter, Module, Mux, Signal, Value
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
    input channel, one field of each packed stream is decoded and written, or one row of raw weights; then the command
    goes to the loop controller. The WRF is a ring: the next layer tile is loaded beside the running one as far as there
    are free entries.

    Codewords, assignments and raw weights share the words of ``i_weight``; each has an unpacker of its own, which takes
    words while its fields are asked for.

    Members
    -------
    i_command, o_command
        Commands in; commands whose weights are in place out.
    i_weight, i_mask, i_sign
        Packed words of ``word_width`` bits: :attr:`hw.config.AcceleratorConfig.channels`.
    o_write, o_write_address, o_write_weights, o_write_positions
        To the tiles: H row enables, the WRF entry, and one row of L weights, or of Q of every d with their positions.
    i_release
        A WRF entry is no longer needed, in the order in which they were written.
    o_busy
        A command is here.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        command = command_layout(config)
        members = {
            "i_command": In(stream.Signature(command)),
            "o_command": Out(stream.Signature(command)),
            **{f"i_{name}": In(stream.Signature(config.word_width)) for name in config.channels},
            "o_write": Out(config.H),
            "o_write_address": Out(range(config.wrf_depth)),
            "o_write_weights": Out(config.tiles * config.multipliers * config.weight_bits),
            "i_release": In(1),
            "o_busy": Out(1),
        }
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

        # A word goes to the unpackers of its channel; the one that needs it takes it.
        taken_by: dict[str, list[Value]] = {name: [] for name in config.channels}

        def unpacker(name: str, channel: str, bits: int) -> Unpacker:
            m.submodules[f"unpack_{name}"] = unpacker = Unpacker(config.word_width, bits)
            words = getattr(self, f"i_{channel}")
            m.d.comb += [unpacker.i_word.payload.eq(words.payload), unpacker.i_word.valid.eq(words.valid)]
            taken_by[channel].append(unpacker.i_word.ready)
            return unpacker

        accept = self.i_command.valid & self.i_command.ready
        fields = {}
        raw = command.raw if config.features.codebook else Const(1)
        here = Const(1)
        for name, bits in {**config.streams, "weight": config.raw_bits}.items():
            # Rows of assignments take all streams of the variant, raw rows those of raw_streams.
            wanted = Const(1)
            if name not in config.raw_streams:
                wanted = ~raw
            elif name not in config.streams:
                wanted = raw
            channel = name if name in config.channels else "weight"
            unpack = unpacker(name, channel, bits)
            m.d.comb += [
                unpack.i_flush.eq(accept & self.i_command.payload.start),
                unpack.i_request.eq(request & wanted),
                unpack.o_field.ready.eq(take),
            ]
            fields[name] = unpack.o_field.payload
            here = here & (unpack.o_field.valid | ~wanted)
        m.d.comb += take.eq(request & here)

        # Row number and entry go down a pipeline beside the decoder's.
        valid, row_at, address_at = take, row, address
        valids = []
        for stage in range(config.decoder_stages):
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
        if config.features.codebook:
            codeword = Signal(range(config.k))
            codebook = unpacker("codeword", "weight", config.d * config.element_bits)
            # The words of a codebook end with it.
            m.d.comb += [codebook.i_flush.eq(accept), codebook.o_field.ready.eq(1)]
        with m.FSM() as fsm:
            m.d.comb += self.o_busy.eq(~fsm.ongoing("IDLE"))
            with m.State("IDLE"):
                m.d.comb += self.i_command.ready.eq(1)
                with m.If(self.i_command.valid):
                    m.d.sync += command.eq(self.i_command.payload)
                    m.next = "ROWS"
                    if config.features.codebook:
                        with m.If(self.i_command.payload.codewords != 0):
                            m.next = "CODEBOOK"
            if config.features.codebook:
                with m.State("CODEBOOK"):
                    m.d.comb += codebook.i_request.eq(1)
                    with m.If(codebook.o_field.valid):
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
            self._decode(m, fields, raw, codebook, codeword, take | Cat(valids).any())
        else:
            weights = Signal(config.weight_bits * config.L, reset_less=True)
            if config.clock_gating:
                with m.If(take):
                    m.d.sync += weights.eq(fields["weight"])
            else:
                m.d.sync += weights.eq(fields["weight"])
            m.d.comb += self.o_write_weights.eq(weights)
        for name, ready in taken_by.items():
            m.d.comb += getattr(self, f"i_{name}").ready.eq(Cat(ready).any())
        return m

    def _decode(
        self, m: Module, fields: dict[str, Value], raw: Value, codebook: Unpacker, codeword: Signal, moving_rows: Value
    ) -> None:
        """The decoder between fields and tiles, whose CRF takes the codewords; gated while no row moves through it."""
        config = self.config
        decoder = WeightDecoder(config)
        if config.clock_gating:
            # A codeword is written one cycle after it has come.
            written, moving = Signal(), Signal()
            m.d.sync += written.eq(codebook.o_field.valid)
            m.d.comb += moving.eq(moving_rows | codebook.o_field.valid | written)
            m.submodules.decoder = EnableInserter(moving)(decoder)
        else:
            m.submodules.decoder = decoder
        m.d.comb += [
            decoder.i_codeword_write.eq(codebook.o_field.valid),
            decoder.i_codeword_address.eq(codeword),
            decoder.i_codeword.eq(codebook.o_field.payload),
            *(getattr(decoder, f"i_{name}").eq(fields[name]) for name in config.streams),
            decoder.i_raw.eq(raw),
            decoder.i_weights.eq(fields["weight"]),
            self.o_write_weights.eq(decoder.o_weights),
        ]
        if config.position_bits:
            m.d.comb += self.o_write_positions.eq(decoder.o_positions)
