"""Cycles, traffic and utilisation of a whole program, predicted from its descriptors alone.

Every unit has a time at which it is free; a command begins when its unit is free, it has been given out, and the
events that it waits for have happened: a max-plus recurrence over the descriptors, one step each. Inside a command the
rates count: an operation of the array, an L2 word, a DRAM word, a row write a cycle. The words of the packed streams
follow the FIFOs of the DMA reader: full while the loader rests, filled at the rate of the bus while it works.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hw.config import AcceleratorConfig
from hw.control.counters import COUNTERS
from hw.control.descriptor import BYTES, Channel, Opcode, VectorOp
from sw.compiler.program import COUNTED, Program
from sw.perf.cycles import loader_latency

__all__ = ["CAUSES", "Latencies", "LayerTiming", "measured", "predict", "total", "traffic_bytes", "utilisation"]

#: What the array's cycles are lost to, and the counter of each.
CAUSES = {"weights": "wait_weights", "activations": "wait_activations", "sums": "wait_psums"}


@dataclass(frozen=True)
class Latencies:
    """Cycles of the hand-overs between units. Those of the RTL, but for ``read`` and ``write``, which are the system's.

    Attributes
    ----------
    read
        From the address of a burst on the bus to its first word.
    write
        From the last word of a burst to its response.
    request
        From the command of a transfer to the address on the bus, and from the bus back to the consumer.
    decode
        Of a descriptor beside its words: checks and hand-over.
    queue
        From the sequencer to the unit.
    event
        From the last word of a command to the units that wait for it.
    copy
        From the last word read to the last vector written.
    feed
        From the first vector's address to its operation.
    storer
        From a vector of sums to its words in L2.
    vector
        From a tap to its word in L2.
    """

    read: int = 16
    write: int = 8
    request: int = 6
    decode: int = 6
    queue: int = 3
    event: int = 3
    copy: int = 3
    feed: int = 5
    storer: int = 10
    vector: int = 10


@dataclass(frozen=True)
class LayerTiming:
    """A layer's share of a run.

    Attributes
    ----------
    name, operation, macs
        As in the layer table.
    counters
        Names of :data:`hw.control.counters.COUNTERS`: what the layer adds to each.
    """

    name: str
    operation: str
    macs: int
    counters: dict[str, int]


def utilisation(config: AcceleratorConfig, macs: int, cycles: int) -> float:
    """Useful multiply-accumulates of those that the array could do in these cycles (H * L a cycle)."""
    return macs / (config.H * config.L * cycles) if cycles else 0.0


def traffic_bytes(config: AcceleratorConfig, counters: Mapping[str, int]) -> dict[str, int]:
    """Bytes read and written at each memory: DRAM, L2, and L1's activations and partial sums."""
    sizes = {"dram": config.word_width // 8, "l2": config.l2_word, "l1": config.H, "psum": config.psum_bytes}
    return {
        f"{memory}_{way}": counters[f"{memory}_{way}"] * size
        for memory, size in sizes.items()
        for way in ("reads", "writes")
    }


def measured(program: Program, memory: NDArray[np.uint8]) -> list[LayerTiming]:
    """What the RECORDs of a run say: the counters of each layer that has one, without those before it.

    Parameters
    ----------
    program
        What has run.
    memory
        DRAM from the program's base on, after the run.
    """
    timings = []
    before = np.zeros(len(COUNTERS), np.uint32)
    for layer in program.layers:
        if layer.record is None:
            continue
        start = layer.record - program.base
        counts = np.frombuffer(memory[start : start + BYTES].tobytes(), "<u4").astype(np.uint32)
        own = (counts - before).tolist()  # modulo 2**32, as the counters
        timings.append(LayerTiming(layer.name, layer.operation, layer.macs, dict(zip(COUNTERS, own, strict=True))))
        before = counts
    return timings


class _Channel:
    """One packed stream at the core: words in its FIFO, and when FETCHes were given out."""

    def __init__(self, rate: float, depth: int) -> None:
        self.rate, self.depth = rate, depth
        self.level = 0.0
        self.time = 0.0
        # Words of the FETCHes that were given out, and the cycle of each from which its words can come.
        self.fetches: deque[tuple[int, float]] = deque()
        self.fetched = 0
        self.taken = 0
        # When the reader began each of the last requests.
        self.begun: deque[float] = deque([0.0, 0.0], 2)

    def advance(self, time: float) -> None:
        """The FIFO fills until then."""
        if time > self.time:
            self.level = min(self.depth, self.level + self.rate * (time - self.time), self.fetched - self.taken)
            self.time = time

    def come(self, words: int, time: float) -> float:
        """The cycle in which the next so many words have been taken, at the earliest, from ``time`` on."""
        self.taken += words
        while self.fetches and self.fetches[0][0] <= self.taken - words:
            self.fetches.popleft()
        # Words that belong to a FETCH which came late.
        for end, ready in self.fetches:
            if ready > time:
                time = ready
                self.level, self.time = 0.0, ready
            if end >= self.taken:
                break
        self.level = min(self.depth, self.level + self.rate * max(0.0, time - self.time))
        self.time = max(self.time, time)
        missing = max(0.0, words - self.level)
        done = time + missing / self.rate
        self.level = max(0.0, self.level - words)
        self.time = done
        return done


def _bits(value: int) -> int:
    return max(value, 0).bit_length()


class _Model:
    """Times of all units while descriptors go by."""

    def __init__(self, program: Program, latencies: Latencies) -> None:
        self.program, self.config, self.t = program, program.config, latencies
        config = self.config
        self.word_bytes = config.word_width // 8
        t = latencies
        round_trip = t.read + t.request + config.burst_words
        self.rate = min(1.0, config.fifo_words / round_trip)
        names = ["weight", *(name for name in ("mask", "sign") if name in config.streams), "parameter"]
        self.channels = {name: _Channel(self.rate, config.fifo_words) for name in names}
        self.layers = [dict.fromkeys(COUNTERS, 0) for _ in program.layers] + [dict.fromkeys(COUNTERS, 0)]
        self.ends = [0.0] * len(self.layers)
        self.recorded: dict[int, float] = {}
        self.events: dict[str, list[float]] = {event: [] for event in COUNTED}
        self.free = dict.fromkeys(COUNTED.values(), 0.0)
        # The cycles in which the last commands of a unit left its queue.
        self.taken: dict[Opcode, deque[float]] = {unit: deque([0.0] * 5, 5) for unit in COUNTED.values()}
        self.tiles_taken: deque[float] = deque([0.0] * 4, 4)
        self.sequencer = float(t.read + t.request)
        self.bus = 0.0
        # Core
        self.accept = 0.0
        self.issued = 0.0
        self.released: deque[float] = deque([0.0] * config.wrf_depth, config.wrf_depth)
        self.read_free = 0.0
        self.drained = 0.0
        self.bits = dict.fromkeys(names, 0)
        # Storer: the OUTPUT that waits for sums, when it can begin, and when the one before is complete.
        self.outputs: deque[tuple[dict[str, int], float, float]] = deque()
        self.storer_free = 0.0
        self.storer_begun = 0.0
        self.storer_A = 0

    def count(self, fields: Mapping[str, int], **amounts: int) -> dict[str, int]:
        counters = self.layers[min(fields["layer"], len(self.layers) - 1)]
        for name, amount in amounts.items():
            counters[name] += amount
        return counters

    def waits(self, fields: Mapping[str, int]) -> float:
        """When the last event that a command waits for reaches its unit."""
        latest = 0.0
        for event, times in self.events.items():
            behind = (len(times) - fields[f"wait_{event}"]) % (1 << 16)
            if len(times) > behind:
                latest = max(latest, times[len(times) - behind - 1])
        return latest

    def happened(self, fields: Mapping[str, int], event: str, time: float) -> None:
        times = self.events[event]
        times.append(max(time + self.t.event, times[-1] if times else 0.0))
        layer = min(fields["layer"], len(self.layers) - 1)
        self.ends[layer] = max(self.ends[layer], time)

    def give(self, opcode: Opcode, fields: dict[str, int]) -> None:
        words = max(1, BYTES // self.word_bytes)
        self.count(fields, descriptors=1, dram_reads=words)
        self.sequencer += max(words, words / self.rate) + self.t.decode
        self.bus += words
        if opcode == Opcode.FETCH:
            self.fetch(fields)
            return
        if opcode == Opcode.END:
            return
        unit = Opcode.STORE if opcode == Opcode.RECORD else opcode
        queue = self.taken[unit]
        # The queue has four places, and a fifth command waits behind it.
        self.sequencer = max(self.sequencer, queue[0])
        if opcode == Opcode.TILE:
            self.sequencer = max(self.sequencer, self.tiles_taken[0])
        given = self.sequencer + self.t.queue
        if opcode == Opcode.TILE:
            self.tile(fields, given)
        elif opcode == Opcode.OUTPUT:
            self.output(fields, given)
        else:
            begin = max(given, self.waits(fields), self.free[unit])
            queue.append(begin)
            _RUN[opcode](self, fields, begin)

    # DMA

    def fetch(self, fields: dict[str, int]) -> None:
        channel = self.channels[Channel(fields["channel"]).name.lower()]
        self.count(fields, dram_reads=fields["words"])
        self.sequencer = max(self.sequencer, channel.begun[0])
        # Bursts of the request before have all been asked for when all but a FIFO of its words have been taken.
        channel.begun.append(max(self.sequencer, channel.time if channel.fetched - channel.taken else 0.0))
        channel.fetched += fields["words"]
        channel.fetches.append((channel.fetched, self.sequencer + self.t.request + self.t.read))

    def load(self, fields: dict[str, int], begin: float) -> None:
        config = self.config
        words = -(-fields["words"] * config.l2_word // self.word_bytes)
        self.count(fields, dram_reads=words, l2_writes=fields["words"])
        # The next request is made while this one's words arrive.
        first = max(begin + self.t.request + self.t.read, self.free[Opcode.LOAD])
        end = first + max(words / self.rate, fields["words"])
        self.free[Opcode.LOAD] = end
        self.happened(fields, "loaded", end)

    def store(self, fields: dict[str, int], begin: float) -> None:
        words = -(-fields["words"] * self.config.l2_word // self.word_bytes)
        self.count(fields, dram_writes=words, l2_reads=fields["words"])
        end = begin + self.t.request + max(words, fields["words"]) + self.t.write
        self.free[Opcode.STORE] = end
        self.happened(fields, "written", end)

    def record(self, fields: dict[str, int], begin: float) -> None:
        words = max(1, BYTES // self.word_bytes)
        self.count(fields, dram_writes=words)
        self.recorded[min(fields["layer"], len(self.layers) - 1)] = begin
        end = begin + self.t.request + max(words, BYTES // self.config.l2_word) + self.t.write
        self.free[Opcode.STORE] = end
        self.happened(fields, "written", end)

    # L2

    def copy(self, fields: dict[str, int], begin: float) -> None:
        rows, columns = (
            max(0, min(first + extent, limit) - max(first, 0))
            for first, extent, limit in (
                (fields["first_row"], fields["height"], fields["rows"]),
                (fields["first_column"], fields["width"], fields["columns"]),
            )
        )
        groups, per_vector = fields["groups"], self.config.H // self.config.l2_word
        words = min(fields["channel_words"], groups * per_vector)
        pixel = words + groups - -(-words // per_vector)
        vectors = fields["height"] * fields["width"] * groups
        self.count(fields, l2_reads=rows * columns * words, l1_writes=vectors)
        seek = 2 + max(_bits(fields["first_row"]), _bits(fields["first_column"]))
        end = begin + seek + vectors + rows * columns * (pixel - groups)
        self.free[Opcode.COPY] = end
        self.happened(fields, "copied", end + self.t.copy)

    def vector(self, fields: dict[str, int], begin: float) -> None:
        config = self.config
        outputs = fields["height"] * fields["width"] * fields["pixel_words"]
        operation = VectorOp(fields["operation"])
        taps = 2 if operation == VectorOp.ADD else fields["kernel_rows"] * fields["kernel_columns"]
        inside = outputs * 2
        if operation != VectorOp.ADD:
            inside = fields["pixel_words"]
            for axis, extent in (("rows", fields["height"]), ("columns", fields["width"])):
                start = np.arange(extent) * fields[f"stride_{axis}"] - fields[f"padding_{axis}"]
                stop = np.minimum(start + fields[f"kernel_{axis}"], fields[axis])
                inside *= int(np.maximum(stop - np.maximum(start, 0), 0).sum())
        groups = config.l2_word // config.vector_unit_lanes
        each = groups if taps == 1 else taps + max(groups - 2, 0)
        factors = ("columns", "stride_rows", "stride_columns", "padding_rows", "padding_columns")
        setup = 2 + sum(1 + max(1, _bits(fields[name])) for name in factors)
        end = begin + setup + outputs * each + self.t.vector
        self.count(fields, l2_reads=inside, l2_writes=outputs, vector_cycles=round(end - begin))
        self.free[Opcode.VECTOR] = end
        self.happened(fields, "vectored", end)

    # Core

    def stream_bits(self, fields: Mapping[str, int], raw: bool) -> dict[str, int]:
        """Bits that a row write takes from each stream."""
        config = self.config
        if not raw:
            return {"weight" if name == "index" else name: bits for name, bits in config.streams.items()}
        sizes = {"weight": config.raw_bits}
        if config.features.sparse and config.mask_bits:
            sizes["mask"] = config.streams["mask"]
        return sizes

    def words(self, name: str, bits: int) -> int:
        """Words that the next so many bits of a stream need; keeps what is left of the last one."""
        width = self.config.word_width
        left = self.bits[name]
        needed = max(0, -(-(bits - left) // width))
        self.bits[name] = left + needed * width - bits
        return needed

    def tile(self, fields: dict[str, int], given: float) -> None:
        config, t = self.config, self.t
        A, B, D, Dr = (fields[name] for name in ("A", "B", "D", "Dr"))
        width, height, advance = fields["width"], fields["height"], fields["advance_columns"]
        positions = width * height
        Ds = D // Dr
        raw = bool(fields["raw"]) or not config.features.codebook
        rows = A * D * ((B - 1) * config.H + fields["rows"])
        operations = positions * A * B * D
        vectors = height * (Ds + (width - 1) * min(advance, Ds)) * Dr * B
        counters = self.count(fields, operations=operations, row_writes=rows, l1_reads=vectors)
        if fields["accumulate"]:
            counters["psum_reads"] += positions * A
        if not fields["last"]:
            counters["psum_writes"] += positions * A

        # Weights
        sizes = self.stream_bits(fields, raw)
        if fields["start"]:
            for name in sizes:
                self.bits[name] = 0
        cycle = max(self.accept, given)
        self.tiles_taken.append(cycle)
        cycle += 1
        if fields["codewords"]:
            needed = self.words("weight", fields["codewords"] * config.d * config.codeword_bits)
            self.bits["weight"] = 0
            cycle = max(cycle + fields["codewords"], self.channels["weight"].come(needed, cycle))
        entries = [config.H] * (A * (B - 1)) + [fields["rows"]] * A
        freed = list(self.released)
        for entry, count in enumerate(entries * D):
            begin = max(cycle, freed[entry] + 1)
            cycle = begin + count
            total = 0
            for name, bits in sizes.items():
                needed = self.words(name, count * bits)
                total += needed
                cycle = max(cycle, self.channels[name].come(needed, begin))
        loaded = cycle - 1
        handed_over = max(loaded + loader_latency(config), self.issued)
        self.accept = handed_over + 1

        # Activations
        begin = max(given, self.waits(fields), self.read_free)
        self.taken[Opcode.TILE].append(begin)
        ready = begin + t.feed
        start = max(handed_over + 1, ready)
        idle = self.issued + 1
        counters["wait_weights"] += round(max(0.0, handed_over + 1 - idle))
        counters["wait_activations"] += round(max(0.0, start - max(handed_over + 1, idle)))

        # Operations: as many as the reader feeds and the sums' way out takes.
        duration = float(max(operations, vectors))
        counters["wait_activations"] += max(0, vectors - operations)
        issued = start + duration - 1
        sums = positions * A
        if fields["last"]:
            issued = max(issued, self.last_sums(start, issued, sums, fields))
        else:
            self.drained = max(self.drained + 1, issued + config.latency)
        counters["wait_psums"] += round(max(0.0, issued - start + 1 - duration))
        self.released.extend(issued - A * B * D + 1 + number for number in range(A * B * D))
        self.issued = issued
        self.read_free = max(begin + vectors, issued - config.arf_depth * A + 1)
        self.happened(fields, "fed", self.read_free)

    # Sums

    def output(self, fields: dict[str, int], given: float) -> None:
        begin = max(given, self.waits(fields), self.storer_begun)
        self.taken[Opcode.OUTPUT].append(begin)
        self.outputs.append((fields, begin, given))

    def last_sums(self, start: float, issued: float, sums: int, fields: dict[str, int]) -> float:
        """Hand the sums of a last tile to the storer. Returns the cycle of the last operation."""
        config, t = self.config, self.t
        out, begin, _ = self.outputs.popleft()
        lanes = config.requantiser_lanes
        each = max(config.L // lanes, config.L // config.l2_word) * (4 if out["wide"] else 1)
        begin = max(begin, self.storer_begun)
        if out["parameters"]:
            entries = out["A"] * config.L
            words = -(-entries * 12 // self.word_bytes)
            if self.storer_A + out["A"] > config.prf_depth:
                begin = max(begin, self.storer_free)
            begin = max(
                begin + entries * max(1.0, 96 / config.word_width), self.channels["parameter"].come(words, begin)
            )
            self.storer_A = out["A"]
        self.storer_begun = max(begin, self.storer_free) + 1
        first = max(self.storer_begun, start + config.latency + 3)
        # The PRF and two registers hold what the storer has not taken.
        end = max(first + sums * each, issued + config.latency + 3 + each)
        self.storer_free = end
        per_word = out["height"] * out["width"] * out["A"] * (config.L // config.l2_word) * (4 if out["wide"] else 1)
        self.count(out, l2_writes=per_word)
        self.happened(out, "stored", end + t.storer)
        return end - config.latency - 3 - (config.prf_depth + 2) * each

    def finish(self) -> None:
        """Split the cycles among the layers: from one record to the next."""
        before = 0.0
        for number, counters in enumerate(self.layers[:-1]):
            end = max(before, self.recorded.get(number, self.ends[number]))
            counters["cycles"] = round(end) - round(before)
            before = end


_RUN = {
    Opcode.LOAD: _Model.load,
    Opcode.COPY: _Model.copy,
    Opcode.VECTOR: _Model.vector,
    Opcode.STORE: _Model.store,
    Opcode.RECORD: _Model.record,
}


def predict(program: Program, latencies: Latencies | None = None) -> list[LayerTiming]:
    """Cycles, lost cycles and traffic of each layer of a program.

    Parameters
    ----------
    program
        One that the golden executor runs; others may give any result.
    latencies
        Of the system and of the hand-overs.

    Raises
    ------
    sw.compiler.program.ProgramError
        A descriptor has an unknown opcode.
    """
    model = _Model(program, latencies or Latencies())
    for opcode, fields in program.bodies():
        model.give(opcode, fields)
    model.finish()
    return [
        LayerTiming(layer.name, layer.operation, layer.macs, counters)
        for layer, counters in zip(program.layers, model.layers, strict=False)
    ]


def total(timings: Sequence[LayerTiming]) -> dict[str, int]:
    """The counters of all layers together."""
    return {name: sum(timing.counters[name] for timing in timings) for name in COUNTERS}
