"""Recalibrate the batch norm that is folded into a network's file, and measure the file again.

For files whose batch norm was recalibrated with images as they are, in place of images as training sees them (shifted,
with black edges): the statistics of both give the scale and the offset that each channel should have had. Writes the
new files beside a table of accuracies before and after.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from experiments.common import add_options, data, machine, write_report
from sw.compress.network import progress_bar
from sw.compress.training.integer import IntegerNetwork, _apply, fixed_point, read_network, write_network
from sw.compress.training.loop import TrainConfig, accuracy, images_of, training_images
from sw.format.layer import CompressedLayer, Requantisation


def _sums(layer: CompressedLayer, values: Tensor) -> Tensor:
    """Sums of products, float32: rounded, where they are large."""
    weight = torch.from_numpy(layer.integer_weights()).float()
    if values.ndim == 2:
        return functional.linear(values.float(), weight.flatten(1))
    return functional.conv2d(values.float(), weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)


def _outputs(sums: Tensor, given: Requantisation, bounds: Sequence[int]) -> Tensor:
    bias, factor = (
        torch.from_numpy(part.astype(np.float32)).reshape(-1, *[1] * (sums.ndim - 2))
        for part in (given.bias, given.multiplier / 2.0 ** given.shift.astype(np.float64))
    )
    return ((sums + bias) * factor).round_().clamp_(*bounds).to(torch.int8)


def renormalise(network: IntegerNetwork, plain: Tensor, trained: Tensor) -> IntegerNetwork:
    """The network with batch norm of the statistics of ``trained`` in place of those of ``plain``.

    Parameters
    ----------
    network
        Each layer but the last has a batch norm folded in.
    plain, trained
        int8 images: those of which the batch norm's statistics are now, and those of which they are to be.
    """
    layers = dict(network.layers)
    values: list[tuple[Tensor, Tensor]] = []
    for op in network.operations[:-1]:
        taken = [values[source] for source in op.get("in", ())]
        if op["op"] != "layer":
            first, second = zip(*taken, strict=True) if taken else ((plain,), (trained,))
            values.append((_apply(op, first, layers, None), _apply(op, second, layers, None)))
            continue
        layer = layers[op["layer"]]
        old = layer.requantisation
        assert old is not None
        sums = [_sums(layer, part) for part in taken[0]]
        axes = [0, *range(2, sums[0].ndim)]
        (mean, deviation), (new_mean, new_deviation) = (
            (part.mean(axes).double().numpy(), part.std(axes).double().numpy()) for part in sums
        )
        factor = old.multiplier / 2.0 ** old.shift.astype(np.float64)
        # A channel that is constant keeps what it has.
        wider = np.where((deviation > 0) & (new_deviation > 0), deviation / np.maximum(new_deviation, 1e-30), 1.0)
        multiplier, shift = fixed_point(factor * wider)
        moved = (mean + old.bias) / wider - new_mean
        new = Requantisation(np.rint(moved).clip(-(1 << 29), 1 << 29).astype(np.int32), multiplier, shift)
        layers[layer.name] = dataclasses.replace(layer, requantisation=new)
        bounds = op.get("range", (-128, 127))
        values.append((_outputs(sums[0], old, bounds), _outputs(sums[1], new, bounds)))
    return dataclasses.replace(network, layers=layers)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 2 for bad input, with one line on standard error."""
    parser = argparse.ArgumentParser(prog="python -m experiments.renormalise", description=__doc__)
    parser.add_argument("files", type=Path, nargs="+", help="networks of fine-tuning")
    parser.add_argument("--folder", type=Path, required=True, help="where the new files go, under the same names")
    parser.add_argument("--calibration", type=int, default=2000, help="training images (%(default)s)")
    parser.add_argument("--name", default="renormalised", help="of the report (%(default)s)")
    add_options(parser)
    options = parser.parse_args(arguments)
    try:
        return _run(options)
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    train, test = data(options)
    options.folder.mkdir(parents=True, exist_ok=True)
    plain = torch.cat([images for images, _ in images_of(train, "cpu", limit=options.calibration)])
    trained = torch.cat(list(training_images(train, TrainConfig(1), "cpu", limit=options.calibration)))
    rows: list[dict[str, Any]] = []
    with progress_bar(not options.quiet) as bar:
        for file in bar.track(options.files, description="files"):
            begin = time.perf_counter()
            network = read_network(file)
            with torch.no_grad():
                new = renormalise(network, network.quantise(plain), network.quantise(trained))
            write_network(options.folder / file.name, new)
            percent = [
                accuracy(lambda images, net=net: net.run(net.quantise(images), golden=False), test)  # type: ignore[misc]
                for net in (network, read_network(options.folder / file.name))
            ]
            seconds = time.perf_counter() - begin
            rows.append({"file": file.name, "before": percent[0], "after": percent[1], "seconds": seconds})
            print(f"{file.name}: {percent[0]:.2f} -> {percent[1]:.2f} %, {seconds:.0f} s", flush=True)
    report = {
        "experiment": options.name,
        "note": f"Accuracy of the integers on {len(test)} test images, in per cent.",
        "runs": rows,
        "machine": machine("cpu"),
    }
    table = [[row["file"], f"{row['before']:.2f}", f"{row['after']:.2f}"] for row in rows]
    write_report(options.output / f"{options.name}.json", report, ["file", "before", "after"], table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
