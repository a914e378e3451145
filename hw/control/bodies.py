"""Payloads of the units' command streams: the bodies of the descriptors, as Amaranth layouts."""

from __future__ import annotations

from amaranth.hdl import Shape
from amaranth.lib import data

from hw.control.descriptor import BODIES, Opcode

__all__ = ["body_layout"]


def body_layout(opcode: Opcode) -> data.StructLayout:
    """All fields of an opcode's body, in order, at their full width. A unit drops the bits that it cannot use."""
    return data.StructLayout({field.name: Shape(field.bits, field.signed) for field in BODIES[opcode]})
