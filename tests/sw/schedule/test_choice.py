"""The chosen schedule is the best of all that fit."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from hw.config import preset
from hw.layout import Schedule, layer_tiles
from sw.format import CompressedLayer
from sw.format.example import random_layer
from sw.golden import output_size
from sw.schedule import (
    LayerRun,
    ScheduleError,
    activation_fetches,
    check_schedule,
    choose_schedule,
    psum_accesses,
    sequence_cycles,
    tile_activations,
    tile_timings,
)
from sw.schedule.choice import candidate_schedules, layer_run, raw_passes

CONFIG = preset("ews-tiny")  # H = 4, L = 8, WRF 16, PRF 8


def layer(shape, **fields) -> CompressedLayer:
    return CompressedLayer(
        name="test",
        kind="conv",
        shape=shape,
        method="int8",
        scale=np.ones(1, np.float32),
        weights=np.zeros(shape, np.int8),
        **fields,
    )


@pytest.mark.parametrize(
    ("shape", "size"),
    [((16, 9, 3, 3), (6, 7)), ((40, 16, 1, 1), (4, 4)), ((8, 4, 1, 7), (3, 9)), ((24, 4, 5, 5), (5, 5))],
)
def test_fewest_psum_accesses_of_the_fastest(shape, size) -> None:
    tested = layer(shape)
    costs = {}
    for schedule in candidate_schedules(CONFIG, shape):
        run = layer_run(CONFIG, tested, schedule, *size)
        costs[schedule] = (sequence_cycles(CONFIG, [run])[0], psum_accesses(run))
    assert len(set(costs.values())) > 1
    limit = min(cycles for cycles, _ in costs.values()) * 1.01
    cycles, accesses = costs[choose_schedule(CONFIG, tested, *size)]
    assert cycles <= limit
    assert accesses == min(accesses for cycles, accesses in costs.values() if cycles <= limit)


def test_extensions_are_used_where_they_cost_nothing() -> None:
    # One tile of 1 x 1 positions more or less does not matter here: 1600 positions.
    schedule = choose_schedule(CONFIG, layer((8, 16, 1, 1)), 40, 40)
    assert schedule.B > 1


def test_candidates_are_all_that_fit() -> None:
    shape = (40, 12, 3, 2)
    found = set(candidate_schedules(CONFIG, shape))
    expected = set()
    for A in range(1, 6):
        for B in range(1, 4):
            for Dr in (1, 3):
                for Ds in (1, 2):
                    schedule = Schedule(4, 8, A, B, Dr, Ds)
                    try:
                        check_schedule(CONFIG, schedule)
                    except ScheduleError:
                        continue
                    expected.add(schedule)
    assert found == expected


def test_psum_accesses_fall_with_b_and_d() -> None:
    # Out of every tile, and back into every one but the first.
    def accesses(*extensions: int) -> int:
        return psum_accesses(LayerRun((8, 8, 3, 3), 5, Schedule(4, 8, *extensions)))

    assert accesses(1, 1, 1, 1) == 5 * (2 * 18 - 1)
    assert accesses(1, 2, 1, 1) == 5 * (2 * 9 - 1)
    assert accesses(1, 1, 3, 3) == 5 * (2 * 2 - 1)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (Schedule(4, 16), "H x L must be 4 x 8, not 4 x 16"),
        (Schedule(4, 8, A=6, Ds=3), r"A\*B\*D must be in 1\.\.16, not 18"),
        (Schedule(4, 8, B=3, Dr=3), r"B\*D must be in 1\.\.8, not 9"),
        (Schedule(4, 8, A=9), r"A must be in 1\.\.8, not 9"),
    ],
)
def test_schedules_that_do_not_fit(schedule: Schedule, message: str) -> None:
    with pytest.raises(ScheduleError, match=f"^{message}$"):
        check_schedule(CONFIG, schedule)


def test_passes_of_raw_weights() -> None:
    config = preset("ews-cms-tiny")  # 2:4
    weights = np.ones((16, 9, 1, 1), np.int8)
    dense = CompressedLayer("x", "conv", weights.shape, "int8", np.ones(1, np.float32), weights=weights)
    assert raw_passes(config, dense) == 2
    assert raw_passes(CONFIG, dense) == 1
    thinned = weights * (np.arange(16) % 4 < 2).astype(np.int8)[:, None, None, None]
    assert raw_passes(config, CompressedLayer("x", "conv", weights.shape, "int8", dense.scale, weights=thinned)) == 1
    assert {x.B for x in candidate_schedules(config, weights.shape, 2)} == {1, 2, 3}
    assert max(x.A * x.B for x in candidate_schedules(config, weights.shape, 4)) == 4
    with pytest.raises(ScheduleError, match=r"^B\*D times passes must be in 1\.\.8, not 10$"):
        check_schedule(config, Schedule(4, 8, B=5), 2)
    with pytest.raises(ScheduleError, match=r"^A\*B\*D times passes must be in 1\.\.2, not 4$"):
        choose_schedule(config.override(["N=1", "wrf_depth=2"]), dense, 4, 4)


def test_a_weight_stationary_array_computes_with_one_weight() -> None:
    config = preset("ws-tiny")
    assert set(candidate_schedules(config, (16, 9, 3, 3))) == {Schedule(4, 8)}
    with pytest.raises(ScheduleError, match=r"^A\*B\*D must be in 1\.\.1, not 2$"):
        check_schedule(config, Schedule(4, 8, A=2))
    # Loading hides behind computing, and an operation is issued in every cycle.
    run = LayerRun((8, 40, 1, 1), 64, Schedule(4, 8))
    timings = [timing for _, timing in tile_timings(config, [run])]
    assert all(b.started == a.issued + 1 for a, b in pairwise(timings))
    assert all(timing.issued - timing.started == 63 for timing in timings)


@pytest.mark.parametrize("stride", [(1, 1), (2, 2)])
def test_activation_fetches_are_the_vectors_of_the_stream(stride: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    layer = random_layer(rng, "mvq", (8, 9, 3, 3), d=4, k=8, n=2, m=4, stride=stride, padding=(1, 1))
    activations = rng.integers(-128, 128, (9, 7, 6)).astype(np.int8)
    lines, columns = output_size(layer, 7, 6)
    for extensions in ((1, 1, 1, 1), (2, 1, 1, 3), (1, 2, 3, 1), (1, 2, 1, 3)):
        schedule = Schedule(4, 4, *extensions)
        vectors = [
            len(tile_activations(layer, tile, activations, schedule)) for tile in layer_tiles(layer.shape, schedule)
        ]
        assert activation_fetches(layer, schedule, lines, columns) == sum(vectors)
