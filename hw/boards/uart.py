"""A UART of 8 data bits, no parity and one stop bit."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

__all__ = ["MAX_DIVISOR", "MIN_DIVISOR", "UartReceiver", "UartTransmitter"]

#: Fewest clock cycles of a bit: the receiver samples in the middle of one.
MIN_DIVISOR = 8

#: Most clock cycles of a bit.
MAX_DIVISOR = (1 << 24) - 1


def _check(divisor: int) -> None:
    if type(divisor) is not int or not MIN_DIVISOR <= divisor <= MAX_DIVISOR:
        raise ValueError(f"divisor must be in {MIN_DIVISOR}..{MAX_DIVISOR}, not {divisor!r}")


class UartTransmitter(wiring.Component):
    """Sends bytes, lowest bit first, each behind a start bit (0) and before a stop bit (1).

    Parameters
    ----------
    divisor
        Clock cycles of a bit, at least :data:`MIN_DIVISOR`.

    Members
    -------
    i_byte
        The bytes.
    o_tx
        The line; 1 between bytes.

    Raises
    ------
    ValueError
        ``divisor`` is out of range.
    """

    def __init__(self, divisor: int) -> None:
        _check(divisor)
        self.divisor = divisor
        super().__init__({"i_byte": In(stream.Signature(8)), "o_tx": Out(1, init=1)})

    def elaborate(self, platform):
        m = Module()
        frame = Signal(10, init=(1 << 10) - 1)
        left = Signal(range(11))
        timer = Signal(range(self.divisor))
        # The line comes from a flip-flop.
        m.d.comb += [self.o_tx.eq(frame[0]), self.i_byte.ready.eq(left == 0)]
        m.d.sync += timer.eq(Mux(timer == 0, self.divisor - 1, timer - 1))
        with m.If(self.i_byte.valid & self.i_byte.ready):
            m.d.sync += [
                frame.eq(Cat(Const(0, 1), self.i_byte.payload, Const(1, 1))),
                left.eq(10),
                timer.eq(self.divisor - 1),
            ]
        with m.Elif((left != 0) & (timer == 0)):
            m.d.sync += [frame.eq(Cat(frame[1:], Const(1, 1))), left.eq(left - 1)]
        return m


class UartReceiver(wiring.Component):
    """Receives bytes. A frame whose stop bit is 0 is dropped, and so is a byte that comes before the last was taken.

    Parameters and errors: :class:`UartTransmitter`.

    Members
    -------
    i_rx
        The line, of any clock.
    o_byte
        The bytes.
    """

    def __init__(self, divisor: int) -> None:
        _check(divisor)
        self.divisor = divisor
        super().__init__({"i_rx": In(1, init=1), "o_byte": Out(stream.Signature(8))})

    def elaborate(self, platform):
        m = Module()
        rx = Signal(init=1)
        m.submodules.synchroniser = FFSynchronizer(self.i_rx, rx, init=1)
        timer = Signal(range(self.divisor))
        bits = Signal(8)
        number = Signal(range(8))
        with m.If(self.o_byte.ready):
            m.d.sync += self.o_byte.valid.eq(0)
        with m.If(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.FSM():
            with m.State("IDLE"), m.If(~rx):
                m.d.sync += timer.eq(self.divisor // 2)
                m.next = "START"
            with m.State("START"), m.If(timer == 0):
                m.d.sync += [timer.eq(self.divisor - 1), number.eq(0)]
                m.next = "DATA"
                with m.If(rx):  # no start bit, a spike
                    m.next = "IDLE"
            with m.State("DATA"), m.If(timer == 0):
                m.d.sync += [timer.eq(self.divisor - 1), bits.eq(Cat(bits[1:], rx)), number.eq(number + 1)]
                with m.If(number == 7):
                    m.next = "STOP"
            with m.State("STOP"), m.If(timer == 0):
                m.next = "BREAK"
                with m.If(rx):
                    m.next = "IDLE"
                    with m.If(~self.o_byte.valid):
                        m.d.sync += [self.o_byte.payload.eq(bits), self.o_byte.valid.eq(1)]
            with m.State("BREAK"), m.If(rx):  # the line has been held down
                m.next = "IDLE"
        return m
