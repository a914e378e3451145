"""The C driver compiles without warnings, and runs programs on the RTL, by looking and by interrupt."""

from __future__ import annotations

import json
import subprocess

import numpy as np
import pytest

from hw.bus import register_map
from hw.bus.driver import driver_files
from hw.control.descriptor import BYTES
from hw.control.errors import Cause
from tests.sim.accelerator.test_robustness import BASE, Memory, model

# The registers through functions that the test bench gives, in place of plain accesses.
HOOKS = """
#include <stdint.h>
static uint32_t (*read_hook)(uintptr_t);
static void (*write_hook)(uintptr_t, uint32_t);
static void (*sleep_hook)(void);
void set_hooks(uint32_t (*read)(uintptr_t), void (*write)(uintptr_t, uint32_t), void (*sleep)(void)) {
  read_hook = read, write_hook = write, sleep_hook = sleep;
}
#define MSVQ_READ32(device, offset) read_hook((device) + (offset))
#define MSVQ_WRITE32(device, offset, value) write_hook((device) + (offset), value)
#define MSVQ_SLEEP() sleep_hook()
#include "npu_example.c"
"""
STRICT = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("driver")
    (folder / "npu.h").write_text(register_map.header())
    for ending, text in driver_files("npu").items():
        (folder / f"npu{ending}").write_text(text)
    return folder


def compile_c(folder, *arguments: str) -> None:
    done = subprocess.run(["cc", *STRICT, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_compiles_for_plain_accesses_and_as_c_plus_plus(sources) -> None:
    compile_c(sources, "-c", "npu_example.c", "-o", "npu.o")
    done = subprocess.run(
        ["c++", "-Wall", "-Wextra", "-Werror", "-c", "-x", "c++", "npu_example.c", "-o", "npu++.o"],
        cwd=sources, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_driver_runs_programs_on_the_rtl(sources, tmp_path, full: bool) -> None:
    (sources / "hooks.c").write_text(HOOKS)
    compile_c(sources, "-shared", "-fPIC", "-Wno-missing-prototypes", "hooks.c", "-o", "npu.so")
    memory = Memory.of_networks()
    first = memory.first
    # A descriptor that is none.
    broken = memory.with_descriptor(3, bytes([0xFF]) * BYTES)
    settings = {"base": BASE, "latency": 20, "stall": 0, "reorder": 0, "seed": 1, "fault": 0, "fault_address": 0}
    cases = []
    for number, (function, start, address, descriptors) in enumerate(
        [
            ("npu_run_polled", memory.start, first.descriptors, first.descriptor_count),
            ("npu_run", memory.start, first.descriptors, first.descriptor_count),
            ("npu_run", broken.start, first.descriptors, first.descriptor_count),
            ("npu_run_polled", broken.start, first.descriptors, first.descriptor_count),
            ("npu_run", memory.start, first.descriptors + 4, first.descriptor_count),
            ("npu_run", memory.start, first.descriptors, 0),
            ("npu_run", memory.start, 1 << 63, 1),
        ]
    ):
        (tmp_path / f"memory-{number}").write_bytes(start)
        cases.append(
            {
                "function": function, "memory": str(tmp_path / f"memory-{number}"),
                "result": str(tmp_path / f"result-{number}"), "address": address, "descriptors": descriptors,
                "settings": settings,
            }
        )  # fmt: skip
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    (tmp_path / "dram").write_bytes(bytes(len(memory.start)))
    model(full).run_tests(
        "tests.sim.accelerator.driver_bench",
        label="driver",
        environment={
            "ACCELERATOR_FOLDER": str(tmp_path),
            "ACCELERATOR_DRAM": str(tmp_path / "dram"),
            "DRIVER_LIBRARY": str(sources / "npu.so"),
        },
    )
    results = json.loads((tmp_path / "results.json").read_text())
    illegal = Cause.ILLEGAL_DESCRIPTOR.value
    assert [result["returned"] for result in results] == [0, 0, illegal, illegal, -4, -4, -4]
    assert [result["interrupts"] for result in results] == [0, 1, 1, 0, 0, 0, 0]
    assert all(result["irq"] == 0 for result in results)  # the handler has cleared it
    assert results[1]["reads"] < results[0]["reads"]
    written = memory.written & ~memory.records
    assert written.any()
    for number in (0, 1):
        found = np.frombuffer((tmp_path / f"result-{number}").read_bytes(), np.uint8)[: memory.split]
        expected = np.frombuffer(memory.expected[0], np.uint8)
        same = found[: len(expected)] == expected
        assert same[written[: len(expected)]].all(), number
    for number in (4, 5, 6):  # never started
        assert (tmp_path / f"result-{number}").read_bytes() == memory.start
