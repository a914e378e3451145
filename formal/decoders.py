"""Decoders: equal to what the tables of Python's side say, for every input."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from math import comb

from amaranth.hdl import Assert, Assume, Cat, Const, Module, Mux, Signal, Value

from formal.prove import Method, Specification
from formal.streams import free_inputs
from hw.array.position_encoder import PositionEncoder
from hw.config import PRESETS, AcceleratorConfig
from hw.decoder.mask_decoder import MaskDecoder
from hw.decoder.weight_decoder import WeightDecoder
from hw.layout import mask_unrank, position_code

__all__ = ["specifications"]

Build = Callable[[], tuple[Module, list[Value]]]


def _masks(n: int, m: int) -> list[list[bool]]:
    return [mask_unrank(rank, n, m) for rank in range(comb(m, n))]


def _mask_decoder(n: int, m: int, style: str, wrong: bool = False) -> Build:
    def build() -> tuple[Module, list[Value]]:
        module = Module()
        module.submodules.dut = dut = MaskDecoder(n, m, style)
        expected = Signal(m)
        module.d.comb += [Assume(dut.i_rank < comb(m, n)), Assert(dut.o_mask == expected)]
        with module.Switch(dut.i_rank):
            for rank, mask in enumerate(_masks(n, m)):
                bits = sum(bit << place for place, bit in enumerate(mask))
                with module.Case(rank):
                    # The last one is wrong where a proof must fail.
                    module.d.comb += expected.eq(bits ^ (wrong and rank == comb(m, n) - 1))
        return module, free_inputs(dut)

    return build


def _position_encoder(n: int, m: int) -> Build:
    def build() -> tuple[Module, list[Value]]:
        module = Module()
        module.submodules.dut = dut = PositionEncoder(n, m)
        module.d.comb += Assume(sum(dut.i_mask[place] for place in range(m)) == n)
        positions = [getattr(dut, f"o_position_{i}") for i in range(n)]
        for position in positions:
            module.d.comb += [Assert(dut.i_mask.bit_select(position, 1)), Assert(position < m)]
        for before, after in pairwise(positions):
            module.d.comb += Assert(before < after)
        return module, free_inputs(dut)

    return build


def _weight_decoder(config: AcceleratorConfig) -> Build:
    """A codeword is written, then a row of it decoded: what comes out is what the fields mean."""
    element_bits, bits = config.element_bits, config.weight_bits

    def build() -> tuple[Module, list[Value]]:
        m = Module()
        m.submodules.dut = dut = WeightDecoder(config)
        ports = free_inputs(dut)
        cycle = Signal(range(config.decoder_stages + 6))
        m.d.sync += cycle.eq(cycle + 1)
        ready = 3 + config.decoder_stages
        # What is decoded stays; the codeword, too, and nothing else is written.
        fields = Cat(*(getattr(dut, f"i_{name}") for name in config.streams), dut.i_raw, dut.i_weights)
        written = Cat(dut.i_codeword_address, dut.i_codeword)
        held = Signal(len(fields) + len(written))
        m.d.sync += held.eq(Cat(fields, written))
        m.d.comb += [
            Assume((cycle == 0) | (held == Cat(fields, written))),
            Assume(dut.i_codeword_write == (cycle == 0)),
        ]
        address_bits = config.index_bits
        for tile in range(config.tiles):
            m.d.comb += Assume(dut.i_index.word_select(tile, address_bits) == dut.i_codeword_address)
        m.d.comb += Assume(dut.i_codeword_address < config.k)

        codeword = [
            Cat(dut.i_codeword.word_select(i, element_bits), Const(0, bits - element_bits)) for i in range(config.d)
        ]
        masked, sparse, signed = config.features.mask, config.features.sparse, config.features.sign
        groups = config.mask_groups if masked else 1
        size = config.M if masked else config.d
        stored = config.multipliers // groups  # weights of a group
        code_bits = config.mrf_width // groups if config.position_bits else 0
        expected, codes = [], []
        for tile in range(config.tiles):
            for group in range(groups):
                number = tile * groups + group
                members = codeword[group * size : (group + 1) * size]
                values = Signal(stored * bits, name=f"values_{number}")
                code = Signal(code_bits, name=f"code_{number}")

                def of(mask: list[bool], members=members, values=values, code=code):
                    kept = [place for place, bit in enumerate(mask) if bit]
                    chosen = (
                        [members[p] for p in kept]
                        if sparse
                        else [x if b else Const(0, bits) for x, b in zip(members, mask, strict=True)]
                    )
                    statements = [values.eq(Cat(*chosen))]
                    return [*statements, code.eq(position_code(kept, config.M))] if code_bits else statements

                if not masked:
                    m.d.comb += of([True] * size)
                elif config.mask_bits:
                    rank = dut.i_mask.word_select(number, config.mask_bits)
                    m.d.comb += Assume(rank < comb(config.M, config.N))
                    with m.Switch(rank):
                        for value, mask in enumerate(_masks(config.N, config.M)):
                            with m.Case(value):
                                m.d.comb += of(mask)
                else:
                    m.d.comb += of([True] * size)
                for i in range(stored):
                    value = values.word_select(i, bits)
                    if signed:
                        sign = dut.i_sign.word_select(number * stored + i, 1)
                        value = Mux(sign, (0 - value)[:bits], value)
                    raw = dut.i_weights.word_select(number * stored + i, bits)
                    expected.append(Mux(dut.i_raw, raw, value)[:bits])
                codes.append(code)
        # One at a time, so that a wrong one is one assertion.
        for i, value in enumerate(expected):
            m.d.comb += Assert((cycle != ready) | (dut.o_weights.word_select(i, bits) == value))
        for i, code in enumerate(codes if code_bits else []):
            m.d.comb += Assert((cycle != ready) | (dut.o_positions.word_select(i, code_bits) == code))
        return m, ports

    return build


def specifications() -> Iterator[Specification]:
    """Mask decoders and position encoders for each N:M of the presets, weight decoders of every variant."""
    shapes = sorted({(c.N, c.M) for c in PRESETS.values() if c.features.mask and c.N < c.M})
    for n, m in shapes:
        for style in ("arithmetic", "table"):
            name = f"MaskDecoder {n}:{m}, {style}: the mask of the rank"
            yield Specification(name, _mask_decoder(n, m, style), Method.STATE)
        yield Specification(
            f"PositionEncoder {n}:{m}: kept positions, ascending", _position_encoder(n, m), Method.STATE
        )
    n, m = shapes[0]
    yield Specification(
        f"MaskDecoder {n}:{m}: another mask", _mask_decoder(n, m, "arithmetic", True), Method.STATE, refuted=True
    )
    for name, config in PRESETS.items():
        if config.features.codebook and name.endswith("-tiny"):
            for registers in (0, 1):
                instance = replace(config, decoder_registers=registers) if config.features.mask else config
                if registers and instance == config:
                    continue
                depth = instance.decoder_stages + 5
                yield Specification(
                    f"WeightDecoder {name}, {registers} registers: weights and positions of the fields",
                    _weight_decoder(instance),
                    Method.BOUNDED,
                    depth,
                )
