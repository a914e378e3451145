from __future__ import annotations

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
        ({"bias": torch.ones(4)}, "must hold a weight with two or four axes, not 1 others"),
        ({3: torch.ones(4, 4)}, "must hold a weight with two or four axes, not 1 others"),
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
    with pytest.raises(CompressError, match=r"Unsupported global: GLOBAL .*Conv2d was not .* default\.$"):
        checkpoint_sources(tmp_path / "x.pth")


def test_unknown_model() -> None:
    with pytest.raises(CompressError, match="model must be one of efficientnet-lite0, not 'vgg'"):
        load_model("vgg")
