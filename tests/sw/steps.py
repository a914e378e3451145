"""A small vision transformer in steps, untrained."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from hw.config import AcceleratorConfig
from sim.networks.definitions import DeiT
from sw.compress.export.transformer import export_transformer
from sw.compress.methods import Recipe
from sw.compress.training.modules import convert
from sw.network import Network

METHODS = {(False, False): "vq", (True, False): "mvq", (False, True): "ssvq", (True, True): "msvq"}


def converted(config: AcceleratorConfig, **size: int) -> tuple[DeiT, torch.Tensor]:
    """A DeiT of one block, 5 tokens and 16 channels, with layers that the instance decodes, and images."""
    torch.manual_seed(0)
    model = DeiT(**({"size": 8, "patch": 4, "width": 16, "heads": 2, "depth": 1, "classes": 10} | size)).eval()
    features = config.features
    mask, sign = features.mask or not features.codebook, features.sign
    masks = {"n": 2, "m": 4} if mask else {}
    recipe = Recipe(METHODS[mask, sign], k=8, d=4, iterations=3, **masks)
    images = torch.randn(8, 3, 8, 8)
    convert(model, [("patch_embed.*", Recipe("int8")), ("head", Recipe("int8")), ("*", recipe)], progress=False)
    return model, images


def small_transformer(config: AcceleratorConfig) -> tuple[Network, NDArray[np.int8]]:
    """The network in integers, and int8 images."""
    model, images = converted(config)
    network = export_transformer(model, images)
    return network, network.quantise(images)
