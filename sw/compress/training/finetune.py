"""A network from its floats to a file, in one call: sparse training, clustering, fine-tuning, integers.

Every method goes the same way; the recipes alone differ. :mod:`sw.compress.commands.finetune` is its command line.
"""

from __future__ import annotations

import dataclasses
import glob
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from sw.compress.frontend.capture import check_hooks, unwrapped
from sw.compress.frontend.inputs import Given, called, joined
from sw.compress.kmeans_gpu import device_kind
from sw.compress.methods import NO_LAYER, CompressError, Recipe, recipe_for
from sw.compress.network import check_network_rules, module_sources
from sw.compress.ratio import ideal_ratio, layer_bits, sum_bits
from sw.compress.training.batches import (
    Batches,
    Loss,
    Metric,
    check_loss,
    check_metric,
    finite,
    fitting_loss,
    in_float32,
    measured,
    try_batch,
    try_last,
)
from sw.compress.training.checking import check_integer_form
from sw.compress.training.comparison import compare_file
from sw.compress.training.data import ImageData
from sw.compress.training.decoders import SignBits
from sw.compress.training.default_rules import method_rules
from sw.compress.training.freezing import Freezing, SignFreezer
from sw.compress.training.graph import recalibrate_batch_norm
from sw.compress.training.integer import IntegerNetwork, integer_results, write_network
from sw.compress.training.layers import Decoded, compressed_layers
from sw.compress.training.loop import TrainConfig, accuracy, check_network, fit, images_of, training_images
from sw.compress.training.modules import fold_parametrisations
from sw.compress.training.prepare import IntegerForm, about_weights, file_metadata, prepare, to_integers
from sw.compress.training.settings import CHECKPOINTS, JOB, check_alpha, plain_number
from sw.compress.training.sparse import finish_sparse, start_sparse
from sw.compress.training.work import begun, claim, name_of, seen_batch, seen_graph, settings_of
from sw.format.container import write_container
from sw.format.layer import CompressedLayer, LayerError
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

    Raises
    ------
    CompressError
        ``alpha`` is not positive.
    """

    rules: Sequence[tuple[str, Recipe]]
    config: TrainConfig
    sparse: TrainConfig | None = None
    scheme: str = "sr-ste"
    alpha: float = 1.0
    learn_signs: bool = True
    freezing: Freezing | None = dataclasses.field(default_factory=Freezing)

    def __post_init__(self) -> None:
        # Before sparse training and clustering, not behind them.
        check_alpha(plain_number(self, "alpha"))


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
        Accuracies in per cent (or the user's ``metric``, or ``loss``), ratios, losses, for JSON.
    images
        Normalised, that scales were calibrated on; or other inputs of a network that has no integer form.
    about
        For the file's metadata: classes and preprocessing, and layers with other weights than the float network's.
    """

    model: nn.Module
    layers: list[CompressedLayer]
    network: IntegerNetwork | None
    report: dict[str, Any]
    images: Given
    about: dict[str, Any]

    def __post_init__(self) -> None:
        # Whoever takes the network alone, such as :func:`msvq.decompress`, is told the same.
        if self.network is not None:
            object.__setattr__(self, "network", dataclasses.replace(self.network, about=self.about))

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
            The integers of the file differ from the network by more than quantisation explains: it is not written.
        """
        if self.network is None:
            write_container(path, self.layers, metadata=self.about)
            return None
        assert isinstance(self.images, Tensor)
        # What is refused must not take the place of a file from before.
        with staged(path) as temporary:
            write_network(temporary, self.network, metadata=self.about)
            return compare_file(temporary, self.model, self.images, force=force).to_dict()

    def rest(self) -> dict[str, Tensor]:
        """The state that the container of a network without integer form does not hold: all but layers' weights."""
        modules = self.model.named_modules(remove_duplicate=False)
        decoders = tuple(f"{name}.decoder." for name, each in modules if isinstance(each, Decoded))
        return {key: value.cpu() for key, value in self.model.state_dict().items() if not key.startswith(decoders)}


def job_settings(job: Finetuning) -> dict[str, Any]:
    """A job as JSON gives it back."""
    rules = [[pattern, dataclasses.asdict(recipe)] for pattern, recipe in job.rules]
    settings: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(job) | {"rules": rules}))
    return settings


@dataclass
class _Work:
    """What the stages of one job share: the data, and how results are judged."""

    model: nn.Module
    train: ImageData | Batches
    test: ImageData | Batches
    job: Finetuning
    loss: Loss | None
    inputs: Callable[[Any], Any] | None
    metric: Metric | None
    device: str
    capture: bool
    progress: bool
    #: Of an image, where the file that is to come has one size: then those of test must have it.
    shape: torch.Size | None = None

    @property
    def plain(self) -> bool:
        """Whether labelled images are classified, and no more is asked."""
        return isinstance(self.train, ImageData) and isinstance(self.test, ImageData) and self.usual

    @property
    def usual(self) -> bool:
        """Whether neither a loss nor a metric was given."""
        return self.loss is None and self.metric is None

    def check(self, layers_alone: bool) -> Given:
        """Try the network on the first batches, before any work; gives the inputs that calibrate."""
        images = self._tried()
        if not layers_alone and isinstance(images, Tensor):
            self.shape = images.shape[1:]
            self._check_test(next(self.pairs(self.test, 1))[0])
        return images

    def _check_test(self, given: Given) -> None:
        """Refuse what the integers would, after the whole training."""
        if self.shape is None or not isinstance(given, Tensor):
            return
        if given.shape[1:] != self.shape:
            raise CompressError(
                f"test images must be {list(self.shape)}, as those of training, for the file's integers are of one"
                f" size, not {list(given.shape[1:])}; layers_alone=True keeps the layers alone"
            )
        if not finite(given):
            raise CompressError("test images must be finite, not NaN or infinite")

    def _checked(self) -> Iterator[tuple[Given, Any]]:
        """Test data."""
        for given, target in self.pairs(self.test):
            self._check_test(given)
            yield given, target

    def _tried(self) -> Given:
        model, device = self.model, self.device
        configs = [self.job.config, *([] if self.job.sparse is None else [self.job.sparse])]
        for config in configs:
            check_loss(config, self.loss)
            if isinstance(self.train, Batches):
                self.train.check(config, self.loss, torch.distributed.get_world_size() if distributed() else 1)
            elif not config.steps(len(self.train)):
                raise CompressError(f"batch must be at most the {len(self.train)} images, not {config.batch}")
        if self.plain:
            assert isinstance(self.train, ImageData)
            assert isinstance(self.test, ImageData)
            check_network(model, (self.train, self.test), device)
            return next(images_of(self.train, device, batch=CALIBRATION))[0]
        if self.inputs is not None and isinstance(self.train, ImageData):
            raise CompressError("inputs must be None with ImageData, whose images are what the network takes")
        check_metric(self.metric)
        loss = fitting_loss(self.loss, self.job.config, device)
        first = next(self.pairs(self.train, 4))
        try_batch(model, *first, loss)
        if isinstance(self.train, Batches) and (last := self.train.last(self.job.config, first[0])) is not None:
            try_last(model, last)
        measured(model, [next(self.pairs(self.test, 4))], self.loss, self.metric)
        if isinstance(self.train, ImageData):
            return next(images_of(self.train, device, batch=CALIBRATION))[0]
        return joined(list(self.train.samples(device, CALIBRATION)), CALIBRATION)

    def pairs(self, data: ImageData | Batches, batch: int = 500) -> Iterator[tuple[Given, Any]]:
        """Inputs and targets."""
        if isinstance(data, ImageData):
            return images_of(data, self.device, batch=batch)
        # One without length may go on for ever.
        limit = self.job.config.epoch_steps if data.known() is None else None
        return islice(data.epoch([0], self.device, None), limit or None)

    def began_with(self, made: dict[str, Any], first: bool, images: Given, form: IntegerForm | None) -> dict[str, Any]:
        """What :func:`sw.compress.training.work.claim` compares: settings of the loss that :meth:`check`, which called
        it, has left as they were ``made``, and of the first process the first batch and what the network computes.
        """
        after = settings_of(self.loss)
        settings = {name: value for name, value in made.items() if after.get(name) == value}
        batch = seen_batch(lambda: self.pairs(self.train, 64)) if first else None
        captured = None if form is None else form.captured
        graph = seen_graph(self.model, images, captured) if first else None
        return {"loss_settings": settings, "batch": batch, "graph": graph}

    def measure(self, model: Callable[..., Any], stage: str) -> dict[str, float]:
        """One figure of the report, on test data."""
        if self.plain:
            assert isinstance(self.test, ImageData)
            return {f"accuracy_{stage}": accuracy(model, self.test, device=self.device)}
        pairs = self._checked() if stage == "float" else self.pairs(self.test)
        name, found = measured(model, pairs, self.loss, self.metric)
        return {f"{name}_{stage}": found}

    def seen(self) -> Iterable[Given]:
        """Inputs as training sees them, for batch norm."""
        if isinstance(self.train, ImageData):
            return training_images(self.train, self.job.config, self.device, limit=RECALIBRATION)
        return self.train.samples(self.device, RECALIBRATION)

    def fit(
        self,
        model: nn.Module,
        config: TrainConfig,
        checkpoint: Path | None,
        after_step: Sequence[Callable[[int], None]] = (),
        every: int = 100,
    ) -> list[float]:
        """Train."""
        return fit(
            model,
            self.train,
            config,
            loss=self.loss,
            device=self.device,
            after_step=after_step,
            checkpoint=checkpoint,
            every=every,
            capture=self.capture,
            progress=self.progress,
        )

    def sparse(self, checkpoint: Path | None) -> list[float]:
        """Train the layers with a masked recipe N:M sparse."""
        job = self.job
        assert job.sparse is not None
        patterns: dict[tuple[int, int], list[str]] = {}
        for source in module_sources(self.model, geometry=False):
            recipe = recipe_for(source.name, job.rules)
            if recipe.masked:
                patterns.setdefault((recipe.n, recipe.m), []).append(glob.escape(source.name))
        if not patterns:
            raise CompressError("sparse training needs a layer of method mvq or msvq: no rule gives one")
        # What pruning and norms compute is trained as it is from then on, as without sparse training.
        fold_parametrisations(self.model)
        for (n, m), names in patterns.items():
            start_sparse(self.model, names, n, m, job.scheme)
        losses = self.fit(self.model, job.sparse, checkpoint)
        finish_sparse(self.model)
        return losses

    def integers(self, network: IntegerNetwork, model: nn.Module) -> dict[str, Any]:
        """What the integers are worth; of layers alone, why not where the test data are nothing for them."""
        try:
            return self._integers(network, model)
        except CompressError as error:
            if self.shape is not None:
                raise
            return {"integers_not_measured": str(error)}

    def _integers(self, network: IntegerNetwork, model: nn.Module) -> dict[str, Any]:
        if self.plain:
            assert isinstance(self.test, ImageData)
            return measure_integers(network, self.test, self.device)
        given = next(self.pairs(self.test, 1))[0]
        model.eval()
        with torch.no_grad():
            floats, structure = tree_flatten(called(model, given))

        def outputs(images: Tensor) -> Any:
            pairs = zip(integer_results(network, images), floats, strict=True)
            return tree_unflatten([a.reshape(len(a), *b.shape[1:]) for a, b in pairs], structure)

        return self.measure(outputs, "integers")


def finetune(
    model: nn.Module,
    train: ImageData | Iterable[Any],
    test: ImageData | Iterable[Any],
    job: Finetuning,
    *,
    loss: Loss | None = None,
    inputs: Callable[[Any], Any] | None = None,
    metric: Metric | None = None,
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
        Trained, in floats. Changed; one of another precision computes in float32 from then on, and so do its inputs.
        A layer whose weight has ``requires_grad=False`` is compressed, and then stays as it is; so do biases and norms.
    train, test
        To train on, and to measure: images, or loaders (:class:`sw.compress.training.batches.Batches`). Of a test
        loader without length, ``epoch_steps`` batches count.
    job
        What to make of it.
    loss, inputs
        As in :func:`sw.compress.training.loop.fit`. With a loss the result counts as it is, and not by which class is
        the largest: the file says its scale.
    metric
        From what the network returns and the target of a batch a number, or one for each sample; or an object with
        ``reset``, ``update`` and ``compute``. The report has it in place of accuracies, as ``metric_float`` and so on;
        without, of a loss of the user's own, ``loss_float``. Of integers it gets the values that they stand for.
    device
        Where to train.
    work
        Directory of checkpoints. Called again with the same arguments after it was stopped, training goes on from
        there, and ends with the same bytes. Another job, other weights, labels or number of images, a loss or
        metric of another name or a loss of other settings, another first batch, and a network that computes something
        else with the same weights are refused, as far as they can be told (:mod:`sw.compress.training.work`): later
        batches, and what a loss computes, are not seen.
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
        A rule is for no layer, a setting or the network does not fit the data, loss, metric and network do not fit
        together, ``work`` has checkpoints of another job, or the network has no integer form; before anything is
        trained.
    KMeansError
        PyTorch does not see the device.
    """
    device_kind(device)
    check_hooks(model)
    model = unwrapped(model).to(device)
    check_network_rules(model, job.rules)
    _check_trained(model)
    other = in_float32(model)
    parts = [data if isinstance(data, ImageData) else Batches(data, model, inputs) for data in (train, test)]
    for part in parts:
        if isinstance(part, Batches):
            part.float32 = other
    works = _Work(model, parts[0], parts[1], job, loss, inputs, metric, device, capture, progress)
    made = settings_of(loss)
    torch.set_num_threads(job.config.threads)
    images = works.check(layers_alone)
    form = None if layers_alone else check_integer_form(model, job.rules, images, trained=True)
    checkpoints: dict[str, Path | None] = {"sparse": None, "finetune": None}
    first = not distributed() or torch.distributed.get_rank() == 0
    works.progress = progress = progress and first
    count = len(works.train) if isinstance(works.train, ImageData) else works.train.per_epoch(job.config)
    if work is not None:
        checkpoints = {stage: Path(work, name) for stage, name in CHECKPOINTS.items()}
        settings = job_settings(job) | {"images": count, "loss": name_of(loss), "metric": name_of(metric)}
        claim(Path(work, JOB), settings | begun(model, train), first, works.began_with(made, first, images, form))
    report: dict[str, Any] = works.measure(model, "float")
    if job.sparse is not None:
        report["sparse_losses"] = works.sparse(checkpoints["sparse"])
        report |= works.measure(model, "sparse")
        form = None  # it had other weights
    compressed, reason = prepare(
        model, job.rules, images, alpha=job.alpha, learn_signs=job.learn_signs, progress=progress, form=form
    )
    recalibrate_batch_norm(compressed, works.seen())
    report |= works.measure(compressed, "clustered")
    calls = []
    if job.freezing is not None and any(isinstance(module, SignBits) for module in compressed.modules()):
        steps = job.config.epochs * (job.config.per_epoch(count) if isinstance(works.train, ImageData) else count)
        freezer = SignFreezer(compressed, job.freezing, steps)
        calls.append(freezer.step)
    report["losses"] = works.fit(compressed, job.config, checkpoints["finetune"], calls, every)
    recalibrate_batch_norm(compressed, works.seen())
    compressed.eval()
    layers = _trained_layers(compressed)
    if calls:
        report["frozen_signs"] = freezer.frozen_share()
    report |= works.measure(compressed, "trained")
    network, report["no_integer_form"] = None, None
    try:
        network = to_integers(compressed, reason, images, values=loss is not None)
    except CompressError as error:
        report["no_integer_form"] = str(error)
    else:
        report |= works.integers(network, compressed)
    bits = sum_bits(map(layer_bits, layers))
    report |= {"bits_per_weight": bits.per_weight, "ratio_ideal": ideal_ratio(bits), "weights": bits.weight_count}
    found = about(train) if isinstance(train, ImageData) else {}
    return Finetuned(compressed, layers, network, report, images, found | about_weights(compressed, network))


def _trained_layers(model: nn.Module) -> list[CompressedLayer]:
    try:
        return compressed_layers(model)
    except LayerError as error:
        raise CompressError(f"{error} after the training, which diverged: lower the rate") from error


def about(data: ImageData) -> dict[str, Any]:
    """What a file says of the data that its network was made for: classes, and what is done to images."""
    classes = {"classes": list(data.names)} if data.names else {}
    return {"preprocessing": data.preprocessing.to_dict(), **classes}


def distributed() -> bool:
    """Whether this is one of several processes."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _check_trained(model: nn.Module) -> None:
    if next(model.parameters(), None) is None:
        raise CompressError(NO_LAYER)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise CompressError(
            "every parameter has requires_grad=False, so there is nothing to train: set it to True where the network is"
            " to learn, or calibrate, which does not train"
        )


def measure_integers(network: IntegerNetwork, test: ImageData, device: str, *, golden: int = GOLDEN) -> dict[str, Any]:
    """Accuracy of the integers in per cent, and whether the golden model agrees with them on ``golden`` images."""

    def logits(values: Tensor) -> Tensor:
        # A transformer gives those of one token.
        return network.run(network.quantise(values), golden=False).flatten(1)

    equal = None
    if golden:
        images = next(images_of(test, device, batch=golden))[0]
        expected = network.run(network.quantise(images)).cpu().flatten(1)
        equal = torch.equal(expected, logits(images).cpu())
    return {"accuracy_integers": accuracy(logits, test, device=device), "golden_logits_equal": equal}
