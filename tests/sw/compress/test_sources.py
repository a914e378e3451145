from __future__ import annotations

import functools
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sw.compress.methods import CompressError
from sw.compress.sources import checkpoint_sources, load_model, model_sources

TENSORS = {"conv.weight": torch.ones(4, 2, 3, 3), "conv.bias": torch.ones(4), "fc.weight": torch.ones(5, 4)}


def test_efficientnet_lite0() -> None:
    sources = {source.name: source for source in model_sources("efficientnet-lite0")}
    assert len(sources) == 50
    assert sources["_conv_head"].shape == (1280, 320, 1, 1)
    assert sources["_blocks.1._depthwise_conv"].groups == 96
    assert sources["_blocks.1._depthwise_conv"].stride == (2, 2)
    assert sources["_fc"].kind == "linear"
    assert not load_model("efficientnet-lite0").training


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_network_is_loaded_in_float32(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    users = types.ModuleType("users")
    users.network = lambda: torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4)).to(dtype)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "users", users)
    state = load_model("users:network").state_dict()
    assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("wrap", [torch.compile, torch.nn.DataParallel])
def test_what_wraps_a_network_is_not_in_its_names(wrap: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    users = types.ModuleType("users")
    users.network = wrap(torch.nn.Sequential(torch.nn.Linear(4, 4)))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "users", users)
    assert [source.name for source in model_sources("users:network")] == ["0"]


@pytest.mark.parametrize("wrapped", [False, True])
def test_torch_checkpoint(tmp_path: Path, wrapped: bool) -> None:
    torch.save({"state_dict": TENSORS, "epoch": 3} if wrapped else TENSORS, tmp_path / "x.pth")
    assert [source.name for source in checkpoint_sources(tmp_path / "x.pth")] == ["conv", "fc"]


def test_npz_checkpoint(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **{name: tensor.numpy() for name, tensor in TENSORS.items()})
    assert [source.name for source in checkpoint_sources(tmp_path / "x.npz")] == ["conv", "fc"]


@pytest.mark.parametrize("dtype", [">f4", "<f8", "f2"])
def test_npz_of_other_floats(tmp_path: Path, dtype: str) -> None:
    values = np.arange(20).reshape(5, 4)
    np.savez(tmp_path / "x.npz", **{"fc.weight": values.astype(dtype), "text.weight": np.full((2, 2), "a")})
    (source,) = checkpoint_sources(tmp_path / "x.npz")
    np.testing.assert_array_equal(source.weight[:, :, 0, 0], values)


@pytest.mark.parametrize("name", ["x.pth", "x.npz"])
@pytest.mark.parametrize(
    "content", [None, b"", b"no checkpoint", b"hello", b"a text", b"q", b"model\n", b"PK\x03\x04 no archive"]
)
def test_refuses_what_is_no_checkpoint(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CompressError, match=f"^cannot read checkpoint '.*{name}': .*[a-zA-Z]") as caught:
        checkpoint_sources(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "must hold a state dict, not list"),
        ({"bias": torch.ones(4)}, "must hold a weight with two to four axes: it has "),
        ({3: torch.ones(4, 4)}, "must hold a weight with two to four axes: it has "),
        (
            {"c.weight": torch.eye(4).to_sparse()},
            r"layer 'c': weight must be a dense tensor \(torch.strided\), not torch.sparse_coo",
        ),
        (
            {"c.weight": torch.ones(4, 4, device="meta")},
            "layer 'c': weight must be a dense tensor .*, not a meta tensor",
        ),
        ({"c.weight": torch.full((4, 4, 1, 1), float("nan"))}, "layer 'c': weight must be finite"),
    ],
)
def test_refuses_contents(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(CompressError, match=message):
        checkpoint_sources(tmp_path / "x.pth")


def test_executes_nothing(tmp_path: Path) -> None:
    torch.save({"network": torch.nn.Conv2d(1, 1, 1)}, tmp_path / "x.pth")
    alone = r"A state dict is read alone: torch\.save\(model\.state_dict\(\), FILE\)"
    with pytest.raises(CompressError, match=rf"Unsupported global: GLOBAL .*Conv2d was not .* default\. {alone}$"):
        checkpoint_sources(tmp_path / "x.pth")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_no_state_dict(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Conv2d(1, 1, 1)), tmp_path / "x.pt")  # type: ignore[no-untyped-call]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        message = r"cannot read checkpoint '.*x.pt': it is TorchScript, and a state dict is"
        with pytest.raises(CompressError, match=message):
            checkpoint_sources(tmp_path / "x.pt")


def test_unknown_model() -> None:
    with pytest.raises(CompressError, match=r"model must be one of efficientnet-lite0, timm:NAME, .*, not 'vgg'"):
        load_model("vgg")


def own() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(16, 2))


NETWORK = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))


def tensor() -> torch.Tensor:
    return torch.ones(2)


def wide(width: int) -> torch.nn.Module:
    return torch.nn.Linear(width, width)


def broken() -> torch.nn.Module:
    raise KeyError("of the user's")


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name under which this file can be imported."""
    monkeypatch.setitem(sys.modules, "users.networks", sys.modules[__name__])
    monkeypatch.setitem(sys.modules, "users", types.ModuleType("users"))
    return "users.networks"


@pytest.mark.parametrize("suffix", [".pth", ".npz"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_own_model_with_weights(module: str, tmp_path: Path, suffix: str, prefix: str) -> None:
    trained = own()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(1)
    state = {prefix + key: value for key, value in trained.half().state_dict().items()}
    path = tmp_path / f"weights{suffix}"
    if suffix == ".npz":
        np.savez(path, **{key: value.numpy() for key, value in state.items()})
    else:
        torch.save(state, path)
    model = load_model(f"{module}:own", path)
    assert not model.training
    for key, value in model.state_dict().items():
        assert torch.equal(value, trained.state_dict()[key].float())
    fresh = load_model(f"{module}:own")
    assert torch.equal(fresh[0].weight, own()[0].weight)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "nowhere.networks:own",
            "model nowhere.networks:own: cannot import nowhere.networks: No module named 'nowhere'",
        ),
        ("users.networks:other", "users.networks must have a callable other"),
        ("users.networks:TENSORS", "users.networks must have a callable TENSORS"),
        ("users.networks:tensor", "model users.networks:tensor must be a torch.nn.Module, not Tensor"),
        (
            "users.networks:wide",
            r"users.networks:wide must be callable without arguments \(missing a required argument: 'width'\): write",
        ),
        (
            "users.networks:broken",
            r"users.networks:broken: users.networks.broken\(\) raised KeyError: .of the user's. in test_sources.py:\d+",
        ),
        ("users.networks:", "model must be one of"),
        (":own", "model must be one of"),
    ],
)
def test_own_models_refuse(module: str, name: str, message: str) -> None:
    with pytest.raises(CompressError, match=message):
        load_model(name)


def test_a_network_that_has_the_name_is_copied(module: str) -> None:
    model = load_model(f"{module}:NETWORK")
    assert torch.equal(model[0].weight, NETWORK[0].weight)
    model[0].weight.data.zero_()
    assert NETWORK[0].weight.any()


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_network_with_computed_weights_is_copied(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = torch.nn.utils.weight_norm(torch.nn.Linear(4, 4))
    monkeypatch.setattr(sys.modules[module], "NETWORK", torch.nn.Sequential(layer))
    assert torch.equal(load_model(f"{module}:NETWORK")[0].weight, layer.weight)


def test_a_decorator_may_give_the_arguments(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    @functools.wraps(wide)
    def given() -> torch.nn.Module:
        return own()

    monkeypatch.setattr(sys.modules[module], "wide", given)
    assert torch.equal(load_model(f"{module}:wide")[0].weight, own()[0].weight)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8])
def test_integers_of_a_buffer_are_its_values(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dtype: torch.dtype
) -> None:
    users = types.ModuleType("users")
    users.norm = lambda: torch.nn.BatchNorm2d(4)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "users", users)
    torch.save(
        torch.nn.BatchNorm2d(4).state_dict() | {"running_mean": torch.tensor([1, 0, 1, 1]).to(dtype)},
        tmp_path / "x.pth",
    )
    assert load_model("users:norm", tmp_path / "x.pth").running_mean.tolist() == [1, 0, 1, 1]


def test_a_module_that_cannot_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_written.py").write_text("x = 1\ny = zero\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CompressError, match=r"import half_written: NameError: name 'zero'.* in half_written.py:2"):
        load_model("half_written:own")


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64, torch.float8_e5m2])
def test_weights_that_are_no_floats(module: str, tmp_path: Path, dtype: torch.dtype) -> None:
    state = own().state_dict()
    torch.save(state | {"2.weight": (state["2.weight"] * 100).to(dtype)}, tmp_path / "x.pth")
    message = rf"x.pth': 2.weight must be floats(| of at least 16 bits), not {str(dtype)[6:]}: (of a quantised|an imag)"
    with pytest.raises(CompressError, match=message):
        load_model(f"{module}:own", tmp_path / "x.pth")


def test_weights_that_do_not_fit(module: str, tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "x.pth")
    with pytest.raises(
        CompressError, match=r"weights '.*x.pth' must fit model users.networks:own: .*Missing key"
    ) as caught:
        load_model(f"{module}:own", tmp_path / "x.pth")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("package", ["timm", "torchvision"])
def test_missing_packages_name_the_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (package, f"{package}.models"):
        monkeypatch.setitem(sys.modules, name, None)
    message = rf"model {package}:resnet18 needs {package}, which the extra msvq\[models\] installs"
    with pytest.raises(CompressError, match=message):
        load_model(f"{package}:resnet18")


@pytest.mark.parametrize("package", ["timm", "torchvision"])
@pytest.mark.parametrize("given", [True, False])
def test_published_weights_unless_others_are_given(
    package: str, given: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def create(name: str, pretrained: bool) -> torch.nn.Module:
        asked.append((name, pretrained))
        return own()

    stand_in = types.ModuleType(package)
    stand_in.create_model = create  # type: ignore[attr-defined]
    stand_in.get_model = lambda name, weights: create(name, weights == "DEFAULT")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, package, stand_in)
    monkeypatch.setitem(sys.modules, f"{package}.models", stand_in)
    torch.save(own().state_dict(), tmp_path / "x.pth")
    load_model(f"{package}:net", tmp_path / "x.pth" if given else None)
    assert asked == [("net", not given)]


def test_unknown_published_model(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = types.ModuleType("timm")

    def create(name: str, pretrained: bool) -> torch.nn.Module:
        raise RuntimeError(f"Unknown model ({name})")

    stand_in.create_model = create  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "timm", stand_in)
    with pytest.raises(CompressError, match=r"model timm:x is not to be had: Unknown model \(x\)"):
        load_model("timm:x")
