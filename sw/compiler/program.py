"""A program: everything that the accelerator needs to run a network, and its file.

The bytes of a program lie in DRAM from ``base`` on: descriptors, packed streams, requantisation parameters. Behind them
is room for the inputs, the outputs and the records of the counters. The host writes the image once and an input before
each run, rings the doorbell, and reads the outputs.

Weights that come with each run, such as the second factor of a product of activations, lie in the image as zeros:
:meth:`Program.with_operands` puts them in their place, packed, with the checksums of the FETCHes that read them.

The file, all numbers little-endian: magic (8 bytes), version and length n of the header (4 each), header (n bytes of
JSON), CRC-32 of all that (4), the image, CRC-32 of the image (4).
"""

from __future__ import annotations

import dataclasses
import json
import os
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import gcd, isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.config import AcceleratorConfig, ConfigError
from hw.control.descriptor import (
    BYTES,
    Channel,
    Descriptor,
    DescriptorError,
    Field,
    Opcode,
    body_offsets,
    head_offsets,
)
from sw.compiler.rows import Tile, arrange, flatten, pass_columns
from sw.format.output import write_atomically
from sw.format.strict_json import parse_json

__all__ = [
    "COUNTED",
    "MAGIC",
    "MAX_DRAM_BYTES",
    "VERSION",
    "Fold",
    "Input",
    "Operand",
    "Program",
    "ProgramError",
    "ProgramLayer",
    "Tensor",
    "program_bytes",
    "program_from_bytes",
    "read_program",
    "write_program",
]

#: As in PNG, a byte above 127, both kinds of line end and an end-of-file mark show a transfer that changed the bytes.
MAGIC = b"\x89EWS\r\n\x1a\n"
VERSION = 1

#: Most DRAM that a program may use. It bounds what a reader may have to allocate.
MAX_DRAM_BYTES = 1 << 30

#: Whose commands each of :data:`hw.control.descriptor.EVENTS` counts. RECORDs are the store unit's, and count too.
COUNTED: Mapping[str, Opcode] = {
    "loaded": Opcode.LOAD,
    "copied": Opcode.COPY,
    "fed": Opcode.TILE,
    "stored": Opcode.OUTPUT,
    "vectored": Opcode.VECTOR,
    "written": Opcode.STORE,
}

_PREFIX = struct.Struct("<8sII")
_CHECKSUM = struct.Struct("<I")

_DTYPES: dict[str, Any] = {"int8": np.dtype("i1"), "int32": np.dtype("<i4")}


class ProgramError(ValueError):
    """A program that cannot be, be read or be written. The message and ``section`` name the part at fault."""

    def __init__(self, section: str, text: str) -> None:
        super().__init__(f"{section}: {text}")
        self.section = section


def _check_integer(section: str, name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise ProgramError(section, f"{name} must be an integer in {low}..{high}, not {value!r}")


def _check_text(section: str, name: str, value: object, empty: bool = False) -> None:
    if type(value) is not str or not (value or empty):
        raise ProgramError(section, f"{name} must be text{'' if empty else ' and not empty'}, not {value!r}")


@dataclass(frozen=True)
class Tensor:
    """A tensor in DRAM, in the same layout as in L2: ``[row][column][channel]``, channel last.

    Parameters
    ----------
    name
        For the host and for messages.
    address
        DRAM byte address of row 0, column 0, channel 0.
    channels, rows, columns
        Its size.
    word_bytes
        Bytes of an L2 word.
    pixel_words
        L2 words from one column to the next; what a pixel does not need of them is zero.
    dtype
        ``int8``, or ``int32`` (little-endian).
    scale
        Real value of the integer 1, where it is known.

    Raises
    ------
    ProgramError
        A field is out of range, or a pixel does not hold its channels.
    """

    name: str
    address: int
    channels: int
    rows: int
    columns: int
    word_bytes: int
    pixel_words: int
    dtype: str = "int8"
    scale: float | None = None

    def __post_init__(self) -> None:
        _check_text("tensor", "name", self.name)
        section = f"tensor {self.name!r}"
        _check_integer(section, "address", self.address, 0, (1 << 64) - 1)
        for name in ("channels", "rows", "columns", "pixel_words"):
            _check_integer(section, name, getattr(self, name), 1, (1 << 16) - 1)
        _check_integer(section, "word_bytes", self.word_bytes, 1, 64)
        if type(self.dtype) is not str or self.dtype not in _DTYPES:
            raise ProgramError(section, f"dtype must be one of {', '.join(_DTYPES)}, not {self.dtype!r}")
        room, needed = self.pixel_words * self.word_bytes, self.channels * self._item.itemsize
        if needed > room:
            raise ProgramError(section, f"a pixel must hold {needed} bytes of channels, not {room}")
        if self.scale is not None and not (
            type(self.scale) in (int, float) and isfinite(self.scale) and self.scale > 0
        ):
            raise ProgramError(section, f"scale must be finite and positive, or None, not {self.scale!r}")

    @property
    def _item(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = _DTYPES[self.dtype]
        return dtype

    @property
    def shape(self) -> tuple[int, int, int]:
        """``[C, rows, columns]``."""
        return self.channels, self.rows, self.columns

    @property
    def words(self) -> int:
        """L2 words of the tensor."""
        return self.rows * self.columns * self.pixel_words

    @property
    def size(self) -> int:
        """Bytes of the tensor."""
        return self.words * self.word_bytes

    def pack(self, values: NDArray[Any]) -> bytes:
        """The bytes of a tensor.

        Parameters
        ----------
        values
            Of the tensor's dtype, ``[C, rows, columns]``; ``[C]`` if there is one row and one column.

        Raises
        ------
        ProgramError
            A wrong dtype or shape.
        """
        section = f"tensor {self.name!r}"
        if not isinstance(values, np.ndarray) or values.dtype != self._item:
            given = getattr(values, "dtype", type(values).__name__)
            raise ProgramError(section, f"values must be {self.dtype}, not {given}")
        if values.shape != self.shape and not (values.shape == (self.channels,) and self.rows == self.columns == 1):
            raise ProgramError(section, f"values must have shape {list(self.shape)}, not {list(values.shape)}")
        room = self.pixel_words * self.word_bytes // self._item.itemsize
        packed: NDArray[Any] = np.zeros((self.rows, self.columns, room), self._item)
        packed[..., : self.channels] = values.reshape(self.shape).transpose(1, 2, 0)
        return packed.tobytes()

    def unpack(self, data: bytes | NDArray[np.uint8]) -> NDArray[Any]:
        """The values, ``[C, rows, columns]``: the reverse of :meth:`pack`, whatever the padding holds.

        Raises
        ------
        ProgramError
            There are not :attr:`size` bytes.
        """
        if len(data) != self.size:
            raise ProgramError(f"tensor {self.name!r}", f"must have {self.size} bytes, not {len(data)}")
        pixels = np.frombuffer(bytes(data), self._item).reshape(self.rows, self.columns, -1)
        values: NDArray[Any] = pixels[..., : self.channels].transpose(2, 0, 1)
        return np.ascontiguousarray(values).astype(self._item.newbyteorder("="))


@dataclass(frozen=True)
class Fold:
    """How the host rearranges an image, so that the first convolution finds many input channels.

    An image of 3 channels would leave most array rows idle. The folded tensor has at row ``y``, column ``f`` the values
    of a window of ``fold_rows`` x S x C, as channels in the order kernel row, kernel column, channel: f is the output
    column, and the window's first row is row ``y * g`` of the padded image, with g = gcd(row stride, fold_rows).
    Columns, their stride and all padding are resolved; what is left is a convolution with a kernel of
    ceil(R / fold_rows) x 1, row stride ``stride_rows / g`` and row dilation ``fold_rows / g``. Kernel rows beyond R
    have the weight 0.

    Parameters
    ----------
    channels, rows, columns
        Size of the image.
    kernel
        R and S.
    stride, padding
        (rows, columns).
    fold_rows
        Kernel rows in one window, 1..R.

    Raises
    ------
    ProgramError
        A field is out of range, or the kernel does not fit the padded image.
    """

    channels: int
    rows: int
    columns: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    fold_rows: int

    def __post_init__(self) -> None:
        for name in ("channels", "rows", "columns"):
            _check_integer("fold", name, getattr(self, name), 1, (1 << 16) - 1)
        for name, low in (("kernel", 1), ("stride", 1), ("padding", 0)):
            pair = getattr(self, name)
            if (
                type(pair) is not tuple
                or len(pair) != 2
                or any(type(x) is not int or not low <= x <= 255 for x in pair)
            ):
                raise ProgramError("fold", f"{name} must be two integers in {low}..255, not {pair!r}")
        _check_integer("fold", "fold_rows", self.fold_rows, 1, self.kernel[0])
        for name, extent, kernel, padding in zip(
            ("rows", "columns"), (self.rows, self.columns), self.kernel, self.padding, strict=True
        ):
            if extent + 2 * padding < kernel:
                raise ProgramError("fold", f"padded {name} must be at least {kernel}, not {extent + 2 * padding}")

    @property
    def output(self) -> tuple[int, int]:
        """Rows and columns (E, F) of the convolution's output."""
        E, F = (
            (extent + 2 * padding - kernel) // stride + 1
            for extent, padding, kernel, stride in zip(
                (self.rows, self.columns), self.padding, self.kernel, self.stride, strict=True
            )
        )
        return E, F

    @property
    def step(self) -> int:
        """Padded image rows from one folded row to the next."""
        return gcd(self.stride[0], self.fold_rows)

    @property
    def layer_kernel(self) -> tuple[int, int]:
        """Kernel of the folded convolution."""
        return -(-self.kernel[0] // self.fold_rows), 1

    @property
    def layer_stride(self) -> tuple[int, int]:
        """Stride of the folded convolution."""
        return self.stride[0] // self.step, 1

    @property
    def layer_dilation(self) -> tuple[int, int]:
        """Dilation of the folded convolution."""
        return self.fold_rows // self.step, 1

    @property
    def shape(self) -> tuple[int, int, int]:
        """``[channels, rows, columns]`` of the folded tensor."""
        E, F = self.output
        rows = ((E - 1) * self.stride[0] + (self.layer_kernel[0] - 1) * self.fold_rows) // self.step + 1
        return self.fold_rows * self.kernel[1] * self.channels, rows, F

    def image(self, values: NDArray[np.int8]) -> NDArray[np.int8]:
        """The folded tensor of an image.

        Parameters
        ----------
        values
            int8 ``[C, rows, columns]``.

        Raises
        ------
        ProgramError
            A wrong dtype or shape.
        """
        wanted = (self.channels, self.rows, self.columns)
        if not isinstance(values, np.ndarray) or values.dtype != np.int8 or values.shape != wanted:
            given = f"{getattr(values, 'dtype', type(values).__name__)} {list(np.shape(values))}"
            raise ProgramError("fold", f"the image must be int8 {list(wanted)}, not {given}")
        _, rows, F = self.shape
        u = np.arange(rows)[:, None] * self.step + np.arange(self.fold_rows)
        v = np.arange(F)[:, None] * self.stride[1] + np.arange(self.kernel[1])
        padded = np.zeros(
            (self.channels, max(self.rows + 2 * self.padding[0], int(u.max()) + 1), self.columns + 2 * self.padding[1]),
            np.int8,
        )
        top, left = self.padding
        padded[:, top : top + self.rows, left : left + self.columns] = values
        windows = padded[:, u[:, :, None, None], v]  # [C, folded row, fold row, F, S]
        return np.ascontiguousarray(windows.transpose(2, 4, 0, 1, 3)).reshape(self.shape)

    def weights(self, values: NDArray[np.int8]) -> NDArray[np.int8]:
        """Weights ``[K, C, R, S]`` as those of the folded convolution.

        Returns
        -------
        int8 ``[K, fold_rows * S * C, ceil(R / fold_rows), 1]``
        """
        K, C, R, S = values.shape
        assert (self.channels, *self.kernel) == (C, R, S), "weights of the folded convolution"
        parts = self.layer_kernel[0]
        filled = np.zeros((K, C, parts * self.fold_rows, S), np.int8)
        filled[:, :, :R] = values
        cut = filled.reshape(K, C, parts, self.fold_rows, S).transpose(0, 3, 4, 1, 2)
        return np.ascontiguousarray(cut).reshape(K, -1, parts, 1)


@dataclass(frozen=True)
class Input:
    """A tensor that the host writes before each run.

    Parameters
    ----------
    tensor
        In DRAM, as the program loads it. ``scale`` is that of the image.
    fold
        How the host rearranges the image, or None: the image is the tensor.

    Raises
    ------
    ProgramError
        The tensor is not int8, or has another shape than the fold gives.
    """

    tensor: Tensor
    fold: Fold | None = None

    def __post_init__(self) -> None:
        section = f"input {self.tensor.name!r}"
        if self.tensor.dtype != "int8":
            raise ProgramError(section, f"dtype must be int8, not {self.tensor.dtype}")
        if self.fold is not None and self.fold.shape != self.tensor.shape:
            raise ProgramError(
                section, f"shape must be that of the fold, {list(self.fold.shape)}, not {list(self.tensor.shape)}"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """``[C, rows, columns]`` of the image that the host gives."""
        fold = self.fold
        return (fold.channels, fold.rows, fold.columns) if fold else self.tensor.shape

    def pack(self, image: NDArray[np.int8]) -> bytes:
        """The bytes in DRAM of an image int8 ``[C, rows, columns]``.

        Raises
        ------
        ProgramError
            A wrong dtype or shape.
        """
        return self.tensor.pack(self.fold.image(image) if self.fold else image)


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
        Its layer tiles, in order: of each the fields :data:`OPERAND_TILE` of :class:`sw.compiler.rows.Tile`.

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
        _check_text("operand", "name", self.name)
        section = f"operand {self.name!r}"
        if type(self.shape) is not tuple or len(self.shape) != 2:
            raise ProgramError(section, f"shape must be K and C, not {self.shape!r}")
        for value in self.shape:
            _check_integer(section, "shape", value, 1, (1 << 16) - 1)
        _check_integer(section, "address", self.address, 0, (1 << 64) - 1)
        _check_integer(section, "size", self.size, 1, MAX_DRAM_BYTES)
        if type(self.tiles) is not tuple or not self.tiles:
            raise ProgramError(section, f"tiles must be a list and not empty, not {self.tiles!r}")
        for tile in self.tiles:
            if type(tile) is not tuple or len(tile) != len(OPERAND_TILE):
                raise ProgramError(section, f"a tile must be {', '.join(OPERAND_TILE)}, not {tile!r}")
            for name, value in zip(OPERAND_TILE, tile, strict=True):
                _check_integer(section, f"{name} of a tile", value, int(name in ("A", "B", "passes", "rows")), 65535)

    def order(self, config: AcceleratorConfig) -> NDArray[np.int64]:
        """For each byte of the stream the number of its weight in ``[K, C]``, counted from 1; 0 where there is none.

        Raises
        ------
        ProgramError
            The tiles do not give every weight once, or not as many bytes as the stream has.
        """
        section = f"operand {self.name!r}"
        K, C = self.shape
        H, L, N, M = config.H, config.L, config.N, config.M
        fields = [dict(zip(OPERAND_TILE, tile, strict=True)) for tile in self.tiles]
        # The file's size bounds that of the stream, and the stream's that of what is made here.
        written = sum(t["A"] * t["passes"] * ((t["B"] - 1) * H + t["rows"]) for t in fields) * (config.raw_bits // 8)
        if not written <= self.size < written + config.word_width // 8 or any(t["rows"] > H for t in fields):
            raise ProgramError(section, f"tiles must give {self.size} bytes, not {written}")
        order = np.zeros(self.size, np.int64)
        end = 0
        for t in fields:
            tile = Tile(**t, r0=0, s0=0, Dr=1, Ds=1, first=True, last=True, chunk=0)
            k, c = tile.i * L + np.arange(tile.A * L)[:, None], tile.g * H + np.arange(tile.B * H)
            numbers = np.where((k < K) & (c < C), k * C + c + 1, 0)
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
        counts = np.bincount(order, minlength=K * C + 1)[1:]
        if len(counts) != K * C or (counts != 1).any():
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
        counted = np.concatenate([np.zeros(1, np.int8), values.reshape(-1)])
        return counted[self.order(config)].tobytes()


@dataclass(frozen=True)
class ProgramLayer:
    """One line of the layer table. Descriptors belong to a layer by its number in the table.

    Parameters
    ----------
    name
        The layer's, or one made from its operation; unique.
    operation
        What it is: ``conv``, ``linear``, ``depthwise``, ``add``, ``maximum``, ``average``, ...
    macs
        Useful multiply-accumulates: those of the network, without padding to H and L; pruned weights included.
    record
        DRAM address where the counters are written when the layer is complete, or None.
    tensor
        The layer's output in DRAM, or None where it stays on the chip.
    note
        How it is mapped, for the listing.

    Raises
    ------
    ProgramError
        A field is out of range.
    """

    name: str
    operation: str
    macs: int = 0
    record: int | None = None
    tensor: Tensor | None = None
    note: str = ""

    def __post_init__(self) -> None:
        _check_text("layer", "name", self.name)
        section = f"layer {self.name!r}"
        _check_text(section, "operation", self.operation)
        _check_text(section, "note", self.note, empty=True)
        _check_integer(section, "macs", self.macs, 0, (1 << 63) - 1)
        if self.record is not None:
            _check_integer(section, "record", self.record, 0, (1 << 64) - 1)


@dataclass(frozen=True)
class Program:
    """A network, or a part of one, for one instance.

    Parameters
    ----------
    config
        The instance.
    base
        DRAM address of the image, a multiple of 64.
    image
        Bytes that the host writes once; the accelerator only reads them.
    descriptors
        DRAM address of the first descriptor, in the image.
    descriptor_count
        How many there are.
    dram_bytes
        Bytes of DRAM from ``base`` on that the program uses, a multiple of 64.
    inputs, outputs
        What the host writes and reads; beyond the image.
    layers
        The layer table.
    metadata
        A JSON object of the writer's own.
    operands
        Weights that the host writes before each run, in the image.

    Raises
    ------
    ProgramError
        A part is out of range or lies outside the DRAM that the program uses, or a name is used twice.
    """

    config: AcceleratorConfig
    base: int
    image: bytes
    descriptors: int
    descriptor_count: int
    dram_bytes: int
    inputs: tuple[Input, ...]
    outputs: tuple[Tensor, ...]
    layers: tuple[ProgramLayer, ...]
    metadata: dict[str, Any] = field(default_factory=dict)
    operands: tuple[Operand, ...] = ()

    def __post_init__(self) -> None:
        section = "program"
        _check_integer(section, "dram_bytes", self.dram_bytes, BYTES, MAX_DRAM_BYTES)
        last = (1 << self.config.address_bits) - self.dram_bytes
        if last < 0:
            given = f"{self.dram_bytes} with address_bits = {self.config.address_bits}"
            raise ProgramError(section, f"dram_bytes must be at most 2**address_bits, not {given}")
        _check_integer(section, "base", self.base, 0, last)
        for name in ("base", "dram_bytes"):
            if getattr(self, name) % BYTES:
                raise ProgramError(section, f"{name} must be a multiple of {BYTES}, not {getattr(self, name)}")
        if len(self.image) > self.dram_bytes:
            raise ProgramError(section, f"image must have at most {self.dram_bytes} bytes, not {len(self.image)}")
        _check_integer(section, "descriptor_count", self.descriptor_count, 1, (1 << 32) - 1)
        end = self.base + len(self.image)
        _check_integer(section, "descriptors", self.descriptors, self.base, end - BYTES * self.descriptor_count)
        if self.descriptors % BYTES:
            raise ProgramError(section, f"descriptors must be a multiple of {BYTES}, not {self.descriptors}")
        for kind, names in (
            ("input", [x.tensor.name for x in self.inputs]),
            ("output", [x.name for x in self.outputs]),
            ("layer", [x.name for x in self.layers]),
            ("operand", [x.name for x in self.operands]),
        ):
            for name, count in Counter(names).items():
                if count > 1:
                    raise ProgramError(section, f"{kind} names must be unique, not {count} times {name!r}")
        tensors = [*(x.tensor for x in self.inputs), *self.outputs, *(x.tensor for x in self.layers if x.tensor)]
        for tensor in tensors:
            where = f"tensor {tensor.name!r}"
            if tensor.word_bytes != self.config.l2_word:
                raise ProgramError(where, f"word_bytes must be {self.config.l2_word}, not {tensor.word_bytes}")
            self._check_place(where, "address", tensor.address, tensor.size, self.alignment)
        for layer in self.layers:
            if layer.record is not None:
                self._check_place(f"layer {layer.name!r}", "record", layer.record, BYTES, BYTES)

        for operand in self.operands:
            _check_integer(f"operand {operand.name!r}", "address", operand.address, self.base, end - operand.size)

    def _check_place(self, section: str, name: str, address: int, size: int, alignment: int) -> None:
        low, high = self.base + len(self.image), self.base + self.dram_bytes - size
        if not low <= address <= high or address % alignment:
            raise ProgramError(
                section, f"{name} must be a multiple of {alignment} in {low}..{high}, not {address} ({size} bytes)"
            )

    @property
    def alignment(self) -> int:
        """Bytes that the address of a tensor is a multiple of: those of an L2 word and of a DRAM word."""
        return max(self.config.l2_word, self.config.word_width // 8)

    @cached_property
    def listing(self) -> tuple[Descriptor, ...]:
        """The descriptors, decoded.

        Raises
        ------
        ProgramError
            One has an unknown opcode.
        """
        start = self.descriptors - self.base
        decoded = []
        for number in range(self.descriptor_count):
            data = self.image[start + BYTES * number : start + BYTES * (number + 1)]
            try:
                decoded.append(Descriptor.unpack(data))
            except DescriptorError as error:
                raise ProgramError(f"descriptor {number}", str(error)) from None
        return tuple(decoded)

    def bodies(self) -> list[tuple[Opcode, dict[str, int]]]:
        """Opcode and all fields, those of the head too, of each descriptor: :attr:`listing`, many times faster.

        Raises
        ------
        ProgramError
            A descriptor has an unknown opcode.
        """
        start = self.descriptors - self.base
        table = np.frombuffer(self.image, np.uint8, BYTES * self.descriptor_count, start).reshape(-1, BYTES)
        padded = np.pad(table, ((0, 0), (0, 8)))

        def column(numbers: NDArray[np.int64], offset: int, entry: Field) -> list[int]:
            first = offset // 8
            values = np.ascontiguousarray(padded[numbers, first : first + 8]).view("<u8").reshape(-1)
            values = values >> np.uint64(offset % 8) & np.uint64((1 << entry.bits) - 1)
            if not entry.signed:
                return list(values.tolist())
            unused = 64 - entry.bits
            return list(((values << np.uint64(unused)).view(np.int64) >> unused).tolist())

        found: list[tuple[Opcode, dict[str, int]]] = [(Opcode.END, {})] * len(table)
        unknown = ~np.isin(table[:, 0], np.array(list(Opcode)))
        if unknown.any():
            number = int(unknown.argmax())
            raise ProgramError(f"descriptor {number}", f"opcode must be in 1..{max(Opcode)}, not {table[number, 0]}")
        for opcode in Opcode:
            numbers = np.flatnonzero(table[:, 0] == opcode)
            offsets = head_offsets() | body_offsets(opcode)
            columns = [column(numbers, *place) for place in offsets.values()]
            for number, values in zip(numbers.tolist(), zip(*columns, strict=True), strict=True):
                found[number] = opcode, dict(zip(offsets, values, strict=True))
        return found

    @cached_property
    def _operand_fetches(self) -> list[list[int]]:
        """Numbers of the FETCHes that read each operand."""
        found: dict[int, list[int]] = {operand.address: [] for operand in self.operands}
        for number, (opcode, body) in enumerate(self.bodies() if found else ()):
            if opcode == Opcode.FETCH and body["channel"] == Channel.WEIGHT and body["address"] in found:
                found[body["address"]].append(number)
        for operand in self.operands:
            if not found[operand.address]:
                raise ProgramError(f"operand {operand.name!r}", f"no FETCH reads its address {operand.address}")
        return [found[operand.address] for operand in self.operands]

    @property
    def operand_bytes(self) -> int:
        """Bytes that :meth:`with_operands` changes: the operands, and the checksums of the FETCHes that read them."""
        checksums = sum(map(len, self._operand_fetches))
        return sum(operand.size for operand in self.operands) + _CHECKSUM.size * checksums

    def with_operands(self, weights: Sequence[NDArray[np.int8]]) -> Program:
        """The program with these weights in its image, and the checksums of the FETCHes that read them.

        Parameters
        ----------
        weights
            One int8 ``[K, C]`` for each operand.

        Raises
        ------
        ProgramError
            A wrong number of operands, or weights of a wrong dtype, shape or value; or no FETCH reads an operand.
        """
        if len(weights) != len(self.operands):
            raise ProgramError("program", f"there must be {len(self.operands)} operands, not {len(weights)}")
        image = bytearray(self.image)
        bit, entry = body_offsets(Opcode.FETCH)["checksum"]
        assert bit % 8 == 0
        assert entry.bits == 8 * _CHECKSUM.size
        for operand, fetches, values in zip(self.operands, self._operand_fetches, weights, strict=True):
            data = operand.pack(values, self.config)
            start = operand.address - self.base
            image[start : start + len(data)] = data
            for number in fetches:
                at = self.descriptors - self.base + BYTES * number + bit // 8
                _CHECKSUM.pack_into(image, at, zlib.crc32(data))
        return dataclasses.replace(self, image=bytes(image))

    def memory(self, images: Sequence[NDArray[np.int8]] = ()) -> NDArray[np.uint8]:
        """The DRAM from ``base`` on as the host prepares it, uint8 ``[dram_bytes]``; 0 where nothing is written.

        Parameters
        ----------
        images
            One int8 ``[C, rows, columns]`` for each input; none to leave the inputs 0.

        Raises
        ------
        ProgramError
            A wrong number of images, or an image of a wrong dtype or shape.
        """
        if images and len(images) != len(self.inputs):
            raise ProgramError("program", f"there must be {len(self.inputs)} inputs, not {len(images)}")
        memory = np.zeros(self.dram_bytes, np.uint8)
        memory[: len(self.image)] = np.frombuffer(self.image, np.uint8)
        for entry, image in zip(self.inputs, images, strict=False):
            start = entry.tensor.address - self.base
            memory[start : start + entry.tensor.size] = np.frombuffer(entry.pack(image), np.uint8)
        return memory

    def read(self, memory: NDArray[np.uint8], tensor: Tensor) -> NDArray[Any]:
        """The values of a tensor in DRAM contents as :meth:`memory` gives them, ``[C, rows, columns]``."""
        start = tensor.address - self.base
        return tensor.unpack(memory[start : start + tensor.size])


def _plain(value: object) -> Any:
    """A dataclass as plain JSON, without what has its default."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if not dataclasses.is_dataclass(value):
        return value
    given = {entry.name: (getattr(value, entry.name), entry.default) for entry in dataclasses.fields(value)}
    return {name: _plain(own) for name, (own, default) in given.items() if own != default}


def program_bytes(program: Program) -> bytes:
    """The file of a program. The same program gives the same bytes.

    Raises
    ------
    ProgramError
        The metadata are not plain JSON.
    """
    header: dict[str, Any] = {
        "config": program.config.to_dict(),
        "image_bytes": len(program.image),
        **{name: getattr(program, name) for name in ("base", "descriptors", "descriptor_count", "dram_bytes")},
        **{name: _plain(getattr(program, name)) for name in ("inputs", "outputs", "layers")},
        "metadata": program.metadata,
        **({"operands": _plain(program.operands)} if program.operands else {}),
    }
    try:
        text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ProgramError("header", f"metadata must be plain JSON: {error}") from None
    prefix = _PREFIX.pack(MAGIC, VERSION, len(text)) + text
    parts = [prefix, _CHECKSUM.pack(zlib.crc32(prefix)), program.image, _CHECKSUM.pack(zlib.crc32(program.image))]
    return b"".join(parts)


def write_program(path: str | os.PathLike[str], program: Program) -> None:
    """Write a program to one file: :func:`program_bytes`. The file is complete or unchanged.

    Raises
    ------
    ProgramError
        The metadata are not plain JSON. Nothing is written.
    sw.format.output.OutputError
        There is something at ``path`` that is not a regular file.
    OSError
        The file cannot be written.
    """
    write_atomically(path, [program_bytes(program)])


def _object(section: str, value: object, kind: Any) -> dict[str, Any]:
    """The keyword arguments for a dataclass: a JSON object with the right keys."""
    if type(value) is not dict:
        raise ProgramError(section, f"must be an object, not {type(value).__name__}")
    entries = {entry.name: entry for entry in dataclasses.fields(kind)}
    for name in value:
        if name not in entries:
            raise ProgramError(section, f"unknown field {name!r}")
    for name, entry in entries.items():
        if name not in value and entry.default is dataclasses.MISSING:
            raise ProgramError(section, f"field {name!r} is missing")
    return value


def _list(section: str, value: object, build: Callable[[Any], Any]) -> tuple[Any, ...]:
    if type(value) is not list:
        raise ProgramError(section, f"must be a list, not {type(value).__name__}")
    return tuple(build(item) for item in value)


def _tensor(value: object) -> Tensor:
    return Tensor(**_object("tensor", value, Tensor))


def _fold(value: object) -> Fold:
    fields = _object("fold", value, Fold)
    pairs: dict[str, Any] = {name: tuple(x) if type(x) is list else x for name, x in fields.items()}
    return Fold(**pairs)


def _input(value: object) -> Input:
    fields = _object("input", value, Input)
    return Input(_tensor(fields["tensor"]), _fold(fields["fold"]) if "fold" in fields else None)


def _layer(value: object) -> ProgramLayer:
    fields = dict(_object("layer", value, ProgramLayer))
    if "tensor" in fields:
        fields["tensor"] = _tensor(fields["tensor"])
    return ProgramLayer(**fields)


def _operand(value: object) -> Operand:
    fields = dict(_object("operand", value, Operand))
    for name, given in fields.items():
        if type(given) is list:
            fields[name] = tuple(tuple(x) if type(x) is list else x for x in given)
    return Operand(**fields)


_KEYS = (
    "config", "image_bytes", "base", "descriptors", "descriptor_count", "dram_bytes", "inputs", "outputs", "layers",
    "metadata",
)  # fmt: skip


def read_program(path: str | os.PathLike[str]) -> Program:
    """Read and check a whole program file. Every byte is covered by a check.

    Raises
    ------
    ProgramError
        The file is truncated, too long, corrupted, of another version, or its header is out of range.
    OSError
        The file cannot be read.
    """
    return program_from_bytes(Path(path).read_bytes())


def program_from_bytes(data: bytes) -> Program:
    """A program from the bytes of its file: the reverse of :func:`program_bytes`.

    Raises
    ------
    ProgramError
        As :func:`read_program`.
    """
    if data[: len(MAGIC)] != MAGIC:
        raise ProgramError("magic", f"the file must begin with {MAGIC!r}, not {data[: len(MAGIC)]!r}")
    if len(data) < _PREFIX.size:
        raise ProgramError("header", f"the file is truncated: {len(data)} bytes of at least {_PREFIX.size}")
    _, version, length = _PREFIX.unpack_from(data)
    if version != VERSION:
        raise ProgramError("version", f"must be {VERSION}, not {version}")
    end = _PREFIX.size + length
    start = end + _CHECKSUM.size
    if len(data) < start:
        raise ProgramError("header", f"the file is truncated: {len(data)} bytes of at least {start}")
    if zlib.crc32(data[:end]) != _CHECKSUM.unpack_from(data, end)[0]:
        raise ProgramError("header", "checksum mismatch, the bytes are corrupted")
    try:
        header = parse_json(data[_PREFIX.size : end])
    except ValueError as error:
        raise ProgramError("header", f"must be JSON: {error}") from None
    if type(header) is not dict or sorted(header.keys() - {"operands"}) != sorted(_KEYS):
        raise ProgramError("header", f"must be an object of {', '.join(_KEYS)}")
    size = header["image_bytes"]
    _check_integer("header", "image_bytes", size, 0, MAX_DRAM_BYTES)
    wanted = start + size + _CHECKSUM.size
    if len(data) != wanted:
        fault = "truncated" if len(data) < wanted else "too long"
        raise ProgramError("image", f"the file is {fault}: {len(data)} bytes, not {wanted}")
    image = data[start : start + size]
    if zlib.crc32(image) != _CHECKSUM.unpack_from(data, start + size)[0]:
        raise ProgramError("image", "checksum mismatch, the bytes are corrupted")
    if type(header["config"]) is not dict or type(header["metadata"]) is not dict:
        raise ProgramError("header", "config and metadata must be objects")
    try:
        config = AcceleratorConfig.from_dict(header["config"])
    except ConfigError as error:
        raise ProgramError("config", str(error)) from None
    return Program(
        config=config,
        image=image,
        **{name: header[name] for name in ("base", "descriptors", "descriptor_count", "dram_bytes", "metadata")},
        inputs=_list("inputs", header["inputs"], _input),
        outputs=_list("outputs", header["outputs"], _tensor),
        layers=_list("layers", header["layers"], _layer),
        operands=_list("operands", header.get("operands", []), _operand),
    )
