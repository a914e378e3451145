"""The parts of the design that are timed by themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from hw.config import AcceleratorConfig
from synth.report import UNITS

__all__ = ["SECTIONS", "Section"]


def _first_tree_rows(config: AcceleratorConfig) -> AcceleratorConfig:
    """As many rows as meet in the first registers of the adder trees: all paths from the multipliers to there."""
    rows = 1 << (config.tree_register_levels or config.tree_levels)
    return replace(_one_tile(config), H=min(rows, config.H))


def _one_tile(config: AcceleratorConfig) -> AcceleratorConfig:
    return replace(config, L=config.d, post_lanes=0, vector_lanes=0, l2_word_bytes=0)


@dataclass(frozen=True)
class Section:
    """A part of the design that is timed by itself."""

    #: In the report.
    name: str
    #: Instance that it consists of, without its number; empty for all of the component.
    top: str = ""
    #: Instances whose pins are its borders, because registers are there.
    without: tuple[str, ...] = ()
    #: Module and class of the component that has the instance.
    component: tuple[str, str] = ("hw.core", "AcceleratorCore")
    #: Gives a configuration with the same paths in fewer copies.
    shrink: Callable[[AcceleratorConfig], AcceleratorConfig] = lambda config: config
    #: Whether a configuration has the section.
    exists: Callable[[AcceleratorConfig], bool] = lambda config: True
    #: Instances of which the first one is part of it, and the others are black boxes.
    first: tuple[str, ...] = ()
    #: Loads that the net of a port goes to in all copies of the section, of which one is in it: by the name, without
    #: its number, of the instance that is a black box, or an empty one for the section itself, and that of the port.
    copies: Callable[[AcceleratorConfig, str, str], int] = lambda config, instance, port: 1


#: Ports of a tile that go to all of its rows.
_ROW_PORTS = ("i_address", "i_mrf_address", "i_write_address", "i_write_weights", "i_write_positions", "i_issued")


#: Ports of a tile that go to its sums, whatever the number of rows.
_PSUM_PORTS = (
    "i_accumulate", "i_first", "i_slot", "i_drain_slot", "i_next_first", "i_next_slot", "i_forward",
)  # fmt: skip


def _row_copies(config: AcceleratorConfig, instance: str, port: str) -> int:
    if port in ("i_activation", "i_write"):
        return config.tiles
    return config.H if port in ("i_write_weights", "i_write_positions") else config.H * config.tiles


def _row_groups(config: AcceleratorConfig, instance: str, port: str) -> int:
    if port in _PSUM_PORTS:
        return config.tiles
    return config.H * config.tiles // _first_tree_rows(config).H


def _lanes(config: AcceleratorConfig, instance: str, port: str) -> int:
    return config.L if port == "i_enable" else 1


def _from_control(config: AcceleratorConfig, instance: str, port: str) -> int:
    return config.tiles if instance == "control" else 1


def _in_tiles(config: AcceleratorConfig, instance: str, port: str) -> int:
    """Loads inside of a tile that is a black box."""
    return config.H if instance == "tile" and port in _ROW_PORTS else 1


def _gated_decoder(config: AcceleratorConfig) -> bool:
    return config.clock_gating and config.features.codebook


def _one_lane(config: AcceleratorConfig) -> AcceleratorConfig:
    return replace(config, variant="ews", d=1, L=1, post_lanes=0, vector_lanes=0, l2_word_bytes=0)


def _masked(config: AcceleratorConfig) -> bool:
    return config.features.mask and config.mask_bits > 0


def _coded(config: AcceleratorConfig) -> bool:
    return config.features.codebook


def _full(config: AcceleratorConfig) -> bool:
    return config.full_vector_unit


_BORDERS = ("scaler", "operand_product", "lookup_table")


def _unit(name: str, top: str) -> Section:
    # The lanes of requantiser and vector unit, and its table, are sections of their own.
    return Section(name, top, _BORDERS, component=("hw.accelerator", "Accelerator"))


_VECTOR_UNIT = "hw.postprocess.vector_unit", "VectorUnit"

#: The blocks of the core, then the units around it.
SECTIONS = (
    Section("unpackers and weight loader", "weight_loader", ("decoder",)),
    Section("mask decoder", "mask_decoder", exists=_masked),
    Section("LZC, selection, signs", "decoder", ("crf", "mask_decoder"), exists=_coded),
    Section("CRF", "crf", exists=_coded),
    Section("loop controller", "control"),
    Section("ARF, weight loader, loop controller", "", ("tile", "decoder"), shrink=_one_tile),
    Section(
        "loop controller, weight loader, one row",
        "",
        ("decoder", "tree", "prf", "arf"),
        first=("tile", "row"),
        copies=_in_tiles,
    ),
    Section("weight loader, decoder's enables", "weight_loader", ("crf", "mask_decoder"), exists=_gated_decoder),
    Section("WRF, MRF, multipliers, demux", "row", copies=_row_copies),
    Section(
        "demux to first tree register",
        "tile",
        ("wrf", "prf", "multiplier"),
        shrink=_first_tree_rows,
        exists=lambda config: config.features.sparse and config.product_register,
        copies=_row_groups,
    ),
    Section(
        "multipliers to first tree register",
        "tile",
        ("wrf", "prf"),
        shrink=_first_tree_rows,
        exists=lambda config: not config.product_register,
        copies=_row_groups,
    ),
    Section("adder tree", "tree", copies=_lanes),
    Section(
        "last tree levels, PRF",
        "tile",
        ("row",),
        shrink=_one_lane,
        exists=lambda config: not config.tree_registers or config.tree_levels % config.tree_register_levels > 0,
    ),
    Section(
        "PRF, accumulators, output",
        "",
        ("row", "tree", "weight_loader", "control", "arf"),
        shrink=_one_tile,
        copies=_from_control,
    ),
    *(_unit(block, instance) for instance, block in UNITS.items()),
    Section("requantiser lane", "scaler", component=("hw.postprocess.ofmap_storer", "OfmapStorer")),
    Section("vector unit lane", "scaler", component=_VECTOR_UNIT),
    Section("vector unit product", "operand_product", component=_VECTOR_UNIT, exists=_full),
    Section("vector unit table", "lookup_table", component=_VECTOR_UNIT, exists=_full),
    Section("counters", "", ("core", *UNITS), component=("hw.accelerator", "Accelerator")),
)
