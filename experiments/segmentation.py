"""What :mod:`experiments.camvid` does: its network, its images, float training and the mean IoU."""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from experiments.common import opened_tar, picture
from experiments.models import ImageNetMobileNetV2, load_weights, save_weights
from experiments.pictures import random_grids, recoloured
from experiments.vision_runs import Results, Task, as_results, learn
from hw.command_line import write_text
from sw.compress.checkpoints import read_state_dict
from sw.compress.methods import CompressError
from sw.compress.training.data import Preprocessing
from sw.compress.training.evaluation import VOID, evaluate_maps
from sw.compress.training.settings import IMAGENET_MEAN, IMAGENET_STD
from sw.format.strict_json import json_text

__all__ = ["CLASSES", "SIZE", "MobileNetSegmenter", "load", "load_part"]

#: Classes of CamVid; rows and columns of the images.
CLASSES, SIZE = 11, (288, 384)

_BATCH = 16


class _Join(nn.Module):
    """Enlarge by 2, concatenate with the encoder's map of that size, and convolve."""

    def __init__(self, inputs: int, skipped: int, outputs: int) -> None:
        super().__init__()
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.conv = nn.Conv2d(inputs + skipped, outputs, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, values: Tensor, skipped: Tensor) -> Tensor:
        joined = torch.cat([self.up(values), skipped], 1)
        return functional.relu(self.bn(self.conv(joined)))


class MobileNetSegmenter(nn.Module):
    """MobileNet-v2's blocks, and a decoder from 1/32 of the rows and columns to 1/4.

    Parameters
    ----------
    classes
        Channels of the result ``[batch, classes, rows / 4, columns / 4]``.
    """

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        # The last convolution, to 1280 channels, is the classifier's.
        self.features = ImageNetMobileNetV2().features[:-1]
        self.narrow = nn.Conv2d(320, 96, 1, bias=False)
        self.bn = nn.BatchNorm2d(96)
        self.join16, self.join8, self.join4 = _Join(96, 96, 96), _Join(96, 32, 64), _Join(64, 24, 48)
        self.head = nn.Conv2d(48, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        map4 = self.features[:4](images)
        map8 = self.features[4:7](map4)
        map16 = self.features[7:14](map8)
        map32 = self.features[14:](map16)
        values = functional.relu(self.bn(self.narrow(map32)))
        values = self.join16(values, map16)
        values = self.join8(values, map8)
        return self.head(self.join4(values, map4))


def load_part(path: Path, limit: int | None = None) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images, uint8 ``[n, 3, *SIZE]``, and labels, uint8 ``[n, *SIZE]`` with :data:`VOID`, of a tar file.

    Raises
    ------
    CompressError
        There is no such file, an image has no label, or a label is above 11.
    """
    from PIL.Image import Resampling

    rows, columns = SIZE
    found: dict[str, dict[str, NDArray[np.uint8]]] = {"image": {}, "label": {}}
    with opened_tar(path, "data must have the parts as tar files") as archive:
        for member in archive:
            kind, stem = Path(member.name).parent.name, Path(member.name).stem
            if not member.isfile() or kind not in found:
                continue
            file = archive.extractfile(member)
            assert file is not None
            image = picture(io.BytesIO(file.read()), "RGB" if kind == "image" else None, name=member.name)
            how = Resampling.BILINEAR if kind == "image" else Resampling.NEAREST
            found[kind][stem] = np.asarray(image.resize((columns, rows), how))
    names = sorted(found["image"])[:limit]
    missing = [name for name in names if name not in found["label"]]
    if missing or not names:
        what = f"no label of {missing[0]}" if missing else "no image"
        raise CompressError(f"{str(path)!r} must have image/NAME.webp and label/NAME.png, not {what}")
    labels = np.stack([found["label"][name] for name in names])
    if labels.max() > CLASSES:
        raise CompressError(f"labels must be in 0..{CLASSES}, not {labels.max()}")
    labels[labels == CLASSES] = VOID
    return np.stack([found["image"][name] for name in names]).transpose(0, 3, 1, 2), labels


def _normalised(pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(part, device=pixels.device).reshape(1, 3, 1, 1) for part in (IMAGENET_MEAN, IMAGENET_STD))
    return (pixels.float() / 255 - mean) / std


def _views(images: Tensor, labels: Tensor, labelled: bool) -> Callable[[torch.Generator], Tensor]:
    """Batches of random crops in random colours; ``labelled``: with a channel of labels, 0 for void."""
    count, known = min(_BATCH, len(images)), torch.where(labels == VOID, 0, labels + 1)

    def batch(generator: torch.Generator) -> Tensor:
        chosen = torch.randperm(len(images), generator=generator)[:count].to(images.device)
        grid = random_grids(count, generator, SIZE, images.device)
        own = _normalised(images[chosen])
        views = functional.grid_sample(own, grid, padding_mode="reflection", align_corners=False)
        views = recoloured(views, generator)
        if not labelled:
            return views
        right = known[chosen][:, None].float()
        return torch.cat([views, functional.grid_sample(right, grid, mode="nearest", align_corners=False)], 1)

    return batch


@torch.no_grad()
def mean_iou(results: Callable[[Tensor], Results], images: Tensor, labels: Tensor) -> dict[str, float]:
    """Mean IoU of all images, by logits that are interpolated to the labels' size."""

    def scored(part: Tensor) -> NDArray[np.uint8]:
        logits = results(_normalised(part))[0].float()
        large = functional.interpolate(logits, size=SIZE, mode="bilinear", align_corners=False)
        # One score of 1 for the class that wins: evaluate_maps counts the table.
        best = functional.one_hot(large.argmax(1), CLASSES).permute(0, 3, 1, 2)
        return best.to(torch.uint8).cpu().numpy()

    pairs = ((scored(part), own.cpu().numpy()) for part, own in zip(images.split(8), labels.split(8), strict=True))
    found = evaluate_maps(pairs)
    return {"miou": found["miou"], "pixels": found["pixels"], "choice": found["miou"]}


def _float_loss(student: nn.Module, batch: Tensor) -> Tensor:
    logits = functional.interpolate(student(batch[:, :3]).float(), size=SIZE, mode="bilinear", align_corners=False)
    return functional.cross_entropy(logits, batch[:, 3].round().long() - 1, ignore_index=-1)


def _loss(found: Results, wanted: Results) -> Tensor:
    """Kullback-Leibler divergence, the mean over all pixels."""
    ours, theirs = found[0].log_softmax(1), wanted[0].log_softmax(1)
    return (theirs.exp() * (theirs - ours)).sum(1).mean()


def load(options: argparse.Namespace) -> Task:
    """The float network, trained where its file is not there yet, and the data, on the device.

    Raises
    ------
    CompressError
        Data or weights are not there or not what they must be.
    """
    if options.data is None:
        raise CompressError("--data must name the directory of train.tar, val.tar and test.tar")
    parts = {}
    for name in ("train", "val", "test"):
        pixels, labels = load_part(options.data / f"{name}.tar", options.images)
        parts[name] = [torch.from_numpy(np.ascontiguousarray(each)).to(options.device) for each in (pixels, labels)]
        parts[name][1] = parts[name][1].long()
    train, labels = parts["train"]
    torch.manual_seed(0)
    model, path = MobileNetSegmenter(), options.runs / "float.pt"
    if not path.exists():
        _train(model, options, train, labels, lambda network: mean_iou(as_of(network), *parts["val"]))
        save_weights(model.cpu().state_dict(), path)
    load_weights(model, path)
    model.to(options.device).eval()
    return Task(
        model=model,
        sample=_normalised(train[:64]),
        views=_views(train, labels, False),
        loss=_loss,
        choose=lambda results: mean_iou(results, *parts["val"]),
        score=lambda results: mean_iou(results, *parts["test"]),
        metadata={"preprocessing": Preprocessing(crop=1.0).to_dict()},
    )


def as_of(network: nn.Module) -> Callable[[Tensor], Results]:
    """What gives a network's results as a tuple."""
    return lambda images: as_results(network(images))


def _train(
    model: MobileNetSegmenter,
    options: argparse.Namespace,
    images: Tensor,
    labels: Tensor,
    chosen: Callable[[nn.Module], dict[str, float]],
) -> None:
    """Float training from ImageNet's weights."""
    if options.weights is None:
        raise CompressError("--weights must name ImageNet's state dict of MobileNet-v2: there is no float.pt in --runs")
    begin = time.perf_counter()
    state = read_state_dict(options.weights)
    own = {key: state[key].float() for key in model.state_dict() if key.startswith("features.") and key in state}
    wrong: Sequence[str] = [
        key for key in model.state_dict() if key.startswith("features.") and "num_batches" not in key and key not in own
    ]
    if wrong:
        raise CompressError(f"weights must have torchvision's names of MobileNet-v2: {wrong[0]!r} is missing")
    model.load_state_dict(model.state_dict() | own)
    model.to(options.device)
    losses = learn(
        model,
        _views(images, labels, True),
        _float_loss,
        steps=options.float_steps,
        lr=1e-2,
        device=options.device,
        seed=0,
        decay=0.01,
        statistics=True,
        capture=not options.eager,
    )
    report = {"losses": losses, "val": chosen(model), "steps": options.float_steps}
    options.runs.mkdir(parents=True, exist_ok=True)
    write_text(options.runs / "float-training.json", json_text(report | {"seconds": time.perf_counter() - begin}))
