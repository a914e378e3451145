"""Options that commands share: how layers are compressed, and what data a network sees."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sw.command_line import OptionError, check_outputs
from sw.compress.methods import RECIPE_METHODS, SCOPES, CompressError, LayerSource, Recipe, check_keep, check_rules
from sw.compress.pruning import parse_nm
from sw.compress.training.settings import CHECKPOINTS, FOLDERS, IMAGE_SUFFIXES, INTERPOLATIONS, JOB

if TYPE_CHECKING:
    from torch import nn

    from sw.compress.training.data import ImageData
    from sw.compress.training.finetune import Finetuned

__all__ = [
    "DEFAULTS",
    "NETWORK",
    "add_data_options",
    "add_recipe_options",
    "check_written",
    "load_split",
    "print_rest",
    "rules_of",
]

#: What a network can be given as (:func:`sw.compress.sources.load_model`).
NETWORK = "package.module:callable, timm:NAME, torchvision:NAME, efficientnet-lite0, or a .pt2 or .onnx file"

#: k, d, N and M of each method where none are given: those of the papers' ablations, and DKM and PQF as plain VQ.
DEFAULTS: dict[str, tuple[int, int, int, int]] = {
    "mvq": (512, 16, 4, 16),
    "msvq": (32, 16, 4, 16),
    "ssvq": (16, 8, 0, 0),
    "vq": (1024, 8, 0, 0),
    "pqf": (1024, 8, 0, 0),
    "dkm": (1024, 8, 0, 0),
}


def add_recipe_options(parser: Any) -> None:
    """``--method``, ``--k``, ``--d``, bits (:func:`bits_of_options`), ``--nm``, ``--scope``, ``--rules`` and
    ``--keep``.
    """
    parser.add_argument("--method", choices=RECIPE_METHODS, default="mvq", help="mvq by default")
    parser.add_argument("--k", type=int, help="codewords")
    parser.add_argument("--d", type=int, help="codeword length")
    parser.add_argument(
        "--codeword-bits", type=int, help="of a codeword's weights, 2..8, with their sign; 8 by default"
    )
    parser.add_argument("--uniform-bits", type=int, help="of a weight of layers without codewords, 5..8; 8 by default")
    parser.add_argument("--nm", metavar="N:M", help="keep N of every M weights")
    parser.add_argument(
        "--scope", choices=SCOPES, default="layerwise", help="which layers share a codebook; layerwise by default"
    )
    parser.add_argument("--rules", metavar="FILE", help="a recipe for each layer, as the command search writes them")
    parser.add_argument(
        "--keep",
        metavar="PATTERN",
        nargs="*",
        help="layers without codewords; by default the first and a small last one",
    )


def refuse_bits(options: argparse.Namespace, other: str) -> None:
    """Refuse ``--codeword-bits`` and ``--uniform-bits`` beside an option that has recipes of its own.

    Raises
    ------
    CompressError
        One of them is given.
    """
    for field in ("codeword_bits", "uniform_bits"):
        if getattr(options, field) is not None:
            flag = "--" + field.replace("_", "-")
            raise CompressError(f"{flag} must not be given with {other}, which has recipes of its own")


def bits_of_options(options: argparse.Namespace) -> dict[str, Any]:
    """Bits of a recipe as ``--codeword-bits`` and ``--uniform-bits`` give them."""
    found = {field: getattr(options, field) for field in ("codeword_bits", "uniform_bits")}
    return {field: bits for field, bits in found.items() if bits is not None}


def rules_of(
    options: argparse.Namespace,
    sources: Sequence[LayerSource],
    seed: int = 0,
    *,
    modules: Iterable[str] = (),
    say: Callable[[str], object] = print,
) -> list[tuple[str, Recipe]]:
    """The rules that :func:`add_recipe_options`' options give a network; ``say`` gets what was chosen, and why.

    ``modules`` are names that a rule may have beside those of ``sources`` (:func:`sw.compress.methods.check_rules`).
    """
    from sw.compress.rules import read_rules
    from sw.compress.training.default_rules import default_rules, method_rules

    if options.rules:
        refuse_bits(options, "--rules")
        rules = read_rules(options.rules)
        check_rules(rules, sources, modules, calls=True)
        return rules
    k, d, n, m = DEFAULTS.get(options.method, (1, 1, 0, 0))
    if options.nm is not None:
        n, m = parse_nm(options.nm)
    recipe = Recipe(
        options.method,
        k if options.k is None else options.k,
        d if options.d is None else options.d,
        n,
        m,
        seed=seed,
        scope=options.scope,
        **bits_of_options(options),
    )
    if options.keep is None:
        rules, why = default_rules(sources, recipe)
        say(why)
        return rules
    check_keep(options.keep, sources)
    return method_rules(sources, recipe, options.keep)


def add_data_options(parser: Any) -> None:
    """``--size``, ``--classes``, ``--mean``, ``--std``, ``--interpolation`` and ``--resize-crop``."""
    own = "by default the network's own, or ImageNet's"
    parser.add_argument(
        "--size",
        type=int,
        nargs="+",
        metavar="ROWS",
        help="rows and columns of images of a directory, one number if they are equal (224)",
    )
    parser.add_argument(
        "--classes", metavar="FILE", help="names of the classes, one in a line; by default those of the training images"
    )
    parser.add_argument("--mean", type=float, nargs="+", metavar="X", help=f"of each channel, 0..1; {own}")
    parser.add_argument("--std", type=float, nargs="+", metavar="X", help=f"deviation of each channel; {own}")
    parser.add_argument(
        "--interpolation",
        choices=INTERPOLATIONS,
        help="of files; by default the network's, or bilinear",
    )
    parser.add_argument(
        "--resize-crop",
        type=float,
        metavar="SHARE",
        help="of the shorter side that is left of images of a directory; by default the network's, or 224/256",
    )


def check_written(options: argparse.Namespace, *names: str) -> None:
    """:func:`sw.command_line.check_outputs`, and that none of the outputs replaces an image of ``--data``'s folders, or
    a file of ``--work``.

    Raises
    ------
    OSError
        As there; the message names both.
    OptionError
        As there, or ``--work`` has no name.
    """
    if getattr(options, "work", None) == "":
        raise OptionError("--work must name a directory, not ''")
    work, data = (getattr(options, name, None) for name in ("work", "data"))
    check_outputs(options, *names, kept=[Path(work, name) for name in (JOB, *CHECKPOINTS.values())] if work else [])
    parts = [Path(data, name) for names in FOLDERS.values() for name in names] if data else []
    folders = {os.path.realpath(each) for part in parts if part.is_dir() for each in part.iterdir() if each.is_dir()}
    for path in filter(None, (getattr(options, name) for name in names)):
        there = os.path.isfile(path) and os.path.realpath(Path(path).parent) in folders
        if there and Path(path).suffix.lower() in IMAGE_SUFFIXES:
            raise FileExistsError(f"cannot write {path!r}: it would replace an image of --data {data!r}")


def check_counts(options: argparse.Namespace, *names: str) -> None:
    """Refuse counts below 1 among the options of these names.

    Raises
    ------
    CompressError
        It names the first.
    """
    for name in names:
        value = getattr(options, name)
        if value is not None and value < 1:
            raise CompressError(f"--{name} must be at least 1, not {value}")


def image_size(size: Sequence[int] | None) -> int | tuple[int, int] | None:
    """``--size`` as :func:`sw.compress.training.data.load_data` takes it."""
    if size is None:
        return None
    if len(size) > 2 or min(size) < 1:
        raise CompressError(f"--size must be one or two numbers of at least 1, not {' '.join(map(str, size))}")
    return size[0] if len(size) == 1 else (size[0], size[1])


def load_split(options: argparse.Namespace, model: nn.Module, split: str) -> ImageData:
    """One part of ``--data`` as :func:`add_data_options`' options and the network have it, and ``--images`` of it."""
    from sw.compress.network import module_sources
    from sw.compress.sources import model_preprocessing
    from sw.compress.training.data import Preprocessing, load_data, read_classes

    own = model_preprocessing(options.network, model)
    given = {
        "mean": None if options.mean is None else tuple(options.mean),
        "std": None if options.std is None else tuple(options.std),
        "interpolation": options.interpolation,
        "crop": options.resize_crop,
    }
    first = next((source for source in module_sources(model, geometry=False) if source.kind == "conv"), None)
    channels = first.shape[1] * first.groups if first is not None else None
    data = load_data(
        options.data,
        split,
        size=image_size(options.size),
        classes=read_classes(options.classes) if options.classes else (),
        channels=channels if channels in (1, 3) else None,
        preprocessing=Preprocessing(**own | {name: value for name, value in given.items() if value is not None}),
    )
    return data if options.images is None else data.first(options.images)


def print_rest(done: Finetuned) -> None:
    """Why a network's file has layers alone, and how much else there is."""
    print(f"no integer form: {done.report['no_integer_form']}")
    left = {key: value.numel() for key, value in done.rest().items()}
    most = ", ".join(sorted(left, key=lambda key: -left[key])[:3])
    print(
        f"the file has the {done.report['weights']:,} weights of its layers, that of finetune's --rest all else:"
        f" {sum(left.values()):,} numbers, most of them in {most}"
    )
