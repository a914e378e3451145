"""A network in steps on torch tensors gives the integers of its reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from experiments.models import VisionTransformer
from hw.config import VARIANTS, preset
from sw.compress.export.transformer import export_transformer
from sw.compress.methods import Recipe
from sw.compress.training.device import run_on_device
from sw.compress.training.integer import quantise_images
from sw.compress.training.modules import convert
from sw.network import Network, NetworkError
from tests.sw.devices import DEVICES
from tests.sw.steps import small_transformer


def both(network: Network, images: torch.Tensor, device: str) -> tuple[np.ndarray, np.ndarray]:
    return run_on_device(network, images.to(device)).cpu().numpy(), network.run(images.numpy())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_result_is_the_references(variant: str, device: str) -> None:
    network, images = small_transformer(preset(f"{variant}-tiny"))
    # Beside likely images, those that reach the ends of every range.
    generator = torch.Generator().manual_seed(0)
    wild = torch.randint(-128, 128, (40, *images[0].shape), generator=generator)
    wild[::2] = wild[::2].sign() * 127
    batch = torch.cat([torch.from_numpy(images), wild.to(torch.int8)])
    found, expected = both(network, batch, device)
    assert found.dtype == expected.dtype == np.int32
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("device", DEVICES)
def test_mean_of_tokens(device: str) -> None:
    torch.manual_seed(1)
    model = VisionTransformer(depth=2, width=16, heads=2).eval()
    images = torch.randn(6, 3, 32, 32)
    convert(model, [("*", Recipe("int8"))], progress=False)
    network = export_transformer(model, images)
    batch = quantise_images(images, network.input_scale)
    assert np.array_equal(batch.numpy(), network.quantise(images))
    found, expected = both(network, batch, device)
    assert np.array_equal(found, expected)


def test_every_operation_is_met() -> None:
    class_token, _ = small_transformer(preset("ews-tiny"))
    kinds = {op.kind for op in class_token.operations}
    assert kinds >= {"token", "matmul", "split", "softmax", "normalise", "gelu", "layernorm", "embed", "residual"}


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.zeros(1, 3, 8, 8), r"images must be int8 \[batch x 3 x 8 x 8\], not torch.float32 \[1, 3, 8, 8\]"),
        (torch.zeros(1, 3, 8, 9, dtype=torch.int8), r"not torch.int8 \[1, 3, 8, 9\]"),
    ],
)
def test_refuses_other_images(batch: torch.Tensor, message: str) -> None:
    network, _ = small_transformer(preset("ews-tiny"))
    with pytest.raises(NetworkError, match=message):
        run_on_device(network, batch)
