"""A quantised graph as a network in integers: batch norm folded, scales as multipliers and shifts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn import functional

from sw.compress.export.scales import MAX_BIAS, bias_advice, fixed_point, requantisation, unit_of_zeros, zero_scales
from sw.compress.frontend import Affine, FrontEndError, Refusal
from sw.compress.methods import CompressError
from sw.compress.training.layers import DecodedConv2d, DecodedLinear, compressed_layers
from sw.compress.training.operations import Roles, arguments, limits, output_nodes, place, region_values, roles_of
from sw.compress.training.quant import ActivationQuantiser, integers
from sw.format.layer import CompressedLayer, Requantisation
from sw.network import FULL_RANGE, Array, Network, NetworkError, Operation, Output, spatial

__all__ = ["export_network"]

#: Operations of a graph that are exact, and have one and the same form in integers.
_EXACT: Mapping[str, type[Operation]] = {
    "maximum": spatial.Maximum,
    "pad": spatial.Pad,
    "shortcut": spatial.Shortcut,
    "flatten": spatial.Flatten,
    "slice": spatial.Slice,
    "nearest": spatial.Upsample,
    "bilinear": spatial.Upsample,
    "spread": spatial.Upsample,
    "crop": spatial.Crop,
    "repeat": spatial.Repeat,
    "shuffle": spatial.PixelShuffle,
    "unshuffle": spatial.PixelUnshuffle,
}


# Operations whose results have no values that what they read has not, but for 0.
_KEEPING = (
    *(spatial.Maximum, spatial.Flatten, spatial.Slice, spatial.Upsample, spatial.Concatenate, spatial.Shortcut),
    *(spatial.Pad, spatial.Crop, spatial.Repeat, spatial.PixelShuffle, spatial.PixelUnshuffle),
)


@dataclass(kw_only=True)
class _Clamped:
    """Values that are kept to a range."""

    low: float = -math.inf
    high: float = math.inf

    def clamped(self, low: float, high: float) -> Self:
        """The same, clamped to both ranges."""
        return dataclasses.replace(self, low=max(self.low, low), high=min(self.high, high))


@dataclass
class _Pending(_Clamped):
    """An operation whose output is not int8 yet: ``gain * integer + offset`` in float, clamped to low..high."""

    make: type[Operation]
    inputs: tuple[int, ...]
    fields: dict[str, Any]
    gain: NDArray[np.float64]
    offset: NDArray[np.float64]


@dataclass
class _Table(_Clamped):
    """Functions of one int8, of a graph's nodes, whose results are not int8 yet."""

    node: fx.Node
    root: fx.Node


@dataclass
class _Joined:
    """Parts of a concatenation that have no common scale yet."""

    parts: list[_Pending | _Table | _Joined]

    def clamped(self, low: float, high: float) -> _Joined:
        """All parts, clamped."""
        return _Joined([part.clamped(low, high) for part in self.parts])


_Unfinished = _Pending | _Table | _Joined


@dataclass
class _Exporter:
    graph: fx.GraphModule
    layers: dict[str, CompressedLayer]
    sizes: dict[str, tuple[int, ...]]
    image_shape: tuple[int, int, int]
    roles: Roles
    operations: list[Operation] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)
    # Number and scale of each int8 value.
    done: dict[fx.Node, tuple[int, float]] = field(default_factory=dict)
    pending: dict[fx.Node, _Unfinished] = field(default_factory=dict)
    constants: dict[str, NDArray[np.int8]] = field(default_factory=dict)
    outputs: list[Output] = field(default_factory=list)
    with_scale: bool = False
    input_scale: float = 0.0
    refusals: list[str] = field(default_factory=list)
    # What reads a refused value.
    broken: set[fx.Node] = field(default_factory=set)

    def emit(self, node: fx.Node, scale: float, op: Operation) -> None:
        self.operations.append(op)
        self.spans.append(self.span(op))
        self.done[node] = len(self.operations) - 1, scale

    def value(self, node: Any, reader: fx.Node) -> tuple[int, float]:
        if node not in self.done:
            raise CompressError(f"{place(reader)} must read int8, but no quantiser comes before it")
        return self.done[node]

    def try_node(self, node: fx.Node) -> None:
        """Add an operation; what is refused is noted, so that the others are seen, too."""
        kind = self.roles.kinds[node]
        try:
            if kind != "output" and not self.broken.isdisjoint(node.all_input_nodes):
                self.broken.add(node)
                # What follows from shapes alone.
                if kind == "average":
                    self.average(node, node.all_input_nodes[0])
                elif kind in _EXACT:
                    self.geometry(kind, node, node.all_input_nodes[0])
                return
            self.add_node(node)
        except (CompressError, NetworkError) as error:
            self.broken.add(node)
            self.refusals.append(str(error))

    def add_node(self, node: fx.Node) -> None:
        kind = self.roles.kinds[node]
        source: Any = node.args[0] if node.args else None
        module = self.graph.get_submodule(str(node.target)) if node.op == "call_module" else None
        if node in self.roles.regions:
            self.pending[node] = _Table(node, self.roles.regions[node])
        elif kind == "input":
            self.pending[node] = _Pending(spatial.Input, (), {"shape": self.image_shape}, np.ones(1), np.zeros(1))
        elif kind == "layer":
            assert isinstance(module, DecodedConv2d | DecodedLinear)
            self.add_layer(node, module)
        elif kind == "affine":
            self.add_affine(node)
        elif kind == "norm":
            before = self.pending.get(source)
            if (
                not isinstance(before, _Pending)
                or before.make is not spatial.Layer
                or (before.low, before.high) != _OPEN
            ):
                raise CompressError(f"{place(node)}: batch norm must follow a layer directly")
            assert module is not None
            self.pending[node] = _fold(before, module)
        elif kind in ("relu", "relu6", "clamp"):
            low, high = limits(kind, node)
            if source in self.pending:
                self.pending[node] = self.pending[source].clamped(low, high)
            else:
                number, scale = self.value(source, node)
                self.emit(node, scale, spatial.Clamp(inputs=(number,), range=_integers(low, high, scale)))
        elif kind == "add":
            a, b = (self.value(argument, node) for argument in node.args[:2])
            self.pending[node] = _Pending(spatial.Add, (a[0], b[0]), {}, np.array([a[1], b[1]]), np.zeros(1))
        elif kind == "multiply":
            self.multiply(node)
        elif kind == "concatenate":
            self.concatenate(node)
        elif kind == "average":
            number, scale = self.value(source, node)
            window, area = self.average(node, source)
            self.pending[node] = _Pending(spatial.Average, (number,), window, np.array([scale / area]), np.zeros(1))
        elif kind == "same":
            if source in self.pending:
                self.pending[node] = self.pending[source]
            else:
                self.done[node] = self.value(source, node)
        elif kind == "unflatten":
            self.check_factors(node)
            self.done[node] = self.value(source, node)
        elif kind == "quantise":
            assert isinstance(module, ActivationQuantiser)
            # Where a value has a scale, a table gives it another.
            before = self.pending[source] if source in self.pending else _Table(source, source)
            self.finish(node, before, float(module.step()))
        elif kind == "output":
            self.finish_outputs(node)
        else:
            number, scale = self.value(source, node)
            self.emit(node, scale, _EXACT[kind](inputs=(number,), **self.geometry(kind, node, source)))

    def add_layer(self, node: fx.Node, module: DecodedConv2d | DecodedLinear) -> None:
        number, scale = self.value(node.args[0], node)
        layer = self.layers[module.name]
        pending = [p for p in self.pending.values() if isinstance(p, _Pending)]
        if layer.requantisation is not None or any(p.fields.get("layer") == layer.name for p in pending):
            raise CompressError(f"layer {layer.name!r} must be used once: it has one requantisation")
        bias = np.zeros(1) if module.bias is None else module.bias.detach().cpu().double().numpy()
        # Of weights that are all 0 the scale says nothing, and the bias would be rounded to it.
        gain = np.where(zero_scales(layer), 0.0, layer.scale.astype(np.float64) * scale)
        self.pending[node] = _Pending(spatial.Layer, (number,), {"layer": layer.name}, gain, bias)

    def add_affine(self, node: fx.Node) -> None:
        """Batch norm, or other factors and summands, as a depthwise layer of 1 x 1."""
        number, scale = self.value(node.args[0], node)
        mean, factor, summand = _affine(self.graph.get_submodule(str(node.target)))
        C, name, count = len(factor), str(node.target), 1
        while name in self.layers:
            count += 1
            name = f"{node.target} ({count})"
        # The largest weight: bias is a whole number of products with it.
        size = (np.abs(factor) / 127).astype(np.float32)
        self.layers[name] = CompressedLayer(
            name=name,
            kind="conv",
            method="int8",
            shape=(C, 1, 1, 1),
            groups=C,
            scale=np.where(size > 0, size, np.float32(1)),
            weights=(127 * np.sign(factor) * (size > 0)).astype(np.int8).reshape(C, 1, 1, 1),
        )
        gain = np.where(size > 0, np.abs(factor) / 127, 0.0) * scale
        self.pending[node] = _Pending(spatial.Layer, (number,), {"layer": name}, gain, summand - mean * factor)

    def multiply(self, node: fx.Node) -> None:
        sides = [(self.value(each, node), math.prod(self.sizes[each.name])) for each in node.all_input_nodes]
        if sides[0][1] < sides[1][1]:
            sides.reverse()
        (a, _), (b, _) = sides
        self.pending[node] = _Pending(spatial.Multiply, (a[0], b[0]), {}, np.array([a[1] * b[1]]), np.zeros(1))

    def check_factors(self, node: fx.Node) -> None:
        """Features as a map have no form of their own: a product must read them."""
        for user in node.users:
            kind = self.roles.kinds[user]
            if user in self.roles.regions or kind in ("same", "quantise"):
                self.check_factors(user)
            elif kind != "multiply":
                advice = "only a product may read it; use a convolution of 1 x 1 in the place of the linear layer"
                raise CompressError(f"{place(node)}: features as a map have no integer form: {advice}")

    def concatenate(self, node: fx.Node) -> None:
        given = node.args[0]
        assert isinstance(given, list | tuple)
        nodes = [each for each in given if isinstance(each, fx.Node)]
        scales = {self.done[each][1] if each in self.done else None for each in nodes}
        if len(scales) == 1 and None not in scales:
            numbers = tuple(self.done[each][0] for each in nodes)
            self.emit(node, self.done[nodes[0]][1], spatial.Concatenate(inputs=numbers))
            return
        self.pending[node] = _Joined(
            [self.pending[each] if each in self.pending else _Table(each, each) for each in nodes]
        )

    def geometry(self, kind: str, node: fx.Node, source: fx.Node) -> dict[str, Any]:
        """Fields of an operation that is exact."""
        if kind in ("nearest", "bilinear", "spread"):
            module = self.graph.get_submodule(str(node.target)) if kind == "bilinear" else None
            more = {} if module is None else {"factor": module.factor}
            return {"mode": "zeros" if kind == "spread" else kind} | more
        if kind in ("crop", "repeat"):
            module = self.graph.get_submodule(str(node.target))
            names = ("margins", "stride") if kind == "crop" else ("factors",)
            return {name: getattr(module, name) for name in names}
        if kind in ("shuffle", "unshuffle"):
            return {"factor": node.args[1]}
        if kind == "slice":
            given: Any = node.args
            _, _, start, length = given
            return {"start": start, "stop": start + length}
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
        return tuple(spatial.pooled_size(*side) for side in sides)

    def average(self, node: fx.Node, source: fx.Node) -> tuple[dict[str, Any], float]:
        """The window of average pooling, none if it is the whole map, and what its sum is divided by."""
        size, result = self.sizes[source.name][2:], self.sizes[node.name][2:]
        where = place(node)
        module = self.graph.get_submodule(str(node.target)) if node.op == "call_module" else None
        divisor = None
        if isinstance(module, nn.AdaptiveAvgPool2d) or node.target is functional.adaptive_avg_pool2d:
            if any(x % y for x, y in zip(size, result, strict=True)):
                advice = "pool to rows and columns that divide those of the map"
                raise CompressError(
                    f"{where}: all windows must have one size, not those of {size} to {result}: {advice}"
                )
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

    def finish(self, node: fx.Node, before: _Unfinished, scale: float) -> None:
        """Emit what is pending with int8 output of that scale."""
        if isinstance(before, _Pending):
            self.finish_operation(node, before, scale)
        elif isinstance(before, _Table):
            self.finish_table(node, before, scale)
        else:
            self.emit(node, scale, spatial.Concatenate(inputs=tuple(self.parts(node, before, scale))))

    def parts(self, node: fx.Node, before: _Joined, scale: float) -> Iterator[int]:
        """The numbers of the parts of a concatenation, each with that scale."""
        for part in before.parts:
            if isinstance(part, _Joined):
                yield from self.parts(node, part, scale)
            elif isinstance(part, _Table) and part.node is part.root and self.done[part.root][1] == scale:
                # As it is, but for a clamp.
                number, _ = self.done[part.root]
                span = _integers(part.low, part.high, scale)
                if span != FULL_RANGE:
                    self.emit(node, scale, spatial.Clamp(inputs=(number,), range=span))
                    number, _ = self.done[node]
                yield number
            else:
                self.finish(node, part, scale)
                yield self.done[node][0]

    def finish_operation(self, node: fx.Node, before: _Pending, scale: float) -> None:
        fields = dict(before.fields)
        low, high = _integers(before.low, before.high, scale)
        if before.make is spatial.Input:
            self.input_scale = scale
            self.emit(node, scale, spatial.Input(**fields))
            if (low, high) != (-128, 127):
                # Images come as they are: what clamps them is an operation of the network.
                self.emit(node, scale, spatial.Clamp(inputs=(self.done[node][0],), range=(low, high)))
            return
        fields["range"] = low, high
        if before.make is spatial.Layer:
            layer = self.layers[fields["layer"]]
            given = requantisation(before.gain, before.offset, scale, layer.shape[0])
            self.layers[layer.name] = dataclasses.replace(layer, requantisation=given)
        elif before.make is spatial.Add:
            factors = before.gain / scale
            shift = min(max(0, spatial.ADD_BITS - int(np.frexp(factors.max())[1])), 62)
            multipliers = np.minimum(np.rint(np.ldexp(factors, shift)), 2**spatial.ADD_BITS - 1)
            fields |= {"multipliers": tuple(int(x) for x in multipliers), "shift": shift}
        else:
            multiplier, shifts = fixed_point(before.gain / scale)
            fields |= {"multiplier": int(multiplier[0]), "shift": int(shifts[0])}
        self.emit(node, scale, before.make(inputs=before.inputs, **fields))

    def finish_table(self, node: fx.Node, before: _Table, scale: float) -> None:
        """A table of what the graph makes of all int8, by its own operations in float32."""
        number, given = self.value(before.root, node)
        values = torch.arange(-128, 128).float() * torch.tensor(given, dtype=torch.float32)
        device = next(self.graph.parameters()).device
        results = region_values(self.graph, before.node, before.root, values.to(device)[None, None, None])
        results = results.float().cpu().flatten()
        low, high = self.spans[number]
        unknown = results.isnan() & (values >= low * given) & (values <= high * given)
        if unknown.any():
            worst = float(values[unknown][0])
            advice = "clamp it before to where the function has a value"
            raise CompressError(f"{place(before.node)}: its result must be a number, not NaN of {worst:.4g}: {advice}")
        table = integers(
            results.nan_to_num(0, math.inf, -math.inf).clamp(before.low, before.high),
            torch.tensor(scale, dtype=torch.float32),
            -128,
            127,
        )
        entries = np.roll(table.to(torch.int8).numpy(), 128)
        name = next((name for name, other in self.constants.items() if np.array_equal(other, entries)), None)
        if name is None:
            name = f"table_{len(self.constants)}"
            self.constants[name] = entries
        self.emit(node, scale, spatial.Table(inputs=(number,), table=name))

    def span(self, op: Operation) -> tuple[int, int]:
        """The least and the greatest integer that an operation's result can have, as far as it is known."""
        given = [self.spans[number] for number in op.inputs]
        low, high = getattr(op, "range", FULL_RANGE)
        if isinstance(op, spatial.Table):
            entries = self.constants[op.table]
            return int(entries.min()), int(entries.max())
        if isinstance(op, spatial.Average) and op.multiplier >= 0:
            # The mean has the sign of what it is of.
            return (low if given[0][0] < 0 else max(low, 0)), (high if given[0][1] > 0 else min(high, 0))
        if isinstance(op, _KEEPING):
            zeros = isinstance(op, spatial.Shortcut | spatial.Pad) or getattr(op, "mode", "") == "zeros"
            ends = [*given, (0, 0)] if zeros else given
            return min(low for low, _ in ends), max(high for _, high in ends)
        return low, high

    def finish_outputs(self, node: fx.Node) -> None:
        given = output_nodes(node)
        for name, source in given:
            if source in self.broken:
                continue
            try:
                number, scale = self.done[source] if source in self.done else self.finish_logits(source, node)
            except CompressError as error:
                self.refusals.append(str(error))
                continue
            label = name or self.operations[number].label
            if number == 0:
                advice = "leave it out of what the network returns"
                self.refusals.append(
                    f"output {label!r} must be computed by the network, not the image itself: {advice}"
                )
                continue
            earlier = next((output for output in self.outputs if output.value == number), None)
            if earlier is not None:
                advice = "return it once"
                self.refusals.append(f"outputs {earlier.name!r} and {label!r} must differ, not be one value: {advice}")
                continue
            self.outputs.append(Output(number, label, scale))
        if (
            len(given) == 1
            and not given[0][0]
            and isinstance(self.operations[-1], spatial.Logits)
            and not self.with_scale
        ):
            # The order of the classes is what counts of sums that are compared: no more is said of them.
            self.outputs = []

    def finish_logits(self, source: fx.Node, node: fx.Node) -> tuple[int, float]:
        before = self.pending.get(source)
        if not isinstance(before, _Pending) or before.make is not spatial.Layer or (before.low, before.high) != _OPEN:
            raise CompressError(f"{place(source)}: must be quantised, or a layer without batch norm or activation")
        layer = self.layers[before.fields["layer"]]
        if len(before.gain) != 1:
            advice = "convert it with one_scale (sw.compress.training.modules.convert)"
            raise CompressError(f"layer {layer.name!r} must have one scale, as its sums are an output: {advice}")
        K, gain = layer.shape[0], before.gain
        if not gain.any():
            size = next(size for number, size in self.done.values() if number == before.inputs[0])
            unit = unit_of_zeros(np.abs(before.offset).max(keepdims=True)) / size
            layer = dataclasses.replace(layer, scale=np.maximum(unit, np.finfo(np.float32).tiny).astype(np.float32))
            gain = layer.scale.astype(np.float64) * size
        bias = np.broadcast_to(np.rint(before.offset / gain), K)
        if np.abs(bias).max() > MAX_BIAS:
            raise CompressError(f"layer {layer.name!r}: {bias_advice(bias)}")
        ones = Requantisation(bias.astype(np.int32), np.ones(K, np.int32), np.zeros(K, np.uint8))
        self.layers[layer.name] = dataclasses.replace(layer, requantisation=ones)
        self.emit(source, float(gain[0]), spatial.Logits(inputs=before.inputs, **before.fields))
        return self.done[source]


_OPEN = (-math.inf, math.inf)


def _integers(low: float, high: float, scale: float) -> tuple[int, int]:
    """A range as integers of a scale."""
    ends = (min(max(end / scale, -128.0), 127.0) for end in (low, high))
    least, greatest = (round(end) for end in ends)
    return least, greatest


def _affine(module: nn.Module) -> tuple[Array, Array, Array]:
    """``mean``, ``factor`` and ``summand`` of each channel, of ``(v - mean) * factor + summand``."""
    if isinstance(module, Affine):
        factor, summand = (each.detach().cpu().double().numpy() for each in (module.weight, module.bias))
        return np.zeros(1), factor, summand
    assert isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d)
    assert module.running_mean is not None
    assert module.running_var is not None
    mean, variance = module.running_mean.cpu().double().numpy(), module.running_var.cpu().double().numpy()
    factor = 1 / np.sqrt(variance + module.eps)
    if not module.affine:
        return mean, factor, np.zeros(1)
    weight, bias = (each.detach().cpu().double().numpy() for each in (module.weight, module.bias))
    return mean, factor * weight, bias


def _fold(before: _Pending, module: nn.Module) -> _Pending:
    """Batch norm as part of the operation before it."""
    mean, factor, summand = _affine(module)
    return dataclasses.replace(before, gain=before.gain * factor, offset=(before.offset - mean) * factor + summand)


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
def export_network(graph: fx.GraphModule, image_shape: tuple[int, int, int], *, values: bool = False) -> Network:
    """A network with calibrated quantisers as integers.

    Parameters
    ----------
    graph
        Made by :func:`sw.compress.training.graph.quantise_activations`, calibrated.
    image_shape
        ``[C, rows, columns]`` of its input.
    values
        The network says the scale of a result that is alone, too, of which otherwise the order of the classes counts.

    Raises
    ------
    FrontEndError
        The network has operations without integer form, or values that are not quantised where they are needed: all of
        them are named.
    """
    training = graph.training
    graph.eval()
    device = next(graph.parameters()).device
    sizes = _Sizes(graph)
    sizes.run(torch.zeros(1, *image_shape, device=device))
    layers = {layer.name: layer for layer in compressed_layers(graph)}
    exporter = _Exporter(graph, layers, sizes.sizes, image_shape, roles_of(graph), with_scale=values)
    try:
        for node in graph.graph.nodes:
            exporter.try_node(node)
        if exporter.refusals:
            raise FrontEndError([Refusal("", text) for text in exporter.refusals])
        # Number of the operation, and scale, of each value, for who compares the two.
        graph.meta["numbers"] = {node.name: value for node, value in exporter.done.items()}
        operations, outputs = tuple(exporter.operations), tuple(exporter.outputs)
        return Network(exporter.layers, operations, exporter.input_scale, exporter.constants, outputs)
    except NetworkError as error:
        raise CompressError(str(error)) from None
    finally:
        graph.train(training)
