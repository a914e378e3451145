"""``python -m synth.levers``: what could make the narrow array smaller, into build/synth/levers.json and .md.

Each change of ``ews-msvq4-16`` and of the dense array of as many bits, ``ews4-16``: area with the CRF, and cycles of
ResNet-18 by the cycle model, its layers without codewords of 8 bits.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hw.command_line import interruptible
from hw.config import preset
from synth.libraries import write_tables

if TYPE_CHECKING:
    from synth.liberty import Library

__all__ = ["LEVERS", "Lever", "main", "markdown", "measure"]

ARRAYS = ("ews-msvq4-16", "ews4-16")


@dataclass(frozen=True)
class Lever:
    """One change of an array."""

    #: In the report.
    name: str
    #: What it sets in the configuration.
    fields: tuple[str, ...] = ()
    #: How registers are kept: one of :data:`synth.libraries.STORAGES`.
    storage: str = "flipflop"
    #: Adder trees keep their carries (:class:`synth.flow.Synthesiser`).
    carry_save: bool = False


#: The arrays as they are, then one change at a time.
LEVERS = (
    Lever("as it is"),
    Lever("register files with gated clocks", storage="gated"),
    Lever("register files of latches", storage="latch"),
    Lever("WRF and MRF of 8 entries", ("wrf_depth=8",)),
    Lever("WRF and MRF of 4 entries", ("wrf_depth=4",)),
    Lever("demultiplexers right behind the multipliers", ("product_register=false",)),
    Lever("adder trees of carry-save adders", carry_save=True),
    Lever("PRF of 4 entries", ("prf_depth=4",)),
    Lever("sums of 20 bits", ("psum_width=20",)),
    Lever("masks of 4:16", ("N=4", "M=16")),
)

_SHAPES = Path(__file__).parents[1] / "sim" / "networks" / "shapes" / "resnet18.json"


def measure(library: Library, progress: bool = True) -> list[dict[str, Any]]:
    """Area in the library's unit and cycles of each lever on each array, where it can be had.

    Storages that need a cell that the library does not have are left out, and so are masks of the dense array.
    """
    from rich.console import Console
    from rich.progress import track

    from sw.perf.estimate import estimate
    from sw.perf.shapes import read_workload
    from synth.report import area, unit_area

    workload = read_workload(_SHAPES, None)
    lacks = {"gated": library.clock_gate is None, "latch": library.clock_gate is None or library.latch is None}
    runs = [
        (lever, array)
        for lever in LEVERS
        for array in ARRAYS
        if not lacks.get(lever.storage)
        and (preset(array).features.mask or not any(field[:2] == "N=" for field in lever.fields))
    ]
    found = []
    for lever, array in track(runs, "levers", console=Console(stderr=True, quiet=not progress)):
        config = preset(array).override(lever.fields)
        report = area(config, library, lever.storage)
        blocks = {block: part.area for block, part in report.blocks.items()}
        if lever.carry_save:
            tree, count = unit_area(config, "tree", library, lever.storage, carry_save=True)
            blocks["adder trees"] = tree.area * count
        cycles = round(sum(layer.counters["cycles"] for layer in estimate(workload.network(config), config)))
        found.append(
            {"lever": lever.name, "array": array, "fields": list(lever.fields), "storage": lever.storage}
            | {"area": sum(blocks.values()), "blocks": blocks, "cycles": cycles}
        )
    return found


def described(library: Library) -> dict[str, Any]:
    """What :func:`measure` gives, and what it was made with."""
    from hw.generate import source_hash
    from hw.yosys import yosys_version

    return {
        "library": {"name": library.name, "sha256": library.sha256, "unit": library.area_unit},
        "nand2": library.nand2.area,
        "tools": {"yosys": yosys_version()},
        "hw_sha256": source_hash(),
        "levers": measure(library),
    }


def markdown(report: dict[str, Any]) -> Iterator[str]:
    """The result as a Markdown table, line by line."""
    from synth.report import change, table

    base = {entry["array"]: entry for entry in report["levers"] if entry["lever"] == LEVERS[0].name}
    rows = []
    for name in dict.fromkeys(entry["lever"] for entry in report["levers"]):
        found = {entry["array"]: entry for entry in report["levers"] if entry["lever"] == name}
        cells = []
        for array in ARRAYS:
            entry, as_is = found.get(array), base[array]
            if entry is None:
                cells += ["", "", ""]
                continue
            size = entry["area"] / report["nand2"] / 1e3
            cells += [f"{size:,.1f}", change(entry["area"], as_is["area"]), change(entry["cycles"], as_is["cycles"])]
        ours, dense = found[ARRAYS[0]], found.get(ARRAYS[1], base[ARRAYS[1]])
        rows.append([name, *cells, change(ours["area"], dense["area"])])
    header = [text for array in ARRAYS for text in (f"{array}, kNAND2", "area", "cycles of ResNet-18")]
    yield table(["lever", *header, f"{ARRAYS[0]} to {ARRAYS[1]}"], rows)
    yield ""
    yield f"Library {report['library']['name']}, Yosys {report['tools']['yosys']}, cells alone, with CRF."


@interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, or 2 after one line on stderr."""
    return write_tables("levers", (__doc__ or "").partition("\n")[0], described, markdown, arguments)


if __name__ == "__main__":
    sys.exit(main())
