"""Lengths of bursts, and flat ports."""

from __future__ import annotations

import random
import re

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.bus.axi import (
    BORDER,
    Axi4LiteSignature,
    Axi4Signature,
    Response,
    burst_length,
    connect_flat,
    flat_members,
    word_bytes,
)
from hw.config import ConfigError, preset
from hw.generate import to_rtlil

TINY = preset("ews-tiny")


@pytest.mark.parametrize(("width", "burst"), [(8, 1), (8, 256), (16, 4), (64, 16), (256, 128), (512, 64), (512, 256)])
def test_burst_length(simulate, width: int, burst: int) -> None:
    config = TINY.override([f"word_width={width}", f"burst_words={burst}", "fifo_words=512"])
    page = BORDER // (width // 8)
    address, words, length = Signal(20), Signal(32), Signal(16)
    m = Module()
    m.d.comb += length.eq(burst_length(config, address, words))
    rng = random.Random(0)

    async def bench(ctx) -> None:
        for _ in range(400):
            at = max(0, page * rng.randint(0, 3) + rng.choice([0, 0, rng.randint(-2, 2), rng.randint(-burst, burst)]))
            left = rng.choice([1, 2, burst, rng.randint(1, 2 * burst), (1 << 32) - 1])
            ctx.set(address, at)
            ctx.set(words, left)
            assert ctx.get(length) == min(burst, left, page - at % page)

    simulate(m, bench, clocked=False)


@pytest.mark.parametrize("width", [24, 80])
def test_word_width_that_axi_lacks_is_refused(width: int) -> None:
    with pytest.raises(ConfigError, match=rf"word_width must be a power of two in 8\.\.512 for AXI, not {width}"):
        word_bytes(TINY.override([f"word_width={width}"]))


class _Manager(wiring.Component):
    """Asks for the address that the host wrote, and nothing else."""

    def __init__(self) -> None:
        super().__init__(
            {"m_axi": wiring.Out(Axi4Signature(32, 64, 3, write=False)), "i_lite": In(Axi4LiteSignature(8))}
        )

    def elaborate(self, platform):
        m = Module()
        m.d.comb += [self.m_axi.araddr.eq(self.i_lite.wdata), self.i_lite.wready.eq(self.m_axi.arready)]
        return m


#: Bits of the subordinate's side of a channel, and of the manager's, as the standard has them (AMBA AXI, A2 and B1).
_REQUEST = {"addr": 32, "len": 8, "size": 3, "burst": 2, "cache": 4, "prot": 3, "id": 3, "valid": 1}
AXI4 = {
    "aw": (_REQUEST, {"ready": 1}),
    "w": ({"data": 64, "strb": 8, "last": 1, "valid": 1}, {"ready": 1}),
    "b": ({"ready": 1}, {"id": 3, "resp": 2, "valid": 1}),
    "ar": (_REQUEST, {"ready": 1}),
    "r": ({"ready": 1}, {"id": 3, "data": 64, "resp": 2, "last": 1, "valid": 1}),
}
_LITE_REQUEST = {"addr": 9, "prot": 3, "valid": 1}
AXI4_LITE = {
    "aw": (_LITE_REQUEST, {"ready": 1}),
    "w": ({"data": 32, "strb": 4, "valid": 1}, {"ready": 1}),
    "b": ({"ready": 1}, {"resp": 2, "valid": 1}),
    "ar": (_LITE_REQUEST, {"ready": 1}),
    "r": ({"ready": 1}, {"data": 32, "resp": 2, "valid": 1}),
}


@pytest.mark.parametrize(
    ("signature", "channels", "of"),
    [
        (Axi4Signature(32, 64, 3), AXI4, ("aw", "w", "b", "ar", "r")),
        (Axi4Signature(32, 64, 3, write=False), AXI4, ("ar", "r")),
        (Axi4Signature(32, 64, 3, read=False), AXI4, ("aw", "w", "b")),
        (Axi4LiteSignature(9), AXI4_LITE, ("aw", "w", "b", "ar", "r")),
    ],
)
def test_channels_are_those_of_the_standard(signature: wiring.Signature, channels: dict, of: tuple[str, ...]) -> None:
    wanted = {
        f"{channel}{name}": (flow, bits)
        for channel in of
        for flow, part in zip((Out, In), channels[channel], strict=True)
        for name, bits in part.items()
    }
    assert {name: (member.flow, member.shape) for name, member in signature.members.items()} == wanted


def test_responses_are_those_of_the_standard() -> None:
    assert {response.name: int(response) for response in Response} == {
        "OKAY": 0, "EXOKAY": 1, "SLVERR": 2, "DECERR": 3
    }  # fmt: skip


class _Top(wiring.Component):
    def __init__(self) -> None:
        super().__init__(
            flat_members("m_axi", Axi4Signature(32, 64, 3)) | flat_members("s_axil", Axi4LiteSignature(8), In)
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.manager = manager = _Manager()
        connect_flat(m, self, "m_axi", manager.m_axi)
        connect_flat(m, self, "s_axil", manager.i_lite)
        return m


def test_flat_ports_have_the_usual_names_and_reach_the_interface(simulate) -> None:
    text = to_rtlil(_Top())
    found = {name: way for way, name in re.findall(r"wire width \d+ (input|output) \d+ +\\(\w+)", text)}
    for name, way in [("m_axi_araddr", "output"), ("m_axi_rdata", "input"), ("s_axil_wdata", "input")]:
        assert found[name] == way
    top = _Top()

    async def bench(ctx) -> None:
        for value in (0x12345678, 5):
            ctx.set(top.s_axil_wdata, value)
            assert ctx.get(top.m_axi_araddr) == value
        for value in (1, 0):
            ctx.set(top.m_axi_arready, value)
            assert ctx.get(top.s_axil_wready) == value

    simulate(top, bench, clocked=False)
