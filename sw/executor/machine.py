"""The units of the accelerator and their memories, command by command."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.control.descriptor import BYTES, EVENTS, QUEUE_DEPTHS, WAIT_REACH, Channel, Descriptor, Opcode
from sw.executor.order import UNITS, Ordered
from sw.executor.streams import Decoder, Stream
from sw.executor.tiles import Array, TileShape
from sw.executor.vectors import VectorUnit, at_least_one
from sw.format.layer import Requantisation
from sw.golden import GoldenError, requantise
from sw.program import COUNTED, Program

__all__ = ["COUNTS", "ExecutionError", "Machine", "descriptor_name"]

#: FETCHes of a channel that may stand ahead of the command that takes their words.
FETCHES_AHEAD = 2

#: What is counted for each layer; names as in :mod:`hw.control.counters`.
COUNTS = (
    "operations",
    "row_writes",
    "dram_reads",
    "dram_writes",
    "l2_reads",
    "l2_writes",
    "l1_reads",
    "l1_writes",
    "psum_reads",
    "psum_writes",
    "descriptors",
)

#: Bytes of the parameters of one channel: bias, multiplier and shift.
_PARAMETER = 12


class ExecutionError(GoldenError):
    """A program that cannot run, or whose result depends on chance. The message names the descriptor."""


@dataclass
class _Command:
    """A descriptor that was given to its unit."""

    number: int
    descriptor: Descriptor
    # Absolute counts to wait for.
    waits: dict[Opcode, int]
    # The how-manieth of its opcode, from 1.
    turn: int
    # The bits that a TILE takes from each stream.
    sizes: dict[str, list[int]] = field(default_factory=dict)
    # The shape of a TILE.
    tile: TileShape | None = None


@dataclass
class _Sums:
    """Vectors on their way to the storer, and what was known when they left."""

    vectors: NDArray[np.int32]
    begun: NDArray[np.int64]
    turn: int


@dataclass
class _Output:
    """The OUTPUT that the storer is at."""

    command: _Command
    known: NDArray[np.int64]
    taken: list[NDArray[np.int32]] = field(default_factory=list)
    count: int = 0
    tiles: int = 0


class Machine:
    """The state of the accelerator between two commands."""

    def __init__(
        self,
        program: Program,
        memory: NDArray[np.uint8],
        check: bool,
        observe: Callable[[int, Descriptor, NDArray[Any]], None] | None,
    ) -> None:
        self.program, self.config, self.memory = program, program.config, memory
        self.observe = observe
        config = self.config
        self.word_bytes = config.word_width // 8
        self.l2 = np.zeros((config.l2_depth, config.l2_word), np.uint8)
        # What a tile makes is not to be seen by itself where nobody observes.
        self.array = Array(config, together=observe is None)
        self.streams = {name: Stream(self.word_bytes) for name in (*config.channels, "parameter")}
        self.decoder = Decoder(config)
        self.vectors = VectorUnit(config)
        self.raw: bool | None = None
        # Rows of weights of the next tiles.
        self.decoded: NDArray[np.int8] = np.zeros((0, config.L), np.int8)
        self.parameters: Requantisation | None = None
        self.queues: dict[Opcode, deque[_Command]] = {unit: deque() for unit in UNITS}
        self.given = dict.fromkeys(UNITS, 0)
        self.done = dict.fromkeys(UNITS, 0)
        self.output: _Output | None = None
        self.sums: deque[_Sums] = deque()
        self.layers = [dict.fromkeys(COUNTS, 0) for _ in range(len(program.layers) + 1)]
        # What each unit knew to be complete when it began its last command, and after each that it has completed.
        self.begun = {unit: np.zeros(len(UNITS), np.int64) for unit in UNITS}
        self.completed: dict[Opcode, list[NDArray[np.int64]]] = {unit: [] for unit in UNITS}
        self.check = check
        self.l2_order = Ordered("L2", config.l2_depth) if check else None
        self.l1_order = Ordered("L1", config.l1_ifmap_depth) if check else None
        self.dram_order = Ordered("DRAM", len(memory) // program.alignment, filled=True) if check else None

    # Descriptors in program order

    def give(self, number: int, descriptor: Descriptor) -> None:
        """Take a descriptor, and run whatever can run then."""
        self.count(descriptor, "descriptors", 1)
        self.count(descriptor, "dram_reads", max(1, BYTES // self.word_bytes))
        if descriptor.opcode == Opcode.FETCH:
            self.fetch(descriptor)
        else:
            unit = self.unit(descriptor)
            queue = self.queues[unit]
            # The sequencer stops at the next command until the first one begins.
            if len(queue) >= QUEUE_DEPTHS[unit]:
                waiting = queue[0]
                raise ValueError(
                    f"hangs: {QUEUE_DEPTHS[unit]} commands wait for the unit already, since"
                    f" {self.name(waiting)} {self.reason(waiting)}"
                )
            waits = self.waits(descriptor)
            self.given[unit] += 1
            command = _Command(number, descriptor, waits, self.given[unit])
            if descriptor.opcode == Opcode.TILE:
                command.tile = self.check_tile(descriptor.body)
                raw = self.array.is_raw(descriptor.body)
                command.sizes = self.decoder.sizes(descriptor.body, raw, command.tile.row_writes)
                for name, bits in command.sizes.items():
                    self.streams[name].demand(bits, bool(descriptor.body["start"]))
            elif descriptor.opcode == Opcode.OUTPUT and descriptor.body["parameters"]:
                self.streams["parameter"].demand([self.parameter_bits(descriptor.body)], True)
            queue.append(command)
        while self.advance():
            pass

    def finish(self) -> None:
        """At END: nothing may be left."""
        for unit in UNITS:
            if self.queues[unit]:
                command = self.queues[unit][0]
                raise ExecutionError(f"{self.name(command)}: hangs: {self.reason(command)}")
        if self.output:
            wanted = self.wanted_vectors(self.output.command.descriptor.body)
            text = f"hangs: it waits for {wanted} vectors of sums, of which {self.output.count} have come"
            raise ExecutionError(f"{self.name(self.output.command)}: {text}")
        if self.sums:
            raise ExecutionError(f"END: {sum(len(x.vectors) for x in self.sums)} vectors of sums that no OUTPUT takes")
        for name, stream in self.streams.items():
            if left := stream.words - bool(stream.bit):
                raise ExecutionError(f"END: {left} words are left in the {name} channel")

    def unit(self, descriptor: Descriptor) -> Opcode:
        return Opcode.STORE if descriptor.opcode == Opcode.RECORD else descriptor.opcode

    def name(self, command: _Command) -> str:
        return descriptor_name(self.program, command.number, command.descriptor)

    def waits(self, descriptor: Descriptor) -> dict[Opcode, int]:
        counts: dict[Opcode, int] = {}
        for event in EVENTS:
            given = self.given[COUNTED[event]]
            behind = (given - descriptor.waits.get(event, 0)) % (1 << 16)
            if behind > WAIT_REACH:
                raise ValueError(
                    f"wait_{event} must be one of the {min(given, WAIT_REACH)} counts before {given} or that, "
                    f"modulo 2**16, not {descriptor.waits.get(event, 0)}"
                )
            if given - behind > 0:
                counts[COUNTED[event]] = given - behind
        return counts

    def reason(self, command: _Command) -> str:
        """Why a command cannot begin."""
        for unit, count in command.waits.items():
            if self.done[unit] < count:
                return f"waits for {count} {unit.name}s, of which {self.done[unit]} are complete"
        body = command.descriptor.body
        if command.descriptor.opcode == Opcode.OUTPUT:
            return "waits for the OUTPUT before it, or for its parameters"
        for name, bits in command.sizes.items():
            if not self.streams[name].has(bits, bool(body["start"])):
                return (
                    f"waits for {sum(bits)} bits of the {name} stream, of which {self.streams[name].words} words came"
                )
        return "waits for an OUTPUT that takes its sums"

    def count(self, descriptor: Descriptor, name: str, amount: int) -> None:
        self.layers[min(descriptor.layer, len(self.layers) - 1)][name] += amount

    # Running

    def advance(self) -> bool:
        """Run the first command of one unit that can run. False if none can."""
        for unit, queue in self.queues.items():
            if not queue:
                continue
            command = queue[0]
            if any(self.done[other] < count for other, count in command.waits.items()):
                continue
            try:
                if unit == Opcode.TILE:
                    if not self.tile_can_run(command):
                        continue
                    queue.popleft()
                    self.run_tile(command, self.begin(unit, command))
                elif unit == Opcode.OUTPUT:
                    if not self.begin_output(command):
                        continue
                    queue.popleft()
                else:
                    queue.popleft()
                    known = self.begin(unit, command)
                    _RUN[command.descriptor.opcode](self, command, known)
                    self.complete(unit, command, known)
                self.feed_output()
            except ValueError as error:
                raise ExecutionError(f"{self.name(command)}: {error}") from None
            return True
        return False

    def begin(self, unit: Opcode, command: _Command) -> NDArray[np.int64]:
        """What is known to be complete when a command begins."""
        known = self.begun[unit]
        if self.check:
            for other, count in command.waits.items():
                known = np.maximum(known, self.completed[other][count - 1])
            self.begun[unit] = known
        return known

    def complete(self, unit: Opcode, command: _Command, known: NDArray[np.int64]) -> None:
        self.done[unit] += 1
        if self.check:
            after = known.copy()
            if self.completed[unit]:
                after = np.maximum(after, self.completed[unit][-1])
            after[UNITS.index(unit)] = command.turn
            self.completed[unit].append(after)

    def read_l2(self, command: _Command, words: NDArray[np.int64], known: NDArray[np.int64]) -> NDArray[np.uint8]:
        self.check_words("l2", words, len(self.l2))
        self.count(command.descriptor, "l2_reads", words.size)
        if self.l2_order is not None:
            unit = UNITS.index(self.unit(command.descriptor))
            self.l2_order.read(words, unit, command.turn, known)
        found: NDArray[np.uint8] = self.l2[words]
        return found

    def write_l2(
        self, command: _Command, words: NDArray[np.int64], data: NDArray[np.uint8], known: NDArray[np.int64]
    ) -> None:
        self.check_words("l2", words, len(self.l2))
        self.count(command.descriptor, "l2_writes", words.size)
        if self.l2_order is not None:
            self.l2_order.write(words, UNITS.index(self.unit(command.descriptor)), command.turn, known)
        self.l2[words] = data
        if self.observe:
            self.observe(command.number, command.descriptor, data)

    def check_words(self, memory: str, words: NDArray[np.int64], depth: int) -> None:
        if words.size:
            self.check_span(memory, int(words.min()), int(words.max()), depth)

    @staticmethod
    def check_span(memory: str, least: int, most: int, depth: int) -> None:
        if least < 0 or most >= depth:
            wrong = least if least < 0 else most
            raise ValueError(f"{memory.upper()} words must be in 0..{depth - 1}, not {wrong}")

    def span(self, memory: str, base: int, count: int, depth: int) -> NDArray[np.int64]:
        """Words that follow each other, checked before anything of their number is allocated."""
        self.check_span(memory, base, base + count - 1, depth)
        return base + np.arange(count)

    # DRAM

    def dram(self, address: int, size: int, alignment: int, written: bool = False) -> slice:
        program = self.program
        low = program.base + (len(program.image) if written else 0)
        high = program.base + len(self.memory) - size
        if not low <= address <= high or address % alignment:
            raise ValueError(
                f"address must be a multiple of {alignment} in {low}..{high}, not {address} ({size} bytes)"
            )
        return slice(address - program.base, address - program.base + size)

    def fetch(self, descriptor: Descriptor) -> None:
        body = descriptor.body
        channels = {Channel[name.upper()]: name for name in self.streams}
        if body["channel"] not in channels:
            names = ", ".join(f"{int(number)} {name}" for number, name in channels.items())
            raise ValueError(f"channel must be one of {names}, not {body['channel']}")
        if body["words"] < 1:
            raise ValueError(f"words must be at least 1, not {body['words']}")
        place = self.dram(body["address"], body["words"] * self.word_bytes, self.word_bytes)
        self.count(descriptor, "dram_reads", body["words"])
        data = self.memory[place].copy()
        checksum = zlib.crc32(data.tobytes())
        if checksum != body["checksum"]:
            raise ValueError(f"checksum mismatch: {checksum:#010x} of the fetched bytes, not {body['checksum']:#010x}")
        ahead = self.streams[channels[Channel(body["channel"])]].fetch(data)
        if ahead > FETCHES_AHEAD:
            raise ValueError(
                f"hangs: at most {FETCHES_AHEAD} FETCHes of a channel may stand ahead of the command that takes their"
                f" words, not {ahead}"
            )

    def transfer(self, command: _Command, known: NDArray[np.int64]) -> tuple[slice, NDArray[np.int64]]:
        """Place in DRAM and words in L2 of a LOAD or STORE."""
        body, written = command.descriptor.body, command.descriptor.opcode == Opcode.STORE
        if body["words"] < 1:
            raise ValueError(f"words must be at least 1, not {body['words']}")
        # Whole words of DRAM: what a STORE does not fill of its last one becomes 0.
        words = -(-body["words"] * self.config.l2_word // self.word_bytes)
        place = self.dram(body["address"], words * self.word_bytes, self.program.alignment, written)
        if self.dram_order is not None:
            access = self.dram_order.write if written else self.dram_order.read
            units = np.arange(place.start // self.program.alignment, -(-place.stop // self.program.alignment))
            access(units, UNITS.index(command.descriptor.opcode), command.turn, known)
        self.count(command.descriptor, "dram_writes" if written else "dram_reads", words)
        return place, self.span("l2", body["l2_base"], body["words"], len(self.l2))

    def load(self, command: _Command, known: NDArray[np.int64]) -> None:
        place, words = self.transfer(command, known)
        size = words.size * self.config.l2_word
        self.write_l2(command, words, self.memory[place][:size].reshape(len(words), -1), known)

    def store(self, command: _Command, known: NDArray[np.int64]) -> None:
        place, words = self.transfer(command, known)
        data = self.read_l2(command, words, known).reshape(-1)
        self.memory[place] = np.concatenate([data, np.zeros(place.stop - place.start - len(data), np.uint8)])

    def record(self, command: _Command, known: NDArray[np.int64]) -> None:
        self.dram(command.descriptor.body["address"], BYTES, BYTES, written=True)
        self.count(command.descriptor, "dram_writes", max(1, BYTES // self.word_bytes))

    # L2 to L1

    def copy(self, command: _Command, known: NDArray[np.int64]) -> None:
        body, config = command.descriptor.body, self.config
        height, width, groups = (at_least_one(body, name) for name in ("height", "width", "groups"))
        per_vector = config.H // config.l2_word
        words = self.span("l1", body["l1_base"], height * width * groups, self.config.l1_ifmap_depth)
        copied = min(body["channel_words"], groups * per_vector)
        rows = body["first_row"] + np.arange(height)
        columns = body["first_column"] + np.arange(width)
        inside = (rows >= 0) & (rows < body["rows"]), (columns >= 0) & (columns < body["columns"])
        at = (
            body["l2_base"]
            + (rows[inside[0]] * body["row_words"])[:, None, None]
            + (columns[inside[1]] * body["pixel_words"])[:, None]
            + (body["first_word"] + np.arange(copied))
        )
        vectors = np.zeros((height, width, groups * per_vector, config.l2_word), np.uint8)
        vectors[np.ix_(*inside, np.arange(copied))] = self.read_l2(command, at, known)
        if self.l1_order is not None:
            self.l1_order.write(words, UNITS.index(Opcode.COPY), command.turn, known)
        values = vectors.reshape(-1, config.H).view(np.int8)
        self.array.write_l1(body["l1_base"], values)
        self.count(command.descriptor, "l1_writes", len(words))
        if self.observe:
            self.observe(command.number, command.descriptor, values)

    # The array

    def check_tile(self, body: Mapping[str, int]) -> TileShape:
        tile = self.array.shape(body)
        raw = self.array.is_raw(body)
        if not body["start"] and self.raw not in (None, raw):
            raise ValueError("start must be 1 between raw weights and codewords")
        self.raw = raw
        return tile

    def tile_can_run(self, command: _Command) -> bool:
        body = command.descriptor.body
        if body["last"] and self.output is None:
            return False
        return all(self.streams[name].has(bits, bool(body["start"])) for name, bits in command.sizes.items())

    def decode_ahead(self, raw: bool) -> NDArray[np.int8]:
        """Rows of the next tiles, as many as came with one FETCH: decoding them at once takes a fraction of the time.

        None where they are at fault: what is wrong is then found tile by tile.
        """
        bits = self.decoder.raw_bits if raw else self.decoder.row_bits
        rows = min(self.streams[name].together // size for name, size in bits.items() if size)
        try:
            return self.decoder.decode(
                {name: self.streams[name].ahead(rows * x) for name, x in bits.items()}, raw, rows
            )
        except ValueError:
            return np.zeros((0, self.config.L), np.int8)

    def tile_weights(self, command: _Command) -> NDArray[np.int8]:
        """int8 ``[D, B, A, H, L]``; 0 in rows that are not written."""
        body = command.descriptor.body
        assert command.tile is not None
        raw, rows = self.array.is_raw(body), command.tile.row_writes
        for name, sizes in command.sizes.items():
            stream = self.streams[name]
            if body["start"]:
                stream.align()
            for size in sizes[:-1]:
                self.decoder.load(stream.take(size))
                stream.align()
        if body["start"]:
            self.decoded = self.decode_ahead(raw)
        taken = {name: sizes[-1] for name, sizes in command.sizes.items()}
        decoded, self.decoded = self.decoded[:rows], self.decoded[rows:]
        if len(decoded) == rows:
            for name, size in taken.items():
                self.streams[name].skip(size)
        else:
            self.decoded = self.decoded[:0]
            decoded = self.decoder.decode({name: self.streams[name].take(x) for name, x in taken.items()}, raw, rows)
        A, B, D, H, L = body["A"], body["B"], body["D"], self.config.H, self.config.L
        if body["rows"] == H:
            return decoded.reshape(D, B, A, H, L)
        weights = np.zeros((D, B, A, H, L), np.int8)
        each = decoded.reshape(D, -1, L)
        full = (B - 1) * A * H
        weights[:, : B - 1] = each[:, :full].reshape(D, B - 1, A, H, L)
        weights[:, B - 1, :, : body["rows"]] = each[:, full:].reshape(D, A, body["rows"], L)
        return weights

    def run_tile(self, command: _Command, known: NDArray[np.int64]) -> None:
        body, array, tile = command.descriptor.body, self.array, command.tile
        assert tile is not None
        array.check_entries(body, tile)
        weights = self.tile_weights(command)
        region = array.region(body)
        base = body["l1_base"]
        self.check_span("l1", base + region.least, base + region.most, self.config.l1_ifmap_depth)
        if self.l1_order is not None:
            self.l1_order.read(base + region.words, UNITS.index(Opcode.TILE), command.turn, known)
        own = array.multiply(body, tile, weights, array.windows(body, region))
        sums = tile.positions * body["A"]
        for name, amount in tile.counts.items():
            self.count(command.descriptor, name, amount)
        if body["accumulate"]:
            self.count(command.descriptor, "psum_reads", sums)
        self.complete(Opcode.TILE, command, known)
        if not body["last"]:
            self.count(command.descriptor, "psum_writes", sums)
        elif own is not None:
            self.sums.append(_Sums(own, known, command.turn))
        if self.observe and own is not None:
            self.observe(command.number, command.descriptor, own)

    # Sums to L2

    def parameter_bits(self, body: Mapping[str, int]) -> int:
        words = -(-body["A"] * self.config.L * _PARAMETER // self.word_bytes)
        return words * self.word_bytes * 8

    def wanted_vectors(self, body: Mapping[str, int]) -> int:
        return body["height"] * body["width"] * body["A"]

    def begin_output(self, command: _Command) -> bool:
        """Make an OUTPUT the storer's. False if it cannot begin yet."""
        body, config = command.descriptor.body, self.config
        if self.output:
            return False
        for name in ("height", "width"):
            at_least_one(body, name)
        if not 1 <= body["A"] <= config.prf_depth:
            raise ValueError(f"A must be in 1..{config.prf_depth}, not {body['A']}")
        if not 1 <= body["channels"] <= body["A"] * config.L:
            raise ValueError(f"channels must be in 1..{body['A'] * config.L}, not {body['channels']}")
        if body["low"] > body["high"]:
            raise ValueError(f"low must be at most high = {body['high']}, not {body['low']}")
        if body["parameters"]:
            bits = self.parameter_bits(body)
            stream = self.streams["parameter"]
            if not stream.has([bits], True):
                return False
            count = body["A"] * config.L
            data = np.packbits(stream.take(bits), bitorder="little")[: count * _PARAMETER].tobytes()
            bias, multiplier, shift = np.frombuffer(data, "<i4").reshape(count, 3).T
            used = shift[: body["channels"]]
            if not ((used >= 0) & (used <= 62)).all():
                raise ValueError(f"shifts must be in 0..62, not {int(used[(used < 0) | (used > 62)][0]) % (1 << 32)}")
            self.parameters = Requantisation(
                np.ascontiguousarray(bias), np.ascontiguousarray(multiplier), (shift % 63).astype(np.uint8)
            )
        if self.parameters is None or len(self.parameters.bias) < body["A"] * config.L:
            raise ValueError(f"parameters of {body['A'] * config.L} channels must have been taken")
        self.output = _Output(command, self.begin(Opcode.OUTPUT, command))
        return True

    def feed_output(self) -> None:
        """Hand sums to the storer, and store when all of an OUTPUT are there."""
        while self.output and self.sums:
            output, first = self.output, self.sums[0]
            body = output.command.descriptor.body
            part = first.vectors[: self.wanted_vectors(body) - output.count]
            output.taken.append(part)
            output.count += len(part)
            output.tiles = first.turn
            if self.check:
                # The storer writes nothing before the first sums come, so what was known to their tile is known to it.
                output.known = np.maximum(output.known, first.begun)
            if len(part) == len(first.vectors):
                self.sums.popleft()
            else:
                first.vectors = first.vectors[len(part) :]
            if output.count == self.wanted_vectors(body):
                self.output = None
                try:
                    self.store_output(output)
                except ValueError as error:
                    raise ExecutionError(f"{self.name(output.command)}: {error}") from None

    def store_output(self, output: _Output) -> None:
        command, known, config = output.command, output.known, self.config
        body = command.descriptor.body
        channels = body["A"] * config.L
        sums = np.concatenate(output.taken).reshape(body["height"], body["width"], channels)
        assert self.parameters is not None
        p = self.parameters
        given = Requantisation(p.bias[:channels], p.multiplier[:channels], p.shift[:channels])
        if body["wide"]:
            values: NDArray[Any] = (sums + given.bias).astype("<i4")
        else:
            requantised = requantise(np.ascontiguousarray(sums.transpose(2, 0, 1)), given).transpose(1, 2, 0)
            values = np.clip(requantised, body["low"], body["high"])
        values = np.where(np.arange(channels) < body["channels"], values, values.dtype.type(0))
        data = np.ascontiguousarray(values).view(np.uint8).reshape(body["height"], body["width"], -1, config.l2_word)
        words = (
            body["l2_base"]
            + (np.arange(body["height"]) * body["line_words"])[:, None, None]
            + (np.arange(body["width"]) * body["position_words"])[:, None]
            + np.arange(data.shape[2])
        )
        self.write_l2(command, words, data, known)
        if self.check:
            known = np.maximum(known, self.completed[Opcode.TILE][output.tiles - 1])
        self.complete(Opcode.OUTPUT, command, known)

    # L2 to L2

    def vector(self, command: _Command, known: NDArray[np.int64]) -> None:
        self.vectors.run(
            command.descriptor.body,
            lambda words: self.read_l2(command, words, known),
            lambda words, data: self.write_l2(command, words, data, known),
        )


_RUN: dict[Opcode, Callable[[Machine, _Command, NDArray[np.int64]], None]] = {
    Opcode.LOAD: Machine.load,
    Opcode.COPY: Machine.copy,
    Opcode.VECTOR: Machine.vector,
    Opcode.STORE: Machine.store,
    Opcode.RECORD: Machine.record,
}


def descriptor_name(program: Program, number: int, descriptor: Descriptor) -> str:
    """How messages call a descriptor."""
    layers = program.layers
    layer = f", layer {layers[descriptor.layer].name!r}" if descriptor.layer < len(layers) else ""
    return f"descriptor {number} ({descriptor.opcode.name}{layer})"
