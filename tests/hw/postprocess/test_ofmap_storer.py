"""OUTPUT against the golden model: every word of L2, whatever pauses, and at the promised rate."""

from __future__ import annotations

import numpy as np
import pytest

from hw.config import AcceleratorConfig, preset
from hw.generate import to_rtlil
from hw.postprocess.ofmap_storer import OfmapStorer
from sw.format.layer import Requantisation
from sw.golden import requantise
from tests.hw.simulation import shared

TINY = preset("ews-cms-tiny")
SMALL = {"l2_bytes": 1 << 12, "l1_ifmap_bytes": 1 << 10, "l1_psum_bytes": 1 << 12}
CONFIGS = {
    "tiny": TINY,
    "lanes of an L2 word and more": AcceleratorConfig(
        variant="ews", H=4, L=16, d=4, post_lanes=8, word_width=64, psum_width=24, prf_depth=4, **SMALL
    ),
    "lanes that divide no word": AcceleratorConfig(
        variant="ews", H=8, L=12, d=4, word_width=8, psum_width=17, prf_depth=2, **SMALL
    ),
    "one channel": AcceleratorConfig(
        variant="ews", H=1, L=1, d=1, word_width=32, psum_width=16, scaler_register=True, **SMALL
    ),
    "all lanes, wide bus": AcceleratorConfig(
        variant="ews", H=8, L=8, d=8, post_lanes=8, word_width=512, psum_width=32, **SMALL
    ),
}


def random_command(config: AcceleratorConfig, rng, previous: dict | None, **fixed) -> dict:
    L, W = config.L, config.l2_word
    while True:
        A = int(rng.integers(1, config.prf_depth + 1))
        parameters = previous is None or rng.random() < 0.7
        if not parameters:
            A = int(rng.integers(1, previous["loaded"] + 1))
        wide = int(rng.random() < 0.25)
        width, height = (int(x) for x in rng.integers(1, 4, 2))
        words = A * L // W * (4 if wide else 1)
        position_words = words + int(rng.integers(0, 3))
        line_words = width * position_words + int(rng.integers(0, 3))
        low, high = sorted(int(x) for x in rng.integers(-128, 128, 2)) if rng.random() < 0.5 else (-128, 127)
        command = {
            "line_words": line_words,
            "position_words": position_words,
            "A": A,
            "low": low,
            "high": high,
            "width": width,
            "height": height,
            "channels": int(rng.integers(1, A * L + 1)),
            "parameters": int(parameters),
            "wide": wide,
        } | fixed
        room = config.l2_depth - command["height"] * command["line_words"]
        if room >= 0:
            loaded = command["A"] if command["parameters"] else previous["loaded"]
            return command | {"l2_base": int(rng.integers(0, room + 1)), "loaded": loaded}


def parameters_of(config: AcceleratorConfig, rng, A: int) -> tuple[Requantisation, list[int]]:
    """Parameters that saturate some results and not others, and their words with random padding."""
    count = A * config.L
    part = Requantisation(
        rng.integers(-(1 << 14), 1 << 14, count).astype(np.int32),
        rng.integers(-(1 << 31), 1 << 31, count).astype(np.int32),
        rng.integers(31, 45, count).astype(np.uint8),
    )
    entries = np.zeros((count, 3), "<i4")
    entries[:, 0], entries[:, 1], entries[:, 2] = part.bias, part.multiplier, part.shift
    data, size = entries.tobytes(), config.word_width // 8
    data += rng.bytes(-len(data) % size)
    return part, [int.from_bytes(data[i : i + size], "little") for i in range(0, len(data), size)]


class Job:
    """Commands, what they take, and what they leave in L2."""

    def __init__(self, config: AcceleratorConfig, rng, fixed: list[dict]) -> None:
        self.config = config
        self.commands: list[dict] = []
        self.parameters: list[int] = []
        self.sums: list[int] = []
        self.expected: dict[int, int] = {}
        previous, part = None, None
        L, W = config.L, config.l2_word
        for fields in fixed:
            previous = command = random_command(config, rng, previous, **fields)
            A, width, height = command["A"], command["width"], command["height"]
            self.commands.append({name: value for name, value in command.items() if name != "loaded"})
            if command["parameters"]:
                part, words = parameters_of(config, rng, A)
                self.parameters += words
            limit = 1 << min(config.psum_width - 1, 15)
            sums = rng.integers(-limit, limit, (height, width, A * L)).astype(np.int32)
            for vector in sums.reshape(-1, L):
                mask = (1 << config.psum_width) - 1
                self.sums.append(sum((int(x) & mask) << i * config.psum_width for i, x in enumerate(vector)))
            used = Requantisation(part.bias[: A * L], part.multiplier[: A * L], part.shift[: A * L])
            if command["wide"]:
                values = (sums + used.bias).astype("<i4")
            else:
                values = requantise(np.ascontiguousarray(sums.transpose(2, 0, 1)), used).transpose(1, 2, 0)
                values = values.clip(command["low"], command["high"])
            values[..., command["channels"] :] = 0
            data = np.ascontiguousarray(values).view(np.uint8).reshape(height, width, -1, W)
            for (e, f, word), start in np.ndenumerate(np.empty(data.shape[:3])):
                del start
                address = command["l2_base"] + e * command["line_words"] + f * command["position_words"] + word
                self.expected[address] = int.from_bytes(data[e, f, word].tobytes(), "little")

    def attach(self, traffic, storer) -> None:
        self.given = traffic.source(storer.i_command, self.commands)
        traffic.source(storer.i_parameter, self.parameters)
        self.vectors = traffic.source(storer.i_sums, self.sums)
        self.memory: dict[int, int] = {}
        self.writes = traffic.writable(storer.o_l2, self.memory)
        self.done = traffic.pulses(storer.o_done)


@pytest.mark.parametrize("density", [pytest.param(1, marks=pytest.mark.whole), 0.6], indirect=True)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_commands_one_after_the_other(simulate, traffic, config: AcceleratorConfig) -> None:
    storer = shared(OfmapStorer, config)
    job = Job(config, np.random.default_rng(len(config.variant) + config.L), [{}] * 5)

    async def bench(ctx) -> None:
        job.attach(traffic, storer)
        await traffic.until(ctx, lambda: len(job.done.cycles) == len(job.commands), patience=40000)
        assert job.memory == job.expected
        for _ in range(20):
            await traffic.step(ctx)
        assert len(job.done.cycles) == len(job.commands)
        assert job.vectors.idle

    simulate(storer, bench)


@pytest.mark.parametrize("density", [1], indirect=True)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_nothing_of_a_command_is_left_for_the_next(simulate, traffic, config: AcceleratorConfig) -> None:
    storer = shared(OfmapStorer, config)
    # Padding behind parameters; a wide command, and another one that has nothing to wait for.
    kinds = [(1, 1), (0, 0), (1, 0), (0, 1), (0, 0)]
    job = Job(config, np.random.default_rng(0), [{"A": 1, "parameters": p, "wide": w} for p, w in kinds])

    async def bench(ctx) -> None:
        job.attach(traffic, storer)
        await traffic.until(ctx, lambda: len(job.done.cycles) == len(kinds))
        assert job.memory == job.expected

    simulate(storer, bench)


@pytest.mark.parametrize("density", [1], indirect=True)
@pytest.mark.parametrize("wide", [0, 1])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_rate(simulate, traffic, config: AcceleratorConfig, wide: int) -> None:
    storer = shared(OfmapStorer, config)
    words = config.L // config.l2_word * (4 if wide else 1)
    fixed = {"A": 2, "width": 3, "height": 2, "channels": 2 * config.L, "wide": wide, "parameters": 1}
    fixed |= {"position_words": 2 * words, "line_words": 6 * words}
    job = Job(config, np.random.default_rng(0), [fixed])

    async def bench(ctx) -> None:
        job.attach(traffic, storer)
        await traffic.until(ctx, lambda: job.done.cycles)
        assert job.memory == job.expected
        period = max(config.L // config.requantiser_lanes * (4 if wide else 1), words)
        cycles = job.writes.cycles
        assert cycles[-1] - cycles[words - 1] == 11 * period
        assert job.done.cycles == [cycles[-1] + 1]
        # From the last sums to the last word: the pipeline, and the words of at most two vectors.
        assert cycles[-1] - job.vectors.cycles[-1] <= 12 + 2 * words

    simulate(storer, bench)


@pytest.mark.parametrize("density", [1], indirect=True)
@pytest.mark.parametrize(("A", "beside"), [(2, True), (TINY.prf_depth, False)])
def test_parameters_are_loaded_beside_the_running_command(simulate, traffic, A: int, beside: bool) -> None:
    storer = shared(OfmapStorer, TINY)
    words = A * TINY.L // TINY.l2_word
    fixed = {"A": A, "width": 9, "height": 36 // A, "channels": A * TINY.L, "wide": 0, "parameters": 1}
    fixed |= {"position_words": words, "line_words": 9 * words}
    job = Job(TINY, np.random.default_rng(0), [fixed] * 2)

    async def bench(ctx) -> None:
        job.attach(traffic, storer)
        await traffic.until(ctx, lambda: len(job.done.cycles) == 2, patience=6000)
        assert job.memory == job.expected
        first = len(job.sums) // 2
        gap = job.vectors.cycles[first] - job.vectors.cycles[first - 1]
        assert (gap <= 16) == beside

    simulate(storer, bench)


def test_a_large_preset_elaborates() -> None:
    config = preset("ews-cms-64")
    text = to_rtlil(OfmapStorer(config))
    # The lanes are instances of one module.
    assert text.count("\nmodule \\core_scaler\n") == 1
    assert text.count("cell \\core_scaler ") == config.requantiser_lanes == 16
