from __future__ import annotations

from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sw.format.example import random_layer
from sw.format.layer import CompressedLayer, Requantisation
from sw.golden import GoldenError, PsumOverflowError, check_psum_width, layer_sums, psum_bounds, requantise


def naive_sums(layer: CompressedLayer, image: NDArray[np.int8]) -> list[list[list[int]]]:
    """The definition of a convolution in Python integers."""
    K, C, R, S = layer.shape
    (tr, ts), (pr, ps), (er, es) = layer.stride, layer.padding, layer.dilation
    rows, columns = image.shape[1:]
    weights, x = layer.integer_weights().tolist(), image.tolist()
    E = (rows + 2 * pr - er * (R - 1) - 1) // tr + 1
    F = (columns + 2 * ps - es * (S - 1) - 1) // ts + 1
    sums = [[[0] * F for _ in range(E)] for _ in range(K)]
    for o, e, f, c, r, s in product(range(K), range(E), range(F), range(C), range(R), range(S)):
        y, z = e * tr + r * er - pr, f * ts + s * es - ps
        if 0 <= y < rows and 0 <= z < columns:
            sums[o][e][f] += weights[o][c][r][s] * x[o // (K // layer.groups) * C + c][y][z]
    return sums


GEOMETRIES: dict[str, tuple[tuple[int, int, int, int], dict[str, Any]]] = {
    "pointwise": ((8, 5, 1, 1), {}),
    "3x3": ((8, 3, 3, 3), {"padding": (1, 1)}),
    "stride": ((8, 3, 3, 3), {"stride": (2, 3), "padding": (1, 0)}),
    "even kernel": ((4, 3, 2, 4), {"padding": (0, 2)}),
    "dilation": ((4, 2, 3, 2), {"dilation": (2, 3), "padding": (2, 1), "stride": (1, 2)}),
    "groups": ((8, 2, 3, 3), {"groups": 2, "padding": (1, 1)}),
    "depthwise": ((8, 1, 3, 3), {"groups": 8, "stride": (2, 2)}),
    "padding beyond the kernel": ((4, 1, 1, 1), {"padding": (2, 3)}),
}


@pytest.mark.parametrize("method", ["int8", "mvq", "ssvq", "msvq"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_sums_equal_the_definition(geometry: str, method: str) -> None:
    shape, parts = GEOMETRIES[geometry]
    rng = np.random.default_rng(3)
    coding = {} if method == "int8" else {"d": 4, "k": 8} | ({"n": 2, "m": 4} if "m" in method[:2] else {})
    layer = random_layer(rng, method, shape, **coding, **parts)
    images = rng.integers(-128, 128, (2, shape[1] * layer.groups, 7, 6)).astype(np.int8)
    images[0, :, :3] = -128
    sums = layer_sums(layer, images)
    assert sums.dtype == np.int32
    for image, result in zip(images, sums, strict=True):
        assert result.tolist() == naive_sums(layer, image)
        assert np.array_equal(layer_sums(layer, image), result)


def test_linear() -> None:
    rng = np.random.default_rng(0)
    layer = random_layer(rng, "mvq", (8, 12, 1, 1), d=4, k=8, n=2, m=4, kind="linear")
    batch = rng.integers(-128, 128, (3, 12)).astype(np.int8)
    expected = batch.astype(np.int64) @ layer.integer_weights().reshape(8, 12).T.astype(np.int64)
    assert np.array_equal(layer_sums(layer, batch), expected)
    assert np.array_equal(layer_sums(layer, batch[1]), expected[1])
    assert np.array_equal(layer_sums(layer, batch[1][:, None, None]), expected[1][:, None, None])


@pytest.mark.parametrize(("channels", "extreme"), [(1024, 1 << 24), (1025, 1025 << 14), (131071, 131071 << 14)])
def test_sums_at_the_limits_of_float32_and_int32(channels: int, extreme: int) -> None:
    weights = np.full((2, channels, 1, 1), -128, np.int8)
    weights[1, 0] = -127
    layer = CompressedLayer("deep", "linear", weights.shape, "int8", np.ones(1, np.float32), weights=weights)
    activations = np.full(channels, -128, np.int8)
    assert layer_sums(layer, activations).tolist() == [extreme, extreme - 128]
    # An odd sum, which float32 does not have beyond 2**24.
    activations[0] = -127
    assert layer_sums(layer, activations).tolist() == [extreme - 128, extreme - (1 << 14) + 127 * 127]
    activations[0], activations[-1] = -128, 1
    assert layer_sums(layer, activations).tolist() == [extreme - (1 << 14) - 128, extreme - (1 << 14) - 256]


def test_sums_beyond_int32_are_refused_and_others_of_that_layer_are_not() -> None:
    weights = np.full((1, 1 << 17, 1, 1), -128, np.int8)
    layer = CompressedLayer("deep", "linear", weights.shape, "int8", np.ones(1, np.float32), weights=weights)
    with pytest.raises(GoldenError, match=r"layer 'deep': sums must fit int32, not 2147483648"):
        layer_sums(layer, np.full(1 << 17, -128, np.int8))
    assert layer_sums(layer, np.full(1 << 17, 1, np.int8)).tolist() == [-(1 << 24)]


@pytest.mark.parametrize(
    ("activations", "message"),
    [
        pytest.param(np.zeros((3, 8, 8), np.int16), "layer 'random': activations must be int8, not int16", id="dtype"),
        pytest.param([[[0]]], "activations must be int8, not list", id="list"),
        pytest.param(np.zeros((4, 8, 8), np.int8), "activations must have 3 channels, not 4", id="channels"),
        pytest.param(
            np.zeros(3, np.int8),
            r"activations must be \[C, rows, columns\] or \[batch, C, rows, columns\], not 1 axes",
            id="vector for a convolution",
        ),
        pytest.param(np.zeros((1, 1, 3, 8, 8), np.int8), r"activations must be .*, not 5 axes", id="five axes"),
        pytest.param(np.zeros((3, 2, 8), np.int8), "padded input must have at least 5 rows, not 4", id="rows"),
        pytest.param(np.zeros((3, 8, 1), np.int8), "padded input must have at least 2 columns, not 1", id="columns"),
    ],
)
def test_sums_refuse(activations: Any, message: str) -> None:
    layer = random_layer(np.random.default_rng(0), "vq", (4, 3, 3, 2), d=4, k=4, padding=(1, 0), dilation=(2, 1))
    with pytest.raises(GoldenError, match=message):
        layer_sums(layer, activations)


def exact(total: int, bias: int, multiplier: int, shift: int) -> int:
    value = Fraction((total + bias) * multiplier, 1 << shift)
    rounded = int(abs(value) + Fraction(1, 2))
    return max(-128, min(127, rounded if value >= 0 else -rounded))


def test_requantise_is_exact() -> None:
    rng = np.random.default_rng(0)
    edge = [-(1 << 31), -(1 << 31) + 1, -1, 0, 1, 2, 3, (1 << 31) - 1]
    cases = list(product(edge, edge, edge, [0, 1, 2, 31, 32, 55, 56, 61, 62]))
    for _ in range(4000):
        total, bias, multiplier = (int(x) >> int(rng.integers(32)) for x in rng.integers(-(1 << 31), 1 << 31, 3))
        cases.append((total, bias, multiplier, int(rng.integers(63))))
    # Halves, on both sides of zero and one below and above.
    for half, shift, near, sign in product(range(0, 130), (1, 7, 20), (-1, 0, 1), (-1, 1)):
        cases.append((sign * (((2 * half + 1) << (shift - 1)) + near), 0, 1, shift))
    total, bias, multiplier, shift = (np.array(column) for column in zip(*cases, strict=True))
    requantisation = Requantisation(bias.astype(np.int32), multiplier.astype(np.int32), shift.astype(np.uint8))
    result = requantise(total.astype(np.int32), requantisation)
    assert result.dtype == np.int8
    expected = [exact(*case) for case in cases]
    assert result.tolist() == expected
    assert len(set(expected)) == 256


def test_requantise_corner_beyond_int64() -> None:
    lowest = np.array([-(1 << 31)], np.int32)
    for shift, value in ((56, 127), (57, 64), (62, 2)):
        requantisation = Requantisation(lowest, lowest, np.array([shift], np.uint8))
        assert requantise(lowest, requantisation).tolist() == [value]


def test_requantise_goes_by_channel() -> None:
    rng = np.random.default_rng(1)
    layer = random_layer(rng, "vq", (8, 4, 1, 1), d=4, k=8, requantised=True)
    assert layer.requantisation is not None
    sums = rng.integers(-(1 << 16), 1 << 16, (3, 8, 2, 5)).astype(np.int32)
    result = requantise(sums, layer.requantisation)
    channel = [
        part[5] for part in (layer.requantisation.bias, layer.requantisation.multiplier, layer.requantisation.shift)
    ]
    assert result[1, 5, 0, 4] == exact(int(sums[1, 5, 0, 4]), *map(int, channel))
    assert np.array_equal(requantise(sums[1], layer.requantisation), result[1])
    assert np.array_equal(requantise(sums[:, :, 1, 2], layer.requantisation), result[:, :, 1, 2])
    assert np.array_equal(requantise(sums[2, :, 1, 2], layer.requantisation), result[2, :, 1, 2])


@pytest.mark.parametrize(
    ("sums", "message"),
    [
        pytest.param(np.zeros((2, 2, 2), np.int64), "sums must be int32, not int64", id="dtype"),
        pytest.param([0, 0], "sums must be int32, not list", id="list"),
        pytest.param(np.zeros((3, 2, 2), np.int32), "sums must have 2 channels, not 3", id="channels"),
        pytest.param(np.zeros((2, 3), np.int32), "sums must have 2 channels, not 3", id="channels of a batch"),
        pytest.param(np.zeros((), np.int32), "sums must have 1 to 4 axes, not 0", id="axes"),
    ],
)
def test_requantise_refuses(sums: Any, message: str) -> None:
    requantisation = Requantisation(np.zeros(2, np.int32), np.ones(2, np.int32), np.zeros(2, np.uint8))
    with pytest.raises(GoldenError, match=message):
        requantise(sums, requantisation)
    with pytest.raises(GoldenError, match="requantisation must be a Requantisation, not None"):
        requantise(np.zeros(2, np.int32), None)  # type: ignore[arg-type]


def small_layer(weights: list[int]) -> CompressedLayer:
    tensor = np.array([[0] * len(weights), weights], np.int8)[:, :, None, None]
    return CompressedLayer("small", "linear", tensor.shape, "int8", np.ones(1, np.float32), weights=tensor)


@pytest.mark.parametrize("weights", [[1], [-1], [-128, 3, 5], [127, -128, 0], [2, 2, 2], [-3, -4]])
def test_psum_bounds_are_reached_and_never_passed(weights: list[int]) -> None:
    layer = small_layer(weights)
    low, high = (int(bound[1]) for bound in psum_bounds(layer))
    partial = {0}
    for weight in weights:
        partial |= {total + weight * x for total in partial for x in (-128, 0, 127)}
    assert (low, high) == (min(partial), max(partial))
    bits = next(bits for bits in range(2, 40) if -(1 << (bits - 1)) <= low and high < 1 << (bits - 1))
    check_psum_width(layer, bits)
    with pytest.raises(PsumOverflowError, match=r"layer 'small': output channel 1 reaches partial sums of -?\d+"):
        check_psum_width(layer, bits - 1)


@pytest.mark.parametrize("activations", [(0, 127), (-128, 0), (-3, 90), (5, 20), (-7, -2)])
def test_psum_bounds_of_a_range_of_activations(activations: tuple[int, int]) -> None:
    weights = [3, -5, 127, -128, 0]
    low, high = (int(bound[1]) for bound in psum_bounds(small_layer(weights), activations))
    # Padding gives 0 wherever it lies; a sum over some of the positions is a sum with 0 at the others.
    ends = (*activations, 0)
    assert low == sum(min(weight * end for end in ends) for weight in weights)
    assert high == sum(max(weight * end for end in ends) for weight in weights)


@pytest.mark.parametrize("activations", [(3, 2), (-129, 0), (0, 128), (0.0, 1)])
def test_ranges_of_activations_are_checked(activations: tuple[int, int]) -> None:
    with pytest.raises(GoldenError, match=r"activations must be two integers that ascend in -128\.\.127"):
        psum_bounds(small_layer([1]), activations)


def test_a_range_of_one_activation_is_a_range() -> None:
    low, high = psum_bounds(small_layer([3]), (5, 5))
    assert (low[1], high[1]) == (0, 15)


@pytest.mark.parametrize(
    ("count", "remedy"), [(1 << 16, "psum_width must be at least 32"), (1 << 17, "no psum_width holds them")]
)
def test_psum_message_knows_the_widest_psum(count: int, remedy: str) -> None:
    with pytest.raises(PsumOverflowError, match=f"of 24 bits; {remedy}"):
        check_psum_width(small_layer([-128] * count), 24)


def test_psum_message_and_limits() -> None:
    # 128 * 8 = 1024 is one too many for 11 bits, -1024 just fits.
    check_psum_width(small_layer([8]), 11)
    with pytest.raises(
        PsumOverflowError,
        match=r"layer 'small': output channel 1 reaches partial sums of 1024, beyond -1024\.\.1023 of 11 bits; "
        "psum_width must be at least 12",
    ):
        check_psum_width(small_layer([-8]), 11)
    for bits in (1, 33, 24.0):
        with pytest.raises(GoldenError, match=rf"bits must be in 2\.\.32, not {bits}"):
            check_psum_width(small_layer([1]), bits)  # type: ignore[arg-type]
