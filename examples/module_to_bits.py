"""From a torch module to a file, to a program, to bits."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn

import msvq

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1),
    nn.ReLU(),
    nn.Conv2d(16, 32, 3, stride=2, padding=1),
    nn.ReLU(),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(32, 5),
).eval()
images = torch.randn(20, 1, 12, 12)

done = msvq.calibrate(model, images, msvq.Recipe("msvq", k=16, d=16, n=4, m=16), progress=False)
with tempfile.TemporaryDirectory() as folder:
    container = Path(folder, "net.msvq")
    done.write(container)
    program = msvq.compile(container, "ews-cms-16")
    print(f"{container.stat().st_size} bytes, {done.report['bits_per_weight']:.2f} bits a weight with codebooks")

for name, values in msvq.run(program, images[:2]).items():
    print(name, values.reshape(2, -1).tolist())
