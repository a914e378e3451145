"""Builds the Verilator model of an accelerator with its DRAM and its host."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from time import perf_counter

from amaranth.lib import wiring

from hw.bus.reader import ID_BITS
from hw.command_line import write_text
from hw.config import AcceleratorConfig
from hw.generate import to_rtlil, to_verilog
from sim.accelerator.four_state import without_initial_values
from sim.runner import VerilatorRunner, locked
from sim.toolchain import BUILD

__all__ = ["TOP", "accelerator_runner", "accelerator_verilog", "bare_runner", "emission_cost", "random_runner"]

#: The module that :func:`accelerator_verilog` makes.
TOP = "accelerator"

_HERE = Path(__file__).parent


#: For speed. Compiling with -O3 makes a model a fifth faster and its build twice as long.
_FAST = ["-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert"]
_MAKE = ["OPT_FAST=-O2"]
# For a short build, a third of the time: one file, not optimised.
_QUICK, _QUICK_MAKE = ["--output-split", "0"], ["OPT_FAST=-O0"]
# Yosys leaves widths and unreachable cases implicit in its Verilog.
_LINT = [f"-Wno-{kind}" for kind in ("WIDTHEXPAND", "WIDTHTRUNC", "CASEINCOMPLETE", "PINCONNECTEMPTY")]


def accelerator_verilog(
    config: AcceleratorConfig, name: str, make: Callable[[AcceleratorConfig], wiring.Component] | None = None
) -> Path:
    """The Verilog of an instance, made unless it is there already: ``build/sim/designs/<name>.v``.

    Parameters
    ----------
    config
        The instance.
    name
        Of the file, and of the model.
    make
        The component, with the ports of :class:`hw.accelerator.Accelerator`; that one without it.
    """
    if make is None:
        from hw.accelerator import Accelerator

        make = Accelerator
    folder = BUILD / "designs"
    design, stamp = folder / f"{name}.v", folder / f"{name}.sha256"
    versions = [metadata.version(package) for package in ("amaranth", "pyosys")]
    source = hashlib.sha256(repr((config, versions, make.__module__, make.__qualname__)).encode())
    for path in [*sorted(_HERE.parents[1].glob("hw/**/*.py")), Path(inspect.getfile(make))]:
        source.update(path.read_bytes())

    def fingerprint() -> str:
        made = hashlib.sha256(source.digest())
        made.update(design.read_bytes() if design.exists() else b"")
        return made.hexdigest()

    cost = folder / f"{name}.json"
    with locked(folder / f"{name}.lock"):
        if not (design.exists() and cost.exists() and stamp.exists() and stamp.read_text() == fingerprint()):
            begin = perf_counter()
            text = to_verilog(to_rtlil(make(config), TOP))
            write_text(cost, json.dumps({"seconds": round(perf_counter() - begin, 1), "bytes": len(text)}))
            write_text(design, text)
            write_text(stamp, fingerprint())
    return design


def emission_cost(name: str) -> dict[str, float]:
    """Seconds that :func:`accelerator_verilog` took to make a design, whenever that was, and its bytes."""
    cost: dict[str, float] = json.loads((BUILD / "designs" / f"{name}.json").read_text())
    return cost


def accelerator_runner(
    config: AcceleratorConfig,
    name: str,
    make: Callable[[AcceleratorConfig], wiring.Component] | None = None,
    threads: int = 1,
    quick: bool | str = False,
    trace: Path | None = None,
) -> VerilatorRunner:
    """The runner that builds and runs the model of an instance between a DRAM and a host.

    Parameters
    ----------
    config, name, make
        As for :func:`accelerator_verilog`.
    threads
        That the model runs on.
    quick
        Build quickly; the model is slower, and another one: ``<name>-quick``. An option of the C++ compiler in place of
        ``True``, such as ``-Og``, makes something between the two: ``<name>-quick-Og``.
    trace
        Record waveforms in this file (VCD); such a model is another one.
    """
    make_options = [f"OPT_FAST={quick}"] if isinstance(quick, str) else _QUICK_MAKE if quick else _MAKE
    return VerilatorRunner(
        f"{name}-quick{quick if isinstance(quick, str) else ''}" if quick else name,
        [accelerator_verilog(config, name, make), _HERE / "bench.sv"],
        "bench",
        [
            *_FAST,
            *(_QUICK if quick else []),
            *_LINT,
            *(["--threads", str(threads)] if threads > 1 else []),
            *_bench_options(config),
        ],
        make_options,
        trace=trace,
    )


def _bench_options(config: AcceleratorConfig) -> list[str]:
    parameters = {"ADDRESS_BITS": config.address_bits, "WORD_WIDTH": config.word_width, "ID_BITS": ID_BITS}
    return [*(f"-G{parameter}={value}" for parameter, value in parameters.items()), str(_HERE / "dram.cpp")]


def random_runner(config: AcceleratorConfig, name: str, seed: int) -> VerilatorRunner:
    """The runner of a model without initial values: what is unknown is random bits, other ones for each seed.

    Parameters
    ----------
    config, name
        As for :func:`accelerator_verilog`; the model is called ``<name>-random``.
    seed
        Of the random bits, 1..2147483647. All seeds share a model.
    """
    if not 0 < seed < 1 << 31:
        raise ValueError(f"seed must be in 1..{(1 << 31) - 1}, not {seed}")
    design = BUILD / "designs" / f"{name}-random.v"
    write_text(design, without_initial_values(accelerator_verilog(config, name).read_text()))
    unknown = ["--x-assign", "unique", "--x-initial", "unique"]
    return VerilatorRunner(
        f"{name}-random",
        [design, _HERE / "bench.sv"],
        "bench",
        [*unknown, *_QUICK, *_LINT, *_bench_options(config)],
        _QUICK_MAKE,
        ["+verilator+rand+reset+2", f"+verilator+seed+{seed}"],
    )


def bare_runner(
    config: AcceleratorConfig,
    name: str,
    make: Callable[[AcceleratorConfig], wiring.Component] | None = None,
    quick: bool = False,
) -> VerilatorRunner:
    """The runner of the accelerator alone, for test benches that drive its ports.

    Parameters
    ----------
    config, name, make
        As for :func:`accelerator_verilog`; the model is called ``<name>-bare``.
    quick
        Build quickly; the model is slower, and called ``<name>-bare-quick``.
    """
    return VerilatorRunner(
        f"{name}-bare-quick" if quick else f"{name}-bare",
        [accelerator_verilog(config, name, make)],
        TOP,
        [*_FAST, *(_QUICK if quick else []), *_LINT],
        _QUICK_MAKE if quick else _MAKE,
    )
