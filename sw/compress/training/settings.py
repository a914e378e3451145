"""What is decided before a training: its settings, without the code that trains.

Command lines read this room, and answer ``--help`` and a wrong argument without the seconds that torch takes to load.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

from sw.compress.methods import CompressError

__all__ = [
    "CHECKPOINTS",
    "FOLDERS",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "IMAGE_BEGINNINGS",
    "IMAGE_SUFFIXES",
    "INTERPOLATIONS",
    "JOB",
    "OPTIMISERS",
    "OTHER_IMAGE_SUFFIXES",
    "SCHEMES",
    "SPLITS",
    "VALUES",
    "Freezing",
    "TrainConfig",
    "check_alpha",
    "plain_number",
    "plain_numbers",
]

OPTIMISERS = ("sgd", "adamw")
PRECISIONS = ("float32", "bfloat16")

#: Beyond these a setting is an error of torch or numpy in the midst of the work: pixels of a shift, whose draws have 16
#: bits, the side of a square, and rates, whose products must be float32. More threads than that may not start.
_SHIFT, _SIDE, _LARGEST, _THREADS = (1 << 14) - 1, 1 << 16, 1e9, 1024

#: ``sr-ste``: the mask follows the magnitudes, and pruned weights are pulled towards 0. ``asp``: the mask of the
#: weights that training starts from stays.
SCHEMES = ("sr-ste", "asp")

#: Mean and deviation of ImageNet's red, green and blue, 0..1.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

#: Names of the two parts of a data set.
SPLITS = ("train", "test")

#: Folders of a directory of images that have the parts of a data set, and endings of files that are images there.
FOLDERS = {"train": ("train",), "test": ("test", "val")}
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")

#: Endings of files that are images, too, and are not read.
OTHER_IMAGE_SUFFIXES = (
    ".avif", ".dds", ".exr", ".gif", ".heic", ".heif", ".ico", ".j2k", ".jfif", ".jp2", ".jpe", ".jxl", ".pbm", ".pcx",
    ".pgm", ".pnm", ".ppm", ".psd", ".svg", ".tga", ".tif", ".tiff",
)  # fmt: skip

#: What files of images begin with: JPEG, PNG, GIF, BMP, WebP, TIFF. Those without an ending are known by it.
IMAGE_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"RIFF", b"II*\0", b"MM\0*")

#: Files of a directory of checkpoints: what the job is, and a checkpoint of each stage.
JOB, CHECKPOINTS = "job.json", {"sparse": "sparse.pt", "finetune": "finetune.pt"}

#: Ways to resize an image of a file, by their names in ``pillow``.
INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "lanczos", "box", "hamming")

#: What a sign is frozen to. ``majority``: the sign it had in most steps so far (SSVQ). ``ema``: the sign of its moving
#: average, SSVQ's ablation. Of equal counts, and of an average of 0, positive.
VALUES = ("majority", "ema")


def plain_number(settings: object, name: str) -> float:
    """A field that is a number, which becomes Python's: numpy's is none for JSON, nor for a checkpoint that is read."""
    value = getattr(settings, name)
    if isinstance(value, bool) or not isinstance(value, Real):
        raise CompressError(f"{name} must be a number, not {value!r}")
    plain: float = int(value) if isinstance(value, int) else float(value)
    object.__setattr__(settings, name, plain)
    return plain


def plain_numbers(settings: object, name: str) -> tuple[float, ...]:
    """As :func:`plain_number`, of a field of several: a sequence, an array or a tensor."""
    value = getattr(settings, name)
    values = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(values, list | tuple) or any(isinstance(x, bool) or not isinstance(x, Real) for x in values):
        raise CompressError(f"{name} must be numbers, not {repr(value)[:80]}")
    plain = tuple(int(x) if isinstance(x, int) else float(x) for x in values)
    object.__setattr__(settings, name, plain)
    return plain


def check_alpha(alpha: float) -> None:
    """Refuse what a sign's smoothness cannot be."""
    if not 0 < alpha < math.inf:
        raise CompressError(f"alpha must be finite and positive, not {alpha!r}")


def _choose(settings: object, name: str, allowed: Sequence[str]) -> None:
    """Check a field that is one of some words, which becomes Python's, too."""
    value = getattr(settings, name)
    if not isinstance(value, str) or value not in allowed:
        raise CompressError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
    object.__setattr__(settings, name, str(value))


@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained.

    Parameters
    ----------
    epochs
        At least 1. An epoch takes each image once, in a new order; the last incomplete batch is left out.
    batch
        Images a step, over all devices together. A loader has batches of its own, for which this does not count.
    optimiser
        ``sgd`` (Nesterov momentum 0.9) or ``adamw``.
    lr
        Learning rate, which rises linearly over ``warmup`` epochs and then falls to 0 by a cosine.
    codebook_lr, sign_lr
        Of codebooks and of latent signs, as a factor of ``lr``.
    weight_decay
        Of parameters with two or more axes, but for codebooks, steps and latent signs.
    warmup
        Epochs, also in part.
    label_smoothing
        Of the cross entropy.
    crop
        Pixels by which training images are shifted at most, each way. 0: none.
    area
        Least share of its area, 0..1, that a random crop of a training image takes, which is resized to the whole
        (:func:`sw.compress.training.data.crop_boxes`; usual for ImageNet: 0.08). 0: none.
    mirror
        Mirror training images at random: not where left and right matter, as in digits. None: where they are shifted
        or cropped.
    erase
        Rows and columns of a square that is greyed out at a random place of each training image; 0 for none.
    distort
        Strength, 0..1, of random changes of brightness, contrast and saturation (by half at 1), and of a random
        rotation (by 30 degrees), shear and scale (by 0.3).
    mix
        Share of the training images, 0..1, that are mixed with another one of the batch, and their labels with its
        label: half of them by a rectangle (CutMix), half by a weighted mean (mixup), with uniform weights.
    precision
        ``float32``, or ``bfloat16`` for convolutions and products under autocast.
    seed
        Of the order of the images and their augmentation.
    threads
        Threads of torch on a CPU. Sums depend on their number, so it is part of the configuration, not of the machine:
        the same configuration gives the same bytes on any number of cores.
    epoch_steps
        Steps that an epoch has at the most; 0: as many as there are batches. A loader without length needs it.

    Raises
    ------
    CompressError
        A field is out of range.
    """

    epochs: int
    batch: int = 128
    optimiser: str = "adamw"
    lr: float = 1e-3
    codebook_lr: float = 1.0
    sign_lr: float = 1.0
    weight_decay: float = 0.0
    warmup: float = 0.0
    label_smoothing: float = 0.0
    crop: int = 4
    area: float = 0.0
    mirror: bool | None = None
    erase: int = 0
    distort: float = 0.0
    mix: float = 0.0
    precision: str = "float32"
    seed: int = 0
    threads: int = 2
    epoch_steps: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("epochs", 1, None),
            ("batch", 1, None),
            ("crop", 0, _SHIFT),
            ("erase", 0, _SIDE),
            ("seed", 0, None),
            ("threads", 1, _THREADS),
            ("epoch_steps", 0, None),
        ):
            value = getattr(self, name)
            if type(value) is not int or value < low or (high is not None and value > high):
                wanted = f"of at least {low}" if high is None else f"in {low}..{high}"
                raise CompressError(f"{name} must be an integer {wanted}, not {value!r}")
        _choose(self, "optimiser", OPTIMISERS)
        _choose(self, "precision", PRECISIONS)
        for name in ("lr", "codebook_lr", "sign_lr", "weight_decay", "warmup"):
            value = plain_number(self, name)
            if not 0 <= value <= _LARGEST:
                raise CompressError(f"{name} must be in 0..{_LARGEST:.0e}, not {value!r}")
        for name in ("label_smoothing", "area", "distort", "mix"):
            if not 0 <= plain_number(self, name) <= 1:
                raise CompressError(f"{name} must be in 0..1, not {getattr(self, name)!r}")
        if self.mirror is not None and type(self.mirror) is not bool:
            raise CompressError(f"mirror must be True, False or None, not {self.mirror!r}")

    @property
    def mirrors(self) -> bool:
        """Whether training images are mirrored."""
        return bool(self.crop or self.area) if self.mirror is None else self.mirror

    def per_epoch(self, images: int) -> int:
        """Steps of an epoch of that many images."""
        most = images // self.batch
        return min(most, self.epoch_steps) if self.epoch_steps else most

    def steps(self, images: int) -> int:
        """Steps of the whole training on that many images."""
        return self.epochs * self.per_epoch(images)

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of a step, which counts from 0."""
        warm = self.warmup * steps / self.epochs
        if step < warm:
            return self.lr * (step + 1) / (warm + 1)
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(steps - warm, 1)))


@dataclass(frozen=True)
class Freezing:
    """How oscillating signs are frozen.

    SSVQ names the interval alone. The other values are those of the method it builds on (oscillation-aware
    quantisation training), whose threshold falls from 0.1 to 0.01 after a quarter of the steps.

    Parameters
    ----------
    interval
        F_i: steps from one freezing to the next; 0 never freezes.
    momentum
        m of the frequency's moving average.
    first, last
        Threshold where freezing begins, and at the end.
    begin
        Share of all steps before freezing begins.
    value
        One of :data:`VALUES`.

    Raises
    ------
    CompressError
        A field is out of range.
    """

    interval: int = 500
    momentum: float = 0.01
    first: float = 0.1
    last: float = 0.01
    begin: float = 0.25
    value: str = "majority"

    def __post_init__(self) -> None:
        if type(self.interval) is not int or self.interval < 0:
            raise CompressError(f"interval must be an integer of at least 0, not {self.interval!r}")
        for field, open_end in (("momentum", False), ("first", False), ("last", False), ("begin", True)):
            value = plain_number(self, field)
            if not (0 <= value < 1 if open_end else 0 < value <= 1):
                raise CompressError(f"{field} must be in {'[0, 1)' if open_end else '(0, 1]'}, not {value!r}")
        _choose(self, "value", VALUES)
