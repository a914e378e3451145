"""What a how-to page says runs as it is, from its first block to its last."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import msvq

PAGES = Path(__file__).parents[1] / "docs" / "howto"


def blocks(page: str) -> str:
    found = re.findall(r"^```python\n(.*?)^```$", (PAGES / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert found
    return "\n".join(found)


def test_a_loss_of_your_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    exec(compile(blocks("loss.md"), "loss.md", "exec"), {"__name__": "page"})
    assert "3 layers" in capsys.readouterr().out
    for name in ("net.msvq", "own.msvq"):
        network = msvq.load(tmp_path / name)
        assert network.outputs[0].scale > 0  # type: ignore[union-attr, operator]
    weights = msvq.decompress(tmp_path / "layers.msvq")
    assert weights.keys() == {"mix.weight", "head.weight"}
    rest = torch.load(tmp_path / "rest.pt", weights_only=True)
    assert not weights.keys() & rest.keys()


class Net(nn.Sequential):
    def __init__(self) -> None:
        layers = (nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 4, 3), nn.Flatten(), nn.Linear(16, 4))
        super().__init__(*layers)


def test_float_weights_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with what was trained beside them, of layers that keep a forward of their own, and lie deeper."""
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("net")
    module.Net = Net  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "net", module)
    network = Net()
    torch.save(network.state_dict(), "net.pt")
    images = torch.randn(8, 3, 8)
    batches = [(images, torch.arange(8) % 4)]
    rules = [("*", msvq.Recipe("int8"))]
    done = msvq.finetune(
        network, batches, batches, rules, msvq.TrainConfig(2, lr=0.1), layers_alone=True, progress=False
    )
    done.write("net.msvq")
    torch.save(done.rest(), "rest.pt")
    space: dict[str, Any] = {"__name__": "page"}
    exec(compile(blocks("weights.md"), "weights.md", "exec"), space)
    with torch.no_grad():
        assert torch.equal(space["model"].eval()(images), done.model(images))
