"""``python -m formal``: prove all specifications; build/formal/formal.json and formal.md say what holds and how far."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from hw.command_line import Parser, interruptible, write_text

if TYPE_CHECKING:
    from formal.prove import Result, Specification

__all__ = ["SMALL", "all_specifications", "main", "markdown"]

#: Names of a small part, which takes seconds; a test runs it.
SMALL = (
    "MaskDecoder 2:4, arithmetic: the mask of the rank",
    "MaskDecoder 2:4: another mask",
    "PositionEncoder 2:4: kept positions, ascending",
    "Unpacker 8 to 8: words in are words out, in order",
    "WordAssembler 1 to 4: an offer holds",
    "ReadQueue: an offer holds",
    "WordFifo of 4: an offer holds",
    "WordFifo of 4, overrun: words in are words out, in order",
    "CommandQueue of 3: an offer holds",
    "StoreUnit: an offer holds",
    "StoreUnit, a writer that ends early: an offer holds",
    "RegisterBank: B and R hold",
    "RegisterBank: one answer to a request",
    "DmaWriter, 16 bits: low in reset",
    "ByteRotator 4: every byte from the other side",
    "WindowWalker, upsampling: half the position, inside",
)


def all_specifications() -> Iterator[Specification]:
    """Every specification there is."""
    from formal import bus, decoders, streams, units, vector

    for part in (streams, units, decoders, bus, vector):
        yield from part.specifications()


def _prove_named(name: str) -> Result:
    from formal.prove import prove

    (specification,) = (x for x in all_specifications() if x.name == name)
    return prove(specification)


def markdown(results: Iterable[Result]) -> str:
    """A table of the results."""
    from formal.prove import Method, Verdict

    lines = ["| what | how | cycles | assertions | verdict |", "|---|---|---|---|---|"]
    for result in results:
        bounded = result.method in (Method.BOUNDED, Method.INDUCTION)
        must = ", as it must be" if result.verdict is Verdict.REFUTED and result.expected else ""
        depth = result.depth if bounded else ""
        lines.append(
            f"| {result.name} | {result.method.value} | {depth} | {result.assertions} | {result.verdict.value}{must} |"
        )
    return "\n".join(lines) + "\n"


@interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns 0 if every specification is as it must be, else 1."""
    parser = Parser(prog="python -m formal", description=__doc__)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (%(default)s)")
    parser.add_argument("--only", default="", metavar="TEXT", help="specifications whose names have this text in them")
    options = parser.parse_args(arguments)
    names = [x.name for x in all_specifications() if options.only in x.name]
    if not names:
        parser.error(f"no specification has {options.only!r} in its name")
    results = []
    with ProcessPoolExecutor(options.jobs) as pool:
        for result in pool.map(_prove_named, names):
            mark = "ok  " if result.expected else "FAIL"
            print(f"{mark} {result.seconds:7.1f} s  {result.verdict.value:21} {result.name}", flush=True)
            results.append(result)
    folder = Path("build") / "formal"
    folder.mkdir(parents=True, exist_ok=True)
    versions = {name: metadata.version(name) for name in ("amaranth", "pyosys", "z3-solver")}
    entries = [
        dataclasses.asdict(result) | {"method": result.method.value, "verdict": result.verdict.value}
        for result in results
    ]
    write_text(folder / "formal.json", json.dumps({"tools": versions, "results": entries}, indent=1) + "\n")
    write_text(folder / "formal.md", markdown(results))
    failed = sum(not result.expected for result in results)
    assertions = sum(result.assertions for result in results)
    print(f"{assertions} assertions of {len(results)} specifications, {failed} not as they must be")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
