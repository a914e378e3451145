"""The registers that the host sees, as data; the Markdown page, the C header and the manifest's part are made from it.

``python -m hw.bus.register_map markdown|header|json`` prints them. Plain Python.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from hw.command_line import Parser, interruptible
from hw.control.counters import COUNTERS
from hw.control.errors import Cause

__all__ = [
    "ADDRESS_BITS",
    "ID",
    "REGISTERS",
    "VERSION",
    "Access",
    "Bits",
    "Register",
    "header",
    "main",
    "manifest",
    "markdown",
]

#: Bits of a register address on AXI4-Lite: the registers have a page of 4 KB.
ADDRESS_BITS = 12

#: Value of ID: ``MSVQ``, first letter in the highest byte.
ID = int.from_bytes(b"MSVQ", "big")

#: Value of VERSION. The upper half changes where a driver or a program must.
VERSION = 1 << 16


class Access(Enum):
    """What the host can do with a register."""

    #: Writes are answered with SLVERR.
    READ = "read"
    #: Keeps what is written.
    WRITE = "read, write"
    #: Bits that are written as 1 act; reads as 0.
    ACT = "write 1 to act"
    #: Bits that are written as 1 become 0.
    CLEAR = "read, write 1 to clear"


@dataclass(frozen=True)
class Bits:
    """Some bits of a register, from ``offset`` on."""

    name: str
    offset: int
    width: int
    meaning: str


@dataclass(frozen=True)
class Register:
    """A register of 32 bits."""

    #: In upper case.
    name: str
    #: Byte address, a multiple of 4.
    offset: int
    #: What the host can do.
    access: Access
    #: For the documents.
    meaning: str
    #: Its bits, where they have names; others read as 0.
    fields: tuple[Bits, ...] = ()
    #: Value after reset.
    reset: int = 0


_INTERRUPTS = (
    Bits("done", 0, 1, "a program has ended at its END"),
    Bits("failed", 1, 1, "a program has ended early"),
    Bits("refused", 2, 1, "CONTROL.start was written while a program was running"),
)

REGISTERS: tuple[Register, ...] = (
    Register("ID", 0x00, Access.READ, '"MSVQ", first letter in the highest byte', reset=ID),
    Register("VERSION", 0x04, Access.READ, "version of registers and descriptors", reset=VERSION),
    Register(
        "CONTROL",
        0x08,
        Access.ACT,
        "the doorbell",
        (
            Bits("start", 0, 1, "run the program at PROGRAM; while one is running, set INTERRUPT.refused and ERROR"),
            Bits("abort", 1, 1, "end the running program; wins over start"),
        ),
    ),
    Register(
        "STATUS",
        0x0C,
        Access.READ,
        "what became of the program",
        (
            Bits("busy", 0, 1, "it is running"),
            Bits("done", 1, 1, "it has ended at its END"),
            Bits("failed", 2, 1, "it has ended early, for the cause in ERROR"),
        ),
    ),
    Register("INTERRUPT", 0x10, Access.CLEAR, "what has happened", _INTERRUPTS),
    Register("INTERRUPT_ENABLE", 0x14, Access.WRITE, "which of it raises the interrupt", _INTERRUPTS),
    Register(
        "ERROR",
        0x18,
        Access.READ,
        "cause of the last error since the last start",
        (Bits("cause", 0, 8, "one of the causes"),),
    ),
    Register("ERROR_DESCRIPTOR", 0x1C, Access.READ, "number of the descriptor at which the program failed, from 0 on"),
    Register("PROGRAM_LOW", 0x20, Access.WRITE, "DRAM byte address of the program, a multiple of 64; lower half"),
    Register("PROGRAM_HIGH", 0x24, Access.WRITE, "upper half; address bits that the instance lacks stay 0"),
    Register("DESCRIPTORS", 0x28, Access.READ, "descriptors of the program given out so far"),
    Register("PROGRAM_DESCRIPTORS", 0x2C, Access.WRITE, "descriptors of the program, END included"),
    *(
        Register(f"COUNTER_{name.upper()}", 0x40 + 4 * number, Access.READ, meaning)
        for number, (name, meaning) in enumerate(COUNTERS.items())
    ),
)

CAUSES: Mapping[Cause, str] = {
    Cause.NONE: "no error since the last start",
    Cause.READ_RESPONSE: "the bus answered a read with SLVERR or DECERR",
    Cause.WRITE_RESPONSE: "the bus answered a write with SLVERR or DECERR",
    Cause.ILLEGAL_DESCRIPTOR: "unknown opcode, or a field that the instance cannot carry out",
    Cause.CHECKSUM: "fetched words do not have the CRC-32 of their descriptor",
    Cause.ABORTED: "CONTROL.abort",
    Cause.DOORBELL_WHILE_BUSY: "CONTROL.start while a program was running, which goes on",
}


#: Of the page, as far as the table of registers.
_INTRODUCTION = """\
# Registers

AXI4-Lite, 32 bit, little-endian. Made by `python -m hw.bus.register_map markdown`; `header` makes the C
header, and the manifest of a generated instance has the same under `registers`.

Accesses to other addresses, and writes to registers that can only be read, are answered with SLVERR and
change nothing. The two lowest address bits do not count.

| offset | register | access | reset | meaning |
|---|---|---|---|---|"""

#: The page's end.
_RUNNING = """
## Running a program

1. Write the program's address to PROGRAM_LOW and PROGRAM_HIGH, its length to PROGRAM_DESCRIPTORS, and
   INTERRUPT_ENABLE.
2. Write CONTROL.start. STATUS.done, STATUS.failed, ERROR, ERROR_DESCRIPTOR, DESCRIPTORS and the counters
   start anew.
3. At the interrupt, read STATUS, and ERROR where it has failed; write the bits of INTERRUPT back to clear
   them.

The interrupt output is high while a bit of INTERRUPT is 1 that is also 1 in INTERRUPT_ENABLE."""


def markdown() -> str:
    """The page ``docs/registers.md``."""
    return "\n".join(_markdown()) + "\n"


def _markdown() -> Iterator[str]:
    yield _INTRODUCTION
    for register in REGISTERS:
        yield (
            f"| 0x{register.offset:02X} | {register.name} | {register.access.value} | 0x{register.reset:X} "
            f"| {register.meaning} |"
        )
    yield from ("", "## Fields", "", "| register | field | bits | meaning |", "|---|---|---|---|")
    for register in REGISTERS:
        for field in register.fields:
            top = field.offset + field.width - 1
            bits = f"{top}:{field.offset}" if field.width > 1 else f"{top}"
            yield f"| {register.name} | {field.name} | {bits} | {field.meaning} |"
    yield from ("", "## Causes in ERROR", "", "| code | cause | meaning |", "|---|---|---|")
    for cause, meaning in CAUSES.items():
        yield f"| {cause.value} | {cause.name} | {meaning} |"
    yield _RUNNING


def header() -> str:
    """A C header with offsets, masks, and values."""
    return "\n".join(_header()) + "\n"


def _header() -> Iterator[str]:
    yield from (
        "/* Registers of the accelerator: byte offsets, masks, values. From python -m hw.bus.register_map header. */",
        "#ifndef MSVQ_REGISTERS_H",
        "#define MSVQ_REGISTERS_H",
    )
    for register in REGISTERS:
        yield from ("", f"/* {register.access.value}: {register.meaning} */")
        yield f"#define MSVQ_{register.name} 0x{register.offset:02X}u"
        if register.reset:
            yield f"#define MSVQ_{register.name}_VALUE 0x{register.reset:X}u"
        for field in register.fields:
            name = f"MSVQ_{register.name}_{field.name.upper()}"
            mask = (1 << field.width) - 1 << field.offset
            yield f"#define {name} 0x{mask:X}u /* {field.meaning} */"
    yield ""
    for cause, meaning in CAUSES.items():
        yield f"#define MSVQ_CAUSE_{cause.name} {cause.value}u /* {meaning} */"
    yield from ("", "#endif")


def manifest() -> dict[str, Any]:
    """The part ``registers`` of a manifest."""
    return {
        "address_bits": ADDRESS_BITS,
        "registers": [
            {
                "name": register.name,
                "offset": register.offset,
                "access": register.access.value,
                "reset": register.reset,
                "meaning": register.meaning,
                "fields": [vars(field) for field in register.fields],
            }
            for register in REGISTERS
        ],
        "causes": {cause.name: cause.value for cause in CAUSES},
    }


@interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code."""
    parser = Parser(prog="python -m hw.bus.register_map", description=__doc__)
    forms = {"markdown": markdown, "header": header, "json": lambda: json.dumps(manifest(), indent=2) + "\n"}
    parser.add_argument("form", choices=forms)
    print(forms[parser.parse_args(arguments).form](), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
