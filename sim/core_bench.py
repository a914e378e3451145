"""cocotb tests of the accelerator core: one test for each session of a file that :mod:`sim.cosim` wrote."""

from __future__ import annotations

import json
import os
import pickle
import time
from pathlib import Path

import cocotb

from sim.program import LayerProgram, score
from sim.testbench import Testbench
from sw.perf import sequence_cycles

FOLDER = Path(os.environ["COSIM_FOLDER"])
with (FOLDER / "sessions.pickle").open("rb") as file:
    CONFIG, STREAMS, SESSIONS = pickle.load(file)
ALL_VECTORS = sum(len(program.expected) for programs, _, _ in SESSIONS.values() for program in programs)
_finished_vectors = 0


def _report_progress(vectors: int) -> None:
    temporary = FOLDER / "progress.new"
    temporary.write_text(str((_finished_vectors + vectors) / ALL_VECTORS))
    temporary.replace(FOLDER / "progress")


class _Layers:
    """Collects the vectors of layers that run back to back, and feeds partial sums back to the next layer tile."""

    def __init__(self, bench: Testbench, programs: list[LayerProgram]) -> None:
        self.bench = bench
        self.programs = programs
        self.outputs: list[list[int]] = [[] for _ in programs]
        self.ends: list[int] = []
        self.plan = [
            (number, not tile.last, count)
            for number, program in enumerate(programs)
            for tile, count in zip(program.tiles, program.vectors, strict=True)
        ]
        self.plan.reverse()
        self._next_tile()
        bench.sinks["o_psum"].received = self.received

    def _next_tile(self) -> None:
        self.layer, self.fed_back, self.left = self.plan.pop()

    def received(self, vector: int) -> None:
        self.outputs[self.layer].append(vector)
        if self.fed_back:
            self.bench.send("i_psum", [vector])
        self.left -= 1
        if self.left == 1 and int(self.bench.dut.o_idle.value):
            raise AssertionError(f"cycle {self.bench.cycle}: o_idle is high while a vector has to leave")
        if not self.left:
            finished = not self.plan or self.plan[-1][0] != self.layer
            if finished:
                self.ends.append(self.bench.cycle)
            if self.plan:
                self._next_tile()

    def done(self) -> bool:
        return len(self.ends) == len(self.programs)


@cocotb.test()
@cocotb.parametrize(session=[cocotb.Param(name, name=name) for name in SESSIONS])
async def session(dut, session: str) -> None:
    programs, pauses, seed = SESSIONS[session]
    bench = Testbench(dut, STREAMS)
    await bench.reset()
    bench.pause(pauses, seed)
    layers = _Layers(bench, programs)
    for name in bench.sources:
        bench.send(name, (payload for program in programs for payload in program.streams.get(name, ())))
    bench.watched = lambda: _report_progress(bench.sinks["o_psum"].count)
    first = bench.cycle + 1  # nothing holds the first command up
    started = time.perf_counter()
    await bench.run(layers.done)
    seconds = time.perf_counter() - started
    global _finished_vectors
    _finished_vectors += bench.sinks["o_psum"].count

    assert int(dut.o_idle.value) == 1, "o_idle is low after the last vector"

    left = {name: len(source.queue) + source.offered for name, source in bench.sources.items()}
    predicted = sequence_cycles(CONFIG, [program.run for program in programs])
    results, failures = [], [f"{count} transfers were never taken from {name}" for name, count in left.items() if count]
    for number, program in enumerate(programs):
        begin = first - 1 if number == 0 else layers.ends[number - 1]
        compared = score(CONFIG, program, layers.outputs[number])
        cycles = layers.ends[number] - begin
        results.append({**vars(compared), "cycles": cycles, "predicted": predicted[number]})
        if compared.mismatches:
            failures.append(compared.message)
        if not pauses and cycles != predicted[number]:
            failures.append(f"layer {program.layer.name!r}: {cycles} cycles, not {predicted[number]} as predicted")
    report = {"seconds": seconds, "layers": results}
    (FOLDER / f"{session}.json").write_text(json.dumps(report))
    assert not failures, "; ".join(failures)
