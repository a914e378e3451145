"""``python -m sw.compress calibrate``: a network and a batch of images to a whole network file, without training."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from sw.command_line import Parser, run_command
from sw.compress.commands.options import (
    NETWORK,
    add_data_options,
    add_recipe_options,
    check_counts,
    check_written,
    load_split,
    print_rest,
    rules_of,
)
from sw.format.output import staged

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status, with one line on standard error: 2 for bad input, 130 for Ctrl-C."""
    parser = Parser(
        prog="python -m sw.compress calibrate",
        description="Compress a network without training and write it as integers: batch norm and the scales of the"
        " activations follow a batch of images. Labels are not looked at.",
        epilog="finetune trains what is stored, which gives back most of the accuracy; evaluate measures a file.",
    )
    parser.add_argument("network", help=NETWORK)
    parser.add_argument("--weights", metavar="FILE", help="checkpoint of the network")
    parser.add_argument("--data", required=True, help="CIFAR-10's archive, .npz, or a directory of images")
    parser.add_argument("--images", type=int, default=1000, help="how many of the training images (%(default)s)")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the container to write")
    parser.add_argument("--json", metavar="FILE", help="write the report as JSON")
    parser.add_argument(
        "--layers-alone", action="store_true", help="take a network without integer form; its file has layers alone"
    )
    parser.add_argument("--force", action="store_true", help="write the file even if its integers differ")
    parser.add_argument("--seed", type=int, default=0, help="of the clustering (%(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    add_data_options(parser.add_argument_group("images"))
    add_recipe_options(parser.add_argument_group("compression"))
    return run_command(parser, arguments, _run)


def _run(options: argparse.Namespace) -> int:
    check_written(options, "output", "json")
    check_counts(options, "images")

    import torch

    from sw.compress.network import layer_names, module_sources
    from sw.compress.sources import load_model
    from sw.compress.training.calibration import calibrate_network

    with ExitStack() as files:
        output = files.enter_context(staged(options.output))
        target = files.enter_context(staged(options.json)) if options.json else None
        torch.manual_seed(options.seed)
        model = load_model(options.network, options.weights)
        data = load_split(options, model, "train")
        done = calibrate_network(
            model,
            data,
            rules_of(options, module_sources(model, geometry=False), options.seed, modules=layer_names(model)),
            device=options.device,
            layers_alone=options.layers_alone,
            progress=not options.quiet,
        )
        difference = done.write(output, force=options.force)
        size = output.stat().st_size
        report = {
            "network": options.network,
            "method": None if options.rules else options.method,
            **done.report,
            "comparison": difference,
            "bytes": size,
            "ratio": 4 * done.report["weights"] / size,
        }
        if target is not None:
            target.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if done.network is None:
        print_rest(done)
    agreement = done.report["agreement"]
    same = "" if agreement is None else f"the largest result is the float network's on {agreement:.1f} %, "
    print(
        f"{options.output}: {size} bytes, {report['ratio']:.2f} times smaller than float32 weights; on"
        f" {len(done.images)} images {same}relative error of all results {done.report['error']:.3g}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
