"""Instances all over the configuration space are bit-exact, and take the predicted number of cycles."""

from __future__ import annotations

import random

import numpy as np
import pytest

from hw.config import MASK_DECODERS, VARIANTS, AcceleratorConfig
from sim.amaranth_bench import run_programs
from sim.scenarios import random_job
from sim.transfers import layer_program, score
from sw.schedule import sequence_cycles

# H, d, L/d, N, M: the corners first, then whatever the seeds give.
ARRAYS = [(1, 1, 1, 1, 1), (5, 4, 2, 4, 4), (3, 2, 3, 1, 1), (2, 8, 1, 3, 8), (5, 6, 1, 1, 2), (1, 8, 2, 2, 4)]
SEEDS = range(7)


def sampled(variant: str, seed: int) -> AcceleratorConfig:
    rng = random.Random(f"{variant} {seed}")
    if seed < len(ARRAYS):
        H, d, tiles, N, M = ARRAYS[seed]
    else:
        H, d, tiles = rng.choice([1, 2, 3, 4]), rng.randint(1, 6), rng.randint(1, 3)
        M = rng.choice([m for m in range(1, d + 1) if d % m == 0])
        N = rng.randint(1, M)
    return AcceleratorConfig(
        variant=variant,
        H=H,
        L=d * tiles,
        d=d,
        k=rng.choice([2, 3, 5, 8, 17]),
        N=N,
        M=M,
        wrf_depth=rng.choice([2, 4, 8, 16]),
        arf_depth=rng.choice([2, 4, 8]),
        prf_depth=rng.choice([2, 4, 8]),
        psum_width=rng.choice([16, 19, 24, 32]),
        word_width=rng.choice([8, 16, 24, 40, 64, 128]),
        loop_bits=rng.choice([4, 12, 16]),
        mask_decoder=rng.choice(MASK_DECODERS),
        product_register=rng.random() < 0.5,
        tree_register_levels=rng.choice([0, 1, 2, 3]),
        zero_gating=rng.random() < 0.3,
        decoder_registers=rng.choice([0, 1, 3]),
        mrf_register=rng.random() < 0.5,
        psum_register=rng.random() < 0.5,
        # Every width with every variant.
        weight_bits=2 + (list(VARIANTS).index(variant) + seed) % 7,
    )


#: In every run two layers of each variant that pause, of three; all of these meet several variants.
SAMPLED = [
    pytest.param(variant, seed, marks=() if seed % 2 and (number + seed // 2) % 3 else pytest.mark.whole)
    for number, variant in enumerate(VARIANTS)
    for seed in SEEDS
]


@pytest.mark.parametrize(("variant", "seed"), SAMPLED)
def test_random_layers(variant: str, seed: int) -> None:
    config = sampled(variant, seed)
    rng = np.random.default_rng(seed)
    jobs = [random_job(config, rng, f"random-{i}", positions=6, groups=2) for i in range(2 - seed % 2)]
    programs = [layer_program(config, job.layer, job.activations, job.schedule) for job in jobs]
    paused = seed % 2 == 1
    streams = ("i_command", "i_activation", "i_psum", "o_psum", *(f"i_{name}" for name in config.channels))
    outputs, cycles = run_programs(config, programs, dict.fromkeys(streams, 0.6) if paused else {}, seed)
    for program, vectors in zip(programs, outputs, strict=True):
        result = score(config, program, vectors)
        assert not result.mismatches, f"{config}: {result.message}"
    if not paused:
        assert cycles == sequence_cycles(config, [program.run for program in programs])


def test_every_width_meets_every_variant() -> None:
    for variant in VARIANTS:
        assert {sampled(variant, seed).weight_bits for seed in SEEDS} == set(range(2, 9)), variant
