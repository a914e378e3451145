"""Networks with narrow codewords, from torch to a program: arrays with wider weights take them as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hw.config import preset
from sw.compiler.compile import compile_network
from sw.compress.methods import Recipe
from sw.compress.training.graph import calibrate, quantise_activations
from sw.compress.training.integer import export_integers, read_network, write_network
from sw.compress.training.modules import convert
from sw.executor import run_program
from sw.golden.psum import psum_bounds

SHAPE = (3, 8, 7)


@pytest.mark.parametrize(
    ("name", "method", "bits"),
    [("ews-c-tiny", "vq", 2), ("ews-cms-tiny", "mvq", 5), ("ews-ssvq-tiny", "ssvq", 3), ("ews-msvq-tiny", "msvq", 4)],
)
def test_program_computes_what_the_container_says(name: str, method: str, bits: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(960, 5)
    ).eval()
    config = preset(name).override(["psum_width=32", "l2_bytes=65536", "l1_ifmap_bytes=4096", "k=8"])
    nm = (config.N, config.M) if method in ("mvq", "msvq") else (0, 0)
    convert(model, [("2", Recipe(method, 8, config.d, *nm, codeword_bits=bits))], progress=False)
    images = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(0))
    graph = quantise_activations(model, images)
    calibrate(graph, images)
    write_network(tmp_path / "network", export_integers(graph, SHAPE))
    network = read_network(tmp_path / "network")
    layer = network.layers["2"]
    assert (layer.method, layer.codeword_bits) == (method, bits)
    weights = layer.integer_weights()
    high = (1 << (bits - 1)) - 1
    assert -high - 1 <= weights.min() <= weights.max() <= high
    # The proof of the sums' width knows the range: it follows from the integers.
    low_sum, high_sum = psum_bounds(layer)
    assert max(-low_sum.min(), high_sum.max()) <= (high + 1) * 128 * 16 * 9
    expected = network.run(network.quantise(images), golden=True)
    program = compile_network(network, SHAPE, config)
    assert "coded" in [layer.note.split(",")[0] for layer in program.layers]
    for image, logits in zip(network.quantise(images).numpy(), expected.numpy(), strict=True):
        (found,) = run_program(program, [image]).values()
        np.testing.assert_array_equal(found.reshape(-1), logits)
