"""A quantised network in integers alone, as the accelerator computes it: from the container's bytes to the logits.

Every value between two operations is int8, with zero point 0. The rules:

- ``layer``: int32 sums of products, then requantisation (:class:`sw.format.layer.Requantisation`) with the layer's bias
  and batch norm folded in, halves away from zero; ReLU and ReLU6 are a narrower range than -128..127.
- ``add``: ``clamp(round((a * m_a + b * m_b) / 2**shift), low, high)``, halves away from zero; m_a, m_b below 2**22, so
  that the sum fits int32.
- ``average``: ``clamp(round(sum * multiplier / 2**shift), -128, 127)`` of the sum over rows and columns, or over a
  window with zeros around, halves away from zero, the multiplier an int32.
- ``maximum``, ``pad``, ``flatten``, ``shortcut`` and a range by itself are exact.
- ``logits``: int32 sums and bias of the last layer, all of one scale, so the largest logit is the largest integer.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn import functional

from sw.compress.methods import CompressError
from sw.compress.training.graph import arguments, operation, place
from sw.compress.training.layers import DecodedConv2d, DecodedLinear, compressed_layers
from sw.compress.training.operations import ADD_BITS, check_input_scale, check_operations, pooled_size
from sw.compress.training.quant import ActivationQuantiser, integers
from sw.format.container import read_container, write_container
from sw.format.layer import CompressedLayer, Requantisation
from sw.golden import layer_sums, output_size, requantise

__all__ = [
    "IntegerNetwork",
    "device_sums",
    "divide",
    "export_integers",
    "fixed_point",
    "network_metadata",
    "quantise_images",
    "read_network",
    "write_network",
]

# Half of int32's range is left to the sums.
_MAX_BIAS = 1 << 29


def fixed_point(factors: NDArray[np.float64]) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Multipliers and right shifts whose quotients are nearest to these factors: 31 bits, fewer below 2**-32.

    Parameters
    ----------
    factors
        Finite, of magnitude below 2**30.

    Returns
    -------
    tuple
        int32 multipliers and uint8 shifts of 0..62: ``factor ~ multiplier / 2**shift``.

    Raises
    ------
    CompressError
        A factor is out of range, NaN or infinite.
    """
    factors = np.asarray(factors, np.float64)
    if not (np.abs(factors) < 2.0**30).all():
        raise CompressError(f"requantisation factors must be below 2**30, not {np.abs(factors).max()}")
    exponents = np.frexp(factors)[1]
    shifts = np.clip(31 - exponents, 0, 62)
    multipliers = np.rint(np.ldexp(factors, shifts))
    # A mantissa that rounds up to 1.
    over = np.abs(multipliers) > 2**31 - 1
    shifts = np.where(over, shifts - 1, shifts)
    multipliers = np.rint(np.ldexp(factors, shifts))
    return multipliers.astype(np.int32), shifts.astype(np.uint8)


def divide(values: Tensor, shift: int | Tensor) -> Tensor:
    """``round(v / 2**shift)``, halves away from zero, int64."""
    shift = torch.as_tensor(shift, device=values.device)
    half = (torch.ones_like(shift) << shift) >> 1
    return values.sign() * ((values.abs() + half) >> shift)


def quantise_images(images: Tensor, scale: float) -> Tensor:
    """Normalised float images ``[batch, C, rows, columns]`` as an int8 input of this scale, on their device."""
    step = torch.tensor(scale, dtype=torch.float32, device=images.device)
    return integers(images.float(), step, -128, 127).to(torch.int8)


@dataclass(frozen=True)
class IntegerNetwork:
    """A network as integers.

    Parameters
    ----------
    layers
        With requantisation, by name.
    operations
        In order; each a dictionary with ``op``, the numbers of the operations it reads in ``in``, and what the rules
        above name. The first is ``input``, with the ``shape`` of an image, the last ``logits``. JSON can hold them.
        :func:`sw.compress.training.operations.check_operations` says what they must be.
    input_scale
        Of the int8 input.
    """

    layers: dict[str, CompressedLayer]
    operations: list[dict[str, Any]]
    input_scale: float

    def quantise(self, images: Tensor) -> Tensor:
        """:func:`quantise_images` by the input's scale."""
        return quantise_images(images, self.input_scale)

    def run(self, images: Tensor, *, golden: bool = True) -> Tensor:
        """The logits of int8 images, int32 ``[batch, classes]``.

        Parameters
        ----------
        images
            int8 ``[batch, C, rows, columns]`` on any device.
        golden
            Compute the layers by :func:`sw.golden.layer_sums` and :func:`sw.golden.requantise`, on the CPU. Otherwise
            by exact products on the device of the images: the same integers, faster.

        Raises
        ------
        CompressError
            The images are not int8 with four axes.
        """
        if images.dtype != torch.int8 or images.ndim != 4:
            raise CompressError(f"images must be int8 with four axes, not {images.dtype} {list(images.shape)}")
        sums = _golden_sums if golden else device_sums
        values: list[Tensor | None] = []
        last_use = {source: i for i, op in enumerate(self.operations) for source in op.get("in", ())}
        for i, op in enumerate(self.operations):
            taken = [values[source] for source in op.get("in", ())]
            values.append(_apply(op, [images, *taken][-max(len(taken), 1) :], self.layers, sums))
            for source in op.get("in", ()):
                if last_use[source] == i:
                    values[source] = None
        logits = values[-1]
        assert logits is not None
        return logits

    def values(self, images: Tensor) -> list[Tensor]:
        """The result of each operation, of int8 images ``[batch, C, rows, columns]``, by exact products."""
        values: list[Tensor] = []
        for op in self.operations:
            taken = [values[source] for source in op.get("in", ())]
            values.append(_apply(op, taken or [images], self.layers, device_sums))
        return values


def _apply(
    op: Mapping[str, Any], inputs: Sequence[Tensor | None], layers: Mapping[str, CompressedLayer], sums: Any
) -> Tensor:
    """One operation, by the rules above."""
    kind, (first, *rest) = op["op"], inputs
    assert first is not None
    low, high = op.get("range", (-128, 127))
    if kind == "input":
        return first
    if kind in ("layer", "logits"):
        layer = layers[op["layer"]]
        result: Tensor = sums(layer, first, kind == "layer")
        return result.clamp(low, high) if kind == "layer" else result
    if kind == "add":
        (second,) = rest
        assert second is not None
        a, b = op["multipliers"]
        return divide(first.long() * a + second.long() * b, op["shift"]).clamp(low, high).to(torch.int8)
    if kind == "average":
        if "kernel" in op:
            window = op["kernel"], op["stride"], op["padding"]
            # The sum: float64 holds it exactly.
            total = functional.avg_pool2d(first.double(), *window, divisor_override=1).round().long()
        else:
            total = first.long().sum((2, 3), keepdim=True)
        total = total * op["multiplier"]
        return divide(total, op["shift"]).clamp(low, high).to(torch.int8)
    if kind == "maximum":
        # Padding never wins, as in max_pool2d; float32 holds every int8.
        window = op["kernel"], op["stride"], op["padding"]
        pooled = functional.max_pool2d(first.float(), *window, ceil_mode=op.get("ceil", False))
        return pooled.to(torch.int8)
    if kind == "pad":
        top, bottom, left, right = op["padding"]
        return functional.pad(first, (left, right, top, bottom))
    if kind == "shortcut":
        step = op["stride"]
        return functional.pad(first[:, :, ::step, ::step], (0, 0, 0, 0, op["before"], op["after"]))
    if kind == "flatten":
        return first.flatten(1)
    assert kind == "range", kind
    return first.clamp(low, high)


def _golden_sums(layer: CompressedLayer, values: Tensor, requantised: bool) -> Tensor:
    sums = layer_sums(layer, values.cpu().numpy())
    assert layer.requantisation is not None
    if requantised:
        return torch.from_numpy(requantise(sums, layer.requantisation))
    return torch.from_numpy(sums + layer.requantisation.bias)


def device_sums(layer: CompressedLayer, values: Tensor, requantised: bool) -> Tensor:
    """As :func:`_golden_sums`. Sums stay below 2**53, so float64 products are exact in any order of summation."""
    given = layer.requantisation
    assert given is not None
    weight = torch.from_numpy(layer.integer_weights()).to(values.device, torch.float64)
    images = (values[:, :, None, None] if values.ndim == 2 else values).double()
    if layer.groups == 1:
        # A convolution would be free to pick an algorithm that is not exact; a matrix product is not.
        E, F = output_size(layer, images.shape[2], images.shape[3])
        columns = functional.unfold(images, layer.shape[2:], layer.dilation, layer.padding, layer.stride)
        products = (weight.flatten(1) @ columns).reshape(len(images), -1, E, F)
    else:
        products = functional.conv2d(
            images, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups
        ).round()
    bias, multiplier, shift = (
        torch.from_numpy(part.astype(np.int64)).to(values.device).reshape(-1, 1, 1)
        for part in (given.bias, given.multiplier, given.shift)
    )
    biased = products.long() + bias
    sums = divide(biased * multiplier, shift).clamp(-128, 127).to(torch.int8) if requantised else biased.int()
    return sums.flatten(1) if values.ndim == 2 else sums


@dataclass
class _Pending:
    """An operation whose output is not int8 yet: ``gain * integer + offset`` in float, clamped to low..high."""

    op: dict[str, Any]
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
    operations: list[dict[str, Any]] = field(default_factory=list)
    # Number and scale of each int8 value.
    done: dict[fx.Node, tuple[int, float]] = field(default_factory=dict)
    pending: dict[fx.Node, _Pending] = field(default_factory=dict)
    input_scale: float = 0.0

    def emit(self, node: fx.Node, scale: float, **op: Any) -> None:
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
            op = {"op": "input", "shape": list(self.image_shape)}
            self.pending[node] = _Pending(op, np.ones(1), np.zeros(1))
        elif kind == "layer":
            assert isinstance(module, DecodedConv2d | DecodedLinear)
            number, scale = self.value(source, node)
            layer = self.layers[module.name]
            if layer.requantisation is not None or any(p.op.get("layer") == layer.name for p in self.pending.values()):
                raise CompressError(f"layer {layer.name!r} must be used once: it has one requantisation")
            bias = np.zeros(1) if module.bias is None else module.bias.detach().cpu().double().numpy()
            gain = layer.scale.astype(np.float64) * scale
            self.pending[node] = _Pending({"op": "layer", "in": [number], "layer": layer.name}, gain, bias)
        elif kind == "norm":
            assert isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d)
            before = self.pending.get(source)
            if before is None or before.op["op"] != "layer" or before.low > -math.inf or before.high < math.inf:
                raise CompressError(f"{place(node)}: batch norm must follow a layer directly")
            self.pending[node] = _fold(before, module)
        elif kind in ("relu", "relu6"):
            high = 6.0 if kind == "relu6" else math.inf
            if source in self.pending:
                before = self.pending[source]
                self.pending[node] = dataclasses.replace(before, low=max(before.low, 0), high=min(before.high, high))
            else:
                number, scale = self.value(source, node)
                limits = [0, 127 if high == math.inf else min(127, round(high / scale))]
                self.emit(node, scale, op="range", **{"in": [number]}, range=limits)
        elif kind == "add":
            a, b = (self.value(argument, node) for argument in node.args[:2])
            op = {"op": "add", "in": [a[0], b[0]]}
            self.pending[node] = _Pending(op, np.array([a[1], b[1]]), np.zeros(1))
        elif kind == "average":
            number, scale = self.value(source, node)
            window, area = self.average(node, source)
            op = {"op": "average", "in": [number], **window}
            self.pending[node] = _Pending(op, np.array([scale / area]), np.zeros(1))
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
            self.emit(node, scale, op=kind, **{"in": [number]}, **self.geometry(kind, node, source))

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
        op = dict(before.op)
        low = -128 if before.low == -math.inf else max(-128, round(before.low / scale))
        high = 127 if before.high == math.inf else min(127, round(before.high / scale))
        if (low, high) != (-128, 127):
            op["range"] = [low, high]
        if op["op"] == "input":
            self.input_scale = scale
            limits = op.pop("range", None)
            self.emit(node, scale, **op)
            if limits is not None:
                # Images come as they are: what clamps them is an operation of the network.
                self.emit(node, scale, op="range", **{"in": [self.done[node][0]]}, range=limits)
            return
        if op["op"] == "layer":
            layer = self.layers[op["layer"]]
            self.layers[layer.name] = dataclasses.replace(
                layer, requantisation=_requantisation(before, scale, layer.shape[0])
            )
        elif op["op"] == "add":
            factors = before.gain / scale
            shift = min(max(0, ADD_BITS - int(np.frexp(factors.max())[1])), 62)
            multipliers = np.minimum(np.rint(np.ldexp(factors, shift)), 2**ADD_BITS - 1)
            op |= {"multipliers": [int(x) for x in multipliers], "shift": shift}
        else:
            multiplier, shifts = fixed_point(before.gain / scale)
            op |= {"multiplier": int(multiplier[0]), "shift": int(shifts[0])}
        self.emit(node, scale, **op)

    def finish_logits(self, source: Any, node: fx.Node) -> None:
        before = self.pending.get(source)
        if before is None or before.op["op"] != "layer" or len(before.gain) != 1 or before.low > -math.inf:
            raise CompressError(
                f"{place(source)}: the last operation must be a layer with one scale, without batch norm or activation"
            )
        layer = self.layers[before.op["layer"]]
        K = layer.shape[0]
        bias = np.broadcast_to(np.rint(before.offset / before.gain), K)
        if np.abs(bias).max() > _MAX_BIAS:
            raise CompressError(f"layer {layer.name!r}: bias must be within {_MAX_BIAS}, not {np.abs(bias).max()}")
        ones = Requantisation(bias.astype(np.int32), np.ones(K, np.int32), np.zeros(K, np.uint8))
        self.layers[layer.name] = dataclasses.replace(layer, requantisation=ones)
        self.emit(node, float(before.gain[0]), **(before.op | {"op": "logits"}))


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


def _requantisation(before: _Pending, scale: float, K: int) -> Requantisation:
    """The layer's requantisation to int8 of that scale.

    A channel whose factor is so small that its bias would leave int32 (batch norm weights of 0) gets the least factor
    for which the bias stays within 2**29: too small for the sums to matter.
    """
    factor = np.broadcast_to(before.gain / scale, K).astype(np.float64)
    offset = np.broadcast_to(before.offset / scale, K)
    least = np.abs(offset) / _MAX_BIAS
    factor = np.where(np.abs(factor) < least, np.copysign(least, factor), factor)
    multiplier, shift = fixed_point(factor)
    # Where the shift ends, factors below 2**-62 vanish.
    effective = np.ldexp(multiplier.astype(np.float64), -shift.astype(np.int64))
    bias = np.divide(offset, effective, out=np.zeros(K), where=effective != 0)
    return Requantisation(np.rint(bias).clip(-_MAX_BIAS, _MAX_BIAS).astype(np.int32), multiplier, shift)


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
def export_integers(graph: fx.GraphModule, image_shape: tuple[int, int, int]) -> IntegerNetwork:
    """A network with calibrated quantisers as integers: batch norm folded, scales as multipliers and shifts.

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
    for node in graph.graph.nodes:
        exporter.add_node(node)
    graph.train(training)
    check_operations(exporter.operations, exporter.layers)
    # Number of the operation, and scale, of each value, for who compares the two.
    graph.meta["numbers"] = {node.name: value for node, value in exporter.done.items()}
    return IntegerNetwork(exporter.layers, exporter.operations, exporter.input_scale)


def network_metadata(network: IntegerNetwork) -> dict[str, Any]:
    """What a network's container has beside its layers."""
    return {"operations": network.operations, "input_scale": network.input_scale}


def write_network(path: str | os.PathLike[str], network: IntegerNetwork) -> None:
    """Write a network into one container; the operations go into its metadata.

    Raises
    ------
    CompressError
        The operations cannot run on the layers. Nothing is written.
    """
    check_operations(network.operations, network.layers)
    check_input_scale(network.input_scale)
    write_container(path, list(network.layers.values()), metadata=network_metadata(network))


def read_network(path: str | os.PathLike[str]) -> IntegerNetwork:
    """The network of a container that :func:`write_network` wrote.

    Raises
    ------
    ContainerError
        The file is damaged.
    CompressError
        The container holds layers, but no operations, or some that cannot run on them.
    """
    container = read_container(path)
    operations = container.metadata.get("operations")
    if operations is None or "input_scale" not in container.metadata:
        found = "layers alone: write_network and python -m sw.compress finetune write them"
        if "steps" in container.metadata:
            found = "a network in steps, which sw.host runs"
        raise CompressError(f"container {os.fspath(path)!r} must hold a network's operations, not {found}")
    layers = {layer.name: layer for layer in container.layers}
    try:
        check_operations(operations, layers)
        scale = check_input_scale(container.metadata["input_scale"])
    except CompressError as error:
        raise CompressError(f"container {os.fspath(path)!r}: {error}") from None
    return IntegerNetwork(layers, operations, scale)
