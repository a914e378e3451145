"""From captured ATen operations to a graph of layers, batch norms, dropout and torch's functions."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.nn import functional

from sw.compress.frontend.capture import Captured, capture, capture_program, evaluated, same, unwrapped
from sw.compress.frontend.places import FrontEndError, Refusal, place
from sw.compress.methods import CompressError

__all__ = ["PadShortcut", "raise_network", "raise_program"]

_aten = torch.ops.aten


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


@dataclass(frozen=True)
class _Constant:
    """A value that no image has a part in."""

    value: Any
    # Names of the parameters and buffers that it was computed from; `exact` if it is the first of them itself.
    origins: tuple[str, ...] = ()
    exact: bool = False


# Operations that are one of torch's functions, with the same arguments.
_SAME: dict[Any, Callable[..., Any]] = {
    _aten.relu.default: functional.relu,
    _aten.relu6.default: functional.relu6,
    _aten.silu.default: functional.silu,
    _aten.gelu.default: functional.gelu,
    _aten.hardswish.default: functional.hardswish,
    _aten.hardsigmoid.default: functional.hardsigmoid,
    _aten.sigmoid.default: torch.sigmoid,
    _aten.tanh.default: torch.tanh,
    _aten.leaky_relu.default: functional.leaky_relu,
    _aten.elu.default: functional.elu,
    _aten.prelu.default: functional.prelu,
    _aten.hardtanh.default: functional.hardtanh,
    _aten.mish.default: functional.mish,
    _aten.softmax.int: functional.softmax,
    _aten.mul.Tensor: torch.mul,
    _aten.sub.Tensor: torch.sub,
    _aten.div.Tensor: torch.div,
    _aten.cat.default: torch.cat,
    _aten.adaptive_avg_pool2d.default: functional.adaptive_avg_pool2d,
    _aten.adaptive_max_pool2d.default: functional.adaptive_max_pool2d,
    _aten.avg_pool2d.default: functional.avg_pool2d,
    _aten.max_pool2d.default: functional.max_pool2d,
}
# The value as it is.
_IDENTITIES = (
    _aten.alias.default,
    _aten.clone.default,
    _aten.contiguous.default,
    _aten.detach.default,
    _aten.detach_.default,
    _aten.lift_fresh_copy.default,
    _aten._to_copy.default,
    _aten.to.dtype,
    _aten.to.dtype_layout,
    _aten.to.device,
)
# The same values in another shape, which the result's says.
_RESHAPES = (
    _aten.view.default,
    _aten._unsafe_view.default,
    _aten.reshape.default,
    _aten.flatten.using_ints,
    _aten.squeeze.default,
    _aten.squeeze.dim,
    _aten.squeeze.dims,
    _aten.unsqueeze.default,
)
_WITHOUT_STATISTICS = (
    _aten.batch_norm.default,
    _aten._native_batch_norm_legit.no_stats,
    _aten._native_batch_norm_legit.default,
    _aten.native_batch_norm.default,
    _aten._native_batch_norm_legit_functional.default,
)
_REASON = "has no integer form"


class _Refused(Exception):
    def __init__(self, why: str = _REASON, advice: str = "") -> None:
        super().__init__(why)
        self.why, self.advice = why, advice


def _refused() -> Any:
    """Stands where something was refused."""
    raise NotImplementedError


@dataclass
class _Raiser:
    """Goes through the captured operations in their order."""

    model: nn.Module
    captured: Captured
    # Names of layers by the path of the module that computes them, where it is another.
    names: Mapping[str, str]
    check: Callable[[nn.Module, fx.Node], object] | None
    graph: fx.Graph = field(default_factory=fx.Graph)
    root: nn.Module = field(default_factory=nn.Module)
    values: dict[fx.Node, Any] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    # The name and the weight of each layer, to tell which are computed from the same.
    layers: list[tuple[str, _Constant]] = field(default_factory=list)
    # Parameters that were made of what is none, by its identity, and what it is.
    parameters: dict[int, tuple[nn.Parameter, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        modules = self.model.named_modules(remove_duplicate=False)
        self.first: dict[int, str] = {}
        for path, module in modules:
            self.first.setdefault(id(module), path)

    def run(self) -> None:
        live = {self.captured.output}
        for node in reversed(self.captured.graph.nodes):
            if node in live:
                live.update(node.all_input_nodes)
        for node in self.captured.graph.nodes:
            if node is self.captured.image:
                self.values[node] = self.graph.placeholder("images")
            elif node in self.captured.tensors:
                value, name = self.captured.tensors[node]
                self.values[node] = _Constant(value, (name,) if name else (), exact=bool(name))
            elif node.op == "get_attr" and node in live:
                self.values[node] = _Constant(operator.attrgetter(str(node.target))(self.captured.owner))
            elif node.op == "call_function" and node in live:
                self.operation(node)
        result = self.values.get(self.captured.output)
        if isinstance(result, fx.Node):
            self.graph.output(result)
        elif not self.refusals:
            self.refusals.append(Refusal("", "the network's output must depend on the images"))

    def operation(self, node: fx.Node) -> None:
        """Raise one operation; what is refused is noted, and stands for itself so that the others are seen, too."""
        operands = [self.values[each] for each in node.all_input_nodes]
        count = len(self.graph.nodes)
        try:
            if all(isinstance(each, _Constant) for each in operands):
                self.values[node] = self.constant(node)
            else:
                self.values[node] = self.raised(node)
        except _Refused as refused:
            self.refusals.append(Refusal(place(node), refused.why, refused.advice))
            self.values[node] = self.graph.call_function(_refused, (), {})
        for new in list(self.graph.nodes)[count:]:
            new.meta["place"] = place(node)
            if new.target is not _refused and self.check is not None:
                try:
                    self.check(self.root, new)
                except CompressError as error:
                    self.refusals.append(Refusal(str(error), ""))

    # Constants

    def constant(self, node: fx.Node) -> _Constant:
        """What an operation makes of parameters alone, computed once."""
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            raise _Refused("draws random numbers", "leave it out in evaluation mode")
        origins: dict[str, None] = {}

        def value(given: fx.Node) -> Any:
            constant: _Constant = self.values[given]
            origins.update(dict.fromkeys(constant.origins))
            return constant.value

        args, kwargs = fx.map_arg((node.args, node.kwargs), value)
        with torch.no_grad():
            result = cast(Callable[..., Any], node.target)(*args, **kwargs)
        return _Constant(result, tuple(origins))

    def number(self, given: Any) -> Any:
        """An argument that is no tensor of the network's; a constant of one element is its number."""
        constant = self.values[given] if isinstance(given, fx.Node) else None
        if isinstance(constant, _Constant) and isinstance(constant.value, Tensor) and constant.value.numel() == 1:
            return constant.value.item()
        return given

    # Operations

    def raised(self, node: fx.Node) -> Any:
        target: Any = node.target
        if target in (_aten.conv2d.default, _aten.conv2d.padding, _aten.convolution.default):
            return self.convolution(node)
        if target is _aten.linear.default:
            return self.linear(node)
        if target is _aten._native_batch_norm_legit_no_training.default:
            return self.norm(node, *cast(tuple[float, float], node.args[5:7])), None, None
        if target is _aten.batch_norm.default and node.args[5] is False:
            return self.norm(node, *cast(tuple[float, float], node.args[6:8]))
        if target in _WITHOUT_STATISTICS:
            advice = "use track_running_stats=True, and train it or let it see images in training mode"
            raise _Refused("must have running statistics: a batch norm that takes each batch's own " + _REASON, advice)
        if target is operator.getitem:
            value, number = self.value(node.args[0]), node.args[1]
            if isinstance(value, fx.Node) and value.target is _refused:
                return value
            if isinstance(value, tuple):
                if value[number] is None:  # type: ignore[index]
                    raise _Refused("is used for a second result, such as indices, which " + _REASON)
                return value[number]  # type: ignore[index]
            raise _Refused()
        if torch.Tag.nondeterministic_seeded in getattr(target, "tags", ()):
            raise _Refused("draws random numbers", "leave it out in evaluation mode")
        if target in _IDENTITIES:
            return self.identity(node)
        if target in _RESHAPES:
            return self.reshape(node)
        if target is torch.ops.msvq.dropout.default:
            module = (nn.Dropout2d if node.args[2] else nn.Dropout)(cast(float, node.args[1]))
            return self.call(module, self.free(self.path(node) or "dropout"), self.tensor(node.args[0]))
        if target in (_aten.clamp.default, _aten.clamp_min.default, _aten.hardtanh.default):
            return self.clamp(node)
        if target is _aten.add.Tensor:
            return self.add(node)
        if target is _aten.mean.dim:
            return self.mean(node)
        if target is _aten.max_pool2d_with_indices.default:
            return self.function(functional.max_pool2d, node), None
        if target in (_aten.pad.default, _aten.constant_pad_nd.default):
            return self.pad(node)
        if target is _aten.slice.Tensor:
            return self.slice(node)
        if target in _SAME:
            return self.function(_SAME[target], node)
        if isinstance(target, torch._ops.HigherOrderOperator):
            raise _Refused(f"is a region with rules of its own, such as autocast, which {_REASON}", "leave it out")
        raise _Refused()

    def value(self, given: Any) -> Any:
        return self.values[given] if isinstance(given, fx.Node) and given.graph is not self.graph else given

    def tensor(self, given: Any) -> fx.Node:
        """An argument that comes from the images."""
        value = self.value(given)
        if not isinstance(value, fx.Node):
            raise _Refused(f"with a constant {_REASON}")
        return value

    def function(self, function: Callable[..., Any], node: fx.Node) -> fx.Node:
        def argument(given: fx.Node) -> Any:
            value = self.values[given]
            return self.number(given) if isinstance(value, _Constant) else value

        args, kwargs = fx.map_arg((node.args, node.kwargs), argument)
        if any(isinstance(each, fx.Node) and each.graph is not self.graph for each in (*args, *kwargs.values())):
            raise _Refused(f"with a constant tensor {_REASON}")
        return self.graph.call_function(function, args, kwargs)

    def call(self, module: nn.Module, name: str, values: fx.Node) -> fx.Node:
        parent, _, child = name.rpartition(".")
        owner = self.root
        for part in parent.split(".") if parent else ():
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        if owner._modules.get(child) is not module:
            owner.add_module(child, module)
        return self.graph.call_module(name, (values,))

    def taken(self, name: str) -> bool:
        try:
            self.root.get_submodule(name)
        except AttributeError:
            return False
        return True

    def free(self, name: str) -> str:
        """The name, or one like it if it is taken."""
        number, found = 1, name
        while self.taken(found):
            number += 1
            found = f"{name}_{number}"
        return found

    def path(self, node: fx.Node) -> str:
        """The first of the names of the innermost module that the operation is in."""
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        path = str(stack[-1][0]) if stack else ""
        module = self.module(path)
        return self.first.get(id(module), path)

    def module(self, path: str) -> nn.Module | None:
        try:
            return self.model.get_submodule(path.split("@")[0])
        except AttributeError:
            return None

    def layer_name(self, node: fx.Node, weight: _Constant) -> str:
        """Of the layer in whose module the operation is, or to which the weight belongs."""
        path = self.path(node)
        name = self.names.get(path, "")
        if not name and (not weight.origins or isinstance(getattr(self.module(path), "weight", None), Tensor)):
            name = path
        elif not name:
            name = re.sub(r"[._]?weight$", "", weight.origins[0])
        name = name or "layer"
        for other, constant in self.layers:
            shared = sorted(set(weight.origins) & set(constant.origins))
            if shared and weight.value is not constant.value:
                why = f"must not compute its weight from {', '.join(shared)}, as layer {other!r} does in another way"
                raise _Refused(why, "they would be trained apart; give each layer a weight of its own")
        name = self.free(f"{name}_call2") if self.taken(name) else name
        self.layers.append((name, weight))
        return name

    def parameter(self, given: Any, what: str) -> nn.Parameter | None:
        """A parameter of a layer: the network's own, or a new one of what was computed."""
        constant = self.value(given)
        if constant is None:
            return None
        if not isinstance(constant, _Constant):
            raise _Refused(f"must have a {what} that does not depend on the images")
        if isinstance(constant.value, nn.Parameter):
            return constant.value
        if id(constant.value) not in self.parameters:
            self.parameters[id(constant.value)] = nn.Parameter(constant.value.detach().clone()), constant.value
        return self.parameters[id(constant.value)][0]

    def weight(self, given: Any) -> tuple[_Constant, nn.Parameter]:
        constant = self.value(given)
        if isinstance(constant, _Constant) and not constant.exact:
            # Computed once more in the same way, it is the same weight.
            for _, other in self.layers:
                if not other.exact and other.origins == constant.origins and torch.equal(other.value, constant.value):
                    constant = other
        parameter = self.parameter(given if constant is self.value(given) else constant, "weight")
        assert parameter is not None
        return constant, parameter

    def convolution(self, node: fx.Node) -> fx.Node:
        names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
        given: dict[str, Any] = {"bias": None, "stride": [1], "padding": [0], "dilation": [1], "groups": 1}
        if node.target is _aten.convolution.default:
            if node.args[6]:
                raise _Refused(f"is transposed, which {_REASON}", "use upsampling and a convolution")
            node_args = (*node.args[:6], node.args[8])
        else:
            node_args = node.args
        given |= dict(zip(names, node_args, strict=False)) | dict(node.kwargs)
        constant, weight = self.weight(given["weight"])
        bias = self.parameter(given["bias"], "bias")
        if weight.ndim != 4:
            raise _Refused()
        values = self.tensor(given["input"])
        stride, dilation = (_pair(given[name]) for name in ("stride", "dilation"))
        padding = given["padding"]
        if isinstance(padding, str):
            spans = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, weight.shape[2:], strict=True)]
            if any(span % 2 for span in spans):
                (top, bottom), (left, right) = ((span // 2, span - span // 2) for span in spans)
                values = self.graph.call_function(functional.pad, (values, (left, right, top, bottom)))
                spans = [0, 0]
            padding = [span // 2 for span in spans]
        K, C, R, S = weight.shape
        groups = given["groups"]
        layer = nn.Conv2d(
            C * groups, K, (R, S), stride, _pair(padding), dilation, groups, bias is not None, device="meta"
        )
        layer.weight, layer.bias = weight, bias
        return self.call(layer, self.layer_name(node, constant), values)

    def linear(self, node: fx.Node) -> fx.Node:
        constant, weight = self.weight(node.args[1])
        bias = self.parameter(node.args[2] if len(node.args) > 2 else node.kwargs.get("bias"), "bias")
        if weight.ndim != 2 or _shape(node.args[0]) is None:
            raise _Refused()
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
        layer.weight, layer.bias = weight, bias  # type: ignore[assignment]
        return self.call(layer, self.layer_name(node, constant), self.tensor(node.args[0]))

    def norm(self, node: fx.Node, momentum: float, epsilon: float) -> fx.Node:
        weight, bias = (
            self.parameter(each, what) for each, what in zip(node.args[1:3], ("weight", "bias"), strict=True)
        )
        mean, variance = (self.value(each) for each in node.args[3:5])
        rank = len(_shape(node.args[0]) or ())
        if not isinstance(mean, _Constant) or rank not in (2, 4):
            raise _Refused()
        path = self.path(node)
        own = self.module(path)
        kind = nn.BatchNorm2d if rank == 4 else nn.BatchNorm1d
        norm = kind(len(mean.value), epsilon, momentum, weight is not None or bias is not None, device="meta")
        if isinstance(own, nn.modules.batchnorm._BatchNorm):
            norm.momentum = own.momentum
            counter = own.num_batches_tracked
        else:
            counter = None
        if norm.affine:
            ones = torch.ones_like(mean.value)
            norm.weight = nn.Parameter(ones) if weight is None else weight
            norm.bias = nn.Parameter(torch.zeros_like(ones)) if bias is None else bias
        # Statistics that were computed, not stored, are a copy.
        norm.running_mean, norm.running_var = (
            each.value if each.exact else each.value.clone() for each in (mean, variance)
        )
        norm.num_batches_tracked = (
            torch.zeros((), dtype=torch.long, device=mean.value.device) if counter is None else counter
        )
        base = path or "norm"
        name, number = base, 1
        while self.taken(name) and not _same_norm(self.root.get_submodule(name), norm):
            number += 1
            name = f"{base}_{number}"
        module = self.root.get_submodule(name) if self.taken(name) else norm
        return self.call(module, name, self.tensor(node.args[0]))

    def identity(self, node: fx.Node) -> Any:
        before, after = (each.meta["val"] for each in (node.args[0], node))  # type: ignore[union-attr]
        if before.dtype != after.dtype or before.device != after.device:
            raise _Refused(
                f"changes the precision from {before.dtype} to {after.dtype}, which {_REASON}", "leave it out"
            )
        return self.tensor(node.args[0])

    def reshape(self, node: fx.Node) -> Any:
        before, after = _shape(node.args[0]), _shape(node)
        assert before is not None
        assert after is not None
        if before == after:
            return self.tensor(node.args[0])
        if len(before) > 2 and len(after) == 2 and after == (before[0], prod(before[1:])):
            return self.graph.call_function(torch.flatten, (self.tensor(node.args[0]), 1))
        raise _Refused(
            f"of {_text(before)} to {_text(after)} {_REASON}", "flatten each image alone, as flatten(1) does"
        )

    def clamp(self, node: fx.Node) -> fx.Node:
        names = ("min_val", "max_val") if node.target is _aten.hardtanh.default else ("min", "max")
        given = dict.fromkeys(names, None) if "min" in names else {"min_val": -1.0, "max_val": 1.0}
        given |= dict(zip(names, node.args[1:], strict=False)) | dict(node.kwargs)
        low, high = (self.number(given[name]) for name in names)
        if low == 0 and high in (None, float("inf")):
            return self.graph.call_function(functional.relu, (self.tensor(node.args[0]),))
        if low == 0 and high == 6:
            return self.graph.call_function(functional.relu6, (self.tensor(node.args[0]),))
        raise _Refused(f"to {low}..{high} {_REASON}", "clamp to 0 and above (ReLU) or to 0..6 (ReLU6)")

    def add(self, node: fx.Node) -> fx.Node:
        if node.kwargs.get("alpha", 1) != 1:
            raise _Refused(f"with alpha={node.kwargs['alpha']} {_REASON}", "add two values as they are")
        a, b = (self.value(each) for each in node.args[:2])
        if not (isinstance(a, fx.Node) and isinstance(b, fx.Node)):
            raise _Refused(f"with a constant {_REASON}", "add two values, or make it a bias of the layer before")
        first, second = (_shape(each) for each in node.args[:2])
        if first != second:
            raise _Refused(f"of {_text(first)} and {_text(second)} {_REASON}", "add two values of one shape")
        return self.graph.call_function(operator.add, (a, b))

    def mean(self, node: fx.Node) -> fx.Node:
        rank = len(_shape(node.args[0]) or ())
        axes = sorted(axis % rank for axis in cast(list[int], node.args[1] or range(rank)))
        keep = node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim", False)
        if rank != 4 or axes != [2, 3]:
            raise _Refused(f"over axes {axes} {_REASON}", "take the mean over rows and columns")
        mean = self.graph.call_function(functional.adaptive_avg_pool2d, (self.tensor(node.args[0]), 1))
        return mean if keep else self.graph.call_function(torch.flatten, (mean, 1))

    def pad(self, node: fx.Node) -> fx.Node:
        given = dict(zip(("pad", "mode", "value"), node.args[1:], strict=False))
        if node.target is _aten.constant_pad_nd.default:
            given = {"pad": node.args[1], "mode": "constant", "value": node.args[2] if len(node.args) > 2 else 0}
        given = {"mode": "constant", "value": None} | given | dict(node.kwargs)
        margins, mode = [int(x) for x in cast("list[int]", given["pad"])], given["mode"]
        number = self.number(given["value"])
        if mode != "constant" or number or min(margins, default=0) < 0:
            what = f"with mode {mode!r}" if mode != "constant" else f"with {number}" if number else f"by {margins}"
            raise _Refused(f"{what} {_REASON}", "padding must add zeros to rows and columns alone, and take none away")
        source = node.args[0]
        if len(margins) == 6 and not any(margins[:4]):
            stride = 1
            if isinstance(self.value(source), _Strided):
                strided = self.values[cast(fx.Node, source)]
                stride, source = strided.stride, strided.source
            module = PadShortcut(stride, *margins[4:])
            return self.call(module, self.free(f"{node.name}_shortcut"), self.tensor(source))
        if len(margins) > 4 and any(margins[4:]):
            raise _Refused(
                f"by {margins} {_REASON}", "padding must add zeros to rows and columns alone, and take none away"
            )
        return self.graph.call_function(functional.pad, (self.tensor(source), tuple(margins[:4])))

    def slice(self, node: fx.Node) -> Any:
        """Every so many rows, and as many columns, of which a shortcut is made if padding follows."""
        axis, first, last, step = list(node.args[1:]) + [0, 0, None, 1][len(node.args) - 1 :]
        source = node.args[0]
        before = self.value(source)
        shape = _shape(source) or ()
        rank, axis = len(shape), cast(int, axis) % max(len(shape), 1)
        whole = first in (0, None) and (last is None or cast(int, last) >= shape[axis])
        if whole and step == 1:
            return before
        if whole and rank == 4:
            if axis == 2 and isinstance(before, fx.Node):
                return _Strided(cast(int, step), cast(fx.Node, source), rows_only=True)
            if axis == 3 and isinstance(before, _Strided) and before.rows_only and before.stride == step:
                strided = _Strided(before.stride, before.source, rows_only=False)
                return strided
        raise _Refused(
            f"of {_text(shape)} {_REASON}", "take the whole, or every n-th row and column with zero channels"
        )


@dataclass(frozen=True)
class _Strided:
    stride: int
    source: fx.Node
    rows_only: bool


def _pair(value: Any) -> tuple[int, int]:
    values = [value] if isinstance(value, int) else list(value)
    return int(values[0]), int(values[-1])


def _shape(node: Any) -> tuple[int, ...] | None:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return tuple(int(x) for x in value.shape) if isinstance(value, Tensor) else None


def _text(shape: tuple[int, ...] | None) -> str:
    """Of an image."""
    return " x ".join(map(str, shape[1:])) if shape else "a number"


def _same_norm(a: nn.Module, b: nn.Module) -> bool:
    tensors = ("weight", "bias", "running_mean", "running_var")
    return type(a) is type(b) and all(getattr(a, name) is getattr(b, name) for name in tensors)


@torch.no_grad()
def raise_network(
    model: nn.Module,
    images: Tensor,
    *,
    names: Mapping[str, str] | None = None,
    check: Callable[[nn.Module, fx.Node], object] | None = None,
) -> fx.GraphModule:
    """A float network as a graph of layers, batch norms, dropout, torch's functions and :class:`PadShortcut`.

    Parameters
    ----------
    model
        In float32. Not changed; the graph shares its parameters and the buffers of its batch norms.
    images
        Normalised floats ``[batch, C, rows, columns]``: the graph computes what the network does of them.
    names
        Of layers, by the path of the module that computes them, where it is another one.
    check
        Called with the modules and each node of the graph; a CompressError of it is one more refusal.

    Returns
    -------
    GraphModule
        In evaluation mode. Layers are plain ``Conv2d`` and ``Linear`` by the names of the user's modules, with the
        weight that the network uses, hooks and parametrisations computed. A layer that is called more than once is
        several that share one parameter. ``meta["weights"]`` has the names of the parameters that each layer's weight
        is computed from, ``meta["place"]`` of each node where it is in the user's network.

    Raises
    ------
    FrontEndError
        Something in the network cannot be taken; all of it is listed.
    """
    model = unwrapped(model)
    captured = capture(model, images)
    graph = _raised(_Raiser(model, captured, names or {}, check))
    one, expected = graph(captured.sample[:1]), evaluated(model, captured.sample[:1])
    if not same(one, expected):
        why = "the network computes something else of one image than of the same in a batch" + _apart(one, expected)
        raise FrontEndError([Refusal("", why, "have it treat every image alone, whatever their number")])
    return graph


@torch.no_grad()
def raise_program(program: ExportedProgram) -> fx.GraphModule:
    """As :func:`raise_network`, of a program of ``torch.export``, such as a ``.pt2`` file holds.

    Raises
    ------
    FrontEndError
        Something in it cannot be taken; all of it is listed.
    """
    captured = capture_program(program)
    graph = _raised(_Raiser(program.module(), captured, {}, None))
    # It is a network like any other from here on, to be captured itself.
    graph.meta.clear()
    return graph


def _raised(raiser: _Raiser) -> fx.GraphModule:
    captured = raiser.captured
    raiser.run()
    if raiser.refusals:
        raise FrontEndError(raiser.refusals)
    graph = fx.GraphModule(raiser.root, raiser.graph)
    graph.eval()
    graph.meta["weights"] = {name: weight.origins for name, weight in raiser.layers}
    found = graph(captured.sample)
    if not same(found, captured.outputs):
        why = "the network computes something else than torch.export sees of it" + _apart(found, captured.outputs)
        advice = "leave out global hooks, and in-place operations on memory that two values share"
        raise FrontEndError([Refusal("", why, advice)])
    return graph


def _apart(found: Tensor, expected: Tensor) -> str:
    if found.shape != expected.shape:
        return f" ({list(found.shape)} and {list(expected.shape)})"
    return f" (apart by {float((found.double() - expected.double()).abs().max()):.3g})"
