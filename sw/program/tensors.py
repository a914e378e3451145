"""Tensors in DRAM, and the inputs that the host writes: their layout, and how an image is folded."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd, isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sw.program.checks import ProgramError, check_integer, check_text

__all__ = ["Fold", "Input", "Tensor"]

_DTYPES: dict[str, Any] = {"int8": np.dtype("i1"), "int32": np.dtype("<i4")}


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
        check_text("tensor", "name", self.name)
        section = f"tensor {self.name!r}"
        check_integer(section, "address", self.address, 0, (1 << 64) - 1)
        for name in ("channels", "rows", "columns", "pixel_words"):
            check_integer(section, name, getattr(self, name), 1, (1 << 16) - 1)
        check_integer(section, "word_bytes", self.word_bytes, 1, 64)
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
            check_integer("fold", name, getattr(self, name), 1, (1 << 16) - 1)
        for name, low in (("kernel", 1), ("stride", 1), ("padding", 0)):
            pair = getattr(self, name)
            if (
                type(pair) is not tuple
                or len(pair) != 2
                or any(type(x) is not int or not low <= x <= 255 for x in pair)
            ):
                raise ProgramError("fold", f"{name} must be two integers in {low}..255, not {pair!r}")
        check_integer("fold", "fold_rows", self.fold_rows, 1, self.kernel[0])
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
