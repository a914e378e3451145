"""Triton kernels of the training step: what plain PyTorch does in many passes over memory, in one.

The plain code of :mod:`sw.compress.training.quant`, :mod:`~sw.compress.training.modules` and
:mod:`~sw.compress.training.freezing` is the reference, and what runs on a CPU. All sums are in a fixed order, so the
same inputs give the same bits.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, import-untyped, import-not-found"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["fake_quantise", "fake_quantise_backward", "member_sums", "watch_signs"]

_BLOCK = 4096
_ROWS = 32
_PROGRAMS = 4096

# Adding it to a float32 below 2^22 leaves no bits after the point: rounding, halves to even.
_ROUND = tl.constexpr(12582912.0)
_ALL = tl.constexpr(tl.PropagateNan.ALL)


@triton.jit
def _clamped(values_at, size_at, at, inside, low, high):
    """``v / s``, and that in low..high."""
    values = tl.load(values_at + at, mask=inside, other=0.0).to(tl.float32)
    ratio = tl.div_rn(values, tl.load(size_at))
    return ratio, tl.clamp(ratio, low, high, propagate_nan=_ALL)


@triton.jit
def _fake_quantise(values_at, size_at, results_at, count, low, high, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    _, clamped = _clamped(values_at, size_at, at, inside, low, high)
    result = ((clamped + _ROUND) - _ROUND) * tl.load(size_at)
    tl.store(results_at + at, result.to(results_at.dtype.element_ty), mask=inside)


@triton.jit
def _fake_quantise_backward(
    gradients_at, values_at, size_at, results_at, slopes_at, count, low, high, BLOCK: tl.constexpr
):
    program = tl.program_id(0)
    at = program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    ratio, clamped = _clamped(values_at, size_at, at, inside, low, high)
    gradients = tl.load(gradients_at + at, mask=inside, other=0.0).to(tl.float32)
    unclamped = ratio == clamped
    slopes = ((clamped + _ROUND) - _ROUND) - tl.where(unclamped, ratio, 0.0)
    passed = tl.where(unclamped, gradients, 0.0)
    tl.store(results_at + at, passed.to(results_at.dtype.element_ty), mask=inside)
    tl.store(slopes_at + program, tl.sum(gradients * slopes, axis=0))


def _dense(values: Tensor) -> Tensor:
    """The values, without gaps in memory, in any order of the axes."""
    return values if torch.empty_like(values).stride() == values.stride() else values.contiguous()


def fake_quantise(values: Tensor, size: Tensor, low: int, high: int, dtype: torch.dtype) -> Tensor:
    """``s * clamp(round(v / s), low, high)`` with one step size, in the memory order of ``values``."""
    values = _dense(values)
    results = torch.empty_like(values, dtype=dtype)
    count = values.numel()
    _fake_quantise[(triton.cdiv(count, _BLOCK),)](
        values, size, results, count, float(low), float(high), BLOCK=_BLOCK, num_warps=8
    )
    return results


def fake_quantise_backward(
    gradient: Tensor, values: Tensor, size: Tensor, low: int, high: int
) -> tuple[Tensor, Tensor]:
    """Gradients of the values, and of the step size before LSQ's factor."""
    values = _dense(values)
    if gradient.stride() != values.stride():
        gradient = torch.empty_like(values, dtype=gradient.dtype).copy_(gradient)
    results, count = torch.empty_like(values), values.numel()
    programs = triton.cdiv(count, _BLOCK)
    slopes = torch.empty(programs, device=values.device)
    _fake_quantise_backward[(programs,)](
        gradient, values, size, results, slopes, count, float(low), float(high), BLOCK=_BLOCK, num_warps=8
    )
    return results, slopes.sum()


@triton.jit
def _member_sums(
    gradients_at, masks_at, members_at, offsets_at, sums_at, k, d, parts,
    MASKED: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    code, part = tl.program_id(0), tl.program_id(1)
    begin, end = tl.load(offsets_at + code), tl.load(offsets_at + code + 1)
    span = (end - begin + parts - 1) // parts
    first = begin + part * span
    last = tl.minimum(first + span, end)
    elements = tl.arange(0, D)
    total = tl.zeros((ROWS, D), tl.float32)
    for row in range(first, last, ROWS):
        rows = row + tl.arange(0, ROWS)
        present = (rows < last)[:, None] & (elements < d)[None, :]
        members = tl.load(members_at + rows, mask=rows < last, other=0)
        places = members.to(tl.int64)[:, None] * d + elements[None, :]
        if MASKED:
            present = present & (tl.load(masks_at + places, mask=present, other=0) != 0)
        total += tl.load(gradients_at + places, mask=present, other=0.0).to(tl.float32)
    places = (part * k + code) * d + elements
    tl.store(sums_at + places, tl.sum(total, axis=0), mask=elements < d)


def member_sums(gradient: Tensor, masks: Tensor | None, members: Tensor, offsets: Tensor) -> Tensor:
    """Sum of the gradients of each codeword's members, where their masks keep them.

    Parameters
    ----------
    gradient
        ``[NG, d]``.
    masks
        bool ``[NG, d]``, or None.
    members
        int32 ``[NG]``: numbers of the subvectors, those of codeword 0 first.
    offsets
        int32 ``[k + 1]``: where each codeword's members begin.

    Returns
    -------
    Tensor
        float32 ``[k, d]``.
    """
    gradient = gradient.contiguous()
    count, d = gradient.shape
    k = len(offsets) - 1
    parts = max(1, min(_PROGRAMS // k, count // (k * _ROWS)))
    sums = torch.empty((parts, k, d), device=gradient.device)
    _member_sums[(k, parts)](
        gradient, gradient if masks is None else masks.view(torch.uint8), members, offsets, sums, k, d, parts,
        MASKED=masks is not None, ROWS=_ROWS, D=triton.next_power_of_2(d), num_warps=4,
    )  # fmt: skip
    return sums.sum(0)


@triton.jit
def _watch_signs(
    latents_at, frozen_at, fixed_at, previous_at, frequencies_at, balances_at, averages_at, count, m,
    BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    latents = tl.load(latents_at + at, mask=inside, other=0.0)
    frozen = tl.load(frozen_at + at, mask=inside, other=0) != 0
    fixed = tl.load(fixed_at + at, mask=inside, other=0) != 0
    negative = tl.where(frozen, fixed, latents.to(tl.int32, bitcast=True) < 0)
    changed = negative != (tl.load(previous_at + at, mask=inside, other=0) != 0)
    tl.store(previous_at + at, negative.to(tl.uint8), mask=inside)
    frequencies = tl.load(frequencies_at + at, mask=inside, other=0.0)
    tl.store(frequencies_at + at, frequencies + m * (changed.to(tl.float32) - frequencies), mask=inside)
    signs = tl.where(negative, -1, 1)
    tl.store(balances_at + at, tl.load(balances_at + at, mask=inside, other=0) + signs, mask=inside)
    averages = tl.load(averages_at + at, mask=inside, other=0.0)
    tl.store(averages_at + at, averages + m * (signs.to(tl.float32) - averages), mask=inside)


def watch_signs(
    latent: Tensor,
    frozen: Tensor,
    fixed: Tensor,
    previous: Tensor,
    frequency: Tensor,
    balance: Tensor,
    average: Tensor,
    m: float,
) -> None:
    """One step of :class:`~sw.compress.training.freezing.SignFreezer`'s records of one decoder, in place."""
    count = latent.numel()
    _watch_signs[(triton.cdiv(count, 1024),)](
        latent, frozen.view(torch.uint8), fixed.view(torch.uint8), previous.view(torch.uint8),
        frequency, balance, average, count, m, BLOCK=1024, num_warps=4,
    )  # fmt: skip
