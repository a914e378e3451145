"""Ranks decode to the masks of hw.layout, for both styles."""

from __future__ import annotations

import random
from math import comb

import pytest

from hw.config import MASK_DECODERS
from hw.decoder.mask_decoder import MaskDecoder
from hw.generate import to_rtlil
from hw.layout import mask_rank, mask_unrank

EXHAUSTIVE = [(1, 1), (1, 2), (2, 2), (1, 4), (2, 4), (3, 4), (4, 4), (3, 5), (2, 8), (4, 8), (7, 8), (8, 8)]
SAMPLED = [(1, 16), (4, 16), (6, 16), (15, 16), (16, 16)]


@pytest.mark.parametrize("style", MASK_DECODERS)
@pytest.mark.parametrize(("n", "m"), [*EXHAUSTIVE, *SAMPLED])
def test_masks_of_all_ranks(simulate, style: str, n: int, m: int) -> None:
    count = comb(m, n)
    ranks = range(count) if count <= 100 else [0, 1, count - 2, count - 1, *random.Random(0).sample(range(count), 300)]
    decoder = MaskDecoder(n, m, style)

    async def bench(ctx) -> None:
        for rank in ranks:
            ctx.set(decoder.i_rank, rank)
            await ctx.delay(1e-9)
            mask = ctx.get(decoder.o_mask)
            bits = [mask >> position & 1 for position in range(m)]
            assert bits == mask_unrank(rank, n, m)
            assert mask_rank(bits, n) == rank

    simulate(decoder, bench, clocked=False)


def test_styles_are_different_circuits() -> None:
    for style, subtracts in (("arithmetic", True), ("table", False)):
        assert ("threshold_" in to_rtlil(MaskDecoder(2, 4, style))) == subtracts


@pytest.mark.usefixtures("unelaborated")
def test_every_rank_has_a_bit_and_no_more() -> None:
    for n, m in [*EXHAUSTIVE, *SAMPLED]:
        assert len(MaskDecoder(n, m).i_rank) == (comb(m, n) - 1).bit_length()


@pytest.mark.parametrize("style", MASK_DECODERS)
@pytest.mark.parametrize(("n", "m", "registers"), [(1, 1, 2), (1, 2, 3), (2, 4, 1), (4, 4, 1), (3, 5, 2), (4, 16, 3)])
def test_pipelined_decoder_takes_a_rank_a_cycle(simulate, style: str, n: int, m: int, registers: int) -> None:
    rng = random.Random(0)
    ranks = [rng.randrange(comb(m, n)) for _ in range(60)]
    decoder = MaskDecoder(n, m, style, registers)

    async def bench(ctx) -> None:
        for cycle, rank in enumerate(ranks):
            ctx.set(decoder.i_rank, rank)
            await ctx.delay(1e-7)
            if cycle >= registers:
                mask = ctx.get(decoder.o_mask)
                assert [bool(mask >> position & 1) for position in range(m)] == mask_unrank(
                    ranks[cycle - registers], n, m
                )
            await ctx.tick()

    simulate(decoder, bench)
