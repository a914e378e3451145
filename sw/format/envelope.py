"""What all files of the project begin with: magic, version, and a header of JSON with its checksum.

All numbers are little-endian: magic (8 bytes), version and length n of the header (4 each), header (n bytes of JSON),
CRC-32 of all that (4). The bytes behind it are the format's own.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol

from sw.format.strict_json import parse_json

__all__ = ["CHECKSUM", "MAGICS", "PREFIX", "Envelope", "kind_of"]

#: The first 8 bytes of each kind of file. As in PNG, a byte above 127, both kinds of line end and an end-of-file mark
#: show a transfer that changed the bytes.
MAGICS = {
    "container": b"\x89MVQ\r\n\x1a\n",
    "program": b"\x89EWS\r\n\x1a\n",
    "network in steps": b"\x89EWN\r\n\x1a\n",
}

#: How a checkpoint of PyTorch, an ``.npz`` and other archives begin.
_ZIP = b"PK\x03\x04"

PREFIX = struct.Struct("<8sII")
#: CRC-32, also of the parts behind the header.
CHECKSUM = struct.Struct("<I")


def kind_of(data: bytes) -> str | None:
    """The kind of file that begins so, a key of :data:`MAGICS`, by the 4 bytes that no transfer changes; or None."""
    return next((kind for kind, magic in MAGICS.items() if data[:4] == magic[:4]), None)


class _Fault(Protocol):
    """The class of a format's errors: section and message."""

    def __call__(self, section: str, message: str, /) -> Exception: ...


@dataclass(frozen=True)
class Envelope:
    """The beginning of one format's files.

    Attributes
    ----------
    magic
        The first 8 bytes.
    newest
        Versions 1 to this one are read.
    error
        What is raised, of the section at fault and a message.
    required, optional
        Keys of the header's object: these, and no others.
    """

    magic: bytes
    newest: int
    error: _Fault
    required: Collection[str]
    optional: Collection[str] = ()

    def pack(self, header: bytes, version: int) -> bytes:
        """The bytes of the magic, the version, a header of JSON and their checksum."""
        prefix = PREFIX.pack(self.magic, version, len(header)) + header
        return prefix + CHECKSUM.pack(zlib.crc32(prefix))

    def unpack(self, data: bytes) -> tuple[int, dict[str, Any], int]:
        """The version, the header, and the offset of the first byte behind its checksum.

        Raises
        ------
        Exception
            ``error``: the magic, the version or the checksum is another, the bytes end too early, or the header is no
            object of JSON with such keys.
        """
        if data[: len(self.magic)] != self.magic:
            why = f"the file must begin with {self.magic!r}, not {data[: len(self.magic)]!r}"
            if data.startswith(_ZIP):
                why += (
                    ", as checkpoints of PyTorch and .npz do: msvq calibrate, finetune and compress make containers,"
                    " msvq compile makes programs of them"
                )
            raise self.error("magic", why)
        if len(data) < PREFIX.size:
            raise self.error("header", f"the file is truncated: {len(data)} bytes of at least {PREFIX.size}")
        _, version, length = PREFIX.unpack_from(data)
        if not 1 <= version <= self.newest:
            wanted = f"in 1..{self.newest}" if self.newest > 1 else "1"
            raise self.error("version", f"must be {wanted}, not {version}")
        end = PREFIX.size + length
        start: int = end + CHECKSUM.size
        if len(data) < start:
            raise self.error("header", f"the file is truncated: {len(data)} bytes of at least {start}")
        if zlib.crc32(data[:end]) != CHECKSUM.unpack_from(data, end)[0]:
            raise self.error("header", "checksum mismatch, the bytes are corrupted")
        try:
            header = parse_json(data[PREFIX.size : end])
        except ValueError as error:
            raise self.error("header", f"must be JSON: {error}") from None
        if type(header) is not dict or not set(self.required) <= header.keys() <= {*self.required, *self.optional}:
            raise self.error("header", f"must be an object of {', '.join([*self.required, *self.optional])}")
        return version, header, start
