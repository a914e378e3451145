"""The operations of a network as a graph (torch.fx): activation quantisers in, batch norm recalibrated.

Networks whose forward pass is convolutions, linear layers, batch norm, ReLU, ReLU6, residual additions, pooling,
padding with zeros and flattening have an integer form (:mod:`sw.compress.training.integer`). Of these, a quantiser goes
wherever the accelerator makes int8: at the network's input, after each layer with its batch norm and activation, after
each addition with its activation, and after average pooling. Others can train with :func:`quantise_inputs`.
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
    "arguments",
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
    (nn.BatchNorm1d, "norm"),
    (nn.ReLU6, "relu6"),
    (nn.ReLU, "relu"),
    (nn.AdaptiveAvgPool2d, "average"),
    (nn.AvgPool2d, "average"),
    (nn.MaxPool2d, "maximum"),
    (nn.ZeroPad2d, "pad"),
    (nn.Flatten, "flatten"),
    (nn.modules.dropout._DropoutNd, "same"),
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
    functional.avg_pool2d: "average",
    functional.max_pool2d: "maximum",
    functional.pad: "pad",
    functional.dropout: "same",
    torch.flatten: "flatten",
}
_METHODS = {"relu": "relu", "flatten": "flatten", "add": "add"}

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
    "flatten": {"start_dim": 0, "end_dim": -1},
}  # fmt: skip


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, _LEAVES) or super().is_leaf_module(module, name)


def trace(model: nn.Module) -> fx.GraphModule:
    """The graph of a network; decoded layers and quantisers are single nodes. It shares the model's parameters.

    Other ways to write an operation become that one: means over rows and columns, reshaping to ``[batch, features]``,
    and shortcuts of slices and channels of zeros.
    """
    graph = fx.GraphModule(model, _Tracer().trace(model))
    for node in list(graph.graph.nodes):
        with graph.graph.inserting_before(node):
            new = _rewritten(graph, node)
        if new is not None:
            node.replace_all_uses_with(new)
            graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _rewritten(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """A node that computes the same with an operation of the list, or None."""
    make, name, args = graph.graph.call_function, node.target, node.args
    if name in ("view", "reshape") and node.op == "call_method" and len(args) == 3 and _is_flat(args[1], args[2]):
        return make(torch.flatten, (args[0], 1))
    if (name == "mean" and node.op == "call_method") or name is torch.mean:
        axes = args[1] if len(args) > 1 else node.kwargs.get("dim")
        if isinstance(axes, tuple | list) and sorted(axes) in ([2, 3], [-2, -1]):
            mean = make(functional.adaptive_avg_pool2d, (args[0], 1))
            keep = args[2] if len(args) > 2 else node.kwargs.get("keepdim", False)
            return mean if keep else make(torch.flatten, (mean, 1))
    if name is functional.pad and isinstance(args[0], fx.Node) and args[0].target is operator.getitem:
        given = arguments(graph, node, "pad")
        padding, steps = given["padding"], args[0].args[1]
        plain = given["mode"] == "constant" and not given["value"] and len(padding) == 6 and not any(padding[:4])
        every = slice(None, None, None)
        if plain and isinstance(steps, tuple) and len(steps) == 4 and steps[:2] == (every, every):
            stride = steps[2].step if isinstance(steps[2], slice) else None
            if type(stride) is int and steps[2:] == (slice(None, None, stride),) * 2 and min(padding[4:]) >= 0:
                name = f"{node.name}_shortcut"
                graph.add_submodule(name, PadShortcut(stride, *padding[4:]))
                return graph.graph.call_module(name, (args[0].args[0],))
    return None


def _is_flat(batch: Any, features: Any) -> bool:
    """Whether a shape of two axes keeps the batch: the size of another value, or -1 with a number of features."""
    if isinstance(batch, fx.Node):
        return features == -1 or isinstance(features, int)
    return bool(batch == -1 and isinstance(features, int) and features > 0)


def arguments(graph: fx.GraphModule, node: fx.Node, kind: str) -> dict[str, Any]:
    """What a pooling, padding or flattening was given, by the names of torch's functions.

    Parameters
    ----------
    graph, node
        The operation.
    kind
        As :func:`operation` says, and not adaptive pooling.
    """
    names = _ARGUMENTS[kind]
    if node.op == "call_module":
        module = graph.get_submodule(str(node.target))
        return {name: getattr(module, name, default) for name, default in names.items()}
    given = dict(zip(names, node.args[1:], strict=False))
    pad = {"padding": node.kwargs["pad"]} if "pad" in node.kwargs else {}
    return names | given | {name: value for name, value in node.kwargs.items() if name in names} | pad


def operation(graph: fx.GraphModule, node: fx.Node) -> str:
    """What a node computes.

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
    elif node.op == "call_method":
        found = _METHODS.get(str(node.target))
    if found == "flatten":
        given = arguments(graph, node, found)
        found = found if (given["start_dim"], given["end_dim"]) == (1, -1) else None
    elif found == "add" and (len(node.args) != 2 or node.kwargs):
        found = None  # with a factor, which is not to be overlooked
    elif found == "same" and node.op == "call_function" and node.kwargs.get("training", True):
        found = None  # dropout that is always on
    if found is None:
        kind = f" ({type(module).__name__})" if node.op == "call_module" else ""
        raise CompressError(f"operation {node.format_node()!r}{kind} has no integer form")
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
        An operation has no integer form, or there is not one input and one output.
    """
    graph = trace(model)
    operations = {node: operation(graph, node) for node in graph.graph.nodes}
    inputs = sum(kind == "input" for kind in operations.values())
    if inputs != 1:
        raise CompressError(f"the network must have one input, not {inputs}")
    (results,) = next(node.args for node, kind in operations.items() if kind == "output")
    if not isinstance(results, fx.Node):
        raise CompressError(f"the network must have one output, not {str(results)[:100]}")
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
