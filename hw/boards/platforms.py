"""The boards, by name, and the top of the design as it goes to the tools of their FPGA."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from amaranth.build import Attrs, Resource
from amaranth.hdl import ClockDomain, ClockSignal, Elaboratable, Instance, Module, Signal
from amaranth.lib import io
from amaranth.lib.cdc import ResetSynchronizer
from amaranth_boards.resources import UARTResource

from hw.boards.system import BoardSystem
from hw.config import ConfigError

__all__ = ["BOARDS", "Board", "BoardTop", "Pll", "board_named"]

#: Range of the VCO of an ECP5's PLL, in Hz (Lattice FPGA-DS-02012, table of the sysCLOCK PLL).
_VCO = (400_000_000, 800_000_000)


@dataclass(frozen=True)
class Board:
    """One board."""

    #: For the command line.
    name: str
    #: Where :mod:`amaranth_boards` has it.
    module: str
    platform: str
    #: For a listing.
    summary: str
    #: Of the first LEDs of :data:`hw.boards.system.LEDS`: resource, its number, and its part where it has parts.
    leds: tuple[tuple[str, int, str | None], ...]
    #: Arguments that tell openFPGALoader the board: its name in ``src/board.hpp``, or the cable where it has none.
    loader: tuple[str, ...]
    #: A resource of the board's own where the platform has none.
    uart: Resource | None = None
    #: Further arguments for ecppack.
    pack: tuple[str, ...] = ()

    def make_platform(self) -> Any:
        """The platform of amaranth-boards, with the UART."""
        made: Any = getattr(importlib.import_module(f"amaranth_boards.{self.module}"), self.platform)()
        if self.uart is not None:
            made.add_resources([self.uart])
        return made


_ROW = tuple(("led", number, None) for number in range(4))
#: Of a LED of three colours: blue runs, green passes, red fails.
_COLOURS = tuple(("rgb_led", 0, colour) for colour in "bgr")
_PINS = UARTResource(0, rx="0", tx="1", conn=("io", 0), attrs=Attrs(IO_TYPE="LVCMOS33", PULLMODE="UP"))

_ULX3S = ("--board", "ulx3s")

BOARDS: Mapping[str, Board] = {
    board.name: board
    for board in (
        Board(
            "ulx3s-85f", "ulx3s", "ULX3S_85F_Platform", "ULX3S, LFE5U-85F: UART on the USB socket US1", _ROW, _ULX3S
        ),
        Board(
            "ulx3s-45f", "ulx3s", "ULX3S_45F_Platform", "ULX3S, LFE5U-45F: UART on the USB socket US1", _ROW, _ULX3S
        ),
        # No board of openFPGALoader's; its first FT2232 interface is the FPGA's JTAG.
        Board(
            "versa-ecp5", "versa_ecp5", "VersaECP5Platform", "Lattice Versa, LFE5UM-45F: UART on USB", _ROW,
            ("--cable", "ft2232"),
        ),
        # Through its USB boot loader, which reads the flash at the speed that amaranth-boards has, too.
        Board(
            "orangecrab-85f", "orangecrab_r0_2", "OrangeCrabR0_2_85FPlatform",
            "OrangeCrab r0.2, LFE5U-85F: UART on pins 0 (to the board) and 1 (from it)", _COLOURS,
            ("--board", "orangeCrab"), _PINS, ("--freq", "38.8"),
        ),
    )
}  # fmt: skip


def board_named(name: str) -> Board:
    """The board of that name.

    Raises
    ------
    ConfigError
        There is none.
    """
    if name not in BOARDS:
        raise ConfigError(f"board must be one of {', '.join(BOARDS)}, not {name!r}")
    return BOARDS[name]


def _divider(output: str, by: int) -> dict[str, str | int]:
    """Parameters of an output of the PLL: the VCO's frequency divided, in phase with its input."""
    parameters = {"ENABLE": "ENABLED", "DIV": by, "CPHASE": by - 1, "FPHASE": 0}
    return {f"p_{output}_{name}": value for name, value in parameters.items()}


@dataclass(frozen=True)
class Pll:
    """Dividers of an ECP5's PLL that makes one frequency of another.

    The VCO runs at ``feedback`` times the input. CLKOP, the VCO by ``feedback``, is fed back, so that the phase
    detector works at the input's frequency; CLKOS, the VCO by ``output``, is the clock.

    Raises
    ------
    ConfigError
        The PLL cannot make that frequency.
    """

    source: int
    clock: int
    feedback: int
    output: int

    @classmethod
    def between(cls, source: int, clock: int) -> Pll:
        """From ``source`` to ``clock``, both in Hz."""
        if not (10_000_000 <= source <= 400_000_000 and 3_125_000 <= clock <= 400_000_000):
            raise ConfigError(f"clock must be in 3125000..400000000 Hz, not {clock}")
        low, high = _VCO
        for feedback in range(-(-low // source), min(128, high // source) + 1):
            vco = feedback * source
            if vco % clock == 0 and vco // clock <= 128:
                return cls(source, clock, feedback, vco // clock)
        near = sorted(
            {
                feedback * source // output
                for feedback in range(-(-low // source), min(128, high // source) + 1)
                for output in range(1, 129)
                if feedback * source % output == 0
            },
            key=lambda found: abs(found - clock),
        )[:4]
        raise ConfigError(f"clock must be one that the PLL makes of {source} Hz, such as {sorted(near)}, not {clock}")

    def instance(self, clock_in: Signal, clock_out: Signal, locked: Signal) -> Instance:
        """The primitive."""
        fed_back = Signal()
        return Instance(
            "EHXPLLL",
            a_FREQUENCY_PIN_CLKI=f"{self.source / 1e6:g}",
            a_FREQUENCY_PIN_CLKOP=f"{self.source / 1e6:g}",
            a_FREQUENCY_PIN_CLKOS=f"{self.clock / 1e6:g}",
            a_ICP_CURRENT="12",
            a_LPF_RESISTOR="8",
            a_MFG_ENABLE_FILTEROPAMP="1",
            a_MFG_GMCREF_SEL="2",
            **{f"p_{name}": "DISABLED" for name in ("PLLRST_ENA", "INTFB_WAKE", "STDBY_ENABLE", "DPHASE_SOURCE")},
            **{f"p_OUTDIVIDER_MUX{divider}": f"DIV{divider}" for divider in "ABCD"},
            p_FEEDBK_PATH="CLKOP",
            p_CLKI_DIV=1,
            p_CLKFB_DIV=1,
            **_divider("CLKOP", self.feedback),
            **_divider("CLKOS", self.output),
            **dict.fromkeys(("i_RST", "i_STDBY"), 0),
            i_CLKI=clock_in,
            i_CLKFB=fed_back,
            **dict.fromkeys(("i_PHASESEL0", "i_PHASESEL1"), 0),
            **dict.fromkeys(("i_PHASEDIR", "i_PHASESTEP", "i_PHASELOADREG"), 1),
            **dict.fromkeys(("i_PLLWAKESYNC", "i_ENCLKOP", "i_ENCLKOS"), 0),
            o_CLKOP=fed_back,
            o_CLKOS=clock_out,
            o_LOCK=locked,
        )


class BoardTop(Elaboratable):
    """Pins, PLL and reset around a system.

    Parameters
    ----------
    board
        The board.
    clock
        Frequency of the system in Hz.
    make
        Makes the system.
    """

    def __init__(self, board: Board, clock: int, make: Callable[[], BoardSystem]) -> None:
        self.board, self.clock, self.make = board, clock, make

    def elaborate(self, platform):
        m = Module()
        m.submodules.system = system = self.make()

        m.submodules.clock_pin = pin = io.Buffer("i", platform.request(platform.default_clk, dir="-"))
        clock_in, locked = Signal(), Signal()
        m.d.comb += clock_in.eq(pin.i)
        m.domains.sync = ClockDomain()
        pll = Pll.between(round(platform.default_clk_frequency), self.clock)
        m.submodules.pll = pll.instance(clock_in, ClockSignal(), locked)
        m.submodules.reset = ResetSynchronizer(~locked)

        uart = platform.request("uart", 0, dir="-")
        m.submodules.rx = rx = io.Buffer("i", uart.rx)
        m.submodules.tx = tx = io.Buffer("o", uart.tx)
        m.d.comb += [system.i_rx.eq(rx.i), tx.o.eq(system.o_tx)]
        resources = {}
        for place, light in zip(self.board.leds, system.o_leds, strict=False):
            resource, number, part = place
            if (resource, number) not in resources:
                resources[resource, number] = platform.request(resource, number, dir="-")
            port = resources[resource, number] if part is None else getattr(resources[resource, number], part)
            m.submodules[f"led_{resource}_{number}_{part}"] = led = io.Buffer("o", port)
            m.d.comb += led.o.eq(light)
        return m
