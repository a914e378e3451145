"""A small fine-tuning that test_loop.py runs, also in processes of its own."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import torch
from torch import nn

from sw.compress.methods import Recipe
from sw.compress.training.data import ImageData
from sw.compress.training.freezing import Freezing, SignFreezer
from sw.compress.training.graph import calibrate, quantise_activations
from sw.compress.training.loop import TrainConfig, fit, images_of
from sw.compress.training.modules import compressed_layers, convert
from sw.format.container import write_container


def two_convolutions(channels: int, features: int, classes: int) -> nn.Sequential:
    """Convolution, batch norm, convolution, mean, linear layer; always with the same weights."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, features, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(features, classes),
    )


def train(
    output: str | Path, checkpoint: str | Path | None = None, die: str | None = None, short: bool = False
) -> None:
    distributed = "WORLD_SIZE" in os.environ
    if distributed:
        torch.distributed.init_process_group("gloo")
    rng = np.random.default_rng(0)
    data = ImageData(rng.integers(0, 256, (96, 3, 8, 8), np.uint8), rng.integers(0, 10, 96), 8)
    model = two_convolutions(3, 32, 10)
    if short:
        model[1] = nn.Identity()  # statistics are each process's own
    convert(model, [("3", Recipe("msvq", 8, 16, 4, 16))], progress=False)
    graph = quantise_activations(model)
    calibrate(graph, next(images_of(data, "cpu"))[0])
    augmentation = {"crop": 1, "area": 0.5, "erase": 3, "distort": 0.2, "mix": 0.5}
    config = TrainConfig(3, 16, lr=0.01, warmup=0.5, weight_decay=0.01, label_smoothing=0.1, threads=1, **augmentation)
    if short:
        config = TrainConfig(1, 16, "sgd", 0.01, crop=1, threads=1)
    freezer = SignFreezer(graph, Freezing(interval=2, momentum=0.3, first=0.2, last=0.1), config.steps(len(data)))

    def perhaps_die(step: int) -> None:
        if die is not None and step == int(die):
            os.kill(os.getpid(), signal.SIGKILL)

    losses = fit(
        graph, data, config, after_step=[freezer.step, perhaps_die], checkpoint=checkpoint, every=4, progress=False
    )
    if not distributed or torch.distributed.get_rank() == 0:
        metadata = {"losses": losses, "frozen": freezer.frozen_share()}
        write_container(output, compressed_layers(graph), metadata=metadata)
        torch.save(graph.state_dict(), f"{output}.state")
    if distributed:
        torch.distributed.destroy_process_group()
