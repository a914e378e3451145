"""Triton kernels of :mod:`sw.compress.kmeans_gpu`.

Products run on the tensor cores at float32's precision: each operand is a sum of two float16 (22 bits; a mask is one),
and three of the four products of the parts are added in float32.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, import-untyped, import-not-found"

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from torch import Tensor

if TYPE_CHECKING:
    from sw.compress.kmeans_gpu import Group

# Codewords a program looks at at once, and its warps.
CODES, WARPS = 64, 4

# Operands are raised by this power of two: float16 has no digits below 2^-24.
_RAISE = 8


@triton.jit
def _errors(w, masks, codewords, MASKED: tl.constexpr):
    difference = codewords.to(tl.float64)
    if MASKED:
        difference = difference * masks.to(tl.float64)
    difference = w.to(tl.float64) - difference
    return tl.sum(difference * difference, axis=1)


@triton.jit
def _step(
    w_at, masks_at, tiles_at, scales_at, points_at, codebook_at, high_at, low_at, squares_at, squares_low_at,
    assignments_at, totals_at, counts_at, sizes_at, changes_at, k, d,
    MASKED: tl.constexpr, FIRST: tl.constexpr, EVEN: tl.constexpr,
    ROWS: tl.constexpr, CODES: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    tile = tiles_at + tl.program_id(0) * 3
    begin, end, layer = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2)
    rows = begin + tl.arange(0, ROWS)
    elements = tl.arange(0, D)
    inside = rows < end
    present = inside[:, None] & (elements < d)[None, :]
    places = rows.to(tl.int64)[:, None] * d + elements[None, :]
    w = tl.load(w_at + places, mask=present, other=0.0)
    raised = w * tl.load(scales_at + layer)
    high = raised.to(tl.float16)
    low = (raised - high.to(tl.float32)).to(tl.float16)
    masks = present
    if MASKED:
        masks = tl.load(masks_at + places, mask=present, other=0) != 0
    # The factor 2^8 of the masks is in the squares' share of the scale.
    kept = tl.where(masks, 256.0, 0.0).to(tl.float16)

    best = tl.full((ROWS, CODES), float("inf"), tl.float32)
    found = tl.zeros((ROWS, CODES), tl.int32)
    columns = tl.arange(0, CODES)
    for first in range(0, k, CODES):
        codes = first + columns
        there = (elements < d)[:, None]
        if not EVEN:
            there &= (codes < k)[None, :]
        at = (layer * k + codes)[None, :] * d + elements[:, None]
        c_high = tl.load(high_at + at, mask=there, other=0.0)
        c_low = tl.load(low_at + at, mask=there, other=0.0)
        score = tl.dot(high, c_high)
        score = tl.dot(low, c_high, score)
        score = tl.dot(high, c_low, score)
        if MASKED:
            score = tl.dot(kept, tl.load(squares_at + at, mask=there, other=0.0), score)
            score = tl.dot(kept, tl.load(squares_low_at + at, mask=there, other=0.0), score)
        else:
            score += tl.load(squares_at + layer * k + codes, mask=codes < k, other=0.0)[None, :]
        if not EVEN:
            score = tl.where((codes < k)[None, :], score, float("inf"))
        less = score < best
        best = tl.where(less, score, best)
        found = tl.where(less, first, found)
    found += columns[None, :]
    smallest = tl.min(best, axis=1)
    new = tl.min(tl.where(best == smallest[:, None], found, k), axis=1)
    new = tl.minimum(new, k - 1)

    changed = inside
    codebook_at += layer * k * d
    new_at = new[:, None] * d + elements[None, :]
    old_at = new_at
    if not FIRST:
        old = tl.load(assignments_at + rows, mask=inside, other=0)
        old_at = old[:, None] * d + elements[None, :]
        error = _errors(w, masks, tl.load(codebook_at + new_at, mask=present, other=0.0), MASKED)
        error_old = _errors(w, masks, tl.load(codebook_at + old_at, mask=present, other=0.0), MASKED)
        changed = inside & (new != old) & (error < error_old)
    tl.store(assignments_at + rows, new, mask=changed)
    tl.atomic_add(changes_at + layer, tl.sum(changed.to(tl.int32), axis=0), sem="relaxed")

    totals_at += layer.to(tl.int64) * k * d
    counts_at += layer.to(tl.int64) * k * d
    sizes_at += layer * k
    # Integers: the order of the additions does not matter.
    fixed = (w.to(tl.float64) * tl.load(points_at + layer)).to(tl.int64)
    moved = changed[:, None] & masks
    ones = tl.full((ROWS, D), 1, tl.int32)
    tl.atomic_add(totals_at + new_at, fixed, mask=moved, sem="relaxed")
    tl.atomic_add(counts_at + new_at, ones, mask=moved, sem="relaxed")
    tl.atomic_add(sizes_at + new, tl.full((ROWS,), 1, tl.int32), mask=changed, sem="relaxed")
    if not FIRST:
        tl.atomic_add(totals_at + old_at, -fixed, mask=moved, sem="relaxed")
        tl.atomic_add(counts_at + old_at, -ones, mask=moved, sem="relaxed")
        tl.atomic_add(sizes_at + old, tl.full((ROWS,), -1, tl.int32), mask=changed, sem="relaxed")


def factors(group: Group) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Scale of each layer's subvectors, and the codewords' factors: ``-2 c`` and ``c^2``, two float16 each.

    Without masks the last two are ``|c|^2`` as float32, and unused.
    """
    codebook = group.codebook
    # A codeword from outside may be larger than every weight; then all is lowered.
    largest = codebook.abs().amax(dim=(1, 2))
    scale = torch.ldexp(torch.ones_like(largest), _RAISE - torch.frexp(largest)[1].clamp(min=0))
    by_layer = scale[:, None, None]
    high, low = _halves(codebook * (-2 * by_layer))
    lowered = codebook * by_layer
    if group.masks is None:
        squares = lowered.square().sum(dim=2)
        return scale, high, low, squares, squares
    return scale, high, low, *_halves(lowered.square() * 2.0**-_RAISE)


def _halves(operand: Tensor) -> tuple[Tensor, Tensor]:
    high = operand.half()
    return high, (operand - high.float()).half()


def step(group: Group, layers: Sequence[int], tiles: Tensor, first: bool) -> None:
    """See :meth:`sw.compress.kmeans_gpu.Reference.step`."""
    from sw.compress.kmeans_gpu import TILE

    d, k = group.w.shape[1], group.codebook.shape[1]
    scale, *codewords = factors(group)
    group.changes.zero_()
    masked = group.masks is not None
    masks = group.masks.view(torch.uint8) if group.masks is not None else group.w
    _step[(len(tiles),)](
        group.w, masks, tiles, scale, group.points, group.codebook, *codewords,
        group.assignments, group.totals, group.counts, group.sizes, group.changes, k, d,
        MASKED=masked, FIRST=first, EVEN=k % CODES == 0, ROWS=TILE, CODES=CODES,
        D=max(triton.next_power_of_2(d), 16), num_warps=WARPS,
    )  # fmt: skip


@triton.jit
def _closer(
    w_at, masks_at, tiles_at, codebook_at, closest_at, sums_at, i, k, d,
    MASKED: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    tile = tiles_at + tl.program_id(0) * 3
    begin, end, layer = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2)
    rows = begin + tl.arange(0, ROWS)
    elements = tl.arange(0, D)
    inside = rows < end
    present = inside[:, None] & (elements < d)[None, :]
    places = rows.to(tl.int64)[:, None] * d + elements[None, :]
    difference = tl.load(w_at + places, mask=present, other=0.0)
    codeword = tl.load(codebook_at + (layer * k + i) * d + elements, mask=elements < d, other=0.0)[None, :]
    kept = present
    if MASKED:
        kept = tl.load(masks_at + places, mask=present, other=0) != 0
    difference -= tl.where(kept, codeword, 0.0)
    error = tl.sum(difference * difference, axis=1)
    error = tl.minimum(error, tl.load(closest_at + rows, mask=inside, other=0.0))
    tl.store(closest_at + rows, error, mask=inside)
    tl.store(sums_at + tl.program_id(0), tl.sum(error.to(tl.float64), axis=0))


@triton.jit
def _choose(
    w_at, masks_at, spans_at, codebook_at, fills_at, draws_at, closest_at, sums_at, i, k, d,
    MASKED: tl.constexpr, ROWS: tl.constexpr, TILES: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    layer = tl.program_id(0)
    span = spans_at + layer * 4
    first_tile, tiles, first_row, rows = tl.load(span), tl.load(span + 1), tl.load(span + 2), tl.load(span + 3)
    numbers = tl.arange(0, TILES)
    sums = tl.load(sums_at + first_tile + numbers, mask=numbers < tiles, other=0.0)
    cumulative = tl.cumsum(sums, axis=0)
    point = tl.load(draws_at + layer * k + i) * tl.sum(tl.where(numbers == tiles - 1, cumulative, 0.0), axis=0)
    # The last ones are left out of the searches: rounding cannot lead past them.
    tile = tl.sum(((cumulative <= point) & (numbers < tiles - 1)).to(tl.int32), axis=0)
    point -= tl.sum(tl.where(numbers == tile - 1, cumulative, 0.0), axis=0)
    columns = tl.arange(0, ROWS)
    here = tile * ROWS + columns
    errors = tl.load(closest_at + first_row + here, mask=here < rows, other=0.0)
    cumulative = tl.cumsum(errors.to(tl.float64), axis=0)
    last = tl.minimum(ROWS, rows - tile * ROWS) - 1
    row = first_row + tile * ROWS + tl.sum(((cumulative <= point) & (columns < last)).to(tl.int32), axis=0)
    elements = tl.arange(0, D)
    place = row.to(tl.int64) * d + elements
    codeword = tl.load(w_at + place, mask=elements < d, other=0.0)
    to = (layer * k + i + 1) * d + elements
    if MASKED:
        kept = tl.load(masks_at + place, mask=elements < d, other=1) != 0
        codeword = tl.where(kept, codeword, tl.load(fills_at + to, mask=elements < d, other=0.0))
    tl.store(codebook_at + to, codeword, mask=elements < d)


def plus_plus(group: Group, chosen: Tensor, fills: Tensor | None, draws: Tensor) -> None:
    """See :meth:`sw.compress.kmeans_gpu.Reference.plus_plus`."""
    from sw.compress.kmeans_gpu import TILE

    count, k, d = group.codebook.shape
    device = group.w.device
    offsets = torch.tensor(group.offsets[:-1], device=device)
    group.codebook[:, 0] = group.w[offsets + chosen]
    if group.masks is not None and fills is not None:
        group.codebook[:, 0] = torch.where(group.masks[offsets + chosen], group.codebook[:, 0], fills[:, 0])
    spans, first = [], 0
    for begin, end in zip(group.offsets, group.offsets[1:], strict=False):
        tiles = -(-(end - begin) // TILE)
        spans.append((first, tiles, begin, end - begin))
        first += tiles
    closest = torch.full((len(group.w),), torch.inf, device=device)
    sums = torch.empty(len(group.tiles), dtype=torch.float64, device=device)
    masked = group.masks is not None
    masks: Any = group.masks.view(torch.uint8) if group.masks is not None else group.w
    most = triton.next_power_of_2(max(tiles for _, tiles, _, _ in spans))
    constants = {"MASKED": masked, "ROWS": TILE, "D": max(triton.next_power_of_2(d), 16)}
    spans_at = torch.tensor(spans, dtype=torch.int32).to(device)
    filling = group.codebook if fills is None else fills
    for i in range(k - 1):
        _closer[(len(group.tiles),)](
            group.w, masks, group.tiles, group.codebook, closest, sums, i, k, d, **constants
        )  # fmt: skip
        _choose[(count,)](
            group.w, masks, spans_at, group.codebook, filling, draws, closest, sums, i, k, d, TILES=most, **constants
        )  # fmt: skip
