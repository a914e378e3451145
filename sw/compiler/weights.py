"""Packed weight streams of a convolution, in the order in which its TILEs consume them.

A layer runs coded, if its method and codebook fit the instance, or raw: as int8 weights. On a sparse array, which has N
multipliers for every M columns, raw rows with more than N weights in M columns take ceil(M/N) passes; pass p gives the
positions ``p*N .. p*N+N-1``, the last pass the last N positions with zeros where a weight has been given already. Rows
of a depthwise convolution or a shortcut have one weight each and need one pass: each row has its own mask.

Where the array's weights are narrower than a raw layer's, the layer runs digit by digit, the highest first
(:mod:`sw.program.digits`). The first tile of each further digit has the sums so far shifted. Sums are modulo
``2**psum_width`` on the way, shifts included, so the last one is right if it fits, which
:func:`sw.golden.check_psum_width` has proved of the layer's own weights.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.config import AcceleratorConfig
from sw.compiler.graph import PRODUCT, CompileError, Convolution
from sw.format.packing import pack_fields, rank_masks
from sw.program.digits import INT8, bits_of, digit_count, split_digits
from sw.program.rows import Tile, arrange, flatten, pass_columns

__all__ = ["Streams", "Tile", "Weights", "is_coded"]


@dataclass(frozen=True)
class Streams:
    """Streams of a convolution, each padded to whole DRAM words."""

    #: Codewords, for the weight channel; empty for raw weights.
    codebook: bytes
    #: ``weight`` (indices or raw weights), and ``mask`` and ``sign`` where they exist.
    channels: dict[str, bytes]


def is_coded(config: AcceleratorConfig, convolution: Convolution) -> bool:
    """Whether the weights of a convolution can be decoded by the instance.

    Raises
    ------
    CompileError
        They could, but for codewords of more bits than the array's weights have.
    """
    layer, features = convolution.layer, config.features
    if layer is None or convolution.first is not None or not features.codebook:
        return False
    method = {(False, False): "vq", (True, False): "mvq", (False, True): "ssvq", (True, True): "msvq"}
    if layer.method != method[features.mask, features.sign] or layer.d != config.d or layer.k > config.k:
        return False
    if features.mask and (layer.n, layer.m) != (config.N, config.M):
        return False
    assert layer.codebook is not None
    if (needed := bits_of(layer.codebook)) > config.weight_bits:
        raise CompileError(
            f"layer {convolution.name!r}: codewords must have at most weight_bits = {config.weight_bits} bits, as the "
            f"instance has, not {needed}; take an instance with weight_bits={needed} or more, or compress the layer "
            f"with codewords of {config.weight_bits} bits"
        )
    return True


class Weights:
    """The weights of one convolution on one instance.

    Parameters
    ----------
    config
        The instance.
    convolution
        The convolution.
    coded
        Decode them in hardware.

    Attributes
    ----------
    passes
        Passes that each row group takes.
    digits
        Digits of each weight.
    bits
        Bits of each stream in one row write.

    Raises
    ------
    CompileError
        A raw weight is -128 where the array multiplies by magnitudes and signs of 8 bits.
    """

    def __init__(self, config: AcceleratorConfig, convolution: Convolution, coded: bool) -> None:
        self.config, self.convolution, self.coded = config, convolution, coded
        self.passes = self.digits = 1
        sparse = config.features.sparse
        self.bits = dict(config.streams)
        if not coded:
            self.bits = {"weight": config.raw_bits}
            if sparse and config.mask_bits:
                self.bits["mask"] = config.mask_bits * config.mask_groups * config.tiles
            # Values of weights that come with a run are not known yet.
            known = convolution.operation != PRODUCT
            low, high = (int(convolution.weights.min()), int(convolution.weights.max())) if known else INT8
            self.digits = digit_count(config, low, high)
            if config.features.sign and config.weight_bits == 8 and convolution.weights.min() < -127:
                raise CompileError(
                    f"layer {convolution.name!r}: raw weights on {config.variant} must be in -127..127, not -128:"
                    " take a variant without split signs, or another method for the layer"
                )
            if sparse and not self._one_pass():
                self.passes = -(-config.M // config.N)
        elif "index" in self.bits:
            self.bits["weight"] = self.bits.pop("index")

    @property
    def banded(self) -> bool:
        """Each output channel reads only some of the input channels."""
        return self.convolution.first is not None

    @property
    def output_groups(self) -> int:
        """Groups of L output channels."""
        return -(-self.convolution.shape[0] // self.config.L)

    def row_groups(self, i: int) -> range:
        """Row groups of H input channels that a group of L output channels reads."""
        C, H, L = self.convolution.shape[1], self.config.H, self.config.L
        first = self.convolution.first
        if first is None:
            return range(-(-C // H))
        part = slice(i * L, (i + 1) * L)
        used = self.convolution.weights[part].any(axis=(1, 2, 3))
        if not used.any():
            return range(1)
        starts = first[part][used]
        return range(int(starts.min()) // H, -(-(int(starts.max()) + self.convolution.weights.shape[1]) // H))

    @cached_property
    def _digits(self) -> NDArray[np.int8]:
        """The digits of raw weights: of each as many as there are, the highest first."""
        return split_digits(self.config, self.convolution.weights, self.digits)

    def _raw(self, i: int, A: int, g: int, B: int, digit: int | None = None) -> NDArray[np.int8]:
        """Weights of A*L output channels and B*H input channels, int8 ``[A*L, B*H, R, S]``; 0 where there are none.

        One digit of them, where a number is given.
        """
        H, L = self.config.H, self.config.L
        weights = self.convolution.weights if digit is None else self._digits[digit]
        first = self.convolution.first
        part = weights[i * L : (i + A) * L]
        block = np.zeros((A * L, B * H, *weights.shape[2:]), np.int8)
        if first is None:
            part = part[:, g * H : (g + B) * H]
            block[: part.shape[0], : part.shape[1]] = part
            return block
        channels = first[i * L : (i + A) * L, None] - g * H + np.arange(weights.shape[1])
        k, c = np.nonzero((channels >= 0) & (channels < B * H))
        block[k, channels[k, c]] = part[k, c]
        return block

    def _one_pass(self) -> bool:
        """Whether no row has more than N weights in M columns."""
        config = self.config
        for i in range(self.output_groups):
            groups = self.row_groups(i)
            block = self._raw(i, 1, groups.start, len(groups))
            kept = (block != 0).reshape(-1, config.M, *block.shape[1:]).sum(axis=1)
            if int(kept.max()) > config.N:
                return False
        return True

    @cached_property
    def _fields(self) -> dict[str, NDArray[Any]]:
        """Fields of all subvectors of a coded layer, ``[groups of L * L/d, groups of H * H, R, S, fields]``."""
        layer, config = self.convolution.layer, self.config
        assert layer is not None
        assert layer.assignments is not None
        K, C, R, S = layer.shape
        parts: dict[str, NDArray[Any]] = {"weight": layer.assignments.reshape(-1, 1)}
        if "mask" in self.bits:
            assert layer.masks is not None
            parts["mask"] = rank_masks(layer.masks.reshape(-1, config.mask_groups, layer.m), layer.n)
        if "sign" in self.bits:
            assert layer.signs is not None
            parts["sign"] = layer.signs
        filled = {}
        for name, values in parts.items():
            shape = (self.output_groups * config.tiles, -(-C // config.H) * config.H, R, S, values.shape[-1])
            filled[name] = np.zeros(shape, values.dtype)
            filled[name][: K // layer.d, :C] = values.reshape(K // layer.d, C, R, S, -1)
        return filled

    def _coded_rows(self, tile: Tile) -> dict[str, NDArray[Any]]:
        config = self.config
        K = slice(tile.i * config.tiles, (tile.i + tile.A) * config.tiles)
        C = slice(tile.g * config.H, (tile.g + tile.B) * config.H)
        return {
            name: flatten(arrange(values[K, C], tile, config.H)[:, :, :, None], tile, config.H)
            for name, values in self._fields.items()
        }

    def _raw_set(self, i: int, A: int, digit: int) -> dict[str, list[NDArray[Any]]]:
        """Fields of a set of A output groups: of each pass, for every row that the set reads, ``[A*x, rows, R, S, y]``.

        They are found for all tiles of the set at once: small arrays have hundreds.
        """
        config = self.config
        groups = self.row_groups(i)
        block = self._raw(i, A, groups.start, len(groups), digit)
        if not config.features.sparse:
            return {"weight": [block[..., None]]}
        N, M = config.N, config.M
        columns = np.moveaxis(block.reshape(-1, M, *block.shape[1:]), 1, -1)
        weights, masks = [], []
        for number in range(self.passes):
            if self.passes == 1:
                # Weights that are not 0 first, then as many others as there is room for, in order.
                order = np.sort(np.argsort(columns == 0, axis=-1, kind="stable")[..., :N], axis=-1)
                kept = np.take_along_axis(columns, order, axis=-1)
                mask = np.zeros(columns.shape, np.bool_)
                np.put_along_axis(mask, order, True, axis=-1)
            else:
                start, given = pass_columns(number, N, M)
                kept = columns[..., start : start + N].copy()
                kept[..., :given] = 0
                mask = np.zeros((*[1] * (columns.ndim - 1), M), np.bool_)
                mask[..., start : start + N] = True
            weights.append(kept)
            masks.append(np.broadcast_to(rank_masks(mask, N), columns.shape[:-1])[..., None])
        return {"weight": weights, "mask": masks} if "mask" in self.bits else {"weight": weights}

    def _raw_rows(self, tile: Tile, start: int, found: dict[str, list[NDArray[Any]]]) -> dict[str, NDArray[Any]]:
        """Those of a tile, from what :meth:`_raw_set` has found for its set and digit from row group ``start`` on."""
        H = self.config.H
        rows = slice((tile.g - start) * H, (tile.g - start + tile.B) * H)
        passes = slice(tile.p0, tile.p0 + tile.passes)
        # Passes come between row groups and output groups: [Ds, Dr, B, pass, A, H, fields]
        return {
            name: flatten(np.stack([arrange(values[:, rows], tile, H) for values in given[passes]], axis=3), tile, H)
            for name, given in found.items()
        }

    def streams(self, tiles: Iterable[Tile]) -> Streams:
        """The streams of these tiles, one after the other."""
        parts: dict[str, list[NDArray[Any]]] = {name: [] for name in self.bits}
        for (i, A, digit), group in groupby(tiles, key=lambda tile: (tile.i, tile.A, tile.digit)):
            start, found = (0, {}) if self.coded else (self.row_groups(i).start, self._raw_set(i, A, digit))
            for tile in group:
                rows = self._coded_rows(tile) if self.coded else self._raw_rows(tile, start, found)
                for name, values in rows.items():
                    parts[name].append(values)
        config = self.config
        widths = {
            "weight": config.index_bits if self.coded else config.weight_bits,
            "mask": config.mask_bits,
            "sign": 1,
        }
        channels = {}
        for name, listed in parts.items():
            fields = np.concatenate(listed)
            if fields.dtype == np.int8:
                fields = fields.view(np.uint8) & np.uint8((1 << config.weight_bits) - 1)
            channels[name] = self._padded(pack_fields(fields, widths[name]))
        codebook = b""
        if self.coded:
            layer = self.convolution.layer
            assert layer is not None
            assert layer.codebook is not None
            unsigned = layer.codebook.view(np.uint8) & np.uint8((1 << config.element_bits) - 1)
            codebook = self._padded(pack_fields(unsigned, config.element_bits))
        return Streams(codebook, channels)

    def _padded(self, data: bytes) -> bytes:
        return data + bytes(-len(data) % (self.config.word_width // 8))
