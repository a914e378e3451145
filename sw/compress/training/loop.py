"""The training loop: deterministic, resumable, on a CPU, a GPU, or several through ``torchrun``.

What a step does depends on the seed and the step's number alone, not on a generator's state: a run that was killed and
started again from its checkpoint gives the same bytes as one that was not.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from sw.compress.checkpoints import write_state
from sw.compress.frontend.inputs import Given, mapped
from sw.compress.methods import CompressError
from sw.compress.network import progress_bar
from sw.compress.training.batches import Batches, Loss, check_loss, fitting_loss, loss_of, output_of, try_batch
from sw.compress.training.data import ImageData
from sw.compress.training.decoders import CodebookDecoder, SignBits
from sw.compress.training.moving import MovingDecoder
from sw.compress.training.settings import OPTIMISERS, TrainConfig
from sw.format.npz import check_unpacked
from sw.format.output import staged

__all__ = [
    "OPTIMISERS",
    "TrainConfig",
    "accuracy",
    "check_network",
    "deterministic",
    "fit",
    "images_of",
    "normalise",
    "set_rate",
    "training_images",
]

# Pixels of a batch that is not trained on: 83 images of 224 x 224.
_BATCH_PIXELS = 1 << 22


def deterministic() -> None:
    """Have torch use deterministic algorithms where it has them, in this process from here on."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Nothing here reads memory that it has not written; filling it would cost a pass over every result.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False


def normalise(images: Tensor) -> Tensor:
    """uint8 images as floats with ImageNet's mean 0 and deviation 1."""
    return ImageData(np.zeros((1, images.shape[1], 1, 1), np.uint8), np.zeros(1, np.int64), 1).normalise(images)


# Columns of an epoch's random numbers: shifts, mirror, place to grey out; whole numbers.
_WHOLE = 5
# And in 0..1: brightness, contrast, saturation, rotation, shear, scale; kind, weight and place of mixing.
_DISTORT, _MIX = slice(_WHOLE, _WHOLE + 6), slice(_WHOLE + 6, _WHOLE + 10)
# The last, in 0..1: of a random crop.
_CROP = slice(-4, None)


def _draws(config: TrainConfig, images: int, shape: tuple[int, int], epoch: int) -> NDArray[np.float32]:
    """The random numbers of an epoch's augmentation, float32 ``[images, columns]``."""
    rng = np.random.default_rng([config.seed, epoch, 1])
    limits = (2 * config.crop + 1, 2 * config.crop + 1, 2, *shape)
    whole = rng.integers(0, limits, (images, _WHOLE), np.int16)
    parts: list[NDArray[Any]] = [whole]
    if config.distort or config.mix:
        parts.append(rng.random((images, _MIX.stop - _WHOLE), np.float32))
    if config.area:
        parts.append(rng.random((images, 4), np.float32))
    return np.concatenate(parts, axis=1, dtype=np.float32)


def _distorted(images: Tensor, strength: float, draws: Tensor) -> Tensor:
    """Images of 0..255 in other colours and another shape; grey comes in from outside."""
    brightness, contrast, saturation, rotation, shear, scale = (2 * draws.T - 1)[:, :, None, None, None] * strength
    values = images.float()
    values = values * (1 + brightness / 2)
    mean = values.mean((1, 2, 3), keepdim=True)
    values = (values - mean) * (1 + contrast / 2) + mean
    grey = values.mean(1, keepdim=True)
    values = ((values - grey) * (1 + saturation / 2) + grey).clamp(0, 255)
    angle, shear, scale = rotation.flatten() * (math.pi / 6), shear.flatten() * 0.3, 1 + scale.flatten() * 0.3
    cosine, sine = angle.cos() * scale, angle.sin() * scale
    zero = torch.zeros_like(angle)
    matrix = torch.stack([cosine, shear - sine, zero, sine, cosine, zero], dim=1).reshape(-1, 2, 3)
    grid = functional.affine_grid(matrix, list(values.shape), align_corners=False)
    return functional.grid_sample(values - 124, grid, align_corners=False) + 124


def _augment(images: Tensor, config: TrainConfig, draws: Tensor) -> Tensor:
    """Shifted, mirrored, distorted, partly grey images."""
    height, width = images.shape[2:]
    top, left, mirror, row, column = draws[:, :_WHOLE].long().T
    down, across = (torch.arange(extent, device=images.device) for extent in (height, width))
    if config.crop or config.area or config.mirror:
        rows = (top - config.crop)[:, None] + down
        mirror = mirror if config.mirrors else torch.zeros_like(mirror)
        columns = (left - config.crop)[:, None] + torch.where(mirror[:, None] == 1, width - 1 - across, across)
        seen_rows, seen_columns = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
        inside = seen_rows[:, None, :, None] & seen_columns[:, None, None, :]
        numbers = torch.arange(len(images), device=images.device)[:, None, None]
        rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
        moved = images.permute(0, 2, 3, 1)[numbers, rows[:, :, None], columns[:, None]]
        images = moved.permute(0, 3, 1, 2) * inside
    if config.distort:
        images = _distorted(images, config.distort, draws[:, _DISTORT])
    if config.erase:
        half = config.erase // 2
        rows, columns = (down - row[:, None]).abs() <= half, (across - column[:, None]).abs() <= half
        images = images.masked_fill(rows[:, None, :, None] & columns[:, None, None, :], 124)
    return images


def _mixed(images: Tensor, share: float, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Images with a part of the one at the same place from the batch's end; how much of each is its own, ``[b]``."""
    height, width = images.shape[2:]
    kind, weight, row, column = draws.T
    half = (1 - weight).sqrt() / 2
    down, across = (torch.arange(extent, device=images.device) for extent in (height, width))
    rows = (down - row[:, None] * height).abs() < half[:, None] * height
    columns = (across - column[:, None] * width).abs() < half[:, None] * width
    kind = kind[:, None, None, None]
    cut = rows[:, None, :, None] & columns[:, None, None, :] & (kind < share / 2)
    blend = torch.where(kind < share, 1 - weight[:, None, None, None], 0.0)
    others = torch.where(cut | (kind < share / 2), cut.float(), blend)
    return torch.lerp(images, images.flip(0), others), 1 - others.mean((1, 2, 3))


def _groups(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Parameter groups of the optimiser; ``factor`` is the share of the learning rate."""
    # Layers may share a codebook.
    kinds = CodebookDecoder | MovingDecoder
    codebooks = list(dict.fromkeys(module.codebook for module in model.modules() if isinstance(module, kinds)))
    latents = [module.latent for module in model.modules() if isinstance(module, SignBits)]
    special = {id(parameter) for parameter in (*codebooks, *latents)}
    others = [(n, p) for n, p in model.named_parameters() if p.requires_grad and id(p) not in special]

    def decays(name: str, parameter: nn.Parameter) -> bool:
        return parameter.ndim > 1 and not name.endswith("log_factor")

    groups = [
        {"params": [p for n, p in others if decays(n, p)], "factor": 1.0, "weight_decay": config.weight_decay},
        {"params": [p for n, p in others if not decays(n, p)], "factor": 1.0, "weight_decay": 0.0},
        {"params": [p for p in codebooks if p.requires_grad], "factor": config.codebook_lr, "weight_decay": 0.0},
        {"params": [p for p in latents if p.requires_grad], "factor": config.sign_lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _optimiser(model: nn.Module, config: TrainConfig, device: torch.device) -> torch.optim.Optimizer:
    groups = _groups(model, config)
    fused = device.type == "cuda"
    for group in groups:
        # A captured step reads the learning rate from the device.
        group["lr"] = torch.tensor(config.lr, device=device) if fused else config.lr
    if config.optimiser == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, nesterov=True, fused=fused)
    return torch.optim.AdamW(groups, fused=fused, capturable=fused)


class _Step:
    """One step of the optimiser; on a GPU replayed as a CUDA graph, which costs no time between kernels.

    The first steps run as usual, on a stream of their own as capturing wants it. Replays launch the same kernels.
    """

    usual_steps = 3

    def __init__(
        self,
        network: nn.Module,
        optimiser: torch.optim.Optimizer,
        config: TrainConfig,
        device: torch.device,
        capture: bool,
        normalise: Callable[[Tensor], Tensor],
        teacher: nn.Module | None = None,
        loss: Loss | None = None,
    ) -> None:
        self.teacher, self.loss = teacher, loss
        self.network, self.optimiser, self.config, self.device = network, optimiser, config, device
        self.normalise = normalise
        self.stream = torch.cuda.Stream(device) if capture else None  # type: ignore[no-untyped-call]
        self.graph: torch.cuda.CUDAGraph | None = None
        self.done = 0
        self.running = torch.zeros((), device=device)

    def __call__(self, *batch: Any) -> None:
        """Train on uint8 images, labels and random numbers, and add the loss to ``running``."""
        if self.stream is None:
            self._work(*batch)
            return
        if self.done < self.usual_steps:
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                self._work(*batch)
            torch.cuda.current_stream().wait_stream(self.stream)
        else:
            if self.graph is None:
                self.batch = [part.clone() for part in batch]
                self.graph = torch.cuda.CUDAGraph()
                self.optimiser.zero_grad(set_to_none=True)
                try:
                    with torch.cuda.graph(self.graph, stream=self.stream):
                        self._work(*self.batch)
                except torch.OutOfMemoryError:
                    raise
                except RuntimeError as error:
                    reason = str(error).partition("\n")[0]
                    raise CompressError(
                        f"capture must be False (--eager) for a network whose steps no CUDA graph can hold: {reason}"
                    ) from error
            for part, new in zip(self.batch, batch, strict=True):
                part.copy_(new)
            self.graph.replay()
        self.done += 1

    def _work(self, *batch: Any) -> None:
        loss = self._computed(*batch)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.running += loss.detach()

    def _computed(self, images: Tensor, labels: Tensor, draws: Tensor) -> Tensor:
        config = self.config
        inputs = self.normalise(_augment(images, config, draws))
        own = None
        if config.mix:
            inputs, own = _mixed(inputs, config.mix, draws[:, _MIX])
        if self.loss is not None:
            return self._own_loss(inputs, labels)
        with _autocast(config, self.device):
            logits = self.network(inputs).float()
            if self.teacher is not None:
                with torch.no_grad():
                    wanted = self.teacher(inputs).float().log_softmax(1)
        if self.teacher is not None:
            return functional.kl_div(logits.log_softmax(1), wanted, reduction="batchmean", log_target=True)
        return self._cross_entropy(logits, labels, own)

    def _own_loss(self, given: Given, target: Any) -> Tensor:
        assert self.loss is not None
        with _autocast(self.config, self.device):
            output = output_of(self.network, given)
        if self.config.precision != "float32":
            output = mapped(lambda tensor: tensor.float() if tensor.is_floating_point() else tensor, output)
        found: Tensor = loss_of(output, target, self.loss)
        return found.reshape(())

    def _cross_entropy(self, logits: Tensor, labels: Tensor, own: Tensor | None) -> Tensor:
        """``own``: how much of each image is its own, or None where none is mixed."""
        config = self.config
        loss = functional.cross_entropy(
            logits, labels, label_smoothing=config.label_smoothing, reduction="mean" if own is None else "none"
        )
        if own is not None:
            other = functional.cross_entropy(
                logits, labels.flip(0), label_smoothing=config.label_smoothing, reduction="none"
            )
            loss = torch.lerp(other, loss, own).mean()
        return loss


class _LoaderStep(_Step):
    """A step on a batch of a loader."""

    def _computed(self, given: Given, target: Any) -> Tensor:  # type: ignore[override]
        return self._own_loss(given, target)


def _save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint completely, or not at all."""
    with staged(path) as temporary:
        write_state(temporary, state)


def _set_rates(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        set_rate(group, rate * group["factor"])


def set_rate(group: dict[str, Any], rate: float) -> None:
    """Give an optimiser's group its rate of a step, in place where a captured step reads it: where it is a tensor."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def _check_own(config: TrainConfig, loss: Loss | None, teacher: nn.Module | None, loader: bool, every: int) -> None:
    """A CompressError where a loss of the user's own, or a loader, meets what they cannot have; or of ``every``."""
    if type(every) is not int or every < 1:
        raise CompressError(f"every must be an integer of at least 1, not {every!r}")
    if teacher is not None and (loss is not None or loader):
        raise CompressError("teacher must be None with a loss of your own or a loader: have the loss ask it")
    if loss is not None and config.mix:
        raise CompressError(f"mix must be 0 with a loss of your own, not {config.mix}: it mixes labels, too")


def fit(
    model: nn.Module,
    data: ImageData | Batches | Iterable[Any],
    config: TrainConfig,
    *,
    loss: Loss | None = None,
    inputs: Callable[[Any], Any] | None = None,
    device: torch.device | str = "cpu",
    teacher: nn.Module | None = None,
    after_step: Sequence[Callable[[int], None]] = (),
    checkpoint: str | os.PathLike[str] | None = None,
    every: int = 100,
    capture: bool = True,
    progress: bool = True,
) -> list[float]:
    """Train a network in place. Sets torch's number of threads to the configuration's.

    Under ``torchrun`` each process takes its share of every batch, and the gradients are averaged; the process group
    must be initialised, and ``device`` be the process's own. A loader must give each process its own share.

    Parameters
    ----------
    model
        Already converted and calibrated, if it is to be compressed. Moved to ``device``.
    data
        Training images; or a loader, which gives batches each time that it is iterated, such as a ``DataLoader``:
        pairs of input and target, longer tuples, dictionaries (:meth:`sw.compress.training.batches.Batches.divide`).
        Order and random numbers of a loader follow from the seed, if its workers draw from torch's.
    config
        How. With a loader ``batch`` and ``crop`` do not count.
    loss
        From what the network returns and the target one number, such as ``torch.nn.MSELoss()``; of a batch that is a
        dictionary the target is all of it. Without, the network's own, if it returns a dictionary with ``loss``, or
        cross-entropy.
    inputs
        From a loader's batch what the network takes: a tensor, a tuple of arguments, a dictionary of named ones. By
        default as ``Batches.divide`` says.
    device
        Where.
    teacher
        A network in evaluation mode, on ``device``, whose logits for the same images are learned in place of the labels
        (Kullback-Leibler divergence); mixed images are mixed for it too, and labels are not smoothed. Of a loader's
        batches, a loss of the user's own can ask a teacher.
    after_step
        Called after each step with its number from 1, such as ``SignFreezer(...).step``.
    checkpoint
        File to which the state is written every ``every`` steps and at the end. If it exists, training goes on from it.
    every
        Steps from one checkpoint to the next.
    capture
        On one GPU, replay the step as a CUDA graph; not with a loader or a loss of the user's own.
    progress
        Show a bar on standard error.

    Returns
    -------
    list
        Mean loss of each epoch, on this process's share.

    Raises
    ------
    CompressError
        There are fewer images than a batch, the batch cannot be shared evenly, the checkpoint is of another
        configuration, a step cannot be captured, or the loss is NaN or infinite. With a loader or a loss of the user's
        own the first batch is tried before: what does not fit together is told in one line.
    """
    device = torch.device(device)
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    rank, world = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if distributed else (0, 1)
    check_loss(config, loss)
    if isinstance(data, ImageData):
        source: _Images | _Loader = _Images(data, config, device, rank, world, inputs)
    else:
        batches_of = data if isinstance(data, Batches) else Batches(data, model, inputs)
        source = _Loader(batches_of, config, device, world, loss)
    _check_own(config, loss, teacher, isinstance(source, _Loader), every)
    steps, per_epoch = config.epochs * source.per_epoch, source.per_epoch
    deterministic()
    torch.set_num_threads(config.threads)
    model.to(device).train()
    own_loss = loss is not None or isinstance(source, _Loader)
    chosen = fitting_loss(loss, config, device) if own_loss else None
    if chosen is not None:
        try_batch(model, *source.first(), chosen)
    optimiser = _optimiser(model, config, device)
    path = None if checkpoint is None else Path(checkpoint)
    begin, losses, running = _resumed(path, config, model, optimiser, device)
    devices = [device.index] if device.type == "cuda" else None
    network = nn.parallel.DistributedDataParallel(model, device_ids=devices) if distributed else model
    captured = capture and device.type == "cuda" and not distributed and chosen is None
    advance = source.step(network, optimiser, config, device, captured, source.normalise, teacher, chosen)
    advance.running += running
    batches = source.batches(begin)
    # A step is recorded on the current device.
    here = torch.cuda.device_of(running)  # type: ignore[no-untyped-call]
    # A GPU's fused attention adds gradients in any order.
    attention = sdpa_kernel(SDPBackend.MATH) if device.type == "cuda" else nullcontext()
    generators = torch.random.fork_rng([device] if device.type == "cuda" else [])
    with here, attention, generators, progress_bar(progress and rank == 0) as bar:
        task = bar.add_task("training", total=steps, completed=begin)
        for step in range(begin, steps):
            epoch, number = divmod(step, per_epoch)
            batch = next(batches)
            _set_rates(optimiser, config.rate(step, steps))
            _seed([config.seed, step, rank], device)
            advance(*batch)
            for call in after_step:
                call(step + 1)
            if number == per_epoch - 1:
                losses.append(float(advance.running) / per_epoch)
                advance.running.zero_()
                if not math.isfinite(losses[-1]):
                    raise CompressError(f"loss must be finite, not {losses[-1]} in epoch {epoch}: lower the rate")
            if path is not None and rank == 0 and ((step + 1) % every == 0 or step + 1 == steps):
                kept = {"config": dataclasses.asdict(config), "step": step + 1, "losses": losses}
                state = {"model": model.state_dict(), "optimiser": optimiser.state_dict()}
                _save(path, kept | {"running": advance.running} | state)
            bar.update(task, advance=1)
    return losses


class _Images:
    """Batches of images in memory or in files, with the random numbers of their augmentation."""

    step: type[_Step] = _Step

    def __init__(
        self,
        data: ImageData,
        config: TrainConfig,
        device: torch.device,
        rank: int,
        world: int,
        inputs: Callable[[Any], Any] | None,
    ) -> None:
        if inputs is not None:
            raise CompressError("inputs must be None with ImageData, whose images are what the network takes")
        self.data, self.config, self.device, self.rank = data, config, device, rank
        self.per_epoch, self.normalise = config.per_epoch(len(data)), data.normalise
        if not self.per_epoch:
            raise CompressError(f"batch must be at most the {len(data)} images, not {config.batch}")
        if config.batch % world:
            raise CompressError(f"batch must be a multiple of the {world} processes, not {config.batch}")
        self.share = config.batch // world

    def first(self) -> tuple[Given, Any]:
        """A batch as training sees it, but not augmented."""
        images, labels = self.data.batch(torch.arange(min(self.share, len(self.data))), self.device)
        return self.normalise(images), labels

    def batches(self, begin: int) -> Iterator[tuple[Tensor, ...]]:
        """uint8 images, labels and random numbers of each step from number ``begin``."""
        data, config = self.data, self.config
        epoch = -1
        for step in range(begin, config.epochs * self.per_epoch):
            number = step % self.per_epoch
            if step // self.per_epoch != epoch:
                epoch = step // self.per_epoch
                order = torch.from_numpy(np.random.default_rng([config.seed, epoch]).permutation(len(data)))
                if isinstance(data.images, np.ndarray):
                    order = order.to(self.device)
                draws = torch.from_numpy(_draws(config, len(data), data.shape, epoch)).to(self.device)
            first = number * config.batch + self.rank * self.share
            own = draws[first : first + self.share]
            crops = own[:, _CROP] if config.area else None
            numbers = order[first : first + self.share]
            yield *data.batch(numbers, self.device, draws=crops, area=config.area), own


class _Loader:
    """Batches of a loader."""

    step: type[_Step] = _LoaderStep

    def __init__(self, data: Batches, config: TrainConfig, device: torch.device, world: int, loss: Loss | None) -> None:
        data.check(config, loss, world)
        self.data, self.config, self.device = data, config, device
        self.per_epoch = data.per_epoch(config)

    @staticmethod
    def normalise(images: Tensor) -> Tensor:
        """Nothing is done to them."""
        return images

    def first(self) -> tuple[Given, Any]:
        """The first batch."""
        return self.data.first(self.device)

    def batches(self, begin: int) -> Iterator[tuple[Given, Any]]:
        """Inputs and target of each step from number ``begin``."""
        epoch, number = divmod(begin, self.per_epoch)
        for each in range(epoch, self.config.epochs):
            seed = [self.config.seed, each]
            yield from self.data.epoch(seed, self.device, self.per_epoch, number if each == epoch else 0)


def _resumed(
    path: Path | None, config: TrainConfig, model: nn.Module, optimiser: torch.optim.Optimizer, device: torch.device
) -> tuple[int, list[float], Tensor]:
    """Step, losses and running loss to go on from; the state of the checkpoint is loaded where there is one."""
    if path is None or not path.exists():
        return 0, [], torch.zeros((), device=device)
    try:
        check_unpacked(path)
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch lets errors of every kind out where bytes are not what it expects
        reason = str(error).strip().partition("\n")[0]
        raise CompressError(
            f"cannot read checkpoint {str(path)!r}, delete it to begin again: {type(error).__name__}: {reason}"
        ) from error
    try:
        # An older one lacks fields that came later, of which it has the defaults.
        defaults = {each.name: each.default for each in dataclasses.fields(config) if each.name != "epochs"}
        if defaults | state["config"] != dataclasses.asdict(config):
            raise CompressError(f"checkpoint {str(path)!r} must be of this configuration, not {state['config']}")
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        return state["step"], state["losses"], state["running"]
    except CompressError:
        raise
    except Exception as error:  # and of what it does not expect in them
        reason = " ".join(str(error).split())[:200]
        raise CompressError(
            f"checkpoint {str(path)!r} must be of this training, not of another network or of something else: keep it,"
            f" and name another directory ({type(error).__name__}: {reason})"
        ) from error


def _seed(numbers: Sequence[int], device: torch.device) -> None:
    """What a network draws in a step, such as dropout, depends on these numbers alone."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def _autocast(config: TrainConfig, device: torch.device) -> Any:
    if config.precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def images_of(
    data: ImageData, device: torch.device | str, *, batch: int = 500, limit: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """The first ``limit`` images, normalised, and their labels, in batches: smaller ones of large images."""
    batch = max(1, min(batch, _BATCH_PIXELS // (data.shape[0] * data.shape[1])))
    count = len(data) if limit is None else min(limit, len(data))
    for first in range(0, count, batch):
        images, labels = data.batch(torch.arange(first, min(first + batch, count)), torch.device(device))
        yield data.normalise(images), labels


def training_images(
    data: ImageData, config: TrainConfig, device: torch.device | str, *, limit: int = 5000, batch: int = 500
) -> Iterator[Tensor]:
    """The first ``limit`` images as training sees them, but for mixing: what batch norm is to be recalibrated with.

    Its statistics must be of such images. A shift brings black edges in, so that images as they are have others: with
    those, ResNet-20 loses 3 points.
    """
    device, count = torch.device(device), min(limit, len(data))
    draws = torch.from_numpy(_draws(config, count, data.shape, 0)).to(device)
    for first in range(0, count, batch):
        own = draws[first : first + batch]
        crops = own[:, _CROP] if config.area else None
        images, _ = data.batch(torch.arange(first, first + len(own)), device, draws=crops, area=config.area)
        yield data.normalise(_augment(images, config, own))


@torch.no_grad()
def check_network(model: nn.Module, parts: Sequence[ImageData], device: torch.device | str = "cpu") -> None:
    """Refuse a network that does not fit the data.

    Parameters
    ----------
    model
        On ``device``. Put into evaluation mode.
    parts
        Images of one size.
    device
        Where the images go.

    Raises
    ------
    CompressError
        It cannot compute the images, does not return float ``[batch, classes]``, or has fewer classes than the labels.
    """
    model.eval()
    images = next(images_of(parts[0], device, limit=2))[0]
    try:
        logits = model(images)
    except Exception as error:  # networks raise errors of every kind
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise CompressError(f"the network must take images {list(images.shape[1:])} in float32: {text}") from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
        found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise CompressError(f"the network must return logits [{len(images)}, classes], not {found}")
    classes = max(part.classes for part in parts)
    if logits.shape[1] < classes:
        raise CompressError(f"the network must have at least the {classes} classes of the data, not {logits.shape[1]}")


@torch.no_grad()
def accuracy(
    model: Callable[[Tensor], Tensor], data: ImageData, *, device: torch.device | str = "cpu", limit: int | None = None
) -> float:
    """Share of images whose largest logit is their label's, in per cent; of equal logits the first counts.

    Parameters
    ----------
    model
        From normalised float images to logits. A module is put into evaluation mode.
    data
        The images.
    device
        Where the images go.
    limit
        Take only that many.
    """
    if isinstance(model, nn.Module):
        model.eval()
    right = count = 0
    for images, labels in images_of(data, device, limit=limit):
        right += int((model(images).argmax(1).to(labels.device) == labels).sum())
        count += len(labels)
    return 100 * right / count
