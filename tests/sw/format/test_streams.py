from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hw.config import AcceleratorConfig
from hw.layout import Schedule, mask_rank, row_subvectors
from sw.format.example import random_layer
from sw.format.layer import CompressedLayer
from sw.format.streams import StreamError, StreamLayout, layer_streams, subvector_order, unpack_streams

METHODS: dict[str, tuple[str, dict[str, int]]] = {
    "int8": ("int8", {}),
    "vq": ("vq", {"d": 4, "k": 37}),
    "mvq": ("mvq", {"d": 4, "k": 16, "n": 1, "m": 2}),
    "mvq one group": ("mvq", {"d": 4, "k": 5, "n": 2, "m": 4}),
    "ssvq": ("ssvq", {"d": 4, "k": 16}),
    "msvq": ("msvq", {"d": 4, "k": 2, "n": 3, "m": 4}),
    "one codeword": ("msvq", {"d": 4, "k": 1, "n": 2, "m": 4}),
    "full masks": ("mvq", {"d": 4, "k": 3, "n": 4, "m": 4}),
    "nothing to store": ("vq", {"d": 4, "k": 1}),
}
SCHEDULES = {
    "canonical": Schedule(1, 4),
    "one pass": Schedule(4, 8),
    "extended": Schedule(3, 8, A=2, B=2, Dr=3, Ds=1),
    "columns": Schedule(2, 4, A=3, B=1, Dr=1, Ds=2),
    "beyond": Schedule(16, 32, A=9, B=9, Dr=3, Ds=2),
}


def any_layer(method: str, shape: tuple[int, int, int, int] = (12, 7, 3, 2)) -> CompressedLayer:
    name, parts = METHODS[method]
    return random_layer(np.random.default_rng(1), name, shape, **parts)


@pytest.mark.parametrize("seed", range(40))
def test_order_equals_the_generator(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def pick(high: int) -> int:
        return int(rng.integers(1, high + 1))

    d = int(rng.choice([1, 2, 4]))
    R, S = ([1, 1], [3, 3], [4, 6], [5, 2])[seed % 4]
    shape = (d * pick(6), pick(9), R, S)
    Dr = int(rng.choice([x for x in range(1, R + 1) if R % x == 0]))
    Ds = int(rng.choice([x for x in range(1, S + 1) if S % x == 0]))
    schedule = Schedule(pick(10), d * pick(4), pick(3), pick(3), Dr, Ds)
    order = subvector_order(shape, d, schedule)
    assert order.tolist() == list(row_subvectors(shape, d, schedule))
    assert len(order) == StreamLayout(shape, "vq", d, 2, d, d, schedule).row_writes


def test_canonical_schedule_is_canonical_order() -> None:
    assert subvector_order((12, 7, 3, 2), 4, Schedule(1, 4)).tolist() == [[i] for i in range(3 * 7 * 6)]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("method", METHODS)
def test_streams_bit_by_bit(method: str, schedule: str) -> None:
    """The streams against strings of bits, put together with the scalar codec of the layout."""
    layer, cut = any_layer(method), SCHEDULES[schedule]
    bits: dict[str, list[str]] = {"index": [], "mask": [], "sign": [], "weight": []}

    def add(name: str, value: int, width: int) -> None:
        bits[name].append(format(value, f"0{width}b")[::-1] if width else "")

    d = layer.d or 1
    index_bits = (layer.k - 1).bit_length() if layer.d else 0
    group_bits = {(1, 2): 1, (2, 4): 3, (3, 4): 2, (4, 4): 0}.get((layer.n, layer.m), 0)
    for write in row_subvectors(layer.shape, d, cut):
        for j in write:
            if layer.weights is not None:
                add("weight", int(layer.weights.reshape(-1)[j]) & 255 if j >= 0 else 0, 8)
                continue
            assert layer.assignments is not None
            add("index", int(layer.assignments[j]) if j >= 0 else 0, index_bits)
            if layer.masks is not None:
                for group in layer.masks[j].reshape(-1, layer.m).tolist():
                    add("mask", mask_rank(group, layer.n) if j >= 0 else 0, group_bits)
            if layer.signs is not None:
                for sign in layer.signs[j]:
                    add("sign", int(sign) if j >= 0 else 0, 1)
    expected = {}
    for name, fields in bits.items():
        if text := "".join(fields):
            text += "0" * (-len(text) % 64)
            expected[name] = int(text[::-1], 2).to_bytes(len(text) // 8, "little")
    streams = layer_streams(layer, cut)
    assert streams == expected
    assert {name: len(data) for name, data in streams.items()} == StreamLayout.of(layer, cut).sizes


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("method", METHODS)
def test_unpack_reverses(method: str, schedule: str) -> None:
    layer, cut = any_layer(method), SCHEDULES[schedule]
    parts = unpack_streams(StreamLayout.of(layer, cut), layer_streams(layer, cut))
    present = {"weights", "assignments", "masks", "signs"}
    assert set(parts) == {name for name in present if getattr(layer, name) is not None}
    for name, part in parts.items():
        original = getattr(layer, name)
        assert part.dtype == original.dtype
        assert np.array_equal(part, original)


@pytest.mark.parametrize("method", ["mvq", "msvq"])
def test_raw_weights(method: str) -> None:
    layer, cut = any_layer(method), SCHEDULES["extended"]
    K = layer.shape[0]
    writes = np.frombuffer(layer_streams(layer, cut, raw=True)["weight"], np.int8)
    layout = StreamLayout.of(layer, cut, raw=True)
    writes = writes[: layout.row_writes * cut.L].reshape(-1, cut.L)
    # The first row writes by hand: q = 0 and its row group 0, then the second of the A column groups.
    weights = layer.integer_weights()
    assert np.array_equal(writes[:3], weights[:8, :3, 0, 0].T)
    assert np.array_equal(writes[3:6, : K - 8], weights[8:, :3, 0, 0].T)
    assert not writes[3:6, K - 8 :].any()
    assert np.array_equal(unpack_streams(layout, layer_streams(layer, cut, raw=True))["weights"], weights)


@pytest.mark.parametrize("variant", ["ews-c", "ews-cms", "ews-ssvq", "ews-msvq"])
def test_streams_are_those_of_the_instance(variant: str) -> None:
    method = {"ews-c": "vq", "ews-cms": "mvq", "ews-ssvq": "ssvq", "ews-msvq": "msvq"}[variant]
    masked = {"n": 2, "m": 4} if method in ("mvq", "msvq") else {}
    config = AcceleratorConfig(variant=variant, H=4, L=16, d=8, k=32, N=2, M=4)
    layer = random_layer(np.random.default_rng(0), method, (32, 4, 1, 1), d=8, k=32, **masked)
    layout = StreamLayout.of(layer, Schedule(config.H, config.L))
    assert {name: bits * config.tiles for name, bits in layout.bits.items()} == config.streams


def change(**fields: Any) -> dict[str, Any]:
    layout = {"shape": (8, 3, 3, 3), "method": "mvq", "d": 4, "k": 8, "n": 2, "m": 4, "schedule": Schedule(1, 4)}
    return layout | fields


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({"method": "zip"}, "method must be one of int8, vq, .*, not 'zip'", id="method"),
        pytest.param({"shape": (8, 0, 3, 3)}, "shape must be four positive integers", id="shape"),
        pytest.param({"method": "int8"}, "d, k, n, m must be 0 for method int8, not 4, 8, 2, 4", id="int8 with d"),
        pytest.param({"d": 3}, "d must be at least 1 and divide K = 8, not 3", id="d"),
        pytest.param({"d": 0}, "d must be at least 1 and divide K = 8, not 0", id="no d"),
        pytest.param({"k": 0}, r"k must be in 1\.\.65536, not 0", id="k"),
        pytest.param({"m": 3}, "m must be at least 1 and divide d = 4, not 3", id="m"),
        pytest.param({"n": 5}, r"n must be in 1\.\.m = 1\.\.4, not 5", id="n"),
        pytest.param({"schedule": Schedule(1, 6)}, "L must be a multiple of d = 4, not 6", id="L"),
        pytest.param({"schedule": Schedule(1, 4, Dr=2)}, "Dr x Ds must divide the kernel 3 x 3, not 2 x 1", id="Dr"),
    ],
)
def test_layout_refuses(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(StreamError, match=message):
        StreamLayout(**change(**fields))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(((6, 1, 1, 1), 4, Schedule(1, 4)), "output channels must be a multiple of d = 4, not 6", id="K"),
        pytest.param(((8, 1, 1, 1), 4, Schedule(1, 6)), "L must be a multiple of d = 4, not 6", id="L"),
        pytest.param(((8, 1, 3, 3), 4, Schedule(1, 4, Ds=2)), "Dr x Ds must divide the kernel 3 x 3", id="Ds"),
    ],
)
def test_order_refuses(arguments: Any, message: str) -> None:
    with pytest.raises(StreamError, match=message):
        subvector_order(*arguments)


def test_layer_streams_refuse_a_schedule_that_does_not_fit() -> None:
    with pytest.raises(StreamError, match="L must be a multiple of d = 4, not 6"):
        layer_streams(any_layer("mvq"), Schedule(1, 6))


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        pytest.param("index", lambda data: None, "index stream: must exist for method mvq", id="missing"),
        pytest.param("sign", lambda data: b"", "sign stream: must not exist for method mvq", id="superfluous"),
        pytest.param("index", lambda data: data[:-8], "index stream: must have 32 bytes, not 24", id="short"),
        pytest.param("mask", lambda data: data + bytes(8), "mask stream: must have 32 bytes, not 40", id="long"),
        pytest.param(
            "index",
            lambda data: bytes([data[0] | 7]) + data[1:],
            r"index stream: assignments must be in 0\.\.4, not 7",
            id="assignment",
        ),
        pytest.param(
            "mask",
            lambda data: bytes([data[0] | 6]) + data[1:],
            r"mask stream: mask rank must be in 0\.\.5 for 2:4, not [67]",
            id="rank",
        ),
        pytest.param(
            "mask",
            lambda data: data[:-1] + b"\x80",
            "mask stream: padding behind 84 fields of 3 bits must be zero",
            id="padding",
        ),
        pytest.param(
            "index",
            lambda data: data[:16] + bytes([data[16] | 2]) + data[17:],
            "index stream: fields of absent output channels must be zero",
            id="absent",
        ),
    ],
)
def test_unpack_refuses(name: str, edit: Any, message: str) -> None:
    # 12 output channels on 8 columns: 42 row writes of two fields, of which the second is absent in the last 21. So
    # field 43, the bits from 129 on, is the first absent one.
    layer = any_layer("mvq one group", (12, 7, 3, 1))
    schedule = Schedule(4, 8)
    layout = StreamLayout.of(layer, schedule)
    streams = layer_streams(layer, schedule)
    edited = edit(streams.get(name))
    streams = {other: data for other, data in streams.items() if other != name}
    if edited is not None:
        streams[name] = edited
    with pytest.raises(StreamError, match=message) as caught:
        unpack_streams(layout, streams)
    assert caught.value.stream == name
