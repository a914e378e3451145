"""A network in integers on a CPU, beside the float inference of the same layers by PyTorch.

    python benchmarks/integers_speed.py [CONTAINER ...] [--images N] [--repeats N]

The float network has the operations of the file: its layers as convolutions of float32 weights with their bias, batch
norm folded as it is in the integers; ReLU and pooling as PyTorch has them. All run in one process, on one thread, in
turn; times are of the processor, the least of the repeats. The fast backend must give the reference's integers.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from sw.network import Network, Operation, read_network  # noqa: E402
from sw.network.fast import FastNetwork  # noqa: E402
from sw.network.network import interpret  # noqa: E402
from sw.network.spatial import Add, Average, Clamp, Flatten, Layer, Logits, Maximum, Pad, Shortcut  # noqa: E402


def float_network(network: Network) -> Callable[[Tensor], Tensor]:
    """The same layers in float32; scales are left out, which cost nothing."""
    parts: dict[str, tuple[Tensor, Tensor]] = {}
    for name, layer in network.layers.items():
        assert layer.requantisation is not None
        weight = torch.from_numpy(layer.integer_weights().astype(np.float32) / 128)
        parts[name] = weight, torch.from_numpy(layer.requantisation.bias.astype(np.float32))

    def compute(_: int, op: Operation, values: Sequence[Tensor]) -> Tensor:
        first = values[0]
        if isinstance(op, Layer | Logits):
            layer, (weight, bias) = network.layers[op.layer], parts[op.layer]
            if layer.kind == "linear":
                found = functional.linear(first, weight.flatten(1), bias)
            else:
                found = functional.conv2d(
                    first, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups
                )
            return found.relu_() if isinstance(op, Layer) and op.range[0] == 0 else found
        if isinstance(op, Add):
            return (first + values[1]).relu_() if op.range[0] == 0 else first + values[1]
        if isinstance(op, Average):
            return first.mean((2, 3), keepdim=True) if op.window is None else functional.avg_pool2d(first, *op.window)
        if isinstance(op, Maximum):
            return functional.max_pool2d(first, op.kernel, op.stride, op.padding, ceil_mode=op.ceil)
        if isinstance(op, Pad):
            return functional.pad(first, (op.padding[2], op.padding[3], op.padding[0], op.padding[1]))
        if isinstance(op, Shortcut):
            kept = first[:, :, :: op.stride, :: op.stride]
            return functional.pad(kept, (0, 0, 0, 0, op.before, op.after))
        if isinstance(op, Clamp):
            return first.clamp(*op.range)
        assert isinstance(op, Flatten), op.kind
        return first.flatten(1)

    return lambda images: interpret(network.operations, network.outputs, images, compute)[0]


def least(run: Callable[[], Any], repeats: int) -> float:
    """Seconds of the processor, the least of so many runs after one to warm up."""
    run()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def row(path: Path, count: int, repeats: int) -> str:
    """A line of the table, for so many images in a batch."""
    network = read_network(path)
    assert network.image_shape is not None
    shape = (count, *network.image_shape)
    images = np.random.default_rng(0).integers(-128, 128, shape).astype(np.int8)
    fast, floats = FastNetwork(network), float_network(network)
    given = torch.from_numpy(images).float() / 128
    assert np.array_equal(fast.run(images), network.run(images)), "the fast backend must be exact"
    times = (
        least(lambda: floats(given), repeats),
        least(lambda: fast.run(images), repeats),
        least(lambda: network.run(images), 1),
    )
    cells = " | ".join(f"{1e3 * seconds / count:.2f}" for seconds in times)
    return f"| {path.stem} | {cells} | {times[1] / times[0]:.2f} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("containers", nargs="*", type=Path, metavar="CONTAINER")
    parser.add_argument("--images", type=int, default=16, help="in a batch (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| network | float, ms an image | integers, fast | integers, reference | fast / float |")
    print("|---|--:|--:|--:|--:|")
    with threadpool_limits(1), torch.inference_mode():
        for path in options.containers or sorted((ROOT / "experiments" / "containers").glob("*.msvq")):
            print(row(path, options.images, options.repeats), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
