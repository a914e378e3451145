"""The closed form of the loop nest. That the RTL agrees is in tests/hw and tests/sim."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import pytest

from hw.config import preset
from hw.layout import Schedule
from sw.schedule import LayerRun, issue_slots, sequence_cycles, tile_timings
from sw.schedule.choice import candidate_schedules
from sw.schedule.cycles import loader_latency

CONFIG = preset("ews-cms-tiny")  # H = 4, L = 8


def run(shape, positions, extensions=(1, 1, 1, 1), codewords=0, config=CONFIG) -> LayerRun:
    return LayerRun(shape, positions, Schedule(config.H, config.L, *extensions), codewords)


@pytest.mark.parametrize("extensions", [(1, 1, 1, 1), (2, 1, 3, 1), (2, 2, 1, 3), (4, 2, 1, 1)])
def test_issue_slots_do_not_depend_on_the_schedule(extensions) -> None:
    # 4 column groups, 2 row groups, 9 kernel positions.
    assert issue_slots(run((32, 8, 3, 3), 10, extensions)) == 4 * 2 * 9 * 10


@pytest.mark.parametrize(("positions", "extensions"), [(1, (1, 1, 1, 1)), (7, (2, 1, 1, 1)), (20, (2, 2, 1, 2))])
@pytest.mark.parametrize("codewords", [0, 8])
def test_one_tile(positions: int, extensions, codewords: int) -> None:
    A, B, Dr, Ds = extensions
    D = Dr * Ds
    ((_, tile),) = tile_timings(CONFIG, [run((8 * A, 4 * B, Dr, Ds), positions, extensions, codewords)])
    rows = A * B * D * 4
    assert tile.accepted == 0
    # A codeword of 32 bits is two words.
    assert tile.loaded == 2 * codewords + rows
    assert tile.started == tile.loaded + loader_latency(CONFIG) + 1
    assert tile.issued == tile.started + positions * A * B * D - 1
    assert tile.finished == tile.issued + CONFIG.latency


def test_loading_hides_behind_computing() -> None:
    # 6 tiles of 4 rows, 50 operations each: after the first load the array never waits.
    layer = run((8, 24, 1, 1), 50)
    timings = [timing for _, timing in tile_timings(CONFIG, [layer])]
    assert all(b.started == a.issued + 1 for a, b in pairwise(timings))


def test_full_wrf_keeps_the_next_tile_out() -> None:
    # A*B*D = 16 entries: an entry can be loaded only when it has been read for the last time.
    layer = run((64, 16, 1, 1), 3, (8, 2, 1, 1))
    first, second = [timing for _, timing in tile_timings(CONFIG, [layer])]
    assert second.loaded > first.issued
    half = [timing for _, timing in tile_timings(CONFIG, [run((64, 16, 1, 1), 30, (8, 1, 1, 1))])]
    assert half[1].loaded < half[0].issued


@pytest.mark.parametrize(("word_width", "cycles"), [(64, 1), (32, 2), (16, 4), (24, 8 / 3)])
def test_wide_rows_take_several_words(word_width: int, cycles: float) -> None:
    config = replace(preset("ews-tiny"), word_width=word_width)  # 64 bits a row
    ((_, tile),) = tile_timings(config, [run((64, 6, 1, 1), 1, (8, 2, 1, 1), config=config)])
    assert tile.loaded == 48 * cycles


def test_shallow_prf_stalls_the_array() -> None:
    deep = replace(CONFIG, prf_depth=8)
    shallow = replace(CONFIG, prf_depth=2)
    assert deep.prf_depth > deep.latency >= shallow.prf_depth
    layer = run((8, 4, 1, 1), 100)
    (_, fast), (_, slow) = (next(tile_timings(config, [layer])) for config in (deep, shallow))
    assert fast.issued - fast.started + 1 == 100
    # Two operations every latency + 1 cycles.
    assert slow.issued - slow.started + 1 == 50 * (shallow.latency + 1) - shallow.latency + 1


def test_layers_add_up() -> None:
    layers = [run((8, 4, 1, 1), 9, codewords=8), run((16, 12, 3, 3), 4, (2, 1, 1, 3), codewords=8)]
    cycles = sequence_cycles(CONFIG, layers)
    *_, (number, last) = tile_timings(CONFIG, layers)
    assert number == 1
    assert sum(cycles) == last.finished + 1
    assert cycles[0] == sequence_cycles(CONFIG, layers[:1])[0]
    assert cycles[1] < sequence_cycles(CONFIG, layers[1:])[0]  # its first load runs beside the first layer


@pytest.mark.parametrize("seed", range(40))
def test_short_cut_is_exact(seed: int) -> None:
    """Skipping over like tiles gives what following every tile gives."""
    rng = random.Random(seed)
    variant = rng.choice(["ews", "ews-c", "ews-cms", "ews-msvq"])
    config = replace(
        preset(f"{variant}-tiny"),
        wrf_depth=rng.choice([2, 4, 16]),
        prf_depth=rng.choice([2, 4, 8]),
        word_width=rng.choice([8, 16, 24, 64]),
        product_register=rng.random() < 0.5,
        tree_register_levels=rng.choice([0, 1]),
    )
    layers = []
    for _ in range(2):
        shape = (4 * rng.randint(1, 9), rng.randint(1, 40), rng.choice([1, 3]), rng.choice([1, 3]))
        schedule = rng.choice(list(candidate_schedules(config, shape)))
        layers.append(LayerRun(shape, rng.choice([1, 2, 5, 30]), schedule, rng.choice([0, 8])))
    ends = [-1, -1, -1]
    for number, timing in tile_timings(config, layers):
        ends[number + 1] = timing.finished
    assert sequence_cycles(config, layers) == [b - a for a, b in pairwise(ends)]
