"""``python -m sw.compress finetune``: compress a network, train it in that form, and write it as integers."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import os
import platform
import re
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, get_type_hints

from sw.command_line import DefaultsFormatter, Parser, run_command
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
from sw.compress.methods import CompressError
from sw.compress.training.settings import SCHEMES, SPLITS, VALUES, Freezing, TrainConfig
from sw.format.output import staged

if TYPE_CHECKING:
    from torch import nn

    from sw.compress.training.finetune import Finetuned, Finetuning

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status, with one line on standard error: 2 for bad input, 130 for Ctrl-C."""
    return run_command(_parser(), arguments, _run, "interrupted; the same command goes on if it has --work")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m sw.compress finetune",
        description="Compress a network, train it in that form, and write it as integers.",
        formatter_class=DefaultsFormatter,
    )
    parser.add_argument("network", help=NETWORK)
    parser.add_argument("--weights", metavar="FILE", help="checkpoint of the network")
    parser.add_argument("--data", required=True, help="CIFAR-10's archive, .npz, or a directory of images")
    parser.add_argument("--images", type=int, help="use only that many images of each part, to try the command")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the container to write")
    parser.add_argument("--json", metavar="FILE", help="write the report as JSON")
    parser.add_argument(
        "--layers-alone",
        action="store_true",
        help="train a network without integer form; its file has the layers alone",
    )
    parser.add_argument(
        "--rest",
        metavar="FILE",
        help="as --layers-alone, and write what the container of such a network lacks",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="write the file even if its integers differ from the network",
    )
    parser.add_argument("--work", metavar="DIRECTORY", help="checkpoints; the same command again goes on from there")
    parser.add_argument("--device", default=argparse.SUPPRESS, help="cuda if PyTorch sees a GPU, or cpu")
    parser.add_argument(
        "--eager", action="store_true", help="on a GPU, do not replay steps as CUDA graphs, which some networks forbid"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    add_data_options(parser.add_argument_group("images"))
    how = parser.add_argument_group("compression")
    add_recipe_options(how)
    how.add_argument("--sparse", choices=SCHEMES, help="train N:M sparse before clustering")
    how.add_argument("--sparse-epochs", type=int, default=10, help="of the sparse training")
    how.add_argument("--sparse-lr", type=float, default=0.01, help="its learning rate")
    how.add_argument("--alpha", type=float, default=1.0, help="latent signs start as alpha times the weight")
    how.add_argument("--fixed-signs", action="store_true", help="do not learn signs")
    how.add_argument(
        "--freeze-interval", type=int, default=500, help="steps from one freezing of signs to the next; 0: never"
    )
    how.add_argument("--freeze-value", choices=VALUES, default="majority", help="what a frozen sign stays at")
    training = parser.add_argument_group("fine-tuning")
    types, texts = get_type_hints(TrainConfig), _descriptions(TrainConfig)
    for field in dataclasses.fields(TrainConfig):
        option, text = f"--{field.name.replace('_', '-')}", texts.get(field.name, " ")
        if field.name == "batch":
            text += f"; by default {field.default}, or as many as there are"
            training.add_argument(option, type=int, default=argparse.SUPPRESS, help=text)
        elif field.name == "mirror":
            action = argparse.BooleanOptionalAction
            training.add_argument(option, action=action, default=argparse.SUPPRESS, help=text)
        else:
            default = 10 if field.name == "epochs" else field.default
            training.add_argument(option, type=types[field.name], default=default, help=text)
    return parser


def _descriptions(described: type) -> dict[str, str]:
    """What the docstring of a class says of its parameters: the first sentence, or half of one."""
    text = (inspect.getdoc(described) or "").partition("Parameters\n----------\n")[2].partition("\n\n")[0]
    found: dict[str, str] = {}
    for names, lines in re.findall(r"^(\w[\w, ]*)\n((?:    .*\n?)+)", text, re.MULTILINE):
        sentence = " ".join(lines.split()).replace("``", "").replace("%", "%%")
        found |= dict.fromkeys(names.split(", "), re.split(r"[.;:] |\.$| \(:func:", sentence)[0])
    return found


def _job(options: argparse.Namespace, model: nn.Module, images: int, first: bool) -> Finetuning:
    from sw.compress.network import layer_names, module_sources
    from sw.compress.training.finetune import Finetuning

    sources, modules = module_sources(model, geometry=False), layer_names(model)
    rules = rules_of(options, sources, options.seed, modules=modules, say=print if first else lambda _: None)
    given = {
        field.name: vars(options)[field.name] for field in dataclasses.fields(TrainConfig) if field.name in options
    }
    if "batch" not in given:
        # Shared evenly among the processes.
        world = int(os.environ.get("WORLD_SIZE", "1"))
        given["batch"] = max(min(TrainConfig.batch, images) // world * world, world)
    config = TrainConfig(**given)
    sparse = None
    if options.sparse:
        sparse = dataclasses.replace(
            config, epochs=options.sparse_epochs, optimiser="sgd", lr=options.sparse_lr, weight_decay=5e-5
        )
    freezing = Freezing(options.freeze_interval, value=options.freeze_value) if not options.fixed_signs else None
    return Finetuning(
        rules, config, sparse, options.sparse or "sr-ste", options.alpha, not options.fixed_signs, freezing
    )


def _run(options: argparse.Namespace) -> int:
    check_written(options, "output", "json", "rest")

    import torch

    from sw.compress.sources import load_model
    from sw.compress.training.finetune import distributed, finetune

    if "device" not in options:
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    check_counts(options, "images")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        if options.device == "cuda":
            options.device = _own_gpu(int(os.environ["LOCAL_RANK"]))
        torch.distributed.init_process_group("nccl" if options.device.startswith("cuda") else "gloo")
    first = not distributed() or torch.distributed.get_rank() == 0
    try:
        # A network without weights of its own starts at random: in the same way in all processes, and every time.
        torch.manual_seed(options.seed)
        model = load_model(options.network, options.weights)
        train, test = (load_split(options, model, split) for split in SPLITS)
        job = _job(options, model, len(train), first)
        with ExitStack() as files:
            # Before the work, which takes long; none takes its place unless all are complete.
            names = ("output", "json", "rest") if first else ()
            staging = {name: files.enter_context(staged(path)) for name in names if (path := getattr(options, name))}
            done = finetune(
                model,
                train,
                test,
                job,
                device=options.device,
                work=options.work,
                capture=not options.eager,
                progress=not options.quiet,
                layers_alone=options.layers_alone or options.rest is not None,
            )
            if first:
                _finish(options, job, done, staging)
    finally:
        if distributed():
            torch.distributed.destroy_process_group()
    return 0


def _own_gpu(number: int) -> str:
    """The GPU of a process, which becomes its current device."""
    import torch

    count = torch.cuda.device_count()
    if number >= count:
        raise CompressError(
            f"torchrun must start at most {count} processes, as many as PyTorch sees GPUs, not {number + 1} or more"
        )
    torch.cuda.set_device(number)
    return f"cuda:{number}"


def _finish(options: argparse.Namespace, job: Finetuning, done: Finetuned, staging: dict[str, Path]) -> None:
    import numpy as np
    import torch

    from sw.compress.checkpoints import write_state
    from sw.compress.training.finetune import job_settings

    difference = done.write(staging["output"], force=options.force)
    size = staging["output"].stat().st_size
    report = {
        "network": options.network,
        "method": None if options.rules else options.method,
        "job": job_settings(job),
        **done.report,
        "comparison": difference,
        "bytes": size,
        "ratio": 4 * done.report["weights"] / size,
        "device": torch.cuda.get_device_name(options.device) if options.device.startswith("cuda") else "CPU",
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "torch": torch.__version__},
    }
    if "json" in staging:
        staging["json"].write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if "rest" in staging:
        write_state(staging["rest"], done.rest())
    if done.network is None:
        print_rest(done)
    percent = done.report.get("accuracy_integers", done.report["accuracy_trained"])
    print(
        f"{options.output}: {size} bytes, {report['ratio']:.2f} times smaller than float32 weights;"
        f" accuracy {percent:.2f} %, float {done.report['accuracy_float']:.2f} %"
    )


if __name__ == "__main__":
    sys.exit(main())
