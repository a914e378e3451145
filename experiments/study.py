"""A table of cases: run them all, or some, in parallel processes or one after the other, and write the results.

Each run leaves one JSON file under build/experiments; the report is made of those that are there, so a study can be
stopped and gone on with, and cases can be run on several machines.

With ``--rates``, each case is tried with each of some learning rates, on images that are held out of the training ones
(:mod:`experiments.protocol`); the best ones are written to ``docs/results/rates-NAME-NETWORK.json``, which the study
takes its rates from. Rates can be tried on one seed first, and promising ones on more (``--seeds``): of those with the
most seeds, the best counts.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.case import Case
from experiments.common import (
    OTHER_RUNS,
    RESULTS,
    WEIGHTS,
    add_options,
    at_least_one,
    chosen_device,
    data,
    existing_weights,
    file_stem,
    folder,
    machine,
    read_run,
    run_file,
    spread,
    weights_file,
    write_report,
)
from hw.command_line import write_text
from sw.command_line import Parser, exit_status
from sw.compress.methods import CompressError
from sw.compress.training.settings import TrainConfig

if TYPE_CHECKING:
    from sw.compress.training.data import ImageData

#: Images whose logits :mod:`sw.golden` computes too, of one seed: they take as long as all others.
GOLDEN = 2

#: What the ratios of a table are of.
RATIOS = "Ratios count all layers but the first and the last, which stay at 8 bit; the file holds those too."


@dataclass(frozen=True)
class Study:
    """What a study compares."""

    #: Of its module and its results.
    name: str
    #: For the help of its command.
    description: str | None
    #: Settings of each network that it can run on.
    configs: Mapping[str, TrainConfig]
    #: Of a network.
    cases: Callable[[str], list[Case]]
    #: That the accuracy is of.
    images: str
    #: Below the table, behind what stands below all of them.
    remarks: str

    @property
    def note(self) -> str:
        """What stands below the table."""
        return (
            f"Accuracy of the container's integers on the {self.images}, in per cent; mean and standard deviation over"
            f" seeds. {self.remarks}"
        )

    def main(self, arguments: Sequence[str] | None = None) -> int:
        """Run the command. Returns the exit status: 2 for bad input, with one line on standard error."""
        parser = _parser(self)
        options = parser.parse_args(arguments)
        return exit_status(parser.prog, lambda: _run(self, options))


def _parser(study: Study) -> argparse.ArgumentParser:
    parser = Parser(prog=f"python -m experiments.{study.name}", description=study.description)
    parser.add_argument("network", choices=study.configs)
    parser.add_argument("--weights", type=Path, help="floating-point weights (build/experiments/NETWORK.pt)")
    parser.add_argument("--sparse-weights", type=Path, help="weights trained 4:16 sparse (...NETWORK-sr-ste.pt)")
    parser.add_argument("--seeds", type=int, nargs="+", help="0 1 2, and 100 for --rates")
    parser.add_argument("--cases", nargs="+", help="names of the cases to run (all)")
    parser.add_argument("--epochs", type=at_least_one, help="instead of the network's own number")
    rate = parser.add_mutually_exclusive_group()
    rate.add_argument("--lr", type=float, help="instead of each case's own learning rate")
    rate.add_argument(
        "--rates", type=float, nargs="+", metavar="LR", help="find each case's own learning rate of these"
    )
    parser.add_argument(
        "--jobs", type=at_least_one, default=1, help="runs at a time, in processes of their own (%(default)s)"
    )
    parser.add_argument("--gpus", type=at_least_one, default=1, help="GPUs that the processes share (%(default)s)")
    parser.add_argument("--runs", type=folder, help="directory of the runs' files (build/experiments/NAME-NETWORK)")
    parser.add_argument("--containers", action="store_true", help="keep the networks' files beside the runs'")
    parser.add_argument("--report-only", action="store_true", help="make the report of the runs that are there")
    add_options(parser)
    return parser


@dataclass(frozen=True)
class _Run:
    """One run of a study: its case, its settings, and its file."""

    case: Case
    config: TrainConfig
    file: Path

    @property
    def name(self) -> str:
        """What its messages call it."""
        return f"{self.case.name} seed {self.config.seed} rate {self.config.lr:g}"

    def missing(self, network: str, images: int) -> bool:
        """There is no file of it; ``images`` are those it is trained with.

        Raises
        ------
        CompressError
            There is one with other settings, or a damaged one.
        """
        if not self.file.exists():
            return True
        # A file from before a setting was there: it was as if it had its default.
        defaults = {field.name: field.default for field in dataclasses.fields(self.config)}
        wanted = dataclasses.asdict(self.config) | {"network": network, "images": images}
        read_run(self.file, wanted, defaults, OTHER_RUNS)
        return False


def _found_rates(study: str, network: str) -> dict[str, Any]:
    """The report of ``--rates``: ``best``, the learning rate of each case that it tried, and its ``runs``."""
    path = RESULTS / f"rates-{study}-{network}.json"
    return run_file(path, "best", "runs") if path.exists() else {"best": {}, "runs": []}


def _runs(study: Study, options: argparse.Namespace, cases: Sequence[Case]) -> list[_Run]:
    """One seed of every case before the next seed, or one rate: a study that is stopped has whole tables."""
    from experiments.protocol import SEEDS, TRY_SEEDS

    name = f"rates-{study.name}" if options.rates else study.name
    runs = options.runs or WEIGHTS / f"{name}-{options.network}"
    best = _found_rates(study.name, options.network)["best"]
    own = study.configs[options.network]
    found = []
    # What is given twice is run, and counts, once.
    for seed in dict.fromkeys(options.seeds or (TRY_SEEDS if options.rates else SEEDS)):
        for rate in dict.fromkeys(options.rates or [options.lr]):
            for case in cases:
                lr = best.get(case.rate_of or case.name, own.lr) if rate is None else rate
                config = dataclasses.replace(own, seed=seed, lr=lr)
                if options.epochs:
                    config = dataclasses.replace(config, epochs=options.epochs)
                if options.device.startswith("cuda"):
                    config = dataclasses.replace(config, precision="bfloat16")
                file = f"{file_stem(case.name)}-{seed}"
                found.append(_Run(case, config, runs / f"{file}{f'-{lr:g}' if options.rates else ''}.json"))
    return found


def _run(study: Study, options: argparse.Namespace) -> int:
    options.device = chosen_device(options.device)
    cases = study.cases(options.network)
    if options.rates:
        cases = [case for case in cases if not case.rate_of]
    names = [case.name for case in cases]
    for name in options.cases or ():
        if name not in names:
            raise CompressError(f"case must be one of {', '.join(names)}, not {name!r}")
    runs = _runs(study, options, cases)
    failed = 0
    if not options.report_only:
        parts = _parts_of(options)
        images = len(parts[0])
        runs = [
            dataclasses.replace(run, config=dataclasses.replace(run.config, batch=min(run.config.batch, images)))
            for run in runs
        ]
        missing = [
            run for run in runs if run.case.name in (options.cases or names) and run.missing(options.network, images)
        ]
        for run in missing:
            _starts(options, run.case)
        if options.jobs > 1:
            failed = _processes(study, missing, options)
        else:
            for run in missing:
                _one(options, parts, run)
    entries = [
        run_file(run.file) for run in sorted(runs, key=lambda run: names.index(run.case.name)) if run.file.exists()
    ]
    if not entries:
        raise CompressError("there is no run to report")
    for entry in entries:
        if entry.get("network") != options.network:
            raise CompressError(
                f"runs must be of {options.network}, not of {entry.get('network')}: choose other --runs"
            )
    (_report_rates if options.rates else _report)(study, options.network, entries, options.output)
    return 1 if failed else 0


def _parts_of(options: argparse.Namespace) -> tuple[ImageData, ImageData]:
    """Images to train with, and to be scored on: those held out where rates are tried, the test images elsewhere."""
    from experiments.protocol import held_out

    train, test = data(options, options.network)
    train, held = held_out(train)
    return train, held if options.rates else test


def _starts(options: argparse.Namespace, case: Case) -> tuple[Path, Path]:
    """The weights that a case starts from, and its teacher's.

    Raises
    ------
    CompressError
        One is not there.
    """
    network, scheme = options.network, "sr-ste" if case.sparse else None
    given = {"": options.weights, "4:16": options.sparse_weights}.get(case.sparse)
    weights = given or existing_weights(weights_file(network, scheme, case.sparse), network, scheme, case.sparse)
    teacher = options.weights or weights_file(network)
    return weights, existing_weights(teacher, network) if case.distil and not options.weights else teacher


def _one(options: argparse.Namespace, parts: tuple[ImageData, ImageData], run: _Run) -> None:
    """One run, and its file."""
    from experiments.finetune import run as fine_tune
    from experiments.protocol import SEEDS

    network, recipes = options.network, None
    weights, teacher = _starts(options, run.case)
    if run.case.measured:
        from experiments.measured_bits import recipes_of

        file = WEIGHTS / f"bits-{network}" / f"{run.case.recipe.method}.json"
        recipes = recipes_of(network, weights, run.case, parts[0], file, device=options.device)
    result = fine_tune(
        network,
        weights,
        run.case,
        run.config,
        parts,
        device=options.device,
        teacher=teacher,
        recipes=recipes,
        capture=not options.eager,
        container=run.file.with_suffix(".msvq") if options.containers else None,
        golden=GOLDEN if run.config.seed == SEEDS[0] else 0,
        integers=not options.rates,
        progress=not options.quiet and options.jobs == 1,
    )
    if recipes is not None:
        result["recipes"] = {name: [own.method, own.n, own.m, own.d, own.k] for name, own in recipes.items()}
    result |= {"machine": machine(options.device), "images": len(parts[0]), "config": dataclasses.asdict(run.config)}
    result |= {"scored_images": len(parts[1]), "scored_on": "held out" if options.rates else "test"}
    run.file.parent.mkdir(parents=True, exist_ok=True)
    write_text(run.file, json.dumps(result, indent=1) + "\n")
    print(f"{network} {run.name}: {result['accuracy']:.2f} %, {result['seconds']:.0f} s", flush=True)


# Of a worker: the images, loaded once.
_parts: tuple[ImageData, ImageData] | None = None


def _start_worker(numbers: Any, options: argparse.Namespace) -> None:
    """Choose the worker's GPU, before anything has touched it, and load the images."""
    global _parts
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = given.split(",") if given else [str(number) for number in range(options.gpus)]
    os.environ["CUDA_VISIBLE_DEVICES"] = gpus[numbers.get() % len(gpus)]
    _parts = _parts_of(options)


def _work(options: argparse.Namespace, run: _Run) -> None:
    assert _parts is not None
    _one(options, _parts, run)


def _processes(study: Study, runs: list[_Run], options: argparse.Namespace) -> int:
    """The runs in ``--jobs`` processes. How many failed."""
    from sw.compress.network import progress_bar

    context = multiprocessing.get_context("spawn")
    numbers = context.Queue()
    for number in range(options.jobs):
        numbers.put(number)
    failed = 0
    with (
        ProcessPoolExecutor(options.jobs, context, _start_worker, (numbers, options)) as pool,
        progress_bar(not options.quiet) as bar,
    ):
        futures = {pool.submit(_work, options, run): run for run in runs}
        for future in bar.track(as_completed(futures), total=len(futures), description=study.name):
            error = future.exception()
            if error is not None:
                failed += 1
                print(f"{options.network} {futures[future].name} failed: {error}", file=sys.stderr, flush=True)
    return failed


def _report(study: Study, network: str, runs: list[dict[str, Any]], output: Path) -> None:
    import numpy as np

    from experiments.protocol import apart_note

    rows, summary = [], []
    rate_of = {case.name: case.rate_of or case.name for case in study.cases(network)}
    tried = [entry for entry in _found_rates(study.name, network)["runs"] if entry.get("scored_on") == "held out"]
    sizes: list[tuple[float, int]] = []
    for name in dict.fromkeys(entry["case"] for entry in runs):
        group = [entry for entry in runs if entry["case"] == name]
        tries = sum(entry["case"] == rate_of[name] for entry in tried)
        if group[0].get("mean_bits"):
            sizes.append((group[0]["mean_bits"], group[0]["file_bytes"]))
        accuracies = [entry["accuracy"] for entry in group]
        first = group[0]
        summary.append({"case": name, "seeds": len(group), "accuracy": accuracies, "tries": tries})
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
                f"{first['config']['lr']:g}",
                tries or "none held out",
                f"{np.mean([entry['stages']['training'] for entry in group]):.0f} s",
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
    headings += ["kept SSE", "seeds", "epochs", "rate", "tries", "training"]
    note = f"{study.note} {_protocol(runs, tried)} {_devices(runs)}{apart_note(sizes)}"
    report = {"experiment": study.name, "network": network, "note": note}
    report |= {"summary": summary, "runs": runs}
    _write(output / f"{study.name}-{network}.json", report, headings, rows)


def _protocol(runs: Sequence[dict[str, Any]], tried: Sequence[dict[str, Any]]) -> str:
    """What the tables say of how settings were chosen."""
    if not tried:
        return "Learning rates were not chosen on held-out images (`experiments/protocol.py`)."
    epochs = sorted({entry["config"]["epochs"] for entry in tried})
    return (
        f"Trained with {runs[0]['images']:,} images. A case's learning rate is the best of its tries, runs of"
        f" {' or '.join(map(str, epochs))} epochs, on {tried[0]['scored_images']:,} training images that no run here"
        " trains with; the test images were seen by the runs of this table alone."
    )


def _report_rates(study: Study, network: str, runs: list[dict[str, Any]], output: Path) -> None:
    import numpy as np

    rates = sorted({entry["config"]["lr"] for entry in runs})
    best, rows = {}, []
    for name in dict.fromkeys(entry["case"] for entry in runs):
        found: dict[float, list[float]] = {}
        for entry in runs:
            if entry["case"] == name:
                found.setdefault(entry["config"]["lr"], []).append(entry["accuracy"])
        best[name] = max(sorted(found), key=lambda rate: (len(found[rate]), np.mean(found[rate])))
        rows.append([name, *(spread(found[rate]) if rate in found else "" for rate in rates), f"{best[name]:g}"])
    note = (
        f"Accuracy on {runs[0]['scored_images']:,} training images that are held out, in per cent, by learning rate,"
        f" after {runs[0]['config']['epochs']} epochs, in the form that is trained. The study takes the best one of"
        f" those with the most seeds, the smaller of two that are level. {_devices(runs)}"
    )
    report = {"experiment": study.name, "network": network, "note": note, "best": best, "runs": runs}
    headings = ["case", *(f"{rate:g}" for rate in rates), "best"]
    _write(output / f"rates-{study.name}-{network}.json", report, headings, rows)


def _devices(runs: Sequence[dict[str, Any]]) -> str:
    return f"Device: {', '.join(sorted({entry['machine']['device'] for entry in runs}))}."


def _write(path: Path, report: dict[str, Any], headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    write_report(path, report, headings, rows)
    print(path.with_suffix(".md").read_text())


__all__ = ["RATIOS", "Study"]
