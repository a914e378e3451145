"""How good the integers of a network's file are on labelled images: top-1, top-5, and the mean IoU of maps."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sw.compress.methods import CompressError
from sw.compress.network import progress_bar
from sw.compress.training.data import ImageData
from sw.compress.training.device import device_results
from sw.compress.training.integer import IntegerNetwork, read_network
from sw.compress.training.loop import images_of
from sw.network import NetworkError
from sw.network.fast import FastNetwork

__all__ = ["VOID", "evaluate", "evaluate_classes", "evaluate_maps"]

#: Label of a pixel that counts for nothing, as data sets of segmentation have it.
VOID = 255

#: Images at a time.
_BATCH = 100

#: Classes among which a label must be for the second figure.
_TOP = 5


def evaluate(
    network: IntegerNetwork | str | os.PathLike[str],
    data: ImageData,
    *,
    output: str | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> dict[str, Any]:
    """Measure a network's integers, which are what the accelerator and its host compute, on labelled images.

    Parameters
    ----------
    network
        Of integers, or the container that holds it.
    data
        Images and what is done to them; a label for each image, or one for each of its pixels.
    output
        Which result of a network that has several.
    device
        ``cpu``, or a GPU that PyTorch sees.
    progress
        Show a bar on standard error.

    Returns
    -------
    dict
        Of :func:`evaluate_classes` where the result is a score for each class, of :func:`evaluate_maps` where it is
        one for each class and pixel.

    Raises
    ------
    CompressError
        The container has layers alone, the images do not fit, there is no such result, or labels are outside the
        classes.
    sw.format.ContainerError
        The file is damaged.
    """
    if not isinstance(network, IntegerNetwork):
        network = read_network(network)
    names = [given.name for given in network.outputs]
    if output is None and len(names) > 1:
        raise CompressError(f"the network has the results {', '.join(names)}: one of them must be chosen")
    if output is not None and output not in names:
        raise CompressError(f"output must be one of {', '.join(names)}, not {output!r}")
    number = 0 if output is None else names.index(output)
    fast = FastNetwork(network)

    def scored() -> Iterator[tuple[NDArray[Any], NDArray[np.integer[Any]]]]:
        with progress_bar(progress) as bar:
            task = bar.add_task("images", total=len(data))
            for images, labels in images_of(data, device, batch=_BATCH):
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
            raise CompressError(f"the network gives maps of {rows} x {columns}, so each pixel must have a label")
        return evaluate_classes(rest)


def evaluate_classes(scores: Iterable[tuple[NDArray[Any], NDArray[np.integer[Any]]]]) -> dict[str, Any]:
    """Top-1 and top-5 accuracy in per cent; of equal scores the class with the smaller number counts.

    Parameters
    ----------
    scores
        Batches of scores ``[n, classes]`` and labels ``[n]``, from 0.

    Raises
    ------
    CompressError
        There are no images, the scores have another shape, or a label is outside the classes.
    """
    first = fifth = count = classes = 0
    for values, labels in scores:
        values = values.reshape(len(values), -1)
        classes = values.shape[1]
        if len(labels) and (labels.min() < 0 or labels.max() >= classes):
            raise CompressError(f"labels must be in 0..{classes - 1}, as the network has it, not {labels.max()}")
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
        There are no pixels that count, the sizes do not fit, or a label is outside the classes.
    """
    table: NDArray[np.int64] | None = None
    count = 0
    for values, labels in scores:
        classes = values.shape[1]
        factors = [wanted / found for wanted, found in zip(labels.shape[1:], values.shape[2:], strict=True)]
        if any(factor < 1 or factor != int(factor) for factor in factors):
            raise CompressError(
                f"labels must have the network's {values.shape[2]} x {values.shape[3]} pixels or a multiple of them,"
                f" not {labels.shape[1]} x {labels.shape[2]}"
            )
        guessed = values.argmax(1).repeat(int(factors[0]), 1).repeat(int(factors[1]), 2)
        counted = labels != VOID
        known, guessed = labels[counted].astype(np.int64), guessed[counted]
        if known.size and (known.min() < 0 or known.max() >= classes):
            raise CompressError(f"labels must be in 0..{classes - 1} or {VOID}, not {known.max()}")
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
