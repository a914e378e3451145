"""What :mod:`experiments.score` does."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from experiments.common import machine
from experiments.distillation import NETWORKS
from experiments.pictures import SIDE, Network, load_more, normalised, unlike
from hw.command_line import write_text
from sw.compress.methods import CompressError
from sw.compress.network import progress_bar
from sw.compress.training.data import load_data, read_classes
from sw.compress.training.integer import IntegerNetwork, integer_results, read_network_and_metadata
from sw.compress.training.loop import images_of
from sw.format.strict_json import json_text

__all__ = ["apart", "check_results", "compared", "fitted_scale", "run", "summary"]

_BATCH = 50


def compared(right: Tensor, wanted: Tensor) -> dict[str, Any]:
    """Accuracies in per cent, and how sure their difference is.

    Parameters
    ----------
    right, wanted
        bool ``[n]``: which images a container, and which the float network, has right.

    Returns
    -------
    dict
        ``accuracy``, ``float``, ``lost`` in per cent, ``error``, the standard error of ``lost``, and of how many images
        only one of the two is right.
    """
    n = len(right)
    lost, won = int((wanted & ~right).sum()), int((right & ~wanted).sum())
    mean = (lost - won) / n
    error = math.sqrt(max(0.0, (lost + won) / n - mean**2) / n)
    return {
        "accuracy": 100 * float(right.double().mean()),
        "float": 100 * float(wanted.double().mean()),
        "lost": 100 * mean,
        "error": 100 * error,
        "float_alone": lost,
        "container_alone": won,
    }


def fitted_scale(found: Tensor, wanted: Tensor) -> float:
    """The positive factor of integers ``found`` ``[n, classes]`` at which they are least apart from logits ``wanted``.

    A file of a network whose result is alone does not say what the integer 1 of it stands for, as the order of the
    classes counts.
    """
    targets, values = wanted.double().softmax(1), found.double()
    # The divergence is convex in the factor: its derivative rises.
    low, high = math.log(1e-6), math.log(1e6)
    for _ in range(60):
        middle = (low + high) / 2
        scale = math.exp(middle) / max(1.0, float(values.std()))
        rise = float((((values * scale).softmax(1) - targets) * values).sum())
        low, high = (low, middle) if rise > 0 else (middle, high)
    return scale


def apart(found: Tensor, wanted: Tensor) -> Tensor:
    """How far a network is from another one, of each image: float64 ``[n, 2]``.

    The Kullback-Leibler divergence, and 100 where both give the same class, else 0.

    Parameters
    ----------
    found, wanted
        Logits ``[n, classes]`` of a container, and of the float network.
    """
    scores, targets = (logits.double().log_softmax(1) for logits in (found, wanted))
    divergence = functional.kl_div(scores, targets, reduction="none", log_target=True).sum(1)
    return torch.stack([divergence, 100.0 * (found.argmax(1) == wanted.argmax(1))], 1).cpu()


def summary(values: Tensor) -> dict[str, float]:
    """Means of what :func:`apart` gives, or of differences of it, with their standard errors; agreement in per cent."""
    means, errors = values.mean(0), values.std(0, correction=0) / math.sqrt(len(values))
    names = ("divergence", "agreement")
    return {name: float(own) for name, own in zip(names, means, strict=True)} | {
        f"{name}_error": float(own) for name, own in zip(names, errors, strict=True)
    }


def _summaries(both: Tensor) -> dict[str, Any]:
    """Of a container, and of its difference from the first one, ``[2, n, 2]``."""
    return summary(both[0]) | {"from_first": summary(both[1])}


def _fresh(directories: Sequence[Path], others: Sequence[Path]) -> list[tuple[NDArray[np.uint8], int]]:
    """Of each directory the pictures that are no copies of those of others, and how many are.

    Raises
    ------
    CompressError
        A directory has no pictures, or no others than copies.
    """
    every = [load_more(directory, option="pictures") for directory in directories]
    keep = [np.ones(len(pictures), np.bool_) for pictures in every]
    for other in others:
        known = load_more(other, option="unlike")
        # All in floating point are too many.
        for part in np.array_split(known, math.ceil(len(known) / 500)):
            images = torch.from_numpy(part).permute(0, 3, 1, 2).float()
            for own, pictures in zip(keep, every, strict=True):
                own &= unlike(pictures, images)
    for own, directory in zip(keep, directories, strict=True):
        if not own.any():
            raise CompressError(f"pictures must not be copies of --unlike, as all of {str(directory)!r} are")
    return [(pictures[own], int((~own).sum())) for own, pictures in zip(keep, every, strict=True)]


def _read_containers(paths: Sequence[Path], name: str, network: Network) -> dict[str, IntegerNetwork]:
    """Of each file's name; they must be of this network.

    Raises
    ------
    CompressError
        Two have one name, or one takes its images otherwise, or of another size.
    sw.format.ContainerError
        One is damaged.
    """
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        raise CompressError(f"containers must have names of their own, not {max(names, key=names.count)!r} twice")
    found: dict[str, IntegerNetwork] = {}
    for path in paths:
        own, metadata = read_network_and_metadata(path)
        found[path.name] = own
        said = metadata.get("preprocessing")
        if said not in (None, network.preprocessing.to_dict()):
            raise CompressError(f"{str(path)!r} must take its images as {name} does, not by {said}")
        if own.image_shape not in (None, (3, SIDE, SIDE)):
            size = " x ".join(map(str, own.image_shape))
            raise CompressError(f"{str(path)!r} must take images of 3 x {SIDE} x {SIDE} as {name} does, not of {size}")
    return found


def check_results(file: str, container: IntegerNetwork, image: Tensor, wanted: Iterable[Tensor], whose: str) -> None:
    """Refuse a container whose results of one image have other shapes than the float network's, ``wanted``.

    Raises
    ------
    CompressError
        They have; ``whose`` results the others are stands in the message.
    """
    needed, found = ([list(each.shape[1:]) for each in own] for own in (wanted, integer_results(container, image)))
    if found != needed:
        raise CompressError(f"results of {file!r} must be {needed}{whose}, not {found}")


@torch.no_grad()
def run(options: argparse.Namespace) -> int:
    """The command, with its options. Returns 0.

    Raises
    ------
    CompressError
        An option is missing; two containers have one name, or one is another network's or of other classes; or the
        weights, the images or their classes are not as they must be.
    sw.format.ContainerError
        A container is damaged.
    """
    if options.unlike and not options.pictures:
        raise CompressError("--unlike must be given with --pictures: of labelled images all count")
    if options.classes and options.pictures:
        raise CompressError("--classes must be given with --data: pictures have none")
    torch.set_num_threads(options.threads)
    network = NETWORKS[options.network]
    containers = _read_containers(options.container, options.network, network)
    teacher = network.build(options.weights).to(options.device).eval()
    image = torch.zeros(1, 3, SIDE, SIDE, device=options.device)
    wanted = [teacher(image)]
    for file, container in containers.items():
        check_results(file, container, image, wanted, f" as {options.network}'s are")
    content = (_agreement if options.pictures else _accuracy)(options, network, teacher, containers)
    if options.json:
        content = {"network": options.network, "data": options.name, **content, "machine": machine(options.device)}
        write_text(options.json, json_text(content))
    return 0


def _accuracy(
    options: argparse.Namespace, network: Network, teacher: nn.Module, containers: Mapping[str, IntegerNetwork]
) -> dict[str, Any]:
    """What a report has of labelled images."""
    device = options.device
    classes = read_classes(options.classes) if options.classes else ()
    data = load_data(options.data, "test", size=SIDE, classes=classes, preprocessing=network.preprocessing)
    right: dict[str, list[Tensor]] = {name: [] for name in ("float", *containers)}
    with progress_bar() as bar:
        task = bar.add_task("images", total=len(data))
        for images, labels in images_of(data, device, batch=_BATCH):
            right["float"].append((teacher(images).argmax(1) == labels).cpu())
            for name, container in containers.items():
                right[name].append((integer_results(container, images)[0].argmax(1) == labels).cpu())
            bar.advance(task, len(labels))
    found = {name: torch.cat(parts) for name, parts in right.items()}
    reports = {name: compared(found[name], found["float"]) for name in containers}
    for name, own in reports.items():
        print(
            f"{name}: {own['accuracy']:.2f} %, float {own['float']:.2f} %, lost {own['lost']:.2f} ± {own['error']:.2f}"
        )
    return {"images": len(data), "containers": reports}


def _agreement(
    options: argparse.Namespace, network: Network, teacher: nn.Module, containers: Mapping[str, IntegerNetwork]
) -> dict[str, Any]:
    """What a report has of pictures without labels."""
    device = options.device
    logits: dict[str, list[Tensor]] = {name: [] for name in ("float", *containers)}
    rows: list[dict[str, Any]] = []
    fresh = _fresh(options.pictures, options.unlike)
    for directory, (pictures, copies) in zip(options.pictures, fresh, strict=True):
        with progress_bar() as bar:
            task = bar.add_task(directory.name, total=len(pictures))
            for part in np.array_split(pictures, math.ceil(len(pictures) / _BATCH)):
                images = normalised(part, network).to(device)
                logits["float"].append(teacher(images).cpu())
                for name, container in containers.items():
                    logits[name].append(integer_results(container, images)[0].cpu())
                bar.advance(task, len(part))
        rows.append({"pictures": directory.name, "images": len(pictures), "copies_left_out": copies, "containers": {}})
    results = {name: torch.cat(parts) for name, parts in logits.items()}
    wanted = results.pop("float")
    scales = {name: fitted_scale(values, wanted) for name, values in results.items()}
    together = {name: apart(values * scales[name], wanted) for name, values in results.items()}
    first = next(iter(together.values()))
    reports: dict[str, dict[str, Any]] = {}
    for name, values in together.items():
        # Of two files on the same pictures the difference is surer than each for itself.
        both = torch.stack([values, values - first])
        begin = 0
        for row in rows:
            row["containers"][name] = _summaries(both[:, begin : begin + row["images"]])
            begin += row["images"]
        reports[name] = _summaries(both) | {"scale": scales[name]}
    for name, own in reports.items():
        print(
            f"{name}: divergence {own['divergence']:.4f} ± {own['divergence_error']:.4f},"
            f" the same class {own['agreement']:.2f} ± {own['agreement_error']:.2f} %"
        )
    least = min(reports, key=lambda name: reports[name]["divergence"])
    return {"images": len(first), "sets": rows, "containers": reports, "least_divergence": least}
