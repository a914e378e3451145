"""Segmentation, and the whole way of a study of segmentation or detection, on small ones."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from experiments import camvid, detect, segmentation, shared_bits, vision_bits, vision_runs
from experiments.common import part_note
from experiments.vision import Study, cases_of
from experiments.vision_runs import Task, as_results, learn
from sw.compress.methods import CompressError, LayerSource, Recipe
from sw.compress.training.graph import calibrate, integer_graph, quantise_activations
from sw.compress.training.integer import export_integers, read_network, write_network
from sw.compress.training.modules import convert
from sw.compress.training.operations import compared_layers
from sw.format.container import read_container
from tests.experiments.archives import archive, picture
from tests.refusals import Refused, refusals
from tests.sw.devices import DEVICES


def test_camvid_is_resized_and_void_does_not_count(tmp_path: Path) -> None:
    image = np.full((360, 480, 3), 90, dtype=np.uint8)
    label = np.full((360, 480), 11, dtype=np.uint8)
    label[:, :240] = 4
    files = {"image/a.webp": picture(image, "WEBP"), "label/a.png": picture(label, "PNG")}
    pixels, labels = segmentation.load_part(archive(tmp_path / "train.tar", files))
    assert pixels.shape == (1, 3, 288, 384)
    assert (labels[0, :, :192] == 4).all()
    assert (labels[0, :, 192:] == 255).all()

    def results(values: Tensor) -> tuple[Tensor]:
        scores = torch.zeros(len(values), 11, 72, 96)
        scores[:, 4, :, :48], scores[:, 2, :, 48:] = 1, 1
        return (scores,)

    found = segmentation.mean_iou(results, torch.from_numpy(pixels), torch.from_numpy(labels).long())
    assert found["miou"] == found["pixels"] == 100
    with pytest.raises(CompressError, match="not no label of a"):
        segmentation.load_part(archive(tmp_path / "half.tar", {"image/a.webp": files["image/a.webp"]}))
    files["label/a.png"] = picture(label + 1, "PNG")
    with pytest.raises(CompressError, match=r"labels must be in 0\.\.11, not 12"):
        segmentation.load_part(archive(tmp_path / "wrong.tar", files))
    with pytest.raises(CompressError, match="data must have the parts as tar files, not"):
        segmentation.load_part(tmp_path / "missing.tar")


def test_the_segmenter_gives_a_quarter_of_the_rows_and_columns() -> None:
    model = segmentation.MobileNetSegmenter().eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 64, 96)).shape == (1, 11, 16, 24)


def test_labels_are_cropped_with_their_images() -> None:
    labels = torch.arange(11).repeat_interleave(35)[:384].expand(2, 288, 384)
    images = labels.to(torch.uint8)[:, None].expand(-1, 3, -1, -1) * 20
    batch = segmentation._views(images, labels, True)(torch.Generator().manual_seed(0))
    assert batch.shape == (2, 4, 288, 384)
    own, known = batch[0, 0], batch[0, 3].round()
    means = [float(own[known == kind].mean()) for kind in range(1, 12) if bool((known == kind).any())]
    assert len(means) > 3
    assert means == sorted(means)


def test_containers_of_a_study_are_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = small_study(cases=1)
    assert run_small(study, tmp_path) == 0
    run = json.loads((tmp_path / "runs" / "10x-SSVQ-0.json").read_text())
    made = str(tmp_path / "runs" / "10x-SSVQ-0.msvq")
    capsys.readouterr()
    before = sorted(tmp_path.rglob("*"))
    assert run_small(study, tmp_path, "--score", made, made) == 0
    near = run["integers"]["near"]
    line = f"{made}: near {near:.2f}, {100 - near:.2f} below float"
    dense, *lines = capsys.readouterr().out.splitlines()
    assert dense == "float: near 100.00"
    assert lines[:3] == lines[3:]
    assert lines[0] == line
    # Here the losses of the results add up.
    found = [re.fullmatch(r"    its (\w+) alone: [\d.]+, ([\d.]+) below float", each) for each in lines[1:3]]
    assert [each and each[1] for each in found] == ["coarse", "fine"]
    parts = [float(each[2]) for each in found if each]
    assert sum(parts) == pytest.approx(100 - near, abs=0.02)
    assert min(parts) > 0
    assert sorted(tmp_path.rglob("*")) == before
    # One that says nothing of its images, one of other results, and none.
    other, image = str(tmp_path / "other.msvq"), (3, 8, 8)
    graph = integer_graph(nn.Sequential(nn.Conv2d(3, 4, 1)).eval(), torch.zeros(2, *image))
    convert(graph, [], progress=False, one_scale=compared_layers(graph))
    graph = quantise_activations(graph, torch.zeros(2, *image)).eval()
    calibrate(graph, torch.randn(8, *image))
    network = export_integers(graph, image, values=True)
    for metadata, message in (
        ({}, f"of of {other!r} must be small, not None"),
        ({"of": "small"}, f"results of {other!r} must be [[2, 4, 4], [3, 4, 4]], not [[4, 8, 8]]"),
    ):
        write_network(other, network, metadata=metadata)
        assert run_small(study, tmp_path, "--score", made, other) == 2
        said = capsys.readouterr()
        assert message in said.err
        assert not said.out
    assert run_small(study, tmp_path, "--score", str(tmp_path / "none.msvq")) == 2
    assert "none.msvq" in capsys.readouterr().err


@pytest.mark.parametrize("module", [camvid, detect])
def test_the_commands_name_what_is_missing(module: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert module.main(["--runs", str(tmp_path), "--device", "cpu"]) == 2  # type: ignore[attr-defined]
    assert "--data must" in capsys.readouterr().err


class Small(nn.Module):
    """Three convolutions, a depthwise one between them, and two results."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.middle = nn.Sequential(nn.Conv2d(16, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        self.each = nn.Sequential(nn.Conv2d(64, 64, 3, 1, 1, groups=64, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        self.heads = nn.ModuleList(nn.Conv2d(64, count, 1) for count in (2, 3))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        values = self.each(self.middle(self.first(images)))
        return self.heads[0](values), self.heads[1](values)


class Deeper(Small):
    """Six more in its middle, of a size that a codebook of their own is dear to."""

    def __init__(self) -> None:
        super().__init__()
        more = [(nn.Conv2d(64, 64, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()) for _ in range(6)]
        self.middle.extend(nn.Sequential(*layers) for layers in more)


def small_study(cases: int = 4, statistics: bool = False, network: type[nn.Module] = Small) -> Study:
    """A study whose figure is the nearness to the float network."""
    torch.manual_seed(0)
    model, images = network().eval(), torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(3))

    def loss(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> Tensor:
        return torch.stack([(a - b).square().mean() for a, b in zip(found, wanted, strict=True)]).sum()

    @torch.no_grad()
    def score(results: Callable[[Tensor], tuple[Tensor, ...]]) -> dict[str, float]:
        near = 100 - 100 * float(loss(results(images), as_results(model(images))))
        return {"near": near, "choice": near}

    def task(options: argparse.Namespace) -> Task:
        del options
        return Task(
            model=model,
            sample=images,
            views=lambda generator: torch.randn(4, 3, 8, 8, generator=generator),
            loss=loss,
            choose=score,
            score=score,
            metadata={"of": "small"},
            names=("coarse", "fine"),
        )

    return Study(
        name="small",
        description=None,
        cases=cases_of("10x", 3.2)[:cases],
        last=("heads.0", "heads.1"),
        steps=3,
        task=task,
        add_options=lambda parser: None,
        figure="near",
        heading="near",
        note="A trial.",
        rates=(1e-3, 1e-2),
        statistics=statistics,
    )


def run_small(study: Study, folder: Path, *more: str) -> int:
    """The study's command."""
    where = ["--runs", str(folder / "runs"), "--output", str(folder), "--device", "cpu", "--threads", "1"]
    return study.main([*where, "--rates", "1e-3", "1e-2", "--seeds", "0", "1", *more])


def test_a_study_goes_the_whole_way_and_on_from_its_files(
    full: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = small_study(4 if full else 2)
    assert run_small(study, tmp_path, "--part", "0/2") == 0
    done = {path.name: path.read_bytes() for path in (tmp_path / "runs").iterdir()}
    assert {"10x-SSVQ-0.json", "10x-SSVQ-1.msvq", "try-10x-SSVQ-100-0.01.json", "float.json"} <= set(done)
    assert not any("MSVQ" in name for name in done)
    assert run_small(study, tmp_path, "--part", "1/2") == 0
    assert all((tmp_path / "runs" / name).read_bytes() == content for name, content in done.items())
    report = json.loads((tmp_path / "small.json").read_text())
    assert [each["case"] for each in report["summary"]] == [case.name for case in study.cases]
    assert all((each["seeds"], each["tries"]) == (2, 2) for each in report["summary"])
    for run in report["runs"]:
        path = tmp_path / "runs" / f"{run['case'].replace(' ', '-')}-{run['seed']}.msvq"
        assert run["bytes"] == path.stat().st_size
        assert len(read_network(path).outputs) == 2
        assert read_container(path).metadata["of"] == "small"
        assert 9.5 < run["ratio_ideal"] < 11
        # The integers are those of the network that was trained.
        assert run["integers"]["near"] == pytest.approx(run["trained"]["near"], abs=0.2)
        tries = [each for each in report["tries"] if each["case"] == run["case"]]
        assert run["lr"] == max(tries, key=lambda each: each["trained"]["choice"])["lr"]
    assert report["float"]["8 bit"]["scores"]["near"] > 99
    table = (tmp_path / "small.md").read_text()
    assert "All layers at 8 bit, not trained: 99." in table or "All layers at 8 bit, not trained: 100." in table
    assert table.count("\n| 10x") == len(study.cases)
    monkeypatch.setattr(vision_runs, "_compress", lambda *given: pytest.fail("a run was made anew"))
    assert run_small(study, tmp_path) == 0
    assert run_small(study, tmp_path, "--report-only", "--seeds", "0", "1", "0") == 0
    assert (tmp_path / "small.md").read_text() == table
    assert "A part of the data alone" not in table
    capsys.readouterr()
    assert run_small(study, tmp_path, "--steps", "9") == 2
    assert "of a run with steps 1, not 2: remove it, or name another directory by --runs" in capsys.readouterr().err
    assert run_small(study, tmp_path, "--images", "4") == 2
    assert "float.json is of a run with images None, not 4: remove it" in capsys.readouterr().err
    assert run_small(study, tmp_path, "--features", "1") == 2
    assert "of a run with features 0.0, not 1.0: remove it" in capsys.readouterr().err


def test_statistics_of_the_batch_are_replaced_by_those_of_the_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, bool]] = []
    begin, average = vision_runs.learn_together, vision_runs.recalibrate_batch_norm

    def learned(*given: object, **options: object) -> list[list[float]]:
        seen.append(("learn", bool(options["statistics"])))
        return begin(*given, **options)  # type: ignore[arg-type]

    def averaged(graph: nn.Module, batches: object) -> None:
        seen.append(("average", graph.training))
        average(graph, batches)  # type: ignore[arg-type]

    monkeypatch.setattr(vision_runs, "learn_together", learned)
    monkeypatch.setattr(vision_runs, "recalibrate_batch_norm", averaged)
    where = ["--runs", str(tmp_path / "runs"), "--output", str(tmp_path), "--device", "cpu", "--threads", "1"]
    assert small_study(1, statistics=True).main([*where, "--rates", "1e-3", "--seeds", "0"]) == 0
    assert seen == [("average", False), ("learn", True), ("average", False)] * 2
    run = json.loads((tmp_path / "small.json").read_text())["runs"][0]
    assert run["integers"]["near"] == pytest.approx(run["trained"]["near"], abs=0.2)


@refusals(
    """
    --part 2/2 -> --part must be I/N with I in 0..N-1, not '2/2'
    --part half -> --part must be I/N with I in 0..N-1, not 'half'
    --steps 0 -> --steps: must be an integer of at least 1, not '0'
    --together 0 -> --together: must be an integer of at least 1, not '0'
    --runs README.md -> --runs: must be a directory, not the file 'README.md'
    --output README.md -> --output: must be a directory, not the file 'README.md'
    --features -1 -> --features must be a finite number of at least 0, not -1
    --features nan -> --features must be a finite number of at least 0, not nan
    --seeds 100 -> --seeds must not have 100
    --report-only -> there is no run to report
    """
)
def test_bad_options_are_named_before_anything_is_done(
    arguments: list[str], message: str, tmp_path: Path, refused: Refused
) -> None:
    assert message in refused(lambda given: run_small(small_study(), tmp_path, *given), arguments)
    assert not (tmp_path / "runs").exists()


def test_learning_brings_the_loss_down_and_refuses_nan() -> None:
    model = nn.Conv2d(3, 1, 1)
    images = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    def loss(student: nn.Module, batch: Tensor) -> Tensor:
        return (student(batch) - batch.sum(1, keepdim=True)).square().mean()

    given = {"steps": 200, "device": "cpu", "seed": 0}
    found = learn(model, lambda generator: images, loss, lr=1e-1, **given)  # type: ignore[arg-type]
    assert len(found) == 2
    assert found[1] < found[0] / 5
    with pytest.raises(CompressError, match="the loss must be finite, not nan in step 99: try a lower rate"):
        learn(model, lambda generator: images * float("nan"), loss, lr=1e-3, **given)  # type: ignore[arg-type]


def test_measured_bits_fill_the_same_sum_and_are_kept_for_all_runs(
    full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = small_study(4 if full else 2, statistics=True)
    options = ["--allocate", "--level", "--features", "0.1", "--together", "3"]
    assert run_small(study, tmp_path, *options) == 0
    # Of 3.2 bits a weight of 16 x 64 x 9 weights.
    taken = re.findall(r"^10x \w+ ([\d,]+) of 29,491 bits$", capsys.readouterr().out, re.MULTILINE)
    assert len(taken) == len(study.cases)
    assert all(0 < int(bits.replace(",", "")) <= 29491 for bits in taken)
    report = json.loads((tmp_path / "small.json").read_text())
    for run in report["runs"]:
        bits = json.loads((tmp_path / "runs" / f"bits-{run['case'].replace(' ', '-')}-100.json").read_text())["recipes"]
        fields = ("method", "n", "m", "d", "k", "codeword_bits")
        assert bits.keys() == {"middle.0"}
        chosen = [bits["middle.0"][name] for name in fields]
        assert run["recipes"]["middle.0"][0] == chosen[0] != "int8"
        assert run["recipes"]["middle.0"][3:] == [*chosen[3:], None]
        assert 32 / run["ratio_ideal"] <= 3.2
        assert run["integers"]["near"] == pytest.approx(run["trained"]["near"], abs=0.2)
        assert run["together"] in (1, 2, 3)
        assert run["features"] == 0.1
    monkeypatch.setattr(vision_runs, "_compress", lambda *given: pytest.fail("a run was made anew"))
    assert run_small(study, tmp_path, *options) == 0
    assert run_small(study, tmp_path, "--allocate", "--level") == 2


@pytest.mark.parametrize(
    ("number", "menu"),
    [
        pytest.param(0, [(8, [(0, 0)], range(7))], id="ssvq", marks=pytest.mark.whole),
        pytest.param(1, [(16, [(4, 16), (8, 16)], range(6)), (8, [(4, 8)], range(5))], id="msvq"),
    ],
)
def test_layers_share_codebooks_within_the_same_bits(
    number: int, menu: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = small_study(statistics=True, network=Deeper)
    case = dataclasses.replace(study.cases[number], mean_bits=2.2)
    monkeypatch.setitem(vision_bits.LENGTHS, case.recipe.method, menu)
    given = ["--allocate", "--level", "--share", "--seeds", "0"]
    assert run_small(dataclasses.replace(study, cases=[case]), tmp_path, *given) == 0
    run = json.loads((tmp_path / "small.json").read_text())["runs"][0]
    names = [recipe[-1] for recipe in run["recipes"].values()]
    (shared,) = {name for name in names if names.count(name) > 1 and name is not None}
    # Of 2.2 bits a weight, the shared codebooks among them, once.
    assert 2.0 < 32 / run["ratio_ideal"] <= 2.2
    layers = read_container(next((tmp_path / "runs").glob("*-0.msvq"))).layers
    books = [layer.codebook for layer in layers if layer.codebook_name == shared]
    assert len(books) == names.count(shared)
    assert all(np.array_equal(book, books[0]) for book in books)
    assert run["integers"]["near"] == pytest.approx(run["trained"]["near"], abs=0.2)


@pytest.mark.parametrize("allocate", [False, True])
def test_runs_with_equal_bits_do_not_say_that_layers_share(
    allocate: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--no-allocate`` alone takes back what a study has by default, shared codebooks among it."""
    seen: list[bool] = []
    monkeypatch.setattr(vision_runs, "run_all", lambda study, options: seen.append(options.share))
    monkeypatch.setattr(vision_runs, "report", lambda study, options: seen.append(options.share))
    study = dataclasses.replace(small_study(), share=True)
    assert run_small(study, tmp_path, "--allocate" if allocate else "--no-allocate") == 0
    assert seen == [allocate, allocate]


def test_a_case_of_several_methods_has_what_each_of_them_has() -> None:
    weights = np.random.default_rng(0).standard_normal((32, 64, 3, 3), dtype=np.float32)
    source = LayerSource("layer", "conv", weights, padding=(1, 1))
    methods = {"20x SSVQ": "ssvq", "20x MSVQ": "msvq", "20x VQ": "vq", "20x MVQ": "mvq"}
    alone = {case.name: vision_bits.method_recipes(case, 3) for case in detect.SMALLEST}
    assert {name: [recipe.method for recipe in own] for name, own in alone.items()} == {
        name: [method] for name, method in methods.items()
    }
    together = vision_bits.method_recipes(detect.MIXED, 3)
    for choices in (lambda own: vision_bits.menu(source, own), lambda own: list(shared_bits._shared(own))):
        found = choices(together)
        assert set(found) == {recipe for own in alone.values() for recipe in choices(own)}
        assert len(found) == len(set(found))
        assert {recipe.seed for recipe in found} == {3}


def test_a_shared_codebook_must_be_worth_its_bits() -> None:
    """Two books of ten bits: one is worth its bits for two layers, none for one."""
    books = [Recipe("vq", 5, 1, codeword_bits=2, scope="crosslayer", seed=seed) for seed in range(2)]
    own = Recipe("vq", 2, 1)
    choices = {
        name: [(10, 0.8, own), (30, 0.1, own), (12, 0.2, books[0]), (14, 0.1, books[1])] for name in ("a", "b", "c")
    }
    even = dict.fromkeys(choices, 1.0)
    # 36 bits of the three, and ten of their codebook.
    assert shared_bits._selected(choices, even, 46) == ({books[0]}, dict.fromkeys(choices, 2))
    assert shared_bits._selected(choices, even, 52) == ({books[1]}, dict.fromkeys(choices, 3))
    # Without room for one and what it needs, each has its own.
    assert shared_bits._selected(choices, even, 30) == (frozenset(), dict.fromkeys(choices, 0))
    assert shared_bits._selected(choices, even, 29)[1] == {}
    # Where only one layer matters, its own codewords are cheaper.
    single = {"a": choices["a"], **{name: choices[name][:1] for name in ("b", "c")}}
    assert shared_bits._selected(single, even, 51) == (frozenset(), {"a": 1, "b": 0, "c": 0})


def test_level_rows_are_the_same_function() -> None:
    torch.manual_seed(1)
    model = Small().eval()
    norm = model.middle[1]
    assert isinstance(norm, nn.BatchNorm2d)
    norm.running_var.uniform_(0.01, 2)  # type: ignore[union-attr]
    model.middle[0].weight.data *= torch.rand(64, 1, 1, 1) + 0.01  # type: ignore[operator]
    images = torch.randn(4, 3, 8, 8)
    graph = integer_graph(copy.deepcopy(model), images)
    vision_bits.level_rows(graph, ["middle.0"])
    with torch.no_grad():
        for found, wanted in zip(graph(images), model(images), strict=True):
            assert float((found - wanted).abs().max()) < 1e-5 * float(wanted.abs().max())
    rows = graph.get_submodule("middle.0").weight.detach().flatten(1).square().mean(1)  # type: ignore[union-attr,operator]
    assert float(rows.std() / rows.mean()) < 1e-5


def test_each_run_begins_from_the_float_network_though_it_is_traced_once() -> None:
    study = small_study()
    task = study.task(argparse.Namespace())
    wanted = {key: value.clone() for key, value in task.model.state_dict().items()}
    for level in (True, False, True):
        graph = vision_runs._float_graph(task, study, level)
        same = all(torch.equal(value, wanted[key]) for key, value in graph.state_dict().items() if key in wanted)
        assert same != level
        for value in graph.state_dict().values():
            value.zero_()


def test_networks_side_by_side_learn_what_each_does_alone() -> None:
    images = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    def lesson(seed: int, lr: float) -> vision_runs.Lesson:
        torch.manual_seed(seed)
        views = lambda generator: images + torch.rand(4, 3, 4, 4, generator=generator)  # noqa: E731
        return vision_runs.Lesson(nn.Conv2d(3, 1, 1), views, lambda net, batch: net(batch).square().mean(), lr, seed)

    pairs = [(0, 1e-2), (1, 1e-1)]
    together = vision_runs.learn_together([lesson(*pair) for pair in pairs], steps=20, device="cpu")
    alone = [vision_runs.learn_together([lesson(*pair)], steps=20, device="cpu")[0] for pair in pairs]
    assert together == alone
    assert together[0] != together[1]


@pytest.mark.parametrize("device", DEVICES)
def test_batches_are_those_of_views_one_after_the_other(device: str) -> None:
    def views(generator: torch.Generator) -> Tensor:
        return torch.randn(2, 3, 64, 64, generator=generator).to(device) * 2 + 1

    sums = torch.zeros((), dtype=torch.float64, device=device)

    def loss(net: nn.Module, batch: Tensor) -> Tensor:
        # Sums forget: they say in what order batches came.
        sums.mul_(0.9).add_(batch.double().sum())
        return net(batch).square().mean()

    vision_runs.learn(nn.Conv2d(3, 1, 1).to(device), views, loss, lr=1e-3, seed=7, steps=120, device=device)
    generator, wanted = torch.Generator().manual_seed(7), 0.0
    for _ in range(120):
        wanted = 0.9 * wanted + float(views(generator).double().sum())
    assert float(sums) == pytest.approx(wanted, rel=1e-9)


def test_the_note_says_where_a_part_of_the_data_was_all() -> None:
    runs = [{"images": 40}, {"images": None}, {}, {"images": 8}]
    assert part_note(runs, "images") == " **A part of the data alone: --images 8, 40.**"
    assert part_note(runs[1:3], "images") == part_note(runs, "pairs") == ""


def test_the_note_says_what_runs_learned_from() -> None:
    views = {"data": 103, "more": 6543, "small": 0, "whole": 256}
    runs = [{"views": views}, {"views": views}]
    note = " Pictures: 103 of --data, 6,543 of --more; 256 whole ones for batch norms."
    assert vision_runs._pictures(runs) == note
    # Runs that learned from others are told apart; some say nothing of it.
    other = {"views": views | {"small": 45000, "whole": 64}}
    assert vision_runs._pictures([*runs, other]).count(" Pictures: ") == 2
    assert "6,543 of --more, 45,000 of --small; 64 whole" in vision_runs._pictures([other])
    assert vision_runs._pictures([{}, {"views": {}}, {"views": {"batch": 32, "more": True, "small": True}}]) == ""
    views |= {"data_part": 0.125, "least_area": 0.8, "mix": 0.0}
    assert vision_runs._pictures([{"views": views}]).endswith(" 0.8 or more of a picture, 0 of batches mixed.")
    coloured = {"views": views | {"recolour": 0.3}}
    assert vision_runs._pictures([coloured]).endswith(", 0 of batches mixed, colours varied by 0.3.")
    rare = coloured["views"] | {"four_part": 0.25, "balance": 0.5, "class_weight": 4.0, "class_power": 0.5}
    said = ", 0.25 of four pictures, rare classes by a power of 0.5, classes count 4 times, by objectness"
    assert vision_runs._pictures([{"views": rare}]).endswith(f"{said} to the power of 0.5.")
    alone = vision_runs._pictures([{"views": rare | {"more": 0}}])
    assert alone.endswith("varied by 0.3, classes count 4 times, by objectness to the power of 0.5.")
