"""What :mod:`experiments.detect` does: its images and boxes, the loss, and average precision."""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
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

#: Every so many training images, one is held out.
HELD_OUT = 5

#: Whole pictures that batch norms get their statistics from at the end.
WHOLE = 256

#: Of a square picture; of another the network sees all, too, its sides made as long as each other.
PREPROCESSING = Preprocessing((0.0,) * 3, (1.0,) * 3, crop=1.0, colours="bgr")

_BATCH = 32

#: Options that views are made by.
_VIEWS = ("batch", "side", "mix", "data_part", "least_area", "recolour")

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


def side_by_side(pictures: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Sixteen random ones to each of so many square images, of the images' size: uint8 ``[count, 3, 352, 352]``."""
    chosen = torch.randint(len(pictures), (16 * count,), generator=generator).to(pictures.device)
    rows = pictures[chosen].unflatten(0, (count, 4, 4)).permute(0, 3, 1, 4, 2, 5)
    whole = rows.flatten(4, 5).flatten(2, 3).float()
    return functional.interpolate(whole, (SIDE, SIDE), mode="bilinear", align_corners=False).round().to(torch.uint8)


def _scaled(pixels: Tensor) -> Tensor:
    return pixels.float() / 255


@torch.no_grad()
def scores(results: Callable[[Tensor], Results], images: Tensor, truth: Truth) -> dict[str, float]:
    """AP50 of all images, in per cent."""
    found = [box for part in images.split(_BATCH) for box in boxes_of(results(_scaled(part)))]
    return {"ap50": average_precision(found, truth)}


def _loss(found: Results, wanted: Results) -> Tensor:
    """Divergences of objects, and of classes and boxes where there may be one; sums of an image, means of images."""
    (objects, places, classes), (objects0, places0, classes0) = found, wanted
    weight = objects0.sigmoid()
    first = functional.binary_cross_entropy_with_logits(objects, weight, reduction="sum")
    first = first - functional.binary_cross_entropy_with_logits(objects0, weight, reduction="sum")
    ours, theirs = classes.log_softmax(1), classes0.log_softmax(1)
    second = (weight * (theirs.exp() * (theirs - ours)).sum(1, keepdim=True)).sum()
    apart = places[:, :2].tanh() - places0[:, :2].tanh(), places[:, 2:].sigmoid() - places0[:, 2:].sigmoid()
    # Sides of boxes count by as many cells as they have.
    third = (weight * (apart[0].abs() + objects.shape[3] / 4 * apart[1].abs()).sum(1, keepdim=True)).sum()
    return (first + second + third) / len(objects)


def _spread(sets: list[Tensor], count: int) -> Tensor:
    """So many whole pictures, or as many as there are: the training images, then others from first to last."""
    found = sets[0][:count]
    if len(sets) == 1 or len(found) == count:
        return found
    numbers = torch.linspace(0, len(sets[1]) - 1, min(count - len(found), len(sets[1]))).round().long()
    return torch.cat([found, sets[1][numbers.to(sets[1].device)]])


def _counts(options: argparse.Namespace, sizes: list[int], small: bool) -> list[int]:
    """How many views of a batch are of the training images, and of others; what is left is of small ones.

    A view is of a picture of its own, and each kind has one at least.
    """
    others = len(sizes) - 1 + small
    if not others:
        return [min(options.batch, sizes[0])]
    own = min(max(1, int(options.data_part * options.batch)), options.batch - others, sizes[0])
    rest = options.batch - own
    return [own, *(min(rest // 2 if small else rest, size) for size in sizes[1:])]


def load(options: argparse.Namespace) -> Task:
    """The float network and the data, on the device.

    Raises
    ------
    CompressError
        Data or weights are not there or not what they must be.
    """
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
    if not 0 <= options.recolour <= 1:
        raise CompressError(f"--recolour must be in 0..1, not {options.recolour:g}")
    parts = load_images(options.data, options.images)
    model = FastestDet()
    load_state(model, read_state_dict(options.weights))
    model.to(options.device).eval()
    pixels, test = (
        torch.from_numpy(np.ascontiguousarray(parts[name][0])).to(options.device) for name in ("train2017", "val2017")
    )
    held = torch.arange(len(pixels)) % HELD_OUT == HELD_OUT - 1
    if not held.any():
        raise CompressError(f"data must have at least {HELD_OUT} training images, not {len(pixels)}")
    train = pixels[~held]
    sets = [train]
    if options.more is not None:
        sets.append(torch.from_numpy(load_more(options.more, options.images, options.threads)).to(options.device))
    small = None
    if options.small is not None:
        pictures = load_small(options.small)[: options.images, :, :, ::-1].transpose(0, 3, 1, 2)
        small = torch.from_numpy(np.ascontiguousarray(pictures)).to(options.device)
    counts = _counts(options, [len(own) for own in sets], small is not None)
    chosen_truth = [own for own, out in zip(parts["train2017"][1], held.tolist(), strict=True) if out]

    def views(generator: torch.Generator) -> Tensor:
        parts = [
            own[torch.randperm(len(own), generator=generator)[:count].to(own.device)]
            for own, count in zip(sets, counts, strict=True)
        ]
        if small is not None:
            parts.append(side_by_side(small, options.batch - sum(counts), generator))
        batch = _scaled(torch.cat(parts))
        grid = random_grids(len(batch), generator, (SIDE, SIDE), batch.device, options.least_area)
        if options.side < SIDE:
            top, left = torch.randint(SIDE - options.side + 1, (2,), generator=generator).tolist()
            grid = grid[:, top : top + options.side, left : left + options.side]
        crops = functional.grid_sample(batch, grid, padding_mode="reflection", align_corners=False)
        return mixed(recoloured(crops, generator, options.recolour).clamp(0, 1), generator, options.mix)

    @torch.no_grad()
    def divergence(results: Callable[[Tensor], Results], own: Tensor) -> float:
        pairs = ((_loss(results(part), as_results(model(part))), part) for part in _scaled(own).split(_BATCH))
        return sum(float(each) * len(part) for each, part in pairs) / len(own)

    def choose(results: Callable[[Tensor], Results]) -> dict[str, float]:
        # It tells more of some twenty images than their average precision; beside it, that of images trained with.
        found = divergence(results, pixels[held])
        seen = divergence(results, train[:: max(1, len(train) // int(held.sum()))])
        return scores(results, pixels[held], chosen_truth) | {"divergence": found, "seen": seen, "choice": -found}

    sample = _scaled(_spread(sets, WHOLE))
    sizes = {"data": len(train), "more": sum(map(len, sets[1:])), "small": 0 if small is None else len(small)}
    return Task(
        model=model,
        sample=sample,
        views=views,
        loss=_loss,
        choose=choose,
        score=lambda results: scores(results, test, parts["val2017"][1]),
        settings={name: getattr(options, name) for name in _VIEWS} | sizes | {"whole": len(sample)},
        metadata={"preprocessing": PREPROCESSING.to_dict()},
    )
