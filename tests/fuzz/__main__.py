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
import gzip
import hashlib
import importlib.util
import io
import json
import os
import pickle
import resource
import signal
import struct
import sys
import tarfile
import tempfile
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from hw.command_line import Parser, interruptible, write_text
from hw.config import preset
from sw.format.strict_json import json_text
from tests.options import run_options
from tools.marked import row, write_parts

__all__ = ["READERS", "Failure", "Reader", "fuzz", "main", "table"]

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


@dataclass(frozen=True)
class Reader:
    """A reader of files."""

    #: Of the file's name.
    suffix: str
    #: Sound files, as bytes.
    seeds: Callable[[], Sequence[bytes]]
    #: Reads a path.
    read: Callable[[Path], Any]
    #: Its own errors.
    errors: Callable[[], tuple[type[Exception], ...]]
    #: The file begins with a magic, a version and the header's length, and each part has a checksum.
    header: bool = False
    #: A package of an extra, without which there is no such reader.
    needs: str = ""

    @property
    def missing(self) -> bool:
        """Its package is not installed."""
        return bool(self.needs) and importlib.util.find_spec(self.needs) is None


class Failure(AssertionError):
    """A reader did what it must not. The message says what."""


def _written(write: Callable[[Path], Any], suffix: str = "") -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x{suffix}"
        write(path)
        return path.read_bytes()


def _layer() -> Any:
    from sw.format.example import random_layer

    return random_layer(np.random.default_rng(0), "int8", (9, 3, 3, 3), requantised=True, name="layer", padding=(1, 1))


def _containers() -> list[bytes]:
    from sw.format.container import write_container
    from sw.format.example import random_layer

    rng = np.random.default_rng(0)
    layers = [random_layer(rng, "msvq", (8, 3, 3, 3), d=8, k=4, n=4, m=8, requantised=True), _layer()]
    return [_written(lambda path: write_container(path, layers, metadata={"a": [1, {"b": None}]}))]


def _networks() -> list[bytes]:
    from sw.network.file import write_network
    from tests.sw.networks import every_operation

    network = every_operation(np.random.default_rng(0), preset("ews-msvq-tiny"))
    return [_written(lambda path: write_network(path, network))]


def _programs() -> list[bytes]:
    from sw.compiler.compile import compile_layer
    from sw.program import write_program

    program = compile_layer(_layer(), (3, 5, 4), preset("ews-tiny"))
    return [_written(lambda path: write_program(path, program))]


def _steps() -> list[bytes]:
    from sw.compiler.steps import compile_steps
    from sw.program.steps import write_stepped_program
    from tests.sw.steps import small_transformer

    config = preset("ews-msvq-tiny")
    steps = compile_steps(small_transformer(config)[0], config)
    return [_written(lambda path: write_stepped_program(path, steps))]


def _rules() -> list[bytes]:
    recipe = {"method": "mvq", "k": 16, "d": 16, "n": 4, "m": 16}
    return [json.dumps({"rules": [{"layer": "a", "recipe": recipe}, {"pattern": "b*", "recipe": recipe}]}).encode()]


def _plans() -> list[bytes]:
    import torch

    from sw.compress.methods import Recipe
    from sw.compress.network import module_sources
    from sw.compress.search import plan_json, search

    sources = module_sources(torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3)))
    plan = search(sources, 1100, candidates=[Recipe("int8"), Recipe("vq", 8, 8)], threads=1, progress=False)
    return [json.dumps(plan_json(plan, network="x", budget=1100), indent=1).encode()]


def _shapes() -> list[bytes]:
    layer = {"name": "layer", "shape": [16, 16, 3, 3], "input": [16, 8, 8]}
    network = [
        {"op": "input", "shape": [3, 8, 8]},
        {"op": "layer", "name": "first", "shape": [16, 3, 3, 3], "padding": 1, "raw": True},
        {"op": "average"},
        {"op": "flatten"},
        {"op": "logits", "name": "last", "kind": "linear", "shape": [10, 16, 1, 1]},
    ]
    return [json.dumps([layer]).encode(), json.dumps(network).encode()]


def _liberty() -> list[bytes]:
    from synth.generic import _text

    return [_text().encode()]


def _npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _images() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 255, (2, 32, 32, 3)).astype(np.uint8), np.arange(2)
    return {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}


def _tar(content: bytes, name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _pickles() -> list[bytes]:
    return [pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 1]}, protocol=2)]


def _torch() -> list[bytes]:
    import torch

    state = {"state_dict": {"layer.weight": torch.zeros(4, 4), "layer.bias": torch.zeros(4)}}
    return [
        _written(lambda path: torch.save(state, path)),
        _written(lambda path: torch.save(state, path, _use_new_zipfile_serialization=False)),
    ]


def _module() -> Any:
    from torch import nn

    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()


def _exported() -> list[bytes]:
    import torch

    program = torch.export.export(_module(), (torch.zeros(1, 3, 6, 6),))
    return [_written(lambda path: torch.export.save(program, path), ".pt2")]


def _onnx() -> list[bytes]:
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weights = {"w": (4, 3, 3, 3), "b": (4,), "v": (5, 4), "c": (5,)}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["0"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["0"], ["1"]),
        helper.make_node("GlobalAveragePool", ["1"], ["2"]),
        helper.make_node("Flatten", ["2"], ["3"]),
        helper.make_node("Gemm", ["3", "v", "c"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])],
        [
            numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
            for name, shape in weights.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    return [model.SerializeToString()]


def _training() -> tuple[Any, Any, Any]:
    from sw.compress.training.data import ImageData
    from sw.compress.training.loop import TrainConfig

    rng = np.random.default_rng(0)
    data = ImageData(rng.integers(0, 256, (8, 3, 8, 8), np.uint8), rng.integers(0, 5, 8), 8)
    return _module(), data, TrainConfig(1, 4, crop=0, threads=1)


def _checkpoints() -> list[bytes]:
    """What an interrupted training leaves."""
    from sw.compress.training.loop import fit

    model, data, config = _training()
    return [_written(lambda path: fit(model, data, config, checkpoint=path, every=1, progress=False), ".pt")]


def _pictures() -> list[bytes]:
    from PIL import Image

    picture = Image.fromarray(_images()["train_images"][0])
    found = []
    for kind in ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP"):
        buffer = io.BytesIO()
        picture.save(buffer, kind)
        found.append(buffer.getvalue())
    return found


@cache
def _entry() -> Any:
    from sw.program import Input, Tensor

    return Input(Tensor("x", 0, 3, 5, 4, 1, 3, "int8", 0.5))


def _errors(*names: str) -> Callable[[], tuple[type[Exception], ...]]:
    """Exceptions by ``module:name``."""

    def found() -> tuple[type[Exception], ...]:
        from importlib import import_module

        return tuple(getattr(import_module(module), name) for module, name in (x.split(":") for x in names))

    return found


def _call(module: str, name: str, *more: Any) -> Callable[[Path], Any]:
    def read(path: Path) -> Any:
        from importlib import import_module

        return getattr(import_module(module), name)(path, *more)

    return read


def _shapes_of(path: Path) -> Any:
    from sw.perf.shapes import read_workload

    return read_workload(path).network(preset("ews-tiny"))


def _library(path: Path) -> Any:
    from synth.liberty import load

    return load([path])


def _picture(path: Path) -> Any:
    from sw.run import read_images

    return read_images(str(path), _entry(), (0, 0, 0), (1, 1, 1))


def _packed(path: Path) -> Any:
    """What is inside the compression is damaged, not the compression."""
    path.write_bytes(gzip.compress(path.read_bytes(), 1))
    return _call("sw.compress.training.data", "load_data", "train")(path)


def _pickled(path: Path) -> Any:
    path.write_bytes(gzip.compress(_tar(path.read_bytes(), "cifar/data_batch_1"), 1))
    return _call("sw.compress.training.data", "load_data", "train")(path)


def _resumed(path: Path) -> Any:
    """The training is at its end already, so that nothing but the reading is done."""
    from sw.compress.training.loop import fit

    model, data, config = _training()
    return fit(model, data, config, checkpoint=path, progress=False)


def _model(path: Path) -> Any:
    return _call("sw.compress.sources", "load_model")(str(path))  # type: ignore[arg-type]


_COMPRESS = ("sw.compress.methods:CompressError",)
_NETWORK = ("sw.network.fields:NetworkError", "sw.format.container:ContainerError", "sw.compiler.graph:CompileError")
_DATA = ("sw.compress.training.data", "load_data", "train")

READERS: dict[str, Reader] = {
    "container": Reader(
        ".msvq", _containers, _call("sw.format.container", "read_container"), _errors(*_NETWORK[1:2]), header=True
    ),
    "network": Reader(".msvq", _networks, _call("sw.network.file", "read_network"), _errors(*_NETWORK), header=True),
    "program": Reader(
        ".prog", _programs, _call("sw.program", "read_program"), _errors("sw.program:ProgramError"), header=True
    ),
    "steps": Reader(
        ".prog",
        _steps,
        _call("sw.program.steps", "read_stepped_program"),
        _errors("sw.program:ProgramError", "sw.network:NetworkError"),
        header=True,
    ),
    "rules": Reader(".json", _rules, _call("sw.compress.rules", "read_rules"), _errors(*_COMPRESS)),
    "plan": Reader(".json", _plans, _call("sw.compress.rules", "read_rules"), _errors(*_COMPRESS)),
    "shapes": Reader(
        ".json",
        _shapes,
        _shapes_of,
        _errors("sw.perf.shapes:ShapesError", "sw.format.layer:LayerError", *_NETWORK),
    ),
    "liberty": Reader(".lib", _liberty, _library, _errors("synth.liberty:LibraryError")),
    "liberty gzip": Reader(
        ".lib.gz", lambda: [gzip.compress(_liberty()[0])], _library, _errors("synth.liberty:LibraryError")
    ),
    "checkpoint npz": Reader(
        ".npz",
        lambda: [_npz(weight=np.zeros((4, 4), np.float32))],
        _call("sw.compress.checkpoints", "read_state_dict"),
        _errors(*_COMPRESS),
    ),
    "checkpoint torch": Reader(".pt", _torch, _call("sw.compress.checkpoints", "read_state_dict"), _errors(*_COMPRESS)),
    "checkpoint resumed": Reader(".pt", _checkpoints, _resumed, _errors(*_COMPRESS)),
    "model pt2": Reader(".pt2", _exported, _model, _errors(*_COMPRESS)),
    "model onnx": Reader(".onnx", _onnx, _model, _errors(*_COMPRESS), needs="onnx2torch"),
    "data npz": Reader(".npz", lambda: [_npz(**_images())], _call(*_DATA), _errors(*_COMPRESS)),
    "cifar gzip": Reader(
        ".tar.gz",
        lambda: [gzip.compress(_tar(_pickles()[0], "cifar/data_batch_1"))],
        _call(*_DATA),
        _errors(*_COMPRESS),
    ),
    "cifar tar": Reader(".tar.gz", lambda: [_tar(_pickles()[0], "cifar/data_batch_1")], _packed, _errors(*_COMPRESS)),
    "cifar pickle": Reader(".tar.gz", _pickles, _pickled, _errors(*_COMPRESS)),
    "npy": Reader(
        ".npy",
        lambda: [_written(lambda path: np.save(path, np.zeros((3, 5, 4), np.int8)), ".npy")],
        _picture,
        _errors("sw.run:RunError"),
    ),
    "picture": Reader(".png", _pictures, _picture, _errors("sw.run:RunError")),
}


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
