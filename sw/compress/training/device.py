"""A network in integers on torch tensors: a batch of images at a time, on any device; the integers are its reference's.

Products and sums of integers are exact in float64 or int64; what :mod:`sw.network.tokens` computes in float64 is the
same correctly rounded operations in the same order. An operation that has no form here is computed by its reference.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sw.compress.training.quant import bilinear_integers
from sw.format.layer import CompressedLayer
from sw.golden import output_size
from sw.network import Network, Operation, Output, spatial, tokens
from sw.network.network import check_images, interpret, single

__all__ = ["device_results", "device_values", "run_on_device"]


def run_on_device(network: Network, images: Tensor) -> Tensor:
    """The result of :meth:`sw.network.Network.run` for a batch, bit for bit.

    Parameters
    ----------
    network
        With one output.
    images
        int8 ``[batch, C, rows, columns]``, on any device.

    Returns
    -------
    Tensor
        ``[batch, ...]``, on the same device.

    Raises
    ------
    sw.network.NetworkError
        The images have another dtype or shape, or there are several outputs.
    """
    return single(network.outputs, device_results(network, images))


def device_results(network: Network, images: Tensor) -> tuple[Tensor, ...]:
    """The results of :meth:`sw.network.Network.results` for a batch, bit for bit: see :func:`run_on_device`."""
    check_images(network.values[0], images)
    _ = network.with_image((images.shape[1], images.shape[2], images.shape[3])).values

    def compute(_: int, op: Operation, values: Sequence[Tensor]) -> Tensor:
        run = _RUN.get(type(op))
        if run is not None:
            return run(op, network, *values)
        found = op.compute(network, *(value.cpu().numpy() for value in values))
        return torch.from_numpy(np.ascontiguousarray(found)).to(images.device)

    return interpret(network.operations, network.outputs, images, compute)


def device_values(network: Network, images: Tensor) -> list[Tensor]:
    """The result of each operation for a batch, the images first: see :func:`run_on_device`."""
    outputs = tuple(Output(number, str(number)) for number in range(1, len(network.operations)))
    return [images, *device_results(dataclasses.replace(network, outputs=outputs), images)]


def _divide(values: Tensor, shift: int | Tensor) -> Tensor:
    """``round(v / 2**shift)``, halves away from zero, int64."""
    shift = torch.as_tensor(shift, device=values.device)
    half = (torch.ones_like(shift) << shift) >> 1
    return values.sign() * ((values.abs() + half) >> shift)


def _constant(network: Network, name: str, values: Tensor) -> Tensor:
    """A constant beside some values."""
    return torch.from_numpy(np.ascontiguousarray(network.constants[name])).to(values.device)


# Maps


def _sums(layer: CompressedLayer, values: Tensor, requantised: bool) -> Tensor:
    """The sums of features, tokens or maps.

    They stay below 2**53, so float64 products are exact in any order of summation.
    """
    given = layer.requantisation
    assert given is not None
    weight = torch.from_numpy(layer.integer_weights()).to(values.device, torch.float64)
    maps = {2: values[..., None, None], 3: values[:, :, None], 4: values}[values.ndim].double()
    if layer.groups == 1:
        # A convolution would be free to pick an algorithm that is not exact; a matrix product is not.
        E, F = output_size(layer, maps.shape[2], maps.shape[3])
        columns = functional.unfold(maps, layer.shape[2:], layer.dilation, layer.padding, layer.stride)
        products = (weight.flatten(1) @ columns).reshape(len(maps), -1, E, F)
    else:
        products = functional.conv2d(
            maps, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups
        ).round()
    bias, multiplier, shift = (
        torch.from_numpy(part.astype(np.int64)).to(values.device).reshape(-1, 1, 1)
        for part in (given.bias, given.multiplier, given.shift)
    )
    biased = products.long() + bias
    sums = _divide(biased * multiplier, shift).clamp(-128, 127).to(torch.int8) if requantised else biased.int()
    return {2: sums.flatten(1), 3: sums.flatten(2), 4: sums}[values.ndim]


def _layer(op: spatial.Layer, network: Network, values: Tensor) -> Tensor:
    return _sums(network.layers[op.layer], values, True).clamp(*op.range)


def _logits(op: spatial.Logits, network: Network, values: Tensor) -> Tensor:
    return _sums(network.layers[op.layer], values, False)


def _add(op: spatial.Add, network: Network, first: Tensor, second: Tensor) -> Tensor:
    a, b = op.multipliers
    return _divide(first.long() * a + second.long() * b, op.shift).clamp(*op.range).to(torch.int8)


def _average(op: spatial.Average, network: Network, values: Tensor) -> Tensor:
    if op.window is not None:
        # The sum: float64 holds it exactly.
        total = functional.avg_pool2d(values.double(), *op.window, divisor_override=1).round().long()
    else:
        total = values.long().sum((2, 3), keepdim=True)
    return _divide(total * op.multiplier, op.shift).clamp(*op.range).to(torch.int8)


def _maximum(op: spatial.Maximum, network: Network, values: Tensor) -> Tensor:
    # Padding never wins, as in max_pool2d; float32 holds every int8.
    pooled = functional.max_pool2d(values.float(), op.kernel, op.stride, op.padding, ceil_mode=op.ceil)
    return pooled.to(torch.int8)


def _pad(op: spatial.Pad, network: Network, values: Tensor) -> Tensor:
    top, bottom, left, right = op.padding
    return functional.pad(values, (left, right, top, bottom))


def _shortcut(op: spatial.Shortcut, network: Network, values: Tensor) -> Tensor:
    return functional.pad(values[:, :, :: op.stride, :: op.stride], (0, 0, 0, 0, op.before, op.after))


def _flatten(op: spatial.Flatten, network: Network, values: Tensor) -> Tensor:
    return values.flatten(1)


def _clamp(op: spatial.Clamp, network: Network, values: Tensor) -> Tensor:
    return values.clamp(*op.range)


def _table(op: spatial.Table, network: Network, values: Tensor) -> Tensor:
    return _constant(network, op.table, values)[values.long() & 255]


def _concatenate(op: spatial.Concatenate, network: Network, *values: Tensor) -> Tensor:
    return torch.cat(values, 1)


def _slice(op: spatial.Slice, network: Network, values: Tensor) -> Tensor:
    return values[:, op.start : op.stop]


def _crop(op: spatial.Crop, network: Network, values: Tensor) -> Tensor:
    (top, bottom, left, right), (rows, columns) = op.margins, values.shape[2:]
    return values[:, :, top : rows - bottom : op.stride[0], left : columns - right : op.stride[1]]


def _repeat(op: spatial.Repeat, network: Network, values: Tensor) -> Tensor:
    return values.repeat_interleave(op.factors[0], 2).repeat_interleave(op.factors[1], 3)


def _pixel_shuffle(op: spatial.PixelShuffle, network: Network, values: Tensor) -> Tensor:
    return functional.pixel_shuffle(values, op.factor)


def _pixel_unshuffle(op: spatial.PixelUnshuffle, network: Network, values: Tensor) -> Tensor:
    return functional.pixel_unshuffle(values, op.factor)


def _upsample(op: spatial.Upsample, network: Network, values: Tensor) -> Tensor:
    if op.mode == "zeros":
        found = values.new_zeros((*values.shape[:2], 2 * values.shape[2], 2 * values.shape[3]))
        found[:, :, ::2, ::2] = values
        return found
    if op.mode == "nearest":
        return values.repeat_interleave(2, 2).repeat_interleave(2, 3)
    return bilinear_integers(values.float(), op.factor).to(torch.int8)


def _multiply(op: spatial.Multiply, network: Network, first: Tensor, second: Tensor) -> Tensor:
    factors = second.long() if second.ndim == first.ndim else second.long()[:, :, None, None]
    return _divide(first.long() * factors * op.multiplier, op.shift).clamp(*op.range).to(torch.int8)


# Tokens


def _matmul(op: tokens.MatMul, network: Network, a: Tensor, b: Tensor) -> Tensor:
    sums = (b.double() @ a.double()).long()
    if op.multiplier is None or op.shift is None:
        return sums.int()
    return _divide(sums * op.multiplier, op.shift).clamp(-128, 127).to(torch.int8)


def _scaled(values: Tensor, factor: float) -> Tensor:
    return (values.double() * factor).round().clamp(-4 * tokens.RESIDUAL_LIMIT, 4 * tokens.RESIDUAL_LIMIT).long()


def _on_residual(values: Tensor) -> Tensor:
    return values.clamp(-tokens.RESIDUAL_LIMIT, tokens.RESIDUAL_LIMIT).int()


def _clamp8(values: Tensor) -> Tensor:
    return values.clamp(-128, 127).to(torch.int8)


def _embed(op: tokens.Embed, network: Network, values: Tensor) -> Tensor:
    positions = _constant(network, op.positions, values).long()
    pixels = _scaled(values.flatten(2), op.factor)
    found = positions.repeat(len(values), 1, 1)
    found[:, :, positions.shape[1] - pixels.shape[2] :] += pixels
    return _on_residual(found)


def _residual(op: tokens.Residual, network: Network, stream: Tensor, values: Tensor) -> Tensor:
    return _on_residual(stream + _scaled(values, op.factor))


def _layernorm(op: tokens.LayerNorm, network: Network, values: Tensor) -> Tensor:
    stream = values.long()
    C, total = stream.shape[1], stream.sum(1, keepdim=True)
    spread = C * (stream * stream).sum(1, keepdim=True) - total * total
    root = (spread.double() + C * C * float(op.epsilon)).sqrt()
    normal = (C * stream - total).double() / root
    gain, offset = (_constant(network, name, values)[:, None] for name in (op.gain, op.offset))
    scaled = normal * gain + offset
    return scaled.round().clamp(-op.limit - 1, op.limit).to(torch.int8 if op.limit == 127 else torch.int32)


def _token(op: tokens.Token, network: Network, values: Tensor) -> Tensor:
    return values[:, :, op.number, None]


def _mean(op: tokens.Mean, network: Network, values: Tensor) -> Tensor:
    return _clamp8(_scaled(values.long().sum(2, keepdim=True), op.factor))


def _split(op: tokens.Split, network: Network, values: Tensor) -> Tensor:
    batch, _, T = values.shape
    heads = values.reshape(batch, op.parts, op.heads, -1, T)[:, op.part].clamp(-127, 127)
    return heads.transpose(2, 3) if op.transposed else heads


def _gelu(op: tokens.Gelu, network: Network, values: Tensor) -> Tensor:
    return _constant(network, op.table, values)[values.long() + 128]


def _softmax(op: tokens.Softmax, network: Network, values: Tensor) -> Tensor:
    scores = values.long()
    return _constant(network, op.table, values)[scores.amax(2, keepdim=True) - scores]


def _normalise(op: tokens.Normalise, network: Network, values: Tensor, numerators: Tensor) -> Tensor:
    total = numerators.long().sum(2, keepdim=True).clamp_min(1)
    shares = values.double() * op.factor / total
    return _clamp8(shares.round()).flatten(1, 2)


_RUN: dict[type[Operation], Callable[..., Tensor]] = {
    spatial.Layer: _layer,
    spatial.Logits: _logits,
    spatial.Add: _add,
    spatial.Average: _average,
    spatial.Maximum: _maximum,
    spatial.Pad: _pad,
    spatial.Shortcut: _shortcut,
    spatial.Flatten: _flatten,
    spatial.Clamp: _clamp,
    spatial.Table: _table,
    spatial.Concatenate: _concatenate,
    spatial.Slice: _slice,
    spatial.Crop: _crop,
    spatial.Repeat: _repeat,
    spatial.PixelShuffle: _pixel_shuffle,
    spatial.PixelUnshuffle: _pixel_unshuffle,
    spatial.Upsample: _upsample,
    spatial.Multiply: _multiply,
    tokens.MatMul: _matmul,
    tokens.Embed: _embed,
    tokens.Residual: _residual,
    tokens.LayerNorm: _layernorm,
    tokens.Token: _token,
    tokens.Mean: _mean,
    tokens.Split: _split,
    tokens.Gelu: _gelu,
    tokens.Softmax: _softmax,
    tokens.Normalise: _normalise,
}
