"""What two computations of one operation differ by, and how much of it rounding explains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sw.compress.training.integer import IntegerNetwork
from sw.compress.training.layers import DecodedConv2d, DecodedLinear
from sw.network import Operation
from sw.network.spatial import Layer, Logits

__all__ = ["PRECISION", "Difference", "exact_layer", "label", "layer_bound"]

#: Share of the largest sum that float64 and the rounding of float32 scales leave off.
PRECISION = 2.0**-20


@dataclass(frozen=True)
class Difference:
    """One operation of the file and of the graph, from the same integers."""

    #: Number and kind, in the file.
    operation: str
    #: In the user's network.
    where: str
    #: The largest difference, in steps of the result.
    apart: float
    #: The largest that rounding explains there.
    bound: float
    #: Of the values that are not the same integer.
    share: float

    @property
    def explained(self) -> bool:
        """Whether rounding explains it."""
        return self.apart <= self.bound


def exact_layer(module: DecodedConv2d | DecodedLinear, given: Tensor) -> Tensor:
    """A layer in float64."""
    bias = None if module.bias is None else module.bias.double()
    if isinstance(module, DecodedLinear):
        return functional.linear(given, module.weight.double(), bias)
    how = module.stride, module.padding, module.dilation, module.groups
    return functional.conv2d(given, module.decoder().double(), bias, *how)


def label(op: Operation) -> str:
    """An operation's kind, and its layer where it has one."""
    return f"{op.kind} {op.layer!r}" if isinstance(op, Layer | Logits) else op.kind


def layer_bound(network: IntegerNetwork, op: Layer | Logits) -> Tensor:
    """The largest difference of a layer that rounding explains, in steps of its result, for each channel."""
    layer = network.layers[op.layer]
    given = layer.requantisation
    assert given is not None
    # Steps of the result by one of the sum.
    factor = np.abs(np.ldexp(given.multiplier.astype(np.float64), -given.shift.astype(np.int64)))
    sums = 128 * np.abs(layer.integer_weights().astype(np.float64)).reshape(len(factor), -1).sum(1)
    # A factor that was too small for its bias was raised to where the bias fits.
    raised = np.abs(given.bias.astype(np.int64)) >= (1 << 29) - 1
    bound = (0.0 if isinstance(op, Logits) else 0.5) + factor * (0.5 + np.where(raised, sums, 0) + PRECISION * sums)
    return torch.from_numpy(bound + PRECISION * np.abs(given.bias * factor))
