"""The accelerator core in Amaranth's simulator: bit-exact, and in the predicted number of cycles."""

from __future__ import annotations

import numpy as np
import pytest

from hw.config import VARIANTS, preset
from hw.layout import Schedule
from sim.amaranth_bench import run_programs
from sim.program import layer_program, score
from sim.scenarios import random_activations, random_layer
from sw.perf import sequence_cycles

STREAMS = ("i_command", "i_activation", "i_psum", "o_psum", "i_codebook", "i_index", "i_mask", "i_sign", "i_weight")


def program(config, seed, shape, size, extensions, **fields):
    rng = np.random.default_rng(seed)
    layer = random_layer(config, rng, shape, **fields)
    activations = random_activations(rng, (shape[1], *size), fields.get("values", "uniform"))
    return layer_program(config, layer, activations, Schedule(config.H, config.L, *extensions))


@pytest.mark.parametrize(
    ("variant", "density"), [*((variant, 1) for variant in VARIANTS), ("ews", 0.4), ("ews-msvq", 0.4)]
)
def test_two_layers_back_to_back(variant: str, density: float) -> None:
    config = preset(f"{variant}-tiny")
    programs = [
        program(config, 0, (12, 6, 1, 3), (2, 4), (2, 2, 1, 3), padding=(0, 1)),
        program(config, 1, (8, 9, 2, 1), (2, 3), (1, 1, 1, 1), values="corners", masks="ends"),
    ]
    outputs, cycles = run_programs(config, programs, dict.fromkeys(STREAMS, density))
    for layer, vectors in zip(programs, outputs, strict=True):
        result = score(config, layer, vectors)
        assert not result.mismatches, result.message
    predicted = sequence_cycles(config, [layer.run for layer in programs])
    if density == 1:
        assert cycles == predicted
    else:
        assert sum(cycles) > sum(predicted)


@pytest.mark.parametrize("stream", STREAMS)
def test_pauses_of_one_stream(stream: str) -> None:
    config = preset("ews-tiny" if stream == "i_weight" else "ews-msvq-tiny")
    layer = program(config, 2, (8, 9, 1, 2), (2, 4), (1, 2, 1, 2), stride=(1, 2))
    outputs, _ = run_programs(config, [layer], {stream: 0.2}, seed=3)
    result = score(config, layer, outputs[0])
    assert not result.mismatches, result.message


def test_psums_wrap_at_their_width() -> None:
    config = preset("ews-tiny").override(["psum_width=16"])
    layer = program(config, 4, (8, 4, 1, 1), (2, 2), (1, 1, 1, 1), values="lowest")
    assert layer.sums is None  # 4 * 128 * 128 = 2**16
    assert not layer.expected.any()
    outputs, _ = run_programs(config, [layer])
    assert not score(config, layer, outputs[0]).mismatches
