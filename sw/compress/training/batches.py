"""Batches of any loader: what of each goes into a network, what a loss makes of the rest, and what is refused.

A loader is whatever gives batches each time that it is iterated: a ``DataLoader``, an ``IterableDataset``, a list. What
it gives is divided by one rule, :meth:`Batches.divide`, or by the user's own ``inputs``.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves
from torch.utils.data import BatchSampler

from sw.compress.frontend.capture import unwrapped
from sw.compress.frontend.inputs import Given, Inputs, called, described, mapped
from sw.compress.methods import CompressError
from sw.compress.training.draws import Draws, fresh, seeded
from sw.compress.training.settings import TrainConfig

__all__ = [
    "Batches",
    "Loss",
    "Metric",
    "check_loss",
    "check_metric",
    "default_loss",
    "finite",
    "fitting_loss",
    "in_float32",
    "loss_of",
    "measured",
    "output_of",
    "structured",
    "tensors_of",
    "try_batch",
    "try_last",
]

#: One number, which can be differentiated, of what a network returns and the target of the batch.
Loss = Callable[[Any, Any], Tensor]

#: A number, or one for each sample, of what a network returns and the target; or an object with ``reset``, ``update``
#: and ``compute``, as torchmetrics has them.
Metric = Any

# A target that counts for nothing.
_IGNORED = -100

# Settings that change images, which a loader's own data set must see to.
_AUGMENTATION = ("area", "erase", "distort", "mix")


@dataclass(frozen=True)
class _Signature:
    """Which arguments a network's forward pass takes: names, those that it must have, and whether it takes any."""

    names: tuple[str, ...]
    required: int
    by_place: tuple[str, ...]
    any_place: bool
    any_name: bool

    @classmethod
    def of(cls, model: Callable[..., Any]) -> _Signature:
        forward = unwrapped(model).forward if isinstance(model, nn.Module) else model
        found = list(inspect.signature(forward).parameters.values())
        places = [p for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        named = [p for p in found if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        return cls(
            tuple(p.name for p in named),
            sum(p.default is p.empty for p in places),
            tuple(p.name for p in places),
            any(p.kind == p.VAR_POSITIONAL for p in found),
            any(p.kind == p.VAR_KEYWORD for p in found),
        )


class Batches:
    """A loader, with what of a batch goes where.

    Parameters
    ----------
    loader
        Gives batches, each time that it is iterated.
    model
        The network as the user gave it: the arguments of its ``forward`` say what of a batch it takes.
    inputs
        From a batch what the network takes: a tensor, a tuple of arguments, or a dictionary of named ones. The target
        is the whole batch then, of a pair the second. Without, as :meth:`divide` says.

    Raises
    ------
    CompressError
        The loader can only be iterated once, or is none.
    """

    def __init__(self, loader: Iterable[Any], model: Callable[..., Any], inputs: Callable[[Any], Any] | None = None):
        if inputs is not None and not callable(inputs):
            raise CompressError(f"inputs must be a function of a batch, such as itemgetter('image'), not {inputs!r}")
        if isinstance(loader, Iterator):
            raise CompressError(
                f"data must be iterable again in each epoch, as a DataLoader is, not a {type(loader).__name__}, which"
                " is used up by the first: give the loader itself, not iter() or a call of it"
            )
        if isinstance(loader, Tensor | np.ndarray | str | bytes) or not hasattr(type(loader), "__iter__"):
            lacks = hasattr(loader, "__getitem__") and hasattr(loader, "__len__")
            advice = ": put it into a torch.utils.data.DataLoader, which makes batches" if lacks else ""
            raise CompressError(
                f"data must be ImageData (msvq.load_data) or give batches, as a DataLoader does, not a"
                f" {type(loader).__name__}{advice}"
            )
        self.loader, self.inputs, self.signature = loader, inputs, _Signature.of(model)
        #: Whether floats are made float32, for a network that was of another precision.
        self.float32 = False

    def __len__(self) -> int:
        """Batches of an epoch; raises CompressError where the loader does not say."""
        count = self.known()
        if count is None:
            raise CompressError(
                "the loader does not say how many batches it gives (no __len__), and the learning rate must know:"
                " set epoch_steps of TrainConfig"
            )
        return count

    def known(self) -> int | None:
        """Batches of an epoch, or None where the loader does not say."""
        try:
            return len(self.loader)  # type: ignore[arg-type]
        except TypeError:
            return None

    def divide(self, batch: Any) -> tuple[Given, Any]:
        """What of a batch the network takes, and the target: what is left for the loss.

        - Of a dictionary the network takes the arguments that its ``forward`` names; the target is the whole batch.
        - Of a pair it takes the first, which may be a tuple of arguments or a dictionary of named ones; the target is
          the second, whatever it is.
        - Of a longer tuple it takes as many as its ``forward`` has arguments; the target is the rest.
        - A tensor alone is both.

        Raises
        ------
        CompressError
            None of them holds, or it is not clear how many of a tuple are arguments.
        """
        if self.inputs is not None:
            try:
                given = self.inputs(batch)
            except Exception as error:  # the user's function
                raise CompressError(
                    f"inputs must take what the loader gives, {described(batch)}: {_line(error)}"
                ) from error
            if isinstance(batch, tuple | list) and len(batch) == 2:
                return _own_arguments(given), batch[1]
            return _own_arguments(given), batch
        if isinstance(batch, Mapping):
            return self._of_names(batch), batch
        if isinstance(batch, Tensor):
            return batch, batch
        if isinstance(batch, tuple | list) and len(batch) == 1:
            return self._arguments(batch[0]), batch[0]
        if isinstance(batch, tuple | list) and len(batch) == 2:
            # A network of two arguments with nothing left would have no target.
            return self._arguments(batch[0]), batch[1]
        if isinstance(batch, tuple | list) and len(batch) > 2:
            return self._of_places(batch)
        raise CompressError(
            f"the loader must give tensors, tuples or dictionaries of them, not {described(batch)}: have its data set"
            " or collate_fn make tensors"
        )

    def _of_names(self, batch: Mapping[str, Any]) -> Given:
        signature = self.signature
        names = [name for name in signature.names if name in batch]
        if signature.any_name and not names:
            names = list(batch)
        lacking = [name for name in signature.by_place[: signature.required] if name not in batch]
        if lacking or not names:
            wanted = ", ".join(map(repr, lacking or signature.names))
            raise CompressError(
                f"the loader gives {', '.join(map(repr, batch))}, and the network's forward takes {wanted}: say which"
                " by inputs, such as inputs=lambda batch: batch['image']"
            )
        if names == list(signature.by_place[:1]):
            only = batch[names[0]]
            return only if isinstance(only, Tensor) else Inputs((only,))
        return Inputs((), {name: batch[name] for name in names})

    def _of_places(self, batch: Sequence[Any]) -> tuple[Given, Any]:
        least, most = self.signature.required, len(self.signature.by_place)
        count = least if least == most and not self.signature.any_place and least < len(batch) else None
        if count is None:
            raise CompressError(
                f"the loader gives {len(batch)} parts, and it is not clear how many of them the network's forward takes"
                f" ({', '.join(self.signature.by_place) or '*args'}): say it by inputs, such as"
                " inputs=lambda batch: batch[:2]"
            )
        target = batch[count] if len(batch) == count + 1 else tuple(batch[count:])
        return self._arguments(tuple(batch[:count])), target

    def _arguments(self, given: Any) -> Given:
        """A part of a batch as arguments; a list that is longer than those is one argument itself."""
        if isinstance(given, Tensor):
            return given
        if not tensors_of(given):
            raise CompressError(
                f"the loader must give the network's input as tensors, alone or in tuples and dictionaries, not"
                f" {described(given)}: have its data set or collate_fn make tensors"
            )
        if isinstance(given, Mapping):
            return self._of_names(given)
        if isinstance(given, tuple | list):
            if len(given) == 1:
                return self._arguments(given[0])
            if len(given) <= len(self.signature.by_place) or self.signature.any_place:
                return Inputs(tuple(given))
        return Inputs((given,))

    def first(self, device: torch.device | str) -> tuple[Given, Any]:
        """The first batch on a device, divided. The loader's random numbers are those of no epoch.

        Raises
        ------
        CompressError
            The loader gives none, or fails, or its batches cannot be divided or have no sample.
        """
        return next(self.epoch([0], device, None))

    def epoch(
        self, seed: Sequence[int], device: torch.device | str, steps: int | None, begin: int = 0
    ) -> Iterator[tuple[Given, Any]]:
        """Batches of one pass on a device, divided, from number ``begin``.

        What a loader draws, such as its order, depends on the seed alone; torch's, Python's and numpy's random
        numbers are as they were after each batch.

        Parameters
        ----------
        seed
            Numbers: of the configuration and the epoch.
        device
            Where tensors go.
        steps
            How many the pass must have, or None for as many as there are.
        begin
            The first that is wanted.
        """
        device = torch.device(device)
        sampler = getattr(self.loader, "sampler", None)
        parts = [self.loader, sampler, getattr(getattr(self.loader, "batch_sampler", None), "sampler", None)]
        draws = Draws(parts, seed)
        for part in {id(part): part for part in parts}.values():
            if callable(getattr(part, "set_epoch", None)):
                part.set_epoch(seed[-1])  # type: ignore[union-attr]
        with draws.going_on(), seeded([*seed, 0]), _told("the loader"):
            iterator = iter(fresh(self.loader))
        number = 0
        while steps is None or number < steps:
            with draws.going_on(), seeded([*seed, 1, number]), _told("the loader"):
                batch = next(iterator, self)
            if batch is self:
                break
            number += 1
            if number > begin:
                given, target = self.divide(batch)
                _check_samples(given, number)
                if self.float32:
                    given = mapped(lambda tensor: tensor.float() if tensor.is_floating_point() else tensor, given)
                yield _on_device(given, device), _on_device(target, device)
        if not number:
            raise CompressError("the loader must give at least one batch, not 0")
        if steps is not None and number < steps:
            raise CompressError(f"the loader must give {steps} batches in each epoch, not {number}")

    def samples(self, device: torch.device | str, limit: int) -> Iterator[Given]:
        """Inputs of the first batches, until there are so many samples."""
        count = 0
        for given, _ in self.epoch([0], device, None):
            # A loader may fill one buffer anew for each batch.
            yield mapped(torch.clone, given)
            count += len(given)
            if count >= limit:
                return

    def check(self, config: TrainConfig, loss: Loss | None, world: int = 1) -> None:
        """Refuse settings of a training that a loader leaves without effect, and one that processes do not share.

        Raises
        ------
        CompressError
            There is one.
        """
        check_loss(config, loss)
        for name in _AUGMENTATION:
            if getattr(config, name):
                raise CompressError(
                    f"{name} must be 0 with a loader, not {getattr(config, name)!r}: images are changed by its data set"
                )
        if config.mirror:
            raise CompressError("mirror must be None with a loader, not True: images are mirrored by its data set")
        dataset, sampler = getattr(self.loader, "dataset", None), getattr(self.loader, "sampler", None)
        if world > 1 and dataset is not None and not isinstance(dataset, torch.utils.data.IterableDataset):
            shares = any(
                hasattr(each, "num_replicas") for each in (sampler, getattr(self.loader, "batch_sampler", None))
            )
            if not shares:
                raise CompressError(
                    f"a loader of {world} processes must have a torch.utils.data.DistributedSampler, or each sees all"
                )
        if not config.epoch_steps:
            if not len(self):
                raise CompressError("the loader must give at least one batch, not 0")
        elif (known := self.known()) is not None and config.epoch_steps > known:
            raise CompressError(f"epoch_steps must be at most the loader's {known} batches, not {config.epoch_steps}")

    def last(self, config: TrainConfig, given: Given) -> Tensor | None:
        """As many samples as an epoch's last batch has, where those are fewer than the others have, of one of these.

        As far as a ``DataLoader`` says, and where the network takes one tensor of the batch's samples, not more of
        them, such as frames.
        """
        batches = getattr(self.loader, "batch_sampler", None)
        if type(batches) is not BatchSampler or batches.drop_last or self.per_epoch(config) != self.known():
            return None
        try:
            samples = len(batches.sampler) % batches.batch_size  # type: ignore[arg-type]
        except TypeError:  # of an IterableDataset
            return None
        if not samples or not isinstance(given, Tensor) or not given.ndim or len(given) != batches.batch_size:
            return None
        return given[:samples]

    def per_epoch(self, config: TrainConfig) -> int:
        """Steps of an epoch."""
        return config.epoch_steps or len(self)


def finite(given: Given) -> bool:
    """Whether images are; of several arguments anything may be meant, such as a mask of infinities."""
    return not isinstance(given, Tensor) or not given.is_floating_point() or bool(given.isfinite().all())


def _check_samples(given: Given, number: int) -> None:
    if (not isinstance(given, Tensor) or given.ndim) and not len(given):
        raise CompressError(
            f"the loader must give at least one sample in each batch, not {described(given)} in batch {number}: leave"
            " out the empty one"
        )


def in_float32(model: nn.Module) -> bool:
    """Have a network compute in float32, in place. Whether it was of another precision."""
    other = any(tensor.is_floating_point() and tensor.dtype != torch.float32 for tensor in model.parameters())
    if other:
        model.float()
    return other


def check_loss(config: TrainConfig, loss: Loss | None) -> None:
    """Refuse settings that a loss of the user's own leaves without effect, and one that cannot be called.

    Raises
    ------
    CompressError
        There is one.
    """
    if loss is None:
        return
    if not callable(loss):
        raise CompressError(f"loss must be a function of the network's output and the target, not {loss!r}")
    if config.label_smoothing:
        raise CompressError(
            f"label_smoothing must be 0 with a loss of your own, not {config.label_smoothing}: have the loss do it"
        )
    if isinstance(loss, nn.Module) and any(parameter.requires_grad for parameter in loss.parameters()):
        raise CompressError("loss must have no parameters that are trained: make them part of the network")


def check_metric(metric: Metric | None) -> None:
    """Refuse a metric that cannot be called.

    Raises
    ------
    CompressError
        It is neither a function nor has it ``reset``, ``update`` and ``compute``, or it is a class of such.
    """
    if isinstance(metric, type) and _keeps(metric):
        raise CompressError(f"metric must be an object, not the class {metric.__name__}: {metric.__name__}() makes one")
    if metric is not None and not callable(metric) and not _keeps(metric):
        raise CompressError(f"metric must be a function of the network's output and the target, not {metric!r}")


def _keeps(metric: Metric | None) -> bool:
    """Whether a metric gathers what it needs from batch to batch, as torchmetrics' do."""
    return all(callable(getattr(metric, name, None)) for name in ("reset", "update", "compute"))


def fitting_loss(loss: Loss | None, config: TrainConfig, device: torch.device | str) -> Loss:
    """The loss of a training, on its device: the user's, or :func:`default_loss`."""
    if loss is None:
        return lambda output, target: default_loss(output, target, config.label_smoothing)
    return loss.to(device) if isinstance(loss, nn.Module) else loss


def _class_axis(output: Any, target: Any) -> int | None:
    """The axis of classes where a network's output is scores and the target their numbers; None otherwise."""
    if not (isinstance(output, Tensor) and isinstance(target, Tensor)) or not output.is_floating_point():
        return None
    if target.is_floating_point() or target.is_complex() or output.ndim != target.ndim + 1:
        return None
    second = output.shape[:1] + output.shape[2:] == target.shape
    last = output.shape[:-1] == target.shape
    if second and last and output.ndim > 2:
        raise CompressError(
            f"loss must be given: of an output {list(output.shape)} and a target {list(target.shape)} it is not clear"
            " which axis has the classes"
        )
    return 1 if second else output.ndim - 1 if last else None


def default_loss(output: Any, target: Any, label_smoothing: float = 0.0) -> Tensor:
    """The loss where none is given: the one that the network returns as ``loss``, or cross-entropy.

    Scores have the classes on the second axis, as torch has them, or on the last one, as language models do; targets
    are integers, of which -100 counts for nothing.

    Raises
    ------
    CompressError
        There is neither: a loss must be given.
    """
    if isinstance(output, Mapping) and isinstance(output.get("loss"), Tensor):
        own: Tensor = output["loss"]
        return own
    axis = _class_axis(output, target)
    if axis is None:
        raise CompressError(
            f"loss must be given: the network returns {described(output)} and the target is {described(target)}, which"
            " is no classification (scores and int64 classes); such as loss=torch.nn.MSELoss()"
        )
    target = target.long()
    found = functional.cross_entropy(output.movedim(axis, 1), target, label_smoothing=label_smoothing)
    # The mean over no target is NaN.
    return torch.where((target == _IGNORED).all(), torch.zeros_like(found), found)


@contextmanager
def _trying(model: nn.Module) -> Iterator[None]:
    """Training mode, in which the network computes something; its modes and buffers stay, and all random numbers."""
    modules = [(module, module.training, dict(module._buffers)) for module in model.modules()]
    before = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        model.train()
        with seeded([0]), torch.enable_grad():
            yield
    finally:
        with torch.no_grad():
            for buffer, copy in before:
                buffer.copy_(copy)
        for module, training, buffers in modules:
            module.training = training
            module._buffers.update(buffers)  # others may have taken their place


def try_batch(model: nn.Module, given: Given, target: Any, loss: Loss) -> None:
    """Compute the loss of one batch as training does, and change nothing.

    Parameters
    ----------
    model
        In any mode, which it keeps.
    given, target
        The batch, on the model's device.
    loss
        Of :func:`fitting_loss`.

    Raises
    ------
    CompressError
        The network does not take the batch, the loss does not take what it returns, or the loss is no finite number
        that depends on the network's parameters.
    """
    with _trying(model):
        scalar(output_of(model, given), target, loss)


def output_of(model: Callable[..., Any], given: Given) -> Any:
    """What a network returns; raises CompressError with the batch's shapes where it does not take it."""
    try:
        return called(model, given)
    except CompressError:
        raise
    except Exception as error:  # networks raise errors of every kind
        raise CompressError(f"the network must take the batch, {described(given)}: {_line(error)}") from error


def try_last(model: nn.Module, given: Tensor) -> None:
    """Compute what :meth:`Batches.last` gave as training does. Parameters and what is raised: :func:`try_batch`."""
    try:
        with _trying(model):
            output_of(model, given)
    except CompressError as error:
        count = f"{len(given)} sample{'s' * (len(given) > 1)}"
        advice = "a DataLoader of drop_last=True leaves it out"
        raise CompressError(f"the last batch of each epoch has {count}: {error}; {advice}") from error


def loss_of(output: Any, target: Any, loss: Loss) -> Any:
    """What a loss gives; raises CompressError with the shapes where it does not take them."""
    try:
        return loss(output, target)
    except CompressError:
        raise
    except Exception as error:  # the user's function
        raise CompressError(
            f"loss must take what the network returns, {described(output)}, and the target, {described(target)}:"
            f" {_line(error)}"
        ) from error


def scalar(output: Any, target: Any, loss: Loss) -> Tensor:
    """The loss of a batch, a tensor of no axes.

    Raises
    ------
    CompressError
        As :func:`try_batch`.
    """
    with warnings.catch_warnings():
        # Torch makes n x n differences of a target [n] and an output [n, 1], and only warns.
        warnings.filterwarnings("error", message="Using a target size")
        found = loss_of(output, target, loss)
    if not isinstance(found, Tensor) or found.numel() != 1:
        advice = ": give the first of them" if isinstance(found, tuple | list) else ""
        advice = ": take its mean" if isinstance(found, Tensor) else advice
        raise CompressError(f"loss must give one number, a tensor of no axes, not {described(found)}{advice}")
    if not found.requires_grad:
        raise CompressError(
            "loss must depend on the network's trained parameters, but has no gradient: compute it of what the network"
            " returns, without detach, numpy or argmax, and leave a parameter trainable"
        )
    value = float(found.detach())
    if not math.isfinite(value):
        raise CompressError(f"loss must be finite, not {value} in the first batch: look at the inputs and the targets")
    return found


@torch.no_grad()
def measured(
    model: Callable[..., Any],
    batches: Iterable[tuple[Given, Any]],
    loss: Loss | None = None,
    metric: Metric | None = None,
) -> tuple[str, float]:
    """What a network is worth on batches: the name of the figure, and its mean over the samples.

    Parameters
    ----------
    model
        A module is put into evaluation mode.
    batches
        Inputs and targets, on the model's device.
    loss
        The user's own, or None.
    metric
        The user's own: the figure is ``metric`` then. Without, ``loss`` if there is one of the user's or the network's
        own, and otherwise ``accuracy`` in per cent, where -100 counts for nothing.

    Raises
    ------
    CompressError
        There is no batch, or the metric does not take what the network returns or gives no number.
    """
    if isinstance(model, nn.Module):
        model.eval()
    keeps = _keeps(metric)
    name = "metric" if metric is not None else "loss" if loss is not None else ""
    total = weight = 0.0
    if keeps:
        metric.reset()  # type: ignore[union-attr]
    for given, target in batches:
        output = output_of(model, given)
        if keeps:
            weight += 1
            with _told("metric", f" ({described(output)}; {described(target)})"):
                metric.update(output, target)  # type: ignore[union-attr]
            continue
        if metric is not None:
            with _told("metric", f" ({described(output)}; {described(target)})"):
                found = metric(output, target)
        elif loss is not None or (isinstance(output, Mapping) and "loss" in output):
            name = "loss"
            found = loss_of(output, target, default_loss if loss is None else loss)
        else:
            name, found = "accuracy", _right(output, target)
            if not len(found):
                continue
        mean, samples = _mean(found, len(found) if name == "accuracy" else len(given))
        total, weight = total + mean * samples, weight + samples
    if not weight:
        raise CompressError("test data must have at least one batch with a target, not 0")
    if keeps:
        total, weight = _mean(metric.compute(), 1)  # type: ignore[union-attr]
    return name, total / weight


def _right(output: Any, target: Any) -> Tensor:
    """Per cent, for each target that counts: 100 where the largest score is the target's."""
    axis = _class_axis(output, target)
    if axis is None:
        raise CompressError(
            f"metric must be given: the network returns {described(output)} and the target is {described(target)}"
        )
    # In uint8 torch takes -100 for 156, which may be a class.
    target = target.long()
    counted, classes = target != _IGNORED, output.shape[axis]
    wrong = target[counted & ((target < 0) | (target >= classes))]
    if len(wrong):
        raise CompressError(f"targets must be in 0..{classes - 1} or {_IGNORED}, not {int(wrong[0])}")
    right: Tensor = output.argmax(axis) == target
    return 100 * right[counted].float()


def _mean(found: Any, samples: int) -> tuple[float, float]:
    value = torch.as_tensor(found) if isinstance(found, int | float | np.number | np.ndarray | Tensor) else None
    if value is None or value.is_complex() or value.ndim > 1:
        raise CompressError(f"metric must give a number, or one for each sample, not {described(found)}")
    return float(value.double().mean()), float(samples)


def structured(names: Sequence[str], values: Sequence[Any]) -> Any:
    """Outputs as the network returned them, from their names in its file: ``heads.1`` is the second of ``heads``.

    Numbers from 0 make a tuple; one output alone is itself.
    """
    return values[0] if len(names) == 1 else _nested(names, values)


def _nested(names: Sequence[str], values: Sequence[Any]) -> Any:
    groups: dict[str, tuple[list[str], list[Any]]] = {}
    for name, value in zip(names, values, strict=True):
        head, _, rest = name.partition(".")
        part = groups.setdefault(head, ([], []))
        part[0].append(rest)
        part[1].append(value)
    found = {head: parts[0] if inner == [""] else _nested(inner, parts) for head, (inner, parts) in groups.items()}
    return tuple(found.values()) if list(found) == [str(i) for i in range(len(found))] else found


@contextmanager
def _told(who: str, about: str = "") -> Iterator[None]:
    """Errors of the user's code as one line that says whose they are."""
    try:
        yield
    except CompressError:
        raise
    except Exception as error:  # the user's code
        raise CompressError(f"{who} fails{about}: {_line(error)}") from error


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _own_arguments(given: Any) -> Given:
    """What the user's ``inputs`` gives: tuples and lists are arguments, dictionaries named ones."""
    if isinstance(given, Mapping):
        return Inputs((), dict(given))
    if isinstance(given, tuple | list):
        return given[0] if len(given) == 1 and isinstance(given[0], Tensor) else Inputs(tuple(given))
    return given if isinstance(given, Tensor | Inputs) else Inputs((given,))


def _on_device(value: Any, device: torch.device) -> Any:
    def moved(tensor: Tensor) -> Tensor:
        if tensor.is_meta:
            raise CompressError("the loader must give tensors with values, not a meta tensor")
        found = tensor.to(device, non_blocking=True)
        # What was made in inference mode takes no part in training.
        return found.clone() if found.is_inference() else found

    return mapped(moved, value)


def tensors_of(output: Any) -> list[Tensor]:
    """All tensors that a network returns, in their order."""
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
