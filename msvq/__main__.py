"""``msvq``: one command for all that the packages do, each with ``--help``.

msvq check net:Net                                     what becomes of each layer and operation
msvq calibrate net:Net --data images.npz -o net.msvq   a whole network file from images, without training
msvq evaluate net.msvq --data images.npz               how accurate its integers are
msvq compile net.msvq --preset ews-cms-16 -o net.prog  a program for the accelerator
msvq run net.prog image.npy                            what it computes, bit for bit
msvq generate --preset ews-cms-16 --unit accelerator -o build/ip   its Verilog, C driver and constraints
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from hw.command_line import Parser, called_as

__all__ = ["COMMANDS", "main"]

#: Each command: the module whose ``main`` it is, arguments that come first, and what it is for.
COMMANDS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "example": ("msvq.example", (), "a small trained network and images, to try the commands on"),
    "compress": ("sw.compress.__main__", (), "weights to a container, without images and without training"),
    "check": ("sw.compress.commands.check", (), "what becomes of each layer and operation of a network"),
    "calibrate": ("sw.compress.commands.calibrate", (), "a whole network file from a batch of images"),
    "finetune": ("sw.compress.commands.finetune", (), "compress, train in that form, write a whole network file"),
    "evaluate": ("sw.compress.commands.evaluate", (), "accuracy of the integers of a network file"),
    "search": ("sw.compress.commands.search", (), "a recipe for each layer within a number of bytes"),
    "compile": ("sw.compiler.__main__", (), "a network file to a program of an instance"),
    "list": ("sw.compiler.__main__", ("list",), "a program as text"),
    "run": ("sw.run", (), "a program on the golden model, the Verilog, or the cycle model"),
    "perf": ("sw.perf.__main__", (), "cycles and traffic of a network on many instances"),
    "generate": ("hw.generate", (), "Verilog of an instance, with C driver and constraints"),
    "simulate": ("sim.__main__", (), "co-simulate variants against the golden model; needs the extra sim"),
    "report": ("synth.__main__", (), "area by block, and delays"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns its exit status: 2 after one line for bad input, 130 after Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in COMMANDS:
        module, first, _ = COMMANDS[given[0]]
        if "" not in sys.path and os.getcwd() not in sys.path:
            # Networks of the present folder are found, as with `python -m`.
            sys.path.insert(0, os.getcwd())
        try:
            command = importlib.import_module(module)
        except KeyboardInterrupt:
            print("msvq: interrupted", file=sys.stderr)
            return 130
        with called_as(f"msvq {given[0]}"):
            status: int = command.main([*first, *given[1:]])
        return status
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:{width}}  {text}" for name, (_, _, text) in COMMANDS.items())
    examples = (__doc__ or "").partition("\n\n")[2]
    parser = Parser(
        prog="msvq",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"Masked and sign-split vector quantisation of networks, and the accelerator that runs them.\n\n"
        f"commands:\n{listed}\n\nfrom a network to bits and Verilog:\n{examples}",
        epilog="msvq COMMAND --help says all that a command takes.",
    )
    parser.add_argument("--version", action="version", version=_version())
    parser.add_argument("command", metavar="COMMAND", choices=COMMANDS, help="one of those above")
    if not given:
        parser.error(f"a COMMAND is needed, one of {', '.join(COMMANDS)}; msvq --help says what each is for")
    parser.parse_args(given)
    return 2


def _version() -> str:
    from importlib import metadata

    try:
        return f"msvq {metadata.version('msvq')}"
    except metadata.PackageNotFoundError:
        return "msvq, not installed"


if __name__ == "__main__":
    sys.exit(main())
