"""``python -m tests.mutants``: changed sources that tests must find. build/mutants/mutants.json has the score by block.

Of each block so many changes are drawn, and each is tried in a copy of the project with the block's own tests, which
must fail or not end. Changes that change nothing are in ``equivalent.json`` with the reason, and do not count. What was
tried is kept in ``build/mutants/tried.jsonl`` and not tried again while the block and its tests are the same: the same
command goes on after an interruption. ``--larger`` runs what survived with the larger tests. ``--publish`` writes the
table of docs/verification.md, and docs/results/mutants.json, which is committed.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hw.command_line import Parser, interruptible, write_text
from sw.format.strict_json import json_text
from tests.mutants.mutate import Mutant, mutants_of
from tools.marked import row, write_parts

__all__ = ["BLOCKS", "Block", "drawn", "equivalent", "main", "score", "table", "try_mutants"]

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "mutants"
COMMITTED = ROOT / "docs" / "results" / "mutants.json"
PAGE = ROOT / "docs" / "verification.md"
EQUIVALENT = Path(__file__).with_name("equivalent.json")
#: Changes of each block, by default.
DRAWN = 20
#: Runs tests; a code other than 0 says that one has failed.
RUNNER = ("-m", "pytest", "-x", "-q", "-p", "no:xdist")
#: Tests that take so many seconds more than three times what they take do not end.
SPARE_SECONDS = 30
#: What survives its block's own tests may still be found by these.
LARGER = ("tests/hw/test_core.py", "tests/hw/test_accelerator.py", "tests/sim/accelerator/test_robustness.py")

#: Tests of hardware that is not tested in the file of its own name.
_ELSEWHERE = {
    "hw/array/tile.py": ("tests/hw/test_tile_row.py", "tests/hw/test_core.py"),
    "hw/boards/memory.py": ("tests/hw/boards/test_boards.py",),
    "hw/boards/processor.py": ("tests/hw/boards/test_boards.py",),
    "hw/boards/system.py": ("tests/fpga/test_fpga.py",),
    "hw/boards/platforms.py": ("tests/fpga/test_fpga.py",),
    "hw/boards/uart.py": ("tests/hw/boards/test_boards.py",),
    "hw/control/command.py": ("tests/hw/test_core.py",),
    "hw/control/loop_controller.py": ("tests/hw/test_loop_nest.py", "tests/hw/test_core.py"),
    "hw/control/weight_loader.py": ("tests/hw/test_core.py",),
    "hw/memory/read_queue.py": ("tests/hw/memory/test_activation_reader.py", "tests/formal/test_formal.py"),
    "hw/postprocess/byte_rotator.py": ("tests/hw/postprocess/test_vector_functions.py",),
    "hw/postprocess/operand_product.py": ("tests/hw/postprocess/test_vector_functions.py",),
    "hw/postprocess/window_walker.py": ("tests/hw/postprocess/test_ofmap_storer.py",),
}
#: Rooms of software, whose tests are in the folder of the same name.
_SOFTWARE = ("golden", "compiler", "format", "perf", "compress")


@dataclass(frozen=True)
class Block:
    """What is scored: a file of hardware, or a room of software; and its own tests."""

    name: str
    files: tuple[str, ...]
    tests: tuple[str, ...]


def _blocks() -> Iterator[Block]:
    for path in sorted((ROOT / "hw").rglob("*.py")):
        if "def elaborate" not in path.read_text():
            continue
        file = str(path.relative_to(ROOT))
        own = Path("tests") / Path(file).with_name(f"test_{path.name}")
        flat = Path("tests/hw") / f"test_{path.name}"
        tests = _ELSEWHERE.get(file) or tuple(str(found) for found in (own, flat) if (ROOT / found).exists())[:1]
        # A block that has no tests of its own is tested with its neighbours.
        yield Block(file, (file,), tests or (str(own.parent),))
    for room in _SOFTWARE:
        files = (path for path in sorted((ROOT / "sw" / room).rglob("*.py")) if path.name != "__init__.py")
        yield Block(f"sw/{room}", tuple(str(path.relative_to(ROOT)) for path in files), (f"tests/sw/{room}",))


BLOCKS: dict[str, Block] = {block.name: block for block in _blocks()}


def drawn(block: Block, count: int, seed: int) -> list[Mutant]:
    """So many changes of a block, or all where there are fewer; the same for the same sources and seed."""
    found = [mutant for file in block.files for mutant in mutants_of(file, (ROOT / file).read_text())]
    return random.Random(f"{seed} {block.name}").sample(found, min(count, len(found)))


def _place(mutant: Mutant) -> dict[str, str]:
    """What stays the same as other lines of the file come and go."""
    return {"file": mutant.file, "code": mutant.code, "old": mutant.old, "new": mutant.new}


def equivalent() -> list[dict[str, str]]:
    """The changes that change nothing: file, code of the line, the old and the new part, and the reason."""
    found: list[dict[str, str]] = json.loads(EQUIVALENT.read_text())
    return found


def _reason(mutant: Mutant) -> str | None:
    place = _place(mutant)
    return next((entry["reason"] for entry in equivalent() if place.items() <= entry.items()), None)


def _state(block: Block, tests: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for name in (*block.files, *tests):
        path = ROOT / name
        for part in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(part.read_bytes())
    return digest.hexdigest()[:16]


class _Copies:
    """Copies of the project, one for each worker."""

    def __init__(self, folder: Path, count: int) -> None:
        self.free: queue.Queue[Path] = queue.Queue()
        for number in range(count):
            copy = folder / str(number)
            for path in sorted(ROOT.iterdir()):
                if (path / "__init__.py").exists() or path.name == "tests":
                    shutil.copytree(path, copy / path.name, ignore=shutil.ignore_patterns("__pycache__"))
            for name in ("pyproject.toml", "constraints.txt"):
                shutil.copy(ROOT / name, copy / name)
            self.free.put(copy)

    def run(self, tests: Sequence[str], change: tuple[str, str] | None, limit: float | None) -> tuple[str, float]:
        """``passed``, ``failed`` or ``late``, and the seconds."""
        copy = self.free.get()
        try:
            if change is not None:
                (copy / change[0]).write_text(change[1])
            command = [sys.executable, *RUNNER, *tests]
            environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
            begin = time.perf_counter()
            process = subprocess.Popen(
                command, cwd=copy, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                return "late", time.perf_counter() - begin
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            return "failed" if code else "passed", time.perf_counter() - begin
        finally:
            if change is not None:
                shutil.copy(ROOT / change[0], copy / change[0])
            self.free.put(copy)


def try_mutants(
    blocks: Sequence[Block], count: int, seed: int, jobs: int, larger: bool, tried: Path
) -> dict[str, list[dict[str, Any]]]:
    """Try the drawn changes that have not been tried: by block, what became of each.

    Parameters
    ----------
    blocks, count, seed
        As for :func:`drawn`.
    jobs
        Processes.
    larger
        Try what survived with :data:`LARGER`, too.
    tried
        The file that keeps what was tried.

    Raises
    ------
    ValueError
        A block's own tests fail as it is.
    """
    known: dict[tuple[str, ...], dict[str, Any]] = {}
    if tried.exists():
        for line in tried.read_text().splitlines():
            entry = json.loads(line)
            known[entry["state"], *(entry[name] for name in ("file", "old", "new")), str(entry["start"])] = entry
    tried.parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(jobs) as pool, tried.open("a") as log:
        copies = _Copies(Path(name), jobs)
        for block in blocks:
            state = _state(block, block.tests)
            limit: list[float] = []

            def one(
                mutant: Mutant, block: Block = block, state: str = state, limit: list[float] = limit
            ) -> dict[str, Any]:
                key = (state, mutant.file, mutant.old, mutant.new, str(mutant.start))
                entry = known.get(key)
                source = (mutant.file, mutant.applied((ROOT / mutant.file).read_text()))
                if entry is None:
                    verdict, seconds = copies.run(block.tests, source, limit[0])
                    entry = {"state": state, "block": block.name, **_place(mutant), "line": mutant.line}
                    entry |= {"start": mutant.start, "own": verdict, "seconds": round(seconds, 1)}
                elif "larger" in entry or entry["own"] != "passed" or not larger:
                    return entry
                if larger and entry["own"] == "passed" and _reason(mutant) is None:
                    entry = {**entry, "larger": copies.run(LARGER, source, 3600)[0]}
                return entry

            wanted = drawn(block, count, seed)
            keys = [(state, x.file, x.old, x.new, str(x.start)) for x in wanted]
            if any(key not in known for key in keys):
                verdict, seconds = copies.run(block.tests, None, None)
                if verdict != "passed":
                    raise ValueError(f"the tests of {block.name} fail as it is: {' '.join(block.tests)}")
                limit.append(3 * seconds + SPARE_SECONDS)
            entries = []
            for mutant, entry in zip(wanted, pool.map(one, wanted), strict=True):
                if known.get((state, mutant.file, mutant.old, mutant.new, str(mutant.start))) != entry:
                    log.write(json.dumps(entry) + "\n")
                    log.flush()
                entries.append({**entry, "reason": _reason(mutant)})
            found[block.name] = entries
            survived = [entry for entry in entries if entry["own"] == "passed" and entry["reason"] is None]
            print(f"{block.name}: {len(entries)} tried, {len(survived)} survived", flush=True)
            for entry in survived:
                print(f"  {entry['file']}:{entry['line']}: {entry['code']}: {entry['old']!r} -> {entry['new']!r}")
    return found


def score(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of a block: what was tried, what is equivalent, what the own tests and what any test found; and the survivors."""
    counted = [entry for entry in entries if entry["reason"] is None]
    own = [entry for entry in counted if entry["own"] != "passed"]
    left = [entry for entry in counted if entry["own"] == "passed" and entry.get("larger", "passed") == "passed"]
    names = ("file", "line", "code", "old", "new")
    return {
        "tried": len(entries),
        "equivalent": len(entries) - len(counted),
        "own": len(own),
        "any": len(counted) - len(left),
        "left": [{name: entry[name] for name in names} for entry in left],
    }


def table(scores: dict[str, dict[str, Any]]) -> Iterator[str]:
    """A row for each block, and their sum."""
    yield row("block", "tried", "equivalent", "found by its own tests", "by any")
    yield "|---|--:|--:|--:|--:|"
    total = dict.fromkeys(("tried", "equivalent", "own", "any"), 0)
    for name, found in scores.items():
        counted = found["tried"] - found["equivalent"]
        yield row(
            f"`{name}`", found["tried"], found["equivalent"], *(_share(found[x], counted) for x in ("own", "any"))
        )
        total = {key: value + found[key] for key, value in total.items()}
    counted = total["tried"] - total["equivalent"]
    yield row("all", total["tried"], total["equivalent"], *(_share(total[x], counted) for x in ("own", "any")))


def _share(found: int, of: int) -> str:
    return f"{found} of {of}" + (f" ({100 * found / of:.0f} %)" if of else "")


def publish(scores: dict[str, dict[str, Any]]) -> None:
    """Write the committed scores and their table; blocks that have not been tried keep what was committed."""
    committed = json.loads(COMMITTED.read_text()) if COMMITTED.exists() else {}
    merged = dict(sorted({**committed, **scores}.items()))
    write_text(COMMITTED, json_text(merged))
    write_text(PAGE, write_parts(PAGE.read_text(), {"mutants": lambda: table(merged)}, PAGE.name))


@interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns 0, or 1 where a change survived all tests that were run."""
    parser = Parser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--block", action="append", choices=BLOCKS, metavar="NAME", help="only this one; repeatable")
    parser.add_argument("--count", type=int, default=DRAWN, help="changes of each block (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (%(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (%(default)s)")
    parser.add_argument("--larger", action="store_true", help="run what survived with the larger tests, too")
    parser.add_argument("--publish", action="store_true", help="write the table of docs/verification.md")
    options = parser.parse_args(arguments)
    for name in ("count", "jobs"):
        if getattr(options, name) < 1:
            parser.error(f"{name} must be at least 1, not {getattr(options, name)}")
    blocks = [BLOCKS[name] for name in options.block or BLOCKS]
    try:
        found = try_mutants(blocks, options.count, options.seed, options.jobs, options.larger, BUILD / "tried.jsonl")
    except ValueError as error:
        parser.error(str(error))
    scores = {name: score(entries) for name, entries in found.items()}
    write_text(BUILD / "mutants.json", json.dumps(scores, indent=1) + "\n")
    print("\n".join(table(scores)))
    if options.publish:
        publish(scores)
    return int(any(entry["left"] for entry in scores.values()))


if __name__ == "__main__":
    sys.exit(main())
