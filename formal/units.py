"""Units between reader and writer: what they offer holds until it is taken, whatever they are told to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from amaranth.hdl import Assume, Module, Signal, Value
from amaranth.lib import wiring

from formal.prove import Method, Specification
from formal.streams import free_inputs, holds
from hw.config import AcceleratorConfig, preset
from hw.control.sequencer import Sequencer
from hw.control.weight_loader import WeightLoader
from hw.core import AcceleratorCore
from hw.memory.activation_reader import ActivationReader
from hw.memory.psum_buffer import PsumBuffer
from hw.memory.transfer import LoadUnit, StoreUnit
from hw.postprocess.window_walker import WindowWalker

__all__ = ["UNITS", "specifications"]

#: Units with streams that they offer.
UNITS: tuple[Callable[[AcceleratorConfig], wiring.Component], ...] = (
    LoadUnit, StoreUnit, WeightLoader, ActivationReader, PsumBuffer, WindowWalker, Sequencer, AcceleratorCore,
)  # fmt: skip

#: Cycles after a reset.
BOUND = 8


def _streams(unit: wiring.Component, prefix: str) -> list[tuple[str, Any]]:
    found = []
    for name, member in unit.signature.members.items():
        if name.startswith(prefix) and member.is_signature and "payload" in member.signature.members:
            found.append((name, getattr(unit, name)))
    return found


def _fair(m: Module, unit: Any) -> None:
    """What the neighbours of a unit do, and others would not."""
    if isinstance(unit, StoreUnit):
        # The writer ends a request once it has taken it and all its words, and no other.
        request, words = unit.o_request, unit.o_words
        opened, taken = Signal(), Signal(len(request.payload.words))
        with m.If(request.valid & request.ready):
            m.d.sync += opened.eq(1)
        with m.If(words.valid & words.ready):
            m.d.sync += taken.eq(taken + 1)
        with m.If(unit.i_writer_done):
            m.d.sync += [opened.eq(0), taken.eq(0)]
        m.d.comb += Assume(~unit.i_writer_done | (opened & (taken == request.payload.words)))
    if isinstance(unit, Sequencer):
        # Registers hold while a program runs; an error or an abort withdraws what is offered.
        held = Signal(len(Value.cast(unit.i_address)) + len(Value.cast(unit.i_descriptors)))
        begun = Signal()
        now = Value.cast(unit.i_address) | Value.cast(unit.i_descriptors) << len(Value.cast(unit.i_address))
        m.d.sync += [held.eq(now), begun.eq(1)]
        m.d.comb += [Assume(~begun | (held == now)), Assume(~(unit.i_error | unit.i_abort))]


def _unit(kind: Callable[[AcceleratorConfig], Any], config: AcceleratorConfig, fair: bool = True) -> Callable[[], Any]:
    def build() -> tuple[Module, list[Value]]:
        m = Module()
        m.submodules.dut = dut = kind(config)
        for prefix, claim in (("i_", Assume), ("o_", None)):
            for name, port in _streams(dut, prefix):
                holds(m, port.valid, port.ready, Value.cast(port.payload), name, *([claim] if claim else []))
        if fair:
            _fair(m, dut)
        return m, free_inputs(dut)

    return build


def specifications() -> Iterator[Specification]:
    """Every unit with a stream that it offers, of a tiny instance."""
    config = preset("ews-msvq-tiny").override(
        ["word_width=16", "burst_words=4", "fifo_words=8", "l2_bytes=1024", "l1_ifmap_bytes=256", "l1_psum_bytes=256"]
    )
    for kind in UNITS:
        name = getattr(kind, "__name__", "")
        yield Specification(f"{name}: an offer holds", _unit(kind, config), Method.BOUNDED, BOUND)
    early = "StoreUnit, a writer that ends early: an offer holds"
    yield Specification(early, _unit(StoreUnit, config, fair=False), Method.BOUNDED, BOUND, refuted=True)
