"""``python -m tools.boards``: the tables of docs/board.md, from the bitstreams that were built.

What ``make board`` has left in ``build/board`` goes, in short, into ``docs/results/boards.json``, which is committed;
where a board has not been built, what is committed stays.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hw.command_line import Parser, interruptible
from sw.format.strict_json import json_text
from tools.answers import RESULTS, ROOT
from tools.marked import row, write_parts

PAGE = ROOT / "docs" / "board.md"
COMMITTED = RESULTS / "boards.json"
BUILT = ROOT / "build" / "board"

#: Resources as nextpnr calls them, and as the table does.
RESOURCES = {
    "TRELLIS_COMB": "LUTs",
    "TRELLIS_FF": "flip-flops",
    "DP16KD": "block RAMs",
    "MULT18X18D": "multipliers",
}


def condense(built: Path, committed: dict[str, Any]) -> dict[str, Any]:
    """The committed reports; those of a folder of builds take the place of older ones of the same board and network."""
    found = dict(committed)
    for path in sorted(built.glob("*/board.json")):
        report = json.loads(path.read_text())
        used = {name: report["used"].get(name, 0) for name in RESOURCES}
        available = {name: report["available"].get(name, 0) for name in RESOURCES}
        found[f"{report['board']} {report['network']}"] = report | {"used": used, "available": available}
    return dict(sorted(found.items()))


def boards_part(reports: dict[str, Any]) -> Iterator[str]:
    """A row for each board."""
    yield row("board", *RESOURCES.values(), "clock reached", "needed", "seed", "processor minutes")
    yield "|---|" + "--:|" * (len(RESOURCES) + 4)
    for report in reports.values():
        used = (
            f"{report['used'][name]:,} of {report['available'][name]:,} "
            f"({100 * report['used'][name] / report['available'][name]:.0f} %)"
            for name in RESOURCES
        )
        yield row(
            f"`{report['board']}`",
            *used,
            f"{report['fmax_mhz']:.1f} MHz",
            f"{report['clock_mhz']:g} MHz",
            report["seed"],
            f"{report['processor_seconds'] / 60:.0f}",
        )


def blocks_part(reports: dict[str, Any]) -> Iterator[str]:
    """A row for each block, of the first board."""
    kinds = tuple(RESOURCES.values())
    blocks = next(iter(reports.values()))["blocks"]
    yield row("block", *kinds)
    yield "|---|" + "--:|" * len(kinds)
    for name, found in blocks.items():
        yield row(name, *(f"{found[kind]:,}" if kind in found else "" for kind in kinds))
    yield row("all", *(f"{sum(found.get(kind, 0) for found in blocks.values()):,}" for kind in kinds))


def render(text: str, reports: dict[str, Any]) -> str:
    """The page with its parts written anew.

    Raises
    ------
    ValueError
        A part is missing or marked more than once.
    """
    parts = {"boards": partial(boards_part, reports), "blocks": partial(blocks_part, reports)}
    return write_parts(text, parts, PAGE.name)


@interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    Parser(prog="python -m tools.boards", description=__doc__).parse_args(arguments)
    committed = json.loads(COMMITTED.read_text()) if COMMITTED.exists() else {}
    reports = condense(BUILT, committed)
    COMMITTED.write_text(json_text(reports))
    PAGE.write_text(render(PAGE.read_text(), reports))
    print(PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
