"""The experiments' commands, on a few random images."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from experiments import distil, finetune, narrow, signs, table3, tiny, train_float
from experiments.common import read_run, run_file
from experiments.finetune import Case, compress, most_codewords, rules_for
from experiments.models import MODELS, VisionTransformer, build
from sw.compress.methods import CompressError, LayerSource, Recipe, compress_layer, compress_layers, misfit, recipe_bits
from sw.compress.network import module_sources
from sw.compress.ratio import layer_bits, sum_bits
from sw.format.container import read_container
from sw.network import network_of


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cifar") / "cifar.npz"
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (16, 32, 32, 3), np.uint8), np.arange(16) % 5
    np.savez(path, train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    return path


def test_files_of_runs_are_read_or_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"case": "a", "lr": 0.1, "config": 3}')
    assert run_file(path, "case", "lr") == read_run(path, {"lr": 0.1}, {}) == {"case": "a", "lr": 0.1, "config": 3}
    with pytest.raises(CompressError, match=r"a\.json is no run's file: it must have case, steps: remove it"):
        run_file(path, "case", "steps")
    for content in (path.read_bytes()[:-4], b"\xff", b"[" * 100_000, b'{"case": 1, "case": 2}', b"[]"):
        path.write_bytes(content)
        with pytest.raises(CompressError, match=r"a\.json is no run's file: .*: remove it") as caught:
            run_file(path)
        assert "\n" not in str(caught.value)


def test_a_run_that_is_damaged_is_named(cifar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "SSVQ-frozen--majority-0.json"
    run.write_text('{"config": {')
    study = ["vit", "--data", str(cifar), "--runs", str(tmp_path), "--output", str(tmp_path), "--seeds", "0"]
    assert signs.main([*study, "--report-only"]) == 2
    error = capsys.readouterr().err
    assert f"{run} is no run's file: " in error
    assert error.count("\n") == 1


@pytest.fixture(scope="module")
def corners(cifar: Path) -> Path:
    """A sixteenth of each image: ResNets take any size, and a sixteenth of the time."""
    with np.load(cifar) as whole:
        parts = {name: whole[name][:, :8, :8] if "images" in name else whole[name] for name in whole}
    path = cifar.with_name("corners.npz")
    np.savez(path, **parts)
    return path


@pytest.mark.parametrize(
    ("name", "millions"),
    [("resnet20", 0.27), ("resnet18", 11.17), ("mobilenetv2", 2.24), ("vit", 5.36), ("vit-narrow", 0.61)],
)
def test_models(name: str, millions: float) -> None:
    model = build(name).eval()
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.02)
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


@pytest.mark.parametrize(
    ("name", "side", "millions"), [("resnet18-64", 64, 11.22), ("mobilenetv2-64", 64, 2.35), ("dinov2-s", 98, 21.62)]
)
def test_models_of_100_classes(name: str, side: int, millions: float) -> None:
    model = build(name).eval()
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.01)
    with torch.no_grad():
        assert model(torch.zeros(1, 3, side, side)).shape == (1, 100)


def test_unknown_model() -> None:
    with pytest.raises(CompressError, match=f"model must be one of {', '.join(MODELS)}, not 'vgg'"):
        build("vgg")


def conv(shape: tuple[int, ...]) -> LayerSource:
    return LayerSource("layer", "conv", np.random.default_rng(0).standard_normal(shape).astype(np.float32))


@pytest.mark.parametrize("method", ["vq", "mvq", "ssvq", "msvq"])
def test_most_codewords_fill_the_bits(method: str) -> None:
    source, recipe = conv((64, 64, 3, 3)), Recipe(method, 2, 16, 4, 16)
    ((name, chosen),) = rules_for([source], Case("case", recipe, bits=1.5), 0)
    assert (name, chosen.k) == ("layer", most_codewords(64 * 64 * 9, recipe, 1.5, recipe.masked))
    assert 1.2 < layer_bits(compress_layer(source, chosen)).per_weight <= 1.5
    assert most_codewords(64 * 64 * 9, recipe, 0.01, recipe.masked) == 0


@pytest.mark.parametrize(("method", "d"), [("vq", 4), ("vq", 8), ("mvq", 16), ("ssvq", 8), ("msvq", 16)])
@pytest.mark.parametrize("bits", [1.515, 2.02, 4.0])
def test_layers_take_equal_bits_together(method: str, d: int, bits: float) -> None:
    masked = method in ("mvq", "msvq")
    sources = [
        replace(conv(shape), name=name)
        for name, shape in [
            ("conv1", (64, 3, 3, 3)),
            ("a", (64, 64, 3, 3)),
            ("b", (128, 64, 3, 3)),
            ("c", (72, 64, 1, 1)),
        ]
    ]
    recipe = Recipe(method, 2, d, *((4, 16) if masked else (0, 0)))
    rules = dict(rules_for(sources, Case("case", recipe, mean_bits=bits), 0))
    # c has 72 channels, which 16 does not divide: it stays at 8 bit, and the others make up for it.
    assert list(rules) == (["a", "b"] if masked else ["a", "b", "c"])
    layers = compress_layers(sources[1:], [rules.get(source.name, Recipe("int8")) for source in sources[1:]])
    assert sum_bits(map(layer_bits, layers)).per_weight == pytest.approx(bits, rel=0.01)


@pytest.mark.parametrize(("study", "network"), [(tiny, "resnet18-64"), *((distil, name) for name in distil.CONFIGS)])
def test_rows_of_a_size_take_equal_bits(study: Any, network: str) -> None:
    coded = [
        source
        for source in module_sources(build(network))
        if source.name not in finetune.KEPT_8BIT and misfit(source, Recipe("vq", 1, 1, 0, 0)) != "depthwise"
    ]
    weights = sum(source.weight.size for source in coded)
    sizes: dict[float, list[float]] = {}
    for case in study.cases(network):
        if case.mean_bits is not None:
            rules = dict(rules_for(coded, case, 0))
            bits = sum(
                recipe_bits(source.weight.size, rules[source.name]).total
                if source.name in rules
                else 8 * source.weight.size
                for source in coded
            )
            sizes.setdefault(case.mean_bits, []).append(bits / weights)
    assert len(sizes) == (5 if study is tiny else 4)
    for wanted, found in sizes.items():
        assert len(found) >= 4
        assert wanted > 0.99 * max(found)
        # The files, whose other layers have 8 bits, are nearer to each other.
        assert max(found) < 1.02 * min(found)


def test_depthwise_layers_do_not_count() -> None:
    deep = LayerSource("deep", "conv", np.ones((64, 1, 3, 3), np.float32), padding=(1, 1), groups=64)
    wide, case = conv((256, 128, 3, 3)), Case("case", Recipe("vq", 2, 8, 0, 0), mean_bits=1.475)
    ((name, recipe),) = rules_for([deep, wide], case, 0)
    assert name == "layer"
    assert layer_bits(compress_layer(wide, recipe)).per_weight == pytest.approx(1.475, rel=0.01)


def test_a_shared_codebook_fills_the_bits_of_all_layers() -> None:
    sources = [replace(conv((32, 16, 3, 3)), name=name) for name in ("conv1", "a", "b")]
    rules = rules_for(sources, Case("case", Recipe("mvq", 2, 16, 4, 16, scope="crosslayer"), bits=1.4), 0)
    layers = compress_layers(sources[1:], [recipe for _, recipe in rules])
    assert [name for name, _ in rules] == ["a", "b"]
    assert 1.2 < sum_bits(map(layer_bits, layers)).per_weight <= 1.4


def test_case_c_decodes_with_the_masks_of_the_weights() -> None:
    model = nn.Sequential(nn.Conv2d(16, 32, 3))
    weight = model[0].weight.detach().clone().numpy()
    case = Case("C", Recipe("vq", 16, 16, 4, 16), masks=True)
    (layer,) = compress(model, case, 0, torch.zeros(1), "cpu", progress=False)
    assert layer.method == "mvq"
    kept = np.sort(np.abs(weight).reshape(2, 16, -1), axis=1)[:, 12]
    np.testing.assert_array_equal(
        layer.masks, (np.abs(weight).reshape(2, 16, -1) >= kept[:, None]).transpose(0, 2, 1).reshape(-1, 16)
    )


@pytest.mark.whole
def test_the_way_from_floats_to_a_table(corners: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--data", str(corners), "--device", "cpu", "--quiet", "--epochs", "1", "--output", str(tmp_path)]
    dense, sparse = str(tmp_path / "dense.pt"), str(tmp_path / "sparse.pt")
    assert train_float.main(["resnet20", *common, "--weights", dense]) == 0
    assert train_float.main(["resnet20", *common, "--start", dense, "--sparse", "sr-ste", "--weights", sparse]) == 0
    chosen = ["C", "MSVQ", "LSQ 2 bit"]
    study = ["resnet20", *common, "--weights", dense, "--sparse-weights", sparse, "--runs", str(tmp_path / "runs")]
    assert table3.main([*study, "--seeds", "0", "--cases", *chosen, "--containers"]) == 0
    report = json.loads((tmp_path / "table3-resnet20.json").read_text())
    assert [run["case"] for run in report["runs"]] == chosen
    assert all(run["golden_logits_equal"] for run in report["runs"])
    assert 21 < report["runs"][1]["ratio_ideal"] < 25
    assert report["runs"][2]["ratio_ideal"] == pytest.approx(16)
    file = tmp_path / "runs" / "MSVQ-0.msvq"
    assert file.stat().st_size == report["runs"][1]["file_bytes"]
    assert "| MSVQ |" in (tmp_path / "table3-resnet20.md").read_text()
    assert table3.main([*study, "--cases", "E"]) == 2
    assert "case must be one of A, B, C, D, D crosslayer" in capsys.readouterr().err


def test_a_transformer_is_measured_from_its_integers(
    cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def small(name: str, weights: Path) -> nn.Module:
        torch.manual_seed(0)
        return VisionTransformer(depth=1, width=32, heads=2).eval()

    monkeypatch.setattr(finetune, "build", small)
    study = ["vit", "--data", str(cifar), "--device", "cpu", "--quiet", "--epochs", "1", "--output", str(tmp_path)]
    study += ["--weights", str(tmp_path), "--runs", str(tmp_path / "runs"), "--seeds", "0", "--containers"]
    assert signs.main([*study, "--cases", "SSVQ frozen, majority"]) == 0
    (run,) = json.loads((tmp_path / "signs-vit.json").read_text())["runs"]
    assert run["golden_logits_equal"]
    file = tmp_path / "runs" / "SSVQ-frozen--majority-0.msvq"
    assert file.stat().st_size == run["file_bytes"]
    assert network_of(read_container(file)).in_steps


@pytest.mark.whole
def test_a_study_starts_from_the_network_of_each_case(
    corners: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("experiments.common.WEIGHTS", tmp_path)
    common = ["--data", str(corners), "--device", "cpu", "--quiet", "--epochs", "1", "--output", str(tmp_path)]
    assert train_float.main(["resnet20", *common]) == 0
    sparse = ["resnet20", *common, "--start", str(tmp_path / "resnet20.pt"), "--sparse", "sr-ste", "--nm"]
    assert train_float.main([*sparse, "2:16"]) == 0
    kept = build("resnet20", tmp_path / "resnet20-sr-ste-2-16.pt").layer1[0].conv1.weight != 0
    assert kept.float().mean() == 2 / 16
    assert train_float.main([*sparse, "2"]) == 2
    assert "--nm must be N:M, such as 4:16, not '2'" in capsys.readouterr().err
    study = ["resnet20", *common, "--runs", str(tmp_path / "runs"), "--seeds", "0"]
    assert table3.main([*study, "--cases", "38x MVQ 2:16 crosslayer"]) == 0
    assert table3.main([*study, "--cases", "D"]) == 2
    assert "resnet20-sr-ste.pt" in capsys.readouterr().err


@pytest.fixture
def study(cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments of a study of a small transformer, whose results are read from where they are written."""
    monkeypatch.setattr(finetune, "build", lambda name, weights: VisionTransformer(depth=1, width=32, heads=2).eval())
    monkeypatch.setattr("experiments.study.RESULTS", tmp_path)
    arguments = ["vit", "--data", str(cifar), "--device", "cpu", "--quiet", "--output", str(tmp_path)]
    return [*arguments, "--weights", str(tmp_path), "--cases", "VQ d=8", "--epochs", "1"]


def rates_of(report: Path) -> list[float]:
    return [run["config"]["lr"] for run in json.loads(report.read_text())["runs"]]


@pytest.mark.whole
def test_a_study_takes_the_rates_that_were_best(
    study: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def accuracy_by_rate(*arguments: Any, **options: Any) -> dict[str, Any]:
        return fine_tune(*arguments, **options) | {"accuracy": {1e-5: 60.0, 1e-4: 80.0, 1e-3: 80.0}[arguments[3].lr]}

    fine_tune = finetune.run
    monkeypatch.setattr("experiments.finetune.run", accuracy_by_rate)
    rates = [*study, "--runs", str(tmp_path / "rates"), "--rates", "1e-3"]
    assert signs.main([*rates, "1e-5"]) == 0
    assert json.loads((tmp_path / "rates-signs-vit.json").read_text())["best"] == {"VQ d=8": 1e-3}
    assert signs.main([*rates, "1e-5", "1e-4"]) == 0
    report = tmp_path / "rates-signs-vit.json"
    assert json.loads(report.read_text())["best"] == {"VQ d=8": 1e-4}
    assert sorted(rates_of(report)) == [1e-5, 1e-4, 1e-3]
    assert "| VQ d=8 | 60.00 | 80.00 | 80.00 | 0.0001 |" in report.with_suffix(".md").read_text()
    assert {run["seed"] for run in json.loads(report.read_text())["runs"]} == {100}

    # Of rates with two seeds and one, those with two count.
    assert signs.main([*rates, "1e-5", "--seeds", "101"]) == 0
    assert signs.main([*rates, "1e-5", "1e-4", "--seeds", "100", "101", "--report-only"]) == 0
    assert json.loads(report.read_text())["best"] == {"VQ d=8": 1e-3}
    assert "| VQ d=8 | 60.00 ± 0.00 | 80.00 | 80.00 ± 0.00 | 0.001 |" in report.with_suffix(".md").read_text()

    runs = [*study, "--runs", str(tmp_path / "runs"), "--seeds", "0"]
    assert signs.main(runs) == 0
    assert rates_of(tmp_path / "signs-vit.json") == [1e-3]
    assert signs.main([*study, "--runs", str(tmp_path / "others"), "--seeds", "0", "--lr", "1e-4"]) == 0
    assert rates_of(tmp_path / "signs-vit.json") == [1e-4]


def test_runs_with_other_settings_are_not_mixed(
    study: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [*study, "--runs", str(tmp_path / "runs"), "--seeds", "0"]
    assert signs.main(runs) == 0
    file = tmp_path / "runs" / "VQ-d-8-0.json"
    before = file.read_bytes()
    assert signs.main([*runs, "0"]) == 0
    assert len(json.loads((tmp_path / "signs-vit.json").read_text())["runs"]) == 1
    for other, difference in [
        (["--lr", "0.25"], "lr 0.0005, not 0.25"),
        (["--epochs", "2"], "epochs 1, not 2"),
        (["--images", "8"], "batch 11, not 5"),
    ]:
        capsys.readouterr()
        assert signs.main([*runs, *other]) == 2
        expected = f"{file} is of a run with {difference}: remove it, or name another directory by --runs"
        assert expected in capsys.readouterr().err
        assert file.read_bytes() == before
    entry = json.loads(before)
    # A setting that is newer than the file was as if it had its default.
    older = {name: value for name, value in entry["config"].items() if name != "epoch_steps"}
    file.write_text(json.dumps(entry | {"config": older}))
    assert signs.main(runs) == 0
    assert json.loads(file.read_text())["config"] == older
    file.write_text(json.dumps(entry | {"network": "resnet20"}))
    capsys.readouterr()
    for given in ([], ["--report-only"]):
        assert signs.main([*runs, *given]) == 2
        assert "resnet20" in capsys.readouterr().err
    file.write_text(json.dumps(entry | {"images": 1000}))
    assert signs.main(runs) == 2
    assert "images 1000, not 11" in capsys.readouterr().err
    file.write_bytes(before[:100])
    assert signs.main(runs) == 2
    assert f"{file} is no run's file: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", ["--jobs 0", "--gpus 0", "--epochs 0", "--epochs -1", "--images 0", "--images -3", "--images x"]
)
def test_numbers_of_things_are_at_least_one(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        signs.main(["vit", *option.split()])
    assert stopped.value.code == 2
    name, value = option.split()
    assert f"argument {name}: must be an integer of at least 1, not '{value}'" in capsys.readouterr().err


def test_what_is_missing_is_named_before_the_work(
    cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("experiments.common.WEIGHTS", tmp_path)
    monkeypatch.setattr("experiments.study._one", lambda *given: pytest.fail("a run began"))
    common = ["resnet20", "--data", str(cifar), "--quiet", "--output", str(tmp_path), "--device"]
    study = ["--runs", str(tmp_path / "runs"), "--cases", "C", "MSVQ"]
    assert table3.main([*common, "cpu", *study, "--weights", str(tmp_path)]) == 2
    written = f"weights {tmp_path / 'resnet20-sr-ste.pt'} must exist: python -m experiments.train_float resnet20"
    assert f"{written} --start FILE --sparse sr-ste --nm 4:16 makes them" in capsys.readouterr().err
    assert train_float.main([*common, "cuda:99"]) == 2
    assert "device 'cuda:99' is not there: PyTorch sees" in capsys.readouterr().err
    grey = np.zeros((20, 32, 32), np.uint8)
    parts = {
        f"{part}_{what}": data
        for part in ("train", "test")
        for what, data in (("images", grey), ("labels", np.arange(20) // 2))
    }
    np.savez(tmp_path / "grey.npz", **parts)
    assert train_float.main([*common, "cpu", "--data", str(tmp_path / "grey.npz")]) == 2
    assert "the network must take images [1, 32, 32] in float32: " in capsys.readouterr().err


def test_reports_need_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert signs.main(["vit", "--report-only", "--runs", str(tmp_path)]) == 2
    assert "there is no run to report" in capsys.readouterr().err


@pytest.mark.parametrize("network", narrow.STUDY.configs)
def test_narrow_codewords_differ_from_wide_ones_in_nothing_else(network: str) -> None:
    cases = {case.name: case for case in narrow.cases(network)}
    compared = [case for case in cases.values() if case.recipe.codeword_bits < 8]
    # Of the pretrained transformer MSVQ alone.
    assert {case.recipe.method for case in compared} == ({"msvq"} if network == "dinov2-s" else {"msvq", "mvq", "ssvq"})
    for case in compared:
        wide = cases[case.name.partition(",")[0] + ", 8 bits"]
        assert wide.recipe.codeword_bits == 8
        # Tries of their own, as many as those of 8 bits, or none and the rate of those.
        assert case.rate_of == ("" if network in narrow.OWN_RATES else wide.name)
        assert case.distil == (network in narrow.TAUGHT)
        assert replace(case.recipe, codeword_bits=8) == wide.recipe
        assert replace(case, name=wide.name, recipe=wide.recipe, rate_of="") == wide
