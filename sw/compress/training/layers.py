"""Convolutions and linear layers whose weight comes from a decoder, in the place of a network's own."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, cast

from torch import Tensor, nn
from torch.nn import functional

from sw.compress.methods import CompressError, LayerSource
from sw.compress.split import replace_module
from sw.compress.training.decoders import WeightDecoder
from sw.format.layer import CompressedLayer

__all__ = [
    "Decoded",
    "DecodedConv2d",
    "DecodedLinear",
    "DecodedModule",
    "compressed_layers",
    "decoded_layers",
    "replace_layer",
]


class _Placed(nn.Module):
    """Has the name and the geometry of a compressed layer."""

    name: str
    kind: str
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    def _place(self, source: LayerSource) -> None:
        self.name, self.kind = source.name, source.kind
        self.stride, self.padding, self.dilation, self.groups = (
            source.stride,
            source.padding,
            source.dilation,
            source.groups,
        )


class DecodedConv2d(_Placed):
    """A convolution whose weight comes from a :class:`WeightDecoder`.

    Parameters
    ----------
    conv
        Gives the geometry and the bias.
    decoder
        Gives the weight.
    source
        Name and geometry, for the compressed layer.
    """

    def __init__(self, conv: nn.Conv2d, decoder: WeightDecoder, source: LayerSource) -> None:
        super().__init__()
        self.decoder, self.bias = decoder, conv.bias
        self._place(source)

    @property
    def weight(self) -> Tensor:
        """The decoded weight ``[K, C, R, S]``, for modules that use it without calling the layer."""
        weight: Tensor = self.decoder()
        return weight

    def forward(self, values: Tensor) -> Tensor:
        """The convolution of ``values`` with the decoded weight."""
        return functional.conv2d(
            values, self.decoder(), self.bias, self.stride, self.padding, self.dilation, self.groups
        )


class DecodedLinear(nn.Module):
    """A linear layer whose weight comes from a :class:`WeightDecoder`. Parameters: :class:`DecodedConv2d`."""

    def __init__(self, linear: nn.Linear, decoder: WeightDecoder, source: LayerSource) -> None:
        super().__init__()
        self.decoder, self.bias = decoder, linear.bias
        self.name, self.kind = source.name, source.kind
        self.stride, self.padding, self.dilation, self.groups = (1, 1), (0, 0), (1, 1), 1

    @property
    def weight(self) -> Tensor:
        """The decoded weight ``[K, C]``, for modules that do not call the layer, such as ``MultiheadAttention``."""
        weight: Tensor = self.decoder()
        return weight.flatten(1)

    def forward(self, values: Tensor) -> Tensor:
        """The product of ``values`` with the decoded weight, and the bias."""
        return functional.linear(values, self.decoder().flatten(1), self.bias)


class DecodedModule(_Placed):
    """A layer that computes something else than ``Conv2d`` or ``Linear``, in its own way with the decoded weight.

    Such as a convolution that pads by the size of its input, or with other values than zeros, and ``Conv1d``. It has no
    integer form. Parameters: :class:`DecodedConv2d`.
    """

    def __init__(self, layer: nn.Conv1d | nn.Conv2d | nn.Linear, decoder: WeightDecoder, source: LayerSource) -> None:
        super().__init__()
        self.shape = layer.weight.shape
        del layer.weight
        self.decoder, self.layer = decoder, layer
        self._place(source)

    @property
    def weight(self) -> Tensor:
        """The decoded weight in the layer's own shape, for modules that use it without calling the layer."""
        weight: Tensor = self.decoder()
        return weight.reshape(self.shape)

    def forward(self, values: Tensor) -> Tensor:
        """The layer's own forward."""
        weight = self.weight
        self.layer.weight = cast(nn.Parameter, weight)
        try:
            result: Tensor = self.layer(values)
            if self.layer.weight is not weight:
                raise CompressError(f"layer {self.name!r} must not have a hook that replaces its weight")
            return result
        finally:
            del self.layer.weight


#: The layers of a converted network.
Decoded = DecodedConv2d | DecodedLinear | DecodedModule


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _own_forward(layer: nn.Module) -> bool:
    """Whether a layer computes something else than ``Conv2d`` with zeros around, or ``Linear``."""
    kind: Any = type(layer)
    if "forward" in vars(layer) or any(vars(layer)[hooks] for hooks in _HOOKS):
        return True
    if isinstance(layer, nn.Conv2d):
        plain = kind.forward is nn.Conv2d.forward and kind._conv_forward is nn.Conv2d._conv_forward
        return not plain or layer.padding_mode != "zeros"
    return isinstance(layer, nn.Conv1d) or (isinstance(layer, nn.Linear) and kind.forward is not nn.Linear.forward)


def replace_layer(model: nn.Module, source: LayerSource, decoder: WeightDecoder) -> None:
    """Put a decoded layer in the place of the layer, or decoded layer, of that name.

    Wherever the network has this very layer under other names, they get the decoded one, too.
    """
    old = model.get_submodule(source.name)
    device, training = next(iter(old.parameters())).device, old.training
    new: nn.Module
    if _own_forward(old):
        new = DecodedModule(cast(nn.Conv2d, old), decoder, source)
    elif source.kind == "conv":
        new = DecodedConv2d(cast(nn.Conv2d, old), decoder, source)
    else:
        new = DecodedLinear(cast(nn.Linear, old), decoder, source)
    replace_module(model, old, new.to(device).train(training))


def decoded_layers(model: nn.Module) -> Iterator[tuple[str, Decoded]]:
    """The decoded layers of a network and their names, in its order."""
    for name, module in model.named_modules():
        if isinstance(module, Decoded):
            yield name, module


def compressed_layers(model: nn.Module) -> list[CompressedLayer]:
    """The decoded layers of a network as integers, without requantisation, in its order.

    Warns of a layer whose magnitudes all fell below 0 in training: as LSQ has no gradient there, they stay 0.
    """
    every = [layer for _, layer in decoded_layers(model)]
    found = [
        CompressedLayer(
            name=layer.name,
            kind=layer.kind,
            shape=layer.decoder.shape,
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
            groups=layer.groups,
            **layer.decoder.fields(),
        )
        for layer in every
    ]
    for decoded, layer in zip(every, found, strict=True):
        if layer.signs is None:
            continue
        # Where the float weights are 0, the codewords are 0, too, and not below.
        below = bool((decoded.decoder.get_parameter("codebook") < 0).any())
        if below and not layer.integer_weights().any():
            advice = "train with a smaller codebook_lr (--codebook-lr) or lr, or with more codewords"
            warnings.warn(
                f"layer {layer.name!r} has weights of 0 alone: its codewords fell below 0 in training, and nothing"
                f" brings them back; {advice}",
                stacklevel=1,
            )
    return found
