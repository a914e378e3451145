"""A network in integers and its golden program on a CPU, beside float inference by PyTorch.

    python benchmarks/programs_speed.py [NETWORK ...] [--repeats N]

The float network is PyTorch's own, with batch norm folded. All run in one process, on one thread, in turn; times are of
the processor, the least of the repeats. The integers of the fast backend are the reference's in the network's outputs,
and so are the program's. ResNet-18 is that of 224 x 224 on ``ews-cms-16``; the other networks, of
``sim.networks.gated``, are on ``ews-msvq-full-16``. Weights are random.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from integers_speed import least
from threadpoolctl import threadpool_limits
from torch.fx.experimental.optimization import fuse

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from hw.config import preset  # noqa: E402
from sim.networks import definitions  # noqa: E402
from sim.networks.gated import GATED, gated_network  # noqa: E402
from sim.networks.workloads import random_gated, random_resnet18  # noqa: E402
from sw.compiler.compile import compile_network  # noqa: E402
from sw.executor import execute  # noqa: E402
from sw.network.fast import FastNetwork  # noqa: E402

RESNET18 = "resnet18"


def row(name: str, count: int, repeats: int) -> str:
    """A line of the table; float and integers take so many images in a batch."""
    network: Any
    instance = "ews-cms-16" if name == RESNET18 else "ews-msvq-full-16"
    config = preset(instance)
    if name == RESNET18:
        model = definitions.resnet18().eval()
        network, image = random_resnet18(config, progress=False)
    else:
        model = gated_network(name)[0]
        network, image = random_gated(name, config, progress=False)
    model = fuse(model)
    floats = image.repeat(count, 1, 1, 1)
    images = network.quantise(floats.numpy())
    fast = FastNetwork(network)
    program = compile_network(network, images.shape[1:], config)
    memory = program.memory([images[0]])
    for found, tensor, wanted in zip(
        fast.results(images[:1]), program.outputs, network.results(images[:1]), strict=True
    ):
        assert np.array_equal(found, wanted), "the fast backend must be exact"
        made = program.read(execute(program, memory).memory, tensor)
        assert np.array_equal(made.reshape(-1), wanted[0].reshape(-1)), "the program must be exact"
    times = [
        least(lambda: model(floats), repeats) / count,
        least(lambda: fast.results(images), repeats) / count,
        least(lambda: execute(program, memory), repeats),
    ]
    cells = [f"{1e3 * seconds:.1f}" for seconds in times] + [f"{seconds / times[0]:.2f}" for seconds in times[1:]]
    size = " x ".join(map(str, images.shape[2:]))
    return "| " + " | ".join([name, size, instance, *cells]) + " |"


def main() -> int:
    known = (RESNET18, *GATED)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(known)}")
    parser.add_argument("--images", type=int, default=4, help="in a batch of float and integers (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    if wrong := [name for name in options.networks if name not in known]:
        parser.error(f"argument NETWORK: must be one of {', '.join(known)}, not {wrong[0]!r}")
    torch.set_num_threads(1)
    print("| network | image | instance | float, ms an image | integers, ms | program, ms | integers / float |", end="")
    print(" program / float |\n|---|---|---|--:|--:|--:|--:|--:|")
    with threadpool_limits(1), torch.inference_mode():
        for name in options.networks or known:
            print(row(name, options.images, options.repeats), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
