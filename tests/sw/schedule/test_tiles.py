from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest

from hw.layout import LayerTile, Schedule, layer_tiles
from sw.format.example import random_layer
from sw.format.layer import CompressedLayer
from sw.golden import GoldenError, check_psum_width, layer_sums, output_size
from sw.schedule import advance, run_schedule, tile_activations, tile_psums


def random_case(seed: int) -> tuple[CompressedLayer, np.ndarray[Any, Any], Schedule]:
    rng = np.random.default_rng(seed)

    def pick(high: int, low: int = 1) -> int:
        return int(rng.integers(low, high + 1))

    method = ("int8", "vq", "mvq", "ssvq", "msvq")[seed % 5]
    coding = {"d": 4, "k": 8} if method != "int8" else {}
    if method in ("mvq", "msvq"):
        coding |= {"n": 1, "m": 2}
    R, S = ([1, 1], [3, 3], [2, 4], [5, 3], [1, 6])[pick(5) - 1]
    layer = random_layer(
        rng,
        method,
        (4 * pick(5), pick(9), R, S),
        **coding,
        stride=(pick(3), pick(3)),
        padding=(pick(2, 0), pick(2, 0)),
        dilation=(pick(2), pick(2)),
    )
    Dr, Ds = (int(rng.choice([x for x in range(1, size + 1) if size % x == 0])) for size in (R, S))
    schedule = Schedule(pick(5), 4 * pick(3), pick(3), pick(3), Dr, Ds)
    rows, columns = layer.dilation[0] * (R - 1) + 1, layer.dilation[1] * (S - 1) + 1
    image = rng.integers(-128, 128, (layer.shape[1], rows + pick(4, 0), columns + pick(5, 0))).astype(np.int8)
    return layer, image, schedule


@pytest.mark.parametrize("seed", range(60))
def test_schedule_gives_the_sums_of_the_layer(seed: int) -> None:
    layer, image, schedule = random_case(seed)
    sums = run_schedule(layer, image, schedule)
    assert sums.dtype == np.int32
    assert np.array_equal(sums, layer_sums(layer, image))


def test_schedule_of_a_linear_layer() -> None:
    rng = np.random.default_rng(0)
    layer = random_layer(rng, "ssvq", (12, 7, 1, 1), d=4, k=8, kind="linear")
    vector = rng.integers(-128, 128, 7).astype(np.int8)
    assert np.array_equal(run_schedule(layer, vector, Schedule(3, 8, 2, 2)), layer_sums(layer, vector))


def test_schedule_wraps_at_the_width_of_a_partial_sum() -> None:
    layer, image, schedule = random_case(6)
    sums = layer_sums(layer, image)
    with pytest.raises(ValueError, match="of 12 bits"):
        check_psum_width(layer, 12)
    wrapped = (sums.astype(np.int64) + 2048) % 4096 - 2048
    assert (wrapped != sums).any()
    R, S = layer.shape[2:]
    for cut in (schedule, Schedule(2, 8, A=9, B=9, Dr=R, Ds=S)):
        assert np.array_equal(run_schedule(layer, image, cut, 12), wrapped)
        for result in tile_psums(layer, image, cut, 12):
            assert -2048 <= result.own.min() <= result.own.max() <= 2047


@pytest.mark.parametrize("seed", range(10))
def test_psums_of_each_tile(seed: int) -> None:
    layer, image, schedule = random_case(seed)
    K = layer.shape[0]
    sums = layer_sums(layer, image).reshape(K, -1)
    results = list(tile_psums(layer, image, schedule))
    assert [result.tile for result in results] == list(layer_tiles(layer.shape, schedule))
    running = np.zeros(0, np.int64)
    for result in results:
        tile = result.tile
        assert result.own.shape == (sums.shape[1] * tile.A, schedule.L)
        running = result.own if tile.first else running + result.own
        assert np.array_equal(result.accumulated, running)
        if tile.last:
            for p, s, column in np.ndindex(sums.shape[1], tile.A, schedule.L):
                o = tile.k0 + s * schedule.L + column
                assert running[p * tile.A + s, column] == (sums[o, p] if o < K else 0)


def consume(
    layer: CompressedLayer, tile: LayerTile, stream: np.ndarray[Any, Any], E: int, F: int, H: int, L: int
) -> Any:
    """Psums of a tile from the activation stream alone, as the array takes it: a first-in first-out ARF."""
    weights = layer.integer_weights()
    source = iter(stream.tolist())
    window: deque[list[int]] = deque()
    out = []
    for _ in range(E):
        for f in range(F):
            freed = len(window) if f == 0 else advance(layer, tile)
            for _ in range(freed):
                window.popleft()
            while len(window) < tile.D * tile.B:
                window.append(next(source))
            for s in range(tile.A):
                psum = [0] * L
                for q in range(tile.D):
                    ds, dr = divmod(q, tile.Dr)
                    for r in range(tile.B):
                        vector = window[q * tile.B + r]
                        for h in range(tile.rows if r == tile.B - 1 else H):
                            c = tile.c0 + r * H + h
                            for column in range(min(L, layer.shape[0] - tile.k0 - s * L)):
                                w = int(weights[tile.k0 + s * L + column, c, tile.r0 + dr, tile.s0 + ds])
                                psum[column] += w * vector[h]
                out.append(psum)
    assert next(source, None) is None
    return out


@pytest.mark.parametrize("seed", range(20))
def test_activation_stream_is_enough_for_the_psums(seed: int) -> None:
    layer, image, schedule = random_case(seed)
    E, F = output_size(layer, *image.shape[1:])
    for i, result in enumerate(tile_psums(layer, image, schedule)):
        if i in (0, 1, 2, 5, 9) or result.tile.last:
            stream = tile_activations(layer, result.tile, image, schedule)
            assert stream.dtype == np.int8
            assert stream.shape[1] == schedule.H
            got = consume(layer, result.tile, stream, E, F, schedule.H, schedule.L)
            assert got == result.own.tolist()


@pytest.mark.parametrize(
    ("stride", "dilation", "Ds", "expected"),
    [(1, 1, 3, 1), (2, 1, 3, 2), (3, 1, 3, 3), (4, 1, 3, 3), (1, 1, 1, 1), (1, 2, 3, 3), (2, 2, 1, 1)],
)
def test_advance_and_length_of_the_stream(stride: int, dilation: int, Ds: int, expected: int) -> None:
    rng = np.random.default_rng(0)
    layer = random_layer(rng, "int8", (4, 7, 3, 3), stride=(1, stride), dilation=(3, dilation))
    schedule = Schedule(3, 4, B=2, Dr=3, Ds=Ds)
    image = rng.integers(1, 128, (7, 8, 11)).astype(np.int8)
    E, F = output_size(layer, 8, 11)
    tiles = list(layer_tiles(layer.shape, schedule))
    # The last tile has one row group with one of three channels; its vectors are zero elsewhere.
    for tile, B in ((tiles[0], 2), (tiles[-1], 1)):
        assert advance(layer, tile) == expected * 3 * B
        stream = tile_activations(layer, tile, image, schedule)
        assert len(stream) == E * (Ds * 3 * B + (F - 1) * expected * 3 * B)
        assert stream[:, : tile.rows].all()
        assert not stream[:, tile.rows :].any()


def test_activation_stream_by_hand() -> None:
    image = np.arange(2 * 2 * 3, dtype=np.int8).reshape(2, 2, 3) + 1
    layer = random_layer(np.random.default_rng(0), "int8", (1, 2, 2, 2), padding=(0, 1))
    schedule = Schedule(1, 1, B=2, Dr=2, Ds=2)
    (tile,) = layer_tiles(layer.shape, schedule)
    stream = tile_activations(layer, tile, image, schedule)
    # Columns from left to right: kernel rows, then channels. Each column is sent once; both edges are padding.
    columns = [[0, 0, 0, 0], [1, 7, 4, 10], [2, 8, 5, 11], [3, 9, 6, 12], [0, 0, 0, 0]]
    assert stream.reshape(-1).tolist() == [value for column in columns for value in column]


@pytest.mark.parametrize(
    ("change", "shape", "width", "message"),
    [
        pytest.param({"groups": 2}, (6, 4, 4), 32, "layer 'random': groups must be 1, not 2", id="groups"),
        pytest.param({}, (2, 3, 4, 4), 32, "activations must be one image, not 2", id="batch"),
        pytest.param({}, (4, 4, 4), 32, "activations must have 3 channels, not 4", id="channels"),
        pytest.param({}, (3, 1, 4), 32, "padded input must have at least 3 rows, not 1", id="rows"),
        pytest.param({}, (3, 4, 4), 33, r"psum_width must be in 2\.\.32, not 33", id="width"),
        pytest.param({}, (3, 4, 4), 1, r"psum_width must be in 2\.\.32, not 1", id="one bit"),
    ],
)
def test_run_refuses(change: dict[str, Any], shape: tuple[int, ...], width: int, message: str) -> None:
    layer = random_layer(np.random.default_rng(0), "vq", (8, 3, 3, 3), d=4, k=4, **change)
    with pytest.raises(GoldenError, match=message):
        run_schedule(layer, np.zeros(shape, np.int8), Schedule(4, 4), width)


def test_run_refuses_a_schedule_that_does_not_fit() -> None:
    layer = random_layer(np.random.default_rng(0), "vq", (8, 3, 3, 3), d=4, k=4)
    with pytest.raises(ValueError, match="Dr x Ds must divide the kernel 3 x 3, not 2 x 1"):
        run_schedule(layer, np.zeros((3, 4, 4), np.int8), Schedule(4, 4, Dr=2))
