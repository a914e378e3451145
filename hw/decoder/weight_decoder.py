"""From assignments, mask ranks and sign bits to one row of weights (MVQ section 5.2, SSVQ's sign module)."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.array.position_encoder import PositionEncoder, encode_positions
from hw.config import AcceleratorConfig
from hw.decoder.mask_decoder import MaskDecoder
from hw.decoder.sign_unit import SignUnit
from hw.memory.register_file import RegisterFile

__all__ = ["WeightDecoder"]


class WeightDecoder(wiring.Component):
    """L/d codewords a cycle from the codebook register file (CRF), AND mask, with sign, as the tiles store them.

    Dense tiles get ``d`` weights; sparse tiles get the Q kept weights in ascending order of position, and the
    positions. The paper has leading-zero counters in every array row; a row is written in one cycle, so here one
    encoder a tile serves all H rows.

    Raw weights pass beside the CRF into the registers of the codewords: in sparse tiles into those of the elements that
    the selection takes for positions of 0. Masks then only give positions, and signs are not used.

    A pipeline of :attr:`hw.config.AcceleratorConfig.decoder_stages` registers that never stalls.

    Members
    -------
    i_codeword_write, i_codeword_address, i_codeword
        Writes the CRF.
    i_index, i_mask, i_sign
        The fields of one row write (:attr:`hw.config.AcceleratorConfig.streams`), as the variant has them.
    i_raw, i_weights
        The row is raw, and its weights, as ``o_weights``. ``i_raw`` is constant while rows of one kind are on their
        way.
    o_weights
        ``tiles`` x ``multipliers`` x ``weight_bits`` bits, ``decoder_stages`` cycles later.
    o_positions
        In sparse variants the position codes of the kept weights, ``tiles`` x ``mrf_width`` bits.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        members = {
            "i_codeword_write": In(1),
            "i_codeword_address": In(range(config.k)),
            "i_codeword": In(config.d * config.element_bits),
            **{f"i_{name}": In(bits) for name, bits in config.streams.items()},
            "i_raw": In(1),
            "i_weights": In(config.raw_bits),
            "o_weights": Out(config.tiles * config.multipliers * config.weight_bits),
        }
        if config.position_bits:
            members["o_positions"] = Out(config.tiles * config.mrf_width)
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        config = self.config

        def register(value, name):
            held = Signal(len(value), name=name, reset_less=True)
            m.d.sync += held.eq(value)
            return held

        def delayed(value, name):
            """Beside the masks, up to the registers of the codewords."""
            for stage in range(config.decoder_stages - 2):
                value = register(value, f"{name}_{stage}")
            return value

        # A codeword is written one cycle late. The first row that can read it enters one cycle behind it, and reads at
        # the earliest one cycle later.
        write = Signal()
        m.d.sync += write.eq(self.i_codeword_write)
        m.submodules.crf = crf = RegisterFile(config.k, config.d * config.element_bits, config.tiles)
        m.d.comb += [
            crf.i_write.eq(write),
            crf.i_write_address.eq(register(self.i_codeword_address, "codeword_address")),
            crf.i_write_data.eq(register(self.i_codeword, "codeword")),
        ]
        index = delayed(self.i_index, "index")
        ranks = register(self.i_mask, "ranks") if config.mask_bits else None
        signs = register(delayed(self.i_sign, "signs"), "signs") if config.features.sign else None
        raw = delayed(self.i_weights, "raw_weights")
        # A dense tile stores all elements of a group, a sparse one N of them.
        stored = config.multipliers // config.mask_groups
        group_size = config.d // config.mask_groups

        weights, positions = [], []
        for tile in range(config.tiles):
            m.d.comb += getattr(crf, f"i_address_{tile}").eq(index.word_select(tile, config.index_bits))
            codeword = getattr(crf, f"o_data_{tile}")
            elements = []
            for i in range(config.d):
                element = codeword.word_select(i, config.element_bits)
                group, place = divmod(i, group_size)
                if place < stored:
                    number = (tile * config.mask_groups + group) * stored + place
                    element = Mux(self.i_raw, raw.word_select(number, config.weight_bits), element)
                elements.append(register(element, f"element_{tile}_{i}"))

            if config.features.mask:
                kept = []
                for group in range(config.mask_groups):
                    number = tile * config.mask_groups + group
                    m.submodules[f"mask_decoder_{number}"] = decoder = MaskDecoder(
                        config.N, config.M, config.mask_decoder, config.decoder_registers
                    )
                    if ranks is not None:
                        m.d.comb += decoder.i_rank.eq(ranks.word_select(number, config.mask_bits))
                    mask = register(decoder.o_mask, f"mask_{number}")
                    members = elements[group * config.M : (group + 1) * config.M]
                    if not config.position_bits:
                        kept += [
                            element & (bit | self.i_raw).replicate(len(element))
                            for element, bit in zip(members, mask, strict=True)
                        ]
                        continue
                    m.submodules[f"encoder_{number}"] = encoder = PositionEncoder(config.N, config.M)
                    m.d.comb += encoder.i_mask.eq(mask)
                    found = [getattr(encoder, f"o_position_{i}") for i in range(config.N)]
                    for i, position in enumerate(found):
                        # Kept weight i is at position i..M-N+i, so the multiplexer needs no other inputs.
                        choices = members[: config.M - config.N + i + 1]
                        chosen = position & ~self.i_raw.replicate(len(position))
                        kept.append(Array([choices[max(p, i)] for p in range(len(choices))])[chosen])
                    positions.append(encode_positions(found, config.M))
                elements = kept

            if config.features.sign:
                m.submodules[f"sign_unit_{tile}"] = sign_unit = SignUnit(len(elements), config.weight_bits)
                m.d.comb += [
                    sign_unit.i_values.eq(
                        Cat(Value.cast(element) | Const(0, config.weight_bits) for element in elements)
                    ),
                    sign_unit.i_signs.eq(signs.word_select(tile, len(elements)) & ~self.i_raw.replicate(len(elements))),
                ]
                weights.append(sign_unit.o_weights)
            else:
                weights += elements
        m.d.comb += self.o_weights.eq(register(Cat(weights), "weights"))
        if config.position_bits:
            m.d.comb += self.o_positions.eq(register(Cat(positions), "positions"))
        return m
