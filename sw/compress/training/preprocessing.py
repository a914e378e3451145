"""What is done to a picture before a network sees it, without torch: whoever runs a program does it, too."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sw.compress.methods import CompressError
from sw.compress.training.settings import IMAGENET_MEAN, IMAGENET_STD, INTERPOLATIONS, plain_number, plain_numbers
from sw.format.picture import COLOURS

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Preprocessing", "fitted"]


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_number(value: object) -> bool:
    """Whether a value of JSON is one that a float holds; true and false are none."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


@dataclass(frozen=True)
class Preprocessing:
    """What is done to a picture before a network sees it. Networks are trained for one, and lose accuracy with another.

    Parameters
    ----------
    mean, std
        Of each channel, in 0..1, in the order of ``colours``: the network gets ``(pixel / 255 - mean) / std``. Those of
        three channels serve a grey image by their average.
    interpolation
        One of :data:`INTERPOLATIONS`: how an image of a file is resized.
    crop
        Share of the shorter side that is left of an image of a file, in the middle: it is resized to ``size / crop``.
    colours
        One of :data:`sw.format.picture.COLOURS`: the order in which the network reads them. Images are RGB until
        they are normalised.

    Raises
    ------
    CompressError
        A field is out of range.
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"
    crop: float = 224 / 256
    colours: str = "rgb"

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = plain_numbers(self, name)
            low = 0.0 if name == "mean" else math.ulp(0.0)
            if len(values) not in (1, 3) or not all(math.isfinite(x) and low <= x <= 255 for x in values):
                raise CompressError(f"{name} must be 1 or 3 numbers, finite and positive, not {list(values)}")
        if self.interpolation not in INTERPOLATIONS:
            raise CompressError(f"interpolation must be one of {', '.join(INTERPOLATIONS)}, not {self.interpolation!r}")
        if not 0 < plain_number(self, "crop") <= 1:
            raise CompressError(f"crop must be above 0 and at most 1, not {self.crop!r}")
        if self.colours not in COLOURS:
            raise CompressError(f"colours must be one of {', '.join(COLOURS)}, not {self.colours!r}")

    @classmethod
    def of(cls, value: object) -> Preprocessing:
        """The reverse of :meth:`to_dict`, for any JSON value; fields that are not there have their defaults.

        Raises
        ------
        CompressError
            It is something else, or has a field that this version does not know.
        """
        if not isinstance(value, dict):
            raise CompressError(f"preprocessing must be an object, not {value!r}")
        known = [each.name for each in dataclasses.fields(cls)]
        given: dict[str, Any] = {}
        for name, entry in value.items():
            if name not in known:
                raise CompressError(f"preprocessing must have no fields but {', '.join(known)}, not {name!r}")
            several = name in ("mean", "std")
            fits, what = (_is_text, "text") if name in ("interpolation", "colours") else (_is_number, "a number")
            if several != isinstance(entry, list) or not all(map(fits, entry if several else [entry])):
                what = "a list of numbers" if several else what
                raise CompressError(f"{name} must be {what}, not {repr(entry)[:80]}")
            given[name] = tuple(entry) if several else entry
        return cls(**given)

    def channels(self, count: int) -> list[tuple[float, float]]:
        """Mean and deviation of each channel of an image."""
        means, deviations = (
            values if len(values) == count else (sum(values) / len(values),) * count for values in (self.mean, self.std)
        )
        return list(zip(means, deviations, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """As plain Python values, for JSON."""
        fields = dataclasses.asdict(self) | {"mean": list(self.mean), "std": list(self.std)}
        if self.colours == COLOURS[0]:
            # As files had it before there were others: readers of then stop at the field, and must where it counts.
            del fields["colours"]
        return fields


def fitted(picture: Image, size: tuple[int, int], how: Preprocessing) -> Image:
    """The middle of a picture, in its own proportions: resized by ``how``, and what is beyond ``size`` cut off.

    Parameters
    ----------
    picture
        Of any size and mode.
    size
        Rows and columns of the result.
    how
        Its ``interpolation`` and ``crop`` count.
    """
    from PIL.Image import Resampling

    rows, columns = size
    least = round(columns / how.crop), round(rows / how.crop)
    factor = max(wanted / found for wanted, found in zip(least, picture.size, strict=True))
    whole = max(least[0], round(picture.width * factor)), max(least[1], round(picture.height * factor))
    resized = picture.resize(whole, Resampling[how.interpolation.upper()])
    left, top = (resized.width - columns) // 2, (resized.height - rows) // 2
    return resized.crop((left, top, left + columns, top + rows))
