"""A net under everything that writes a network: the file's integers against the graph that was trained.

The file is read again, and every operation whose result the graph quantises is computed by both from the same integers,
those of the file. So each is compared by itself, and an error does not hide in those behind it. How far the two may be
apart follows from what is rounded: half a step each for the result; for a layer half a step of its bias, an integer of
the sums; and what the multiplier's bits leave off. Where they are farther apart, one is not the other.
"""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, fx, nn

from hw.config import ConfigError, preset
from sw.compress.methods import CompressError
from sw.compress.training.comparison_steps import compare_steps
from sw.compress.training.device import device_results, device_values
from sw.compress.training.differences import PRECISION, Difference, exact_layer, label, layer_bound
from sw.compress.training.integer import IntegerNetwork, export_integers, read_network
from sw.compress.training.layers import DecodedConv2d, DecodedLinear
from sw.compress.training.operations import output_nodes, place
from sw.compress.training.quant import ActivationQuantiser
from sw.network.spatial import Add, Concatenate, Layer, Logits

__all__ = ["Comparison", "Difference", "compare_file", "compare_network"]

# Images that are compared. One goes through the compiled program.
_IMAGES = 8
# Products of a network whose program is run by the golden model: seconds.
_PROGRAM_PRODUCTS = 3_000_000


@dataclass(frozen=True)
class Comparison:
    """What was compared."""

    #: How many.
    images: int
    #: Of each that the graph quantises, in the order of the file, and of the logits.
    operations: list[Difference] = field(default_factory=list)
    #: ``equal``, ``different``, or why the compiled program was not compared.
    program: str = ""
    #: The file was written although they differ.
    forced: bool = False

    @property
    def first(self) -> Difference | None:
        """The first operation that differs by more than rounding explains, or None."""
        return next((each for each in self.operations if not each.explained), None)

    def to_dict(self) -> dict[str, Any]:
        """As plain Python values, for JSON."""
        first = self.first
        return {
            "images": self.images,
            "operations": [dataclasses.asdict(each) for each in self.operations],
            "first_difference": None if first is None else first.operation,
            "program": self.program,
            "forced": self.forced,
        }


class _Forced(fx.Interpreter):
    """Computes each part of a quantised graph in float64 from the integers of a file."""

    def __init__(self, graph: fx.GraphModule, network: IntegerNetwork, values: Mapping[int, Tensor]) -> None:
        super().__init__(graph)
        self.network, self.values = network, values
        self.numbers: dict[str, tuple[int, float]] = graph.meta["numbers"]
        self.found: list[Difference] = []

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "output":
            for _, source in output_nodes(n):
                quantised = source.op == "call_module" and isinstance(
                    self.module.get_submodule(str(source.target)), ActivationQuantiser
                )
                if not quantised:
                    self.compare(source, self.env[source])
            return None
        if n.op != "call_module":
            return super().run_node(n)
        module = self.module.get_submodule(str(n.target))
        given = self.env[cast(fx.Node, n.args[0])]
        if isinstance(module, ActivationQuantiser):
            self.compare(n, given)
            number, _ = self.numbers[n.name]
            return self.values[number].double() * float(module.step())
        if isinstance(module, DecodedConv2d | DecodedLinear):
            return exact_layer(module, given)
        return copy.deepcopy(module).double()(given)

    def compare(self, n: fx.Node, values: Tensor) -> None:
        number, scale = self.numbers[n.name]
        op, integers = self.network.operations[number], self.values[number].double()
        exact = values / scale
        if not isinstance(op, Logits):
            exact = exact.clamp(-128, 127)
        bound = self.bound(number)
        shaped = bound.reshape(1, -1, *[1] * (exact.ndim - 2))
        apart = (integers - exact).abs()
        # The channel that is farthest beyond its bound counts.
        worst = int((apart - shaped).flatten().argmax())
        self.found.append(
            Difference(
                f"{number} ({label(op)})",
                place(n),
                float(apart.flatten()[worst]),
                float(shaped.expand_as(apart).flatten()[worst]),
                float((integers != exact.round()).double().mean()),
            )
        )

    def bound(self, number: int) -> Tensor:
        """The largest difference that rounding explains, for each channel or for all."""
        op = self.network.operations[number]
        if isinstance(op, Concatenate):
            return torch.cat([self.bound(part).expand(self.network.values[part].known[0]) for part in op.inputs])
        if isinstance(op, Layer | Logits):
            return layer_bound(self.network, op)
        if isinstance(op, Add):
            # Each multiplier is rounded, and one that reached its limit cut.
            units = 1.0 if max(op.multipliers) >= (1 << 22) - 1 else 0.5
            return torch.tensor([0.5 + 2 * 128 * units * 2.0**-op.shift + 128 * PRECISION])
        return torch.tensor([0.5 + 128 * PRECISION])


@torch.no_grad()
def compare_network(
    network: IntegerNetwork, graph: fx.GraphModule, images: Tensor, *, program: bool = True
) -> Comparison:
    """Compare a network with the quantised graph that it was made of, operation by operation.

    Parameters
    ----------
    network
        Read from its file.
    graph
        Calibrated, of :func:`sw.compress.training.prepare.prepare`.
    images
        Normalised floats.
    program
        Compile a small network, too, and compare what its program gives for one image.
    """
    images = images[:_IMAGES].cpu()
    graph = copy.deepcopy(graph).cpu().eval()
    again = export_integers(graph, (images.shape[1], images.shape[2], images.shape[3]))
    if len(again.operations) != len(network.operations):
        raise CompressError(
            f"the file must have the {len(again.operations)} operations of the network, not {len(network.operations)}"
        )
    values = dict(enumerate(device_values(network, network.quantise(images))))
    forced = _Forced(graph, network, values)
    forced.run(images.double())
    text = _program(network, images[:1]) if program else "not compared: not asked for"
    return Comparison(len(images), forced.found, text)


def _program(network: IntegerNetwork, image: Tensor) -> str:
    """Whether a compiled program gives the integers of the file, for a network of few products."""
    from sw.compiler.compile import compile_network
    from sw.executor import run_program

    shape = (image.shape[1], image.shape[2], image.shape[3])
    count = sum(
        prod(value.known[1:]) * network.layers[op.layer].integer_weights().size
        for op, value in zip(network.operations, network.values, strict=True)
        if isinstance(op, Layer | Logits)
    )
    if count > _PROGRAM_PRODUCTS:
        return f"not compared: {count} products are above {_PROGRAM_PRODUCTS}"
    coded = next((layer for layer in network.layers.values() if layer.method != "int8"), None)
    try:
        config = preset("ews-16" if coded is None else "ews-cms-16")
        config = dataclasses.replace(config, vector_unit_functions="full")
        program = compile_network(network, shape, config)
    except (ValueError, ConfigError) as error:
        return f"not compared: {error}"
    integers = network.quantise(image)
    found = run_program(program, [integers[0].numpy()]).values()
    expected = device_results(network, integers)
    pairs = [(a.ravel(), b[0].numpy().ravel()) for a, b in zip(found, expected, strict=True)]
    return "equal" if all(np.array_equal(a, b) for a, b in pairs) else "different"


def compare_file(
    path: str | os.PathLike[str], model: nn.Module, images: Tensor, *, force: bool = False, program: bool = True
) -> Comparison:
    """Read a network's file, and compare it with what was trained.

    Parameters
    ----------
    path
        Of the file.
    model
        The quantised graph; of a network in steps, the module.
    images
        Normalised floats ``[batch, C, rows, columns]``, that scales were calibrated on.
    force
        Say what differs, and do not refuse it.
    program
        As in :func:`compare_network`.

    Raises
    ------
    CompressError
        They differ by more than rounding explains: the message names the first operation that does.
    """
    network = read_network(path)
    if isinstance(model, fx.GraphModule):
        found = compare_network(network, model, images, program=program)
    else:
        steps = compare_steps(network, model, images[:_IMAGES], images)
        found = Comparison(len(images[:_IMAGES]), steps, "not compared: a network in steps")
    text = None
    if (first := found.first) is not None:
        text = (
            f"operation {first.operation} of the file is {first.apart:.3g} steps from that of the network"
            f" ({first.where}), and rounding explains {first.bound:.3g}"
        )
    elif found.program == "different":
        text = "the compiled program does not give the integers of the file"
    if text is not None and not force:
        raise CompressError(f"{text}: this is a fault of the compiler; --force writes the file in spite of it")
    return dataclasses.replace(found, forced=text is not None)
