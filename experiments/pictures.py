"""Pictures that networks learn from without labels: read, cropped, recoloured, mixed, and small ones side by side."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from experiments.common import picture
from sw.compress.methods import CompressError
from sw.compress.training.data import Preprocessing, load_data
from sw.compress.training.settings import SPLITS

__all__ = [
    "SIDE",
    "Mosaic",
    "Network",
    "Whole",
    "crops",
    "decoded",
    "load_images",
    "load_made",
    "load_more",
    "load_small",
    "mixed",
    "normalised",
    "outlines",
    "picture_files",
    "random_grids",
    "recoloured",
    "unlike",
]

#: What files of pictures end in.
PICTURES = (".jpg", ".jpeg", ".png", ".webp")

#: Correlation of outlines above which a picture is taken for a copy of an image.
COPY = 0.9


@dataclass(frozen=True)
class Network:
    """An ImageNet network with its weights."""

    #: From the path of weights, or None for those of an installed package.
    build: Callable[[Path | None], nn.Module]
    #: Of pixels 0..255, of each colour.
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    #: How its pictures were resized when it was trained.
    interpolation: str = "bilinear"

    @property
    def preprocessing(self) -> Preprocessing:
        """The same for a file's metadata."""
        mean, deviation = (tuple(value / 255 for value in own) for own in (self.mean, self.deviation))
        return Preprocessing(mean, deviation, self.interpolation)


def _pixels(file: Path, size: int | None) -> NDArray[np.uint8]:
    """Of an image of 224 x 224; with ``size``, the middle of any image, its shorter side as long as that."""
    from PIL.Image import Resampling

    image = picture(file)
    if size is not None:
        scale = size / min(image.size)
        sides = max(size, round(image.width * scale)), max(size, round(image.height * scale))
        image = image.resize(sides, Resampling.BICUBIC)
        left, top = (image.width - size) // 2, (image.height - size) // 2
        image = image.crop((left, top, left + size, top + size))
    elif image.size != (SIDE, SIDE):
        raise CompressError(f"image {str(file)!r} must be 224 x 224, not {image.width} x {image.height}")
    return np.asarray(image)


#: Rows and columns of the images.
SIDE = 224


def decoded(
    files: Sequence[Path], pixels: Callable[[Path], NDArray[np.uint8]], threads: int | None = None
) -> NDArray[np.uint8]:
    """Pixels of all files, one image each, by several threads, as thousands take long to decode."""
    with ThreadPoolExecutor(threads) as pool:
        return np.stack(list(pool.map(pixels, files)))


def normalised(pictures: NDArray[np.uint8], network: Network) -> Tensor:
    """Pictures ``[n, rows, columns, 3]`` as a network takes them, float ``[n, 3, rows, columns]``."""
    values = torch.from_numpy(pictures).permute(0, 3, 1, 2).float()
    mean, deviation = (torch.tensor(part).reshape(1, 3, 1, 1) for part in (network.mean, network.deviation))
    return (values - mean) / deviation


def load_images(directory: Path) -> tuple[NDArray[np.uint8], Tensor]:
    """Images, uint8 ``[n, 224, 224, 3]``, and their classes.

    Raises
    ------
    CompressError
        The directory has no such images.
    """
    files = sorted(path for path in directory.glob("*.jpg") if path.stem.isdigit())
    if not files:
        raise CompressError(f"images must be a directory of NNN.jpg, not {str(directory)!r}")
    return decoded(files, functools.partial(_pixels, size=None)), torch.tensor([int(file.stem) for file in files])


def load_more(directory: Path, limit: int | None = None, option: str = "more") -> NDArray[np.uint8]:
    """All pictures below a directory, or so many, resized and cropped, uint8 ``[n, 224, 224, 3]``.

    Raises
    ------
    CompressError
        There is none.
    """
    return decoded(picture_files(directory, option)[:limit], functools.partial(_pixels, size=SIDE))


def picture_files(directory: Path, option: str = "more") -> list[Path]:
    """All files of pictures below a directory, sorted.

    Raises
    ------
    CompressError
        There is none.
    """
    files = sorted(path for path in directory.rglob("*") if path.suffix.lower() in PICTURES)
    if not files:
        raise CompressError(f"{option} must be a directory of pictures, not {str(directory)!r}")
    return files


def load_small(path: Path) -> NDArray[np.uint8]:
    """All images of an archive of small ones, without their labels, uint8 ``[n, rows, columns, 3]``.

    Raises
    ------
    CompressError
        It is none.
    """
    parts = [load_data(path, split).images for split in SPLITS]
    if not all(isinstance(part, np.ndarray) and part.shape[1] == 3 for part in parts):
        raise CompressError(f"small must be an .npz of coloured images, not {str(path)!r}")
    return np.concatenate(parts).transpose(0, 2, 3, 1)


def load_made(path: Path) -> NDArray[np.uint8]:
    """All pictures of an archive of :mod:`experiments.invert`, uint8 ``[n, 224, 224, 3]``.

    Raises
    ------
    CompressError
        It is none.
    """
    try:
        with np.load(path) as archive:
            pictures: NDArray[np.uint8] = archive["images"]
    except (OSError, EOFError, BadZipFile, KeyError, ValueError, AttributeError, TypeError) as error:
        raise CompressError(f"made must be an .npz of experiments.invert, not {str(path)!r}") from error
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[1:] != (SIDE, SIDE, 3) or not len(pictures):
        have = f"{pictures.dtype} {list(pictures.shape)}"
        raise CompressError(f"made must hold images of uint8 [n, 224, 224, 3], not {have}: {str(path)!r}")
    return pictures


def random_grids(
    count: int, generator: torch.Generator, size: tuple[int, int], device: torch.device, least: float = 0.2
) -> Tensor:
    """Where random crops of images lie, mirrored at random: for ``grid_sample``, ``[count, rows, columns, 2]``.

    Crops take ``least`` to 1 of the area, with sides in ratios of 3:4 to 4:3 of the image's own.
    """

    def draw() -> Tensor:
        return torch.rand(count, generator=generator).to(device)

    area, ratio = least + (1 - least) * draw(), (draw() * 2 - 1) * math.log(4 / 3) / 2
    height, width = ((area.sqrt() * (sign * ratio).exp()).clamp_max(1) for sign in (1, -1))
    top, left = (draw() * 2 - 1) * (1 - height), (draw() * 2 - 1) * (1 - width)
    zero = torch.zeros_like(area)
    mirrored = torch.where(draw() < 0.5, -width, width)
    matrix = torch.stack([mirrored, zero, left, zero, height, top], dim=1).reshape(-1, 2, 3)
    return functional.affine_grid(matrix, [count, 1, *size], align_corners=False)


def recoloured(views: Tensor, generator: torch.Generator, strength: float = 1.0) -> Tensor:
    """Views in random contrast, 0.7 to 1.3 with a strength of 1, and random brightness, -0.3 to 0.3 more."""
    contrast, brightness = (torch.rand(len(views), 1, 1, 1, generator=generator).to(views.device) for _ in range(2))
    wide = 0.6 * strength
    return views * (1 - 0.3 * strength + wide * contrast) + (wide * brightness - 0.3 * strength)


def crops(images: Tensor, generator: torch.Generator, size: int) -> Tensor:
    """Random crops in random colours, mirrored at random, of that many rows and columns."""
    grid = random_grids(len(images), generator, (size, size), images.device)
    views = functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    return recoloured(views, generator)


def mixed(views: Tensor, generator: torch.Generator, mix: float) -> Tensor:
    """A share of the batches mixed with themselves.

    Of those, half are weighted means of two images (mixup), half have a rectangle of another one (CutMix).
    """
    size = views.shape[2]
    if float(torch.rand((), generator=generator)) >= mix:
        return views
    others = views.flip(0)
    share = float(torch.rand((), generator=generator))
    if float(torch.rand((), generator=generator)) < 0.5:
        return torch.lerp(views, others, share)
    side = round(size * math.sqrt(share))
    top_cut, left_cut = (int(torch.randint(size - side + 1, (), generator=generator)) for _ in range(2))
    views = views.clone()
    views[:, :, top_cut : top_cut + side, left_cut : left_cut + side] = others[
        :, :, top_cut : top_cut + side, left_cut : left_cut + side
    ]
    return views


class Whole:
    """Pictures of one size that views are taken of, kept as they are: thousands are too many in floating point.

    Parameters
    ----------
    pictures
        uint8 ``[n, rows, columns, 3]``.
    network
        Its pixels' mean and deviation.
    device
        Where they are kept.
    """

    def __init__(self, pictures: NDArray[np.uint8], network: Network, device: str) -> None:
        self.pictures = torch.from_numpy(pictures).to(device)
        self.mean, self.deviation = (
            torch.tensor(part, device=device).reshape(1, 3, 1, 1) for part in (network.mean, network.deviation)
        )

    def __len__(self) -> int:
        return len(self.pictures)

    def drawn(self, count: int, generator: torch.Generator) -> Tensor:
        """So many of them, normalised, ``[count, 3, rows, columns]``; one may come more than once."""
        chosen = torch.randint(len(self), (count,), generator=generator).to(self.pictures.device)
        return (self.pictures[chosen].permute(0, 3, 1, 2).float() - self.mean) / self.deviation

    def views(self, count: int, generator: torch.Generator, size: int) -> Tensor:
        """Random crops."""
        return crops(self.drawn(count, generator), generator, size)


class Mosaic(Whole):
    """Small pictures: one or four to a view.

    A picture of 64 x 64 that is enlarged to 224 x 224 has no fine details; four of them side by side have more.
    """

    def views(self, count: int, generator: torch.Generator, size: int) -> Tensor:
        """Random crops, half of them of four pictures."""
        parts = self.drawn(4 * count, generator).unflatten(0, (4, count))
        four = torch.cat([torch.cat([parts[0], parts[1]], 3), torch.cat([parts[2], parts[3]], 3)], 2)
        one = functional.interpolate(parts[0], scale_factor=2, mode="bicubic", align_corners=False)
        both = torch.cat([four[: count // 2], one[count // 2 :]])
        return crops(both, generator, size)


def outlines(values: Tensor) -> Tensor:
    """Pictures ``[n, 3, rows, columns]`` at 12 x 12 without their mean, of norm 1: float ``[n, 432]``.

    Products of two are correlations, whatever sizes, brightness and contrast the pictures have.
    """
    small = functional.adaptive_avg_pool2d(values, 12).flatten(1)
    small = small - small.mean(1, keepdim=True)
    return small / small.norm(dim=1, keepdim=True).clamp_min(1e-6)


def unlike(pictures: NDArray[np.uint8], images: Tensor) -> NDArray[np.bool_]:
    """Which pictures are no copies of an image: none that it is correlated with by more than 0.9, mirrored or not.

    Both are compared as 12 x 12 pixels, the whole picture and its middle: the images may be crops.

    Parameters
    ----------
    pictures
        uint8 ``[n, rows, columns, 3]``.
    images
        Normalised, on the device to compare on.
    """
    known = torch.cat([outlines(images), outlines(images.flip(3))])
    found = []
    for part in np.array_split(pictures, max(1, len(pictures) // 500)):
        values = torch.from_numpy(part).to(images.device).permute(0, 3, 1, 2).float()
        edge = values.shape[2] // 16
        middle = values[:, :, edge : values.shape[2] - edge, edge : values.shape[3] - edge]
        likest = torch.stack([(outlines(each) @ known.T).amax(1) for each in (values, middle)]).amax(0)
        found.append((likest <= COPY).cpu().numpy())
    return np.concatenate(found)
