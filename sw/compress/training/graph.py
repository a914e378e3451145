"""The operations of a network as a graph: activation quantisers in, batch norm recalibrated.

Networks whose operations :mod:`sw.compress.training.operations` knows have an integer form
(:mod:`sw.compress.training.integer`). Of these, a quantiser goes wherever the accelerator makes int8 of a scale of its
own: at the network's input, after each layer with its batch norm and ReLU, after each addition, product and
concatenation of several scales, after average pooling, and after functions of one value, which become one table.
Others can train with :func:`quantise_inputs`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import cast

import torch
from torch import Tensor, fx, nn

from sw.compress.frontend import PadShortcut, example_images, raise_network
from sw.compress.frontend.capture import Captured
from sw.compress.frontend.inputs import Given, called
from sw.compress.methods import CompressError
from sw.compress.network import module_sources
from sw.compress.split import replace_module
from sw.compress.training.decoders import WeightDecoder
from sw.compress.training.layers import (
    DecodedConv2d,
    DecodedLinear,
    DecodedModule,
    decoded_layers,
    replace_layer,
)
from sw.compress.training.operations import QUANTISED, arguments, operation, place, roles_of
from sw.compress.training.quant import ActivationQuantiser, BilinearUpsampling

__all__ = [
    "PadShortcut",
    "arguments",
    "calibrate",
    "integer_graph",
    "operation",
    "place",
    "quantise_activations",
    "quantise_inputs",
    "recalibrate_batch_norm",
    "trace",
]


def trace(model: nn.Module, images: Tensor | None = None) -> fx.GraphModule:
    """The graph of a network (:func:`sw.compress.frontend.raise_network`), with its decoded layers if it has any.

    Parameters
    ----------
    model
        In floats, or with decoded layers (:func:`sw.compress.training.modules.convert`), which the graph shares.
    images
        Normalised floats ``[batch, C, rows, columns]`` that it takes. Without, square ones are tried
        (:func:`sw.compress.frontend.example_images`).

    Raises
    ------
    CompressError
        The network cannot be taken as it is; all reasons are listed.
    """
    return _traced(model, images, None)


def integer_graph(model: nn.Module, images: Tensor | None = None, captured: Captured | None = None) -> fx.GraphModule:
    """As :func:`trace`, of operations that all have an integer form.

    Of a float network that was captured before, ``captured`` is what that gave.

    Raises
    ------
    CompressError
        An operation has none; all of them are listed.
    """
    graph = _traced(model, images, operation, captured)
    roles_of(graph)
    return graph


def _traced(
    model: nn.Module,
    images: Tensor | None,
    check: Callable[[nn.Module, fx.Node], object] | None,
    captured: Captured | None = None,
) -> fx.GraphModule:
    if isinstance(model, fx.GraphModule) and "weights" in model.meta:
        return model
    if images is None:
        images = example_images(model)
    layers = list(decoded_layers(model))
    if not layers:
        return raise_network(model, images, check=check, captured=captured)
    decoders = [layer.decoder for _, layer in layers]
    weights: dict[str, _Weight] = {}
    stand_ins = {decoder: _Weight(decoder) for decoder in decoders}
    try:
        for name, layer in layers:
            layer.decoder = stand_ins[layer.decoder]  # type: ignore[assignment]
            weights[f"{name}.decoder.weight"] = stand_ins[decoders[len(weights)]]
        names = {f"{name}.layer": name for name, layer in layers if isinstance(layer, DecodedModule)}
        graph = raise_network(model, images, names=names, check=check)
    finally:
        for (_, layer), decoder in zip(layers, decoders, strict=True):
            layer.decoder = decoder
    own = dict(layers)
    for source in module_sources(graph):
        module = graph.get_submodule(source.name)
        stand_in = weights.get(graph.meta["weights"][source.name][0])
        if stand_in is None or not torch.equal(module.weight.flatten(), stand_in.weight.flatten()):  # type: ignore[operator]
            raise CompressError(f"layer {source.name!r} must have the weight of a layer that was compressed, as it is")
        mine = own.get(source.name)
        plain = isinstance(mine, DecodedConv2d | DecodedLinear) and mine.decoder is stand_in.decoder
        if plain and all(getattr(mine, name) == getattr(source, name) for name in _GEOMETRY):
            replace_module(graph, module, cast(nn.Module, mine))
        else:
            replace_layer(graph, source, stand_in.decoder)
    return graph


_GEOMETRY = ("stride", "padding", "dilation", "groups")


class _Weight(nn.Module):
    """Stands for a decoder whose weight does not change, while a network is traced."""

    decoder: WeightDecoder

    def __init__(self, decoder: WeightDecoder) -> None:
        super().__init__()
        # Not a child of it.
        self.__dict__["decoder"] = decoder
        training = decoder.training
        with torch.no_grad():
            self.weight = nn.Parameter(decoder.eval()().detach().clone())
        decoder.train(training)

    def forward(self) -> Tensor:
        """The weight."""
        return self.weight


def quantise_activations(model: nn.Module, images: Tensor | None = None) -> fx.GraphModule:
    """Put an :class:`ActivationQuantiser` wherever the accelerator makes int8.

    A layer whose result is an output of the network keeps its sums: they have no quantiser.

    Parameters
    ----------
    model
        With decoded layers (:func:`sw.compress.training.modules.convert`), whose operations all have an integer form.
    images
        As for :func:`trace`.

    Returns
    -------
    GraphModule
        Shares the model's layers, under their names; computes the same until :func:`calibrate`.

    Raises
    ------
    CompressError
        An operation has no integer form, or there is not one input; all of them are listed.
    """
    graph = integer_graph(model, images)
    roles = roles_of(graph)
    # The node that gave each value its scale.
    scales: dict[fx.Node, fx.Node] = {}
    device = next(graph.parameters()).device

    def quantise(last: fx.Node) -> None:
        name = _free(graph, "quantiser")
        graph.add_submodule(name, ActivationQuantiser().to(device))
        with graph.graph.inserting_after(last):
            quantised = graph.graph.call_module(name, (last,))
        quantised.meta["place"] = place(last)
        scales[quantised] = quantised

        def reads(user: fx.Node) -> bool:
            # What one table computes needs no integers in between.
            return user is not quantised and not (last in roles.regions and user in roles.regions)

        last.replace_all_uses_with(quantised, delete_user_cb=reads)

    for node in list(graph.graph.nodes):
        kind = roles.kinds[node]
        if kind == "bilinear":
            scales[node] = scales[node.args[0]]
            _upsample(graph, node, str(scales[node].target))
        elif node in roles.regions:
            if any(user not in roles.regions for user in node.users):
                quantise(node)
        elif kind == "concatenate":
            given = {scales.get(part) for part in node.all_input_nodes}
            if len(given) == 1 and None not in given:
                scales[node] = scales[node.all_input_nodes[0]]
            elif not roles.joined(node):
                quantise(roles.last(node))
        elif kind in QUANTISED:
            if not roles.compared(node) and not roles.joined(node):
                quantise(roles.last(node))
        elif node.args and node not in roles.absorbed and node.args[0] in scales:
            scales[node] = scales[node.args[0]]
    graph.recompile()
    return graph


def _free(graph: fx.GraphModule, stem: str) -> str:
    """The first of ``stem_0``, ``stem_1``, ... that nothing of the user's network is called, or of ours."""
    return next(name for number in itertools.count() if not hasattr(graph, name := f"{stem}_{number}"))


def _upsample(graph: fx.GraphModule, node: fx.Node, quantiser: str) -> None:
    """Upsample by exactly the arithmetic of the integers."""
    name = _free(graph, "upsampling")
    given = cast(ActivationQuantiser, graph.get_submodule(quantiser))
    graph.add_submodule(name, BilinearUpsampling(given, cast(int, node.kwargs["scale_factor"])))
    node.op, node.target, node.kwargs = "call_module", name, {}


class _QuantisedInput(nn.Module):
    """A decoded layer behind an activation quantiser."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.quantiser, self.layer = ActivationQuantiser().to(next(layer.parameters()).device), layer

    @property
    def weight(self) -> Tensor:
        """The layer's, for modules that ask for its dtype or device."""
        return self.layer.weight  # type: ignore[return-value]

    @property
    def bias(self) -> Tensor | None:
        """The layer's."""
        return self.layer.bias  # type: ignore[return-value]

    def forward(self, values: Tensor) -> Tensor:
        return self.layer(self.quantiser(values))  # type: ignore[no-any-return]


def quantise_inputs(model: nn.Module) -> nn.Module:
    """Put an :class:`ActivationQuantiser` in front of every decoded layer, in place.

    For networks with operations that have no integer form, such as transformers: what the array computes is then int8,
    what lies between its layers is float. ``MultiheadAttention`` does not call its layers but takes their weights, so
    their inputs stay float. ``TransformerEncoderLayer`` does so, too, on a fast path, which it is kept from.
    """
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0
    for name, layer in list(decoded_layers(model)):
        parent, _, child = name.rpartition(".")
        owner = model.get_submodule(parent)
        if not isinstance(owner, nn.MultiheadAttention):
            setattr(owner, child, _QuantisedInput(layer))
    return model


@torch.no_grad()
def calibrate(model: nn.Module, images: Given) -> None:
    """Set the scales of all activation quantisers from one batch, each behind the quantisers before it.

    Raises
    ------
    CompressError
        The model has no activation quantiser.
    """
    quantisers = [module for module in model.modules() if isinstance(module, ActivationQuantiser)]
    if not quantisers:
        raise CompressError("the model must have an activation quantiser, not 0")
    training = model.training
    model.eval()
    for quantiser in quantisers:
        quantiser.observing = True
    try:
        called(model, images)
    finally:
        for quantiser in quantisers:
            quantiser.observing = False
        model.train(training)


@torch.no_grad()
def recalibrate_batch_norm(model: nn.Module, batches: Iterable[Given]) -> None:
    """Replace the running statistics of all batch norms by the average over these batches, each by its samples.

    Compression changes the statistics of every layer; weights and quantisers stay as they are. What is one value a
    channel in a batch has no variance, as features of one sample: it counts for nothing, and a batch norm that sees
    nothing else keeps its statistics.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    training = model.training
    model.eval()
    seen = dict.fromkeys(norms, 0)

    def weigh(norm: nn.modules.batchnorm._BatchNorm, given: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        values = next(iter((*given, *named.values())))  # a batch norm of the user's own may take more
        norm.train(values.numel() > values.shape[1])
        if norm.training:
            if not seen[norm]:
                norm.reset_running_stats()
            seen[norm] += len(values)
            norm.momentum = len(values) / seen[norm]

    hooks = [norm.register_forward_pre_hook(weigh, with_kwargs=True) for norm in norms]
    try:
        for images in batches:
            called(model, images)
    finally:
        for norm, momentum, hook in zip(norms, momenta, hooks, strict=True):
            norm.momentum = momentum
            hook.remove()
        model.train(training)
