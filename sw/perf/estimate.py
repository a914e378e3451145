"""Cycles, traffic and utilisation of a network from its loop nest alone, in milliseconds.

What :func:`sw.perf.program.predict` does for the descriptors of a compiled program, this does for the shapes of a
network and an instance: without streams, placement or descriptors, for exploration. The order is the compiler's. Each
unit is known by the cycles at which it is free, and a layer tile takes a few maxima of them:

- the weight loader takes a tile once the one before has gone on, and fills the WRF entries that are free; the others
  follow when the running tile gives its own back;
- the array begins when weights and activations are there and the tile before is done, and takes its operations;
- the storer takes the sums of a group's last tile, and until then they hold the PRF;
- COPYs, vector operations, LOADs and STOREs wait for what they read, and for their turn; commands for a full queue hold
  back the sequencer.

Tiles, sets of output groups and strips repeat: as soon as all these cycles repeat with them, the rest follows by
multiplication. Weights come at an even rate, from FIFOs that fill while nothing is taken; single bursts, who is first
on the DRAM bus, and hazards of tensors that share space in L2 are not followed: that is what ``predict`` is for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from hw.config import AcceleratorConfig
from hw.control.counters import COUNTERS
from hw.control.descriptor import BYTES, QUEUE_DEPTHS, Opcode, VectorOp
from sw.compiler.compile import fold_inputs
from sw.compiler.emission import LOADS, VECTORS
from sw.compiler.graph import Convolution, Graph, Vector, trimmed
from sw.compiler.placement import pixel_words
from sw.compiler.tiling import Geometry, Plan, Strip, Work, choose_plan, strips
from sw.compiler.weights import Weights, is_coded
from sw.perf.cycles import loader_latency
from sw.perf.program import PARAMETER_BITS, Latencies, LayerTiming

__all__ = ["Network", "estimate"]

#: Instances for which a network keeps its layers.
_KEPT = 64


# What does not depend on time


@dataclass(frozen=True)
class _Tiles:
    """Equal layer tiles of a set of output groups, one after the other, on strips of one size.

    Attributes
    ----------
    count
        How many.
    A, entries
        Output groups, and entries of the WRF, of one.
    operations, vectors
        Array operations, and activation vectors that it reads.
    sums, rest
        Vectors of sums, and operations from the first to the last one of a vector.
    rows
        Row writes.
    last
        Its sums go to the storer.
    g, groups
        The first row group of the COPY that they read, and how many that has.
    """

    count: int
    A: int
    entries: int
    operations: int
    vectors: int
    sums: int
    rest: int
    rows: int
    last: bool
    g: int
    groups: int


#: Sets of output groups: how many equal ones follow each other, and the tiles of one.
_Sets = list[tuple[int, list[_Tiles]]]


def _sets(work: Work, plan: Plan, geometry: Geometry, height: int, width: int) -> _Sets:
    """The sets of a strip of ``height`` x ``width`` output positions."""
    H, (_, C, R, S) = work.config.H, work.shape
    D = plan.Dr * plan.Ds
    kernel = (R // plan.Dr) * (S // plan.Ds) * -(-work.passes // plan.passes)
    advance = min(geometry.stride[1], plan.Ds) if geometry.slides else plan.Ds
    vectors = height * (plan.Ds + (width - 1) * advance) * plan.Dr

    def tiles(A: int, first: int, stop: int, g: int) -> list[_Tiles]:
        B = min(plan.B, stop - g)
        rows = H if plan.passes > 1 else min(H, C - (g + B - 1) * H)
        B *= plan.passes
        chunk = first + (g - first) // plan.chunk * plan.chunk
        sums = height * width * A
        one = _Tiles(
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
        if g + plan.B < stop:
            return [one]
        last = replace(one, count=1, last=True)
        return [replace(one, count=kernel - 1), last] if kernel > 1 else [last]

    def part(i: int) -> list[_Tiles]:
        first, stop = work.groups[i]
        A = min(plan.A, len(work.groups) - i)
        return [found for g in range(first, stop, plan.B) for found in tiles(A, first, stop, g)]

    if work.banded:
        # Where a set's row groups begin makes no difference, but for the words of its COPYs.
        starts = [part(i) for i in range(0, len(work.groups), plan.A)]
        runs = [list(same) for _, same in groupby(starts, lambda runs: [replace(run, g=0) for run in runs])]
        return [(len(same), same[0]) for same in runs]
    full = len(work.groups) // plan.A
    found = [(full, part(0))] if full else []
    return [*found, (1, part(full * plan.A))] if len(work.groups) % plan.A else found


@dataclass(frozen=True)
class _Strip:
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
    def of(cls, strip: Strip, geometry: Geometry) -> _Strip:
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
class _Layer:
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
    strips: list[_Strip]
    sets: dict[tuple[int, int], _Sets]

    def copy(self, strip: _Strip, tiles: _Tiles) -> tuple[int, int]:
        """L2 words that the COPY of these tiles reads, and its cycles."""
        per_vector = self.per_vector
        words = min(self.channel_words - tiles.g * per_vector, tiles.groups * per_vector)
        # A vector of which no word is there takes a cycle, too.
        more = words - -(-words // per_vector)
        return strip.inside * words, strip.pixels * tiles.groups + strip.inside * more

    def copied(self, strip: _Strip) -> list[tuple[int, _Tiles]]:
        """The COPYs of a strip: how often, and the first tiles that read it."""
        sets = self.sets[strip.height, strip.width]
        if not self.plan.streaming:
            sets = [(1, sets[0][1])]
        return [(times, run) for times, runs in sets for run in {run.g: run for run in runs}.values()]


@dataclass(frozen=True)
class _Part:
    """A part of a vector operation.

    It makes the rows before ``end``, from those of the sources before ``bottom``. ``setup`` and ``cycles`` come before
    and while it reads and writes so many L2 words.
    """

    number: int
    end: int
    bottom: int
    setup: int
    cycles: int
    reads: int
    writes: int


@dataclass(frozen=True)
class _Mapped:
    """A network on an instance.

    Attributes
    ----------
    graph
        With its inputs folded.
    row_words
        L2 words of a row of each value.
    first
        The first operation that reads each value.
    layers, parts
        Of each convolution, and of each vector operation, by its number.
    counters
        Of each operation: those that do not depend on time, without its LOADs.
    """

    config: AcceleratorConfig
    graph: Graph
    row_words: list[int]
    first: list[int]
    layers: dict[int, _Layer]
    parts: dict[int, list[_Part]]
    counters: list[dict[str, int]]


def _words(config: AcceleratorConfig, bits: int) -> int:
    return -(-bits // config.word_width)


def _loads(mapped: _Mapped, value: int) -> list[tuple[int, int]]:
    """Each LOAD of an input: the row behind the last one that is complete after it, and L2 words."""
    config = mapped.config
    words = mapped.graph.values[value].rows * mapped.row_words[value]
    unit = max(1, config.word_width // 8 // config.l2_word)
    size = -(-words // LOADS)
    size = -(-size // unit) * unit
    return [
        (min(start + size, words) // mapped.row_words[value], min(size, words - start))
        for start in range(0, words, size)
    ]


def _inside(start: int, end: int, stride: int, padding: int, kernel: int, extent: int) -> int:
    """Rows (columns) of a tensor under the windows of some output rows, each as often as it is read."""
    first = np.arange(start, end) * stride - padding
    return int(np.maximum(np.minimum(first + kernel, extent) - np.maximum(first, 0), 0).sum())


def _parts(config: AcceleratorConfig, graph: Graph, row_words: Sequence[int], number: int) -> list[_Part]:
    """The parts of a vector operation."""
    operation = graph.operations[number]
    assert isinstance(operation, Vector)
    value, source = graph.values[operation.target], graph.values[operation.sources[0]]
    (down, across), kernel, padding = operation.stride, operation.kernel, operation.padding
    scaling = config.l2_word // config.vector_unit_lanes
    size = -(-value.rows // VECTORS)
    found = []
    for start in range(0, value.rows, size):
        end = min(start + size, value.rows)
        writes = (end - start) * row_words[operation.target]
        if operation.kind == VectorOp.ADD:
            taps, reads = 2, 2 * writes
        else:
            taps = kernel[0] * kernel[1]
            reads = row_words[operation.target] // value.columns
            reads *= _inside(0, value.columns, across, padding[1], kernel[1], source.columns)
            reads *= _inside(start, end, down, padding[0], kernel[0], source.rows)
        factors = (source.columns, down, across, max(0, padding[0] - start * down), padding[1])
        found.append(
            _Part(
                number=number,
                end=end,
                bottom=min(source.rows, (end - 1) * down - padding[0] + kernel[0]),
                setup=2 + sum(1 + max(1, factor.bit_length()) for factor in factors),
                cycles=writes * (scaling if taps == 1 else taps + max(scaling - 2, 0)),
                reads=reads,
                writes=writes,
            )
        )
    return found


def _count(counters: dict[str, int], **amounts: int) -> None:
    for name, amount in amounts.items():
        counters[name] += amount


def _count_layer(counters: dict[str, int], layer: _Layer, pixels: int) -> None:
    """Operations and accesses of a convolution with so many output positions."""
    config, work = layer.work.config, layer.work
    row_writes = 0
    for (height, width), same in groupby(sorted((strip.height, strip.width) for strip in layer.strips)):
        count = len(list(same))
        for times, runs in layer.sets[height, width]:
            for tiles in runs:
                number = count * times * tiles.count
                row_writes += number * tiles.rows
                _count(
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
    dram = number * sum(_words(config, row_writes // number * bits) for _, bits in work.bits)
    dram += _words(config, layer.codewords * work.codeword_bits)
    dram += parameters * sum(_words(config, A * config.L * PARAMETER_BITS) for A in groups)
    _count(
        counters,
        dram_reads=dram,
        descriptors=(len(work.bits) + len(groups)) * number + parameters * len(groups),
        l2_writes=pixels * sum(groups) * config.L // config.l2_word * (4 if layer.operation.wide else 1),
    )
    for strip in layer.strips:
        for times, tiles in layer.copied(strip):
            words, _ = layer.copy(strip, tiles)
            _count(counters, l2_reads=times * words, l1_writes=times * strip.pixels * tiles.groups, descriptors=times)


class Network:
    """The shapes of a network. What depends on its weights, such as which rows are pruned, is looked at here.

    Parameters
    ----------
    graph
        Its operations, for example of :func:`sw.compiler.graph.lower`.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._trimmed: dict[int, Convolution] = {}
        self._mapped: dict[AcceleratorConfig, _Mapped] = {}

    def mapped(self, config: AcceleratorConfig) -> _Mapped:
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

    def _map(self, config: AcceleratorConfig) -> _Mapped:
        graph = replace(self.graph, values=list(self.graph.values), operations=list(self.graph.operations))
        fold_inputs(config, graph)
        row_words = [
            value.columns * words for value, words in zip(graph.values, pixel_words(config, graph), strict=True)
        ]
        first = [min(graph.readers(number), default=-1) for number in range(len(graph.values))]
        counters = [dict.fromkeys(COUNTERS, 0) for _ in graph.operations]
        mapped = _Mapped(config, graph, row_words, first, {}, {}, counters)
        codebook = None
        for number, operation in enumerate(graph.operations):
            if isinstance(operation, Vector):
                parts = mapped.parts[number] = _parts(config, graph, row_words, number)
                for part in parts:
                    _count(counters[number], l2_reads=part.reads, l2_writes=part.writes, descriptors=1)
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
                _count(counted, dram_writes=-(-words * config.l2_word // word_bytes), l2_reads=words, descriptors=1)
            _count(counted, dram_writes=max(1, BYTES // word_bytes), descriptors=1)
            counted["dram_reads"] += counted["descriptors"] * max(1, BYTES // word_bytes)
        return mapped

    def _layer(self, config: AcceleratorConfig, graph: Graph, number: int, operation: Convolution) -> _Layer:
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
        found_strips = [_Strip.of(strip, geometry) for strip in strips(geometry, plan)]
        sizes = {(strip.height, strip.width) for strip in found_strips}
        return _Layer(
            operation=operation,
            work=work,
            plan=plan,
            codewords=work.codewords,
            channel_words=-(-source.channels // config.l2_word),
            per_vector=config.H // config.l2_word,
            strips=found_strips,
            sets={size: _sets(work, plan, geometry, *size) for size in sizes},
        )


# Time


def _begun(opcode: Opcode) -> deque[float]:
    """When the last commands of a queue began: the next one is given out no sooner than the first of these."""
    return deque([0.0] * QUEUE_DEPTHS[opcode], QUEUE_DEPTHS[opcode])


class _Array:
    """Sequencer, weight loader, activation reader, array and storer. All cycles are those of the last thing done."""

    def __init__(self, config: AcceleratorConfig, t: Latencies) -> None:
        self.config, self.t = config, t
        self.descriptor_words = max(1, BYTES // (config.word_width // 8))
        # Words a cycle that one channel brings: as many bursts as its FIFO holds are under way.
        under_way = config.fifo_words // config.burst_words * config.burst_words
        self.rate = self.weight_rate = min(1.0, under_way / (t.read + t.request + config.burst_words))
        # Cycles of the sequencer for a descriptor; when it has given out the last one.
        self.each = max(self.descriptor_words + t.decode, self.descriptor_words / self.rate)
        self.given = float(2 * t.queue + t.request + t.read)
        # The weight loader is free; the tile before has started, its activations are read, its last operation issued.
        self.accept = self.started = self.read_free = self.issued = 0.0
        self.entries = 0
        # When the loader and the activation reader took the last commands: their queues have no more places.
        self.accepted, self.begun = _begun(Opcode.TILE), _begun(Opcode.TILE)
        # The storer takes sums from this cycle on; has stored them; has taken the last, with so many cycles for each.
        self.opened = self.closed = self.leaving = 0.0
        self.leaving_each = 0
        self.outputs = _begun(Opcode.OUTPUT)
        self.store_cycles = max(config.L // config.requantiser_lanes, config.L // config.l2_word)
        self.latency, self.loader = config.latency, loader_latency(config)
        # Output groups of the parameters that it holds, and whether the next OUTPUT brings others.
        self.held = 0
        self.parameters = True
        # Of the layer: whether its sums are stored as int32, and the words of a row write on each channel.
        self.wide = False
        self.words: tuple[float, ...] = ()
        # Words in the weights' FIFOs, and when; words of others that come before theirs; whether weights never wait.
        self.levels: list[float] = []
        self.filled = self.debt = 0.0
        self.flows = True
        # Part of the bus that the weights take; words that others than LOADs have brought.
        self.demand = 0.0
        self.bus_words = float((1 + len(config.channels)) * config.fifo_words)
        self.waits = [0.0, 0.0, 0.0]

    def begin(self, layer: _Layer) -> None:
        """The next layer."""
        self.words = tuple(bits / self.config.word_width for _, bits in layer.work.bits)
        if len(self.levels) != len(self.words):
            self.levels = [0.0] * len(self.words)
        channels = len(self.words)
        # Of rows in several streams, a row leaves the FIFOs as a whole.
        config, widest = self.config, max(self.words)
        room = config.fifo_words - (-(-widest // 1) if channels > 1 else 0)
        under_way = max(room // config.burst_words * config.burst_words, min(widest, config.fifo_words))
        self.weight_rate = min(self.rate, under_way / (self.t.read + self.t.request + config.burst_words))
        self.flows = widest <= self.weight_rate and sum(self.words) <= channels / (channels + 1)
        self.wide = layer.operation.wide
        strip = layer.strips[0]
        tiles = layer.sets[strip.height, strip.width][0][1][0]
        cycles = max(tiles.operations, tiles.rows * max(1.0, *self.words))
        self.demand = min(tiles.rows * sum(self.words) / cycles, channels / (channels + 1))

    def times(self) -> tuple[float, ...]:
        """What the next set depends on, in cycles from the last operation."""
        now = self.issued
        return (
            *(
                round(x - now, 3)
                for x in (
                    self.accept, self.started, self.read_free, self.given, self.opened, self.closed, self.leaving,
                    self.accepted[0], self.accepted[-1], self.begun[0], self.begun[-1],
                )
            ),
            *(() if self.flows else (round(level, 3) for level in self.levels)),
        )  # fmt: skip

    def skip(self, cycles: float) -> None:
        """Let time pass."""
        self._skip(cycles)
        self.opened += cycles
        self.closed += cycles
        self.leaving += cycles
        self.outputs.extend([begun + cycles for begun in self.outputs])

    def _skip(self, cycles: float) -> None:
        self.given += cycles
        self.accept += cycles
        self.started += cycles
        self.read_free += cycles
        self.issued += cycles
        self.filled += cycles
        for queue in (self.accepted, self.begun):
            queue.extend([begun + cycles for begun in queue])

    def load(self, now: float, rows: float, words: Sequence[float]) -> float:
        """The cycle in which the loader has taken so many rows of so many words on each channel."""
        if not rows:
            return now
        channels = len(words)
        space = self.config.fifo_words
        now = max(now, self.filled)
        # Until now, and then while words are taken: channels are served in turn, those of the others among them, and
        # the others alone once the FIFOs are full.
        passed, room = now - self.filled, channels * space - sum(self.levels)
        paid = min(self.debt, passed - min(room, passed * channels / (channels + 1)))
        part = min(1.0, (passed - paid) / max(1.0, room))
        levels = [level + min((space - level) * part, passed * self.weight_rate) for level in self.levels]
        debt = self.debt - paid

        cycles = rows * max(1.0, *words)
        missing = [max(0.0, rows * each - level) for level, each in zip(levels, words, strict=True)]
        cycles = max(cycles, max(missing) / self.weight_rate)
        short = sum(missing)
        cycles = max(cycles, min(short * (channels + 1) / channels, short + debt))
        paid = min(debt, cycles / (channels + 1))
        rooms = [space - level + rows * each for level, each in zip(levels, words, strict=True)]
        part = min(1.0, (cycles - paid) / sum(rooms))
        self.levels = [
            max(0.0, level - rows * each + room * part) for level, each, room in zip(levels, words, rooms, strict=True)
        ]
        self.debt = debt - paid
        self.bus_words += rows * sum(words)
        self.filled = now + cycles
        return self.filled

    def give(self, descriptors: int) -> None:
        """The sequencer gives out so many descriptors."""
        self.given += self.each * descriptors
        words = self.descriptor_words * descriptors
        self.debt += words
        self.bus_words += words

    def run(self, x: _Tiles, ready: float, codewords: int = 0, codeword_words: float = 0.0) -> None:
        """Equal layer tiles, one after the other.

        Parameters
        ----------
        x
            The tiles.
        ready
            When their activations are in L1.
        codewords, codeword_words
            Codewords that the first one loads, and the words of each.
        """
        t, config, words, waits = self.t, self.config, self.words, self.waits
        accepted, begun = self.accepted, self.begun
        queue, feed, loader, depth = t.queue, t.feed, self.loader, config.prf_depth
        entries, rows, operations, vectors = x.entries, x.rows, x.operations, x.vectors
        duration = max(operations, vectors)
        # Sums of the last OUTPUT that wait in the PRF hold these back.
        entry = min(x.sums, depth) - 1
        held = (
            self.leaving - self.leaving_each * (depth - entry)
            - entry % x.A + (x.sums // x.A - entry // x.A) * (x.rest + x.A)
        )  # fmt: skip
        flows, row_words = self.flows, rows * sum(words)
        count, seen = x.count, None
        while count:
            count -= 1
            before = self.issued
            self.give(1)
            given = self.given = max(self.given, accepted[0], begun[0])
            taken = max(self.accept, given + queue)
            accepted.append(taken)
            now = taken + 1
            if codewords:
                rest = [0.0] * (len(words) - 1)
                now, codewords = self.load(now, codewords, (codeword_words, *rest)), 0
            # The tile before has its own entries; they come free one by one at its last position.
            room = config.wrf_depth - self.entries
            if flows:
                self.bus_words += row_words
                if room >= entries:
                    now = max(now + rows, self.started)
                else:
                    first = round(room * rows / entries)
                    now = max(now + first, self.started, before - self.entries + 2) + rows - first
            elif room >= entries:
                now = max(self.load(now, rows, words), self.started)
            else:
                first = round(room * rows / entries)
                now = max(self.load(now, first, words), self.started, before - self.entries + 2)
                now = self.load(now, rows - first, words)
            handed_over = max(now - 1 + loader, before)
            begin = max(self.read_free, given + queue, ready)
            begun.append(begin)
            started = max(handed_over, begin)

            idle = before + 1
            start = max(handed_over + 1, begin + feed, idle)
            weights = max(0.0, handed_over + 1 - max(idle, taken))
            activations = start - max(handed_over + 1, idle) + duration - operations
            end = max(start + duration - 1, held)
            if x.last:
                self._open(x.A, given)
                started = max(started, self.opened - 1)
                end = max(end, self._store(x, start, end))
            waits[0] += weights
            waits[1] += activations
            waits[2] += end - start + 1 - duration
            self.started, self.issued, self.accept, self.entries = started, end, handed_over + 1, entries
            self.read_free = max(begin + vectors, end - config.arf_depth * x.A + 1)
            if count > 1:
                state = (
                    self.accept - end, self.given - end, taken - end, begin - end, started - end,
                    accepted[0] - end, begun[0] - end, end - before, *(() if self.flows else self.levels),
                )  # fmt: skip
                if state == seen:
                    cycles = end - before
                    self._skip(count * cycles)
                    waits[0] += count * weights
                    waits[1] += count * activations
                    waits[2] += count * (end - start + 1 - duration)
                    self.bus_words += count * (self.descriptor_words + row_words)
                    count = 0
                seen = state

    def _open(self, A: int, given: float) -> None:
        """The storer takes the next OUTPUT, which was given out before the tile, and its parameters."""
        config, t = self.config, self.t
        begin = max(self.opened, given - self.each + t.queue)
        self.outputs.append(begin)
        if self.parameters:
            # They are taken beside the OUTPUT before, if there is room for both.
            if self.held + A > config.prf_depth:
                begin = max(begin, self.closed)
            self.held = A
            words = _words(config, A * config.L * PARAMETER_BITS)
            self.debt += words
            self.bus_words += words
            first = given - 2 * self.each + t.request + t.read
            begin = max(
                max(begin, first) + words * max(1 / self.rate, config.word_width / PARAMETER_BITS), first + words
            )
        self.opened = max(begin, self.closed) + 1

    def _store(self, x: _Tiles, start: float, issued: float) -> float:
        """Hand the sums of a last tile to the storer. Returns the cycle of the last operation that it allows."""
        config, t = self.config, self.t
        each = self.store_cycles * (4 if self.wide else 1)
        passed = self.latency + 1
        first = max(self.opened, start + x.rest + passed)
        end = max(first + x.sums * each, issued + passed + each)
        # An entry of the PRF is free again when the storer has taken the vector before it.
        self.leaving, self.leaving_each = end - 1, each
        self.closed = end + t.storer - (t.rounding if self.wide else 0)
        return end + each * (-1 - config.prf_depth) + x.rest if x.sums > config.prf_depth else issued


@dataclass
class _Region:
    """A part of L1, and the cycle from which it may be overwritten."""

    start: int
    end: int
    free: float = 0.0


@dataclass
class _Copy:
    """A COPY of a strip: vectors, those that lie in one piece with it, cycles, and where it is."""

    vectors: int
    together: int
    cycles: int
    region: _Region


class _Model:
    """All units, and when each value is written."""

    def __init__(self, mapped: _Mapped, latencies: Latencies) -> None:
        self.mapped, self.graph, self.config, self.t = mapped, mapped.graph, mapped.config, latencies
        self.array = _Array(self.config, latencies)
        self.word_bytes = self.config.word_width // 8
        self.counters = [dict(counters) for counters in mapped.counters]
        # Of each value, rows that are complete and the cycle of that, in order.
        self.writes: list[list[tuple[int, float]]] = [[] for _ in self.graph.values]
        self.recorded: list[float] = []
        self.copy_free = self.vector_free = self.store_free = 0.0
        # L1 is a ring.
        self.regions: deque[_Region] = deque()
        self.next_vector = 0
        # Of the strip so far.
        self.copies: list[_Copy] = []
        # LOADs to come: value, rows that are complete then, L2 words. When the last ones were done.
        self.loads = deque((value, *part) for value in self.graph.inputs for part in _loads(mapped, value))
        self.load_done = deque([0.0] * 2, 2)
        self.load_words = 0.0
        # Parts of vector operations to come, and operations whose parts are all begun. When the vector unit reads L2,
        # how many words a cycle, and for which value.
        self.parts: deque[_Part] = deque()
        self.begun: deque[int] = deque()
        self.reading = 0.0, 0.0, 0.0, 0
        self.queues = {opcode: _begun(opcode) for opcode in (Opcode.LOAD, Opcode.COPY, Opcode.VECTOR, Opcode.STORE)}

    def run(self) -> list[LayerTiming]:
        for number, operation in enumerate(self.graph.operations):
            if isinstance(operation, Vector):
                parts = self.mapped.parts[number]
                self.array.give(len(parts))
                self.parts += parts
                continue
            before = list(self.array.waits)
            self.convolution(number, self.mapped.layers[number])
            self.finish_vectors()
            self.finish(number)
            lost = [round(now - wait) for now, wait in zip(self.array.waits, before, strict=True)]
            _count(self.counters[number], wait_weights=lost[0], wait_activations=lost[1], wait_psums=lost[2])
        self.finish_vectors()
        last = 0.0
        for counters, end in zip(self.counters, self.recorded, strict=True):
            counters["cycles"] = max(0, round(end) - round(last))
            last = max(last, end)
        return [
            LayerTiming(operation.name, operation.operation, operation.macs, counters)
            for operation, counters in zip(self.graph.operations, self.counters, strict=True)
        ]

    def command(self, queue: Opcode, begin: float) -> None:
        """A command of a queue begins; it has been given out, so the one that has its place now has begun before."""
        self.array.given = max(self.array.given, self.queues[queue][0])
        self.queues[queue].append(begin)

    # Values

    def rows(self, value: int) -> int:
        """Rows of a value that are complete once all that is known is done."""
        return self.writes[value][-1][0] if self.writes[value] else 0

    def written(self, value: int, rows: int) -> float:
        """The cycle in which the first rows of a value are complete; what writes them is done first."""
        while self.rows(value) < rows:
            if value in self.graph.inputs:
                self.load()
            else:
                self.part()
        time = 0.0
        for end, when in self.writes[value]:
            time = max(time, when)
            if end >= rows:
                break
        return time

    # DRAM

    def loading(self, number: int) -> bool:
        """Whether an input comes beside an operation."""
        return bool(self.loads) and self.mapped.first[self.loads[0][0]] <= number + 1

    def load(self) -> None:
        """The next LOAD."""
        t, array = self.t, self.array
        value, rows, l2_words = self.loads.popleft()
        array.give(1)
        given = array.given = max(array.given, self.queues[Opcode.LOAD][0])
        begin = max(given + t.queue, self.load_done[0], self.queues[Opcode.LOAD][-1])
        self.command(Opcode.LOAD, begin)
        words = -(-l2_words * self.config.l2_word // self.word_bytes)
        # What comes for others meanwhile.
        last, first = self.load_done[-1], begin + t.request + t.read
        busy = last > first or not last
        others = array.bus_words - self.load_words if busy else words * array.demand / (1 - array.demand)
        self.load_words = array.bus_words
        each = max(1.0, self.word_bytes / self.config.l2_word, 1 / array.rate)
        end = max(last, first) + words * each + min(others, words * (len(array.levels) + 1))
        array.debt += words
        self.load_done.append(end)
        self.writes[value].append((rows, end + 1))
        counters = self.counters[self.mapped.first[value]]
        _count(counters, dram_reads=words + array.descriptor_words, l2_writes=l2_words, descriptors=1)

    def finish(self, number: int) -> None:
        """An operation is complete: its result goes to DRAM if it is an output, and so do the counters."""
        config = self.config
        operation = self.graph.operations[number]
        value = self.graph.values[operation.target]
        complete = self.written(operation.target, value.rows) + self.t.event
        if operation.target in self.graph.outputs:
            l2_words = value.rows * self.mapped.row_words[operation.target]
            self.store(complete, max(l2_words, -(-l2_words * config.l2_word // self.word_bytes)))
        self.recorded.append(self.store(complete, max(1, BYTES // self.word_bytes, BYTES // config.l2_word)))

    def store(self, complete: float, cycles: int) -> float:
        """A STORE of so many cycles. Returns when it begins."""
        t = self.t
        begin = max(self.store_free, complete)
        self.command(Opcode.STORE, begin)
        # Addresses run two bursts ahead, and the last response counts from its own.
        self.store_free = begin + t.request + max(cycles, max(0, cycles - 2 * self.config.burst_words) + t.write)
        return begin

    # Vector unit

    def part(self) -> None:
        """The next part of a vector operation."""
        part = self.parts.popleft()
        operation = self.graph.operations[part.number]
        ready = max(self.written(source, part.bottom) for source in operation.sources)
        begin = max(self.vector_free, ready + self.t.event)
        self.command(Opcode.VECTOR, begin)
        first = begin + part.setup
        last = first + part.cycles
        self.reading = first, last, part.reads / part.cycles, operation.target
        self.vector_free = last + self.t.vector
        self.writes[operation.target].append((part.end, self.vector_free))
        self.counters[part.number]["vector_cycles"] += round(self.vector_free - begin)
        if part.end == self.graph.values[operation.target].rows:
            self.begun.append(part.number)

    def finish_vectors(self) -> None:
        """All vector operations before the one that is done now."""
        while self.parts:
            self.part()
        while self.begun:
            self.finish(self.begun.popleft())

    def share(self, begin: float, cycles: int, words: int) -> float:
        """The end of a COPY of so many cycles, while the vector unit may read L2, too."""
        end = begin + cycles
        while True:
            first, last, rate, value = self.reading
            together = min(end, last) - max(begin, first)
            excess = rate + words / max(1, cycles) - 1
            if together > 0 and excess > 0:
                # Both go on more slowly until one of them is done.
                end += together * excess
                self.reading = first, last + together * excess, 0.0, value
                self.vector_free += together * excess
                self.writes[value][-1] = self.writes[value][-1][0], self.vector_free
            if not self.parts or self.vector_free >= end:
                return end
            self.part()

    # Convolutions

    def room(self, vectors: int, together: int) -> tuple[_Region, float]:
        """A place in L1 for a COPY, and the cycle from which it is free.

        ``together`` are the vectors of this one and of those that must follow it without a gap.
        """
        regions, free = self.regions, 0.0
        base = self.next_vector
        if base + together > self.config.l1_ifmap_depth:
            # What lies behind has been read before what lies at the beginning.
            while regions and regions[0].start >= base:
                regions.popleft()
            base = 0
        while regions and regions[0].start < base + vectors and base < regions[0].end:
            free = regions.popleft().free
        regions.append(_Region(base, base + vectors))
        self.next_vector = base + vectors
        return regions[-1], free

    def copy(self, layer: _Layer, strip: _Strip, tiles: _Tiles, together: int) -> tuple[float, _Region]:
        """A COPY: the cycle from which tiles find its vectors, and where they are in L1."""
        t = self.t
        region, free = self.room(strip.pixels * tiles.groups, together)
        ready = self.written(layer.operation.source, strip.bottom) + t.event
        begin = max(self.copy_free, free, ready)
        self.array.give(1)
        self.command(Opcode.COPY, begin)
        words, cycles = layer.copy(strip, tiles)
        self.copy_free = self.share(begin + strip.seek, cycles, words)
        self.copies.append(_Copy(region.end - region.start, together, strip.seek + cycles, region))
        return self.copy_free + t.copy + t.event, region

    def copies_ahead(self, layer: _Layer) -> None:
        """The COPYs for which L1 has room stand before the layer's first TILE; their queue holds the sequencer back."""
        strip = layer.strips[0]
        copies = layer.copied(strip)
        groups = copies[0][1].groups if layer.plan.streaming else sum(tiles.groups for _, tiles in copies)
        room = self.config.l1_ifmap_depth // (strip.pixels * groups)
        source = layer.operation.source
        begin = max(self.copy_free, self.written(source, strip.bottom) + self.t.event)
        # Of an input, LOADs come in between.
        whole = source not in self.graph.inputs
        known = len(layer.strips) if whole else sum(x.bottom <= self.rows(source) for x in layer.strips)
        number = known * sum(times for times, _ in copies)
        number = min(room if layer.plan.streaming else room * len(copies), number)
        places = QUEUE_DEPTHS[Opcode.COPY]
        if number <= places:
            return
        self.array.give(number)
        _, cycles = layer.copy(strip, copies[0][1])
        self.array.given = max(self.array.given, begin + (number - places) * (strip.seek + cycles))

    def convolution(self, number: int, layer: _Layer) -> None:
        """A convolution, strip by strip."""
        array = self.array
        array.begin(layer)
        self.copies_ahead(layer)
        several = sum(times for times, _ in layer.sets[layer.strips[0].height, layer.strips[0].width]) > 1
        written = self.writes[layer.operation.target]
        index, seen = 0, None
        while index < len(layer.strips):
            strip = layer.strips[index]
            before, waits, begun = array.issued, list(array.waits), self.copy_free
            array.parameters = several or index == 0
            self.copies = []
            self.strip(number, layer, strip, index == 0)
            if strip.end:
                written.append((strip.end, array.closed))
            following = layer.strips[index + 1 : -1]
            index += 1
            arriving = self.rows(layer.operation.source) < self.graph.values[layer.operation.source].rows
            if (
                len(following) < 2
                or self.loading(number)
                or arriving
                or self.writes[layer.operation.source][-1][1] > begun
            ):
                continue
            cycles = array.issued - before
            now = *array.times(), *self.copy_times(cycles), cycles
            equal = (strip.height, strip.width, strip.inside)
            if now == seen and all((x.height, x.width, x.inside) == equal for x in following):
                for number_of, passed in enumerate(following):
                    if passed.end:
                        written.append((passed.end, array.closed + (number_of + 1) * cycles))
                self.repeat(self.copies, len(following), cycles)
                array.waits = [
                    wait + len(following) * (wait - old) for wait, old in zip(array.waits, waits, strict=True)
                ]
                index += len(following)
            seen = now

    def copy_times(self, cycles: float) -> tuple[float, ...]:
        """What the next COPYs depend on, in cycles from the last operation.

        COPYs that are further ahead than twice so many cycles get further ahead, or wait for room in L1.
        """
        least = self.array.issued - 2 * cycles
        regions = self.regions
        times = (self.copy_free, regions[0].free, regions[-1].free) if regions else (self.copy_free,)
        return tuple(round(max(time, least) - least, 3) for time in times)

    def repeat(self, copies: Sequence[_Copy], times: int, cycles: float) -> None:
        """Do the same so many times again, each in so many cycles: with these COPYs."""
        self.array.skip(times * cycles)
        if not copies:
            return
        # Only the last ones matter for what lies in L1.
        slots = self.config.l1_ifmap_depth // min(copy.vectors for copy in copies)
        passed = max(0, times - 1 - -(-slots // len(copies)))
        self.copy_free += passed * sum(copy.cycles for copy in copies)
        for number in range(passed, times):
            for copy in copies:
                region, free = self.room(copy.vectors, copy.together)
                self.copy_free = max(self.copy_free, free) + copy.cycles
                region.free = copy.region.free + (number + 1) * cycles

    def strip(self, number: int, layer: _Layer, strip: _Strip, first: bool) -> None:
        """One strip of a convolution; ``first``: of the layer."""
        array, plan, t = self.array, layer.plan, self.t
        sets = layer.sets[strip.height, strip.width]
        copied: dict[int, tuple[float, _Region]] = {}
        if not plan.streaming:
            together = strip.pixels * sum(tiles.groups for _, tiles in layer.copied(strip))
            for _, tiles in layer.copied(strip):
                copied[tiles.g] = self.copy(layer, strip, tiles, together)
                together = 0
        codebook = (layer.codewords, layer.work.codeword_bits / self.config.word_width) if first else ()
        for index, (times, runs) in enumerate(sets):
            seen = None
            while times:
                times -= 1
                before, waits, made = array.issued, list(array.waits), len(self.copies)
                chunk = -1
                for tiles in runs:
                    if plan.streaming and tiles.g != chunk:
                        chunk = tiles.g
                        copied[chunk] = self.copy(layer, strip, tiles, strip.pixels * tiles.groups)
                    ready, region = copied[tiles.g]
                    if tiles.last:
                        # OUTPUT and its parameters; the weights of the next strip.
                        array.give(1 + array.parameters)
                        array.given = max(array.given, array.outputs[0])
                        if not times and index == len(sets) - 1:
                            array.give(len(array.words))
                    array.run(tiles, ready, *codebook)
                    codebook = ()
                    region.free = array.read_free + t.event
                    # A LOAD at each tile.
                    for _ in range(tiles.count):
                        if not self.loading(number):
                            break
                        self.load()
                if times > 1 and not self.loading(number):
                    cycles = array.issued - before
                    now = *array.times(), *(self.copy_times(cycles) if plan.streaming else ()), cycles
                    if now == seen:
                        skipped = times - 1
                        self.repeat(self.copies[made:] if plan.streaming else (), skipped, cycles)
                        array.waits = [
                            wait + skipped * (wait - old) for wait, old in zip(array.waits, waits, strict=True)
                        ]
                        times = 1
                    seen = now


def estimate(network: Network, config: AcceleratorConfig, latencies: Latencies | None = None) -> list[LayerTiming]:
    """Cycles, lost cycles and traffic of each layer of a network on an instance.

    Traffic and operations are those of the compiled program. A layer's cycles go from the record of the one before to
    its own, as in :func:`sw.perf.program.predict`. Whether sums fit ``psum_width`` and tensors fit L2 is not checked.

    Parameters
    ----------
    network
        The shapes.
    config
        The instance.
    latencies
        Of the system and of the hand-overs.

    Raises
    ------
    sw.compiler.graph.CompileError
        A layer does not fit the instance.
    """
    return _Model(network.mapped(config), latencies or Latencies()).run()
