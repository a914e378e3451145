"""The whole accelerator in Amaranth's simulator, where no Verilog is made."""

from __future__ import annotations

import numpy as np

from hw.accelerator import Accelerator
from hw.bus.axi import Response
from hw.bus.register_map import REGISTERS
from hw.config import preset
from hw.control.counters import COUNTERS
from hw.control.errors import Cause
from hw.layout import Schedule
from sim.accelerator.axi_memory import AxiMemory, LiteHost
from sw.compiler.compile import compile_network
from sw.executor import execute
from sw.program import Program
from tests.sw.assembler import layer_program
from tests.sw.executor.test_executor import image, some_layer
from tests.sw.networks import Builder

CONFIG = preset("ews-msvq-tiny")
OFFSET = {register.name: register.offset for register in REGISTERS}


class _Flat:
    """The flat ports of one interface under the names that they have inside it."""

    def __init__(self, top: Accelerator, prefix: str) -> None:
        self.__dict__ = {
            name.removeprefix(prefix): getattr(top, name) for name in top.signature.members if name.startswith(prefix)
        }


class Machine:
    def __init__(self, program: Program, images: list, **memory) -> None:
        self.program = program
        self.start = program.memory(images)
        self.dut = Accelerator(program.config)
        data = bytearray(program.base) + self.start.tobytes()
        self.memory = AxiMemory(_Flat(self.dut, "m_axi_"), data, **memory)
        self.host = LiteHost(_Flat(self.dut, "s_axil_"))

    async def run(self, ctx, limit: int = 60_000, abort: int | None = None) -> tuple[int, int, int]:
        """Ring the doorbell and wait for the interrupt; abort after so many cycles. Status, cause, descriptor."""
        host, program = self.host, self.program
        await host.write(ctx, OFFSET["INTERRUPT_ENABLE"], 3)
        await host.write(ctx, OFFSET["PROGRAM_LOW"], program.descriptors)
        await host.write(ctx, OFFSET["PROGRAM_DESCRIPTORS"], program.descriptor_count)
        await host.write(ctx, OFFSET["CONTROL"], 1)
        for cycle in range(limit):
            if cycle == abort:
                await host.write(ctx, OFFSET["CONTROL"], 2)
            await ctx.tick()
            if ctx.get(self.dut.o_interrupt):
                break
        else:
            count, _ = await host.read(ctx, OFFSET["DESCRIPTORS"])
            raise AssertionError(f"no interrupt in {limit} cycles; descriptors: {count}")
        result = [(await host.read(ctx, OFFSET[name]))[0] for name in ("STATUS", "ERROR", "ERROR_DESCRIPTOR")]
        await host.write(ctx, OFFSET["INTERRUPT"], 7)
        return tuple(result)


def run_and_compare(simulate, program: Program, images: list, **memory) -> None:
    """Every byte of DRAM as the golden model has it."""
    machine = Machine(program, images, **memory)

    async def bench(ctx) -> None:
        assert await machine.run(ctx) == (2, 0, 0)

    simulate(machine.dut, bench, beside=[machine.memory.run])
    expected = execute(program, machine.start, check=True).memory
    assert np.array_equal(np.frombuffer(machine.memory.data, np.uint8)[program.base :], expected)


def test_layer(simulate) -> None:
    """Of the variant with all channels; the others, and everything else, run on the Verilog."""
    config = preset("ews-msvq-tiny")
    layer = some_layer(config, (16, 5, 3, 3), padding=(1, 1))
    program = layer_program(config, layer, 3, 3, Schedule(config.H, config.L, 2, 1, 1, 3))
    run_and_compare(simulate, program, [image(layer, 3, 3)], stall=0.3, latency=(1, 20), reorder=True)


def _vectors() -> tuple[Program, list]:
    """A layer and a vector operation, without RECORD: its bytes are those of one run."""
    builder = Builder(np.random.default_rng(0), CONFIG)
    builder.op("maximum", builder.layer("layer", 0, (8, 4, 1, 1), raw=True), kernel=2, stride=2, padding=0)
    values = np.random.default_rng(1).integers(-128, 128, (4, 2, 2)).astype(np.int8)
    return compile_network(builder.network(), values.shape, CONFIG, records=False), [values]


def test_counters_of_each_run_then_errors_of_the_bus_and_an_abort(simulate) -> None:
    """In one simulation, which takes longer to make than to run.

    Counters are those of the run, what the bus saw among them; the next run begins at 0. Then each cause of an early
    end reaches the registers with its descriptor; afterwards the program runs.
    """
    program, images = _vectors()
    fault: list[bool] = []  # whether writes or reads fail
    last = program.descriptors + 64 * (program.descriptor_count - 1)
    machine = Machine(
        program, images, fault=lambda write, at: Response.SLVERR if fault == [write] and (write or at >= last) else None
    )
    memory = machine.memory
    expected = execute(program, machine.start, check=True).memory

    async def counters(ctx) -> dict[str, int]:
        before = memory.read_words, memory.written_words
        assert await machine.run(ctx) == (2, 0, 0)
        names = [f"COUNTER_{name.upper()}" for name in COUNTERS]
        values = [(await machine.host.read(ctx, OFFSET[name]))[0] for name in (*names, "DESCRIPTORS")]
        found = dict(zip((*COUNTERS, "all"), values, strict=True))
        assert found["dram_reads"] == memory.read_words - before[0]
        assert found["dram_writes"] == memory.written_words - before[1] > 0
        assert found["descriptors"] == found["all"] == program.descriptor_count
        assert found["operations"] > 0
        waits = sum(found[f"wait_{name}"] for name in ("weights", "activations", "psums"))
        assert found["operations"] + waits < found["cycles"] < 10_000
        assert 0 < found["vector_cycles"] < found["cycles"]
        assert found["l1_reads"] == found["operations"]
        assert found["l1_writes"] > 0
        assert 0 < found["l2_writes"] <= found["l2_reads"]
        return found

    async def early_ends(ctx) -> None:
        fault[:] = [True]
        status, cause, number = await machine.run(ctx)
        assert (status, cause) == (4, Cause.WRITE_RESPONSE)
        assert 0 < number < program.descriptor_count
        fault[:] = [False]
        status, cause, number = await machine.run(ctx)
        assert (status, cause) == (4, Cause.READ_RESPONSE)
        fault.clear()
        status, cause, number = await machine.run(ctx, abort=60)
        assert (status, cause) == (4, Cause.ABORTED)

    async def bench(ctx) -> None:
        assert await counters(ctx) == await counters(ctx)
        assert np.array_equal(np.frombuffer(memory.data, np.uint8)[program.base :], expected)
        memory.data[:] = bytes(program.base) + machine.start.tobytes()
        await early_ends(ctx)
        assert await machine.run(ctx) == (2, 0, 0)

    simulate(machine.dut, bench, beside=[memory.run])
    assert np.array_equal(np.frombuffer(memory.data, np.uint8)[program.base :], expected)
