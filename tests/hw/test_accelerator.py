"""The whole accelerator in Amaranth's simulator, where no Verilog is made."""

from __future__ import annotations

import numpy as np

from hw.accelerator import Accelerator
from hw.bus.register_map import REGISTERS
from hw.config import preset
from hw.layout import Schedule
from sim.accelerator.axi_memory import AxiMemory, LiteHost
from sw.executor import execute
from sw.program import Program
from tests.sw.assembler import layer_program
from tests.sw.executor.test_executor import image, some_layer

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

    async def run(self, ctx, limit: int = 60_000) -> tuple[int, int, int]:
        """Ring the doorbell and wait for the interrupt. Status, cause, descriptor."""
        host, program = self.host, self.program
        await host.write(ctx, OFFSET["INTERRUPT_ENABLE"], 3)
        await host.write(ctx, OFFSET["PROGRAM_LOW"], program.descriptors)
        await host.write(ctx, OFFSET["PROGRAM_DESCRIPTORS"], program.descriptor_count)
        await host.write(ctx, OFFSET["CONTROL"], 1)
        for _ in range(limit):
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
    program = layer_program(config, layer, 5, 4, Schedule(config.H, config.L, 2, 1, 1, 3))
    run_and_compare(simulate, program, [image(layer, 5, 4)], stall=0.3, latency=(1, 20), reorder=True)
