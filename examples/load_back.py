"""Float weights of a file back into a network of PyTorch."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn

import msvq

model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3))
with tempfile.TemporaryDirectory() as folder:
    msvq.compress(model, msvq.Recipe("ssvq", k=16, d=8, n=0, m=0), progress=False).write(Path(folder, "net.msvq"))
    weights = msvq.decompress(Path(folder, "net.msvq"))

found = model.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()}, strict=False)
assert not found.unexpected_keys
print("loaded:", ", ".join(weights))
print("as they were (they are not in the file):", ", ".join(found.missing_keys))
