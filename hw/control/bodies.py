"""What an instance takes in the body of a descriptor: ranges of the fields, and payloads of the units' commands."""

from __future__ import annotations

from collections.abc import Collection

from amaranth.hdl import Shape
from amaranth.lib import data

from hw.config import AcceleratorConfig
from hw.control.descriptor import BODIES, Channel, Opcode, VectorOp

__all__ = ["FULL_VECTOR_FIELDS", "READ_FIELDS", "SUM_FIELDS", "body_layout", "field_ranges", "store_layout"]

#: Fields of TILE that the activation reader and the psum buffer need.
READ_FIELDS = ("B", "D", "Dr", "width", "height", "advance_columns", "passes", "l1_base")
READ_FIELDS += ("line_pitch", "position_pitch", "dr_pitch", "ds_pitch", "b_pitch")
SUM_FIELDS = ("A", "width", "height", "accumulate", "last", "shift", "psum_base")

#: Fields of VECTOR that only a vector unit with all functions looks at.
FULL_VECTOR_FIELDS = ("a_skip", "b_skip", "l2_skip", "rotation", "tail", "rotate_a", "upsample", "lookup")

# What is only added to addresses counts modulo the power of two that numbers the memory's words.
_L2_PITCHES = {
    Opcode.COPY: ("row_words", "pixel_words", "first_word"),
    Opcode.OUTPUT: ("line_words", "position_words"),
}
_L1_PITCHES = {Opcode.TILE: ("line_pitch", "position_pitch", "dr_pitch", "ds_pitch", "b_pitch")}


def field_ranges(opcode: Opcode, config: AcceleratorConfig) -> dict[str, tuple[int, int]]:
    """Smallest and largest value of each field of a body that is legal in an instance; others end the program.

    What several fields must obey together is not here: alignment of addresses, and the products of A, B, D and Dr.
    """
    loop = (1 << config.loop_bits) - 1
    l2, ifmap = config.l2_depth, config.l1_ifmap_depth
    window = min(config.arf_depth, config.wrf_depth)
    limits = {
        Opcode.FETCH: {"words": (1, 1 << 32), "channel": (0, len(Channel) - 1)},
        Opcode.LOAD: {"words": (1, l2), "l2_base": (0, l2 - 1)},
        Opcode.STORE: {"words": (1, l2), "l2_base": (0, l2 - 1)},
        Opcode.COPY: {
            "l2_base": (0, l2 - 1),
            "height": (1, ifmap),
            "width": (1, ifmap),
            "channel_words": (0, l2),
            "groups": (1, ifmap),
            "l1_base": (0, ifmap - 1),
        },
        Opcode.TILE: {
            "A": (1, min(config.prf_depth, config.wrf_depth)),
            "B": (1, window),
            "D": (1, window),
            "Dr": (1, window),
            "rows": (1, config.H),
            "width": (1, loop),
            "height": (1, loop),
            "codewords": (0, config.k if config.features.codebook else 0),
            "advance_columns": (1, window),
            "passes": (1, window),
            "psum_base": (0, config.l1_psum_depth - 1),
            "l1_base": (0, ifmap - 1),
        },
        Opcode.OUTPUT: {
            "l2_base": (0, l2 - 1),
            "A": (1, min(config.prf_depth, config.wrf_depth)),
            "width": (1, l2),
            "height": (1, l2),
            "channels": (1, config.prf_depth * config.L),
        },
        Opcode.VECTOR: {
            "operation": (0, max(VectorOp) if config.full_vector_unit else int(VectorOp.ADD)),
            "kernel_rows": (1, 255),
            "kernel_columns": (1, 255),
            "shift": (0, 62),
            **dict.fromkeys(("a_base", "b_base", "l2_base"), (0, l2 - 1)),
            **dict.fromkeys(("height", "width", "pixel_words"), (1, l2)),
            **(
                {"rotation": (0, config.l2_word - 1), "tail": (0, config.l2_word - 1), "upsample": (0, 2)}
                if config.full_vector_unit
                else {}
            ),
        },
    }.get(opcode, {})
    ranges = {}
    for field in BODIES[opcode]:
        low, high = field.range
        if field.name == "address":
            high = (1 << config.address_bits) - 1
        least, most = limits.get(field.name, (low, high))
        ranges[field.name] = least, min(most, high)
    return ranges


def body_layout(opcode: Opcode, config: AcceleratorConfig, names: Collection[str] | None = None) -> data.StructLayout:
    """The fields of an opcode's body, in order, as wide as their legal values are.

    Parameters
    ----------
    opcode
        Of the descriptor.
    config
        The instance.
    names
        Fields that the unit needs; all by default.
    """
    shapes = {}
    ranges = field_ranges(opcode, config)
    for field in BODIES[opcode]:
        if field.name.startswith("reserved") or (names is not None and field.name not in names):
            continue
        if field.name == "shift" and opcode == Opcode.TILE and config.weight_bits == 8:
            continue  # every weight is one digit
        if field.name in FULL_VECTOR_FIELDS and opcode == Opcode.VECTOR and not config.full_vector_unit:
            continue
        low, high = ranges[field.name]
        for pitches, depth in ((_L2_PITCHES, config.l2_depth), (_L1_PITCHES, config.l1_ifmap_depth)):
            if field.name in pitches.get(opcode, ()):
                high = min(high, (1 << (depth - 1).bit_length()) - 1)
        bits = max(high.bit_length(), (~low).bit_length() if low < 0 else 0)
        shapes[field.name] = Shape(bits + (low < 0), signed=low < 0)
    return data.StructLayout(shapes)


def store_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Command of the store unit: STORE, or RECORD where ``record`` is set."""
    return data.StructLayout({"record": 1, **body_layout(Opcode.STORE, config).members})
