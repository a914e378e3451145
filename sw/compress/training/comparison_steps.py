"""The net of :mod:`sw.compress.training.comparison` under networks in steps: the file's integers against the parts.

Every value of :class:`sw.compress.export.transformer.Walk` that is an integer in the file is computed by both from the
integers of the file before it.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from sw.compress.export.transformer import PartLayer, Visitor, Walk, transformer_steps
from sw.compress.methods import CompressError
from sw.compress.training.device import device_values
from sw.compress.training.differences import PRECISION, Difference, exact_layer, label, layer_bound
from sw.compress.training.integer import IntegerNetwork, on_cpu
from sw.network.spatial import Layer, Logits
from sw.network.tokens import RESIDUAL_LIMIT, Embed, MatMul, Mean, Normalise, Residual, Split

__all__ = ["compare_steps"]


class _Forced(Visitor):
    """Goes on with the integers of the file wherever there are some, in float64."""

    def __init__(self, places: dict[str, tuple[int, float]], network: IntegerNetwork, values: list[Tensor]) -> None:
        self.places, self.network, self.values = places, network, values
        self.found: list[Difference] = []

    def value(self, name: str, values: Tensor, reader: PartLayer | None = None) -> Tensor:
        number, scale = self.places[name]
        op, given = self.network.operations[number], self.values[number]
        # In the file tokens come last, but in maps and in keys, which lie as matrices in the place of weights.
        last = name not in ("input", "patches") and not (isinstance(op, Split) and op.transposed)
        integers = (given.transpose(-1, -2) if last else given).reshape(values.shape).double()
        limit = RESIDUAL_LIMIT if given.dtype == torch.int32 else 127
        least = -128 if limit == 127 and not isinstance(op, Split) else -limit
        self.compare(name, number, integers, (values / scale).clamp(least, limit), self.bound(number))
        return integers * scale

    def stream(self, name: str, values: Tensor) -> Tensor:
        return self.value(name, values)

    def layer(self, layer: PartLayer, values: Tensor) -> Tensor:
        return exact_layer(layer.inner, values)

    def norm(self, norm: nn.LayerNorm, values: Tensor) -> Tensor:
        weight, bias = (None if part is None else part.double() for part in (norm.weight, norm.bias))
        return functional.layer_norm(values, norm.normalized_shape, weight, bias, norm.eps)

    def compare(self, name: str, number: int, integers: Tensor, exact: Tensor, bound: Tensor) -> None:
        """Note the value that is farthest beyond its bound."""
        apart = (integers - exact).abs()
        worst = int((apart - bound).argmax())
        self.found.append(
            Difference(
                f"{number} ({label(self.network.operations[number])})",
                f"{name!r} of the transformer",
                float(apart.flatten()[worst]),
                float(bound.expand_as(apart).flatten()[worst]),
                float((integers != exact.round()).double().mean()),
            )
        )

    def bound(self, number: int) -> Tensor:
        """The largest difference that rounding explains, in steps; it broadcasts to what a visitor is shown."""
        op = self.network.operations[number]
        if isinstance(op, Layer | Split):
            split = op
            op = self.network.operations[op.inputs[0]] if isinstance(op, Split) else op
            assert isinstance(op, Layer)
            bound = layer_bound(self.network, op)
            if isinstance(split, Split):
                return bound.reshape(split.parts, split.heads, 1, -1)[split.part]
            return bound[:, None, None] if self.values[number].ndim == 4 else bound
        if isinstance(op, Embed | Residual):
            # An embedding rounds positions and pixels.
            return torch.tensor(1.0 if isinstance(op, Embed) else 0.5) + RESIDUAL_LIMIT * 2.0**-30
        rounded = 0.5 + 128 * PRECISION
        if isinstance(op, Mean):
            # The tokens were rounded before, to a 256th of a step or less.
            rounded += 0.5 / 256
        if isinstance(op, Normalise):
            return self.shares(op) + rounded
        return torch.tensor(rounded)

    def shares(self, op: Normalise) -> Tensor:
        """How far a sum of shares moves when each numerator of the softmax is rounded to an integer."""
        product = self.network.operations[op.inputs[0]]
        assert isinstance(product, MatMul)
        values = self.values[product.inputs[1]].double()
        spread = values.amax(-1) - values.amin(-1)
        numerators = self.values[op.inputs[1]].double()
        moved = 0.5 * numerators.shape[2] / numerators.sum(2).clamp_min(1) * op.factor
        bound = moved[:, :, None] * spread[..., None]
        return bound.flatten(1, 2).transpose(1, 2)


@torch.no_grad()
def compare_steps(network: IntegerNetwork, model: nn.Module, images: Tensor, calibration: Tensor) -> list[Difference]:
    """Compare a network in steps with the transformer that it was made of, value by value.

    Parameters
    ----------
    network
        Read from its file.
    model
        With decoded layers.
    images
        Normalised floats, to compare on.
    calibration
        What the scales were calibrated on.

    Raises
    ------
    CompressError
        The file's operations are not those that the transformer gives.
    """
    # The scales of the file are those of a CPU: a GPU's sums have other last bits.
    model, images = on_cpu(model), images.cpu()
    steps = transformer_steps(model, calibration.cpu())
    if [(op.kind, op.inputs) for op in steps.network.operations] != [(op.kind, op.inputs) for op in network.operations]:
        raise CompressError("the file must have the operations of the transformer, and has others")
    values = device_values(network, network.quantise(images))
    forced = _Forced(steps.places, network, values)
    logits = Walk(copy.deepcopy(model)).run(images.double(), forced)
    last = len(network.operations) - 1
    op = network.operations[last]
    assert isinstance(op, Logits)
    unit = float(network.layers[op.layer].scale[0]) * steps.places["pooled"][1]
    forced.compare("logits", last, values[last][..., 0].double(), logits / unit, layer_bound(network, op))
    return forced.found
