"""What raises captured operations: its state, and what all of its parts share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from sw.compress.frontend.capture import Captured
from sw.compress.frontend.modules import Crop, Repeat
from sw.compress.frontend.places import Refusal

__all__ = [
    "ADVICE",
    "MOVES",
    "REASON",
    "Constant",
    "Expanded",
    "Moved",
    "Raiser",
    "Refused",
    "Strided",
    "Viewed",
    "pair",
    "refused_value",
    "shape_of",
    "text_of",
    "times",
]


@dataclass(frozen=True)
class Constant:
    """A value that no image has a part in."""

    value: Any
    # Names of the parameters and buffers that it was computed from; `exact` if it is the first of them itself.
    origins: tuple[str, ...] = ()
    exact: bool = False


@dataclass(frozen=True)
class Strided:
    """Some rows and columns of a map of the captured graph."""

    source: fx.Node
    rows: range
    columns: range

    @property
    def edges(self) -> tuple[int, int]:
        """The stride of rows, and that of columns, if they begin with the first and leave out no others; else 0."""
        shape = shape_of(self.source) or ()
        kept = zip((self.rows, self.columns), shape[2:], strict=True)
        rows, columns = (each.step if each == range(extent)[:: each.step] else 0 for each, extent in kept)
        return rows, columns


@dataclass(frozen=True)
class Moved:
    """The values of a map in another order or shape, which is no map, or not yet.

    ``places`` are where in the source each of them is, of its shape flattened; the source's shape is ``shape``. ``by``
    is the operation that moved them first.
    """

    source: fx.Node
    shape: tuple[int, ...]
    places: Tensor
    by: fx.Node


@dataclass(frozen=True)
class Viewed:
    """A value in a shape that stands for another: one value a channel."""

    source: fx.Node
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Expanded:
    """A value that was repeated along rows and columns, and its own shape."""

    source: fx.Node
    shape: tuple[int, ...]


def times(sizes: Iterable[int]) -> str:
    return " x ".join(str(int(size)) for size in sizes)


def pair(value: Any) -> tuple[int, int]:
    values = [value] if isinstance(value, int) else list(value)
    return int(values[0]), int(values[-1])


def shape_of(node: Any) -> tuple[int, ...] | None:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return tuple(int(x) for x in value.shape) if isinstance(value, Tensor) else None


def text_of(shape: tuple[int, ...] | None) -> str:
    """The size of an image."""
    return " x ".join(map(str, (shape or ())[1:])) or "a number"


REASON = "has no integer form"
MOVES = "move channels of maps, or pixels from and to channels; what comes last, apply to what the network gives"
_NUMBER = "keep its axis, [n, 1], and take it off what the network gives"
ADVICE = "replace it by operations that have one, or keep the layers alone (--layers-alone)"


class Refused(Exception):
    # `by`: the operation that is at fault, if it is another.
    def __init__(self, why: str = REASON, advice: str = ADVICE, by: fx.Node | None = None) -> None:
        super().__init__(why)
        self.why, self.advice, self.by = why, advice, by


def refused_value() -> Any:
    """Stands where something was refused."""
    raise NotImplementedError


@dataclass
class Raiser:
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
    # What the export refuses, said only where it is not reached.
    later: list[Refusal] = field(default_factory=list)
    # The name and the weight of each layer, to tell which are computed from the same.
    layers: list[tuple[str, Constant]] = field(default_factory=list)
    # For features that are a map of one row and column, that map.
    pixels: dict[fx.Node, fx.Node] = field(default_factory=dict)
    # Maps of some rows and columns that something has read.
    taken_rows: dict[fx.Node, fx.Node] = field(default_factory=dict)
    # Parameters that were made of what is none, by its identity, and what it is.
    parameters: dict[int, tuple[nn.Parameter, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        modules = self.model.named_modules(remove_duplicate=False)
        self.first: dict[int, str] = {}
        for path, module in modules:
            self.first.setdefault(id(module), path)

    def constant(self, node: fx.Node) -> Constant:
        """What an operation makes of parameters alone, computed once."""
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            raise Refused("draws random numbers", "leave it out in evaluation mode")
        origins: dict[str, None] = {}

        def value(given: fx.Node) -> Any:
            constant: Constant = self.values[given]
            origins.update(dict.fromkeys(constant.origins))
            return constant.value

        args, kwargs = fx.map_arg((node.args, node.kwargs), value)
        with torch.no_grad():
            result = cast(Callable[..., Any], node.target)(*args, **kwargs)
        return Constant(result, tuple(origins))

    def number(self, given: Any) -> Any:
        """An argument that is no tensor of the network's; a constant of one element is its number."""
        constant = self.values[given] if isinstance(given, fx.Node) else None
        if isinstance(constant, Constant) and isinstance(constant.value, Tensor) and constant.value.numel() == 1:
            return constant.value.item()
        return given

    # Operations

    # Values

    def value(self, given: Any) -> Any:
        return self.values[given] if isinstance(given, fx.Node) and given.graph is not self.graph else given

    def tensor(self, given: Any) -> fx.Node:
        """An argument that comes from the images."""
        value = self.value(given)
        if isinstance(value, Strided):
            return self.strided(value, given)
        if isinstance(value, Moved):
            why = f"of {text_of(value.shape)} to {text_of(tuple(value.places.shape))} {REASON}"
            raise Refused(why, MOVES if value.places.ndim > 1 else _NUMBER, value.by)
        if isinstance(value, Viewed):
            raise Refused(f"of {text_of(value.shape)} {REASON}", "flatten each image alone, as flatten(1) does")
        wanted = shape_of(given)
        if isinstance(value, Expanded) and wanted is not None and len(value.shape) == len(wanted) == 4:
            return self.broadcast(value.source, value.shape, wanted)
        if isinstance(value, Expanded):
            raise Refused(f"of a value that was expanded {REASON}", "multiply by it, or leave the expansion out")
        if not isinstance(value, fx.Node):
            raise Refused(f"with a constant {REASON}")
        return value

    def broadcast(self, values: fx.Node, shape: tuple[int, ...], wanted: tuple[int, ...]) -> fx.Node:
        """A map, repeated along the axes of which it has one."""
        if shape[1] < wanted[1]:
            values = self.graph.call_function(torch.cat, ([values] * wanted[1], 1))
        rows, columns = (there // here for here, there in zip(shape[2:], wanted[2:], strict=True))
        if (rows, columns) == (1, 1):
            return values
        return self.call(Repeat((rows, columns)), self.free(f"{values.name}_broadcast"), values)

    def strided(self, value: Strided, given: fx.Node) -> fx.Node:
        """Rows and columns of a map, taken once however many read them."""
        if given not in self.taken_rows:
            source, stride = self.tensor(value.source), value.edges
            if all(stride):
                # A maximum of one value each.
                found = self.graph.call_function(functional.max_pool2d, (source, 1, stride))
            else:
                sides = zip((value.rows, value.columns), (shape_of(value.source) or ())[2:], strict=True)
                top, bottom, left, right = (end for each, extent in sides for end in (each[0], extent - 1 - each[-1]))
                module = Crop((top, bottom, left, right), (value.rows.step, value.columns.step))
                found = self.call(module, self.free(f"{given.name}_crop"), source)
            self.taken_rows[given] = found
        return self.taken_rows[given]

    def function(self, function: Callable[..., Any], node: fx.Node) -> fx.Node:
        def argument(given: fx.Node) -> Any:
            return self.number(given) if isinstance(self.values[given], Constant) else self.tensor(given)

        args, kwargs = fx.map_arg((node.args, node.kwargs), argument)
        if any(isinstance(each, fx.Node) and each.graph is not self.graph for each in (*args, *kwargs.values())):
            raise Refused(f"with a constant tensor {REASON}")
        if isinstance(function, torch._ops.OpOverload):
            # Where it takes a tensor alone, it takes no number.
            given = dict(zip((each.name for each in function._schema.arguments), args, strict=False)) | kwargs
            tensors = [given.get(each.name) for each in function._schema.arguments if "Tensor" in str(each.type)]
            if any(isinstance(each, bool | int | float) for each in tensors):
                raise Refused(f"with a constant tensor {REASON}")
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

    def layer_name(self, node: fx.Node, weight: Constant) -> str:
        """The name of the layer in whose module the operation is, or to which the weight belongs."""
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
                raise Refused(why, "they would be trained apart; give each layer a weight of its own")
        name = self.free(f"{name}_call2") if self.taken(name) else name
        self.layers.append((name, weight))
        return name

    def parameter(self, given: Any, what: str) -> nn.Parameter | None:
        """A parameter of a layer: the network's own, or a new one of what was computed."""
        constant = self.value(given)
        if constant is None:
            return None
        if not isinstance(constant, Constant):
            raise Refused(f"must have a {what} that does not depend on the images")
        if isinstance(constant.value, nn.Parameter):
            return constant.value
        if id(constant.value) not in self.parameters:
            self.parameters[id(constant.value)] = nn.Parameter(constant.value.detach().clone()), constant.value
        return self.parameters[id(constant.value)][0]
