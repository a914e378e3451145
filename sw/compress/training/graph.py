"""The operations of a network as a graph (torch.fx): activation quantisers in, batch norm recalibrated.

Networks whose forward pass is convolutions, linear layers, batch norm, ReLU, ReLU6, residual additions, pooling and
flattening have an integer form (:mod:`sw.compress.training.integer`). Of these, a quantiser goes wherever the
accelerator makes int8: at the network's input, after each layer with its batch norm and activation, after each addition
with its activation, and after global average pooling. Others can train with :func:`quantise_inputs`.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from sw.compress.methods import CompressError
from sw.compress.training.modules import DecodedConv2d, DecodedLinear, DecodedModule, decoded_layers
from sw.compress.training.quant import ActivationQuantiser

__all__ = [
    "PadShortcut",
    "calibrate",
    "operation",
    "quantise_activations",
    "quantise_inputs",
    "recalibrate_batch_norm",
    "trace",
]


class PadShortcut(nn.Module):
    """Shortcut without weights (ResNet's option A): every other row and column, and channels of zeros around.

    Parameters
    ----------
    stride
        Of rows and columns.
    before, after
        Channels of zeros to add before and after.
    """

    def __init__(self, stride: int, before: int, after: int) -> None:
        super().__init__()
        self.stride, self.before, self.after = stride, before, after

    def forward(self, values: Tensor) -> Tensor:
        """``[batch, before + C + after, rows / stride, columns / stride]``."""
        return functional.pad(values[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


_LEAVES = (DecodedConv2d, DecodedLinear, DecodedModule, ActivationQuantiser, PadShortcut)

_MODULES: tuple[tuple[type[nn.Module], str], ...] = (
    (DecodedConv2d, "layer"),
    (DecodedLinear, "layer"),
    (nn.BatchNorm2d, "norm"),
    (nn.ReLU6, "relu6"),
    (nn.ReLU, "relu"),
    (nn.AdaptiveAvgPool2d, "average"),
    (nn.MaxPool2d, "maximum"),
    (nn.Flatten, "flatten"),
    (nn.Dropout, "same"),
    (nn.Identity, "same"),
    (PadShortcut, "shortcut"),
    (ActivationQuantiser, "quantise"),
)
_FUNCTIONS: dict[Any, str] = {
    operator.add: "add",
    operator.iadd: "add",
    torch.add: "add",
    torch.relu: "relu",
    functional.relu: "relu",
    functional.relu6: "relu6",
    functional.adaptive_avg_pool2d: "average",
    torch.flatten: "flatten",
}
_METHODS = {"relu": "relu", "flatten": "flatten", "add": "add"}


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, _LEAVES) or super().is_leaf_module(module, name)


def trace(model: nn.Module) -> fx.GraphModule:
    """The graph of a network; decoded layers and quantisers are single nodes. It shares the model's parameters."""
    return fx.GraphModule(model, _Tracer().trace(model))


def operation(graph: fx.GraphModule, node: fx.Node) -> str:
    """What a node computes.

    Returns
    -------
    str
        ``input``, ``output``, ``layer``, ``norm``, ``relu``, ``relu6``, ``add``, ``average``, ``maximum``, ``flatten``,
        ``same`` (identity when evaluating), ``shortcut`` or ``quantise``.

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
        if isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size not in (1, (1, 1)):
            found = None
    elif node.op == "call_function":
        found = _FUNCTIONS.get(node.target)
        if found == "average" and node.args[1] not in (1, (1, 1)):
            found = None
    elif node.op == "call_method":
        found = _METHODS.get(str(node.target))
    if found is None:
        raise CompressError(f"operation {node.format_node()!r} has no integer form")
    return found


# A quantiser goes after these, once what follows them in the same pass of the accelerator is behind.
_QUANTISED = ("input", "layer", "add", "average")
_FOLLOWERS = ("norm", "relu", "relu6", "same")


def quantise_activations(model: nn.Module) -> fx.GraphModule:
    """Put an :class:`ActivationQuantiser` wherever the accelerator makes int8. The output stays as it is.

    Parameters
    ----------
    model
        With decoded layers (:func:`sw.compress.training.modules.convert`), whose operations all have an integer form.

    Returns
    -------
    GraphModule
        Shares the model's layers, under their names; computes the same until :func:`calibrate`.

    Raises
    ------
    CompressError
        An operation has no integer form.
    """
    graph = trace(model)
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
        last.replace_all_uses_with(quantised, delete_user_cb=lambda user, new=quantised: user is not new)
    graph.recompile()
    return graph


class _QuantisedInput(nn.Module):
    """A decoded layer behind an activation quantiser."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.quantiser, self.layer = ActivationQuantiser(), layer

    def forward(self, values: Tensor) -> Tensor:
        return self.layer(self.quantiser(values))  # type: ignore[no-any-return]


def quantise_inputs(model: nn.Module) -> nn.Module:
    """Put an :class:`ActivationQuantiser` in front of every decoded layer, in place.

    For networks with operations that have no integer form, such as transformers: what the array computes is then int8,
    what lies between its layers is float. ``MultiheadAttention`` does not call its layer but takes the weight, so the
    input of that layer stays float.
    """
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
