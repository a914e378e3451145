"""A network from its floats to a file, in one call: sparse training, clustering, fine-tuning, integers.

Every method goes the same way; the recipes alone differ. ``python -m sw.compress finetune`` is its command line.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import glob
import inspect
import json
import os
import platform
import re
import sys
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import torch
from torch import Tensor, nn

from sw.command_line import exit_status
from sw.compress.kmeans_gpu import device_kind
from sw.compress.methods import RECIPE_METHODS, SCOPES, CompressError, LayerSource, Recipe, check_keep, recipe_for
from sw.compress.network import module_sources
from sw.compress.pruning import parse_nm
from sw.compress.ratio import ideal_ratio, layer_bits, sum_bits
from sw.compress.search import read_rules
from sw.compress.sources import load_model
from sw.compress.training.data import SPLITS, ImageData, load_data
from sw.compress.training.freezing import VALUES, Freezing, SignFreezer
from sw.compress.training.graph import calibrate, quantise_activations, quantise_inputs, recalibrate_batch_norm
from sw.compress.training.integer import (
    IntegerNetwork,
    export_integers,
    network_metadata,
    quantise_images,
    write_network,
)
from sw.compress.training.loop import TrainConfig, accuracy, check_network, fit, images_of, training_images
from sw.compress.training.modules import SignBits, compressed_layers, convert
from sw.compress.training.sparse import SCHEMES, finish_sparse, start_sparse
from sw.format.container import write_container
from sw.format.layer import CompressedLayer
from sw.format.output import staged
from sw.host.device import run_on_device
from sw.host.network import SteppedNetwork, stepped_metadata, write_stepped
from sw.host.transformer import export_transformer

__all__ = [
    "DEFAULTS",
    "Finetuned",
    "Finetuning",
    "file_metadata",
    "finetune",
    "measure_integers",
    "method_rules",
    "prepare",
    "to_integers",
    "write_integers",
]

#: k, d, N and M of each method where none are given: those of the papers' ablations, and DKM and PQF as plain VQ.
DEFAULTS: dict[str, tuple[int, int, int, int]] = {
    "mvq": (512, 16, 4, 16),
    "msvq": (32, 16, 4, 16),
    "ssvq": (16, 8, 0, 0),
    "vq": (1024, 8, 0, 0),
    "pqf": (1024, 8, 0, 0),
    "dkm": (1024, 8, 0, 0),
}

#: Training images that set the scales of activations, and that recalibrate batch norm.
CALIBRATION, RECALIBRATION = 500, 5000

#: Test images whose logits :mod:`sw.golden` computes too, to be compared with those of the faster integers.
GOLDEN = 8


def method_rules(
    sources: Sequence[LayerSource], recipe: Recipe, keep: Sequence[str] | None = None
) -> list[tuple[str, Recipe]]:
    """Rules that compress all layers by one recipe, but for some that stay at 8 bit.

    Parameters
    ----------
    sources
        Of the network.
    recipe
        How.
    keep
        Shell patterns of the layers that stay; by default the first and the last layer.
    """
    if keep is None:
        keep = [glob.escape(source.name) for source in (*sources[:1], *sources[-1:])]
    return [*((pattern, Recipe("int8")) for pattern in keep), ("*", recipe)]


def prepare(
    model: nn.Module,
    rules: Sequence[tuple[str, Recipe]],
    images: Tensor,
    *,
    alpha: float = 1.0,
    learn_signs: bool = True,
    threads: int | None = None,
    progress: bool = True,
) -> tuple[nn.Module, str | None]:
    """Compress a network and quantise its activations: the form that :func:`sw.compress.training.loop.fit` trains.

    Parameters
    ----------
    model
        On the device of ``images``. Its layers are changed.
    rules, alpha, learn_signs, threads, progress
        As in :func:`sw.compress.training.modules.convert`.
    images
        Normalised floats ``[batch, C, rows, columns]`` that set the scales of the activations.

    Returns
    -------
    tuple
        The network in evaluation mode; and why it has no form as one program of integers, or None if it has. Without
        one, the inputs of its layers are quantised, and the rest is float: a vision transformer can still become a
        network in steps (:func:`sw.host.transformer.export_transformer`).
    """
    convert(model, rules, alpha=alpha, learn_signs=learn_signs, threads=threads, progress=progress)
    graph, reason = _graph(model)
    if graph is not None:
        calibrate(graph.to(images.device), images)
        try:
            export_integers(graph, (images.shape[1], images.shape[2], images.shape[3]))
            return graph, None
        except CompressError as error:
            reason = str(error)
    quantise_inputs(model).to(images.device).eval()
    calibrate(model, images)
    return model, reason


def file_metadata(model: nn.Module, images: Tensor) -> dict[str, Any] | None:
    """What :func:`finetune`'s file of a network will hold beside the layers, as far as is known before.

    After training it may have up to :data:`sw.compress.search.SLACK` bytes more.

    Parameters
    ----------
    model
        In floats. Not changed.
    images
        As in :func:`prepare`.

    Returns
    -------
    dict
        For :func:`sw.compress.search.search`; None of a network without integer form, whose file has layers alone.
    """
    graph, reason = prepare(copy.deepcopy(model), [], images, progress=False)
    try:
        network = to_integers(graph, reason, images)
    except CompressError:
        return None
    return stepped_metadata(network) if isinstance(network, SteppedNetwork) else network_metadata(network)


def _graph(model: nn.Module) -> tuple[torch.fx.GraphModule | None, str]:
    """The network with quantisers between its operations; or None, and why there is no such form."""
    try:
        return quantise_activations(model).eval(), ""
    except CompressError as error:
        return None, str(error)
    except Exception as error:  # torch.fx raises errors of every kind where it cannot trace a network
        return None, f"it cannot be traced: {' '.join(str(error).split())[:200]}"


@dataclass(frozen=True)
class Finetuning:
    """All that decides what :func:`finetune` makes of a network and data.

    Parameters
    ----------
    rules
        Recipe of each layer (:func:`sw.compress.methods.recipe_for`).
    config
        Of the fine-tuning.
    sparse
        Of N:M sparse training before clustering, of the layers with a masked recipe; None for none.
    scheme
        Of sparse training: one of :data:`sw.compress.training.sparse.SCHEMES`.
    alpha, learn_signs
        Of sign-split methods (:class:`sw.compress.training.modules.CodebookDecoder`).
    freezing
        Of signs, or None.
    """

    rules: Sequence[tuple[str, Recipe]]
    config: TrainConfig
    sparse: TrainConfig | None = None
    scheme: str = "sr-ste"
    alpha: float = 1.0
    learn_signs: bool = True
    freezing: Freezing | None = dataclasses.field(default_factory=Freezing)


@dataclass(frozen=True)
class Finetuned:
    """What :func:`finetune` made.

    Attributes
    ----------
    model
        In evaluation mode, in the form that was trained.
    layers
        Its layers as integers.
    network
        All of it as integers: of one program, or in steps (a vision transformer). None if it has no integer form.
    report
        Accuracies in per cent, ratios, losses, for JSON.
    """

    model: nn.Module
    layers: list[CompressedLayer]
    network: IntegerNetwork | SteppedNetwork | None
    report: dict[str, Any]

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the container: the network's operations are in it if it has an integer form."""
        if self.network is None:
            write_container(path, self.layers)
        else:
            write_integers(path, self.network)

    def rest(self) -> dict[str, Tensor]:
        """The state that the container of a network without integer form does not hold: all but layers' weights."""
        return {key: value.cpu() for key, value in self.model.state_dict().items() if ".decoder." not in key}


def _settings(job: Finetuning) -> dict[str, Any]:
    """A job as JSON gives it back."""
    rules = [[pattern, dataclasses.asdict(recipe)] for pattern, recipe in job.rules]
    settings: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(job) | {"rules": rules}))
    return settings


def _sparse_training(
    model: nn.Module,
    job: Finetuning,
    train: ImageData,
    device: str,
    checkpoint: Path | None,
    capture: bool,
    progress: bool,
) -> list[float]:
    assert job.sparse is not None
    patterns: dict[tuple[int, int], list[str]] = {}
    for source in module_sources(model):
        recipe = recipe_for(source.name, job.rules)
        if recipe.masked:
            patterns.setdefault((recipe.n, recipe.m), []).append(glob.escape(source.name))
    if not patterns:
        raise CompressError("sparse training needs a layer of method mvq or msvq: no rule gives one")
    for (n, m), names in patterns.items():
        start_sparse(model, names, n, m, job.scheme)
    losses = fit(model, train, job.sparse, device=device, checkpoint=checkpoint, capture=capture, progress=progress)
    finish_sparse(model)
    return losses


def finetune(
    model: nn.Module,
    train: ImageData,
    test: ImageData,
    job: Finetuning,
    *,
    device: str = "cpu",
    work: str | os.PathLike[str] | None = None,
    every: int = 100,
    capture: bool = True,
    progress: bool = True,
) -> Finetuned:
    """Train sparse, cluster, fine-tune, and turn into integers.

    Under ``torchrun``, with the process group initialised and each process's own ``device``, the training is shared.

    Parameters
    ----------
    model
        Trained, in floats. Changed.
    train, test
        Images: to train on, and to measure accuracies.
    job
        What to make of it.
    device
        Where to train.
    work
        Directory of checkpoints. Called again with the same arguments after it was stopped, training goes on from
        there, and ends with the same bytes.
    every
        Steps from one checkpoint to the next.
    capture
        As in :func:`sw.compress.training.loop.fit`. A network that asks for a tensor's value on its way, such as
        ``if x.isnan().any()``, can only be trained without.
    progress
        Show bars on standard error.

    Raises
    ------
    CompressError
        A setting or the network does not fit the data, or ``work`` has checkpoints of another job.
    KMeansError
        PyTorch does not see the device.
    """
    device_kind(device)
    model.to(device)
    check_network(model, (train, test), device)
    checkpoints: dict[str, Path | None] = {"sparse": None, "finetune": None}
    first = not _distributed() or torch.distributed.get_rank() == 0
    if work is not None:
        checkpoints = {stage: Path(work, f"{stage}.pt") for stage in checkpoints}
        start = {key: zlib.crc32(value.cpu().contiguous().numpy()) for key, value in model.state_dict().items()}
        _claim(Path(work, "job.json"), _settings(job) | {"images": len(train), "start": start}, first)
    progress = progress and first
    torch.set_num_threads(job.config.threads)
    report: dict[str, Any] = {"accuracy_float": accuracy(model, test, device=device)}
    if job.sparse is not None:
        report["sparse_losses"] = _sparse_training(model, job, train, device, checkpoints["sparse"], capture, progress)
        report["accuracy_sparse"] = accuracy(model, test, device=device)
    images = next(images_of(train, device, batch=CALIBRATION))[0]
    compressed, reason = prepare(
        model, job.rules, images, alpha=job.alpha, learn_signs=job.learn_signs, progress=progress
    )

    def recalibrate() -> None:
        recalibrate_batch_norm(compressed, training_images(train, job.config, device, limit=RECALIBRATION))

    recalibrate()
    report["accuracy_clustered"] = accuracy(compressed, test, device=device)
    calls = []
    if job.freezing is not None and any(isinstance(module, SignBits) for module in compressed.modules()):
        freezer = SignFreezer(compressed, job.freezing, job.config.steps(len(train)))
        calls.append(freezer.step)
    report["losses"] = fit(
        compressed,
        train,
        job.config,
        device=device,
        after_step=calls,
        checkpoint=checkpoints["finetune"],
        every=every,
        capture=capture,
        progress=progress,
    )
    recalibrate()
    compressed.eval()
    layers = compressed_layers(compressed)
    if calls:
        report["frozen_signs"] = freezer.frozen_share()
    report["accuracy_trained"] = accuracy(compressed, test, device=device)
    network, report["no_integer_form"] = None, None
    try:
        network = to_integers(compressed, reason, images)
    except CompressError as error:
        report["no_integer_form"] = str(error)
    else:
        report |= measure_integers(network, test, device)
    bits = sum_bits(map(layer_bits, layers))
    report |= {"bits_per_weight": bits.per_weight, "ratio_ideal": ideal_ratio(bits), "weights": bits.weight_count}
    return Finetuned(compressed, layers, network, report)


def to_integers(model: nn.Module, reason: str | None, images: Tensor) -> IntegerNetwork | SteppedNetwork:
    """A network that :func:`prepare` gave, trained, as integers.

    Parameters
    ----------
    model, reason
        As :func:`prepare` gave them.
    images
        As for :func:`prepare`: in a network in steps, scales that training does not learn are set by them.

    Raises
    ------
    CompressError
        It has no integer form.
    """
    if reason is None:
        assert isinstance(model, torch.fx.GraphModule)
        return export_integers(model, (images.shape[1], images.shape[2], images.shape[3]))
    try:
        return export_transformer(model, images)
    except Exception as error:  # the parts of a network that only looks like one raise errors of every kind
        text = " ".join(str(error).split())[:200]
        raise CompressError(f"{reason}; nor is it such a vision transformer: {text}") from None


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _claim(path: Path, settings: dict[str, Any], write: bool) -> None:
    """Refuse a directory of another job; make it this job's if it is new."""
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CompressError(f"cannot read {str(path)!r}: {error}") from error
        if found != settings:
            raise CompressError(
                f"work {str(path.parent)!r} must be new or of the same job, weights and number of images"
            )
    elif write:
        path.parent.mkdir(parents=True, exist_ok=True)
        with staged(path) as temporary:
            temporary.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def write_integers(path: str | os.PathLike[str], network: IntegerNetwork | SteppedNetwork) -> None:
    """Write the container of :func:`sw.compress.training.integer.write_network` or its like of a network in steps."""
    if isinstance(network, SteppedNetwork):
        write_stepped(path, network)
    else:
        write_network(path, network)


def measure_integers(
    network: IntegerNetwork | SteppedNetwork, test: ImageData, device: str, *, golden: int = GOLDEN
) -> dict[str, Any]:
    """Accuracy of the integers in per cent, and whether the golden model agrees with them on ``golden`` images."""

    def logits(values: Tensor) -> Tensor:
        if isinstance(network, SteppedNetwork):
            return run_on_device(network, quantise_images(values, network.input_scale))[:, :, 0]
        return network.run(network.quantise(values), golden=False)

    equal = None
    if golden:
        images = next(images_of(test, device, batch=golden))[0]
        if isinstance(network, SteppedNetwork):
            expected = torch.from_numpy(np.stack(network.run(network.quantise(images.cpu()))))[:, :, 0]
        else:
            expected = network.run(network.quantise(images)).cpu()
        equal = torch.equal(expected, logits(images).cpu())
    return {"accuracy_integers": accuracy(logits, test, device=device), "golden_logits_equal": equal}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status, with one line on standard error: 2 for bad input, 130 for Ctrl-C."""
    parser = _parser()
    options = parser.parse_args(arguments)
    return exit_status(parser.prog, lambda: _run(options), "interrupted; the same command goes on if it has --work")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sw.compress finetune",
        description="Compress a network, train it in that form, and write it as integers.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("network", help="package.module:callable, timm:NAME, torchvision:NAME or efficientnet-lite0")
    parser.add_argument("--weights", metavar="FILE", help="checkpoint of the network")
    parser.add_argument("--data", required=True, help="CIFAR-10's archive, .npz, or a directory of images")
    parser.add_argument("--size", type=int, default=224, help="rows and columns of images of a directory")
    parser.add_argument("--images", type=int, help="use only that many images of each part, to try the command")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the container to write")
    parser.add_argument("--json", metavar="FILE", help="write the report as JSON")
    parser.add_argument(
        "--rest", metavar="FILE", help="write what the container of a network without integer form lacks"
    )
    parser.add_argument("--work", metavar="DIRECTORY", help="checkpoints; the same command again goes on from there")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--eager", action="store_true", help="on a GPU, do not replay steps as CUDA graphs, which some networks forbid"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    how = parser.add_argument_group("compression")
    how.add_argument("--method", choices=RECIPE_METHODS, default="mvq")
    how.add_argument("--k", type=int, help="codewords")
    how.add_argument("--d", type=int, help="codeword length")
    how.add_argument("--nm", metavar="N:M", help="keep N of every M weights")
    how.add_argument("--scope", choices=SCOPES, default="layerwise", help="which layers share a codebook")
    how.add_argument("--rules", metavar="FILE", help="a recipe for each layer, as the command search writes them")
    how.add_argument("--keep", metavar="PATTERN", nargs="*", help="layers at 8 bit; by default the first and the last")
    how.add_argument("--sparse", choices=SCHEMES, help="train N:M sparse before clustering")
    how.add_argument("--sparse-epochs", type=int, default=10, help="of the sparse training")
    how.add_argument("--sparse-lr", type=float, default=0.01, help="its learning rate")
    how.add_argument("--alpha", type=float, default=1.0, help="latent signs start as alpha times the weight")
    how.add_argument("--fixed-signs", action="store_true", help="do not learn signs")
    how.add_argument(
        "--freeze-interval", type=int, default=500, help="steps from one freezing of signs to the next; 0: never"
    )
    how.add_argument("--freeze-value", choices=VALUES, default="majority", help="what a frozen sign stays at")
    training = parser.add_argument_group("fine-tuning")
    types, texts = get_type_hints(TrainConfig), _descriptions(TrainConfig)
    for field in dataclasses.fields(TrainConfig):
        default = 10 if field.name == "epochs" else field.default
        option = f"--{field.name.replace('_', '-')}"
        training.add_argument(option, type=types[field.name], default=default, help=texts.get(field.name, " "))
    return parser


def _descriptions(described: type) -> dict[str, str]:
    """What the docstring of a class says of its parameters: the first sentence, or half of one."""
    text = (inspect.getdoc(described) or "").partition("Parameters\n----------\n")[2].partition("\n\n")[0]
    found: dict[str, str] = {}
    for names, lines in re.findall(r"^(\w[\w, ]*)\n((?:    .*\n?)+)", text, re.MULTILINE):
        sentence = " ".join(lines.split()).replace("``", "").replace("%", "%%")
        found |= dict.fromkeys(names.split(", "), re.split(r"[.;:] |\.$| \(:func:", sentence)[0])
    return found


def _job(options: argparse.Namespace, sources: Sequence[LayerSource]) -> Finetuning:
    if options.rules:
        rules = read_rules(options.rules)
    else:
        k, d, n, m = DEFAULTS.get(options.method, (1, 1, 0, 0))
        if options.nm is not None:
            n, m = parse_nm(options.nm)
        recipe = Recipe(
            options.method,
            k if options.k is None else options.k,
            d if options.d is None else options.d,
            n,
            m,
            seed=options.seed,
            scope=options.scope,
        )
        check_keep(options.keep or (), sources)
        rules = method_rules(sources, recipe, options.keep)
    config = TrainConfig(**{field.name: getattr(options, field.name) for field in dataclasses.fields(TrainConfig)})
    sparse = None
    if options.sparse:
        sparse = dataclasses.replace(
            config, epochs=options.sparse_epochs, optimiser="sgd", lr=options.sparse_lr, weight_decay=5e-5
        )
    freezing = Freezing(options.freeze_interval, value=options.freeze_value) if not options.fixed_signs else None
    return Finetuning(
        rules, config, sparse, options.sparse or "sr-ste", options.alpha, not options.fixed_signs, freezing
    )


def _run(options: argparse.Namespace) -> int:
    outputs = [path for path in (options.output, options.json, options.rest) if path is not None]
    if len({Path(path).resolve() for path in outputs}) < len(outputs):
        raise CompressError(f"-o, --json and --rest must name different files, not {', '.join(outputs)}")
    if options.images is not None and options.images < 1:
        raise CompressError(f"--images must be at least 1, not {options.images}")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        if options.device == "cuda":
            options.device = _own_gpu(int(os.environ["LOCAL_RANK"]))
        torch.distributed.init_process_group("nccl" if options.device.startswith("cuda") else "gloo")
    first = not _distributed() or torch.distributed.get_rank() == 0
    try:
        # A network without weights of its own starts at random: in the same way in all processes, and every time.
        torch.manual_seed(options.seed)
        model = load_model(options.network, options.weights)
        parts = [load_data(options.data, split, size=options.size) for split in SPLITS]
        if options.images is not None:
            parts = [ImageData(x.images[: options.images], x.labels[: options.images], x.size) for x in parts]
        train, test = parts
        job = _job(options, module_sources(model))
        with ExitStack() as files:
            # Before the work, which takes long; none takes its place unless all are complete.
            names = ("output", "json", "rest") if first else ()
            staging = {name: files.enter_context(staged(path)) for name in names if (path := getattr(options, name))}
            done = finetune(
                model,
                train,
                test,
                job,
                device=options.device,
                work=options.work,
                capture=not options.eager,
                progress=not options.quiet,
            )
            if first:
                _finish(options, job, done, staging)
    finally:
        if _distributed():
            torch.distributed.destroy_process_group()
    return 0


def _own_gpu(number: int) -> str:
    """The GPU of a process, which becomes its current device."""
    count = torch.cuda.device_count()
    if number >= count:
        raise CompressError(
            f"torchrun must start at most {count} processes, as many as PyTorch sees GPUs, not {number + 1} or more"
        )
    torch.cuda.set_device(number)
    return f"cuda:{number}"


def _finish(options: argparse.Namespace, job: Finetuning, done: Finetuned, staging: dict[str, Path]) -> None:
    done.write(staging["output"])
    size = staging["output"].stat().st_size
    report = {
        "network": options.network,
        "method": None if options.rules else options.method,
        "job": _settings(job),
        **done.report,
        "bytes": size,
        "ratio": 4 * done.report["weights"] / size,
        "device": torch.cuda.get_device_name(options.device) if options.device.startswith("cuda") else "CPU",
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "torch": torch.__version__},
    }
    if "json" in staging:
        staging["json"].write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if "rest" in staging:
        torch.save(done.rest(), staging["rest"])
    if done.network is None:
        print(f"no integer form: {done.report['no_integer_form']}")
        left = {key: value.numel() for key, value in done.rest().items()}
        most = ", ".join(sorted(left, key=lambda key: -left[key])[:3])
        print(
            f"the file has the {done.report['weights']:,} weights of its layers, that of --rest all else:"
            f" {sum(left.values()):,} numbers, most of them in {most}"
        )
    percent = done.report.get("accuracy_integers", done.report["accuracy_trained"])
    print(
        f"{options.output}: {size} bytes, {report['ratio']:.2f} times smaller than float32 weights;"
        f" accuracy {percent:.2f} %, float {done.report['accuracy_float']:.2f} %"
    )


if __name__ == "__main__":
    sys.exit(main())
