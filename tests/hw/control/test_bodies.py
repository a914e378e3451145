"""Ranges and widths of descriptor fields in an instance, counted by hand from its sizes."""

from __future__ import annotations

import pytest
from amaranth.hdl import Shape, signed, unsigned

from hw.config import AcceleratorConfig, preset
from hw.control.bodies import FULL_VECTOR_FIELDS, READ_FIELDS, SUM_FIELDS, body_layout, field_ranges, store_layout
from hw.control.descriptor import BODIES, Opcode, VectorOp

# Each size is another number: 6,144 words of L2, 384 of the ifmap, 51 of the psums.
SIZES = ["H=2", "L=12", "wrf_depth=32", "arf_depth=8", "prf_depth=16", "loop_bits=7", "address_bits=27"]
SIZES += ["l1_ifmap_bytes=768", "l1_psum_bytes=1536", "l2_bytes=12288"]
FULL = preset("ews-msvq-tiny").override([*SIZES, "weight_bits=4", "vector_unit_functions=full"])
BASIC = FULL.override(["weight_bits=8", "vector_unit_functions=basic"])

#: Least and most of each field that an instance limits.
LIMITS = {
    Opcode.FETCH: {"address": (0, (1 << 27) - 1), "words": (1, (1 << 32) - 1), "channel": (0, 3)},
    Opcode.LOAD: {"address": (0, (1 << 27) - 1), "words": (1, 6144), "l2_base": (0, 6143)},
    Opcode.STORE: {"address": (0, (1 << 27) - 1), "words": (1, 6144), "l2_base": (0, 6143)},
    Opcode.RECORD: {"address": (0, (1 << 27) - 1)},
    Opcode.COPY: {
        "l2_base": (0, 6143), "height": (1, 384), "width": (1, 384), "channel_words": (0, 6144), "groups": (1, 384),
        "l1_base": (0, 383),
    },
    Opcode.TILE: {
        "A": (1, 16), "B": (1, 8), "D": (1, 8), "Dr": (1, 8), "rows": (1, 2), "width": (1, 127), "height": (1, 127),
        "codewords": (0, 8), "advance_columns": (1, 8), "passes": (1, 8), "psum_base": (0, 50), "l1_base": (0, 383),
    },
    Opcode.OUTPUT: {
        "l2_base": (0, 6143), "A": (1, 16), "width": (1, 6144), "height": (1, 6144), "channels": (1, 192),
    },
    Opcode.VECTOR: {
        "operation": (0, 5), "kernel_rows": (1, 255), "kernel_columns": (1, 255), "shift": (0, 62),
        "a_base": (0, 6143), "b_base": (0, 6143), "l2_base": (0, 6143), "height": (1, 6144), "width": (1, 6144),
        "pixel_words": (1, 6144), "rotation": (0, 1), "tail": (0, 1), "upsample": (0, 2),
    },
}  # fmt: skip

#: Bits, in order; those of signed fields are negative.
BITS = {
    Opcode.FETCH: {"address": 27, "words": 32, "checksum": 32, "channel": 2},
    Opcode.LOAD: {"address": 27, "l2_base": 13, "words": 13},
    Opcode.STORE: {"address": 27, "l2_base": 13, "words": 13},
    Opcode.RECORD: {"address": 27},
    Opcode.COPY: {
        "l2_base": 13, "rows": 16, "columns": 16, "row_words": 13, "pixel_words": 13, "first_row": -16,
        "first_column": -16, "height": 9, "width": 9, "first_word": 13, "channel_words": 13, "groups": 9, "l1_base": 9,
    },
    Opcode.TILE: {
        "A": 5, "B": 4, "D": 4, "Dr": 4, "rows": 2, "width": 7, "height": 7, "codewords": 4, "advance_columns": 4,
        "passes": 4, "start": 1, "raw": 1, "accumulate": 1, "last": 1, "shift": 1, "psum_base": 6, "l1_base": 9,
        "line_pitch": 9, "position_pitch": 9, "dr_pitch": 9, "ds_pitch": 9, "b_pitch": 9,
    },
    Opcode.OUTPUT: {
        "l2_base": 13, "line_words": 13, "position_words": 13, "A": 5, "low": -8, "high": -8, "width": 13,
        "height": 13, "channels": 8, "parameters": 1, "wide": 1,
    },
    Opcode.VECTOR: {
        "operation": 3, "kernel_rows": 8, "kernel_columns": 8, "stride_rows": 8, "stride_columns": 8,
        "padding_rows": 8, "padding_columns": 8, "shift": 6, "a_base": 13, "b_base": 13, "l2_base": 13, "rows": 16,
        "columns": 16, "height": 13, "width": 13, "pixel_words": 13, "low": -8, "high": -8, "multiplier_a": -32,
        "multiplier_b": -32, "a_skip": -16, "b_skip": -16, "l2_skip": -16, "rotation": 1, "tail": 1, "rotate_a": 1,
        "upsample": 2, "lookup": 1,
    },
    Opcode.END: {},
}  # fmt: skip


def _bits(opcode: Opcode, config: AcceleratorConfig, names: tuple[str, ...] | None = None) -> dict[str, Shape]:
    return {name: Shape.cast(field.shape) for name, field in body_layout(opcode, config, names)}


def _shapes(opcode: Opcode) -> dict[str, Shape]:
    return {name: unsigned(bits) if bits > 0 else signed(-bits) for name, bits in BITS[opcode].items()}


@pytest.mark.parametrize("opcode", BODIES)
def test_ranges_and_widths(opcode: Opcode) -> None:
    wanted = {field.name: field.range for field in BODIES[opcode]} | LIMITS.get(opcode, {})
    assert list(field_ranges(opcode, FULL).items()) == [(field.name, wanted[field.name]) for field in BODIES[opcode]]
    assert list(_bits(opcode, FULL).items()) == list(_shapes(opcode).items())


def test_an_instance_has_what_it_needs() -> None:
    """No digits of weights of 8 bit, no fields of vector functions that it lacks; all other widths are the same."""
    for opcode in BODIES:
        left_out = {Opcode.TILE: ("shift",), Opcode.VECTOR: FULL_VECTOR_FIELDS}.get(opcode, ())
        wanted = {name: shape for name, shape in _shapes(opcode).items() if name not in left_out}
        if opcode == Opcode.VECTOR:
            wanted["operation"] = unsigned(2)
        assert _bits(opcode, BASIC) == wanted
    ranges = field_ranges(Opcode.VECTOR, BASIC)
    assert ranges["operation"] == (0, VectorOp.ADD)
    assert [ranges[name] for name in ("rotation", "tail", "upsample")] == [(0, 63), (0, 63), (0, 3)]
    assert field_ranges(Opcode.TILE, preset("ews-tiny"))["codewords"] == (0, 0)


def test_the_smaller_register_file_limits_a_tile() -> None:
    config = FULL.override(["wrf_depth=4"])
    for opcode in (Opcode.TILE, Opcode.OUTPUT):
        assert field_ranges(opcode, config)["A"] == (1, 4)
    names = ("B", "D", "Dr", "advance_columns", "passes")
    assert {field_ranges(Opcode.TILE, config)[name] for name in names} == {(1, 4)}


def test_units_get_their_fields_alone() -> None:
    for names in (READ_FIELDS, SUM_FIELDS):
        wanted = {name: shape for name, shape in _shapes(Opcode.TILE).items() if name in names}
        assert set(wanted) == set(names)
        assert _bits(Opcode.TILE, FULL, names) == wanted
    store = {name: Shape.cast(field.shape) for name, field in store_layout(FULL)}
    assert store == {"record": unsigned(1), **_shapes(Opcode.STORE)}
