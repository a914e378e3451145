"""Differentiable k-means: the DKM baseline (Cho et al., ICLR 2022, arXiv 2108.12659).

While training, every subvector is a mean of all codewords, weighted by attention ``softmax(-|w - c|^2 / temperature)``,
and the codewords are the means of all subvectors under the same attention. So the loss moves the weights, and through
them assignments and codewords. In the end every subvector takes its nearest codeword: a layer of method ``vq``.

What differs from the paper: one update of the codebook a step by default, from where the last step left it, in place
of iterating until it rests; gradients go through the updates of the step, not of the steps before. The attention of a
chunk of subvectors is computed anew in the backward pass, so that no ``[NG, k]`` matrix is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sw.compress.methods import CompressError
from sw.compress.training.decoders import CodewordDecoder
from sw.compress.training.quant import StepSize, fake_quantise, integers
from sw.format.layer import CompressedLayer, codeword_range

__all__ = ["DkmDecoder"]

# Scores of one chunk: on a GPU few launches, on a CPU little memory.
_GPU_SCORES, _CPU_SCORES = 1 << 26, 1 << 22


def _scores(subvectors: Tensor, codebook: Tensor, temperature: Tensor) -> Tensor:
    """``-|w - c|^2 / temperature`` but for ``|w|^2``, which softmax and argmax do not see: float ``[NG, k]``."""
    return (2 * subvectors @ codebook.T - (codebook * codebook).sum(1)) / temperature


def _moments(subvectors: Tensor, codebook: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of the subvectors by attention ``[k, d]``, and of the attention ``[k]``."""
    attention = _scores(subvectors, codebook, temperature).softmax(1)
    return attention.T @ subvectors, attention.sum(0)


def _means(subvectors: Tensor, codebook: Tensor, temperature: Tensor) -> Tensor:
    """Means of the codewords by attention, ``[NG, d]``."""
    return _scores(subvectors, codebook, temperature).softmax(1) @ codebook


class DkmDecoder(CodewordDecoder):
    """Trains weights through attention to codewords. In evaluation mode and in the file, assignments are hard.

    Parameters
    ----------
    layer
        Of method ``vq``: the codebook to start from.
    weight
        float ``[K, C, R, S]`` before compression.
    temperature
        As a share of the mean squared distance of a subvector from its codeword in ``layer``. Small values are nearer
        to hard assignments, large ones have larger gradients.
    iterations
        Updates of the codebook a step.

    Raises
    ------
    CompressError
        The layer is not of method ``vq``, the weight has another shape, or another argument is out of range.
    """

    temperature: Tensor

    def __init__(
        self, layer: CompressedLayer, weight: Tensor, *, temperature: float = 0.1, iterations: int = 1
    ) -> None:
        super().__init__(layer.shape)
        if layer.method != "vq":
            raise CompressError(f"layer {layer.name!r} must be of method vq, not {layer.method}")
        if tuple(weight.shape) != layer.shape:
            raise CompressError(f"weight must have shape {list(layer.shape)}, not {list(weight.shape)}")
        if not (math.isfinite(temperature) and temperature > 0):
            raise CompressError(f"temperature must be finite and positive, not {temperature!r}")
        if type(iterations) is not int or iterations < 1:
            raise CompressError(f"iterations must be an integer of at least 1, not {iterations!r}")
        self.method, self.d, self.k, self.n, self.m = layer.method, layer.d, layer.k, layer.d, layer.d
        self.codeword_bits, self.iterations = layer.codeword_bits, iterations
        self.low, self.high = codeword_range(layer.codeword_bits, False)
        self.weight = torch.nn.Parameter(weight.detach().clone().float())
        self.step = StepSize(torch.from_numpy(layer.scale).reshape(()))
        decoded = torch.from_numpy(layer.float_weights()).to(weight.device)
        wide = self.weight.detach().double()
        # Where all weights are codewords, there is no distance to take a share of.
        distance = torch.maximum((wide - decoded).square().mean(), 1e-6 * wide.square().mean()) * layer.d
        share = (temperature * distance).float()
        # All codewords are as near to weights so small that their squares vanish.
        self.register_buffer("temperature", torch.where(share >= torch.finfo(torch.float32).tiny, share, 1.0))
        self.register_buffer("codebook", torch.from_numpy(layer.codebook).float() * float(layer.scale[0]))

    def _chunks(self, function: Callable[..., Any], subvectors: Tensor, codebook: Tensor) -> Iterator[Any]:
        """The function of each chunk of subvectors, which keeps no more than its arguments for the backward pass."""
        rows = max(1, (_GPU_SCORES if subvectors.is_cuda else _CPU_SCORES) // self.k)
        for chunk in torch.split(subvectors, rows):
            yield checkpoint(function, chunk, codebook, self.temperature, use_reentrant=False, preserve_rng_state=False)

    def _updated(self, subvectors: Tensor, codebook: Tensor) -> Tensor:
        """The codewords as means of the subvectors by attention. One that nobody attends to stays."""
        sums, attention = (
            torch.stack(parts).sum(0) for parts in zip(*self._chunks(_moments, subvectors, codebook), strict=True)
        )
        attention = attention[:, None]
        seen = attention > 1e-6
        return torch.where(seen, sums / attention.clamp_min(1e-6), codebook)

    def forward(self) -> Tensor:
        # The codebook follows from the weight, and stays where that is not trained.
        if not (self.training and self.weight.requires_grad):
            _, codebook, assignments = self._hard()
            return self._ungrouped(codebook[assignments])
        with torch.autocast(self.weight.device.type, enabled=False):
            subvectors, codebook = self._grouped(self.weight), self.codebook.clone()
            for _ in range(self.iterations):
                codebook = self._updated(subvectors, codebook)
            with torch.no_grad():
                self.codebook.copy_(codebook)
            quantised = fake_quantise(codebook, self.step(), self.low, self.high)
            return self._ungrouped(torch.cat(list(self._chunks(_means, subvectors, quantised))))

    @torch.no_grad()
    def _hard(self) -> tuple[Tensor, Tensor, Tensor]:
        """The codebook's integers and values, and the nearest codeword of each subvector."""
        size = self.step()
        codes = integers(self.codebook, size, self.low, self.high)
        with torch.autocast(self.weight.device.type, enabled=False):
            scores = self._chunks(lambda *given: _scores(*given).argmax(1), self._grouped(self.weight), codes * size)
            return codes, codes * size, torch.cat(list(scores))

    @torch.no_grad()
    def fields(self) -> dict[str, Any]:
        codes, _, assignments = self._hard()
        return self._coded(codes, assignments)
