"""Batch norms that keep their statistics while a network is trained: on a GPU one kernel forward, one backward.

PyTorch's own backward pass of them leaves channels-last memory, and each convolution before one copies its gradient
back.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sw.compress.training.quant import kernels_for

__all__ = ["norms_by_kernel"]


class _Normalised(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, slopes: Tensor, offsets: Tensor, kernels: ModuleType) -> Tensor:
        ctx.save_for_backward(values, slopes)
        ctx.kernels = kernels
        normalised: Tensor = kernels.normalise(values, slopes, offsets)
        return normalised

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor, Tensor, None]:
        values, slopes = ctx.saved_tensors
        passed, slope, offset = ctx.kernels.normalise_backward(gradients[0], values, slopes)
        return passed, slope, offset, None


def _forward(norm: nn.BatchNorm2d, values: Tensor) -> Tensor:
    kernels = kernels_for(values)
    last = values.is_contiguous(memory_format=torch.channels_last)
    # The kernels compute in float32, which is too little for values in double precision.
    other = not last or values.dtype == torch.float64
    if kernels is None or norm.training or not torch.is_grad_enabled() or other:
        return nn.BatchNorm2d.forward(norm, values)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    slopes = norm.weight * (norm.running_var + norm.eps).rsqrt()
    offsets = norm.bias - norm.running_mean * slopes
    normalised: Tensor = _Normalised.apply(values, slopes, offsets, kernels)  # type: ignore[no-untyped-call]
    return normalised


@contextlib.contextmanager
def norms_by_kernel(network: nn.Module) -> Iterator[None]:
    """Meanwhile, batch norms of ``network`` in evaluation mode are computed by kernels where gradients are wanted.

    They are so for channels-last values on a GPU; elsewhere, in training mode and in double precision, nothing changes.
    Nor does it for a batch norm with a ``forward`` of its own, as within another such block, which stays as it is.
    """
    norms = [
        module
        for module in network.modules()
        if type(module) is nn.BatchNorm2d
        and module.affine
        and module.track_running_stats
        and "forward" not in vars(module)
    ]
    for norm in norms:
        norm.forward = functools.partial(_forward, norm)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward
