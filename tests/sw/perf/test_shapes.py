from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from hw.config import PRESETS
from sw.compiler.graph import CompileError, Convolution
from sw.compiler.lowering import lower
from sw.compiler.weights import Weights, is_coded
from sw.format.layer import LayerError
from sw.network import NetworkError, read_network
from sw.perf.estimate import Network, estimate
from sw.perf.shapes import Shapes, ShapesError, read_workload

CONTAINER = Path(__file__).parents[3] / "experiments" / "containers" / "resnet20-mvq-4-16.msvq"
CONFIG = PRESETS["ews-cms-16"]
LAYER = {"name": "layer", "shape": [16, 16, 3, 3], "input": [16, 8, 8]}
NETWORK: list[dict[str, Any]] = [
    {"op": "input", "shape": [3, 8, 8]},
    {"op": "layer", "name": "first", "shape": [16, 3, 3, 3], "padding": 1, "raw": True},
    {"op": "layer", "name": "second", "shape": [16, 16, 3, 3], "padding": 1},
    {"op": "add", "in": [1, 2]},
    {"op": "average"},
    {"op": "flatten"},
    {"op": "logits", "name": "third", "kind": "linear", "shape": [10, 16, 1, 1]},
]


def test_shapes_of_a_container_are_its_estimate() -> None:
    """The same network, written as shapes."""
    network = read_network(CONTAINER)
    shape = (3, 32, 32)
    entries = []
    for operation in (op.to_dict() for op in network.operations):
        entry = {name: value for name, value in operation.items() if name not in ("layer", "multipliers", "multiplier")}
        entry.pop("range", None)
        entry.pop("shift", None)
        if "layer" in operation:
            layer = network.layers[operation["layer"]]
            entry |= {"name": layer.name, "kind": layer.kind, "shape": list(layer.shape), "raw": layer.method == "int8"}
            if layer.k:
                entry["k"] = layer.k
            entry |= {"stride": list(layer.stride), "padding": layer.padding[0]}
        entries.append(entry | ({"shape": list(shape)} if operation["op"] == "input" else {}))
    mine = estimate(Shapes(json.loads(json.dumps(entries))).network(CONFIG), CONFIG)
    assert mine == estimate(Network(lower(network, shape)), CONFIG)


@pytest.mark.parametrize("preset", ["ews-16", "ews-c-16", "ews-cms-16", "ews-ssvq-16", "ews-msvq-16"])
def test_layers_are_compressed_as_the_instance_has_it(preset: str) -> None:
    config = PRESETS[preset]
    graph = Shapes(NETWORK).network(config).graph
    coded = {x.name: is_coded(config, x) for x in graph.operations if isinstance(x, Convolution)}
    assert coded == {"first": False, "second": config.features.codebook, "third": False}


def test_digits_of_raw_layers() -> None:
    """Of 8 bits unless the file says fewer; on an array of raw weights, layers that are not raw have the array's."""

    def digits(preset: str, **fields: Any) -> int:
        config = PRESETS[preset]
        graph = Shapes([{**LAYER, **fields}]).network(config).graph
        (operation,) = (x for x in graph.operations if isinstance(x, Convolution))
        return Weights(config, operation, is_coded(config, operation)).digits

    assert [digits("ews-msvq4-16", raw=True, weight_bits=bits) for bits in (8, 6, 4, 2)] == [3, 2, 1, 1]
    assert (digits("ews-msvq4-16"), digits("ews-msvq4-16", raw=True)) == (1, 3)
    assert (digits("ews4-16"), digits("ews4-16", raw=True), digits("ews-16", raw=True)) == (1, 3, 1)


def test_instances_share_a_network() -> None:
    shapes = Shapes(NETWORK)
    assert shapes.network(CONFIG) is shapes.network(PRESETS["ews-cms-64"])
    assert shapes.network(CONFIG) is not shapes.network(PRESETS["ews-16"])


def test_layers_of_one_codebook_load_it_once() -> None:
    """512 codewords of 16 bytes."""
    entries = [{**LAYER, "name": name} for name in "ab"]
    own, shared = (
        [x.counters["dram_reads"] for x in estimate(Shapes(given).network(CONFIG), CONFIG)]
        for given in (entries, [{**entry, "codebook": "one"} for entry in entries])
    )
    assert own == [shared[0], shared[1] + 1024]


def test_padding_of_each_side() -> None:
    def output(**fields: Any) -> tuple[int, int, int]:
        graph = Shapes([{**LAYER, "raw": True, "stride": 2, **fields}]).network(CONFIG).graph
        return graph.values[-1].rows, graph.values[-1].columns, graph.operations[0].macs

    macs = 16 * 16 * 9
    assert output(padding=[[0, 1], [1, 0]]) == (4, 4, 16 * macs)
    assert output(padding=1) == (4, 4, 16 * macs)
    assert output(padding=[[2, 0], [0, 0]]) == (4, 3, 12 * macs)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({}, "shapes must be a list of objects and not empty"),
        ([], "shapes must be a list of objects and not empty"),
        ([1], "shapes must be a list of objects and not empty"),
        ([{"name": "layer", "shape": [16, 16, 3, 3]}], "layer 0: field 'input' is missing"),
        (
            [{**LAYER, "input": [16, 8]}],
            "layer 0: input must be three positive integers [C, rows, columns], not [16, 8]",
        ),
        ([{"shape": [1, 1, 1, 1], "input": [1, 1, 1]}], "layer 0: field 'name' is missing"),
        ([{**LAYER, "shape": [16, 16]}], "layer 0: shape must be four positive integers [K, C, R, S], not [16, 16]"),
        ([{**LAYER, "size": 3}], "layer 0: unknown field 'size'; the fields are name, shape, kind"),
        ([{**LAYER, "k": 513}], "layer 0: k must be an integer in 1..512, not 513"),
        ([{**LAYER, "raw": True, "weight_bits": 9}], "layer 0: weight_bits must be an integer in 2..8, not 9"),
        ([{**LAYER, "raw": 1}], "layer 0: raw must be true or false, not 1"),
        ([{**LAYER, "padding": [[0, 1], [0, 1]]}], "layer 0: only a raw layer's padding may differ from side to side"),
        ([NETWORK[1]], "operation 0: must be an input with its shape [C, rows, columns]"),
        ([{"op": "input"}, *NETWORK[1:]], "operation 0: must be an input with its shape [C, rows, columns]"),
        ([*NETWORK[:3], NETWORK[2]], "operation 3 (layer): name 'second' is taken"),
    ],
)
def test_what_is_no_shape_is_refused(entries: Any, message: str) -> None:
    with pytest.raises(ShapesError, match=re.escape(message)):
        Shapes(entries).network(CONFIG)


def test_what_contradicts_itself_is_refused() -> None:
    with pytest.raises(LayerError, match="layer 'layer': groups must be at least 1 and divide K = 16, not 3"):
        Shapes([{**LAYER, "groups": 3}]).network(CONFIG)
    with pytest.raises(
        NetworkError, match=re.escape("operation 3 (add): in must be 2 numbers of operations before it")
    ):
        Shapes([*NETWORK[:3], {"op": "add", "in": [1]}, *NETWORK[4:]]).network(CONFIG)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "network.json"
    path.write_text(json.dumps(NETWORK))
    assert estimate(read_workload(path).network(CONFIG), CONFIG) == estimate(Shapes(NETWORK).network(CONFIG), CONFIG)
    with pytest.raises(ShapesError, match="--image is for a container: shapes have an input"):
        read_workload(path, (3, 8, 8))
    path.write_text("[")
    with pytest.raises(ShapesError, match=r"network\.json: must be JSON: Expecting value"):
        read_workload(path)
    assert read_workload(CONTAINER).network(CONFIG).graph.values[0].rows == 32
    with pytest.raises(CompileError, match=re.escape("the image must be [3, 32, 32], as the network says")):
        read_workload(CONTAINER, (3, 64, 64))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "must be JSON: lists or objects are nested too deeply"),
        ('[{"a": ' * 50_000, "must be JSON: lists or objects are nested too deeply"),
        ('[{"op": "input", "op": "input"}]', "key 'op' must not be there twice"),
        ("[1e999]", "must be JSON: a number must be finite, not 1e999"),
        ("\udc80", "must be JSON"),
    ],
)
def test_files_that_are_no_json(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "shapes.json"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ShapesError, match=message):
        read_workload(path)


def test_a_layer_has_limited_weights() -> None:
    entry = {"name": "layer", "shape": [1 << 20, 1 << 20, 1, 1], "input": [1 << 20, 1, 1]}
    with pytest.raises(ShapesError, match="layer 0: shape must have at most 268435456 weights, not"):
        Shapes([entry]).network(CONFIG)


def test_layers_by_themselves_have_inputs_and_outputs_of_their_own() -> None:
    entry = {"name": "a", "shape": [16, 16, 3, 3], "input": [16, 8, 8]}
    graph = Shapes([entry, {**entry, "name": "b"}]).network(PRESETS["ews-16"]).graph
    assert graph.outputs == [operation.target for operation in graph.operations]
    assert len(graph.outputs) == len(graph.inputs) == 2


@pytest.mark.parametrize("size", [5, "abc", [1, 2], [16, 8, 0], [16, 8, True], [16, 8, 8, 1]])
def test_sizes_of_inputs_are_checked(size: Any) -> None:
    entry = {"name": "a", "shape": [16, 16, 3, 3], "input": size}
    with pytest.raises(ShapesError, match=r"layer 0: input must be three positive integers \[C, rows, columns\], not"):
        Shapes([entry]).network(PRESETS["ews-16"])
