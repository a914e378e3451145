"""From a specification in Amaranth to a verdict: Yosys writes SMT-LIB, z3 decides it.

A specification is a module with the block in it, ``Assert`` and ``Assume``. The block's inputs are free in every cycle.
It begins in any state at all, with the reset on for a cycle; from the next cycle on the assertions must hold.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import z3
from amaranth.back import rtlil
from amaranth.hdl import ClockDomain, Module, Value

from hw.yosys import run_yosys

__all__ = ["Method", "Result", "Specification", "Verdict", "prove"]

_YOSYS = [
    "read_rtlil design.il",
    "prep -flatten -nordff -top top",
    # What no assertion looks at, such as the data behind a request, would make the question as wide as the bus.
    "opt_clean -purge",
    "memory_map",
    "opt -full",
    "pmuxtree",
    "async2sync",
    "chformal -lower",
    "dffunmap",
    "opt_clean -purge",
    "write_smt2 -stbv design.smt2",
]


class Method(Enum):
    """How a specification is proven."""

    #: In every state that follows ``depth`` states in which it holds; and in the first ones after a reset.
    INDUCTION = "induction"
    #: In the first ``depth`` cycles after a reset.
    BOUNDED = "bounded"
    #: In every state, of a block without registers, or of one whose registers don't matter.
    STATE = "state"
    #: In the cycle after a reset has begun, whatever was before.
    RESET = "reset"


class Verdict(Enum):
    """What came out."""

    PROVEN = "proven"
    BOUNDED = "holds up to the bound"
    REFUTED = "refuted"
    #: The solver gave up, or the induction does not close at this depth.
    OPEN = "open"


@dataclass(frozen=True)
class Specification:
    """What a block must do."""

    #: Block and instance, then what is claimed.
    name: str
    #: The module, and all its free inputs.
    build: Callable[[], tuple[Module, list[Value]]]
    #: How it is proven.
    method: Method = Method.INDUCTION
    depth: int = 1
    #: It is false, and must be found so: a proof that can't fail proves nothing.
    refuted: bool = False


@dataclass(frozen=True)
class Result:
    """The verdict on a specification, how many assertions it has, and what it took."""

    name: str
    method: Method
    depth: int
    assertions: int
    verdict: Verdict
    expected: bool
    seconds: float


def _smt(specification: Specification) -> str:
    module, ports = specification.build()
    module.domains.sync = domain = ClockDomain()
    text = rtlil.convert(module, ports=[domain.clk, domain.rst, *ports], name="top", emit_src=False)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "design.il").write_text(text)
        run_yosys(_YOSYS, Path(folder))
        return (Path(folder) / "design.smt2").read_text()


def _check(smt: str, states: int, claims: list[str], timeout: float) -> z3.CheckSatResult:
    """Whether the claims can be true together of consecutive states."""
    declared = [f"(declare-fun s{i} () |top_s|)" for i in range(states)]
    always = [f"(assert (and (|top_u| s{i}) (|top_h| s{i})))" for i in range(states)]
    steps = [f"(assert (|top_t| s{i} s{i + 1}))" for i in range(states - 1)]
    solver = z3.Then("simplify", "propagate-values", "solve-eqs", "bit-blast", "sat").solver()
    solver.set("timeout", int(1000 * timeout))
    solver.from_string("\n".join([smt, *declared, *always, *steps, *(f"(assert {claim})" for claim in claims)]))
    return solver.check()


def prove(specification: Specification, timeout: float = 600) -> Result:
    """Decide a specification.

    Parameters
    ----------
    specification
        What to prove.
    timeout
        Seconds for each question to the solver.
    """
    begin = time.perf_counter()
    smt = _smt(specification)
    assertions = len(re.findall("^; yosys-smt2-assert ", smt, re.MULTILINE))
    depth = specification.depth
    reset = [f"(= (|top_n rst| s{i}) {'true' if i == 0 else 'false'})" for i in range(depth + 1)]
    # One question for each cycle: the assertions may rest on those of the cycles before.
    questions: list[tuple[int, list[str]]] = []
    if specification.method is Method.RESET:
        questions = [(2, ["(|top_n rst| s0)", "(|top_n rst| s1)", "(not (|top_a| s1))"])]
    elif specification.method is Method.STATE:
        questions = [(1, ["(not (|top_n rst| s0))", "(not (|top_a| s0))"])]
    else:
        questions = [(i + 1, [*reset[: i + 1], f"(not (|top_a| s{i}))"]) for i in range(1, depth + 1)]
    if specification.method is Method.INDUCTION:
        running = [f"(not (|top_n rst| s{i}))" for i in range(depth + 1)]
        held = [f"(|top_a| s{i})" for i in range(depth)]
        questions.append((depth + 1, [*running, *held, f"(not (|top_a| s{depth}))"]))
    verdict = Verdict.BOUNDED if specification.method is Method.BOUNDED else Verdict.PROVEN
    for number, (states, claims) in enumerate(questions):
        answer = _check(smt, states, claims, timeout)
        if answer == z3.unknown:
            verdict = Verdict.OPEN
        elif answer == z3.sat:
            step = specification.method is Method.INDUCTION and number == len(questions) - 1
            verdict = Verdict.OPEN if step else Verdict.REFUTED
        if answer != z3.unsat:
            break
    wanted = verdict is Verdict.REFUTED if specification.refuted else verdict in (Verdict.PROVEN, Verdict.BOUNDED)
    seconds = time.perf_counter() - begin
    return Result(
        specification.name, specification.method, depth, assertions, verdict, wanted and assertions > 0, seconds
    )
