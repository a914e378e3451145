"""The operations of a network as a graph: activation quantisers in, batch norm recalibrated.

Networks whose forward pass is convolutions, linear layers, batch norm, ReLU, ReLU6, residual additions, pooling,
padding with zeros and flattening have an integer form (:mod:`sw.compress.training.integer`). Of these, a quantiser goes
wherever the accelerator makes int8: at the network's input, after each layer with its batch norm and activation, after
each addition with its activation, and after average pooling. Others can train with :func:`quantise_inputs`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from sw.compress.frontend import PadShortcut, example_images, raise_network
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
from sw.compress.training.quant import ActivationQuantiser

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


_MODULES: tuple[tuple[type[nn.Module], str], ...] = (
    (DecodedConv2d, "layer"),
    (DecodedLinear, "layer"),
    (nn.Conv2d, "layer"),
    (nn.Linear, "layer"),
    (nn.BatchNorm2d, "norm"),
    (nn.BatchNorm1d, "norm"),
    (nn.modules.dropout._DropoutNd, "same"),
    (PadShortcut, "shortcut"),
    (ActivationQuantiser, "quantise"),
)
_FUNCTIONS: dict[Any, str] = {
    operator.add: "add",
    functional.relu: "relu",
    functional.relu6: "relu6",
    functional.adaptive_avg_pool2d: "average",
    functional.avg_pool2d: "average",
    functional.max_pool2d: "maximum",
    functional.pad: "pad",
    torch.flatten: "flatten",
}

# Arguments behind the first one, which modules have as attributes, and what they are if not given.
_ARGUMENTS: dict[str, dict[str, Any]] = {
    "average": {
        "kernel_size": None, "stride": None, "padding": 0, "ceil_mode": False, "count_include_pad": True,
        "divisor_override": None,
    },
    "maximum": {
        "kernel_size": None, "stride": None, "padding": 0, "dilation": 1, "ceil_mode": False, "return_indices": False,
    },
    "pad": {"padding": None, "mode": "constant", "value": 0},
}  # fmt: skip


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


def integer_graph(model: nn.Module, images: Tensor | None = None) -> fx.GraphModule:
    """As :func:`trace`, of operations that all have an integer form.

    Raises
    ------
    CompressError
        An operation has none; all of them are listed.
    """
    return _traced(model, images, operation)


def _traced(
    model: nn.Module, images: Tensor | None, check: Callable[[nn.Module, fx.Node], object] | None
) -> fx.GraphModule:
    if isinstance(model, fx.GraphModule) and "weights" in model.meta:
        return model
    if images is None:
        images = example_images(model)
    layers = list(decoded_layers(model))
    if not layers:
        return raise_network(model, images, check=check)
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


def arguments(graph: nn.Module, node: fx.Node, kind: str) -> dict[str, Any]:
    """What a pooling, padding or flattening was given, by the names of torch's functions.

    Parameters
    ----------
    graph, node
        The operation.
    kind
        As :func:`operation` says, and not adaptive pooling.
    """
    names = _ARGUMENTS[kind]
    given = dict(zip(names, node.args[1:], strict=False))
    return names | given | {name: value for name, value in node.kwargs.items() if name in names}


def place(node: fx.Node) -> str:
    """Where an operation is in the user's network, for messages."""
    return str(node.meta.get("place", f"operation {node.name!r}"))


def operation(graph: nn.Module, node: fx.Node) -> str:
    """What a node computes.

    Parameters
    ----------
    graph
        Has the modules that nodes call.
    node
        Of a graph that :func:`trace` made.

    Returns
    -------
    str
        ``input``, ``output``, ``layer``, ``norm``, ``relu``, ``relu6``, ``add``, ``average``, ``maximum``, ``pad``,
        ``flatten``, ``same`` (identity when evaluating), ``shortcut`` or ``quantise``.

    Raises
    ------
    CompressError
        The operation has no integer form.
    """
    if node.op in ("placeholder", "output"):
        return "input" if node.op == "placeholder" else "output"
    found: str | None = None
    if node.op == "call_module":
        module = graph.get_submodule(str(node.target))
        found = next((name for kind, name in _MODULES if isinstance(module, kind)), None)
    elif node.op == "call_function":
        found = _FUNCTIONS.get(node.target)
    if found is None:
        raise CompressError(f"{place(node)} has no integer form: {_ADVICE.get(node.target, _ADVICE_ELSE)}")
    return found


_ADVICE_ELSE = "replace it by operations that have one, or keep the layers alone (--layers-alone)"
_ADVICE: dict[Any, str] = {
    function: "use ReLU or ReLU6, or keep the layers alone (--layers-alone)"
    for function in (
        *(functional.silu, functional.gelu, functional.hardswish, functional.hardsigmoid, functional.leaky_relu),
        *(functional.elu, functional.prelu, functional.hardtanh, functional.mish, torch.sigmoid, torch.tanh),
    )
}

# A quantiser goes after these, once what follows them in the same pass of the accelerator is behind.
_QUANTISED = ("input", "layer", "add", "average")
_FOLLOWERS = ("norm", "relu", "relu6", "same")


def quantise_activations(model: nn.Module, images: Tensor | None = None) -> fx.GraphModule:
    """Put an :class:`ActivationQuantiser` wherever the accelerator makes int8. The output stays as it is.

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
        An operation has no integer form, or there is not one input and one output; all of them are listed.
    """
    graph = integer_graph(model, images)
    operations = {node: operation(graph, node) for node in graph.graph.nodes}
    count = 0
    for node in list(graph.graph.nodes):
        if operations[node] not in _QUANTISED:
            continue
        last = node
        while len(last.users) == 1 and operations[next(iter(last.users))] in _FOLLOWERS:
            last = next(iter(last.users))
        if any(operations[user] == "output" for user in last.users):
            continue
        name = f"quantiser_{count}"
        count += 1
        graph.add_submodule(name, ActivationQuantiser())
        with graph.graph.inserting_after(last):
            quantised = graph.graph.call_module(name, (last,))
        quantised.meta["place"] = place(last)
        last.replace_all_uses_with(quantised, delete_user_cb=lambda user, new=quantised: user is not new)
    graph.recompile()
    return graph


class _QuantisedInput(nn.Module):
    """A decoded layer behind an activation quantiser."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.quantiser, self.layer = ActivationQuantiser(), layer

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
def calibrate(model: nn.Module, images: Tensor) -> None:
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
        model(images)
    finally:
        for quantiser in quantisers:
            quantiser.observing = False
        model.train(training)


@torch.no_grad()
def recalibrate_batch_norm(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace the running statistics of all batch norms by the plain average over these batches.

    Compression changes the statistics of every layer; weights and quantisers stay as they are.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    training = model.training
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    for images in batches:
        model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.train(training)
