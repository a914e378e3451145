"""``python -m tests.fuzz``: damaged files for every reader. build/fuzz/fuzz.json says how many, and what came of them.

Hypothesis damages a sound file: bytes changed, left out, repeated and added, and the checksums of headers put right
again, so that what is behind them is met. A reader either takes the file or raises an error of its own, of one line,
within :data:`SECONDS` and :data:`MEGABYTES`; a file with checksums that was changed is not taken; and nothing is raised
where Python can but print it, in a destructor for instance ("Exception ignored in").

What was tried is kept in ``build/fuzz/chunks.jsonl``: the same command goes on after an interruption, and tries again
where a reader failed. ``--publish`` writes the table of docs/verification.md, and docs/results/fuzz.json.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import os
import resource
import signal
import struct
import sys
import tempfile
import threading
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from hw.command_line import Parser, interruptible, write_text
from sw.format.strict_json import json_text
from tests.fuzz.readers import READERS
from tests.options import run_options
from tools.marked import row, write_parts

__all__ = ["Failure", "fuzz", "main", "table"]

#: What a reader may take for a file.
SECONDS, MEGABYTES = 5, 512
#: Of the clock's seconds, so many times as many.
PATIENCE = 20
#: Of a run of all readers together, by default.
INPUTS = 1_000_000
_CHUNK = 2000
_CONTEXT = get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.fuzz.__main__", "torch"])
ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "docs" / "results" / "fuzz.json"
PAGE = ROOT / "docs" / "verification.md"


class Failure(AssertionError):
    """A reader did what it must not. The message says what."""


@st.composite
def _damage(draw: st.DrawFn, seeds: Sequence[bytes]) -> tuple[bytes, bytes, bool]:
    """A sound file, the file damaged, and whether its header's checksum is to be put right."""
    whole = draw(st.sampled_from(seeds))
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        # The beginning says what is behind it.
        limit = draw(st.sampled_from([16, 300, len(data)]))
        start = draw(st.integers(0, min(limit, len(data))))
        length = draw(st.sampled_from([0, 1, 1, 2, 4, 50]))
        kind = draw(st.sampled_from(["bytes", "number", "bit", "repeat", "token", "cut"]))
        if kind == "bytes":
            data[start : start + length] = draw(st.binary(max_size=6))
        elif kind == "number":
            value = draw(st.sampled_from([0, 1, 255, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1]))
            data[start : start + 4] = struct.pack("<I", value)
        elif kind == "bit" and start < len(data):
            data[start] ^= 1 << draw(st.integers(0, 7))
        elif kind == "repeat":
            data[start:start] = data[start : start + length] * draw(st.sampled_from([1, 2, 1000]))
        elif kind == "token":
            data[start : start + length] = draw(
                st.sampled_from(
                    [b"[" * 3000, b"{", b"}", b'"', b"-1", b"1e999", b"null", b"9" * 5000, b"(", b"\0", b"\xff", b","]
                )
            )
        else:
            del data[start + length :]
    return whole, bytes(data), draw(st.booleans())


def _resealed(data: bytes) -> bytes:
    """With the length of the header that is there, and its right checksum."""
    if len(data) < 16:
        return data
    end = 16 + struct.unpack_from("<I", data, 12)[0]
    if end + 4 > len(data):
        return data
    return data[:end] + struct.pack("<I", zlib.crc32(data[:end])) + data[end + 4 :]


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def late(*_: Any) -> None:
        raise Failure(f"it took more than {SECONDS} s")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Of the processor, which others may use, too; and the clock's, for what only waits.
    timers = ((signal.ITIMER_PROF, signal.SIGPROF, SECONDS), (signal.ITIMER_REAL, signal.SIGALRM, PATIENCE * SECONDS))
    old = [signal.signal(number, late) for _, number, _ in timers]
    for timer, _, seconds in timers:
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for (timer, number, _), handler in zip(timers, old, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
    if grown > MEGABYTES:
        raise Failure(f"it took {grown} MB more than before")


@contextlib.contextmanager
def _ignored() -> Iterator[list[str]]:
    """What is raised where nobody can catch it, line by line."""
    found: list[str] = []

    # Nothing of the error is kept: it may hold what is being destroyed.
    def put(kind: type[BaseException], value: BaseException | None) -> None:
        found.append(f"ignored: {kind.__name__}: {value}")

    # Of destructors, and of those of C that print by themselves.
    before = sys.unraisablehook, sys.excepthook
    sys.unraisablehook = lambda error: put(error.exc_type, error.exc_value)
    sys.excepthook = lambda kind, value, _: put(kind, value)
    try:
        yield found
    finally:
        sys.unraisablehook, sys.excepthook = before


def fuzz(name: str, inputs: int, seed: int, folder: Path, scratch: Path) -> dict[str, Any]:
    """Give a reader so many damaged files.

    Parameters
    ----------
    name
        One of :data:`READERS`.
    inputs
        Their number.
    seed
        Of what is random.
    folder
        Where a file that fails is kept, as small as Hypothesis can make it.
    scratch
        An empty folder, where the present file is.

    Returns
    -------
    dict
        ``inputs``, ``taken``, ``refused`` by kind of error, and ``failures`` with a message and a file each.
    """
    import warnings

    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as hypothesis_seed

    warnings.simplefilter("ignore")
    reader = READERS[name]
    seeds, errors = reader.seeds(), reader.errors()
    refused: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    last: list[bytes] = [b""]
    path = scratch / f"x{reader.suffix}"

    def read(case: tuple[bytes, bytes, bool]) -> None:
        whole, data, seal = case
        sealed = reader.header and seal
        data = _resealed(data) if sealed else data
        path.write_bytes(data)
        last[0] = data
        counts["inputs"] += 1
        try:
            with _limited():
                reader.read(path)
        except errors as error:
            refused[type(error).__name__] += 1
            if "\n" in str(error) or not str(error):
                raise Failure(f"the message must be one line, not {str(error)[:100]!r}") from None
            return
        except Failure:
            raise
        except Exception as error:
            raise Failure(f"{type(error).__name__}: {error}") from error
        counts["taken"] += 1
        if reader.header and not sealed and data != whole:
            raise Failure("a changed file was taken")

    def once(case: tuple[bytes, bytes, bool], ignored: list[str]) -> None:
        read(case)
        # By now what was read, or the error and what it held, is gone.
        if ignored:
            message = ignored[0]
            ignored.clear()
            raise Failure(message)

    for sound in seeds:
        path.write_bytes(sound)
        reader.read(path)
    failures = []
    chosen = settings(
        max_examples=inputs,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    with _ignored() as ignored:
        try:
            hypothesis_seed(seed)(chosen(given(_damage(seeds), st.just(ignored))(once)))()
        # Hypothesis groups a failure with another one that it meets while it makes the file small.
        except (Failure, ExceptionGroup) as failure:
            failures.append({"message": " ".join(str(failure).split())[:300], "file": _keep(last[0], name, folder)})
        # What holds itself is destroyed late.
        gc.collect()
        failures += [{"message": message[:300], "file": _keep(last[0], name, folder)} for message in ignored[:1]]
    return {"inputs": counts["inputs"], "taken": counts["taken"], "refused": dict(refused), "failures": failures}


def _child(sender: Connection, name: str, inputs: int, seed: int, folder: Path, scratch: Path) -> None:
    sender.send(fuzz(name, inputs, seed, folder, scratch))
    sender.close()


def _chunk(name: str, inputs: int, seed: int, folder: Path) -> dict[str, Any]:
    """:func:`fuzz` in a process of its own, whose end, if it is not a usual one, is a failure, too."""
    # A process that is started does not know the module that runs as __main__ by that name.
    from tests.fuzz import __main__ as module

    with tempfile.TemporaryDirectory() as scratch:
        receiver, sender = _CONTEXT.Pipe(duplex=False)
        process = _CONTEXT.Process(target=module._child, args=(sender, name, inputs, seed, folder, Path(scratch)))
        process.start()
        sender.close()
        try:
            found: dict[str, Any] = receiver.recv()
        except EOFError:
            process.join()
            last = next((path.read_bytes() for path in Path(scratch).iterdir()), b"")
            failure = {"message": f"the process ended with {process.exitcode}", "file": _keep(last, name, folder)}
            found = {"inputs": 0, "taken": 0, "refused": {}, "failures": [failure]}
        process.join()
    return found


def _keep(data: bytes, name: str, folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / f"{name.replace(' ', '-')}-{hashlib.sha256(data).hexdigest()[:12]}{READERS[name].suffix}"
    kept.write_bytes(data)
    return kept.name


class _Kept:
    """The chunks that have been tried, a line for each; one that has failed is to be tried again."""

    def __init__(self, path: Path) -> None:
        self.path, self.lock = path, threading.Lock()
        self.found: dict[tuple[str, int, int], dict[str, Any]] = {}
        for line in path.read_text().splitlines() if path.exists() else []:
            # An interruption may have cut the last one.
            with contextlib.suppress(json.JSONDecodeError):
                entry = json.loads(line)
                self.found[entry["reader"], entry["of"], entry["seed"]] = entry

    def run(self, key: tuple[str, int, int], folder: Path) -> dict[str, Any]:
        entry = self.found.get(key)
        if entry is None or entry["failures"]:
            name, inputs, seed = key
            entry = {"reader": name, "of": inputs, "seed": seed, **_chunk(name, inputs, seed, folder)}
            with self.lock, self.path.open("a") as file:
                file.write(json.dumps(entry) + "\n")
                self.found[key] = entry
            for failure in entry["failures"]:
                print(f"FAIL {name}: {failure['message']} ({failure['file']})", flush=True)
        return entry


def _report(entries: Iterable[dict[str, Any]], names: Sequence[str], seed: int) -> dict[str, Any]:
    report: dict[str, Any] = {name: {"inputs": 0, "taken": 0, "refused": {}, "failures": []} for name in names}
    for found in [each for each in entries if each["reader"] in report]:
        entry = report[found["reader"]]
        entry["inputs"] += found["inputs"]
        entry["taken"] += found["taken"]
        entry["refused"] = dict(sorted((Counter(entry["refused"]) + Counter(found["refused"])).items()))
        entry["failures"] += found["failures"]
    return {"seed": seed, "inputs": sum(x["inputs"] for x in report.values()), "readers": report}


def table(report: dict[str, Any]) -> Iterator[str]:
    """A row for each reader, and their sum."""
    yield row("reader", "files", "taken", "refused", "failures")
    yield "|---|--:|--:|--:|--:|"
    total = [0, 0, 0, 0]
    for name, entry in report["readers"].items():
        cells = [entry["inputs"], entry["taken"], sum(entry["refused"].values()), len(entry["failures"])]
        total = [a + b for a, b in zip(total, cells, strict=True)]
        yield row(name, *(f"{cell:,}" for cell in cells))
    yield row("all", *(f"{cell:,}" for cell in total))


@interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns 0, or 1 where a reader failed."""
    parser = Parser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=INPUTS, help="of all readers together (%(default)s)")
    parser.add_argument("--reader", action="append", choices=READERS, help="only this one; repeatable")
    options = run_options(parser, arguments, os.cpu_count() or 1, "inputs")
    from concurrent.futures import ThreadPoolExecutor

    (folder := Path("build") / "fuzz").mkdir(parents=True, exist_ok=True)
    names = options.reader or list(READERS)
    for name in [name for name in names if READERS[name].missing]:
        print(f"{name}: left out, as {READERS[name].needs} is not installed")
        names.remove(name)
    if not names:
        return 0
    share = -(-options.inputs // len(names))
    # In turns, so that all readers have had some whenever it ends; Hypothesis keeps what it has tried.
    jobs = [
        (name, min(_CHUNK, share - start), options.seed + start) for start in range(0, share, _CHUNK) for name in names
    ]
    kept = _Kept(folder / "chunks.jsonl")
    with ThreadPoolExecutor(options.jobs) as pool:
        try:
            for number, _ in enumerate(pool.map(lambda key: kept.run(key, folder / "failures"), jobs), 1):
                if number % len(names) == 0 or number == len(jobs):
                    # All that has been tried, also with other options, or where there were other packages.
                    known = {*names, *(reader for reader, _, _ in kept.found)}
                    report = _report(kept.found.values(), [x for x in READERS if x in known], options.seed)
                    write_text(folder / "fuzz.json", json_text(report))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if options.publish:
        write_text(COMMITTED, json_text(report))
        write_text(PAGE, write_parts(PAGE.read_text(), {"fuzz": lambda: table(report)}, PAGE.name))
    failures = sum(len(report["readers"][name]["failures"]) for name in names)
    inputs = sum(report["readers"][name]["inputs"] for name in names)
    print(f"{inputs} inputs, {len(names)} readers, {failures} failures")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
