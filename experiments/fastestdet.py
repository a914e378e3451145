"""FastestDet (its ONNX file's graph), its boxes, and average precision at an IoU of 0.5.

The network's blocks split their channels into even and odd ones (a channel shuffle), which the accelerator can't. Here
the order of every convolution's outputs is chosen so that what is read together lies together: the same values by
slices and concatenations (:func:`plan`, :func:`load_state`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from sw.compress.methods import CompressError

__all__ = ["SIDE", "FastestDet", "average_precision", "boxes_of", "load_state", "overlaps", "plan", "suppress"]

#: Rows and columns of the images.
SIDE = 352

#: Blocks of the three stages, and their channels in front of the concatenation.
STAGES = ((4, 24), (8, 48), (4, 96))

Piece = tuple[int, int, int]


@dataclass(frozen=True)
class Plan:
    """How a stage of blocks is computed without shuffles."""

    #: Of the outputs of each source, which original channel comes at each place. Source 0 is the first block's
    #: projection, source i + 1 the main branch of block i.
    orders: tuple[tuple[int, ...], ...]
    #: Of each block from the second on, the pieces ``(source, start, stop)`` that its branch reads.
    reads: tuple[tuple[Piece, ...], ...]
    #: Of each such block, the original order of what it reads: which place of the pieces joined has each channel.
    inputs: tuple[tuple[int, ...], ...]
    #: The same of the stage's result.
    result: tuple[Piece, ...]
    places: tuple[int, ...]


def plan(blocks: int, channels: int) -> Plan:
    """The plan of a stage of so many blocks, whose branches have so many channels.

    A block from the second on gives ``[even channels | branch(odd channels)]`` of the one before.
    """
    # Each channel by its source and its number there; where it is read at last.
    values = [(source, channel) for source in (0, 1) for channel in range(channels)]
    reader: dict[tuple[int, int], int] = {}
    wanted = []
    for block in range(1, blocks):
        odd = values[1::2]
        reader |= dict.fromkeys(odd, block)
        wanted.append(odd)
        values = values[0::2] + [(block + 1, channel) for channel in range(channels)]
    reader |= dict.fromkeys(values, blocks)
    orders = [
        sorted(range(channels), key=lambda channel: (reader[source, channel], channel)) for source in range(blocks + 1)
    ]
    found = [_pieces(part, orders) for part in (*wanted, values)]
    *reads, (result, places) = found
    return Plan(
        tuple(map(tuple, orders)), tuple(each for each, _ in reads), tuple(each for _, each in reads), result, places
    )


def _pieces(
    values: Sequence[tuple[int, int]], orders: Sequence[Sequence[int]]
) -> tuple[tuple[Piece, ...], tuple[int, ...]]:
    """Pieces that hold these channels, and at which place of the pieces joined each is."""
    pieces: list[Piece] = []
    joined: list[tuple[int, int]] = []
    for source in sorted({source for source, _ in values}):
        numbers = sorted(orders[source].index(channel) for own, channel in values if own == source)
        if numbers != list(range(numbers[0], numbers[-1] + 1)):
            raise ValueError(f"channels {numbers} of source {source} do not lie together")
        pieces.append((source, numbers[0], numbers[-1] + 1))
        joined += [(source, orders[source][number]) for number in range(numbers[0], numbers[-1] + 1)]
    return tuple(pieces), tuple(joined.index(value) for value in values)


def _pointwise(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]


def _depthwise(channels: int, size: int, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(channels, channels, size, stride, size // 2, groups=channels, bias=False)
    return [conv, nn.BatchNorm2d(channels)]


class _Branches(nn.Module):
    """A block's branches: the main one; of a stage's first block also the projection."""

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.branch_main = nn.Sequential(
            *_pointwise(inputs, channels),
            nn.ReLU(),
            *_depthwise(channels, 3, stride),
            *_pointwise(channels, channels),
            nn.ReLU(),
        )
        if stride > 1:
            self.branch_proj = nn.Sequential(*_depthwise(inputs, 3, stride), *_pointwise(inputs, channels), nn.ReLU())


def _joined(sources: Sequence[Tensor], pieces: Sequence[Piece]) -> Tensor:
    parts = [
        sources[source] if stop - start == sources[source].shape[1] else sources[source].narrow(1, start, stop - start)
        for source, start, stop in pieces
    ]
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0]


class _Stage(nn.Sequential):
    """Blocks of a stage, without shuffles."""

    def __init__(self, inputs: int, channels: int, blocks: int) -> None:
        super().__init__(_Branches(inputs, channels, 2), *(_Branches(channels, channels, 1) for _ in range(blocks - 1)))
        self.plan = plan(blocks, channels)

    def forward(self, values: Tensor) -> Tensor:
        first, *others = self
        sources = [first.branch_proj(values), first.branch_main(values)]
        for block, pieces in zip(others, self.plan.reads, strict=True):
            sources.append(block.branch_main(_joined(sources, pieces)))
        return _joined(sources, self.plan.result)


class _Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first_conv = nn.Sequential(nn.Conv2d(3, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = 24
        for number, (blocks, channels) in enumerate(STAGES):
            self.add_module(f"stage{number + 2}", _Stage(inputs, channels, blocks))
            inputs = 2 * channels

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        map8 = self.stage2(self.maxpool(self.first_conv(images)))
        map16 = self.stage3(map8)
        return map8, map16, self.stage4(map16)


class _Named(nn.Module):
    """One module by a name of the file's."""

    def __init__(self, name: str, *layers: nn.Module) -> None:
        super().__init__()
        self.add_module(name, nn.Sequential(*layers))
        self.name = name

    def forward(self, values: Tensor) -> Tensor:
        return self.get_submodule(self.name)(values)  # type: ignore[no-any-return]


class _Pyramid(nn.Module):
    """One, two and three depthwise convolutions of 5 x 5 beside each other, and what they read added."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.Conv1x1 = _Named("conv1x1", *_pointwise(inputs, outputs), nn.ReLU())
        for count in (1, 2, 3):
            layers = [layer for _ in range(count) for layer in (*_depthwise(outputs, 5), nn.ReLU())]
            self.add_module(f"S{count}", nn.Sequential(*layers))
        self.output = nn.Sequential(*_pointwise(3 * outputs, outputs))

    def forward(self, values: Tensor) -> Tensor:
        values = self.Conv1x1(values)
        joined = torch.cat([self.S1(values), self.S2(values), self.S3(values)], 1)
        return functional.relu(values + self.output(joined))


class _Heads(nn.Module):
    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv1x1 = _Named("conv1x1", *_pointwise(channels, channels), nn.ReLU())
        for name, outputs in (("obj_layers", 1), ("reg_layers", 4), ("cls_layers", classes)):
            layers = (*_depthwise(channels, 5), nn.ReLU(), *_pointwise(channels, outputs))
            self.add_module(name, _Named("conv5x5", *layers))

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        values = self.conv1x1(values)
        return self.obj_layers(values), self.reg_layers(values), self.cls_layers(values)


class FastestDet(nn.Module):
    """FastestDet, from BGR images in 0..1, ``[batch, 3, 352, 352]``.

    Gives logits that there is an object, ``[batch, 1, 22, 22]``, boxes before their functions, ``[batch, 4, 22, 22]``,
    and logits of classes. Sigmoid and softmax of the file's graph are :func:`boxes_of`'s.
    """

    def __init__(self, classes: int = 80) -> None:
        super().__init__()
        self.backbone = _Backbone()
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.average = nn.AvgPool2d(3, 2, 1)
        self.SPP = _Pyramid(336, 96)
        self.detect_head = _Heads(96, classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        map8, map16, map32 = self.backbone(images)
        joined = torch.cat([self.average(map8), map16, self.up(map32)], 1)
        return self.detect_head(self.SPP(joined))  # type: ignore[no-any-return]


def load_state(model: FastestDet, state: Mapping[str, Tensor]) -> None:
    """Load the authors' state dict, its channels in the order that :func:`plan` gives each convolution.

    Raises
    ------
    CompressError
        Names or shapes are others.
    """
    found = {key: value.clone() for key, value in state.items()}

    def order(prefix: str, axis: int, places: Sequence[int]) -> None:
        """Of all of a layer's tensors, or of a weight's inputs."""
        for key in [key for key in found if key.startswith(prefix)]:
            if found[key].ndim > axis:
                found[key] = found[key].index_select(axis, torch.tensor(places))

    try:
        for number, (blocks, channels) in enumerate(STAGES):
            own, stage = plan(blocks, channels), f"backbone.stage{number + 2}"
            for layer in (2, 3):
                order(f"{stage}.0.branch_proj.{layer}.", 0, own.orders[0])
            for block in range(blocks):
                for layer in (5, 6):
                    order(f"{stage}.{block}.branch_main.{layer}.", 0, own.orders[block + 1])
                if block:
                    order(f"{stage}.{block}.branch_main.0.weight", 1, np.argsort(own.inputs[block - 1]).tolist())
            back = np.argsort(own.places).tolist()
            if number < 2:
                after = f"backbone.stage{number + 3}.0"
                for layer in (0, 1):
                    order(f"{after}.branch_proj.{layer}.", 0, back)
                order(f"{after}.branch_proj.2.weight", 1, back)
                order(f"{after}.branch_main.0.weight", 1, back)
            first = (0, 48, 144)[number]
            whole = np.arange(336)
            whole[first : first + 2 * channels] = first + np.asarray(back)
            order("SPP.Conv1x1.conv1x1.0.weight", 1, whole.tolist())
        model.load_state_dict(found)
    except (RuntimeError, IndexError) as error:
        text = " ".join(str(error).split())[:200]
        raise CompressError(f"weights must be a state dict of FastestDet: {text}") from None


def boxes_of(
    results: Sequence[Tensor], least: float = 0.001, overlap: float = 0.45
) -> list[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]]:
    """Boxes of each image: corners relative to its sides ``[n, 4]``, scores, classes; the best first.

    As the authors decode them: the score is ``object ** 0.6 * class ** 0.4``.

    Parameters
    ----------
    results
        Of :class:`FastestDet`.
    least
        Scores below count for nothing.
    overlap
        IoU above which the lesser box of a class is left out.
    """
    objects, places, classes = (each.detach().double().cpu() for each in results)
    rows, columns = objects.shape[2:]
    best, labels = classes.softmax(1).max(1)
    scores = objects[:, 0].sigmoid() ** 0.6 * best**0.4
    x = (torch.arange(columns).double() + places[:, 0].tanh()) / columns
    y = (torch.arange(rows).double()[:, None] + places[:, 1].tanh()) / rows
    half_width, half_height = places[:, 2].sigmoid() / 2, places[:, 3].sigmoid() / 2
    corners = torch.stack([x - half_width, y - half_height, x + half_width, y + half_height], -1)
    found = []
    parts = (corners.flatten(1, 2).numpy(), scores.flatten(1).numpy(), labels.flatten(1).numpy())
    for own, score, label in zip(*parts, strict=True):
        order = np.argsort(-score, kind="stable")[: int((score > least).sum())]
        boxes, values, kinds = own[order], score[order], label[order]
        kept = suppress(boxes, kinds, overlap)
        found.append((boxes[kept], values[kept], kinds[kept]))
    return found


def overlaps(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of each of our boxes with each of theirs, by corners: ``[n, m]``."""
    low = np.maximum(ours[:, None, :2], theirs[None, :, :2])
    high = np.minimum(ours[:, None, 2:], theirs[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(2)
    area, other = ((each[:, 2:] - each[:, :2]).prod(1) for each in (ours, theirs))
    union = area[:, None] + other[None] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def suppress(boxes: NDArray[np.float64], classes: NDArray[np.int64], overlap: float) -> NDArray[np.int64]:
    """Numbers of boxes, the best first, that no better box of their class overlaps by more than ``overlap``."""
    covered = (overlaps(boxes, boxes) > overlap) & (classes[:, None] == classes[None])
    left, kept = np.ones(len(boxes), dtype=bool), []
    for number in range(len(boxes)):
        if left[number]:
            kept.append(number)
            left &= ~covered[number]
    return np.array(kept, dtype=np.int64)


def average_precision(found: Sequence[tuple[Any, Any, Any]], truth: Sequence[tuple[Any, Any]]) -> float:
    """Mean over classes of the average precision at an IoU of 0.5, in per cent.

    As COCO has it: precision at 101 recalls, each the best at that recall or above; a box finds the object of its class
    that it overlaps most of those that no better box has found. Classes without an object do not count.

    Parameters
    ----------
    found
        Of each image boxes, scores, classes.
    truth
        Of each image boxes and classes.

    Raises
    ------
    CompressError
        There is no object.
    """
    figures = []
    for label in sorted({int(kind) for _, kinds in truth for kind in kinds}):
        hits: list[tuple[float, bool]] = []
        objects = 0
        for (boxes, scores, classes), (known, kinds) in zip(found, truth, strict=True):
            own = np.asarray(known)[np.asarray(kinds) == label].reshape(-1, 4)
            mine = np.flatnonzero(np.asarray(classes) == label)
            objects += len(own)
            table = overlaps(np.asarray(boxes)[mine].reshape(-1, 4), own)
            free = np.ones(len(own), dtype=bool)
            for row, number in sorted(enumerate(mine), key=lambda pair: -scores[pair[1]]):
                near = np.where(free, table[row], -1.0)
                hit = bool(len(own)) and bool(near.max() >= 0.5)
                if hit:
                    free[int(near.argmax())] = False
                hits.append((float(scores[number]), hit))
        hits.sort(key=lambda pair: -pair[0])
        right = np.cumsum([hit for _, hit in hits])
        recall, precision = right / objects, right / np.arange(1, len(hits) + 1)
        best = np.maximum.accumulate(precision[::-1])[::-1]
        at = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
        figures.append(np.mean([best[i] if i < len(best) else 0.0 for i in at]))
    if not figures:
        raise CompressError("truth must have at least one object, not 0")
    return 100 * float(np.mean(figures))
