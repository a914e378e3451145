"""A small GPT from text to a table, and what the command refuses."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from experiments import gpt, language
from experiments.case import Case
from sw.compress.methods import Recipe


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A network of one block on 16 bytes, and a directory of texts."""
    monkeypatch.setattr(language, "CONTEXT", 16)
    monkeypatch.setattr(language, "GPT", functools.partial(language.GPT, 1, 32, 2))
    monkeypatch.setattr(language, "WEIGHTS", tmp_path / "build")
    texts = tmp_path / "texts"
    texts.mkdir()
    for name, line in (("a", "the cat sat on the mat. "), ("b", "a dog ate the hat. ")):
        (texts / f"{name}.txt").write_text(line * 200)
    return texts


def test_parts_of_each_text(small: Path) -> None:
    parts = language.load_texts(small)
    sizes = [len((small / name).read_bytes()) for name in ("a.txt", "b.txt")]
    assert sum(len(part) for part in parts.values()) == sum(sizes)
    assert len(parts["train"]) == sum(8 * size // 10 for size in sizes)
    # Held out and test are of every text.
    for part in ("held out", "test"):
        assert {bytes(parts[part][:3].tolist()), bytes(parts[part][-4:-1].tolist())} != {b"the"}


def test_a_network_that_knows_nothing() -> None:
    model = language.GPT(1, 32, 2)
    with torch.no_grad():
        model.linear.weight.zero_()
    text = torch.randint(256, (3000,)).to(torch.uint8)
    assert language.perplexity(model, text, "cpu") == pytest.approx(256, rel=1e-5)


def test_the_mask_is_causal() -> None:
    model = language.GPT(2, 32, 2).eval()
    values = torch.randint(256, (1, 20))
    other = values.clone()
    other[0, 12:] = 0
    with torch.no_grad():
        first, second = model(values), model(other)
    torch.testing.assert_close(first[:, :12], second[:, :12])
    assert not torch.allclose(first[:, 12:], second[:, 12:])


@pytest.mark.whole
def test_from_text_to_table(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        Case("2 bits, VQ", Recipe("vq", 16, 4, 0, 0)),
        Case("2 bits, SSVQ, moving", Recipe("ssvq", 16, 8, 0, 0), moving=True),
    ]
    monkeypatch.setattr(language, "cases", lambda: rows)
    common = ["--texts", str(small), "--device", "cpu", "--output", str(tmp_path / "out")]
    assert gpt.main(["float", "--steps", "100", *common]) == 0
    assert gpt.main(["cases", "--steps", "2", "--rates", "1e-3", "1e-2", *common]) == 0
    assert gpt.main(["cases", "--steps", "40", "--seeds", "0", "1", *common]) == 0
    assert gpt.main(["report", *common]) == 0
    report = json.loads((tmp_path / "out" / "gpt.json").read_text())
    assert [row["case"] for row in report["summary"]] == ["2 bits, VQ", "2 bits, SSVQ, moving"]
    assert len(report["runs"]) == 4
    for entry in report["runs"]:
        assert entry["scored_on"] == "test"
        # It has learned more than the share of each byte, and was worse before it was trained.
        assert entry["perplexity"] < min(16, entry["perplexity_before"])
        # Its rate is the best of its tries, which were scored on the part held out.
        tries = [found for found in report["tries"] if found["case"] == entry["case"]]
        assert {found["scored_on"] for found in tries} == {"held out"}
        assert entry["lr"] == min(tries, key=lambda found: found["perplexity"])["lr"]
        assert math.isclose(entry["ratio_ideal"], 32 / entry["bits_per_weight"])
    capsys.readouterr()
    assert gpt.main(["cases", "--steps", "41", *common]) == 2
    assert "2-bits--VQ-0.json is of a run with steps 40, not 41: remove it" in capsys.readouterr().err
    assert gpt.main(["cases", "--cases", "4 bits", *common]) == 2
    assert "case must be one of 2 bits, VQ; 2 bits, SSVQ, moving, not '4 bits'" in capsys.readouterr().err


def test_refused(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpt.main(["float"]) == 2
    assert "--texts must name a directory of .txt files" in capsys.readouterr().err
    assert gpt.main(["float", "--texts", str(tmp_path)]) == 2
    assert f"texts must be a directory of .txt files, not '{tmp_path}'" in capsys.readouterr().err
    (small / "short.txt").write_text("x" * 1599)
    assert gpt.main(["float", "--texts", str(small)]) == 2
    assert "short.txt' must have at least 1600 bytes, not 1599" in capsys.readouterr().err
    assert gpt.main(["report"]) == 2
    assert "there is no run to report" in capsys.readouterr().err


def test_a_report_needs_the_dense_start(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(language, "_entries", lambda rates: [{"case": "2 bits, LSQ", "perplexity_start": 4.0}])
    assert gpt.main(["report"]) == 2
    assert "the report needs a run of VQ or SSVQ, which start from the dense network" in capsys.readouterr().err


@pytest.mark.parametrize("steps", [30, 100, 150])
def test_the_dense_network_is_kept_after_its_last_step(
    steps: int, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(model: nn.Module, text: Tensor, *, steps: int, progress: Callable[[int], None], **how: Any) -> None:
        for step in range(100, steps + 1, 100):
            progress(step)

    monkeypatch.setattr(language, "train", trained)
    monkeypatch.setattr(language, "GPT", lambda: nn.Linear(2, 2))
    monkeypatch.setattr(language, "perplexity", lambda model, text, device: 4.0)
    monkeypatch.setattr(language, "_weights", lambda nm="": tmp_path / "gpt.pt")
    assert gpt.main(["float", "--texts", str(small), "--steps", str(steps), "--device", "cpu"]) == 0
    assert (tmp_path / "gpt.pt").exists()
