"""A network in steps on torch tensors: a batch of images at a time, on any device; the integers are its reference's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sw.compress.training.integer import device_sums, divide
from sw.host.network import SteppedNetwork
from sw.host.operations import RESIDUAL_LIMIT, Array, Kind, StepError

__all__ = ["run_on_device"]


def run_on_device(network: SteppedNetwork, images: Tensor) -> Tensor:
    """The result of :meth:`sw.host.network.SteppedNetwork.run` for a batch, bit for bit.

    Products and sums of integers are exact in float64 or int64; what :mod:`sw.host.operations` computes in float64 is
    the same correctly rounded operations in the same order.

    Parameters
    ----------
    images
        int8 ``[batch, C, rows, columns]``, on any device.

    Returns
    -------
    Tensor
        ``[batch, ...]``, of the last operation's type.

    Raises
    ------
    StepError
        The images have another type or shape.
    """
    wanted = Kind("int8", tuple(network.operations[0]["shape"]))
    if images.dtype != torch.int8 or tuple(images.shape[1:]) != wanted.shape:
        raise StepError(f"a batch must be of {wanted}, not {images.dtype} {list(images.shape)}")
    constants = _Constants(network.constants, images.device)
    last = {source: number for number, op in enumerate(network.operations) for source in op.get("in", ())}
    values: dict[int, Tensor] = {}
    for number, op in enumerate(network.operations):
        inputs = [values[source] for source in op.get("in", ())]
        if op["op"] == "input":
            values[number] = images
        elif op["op"] in ("layer", "logits"):
            values[number] = _layer(network, op, *inputs)
        else:
            values[number] = _RUN[op["op"]](op, constants, *inputs)
        for source in {*op.get("in", ())}:
            if last[source] == number:
                del values[source]
    return values[len(network.operations) - 1]


class _Constants:
    def __init__(self, constants: Mapping[str, Array], device: torch.device) -> None:
        self.constants, self.device = constants, device

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(self.constants[name])).to(self.device)


Op = Mapping[str, Any]


def _layer(network: SteppedNetwork, op: Op, values: Tensor) -> Tensor:
    tokens = values.ndim == 3
    maps = values[:, :, None] if tokens else values
    sums = device_sums(network.layers[op["layer"]], maps, op["op"] == "layer")
    return sums[:, :, 0] if tokens else sums


def _matmul(op: Op, constants: _Constants, a: Tensor, b: Tensor) -> Tensor:
    sums = (b.double() @ a.double()).long()
    if "shift" not in op:
        return sums.int()
    return divide(sums * op["multiplier"], op["shift"]).clamp(-128, 127).to(torch.int8)


def _scaled(values: Tensor, factor: float) -> Tensor:
    return (values.double() * factor).round().clamp(-4 * RESIDUAL_LIMIT, 4 * RESIDUAL_LIMIT).long()


def _on_residual(values: Tensor) -> Tensor:
    return values.clamp(-RESIDUAL_LIMIT, RESIDUAL_LIMIT).int()


def _clamp8(values: Tensor) -> Tensor:
    return values.clamp(-128, 127).to(torch.int8)


def _embed(op: Op, constants: _Constants, values: Tensor) -> Tensor:
    positions = constants[op["positions"]].long()
    pixels = _scaled(values.flatten(2), op["factor"])
    found = positions.repeat(len(values), 1, 1)
    found[:, :, positions.shape[1] - pixels.shape[2] :] += pixels
    return _on_residual(found)


def _residual(op: Op, constants: _Constants, stream: Tensor, values: Tensor) -> Tensor:
    return _on_residual(stream + _scaled(values, op["factor"]))


def _layernorm(op: Op, constants: _Constants, values: Tensor) -> Tensor:
    stream = values.long()
    C, total = stream.shape[1], stream.sum(1, keepdim=True)
    spread = C * (stream * stream).sum(1, keepdim=True) - total * total
    root = (spread.double() + C * C * float(op["epsilon"])).sqrt()
    normal = (C * stream - total).double() / root
    scaled = normal * constants[op["gain"]][:, None] + constants[op["offset"]][:, None]
    limit = op["limit"]
    return scaled.round().clamp(-limit - 1, limit).to(torch.int8 if limit == 127 else torch.int32)


def _token(op: Op, constants: _Constants, values: Tensor) -> Tensor:
    return values[:, :, op["number"], None]


def _mean(op: Op, constants: _Constants, values: Tensor) -> Tensor:
    return _clamp8(_scaled(values.long().sum(2, keepdim=True), op["factor"]))


def _split(op: Op, constants: _Constants, values: Tensor) -> Tensor:
    batch, _, T = values.shape
    heads = values.reshape(batch, op["parts"], op["heads"], -1, T)[:, op["part"]].clamp(-127, 127)
    return heads.transpose(2, 3) if op["transposed"] else heads


def _gelu(op: Op, constants: _Constants, values: Tensor) -> Tensor:
    return constants[op["table"]][values.long() + 128]


def _softmax(op: Op, constants: _Constants, values: Tensor) -> Tensor:
    scores = values.long()
    return constants[op["table"]][scores.amax(2, keepdim=True) - scores]


def _normalise(op: Op, constants: _Constants, values: Tensor, numerators: Tensor) -> Tensor:
    total = numerators.long().sum(2, keepdim=True).clamp_min(1)
    shares = values.double() * op["factor"] / total
    return _clamp8(shares.round()).flatten(1, 2)


_RUN: dict[str, Callable[..., Tensor]] = {
    "matmul": _matmul,
    "embed": _embed,
    "residual": _residual,
    "layernorm": _layernorm,
    "token": _token,
    "mean": _mean,
    "split": _split,
    "gelu": _gelu,
    "softmax": _softmax,
    "normalise": _normalise,
}
