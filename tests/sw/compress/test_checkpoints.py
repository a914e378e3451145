from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import msvq
from sw.compress.checkpoints import read_state_dict, write_state
from sw.compress.methods import CompressError, Recipe
from sw.compress.network import state_dict_sources
from sw.compress.sources import checkpoint_sources, load_model
from sw.compress.training.graph import trace
from sw.format.envelope import MAGICS


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4))


def test_a_full_disk_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left on device"):
        write_state("/dev/full", {"weight": torch.zeros(1 << 20)})
    with pytest.raises(OSError, match="No space left on device"):
        write_state("/dev/full", {})
    with pytest.raises((TypeError, AttributeError), match="pickle"):
        write_state(tmp_path / "x.pt", lambda: 0)
    state = network().state_dict()
    for name in ("one.pt", "other.pt"):
        write_state(tmp_path / name, state)
    assert (tmp_path / "one.pt").read_bytes() == (tmp_path / "other.pt").read_bytes()
    assert read_state_dict(tmp_path / "one.pt").keys() == state.keys()


def fresh() -> nn.Module:
    """Another one, with other weights."""
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4))


def prefixed(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


STATE = {key: value.clone() for key, value in network().state_dict().items()}
WRAPPED: dict[str, Any] = {
    "plain": STATE,
    "three prefixes": prefixed("module._orig_mod.module.", STATE),
    "averaged and compiled": {"n_averaged": torch.tensor(3), **prefixed("module._orig_mod.", STATE)},
    "epoch as a tensor": {"model": STATE, "epoch": torch.tensor(7)},
    "optimiser beside": {"net": STATE, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}},
    "wrapped twice": {"checkpoint": {"state_dict": prefixed("module.", STATE)}},
    "average alone": {"state_dict_ema": STATE, "arch": "x"},
    "average beside": {"model_state_dict": STATE, "ema": prefixed("module.", {k: v * 0 for k, v in STATE.items()})},
    "Lightning with a loss": {"state_dict": {**prefixed("model.", STATE), "loss.weight": torch.ones(4, 4)}},
    "another attribute": {"state_dict": prefixed("backbone.net.", STATE)},
    "half precision": {"model": {key: v.half() if v.is_floating_point() else v for key, v in STATE.items()}},
}


def same_state(model: nn.Module) -> bool:
    return all(
        torch.allclose(value.float(), STATE[key].float(), atol=1e-3) for key, value in model.state_dict().items()
    )


@pytest.mark.parametrize("name", WRAPPED)
def test_state_dicts_in_every_wrapping(name: str, tmp_path: Path) -> None:
    torch.save(WRAPPED[name], tmp_path / "file.pth")
    assert same_state(load_model("tests.sw.compress.test_checkpoints:fresh", tmp_path / "file.pth"))
    if "attribute" not in name and "loss" not in name:
        assert [source.name for source in checkpoint_sources(tmp_path / "file.pth")] == ["0", "4"]


def test_a_module_that_was_compiled_alone(tmp_path: Path) -> None:
    state = {key.replace("0.", "0._orig_mod.") if key.startswith("0.") else key: v for key, v in STATE.items()}
    torch.save(state, tmp_path / "file.pth")
    assert same_state(load_model("tests.sw.compress.test_checkpoints:fresh", tmp_path / "file.pth"))


def test_safetensors_in_one_file_and_in_parts(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "model.safetensors")
    assert same_state(load_model("tests.sw.compress.test_checkpoints:fresh", tmp_path / "model.safetensors"))
    keys = list(STATE)
    parts = {"a.safetensors": keys[:3], "b.safetensors": keys[3:]}
    for file, names in parts.items():
        save_file({name: STATE[name] for name in names}, tmp_path / file)
    index = {"weight_map": {name: file for file, names in parts.items() for name in names}}
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    assert same_state(load_model("tests.sw.compress.test_checkpoints:fresh", path))
    torch.save({name: STATE[name] for name in keys[:3]}, tmp_path / "c.bin")
    index["weight_map"] |= dict.fromkeys(keys[:3], "c.bin")
    path.write_text(json.dumps(index))
    assert same_state(load_model("tests.sw.compress.test_checkpoints:fresh", path))


class Holder(nn.Module):
    """Its only child is called as DataParallel calls what it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.module = fresh()


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "module._orig_mod."])
def test_a_network_whose_only_child_is_called_module(prefix: str, tmp_path: Path) -> None:
    torch.save(prefixed(f"{prefix}module.", STATE), tmp_path / "x.pth")
    model = load_model("tests.sw.compress.test_checkpoints:Holder", tmp_path / "x.pth")
    assert isinstance(model, Holder)
    assert same_state(model.module)


class Tied(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(8, 8), nn.Linear(8, 8))
        self[1].weight = self[0].weight


def test_a_tied_weight_is_stored_once(tmp_path: Path) -> None:
    state = Tied().state_dict()
    save_file({key: value.clone() for key, value in state.items() if key != "1.weight"}, tmp_path / "x.safetensors")
    model = load_model("tests.sw.compress.test_checkpoints:Tied", tmp_path / "x.safetensors")
    assert torch.equal(model[1].weight, state["0.weight"])
    assert model[1].weight is model[0].weight


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"lr": 0.1, "epoch": 3}, "must hold a weight with two to four axes: it has lr, epoch"),
        ([1], "must hold a state dict, not list"),
        ({"a.bias": torch.ones(3)}, "must hold a weight with two to four axes: it has a.bias"),
    ],
)
def test_refusals_list_the_keys(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(CompressError, match=message):
        checkpoint_sources(tmp_path / "x.pth")


@pytest.mark.parametrize("kind", MAGICS)
def test_files_of_the_project_are_named(kind: str, tmp_path: Path) -> None:
    (tmp_path / "net.msvq").write_bytes(MAGICS[kind] + bytes(40))
    with pytest.raises(CompressError, match=rf"net\.msvq' is a {kind}, and weights are wanted; msvq\.decompress gives"):
        read_state_dict(tmp_path / "net.msvq")


def test_a_state_that_does_not_fit_lists_the_keys(tmp_path: Path) -> None:
    torch.save(prefixed("encoder.", {"0.weight": STATE["0.weight"]}), tmp_path / "x.pth")
    with pytest.raises(CompressError, match=r"must fit model .*; of the file, it has encoder\.0\.weight"):
        load_model("tests.sw.compress.test_checkpoints:fresh", tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{}", "must have a weight_map from keys to files"),
        ('{"weight_map": {"a": "../x.pth"}}', r"must name files beside it, not '\.\./x\.pth'"),
        ('{"weight_map": {"a": "x.pth"}}', "cannot read checkpoint"),
    ],
)
def test_a_bad_index(index: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "m.index.json").write_text(index)
    with pytest.raises(CompressError, match=message):
        read_state_dict(tmp_path / "m.index.json")


@pytest.mark.parametrize(
    ("shapes", "groups"),
    [
        ([(8, 1, 3, 3), (16, 8, 3, 3)], [1, 1]),
        ([(8, 1, 3, 3), (8, 1, 3, 3), (16, 8, 1, 1)], [1, 8, 1]),
        ([(8, 3, 3, 3), (8, 1, 3, 3), (16, 8, 1, 1)], [1, 8, 1]),
        ([(8, 1, 3, 3), (8, 3, 3, 3)], [8, 1]),
        ([(8, 1, 1, 1), (8, 1, 5, 5)], [1, 8]),
    ],
)
def test_the_first_convolution_of_a_grey_network_is_not_depthwise(
    shapes: list[tuple[int, ...]], groups: list[int]
) -> None:
    tensors = {f"{number}.weight": torch.ones(shape) for number, shape in enumerate(shapes)}
    assert [source.groups for source in state_dict_sources(tensors)] == groups


def test_a_program_of_torch_export(tmp_path: Path) -> None:
    model = network().eval()
    torch.export.save(torch.export.export(model, (torch.randn(1, 3, 5, 5),)), tmp_path / "net.pt2")
    loaded, images = load_model(str(tmp_path / "net.pt2")), torch.randn(4, 3, 5, 5)
    assert torch.allclose(loaded(images), model(images), atol=1e-5)
    assert [name for name, module in loaded.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)] == ["0", "4"]
    (tmp_path / "bad.pt2").write_bytes(b"no program")
    logged: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("torch.export")
    logger.addHandler(handler)
    try:
        with pytest.raises(CompressError, match=r"cannot read model '.*bad\.pt2'"):
            load_model(str(tmp_path / "bad.pt2"))
        assert logged == []
        with pytest.raises(zipfile.BadZipFile):  # behind the traceback of another error in the log
            torch.export.load(tmp_path / "bad.pt2")
        assert logged
    finally:
        logger.removeHandler(handler)


def test_onnx_needs_its_extra(tmp_path: Path) -> None:
    with pytest.raises(
        CompressError, match=r"needs onnx2torch, which the extra msvq\[onnx\] installs|there is no model"
    ):
        load_model(str(tmp_path / "net.onnx"))


@pytest.mark.parametrize("dynamo", [False, True])
def test_an_onnx_file_is_the_network_or_refused(tmp_path: Path, dynamo: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx2torch = pytest.importorskip("onnx2torch", reason="the extra onnx is not installed", exc_type=Exception)
    if dynamo:
        pytest.importorskip("onnxscript", reason="torch writes ONNX of today by onnxscript")
    model, images = network().eval(), torch.randn(4, 3, 5, 5)
    torch.onnx.export(model, (images[:1],), tmp_path / "net.onnx", dynamo=dynamo, dynamic_axes=None)
    loaded = load_model(str(tmp_path / "net.onnx"))
    assert torch.allclose(loaded(images[:1]), model(images[:1]), atol=1e-5)

    def another(file: object) -> nn.Module:
        made = convert(file)
        with torch.no_grad():
            next(made.parameters()).mul_(1.01)
        return made

    convert = onnx2torch.convert
    monkeypatch.setattr(onnx2torch, "convert", another)
    with pytest.raises(CompressError, match=r"makes another network of it: output .* differs by"):
        load_model(str(tmp_path / "net.onnx"))
    (tmp_path / "bad.onnx").write_bytes(b"junk" * 10)
    with pytest.raises(CompressError, match=r"cannot read model '.*bad\.onnx'"):
        load_model(str(tmp_path / "bad.onnx"))


class Pooled(nn.Module):
    """A mean of the map, interpolated to its size, beside it: ASPP's."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.point, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).relu()
        mean = self.point(x.mean((2, 3), keepdim=True))
        wide = nn.functional.interpolate(mean, size=x.shape[2:], mode="bilinear", align_corners=False)
        return self.last(torch.cat([x, wide], 1))  # type: ignore[no-any-return]


def transposed() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(8, 8, 3, 2, 1, 1), nn.ReLU())


@pytest.mark.parametrize("make", [Pooled, transposed])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_program_of_torch_becomes_what_its_network_does(
    make: Callable[[], nn.Module], dtype: torch.dtype, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, images = make().eval().to(dtype), torch.randn(4, 3, 8, 8)
    torch.export.save(torch.export.export(model, (images.to(dtype),)), tmp_path / "net.pt2")
    found = []
    for network in (model, load_model(str(tmp_path / "net.pt2"))):
        done = msvq.calibrate(network, images, [("*", Recipe("int8"))], progress=False)
        assert done.network is not None
        results = done.network.results(done.network.quantise(images).numpy())
        found.append((results, list(map(type, done.network.operations))))
    (ours, kinds), (theirs, others) = found
    assert kinds == others
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)
    # Modules are as they were.
    raised = load_model(str(tmp_path / "net.pt2"))
    trace(raised, images)
    assert not any("forward" in vars(module) for module in raised.modules())
