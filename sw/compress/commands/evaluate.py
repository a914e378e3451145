"""``python -m sw.compress evaluate``: how good the integers of a network's file are on labelled images."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sw.command_line import Parser, run_command
from sw.compress.commands.options import add_data_options, check_counts, check_written, image_size
from sw.compress.methods import CompressError
from sw.compress.training.settings import SPLITS
from sw.format.output import staged

if TYPE_CHECKING:
    from sw.compress.training.data import ImageData
    from sw.compress.training.integer import IntegerNetwork

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status, with one line on standard error: 2 for bad input, 130 for Ctrl-C."""
    parser = Parser(
        prog="python -m sw.compress evaluate",
        description="Measure the integers of a network's file, which are what the accelerator and its host compute:"
        " top-1 and top-5 of classes, mean IoU of maps.",
    )
    parser.add_argument(
        "container", metavar="CONTAINER", help="a network with its operations, of finetune or calibrate"
    )
    parser.add_argument("--data", required=True, help="CIFAR-10's archive, .npz, or a directory of images")
    parser.add_argument("--split", choices=SPLITS, default="test", help="which part of the data (%(default)s)")
    parser.add_argument("--images", type=int, help="use only that many images")
    parser.add_argument("--output", metavar="NAME", help="which result of a network that has several")
    parser.add_argument("--json", metavar="FILE", help="write the report as JSON")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    add_data_options(parser.add_argument_group("images; by default as the file says"))
    return run_command(parser, arguments, _run)


def _run(options: argparse.Namespace) -> int:
    check_written(options, "json")
    check_counts(options, "images")

    from sw.compress.kmeans_gpu import device_kind
    from sw.compress.training.evaluation import evaluate
    from sw.compress.training.integer import read_network_and_metadata

    device_kind(options.device)
    network, metadata = read_network_and_metadata(options.container)
    with ExitStack() as files:
        target = files.enter_context(staged(options.json)) if options.json else None
        data = _data(options, network, metadata)
        report = evaluate(network, data, output=options.output, device=options.device, progress=not options.quiet)
        if target is not None:
            content = {"container": options.container, "split": options.split, **report}
            target.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    figures = {"top1": "top-1", "top5": "top-5", "miou": "mean IoU", "pixels": "pixels right"}
    shown = ", ".join(f"{text} {report[name]:.2f} %" for name, text in figures.items() if name in report)
    print(f"{options.container}: {shown} of {report['images']} images, {report['classes']} classes")
    return 0


def _data(options: argparse.Namespace, network: IntegerNetwork, metadata: Mapping[str, Any]) -> ImageData:
    """The images as the file says that its network takes them; options come first."""
    from sw.compress.training.data import Preprocessing, load_data, read_classes

    own = metadata.get("preprocessing")
    try:
        said = Preprocessing.of({} if own is None else own)
    except CompressError as error:
        raise CompressError(f"{options.container}: {error}") from None
    names = metadata.get("classes", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CompressError(f"{options.container}: classes must be a list of names, not {str(names)[:80]}")
    if not own and (options.mean is None or options.std is None):
        # A network gives other results, and no error, for images of another mean: a guess is said.
        print(
            f"{options.container}: does not say what its images are like; ImageNet's mean and std are taken where"
            " --mean and --std give none",
            file=sys.stderr,
        )
    given = {
        "mean": None if options.mean is None else tuple(options.mean),
        "std": None if options.std is None else tuple(options.std),
        "interpolation": options.interpolation,
        "crop": options.resize_crop,
    }
    shape = network.image_shape
    classes = read_classes(options.classes) if options.classes else tuple(names)
    size = image_size(options.size)
    if Path(options.data).is_dir():
        size = shape[1:] if size is None and shape is not None else size
    else:
        for name in ("interpolation", "resize_crop"):
            if getattr(options, name) is not None:
                flag = "--" + name.replace("_", "-")
                raise CompressError(
                    f"{flag} is for images of a directory, and --data is none: its images are as they are"
                )
    data = load_data(
        options.data,
        options.split,
        size=size,
        classes=classes,
        channels=shape[0] if shape is not None and shape[0] in (1, 3) else None,
        preprocessing=dataclasses.replace(said, **{name: value for name, value in given.items() if value is not None}),
    )
    if shape is not None and data.shape != shape[1:]:
        wanted, found = (" x ".join(map(str, sides)) for sides in (shape[1:], data.shape))
        raise CompressError(f"images must be {wanted} pixels, as the network has it, not {found}")
    return data if options.images is None else data.first(options.images)


if __name__ == "__main__":
    sys.exit(main())
