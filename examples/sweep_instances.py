"""Cycles of one network on several instances, from the cycle model of its program."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn

import msvq
from sw.perf.prediction import predict

torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1)).eval()
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder, "net.msvq")
    msvq.calibrate(model, torch.randn(8, 3, 16, 16), progress=False).write(path)
    for name in ("ews-cms-16", "ews-cms-32"):
        for bits in (32, 64):
            config = msvq.preset(name).override([f"word_width={bits}"])
            cycles = sum(layer.counters["cycles"] for layer in predict(msvq.compile(path, config)))
            print(f"{name}, bus of {bits} bits: {cycles} cycles")
