"""What a how-to page says runs as it is, from its first block to its last."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

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
