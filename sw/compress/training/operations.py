"""What the operations of a network's graph are, and which of them the accelerator computes together.

- A ``layer`` takes the batch norm behind it (or other factors and summands of channels) and a ReLU or clamp into its
  requantisation, an addition, a product or average pooling the ReLU or clamp.
- Functions of one int8 value, however many, from where it is quantised to where the result is, are one table of 256
  entries: ``x * sigmoid(x)`` is a table, not a product of two values.
- A batch norm anywhere else is a layer of its own, depthwise, of 1 x 1.
"""

from __future__ import annotations

import operator as operators
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from sw.compress.frontend import Affine, Crop, FrontEndError, PadShortcut, Refusal, Repeat, Spread
from sw.compress.methods import CompressError
from sw.compress.training.layers import DecodedConv2d, DecodedLinear
from sw.compress.training.quant import ActivationQuantiser, BilinearUpsampling

__all__ = [
    "KINDS",
    "QUANTISED",
    "Roles",
    "arguments",
    "compared_layers",
    "limits",
    "operation",
    "output_nodes",
    "place",
    "region_values",
    "roles_of",
]

_MODULES: tuple[tuple[type[nn.Module], str], ...] = (
    (DecodedConv2d, "layer"),
    (DecodedLinear, "layer"),
    (nn.Conv2d, "layer"),
    (nn.Linear, "layer"),
    (nn.BatchNorm2d, "norm"),
    (nn.BatchNorm1d, "norm"),
    (Affine, "norm"),
    (nn.modules.dropout._DropoutNd, "same"),
    (PadShortcut, "shortcut"),
    (Spread, "spread"),
    (Crop, "crop"),
    (Repeat, "repeat"),
    (BilinearUpsampling, "bilinear"),
    (nn.PReLU, "function"),
    (ActivationQuantiser, "quantise"),
)
_FUNCTIONS: dict[Any, str] = {
    functional.relu: "relu",
    functional.relu6: "relu6",
    torch.clamp: "clamp",
    functional.adaptive_avg_pool2d: "average",
    functional.avg_pool2d: "average",
    functional.max_pool2d: "maximum",
    functional.pad: "pad",
    torch.flatten: "flatten",
    torch.unflatten: "unflatten",
    torch.cat: "concatenate",
    torch.narrow: "slice",
    functional.pixel_shuffle: "shuffle",
    functional.pixel_unshuffle: "unshuffle",
    **dict.fromkeys(
        (
            *(functional.silu, functional.gelu, functional.hardswish, functional.hardsigmoid, functional.leaky_relu),
            *(functional.elu, functional.mish, functional.logsigmoid, torch.sigmoid, torch.tanh),
            *(operators.neg, operators.truediv),
        ),
        "function",
    ),
}

#: What becomes of each kind of operation in the accelerator.
KINDS = {
    "input": "int8, by one scale",
    "layer": "int32 sums, requantised to int8",
    "norm": "folded into the layer before",
    "affine": "a layer of its own: a factor and a summand for each channel",
    "relu": "a range of the values before",
    "relu6": "a range of the values before",
    "clamp": "a range of the values before",
    "add": "int8 sum of two values by their scales",
    "multiply": "int8 product of two values",
    "function": "a table of 256 int8, together with the functions beside it",
    "concatenate": "channels of several values, of one scale",
    "slice": "some of the channels",
    "nearest": "each value four times",
    "bilinear": "rounded means of neighbours, of the same scale",
    "repeat": "each row and column several times",
    "crop": "some of the rows and columns",
    "shuffle": "pixels of several channels side by side",
    "unshuffle": "pixels side by side as channels",
    "spread": "zeros between rows and columns, for a transposed convolution",
    "average": "int8 mean of windows",
    "maximum": "int8 maximum of windows",
    "pad": "zeros around",
    "flatten": "the same values in a row",
    "unflatten": "the same values, a factor for each channel",
    "same": "nothing",
    "shortcut": "rows and columns left out, channels of zeros added",
}

#: A quantiser goes after these, once what follows them in the same pass of the accelerator is behind.
QUANTISED = ("input", "layer", "affine", "add", "multiply", "average")
_CLAMPS = ("relu", "relu6", "clamp")

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

_ADVICE_ELSE = "replace it by operations that have one, or keep the layers alone (--layers-alone)"
_ADVICE: dict[Any, str] = {
    functional.softmax: (
        "leave it out of the network, and apply it to what the network gives: the largest logit is that of the most"
        " probable class"
    ),
    functional.log_softmax: "leave it out of the network, and apply it to what the network gives",
}


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


def limits(kind: str, node: fx.Node) -> tuple[float, float]:
    """The least and the greatest result of a ReLU, ReLU6 or clamp."""
    if kind == "clamp":
        return float(node.args[1]), float(node.args[2])  # type: ignore[arg-type]
    return 0.0, 6.0 if kind == "relu6" else inf


def operation(graph: nn.Module, node: fx.Node) -> str:
    """What a node computes, by itself.

    Parameters
    ----------
    graph
        Has the modules that nodes call.
    node
        Of a graph that :func:`sw.compress.training.graph.trace` made.

    Returns
    -------
    str
        One of :data:`KINDS`, ``output`` or ``quantise``. ``function`` is one of the elements of a value, or of several
        of one shape, each by itself; ``same`` is the identity when evaluating.

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
        two = len([each for each in node.args if isinstance(each, fx.Node)]) == 2
        if node.target in (operators.add, operators.mul):
            found = "function" if not two else "add" if node.target is operators.add else "multiply"
        elif node.target is operators.sub:
            found = "function"
        elif node.target is functional.interpolate:
            found = str(node.kwargs["mode"])
        elif isinstance(node.target, torch._ops.OpOverload) and torch.Tag.pointwise in node.target.tags:
            found = "function"
        else:
            found = _FUNCTIONS.get(node.target)
    if found is None:
        raise CompressError(f"{place(node)} has no integer form: {_ADVICE.get(node.target, _ADVICE_ELSE)}")
    return found


def output_nodes(node: fx.Node) -> list[tuple[str, fx.Node]]:
    """The names and the nodes of what a graph gives: ``0``, ``boxes`` or ``heads.1``; empty for one tensor alone."""
    return list(_leaves(node.args[0], ""))


def _leaves(given: Any, name: str) -> Iterator[tuple[str, fx.Node]]:
    if isinstance(given, fx.Node):
        yield name, given
        return
    pairs = given.items() if isinstance(given, dict) else enumerate(given)
    for key, value in pairs:
        yield from _leaves(value, f"{name}.{key}" if name else str(key))


@dataclass
class Roles:
    """What the operations of a graph are, beside each other."""

    graph: nn.Module
    #: As :func:`operation`, but ``affine`` for a batch norm that is folded into no layer.
    kinds: dict[fx.Node, str] = field(default_factory=dict)
    #: Of each function of elements, ReLU and so on that a table computes, the value that the table reads.
    regions: dict[fx.Node, fx.Node] = field(default_factory=dict)
    #: Of each operation that another one computes in the same pass, that one.
    absorbed: dict[fx.Node, fx.Node] = field(default_factory=dict)

    def last(self, node: fx.Node) -> fx.Node:
        """The last operation of the pass that begins with this one."""
        while len(node.users) == 1 and (after := next(iter(node.users))) in self.absorbed:
            node = after
        return node

    def compared(self, node: fx.Node) -> bool:
        """Whether the sums of a layer are an output: they stay int32."""
        last, between = self.last(node), node
        while between is not last:
            between = next(iter(between.users))
            if self.kinds[between] != "same":
                return False
        return self.kinds[node] == "layer" and [self.kinds[user] for user in last.users] == ["output"]

    def joined(self, node: fx.Node) -> bool:
        """Whether a concatenation alone reads the result, and so gives it its scale."""
        return self.kinds[node] != "input" and [self.kinds[user] for user in self.last(node).users] == ["concatenate"]


def roles_of(graph: fx.GraphModule) -> Roles:
    """What the operations of a graph are, beside each other.

    Raises
    ------
    FrontEndError
        An operation has no integer form: all of them are named.
    """
    roles = Roles(graph)
    refusals: dict[str, None] = {}
    # For each operation that others can follow in its pass, the first of them, and what may still follow.
    passes: dict[fx.Node, tuple[fx.Node, str]] = {}
    for node in graph.graph.nodes:
        try:
            kind = roles.kinds[node] = operation(graph, node)
            _place_node(roles, passes, node, kind)
        except CompressError as error:
            refusals[str(error)] = None
    if refusals:
        raise FrontEndError([Refusal(text, "") for text in refusals])
    return roles


def compared_layers(graph: fx.GraphModule) -> set[str]:
    """Names of the layers whose sums are outputs of a graph: they must have one scale for all of their channels."""
    roles = roles_of(graph)
    return {str(node.target) for node, kind in roles.kinds.items() if kind == "layer" and roles.compared(node)}


def _place_node(roles: Roles, passes: dict[fx.Node, tuple[fx.Node, str]], node: fx.Node, kind: str) -> None:
    source = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
    roots = {roles.regions.get(each, each) for each in node.all_input_nodes}
    inside = [each for each in node.all_input_nodes if each in roles.regions]
    # A pass goes on where nothing else reads what it has so far.
    first, open_to = passes.get(source, (None, "")) if source is not None and len(source.users) == 1 else (None, "")
    if kind == "function" and len(roots) > 1:
        advice = "compute it of one value alone, or use sums and products"
        raise CompressError(f"{place(node)} of two values has no integer form: {advice}")
    of_one = len(roots) == 1 and (kind == "multiply" or (kind == "add" and bool(inside)))
    if kind == "function" or (kind in (*_CLAMPS, "same") and inside) or of_one:
        roles.regions[node] = next(iter(roots))
    elif kind == "norm" and open_to != "norm":
        if isinstance(roles.graph.get_submodule(str(node.target)), nn.BatchNorm1d):
            advice = "put it behind a layer, or take BatchNorm2d before flattening"
            raise CompressError(f"{place(node)} of features behind no layer has no integer form: {advice}")
        roles.kinds[node] = "affine"
        passes[node] = node, "norm"
    elif kind in QUANTISED or kind == "concatenate":
        passes[node] = node, {"layer": "norm", "concatenate": "relu"}.get(kind, "clamp")
    elif kind == "norm" and first is not None:
        roles.absorbed[node] = first
        passes[node] = first, "norm"
    elif kind in _CLAMPS:
        low, high = limits(kind, node)
        spans = low <= 0 <= high
        if first is not None and spans and (open_to in ("norm", "clamp") or kind == "relu"):
            roles.absorbed[node] = first
            passes[node] = first, "clamp" if open_to == "norm" else open_to
        elif not spans or any(limit not in (0, inf, -inf) for limit in (low, high)):
            # Its limits may lie between two integers: a table rounds as it should.
            assert source is not None
            roles.regions[node] = source
    elif kind == "same" and first is not None:
        roles.absorbed[node] = first
        passes[node] = first, open_to


def region_values(graph: fx.GraphModule, node: fx.Node, root: fx.Node, values: Tensor) -> Tensor:
    """What a table computes of values: ``node``, a function of ``root`` (:attr:`Roles.regions`)."""
    found: dict[fx.Node, Any] = {root: values}

    def compute(each: fx.Node) -> Any:
        if each not in found:
            for source in each.all_input_nodes:
                compute(source)
            args, kwargs = fx.map_arg((each.args, each.kwargs), lambda given: found[given])
            if each.op == "call_module":
                found[each] = graph.get_submodule(str(each.target))(*args, **kwargs)
            else:
                assert callable(each.target)
                found[each] = each.target(*args, **kwargs)
        return found[each]

    result: Tensor = compute(node)
    return result
