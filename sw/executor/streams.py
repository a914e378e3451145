"""The channels of weights and parameters, and the decoder behind them."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from math import comb

import numpy as np
from numpy.typing import NDArray

from hw.config import AcceleratorConfig
from sw.format.packing import unrank_masks
from sw.program import digit_range

__all__ = ["Decoder", "Stream"]


class Stream:
    """A channel: the fetched words that nobody has taken yet."""

    def __init__(self, word_bytes: int) -> None:
        self.word_bytes = word_bytes
        self.chunks: deque[NDArray[np.uint8]] = deque()
        self.words = 0
        # Bits of the first word that are gone.
        self.bit = 0
        # Words fetched and asked for since the beginning, and the first word of each FETCH that may stand ahead.
        self.fetched = 0
        self.demanded = 0
        self.demanded_bit = 0
        self.starts: deque[int] = deque()

    def fetch(self, data: NDArray[np.uint8]) -> int:
        """Take a FETCH's words. Returns how many FETCHes now stand ahead of their consumer."""
        self.starts.append(self.fetched)
        self.chunks.append(data)
        count = len(data) // self.word_bytes
        self.words += count
        self.fetched += count
        while self.starts and self.starts[0] < self.demanded:
            self.starts.popleft()
        return len(self.starts)

    def demand(self, sizes: Sequence[int], start: bool) -> None:
        """Note that a command will take fields of that many bits, each but the first from a new word on."""
        width = 8 * self.word_bytes
        if start:
            self.demanded_bit = 0
        for number, bits in enumerate(sizes):
            left = -self.demanded_bit % width if number == 0 else 0
            self.demanded += max(0, -(-(bits - left) // width))
            self.demanded_bit = (bits - left) % width

    def has(self, sizes: Sequence[int], start: bool) -> bool:
        """Whether :meth:`take` can be called for these sizes in turn."""
        width = 8 * self.word_bytes
        bit, words = (0, self.words - bool(self.bit)) if start else (self.bit, self.words)
        for number, bits in enumerate(sizes):
            if number:
                words, bit = words - bool(bit), 0
            words -= (bit + bits) // width
            bit = (bit + bits) % width
        return words >= bool(bit)

    def align(self) -> None:
        """Drop what is left of a word that has been taken in part."""
        if self.bit:
            self._drop(1)
            self.bit = 0

    def _drop(self, words: int) -> None:
        self.words -= words
        size = words * self.word_bytes
        while size:
            chunk = self.chunks.popleft()
            if len(chunk) > size:
                self.chunks.appendleft(chunk[size:])
            size = max(0, size - len(chunk))

    def skip(self, bits: int) -> None:
        """Drop the next bits."""
        end = self.bit + bits
        self._drop(end // (8 * self.word_bytes))
        self.bit = end % (8 * self.word_bytes)

    @property
    def together(self) -> int:
        """Bits that came with one FETCH and are there."""
        return 8 * len(self.chunks[0]) - self.bit if self.chunks else 0

    def ahead(self, bits: int) -> NDArray[np.uint8]:
        """The next bits, at most :attr:`together`, one a byte; they stay."""
        return np.unpackbits(self.chunks[0], count=self.bit + bits, bitorder="little")[self.bit :]

    def take(self, bits: int) -> NDArray[np.uint8]:
        """The next bits, one a byte."""
        size = -(-(self.bit + bits) // (8 * self.word_bytes)) * self.word_bytes
        pieces: list[NDArray[np.uint8]] = []
        found = 0
        for chunk in self.chunks:
            pieces.append(chunk[: size - found])
            found += len(pieces[-1])
            if found == size:
                break
        data = pieces[0] if len(pieces) == 1 else np.concatenate(pieces or [np.zeros(0, np.uint8)])
        unpacked = np.unpackbits(data, count=self.bit + bits, bitorder="little")[self.bit :]
        self.skip(bits)
        return unpacked


def _integers(bits: NDArray[np.uint8], width: int) -> NDArray[np.int8]:
    """Fields of ``width`` bits in two's complement."""
    if width == 8:
        return np.packbits(bits, bitorder="little").view(np.int8)
    unused = 8 - width
    raised: NDArray[np.int8] = (_fields(bits, width) << unused).astype(np.uint8).view(np.int8)
    return raised >> unused


def _fields(bits: NDArray[np.uint8], width: int) -> NDArray[np.int64]:
    """Fields of ``width`` bits, lowest bit first."""
    count = len(bits) // width
    # Eight fields lie in ``width`` bytes, each at the same bits of all of them.
    eights = -(-count // 8)
    data = np.zeros((eights, width), np.uint8)
    packed = np.packbits(bits, bitorder="little")
    data.reshape(-1)[: len(packed)] = packed
    found = np.empty((eights, 8), np.int64)
    for number in range(8):
        first, shift = divmod(number * width, 8)
        value = data[:, first].astype(np.int64)
        for place in range(1, -(-(shift + width) // 8)):
            value |= data[:, first + place].astype(np.int64) << (8 * place)
        found[:, number] = (value >> shift) & ((1 << width) - 1)
    return found.reshape(-1)[:count]


class Decoder:
    """Weights of row writes from the packed streams, bit by bit as the hardware's weight loader."""

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self.codebook: NDArray[np.int8] = np.zeros((0, config.d), np.int8)
        masked = config.features.mask
        self.ranks = comb(config.M, config.N) if masked else 0
        small = masked and self.ranks <= 1 << 16
        self.masks = unrank_masks(np.arange(self.ranks), config.N, config.M) if small else None
        # Bits that a row takes from each stream: raw, and the words of a codebook.
        self.raw_bits = dict(config.raw_streams)
        self.row_bits = {"weight" if name == "index" else name: bits for name, bits in config.streams.items()}
        self.codeword_bits = config.d * config.element_bits

    def sizes(self, body: Mapping[str, int], raw: bool, rows: int) -> dict[str, list[int]]:
        """Bits that a tile takes from each stream, in turn."""
        sizes = {name: [rows * bits] for name, bits in (self.raw_bits if raw else self.row_bits).items()}
        if body["codewords"] and not raw:
            sizes["weight"].insert(0, body["codewords"] * self.codeword_bits)
        return sizes

    def load(self, bits: NDArray[np.uint8]) -> None:
        """Fill the codebook register file; entries beyond the codewords keep what they hold."""
        width, d = self.config.element_bits, self.config.d
        elements = _fields(bits, width).astype(np.int8) if self.config.features.sign else _integers(bits, width)
        codewords = elements.reshape(-1, d)
        self.codebook = np.concatenate([codewords, self.codebook[len(codewords) :]])

    def decode(self, bits: Mapping[str, NDArray[np.uint8]], raw: bool, rows: int) -> NDArray[np.int8]:
        """The weights, int8 ``[rows, L]``. Raises ValueError with what is wrong with the bits."""
        config = self.config
        masks: NDArray[np.bool_] | None = None
        if config.features.mask and (config.features.sparse or not raw):
            groups = rows * config.tiles * config.mask_groups
            ranks = _fields(bits["mask"], config.mask_bits) if config.mask_bits else np.zeros(groups, np.int64)
            if (highest := int(ranks.max(initial=0))) >= self.ranks:
                raise ValueError(f"mask ranks must be in 0..{self.ranks - 1}, not {highest}")
            found = self.masks[ranks] if self.masks is not None else unrank_masks(ranks, config.N, config.M)
            masks = found.reshape(rows, config.L)
        if raw:
            values = _integers(bits["weight"], config.weight_bits)
            least, greatest = digit_range(config)
            if (lowest := int(values.min(initial=0))) < least:
                raise ValueError(f"raw weights must be in {least}..{greatest} in sign-split variants, not {lowest}")
            if masks is None or not config.features.sparse:
                return values.reshape(rows, config.L)
            weights = np.zeros((rows, config.L), np.int8)
            weights[masks] = values
            return weights
        index = _fields(bits["weight"], config.index_bits)
        if (highest := int(index.max(initial=0))) >= len(self.codebook):
            raise ValueError(f"assignments must be in 0..{len(self.codebook) - 1}, the loaded codewords, not {highest}")
        weights = self.codebook[index].reshape(rows, config.L)
        if masks is not None:
            weights = weights * masks
        if config.features.sign:
            negative = bits["sign"].astype(np.bool_)
            if masks is not None:
                spread = np.zeros((rows, config.L), np.bool_)
                spread[masks] = negative
                negative = spread
            weights = np.where(negative.reshape(rows, config.L), -weights, weights)
        return weights
