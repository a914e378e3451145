"""COPY against numpy: regions inside, across and beyond the edges of a feature map."""

from __future__ import annotations

import numpy as np
import pytest

from hw.config import AcceleratorConfig
from hw.memory.ifmap_loader import IfmapLoader


def expected_vectors(config: AcceleratorConfig, l2: np.ndarray, copy: dict[str, int]) -> tuple[list[int], int]:
    """The vectors, and the cycles that they take."""
    W, vectors, cycles = config.l2_word, [], 0
    for row in range(copy["first_row"], copy["first_row"] + copy["height"]):
        for column in range(copy["first_column"], copy["first_column"] + copy["width"]):
            pixel = np.zeros(copy["groups"] * config.H, np.uint8)
            words = 0
            if 0 <= row < copy["rows"] and 0 <= column < copy["columns"]:
                base = copy["l2_base"] + row * copy["row_words"] + column * copy["pixel_words"] + copy["first_word"]
                words = min(copy["channel_words"], copy["groups"] * config.H // W)
                pixel[: words * W] = l2[base : base + words].reshape(-1)
            for group in pixel.reshape(copy["groups"], config.H):
                vectors.append(int.from_bytes(group.tobytes(), "little"))
                read = min(words, config.H // W)
                cycles += max(1, read)
                words -= read
    return vectors, cycles


def random_copy(config: AcceleratorConfig, rng) -> dict[str, int]:
    while True:
        lanes = config.H // config.l2_word
        rows, columns = rng.randint(1, 6), rng.randint(1, 6)
        pixel_words = rng.randint(1, 3 * lanes)
        row_words = columns * pixel_words + rng.randint(0, 3)
        first_word = rng.randrange(pixel_words)
        channel_words = rng.randint(0 if rng.random() < 0.1 else 1, pixel_words - first_word)
        height, width = rng.randint(1, 4), rng.randint(1, 5)
        groups = max(1, -(-channel_words // lanes) + rng.choice([-1, 0, 0, 0, 1]))
        room = config.l2_depth - rows * row_words
        space = config.l1_ifmap_depth - height * width * groups
        if room < 0 or space < 0:
            continue
        return {
            "l2_base": rng.randint(0, room),
            "rows": rows,
            "columns": columns,
            "row_words": row_words,
            "pixel_words": pixel_words,
            "first_row": rng.randint(-3, rows + 1),
            "first_column": rng.randint(-3, columns + 1),
            "height": height,
            "width": width,
            "first_word": first_word,
            "channel_words": channel_words,
            "groups": groups,
            "l1_base": rng.randint(0, space),
        }


def run(simulate, traffic, config: AcceleratorConfig, copies: list[dict[str, int]]) -> None:
    l2 = np.frombuffer(traffic.rng.randbytes(config.l2_depth * config.l2_word), np.uint8).reshape(-1, config.l2_word)
    loader = IfmapLoader(config)
    commands = traffic.source(loader.i_command, copies)
    reads = traffic.readable(loader.o_l2, [int.from_bytes(word.tobytes(), "little") for word in l2])
    l1: dict[int, int] = {}
    writes = traffic.writable(loader.o_l1, l1, always=True)
    done = traffic.pulses(loader.o_done)

    async def bench(ctx) -> None:
        begins = 0
        for number, copy in enumerate(copies):
            vectors, cycles = expected_vectors(config, l2, copy)
            # Done comes before the first vector of the next command, which may overwrite these.
            await traffic.until(ctx, lambda number=number: len(done.cycles) > number)
            addresses = range(copy["l1_base"], copy["l1_base"] + len(vectors))
            assert [l1.get(address) for address in addresses] == vectors, copy
            assert writes.cycles[-1] == done.cycles[-1] - 1
            if traffic.density == 1:
                seek = max(copy["first_row"], copy["first_column"], 0).bit_length()
                assert commands.cycles[number] == begins
                begins += 1 + seek + 1 + cycles
                assert writes.cycles[-1] == begins + 1
        assert len(writes.cycles) == sum(len(expected_vectors(config, l2, copy)[0]) for copy in copies)
        assert len(reads.cycles) == sum(read_words(config, copy) for copy in copies)

    simulate(loader, bench)


def read_words(config: AcceleratorConfig, copy: dict[str, int]) -> int:
    rows = range(max(copy["first_row"], 0), min(copy["first_row"] + copy["height"], copy["rows"]))
    columns = range(max(copy["first_column"], 0), min(copy["first_column"] + copy["width"], copy["columns"]))
    return len(rows) * len(columns) * min(copy["channel_words"], copy["groups"] * config.H // config.l2_word)


def test_random_regions(simulate, traffic, config: AcceleratorConfig) -> None:
    run(simulate, traffic, config, [random_copy(config, traffic.rng) for _ in range(10)])


@pytest.mark.parametrize("config", [{}], indirect=True)
def test_far_corner_of_a_large_tensor(simulate, traffic, config: AcceleratorConfig) -> None:
    copy = dict.fromkeys(("l2_base", "first_word", "l1_base"), 0) | {
        "rows": 61,
        "columns": 60,
        "row_words": 60,
        "pixel_words": 1,
        "channel_words": 1,
        "groups": 1,
        "first_row": 59,
        "first_column": 57,
        "height": 4,
        "width": 5,
    }
    run(simulate, traffic, config, [copy, copy | {"first_row": -4, "first_column": -5}])
