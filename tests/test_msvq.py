"""The library's face: ten lines from a torch module to bits."""

from __future__ import annotations

import copy
import dataclasses
import errno
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import prune

import msvq
from hw.config import ConfigError
from msvq import example
from msvq.__main__ import COMMANDS, main
from sw.compress.__main__ import main as compress_main
from sw.compress.methods import CompressError
from sw.compress.sources import load_model
from sw.compress.training.checking import check_network_form
from sw.compress.training.integer import IntegerNetwork
from sw.format import ContainerError, read_container, write_container
from sw.network import Network, read_network, write_network
from sw.program import ProgramError, read_program, write_program
from sw.run import RunError


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)
    ).eval()


IMAGES = torch.randn(6, 1, 5, 7, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("msvq") / "net.msvq"
    model = network()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    msvq.calibrate(model, IMAGES, progress=False).write(path)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    return path


def test_from_a_module_to_bits(container: Path, tmp_path: Path) -> None:
    program = msvq.compile(container, "ews-cms-tiny")
    (logits,) = msvq.run(program, IMAGES).values()
    integers = read_network(container)
    assert np.array_equal(logits.reshape(6, 5), integers.run(integers.quantise(IMAGES.numpy())).reshape(6, 5))
    # Both are at 8 bit, the first and the last layer, so little is lost.
    found = torch.from_numpy(logits.reshape(6, 5).argmax(1))
    assert (found == network()(IMAGES).argmax(1)).float().mean() > 0.8
    write_program(str(tmp_path / "net.prog"), program)
    assert msvq.load(tmp_path / "net.prog").descriptor_count == program.descriptor_count
    again = msvq.run(tmp_path / "net.prog", IMAGES)
    assert all(np.array_equal(values, logits) for values in again.values())
    assert isinstance(msvq.load(container), Network)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("change", ["weight norm", "pruning", "spectral norm"])
def test_computed_weights_are_copied(change: str) -> None:
    model = network().train()
    if change == "weight norm":
        nn.utils.weight_norm(model[0])
    elif change == "pruning":
        prune.l1_unstructured(model[0], "weight", 0.5)  # type: ignore[no-untyped-call]
    else:
        nn.utils.parametrizations.spectral_norm(model[0])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    done = msvq.calibrate(model, IMAGES, msvq.Recipe("int8"), progress=False)
    assert done.report["error"] < 1e-3
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.training
    if change == "pruning":
        assert 0.4 < (done.layers[0].float_weights() == 0).mean() < 0.6


def test_weights_come_back(tmp_path: Path) -> None:
    model = network()
    compressed = msvq.compress(model, msvq.Recipe("int8"), progress=False)
    compressed.write(tmp_path / "layers.msvq")
    weights = msvq.decompress(tmp_path / "layers.msvq")
    assert weights.keys() == {"0.weight", "4.weight"} == compressed.state_dict().keys()
    loaded = network()
    missing = loaded.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()}, strict=False)
    assert not missing.unexpected_keys
    for key, value in weights.items():
        own = model.state_dict()[key]
        assert value.dtype == np.float32
        assert float((own - torch.from_numpy(value)).abs().max()) < 0.01 * float(own.abs().max())
    same = msvq.compress(model.state_dict(), msvq.Recipe("int8"), progress=False).state_dict()
    assert all(np.array_equal(same[key], value) for key, value in weights.items())


def test_numbers_of_torch_and_lists_are_images(container: Path) -> None:
    program = msvq.compile(container, "ews-cms-tiny", [1, 5, 7])  # type: ignore[arg-type]
    images = IMAGES[:1].bfloat16()
    (logits,) = msvq.run(program, images).values()
    (same,) = msvq.run(program, images.float()).values()
    assert np.array_equal(logits, same)
    weights, integers = msvq.decompress(container), msvq.load(container)
    assert isinstance(integers, Network)
    assert all(np.array_equal(value, weights[key]) for key, value in msvq.decompress(integers).items())
    for wrong in (IMAGES[0], IMAGES[:0], IMAGES.repeat(1, 3, 1, 1), None):
        with pytest.raises(ValueError, match=r"images must be \[n, 1, 5, 7\], not \["):
            msvq.run(program, wrong)  # type: ignore[arg-type]


RULE = ("0", msvq.Recipe("vq", 4, 8, 0, 0))


@pytest.mark.parametrize(
    "call", [msvq.compress, lambda *given, **more: msvq.calibrate(given[0], IMAGES, *given[1:], **more)]
)
def test_a_rule_for_no_layer_is_refused(call: Any) -> None:
    """What it was meant for would stay at 8 bit."""
    for recipe, message in [
        ([RULE, ("haed", RULE[1])], "rule 'haed' must match a layer; layers are 0, 4"),
        ("msvq", "recipe must be a Recipe, or pairs of a pattern and a Recipe, not 'msvq'"),
        ([(0, RULE[1])], r"recipe must be a Recipe, or pairs of a pattern and a Recipe, not \[\(0, "),
    ]:
        with pytest.raises(ValueError, match=message):
            call(network(), recipe, progress=False)
    # Nothing is called again.
    for pattern in ("4_call2", "*_call2", "4_call2_3", "*_call*", "_call2"):
        message = re.escape(f"rule {pattern!r} must match a layer; layers are 0, 4")
        with pytest.raises(ValueError, match=message):
            call(network(), [RULE, (pattern, RULE[1]), ("*", RULE[1])], progress=False)
    call(network(), [("0*", RULE[1]), ("*", RULE[1])], progress=False)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch compiles with what it deprecates
@pytest.mark.parametrize("layer", [nn.Linear(32, 32), nn.Conv2d(1, 16, 3), nn.Conv1d(1, 16, 3)])
def test_a_layer_alone_is_called_that(layer: nn.Module) -> None:
    message = f"network must be a module with layers in it, not a {type(layer).__name__} alone"
    for given in (layer, torch.compile(layer), nn.DataParallel(layer)):
        with pytest.raises(ValueError, match=message):
            msvq.compress(given, progress=False)
        with pytest.raises(ValueError, match=message):
            msvq.calibrate(given, IMAGES, progress=False)
    assert len(msvq.compress(nn.Sequential(layer), progress=False).layers) == 1


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch compiles with what it deprecates
@pytest.mark.parametrize("part", ["the whole", "a module", "a layer", "DataParallel"])
def test_rules_name_layers_as_the_network_does_without_what_wraps_it(part: str, tmp_path: Path) -> None:
    plain = nn.Sequential(nn.Sequential(*network()[:2]), *network()[2:])
    rules = [("0.0", RULE[1]), ("3", msvq.Recipe("int8", uniform_bits=7))]
    model: Any = nn.Sequential(*plain)
    if part == "the whole":
        model = torch.compile(model, backend="eager")
    elif part == "DataParallel":
        model = nn.DataParallel(model)
    elif part == "a module":
        model[0] = torch.compile(model[0], backend="eager")
    else:
        model[0] = nn.Sequential(torch.compile(model[0][0], backend="eager"), nn.ReLU())
    for given in (rules, msvq.Recipe("vq", 4, 8, 0, 0)):
        expected = msvq.calibrate(plain, IMAGES, given, progress=False).layers
        found = msvq.calibrate(model, IMAGES, given, progress=False).layers
        assert [layer.method for layer in found] == [layer.method for layer in expected]
        assert [layer.weight_bits for layer in found] == [layer.weight_bits for layer in expected]
        assert [layer.name for layer in msvq.compress(model, given, progress=False).layers] == [x.name for x in found]
    compressed = msvq.compress(model, rules, progress=False)
    assert [layer.method for layer in compressed.layers] == ["vq", "int8"]
    assert compressed.layers[1].weight_bits == 7
    if part in ("the whole", "DataParallel"):
        prefix = "_orig_mod" if part == "the whole" else "module"
        for call in (msvq.compress, lambda model, *rest, **more: msvq.calibrate(model, IMAGES, *rest, **more)):
            with pytest.raises(ValueError, match=rf"rule '{prefix}.0.0' must match a layer; layers are 0.0, 3"):
                call(model, [(f"{prefix}.0.0", RULE[1])], progress=False)
        compressed.write(tmp_path / "layers.msvq")
        weights = {key: torch.from_numpy(value) for key, value in msvq.decompress(tmp_path / "layers.msvq").items()}
        restored = copy.deepcopy(plain)
        assert not restored.load_state_dict(weights, strict=False).unexpected_keys
        assert all(torch.equal(restored.state_dict()[key], value) for key, value in weights.items())
    if part != "DataParallel":
        # The keys of a state dict stay, and so do those of a module that is compiled within a network.
        of_keys = msvq.compress(model.state_dict(), rules, progress=False)
        assert [layer.method for layer in of_keys.layers] == ["vq", "int8"]
        assert of_keys.state_dict().keys() <= model.state_dict().keys()
        if part != "the whole":
            assert of_keys.state_dict().keys() == compressed.state_dict().keys()
    else:
        of_keys = msvq.compress(model.state_dict(), [("module.0.0", RULE[1])], progress=False)
        assert [layer.name for layer in of_keys.layers] == ["module.0.0", "module.3"]


class Deriving(nn.Module):
    """Layers of a file that are none of the network's weights, or are, by ``kind``."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(1, 8, 3), nn.Linear(8, 4)
        self.middle: nn.Module = {
            "transposed": nn.ConvTranspose2d(8, 8, 3),
            "alone": nn.BatchNorm2d(8),
            "rows": nn.PReLU(8),
        }.get(kind, nn.Conv2d(8, 8, 3))
        if kind == "parametrised":
            nn.utils.parametrizations.weight_norm(self.middle)
        self.kind = kind
        if kind == "alone":
            self.middle.weight.data.uniform_(0.5, 2)  # type: ignore[operator,union-attr]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        if self.kind == "computed":
            x = functional.conv2d(x, self.middle.weight * 4, self.middle.bias)  # type: ignore[arg-type,operator]
        else:
            x = self.middle(x.relu() if self.kind == "alone" else x)
        return self.last(x.relu().mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["transposed", "alone", "computed", "rows", "parametrised", "plain", "pqf"])
def test_weights_that_are_not_the_network_s_are_not_given_as_such(kind: str, tmp_path: Path) -> None:
    network = Deriving(kind).eval()
    images = torch.randn(6, 1, 9, 9, generator=torch.Generator().manual_seed(1))
    expected = network(images)
    rules = [("middle", msvq.Recipe("pqf", 4, 4, 0, 0))] if kind == "pqf" else msvq.Recipe("int8")
    done = msvq.calibrate(network, images, rules, progress=False)
    done.write(tmp_path / "net.msvq")
    # The network itself is as it was, with what computes its weights.
    assert torch.equal(network(images), expected)
    if kind in ("alone", "rows"):
        # They are none that were compressed: the network has its own.
        for given in (tmp_path / "net.msvq", done, msvq.load(tmp_path / "net.msvq")):
            assert set(msvq.decompress(given)) == {"first.weight", "last.weight"}  # type: ignore[arg-type]
        return
    if kind == "plain":
        weights = msvq.decompress(tmp_path / "net.msvq")
        assert set(weights) == {"first.weight", "middle.weight", "last.weight"}
        compressed = msvq.decompress(msvq.compress(network, msvq.Recipe("int8"), progress=False))
        for found in (msvq.decompress(done), msvq.decompress(msvq.load(tmp_path / "net.msvq")), compressed):
            assert found.keys() == weights.keys()
        own = network.middle.weight.detach().numpy()  # type: ignore[operator,union-attr]
        assert np.abs(weights["middle.weight"] - own).max() < np.abs(own).max() / 100
        return
    names = "first, middle, last" if kind == "pqf" else "middle"
    message = rf"'\S*net.msvq' has other weights than the float network keeps under these names: {names}; load the file"
    with pytest.raises(ValueError, match=message):
        msvq.decompress(tmp_path / "net.msvq")
    assert "middle.weight" in msvq.decompress(tmp_path / "net.msvq", derived=True)
    loaded = msvq.load(tmp_path / "net.msvq")
    assert isinstance(loaded, Network)
    copies = [dataclasses.replace(loaded), IntegerNetwork.of(loaded), done.network]
    for given in (done, loaded, read_container(tmp_path / "net.msvq"), *copies):
        with pytest.raises(ValueError, match=rf"a {type(given).__name__} has other weights .* names: {names};"):
            msvq.decompress(given)  # type: ignore[arg-type]


def test_computed_weights_are_refused_without_a_graph_too(tmp_path: Path) -> None:
    network = Deriving("parametrised").eval()
    images = torch.randn(6, 1, 9, 9, generator=torch.Generator().manual_seed(1))
    done = msvq.compress(network, msvq.Recipe("int8"), progress=False)
    done.write(tmp_path / "net.msvq")
    alone = msvq.calibrate(
        nn.Sequential(network, nn.Softplus(beta=0.1), nn.Unflatten(1, (2, 2)), nn.LSTM(2, 2)),
        images,
        msvq.Recipe("int8"),
        layers_alone=True,
        progress=False,
    )
    assert alone.network is None
    for given, name in ((done, "middle"), (tmp_path / "net.msvq", "middle"), (alone, "0.middle")):
        with pytest.raises(ValueError, match=rf"other weights .* keeps under these names: {name}; load"):
            msvq.decompress(given)  # type: ignore[arg-type]
        assert f"{name}.weight" in msvq.decompress(given, derived=True)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="keeps under these names: middle;"):
        done.state_dict()


class Keyless(nn.Module):
    """Computes with a buffer and a parameter, or a plain tensor, and calls a layer twice."""

    def __init__(self, plain: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.again = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3)
        self.register_buffer("fixed", torch.randn(8, 8, 1, 1))
        self.own_weight = nn.Parameter(torch.randn(8, 8, 1, 1))
        self.plain = torch.randn(8, 8, 1, 1) if plain else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.again(self.again(self.first(x).relu()).relu())
        x = functional.conv2d(functional.conv2d(x, self.fixed).relu(), self.own_weight)  # type: ignore[arg-type]
        return x if self.plain is None else functional.conv2d(x.relu(), self.plain)


def test_weights_come_back_by_the_keys_that_the_network_has(tmp_path: Path) -> None:
    network, images = Keyless(False).eval(), torch.randn(6, 1, 9, 9)
    done = msvq.calibrate(network, images, msvq.Recipe("int8"), progress=False)
    done.write(tmp_path / "net.msvq")
    assert "again_call2" in [layer.name for layer in done.layers]
    for given in (done, tmp_path / "net.msvq", msvq.load(tmp_path / "net.msvq")):
        weights = msvq.decompress(given)  # type: ignore[arg-type]
        assert weights.keys() == {"first.weight", "again.weight", "fixed", "own_weight"}
        other = Keyless(False).eval()
        found = other.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()}, strict=False)
        assert not found.unexpected_keys
    done = msvq.calibrate(Keyless(True).eval(), images, msvq.Recipe("int8"), progress=False)
    with pytest.raises(ValueError, match=r"a Finetuned has other weights .* keeps under these names: layer;"):
        msvq.decompress(done)


def test_keys_of_an_exported_network_are_its_own(tmp_path: Path) -> None:
    """Its graph has weights for later calls, too, and for what the network computes."""
    images = torch.randn(6, 1, 9, 9)
    for computed in (False, True):
        network = Keyless(computed).eval()
        torch.export.save(torch.export.export(network, (images,)), tmp_path / "net.pt2")
        loaded = load_model(str(tmp_path / "net.pt2"))
        done = msvq.calibrate(loaded, images, msvq.Recipe("int8"), progress=False)
        if computed:
            with pytest.raises(ValueError, match=r"has other weights .* keeps under these names: layer"):
                msvq.decompress(done)
        else:
            assert msvq.decompress(done).keys() == {"first.weight", "again.weight", "fixed", "own_weight"}
    alone = msvq.compress(loaded, msvq.Recipe("int8"), progress=False)
    assert {"again_call2"} == {each.name for each in alone.layers} - {"first", "again", *alone.about["derived"]}
    assert msvq.decompress(alone, derived=True).keys() >= {"first.weight", "again.weight"}
    assert "again_call2.weight" not in msvq.decompress(alone, derived=True)


def test_keys_are_those_that_the_network_loads(tmp_path: Path) -> None:
    """Not what a hook makes of its state dict; and a buffer that is no part of that has none."""
    network, images = Keyless(False).eval(), torch.randn(6, 1, 9, 9)
    network.register_state_dict_post_hook(lambda module, state, *_: state.clear())
    network._non_persistent_buffers_set.add("fixed")
    with pytest.warns(UserWarning, match="own_weight stay as they are"):
        compressed = msvq.compress(network, msvq.Recipe("int8"), progress=False)
    assert compressed.state_dict().keys() == {"first.weight", "again.weight"}
    done = msvq.calibrate(network, images, msvq.Recipe("int8"), progress=False)
    with pytest.raises(ValueError, match=r"keeps under these names: fixed;"):
        msvq.decompress(done)
    assert msvq.decompress(done, derived=True).keys() == {"first.weight", "again.weight", "fixed.weight", "own_weight"}


def test_keys_of_a_state_dict_come_back_as_they_were(tmp_path: Path) -> None:
    tensors = nn.TransformerEncoderLayer(16, 2, 32).state_dict()
    done = msvq.compress(tensors, msvq.Recipe("int8"), progress=False)
    done.write(tmp_path / "net.msvq")
    for weights in (done.state_dict(), msvq.decompress(tmp_path / "net.msvq")):
        assert {key: value.shape for key, value in weights.items()} == {
            key: value.shape for key, value in tensors.items() if value.ndim > 1
        }
    # What others wrote is no reason to fail.
    write_container(tmp_path / "net.msvq", done.layers, metadata={"keys": {"self_attn.in_proj": 7}})
    assert "self_attn.in_proj.weight" in msvq.decompress(tmp_path / "net.msvq")


def test_weights_of_one_axis_come_back_as_they_were(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv1d(3, 16, 5), nn.ReLU(), nn.Conv1d(16, 16, 1, groups=2), nn.Flatten())
    network.extend([nn.Unflatten(1, (1, 16, -1)), nn.Conv2d(1, 8, (1, 3)), nn.Linear(8, 4)])
    shapes = {key: value.shape for key, value in network.state_dict().items() if key.endswith("weight")}
    for given in (network, network.state_dict()):
        done = msvq.compress(given, msvq.Recipe("int8"), progress=False)
        done.write(tmp_path / "net.msvq")
        for found in (done.state_dict(), *map(msvq.decompress, (done, tmp_path / "net.msvq"))):
            assert {key: value.shape for key, value in found.items()} == shapes
    torch.save(network.state_dict(), tmp_path / "net.pt")
    given = ["--checkpoint", str(tmp_path / "net.pt"), "--method", "vq", "--k", "4", "--d", "8", "--quiet"]
    assert compress_main([*given, "-o", str(tmp_path / "net.msvq")]) == 0
    assert {key: value.shape for key, value in msvq.decompress(tmp_path / "net.msvq").items()} == shapes
    # Layers alone do not say it, nor what others wrote.
    weights = msvq.decompress(done.layers)
    assert weights["0.weight"].shape == (16, 3, 1, 5)
    write_container(tmp_path / "net.msvq", done.layers, metadata={"conv1d": 7})
    assert msvq.decompress(tmp_path / "net.msvq")["0.weight"].shape == (16, 3, 1, 5)
    # A network of two convolutions that are not of one axis says nothing.
    assert not msvq.compress(nn.Sequential(nn.Conv2d(1, 8, (1, 3))), msvq.Recipe("int8"), progress=False).about


@pytest.mark.parametrize("name", ["quantiser_0", "quantiser_1", "quantiser_2", "upsampling_0"])
def test_a_module_of_a_name_of_ours_stays_what_it_is(name: str) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(16)
    norm.weight.data.uniform_(0.5, 3)
    norm.bias.data.normal_()
    norm.running_var.uniform_(0.1, 3)  # type: ignore[union-attr]
    parts = {"first": nn.Conv2d(1, 16, 3), name: norm, "relu": nn.ReLU(), "up": nn.Upsample(scale_factor=2)}
    parts["up"] = nn.Upsample(scale_factor=2, mode="bilinear")
    parts |= {"last": nn.Conv2d(16, 4, 3)}
    network = nn.Sequential()
    for own, module in parts.items():
        network.add_module(own, module)
    found = msvq.calibrate(network.eval(), IMAGES, msvq.Recipe("int8"), values=True, progress=False)
    assert found.report["error"] < 0.001


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("the whole", "network has hooks on what torch.compile made of it"),
        ("DataParallel", "network has hooks on what DataParallel made of it"),
        ("a module", "module '0' has hooks on what torch.compile made of it"),
    ],
)
def test_hooks_on_a_wrapper_are_not_lost_in_silence(part: str, message: str) -> None:
    model: Any = network()
    if part == "a module":
        model[0] = torch.compile(model[0], backend="eager")
    else:
        model = torch.compile(model, backend="eager") if part == "the whole" else nn.DataParallel(model)
    msvq.compress(model, progress=False)
    (model[0] if part == "a module" else model).register_forward_hook(lambda module, given, result: -result)
    with pytest.raises(ValueError, match=re.escape(message)):
        msvq.calibrate(model, IMAGES, progress=False)
    # They change no weight.
    msvq.compress(model, progress=False)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(8, 1, 3, 3))
        self.second = nn.Parameter(torch.randn(8, 8, 1, 1))
        self.again = nn.Conv2d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.conv2d(functional.conv2d(x, self.first).relu(), self.second).relu()
        for _ in range(3):
            y = self.again(y).relu()
        return y


def test_a_rule_may_name_what_functions_multiply_by_and_later_calls() -> None:
    names = ["first", "second", "again", "again_call2", "again_call2_2"]
    rules = [(name, msvq.Recipe("int8")) for name in [*names, "again_c*", "*_call2", "again_call*", "again_call2_*"]]
    done = msvq.calibrate(Functional(), IMAGES, dict(rules).items(), progress=False)  # type: ignore[arg-type]
    assert [layer.name for layer in done.layers] == names
    with pytest.raises(ValueError, match="rule 'layer' must match a layer; layers are first, second, again, again_c"):
        msvq.calibrate(Functional(), IMAGES, [*rules, ("layer", msvq.Recipe("int8"))], progress=False)


def test_a_rule_for_a_call_that_there_is_not_is_refused_before_any_work() -> None:
    for pattern in ("again_call2_3", "second_call*", "first_call2"):
        rules = [(pattern, msvq.Recipe("int8"))]
        wanted = f"rule {re.escape(repr(pattern))} must match a layer; layers are first, second, again, again_call2, "
        with pytest.raises(ValueError, match=wanted):
            check_network_form(Functional(), rules, IMAGES)


def test_a_module_may_be_called_as_a_later_call_is() -> None:
    """It is no call of another one, and there need be none."""
    model = nn.Sequential()
    for name, part in {"a_call2": nn.Conv2d(1, 8, 3), "relu": nn.ReLU(), "b": nn.Conv2d(8, 8, 3)}.items():
        model.add_module(name, part)
    rules = [("a_call2", RULE[1]), ("b", msvq.Recipe("int8"))]
    for done in (msvq.compress(model, rules, progress=False), msvq.calibrate(model, IMAGES, rules, progress=False)):
        assert [layer.method for layer in done.layers] == ["vq", "int8"]


class Reshaped(nn.Module):
    """Layers that a graph alone tells: of a parametrised weight, of a constant, of a vector that is reshaped."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.relu = kind, nn.ReLU()
        if kind == "constant":
            self.kernel = torch.randn(16, 16, 1, 1)
        elif kind == "vector":
            self.kernel = nn.Parameter(torch.randn(256))
        else:
            self.weight = nn.Parameter(torch.randn(16, 16, 1, 1))
            nn.utils.parametrize.register_parametrization(self, "weight", nn.Identity())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kernel = self.weight if self.kind == "parametrised" else self.kernel
        return self.relu(functional.conv2d(x, kernel.view(16, 16, 1, 1)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(("kind", "name"), [("parametrised", "2"), ("constant", "2"), ("vector", "2.kernel")])
def test_a_rule_may_name_whatever_the_graph_calls_a_layer(kind: str, name: str) -> None:
    model = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), Reshaped(kind), nn.Conv2d(16, 4, 1)).eval()
    rules = [(name, msvq.Recipe("vq", 4, 8, 0, 0)), ("*", msvq.Recipe("int8"))]
    done = msvq.calibrate(model, IMAGES, rules, progress=False)
    assert {layer.name: layer.method for layer in done.layers} == {"0": "int8", name: "vq", "3": "int8"}


@pytest.mark.parametrize("pattern", ["2", "", "layer", "2.1", "2.0.bias"])
def test_a_rule_for_what_holds_layers_or_is_none_is_refused(pattern: str) -> None:
    """Those of a module's layers would be 2.*: one that names the module alone left them at 8 bit."""
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Conv2d(4, 16, 1), nn.ReLU())
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), inner, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3))
    message = re.escape(f"rule {pattern!r} must match a layer; layers are 0, 2.0, 5")
    for call in (msvq.compress, lambda network, rules, **more: msvq.calibrate(network, IMAGES, rules, **more)):
        with pytest.raises(ValueError, match=message):
            call(model, [(pattern, RULE[1])], progress=False)


@pytest.mark.parametrize("image", [(5, 7), (1, 1, 5, 7), (), 5, (1, 5.0, 7), "157"])
def test_an_image_of_another_form(container: Path, image: Any) -> None:
    with pytest.raises(ValueError, match=r"image must be three integers \[C, rows, columns\], not "):
        msvq.compile(container, "ews-cms-tiny", image)


@pytest.mark.parametrize("given", [None, 3, b"x"])
def test_what_is_no_path_is_said(given: Any, container: Path) -> None:
    kind = type(given).__name__
    compressed = msvq.compress(nn.Sequential(nn.Conv2d(1, 8, 3)), msvq.Recipe("int8"), progress=False)
    for call in (msvq.load, compressed.write, lambda path: write_network(path, read_network(container))):
        with pytest.raises(ContainerError, match=f"path: must be a str or an os.PathLike of one, not {kind}$"):
            call(given)
    with pytest.raises(CompressError, match=f"source must be a container's path, what .* or layers, not {kind}$"):
        msvq.decompress(given)
    with pytest.raises(CompressError, match=f"network must be a container's path or a Network, not {kind}$"):
        msvq.evaluate(given, [])


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta"])
def test_a_device_that_there_is_not_is_said(device: str, container: Path) -> None:
    with pytest.raises(ValueError, match=f"device .*{device}"):
        msvq.evaluate(container, [], device=device)


def test_what_load_gives_can_be_evaluated(container: Path) -> None:
    network = msvq.load(container)
    assert isinstance(network, Network)
    shape, labels = network.image_shape, torch.zeros(2, dtype=torch.int64)
    assert shape is not None
    batches = [(torch.randn(2, *shape), labels)]
    found = msvq.evaluate(network, batches, progress=False)
    assert found == msvq.evaluate(container, batches, progress=False)


@pytest.mark.parametrize(
    ("change", "name"), [(lambda x: x.to("meta"), "a meta tensor"), (lambda x: x.to_sparse(), "torch.sparse_coo")]
)
def test_images_without_values_are_said(change: Any, name: str, container: Path) -> None:
    images = change(torch.zeros(1, 3, 8, 8))
    message = rf"images must be a dense tensor with values \(torch.strided\), not {name}"
    network = nn.Sequential(nn.Conv2d(3, 8, 3))
    with pytest.raises(CompressError, match=message):
        msvq.calibrate(network, images, msvq.Recipe("int8"), progress=False)
    with pytest.raises(RunError, match=message):
        msvq.run(msvq.compile(container, "ews-msvq-full-16"), images)
    if name == "a meta tensor":
        with pytest.raises(CompressError, match="the loader must give tensors with values, not a meta tensor"):
            msvq.calibrate(network, [images], msvq.Recipe("int8"), progress=False)


def test_freezing_of_another_kind_is_said() -> None:
    batches = [(torch.zeros(1, 3, 8, 8), torch.zeros(1))]
    with pytest.raises(CompressError, match="freezing must be a Freezing, not 3"):
        msvq.finetune(nn.Sequential(nn.Conv2d(3, 8, 3)), batches, batches, freezing=3)  # type: ignore[arg-type]


def test_what_cannot_be_compiled_or_compressed_is_said(container: Path) -> None:
    with pytest.raises(ValueError, match=r"network must be a container's path or a Network, not Compressed: write it"):
        msvq.compile(msvq.compress(network(), progress=False))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"config must be an AcceleratorConfig or a preset's name, not 3"):
        msvq.compile(container, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"config must be an AcceleratorConfig or a preset's name, not None"):
        msvq.generate(None)  # type: ignore[arg-type]
    for wrong in (None, "net.pt"):
        with pytest.raises(ValueError, match=f"network must be a torch.nn.Module, not {type(wrong).__name__}"):
            msvq.compress(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"config": 42}, "config must be an AcceleratorConfig or a preset's name, not 42"),
        ({"name": 5}, "name must be a letter and at most 63 letters, digits and underscores, not 5"),
        ({"period": "2"}, "period must be a positive number of nanoseconds, not '2'"),
        ({"period": True}, "period must be a positive number of nanoseconds, not True"),
        ({"folder": 5}, "folder must be a path, not 5"),
        ({"folder": ""}, "folder must be a path, not ''"),
    ],
)
def test_what_cannot_be_generated_is_said(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        msvq.generate(**{"config": "ews-tiny", **given})


def test_a_folder_that_cannot_be_is_said_before_the_design_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hw.generate.generate", None)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="must be a folder, not a file"):
        msvq.generate("ews-tiny", tmp_path / "file")
    (tmp_path / "ews-tiny.json").write_text('{"unit": "accelerator"}')
    with pytest.raises(ConfigError, match="where those of the unit accelerator have it"):
        msvq.generate("ews-tiny", tmp_path)


def test_a_file_of_another_kind_is_named(container: Path, tmp_path: Path) -> None:
    write_program(str(tmp_path / "net.prog"), msvq.compile(container, "ews-cms-tiny"))
    with pytest.raises(ContainerError, match="the file is a program, and a container is needed"):
        msvq.compile(tmp_path / "net.prog", "ews-cms-tiny")
    with pytest.raises(ValueError, match="a program is needed"):
        msvq.run(container, IMAGES)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["run", "{0}", "image.npy"], "the file is a container, and a program is needed"),
        (["compile", "{0}", "--preset", "ews-17"], "unknown preset 'ews-17'"),
        (["compile", "{0}"], "-o FILE is needed"),
        (["compile", "{0}", "-o", "no/such/net.prog"], "the folder 'no/such' does not exist"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(container: Path, refused, command: list[str], message: str) -> None:
    assert message in refused(main, [word.format(container) for word in command])


def test_the_program_says_what_it_is(container: Path) -> None:
    with pytest.raises(ProgramError, match="the file is a container"):
        read_program(container)


def test_an_unknown_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train"])
    assert stopped.value.code == 2
    assert "invalid choice: 'train'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    assert re.fullmatch(r"msvq: a COMMAND is needed, one of .*; msvq --help says .*\n", capsys.readouterr().err)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_exist(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith("usage: ")


def test_all_that_is_offered_is_there() -> None:
    for name in msvq.__all__:
        assert getattr(msvq, name).__doc__
    with pytest.raises(AttributeError, match="has no attribute 'quantise'"):
        _ = msvq.quantise


def test_an_example_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last of its files fails, for want of room."""
    monkeypatch.setattr(example, "COUNTS", {"train": 50, "test": 10})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    arguments = [str(tmp_path / "new"), "--epochs", "1"]
    with monkeypatch.context() as patched:
        patched.setattr(np, "save", full)
        assert example.main(arguments) == 2
    error = capsys.readouterr().err
    assert "No space left on device" in error
    assert str(tmp_path / "new") in error
    assert list(tmp_path.iterdir()) == []
    assert example.main(arguments) == 0
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["image.npy", "images.npz", "net.pt", "net.py"]
    assert example.main(arguments) == 2
    assert "must be new: nothing is written over" in capsys.readouterr().err
