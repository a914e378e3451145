"""Packed weight streams: exactly the bytes that the hardware's weight loader consumes, in its order.

A row write of the weight loader fills one WRF entry of one array row with L weights. It takes L/d fields from each
stream the method has, tile 0 in the lowest bits. Streams are continuous to the bit over a layer and end with zeros up
to a multiple of 8 bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.layout import Schedule
from sw.format.layer import METHODS, SIGN_SPLIT, CompressedLayer
from sw.format.packing import PackingError, mask_code_bits, pack_fields, rank_masks, unpack_fields, unrank_masks

__all__ = ["STREAM_ALIGNMENT", "StreamError", "StreamLayout", "layer_streams", "subvector_order", "unpack_streams"]

#: A stream's length in bytes is a multiple of this.
STREAM_ALIGNMENT = 8


class StreamError(ValueError):
    """A layer that cannot be packed, or streams that cannot be unpacked; ``stream`` names the one at fault, if any."""

    def __init__(self, message: str, stream: str | None = None) -> None:
        super().__init__(f"{stream} stream: {message}" if stream else message)
        self.stream = stream


@dataclass(frozen=True)
class StreamLayout:
    """All that the sizes and the order of a layer's streams depend on.

    Parameters
    ----------
    shape
        ``[K, C, R, S]``.
    method, d, k, n, m
        As in :class:`sw.format.layer.CompressedLayer`.
    schedule
        How the layer is cut into layer tiles.
    weight_bits
        As in :class:`sw.format.layer.CompressedLayer`.

    Raises
    ------
    StreamError
        The parameters contradict each other.
    """

    shape: tuple[int, int, int, int]
    method: str
    d: int
    k: int
    n: int
    m: int
    schedule: Schedule
    weight_bits: int = 8

    @classmethod
    def of(cls, layer: CompressedLayer, schedule: Schedule, raw: bool = False) -> StreamLayout:
        """The layout of a layer's streams; with ``raw``, of its decoded int8 weights."""
        if raw:
            return cls(layer.shape, "int8", 0, 0, 0, 0, schedule)
        return cls(layer.shape, layer.method, layer.d, layer.k, layer.n, layer.m, schedule, layer.weight_bits)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise StreamError(f"method must be one of {', '.join(METHODS)}, not {self.method!r}")
        if not 2 <= self.weight_bits <= 8:
            raise StreamError(f"weight_bits must be in 2..8, not {self.weight_bits}")
        if self.weight_bits != 8 and self.method != "int8":
            raise StreamError(f"weight_bits must be 8 for method {self.method}, not {self.weight_bits}")
        K, _, R, S = self.shape
        if min(self.shape) < 1:
            raise StreamError(f"shape must be four positive integers [K, C, R, S], not {self.shape!r}")
        if self.method == "int8":
            if (self.d, self.k, self.n, self.m) != (0, 0, 0, 0):
                raise StreamError(f"d, k, n, m must be 0 for method int8, not {self.d}, {self.k}, {self.n}, {self.m}")
        else:
            if self.d < 1 or K % self.d:
                raise StreamError(f"d must be at least 1 and divide K = {K}, not {self.d}")
            if self.schedule.L % self.d:
                raise StreamError(f"L must be a multiple of d = {self.d}, not {self.schedule.L}")
            if not 1 <= self.k <= 65536:
                raise StreamError(f"k must be in 1..65536, not {self.k}")
            if self.m < 1 or self.d % self.m:
                raise StreamError(f"m must be at least 1 and divide d = {self.d}, not {self.m}")
            try:
                mask_code_bits(self.n, self.m)
            except PackingError as error:
                raise StreamError(str(error)) from None
        if R % self.schedule.Dr or S % self.schedule.Ds:
            raise StreamError(f"Dr x Ds must divide the kernel {R} x {S}, not {self.schedule.Dr} x {self.schedule.Ds}")

    @property
    def block(self) -> int:
        """Output channels that one field of a stream covers: d, or 1 for raw weights."""
        return self.d or 1

    @property
    def subvector_count(self) -> int:
        """Subvectors of ``block`` weights in the layer."""
        K, C, R, S = self.shape
        return K // self.block * C * R * S

    @property
    def row_writes(self) -> int:
        """Row writes of the weight loader: one for each group of L output channels and each (c, r, s)."""
        K, C, R, S = self.shape
        return -(-K // self.schedule.L) * C * R * S

    @property
    def masked(self) -> bool:
        """Whether the method stores masks."""
        return self.method in ("mvq", "msvq")

    @property
    def bits(self) -> dict[str, int]:
        """Bits that each stream holds for one subvector. A stream of 0 bits (k = 1, or n = m) does not exist."""
        if self.method == "int8":
            return {"weight": self.weight_bits}
        widths = {"index": (self.k - 1).bit_length()}
        if self.masked:
            widths["mask"] = mask_code_bits(self.n, self.m) * (self.d // self.m)
        if self.method in SIGN_SPLIT:
            widths["sign"] = self.d * self.n // self.m
        return {name: bits for name, bits in widths.items() if bits}

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each stream, padding included."""
        fields = self.row_writes * (self.schedule.L // self.block)
        return {
            name: -(-fields * bits // (8 * STREAM_ALIGNMENT)) * STREAM_ALIGNMENT for name, bits in self.bits.items()
        }


def subvector_order(shape: tuple[int, int, int, int], d: int, schedule: Schedule) -> NDArray[np.int64]:
    """All of :func:`hw.layout.row_subvectors` at once.

    Returns
    -------
    int64 ``[row writes, L/d]``
        Canonical subvector numbers, -1 where the output channel does not exist.

    Raises
    ------
    ValueError
        ``d`` does not divide K or L, or ``Dr x Ds`` does not divide the kernel.
    """
    K, C, R, S = shape
    if K % d:
        raise StreamError(f"output channels must be a multiple of d = {d}, not {K}")
    if schedule.L % d:
        raise StreamError(f"L must be a multiple of d = {d}, not {schedule.L}")
    if R % schedule.Dr or S % schedule.Ds:
        raise StreamError(f"Dr x Ds must divide the kernel {R} x {S}, not {schedule.Dr} x {schedule.Ds}")
    blocks, tiles = K // d, schedule.L // d
    # The loops that yield row writes become axes, outermost first. Edges are cut by `exists`, so extensions beyond the
    # layer would only make the axes longer.
    H = min(schedule.H, C)
    groups_k, groups_c = -(-K // schedule.L), -(-C // H)
    A, B = min(schedule.A, groups_k), min(schedule.B, groups_c)
    i, j, r0, s0, ds, dr, b, a, h = np.ogrid[
        0:groups_k:A,
        0:groups_c:B,
        0 : R : schedule.Dr,
        0 : S : schedule.Ds,
        0 : schedule.Ds,
        0 : schedule.Dr,
        :B,
        :A,
        :H,
    ]
    c = (j + b) * H + h
    exists = np.logical_and(i + a < groups_k, c < C)
    position = (r0 + dr) * S + s0 + ds
    first = (i + a) * tiles * C + c
    writes = (first * (R * S) + position)[np.broadcast_to(exists, np.broadcast_shapes(exists.shape, position.shape))]
    order: NDArray[np.int64] = writes[:, None] + np.arange(tiles) * (C * R * S)
    # A number beyond the last subvector belongs to an output channel beyond K.
    order[order >= blocks * C * R * S] = -1
    return order


def layer_streams(layer: CompressedLayer, schedule: Schedule, raw: bool = False) -> dict[str, bytes]:
    """The packed weight streams of a layer, for one schedule.

    Parameters
    ----------
    layer
        Any method.
    schedule
        ``L`` is a multiple of the layer's d.
    raw
        Give the decoded int8 weights of a compressed layer, as the variant ``ews`` takes them.

    Returns
    -------
    dict
        ``index``, ``mask`` and ``sign``, those that the method has, or ``weight``. In the field of a subvector, index
        is the assignment in ceil(log2 k) bits; mask is the ranks of its d/M groups, group 0 lowest; sign is d bits (Q
        for MSVQ), element 0 lowest, 1 for a negative weight; weight is one int8, or the lowest ``weight_bits`` bits of
        one. Fields of absent output channels are zero.

    Raises
    ------
    StreamError
        The schedule does not fit the layer.
    """
    layout = StreamLayout.of(layer, schedule, raw)
    bits = layout.bits
    if not bits:
        return {}
    order = subvector_order(layout.shape, layout.block, schedule)
    absent = order < 0

    def pack(fields: NDArray[Any], width: int) -> bytes:
        ordered = fields[order]
        ordered[absent] = 0
        packed = pack_fields(ordered, width)
        return packed + bytes(-len(packed) % STREAM_ALIGNMENT)

    streams: dict[str, bytes] = {}
    if "weight" in bits:
        fields = layer.integer_weights().reshape(-1).view(np.uint8)
        streams["weight"] = pack(fields & np.uint8((1 << bits["weight"]) - 1), bits["weight"])
    if "index" in bits:
        assert layer.assignments is not None
        streams["index"] = pack(layer.assignments, bits["index"])
    if "mask" in bits:
        assert layer.masks is not None
        ranks = rank_masks(layer.masks.reshape(-1, layer.d // layer.m, layer.m), layer.n)
        streams["mask"] = pack(ranks, mask_code_bits(layer.n, layer.m))
    if "sign" in bits:
        assert layer.signs is not None
        streams["sign"] = pack(layer.signs, 1)
    return streams


def unpack_streams(layout: StreamLayout, streams: Mapping[str, bytes]) -> dict[str, NDArray[Any]]:
    """The parts of a layer that its streams hold: the reverse of :func:`layer_streams`.

    Returns
    -------
    dict
        ``weights``, or ``assignments``, ``masks`` and ``signs`` as the method has them: fields of
        :class:`sw.format.layer.CompressedLayer` with its shapes and dtypes.

    Raises
    ------
    StreamError
        A stream is missing, superfluous or of a wrong length; an index, mask rank or padding is out of range. Lengths
        are checked before anything is allocated.
    """
    bits, sizes = layout.bits, layout.sizes
    for name in streams:
        if name not in bits:
            raise StreamError(f"must not exist for method {layout.method}", name)
    for name, size in sizes.items():
        if name not in streams:
            raise StreamError(f"must exist for method {layout.method}", name)
        if len(streams[name]) != size:
            raise StreamError(f"must have {size} bytes, not {len(streams[name])}", name)

    NG, d = layout.subvector_count, layout.d
    order = subvector_order(layout.shape, layout.block, layout.schedule) if bits else np.empty((0, 0), np.int64)
    present = order >= 0
    numbers = order[present]

    def unpack(name: str, fields: int, dtype: type) -> NDArray[Any]:
        try:
            values = unpack_fields(streams[name], bits[name] // fields, order.size * fields)
        except PackingError as error:
            raise StreamError(str(error), name) from None
        values = values.reshape(*order.shape, fields)
        if values[~present].any():
            raise StreamError("fields of absent output channels must be zero", name)
        canonical: NDArray[Any] = np.empty((NG, fields), dtype)
        canonical[numbers] = values[present]
        return canonical

    if layout.method == "int8":
        unused = 8 - layout.weight_bits
        # Shifted up and down again, the highest bit is the sign.
        raised = (unpack("weight", 1, np.uint8) << unused).view(np.int8)
        return {"weights": (raised >> unused).reshape(layout.shape)}
    parts: dict[str, NDArray[Any]] = {"assignments": np.zeros(NG, np.int32)}
    if "index" in bits:
        parts["assignments"] = unpack("index", 1, np.int32).reshape(NG)
        highest = int(parts["assignments"].max())
        if highest >= layout.k:
            raise StreamError(f"assignments must be in 0..{layout.k - 1}, not {highest}", "index")
    if layout.masked:
        if "mask" in bits:
            ranks = unpack("mask", d // layout.m, np.int64)
            try:
                parts["masks"] = unrank_masks(ranks, layout.n, layout.m).reshape(NG, d)
            except PackingError as error:
                raise StreamError(str(error), "mask") from None
        else:
            parts["masks"] = np.ones((NG, d), np.bool_)
    if "sign" in bits:
        parts["signs"] = unpack("sign", bits["sign"], np.bool_)
    return parts
