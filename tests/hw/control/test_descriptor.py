"""The table of descriptors: packing, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from hw.control.descriptor import (
    BODIES,
    BYTES,
    EVENTS,
    SUMMARIES,
    Descriptor,
    DescriptorError,
    Opcode,
    body_offsets,
    head_offsets,
    markdown,
)


@pytest.mark.parametrize("opcode", list(Opcode))
def test_round_trip_of_extremes(opcode: Opcode) -> None:
    for end in (0, 1):
        body = {field.name: field.range[end] for field in BODIES[opcode]}
        waits = dict.fromkeys(EVENTS, 65535 * end)
        descriptor = Descriptor(opcode, body, 7, waits)
        data = descriptor.pack()
        assert len(data) == BYTES
        assert Descriptor.unpack(data) == descriptor


@pytest.mark.parametrize("opcode", list(Opcode))
def test_fields_do_not_overlap_and_fit(opcode: Opcode) -> None:
    taken = 0
    for offset, field in (head_offsets() | body_offsets(opcode)).values():
        mask = ((1 << field.bits) - 1) << offset
        assert not taken & mask
        taken |= mask
    assert taken.bit_length() <= 8 * BYTES


def test_one_field_changes_its_bits_alone() -> None:
    base = int.from_bytes(Descriptor(Opcode.TILE).pack(), "little")
    offset, field = body_offsets(Opcode.TILE)["line_pitch"]
    changed = int.from_bytes(Descriptor(Opcode.TILE, {"line_pitch": 5}).pack(), "little")
    assert changed ^ base == 5 << offset
    assert field.bits == 24


def test_refusals() -> None:
    with pytest.raises(DescriptorError, match="TILE has no field 'Q'; its fields are A, B, D,"):
        Descriptor(Opcode.TILE, {"Q": 1})
    with pytest.raises(DescriptorError, match=r"COPY: first_row must be in -32768\.\.32767, not 40000"):
        Descriptor(Opcode.COPY, {"first_row": 40000})
    with pytest.raises(DescriptorError, match=r"END: wait_fed must be in 0\.\.65535, not -1"):
        Descriptor(Opcode.END, waits={"fed": -1})
    with pytest.raises(DescriptorError, match="a descriptor must have 64 bytes, not 63"):
        Descriptor.unpack(bytes(63))
    with pytest.raises(DescriptorError, match=r"opcode must be in 1\.\.9, not 0"):
        Descriptor.unpack(bytes(64))


def test_the_page_is_of_this_table() -> None:
    page = Path(__file__).parents[3] / "docs" / "descriptors.md"
    assert page.read_text() == markdown(), "python -m hw.control.descriptor > docs/descriptors.md"
    assert list(SUMMARIES) == [opcode.name for opcode in Opcode]
