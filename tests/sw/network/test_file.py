"""Networks of accelerator and host: their container, their constants, their reference."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hw.config import preset
from sw.format.container import read_container, write_container
from sw.golden import layer_sums, requantise
from sw.network import Network, NetworkError, Operation, read_network, write_network
from sw.network.file import decode_constants, encode_constants
from sw.network.spatial import Input, Layer
from tests.sw.steps import small_transformer

CONFIG = preset("ews-msvq-tiny")


@pytest.fixture(scope="module")
def given() -> tuple[Network, np.ndarray]:
    return small_transformer(CONFIG)


def test_written_and_read_again(given: Any, tmp_path: Path) -> None:
    network, images = given
    for name in "ab":
        write_network(tmp_path / name, network)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert list(read_container(tmp_path / "a").metadata) == ["steps", "constants", "input_scale"]
    again = read_network(tmp_path / "a")
    assert again.in_steps
    assert again.operations == network.operations
    assert again.input_scale == network.input_scale
    for found, expected in zip(again.run(images[:1]), network.run(images[:1]), strict=True):
        assert np.array_equal(found, expected)


def test_layers_are_golden(given: Any) -> None:
    network, images = given
    first = dataclasses.replace(network, operations=network.operations[:2], outputs=())
    layer = network.layers["patch_embed.proj"]
    assert layer.requantisation is not None
    assert np.array_equal(first.run(images[:1])[0], requantise(layer_sums(layer, images[0]), layer.requantisation))


def test_images_are_rounded_half_to_even_and_clamped(given: Any) -> None:
    network = dataclasses.replace(given[0], input_scale=0.25)
    values = np.zeros((1, 3, 8, 8), np.float32)
    values.reshape(-1)[:5] = [0.125, 0.375, -0.625, 100, -100]
    assert network.quantise(values)[0].reshape(-1)[:6].tolist() == [0, 2, -2, 127, -128, 0]


def test_constants_to_json_and_back() -> None:
    constants = {
        "a": np.arange(6, dtype=np.int8).reshape(2, 3),
        "b": np.array([1 << 30], np.int32),
        "c": np.ones(2) / 3,
    }
    again = decode_constants(encode_constants(constants))
    assert again.keys() == constants.keys()
    for name, values in constants.items():
        assert again[name].dtype == values.dtype
        assert np.array_equal(again[name], values)


ENTRY = {"dtype": "int8", "shape": [3], "data": "AAAA"}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "constants must be an object, not list"),
        ({"a": 1}, "constant 'a': must be an object of dtype, shape and data"),
        ({"a": ENTRY | {"more": 1}}, "constant 'a': must be an object of dtype, shape and data"),
        ({"a": ENTRY | {"dtype": "int16"}}, "constant 'a': dtype must be one of int8, int32, float64, not 'int16'"),
        ({"a": ENTRY | {"dtype": []}}, "constant 'a': dtype must be one of int8, int32, float64, not []"),
        ({"a": ENTRY | {"shape": [0]}}, "constant 'a': shape must be positive integers, not [0]"),
        ({"a": ENTRY | {"data": "%"}}, "constant 'a': data must be base64"),
        ({"a": ENTRY | {"data": 1}}, "constant 'a': data must be base64"),
        ({"a": ENTRY | {"shape": [2]}}, "constant 'a': data must be 2 bytes, not 3"),
    ],
)
def test_constants_that_cannot_be(value: object, message: str) -> None:
    with pytest.raises(NetworkError) as caught:
        decode_constants(value)
    assert str(caught.value).startswith(message)


def test_containers_of_other_networks(given: Any, tmp_path: Path) -> None:
    network, _ = given
    layers = list(network.layers.values())
    write_container(tmp_path / "a", layers)
    with pytest.raises(NetworkError, match=r"container .*: it must hold a network's operations, not layers alone"):
        read_network(tmp_path / "a")
    write_container(tmp_path / "a", layers, metadata={"steps": [], "input_scale": 1.0})
    with pytest.raises(NetworkError, match=r"container .*: it must hold a network, but 'constants' is missing"):
        read_network(tmp_path / "a")
    metadata = {"steps": [{"op": "swish"}], "constants": {}, "input_scale": 1.0}
    write_container(tmp_path / "a", layers, metadata=metadata)
    with pytest.raises(NetworkError, match=r"container .*: operation 0: op must be one of .* not 'swish'"):
        read_network(tmp_path / "a")


def changed(network: Network, name: str, **fields: Any) -> dict[str, Any]:
    return {**network.layers, name: dataclasses.replace(network.layers[name], **fields)}


@pytest.mark.parametrize("scale", [0, -1.0, True, "1", None, 1e39])
def test_scales_of_the_input(given: Any, scale: Any) -> None:
    with pytest.raises(NetworkError, match="input_scale must be a number in "):
        dataclasses.replace(given[0], input_scale=scale)


def test_layers_that_do_not_fit(given: Any) -> None:
    network, _ = given
    with pytest.raises(
        NetworkError, match=r"operation 1 \(layer\): layer 'patch_embed.proj' must have a requantisation"
    ):
        dataclasses.replace(network, layers=changed(network, "patch_embed.proj", requantisation=None))
    given_head = network.layers["head"].requantisation
    shifted = dataclasses.replace(given_head, shift=given_head.shift + 1)
    with pytest.raises(NetworkError, match="layer 'head' must have one scale, multipliers of 1 and shifts of 0"):
        dataclasses.replace(network, layers=changed(network, "head", requantisation=shifted))
    first, layer = network.operations[:2]

    def cut(*operations: Operation) -> Network:
        return dataclasses.replace(network, operations=operations, outputs=())

    with pytest.raises(NetworkError, match=r"operation 1 \(layer\): the kernel of layer .* must fit into .* 3 x 3 val"):
        cut(Input(shape=(3, 3, 3)), layer)
    with pytest.raises(NetworkError, match=r"must read int8 \[3 x rows x columns\], not int8 \[2 x 8 x 8\]"):
        cut(Input(shape=(2, 8, 8)), layer)
    with pytest.raises(NetworkError, match=r"layer 'head' must read int8 \[16\] or \[16 x T\], not int8 \[3 x 8 x 8\]"):
        cut(first, Layer(inputs=(0,), layer="head"))
