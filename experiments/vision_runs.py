"""What :mod:`experiments.vision` does: distillation, the runs of a study, and its report."""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from experiments.case import Case
from experiments.common import OTHER_RUNS, file_stem, machine, part_note, read_run, run_file, spread, write_report
from experiments.distillation import Replayed, relative_groups
from experiments.finetune import rules_for
from experiments.protocol import TRY_SEEDS, apart_note
from experiments.scoring import check_results
from experiments.shared_bits import shared_recipes
from experiments.vision import TRIED, Study
from experiments.vision_bits import level_rows, measured_recipes
from hw.command_line import write_text
from sw.compress.methods import CompressError, LayerSource, Recipe, misfit
from sw.compress.network import module_sources
from sw.compress.ratio import ideal_ratio, layer_bits, sum_bits
from sw.compress.training.comparison import compare_file
from sw.compress.training.graph import calibrate, integer_graph, quantise_activations, recalibrate_batch_norm
from sw.compress.training.integer import (
    IntegerNetwork,
    export_integers,
    integer_results,
    read_network,
    read_network_and_metadata,
    write_network,
)
from sw.compress.training.loop import set_rate
from sw.compress.training.modules import compressed_layers, convert
from sw.compress.training.operations import compared_layers
from sw.format.output import staged
from sw.format.strict_json import json_text

__all__ = ["Lesson", "Task", "as_results", "learn", "learn_together", "report", "run_all", "score_files"]

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
    #: Of the views, for the runs' files; how many pictures of each option there are, if ``data`` is among them, and how
    #: many whole ones are in ``sample``.
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    #: What a container is to say beside the network, such as what is done to its images.
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    #: What the results are called, where there are several.
    names: Sequence[str] = ()


def _channels_last(task: Task, device: str) -> Task:
    """On a GPU the same task with networks' values channels last: batch norms take half the time."""
    if not device.startswith("cuda"):
        return task
    task.model.to(memory_format=torch.channels_last)
    views = task.views
    return dataclasses.replace(
        task, views=lambda generator: views(generator).contiguous(memory_format=torch.channels_last)
    )


def as_results(values: Any) -> Results:
    """Results of a network, one or several, as a tuple."""
    return tuple(values) if isinstance(values, tuple | list) else (values,)


@dataclass(frozen=True)
class Lesson:
    """A network that is trained, beside others or alone."""

    #: On the device.
    student: nn.Module
    #: A batch of one shape.
    views: Views
    #: Of the network for a batch.
    loss: Callable[[nn.Module, Tensor], Tensor]
    #: Relative to the size of each parameter.
    lr: float
    #: Of the views.
    seed: int


class _Optimised:
    """A lesson's optimiser, AdamW, and the sum of its losses."""

    def __init__(self, lesson: Lesson, decay: float, device: str) -> None:
        self.lesson, self.cuda = lesson, device.startswith("cuda")
        self.generator = torch.Generator().manual_seed(lesson.seed)
        self.groups = relative_groups(lesson.student, lesson.lr)
        if self.cuda:
            # A captured step reads the rates from the device.
            for group in self.groups:
                group["lr"] = torch.tensor(group["lr"], device=device)
        self.optimiser = torch.optim.AdamW(
            self.groups, lesson.lr, weight_decay=decay, fused=self.cuda, capturable=self.cuda
        )
        self.running, self.losses = torch.zeros((), device=device), list[float]()

    def work(self, batch: Tensor) -> None:
        with torch.autocast("cuda", torch.bfloat16, enabled=self.cuda):
            found = self.lesson.loss(self.lesson.student, batch)
        self.optimiser.zero_grad(set_to_none=True)
        found.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.running.add_(found.detach())

    def set_rates(self, share: float) -> None:
        for group in self.groups:
            set_rate(group, float(group["peak"] * share))

    def close_losses(self, count: int, step: int) -> None:
        self.losses.append(float(self.running) / count)
        self.running.zero_()
        if not np.isfinite(self.losses[-1]):
            raise CompressError(f"the loss must be finite, not {self.losses[-1]} in step {step}: try a lower rate")


def _batches(all_of_them: Sequence[_Optimised], steps: int) -> Iterator[list[Tensor]]:
    """Each one's batch of every step; on a GPU the next ones are made, on another stream, while a step is computed."""
    cuda = all_of_them[0].cuda
    made = torch.cuda.Stream() if cuda else None  # type: ignore[no-untyped-call]
    done: list[torch.cuda.Event] = []

    def make() -> list[Tensor]:
        with torch.cuda.stream(made):
            return [own.lesson.views(own.generator) for own in all_of_them]

    batches = make()
    for step in range(steps):
        if made is not None:
            current = torch.cuda.current_stream()
            current.wait_stream(made)
            for batch in batches:
                batch.record_stream(current)
        yield batches
        if made is not None:
            # One step waits behind the one that is computed, not more: their batches would fill the memory.
            done.append(current.record_event())
            if len(done) > 1:
                done.pop(0).synchronize()  # type: ignore[no-untyped-call]
        if step + 1 < steps:
            batches = make()


def learn(student: nn.Module, views: Views, loss: Callable[[nn.Module, Tensor], Tensor], **how: Any) -> list[float]:
    """:func:`learn_together` of one network: ``lr`` and ``seed`` are its own."""
    return learn_together([Lesson(student, views, loss, how.pop("lr"), how.pop("seed"))], **how)[0]


def learn_together(
    lessons: Sequence[Lesson],
    *,
    steps: int,
    device: str,
    decay: float = 0.0,
    statistics: bool = False,
    capture: bool = True,
) -> list[list[float]]:
    """Train networks in place, each as it is alone: AdamW, a cosine of rates after a tenth of warming up.

    Parameters
    ----------
    lessons
        The networks, with what is their own.
    steps, decay
        Of each of them.
    statistics
        Train in training mode, so that batch norms take their statistics from the batch.
    device, capture
        Where; on a GPU, replay a step of all of them as one CUDA graph.

    Returns
    -------
    list
        Of each network the mean loss of each hundred steps, or of all if there are fewer.

    Raises
    ------
    CompressError
        A loss is NaN or infinite.
    """
    all_of_them = [_Optimised(lesson, decay, device) for lesson in lessons]
    for lesson in lessons:
        lesson.student.train(statistics)
    advance = Replayed([own.work for own in all_of_them], device.startswith("cuda") and capture)
    warm, every = max(1, steps // 10), min(100, steps)
    for step, batches in enumerate(_batches(all_of_them, steps)):
        share = min((step + 1) / warm, 0.5 * (1 + np.cos(np.pi * max(step - warm, 0) / max(steps - warm, 1))))
        for own in all_of_them:
            own.set_rates(share)
        advance(batches)
        if step % every == every - 1:
            for own in all_of_them:
                own.close_losses(every, step)
    for lesson in lessons:
        lesson.student.eval()
    return [own.losses for own in all_of_them]


@contextlib.contextmanager
def _distilling(
    task: Task, student: nn.Module | None = None, names: Sequence[str] = (), weight: float = 0.0
) -> Iterator[Callable[[nn.Module, Tensor], Tensor]]:
    """The loss against the float network; of the student's batch norms of these names, errors of their outputs too."""
    teacher = task.model
    pairs: tuple[list[Tensor], list[Tensor]] = [], []
    handles = [
        network.get_submodule(name).register_forward_hook(_keeping(values))
        for network, values in zip((teacher, student), pairs, strict=True)
        if network is not None
        for name in names
    ]

    def loss(student: nn.Module, batch: Tensor) -> Tensor:
        for values in pairs:
            values.clear()
        with torch.no_grad():
            wanted = tuple(each.float() for each in as_results(teacher(batch)))
        found = task.loss(tuple(each.float() for each in as_results(student(batch))), wanted)
        for own, other in zip(*pairs, strict=True):
            own = own.float()
            found = found + weight / len(names) * (other.float() - own).square().mean() / own.var()
        return found

    try:
        yield loss
    finally:
        for handle in handles:
            handle.remove()


def _keeping(values: list[Tensor]) -> Callable[[nn.Module, object, Tensor], None]:
    """A hook that keeps results, in the order of calls."""

    def keep(module: nn.Module, given: object, result: Tensor) -> None:
        values.append(result)

    return keep


def _coded(study: Study, model: nn.Module) -> list[LayerSource]:
    """Layers that are compressed: all but the first, the last and the depthwise."""
    first, *sources = module_sources(model)
    del first
    return [
        source
        for source in sources
        if source.name not in study.last and misfit(source, Recipe("vq", 1, 1, 0, 0)) != "depthwise"
    ]


def _write(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json_text(value))


@lru_cache(maxsize=1)
def _traced(model: nn.Module, sample: Tensor) -> fx.GraphModule:
    """The network in operations that have an integer form, on the CPU: once for all runs, as it takes seconds."""
    own = copy.deepcopy(model).cpu().to(memory_format=torch.contiguous_format)
    return integer_graph(own, sample[:2].cpu())


def _float_graph(task: Task, study: Study, level: bool) -> fx.GraphModule:
    """A copy of the float network in operations that have an integer form, on the CPU."""
    graph = copy.deepcopy(_traced(task.model, task.sample))
    if level:
        level_rows(graph, [source.name for source in _coded(study, graph)])
    return graph


def _allocated(task: Task, study: Study, case: Case, options: argparse.Namespace) -> dict[str, Recipe]:
    """Recipes of a case's layers by what each one alone adds to the loss: measured once, for all its runs."""
    path = options.runs / f"bits-{_stem(case, TRY_SEEDS[0])}.json"
    settings = {"images": options.images, "level": options.level, "share": options.share, "views": dict(task.settings)}
    if not path.exists():
        graph = _float_graph(task, study, options.level).to(options.device).eval()
        with _distilling(task) as loss:
            found = (shared_recipes if options.share else measured_recipes)(
                graph,
                _coded(study, graph),
                case,
                loss,
                task.sample,
                seed=TRY_SEEDS[0],
                threads=options.threads,
                report=lambda line: print(f"{case.name} {line}", flush=True),
            )
        _write(path, settings | {"recipes": {name: dataclasses.asdict(recipe) for name, recipe in found.items()}})
    return {name: Recipe(**fields) for name, fields in read_run(path, settings, _BEFORE, OTHER_RUNS)["recipes"].items()}


def _converted(
    task: Task, study: Study, case: Case | None, seed: int, options: argparse.Namespace
) -> tuple[fx.GraphModule, set[str]]:
    """The float network's graph with its layers compressed, calibrated, and their names; without a case, at 8 bit."""
    images = task.sample[:CALIBRATION]
    graph = _float_graph(task, study, case is not None and options.level)
    sources = _coded(study, graph)
    if case is None:
        rules = []
    elif options.allocate:
        rules = [
            (name, dataclasses.replace(recipe, seed=seed))
            for name, recipe in _allocated(task, study, case, options).items()
        ]
    else:
        rules = rules_for(sources, case, seed)
    convert(
        graph,
        rules,
        moving=case is not None and case.moving,
        device=options.device,
        threads=options.threads,
        progress=False,
        one_scale=compared_layers(graph),
    )
    graph = quantise_activations(graph, images[:2].cpu()).to(options.device).eval()
    calibrate(graph, images)
    return graph, {source.name for source in sources}


def _container(graph: fx.GraphModule, task: Task, path: Path) -> Callable[[Tensor], Results]:
    """Write the network, compare the file with it, and give what computes the file's integers."""
    channels, rows, columns = task.sample.shape[1:]
    with staged(path) as temporary:
        write_network(temporary, export_integers(graph, (channels, rows, columns), values=True), metadata=task.metadata)
        compare_file(temporary, graph, task.sample[:1], program=False)
    return partial(_results, read_network(path))


@dataclass
class _Run:
    """A run of a study, while it is made."""

    case: Case
    seed: int
    lr: float
    graph: fx.GraphModule
    names: set[str]
    report: dict[str, Any]


def _figures(task: Task, run: _Run) -> dict[str, float]:
    """Of the network as it is trained: on held-out images for runs that try rates."""
    figures = task.choose if run.seed in TRY_SEEDS else task.score
    return figures(lambda values: as_results(run.graph(values)))


def _begun(study: Study, task: Task, case: Case, seed: int, lr: float, steps: int, options: argparse.Namespace) -> _Run:
    """A run before training."""
    begin = time.perf_counter()
    graph, names = _converted(task, study, case, seed, options)
    recalibrate_batch_norm(graph, task.sample.split(RECALIBRATION))
    report: dict[str, Any] = {"case": case.name, "seed": seed, "lr": lr, "steps": steps, "mean_bits": case.mean_bits}
    report |= _settings(task, options)
    report["recipes"] = dict(_recipes_of(graph, names)) if options.allocate else None
    report["clustering_seconds"] = time.perf_counter() - begin
    run = _Run(case, seed, lr, graph, names, report)
    # Of runs that try rates it is not asked for, and costs as much as scoring a trained network.
    report["before"] = {} if seed in TRY_SEEDS else _figures(task, run)
    return run


def _ended(study: Study, task: Task, run: _Run, options: argparse.Namespace) -> dict[str, Any]:
    """The report of a trained run, and its container; the integers of final runs alone."""
    graph, names, report = run.graph, run.names, run.report
    if study.statistics:
        recalibrate_batch_norm(graph, task.sample.split(RECALIBRATION))
    report["trained"] = _figures(task, run)
    if run.seed in TRY_SEEDS:
        return report
    path = options.runs / f"{_stem(run.case, run.seed)}.msvq"
    report["integers"] = task.score(_container(graph, task, path))
    layers = compressed_layers(graph)
    report["ratio_ideal"] = ideal_ratio(sum_bits(layer_bits(layer) for layer in layers if layer.name in names))
    every, coded = (
        sum(int(np.prod(layer.shape)) for layer in layers if kept or layer.name in names) for kept in (True, False)
    )
    size = path.stat().st_size
    return report | {"bytes": size, "ratio_whole_file": 4 * every / size, "weights": every, "coded_weights": coded}


def _compress(
    study: Study,
    task: Task,
    wanted: Sequence[tuple[Case, int, float]],
    steps: int,
    options: argparse.Namespace,
) -> list[dict[str, Any]]:
    """Runs of cases, seeds and rates, from the float network to the container's integers, trained side by side."""
    begin = time.perf_counter()
    runs = [_begun(study, task, case, seed, lr, steps, options) for case, seed, lr in wanted]
    start = time.perf_counter()
    with contextlib.ExitStack() as stack:
        lessons = []
        for run in runs:
            if options.device.startswith("cuda"):
                run.graph.to(memory_format=torch.channels_last)
            norms = _norms(run.graph, run.names) if options.features else ()
            loss = stack.enter_context(_distilling(task, run.graph, norms, options.features))
            lessons.append(Lesson(run.graph, task.views, loss, run.lr, run.seed))
        losses = learn_together(
            lessons, steps=steps, device=options.device, statistics=study.statistics, capture=not options.eager
        )
    trained = time.perf_counter()
    found = []
    for run, own in zip(runs, losses, strict=True):
        run.report["losses"] = own
        found.append(_ended(study, task, run, options))
    # Of runs side by side, each one's share.
    seconds = (time.perf_counter() - begin) / len(runs)
    common = {"training_seconds": (trained - start) / len(runs), "together": len(runs), "seconds": seconds}
    return [report | common | {"machine": machine(options.device)} for report in found]


def _norms(graph: fx.GraphModule, names: set[str]) -> list[str]:
    """Names of the batch norms right behind these layers."""
    nodes = [node for node in graph.graph.nodes if node.op == "call_module" and str(node.target) in names]
    behind = [str(user.target) for node in nodes for user in node.users if user.op == "call_module"]
    return [name for name in behind if isinstance(graph.get_submodule(name), nn.BatchNorm2d)]


def _recipes_of(graph: fx.GraphModule, names: set[str]) -> Iterator[tuple[str, list[Any]]]:
    """Of each layer its method, N, M, codeword length, codewords, a codeword's bits, and the shared codebook's name."""
    for layer in compressed_layers(graph):
        if layer.name in names:
            own = [layer.method, layer.n, layer.m, layer.d, layer.k, layer.codeword_bits]
            yield layer.name, [*own, layer.codebook_name]


def _stem(case: Case, seed: int) -> str:
    return f"{file_stem(case.name)}-{seed}"


#: What settings were in runs' files that do not say them.
_BEFORE = {"features": 0.0, "level": False, "allocate": False, "share": False, "views": {}}


def _settings(task: Task, options: argparse.Namespace) -> dict[str, Any]:
    """What a run's file says of how it was made, beside its case, rate and steps."""
    own = {name: getattr(options, name) for name in ("features", "level", "allocate", "share")}
    return own | {"views": dict(task.settings)} | _part(options)


def _part(options: argparse.Namespace) -> dict[str, int]:
    """What a run's file says where its images are not all there are."""
    return {"images": options.images} if options.images else {}


def run_all(study: Study, options: argparse.Namespace) -> None:
    """Float figures, tries, and final runs: one seed of every case before the next seed.

    Raises
    ------
    CompressError
        Data or weights are not what they must be, a file is of a run with other settings, or a loss is not finite.
    """
    torch.set_num_threads(options.threads)
    task = _channels_last(study.task(options), options.device)
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
        results = _container(_converted(task, study, None, 0, options)[0], task, plain.with_suffix(".msvq"))
        size = plain.with_suffix(".msvq").stat().st_size
        _write(
            plain, _part(options) | {"scores": task.score(results), "bytes": size, "machine": machine(options.device)}
        )
    cases = [case for i, case in enumerate(study.cases) if i % count == number]

    def path_of(case: Case, seed: int, lr: float) -> Path:
        tried = seed in TRY_SEEDS
        folder: Path = options.runs
        return folder / (f"try-{_stem(case, seed)}-{lr:g}.json" if tried else f"{_stem(case, seed)}.json")

    settings = wanted | _settings(task, options)

    def made(wanted: Sequence[tuple[Case, int, float]], steps: int) -> list[dict[str, Any]]:
        missing = [each for each in wanted if not path_of(*each).exists()]
        for first in range(0, len(missing), options.together):
            some = missing[first : first + options.together]
            for (case, seed, lr), report in zip(some, _compress(study, task, some, steps, options), strict=True):
                _write(path_of(case, seed, lr), report)
                print(f"{study.name} {case.name} seed {seed} rate {lr:g}: {report['trained']}", flush=True)
        return [
            read_run(path_of(*each), settings | {"lr": each[2], "steps": steps}, _BEFORE, OTHER_RUNS) for each in wanted
        ]

    few = options.try_steps or max(1, round(TRIED * options.steps))
    tries = made([(case, seed, lr) for case in cases for lr in options.rates for seed in TRY_SEEDS], few)
    best = {
        case.name: max(
            (found for found in tries if found["case"] == case.name), key=lambda found: found["trained"]["choice"]
        )["lr"]
        for case in cases
    }
    made([(case, seed, best[case.name]) for seed in options.seeds for case in cases], options.steps)


def score_files(study: Study, options: argparse.Namespace) -> None:
    """Print the score of each of ``options.score``, by the container's integers, beside the float network's.

    Where there are several results, also what each of them alone costs, the others being the float network's.

    Raises
    ------
    CompressError
        Data or weights are not what they must be, or a file is of another network or takes other images.
    """
    torch.set_num_threads(options.threads)
    files = [(path, *read_network_and_metadata(path)) for path in options.score]
    task = study.task(options)
    image = task.sample[:1]
    with torch.no_grad():
        wanted = as_results(task.model(image))
    for path, network, metadata in files:
        for name, value in task.metadata.items():
            if metadata.get(name) != value:
                raise CompressError(f"{name} of {str(path)!r} must be {value}, not {metadata.get(name)}")
        check_results(str(path), network, image, wanted, "")

    def scored(results: Callable[[Tensor], Results]) -> tuple[float, list[Results]]:
        """The score, and the results of each batch: batches come in the same order each time."""
        kept: list[Results] = []

        def keep(images: Tensor) -> Results:
            kept.append(results(images))
            return kept[-1]

        return task.score(keep)[study.figure], kept

    def replayed(kept: Sequence[Results]) -> Callable[[Tensor], Results]:
        each = iter(kept)
        return lambda images: next(each)

    with torch.no_grad():
        dense, theirs = scored(lambda images: as_results(task.model(images)))
        print(f"float: {study.heading} {dense:.2f}", flush=True)
        for path, network, _ in files:
            found, ours = scored(partial(_results, network))
            print(f"{path}: {study.heading} {found:.2f}, {dense - found:.2f} below float", flush=True)
            for number, name in enumerate(task.names):
                mixed = [(*b[:number], a[number], *b[number + 1 :]) for a, b in zip(ours, theirs, strict=True)]
                found = task.score(replayed(mixed))[study.figure]
                print(f"    its {name} alone: {found:.2f}, {dense - found:.2f} below float", flush=True)


def _results(network: IntegerNetwork, images: Tensor) -> Results:
    return tuple(integer_results(network, images))


def _pictures(runs: Sequence[Mapping[str, Any]]) -> str:
    """What runs learned from, for the note; nothing of those whose files do not say it."""
    found = []
    for views in (run["views"] for run in runs if "data" in run.get("views", {})):
        counts = ", ".join(f"{views[name]:,} of --{name}" for name in ("data", "more", "small") if views[name])
        found.append(f" Pictures: {counts}; {views['whole']:,} whole ones for batch norms.")
        if "data_part" in views:
            part, least, mix = views["data_part"], views["least_area"], views["mix"]
            texts = [f"{part:g} of them of --data", f"{least:g} or more of a picture", f"{mix:g} of batches mixed"]
            texts += [f"colours varied by {views['recolour']:g}"] if "recolour" in views else []
            if "balance" in views and views["more"]:
                texts += [
                    f"{views['four_part']:g} of four pictures",
                    f"rare classes by a power of {views['balance']:g}",
                ]
            if "class_weight" in views:
                by = f"objectness to the power of {views['class_power']:g}"
                texts += [f"classes count {views['class_weight']:g} times, by {by}"]
            found.append(f" Views: {', '.join(texts)}.")
    return "".join(dict.fromkeys(found))


def _tried(tries: Sequence[Mapping[str, Any]]) -> str:
    """How long tries were, for the note."""
    steps = sorted({entry["steps"] for entry in tries})
    return f" Tries have {' and '.join(f'{each:,}' for each in steps)} steps." if steps else ""


def report(study: Study, options: argparse.Namespace) -> None:
    """Write the table of the final runs that are there, and its JSON, to ``options.output``, and print it.

    Raises
    ------
    CompressError
        There is none, or a file is damaged.
    """
    runs, tries = [], []
    for case in study.cases:
        for seed in options.seeds:
            path = options.runs / f"{_stem(case, seed)}.json"
            runs += [run_file(path, "case")] if path.exists() else []
        for seed in TRY_SEEDS:
            found = sorted(options.runs.glob(f"try-{_stem(case, seed)}-*.json"))
            tries += [run_file(path, "case") for path in found]
    if not runs:
        raise CompressError("there is no run to report")
    known = run_file(options.runs / "float.json", "scores")
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
        known["8 bit"] = run_file(plain, "scores", "bytes")
        score, size = known["8 bit"]["scores"][study.figure], known["8 bit"]["bytes"]
        eight = f" All layers at 8 bit, not trained: {score:.2f}, {size:,} bytes."
    devices = ", ".join(sorted({run["machine"]["device"] for run in runs}))
    sizes = [(run["mean_bits"], run["bytes"]) for run in runs]
    note = (
        f"{study.note}{' Layers may share codebooks.' if any(run.get('share') for run in runs) else ''}"
        f"{_pictures(runs)}{_tried(tries)} Float: {uncompressed:.2f}.{eight}{apart_note(sizes)} Device: {devices}."
        f"{part_note(runs, 'images')}"
    )
    found = {"experiment": study.name, "note": note, "float": known, "summary": summary, "runs": runs, "tries": tries}
    path = options.output / f"{study.name}.json"
    write_report(path, found, headings, rows)
    print(path.with_suffix(".md").read_text())
