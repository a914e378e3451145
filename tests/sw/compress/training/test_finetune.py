from __future__ import annotations

import dataclasses
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import msvq
from sim.networks.definitions import DeiT
from sw.compress.__main__ import main as compress_main
from sw.compress.commands.finetune import main
from sw.compress.commands.options import DEFAULTS
from sw.compress.methods import CompressError, Recipe
from sw.compress.network import module_sources
from sw.compress.search import SLACK
from sw.compress.split import split_modules
from sw.compress.training import finetune as module
from sw.compress.training.data import load_data
from sw.compress.training.finetune import (
    Finetuning,
    finetune,
    method_rules,
    prepare,
    to_integers,
)
from sw.compress.training.freezing import Freezing
from sw.compress.training.graph import quantise_inputs
from sw.compress.training.integer import read_network
from sw.compress.training.loop import TrainConfig, images_of
from sw.compress.training.modules import compressed_layers, load_layers
from sw.format.container import read_container
from tests.refusals import Refused, refusals
from tests.sw.devices import DEVICES


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, 1, 1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 32, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 4),
    )


class Gelu(nn.Module):
    """Not in integers, and torch.fx cannot trace it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.wide, self.head = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 32), nn.Linear(32, 4)

    def forward(self, images: Tensor) -> Tensor:
        values = self.patches(images).flatten(2).mean(2)
        if values.isnan().any():
            raise ValueError("NaN")
        return self.head(nn.functional.gelu(self.wide(values)))


def images(count: int, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Red, green, blue or dark, which is the label."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, count)
    values = rng.integers(0, 80, (count, 8, 8, 3))
    for image, label in zip(values, labels, strict=True):
        image[..., label : label + 1] += 150
    return values.astype(np.uint8), labels


class Named(nn.Sequential):
    """Returns a dict, as networks of some packages do."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 8), nn.Flatten())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"logits": super().forward(images)}


class Encoder(nn.Module):
    """With torch's own attention and encoder layer, and a convolution of one axis; not in integers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.mix = nn.Conv1d(24, 32, 2, 2), nn.TransformerEncoderLayer(32, 2, 64, batch_first=True)
        self.head = nn.Linear(32, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.mix(self.patches(images.flatten(1, 2)).transpose(1, 2)).mean(1))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("data") / "toy.npz"
    (train, train_labels), (test, test_labels) = images(64, 0), images(32, 1)
    np.savez(path, train_images=train, train_labels=train_labels, test_images=test, test_labels=test_labels)
    return str(path)


@pytest.fixture(autouse=True)
def networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importable as ``users``."""
    users = types.ModuleType("users")
    users.network, users.gelu, users.encoder = network, Gelu, Encoder  # type: ignore[attr-defined]
    users.few = lambda: nn.Sequential(nn.Conv2d(3, 16, 8), nn.Flatten(), nn.Linear(16, 3))  # type: ignore[attr-defined]
    users.large = lambda: nn.Sequential(nn.Conv2d(3, 16, 9), nn.Flatten(), nn.Linear(16, 4))  # type: ignore[attr-defined]
    users.flat = lambda: nn.Sequential(nn.Conv2d(3, 4, 8))  # type: ignore[attr-defined]
    users.named = Named  # type: ignore[attr-defined]
    users.random = lambda: nn.Sequential(nn.Conv2d(3, 16, 8), nn.Flatten(), nn.Linear(16, 4))  # type: ignore[attr-defined]
    users.vit = lambda: DeiT(size=8, patch=4, width=16, heads=2, depth=1, classes=4)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "users", users)


# Four steps: on a GPU, the fourth is the first that is recorded and replayed.
CONFIG = TrainConfig(2, 32, crop=0, threads=1)
SMALL = {
    "mvq": Recipe("mvq", 8, 16, 4, 16),
    "msvq": Recipe("msvq", 4, 16, 4, 16),
    "ssvq": Recipe("ssvq", 4, 8, 0, 0),
    "vq": Recipe("vq", 8, 8, 0, 0),
    "pqf": Recipe("pqf", 8, 8, 0, 0),
    "dkm": Recipe("dkm", 8, 8, 0, 0),
    "crosslayer": Recipe("mvq", 16, 16, 4, 16, scope="crosslayer"),
    **{name: Recipe(name) for name in ("lsq2", "lsq3", "lsq4", "int8")},
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", SMALL)
def test_every_method_goes_the_same_way(name: str, device: str, data: str, tmp_path: Path) -> None:
    recipe, model = SMALL[name], network()
    job = Finetuning(method_rules(module_sources(model), recipe), CONFIG, freezing=Freezing(1))
    parts = [load_data(data, split) for split in ("train", "test")]
    done = finetune(model, *parts, job, device=device, progress=False)
    methods = [(layer.method, layer.weight_bits) for layer in done.layers]
    assert methods == [("int8", 8), *[(recipe.stored, recipe.weight_bits)] * 2, ("int8", 8)]
    done.write(tmp_path / "network")
    assert done.network is not None
    restored = read_network(tmp_path / "network")
    values = restored.quantise(torch.randn(3, 3, 8, 8))
    assert torch.equal(restored.run(values), done.network.run(values))
    report = done.report
    assert report["golden_logits_equal"]
    assert abs(report["accuracy_integers"] - report["accuracy_trained"]) < 15
    assert report["no_integer_form"] is None
    assert ("frozen_signs" in report) == (name in ("ssvq", "msvq"))
    json.dumps(report, allow_nan=False)


@pytest.mark.parametrize(
    "compute",
    [nn.utils.weight_norm, lambda layer: nn.utils.prune.l1_unstructured(layer, "weight", 0.3)],  # type: ignore[attr-defined,no-untyped-call]
    ids=["weight norm", "pruned"],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_sparse_training_of_a_computed_weight(compute: Callable[[nn.Module], Any], data: str) -> None:
    """Torch lets none of these be a parametrisation as well."""
    model = network()
    compute(model[2])
    sparse = dataclasses.replace(CONFIG, epochs=1)
    job = Finetuning(method_rules(module_sources(model), SMALL["msvq"]), sparse, sparse=sparse)
    done = finetune(model, *(load_data(data, split) for split in ("train", "test")), job, progress=False)
    assert len(done.report["sparse_losses"]) == 1
    assert (done.layers[1].name, done.layers[1].method) == ("2", "msvq")


def test_training_that_diverged_says_so(data: str) -> None:
    model = network()
    config = dataclasses.replace(CONFIG, epochs=1, epoch_steps=1, optimiser="adamw", lr=1e6)
    job = Finetuning(method_rules(module_sources(model), SMALL["msvq"]), config)
    parts = [load_data(data, split) for split in ("train", "test")]
    with pytest.raises(CompressError, match="after the training, which diverged: lower the rate"):
        finetune(model, *parts, job, progress=False)


def test_training_is_worth_it(data: str) -> None:
    model = network()
    parts = [load_data(data, split) for split in ("train", "test")]
    config = TrainConfig(50, 32, lr=0.01, crop=0, threads=1)
    job = Finetuning([("*", Recipe("mvq", 8, 16, 4, 16))], config)
    report = finetune(model, *parts, job, progress=False).report
    assert report["accuracy_integers"] > 85 > 50 > report["accuracy_float"]


@pytest.mark.parametrize("name", ["msvq", "dkm", "lsq4"])
def test_what_is_not_to_be_trained_stays(name: str, data: str) -> None:
    """The first convolution and its bias, and one that is coded and whose weight is computed from two parameters."""

    def frozen() -> nn.Module:
        model = network()
        nn.utils.parametrizations.weight_norm(model[2])
        for number in (0, 2):
            model[number].requires_grad_(False)
        return model

    parts = [load_data(data, split) for split in ("train", "test")]
    rules = method_rules(module_sources(frozen()), SMALL[name])
    config = dataclasses.replace(CONFIG, lr=0.05)
    done = finetune(frozen(), *parts, Finetuning(rules, config, freezing=Freezing(1)), progress=False)
    start, _ = prepare(frozen(), rules, next(images_of(parts[0], "cpu"))[0], progress=False)
    stayed = [
        bool(np.array_equal(before.integer_weights(), after.integer_weights()) and (before.scale == after.scale).all())
        for before, after in zip(compressed_layers(start), done.layers, strict=True)
    ]
    assert stayed == [True, True, False, False]
    assert torch.equal(done.model.get_parameter("0.bias"), network()[0].bias)


@pytest.mark.parametrize("bits", [8, 7])
def test_frozen_and_trained_layers_share_no_codebook(data: str, bits: int) -> None:
    model = network()
    model[2].requires_grad_(False)
    parts = [load_data(data, split) for split in ("train", "test")]
    rules = [
        (name, dataclasses.replace(recipe, uniform_bits=bits) if name == "5" else recipe)
        for name, recipe in method_rules(module_sources(model), SMALL["crosslayer"])
    ]
    job = Finetuning(rules, CONFIG)
    with pytest.raises(CompressError, match=r"layer '2' has requires_grad=False, and shares a codebook with '5'"):
        finetune(model, *parts, job, progress=False)


def test_a_network_without_anything_to_train_is_refused(data: str) -> None:
    model = network().requires_grad_(False)
    parts = [load_data(data, split) for split in ("train", "test")]
    with pytest.raises(CompressError, match="every parameter has requires_grad=False, so there is nothing to train"):
        finetune(model, *parts, Finetuning([("*", Recipe("int8"))], CONFIG), progress=False)
    for bare in (torch.nn.Flatten(), torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Flatten())):
        with pytest.raises(
            CompressError, match="the network must have at least one convolution or linear layer, not 0"
        ):
            finetune(bare, *parts, Finetuning([], CONFIG), progress=False)


def test_search_counts_a_layer_that_is_called_twice_as_the_file_has_it(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.again, self.head = nn.Conv2d(3, 32, 4, 4), nn.Conv2d(32, 32, 3, 1, 1), nn.Linear(32, 4)

        def forward(self, images: Tensor) -> Tensor:
            values = self.first(images).relu()
            for _ in range(2):
                values = self.again(values).relu()
            return self.head(values.mean((2, 3)))

    monkeypatch.setattr(sys.modules["users"], "twice", Twice, raising=False)
    rules, output = tmp_path / "rules.json", tmp_path / "net.msvq"
    common = ["users:twice", "--data", data, "--quiet"]
    budget = 9000
    assert compress_main(["search", *common, "--bytes", str(budget), "-o", str(rules)]) == 0
    planned = int(capsys.readouterr().out.split(" bytes of ")[0].split()[-1])
    assert {rule["layer"] for rule in json.loads(rules.read_text())["rules"]} == {"first", "again", "head"}
    assert main([*common, "--rules", str(rules), "-o", str(output), "--epochs", "1", "--batch", "32"]) == 0
    assert abs(planned - output.stat().st_size) <= SLACK
    assert output.stat().st_size <= budget
    assert [layer.name for layer in read_container(output).layers] == ["first", "again", "again_call2", "head"]


def arguments(data: str, output: Path, *more: str) -> list[str]:
    return [
        *("users:network", "--data", data, "-o", str(output), "--quiet"),
        *("--method", "msvq", "--k", "4", "--epochs", "2", "--batch", "32", "--crop", "0", "--threads", "1"),
        *("--sparse", "sr-ste", "--sparse-epochs", "2", "--freeze-interval", "1"),
        *more,
    ]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("stage", ["sparse", "finetune"])
def test_interrupted_and_called_again_gives_the_same_bytes(
    stage: str,
    device: str,
    data: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    on = ["--device", device]
    assert main(arguments(data, tmp_path / "straight", *on, "--json", str(tmp_path / "straight.json"))) == 0
    work = [*on, "--work", str(tmp_path / "work")]
    real: Callable[..., list[float]] = module.fit

    def interrupted(*given: Any, checkpoint: Path, **keywords: Any) -> list[float]:
        def stop(step: int) -> None:
            if step == 3 and checkpoint.stem == stage:
                raise KeyboardInterrupt

        calls = [*keywords.pop("after_step", ()), stop]
        return real(*given, checkpoint=checkpoint, **keywords | {"every": 1, "after_step": calls})

    with monkeypatch.context() as patch:
        patch.setattr(module, "fit", interrupted)
        assert main(arguments(data, tmp_path / "resumed", *work)) == 130
    assert "interrupted; the same command goes on" in capsys.readouterr().err
    assert not (tmp_path / "resumed").exists()
    assert main(arguments(data, tmp_path / "resumed", *work)) == 0
    assert (tmp_path / "resumed").read_bytes() == (tmp_path / "straight").read_bytes()
    # Once more, all is there already.
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *_: pytest.fail("trained again"))
    assert main(arguments(data, tmp_path / "again", *work)) == 0
    assert (tmp_path / "again").read_bytes() == (tmp_path / "straight").read_bytes()
    assert main(arguments(data, tmp_path / "other", *work, "--lr", "0.5")) == 2
    assert "must be new or of the same job" in capsys.readouterr().err
    report = json.loads((tmp_path / "straight.json").read_text())
    assert report["bytes"] == (tmp_path / "straight").stat().st_size
    assert report["ratio"] == 4 * report["weights"] / report["bytes"]
    assert len(report["losses"]) == len(report["sparse_losses"]) == 2


@pytest.mark.parametrize("device", DEVICES)
def test_a_vision_transformer_becomes_a_network_in_steps(
    device: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, plan = tmp_path / "vit", tmp_path / "plan.json"
    search = ["search", "users:vit", "--data", data, "--images", "16", "--bytes", "9500", "-o", str(plan), "--quiet"]
    assert compress_main([*search, "--device", device, "--keep", "patch_embed*", "head"]) == 0
    command = ["users:vit", "--data", data, "-o", str(output), "--json", str(tmp_path / "report"), "--quiet"]
    command += ["--rules", str(plan), "--epochs", "2", "--batch", "32", "--crop", "0", "--threads", "1"]
    assert main([*command, "--device", device]) == 0
    assert "no integer form" not in capsys.readouterr().out
    report = json.loads((tmp_path / "report").read_text())
    assert report["no_integer_form"] is None
    assert report["golden_logits_equal"]
    assert abs(report["accuracy_integers"] - report["accuracy_trained"]) < 15
    assert read_network(output).image_shape == (3, 8, 8)
    assert 9000 < output.stat().st_size == report["bytes"] <= 9500


def test_what_only_looks_like_a_vision_transformer_has_no_integer_form(data: str) -> None:
    model = DeiT(size=8, patch=4, width=16, heads=2, depth=1, classes=4)
    model.blocks[0].norm1.forward = lambda values: values.sum()  # type: ignore[method-assign, union-attr]
    model.forward = lambda images: model.head(images.mean((2, 3)).repeat(1, 6)[:, :16])  # type: ignore[method-assign]
    images = torch.randn(4, 3, 8, 8)
    compressed, reason = prepare(model, [], images, progress=False)
    with pytest.raises(CompressError, match="nor is it such a vision transformer: "):
        to_integers(compressed, reason or "", images)


@pytest.mark.parametrize("device", DEVICES)
def test_network_without_integer_form(
    device: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / name for name in ("layers", "report", "rest")]
    command = ["users:gelu", "--data", data, "-o", str(paths[0]), "--json", str(paths[1]), "--rest", str(paths[2])]
    command += ["--method", "ssvq", "--k", "4", "--epochs", "2", "--batch", "32", "--crop", "0", "--quiet"]
    # It asks for a tensor's value, which no CUDA graph can.
    assert main([*command, "--device", device, "--eager", "--threads", "1"]) == 0
    assert "no integer form: " in capsys.readouterr().out
    report = json.loads(paths[1].read_text())
    assert "accuracy_integers" not in report
    # The container and the rest together are the network.
    model = Gelu()
    layers = read_container(paths[0]).layers
    assert [layer.method for layer in layers] == ["int8", "ssvq", "int8"]
    load_layers(model, layers)
    quantise_inputs(model)
    model.load_state_dict(torch.load(paths[2], weights_only=True), strict=False)
    test = load_data(data, "test")
    assert module.accuracy(model.to(device), test, device=device) == report["accuracy_trained"]


def test_search_counts_all_that_a_file_of_layers_alone_has(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules, output, budget = tmp_path / "rules.json", tmp_path / "net.msvq", 8000
    common = ["users:encoder", "--data", data, "--quiet", "--layers-alone", "--device", "cpu"]
    assert compress_main(["search", *common, "--bytes", str(budget), "-o", str(rules)]) == 0
    planned = int(capsys.readouterr().out.split(" bytes of ")[0].split()[-1])
    assert main([*common, "--rules", str(rules), "-o", str(output), "--epochs", "1", "--batch", "32"]) == 0
    assert output.stat().st_size == planned <= budget


def test_an_encoder_of_torch_is_compressed_whole(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / name for name in ("layers", "report", "rest")]
    command = ["users:encoder", "--data", data, "-o", str(paths[0]), "--json", str(paths[1]), "--rest", str(paths[2])]
    command += ["--method", "msvq", "--k", "4", "--d", "16", "--sparse", "sr-ste", "--sparse-epochs", "1"]
    command += ["--epochs", "2", "--batch", "32", "--crop", "0", "--quiet", "--device", "cpu", "--threads", "1"]
    assert main(command) == 0
    output = capsys.readouterr().out
    assert "the file has the 9,856 weights of its layers, that of finetune's --rest all else: " in output
    assert "most of them in mix.self_attn.in_proj.bias, mix.linear1.layer.bias, " in output
    layers = read_container(paths[0]).layers
    assert {layer.name: layer.method for layer in layers} == {
        "patches": "int8",
        "mix.self_attn.in_proj": "msvq",
        "mix.self_attn.out_proj": "msvq",
        "mix.linear1": "msvq",
        "mix.linear2": "msvq",
        "head": "int8",
    }
    assert read_container(paths[0]).metadata["conv1d"] == ["patches"]
    weights, own = msvq.decompress(paths[0]), Encoder().state_dict()
    assert weights["patches.weight"].shape == own["patches.weight"].shape == (32, 24, 2)
    model = Encoder()
    split_modules(model)
    load_layers(model, layers)
    quantise_inputs(model)
    model.load_state_dict(torch.load(paths[2], weights_only=True), strict=False)
    test = load_data(data, "test")
    assert module.accuracy(model, test) == json.loads(paths[1].read_text())["accuracy_trained"]


def test_a_network_that_starts_at_random_gives_the_same_bytes(data: str, tmp_path: Path) -> None:
    written = []
    for start, seed in ((1, "0"), (2, "0"), (3, "1")):
        torch.manual_seed(start)
        command = ["users:random", "--data", data, "-o", str(tmp_path / "network"), "--quiet", "--device", "cpu"]
        command += ["--method", "int8", "--epochs", "1", "--batch", "32", "--crop", "0", "--threads", "1"]
        command += ["--seed", seed]
        assert main(command) == 0
        written.append((tmp_path / "network").read_bytes())
    assert written[0] == written[1] != written[2]


def test_rules_of_a_file(data: str, tmp_path: Path) -> None:
    rules = {"rules": [{"layer": "2", "recipe": {"method": "lsq2"}}, {"pattern": "*", "recipe": {"method": "lsq4"}}]}
    (tmp_path / "rules.json").write_text(json.dumps(rules))
    command = ["users:network", "--data", data, "-o", str(tmp_path / "o"), "--rules", str(tmp_path / "rules.json")]
    assert main([*command, "--epochs", "1", "--batch", "32", "--device", "cpu", "--quiet", "--images", "32"]) == 0
    assert [layer.weight_bits for layer in read_container(tmp_path / "o").layers] == [4, 2, 4, 4]


@refusals(
    """
    --nm 4 -> --nm must be N:M, such as 4:16, not '4'
    --images 0 -> --images must be at least 1, not 0
    --json o -> -o, --json and --rest must name different files
    --k 0 -> k must be an integer in 1..65536, not 0
    --codeword-bits 12 -> codeword_bits must be an integer in 2..8, not 12
    --uniform-bits 3 -> uniform_bits must be an integer in 5..8, not 3
    --rules x --uniform-bits 7 -> --uniform-bits must not be given with --rules, which has recipes
    --rules x --codeword-bits 4 -> --codeword-bits must not be given with --rules, which has recipes
    --epochs 0 -> epochs must be an integer of at least 1, not 0
    --alpha nan -> alpha must be finite and positive, not nan
    --work '' -> --work must name a directory, not ''
    --rest '' -> --rest must name a file, not ''
    --batch 65 -> batch must be at most the 64 images, not 65
    --method vq --sparse asp -> sparse training needs a layer of method mvq or msvq
    --rules nowhere -> cannot read rules 'nowhere'
    --weights nowhere -> cannot read checkpoint 'nowhere'
    --keep 0 stem* -> keep must match a layer, not 'stem*'; layers are 0, 2, 5, 9
    --device tpu -> device must be cpu, cuda or cuda:N, not 'tpu'
    --device cuda:99 -> device 'cuda:99' is not there: PyTorch sees
    """
)
def test_bad_options_are_one_line_and_status_2(
    arguments: list[str],
    message: str,
    data: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refused: Refused,
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["users:network", "--data", data, "-o", "o", "--device", "cpu", "--quiet", *arguments]
    assert message in refused(main, given)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["finetune", "search"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("few", "the network must have at least the 4 classes of the data, not 3"),
        ("large", "the network must take images [3, 8, 8] in float32: RuntimeError: "),
        ("flat", "the network must return logits [2, classes], not [2, 4, 1, 1]"),
        ("named", "the network must return logits [2, classes], not dict"),
    ],
)
def test_a_network_that_does_not_fit_the_data(
    command: str, name: str, message: str, data: str, tmp_path: Path, refused: Refused
) -> None:
    more = ["--bytes", "9999"] if command == "search" else ["--work", str(tmp_path / "work")]
    given = [command, f"users:{name}", "--data", data, "-o", str(tmp_path / "o"), "--device", "cpu", "--quiet", *more]
    assert message in refused(compress_main, given)
    assert not list(tmp_path.iterdir())


def test_search_refuses_a_device_before_it_measures(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["search", "users:network", "--data", data, "--bytes", "9999", "--device", "tpu", "--quiet"]
    assert compress_main(command) == 2
    assert "device must be cpu, cuda or cuda:N, not 'tpu'" in capsys.readouterr().err


def test_help_describes_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["-h"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--warmup WARMUP Epochs, also in part (default: 0.0)" in text
    assert "--sign-lr SIGN_LR Of codebooks and of latent signs, as a factor of lr (default: 1.0)" in text
    for field in dataclasses.fields(TrainConfig):
        name = field.name.upper()
        assert f"{name} (default" not in text


def test_defaults_are_recipes() -> None:
    for method, values in DEFAULTS.items():
        assert Recipe(method, *values).k == values[0]


def test_a_directory_of_something_else(data: str, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text("{")
    parts = [load_data(data, split) for split in ("train", "test")]
    with pytest.raises(CompressError, match=r"cannot read .*job.json"):
        finetune(network(), *parts, Finetuning([], CONFIG), work=tmp_path, progress=False)
