"""What :mod:`experiments.score` does."""

from __future__ import annotations

import argparse
import math
from typing import Any

import torch
from torch import Tensor

from experiments.common import machine
from experiments.distillation import NETWORKS
from experiments.pictures import SIDE
from hw.command_line import write_text
from sw.compress.methods import CompressError
from sw.compress.network import progress_bar
from sw.compress.training.data import load_data, read_classes
from sw.compress.training.integer import read_network
from sw.compress.training.loop import images_of
from sw.format.container import read_container
from sw.format.strict_json import json_text
from sw.network.fast import FastNetwork

__all__ = ["compared", "run"]

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


@torch.no_grad()
def run(options: argparse.Namespace) -> int:
    """The command, with its options. Returns 0.

    Raises
    ------
    CompressError
        Two containers have one name, or one is another network's; or the weights, the images or their classes are not
        as they must be.
    sw.format.ContainerError
        A container is damaged.
    """
    torch.set_num_threads(options.threads)
    network, device = NETWORKS[options.network], options.device
    names = [path.name for path in options.container]
    if len(set(names)) < len(names):
        raise CompressError(f"containers must have names of their own, not {max(names, key=names.count)!r} twice")
    for path in options.container:
        said = read_container(path).metadata.get("preprocessing")
        if said not in (None, network.preprocessing.to_dict()):
            raise CompressError(f"{str(path)!r} must take its images as {options.network} does, not by {said}")
    containers = {path.name: read_network(path) for path in options.container}
    fast = {name: FastNetwork(container) for name, container in containers.items()}
    classes = read_classes(options.classes) if options.classes else ()
    data = load_data(options.data, "test", size=SIDE, classes=classes, preprocessing=network.preprocessing)
    teacher = network.build(options.weights).to(device).eval()
    right: dict[str, list[Tensor]] = {name: [] for name in ("float", *containers)}
    with progress_bar() as bar:
        task = bar.add_task("images", total=len(data))
        for images, labels in images_of(data, device, batch=_BATCH):
            right["float"].append((teacher(images).argmax(1) == labels).cpu())
            for name, container in containers.items():
                scores = fast[name].results(container.quantise(images).cpu().numpy())[0]
                right[name].append(torch.from_numpy(scores.argmax(1)) == labels.cpu())
            bar.advance(task, len(labels))
    found = {name: torch.cat(parts) for name, parts in right.items()}
    reports = {name: compared(found[name], found["float"]) for name in containers}
    for name, own in reports.items():
        print(
            f"{name}: {own['accuracy']:.2f} %, float {own['float']:.2f} %, lost {own['lost']:.2f} ± {own['error']:.2f}"
        )
    if options.json:
        content = {"network": options.network, "data": options.name, "images": len(data), "containers": reports}
        write_text(options.json, json_text(content | {"machine": machine(device)}))
    return 0
