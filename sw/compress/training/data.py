"""Labelled images for training: CIFAR-10's archive, ``.npz`` files, and folders of images."""

from __future__ import annotations

import dataclasses
import gzip
import io
import math
import os
import pickle
import re
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sw.compress.methods import CompressError
from sw.compress.training.preprocessing import Preprocessing, fitted
from sw.compress.training.settings import (
    FOLDERS,
    IMAGE_BEGINNINGS,
    IMAGE_SUFFIXES,
    IMAGENET_MEAN,
    IMAGENET_STD,
    INTERPOLATIONS,
    OTHER_IMAGE_SUFFIXES,
    SPLITS,
)
from sw.format.npz import read_npz
from sw.format.picture import PictureError, read_picture

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "INTERPOLATIONS",
    "SPLITS",
    "ImageData",
    "Preprocessing",
    "crop_boxes",
    "load_data",
    "read_classes",
]

#: Bytes of an archive of CIFAR-10, unpacked, and of a file in it. The authors' have 184 MB, and 31 MB.
MAX_ARCHIVE, MAX_BATCH = 256 << 20, 64 << 20
#: Of an image in a directory.
MAX_IMAGE_PIXELS = 1 << 26


@dataclass
class ImageData:
    """Labelled images.

    Parameters
    ----------
    images
        uint8 ``[n, C, rows, columns]``, of 1 or 3 channels; or paths, which are decoded, resized and cropped when a
        batch is asked for.
    labels
        int64 ``[n]``, from 0; or ``[n, rows, columns]``, one for each pixel.
    size
        Rows and columns of an image: one number for both, or two.
    names
        Of the classes, by their labels; empty if there are none.
    preprocessing
        What is done to them.
    channels
        Of images of files: 3, or 1 for grey.
    """

    images: NDArray[np.uint8] | Sequence[Path]
    labels: NDArray[np.int64]
    size: int | tuple[int, int]
    names: tuple[str, ...] = ()
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    channels: int = 3

    def __post_init__(self) -> None:
        if isinstance(self.images, np.ndarray):
            if self.images.dtype != np.uint8 or self.images.ndim != 4:
                found = f"{self.images.dtype} {list(self.images.shape)}"
                raise CompressError(f"images must be uint8 [n, C, rows, columns], 0..255, not {found}")
            self.channels = self.images.shape[1]
        if not len(self.images):
            raise CompressError("data must have at least one image, not 0")
        if len(self.images) != len(self.labels):
            raise CompressError(f"data must have a label for each image, not {len(self.labels)} for {len(self.images)}")
        self._on_device: tuple[torch.device, Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of an image."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @property
    def classes(self) -> int:
        """One more than the largest label."""
        return int(self.labels.max()) + 1

    def batch(
        self, numbers: Tensor, device: torch.device, *, draws: Tensor | None = None, area: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Images and labels on a device: uint8 ``[b, C, rows, columns]`` and int64 ``[b]``.

        Images in memory go to the device once, all of them; numbers that are there already cost no transfer.

        Parameters
        ----------
        numbers
            Of the images.
        device
            Where they go.
        draws, area
            Random numbers ``[b, 4]`` and least area for :func:`crop_boxes`, which are resized to the whole. None:
            images as they are, those of files without their edges.
        """
        if isinstance(self.images, np.ndarray):
            # By the device asked for: a tensor's own has a number, so `cuda` is never equal to it.
            if self._on_device is None or self._on_device[0] != device:
                self._on_device = (
                    device,
                    torch.from_numpy(self.images).to(device),
                    torch.from_numpy(self.labels).to(device),
                )
            chosen = numbers.to(device)
            _, images, labels = self._on_device
            found = images[chosen]
            return found if draws is None else _resized(found, draws, area), labels[chosen]
        paths, chosen, how = self.images, numbers.cpu(), (self.preprocessing, self.channels)
        crops = [None] * len(chosen) if draws is None else list(draws.cpu())
        with ThreadPoolExecutor() as pool:
            decoded = list(
                pool.map(
                    lambda number, crop: _decode(paths[number], self.shape, *how, crop, area), chosen.tolist(), crops
                )
            )
        return torch.from_numpy(np.stack(decoded)).to(device), torch.from_numpy(self.labels)[chosen].to(device)

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 images, RGB or grey, as floats in the order of the network's colours, by its mean and deviation."""
        values = images.float()
        if self.preprocessing.colours == "bgr" and images.shape[1] == 3:
            values = values.flip(1)
        channels = self.preprocessing.channels(images.shape[1])
        stacked = torch.stack([(values[:, i] / 255 - mean) / std for i, (mean, std) in enumerate(channels)], dim=1)
        return stacked.contiguous(memory_format=torch.channels_last) if images.is_cuda else stacked

    def first(self, count: int) -> ImageData:
        """The first images alone."""
        return dataclasses.replace(self, images=self.images[:count], labels=self.labels[:count])


def read_classes(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """A list of classes: a text file with the name of one in each line, in the order of their numbers.

    Raises
    ------
    CompressError
        The file cannot be read, is empty, or names a class twice.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise CompressError(f"cannot read classes {os.fspath(path)!r}: {error}") from error
    names = tuple(name for line in lines if (name := line.strip()))
    if not names or len(set(names)) < len(names):
        twice = f"{max(names, key=names.count)!r} twice" if names else "none"
        raise CompressError(f"classes {os.fspath(path)!r} must have one name in each line, not {twice}")
    return names


def load_data(
    path: str | os.PathLike[str],
    split: str,
    *,
    size: int | tuple[int, int] | None = None,
    classes: Sequence[str] = (),
    channels: int | None = None,
    preprocessing: Preprocessing | None = None,
) -> ImageData:
    """One part of a data set.

    Parameters
    ----------
    path
        One of:

        - ``cifar-10-python.tar.gz`` or ``cifar-10-binary.tar.gz`` as their authors publish them. Of the first, whose
          parts are pickles, nothing but arrays and text is loaded.
        - ``.npz`` with ``train_images``, ``train_labels``, ``test_images`` and ``test_labels``: uint8 and
          integers. Images are ``[n, rows, columns, 3]`` or ``[n, 3, rows, columns]``; grey ones
          ``[n, rows, columns]``, or with a last or second axis of 1. Where both readings are possible, channels are
          last.
        - A directory with ``train`` and ``test`` (or ``val``), a folder of images for each class in each; the classes
          of both are those of ``train``, numbered in alphabetical order. Images are resized and their centre is
          cropped (:class:`Preprocessing`). They end in one of :data:`sw.compress.training.settings.IMAGE_SUFFIXES`.
          Needs ``pillow``.
    split
        One of :data:`SPLITS`.
    size
        Rows and columns of images of a directory: one number for both, or two; by default 224. Those of an archive or
        ``.npz`` are as they are there, so it must be theirs.
    classes
        Names of the classes in the order of their numbers; by default those of the folders of ``train``.
    channels
        What the network reads: 3, to which grey images are repeated, or 1, to which those of files are made grey. By
        default the data's own.
    preprocessing
        What is done to images; by default :class:`Preprocessing`'s own values.

    Raises
    ------
    CompressError
        A folder has no name of a class, no image, one of a kind that is not read, or a folder; an image is in none.
        The path is none of these, what it holds is not as described, or an archive is larger unpacked than
        :data:`MAX_ARCHIVE` or :func:`sw.format.npz.check_unpacked` allows.
    """
    if split not in SPLITS:
        raise CompressError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    path, given = Path(path), preprocessing or Preprocessing()
    try:
        if path.is_dir():
            data = _folder(path, split, 224 if size is None else size, tuple(classes))
            return dataclasses.replace(data, preprocessing=given, channels=channels or 3)
        if path.suffix == ".npz" or path.name.endswith((".tar.gz", ".tgz")):
            images, labels = _npz(path, split) if path.suffix == ".npz" else _cifar_archive(path, split)
            if classes and labels.max(initial=0) >= len(classes):
                raise CompressError(f"classes must name all {labels.max() + 1} of {str(path)!r}, not {len(classes)}")
            images = _with_channels(path, images, channels)
            rows, columns = images.shape[2:]
            if size is not None and ((size, size) if isinstance(size, int) else tuple(size)) != (rows, columns):
                raise CompressError(
                    f"size must be {rows} x {columns} as of the images of {str(path)!r}, not {size}: only those of a"
                    " directory are resized"
                )
            return ImageData(images, labels, rows if rows == columns else (rows, columns), tuple(classes), given)
    except CompressError:
        raise
    except Exception as error:  # readers of archives and pickles let errors of every kind out of damaged ones
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CompressError(f"cannot read data {str(path)!r}: {reason}") from error
    raise CompressError(f"data must be a directory, a .npz or a .tar.gz, not {str(path)!r}")


def _npz(path: Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    keys = [f"{split}_images", f"{split}_labels"]
    arrays = read_npz(path, keys)
    images, labels = (arrays[key] for key in keys)
    shape = list(images.shape)
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    elif images.ndim != 4 or images.shape[1] not in (1, 3):
        raise CompressError(
            f"{keys[0]} of {str(path)!r} must be [n, rows, columns, 3], [n, 3, rows, columns] or, grey,"
            f" [n, rows, columns], not {shape}"
        )
    if images.dtype != np.uint8:
        raise CompressError(f"{keys[0]} of {str(path)!r} must be uint8, 0..255, not {images.dtype.name}")
    if (
        (labels.ndim != 1 and labels.shape != images.shape[:1] + images.shape[2:])
        or not np.issubdtype(labels.dtype, np.integer)
        or (labels < 0).any()
    ):
        raise CompressError(
            f"{keys[1]} of {str(path)!r} must be integers from 0, one for each image or pixel, not {labels.dtype.name}"
            f" {list(labels.shape)}"
        )
    return np.ascontiguousarray(images), labels.astype(np.int64)


def _with_channels(path: Path, images: NDArray[np.uint8], channels: int | None) -> NDArray[np.uint8]:
    """Images as the network reads them: grey ones repeated."""
    found = images.shape[1]
    if channels in (None, found):
        return images
    if found == 1 and channels == 3:
        return np.repeat(images, 3, axis=1)
    colour = {1: "grey images (1 channel)", 3: "colour images (3 channels)"}
    raise CompressError(
        f"the network reads {colour.get(channels or 0, f'images of {channels} channels')}, and {str(path)!r} has"
        f" {colour[found]}"
    )


class _Numbers:
    """A pickled dtype. numpy's own takes over the flags of the file, and then believes that it holds objects."""

    def __init__(self, kind: str | bytes, *_: object) -> None:
        self.kind, self.order = kind.decode() if isinstance(kind, bytes) else kind, "="
        if not re.fullmatch("[biuf][1248]", self.kind):
            raise pickle.UnpicklingError(f"{self.kind!r} is no kind of numbers")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1].decode() if isinstance(state[1], bytes) else state[1]
        if self.order not in ("<", ">", "=", "|"):
            raise pickle.UnpicklingError(f"{self.order!r} is no order of bytes")


class _Array:
    """A pickled array of numbers."""

    def __init__(self, *_: object) -> None:
        self.values: NDArray[Any] = np.zeros(0, np.uint8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, numbers, columns_first, content = state
        if not isinstance(numbers, _Numbers):
            raise pickle.UnpicklingError("an array is not one of numbers")
        flat = np.frombuffer(content, np.dtype(f"{numbers.order}{numbers.kind}"))
        self.values = flat.reshape(shape, order="F" if columns_first else "C")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.values, dtype)


class _ArrayUnpickler(pickle.Unpickler):
    """Loads arrays, text and plain containers, and nothing that runs code, numpy's included."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in ("_reconstruct", "ndarray", "dtype"):
            return _Numbers if name == "dtype" else _Array
        if (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is neither an array nor text")


class _Counted:
    """A stream of at most :data:`MAX_ARCHIVE` bytes."""

    def __init__(self, file: gzip.GzipFile) -> None:
        self._file, self._left = file, MAX_ARCHIVE

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise CompressError(f"an archive of CIFAR-10 must hold at most {MAX_ARCHIVE} bytes, unpacked")
        return data


def _tar_stream(file: _Counted) -> tarfile.TarFile:
    return tarfile.open(mode="r|", fileobj=file)  # type: ignore[call-overload,no-any-return]


def _cifar_archive(path: Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    wanted = ("data_batch",) if split == "train" else ("test_batch",)
    images, labels = [], []
    batches: dict[str, tuple[NDArray[Any], NDArray[Any]]] = {}
    # As a stream, so that no more is unpacked than is counted.
    with gzip.open(path) as unpacked, _tar_stream(_Counted(unpacked)) as archive:
        for member in archive:
            if not Path(member.name).name.startswith(wanted) or (file := archive.extractfile(member)) is None:
                continue
            if member.size > MAX_BATCH:
                raise CompressError(
                    f"{member.name!r} in {str(path)!r} must have at most {MAX_BATCH} bytes, not {member.size}"
                )
            content = file.read()
            if member.name.endswith(".bin"):
                rows = np.frombuffer(content, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
                batches[member.name] = rows[:, 1:], rows[:, 0]
            else:
                batch = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
                batches[member.name] = np.asarray(batch[b"data"]), np.asarray(batch[b"labels"])
    if not batches:
        raise CompressError(f"{str(path)!r} must hold {wanted[0]} files")
    for name in sorted(batches):
        images.append(batches[name][0])
        labels.append(batches[name][1].astype(np.int64))
    return np.ascontiguousarray(np.concatenate(images).reshape(-1, 3, 32, 32)), np.concatenate(labels)


def _folder(path: Path, split: str, size: int | tuple[int, int], classes: tuple[str, ...]) -> ImageData:
    roots = {
        each: next((path / name for name in names if (path / name).is_dir()), None) for each, names in FOLDERS.items()
    }
    root = roots[split]
    if root is None:
        raise CompressError(f"{str(path)!r} must hold a directory {' or '.join(FOLDERS[split])}")
    if not classes:
        if roots["train"] is None:
            raise CompressError(
                f"{str(path)!r} must hold a directory train, whose folders are the classes, or a list of them be given"
            )
        classes = tuple(folder.name for folder in _folders(roots["train"]))
    paths: list[Path] = []
    labels: list[int] = []
    for folder in _folders(root):
        if folder.name not in classes:
            whose = "the list of classes" if roots["train"] is root else "training"
            raise CompressError(f"{whose} must have the class {folder.name!r}, which {str(root)!r} has a folder of")
        found = _images(folder)
        paths += found
        labels += [classes.index(folder.name)] * len(found)
    return ImageData(paths, np.array(labels, np.int64), size, classes)


def _images(folder: Path) -> list[Path]:
    """The images of a class, none of which may be left out without a word."""
    found = []
    for file in _visible(folder):
        if file.is_dir():
            raise CompressError(
                f"class {str(folder)!r} must hold its images, not a folder {file.name!r}: move them, or take it out"
            )
        kind = _image_kind(file)
        if kind == "other":
            kinds = ", ".join(IMAGE_SUFFIXES)
            raise CompressError(f"image {str(file)!r} must be one of {kinds}: convert it, or take it out of the folder")
        found += [file] if kind else []
    if not found:
        raise CompressError(f"class {str(folder)!r} must have at least one image of {', '.join(IMAGE_SUFFIXES)}, not 0")
    return found


def _image_kind(file: Path) -> Literal["read", "other"] | None:
    """Whether a file is an image, by its ending, or by its beginning if it has none; and one of those that are read."""
    suffix = file.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return "read"
    if suffix in OTHER_IMAGE_SUFFIXES:
        return "other"
    if not suffix:
        with file.open("rb") as opened:
            if opened.read(12).startswith(IMAGE_BEGINNINGS):
                return "other"
    return None


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _folders(root: Path) -> list[Path]:
    entries = _visible(root)
    for entry in entries:
        if entry.is_file() and _image_kind(entry):
            raise CompressError(f"image {str(entry)!r} must be in the folder of its class, not beside the folders")
    return [entry for entry in entries if entry.is_dir()]


def crop_boxes(draws: Tensor, area: float, width: int, height: int) -> Tensor:
    """Random crops of random shape, as ImageNet's networks are trained on: left, top, right, bottom, ``[b, 4]``.

    The share of the image is uniform in ``area..1``, the logarithm of width / height uniform between 3/4 and 4/3, and
    so is the place. A side that would be longer than the image's is as long as that.

    Parameters
    ----------
    draws
        Random numbers in 0..1, float ``[b, 4]``.
    area
        The least share, in 0..1.
    width, height
        Of the image.
    """
    share, shape, x, y = draws.T
    pixels = (area + (1 - area) * share) * (width * height)
    ratio = torch.exp((2 * shape - 1) * math.log(4 / 3))
    columns, rows = (pixels * ratio).sqrt().clamp(max=width), (pixels / ratio).sqrt().clamp(max=height)
    left, top = x * (width - columns), y * (height - rows)
    return torch.stack([left, top, left + columns, top + rows], dim=1)


def _resized(images: Tensor, draws: Tensor, area: float) -> Tensor:
    """Crops of uint8 images, as large as the images."""
    height, width = images.shape[2:]
    left, top, right, bottom = crop_boxes(draws.to(images.device), area, width, height).T
    left, right, top, bottom = left / width, right / width, top / height, bottom / height
    zero = torch.zeros_like(left)
    rows = [right - left, zero, left + right - 1, zero, bottom - top, top + bottom - 1]
    grid = functional.affine_grid(torch.stack(rows, dim=1).reshape(-1, 2, 3), list(images.shape), align_corners=False)
    sampled = functional.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    return sampled.round().to(torch.uint8)


def _decode(
    path: Path, size: tuple[int, int], how: Preprocessing, channels: int, crop: Tensor | None = None, area: float = 1.0
) -> NDArray[np.uint8]:
    from PIL import Image

    rows, columns = size
    try:
        image = read_picture(path, "L" if channels == 1 else "RGB", MAX_IMAGE_PIXELS)
    except PictureError as error:
        raise CompressError(f"image {str(path)!r}: {error}") from None
    if crop is not None:
        (box,) = crop_boxes(crop[None], area, *image.size).tolist()
        found = image.resize((columns, rows), Image.Resampling[how.interpolation.upper()], tuple(box))
    else:
        found = fitted(image, size, how)
    return np.asarray(found).reshape(rows, columns, channels).transpose(2, 0, 1)
