"""Blocks that are emitted once are the blocks themselves."""

from __future__ import annotations

import gc
import warnings

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Elaboratable, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.emission import Emission, shared
from hw.rtlil import parse_modules
from tests.hw.test_rtlil import assert_equivalent


class Block(wiring.Component):
    """Adds, in a register or without one; a pair of streams, one in and one out, with members of members."""

    def __init__(self, step: int, register: bool, note: list[str]) -> None:
        self.step, self.register = step, register
        # No parameter: it says nothing of the hardware, and cannot be hashed.
        self._note = note
        pair = wiring.Signature({"low": Out(4), "high": Out(4)})
        super().__init__({"i": In(pair), "o": Out(pair)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        domain = m.d.sync if self.register else m.d.comb
        domain += [self.o.low.eq(self.i.low + self.step), self.o.high.eq(self.i.high ^ self.i.low)]
        return m


class Chain(wiring.Component):
    """Five blocks of three kinds, one behind the other."""

    KINDS = ((1, True), (2, True), (1, True), (1, False), (1, False))

    def __init__(self) -> None:
        super().__init__({"i": In(4), "o": Out(8)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        low, high = self.i, ~self.i
        for number, (step, register) in enumerate(self.KINDS):
            block = Block(step, register, [str(number)])
            m.submodules[f"block_{number}"] = shared(block, platform)
            m.d.comb += [block.i.low.eq(low), block.i.high.eq(high)]
            low, high = block.o.low, block.o.high
        m.d.comb += [self.o[:4].eq(low), self.o[4:].eq(high)]
        return m


@pytest.fixture(scope="module")
def emission() -> tuple[Emission, str]:
    emission = Emission("chain")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        text = emission.emit(Chain(), "core")
        gc.collect()
    # Of the blocks, which are never elaborated themselves.
    assert [str(warning.message) for warning in caught] == []
    return emission, text


@pytest.mark.parametrize("enabled", [True, False])
def test_no_garbage_is_looked_for_meanwhile(enabled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And afterwards as before, also where a component is refused."""
    seen = []

    def refuse(component: object, **options: object) -> str:
        seen.append(gc.isenabled())
        raise ValueError("refused")

    monkeypatch.setattr(rtlil, "convert", refuse)
    if not enabled:
        gc.disable()
    try:
        with pytest.raises(ValueError, match="refused"):
            Emission("top").emit(object(), "core")
        assert (seen, gc.isenabled()) == ([False], enabled)
    finally:
        gc.enable()


def test_each_kind_is_emitted_once(emission: tuple[Emission, str]) -> None:
    emitted, text = emission
    assert list(emitted.texts) == ["chain_block_0", "chain_block_1", "chain_block_2"]
    modules = parse_modules(text)
    assert list(modules) == ["\\core", *(f"\\{name}" for name in emitted.texts)]
    kinds = [kind for _, kind, _ in modules["\\core"].instances]
    assert kinds == [f"\\chain_block_{number}" for number in (0, 1, 0, 2, 2)]
    assert __file__ not in text


def test_the_design_is_the_same(emission: tuple[Emission, str], tmp_path) -> None:
    assert_equivalent(tmp_path, rtlil.convert(Chain(), name="core"), emission[1])


def test_elsewhere_a_component_is_itself() -> None:
    block: Elaboratable = Block(1, True, [])
    assert shared(block, None) is block
    assert "chain_block" not in rtlil.convert(Chain(), name="core")
    rtlil.convert(block, name="block")
