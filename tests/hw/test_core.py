"""The accelerator core in Amaranth's simulator: bit-exact, and in the predicted number of cycles."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from amaranth.hdl import Value

from hw.config import VARIANTS, preset
from hw.core import AcceleratorCore
from hw.layout import Schedule
from sim.amaranth_bench import run_programs
from sim.scenarios import random_activations, random_layer
from sim.transfers import layer_program, score
from sw.schedule import issue_slots, sequence_cycles, tile_timings

STREAMS = ("i_command", "i_activation", "i_psum", "o_psum", "i_weight", "i_mask", "i_sign")


def program(config, seed, shape, size, extensions, **fields):
    rng = np.random.default_rng(seed)
    layer = random_layer(config, rng, shape, **fields)
    activations = random_activations(rng, (shape[1], *size), fields.get("values", "uniform"))
    return layer_program(config, layer, activations, Schedule(config.H, config.L, *extensions))


#: A weight stationary array runs one weight a PE at a time.
EXTENSIONS = {"ws": (1, 1, 1, 1), "ws-cms": (1, 1, 1, 1)}


@pytest.mark.parametrize(
    ("variant", "density"), [*((variant, 1) for variant in VARIANTS), ("ews", 0.4), ("ews-msvq", 0.4)]
)
def test_two_layers_back_to_back(variant: str, density: float) -> None:
    config = preset(f"{variant}-tiny")
    programs = [
        program(config, 0, (12, 6, 1, 3), (2, 4), EXTENSIONS.get(variant, (2, 2, 1, 3)), padding=(0, 1)),
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
    config = preset("ews-msvq-tiny")
    layer = program(config, 2, (8, 9, 1, 2), (2, 4), (1, 2, 1, 2), stride=(1, 2))
    outputs, _ = run_programs(config, [layer], {stream: 0.2}, seed=3)
    result = score(config, layer, outputs[0])
    assert not result.mismatches, result.message


def test_weights_of_one_row_wait_for_an_entry_that_is_free() -> None:
    """One input channel: entries of the WRF that have one row; the loader would run far ahead of the activations."""
    config = preset("ews-tiny")
    # Of several positions: every entry is needed until the last one.
    layer = program(config, 7, (6 * config.L, 1, 2, 3), (3, 4), (2, 1, 2, 3))
    assert layer.run.positions == 4
    outputs, _ = run_programs(config, [layer], {"i_activation": 0.05}, seed=3)
    result = score(config, layer, outputs[0])
    assert not result.mismatches, result.message


def test_ports_of_the_core_and_its_rest(simulate) -> None:
    config = preset("ews-msvq-tiny")
    core = AcceleratorCore(config)
    assert len(Value.cast(core.i_activation.payload)) == 8 * config.H

    async def bench(ctx) -> None:
        for _ in range(3):
            assert ctx.get(core.o_idle)
            await ctx.tick()

    simulate(core, bench)


@pytest.mark.parametrize("variant", ["ews", "ews-msvq"])
def test_sums_that_wait_keep_what_their_own_tile_adds(variant: str) -> None:
    """Tiles of one position, in turn with and without earlier sums; while sums wait, the next tile computes."""
    config = preset(f"{variant}-tiny")
    layer = program(config, 6, (4 * config.L, 2 * config.H, 1, 1), (1, 1), (1, 1, 1, 1))
    assert [tile.first for tile in layer.tiles] == 4 * [True, False]
    outputs, _ = run_programs(config, [layer], {"o_psum": 0.1}, seed=3)
    result = score(config, layer, outputs[0])
    assert not result.mismatches, result.message


# Layer tiles of ws-cms have no room for the passes of a dense raw layer. ews-msvq has what ews-cm and ews-cms have.
@pytest.mark.parametrize(
    "variant",
    [
        pytest.param(name, marks=pytest.mark.whole if name in ("ews-cm", "ews-cms") else ())
        for name in VARIANTS
        if VARIANTS[name].codebook and name != "ws-cms"
    ],
)
@pytest.mark.parametrize("density", [pytest.param(1, marks=pytest.mark.whole), 0.5])
def test_raw_layers_between_coded_ones(variant: str, density: float) -> None:
    """Dense raw weights in passes where the tile is sparse, and in one pass where they have zeros enough."""
    config = preset(f"{variant}-tiny").override(["word_width=24"])
    programs = [
        program(config, 0, (12, 6, 1, 1), (2, 3), (2, 2, 1, 1)),
        program(config, 1, (11, 6, 1, 3), (2, 4), (1, 2, 1, 1), raw="dense", padding=(0, 1)),
        program(config, 2, (9, 5, 1, 3), (2, 4), (2, 1, 1, 3), raw="sparse", stride=(1, 2)),
        program(config, 3, (8, 5, 1, 1), (2, 3), (1, 1, 1, 1)),
    ]
    assert [layer.run.passes for layer in programs] == [1, 2 if config.features.sparse else 1, 1, 1]
    outputs, cycles = run_programs(config, programs, dict.fromkeys(STREAMS, density), seed=1)
    for layer, vectors in zip(programs, outputs, strict=True):
        result = score(config, layer, vectors)
        assert not result.mismatches, result.message
    if density == 1:
        assert cycles == sequence_cycles(config, [layer.run for layer in programs])


@pytest.mark.parametrize(
    ("name", "changes", "pauses"),
    [
        ("ews-cms-tiny", [], {}),
        ("ews-cms-tiny", [], {"i_activation": 0.3}),
        ("ews-msvq-tiny", ["prf_depth=2"], {"o_psum": 0.5}),
        ("ws-tiny", ["word_width=8"], {}),
        ("ews-tiny", [], dict.fromkeys(STREAMS, 0.5)),
    ],
)
def test_events_account_for_every_cycle(name: str, changes: list[str], pauses: dict[str, float]) -> None:
    config = preset(name).override(changes)
    layer = program(config, 5, (8, 9, 1, 2), (2, 4), (1, 1, 1, 1))
    events: Counter[str] = Counter()
    _, (cycles,) = run_programs(config, [layer], pauses, 7, events)
    assert events["issue"] == issue_slots(layer.run)
    assert events["row_write"] == 9 * 2
    if not pauses:
        # The first command is there in the first cycle, and the last sum leaves the latency after its operation.
        waits = events["wait_weights"] + events["wait_activations"] + events["wait_psums"]
        assert events["issue"] + waits == cycles - config.latency
        assert not events["wait_activations"] + events["wait_psums"]
        timings = [timing for _, timing in tile_timings(config, [layer.run])]
        gaps = [b.started - a.issued - 1 for a, b in pairwise(timings)]
        assert events["wait_weights"] == timings[0].started + sum(gaps)
    for stream, event in (("i_activation", "wait_activations"), ("o_psum", "wait_psums")):
        if [*pauses] == [stream]:
            assert events[event] > 0


@pytest.mark.parametrize("variant", [pytest.param("ews", marks=pytest.mark.whole), "ews-msvq"])
@pytest.mark.parametrize("product_register", [pytest.param("false", marks=pytest.mark.whole), "true"])
def test_zero_gating_changes_nothing_but_the_latency(variant: str, product_register: str) -> None:
    plain = preset(f"{variant}-tiny").override([f"product_register={product_register}"])
    gated = plain.override(["zero_gating=true"])
    assert gated.latency == plain.latency + 1
    # "corners" are 0 in every sixth place; activations are padded too.
    programs = [
        program(gated, 0, (12, 6, 1, 3), (2, 4), (2, 2, 1, 3), padding=(1, 1), values="corners"),
        program(gated, 1, (8, 9, 2, 1), (2, 3), (1, 1, 1, 1), padding=(0, 1)),
    ]
    outputs, cycles = run_programs(gated, programs)
    assert outputs == run_programs(plain, programs)[0]
    assert not any(score(gated, layer, vectors).mismatches for layer, vectors in zip(programs, outputs, strict=True))
    assert cycles == sequence_cycles(gated, [layer.run for layer in programs])


@pytest.mark.parametrize("density", [1, 0.4])
def test_sums_leave_a_cycle_later_with_a_register(density: float) -> None:
    plain = preset("ews-tiny").override(["prf_depth=2"])  # entries of the PRF are waited for
    config = replace(plain, psum_register=True)
    programs = [
        program(config, 0, (12, 9, 1, 3), (2, 4), (2, 2, 1, 3), padding=(0, 1)),
        program(config, 1, (8, 9, 1, 1), (2, 3), (1, 1, 1, 1), values="corners"),
    ]
    pauses = dict.fromkeys(STREAMS, density)
    outputs, cycles = run_programs(config, programs, pauses)
    assert not any(score(config, layer, vectors).mismatches for layer, vectors in zip(programs, outputs, strict=True))
    assert config.drain_latency == plain.drain_latency + 1
    if density == 1:
        runs = [layer.run for layer in programs]
        assert cycles == sequence_cycles(config, runs)
        assert cycles[0] == sequence_cycles(plain, runs)[0] + 1


def test_a_sum_that_goes_on_at_once_is_forwarded() -> None:
    """One entry of the PRF a position: every operation adds to the sum of the one before."""
    config = preset("ews-tiny").override(["psum_register=true"])
    layer = program(config, 8, (4, 9, 2, 3), (2, 4), (1, 2, 1, 3))
    outputs, _ = run_programs(config, [layer])
    assert not score(config, layer, outputs[0]).mismatches


@pytest.mark.parametrize("variant", [pytest.param("ews", marks=pytest.mark.whole), "ews-msvq"])
@pytest.mark.parametrize(
    ("changes", "density"),
    [
        (["tree_register_levels=1", "decoder_registers=1"], 1),
        (["zero_gating=true", "mrf_register=true"], 0.5),
        (["product_register=false", "psum_register=true"], 0.5),
    ],
)
def test_clock_gating_changes_nothing(variant: str, changes: list[str], density: float) -> None:
    plain = preset(f"{variant}-tiny").override(changes)
    gated = plain.override(["clock_gating=true"])
    assert gated.latency == plain.latency
    programs = [
        program(gated, 0, (12, 6, 1, 3), (2, 4), EXTENSIONS.get(variant, (2, 2, 1, 3)), padding=(0, 1)),
        program(gated, 1, (8, 9, 2, 1), (2, 3), (1, 1, 1, 1), values="corners", masks="ends"),
    ]
    pauses = dict.fromkeys(STREAMS, density)
    outputs, cycles = run_programs(gated, programs, pauses)
    assert not any(score(gated, layer, vectors).mismatches for layer, vectors in zip(programs, outputs, strict=True))
    assert (outputs, cycles) == run_programs(plain, programs, pauses)


def test_psums_wrap_at_their_width() -> None:
    config = preset("ews-tiny").override(["psum_width=16"])
    layer = program(config, 4, (8, 4, 1, 1), (2, 2), (1, 1, 1, 1), values="lowest")
    assert layer.sums is None  # 4 * 128 * 128 = 2**16
    assert not layer.expected.any()
    outputs, _ = run_programs(config, [layer])
    assert not score(config, layer, outputs[0]).mismatches
