"""``python -m synth.papers``: cycles and traffic behind the tables of the papers, into build/papers/papers.json.

Every network of MVQ's figures 15 to 20 on every variant: at 16, 32 and 64 with the paper's bus of 64 bits, and at 64
with buses of 128 and 256. L2 has the paper's 2 MB, or 4, 8 or 16 where maps would not fit. Weights have no values here:
shapes and the kind of each layer are all that cycles depend on. ``python -m tools.papers`` puts them beside the papers.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hw.command_line import Parser, interruptible, path_argument, worker_pool, writable_folder, write_text
from hw.config import ConfigError, preset
from sw.format.strict_json import json_text

__all__ = ["NETWORKS", "SCOPES", "VARIANTS", "main", "measure"]

_SHAPES = Path(__file__).parents[2] / "sim" / "networks" / "shapes"

#: Files of shapes, and what the paper calls the networks.
NETWORKS: Mapping[str, str] = {
    "resnet18": "ResNet-18",
    "resnet50": "ResNet-50",
    "vgg16": "VGG-16",
    "mobilenetv1": "MobileNet-v1",
    "alexnet": "AlexNet",
}

#: Presets, without their size, and what the paper calls them.
VARIANTS: Mapping[str, str] = {
    "ws": "WS",
    "ws-cms": "WS-CMS",
    "ews": "EWS",
    "ews-c": "EWS-C",
    "ews-cm": "EWS-CM",
    "ews-cms": "EWS-CMS",
    "ews-msvq": "EWS-MSVQ",
}

#: Which layers count. ``without_ends``: all but the first and the last, which have 8-bit weights. ``convolutions``: of
#: those, no fully connected and no depthwise ones, which the paper leaves out.
SCOPES = ("whole", "without_ends", "convolutions")

#: (rows and columns, bits of the bus).
ARRAYS = ((16, 64), (32, 64), (64, 64), (64, 128), (64, 256))

#: Bytes of L2: the paper's, and more for networks whose maps would have no place.
L2 = (1 << 21, 1 << 22, 1 << 23, 1 << 24)

#: Networks whose layers run on SCALE-Sim, too, and the size of the array.
SCALESIM = ("resnet18", "alexnet")
SCALESIM_SIZE = 64

CACHE = Path("build/papers/cache")

#: Of a run, by row: settings first.
Run = dict[str, Any]


def measure(network: str, variant: str, size: int, bus: int, changes: Sequence[str] = ()) -> Run:
    """One network on one instance: cycles, multiply-accumulates and counters of each scope, and cycles of each layer.

    Parameters
    ----------
    changes
        ``field=value`` of the instance, where it differs from its preset.

    Raises
    ------
    sw.compiler.graph.CompileError
        A layer does not fit the instance.
    """
    from sw.compiler.graph import Convolution
    from sw.perf.estimate import estimate
    from sw.perf.shapes import read_workload
    from sw.perf.sweep import misfit

    workload = read_workload(_SHAPES / f"{network}.json")
    config, reason = preset(f"{variant}-{size}").override([f"word_width={bus}", *changes]), None
    for l2_bytes in L2:
        config = config.override([f"l2_bytes={l2_bytes}"])
        shapes = workload.network(config)
        reason = misfit(shapes, config)
        if reason is None:
            break
    timings = estimate(shapes, config)
    layers = [
        (timing, operation)
        for timing, operation in zip(timings, shapes.graph.operations, strict=True)
        if isinstance(operation, Convolution)
    ]
    ends = {layers[0][0].name, layers[-1][0].name}
    # Not from the graph, where a linear layer behind a map is a convolution of the map's size.
    entries = json.loads((_SHAPES / f"{network}.json").read_text())
    linear = {entry["name"] for entry in entries if entry.get("kind") == "linear"}
    inner = {
        timing.name
        for timing, operation in layers
        if timing.name not in ends | linear and operation.layer is not None and operation.layer.groups == 1
    }
    chosen = {
        "whole": timings,
        "without_ends": [timing for timing in timings if timing.name not in ends],
        "convolutions": [timing for timing in timings if timing.name in inner and timing.operation != "maximum"],
    }
    run: Run = {"network": network, "variant": variant, "size": size, "bus": bus, "l2_bytes": config.l2_bytes}
    run["does_not_fit"] = reason
    for scope, those in chosen.items():
        counters: dict[str, int] = {}
        for timing in those:
            for name, value in timing.counters.items():
                counters[name] = counters.get(name, 0) + int(value)
        run[scope] = {"macs": sum(int(timing.macs) for timing in those), "counters": counters}
    run["layers"] = {timing.name: int(timing.counters["cycles"]) for timing, _ in layers}
    return run


def _key(arguments: Sequence[Any]) -> str:
    from synth.explore.parts import sources

    shapes = (_SHAPES / f"{arguments[0]}.json").read_text()
    own = Path(__file__).read_text()
    return hashlib.sha256(json.dumps([*arguments, shapes, own, sources("cycles")]).encode()).hexdigest()


def _runs(jobs: int) -> list[Run]:
    """All runs, in order; what was there is taken from the cache."""
    from concurrent.futures import as_completed

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from synth.cache import keep, kept

    wanted = [(network, variant, *array) for network in NETWORKS for array in ARRAYS for variant in VARIANTS]
    paths = {arguments: CACHE / f"{_key(arguments)}.json" for arguments in wanted}
    texts = {arguments: kept(path) for arguments, path in paths.items()}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    missing = [arguments for arguments, text in texts.items() if text is None]
    with Progress(*columns, console=Console(stderr=True)) as progress, worker_pool(jobs) as pool:
        task = progress.add_task("networks", total=len(missing))
        futures = {pool.submit(measure, *arguments): arguments for arguments in missing}
        for future in as_completed(futures):
            texts[futures[future]] = json.dumps(future.result())
            keep(paths[futures[future]], texts[futures[future]] or "")
            progress.advance(task)
    return [json.loads(text) for text in texts.values() if text is not None]


def _scalesim() -> dict[str, Any] | None:
    """Cycles of layers on SCALE-Sim; None without the package."""
    from sw.compiler.graph import Convolution
    from sw.perf.shapes import read_workload
    from synth.papers.scalesim import layer_cycles, version

    if version() is None:
        return None
    found: dict[str, Any] = {"version": version(), "size": SCALESIM_SIZE, "networks": {}}
    for network in SCALESIM:
        graph = read_workload(_SHAPES / f"{network}.json").network(preset(f"ws-{SCALESIM_SIZE}")).graph
        names = [
            operation.name
            for operation in graph.operations
            if isinstance(operation, Convolution) and operation.operation == "layer" and operation.first is None
        ]
        found["networks"][network] = layer_cycles(graph, SCALESIM_SIZE, names)
    return found


@interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, or 2 after one line on stderr."""
    parser = Parser(prog="python -m synth.papers", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-o", metavar="DIR", type=path_argument, dest="folder", default=Path("build/papers"))
    parser.add_argument("--jobs", type=int, default=2, help="processes (%(default)s)")
    options = parser.parse_args(arguments)
    if not 1 <= options.jobs <= 256:
        parser.error(f"--jobs must be in 1..256, not {options.jobs}")

    from hw.generate import source_hash

    try:
        folder = writable_folder(options.folder)
        scalesim = _scalesim()
        if scalesim is None:
            print("scalesim is not installed (pip install 'msvq[papers]'): its column stays empty", file=sys.stderr)
        runs = _runs(options.jobs)
        report = {"hw_sha256": source_hash(), "scalesim": scalesim, "runs": runs}
        write_text(folder / "papers.json", json_text(report))
    except ConfigError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"cannot read or write: {error}")
    print(folder / "papers.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
