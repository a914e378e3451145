"""Compression with few images and no labels, on a small network."""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from experiments import allocation, distillation, fewshot
from experiments.allocation import allocate, cheapest
from experiments.distillation import accuracy, distil, divergence, handed_on, start
from experiments.models import ImageNetMobileNetV2, InvertedResidual
from experiments.pictures import Mosaic, Network, Whole, normalised, unlike
from experiments.reconstruction import reconstruct
from sw.compress.methods import LayerSource, Recipe, compress_layers, recipe_bits
from sw.compress.network import module_sources
from sw.compress.training.data import Preprocessing
from sw.compress.training.graph import calibrate, quantise_activations
from sw.compress.training.integer import export_integers, read_network, write_network
from sw.compress.training.modules import (
    CodebookDecoder,
    MovingDecoder,
    compressed_layers,
    decoded_layers,
    load_layers,
)
from sw.format.container import read_container
from tests.refusals import Refused
from tests.sw.devices import CUDA


class Small(nn.Module):
    """A stem, two blocks, one of them with a shortcut, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        self.blocks = nn.Sequential(InvertedResidual(16, 32, 2, 4), InvertedResidual(32, 32, 1, 4))
        self.linear = nn.Linear(32, 16)

    def forward(self, values: Tensor) -> Tensor:
        return self.linear(torch.flatten(functional.adaptive_avg_pool2d(self.blocks(self.stem(values)), 1), 1))


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    torch.manual_seed(0)
    model = Small()
    model.train()
    with torch.no_grad():  # statistics that are those of the images
        for _ in range(30):
            model(images(32, int(torch.randint(1000, ()))))
    return model.eval()


def images(count: int, seed: int) -> Tensor:
    """Smooth ones: a crop of such an image is another one, which of noise it is not."""
    noise = torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return functional.interpolate(noise, size=(32, 32), mode="bilinear")


NETWORK = Network(lambda weights: nn.Identity(), (127.0,) * 3, (40.0,) * 3)


def shown(count: int, seed: int) -> list[Whole]:
    """:func:`images` to draw views of."""
    pixels = (images(count, seed) * 40 + 127).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return [Whole(pixels, NETWORK, "cpu")]


def apart(model: nn.Module, teacher: nn.Module) -> float:
    """Squared error of the logits on new images, as a share of their variance."""
    with torch.no_grad():
        wanted, found = (network(images(60, 1)) for network in (teacher, model))
    return float((found - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum())


def recipes_of(model: nn.Module, recipe: Recipe) -> dict[str, Recipe]:
    return {source.name: recipe for source in module_sources(model)[1:]}


@pytest.mark.parametrize("method", ["vq", pytest.param("ssvq", marks=pytest.mark.whole)])
def test_layers_make_up_for_each_other(teacher: nn.Module, method: str) -> None:
    """Nearer to the network than common k-means with the same codewords, before any training."""
    recipe = Recipe(method, 16, 8, 0, 0)
    model = copy.deepcopy(teacher)
    layers, latents = reconstruct(model, images(60, 0), recipes_of(model, recipe))
    assert set(latents) == {layer.name for layer in layers if layer.method == method}
    sources = module_sources(teacher)
    assert [layer.name for layer in layers] == [source.name for source in sources]
    # The stem and the depthwise layers stay at 8 bit.
    expected = ["int8" if source.groups > 1 or source.name == "stem.0" else method for source in sources]
    assert [layer.method for layer in layers] == expected
    plain = copy.deepcopy(teacher)
    recipes = [recipe if layer.method == method else Recipe("int8") for layer in layers]
    load_layers(plain, compress_layers(sources, recipes))
    before = apart(model, teacher)
    assert before < 0.7 * apart(plain.eval(), teacher)
    # What reconstruct left in the network is what its layers decode to, but for the rounding to 8 bit.
    for moving in (False, True):
        loaded = copy.deepcopy(model)
        start(loaded, layers, latents, moving=moving)
        assert apart(loaded.eval(), teacher) == pytest.approx(before, rel=0.1)
        # Some latent weights are those that were met, not the codewords.
        decoder = next(m.decoder for _, m in decoded_layers(loaded) if m.name in latents)
        if moving:
            assert not torch.equal(decoder.weight, decoder())


@pytest.mark.whole
@pytest.mark.parametrize("moving", [False, True])
def test_from_the_network_to_integers(teacher: nn.Module, tmp_path: Path, moving: bool) -> None:
    model = copy.deepcopy(teacher)
    start(model, *reconstruct(model, images(60, 0), recipes_of(model, Recipe("ssvq", 8, 8, 0, 0))), moving=moving)
    graph = quantise_activations(model).eval()
    calibrate(graph, images(60, 0))
    far = divergence(graph, teacher, images(60, 1), "cpu")
    losses, _ = distil(graph, teacher, shown(60, 0), steps=200, lr=2e-3, mix=0.3)
    assert len(losses) == 2
    assert losses[1] < 0.9 * losses[0]
    assert divergence(graph, teacher, images(60, 1), "cpu") < far
    write_network(tmp_path / "network", export_integers(graph, (3, 32, 32)))
    network = read_network(tmp_path / "network")
    with torch.no_grad():
        expected = graph(images(60, 1)).argmax(1)
    found = accuracy(lambda x: network.run(network.quantise(x), golden=False), images(60, 1), expected, "cpu")
    assert found > 90


def test_codewords_without_signs_fit_an_array_that_splits_signs_off(teacher: nn.Module) -> None:
    """One of the layers' -128 made every instance of SSVQ and MSVQ refuse the network."""
    model = copy.deepcopy(teacher)
    layers, latents = reconstruct(model, images(20, 0), recipes_of(model, Recipe("vq", 4, 8, 0, 0)))
    for moving in (False, True):
        loaded = copy.deepcopy(model)
        start(loaded, layers, latents, moving=moving)
        for _, module in decoded_layers(loaded):
            if module.name in latents:
                with torch.no_grad():
                    module.decoder.codebook.fill_(-1e3)
        least = {int(layer.codebook.min()) for layer in compressed_layers(loaded) if layer.codebook is not None}
        assert least == {-127}


def folder(path: Path, numbers: range) -> Path:
    from PIL import Image

    path.mkdir()
    for number in numbers:
        pixels = np.random.default_rng(number).integers(0, 256, (224, 224, 3), np.uint8)
        Image.fromarray(pixels).save(path / f"{number:03d}.jpg")
    return path


@pytest.mark.whole
def test_command(
    tmp_path: Path, teacher: nn.Module, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    network = Network(lambda weights: copy.deepcopy(teacher), (127.0,) * 3, (128.0,) * 3)
    monkeypatch.setitem(distillation.NETWORKS, "mobilenetv2", network)
    monkeypatch.setattr(distillation, "SMALL", 1000)
    output, report = tmp_path / "out.msvq", tmp_path / "report.json"
    command = ["mobilenetv2", "--images", str(folder(tmp_path / "images", range(16))), "-o", str(output)]
    command += ["--method", "vq", "--bits", "3", "--steps", "2", "--threads", "1", "--json", str(report)]
    command += ["--device", "cpu"]
    seen: list[int] = []
    begin = distillation.reconstruct

    def watched(model: nn.Module, given: Tensor, *arguments: Any, **options: Any) -> Any:
        seen.append(len(given))
        return begin(model, given, *arguments, **options)

    monkeypatch.setattr(distillation, "reconstruct", watched)
    assert fewshot.main(command) == 0
    assert seen == [6]  # 2, 4, 6, 8, 12, 14: 0 and 10 are held out
    found = json.loads(report.read_text())
    assert found["bytes"] == output.stat().st_size
    assert read_container(output).metadata["preprocessing"]["mean"] == [127 / 255] * 3
    assert set(found["integers"]) == {"held out", "odd classes"}
    assert found["more_images"] == []
    assert 32 / 3 <= found["ratio_ideal"] < 14
    assert fewshot.main([*command, "--held-out"]) == 0
    assert set(json.loads(report.read_text())["integers"]) == {"held out"}
    assert fewshot.main([*command, "--final", "--more", str(tmp_path / "images")]) == 0
    assert seen[-1] == 8
    found = json.loads(report.read_text())
    # The odd ones are what the report is made of.
    assert (found["more_images"], found["copies_left_out"]) == ([8], {"more": 8, "small": 0})
    assert set(found["integers"]) == {"odd classes"}
    others = folder(tmp_path / "others", range(100, 112))
    judges = folder(tmp_path / "judges", range(200, 203))
    given = ["--more", str(others), str(others), "--more-views", "5", "--judge", str(judges)]
    assert fewshot.main([*command, *given]) == 0
    assert seen[-1] == 11
    found = json.loads(report.read_text())
    assert found["judging_images"] == 3
    assert found["float"]["judging, divergence"] == 0 < found["distilled"]["judging, divergence"]
    assert (found["more_images"], found["more_views"], found["copies_left_out"]["more"]) == ([12, 12], 5, 0)
    small = tmp_path / "small.npz"
    pictures, labels = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), np.uint8), np.zeros(9, np.int64)
    np.savez(small, train_images=pictures, train_labels=labels, test_images=pictures[:4], test_labels=labels[:4])
    assert fewshot.main([*command, "--small", str(small)]) == 0
    found = json.loads(report.read_text())
    assert (found["small_images"], found["copies_left_out"]["small"]) == (13, 0)
    made = tmp_path / "made.npz"
    np.savez(made, images=np.random.default_rng(1).integers(0, 256, (4, 224, 224, 3), np.uint8))
    assert fewshot.main([*command, "--made", str(made), str(made)]) == 0
    found = json.loads(report.read_text())
    assert (found["made_images"], found["small_images"]) == (8, 0)
    assert fewshot.main([*command, "--final", "--held-out"]) == 2
    assert "--held-out must not be given with --final" in capsys.readouterr().err
    for given, message in (
        (["--move-plain"], "--move-plain must be given with --fixed: without it, all assignments move"),
        (["--wide"], "--wide must be given with --allocate: without it, all layers have codewords of one length"),
        (["--more-views", "3"], "--more-views must be given with --more: 3 of the pictures it names"),
        (["--more-views", "-1"], "--more-views must be 0 or more, not -1"),
        (["--batch", "1", "--small", str(small)], "--batch must be 2 or more, one of each kind of pictures, not 1"),
        (["--batch", "2", "--more", str(others), str(others)], "--batch must be 3 or more, one of each kind"),
        (["--made", str(small)], f"made must be an .npz of experiments.invert, not '{small}'"),
    ):
        assert fewshot.main([*command, *given]) == 2
        assert message in capsys.readouterr().err
    assert fewshot.main([*command, "--allocate", "--wide", "--fixed", "--features", "1"]) == 0
    found = json.loads(report.read_text())
    assert (found["allocated"], found["wide"], found["features"]) == (True, True, 1.0)
    assert 32 / 3 <= found["ratio_ideal"] < 14
    assert fewshot.main([*command, "--judge", str(tmp_path / "none")]) == 2
    assert f"judge must be a directory of pictures, not '{tmp_path / 'none'}'" in capsys.readouterr().err
    assert fewshot.main([*command, "--more", str(tmp_path / "none")]) == 2
    assert f"more must be a directory of pictures, not '{tmp_path / 'none'}'" in capsys.readouterr().err
    assert fewshot.main([*command[:2], str(tmp_path), *command[3:]]) == 2
    assert f"images must be a directory of NNN.jpg, not '{tmp_path}'" in capsys.readouterr().err


def test_tries_are_from_the_same_layers(
    tmp_path: Path, teacher: nn.Module, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    network = Network(lambda weights: copy.deepcopy(teacher), (127.0,) * 3, (128.0,) * 3)
    monkeypatch.setitem(distillation.NETWORKS, "mobilenetv2", network)
    monkeypatch.setattr(distillation, "SMALL", 1000)
    reports = [tmp_path / name for name in ("alone.json", "tries.json")]
    small, made = tmp_path / "small.npz", tmp_path / "made.npz"
    pictures, labels = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), np.uint8), np.zeros(9, np.int64)
    np.savez(small, train_images=pictures, train_labels=labels, test_images=pictures[:4], test_labels=labels[:4])
    np.savez(made, images=np.random.default_rng(1).integers(0, 256, (4, 224, 224, 3), np.uint8))
    command = ["mobilenetv2", "--images", str(folder(tmp_path / "images", range(14))), "--bits", "3", "--steps", "2"]
    command += ["--method", "vq", "--threads", "1", "--device", "cpu", "--batch", "4", "--small", str(small)]
    command += ["--made", str(made), "-o", str(tmp_path / "out.msvq")]
    assert fewshot.main([*command, "--lr", "0.02", "--held-out", "--json", str(reports[0])]) == 0
    begun = distillation.reconstruct
    times: list[int] = []
    monkeypatch.setattr(
        distillation, "reconstruct", lambda *given, **options: times.append(1) or begun(*given, **options)
    )
    # The last one would spoil any network.
    tries = ["--try", "lr=0.02", "--try", "lr=3e-3,steps=3,small=none", "--try", "made=none,batch=3,lr=1e3"]
    assert fewshot.main([*command, *tries, "--held-out", "--json", str(reports[1])]) == 0
    assert len(times) == 1
    alone, found = (json.loads(path.read_text()) for path in reports)
    assert "tries" not in alone
    rows = found["tries"]
    assert [row["steps"] for row in rows] == [2, 3, 2]
    assert [(row["small"], row["made"]) for row in rows] == [(True, True), (False, True), (True, False)]
    # What a try gives does not depend on those before it.
    assert rows[0]["losses"] == alone["losses"] != rows[1]["losses"]
    assert rows[0]["distilled"] == alone["distilled"]
    least = min(rows, key=lambda row: row["distilled"]["held out, divergence"])
    assert least is not rows[2]
    assert found["distilled"] == least["distilled"]
    assert (found["lr"], found["steps"], found["losses"]) == (least["lr"], least["steps"], least["losses"])
    assert (found["small_images"], found["made_images"]) == (13 if least["small"] else 0, 4 if least["made"] else 0)
    for given, message in (
        (["--try", "lr=1"], "--try must be given with --held-out: settings are not chosen by odd classes"),
        (["--held-out", "--try", "batch=2"], "--batch must be 3 or more, one of each kind of pictures, not 2"),
    ):
        assert fewshot.main([*command, *given]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("text", ["lr", "lr=x", "bits=2", "lr=1=2", "lr=1,lr=2", "batch=0", "small=1", ""])
def test_tries_change_what_layers_do_not_depend_on(text: str, refused: Refused) -> None:
    error = refused(fewshot.main, ["mobilenetv2", "--images", "none", "-o", "none.msvq", "--try", text])
    names = "each NAME once, of steps, lr, batch, mix, features, small=none, made=none"
    assert f"argument --try: must be NAME=VALUE, several joined by commas, {names}, not {text!r}" in error


@pytest.mark.parametrize(
    ("option", "value", "wanted"),
    [
        ("lr", "0", "above 0"),
        ("lr", "nan", "above 0"),
        ("lr", "inf", "above 0"),
        ("mix", "1.5", "0..1"),
        ("mix", "nan", "0..1"),
        ("features", "-1", "0 or more"),
        ("features", "inf", "0 or more"),
        ("bits", "0", "above 0"),
        ("bits", "nan", "above 0"),
        ("steps", "-1", "0 or more"),
    ],
)
def test_settings_of_distillation_are_checked_first(
    option: str, value: str, wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ways = [[f"--{option}", value]]
    if option in ("lr", "mix", "features"):
        ways.append(["--held-out", "--try", f"{option}={value}"])
    for given in ways:
        assert fewshot.main(["mobilenetv2", "--images", "none", "-o", "none.msvq", *given]) == 2
        assert f"--{option} must be {wanted}, not {value}" in capsys.readouterr().err


def test_reports_have_a_directory(tmp_path: Path, refused: Refused) -> None:
    for report in (tmp_path / "none" / "report.json", tmp_path):
        given = ["mobilenetv2", "--images", "none", "-o", "none.msvq", "--json", str(report)]
        message = f"argument --json: must be a file in a directory that is there, not {str(report)!r}"
        assert message in refused(fewshot.main, given)


def test_what_a_try_leaves_out_must_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("small", "made"):
        given = ["--held-out", "--try", f"{kind}=none"]
        assert fewshot.main(["mobilenetv2", "--images", "none", "-o", "none.msvq", *given]) == 2
        assert f"--try {kind}=none must be given with --{kind}, which it leaves out" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--limit", "--batch"])
def test_numbers_of_images_are_at_least_one(option: str, refused: Refused) -> None:
    error = refused(fewshot.main, ["mobilenetv2", "--images", "none", "-o", "none.msvq", option, "0"])
    assert f"argument {option}: must be an integer of at least 1, not '0'" in error


def test_small_pictures_are_enlarged() -> None:
    small = Mosaic(np.full((5, 16, 16, 3), 255, np.uint8), NETWORK, "cpu")
    views = small.views(6, torch.Generator().manual_seed(0), 32)
    assert views.shape == (6, 3, 32, 32)
    # White, but for the random contrast and brightness of each view.
    assert torch.allclose(views, views[:, :1, :1, :1].expand_as(views), atol=1e-5)


@pytest.mark.parametrize("mirrored", [False, True])
def test_copies_are_no_more_pictures(mirrored: bool) -> None:
    pixels = (images(6, 2) * 40 + 128).clamp(0, 255)
    pictures = functional.interpolate(pixels[:, :, 1:31, 1:31], size=(16, 16), mode="area")
    if mirrored:
        pictures = pictures.flip(3)
    found = pictures.to(torch.uint8).permute(0, 2, 3, 1).numpy()
    known = normalised(pixels[3:].to(torch.uint8).permute(0, 2, 3, 1).numpy(), NETWORK)
    assert unlike(found, known).tolist() == [True, True, True, False, False, False]


def test_files_say_what_their_images_are_like() -> None:
    """EfficientNet-Lite0's are not ImageNet's mean and deviation: measured with those, a file has another accuracy."""
    lite, mobile = (distillation.NETWORKS[name].preprocessing for name in fewshot.NETWORKS)
    assert lite == Preprocessing((127 / 255,) * 3, (128 / 255,) * 3, "bicubic")
    assert mobile == Preprocessing()


def test_mobilenet_has_its_weights_by_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sum(p.numel() for p in ImageNetMobileNetV2().parameters()) == 3_504_872
    path = folder(tmp_path / "images", range(2))
    assert fewshot.main(["mobilenetv2", "--images", str(path), "-o", str(tmp_path / "out")]) == 2
    assert "network mobilenetv2 needs --weights: a state dict with torchvision's names" in capsys.readouterr().err


def test_the_best_choice_at_any_price_of_a_bit_is_on_the_edge() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2, 30):
        own = [
            (int(bits), float(loss)) for bits, loss in zip(rng.integers(1, 20, count), rng.random(count), strict=True)
        ]
        edge = allocation._edge(own)
        assert [own[i][0] for i in edge] == sorted({own[i][0] for i in edge})
        for price in (0.0, *np.logspace(-6, 1, 200)):
            least = min(loss + price * bits for bits, loss in own)
            assert min(own[i][1] + price * own[i][0] for i in edge) == pytest.approx(least, abs=1e-12)


def test_bits_go_where_they_win_most() -> None:
    choices = {
        "much": [(10, 8.0), (20, 2.0), (40, 0.5)],
        "little": [(10, 1.0), (20, 0.6), (40, 0.5)],
        "dominated": [(10, 1.0), (20, 2.0), (40, 0.9)],
    }

    def loss(found: dict[str, int]) -> float:
        return sum(choices[name][number][1] for name, number in found.items())

    def bits(found: dict[str, int]) -> int:
        return sum(choices[name][number][0] for name, number in found.items())

    every = [dict(zip(choices, chosen, strict=True)) for chosen in itertools.product(range(3), repeat=3)]
    for room in range(30, 121):
        found = cheapest(choices, room)
        assert bits(found) <= room
        assert loss(found) <= 1.2 * min(loss(other) for other in every if bits(other) <= room)
    assert cheapest(choices, 120) == {"much": 2, "little": 2, "dominated": 2}
    with pytest.raises(ValueError, match="room must be 30 bits at least, not 29"):
        cheapest(choices, 29)


def bits_of(recipes: dict[str, Recipe], sources: list[LayerSource], begin: str) -> int:
    """Of the layers whose names begin so."""
    return sum(recipe_bits(s.weight.size, recipes[s.name]).total for s in sources if s.name.startswith(begin))


@pytest.mark.whole
def test_a_layer_that_matters_more_gets_more_bits(teacher: nn.Module) -> None:
    model = copy.deepcopy(teacher)
    coded = [source for source in module_sources(model)[1:] if source.groups == 1]
    room = 3 * sum(source.weight.size for source in coded)
    lines: list[str] = []
    found = allocate(model, images(60, 0), coded, Recipe("ssvq", 2, 8, 0, 0), room, report=lines.append)
    assert set(found) == {source.name for source in coded}
    assert sum(recipe_bits(source.weight.size, found[source.name]).total for source in coded) <= room
    assert len(lines) == 2 * len(coded)
    # At a bit, the large ones here have no signs.
    few = int(1.3 * sum(source.weight.size for source in coded))
    own = allocate(model, images(60, 0), coded, Recipe("ssvq", 2, 8, 0, 0), few)
    assert {recipe.method for recipe in own.values()} == {"ssvq", "vq"}
    # The network is as it was.
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), teacher.parameters(), strict=True))
    # What a block's results do not reach says nothing of the bits.
    with torch.no_grad():
        model.blocks[1].layers[-1].weight.zero_()  # type: ignore[union-attr,index]
    less = allocate(model, images(60, 0), coded, Recipe("ssvq", 2, 8, 0, 0), room)
    assert bits_of(less, coded, "blocks.1") < bits_of(found, coded, "blocks.1")


def test_divergences_are_of_images_alone(teacher: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else codes are made with: of other pictures, a network says little."""
    coded = [source for source in module_sources(teacher)[1:] if source.name == "linear"]
    measured: list[Tensor] = []
    made: list[int] = []

    def sensitivity(model: nn.Module, layers: Any, shown: Tensor, **options: Any) -> dict[str, float]:
        measured.append(shown)
        return {"linear": 1.0}

    monkeypatch.setattr(allocation, "loss_sensitivity", sensitivity)
    hessians = allocation._hessians
    monkeypatch.setattr(
        allocation, "_hessians", lambda model, names, shown: made.append(len(shown)) or hessians(model, names, shown)
    )
    own = images(20, 0)
    allocate(teacher, own, coded, Recipe("ssvq", 2, 8, 0, 0), 2000, others=images(30, 1))
    assert made == [16 + 30]
    assert torch.equal(measured[0], own[::5])


def test_plain_layers_move_where_signs_stay_put(teacher: nn.Module) -> None:
    model = copy.deepcopy(teacher)
    coded = [source.name for source in module_sources(model)[1:] if source.groups == 1]
    recipes = {name: Recipe("vq" if name == "linear" else "ssvq", 8, 8, 0, 0) for name in coded}
    layers, latents = reconstruct(model, images(60, 0), recipes)
    start(model, layers, latents, moving=False, move_plain=True)
    kinds = {module.name: type(module.decoder) for _, module in decoded_layers(model) if module.name in latents}
    assert kinds == {name: MovingDecoder if name == "linear" else CodebookDecoder for name in coded}


@pytest.mark.whole
def test_block_outputs_are_learned(teacher: nn.Module) -> None:
    """Nearer to the network's, by the errors that are added."""
    model = copy.deepcopy(teacher)
    layers, latents = reconstruct(model, images(60, 0), recipes_of(model, Recipe("ssvq", 8, 8, 0, 0)))
    start(model, layers, latents, moving=False)
    begin = quantise_activations(model).eval()
    calibrate(begin, images(60, 0))
    names = handed_on(begin)
    assert names == ["blocks.0.layers.7", "blocks.1.layers.7"]

    def error(features: float) -> float:
        graph = copy.deepcopy(begin)
        distil(graph, teacher, shown(60, 0), steps=40, lr=2e-3, mix=0.3, features=features)
        assert not any(module._forward_hooks for module in (*graph.modules(), *teacher.modules()))
        seen: dict[nn.Module, Tensor] = {}
        for network in (graph, teacher):
            module = network.get_submodule(names[1])
            handle = module.register_forward_hook(lambda m, given, result, n=network: seen.__setitem__(n, result))
            with torch.no_grad():
                network(images(60, 1))
            handle.remove()
        return float((seen[graph] - seen[teacher]).square().mean() / seen[teacher].var())

    assert error(3.0) < error(0.0)


@CUDA
def test_replayed_steps_are_those_of_an_eager_run(teacher: nn.Module) -> None:
    model = copy.deepcopy(teacher)
    layers, latents = reconstruct(model, images(60, 0), recipes_of(model, Recipe("ssvq", 8, 8, 0, 0)))
    start(model, layers, latents, moving=True)
    begin = quantise_activations(model).eval()
    calibrate(begin, images(60, 0))
    sources = [Whole(shown(60, 0)[0].pictures.numpy(), NETWORK, "cuda")]
    losses = [
        distil(
            copy.deepcopy(begin).cuda(),
            copy.deepcopy(teacher).cuda(),
            sources,
            steps=40,
            lr=2e-3,
            device="cuda",
            capture=capture,
        )[0]
        for capture in (False, True)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
