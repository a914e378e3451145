from __future__ import annotations

import copy
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool1d

from sw.compress.methods import CompressError
from sw.compress.training.graph import calibrate, quantise_activations
from sw.compress.training.integer import IntegerNetwork, export_integers, read_network, write_network
from sw.compress.training.modules import convert
from sw.compress.training.operations import check_input_scale, check_operations, pooled_size
from sw.format.container import write_container
from sw.format.example import random_layer
from sw.format.layer import Requantisation


def network() -> IntegerNetwork:
    """One operation of each kind."""
    rng = np.random.default_rng(0)
    stem = random_layer(rng, "int8", (4, 3, 3, 3), name="stem", padding=(1, 1), requantised=True)
    wide = random_layer(rng, "int8", (6, 2, 3, 3), name="wide", stride=(2, 2), groups=2, requantised=True)
    ones = Requantisation(np.zeros(5, np.int32), np.ones(5, np.int32), np.zeros(5, np.uint8))
    classify = replace(random_layer(rng, "int8", (5, 6, 1, 1), name="classify", kind="linear"), requantisation=ones)
    operations: list[dict[str, Any]] = [
        {"op": "input", "shape": [3, 12, 10]},
        {"op": "layer", "in": [0], "layer": "stem", "range": [0, 127]},
        {"op": "maximum", "in": [1], "kernel": [3, 3], "stride": 1, "padding": 1},
        {"op": "add", "in": [1, 2], "multipliers": [1000, 4194303], "shift": 22},
        {"op": "layer", "in": [3], "layer": "wide"},
        {"op": "shortcut", "in": [3], "stride": 2, "before": 1, "after": 1},
        {"op": "average", "in": [5], "multiplier": 1 << 30, "shift": 34},
        {"op": "range", "in": [4], "range": [-5, 100]},
        {"op": "average", "in": [7], "multiplier": -(1 << 30), "shift": 34},
        {"op": "add", "in": [6, 8], "multipliers": [1 << 21, 1 << 21], "shift": 22},
        {"op": "flatten", "in": [9]},
        {"op": "logits", "in": [10], "layer": "classify"},
    ]
    return IntegerNetwork({layer.name: layer for layer in (stem, wide, classify)}, operations, 0.02)


def pooled() -> IntegerNetwork:
    """Of the operations with optional fields."""
    given = network()
    window = {"kernel": [3, 2], "stride": 2, "padding": [1, 0]}
    given.operations[5:10] = [
        {"op": "range", "in": [4], "range": [-100, 100]},
        {"op": "pad", "in": [5], "padding": [1, 0, 0, 3]},
        {"op": "average", "in": [6], **window, "multiplier": 1 << 30, "shift": 32},
        {"op": "maximum", "in": [7], "kernel": 2, "stride": 2, "padding": 0, "ceil": True},
        {"op": "average", "in": [8], "multiplier": 1 << 30, "shift": 30},
    ]
    return given


def write_unchecked(path: Path, given: IntegerNetwork) -> None:
    metadata = {"operations": given.operations, "input_scale": given.input_scale}
    write_container(path, list(given.layers.values()), metadata=metadata)


def test_each_kind_is_read_and_runs(tmp_path: Path) -> None:
    given = network()
    assert {op["op"] for op in given.operations} == {
        "input",
        "layer",
        "maximum",
        "add",
        "shortcut",
        "range",
        "average",
        "flatten",
        "logits",
    }
    write_network(tmp_path / "network", given)
    restored = read_network(tmp_path / "network")
    images = torch.from_numpy(np.random.default_rng(0).integers(-128, 128, (2, 3, 12, 10)).astype(np.int8))
    logits = restored.run(images)
    assert logits.shape == (2, 5)
    assert torch.equal(logits, restored.run(images, golden=False))
    assert len(set(logits.flatten().tolist())) > 5


def test_windows_and_margins() -> None:
    given = pooled()
    check_operations(given.operations, given.layers)
    images = torch.from_numpy(np.random.default_rng(0).integers(-128, 128, (2, 3, 12, 10)).astype(np.int8))
    assert given.run(images).shape == (2, 5)
    del given.operations[0]["shape"]
    check_operations(given.operations, given.layers)


@pytest.mark.parametrize("ceil", [False, True])
def test_pooled_size_is_that_of_torch(ceil: bool) -> None:
    for extent, kernel, stride, padding in product(range(1, 9), (1, 2, 3), (1, 2, 4), (0, 1)):
        if 2 * padding <= kernel <= extent + 2 * padding:
            expected = max_pool1d(torch.zeros(1, 1, extent), kernel, stride, padding, ceil_mode=ceil).shape[-1]
            assert pooled_size(extent, kernel, stride, padding, ceil=ceil) == expected


@pytest.mark.parametrize(
    ("number", "change", "message"),
    [
        (6, {"padding": [1, 1]}, r"operation 6 \(pad\): padding must be 4 integers in 0\.\.65535, not \[1, 1\]"),
        (6, {"padding": [0, 0, 0, -1]}, "padding must be 4 integers"),
        (6, {"padding": [65535, 0, 0, 0]}, "padded rows and columns must be at most 65535, not 655.. x"),
        (7, {"kernel": [13, 2]}, r"operation 7 \(average\): the kernel \[13, 2\] must fit into the padded"),
        (7, {"kernel": 4097}, "the kernel must have at most 16777216 values, not 4097 x 4097"),
        (7, {"padding": 2}, "padding must be at most half of the kernel"),
        (8, {"ceil": 1}, r"operation 8 \(maximum\): ceil must be true or false, not 1"),
        (9, {"kernel": 1}, r"operation 9 \(average\): kernel, stride and padding must be given together"),
        (9, {"ceil": True}, r"operation 9 \(average\): unknown field 'ceil'"),
    ],
)
def test_faults_of_windows_and_margins(number: int, change: dict[str, Any], message: str) -> None:
    given = pooled()
    given.operations[number] |= change
    with pytest.raises(CompressError, match=message):
        check_operations(given.operations, given.layers)


def test_without_a_shape_channels_are_checked_still() -> None:
    given = network()
    del given.operations[0]["shape"]
    check_operations(given.operations, given.layers)
    given.operations[4]["in"] = [0]
    given.operations[4]["layer"] = "stem"
    given.operations[9]["in"] = [6, 7]
    with pytest.raises(CompressError, match=r"operation 9 \(add\): both .* not 6 x 1 x 1 and 4 x \? x \?"):
        check_operations(given.operations, given.layers)


@pytest.mark.parametrize(
    ("number", "change", "message"),
    [
        (3, 3, "operation 3: must be an object with its name as 'op'"),
        (3, {"op": 3}, "operation 3: must be an object with its name as 'op'"),
        (3, {"op": "multiply"}, "operation 3: op must be one of input, layer, logits, .*, not 'multiply'"),
        (3, {"multipliers": None}, r"operation 3 \(add\): multipliers must be 2 integers in 0\.\.4194303, not None"),
        (3, {"multipliers": [1, 1 << 22]}, r"multipliers must be 2 integers in 0\.\.4194303, not \[1, 4194304\]"),
        (3, {"multipliers": [1, -1]}, "multipliers must be 2 integers"),
        (3, {"multipliers": [1, 1.0]}, "multipliers must be 2 integers"),
        (3, {"multipliers": [True, 1]}, "multipliers must be 2 integers"),
        (3, {"shift": 63}, r"operation 3 \(add\): shift must be an integer in 0\.\.62, not 63"),
        (3, {"shift": -1}, r"shift must be an integer in 0\.\.62, not -1"),
        (3, {"shift": "2"}, r"shift must be an integer in 0\.\.62, not '2'"),
        (3, {"in": [1]}, r"operation 3 \(add\): in must be 2 numbers of operations before it, 0\.\.2, not \[1\]"),
        (3, {"in": [1, 3]}, r"in must be 2 numbers of operations before it, 0\.\.2, not \[1, 3\]"),
        (3, {"in": [1, 9]}, "in must be 2 numbers of operations before it"),
        (3, {"in": [1, -1]}, "in must be 2 numbers of operations before it"),
        (3, {"in": [1, 1.0]}, "in must be 2 numbers of operations before it"),
        (3, {"in": "12"}, "in must be 2 numbers of operations before it"),
        (3, {"in": [0, 1]}, "both values must have the same shape, not 3 x 12 x 10 and 4 x 12 x 10"),
        (3, {"range": [4, -4]}, r"operation 3 \(add\): range must ascend, not \[4, -4\]"),
        (3, {"range": [-129, 0]}, r"range must be 2 integers in -128\.\.127, not \[-129, 0\]"),
        (3, {"range": [0, 0, 0]}, "range must be 2 integers"),
        (3, {"colour": 1}, r"operation 3 \(add\): unknown field 'colour'"),
        (0, {"range": [0, 127]}, r"operation 0 \(input\): unknown field 'range'"),
        (0, {"in": []}, r"operation 0 \(input\): unknown field 'in'"),
        (0, {"shape": [3, 12]}, r"operation 0 \(input\): shape must be 3 integers in 1\.\.65535, not \[3, 12\]"),
        (0, {"shape": [3, 0, 4]}, "shape must be 3 integers"),
        (0, {"shape": [2, 12, 10]}, r"operation 1 \(layer\): layer 'stem' must read 3 channels, not 2"),
        (
            0,
            {"shape": [3, 12, 1]},
            r"operation 4 \(layer\): the kernel of layer 'wide' must fit into the padded 12 x 1",
        ),
        (0, {"shape": [3, 60000, 60000]}, r"operation 6 \(average\): it must sum at most 16777216 values, not 30000 x"),
        (5, {"op": "input", "shape": [6, 5, 4]}, r"operation 5 \(input\): .*unknown field 'in'"),
        (4, {"op": "logits", "layer": "classify"}, r"operation 4 \(logits\): the last operation, and no other,"),
        (1, {"layer": "head"}, r"operation 1 \(layer\): layer must be the name of a layer of the file, not 'head'"),
        (1, {"layer": 1}, "layer must be the name of a layer of the file, not 1"),
        (1, {"layer": ["stem"]}, r"layer must be the name of a layer of the file, not \['stem'\]"),
        (1, {"layer": "wide"}, r"operation 1 \(layer\): layer 'wide' must read 4 channels, not 3"),
        (1, {"layer": "classify"}, "layer 'classify' must read what was flattened"),
        (11, {"in": [9]}, r"operation 11 \(logits\): layer 'classify' must read what was flattened"),
        (11, {"layer": "stem"}, r"layer 'stem' must have one scale, multipliers of 1 and shifts of 0"),
        (11, {"range": [0, 1]}, r"operation 11 \(logits\): unknown field 'range'"),
        (10, {"in": [4]}, r"operation 11 \(logits\): layer 'classify' must read 6 channels, not 120"),
        (2, {"kernel": 0}, r"operation 2 \(maximum\): kernel must be 2 integers in 1\.\.65535, not 0"),
        (2, {"kernel": [3]}, "kernel must be 2 integers"),
        (2, {"kernel": 65536}, "kernel must be 2 integers"),
        (2, {"stride": 0}, r"stride must be 2 integers in 1\.\.65535, not 0"),
        (2, {"padding": -1}, r"padding must be 2 integers in 0\.\.65535, not -1"),
        (2, {"padding": 2}, r"padding must be at most half of the kernel \[3, 3\], not \[2, 2\]"),
        (2, {"kernel": 13, "padding": 0}, r"the kernel \[13, 13\] must fit into the padded 12 x 10 values"),
        (2, {"kernel": None}, "kernel must be 2 integers"),
        (5, {"stride": 0}, r"operation 5 \(shortcut\): stride must be an integer in 1\.\.65535, not 0"),
        (5, {"before": -1}, r"before must be an integer in 0\.\.65535, not -1"),
        (5, {"after": 65536}, r"after must be an integer in 0\.\.65535, not 65536"),
        (
            8,
            {"multiplier": 2**31},
            r"operation 8 \(average\): multiplier must be an integer in -2147483648\.\.2147483647",
        ),
        (8, {"shift": 63}, r"shift must be an integer in 0\.\.62, not 63"),
        (10, {"op": "flatten", "in": [5]}, r"operation 11 \(logits\): layer 'classify' must read 6 channels, not 180"),
    ],
)
def test_each_fault_has_its_error(number: int, change: Any, message: str, tmp_path: Path) -> None:
    given = network()
    if isinstance(change, dict):
        given.operations[number] = given.operations[number] | change
    else:
        given.operations[number] = change
    write_unchecked(tmp_path / "network", given)
    with pytest.raises(CompressError, match=message) as caught:
        read_network(tmp_path / "network")
    assert str(caught.value).startswith(f"container {str(tmp_path / 'network')!r}: operation ")
    with pytest.raises(CompressError, match=message):
        write_network(tmp_path / "other", given)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", ["op", "in", "layer", "kernel", "shift", "multiplier", "multipliers", "before"])
def test_missing_fields(name: str) -> None:
    given = network()
    number = next(i for i, op in enumerate(given.operations) if i and name in op)
    del given.operations[number][name]
    expected = "must be an object with its name" if name == "op" else f"field {name!r} is missing"
    with pytest.raises(CompressError, match=rf"operation {number}.*{expected}"):
        check_operations(given.operations, given.layers)


@pytest.mark.parametrize("operations", [[], None, {}, "input"])
def test_no_list(operations: object) -> None:
    with pytest.raises(CompressError, match="operations must be a list and not empty"):
        check_operations(operations, {})


def test_the_first_is_the_input() -> None:
    with pytest.raises(CompressError, match=r"operation 0 \(flatten\): the first operation, and no other, must be the"):
        check_operations([{"op": "flatten", "in": [0]}], {})


def test_one_operation_is_not_enough() -> None:
    with pytest.raises(CompressError, match=r"operation 0 \(input\): the last operation, and no other, must be the"):
        check_operations([{"op": "input"}], {})


def test_results_that_nothing_reads_are_refused() -> None:
    given = network()
    given.operations.insert(11, copy.deepcopy(given.operations[10]))
    with pytest.raises(CompressError, match=r"operation 11 \(flatten\): a later operation must read its result"):
        check_operations(given.operations, given.layers)


def test_layers_without_requantisation_are_refused() -> None:
    given = network()
    layers = given.layers | {"stem": replace(given.layers["stem"], requantisation=None)}
    with pytest.raises(CompressError, match=r"operation 1 \(layer\): layer 'stem' must have a requantisation"):
        check_operations(given.operations, layers)


@pytest.mark.parametrize("value", [0, -1.0, True, "1", None, 1e-40, 1e39, 10**400, float("nan")])
def test_scales_of_the_input(value: object) -> None:
    with pytest.raises(CompressError, match="input_scale must be"):
        check_input_scale(value)


def test_a_file_with_a_bad_scale(tmp_path: Path) -> None:
    write_unchecked(tmp_path / "network", replace(network(), input_scale=-1.0))
    with pytest.raises(CompressError, match=r"network': input_scale must be in .*, not -1.0"):
        read_network(tmp_path / "network")


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.classify = nn.Conv2d(3, 3, 1), nn.Linear(12, 2)

    def forward(self, values: Tensor) -> Tensor:
        return self.classify(self.conv(self.conv(values).relu()).relu().flatten(1))


def test_a_layer_used_twice_is_two_layers_of_one_weight() -> None:
    torch.manual_seed(0)
    model, images = Twice().eval(), torch.randn(8, 3, 2, 2)
    expected = model(images)
    convert(model, [], progress=False)
    graph = quantise_activations(model, images)
    calibrate(graph, images)
    exported = export_integers(graph, (3, 2, 2))
    first, second = exported.layers["conv"], exported.layers["conv_call2"]
    assert np.array_equal(first.integer_weights(), second.integer_weights())
    assert not np.array_equal(first.requantisation.multiplier, second.requantisation.multiplier)
    logits = exported.run(exported.quantise(images)).double()
    ratio = (expected * logits).sum() / (logits**2).sum()
    assert (logits * ratio - expected).norm() / expected.norm() < 0.03


def test_exported_networks_say_the_shape_of_their_images() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    convert(model, [], progress=False)
    graph = quantise_activations(model, torch.randn(2, 3, 6, 6))
    calibrate(graph, torch.randn(2, 3, 6, 6))
    exported = export_integers(graph, (3, 6, 6))
    assert exported.operations[0] == {"op": "input", "shape": [3, 6, 6]}
    check_operations(exported.operations, exported.layers)
