"""Two outputs, a loss, a metric and a loader of dictionaries of your own: from training to the integers of a file."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

import msvq


class Scene(nn.Module):
    """A class for each pixel, and one number for the image."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.body = nn.Conv2d(16, 16, 3, padding=1)
        self.pixels = nn.Conv2d(16, 3, 1)
        self.depth = nn.Linear(16, 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        found = functional.relu(self.body(functional.relu(self.stem(image))))
        return {"pixels": self.pixels(found), "depth": self.depth(found.mean((2, 3)))}


def loss(output: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
    weights = torch.tensor([1.0, 1.0, 2.0])
    classes = functional.cross_entropy(output["pixels"], batch["mask"], weights)
    return classes + functional.mse_loss(output["depth"][:, 0], batch["depth"])


def right_pixels(output: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
    return 100 * (output["pixels"].argmax(1) == batch["mask"]).float().mean((1, 2))


torch.manual_seed(0)
images = torch.randn(32, 3, 8, 8)
samples = [{"image": image, "mask": image.argmax(0), "depth": image.mean()} for image in images]
loader = DataLoader(samples, batch_size=8, shuffle=True)

recipe = msvq.Recipe("msvq", k=8, d=8, n=4, m=8)
config = msvq.TrainConfig(epochs=4, lr=3e-3)
done = msvq.finetune(Scene(), loader, loader, recipe, config, loss=loss, metric=right_pixels, progress=False)
print("right pixels:", {key: round(value, 1) for key, value in done.report.items() if key.startswith("metric")})

with tempfile.TemporaryDirectory() as folder:
    done.write(Path(folder, "net.msvq"))
    network = msvq.load(Path(folder, "net.msvq"))
    measured = msvq.evaluate(Path(folder, "net.msvq"), loader, metric=right_pixels, inputs=lambda batch: batch["image"])
print("outputs:", ", ".join(output.name for output in network.outputs))
print(f"of the file's integers: {measured['metric']:.1f} % of the pixels")
