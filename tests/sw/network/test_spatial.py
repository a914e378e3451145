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
from torch.nn.functional import avg_pool2d, max_pool1d, max_pool2d

from sw.compress.methods import CompressError
from sw.compress.training import integer
from sw.compress.training.device import run_on_device
from sw.compress.training.graph import calibrate, quantise_activations
from sw.compress.training.integer import export_integers
from sw.compress.training.modules import convert
from sw.format.container import write_container
from sw.format.example import random_layer
from sw.format.layer import CompressedLayer, Requantisation
from sw.network import Network, NetworkError, parse_operations, read_network, write_network
from sw.network.spatial import Average, Maximum, pooled_size


def given() -> tuple[dict[str, CompressedLayer], list[dict[str, Any]]]:
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
    return {layer.name: layer for layer in (stem, wide, classify)}, operations


def pooled() -> tuple[dict[str, CompressedLayer], list[dict[str, Any]]]:
    """Of the operations with optional fields."""
    layers, operations = given()
    window = {"kernel": [3, 2], "stride": 2, "padding": [1, 0]}
    operations[5:10] = [
        {"op": "range", "in": [4], "range": [-100, 100]},
        {"op": "pad", "in": [5], "padding": [1, 0, 0, 3]},
        {"op": "average", "in": [6], **window, "multiplier": 1 << 30, "shift": 32},
        {"op": "maximum", "in": [7], "kernel": 2, "stride": 2, "padding": 0, "ceil": True},
        {"op": "average", "in": [8], "multiplier": 1 << 30, "shift": 30},
    ]
    return layers, operations


def network(layers: dict[str, CompressedLayer], operations: object, scale: Any = 0.02) -> Network:
    return Network(layers, parse_operations(operations), scale)


IMAGES = np.random.default_rng(0).integers(-128, 128, (2, 3, 12, 10)).astype(np.int8)


def write_unchecked(path: Path, layers: dict[str, CompressedLayer], operations: object, scale: object = 0.02) -> None:
    write_container(path, list(layers.values()), metadata={"operations": operations, "input_scale": scale})


def test_each_kind_is_read_and_runs(tmp_path: Path) -> None:
    written = network(*given())
    assert {op.kind for op in written.operations} == {
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
    write_network(tmp_path / "network", written)
    restored = read_network(tmp_path / "network")
    assert restored.operations == written.operations
    assert not restored.in_steps
    logits = restored.run(IMAGES)
    assert logits.shape == (2, 5)
    assert np.array_equal(logits, run_on_device(restored, torch.from_numpy(IMAGES)).numpy())
    assert len(set(logits.flatten().tolist())) > 5


def test_windows_and_margins() -> None:
    layers, operations = pooled()
    whole = network(layers, operations)
    found = whole.run(IMAGES)
    assert found.shape == (2, 5)
    assert np.array_equal(found, run_on_device(whole, torch.from_numpy(IMAGES)).numpy())
    del operations[0]["shape"]
    assert np.array_equal(network(layers, operations).run(IMAGES), found)


@pytest.mark.parametrize("ceil", [False, True])
def test_pooling_is_that_of_torch(ceil: bool) -> None:
    """Windows of every kind, sums and largest values, beside torch's."""
    values = np.random.default_rng(1).integers(-128, 128, (2, 3, 9, 7)).astype(np.int8)
    for kernel, stride, padding in product(
        [(1, 1), (3, 2), (2, 5), (4, 4)], [(1, 1), (2, 3), (5, 1)], [(0, 0), (1, 1)]
    ):
        if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
            continue
        window: dict[str, Any] = {"kernel": kernel, "stride": stride, "padding": padding}
        largest = max_pool2d(torch.from_numpy(values).float(), kernel, stride, padding, ceil_mode=ceil).numpy()
        assert np.array_equal(Maximum(inputs=(0,), ceil=ceil, **window).compute(network(*given()), values), largest)
        if not ceil:
            total = avg_pool2d(torch.from_numpy(values).double(), kernel, stride, padding, divisor_override=1).numpy()
            op = Average(inputs=(0,), multiplier=1, shift=3, **window)
            expected = np.sign(total) * np.floor(np.abs(total) / 8 + 0.5)
            assert np.array_equal(op.compute(network(*given()), values), expected.clip(-128, 127))


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
    layers, operations = pooled()
    operations[number] |= change
    with pytest.raises(NetworkError, match=message):
        network(layers, operations)


def test_without_a_shape_channels_are_checked_still() -> None:
    layers, operations = given()
    del operations[0]["shape"]
    network(layers, operations)
    operations[4]["in"] = [0]
    operations[4]["layer"] = "stem"
    operations[9]["in"] = [6, 7]
    with pytest.raises(NetworkError, match=r"operation 9 \(add\): both .* not 6 x 1 x 1 and 4 x \? x \?"):
        network(layers, operations)


@pytest.mark.parametrize(
    ("number", "change", "message"),
    [
        (3, 3, "operation 3: must be an object with its name as 'op'"),
        (3, {"op": 3}, "operation 3: must be an object with its name as 'op'"),
        (3, {"op": "divide"}, "operation 3: op must be one of input, layer, logits, .*, not 'divide'"),
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
        (
            0,
            {"shape": [2, 12, 10]},
            r"operation 1 \(layer\): layer 'stem' must read int8 \[3 x .*, not int8 \[2 x 12 x 10\]",
        ),
        (
            0,
            {"shape": [3, 12, 1]},
            r"operation 4 \(layer\): the kernel of layer 'wide' must fit into the padded 12 x 1",
        ),
        (0, {"shape": [3, 60000, 60000]}, r"operation 0 \(input\): its result must have at most 268435456 values, not"),
        (5, {"op": "input", "shape": [6, 5, 4]}, r"operation 5 \(input\): .*unknown field 'in'"),
        (
            4,
            {"op": "logits", "layer": "classify"},
            r"operation 4 \(logits\): layer 'classify' must read int8 \[6\] or .*, not int8 \[4 x 12",
        ),
        (1, {"layer": "head"}, r"operation 1 \(layer\): layer must be the name of a layer of the file, not 'head'"),
        (1, {"layer": 1}, "layer must be the name of a layer of the file, not 1"),
        (1, {"layer": ["stem"]}, r"layer must be the name of a layer of the file, not \['stem'\]"),
        (
            1,
            {"layer": "wide"},
            r"operation 1 \(layer\): layer 'wide' must read int8 \[4 x .*, not int8 \[3 x 12",
        ),
        (1, {"layer": "classify"}, r"layer 'classify' must read int8 \[6\] or \[6 x T\], not int8 "),
        (11, {"in": [9]}, r"operation 11 \(logits\): layer 'classify' must read int8 \[6\] or \[6 x T\], not int8 "),
        (11, {"layer": "stem"}, r"layer 'stem' must read int8 \[3 x rows x columns\], not int8 \[6\]"),
        (11, {"range": [0, 1]}, r"operation 11 \(logits\): unknown field 'range'"),
        (
            10,
            {"in": [4]},
            r"operation 11 \(logits\): layer 'classify' must read int8 \[6\] or .*, not int8 \[120\]",
        ),
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
        (
            10,
            {"op": "flatten", "in": [5]},
            r"operation 11 \(logits\): layer 'classify' must read int8 \[6\] .*, not int8 \[180\]",
        ),
    ],
)
def test_each_fault_has_its_error(number: int, change: Any, message: str, tmp_path: Path) -> None:
    layers, operations = given()
    operations[number] = operations[number] | change if isinstance(change, dict) else change
    write_unchecked(tmp_path / "network", layers, operations)
    with pytest.raises(NetworkError, match=message) as caught:
        read_network(tmp_path / "network")
    assert str(caught.value).startswith(f"container {str(tmp_path / 'network')!r}: operation ")
    with pytest.raises(CompressError, match=message):
        integer.read_network(tmp_path / "network")


@pytest.mark.parametrize("name", ["op", "in", "layer", "kernel", "shift", "multiplier", "multipliers", "before"])
def test_missing_fields(name: str) -> None:
    layers, operations = given()
    number = next(i for i, op in enumerate(operations) if i and name in op)
    del operations[number][name]
    expected = "must be an object with its name" if name == "op" else f"field {name!r} is missing"
    with pytest.raises(NetworkError, match=rf"operation {number}.*{expected}"):
        network(layers, operations)


@pytest.mark.parametrize("operations", [[], None, {}, "input"])
def test_no_list(operations: object) -> None:
    with pytest.raises(NetworkError, match="operations must be a list and not empty"):
        parse_operations(operations)


def test_the_first_is_the_input() -> None:
    with pytest.raises(NetworkError, match=r"operation 0 \(flatten\): the first operation, and no other, must be the"):
        network({}, [{"op": "flatten", "in": [0]}])


def test_one_operation_is_not_enough() -> None:
    with pytest.raises(NetworkError, match=r"operation 0 \(input\): there must be an operation behind the input"):
        network({}, [{"op": "input"}])


def test_sums_of_too_many_values_are_refused() -> None:
    operations = [{"op": "input", "shape": [1, 5000, 5000]}, {"op": "average", "in": [0], "multiplier": 1, "shift": 0}]
    with pytest.raises(NetworkError, match=r"\(average\): it must sum at most 16777216 values, not 5000 x 5000"):
        network({}, operations)


def test_logits_have_one_scale() -> None:
    layers, operations = given()
    twos = Requantisation(np.zeros(5, np.int32), np.full(5, 2, np.int32), np.zeros(5, np.uint8))
    layers["classify"] = replace(layers["classify"], requantisation=twos)
    with pytest.raises(NetworkError, match=r"layer 'classify' must have one scale, multipliers of 1 and shifts of 0"):
        network(layers, operations)


def test_results_that_nothing_reads_are_refused() -> None:
    layers, operations = given()
    operations.insert(11, copy.deepcopy(operations[10]))
    with pytest.raises(NetworkError, match=r"operation 11 \(flatten\): a later operation must read its result"):
        network(layers, operations)


def test_layers_without_requantisation_are_refused() -> None:
    layers, operations = given()
    layers |= {"stem": replace(layers["stem"], requantisation=None)}
    with pytest.raises(NetworkError, match=r"operation 1 \(layer\): layer 'stem' must have a requantisation"):
        network(layers, operations)


@pytest.mark.parametrize("value", [0, -1.0, True, "1", None, 1e-40, 1e39, 10**400, float("nan")])
def test_scales_of_the_input(value: object) -> None:
    with pytest.raises(NetworkError, match="input_scale must be"):
        network(*given(), scale=value)


def test_a_file_with_a_bad_scale(tmp_path: Path) -> None:
    write_unchecked(tmp_path / "network", *given(), scale=-1.0)
    with pytest.raises(NetworkError, match=r"network': input_scale must be a number in .*, not -1.0"):
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
    assert exported.operations[0].to_dict() == {"op": "input", "shape": [3, 6, 6]}
