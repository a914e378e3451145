"""The compressed container: one file that holds a network's compressed layers. Byte by byte: ``docs/format.md``."""

from __future__ import annotations

import json
import os
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.layout import Schedule
from sw.format.envelope import CHECKSUM, MAGICS, PREFIX, Envelope, kind_of
from sw.format.layer import CODEWORD_BITS, SIGN_SPLIT, CompressedLayer, LayerError, Requantisation, element_bits
from sw.format.output import write_atomically
from sw.format.packing import PackingError, pack_fields, unpack_fields
from sw.format.streams import StreamError, StreamLayout, layer_streams, unpack_streams

__all__ = [
    "MAGIC",
    "VERSION",
    "Container",
    "ContainerError",
    "compression_report",
    "container_size",
    "layer_fields",
    "read_container",
    "section_bytes",
    "write_container",
]

MAGIC = MAGICS["container"]
#: The version of the newest files. A writer gives a file the oldest version that can say what is in it.
VERSION = 3

#: Longest codeword. It bounds what a reader may have to allocate for a byte of an index stream.
MAX_D = 256
#: Most weights of all layers together that have no stream (k = 1, no mask, no sign): the file's size does not bound
#: them.
MAX_WEIGHTS_WITHOUT_STREAM = 1 << 20
#: Most elements of shared codebooks, each counted as often as layers share it: a reader checks them in every layer.
MAX_SHARED = 1 << 30
#: Largest stride, padding and dilation.
MAX_GEOMETRY = 65535

# Fields of a layer in the header and their values where neither the layer nor the file's `default` gives one.
_DEFAULTS: dict[str, Any] = {
    "kind": "conv",
    "method": ["int8", 0, 0, 0, 0],
    "stride": [1, 1],
    "padding": [0, 0],
    "dilation": [1, 1],
    "groups": 1,
    "schedule": None,
    "channel_scales": False,
    "requantised": False,
    "weight_bits": 8,
    "codebook": None,
    "codeword_bits": 8,
}
_OWN = ("name", "shape")
# Fields that version 1 does not have, and the first version that has each.
_SINCE = {"weight_bits": 2, "codebook": 2, "codeword_bits": 3}


class ContainerError(ValueError):
    """A container that cannot be read or written. The message and ``section`` name the section at fault."""

    def __init__(self, section: str, text: str) -> None:
        super().__init__(f"{section}: {text}")
        self.section = section


def file_path(given: object) -> Path:
    """A path as a user gives it; raises ContainerError, of section ``path``, for what is none."""
    if not isinstance(given, str | os.PathLike) or not isinstance(os.fspath(given), str):
        raise ContainerError("path", f"must be a str or an os.PathLike of one, not {type(given).__name__}")
    return Path(given)


_ENVELOPE = Envelope(MAGIC, VERSION, ContainerError, required=(), optional=("layers", "default", "metadata"))


@dataclass(frozen=True)
class Container:
    """What a container file holds.

    Parameters
    ----------
    layers
        In the order of the file.
    schedules
        For each layer, the schedule in whose loader order its streams are stored.
    metadata
        The writer's JSON object.
    """

    layers: list[CompressedLayer]
    schedules: list[Schedule]
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Entry:
    """One layer as the header describes it."""

    fields: dict[str, Any]
    layout: StreamLayout
    # False where a layer before it stores the codebook that they share.
    stores_codebook: bool = True

    @property
    def label(self) -> str:
        return f"layer {self.fields['name']!r}"

    @property
    def element_bits(self) -> int:
        """Bits that the codebook stores for an element of a codeword."""
        return element_bits(self.fields["codeword_bits"], self.layout.method in SIGN_SPLIT)

    @property
    def sections(self) -> dict[str, int]:
        """Sizes in bytes of the layer's sections, without checksums, in the order of the file."""
        layout, K = self.layout, self.layout.shape[0]
        sizes: dict[str, int] = {}
        if layout.method != "int8" and self.stores_codebook:
            sizes["codebook"] = -(-layout.k * layout.d * self.element_bits // 8)
        sizes |= layout.sizes
        sizes["scale"] = 4 * (K if self.fields["channel_scales"] else 1)
        if self.fields["requantised"]:
            sizes |= {"bias": 4 * K, "multiplier": 4 * K, "shift": K}
        return sizes


def _canonical_schedule(d: int) -> Schedule:
    """The schedule whose loader order is the canonical order of the subvectors."""
    return Schedule(1, d or 1)


def _entry(fields: dict[str, Any], section: str) -> _Entry:
    """Check what the sizes of a layer's sections depend on; the rest is checked with the layer itself."""

    def fail(name: str, wanted: str) -> ContainerError:
        return ContainerError(section, f"{name} must be {wanted}, not {fields[name]!r}")

    def integers(name: str, value: Any, counts: tuple[int, ...], low: int) -> list[int]:
        if type(value) is not list or len(value) not in counts or any(type(x) is not int or x < low for x in value):
            raise fail(name, f"a list of {' or '.join(map(str, counts))} integers of at least {low}")
        return value

    for name in _OWN:
        if name not in fields:
            raise ContainerError(section, f"field {name!r} is missing")
    for name in fields:
        if name not in _OWN and name not in _DEFAULTS:
            raise ContainerError(section, f"unknown field {name!r}")
    if type(fields["name"]) is not str:
        raise fail("name", "text")
    for name in ("channel_scales", "requantised"):
        if type(fields[name]) is not bool:
            raise fail(name, "true or false")
    for name, low in (("stride", 1), ("padding", 0), ("dilation", 1)):
        if max(integers(name, fields[name], (2,), low)) > MAX_GEOMETRY:
            raise fail(name, f"at most {MAX_GEOMETRY}")
    if type(fields["weight_bits"]) is not int:
        raise fail("weight_bits", "an integer")
    shape = integers("shape", fields["shape"], (4,), 1)
    method = fields["method"]
    if type(method) is not list or len(method) != 5 or type(method[0]) is not str:
        raise fail("method", "[name, d, k, n, m]")
    d, k, n, m = integers("method", method[1:], (4,), 0)
    if d > MAX_D:
        raise ContainerError(section, f"d must be at most {MAX_D}, not {d}")
    schedule = _canonical_schedule(d)
    if fields["schedule"] is not None:
        schedule = Schedule(*integers("schedule", fields["schedule"], (2, 6), 1))
    try:
        layout = StreamLayout(
            (shape[0], shape[1], shape[2], shape[3]), method[0], d, k, n, m, schedule, fields["weight_bits"]
        )
    except StreamError as error:
        raise ContainerError(section, str(error)) from None
    least, most = CODEWORD_BITS
    if type(fields["codeword_bits"]) is not int or not least <= fields["codeword_bits"] <= most:
        raise fail("codeword_bits", f"an integer in {least}..{most}")
    if fields["codeword_bits"] != 8 and method[0] == "int8":
        raise fail("codeword_bits", "8 for method int8")
    codebook = fields["codebook"]
    if codebook is not None and (type(codebook) is not str or not codebook or method[0] == "int8"):
        raise fail("codebook", "null for method int8" if method[0] == "int8" else "text and not empty, or null")
    return _Entry(fields, layout)


def _share_codebooks(entries: Sequence[_Entry]) -> list[_Entry]:
    """The entries, of which only the first with a codebook of some name stores it."""
    first: dict[str, _Entry] = {}
    shared = []
    elements = sum(e.layout.k * e.layout.d for e in entries if e.fields["codebook"] is not None)
    if elements > MAX_SHARED:
        text = f"shared codebooks, counted for each of their layers, must have at most {MAX_SHARED} elements"
        raise ContainerError("header", f"{text}, not {elements}")
    for entry in entries:
        name = entry.fields["codebook"]
        owner = first.setdefault(name, entry) if name is not None else entry
        ours, theirs = ((e.layout.d, e.layout.k, e.element_bits) for e in (entry, owner))
        if ours != theirs:
            raise ContainerError(
                entry.label,
                f"codebook {name!r} must have d, k and bits {', '.join(map(str, theirs))} as in {owner.label},"
                f" not {', '.join(map(str, ours))}",
            )
        if (bits := entry.fields["codeword_bits"]) != (first_bits := owner.fields["codeword_bits"]):
            text = f"codebook {name!r} must have codeword_bits {first_bits} as in {owner.label}, not {bits}"
            raise ContainerError(entry.label, text)
        shared.append(entry if owner is entry else replace(entry, stores_codebook=False))
    return shared


def _check_weights_without_stream(entries: Sequence[_Entry]) -> None:
    count, limit = (
        sum(prod(entry.layout.shape) for entry in entries if not entry.layout.bits),
        MAX_WEIGHTS_WITHOUT_STREAM,
    )
    if count > limit:
        raise ContainerError(
            "header", f"layers without streams must have at most {limit} weights together, not {count}"
        )


def _describe(layer: CompressedLayer, schedule: Schedule) -> dict[str, Any]:
    cut = list(vars(schedule).values())
    return {
        "name": layer.name,
        "shape": list(layer.shape),
        "kind": layer.kind,
        "method": [layer.method, layer.d, layer.k, layer.n, layer.m],
        "stride": list(layer.stride),
        "padding": list(layer.padding),
        "dilation": list(layer.dilation),
        "groups": layer.groups,
        "schedule": None if schedule == _canonical_schedule(layer.d) else cut[:2] if cut[2:] == [1] * 4 else cut,
        "channel_scales": len(layer.scale) > 1,
        "requantised": layer.requantisation is not None,
        "weight_bits": layer.weight_bits,
        "codebook": layer.codebook_name,
        "codeword_bits": layer.codeword_bits,
    }


def _header(described: Sequence[dict[str, Any]], metadata: Mapping[str, Any] | None) -> bytes:
    common: dict[str, Any] = {}
    for name, builtin in _DEFAULTS.items():
        # Equal counts keep the order of first appearance, so the choice depends on the layers alone.
        counts = Counter(json.dumps(fields[name]) for fields in described)
        if counts and (most := json.loads(counts.most_common(1)[0][0])) != builtin:
            common[name] = most
    defaults = _DEFAULTS | common
    layers = [
        {name: value for name, value in fields.items() if name in _OWN or value != defaults[name]}
        for fields in described
    ]
    header: dict[str, Any] = {"layers": layers}
    if common:
        header["default"] = common
    if metadata:
        header["metadata"] = metadata
    try:
        return json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ContainerError("header", f"metadata must be plain JSON: {error}") from None


def _section_data(entry: _Entry, layer: CompressedLayer) -> dict[str, bytes]:
    """The contents of the layer's sections, in any order."""
    data = layer_streams(layer, entry.layout.schedule)
    if layer.codebook is not None and entry.stores_codebook:
        # The lowest bits of two's complement, or of magnitudes, which have no others.
        lowest = np.uint8((1 << entry.element_bits) - 1)
        data["codebook"] = pack_fields(layer.codebook.view(np.uint8) & lowest, entry.element_bits)
    data["scale"] = layer.scale.astype("<f4").tobytes()
    if layer.requantisation is not None:
        data["bias"] = layer.requantisation.bias.astype("<i4").tobytes()
        data["multiplier"] = layer.requantisation.multiplier.astype("<i4").tobytes()
        data["shift"] = layer.requantisation.shift.tobytes()
    return data


def _checked(described: Sequence[dict[str, Any]]) -> list[_Entry]:
    entries = _share_codebooks([_entry(fields, f"layer {fields['name']!r}") for fields in described])
    _check_weights_without_stream(entries)
    return entries


def _described(
    layers: Sequence[CompressedLayer], schedule: Schedule | Mapping[str, Schedule] | None
) -> tuple[list[dict[str, Any]], list[_Entry]]:
    """The layers as the header describes them, checked."""
    described: list[dict[str, Any]] = []
    for layer in layers:
        chosen = schedule.get(layer.name) if isinstance(schedule, Mapping) else schedule
        described.append(_describe(layer, chosen or _canonical_schedule(layer.d)))
    entries = _checked(described)
    stored: dict[str, NDArray[np.int8]] = {}
    for layer in layers:
        name, codebook = layer.codebook_name, layer.codebook
        if name is None or codebook is None:
            continue
        first = stored.setdefault(name, codebook)
        if first is not codebook and not np.array_equal(first, codebook):
            raise ContainerError(f"layer {layer.name!r}", f"codebook {name!r} must be that of the layers before it")
    return described, entries


def layer_fields(layer: CompressedLayer) -> dict[str, Any]:
    """The layer as the header describes it, in canonical order: all that its share of the file's size depends on."""
    return _describe(layer, _canonical_schedule(layer.d))


def section_bytes(described: Sequence[dict[str, Any]]) -> list[int]:
    """Bytes that the sections of each layer take in a file of these layers (:func:`layer_fields`), with checksums.

    The rest of the file is 20 bytes and the header. Raises as :func:`write_container`.
    """
    return [sum(size + CHECKSUM.size for size in entry.sections.values()) for entry in _checked(described)]


def container_size(described: Sequence[dict[str, Any]], metadata: Mapping[str, Any] | None = None) -> int:
    """Bytes of the file that :func:`write_container` makes of layers (:func:`layer_fields`). Raises as it does."""
    sections = sum(section_bytes(described))
    return PREFIX.size + len(_header(described, metadata)) + CHECKSUM.size + sections


def write_container(
    path: str | os.PathLike[str],
    layers: Sequence[CompressedLayer],
    schedule: Schedule | tuple[int, int] | Mapping[str, Schedule] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write the layers of one network to one file. The same input gives the same bytes.

    The file is complete or unchanged: it is written under another name in the same folder, and then renamed.

    Parameters
    ----------
    path
        The file to write or to replace.
    layers
        In the network's order, with different names.
    schedule
        In whose loader order the streams are stored: one for all layers, as a ``Schedule`` or as ``(H, L)``; or one for
        a layer, by its name. Layers without one are stored in canonical order, which pads nothing: ``Schedule(1, d)``.
    metadata
        A JSON object of the caller's own.

    Raises
    ------
    ContainerError
        A name is used twice or unknown, a schedule does not fit its layer, a layer is beyond the format's limits, or
        the metadata are not JSON. Nothing is written.
    OutputError
        There is something at ``path`` that is not a regular file.
    OSError
        The file cannot be written.
    """
    path = file_path(path)
    names = [layer.name for layer in layers]
    for name, count in Counter(names).items():
        if count > 1:
            raise ContainerError("header", f"layer names must be unique, not {count} times {name!r}")
    if metadata is not None and not isinstance(metadata, Mapping):
        raise ContainerError("header", f"metadata must be a mapping, not {type(metadata).__name__}")
    if isinstance(schedule, tuple):
        try:
            schedule = Schedule(*schedule)
        except (TypeError, ValueError) as error:
            raise ContainerError("header", f"schedule must be (H, L): {error}") from None
    elif isinstance(schedule, Mapping):
        for name, own in schedule.items():
            if name not in names:
                raise ContainerError("header", f"schedule given for {name!r}, which is no layer")
            if not isinstance(own, Schedule):
                raise ContainerError("header", f"schedule of layer {name!r} must be a Schedule, not {own!r}")
    elif schedule is not None and not isinstance(schedule, Schedule):
        raise ContainerError("header", f"schedule must be a Schedule, (H, L) or a mapping, not {schedule!r}")

    described, entries = _described(layers, schedule)
    header = _header(described, metadata)
    version = max([1, *(_SINCE[name] for fields in described for name in _SINCE if fields[name] != _DEFAULTS[name])])
    parts = [_ENVELOPE.pack(header, version)]
    for entry, layer in zip(entries, layers, strict=True):
        data = _section_data(entry, layer)
        for name in entry.sections:
            parts += [data[name], CHECKSUM.pack(zlib.crc32(data[name]))]
    write_atomically(path, parts)


def _parse_header(data: bytes) -> tuple[list[_Entry], dict[str, Any], int]:
    """The layers as described, the metadata, and the offset of the first section."""
    if kind_of(data) in ("program", "network in steps"):
        raise ContainerError("magic", "the file is a program, and a container is needed: what it was compiled from")
    version, header, start = _ENVELOPE.unpack(data)
    default, metadata = header.get("default", {}), header.get("metadata", {})
    if type(default) is not dict or type(metadata) is not dict:
        raise ContainerError("header", "default and metadata must be objects")
    layers = header.get("layers")
    if type(layers) is not list or any(type(fields) is not dict for fields in layers):
        raise ContainerError("header", "layers must be a list of objects")
    entries = []
    names = set()
    for fields in layers:
        section = f"header of layer {fields.get('name')!r}"
        for name, first in _SINCE.items():
            if version < first and (name in fields or name in default):
                raise ContainerError(section, f"field {name!r} must not be in a file of version {version}")
        entry = _entry(_DEFAULTS | default | fields, section)
        if entry.fields["name"] in names:
            raise ContainerError("header", f"layer names must be unique, not twice {entry.fields['name']!r}")
        names.add(entry.fields["name"])
        entries.append(entry)
    entries = _share_codebooks(entries)
    _check_weights_without_stream(entries)
    return entries, metadata, start


def _sections(data: bytes, entries: Sequence[_Entry], offset: int) -> Iterator[tuple[_Entry, dict[str, bytes]]]:
    """The checked sections of each layer. The file's length is checked before the first is touched."""
    end = offset
    for entry in entries:
        for name, size in entry.sections.items():
            end += size + CHECKSUM.size
            if end > len(data):
                text = f"the file is truncated: {len(data)} bytes, the section of {size} ends at {end}"
                raise ContainerError(f"{entry.label} {name}", text)
    if end < len(data):
        raise ContainerError("end", f"{len(data) - end} bytes behind the last section")
    for entry in entries:
        contents: dict[str, bytes] = {}
        for name, size in entry.sections.items():
            contents[name] = data[offset : offset + size]
            offset += size
            if zlib.crc32(contents[name]) != CHECKSUM.unpack_from(data, offset)[0]:
                raise ContainerError(f"{entry.label} {name}", "checksum mismatch, the bytes are corrupted")
            offset += CHECKSUM.size
        yield entry, contents


def _decode(entry: _Entry, contents: Mapping[str, bytes], codebooks: dict[str, NDArray[np.int8]]) -> CompressedLayer:
    """The layer. ``codebooks`` takes up a codebook that others share, and gives it to them."""
    layout, fields = entry.layout, entry.fields
    parts: dict[str, Any]
    try:
        parts = dict(unpack_streams(layout, {name: contents[name] for name in layout.sizes}))
    except StreamError as error:
        raise ContainerError(f"{entry.label} {error.stream}", str(error)) from None
    if "codebook" in contents:
        try:
            elements = unpack_fields(contents["codebook"], entry.element_bits, layout.k * layout.d)
        except PackingError as error:
            raise ContainerError(f"{entry.label} codebook", str(error)) from None
        # Shifted up and down again, the highest bit is the sign; magnitudes have none.
        unused = 0 if layout.method in SIGN_SPLIT else 8 - entry.element_bits
        raised = (elements.astype(np.uint8) << unused).view(np.int8)
        parts["codebook"] = (raised >> unused).reshape(layout.k, layout.d)
    if (shared := fields["codebook"]) is not None:
        if entry.stores_codebook:
            codebooks[shared] = parts["codebook"]
        parts["codebook"] = codebooks[shared]

    def array(name: str, dtype: str) -> NDArray[Any]:
        # A copy in the machine's byte order: np.frombuffer alone would be read-only.
        return np.frombuffer(contents[name], dtype).astype(np.dtype(dtype).newbyteorder("="))

    if fields["requantised"]:
        parts["requantisation"] = Requantisation(array("bias", "<i4"), array("multiplier", "<i4"), array("shift", "u1"))
    try:
        return CompressedLayer(
            name=fields["name"],
            kind=fields["kind"],
            shape=layout.shape,
            method=layout.method,
            scale=array("scale", "<f4"),
            stride=tuple(fields["stride"]),
            padding=tuple(fields["padding"]),
            dilation=tuple(fields["dilation"]),
            groups=fields["groups"],
            d=layout.d,
            k=layout.k,
            n=layout.n,
            m=layout.m,
            weight_bits=layout.weight_bits,
            codebook_name=shared,
            codeword_bits=fields["codeword_bits"],
            **parts,
        )
    except LayerError as error:
        raise ContainerError(entry.label, str(error).removeprefix(f"{entry.label}: ")) from None


def read_container(path: str | os.PathLike[str]) -> Container:
    """Read and check a whole container.

    Every byte is covered by a check. Nothing is allocated for a layer before the file has proved to be long enough for
    it.

    Raises
    ------
    ContainerError
        The file is truncated, too long, corrupted, of another version, or its header or contents are out of range.
    OSError
        The file cannot be read.
    """
    data = file_path(path).read_bytes()
    entries, metadata, offset = _parse_header(data)
    codebooks: dict[str, NDArray[np.int8]] = {}
    layers = [_decode(entry, contents, codebooks) for entry, contents in _sections(data, entries, offset)]
    return Container(layers, [entry.layout.schedule for entry in entries], metadata)


def compression_report(layers: Sequence[CompressedLayer], path: str | os.PathLike[str]) -> dict[str, Any]:
    """What the layers take in the file at ``path``, beside their weights in 32-bit floating point.

    Parameters
    ----------
    layers
        The layers that were written there.
    path
        The container.

    Returns
    -------
    dict
        ``bytes`` (the whole file), ``overhead`` (bytes of it in no layer's sections: prefix and header),
        ``float_bytes``, ``ratio`` = float_bytes / bytes; and ``layers``, for each ``name``, ``sections`` (bytes by
        section, each with its 4-byte checksum), ``bytes`` (their sum), ``float_bytes`` and ``ratio``.

    Raises
    ------
    ContainerError
        The file is damaged, or does not hold these layers.
    OSError
        The file cannot be read.
    """
    data = Path(path).read_bytes()
    entries, _, offset = _parse_header(data)
    stored = [(entry.fields["name"], entry.layout.shape) for entry, _ in _sections(data, entries, offset)]
    if stored != (given := [(layer.name, layer.shape) for layer in layers]):
        different = next((pair for pair in zip(stored, given, strict=False) if pair[0] != pair[1]), None)
        text = f"{different[0]}, not {different[1]}" if different else f"{len(stored)} layers, not {len(given)}"
        raise ContainerError("header", f"the file holds {text}")
    rows = []
    for entry in entries:
        sections = {name: size + CHECKSUM.size for name, size in entry.sections.items()}
        used, floats = sum(sections.values()), 4 * prod(entry.layout.shape)
        rows.append(
            {
                "name": entry.fields["name"],
                "sections": sections,
                "bytes": used,
                "float_bytes": floats,
                "ratio": floats / used,
            }
        )
    floats = sum(row["float_bytes"] for row in rows)
    return {"bytes": len(data), "overhead": offset, "float_bytes": floats, "ratio": floats / len(data), "layers": rows}
