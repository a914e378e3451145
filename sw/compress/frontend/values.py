"""Captured operations on values, but for layers and batch norms, as torch's functions and modules."""

from __future__ import annotations

import builtins
import operator
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import inf, isqrt, prod
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from sw.compress.frontend.modules import Affine, PadShortcut, Repeat
from sw.compress.frontend.raiser import (
    REASON,
    Constant,
    Expanded,
    Moved,
    Raiser,
    Refused,
    Strided,
    Viewed,
    shape_of,
    text_of,
    times,
)
from sw.network.spatial import MAX_BILINEAR

__all__ = ["ARITHMETIC", "CLAMPS", "MOVING", "PARTS", "UPSAMPLING", "ValueRaiser"]

_aten = torch.ops.aten


# Clamps to tensors, or of two of which one may be a constant.
_OF_TWO = (_aten.minimum.default, _aten.maximum.default)
_TO_TENSORS = (_aten.clamp.Tensor, _aten.clamp_min.Tensor, _aten.clamp_max.Tensor, *_OF_TWO)
_TO_NUMBERS = (_aten.clamp.default, _aten.clamp_min.default, _aten.clamp_max.default, _aten.hardtanh.default)
CLAMPS = (*_TO_NUMBERS, *_TO_TENSORS)
_UPPER = (_aten.clamp_max.default, _aten.clamp_max.Tensor, _aten.minimum.default)
# Operations of two values, or of a value and constants.
ARITHMETIC = (
    _aten.add.Tensor,
    _aten.add.Scalar,
    _aten.sub.Tensor,
    _aten.sub.Scalar,
    _aten.rsub.Tensor,
    _aten.rsub.Scalar,
    _aten.mul.Tensor,
    _aten.mul.Scalar,
    _aten.div.Tensor,
    _aten.div.Scalar,
)
PARTS = (
    _aten.chunk.default,
    _aten.split.Tensor,
    _aten.split_with_sizes.default,
    _aten.split.sizes,
    _aten.tensor_split.sections,
    _aten.tensor_split.indices,
)
# The same values in another order.
MOVING = (
    _aten.permute.default,
    _aten.transpose.int,
    _aten.swapaxes.default,
    _aten.swapdims.default,
    _aten.movedim.int,
    _aten.movedim.intlist,
    _aten.channel_shuffle.default,
    _aten.pixel_shuffle.default,
    _aten.pixel_unshuffle.default,
)
UPSAMPLING = {
    _aten.upsample_nearest2d.vec: "nearest",
    _aten._upsample_nearest_exact2d.vec: "nearest",
    _aten.upsample_bilinear2d.vec: "bilinear",
    _aten.upsample_nearest2d.default: "nearest",
    _aten._upsample_nearest_exact2d.default: "nearest",
    _aten.upsample_bilinear2d.default: "bilinear",
}
# Axes of a map over which a mean or a maximum is taken.
_REDUCED = [[1], [2], [3], [2, 3]]


def _numbers(shape: tuple[int, ...], axes: Sequence[int]) -> Tensor:
    """Of each value of a map, flattened: the number of the one that a reduction over some axes makes of it."""
    left = tuple(1 if axis in axes else extent for axis, extent in enumerate(shape))
    return torch.arange(prod(left)).reshape(left).expand(shape).flatten()


class ValueRaiser(Raiser):
    """Raises operations on values."""

    def identity(self, node: fx.Node) -> Any:
        before, after = (each.meta["val"] for each in (node.args[0], node))  # type: ignore[union-attr]
        if before.dtype != after.dtype or before.device != after.device:
            raise Refused(f"changes the precision from {before.dtype} to {after.dtype}, which {REASON}", "leave it out")
        value = self.value(node.args[0])
        return value if isinstance(value, Moved) else self.tensor(node.args[0])

    def reshape(self, node: fx.Node) -> Any:
        value = self.value(node.args[0])
        if isinstance(value, Moved):
            return self.moved(node)
        before = value.shape if isinstance(value, Viewed) else shape_of(node.args[0])
        source = value.source if isinstance(value, Viewed) else self.tensor(node.args[0])
        after = shape_of(node)
        assert before is not None
        assert after is not None
        if before == after:
            return source
        if len(before) > 2 and len(after) == 2 and after == (before[0], prod(before[1:])):
            return self.features(source, before)
        if len(before) == 2 and after == (*before, 1, 1):
            if source in self.pixels:
                return self.pixels[source]
            return self.graph.call_function(torch.unflatten, (source, 1, (before[1], 1, 1)))
        # One value a channel, on its way to or from features.
        if after[:2] == before[:2] and prod(after[2:]) == prod(before[2:]) == 1:
            return Viewed(source, before)
        if after[0] == before[0]:
            return self.moved(node)
        raise Refused(
            f"of {text_of(before)} to {text_of(after)} {REASON}", "flatten each image alone, as flatten(1) does"
        )

    def features(self, source: fx.Node, shape: tuple[int, ...]) -> fx.Node:
        """A map of this shape, flattened."""
        flat = self.graph.call_function(torch.flatten, (source, 1))
        if len(shape) == 4 and prod(shape[2:]) == 1:
            self.pixels[flat] = source
        return flat

    def clamp(self, node: fx.Node) -> fx.Node:
        given: dict[str, Any] = {"min": None, "max": None}
        names: list[str] = ["max"] if node.target in _UPPER else ["min", "max"]
        if node.target is _aten.hardtanh.default:
            given, names = {"min_val": -1.0, "max_val": 1.0}, ["min_val", "max_val"]
        first, *others = node.args
        if node.target in _OF_TWO and isinstance(self.value(first), Constant):
            first, others = others[0], [first]
        given |= dict(zip(names, others, strict=False)) | dict(node.kwargs)
        low, high = (self.number(each) for each in given.values())
        low, high = -inf if low is None else low, inf if high is None else high
        numbers = all(isinstance(each, int | float) for each in (low, high))
        if node.target in _TO_TENSORS and not (numbers and shape_of(node) == shape_of(first)):
            return self.function(cast(Any, node.target), node)
        if not numbers:
            raise Refused(f"by other values {REASON}", "clamp to two numbers")
        values = self.tensor(first)
        if (low, high) in ((0, inf), (0, 6)):
            return self.graph.call_function(functional.relu if high == inf else functional.relu6, (values,))
        return self.graph.call_function(torch.clamp, (values, float(low), float(high)))

    def prelu(self, node: fx.Node) -> fx.Node:
        values, constant = self.tensor(node.args[0]), self.value(node.args[1])
        slope = self.parameter(node.args[1], "slope")
        if slope is None or not isinstance(constant, Constant):
            raise Refused()
        path = self.free(self.path(node) or "prelu")
        if slope.numel() == 1:
            module = nn.PReLU(device="meta")
            module.weight = slope
            return self.call(module, path, values)
        if len(shape_of(node.args[0]) or ()) != 4:
            raise Refused(f"of features with a slope for each {REASON}", "use one slope for all")
        negative = self.graph.call_function(torch.clamp, (values, -inf, 0.0))
        scaled = self.call(Affine(slope.numel(), slope), path, negative)
        return self.graph.call_function(operator.add, (self.graph.call_function(functional.relu, (values,)), scaled))

    def arithmetic(self, node: fx.Node) -> Any:
        """A sum, difference, product or quotient of two values, or of one and constants."""
        name = cast(Any, node.target)._schema.name.removeprefix("aten::")
        alpha = self.number(node.kwargs.get("alpha", node.args[2] if len(node.args) > 2 else 1))
        if "rounding_mode" in node.kwargs:
            return self.function(cast(Any, node.target), node)
        given = list(node.args[:2])
        if name == "rsub":
            # The second without the first, which alpha belongs to.
            name, given = "sub", given[::-1]
        a, b = (self.value(each) for each in given)
        shapes = [shape_of(each) for each in given]
        plain = {"add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv}[name]
        if isinstance(a, Constant | int | float) or isinstance(b, Constant | int | float):
            return self.with_constant(node, given, name, plain, alpha)
        if name == "mul":
            return self.product(node)
        a, b = self.tensor(given[0]), self.tensor(given[1])
        if shapes[0] != shapes[1] and len(shapes[0] or ()) == len(shapes[1] or ()) == 4:
            wanted = shape_of(node) or ()
            a, b = (self.broadcast(each, shape or (), wanted) for each, shape in zip((a, b), shapes, strict=True))
        elif shapes[0] != shapes[1]:
            what = {"add": "add", "sub": "subtract"}.get(name, "divide")
            raise Refused(
                f"of {text_of(shapes[0])} and {text_of(shapes[1])} {REASON}", f"{what} two values of one shape"
            )
        if alpha != 1:
            b = self.graph.call_function(operator.mul, (b, alpha))
        if name == "sub":
            # A sum, for which the accelerator has an operation.
            return self.graph.call_function(operator.add, (a, self.graph.call_function(operator.neg, (b,))))
        return self.graph.call_function(plain, (a, b))

    def with_constant(
        self, node: fx.Node, operands: Sequence[Any], name: str, plain: Callable[..., Any], alpha: Any
    ) -> fx.Node:
        """Arithmetic of a value and a number, or of a map and a number for each of its channels."""
        first, second = operands
        swapped = isinstance(self.value(first), Constant | int | float)
        values, given = self.tensor(second if swapped else first), self.number(first if swapped else second)
        if isinstance(given, int | float):
            if swapped and alpha != 1:
                values = self.graph.call_function(operator.mul, (values, alpha))
            elif alpha != 1:
                given = operator.mul(given, alpha)
            return self.graph.call_function(plain, (given, values) if swapped else (values, given))
        constant, shape = cast(Tensor, self.value(given).value).detach(), shape_of(second if swapped else first) or ()
        if constant.ndim < len(shape):
            constant = constant.reshape(*[1] * (len(shape) - constant.ndim), *constant.shape)
        if len(shape) != 4 or tuple(constant.shape) not in ((1, shape[1], 1, 1), (1, 1, 1, 1)):
            advice = "use one number for each channel of a map, or a bias of the layer before"
            raise Refused(f"with a constant of {times(constant.shape[1:]) or 'one'} {REASON}", advice)
        constant = constant.flatten().float()
        if name in ("add", "sub"):
            # Either is `first + alpha * second`, the sign in alpha.
            alpha = -alpha if name == "sub" else alpha
            factor = torch.full_like(constant, alpha if swapped else 1.0)
            summand = constant if swapped else constant * alpha
            module = Affine(len(constant), factor, summand)
        elif name == "div" and swapped:
            raise Refused(f"of a constant by a value {REASON}")
        else:
            module = Affine(len(constant), 1 / constant if name == "div" else constant)
        return self.call(module, self.free(f"{self.path(node) or 'network'}_{name}".replace(".", "_")), values)

    def product(self, node: fx.Node) -> fx.Node:
        """A product of two values of one shape; or of a map and one that is repeated along some of its axes."""
        sides = []
        for each in node.args[:2]:
            value = self.value(each)
            expanded = isinstance(value, Expanded)
            sides.append((value.source, value.shape) if expanded else (self.tensor(each), shape_of(each) or ()))
        (a, first), (b, second) = sides
        if prod(first) < prod(second):
            a, b, first, second = b, a, second, first
        # A factor for each channel is the accelerator's own.
        alike = first == second or second == (*first[:2], *[1] * (len(first) - 2))
        if not alike and len(first) == len(second) == 4:
            a, b = (self.broadcast(x, shape, shape_of(node) or ()) for x, shape in ((a, first), (b, second)))
        elif not alike:
            advice = "multiply two values of one shape, or maps"
            raise Refused(f"of {text_of(first)} and {text_of(second)} {REASON}", advice)
        return self.graph.call_function(operator.mul, (a, b))

    def concatenation(self, node: fx.Node) -> fx.Node:
        given, axis = cast("list[fx.Node]", node.args[0]), node.args[1] if len(node.args) > 1 else 0
        axis = cast(int, node.kwargs.get("dim", axis)) % len(shape_of(node) or (1,))
        parts = [self.tensor(each) for each in given]
        if axis != 1 or len(shape_of(node) or ()) not in (2, 4):
            raise Refused(f"along axis {axis} {REASON}", "concatenate channels of maps, or features: axis 1")
        return self.graph.call_function(torch.cat, (parts, 1)) if len(parts) > 1 else parts[0]

    def moved(self, node: fx.Node) -> Any:
        """Values in another order: a map where they are one, or where each of them came from."""
        value, before = self.value(node.args[0]), shape_of(node.args[0]) or ()
        if isinstance(value, Moved):
            source, shape, places, by = value.source, value.shape, value.places, value.by
        elif isinstance(value, Viewed):
            source, shape, by = value.source, value.shape, node
            places = torch.arange(prod(shape)).reshape(before)
        else:
            source, shape, by = self.tensor(node.args[0]), before, node
            places = torch.arange(prod(before)).reshape(before)
        args, kwargs = fx.map_arg((node.args[1:], node.kwargs), self.number)
        places = cast(Callable[..., Tensor], node.target)(places, *args, **kwargs).contiguous()
        return self.settled(source, shape, places, by)

    def settled(self, source: fx.Node, shape: tuple[int, ...], places: Tensor, by: fx.Node) -> Any:
        """Values of a map of this shape at ``places``: a map or features where they are that, or where they are."""
        each = prod(shape[1:])
        # One number for each image has no second axis.
        rows = places.flatten(1) if places.ndim > 1 else places[:, None]
        alone = len(places) == shape[0] and torch.equal(rows, rows[0] + each * torch.arange(shape[0])[:, None])
        if torch.equal(places.flatten(), torch.arange(places.numel())):
            if tuple(places.shape) == shape:
                return source
            if tuple(places.shape) == (shape[0], each):
                return self.features(source, shape)
        found = self.arranged(source, shape, places[0]) if alone and places.ndim == len(shape) == 4 else None
        return Moved(source, shape, places, by) if found is None else found

    def arranged(self, source: fx.Node, shape: tuple[int, ...], places: Tensor) -> fx.Node | None:
        """A map of the values of another at ``places`` ``[C, rows, columns]``; None if they are no such map.

        Of channels of it, in any order; or with pixels of several channels side by side, or the reverse.
        """
        (rows, columns), (C, R, S) = places.shape[1:], shape[1:]
        whole = torch.arange(C * R * S).reshape(C, R, S)
        channels = torch.div(places[:, 0, 0], R * S, rounding_mode="floor")
        if (rows, columns) == (R, S) and torch.equal(whole[channels], places):
            return self.ordered(source, channels.tolist())
        f = rows // R
        if f > 1 and (rows, columns) == (f * R, f * S):
            # The channel at each of the places of a pixel.
            channels = torch.div(places[:, :f, :f], R * S, rounding_mode="floor").flatten()
            if len(channels) == C and torch.equal(functional.pixel_shuffle(whole[channels], f), places):
                return self.graph.call_function(functional.pixel_shuffle, (self.ordered(source, channels.tolist()), f))
        f = R // rows
        if f > 1 and (f * rows, f * columns) == (R, S):
            parts = functional.pixel_unshuffle(whole, f)
            # Where in them each begins.
            order = (parts[:, 0, 0] == places[:, 0, 0, None]).long().argmax(1)
            if torch.equal(parts[order], places):
                unshuffled = self.graph.call_function(functional.pixel_unshuffle, (source, f))
                return self.ordered(unshuffled, order.tolist())
        return None

    def ordered(self, source: fx.Node, channels: list[int]) -> fx.Node:
        """Channels in another order: those that follow each other are cut out, and all are concatenated."""
        starts = [i for i, channel in enumerate(channels) if not i or channel != channels[i - 1] + 1]
        runs = [(channels[a], b - a) for a, b in pairwise([*starts, len(channels)])]
        if len(runs) == 1 and runs[0][0] == 0:
            # All of them: moving keeps their number.
            return source
        parts = [self.graph.call_function(torch.narrow, (source, 1, *run)) for run in runs]
        return self.graph.call_function(torch.cat, (parts, 1)) if len(parts) > 1 else parts[0]

    def upsampling(self, node: fx.Node) -> Any:
        mode = UPSAMPLING[cast(Any, node.target)]
        corners = False
        if mode == "bilinear":
            corners = bool(node.args[2] if len(node.args) > 2 else node.kwargs.get("align_corners", False))
        before, after = (cast("tuple[int, ...]", shape_of(each))[2:] for each in (node.args[0], node))
        factors = [y // x for x, y in zip(before, after, strict=True)]
        power = factors[0].bit_length() - 1
        exact = power >= 0 and all(x << power == y for x, y in zip(before, after, strict=True))
        if not exact and mode == "nearest":
            return self.neighbours(node, before, after)
        if mode == "bilinear" and all(x in (1, y) for x, y in zip(before, after, strict=True)):
            # Of one row or column, all are that one; and the same size changes nothing.
            given, wanted = (cast("tuple[int, ...]", shape_of(each)) for each in (node.args[0], node))
            return self.broadcast(self.tensor(node.args[0]), given, wanted)
        if mode == "bilinear":
            if corners or not 2 <= factors[0] <= MAX_BILINEAR or tuple(factors[0] * x for x in before) != after:
                how = f"{mode}{', corners aligned,' if corners else ''} of {times(before)} to {times(after)} {REASON}"
                raise Refused(how, f"use a whole factor of 2 to {MAX_BILINEAR} with align_corners=False")
            kwargs: dict[str, Any] = {"scale_factor": factors[0], "mode": mode}
            return self.graph.call_function(functional.interpolate, (self.tensor(node.args[0]),), kwargs)
        values = self.tensor(node.args[0])
        for _ in range(power):
            values = self.graph.call_function(functional.interpolate, (values,), {"scale_factor": 2, "mode": mode})
        return values

    def neighbours(self, node: fx.Node, before: tuple[int, ...], after: tuple[int, ...]) -> Any:
        """Nearest neighbours to other sizes than twice: each several times, or every so many."""
        target, found = cast(Callable[..., Tensor], node.target), []
        for axis, extent in enumerate(before):
            # Those that torch takes, by its own rounding.
            numbers = torch.arange(float(extent)).reshape([-1, 1] if axis == 0 else [1, -1]).expand(1, 1, *before)
            picked = target(numbers, *node.args[1:], **node.kwargs)[0, 0].select(1 - axis, 0).long()
            times_each, step = len(picked) // extent, int(picked[1] - picked[0]) if len(picked) > 1 else 1
            if times_each and torch.equal(picked, torch.arange(extent).repeat_interleave(times_each)):
                found.append((times_each, range(extent)))
            elif step > 0 and torch.equal(picked, torch.arange(int(picked[0]), int(picked[-1]) + 1, step)):
                found.append((1, range(int(picked[0]), int(picked[-1]) + 1, step)))
            else:
                how = f"nearest of {times(before)} to {times(after)} {REASON}"
                raise Refused(how, "use whole factors: so many times the rows and columns, or every so many of them")
        (rows, kept_rows), (columns, kept_columns) = found
        if (rows, columns) == (1, 1):
            return Strided(cast(fx.Node, node.args[0]), kept_rows, kept_columns)
        values = self.tensor(node.args[0])
        if (kept_rows, kept_columns) != tuple(map(range, before)):
            values = self.strided(Strided(cast(fx.Node, node.args[0]), kept_rows, kept_columns), node)
        return self.call(Repeat((rows, columns)), self.free(f"{self.path(node) or node.name}_repeat"), values)

    def parts(self, node: fx.Node) -> tuple[Any, ...]:
        """The parts of a value that is cut along its channels."""
        found: list[Any] = []
        start = 0
        axis = cast(int, node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0))
        for each in node.meta["val"]:
            length = int(each.shape[axis])
            found.append(self.part(node, axis, start, length))
            start += length
        return tuple(found)

    def part(self, node: fx.Node, axis: int, start: int, length: int) -> Any:
        """Some channels, or some rows or columns of a map."""
        found = self.lines(
            cast(fx.Node, node.args[0]), axis, builtins.slice(start, start + length if start + length else None)
        )
        return self.channels(node, axis, start, length) if found is None else found

    def lines(self, source: fx.Node, axis: int, kept: builtins.slice[Any, Any, Any]) -> Strided | None:
        """Some rows or columns of a map, if the axis is one of these and any are left."""
        before, shape = self.value(source), shape_of(source) or ()
        if len(shape) != 4 or axis % 4 not in (2, 3) or not isinstance(before, fx.Node | Strided):
            return None
        strided = before if isinstance(before, Strided) else Strided(source, *map(range, shape[2:]))
        sides = [strided.rows, strided.columns]
        sides[axis % 4 - 2] = sides[axis % 4 - 2][kept]
        return Strided(strided.source, *sides) if len(sides[axis % 4 - 2]) else None

    def channels(self, node: fx.Node, axis: int, start: int, length: int) -> fx.Node:
        """Some channels of a map, or some features."""
        shape = shape_of(node.args[0]) or ()
        if axis % len(shape) != 1 or len(shape) not in (2, 4):
            raise Refused(
                f"of {text_of(shape)} along axis {axis % len(shape)} {REASON}",
                "cut channels alone: axis 1",
            )
        if length == shape[1]:
            return self.tensor(node.args[0])
        return self.graph.call_function(torch.narrow, (self.tensor(node.args[0]), 1, start % shape[1], length))

    def largest(self, node: fx.Node) -> Any:
        """Max pooling of the whole map, along an axis, or to a number of windows of one size."""
        shape = shape_of(node.args[0]) or ()
        if node.target in (_aten.amax.default, _aten.max.dim):
            given: Any = node.args[1] if len(node.args) > 1 else []
            values, shape, axes = self.reduction(node, [given] if isinstance(given, int) else given, "maximum")
            kernel = tuple(extent if axis in axes else 1 for axis, extent in enumerate(shape))[2:]
            if axes == [1]:
                values, kernel = self.channels_as_pixels(values, shape, zeros=False)
            result = self.graph.call_function(functional.max_pool2d, (values, kernel, kernel))
            found = self.reduced(node, result, shape, axes)
            return (found, None) if node.target is _aten.max.dim else found
        size = cast("tuple[int, int]", node.meta["val"][0].shape[2:])
        if len(shape) != 4 or any(x % y for x, y in zip(shape[2:], size, strict=True)):
            advice = "pool to rows and columns that divide those of the map"
            raise Refused(
                f"of {text_of(shape)} to {times(size)} takes windows of several sizes, which {REASON}", advice
            )
        kernel = tuple(int(x) // int(y) for x, y in zip(shape[2:], size, strict=True))
        return self.graph.call_function(functional.max_pool2d, (self.tensor(node.args[0]), kernel, kernel)), None

    def channels_as_pixels(
        self, values: fx.Node, shape: tuple[int, ...], *, zeros: bool
    ) -> tuple[fx.Node, tuple[int, ...]]:
        """A map of one channel whose windows, of the size that is returned, are the channels of a pixel.

        Where there are too few of them for a square, zeros complete it, or the first channels once more.
        """
        side = isqrt(shape[1] - 1) + 1
        spare = side**2 - shape[1]
        if spare and zeros:
            values = self.call(PadShortcut(1, 0, spare), self.free(f"{values.name}_square"), values)
        elif spare:
            some = self.graph.call_function(torch.narrow, (values, 1, 0, spare)) if spare < shape[1] else values
            values = self.graph.call_function(torch.cat, ([values, some], 1))
        if side > 1:
            values = self.graph.call_function(functional.pixel_shuffle, (values, side))
        return values, (side, side)

    def reduction(self, node: fx.Node, axes: Sequence[int], what: str) -> tuple[fx.Node, tuple[int, ...], list[int]]:
        """The map of which something is taken over some axes, its shape, and these axes of it.

        The axes may be those of a map whose channels come last, or whose rows and columns are one.
        """
        value, shape = self.value(node.args[0]), shape_of(node.args[0]) or ()
        axes = sorted(axis % len(shape) for axis in axes)
        if isinstance(value, Moved) and len(value.shape) == 4:
            for own in _REDUCED:
                numbers = _numbers(value.shape, own)[value.places]
                whole = prod(shape[axis] for axis in axes) == prod(value.shape[axis] for axis in own)
                if whole and torch.equal(numbers.amin(axes, keepdim=True).expand(shape), numbers):
                    return value.source, value.shape, own
        if len(shape) != 4 or axes not in _REDUCED:
            advice = f"take the {what} of a map over channels, rows or columns, or both of the latter"
            raise Refused(f"over axes {axes} {REASON}", advice)
        return self.tensor(node.args[0]), shape, axes

    def reduced(self, node: fx.Node, result: fx.Node, shape: tuple[int, ...], axes: list[int]) -> Any:
        """A map along whose axes all became one, in the shape and order that the operation gives it."""
        found, value = node.meta["val"], self.value(node.args[0])
        wanted = tuple(int(x) for x in (found if isinstance(found, Tensor) else found[0]).shape)
        left = tuple(1 if axis in axes else extent for axis, extent in enumerate(shape))
        given = shape_of(node.args[0]) or ()
        numbers = _numbers(shape, axes)
        numbers = numbers[value.places] if isinstance(value, Moved) else numbers.reshape(given)
        over = cast("int | list[int]", node.args[1])
        places = numbers.amin(over).reshape(wanted)
        return self.settled(result, left, places, node)

    def mean(self, node: fx.Node) -> Any:
        """The mean over channels, rows, columns, or both of the latter; or their sum, which is as many means."""
        total = node.target is _aten.sum.dim_IntList
        every = range(len(shape_of(node.args[0]) or ()))
        given = cast("Sequence[int]", node.args[1] or every)
        values, shape, axes = self.reduction(node, given, "sum" if total else "mean")
        count = prod(shape[axis] for axis in axes)
        if axes == [2, 3]:
            mean = self.graph.call_function(functional.adaptive_avg_pool2d, (values, 1))
        else:
            kernel = tuple(extent if axis in axes else 1 for axis, extent in enumerate(shape))[2:]
            if axes == [1]:
                values, kernel = self.channels_as_pixels(values, shape, zeros=True)
            # The divisor is there for zeros that complete a square.
            mean = self.graph.call_function(functional.avg_pool2d, (values, kernel, kernel, 0, False, True, count))
        if total:
            mean = self.graph.call_function(operator.mul, (mean, count))
        return self.reduced(node, mean, shape, axes)

    def glu(self, node: fx.Node) -> fx.Node:
        """The first half of the channels, gated by the sigmoid of the second."""
        shape = shape_of(node.args[0]) or ()
        axis = cast(int, node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", -1))
        half = shape[axis] // 2
        first, second = (self.channels(node, axis, start, half) for start in (0, half))
        return self.graph.call_function(operator.mul, (first, self.graph.call_function(torch.sigmoid, (second,))))

    def pad(self, node: fx.Node) -> fx.Node:
        given = dict(zip(("pad", "mode", "value"), node.args[1:], strict=False))
        if node.target is _aten.constant_pad_nd.default:
            given = {"pad": node.args[1], "mode": "constant", "value": node.args[2] if len(node.args) > 2 else 0}
        given = {"mode": "constant", "value": None} | given | dict(node.kwargs)
        margins, mode = [int(x) for x in cast("list[int]", given["pad"])], given["mode"]
        number = self.number(given["value"])
        if mode != "constant" or number or min(margins[4:], default=0) < 0:
            what = f"with mode {mode!r}" if mode != "constant" else f"with {number}" if number else f"by {margins}"
            raise Refused(f"{what} {REASON}", "padding must add zeros to rows and columns alone, or to channels alone")
        source = node.args[0]
        if len(margins) == 6 and not any(margins[:4]):
            stride, value = 1, self.value(source)
            if isinstance(value, Strided) and value.edges[0] == value.edges[1] > 0:
                stride, source = value.edges[0], value.source
            module = PadShortcut(stride, *margins[4:])
            return self.call(module, self.free(f"{node.name}_shortcut"), self.tensor(source))
        if len(margins) > 4 and any(margins[4:]):
            raise Refused(
                f"by {margins} {REASON}", "padding must add zeros to rows and columns alone, or to channels alone"
            )
        values, shape = self.tensor(source), shape_of(source) or ()
        left, right, top, bottom = (*margins, 0, 0)[:4]
        if min(margins) < 0 and len(shape) == 4:
            # Less than none is taken away.
            rows, columns = (
                range(shape[axis])[max(0, -a) : shape[axis] - max(0, -b)]
                for axis, a, b in ((2, top, bottom), (3, left, right))
            )
            values = self.strided(Strided(cast(fx.Node, source), rows, columns), node)
            left, right, top, bottom = (max(0, each) for each in (left, right, top, bottom))
            if not any((left, right, top, bottom)):
                return values
        return self.graph.call_function(functional.pad, (values, (left, right, top, bottom)))

    def slice(self, node: fx.Node) -> Any:
        """Channels; or rows and columns, of which a shortcut is made if padding follows."""
        # Of one type: mypy would take seconds for what their union makes of builtins.slice.
        given: list[Any] = [*node.args[1:], *[0, 0, None, 1][len(node.args) - 1 :]]
        axis, first, last, step = given
        source = cast(fx.Node, node.args[0])
        before = self.value(source)
        shape = shape_of(source) or ()
        axis %= max(len(shape), 1)
        whole = first in (0, None) and (last is None or last >= shape[axis])
        if whole and step == 1:
            return before
        if axis == 1 and step == 1:
            start, stop, _ = builtins.slice(first, last).indices(shape[1])
            if stop > start:
                return self.channels(node, 1, start, stop - start)
        found = self.lines(source, axis, builtins.slice(first, last, step))
        if found is not None:
            return found
        raise Refused(f"of {text_of(shape)} {REASON}", "take channels, or rows and columns of a map")
