"""A quantised graph as a network in integers: batch norm folded, scales as multipliers and shifts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn import functional

from sw.compress.export.scales import MAX_BIAS, fixed_point, requantisation
from sw.compress.methods import CompressError
from sw.compress.training.graph import arguments, operation, place
from sw.compress.training.layers import DecodedConv2d, DecodedLinear, compressed_layers
from sw.compress.training.quant import ActivationQuantiser
from sw.format.layer import CompressedLayer, Requantisation
from sw.network import Network, NetworkError, Operation
from sw.network.spatial import (
    ADD_BITS,
    Add,
    Average,
    Clamp,
    Flatten,
    Input,
    Layer,
    Logits,
    Maximum,
    Pad,
    Shortcut,
    pooled_size,
)

__all__ = ["export_network"]

#: Operations of a graph that are exact, and have one and the same form in integers.
_EXACT: Mapping[str, type[Operation]] = {"maximum": Maximum, "pad": Pad, "shortcut": Shortcut, "flatten": Flatten}


@dataclass
class _Pending:
    """An operation whose output is not int8 yet: ``gain * integer + offset`` in float, clamped to low..high."""

    make: type[Operation]
    inputs: tuple[int, ...]
    fields: dict[str, Any]
    gain: NDArray[np.float64]
    offset: NDArray[np.float64]
    low: float = -math.inf
    high: float = math.inf


@dataclass
class _Exporter:
    graph: fx.GraphModule
    layers: dict[str, CompressedLayer]
    sizes: dict[str, tuple[int, ...]]
    image_shape: tuple[int, int, int]
    operations: list[Operation] = field(default_factory=list)
    # Number and scale of each int8 value.
    done: dict[fx.Node, tuple[int, float]] = field(default_factory=dict)
    pending: dict[fx.Node, _Pending] = field(default_factory=dict)
    input_scale: float = 0.0

    def emit(self, node: fx.Node, scale: float, op: Operation) -> None:
        self.operations.append(op)
        self.done[node] = len(self.operations) - 1, scale

    def value(self, node: Any, reader: fx.Node) -> tuple[int, float]:
        if node not in self.done:
            raise CompressError(f"{place(reader)} must read int8, but no quantiser comes before it")
        return self.done[node]

    def add_node(self, node: fx.Node) -> None:
        kind = operation(self.graph, node)
        source: Any = node.args[0] if node.args else None
        module = self.graph.get_submodule(str(node.target)) if node.op == "call_module" else None
        if kind == "input":
            self.pending[node] = _Pending(Input, (), {"shape": self.image_shape}, np.ones(1), np.zeros(1))
        elif kind == "layer":
            assert isinstance(module, DecodedConv2d | DecodedLinear)
            number, scale = self.value(source, node)
            layer = self.layers[module.name]
            if layer.requantisation is not None or any(
                p.fields.get("layer") == layer.name for p in self.pending.values()
            ):
                raise CompressError(f"layer {layer.name!r} must be used once: it has one requantisation")
            bias = np.zeros(1) if module.bias is None else module.bias.detach().cpu().double().numpy()
            gain = layer.scale.astype(np.float64) * scale
            self.pending[node] = _Pending(Layer, (number,), {"layer": layer.name}, gain, bias)
        elif kind == "norm":
            assert isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d)
            before = self.pending.get(source)
            if before is None or before.make is not Layer or before.low > -math.inf or before.high < math.inf:
                raise CompressError(f"{place(node)}: batch norm must follow a layer directly")
            self.pending[node] = _fold(before, module)
        elif kind in ("relu", "relu6"):
            high = 6.0 if kind == "relu6" else math.inf
            if source in self.pending:
                before = self.pending[source]
                self.pending[node] = dataclasses.replace(before, low=max(before.low, 0), high=min(before.high, high))
            else:
                number, scale = self.value(source, node)
                limits = (0, 127 if high == math.inf else min(127, round(high / scale)))
                self.emit(node, scale, Clamp(inputs=(number,), range=limits))
        elif kind == "add":
            a, b = (self.value(argument, node) for argument in node.args[:2])
            self.pending[node] = _Pending(Add, (a[0], b[0]), {}, np.array([a[1], b[1]]), np.zeros(1))
        elif kind == "average":
            number, scale = self.value(source, node)
            window, area = self.average(node, source)
            self.pending[node] = _Pending(Average, (number,), window, np.array([scale / area]), np.zeros(1))
        elif kind == "same":
            if source in self.pending:
                self.pending[node] = self.pending[source]
            else:
                self.done[node] = self.value(source, node)
        elif kind == "quantise" and source in self.pending:
            assert isinstance(module, ActivationQuantiser)
            self.finish(node, self.pending[source], float(module.step()))
        elif kind == "quantise":
            raise CompressError(f"{place(node)} must follow a layer, an addition or pooling")
        elif kind == "output":
            self.finish_logits(source, node)
        else:
            number, scale = self.value(source, node)
            self.emit(node, scale, _EXACT[kind](inputs=(number,), **self.geometry(kind, node, source)))

    def geometry(self, kind: str, node: fx.Node, source: fx.Node) -> dict[str, Any]:
        """Fields of an operation that is exact."""
        if kind == "maximum":
            given = arguments(self.graph, node, kind)
            if given["dilation"] not in (1, (1, 1), [1, 1]) or given["return_indices"]:
                raise CompressError(f"{place(node)}: must have dilation 1 and give no indices")
            window, sizes = self.window(given), self.sizes
            return window if self.pooled(source, window) == sizes[node.name][2:] else window | {"ceil": True}
        if kind == "pad":
            given = arguments(self.graph, node, kind)
            padding = given["padding"]
            padding = [padding] * 4 if isinstance(padding, int) else [*padding, 0, 0][: max(4, len(padding))]
            if given["mode"] != "constant" or given["value"] or len(padding) > 4 or min(padding) < 0:
                raise CompressError(f"{place(node)}: must add zeros to rows and columns alone, and take none away")
            left, right, top, bottom = padding
            return {"padding": [top, bottom, left, right]}
        if kind == "shortcut":
            module = self.graph.get_submodule(str(node.target))
            return {name: getattr(module, name) for name in ("stride", "before", "after")}
        return {}

    def window(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Kernel, stride and padding of pooling."""
        stride = given["kernel_size"] if given["stride"] in (None, [], ()) else given["stride"]
        return {"kernel": _pair(given["kernel_size"]), "stride": _pair(stride), "padding": _pair(given["padding"])}

    def pooled(self, source: fx.Node, window: Mapping[str, Any]) -> tuple[int, ...]:
        """Rows and columns of pooling whose windows lie within the padded values."""
        sides = zip(self.sizes[source.name][2:], window["kernel"], window["stride"], window["padding"], strict=True)
        return tuple(pooled_size(*side) for side in sides)

    def average(self, node: fx.Node, source: fx.Node) -> tuple[dict[str, Any], float]:
        """The window of average pooling, none if it is the whole map, and what its sum is divided by."""
        size, result = self.sizes[source.name][2:], self.sizes[node.name][2:]
        where = place(node)
        module = self.graph.get_submodule(str(node.target)) if node.op == "call_module" else None
        divisor = None
        if isinstance(module, nn.AdaptiveAvgPool2d) or node.target is functional.adaptive_avg_pool2d:
            if any(x % y for x, y in zip(size, result, strict=True)):
                raise CompressError(f"{where}: all windows must have one size, not those of {size} to {result}")
            kernel = [x // y for x, y in zip(size, result, strict=True)]
            window = {"kernel": kernel, "stride": kernel, "padding": [0, 0]}
        else:
            given = arguments(self.graph, node, "average")
            window, divisor = self.window(given), given["divisor_override"]
            if any(window["padding"]) and not given["count_include_pad"] and not divisor:
                raise CompressError(f"{where}: must divide by one number: count_include_pad must be True with padding")
            if self.pooled(source, window) != result:
                raise CompressError(f"{where}: no window may hang over the end: ceil_mode must be False")
        area = float(divisor or math.prod(window["kernel"]))
        return ({} if tuple(window["kernel"]) == size and not any(window["padding"]) else window), area

    def finish(self, node: fx.Node, before: _Pending, scale: float) -> None:
        """Emit a pending operation with int8 output of that scale."""
        fields = dict(before.fields)
        low = -128 if before.low == -math.inf else max(-128, round(before.low / scale))
        high = 127 if before.high == math.inf else min(127, round(before.high / scale))
        if before.make is Input:
            self.input_scale = scale
            self.emit(node, scale, Input(**fields))
            if (low, high) != (-128, 127):
                # Images come as they are: what clamps them is an operation of the network.
                self.emit(node, scale, Clamp(inputs=(self.done[node][0],), range=(low, high)))
            return
        fields["range"] = low, high
        if before.make is Layer:
            layer = self.layers[fields["layer"]]
            given = requantisation(before.gain, before.offset, scale, layer.shape[0])
            self.layers[layer.name] = dataclasses.replace(layer, requantisation=given)
        elif before.make is Add:
            factors = before.gain / scale
            shift = min(max(0, ADD_BITS - int(np.frexp(factors.max())[1])), 62)
            multipliers = np.minimum(np.rint(np.ldexp(factors, shift)), 2**ADD_BITS - 1)
            fields |= {"multipliers": tuple(int(x) for x in multipliers), "shift": shift}
        else:
            multiplier, shifts = fixed_point(before.gain / scale)
            fields |= {"multiplier": int(multiplier[0]), "shift": int(shifts[0])}
        self.emit(node, scale, before.make(inputs=before.inputs, **fields))

    def finish_logits(self, source: Any, node: fx.Node) -> None:
        before = self.pending.get(source)
        if before is None or before.make is not Layer or len(before.gain) != 1 or before.low > -math.inf:
            raise CompressError(
                f"{place(source)}: the last operation must be a layer with one scale, without batch norm or activation"
            )
        layer = self.layers[before.fields["layer"]]
        K = layer.shape[0]
        bias = np.broadcast_to(np.rint(before.offset / before.gain), K)
        if np.abs(bias).max() > MAX_BIAS:
            raise CompressError(f"layer {layer.name!r}: bias must be within {MAX_BIAS}, not {np.abs(bias).max()}")
        ones = Requantisation(bias.astype(np.int32), np.ones(K, np.int32), np.zeros(K, np.uint8))
        self.layers[layer.name] = dataclasses.replace(layer, requantisation=ones)
        self.emit(node, float(before.gain[0]), Logits(inputs=before.inputs, **before.fields))


def _fold(before: _Pending, norm: nn.BatchNorm2d | nn.BatchNorm1d) -> _Pending:
    """Batch norm as part of the operation before it."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, variance = norm.running_mean.cpu().double().numpy(), norm.running_var.cpu().double().numpy()
    factor = 1 / np.sqrt(variance + norm.eps)
    if norm.affine:
        factor = factor * norm.weight.detach().cpu().double().numpy()
    shift = norm.bias.detach().cpu().double().numpy() if norm.affine else 0.0
    return dataclasses.replace(before, gain=before.gain * factor, offset=(before.offset - mean) * factor + shift)


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else [int(x) for x in value]


class _Sizes(fx.Interpreter):
    """Runs a graph once and notes the shapes."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.sizes: dict[str, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.sizes[n.name] = tuple(result.shape)
        return result


@torch.no_grad()
def export_network(graph: fx.GraphModule, image_shape: tuple[int, int, int]) -> Network:
    """A network with calibrated quantisers as integers.

    Parameters
    ----------
    graph
        Made by :func:`sw.compress.training.graph.quantise_activations`, calibrated.
    image_shape
        ``[C, rows, columns]`` of its input.

    Raises
    ------
    CompressError
        The network has an operation without integer form, or a value that is not quantised where it is needed.
    """
    training = graph.training
    graph.eval()
    device = next(graph.parameters()).device
    sizes = _Sizes(graph)
    sizes.run(torch.zeros(1, *image_shape, device=device))
    exporter = _Exporter(graph, {layer.name: layer for layer in compressed_layers(graph)}, sizes.sizes, image_shape)
    try:
        for node in graph.graph.nodes:
            exporter.add_node(node)
        # Number of the operation, and scale, of each value, for who compares the two.
        graph.meta["numbers"] = {node.name: value for node, value in exporter.done.items()}
        return Network(exporter.layers, tuple(exporter.operations), exporter.input_scale)
    except NetworkError as error:
        raise CompressError(str(error)) from None
    finally:
        graph.train(training)
