"""Assignments, signs and masks that move: they follow from the latent weight, and the file has what was computed."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from sw.compress.methods import CompressError, LayerSource, Recipe, compress_layer
from sw.compress.training import moving
from sw.compress.training.data import ImageData
from sw.compress.training.loop import TrainConfig, fit
from sw.compress.training.modules import MovingDecoder, compressed_layers, convert, decoded_layers
from sw.compress.training.moving import _largest, _largest_of_pairs, _largest_score
from sw.compress.training.sparse import DECAY, nm_keep
from sw.format.layer import CompressedLayer

RECIPES = {
    "vq": Recipe("vq", 8, 8, 0, 0),
    "mvq": Recipe("mvq", 8, 16, 4, 16),
    "ssvq": Recipe("ssvq", 8, 8, 0, 0, codeword_bits=5),
    "msvq": Recipe("msvq", 8, 16, 3, 8),
}


def source() -> LayerSource:
    weight = np.random.default_rng(0).normal(size=(32, 6, 3, 3)).astype(np.float32)
    return LayerSource("layer", "conv", weight)


def decoder_of(recipe: Recipe) -> tuple[MovingDecoder, CompressedLayer]:
    layer = compress_layer(source(), recipe)
    return MovingDecoder(layer, torch.from_numpy(source().weight)), layer


def stored(decoder: MovingDecoder, layer: CompressedLayer) -> CompressedLayer:
    return dataclasses.replace(layer, **decoder.fields())


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_stored_is_what_was_computed(name: str) -> None:
    decoder, layer = decoder_of(RECIPES[name])
    # The clustering's masks and signs are those of the weight that it started from.
    for field in ("masks", "signs"):
        assert np.array_equal(getattr(stored(decoder, layer), field), getattr(layer, field))
    with torch.no_grad():
        decoder.weight.add_(torch.randn(decoder.weight.shape, generator=torch.Generator().manual_seed(1)))
    moved = stored(decoder, layer)
    assert not np.array_equal(moved.assignments, layer.assignments)
    assert np.array_equal(moved.float_weights(), decoder().detach().numpy())


@pytest.mark.parametrize("name", RECIPES)
def test_each_subvector_takes_its_nearest_codeword(name: str) -> None:
    decoder, layer = decoder_of(RECIPES[name])
    with torch.no_grad():
        decoder.weight.copy_(torch.randn(decoder.weight.shape, generator=torch.Generator().manual_seed(2)))
    moved, latent = stored(decoder, layer), decoder._grouped(decoder.weight).detach().double().numpy()
    values = np.abs(latent) if moved.signs is not None else latent
    keep = np.ones_like(latent, bool) if moved.masks is None else moved.masks
    codebook = moved.codebook.astype(np.float64) * float(moved.scale[0])
    apart = (keep[:, None] * (values[:, None] - codebook) ** 2).sum(2)
    chosen = apart[np.arange(len(apart)), moved.assignments]
    assert (chosen <= apart.min(1) * (1 + 1e-5)).all()


def test_what_the_kernels_cannot_take_is_computed_without(monkeypatch: pytest.MonkeyPatch) -> None:
    class Kernels:
        @staticmethod
        def moving(*given: object) -> None:
            raise NotImplementedError

    monkeypatch.setattr(moving, "kernels_for", lambda values: Kernels)
    weight = torch.randn(256, 8, 1, 1, generator=torch.Generator().manual_seed(0))
    for d in (64, 128):
        layer = compress_layer(LayerSource("layer", "conv", weight.numpy()), Recipe("ssvq", 2, d, 0, 0))
        decoder = MovingDecoder(layer, weight)
        if d == 128:
            assert np.array_equal(stored(decoder, layer).float_weights(), decoder().detach().numpy())
            monkeypatch.setattr(moving, "_LENGTH", d)
        with pytest.raises(NotImplementedError):
            decoder()
    monkeypatch.setattr(moving, "_WEIGHTS", weight.numel())
    decoder()


def test_the_largest_are_kept() -> None:
    weight = torch.randint(-3, 4, (32, 40), generator=torch.Generator().manual_seed(0)).float()
    rows = weight.abs().reshape(4, 8, 40).permute(0, 2, 1).reshape(-1, 8)
    expected = nm_keep(weight, 3, 8).reshape(4, 8, 40).permute(0, 2, 1).reshape(-1, 8)
    assert torch.equal(_largest(rows, 3), expected)
    assert torch.equal(_largest_of_pairs(rows, 3), expected)


def test_of_equal_scores_the_first_is_the_largest() -> None:
    scores = torch.tensor([[1.0, 3.0, 3.0, 2.0], [0.0, 0.0, 0.0, 0.0], [-2.0, -3.0, -1.0, -1.0]])
    assert _largest_score(scores).tolist() == [1, 0, 2]
    many = torch.randint(-9, 9, (50, 333), generator=torch.Generator().manual_seed(0)).float()
    assert torch.equal(_largest_score(many), many.argmax(1))
    # Of a network in a precision that NumPy does not have.
    assert _largest_score(scores.bfloat16()).tolist() == [1, 0, 2]


def test_gradients_go_straight_through() -> None:
    decoder, layer = decoder_of(RECIPES["msvq"])
    given = torch.randn(decoder.weight.shape, generator=torch.Generator().manual_seed(3))
    (decoder() * given).sum().backward()
    pruned = torch.from_numpy(layer.float_weights()) == 0
    expected = given + DECAY * decoder.weight.detach() * pruned
    torch.testing.assert_close(decoder.weight.grad, expected)
    assert decoder.codebook.grad is not None
    assert decoder.codebook.grad.abs().sum() > 0


def test_refused() -> None:
    layer = compress_layer(source(), RECIPES["ssvq"])
    with pytest.raises(CompressError, match=r"weight must have shape \[32, 6, 3, 3\], not \[32, 6\]"):
        MovingDecoder(layer, torch.zeros(32, 6))
    with pytest.raises(CompressError, match="layer 'layer' must have a codebook to move in, not method int8"):
        MovingDecoder(compress_layer(source(), Recipe("int8")), torch.zeros(layer.shape))


@pytest.mark.parametrize("name", ["ssvq", "msvq"])
def test_training_moves_towards_the_teacher(name: str) -> None:
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4))
    model = copy.deepcopy(teacher)
    convert(model, [("0", RECIPES[name])], moving=True, progress=False)
    before = compressed_layers(model)[0]
    assert next(type(layer.decoder) for _, layer in decoded_layers(model)) is MovingDecoder
    pixels = np.random.default_rng(0).integers(0, 256, (64, 3, 8, 8), np.uint8)
    # Labels that say nothing: the teacher is what is learned.
    data = ImageData(pixels, np.zeros(64, np.int64), 8)
    config = TrainConfig(12, 16, "adamw", 1e-2, crop=0, threads=1)
    losses = fit(model, data, config, teacher=teacher.eval(), progress=False)
    assert losses[-1] < 0.5 * losses[0]
    assert not np.array_equal(compressed_layers(model)[0].assignments, before.assignments)
