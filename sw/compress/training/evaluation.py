"""How good the integers of a network's file are on labelled images: top-1, top-5, and the mean IoU of maps."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sw.compress.frontend.inputs import described, no_images
from sw.compress.kmeans_gpu import device_kind
from sw.compress.methods import CompressError
from sw.compress.network import progress_bar
from sw.compress.training.batches import Batches, Metric, check_metric, measured, structured
from sw.compress.training.data import ImageData
from sw.compress.training.device import device_results
from sw.compress.training.integer import IntegerNetwork, integer_results, read_network
from sw.compress.training.loop import images_of
from sw.network import Network, NetworkError
from sw.network.fast import FastNetwork

__all__ = ["VOID", "evaluate", "evaluate_classes", "evaluate_maps"]

#: Label of a pixel that counts for nothing, as data sets of segmentation have it.
VOID = 255

#: Images at a time.
_BATCH = 100

#: Classes among which a label must be for the second figure.
_TOP = 5


def evaluate(
    network: Network | str | os.PathLike[str],
    data: ImageData | Iterable[Any],
    *,
    output: str | None = None,
    metric: Metric | None = None,
    inputs: Callable[[Any], Any] | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> dict[str, Any]:
    """Measure a network's integers, which are what the accelerator and its host compute, on labelled images.

    Parameters
    ----------
    network
        Of integers, or the container that holds it.
    data
        Images and what is done to them; a label for each image, or one for each of its pixels. Or a loader
        (:class:`sw.compress.training.batches.Batches`) of normalised floats ``[n, C, rows, columns]`` and targets.
    output
        Which result of a network that has several.
    metric
        As in :func:`sw.compress.training.finetune.finetune`. Results are the values that their integers stand for;
        several as a tuple or a dictionary, by their names in the file.
    inputs
        From a loader's batch the images; of a dictionary, by default what is named ``images``.
    device
        ``cpu``, or a GPU that PyTorch sees.
    progress
        Show a bar on standard error.

    Returns
    -------
    dict
        Of :func:`evaluate_classes` where the result is a score for each class, of :func:`evaluate_maps` where it is
        one for each class and pixel. With a metric ``images``, their number, and ``metric``.

    Raises
    ------
    CompressError
        The container has layers alone, the images do not fit, there is no such result, or labels are outside the
        classes.
    KMeansError
        PyTorch does not see the device.
    sw.format.ContainerError
        The file is damaged.
    """
    if not isinstance(network, Network | str | os.PathLike):
        raise CompressError(f"network must be a container's path or a Network, not {type(network).__name__}")
    device_kind(device)
    if not isinstance(network, IntegerNetwork):
        network = IntegerNetwork.of(network) if isinstance(network, Network) else read_network(network)
    names = [given.name for given in network.outputs]
    if output is None and len(names) > 1 and metric is None:
        raise CompressError(
            f"the network has the results {', '.join(names)}: one of them must be chosen, or a metric of all given"
        )
    if output is not None and output not in names:
        raise CompressError(f"output must be one of {', '.join(names)}, not {output!r}")
    number = 0 if output is None else names.index(output)
    check_metric(metric)
    if metric is not None:
        return _evaluate_metric(network, data, metric, inputs, None if output is None else number, device, progress)
    fast = FastNetwork(network)

    def scored() -> Iterator[tuple[NDArray[Any], NDArray[np.integer[Any]]]]:
        with progress_bar(progress) as bar:
            task = bar.add_task("images", total=len(data) if isinstance(data, ImageData) else None)
            for images, labels in _pairs(data, device, inputs):
                if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
                    raise CompressError(f"labels must be integers, or a metric be given, not {described(labels)}")
                try:
                    if device == "cpu":
                        found = fast.results(network.quantise(images).numpy())[number]
                    else:
                        found = device_results(network, network.quantise(images))[number].cpu().numpy()
                except NetworkError as error:
                    raise CompressError(str(error)) from None
                yield found, labels.cpu().numpy()
                bar.advance(task, len(labels))

    batches = scored()
    with torch.no_grad():
        first = next(batches)
        rest = itertools.chain([first], batches)
        if first[1].ndim == 3:
            if first[0].ndim != 4:
                raise CompressError(f"labels of pixels need a network that gives maps, not {list(first[0].shape[1:])}")
            return evaluate_maps(rest)
        if first[0][0].size != first[0].shape[1] and first[0].ndim == 4:
            rows, columns = first[0].shape[2:]
            raise CompressError(
                f"the network gives maps of {rows} x {columns}, so each pixel must have a label, [n, rows, columns],"
                f" not {list(first[1].shape)}"
            )
        return evaluate_classes(rest)


def _images(images: Tensor) -> Any:
    """What a network in integers takes: names the argument."""
    return images


def _pairs(
    data: ImageData | Iterable[Any], device: str, inputs: Callable[[Any], Any] | None
) -> Iterator[tuple[Tensor, Any]]:
    """Normalised images and targets."""
    if isinstance(data, ImageData):
        if inputs is not None:
            raise CompressError("inputs must be None with ImageData, whose images are what the network takes")
        yield from images_of(data, device, batch=_BATCH)
        return
    for given, target in Batches(data, _images, inputs).epoch([0], device, None):
        if not isinstance(given, Tensor) or no_images(given) is not None:
            raise CompressError(f"images must be normalised floats [n, C, rows, columns], not {described(given)}")
        yield given, target


def _evaluate_metric(
    network: IntegerNetwork,
    data: ImageData | Iterable[Any],
    metric: Metric,
    inputs: Callable[[Any], Any] | None,
    number: int | None,
    device: str,
    progress: bool,
) -> dict[str, Any]:
    count = 0

    def results(images: Tensor) -> Any:
        found = integer_results(network, images)
        return structured([each.name for each in network.outputs], found) if number is None else found[number]

    def batches() -> Iterator[tuple[Tensor, Any]]:
        nonlocal count
        with progress_bar(progress) as bar:
            task = bar.add_task("images", total=len(data) if isinstance(data, ImageData) else None)
            for images, target in _pairs(data, device, inputs):
                yield images, target
                count += len(images)
                bar.advance(task, len(images))

    _, found = measured(results, batches(), metric=metric)
    return {"images": count, "metric": found}


def evaluate_classes(scores: Iterable[tuple[NDArray[Any], NDArray[np.integer[Any]]]]) -> dict[str, Any]:
    """Top-1 and top-5 accuracy in per cent; of equal scores the class with the smaller number counts.

    Parameters
    ----------
    scores
        Batches of scores ``[n, classes]`` and labels ``[n]``, from 0.

    Raises
    ------
    CompressError
        There are no images, there is not one label for each, or a label is outside the classes.
    """
    first = fifth = count = classes = 0
    for values, labels in scores:
        values = values.reshape(len(values), -1)
        classes = values.shape[1]
        if labels.shape != (len(values),):
            # NumPy would compare each image with each label.
            raise CompressError(
                f"labels must be [{len(values)}], the number of its class for each image, not {list(labels.shape)}"
                + ("; of one-hot labels that is argmax(1)" if labels.shape == values.shape else "")
            )
        _check_range(labels, classes, ", as the network has it")
        order = np.argsort(-values.astype(np.int64), axis=1, kind="stable")[:, :_TOP]
        found = order == labels[:, None]
        first += int(found[:, 0].sum())
        fifth += int(found.any(1).sum())
        count += len(labels)
    if not count:
        raise CompressError("data must have at least one image, not 0")
    report: dict[str, Any] = {"images": count, "classes": classes, "top1": 100 * first / count}
    return report | ({"top5": 100 * fifth / count} if classes > _TOP else {})


def evaluate_maps(scores: Iterable[tuple[NDArray[Any], NDArray[np.integer[Any]]]]) -> dict[str, Any]:
    """Mean intersection over union of the classes that occur, and the share of right pixels, both in per cent.

    Parameters
    ----------
    scores
        Batches of scores ``[n, classes, rows, columns]`` and labels ``[n, rows, columns]``; :data:`VOID` does not
        count. Scores of fewer rows and columns than the labels are repeated to their size.

    Raises
    ------
    CompressError
        There are no pixels that count, the numbers of images or the sizes do not fit, or a label is outside the
        classes.
    """
    table: NDArray[np.int64] | None = None
    count = 0
    for values, labels in scores:
        classes = values.shape[1]
        if labels.ndim != 3 or len(labels) != len(values):
            wanted = f"[{len(values)}, rows, columns], a class for each pixel of each image"
            raise CompressError(f"labels must be {wanted}, not {list(labels.shape)}")
        factors = [wanted / found for wanted, found in zip(labels.shape[1:], values.shape[2:], strict=True)]
        if any(factor < 1 or factor != int(factor) for factor in factors):
            raise CompressError(
                f"labels must have the network's {values.shape[2]} x {values.shape[3]} pixels or a multiple of them,"
                f" not {labels.shape[1]} x {labels.shape[2]}"
            )
        guessed = values.argmax(1).repeat(int(factors[0]), 1).repeat(int(factors[1]), 2)
        counted = labels != VOID
        known, guessed = labels[counted].astype(np.int64), guessed[counted]
        _check_range(known, classes, f" or {VOID}")
        table = np.zeros((classes, classes), np.int64) if table is None else table
        table += np.bincount(classes * known + guessed, minlength=classes**2).reshape(classes, classes)
        count += len(labels)
    if table is None or not table.any():
        raise CompressError("data must have at least one pixel with a label, not 0")
    right, union = np.diag(table), table.sum(0) + table.sum(1) - np.diag(table)
    occurring = union > 0
    return {
        "images": count,
        "classes": len(table),
        "miou": 100 * float(np.mean(right[occurring] / union[occurring])),
        "pixels": 100 * float(right.sum() / table.sum()),
    }


def _check_range(labels: NDArray[np.integer[Any]], classes: int, more: str) -> None:
    """Refuse labels outside the classes: the one that is."""
    if labels.size and (labels.min() < 0 or labels.max() >= classes):
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise CompressError(f"labels must be in 0..{classes - 1}{more}, not {wrong}")
