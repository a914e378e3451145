"""Pictures made from a network's own statistics, by a small one."""

from __future__ import annotations

import copy
import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from experiments import distillation, inversion, invert
from experiments.inversion import statistics_apart
from experiments.pictures import Network, Whole, load_made
from sw.compress.methods import CompressError
from tests.experiments.test_fewshot import Small, images
from tests.refusals import Refused
from tests.sw.devices import CUDA

NETWORK = Network(lambda weights: trained(), (127.0,) * 3, (128.0,) * 3)
CLASSES = torch.arange(32) % 16
ROUNDS = ((16, 20), (32, 20))


@functools.cache
def trained() -> nn.Module:
    """Tells 16 images apart, with the statistics of theirs."""
    torch.manual_seed(0)
    model, shown = Small().train(), images(16, 0)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(60):
        views = shown + 0.1 * torch.randn_like(shown)
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(views), torch.arange(16)).backward()
        optimiser.step()
    return model.eval()


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return trained()


def made(model: nn.Module, seed: int, rounds: tuple[tuple[int, int], ...] = ROUNDS) -> Tensor:
    return inversion.invert(model, CLASSES, NETWORK, torch.Generator().manual_seed(seed), rounds=rounds)


def test_statistics_are_compared_as_normal_distributions() -> None:
    norm = nn.BatchNorm2d(2).eval()
    norm.running_mean.copy_(torch.tensor([1.0, -2.0]))  # type: ignore[union-attr,operator]
    norm.running_var.copy_(torch.tensor([4.0, 0.25]))  # type: ignore[union-attr,operator]
    values = (
        torch.randn(8, 2, 20, 20, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 0.5])[:, None, None]
    )
    seen = [
        torch.distributions.Normal(part.mean(), (part.var(correction=0) + norm.eps).sqrt()) for part in values.unbind(1)
    ]
    known = [
        torch.distributions.Normal(mean, (variance + norm.eps).sqrt())
        for mean, variance in zip(norm.running_mean, norm.running_var, strict=True)  # type: ignore[arg-type]
    ]
    expected = sum(torch.distributions.kl_divergence(a, b) for a, b in zip(seen, known, strict=True)) / 2
    torch.testing.assert_close(statistics_apart(norm, values), expected)


def test_pictures_are_of_their_classes_and_like_what_was_seen(model: nn.Module) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = made(model, 0)
    assert (found.dtype, found.shape) == (torch.uint8, (32, 32, 32, 3))
    quick = [made(model, seed, ((8, 2),)) for seed in (0, 0, 1)]
    assert torch.equal(quick[0], quick[1])
    assert not torch.equal(quick[0], quick[2])
    # The network is as it was, and learns as before.
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())
    views = (found.permute(0, 3, 1, 2).float() - 127) / 128
    noise = 0.5 * torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    apart = {"made": 0.0, "noise": 0.0}
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for name, values in (("made", views), ("noise", noise)):
        seen: list[Tensor] = []
        handles = [
            norm.register_forward_pre_hook(lambda norm, given, seen=seen: seen.append(statistics_apart(norm, given[0])))
            for norm in norms
        ]
        with torch.no_grad():
            right = float((model(values).argmax(1) == CLASSES).float().mean())
        for handle in handles:
            handle.remove()
        apart[name] = float(torch.stack(seen).mean())
        # By chance, one in 16.
        assert right > 0.4 if name == "made" else right < 0.2
    assert apart["made"] < 0.6 * apart["noise"]


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(distillation.NETWORKS, "mobilenetv2", NETWORK)
    monkeypatch.setattr(inversion, "ROUNDS", ((8, 1), (224, 1)))
    output = tmp_path / "made.npz"
    command = ["mobilenetv2", "--threads", "1", "--device", "cpu", "-o", str(output)]
    assert invert.main([*command, "--pictures", "18", "--batch", "6"]) == 0
    with np.load(output) as archive:
        labels = archive["labels"]
    assert sorted(labels[:16]) == list(range(16))
    assert len(labels) == len(load_made(output)) == 18
    assert load_made(output).shape == (18, 224, 224, 3)


@pytest.mark.parametrize("option", ["--pictures", "--batch"])
def test_numbers_of_pictures_are_at_least_one(option: str, tmp_path: Path, refused: Refused) -> None:
    error = refused(invert.main, ["mobilenetv2", "-o", str(tmp_path / "made.npz"), option, "0"])
    assert f"{option}: must be an integer of at least 1, not '0'" in error


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "made.npz"
    with pytest.raises(CompressError, match=r"made must be an \.npz of experiments\.invert, not '.*made\.npz'"):
        load_made(path)
    for content in (b"none", b"", b"PK\x03\x04"):
        path.write_bytes(content)
        with pytest.raises(CompressError, match=r"made must be an \.npz of experiments\.invert, not '.*made\.npz'"):
            load_made(path)
    for arrays in ({"other": np.zeros(1)}, {"images": np.array([None])}):
        np.savez(path, **arrays)
        with pytest.raises(CompressError, match=r"made must be an \.npz of experiments\.invert"):
            load_made(path)
    np.savez(path, images=np.zeros((2, 64, 64, 3), np.uint8))
    with pytest.raises(CompressError, match=r"images of uint8 \[n, 224, 224, 3\], not uint8 \[2, 64, 64, 3\]"):
        load_made(path)


def test_each_kind_of_pictures_is_an_equal_part_of_a_batch(model: nn.Module) -> None:
    """However many there are of each; the first have one more of what is left."""
    brightness = {0: 3, 255: 50, 128: 5}
    sources = [Whole(np.full((n, 32, 32, 3), value, np.uint8), NETWORK, "cpu") for value, n in brightness.items()]
    seen: list[Tensor] = []
    student = copy.deepcopy(model)
    student.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    distillation.distil(student, model, sources, steps=2, lr=1e-3, batch=11, mix=0.0)
    assert len(seen) == 2
    # Whatever their contrast and brightness.
    for views in seen:
        means = views.mean((1, 2, 3)).tolist()
        assert all(value < -0.35 for value in means[:4])
        assert all(value > 0.35 for value in means[4:8])
        assert all(abs(value) < 0.35 for value in means[8:])
        assert len(means) == 11


@CUDA
def test_replayed_steps_are_those_of_an_eager_run(model: nn.Module) -> None:
    """But for sums in another order, which early steps of Adam make much of."""
    network = copy.deepcopy(model).cuda()
    found = [
        inversion.invert(
            network,
            CLASSES,
            NETWORK,
            torch.Generator().manual_seed(seed),
            rounds=((16, 12), (32, 12)),
            device="cuda",
            capture=capture,
        ).float()
        for seed, capture in ((0, False), (0, True), (1, True))
    ]
    near, far = (float((found[0] - other).abs().mean()) for other in found[1:])
    assert near < 0.1 * far
