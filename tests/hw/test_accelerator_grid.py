"""Instances all over the configuration space: no new lint, and random layers and networks bit for bit on the RTL.

Some of them run in every test run, all of them with ``--full``: ``make grid``.
"""

from __future__ import annotations

import random
import shutil
import subprocess
from contextlib import suppress
from dataclasses import replace
from math import gcd
from pathlib import Path

import numpy as np
import pytest

from hw.config import MASK_DECODERS, VARIANTS, AcceleratorConfig, ConfigError
from hw.kit import WAIVERS
from sim.accelerator.model import TOP, accelerator_runner, accelerator_verilog
from sim.accelerator.run import Bus, Job, run_jobs
from sim.toolchain import verilator_environment
from sw.compiler.compile import compile_layer, compile_network
from sw.compiler.graph import CompileError
from sw.executor import execute
from sw.program import Program
from tests.sw.gated_networks import two_outputs
from tests.sw.networks import Builder, random_layer
from tests.sw.random_networks import random_network

#: What the corners have in common.
SMALL = {
    "H": 4,
    "L": 4,
    "d": 4,
    "N": 2,
    "M": 4,
    "k": 8,
    "l2_bytes": 1 << 13,
    "l1_ifmap_bytes": 1 << 10,
    "l1_psum_bytes": 1 << 12,
    "burst_words": 4,
    "fifo_words": 16,
}

#: The ends of the ranges first.
CORNERS: list[dict[str, object]] = [
    # One PE; words of a byte; the least of everything.
    {"variant": "ews", "H": 1, "L": 1, "d": 1, "N": 1, "M": 1, "word_width": 8, "wrf_depth": 2, "arf_depth": 2,
     "prf_depth": 2, "burst_words": 1, "fifo_words": 2, "tree_register_levels": 0, "product_register": False,
     "l2_bytes": 1 << 12, "l1_ifmap_bytes": 512, "l1_psum_bytes": 512},
    # The widest words, beside the narrowest of L2.
    {"variant": "ews-cms", "word_width": 512, "l2_word_bytes": 1, "burst_words": 256, "fifo_words": 512,
     "weight_bits": 5},
    {"variant": "ews-msvq", "word_width": 8, "H": 16, "L": 16, "l2_word_bytes": 16, "post_lanes": 16,
     "vector_lanes": 16, "weight_bits": 4, "vector_unit_functions": "full"},
    {"variant": "ws", "wrf_depth": 2, "arf_depth": 2, "prf_depth": 4, "L": 12, "d": 12, "address_bits": 64,
     "weight_bits": 6},
    {"variant": "ews-c", "H": 3, "L": 15, "d": 5, "k": 3, "psum_width": 32, "address_bits": 16,
     "l2_bytes": 1 << 11, "weight_bits": 3},
    {"variant": "ews-ssvq", "H": 5, "L": 2, "d": 2, "N": 2, "M": 2, "k": 2, "psum_width": 16, "zero_gating": True,
     "weight_bits": 2, "psum_register": True, "scaler_register": True, "transfer_register": True},
    {"variant": "ews-cm", "H": 7, "L": 9, "d": 9, "N": 2, "M": 3, "k": 17, "mask_decoder": MASK_DECODERS[-1],
     "decoder_registers": 3, "mrf_register": True, "tree_register_levels": 1, "weight_bits": 7},
    {"variant": "ews-cms", "H": 2, "L": 16, "d": 16, "N": 1, "M": 16, "decoder_registers": 8, "zero_gating": True,
     "wrf_depth": 256, "arf_depth": 256, "prf_depth": 256},
    {"variant": "ews-msvq", "H": 4, "L": 8, "d": 8, "N": 8, "M": 8, "post_lanes": 1, "vector_lanes": 1},
    {"variant": "ews-cms", "H": 4, "L": 32, "d": 32, "N": 2, "M": 32, "k": 2, "word_width": 128},
]  # fmt: skip
COUNT = 66
#: That of every test run: networks on an instance of odd sizes.
SHORT = (5,)


def random_config(number: int) -> AcceleratorConfig:
    """A random instance of the variant whose turn it is; at most 192 PEs, so that models build quickly."""
    rng = random.Random(f"grid {number}")
    variant = list(VARIANTS)[number % len(VARIANTS)]
    while True:
        M = rng.choice([1, 2, 3, 4, 5, 8])
        d = M * rng.randint(1, 4)
        H, L = rng.randint(1, 16), d * rng.randint(1, 3)
        word = rng.choice([0, 1, 2, 4, 8])
        burst = rng.choice([1, 2, 4, 8, 16])
        fields = {
            "variant": variant, "H": H, "L": L, "d": d, "k": rng.choice([2, 3, 5, 8, 17, 32]),
            "N": rng.randint(1, M), "M": M,
            "wrf_depth": rng.choice([2, 4, 8, 16, 32]),
            "arf_depth": rng.choice([2, 4, 8, 16, 32]),
            "prf_depth": rng.choice([2, 4, 8, 16]),
            "psum_width": rng.choice([16, 19, 24, 32]),
            "word_width": rng.choice([8, 16, 32, 64, 128, 256, 512]),
            "loop_bits": rng.choice([4, 8, 12, 16]),
            "mask_decoder": rng.choice(MASK_DECODERS),
            "decoder_registers": rng.choice([0, 1, 3]),
            "mrf_register": rng.random() < 0.5,
            "product_register": rng.random() < 0.5,
            "tree_register_levels": rng.choice([0, 1, 2, 6]),
            "zero_gating": rng.random() < 0.3,
            "address_bits": rng.choice([20, 32, 40, 64]),
            "l2_bytes": rng.choice([3000, 1 << 13, 20_000, 1 << 16]),
            "l2_word_bytes": word if word and gcd(H, L) % word == 0 else 0,
            "l1_ifmap_bytes": rng.choice([300, 1 << 10, 5000]),
            "l1_psum_bytes": rng.choice([700, 1 << 11, 10_000]),
            "post_lanes": rng.choice([0, *(x for x in range(1, L + 1) if L % x == 0)]),
            "burst_words": burst,
            "fifo_words": burst * rng.choice([2, 4]),
            "weight_bits": 2 + number // len(VARIANTS) % 7,  # all, of each variant
        }  # fmt: skip
        try:
            plain = AcceleratorConfig(**fields)
            lanes = [x for x in range(1, plain.l2_word + 1) if plain.l2_word % x == 0]
            config = AcceleratorConfig(**fields, vector_lanes=rng.choice([0, *lanes]))
        except ConfigError:  # a memory of fewer words than it must have
            continue
        if H * L <= 192:
            break
    if number // len(VARIANTS) % 2:
        # Words of other sizes than powers of two have the basic functions alone.
        with suppress(ConfigError):
            config = replace(config, vector_unit_functions="full")
    registers = ("psum_register", "scaler_register", "transfer_register")
    return replace(config, **{name: rng.random() < 0.5 for name in registers})


def instance(number: int) -> AcceleratorConfig:
    """The instance of that number."""
    if number < len(CORNERS):
        return AcceleratorConfig(**(SMALL | CORNERS[number]))
    return random_config(number)


def one_layer(config: AcceleratorConfig, rng: np.random.Generator) -> Program:
    """A convolution of any shape."""
    kernel = tuple(int(x) for x in rng.integers(1, 4, 2))
    C, K = int(rng.integers(1, 2 * config.H + 3)), int(rng.integers(1, 2 * config.L + 3))
    if rng.random() < 0.7:
        K = config.d * int(rng.integers(1, 2 * config.L // config.d + 1))
    rows, columns = (int(x) for x in rng.integers(3, 7, 2))
    # The compiler proves that sums fit the width, whatever the activations.
    most = (1 << (config.psum_width - 1)) // (128 * C * kernel[0] * kernel[1])
    layer = random_layer(
        rng,
        config,
        "layer",
        (K, C, *kernel),
        amplitude=max(1, min(100, most)),
        requantised=bool(rng.random() < 0.8),
        stride=tuple(int(x) for x in rng.integers(1, 3, 2)),
        padding=tuple(int(x) for x in rng.integers(0, kernel)),
    )
    return compile_layer(layer, (C, rows, columns), config, records=False)


def small_network(config: AcceleratorConfig, rng: np.random.Generator) -> Program:
    """A convolution with padding and stride, all operations of the vector unit, and a linear layer."""
    b = Builder(rng, config)
    K = config.d * int(rng.integers(1, max(2, 12 // config.d + 1)))
    C = int(rng.integers(1, 5))
    amplitude = 2 if config.psum_width < 19 else 20
    x = b.layer("conv", 0, (K, C, 3, 2), padding=(1, 1), stride=(1, 2), amplitude=amplitude, range=(-50, 127))
    x = b.op("maximum", x, kernel=3, stride=2, padding=1)
    y = b.layer("pointwise", x, (K, K, 1, 1), amplitude=amplitude)
    x = b.op("add", x, y, multipliers=[(1 << 20) + 5, 1 << 19], shift=20, range=[-100, 127])
    x = b.op("flatten", b.op("average", x, multiplier=1 << 28, shift=30))
    b.layer("logits", x, (int(rng.integers(2, 12)), K, 1, 1), raw=True, kind="linear", op="logits", amplitude=amplitude)
    return compile_network(b.network(), (C, 7, 6), config, dump=True, records=False)


def random_programs(config: AcceleratorConfig, number: int, count: int = 3) -> list[Program]:
    """Networks of any shape, as far as the instance has room for them."""
    programs: list[Program] = []
    for seed in range(100 * number, 100 * number + 20):
        network = random_network(seed, config, 5)
        if network is not None and len(programs) < count:
            with suppress(CompileError):
                shape = network.image_shape
                programs.append(compile_network(network, shape, config, dump=True, records=False))
    return programs


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "number" in metafunc.fixturenames:
        metafunc.parametrize("number", range(COUNT) if metafunc.config.getoption("full") else SHORT)


def test_instance(number: int) -> None:
    config, rng = instance(number), np.random.default_rng(number)
    name = f"grid-{number}"
    program = small_network(config, rng) if number % 2 else one_layer(config, rng)

    design = accelerator_verilog(config, name)
    waivers = [f"-Wno-{kind}" for kind in WAIVERS]
    command = ["verilator", "--lint-only", "-Wall", *waivers, "--top-module", TOP, str(design)]
    linted = subprocess.run(command, env=verilator_environment(), capture_output=True, text=True, check=False)
    assert (linted.returncode, linted.stderr) == (0, ""), config

    programs = [program, *random_programs(config, number)]
    if config.full_vector_unit:
        # Where L2 and the sums have room for it.
        with suppress(CompileError):
            programs.append(compile_network(two_outputs(rng, config), (3, 4, 6), config, dump=True, records=False))
    jobs, expected = [], []
    for each in programs:
        images = [rng.integers(-128, 128, entry.shape).astype(np.int8) for entry in each.inputs]
        start = each.memory(images)
        bus = Bus(int(rng.integers(0, 40)), int(rng.choice([0, 60, 180])), True, number)
        jobs.append(Job(start.tobytes(), each.descriptors, each.descriptor_count, each.base, bus, limit=3_000_000))
        expected.append(execute(each, start, check=True).memory.tobytes())
        assert expected[-1] != jobs[-1].memory
    runner = accelerator_runner(config, name, quick=True)
    for outcome, golden in zip(run_jobs(runner, jobs, "grid"), expected, strict=True):
        assert (outcome.done, outcome.memory == golden) == (True, True), config
    shutil.rmtree(runner.build_dir)


def test_the_grid_covers_its_promise() -> None:
    """Every value of every choice is met, and so is every variant often enough."""
    configs = [instance(number) for number in range(COUNT)]
    assert len(set(configs)) == COUNT >= 60
    assert f"`make grid` takes {COUNT} instances" in (Path(__file__).parents[2] / "docs/accelerator.md").read_text()
    for name, least in (("variant", 7), ("word_width", 7), ("psum_width", 4), ("wrf_depth", 5), ("arf_depth", 5)):
        assert len({getattr(config, name) for config in configs}) >= least, name
    assert min(sum(config.variant == variant for config in configs) for variant in VARIANTS) >= 7
    for variant in VARIANTS:
        assert {config.weight_bits for config in configs if config.variant == variant} == set(range(2, 9)), variant
    assert sum(config.H != config.L for config in configs) > COUNT // 2
    full = [config for config in configs if config.full_vector_unit]
    assert len(full) >= 12
    assert {config.variant for config in full} == set(VARIANTS)
    assert len({(config.l2_word, config.vector_unit_lanes) for config in full}) >= 6
    assert any(config.H & (config.H - 1) and config.L & (config.L - 1) for config in configs)
