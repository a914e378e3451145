"""Options of ``python -m sim.networks``, apart from the networks, which take seconds to load."""

from __future__ import annotations

import argparse
import os

__all__ = ["NAMES", "add_options"]

#: The networks (:data:`sim.networks.workloads.WORKLOADS`).
NAMES = (
    "resnet20",
    "resnet20-narrow",
    "resnet18",
    "efficientnet-lite0",
    "efficientnet-lite0-narrow",
    "deit-tiny",
    "deit-tiny-narrow",
    "vit",
    "vit-narrow",
    "u-net",
    "mobilenet-v3",
    "efficientnet",
    "detector",
    "resnet18-64",
    "resnet18-64-narrow",
    "deit-tiny-64",
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that say where data and weights are."""
    parser.add_argument("--data", default=os.environ.get("CIFAR10"), help="CIFAR-10, for resnet20 ($CIFAR10)")
    parser.add_argument("--picture", default=os.environ.get("PICTURE"), help="for efficientnet-lite0 ($PICTURE)")
    parser.add_argument("--containers", help="directory with containers of ResNet-20, instead of the project's")
    parser.add_argument("--images", type=int, help="images to run; resnet20: 20")
    parser.add_argument("--blocks", type=int, default=12, choices=range(1, 13), metavar="1..12", help="of vit (12)")
