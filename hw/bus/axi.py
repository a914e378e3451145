"""AXI4 and AXI4-Lite as Amaranth signatures, and as flat ports under their usual names."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum

from amaranth.hdl import Const, Module, Mux, Value, ValueLike
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.config import AcceleratorConfig, ConfigError

__all__ = [
    "BORDER",
    "Axi4LiteSignature",
    "Axi4Signature",
    "Response",
    "burst_length",
    "connect_flat",
    "flat_members",
    "word_bytes",
]

#: No burst crosses an address that is a multiple of this many bytes (AMBA AXI, A3.4.1).
BORDER = 4096


class Response(IntEnum):
    """RRESP and BRESP. Bit 1 says that the access failed."""

    OKAY = 0
    EXOKAY = 1
    SLVERR = 2
    DECERR = 3


def _channel(name: str, flow: wiring.Flow, **payload: int) -> dict[str, wiring.Member]:
    """Members of a channel: what it carries in one direction, by width, and its handshake."""
    members = {f"{name}{part}": flow(width) for part, width in payload.items()}
    return members | {f"{name}valid": flow(1), f"{name}ready": flow.flip()(1)}


class Axi4Signature(wiring.Signature):
    """AXI4, as the manager sees it. Members have the standard's names in lower case.

    LOCK, QOS, REGION and USER are left out: the standard lets a manager that always has them at 0 omit them.

    Parameters
    ----------
    address_bits, data_bits, id_bits
        Widths; ``data_bits`` is a power of two in 8..1024.
    read, write
        Which sides there are.
    """

    def __init__(
        self, address_bits: int, data_bits: int, id_bits: int, *, read: bool = True, write: bool = True
    ) -> None:
        self.address_bits, self.data_bits, self.id_bits = address_bits, data_bits, id_bits
        self.read, self.write = read, write
        request = {"id": id_bits, "addr": address_bits, "len": 8, "size": 3, "burst": 2, "cache": 4, "prot": 3}
        members: dict[str, wiring.Member] = {}
        if write:
            members |= _channel("aw", Out, **request)
            members |= _channel("w", Out, data=data_bits, strb=data_bits // 8, last=1)
            members |= _channel("b", In, id=id_bits, resp=2)
        if read:
            members |= _channel("ar", Out, **request)
            members |= _channel("r", In, id=id_bits, data=data_bits, resp=2, last=1)
        super().__init__(members)


class Axi4LiteSignature(wiring.Signature):
    """AXI4-Lite, as the manager sees it.

    Parameters
    ----------
    address_bits, data_bits
        Widths; the standard has ``data_bits`` 32 or 64.
    """

    def __init__(self, address_bits: int, data_bits: int = 32) -> None:
        self.address_bits, self.data_bits = address_bits, data_bits
        members: dict[str, wiring.Member] = {}
        for channel in ("aw", "ar"):
            members |= _channel(channel, Out, addr=address_bits, prot=3)
        members |= _channel("w", Out, data=data_bits, strb=data_bits // 8)
        members |= _channel("b", In, resp=2)
        members |= _channel("r", In, data=data_bits, resp=2)
        super().__init__(members)


def flat_members(name: str, signature: wiring.Signature, flow: wiring.Flow = Out) -> dict[str, wiring.Member]:
    """Members ``<name>_<signal>`` for a top-level component: a member that is an interface would get ``__`` instead.

    Parameters
    ----------
    name
        Such as ``m_axi``.
    signature
        One of those above.
    flow
        ``Out`` for the manager's side, ``In`` for the subordinate's.
    """
    return {
        f"{name}_{signal}": wiring.Member(member.flow if flow == Out else member.flow.flip(), member.shape)
        for signal, member in signature.members.items()
    }


def connect_flat(m: Module, top: wiring.Component, name: str, interface: object) -> None:
    """Connect the flat ports of a component, made by :func:`flat_members`, to an interface inside it.

    Members that ``interface`` lacks (a side of the bus that it doesn't have) are left alone.
    """
    for signal, port in _flat_ports(top, name):
        inner = getattr(interface, signal, None)
        if inner is not None:
            driven = top.signature.members[f"{name}_{signal}"].flow == Out
            m.d.comb += port.eq(inner) if driven else inner.eq(port)


def _flat_ports(top: wiring.Component, name: str) -> Iterator[tuple[str, Value]]:
    for member in top.signature.members:
        if member.startswith(f"{name}_"):
            yield member[len(name) + 1 :], getattr(top, member)


def word_bytes(config: AcceleratorConfig) -> int:
    """Bytes of a word on the DRAM bus.

    Raises
    ------
    ConfigError
        ``word_width`` is no width of AXI data.
    """
    if config.word_width & (config.word_width - 1):
        raise ConfigError(f"word_width must be a power of two in 8..512 for AXI, not {config.word_width}")
    return config.word_width // 8


def burst_length(config: AcceleratorConfig, word_address: Value, words: Value) -> Value:
    """Words of the next burst: the least of ``burst_words``, what is left, and what fits before the border.

    Parameters
    ----------
    config
        The instance.
    word_address
        Address of the next word, in words.
    words
        Words that are left, at least 1.
    """
    page = BORDER // word_bytes(config)
    longest = min(config.burst_words, page)
    if longest == 1:
        return Const(1)
    # Both are powers of two: the border is near only in the last `longest` words of a page.
    in_page = word_address[: page.bit_length() - 1]
    bits = longest.bit_length() - 1
    near: ValueLike = in_page[bits:].all() if len(in_page) > bits else Const(1)
    room = Mux(near, longest - in_page[:bits], longest)
    return Mux(words < room, words, room)[: bits + 1]
