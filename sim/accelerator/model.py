"""Builds the Verilator model of an accelerator with its DRAM and its host."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

from amaranth.lib import wiring

from hw.bus.reader import ID_BITS
from hw.command_line import write_text
from hw.config import AcceleratorConfig
from hw.generate import to_rtlil, to_verilog
from sim.runner import VerilatorRunner
from sim.toolchain import BUILD

__all__ = ["TOP", "accelerator_runner", "verilator_options"]

#: The module that :func:`accelerator_runner` makes, between the DRAM and the host of ``bench.sv``.
TOP = "accelerator"

_HERE = Path(__file__).parent


def verilator_options(threads: int = 1) -> list[str]:
    """Options for speed, and those that Yosys' way to write Verilog needs."""
    options = ["-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert", "-CFLAGS", "-O3 -std=gnu++20"]
    if threads > 1:
        options += ["--threads", str(threads)]
    return options + [f"-Wno-{kind}" for kind in ("WIDTHEXPAND", "WIDTHTRUNC", "CASEINCOMPLETE", "PINCONNECTEMPTY")]


def accelerator_runner(
    config: AcceleratorConfig,
    name: str,
    make: Callable[[AcceleratorConfig], wiring.Component] | None = None,
    options: Sequence[str] | None = None,
) -> VerilatorRunner:
    """The Verilog of an instance, unless it is there already, and the runner that builds and runs its model.

    Parameters
    ----------
    config
        The instance.
    name
        Of the model in ``build/sim``.
    make
        The component, with the ports of :class:`hw.accelerator.Accelerator`; that one without it.
    options
        For ``verilator``; :func:`verilator_options` without them.
    """
    if make is None:
        from hw.accelerator import Accelerator

        make = Accelerator
    folder = BUILD / "designs"
    folder.mkdir(parents=True, exist_ok=True)
    design, stamp = folder / f"{name}.v", folder / f"{name}.sha256"
    versions = [metadata.version(package) for package in ("amaranth", "pyosys")]
    source = hashlib.sha256(repr((config, versions, make.__module__, make.__qualname__)).encode())
    for path in [*sorted(_HERE.parents[1].glob("hw/**/*.py")), Path(inspect.getfile(make))]:
        source.update(path.read_bytes())

    def fingerprint() -> str:
        made = hashlib.sha256(source.digest())
        made.update(design.read_bytes() if design.exists() else b"")
        return made.hexdigest()

    if not (design.exists() and stamp.exists() and stamp.read_text() == fingerprint()):
        write_text(design, to_verilog(to_rtlil(make(config), TOP)))
        write_text(stamp, fingerprint())
    parameters = {"ADDRESS_BITS": config.address_bits, "WORD_WIDTH": config.word_width, "ID_BITS": ID_BITS}
    return VerilatorRunner(
        name,
        [design, _HERE / "bench.sv"],
        "bench",
        [
            *(verilator_options() if options is None else options),
            *(f"-G{parameter}={value}" for parameter, value in parameters.items()),
            str(_HERE / "dram.cpp"),
        ],
    )
