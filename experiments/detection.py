"""What :mod:`experiments.detect` does: its images and boxes, the loss, and average precision."""

from __future__ import annotations

import argparse
import io
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from experiments.common import opened_tar, picture
from experiments.fastestdet import SIDE, FastestDet, average_precision, boxes_of, load_state
from experiments.pictures import decoded, load_small, mixed, picture_files, random_grids, recoloured
from experiments.vision_runs import Results, Task, as_results
from sw.compress.checkpoints import read_state_dict
from sw.compress.methods import CompressError
from sw.compress.training.data import Preprocessing

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["load", "load_images"]

#: Every so many training images, and every so many other pictures, one is held out.
HELD_OUT, OTHERS_HELD_OUT = 5, 40

#: Scores from which boxes of the float network count as objects, where another network is to find the same ones.
SURE = 0.35

#: The objectness from which a cell counts as an object, where pictures are weighed by their classes; and what weight
#: every picture has, as a share of the mean.
OBJECT, FLOOR = 0.2, 0.3

#: Whole pictures that batch norms get their statistics from at the end.
WHOLE = 256

#: Of a square picture; of another the network sees all, too, its sides made as long as each other.
PREPROCESSING = Preprocessing((0.0,) * 3, (1.0,) * 3, crop=1.0, colours="bgr")

_BATCH = 32

#: Options that views are made by, and those of the loss.
_VIEWS = ("batch", "side", "mix", "data_part", "least_area", "recolour", "balance", "four_part")
_LOSS = ("class_weight", "class_power")

Truth = list[tuple[NDArray[np.float64], NDArray[np.int64]]]


def load_images(path: Path, limit: int | None = None) -> dict[str, tuple[NDArray[np.uint8], Truth]]:
    """Of each part: BGR images, uint8 ``[n, 3, 352, 352]``, their sides as long as that; and boxes with classes.

    Raises
    ------
    CompressError
        There is no such file, or it has no part.
    """
    files: dict[str, bytes] = {}
    with opened_tar(path, "data must be a tar file of images and boxes") as archive:
        for member in archive:
            if member.isfile():
                file = archive.extractfile(member)
                assert file is not None
                files[member.name.removeprefix("./")] = file.read()
    found = {}
    for part in ("train2017", "val2017"):
        names = sorted(name for name in files if Path(name).parent.name == part and name.endswith(".webp"))[:limit]
        if not names:
            raise CompressError(f"{str(path)!r} must have {part}/NAME.webp")
        pixels, truth = [], []
        for name in names:
            pixels.append(_square(picture(io.BytesIO(files[name]), name=name)))
            rows = _boxes(files, name.removesuffix(".webp") + ".txt")
            centre, half = rows[:, 1:3], rows[:, 3:] / 2
            truth.append((np.concatenate([centre - half, centre + half], 1), rows[:, 0].astype(np.int64)))
        found[part] = np.stack(pixels), truth
    return found


def _square(image: Image) -> NDArray[np.uint8]:
    """An RGB picture as the network takes it: BGR, uint8 ``[3, 352, 352]``, whatever its sides are."""
    from PIL.Image import Resampling

    pixels: NDArray[np.uint8] = np.asarray(image.resize((SIDE, SIDE), Resampling.BILINEAR))
    return pixels[:, :, ::-1].transpose(2, 0, 1)


def _boxes(files: dict[str, bytes], name: str) -> NDArray[np.float64]:
    """Class, centre and sides of each box."""
    try:
        rows = np.array(files[name].split(), dtype=np.float64).reshape(-1, 5)
    except KeyError:
        raise CompressError(f"data must have {name!r}") from None
    except ValueError:
        raise CompressError(f"{name!r} must have a class and four numbers a line") from None
    if not np.isfinite(rows).all():
        raise CompressError(f"{name!r} must have finite numbers")
    return rows


def load_more(directory: Path, limit: int | None = None, threads: int = 1) -> NDArray[np.uint8]:
    """All pictures below a directory as BGR, uint8 ``[n, 3, 352, 352]``, their sides as long as that.

    Raises
    ------
    CompressError
        There is none.
    """
    return decoded(picture_files(directory)[:limit], lambda file: _square(picture(file)), threads)


def _tiled(chosen: Tensor, rows: int) -> Tensor:
    """Each view of ``rows * rows`` square images side by side, ``[count * rows * rows, 3, size, size]``."""
    parts = chosen.unflatten(0, (-1, rows, rows)).permute(0, 3, 1, 4, 2, 5)
    return parts.flatten(4, 5).flatten(2, 3)


def side_by_side(pictures: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Sixteen random ones to each of so many square images, of the images' size: uint8 ``[count, 3, 352, 352]``."""
    chosen = torch.randint(len(pictures), (16 * count,), generator=generator).to(pictures.device)
    whole = _tiled(pictures[chosen], 4).float()
    return functional.interpolate(whole, (SIDE, SIDE), mode="bilinear", align_corners=False).round().to(torch.uint8)


def by_four(pictures: Tensor) -> Tensor:
    """Each four pictures at half their size, side by side: uint8 ``[4 * n, 3, 352, 352]`` as ``[n, 3, 352, 352]``."""
    return _tiled(functional.avg_pool2d(pictures.float(), 2).round().to(torch.uint8), 2)


@torch.no_grad()
def picture_weights(model: Callable[[Tensor], Results], pictures: Tensor, balance: float) -> Tensor:
    """How often to draw each picture, float64 ``[n]`` on the CPU: by the objects that a network finds in it.

    An object counts by its class's probabilities, each divided by how often the class is found in all pictures, to the
    power of ``balance``. With 0 all pictures are drawn alike.
    """
    if not balance:
        return torch.ones(len(pictures), dtype=torch.float64)
    counts = []
    for part in pictures.split(_BATCH):
        objects, _, classes = model(_scaled(part))
        objects = objects.sigmoid()
        counts.append((objects * (objects > OBJECT) * classes.softmax(1)).sum((2, 3)).double().cpu())
    found = torch.cat(counts)
    weights = (found * (found.sum(0) + 1) ** -balance).sum(1)
    return weights + FLOOR * weights.mean() + torch.finfo(torch.float64).tiny


def _scaled(pixels: Tensor) -> Tensor:
    return pixels.float() / 255


@torch.no_grad()
def scores(results: Callable[[Tensor], Results], images: Tensor, truth: Truth) -> dict[str, float]:
    """AP50 of all images, in per cent."""
    found = [box for part in images.split(_BATCH) for box in boxes_of(results(_scaled(part)))]
    return {"ap50": average_precision(found, truth)}


def sure_boxes(results: Sequence[Tensor]) -> Truth:
    """Boxes and classes that a network gives scores of at least :data:`SURE`."""
    return [(boxes[scores >= SURE], kinds[scores >= SURE]) for boxes, scores, kinds in boxes_of(results)]


def _loss(found: Results, wanted: Results, class_weight: float = 1.0, class_power: float = 1.0) -> Tensor:
    """Divergences of objects, and of classes and boxes where there may be one; sums of an image, means of images.

    The classes' divergence counts ``class_weight`` times, and at a cell by the objectness to that power.
    """
    (objects, places, classes), (objects0, places0, classes0) = found, wanted
    weight = objects0.sigmoid()
    first = functional.binary_cross_entropy_with_logits(objects, weight, reduction="sum")
    first = first - functional.binary_cross_entropy_with_logits(objects0, weight, reduction="sum")
    ours, theirs = classes.log_softmax(1), classes0.log_softmax(1)
    second = (weight**class_power * (theirs.exp() * (theirs - ours)).sum(1, keepdim=True)).sum()
    apart = places[:, :2].tanh() - places0[:, :2].tanh(), places[:, 2:].sigmoid() - places0[:, 2:].sigmoid()
    # Sides of boxes count by as many cells as they have.
    third = (weight * (apart[0].abs() + objects.shape[3] / 4 * apart[1].abs()).sum(1, keepdim=True)).sum()
    return (first + class_weight * second + third) / len(objects)


def _spread(sets: list[Tensor], count: int) -> Tensor:
    """So many whole pictures, or as many as there are: the training images, then others from first to last."""
    found = sets[0][:count]
    if len(sets) == 1 or len(found) == count:
        return found
    numbers = torch.linspace(0, len(sets[1]) - 1, min(count - len(found), len(sets[1]))).round().long()
    return torch.cat([found, sets[1][numbers.to(sets[1].device)]])


def _counts(options: argparse.Namespace, sizes: list[int], small: bool) -> list[int]:
    """How many views of a batch are of the training images, of others, and of four others; the rest is of small ones.

    A view is of a picture of its own, and each kind but those of four has one at least.
    """
    others = len(sizes) - 1 + small
    if not others:
        return [min(options.batch, sizes[0]), 0, 0]
    own = min(max(1, int(options.data_part * options.batch)), options.batch - others, sizes[0])
    rest = options.batch - own
    if len(sizes) == 1:
        return [own, 0, 0]
    other = rest // 2 if small else rest
    # The others' pictures must suffice for both.
    four = min(int(options.four_part * options.batch), other - 1, sizes[1] // 4)
    return [own, min(other - four, sizes[1]), four]


def _check(options: argparse.Namespace) -> None:
    for name in ("data", "weights"):
        if getattr(options, name) is None:
            raise CompressError(f"--{name} must be given: the images' tar file, and FastestDet's .pth")
    if not 0 <= options.mix <= 1:
        raise CompressError(f"--mix must be a share in 0..1, not {options.mix:g}")
    if not (32 <= options.side <= SIDE and options.side % 32 == 0):
        raise CompressError(f"--side must be a multiple of 32 in 32..{SIDE}, not {options.side}")
    if options.batch < 3:
        raise CompressError(f"--batch must be at least 3, not {options.batch}")
    if not 0 < options.data_part < 1:
        raise CompressError(f"--data-part must be a share between 0 and 1, not {options.data_part:g}")
    if not 0 < options.least_area <= 1:
        raise CompressError(f"--least-area must be a share above 0 and up to 1, not {options.least_area:g}")
    if not 0 <= options.four_part < 1:
        raise CompressError(f"--four-part must be a share from 0 to below 1, not {options.four_part:g}")
    for name in ("recolour", "balance", "class_power"):
        if not 0 <= getattr(options, name) <= 1:
            raise CompressError(f"--{name.replace('_', '-')} must be in 0..1, not {getattr(options, name):g}")
    if not 0 < options.class_weight < math.inf:
        raise CompressError(f"--class-weight must be a finite number above 0, not {options.class_weight:g}")


def _apart(pictures: Tensor, every: int) -> tuple[Tensor, Tensor]:
    """Pictures to train with, and the last one of every so many, which is held out."""
    held = torch.arange(len(pictures)) % every == every - 1
    return pictures[~held.to(pictures.device)], pictures[held.to(pictures.device)]


def _views(
    options: argparse.Namespace, sets: list[Tensor], small: Tensor | None, weights: Tensor | None
) -> Callable[[torch.Generator], Tensor]:
    """Batches of random views of the training images, of others, drawn by their weights, and of small ones."""
    own_count, other_count, four_count = _counts(options, [len(own) for own in sets], small is not None)

    def drawn(count: int, generator: torch.Generator) -> Tensor:
        assert weights is not None
        return sets[1][torch.multinomial(weights, count, generator=generator).to(sets[1].device)]

    def views(generator: torch.Generator) -> Tensor:
        parts = [sets[0][torch.randperm(len(sets[0]), generator=generator)[:own_count].to(sets[0].device)]]
        if other_count:
            parts.append(drawn(other_count, generator))
        if four_count:
            parts.append(by_four(drawn(4 * four_count, generator)))
        if small is not None:
            parts.append(side_by_side(small, options.batch - own_count - other_count - four_count, generator))
        batch = _scaled(torch.cat(parts))
        grid = random_grids(len(batch), generator, (SIDE, SIDE), batch.device, options.least_area)
        if options.side < SIDE:
            top, left = torch.randint(SIDE - options.side + 1, (2,), generator=generator).tolist()
            grid = grid[:, top : top + options.side, left : left + options.side]
        crops = functional.grid_sample(batch, grid, padding_mode="reflection", align_corners=False)
        return mixed(recoloured(crops, generator, options.recolour).clamp(0, 1), generator, options.mix)

    return views


def load(options: argparse.Namespace) -> Task:
    """The float network and the data, on the device.

    Raises
    ------
    CompressError
        Data or weights are not there or not what they must be, or an option is out of its range.
    """
    _check(options)
    parts = load_images(options.data, options.images)
    model = FastestDet()
    load_state(model, read_state_dict(options.weights))
    model.to(options.device).eval()
    pixels, test = (
        torch.from_numpy(np.ascontiguousarray(parts[name][0])).to(options.device) for name in ("train2017", "val2017")
    )
    if len(pixels) < HELD_OUT:
        raise CompressError(f"data must have at least {HELD_OUT} training images, not {len(pixels)}")
    train, held = _apart(pixels, HELD_OUT)
    sets, others, weights, small = [train], train[:0], None, None
    if options.more is not None:
        pictures = np.concatenate([load_more(each, options.images, options.threads) for each in options.more])
        more = torch.from_numpy(pictures).to(options.device)
        more, others = _apart(more, OTHERS_HELD_OUT)
        weights = picture_weights(model, more, options.balance)
        sets.append(more)
    if options.small is not None:
        pictures = load_small(options.small)[: options.images, :, :, ::-1].transpose(0, 3, 1, 2)
        small = torch.from_numpy(np.ascontiguousarray(pictures)).to(options.device)
    chosen_truth = parts["train2017"][1][HELD_OUT - 1 :: HELD_OUT]

    # How far boxes are the float network's tells more of some hundred pictures than the average precision of some
    # twenty that have labels.
    apart = torch.cat([held, others])
    with torch.no_grad():
        sure = [found for part in apart.split(_BATCH) for found in sure_boxes(as_results(model(_scaled(part))))]
    if not any(len(boxes) for boxes, _ in sure):
        raise CompressError(f"the float network must find an object in the {len(apart)} pictures that are held out")

    @torch.no_grad()
    def divergence(results: Callable[[Tensor], Results], own: Tensor) -> float:
        pairs = ((_loss(results(part), as_results(model(part))), part) for part in _scaled(own).split(_BATCH))
        return sum(float(each) * len(part) for each, part in pairs) / len(own)

    def choose(results: Callable[[Tensor], Results]) -> dict[str, float]:
        figures = {"divergence": divergence(results, held)}
        figures["seen"] = divergence(results, train[:: max(1, len(train) // len(held))])
        figures["choice"] = scores(results, apart, sure)["ap50"]
        return scores(results, held, chosen_truth) | figures

    sample = _scaled(_spread(sets, WHOLE))
    sizes = {"data": len(train), "more": sum(map(len, sets[1:])), "small": 0 if small is None else len(small)}
    return Task(
        model=model,
        sample=sample,
        views=_views(options, sets, small, weights),
        loss=partial(_loss, class_weight=options.class_weight, class_power=options.class_power),
        choose=choose,
        score=lambda results: scores(results, test, parts["val2017"][1]),
        settings={name: getattr(options, name) for name in (*_VIEWS, *_LOSS)} | sizes | {"whole": len(sample)},
        metadata={"preprocessing": PREPROCESSING.to_dict()},
        names=("objects", "boxes", "classes"),
    )
