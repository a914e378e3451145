"""A table of cases: run them all, or some, in parallel processes or one after the other, and write the results.

Each run leaves one JSON file under build/experiments; the report is made of those that are there, so a study can be
stopped and gone on with, and cases can be run on several machines.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.common import WEIGHTS, add_options, data, machine, spread, write_report
from experiments.finetune import Case, run
from sw.compress.methods import CompressError
from sw.compress.network import progress_bar
from sw.compress.training.data import ImageData
from sw.compress.training.loop import TrainConfig


@dataclass(frozen=True)
class Study:
    """What a study compares.

    Parameters
    ----------
    name
        Of its module and its results.
    networks
        It can run on.
    cases, config
        Of a network.
    note
        Below the table.
    """

    name: str
    networks: tuple[str, ...]
    cases: Callable[[str], list[Case]]
    config: Callable[[str], TrainConfig]
    note: str


def main_of(study: Study, description: str | None, arguments: Sequence[str] | None) -> int:
    """The command line of a study. Returns the exit status: 2 for bad input, with one line on standard error."""
    parser = argparse.ArgumentParser(prog=f"python -m experiments.{study.name}", description=description)
    parser.add_argument("network", choices=study.networks)
    parser.add_argument("--weights", type=Path, help="floating-point weights (build/experiments/NETWORK.pt)")
    parser.add_argument("--sparse-weights", type=Path, help="weights trained 4:16 sparse (...NETWORK-sr-ste.pt)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="%(default)s")
    parser.add_argument("--cases", nargs="+", help="names of the cases to run (all)")
    parser.add_argument("--epochs", type=int, help="instead of the network's own number")
    parser.add_argument("--lr", type=float, help="instead of the network's own learning rate")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, in processes of their own (%(default)s)")
    parser.add_argument("--gpus", type=int, default=1, help="GPUs that the processes share (%(default)s)")
    parser.add_argument("--runs", type=Path, help="directory of the runs' files (build/experiments/NAME-NETWORK)")
    parser.add_argument("--containers", action="store_true", help="keep the networks' files beside the runs'")
    parser.add_argument("--report-only", action="store_true", help="make the report of the runs that are there")
    add_options(parser)
    options = parser.parse_args(arguments)
    try:
        return _run(study, options)
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2


def _run(study: Study, options: argparse.Namespace) -> int:
    network = options.network
    cases = [case.name for case in study.cases(network)]
    chosen = options.cases or cases
    for name in chosen:
        if name not in cases:
            raise CompressError(f"case must be one of {', '.join(cases)}, not {name!r}")
    folder = _folder(study, options)
    # One seed of every case before the next seed: a study that is stopped has whole tables.
    missing = [(name, seed) for seed in options.seeds for name in chosen if not _file(folder, name, seed).exists()]
    failed = 0
    if missing and not options.report_only:
        if options.jobs > 1:
            failed = _processes(study, missing, options)
        else:
            parts = data(options)
            for name, seed in missing:
                _one(study, options, parts, name, seed)
    _report(study, network, [_file(folder, name, seed) for name in cases for seed in options.seeds], options.output)
    return 1 if failed else 0


def _folder(study: Study, options: argparse.Namespace) -> Path:
    folder: Path = options.runs or WEIGHTS / f"{study.name}-{options.network}"
    return folder


def _file(folder: Path, case: str, seed: int) -> Path:
    name = "".join(letter if letter.isalnum() else "-" for letter in case)
    return folder / f"{name}-{seed}.json"


def _one(study: Study, options: argparse.Namespace, parts: tuple[ImageData, ImageData], name: str, seed: int) -> None:
    """One run, and its file."""
    network = options.network
    case = next(case for case in study.cases(network) if case.name == name)
    config = dataclasses.replace(study.config(network), **case.training)
    if options.epochs:
        config = dataclasses.replace(config, epochs=options.epochs)
    if options.lr is not None:
        config = dataclasses.replace(config, lr=options.lr)
    if options.device.startswith("cuda"):
        config = dataclasses.replace(config, precision="bfloat16")
    config = dataclasses.replace(config, seed=seed, batch=min(config.batch, len(parts[0])))
    weights = (
        options.sparse_weights or WEIGHTS / f"{network}-sr-ste.pt"
        if case.sparse
        else options.weights or WEIGHTS / f"{network}.pt"
    )
    file = _file(_folder(study, options), name, seed)
    result = run(
        network,
        weights,
        case,
        config,
        parts,
        device=options.device,
        capture=not options.eager,
        container=file.with_suffix(".msvq") if options.containers else None,
        progress=not options.quiet and options.jobs == 1,
    )
    result |= {"machine": machine(options.device), "config": dataclasses.asdict(config)}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{network} {name} seed {seed}: {result['accuracy']:.2f} %, {result['seconds']:.0f} s", flush=True)


# Of a worker: the images, loaded once.
_parts: tuple[ImageData, ImageData] | None = None


def _start_worker(numbers: Any, options: argparse.Namespace) -> None:
    """Choose the worker's GPU, before anything has touched it, and load the images."""
    global _parts
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = given.split(",") if given else [str(number) for number in range(options.gpus)]
    os.environ["CUDA_VISIBLE_DEVICES"] = gpus[numbers.get() % len(gpus)]
    _parts = data(options)


def _work(study: Study, options: argparse.Namespace, name: str, seed: int) -> None:
    assert _parts is not None
    _one(study, options, _parts, name, seed)


def _processes(study: Study, runs: list[tuple[str, int]], options: argparse.Namespace) -> int:
    """The runs in ``--jobs`` processes. How many failed."""
    context = multiprocessing.get_context("spawn")
    numbers = context.Queue()
    for number in range(options.jobs):
        numbers.put(number)
    failed = 0
    with (
        ProcessPoolExecutor(options.jobs, context, _start_worker, (numbers, options)) as pool,
        progress_bar(not options.quiet) as bar,
    ):
        futures = {pool.submit(_work, study, options, name, seed): (name, seed) for name, seed in runs}
        for future in bar.track(as_completed(futures), total=len(futures), description=study.name):
            error = future.exception()
            if error is not None:
                failed += 1
                name, seed = futures[future]
                print(f"{options.network} {name} seed {seed} failed: {error}", file=sys.stderr, flush=True)
    return failed


def _report(study: Study, network: str, files: list[Path], output: Path) -> None:
    runs: list[dict[str, Any]] = [json.loads(file.read_text()) for file in files if file.exists()]
    if not runs:
        raise CompressError("there is no run to report")
    rows, summary = [], []
    for name in dict.fromkeys(entry["case"] for entry in runs):
        group = [entry for entry in runs if entry["case"] == name]
        accuracies = [entry["accuracy"] for entry in group]
        first = group[0]
        summary.append({"case": name, "seeds": len(group), "accuracy": accuracies})
        rows.append(
            [
                name,
                spread(accuracies),
                spread([entry["accuracy_before"] for entry in group]),
                f"{first['accuracy_float']:.2f}",
                f"{first['ratio_ideal']:.2f}",
                f"{first['ratio_file']:.2f}",
                f"{first['ratio_whole_file']:.2f}",
                f"{first['file_bytes']:,}",
                f"{first['kept_sse']:.1f}",
                len(group),
                first["config"]["epochs"],
            ]
        )
    headings = [
        "case",
        "accuracy",
        "before training",
        "float",
        "ratio, eq. 7",
        "ratio, file",
        "ratio, whole file",
        "bytes",
    ]
    headings += ["kept SSE", "seeds", "epochs"]
    devices = sorted({entry["machine"]["device"] for entry in runs})
    note = f"{study.note} Device: {', '.join(devices)}."
    report = {
        "experiment": study.name,
        "network": network,
        "note": note,
        "summary": summary,
        "runs": runs,
    }
    write_report(
        output / f"{study.name}-{network}.json",
        report,
        headings,
        rows,
    )
    print((output / f"{study.name}-{network}.md").read_text())


__all__ = ["Study", "main_of"]
