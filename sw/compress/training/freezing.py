"""Iterative freezing of signs that oscillate (SSVQ).

A sign that flips changes its weight by ``2 |c|``, so latents near 0 keep the network from settling. Signs that flip too
often are frozen, at the value that they had most of the time.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sw.compress.methods import CompressError
from sw.compress.training.decoders import SignBits
from sw.compress.training.quant import kernels_for
from sw.compress.training.settings import VALUES, Freezing

__all__ = ["VALUES", "Freezing", "SignFreezer", "threshold"]


def threshold(freezing: Freezing, step: int, steps: int) -> float:
    """Frequency above which signs are frozen at that step: a cosine from ``first`` to ``last``; infinite before."""
    begin = freezing.begin * steps
    if step < begin:
        return math.inf
    progress = (step - begin) / max(steps - begin, 1)
    return freezing.last + (freezing.first - freezing.last) * (1 + math.cos(math.pi * min(progress, 1))) / 2


class _Record(nn.Module):
    """What is known of the signs of one decoder; buffers, so that it is part of the model's state."""

    previous: Tensor
    frequency: Tensor
    balance: Tensor
    average: Tensor

    def __init__(self, negative: Tensor) -> None:
        super().__init__()
        self.register_buffer("previous", negative.clone())
        self.register_buffer("frequency", torch.zeros(negative.shape, device=negative.device))
        # Positive steps less negative ones.
        self.register_buffer("balance", torch.zeros(negative.shape, dtype=torch.int32, device=negative.device))
        self.register_buffer("average", torch.zeros(negative.shape, device=negative.device))

    def watch(self, signs: SignBits, m: float) -> None:
        """Take note of the signs after a step."""
        kernels = kernels_for(signs.latent)
        if kernels is not None:
            records = self.previous, self.frequency, self.balance, self.average
            kernels.watch_signs(signs.latent, signs.frozen, signs.frozen_negative, *records, m)
            return
        negative = signs.negative()
        self.frequency.lerp_((negative != self.previous).float(), m)
        self.previous.copy_(negative)
        sign = 1 - 2 * negative.int()
        self.balance.add_(sign)
        self.average.lerp_(sign.float(), m)


class SignFreezer:
    """Watches the signs of a network and freezes those that oscillate.

    Each step updates ``f = m * o + (1 - m) * f``, where o is 1 if the sign changed: with one bit, every change is
    opposite to the one before. Every ``interval`` steps the signs with f above :func:`threshold` are frozen for good.

    Parameters
    ----------
    model
        With layers that split signs. It gets buffers, which its ``state_dict`` carries.
    freezing
        How.
    steps
        Steps of the whole training.

    Raises
    ------
    CompressError
        No layer has signs, or ``steps`` is below 1.
    """

    def __init__(self, model: nn.Module, freezing: Freezing, steps: int) -> None:
        if steps < 1:
            raise CompressError(f"steps must be at least 1, not {steps}")
        self.freezing, self.steps = freezing, steps
        self.signs = [module for module in model.modules() if isinstance(module, SignBits)]
        if not self.signs:
            raise CompressError("freezing needs a layer with signs: the model has none")
        for signs in self.signs:
            if not hasattr(signs, "record"):
                signs.record = _Record(signs.negative())

    @torch.no_grad()
    def step(self, step: int) -> None:
        """To call after the optimiser's step; ``step`` counts from 1."""
        freezing = self.freezing
        m = freezing.momentum
        freeze = bool(freezing.interval) and step % freezing.interval == 0
        limit = threshold(freezing, step, self.steps)
        for signs in self.signs:
            record = signs.record
            assert isinstance(record, _Record)
            record.watch(signs, m)
            if freeze and limit < math.inf:
                value = record.balance < 0 if freezing.value == "majority" else record.average < 0
                new = (record.frequency > limit) & ~signs.frozen
                signs.frozen_negative.copy_(torch.where(new, value, signs.frozen_negative))
                signs.frozen.logical_or_(new)

    def frozen_share(self) -> float:
        """Share of all signs that are frozen."""
        return sum(int(signs.frozen.sum()) for signs in self.signs) / sum(signs.frozen.numel() for signs in self.signs)
