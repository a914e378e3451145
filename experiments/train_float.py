"""Train a network in floating point: from scratch, from given weights, or N:M sparse from given weights.

The weights it writes are the start of the other experiments.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from experiments.common import add_options, at_least_one, chosen_device, data, machine, weights_file, write_report
from sw.command_line import Parser, exit_status
from sw.compress.methods import CompressError
from sw.compress.pruning import parse_nm
from sw.compress.training.settings import SCHEMES, TrainConfig

#: Settings of each network.
CONFIGS = {
    "resnet18": TrainConfig(40, 256, "sgd", 0.1, weight_decay=5e-4, warmup=3, label_smoothing=0.1, erase=8),
    "resnet20": TrainConfig(100, 128, "sgd", 0.1, weight_decay=1e-4, warmup=3),
    "mobilenetv2": TrainConfig(36, 256, "sgd", 0.1, weight_decay=5e-4, warmup=3, label_smoothing=0.1, erase=8),
    "vit": TrainConfig(300, 256, "adamw", 1e-3, weight_decay=0.05, warmup=5, label_smoothing=0.1, distort=0.5, mix=0.5),
}
CONFIGS["vit-narrow"] = dataclasses.replace(CONFIGS["vit"], epochs=100)
CONFIGS["resnet18-64"] = TrainConfig(
    24, 256, "sgd", 0.1, weight_decay=5e-4, warmup=3, label_smoothing=0.1, crop=6, erase=16
)
CONFIGS["mobilenetv2-64"] = TrainConfig(
    40, 256, "sgd", 0.1, weight_decay=2e-4, warmup=3, label_smoothing=0.1, crop=6, erase=16
)
#: From pretrained weights (``--start``).
CONFIGS["dinov2-s"] = TrainConfig(
    3, 128, "adamw", 5e-5, weight_decay=0.02, warmup=0.4, label_smoothing=0.1, crop=8, distort=0.3
)

#: Settings of sparse training. Learning rate and decay of SR-STE are DominoSearch's, which MVQ uses.
SPARSE = {
    "resnet18": TrainConfig(30, 256, "sgd", 0.05, weight_decay=5e-4, warmup=1, label_smoothing=0.1, erase=8),
    "resnet20": TrainConfig(30, 256, "sgd", 0.05, weight_decay=1e-4, warmup=1),
    "mobilenetv2": TrainConfig(10, 256, "sgd", 0.01, weight_decay=5e-5, crop=4),
    "vit": TrainConfig(20, 256, "adamw", 5e-4, weight_decay=0.05, warmup=1, label_smoothing=0.1, distort=0.5, mix=0.5),
}
SPARSE["vit-narrow"] = SPARSE["vit"]
SPARSE["resnet18-64"] = dataclasses.replace(CONFIGS["resnet18-64"], epochs=8, lr=0.05, warmup=1)
SPARSE["mobilenetv2-64"] = TrainConfig(10, 256, "sgd", 0.02, weight_decay=5e-5, warmup=0.5, label_smoothing=0.1, crop=6)
SPARSE["dinov2-s"] = dataclasses.replace(CONFIGS["dinov2-s"], epochs=5, lr=2e-4)

#: Networks that are trained without the images that settings are chosen on (:mod:`experiments.protocol`). The others'
#: weights are older than the protocol: they saw all training images. So did the published ones that ``resnet20`` starts
#: its sparse training from.
HELD_OUT_OF = ("resnet18", "resnet20", "vit", "resnet18-64", "mobilenetv2-64", "dinov2-s")

#: Of the layers that become sparse, in one network or another: all but the first and the last.
PATTERNS = ("layer*", "blocks*", "features.*.layers.*")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 2 for bad input, with one line on standard error."""
    parser = Parser(prog="python -m experiments.train_float", description=__doc__)
    parser.add_argument("model", choices=sorted(CONFIGS))
    parser.add_argument("--weights", type=Path, help="file to write (build/experiments/MODEL[-SCHEME[-N-M]].pt)")
    parser.add_argument("--start", type=Path, help="weights to start from; needed for sparse training")
    parser.add_argument("--sparse", choices=SCHEMES, help="train N:M sparse")
    parser.add_argument("--nm", default="4:16", metavar="N:M", help="keep N of every M weights (%(default)s)")
    parser.add_argument("--epochs", type=at_least_one, help="instead of the network's own number")
    parser.add_argument("--seed", type=int, default=0, help="%(default)s")
    parser.add_argument("--checkpoint", type=Path, help="go on from this file if it exists, and write it on the way")
    add_options(parser)
    options = parser.parse_args(arguments)
    return exit_status(parser.prog, lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    import torch

    from experiments.models import build, save_weights
    from experiments.protocol import held_out
    from sw.compress.methods import named
    from sw.compress.network import module_sources
    from sw.compress.training.loop import accuracy, check_network, fit
    from sw.compress.training.sparse import finish_sparse, start_sparse

    options.device = chosen_device(options.device)
    nm = parse_nm(options.nm)
    train, test = data(options, options.model)
    if options.model in HELD_OUT_OF:
        train, _ = held_out(train)
    if options.sparse and not options.start:
        raise CompressError("--sparse needs --start: it trains on from given weights")
    precision = "bfloat16" if options.device.startswith("cuda") else "float32"
    config = (SPARSE if options.sparse else CONFIGS)[options.model]
    config = dataclasses.replace(config, seed=options.seed, precision=precision, batch=min(config.batch, len(train)))
    if options.epochs:
        config = dataclasses.replace(config, epochs=options.epochs, warmup=min(config.warmup, options.epochs / 4))
    model = build(options.model, options.start, seed=options.seed)
    check_network(model.to(options.device), (train, test), options.device)
    names = [source.name for source in module_sources(model, geometry=False)]
    patterns = [pattern for pattern in PATTERNS if any(named(name, pattern) for name in names)]
    sparse_layers = start_sparse(model, patterns, *nm, options.sparse) if options.sparse else []
    if options.device.startswith("cuda"):
        model.to(memory_format=torch.channels_last)
    begin = time.perf_counter()
    losses = fit(
        model,
        train,
        config,
        device=options.device,
        checkpoint=options.checkpoint,
        every=1000,
        capture=not options.eager,
        progress=not options.quiet,
    )
    seconds = time.perf_counter() - begin
    finish_sparse(model)
    percent = accuracy(model, test, device=options.device)
    default = weights_file(options.model, options.sparse, options.nm)
    name, weights = default.stem, options.weights or default
    # Half precision halves the file; the accuracy reported is that of what the file holds.
    save_weights(model.state_dict(), weights)
    percent_stored = accuracy(build(options.model, weights).to(options.device), test, device=options.device)
    report = {
        "experiment": "train_float",
        "note": "Accuracy on the test images, in per cent.",
        "model": options.model,
        "sparse": options.sparse and f"{options.sparse} {options.nm}",
        "sparse_layers": sparse_layers,
        "accuracy": percent_stored,
        "accuracy_float32": percent,
        "seconds": seconds,
        "losses": losses,
        "config": dataclasses.asdict(config),
        "images": len(train),
        "machine": machine(options.device),
    }
    path = options.output / f"float-{name}.json"
    rows = [[name, f"{percent_stored:.2f}", config.epochs, f"{seconds:.0f} s", report["machine"]["device"]]]
    write_report(path, report, ["network", "accuracy", "epochs", "time", "device"], rows)
    print(f"{name}: {percent_stored:.2f} % after {config.epochs} epochs, {seconds:.0f} s; {weights}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
