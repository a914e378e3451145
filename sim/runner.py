"""Builds Verilator models and runs cocotb tests on them.

cocotb's own runner makes every signal of a design public, after which Verilator can optimise next to nothing: a 16 x 16
array then takes minutes to build. This one makes the ports of the top module public and nothing else. It also does
without a shared libpython: see host.cpp.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import TextIO
from xml.etree import ElementTree

import cocotb_tools.config
import find_libpython
from cocotb_tools.runner import Verilator

from sim.toolchain import BUILD, verilator_environment, verilator_version

__all__ = ["BuildError", "SimulationError", "VerilatorRunner", "library", "locked"]

TAIL_LINES = 30
#: Beside a model: what its build took.
COST = "cost.json"
LIBRARIES = BUILD / "toolchain"
# Parameters, optimisation of the model, and warnings. What stands behind --x-assign and the like is a word of its own.
_OF_THE_DESIGN = re.compile(
    r"-G|-O\d$|-Wno-|--noassert$|(--x-assign|--x-initial|--output-split)$|(fast|unique|0)$|OPT_(FAST|SLOW)="
)
HOSTED = ["-CFLAGS", "-fPIC -Dmain=simulate", "-LDFLAGS", "-shared -ldl", str(Path(__file__).with_name("host.cpp"))]


class BuildError(RuntimeError):
    """Verilator or the C++ compiler refused a design. The message ends with the tail of the log."""


class SimulationError(RuntimeError):
    """A test failed, or the simulation ended early. The message names the tests and ends with the tail of the log."""


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join([f"--- the last lines of {log}", *lines[-TAIL_LINES:]])


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def library(settings: Sequence[str] = ()) -> Path:
    """Where objects of the simulator's own library are kept: most of a small model's build, the same in every model.

    Parameters
    ----------
    settings
        Options of Verilator and make that change more than what is made of a design.
    """
    options = [option.encode() for option in (verilator_version(), *settings)]
    return LIBRARIES / f"library-{_digest(options)[:16]}"


def _is_of_the_design(option: str) -> bool:
    """Whether an option changes what Verilator makes of a design, and nothing of the simulator's own library."""
    return bool(_OF_THE_DESIGN.match(option)) or Path(option).is_file()


@contextlib.contextmanager
def locked(path: Path, shared: bool = False) -> Iterator[None]:
    """Hold the lock of a file, which is made, among threads and processes: those that run side by side share builds.

    Parameters
    ----------
    path
        The file; its folder is made too.
    shared
        Others may hold it at the same time that want it shared, too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield


class VerilatorRunner(Verilator):
    """Builds one design once, then runs test modules on it.

    Parameters
    ----------
    name
        Directory below ``build/sim`` that holds the model, and first part of the names of result files.
    verilog
        Source files.
    top
        The top module.
    options
        Further options for ``verilator``.
    make_options
        Further options for ``make``, such as ``OPT_FAST=-O2``.
    plusargs
        Arguments of the model, such as ``+verilator+seed+1``.
    trace
        Record the waveforms of each run in this file (VCD). Such a model is one of its own, called ``<name>-trace``.
    """

    def __init__(
        self,
        name: str,
        verilog: Sequence[Path],
        top: str,
        options: Sequence[str] = (),
        make_options: Sequence[str] = (),
        plusargs: Sequence[str] = (),
        trace: Path | None = None,
    ) -> None:
        super().__init__()
        self.trace = None if trace is None else Path(trace).resolve()
        self.name = name if trace is None else f"{name}-trace"
        self.verilog = [Path(path).resolve() for path in verilog]
        self.top = top
        self.hosted = find_libpython.find_libpython() is None
        self.options = [*options, *(HOSTED if self.hosted else []), *(["--trace"] if self.trace else [])]
        self.make_options = list(make_options)
        self.arguments = list(plusargs)
        self.build_dir = BUILD / self.name

    def _set_env_common(self) -> None:
        if self.hosted:
            self.env["GPI_USERS"] = cocotb_tools.config.pygpi_entry_point()
        super()._set_env_common()
        libraries = cocotb_tools.config.libs_dir
        environment = verilator_environment()
        environment["PATH"] += f"{os.pathsep}{libraries}"
        self.env.pop("MFLAGS", None)
        self.env.pop("MAKELEVEL", None)
        self.env["MAKEFLAGS"] = environment.get("MAKEFLAGS", "")
        self.env.update({name: environment[name] for name in ("PATH", "VERILATOR_ROOT") if name in environment})

    def _simulator_in_path_build_only(self) -> None:
        self.executable = "verilator"

    def _build_command(self) -> list[list[str]]:
        control = self.build_dir / "public.vlt"
        control.write_text(f'`verilator_config\npublic_flat_rw -module "{self.top}" -port "*"\n')
        verilate, make = super()._build_command()
        verilate.remove("--public-flat-rw")
        verilate.insert(verilate.index(str(self.verilog[0])), str(control))
        # After Verilator has written its makefile, as objects older than that are compiled again.
        copies = (
            [["cp", *map(str, sorted(self._library.glob("*.o"))), str(self.build_dir)]]
            if self._library.exists()
            else []
        )
        return [verilate, *copies, [*make, *self.make_options]]

    def _test_command(self) -> list[list[str]]:
        (command,) = super()._test_command()
        if self.hosted:
            model = command.index(str(self.build_dir / self.top))
            command[model : model + 1] = [f"LD_PRELOAD={command[model]}", sys.executable]
        return [command]

    @property
    def _library(self) -> Path:
        return library([x for x in (*self.options, *self.make_options) if not _is_of_the_design(x)])

    def _keep_library(self) -> None:
        if self._library.exists():
            return
        LIBRARIES.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=LIBRARIES) as directory, contextlib.suppress(OSError):
            complete = Path(directory) / "library"
            complete.mkdir()
            for compiled in self.build_dir.glob("verilated*.o"):
                shutil.copy(compiled, complete)
            complete.rename(self._library)  # fails where another process was first

    def _execute_cmds(
        self, cmds: Sequence[list[str]], cwd: os.PathLike[str] | str, stdout: TextIO | None = None
    ) -> None:
        # cocotb looks up programs on this process's PATH; env is where ours are.
        super()._execute_cmds([["/usr/bin/env", *command] for command in cmds], cwd, stdout)

    def build_model(self) -> Path:
        """Build the model, unless the one that is there comes from the same sources and options.

        Returns
        -------
        Path
            The directory that holds it.

        Raises
        ------
        BuildError
            Verilator or the C++ compiler failed.
        sim.toolchain.ToolchainError
            One of them is missing.
        """
        fingerprint = self._fingerprint()
        # A model that is there is looked at beside the runs of it, which hold the lock shared.
        with locked(self._lock, shared=True):
            if self._is_built(fingerprint):
                return self.build_dir
        with locked(self._lock):
            if self._is_built(fingerprint):
                return self.build_dir
            log = BUILD / f"{self.name}.build.log"
            shutil.rmtree(self.build_dir, ignore_errors=True)
            self.build_dir.mkdir()
            begin, used = perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
            try:
                self.build(
                    sources=self.verilog,
                    hdl_toplevel=self.top,
                    build_args=self.options,
                    build_dir=self.build_dir,
                    log_file=log,
                    waves=self.trace is not None,
                )
            except RuntimeError as error:
                raise BuildError(f"building {self.name} failed: {error}\n{_tail(log)}") from None
            self._keep_library()
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cost = {
                "seconds": round(perf_counter() - begin, 1),
                "processor_seconds": round(after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime, 1),
                # The largest of all children until now; kilobytes, but on macOS bytes.
                "largest_process_mb": after.ru_maxrss // (1 << 20 if sys.platform == "darwin" else 1 << 10),
            }
            (self.build_dir / COST).write_text(json.dumps(cost))
            self._stamp.write_text(fingerprint)
        return self.build_dir

    @property
    def _lock(self) -> Path:
        return BUILD / f"{self.name}.lock"

    @property
    def _stamp(self) -> Path:
        return self.build_dir / "fingerprint"

    def _fingerprint(self) -> str:
        """A digest of all that the model is made from."""
        options = [option.encode() for option in (*self.options, *self.make_options)]
        # Sources in C++ are options of their own.
        options += [Path(option).read_bytes() for option in self.options if Path(option).is_file()]
        environment = [verilator_version().encode(), str(cocotb_tools.config.libs_dir).encode(), self.top.encode()]
        return _digest([*environment, *options, *(path.read_bytes() for path in self.verilog)])

    def _is_built(self, fingerprint: str) -> bool:
        complete = all((self.build_dir / name).exists() for name in (self.top, COST))
        return complete and self._stamp.exists() and self._stamp.read_text() == fingerprint

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """The model is built, and no other process builds another one of its name meanwhile."""
        fingerprint = self._fingerprint()
        while True:
            self.build_model()
            with locked(self._lock, shared=True):
                if self._is_built(fingerprint):
                    yield
                    return

    @property
    def build_cost(self) -> dict[str, float]:
        """What building the model took, whenever that was: seconds, processor seconds, MB of the largest process."""
        cost: dict[str, float] = json.loads((self.build_dir / COST).read_text())
        return cost

    def run_tests(
        self,
        module: str,
        label: str = "",
        testcase: str | Sequence[str] | None = None,
        seed: int = 0,
        environment: Mapping[str, str] | None = None,
    ) -> Path:
        """Run a cocotb test module on the model, which is built first where needed.

        Parameters
        ----------
        module
            Importable name of the module.
        label
            Added to the name of the result files, for several runs of one model.
        testcase
            Names of the tests to run; all without it.
        seed
            Of cocotb's random numbers.
        environment
            Further environment variables for the tests.

        Returns
        -------
        Path
            JUnit XML, ``build/sim/<name>[.<label>].xml``. The log lies beside it.

        Raises
        ------
        SimulationError
            A test failed, none ran, or the simulation ended early.
        """
        stem = f"{self.name}.{label}" if label else self.name
        # Runs of one model may overlap, but not those of one label: they have the same files.
        with self._held(), locked(BUILD / f"{stem}.run.lock"):
            return self._run(module, stem, label or "default", testcase, seed, environment)

    def _run(
        self,
        module: str,
        stem: str,
        folder: str,
        testcase: str | Sequence[str] | None,
        seed: int,
        environment: Mapping[str, str] | None,
    ) -> Path:
        results, log = BUILD / f"{stem}.xml", BUILD / f"{stem}.log"
        # The tests' own files go beside the model.
        directory = self.build_dir / "runs" / folder
        status: str | int | None = 0
        try:
            self.test(
                test_module=module,
                hdl_toplevel=self.top,
                hdl_toplevel_lang="verilog",
                testcase=testcase,
                seed=seed,
                plusargs=self.arguments,
                extra_env=dict(environment or {}),
                build_dir=self.build_dir,
                test_dir=directory,
                results_xml=str(results),
                log_file=log,
                waves=self.trace is not None,
            )
        except SystemExit as error:
            status = error.code
        except RuntimeError as error:
            raise SimulationError(f"{stem}: {error}\n{_tail(log)}") from None
        finally:
            # What was recorded until a failure is what is looked for.
            if self.trace is not None and (directory / "dump.vcd").exists():
                shutil.move(directory / "dump.vcd", self.trace)
        if not results.exists():
            raise SimulationError(f"{stem}: the simulation left no results\n{_tail(log)}")
        cases = list(ElementTree.parse(results).iter("testcase"))
        failed = [
            case.get("name") for case in cases if case.find("failure") is not None or case.find("error") is not None
        ]
        if failed:
            raise SimulationError(
                f"{stem}: {len(failed)} of {len(cases)} failed: {', '.join(map(str, failed))}\n{_tail(log)}"
            )
        if status or not cases:
            raise SimulationError(f"{stem}: {'no test ran' if not cases else f'exit status {status}'}\n{_tail(log)}")
        return results
