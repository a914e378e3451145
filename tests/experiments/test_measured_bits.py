"""Bits of a classifier's layers by what each one does to its output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from experiments import measured, measured_bits
from experiments.allocation import cheapest
from experiments.case import Case
from experiments.finetune import compress, rules_for
from experiments.measured_bits import MENUS, recipes_of
from experiments.models import VisionTransformer, save_weights
from experiments.tiny import BITS
from sw.compress.methods import CompressError, LayerSource, Recipe, compress_layer, recipe_bits
from sw.compress.network import module_sources
from sw.compress.training.data import ImageData


@pytest.fixture
def model() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(depth=1, width=32, heads=2).eval()


@pytest.fixture
def sources(model: VisionTransformer) -> list[LayerSource]:
    return [source for source in module_sources(model) if source.name.startswith("blocks.")]


def train(count: int) -> ImageData:
    rng = np.random.default_rng(1)
    return ImageData(rng.integers(0, 256, (count, 3, 32, 32), np.uint8), np.arange(count) % 3, 32)


@pytest.mark.parametrize("method", MENUS)
def test_choices_are_what_a_layer_alone_does(model: VisionTransformer, sources: list[LayerSource], method: str) -> None:
    images = train(8).normalise(torch.from_numpy(train(8).images))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = measured_bits.measured(model, sources, method, images, seed=0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert list(found) == [source.name for source in sources]
    for source in sources:
        choices = found[source.name]
        bits = [choice.bits for choice in choices]
        # Of those that are larger, each one is nearer to the weights; at 8 bit nothing is lost.
        assert bits == sorted(set(bits))
        assert choices[-1].recipe.method == "int8"
        assert (choices[-1].bits, choices[-1].loss) == (8 * source.weight.size, 0)
        assert choices[0].loss > 3 * choices[-2].loss
        for choice in choices[:-1]:
            assert choice.recipe.method == method
            assert choice.bits == recipe_bits(source.weight.size, choice.recipe).total
    # Against the clustering of the library, all of whose subvectors count; its codewords have 8 bits.
    source = sources[2]
    choice = found[source.name][len(found[source.name]) // 2]
    layer = compress_layer(source, choice.recipe)
    with torch.no_grad():
        expected = model(images).log_softmax(-1)
        weight = model.get_parameter(f"{source.name}.weight")
        weight.copy_(torch.from_numpy(layer.float_weights()).reshape(weight.shape))
        said = model(images).log_softmax(-1)
    loss = float(functional.kl_div(said, expected, reduction="batchmean", log_target=True))
    assert choice.loss == pytest.approx(loss, rel=0.5)


def test_recipes_are_the_cheapest_within_the_bits(
    model: VisionTransformer, sources: list[LayerSource], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, file = tmp_path / "weights.pt", tmp_path / "bits" / "msvq.json"
    save_weights(model.state_dict(), weights)
    monkeypatch.setattr(measured_bits, "build", lambda network, path: model)
    case = Case("MSVQ", Recipe("msvq", 2, 16, 8, 16), mean_bits=1.5, measured=True)
    arguments: Any = ("vit", weights, case, train(8), file)
    found = recipes_of(*arguments, device="cpu")
    choices = measured_bits.measured(
        model, sources, "msvq", train(8).normalise(torch.from_numpy(train(8).images)), seed=100
    )
    room = int(1.5 * sum(source.weight.size for source in sources))
    chosen = cheapest({name: [(each.bits, each.loss) for each in own] for name, own in choices.items()}, room)
    assert found == {name: choices[name][number].recipe for name, number in chosen.items()}

    # Measured once; other sizes read the same file.
    monkeypatch.setattr(measured_bits, "build", lambda network, path: pytest.fail("measured again"))
    assert recipes_of(*arguments, device="cpu") == found
    larger = Case("MSVQ", case.recipe, mean_bits=4, measured=True)
    more = recipes_of("vit", weights, larger, train(8), file, device="cpu")
    sizes = {source.name: source.weight.size for source in sources}

    def taken(recipes: dict[str, Recipe]) -> int:
        return sum(recipe_bits(sizes[name], own).total for name, own in recipes.items() if own.method != "int8")

    assert 0.95 * room < taken(found) <= room < taken(more)
    with pytest.raises(CompressError, match="is of a run with images 8, not 7"):
        recipes_of("vit", weights, case, train(7), file, device="cpu")
    weights.write_bytes(weights.read_bytes() + b"x")
    with pytest.raises(CompressError, match="is of a run with weights "):
        recipes_of(*arguments, device="cpu")

    layers = {layer.name: layer for layer in compress(model, case, 3, torch.zeros(1), "cpu", False, found)}
    for name, recipe in found.items():
        layer = layers[name]
        assert layer.method == recipe.method
        if recipe.method == "msvq":
            assert (layer.n, layer.m, layer.d, layer.k) == (recipe.n, recipe.m, recipe.d, recipe.k)


@pytest.mark.parametrize("network", measured.STUDY.configs)
def test_all_methods_have_the_same_bits_and_tries(network: str) -> None:
    cases = measured.cases(network)
    for size in measured.SIZES:
        own = [case for case in cases if case.name.startswith(f"{size} ")]
        assert len({case.mean_bits for case in own}) == 1
        assert {case.recipe.method for case in own} == set(MENUS)
        assert all(case.measured and case.distil for case in own)
    known = {case.name for case in cases}
    assert all(not case.rate_of or case.rate_of in known for case in cases)
    tried = [case for case in cases if not case.rate_of]
    assert {case.mean_bits for case in tried} == {BITS["30x"]}
    for method in ("ssvq", "mvq", "msvq"):
        assert [case.moving for case in tried if case.recipe.method == method] == [False, True]


def test_menus_are_of_about_one_size() -> None:
    """Of a layer that everything fits."""
    weight = np.random.default_rng(0).normal(size=(640, 640, 1, 1)).astype(np.float32)
    source = LayerSource("layer", "conv", weight)
    counts = {method: len(list(measured_bits._menu(source, method))) for method in MENUS}
    assert max(counts.values()) < 1.35 * min(counts.values()), counts
    # A case that is not measured takes its own recipe.
    assert rules_for([source], Case("MSVQ", Recipe("msvq", 2, 16, 8, 16)), 0)[0][1].n == 8
