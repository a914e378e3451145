"""Losses, loaders and metrics of the user's own: networks with several outputs, tokens, regression, and refusals."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import msvq
from sw.compress.methods import CompressError, Recipe
from sw.compress.training.batches import Batches, check_metric, default_loss, measured, structured
from sw.compress.training.data import ImageData
from sw.compress.training.loop import fit
from sw.compress.training.settings import TrainConfig
from tests.sw.devices import DEVICES

RULES = [("stem*", Recipe("int8")), ("*", Recipe("msvq", k=8, d=8, n=4, m=8))]
FAST = TrainConfig(2, lr=1e-3, threads=1)


class Seen(nn.Module):
    """Maps and a class of an image: two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.body = nn.Conv2d(16, 16, 3, padding=1)
        self.maps = nn.Conv2d(16, 3, 1)
        self.head = nn.Linear(16, 4)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        found = functional.relu(self.body(functional.relu(self.norm(self.stem(image)))))
        return {"maps": self.maps(found), "scene": self.head(found.mean((2, 3)))}


def scenes() -> DataLoader[Any]:
    torch.manual_seed(0)
    images = torch.randn(24, 3, 8, 8)
    parts = [{"image": image, "mask": image.argmax(0), "scene": int(image.mean() > 0)} for image in images]
    return DataLoader(parts, batch_size=8, shuffle=True)  # type: ignore[arg-type]


def both(output: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
    weights = torch.tensor([1.0, 2.0, 1.0], device=batch["mask"].device)
    return functional.cross_entropy(output["maps"], batch["mask"], weights) + functional.cross_entropy(
        output["scene"], batch["scene"]
    )


def right_pixels(output: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
    return (output["maps"].argmax(1) == batch["mask"]).float().mean((1, 2))


@pytest.mark.parametrize("device", DEVICES)
def test_two_outputs_of_a_dictionary(device: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = Seen().eval()
    given = model, scenes(), scenes(), RULES, TrainConfig(4, lr=3e-3)
    done = msvq.finetune(*given, loss=both, metric=right_pixels, device=device, progress=False)
    assert done.network is not None
    assert [output.name for output in done.network.outputs] == ["maps", "scene"]
    assert done.report["losses"][-1] < done.report["losses"][0]
    assert done.report["metric_trained"] > done.report["metric_clustered"]
    assert done.report["metric_integers"] == pytest.approx(done.report["metric_trained"], abs=0.02)
    done.write(tmp_path / "net.msvq")
    images: dict[str, Any] = {"metric": right_pixels, "inputs": lambda batch: batch["image"], "device": device}
    found = msvq.evaluate(tmp_path / "net.msvq", scenes(), **images, progress=False)
    assert found == {"images": 24, "metric": pytest.approx(done.report["metric_integers"])}
    with pytest.raises(CompressError, match="one of them must be chosen, or a metric of all given"):
        msvq.evaluate(tmp_path / "net.msvq", scenes(), progress=False)
    maps = msvq.evaluate(
        tmp_path / "net.msvq", [(b["image"], b["mask"]) for b in scenes()], output="maps", progress=False
    )
    assert maps["pixels"] == pytest.approx(100 * found["metric"])


class Gpt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(11, 16), nn.Embedding(6, 16)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 11)

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.embed(tokens) + self.place(torch.arange(tokens.shape[1], device=tokens.device))
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + self.out(functional.scaled_dot_product_attention(q, k, v, is_causal=True))
        if attention_mask is not None:
            x = x * attention_mask[..., None]
        return self.head(x + self.down(functional.gelu(self.up(x))))


def sentences(*names: str) -> DataLoader[Any]:
    rng = np.random.default_rng(0)
    start = torch.from_numpy(rng.integers(0, 11, (32, 1)))
    text = (start + 2 * torch.arange(7)) % 11
    rows = [
        {"tokens": row[:-1], "attention_mask": torch.ones(6), "next": row[1:], "title": f"row {i}"}
        for i, row in enumerate(text)
    ]
    return DataLoader([{name: row[name] for name in names} for row in rows], batch_size=8, shuffle=True)  # type: ignore[arg-type]


def test_a_language_model_on_tokens_of_a_dictionary() -> None:
    torch.manual_seed(0)
    loader = sentences("tokens", "attention_mask", "next", "title")

    def loss(output: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return functional.cross_entropy(output.flatten(0, 1), batch["next"].flatten())

    rules = [("head", Recipe("int8")), ("*", Recipe("ssvq", k=8, d=8, n=0, m=0))]
    with pytest.raises(CompressError, match=r"one input, images .* not tokens=int64 \[8, 6\], attention_mask=float32"):
        msvq.finetune(Gpt(), loader, loader, rules, FAST, loss=loss, progress=False)
    done = msvq.finetune(
        Gpt(), loader, loader, rules, TrainConfig(20, lr=1e-2), loss=loss, layers_alone=True, progress=False
    )
    assert done.network is None
    assert "attention_mask=float32" in done.report["no_integer_form"]
    assert done.report["loss_trained"] < 0.6 * done.report["loss_float"]
    assert {layer.name for layer in done.layers} == {"qkv", "out", "up", "down", "head"}
    pairs = [(batch["tokens"], batch["next"]) for batch in loader]
    plain = msvq.finetune(Gpt(), pairs, pairs, rules, FAST, layers_alone=True, progress=False)
    assert 0 <= plain.report["accuracy_trained"] <= 100
    found = msvq.calibrate(Gpt(), sentences("tokens"), rules, layers_alone=True, progress=False)
    assert found.report["images"] == 32
    assert found.report["error"] < 1


def test_regression_keeps_the_scale_of_its_values(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(16, 2)),
    )
    images = torch.randn(32, 1, 8, 8)
    targets = torch.stack([images.mean((1, 2, 3)), images.std((1, 2, 3))], 1)
    loader = DataLoader(TensorDataset(images, targets), batch_size=8)
    rules = [("0", Recipe("int8")), ("*", Recipe("msvq", k=8, d=8, n=4, m=8))]
    config = TrainConfig(10, lr=1e-2)
    done = msvq.finetune(model, loader, loader, rules, config, loss=nn.MSELoss(), progress=False)
    assert done.report["loss_integers"] == pytest.approx(done.report["loss_trained"], rel=0.2)
    assert done.report["loss_trained"] < 0.5 * done.report["loss_float"]
    done.write(tmp_path / "net.msvq")
    measured = msvq.evaluate(
        tmp_path / "net.msvq", loader, metric=lambda found, wanted: (found - wanted).square().mean(), progress=False
    )
    assert measured["metric"] == pytest.approx(done.report["loss_integers"])
    assert msvq.calibrate(model, images, rules, progress=False).network.outputs[0].scale is None  # type: ignore[union-attr]
    assert msvq.calibrate(model, images, rules, values=True, progress=False).network.outputs[0].scale  # type: ignore[union-attr]


class Ragged(Dataset[tuple[Tensor, int]]):
    def __len__(self) -> int:
        return 12

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        return torch.full((2 + number % 3, 4), number / 12), number % 2


class Pooled(nn.Module):
    """Of sequences of any length, with a mask of what counts: two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, rows: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        found = (functional.relu(self.first(rows)) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return self.last(found), found


def collated(samples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor, Tensor]:
    rows = nn.utils.rnn.pad_sequence([rows for rows, _ in samples], batch_first=True)
    mask = nn.utils.rnn.pad_sequence([torch.ones(len(rows)) for rows, _ in samples], batch_first=True)
    return rows, mask, torch.tensor([label for _, label in samples])


def test_a_collate_function_of_the_users_own_and_two_inputs() -> None:
    torch.manual_seed(0)
    loader = DataLoader(Ragged(), batch_size=4, shuffle=True, collate_fn=collated)
    rules = [("*", Recipe("vq", k=4, d=4, n=0, m=0))]

    def loss(output: tuple[Tensor, Tensor], label: Tensor) -> Tensor:
        return functional.cross_entropy(output[0], label) + 0.01 * output[1].square().mean()

    options: dict[str, Any] = {"loss": loss, "layers_alone": True, "progress": False}
    done = msvq.finetune(Pooled(), loader, loader, rules, FAST, **options)
    assert len(done.report["losses"]) == 2
    nested = [((rows, mask), label) for rows, mask, label in loader]
    msvq.finetune(Pooled(), nested, nested, rules, FAST, **options)


class Endless(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            values = torch.randn(4)
            yield values, values.sum()[None]


def line() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.1), nn.Linear(8, 1))


def test_a_loader_without_length() -> None:
    loader = DataLoader(Endless(), batch_size=4)
    with pytest.raises(CompressError, match=r"does not say how many batches .* set epoch_steps of TrainConfig"):
        fit(line(), loader, FAST, loss=nn.MSELoss(), progress=False)
    config = TrainConfig(2, epoch_steps=5, threads=1)
    runs = [fit(line(), loader, config, loss=nn.MSELoss(), progress=False) for _ in range(2)]
    assert len(runs[0]) == 2
    # What the data set draws follows from the seed.
    assert runs[0] == runs[1]


@pytest.mark.parametrize("own", [False, True])
def test_a_stopped_run_goes_on_with_the_same_bytes(tmp_path: Path, own: bool) -> None:
    torch.manual_seed(3)
    values = torch.randn(24, 4)
    generator = torch.Generator().manual_seed(5) if own else None
    loader = DataLoader(TensorDataset(values, values.sum(1, keepdim=True)), 4, shuffle=True, generator=generator)
    config = TrainConfig(3, threads=1)
    whole, stopped = line(), line()
    losses = fit(whole, loader, config, loss=nn.MSELoss(), progress=False)

    def stop(step: int) -> None:
        if step == 8:
            raise KeyboardInterrupt

    options: dict[str, Any] = {"loss": nn.MSELoss(), "progress": False, "checkpoint": tmp_path / "run.pt", "every": 1}
    # A notebook keeps the traceback, and so all that was in the midst of something.
    with pytest.raises(KeyboardInterrupt) as kept:
        fit(stopped, loader, config, after_step=[stop], **options)
    # Other draws in between do not count.
    torch.rand(3)
    again = line()
    assert fit(again, loader, config, **options) == losses
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert kept.traceback
    assert generator is None or torch.equal(generator.get_state(), torch.Generator().manual_seed(5).get_state())


def test_images_with_a_loss_and_weights_of_classes() -> None:
    rng = np.random.default_rng(0)
    data = ImageData(rng.integers(0, 256, (16, 3, 4, 4), np.uint8), rng.integers(0, 2, 16), 4)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 0.0]))
    losses = fit(model, data, TrainConfig(20, 8, lr=1e-2), loss=weighted, progress=False)
    assert losses[-1] < 0.1
    with pytest.raises(CompressError, match=r"mix must be 0 with a loss of your own, not 0\.5"):
        fit(model, data, TrainConfig(1, 8, mix=0.5), loss=weighted, progress=False)
    with pytest.raises(CompressError, match="inputs must be None with ImageData"):
        fit(model, data, TrainConfig(1, 8), inputs=lambda batch: batch, progress=False)


PAIRS = [(torch.randn(4, 4), torch.randn(4, 1))]


@pytest.mark.parametrize(
    ("loader", "loss", "message"),
    [
        (PAIRS, None, r"loss must be given: the network returns float32 \[4, 1\] and the target is float32 \[4, 1\]"),
        (PAIRS, "mse", "loss must be a function of the network's output and the target, not 'mse'"),
        (
            PAIRS,
            lambda output, target: (output.mean(), 1),
            r"one number, .*, not \(float32 \[\], int\): give",
        ),
        (PAIRS, lambda output, target: (output - target) ** 2, r"one number, .* not float32 \[4, 1\]: take its mean"),
        (PAIRS, lambda output, target: 0.5, "one number, a tensor of no axes, not float"),
        (PAIRS, lambda output, target: output.mean().log() * torch.nan, "must be finite, not nan in the first batch"),
        (PAIRS, lambda output, target: output.detach().mean(), "must depend on the network's trained parameters"),
        (PAIRS, lambda output: output.mean(), r"loss must take what .* TypeError: .* takes 1 positional argument"),
        (PAIRS, nn.CrossEntropyLoss(torch.ones(3)), "loss must take what the network returns, .*: RuntimeError"),
        (PAIRS, nn.PReLU(), "loss must have no parameters that are trained"),
        ([(torch.randn(4, 4), torch.randn(4))], nn.MSELoss(), "loss must take .* Using a target size"),
        (
            [(torch.randn(4, 3), torch.randn(4, 1))],
            nn.MSELoss(),
            r"the batch, float32 \[4, 3\]: RuntimeError",
        ),
        ([(torch.randn(4, 4).double(), torch.randn(4, 1))], nn.MSELoss(), r"must take the batch, float64 \[4, 4\]"),
        ([], nn.MSELoss(), "the loader must give at least one batch, not 0"),
        ([("text", 1)], nn.MSELoss(), "the loader must give the network's input as tensors, .* not str"),
        ([{"x": torch.ones(2, 4)}], nn.MSELoss(), "the loader gives 'x', and the network's forward takes 'input'"),
        (iter(PAIRS), nn.MSELoss(), "data must be iterable again in each epoch, .* not a list_iterator"),
        (
            torch.ones(2, 4),
            nn.MSELoss(),
            "data must be ImageData .* or give batches, .*, not a Tensor",
        ),
        (
            TensorDataset(torch.ones(2, 4)),
            nn.MSELoss(),
            "not a TensorDataset: put it into .*DataLoader",
        ),
        (
            DataLoader([object()] * 4),
            nn.MSELoss(),
            "the loader fails: TypeError: default_collate: .*found <class 'object'>",
        ),  # type: ignore[arg-type]
    ],
)
def test_what_does_not_fit_is_told_in_one_line(loader: Any, loss: Any, message: str) -> None:
    model = line()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CompressError, match=message) as raised:
        fit(model, loader, FAST, loss=loss, progress=False)
    assert "\n" not in str(raised.value)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mix": 0.5}, r"mix must be 0 with a loader, not 0\.5"),
        ({"mirror": True}, "mirror must be None with a loader, not True"),
        ({"label_smoothing": 0.1}, r"label_smoothing must be 0 with a loss of your own, not 0\.1"),
        ({"epoch_steps": 3}, "epoch_steps must be at most the loader's 1 batches, not 3"),
    ],
)
def test_settings_that_would_have_no_effect(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(CompressError, match=message):
        fit(line(), PAIRS, TrainConfig(1, **fields), loss=nn.MSELoss(), progress=False)


def test_it_is_not_clear_how_many_arguments_a_tuple_has() -> None:
    class Optional(nn.Module):
        def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
            return x

    batch = (torch.ones(2), torch.zeros(2), torch.ones(1))
    with pytest.raises(CompressError, match=r"not clear how many of them .* \(x, mask\): say it by inputs"):
        Batches([batch], Optional()).divide(batch)
    given, target = Batches([batch], Optional(), lambda batch: batch[:2]).divide(batch)
    assert given.arguments == batch[:2]  # type: ignore[union-attr]
    assert target is batch
    with pytest.raises(CompressError, match=r"inputs must take what the loader gives, .*: KeyError: 'image'"):
        Batches([batch], Optional(), lambda batch: {}["image"]).divide(batch)
    with pytest.raises(CompressError, match="inputs must be a function of a batch"):
        Batches([batch], Optional(), "image")  # type: ignore[arg-type]


def test_the_axis_of_classes() -> None:
    scores, classes = torch.randn(2, 3, 4), torch.randint(0, 3, (2, 4))
    assert torch.equal(default_loss(scores, classes), functional.cross_entropy(scores, classes))
    assert torch.equal(default_loss(scores.mT, classes), functional.cross_entropy(scores, classes))
    with pytest.raises(CompressError, match="not clear which axis has the classes"):
        default_loss(torch.randn(2, 3, 3), torch.zeros(2, 3, dtype=torch.long))
    assert default_loss({"loss": scores.mean()}, None) is not None
    right = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    assert measured(lambda x: x, [(right, torch.tensor([1, 1, -100]))]) == ("accuracy", 50.0)


def test_metrics_that_gather() -> None:
    class Largest:
        def reset(self) -> None:
            self.value = 0.0

        def update(self, output: Tensor, target: Tensor) -> None:
            self.value = max(self.value, float(output.max()))

        def compute(self) -> float:
            return self.value

    batches = [(torch.tensor([1.0]), None), (torch.tensor([3.0, 2.0]), None)]
    assert measured(lambda x: x, batches, metric=Largest()) == ("metric", 3.0)
    # Of each sample, or the mean of a batch: both count by samples.
    assert measured(lambda x: x, batches, metric=lambda output, target: output) == ("metric", 2.0)
    assert measured(lambda x: x, batches, metric=lambda output, target: float(output.mean())) == ("metric", 2.0)
    with pytest.raises(CompressError, match=r"metric must give a number, or one for each sample, not str"):
        measured(lambda x: x, batches, metric=lambda output, target: "good")
    with pytest.raises(CompressError, match="metric must be a function"):
        msvq.finetune(line(), PAIRS, PAIRS, [], FAST, metric="accuracy", progress=False)
    with pytest.raises(CompressError, match=r"an object, not the class Largest: Largest\(\) makes one"):
        check_metric(Largest)


#: For :func:`pictures`, whose layers have numbers for names.
PLAIN = [("0", Recipe("int8")), ("*", Recipe("msvq", k=8, d=8, n=4, m=8))]


def pictures() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(16, 4))


def test_the_rest_has_what_lies_below_a_decoder_of_the_users() -> None:
    class Coder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(16, 32), nn.LayerNorm(32), nn.ReLU())
            self.decoder = nn.Sequential(nn.Linear(32, 32), nn.LayerNorm(32), nn.Linear(32, 16))

        def forward(self, values: Tensor) -> Tensor:
            return self.decoder(self.encoder(values))  # type: ignore[no-any-return]

    given = [(values := torch.randn(8, 16), values)]
    network = nn.Sequential(Coder())
    own = set(network.state_dict())
    done = msvq.finetune(
        network, given, given, Recipe("ssvq", 8, 8, 0, 0), FAST, loss=nn.MSELoss(), layers_alone=True, progress=False
    )
    layers = {f"{layer.name}.weight" for layer in done.layers}
    found = {key.replace(".layer.", ".") for key in done.rest() if ".quantiser." not in key}
    assert found == own - layers


def test_work_of_another_loss_metric_or_labels_is_refused(tmp_path: Path) -> None:
    batches = [(torch.randn(16, 3, 8, 8), torch.arange(16) % 4)]

    def tuned(work: str, loss: Any = None, metric: Any = None, given: Any = batches) -> None:
        more = {"loss": loss, "metric": metric, "work": tmp_path / work}
        msvq.finetune(pictures(), given, given, PLAIN, dataclasses.replace(FAST, batch=8), progress=False, **more)

    tuned("one", nn.CrossEntropyLoss())
    tuned("one", nn.CrossEntropyLoss())
    message = "must be new or of the same job, weights, labels, number of images, loss and metric"
    for loss, metric in ((None, None), (functional.cross_entropy, None), (nn.CrossEntropyLoss(), lambda found, _: 1.0)):
        with pytest.raises(CompressError, match=message):
            tuned("one", loss, metric)
    # A directory from before these were in it goes on.
    path = tmp_path / "one" / "job.json"
    known = json.loads(path.read_text())
    path.write_text(json.dumps({name: known[name] for name in known.keys() - {"loss", "metric", "labels"}}))
    tuned("one", None)
    rng = np.random.default_rng(0)
    images = ImageData(rng.integers(0, 256, (16, 3, 8, 8), np.uint8), np.arange(16) % 4, 8)
    tuned("two", given=images)
    tuned("two", given=images)
    with pytest.raises(CompressError, match=message):
        tuned("two", given=dataclasses.replace(images, labels=np.arange(16) % 3))


@pytest.mark.parametrize("precision", [torch.float64, torch.bfloat16])
def test_a_network_of_another_precision_computes_in_float32(precision: torch.dtype) -> None:
    torch.manual_seed(0)
    images, labels = torch.randn(16, 3, 8, 8), torch.arange(16) % 4
    for given in (images, images.to(precision), images.numpy()) if precision is torch.bfloat16 else (images,):
        done = msvq.calibrate(pictures().to(precision), given, PLAIN, progress=False)
        assert done.report["error"] < 0.5
    loader = [(images.to(precision), labels)]
    done = msvq.finetune(pictures().to(precision), loader, loader, PLAIN, FAST, progress=False)
    assert done.network is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"network": "resnet"}, "network must be a torch.nn.Module, not str"),
        ({"network": {}}, "network must be a torch.nn.Module, not dict"),
        ({"recipe": "msvq"}, "recipe must be a Recipe, or pairs of a pattern and a Recipe, not 'msvq'"),
        ({"recipe": [("*", "msvq")]}, "recipe must be a Recipe, or pairs of a pattern and a Recipe"),
        ({"images": torch.full((2, 3, 8, 8), torch.nan)}, "images must be finite, not NaN or infinite"),
        ({"images": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)}, "images must be normalised floats"),
    ],
)
def test_the_wrong_kind_of_thing_is_named(arguments: dict[str, Any], message: str) -> None:
    given = {"network": pictures(), "images": torch.randn(2, 3, 8, 8), "recipe": PLAIN} | arguments
    with pytest.raises(CompressError, match=message):
        msvq.calibrate(**given, progress=False)
    with pytest.raises(CompressError, match="config must be a TrainConfig, not 10"):
        msvq.finetune(pictures(), PAIRS, PAIRS, PLAIN, 10, progress=False)  # type: ignore[arg-type]


def test_every_counts_from_one(tmp_path: Path) -> None:
    with pytest.raises(CompressError, match="every must be an integer of at least 1, not 0"):
        fit(line(), PAIRS, FAST, loss=nn.MSELoss(), checkpoint=tmp_path / "run.pt", every=0, progress=False)


def test_names_of_outputs_give_their_structure_back() -> None:
    assert structured(["logits"], [1]) == 1
    assert structured(["0", "1"], [1, 2]) == (1, 2)
    assert structured(["boxes", "heads.0", "heads.1"], [1, 2, 3]) == {"boxes": 1, "heads": (2, 3)}


class Small(nn.Module):
    """Of images of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, image: Tensor) -> Tensor:
        found: Tensor = self.head(functional.relu(self.body(functional.relu(self.stem(image)))).mean((2, 3)))
        return found


def pairs(*sizes: int, value: float = 0.0) -> list[tuple[Tensor, Tensor]]:
    """A batch of each size; of the last one, a pixel of that value."""
    batches = [(torch.randn(8, 3, size, size), torch.arange(8) % 4) for size in sizes]
    batches[-1][0][-1, 0, 0, 0] = value
    return batches


@pytest.mark.parametrize("test", [pairs(6), pairs(8, 6), pairs(8, value=float("nan"))], ids=["first", "later", "nan"])
def test_test_images_that_integers_refuse_are_refused_before_training(
    test: list[tuple[Tensor, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were, after it: what was trained was lost."""
    with monkeypatch.context() as patched:
        patched.setattr("sw.compress.training.finetune.fit", None)
        with pytest.raises(CompressError, match=r"test images must be (\[3, 8, 8\], as those of training|finite)"):
            msvq.finetune(Small(), pairs(8), test, RULES, FAST, progress=False)
    done = msvq.finetune(Small(), pairs(8), test, RULES, FAST, layers_alone=True, progress=False)
    assert "accuracy_trained" in done.report
    assert "images must be " in done.report["integers_not_measured"]


def test_test_images_of_another_size_are_refused_of_image_data(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [
        ImageData(np.zeros((8, 3, size, size), np.uint8), np.arange(8) % 4, size) for size in (8, 6)
    ]  # fmt: skip
    monkeypatch.setattr("sw.compress.training.finetune.fit", None)
    with pytest.raises(CompressError, match=r"test images must be \[3, 8, 8\], .*, not \[3, 6, 6\]; layers_alone"):
        msvq.finetune(Small(), *parts, RULES, dataclasses.replace(FAST, batch=4), progress=False)


def test_training_images_of_other_sizes_are_taken() -> None:
    report = msvq.finetune(Small(), pairs(8, 6), pairs(8), RULES, FAST, progress=False).report
    assert "accuracy_integers" in report


def test_a_batch_without_samples_is_refused(tmp_path: Path) -> None:
    message = r"at least one sample in each batch, not float32 \[0, 3, 8, 8\] in batch 2: leave out the empty one"
    batches, empty = pairs(8), [(image[:0], label[:0]) for image, label in pairs(8)]
    done = msvq.calibrate(Small(), batches, RULES, progress=False)
    done.write(tmp_path / "net.msvq")
    for call in (
        lambda: msvq.calibrate(Small(), batches + empty, RULES, progress=False),
        lambda: msvq.finetune(Small(), batches + empty, batches, RULES, FAST, progress=False),
        lambda: msvq.finetune(Small(), batches, batches + empty, RULES, FAST, progress=False),
        lambda: msvq.evaluate(tmp_path / "net.msvq", batches + empty, progress=False),
    ):
        with pytest.raises(CompressError, match=message):
            call()


def test_values_that_only_batch_norm_would_see_must_be_finite() -> None:
    """The scales are of the first images; NaN of later ones kept batch norm as it was, without a word."""
    images = torch.randn(600, 3, 4, 4)
    images[-1, 0, 0, 0] = torch.nan
    for given in (images, [(images[:500], torch.zeros(500)), (images[500:], torch.zeros(100))]):
        with pytest.raises(CompressError, match="images must be finite, not NaN or infinite"):
            msvq.calibrate(Small(), given, RULES, progress=False)


class Noisy(Dataset[Any]):
    """Draws from torch's random numbers, as augmentation does."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        values = torch.randn(4) + index
        return values, values.sum(0, keepdim=True)


class OneBuffer:
    """Gives one tensor, filled anew for each batch, as loaders do that save memory."""

    def __init__(self) -> None:
        self.buffer = torch.empty(2, 4)

    def __iter__(self) -> Iterator[Tensor]:
        for number in range(3):
            yield self.buffer.fill_(number)


def test_samples_outlive_the_buffer_that_they_came_in() -> None:
    found = list(Batches(OneBuffer(), line()).samples("cpu", 6))
    assert [int(each[0, 0]) for each in found if isinstance(each, Tensor)] == [0, 1, 2]


def test_workers_that_stay_draw_what_new_ones_draw() -> None:
    """A run that goes on after a stop has new workers, and must end with the same bytes."""
    loader = DataLoader(Noisy(), 4, num_workers=1, persistent_workers=True, in_order=False)
    batches = Batches(loader, line())
    first, again = ([given for given, _ in batches.epoch([0, 1], "cpu", None)] for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other)
    # The user's own loader is as it was.
    assert loader.persistent_workers
    assert not loader.in_order


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_batch_in_which_no_target_counts(smoothing: float) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    values, targets = torch.randn(8, 4), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    loader = [(values, targets), (values, torch.full((8,), -100))]
    losses = fit(model, loader, TrainConfig(2, lr=0.1, label_smoothing=smoothing, threads=1), progress=False)
    assert losses[1] < losses[0]
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("wrong", [-1, 3, 255])
def test_targets_outside_the_classes_are_no_wrong_answers(wrong: int) -> None:
    model, values = nn.Linear(4, 3), torch.randn(2, 4)
    with pytest.raises(CompressError, match=rf"targets must be in 0\.\.2 or -100, not {wrong}"):
        measured(model, [(values, torch.tensor([2, wrong]))])
    assert measured(lambda x: torch.eye(3)[:2], [(values, torch.tensor([0, -100]))]) == ("accuracy", 100)


def test_class_156_of_bytes_counts() -> None:
    """Of uint8 torch finds 156 equal to -100, which counts for nothing."""
    target = torch.tensor([156, 3], dtype=torch.uint8)
    scores = functional.one_hot(target.long(), 200).float()
    assert measured(lambda x: scores[[0, 0]], [(torch.ones(2, 4), target)]) == ("accuracy", 50)
    with pytest.raises(CompressError, match="test data must have at least one batch with a target"):
        measured(lambda x: scores, [(torch.ones(2, 4), torch.tensor([-100, -100]))])
    only = functional.one_hot(torch.tensor([0]), 200).float().requires_grad_()
    assert default_loss(only, torch.tensor([156], dtype=torch.uint8)) > 1


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((torch.ones(2, 4), torch.tensor([0, 3])), "loss must take .*IndexError: Target 3 is out of bounds"),
        ((torch.ones(2, 5), torch.tensor([0, 1])), r"the network must take the batch, float32 \[2, 5\]: RuntimeError"),
    ],
)
def test_what_does_not_fit_in_a_later_batch_is_told_in_one_line(batch: Any, message: str) -> None:
    loader = [(torch.ones(2, 4), torch.tensor([0, 1])), batch]
    with pytest.raises(CompressError, match=message) as raised:
        fit(nn.Linear(4, 3), loader, TrainConfig(1, threads=1), progress=False)
    assert "\n" not in str(raised.value)


class _Counted(IterableDataset[tuple[Tensor, Tensor]]):
    def __len__(self) -> int:
        return 9

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter([(torch.randn(4), torch.randn(1)) for _ in range(9)])


def test_a_last_batch_that_the_network_does_not_take_is_refused_before_the_training() -> None:
    """Batch norm of one sample, here: it ended the first epoch."""
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
    pairs = TensorDataset(torch.randn(9, 4), torch.randn(9, 1))

    def tuned(loader: Any, steps: int = 0) -> None:
        rules, config = [("*", Recipe("int8"))], TrainConfig(1, epoch_steps=steps)
        options: dict[str, Any] = {"loss": nn.MSELoss(), "layers_alone": True, "progress": False}
        msvq.finetune(model, loader, DataLoader(pairs, 3), rules, config, **options)

    message = (
        r"the last batch of each epoch has 1 sample: .* float32 \[1, 4\]: .*; a DataLoader of drop_last=True leaves"
    )
    with pytest.raises(CompressError, match=message):
        tuned(DataLoader(pairs, 4))
    tuned(DataLoader(pairs, 4, drop_last=True))
    tuned(DataLoader(pairs, 4), 2)
    tuned(DataLoader(_Counted(), 3))


class _OnGraph(nn.Module):
    """A layer on the nodes of a graph, of which each takes its neighbours' sum."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        return self.head(torch.relu(adjacency @ self.hidden(nodes)))


@pytest.mark.parametrize("sparse", [False, True])
def test_arguments_of_a_batch_are_not_taken_apart(sparse: bool) -> None:
    """Rows of an adjacency, or of a mask, are no samples, even where they are as many."""
    adjacency = (torch.rand(40, 40) > 0.8).float()
    batch = (torch.randn(40, 8), adjacency.to_sparse() if sparse else adjacency), torch.randint(0, 3, (40,))
    options: dict[str, Any] = {"layers_alone": True, "progress": False}
    assert msvq.calibrate(_OnGraph(), [batch], Recipe("int8"), **options).report["error"] < 0.01
    done = msvq.finetune(_OnGraph(), [batch], [batch], Recipe("int8"), TrainConfig(1), **options)
    assert "accuracy_trained" in done.report
