"""The golden executor: runs a program from its bytes in DRAM, as the accelerator does, without its timing.

Descriptors are taken in order and given to the units. A unit runs its commands in order, each once the events that it
waits for have happened and the words that it needs have been fetched; a command then runs as a whole. A program
without races gives the same memory in every order that its waits allow, so this one stands for all of them. With
``check`` the executor proves that there are no races: every access to L2 and to the L1 of activations must be ordered,
by events, behind those that it depends on.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from hw.config import AcceleratorConfig
from hw.control.descriptor import BYTES, EVENTS, QUEUE_DEPTHS, WAIT_REACH, Channel, Descriptor, Opcode, VectorOp
from sw.compiler.program import COUNTED, Program
from sw.format.layer import Requantisation
from sw.format.packing import unrank_masks
from sw.golden.layer import GoldenError, requantise

__all__ = ["COUNTS", "Execution", "ExecutionError", "execute", "run_program"]

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

#: The units by the commands that they run; the store unit runs RECORD too.
_UNITS = tuple(COUNTED.values())
#: Bytes of the parameters of one channel: bias, multiplier and shift.
_PARAMETER = 12


class ExecutionError(GoldenError):
    """A program that cannot run, or whose result depends on chance. The message names the descriptor."""


@dataclass(frozen=True)
class Execution:
    """What a run leaves.

    Attributes
    ----------
    memory
        DRAM from the program's base on, uint8 ``[dram_bytes]``. Records of counters are not written.
    layers
        For each layer of the table, how often each of :data:`COUNTS` happened in its descriptors; those that belong to
        no layer are in a last entry.
    """

    memory: NDArray[np.uint8]
    layers: list[dict[str, int]]

    @property
    def total(self) -> dict[str, int]:
        """The counts of the whole program."""
        return {name: sum(layer[name] for layer in self.layers) for name in COUNTS}


class _Stream:
    """A channel: the fetched words that nobody has taken yet."""

    def __init__(self, word_bytes: int) -> None:
        self.word_bytes = word_bytes
        self.chunks: deque[NDArray[np.uint8]] = deque()
        self.words = 0
        # Bits of the first word that are gone.
        self.bit = 0
        # Words fetched and asked for since the beginning, and the first word of each FETCH that may stand ahead.
        self.fetched = 0
        self.demanded = 0
        self.demanded_bit = 0
        self.starts: deque[int] = deque()

    def fetch(self, data: NDArray[np.uint8]) -> int:
        """Take a FETCH's words. Returns how many FETCHes now stand ahead of their consumer."""
        self.starts.append(self.fetched)
        self.chunks.append(data)
        count = len(data) // self.word_bytes
        self.words += count
        self.fetched += count
        while self.starts and self.starts[0] < self.demanded:
            self.starts.popleft()
        return len(self.starts)

    def demand(self, sizes: Sequence[int], start: bool) -> None:
        """Note that a command will take fields of that many bits, each but the first from a new word on."""
        width = 8 * self.word_bytes
        if start:
            self.demanded_bit = 0
        for number, bits in enumerate(sizes):
            left = -self.demanded_bit % width if number == 0 else 0
            self.demanded += max(0, -(-(bits - left) // width))
            self.demanded_bit = (bits - left) % width

    def has(self, sizes: Sequence[int], start: bool) -> bool:
        """Whether :meth:`take` can be called for these sizes in turn."""
        width = 8 * self.word_bytes
        bit, words = (0, self.words - bool(self.bit)) if start else (self.bit, self.words)
        for number, bits in enumerate(sizes):
            if number:
                words, bit = words - bool(bit), 0
            words -= (bit + bits) // width
            bit = (bit + bits) % width
        return words >= bool(bit)

    def align(self) -> None:
        """Drop what is left of a word that has been taken in part."""
        if self.bit:
            self._drop(1)
            self.bit = 0

    def _drop(self, words: int) -> None:
        self.words -= words
        size = words * self.word_bytes
        while size:
            chunk = self.chunks.popleft()
            if len(chunk) > size:
                self.chunks.appendleft(chunk[size:])
            size = max(0, size - len(chunk))

    def take(self, bits: int) -> NDArray[np.uint8]:
        """The next bits, one a byte."""
        size = -(-(self.bit + bits) // (8 * self.word_bytes)) * self.word_bytes
        pieces: list[NDArray[np.uint8]] = []
        found = 0
        for chunk in self.chunks:
            pieces.append(chunk[: size - found])
            found += len(pieces[-1])
            if found == size:
                break
        data = pieces[0] if len(pieces) == 1 else np.concatenate(pieces or [np.zeros(0, np.uint8)])
        unpacked = np.unpackbits(data, count=self.bit + bits, bitorder="little")[self.bit :]
        end = self.bit + bits
        self._drop(end // (8 * self.word_bytes))
        self.bit = end % (8 * self.word_bytes)
        return unpacked


def _fields(bits: NDArray[np.uint8], width: int) -> NDArray[np.int64]:
    """Fields of ``width`` bits, lowest bit first."""
    grouped = bits.reshape(-1, width)
    values = grouped[:, 0].astype(np.int64)
    for place in range(1, width):
        values |= grouped[:, place].astype(np.int64) << place
    return values


class _Decoder:
    """Weights of row writes from the packed streams, bit by bit as the hardware's weight loader."""

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self.codebook: NDArray[np.int8] = np.zeros((0, config.d), np.int8)
        masked = config.features.mask
        self.ranks = comb(config.M, config.N) if masked else 0
        small = masked and self.ranks <= 1 << 16
        self.masks = unrank_masks(np.arange(self.ranks), config.N, config.M) if small else None

    def sizes(self, body: Mapping[str, int], raw: bool, rows: int) -> dict[str, list[int]]:
        """Bits that a tile takes from each stream, in turn."""
        config = self.config
        if raw:
            return {name: [rows * bits] for name, bits in config.raw_streams.items()}
        sizes = {"weight": [rows * config.streams["index"]]}
        if body["codewords"]:
            sizes["weight"].insert(0, body["codewords"] * config.d * config.codeword_bits)
        return sizes | {name: [rows * bits] for name, bits in config.streams.items() if name != "index"}

    def load(self, bits: NDArray[np.uint8]) -> None:
        """Fill the codebook register file; entries beyond the codewords keep what they hold."""
        width, d = self.config.codeword_bits, self.config.d
        codewords = _fields(bits, width).astype(np.uint8).view(np.int8).reshape(-1, d)
        self.codebook = np.concatenate([codewords, self.codebook[len(codewords) :]])

    def decode(self, bits: Mapping[str, NDArray[np.uint8]], raw: bool, rows: int) -> NDArray[np.int8]:
        """The weights, int8 ``[rows, L]``. Raises ValueError with what is wrong with the bits."""
        config = self.config
        masks: NDArray[np.bool_] | None = None
        if config.features.mask and (config.features.sparse or not raw):
            groups = rows * config.tiles * config.mask_groups
            ranks = _fields(bits["mask"], config.mask_bits) if config.mask_bits else np.zeros(groups, np.int64)
            if (highest := int(ranks.max(initial=0))) >= self.ranks:
                raise ValueError(f"mask ranks must be in 0..{self.ranks - 1}, not {highest}")
            found = self.masks[ranks] if self.masks is not None else unrank_masks(ranks, config.N, config.M)
            masks = found.reshape(rows, config.L)
        if raw:
            values = np.packbits(bits["weight"], bitorder="little").view(np.int8)
            if config.features.sign and (values == -128).any():
                raise ValueError("raw weights must be in -127..127 in sign-split variants, not -128")
            if masks is None or not config.features.sparse:
                return values.reshape(rows, config.L)
            weights = np.zeros((rows, config.L), np.int8)
            weights[masks] = values
            return weights
        index = _fields(bits["weight"], config.index_bits)
        if (highest := int(index.max(initial=0))) >= len(self.codebook):
            raise ValueError(f"assignments must be in 0..{len(self.codebook) - 1}, the loaded codewords, not {highest}")
        weights = self.codebook[index].reshape(rows, config.L)
        if masks is not None:
            weights = weights * masks
        if config.features.sign:
            negative = bits["sign"].astype(np.bool_)
            if masks is not None:
                spread = np.zeros((rows, config.L), np.bool_)
                spread[masks] = negative
                negative = spread
            weights = np.where(negative.reshape(rows, config.L), -weights, weights)
        return weights


class _Ordered:
    """A memory whose accesses must be ordered by events: who wrote each word last, and who has read it since."""

    def __init__(self, name: str, words: int, filled: bool = False) -> None:
        self.name = name
        # What was there before the program, no command of it has written.
        self.writer = np.full(words, 0 if filled else -1, np.int8)
        self.written = np.zeros(words, np.int32)
        self.reads = np.zeros((len(_UNITS), words), np.int32)

    def _fail(self, words: NDArray[np.integer[Any]], wrong: NDArray[np.bool_], text: str) -> None:
        if wrong.any():
            raise ValueError(f"race: {self.name} word {int(np.ravel(words)[np.ravel(wrong)][0])} {text}")

    def _by(self, unit: int, number: int) -> str:
        return f"{_UNITS[unit].name} {number - 1}"

    def read(self, words: NDArray[np.int64], unit: int, number: int, known: NDArray[np.int64]) -> None:
        writer = self.writer[words]
        self._fail(words, writer < 0, "is read before anything is written to it")
        written = self.written[words]
        wrong = written > known[writer]
        if wrong.any():
            text = self._by(int(writer[wrong][0]), int(written[wrong][0]))
            self._fail(words, wrong, f"is read without waiting for {text}, which writes it")
        self.reads[unit][words] = number

    def write(self, words: NDArray[np.int64], unit: int, number: int, known: NDArray[np.int64]) -> None:
        for reader in range(len(_UNITS)):
            read = self.reads[reader][words]
            wrong = read > known[reader] if reader != unit else np.zeros(read.shape, np.bool_)
            if wrong.any():
                text = self._by(reader, int(read[wrong][0]))
                self._fail(words, wrong, f"is written without waiting for {text}, which reads it")
        writer, written = self.writer[words], self.written[words]
        wrong = (writer >= 0) & (writer != unit) & (written > known[writer])
        if wrong.any():
            text = self._by(int(writer[wrong][0]), int(written[wrong][0]))
            self._fail(words, wrong, f"is written without waiting for {text}, which writes it too")
        self.writer[words] = unit
        self.written[words] = number


@dataclass
class _Command:
    """A descriptor that was given to its unit."""

    number: int
    descriptor: Descriptor
    # Absolute counts to wait for.
    waits: dict[Opcode, int]
    # The how-manieth of its opcode, from 1.
    turn: int


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


def _clamped_divide(values: NDArray[np.int64], shift: int, low: int, high: int) -> NDArray[np.int8]:
    """``clamp(round(v / 2**shift))``, halves away from zero."""
    half = 1 << shift >> 1
    rounded = np.sign(values) * ((np.abs(values) + half) >> shift)
    clamped: NDArray[np.int8] = np.clip(rounded, low, high).astype(np.int8)
    return clamped


class _Machine:
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
        # Exact in float32, and so ready for the matrix product.
        self.l1 = np.zeros((config.l1_ifmap_depth, config.H), np.float32)
        self.psum = np.zeros((config.l1_psum_depth, config.L), np.int32)
        self.psum_written = np.zeros(config.l1_psum_depth, np.bool_)
        self.streams = {name: _Stream(self.word_bytes) for name in (*config.channels, "parameter")}
        self.decoder = _Decoder(config)
        self.raw: bool | None = None
        self.parameters: Requantisation | None = None
        self.queues: dict[Opcode, deque[_Command]] = {unit: deque() for unit in _UNITS}
        self.given = dict.fromkeys(_UNITS, 0)
        self.done = dict.fromkeys(_UNITS, 0)
        self.output: _Output | None = None
        self.sums: deque[_Sums] = deque()
        self.layers = [dict.fromkeys(COUNTS, 0) for _ in range(len(program.layers) + 1)]
        # What each unit knew to be complete when it began its last command, and after each that it has completed.
        self.begun = {unit: np.zeros(len(_UNITS), np.int64) for unit in _UNITS}
        self.completed: dict[Opcode, list[NDArray[np.int64]]] = {unit: [] for unit in _UNITS}
        self.check = check
        self.l2_order = _Ordered("L2", config.l2_depth) if check else None
        self.l1_order = _Ordered("L1", config.l1_ifmap_depth) if check else None
        self.dram_order = _Ordered("DRAM", len(memory) // program.alignment, filled=True) if check else None

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
                self.check_tile(descriptor.body)
                raw = self.is_raw(descriptor.body)
                sizes = self.decoder.sizes(descriptor.body, raw, self.row_writes(descriptor.body))
                for name, bits in sizes.items():
                    self.streams[name].demand(bits, bool(descriptor.body["start"]))
            elif descriptor.opcode == Opcode.OUTPUT and descriptor.body["parameters"]:
                self.streams["parameter"].demand([self.parameter_bits(descriptor.body)], True)
            queue.append(command)
        while self.advance():
            pass

    def finish(self) -> None:
        """At END: nothing may be left."""
        for unit in _UNITS:
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
        for name, bits in self.decoder.sizes(body, self.is_raw(body), self.row_writes(body)).items():
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
                    if not self.tile_can_run(command.descriptor.body):
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
            after[_UNITS.index(unit)] = command.turn
            self.completed[unit].append(after)

    def read_l2(self, command: _Command, words: NDArray[np.int64], known: NDArray[np.int64]) -> NDArray[np.uint8]:
        self.check_words("l2", words, len(self.l2))
        self.count(command.descriptor, "l2_reads", words.size)
        if self.l2_order is not None:
            unit = _UNITS.index(self.unit(command.descriptor))
            self.l2_order.read(words, unit, command.turn, known)
        found: NDArray[np.uint8] = self.l2[words]
        return found

    def write_l2(
        self, command: _Command, words: NDArray[np.int64], data: NDArray[np.uint8], known: NDArray[np.int64]
    ) -> None:
        self.check_words("l2", words, len(self.l2))
        self.count(command.descriptor, "l2_writes", words.size)
        if self.l2_order is not None:
            self.l2_order.write(words, _UNITS.index(self.unit(command.descriptor)), command.turn, known)
        self.l2[words] = data
        if self.observe:
            self.observe(command.number, command.descriptor, data)

    @staticmethod
    def check_words(memory: str, words: NDArray[np.int64], depth: int) -> None:
        if words.size and not (words.min() >= 0 and (highest := int(words.max())) < depth):
            wrong = int(words.min()) if words.min() < 0 else highest
            raise ValueError(f"{memory.upper()} words must be in 0..{depth - 1}, not {wrong}")

    def span(self, memory: str, base: int, count: int, depth: int) -> NDArray[np.int64]:
        """Words that follow each other, checked before anything of their number is allocated."""
        self.check_words(memory, np.array([base, base + count - 1]), depth)
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
            access(units, _UNITS.index(command.descriptor.opcode), command.turn, known)
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
        words = self.span("l1", body["l1_base"], height * width * groups, len(self.l1))
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
            self.l1_order.write(words, _UNITS.index(Opcode.COPY), command.turn, known)
        values = vectors.reshape(-1, config.H).view(np.int8)
        self.l1[words] = values
        self.count(command.descriptor, "l1_writes", len(words))
        if self.observe:
            self.observe(command.number, command.descriptor, values)

    # The array

    def is_raw(self, body: Mapping[str, int]) -> bool:
        return bool(body["raw"]) or not self.config.features.codebook

    def row_writes(self, body: Mapping[str, int]) -> int:
        return body["A"] * body["D"] * ((body["B"] - 1) * self.config.H + body["rows"])

    def check_tile(self, body: Mapping[str, int]) -> None:
        config = self.config
        loop = (1 << config.loop_bits) - 1
        A, B, D, Dr = (body[name] for name in ("A", "B", "D", "Dr"))
        for name, value, low, high in (
            ("A", A, 1, config.prf_depth),
            ("B*D", B * D, 1, config.arf_depth),
            ("A*B*D", A * B * D, 1, config.tile_weights),
            ("Dr", Dr, 1, max(D, 1)),
            ("rows", body["rows"], 1, config.H),
            ("width", body["width"], 1, loop),
            ("height", body["height"], 1, loop),
            ("codewords", body["codewords"], 0, config.k if config.features.codebook else 0),
            ("passes", body["passes"], 1, max(B, 1)),
        ):
            if not low <= value <= high:
                raise ValueError(f"{name} must be in {low}..{high}, not {value}")
        if D % Dr or not 1 <= body["advance_columns"] <= D // Dr:
            if D % Dr:
                raise ValueError(f"Dr must divide D = {D}, not {Dr}")
            raise ValueError(f"advance_columns must be in 1..{D // Dr}, not {body['advance_columns']}")
        if B % body["passes"]:
            raise ValueError(f"passes must divide B = {B}, not {body['passes']}")
        if body["passes"] > 1 and body["rows"] != config.H:
            raise ValueError(f"rows must be {config.H} where passes > 1, not {body['rows']}")
        if body["codewords"] and (not body["start"] or self.is_raw(body)):
            raise ValueError("codewords must be 0 for raw weights and without start")
        if not body["start"] and self.raw not in (None, self.is_raw(body)):
            raise ValueError("start must be 1 between raw weights and codewords")
        self.raw = self.is_raw(body)

    def tile_can_run(self, body: Mapping[str, int]) -> bool:
        if body["last"] and self.output is None:
            return False
        sizes = self.decoder.sizes(body, self.is_raw(body), self.row_writes(body))
        return all(self.streams[name].has(bits, bool(body["start"])) for name, bits in sizes.items())

    def tile_weights(self, body: Mapping[str, int]) -> NDArray[np.int8]:
        """int8 ``[D, B, A, H, L]``; 0 in rows that are not written."""
        raw, rows = self.is_raw(body), self.row_writes(body)
        bits: dict[str, NDArray[np.uint8]] = {}
        for name, sizes in self.decoder.sizes(body, raw, rows).items():
            stream = self.streams[name]
            for number, size in enumerate(sizes):
                if body["start"] or number:
                    stream.align()
                if number < len(sizes) - 1:
                    self.decoder.load(stream.take(size))
                else:
                    bits[name] = stream.take(size)
        decoded = self.decoder.decode(bits, raw, rows)
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
        body, config = command.descriptor.body, self.config
        A, B, D, Dr, passes = (body[name] for name in ("A", "B", "D", "Dr", "passes"))
        Ds, groups, advance = D // Dr, B // passes, body["advance_columns"]
        width, height = body["width"], body["height"]
        positions = height * width
        entries = slice(body["psum_base"], body["psum_base"] + positions * A)
        if (body["accumulate"] or not body["last"]) and entries.stop > len(self.psum):
            raise ValueError(f"psum entries must be in 0..{len(self.psum) - 1}, not {entries.stop - 1}")
        if body["last"] and positions * A * config.L > config.l2_bytes:
            raise ValueError(f"positions of {A * config.L} channels must fit L2, not {height} x {width} of them")
        weights = self.tile_weights(body)

        # Where each vector of a window was read: at its own position, or at an earlier one from which it was kept.
        position, ds = np.arange(width)[:, None], np.arange(Ds)
        kept = np.minimum(position, np.maximum(0, -(-(Ds - advance - ds) // advance)))
        column = (position - kept) * body["position_pitch"] + (ds + kept * advance) * body["ds_pitch"]
        words = (
            body["l1_base"]
            + (np.arange(height) * body["line_pitch"])[:, None, None, None, None]
            + column[:, :, None, None]
            + (np.arange(Dr) * body["dr_pitch"])[:, None]
            + np.arange(groups) * body["b_pitch"]
        )  # [height, width, Ds, Dr, groups]
        self.check_words("l1", words, len(self.l1))
        if self.l1_order is not None:
            self.l1_order.read(words, _UNITS.index(Opcode.TILE), command.turn, known)
        # Products of int8 sums of up to 2**10 terms are exact in float32.
        exact: Any = np.float32 if D * B * config.H <= 1 << 10 else np.float64
        activations = self.l1[words.reshape(positions, -1)].astype(exact, copy=False)
        if body["rows"] < config.H and activations.reshape(positions, D, groups, -1)[:, :, -1, body["rows"] :].any():
            raise ValueError(f"activations of rows {body['rows']}..{config.H - 1} of the last row group must be 0")
        matrix = weights.astype(exact).reshape(D, groups, passes, A, config.H, config.L).sum(axis=2)
        matrix = matrix.transpose(0, 1, 3, 2, 4).reshape(D * groups * config.H, A * config.L)
        own = (activations.reshape(positions, -1) @ matrix).astype(np.int32).reshape(positions * A, config.L)

        if body["accumulate"]:
            if not self.psum_written[entries].all():
                raise ValueError("accumulates psum entries that no TILE has written")
            own += self.psum[entries]
            self.count(command.descriptor, "psum_reads", positions * A)
        unused = 32 - config.psum_width
        own = own << unused >> unused
        self.count(command.descriptor, "operations", positions * A * B * D)
        self.count(command.descriptor, "row_writes", self.row_writes(body))
        self.count(
            command.descriptor, "l1_reads", height * (Ds + (width - 1) * min(advance, Ds)) * Dr * groups * passes
        )
        self.complete(Opcode.TILE, command, known)
        if body["last"]:
            self.sums.append(_Sums(own, known, command.turn))
        else:
            self.psum[entries] = own
            self.psum_written[entries] = True
            self.count(command.descriptor, "psum_writes", positions * A)
        if self.observe:
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
        body = command.descriptor.body
        if body["operation"] not in list(VectorOp):
            raise ValueError(f"operation must be in 0..{max(VectorOp)}, not {body['operation']}")
        operation = VectorOp(body["operation"])
        height, width, pixel = (at_least_one(body, name) for name in ("height", "width", "pixel_words"))
        rows, columns = body["rows"], body["columns"]
        limit = 31 if operation == VectorOp.ADD else 62
        if body["shift"] > limit:
            raise ValueError(f"shift must be in 0..{limit}, not {body['shift']}")
        if body["low"] > body["high"]:
            raise ValueError(f"low must be at most high = {body['high']}, not {body['low']}")
        target = self.span("l2", body["l2_base"], height * width * pixel, len(self.l2)).reshape(height, width, pixel)
        if operation == VectorOp.ADD:
            if (rows, columns) != (height, width):
                raise ValueError(f"height x width must be {rows} x {columns} for ADD, not {height} x {width}")
            total = np.zeros((*target.shape, self.config.l2_word), np.int64)
            for name in "ab":
                if abs(multiplier := body[f"multiplier_{name}"]) >= 1 << 22:
                    raise ValueError(f"multiplier_{name} must be below 2**22, not {multiplier}")
                words = body[f"{name}_base"] + target - body["l2_base"]
                total += self.read_l2(command, words, known).view(np.int8).astype(np.int64) * multiplier
            values = _clamped_divide(total, body["shift"], body["low"], body["high"])
            self.write_l2(command, target, values.view(np.uint8), known)
            return
        result = np.full((*target.shape, self.config.l2_word), -128 if operation == VectorOp.MAXIMUM else 0, np.int64)
        seen = np.zeros((height, width), np.bool_)
        for r in range(at_least_one(body, "kernel_rows")):
            u = np.arange(height) * body["stride_rows"] - body["padding_rows"] + r
            in_rows = (u >= 0) & (u < rows)
            for s in range(at_least_one(body, "kernel_columns")):
                v = np.arange(width) * body["stride_columns"] - body["padding_columns"] + s
                in_columns = (v >= 0) & (v < columns)
                words = (
                    body["a_base"]
                    + ((u[in_rows] * columns)[:, None] + v[in_columns])[..., None] * pixel
                    + np.arange(pixel)
                )
                values = self.read_l2(command, words, known).view(np.int8)
                place = np.ix_(in_rows, in_columns)
                seen[place] = True
                if operation == VectorOp.MAXIMUM:
                    result[place] = np.maximum(result[place], values)
                else:
                    result[place] += values
        if operation == VectorOp.MAXIMUM:
            if not seen.all():
                raise ValueError("every window of MAXIMUM must hold a value that is not padding")
            data = np.clip(result, body["low"], body["high"]).astype(np.int8)
        else:
            data = _clamped_divide(result * body["multiplier_a"], body["shift"], body["low"], body["high"])
        self.write_l2(command, target, data.view(np.uint8), known)


_RUN: dict[Opcode, Callable[[_Machine, _Command, NDArray[np.int64]], None]] = {
    Opcode.LOAD: _Machine.load,
    Opcode.COPY: _Machine.copy,
    Opcode.VECTOR: _Machine.vector,
    Opcode.STORE: _Machine.store,
    Opcode.RECORD: _Machine.record,
}


def at_least_one(body: Mapping[str, int], name: str) -> int:
    """The field, checked."""
    if body[name] < 1:
        raise ValueError(f"{name} must be at least 1, not {body[name]}")
    return body[name]


def descriptor_name(program: Program, number: int, descriptor: Descriptor) -> str:
    """How messages call a descriptor."""
    layers = program.layers
    layer = f", layer {layers[descriptor.layer].name!r}" if descriptor.layer < len(layers) else ""
    return f"descriptor {number} ({descriptor.opcode.name}{layer})"


def execute(
    program: Program,
    memory: NDArray[np.uint8],
    *,
    check: bool = False,
    observe: Callable[[int, Descriptor, NDArray[Any]], None] | None = None,
    progress: bool = False,
) -> Execution:
    """Run a program.

    Parameters
    ----------
    program
        For any instance.
    memory
        DRAM as :meth:`sw.compiler.program.Program.memory` gives it; it is not changed.
    check
        Prove that no result depends on which unit is faster, and that nothing is read before it is written.
    observe
        Called with what each command has produced: the number of its descriptor, the descriptor, and the words that it
        wrote to L2 (uint8), the vectors that it wrote to L1 (int8), or the sums of a TILE (int32).
    progress
        Show a progress bar.

    Raises
    ------
    ExecutionError
        A descriptor is out of range, an address out of bounds, a checksum wrong, the program hangs or does not end, or,
        with ``check``, it has a race. The message names the descriptor.
    """
    if memory.dtype != np.uint8 or memory.shape != (program.dram_bytes,):
        raise ExecutionError(f"memory must be uint8 [{program.dram_bytes}], not {memory.dtype} {list(memory.shape)}")
    machine = _Machine(program, memory.copy(), check, observe)
    listing = program.listing
    bar = Progress(transient=True) if progress else nullcontext()
    with bar as shown:
        task = shown.add_task("golden run", total=len(listing)) if shown else None
        for number, descriptor in enumerate(listing):
            if descriptor.opcode == Opcode.END:
                if number != len(listing) - 1:
                    raise ExecutionError(f"descriptor {number} (END): must be the last of {len(listing)} descriptors")
                machine.count(descriptor, "descriptors", 1)
                machine.count(descriptor, "dram_reads", max(1, BYTES // machine.word_bytes))
                machine.finish()
                return Execution(machine.memory, machine.layers)
            try:
                machine.give(number, descriptor)
            except ExecutionError:
                raise
            except ValueError as error:
                raise ExecutionError(f"{descriptor_name(program, number, descriptor)}: {error}") from None
            if shown and task is not None:
                shown.update(task, advance=1)
    raise ExecutionError(f"descriptor {len(listing) - 1}: the last descriptor must be END")


def run_program(
    program: Program, images: Sequence[NDArray[np.int8]], *, check: bool = False, progress: bool = False
) -> dict[str, NDArray[Any]]:
    """The outputs of a program for its inputs, by name.

    Raises
    ------
    sw.compiler.program.ProgramError
        The images do not fit the program.
    ExecutionError
        As :func:`execute`.
    """
    result = execute(program, program.memory(images), check=check, progress=progress)
    return {tensor.name: program.read(result.memory, tensor) for tensor in program.outputs}
