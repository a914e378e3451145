"""``python -m sw.compress search``: the recipe of each layer with which a network fits into a number of bytes."""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from sw.command_line import Parser, run_command
from sw.compress.commands.options import add_data_options, check_counts, check_written, load_split
from sw.compress.methods import CompressError, LayerSource, Recipe, check_keep
from sw.format.output import staged

if TYPE_CHECKING:
    from torch import nn

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status, with one line on standard error: 2 for bad input, 130 for Ctrl-C."""
    parser = Parser(
        prog="python -m sw.compress search",
        description="Find the recipe of each layer with which a network fits into a number of bytes.",
    )
    parser.add_argument(
        "network",
        help="a checkpoint file; or efficientnet-lite0, timm:NAME, torchvision:NAME or package.module:callable",
    )
    parser.add_argument(
        "--bytes", type=int, required=True, help="of the container: of finetune's with --data, of layers alone without"
    )
    parser.add_argument("--weights", metavar="FILE", help="checkpoint of a network that is no file itself")
    parser.add_argument("--data", help="measure sensitivities on its training images; all layers weigh 1 without")
    add_data_options(parser)
    parser.add_argument(
        "--layers-alone",
        action="store_true",
        help="take a network without integer form, whose file has layers alone",
    )
    parser.add_argument("--images", type=int, default=256, help="how many (%(default)s)")
    parser.add_argument("--candidates", metavar="FILE", help="JSON with rules, whose recipes are tried instead")
    parser.add_argument(
        "--codeword-bits",
        metavar="BITS",
        type=int,
        nargs="+",
        help="bits of codewords, 2..8, that each candidate with codewords is tried with (8 4)",
    )
    parser.add_argument(
        "--uniform-bits",
        type=int,
        metavar="BITS",
        help="of a weight of layers without codewords, 5..8 (the candidates' own); 7 for arrays of 4-bit weights",
    )
    parser.add_argument("--keep", metavar="PATTERN", nargs="*", default=[], help="layers that stay at 8 bit")
    parser.add_argument("--threads", type=int, help="threads; does not change the result (all processors)")
    parser.add_argument("--device", default="cpu", help="of the clustering and the sensitivities (%(default)s)")
    parser.add_argument("-o", "--output", metavar="FILE", help="write the rules as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return run_command(parser, arguments, _run)


def _run(options: argparse.Namespace) -> int:
    check_written(options, "output")

    import numpy as np
    import torch
    from rich.console import Console
    from rich.table import Table

    from sw.compress.network import about_sources, module_sources, tied_layers
    from sw.compress.rules import read_candidates
    from sw.compress.search import CANDIDATES, METHOD_CANDIDATES, SLACK, plan_json, search, with_codeword_bits
    from sw.compress.sources import MODELS, checkpoint_sources, load_model

    check_counts(options, "bytes", "images", "threads")
    file = ":" not in options.network and options.network not in MODELS
    if file and (options.weights or options.data):
        raise CompressError("--weights and --data need a network, not a checkpoint alone")
    model = None if file else load_model(options.network, options.weights)
    sources = checkpoint_sources(options.network) if model is None else module_sources(model, geometry=False)
    check_keep(options.keep, sources)
    candidates: Sequence[Recipe] = CANDIDATES
    if options.candidates:
        if options.codeword_bits is not None:
            raise CompressError("--codeword-bits must not be given with --candidates, which has recipes of its own")
        candidates = read_candidates(options.candidates)
    elif options.codeword_bits is not None:
        candidates = with_codeword_bits(METHOD_CANDIDATES, options.codeword_bits)
    with ExitStack() as files:
        output = files.enter_context(staged(options.output)) if options.output is not None else None
        sensitivity = metadata = None
        # What a file of layers alone says beside them.
        told = about_sources(sources)
        tied = {} if model is None else tied_layers(model)
        every = list(sources)
        if model is not None and options.data:
            sensitivity, metadata, calls, found = _measured(model, sources, options)
            told |= found
            # Of a module that is called twice the file has two layers. What it costs to change its weight is known.
            named = {source.name: source for source in sources}
            every += [dataclasses.replace(named[owner], name=name) for name, owner in calls.items()]
            sensitivity |= dict.fromkeys(calls, 0.0)
            tied |= {name: tied.get(owner, owner) for name, owner in calls.items()}
        plan = search(
            every,
            options.bytes,
            candidates=candidates,
            sensitivity=sensitivity,
            keep=options.keep,
            tied=tied,
            uniform_bits=options.uniform_bits,
            requantised=metadata is not None,
            metadata=told if metadata is None else metadata,
            spare=0 if metadata is None else SLACK,
            threads=options.threads,
            device=options.device,
            progress=not options.quiet,
        )
        versions = {"python": platform.python_version(), "numpy": np.__version__, "torch": torch.__version__}
        own = {source.name for source in sources}
        plan = dataclasses.replace(plan, recipes={name: row for name, row in plan.recipes.items() if name in own})
        content = plan_json(
            plan, network=options.network, budget=options.bytes, sensitivity=sensitivity, versions=versions
        )
        if output is not None:
            output.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    table = Table("layer", "method", "k", "d", "N:M", "bits", box=None)
    for name, recipe in plan.recipes.items():
        coded = recipe.stored != "int8"
        table.add_row(
            name,
            recipe.method,
            str(recipe.k) if coded else "",
            str(recipe.d) if coded else "",
            f"{recipe.n}:{recipe.m}" if recipe.masked else "",
            str(recipe.codeword_bits if coded else recipe.weight_bits),
        )
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    print(f"{plan.bytes} bytes of {options.bytes}, error {plan.error:.6g}")
    return 0


def _measured(
    model: nn.Module, sources: Sequence[LayerSource], options: argparse.Namespace
) -> tuple[dict[str, float], dict[str, Any] | None, dict[str, str], dict[str, Any]]:
    """Sensitivities, what the file of fine-tuning will have beside the module's layers (:func:`file_metadata`), and of
    that what it says of the data, as one of layers alone does.
    """
    import torch

    from sw.compress.kmeans_gpu import device_kind
    from sw.compress.network import compress_network
    from sw.compress.search import REFERENCE, loss_sensitivity
    from sw.compress.training.checking import check_integer_form
    from sw.compress.training.finetune import about
    from sw.compress.training.loop import check_network, images_of
    from sw.compress.training.prepare import file_metadata

    data = load_split(options, model, "train")
    device_kind(options.device)
    check_network(model, [data])
    images = torch.cat([part for part, _ in images_of(data, "cpu")])
    form = None if options.layers_alone else check_integer_form(model, [], images)
    layers, _ = compress_network(sources, REFERENCE, threads=options.threads, progress=not options.quiet)
    metadata, calls = file_metadata(model, images, form)
    said = about(data)
    if metadata is not None:
        metadata |= said
    images = images.to(options.device)
    found = loss_sensitivity(model.to(options.device), layers, images, progress=not options.quiet)
    return found, metadata, calls, said


if __name__ == "__main__":
    sys.exit(main())
