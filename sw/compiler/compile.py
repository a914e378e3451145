"""The compiler: a network of compressed layers, or layers by themselves, as a program for one instance."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hw.config import AcceleratorConfig
from hw.control.descriptor import BYTES, Descriptor, Opcode
from sw.compiler.emission import Dram, Emitter, Mapped
from sw.compiler.graph import PRODUCT, CompileError, Convolution, Graph, Value, convolution, trimmed
from sw.compiler.lowering import lower
from sw.compiler.placement import Place, place
from sw.compiler.tiling import Geometry, Plan, choose_plan, tiles
from sw.compiler.vectors import check_functions, pixel_words
from sw.compiler.weights import Weights, is_coded
from sw.format.layer import CompressedLayer, Requantisation
from sw.golden import check_psum_width
from sw.network import FULL_RANGE, Network
from sw.program import OPERAND_TILE, Fold, Input, Operand, Program, ProgramError, ProgramLayer, Tensor

__all__ = [
    "Product",
    "check_instance",
    "check_sums",
    "compile_layer",
    "compile_layers",
    "compile_network",
    "compile_products",
]

Progress = Callable[[str, int, int], None]


def compile_network(
    network: Network,
    image_shape: tuple[int, int, int],
    config: AcceleratorConfig,
    *,
    dump: bool = False,
    records: bool = True,
    base: int = 0,
    progress: Progress | None = None,
) -> Program:
    """A network as a program.

    Parameters
    ----------
    network
        As :func:`sw.network.read_network` gives it.
    image_shape
        ``[C, rows, columns]`` of the image.
    config
        The instance.
    dump
        Store every layer's result to DRAM, for comparison.
    records
        Write the performance counters to DRAM after every layer.
    base
        DRAM address of the program, a multiple of 64.
    progress
        Called with the name of each layer before it is compiled, its number and the number of layers.

    Raises
    ------
    sw.network.NetworkError
        The operations contradict each other, the layers or the image.
    CompileError
        An operation or its weights cannot run on the instance, or L1 or L2 is too small.
    sw.golden.PsumOverflowError
        A layer's partial sums may overflow ``config.psum_width``.
    sw.program.ProgramError
        The program does not fit the address space.
    """
    graph = lower(network, image_shape)
    scales = {number: network.input_scale for number in graph.inputs}
    names = {}
    if not network.default_outputs:
        for number, output in zip(graph.outputs, network.outputs, strict=True):
            names[number] = output.name
            if output.scale is not None:
                scales[number] = output.scale
    return _Compiler(config, graph, dump, records, base, scales, progress, names).run()


def compile_layers(
    layers: Sequence[tuple[CompressedLayer, tuple[int, int, int]]],
    config: AcceleratorConfig,
    *,
    wide: bool = False,
    limits: tuple[int, int] = FULL_RANGE,
    records: bool = True,
    base: int = 0,
    progress: Progress | None = None,
) -> Program:
    """Layers that do not feed one another, each with an input and an output in DRAM, as one program.

    Parameters
    ----------
    layers
        Each with the shape ``[C, rows, columns]`` of its input. A linear layer takes every pixel by itself: for tokens,
        ``[C, 1, tokens]``. A layer without requantisation gives its int32 sums.
    wide
        All give int32: sums and bias.
    limits
        Range of their int8 results.
    config, records, base, progress
        As for :func:`compile_network`.

    Returns
    -------
    Program
        Inputs and outputs are in the order of the layers; an output has its layer's name.

    Raises
    ------
    CompileError, sw.golden.PsumOverflowError, sw.program.ProgramError
        As :func:`compile_network`.
    """
    return _compile_layers(layers, config, records, base, progress, "logits" if wide else "layer", limits)


def _compile_layers(
    layers: Sequence[tuple[CompressedLayer, tuple[int, int, int]]],
    config: AcceleratorConfig,
    records: bool,
    base: int,
    progress: Progress | None = None,
    operation: str = "layer",
    limits: tuple[int, int] = FULL_RANGE,
) -> Program:
    if not layers:
        raise CompileError("there must be at least one layer")
    graph = Graph()
    for layer, shape in layers:
        source = graph.add(Value(f"input of {layer.name}", *shape))
        graph.inputs.append(source)
        wide = layer.requantisation is None or operation == "logits"
        graph.operations.append(
            convolution(graph, layer, source, name=layer.name, operation=operation, wide=wide, limits=limits)
        )
        graph.outputs.append(graph.operations[-1].target)
    return _Compiler(config, graph, False, records, base, {}, progress).run()


def compile_layer(
    layer: CompressedLayer,
    image_shape: tuple[int, int, int],
    config: AcceleratorConfig,
    *,
    records: bool = True,
    base: int = 0,
) -> Program:
    """One layer as a program: :func:`compile_layers` of this one."""
    return compile_layers([(layer, image_shape)], config, records=records, base=base)


@dataclass(frozen=True)
class Product:
    """A product of two matrices of activations: ``y[k, t] = sum over c of b[k, c] * a[c, t]``."""

    #: For the layer table; unique.
    name: str
    #: Its sizes.
    K: int
    C: int
    T: int
    #: Of its K rows; None for int32 sums.
    requantisation: Requantisation | None = None


def compile_products(
    products: Sequence[Product], config: AcceleratorConfig, *, records: bool = True, base: int = 0
) -> Program:
    """Matrix products, such as those of the heads of an attention, as one program.

    ``b`` takes the place of weights: raw ones, which the host packs into the image before each run
    (:meth:`sw.program.Program.with_operands`). ``a`` is an input, ``[C, 1, T]``. Partial sums are proved not
    to overflow for all int8 values of both.

    Parameters
    ----------
    products
        They do not feed one another.
    config, records, base
        As for :func:`compile_network`.

    Returns
    -------
    Program
        Inputs, operands and outputs are in the order of the products; an output has its product's name.

    Raises
    ------
    CompileError, sw.golden.PsumOverflowError, sw.program.ProgramError
        As :func:`compile_network`.
    """
    layers = []
    for product in products:
        # With all weights at the end of their range the sums go furthest; and no row counts as sparse.
        worst = np.full((product.K, product.C, 1, 1), -127 if config.features.sign else -128, np.int8)
        layer = CompressedLayer(
            product.name, "linear", worst.shape, "int8", np.ones(1, np.float32), weights=worst,
            requantisation=product.requantisation,
        )  # fmt: skip
        layers.append((layer, (product.C, 1, product.T)))
    return _compile_layers(layers, config, records, base, operation=PRODUCT)


def check_instance(config: AcceleratorConfig, graph: Graph) -> None:
    """Check what an instance must have for a network, whatever its weights, the tiling and the places of its tensors.

    Raises
    ------
    CompileError
        The message names the field that decides, and the operation if it is one's.
    """
    if config.word_width & (config.word_width - 1):
        raise CompileError(f"word_width must be a power of two, as AXI has it, not {config.word_width}")
    check_functions(config, graph)


def check_sums(psum_width: int, graph: Graph) -> None:
    """Prove of the weights of a network's layers that no partial sum of so many bits overflows.

    Raises
    ------
    sw.golden.PsumOverflowError
        One does.
    """
    ranges = graph.ranges()
    for operation in graph.operations:
        if isinstance(operation, Convolution) and operation.layer is not None:
            check_psum_width(operation.layer, psum_width, ranges[operation.source])


def fold_inputs(config: AcceleratorConfig, graph: Graph) -> dict[int, Fold]:
    """Rearrange a graph's inputs where the first convolution gains from it. Returns the fold of each such input."""
    return _Compiler(config, graph, False, False, 0, {}, None)._folds()


@dataclass
class _Compiler:
    config: AcceleratorConfig
    graph: Graph
    dump: bool
    records: bool
    base: int
    scales: dict[int, float]
    progress: Progress | None
    # Names of outputs that are not called as their values are.
    names: Mapping[int, str] = field(default_factory=dict)

    def run(self) -> Program:
        config, graph = self.config, self.graph
        check_instance(config, graph)
        check_sums(config.psum_width, graph)
        if self.base % BYTES or not 0 <= self.base < 1 << config.address_bits:
            raise CompileError(
                f"base must be a multiple of {BYTES} in 0..2**{config.address_bits} - {BYTES}, not {self.base}"
            )
        convolutions = [number for number, x in enumerate(graph.operations) if isinstance(x, Convolution)]
        folds = self._folds()
        chosen: dict[int, tuple[Weights, Geometry, Plan]] = {}
        for count, number in enumerate(convolutions):
            if self.progress:
                self.progress(graph.operations[number].name, count, len(convolutions))
            chosen[number] = self._choose(number)
        stored = range(len(graph.values)) if self.dump else graph.outputs
        made = {operation.target: number for number, operation in enumerate(graph.operations)}
        stored = [number for number in stored if number in made]
        places = place(config, graph, {number: made[number] for number in stored})

        dram = Dram(self.base, config.word_width // 8)
        mapped = self._pack(chosen, dram)
        return self._assemble(dram, places, mapped, folds, stored)

    def _choose(self, number: int) -> tuple[Weights, Geometry, Plan]:
        operation = self.graph.operations[number]
        assert isinstance(operation, Convolution)
        coded = is_coded(self.config, operation)
        if not coded:
            operation = trimmed(operation)
        weights = Weights(self.config, operation, coded)
        geometry = Geometry.of(operation, self.graph.values[operation.source], self.graph.values[operation.target])
        return weights, geometry, choose_plan(weights, geometry)

    def _folds(self) -> dict[int, Fold]:
        """Rearrange inputs where the first convolution gains from it. Returns the fold of each such input."""
        found = {}
        for source in self.graph.inputs:
            readers = self.graph.readers(source)
            operation = self.graph.operations[readers[0]] if len(readers) == 1 else None
            if not isinstance(operation, Convolution) or operation.first is not None:
                continue
            # Folding takes raw weights; compressed ones stay compressed in DRAM.
            if is_coded(self.config, operation):
                continue
            if operation.dilation == (1, 1) and operation.shape[2:] != (1, 1):
                fold = self._best_fold(readers[0], operation)
                if fold is not None:
                    found[source] = fold
        return found

    def _best_fold(self, number: int, plain: Convolution) -> Fold | None:
        """The fold with which the input is loaded and convolved in the fewest cycles; it takes its place in the graph.

        The convolution begins while the input is still coming, so the slower of the two counts.
        """
        config, graph = self.config, self.graph
        value = graph.values[plain.source]
        best: tuple[tuple[bool, float, int], Fold | None, Value, Convolution] | None = None
        for fold_rows in range(plain.shape[2] + 1):
            fold, operation, folded = None, plain, value
            if fold_rows:
                try:
                    fold = Fold(
                        *(value.channels, value.rows, value.columns), plain.shape[2:], plain.stride, plain.padding,
                        fold_rows,
                    )  # fmt: skip
                except ProgramError:
                    continue
                target = graph.values[plain.target]
                if fold.output != (target.rows, target.columns):  # its padding is the same on both sides
                    continue
                folded = Value(value.name, *fold.shape)
                operation = dataclasses.replace(
                    plain,
                    shape=(plain.shape[0], fold.shape[0], *fold.layer_kernel),
                    stride=fold.layer_stride,
                    padding=(0, 0),
                    dilation=fold.layer_dilation,
                    weights=fold.weights(plain.weights),
                    layer=None,
                )
            graph.values[plain.source], graph.operations[number] = folded, operation
            sizes = pixel_words(config, graph)
            words = folded.rows * folded.columns * sizes[plain.source]
            target = graph.values[plain.target]
            room = config.l2_depth - target.rows * target.columns * sizes[plain.target]
            following = {graph.operations[reader].target for reader in graph.readers(plain.target)}
            beside = room - sum(
                graph.values[x].rows * graph.values[x].columns * sizes[x] for x in following - {plain.target}
            )
            if fold is not None and (words > room or max(folded.rows, folded.columns, folded.channels) > 65535):
                continue
            try:
                cycles = self._choose(number)[2].cycles
            except CompileError:
                if fold is not None:
                    continue
                cycles = float("inf")
            loading = words * config.l2_word / (config.word_width / 8) if words <= room else float("inf")
            # What follows runs beside the convolution, if there is room for its result too.
            cost = (words > beside, max(cycles, loading), words)
            if best is None or cost < best[0]:
                best = (cost, fold, folded, operation)
        assert best is not None
        graph.values[plain.source], graph.operations[number] = best[2], best[3]
        return best[1]

    def _pack(self, chosen: dict[int, tuple[Weights, Geometry, Plan]], dram: Dram) -> dict[int, Mapped]:
        """Streams and parameters of all layers, in the image."""
        mapped: dict[int, Mapped] = {}
        codebook = b""
        for number, (weights, geometry, plan) in chosen.items():
            found = tiles(weights, plan)
            streams = weights.streams(tile for group in found for tile in group)
            if weights.convolution.operation == PRODUCT:
                streams.channels["weight"] = bytes(len(streams.channels["weight"]))
            addresses = {}
            for name, data in streams.channels.items():
                before = streams.codebook if name == "weight" else b""
                addresses[name] = dram.put(before + data) + len(before)
            parameters = []
            for group in found:
                data = self._parameters(weights.convolution, group[0].i, group[0].A)
                parameters.append((dram.put(data), data))
            load = bool(streams.codebook) and streams.codebook != codebook
            codebook = streams.codebook or codebook
            mapped[number] = Mapped(
                number, weights.convolution, weights, plan, geometry, found, streams, load, addresses, parameters
            )
        return mapped

    def _parameters(self, operation: Convolution, i: int, A: int) -> bytes:
        """Requantisation parameters of A groups of L output channels: bias, multiplier and shift, 12 bytes each."""
        L = self.config.L
        given = operation.requantisation
        table: NDArray[np.int32] = np.zeros((A * L, 3), "<i4")
        parts = np.stack([given.bias, given.multiplier, given.shift.astype(np.int32)], axis=1)[i * L : (i + A) * L]
        table[: len(parts)] = parts
        data = table.tobytes()
        return data + bytes(-len(data) % (self.config.word_width // 8))

    def _assemble(
        self, dram: Dram, places: list[Place], mapped: dict[int, Mapped], folds: dict[int, Fold], stored: list[int]
    ) -> Program:
        config, graph = self.config, self.graph
        tensors: dict[int, Tensor] = {}
        end = 0
        for number in (*graph.inputs, *stored):
            end += -end % dram.alignment
            value, given = graph.values[number], places[number]
            tensors[number] = Tensor(
                value.name, end, value.channels, value.rows, value.columns, config.l2_word, given.pixel_words,
                "int32" if value.wide else "int8", self.scales.get(number),
            )  # fmt: skip
            end += tensors[number].size
        end += -end % dram.alignment
        records = {}
        if self.records:
            records = {number: end + number * BYTES for number in range(len(graph.operations))}
            end += len(records) * BYTES
        inputs, stores = ({number: tensors[number] for number in part} for part in (graph.inputs, stored))
        for number, values in graph.constants.items():
            value = graph.values[number]
            inputs[number] = Tensor(
                value.name, dram.put(values.tobytes()), value.channels, 1, 1, config.l2_word, places[number].pixel_words
            )
        emitter = Emitter(config, graph, places, mapped, inputs, stores, records)
        descriptors = emitter.run()

        # Only now it is known how many descriptors there are, and so where the tensors begin: behind the image.
        first = dram.put(bytes(len(descriptors) * BYTES))
        dram.put(b"")
        behind = dram.base + len(dram.image)
        tensors = {number: dataclasses.replace(x, address=x.address + behind) for number, x in tensors.items()}
        dram.image[first - dram.base : first - dram.base + len(descriptors) * BYTES] = b"".join(
            (descriptor if number in emitter.fixed else _moved(descriptor, behind)).pack()
            for number, descriptor in enumerate(descriptors)
        )
        layers = [
            ProgramLayer(
                operation.name,
                operation.operation,
                operation.macs,
                records[number] + behind if self.records else None,
                tensors[operation.target] if self.dump else None,
                _note(mapped[number]) if number in mapped else "",
            )
            for number, operation in enumerate(graph.operations)
        ]
        return Program(
            config=config,
            base=self.base,
            image=bytes(dram.image),
            descriptors=first,
            descriptor_count=len(descriptors),
            dram_bytes=len(dram.image) + end,
            inputs=tuple(Input(tensors[number], folds.get(number)) for number in graph.inputs),
            outputs=tuple(
                dataclasses.replace(tensors[number], name=self.names.get(number, tensors[number].name))
                for number in graph.outputs
            ),
            layers=tuple(layers),
            operands=tuple(_operand(entry) for entry in mapped.values() if entry.convolution.operation == PRODUCT),
        )


def _operand(entry: Mapped) -> Operand:
    convolution = entry.convolution
    return Operand(
        convolution.name,
        convolution.shape[:2],
        entry.addresses["weight"],
        len(entry.streams.channels["weight"]),
        tuple(tuple(int(getattr(tile, name)) for name in OPERAND_TILE) for group in entry.tiles for tile in group),
    )


def _moved(descriptor: Descriptor, distance: int) -> Descriptor:
    """A descriptor whose tensor or record lies so many bytes further back."""
    if descriptor.opcode not in (Opcode.LOAD, Opcode.STORE, Opcode.RECORD):
        return descriptor
    body = {**descriptor.body, "address": descriptor.body["address"] + distance}
    return dataclasses.replace(descriptor, body=body)


def _note(entry: Mapped) -> str:
    plan, weights = entry.plan, entry.weights
    kind = "coded" if weights.coded else "raw"
    kind += f" in {weights.digits} digits" if weights.digits > 1 else ""
    kind += f" in {weights.passes} passes" if weights.passes > 1 else ""
    streaming = ", channels in turn" if plan.streaming and not weights.banded else ""
    return (
        f"{kind}, A={plan.A} B={plan.B} D={plan.Dr}x{plan.Ds}, {len(entry.strips)} strips of "
        f"{plan.height}x{plan.width}{streaming}"
    )
