"""Triton kernels of the training step: what plain PyTorch does in many passes over memory, in one.

The plain code of :mod:`sw.compress.training.quant`, :mod:`~sw.compress.training.modules` and
:mod:`~sw.compress.training.freezing` is the reference, and what runs on a CPU. All sums are in a fixed order, so the
same inputs give the same bits.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, import-untyped, import-not-found"

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import wraps

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = [
    "Stored",
    "decode",
    "decode_backward",
    "fake_quantise",
    "fake_quantise_backward",
    "moving",
    "moving_backward",
    "normalise",
    "normalise_backward",
    "watch_signs",
]

_BLOCK = 4096
_ROWS, _TILE = 32, 64
_PROGRAMS = 4096

# Adding it to a float32 below 2^22 leaves no bits after the point: rounding, halves to even.
_ROUND = tl.constexpr(12582912.0)
_TINY = tl.constexpr(1.1754943508222875e-38)
_ALL = tl.constexpr(tl.PropagateNan.ALL)


@triton.jit
def _step_size(base_at, factor_at):
    """:class:`sw.compress.training.quant.StepSize`'s value."""
    return tl.maximum(tl.load(base_at) * tl.exp(tl.load(factor_at)), _TINY)


@triton.jit
def _clamped(values, size, low, high):
    """``v / s``, and that in low..high."""
    ratio = tl.div_rn(values, size)
    return ratio, tl.clamp(ratio, low, high, propagate_nan=_ALL)


@triton.jit
def _rounded(values):
    return (values + _ROUND) - _ROUND


@triton.jit
def _lsq(gradients, values, size, low, high):
    """LSQ's gradients: of the values, and their shares in the step's."""
    ratio, clamped = _clamped(values, size, low, high)
    unclamped = ratio == clamped
    slopes = _rounded(clamped) - tl.where(unclamped, ratio, 0.0)
    return tl.where(unclamped, gradients, 0.0), gradients * slopes


@triton.jit
def _fake_quantise(values_at, base_at, factor_at, results_at, count, low, high, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    size = _step_size(base_at, factor_at)
    _, clamped = _clamped(tl.load(values_at + at, mask=inside, other=0.0).to(tl.float32), size, low, high)
    tl.store(results_at + at, (_rounded(clamped) * size).to(results_at.dtype.element_ty), mask=inside)


@triton.jit
def _fake_quantise_backward(
    gradients_at, values_at, base_at, factor_at, results_at, slopes_at, count, low, high, BLOCK: tl.constexpr
):
    program = tl.program_id(0)
    at = program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    values = tl.load(values_at + at, mask=inside, other=0.0).to(tl.float32)
    gradients = tl.load(gradients_at + at, mask=inside, other=0.0).to(tl.float32)
    passed, slopes = _lsq(gradients, values, _step_size(base_at, factor_at), low, high)
    tl.store(results_at + at, passed.to(results_at.dtype.element_ty), mask=inside)
    tl.store(slopes_at + program, tl.sum(slopes, axis=0))


@triton.jit
def _step_gradient(slopes_at, base_at, factor_at, result_at, count, scale, BLOCK: tl.constexpr):
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, count, BLOCK):
        at = first + tl.arange(0, BLOCK)
        total += tl.load(slopes_at + at, mask=at < count, other=0.0)
    size = tl.load(base_at) * tl.exp(tl.load(factor_at))
    gradient = tl.sum(total, axis=0) * scale * size
    tl.store(result_at, tl.where(size >= _TINY, gradient, 0.0))


def _where_tensors_are(function):
    """Triton launches a kernel on the current device, whichever its tensors are on."""

    @wraps(function)
    def run(*arguments):
        with torch.cuda.device_of(next(x for x in arguments if isinstance(x, Tensor))):
            return function(*arguments)

    return run


def _gradient_of_step(slopes: Tensor, base: Tensor, factor: Tensor, values: int, high: int) -> Tensor:
    """Gradient of the step's logarithm, from its parts: LSQ's factor, and ``ds / dlog s = s``."""
    result = torch.empty_like(factor)
    _step_gradient[(1,)](slopes, base, factor, result, slopes.numel(), (values * high) ** -0.5, BLOCK=1024, num_warps=4)
    return result


def _dense(values: Tensor) -> Tensor:
    """The values, without gaps in memory, in any order of the axes."""
    return values if torch.empty_like(values).stride() == values.stride() else values.contiguous()


@_where_tensors_are
def fake_quantise(values: Tensor, base: Tensor, factor: Tensor, low: int, high: int, dtype: torch.dtype) -> Tensor:
    """``s * clamp(round(v / s), low, high)`` in the memory order of ``values``; one step ``s = base * exp(factor)``."""
    values = _dense(values)
    results, count = torch.empty_like(values, dtype=dtype), values.numel()
    _fake_quantise[(triton.cdiv(count, _BLOCK),)](
        values, base, factor, results, count, float(low), float(high), BLOCK=_BLOCK, num_warps=8
    )
    return results


@_where_tensors_are
def fake_quantise_backward(
    gradient: Tensor, values: Tensor, base: Tensor, factor: Tensor, low: int, high: int
) -> tuple[Tensor, Tensor]:
    """Gradients of the values and of the step's factor."""
    values = _dense(values)
    if gradient.stride() != values.stride():
        gradient = torch.empty_like(values, dtype=gradient.dtype).copy_(gradient)
    results, count = torch.empty_like(values), values.numel()
    programs = triton.cdiv(count, _BLOCK)
    slopes = torch.empty(programs, device=values.device)
    _fake_quantise_backward[(programs,)](
        gradient, values, base, factor, results, slopes, count, float(low), float(high), BLOCK=_BLOCK, num_warps=8
    )
    return results, _gradient_of_step(slopes, base, factor, count, high)


@triton.jit
def _decode(
    codebook_at, base_at, factor_at, assignments_at, slots_at, latents_at, frozen_at, fixed_at, weight_at,
    count, d, n, per_block, points, k_stride, c_stride, p_stride, low, high,
    MASKED: tl.constexpr, SIGNED: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    elements = tl.arange(0, D)
    present = (rows < count)[:, None] & (elements < d)[None, :]
    codes = tl.load(assignments_at + rows, mask=rows < count, other=0)
    codewords = tl.load(codebook_at + codes[:, None] * d + elements[None, :], mask=present, other=0.0)
    size = _step_size(base_at, factor_at)
    _, clamped = _clamped(codewords, size, low, high)
    weights = _rounded(clamped) * size
    at = rows[:, None] * d + elements[None, :]
    kept = present
    if MASKED:
        slots = tl.load(slots_at + at, mask=present, other=-1).to(tl.int32)
        kept = slots >= 0
        at = rows[:, None] * n + slots
        weights = tl.where(kept, weights, 0.0)
    if SIGNED:
        negative = tl.load(latents_at + at, mask=kept, other=0.0).to(tl.int32, bitcast=True) < 0
        frozen = tl.load(frozen_at + at, mask=kept, other=0) != 0
        negative = tl.where(frozen, tl.load(fixed_at + at, mask=kept, other=0) != 0, negative)
        weights = tl.where(negative, -weights, weights)
    rest = rows % per_block
    begin = (rows // per_block) * d * k_stride + (rest // points) * c_stride + (rest % points) * p_stride
    to = begin[:, None] + elements[None, :] * k_stride
    tl.store(weight_at + to, weights.to(weight_at.dtype.element_ty), mask=present)


@triton.jit
def _decode_backward(
    gradients_at, codebook_at, base_at, factor_at, assignments_at, slots_at, latents_at, frozen_at, fixed_at,
    signed_at, latent_gradients_at,
    count, d, n, per_block, points, k_stride, c_stride, p_stride, low, high,
    MASKED: tl.constexpr, SIGNED: tl.constexpr, LEARN: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    elements = tl.arange(0, D)
    present = (rows < count)[:, None] & (elements < d)[None, :]
    rest = rows % per_block
    begin = (rows // per_block) * d * k_stride + (rest // points) * c_stride + (rest % points) * p_stride
    gradients = tl.load(gradients_at + begin[:, None] + elements[None, :] * k_stride, mask=present, other=0.0)
    gradients = gradients.to(tl.float32)
    places = rows[:, None] * d + elements[None, :]
    at = places
    kept = present
    if MASKED:
        slots = tl.load(slots_at + at, mask=present, other=-1).to(tl.int32)
        kept = slots >= 0
        at = rows[:, None] * n + slots
        gradients = tl.where(kept, gradients, 0.0)
    if SIGNED:
        negative = tl.load(latents_at + at, mask=kept, other=0.0).to(tl.int32, bitcast=True) < 0
        frozen = tl.load(frozen_at + at, mask=kept, other=0) != 0
        negative = tl.where(frozen, tl.load(fixed_at + at, mask=kept, other=0) != 0, negative)
        if LEARN:
            codes = tl.load(assignments_at + rows, mask=rows < count, other=0)
            codewords = tl.load(codebook_at + codes[:, None] * d + elements[None, :], mask=present, other=0.0)
            size = _step_size(base_at, factor_at)
            _, clamped = _clamped(codewords, size, low, high)
            slopes = tl.where(frozen, 0.0, gradients * (_rounded(clamped) * size))
            tl.store(latent_gradients_at + at, slopes, mask=kept)
        gradients = tl.where(negative, -gradients, gradients)
    tl.store(signed_at + places, gradients.to(signed_at.dtype.element_ty), mask=present)


@triton.jit
def _member_sums(gradients_at, members_at, offsets_at, sums_at, k, d, parts, ROWS: tl.constexpr, D: tl.constexpr):
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
        places = members[:, None] * d + elements[None, :]
        total += tl.load(gradients_at + places, mask=present, other=0.0).to(tl.float32)
    places = (part * k + code) * d + elements
    tl.store(sums_at + places, tl.sum(total, axis=0), mask=elements < d)


@triton.jit
def _codebook_gradient(
    sums_at, counts_at, codebook_at, base_at, factor_at, results_at, slopes_at, count, parts, low, high,
    BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    at = program * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    total = tl.zeros((BLOCK,), tl.float32)
    for part in range(0, parts):
        total += tl.load(sums_at + part * count + at, mask=inside, other=0.0)
    mean = total / tl.load(counts_at + at, mask=inside, other=1.0)
    codewords = tl.load(codebook_at + at, mask=inside, other=0.0)
    passed, slopes = _lsq(mean, codewords, _step_size(base_at, factor_at), low, high)
    tl.store(results_at + at, passed, mask=inside)
    tl.store(slopes_at + program, tl.sum(slopes, axis=0))


@dataclass(frozen=True)
class Stored:
    """What of a layer with a codebook does not change while training."""

    #: ``[K, C, R, S]``.
    shape: tuple[int, int, int, int]
    #: Codeword length; kept weights of a subvector; least and greatest integer of a codeword.
    d: int
    n: int
    low: int
    high: int
    #: int32 ``[NG]``.
    assignments: Tensor
    #: int8 ``[NG, d]``: number of each kept weight among those of its subvector, -1 where pruned; or None.
    slots: Tensor | None
    #: float32 ``[k, d]``, as in :func:`sw.compress.training.modules.masked_lookup`.
    counts: Tensor
    #: int32 ``[NG]``: numbers of the subvectors, those of codeword 0 first.
    members: Tensor
    #: int32 ``[k + 1]``: where each codeword's members begin.
    offsets: Tensor

    def geometry(self, weight: Tensor) -> tuple[int, ...]:
        """What the kernels need to find a subvector's weights, from the strides of ``weight``."""
        _, C, R, S = self.shape
        strides = weight.stride()
        # Rows and columns of a kernel have one stride in both memory orders; of 1 x 1 kernels it does not count.
        return len(self.assignments), self.d, self.n, C * R * S, R * S, strides[0], strides[1], strides[3]


@_where_tensors_are
def decode(
    stored: Stored, codebook: Tensor, base: Tensor, factor: Tensor, signs: Sequence[Tensor], dtype: torch.dtype
) -> Tensor:
    """The weight, ``[K, C, R, S]``, channels last. ``signs``: latents, which are frozen, to what; or nothing."""
    R, S = stored.shape[2:]
    weight = torch.empty(
        stored.shape,
        dtype=dtype,
        device=codebook.device,
        memory_format=torch.contiguous_format if R * S == 1 else torch.channels_last,
    )
    slots = codebook if stored.slots is None else stored.slots
    latent, frozen, fixed = _sign_arguments(signs, codebook)
    _decode[(triton.cdiv(len(stored.assignments), _TILE),)](
        codebook, base, factor, stored.assignments, slots, latent, frozen, fixed, weight, *stored.geometry(weight),
        float(stored.low), float(stored.high), MASKED=stored.slots is not None, SIGNED=bool(signs), ROWS=_TILE,
        D=triton.next_power_of_2(stored.d), num_warps=4,
    )  # fmt: skip
    return weight


@_where_tensors_are
def decode_backward(
    stored: Stored,
    gradient: Tensor,
    codebook: Tensor,
    base: Tensor,
    factor: Tensor,
    signs: Sequence[Tensor],
    learn: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of the codebook (MVQ equation 6), of its step's factor, and of the latent signs if they learn."""
    if not gradient.is_contiguous() and not gradient.is_contiguous(memory_format=torch.channels_last):
        gradient = gradient.contiguous()
    count, (k, d) = len(stored.assignments), codebook.shape
    signed = torch.empty((count, d), dtype=gradient.dtype, device=gradient.device)
    slots = codebook if stored.slots is None else stored.slots
    latent, frozen, fixed = _sign_arguments(signs, codebook)
    latent_gradient = torch.empty_like(latent) if signs and learn else None
    wide = triton.next_power_of_2(d)
    _decode_backward[(triton.cdiv(count, _TILE),)](
        gradient, codebook, base, factor, stored.assignments, slots, latent, frozen, fixed, signed,
        codebook if latent_gradient is None else latent_gradient, *stored.geometry(gradient),
        float(stored.low), float(stored.high), MASKED=stored.slots is not None, SIGNED=bool(signs),
        LEARN=latent_gradient is not None, ROWS=_TILE, D=wide, num_warps=4,
    )  # fmt: skip
    parts = max(1, min(_PROGRAMS // k, count // (k * _ROWS)))
    sums = torch.empty((parts, k, d), device=gradient.device)
    _member_sums[(k, parts)](signed, stored.members, stored.offsets, sums, k, d, parts, ROWS=_ROWS, D=wide, num_warps=4)
    programs = triton.cdiv(k * d, 1024)
    results, slopes = torch.empty_like(codebook), torch.empty(programs, device=gradient.device)
    _codebook_gradient[(programs,)](
        sums, stored.counts, codebook, base, factor, results, slopes, k * d, parts,
        float(stored.low), float(stored.high), BLOCK=1024, num_warps=4,
    )  # fmt: skip
    return results, _gradient_of_step(slopes, base, factor, k * d, stored.high), latent_gradient


def _sign_arguments(signs: Sequence[Tensor], unused: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if not signs:
        return unused, unused, unused
    latent, frozen, fixed = signs
    return latent, frozen.view(torch.uint8), fixed.view(torch.uint8)


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


@_where_tensors_are
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


# Codewords of one product, and the least length of a side that it takes.
_CODES, _SIDE = 64, 16


@triton.jit
def _moving(
    latents_at, keeps_at, codebook_at, assignments_at, decoded_at, count, k, d, n, m,
    MASKED: tl.constexpr, SIGNED: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr, CODES: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    elements = tl.arange(0, D)
    present = (rows < count)[:, None] & (elements < d)[None, :]
    at = rows[:, None] * d + elements[None, :]
    latents = tl.load(latents_at + at, mask=present, other=0.0)
    magnitudes = tl.abs(latents)
    kept = present
    if MASKED:
        # How many of its group are larger; of equal ones, the first are.
        rank = tl.zeros((ROWS, D), tl.int32)
        for other in range(0, d):
            column = tl.sum(tl.where(elements[None, :] == other, magnitudes, 0.0), axis=1)[:, None]
            before = (column > magnitudes) | ((column == magnitudes) & (other < elements[None, :]))
            rank += (before & ((elements // m) == (other // m))[None, :]).to(tl.int32)
        kept = present & (rank < n)
        tl.store(keeps_at + at, kept.to(tl.uint8), mask=present)
    values = tl.where(kept, magnitudes if SIGNED else latents, 0.0)
    best = tl.full((ROWS,), float("-inf"), tl.float32)
    found = tl.zeros((ROWS,), tl.int32)
    for first in range(0, k, CODES):
        codes = first + tl.arange(0, CODES)
        there = (elements < d)[:, None] & (codes < k)[None, :]
        codewords = tl.load(codebook_at + codes[None, :] * d + elements[:, None], mask=there, other=0.0)
        score = 2 * tl.dot(values, codewords, input_precision="ieee")
        squares = codewords * codewords
        if MASKED:
            score -= tl.dot(kept.to(tl.float32), squares, input_precision="ieee")
        else:
            score -= tl.sum(squares, axis=0)[None, :]
        score = tl.where((codes < k)[None, :], score, float("-inf"))
        larger, where = tl.max(score, axis=1, return_indices=True)
        found = tl.where(larger > best, first + where, found)
        best = tl.maximum(best, larger)
    tl.store(assignments_at + rows, found, mask=rows < count)
    decoded = tl.load(codebook_at + found[:, None] * d + elements[None, :], mask=kept, other=0.0)
    if SIGNED:
        decoded = tl.where(latents.to(tl.int32, bitcast=True) < 0, -decoded, decoded)
    tl.store(decoded_at + at, decoded, mask=present)


@triton.jit
def _code_sums(
    gradients_at, latents_at, keeps_at, assignments_at, sums_at, count, k, d, parts,
    MASKED: tl.constexpr, SIGNED: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr, CODES: tl.constexpr,
):  # fmt: skip
    part = tl.program_id(0)
    codes = tl.program_id(1) * CODES + tl.arange(0, CODES)
    elements = tl.arange(0, D)
    tiles = (count + ROWS - 1) // ROWS
    span = (tiles + parts - 1) // parts
    total = tl.zeros((CODES, D), tl.float32)
    for tile in range(part * span, tl.minimum((part + 1) * span, tiles)):
        rows = tile * ROWS + tl.arange(0, ROWS)
        kept = (rows < count)[:, None] & (elements < d)[None, :]
        at = rows[:, None] * d + elements[None, :]
        if MASKED:
            kept = kept & (tl.load(keeps_at + at, mask=kept, other=0) != 0)
        gradients = tl.load(gradients_at + at, mask=kept, other=0.0).to(tl.float32)
        if SIGNED:
            latents = tl.load(latents_at + at, mask=kept, other=0.0)
            gradients = tl.where(latents.to(tl.int32, bitcast=True) < 0, -gradients, gradients)
        own = tl.load(assignments_at + rows, mask=rows < count, other=-1)
        members = (codes[:, None] == own[None, :]).to(tl.float32)
        total += tl.dot(members, gradients, input_precision="ieee")
    places = (part * k + codes[:, None]) * d + elements[None, :]
    tl.store(sums_at + places, total, mask=(codes < k)[:, None] & (elements < d)[None, :])


def _wide(d: int) -> int:
    return max(_SIDE, int(triton.next_power_of_2(d)))


@_where_tensors_are
def moving(latent: Tensor, codebook: Tensor, n: int, m: int, signed: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Of latent subvectors ``[NG, d]`` the nearest codewords' numbers, int32 ``[NG]``; those decoded; and the masks.

    Masks, uint8 ``[NG, d]``, keep the ``n`` largest of each ``m``, which divides d; or there are none, with m = 0.
    """
    count, d = latent.shape
    assignments = torch.empty(count, dtype=torch.int32, device=latent.device)
    decoded = torch.empty_like(latent)
    keep = torch.empty(latent.shape, dtype=torch.uint8, device=latent.device) if m else None
    _moving[(triton.cdiv(count, _TILE),)](
        latent, assignments if keep is None else keep, codebook, assignments, decoded, count, len(codebook), d, n, m,
        MASKED=keep is not None, SIGNED=signed, ROWS=_TILE, D=_wide(d), CODES=_CODES, num_warps=4,
    )  # fmt: skip
    return assignments, decoded, keep


@_where_tensors_are
def moving_backward(
    gradient: Tensor,
    latent: Tensor,
    keep: Tensor | None,
    assignments: Tensor,
    counts: Tensor,
    codebook: Tensor,
    base: Tensor,
    factor: Tensor,
    low: int,
    high: int,
    signed: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of the codebook (MVQ equation 6) and of its step's factor, from that of the decoded subvectors."""
    (count, d), k = latent.shape, len(codebook)
    blocks = triton.cdiv(k, _CODES)
    parts = max(1, min(_PROGRAMS // (4 * blocks), count // (4 * _TILE)))
    sums = torch.empty((parts, k, d), device=latent.device)
    _code_sums[(parts, blocks)](
        gradient, latent, assignments if keep is None else keep, assignments, sums, count, k, d, parts,
        MASKED=keep is not None, SIGNED=signed, ROWS=_TILE, D=_wide(d), CODES=_CODES, num_warps=4,
    )  # fmt: skip
    programs = triton.cdiv(k * d, 1024)
    results, slopes = torch.empty_like(codebook), torch.empty(programs, device=latent.device)
    _codebook_gradient[(programs,)](
        sums, counts, codebook, base, factor, results, slopes, k * d, parts, float(low), float(high),
        BLOCK=1024, num_warps=4,
    )  # fmt: skip
    return results, _gradient_of_step(slopes, base, factor, k * d, high)


@triton.jit
def _normalise(values_at, slopes_at, offsets_at, results_at, count, channels, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    channel = (at % channels).to(tl.int32)
    values = tl.load(values_at + at, mask=inside, other=0.0).to(tl.float32)
    slopes = tl.load(slopes_at + channel, mask=inside, other=0.0)
    results = values * slopes + tl.load(offsets_at + channel, mask=inside, other=0.0)
    tl.store(results_at + at, results.to(results_at.dtype.element_ty), mask=inside)


@triton.jit
def _normalise_backward(
    gradients_at, values_at, slopes_at, results_at, sums_at, count, channels, parts,
    ROWS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    part = tl.program_id(0)
    channel = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    there = channel < channels
    slopes = tl.load(slopes_at + channel, mask=there, other=0.0)
    tiles = (count + ROWS - 1) // ROWS
    span = (tiles + parts - 1) // parts
    total, product = tl.zeros((WIDE,), tl.float32), tl.zeros((WIDE,), tl.float32)
    for tile in range(part * span, tl.minimum((part + 1) * span, tiles)):
        rows = tile * ROWS + tl.arange(0, ROWS)
        inside = (rows < count)[:, None] & there[None, :]
        at = rows.to(tl.int64)[:, None] * channels + channel[None, :]
        gradients = tl.load(gradients_at + at, mask=inside, other=0.0).to(tl.float32)
        values = tl.load(values_at + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(results_at + at, (gradients * slopes[None, :]).to(results_at.dtype.element_ty), mask=inside)
        total += tl.sum(gradients, axis=0)
        product += tl.sum(gradients * values, axis=0)
    tl.store(sums_at + part * channels + channel, total, mask=there)
    tl.store(sums_at + (parts + part) * channels + channel, product, mask=there)


@_where_tensors_are
def normalise(values: Tensor, slopes: Tensor, offsets: Tensor) -> Tensor:
    """``values * slopes + offsets`` for each channel of ``[N, C, H, W]``, channels last in memory."""
    results, count = torch.empty_like(values), values.numel()
    _normalise[(triton.cdiv(count, _BLOCK),)](
        values, slopes, offsets, results, count, values.shape[1], BLOCK=_BLOCK, num_warps=8
    )
    return results


@_where_tensors_are
def normalise_backward(gradient: Tensor, values: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of the values, and over each channel the sums of ``gradient * values`` and of ``gradient``."""
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    channels = values.shape[1]
    count = values.numel() // channels
    wide = min(64, triton.next_power_of_2(channels))
    rows, blocks = 2048 // wide, triton.cdiv(channels, wide)
    parts = max(1, min(_PROGRAMS // (2 * blocks), triton.cdiv(count, rows)))
    results, sums = torch.empty_like(values), torch.empty((2, parts, channels), device=values.device)
    _normalise_backward[(parts, blocks)](
        gradient, values, slopes, results, sums, count, channels, parts, ROWS=rows, WIDE=wide, num_warps=4
    )
    total, product = sums.sum(1)
    return results, product, total
