"""``python -m synth.explore``: area, cycles, energy and accuracy of many instances, and those that no other one beats.

Axes are fields of the configuration, presets, and how registers are kept; all combinations are points:

    python -m synth.explore --lib cells.lib --sweep preset=ews-16,ews-cms-16,ews-msvq-16 --sweep word_width=64,128
    python -m synth.explore --sweep N:M=2:8,4:16 --sweep k=32,64,128 --sweep weight_bits=4,8 --sweep storage=gated

NETWORK is a file of shapes or a container, ResNet-18 by default. What is computed is kept under build/explore/cache by
the hash of its inputs, sources and tools, so that a sweep that was ended goes on where it was. Into the folder go
explore.json, explore.csv, explore.md and explore.svg.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hw.command_line import add_set_option, interruptible, path_argument, writable_folder
from hw.config import ConfigError, preset
from sw.command_line import DEFAULT_PRESET, OptionError, add_image_option, image_shape
from sw.format.strict_json import json_text
from synth.libraries import STORAGES, LibraryParser

if TYPE_CHECKING:
    from synth.explore.accuracy import Study
    from synth.explore.parts import Part, Settings
    from synth.liberty import Library

__all__ = ["main"]

_ROOT = Path(__file__).parents[2]

#: The network whose cycles are counted, by shapes.
NETWORK = _ROOT / "sim" / "networks" / "shapes" / "resnet18.json"

#: Results by content; may be deleted at any time.
CACHE = Path("build/explore/cache")

#: The axis of how registers are kept.
STORAGE = "storage"

#: More is a mistake in the axes rather than a sweep.
MAX_POINTS = 100_000

#: Columns behind the fields of a point, before those of its cycles.
_COLUMNS = ("area", "area_nand2", "area_unit", "bits_a_weight", "energy", "energy_refused", "accuracy", "accuracy_of")


def _parser() -> LibraryParser:
    parser = LibraryParser("synth.explore", __doc__ or "")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.set_defaults(folder=Path("build/explore"))
    parser.add_argument("network", metavar="NETWORK", nargs="?", type=path_argument, default=NETWORK)
    parser.add_argument("--preset", metavar="NAME", help=f"where axes begin ({DEFAULT_PRESET})")
    add_set_option(parser)
    parser.add_argument(
        "--sweep", action="append", default=[], metavar="FIELD=A,B,...",
        help="an axis: N:M=2:8,4:16 for fields that go together, preset=A,B, storage=flipflop,gated,latch",
    )  # fmt: skip
    add_image_option(parser)
    parser.add_argument("--latency", type=int, default=32, help="of the DRAM, in cycles (%(default)s)")
    parser.add_argument("--no-area", action="store_true", help="cycles alone: milliseconds a point")
    parser.add_argument("--energy", action="store_true", help="gate-level simulation, minutes a point (synth.power)")
    parser.add_argument("--study", metavar="NAME", help="accuracies, such as table3-resnet18 of docs/results")
    parser.add_argument("--objectives", metavar="A,B,...", help="of the front (area,cycles and what else there is)")
    parser.add_argument("--jobs", type=int, default=2, help="processes on this machine (%(default)s)")
    parser.add_argument("--dask", metavar="ADDRESS", help="compute on a Dask cluster instead: tcp://HOST:8786")
    return parser


def _settings(options: argparse.Namespace, library: Library) -> Settings:
    from sw.perf.shapes import read_workload
    from synth.explore.parts import ExploreError, Settings

    image = image_shape(options.image) if options.image else None
    if not 0 <= options.latency < 1 << 20:
        raise ExploreError(f"--latency must be in 0..{(1 << 20) - 1}, not {options.latency}")
    read_workload(options.network, image)  # before the minutes that areas take
    content = options.network.read_bytes()
    shapes = options.network.suffix == ".json"
    power: dict[str, Any] = {}
    if options.energy:
        from sim.networks.activations import photograph_path
        from synth.power.__main__ import PERIOD

        photograph = hashlib.sha256(photograph_path().read_bytes()).hexdigest()
        power = {"network": "efficientnet-lite0", "photograph_sha256": photograph, "period": PERIOD, "wire": None}
        power["glitches"] = False
    return Settings(
        pdk=options.pdk,
        liberty=tuple(str(path) for path in options.lib),
        library_sha256=library.sha256,
        network=content.decode() if shapes else None,
        container=None if shapes else (str(options.network.resolve()), hashlib.sha256(content).hexdigest()),
        image=image,
        latency=options.latency,
        power=power,
    )


def _objectives(options: argparse.Namespace) -> list[str]:
    from synth.explore.front import OBJECTIVES
    from synth.explore.parts import ExploreError

    if options.objectives is None:
        energy, accuracy = ["energy"] * options.energy, ["accuracy"] * bool(options.study)
        return [*(["bits_a_weight"] if options.no_area else ["area"]), "cycles", *energy, *accuracy]
    names = options.objectives.split(",")
    for name in names:
        if name not in OBJECTIVES:
            raise ExploreError(f"--objectives: {name!r} is not one of {', '.join(OBJECTIVES)}")
    absent = {"area": options.no_area, "energy": not options.energy, "accuracy": not options.study}
    for name in names:
        if absent.get(name):
            raise ExploreError(f"--objectives has {name}, which this sweep does not compute")
    if len(names) < 2 or len(set(names)) < len(names):
        raise ExploreError(f"--objectives must be two different ones or more, not {options.objectives!r}")
    return names


def _points(options: argparse.Namespace, library: Library) -> tuple[list[dict[str, Any]], list[dict[str, Part]]]:
    """The row of each point as far as it is known at once, and its parts by kind."""
    from sw.perf.sweep import COLUMNS, check_fields, check_instances, instance, point_fields, sweep_points
    from synth.explore.parts import ExploreError, Part, core_config
    from synth.flow import Synthesiser

    points = sweep_points(options.sweep)
    if len(points) > MAX_POINTS:
        raise ExploreError(f"the axes have {len(points)} points, more than {MAX_POINTS}")
    check_fields(points, [STORAGE], options.set, options.preset)
    options.preset = options.preset or DEFAULT_PRESET
    preset(options.preset).override(options.set)
    own = [[text for text in point if not text.startswith(f"{STORAGE}=")] for point in points]
    check_instances(options.preset, options.set, own)
    rows, parts = [], []
    for point, changes in zip(points, own, strict=True):
        fields = point_fields(point)
        storage = fields.get(STORAGE, STORAGES[0])
        if storage not in STORAGES:
            raise ExploreError(f"storage must be one of {', '.join(STORAGES)}, not {storage!r}")
        Synthesiser(library, CACHE, storage)  # a library without clock gates is refused here
        row: dict[str, Any] = {**fields, **dict.fromkeys((*_COLUMNS, *COLUMNS))}
        needed: dict[str, Part] = {}
        try:
            config = instance(options.preset, options.set, changes)
        except ConfigError as error:
            row["refused"] = str(error)
        else:
            row["bits_a_weight"] = sum(config.streams.values()) / config.L
            needed["cycles"] = Part("cycles", config, "")
            if not options.no_area:
                needed["area"] = Part("area", core_config(config), storage)
            if options.energy:
                needed["energy"] = Part("energy", config, storage)
            row["config"] = config
        rows.append(row)
        parts.append(needed)
    return rows, parts


def _results(
    parts: Mapping[str, Part], settings: Settings, options: argparse.Namespace
) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Key and result of each part, and whether it was known before."""
    from synth.cache import keep, kept
    from synth.explore.engines import by_dask, by_processes

    unknown = {}
    for key, part in parts.items():
        text = kept(CACHE / f"{key}.json")
        if text is None:
            unknown[key] = part
        else:
            yield key, json.loads(text), True
    run = by_dask(unknown, settings, options.dask) if options.dask else by_processes(unknown, settings, options.jobs)
    for key, result in run:
        keep(CACHE / f"{key}.json", json.dumps(result))
        yield key, result, False


def _gathered(parts: Sequence[Mapping[str, Part]], settings: Settings, options: argparse.Namespace) -> dict[str, Any]:
    """All results by key, behind a bar that says how long it still takes."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    distinct = {part.key(settings): part for needed in parts for part in needed.values()}
    # The long ones first, so that no processor waits for the last one.
    order = sorted(distinct, key=lambda key: ("energy", "area", "cycles").index(distinct[key].kind))
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(),
    )  # fmt: skip
    found, known = {}, 0
    console = Console(stderr=True)
    with Progress(*columns, console=console, speed_estimate_period=600) as progress:
        task = progress.add_task("points", total=len(order))
        for key, result, before in _results({key: distinct[key] for key in order}, settings, options):
            found[key] = result
            known += before
            if before:
                # What was there already says nothing about the time that the others take.
                progress.update(task, total=len(order) - known, description=f"points ({known} parts were there)")
            else:
                progress.advance(task)
    console.print(f"{len(order)} parts of {len(parts)} points: {known} were there, {len(order) - known} computed")
    return found


def _write(
    rows: Sequence[Mapping[str, Any]],
    options: argparse.Namespace,
    library: Library,
    objectives: Sequence[str],
    study: Study | None,
) -> list[Path]:
    from importlib import metadata

    from hw.generate import source_hash
    from hw.yosys import yosys_version
    from sw.perf.sweep import point_fields, sweep_points
    from synth.explore.front import csv_text, markdown, picture
    from synth.report import write_files

    axes = list(point_fields(sweep_points(options.sweep)[0]))
    report = {
        "network": options.network.name,
        "preset": options.preset,
        "set": options.set,
        "sweep": options.sweep,
        "objectives": list(objectives),
        "library": {"name": library.name, "sha256": library.sha256, "unit": library.area_unit},
        "latency": options.latency,
        "study": study.name if study else None,
        "tools": {"yosys": yosys_version(), "amaranth": metadata.version("amaranth")},
        "hw_sha256": source_hash(),
        "points": list(rows),
    }
    text = [f"Pareto front of {len(rows)} points by {', '.join(objectives)}:", "", markdown(rows, front=True), ""]
    text += ["All points:", "", markdown(rows), ""]
    accuracies = f", accuracies of {study.name} ({study.network})" if study else ""
    cells = f", library {library.name}, Yosys {yosys_version()}, cells alone"
    text.append(f"{options.network.name}{'' if options.no_area and not options.energy else cells}{accuracies}.")
    texts = {
        "explore.json": json_text(report),
        "explore.csv": csv_text(rows),
        "explore.md": "\n".join(text) + "\n",
        "explore.svg": picture(rows, axes, objectives, options.network.stem) + "\n",
    }
    return write_files(options.folder, texts)


def _run(options: argparse.Namespace, library: Library) -> list[Path]:
    from synth.explore.accuracy import read_study
    from synth.explore.front import pareto
    from synth.explore.parts import ExploreError

    if not 1 <= options.jobs <= 256:
        raise ExploreError(f"--jobs must be in 1..256, not {options.jobs}")
    objectives = _objectives(options)
    study = read_study(options.study, _ROOT / "docs" / "results") if options.study else None
    if study is not None and study.network.partition("-")[0] not in options.network.stem:
        advice = f"give shapes or a container with {study.network} in its name, or another study"
        raise ExploreError(f"study {study.name} is of {study.network}, not of {options.network.name}: {advice}")
    rows, parts = _points(options, library)
    settings = _settings(options, library)
    writable_folder(options.folder)
    found = _gathered(parts, settings, options)
    for row, needed in zip(rows, parts, strict=True):
        for part in needed.values():
            row.update((name, value) for name, value in found[part.key(settings)].items() if name in row)
        config = row.pop("config", None)
        known = study.accuracy(config) if study and config is not None else None
        if known is not None:
            row["accuracy"], row["accuracy_of"] = round(known[0], 3), known[1]
    for row, chosen in zip(rows, pareto(rows, objectives), strict=True):
        row["front"] = chosen
    return _write(rows, options, library, objectives, study)


@interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, or after one line on stderr 2, or 1 if a netlist fails."""
    parser = _parser()
    options = parser.parse_args(arguments)

    from hw.yosys import YosysError
    from sw.compiler.graph import CompileError
    from sw.format.container import ContainerError
    from sw.network import NetworkError
    from sw.perf.shapes import ShapesError
    from synth.explore.parts import ExploreError
    from synth.liberty import LibraryError
    from synth.power.measure import PowerError
    from synth.power.simulator import SimulatorError

    try:
        paths = _run(options, parser.library(options))
    except (ConfigError, ExploreError, LibraryError, OptionError, YosysError, ShapesError) as error:
        parser.error(str(error))
    except (PowerError, SimulatorError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except (CompileError, ContainerError, NetworkError) as error:
        parser.error(f"{options.network}: {error}")
    except OSError as error:
        parser.error(f"cannot read or write: {error}")
    print(paths[2].read_text())
    print(*paths, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
