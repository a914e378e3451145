from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sw.compress.methods import CompressError, LayerSource, Recipe, compress_layer
from sw.compress.training import dkm
from sw.compress.training.dkm import DkmDecoder
from sw.format.layer import CompressedLayer


def start(k: int = 8) -> tuple[torch.Tensor, CompressedLayer]:
    weight = np.random.default_rng(0).standard_normal((16, 8, 3, 3)).astype(np.float32)
    return torch.from_numpy(weight), compress_layer(LayerSource("x", "conv", weight), Recipe("vq", k, 8, 0, 0))


def by_the_paper(weight: torch.Tensor, codebook: torch.Tensor, temperature: float) -> torch.Tensor:
    """One update and the mean by attention, written out."""
    subvectors = weight.reshape(2, 8, 8, 3, 3).permute(0, 2, 3, 4, 1).reshape(-1, 8)

    def attention(c: torch.Tensor) -> torch.Tensor:
        distance = ((subvectors[:, None] - c) ** 2).sum(2)
        weights = torch.exp(-(distance - distance.min(1, keepdim=True).values) / temperature)
        return weights / weights.sum(1, keepdim=True)

    a = attention(codebook)
    updated = a.T @ subvectors / a.sum(0)[:, None]
    return attention(updated) @ updated


@pytest.mark.parametrize("chunks", [1, 5])
def test_forward_and_gradient_are_the_papers(chunks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, layer = start()
    monkeypatch.setattr(dkm, "_CPU_SCORES", 144 * 8 // chunks)
    # Integers fine enough not to matter.
    monkeypatch.setattr(dkm, "fake_quantise", lambda values, *_: values)
    decoder = DkmDecoder(layer, weight, temperature=0.3)
    upstream = torch.randn(16, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    before = decoder.codebook.double()
    found = decoder()
    found.backward(upstream)
    reference = weight.double().requires_grad_()
    expected = by_the_paper(reference, before, float(decoder.temperature))
    assert decoder.weight.grad is not None
    shaped = expected.reshape(2, 8, 3, 3, 8).permute(0, 4, 1, 2, 3).reshape(16, 8, 3, 3)
    shaped.backward(upstream.double())
    torch.testing.assert_close(found.double(), shaped, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(decoder.weight.grad.double(), reference.grad, rtol=1e-3, atol=1e-3)


def test_evaluation_is_what_the_file_holds() -> None:
    weight, layer = start()
    decoder = DkmDecoder(layer, weight, iterations=2)
    optimiser = torch.optim.Adam(decoder.parameters(), 0.1)
    target = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    losses = []
    for _ in range(40):
        optimiser.zero_grad()
        loss = (decoder() - target).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    fields = decoder.eval().fields()
    trained = CompressedLayer("x", "conv", layer.shape, **fields)
    np.testing.assert_array_equal(decoder().numpy(), trained.float_weights())
    # Assignments were learned: the trained layer is nearer to the target than the best codebook for those of the start.
    assert (trained.assignments != layer.assignments).any()
    by_subvector = target.reshape(2, 8, 8, 3, 3).permute(0, 2, 3, 4, 1).reshape(-1, 8).numpy()
    best = np.stack([by_subvector[layer.assignments == i].mean(0) for i in range(layer.k)])
    fixed = ((best[layer.assignments] - by_subvector) ** 2).mean()
    assert float((decoder() - target).square().mean()) < fixed


def test_hard_assignments_are_the_nearest() -> None:
    weight, layer = start()
    fields = DkmDecoder(layer, weight).fields()
    subvectors = weight.reshape(2, 8, 8, 3, 3).permute(0, 2, 3, 4, 1).reshape(-1, 8).numpy()
    codebook = fields["codebook"] * fields["scale"]
    distance = ((subvectors[:, None] - codebook) ** 2).sum(2)
    np.testing.assert_array_equal(fields["assignments"], distance.argmin(1))


def test_a_codeword_far_from_all_stays() -> None:
    weight, layer = start()
    decoder = DkmDecoder(layer, weight)
    decoder.codebook[3] = 1e3
    decoder()
    assert (decoder.codebook[3] == 1e3).all()
    assert decoder.codebook.isfinite().all()


@pytest.mark.parametrize("value", [0.0, 2.0])
def test_constant_weights(value: float) -> None:
    weight = np.full((8, 8, 1, 1), value, np.float32)
    layer = compress_layer(LayerSource("x", "conv", weight), Recipe("vq", 2, 8, 0, 0))
    decoder = DkmDecoder(layer, torch.from_numpy(weight))
    for training in (True, False):
        np.testing.assert_allclose(decoder.train(training)().detach().numpy(), weight, rtol=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0}, "temperature must be finite and positive, not 0"),
        ({"temperature": float("nan")}, "temperature must be finite and positive, not nan"),
        ({"iterations": 0}, "iterations must be an integer of at least 1, not 0"),
        ({"weight": torch.ones(16, 8, 3)}, r"weight must have shape \[16, 8, 3, 3\], not \[16, 8, 3\]"),
    ],
)
def test_refuses(arguments: dict[str, Any], message: str) -> None:
    weight, layer = start()
    with pytest.raises(CompressError, match=message):
        DkmDecoder(**({"layer": layer, "weight": weight} | arguments))


def test_refuses_another_method() -> None:
    weight, _ = start()
    layer = compress_layer(LayerSource("x", "conv", weight.numpy()), Recipe("ssvq", 8, 8, 0, 0))
    with pytest.raises(CompressError, match="layer 'x' must be of method vq, not ssvq"):
        DkmDecoder(layer, weight)
