"""Memories with several clients: L2, and the activations' part of L1."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.config import AcceleratorConfig, ConfigError
from hw.memory.ports import ReadPort, WritePort
from hw.memory.sram import Sram

__all__ = ["IfmapMemory", "L2Memory", "RoundRobin", "SharedMemory"]

_MOST_CLIENTS = 16


class RoundRobin(wiring.Component):
    """Gives one of several requests a turn in each cycle; who had one comes last. A turn waits for no one.

    Parameters
    ----------
    count
        Requesters.

    Members
    -------
    i_valid
        Who has a request.
    o_ready
        Whose request would be taken. It depends on the requests of the others alone.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        super().__init__({"i_valid": In(count), "o_ready": Out(count)})

    def elaborate(self, platform):
        m = Module()
        first = Signal(range(self.count))  # who is served before all others
        with m.Switch(first):
            for start in range(self.count):
                with m.Case(start):
                    before = []
                    for step in range(self.count):
                        client = (start + step) % self.count
                        m.d.comb += self.o_ready[client].eq(~Cat(before).any())
                        before.append(self.i_valid[client])
        for client in range(self.count):
            with m.If(self.i_valid[client] & self.o_ready[client]):
                m.d.sync += first.eq((client + 1) % self.count)
        return m


class SharedMemory(wiring.Component):
    """A memory that takes one read and one write a cycle, from several clients each, who take turns.

    A word can be read from the second cycle after the one that took its write on. A client that always asks gets every
    n-th cycle at least, of n clients.

    Parameters
    ----------
    depth, width
        Words, and bits of a word.
    readers, writers
        Clients, 1..16 each.

    Members
    -------
    i_read_0 .. , i_write_0 ..
        The clients' ports.
    o_read, o_write
        A read or a write was taken: for the performance counters.

    Raises
    ------
    ConfigError
        The number of clients is out of range.
    """

    def __init__(self, depth: int, width: int, readers: int = 1, writers: int = 1) -> None:
        for name, value in (("readers", readers), ("writers", writers)):
            if type(value) is not int or not 1 <= value <= _MOST_CLIENTS:
                raise ConfigError(f"{name} must be in 1..{_MOST_CLIENTS}, not {value!r}")
        self.depth, self.width, self.readers, self.writers = depth, width, readers, writers
        super().__init__(
            {
                **{f"i_read_{i}": In(ReadPort(depth, width)) for i in range(readers)},
                **{f"i_write_{i}": In(WritePort(depth, width)) for i in range(writers)},
                "o_read": Out(1),
                "o_write": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        sram = Sram(self.depth, self.width)
        m.submodules[sram.name] = sram

        def arbitrate(name, ports):
            """Requests that are taken in this cycle."""
            valid, ready = Cat(port.valid for port in ports), Cat(port.ready for port in ports)
            if len(ports) == 1:
                m.d.comb += ready.eq(1)
                return valid
            m.submodules[name] = arbiter = RoundRobin(len(ports))
            taken = Signal(len(ports), name=f"{name}_taken")
            m.d.comb += [arbiter.i_valid.eq(valid), ready.eq(arbiter.o_ready), taken.eq(valid & ready)]
            return taken

        def chosen(taken, values):
            if len(values) == 1:
                return values[0]
            selected = 0
            for i, value in enumerate(values):
                selected |= Mux(taken[i], value, 0)
            return selected

        reads = [getattr(self, f"i_read_{i}") for i in range(self.readers)]
        taken = arbitrate("read", reads)
        m.d.comb += [
            self.o_read.eq(taken.any()),
            sram.i_read.eq(self.o_read),
            sram.i_read_address.eq(chosen(taken, [port.address for port in reads])),
        ]
        for i, port in enumerate(reads):
            m.d.sync += port.data_valid.eq(taken[i])
            m.d.comb += port.data.eq(sram.o_data)

        writes = [getattr(self, f"i_write_{i}") for i in range(self.writers)]
        taken = arbitrate("write", writes)
        m.d.comb += self.o_write.eq(taken.any())
        # A register behind the multiplexer of whole words; where there is none, it would only cost area.
        domain = m.d.sync if self.writers > 1 else m.d.comb
        write, word = Signal(), Signal(self.width, reset_less=True)
        address = Signal.like(sram.i_write_address, name="write_address", reset_less=True)
        domain += [
            write.eq(self.o_write),
            address.eq(chosen(taken, [port.address for port in writes])),
            word.eq(chosen(taken, [port.data for port in writes])),
        ]
        m.d.comb += [sram.i_write.eq(write), sram.i_write_address.eq(address), sram.i_write_data.eq(word)]
        return m


class L2Memory(SharedMemory):
    """L2: the feature maps. :class:`SharedMemory` of ``l2_depth`` words of ``l2_word`` bytes.

    Parameters
    ----------
    config
        The instance.
    readers, writers
        Clients, 1..16 each.

    Raises
    ------
    ConfigError
        The number of clients is out of range.
    """

    def __init__(self, config: AcceleratorConfig, readers: int, writers: int) -> None:
        super().__init__(config.l2_depth, config.l2_bits, readers, writers)


class IfmapMemory(SharedMemory):
    """L1, activations: :class:`SharedMemory` of ``l1_ifmap_depth`` vectors of H bytes, written by the ifmap loader and
    read by the activation reader. Both are always ready.

    Parameters
    ----------
    config
        The instance.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        super().__init__(config.l1_ifmap_depth, 8 * config.H)
