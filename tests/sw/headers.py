"""Files with other headers than they were written with, by the layout of docs/format.md and docs/program.md."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any


def rewritten(path: Path, change: Callable[[dict[str, Any]], object], version: int = 1) -> None:
    """Change the header of a file, whose checksum is right again; what is around it stays."""
    data = path.read_bytes()
    (length,) = struct.unpack_from("<I", data, 12)
    header = json.loads(data[16 : 16 + length])
    change(header)
    text = json.dumps(header).encode()
    prefix = data[:8] + struct.pack("<II", version, len(text)) + text
    path.write_bytes(prefix + struct.pack("<I", zlib.crc32(prefix)) + data[20 + length :])
