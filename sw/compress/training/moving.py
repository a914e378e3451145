"""Assignments, signs and masks that move while a network is trained, all from one latent weight.

:class:`~sw.compress.training.decoders.CodebookDecoder` leaves indices and masks as the clustering found them. Here the
layer keeps its floating-point weight. In every forward pass it is pruned, its signs are split off, and each subvector
takes its nearest codeword; the gradient of the decoded weight goes to the latent one as it is (straight-through, as
LSQ's), and to the codebook by MVQ's equation 6. Pruned weights are pulled towards 0, as SR-STE does.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sw.compress.methods import CompressError
from sw.compress.training.decoders import CodewordDecoder, masked_lookup
from sw.compress.training.quant import StepSize, integers, kernels_for
from sw.compress.training.sparse import DECAY
from sw.format.layer import CompressedLayer, codeword_range

__all__ = ["MovingDecoder"]

# Scores of one chunk: on a GPU few launches, on a CPU what a core's cache holds.
_GPU_SCORES, _CPU_SCORES = 1 << 26, 1 << 18
# Pairs of weights of a subvector that a GPU compares at once: launches for each weight take longer than small layers.
_PAIRS = 1 << 22
# Of what the kernels take: a tile of longer codewords may not fit into a GPU's shared memory, and they count in int32.
_LENGTH, _WEIGHTS = 64, 1 << 31


class _StraightThrough(torch.autograd.Function):
    """The decoded subvectors; the latent ones get their gradient, and those pruned ``decay`` times themselves more."""

    @staticmethod
    def forward(ctx: Any, decoded: Tensor, latent: Tensor, keep: Tensor | None, decay: float) -> Tensor:
        ctx.save_for_backward(latent, keep)
        ctx.decay = decay
        return decoded.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor, None, None]:
        latent, keep = ctx.saved_tensors
        (gradient,) = gradients
        return gradient, gradient if keep is None else gradient + ctx.decay * latent * ~keep, None, None


class _FusedMoving(torch.autograd.Function):
    """What :meth:`MovingDecoder.forward` computes of grouped subvectors, by kernels."""

    @staticmethod
    def forward(
        ctx: Any,
        latent: Tensor,
        codebook: Tensor,
        base: Tensor,
        factor: Tensor,
        decoder: MovingDecoder,
        kernels: ModuleType,
    ) -> Tensor:
        decoded: Tensor
        codewords = integers(codebook, decoder.step(), decoder.low, decoder.high) * decoder._own_scale()
        m = decoder.m if decoder.masked else 0
        assignments, decoded, keep = kernels.moving(latent, codewords, decoder.n, m, decoder.signed)
        ctx.save_for_backward(latent, codebook, base, factor, keep, assignments)
        ctx.decoder, ctx.kernels = decoder, kernels
        return decoded

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        latent, codebook, base, factor, keep, assignments = ctx.saved_tensors
        own, gradient = ctx.decoder, gradients[0].contiguous()
        found = ctx.kernels.moving_backward(
            gradient, latent, keep, assignments, own.counts, codebook, base, factor, own.low, own.high, own.signed
        )
        if keep is not None:
            gradient = gradient + own.decay * latent * (1 - keep)
        # Of a shared codebook the gradients are by its own scale.
        codewords, slope = found if own.factor is None else (each * own.factor for each in found)
        return gradient, codewords, None, slope, None, None


def _largest(magnitudes: Tensor, n: int) -> Tensor:
    """Mask of the n largest of each row ``[rows, m]``; of equal ones the first. Sorting short rows takes longer."""
    m = magnitudes.shape[1]
    number = torch.arange(m, device=magnitudes.device)
    if magnitudes.is_cuda and magnitudes.numel() * m <= _PAIRS:
        return _largest_of_pairs(magnitudes, n)
    rank = torch.zeros(magnitudes.shape, dtype=torch.int8, device=magnitudes.device)
    for other in range(m):
        column = magnitudes[:, other, None]
        rank += (column > magnitudes) | ((column == magnitudes) & (other < number))
    return rank < n


def _largest_of_pairs(magnitudes: Tensor, n: int) -> Tensor:
    """As :func:`_largest`, of all pairs of a row at once."""
    number = torch.arange(magnitudes.shape[1], device=magnitudes.device)
    column, row = magnitudes[:, :, None], magnitudes[:, None, :]
    return ((column > row) | ((column == row) & (number[:, None] < number))).sum(1) < n


def _largest_score(scores: Tensor) -> Tensor:
    """Of each row ``[rows, k]`` the first of the largest. PyTorch's takes longer on a CPU than NumPy's."""
    # NumPy has no bfloat16.
    fast = scores.device.type == "cpu" and scores.dtype == torch.float32
    return torch.from_numpy(scores.numpy().argmax(1)) if fast else scores.argmax(1)


class MovingDecoder(CodewordDecoder):
    """Trains a latent weight and a codebook; assignments, signs and masks follow from the weight.

    Parameters
    ----------
    layer
        Of method ``vq``, ``mvq``, ``ssvq`` or ``msvq``: its codebook is the one to start from. Layers that share one
        train one (:func:`sw.compress.training.decoders.share_codebook`).
    weight
        Latent, float ``[K, C, R, S]``, before compression.
    decay
        Of pruned weights (:mod:`sw.compress.training.sparse`).

    Raises
    ------
    CompressError
        The layer has no codebook, or the weight has another shape.
    """

    def __init__(self, layer: CompressedLayer, weight: Tensor, *, decay: float = DECAY) -> None:
        super().__init__(layer.shape)
        if layer.codebook is None:
            raise CompressError(f"layer {layer.name!r} must have a codebook to move in, not method {layer.method}")
        if tuple(weight.shape) != layer.shape:
            raise CompressError(f"weight must have shape {list(layer.shape)}, not {list(weight.shape)}")
        self.method, self.d, self.k, self.n, self.m = layer.method, layer.d, layer.k, layer.n, layer.m
        self.codeword_bits, self.codebook_name, self.decay = layer.codeword_bits, layer.codebook_name, decay
        self.signed, self.masked = layer.signs is not None, layer.masks is not None
        self.low, self.high = codeword_range(layer.codeword_bits, self.signed)
        scale = float(layer.scale[0])
        self.step = StepSize(torch.tensor(scale))
        self.codebook = torch.nn.Parameter(torch.from_numpy(layer.codebook).float() * scale)
        self.weight = torch.nn.Parameter(weight.detach().clone().float())
        self._count_members(layer)

    @torch.no_grad()
    def _codes(self, latent: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Assignments ``[NG]`` and masks ``[NG, d]`` of a latent weight; and the codebook's integers, floats."""
        codes = integers(self.codebook, self.step(), self.low, self.high)
        codebook = codes * self._own_scale()
        magnitudes = latent.abs()
        keep = _largest(magnitudes.reshape(-1, self.m), self.n).reshape(latent.shape) if self.masked else None
        values = magnitudes if self.signed else latent
        if keep is not None:
            values = values * keep
        squares = codebook * codebook
        rows = max(1, (_GPU_SCORES if latent.is_cuda else _CPU_SCORES) // self.k)
        found = []
        for first in range(0, len(values), rows):
            chunk = values[first : first + rows]
            apart = squares.sum(1) if keep is None else keep[first : first + rows].to(chunk.dtype) @ squares.T
            found.append(_largest_score((2 * chunk @ codebook.T).sub_(apart)))
        return torch.cat(found), keep, codes

    def forward(self) -> Tensor:
        with torch.autocast(self.weight.device.type, enabled=False):
            latent = self._grouped(self.weight)
            kernels = kernels_for(latent)
            if kernels is not None and self.d <= _LENGTH and latent.numel() < _WEIGHTS:
                fused: Tensor = _FusedMoving.apply(  # type: ignore[no-untyped-call]
                    latent.contiguous(), self.codebook, self.step.base, self.step.log_factor, self, kernels
                )
                return self._ungrouped(fused)
            assignments, keep, _ = self._codes(latent)
            decoded = masked_lookup(self._codewords(), assignments, keep, self.counts)
            if self.signed:
                decoded = decoded * (1 - 2 * latent.detach().signbit().to(decoded.dtype))
            subvectors: Tensor = _StraightThrough.apply(decoded, latent, keep, self.decay)  # type: ignore[no-untyped-call]
        return self._ungrouped(subvectors)

    @torch.no_grad()
    def fields(self) -> dict[str, Any]:
        latent = self._grouped(self.weight)
        with torch.autocast(self.weight.device.type, enabled=False):
            assignments, keep, codes = self._codes(latent)
        signs = latent.signbit() if self.signed else None
        if signs is not None and keep is not None:
            signs = signs.gather(1, keep.nonzero()[:, 1].reshape(len(keep), -1))
        return self._coded(codes, assignments) | {
            "masks": None if keep is None else keep.cpu().numpy(),
            "signs": None if signs is None else signs.cpu().numpy(),
        }
