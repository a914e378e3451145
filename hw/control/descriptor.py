"""Descriptors: what the sequencer reads from DRAM and hands to the units of the accelerator. Plain Python.

A descriptor is 64 bytes, little-endian: a head that all have, and a body by opcode. This table is the only source of
the bit positions: the compiler packs by it, the golden model and the listing unpack by it, and the sequencer takes its
layouts from it.

Every unit runs its descriptors in the order of the program; units run beside one another. Order between units is made
by *events*: counters of what has been completed since the program began, modulo 2**16. A descriptor is not begun before
each event has reached the count in its head. Counts compare modulo 2**16, so a wait must not lie further back than
:data:`WAIT_REACH` events; a wait for a command that was not given out before is illegal.

What is legal in an instance: :func:`hw.control.bodies.field_ranges`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache
from typing import Any

from hw.command_line import Parser, interruptible

__all__ = [
    "BODIES",
    "BYTES",
    "EVENTS",
    "HEAD",
    "QUEUE_DEPTHS",
    "TABLE_BYTES",
    "WAIT_REACH",
    "Channel",
    "Descriptor",
    "DescriptorError",
    "Field",
    "Opcode",
    "VectorOp",
    "body_offsets",
    "head_offsets",
    "markdown",
]

#: Bytes of a descriptor.
BYTES = 64

#: Bytes of the vector unit's table: an entry for each int8, those of -128..-1 last.
TABLE_BYTES = 256

#: What the opcodes do, for the documentation.
SUMMARIES: Mapping[str, str] = {
    "FETCH": "DRAM words to a packed stream of the weight loader, or to the requantiser's parameters. Its waits are not"
    " looked at.",
    "LOAD": "DRAM to L2.",
    "COPY": "A region of a tensor from L2 to L1, with zero padding (ifmap loader).",
    "TILE": "One layer tile (MVQ figure 7): weight loader, array, activation reader and psum buffer. Its waits hold"
    " back the activation reader alone; weights load at once.",
    "OUTPUT": "Where and how the sums of one group of output channels go (requantiser, ofmap storer). It counts from"
    " its last TILE on.",
    "VECTOR": "Pooling and addition, L2 to L2 (vector unit). With `vector_unit_functions=full` also products, channels"
    " that move, upsampling, and a table; elsewhere the fields from `a_skip` on are not looked at.",
    "STORE": "L2 to DRAM.",
    "RECORD": "The performance counters to DRAM.",
    "END": "End of the program: interrupt once all units are idle.",
}

#: A wait for an event that lies at most this many events of its kind in the past is safe.
WAIT_REACH = 1 << 14


class DescriptorError(ValueError):
    """A descriptor that does not exist or a field out of range. The message names it and the allowed range."""


class Opcode(IntEnum):
    """What a descriptor does; :data:`SUMMARIES` says more."""

    FETCH = 1
    LOAD = 2
    COPY = 3
    TILE = 4
    OUTPUT = 5
    VECTOR = 6
    STORE = 7
    RECORD = 8
    END = 9


#: Commands that can wait for each unit: at the next one the sequencer waits. The least that cost no cycles on the
#: networks of sim.networks: where a layer ends, its OUTPUT, STORE and RECORD wait while the TILEs of the next one must
#: go on.
QUEUE_DEPTHS: Mapping[Opcode, int] = {
    Opcode.LOAD: 5,
    Opcode.COPY: 5,
    Opcode.TILE: 4,
    Opcode.OUTPUT: 3,
    Opcode.VECTOR: 5,
    Opcode.STORE: 4,
}


class Channel(IntEnum):
    """Streams that FETCH feeds."""

    #: Codebook words, then index words; or raw weights.
    WEIGHT = 0
    #: Mask ranks.
    MASK = 1
    #: Sign bits.
    SIGN = 2
    #: Requantisation parameters.
    PARAMETER = 3


class VectorOp(IntEnum):
    """What VECTOR computes. Those from MULTIPLY on, where ``vector_unit_functions`` is ``full``."""

    #: Largest of the window; padding never wins.
    MAXIMUM = 0
    #: Sum of the window, requantised by ``multiplier_a`` and ``shift``.
    SUM = 1
    #: ``a * multiplier_a + b * multiplier_b``, shifted; the window is 1 x 1.
    ADD = 2
    #: ``a * b * multiplier_a``, shifted; the window is 1 x 1.
    MULTIPLY = 3
    #: Bytes of a and b, turned by ``rotation``: see there. The window is 1 x ``kernel_columns``, 1 or 2: a or both.
    MERGE = 4
    #: 256 bytes from ``a_base`` on, a pixel, are the table from now on; window and result are 1 x 1.
    TABLE = 5


@dataclass(frozen=True)
class Field:
    """A field of a descriptor."""

    #: Of the field.
    name: str
    #: Its width.
    bits: int
    #: For the documentation.
    meaning: str
    #: Two's complement.
    signed: bool = False

    @property
    def range(self) -> tuple[int, int]:
        """Smallest and largest value."""
        half = 1 << (self.bits - 1)
        return (-half, half - 1) if self.signed else (0, 2 * half - 1)


#: Events in the order of the head's waits, and what counts them.
EVENTS: Mapping[str, str] = {
    "loaded": "LOADs whose last word is in L2",
    "copied": "COPYs whose last vector is in L1",
    "fed": "TILEs whose last activation vector has left L1",
    "stored": "OUTPUTs whose last word is in L2",
    "vectored": "VECTORs whose last word is in L2",
    "written": "STOREs and RECORDs whose last word is in DRAM",
}

HEAD = (
    Field("opcode", 8, "one of the opcodes"),
    Field("layer", 24, "number of the layer, for the listing and for RECORD; no other effect"),
    *(Field(f"wait_{event}", 16, f"count of {what} to wait for") for event, what in EVENTS.items()),
)

BODIES: Mapping[Opcode, tuple[Field, ...]] = {
    Opcode.FETCH: (
        Field("address", 64, "DRAM byte address, a multiple of the word's bytes"),
        Field("words", 32, "words to fetch, at least 1"),
        Field("checksum", 32, "CRC-32 (ISO-HDLC) of the fetched bytes"),
        Field("channel", 8, "stream that takes them"),
    ),
    Opcode.LOAD: (
        Field("address", 64, "DRAM byte address, a multiple of the bytes of an L2 word and of a DRAM word"),
        Field("l2_base", 32, "first L2 word"),
        Field("words", 32, "L2 words, at least 1"),
    ),
    Opcode.COPY: (
        Field("l2_base", 32, "L2 word of row 0, column 0, channel word 0 of the tensor"),
        Field("rows", 16, "rows of the tensor"),
        Field("columns", 16, "columns of the tensor"),
        Field("row_words", 32, "L2 words from one row to the next, modulo the addresses"),
        Field("pixel_words", 16, "from one column to the next, modulo the addresses"),
        Field("first_row", 16, "first row of the region, may lie in the padding", signed=True),
        Field("first_column", 16, "first column of the region", signed=True),
        Field("height", 16, "rows of the region, 1..L1 vectors"),
        Field("width", 16, "columns of the region, 1..L1 vectors"),
        Field("first_word", 16, "first channel word in a pixel"),
        Field("channel_words", 16, "channel words in a pixel from first_word on; what a vector needs beyond them is 0"),
        Field("groups", 16, "vectors of H channels a pixel, 1..L1 vectors"),
        Field("l1_base", 32, "first L1 vector; they follow by row, column, group"),
    ),
    Opcode.TILE: (
        Field("A", 8, "extension along output channels"),
        Field("B", 8, "extension along input channels, times passes"),
        Field("D", 8, "kernel positions, Dr * Ds"),
        Field("Dr", 8, "kernel rows"),
        Field("rows", 16, "array rows with an input channel in the last row group"),
        Field("width", 16, "output positions in a row"),
        Field("height", 16, "output rows"),
        Field("codewords", 16, "codewords to load first; 0 keeps the codebook"),
        Field("advance_columns", 8, "kernel columns that a position no longer needs, 1..Ds"),
        Field("passes", 8, "times that each activation vector is sent: M/N for raw weights on sparse tiles, else 1"),
        Field("start", 1, "the packed streams start with a new word"),
        Field("raw", 1, "weights, or a digit of each, from the weight channel instead of codewords"),
        Field("accumulate", 1, "add the sums in the psum buffer"),
        Field("last", 1, "sums go to the OUTPUT whose turn it is, not to the psum buffer"),
        Field("shift", 1, "those sums are of the digits above: times 2**digit_bits; not where weights have 8 bits"),
        Field("reserved_tile", 3, "0"),
        Field("psum_base", 24, "first entry of the psum buffer; vectors follow by position, s < A"),
        Field("l1_base", 32, "L1 vector of output position 0, kernel position 0, group 0"),
        Field("line_pitch", 24, "L1 vectors from one output row to the next; all pitches count modulo the addresses"),
        Field("position_pitch", 24, "from one output position to the next"),
        Field("dr_pitch", 24, "from one kernel row to the next"),
        Field("ds_pitch", 24, "from one kernel column to the next"),
        Field("b_pitch", 24, "from one row group to the next"),
    ),
    Opcode.OUTPUT: (
        Field("l2_base", 32, "L2 word of output row 0, column 0, s = 0"),
        Field("line_words", 32, "L2 words from one output row to the next, modulo the addresses"),
        Field("position_words", 16, "from one output position to the next, modulo the addresses"),
        Field("A", 8, "vectors of L channels a position; they lie next to each other"),
        Field("low", 8, "least output", signed=True),
        Field("high", 8, "greatest output", signed=True),
        Field("width", 16, "output positions in a row"),
        Field("height", 16, "output rows"),
        Field("channels", 16, "output channels that exist; lanes beyond them are stored as 0"),
        Field("parameters", 1, "take channels of parameters, filled up to A * L, from the parameter channel first"),
        Field("wide", 1, "store sum + bias as int32, without multiplying, shifting or clamping"),
        Field("reserved_output", 6, "0"),
    ),
    Opcode.VECTOR: (
        Field("operation", 8, "one of the vector operations"),
        Field("kernel_rows", 8, "window"),
        Field("kernel_columns", 8, "window"),
        Field("stride_rows", 8, "from one output row to the next"),
        Field("stride_columns", 8, "from one output column to the next"),
        Field("padding_rows", 8, "above the first row"),
        Field("padding_columns", 8, "left of the first column"),
        Field("shift", 8, "right shift, 0..62; of ADD 0..31"),
        Field("a_base", 32, "L2 word of the first tensor"),
        Field("b_base", 32, "L2 word of the second tensor (ADD)"),
        Field("l2_base", 32, "L2 word of the result"),
        Field("rows", 16, "rows of the source tensors"),
        Field("columns", 16, "columns of the source tensors"),
        Field("height", 16, "rows of the result"),
        Field("width", 16, "columns of the result"),
        Field("pixel_words", 16, "L2 words a pixel, of all tensors"),
        Field("low", 8, "least output", signed=True),
        Field("high", 8, "greatest output", signed=True),
        Field("multiplier_a", 32, "for SUM, MULTIPLY, and of the first tensor for ADD (below 2**22)", signed=True),
        Field("multiplier_b", 32, "of the second tensor (below 2**22)", signed=True),
        Field("a_skip", 16, "L2 words of the first tensor between a pixel's `pixel_words` and the next", signed=True),
        Field("b_skip", 16, "of the second tensor; -`pixel_words` takes one pixel for all", signed=True),
        Field("l2_skip", 16, "of the result", signed=True),
        Field("rotation", 6, "of MERGE: byte i is byte i - rotation of a word; those of b from byte `rotation` on"),
        Field("tail", 6, "bytes that stay of a result's last word in each pixel, the others become 0; 0 for all"),
        Field("rotate_a", 1, "of MERGE: words of a are turned, too"),
        Field("upsample", 2, "each source row and column twice (1), or once, then zeros (2); the window is 1 x 1"),
        Field("lookup", 1, "each result x is replaced by the table's entry x mod 256"),
    ),
    Opcode.STORE: (
        Field("address", 64, "DRAM byte address, a multiple of the bytes of an L2 word and of a DRAM word"),
        Field("l2_base", 32, "first L2 word"),
        Field("words", 32, "L2 words, at least 1"),
    ),
    Opcode.RECORD: (Field("address", 64, "DRAM byte address of 64 bytes, a multiple of 64"),),
    Opcode.END: (),
}


def _offsets(fields: tuple[Field, ...], start: int) -> dict[str, tuple[int, Field]]:
    table: dict[str, tuple[int, Field]] = {}
    for entry in fields:
        table[entry.name] = (start, entry)
        start += entry.bits
    return table


def head_offsets() -> dict[str, tuple[int, Field]]:
    """Bit offset and field of everything in the head, by name."""
    return _offsets(HEAD, 0)


def body_offsets(opcode: Opcode) -> dict[str, tuple[int, Field]]:
    """Bit offset, from the start of the descriptor, and field of everything in a body, by name."""
    return _offsets(BODIES[opcode], sum(entry.bits for entry in HEAD))


@cache
def _places(opcode: Opcode) -> dict[str, tuple[int, int, int, int]]:
    """Bit offset, mask, smallest and largest value of all fields by name: a network has tens of thousands of them."""
    table = head_offsets() | body_offsets(opcode)
    return {name: (offset, (1 << entry.bits) - 1, *entry.range) for name, (offset, entry) in table.items()}


@dataclass(frozen=True)
class Descriptor:
    """One descriptor.

    Raises
    ------
    DescriptorError
        A field is unknown or out of range.
    """

    #: What it does.
    opcode: Opcode
    #: The fields of the opcode's body; those that are absent are 0.
    body: Mapping[str, int] = field(default_factory=dict)
    #: Number of the layer.
    layer: int = 0
    #: Counts of :data:`EVENTS` to wait for, modulo 2**16; those that are absent are those of a program's start, 0.
    waits: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        places = _places(self.opcode)
        for name, value in self._values().items():
            if name not in places:
                known = ", ".join(body_offsets(self.opcode))
                raise DescriptorError(f"{self.opcode.name} has no field {name!r}; its fields are {known}")
            _, _, low, high = places[name]
            if type(value) is not int or not low <= value <= high:
                raise DescriptorError(f"{self.opcode.name}: {name} must be in {low}..{high}, not {value!r}")

    def _values(self) -> dict[str, Any]:
        waits = {f"wait_{event}": count for event, count in self.waits.items()}
        return {"opcode": int(self.opcode), "layer": self.layer, **waits, **self.body}

    def pack(self) -> bytes:
        """The 64 bytes."""
        places = _places(self.opcode)
        bits = 0
        for name, value in self._values().items():
            offset, mask, _, _ = places[name]
            bits |= (value & mask) << offset
        return bits.to_bytes(BYTES, "little")

    @classmethod
    def unpack(cls, data: bytes) -> Descriptor:
        """The reverse of :meth:`pack`; all fields of the body are present.

        Raises
        ------
        DescriptorError
            There are not 64 bytes, or the opcode is unknown.
        """
        if len(data) != BYTES:
            raise DescriptorError(f"a descriptor must have {BYTES} bytes, not {len(data)}")
        bits = int.from_bytes(data, "little")

        number = data[0]  # the head begins with it
        if number not in list(Opcode):
            raise DescriptorError(f"opcode must be in {min(Opcode)}..{max(Opcode)}, not {number}")
        opcode = Opcode(number)
        values = {}
        for name, (offset, mask, _, high) in _places(opcode).items():
            found = bits >> offset & mask
            values[name] = found if found <= high else found - mask - 1
        waits = {event: values.pop(f"wait_{event}") for event in EVENTS}
        del values["opcode"]
        return cls(opcode, values, values.pop("layer"), waits)


def markdown() -> str:
    """The page ``docs/descriptors.md``: ``python -m hw.control.descriptor``."""
    lines = [
        "# Descriptors",
        "",
        f"A program is a list of descriptors of {BYTES} bytes in DRAM, little-endian; bit 0 is the lowest bit of the",
        "first byte. Made by `python -m hw.control.descriptor`. Fields that an opcode does not name are 0. What",
        "values an instance takes, `hw.control.bodies.field_ranges` says; others end the program with",
        "`ILLEGAL_DESCRIPTOR`, and so does a wait for a command that was not given out before.",
        "",
        "## Head",
        "",
        *_table(head_offsets()),
    ]
    for opcode in Opcode:
        lines += ["", f"## {opcode.name} ({opcode.value})", "", SUMMARIES[opcode.name]]
        if BODIES[opcode]:
            lines += ["", *_table(body_offsets(opcode))]
    for title, numbers in (("Channels of FETCH", Channel), ("Operations of VECTOR", VectorOp)):
        lines += ["", f"## {title}", "", "| number | name |", "|--:|---|"]
        lines += [f"| {number.value} | {number.name.lower()} |" for number in numbers]
    return "\n".join(lines) + "\n"


def _table(table: Mapping[str, tuple[int, Field]]) -> list[str]:
    lines = ["| bits | field | meaning |", "|---|---|---|"]
    for name, (offset, entry) in table.items():
        signed = "; signed" if entry.signed else ""
        lines.append(f"| {offset + entry.bits - 1}:{offset} | `{name}` | {entry.meaning}{signed} |")
    return lines


@interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: docs/descriptors.md. Returns the exit code."""
    Parser(prog="python -m hw.control.descriptor", description="Print docs/descriptors.md.").parse_args(arguments)
    print(markdown(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
