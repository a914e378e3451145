"""``python -m sw.compress check``: what becomes of each layer and operation of a network, and all that is refused."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from hw.config import AcceleratorConfig
from sw.command_line import Parser, run_command
from sw.compress.commands.options import (
    NETWORK,
    add_data_options,
    add_recipe_options,
    check_counts,
    check_written,
    load_split,
    rules_of,
)
from sw.compress.methods import CompressError, Recipe, recipe_for
from sw.compress.quantiser import uniform_range
from sw.format.output import staged
from sw.program import digit_advice

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sw.compress.training.checking import Checked

__all__ = ["main"]

_FORMS = {
    "program": "becomes one program of integers",
    "steps": "becomes a network in steps",
    "layers": "has no integer form: its file would have the layers alone (finetune --layers-alone)",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 1 if the network has no integer form, 2 for bad input."""
    parser = Parser(
        prog="python -m sw.compress check",
        description="Say what becomes of each layer and operation of a network, and all that is refused, in seconds.",
    )
    parser.add_argument("network", help=NETWORK)
    parser.add_argument("--weights", metavar="FILE", help="checkpoint of the network")
    source = parser.add_argument_group("images, of which some are computed")
    source.add_argument("--data", help="CIFAR-10's archive, .npz, or a directory of images; random ones without")
    source.add_argument("--shape", type=int, nargs=3, metavar=("C", "ROWS", "COLUMNS"), help="of random images")
    source.add_argument("--images", type=int, default=16, help="how many (%(default)s)")
    add_data_options(source)
    add_recipe_options(parser.add_argument_group("compression"))
    parser.add_argument("--json", metavar="FILE", help="write what was found as JSON")
    return run_command(parser, arguments, _run)


def _run(options: argparse.Namespace) -> int:
    check_written(options, "json")

    from sw.compress.network import layer_names, module_sources
    from sw.compress.sources import load_model
    from sw.compress.training.checking import check_network_form

    check_counts(options, "images")
    if options.data and options.shape:
        raise CompressError("--shape must not be given with --data, which has images")
    with ExitStack() as files:
        output = files.enter_context(staged(options.json)) if options.json is not None else None
        model = load_model(options.network, options.weights)
        rules = rules_of(options, module_sources(model, geometry=False), modules=layer_names(model))
        found = check_network_form(model, rules, _images(options, model))
        if output is not None:
            output.write_text(json.dumps(found.to_dict(), indent=1) + "\n", encoding="utf-8")
    _print(options.network, found)
    if advice := _digits(found, rules):
        print(advice)
    return int(found.form == "layers")


def _images(options: argparse.Namespace, model: nn.Module) -> Tensor:
    import torch

    from sw.compress.frontend import example_images
    from sw.compress.training.loop import images_of

    if options.data:
        return next(images_of(load_split(options, model, "train"), "cpu"))[0]
    if options.shape:
        if min(options.shape) < 1:
            raise CompressError(f"--shape must be three numbers of at least 1, not {options.shape}")
        return torch.randn(4, *options.shape, generator=torch.Generator().manual_seed(0))
    return example_images(model)


def _digits(found: Checked, rules: Sequence[tuple[str, Recipe]]) -> str:
    """What layers without codewords cost on an array whose weights have as many bits as the codewords."""
    recipes = {row["layer"]: recipe_for(row["layer"], rules) for row in found.layers}
    kept = {row["layer"] for row in found.layers if row["method"] == "int8"}
    coded = [recipe for name, recipe in recipes.items() if name not in kept and recipe.stored != "int8"]
    if not coded:
        return ""
    variant = "ews-msvq" if any(recipe.signed for recipe in coded) else "ews-cms"
    config = AcceleratorConfig(variant, weight_bits=max(recipe.codeword_bits for recipe in coded))
    return digit_advice(config, {name: uniform_range(recipes[name].weight_bits) for name in recipes if name in kept})


def _print(network: str, found: Checked) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table("layer", "kind", "shape", "method", "without codewords because", box=None)
    for row in found.layers:
        shape = "x".join(map(str, row["shape"]))
        table.add_row(row["layer"], row["kind"], shape, row["method"], row["reason"] or "")
    console.print(table)
    if found.operations:
        table = Table("operation", "becomes", "where", box=None)
        for operation in found.operations:
            table.add_row(operation["operation"], operation["becomes"], operation["where"])
        console.print(table)
    for refusal in found.refusals:
        print(f"refused: {refusal}")
    print(f"{network} {_FORMS[found.form]}")


if __name__ == "__main__":
    sys.exit(main())
