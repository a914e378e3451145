"""``python -m tests.mutants``: changed sources that tests must find. build/mutants/mutants.json has the score by block.

Of each block so many changes are drawn, and each is tried in a copy of the project with the block's own tests, which
must fail or not end. Changes that change nothing are in ``equivalent.json`` with the reason, and do not count. What was
tried is kept in ``build/mutants/tried.jsonl``: what was found is not tried again while its file means the same, what
survived not while its tests do, too, so that the same command goes on after an interruption, and after new tests tries
the survivors alone; documentation, comments and layout may change. ``--larger`` runs what survived with the larger
tests. ``--publish`` writes the table of docs/verification.md, and docs/results/mutants.json, which is committed.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from hw.command_line import Parser, interruptible, write_text
from sw.format.strict_json import json_text
from tests.mutants.mutate import Mutant, is_program, meaning, mutants_of
from tests.options import run_options
from tools.marked import row, write_parts

__all__ = [
    "BLOCKS",
    "Block",
    "drawn",
    "equivalent",
    "main",
    "own_tests",
    "score",
    "table",
    "tried_before",
    "try_mutants",
]

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
    "hw/bus/axi.py": ("tests/hw/bus/test_axi.py", "tests/hw/bus/test_reader.py", "tests/hw/bus/test_writer.py"),
    "hw/memory/ports.py": ("tests/hw/memory/test_l2.py", "tests/hw/memory/test_activation_reader.py"),
    "hw/array/tile.py": ("tests/hw/test_tile_row.py", "tests/hw/test_core.py"),
    "hw/boards/memory.py": ("tests/hw/boards/test_boards.py",),
    "hw/control/command.py": ("tests/hw/control/test_command.py", "tests/hw/test_core.py"),
    "hw/boards/uart.py": ("tests/hw/boards/test_boards.py",),
    "hw/control/loop_controller.py": ("tests/hw/test_loop_nest.py", "tests/hw/test_core.py"),
    "hw/control/weight_loader.py": ("tests/hw/test_core.py",),
    "hw/memory/read_queue.py": ("tests/hw/memory/test_activation_reader.py", "tests/formal/test_formal.py"),
    "hw/postprocess/byte_rotator.py": ("tests/hw/postprocess/test_vector_functions.py",),
    "hw/postprocess/operand_product.py": ("tests/hw/postprocess/test_vector_functions.py",),
    "hw/postprocess/vector_unit.py": (
        "tests/hw/postprocess/test_vector_unit.py",
        "tests/hw/postprocess/test_vector_functions.py",
    ),
    "hw/postprocess/window_walker.py": (
        "tests/hw/postprocess/test_window_walker.py",
        "tests/hw/postprocess/test_vector_unit.py",
        "tests/hw/postprocess/test_vector_functions.py",
    ),
}
#: Units, and the statements, signatures and layouts that they share; and what merges their modules.
_HARDWARE = re.compile(r"^(from|import) amaranth", re.MULTILINE)
_MERGING = "hw/rtlil.py"
_COMMAND = "hw/generate.py"
#: Rooms of software, whose tests are in the folder of the same name.
_SOFTWARE = ("golden", "compiler", "format", "perf", "compress")
#: Kernels of a GPU, which are drawn from where Triton is installed: elsewhere no test runs them.
_KERNELS = ("sw/compress/kmeans_triton.py", "sw/compress/training/fused.py")


@dataclass(frozen=True)
class Block:
    """What is scored: a file of hardware, or a room of software; and its own tests."""

    name: str
    files: tuple[str, ...]
    tests: tuple[str, ...]


def _blocks() -> Iterator[Block]:
    for path in sorted((ROOT / "hw").rglob("*.py")):
        file = str(path.relative_to(ROOT))
        if file == _COMMAND or not (file == _MERGING or _HARDWARE.search(path.read_text())):
            continue
        own = Path("tests") / Path(file).with_name(f"test_{path.name}")
        flat = Path("tests/hw") / f"test_{path.name}"
        tests = _ELSEWHERE.get(file) or tuple(str(found) for found in (own, flat) if (ROOT / found).exists())[:1]
        # A block that has no tests of its own is tested with its neighbours.
        yield Block(file, (file,), tests or (str(own.parent),))
    for room in _SOFTWARE:
        paths = (path for path in sorted((ROOT / "sw" / room).rglob("*.py")) if path.name != "__init__.py")
        files = (str(path.relative_to(ROOT)) for path in paths)
        left_out = () if importlib.util.find_spec("triton") else _KERNELS
        yield Block(f"sw/{room}", tuple(x for x in files if x not in left_out), (f"tests/sw/{room}",))


BLOCKS: dict[str, Block] = {block.name: block for block in _blocks()}


def drawn(block: Block, count: int, seed: int, root: Path | None = None) -> list[Mutant]:
    """So many changes of a block, or all where there are fewer.

    The same for the same sources and seed; a larger number has those of a smaller one, and a line that is edited
    takes no other line's changes out. ``root`` is the project, by default this one.
    """
    sources = {file: ((root or ROOT) / file).read_text() for file in block.files}
    found = [mutant for file, source in sources.items() for mutant in mutants_of(file, source)]
    seen: Counter[str] = Counter()
    order = {}
    for mutant in found:
        place = json.dumps(_place(mutant))
        seen[place] += 1
        order[mutant] = hashlib.sha256(f"{seed} {place} {seen[place]}".encode()).digest()
    # To parse each of them would take minutes; those that are taken are enough.
    programs = (x for x in sorted(found, key=order.__getitem__) if is_program(x.applied(sources[x.file])))
    return sorted(islice(programs, count), key=lambda mutant: (mutant.file, mutant.start))


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


def own_tests(block: Block, file: str | None = None, root: Path | None = None) -> list[str]:
    """A block's own test files; for a change of ``file`` its namesake comes first, then those that name its module."""
    root, found = root or ROOT, []
    for name in block.tests:
        path = root / name
        paths = sorted(path.rglob("test_*.py")) if path.is_dir() else [path]
        found += [str(part.relative_to(root)) for part in paths]
    if file is None:
        return found
    module = file.removesuffix(".py").replace("/", ".")
    package, _, stem = module.rpartition(".")
    mention = re.compile(rf"{re.escape(module)}\b|from {re.escape(package)} import .*\b{stem}\b")

    def distance(name: str) -> int:
        return 0 if Path(name).stem == f"test_{stem}" else 1 if mention.search((root / name).read_text()) else 2

    return sorted(found, key=distance)


def _digest(root: Path, *names: str) -> str:
    """Of what files mean: documentation, comments and layout may change."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{name} {_hash((root / name).read_text())}\n".encode())
    return digest.hexdigest()[:16]


@cache
def _hash(source: str) -> str:
    return hashlib.sha256(meaning(source).encode()).hexdigest()


@cache
def _numbers(file: str, source: str) -> dict[Mutant, int]:
    """Which of the changes alike in its function each of a source's is, from 0 on."""
    seen: Counter[tuple[str, str, str]] = Counter()
    found = {}
    for mutant in mutants_of(file, source):
        alike = (mutant.function, meaning(mutant.old), meaning(mutant.new))
        found[mutant] = seen[alike]
        seen[alike] += 1
    return found


def _identity(mutant: Mutant, root: Path) -> dict[str, str | int]:
    """What stays the same as long as the sources mean the same, whatever their layout."""
    number = _numbers(mutant.file, (root / mutant.file).read_text())[mutant]
    return {"state": _digest(root, mutant.file), "function": mutant.function, "number": number}


class _Copies:
    """Copies of the project as it is now, one for each worker; ``sources`` is one that nothing changes."""

    def __init__(self, folder: Path, count: int) -> None:
        self.free: queue.Queue[Path] = queue.Queue()
        self.sources = folder / "sources"
        for path in sorted(ROOT.iterdir()):
            # Tests compare pages with what they are written from.
            if (path / "__init__.py").exists() or path.name in ("tests", "docs"):
                ignored = shutil.ignore_patterns("__pycache__", "build", "results")
                shutil.copytree(path, self.sources / path.name, ignore=ignored)
        for name in ("pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.sources / name)
        for number in range(count):
            self.free.put(shutil.copytree(self.sources, folder / str(number)))
        # Packages may be in other folders; the project is the copy alone.
        elsewhere = [x for x in os.environ.get("PYTHONPATH", "").split(os.pathsep) if x and Path(x) != ROOT]
        self.environment = {**os.environ, "PYTHONPATH": os.pathsep.join(elsewhere)}
        self.environment |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}

    def run(
        self, tests: Sequence[tuple[str, float | None]], change: tuple[str, str] | None
    ) -> tuple[str, str | None, float]:
        """Run test files, each with its limit in seconds, until one finds the change.

        Returns ``passed``, ``failed`` or ``late``, the file that did not pass, and the seconds.
        """
        copy = self.free.get()
        begin = time.perf_counter()
        try:
            if change is not None:
                (copy / change[0]).write_text(change[1])
            for test, limit in tests:
                verdict = self._one(copy, test, limit)
                if verdict != "passed":
                    return verdict, test, time.perf_counter() - begin
            return "passed", None, time.perf_counter() - begin
        finally:
            if change is not None:
                shutil.copy(self.sources / change[0], copy / change[0])
            self.free.put(copy)

    def _one(self, copy: Path, test: str, limit: float | None) -> str:
        process = subprocess.Popen(
            [sys.executable, *RUNNER, test], cwd=copy, env=self.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            return "late"
        finally:
            # Also what a test has left running.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return "failed" if code else "passed"


class _Tried:
    """What has been tried: a file with a line for each. What is newer counts."""

    def __init__(self, path: Path, root: Path) -> None:
        self.entries: dict[tuple[str, ...], dict[str, Any]] = {}
        self.path, self.root, self.lock = path, root, threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        for line in path.read_text().splitlines() if path.exists() else []:
            # An interruption may have cut the last one.
            with contextlib.suppress(json.JSONDecodeError):
                entry = json.loads(line)
                self.entries[self._key(entry)] = entry

    @staticmethod
    def _key(entry: dict[str, Any]) -> tuple[str, ...]:
        place = (str(entry[name]) for name in ("state", "file", "function", "number"))
        return (*place, meaning(entry["old"]), meaning(entry["new"]))

    def last(self, mutant: Mutant) -> dict[str, Any] | None:
        """What became of a change of the file as it is, whatever tests there were."""
        return self.entries.get(self._key({**_place(mutant), **_identity(mutant, self.root)}))

    def find(self, mutant: Mutant, tests: str, larger: bool) -> dict[str, Any] | None:
        """What was found counts while its file is the same; what survived, while its tests are, or as equivalent."""
        entry = self.last(mutant)
        if entry is None or entry["own"] != "passed":
            return entry
        if _reason(mutant) is None and (entry["tests"] != tests or (larger and "larger" not in entry)):
            return None
        return entry

    def put(self, entry: dict[str, Any]) -> dict[str, Any]:
        with self.lock, self.path.open("a") as log:
            log.write(json.dumps(entry) + "\n")
            self.entries[self._key(entry)] = entry
        return entry


def try_mutants(
    blocks: Sequence[Block], count: int, seed: int, jobs: int, larger: bool, tried: Path
) -> dict[str, list[dict[str, Any]]]:
    """Try the drawn changes that have not been tried: by block, what became of each.

    All is as it was at the beginning: sources and tests may be edited meanwhile. A test file that fails as it is, is
    left out, and this is printed; a block of which no test file is left is not in what is returned.

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
    """
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(jobs) as pool:
        copies = _Copies(Path(name), jobs)
        root = copies.sources
        known = _Tried(tried, root)
        wanted = {block: drawn(block, count, seed, root) for block in blocks}
        tests = {block: own_tests(block, root=root) for block in blocks}
        states = {block: _digest(root, *tests[block]) for block in blocks}

        def entry_of(block: Block, mutant: Mutant) -> dict[str, Any] | None:
            return known.find(mutant, states[block], larger)

        left = {block: [x for x in wanted[block] if entry_of(block, x) is None] for block in blocks}
        # Each test file as it is, once: those of the larger tests last.
        files = [file for block in blocks if left[block] for file in tests[block]]
        files += LARGER if larger and files else ()
        sound = {file: pool.submit(copies.run, [(file, None)], None) for file in dict.fromkeys(files)}

        def limits(names: Sequence[str]) -> list[tuple[str, float | None]]:
            runs = [(name, sound[name].result()) for name in names]
            return [(name, 3 * run[2] + SPARE_SECONDS) for name, run in runs if run[0] == "passed"]

        def one(block: Block, mutant: Mutant) -> None:
            change = (mutant.file, mutant.applied((root / mutant.file).read_text()))
            if not limits(tests[block]):
                return
            before = known.find(mutant, states[block], larger=False)
            entry = before or {
                **_identity(mutant, root), "tests": states[block],
                "block": block.name, **_place(mutant), "line": mutant.line,
            }  # fmt: skip
            if before is None:
                verdict, by, seconds = copies.run(limits(own_tests(block, mutant.file, root)), change)
                entry |= {"own": verdict, "by": by, "seconds": round(seconds, 1)}
                known.put(entry)
            if larger and entry["own"] == "passed" and _reason(mutant) is None:
                verdict, by, _ = copies.run([x for x in limits(LARGER) if x[0] not in tests[block]], change)
                known.put({**entry, "larger": verdict, "larger by": by})

        try:
            runs = {block: [pool.submit(one, block, mutant) for mutant in left[block]] for block in blocks}
            for block in blocks:
                for run in runs[block]:
                    run.result()
                report = _finished(block, [(x, entry_of(block, x)) for x in wanted[block]], tests[block], sound)
                if report is not None:
                    found[block.name] = report
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return found


def tried_before(blocks: Sequence[Block], count: int, seed: int, tried: Path) -> dict[str, list[dict[str, Any]]]:
    """What has been tried, and nothing else: of blocks all of whose changes were. As :func:`try_mutants`."""
    known, found = _Tried(tried, ROOT), {}
    for block in blocks:
        entries = [(mutant, known.last(mutant)) for mutant in drawn(block, count, seed)]
        untried = sum(entry is None for _, entry in entries)
        if untried:
            print(f"{block.name}: {untried} of {len(entries)} not tried", flush=True)
        else:
            found[block.name] = _finished(block, entries, (), {}) or []
    return found


def _finished(
    block: Block,
    entries: Sequence[tuple[Mutant, dict[str, Any] | None]],
    names: Sequence[str],
    sound: dict[str, Future[Any]],
) -> list[dict[str, Any]] | None:
    """Print what became of a block, and return it; None where its tests fail as they are."""
    bad = [name for name in names if name in sound and sound[name].result()[0] != "passed"]
    if bad:
        print(f"{block.name}: left out, as it fails with the sources as they are: {' '.join(bad)}", flush=True)
    reports = []
    for mutant, entry in entries:
        if entry is None:
            print(f"{block.name}: NOT TRIED, no test of its own is left", flush=True)
            return None
        # What a test finds is not equivalent; the reason is that of a change alike in the same line.
        found = entry["own"] != "passed" or entry.get("larger", "passed") != "passed"
        reports.append({**entry, **_place(mutant), "line": mutant.line, "reason": None if found else _reason(mutant)})
    survived = [entry for entry in reports if entry["own"] == "passed" and entry["reason"] is None]
    print(f"{block.name}: {len(reports)} tried, {len(survived)} survived", flush=True)
    for entry in survived:
        by = f" (found by {entry['larger by']})" if entry.get("larger", "passed") != "passed" else ""
        print(f"  {entry['file']}:{entry['line']}: {entry['code']}: {entry['old']!r} -> {entry['new']!r}{by}")
    return reports


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
    """The command line. Returns 0, or 1 where a change survived all tests that were run, or a block was not tried."""
    parser = Parser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--block", action="append", choices=BLOCKS, metavar="NAME", help="only this one; repeatable")
    parser.add_argument("--count", type=int, default=DRAWN, help="changes of each block (%(default)s)")
    parser.add_argument("--larger", action="store_true", help="run what survived with the larger tests, too")
    parser.add_argument("--no-run", action="store_true", help="try nothing: what has been tried before")
    options = run_options(parser, arguments, os.cpu_count() or 1, "count")
    blocks = [BLOCKS[name] for name in options.block or BLOCKS]
    if options.no_run:
        found = tried_before(blocks, options.count, options.seed, BUILD / "tried.jsonl")
    else:
        found = try_mutants(blocks, options.count, options.seed, options.jobs, options.larger, BUILD / "tried.jsonl")
    scores = {name: score(entries) for name, entries in found.items()}
    write_text(BUILD / "mutants.json", json.dumps(scores, indent=1) + "\n")
    print("\n".join(table(scores)))
    if options.publish:
        publish(scores)
    untried = [block.name for block in blocks if block.name not in found]
    if untried:
        print(f"not tried: {', '.join(untried)}")
    return int(bool(untried) or any(entry["left"] for entry in scores.values()))


if __name__ == "__main__":
    sys.exit(main())
