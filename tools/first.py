"""``python -m tools.first``: the commands that README.md and docs/start.md show, run, with what they print.

Everything happens in a temporary folder. Long tables are left out in the middle.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from hw.command_line import Parser, interruptible
from tools.marked import write_parts

__all__ = ["COMMANDS", "main", "shown"]

ROOT = Path(__file__).parents[1]

#: In their order; the first makes what the others take.
COMMANDS = (
    "msvq example first && cd first",
    "msvq calibrate net:Net --weights net.pt --data images.npz --method msvq --k 32 -o net.msvq",
    "msvq evaluate net.msvq --data images.npz",
    "msvq compile net.msvq --preset ews-cms-16 -o net.prog",
    "msvq run net.prog image.npy",
)
MORE = (
    "msvq check net:Net --weights net.pt --data images.npz --method msvq --k 32",
    "msvq run --backend perf net.prog",
    "msvq generate --preset ews-cms-16 --unit accelerator --name npu -o ip",
)

#: Lines of a command's output that are shown.
LINES = 8


def shown(commands: Sequence[str], folder: Path) -> Iterator[str]:
    """Each command as it is typed, and what it prints, from this folder on."""
    place = folder
    for command in commands:
        yield f"$ {command}"
        words, _, after = command.partition(" && cd ")
        done = subprocess.run(
            [sys.executable, "-m", *shlex.split(words)],
            cwd=place,
            env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        lines = [line.rstrip() for line in done.stdout.splitlines() if line.strip()]
        if len(lines) > LINES:
            lines[LINES - 2 : -1] = ["..."]
        yield from lines
        place = place / after if after else place


def _block(lines: Sequence[str]) -> Iterator[str]:
    yield "```console"
    yield from (line if len(line) <= 120 else line[:117] + "..." for line in lines)
    yield "```"


@interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    Parser(prog="python -m tools.first", description=__doc__).parse_args(arguments)

    import tempfile

    with tempfile.TemporaryDirectory() as name:
        first = list(shown(COMMANDS, Path(name)))
        more = list(shown(MORE, Path(name) / "first"))
    for page, parts in (
        (ROOT / "README.md", {"commands": first}),
        (ROOT / "docs" / "start.md", {"commands": first, "more": more}),
    ):
        found = {part: partial(_block, lines) for part, lines in parts.items()}
        page.write_text(write_parts(page.read_text(), found, page.name))
        print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
