"""Cycles, traffic and utilisation of a network from its loop nest alone, in milliseconds.

What :func:`sw.perf.prediction.predict` does for the descriptors of a compiled program, this does for the shapes of a
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
from dataclasses import dataclass

from hw.config import AcceleratorConfig
from hw.control.descriptor import BYTES, QUEUE_DEPTHS, Opcode
from sw.compiler.graph import Vector
from sw.perf.array_times import ArrayTimes, queue_times
from sw.perf.mapping import MappedLayer, MappedNetwork, Network, StripInput, Tiles, VectorPart, add_counts, loads
from sw.perf.timing import Latencies, LayerTiming
from sw.perf.vector_times import vector_latency

__all__ = ["Network", "estimate"]


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

    def __init__(self, mapped: MappedNetwork, latencies: Latencies) -> None:
        self.mapped, self.graph, self.config, self.t = mapped, mapped.graph, mapped.config, latencies
        self.array = ArrayTimes(self.config, latencies)
        self.word_bytes = self.config.word_width // 8
        self.counters = [dict(counters) for counters in mapped.counters]
        # Rows of each value that are complete, and the cycle of that, in order.
        self.writes: list[list[tuple[int, float]]] = [[] for _ in self.graph.values]
        self.recorded: list[float] = []
        self.copy_free = self.vector_free = self.store_free = 0.0
        # L1 is a ring.
        self.regions: deque[_Region] = deque()
        self.next_vector = 0
        # What the strip has so far.
        self.copies: list[_Copy] = []
        # LOADs to come: value, rows that are complete then, L2 words. When the last ones were done.
        self.given = [*self.graph.inputs, *self.graph.constants]
        self.loads = deque((value, *part) for value in self.given for part in loads(mapped, value))
        self.load_done = deque([0.0] * 2, 2)
        self.load_words = 0.0
        # Parts of vector operations to come, and operations whose parts are all begun. When the vector unit reads L2,
        # how many words a cycle, and for which value.
        self.parts: deque[VectorPart] = deque()
        self.begun: deque[int] = deque()
        self.reading = 0.0, 0.0, 0.0, 0
        self.queues = {
            opcode: queue_times(opcode) for opcode in (Opcode.LOAD, Opcode.COPY, Opcode.VECTOR, Opcode.STORE)
        }

    def run(self) -> list[LayerTiming]:
        for number, operation in enumerate(self.graph.operations):
            if isinstance(operation, Vector):
                parts = self.mapped.parts[number]
                self.array.give(sum(part.commands for part in parts))
                self.parts += parts
                continue
            before = list(self.array.waits)
            self.convolution(number, self.mapped.layers[number])
            self.finish_vectors()
            self.finish(number)
            lost = [round(now - wait) for now, wait in zip(self.array.waits, before, strict=True)]
            add_counts(self.counters[number], wait_weights=lost[0], wait_activations=lost[1], wait_psums=lost[2])
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
            if value in self.given:
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
        add_counts(counters, dram_reads=words + array.descriptor_words, l2_writes=l2_words, descriptors=1)

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
        self.store_free = (
            begin + t.request + int(self.config.transfer_register)
            + max(cycles, max(0, cycles - 2 * self.config.burst_words) + t.write)
        )  # fmt: skip
        return begin

    # Vector unit

    def part(self) -> None:
        """The next part of a vector operation."""
        part = self.parts.popleft()
        operation = self.graph.operations[part.number]
        ready = max(self.written(source, rows) for source, rows in part.bottom.items())
        begin = max(self.vector_free, ready + self.t.event)
        self.command(Opcode.VECTOR, begin)
        first = begin + part.setup
        vector = vector_latency(self.config, {}, self.t.vector)
        # The next command of a part begins once the last word of the one before is written.
        last = first + part.cycles + (part.commands - 1) * (vector + self.t.event)
        self.reading = first, last, part.reads / (last - first), operation.target
        self.vector_free = last + vector
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

    def copy(self, layer: MappedLayer, strip: StripInput, tiles: Tiles, together: int) -> tuple[float, _Region]:
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

    def copies_ahead(self, layer: MappedLayer) -> None:
        """The COPYs for which L1 has room stand before the layer's first TILE; their queue holds the sequencer back."""
        strip = layer.strips[0]
        copies = layer.copied(strip)
        groups = copies[0][1].groups if layer.plan.streaming else sum(tiles.groups for _, tiles in copies)
        room = self.config.l1_ifmap_depth // (strip.pixels * groups)
        source = layer.operation.source
        begin = max(self.copy_free, self.written(source, strip.bottom) + self.t.event)
        # The LOADs of an input come in between.
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

    def convolution(self, number: int, layer: MappedLayer) -> None:
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

    def strip(self, number: int, layer: MappedLayer, strip: StripInput, first: bool) -> None:
        """One strip of a convolution; ``first``: of the layer."""
        array, plan, t = self.array, layer.plan, self.t
        sets = layer.sets[strip.height, strip.width]
        copied: dict[int, tuple[float, _Region]] = {}
        if not plan.streaming:
            together = strip.pixels * sum(tiles.groups for _, tiles in layer.copied(strip))
            for _, tiles in layer.copied(strip):
                copied[tiles.g] = self.copy(layer, strip, tiles, together)
                together = 0
        codebook = (layer.codewords, layer.work.codeword_width / self.config.word_width) if first else ()
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
    its own, as in :func:`sw.perf.prediction.predict`. Whether sums fit ``psum_width`` and tensors fit L2 is not
    checked.

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
    return _Model(network.mapped(config), (latencies or Latencies()).on(config)).run()
