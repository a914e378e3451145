"""The second backend of the interpreter gives the integers of the reference, bit for bit."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import numpy as np
import pytest
import torch

from hw.config import VARIANTS, preset
from sw.compress.training.integer import IntegerNetwork
from sw.format.layer import CompressedLayer, Requantisation
from sw.network import Network, NetworkError, Output, fast
from sw.network.fast import FastNetwork
from sw.network.spatial import Add, Flatten, Input, Layer, Logits
from tests.sw.networks import every_operation
from tests.sw.random_networks import random_instance, random_network
from tests.sw.steps import small_transformer


def pictures(shape: tuple[int, ...], count: int = 3, seed: int = 0) -> np.ndarray:
    """Random images, the first one of extremes alone."""
    found = np.random.default_rng(seed).integers(-128, 128, (count, *shape)).astype(np.int8)
    found[0] = np.where(found[0] > 0, 127, -128)
    return found


def check(network: Network, images: np.ndarray) -> np.ndarray:
    expected = network.results(images)
    for found, wanted in zip(FastNetwork(network).results(images), expected, strict=True):
        assert found.dtype == wanted.dtype
        assert np.array_equal(found, wanted)
    return expected[0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_operation(variant: str) -> None:
    network = every_operation(np.random.default_rng(0), preset(f"{variant}-tiny"))
    assert len(np.unique(check(network, pictures((3, 13, 15))))) > 10


def test_random_networks() -> None:
    run = 0
    for seed in range(40):
        network = random_network(seed, random_instance(random.Random(seed)))
        if network is not None:
            check(network, pictures(network.image_shape, seed=seed))
            run += 1
    assert run > 20


def test_transformers() -> None:
    network, images = small_transformer(preset("ews-tiny"))
    check(network, images)


def layer(
    shape: tuple[int, int, int, int], given: Requantisation, *, amplitude: int = 127, constant: int = 0, **fields: Any
) -> CompressedLayer:
    rng = np.random.default_rng(1)
    weights = rng.integers(-amplitude, amplitude + 1, shape).astype(np.int8)
    if constant:
        weights[...] = constant
    fields = {"kind": "conv", **fields}
    return CompressedLayer(
        name="x", shape=shape, method="int8", scale=np.ones(1, np.float32), weights=weights, requantisation=given,
        **fields,
    )  # fmt: skip


def alone(given: CompressedLayer, shape: tuple[int, int, int], *, flat: bool = False) -> Network:
    first = (Input(shape=shape), *([Flatten(inputs=(0,))] if flat else []))
    return Network({"x": given}, (*first, Layer(inputs=(len(first) - 1,), layer="x")), 1.0)


def fixed(K: int, multiplier: int, shift: int, bias: int = 0) -> Requantisation:
    return Requantisation(np.full(K, bias, np.int32), np.full(K, multiplier, np.int32), np.full(K, shift, np.uint8))


@pytest.mark.parametrize(
    ("multiplier", "shift", "bias"),
    [(1, 0, 0), (-1, 0, 3), (1, 1, 0), (-1, 1, 0), (3, 4, -7), (1, 7, 0), (-(1 << 31), 40, 5), ((1 << 31) - 1, 62, 0),
     ((1 << 31) - 1, 45, (1 << 31) - 1), (-(1 << 31), 62, -(1 << 31))],
)  # fmt: skip
def test_roundings_of_every_kind(multiplier: int, shift: int, bias: int) -> None:
    """Ties of both signs, no shift at all, and products that int64 does not hold."""
    images = np.arange(-128, 128).reshape(1, 1, 16, 16).astype(np.int8)
    check(alone(layer((1, 1, 1, 1), fixed(1, multiplier, shift, bias), constant=1), (1, 16, 16)), images)


@pytest.mark.parametrize(
    ("channels", "dtype"), [(256, np.float32), (300, np.float64), (35_000, None)], ids=["float32", "float64", "none"]
)
def test_sums_as_large_as_they_get(channels: int, dtype: Any) -> None:
    network = alone(layer((2, channels, 2, 2), fixed(2, 1 << 30, 53), constant=-128), (channels, 2, 2))
    prepared = FastNetwork(network).layer("x")
    assert prepared.dtype == dtype if dtype else not prepared.exact
    images = np.full((2, channels, 2, 2), -128, np.int8)
    images[1, :-1] = 127
    if dtype:
        check(network, images)
    else:
        with pytest.raises(ValueError, match="sums must fit int32"):
            FastNetwork(network).run(images)


@pytest.mark.parametrize(
    ("shape", "fields"),
    [
        ((6, 1, 3, 3), {"groups": 6, "padding": (1, 2), "stride": (2, 1)}),
        ((12, 1, 3, 2), {"groups": 6}),
        ((4, 3, 3, 3), {"groups": 2, "dilation": (2, 1), "padding": (2, 0)}),
        ((5, 6, 1, 1), {}),
        ((5, 6, 1, 1), {"stride": (3, 2)}),
        ((5, 6, 1, 1), {"padding": (1, 1)}),
        ((5, 6, 2, 5), {"padding": (3, 0), "stride": (1, 4)}),
    ],
)
def test_geometries(shape: tuple[int, int, int, int], fields: dict[str, Any]) -> None:
    given = layer(shape, fixed(shape[0], 1 << 30, 40), **fields)
    assert len(np.unique(check(alone(given, (6, 7, 9)), pictures((6, 7, 9))))) > 50


def test_additions() -> None:
    for shift, multipliers in ((0, (1, 1)), (1, (1, 2)), (22, (4194303, 4194303)), (30, (4194303, 1)), (31, (9, 9))):
        add = Add(inputs=(0, 0), multipliers=multipliers, shift=shift)
        network = Network({}, (Input(shape=(1, 16, 16)), add), 1.0)
        check(network, np.arange(-128, 128).reshape(1, 1, 16, 16).astype(np.int8))


def test_linear_layers_of_features_and_several_outputs() -> None:
    given = layer((5, 24, 1, 1), fixed(5, 1, 0, 77), kind="linear")
    operations = (Input(shape=(6, 2, 2)), Flatten(inputs=(0,)), Layer(inputs=(1,), layer="x"),
                  Logits(inputs=(1,), layer="x"))  # fmt: skip
    network = Network({"x": given}, operations, 1.0, outputs=(Output(3, "wide"), Output(2, "narrow")))
    images = pictures((6, 2, 2))
    for found, expected in zip(FastNetwork(network).results(images), network.results(images), strict=True):
        assert found.dtype == expected.dtype
        assert np.array_equal(found, expected)


def test_images_go_through_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    network = every_operation(np.random.default_rng(0), preset("ews-tiny"))
    images = pictures((3, 13, 15), 5)
    monkeypatch.setattr(fast, "_TOGETHER", 2 * max(value.size for value in network.with_image((3, 13, 15)).values))
    assert FastNetwork(network)._together((3, 13, 15)) == 2
    check(network, images)
    check(network, images[:0])


def test_tensors_of_a_cpu_go_through_it() -> None:
    network = IntegerNetwork.of(every_operation(np.random.default_rng(0), preset("ews-tiny")))
    images = pictures((3, 13, 15))
    assert np.array_equal(network.run(torch.from_numpy(images), golden=False).numpy(), network.run(images))
    with pytest.raises(NetworkError, match="images must be int8"):
        FastNetwork(dataclasses.replace(network)).run(images.astype(np.float32))
