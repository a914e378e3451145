"""cocotb tests of the accelerator core: one test for each session of a file that :mod:`sim.cosim` wrote."""

from __future__ import annotations

import json
import os
import pickle
import time
from pathlib import Path

import cocotb

from sim.testbench import Testbench
from sim.transfers import LayerOutputs, LayerProgram, score
from sw.schedule import sequence_cycles

FOLDER = Path(os.environ["COSIM_FOLDER"])
with (FOLDER / "sessions.pickle").open("rb") as file:
    CONFIG, STREAMS, SESSIONS = pickle.load(file)
ALL_VECTORS = sum(len(program.expected) for programs, _, _ in SESSIONS.values() for program in programs)
_finished_vectors = 0


def _report_progress(vectors: int) -> None:
    temporary = FOLDER / "progress.new"
    temporary.write_text(str((_finished_vectors + vectors) / ALL_VECTORS))
    temporary.replace(FOLDER / "progress")


class _Layers(LayerOutputs):
    """Takes the vectors of layers that run back to back, and feeds partial sums back to the next layer tile."""

    def __init__(self, bench: Testbench, programs: list[LayerProgram]) -> None:
        super().__init__(programs)
        self.bench = bench
        self.ends: list[int] = []
        bench.sinks["o_psum"].received = self.received

    def received(self, vector: int) -> None:
        before = self.left
        if self.take(vector):
            self.bench.send("i_psum", [vector])
        if self.layers_done > len(self.ends):
            self.ends.append(self.bench.cycle)
        elif before == 2 and int(self.bench.dut.o_idle.value):
            raise AssertionError(f"cycle {self.bench.cycle}: o_idle is high while a vector has to leave")


@cocotb.test()
@cocotb.parametrize(session=[cocotb.Param(name, name=name) for name in SESSIONS])
async def session(dut, session: str) -> None:
    """Run the session's layers back to back, compare all that comes out, and write the comparison to a file."""
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
    await bench.run(lambda: layers.done)
    seconds = time.perf_counter() - started
    global _finished_vectors
    _finished_vectors += bench.sinks["o_psum"].count

    assert int(dut.o_idle.value) == 1, "o_idle is low after the last vector"

    left = {name: len(source.queue) + source.offered for name, source in bench.sources.items()}
    predicted = sequence_cycles(CONFIG, [program.run for program in programs])
    results, failures = [], [f"{count} transfers were never taken from {name}" for name, count in left.items() if count]
    for number, program in enumerate(programs):
        begin = first - 1 if number == 0 else layers.ends[number - 1]
        compared = score(CONFIG, program, layers.vectors[number])
        cycles = layers.ends[number] - begin
        results.append({**vars(compared), "cycles": cycles, "predicted": predicted[number]})
        if compared.mismatches:
            failures.append(compared.message)
        if not pauses and cycles != predicted[number]:
            failures.append(f"layer {program.layer.name!r}: {cycles} cycles, not {predicted[number]} as predicted")
    report = {"seconds": seconds, "layers": results}
    (FOLDER / f"{session}.json").write_text(json.dumps(report))
    assert not failures, "; ".join(failures)
