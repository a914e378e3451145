"""A network on an instance as the estimate takes it: its loop nest in numbers, and what does not depend on time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby, product

import numpy as np

from hw.config import AcceleratorConfig
from hw.control.counters import COUNTERS
from hw.control.descriptor import BYTES
from sw.compiler.compile import check_sums, fold_inputs
from sw.compiler.emission import LOADS
from sw.compiler.graph import Convolution, Graph, Vector, trimmed
from sw.compiler.tiling import Geometry, Plan, Strip, Work, choose_plan, strips
from sw.compiler.vectors import check_functions, pixel_words, vector_commands, vector_parts, vector_reach
from sw.compiler.weights import Weights, is_coded
from sw.golden import PsumOverflowError
from sw.perf.timing import PARAMETER_BITS
from sw.perf.vector_times import vector_cost

__all__ = [
    "MappedLayer",
    "MappedNetwork",
    "Network",
    "StripInput",
    "Tiles",
    "VectorPart",
    "add_counts",
    "dram_words",
    "least_bytes",
    "loads",
]

#: Instances for which a network keeps its layers.
_KEPT = 64


@dataclass(frozen=True)
class Tiles:
    """Equal layer tiles of a set of output groups, one after the other, on strips of one size."""

    #: How many.
    count: int
    #: Output groups, and entries of the WRF, of one.
    A: int
    entries: int
    #: Array operations, and activation vectors that it reads.
    operations: int
    vectors: int
    #: Vectors of sums, and operations from the first to the last one of a vector.
    sums: int
    rest: int
    #: Row writes.
    rows: int
    #: Its sums go to the storer.
    last: bool
    #: The first row group of the COPY that they read, and how many that has.
    g: int
    groups: int


#: Sets of output groups: how many equal ones follow each other, and the tiles of one.
Sets = list[tuple[int, list[Tiles]]]


def _sets(work: Work, plan: Plan, geometry: Geometry, height: int, width: int) -> Sets:
    """The sets of a strip of ``height`` x ``width`` output positions."""
    H, (_, C, R, S) = work.config.H, work.shape
    D = plan.Dr * plan.Ds
    kernel = (R // plan.Dr) * (S // plan.Ds) * -(-work.passes // plan.passes)
    advance = min(geometry.stride[1], plan.Ds) if geometry.slides else plan.Ds
    vectors = height * (plan.Ds + (width - 1) * advance) * plan.Dr

    def tiles(A: int, first: int, stop: int, digit: int, g: int) -> list[Tiles]:
        B = min(plan.B, stop - g)
        rows = H if plan.passes > 1 else min(H, C - (g + B - 1) * H)
        B *= plan.passes
        chunk = first + (g - first) // plan.chunk * plan.chunk
        sums = height * width * A
        one = Tiles(
            count=kernel,
            A=A,
            entries=A * B * D,
            operations=sums * B * D,
            vectors=vectors * B,
            sums=sums,
            rest=A * (B * D - 1),
            rows=A * D * ((B - 1) * H + rows),
            last=False,
            g=chunk,
            groups=min(plan.chunk, stop - chunk),
        )
        if g + plan.B < stop or digit + 1 < work.digits:
            return [one]
        last = replace(one, count=1, last=True)
        return [replace(one, count=kernel - 1), last] if kernel > 1 else [last]

    def part(i: int) -> list[Tiles]:
        first, stop = work.groups[i]
        A = min(plan.A, len(work.groups) - i)
        parts = product(range(work.digits), range(first, stop, plan.B))
        return [found for digit, g in parts for found in tiles(A, first, stop, digit, g)]

    if work.banded:
        # Where a set's row groups begin makes no difference, but for the words of its COPYs.
        starts = [part(i) for i in range(0, len(work.groups), plan.A)]
        runs = [list(same) for _, same in groupby(starts, lambda runs: [replace(run, g=0) for run in runs])]
        return [(len(same), same[0]) for same in runs]
    full = len(work.groups) // plan.A
    found = [(full, part(0))] if full else []
    return [*found, (1, part(full * plan.A))] if len(work.groups) % plan.A else found


@dataclass(frozen=True)
class StripInput:
    """The input of a strip: pixels of its region, those inside the tensor, and what a COPY takes to find the first.

    ``bottom`` is the row of the tensor behind the last one that is read; ``end`` the output row behind those that are
    complete after the strip, 0 if no more are than before.
    """

    height: int
    width: int
    pixels: int
    inside: int
    seek: int
    bottom: int
    end: int

    @classmethod
    def of(cls, strip: Strip, geometry: Geometry) -> StripInput:
        height, width = geometry.region(0, strip.height), geometry.region(1, strip.width)
        first_row = strip.e * geometry.stride[0] - geometry.padding[0]
        first_column = strip.f * geometry.stride[1] - geometry.padding[1]
        rows = max(0, min(first_row + height, geometry.rows) - max(first_row, 0))
        columns = max(0, min(first_column + width, geometry.columns) - max(first_column, 0))
        bottom = min(geometry.rows, first_row + height)
        return cls(
            height=strip.height,
            width=strip.width,
            pixels=height * width,
            inside=rows * columns,
            seek=2 + max(max(first_row, 0).bit_length(), max(first_column, 0).bit_length()),
            bottom=(bottom - 1) * geometry.row_step + 1 if bottom > 0 else 0,
            end=strip.e + strip.height if strip.f + strip.width == geometry.output[1] else 0,
        )


@dataclass(frozen=True)
class MappedLayer:
    """A convolution on an instance.

    Attributes
    ----------
    codewords
        That its first tile loads.
    channel_words, per_vector
        L2 words of an input pixel that exist, and of a vector in L1.
    sets
        Of each size of strip.
    """

    operation: Convolution
    work: Work
    plan: Plan
    codewords: int
    channel_words: int
    per_vector: int
    strips: list[StripInput]
    sets: dict[tuple[int, int], Sets]

    def copy(self, strip: StripInput, tiles: Tiles) -> tuple[int, int]:
        """L2 words that the COPY of these tiles reads, and its cycles."""
        per_vector = self.per_vector
        words = min(self.channel_words - tiles.g * per_vector, tiles.groups * per_vector)
        # A vector of which no word is there takes a cycle, too.
        more = words - -(-words // per_vector)
        return strip.inside * words, strip.pixels * tiles.groups + strip.inside * more

    def copied(self, strip: StripInput) -> list[tuple[int, Tiles]]:
        """The COPYs of a strip: how often, and the first tiles that read it."""
        sets = self.sets[strip.height, strip.width]
        if not self.plan.streaming:
            sets = [(1, list({run.g: run for run in sets[0][1]}.values()))]
        # In turn, a chunk comes again once another one has come.
        return [(times, next(same)) for times, runs in sets for _, same in groupby(runs, lambda run: run.g)]


@dataclass(frozen=True)
class VectorPart:
    """A part of a vector operation.

    It makes the rows before ``end``, from those before ``bottom`` of each source, by so many commands. ``setup`` and
    ``cycles`` come before and while it reads and writes so many L2 words.
    """

    number: int
    end: int
    bottom: dict[int, int]
    commands: int
    setup: int
    cycles: int
    reads: int
    writes: int


@dataclass(frozen=True)
class MappedNetwork:
    """A network on an instance."""

    config: AcceleratorConfig
    #: With its inputs folded.
    graph: Graph
    #: L2 words of a row of each value.
    row_words: list[int]
    #: The first operation that reads each value.
    first: list[int]
    #: Of each convolution, and of each vector operation, by its number.
    layers: dict[int, MappedLayer]
    parts: dict[int, list[VectorPart]]
    #: Of each operation: those that do not depend on time, without its LOADs.
    counters: list[dict[str, int]]


def dram_words(config: AcceleratorConfig, bits: int) -> int:
    return -(-bits // config.word_width)


def least_bytes(mapped: MappedNetwork) -> int:
    """Bytes of DRAM that a program takes at least: streams, parameters, descriptors, inputs and outputs.

    Codebooks, constants, and what aligns the parts are not counted.
    """
    config, graph = mapped.config, mapped.graph
    words = 0
    for number, layer in mapped.layers.items():
        rows = mapped.counters[number]["row_writes"] // len(layer.strips)
        words += sum(dram_words(config, rows * bits) for _, bits in layer.work.bits)
        words += dram_words(config, layer.operation.shape[0] * PARAMETER_BITS)
    ends = sum(graph.values[number].rows * mapped.row_words[number] for number in [*graph.inputs, *graph.outputs])
    descriptors = sum(counted["descriptors"] for counted in mapped.counters)
    return words * config.word_width // 8 + ends * config.l2_word + descriptors * BYTES


def loads(mapped: MappedNetwork, value: int) -> list[tuple[int, int]]:
    """Each LOAD of an input: the row behind the last one that is complete after it, and L2 words."""
    config = mapped.config
    words = mapped.graph.values[value].rows * mapped.row_words[value]
    if value in mapped.graph.constants:
        return [(1, words)]
    unit = max(1, config.word_width // 8 // config.l2_word)
    size = -(-words // LOADS)
    size = -(-size // unit) * unit
    return [
        (min(start + size, words) // mapped.row_words[value], min(size, words - start))
        for start in range(0, words, size)
    ]


def _parts(config: AcceleratorConfig, graph: Graph, pixels: Sequence[int], number: int) -> list[VectorPart]:
    """The parts of a vector operation."""
    operation = graph.operations[number]
    assert isinstance(operation, Vector)
    nowhere = [0] * len(graph.values)
    found = []
    for start, end in vector_parts(graph, operation):
        commands = vector_commands(config, graph, operation, (start, end), nowhere, pixels)
        costs = [vector_cost(config, body) for body in commands]
        found.append(
            VectorPart(
                number=number,
                end=end,
                bottom={other: vector_reach(graph, operation, other, end) for other in operation.sources},
                commands=len(commands),
                setup=costs[0].setup,
                cycles=sum(cost.cycles for cost in costs) + sum(cost.setup for cost in costs[1:]),
                reads=sum(cost.reads for cost in costs),
                writes=sum(cost.writes for cost in costs),
            )
        )
    return found


def add_counts(counters: dict[str, int], **amounts: int) -> None:
    for name, amount in amounts.items():
        counters[name] += amount


def _count_layer(counters: dict[str, int], layer: MappedLayer, pixels: int) -> None:
    """Operations and accesses of a convolution with so many output positions."""
    config, work = layer.work.config, layer.work
    row_writes = 0
    for (height, width), same in groupby(sorted((strip.height, strip.width) for strip in layer.strips)):
        count = len(list(same))
        for times, runs in layer.sets[height, width]:
            for tiles in runs:
                number = count * times * tiles.count
                row_writes += number * tiles.rows
                add_counts(
                    counters,
                    operations=number * tiles.operations,
                    row_writes=number * tiles.rows,
                    l1_reads=number * tiles.vectors,
                    psum_reads=number * tiles.sums,
                    psum_writes=0 if tiles.last else number * tiles.sums,
                    descriptors=number,
                )
            # The first tile of a set begins anew.
            counters["psum_reads"] -= count * times * runs[0].sums
    number = len(layer.strips)
    groups = [tiles.A for times, (tiles, *_) in layer.sets[height, width] for _ in range(times)]
    # Those of the only set stay for all strips.
    parameters = number if len(groups) > 1 else 1
    dram = number * sum(dram_words(config, row_writes // number * bits) for _, bits in work.bits)
    dram += dram_words(config, layer.codewords * work.codeword_width)
    dram += parameters * sum(dram_words(config, A * config.L * PARAMETER_BITS) for A in groups)
    add_counts(
        counters,
        dram_reads=dram,
        descriptors=(len(work.bits) + len(groups)) * number + parameters * len(groups),
        l2_writes=pixels * sum(groups) * config.L // config.l2_word * (4 if layer.operation.wide else 1),
    )
    for strip in layer.strips:
        for times, tiles in layer.copied(strip):
            words, _ = layer.copy(strip, tiles)
            add_counts(
                counters, l2_reads=times * words, l1_writes=times * strip.pixels * tiles.groups, descriptors=times
            )


class Network:
    """The shapes of a network. What depends on its weights, such as which rows are pruned, is looked at here.

    Parameters
    ----------
    graph
        Its operations, for example of :func:`sw.compiler.lowering.lower`.
    shapes_alone
        The weights in it are none of a network's: nothing is proved of them.
    """

    def __init__(self, graph: Graph, *, shapes_alone: bool = False) -> None:
        self.graph = graph
        self.shapes_alone = shapes_alone
        self._trimmed: dict[int, Convolution] = {}
        self._mapped: dict[AcceleratorConfig, MappedNetwork] = {}
        self._overflows: dict[int, str | None] = {}

    def mapped(self, config: AcceleratorConfig) -> MappedNetwork:
        """The network as the compiler cuts it for an instance.

        Raises
        ------
        sw.compiler.graph.CompileError
            A layer does not fit the instance.
        """
        if config not in self._mapped:
            if len(self._mapped) >= _KEPT:
                del self._mapped[next(iter(self._mapped))]
            self._mapped[config] = self._map(config)
        return self._mapped[config]

    def overflow(self, psum_width: int) -> str | None:
        """Which partial sums of so many bits would overflow, if any. Proved once: it is the weights that decide."""
        if self.shapes_alone:
            return None
        if psum_width not in self._overflows:
            try:
                check_sums(psum_width, self.graph)
                self._overflows[psum_width] = None
            except PsumOverflowError as error:
                self._overflows[psum_width] = str(error)
        return self._overflows[psum_width]

    def _map(self, config: AcceleratorConfig) -> MappedNetwork:
        graph = replace(self.graph, values=list(self.graph.values), operations=list(self.graph.operations))
        fold_inputs(config, graph)
        check_functions(config, graph)
        pixels = pixel_words(config, graph)
        row_words = [value.columns * words for value, words in zip(graph.values, pixels, strict=True)]
        first = [min(graph.readers(number), default=-1) for number in range(len(graph.values))]
        counters = [dict.fromkeys(COUNTERS, 0) for _ in graph.operations]
        mapped = MappedNetwork(config, graph, row_words, first, {}, {}, counters)
        codebook = None
        for number, operation in enumerate(graph.operations):
            if isinstance(operation, Vector):
                parts = mapped.parts[number] = _parts(config, graph, pixels, number)
                for part in parts:
                    counts = {"l2_reads": part.reads, "l2_writes": part.writes, "descriptors": part.commands}
                    add_counts(counters[number], **counts)
                continue
            layer = self._layer(config, graph, number, operation)
            own = operation.layer.codebook if layer.work.coded and operation.layer is not None else None
            if own is not None:
                if codebook is not None and np.array_equal(codebook, own):
                    layer = replace(layer, codewords=0)
                codebook = own
            mapped.layers[number] = layer
            value = graph.values[operation.target]
            _count_layer(counters[number], layer, value.rows * value.columns)
        word_bytes = config.word_width // 8
        for counted, operation in zip(counters, graph.operations, strict=True):
            if operation.target in graph.outputs:
                words = graph.values[operation.target].rows * row_words[operation.target]
                add_counts(counted, dram_writes=-(-words * config.l2_word // word_bytes), l2_reads=words, descriptors=1)
            add_counts(counted, dram_writes=max(1, BYTES // word_bytes), descriptors=1)
            counted["dram_reads"] += counted["descriptors"] * max(1, BYTES // word_bytes)
        return mapped

    def _layer(self, config: AcceleratorConfig, graph: Graph, number: int, operation: Convolution) -> MappedLayer:
        coded = is_coded(config, operation)
        if not coded:
            # With a folded input it is another one than the network's.
            if operation is not self.graph.operations[number]:
                operation = trimmed(operation)
            else:
                operation = self._trimmed[number] = self._trimmed.get(number) or trimmed(operation)
        source = graph.values[operation.source]
        geometry = Geometry.of(operation, source, graph.values[operation.target])
        weights = Weights(config, operation, coded)
        work, plan = Work.of(weights), choose_plan(weights, geometry)
        found_strips = [StripInput.of(strip, geometry) for strip in strips(geometry, plan)]
        sizes = {(strip.height, strip.width) for strip in found_strips}
        return MappedLayer(
            operation=operation,
            work=work,
            plan=plan,
            codewords=work.codewords,
            channel_words=-(-source.channels // config.l2_word),
            per_vector=config.H // config.l2_word,
            strips=found_strips,
            sets={size: _sets(work, plan, geometry, *size) for size in sizes},
        )
