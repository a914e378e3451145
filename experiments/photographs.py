"""``python -m experiments.photographs CLONES OUT``: directories of photographs for ``experiments.fewshot --more``.

The photographs are files of public git repositories, at one commit each: ``photographs.json`` says which. CLONES has
the clones, bare or not, as OWNER+NAME or OWNER+NAME/repo. Nothing is fetched: what is missing is said, with commands
that bring it. Where a repository is gone, leave its row out of a copy of the list (``--sources``).

OUT gets WebP files of quality 80, the shorter side at most 256 (``--side``): ``like/NAME_NNNNN.webp`` of the sources
that are like ImageNet's pictures, and two halves of all others in ``photographs/a`` and ``photographs/b``. The same
list, Pillow and libwebp give the same bytes. ImageNet's validation images are never read. Small and broken pictures are
left out, drawings, and doubles. Copies of images of a report are left out by ``experiments.fewshot``, or here by
``--unlike``.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.common import at_least_one, folder, opened_tar, picture
from experiments.repositories import SOURCES, Source, contents, drawn, find_clones, read_sources
from sw.command_line import Parser, run_command
from sw.compress.methods import CompressError
from sw.format.output import staged, staged_folder
from sw.format.strict_json import json_text

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

__all__ = ["main"]

# WebP's quality of the pictures that are written.
_QUALITY = 80

# Correlation of outlines above which a picture is a double; it is higher than for copies of images of a report, of
# which none must be missed, for any two pictures of a sky are alike.
_DOUBLE = 0.97

# Mean difference of neighbouring colours below which a picture has none.
_GREY = 3

# Most that a colour of a plain edge differs from its corner's: JPEG leaves a little noise.
_PLAIN = 8


@dataclass(frozen=True)
class _Wanted:
    """How pictures are written, and which of those that are no drawings and no doubles are left out too."""

    #: The most of the shorter side.
    side: int
    #: Outlines of images that copies are left out of, mirrored ones too; None if none are.
    images: Tensor | None
    #: Whether those without colours are left out, and whether plain edges are cut off.
    coloured: bool
    trim: bool

    @property
    def kinds(self) -> list[str]:
        """What pictures are counted as, in order."""
        own = ["grey"] * self.coloured + ["copies"] * (self.images is not None)
        return ["broken", "small", "drawings", *own, "doubles"]


def _trimmed(image: Image) -> Image:
    """A picture without the rows and columns at its edges that have the colour of a corner, of two that it has."""
    import numpy as np

    for corner in (-1, 0):
        values = np.asarray(image, np.int16)
        inside = np.abs(values - values[corner, corner]).max(2) > _PLAIN
        rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
        if len(rows):  # else it is all of one colour
            image = image.crop((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    return image


def _grey(image: Image) -> bool:
    """Whether a picture has no colours."""
    import numpy as np

    return bool(np.abs(np.diff(np.asarray(image.resize((64, 64)), np.int16))).mean() < _GREY)


def _drawing(image: Image) -> bool:
    """Whether a picture has no colours and is mostly white, or white and black: a drawing, or a thing on white."""
    import numpy as np

    if not _grey(image):
        return False
    values = np.asarray(image.convert("L"))
    white, black = (values > 235).mean(), (values < 30).mean()
    return bool(white > 0.5 or (white > 0.3 and white + black > 0.6))


def _outline(image: Image) -> Tensor:
    """A picture's, ``[432]``."""
    import numpy as np
    import torch

    from experiments.pictures import outlines

    return outlines(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float())[0]


def _images(path: Path, trim: bool) -> Tensor:
    """Outlines of the pictures of a tar file, or below a directory, and of the same mirrored, ``[2 n, 432]``.

    With ``trim`` those without plain edges, too, ``[4 n, 432]``, as copies lose theirs.

    Raises
    ------
    CompressError
        There is none, or one is damaged.
    """
    import torch
    from PIL.Image import Transpose

    from experiments.pictures import PICTURES, picture_files

    if path.is_dir():
        images = [picture(file) for file in picture_files(path, "unlike")]
    else:
        images = []
        with opened_tar(path, "unlike must be a directory of pictures, or a tar file of them") as archive:
            for member in archive:
                if member.isfile() and Path(member.name).suffix.lower() in PICTURES:
                    file = archive.extractfile(member)
                    assert file is not None
                    images.append(picture(io.BytesIO(file.read()), name=member.name))
        if not images:
            raise CompressError(f"unlike must be a tar file of pictures, not {str(path)!r}")
    if trim:
        images += [_trimmed(image) for image in images]
    return torch.stack(
        [_outline(each) for image in images for each in (image, image.transpose(Transpose.FLIP_LEFT_RIGHT))]
    )


def _judged(data: bytes, least: int, known: Tensor, wanted: _Wanted) -> tuple[str, Image, Tensor | None]:
    """What a picture counts as, how it is written, and its outline if it is like none of those known.

    Raises
    ------
    CompressError
        It is none, or damaged.
    """
    from PIL.Image import Resampling

    from experiments.pictures import COPY

    image = picture(io.BytesIO(data))
    if wanted.trim:
        image = _trimmed(image)
    side = min(image.size)
    if side < least or max(image.size) > 6 * side:  # the middle of a strip is little of it
        return "small", image, None
    if side > wanted.side:
        size = round(image.width * wanted.side / side), round(image.height * wanted.side / side)
        image = image.resize(size, Resampling.LANCZOS)
    if _drawing(image):
        return "drawings", image, None
    if wanted.coloured and _grey(image):
        return "grey", image, None
    outline = _outline(image)
    if wanted.images is not None and bool((wanted.images @ outline > COPY).any()):
        return "copies", image, None
    if bool((known @ outline > _DOUBLE).any()):
        return "doubles", image, None
    return "written", image, outline


def _write(
    source: Source,
    contents: Iterable[bytes],
    output: Path,
    known: Tensor,
    first: int,
    wanted: _Wanted,
    advance: Callable[[], None],
) -> dict[str, int]:
    """Write pictures of a source; the outlines go to ``known`` from row ``first`` on. Gives what was read, by kind."""
    counts = dict.fromkeys(("read", *wanted.kinds, "written"), 0)
    # Halves have every second picture of each source.
    folders = [output / "like"] if source.directory == "like" else [output / "photographs" / half for half in "ab"]
    for own in folders:
        own.mkdir(parents=True, exist_ok=True)
    for data in contents:
        counts["read"] += 1
        try:
            kind, image, outline = _judged(data, source.least, known[: first + counts["written"]], wanted)
        except CompressError:
            counts["broken"] += 1
            continue
        if outline is not None:
            place = counts["written"]
            known[first + place] = outline
            image.save(folders[place % len(folders)] / f"{source.name}_{place:05d}.webp", quality=_QUALITY)
            advance()
        counts[kind] += 1
        if counts["written"] == source.in_all:
            break
    return counts


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 2 for bad input, with one line on standard error."""
    parser = Parser(prog="python -m experiments.photographs", description=__doc__)
    parser.add_argument("clones", type=folder, help="directory of the clones")
    parser.add_argument("output", help="directory to make")
    parser.add_argument("--sources", type=Path, default=SOURCES, help="another list (%(default)s)")
    parser.add_argument("--side", type=at_least_one, default=256, help="most of the shorter side (%(default)s)")
    parser.add_argument(
        "--unlike", type=Path, metavar="IMAGES", help="leave copies of these out: a directory, or a tar file"
    )
    parser.add_argument("--coloured", action="store_true", help="leave out pictures without colours")
    parser.add_argument("--trim", action="store_true", help="cut off plain edges, before pictures are measured")
    parser.add_argument("--json", type=Path, help="write how many pictures each source gave")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return run_command(parser, arguments, _run)


def _run(options: argparse.Namespace) -> None:
    import PIL

    sources, validation = read_sources(options.sources)
    clones = find_clones(options.clones, sources)
    turns = [drawn(source, clone, validation) for source, clone in zip(sources, clones, strict=True)]
    most = [min(source.in_all, len(names)) for source, names in zip(sources, turns, strict=True)]

    import torch

    from sw.compress.network import progress_bar

    images = None if options.unlike is None else _images(options.unlike, options.trim)
    wanted = _Wanted(options.side, images, options.coloured, options.trim)
    rows: list[dict[str, Any]] = []
    with ExitStack() as files:
        report = files.enter_context(staged(options.json)) if options.json else None
        output = files.enter_context(staged_folder(options.output))
        bar = files.enter_context(progress_bar(not options.quiet))
        known, total = torch.zeros(sum(most), 432), 0
        for source, clone, names, own in zip(sources, clones, turns, most, strict=True):
            task = bar.add_task(source.name, total=own)
            with closing(contents(clone, names)) as data:
                counts = _write(source, data, output, known, total, wanted, partial(bar.advance, task))
            total += counts["written"]
            bar.update(task, total=counts["written"])
            rows.append({**asdict(source), **counts})
        if report is not None:
            report.write_text(json_text({"experiment": "photographs", "pillow": PIL.__version__, "sources": rows}))
    left = (f"{sum(row[kind] for row in rows)} {kind}" for kind in wanted.kinds)
    print(f"{total} pictures of {len(rows)} sources in {options.output}; left out: {', '.join(left)}")


if __name__ == "__main__":
    sys.exit(main())
