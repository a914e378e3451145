"""MiniLM and STS-B: the network, its sentences, rank correlation and a run, on a small one."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from experiments import minilm, sentences
from experiments.sentences import MiniLM, Sentences, correlation, load_pairs, load_state
from sw.compress.methods import CompressError


def small() -> MiniLM:
    """Two blocks, random norms."""
    torch.manual_seed(0)
    model = MiniLM(2, 32, 4, 64, 50)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, 1.0 if name.endswith("weight") else 0.0, 0.1)
    return model.eval()


def bert(model: MiniLM) -> dict[str, Tensor]:
    """Its state dict under BERT's names, and a pooler."""
    ours = model.state_dict()
    names = {"words": "word_embeddings", "positions": "position_embeddings", "kinds": "token_type_embeddings"}
    state = {f"embeddings.{theirs}.weight": ours[f"{name}.weight"] for name, theirs in names.items()}
    state |= {f"embeddings.LayerNorm.{part}": ours[f"norm.{part}"] for part in ("weight", "bias")}
    for number in range(len(model.blocks)):
        for theirs, name in sentences._NAMES.items():
            for part in ("weight", "bias"):
                state[f"encoder.layer.{number}.{theirs}.{part}"] = ours[f"blocks.{number}.{name}.{part}"]
    return state | {"pooler.dense.weight": torch.zeros(32, 32)}


def test_the_encoder_is_torchs_post_norm_transformer() -> None:
    model = small()
    tokens = torch.tensor([[3, 7, 9, 11], [5, 4, 0, 0]])
    values = model.norm(model.words(tokens) + model.positions.weight[:4] + model.kinds.weight[0])
    for block in model.blocks:
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, nn.functional.gelu, 1e-12, batch_first=True)
        attention = [block.query, block.key, block.value]
        found = {
            "self_attn.in_proj_weight": torch.cat([part.weight for part in attention]),
            "self_attn.in_proj_bias": torch.cat([part.bias for part in attention]),
        }
        pairs = {"self_attn.out_proj": block.output, "linear1": block.fc1, "linear2": block.fc2}
        pairs |= {"norm1": block.norm1, "norm2": block.norm2}
        for name, part in pairs.items():
            found |= {f"{name}.weight": part.weight, f"{name}.bias": part.bias}
        layer.load_state_dict(found)
        values = layer.train()(values, src_key_padding_mask=tokens == 0)
    means = torch.stack([values[0].mean(0), values[1, :2].mean(0)])
    wanted = means / means.norm(dim=1, keepdim=True)
    with torch.no_grad():
        assert torch.allclose(model(tokens), wanted, atol=1e-5)
        # What a sentence is filled with changes nothing.
        assert torch.allclose(model(tokens[1:, :2]), wanted[1:], atol=1e-5)


def test_weights_go_by_berts_names() -> None:
    model, other = small(), MiniLM(2, 32, 4, 64, 50)
    state = bert(model)
    load_state(other, state)
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in model.state_dict().items())
    del state["encoder.layer.1.output.dense.bias"]
    with pytest.raises(CompressError, match=r"BERT's names: 'encoder\.layer\.1\.output\.dense\.bias' is missing"):
        load_state(other, state)
    with pytest.raises(CompressError, match=r"model must be MiniLM-L6: .*size mismatch"):
        load_state(MiniLM(2, 32, 4, 96, 50), bert(model))


def test_correlation_of_ranks_worked_by_hand() -> None:
    # Vectors of sentence n: at an angle of n degrees.
    def model(tokens: Tensor) -> Tensor:
        angle = tokens[:, 0].double().deg2rad()
        return torch.stack([angle.cos(), angle.sin()], 1)

    first, second = [[10], [10], [10], [10]], [[11], [20], [40, 7], [80]]
    assert correlation(model, Sentences(first, second, [5, 3, 2, 0]), "cpu") == pytest.approx(100)  # type: ignore[arg-type]
    # One neighbouring pair of ranks changed: 1 - 6 * 2 / (4 * 15).
    assert correlation(model, Sentences(first, second, [3, 5, 2, 0]), "cpu") == pytest.approx(80)  # type: ignore[arg-type]


class Letters:
    """A tokeniser of letters."""

    def encode(self, text: str) -> SimpleNamespace:
        """One token a letter."""
        return SimpleNamespace(ids=[1 + ord(letter) % 40 for letter in text])


def texts(folder: Path) -> Path:
    """A small STS-B."""
    for part in sentences.PARTS:
        rows = [
            f'"{word}, yes",{word[::-1]},{number / 2}' for number, word in enumerate(["ab", "cde", "fgh", "ij", "kl"])
        ]
        (folder / f"stsb-en-{part}.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_pairs_are_read_and_what_is_wrong_named(tmp_path: Path) -> None:
    found = load_pairs(texts(tmp_path), Letters(), 4)
    assert found["dev"].scores == [0, 0.5, 1, 1.5]
    assert len(found["test"].first[0]) == len("ab, yes")
    (tmp_path / "stsb-en-dev.csv").write_text("one,two\n")
    with pytest.raises(CompressError, match=r"stsb-en-dev\.csv must have two sentences and a score a line"):
        load_pairs(tmp_path, Letters())
    (tmp_path / "stsb-en-test.csv").unlink()
    texts(tmp_path)
    (tmp_path / "stsb-en-train.csv").unlink()
    with pytest.raises(CompressError, match=r"texts must have stsb-en-train\.csv"):
        load_pairs(tmp_path, Letters())


@pytest.mark.parametrize(("name", "steps"), [("2 bits, SSVQ", 0), ("2 bits, SSVQ", 3), ("2 bits, MSVQ", 3)])
def test_a_run_measures_what_it_wrote(name: str, steps: int, tmp_path: Path) -> None:
    parts = load_pairs(texts(tmp_path), Letters())
    options = argparse.Namespace(
        steps=steps, lr=1e-3, device="cpu", threads=1, runs=tmp_path, output=tmp_path, seeds=(0,)
    )
    model = small()
    path = tmp_path / "run.msvq"
    (case,) = (case for case in sentences.CASES if case.name == name)
    report = sentences._one(model, case, 0, parts, options, path)
    assert report["bytes"] == path.stat().st_size
    assert -100 <= report["test"] <= 100
    # 2.05 bits, and tensors of so few weights have room for less.
    assert report["ratio_ideal"] >= 32 / 2.06
    assert ("losses" in report) == bool(steps)
    (tmp_path / "run.json").write_text(json.dumps(report))
    (tmp_path / "float.json").write_text(json.dumps({"scores": {"test": 80.0}}))
    sentences._report(options)
    table = (tmp_path / "minilm.md").read_text()
    assert f"| {report['test']:.2f} | {80 - report['test']:.2f} |" in table
    assert ("3 steps, rate 0.001" if steps else "| none |") in table


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "--model must be given"),
        (["--cases", "2 bit"], "case must be one of 2 bits, VQ, 2 bits, SSVQ"),
        (["--report-only"], "there is no run to report"),
        (["--steps", "-1"], "--steps must be at least 0, not -1"),
    ],
)
def test_the_command_names_what_is_wrong(
    given: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert minilm.main(["--runs", str(tmp_path), "--device", "cpu", *given]) == 2
    assert message in capsys.readouterr().err


def test_without_tuning_there_is_no_rate_and_other_studies_files_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rates: list[float] = []
    monkeypatch.setattr(sentences, "_all", lambda options, names: rates.append(options.lr))
    monkeypatch.setattr(sentences, "_report", lambda options: None)
    for steps in ("0", "60"):
        for lr in ("1e-3", "3e-4"):
            assert minilm.main(["--runs", str(tmp_path), "--device", "cpu", "--steps", steps, "--lr", lr]) == 0
    assert rates == [1e-3, 1e-3, 1e-3, 3e-4]
    monkeypatch.undo()
    (tmp_path / "other.json").write_text('{"case": "old case", "steps": 0, "lr": 0.1, "seed": 0}')
    assert minilm.main(["--runs", str(tmp_path), "--device", "cpu", "--report-only"]) == 2
    assert f"{tmp_path / 'other.json'} is of 'old case', and a case of this study is wanted" in capsys.readouterr().err
