"""Register file: one write port, combinational read ports."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["RegisterFile"]


class RegisterFile(wiring.Component):
    """A register file of ``depth`` entries of ``width`` bits. CRF, WRF, MRF, ARF and PRF are all instances of it.

    Reads are combinational: ``o_data_0 .. o_data_{ports-1}`` follow ``i_address_0 ..`` in the same cycle, and see a
    write from the next cycle on. Contents start at zero in simulation; nothing may depend on it.

    Parameters
    ----------
    depth, width
        Entries, and bits of an entry.
    ports
        Read ports.

    Members
    -------
    i_write, i_write_address, i_write_data
        The write port.
    i_address_N, o_data_N
        Read port N.
    """

    def __init__(self, depth: int, width: int, ports: int = 1) -> None:
        self.depth, self.width, self.ports = depth, width, ports
        address = (depth - 1).bit_length()
        members = {"i_write": In(1), "i_write_address": In(address), "i_write_data": In(width)}
        for port in range(ports):
            members[f"i_address_{port}"] = In(address)
            members[f"o_data_{port}"] = Out(width)
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        m.submodules.storage = storage = memory.Memory(shape=self.width, depth=self.depth, init=[])
        write = storage.write_port()
        m.d.comb += [
            write.en.eq(self.i_write),
            write.addr.eq(self.i_write_address),
            write.data.eq(self.i_write_data),
        ]
        for port in range(self.ports):
            read = storage.read_port(domain="comb")
            m.d.comb += [
                read.addr.eq(getattr(self, f"i_address_{port}")),
                getattr(self, f"o_data_{port}").eq(read.data),
            ]
        return m
