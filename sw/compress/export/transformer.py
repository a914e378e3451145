"""From a vision transformer in torch, with decoded layers, to a network in steps.

The module must be built like DeiT (Touvron et al. 2021) or :class:`experiments.models.VisionTransformer`: a convolution
makes patches, positions are added, pre-norm blocks of attention and of two linear layers with GELU, a last norm, then
the class token or the mean of the tokens goes to the classifier. What its parts are called is in :data:`_NAMES`.

All that the array reads and makes is int8, with a scale for each tensor, but for the sums of a head's shares and for
the logits, which are int32. Softmax's numerators are quantised before the product with the values, each token's largest
to 127, and the division by their sum comes after it: so a flat softmax over many tokens keeps its precision.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from sw.compress.export.scales import MAX_BIAS, bias_advice, fixed_point, unit_of_zeros, zero_scales
from sw.compress.methods import CompressError
from sw.compress.training.layers import DecodedConv2d, DecodedLinear, compressed_layers
from sw.compress.training.quant import ActivationQuantiser
from sw.format.layer import CompressedLayer, Requantisation
from sw.network import Network, NetworkError, Operation
from sw.network.spatial import Input, Layer, Logits
from sw.network.tokens import (
    RESIDUAL_LIMIT,
    Embed,
    Gelu,
    LayerNorm,
    MatMul,
    Mean,
    Normalise,
    Residual,
    Softmax,
    Split,
    Token,
)

__all__ = ["PartLayer", "Steps", "Visitor", "Walk", "export_transformer", "transformer_steps"]

#: Names of the parts, those of DeiT first.
_NAMES = {
    "patches": ("patch_embed.proj", "patches"),
    "positions": ("pos_embed", "positions"),
    "blocks": ("blocks",),
    "norm": ("norm",),
    "classifier": ("head", "linear"),
    "norm1": ("norm1",),
    "qkv": ("attn.qkv", "attention.qkv"),
    "heads": ("attn.num_heads", "attention.heads"),
    "proj": ("attn.proj", "attention.proj"),
    "norm2": ("norm2",),
    "fc1": ("mlp.fc1", "fc1"),
    "fc2": ("mlp.fc2", "fc2"),
}
# How much farther than in calibration the residual stream may go; and steps of a mean of tokens in one of int8.
_HEADROOM = 4
_MEAN_STEPS = 256
# Share of the largest logit by which the parts, put together, may differ from the module.
_TOLERANCE = 1e-3


def _part(owner: nn.Module, name: str, path: str) -> Any:
    for known in _NAMES[name]:
        try:
            return attrgetter(known)(owner)
        except AttributeError:
            continue
    raise CompressError(f"the network must have a part {' or '.join(path + known for known in _NAMES[name])}")


class PartLayer:
    """A decoded layer, and the quantiser of its input where it has one."""

    def __init__(self, owner: nn.Module, name: str, path: str = "") -> None:
        self.module = _part(owner, name, path)
        quantiser = getattr(self.module, "quantiser", None)
        self.quantiser = quantiser if isinstance(quantiser, ActivationQuantiser) else None
        self.inner = self.module.layer if self.quantiser is not None else self.module
        if not isinstance(self.inner, DecodedConv2d | DecodedLinear):
            raise CompressError(f"part {path}{name} must be a decoded layer, not {type(self.inner).__name__}")


class _Norm:
    def __init__(self, owner: nn.Module, name: str, path: str = "") -> None:
        self.module = _part(owner, name, path)
        if not isinstance(self.module, nn.LayerNorm):
            raise CompressError(f"part {path}{name} must be LayerNorm, not {type(self.module).__name__}")


class _Block:
    def __init__(self, owner: nn.Module, number: int) -> None:
        path = f"blocks.{number}."
        self.heads = int(_part(owner, "heads", path))
        self.norm1, self.norm2 = _Norm(owner, "norm1", path), _Norm(owner, "norm2", path)
        self.qkv, self.proj, self.fc1, self.fc2 = (PartLayer(owner, x, path) for x in ("qkv", "proj", "fc1", "fc2"))


class Visitor:
    """What is done with the values of a :class:`Walk`; this one leaves them as they are."""

    def value(self, name: str, values: Tensor, reader: PartLayer | None = None) -> Tensor:
        """A tensor that is int8 in the network, and the layer that reads it."""
        return values

    def stream(self, name: str, values: Tensor) -> Tensor:
        """The residual stream."""
        return values

    def layer(self, layer: PartLayer, values: Tensor) -> Tensor:
        """A layer's sums."""
        return layer.module(values)  # type: ignore[no-any-return]

    def norm(self, norm: nn.LayerNorm, values: Tensor) -> Tensor:
        """Each token normalised."""
        return norm(values)  # type: ignore[no-any-return]


class _Calibration(Visitor):
    """Quantises wherever the integers are, and sets scales."""

    def __init__(self) -> None:
        self.scales: dict[str, float] = {}
        self.largest = 0.0

    def value(self, name: str, values: Tensor, reader: PartLayer | None = None) -> Tensor:
        quantiser = ActivationQuantiser().to(values.device)
        if reader is not None and reader.quantiser is not None and reader.quantiser.ready:
            quantiser = reader.quantiser
        else:
            quantiser.calibrate(values)
        self.scales[name] = float(quantiser.step())
        return quantiser(values)  # type: ignore[no-any-return]

    def stream(self, name: str, values: Tensor) -> Tensor:
        self.largest = max(self.largest, float(values.abs().max()))
        return values

    def layer(self, layer: PartLayer, values: Tensor) -> Tensor:
        return layer.inner(values)  # type: ignore[no-any-return]


class Walk:
    """The forward pass of a vision transformer, put together from its parts.

    Parameters
    ----------
    model
        As for :func:`export_transformer`.

    Raises
    ------
    CompressError
        A part is missing or of another kind.
    """

    def __init__(self, model: nn.Module) -> None:
        self.patches, self.classifier = PartLayer(model, "patches"), PartLayer(model, "classifier")
        self.positions: Tensor = _part(model, "positions", "")
        self.class_token: Tensor | None = getattr(model, "cls_token", None)
        self.blocks = [_Block(block, number) for number, block in enumerate(_part(model, "blocks", ""))]
        self.norm = _Norm(model, "norm")

    def run(self, images: Tensor, visitor: Visitor) -> Tensor:
        """The logits, ``[batch, classes]``, with each value shown to a visitor on the way."""
        value, layer, norm = visitor.value, visitor.layer, visitor.norm
        stream = value("patches", layer(self.patches, value("input", images, self.patches)))
        stream = stream.flatten(2).transpose(1, 2)
        if self.class_token is not None:
            stream = torch.cat([self.class_token.expand(len(stream), -1, -1), stream], dim=1)
        stream = visitor.stream("embed", stream + self.positions)
        for number, block in enumerate(self.blocks):
            path = f"{number}."
            values = value(path + "norm1", norm(block.norm1.module, stream), block.qkv)
            batch, tokens, width = values.shape
            parts = layer(block.qkv, values).reshape(batch, tokens, 3, block.heads, -1).permute(2, 0, 3, 1, 4)
            q, k, v = (value(path + name, part) for name, part in zip("qkv", parts, strict=True))
            scores = value(path + "scores", q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]))
            mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, tokens, width)
            values = layer(block.proj, value(path + "mixed", mixed, block.proj))
            stream = visitor.stream(path + "residual1", stream + value(path + "proj", values))
            values = layer(block.fc1, value(path + "norm2", norm(block.norm2.module, stream), block.fc1))
            values = functional.gelu(value(path + "fc1", values))
            values = layer(block.fc2, value(path + "gelu", values, block.fc2))
            stream = visitor.stream(path + "residual2", stream + value(path + "fc2", values))
        stream = norm(self.norm.module, stream)
        pooled = stream.mean(1) if self.class_token is None else stream[:, 0]
        return layer(self.classifier, value("pooled", pooled, self.classifier))


class _Exporter:
    def __init__(self, walk: Walk, found: _Calibration, model: nn.Module, shape: tuple[int, ...]) -> None:
        self.walk, self.scales = walk, found.scales
        self.given = {layer.name: layer for layer in compressed_layers(model)}
        self.layers: dict[str, CompressedLayer] = {}
        self.constants: dict[str, NDArray[Any]] = {}
        #: The operation of each value that a visitor is shown, and the real value of the integer 1.
        self.places: dict[str, tuple[int, float]] = {}
        self.operations: list[Operation] = [Input(shape=(shape[0], shape[1], shape[2]))]
        # Real value of the integer 1 in the residual stream.
        self.step = _HEADROOM * found.largest / RESIDUAL_LIMIT

    def place(self, name: str, number: int) -> int:
        self.places[name] = number, self.scales.get(name, self.step)
        return number

    def emit(self, make: type[Operation], *sources: int, **fields: Any) -> int:
        self.operations.append(make(inputs=sources, **fields))
        return len(self.operations) - 1

    def constant(self, name: str, values: NDArray[Any]) -> str:
        self.constants[name] = values
        return name

    def layer(self, layer: PartLayer, source: int, scale: float, target: NDArray[np.float64] | None) -> int:
        """A layer that reads integers of one scale and makes int8 of these, one for each channel; or int32."""
        module = layer.inner
        found = self.given[module.name]
        K = found.shape[0]
        gain = np.broadcast_to(found.scale.astype(np.float64) * scale, K)
        offset = np.zeros(K) if module.bias is None else module.bias.detach().cpu().double().numpy()
        if target is None and len(found.scale) > 1:
            raise CompressError(f"layer {found.name!r} must have one scale, not {K}: its sums are compared")
        # Of weights that are all 0 the scale says nothing, and the bias would be rounded to it.
        largest = offset if target is not None else np.abs(offset).max(keepdims=True)
        gain = np.where(zero_scales(found), unit_of_zeros(largest), gain)
        if target is None:
            multiplier, shift, bias = np.ones(K, np.int32), np.zeros(K, np.uint8), np.rint(offset / gain)
        else:
            multiplier, shift = fixed_point(gain / target)
            effective = np.ldexp(multiplier.astype(np.float64), -shift.astype(np.int64))
            bias = np.rint(offset / (effective * target))
        if not (np.abs(bias) <= MAX_BIAS).all():
            raise CompressError(f"layer {found.name!r}: {bias_advice(bias)}")
        requantisation = Requantisation(bias.astype(np.int32), multiplier, shift)
        self.layers[found.name] = dataclasses.replace(found, requantisation=requantisation)
        return self.emit(Logits if target is None else Layer, source, layer=found.name)

    def norm(self, norm: _Norm, source: int, name: str, scale: float, limit: int = 127) -> int:
        module = norm.module
        C = module.normalized_shape[0]
        weight = np.ones(C) if module.weight is None else module.weight.detach().cpu().double().numpy()
        bias = np.zeros(C) if module.bias is None else module.bias.detach().cpu().double().numpy()
        return self.emit(
            LayerNorm,
            source,
            gain=self.constant(f"{name}.gain", weight / scale),
            offset=self.constant(f"{name}.offset", bias / scale),
            epsilon=module.eps / self.step**2,
            limit=limit,
        )

    def table(self, name: str, values: NDArray[np.int64], function: Callable[[Tensor], Tensor]) -> str:
        results = function(torch.from_numpy(values).double()).round().clamp(-128, 127)
        return self.constant(name, results.to(torch.int8).numpy())

    def run(self) -> Network:
        walk, scales, step = self.walk, self.scales, self.step
        self.place("input", 0)
        stream = self.place("patches", self.layer(walk.patches, 0, scales["input"], np.array(scales["patches"])))
        positions = walk.positions.detach().cpu().double()[0].clone()
        if walk.class_token is not None:
            positions[0] += walk.class_token.detach().cpu().double()[0, 0]
        integers = np.rint(positions.numpy().T / step).clip(-RESIDUAL_LIMIT, RESIDUAL_LIMIT).astype(np.int32)
        stream = self.emit(
            Embed, stream, factor=scales["patches"] / step, positions=self.constant("positions", integers)
        )
        self.place("embed", stream)
        for number, block in enumerate(walk.blocks):
            stream = self.block(block, number, stream)
        pooled = scales["pooled"]
        if walk.class_token is None:
            fine = pooled / _MEAN_STEPS
            tokens = self.norm(walk.norm, stream, "norm", fine, RESIDUAL_LIMIT)
            values = self.emit(Mean, tokens, factor=1 / (_MEAN_STEPS * positions.shape[0]))
        else:
            values = self.norm(walk.norm, self.emit(Token, stream, number=0), "norm", pooled)
        self.layer(walk.classifier, self.place("pooled", values), pooled, None)
        return Network(self.layers, tuple(self.operations), scales["input"], self.constants)

    def block(self, block: _Block, number: int, stream: int) -> int:
        path, name, step = f"{number}.", f"blocks.{number}.", self.step
        s = {key.removeprefix(path): scale for key, scale in self.scales.items() if key.startswith(path)}

        def place(part: str, made: int) -> int:
            return self.place(path + part, made)

        values = place("norm1", self.norm(block.norm1, stream, name + "norm1", s["norm1"]))
        width = len(self.constants[name + "norm1.gain"])
        values = self.layer(block.qkv, values, s["norm1"], np.repeat([s["q"], s["k"], s["v"]], width))
        q, k, v = (
            place("qkv"[part], self.emit(Split, values, part=part, parts=3, heads=block.heads, transposed=part == 1))
            for part in range(3)
        )
        factor = s["q"] * s["k"] / math.sqrt(width // block.heads) / s["scores"]
        multiplier, shift = fixed_point(np.array([factor]))
        scores = self.emit(MatMul, q, k, name=name + "scores", multiplier=int(multiplier[0]), shift=int(shift[0]))
        exponents = self.table(name + "softmax", np.arange(256), lambda x: 127 * torch.exp(-s["scores"] * x))
        numerators = self.emit(Softmax, place("scores", scores), table=exponents)
        sums = self.emit(MatMul, numerators, v, name=name + "shares")
        mixed = place("mixed", self.emit(Normalise, sums, numerators, factor=s["v"] / s["mixed"]))
        values = place("proj", self.layer(block.proj, mixed, s["mixed"], np.array(s["proj"])))
        stream = place("residual1", self.emit(Residual, stream, values, factor=s["proj"] / step))
        values = place("norm2", self.norm(block.norm2, stream, name + "norm2", s["norm2"]))
        values = place("fc1", self.layer(block.fc1, values, s["norm2"], np.array(s["fc1"])))
        gelu = self.table(name + "gelu", np.arange(-128, 128), lambda x: functional.gelu(x * s["fc1"]) / s["gelu"])
        values = place("gelu", self.emit(Gelu, values, table=gelu))
        values = place("fc2", self.layer(block.fc2, values, s["gelu"], np.array(s["fc2"])))
        return place("residual2", self.emit(Residual, stream, values, factor=s["fc2"] / step))


@dataclass(frozen=True)
class Steps:
    """A vision transformer in integers, and what they stand for."""

    #: In steps.
    network: Network
    #: The parts that it was made of.
    walk: Walk
    #: Of each value that a :class:`Visitor` of the walk is shown: the number of its operation, and the real value of
    #: the integer 1.
    places: dict[str, tuple[int, float]]


@torch.no_grad()
def transformer_steps(model: nn.Module, images: Tensor) -> Steps:
    """A vision transformer in integers, beside its parts.

    Parameters
    ----------
    model
        With decoded layers (:func:`sw.compress.training.modules.convert`). Input scales that
        :func:`sw.compress.training.graph.quantise_inputs` has put in and training has learned are kept.
    images
        Normalised ``[batch, C, rows, columns]``, on the model's device: all other scales are calibrated on them.

    Raises
    ------
    CompressError
        A part is missing or of another kind, or the parts do not compute what the module does.
    """
    training = model.training
    quantisers = [module for module in model.modules() if isinstance(module, ActivationQuantiser) and module.ready]
    model.eval()
    try:
        walk = Walk(model)
        # Without quantisers: sums in another order, rounded, would not be near each other any more.
        for quantiser in quantisers:
            quantiser.ready = False
        expected, found = model(images), walk.run(images, Visitor())
        apart = float((found - expected).abs().max()) if found.shape == expected.shape else math.inf
        if not apart <= _TOLERANCE * float(expected.abs().max()):
            raise CompressError(
                "the network must compute what its parts say (pre-norm blocks with GELU, then the class token or the "
                f"mean of the tokens), not logits that are {apart:.3g} apart"
            )
        for quantiser in quantisers:
            quantiser.ready = True
        calibration = _Calibration()
        walk.run(images, calibration)
    finally:
        for quantiser in quantisers:
            quantiser.ready = True
        model.train(training)
    try:
        exporter = _Exporter(walk, calibration, model, tuple(images.shape[1:]))
        return Steps(exporter.run(), walk, exporter.places)
    except NetworkError as error:
        raise CompressError(str(error)) from None


def export_transformer(model: nn.Module, images: Tensor) -> Network:
    """The network of :func:`transformer_steps`."""
    return transformer_steps(model, images).network
