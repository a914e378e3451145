"""From captured ATen operations to a graph of layers, batch norms, dropout and torch's functions."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.nn import functional
from torch.utils._pytree import tree_leaves, tree_map

from sw.compress.frontend.capture import Captured, capture, capture_program, evaluated, same, unwrapped
from sw.compress.frontend.modules import Repeat, Spread
from sw.compress.frontend.places import FrontEndError, Refusal, place
from sw.compress.frontend.raiser import (
    REASON,
    Constant,
    Expanded,
    Refused,
    pair,
    refused_value,
    shape_of,
    times,
)
from sw.compress.frontend.values import ARITHMETIC, CLAMPS, MOVING, PARTS, UPSAMPLING, ValueRaiser
from sw.compress.methods import CompressError
from sw.compress.network import STATE

__all__ = ["raise_network", "raise_program"]

_aten = torch.ops.aten


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
    _aten.mish.default: functional.mish,
    _aten.softmax.int: functional.softmax,
    _aten.log_softmax.int: functional.log_softmax,
    _aten.log_sigmoid.default: functional.logsigmoid,
    _aten.adaptive_avg_pool2d.default: functional.adaptive_avg_pool2d,
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
    _aten.unflatten.int,
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


@dataclass
class _Raiser(ValueRaiser):
    """Goes through the captured operations in their order."""

    def run(self) -> None:
        live = {each for each in tree_leaves(self.captured.output) if isinstance(each, fx.Node)}
        for node in reversed(self.captured.graph.nodes):
            if node in live:
                live.update(node.all_input_nodes)
        for node in self.captured.graph.nodes:
            if node is self.captured.image:
                self.values[node] = self.graph.placeholder("images")
            elif node in self.captured.tensors:
                value, name = self.captured.tensors[node]
                self.values[node] = Constant(value, (name,) if name else (), exact=bool(name))
            elif node.op == "get_attr" and node in live:
                self.values[node] = Constant(operator.attrgetter(str(node.target))(self.captured.owner))
            elif node.op == "call_function" and node in live:
                self.operation(node)
        self.graph.output(tree_map(self.output, self.captured.output))
        if self.check is not None:
            self.outputs()
        # Parts of a value that nothing reads.
        self.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))

    def outputs(self) -> None:
        """Note outputs that integers cannot have: the images themselves, and one value twice."""
        seen: list[fx.Node] = []
        for given in tree_leaves(self.captured.output):
            value = self.value(given)
            if not isinstance(value, fx.Node) or value.target is refused_value:
                continue
            if value.op == "placeholder":
                advice = "leave it out of what the network returns"
                why = "each output must be computed by the network, not be the image itself"
                self.later.append(Refusal("", why, advice))
            elif value in seen:
                why = f"two outputs must differ, not be one value, of {place(given)}"
                self.later.append(Refusal("", why, "return it once"))
            seen.append(value)

    def output(self, given: Any) -> Any:
        """The value of one output."""
        if isinstance(self.value(given), Constant):
            self.refusals.append(Refusal("", "each of the network's outputs must depend on the images"))
            return None
        try:
            return self.tensor(given)
        except Refused as refused:
            self.refusals.append(Refusal(place(refused.by or given), refused.why, refused.advice))
            return None

    def operation(self, node: fx.Node) -> None:
        """Raise one operation; what is refused is noted, and stands for itself so that the others are seen, too."""
        operands = [self.values[each] for each in node.all_input_nodes]
        count = len(self.graph.nodes)
        try:
            if all(isinstance(each, Constant) for each in operands):
                self.values[node] = self.constant(node)
            else:
                self.values[node] = self.raised(node)
        except Refused as refused:
            self.refusals.append(Refusal(place(refused.by or node), refused.why, refused.advice))
            self.values[node] = self.graph.call_function(refused_value, (), {})
        if self.check is not None:
            self.windows(node)
        for new in list(self.graph.nodes)[count:]:
            new.meta["place"] = place(node)
            if new.target is not refused_value and self.check is not None:
                try:
                    self.check(self.root, new)
                except CompressError as error:
                    self.refusals.append(Refusal(str(error), ""))

    def windows(self, node: fx.Node) -> None:
        """Note adaptive pooling whose windows have several sizes."""
        if node.target is _aten.adaptive_avg_pool2d.default:
            size, result = (tuple((shape_of(each) or ())[-2:]) for each in (node.args[0], node))
            if any(x % y for x, y in zip(size, result, strict=True)):
                why = f"all windows must have one size, not those of {size} to {result}"
                advice = "pool to rows and columns that divide those of the map"
                self.later.append(Refusal(f"{place(node)}:", why, advice))

    # Constants

    def raised(self, node: fx.Node) -> Any:
        target: Any = node.target
        if target in (_aten.conv2d.default, _aten.conv2d.padding, _aten.convolution.default):
            return self.convolution(node)
        if target is _aten.conv_transpose2d.input:
            return self.transposed(node)
        if target is _aten.linear.default:
            return self.linear(node)
        if target is _aten._native_batch_norm_legit_no_training.default:
            return self.norm(node, *cast(tuple[float, float], node.args[5:7])), None, None
        if target is _aten.batch_norm.default and node.args[5] is False:
            return self.norm(node, *cast(tuple[float, float], node.args[6:8]))
        if target in _WITHOUT_STATISTICS:
            advice = "use track_running_stats=True, and train it or let it see images in training mode"
            raise Refused("must have running statistics: a batch norm that takes each batch's own " + REASON, advice)
        if target is operator.getitem:
            value, number = self.value(node.args[0]), node.args[1]
            if isinstance(value, fx.Node) and value.target is refused_value:
                return value
            if isinstance(value, tuple):
                if value[number] is None:  # type: ignore[index]
                    raise Refused("is used for a second result, such as indices, which " + REASON)
                return value[number]  # type: ignore[index]
            raise Refused()
        if torch.Tag.nondeterministic_seeded in getattr(target, "tags", ()):
            raise Refused("draws random numbers", "leave it out in evaluation mode")
        if target in _IDENTITIES:
            return self.identity(node)
        if target in _RESHAPES:
            return self.reshape(node)
        if target is torch.ops.msvq.dropout.default:
            module = (nn.Dropout2d if node.args[2] else nn.Dropout)(cast(float, node.args[1]))
            return self.call(module, self.free(self.path(node) or "dropout"), self.tensor(node.args[0]))
        if target is torch.ops.msvq.spread.default:
            return self.call(Spread(), self.free(self.path(node) or "spread"), self.tensor(node.args[0]))
        if target is torch.ops.msvq.repeat.default:
            given, *factors = node.args
            repeat = Repeat(cast("tuple[int, int]", tuple(factors)))
            return self.call(repeat, self.free(self.path(node) or "repeat"), self.tensor(given))
        if target in CLAMPS:
            return self.clamp(node)
        if target in ARITHMETIC:
            return self.arithmetic(node)
        if target is _aten.cat.default or target is _aten.concat.default:
            return self.concatenation(node)
        if target in MOVING:
            return self.moved(node)
        if target in UPSAMPLING:
            return self.upsampling(node)
        if target in PARTS:
            return self.parts(node)
        if target is _aten.narrow.default:
            return self.part(node, *cast("tuple[int, int, int]", node.args[1:]))
        if target in (_aten.expand.default, _aten.expand_as.default):
            return Expanded(self.tensor(node.args[0]), shape_of(node.args[0]) or ())
        if target is _aten.prelu.default:
            return self.prelu(node)
        if target in (_aten.mean.dim, _aten.sum.dim_IntList):
            return self.mean(node)
        if target is _aten.glu.default:
            return self.glu(node)
        if target in (_aten.amax.default, _aten.max.dim, _aten.adaptive_max_pool2d.default):
            return self.largest(node)
        if target is _aten.max_pool2d_with_indices.default:
            return self.function(functional.max_pool2d, node), None
        if target in (_aten.pad.default, _aten.constant_pad_nd.default):
            return self.pad(node)
        if target is _aten.slice.Tensor:
            return self.slice(node)
        if target in _SAME:
            return self.function(_SAME[target], node)
        if torch.Tag.pointwise in getattr(target, "tags", ()):
            return self.function(target, node)
        if isinstance(target, torch._ops.HigherOrderOperator):
            raise Refused(f"is a region with rules of its own, such as autocast, which {REASON}", "leave it out")
        if all(user.op == "output" for user in node.users):
            raise Refused(advice="leave it out of the network, and apply it to what the network gives")
        raise Refused()

    def weight(self, given: Any) -> tuple[Constant, nn.Parameter]:
        constant = self.value(given)
        if isinstance(constant, Constant) and not constant.exact:
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
                return self.transposed(node)
            node_args = (*node.args[:6], node.args[8])
        else:
            node_args = node.args
        given |= dict(zip(names, node_args, strict=False)) | dict(node.kwargs)
        constant, weight = self.weight(given["weight"])
        bias = self.parameter(given["bias"], "bias")
        if weight.ndim != 4:
            raise Refused()
        values = self.tensor(given["input"])
        stride, dilation = (pair(given[name]) for name in ("stride", "dilation"))
        padding = given["padding"]
        if isinstance(padding, str):
            spans = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, weight.shape[2:], strict=True)]
            sides = [(span // 2, span - span // 2) for span in spans]
        else:
            sides = [(side, side) for side in pair(padding)]
        groups = given["groups"]
        return self.conv2d(node, constant, weight, bias, values, stride, sides, dilation, groups)

    def conv2d(
        self,
        node: fx.Node,
        constant: Constant,
        weight: nn.Parameter,
        bias: nn.Parameter | None,
        values: fx.Node,
        stride: tuple[int, int],
        sides: Sequence[tuple[int, int]],
        dilation: tuple[int, int],
        groups: int,
    ) -> fx.Node:
        """A convolution with zeros before and after rows and columns."""
        (top, bottom), (left, right) = sides
        if (top, left) != (bottom, right):
            values = self.graph.call_function(functional.pad, (values, (left, right, top, bottom)))
            top = left = 0
        K, C, R, S = weight.shape
        layer = nn.Conv2d(C * groups, K, (R, S), stride, (top, left), dilation, groups, bias is not None, device="meta")
        layer.weight, layer.bias = weight, bias
        return self.call(layer, self.layer_name(node, constant), values)

    def transposed(self, node: fx.Node) -> fx.Node:
        """A transposed convolution, as a convolution of a map with zeros between its rows and columns."""
        order = ["input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation"]
        given: dict[str, Any] = dict(bias=None, stride=[1], padding=[0], output_padding=[0], groups=1, dilation=[1])
        if node.target is _aten.convolution.default:
            order = [*order[:5], "dilation", "transposed", "output_padding", "groups"]
        given |= dict(zip(order, node.args, strict=False)) | dict(node.kwargs)
        original = self.value(given["weight"])
        if not isinstance(original, Constant) or original.value.ndim != 4:
            raise Refused()
        stride, dilation, padding, more = (
            pair(given[name]) for name in ("stride", "dilation", "padding", "output_padding")
        )
        if stride[0] != stride[1] or stride[0] & (stride[0] - 1):
            why = f"of stride {stride[0]} x {stride[1]} {REASON}"
            raise Refused(why, "use a stride of 1, 2, 4 or 8 in both directions, or upsampling and a convolution")
        groups = given["groups"]
        C, K, *sizes = original.value.shape
        flipped = original.value.detach().flip(2, 3).reshape(groups, C // groups, K, *sizes).transpose(1, 2)
        flipped = flipped.reshape(groups * K, C // groups, *sizes).contiguous()
        constant = Constant(flipped, original.origins)
        for _, other in self.layers:
            if not other.exact and other.origins == constant.origins and torch.equal(other.value, flipped):
                constant = other
        weight = self.parameter(constant, "weight")
        assert weight is not None
        spans = [d * (k - 1) for d, k in zip(dilation, sizes, strict=True)]
        # A row and column of zeros stands behind the last value, too.
        sides = [(d - p, d - p + m + 1 - stride[0]) for d, p, m in zip(spans, padding, more, strict=True)]
        if min(min(side) for side in sides) < 0:
            why = f"with a kernel {times(sizes)}, stride {stride[0]} and padding {times(padding)} {REASON}"
            raise Refused(why, "use less padding, or a kernel as large as the stride")
        values = self.tensor(given["input"])
        for _ in range(stride[0].bit_length() - 1):
            values = self.call(Spread(), self.free(f"{self.path(node) or 'transposed'}_spread"), values)
        bias = self.parameter(given["bias"], "bias")
        return self.conv2d(node, constant, weight, bias, values, (1, 1), sides, dilation, groups)

    def linear(self, node: fx.Node) -> fx.Node:
        constant, weight = self.weight(node.args[1])
        bias = self.parameter(node.args[2] if len(node.args) > 2 else node.kwargs.get("bias"), "bias")
        if weight.ndim != 2 or shape_of(node.args[0]) is None:
            raise Refused()
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
        layer.weight, layer.bias = weight, bias  # type: ignore[assignment]
        return self.call(layer, self.layer_name(node, constant), self.tensor(node.args[0]))

    def norm(self, node: fx.Node, momentum: float, epsilon: float) -> fx.Node:
        weight, bias = (
            self.parameter(each, what) for each, what in zip(node.args[1:3], ("weight", "bias"), strict=True)
        )
        mean, variance = (self.value(each) for each in node.args[3:5])
        rank = len(shape_of(node.args[0]) or ())
        if not isinstance(mean, Constant) or rank not in (2, 4):
            raise Refused()
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
    captured: Captured | None = None,
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
    captured
        What :func:`sw.compress.frontend.capture.capture` gave of them, if that has been asked before.

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
    captured = captured or capture(model, images)
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
    raiser = _Raiser(program.module(), captured, {}, None)
    graph = _raised(raiser)
    # It is a network like any other from here on, to be captured itself; but the user's own has other keys.
    graph.meta.clear()
    own = {f"{name}.weight": weight.origins[0] if weight.exact else "" for name, weight in raiser.layers}
    graph.meta[STATE] = own | {key: key for key in program.state_dict}
    return graph


def _raised(raiser: _Raiser) -> fx.GraphModule:
    captured = raiser.captured
    raiser.refusals += captured.refusals
    try:
        raiser.run()
    except Exception:  # what has effects, or returns no tensors, need not make sense as a graph
        if not captured.refusals:
            raise
    if raiser.refusals:
        raise FrontEndError([*raiser.refusals, *raiser.later])
    graph = fx.GraphModule(raiser.root, raiser.graph)
    graph.eval()
    graph.meta["weights"] = {name: weight.origins for name, weight in raiser.layers}
    found = graph(captured.sample)
    if not same(found, captured.outputs):
        why = "the network computes something else than torch.export sees of it" + _apart(found, captured.outputs)
        advice = "leave out global hooks, and in-place operations on memory that two values share"
        raise FrontEndError([Refusal("", why, advice)])
    return graph


def _apart(found: Any, expected: Any) -> str:
    if not (isinstance(found, Tensor) and isinstance(expected, Tensor)):
        return ""
    if found.shape != expected.shape:
        return f" ({list(found.shape)} and {list(expected.shape)})"
    return f" (apart by {float((found.double() - expected.double()).abs().max()):.3g})"
