"""cocotb test: the C driver, compiled for this machine, runs programs on the accelerator through its registers."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
from pathlib import Path

import cocotb
from cocotb.task import bridge, resume
from cocotb.triggers import First, Timer

from hw.bus.register_map import REGISTERS
from sim.accelerator.host import PERIOD, Host, prepare

NAMES = {register.offset: register.name for register in REGISTERS}
DEVICE = 0x4000_0000
LIMIT = 200_000


@cocotb.test()
async def driver(dut) -> None:
    """Run the cases of ``cases.json``, each with what its call returns."""
    folder = Path(os.environ["ACCELERATOR_FOLDER"])
    library = ctypes.CDLL(os.environ["DRIVER_LIBRARY"])
    host = Host(dut)
    calls = {"reads": 0, "writes": 0, "interrupts": 0}

    @resume
    async def read(address: int) -> int:
        calls["reads"] += 1
        return await host.read(NAMES[address - DEVICE])

    @resume
    async def write(address: int, value: int) -> None:
        calls["writes"] += 1
        await host.write(NAMES[address - DEVICE], value)

    @resume
    async def interrupt() -> int:
        if not int(dut.irq.value):
            await First(dut.irq.value_change, Timer(PERIOD * LIMIT, unit="step"))
        assert int(dut.irq.value), f"no interrupt after {LIMIT} cycles"
        calls["interrupts"] += 1
        return 1

    def sleep() -> None:
        if interrupt():
            library.npu_handler(ctypes.c_size_t(DEVICE))

    read_type = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_size_t)
    write_type = ctypes.CFUNCTYPE(None, ctypes.c_size_t, ctypes.c_uint32)
    hooks = (read_type(read), write_type(write), ctypes.CFUNCTYPE(None)(sleep))
    library.set_hooks(*hooks)

    with Path(os.environ["ACCELERATOR_DRAM"]).open("r+b") as file:
        memory = mmap.mmap(file.fileno(), 0)
    results = []
    for case in json.loads((folder / "cases.json").read_text()):
        data = await prepare(host, case, memory)
        await host.reset()
        function = getattr(library, case["function"])
        calls.update(dict.fromkeys(calls, 0))
        arguments = (ctypes.c_size_t(DEVICE), ctypes.c_uint64(case["address"]), ctypes.c_uint32(case["descriptors"]))

        def call(function=function, arguments=arguments) -> int:
            return function(*arguments)

        returned = await bridge(call)()
        Path(case["result"]).write_bytes(memory[: len(data)])
        results.append({"returned": returned, "irq": int(dut.irq.value), **calls})
    (folder / "results.json").write_text(json.dumps(results))
