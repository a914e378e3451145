"""The small part of the proofs, and that the machinery finds what is false."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from amaranth.hdl import Assert, Module, Signal

from formal.__main__ import SMALL, all_specifications, markdown
from formal.prove import Method, Specification, Verdict, prove

ROOT = Path(__file__).parents[2]
NAMED = {x.name: x for x in all_specifications()}


@pytest.mark.parametrize("name", SMALL)
def test_small_part(name: str) -> None:
    result = prove(NAMED[name], timeout=120)
    assert result.expected, result
    assert result.assertions


def test_names_differ_and_some_must_fail() -> None:
    assert len(NAMED) == len(list(all_specifications()))
    assert sum(x.refuted for x in NAMED.values()) >= 2
    assert {"Unpacker", "WordAssembler", "ReadQueue", "WordFifo", "CommandQueue", "DmaReader", "DmaWriter"} < {
        name.split()[0].rstrip(",:") for name in NAMED
    }


def test_whatever_offers_a_stream_has_a_specification() -> None:
    """By the signatures in the sources; the boards' self-test is no part of the accelerator."""
    offering = set()
    for path in sorted((ROOT / "hw").rglob("*.py")):
        source = path.read_text()
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef) and "Out(stream.Signature" in (
                ast.get_source_segment(source, node) or ""
            ):
                offering.add(node.name)
    assert {"UartReceiver", "Processor", "FetchChannel", "Unpacker", "Sequencer"} < offering
    stated = {name.split()[0].rstrip(",:") for name in NAMED if "hold" in name or "in order" in name}
    # A channel is proven with its reader.
    assert offering - {"UartReceiver", "Processor", "FetchChannel"} <= stated


def counter(limit: int):
    """A counter that stays below its limit, where a larger state could not be left."""

    def build():
        m = Module()
        count = Signal(4)
        m.d.sync += count.eq(count + (count != 9))
        m.d.comb += Assert(count <= limit)
        return m, []

    return build


@pytest.mark.parametrize(
    ("limit", "method", "depth", "verdict"),
    [
        (9, Method.INDUCTION, 1, Verdict.PROVEN),
        (8, Method.INDUCTION, 1, Verdict.OPEN),
        (8, Method.INDUCTION, 10, Verdict.REFUTED),
        (8, Method.BOUNDED, 9, Verdict.BOUNDED),
        (8, Method.BOUNDED, 10, Verdict.REFUTED),
        (9, Method.STATE, 1, Verdict.REFUTED),
        (0, Method.RESET, 1, Verdict.PROVEN),
    ],
)
def test_verdicts(limit: int, method: Method, depth: int, verdict: Verdict) -> None:
    result = prove(Specification("counter", counter(limit), method, depth))
    assert (result.verdict, result.assertions) == (verdict, 1)
    assert result.expected == (verdict in (Verdict.PROVEN, Verdict.BOUNDED))
    assert f"| counter | {method.value} |" in markdown([result])


def test_a_specification_without_assertions_proves_nothing() -> None:
    result = prove(Specification("nothing", lambda: (Module(), []), Method.STATE))
    assert (result.assertions, result.expected) == (0, False)
