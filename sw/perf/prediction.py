"""Cycles, traffic and utilisation of a whole program, predicted from its descriptors alone.

Every unit is a process that takes its commands in turn, once the events that they wait for have happened. A command
takes the time that its rates say: an operation of the array, an L2 word, a DRAM word, a row write a cycle. What units
share is followed: the DRAM bus burst by burst, with the FIFOs of the DMA reader; the read port of L2; the entries of
the WRF and of the PRF. Values are not, so that a network takes about a second.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Mapping
from typing import Any

from hw.control.counters import COUNTERS
from hw.control.descriptor import BYTES, QUEUE_DEPTHS, Channel, Opcode
from sw.perf.events import CommandQueue, FetchChannel, Kernel, Port, Process, Signal
from sw.perf.timing import PARAMETER_BITS, Latencies, LayerTiming
from sw.perf.vector_times import vector_cost, vector_latency
from sw.program import COUNTED, Program, ProgramError
from sw.schedule.cycles import loader_latency

__all__ = ["predict"]


def _bits(value: int) -> int:
    return max(value, 0).bit_length()


class _Model:
    """All units, each a process."""

    def __init__(self, program: Program, latencies: Latencies) -> None:
        self.program, self.config, self.t = program, program.config, latencies
        config = self.config
        self.kernel = Kernel()
        self.l2 = Port(self.kernel)
        self.word_bytes = config.word_width // 8
        # Space that a burst needs, in words.
        self.longest = min(config.burst_words, 4096 // self.word_bytes)
        names = [*config.channels, "parameter", "descriptor", "load"]
        self.channels = {name: FetchChannel(config.fifo_words) for name in names}
        # In turn; and when the next burst can be asked for, and the bus is free for its words.
        self.turns = deque(self.channels.values())
        self.next_burst = self.bus = 0.0
        self.layers = [dict.fromkeys(COUNTERS, 0) for _ in range(len(program.layers) + 1)]
        self.ends = [0.0] * len(self.layers)
        self.recorded: dict[int, float] = {}
        # Descriptors that have been given out.
        self.reached = 0
        self.times: dict[str, list[float]] = {event: [] for event in COUNTED}
        self.happened = {event: Signal() for event in COUNTED}
        self.given = dict.fromkeys(COUNTED, 0)
        self.queues = {opcode: CommandQueue(QUEUE_DEPTHS[opcode]) for opcode in COUNTED.values()}
        self.tiles = CommandQueue(QUEUE_DEPTHS[Opcode.TILE])
        # Tiles whose weights are there, with the cycles in which the loader took them and passed them on; and the
        # cycles in which the activation reader began.
        self.loaded: deque[tuple[dict[str, int], float, float]] = deque()
        self.read: deque[float] = deque()
        self.ready, self.started = Signal(), Signal()
        self.tiles_started = 0
        self.issued = self.read_free = 0.0
        # The storer's command, vectors that it still takes, and the cycle from which it takes them.
        self.outputs: deque[list[Any]] = deque()
        self.opened, self.stored = Signal(), Signal()
        self.storing = 0
        # When the storer has taken the last sums, and how long it takes for each.
        self.leaving = 0.0, 0

    def run(self) -> None:
        for process in (
            self.sequencer(),
            self.loads(),
            self.copies(),
            self.vectors(),
            self.stores(),
            self.loader(),
            self.activations(),
            self.array(),
            self.storer(),
        ):
            self.kernel.at(0, process)
        try:
            self.kernel.run()
        except (ArithmeticError, LookupError):
            text = "it, or one of the next, has fields that the golden executor refuses"
            raise ProgramError(f"descriptor {self.reached}", text) from None
        missing = [f"{given - len(self.times[event])} {event}" for event, given in self.given.items()]
        if self.reached < self.program.descriptor_count or any(not text.startswith("0 ") for text in missing):
            raise ProgramError(f"descriptor {self.reached}", f"the program hangs; events to come: {', '.join(missing)}")
        before = 0.0
        for number, counters in enumerate(self.layers[:-1]):
            end = max(before, self.recorded.get(number, self.ends[number]))
            counters["cycles"] = round(end) - round(before)
            before = end

    def count(self, fields: Mapping[str, int], **amounts: int) -> dict[str, int]:
        counters = self.layers[min(fields["layer"], len(self.layers) - 1)]
        for name, amount in amounts.items():
            counters[name] += amount
        return counters

    # Events and queues

    def happens(self, fields: Mapping[str, int], event: str, time: float) -> None:
        """A command is complete at a time from now on."""
        layer = min(fields["layer"], len(self.layers) - 1)
        self.ends[layer] = max(self.ends[layer], time)

        def done() -> None:
            self.times[event].append(self.kernel.now)
            self.kernel.fire(self.happened[event])

        self.kernel.at(time, done)

    def next_command(self, queue: CommandQueue) -> Generator[float | Signal, None, dict[str, int]]:
        """The next command of a queue, once its events have happened."""
        while not queue.commands:
            yield queue.given
        fields, waits, given = queue.commands[0]
        begin = given + self.t.queue
        for event, count in waits.items():
            while len(self.times[event]) < count:
                yield self.happened[event]
            begin = max(begin, self.times[event][count - 1] + self.t.event)
        yield begin
        queue.commands.popleft()
        self.kernel.fire(queue.taken)
        return fields

    def sequencer(self) -> Process:
        kernel, words = self.kernel, max(1, BYTES // self.word_bytes)
        bodies = self.program.bodies()
        yield float(self.t.queue)
        self.request("descriptor", self.program.descriptors, words * len(bodies))
        for number, (opcode, fields) in enumerate(bodies):
            self.reached = number
            yield from self.take("descriptor", words)
            self.count(fields, descriptors=1, dram_reads=words)
            yield kernel.now + self.t.decode
            if opcode == Opcode.END:
                self.reached = len(bodies)
                return
            if opcode == Opcode.FETCH:
                names = {Channel[name.upper()]: name for name in (*self.config.channels, "parameter")}
                if fields["channel"] not in names:
                    raise ProgramError(f"descriptor {number}", f"channel must be one of {', '.join(names.values())}")
                name = names[Channel(fields["channel"])]
                channel = self.channels[name]
                while len(channel.requests) >= 2:
                    yield channel.begun
                self.count(fields, dram_reads=fields["words"])
                self.request(name, fields["address"], fields["words"])
                continue
            unit = Opcode.STORE if opcode == Opcode.RECORD else opcode
            queues = [self.queues[unit]] + ([self.tiles] if opcode == Opcode.TILE else [])
            for queue in queues:
                while len(queue.commands) >= queue.places:
                    yield queue.taken
            waits = {}
            for event, given in self.given.items():
                behind = (given - fields[f"wait_{event}"]) % (1 << 16)
                if given > behind:
                    waits[event] = given - behind
            for event, of in COUNTED.items():
                self.given[event] += of == unit
            fields["opcode"] = opcode
            for queue in queues:
                queue.commands.append((fields, waits if queue is queues[0] else {}, kernel.now))
                kernel.fire(queue.given)

    # DRAM

    def request(self, name: str, address: int, words: int) -> None:
        self.channels[name].requests.append([address, words])
        self.kernel.at(self.kernel.now + self.t.begin, self.ask)

    def ask(self, later: int = 0) -> None:
        """Ask for bursts, channel by channel in turn, as long as their FIFOs have space; so many cycles later."""
        config, kernel, channels = self.config, self.kernel, self.turns
        border = 4096 // self.word_bytes
        longest = self.longest
        passed = 0
        while passed < len(channels):
            channel = channels[0]
            channels.rotate(-1)
            passed += 1
            if not channel.left:
                if not channel.requests:
                    continue
                address, channel.left = channel.requests.popleft()
                channel.address = address // self.word_bytes
                kernel.fire(channel.begun)
            if channel.free < longest:
                continue
            passed = 0
            length = min(longest, channel.left, border - channel.address % border)
            channel.left -= length
            channel.address += length
            channel.free -= length
            issue = max(kernel.now + later, self.next_burst)
            self.next_burst = issue + 2
            first = max(issue + self.t.request + self.t.read, self.bus)
            self.bus = first + length
            channel.bursts.append([first, length * config.word_width])
            kernel.fire(channel.arrived)

    def give_back(self, channel: FetchChannel, bits: int) -> None:
        """So many bits were taken: space for their words, of which the last one may have bits left."""
        width = self.config.word_width
        before, channel.bits = channel.bits, channel.bits + bits
        if words := -(-channel.bits // width) + -before // width:
            channel.free += words
            if channel.left or channel.requests:
                self.ask(self.t.space)

    def until_asked(self, channel: FetchChannel) -> int:
        """Bits that are taken until a burst is asked for; more than there can be where none is to come."""
        width = self.config.word_width
        if channel.free >= self.longest or not (channel.left or channel.requests):
            return channel.words * width
        # A word has left as soon as its first bit has.
        return (self.longest - channel.free - 1) * width + -channel.bits % width + 1

    def drop(self, channel: FetchChannel, bits: int) -> None:
        """Take bits that are there."""
        self.give_back(channel, bits)
        while bits:
            burst = channel.bursts[0]
            taken = min(bits, int(burst[1]))
            burst[0] += taken / self.config.word_width
            burst[1] -= taken
            bits -= taken
            if not burst[1]:
                channel.bursts.popleft()

    def take(self, name: str, words: int, each: float = 1.0) -> Process:
        """Take words as they come, each for so many cycles."""
        channel, width = self.channels[name], self.config.word_width
        while words:
            while not channel.bursts:
                yield channel.arrived
            first, bits = channel.bursts[0]
            part = min(words, int(bits) // width)
            if not part:
                raise LookupError("a packed row ends in the middle of this word")
            part = min(part, -(-self.until_asked(channel) // width))
            yield max(max(self.kernel.now, first) + part * each, first + part)
            self.drop(channel, part * width)
            words -= part

    def loads(self) -> Process:
        config = self.config
        queue = self.queues[Opcode.LOAD]
        each = max(1.0, self.word_bytes / config.l2_word)
        asked: deque[tuple[dict[str, int], int]] = deque()
        more, less = Signal(), Signal()

        def ask() -> Process:
            while True:
                fields = yield from self.next_command(queue)
                words = -(-fields["words"] * config.l2_word // self.word_bytes)
                self.count(fields, dram_reads=words, l2_writes=fields["words"])
                self.request("load", fields["address"], words)
                asked.append((fields, words))
                self.kernel.fire(more)
                # One command beside the one whose words arrive.
                while len(asked) > 1:
                    yield less

        self.kernel.at(0, ask())
        while True:
            while not asked:
                yield more
            fields, words = asked[0]
            yield from self.take("load", words, each)
            asked.popleft()
            self.kernel.fire(less)
            self.happens(fields, "loaded", self.kernel.now + 1)

    def stores(self) -> Process:
        config, t = self.config, self.t
        while True:
            fields = yield from self.next_command(self.queues[Opcode.STORE])
            begin = self.kernel.now
            if fields["opcode"] == Opcode.RECORD:
                words = max(1, BYTES // self.word_bytes)
                self.count(fields, dram_writes=words)
                self.recorded[min(fields["layer"], len(self.layers) - 1)] = begin
                cycles = max(words, BYTES // config.l2_word)
            else:
                words = -(-fields["words"] * config.l2_word // self.word_bytes)
                self.count(fields, dram_writes=words, l2_reads=fields["words"])
                cycles = max(words, fields["words"])
                yield from self.l2.use(cycles, fields["words"])
                begin = self.kernel.now - cycles
            # Addresses run two bursts ahead, and the last response counts from its own.
            end = (
                begin
                + t.request
                + int(config.transfer_register)
                + max(cycles, max(0, cycles - 2 * config.burst_words) + t.write)
            )
            self.happens(fields, "written", end)
            yield end

    # L2

    def copies(self) -> Process:
        config = self.config
        per_vector = config.H // config.l2_word
        while True:
            fields = yield from self.next_command(self.queues[Opcode.COPY])
            rows, columns = (
                max(0, min(first + extent, limit) - max(first, 0))
                for first, extent, limit in (
                    (fields["first_row"], fields["height"], fields["rows"]),
                    (fields["first_column"], fields["width"], fields["columns"]),
                )
            )
            groups = fields["groups"]
            words = min(fields["channel_words"], groups * per_vector)
            # A vector of which no word is there takes a cycle, too.
            more = words - -(-words // per_vector)
            vectors = fields["height"] * fields["width"] * groups
            self.count(fields, l2_reads=rows * columns * words, l1_writes=vectors)
            seek = 2 + max(_bits(fields["first_row"]), _bits(fields["first_column"]))
            yield self.kernel.now + seek
            yield from self.l2.use(vectors + rows * columns * more, rows * columns * words)
            self.happens(fields, "copied", self.kernel.now + self.t.copy)

    def vectors(self) -> Process:
        config = self.config
        while True:
            fields = yield from self.next_command(self.queues[Opcode.VECTOR])
            cost = vector_cost(config, fields)
            begin = self.kernel.now
            yield begin + cost.setup
            yield from self.l2.use(cost.cycles, cost.reads)
            yield self.kernel.now + vector_latency(config, fields, self.t.vector)
            # The unit is busy from the cycle after the one in which it takes the command.
            cycles = round(self.kernel.now - begin) - 1
            self.count(fields, l2_reads=cost.reads, l2_writes=cost.writes, vector_cycles=cycles)
            self.happens(fields, "vectored", self.kernel.now)

    # Core

    def row_bits(self, raw: bool) -> Mapping[str, int]:
        """Bits that a row write takes from each channel."""
        if raw:
            return self.config.raw_streams
        return {"weight" if name == "index" else name: bits for name, bits in self.config.streams.items()}

    def take_rows(self, rows: int, sizes: Mapping[str, int]) -> Process:
        """Take the fields of row writes: one row a cycle, or as the words of the packed streams come."""
        width, kernel = self.config.word_width, self.kernel
        if len(sizes) == 1 and not sizes.get("weight", 1) % width:
            # Whole words leave the FIFO as they come, also where a row needs more of them than it holds.
            yield from self.take("weight", rows * sizes["weight"] // width)
            return
        streams = [(self.channels[name], bits) for name, bits in sizes.items()]
        longest = self.longest
        while rows:
            part, start, end = rows, kernel.now, 0.0
            # Bits of the next row that have left each FIFO.
            begun = [0] * len(streams)
            for number, (channel, bits) in enumerate(streams):
                while not channel.bursts:
                    yield channel.arrived
                # Rows in the first burst; one that does not end there waits for the next one.
                there = int(channel.bursts[0][1]) // bits
                if not there:
                    there = 1
                    while (have := sum(int(burst[1]) for burst in channel.bursts)) + begun[number] < bits:
                        if not have or channel.free >= longest:
                            yield channel.arrived
                            continue
                        # No burst comes before these words have left: the row is longer than what the FIFO holds.
                        yield max(first + held / width for first, held in channel.bursts)
                        self.drop(channel, have)
                        begun[number] += have
                # Where the words that leave make space for a burst, it is asked for.
                part = min(part, there, -(-self.until_asked(channel) // bits))
            start = max(start, kernel.now)
            # The other streams may hold several parts of a row that has begun.
            part = 1 if any(begun) else part
            left = [part * bits - gone for (_, bits), gone in zip(streams, begun, strict=True)]
            for (channel, _), needed in zip(streams, left, strict=True):
                place = 0.0
                for first, held in channel.bursts:
                    if not needed:
                        break
                    taken = min(needed, int(held))
                    place = max(place, first) + taken / width
                    start = max(start, first)
                    needed -= taken
                end = max(end, place)
            yield max(start + part, end, start + max(left) / width)
            for (channel, _), needed in zip(streams, left, strict=True):
                self.drop(channel, needed)
            rows -= part

    def loader(self) -> Process:
        """Codewords and row writes, as far ahead of the array as the WRF has entries."""
        config, kernel, width = self.config, self.kernel, self.config.word_width
        number, before = 0, 0
        while True:
            fields = yield from self.next_command(self.tiles)
            accepted = kernel.now
            raw = bool(fields["raw"]) or not config.features.codebook
            sizes = self.row_bits(raw)
            entries = fields["A"] * fields["B"] * fields["D"]
            each = fields["A"] * fields["D"] * ((fields["B"] - 1) * config.H + fields["rows"]) / entries
            self.count(fields, row_writes=round(entries * each))
            yield kernel.now + 1
            for name in sizes if fields["start"] else ():
                self.drop(self.channels[name], -self.channels[name].bits % width)
            if fields["codewords"]:
                bits = fields["codewords"] * config.d * config.element_bits
                yield from self.take("weight", -(-bits // width), max(1.0, width / (config.d * config.element_bits)))
            # The tile before has its own entries; they come free one by one at its last position.
            room = min(entries, config.wrf_depth - before)
            yield from self.take_rows(round(room * each), sizes)
            while self.tiles_started < number:
                yield self.started
            if room < entries:
                yield self.issued - before + 2
                yield from self.take_rows(round(entries * each) - round(room * each), sizes)
            yield max(kernel.now - 1 + loader_latency(config), self.issued)
            self.loaded.append((fields, accepted, kernel.now))
            kernel.fire(self.ready)
            number, before = number + 1, entries
            yield kernel.now + 1

    def activations(self) -> Process:
        """The activation reader: it is free when it has read a tile, which it does as fast as the array takes it."""
        while True:
            yield from self.next_command(self.queues[Opcode.TILE])
            self.read.append(self.kernel.now)
            self.kernel.fire(self.ready)
            number = self.tiles_started
            while self.tiles_started == number:
                yield self.started
            yield self.read_free

    def array(self) -> Process:
        config, t = self.config, self.t
        while True:
            while not (self.loaded and self.read):
                yield self.ready
            fields, accepted, handed_over = self.loaded.popleft()
            A, B, D, Dr = (fields[name] for name in ("A", "B", "D", "Dr"))
            width, height = fields["width"], fields["height"]
            sums = width * height * A
            operations = sums * B * D
            Ds = D // Dr
            vectors = height * (Ds + (width - 1) * min(fields["advance_columns"], Ds)) * Dr * B
            counters = self.count(fields, operations=operations, l1_reads=vectors)
            if fields["accumulate"]:
                counters["psum_reads"] += sums
            if not fields["last"]:
                counters["psum_writes"] += sums

            begin = self.read.popleft()
            idle = self.issued + 1
            start = max(handed_over + 1, begin + t.feed, idle)
            counters["wait_weights"] += round(max(0.0, handed_over + 1 - max(idle, accepted)))
            counters["wait_activations"] += round(max(0.0, start - max(handed_over + 1, idle)))
            duration = max(operations, vectors)
            counters["wait_activations"] += duration - operations
            rest = A * (B * D - 1)
            issued = max(start + duration - 1, self.held_back(sums, A, rest))
            # Sums that the PRF holds wait there for their OUTPUT; all others hold the array back.
            held = fields["last"] and sums <= config.prf_depth
            if fields["last"] and not held:
                while not self.outputs:
                    yield self.opened
                issued = max(issued, self.last_sums(start, issued, sums, rest))
            counters["wait_psums"] += round(issued - start + 1 - duration)
            self.issued = issued
            self.read_free = max(begin + vectors, issued - config.arf_depth * A + 1)
            self.tiles_started += 1
            self.happens(fields, "fed", self.read_free)
            self.kernel.fire(self.started)
            if held:
                while not self.outputs:
                    yield self.opened
                self.last_sums(start, issued, sums, rest)

    # Sums

    def storer(self) -> Process:
        config, kernel = self.config, self.kernel
        held = 0
        while True:
            fields = yield from self.next_command(self.queues[Opcode.OUTPUT])
            if fields["parameters"]:
                # Parameters are taken beside the command before, if there is room for both.
                while self.storing and held + fields["A"] > config.prf_depth:
                    yield self.stored
                held = fields["A"]
                words = -(-fields["A"] * config.L * PARAMETER_BITS // config.word_width)
                yield from self.take("parameter", words, max(1.0, config.word_width / PARAMETER_BITS))
            while self.storing:
                yield self.stored
            self.storing = 1
            self.outputs.append([fields, fields["height"] * fields["width"] * fields["A"], kernel.now + 1])
            kernel.fire(self.opened)

    def last_sums(self, start: float, issued: float, sums: int, rest: int) -> float:
        """Hand the sums of a last tile to the storer. Returns the cycle of the last operation that it allows.

        ``rest`` is the number of operations from the first to the last one of a PRF entry.
        """
        config, t = self.config, self.t
        output = self.outputs[0]
        fields, left, begin = output
        words = config.L // config.l2_word
        each = max(config.L // config.requantiser_lanes, words) * (4 if fields["wide"] else 1)
        passed = config.drain_latency + 1
        first = max(begin, start + rest + passed)
        end = max(first + sums * each, issued + passed + each)
        output[1:] = left - sums, end
        # An entry of the PRF is free again when the storer has taken the vector before it.
        self.leaving = end - 1, each
        allowed = float(end + each * (-1 - config.psum_entries) + rest) if sums > config.prf_depth else issued
        if left <= sums:
            self.outputs.popleft()
            vectors = fields["height"] * fields["width"] * fields["A"]
            self.count(fields, l2_writes=vectors * words * (4 if fields["wide"] else 1))
            # Wide sums pass by the stages that multiply, shift and round.
            end += t.storer - (t.rounding if fields["wide"] else 0)
            self.happens(fields, "stored", end)
            self.kernel.at(end, self.close)
        return allowed

    def held_back(self, sums: int, A: int, rest: int) -> float:
        """The last operation of a tile that begins while sums of the one before wait in the PRF."""
        end, each = self.leaving
        entry = min(sums, self.config.prf_depth) - 1
        free = end - each * (self.config.psum_entries - entry)
        return free + 1 - entry % A + (sums // A - entry // A) * (rest + A) - 1

    def close(self) -> None:
        """The storer is done with an OUTPUT."""
        self.storing = 0
        self.kernel.fire(self.stored)


def predict(program: Program, latencies: Latencies | None = None) -> list[LayerTiming]:
    """Cycles, lost cycles and traffic of each layer of a program.

    Parameters
    ----------
    program
        One that the golden executor runs.
    latencies
        Of the system and of the hand-overs.

    Raises
    ------
    sw.program.ProgramError
        A descriptor has an unknown opcode, or the program hangs.
    """
    model = _Model(program, (latencies or Latencies()).on(program.config))
    model.run()
    return [
        LayerTiming(layer.name, layer.operation, layer.macs, counters)
        for layer, counters in zip(program.layers, model.layers, strict=False)
    ]
