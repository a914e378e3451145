"""Weights that the host writes before each run, such as the second factor of a product of activations."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hw.config import AcceleratorConfig
from sw.format.packing import pack_fields
from sw.program.checks import MAX_DRAM_BYTES, ProgramError, check_integer, check_text
from sw.program.digits import INT8, digit_count, split_digits
from sw.program.rows import Tile, arrange, flatten, pass_columns

__all__ = ["OPERAND_TILE", "Operand"]

#: Fields of a tile of an operand: what differs between the tiles of a 1 x 1 kernel.
OPERAND_TILE = ("i", "A", "g", "B", "p0", "passes", "rows")


@dataclass(frozen=True)
class Operand:
    """Weights of a layer of 1 x 1 that the host writes before each run, as raw weights.

    Parameters
    ----------
    name
        The layer's.
    shape
        K and C.
    address, size
        Place of its packed stream in the image, in bytes.
    tiles
        Its layer tiles, in order: of each the fields :data:`OPERAND_TILE` of :class:`sw.program.rows.Tile`. Where
        weights take several digits, the first tile of the same weights has the highest.

    Raises
    ------
    ProgramError
        A field is out of range.
    """

    name: str
    shape: tuple[int, int]
    address: int
    size: int
    tiles: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        check_text("operand", "name", self.name)
        section = f"operand {self.name!r}"
        if type(self.shape) is not tuple or len(self.shape) != 2:
            raise ProgramError(section, f"shape must be K and C, not {self.shape!r}")
        for value in self.shape:
            check_integer(section, "shape", value, 1, (1 << 16) - 1)
        check_integer(section, "address", self.address, 0, (1 << 64) - 1)
        check_integer(section, "size", self.size, 1, MAX_DRAM_BYTES)
        if type(self.tiles) is not tuple or not self.tiles:
            raise ProgramError(section, f"tiles must be a list and not empty, not {self.tiles!r}")
        for tile in self.tiles:
            if type(tile) is not tuple or len(tile) != len(OPERAND_TILE):
                raise ProgramError(section, f"a tile must be {', '.join(OPERAND_TILE)}, not {tile!r}")
            for name, value in zip(OPERAND_TILE, tile, strict=True):
                check_integer(section, f"{name} of a tile", value, int(name in ("A", "B", "passes", "rows")), 65535)

    def order(self, config: AcceleratorConfig) -> NDArray[np.int64]:
        """For each field of the stream the number of its weight in ``[K, C]``, counted from 1; 0 where there is none.

        A field is a byte, or a digit of ``weight_bits`` bits; of digit i, 0 the highest, the number has ``i * K * C``
        added. Zeros may be left out at the end.

        Raises
        ------
        ProgramError
            The tiles do not give every digit of every weight once, or not as many bytes as the stream has.
        """
        section = f"operand {self.name!r}"
        K, C = self.shape
        H, L, N, M = config.H, config.L, config.N, config.M
        fields = [dict(zip(OPERAND_TILE, tile, strict=True)) for tile in self.tiles]
        # The file's size bounds that of the stream, and the stream's that of what is made here.
        row_writes = sum(t["A"] * t["passes"] * ((t["B"] - 1) * H + t["rows"]) for t in fields)
        written = -(-row_writes * config.raw_bits // 8)
        if not written <= self.size < written + config.word_width // 8 or any(t["rows"] > H for t in fields):
            raise ProgramError(section, f"tiles must give {self.size} bytes, not {written}")
        order = np.zeros(self.size * 8 // config.weight_bits, np.int64)
        end = 0
        seen: Counter[tuple[int, ...]] = Counter()
        for t in fields:
            tile = Tile(**t, r0=0, s0=0, Dr=1, Ds=1, first=True, last=True, chunk=0, shift=False)
            k, c = tile.i * L + np.arange(tile.A * L)[:, None], tile.g * H + np.arange(tile.B * H)
            key = tile.i, tile.g, tile.p0
            numbers = np.where((k < K) & (c < C), seen[key] * K * C + k * C + c + 1, 0)
            seen[key] += 1
            rows = arrange(numbers[:, :, None, None, None], tile, H)
            if config.features.sparse:
                groups = rows.reshape(*rows.shape[:5], L // M, M)
                passes = []
                for number in range(tile.p0, tile.p0 + tile.passes):
                    start, given = pass_columns(number, N, M)
                    kept = groups[..., start : start + N].copy()
                    kept[..., :given] = 0
                    passes.append(kept.reshape(*rows.shape[:5], -1))
                found = flatten(np.stack(passes, axis=3), tile, H)
            else:
                found = flatten(rows[:, :, :, None], tile, H)
            order[end : end + len(found)] = found
            end += len(found)
        number = digit_count(config, *INT8) * K * C
        counts = np.bincount(order, minlength=number + 1)[1:]
        if len(counts) != number or (counts != 1).any():
            raise ProgramError(section, f"tiles must give each of {K} x {C} weights once")
        return order

    def pack(self, values: NDArray[np.int8], config: AcceleratorConfig) -> bytes:
        """The stream of these weights.

        Parameters
        ----------
        values
            int8 ``[K, C]``; no -128 where the array multiplies by magnitudes and signs.
        config
            The program's instance.

        Raises
        ------
        ProgramError
            A wrong dtype, shape or value.
        """
        section = f"operand {self.name!r}"
        if not isinstance(values, np.ndarray) or values.dtype != np.int8 or values.shape != self.shape:
            given = f"{getattr(values, 'dtype', type(values).__name__)} {list(np.shape(values))}"
            raise ProgramError(section, f"weights must be int8 {list(self.shape)}, not {given}")
        if config.features.sign and values.min() < -127:
            raise ProgramError(section, f"weights on {config.variant} must be in -127..127, not -128")
        digits = split_digits(config, values, digit_count(config, *INT8))
        fields = np.concatenate([np.zeros(1, np.int8), digits.reshape(-1)])[self.order(config)].view(np.uint8)
        packed = pack_fields(fields & np.uint8((1 << config.weight_bits) - 1), config.weight_bits)
        return packed + bytes(self.size - len(packed))
