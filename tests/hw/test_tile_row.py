"""One row of a tile: weights in, products on their lanes."""

from __future__ import annotations

import itertools
import random

import pytest

from hw.array.tile_row import Demux, Multiplier, TileRow
from hw.config import VARIANTS, AcceleratorConfig
from hw.layout import position_code

SHAPES = [
    {"variant": "ews", "d": 4},
    {"variant": "ews-cm", "d": 4, "N": 2, "M": 4},
    {"variant": "ews-ssvq", "d": 3},
    {"variant": "ews-cms", "d": 16, "N": 4, "M": 16},
    {"variant": "ews-cms", "d": 8, "N": 2, "M": 4},
    {"variant": "ews-cms", "d": 6, "N": 1, "M": 2},
    {"variant": "ews-cms", "d": 4, "N": 4, "M": 4},
    {"variant": "ews-cms", "d": 2, "N": 1, "M": 1},
    {"variant": "ews-msvq", "d": 8, "N": 3, "M": 8},
    {"variant": "ews", "d": 4, "weight_bits": 4},
    {"variant": "ews-cms", "d": 6, "N": 1, "M": 2, "weight_bits": 2},
    {"variant": "ews-msvq", "d": 16, "N": 2, "M": 8, "weight_bits": 4},
    {"variant": "ews-msvq", "d": 4, "N": 2, "M": 4, "weight_bits": 2},
    {"variant": "ews-ssvq", "d": 3, "weight_bits": 7},
]


def pack(values, bits: int) -> int:
    return sum((value & (1 << bits) - 1) << i * bits for i, value in enumerate(values))


def codes(config: AcceleratorConfig, positions: list[int]) -> list[int]:
    return [position_code(positions[i : i + config.N], config.M) for i in range(0, len(positions), config.N)]


def random_entry(config: AcceleratorConfig, rng: random.Random):
    """Stored weights, their positions, and the weights of all lanes."""
    high = (1 << (config.weight_bits - 1)) - 1
    low = -high if config.features.sign else -high - 1
    weights = [rng.choice([low, high, 0, rng.randint(low, high)]) for _ in range(config.multipliers)]
    if not config.features.sparse:
        return weights, [], weights
    positions = []
    lanes = [0] * config.d
    for group in range(config.mask_groups):
        kept = sorted(rng.sample(range(config.M), config.N))
        for i, position in enumerate(kept):
            lanes[group * config.M + position] = weights[group * config.N + i]
        positions += kept
    return weights, positions, lanes


#: The settings of the three registers and gates. Half of them with each shape, the other half with the next, hold every
#: pair of two.
SETTINGS = [
    pytest.param(
        shape,
        *chosen,
        id="-".join(map(str, (*shape.values(), *chosen))),
        marks=pytest.mark.whole if (number + sum(chosen)) % 2 else (),
    )
    for number, shape in enumerate(SHAPES)
    for chosen in itertools.product([False, True], repeat=3)
    # There is no MRF.
    if not chosen[0] or VARIANTS[shape["variant"]].sparse
]


@pytest.mark.parametrize(("shape", "mrf_register", "product_register", "zero_gating"), SETTINGS)
def test_products_of_stored_weights(
    simulate, shape: dict, mrf_register: bool, product_register: bool, zero_gating: bool
) -> None:
    config = AcceleratorConfig(
        **{"N": shape["d"], "M": shape["d"], **shape},
        L=shape["d"],
        wrf_depth=8,
        product_register=product_register,
        zero_gating=zero_gating,
        mrf_register=mrf_register,
    )
    rng = random.Random(str(shape))
    row = TileRow(config)
    entries = [random_entry(config, rng) for _ in range(config.wrf_depth)]
    latency = config.product_latency - zero_gating

    async def write(ctx, address: int, entry) -> None:
        ctx.set(row.i_write, 1)
        ctx.set(row.i_write_address, address)
        ctx.set(row.i_write_weights, pack(entry[0], config.weight_bits))
        if config.position_bits:
            ctx.set(row.i_write_positions, pack(codes(config, entry[1]), config.mrf_width // config.mask_groups))

    async def bench(ctx) -> None:
        for address, entry in enumerate(entries):
            await write(ctx, address, entry)
            await ctx.tick()
        expected, activation, addresses = [], 0, []
        for _ in range(60):
            # The entry is read in one cycle, its activation arrives in the next, or at once with zero gating.
            if not zero_gating:
                ctx.set(row.i_activation, activation)
            if len(expected) >= latency:
                if config.position_bits and not mrf_register:
                    ctx.set(row.i_mrf_address, addresses[-latency])
                assert ctx.get(row.o_products) == pack(expected[-latency], config.product_width)
            address = rng.randrange(config.wrf_depth)
            addresses.append(address)
            activation = rng.choice([-128, 127, 0, rng.randint(-128, 127)])
            ctx.set(row.i_address, address)
            if zero_gating:
                ctx.set(row.i_activation, activation)
            if mrf_register and config.position_bits and len(addresses) >= latency:
                ctx.set(row.i_mrf_address, addresses[-latency])
            expected.append([weight * activation for weight in entries[address][2]])
            # Writing beside reading: the entry that is read now still gives its old weights. Where there is an MRF, the
            # loader writes no entry whose positions are still to be read.
            ctx.set(row.i_write, 0)
            busy = addresses[-1 - latency :] if config.position_bits else []
            free = [entry for entry in range(config.wrf_depth) if entry not in busy]
            if free and rng.random() < 0.5:
                target, entry = rng.choice(free), random_entry(config, rng)
                await write(ctx, target, entry)
                entries[target] = entry
            await ctx.tick()

    simulate(row, bench)


@pytest.mark.parametrize("bits", [3, 8])
@pytest.mark.parametrize("registered", [False, True])
def test_gated_multiplier_holds_where_an_operand_is_zero(simulate, registered: bool, bits: int) -> None:
    multiplier = Multiplier(bits + 8, registered, gated=True, weight_bits=bits)
    rng = random.Random(0)
    half, ones = 1 << (bits - 1), (1 << bits) - 1
    pairs = [
        (rng.choice([0, rng.randint(-half, half - 1)]), rng.choice([0, rng.randint(-128, 127)])) for _ in range(300)
    ]

    async def bench(ctx) -> None:
        operands, product, products = (0, 0), 0, [0, 0]
        for weight, activation in pairs:
            ctx.set(multiplier.i_weight, weight & ones)
            ctx.set(multiplier.i_activation, activation & 255)
            await ctx.tick()
            if registered and products[-1]:
                product = products[-1]
            if weight and activation:
                operands = (weight & ones, activation & 255)
            products.append(weight * activation)
            assert ctx.get(multiplier.o_product.as_signed()) == products[-1 - registered]
            assert tuple(ctx.get(signal) for signal in multiplier._held) == (*operands, product & (1 << bits + 8) - 1)

    simulate(multiplier, bench)


@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.parametrize("bits", [2, 8])
def test_enabled_multiplier_holds_operands_and_product(simulate, bits: int, registered: bool) -> None:
    multiplier = Multiplier(bits + 8, registered, weight_bits=bits, enabled=True)
    assert len(multiplier.i_enable) == 1 + registered
    rng = random.Random(0)

    async def bench(ctx) -> None:
        weight = product = 0
        for _ in range(200):
            enables = [rng.random() < 0.5 for _ in range(1 + registered)]
            given, activation = rng.randrange(-(1 << bits - 1), 1 << bits - 1), rng.randrange(-128, 128)
            ctx.set(multiplier.i_enable, sum(bit << i for i, bit in enumerate(enables)))
            ctx.set(multiplier.i_weight, given & (1 << bits) - 1)
            ctx.set(multiplier.i_activation, activation & 255)
            if not registered:
                product = weight * activation
            assert ctx.get(multiplier.o_product.as_signed()) == product
            await ctx.tick()
            if registered and enables[1]:
                product = weight * activation
            if enables[0]:
                weight = given

    simulate(multiplier, bench)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 2), (2, 4), (4, 4), (3, 7), (4, 16)])
def test_demux_reaches_every_lane(simulate, n: int, m: int) -> None:
    demux = Demux(n, m, 16)
    rng = random.Random(0)

    async def bench(ctx) -> None:
        for _ in range(200):
            kept = sorted(rng.sample(range(m), n))
            products = [rng.randint(-(1 << 15), (1 << 15) - 1) for _ in kept]
            ctx.set(demux.i_products, pack(products, 16))
            ctx.set(demux.i_positions, position_code(kept, demux.m))
            await ctx.delay(1e-9)
            lanes = dict(zip(kept, products, strict=True))
            assert ctx.get(demux.o_lanes) == pack([lanes.get(lane, 0) for lane in range(m)], 16)

    simulate(demux, bench, clocked=False)


@pytest.mark.parametrize("depth", [2, 8])
def test_ports_have_the_bits_that_they_need_and_no_more(depth: int) -> None:
    row = TileRow(AcceleratorConfig(variant="ews", d=4, N=4, M=4, L=4, wrf_depth=depth))
    assert 1 << len(row.i_address) == 1 << len(row.i_write_address) == depth
    for enabled in (False, True):
        multiplier = Multiplier(16, registered=True, gated=False, weight_bits=8, enabled=enabled)
        assert ("i_enable" in multiplier.signature.members) == enabled
