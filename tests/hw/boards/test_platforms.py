"""The boards and their PLL; and pins, clock and reset around a system, simulated with a stand-in for the primitive."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from amaranth.hdl import Elaboratable, Fragment, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.io import SimulationPort
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from hw.boards.platforms import BOARDS, BoardTop, Pll, board_named
from hw.boards.system import LEDS
from hw.config import ConfigError


def test_boards_by_name() -> None:
    assert [board_named(name).name for name in BOARDS] == list(BOARDS)
    with pytest.raises(ConfigError, match=r"board must be one of ulx3s-85f, .*, orangecrab-85f, not 'de10'"):
        board_named("de10")


@pytest.mark.parametrize("name", BOARDS)
def test_a_board_has_its_clock_uart_and_lights(name: str) -> None:
    """What the top asks for is on the board; there is a light for each that the system has, or for the first three."""
    board = board_named(name)
    platform = board.make_platform()
    assert Pll.between(round(platform.default_clk_frequency), 40_000_000).clock == 40_000_000
    assert platform.lookup("uart", 0)
    lights = [(number, part) for _, number, part in board.leds]
    for resource, number, part in board.leds:
        parts = {getattr(x, "name", None) for x in platform.lookup(resource, number).ios}
        assert part is None or part in parts
    assert lights in ([(number, None) for number in range(LEDS)], [(0, "b"), (0, "g"), (0, "r")])


@pytest.mark.parametrize(
    ("source", "clock", "feedback", "output"),
    [
        # The slowest VCO of those that do, by hand from the data sheet's ranges.
        (25_000_000, 40_000_000, 16, 10),
        (48_000_000, 40_000_000, 10, 12),
        (100_000_000, 40_000_000, 4, 10),
        (400_000_000, 400_000_000, 1, 1),
        (10_000_000, 400_000_000, 40, 1),
        (10_000_000, 3_125_000, 40, 128),
        (300_000_000, 300_000_000, 2, 2),
        (265_000_000, 265_000_000, 2, 2),
        (16_000_000, 266_000_000, None, None),
        (400_000_000, 200_000_000, 1, 2),
        (400_000_001, 40_000_000, None, None),
        (9_999_999, 40_000_000, None, None),
        (40_000_000, 3_124_999, None, None),
        (40_000_000, 400_000_001, None, None),
        (400_000_000, 400_000_001, None, None),
        (12_500_000, 12_500_000 * 64 // 128, 32, 64),
    ],
)
def test_dividers(source: int, clock: int, feedback: int | None, output: int | None) -> None:
    if feedback is None:
        with pytest.raises(ConfigError, match="clock must be"):
            Pll.between(source, clock)
    else:
        assert Pll.between(source, clock) == Pll(source, clock, feedback, output)


def test_every_clock_of_a_source() -> None:
    """What can be made by any dividers within the ranges is made; of the rest the nearest four are named."""
    seen: set[int] = set()
    for source in (12_000_000, 25_000_000, 100_000_000, 390_000_000):
        possible = {
            source * feedback // output
            for feedback in range(1, 129)
            for output in range(1, 129)
            if 400_000_000 <= source * feedback <= 800_000_000 and source * feedback % output == 0
        }
        for clock in possible:
            if 3_125_000 <= clock <= 400_000_000:
                pll = Pll.between(source, clock)
                assert (source * pll.feedback, pll.output <= 128) == (clock * pll.output, True)
                assert 400_000_000 <= source * pll.feedback <= 800_000_000
        # Just beside one that can be made; and what a VCO could make that is too slow, or of a negative factor.
        wanted = {max(x for x in possible if x < 300_000_000) - 1}
        for feedback, output in ((13, 80), (7, 60), (11, 90)):
            slow, rest = divmod(source * feedback, output)
            if rest == 0 and slow >= 3_125_000 and slow not in possible:
                wanted.add(slow)
        seen |= wanted
        for clock in wanted:
            near = sorted(sorted(possible, key=lambda x: abs(x - clock))[:4])
            with pytest.raises(ConfigError) as refused:
                Pll.between(source, clock)
            assert str(refused.value) == (
                f"clock must be one that the PLL makes of {source} Hz, such as {near}, not {clock}"
            )
    assert 4_062_500 in seen


def test_a_clock_out_of_range_is_refused_with_the_range() -> None:
    for source, clock in (
        (25_000_000, 3_124_999),
        (25_000_000, 400_000_001),
        # And where the board's own clock is out of the PLL's range.
        (400_000_001, 40_000_000),
        (9_999_999, 40_000_000),
    ):
        with pytest.raises(ConfigError, match=rf"clock must be in 3125000\.\.400000000 Hz, not {clock}"):
            Pll.between(source, clock)


def test_the_primitive() -> None:
    """CLKOP is fed back at the input's frequency, CLKOS is the clock; their phases are those of their dividers."""
    clock_in, clock_out, locked = Signal(), Signal(), Signal()
    instance = Pll(25_000_000, 40_000_000, 16, 10).instance(clock_in, clock_out, locked)
    assert instance.type == "EHXPLLL"
    assert {name: instance.attrs[f"FREQUENCY_PIN_{name}"] for name in ("CLKI", "CLKOP", "CLKOS")} == {
        "CLKI": "25", "CLKOP": "25", "CLKOS": "40",
    }  # fmt: skip
    numbers = {name: value for name, value in instance.parameters.items() if not isinstance(value, str)}
    assert numbers == {
        "CLKI_DIV": 1, "CLKFB_DIV": 1, "CLKOP_DIV": 16, "CLKOP_CPHASE": 15, "CLKOP_FPHASE": 0, "CLKOS_DIV": 10,
        "CLKOS_CPHASE": 9, "CLKOS_FPHASE": 0,
    }  # fmt: skip
    assert instance.parameters["FEEDBK_PATH"] == "CLKOP"
    assert {instance.parameters[f"{name}_ENABLE"] for name in ("CLKOP", "CLKOS")} == {"ENABLED"}
    ports = {name: port for name, (port, _) in instance.ports.items()}
    assert ports["CLKFB"] is ports["CLKOP"]
    assert ports["CLKI"] is clock_in
    assert ports["CLKOS"] is clock_out
    assert ports["LOCK"] is locked
    # Held in their resting states: reset, standby, and the steps of the phase.
    rest = {"RST": 0, "STDBY": 0, "PHASESEL0": 0, "PHASESEL1": 0, "PHASEDIR": 1, "PHASESTEP": 1, "PHASELOADREG": 1}
    for name, value in (rest | {"PLLWAKESYNC": 0, "ENCLKOP": 0, "ENCLKOS": 0}).items():
        assert ports[name].value == value, name


class Echo(wiring.Component):
    """Sends back what it hears, and counts its clock's edges on the lights."""

    def __init__(self) -> None:
        super().__init__({"i_rx": In(1, init=1), "o_tx": Out(1, init=1), "o_leds": Out(LEDS)})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.o_tx.eq(self.i_rx)
        m.d.sync += self.o_leds.eq(self.o_leds + 1)
        return m


class Locking(Elaboratable):
    """The clock is the input; locked as the test says."""

    def __init__(self, clock_in: Signal, clock_out: Signal, locked: Signal, say: Signal) -> None:
        self.clock_in, self.clock_out, self.locked, self.say = clock_in, clock_out, locked, say

    def elaborate(self, platform):
        m = Module()
        m.d.comb += [self.clock_out.eq(self.clock_in), self.locked.eq(self.say)]
        return m


@pytest.mark.parametrize("name", ["ulx3s-85f", "orangecrab-85f"])
def test_pins_clock_and_reset(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    board, say = board_named(name), Signal()
    made: list[Pll] = []

    def instance(self: Pll, *signals: Signal) -> Locking:
        made.append(self)
        return Locking(*signals, say)

    monkeypatch.setattr(Pll, "instance", instance)
    ports: dict[tuple[str, int], object] = {}

    class Platform:
        default_clk, default_clk_frequency = "clk", 25_000_000.0

        def request(self, resource: str, number: int = 0, *, dir: str) -> object:
            assert dir == "-"
            assert (resource, number) not in ports
            if resource == "uart":
                found: object = SimpleNamespace(rx=SimulationPort("i", 1), tx=SimulationPort("o", 1))
            elif resource == "rgb_led":
                found = SimpleNamespace(**{part: SimulationPort("o", 1) for part in "rgb"})
            else:
                found = SimulationPort("i" if resource == "clk" else "o", 1)
            ports[resource, number] = found
            return found

    design = Fragment.get(BoardTop(board, 40_000_000, Echo), Platform())
    assert made == [Pll(25_000_000, 40_000_000, 16, 10)]
    lights = [ports[resource, number] for resource, number, _ in board.leds]
    lights = [x if part is None else getattr(x, part) for x, (*_, part) in zip(lights, board.leds, strict=True)]
    clock, uart = ports["clk", 0], ports["uart", 0]
    simulator = Simulator(design)

    async def bench(ctx) -> None:
        async def edges(count: int) -> int:
            for _ in range(count):
                for level in (1, 0):
                    ctx.set(clock.i, level)
                    await ctx.delay(1e-8)
            return sum(ctx.get(light.o) << at for at, light in enumerate(lights))

        for level in (1, 0, 1):
            ctx.set(uart.rx.i, level)
            await ctx.delay(1e-8)
            assert ctx.get(uart.tx.o) == level
        # No count before the PLL has locked, and a clean start after it.
        assert await edges(5) == 0
        ctx.set(say, 1)
        first = await edges(5)
        assert 0 < first < 5
        mask = (1 << len(lights)) - 1
        for count in range(1, 20):
            assert await edges(1) == (first + count) & mask
        ctx.set(say, 0)
        assert await edges(3) == 0

    simulator.add_testbench(bench)
    simulator.run()
