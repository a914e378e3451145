"""Triton kernels of :mod:`sw.compress.kmeans_gpu`.

Products run on the tensor cores at float32's precision: each operand is a sum of two float16 (22 bits; a mask is one),
and three of the four products of the parts are added in float32.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, import-untyped, import-not-found"

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sw.compress.kmeans_group import Group

# Codewords a program looks at at once, and its warps; with tiles of 64 subvectors the fastest of eight on an H100.
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


@triton.jit
def _prepare(
    codebook_at, totals_at, counts_at, points_at, going_at, scales_at, high_at, low_at, squares_at, squares_low_at,
    k, d, MASKED: tl.constexpr, UPDATE: tl.constexpr, CODES: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    layer = tl.program_id(1)
    codes = tl.program_id(0) * CODES + tl.arange(0, CODES)
    elements = tl.arange(0, D)
    there = (codes < k)[:, None] & (elements < d)[None, :]
    at = (layer * k + codes)[:, None] * d + elements[None, :]
    c = tl.load(codebook_at + at, mask=there, other=0.0)
    if UPDATE:
        counts = tl.load(counts_at + at, mask=there, other=0)
        filled = (counts > 0) & (tl.load(going_at + layer) != 0)
        shares = tl.where(filled, counts, 1).to(tl.float64) * tl.load(points_at + layer)
        means = tl.load(totals_at + at, mask=there, other=0).to(tl.float64) / shares
        c = tl.where(filled, means.to(tl.float32), c)
        tl.store(codebook_at + at, c, mask=there)
    scale = tl.load(scales_at + layer)
    factor = c * (-2 * scale)
    high = factor.to(tl.float16)
    tl.store(high_at + at, high, mask=there)
    tl.store(low_at + at, (factor - high.to(tl.float32)).to(tl.float16), mask=there)
    lowered = c * scale
    squares = lowered * lowered
    if MASKED:
        squares = squares * 0.00390625  # 2^-8: see _step
        high = squares.to(tl.float16)
        tl.store(squares_at + at, high, mask=there)
        tl.store(squares_low_at + at, (squares - high.to(tl.float32)).to(tl.float16), mask=there)
    else:
        tl.store(squares_at + layer * k + codes, tl.sum(squares, axis=1), mask=codes < k)


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


class Steps:
    """The backend ``triton``; see :class:`sw.compress.kmeans_gpu.Reference` for what its functions do."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.count, self.k, self.d = group.codebook.shape
        self.masked = group.masks is not None
        self.masks: Any = group.w if group.masks is None else group.masks.view(torch.uint8)
        self.constants = {"MASKED": self.masked, "D": max(triton.next_power_of_2(self.d), 16)}
        halves = torch.empty(
            (4 if self.masked else 2, *group.codebook.shape), dtype=torch.float16, device=group.w.device
        )
        #: The codewords' factors: ``-2 c`` and ``c^2``, two float16 each; or ``|c|^2`` as float32 without masks.
        self.factors = list(halves)
        if not self.masked:
            self.factors += [torch.empty((self.count, self.k), device=group.w.device)] * 2
        self.scales = torch.empty(0)

    def begin(self) -> None:
        """Fix the scales, once the codebook to start from is known: means of weights are never larger than 1."""
        largest = self.group.codebook.abs().amax(dim=(1, 2))
        self.scales = torch.ldexp(torch.ones_like(largest), _RAISE - torch.frexp(largest)[1].clamp(min=0))
        self._prepare(self.group.sizes, update=False)

    def update(self, going: Tensor) -> None:
        """See :meth:`sw.compress.kmeans_gpu.Reference.update`."""
        self._prepare(going, update=True)

    def moved(self) -> None:
        """See :meth:`sw.compress.kmeans_gpu.Reference.moved`."""
        self._prepare(self.group.sizes, update=False)

    def _prepare(self, going: Tensor, update: bool) -> None:
        group = self.group
        _prepare[(triton.cdiv(self.k, 32), self.count)](
            group.codebook, group.totals, group.counts, group.points, going, self.scales, *self.factors, self.k, self.d,
            UPDATE=update, CODES=32, **self.constants,
        )  # fmt: skip

    def step(self, layers: Sequence[int], tiles: Tensor, first: bool) -> None:
        """See :meth:`sw.compress.kmeans_gpu.Reference.step`."""
        group = self.group
        group.changes.zero_()
        _step[(len(tiles),)](
            group.w, self.masks, tiles, self.scales, group.points, group.codebook, *self.factors,
            group.assignments, group.totals, group.counts, group.sizes, group.changes, self.k, self.d,
            FIRST=first, EVEN=self.k % CODES == 0, ROWS=group.tile, CODES=CODES, num_warps=WARPS, **self.constants,
        )  # fmt: skip

    def plus_plus(self, chosen: Tensor, fills: Tensor | None, draws: Tensor) -> None:
        """See :meth:`sw.compress.kmeans_gpu.Reference.plus_plus`."""
        group, device = self.group, self.group.w.device
        offsets = torch.tensor(group.offsets[:-1], device=device)
        group.codebook[:, 0] = group.w[offsets + chosen]
        if group.masks is not None and fills is not None:
            group.codebook[:, 0] = torch.where(group.masks[offsets + chosen], group.codebook[:, 0], fills[:, 0])
        spans, first = [], 0
        for begin, end in zip(group.offsets, group.offsets[1:], strict=False):
            tiles = -(-(end - begin) // group.tile)
            spans.append((first, tiles, begin, end - begin))
            first += tiles
        closest = torch.full((len(group.w),), torch.inf, device=device)
        sums = torch.empty(len(group.tiles), dtype=torch.float64, device=device)
        most = triton.next_power_of_2(max(tiles for _, tiles, _, _ in spans))
        spans_at = torch.tensor(spans, dtype=torch.int32).to(device)
        filling = group.codebook if fills is None else fills
        for i in range(self.k - 1):
            _closer[(len(group.tiles),)](
                group.w, self.masks, group.tiles, group.codebook, closest, sums, i, self.k, self.d,
                ROWS=group.tile, **self.constants,
            )  # fmt: skip
            _choose[(self.count,)](
                group.w, self.masks, spans_at, group.codebook, filling, draws, closest, sums, i, self.k, self.d,
                ROWS=group.tile, TILES=most, num_warps=16, **self.constants,
            )  # fmt: skip
