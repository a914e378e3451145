"""When sequencer, weight loader, activation reader, array and storer do what a layer tile asks of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from hw.config import AcceleratorConfig
from hw.control.descriptor import BYTES, QUEUE_DEPTHS, Opcode
from sw.perf.mapping import MappedLayer, Tiles, dram_words
from sw.perf.timing import PARAMETER_BITS, Latencies
from sw.schedule.cycles import loader_latency

__all__ = ["ArrayTimes", "queue_times"]


def queue_times(opcode: Opcode) -> deque[float]:
    """When the last commands of a queue began: the next one is given out no sooner than the first of these."""
    return deque([0.0] * QUEUE_DEPTHS[opcode], QUEUE_DEPTHS[opcode])


class ArrayTimes:
    """Sequencer, weight loader, activation reader, array and storer. All cycles are those of the last thing done."""

    def __init__(self, config: AcceleratorConfig, t: Latencies) -> None:
        self.config, self.t = config, t
        self.descriptor_words = max(1, BYTES // (config.word_width // 8))
        # Words a cycle that one channel brings: as many bursts as its FIFO holds are under way, and a word's space
        # counts a cycle after it has left.
        under_way = config.fifo_words // config.burst_words * config.burst_words
        self.rate = self.weight_rate = min(1.0, under_way / (t.read + t.request + config.burst_words + 1))
        # Cycles of the sequencer for a descriptor; when it has given out the last one.
        self.each = max(self.descriptor_words + t.decode, self.descriptor_words / self.rate)
        self.given = float(2 * t.queue + t.request + t.read)
        # The weight loader is free; the tile before has started, its activations are read, its last operation issued.
        self.accept = self.started = self.read_free = self.issued = 0.0
        self.entries = 0
        # When the loader and the activation reader took the last commands: their queues have no more places.
        self.accepted, self.begun = queue_times(Opcode.TILE), queue_times(Opcode.TILE)
        # The storer takes sums from this cycle on; has stored them; has taken the last, with so many cycles for each.
        self.opened = self.closed = self.leaving = 0.0
        self.leaving_each = 0
        self.outputs = queue_times(Opcode.OUTPUT)
        self.store_cycles = max(config.L // config.requantiser_lanes, config.L // config.l2_word)
        self.latency, self.loader = config.drain_latency, loader_latency(config)
        # Output groups of the parameters that it holds, and whether the next OUTPUT brings others.
        self.held = 0
        self.parameters = True
        # Whether the layer's sums are stored as int32, and the words of a row write on each channel.
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

    def begin(self, layer: MappedLayer) -> None:
        """The next layer."""
        self.words = tuple(bits / self.config.word_width for _, bits in layer.work.bits)
        if len(self.levels) != len(self.words):
            self.levels = [0.0] * len(self.words)
        channels = len(self.words)
        # A row that lies in several streams leaves the FIFOs as a whole.
        config, widest = self.config, max(self.words)
        room = config.fifo_words - (-(-widest // 1) if channels > 1 else 0)
        under_way = max(room // config.burst_words * config.burst_words, min(widest, config.fifo_words))
        self.weight_rate = min(self.rate, under_way / (self.t.read + self.t.request + config.burst_words + 1))
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

    def run(self, x: Tiles, ready: float, codewords: int = 0, codeword_words: float = 0.0) -> None:
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
        queue, feed, loader = t.queue, t.feed, self.loader
        entries, rows, operations, vectors = x.entries, x.rows, x.operations, x.vectors
        duration = max(operations, vectors)
        # Sums of the last OUTPUT that wait in the PRF hold these back.
        entry = min(x.sums, config.prf_depth) - 1
        held = (
            self.leaving - self.leaving_each * (config.psum_entries - entry)
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
            words = dram_words(config, A * config.L * PARAMETER_BITS)
            self.debt += words
            self.bus_words += words
            first = given - 2 * self.each + t.request + t.read
            begin = max(
                max(begin, first) + words * max(1 / self.rate, config.word_width / PARAMETER_BITS), first + words
            )
        self.opened = max(begin, self.closed) + 1

    def _store(self, x: Tiles, start: float, issued: float) -> float:
        """Hand the sums of a last tile to the storer. Returns the cycle of the last operation that it allows."""
        config, t = self.config, self.t
        each = self.store_cycles * (4 if self.wide else 1)
        passed = self.latency + 1
        first = max(self.opened, start + x.rest + passed)
        end = max(first + x.sums * each, issued + passed + each)
        # An entry of the PRF is free again when the storer has taken the vector before it.
        self.leaving, self.leaving_each = end - 1, each
        self.closed = end + t.storer - (t.rounding if self.wide else 0)
        return end + each * (-1 - config.psum_entries) + x.rest if x.sums > config.prf_depth else issued
