"""Whatever ends a program early, its cause is in a register, and the next program runs as after a reset.

Two networks lie in one DRAM: the first one meets the trouble, the second one runs behind it without a reset.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pytest

from hw.config import preset
from hw.control.descriptor import BYTES, Channel, Descriptor, Opcode
from hw.control.errors import Cause
from sim.accelerator.model import accelerator_runner
from sim.accelerator.run import Bus, Job, Outcome, run_jobs
from sim.runner import VerilatorRunner
from sw.compiler.compile import compile_network
from sw.executor import execute
from sw.network import Network
from sw.program import Program
from tests.hw.control.test_sequencer import ILLEGAL
from tests.sw.networks import Builder, every_operation

NAME = "ews-msvq-tiny"  # the variant with all channels
CONFIG = preset(NAME)
BASE = 1 << 16
LIMIT = 200_000
#: How the model of `make test` is compiled: 10 s of a processor more, and the two dozen runs of it take half of theirs.
QUICK = "-Og"
STEADY = Bus(latency=20)


def first_network() -> Network:
    b = Builder(np.random.default_rng(1), CONFIG)
    x = b.layer("stem", 0, (8, 3, 3, 3), raw=True, padding=(1, 1), range=(0, 127))
    y = b.layer("coded", x, (16, 8, 3, 3), stride=(2, 2), padding=(1, 1))
    z = b.layer("depthwise", y, (16, 1, 3, 3), raw=True, padding=(1, 1), groups=16)
    y = b.op("add", y, z, multipliers=[1 << 20, 1 << 20], shift=21, range=[0, 127])
    y = b.op("flatten", b.op("average", y, multiplier=1 << 28, shift=30))
    b.layer("logits", y, (10, 16, 1, 1), raw=True, kind="linear", op="logits")
    return b.network()


def second_network() -> Network:
    b = Builder(np.random.default_rng(2), CONFIG)
    x = b.layer("pointwise", 0, (8, 5, 1, 1), range=(0, 127))
    x = b.op("maximum", x, kernel=2, stride=2, padding=0)
    x = b.layer("coded", x, (16, 8, 2, 3), padding=(0, 1), k=3)
    x = b.op("flatten", b.op("average", x, multiplier=1 << 28, shift=30))
    b.layer("logits", x, (8, 16, 1, 1), kind="linear", op="logits")
    return b.network()


@dataclass
class Memory:
    """Both programs and their tensors, as one DRAM."""

    first: Program
    second: Program
    changes: dict[int, bytes] = field(default_factory=dict)

    @staticmethod
    def of_networks() -> Memory:
        first = compile_network(first_network(), (3, 6, 5), CONFIG, base=BASE, dump=True)
        base = BASE + -(-first.dram_bytes // 4096) * 4096
        return Memory(first, compile_network(second_network(), (5, 6, 7), CONFIG, base=base, records=False))

    @property
    def split(self) -> int:
        """Where the second program begins."""
        return self.second.base - BASE

    def _images(self, program: Program) -> np.ndarray:
        rng = np.random.default_rng(3)
        return program.memory([rng.integers(-128, 128, x.shape).astype(np.int8) for x in program.inputs])

    @cached_property
    def start(self) -> bytes:
        """Before a run."""
        first = self._images(self.first).tobytes()
        data = bytearray(first + bytes(self.split - len(first)) + self._images(self.second).tobytes())
        for address, change in self.changes.items():
            data[address - BASE : address - BASE + len(change)] = change
        return bytes(data)

    @cached_property
    def expected(self) -> tuple[bytes, bytes]:
        """What each program makes of its part."""
        return tuple(execute(x, self._images(x), check=True).memory.tobytes() for x in (self.first, self.second))

    @cached_property
    def written(self) -> np.ndarray:
        """Which bytes the first program writes."""
        mask = np.zeros(self.split, np.bool_)
        for descriptor in self.first.listing:
            size = {Opcode.STORE: descriptor.body.get("words", 0) * CONFIG.l2_word, Opcode.RECORD: BYTES}
            start = descriptor.body.get("address", 0) - BASE
            mask[start : start + size.get(descriptor.opcode, 0)] = True
        return mask

    @cached_property
    def records(self) -> np.ndarray:
        """Which bytes hold counters, which the golden model does not count in cycles."""
        mask = np.zeros(self.split, np.bool_)
        for layer in self.first.layers:
            if layer.record is not None:
                mask[layer.record - BASE : layer.record - BASE + BYTES] = True
        return mask

    def changed(self, address: int, data: bytes) -> Memory:
        """With other bytes at an address."""
        return Memory(self.first, self.second, {address: data})

    def with_descriptor(self, number: int, data: bytes) -> Memory:
        """With another descriptor in the first program."""
        return self.changed(self.first.descriptors + number * BYTES, data)

    def job(self, program: Program, bus: Bus = STEADY, reset: bool = True, **given) -> Job:
        fields = {"address": program.descriptors, "descriptors": program.descriptor_count, "limit": LIMIT, **given}
        return Job(self.start, base=BASE, bus=bus, reset=reset, **fields)

    def pair(self, bus: Bus = STEADY, **given) -> list[Job]:
        """The first program, and the second one behind it."""
        return [self.job(self.first, bus, **given), self.job(self.second, bus, reset=False)]


@dataclass(frozen=True)
class Trouble:
    """Something that befalls the first program, and how it ends then."""

    name: str
    jobs: Sequence[Job]
    memory: Memory
    cause: Cause
    #: Least and greatest number of the descriptor in ERROR_DESCRIPTOR.
    descriptors: tuple[int, int]
    #: All that was written before is right.
    right: bool = True

    def check(self, outcomes: Sequence[Outcome], reference: Outcome | None) -> None:
        ended = outcomes[0]
        low, high = self.descriptors
        assert (ended.done, ended.cause) == (False, self.cause), self.name
        assert low <= ended.error_descriptor <= high, (self.name, ended.error_descriptor)
        assert not ended.refused, self.name
        check_memory(self.memory, ended, whole=False, right=self.right, name=self.name)
        check_second(self.memory, outcomes[1], reference, self.name)


def check_memory(memory: Memory, outcome: Outcome, *, whole: bool, right: bool = True, name: str = "") -> None:
    """The first program has written nothing but what it should."""
    got, start = (np.frombuffer(data, np.uint8)[: memory.split] for data in (outcome.memory, memory.start))
    assert np.array_equal(got[~memory.written], start[~memory.written]), name
    expected = np.frombuffer(memory.expected[0].ljust(memory.split, b"\0"), np.uint8)
    results = memory.written & ~memory.records
    if whole:
        assert np.array_equal(got[results], expected[results]), name
    elif right:
        assert ((got == expected) | (got == start))[results].all(), name
    assert outcome.memory[memory.split :] == memory.start[memory.split :], name


def check_second(memory: Memory, outcome: Outcome, reference: Outcome | None, name: str) -> None:
    """The second program is right, and, on a bus without chance, takes as long as after a reset."""
    assert (outcome.done, outcome.refused, outcome.cause) == (True, False, Cause.NONE), name
    assert outcome.memory[: memory.split] == memory.start[: memory.split], name
    assert outcome.memory[memory.split :] == memory.expected[1], name
    if reference is not None:
        assert outcome.counters == reference.counters, name


def model(full: bool) -> VerilatorRunner:
    """Built quickly for some runs, and to run quickly for many."""
    return accelerator_runner(CONFIG, f"{NAME}-accelerator", quick=False if full else QUICK)


@pytest.fixture(scope="module")
def runner(full: bool):
    return model(full)


@pytest.fixture(scope="module")
def memory() -> Memory:
    return Memory.of_networks()


@pytest.fixture(scope="module")
def reference(runner, memory: Memory) -> list[Outcome]:
    """Each program after a reset."""
    outcomes = run_jobs(runner, [memory.job(memory.first), memory.job(memory.second)], "reference")
    assert outcomes[0].done
    check_memory(memory, outcomes[0], whole=True)
    check_second(memory, outcomes[1], None, "reference")
    return outcomes


def survive(runner, troubles: Iterable[Trouble], reference: Outcome | None, label: str) -> None:
    troubles = list(troubles)
    outcomes = iter(run_jobs(runner, [job for trouble in troubles for job in trouble.jobs], label))
    for trouble in troubles:
        trouble.check([next(outcomes) for _ in trouble.jobs], reference)


def accesses(program: Program) -> dict[str, list[tuple[int, int, int]]]:
    """Descriptors that use the bus, by kind: number, address and bytes."""
    word = CONFIG.word_width // 8
    found: dict[str, list[tuple[int, int, int]]] = {
        "descriptor": [(n, program.descriptors + n * BYTES, BYTES) for n in range(program.descriptor_count)]
    }
    for number, descriptor in enumerate(program.listing):
        body, opcode = descriptor.body, descriptor.opcode
        size = {
            Opcode.FETCH: body.get("words", 0) * word,
            Opcode.LOAD: body.get("words", 0) * CONFIG.l2_word,
            Opcode.STORE: body.get("words", 0) * CONFIG.l2_word,
            Opcode.RECORD: BYTES,
        }.get(opcode, 0)
        if size:
            name = Channel(body["channel"]).name if opcode is Opcode.FETCH else opcode.name
            found.setdefault(name.lower(), []).append((number, body["address"], size))
    return found


KINDS = ("descriptor", "weight", "mask", "sign", "parameter", "load", "store", "record")


@pytest.mark.parametrize("kind", KINDS)
def test_failed_transfers(runner, memory: Memory, reference, kind: str, full: bool) -> None:
    """A first, a middle and a last word of transfers at the start, in the middle and at the end of a program."""
    write = kind in ("store", "record")
    given = accesses(memory.first)[kind]
    picked = given if full else sorted({given[0], given[len(given) // 2], given[-1]})
    last = memory.first.descriptor_count - 1
    troubles = []
    for number, address, size in picked:
        for place in (0, size // 2, size - 1):
            bus = replace(STEADY, fault="write" if write else "read", fault_address=address + place)
            cause = Cause.WRITE_RESPONSE if write else Cause.READ_RESPONSE
            # Descriptors are read ahead, the others not before they are given out.
            numbers = (0, number) if kind == "descriptor" else (number, last)
            name = f"{kind} {number} byte {place}"
            troubles.append(Trouble(name, memory.pair(bus), memory, cause, numbers))
    survive(runner, troubles, reference[1], f"transfers-{kind}")


def test_addresses_without_memory(runner, memory: Memory, reference) -> None:
    beyond = (BASE + len(memory.start) + 4095) // 4096 * 4096
    troubles = []
    for kind, cause in (
        ("load", Cause.READ_RESPONSE),
        ("weight", Cause.READ_RESPONSE),
        ("store", Cause.WRITE_RESPONSE),
    ):
        number, _, _ = accesses(memory.first)[kind][0]
        descriptor = memory.first.listing[number]
        changed = replace(descriptor, body={**descriptor.body, "address": beyond})
        other = memory.with_descriptor(number, changed.pack())
        bounds = (number, memory.first.descriptor_count - 1)
        troubles.append(Trouble(kind, other.pair(), other, cause, bounds))
    survive(runner, troubles, reference[1], "beyond")


def test_wrong_checksums(runner, memory: Memory, reference, full: bool) -> None:
    """A bit of the data, at the start or the end of a FETCH, or of its descriptor."""
    rng = random.Random(4)
    last = memory.first.descriptor_count - 1
    troubles = []
    for kind in ("weight", "mask", "sign", "parameter"):
        given = accesses(memory.first)[kind]
        for number, address, size in given if full else rng.sample(given, min(2, len(given))):
            for place in (0, rng.randrange(size), size - 1):
                flipped = memory.start[address + place - BASE] ^ 1 << rng.randrange(8)
                other = memory.changed(address + place, bytes([flipped]))
                name = f"{kind} {number} byte {place}"
                troubles.append(Trouble(name, other.pair(), other, Cause.CHECKSUM, (number, last), right=False))
            descriptor = memory.first.listing[number]
            body = {**descriptor.body, "checksum": descriptor.body["checksum"] ^ 1 << rng.randrange(32)}
            other = memory.with_descriptor(number, replace(descriptor, body=body).pack())
            troubles.append(Trouble(f"{kind} {number}", other.pair(), other, Cause.CHECKSUM, (number, last)))
    survive(runner, troubles, reference[1], "checksums")


def test_illegal_descriptors(runner, memory: Memory, reference, full: bool) -> None:
    """Each illegal field, opcode and count, in the middle of a running program."""
    rng = random.Random(5)
    count = memory.first.descriptor_count
    bad = [Descriptor(opcode, body).pack() for opcode, body in ILLEGAL]
    bad += [bytes([opcode]) + bytes(BYTES - 1) for opcode in (0, 10, 255)]
    troubles = []
    for data in bad if full else rng.sample(bad, 12):
        number = rng.randrange(count)
        other = memory.with_descriptor(number, data)
        cause = Cause.ILLEGAL_DESCRIPTOR
        troubles.append(Trouble(f"{data.hex()} at {number}", other.pair(), other, cause, (number, number)))
    for declared in (0, 1, count // 2, count - 1):  # without END
        jobs = memory.pair()
        jobs[0] = replace(jobs[0], descriptors=declared)
        number = max(declared - 1, 0)
        troubles.append(Trouble(f"{declared} descriptors", jobs, memory, Cause.ILLEGAL_DESCRIPTOR, (number, number)))
    survive(runner, troubles, reference[1], "illegal")


def test_waits_for_what_was_not_given_out(runner, memory: Memory, reference) -> None:
    """Each kind of descriptor waits for what never happens."""
    troubles = []
    numbers: dict[Opcode, int] = {}
    for number, descriptor in enumerate(memory.first.listing):
        if descriptor.opcode not in (Opcode.FETCH, Opcode.END):
            numbers[descriptor.opcode] = number
    for opcode, number in numbers.items():
        descriptor = memory.first.listing[number]
        changed = replace(descriptor, waits={**descriptor.waits, "written": 10_000})
        other = memory.with_descriptor(number, changed.pack())
        cause = Cause.ILLEGAL_DESCRIPTOR
        troubles.append(Trouble(opcode.name, other.pair(), other, cause, (number, number)))
    survive(runner, troubles, reference[1], "waits")


def test_a_program_that_hangs_is_ended_by_abort(runner, memory: Memory, reference) -> None:
    """The last word of a stream is missing."""
    troubles = []
    last = memory.first.descriptor_count - 1
    for kind in ("weight", "mask", "sign", "parameter"):
        number, address, size = accesses(memory.first)[kind][-1]
        descriptor = memory.first.listing[number]
        words = descriptor.body["words"] - 1
        assert words
        data = memory.start[address - BASE : address - BASE + size * words // (words + 1)]
        body = {**descriptor.body, "words": words, "checksum": zlib.crc32(data)}
        other = memory.with_descriptor(number, replace(descriptor, body=body).pack())
        jobs = other.pair(actions=[(reference[0].cycles + 3000, "abort")])
        troubles.append(Trouble(kind, jobs, other, Cause.ABORTED, (number, last)))
    survive(runner, troubles, reference[1], "hangs")


def buses(rng: random.Random, count: int) -> list[Bus]:
    """Every second one without chance."""
    return [
        STEADY
        if n % 2
        else Bus(rng.choice([0, 3, 40]), rng.choice([30, 128, 200]), rng.random() < 0.5, rng.getrandbits(32))
        for n in range(count)
    ]


@pytest.mark.parametrize("action", ["abort", "reset"])
def test_ends_at_any_cycle(runner, memory: Memory, reference, action: str, full: bool) -> None:
    rng = random.Random(action)
    trials = buses(rng, 100 if full else 16)
    cycles = [rng.randrange(reference[0].cycles * 9 // 10) for _ in trials]
    jobs = [memory.pair(bus, actions=[(cycle, action)]) for bus, cycle in zip(trials, cycles, strict=True)]
    outcomes = run_jobs(runner, [job for pair in jobs for job in pair], action)
    # On a quick bus a program may be done before its time has come.
    assert sum(outcome.done for outcome in outcomes[::2]) <= len(trials) // 10
    for bus, cycle, ended, then in zip(trials, cycles, outcomes[::2], outcomes[1::2], strict=True):
        name = f"{action} at {cycle} on {bus}"
        assert ended.cause == (Cause.ABORTED if action == "abort" and not ended.done else Cause.NONE), name
        assert not ended.refused, name
        check_memory(memory, ended, whole=ended.done, name=name)
        check_second(memory, then, None if bus.stall else reference[1], name)


def test_doorbells_while_busy(runner, memory: Memory, reference, full: bool) -> None:
    """The program goes on, to the right end."""
    rng = random.Random(6)
    trials = buses(rng, 20 if full else 4)
    jobs = []
    for bus in trials:
        rings = sorted(rng.randrange(reference[0].cycles * 9 // 10) for _ in range(3))
        jobs += memory.pair(bus, actions=[(cycle, "start") for cycle in rings])
    outcomes = run_jobs(runner, jobs, "doorbells")
    for bus, rung, then in zip(trials, outcomes[::2], outcomes[1::2], strict=True):
        assert (rung.done, rung.refused, rung.cause) == (True, True, Cause.DOORBELL_WHILE_BUSY), bus
        check_memory(memory, rung, whole=True, name=str(bus))
        check_second(memory, then, None if bus.stall else reference[1], str(bus))


def test_back_pressure_of_every_density(runner, memory: Memory, full: bool) -> None:
    """Both programs, in both orders, on buses from steady to one that pauses 15 cycles of 16."""
    densities = (0, 16, 64, 128, 192, 240) if full else (0, 128, 240)
    orders = (0, False), (60, True)
    trials = [Bus(latency, stall, reorder, seed=stall) for stall in densities for latency, reorder in orders]
    trials = trials if full else [trials[0], trials[3], trials[4]]
    jobs, programs = [], (memory.first, memory.second)
    for bus in trials:
        jobs += [memory.job(programs[n % 2], bus, reset=n == 0) for n in (0, 1, 1, 0, 0)]
    for job, outcome in zip(jobs, run_jobs(runner, jobs, "pressure"), strict=True):
        name = f"{job.address:x} on {job.bus}"
        assert (outcome.done, outcome.cause) == (True, Cause.NONE), name
        if job.address == memory.first.descriptors:
            check_memory(memory, outcome, whole=True, name=name)
        else:
            check_second(memory, outcome, None, name)


def test_every_operation(runner) -> None:
    """A network of all operations of the compiler, end to end: every byte of every layer."""
    network = every_operation(np.random.default_rng(1), CONFIG, channels=3, width=8)
    program = compile_network(network, (3, 9, 7), CONFIG, dump=True, records=False)
    rng = np.random.default_rng(0)
    start = [program.memory([rng.integers(-128, 128, (3, 9, 7)).astype(np.int8)]) for _ in range(2)]
    jobs = [
        Job(x.tobytes(), program.descriptors, program.descriptor_count, program.base, reset=not n, limit=LIMIT)
        for n, x in enumerate(start)
    ]
    outcomes = run_jobs(runner, jobs, "network")
    expected = [execute(program, x, check=True).memory.tobytes() for x in start]
    assert expected[0] != expected[1]
    for outcome, memory in zip(outcomes, expected, strict=True):
        assert outcome.done
        assert outcome.memory == memory
