"""Static memory: what a memory compiler's macro takes the place of."""

from __future__ import annotations

from amaranth.hdl import ClockSignal, Instance, Module
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from hw.emission import Emission

__all__ = ["Sram", "sram_rtlil"]

_RTLIL = r"""module \{name}
  wire width 1 input 0 \clk
  wire width 1 input 1 \i_write
  wire width {address} input 2 \i_write_address
  wire width {width} input 3 \i_write_data
  wire width 1 input 4 \i_read
  wire width {address} input 5 \i_read_address
  wire width {width} output 6 \o_data
  memory width {width} size {depth} \mem
  cell $memwr_v2 $1
    parameter \MEMID "\\mem"
    parameter \ABITS {address}
    parameter \WIDTH {width}
    parameter \CLK_ENABLE 1
    parameter \CLK_POLARITY 1
    parameter \PORTID 0
    parameter \PRIORITY_MASK 0
    connect \ADDR \i_write_address
    connect \DATA \i_write_data
    connect \EN {{ {enables} }}
    connect \CLK \clk
  end
  cell $memrd_v2 $2
    parameter \MEMID "\\mem"
    parameter \ABITS {address}
    parameter \WIDTH {width}
    parameter \TRANSPARENCY_MASK 1'0
    parameter \COLLISION_X_MASK 1'0
    parameter \ARST_VALUE {width}'{unknown}
    parameter \SRST_VALUE {width}'{unknown}
    parameter \INIT_VALUE {width}'{unknown}
    parameter \CE_OVER_SRST 0
    parameter \CLK_ENABLE 1
    parameter \CLK_POLARITY 1
    connect \ADDR \i_read_address
    connect \DATA \o_data
    connect \ARST 1'0
    connect \SRST 1'0
    connect \EN \i_read
    connect \CLK \clk
  end
end
"""


def sram_rtlil(name: str, depth: int, width: int) -> str:
    """RTLIL of a module that is a :class:`Sram` without initial contents."""
    return _RTLIL.format(
        name=name,
        depth=depth,
        width=width,
        address=(depth - 1).bit_length(),
        enables=r"\i_write " * width,
        unknown="x" * width,
    )


class Sram(wiring.Component):
    """A memory of ``depth`` words of ``width`` bits with one write and one read port, both synchronous.

    ``o_data`` is the word of the last read from the cycle after it on, and holds. A read does not see a write of the
    same cycle. Contents start at zero in Amaranth's simulator, and are undefined in Verilog; nothing may depend on
    them.

    Parameters
    ----------
    depth, width
        Words, at least 2, and bits of a word.

    Members
    -------
    i_write, i_write_address, i_write_data
        The write port.
    i_read, i_read_address, o_data
        The read port.
    """

    def __init__(self, depth: int, width: int) -> None:
        self.depth, self.width = depth, width
        super().__init__(
            {
                "i_write": In(1),
                "i_write_address": In(range(depth)),
                "i_write_data": In(width),
                "i_read": In(1),
                "i_read_address": In(range(depth)),
                "o_data": Out(width),
            }
        )

    @property
    def name(self) -> str:
        """For the instance: modules in Verilog are called after it, so that each size can be told from the others."""
        return f"sram_{self.depth}x{self.width}"

    def elaborate(self, platform):
        if isinstance(platform, Emission):
            # Amaranth emits a memory with all its initial words: 17 MB of zeros, and 45 s, for an L2 of 2 MB.
            name = f"{platform.prefix}_{self.name}"
            platform.texts[name] = sram_rtlil(name, self.depth, self.width)
            ports = [
                ("i" if member.flow is wiring.In else "o", port, getattr(self, port))
                for port, member in self.signature.members.items()
            ]
            return Instance(name, ("i", "clk", ClockSignal()), *ports)

        m = Module()
        m.submodules.storage = storage = memory.Memory(shape=self.width, depth=self.depth, init=[])
        write, read = storage.write_port(), storage.read_port()
        m.d.comb += [
            write.en.eq(self.i_write),
            write.addr.eq(self.i_write_address),
            write.data.eq(self.i_write_data),
            read.en.eq(self.i_read),
            read.addr.eq(self.i_read_address),
            self.o_data.eq(read.data),
        ]
        return m
