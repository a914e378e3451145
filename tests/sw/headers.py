"""Files with other headers than they were written with, by the layout of docs/format.md and docs/program.md."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from sw.program import ProgramError


def rewritten(path: Path, change: Callable[[dict[str, Any]], object], version: int = 1) -> None:
    """Change the header of a file, whose checksum is right again; what is around it stays."""
    data = path.read_bytes()
    (length,) = struct.unpack_from("<I", data, 12)
    header = json.loads(data[16 : 16 + length])
    change(header)
    text = json.dumps(header).encode()
    prefix = data[:8] + struct.pack("<II", version, len(text)) + text
    path.write_bytes(prefix + struct.pack("<I", zlib.crc32(prefix)) + data[20 + length :])


def check_lengths(path: Path, lengths: Iterable[int], read: Callable[[Path], object], place: str) -> None:
    """A program's file cut to any of the lengths is refused, and so is one that goes on by a byte, in that place."""
    data = path.read_bytes()
    for length in lengths:
        path.write_bytes(data[:length])
        with pytest.raises(ProgramError, match=r"truncated|magic: the file must begin with"):
            read(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(ProgramError, match=f"{place}: the file is too long"):
        read(path)
