"""What is in the FPGA: the accelerator, block RAM for its DRAM, the processor of the self-test, and a UART."""

from __future__ import annotations

from amaranth.hdl import Cat, ClockSignal, Instance, Module, ResetSignal, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.accelerator import Accelerator
from hw.boards.firmware import SelfTest, firmware
from hw.boards.memory import BoardMemory
from hw.boards.processor import Processor
from hw.boards.uart import UartReceiver, UartTransmitter
from hw.bus.axi import Axi4LiteSignature, Axi4Signature
from hw.bus.reader import ID_BITS
from hw.bus.registers import ADDRESS_BITS
from hw.config import AcceleratorConfig

__all__ = ["ACCELERATOR", "LEDS", "BoardSystem"]

#: Module of the accelerator's generated Verilog, where that is used.
ACCELERATOR = "accelerator"

#: LEDs: running, pass, fail, and a beat.
LEDS = 4


class BoardSystem(wiring.Component):
    """Runs the self-test after reset, then serves the UART (:mod:`hw.boards.protocol`).

    Parameters
    ----------
    config
        The instance.
    test
        The self-test.
    contents
        The first bytes of the memory: program, input.
    size
        Bytes of the memory, a multiple of 4096.
    divisor
        Clock cycles of a bit on the UART.
    wait_states
        Of the memory.
    patience
        Cycles without a byte after which a request that has begun is given up.
    beat
        Bit of the cycle counter that the last LED shows.
    verilog
        The accelerator is an instance of module :data:`ACCELERATOR` from a file; without it, of the component.

    Members
    -------
    i_rx, o_tx
        The UART.
    o_leds
        :data:`LEDS` bits: running, pass, fail, beat.

    Raises
    ------
    ConfigError, ValueError
        A parameter is out of range.
    """

    def __init__(
        self,
        config: AcceleratorConfig,
        test: SelfTest,
        contents: bytes,
        size: int,
        divisor: int,
        *,
        wait_states: int = 3,
        patience: int = 1 << 24,
        beat: int = 24,
        verilog: bool = False,
    ) -> None:
        self.config, self.verilog, self.beat = config, verilog, beat
        self.memory = BoardMemory(config, size, contents, wait_states)
        self.processor = Processor(firmware(test, config, size), test.expected, size, patience, LEDS - 1)
        self.receiver, self.transmitter = UartReceiver(divisor), UartTransmitter(divisor)
        super().__init__({"i_rx": In(1, init=1), "o_tx": Out(1, init=1), "o_leds": Out(LEDS)})

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.memory, m.submodules.processor = memory, processor = self.memory, self.processor
        m.submodules.receiver, m.submodules.transmitter = receiver, transmitter = self.receiver, self.transmitter
        m.d.comb += [receiver.i_rx.eq(self.i_rx), self.o_tx.eq(transmitter.o_tx)]
        wiring.connect(m, receiver.o_byte, processor.i_byte)
        wiring.connect(m, processor.o_byte, transmitter.i_byte)
        m.d.comb += [
            memory.i_address.eq(processor.o_address),
            memory.i_read.eq(processor.o_read),
            memory.i_write.eq(processor.o_write),
            memory.i_data.eq(processor.o_data),
            processor.i_data.eq(memory.o_data),
        ]

        sides = {
            "s_axil": (Axi4LiteSignature(ADDRESS_BITS).flip(), processor.axil),
            "m_axi": (Axi4Signature(config.address_bits, config.word_width, ID_BITS), memory.axi),
        }
        if self.verilog:
            ports = [("i", "clk", ClockSignal()), ("i", "rst", ResetSignal())]
            for name, (signature, other) in sides.items():
                for signal, member in signature.members.items():
                    ports.append(("i" if member.flow is In else "o", f"{name}_{signal}", getattr(other, signal)))
            ports.append(("o", "o_interrupt", processor.i_interrupt))
            m.submodules.accelerator = Instance(ACCELERATOR, *ports)
        else:
            m.submodules.accelerator = accelerator = Accelerator(config)
            for name, (signature, other) in sides.items():
                for signal, member in signature.members.items():
                    inner, outer = getattr(accelerator, f"{name}_{signal}"), getattr(other, signal)
                    m.d.comb += inner.eq(outer) if member.flow is In else outer.eq(inner)
            m.d.comb += processor.i_interrupt.eq(accelerator.o_interrupt)

        beat = Signal(self.beat + 1)
        m.d.sync += beat.eq(beat + 1)
        m.d.comb += self.o_leds.eq(Cat(processor.o_leds, beat[self.beat]))
        return m
