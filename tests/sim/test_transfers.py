"""Layer programs: what is refused, what is expected, and what the scoreboard says."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from hw.config import AcceleratorConfig, preset
from hw.layout import Schedule
from sim.scenarios import random_activations, random_layer
from sim.transfers import LayerOutputs, LayerProgram, ProgramError, layer_program, score
from sw.schedule import ScheduleError, run_schedule

CONFIG = preset("ews-cms-tiny")


def program(config: AcceleratorConfig, shape=(12, 5, 3, 3), extensions=(2, 1, 1, 3), **fields) -> LayerProgram:
    rng = np.random.default_rng(0)
    layer = random_layer(config, rng, shape, "test", padding=(1, 1), **fields)
    activations = random_activations(rng, (shape[1], 4, 3), fields.get("values", "uniform"))
    return layer_program(config, layer, activations, Schedule(config.H, config.L, *extensions))


def payloads(config: AcceleratorConfig, vectors) -> list[int]:
    """Vectors as ``o_psum`` carries them."""
    width = config.psum_width
    return [sum((int(x) & (1 << width) - 1) << i * width for i, x in enumerate(vector)) for vector in vectors]


@pytest.mark.parametrize("variant", ["ews", "ews-c", "ews-cm", "ews-ssvq", "ews-msvq"])
def test_expected_vectors_are_the_golden_model(variant: str) -> None:
    config = replace(preset(f"{variant}-tiny"), psum_width=24)
    result = program(config)
    got = payloads(config, result.expected)
    compared = score(config, result, got)
    assert (compared.sums, compared.psums, compared.mismatches) == (12 * 12, result.expected.size, 0)
    assert result.sums is not None
    assert result.requantised is not None


def test_every_difference_counts() -> None:
    result = program(CONFIG)
    vectors = result.expected.copy()
    # In an early layer tile: one partial sum. In the last: a partial sum, a sum, and perhaps a requantised one.
    vectors[3, 5] += 1
    compared = score(CONFIG, result, payloads(CONFIG, vectors))
    assert compared.mismatches == 1
    wanted = f"1 of {vectors.size} partial sums differ; first in layer tile 0, vector 3, lane 5: {vectors[3, 5]}, not"
    assert wanted in compared.message
    vectors = result.expected.copy()
    vectors[-2, 0] ^= 1 << 18
    assert score(CONFIG, result, payloads(CONFIG, vectors)).mismatches == 3


def test_absent_output_channels_are_expected_as_zero_fields_decode() -> None:
    # K = 12 on 8 columns: the last 4 lanes of every second vector decode index 0, mask rank 0.
    result = program(CONFIG)
    lanes = result.expected.reshape(-1, 2, 8)[:, 1, 4:]
    assert lanes[..., :2].any()
    assert not lanes[..., 2:].any()


def test_psums_wrap() -> None:
    config = replace(CONFIG, psum_width=16)
    result = program(config, values="lowest", masks="first")
    assert result.sums is None
    assert result.requantised is None
    wide = run_schedule(result.layer, np.full((5, 4, 3), -128, np.int8), result.run.schedule)
    assert wide.max() > 1 << 15
    assert np.abs(result.expected).max() <= 1 << 15


def test_outputs_are_sorted_by_layer_and_fed_back_but_for_last_tiles() -> None:
    programs = [program(CONFIG), program(CONFIG, (8, 4, 1, 1), (1, 1, 1, 1))]
    outputs = LayerOutputs(programs)
    numbers = range(sum(len(p.expected) for p in programs))
    fed_back = [outputs.take(number) for number in numbers]
    assert outputs.done
    assert [len(vectors) for vectors in outputs.vectors] == [len(p.expected) for p in programs]
    flags = [not tile.last for p in programs for tile, n in zip(p.tiles, p.vectors, strict=True) for _ in range(n)]
    assert fed_back == flags


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("ews-c-tiny", "layer 'test' on ews-cms: method must be mvq or int8, not vq"),
        ("ews-cms-16", "layer 'test' on ews-cms: d must be 4, not 16"),
        ({"N": 1}, "layer 'test' on ews-cms: n must be 2, not 1"),
        ({"M": 2, "N": 2}, "layer 'test' on ews-cms: m must be 4, not 2"),
        ({"k": 4}, "layer 'test' on ews-cms: k must be in 5..8, not 4"),
        ({"k": 16}, "layer 'test' on ews-cms: k must be in 5..8, not 16"),
    ],
)
def test_layer_of_another_instance(other, message: str) -> None:
    made_for = preset(other) if isinstance(other, str) else replace(CONFIG, **other)
    rng = np.random.default_rng(0)
    layer = random_layer(made_for, rng, (16, 4, 1, 1), "test")
    with pytest.raises(ProgramError, match=f"^{re.escape(message)}$"):
        layer_program(CONFIG, layer, random_activations(rng, (4, 2, 2)), Schedule(4, 8))


def test_raw_weights_of_a_sign_split_instance() -> None:
    config = preset("ews-msvq-tiny")
    layer = random_layer(CONFIG, np.random.default_rng(0), (8, 4, 1, 1), "test", raw="dense")
    layer.weights[0, 0, 0, 0] = -128
    with pytest.raises(ProgramError, match=r"^layer 'test' on ews-msvq: raw weights must be in -127\.\.127, not -128$"):
        layer_program(config, layer, np.zeros((4, 2, 2), np.int8), Schedule(4, 8))


@pytest.mark.parametrize(("raw", "passes"), [("dense", 3), ("sparse", 1)])
def test_raw_rows_of_a_sparse_tile_hold_every_weight_once(raw: str, passes: int) -> None:
    config = CONFIG.override(["d=8", "M=8", "N=3", "word_width=8"])
    rng = np.random.default_rng(0)
    layer = random_layer(config, rng, (13, 6, 1, 2), "test", raw=raw)
    made = layer_program(config, layer, random_activations(rng, (6, 3, 4)), Schedule(4, 8, 2, 1, 1, 2))
    assert made.run.passes == passes
    words = np.array(made.streams["i_weight"], np.uint8).view(np.int8)
    rows = 2 * 2 * (3 * 2 * 4 if raw == "dense" else 6)
    assert words.shape == (rows * 3,)
    assert np.count_nonzero(words) == np.count_nonzero(layer.weights)
    assert words.sum(dtype=np.int64) == layer.weights.sum(dtype=np.int64)
    assert len(made.streams["i_mask"]) == -(-rows * config.mask_bits // 8)


def test_output_too_large() -> None:
    config = replace(CONFIG, loop_bits=4)
    rng = np.random.default_rng(0)
    layer = random_layer(config, rng, (8, 4, 1, 1), "test")
    with pytest.raises(ProgramError, match="layer 'test': output must be at most 15 x 15, not 2 x 16"):
        layer_program(config, layer, random_activations(rng, (4, 2, 16)), Schedule(4, 8))


def test_schedule_too_large() -> None:
    with pytest.raises(ScheduleError, match=r"A\*B\*D must be in 1\.\.16, not 18"):
        program(CONFIG, extensions=(6, 1, 1, 3))
