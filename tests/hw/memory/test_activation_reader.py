"""TILE's activation vectors against nested loops, at one a cycle."""

from __future__ import annotations

import pytest

from hw.config import AcceleratorConfig
from hw.memory.activation_reader import ActivationReader


def addresses(tile: dict[str, int]) -> list[int]:
    Ds = tile["D"] // tile["Dr"]
    return [
        tile["l1_base"]
        + line * tile["line_pitch"]
        + position * tile["position_pitch"]
        + ds * tile["ds_pitch"]
        + dr * tile["dr_pitch"]
        + b * tile["b_pitch"]
        for line in range(tile["height"])
        for position in range(tile["width"])
        for ds in range(Ds - tile["advance_columns"] if position else 0, Ds)
        for dr in range(tile["Dr"])
        for b in range(tile["B"] // tile["passes"])
        for _ in range(tile["passes"])
    ]


def random_tile(config: AcceleratorConfig, rng) -> dict[str, int]:
    most = min(config.arf_depth, config.wrf_depth)
    while True:
        Dr, Ds, passes = rng.randint(1, 3), rng.randint(1, 4), rng.choice([1, 1, 2, 4])
        tile = {
            "D": Dr * Ds,
            "Dr": Dr,
            "passes": passes,
            "B": passes * rng.randint(1, 3),
            "advance_columns": rng.randint(1, Ds),
            "width": rng.randint(1, 6),
            "height": rng.randint(1, 4),
            "line_pitch": rng.randint(0, 20),
            "position_pitch": rng.randint(0, 8),
            "ds_pitch": rng.randint(0, 8),
            "dr_pitch": rng.randint(0, 20),
            "b_pitch": rng.randint(0, 3),
            "l1_base": rng.randrange(config.l1_ifmap_depth),
        }
        if tile["B"] * tile["D"] <= most and max(addresses(tile)) < config.l1_ifmap_depth:
            return tile


def run(simulate, traffic, config: AcceleratorConfig, tiles: list[dict[str, int]]) -> None:
    content = [traffic.rng.getrandbits(8 * config.H) for _ in range(config.l1_ifmap_depth)]
    reader = ActivationReader(config)
    traffic.source(reader.i_command, tiles)
    reads = traffic.readable(reader.o_l1, content)
    vectors = traffic.sink(reader.o_activation)
    done = traffic.pulses(reader.o_done)
    wanted = [addresses(tile) for tile in tiles]

    async def bench(ctx) -> None:
        total = sum(map(len, wanted))
        await traffic.until(ctx, lambda: len(vectors.items) == total)
        for _ in range(5):
            await traffic.step(ctx)
        assert vectors.items == [content[address] for tile in wanted for address in tile]
        last_reads, read = [], 0
        for tile in wanted:
            read += len(tile)
            last_reads.append(reads.cycles[read - 1])
        assert [cycle - 1 for cycle in done.cycles] == last_reads
        if traffic.density == 1:
            # Not one idle cycle, within a tile or between two
            assert vectors.cycles == list(range(vectors.cycles[0], vectors.cycles[0] + total))

    simulate(reader, bench)


def test_random_tiles(simulate, traffic, config: AcceleratorConfig) -> None:
    run(simulate, traffic, config, [random_tile(config, traffic.rng) for _ in range(8)])


@pytest.mark.parametrize(
    "change",
    [
        {"width": 1, "height": 1, "D": 1, "Dr": 1, "B": 1, "advance_columns": 1},
        {"width": 1, "height": 5, "advance_columns": 1},
        {"advance_columns": 3},
        {"Dr": 1, "D": 4, "advance_columns": 1, "B": 2, "passes": 2},
        {"Dr": 4, "D": 4, "advance_columns": 1},
    ],
)
@pytest.mark.parametrize("config", [{}, {"H": 8, "L": 6, "transfer_register": True}], indirect=True)
def test_edges(simulate, traffic, config: AcceleratorConfig, change: dict) -> None:
    tile = {"D": 6, "Dr": 2, "B": 1, "passes": 1, "advance_columns": 2, "width": 4, "height": 3, "l1_base": 9}
    pitches = {"line_pitch": 40, "position_pitch": 5, "ds_pitch": 2, "dr_pitch": 20, "b_pitch": 1}
    run(simulate, traffic, config, [tile | pitches | change, tile | pitches, tile | pitches | change])
