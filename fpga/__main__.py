"""``python -m hw.board``: build the bitstream of a network for a board, and load it."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from fpga import BAUD, CLOCK
from hw.command_line import Parser, add_set_option, interruptible, path_argument, writable_folder, write_text
from hw.config import ConfigError, preset

if TYPE_CHECKING:
    from rich.table import Table

    from fpga.flow import Built

__all__ = ["main"]

#: Where results go if nothing else is said.
BUILD = Path("build/board")


def _tables(built: Built) -> list[Table]:
    from rich.table import Table

    devices = Table("resource", "used", "of", "share")
    for name, used in built.used.items():
        if used:
            of = built.available[name]
            devices.add_row(name, str(used), str(of), f"{100 * used / of:.0f} %")
    kinds = ("LUTs", "flip-flops", "block RAMs", "multipliers")
    parts = Table("block", *kinds)
    for name, found in built.blocks.items():
        parts.add_row(name, *(str(found.get(kind, 0)) for kind in kinds))
    return [devices, parts]


def _processor_seconds() -> float:
    """Of this process and of the tools: what the work takes where nobody else needs the processor."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _parser() -> Parser:
    parser = Parser(prog="python -m hw.board", description=__doc__)
    parser.add_argument("--board", metavar="NAME", help="the board; --list lists them")
    parser.add_argument("--network", metavar="NAME", default="digits", help="digits or layer (%(default)s)")
    parser.add_argument("--preset", default="ews-msvq-fpga", help="the instance (%(default)s)")
    add_set_option(parser)
    parser.add_argument("--clock", type=int, default=CLOCK, help="of the system, in Hz (%(default)s)")
    parser.add_argument("--baud", type=int, default=BAUD, help="of the UART (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of nextpnr (%(default)s)")
    parser.add_argument("--program", action="store_true", help="load the bitstream with openFPGALoader")
    parser.add_argument("--list", action="store_true", help="list the boards and exit")
    parser.add_argument(
        "-o", type=path_argument, metavar="DIR", dest="folder", help="build/board/BOARD-NETWORK without"
    )
    return parser


@interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0; 1 where the clock is not reached; 2 after one line on stderr."""
    parser = _parser()
    options = parser.parse_args(arguments)

    from rich.console import Console

    from fpga.flow import TOP, FlowError, check_tools, nextpnr_version, place_and_route, sources, synthesise
    from fpga.image import NETWORKS, BoardImage, divisor_of
    from hw.boards.platforms import BOARDS, Pll, board_named
    from hw.yosys import YosysError, yosys_version
    from sw.compiler.graph import CompileError
    from sw.compress.methods import CompressError
    from sw.golden import PsumOverflowError
    from sw.network import NetworkError
    from sw.program import ProgramError

    if options.list:
        for board in BOARDS.values():
            print(f"{board.name:16} {board.summary}")
        return 0
    console = Console(stderr=True)
    try:
        if options.board is None:
            parser.error(f"--board NAME is needed: one of {', '.join(BOARDS)}")
        board = board_named(options.board)
        if options.network not in NETWORKS:
            parser.error(f"network must be one of {', '.join(NETWORKS)}, not {options.network!r}")
        config = preset(options.preset).override(options.set)
        if not 0 <= options.seed < 1 << 31:
            parser.error(f"seed must be in 0..{(1 << 31) - 1}, not {options.seed}")
        Pll.between(round(board.make_platform().default_clk_frequency), options.clock)
        divisor_of(options.clock, options.baud)
        check_tools()
        loader = shutil.which("openFPGALoader")
        if options.program and loader is None:
            parser.error("openFPGALoader is not on PATH; without --program the bitstream is built alone")
        folder = writable_folder(options.folder or BUILD / f"{board.name}-{options.network}")
        begin = perf_counter()
        with console.status("training and compiling the network"):
            image = BoardImage.of(options.network, *NETWORKS[options.network](config))
        with console.status("generating the design"):
            texts = sources(
                board,
                options.clock,
                config,
                lambda: image.system(f"MSVQ {board.name}", options.clock, options.baud, verilog=True),
            )
        for name, text in texts.items():
            write_text(folder / name, text)
        with console.status("synthesis: some minutes"):
            write_text(folder / "yosys.log", synthesise(folder))
        with console.status("placing and routing: some minutes"):
            built = place_and_route(folder, board, options.clock, options.seed)
    except (
        *(ConfigError, CompileError, CompressError, NetworkError, ProgramError, PsumOverflowError),
        *(YosysError, FlowError),
    ) as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"cannot write: {error.strerror or error}")
    report = {
        "board": board.name,
        "network": options.network,
        "configuration": config.to_dict(),
        "clock_mhz": built.wanted,
        "fmax_mhz": built.fmax,
        "seed": built.seed,
        "used": dict(built.used),
        "available": dict(built.available),
        "blocks": {name: dict(found) for name, found in built.blocks.items()},
        "yosys": yosys_version(),
        "nextpnr": nextpnr_version(),
        "seconds": round(perf_counter() - begin),
        "processor_seconds": round(_processor_seconds()),
    }
    write_text(folder / "board.json", json.dumps(report, indent=2) + "\n")
    output = Console(width=None if sys.stdout.isatty() else 120)
    for table in _tables(built):
        output.print(table)
    print(f"{folder / TOP}.bit: {built.fmax:.1f} MHz reached, {built.wanted:g} MHz needed, seed {built.seed}")
    if built.fmax < built.wanted:
        print("the clock is not reached: try another --seed, or a lower --clock")
        return 1
    if options.program:
        assert loader is not None
        return subprocess.run([loader, *board.loader, str(built.bitstream)], check=False).returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
