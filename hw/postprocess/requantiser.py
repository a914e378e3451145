"""Requantiser: sums of one group of output channels to int8 (DESIGN: int32 bias, int32 multiplier, right shift)."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.config import AcceleratorConfig
from hw.emission import shared
from hw.postprocess.scaler import Scaler

__all__ = ["PARAMETERS", "Requantiser"]

#: Parameters of an output channel.
PARAMETERS = data.StructLayout({"bias": signed(32), "multiplier": signed(32), "shift": 6})


class Requantiser(wiring.Component):
    """``clamp(round((sum + bias) * multiplier / 2**shift), low, high)`` in every lane, halves away from zero, exact.

    :attr:`stages` registers from the sums to the results, the first of them holds ``sum + bias``. What goes through is
    for the user to know. Every int32 bias and multiplier and every sum are right: 33 by 32 bits are multiplied.

    Members
    -------
    i_enable
        The pipeline goes on.
    i_sums, i_parameters
        A sum and a channel's parameters for each of :attr:`hw.config.AcceleratorConfig.requantiser_lanes` lanes.
    i_low, i_high
        The range of the results. They hold while sums are in the pipeline.
    o_biased
        ``sum + bias`` modulo 2**32, one cycle after the sums.
    o_results
        int8, :attr:`stages` cycles after the sums.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self.stages = 1 + Scaler.stages_of(config.scaler_register)
        lanes = config.requantiser_lanes
        super().__init__(
            {
                "i_enable": In(1),
                "i_sums": In(data.ArrayLayout(signed(config.psum_width), lanes)),
                "i_parameters": In(data.ArrayLayout(PARAMETERS, lanes)),
                "i_low": In(signed(8)),
                "i_high": In(signed(8)),
                "o_biased": Out(data.ArrayLayout(signed(32), lanes)),
                "o_results": Out(data.ArrayLayout(signed(8), lanes)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        for lane in range(self.config.requantiser_lanes):
            given = self.i_parameters[lane]
            biased = Signal(signed(33), name=f"biased_{lane}", reset_less=True)
            multiplier = Signal(32, name=f"multiplier_{lane}", reset_less=True)
            shift = Signal(6, name=f"shift_{lane}", reset_less=True)
            with m.If(self.i_enable):
                m.d.sync += [
                    biased.eq(self.i_sums[lane] + given.bias),
                    multiplier.eq(given.multiplier),
                    shift.eq(given.shift),
                ]
            scaler = Scaler(33, self.config.scaler_register)
            m.submodules[f"scaler_{lane}"] = shared(scaler, platform)
            m.d.comb += [
                scaler.i_enable.eq(self.i_enable),
                scaler.i_x0.eq(biased),
                scaler.i_y0.eq(multiplier[:16]),
                scaler.i_x1.eq(biased),
                scaler.i_y1.eq(multiplier[16:].as_signed()),
                scaler.i_halves.eq(1),
                scaler.i_shift.eq(shift),
                scaler.i_low.eq(self.i_low),
                scaler.i_high.eq(self.i_high),
                self.o_biased[lane].eq(biased),
                self.o_results[lane].eq(scaler.o_result),
            ]
        return m
