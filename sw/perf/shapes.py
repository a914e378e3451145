"""Networks for the estimate: a container of compressed layers, or shapes alone, from a JSON file.

A file of shapes is a list of operations, those of a container with the layers' shapes in them (``docs/program.md``):

    [{"op": "input", "shape": [3, 224, 224]},
     {"op": "layer", "name": "conv1", "shape": [64, 3, 7, 7], "stride": 2, "padding": 3, "raw": true},
     {"op": "maximum", "kernel": 3, "stride": 2, "padding": 1},
     ...]

or of layers by themselves, each with the shape of its input:

    [{"name": "qkv", "kind": "linear", "shape": [576, 192, 1, 1], "input": [192, 1, 197]}, ...]

Stride, padding and dilation are one number, or [rows, columns]; a raw layer's padding may be
[[top, bottom], [left, right]]. A layer is compressed as the instance has it, unless it is ``raw`` or its output
channels are no multiple of ``d``; it has a codebook of its own, or one with all layers of the same ``codebook``, and
``k`` codewords, those of the instance unless it says fewer. Weights of a layer that runs raw have 8 bits, or
``weight_bits``; where the array's are narrower, it takes as many digits as the greatest of them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from hw.config import AcceleratorConfig
from sw.compiler.graph import Graph, Value, convolution
from sw.compiler.lowering import lower
from sw.format.layer import CompressedLayer, Requantisation
from sw.format.strict_json import parse_json
from sw.network import Network as Integers
from sw.network import parse_operations, read_network
from sw.perf.estimate import Network

__all__ = ["Shapes", "ShapesError", "read_workload"]

_METHODS = {(False, False): "vq", (True, False): "mvq", (False, True): "ssvq", (True, True): "msvq"}
#: Most weights of a layer.
MAX_WEIGHTS = 1 << 28
_GEOMETRY = ("stride", "padding", "dilation")
_FIELDS = ("name", "shape", "kind", "groups", "raw", "weight_bits", "k", "codebook", "input", *_GEOMETRY)
#: What has no effect on cycles.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "add": {"multipliers": [1, 1], "shift": 0},
    "average": {"multiplier": 1, "shift": 0},
    "maximum": {"padding": 0},
}


class ShapesError(ValueError):
    """A file that holds no shapes. The message names the entry and what is allowed."""


def _pair(value: object) -> Any:
    return (value, value) if type(value) is int else tuple(value) if isinstance(value, list) else value


def _sides(padding: object) -> list[tuple[int, int]] | None:
    """Padding ``[[top, bottom], [left, right]]``; None if it is not of this form."""
    if not isinstance(padding, tuple) or len(padding) != 2:
        return None
    for pair in padding:
        if not isinstance(pair, list) or len(pair) != 2 or any(type(x) is not int or x < 0 for x in pair):
            return None
    return [(before, after) for before, after in padding]


def _layer(entry: Mapping[str, Any], place: str, config: AcceleratorConfig) -> CompressedLayer:
    """A layer of this shape as the instance takes it."""
    for name in ("name", "shape"):
        if name not in entry:
            raise ShapesError(f"{place}: field {name!r} is missing")
    unknown = [name for name in entry if name not in _FIELDS]
    if unknown:
        raise ShapesError(f"{place}: unknown field {unknown[0]!r}; the fields are {', '.join(_FIELDS)}")
    if type(entry.get("raw", False)) is not bool:
        raise ShapesError(f"{place}: raw must be true or false, not {entry['raw']!r}")
    shape = entry["shape"]
    if not isinstance(shape, list) or len(shape) != 4 or any(type(x) is not int or x < 1 for x in shape):
        raise ShapesError(f"{place}: shape must be four positive integers [K, C, R, S], not {shape!r}")
    if prod(shape) > MAX_WEIGHTS:
        raise ShapesError(f"{place}: shape must have at most {MAX_WEIGHTS} weights, not {shape!r}")
    K, features = shape[0], config.features
    fields: dict[str, Any] = {
        "name": entry["name"],
        "kind": entry.get("kind", "conv"),
        "groups": entry.get("groups", 1),
        "shape": tuple(shape),
        "scale": np.ones(1, np.float32),
        "requantisation": Requantisation(np.zeros(K, np.int32), np.ones(K, np.int32), np.zeros(K, np.uint8)),
        **{name: _pair(entry[name]) for name in _GEOMETRY if name in entry},
    }
    sides = _sides(fields.get("padding"))
    if sides is not None and not entry.get("raw", False):
        raise ShapesError(f"{place}: only a raw layer's padding may differ from side to side, not {entry['padding']!r}")
    if entry.get("raw", False) or not features.codebook or K % config.d:
        bits = entry.get("weight_bits", 8 if entry.get("raw", False) or features.codebook else config.weight_bits)
        if type(bits) is not int or not 2 <= bits <= 8:
            raise ShapesError(f"{place}: weight_bits must be an integer in 2..8, not {bits!r}")
        weights = np.ones(tuple(shape), np.int8)
        weights.reshape(-1)[0] = (1 << (bits - 1)) - 1
        if sides is not None:
            # As the compiler has it: a larger kernel, in which rows and columns are empty.
            more = [(max(after - before, 0), max(before - after, 0)) for before, after in sides]
            weights = np.pad(weights, [(0, 0), (0, 0), *more])
            fields |= {"shape": weights.shape, "padding": tuple(map(max, sides))}
        return CompressedLayer(method="int8", weights=weights, **fields)
    n, m = (config.N, config.M) if features.mask else (config.d, config.d)
    count = int(np.prod(shape)) // config.d
    if features.mask:
        fields["masks"] = np.broadcast_to(np.arange(config.d) % m < n, (count, config.d))
    if features.sign:
        fields["signs"] = np.broadcast_to(np.bool_(False), (count, config.d * n // m))
    k = entry.get("k", config.k)
    if type(k) is not int or not 1 <= k <= config.k:
        raise ShapesError(f"{place}: k must be an integer in 1..{config.k}, not {k!r}")
    # Layers of one codebook load it once.
    codebook = np.ones((k, config.d), np.int8)
    mark = sha256(str(entry.get("codebook", ("own", entry["name"]))).encode()).digest()[: codebook.size]
    codebook.reshape(-1)[: len(mark)] = [byte & (1 << (config.weight_bits - 1)) - 1 for byte in mark]
    return CompressedLayer(
        method=_METHODS[features.mask, features.sign],
        d=config.d,
        k=k,
        n=n,
        m=m,
        codebook=codebook,
        assignments=np.broadcast_to(np.int32(0), (count,)),
        **fields,
    )


class Shapes:
    """The shapes of a network, to be compressed as an instance has it.

    Parameters
    ----------
    entries
        Of a file.

    Raises
    ------
    ShapesError
        They are not a list of objects.
    """

    def __init__(self, entries: object) -> None:
        if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
            raise ShapesError("shapes must be a list of objects and not empty")
        self.entries: list[dict[str, Any]] = entries
        self._networks: dict[tuple[object, ...], Network] = {}

    def network(self, config: AcceleratorConfig) -> Network:
        """The network for an instance; instances with the same kind of codebook share it.

        Raises
        ------
        ShapesError, sw.format.layer.LayerError, sw.network.NetworkError, sw.compiler.graph.CompileError
            A layer is not one, or the operations contradict each other.
        """
        key = config.features, config.d, config.k, config.N, config.M, config.weight_bits
        if key not in self._networks:
            whole = "op" in self.entries[0]
            self._networks[key] = Network(
                self._operations(config) if whole else self._layers(config), shapes_alone=True
            )
        return self._networks[key]

    def _layers(self, config: AcceleratorConfig) -> Graph:
        """Layers that do not feed one another."""
        graph = Graph()
        for number, entry in enumerate(self.entries):
            place = f"layer {number}"
            if "input" not in entry:
                raise ShapesError(f"{place}: field 'input' is missing")
            size = entry["input"]
            if not isinstance(size, list) or len(size) != 3 or any(type(x) is not int or x < 1 for x in size):
                raise ShapesError(f"{place}: input must be three positive integers [C, rows, columns], not {size!r}")
            layer = _layer(entry, place, config)
            graph.inputs.append(graph.add(Value(f"input of {layer.name}", *size)))
            graph.operations.append(convolution(graph, layer, graph.inputs[-1], name=layer.name))
            graph.outputs.append(graph.operations[-1].target)
        return graph

    def _operations(self, config: AcceleratorConfig) -> Graph:
        """Operations that follow one another; ``in`` is the one before, unless they say."""
        layers: dict[str, CompressedLayer] = {}
        operations = []
        for number, entry in enumerate(self.entries):
            operation = dict(entry)
            kind = operation.pop("op", None)
            if kind in ("layer", "logits"):
                before = operation.pop("in", [number - 1])
                layer = _layer(operation, f"operation {number} ({kind})", config)
                if layer.name in layers:
                    raise ShapesError(f"operation {number} ({kind}): name {layer.name!r} is taken")
                layers[layer.name] = layer
                operation = {"layer": layer.name, "in": before}
            elif number:
                operation = {"in": [number - 1], **_DEFAULTS.get(str(kind), {}), **operation}
            operations.append({"op": kind, **operation})
        shape = operations[0].get("shape")
        if not isinstance(shape, list) or len(shape) != 3:
            raise ShapesError("operation 0: must be an input with its shape [C, rows, columns]")
        return lower(Integers(layers, parse_operations(operations), 1.0), (shape[0], shape[1], shape[2]))


class _Container:
    """A compressed network as it is."""

    def __init__(self, graph: Graph) -> None:
        self._network = Network(graph)

    def network(self, config: AcceleratorConfig) -> Network:
        """The network, the same for all instances: what one cannot decode runs raw."""
        return self._network


def read_workload(path: str | os.PathLike[str], image: tuple[int, int, int] | None = None) -> Shapes | _Container:
    """The network of a container, or the shapes of a ``.json`` file.

    Parameters
    ----------
    path
        Of the file.
    image
        ``[C, rows, columns]`` of a container's image, if not its own.

    Raises
    ------
    ShapesError
        A ``.json`` file that holds no shapes, or ``image`` for it.
    sw.format.container.ContainerError, sw.network.NetworkError, sw.compiler.graph.CompileError
        A container that is damaged, has no operations, or some that cannot run.
    OSError
        The file cannot be read.
    """
    if Path(path).suffix != ".json":
        network = read_network(path)
        shape = image or network.image_shape
        if shape is None:
            raise ShapesError(f"{os.fspath(path)}: the container does not say the image's size: name it by --image")
        return _Container(lower(network, shape))
    if image is not None:
        raise ShapesError("--image is for a container: shapes have an input")
    try:
        entries = parse_json(Path(path).read_bytes())
    except ValueError as error:
        raise ShapesError(f"{os.fspath(path)}: must be JSON: {error}") from None
    return Shapes(entries)
