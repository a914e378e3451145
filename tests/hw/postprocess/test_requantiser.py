"""The requantiser against the golden model's rule."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.hdl import Const, Value

from hw.config import AcceleratorConfig, preset
from hw.postprocess.requantiser import PARAMETERS, Requantiser
from sw.format.layer import Requantisation
from sw.golden import requantise

CONFIGS = [
    preset("ews-cms-tiny"),
    AcceleratorConfig(variant="ews", H=4, L=4, d=4, psum_width=32, post_lanes=4),
    AcceleratorConfig(variant="ews", H=4, L=12, d=4, psum_width=16),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"L{config.L}-psum{config.psum_width}")
def test_lanes_agree_with_the_golden_rule(simulate, config: AcceleratorConfig) -> None:
    requantiser, lanes = Requantiser(config), config.requantiser_lanes
    rng = np.random.default_rng(0)
    count = 400
    limit = 1 << config.psum_width - 1
    sums = rng.integers(-limit, limit, (count, lanes), dtype=np.int32)
    sums[:6] = np.array([-limit, limit - 1] * 3)[:, None]
    bias = rng.integers(-(1 << 31), 1 << 31, (count, lanes)).astype(np.int32)
    multiplier = rng.integers(-(1 << 31), 1 << 31, (count, lanes)).astype(np.int32)
    # The extremes of all three meet at first; then results that are not saturated are as common as saturated ones.
    bias[:6] = np.array([-(1 << 31), (1 << 31) - 1, (1 << 31) - 1, -(1 << 31), -(1 << 31), 0])[:, None]
    multiplier[:6] = np.array([-(1 << 31), (1 << 31) - 1, -(1 << 31)] * 2)[:, None]
    shift = np.full((count, lanes), 62, np.uint8)
    bias[6:] = (-sums[6:].astype(np.int64) + rng.integers(-3000, 3000, (count - 6, lanes))).clip(
        -(1 << 31), (1 << 31) - 1
    )
    shift[6:] = rng.integers(30, 41, (count - 6, lanes))
    expected = requantise(sums.reshape(-1), Requantisation(bias.ravel(), multiplier.ravel(), shift.ravel()))
    assert 0.3 < np.mean(np.abs(expected.astype(int)) < 127) < 0.9

    async def bench(ctx) -> None:
        ctx.set(requantiser.i_low, -128)
        ctx.set(requantiser.i_high, 127)
        ctx.set(requantiser.i_enable, 1)
        results, biased = [], []
        for i in range(count + requantiser.stages):
            for lane in range(lanes * (i < count)):
                ctx.set(requantiser.i_sums[lane], int(sums[i, lane]))
                given = {"bias": bias[i, lane], "multiplier": multiplier[i, lane], "shift": shift[i, lane]}
                ctx.set(requantiser.i_parameters[lane], {name: int(value) for name, value in given.items()})
            await ctx.tick()
            biased.append([ctx.get(requantiser.o_biased[lane]) for lane in range(lanes)])
            results.append([ctx.get(requantiser.o_results[lane]) for lane in range(lanes)])
        assert biased[:count] == (sums.astype(np.int64) + bias).astype(np.int32).tolist()
        assert results[requantiser.stages - 1 :][:count] == expected.reshape(count, lanes).tolist()

    simulate(requantiser, bench)
    assert PARAMETERS.size == 32 + 32 + 6
    assert len(Value.cast(requantiser.o_results)) == 8 * lanes
    assert Const.cast(PARAMETERS.const({"bias": -1})).value == 0xFFFFFFFF
