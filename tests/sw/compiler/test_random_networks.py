"""Random networks on random instances: compiled without a race, and their results are those of the integer network.

Some of them in every test run, many with ``--full``: ``make random``.
"""

from __future__ import annotations

import random
import re
from collections import Counter

import numpy as np
import pytest

from hw.config import PRESETS, VARIANTS, AcceleratorConfig
from sw.compiler.compile import compile_network
from sw.compiler.graph import CompileError
from sw.executor import execute
from sw.network import Network
from sw.perf.prediction import predict
from sw.perf.timing import total
from sw.program import Program
from tests.sw.networks import Builder
from tests.sw.random_networks import random_instance, random_network

#: Seeds in each test; tests of a full run, and of every one: between them is a network that takes longer than they do.
SEEDS, FULL, SHORT = 20, 250, (0, 2)


def check(program: Program, network: Network, rng: np.random.Generator) -> None:
    """Random and extreme images give the results of the network, no unit can overtake another, the cycle model ends."""
    (entry,) = program.inputs
    for number, values in enumerate((np.arange(-128, 128), np.array([-128, 127]))):
        picture = rng.choice(values, entry.shape).astype(np.int8)
        memory = execute(program, program.memory([picture]), check=number == 0).memory
        for tensor, expected in zip(program.outputs, network.results(picture[None]), strict=True):
            assert np.array_equal(program.read(memory, tensor).ravel(), expected.ravel())
    assert not program.layers[-1].record or total(predict(program))["cycles"] > 0


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "part" in metafunc.fixturenames:
        metafunc.parametrize("part", range(FULL) if metafunc.config.getoption("full") else SHORT)


def test_random_networks(part: int) -> None:
    run = 0
    for seed in range(part * SEEDS, (part + 1) * SEEDS):
        chance = random.Random(f"network {seed}")
        config = random_instance(chance)
        network = random_network(seed, config)
        if network is None:
            continue
        shape = network.image_shape
        dump, records, base = chance.random() < 0.4, chance.random() < 0.6, chance.choice([0, 64, 1 << 12])
        try:
            program = compile_network(network, shape, config, dump=dump, records=records, base=base)
            check(program, network, np.random.default_rng(seed))
        except BaseException as error:
            # Memories that are too small are the one reason to refuse such a network.
            if isinstance(error, CompileError) and re.search("of L[12]", str(error)):
                continue
            error.add_note(f"seed {seed}, {config}")
            raise
        run += 1
    assert run > SEEDS // 2


def test_the_instances_have_weights_of_every_width_with_every_variant() -> None:
    seeds = range(FULL * SEEDS // 4)
    found = Counter((x.variant, x.weight_bits) for x in (random_instance(random.Random(f"network {s}")) for s in seeds))
    assert set(found) == {(variant, bits) for variant in VARIANTS for bits in range(2, 9)}
    assert min(found.values()) >= 5


def test_rows_of_an_input_that_no_one_reads() -> None:
    """The rest of the input is loaded before another tensor takes its place."""
    b = Builder(np.random.default_rng(0), PRESETS["ews-tiny"])
    x = b.op("maximum", 0, kernel=1, stride=2, padding=0)
    for number in range(7):
        x = b.layer(f"layer {number}", x, (4, 4, 1, 1), amplitude=100)
    b.layer("logits", b.op("flatten", x), (3, 8, 1, 1), kind="linear", op="logits")
    network = b.network()
    check(compile_network(network, (4, 2, 4), PRESETS["ews-tiny"]), network, np.random.default_rng(0))


@pytest.mark.parametrize("variant", ["ews", "ews-cm", "ews-cms", "ews-ssvq"])
@pytest.mark.parametrize("word_width", [8, 32])
def test_rows_of_more_words_than_a_fifo_holds(variant: str, word_width: int) -> None:
    config = AcceleratorConfig(variant, 4, 24, 12, 8, 3, 4, word_width=word_width, burst_words=2, fifo_words=4)
    b = Builder(np.random.default_rng(0), config)
    x = b.layer("raw", 0, (24, 3, 3, 3), raw=True)
    x = b.layer("coded", x, (24, 24, 1, 1))
    b.layer("logits", b.op("flatten", b.op("average", x, multiplier=1 << 30, shift=34)), (3, 24, 1, 1), kind="linear",
            op="logits")  # fmt: skip
    network = b.network()
    check(compile_network(network, (3, 6, 6), config), network, np.random.default_rng(0))
