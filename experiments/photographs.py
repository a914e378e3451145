"""``python -m experiments.photographs CLONES OUT``: directories of photographs for ``experiments.fewshot --more``.

The photographs are files of public git repositories, at one commit each: ``photographs.json`` says which. CLONES has
the clones, bare or not, as OWNER+NAME or OWNER+NAME/repo. Nothing is fetched: what is missing is said, with commands
that bring it. Where a repository is gone, leave its row out of a copy of the list (``--sources``).

OUT gets WebP files of quality 80, the shorter side at most 256: ``like/NAME_NNNNN.webp`` of the sources that are like
ImageNet's pictures, and two halves of all others in ``photographs/a`` and ``photographs/b``. The same list, Pillow and
libwebp give the same bytes. ImageNet's validation images are never read. Small and broken pictures are left out,
drawings, and doubles. Copies of images of a report are left out by ``experiments.fewshot``.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.common import folder, picture
from experiments.repositories import SOURCES, Source, contents, drawn, find_clones, read_sources
from sw.command_line import Parser, run_command
from sw.compress.methods import CompressError
from sw.format.output import staged, staged_folder
from sw.format.strict_json import json_text

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

__all__ = ["main"]

# Of the pictures that are written: the most of the shorter side, and WebP's quality.
_SIDE, _QUALITY = 256, 80

# Correlation of outlines above which a picture is a double; it is higher than for copies of images of a report, of
# which none must be missed, for any two pictures of a sky are alike.
_DOUBLE = 0.97

# Mean difference of neighbouring colours below which a picture has none.
_GREY = 3


def _drawing(image: Image) -> bool:
    """Whether a picture has no colours and is mostly white, or white and black: a drawing, or a thing on white."""
    import numpy as np

    if np.abs(np.diff(np.asarray(image.resize((64, 64)), np.int16))).mean() >= _GREY:
        return False
    values = np.asarray(image.convert("L"))
    white, black = (values > 235).mean(), (values < 30).mean()
    return bool(white > 0.5 or (white > 0.3 and white + black > 0.6))


def _judged(data: bytes, least: int, known: Tensor) -> tuple[str, Image, Tensor | None]:
    """What a picture counts as, how it is written, and its outline if it is like none of those known.

    Raises
    ------
    CompressError
        It is none, or damaged.
    """
    import numpy as np
    import torch
    from PIL.Image import Resampling

    from experiments.pictures import outlines

    image = picture(io.BytesIO(data))
    side = min(image.size)
    if side < least or max(image.size) > 6 * side:  # the middle of a strip is little of it
        return "small", image, None
    if side > _SIDE:
        size = round(image.width * _SIDE / side), round(image.height * _SIDE / side)
        image = image.resize(size, Resampling.LANCZOS)
    if _drawing(image):
        return "drawings", image, None
    (outline,) = outlines(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float())
    if bool((known @ outline > _DOUBLE).any()):
        return "doubles", image, None
    return "written", image, outline


def _write(
    source: Source, contents: Iterable[bytes], output: Path, known: Tensor, first: int, advance: Callable[[], None]
) -> dict[str, int]:
    """Write pictures of a source; the outlines go to ``known`` from row ``first`` on. Gives what was read, by kind."""
    counts = dict.fromkeys(("read", "broken", "small", "drawings", "doubles", "written"), 0)
    # Halves have every second picture of each source.
    folders = [output / "like"] if source.directory == "like" else [output / "photographs" / half for half in "ab"]
    for own in folders:
        own.mkdir(parents=True, exist_ok=True)
    for data in contents:
        counts["read"] += 1
        try:
            kind, image, outline = _judged(data, source.least, known)
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

    rows: list[dict[str, Any]] = []
    with ExitStack() as files:
        report = files.enter_context(staged(options.json)) if options.json else None
        output = files.enter_context(staged_folder(options.output))
        bar = files.enter_context(progress_bar(not options.quiet))
        known, total = torch.zeros(sum(most), 432), 0
        for source, clone, names, own in zip(sources, clones, turns, most, strict=True):
            task = bar.add_task(source.name, total=own)
            with closing(contents(clone, names)) as data:
                counts = _write(source, data, output, known, total, partial(bar.advance, task))
            total += counts["written"]
            bar.update(task, total=counts["written"])
            rows.append({**asdict(source), **counts})
        if report is not None:
            report.write_text(json_text({"experiment": "photographs", "pillow": PIL.__version__, "sources": rows}))
    left = (f"{sum(row[kind] for row in rows)} {kind}" for kind in ("broken", "small", "drawings", "doubles"))
    print(f"{total} pictures of {len(rows)} sources in {options.output}; left out: {', '.join(left)}")


if __name__ == "__main__":
    sys.exit(main())
