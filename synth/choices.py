"""``python -m synth.choices``: the areas behind two choices of the hardware, into build/synth/choices.json and .md.

Which mask decoder is the smaller, the paper's table of masks or arithmetic; and how much the comparison of sparse with
dense tiles depends on how registers are kept (:data:`synth.flow.STORAGES`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hw.command_line import interruptible
from hw.config import MASK_DECODERS, preset
from synth.libraries import write_tables

if TYPE_CHECKING:
    from synth.liberty import Library

__all__ = ["main", "markdown", "measure"]

PATTERNS = ((1, 2), (2, 4), (4, 16), (6, 16), (8, 16))
VARIANTS = ("ews", "ews-cms", "ews-msvq")


def measure(library: Library, size: int = 64, progress: bool = True) -> dict[str, Any]:
    """Areas in the library's unit: of one mask decoder by N:M and style, and of arrays by storage and variant.

    Storages that need a cell that the library does not have are left out.
    """
    from rich.console import Console
    from rich.progress import track

    from hw.generate import source_hash
    from hw.yosys import yosys_version
    from synth.flow import STORAGES
    from synth.report import area, unit_area

    console = Console(stderr=True, quiet=not progress)
    decoders: dict[str, dict[str, float]] = {}
    for n, m in track(PATTERNS, "mask decoders", console=console):
        for style in MASK_DECODERS:
            config = preset("ews-cms-16").override([f"N={n}", f"M={m}", f"mask_decoder={style}"])
            part, _ = unit_area(config, "mask_decoder", library)
            decoders.setdefault(f"{n}:{m}", {})[style] = part.area
    arrays: dict[str, dict[str, dict[str, float]]] = {}
    lacks_gate, lacks_latch = library.clock_gate is None, library.latch is None
    left_out = {"flipflop": False, "gated": lacks_gate, "latch": lacks_gate or lacks_latch}
    runs = [(storage, variant) for storage in STORAGES if not left_out[storage] for variant in VARIANTS]
    for storage, variant in track(runs, "register files", console=console):
        report = area(preset(f"{variant}-{size}"), library, storage)
        arrays.setdefault(storage, {})[variant] = {"total": report.total, "without_crf": report.without_crf}
    return {
        "library": {"name": library.name, "sha256": library.sha256, "unit": library.area_unit},
        "nand2": library.nand2.area,
        "size": size,
        "tools": {"yosys": yosys_version()},
        "hw_sha256": source_hash(),
        "mask_decoder": decoders,
        "storage": arrays,
    }


def markdown(measured: dict[str, Any]) -> Iterator[str]:
    """The result of :func:`measure` as two Markdown tables, line by line."""
    from synth.report import change, table

    nand2 = measured["nand2"]
    rows = [
        [pattern, *(f"{areas[style] / nand2:,.0f}" for style in MASK_DECODERS)]
        for pattern, areas in measured["mask_decoder"].items()
    ]
    yield table(["mask decoder, NAND2 equivalents", *MASK_DECODERS], rows)
    yield ""
    rows = []
    for storage, arrays in measured["storage"].items():
        base = arrays["ews"]["total"]
        cms, msvq = arrays["ews-cms"], arrays["ews-msvq"]
        figures = (cms["total"], cms["without_crf"], msvq["total"], msvq["without_crf"])
        rows.append([storage, f"{base / nand2 / 1e3:,.0f}", *(change(figure, base) for figure in figures)])
    size = measured["size"]
    names = [f"EWS-CMS-{size}", "without CRF", f"EWS-MSVQ-{size}", "without CRF"]
    yield table(["registers", f"EWS-{size}, kNAND2", *names], rows)
    yield ""
    yield f"Library {measured['library']['name']}, Yosys {measured['tools']['yosys']}, cells alone."


@interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, or 2 after one line on stderr."""
    return write_tables("choices", __doc__ or "", measure, markdown, arguments)


if __name__ == "__main__":
    sys.exit(main())
