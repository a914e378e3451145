"""A program: everything that the accelerator needs to run a network.

The bytes of a program lie in DRAM from ``base`` on: descriptors, packed streams, requantisation parameters. Behind them
is room for the inputs, the outputs and the records of the counters. The host writes the image once and an input before
each run, rings the doorbell, and reads the outputs.

Weights that come with each run, such as the second factor of a product of activations, lie in the image as zeros:
:meth:`Program.with_operands` puts them in their place, packed, with the checksums of the FETCHes that read them.
"""

from __future__ import annotations

import dataclasses
import struct
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.config import AcceleratorConfig
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
from sw.program.checks import MAX_DRAM_BYTES, ProgramError, check_integer, check_text
from sw.program.operands import Operand
from sw.program.tensors import Input, Tensor

__all__ = ["COUNTED", "Program", "ProgramLayer"]

#: Whose commands each of :data:`hw.control.descriptor.EVENTS` counts. RECORDs are the store unit's, and count too.
COUNTED: Mapping[str, Opcode] = {
    "loaded": Opcode.LOAD,
    "copied": Opcode.COPY,
    "fed": Opcode.TILE,
    "stored": Opcode.OUTPUT,
    "vectored": Opcode.VECTOR,
    "written": Opcode.STORE,
}

_CHECKSUM = struct.Struct("<I")


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
        check_text("layer", "name", self.name)
        section = f"layer {self.name!r}"
        check_text(section, "operation", self.operation)
        check_text(section, "note", self.note, empty=True)
        check_integer(section, "macs", self.macs, 0, (1 << 63) - 1)
        if self.record is not None:
            check_integer(section, "record", self.record, 0, (1 << 64) - 1)


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
        check_integer(section, "dram_bytes", self.dram_bytes, BYTES, MAX_DRAM_BYTES)
        last = (1 << self.config.address_bits) - self.dram_bytes
        if last < 0:
            given = f"{self.dram_bytes} with address_bits = {self.config.address_bits}"
            raise ProgramError(section, f"dram_bytes must be at most 2**address_bits, not {given}")
        check_integer(section, "base", self.base, 0, last)
        for name in ("base", "dram_bytes"):
            if getattr(self, name) % BYTES:
                raise ProgramError(section, f"{name} must be a multiple of {BYTES}, not {getattr(self, name)}")
        if len(self.image) > self.dram_bytes:
            raise ProgramError(section, f"image must have at most {self.dram_bytes} bytes, not {len(self.image)}")
        check_integer(section, "descriptor_count", self.descriptor_count, 1, (1 << 32) - 1)
        end = self.base + len(self.image)
        check_integer(section, "descriptors", self.descriptors, self.base, end - BYTES * self.descriptor_count)
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
            check_integer(f"operand {operand.name!r}", "address", operand.address, self.base, end - operand.size)

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
