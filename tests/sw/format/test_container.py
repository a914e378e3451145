from __future__ import annotations

import json
import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hw.layout import Schedule
from sw.format import container
from sw.format.container import (
    ContainerError,
    compression_report,
    container_size,
    layer_fields,
    read_container,
    section_bytes,
    write_container,
)
from sw.format.example import random_layer
from sw.format.layer import CompressedLayer
from sw.format.streams import layer_streams


def network() -> list[CompressedLayer]:
    rng = np.random.default_rng(0)
    stem = random_layer(rng, "int8", (8, 3, 3, 3), name="stem", stride=(2, 2), padding=(1, 1), requantised=True)
    scaled = random_layer(rng, "int8", (5, 2, 1, 1), name="scaled")
    return [
        stem,
        CompressedLayer(
            "scales", "conv", (5, 2, 1, 1), "int8", np.arange(1, 6).astype(np.float32), weights=scaled.weights
        ),
        random_layer(rng, "vq", (8, 5, 3, 3), d=4, k=7, name="plain", dilation=(2, 1)),
        random_layer(rng, "mvq", (16, 5, 3, 3), d=8, k=9, n=1, m=2, name="masked", requantised=True),
        random_layer(rng, "ssvq", (16, 2, 3, 3), d=8, k=4, name="signed", groups=8),
        random_layer(rng, "msvq", (16, 5, 1, 1), d=8, k=3, n=2, m=8, name="both", kind="linear"),
        random_layer(rng, "vq", (8, 5, 1, 1), d=8, k=1, name="one codeword"),
    ]


def assert_equal(layer: CompressedLayer, other: CompressedLayer) -> None:
    def flat(value: Any) -> dict[str, Any]:
        fields = dict(vars(value))
        requantisation = fields.pop("requantisation")
        return fields | ({} if requantisation is None else dict(vars(requantisation)))

    left, right = flat(layer), flat(other)
    assert left.keys() == right.keys()
    for name, value in left.items():
        if isinstance(value, np.ndarray):
            assert right[name].dtype == value.dtype, name
            assert right[name].flags.writeable
            assert np.array_equal(right[name], value), name
        else:
            assert right[name] == value, name


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "network.mvq"


SCHEDULES: dict[str, Any] = {
    "canonical": None,
    "one": Schedule(3, 16),
    "pair": (4, 8),
    "extended": Schedule(2, 8, 2, 2),
    "most": {name: Schedule(2, 16) for name in ("stem", "masked", "signed", "both")},
    "each": {"plain": Schedule(2, 4, Dr=3, Ds=3), "masked": Schedule(4, 16, 1, 2, 3, 1)},
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_round_trip(path: Path, schedule: str) -> None:
    layers, metadata = network(), {"model": "tést", "seed": 3, "nested": [1, {"a": None}]}
    write_container(path, layers, SCHEDULES[schedule], metadata)
    content = read_container(path)
    assert content.metadata == metadata
    assert [layer.name for layer in content.layers] == [layer.name for layer in layers]
    for layer, other in zip(layers, content.layers, strict=True):
        assert_equal(layer, other)
    expected = {
        "canonical": [Schedule(1, layer.d or 1) for layer in layers],
        "one": [Schedule(3, 16)] * 7,
        "pair": [Schedule(4, 8)] * 7,
        "extended": [Schedule(2, 8, 2, 2)] * 7,
        "most": [Schedule(*(2, 16) if i in (0, 3, 4, 5) else (1, layer.d or 1)) for i, layer in enumerate(layers)],
    }
    if schedule == "each":
        assert content.schedules[2:4] == list(SCHEDULES["each"].values())
        assert content.schedules[4] == Schedule(1, 8)
    else:
        assert content.schedules == expected[schedule]


def test_streams_in_the_file_are_those_of_the_loader(path: Path) -> None:
    layers = network()
    write_container(path, layers, (4, 16))
    data = path.read_bytes()
    for layer in layers:
        for stream in layer_streams(layer, Schedule(4, 16)).values():
            assert stream + struct.pack("<I", zlib.crc32(stream)) in data


def test_same_layers_same_bytes(path: Path) -> None:
    write_container(path, network(), metadata={"a": 1})
    first = path.read_bytes()
    write_container(path, read_container(path).layers, metadata={"a": 1})
    assert path.read_bytes() == first


def test_empty_network(path: Path) -> None:
    write_container(path, [])
    assert path.read_bytes()[16:-4] == b'{"layers":[]}'
    assert read_container(path).layers == []


def test_layout_of_a_small_file(path: Path) -> None:
    """The file of one layer, put together by hand from docs/format.md."""
    layer = CompressedLayer(
        name="a",
        kind="linear",
        shape=(4, 2, 1, 1),
        method="msvq",
        scale=np.array([0.5], np.float32),
        d=4,
        k=3,
        n=2,
        m=4,
        codebook=np.array([[1, 2, 3, 4], [5, 6, 7, 8], [127, 0, 127, 0]], np.int8),
        assignments=np.array([2, 1], np.int32),
        masks=np.array([[True, True, False, False], [False, False, True, True]]),
        signs=np.array([[True, False], [False, True]]),
    )
    write_container(path, [layer], metadata={"x": 1})
    header = (
        b'{"layers":[{"name":"a","shape":[4,2,1,1]}],'
        b'"default":{"kind":"linear","method":["msvq",4,3,2,4]},"metadata":{"x":1}}'
    )
    prefix = b"\x89MVQ\r\n\x1a\n" + struct.pack("<II", 1, len(header)) + header
    magnitudes = sum(value << (7 * i) for i, value in enumerate([1, 2, 3, 4, 5, 6, 7, 8, 127, 0, 127, 0]))
    sections = [
        magnitudes.to_bytes(11, "little"),
        bytes([0b0110]) + bytes(7),  # assignments 2 and 1 in 2 bits
        bytes([0b101000]) + bytes(7),  # ranks 0 and 5 in 3 bits
        bytes([0b1001]) + bytes(7),  # signs
        struct.pack("<f", 0.5),
    ]
    parts = [prefix, *sections]
    assert path.read_bytes() == b"".join(part + struct.pack("<I", zlib.crc32(part)) for part in parts)


def test_every_flipped_bit_is_found(path: Path) -> None:
    rng = np.random.default_rng(0)
    layers = [
        random_layer(rng, "mvq", (8, 2, 1, 1), d=4, k=3, n=2, m=4, name="a", requantised=True),
        random_layer(rng, "ssvq", (8, 2, 1, 1), d=4, k=3, name="b"),
        random_layer(rng, "int8", (3, 1, 1, 1), name="c"),
    ]
    write_container(path, layers)
    data = path.read_bytes()
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(ContainerError) as caught:
            read_container(path)
        section = caught.value.section
        # One bit may lead to a version that exists; then the header's checksum is wrong.
        known = 64 <= bit < 96 and 1 <= struct.unpack_from("<I", damaged, 8)[0] <= container.VERSION
        wanted = "magic" if bit < 64 else "header" if known else "version"
        assert section == wanted if bit < 96 else section != "magic"


def test_every_truncation_is_found_and_named(path: Path) -> None:
    write_container(path, network())
    data = path.read_bytes()
    sections = set()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(ContainerError, match=r"truncated|magic: the file must begin") as caught:
            read_container(path)
        sections.add(caught.value.section)
    assert {"magic", "header", "layer 'stem' weight", "layer 'both' sign", "layer 'masked' shift"} <= sections


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(lambda data: b"", "magic: the file must begin with", id="empty"),
        pytest.param(
            lambda data: b"PK\x03\x04" + data[4:], r"magic: .*, not b'PK.*, as checkpoints of .* do: m", id="zip"
        ),
        pytest.param(lambda data: data.replace(b"\r\n", b"\n"), "magic: the file must begin with", id="text mode"),
        pytest.param(lambda data: data[:8] + b"\4" + data[9:], r"version: must be in 1\.\.3, not 4", id="version"),
        pytest.param(lambda data: data[:8] + b"\0" + data[9:], r"version: must be in 1\.\.3, not 0", id="version 0"),
        pytest.param(lambda data: data[:12], "header: the file is truncated: 12 bytes of at least 16", id="prefix"),
        pytest.param(
            lambda data: data[:12] + b"\xff" * 4 + data[16:],
            r"header: the file is truncated: \d+ bytes of at least 4294967315",
            id="header length",
        ),
        pytest.param(lambda data: data[:20] + b"?" + data[21:], "header: checksum mismatch", id="header bytes"),
        pytest.param(lambda data: data + b"\0", "end: 1 bytes behind the last section", id="trailing byte"),
        pytest.param(lambda data: data + data, r"end: \d+ bytes behind the last section", id="twice"),
        pytest.param(
            lambda data: data[:-6] + bytes([data[-6] ^ 16]) + data[-5:],
            "layer 'one codeword' scale: checksum mismatch",
            id="last section",
        ),
        pytest.param(
            lambda data: data[:-1], "layer 'one codeword' scale: the file is truncated", id="last checksum cut"
        ),
    ],
)
def test_damaged_file(path: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    write_container(path, network())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ContainerError, match=message):
        read_container(path)


def assemble(header: Any, sections: list[bytes], version: int = 1) -> bytes:
    """A container with right checksums whatever it holds."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    prefix = container.MAGIC + struct.pack("<II", version, len(text)) + text
    return b"".join(part + struct.pack("<I", zlib.crc32(part)) for part in [prefix, *sections])


def small(**fields: Any) -> dict[str, Any]:
    """Header of one MVQ layer of 8 x 2 weights: 4 subvectors, 2-bit indices, 3-bit masks."""
    return {"layers": [{"name": "a", "shape": [8, 2, 1, 1], "method": ["mvq", 4, 3, 2, 4]} | fields]}


SMALL: Mapping[str, bytes] = {"codebook": bytes(12), "index": bytes(8), "mask": bytes(8), "scale": struct.pack("<f", 1)}


def test_small_is_good(path: Path) -> None:
    path.write_bytes(assemble(small(), list(SMALL.values())))
    assert read_container(path).layers[0].k == 3


@pytest.mark.parametrize(
    ("header", "message"),
    [
        pytest.param(b"{", "header: must be JSON", id="no JSON"),
        pytest.param(b"\xff", "header: must be JSON", id="no text"),
        pytest.param(b"[" * 100000, "header: must be JSON", id="deep JSON"),
        pytest.param(b'{"layers":' + b"9" * 5000 + b"}", "header: must be JSON", id="huge number"),
        pytest.param(
            b'{"layers":[],"layers":[]}', "header: must be JSON: key 'layers' must not be there twice", id="key twice"
        ),
        *(
            pytest.param(
                b'{"layers":[],"metadata":{"x":[' + number + b"]}}",
                f"header: must be JSON: a number must be finite, not {number.decode()}",
                id=number.decode(),
            )
            for number in (b"NaN", b"-Infinity", b"1e999")
        ),
        pytest.param([], "header: must be an object of layers, default, metadata", id="list"),
        pytest.param(
            {"layers": [], "x": 1}, "header: must be an object of layers, default, metadata", id="unknown key"
        ),
        pytest.param({}, "header: layers must be a list of objects", id="no layers"),
        pytest.param({"layers": [3]}, "header: layers must be a list of objects", id="layer is no object"),
        pytest.param({"layers": [], "default": []}, "header: default and metadata must be objects", id="default"),
        pytest.param(
            {"layers": small()["layers"] * 2}, "header: layer names must be unique, not twice 'a'", id="names"
        ),
        pytest.param({"layers": [{"name": "a"}]}, "header of layer 'a': field 'shape' is missing", id="no shape"),
        pytest.param({"layers": [{"shape": [1] * 4}]}, "header of layer None: field 'name' is missing", id="no name"),
        pytest.param(small(colour=1), "header of layer 'a': unknown field 'colour'", id="unknown field"),
        pytest.param(small(name=["a"]), "name must be text, not", id="name"),
        pytest.param(small(requantised=1), "requantised must be true or false, not 1", id="flag"),
        pytest.param(
            small(shape=[8, 2, 1]), "shape must be a list of 4 integers of at least 1, not", id="three dimensions"
        ),
        pytest.param(small(shape=[8, True, 1, 1]), "shape must be a list of 4 integers of at least 1", id="bool"),
        pytest.param(small(shape=[8, 0, 1, 1]), "shape must be a list of 4 integers of at least 1", id="zero"),
        pytest.param(small(stride=2), "stride must be a list of 2 integers of at least 1, not 2", id="stride"),
        pytest.param(small(padding=[0, -1]), "padding must be a list of 2 integers of at least 0", id="padding"),
        *(
            pytest.param(small(**{name: [1, 10**30]}), f"{name} must be at most 65535, not", id=f"large {name}")
            for name in ("stride", "padding", "dilation")
        ),
        pytest.param(small(method="mvq"), r"method must be \[name, d, k, n, m\], not 'mvq'", id="method"),
        pytest.param(
            small(method=["mvq", 4, 3, 2, -4]), "method must be a list of 4 integers of at least 0", id="negative m"
        ),
        pytest.param(
            small(method=["zip", 4, 3, 2, 4]), "method must be one of int8, .*, not 'zip'", id="unknown method"
        ),
        pytest.param(small(method=["mvq", 3, 3, 2, 3]), "d must be at least 1 and divide K = 8, not 3", id="d"),
        pytest.param(
            small(method=["mvq", 512, 3, 2, 4], shape=[512] * 4), "d must be at most 256, not 512", id="large d"
        ),
        pytest.param(small(method=["mvq", 4, 0, 2, 4]), r"k must be in 1\.\.65536, not 0", id="k"),
        pytest.param(small(method=["mvq", 4, 3, 5, 4]), r"n must be in 1\.\.m = 1\.\.4, not 5", id="n"),
        pytest.param(
            small(method=["mvq", 64, 3, 32, 64], shape=[64, 1, 1, 1]),
            "the rank of a 32:64 mask must fit 32 bits, not 61",
            id="wide masks",
        ),
        pytest.param(
            small(schedule=[1, 2, 3]), "schedule must be a list of 2 or 6 integers of at least 1", id="schedule"
        ),
        pytest.param(small(schedule=[1, 6]), "L must be a multiple of d = 4, not 6", id="L"),
        pytest.param(small(schedule=[1, 4, 1, 1, 2, 1]), "Dr x Ds must divide the kernel 1 x 1, not 2 x 1", id="Dr"),
        pytest.param(small(shape=[8, 4, 1, 1]), None, id="sizes still the same"),
        pytest.param(small(shape=[8, 20, 1, 1]), "layer 'a' mask: the file is truncated", id="more subvectors"),
        pytest.param(small(method=["mvq", 4, 2, 2, 4]), "end: 4 bytes behind the last section", id="smaller codebook"),
        pytest.param(small(method=["vq", 4, 3, 4, 4]), "end: 12 bytes behind the last section", id="fewer sections"),
        pytest.param(
            small(method=["mvq", 4, 3, 1, 4], kind="table"), "^layer 'a': kind must be conv or linear", id="kind"
        ),
        pytest.param(small(kind="linear", groups=3), "layer 'a': .*groups must be .* divide K = 8, not 3", id="groups"),
    ],
)
def test_header_that_lies(path: Path, header: Any, message: str | None) -> None:
    path.write_bytes(assemble(header, list(SMALL.values())))
    if message is None:
        assert read_container(path).layers[0].shape == (8, 4, 1, 1)
    else:
        with pytest.raises(ContainerError, match=message):
            read_container(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        pytest.param("index", b"\x0c" + bytes(7), r"assignments must be in 0\.\.2, not 3", id="assignment"),
        pytest.param("mask", b"\x07" + bytes(7), r"mask rank must be in 0\.\.5 for 2:4, not 7", id="rank"),
        pytest.param("index", b"\x00\x01" + bytes(6), "padding behind 4 fields of 2 bits must be zero", id="padding"),
        pytest.param("mask", bytes(7) + b"\x80", "padding behind 4 fields of 3 bits must be zero", id="last bit"),
        pytest.param("scale", struct.pack("<f", 0), "scale must be finite and positive", id="scale"),
        pytest.param("scale", struct.pack("<f", float("nan")), "scale must be finite and positive", id="NaN"),
    ],
)
def test_contents_out_of_range(path: Path, name: str, content: bytes, message: str) -> None:
    path.write_bytes(assemble(small(), list((SMALL | {name: content}).values())))
    with pytest.raises(ContainerError, match=rf"^layer 'a'.*{message}") as caught:
        read_container(path)
    assert caught.value.section == ("layer 'a'" if name == "scale" else f"layer 'a' {name}")


def test_other_contents_out_of_range(path: Path) -> None:
    # 7-bit magnitudes of 4 elements leave 4 bits of padding; shifts end at 62; absent output channels are zero.
    head = {"layers": [{"name": "a", "shape": [4, 1, 1, 1], "method": ["ssvq", 4, 1, 4, 4]}]}
    path.write_bytes(assemble(head, [b"\0\0\0\x10", bytes(8), struct.pack("<f", 1)]))
    with pytest.raises(ContainerError, match="layer 'a' codebook: padding behind 4 fields of 7 bits must be zero"):
        read_container(path)
    head = {"layers": [{"name": "a", "shape": [1, 1, 1, 1], "requantised": True}]}
    path.write_bytes(assemble(head, [bytes(8), struct.pack("<f", 1), bytes(4), bytes(4), b"\x3f"]))
    with pytest.raises(ContainerError, match=r"layer 'a': .*shift must be in 0\.\.62, not 63"):
        read_container(path)
    head = {"layers": [{"name": "a", "shape": [1, 1, 1, 1], "schedule": [1, 2]}]}
    path.write_bytes(assemble(head, [b"\1\1" + bytes(6), struct.pack("<f", 1)]))
    with pytest.raises(ContainerError, match=r"layer 'a' weight: .*absent output channels must be zero"):
        read_container(path)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"shape": [8, 10**12, 1, 1]}, id="subvectors"),
        pytest.param({"shape": [8, 10**9, 10**9, 10**9]}, id="kernel"),
        pytest.param({"schedule": [1, 4 * 10**12]}, id="columns"),
        pytest.param({"shape": [8, 10**12, 1, 1], "method": ["int8", 0, 0, 0, 0]}, id="raw"),
        pytest.param({"shape": [10**12, 1, 1, 1], "method": ["vq", 4, 1, 4, 4]}, id="nothing stored"),
        pytest.param({"shape": [8, 10**12, 1, 1], "method": ["mvq", 4, 1, 4, 4]}, id="nothing stored but masks"),
        pytest.param({"shape": [10**12, 1, 1, 1], "method": ["vq", 10**12, 1, 1, 1]}, id="codeword"),
    ],
)
def test_nothing_is_allocated_that_the_file_cannot_justify(path: Path, fields: dict[str, Any]) -> None:
    path.write_bytes(assemble(small(**fields), list(SMALL.values())))
    tracemalloc.start()
    try:
        with pytest.raises(ContainerError, match=r"truncated|at most"):
            read_container(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("layers", "allowed"), [(16, True), (17, False), (300, False)])
def test_layers_without_streams_are_limited_together(path: Path, layers: int, allowed: bool) -> None:
    fields = [{"name": str(i), "shape": [256, 256, 1, 1]} for i in range(layers)]
    header = {"layers": fields, "default": {"method": ["mvq", 1, 1, 1, 1]}}
    path.write_bytes(assemble(header, [b"\1", struct.pack("<f", 1)] * layers))
    if allowed:
        assert len(read_container(path).layers) == layers
        return
    tracemalloc.start()
    try:
        message = f"layers without streams must have at most 1048576 weights together, not {layers * 65536}"
        with pytest.raises(ContainerError, match=message):
            read_container(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("fields", [{"schedule": [10**15, 4]}, {"schedule": [10**15, 4, 10**15, 10**15, 1, 1]}])
def test_schedules_larger_than_the_layer_cost_nothing(path: Path, fields: dict[str, Any]) -> None:
    path.write_bytes(assemble(small(**fields), list(SMALL.values())))
    assert read_container(path).schedules[0].H == 10**15


def alone(shape: tuple[int, int], d: int, k: int) -> Callable[[Any], list[CompressedLayer]]:
    return lambda layers: [random_layer(np.random.default_rng(0), "vq", (*shape, 1, 1), d=d, k=k)]


@pytest.mark.parametrize(
    ("schedule", "metadata", "edit", "message"),
    [
        pytest.param(
            None, None, lambda layers: layers * 2, "layer names must be unique, not 2 times 'stem'", id="names"
        ),
        pytest.param(None, [1], None, "header: metadata must be a mapping, not list", id="metadata list"),
        pytest.param(None, {"a": np.zeros(2)}, None, "header: metadata must be plain JSON", id="metadata array"),
        pytest.param(None, {"a": float("nan")}, None, "header: metadata must be plain JSON", id="metadata NaN"),
        pytest.param((4, 6), None, None, "layer 'plain': L must be a multiple of d = 4, not 6", id="L"),
        pytest.param((4, 0), None, None, r"schedule must be \(H, L\): L must be an integer of at least 1", id="L = 0"),
        pytest.param((4,), None, None, r"schedule must be \(H, L\)", id="one number"),
        pytest.param([4, 16], None, None, r"a Schedule, \(H, L\) or a mapping, not \[4, 16\]", id="list"),
        pytest.param(
            {"stem": (4, 16)}, None, None, r"schedule of layer 'stem' must be a Schedule, not \(4, 16\)", id="pair"
        ),
        pytest.param(
            {"head": Schedule(1, 8)}, None, None, "schedule given for 'head', which is no layer", id="unknown"
        ),
        pytest.param(Schedule(1, 8, Dr=3), None, None, "layer 'scales': Dr x Ds must divide the kernel 1 x 1", id="Dr"),
        pytest.param(
            None, None, alone((512, 1), 512, 2), "layer 'random': d must be at most 256, not 512", id="long codewords"
        ),
        pytest.param(
            None,
            None,
            alone((1024, 1025), 256, 1),
            "header: layers without streams must have at most 1048576 weights together, not 1049600",
            id="large layer without streams",
        ),
    ],
)
def test_write_refuses_before_it_writes(path: Path, schedule: Any, metadata: Any, edit: Any, message: str) -> None:
    path.write_bytes(b"precious")
    layers = network()
    with pytest.raises(ContainerError, match=message):
        write_container(path, edit(layers) if edit else layers, schedule, metadata)
    assert path.read_bytes() == b"precious"
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_failed_write_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path.write_bytes(b"precious")

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="disk full"):
        write_container(path, network())
    assert path.read_bytes() == b"precious"
    assert os.listdir(path.parent) == [path.name]


def test_report(path: Path) -> None:
    layers = network()
    write_container(path, layers, (4, 16))
    report = compression_report(layers, path)
    assert report["bytes"] == path.stat().st_size == report["overhead"] + sum(row["bytes"] for row in report["layers"])
    assert report["ratio"] == 4 * sum(layer.integer_weights().size for layer in layers) / path.stat().st_size
    row = report["layers"][3]
    assert row["name"] == "masked"
    # 45 row writes of two subvectors: 4 bits of index and 4 of masks each, padded to 8 bytes; 4 bytes of checksum.
    assert row["sections"] == {
        "codebook": 72 + 4,
        "index": 48 + 4,
        "mask": 48 + 4,
        "scale": 8,
        "bias": 64 + 4,
        "multiplier": 64 + 4,
        "shift": 16 + 4,
    }
    assert row["ratio"] == 4 * 16 * 45 / row["bytes"]


def test_report_refuses_other_layers(path: Path) -> None:
    layers = network()
    write_container(path, layers)
    with pytest.raises(ContainerError, match="header: the file holds 7 layers, not 6"):
        compression_report(layers[:-1], path)
    with pytest.raises(ContainerError, match=r"header: the file holds \('stem', \(8, 3, 3, 3\)\), not \('scales'"):
        compression_report(layers[::-1][::-1][1:] + layers[:1], path)


def test_ratio_of_a_large_layer_is_close_to_the_ideal(path: Path) -> None:
    layer = random_layer(np.random.default_rng(0), "mvq", (256, 256, 3, 3), d=16, k=512, n=4, m=16)
    write_container(path, [layer])
    report = compression_report([layer], path)
    weights = 256 * 256 * 9
    ideal = 32 * weights / (weights * 1.25 + 512 * 16 * 8)
    assert 0.997 * ideal < report["ratio"] < ideal


def sharing() -> list[CompressedLayer]:
    """Two layers with one codebook, and weights of 3 bits between them."""
    rng = np.random.default_rng(0)
    first = random_layer(rng, "msvq", (16, 5, 3, 3), d=8, k=9, n=2, m=8, name="first")
    last = random_layer(rng, "msvq", (8, 7, 1, 1), d=8, k=9, n=1, m=4, name="last", kind="linear", requantised=True)
    return [
        replace(first, codebook_name="shared"),
        random_layer(rng, "int8", (5, 3, 3, 3), name="narrow", weight_bits=3),
        replace(last, codebook_name="shared", codebook=first.codebook, scale=np.array([3], np.float32)),
    ]


@pytest.mark.parametrize("schedule", [None, (4, 16)])
def test_a_shared_codebook_is_stored_once(path: Path, schedule: Any) -> None:
    layers = sharing()
    write_container(path, layers, schedule)
    assert struct.unpack_from("<I", path.read_bytes(), 8) == (2,)
    content = read_container(path)
    for layer, other in zip(layers, content.layers, strict=True):
        assert_equal(layer, other)
    assert content.layers[0].codebook is content.layers[2].codebook
    report = compression_report(layers, path)
    assert report["bytes"] == path.stat().st_size
    assert [("codebook" in row["sections"]) for row in report["layers"]] == [True, False, False]


@pytest.mark.parametrize("bits", [2, 3, 4, 7])
def test_narrow_weights_take_their_bits(path: Path, bits: int) -> None:
    layer = random_layer(np.random.default_rng(0), "int8", (16, 5, 3, 3), weight_bits=bits)
    write_container(path, [layer])
    assert_equal(layer, read_container(path).layers[0])
    assert compression_report([layer], path)["layers"][0]["sections"]["weight"] == -(-720 * bits // 64) * 8 + 4


def test_files_without_news_stay_at_version_1(path: Path) -> None:
    write_container(path, network())
    assert struct.unpack_from("<I", path.read_bytes(), 8) == (1,)


def narrow(method: str, bits: int, **fields: Any) -> CompressedLayer:
    """A layer with codewords of so many bits."""
    masked = {"n": 2, "m": 4} if method in ("mvq", "msvq") else {}
    given = {"d": 4, "k": 7, "codeword_bits": bits} | masked | fields
    return random_layer(np.random.default_rng(bits), method, (16, 5, 3, 3), **given)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("method", ["vq", "mvq", "ssvq", "msvq"])
def test_narrow_codewords_take_their_bits(path: Path, method: str, bits: int) -> None:
    signed = method in ("ssvq", "msvq")
    layer = narrow(method, bits, name="layer")
    shared = replace(narrow(method, bits, name="first"), codebook_name="x")
    again = replace(narrow(method, bits, name="second"), codebook_name="x", codebook=shared.codebook)
    wide = random_layer(np.random.default_rng(0), "int8", (5, 3, 3, 3), name="wide")
    layers = [wide, layer, shared, again]
    write_container(path, layers, (4, 16))
    read = read_container(path).layers
    for written, found in zip(layers, read, strict=True):
        assert_equal(written, found)
        np.testing.assert_array_equal(written.integer_weights(), found.integer_weights())
    low, high = (0 if signed else -(1 << (bits - 1))), (1 << (bits - 1)) - 1
    assert read[1].codebook is not None
    assert (read[1].codebook.min(), read[1].codebook.max()) == (low, high)
    sections = [row["sections"] for row in compression_report(layers, path)["layers"]]
    taken = [row.get("codebook") for row in sections]
    size = -(-4 * 7 * (bits - signed) // 8) + 4
    assert taken == [None, size, size, None]
    assert container_size([layer_fields(layer) for layer in layers]) == container_size(
        [layer_fields(layer) for layer in read]
    )
    # What version 2 can say stays in version 2.
    assert struct.unpack_from("<I", path.read_bytes(), 8) == (2 if bits == 8 else 3,)


def test_readers_of_older_versions_see_a_newer_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_container(path, [narrow("mvq", 4)])
    monkeypatch.setattr(container, "_ENVELOPE", replace(container._ENVELOPE, newest=2))
    with pytest.raises(ContainerError, match=r"version: must be in 1\.\.2, not 3"):
        read_container(path)


@pytest.mark.parametrize("name", ["msvq-4-16", "mvq-4-16", "ssvq-d8", "vq-d8"])
def test_files_of_before_are_written_with_the_same_bytes(path: Path, name: str) -> None:
    """Files of before there were narrow codewords."""
    old = Path(__file__).parents[3] / "experiments" / "containers" / f"resnet20-{name}.msvq"
    found = read_container(old)
    schedules = {layer.name: schedule for layer, schedule in zip(found.layers, found.schedules, strict=True)}
    write_container(path, found.layers, schedules, found.metadata)
    assert path.read_bytes() == old.read_bytes()
    assert {layer.codeword_bits for layer in found.layers} == {8}


def test_narrow_layers_of_one_codebook_must_agree(path: Path) -> None:
    """Magnitudes of 4 bits are no signed integers of 4 bits, though they take as much."""
    first = replace(narrow("mvq", 4, name="first"), codebook_name="x")
    assert first.codebook is not None
    magnitudes = np.abs(first.codebook.clip(-7)).astype(np.int8)
    first = replace(first, codebook=magnitudes)
    for bits, method, message in [
        (5, "msvq", "layer 'second': codebook 'x' must have codeword_bits 4 as in layer 'first', not 5"),
        (5, "mvq", "layer 'second': codebook 'x' must have d, k and bits 4, 7, 4 as in layer 'first', not 4, 7, 5"),
    ]:
        second = replace(narrow(method, bits, name="second"), codebook_name="x", codebook=magnitudes)
        with pytest.raises(ContainerError, match=message):
            write_container(path, [first, second])
    assert not path.exists()


@pytest.mark.parametrize("layers", [network(), sharing(), [narrow("msvq", 3)], []])
def test_sizes_are_those_of_the_file(path: Path, layers: list[CompressedLayer]) -> None:
    write_container(path, layers, metadata={"a": 1})
    described = [layer_fields(layer) for layer in layers]
    assert container_size(described, {"a": 1}) == path.stat().st_size
    assert section_bytes(described) == [row["bytes"] for row in compression_report(layers, path)["layers"]]


def test_layers_of_one_codebook_must_agree(path: Path) -> None:
    first, _, last = sharing()
    assert last.codebook is not None
    with pytest.raises(ContainerError, match="layer 'last': codebook 'shared' must be that of the layers before it"):
        write_container(path, [first, replace(last, codebook=last.codebook[::-1].copy())])
    plain = random_layer(np.random.default_rng(0), "vq", (8, 7, 1, 1), d=8, k=9, name="plain")
    message = "layer 'plain': codebook 'shared' must have d, k and bits 8, 9, 7 as in layer 'first', not 8, 9, 8"
    with pytest.raises(ContainerError, match=message):
        write_container(path, [first, replace(plain, codebook_name="shared")])
    assert not path.exists()


@pytest.mark.parametrize(
    ("fields", "version", "message"),
    [
        ({"weight_bits": 8}, 1, "header of layer 'a': field 'weight_bits' must not be in a file of version 1"),
        ({"codebook": None}, 1, "header of layer 'a': field 'codebook' must not be in a file of version 1"),
        ({"weight_bits": 4}, 2, "weight_bits must be 8 for method mvq, not 4"),
        ({"weight_bits": "8"}, 2, "weight_bits must be an integer, not '8'"),
        ({"weight_bits": True}, 2, "weight_bits must be an integer, not True"),
        ({"weight_bits": 1, "method": ["int8", 0, 0, 0, 0]}, 2, r"weight_bits must be in 2\.\.8, not 1"),
        ({"weight_bits": 9, "method": ["int8", 0, 0, 0, 0]}, 2, r"weight_bits must be in 2\.\.8, not 9"),
        ({"codebook": 3}, 2, "codebook must be text and not empty, or null, not 3"),
        ({"codebook": ""}, 2, "codebook must be text and not empty, or null, not ''"),
        ({"codebook": "x", "method": ["int8", 0, 0, 0, 0]}, 2, "codebook must be null for method int8, not 'x'"),
        ({"codeword_bits": 8}, 1, "header of layer 'a': field 'codeword_bits' must not be in a file of version 1"),
        ({"codeword_bits": 4}, 2, "header of layer 'a': field 'codeword_bits' must not be in a file of version 2"),
        ({"codeword_bits": 1}, 3, r"codeword_bits must be an integer in 2\.\.8, not 1"),
        ({"codeword_bits": 9}, 3, r"codeword_bits must be an integer in 2\.\.8, not 9"),
        ({"codeword_bits": "4"}, 3, r"codeword_bits must be an integer in 2\.\.8, not '4'"),
        ({"codeword_bits": True}, 3, r"codeword_bits must be an integer in 2\.\.8, not True"),
        ({"codeword_bits": 4.0}, 3, r"codeword_bits must be an integer in 2\.\.8, not 4\.0"),
        ({"codeword_bits": 4, "method": ["int8", 0, 0, 0, 0]}, 3, "codeword_bits must be 8 for method int8, not 4"),
        # 12 elements of 4 bits are 6 bytes.
        ({"codeword_bits": 4}, 3, "end: 6 bytes behind the last section"),
    ],
)
def test_fields_that_lie(path: Path, fields: dict[str, Any], version: int, message: str) -> None:
    path.write_bytes(assemble(small(**fields), list(SMALL.values()), version))
    with pytest.raises(ContainerError, match=message):
        read_container(path)


def test_a_shared_codebook_of_another_size_is_refused(path: Path) -> None:
    one = small(codebook="x")["layers"][0]
    other = one | {"name": "b", "method": ["mvq", 4, 2, 2, 4]}
    path.write_bytes(assemble({"layers": [one, other]}, list(SMALL.values()), 2))
    with pytest.raises(ContainerError, match="layer 'b': codebook 'x' must have d, k and bits 4, 3, 8 as in layer 'a'"):
        read_container(path)


def test_every_flipped_bit_of_version_2_is_found(path: Path) -> None:
    write_container(path, sharing())
    data = path.read_bytes()
    for bit in range(0, 8 * len(data), 7):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(ContainerError):
            read_container(path)


def test_shared_codebooks_cost_no_more_than_the_file_can_justify(path: Path) -> None:
    fields = [{"name": str(i), "shape": [256, 1, 1, 1]} for i in range(65)]
    header = {"layers": fields, "default": {"method": ["ssvq", 256, 65536, 256, 256], "codebook": "x"}}
    path.write_bytes(assemble(header, [bytes(8)], 2))
    rule = "header: shared codebooks, counted for each of their layers, must have at most"
    with pytest.raises(ContainerError, match=f"{rule} 1073741824 elements, not 1090"):
        read_container(path)
