"""Operations of transformers: sizes, refusals, and their arithmetic beside floats."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from sw.network import Network, NetworkError, Output, Value, parse_operations
from sw.network.tokens import RESIDUAL_LIMIT

RNG = np.random.default_rng(0)
CONSTANTS = {
    "positions": RNG.integers(-1000, 1000, (8, 6)).astype(np.int32),
    "far": np.full((8, 6), RESIDUAL_LIMIT + 1, np.int32),
    "gain": RNG.normal(20, 3, 8),
    "offset": RNG.normal(0, 5, 8),
    "nan": np.full(8, np.nan),
    "exponents": np.rint(127 * np.exp(-0.05 * np.arange(256))).astype(np.int8),
    "gelu": RNG.integers(-128, 128, 256).astype(np.int8),
}
INPUT: dict[str, Any] = {"op": "input", "shape": [8, 1, 5]}
#: A network of every operation but layers, of 8 channels, 5 pixels and a class token, and 2 heads.
STEPS: list[dict[str, Any]] = [
    INPUT,
    {"op": "embed", "in": [0], "factor": 100.5, "positions": "positions"},
    {"op": "layernorm", "in": [1], "gain": "gain", "offset": "offset", "epsilon": 0.5, "limit": 127},
    {"op": "split", "in": [2], "part": 0, "parts": 1, "heads": 2, "transposed": False},
    {"op": "split", "in": [2], "part": 0, "parts": 1, "heads": 2, "transposed": True},
    {"op": "matmul", "in": [3, 4], "name": "scores", "multiplier": 1 << 30, "shift": 39},
    {"op": "softmax", "in": [5], "table": "exponents"},
    {"op": "matmul", "in": [6, 3], "name": "shares"},
    {"op": "normalise", "in": [7, 6], "factor": 0.75},
    {"op": "gelu", "in": [8], "table": "gelu"},
    {"op": "residual", "in": [1, 9], "factor": 3.25},
    {"op": "layernorm", "in": [10], "gain": "gain", "offset": "offset", "epsilon": 0.5, "limit": 30000},
    {"op": "mean", "in": [11], "factor": 0.3},
]


def network(operations: object = STEPS, constants: Mapping[str, np.ndarray] = CONSTANTS) -> Network:
    return Network({}, parse_operations(operations), 1.0, constants)


def results(
    image: np.ndarray, operations: object = STEPS, constants: Mapping[str, np.ndarray] = CONSTANTS
) -> np.ndarray:
    return network(operations, constants).run(image[None])[0]


def test_products_are_those_of_integers() -> None:
    image = RNG.integers(-128, 128, (8, 1, 5)).astype(np.int8)
    a, b = results(image, STEPS[:4]), results(image, [*STEPS[:3], STEPS[4] | {"in": [2]}])
    sums = np.einsum("gct,gkc->gkt", a.astype(np.int64), b.astype(np.int64))
    assert np.array_equal(results(image, STEPS[:6]), np.rint(sums / 2**9).clip(-128, 127))
    wide = [*STEPS[:5], {"op": "matmul", "in": [3, 4], "name": "scores"}]
    assert np.array_equal(results(image, wide), sums)
    assert results(image, wide).dtype == np.int32


def test_kinds_are_those_of_the_results() -> None:
    kinds = network().values
    assert kinds[5] == Value("int8", (2, 6, 6))
    assert [kind.size for kind in kinds[6:8]] == [72, 192]
    image = RNG.integers(-128, 128, (8, 1, 5)).astype(np.int8)
    every = tuple(Output(number, str(number)) for number in range(1, len(STEPS)))
    for number, (found,) in enumerate(dataclasses.replace(network(), outputs=every).results(image[None]), 1):
        assert Value(found.dtype.name, found.shape) == kinds[number], STEPS[number]


def floats(image: np.ndarray) -> np.ndarray:
    """The same network in floats, written down once more."""
    stream = CONSTANTS["positions"].astype(np.float64)
    stream[:, 1:] += image.reshape(8, 5) * 100.5
    gain, offset = CONSTANTS["gain"][:, None], CONSTANTS["offset"][:, None]

    def norm(x: np.ndarray) -> np.ndarray:
        return (x - x.mean(0)) / np.sqrt(x.var(0) + 0.5) * gain + offset

    heads = norm(stream).reshape(2, 4, 6)
    scores = np.einsum("gct,gcu->gut", heads, heads) * 2.0**-9
    weights = np.exp(-0.05 * (scores.max(1, keepdims=True) - scores))
    mixed = np.einsum("gut,gcu->gct", weights / weights.sum(1, keepdims=True), heads).reshape(8, 6) * 0.75
    return mixed


def test_attention_is_that_of_floats() -> None:
    image = RNG.integers(-128, 128, (8, 1, 5)).astype(np.int8)
    found = results(image, STEPS[:9])
    assert np.abs(found - floats(image)).max() < 2.5
    assert np.abs(found - floats(image)).mean() < 0.6


def test_layernorm_to_the_last_bit() -> None:
    rng = np.random.default_rng(3)
    stream = rng.integers(-RESIDUAL_LIMIT, RESIDUAL_LIMIT + 1, (8, 6)).astype(np.int32)
    # Python's integers and one rounding for each operation are the definition.
    for c, t in np.ndindex(8, 6):
        token = [int(x) for x in stream[:, t]]
        total = sum(token)
        spread = 8 * sum(x * x for x in token) - total * total
        wanted = (8 * token[c] - total) / math.sqrt(spread + 64 * 0.5) * CONSTANTS["gain"][c] + CONSTANTS["offset"][c]
        embedded = [INPUT, {"op": "embed", "in": [0], "factor": 1.0, "positions": "stream"}, {**STEPS[2], "in": [1]}]
        found = results(np.zeros((8, 1, 5), np.int8), embedded, CONSTANTS | {"stream": stream})
        assert found[c, t] == np.clip(round(wanted), -128, 127)


def test_the_residual_stream_saturates() -> None:
    steps = [INPUT, {"op": "embed", "in": [0], "factor": 1e30, "positions": "positions"}]
    image = np.full((8, 1, 5), -128, np.int8)
    image[0] = 127
    stream = results(image, steps)
    assert (stream[0, 1:] == RESIDUAL_LIMIT).all()
    assert (stream[1:, 1:] == -RESIDUAL_LIMIT).all()
    assert (stream[:, 0] == CONSTANTS["positions"][:, 0]).all()


def test_heads_never_hold_the_value_that_sign_arrays_lack() -> None:
    image = np.full((8, 1, 5), -128, np.int8)
    steps = [{**INPUT}, {"op": "embed", "in": [0], "factor": 1.0, "positions": "positions"}]
    steps += [{**STEPS[2], "in": [1]}, {**STEPS[3], "in": [2]}]
    constants = CONSTANTS | {"gain": np.full(8, 1e9), "offset": np.zeros(8)}
    found = results(image, steps, constants)
    assert found.min() == -127
    before = results(image, steps[:3], constants)
    assert before.min() == -128


def test_token_is_one_column() -> None:
    image = RNG.integers(-128, 128, (8, 1, 5)).astype(np.int8)
    steps = [*STEPS[:2], {"op": "token", "in": [1], "number": 3}]
    assert network(steps).values[-1] == Value("int32", (8, 1))
    assert np.array_equal(results(image, steps)[:, 0], results(image, steps[:2])[:, 3])


def test_several_images_give_what_each_gives() -> None:
    images = RNG.integers(-128, 128, (3, 8, 1, 5)).astype(np.int8)
    together = network().run(images)
    for image, found in zip(images, together, strict=True):
        assert np.array_equal(found, results(image))


def test_no_images_give_no_results() -> None:
    assert network().run(np.zeros((0, 8, 1, 5), np.int8)).shape == (0, 8, 1)


def changed(number: int, **fields: Any) -> list[dict[str, Any]]:
    steps = copy.deepcopy(STEPS)
    steps[number] |= fields
    return steps


def without(number: int, name: str) -> list[dict[str, Any]]:
    steps = copy.deepcopy(STEPS)
    del steps[number][name]
    return steps


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        ([], "operations must be a list and not empty"),
        ({}, "operations must be a list and not empty"),
        ([1], "operation 0: must be an object with its name as 'op'"),
        (
            changed(9, op="swish"),
            "operation 9: op must be one of input, layer, .*, matmul, embed, .*, not 'swish'",
        ),
        (without(1, "factor"), r"operation 1 \(embed\): field 'factor' is missing"),
        (without(1, "in"), r"operation 1 \(embed\): field 'in' is missing"),
        (changed(1, more=1), r"operation 1 \(embed\): unknown field 'more'"),
        (STEPS[1:], r"operation 0 \(embed\): the first operation, and no other, must be the input"),
        ([INPUT, INPUT], r"operation 1 \(input\): the first operation, and no other, must be the input"),
        (changed(1, **{"in": [1]}), r"operation 1 \(embed\): in must be 1 numbers of operations before it, 0..0, not"),
        (changed(0, shape=[8, 1]), r"operation 0 \(input\): shape must be 3 integers in 1..65535, not \[8, 1\]"),
        (changed(0, shape=[8, 1, 0]), r"operation 0 \(input\): shape must be 3 integers in 1..65535, not"),
        (changed(1, factor=0), r"operation 1 \(embed\): factor must be finite and positive, not 0"),
        (changed(1, factor=float("inf")), r"operation 1 \(embed\): factor must be finite and positive, not inf"),
        (changed(1, positions="none"), r"positions must be the name of a constant of the file, not 'none'"),
        (changed(1, positions="gain"), r"positions must be int32 \[8 x 5\], not float64 \[8\]"),
        (changed(1, positions="far"), r"operation 1 \(embed\): positions must be within 1048575, not 1048576"),
        (changed(2, gain="nan"), r"operation 2 \(layernorm\): gain must be finite"),
        (changed(2, epsilon=-1), r"operation 2 \(layernorm\): epsilon must be finite and positive, not -1"),
        (changed(2, limit=0), r"operation 2 \(layernorm\): limit must be an integer in 1..1048575, not 0"),
        (changed(2, **{"in": [0]}), r"operation 2 \(layernorm\): it must read int32 \[C x T\], not int8 \[8 x 1 x 5\]"),
        (changed(3, part=1), r"operation 3 \(split\): part must be an integer in 0..0, not 1"),
        (changed(3, heads=3), r"operation 3 \(split\): parts x heads must divide 8 channels, not 1 x 3"),
        (changed(3, transposed=1), r"operation 3 \(split\): transposed must be true or false, not 1"),
        (without(5, "shift"), r"operation 5 \(matmul\): multiplier and shift must be given together"),
        (changed(5, shift=63), r"operation 5 \(matmul\): shift must be an integer in 0..62, not 63"),
        (changed(5, multiplier=1 << 31), r"operation 5 \(matmul\): multiplier must be an integer in -2147483648.."),
        (changed(5, name=""), r"operation 5 \(matmul\): name must be text and not empty, not ''"),
        (
            changed(5, **{"in": [3, 3]}),
            r"\(matmul\): it must read int8 \[G x C x T\] and \[G x K x C\], not int8 \[2 x",
        ),
        (changed(6, table="gelu"), r"operation 6 \(softmax\): table must be in 0..127 and begin with at least 1, not"),
        (changed(8, **{"in": [7, 4]}), r"operation 8 \(normalise\): both values must have the same heads and tokens"),
        (changed(9, **{"in": [1]}), r"operation 9 \(gelu\): it must read int8, not int32 \[8 x 6\]"),
        (
            changed(10, **{"in": [1, 3]}),
            r"operation 10 \(residual\): it must read int8 \[C x T\], not int8 \[2 x 4 x 6\]",
        ),
        ([*STEPS[:11], {"op": "mean", "in": [1], "factor": 1.0}], r"operation 10 \(residual\): a later operation must"),
        ([*STEPS[:2], {"op": "token", "in": [1], "number": 6}], r"\(token\): number must be an integer in 0..5, not 6"),
        ([INPUT, {"op": "layer", "in": [0], "layer": "x"}], r"layer must be the name of a layer of the file, not 'x'"),
        ([INPUT, {"op": "layer", "in": [0], "layer": 1}], r"operation 1 \(layer\): layer must be the name of a layer"),
        (
            [*STEPS[:2], {"op": "range", "in": [1], "range": [0, 1]}],
            r"\(range\): it must read int8, not int32 \[8 x 6\]",
        ),
        ([*STEPS[:2], {"op": "flatten", "in": [1]}], r"must read int8 \[C x rows x columns\], not int32 \[8 x 6\]"),
        ([{"op": "input"}, STEPS[1]], r"operation 0 \(input\): field 'shape' is missing"),
        (
            [{"op": "input", "shape": [65535, 65535, 1]}, {"op": "flatten", "in": [0]}],
            r"its result must have at most 268435456 values, not int8 \[",
        ),
    ],
)
def test_refusals(operations: object, message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        network(operations)


def test_residual_needs_one_shape() -> None:
    steps = [*STEPS[:2], {**STEPS[11], "in": [1], "limit": 127}, {"op": "mean", "in": [1], "factor": 1.0}]
    steps += [{"op": "residual", "in": [1, 3], "factor": 1.0}, {"op": "gelu", "in": [2], "table": "gelu"}]
    with pytest.raises(
        NetworkError, match=r"operation 4 \(residual\): both values must have one shape, not int32 \[8 x 6\]"
    ):
        network(steps)


def test_channels_of_layernorm_are_bounded() -> None:
    constants = CONSTANTS | {"positions": np.zeros((2049, 1), np.int32)}
    steps = [{"op": "input", "shape": [2049, 1, 1]}, STEPS[1], STEPS[2]]
    with pytest.raises(NetworkError, match=r"operation 2 \(layernorm\): it must read at most 2048 channels, not 2049"):
        network(steps, constants)


@pytest.mark.parametrize("images", [np.zeros((1, 8, 1, 5)), np.zeros((1, 8, 5, 1), np.int8), None])
def test_images_of_another_kind(images: Any) -> None:
    with pytest.raises(NetworkError, match=r"images must be int8 \[batch x 8 x 1 x 5\], not "):
        network().run(images)
