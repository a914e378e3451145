from __future__ import annotations

import dataclasses
import errno
import json
import multiprocessing
import os
import random
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sw.compress.methods import CompressError
from sw.compress.training import loop
from sw.compress.training.data import ImageData
from sw.compress.training.loop import (
    TrainConfig,
    _distorted,
    _mixed,
    _optimiser,
    _Step,
    accuracy,
    fit,
    images_of,
    normalise,
    training_images,
)
from tests.sw.compress.training.training_job import train


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def job(*arguments: object, **environment: str) -> Any:
    """A training in a process of its own, which has torch from this one: loading it takes longer than the training."""

    def run() -> None:
        os.environ |= environment
        # Threads of this process are not there.
        torch.set_num_threads(1)
        train(*map(str, arguments), short="SHORT" in environment)

    process = multiprocessing.get_context("fork").Process(target=run, daemon=True)
    process.start()
    return process


def ended(process: Any) -> int | None:
    """Its exit code; none where it hangs, and it ends with this process."""
    process.join(100)
    return process.exitcode


def state(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(f"{path}.state", weights_only=True)


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert list(a) == list(b)
    for name in a:
        np.testing.assert_array_equal(a[name].numpy(), b[name].numpy(), err_msg=name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "network"
    train(path)
    return path


# Between two checkpoints, and at one.
@pytest.mark.parametrize("step", [5, pytest.param(12, marks=pytest.mark.whole)])
def test_killed_and_resumed_gives_the_same_bytes(whole: Path, tmp_path: Path, step: int) -> None:
    assert ended(job(tmp_path / "network", tmp_path / "checkpoint", step)) == -9
    assert not (tmp_path / "network").exists()
    train(tmp_path / "network", tmp_path / "checkpoint")
    assert (tmp_path / "network").read_bytes() == whole.read_bytes()
    assert_same(state(tmp_path / "network"), state(whole))


def test_two_threads_give_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    # Here, not in a process of its own: loading torch takes longer.
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        train(tmp_path / "network")
    finally:
        torch.set_num_threads(before)
    assert (tmp_path / "network").read_bytes() == whole.read_bytes()


def test_two_processes_train_one_model(tmp_path: Path) -> None:
    """Each takes half of every batch: the gradients differ from one process's by rounding alone."""
    train(tmp_path / "one", short=True)
    # What torchrun sets; test_several_devices.py has itself.
    common = {"SHORT": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    runs = [job(tmp_path / "two", RANK=str(rank), LOCAL_RANK=str(rank), **common) for rank in range(2)]
    assert [ended(run) for run in runs] == [0, 0]
    one, two = state(tmp_path / "one"), state(tmp_path / "two")
    for name in one:
        if one[name].is_floating_point() and "record" not in name:
            torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-4, msg=name)


def data(count: int = 32) -> ImageData:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, count)
    images = rng.integers(0, 60, (count, 3, 8, 8), np.uint8) + (labels * 60).astype(np.uint8)[:, None, None, None]
    return ImageData(images, labels, 8)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, 4))


@pytest.mark.parametrize(("optimiser", "lr"), [("sgd", 0.003), ("adamw", 0.003)])
def test_training_learns(optimiser: str, lr: float) -> None:
    network, images = model(), data()
    config = TrainConfig(30, 8, optimiser, lr, warmup=1, crop=0)
    losses = fit(network, images, config, progress=False)
    assert len(losses) == 30
    assert losses[-1] < 0.5 * losses[0]
    assert accuracy(network, images) > 80


def test_what_a_network_draws_depends_on_the_seed_alone(tmp_path: Path) -> None:
    images, file = data(), tmp_path / "checkpoint"

    def trained(seed: int, stop: int | None = None) -> dict[str, torch.Tensor]:
        network = model().append(nn.Dropout(0.5))
        # Not what fit draws from, and left as it is.
        torch.manual_seed(len(found))
        before = torch.get_rng_state()

        def interrupt(step: int) -> None:
            if step == stop:
                raise KeyboardInterrupt

        config = TrainConfig(2, 8, lr=0.01, crop=0, seed=seed)
        resumed = {} if stop is None and not file.exists() else {"checkpoint": file, "every": 1}
        try:
            fit(network, images, config, after_step=[interrupt], progress=False, **resumed)
        except KeyboardInterrupt:
            assert stop
        assert torch.equal(torch.get_rng_state(), before)
        return network.state_dict()

    found: list[dict[str, torch.Tensor]] = []
    for seed, stop in ((0, None), (0, None), (1, None), (0, 5), (0, None)):
        found.append(trained(seed, stop))
    first, again, other, _, resumed = found
    assert_same(first, again)
    assert_same(first, resumed)
    assert not torch.equal(first["1.weight"], other["1.weight"])


RECORDING = "capture must be False (--eager) for a network whose steps no CUDA graph can hold: operation not permitted"


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (RuntimeError, CompressError, f"^{re.escape(RECORDING)}$"),
        (torch.OutOfMemoryError, torch.OutOfMemoryError, "more$"),
    ],
)
def test_step_that_cannot_be_recorded(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception], raised: type[Exception], message: str
) -> None:
    @contextmanager
    def graph(_: object, stream: object) -> Iterator[None]:
        # torch's own stream may be of another GPU.
        assert stream is step.stream
        yield
        raise error("operation not permitted\nmore")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    network, images, config = model(), data(8), TrainConfig(1, 8, crop=0)
    step = _Step(
        network, _optimiser(network, config, torch.device("cpu")), config, torch.device("cpu"), False, normalise
    )
    step.stream, step.done = object(), step.usual_steps  # type: ignore[assignment]
    batch = torch.from_numpy(images.images), torch.from_numpy(images.labels), torch.zeros(8, 5)
    with pytest.raises(raised, match=message):
        step(*batch)


def test_rate_rises_and_falls() -> None:
    config = TrainConfig(10, lr=1.0, warmup=2)
    rates = [config.rate(step, 100) for step in range(100)]
    assert int(np.argmax(rates)) == 20
    assert max(rates) == 1.0
    assert rates[0] == pytest.approx(1 / 21)
    assert rates[-1] < 1e-3
    assert (np.diff(rates[20:]) < 0).all()


def test_batches_of_large_images_are_smaller() -> None:
    large = ImageData(np.zeros((20, 3, 1000, 1000), np.uint8), np.zeros(20, np.int64), 1000)
    assert [len(labels) for _, labels in images_of(large, "cpu", limit=9)] == [4, 4, 1]


def test_images_are_normalised_in_order() -> None:
    batches = list(images_of(data(), "cpu", batch=5, limit=7))
    assert [len(labels) for _, labels in batches] == [5, 2]
    assert torch.equal(batches[1][1], torch.from_numpy(data().labels[5:7]))
    white = normalise(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)).flatten()
    torch.testing.assert_close(white, torch.tensor([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]))


def test_training_images_are_augmented_and_repeat() -> None:
    config = TrainConfig(1, 8, crop=2)
    first, again = ([*training_images(data(), config, "cpu", limit=7, batch=5)] for _ in range(2))
    assert [len(part) for part in first] == [5, 2]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    plain = torch.cat([images for images, _ in images_of(data(), "cpu", limit=7)])
    assert not torch.equal(torch.cat(first), plain)
    assert torch.equal(torch.cat([*training_images(data(), TrainConfig(1, 8, crop=0), "cpu", limit=7)]), plain)


def test_distortion_of_half_the_range_is_none() -> None:
    images = torch.from_numpy(data().images[:4])
    torch.testing.assert_close(_distorted(images, 1.0, torch.full((4, 6), 0.5)), images.float(), atol=1e-3, rtol=0)
    assert (_distorted(images, 1.0, torch.full((4, 6), 0.9)) - images).abs().mean() > 5


def test_mixing_shares_images_and_labels_alike() -> None:
    torch.manual_seed(0)
    images = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)]).repeat(32, 1, 1, 1)
    mixed, own = _mixed(images, 0.8, torch.rand(64, 4))
    share = (mixed - images).abs().mean((1, 2, 3))
    torch.testing.assert_close(1 - share, own)
    assert 0.05 < (own == 1).float().mean() < 0.5
    assert ((mixed != 0) & (mixed != 1)).any()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 0}, "epochs must be an integer of at least 1, not 0"),
        ({"epochs": 1, "batch": 1.5}, "batch must be an integer of at least 1, not 1.5"),
        ({"epochs": 1, "optimiser": "lion"}, "optimiser must be one of sgd, adamw, not 'lion'"),
        ({"epochs": 1, "precision": "half"}, "precision must be one of float32, bfloat16, not 'half'"),
        ({"epochs": 1, "optimiser": np.array(["sgd"])}, "optimiser must be one of sgd, adamw, not array"),
        ({"epochs": 1, "mix": 1.5}, r"mix must be in 0\.\.1, not 1.5"),
        ({"epochs": 1, "lr": float("nan")}, r"lr must be in 0\.\.1e\+09, not nan"),
        ({"epochs": 1, "lr": 1e38}, r"lr must be in 0\.\.1e\+09, not 1e\+38"),
        ({"epochs": 1, "lr": "0.1"}, "lr must be a number, not '0.1'"),
        ({"epochs": 1, "codebook_lr": None}, "codebook_lr must be a number, not None"),
        ({"epochs": 1, "weight_decay": True}, "weight_decay must be a number, not True"),
        ({"epochs": 1, "mix": [0.5]}, r"mix must be a number, not \[0\.5\]"),
        ({"epochs": 1, "mirror": "no"}, "mirror must be True, False or None, not 'no'"),
        ({"epochs": 1, "crop": 1 << 14}, r"crop must be an integer in 0\.\.16383, not 16384"),
        ({"epochs": 1, "erase": 10**30}, r"erase must be an integer in 0\.\.65536, not 10+"),
        ({"epochs": 1, "threads": 10**30}, r"threads must be an integer in 1\.\.1024, not 10+"),
        ({"epochs": 1, "area": 1.5}, r"area must be in 0\.\.1, not 1.5"),
    ],
)
def test_bad_settings(fields: dict[str, object], message: str) -> None:
    with pytest.raises(CompressError, match=message):
        TrainConfig(**fields)  # type: ignore[arg-type]


def test_settings_of_numpy_are_those_of_python(tmp_path: Path) -> None:
    """A checkpoint that holds a scalar of numpy is read by nobody: its training was lost."""
    given: dict[str, Any] = {"lr": np.float64(0.5), "weight_decay": np.float32(0.25), "optimiser": np.str_("sgd")}
    config = TrainConfig(1, 8, crop=0, **given)
    assert [type(getattr(config, name)) for name in given] == [float, float, str]
    found = [fit(model(), data(), config, checkpoint=tmp_path / "run.pt", progress=False) for _ in range(2)]
    assert found[0] == found[1]
    assert json.loads(json.dumps(dataclasses.asdict(config))) == dataclasses.asdict(config)


def test_bad_runs(tmp_path: Path) -> None:
    with pytest.raises(CompressError, match="batch must be at most the 32 images, not 64"):
        fit(model(), data(), TrainConfig(1, 64), progress=False)
    checkpoint = tmp_path / "checkpoint"
    fit(model(), data(), TrainConfig(1, 8, crop=0), checkpoint=checkpoint, progress=False)
    with pytest.raises(CompressError, match="must be of this configuration"):
        fit(model(), data(), TrainConfig(2, 8, crop=0), checkpoint=checkpoint, progress=False)
    broken = model()
    with torch.no_grad():
        broken[1].weight.fill_(float("nan"))
    with pytest.raises(CompressError, match="loss must be finite, not nan in epoch 0"):
        fit(broken, data(), TrainConfig(1, 8), progress=False)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    def full(path: Path, state: Any) -> None:
        path.write_bytes(b"part")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(loop, "write_state", full)
    with pytest.raises(OSError, match="No space") as caught:
        fit(model(), data(), TrainConfig(1, 8, crop=0), checkpoint=tmp_path / "w" / "checkpoint", progress=False)
    assert caught.value.filename == str(tmp_path / "w" / "checkpoint")
    assert os.listdir(tmp_path) == []


def test_a_damaged_checkpoint_is_one_line(tmp_path: Path) -> None:
    path, config = tmp_path / "checkpoint", TrainConfig(1, 8, crop=0)
    fit(model(), data(), config, checkpoint=path, progress=False)
    whole, rng = path.read_bytes(), random.Random(1)
    state = torch.load(path, weights_only=True)
    for number in range(30):
        start = rng.randrange(len(whole))
        path.write_bytes([whole[:start], whole[:start] + rng.randbytes(3) + whole[start + 5 :], b""][number % 3])
        with pytest.raises(CompressError, match=r"cannot read checkpoint .*, delete it to begin again: .*") as raised:
            fit(model(), data(), config, checkpoint=path, progress=False)
        assert "\n" not in str(raised.value)
    # What is whole is somebody's work, and may be the user's own weights.
    for wrong in ({}, [], {**state, "model": {}}, {**state, "optimiser": 3}, model().state_dict()):
        torch.save(wrong, path)
        message = r"checkpoint '.*checkpoint' must be of this training, not of another network or of something"
        with pytest.raises(CompressError, match=message) as raised:
            fit(model(), data(), config, checkpoint=path, progress=False)
        assert "\n" not in str(raised.value)
