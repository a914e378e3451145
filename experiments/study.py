"""A table of cases: run them all, or some, in parallel processes or one after the other, and write the results.

Each run leaves one JSON file under build/experiments; the report is made of those that are there, so a study can be
stopped and gone on with, and cases can be run on several machines.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.common import WEIGHTS, add_options, data, machine, spread, write_report
from experiments.finetune import Case, run
from sw.compress.methods import CompressError
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
    parser.add_argument("--report-only", action="store_true", help="make the report of the runs that are there")
    add_options(parser)
    options = parser.parse_args(arguments)
    try:
        return _run(study, options, list(sys.argv[1:] if arguments is None else arguments))
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2


def _run(study: Study, options: argparse.Namespace, arguments: list[str]) -> int:
    network = options.network
    cases = {case.name: case for case in study.cases(network)}
    chosen = options.cases or list(cases)
    for name in chosen:
        if name not in cases:
            raise CompressError(f"case must be one of {', '.join(cases)}, not {name!r}")
    config = study.config(network)
    if options.epochs:
        config = dataclasses.replace(config, epochs=options.epochs)
    if options.lr is not None:
        config = dataclasses.replace(config, lr=options.lr)
    if options.device.startswith("cuda"):
        config = dataclasses.replace(config, precision="bfloat16")
    folder = options.runs or WEIGHTS / f"{study.name}-{network}"
    missing = [(name, seed) for seed in options.seeds for name in chosen if not _file(folder, name, seed).exists()]
    failed = 0
    if missing and not options.report_only:
        if options.jobs > 1:
            failed = _processes(study, missing, folder, options, arguments)
        else:
            parts = data(options)
            for name, seed in missing:
                case = cases[name]
                weights = (
                    options.sparse_weights or WEIGHTS / f"{network}-sr-ste.pt"
                    if case.sparse
                    else options.weights or WEIGHTS / f"{network}.pt"
                )
                seeded = dataclasses.replace(config, seed=seed, batch=min(config.batch, len(parts[0])))
                result = run(
                    network,
                    weights,
                    case,
                    seeded,
                    parts,
                    device=options.device,
                    capture=not options.eager,
                    progress=not options.quiet,
                )
                result |= {"machine": machine(options.device), "config": dataclasses.asdict(seeded)}
                file = _file(folder, name, seed)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(result, indent=1) + "\n")
                print(
                    f"{network} {name} seed {seed}: {result['accuracy']:.2f} %, {result['seconds']:.0f} s", flush=True
                )
    _report(study, network, [_file(folder, name, seed) for name in cases for seed in options.seeds], options.output)
    return 1 if failed else 0


def _file(folder: Path, case: str, seed: int) -> Path:
    name = "".join(letter if letter.isalnum() else "-" for letter in case)
    return folder / f"{name}-{seed}.json"


def _processes(
    study: Study, runs: list[tuple[str, int]], folder: Path, options: argparse.Namespace, arguments: list[str]
) -> int:
    """Each run in a process of its own, ``--jobs`` at a time. How many failed."""
    waiting, running, failed, started = list(runs), [], 0, 0
    while waiting or running:
        while waiting and len(running) < options.jobs:
            name, seed = waiting.pop(0)
            environment = os.environ | {"PYTHONUNBUFFERED": "1"}
            if options.gpus > 1:
                environment["CUDA_VISIBLE_DEVICES"] = str(started % options.gpus)
            started += 1
            command = [sys.executable, "-m", f"experiments.{study.name}", *arguments]
            command += ["--jobs", "1", "--gpus", "1", "--quiet", "--cases", name, "--seeds", str(seed)]
            command += ["--output", str(_file(folder, name, seed).with_suffix(""))]
            running.append(subprocess.Popen(command, env=environment))
        running[0].wait()
        for process in [process for process in running if process.poll() is not None]:
            running.remove(process)
            failed += process.returncode != 0
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
                f"{first['accuracy_float']:.2f}" if "accuracy_float" in first else "-",
                f"{first['ratio_ideal']:.2f}",
                f"{first['ratio_file']:.2f}" if "ratio_file" in first else "-",
                f"{first['ratio_whole_file']:.2f}",
                f"{first['kept_sse']:.1f}",
                len(group),
                first["config"]["epochs"],
            ]
        )
    headings = ["case", "accuracy", "before training", "float", "ratio, eq. 7", "ratio, file", "whole file", "kept SSE"]
    devices = sorted({entry["machine"]["device"] for entry in runs})
    report = {
        "experiment": study.name,
        "network": network,
        "note": f"{study.note} Device: {', '.join(devices)}.",
        "summary": summary,
        "runs": runs,
    }
    write_report(output / f"{study.name}-{network}.json", report, [*headings, "seeds", "epochs"], rows)
    print((output / f"{study.name}-{network}.md").read_text())


__all__ = ["Study", "main_of"]
