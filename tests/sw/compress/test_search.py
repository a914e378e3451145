from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sw.compress.__main__ import main
from sw.compress.methods import CompressError, LayerSource, Recipe, compress_layers
from sw.compress.network import compress_network, module_sources, tied_layers
from sw.compress.rules import read_rules
from sw.compress.search import CANDIDATES as DEFAULT_CANDIDATES
from sw.compress.search import Plan, choose, loss_sensitivity, plan_json, search, with_codeword_bits
from sw.compress.training.modules import compressed_layers, convert
from sw.format.container import read_container, write_container
from tests.refusals import Refused

CANDIDATES = (
    Recipe("lsq3"),
    Recipe("vq", 16, 8, 0, 0),
    Recipe("ssvq", 8, 8, 0, 0),
    Recipe("mvq", 32, 16, 4, 16),
    Recipe("msvq", 4, 16, 4, 16),
    Recipe("msvq", 16, 16, 8, 16),
)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(
            stem=nn.Conv2d(3, 32, 3, padding=1),
            relu=nn.ReLU(),
            depthwise=nn.Conv2d(32, 32, 3, padding=1, groups=32),
            wide=nn.Conv2d(32, 64, 3, padding=1),
            average=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            classify=nn.Linear(64, 10),
        )
    )


@pytest.mark.parametrize("seed", range(8))
def test_choice_is_as_good_as_the_best_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [int(rng.integers(1, 6)) for _ in range(5)]
    sizes = [rng.integers(1, 1000, count).tolist() for count in rows]
    # Some errors are equal, some 0.
    errors = [(rng.integers(0, 4, count) * rng.random(count).round(1)).tolist() for count in rows]
    low, high = sum(map(min, sizes)), sum(map(max, sizes))
    for budget in np.linspace(low, high + 1, 7).astype(int).tolist():
        allowed = [
            sum(row[j] for row, j in zip(errors, chosen, strict=True))
            for chosen in itertools.product(*map(range, rows))
            if sum(row[j] for row, j in zip(sizes, chosen, strict=True)) <= budget
        ]
        chosen = choose(sizes, errors, budget)
        assert sum(row[j] for row, j in zip(sizes, chosen, strict=True)) <= budget
        assert sum(row[j] for row, j in zip(errors, chosen, strict=True)) == pytest.approx(min(allowed), abs=1e-9)


def test_choice_keeps_to_a_budget_that_the_solvers_tolerance_would_pass() -> None:
    sizes, errors = [[10**7 + 1, 0], [10**7, 0]], [[0.0, 1.0], [0.0, 1.0]]
    assert sorted(choose(sizes, errors, 2 * 10**7)) == [0, 1]
    assert choose(sizes, errors, 2 * 10**7 + 1) == [0, 0]


def test_choice_refuses_a_budget_below_the_least() -> None:
    with pytest.raises(CompressError, match="the budget must be at least 7, the sum of the least sizes, not 6"):
        choose([[3, 9], [4, 5]], [[0, 0], [0, 0]], 6)


@pytest.mark.parametrize("budget", [5_500, 6_500, 9_000, 13_000, 21_000, 40_000])
def test_plan_fits_to_the_byte_and_no_other_choice_is_better(budget: int, tmp_path: Path) -> None:
    sources = module_sources(network())
    sensitivity = {"stem": 3.0, "depthwise": 10.0, "wide": 1.0, "classify": 0.0}
    plan = search(sources, budget, candidates=CANDIDATES, sensitivity=sensitivity, progress=False)
    assert plan.bytes <= budget

    model = network()
    convert(model, plan.rules, progress=False)
    write_container(tmp_path / "network", compressed_layers(model))
    assert (tmp_path / "network").stat().st_size == plan.bytes

    def error(recipes: tuple[Recipe, ...]) -> float:
        layers = compress_layers(sources, recipes)
        return math.fsum(
            sensitivity[source.name] * float(((layer.float_weights() - source.weight.astype(np.float64)) ** 2).sum())
            for source, layer in zip(sources, layers, strict=True)
        )

    assert plan.error == pytest.approx(error(tuple(plan.recipes.values())))
    if budget not in (6_500, 13_000):
        return
    # The classifier's error weighs nothing, so it takes the fewest bits; depthwise and it can only be uniform.
    tried = (Recipe("int8"), *CANDIDATES)
    uniform = tried[:2]
    better = []
    for recipes in itertools.product(tried, uniform, tried, uniform[1:]):
        trial = network()
        rules = list(zip(plan.recipes, recipes, strict=True))
        found = error(recipes)
        if found < plan.error * (1 - 1e-9):
            convert(trial, rules, progress=False)
            write_container(tmp_path / "trial", compressed_layers(trial))
            if (tmp_path / "trial").stat().st_size <= budget:
                better.append((recipes, found))
    assert not better


class Tied(nn.Module):
    """Two layers with one weight, of other strides, between others."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.first = nn.Conv2d(32, 32, 3, padding=1)
        self.second = nn.Conv2d(32, 32, 3, padding=1, stride=2)
        self.second.weight = self.first.weight
        self.last = nn.Conv2d(32, 32, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.second(self.first(self.stem(x)))).mean((2, 3))


@pytest.mark.parametrize(("budget", "crosslayer"), [(11_000, True), (11_000, False), (15_000, False), (30_000, True)])
def test_tied_layers_are_planned_as_one(budget: int, crosslayer: bool, tmp_path: Path) -> None:
    sources, tied = module_sources(Tied()), tied_layers(Tied())
    assert tied == {"second": "first"}
    candidates = (*CANDIDATES, *[Recipe("msvq", 8, 16, 4, 16, scope="crosslayer")] * crosslayer)
    # By themselves one would weigh little and the other much.
    sensitivity = {"stem": 1.0, "first": 0.01, "second": 5.0, "last": 1.0}
    plan = search(sources, budget, candidates=candidates, sensitivity=sensitivity, tied=tied, progress=False)
    assert plan.recipes["first"] == plan.recipes["second"]
    model = Tied()
    convert(model, plan.rules, progress=False)
    write_container(tmp_path / "network", compressed_layers(model))
    assert (tmp_path / "network").stat().st_size == plan.bytes <= budget
    layers = compress_layers(sources, list(plan.recipes.values()))
    squares = [
        float(((layer.float_weights() - source.weight.astype(np.float64)) ** 2).sum())
        for layer, source in zip(layers, sources, strict=True)
    ]
    if not crosslayer:
        # A codebook of several layers is clustered with all that it fits, not with those that took it.
        assert plan.error == pytest.approx(sum(sensitivity[s.name] * e for s, e in zip(sources, squares, strict=True)))
    with pytest.raises(CompressError, match="layers 'stem' and 'last' are tied and must have one weight"):
        search(sources, budget, candidates=candidates, tied={"last": "stem"}, progress=False)


def test_sensitivity_of_tied_layers_is_counted_once() -> None:
    tied, model = Tied(), Tied()
    model.second.weight = nn.Parameter(model.first.weight.detach().clone())
    layers, _ = compress_network(module_sources(tied), Recipe("lsq2"))
    images = torch.randn(8, 3, 8, 8)
    found = loss_sensitivity(tied, layers, images, progress=False)
    assert found["first"] == found["second"] > 0
    apart = loss_sensitivity(model, layers, images, progress=False)
    assert found["stem"] == apart["stem"]


def test_bits_of_layers_without_codewords(tmp_path: Path) -> None:
    sources = module_sources(network())
    plan = search(sources, 15_000, candidates=CANDIDATES, keep=["stem", "classify"], uniform_bits=7, progress=False)
    model = network()
    convert(model, plan.rules, progress=False)
    layers = {layer.name: layer for layer in compressed_layers(model)}
    for name in ("stem", "classify"):
        assert plan.recipes[name].weight_bits == 7
        assert np.abs(layers[name].integer_weights()).max() <= 63
    write_container(tmp_path / "network", list(layers.values()))
    assert (tmp_path / "network").stat().st_size == plan.bytes
    with pytest.raises(CompressError, match=r"uniform_bits must be an integer in 5\.\.8, not 4"):
        search(sources, 15_000, candidates=CANDIDATES, uniform_bits=4, progress=False)


def test_same_plan_on_any_threads() -> None:
    sources = module_sources(network())
    plans = [search(sources, 9_000, candidates=CANDIDATES, threads=threads, progress=False) for threads in (1, 2)]
    assert plans[0] == plans[1]


def test_kept_layers_requantisation_and_metadata(tmp_path: Path) -> None:
    sources = module_sources(network())
    compiled = [dataclasses.replace(source, name=f"_orig_mod.{source.name}") for source in sources]
    plan = search(compiled, 9_600, candidates=CANDIDATES, keep=["stem", "class*"], progress=False)
    assert plan.recipes["_orig_mod.stem"] == plan.recipes["_orig_mod.classify"] == Recipe("int8")
    full = search(
        sources,
        9_600,
        candidates=CANDIDATES,
        keep=["stem", "class*"],
        requantised=True,
        metadata={"operations": ["x" * 1000]},
        progress=False,
    )
    assert full.bytes <= 9_600
    assert full.error > plan.error


def test_spare_bytes_are_left_free_and_told() -> None:
    """The least budget that is named is enough, and one byte less is not, with the bytes left free among it."""
    sources, candidates = module_sources(network()), CANDIDATES[:1]
    with pytest.raises(CompressError, match=r"take, not 50$") as caught:
        search(sources, 50, candidates=candidates, spare=128, progress=False)
    least = int(re.findall(r"\d+", str(caught.value))[0])
    assert search(sources, least, candidates=candidates, spare=128, progress=False).bytes == least - 128
    with pytest.raises(CompressError, match=f"at least {least} bytes.* not {least - 1}$"):
        search(sources, least - 1, candidates=candidates, spare=128, progress=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget": 0}, "budget must be an integer of at least 1, not 0"),
        ({"budget": 1000.0}, "budget must be an integer of at least 1, not 1000.0"),
        ({"budget": 1000}, r"the budget must be at least \d{4} bytes, which the smallest candidates take, not 1000"),
        ({"candidates": [Recipe("pqf", 8, 8, 0, 0)]}, "candidates must not be of method pqf, which reorders channels"),
        ({"sources": []}, "at least one convolution or linear layer, not 0"),
        ({"sensitivity": {"stem": 1.0}}, "sensitivity of layer 'depthwise' must be finite and at least 0, not nan"),
    ],
)
def test_search_refuses(arguments: dict[str, Any], message: str) -> None:
    given = {"sources": module_sources(network()), "budget": 9000, "candidates": CANDIDATES} | arguments
    with pytest.raises(CompressError, match=message):
        search(**given, progress=False)


def test_sensitivity_is_larger_where_an_error_says_more() -> None:
    model = network()
    with torch.no_grad():
        model.wide.weight[8:] = 0
        model.wide.bias.zero_()
        model.wide.weight[:8] *= 20
    before = {name: value.clone() for name, value in model.state_dict().items()}
    layers, _ = compress_network(module_sources(model), Recipe("lsq3"), progress=False)
    images = torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = loss_sensitivity(model, layers, images, batch=7, progress=False)
    assert list(found) == ["stem", "depthwise", "wide", "classify"]
    assert min(found.values()) > 0
    # One wrong weight of the depthwise convolution moves a whole channel.
    assert found["depthwise"] > 10 * found["wide"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training


def test_sensitivity_is_that_of_a_recalibrated_network() -> None:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(3, 8, 3, bias=False),
            norm=nn.BatchNorm2d(8),
            relu=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            linear=nn.Linear(8, 4),
        )
    )
    images = torch.randn(30, 3, 8, 8, generator=generator)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weight = model.get_parameter("conv.weight").detach().clone()

    def sensitivity(changed: torch.Tensor) -> float:
        layer: Any = types.SimpleNamespace(name="conv", float_weights=changed.numpy)
        return loss_sensitivity(model, [layer], images, batch=7, progress=False)["conv"]

    # Recalibration takes back what an error does to a channel's mean and variance.
    noise = weight.std() * torch.randn(weight.shape, generator=generator)
    assert sensitivity(1.5 * weight) < 1e-4 * sensitivity(weight + noise)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.norm.training
    assert model.norm.track_running_stats


def test_sensitivity_refuses_what_is_not_finite() -> None:
    model = network()
    layers, _ = compress_network(module_sources(model), Recipe("lsq2"), progress=False)
    with pytest.raises(CompressError, match="layer 'stem': divergence must be finite, not nan"):
        loss_sensitivity(model, layers, torch.full((1, 3, 8, 8), math.nan), progress=False)
    assert model.training


def test_rules_survive_json(tmp_path: Path) -> None:
    plan = Plan({"a[0].conv": CANDIDATES[0], "b": Recipe("msvq", 4, 8, 2, 8)}, 10, 0.5)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan_json(plan, network="x")))
    assert read_rules(path) == plan.rules
    content = json.loads(path.read_text())
    assert (content["network"], content["bytes"], content["error"]) == ("x", 10, 0.5)
    layers, _ = compress_network(
        [LayerSource("a[0].conv", "conv", np.ones((8, 8, 1, 1), np.float32))], read_rules(path), progress=False
    )
    assert layers[0].weight_bits == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot read rules"),
        ("[]", "must be an object with a list of rules"),
        ("[" * 100_000, "cannot read rules '.*': lists or objects are nested too deeply"),
        (
            '{"rules": [{"layer": "a", "recipe": {"method": "vq", "k": 8, "k": 16, "d": 8}}]}',
            "cannot read rules '.*': key 'k' must not be there twice",
        ),
        ('{"rules": 3}', "must be an object with a list of rules"),
        ('{"rules": [{"layer": "a"}]}', "rule 0 must have a layer or a pattern, and a recipe"),
        ('{"rules": [{"layer": "a", "pattern": "b", "recipe": {}}]}', "rule 0 must have a layer or a pattern, and"),
        ('{"rules": [{"layer": 3, "recipe": {}}]}', "rule 0: the name must be text, not 3"),
        (
            '{"rules": [{"layer": "a", "recipe": {"bits": 2}}]}',
            "rule 0: the recipe must be an object of codeword_bits, d, empty",
        ),
        ('{"rules": [{"pattern": "a", "recipe": {"k": 0}}]}', r"rule 0: k must be an integer in 1\.\.65536, not 0"),
        ('{"rules": [{"pattern": "a", "recipe": {"n": 3, "m": 5}}]}', "rule 0: m must be at least 1 and divide"),
    ],
)
def test_rules_refuse(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "rules.json"
    path.write_text(content)
    with pytest.raises(CompressError, match=message):
        read_rules(path)


def test_missing_rules(tmp_path: Path) -> None:
    with pytest.raises(CompressError, match=r"cannot read rules .*nowhere"):
        read_rules(tmp_path / "nowhere")


@pytest.fixture
def users(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network can be imported as ``users:network``."""
    module = types.ModuleType("users")
    module.network = network  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "users", module)


def candidates(folder: Path) -> str:
    rules = [{"pattern": "*", "recipe": dataclasses.asdict(recipe)} for recipe in CANDIDATES]
    (folder / "candidates.json").write_text(json.dumps({"rules": rules}))
    return str(folder / "candidates.json")


@pytest.mark.parametrize("measured", [False, True])
def test_command_and_container_of_its_rules(
    users: None, measured: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["search", "users:network", "--bytes", "9000", "--candidates", candidates(tmp_path), "--quiet"]
    arguments += ["-o", str(tmp_path / "plan.json"), "--keep", "stem"]
    if measured:
        images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3)).astype(np.uint8)
        labels = np.arange(20) % 4
        names = [f"{part}_{name}" for part in ("train", "test") for name in ("images", "labels")]
        parts = dict(zip(names, [images, labels] * 2, strict=True))
        np.savez(tmp_path / "data.npz", **parts)
        arguments += ["--data", str(tmp_path / "data.npz"), "--images", "16"]
    assert main(arguments) == 0
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["bytes"] <= plan["budget"] == 9000
    assert (plan["sensitivity"] is not None) == measured
    assert f"{plan['bytes']} bytes of 9000" in capsys.readouterr().out
    assert plan["rules"][0]["recipe"]["method"] == "int8"
    container = tmp_path / "network"
    compress = ["--model", "users:network", "--rules", str(tmp_path / "plan.json"), "-o", str(container), "--quiet"]
    assert main(compress) == 0
    if not measured:
        # Without training, a linear layer of integers has a scale for each channel.
        assert 0 <= container.stat().st_size - plan["bytes"] < 100
        return
    finetune = ["finetune", "users:network", "--data", str(tmp_path / "data.npz"), "--epochs", "1", "--batch", "10"]
    finetune += ["--rules", str(tmp_path / "plan.json"), "-o", str(container), "--quiet"]
    assert main(finetune) == 0
    assert "operations" in read_container(container).metadata
    assert plan["bytes"] - 128 < container.stat().st_size <= 9000


def test_command_on_a_checkpoint(tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "x.pth")
    arguments = ["search", str(tmp_path / "x.pth"), "--bytes", "9000", "--candidates", candidates(tmp_path), "--quiet"]
    assert main(arguments) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["users:network", "--bytes", "10"], r"the budget must be at least \d+ bytes"),
        (["users:network", "--bytes", "0"], "--bytes must be at least 1, not 0"),
        (["users:network", "--bytes", "9000", "--images", "0"], "--images must be at least 1, not 0"),
        (["users:network", "--bytes", "9000", "--threads", "0"], "--threads must be at least 1, not 0"),
        (["nowhere.npz", "--bytes", "9000"], "cannot read checkpoint 'nowhere.npz'"),
        (["nowhere.npz", "--bytes", "9000", "--data", "x"], "--weights and --data need a network, not a checkpoint"),
        (["vgg:", "--bytes", "9000"], "model must be one of"),
        (["users:network", "--bytes", "9000", "--keep", "head"], "keep must match a layer, not 'head'; layers are "),
        (["users:network", "--bytes", "9000", "--device", "tpu"], "device must be cpu, cuda or cuda:N, not 'tpu'"),
        (["users:network", "--bytes", "9000", "--candidates", "nowhere"], "cannot read rules 'nowhere'"),
        (
            ["users:network", "--bytes", "9000", "--codeword-bits", "4"],
            "--codeword-bits must not be given with --candidates, which has recipes of its own",
        ),
    ],
)
def test_bad_options_are_one_line_and_status_2(
    users: None, arguments: list[str], message: str, tmp_path: Path, refused: Refused
) -> None:
    if "--candidates" not in arguments:
        arguments = [*arguments, "--candidates", candidates(tmp_path)]
    assert re.search(message, refused(main, ["search", *arguments, "--quiet", "-o", str(tmp_path / "plan.json")]))
    assert not (tmp_path / "plan.json").exists()


@pytest.mark.parametrize("seed", range(6))
def test_choice_with_charges_is_as_good_as_the_best_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes, errors, shared = [], [], []
    for _ in range(4):
        sizes.append(rng.integers(200, 1000, 5).tolist())
        errors.append(rng.random(5).tolist())
        shared.append([None, 0, 0, 1, None])
    charges = rng.integers(1, 400, 2).tolist()

    def total(chosen: tuple[int, ...]) -> int:
        paid = {row[j] for row, j in zip(shared, chosen, strict=True)} - {None}
        return sum(row[j] for row, j in zip(sizes, chosen, strict=True)) + sum(charges[number] for number in paid)

    every = list(itertools.product(range(5), repeat=4))
    for budget in np.linspace(min(map(total, every)), max(map(total, every)), 6).astype(int).tolist():
        best = min(
            sum(row[j] for row, j in zip(errors, chosen, strict=True)) for chosen in every if total(chosen) <= budget
        )
        chosen = tuple(choose(sizes, errors, budget, shared, charges))
        assert total(chosen) <= budget
        assert sum(row[j] for row, j in zip(errors, chosen, strict=True)) == pytest.approx(best, abs=1e-9)


def test_layers_share_a_codebook_where_that_pays(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Conv2d(32, 32, 3) for _ in range(4)))
    candidates = [Recipe("vq", 64, 8, 0, 0), Recipe("vq", 64, 8, 0, 0, scope="crosslayer"), Recipe("lsq2")]
    plan = search(module_sources(model), 4_700, candidates=candidates, progress=False)
    assert [recipe.scope for recipe in plan.recipes.values()] == ["crosslayer"] * 4
    convert(model, plan.rules, progress=False)
    write_container(tmp_path / "network", compressed_layers(model))
    assert (tmp_path / "network").stat().st_size == plan.bytes <= 4_700


def test_narrow_codewords_pay_where_bytes_are_few(tmp_path: Path) -> None:
    """A codebook of fewer bits makes room for more codewords, and what the file takes is counted to the byte."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Conv2d(32, 32, 3) for _ in range(3)))
    wide = [Recipe("vq", k, 8, 0, 0) for k in (8, 32, 128)]
    narrow = with_codeword_bits(wide, [8, 4])
    assert len(narrow) == 6
    plans = [search(module_sources(model), 4_000, candidates=given, progress=False) for given in (wide, narrow)]
    assert {recipe.codeword_bits for recipe in plans[0].recipes.values()} == {8}
    assert {recipe.codeword_bits for recipe in plans[1].recipes.values()} >= {4}
    assert plans[1].error < plans[0].error
    convert(model, plans[1].rules, progress=False)
    write_container(tmp_path / "network", compressed_layers(model))
    assert (tmp_path / "network").stat().st_size == plans[1].bytes <= 4_000


def test_candidates_have_narrow_codewords_too() -> None:
    coded = [recipe for recipe in DEFAULT_CANDIDATES if recipe.stored != "int8"]
    assert {recipe.codeword_bits for recipe in coded} == {4, 8}
    # No code of an assignment's bits is without a codeword.
    assert all(recipe.k.bit_count() == 1 for recipe in coded)
    uniform = [recipe for recipe in DEFAULT_CANDIDATES if recipe.stored == "int8"]
    assert len(uniform) == 4
    assert [recipe.codeword_bits for recipe in with_codeword_bits([Recipe("lsq2"), Recipe()], [3, 5])] == [8, 3, 5]
    with pytest.raises(CompressError, match=r"codeword_bits must be an integer in 2\.\.8, not 9"):
        with_codeword_bits([Recipe()], [9])


def test_command_with_bits_of_codewords(
    users: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sw.compress.search.METHOD_CANDIDATES", CANDIDATES)
    command = ["search", "users:network", "--bytes", "7000", "--quiet", "-o", str(tmp_path / "plan.json")]
    assert main([*command, "--codeword-bits", "5", "3"]) == 0
    recipes = [recipe for _, recipe in read_rules(tmp_path / "plan.json")]
    bits = {recipe.codeword_bits for recipe in recipes if recipe.stored != "int8"}
    assert bits
    assert bits <= {3, 5}
    assert main([*command, "--codeword-bits", "1"]) == 2
    assert "codeword_bits must be an integer in 2..8, not 1" in capsys.readouterr().err


def test_rules_of_before_there_were_narrow_codewords(tmp_path: Path) -> None:
    recipe = dataclasses.asdict(Recipe("msvq", 4, 8, 2, 8))
    del recipe["codeword_bits"]
    (tmp_path / "plan.json").write_text(json.dumps({"rules": [{"layer": "a", "recipe": recipe}]}))
    assert read_rules(tmp_path / "plan.json") == [("a", Recipe("msvq", 4, 8, 2, 8))]


def test_a_codebook_for_too_few_subvectors_is_not_taken() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(32, 32, 3), nn.Conv2d(32, 32, 1))
    candidates = [Recipe("vq", 256, 8, 0, 0, scope="crosslayer"), Recipe("lsq2")]
    # The codebook suits the second layer, which alone has fewer subvectors than it has codewords.
    plan = search(module_sources(model), 13_000, candidates=candidates, keep=["0"], progress=False)
    assert plan.recipes["1"].scope == "layerwise"
    convert(model, plan.rules, progress=False)
