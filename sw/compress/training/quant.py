"""Quantisation while training: learned step sizes (LSQ) for weights and codebooks, int8 activations."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from sw.compress.methods import CompressError
from sw.compress.quantiser import uniform_range
from sw.network.spatial import bilinear_weights

__all__ = [
    "ActivationQuantiser",
    "BilinearUpsampling",
    "StepSize",
    "bilinear_integers",
    "fake_quantise",
    "integers",
    "kernels_for",
    "weight_range",
]

# Shares of max-abs that calibration tries as the range: a few outliers must not cost everyone else a bit.
_SHARES = [share / 50 for share in range(10, 51)]


@functools.cache
def _kernels() -> ModuleType | None:
    return importlib.import_module("sw.compress.training.fused") if importlib.util.find_spec("triton") else None


def kernels_for(values: Tensor) -> ModuleType | None:
    """:mod:`sw.compress.training.fused` for tensors on a GPU, if Triton is installed; otherwise None."""
    return _kernels() if values.is_cuda else None


class _FakeQuantise(torch.autograd.Function):
    """:func:`fake_quantise`, keeping no more than its inputs for the backward pass."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, size: Tensor, low: int, high: int, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(values, size)
        ctx.range = low, high
        return integers(values.float(), size, low, high).mul_(size).to(dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor, None, None, None]:
        values, size = ctx.saved_tensors
        low, high = ctx.range
        (gradient,) = gradients
        ratio = values.float() / size
        clamped = ratio.clamp(low, high)
        inside = ratio == clamped
        # Not in the place of the ratio, which the gradient of the gradient is made of.
        slope = clamped.round_().sub_(ratio.masked_fill(~inside, 0)).mul_(gradient)
        factor = (values.numel() / size.numel() * high) ** -0.5
        return (gradient * inside).to(values.dtype), slope.sum_to_size(size.shape) * factor, None, None, None


class _FusedFakeQuantise(torch.autograd.Function):
    """:func:`fake_quantise` with a step of base and factor, by kernels."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, base: Tensor, factor: Tensor, low: int, high: int, kernels: ModuleType
    ) -> Tensor:
        ctx.save_for_backward(values, base, factor)
        ctx.range, ctx.kernels = (low, high), kernels
        quantised: Tensor = kernels.fake_quantise(values, base, factor, low, high, _precision(values))
        return quantised

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, Tensor, None, None, None]:
        passed, slope = ctx.kernels.fake_quantise_backward(gradients[0], *ctx.saved_tensors, *ctx.range)
        return passed, None, slope, None, None, None


def _precision(values: Tensor) -> torch.dtype:
    """The dtype of quantised values: autocast's, to which what comes next would round anyway, or that of ``values``."""
    device = values.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else values.dtype


class StepSize(nn.Module):
    """A learned step size ``base * exp(log_factor)``.

    Learned as a factor, because Adam moves every parameter by about the learning rate: too far for a step of 1e-4, too
    little for one of 1. A factor of 1 gives ``base`` to the bit.

    Parameters
    ----------
    base
        Where learning starts; positive, or 0 where there is no step yet.
    """

    base: Tensor

    def __init__(self, base: Tensor) -> None:
        super().__init__()
        self.register_buffer("base", base.detach().clone().float())
        self.log_factor = nn.Parameter(torch.zeros_like(self.base))

    def forward(self) -> Tensor:
        """The step size; not below the smallest normal float32."""
        return (self.base * self.log_factor.exp()).clamp_min(torch.finfo(torch.float32).tiny)

    def quantise(self, values: Tensor, low: int, high: int) -> Tensor:
        """:func:`fake_quantise` with this step."""
        kernels = kernels_for(values) if self.base.numel() == 1 else None
        if kernels is None:
            return fake_quantise(values, self(), low, high)
        fused: Tensor = _FusedFakeQuantise.apply(  # type: ignore[no-untyped-call]
            values, self.base, self.log_factor, low, high, kernels
        )
        return fused

    @torch.no_grad()
    def restart(self, base: Tensor) -> None:
        """Learn from this value on."""
        self.base.copy_(base)
        self.log_factor.zero_()


def integers(values: Tensor, step: Tensor, low: int, high: int) -> Tensor:
    """``clamp(round(v / s), low, high)`` as floats: :func:`sw.compress.quantiser.quantise` on tensors."""
    return (values / step).round_().clamp_(low, high)


def fake_quantise(values: Tensor, size: Tensor, low: int, high: int) -> Tensor:
    """Quantise and scale back, with LSQ's gradients.

    Values in range get the gradient of the result (straight-through), others none. The step gets ``round(v/s) - v/s``
    in range and ``low`` or ``high`` outside, times ``1 / sqrt(numel * high)`` (Esser et al., LSQ, section 2).

    Parameters
    ----------
    values
        Any shape, float.
    size
        Step size, positive; broadcasts against ``values``.
    low, high
        Range of the integers.

    Returns
    -------
    Tensor
        Under autocast in its precision; otherwise in that of ``values``.
    """
    quantised: Tensor = _FakeQuantise.apply(values, size, low, high, _precision(values))  # type: ignore[no-untyped-call]
    return quantised


def weight_range(bits: int) -> tuple[int, int]:
    """Least and greatest integer of a weight of that many bits: :func:`sw.compress.quantiser.uniform_range`.

    Raises
    ------
    CompressError
        ``bits`` is not in 2..8.
    """
    if type(bits) is not int or not 2 <= bits <= 8:
        raise CompressError(f"bits must be an integer in 2..8, not {bits!r}")
    return uniform_range(bits)


class ActivationQuantiser(nn.Module):
    """Activations as int8 with zero point 0 and one learned scale a tensor (the accelerator's contract).

    Without a scale it passes values through. :meth:`calibrate` sets the scale from data; training then learns it.

    Attributes
    ----------
    step
        Gives the scale, a scalar: value = scale * integer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.step = StepSize(torch.zeros(()))
        # A tensor's value can't be asked for on a GPU without waiting for it.
        self.ready = False
        self.observing = False

    @torch.no_grad()
    def calibrate(self, values: Tensor) -> None:
        """Set the scale to the one of 41 shares of max-abs that has the smallest squared error on these values."""
        sample = values.detach().float().flatten()
        sample = sample[:: max(1, sample.numel() >> 18)]
        largest = sample.abs().max()
        scales = (largest * torch.tensor(_SHARES, device=sample.device) / 127).clamp_min(1e-30)
        errors = torch.stack([((integers(sample, s, -128, 127) * s - sample) ** 2).mean() for s in scales])
        self.step.restart(torch.where(largest > 0, scales[errors.argmin()], 1.0))
        self.ready = True

    def forward(self, values: Tensor) -> Tensor:
        """``scale * integer`` for every value."""
        if self.observing:
            self.calibrate(values)
        return self.step.quantise(values, -128, 127) if self.ready else values

    def _load_from_state_dict(self, *arguments: Any, **keywords: Any) -> None:
        super()._load_from_state_dict(*arguments, **keywords)
        state, prefix = arguments[:2]
        self.ready = bool(state.get(f"{prefix}step.base", self.step.base) != 0)


def bilinear_integers(values: Tensor, factor: int) -> Tensor:
    """:class:`sw.network.spatial.Upsample` by ``bilinear`` of a map of integers in float32, bit for bit.

    All sums, at most 2 * 12**2 times an int8, are exact in float32.
    """
    weights = bilinear_weights(factor)
    sums = functional.pad(values, (1, 1, 1, 1), mode="replicate")
    for _ in range(2):
        # Rows, each of which becomes several; then the columns, which the transposition has made rows.
        size = sums.shape[2] - 2
        parts = [sum(int(w[t]) * sums[:, :, t : size + t] for t in range(3)) for w in weights]
        sums = torch.stack(cast("list[Tensor]", parts), 3).flatten(2, 3).transpose(2, 3)
    whole = int(weights[0].sum()) ** 2
    # A quotient of integers that small, in float64, is never rounded to the next one.
    return sums.sign() * ((2 * sums.abs() + whole).double() / (2 * whole)).floor_().float()


class BilinearUpsampling(nn.Module):
    """``factor`` times the rows and columns of quantised activations, bilinear, by the arithmetic of the integers.

    Bit for bit that of :class:`sw.network.spatial.Upsample`; gradients are those of torch's own upsampling.

    Parameters
    ----------
    quantiser
        Gave the activations their scale, which the result has, too. It stays a part of where it came from.
    factor
        At most :data:`sw.network.spatial.MAX_BILINEAR`.
    """

    def __init__(self, quantiser: ActivationQuantiser, factor: int = 2) -> None:
        super().__init__()
        self.factor = factor
        # Not a child: it has a place of its own in the network.
        self.__dict__["quantiser"] = quantiser

    def forward(self, values: Tensor) -> Tensor:
        """``[batch, C, factor * rows, factor * columns]``."""
        quantiser: ActivationQuantiser = self.__dict__["quantiser"]
        smooth: Tensor = functional.interpolate(values, scale_factor=self.factor, mode="bilinear")
        if not quantiser.ready:
            return smooth
        with torch.no_grad():
            step = quantiser.step()
            exact = bilinear_integers((values.float() / step).round_(), self.factor) * step
        upsampled: Tensor = exact.to(values.dtype) + (smooth - smooth.detach())
        return upsampled
