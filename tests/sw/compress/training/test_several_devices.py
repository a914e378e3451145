"""Several processes through torchrun, and a GPU that is not the first."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.models import build
from sim.networks.definitions import DeiT
from sw.compress.commands.finetune import main
from sw.compress.kmeans import kmeans_layers
from sw.compress.methods import Recipe
from sw.compress.training.data import ImageData
from sw.compress.training.finetune import Finetuning, finetune
from sw.compress.training.freezing import Freezing
from sw.compress.training.integer import read_network
from sw.compress.training.loop import TrainConfig
from sw.format.container import read_container
from tests.sw.devices import CUDA

ROOT = Path(__file__).parents[4]

TWO_GPUS = pytest.mark.skipif(
    torch.cuda.device_count() < 2 or importlib.util.find_spec("triton") is None, reason="needs two GPUs and triton"
)


def images(size: int = 8) -> ImageData:
    rng = np.random.default_rng(0)
    return ImageData(rng.integers(0, 256, (64, 3, size, size), np.uint8), rng.integers(0, 10, 64), size)


@pytest.mark.whole  # test_loop.py has two processes in every run
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=TWO_GPUS)])
def test_finetune_through_torchrun(device: str, tmp_path: Path) -> None:
    data, output, report = tmp_path / "data.npz", tmp_path / "network", tmp_path / "report.json"
    part = images()
    values = part.images.transpose(0, 2, 3, 1)
    np.savez(data, train_images=values, train_labels=part.labels, test_images=values, test_labels=part.labels)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command += ["sw.compress", "finetune", "experiments.models:ResNet20", "--data", data, "-o", output]
    command += ["--json", report, "--method", "msvq", "--k", "4", "--sparse", "sr-ste", "--sparse-epochs", "1"]
    command += ["--epochs", "1", "--batch", "32", "--crop", "0", "--threads", "1", "--freeze-interval", "1"]
    done = subprocess.run(
        [*map(str, command), "--device", device, "--work", str(tmp_path / "work")],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(report.read_text())["golden_logits_equal"]
    assert {layer.method for layer in read_container(output).layers} == {"int8", "msvq"}
    assert read_network(output).run(torch.zeros(1, 3, 8, 8, dtype=torch.int8)).shape == (1, 10)


def test_each_process_needs_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in (("WORLD_SIZE", "3"), ("LOCAL_RANK", "2")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert main(["users:network", "--data", "data.npz", "-o", "network", "--device", "cuda"]) == 2
    message = "torchrun must start at most 2 processes, as many as PyTorch sees GPUs, not 3 or more"
    assert message in capsys.readouterr().err


@TWO_GPUS
def test_clustering_on_another_gpu_gives_the_same_bytes() -> None:
    weights = [np.random.default_rng(i).standard_normal((400, 16)).astype(np.float32) for i in range(3)]
    masks = [np.random.default_rng(i).random((400, 16)) < 0.5 for i in range(3)]
    for own in (None, masks):
        first, second = (kmeans_layers(weights, 12, masks=own, device=f"cuda:{i}") for i in range(2))
        for a, b in zip(first, second, strict=True):
            assert np.array_equal(a.codebook, b.codebook)
            assert np.array_equal(a.assignments, b.assignments)


@TWO_GPUS
@pytest.mark.parametrize("method", ["mvq", "msvq"])
def test_training_on_another_gpu_gives_the_same_bytes(method: str, tmp_path: Path) -> None:
    written = []
    for device in ("cuda:0", "cuda:1"):
        job = Finetuning([("layer*", Recipe(method, 8, 16, 4, 16))], TrainConfig(4, 16, crop=0), freezing=Freezing(2))
        done = finetune(build("resnet20"), images(), images(), job, device=device, progress=False)
        done.write(tmp_path / "network")
        written.append((tmp_path / "network").read_bytes())
    assert written[0] == written[1]


@CUDA
def test_a_transformer_on_a_gpu_gives_the_same_bytes_again(tmp_path: Path) -> None:
    data, written = images(32), []
    for _ in range(2):
        torch.manual_seed(0)
        model = DeiT(size=32, patch=2, width=64, heads=2, depth=2)
        job = Finetuning([("*qkv", Recipe("ssvq", 8, 8, 0, 0))], TrainConfig(4, 32, precision="bfloat16"))
        finetune(model, data, data, job, device="cuda", progress=False).write(tmp_path / "network")
        written.append((tmp_path / "network").read_bytes())
    assert written[0] == written[1]
