"""What :mod:`experiments.vision` does: distillation, the runs of a study, and its report."""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from experiments.case import Case
from experiments.common import OTHER_RUNS, machine, read_run, spread, write_report
from experiments.distillation import Replayed, relative_groups
from experiments.finetune import rules_for
from experiments.protocol import TRY_SEEDS, bytes_apart
from experiments.vision import TRIED, Study
from sw.compress.methods import CompressError, LayerSource, Recipe, misfit
from sw.compress.network import module_sources
from sw.compress.ratio import ideal_ratio, layer_bits, sum_bits
from sw.compress.training.comparison import compare_file
from sw.compress.training.graph import calibrate, integer_graph, quantise_activations, recalibrate_batch_norm
from sw.compress.training.integer import export_integers, integer_results, read_network, write_network
from sw.compress.training.modules import compressed_layers, convert
from sw.compress.training.operations import compared_layers
from sw.format.output import staged
from sw.format.strict_json import json_text

__all__ = ["Task", "as_results", "learn", "report", "run_all", "save_half"]

#: Images that set the scales of activations; those of a batch that recalibrates batch norm.
CALIBRATION, RECALIBRATION = 32, 16

Views = Callable[[torch.Generator], Tensor]
Results = tuple[Tensor, ...]


@dataclass(frozen=True)
class Task:
    """A network and its data, on the device."""

    #: The float network, in evaluation mode.
    model: nn.Module
    #: Normalised training images ``[n, 3, rows, columns]``.
    sample: Tensor
    #: A batch of random views of the training images.
    views: Views
    #: From the results of the network and of the float network one number.
    loss: Callable[[Results, Results], Tensor]
    #: From what computes results of normalised images, figures in per cent: on held-out images, to choose settings
    #: (``choice`` is what counts, the larger the better), and on test images.
    choose: Callable[[Callable[[Tensor], Results]], dict[str, float]]
    score: Callable[[Callable[[Tensor], Results]], dict[str, float]]


def as_results(values: Any) -> Results:
    """Results of a network, one or several, as a tuple."""
    return tuple(values) if isinstance(values, tuple | list) else (values,)


def learn(
    student: nn.Module,
    views: Views,
    loss: Callable[[nn.Module, Tensor], Tensor],
    *,
    steps: int,
    lr: float,
    device: str,
    seed: int,
    decay: float = 0.0,
    statistics: bool = False,
    capture: bool = True,
) -> list[float]:
    """Train a network in place: AdamW, a cosine of rates after a tenth of warming up.

    Parameters
    ----------
    student
        On ``device``.
    views
        A batch of one shape.
    loss
        Of the network for a batch.
    steps, lr, decay
        ``lr`` is relative to the size of each parameter.
    statistics
        Train in training mode, so that batch norms take their statistics from the batch.
    device, seed, capture
        Where; of the views; on a GPU, replay steps as a CUDA graph.

    Returns
    -------
    list
        The mean loss of each hundred steps, or of all if there are fewer.

    Raises
    ------
    CompressError
        The loss is NaN or infinite.
    """
    generator = torch.Generator().manual_seed(seed)
    cuda = device.startswith("cuda")
    groups = relative_groups(student, lr)
    if cuda:
        # A captured step reads the rates from the device.
        for group in groups:
            group["lr"] = torch.tensor(group["lr"], device=device)
    optimiser = torch.optim.AdamW(groups, lr, weight_decay=decay, fused=cuda, capturable=cuda)
    running, losses = torch.zeros((), device=device), []
    student.train(statistics)

    def work(batch: Tensor) -> None:
        with torch.autocast("cuda", torch.bfloat16, enabled=cuda):
            found = loss(student, batch)
        optimiser.zero_grad(set_to_none=True)
        found.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        running.add_(found.detach())

    advance, warm, every = Replayed(work, cuda and capture), max(1, steps // 10), min(100, steps)
    for step in range(steps):
        share = min((step + 1) / warm, 0.5 * (1 + np.cos(np.pi * max(step - warm, 0) / max(steps - warm, 1))))
        for group in groups:
            rate = float(group["peak"] * share)
            if cuda:
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        advance(views(generator))
        if step % every == every - 1:
            losses.append(float(running) / every)
            running.zero_()
            if not np.isfinite(losses[-1]):
                raise CompressError(f"the loss must be finite, not {losses[-1]} in step {step}: try a lower rate")
    student.eval()
    return losses


def _distilling(task: Task, teacher: nn.Module) -> Callable[[nn.Module, Tensor], Tensor]:
    """The loss against the float network."""

    def loss(student: nn.Module, batch: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = tuple(each.float() for each in as_results(teacher(batch)))
        return task.loss(tuple(each.float() for each in as_results(student(batch))), wanted)

    return loss


def _coded(study: Study, model: nn.Module) -> list[LayerSource]:
    """Layers that are compressed: all but the first, the last and the depthwise."""
    first, *sources = module_sources(model)
    del first
    return [
        source
        for source in sources
        if source.name not in study.last and misfit(source, Recipe("vq", 1, 1, 0, 0)) != "depthwise"
    ]


def save_half(model: nn.Module, path: Path) -> None:
    """A state dict with floats in half precision."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
    with staged(path) as temporary:
        torch.save(state, temporary)


def _write(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with staged(path) as temporary:
        Path(temporary).write_text(json_text(value))


def _converted(
    task: Task, study: Study, case: Case | None, seed: int, options: argparse.Namespace
) -> tuple[fx.GraphModule, set[str]]:
    """The float network's graph with its layers compressed, calibrated, and their names; without a case, at 8 bit."""
    images = task.sample[:CALIBRATION]
    graph = integer_graph(copy.deepcopy(task.model).cpu(), images[:2].cpu())
    sources = _coded(study, graph)
    convert(
        graph,
        [] if case is None else rules_for(sources, case, seed),
        moving=case is not None and case.moving,
        device=options.device,
        threads=options.threads,
        progress=False,
        one_scale=compared_layers(graph),
    )
    graph = quantise_activations(graph, images[:2].cpu()).to(options.device).eval()
    calibrate(graph, images)
    return graph, {source.name for source in sources}


def _container(graph: fx.GraphModule, images: Tensor, path: Path) -> Callable[[Tensor], Results]:
    """Write the network, compare the file with it, and give what computes the file's integers."""
    channels, rows, columns = images.shape[1:]
    with staged(path) as temporary:
        write_network(temporary, export_integers(graph, (channels, rows, columns), values=True))
        compare_file(temporary, graph, images[:1], program=False)
    network = read_network(path)
    return lambda values: tuple(integer_results(network, values))


def _compress(
    study: Study,
    task: Task,
    case: Case,
    seed: int,
    lr: float,
    steps: int,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """One run, from the float network to the container's integers; the integers of final runs alone."""
    begin = time.perf_counter()
    tried = seed in TRY_SEEDS
    graph, names = _converted(task, study, case, seed, options)
    recalibrate_batch_norm(graph, task.sample.split(RECALIBRATION))
    report: dict[str, Any] = {"case": case.name, "seed": seed, "lr": lr, "steps": steps, "mean_bits": case.mean_bits}
    report |= _part(options)
    report["clustering_seconds"] = time.perf_counter() - begin
    figures = task.choose if tried else task.score
    report["before"] = figures(lambda values: as_results(graph(values)))
    report["losses"] = learn(
        graph,
        task.views,
        _distilling(task, task.model),
        steps=steps,
        lr=lr,
        device=options.device,
        seed=seed,
        statistics=study.statistics,
        capture=not options.eager,
    )
    if study.statistics:
        recalibrate_batch_norm(graph, task.sample.split(RECALIBRATION))
    report["trained"] = figures(lambda values: as_results(graph(values)))
    report["training_seconds"] = time.perf_counter() - begin - report["clustering_seconds"]
    if not tried:
        path = options.runs / f"{_stem(case, seed)}.msvq"
        report["integers"] = task.score(_container(graph, task.sample, path))
        layers = compressed_layers(graph)
        report["ratio_ideal"] = ideal_ratio(sum_bits(layer_bits(layer) for layer in layers if layer.name in names))
        every, coded = (
            sum(int(np.prod(layer.shape)) for layer in layers if kept or layer.name in names) for kept in (True, False)
        )
        size = path.stat().st_size
        report |= {"bytes": size, "ratio_whole_file": 4 * every / size, "weights": every, "coded_weights": coded}
    report |= {"machine": machine(options.device), "seconds": time.perf_counter() - begin}
    return report


def _stem(case: Case, seed: int) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in case.name) + f"-{seed}"


def _part(options: argparse.Namespace) -> dict[str, int]:
    """What a run's file says where its images are not all there are."""
    return {"images": options.images} if options.images else {}


def run_all(study: Study, options: argparse.Namespace) -> None:
    """Float figures, tries, and final runs: one seed of every case before the next seed."""
    torch.set_num_threads(options.threads)
    task = study.task(options)
    wanted: dict[str, Any] = {"images": options.images}
    if (options.runs / "float.json").exists():
        read_run(options.runs / "float.json", wanted, {}, OTHER_RUNS)
    else:
        scores = task.score(lambda images: as_results(task.model(images)))
        _write(options.runs / "float.json", _part(options) | {"scores": scores, "machine": machine(options.device)})
    number, count = map(int, options.part.split("/"))
    plain = options.runs / "8-bit.json"
    if plain.exists():
        read_run(plain, wanted, {}, OTHER_RUNS)
    elif number == 0:
        results = _container(_converted(task, study, None, 0, options)[0], task.sample, plain.with_suffix(".msvq"))
        size = plain.with_suffix(".msvq").stat().st_size
        _write(
            plain, _part(options) | {"scores": task.score(results), "bytes": size, "machine": machine(options.device)}
        )
    cases = [case for i, case in enumerate(study.cases) if i % count == number]

    def one(case: Case, seed: int, lr: float, steps: int, path: Path) -> dict[str, Any]:
        if not path.exists():
            report = _compress(study, task, case, seed, lr, steps, options)
            _write(path, report)
            print(f"{study.name} {case.name} seed {seed} rate {lr:g}: {report['trained']}", flush=True)
        return read_run(path, wanted | {"lr": lr, "steps": steps}, {}, OTHER_RUNS)

    best = {}
    for case in cases:
        few = max(1, round(TRIED * options.steps))
        tries = [
            one(case, seed, lr, few, options.runs / f"try-{_stem(case, seed)}-{lr:g}.json")
            for lr in options.rates
            for seed in TRY_SEEDS
        ]
        best[case.name] = max(tries, key=lambda found: found["trained"]["choice"])["lr"]
    for seed in options.seeds:
        for case in cases:
            one(case, seed, best[case.name], options.steps, options.runs / f"{_stem(case, seed)}.json")


def report(study: Study, options: argparse.Namespace) -> None:
    runs, tries = [], []
    for case in study.cases:
        for seed in options.seeds:
            path = options.runs / f"{_stem(case, seed)}.json"
            runs += [json.loads(path.read_text())] if path.exists() else []
        for seed in TRY_SEEDS:
            found = sorted(options.runs.glob(f"try-{_stem(case, seed)}-*.json"))
            tries += [json.loads(path.read_text()) for path in found]
    if not runs:
        raise CompressError("there is no run to report")
    known = json.loads((options.runs / "float.json").read_text())
    uncompressed, rows, summary = known["scores"][study.figure], [], []
    for name in dict.fromkeys(run["case"] for run in runs):
        group = [run for run in runs if run["case"] == name]
        figures = [run["integers"][study.figure] for run in group]
        count = sum(entry["case"] == name for entry in tries)
        summary.append({"case": name, "seeds": len(group), "figures": figures, "tries": count})
        rows.append(
            [
                name,
                spread(figures),
                f"{uncompressed - float(np.mean(figures)):.2f}",
                spread([run["before"][study.figure] for run in group]),
                f"{group[0]['ratio_ideal']:.2f}",
                f"{group[0]['ratio_whole_file']:.2f}",
                f"{group[0]['bytes']:,}",
                len(group),
                group[0]["steps"],
                f"{group[0]['lr']:g}",
                count,
                f"{np.mean([run['seconds'] for run in group]):.0f} s",
            ]
        )
    headings = ["case", study.heading, "below float", "before training", "ratio, eq. 7", "ratio, whole file", "bytes"]
    headings += ["seeds", "steps", "rate", "tries", "a run"]
    plain, eight = options.runs / "8-bit.json", ""
    if plain.exists():
        known["8 bit"] = json.loads(plain.read_text())
        score, size = known["8 bit"]["scores"][study.figure], known["8 bit"]["bytes"]
        eight = f" All layers at 8 bit, not trained: {score:.2f}, {size:,} bytes."
    devices = ", ".join(sorted({run["machine"]["device"] for run in runs}))
    note = (
        f"{study.note} Float: {uncompressed:.2f}.{eight} Files are within"
        f" {100 * bytes_apart([run['bytes'] for run in runs]):.2f} % of each other. Device: {devices}."
    )
    found = {"experiment": study.name, "note": note, "float": known, "summary": summary, "runs": runs, "tries": tries}
    path = options.output / f"{study.name}.json"
    write_report(path, found, headings, rows)
    print(path.with_suffix(".md").read_text())
