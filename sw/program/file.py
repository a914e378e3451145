"""The file of a program.

All numbers are little-endian: magic (8 bytes), version and length n of the header (4 each), header (n bytes of JSON),
CRC-32 of all that (4), the image, CRC-32 of the image (4).
"""

from __future__ import annotations

import dataclasses
import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hw.config import AcceleratorConfig, ConfigError
from sw.format.envelope import CHECKSUM, MAGICS, Envelope, kind_of
from sw.format.output import write_atomically
from sw.program.checks import MAX_DRAM_BYTES, ProgramError, check_integer
from sw.program.image import Program, ProgramLayer
from sw.program.operands import Operand
from sw.program.tensors import Fold, Input, Tensor

__all__ = ["MAGIC", "VERSION", "program_bytes", "program_from_bytes", "read_program", "write_program"]

MAGIC = MAGICS["program"]
VERSION = 1

#: Fields of an instance that files of this version did not have at first.
_LATER = ("vector_unit_functions", "psum_register", "scaler_register", "transfer_register")

_KEYS = (
    "config", "image_bytes", "base", "descriptors", "descriptor_count", "dram_bytes", "inputs", "outputs", "layers",
    "metadata",
)  # fmt: skip
_ENVELOPE = Envelope(MAGIC, VERSION, ProgramError, required=_KEYS, optional=("operands",))


def _plain(value: object) -> Any:
    """A dataclass as plain JSON, without what has its default."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if not dataclasses.is_dataclass(value):
        return value
    given = {entry.name: (getattr(value, entry.name), entry.default) for entry in dataclasses.fields(value)}
    return {name: _plain(own) for name, (own, default) in given.items() if own != default}


def _config(config: AcceleratorConfig) -> dict[str, Any]:
    """The instance. What came after the first files is left out where it has its default: they stay as they are."""
    defaults = AcceleratorConfig().to_dict()
    return {name: own for name, own in config.to_dict().items() if name not in _LATER or own != defaults[name]}


def program_bytes(program: Program) -> bytes:
    """The file of a program. The same program gives the same bytes.

    Raises
    ------
    ProgramError
        The metadata are not plain JSON.
    """
    header: dict[str, Any] = {
        "config": _config(program.config),
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
    return _ENVELOPE.pack(text, VERSION) + program.image + CHECKSUM.pack(zlib.crc32(program.image))


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
    if kind_of(data) == "container":
        raise ProgramError("magic", "the file is a container, and a program is needed: msvq compile makes it of that")
    _, header, start = _ENVELOPE.unpack(data)
    size = header["image_bytes"]
    check_integer("header", "image_bytes", size, 0, MAX_DRAM_BYTES)
    wanted = start + size + CHECKSUM.size
    if len(data) != wanted:
        fault = "truncated" if len(data) < wanted else "too long"
        raise ProgramError("image", f"the file is {fault}: {len(data)} bytes, not {wanted}")
    image = data[start : start + size]
    if zlib.crc32(image) != CHECKSUM.unpack_from(data, start + size)[0]:
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
