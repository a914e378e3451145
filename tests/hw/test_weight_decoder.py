"""Fields of the weight streams decode to the weights, or kept weights and positions, that a row of the array stores."""

from __future__ import annotations

import random
from math import comb

import pytest

from hw.config import MASK_DECODERS, VARIANTS, AcceleratorConfig
from hw.decoder.weight_decoder import WeightDecoder
from hw.layout import mask_unrank, position_code

SHAPES = [
    {"variant": "ews-c", "L": 8, "d": 4, "k": 5, "N": 4, "M": 4},
    {"variant": "ews-cm", "L": 8, "d": 8, "k": 8, "N": 2, "M": 4},
    {"variant": "ews-cms", "L": 8, "d": 4, "k": 9, "N": 2, "M": 4},
    {"variant": "ews-cms", "L": 16, "d": 16, "k": 4, "N": 4, "M": 16},
    {"variant": "ews-cms", "L": 8, "d": 8, "k": 4, "N": 1, "M": 2},
    {"variant": "ews-cms", "L": 4, "d": 4, "k": 4, "N": 4, "M": 4},
    {"variant": "ews-cms", "L": 3, "d": 3, "k": 2, "N": 1, "M": 1},
    {"variant": "ews-ssvq", "L": 6, "d": 3, "k": 16, "N": 3, "M": 3},
    {"variant": "ews-msvq", "L": 12, "d": 6, "k": 7, "N": 2, "M": 3},
    {"variant": "ews-msvq", "L": 8, "d": 8, "k": 2, "N": 3, "M": 8},
    {"variant": "ews-c", "L": 8, "d": 4, "k": 5, "N": 4, "M": 4, "weight_bits": 3},
    {"variant": "ews-cm", "L": 8, "d": 8, "k": 8, "N": 2, "M": 4, "weight_bits": 5},
    {"variant": "ews-cms", "L": 8, "d": 4, "k": 9, "N": 2, "M": 4, "weight_bits": 2},
    {"variant": "ews-ssvq", "L": 6, "d": 3, "k": 16, "N": 3, "M": 3, "weight_bits": 2},
    {"variant": "ews-msvq", "L": 16, "d": 16, "k": 7, "N": 2, "M": 8, "weight_bits": 4},
    {"variant": "ews-msvq", "L": 12, "d": 6, "k": 7, "N": 2, "M": 3, "weight_bits": 7},
]


def reference(config: AcceleratorConfig, codebook, indices, ranks, signs):
    """Weights and positions in the order of the outputs, one subvector after the other."""
    weights, positions = [], []
    for tile, index in enumerate(indices):
        codeword, mask = codebook[index], [True] * config.d
        if config.features.mask:
            groups = ranks[tile * config.mask_groups :][: config.mask_groups]
            mask = [bit for rank in groups for bit in mask_unrank(rank, config.N, config.M)]
        kept = [i for i, bit in enumerate(mask) if bit]
        signed = list(codeword)
        if config.features.sign:
            for number, i in enumerate(kept):
                signed[i] = -codeword[i] if signs[tile * config.Q + number] else codeword[i]
        if config.features.sparse:
            weights += [signed[i] for i in kept]
            positions += [i % config.M for i in kept]
        else:
            weights += [value if bit else 0 for value, bit in zip(signed, mask, strict=True)]
    return weights, positions


def pack(values, bits: int) -> int:
    return sum((value & (1 << bits) - 1) << i * bits for i, value in enumerate(values))


def pack_positions(config: AcceleratorConfig, positions) -> int:
    groups = [positions[i : i + config.N] for i in range(0, len(positions), config.N)]
    return pack([position_code(group, config.M) for group in groups], config.mrf_width // config.mask_groups)


CASES = [(shape, style) for shape in SHAPES for style in MASK_DECODERS[: 2 if VARIANTS[shape["variant"]].mask else 1]]


@pytest.mark.parametrize(
    ("shape", "style"), CASES, ids=lambda x: x if isinstance(x, str) else "-".join(map(str, x.values()))
)
@pytest.mark.parametrize("registers", [0, 2])
def test_rows_come_out_after_the_stages(simulate, shape: dict, style: str, registers: int) -> None:
    config = AcceleratorConfig(H=2, mask_decoder=style, decoder_registers=registers, **shape)
    rng = random.Random(str(shape))
    high = (1 << (config.weight_bits - 1)) - 1
    low = 0 if config.features.sign else -high - 1
    codebook = [[rng.randint(low, high) for _ in range(config.d)] for _ in range(config.k)]
    codebook[0], codebook[-1] = [low] * config.d, [high] * config.d
    count = config.tiles * config.mask_groups
    last = comb(config.M, config.N) - 1
    rows = [
        (
            [rng.randrange(config.k) for _ in range(config.tiles)],
            [rng.choice([0, last, rng.randint(0, last)]) for _ in range(count)],
            [rng.getrandbits(1) for _ in range(config.tiles * config.Q)],
        )
        for _ in range(40)
    ]
    decoder = WeightDecoder(config)

    async def bench(ctx) -> None:
        ctx.set(decoder.i_codeword_write, 1)
        for address, codeword in enumerate(codebook):
            ctx.set(decoder.i_codeword_address, address)
            ctx.set(decoder.i_codeword, pack(codeword, config.element_bits))
            await ctx.tick()
        ctx.set(decoder.i_codeword_write, 0)
        await ctx.tick()
        # Raw rows first: weights pass, masks give positions, the other fields mean nothing.
        ctx.set(decoder.i_raw, 1)
        for indices, ranks, signs in rows[:5]:
            ctx.set(decoder.i_index, pack(indices, config.index_bits))
            if config.mask_bits:
                ctx.set(decoder.i_mask, pack(ranks, config.mask_bits))
            if config.features.sign:
                ctx.set(decoder.i_sign, pack(signs, 1))
            raw = rng.getrandbits(config.raw_bits)
            ctx.set(decoder.i_weights, raw)
            for _ in range(config.decoder_stages):
                await ctx.tick()
            assert ctx.get(decoder.o_weights) == raw
            if config.position_bits:
                _, positions = reference(config, codebook, indices, ranks, signs)
                assert ctx.get(decoder.o_positions) == pack_positions(config, positions)
        ctx.set(decoder.i_raw, 0)
        for cycle in range(len(rows) + config.decoder_stages):
            if cycle < len(rows):
                indices, ranks, signs = rows[cycle]
                ctx.set(decoder.i_index, pack(indices, config.index_bits))
                if config.mask_bits:
                    ctx.set(decoder.i_mask, pack(ranks, config.mask_bits))
                if config.features.sign:
                    ctx.set(decoder.i_sign, pack(signs, 1))
            if cycle >= config.decoder_stages:
                weights, positions = reference(config, codebook, *rows[cycle - config.decoder_stages])
                assert ctx.get(decoder.o_weights) == pack(weights, config.weight_bits)
                if config.position_bits:
                    assert ctx.get(decoder.o_positions) == pack_positions(config, positions)
            await ctx.tick()

    simulate(decoder, bench)
