"""Tables, concatenation, slices, upsampling, multiplication: their arithmetic beside torch's, what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import conv_transpose2d, interpolate, pad, pixel_shuffle, pixel_unshuffle

from sw.compress.training.device import device_results
from sw.network import Network, NetworkError, Output, parse_operations, read_network, write_network
from sw.network.fast import FastNetwork

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(-128, 128, (2, 4, 5, 3)).astype(np.int8)
TABLE = RNG.integers(-128, 128, 256).astype(np.int8)


def run(operations: list[dict[str, Any]], images: np.ndarray = IMAGES, **constants: np.ndarray) -> np.ndarray:
    """The last result, equal by all three interpreters; with and without the image's size."""
    whole = [{"op": "input", "shape": list(images.shape[1:])}, *operations]
    network = Network({}, parse_operations(whole), 0.1, constants)
    expected = network.run(images)
    assert expected.dtype == np.int8
    assert expected.shape[1:] == network.values[-1].known
    free = Network({}, parse_operations([{"op": "input"}, *operations]), 0.1, constants)
    for found in (
        FastNetwork(network).run(images),
        device_results(network, torch.from_numpy(images))[0].numpy(),
        free.run(images),
    ):
        assert found.dtype == np.int8
        assert np.array_equal(found, expected)
    return expected


def test_a_table_is_indexed_by_the_byte() -> None:
    values = np.arange(-128, 128).astype(np.int8).reshape(1, 1, 16, 16)
    found = run([{"op": "table", "in": [0], "table": "t"}], values, t=TABLE)
    assert [int(x) for x in found.flat] == [int(TABLE[x % 256]) for x in range(-128, 128)]
    identity = np.arange(256).astype(np.uint8).astype(np.int8)
    assert np.array_equal(run([{"op": "table", "in": [0], "table": "t"}], t=identity), IMAGES)
    flat = [{"op": "flatten", "in": [0]}, {"op": "table", "in": [1], "table": "t"}]
    assert np.array_equal(run(flat, t=TABLE), TABLE[IMAGES.astype(int) % 256].reshape(2, 60))


def test_concatenation_and_slices() -> None:
    again = {"op": "slice", "in": [0], "start": 1, "stop": 3}
    found = run([again, {"op": "concatenate", "in": [1, 0, 1]}])
    assert np.array_equal(found, IMAGES[:, [1, 2, 0, 1, 2, 3, 1, 2]])
    flat = [{"op": "flatten", "in": [0]}, {"op": "slice", "in": [1], "start": 59, "stop": 60}]
    assert np.array_equal(
        run([*flat, {"op": "concatenate", "in": [2, 1]}])[:, [0, 60]], IMAGES[:, -1:, -1, -1][:, [0, 0]]
    )


def test_upsampling_is_that_of_torch() -> None:
    values = torch.from_numpy(IMAGES)
    nearest = interpolate(values.float(), scale_factor=2, mode="nearest").to(torch.int8)
    assert np.array_equal(run([{"op": "upsample", "in": [0], "mode": "nearest"}]), nearest)
    sixteenths = interpolate(values.double() * 16, scale_factor=2, mode="bilinear").long()
    rounded = sixteenths.sign() * ((sixteenths.abs() + 8) // 16)
    assert np.array_equal(run([{"op": "upsample", "in": [0], "mode": "bilinear"}]), rounded)
    assert (sixteenths.abs() % 16 == 8).any()
    for factor in (3, 4, 6, 7):
        # Its sums are whole numbers of these.
        whole = (factor if factor % 2 else 2 * factor) ** 2
        sums = (interpolate(values.double(), scale_factor=factor, mode="bilinear") * whole).round().long()
        rounded = sums.sign() * ((2 * sums.abs() + whole) // (2 * whole))
        assert np.array_equal(run([{"op": "upsample", "in": [0], "mode": "bilinear", "factor": factor}]), rounded)
    weight = torch.zeros(4, 1, 2, 2)
    weight[:, :, 0, 0] = 1
    sparse = conv_transpose2d(values.float(), weight, stride=2, groups=4)
    assert np.array_equal(run([{"op": "upsample", "in": [0], "mode": "zeros"}]), sparse)
    for mode in ("nearest", "bilinear", "zeros"):
        one = np.full((1, 1, 1, 1), -128, np.int8)
        expected = [[-128, 0], [0, 0]] if mode == "zeros" else [[-128, -128], [-128, -128]]
        assert run([{"op": "upsample", "in": [0], "mode": mode}], one).tolist() == [[expected]]


def test_moves_of_rows_columns_and_pixels() -> None:
    values = torch.from_numpy(IMAGES)
    for margins, stride in (([1, 2, 0, 1], 1), ([0, 0, 1, 0], [2, 1]), ([4, 0, 2, 0], [3, 2])):
        top, bottom, left, right = margins
        rows, columns = (stride, stride) if isinstance(stride, int) else stride
        found = run([{"op": "crop", "in": [0], "margins": margins, "stride": stride}])
        assert np.array_equal(found, pad(values, [-left, -right, -top, -bottom])[:, :, ::rows, ::columns])
    for factors in (3, [1, 4], [2, 1]):
        found = run([{"op": "repeat", "in": [0], "factors": factors}])
        scale = (factors, factors) if isinstance(factors, int) else tuple(factors)
        assert np.array_equal(found, interpolate(values.float(), scale_factor=scale, mode="nearest").to(torch.int8))
    shuffle, unshuffle = ({"op": f"pixel_{way}shuffle", "in": [0], "factor": 2} for way in ("", "un"))
    assert np.array_equal(run([shuffle]), pixel_shuffle(values, 2))
    assert np.array_equal(run([shuffle, unshuffle | {"in": [1]}]), IMAGES)
    assert np.array_equal(run([unshuffle | {"factor": 3}], IMAGES[:, :, :3]), pixel_unshuffle(values[:, :, :3], 3))


@pytest.mark.parametrize("gate", ["map", "pixel", "features"])
def test_multiplication(gate: str) -> None:
    """Halves go away from zero, and the range clamps."""
    table = {"op": "table", "in": [0], "table": "t"}
    average = [{"op": "average", "in": [1], "multiplier": 1 << 27, "shift": 30}, {"op": "flatten", "in": [2]}]
    operations = {"map": [table], "pixel": [table, average[0]], "features": [table, *average]}[gate]
    factors = (run(operations, t=TABLE)).astype(object)
    factors = factors.reshape(2, 4, 1, 1) if gate == "features" else factors
    operations = [*operations, {"op": "multiply", "in": [0, len(operations)]}]
    for multiplier, shift, limits in ((3, 7, (-128, 127)), (-((1 << 31) - 1), 38, (-20, 90)), (1, 0, (-128, 127))):
        operations[-1] |= {"multiplier": multiplier, "shift": shift, "range": list(limits)}
        exact = IMAGES.astype(object) * factors * multiplier
        # 2 * |v| + 1 over 2 of |v| / 2**shift, rounded down, is |v| / 2**shift with halves up.
        sizes = np.vectorize(lambda v, s=shift: (abs(v) * 2 + (1 << s)) // (2 << s) * (1 if v > 0 else -1))(exact)
        assert np.array_equal(run(operations, t=TABLE), sizes.clip(*limits).astype(int))


def test_the_file(tmp_path: Path) -> None:
    operations = parse_operations(
        [
            {"op": "input", "shape": [4, 5, 3]},
            {"op": "table", "in": [0], "table": "t"},
            {"op": "multiply", "in": [1, 0], "multiplier": 1, "shift": 7, "range": [0, 90]},
            {"op": "concatenate", "in": [1, 2, 0]},
            {"op": "slice", "in": [3], "start": 2, "stop": 9},
            {"op": "upsample", "in": [4], "mode": "bilinear"},
        ]
    )
    written = Network({}, operations, 0.1, {"t": TABLE}, (Output(5, "mask", 0.5), Output(2, "gate")))
    assert [op.to_dict() for op in parse_operations([op.to_dict() for op in operations])] == [
        op.to_dict() for op in operations
    ]
    write_network(tmp_path / "a", written)
    again = read_network(tmp_path / "a")
    assert (again.operations, again.outputs) == (written.operations, written.outputs)
    for found, expected in zip(again.results(IMAGES), written.results(IMAGES), strict=True):
        assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        ([{"op": "table", "in": [0]}], r"operation 1 \(table\): field 'table' is missing"),
        ([{"op": "table", "in": [0], "table": "x"}], "table must be the name of a constant of the file, not 'x'"),
        ([{"op": "table", "in": [0], "table": "short"}], r"table must be int8 \[256\], not int8 \[255\]"),
        ([{"op": "table", "in": [0], "table": "wide"}], r"table must be int8 \[256\], not int32 \[256\]"),
        (
            [{"op": "concatenate", "in": [0]}],
            r"in must be 2 or more numbers of operations before it, 0\.\.0, not \[0\]",
        ),
        ([{"op": "concatenate", "in": [0, 1]}], r"in must be 2 or more numbers .* 0\.\.0, not \[0, 1\]"),
        (
            [{"op": "upsample", "in": [0], "mode": "nearest"}, {"op": "concatenate", "in": [0, 1]}],
            r"operation 2 \(concatenate\): all values must have the same rows and columns, not 4 x 5 x 3 and 4 x 10",
        ),
        (
            [{"op": "flatten", "in": [0]}, {"op": "concatenate", "in": [0, 1]}],
            "all values must have the same rows and columns, not 4 x 5 x 3 and 60",
        ),
        (
            [{"op": "slice", "in": [0], "start": 2, "stop": 2}],
            r"operation 1 \(slice\): stop must be behind start 2, not 2",
        ),
        (
            [{"op": "slice", "in": [0], "start": 2, "stop": 5}],
            "stop must be at most the 4 channels that it reads, not 5",
        ),
        ([{"op": "slice", "in": [0], "start": -1, "stop": 5}], r"start must be an integer in 0\.\.268435456, not -1"),
        (
            [{"op": "upsample", "in": [0], "mode": "cubic"}],
            r"operation 1 \(upsample\): mode must be one of nearest, bilinear, zeros, not 'cubic'",
        ),
        (
            [{"op": "flatten", "in": [0]}, {"op": "upsample", "in": [1], "mode": "nearest"}],
            r"it must read int8 \[C x rows x columns\], not int8 \[60\]",
        ),
        (
            [
                {"op": "slice", "in": [0], "start": 0, "stop": 3},
                {"op": "multiply", "in": [0, 1], "multiplier": 1, "shift": 7},
            ],
            r"operation 2 \(multiply\): both values must have the same shape, not 4 x 5 x 3 and 3 x 5 x 3",
        ),
        (
            [
                {"op": "slice", "in": [0], "start": 0, "stop": 3},
                {"op": "average", "in": [1], "multiplier": 1, "shift": 0},
                {"op": "multiply", "in": [0, 2], "multiplier": 1, "shift": 7},
            ],
            "both values must have the same shape, not 4 and 3",
        ),
        (
            [{"op": "upsample", "in": [0], "mode": "bilinear", "factor": 8}],
            r"factor must be an integer in 2\.\.7, not 8",
        ),
        (
            [{"op": "upsample", "in": [0], "mode": "zeros", "factor": 3}],
            r"operation 1 \(upsample\): factor must be 2 where mode is zeros, not 3",
        ),
        (
            [{"op": "crop", "in": [0], "margins": [2, 3, 0, 0]}],
            r"operation 1 \(crop\): margins must leave at least one row and column of 5 x 3, not \[2, 3, 0, 0\]",
        ),
        ([{"op": "crop", "in": [0], "margins": [-1, 0, 0, 0]}], r"margins must be 4 integers in 0\.\.65535, not \[-1"),
        ([{"op": "repeat", "in": [0], "factors": 0}], r"factors must be 2 integers in 1\.\.255, not 0"),
        (
            [{"op": "pixel_shuffle", "in": [0], "factor": 3}],
            r"operation 1 \(pixel_shuffle\): channels must be a multiple of 3 x 3, not 4",
        ),
        (
            [{"op": "pixel_unshuffle", "in": [0], "factor": 3}],
            r"operation 1 \(pixel_unshuffle\): rows and columns must be multiples of 3, not 5 x 3",
        ),
        (
            [{"op": "multiply", "in": [0, 0], "multiplier": 1, "shift": 63}],
            r"shift must be an integer in 0\.\.62, not 63",
        ),
    ],
)
def test_what_they_refuse(operations: list[dict[str, Any]], message: str) -> None:
    tables = {"t": TABLE, "short": TABLE[1:], "wide": TABLE.astype(np.int32)}
    with pytest.raises(NetworkError, match=message):
        Network({}, parse_operations([{"op": "input", "shape": [4, 5, 3]}, *operations]), 0.1, tables)


def test_sizes_beyond_the_limit() -> None:
    operations = [{"op": "input", "shape": [1, 1, 40000]}, {"op": "upsample", "in": [0], "mode": "nearest"}]
    with pytest.raises(NetworkError, match="its rows and columns must be at most 65535, not 2 x 80000"):
        Network({}, parse_operations(operations), 0.1)
    operations[1] = {"op": "repeat", "in": [0], "factors": [1, 2]}
    with pytest.raises(NetworkError, match="its rows and columns must be at most 65535, not 1 x 80000"):
        Network({}, parse_operations(operations), 0.1)
