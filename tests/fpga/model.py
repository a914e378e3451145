"""The board's side of the UART's protocol, written down once more from the words of :mod:`hw.boards.protocol`."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

__all__ = ["BoardModel", "check"]

#: 32 bits, in which sums wrap.
_WRAP = 0xFFFFFFFF


def check(words: tuple[int, ...] = (), data: bytes = b"") -> bytes:
    """Fletcher's check word, as closed sums: the last value counts once, the one before it twice, and so on."""
    values = [*words, *data]
    total = sum(value * (len(values) - at) for at, value in enumerate(values))
    return struct.pack("<I", total & _WRAP)


@dataclass
class BoardModel:
    """A board whose accelerator is never started.

    Attributes
    ----------
    memory
        Its memory.
    told
        What INFORM answers behind the bytes of the memory: ID, VERSION, configuration.
    """

    memory: bytearray
    told: tuple[int, int, int]
    written: list[tuple[int, int]] = field(default_factory=list)

    def _inside(self, address: int, count: int) -> bool:
        return 0 < count < 1 << 31 and address < 1 << 31 and address + count <= len(self.memory)

    def answer(self, sent: bytes) -> bytes:
        """What comes back to one request, after which the line is silent."""
        letter, rest = sent[:1], sent[1:]
        if letter == b"I":
            words: tuple[int, ...] = ()
        elif letter in (b"W", b"R"):
            if len(rest) < 8:
                return b"N"
            words = struct.unpack("<II", rest[:8])
            rest = rest[8:]
        else:
            return b"E"
        data = b""
        if letter == b"W":
            address, count = words
            if not self._inside(address, count):
                return b"E"
            data, rest = rest[:count], rest[count:]
            self.memory[address : address + len(data)] = data
            self.written.append((address, len(data)))
            if len(data) < count:
                return b"N"
        if rest[:4] != check(words, data):
            return b"N"
        if letter == b"I":
            numbers = (len(self.memory), *self.told)
            return b"K" + struct.pack("<4I", *numbers) + check(numbers)
        if letter == b"W":
            return b"K" + check()
        address, count = words
        if not self._inside(address, count):
            return b"E"
        content = bytes(self.memory[address : address + count])
        return b"K" + content + check((), content)
