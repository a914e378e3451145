"""A network from its floats to a file, in one call: sparse training, clustering, fine-tuning, integers.

Every method goes the same way; the recipes alone differ. :mod:`sw.compress.commands.finetune` is its command line.
"""

from __future__ import annotations

import dataclasses
import glob
import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sw.compress.kmeans_gpu import device_kind
from sw.compress.methods import CompressError, Recipe, recipe_for
from sw.compress.network import module_sources
from sw.compress.ratio import ideal_ratio, layer_bits, sum_bits
from sw.compress.training.checking import check_integer_form
from sw.compress.training.comparison import compare_file
from sw.compress.training.data import ImageData
from sw.compress.training.decoders import SignBits
from sw.compress.training.default_rules import method_rules
from sw.compress.training.freezing import Freezing, SignFreezer
from sw.compress.training.graph import recalibrate_batch_norm
from sw.compress.training.integer import IntegerNetwork, write_network
from sw.compress.training.layers import compressed_layers
from sw.compress.training.loop import TrainConfig, accuracy, check_network, fit, images_of, training_images
from sw.compress.training.prepare import file_metadata, prepare, to_integers
from sw.compress.training.sparse import finish_sparse, start_sparse
from sw.format.container import write_container
from sw.format.layer import CompressedLayer
from sw.format.output import staged

__all__ = [
    "Finetuned",
    "Finetuning",
    "about",
    "distributed",
    "file_metadata",
    "finetune",
    "job_settings",
    "measure_integers",
    "method_rules",
    "prepare",
    "to_integers",
]

#: Training images that set the scales of activations, and that recalibrate batch norm.
CALIBRATION, RECALIBRATION = 500, 5000

#: Test images whose logits :mod:`sw.golden` computes too, to be compared with those of the faster integers.
GOLDEN = 8


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
    images
        Normalised, that scales were calibrated on.
    about
        For the file's metadata: classes and preprocessing.
    """

    model: nn.Module
    layers: list[CompressedLayer]
    network: IntegerNetwork | None
    report: dict[str, Any]
    images: Tensor
    about: dict[str, Any]

    def write(self, path: str | os.PathLike[str], *, force: bool = False) -> dict[str, Any] | None:
        """Write the container: the network's operations are in it if it has an integer form.

        Parameters
        ----------
        path
            Of the file.
        force
            Write it even if its integers differ from the network.

        Returns
        -------
        dict
            What was compared, for JSON (:func:`sw.compress.training.comparison.compare_file`); None for layers alone.

        Raises
        ------
        CompressError
            The integers of the written file differ from the network by more than quantisation explains.
        """
        if self.network is None:
            write_container(path, self.layers, metadata=self.about)
            return None
        write_network(path, self.network, metadata=self.about)
        return compare_file(path, self.model, self.images, force=force).to_dict()

    def rest(self) -> dict[str, Tensor]:
        """The state that the container of a network without integer form does not hold: all but layers' weights."""
        return {key: value.cpu() for key, value in self.model.state_dict().items() if ".decoder." not in key}


def job_settings(job: Finetuning) -> dict[str, Any]:
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
    for source in module_sources(model, geometry=False):
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
    layers_alone: bool = False,
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
    layers_alone
        Train a network without integer form, too.

    Raises
    ------
    CompressError
        A setting or the network does not fit the data, ``work`` has checkpoints of another job, or the network has no
        integer form; before anything is trained.
    KMeansError
        PyTorch does not see the device.
    """
    device_kind(device)
    model.to(device)
    check_network(model, (train, test), device)
    for config in (job.config, *([] if job.sparse is None else [job.sparse])):
        if not config.steps(len(train)):
            raise CompressError(f"batch must be at most the {len(train)} images, not {config.batch}")
    images = next(images_of(train, device, batch=CALIBRATION))[0]
    if not layers_alone:
        check_integer_form(model, job.rules, images)
    checkpoints: dict[str, Path | None] = {"sparse": None, "finetune": None}
    first = not distributed() or torch.distributed.get_rank() == 0
    if work is not None:
        checkpoints = {stage: Path(work, f"{stage}.pt") for stage in checkpoints}
        start = {key: zlib.crc32(value.cpu().contiguous().numpy()) for key, value in model.state_dict().items()}
        _claim(Path(work, "job.json"), job_settings(job) | {"images": len(train), "start": start}, first)
    progress = progress and first
    torch.set_num_threads(job.config.threads)
    report: dict[str, Any] = {"accuracy_float": accuracy(model, test, device=device)}
    if job.sparse is not None:
        report["sparse_losses"] = _sparse_training(model, job, train, device, checkpoints["sparse"], capture, progress)
        report["accuracy_sparse"] = accuracy(model, test, device=device)
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
    return Finetuned(compressed, layers, network, report, images, about(train))


def about(data: ImageData) -> dict[str, Any]:
    """What a file says of the data that its network was made for: classes, and what is done to images."""
    classes = {"classes": list(data.names)} if data.names else {}
    return {"preprocessing": data.preprocessing.to_dict(), **classes}


def distributed() -> bool:
    """Whether this is one of several processes."""
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


def measure_integers(network: IntegerNetwork, test: ImageData, device: str, *, golden: int = GOLDEN) -> dict[str, Any]:
    """Accuracy of the integers in per cent, and whether the golden model agrees with them on ``golden`` images."""

    def logits(values: Tensor) -> Tensor:
        # Of a transformer they are those of one token.
        return network.run(network.quantise(values), golden=False).flatten(1)

    equal = None
    if golden:
        images = next(images_of(test, device, batch=golden))[0]
        expected = network.run(network.quantise(images)).cpu().flatten(1)
        equal = torch.equal(expected, logits(images).cpu())
    return {"accuracy_integers": accuracy(logits, test, device=device), "golden_logits_equal": equal}
