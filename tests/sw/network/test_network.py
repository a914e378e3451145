"""A network as a whole: its outputs, its image, its file, and what a new operation needs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from hw.config import preset
from sw.compress.training.device import device_results, run_on_device
from sw.compress.training.integer import IntegerNetwork
from sw.format.container import read_container, write_container
from sw.network import (
    Network,
    NetworkError,
    Operation,
    Output,
    Value,
    operation_from_dict,
    parse_operations,
    read_network,
    write_network,
)
from sw.network.operation import Array, Tables
from sw.network.spatial import Add, Clamp, Input, Maximum
from tests.sw.networks import every_operation

IMAGES = np.random.default_rng(0).integers(-128, 128, (2, 3, 8, 6)).astype(np.int8)
OUTPUTS = (Output(3, "sum", 0.5), Output(1, "clamped"))


def network(**fields: Any) -> Network:
    operations = (
        Input(shape=(3, 8, 6)),
        Clamp(inputs=(0,), range=(-7, 40)),
        Maximum(inputs=(1,), kernel=(1, 1), stride=(1, 1), padding=(0, 0)),
        Add(inputs=(0, 2), multipliers=(1, 3), shift=2),
    )
    return Network({}, operations, 0.25, **fields)


def test_the_last_result_is_the_output() -> None:
    given = network()
    assert given.outputs == (Output(3, "add"),)
    assert given.default_outputs
    sums = IMAGES.astype(np.int64) + 3 * IMAGES.clip(-7, 40)
    assert np.array_equal(given.run(IMAGES), (np.sign(sums) * ((np.abs(sums) + 2) // 4)).clip(-128, 127))
    assert given.run(IMAGES).dtype == np.int8


def test_several_outputs(tmp_path: Path) -> None:
    given = network(outputs=OUTPUTS)
    assert not given.default_outputs
    total, clamped = given.results(IMAGES)
    assert np.array_equal(total, network().run(IMAGES))
    assert np.array_equal(clamped, IMAGES.clip(-7, 40))
    for found, expected in zip(device_results(given, torch.from_numpy(IMAGES)), (total, clamped), strict=True):
        assert np.array_equal(found.numpy(), expected)
    with pytest.raises(NetworkError, match="must have one output for this, not 'sum', 'clamped': ask for its results"):
        given.run(IMAGES)
    with pytest.raises(NetworkError, match="must have one output for this"):
        run_on_device(given, torch.from_numpy(IMAGES))
    write_network(tmp_path / "a", given)
    again = read_network(tmp_path / "a")
    assert (again.outputs, again.operations) == (given.outputs, given.operations)
    write_network(tmp_path / "b", again)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    write_network(tmp_path / "c", network())
    assert list(read_container(tmp_path / "c").metadata) == ["operations", "input_scale"]


def test_what_a_file_says_stays_with_copies_and_is_no_part_of_the_network(tmp_path: Path) -> None:
    given = dataclasses.replace(network(), operations=(Input(), *network().operations[1:]))
    about = {"classes": ["cat", "dog"], "derived": ["x"]}
    write_network(tmp_path / "said", given, metadata=about)
    again = read_network(tmp_path / "said")
    for found in (again, again.with_image((3, 4, 5)), dataclasses.replace(again), IntegerNetwork.of(again)):
        assert found.about == about
    assert "cat" not in repr(again)
    # Only who writes it says it.
    write_network(tmp_path / "given", given)
    write_network(tmp_path / "again", again)
    assert (tmp_path / "given").read_bytes() == (tmp_path / "again").read_bytes()
    assert not given.about
    assert not read_network(tmp_path / "again").about


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ((Output(4, "x"),), r"output 'x': value must be in 1\.\.3, not 4"),
        ((Output(3, "x"), Output(1, "x")), "each output must have a name of its own, not 2 times 'x'"),
        ((Output(3, "x"), Output(3, "y")), "each output must have a value of its own, not 2 times 3"),
        ((Output(1, "x"),), r"operation 3 \(add\): a later operation must read its result"),
    ],
)
def test_outputs_that_cannot_be(outputs: tuple[Output, ...], message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        network(outputs=outputs)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({}, r"outputs must be a list and not empty, not \{\}"),
        ([], r"outputs must be a list and not empty, not \[\]"),
        ([{"value": 3}], r"outputs must be objects of value, name and scale, not \{'value': 3\}"),
        ([{"value": 0, "name": "x", "scale": None}], "output 'x': value must be the number of an operation behind the"),
        ([{"value": True, "name": "x", "scale": None}], "output 'x': value must be the number of an operation"),
        ([{"value": 3, "name": "", "scale": None}], "output: name must be text and not empty, not ''"),
        ([{"value": 3, "name": "x", "scale": 0}], "output 'x': scale must be finite and positive, or None, not 0"),
        ([{"value": 3, "name": "x", "scale": "1"}], "output 'x': scale must be finite and positive, or None, not '1'"),
    ],
)
def test_outputs_of_a_file_that_cannot_be(entry: object, message: str, tmp_path: Path) -> None:
    operations = [op.to_dict() for op in network().operations]
    metadata = {"operations": operations, "input_scale": 0.25, "outputs": entry}
    write_container(tmp_path / "a", list(every_operation(np.random.default_rng(0), preset("ews-tiny")).layers.values()),
                    metadata=metadata)  # fmt: skip
    with pytest.raises(NetworkError, match=f"container .*: {message}"):
        read_network(tmp_path / "a")


def test_sizes_are_known_with_an_image() -> None:
    given = network()
    free = dataclasses.replace(given, operations=(Input(), *given.operations[1:]))
    assert [str(value) for value in free.values] == ["int8 [? x ? x ?]"] * 4
    assert free.image_shape is None
    with pytest.raises(NetworkError, match=r"the network must say the image's size, not int8 \[\? x \? x \?\]"):
        free.values[0].size  # noqa: B018
    assert np.array_equal(free.run(IMAGES), given.run(IMAGES))
    assert free.with_image((3, 8, 6)).values == given.values
    assert given.with_image((3, 8, 6)) is given
    with pytest.raises(NetworkError, match=r"the image must be \[3, 8, 6\], as the network says, not \[3, 8, 7\]"):
        given.with_image((3, 8, 7))
    with pytest.raises(NetworkError, match=r"images must be int8 \[batch x 3 x 8 x 6\], not int8 \[2, 3, 8, 5\]"):
        given.run(IMAGES[..., :5])


def test_scales_follow_what_changes_no_integer() -> None:
    assert [value.scale for value in network().values] == [0.25, None, None, None]


def test_operations_are_checked_wherever_they_come_from() -> None:
    with pytest.raises(NetworkError, match=r"^add: multipliers must be 2 integers in 0\.\.4194303, not \(1, -1\)$"):
        Add(inputs=(0, 0), multipliers=(1, -1), shift=0)
    with pytest.raises(NetworkError, match=r"operation 2 \(add\): in must be 2 numbers of operations .*, not \[1, 2\]"):
        Network({}, (Input(), Clamp(inputs=(0,), range=(0, 1)), Add(inputs=(1, 2), multipliers=(1, 1), shift=0)), 1.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        network().operations[3].shift = 3  # type: ignore[attr-defined]


def test_networks_for_tensors_take_arrays_too() -> None:
    given = IntegerNetwork.of(network())
    images = torch.from_numpy(IMAGES)
    for golden in (True, False):
        assert np.array_equal(given.run(images, golden=golden).numpy(), given.run(IMAGES))
    floats = torch.randn(2, 3, 8, 6)
    assert np.array_equal(given.quantise(floats).numpy(), given.quantise(floats.numpy()))


@dataclass(frozen=True, kw_only=True)
class Negative(Operation):
    """An operation of this test alone."""

    kind: ClassVar[str] = "negative of a test"

    def result(self, tables: Tables, *sources: Value) -> Value:
        return sources[0]

    def compute(self, tables: Tables, *values: Array) -> Array:
        return -values[0].clip(-127, 127)


def test_a_new_operation_is_a_class(tmp_path: Path) -> None:
    """Nothing but the class is needed to check it, write it, read it, and run it, on torch's devices as well."""
    given = network()
    given = dataclasses.replace(given, operations=(*given.operations, Negative(inputs=(3,))), outputs=())
    assert operation_from_dict({"op": "negative of a test", "in": [0]}, 1) == Negative(inputs=(0,))
    assert np.array_equal(given.run(IMAGES), -network().run(IMAGES).clip(-127, 127))
    assert np.array_equal(run_on_device(given, torch.from_numpy(IMAGES)).numpy(), given.run(IMAGES))
    write_network(tmp_path / "a", given)
    assert read_network(tmp_path / "a").operations == given.operations


def test_images_that_an_operation_cannot_take_are_refused_before_work() -> None:
    """Also where the network doesn't say their size, and at once where a result would not fit any memory."""
    many = [{"op": "repeat", "in": [number], "factors": [255, 255]} for number in range(2)]
    for entries, why in (
        (
            [{"op": "pixel_shuffle", "in": [0], "factor": 3}],
            r"operation 1 \(pixel_shuffle\): channels must be a multiple",
        ),
        (
            many,
            r"operation 2 \(repeat\): its result must have at most 268435456 values, not int8 \[4 x 65025 x 65025\]",
        ),
    ):
        network = Network({}, parse_operations([{"op": "input"}, *entries]), 0.05)
        with pytest.raises(NetworkError, match=why):
            network.results(np.zeros((1, 4, 1, 1), np.int8))
