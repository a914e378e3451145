"""Synthesis of one design, module by module.

Hierarchy is kept, so every module is synthesised alone, with the modules that it instantiates as black boxes, and once
however often it occurs: in a design, in all presets, and from run to run (results are kept by content under
``build/``). All designs go through the same commands. There is no buffering, sizing, scan chain or clock tree.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from hw.rtlil import RtlilModule, parse_modules
from hw.yosys import run_yosys, yosys_version
from synth.cache import keep, kept
from synth.liberty import Library, LibraryError
from synth.libraries import STORAGES

__all__ = ["STORAGES", "GateNetlist", "Netlist", "Synthesiser", "cell_map", "clock_gate_command", "module_gates"]

_FOLDER = Path(__file__).parent
_Made = TypeVar("_Made")
_COLUMN = re.compile(r"\$paramod\$?\w*\\register_file_column.*|register_file_column")


@dataclass(frozen=True)
class Netlist:
    """One module after mapping."""

    #: Library cells by name: how many of each in the module itself.
    cells: Mapping[str, int]
    #: ABC's estimate of the longest path through mapped gates, in the library's time unit (ps for most). A path ends at
    #: a register, at the module's boundary, and at a full-adder cell, into which ABC can't see; None without gates.
    delay: float | None


@dataclass(frozen=True)
class GateNetlist:
    """The gates of one module after mapping. Nets are numbers; 0 and 1 are the constants, and unknown bits are 0."""

    #: Nets of each port, its lowest bit first, by name.
    ports: Mapping[str, list[int]]
    #: Names of the ports that are inputs.
    inputs: list[str]
    #: Of each library cell: the names of its pins, and the nets of every instance in the order of the pins.
    cells: Mapping[str, tuple[list[str], list[list[int]]]]
    #: (module, instance, nets by port) of every module inside.
    instances: list[tuple[str, str, Mapping[str, list[int]]]]


def module_gates(module: Mapping[str, Any], library: Library) -> GateNetlist:
    """A module as Yosys writes it as JSON."""

    def nets(bits: Sequence[int | str]) -> list[int]:
        return [bit if isinstance(bit, int) else int(bit == "1") for bit in bits]

    cells: dict[str, tuple[list[str], list[list[int]]]] = {}
    instances: list[tuple[str, str, Mapping[str, list[int]]]] = []
    for name, cell in module["cells"].items():
        connections = {pin: nets(bits) for pin, bits in sorted(cell["connections"].items())}
        if cell["type"] in library.cells:
            found = cells.setdefault(cell["type"], (list(connections), []))
            # A pin that one instance leaves open would shift the others.
            if found[0] != list(connections):
                raise LibraryError(f"instances of {cell['type']} differ in their pins: {found[0]}, {list(connections)}")
            found[1].append([bits[0] for bits in connections.values()])
        else:
            instances.append((cell["type"], name, connections))
    ports = {name: nets(port["bits"]) for name, port in module["ports"].items()}
    inputs = [name for name, port in module["ports"].items() if port["direction"] == "input"]
    return GateNetlist(ports, inputs, cells, instances)


def _adder_map(library: Library) -> str:
    """A techmap that makes $fa the library's full adder where no input is constant, and gates elsewhere."""
    adder = library.full_adder
    gates = "assign Y[i] = A[i] ^ B[i] ^ C[i];\nassign X[i] = (A[i] & B[i]) | (C[i] & (A[i] ^ B[i]));"
    if adder is None:
        cell = gates
    else:
        a, b, c = adder.inputs
        sum_, carry = "~s" if adder.inverted_sum else "s", "~x" if adder.inverted_carry else "x"
        cell = (
            f"wire s, x;\n\\{adder.cell} cell_ (.\\{a} (A[i]), .\\{b} (B[i]), .\\{c} (C[i]), "
            f".\\{adder.sum} (s), .\\{adder.carry} (x));\nassign Y[i] = {sum_};\nassign X[i] = {carry};"
        )
    return f"""(* techmap_celltype = "$fa" *)
module _full_adder (A, B, C, X, Y);
parameter WIDTH = 1;
input [WIDTH-1:0] A, B, C;
output [WIDTH-1:0] X, Y;
parameter [WIDTH-1:0] _TECHMAP_CONSTMSK_A_ = 0;
parameter [WIDTH-1:0] _TECHMAP_CONSTMSK_B_ = 0;
parameter [WIDTH-1:0] _TECHMAP_CONSTMSK_C_ = 0;
genvar i;
generate for (i = 0; i < WIDTH; i = i + 1) begin : bit_
if (_TECHMAP_CONSTMSK_A_[i] || _TECHMAP_CONSTMSK_B_[i] || _TECHMAP_CONSTMSK_C_[i]) begin
{gates}
end else begin
{cell}
end
end endgenerate
endmodule
"""


def cell_map(library: Library) -> str:
    """A techmap for clock gates and latches, which dfflibmap leaves alone."""
    text = ""
    gate, latch = library.clock_gate, library.latch
    if gate is not None:
        tied = "".join(f", .\\{pin} (1'b0)" for pin in gate.test)
        text += (
            '(* techmap_celltype = "clock_gate" *)\nmodule _clock_gate (input clock, enable, output out);\n'
            f"\\{gate.cell} cell_ (.\\{gate.clock} (clock), .\\{gate.enable} (enable), .\\{gate.out} (out){tied});\n"
            "endmodule\n"
        )
    if latch is not None:
        text += (
            '(* techmap_celltype = "$_DLATCH_P_" *)\nmodule _latch (input E, D, output Q);\n'
            f"\\{latch.cell} cell_ (.\\{latch.enable} (E), .\\{latch.data} (D), .\\{latch.out} (Q));\nendmodule\n"
        )
    return text


def clock_gate_command(library: Library) -> str:
    """The Yosys command that puts clock gates before registers with an enable.

    Raises
    ------
    LibraryError
        The library has no clock gate.
    """
    gate = library.clock_gate
    if gate is None:
        raise LibraryError(f"library {library.name} has no clock gate, which storage gated needs")
    pins = f"{gate.cell} {gate.enable}:{gate.clock}:{gate.out}"
    tied = f" -tie_lo {' '.join(gate.test)}" if gate.test else ""
    # Below four flip-flops the gate is larger than the multiplexers that it saves.
    return f"clockgate -pos {pins}{tied} -min_net_size 4"


class Synthesiser:
    """Maps modules to one library.

    Parameters
    ----------
    library
        The cells.
    cache
        Folder for results; made when needed.
    storage
        One of :data:`STORAGES`.
    carry_save
        Sums of several terms are rows of full adders that keep their carries, and one adder at the end.

    Raises
    ------
    synth.liberty.LibraryError
        ``storage`` needs a clock gate or a latch that the library does not have.
    """

    def __init__(self, library: Library, cache: Path, storage: str = "flipflop", *, carry_save: bool = False) -> None:
        if storage not in STORAGES:
            raise ValueError(f"storage must be one of {', '.join(STORAGES)}, not {storage!r}")
        gated = storage != "flipflop"
        if (gated and library.clock_gate is None) or (storage == "latch" and library.latch is None):
            missing = "clock gate" if library.clock_gate is None else "latch"
            raise LibraryError(f"library {library.name} has no {missing}, which storage {storage} needs")
        self.library, self.cache, self.storage = library, cache, storage
        self.files = {name: (_FOLDER / name).read_text() for name in ("arithmetic.v", "register_file.v", "column.v")}
        self.files |= {"adder.v": _adder_map(library), "cells.v": cell_map(library)}
        defines = ["-D GATED"] if gated else []
        defines += ["-D LATCH"] if storage == "latch" else []
        self.defines = " ".join(defines)
        self.liberty = " ".join(f"-liberty {i}.lib" for i in range(len(library.texts)))
        dont_use = " ".join(f"-dont_use {cell.name}" for cell in library.cells.values() if cell.dont_use)
        self.map_logic = [
            "opt -full",
            "wreduce",
            "opt_clean",
            # Booth multipliers are the smallest of those compared, in the form that there is for signed ones alone;
            # adders become full adders.
            "booth -lowpower t:$mul r:A_SIGNED=1 %i r:B_SIGNED=1 %i",
            "booth",
            *(["alumacc", "maccmap"] if carry_save else []),
            "techmap -map arithmetic.v",
            "alumacc",  # comparisons
            "opt",
            "techmap -map arithmetic.v",
            "opt -full",
            "techmap -map adder.v",
            "techmap",
            "opt -full",
            "simplemap",  # multiplexers that opt has made
        ]
        if gated:
            self.map_logic.append(clock_gate_command(library))
        self.map_logic += [
            f"dfflibmap {self.liberty} {dont_use}",
            "techmap -map cells.v" if self.files["cells.v"] else "opt_clean",
            f"abc {self.liberty} {dont_use} -script +strash;dch;amap;topo;stime,-p",
            "opt_clean",
        ]
        self.salt = json.dumps(
            [yosys_version(), library.sha256, self.files, self.defines, self.map_logic, _MODULE_COMMANDS],
            sort_keys=True,
        )

    def netlists(
        self,
        rtlil: str,
        workers: int = 2,
        progress: Callable[[int, int], None] = lambda done, total: None,
        only: Collection[str] | None = None,
    ) -> dict[str, Netlist]:
        """The mapped modules of a design by name (no backslash), columns of register files counted into their modules.

        Parameters
        ----------
        rtlil
            The design, with equal modules merged.
        workers
            Yosys processes at a time.
        progress
            Called with the numbers of finished and of all modules.
        only
            Names of the modules to map, with their backslash; all by default.

        Raises
        ------
        hw.yosys.YosysError
            Yosys refuses a module.
        synth.liberty.LibraryError
            A module needs a cell that the library doesn't have.
        """
        return dict(_each_module(self._module, rtlil, workers, progress, only))

    def gates(
        self,
        rtlil: str,
        workers: int = 2,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> dict[str, GateNetlist]:
        """The gates of the modules that :meth:`netlists` counts, and of the columns of their register files.

        Instances name modules of the result; a design's own are without their backslash.

        Raises
        ------
        As :meth:`netlists`.
        """
        found: dict[str, GateNetlist] = {}
        for name, (gates, columns) in _each_module(self._module_gates, rtlil, workers, progress):
            found[name] = gates
            found |= columns
        return found

    def _module_gates(
        self, module: RtlilModule, modules: Mapping[str, RtlilModule]
    ) -> tuple[GateNetlist, dict[str, GateNetlist]]:
        text, _ = _module_text(module, modules)
        result = self._cached(text, _MODULE_COMMANDS, gates=True)
        gates = GateNetlist(**result["gates"])
        kinds = {instance.removeprefix("\\"): kind for _, kind, instance in module.instances}
        instances, columns = [], {}
        for kind, name, connections in gates.instances:
            if _COLUMN.fullmatch(kind):
                size, ports = result["columns"][kind]
                kind = f"column {size} {ports}"
                if kind not in columns:
                    column = self._cached(f"SIZE {size} PORTS {ports}", _column_commands(size, ports), gates=True)
                    columns[kind] = GateNetlist(**column["gates"])
            elif name in kinds:
                kind = kinds[name].removeprefix("\\")
            else:
                raise LibraryError(f"library {self.library.name} has no cell for {kind} in {module.name[1:]}")
            instances.append((kind, name, connections))
        return replace(gates, instances=instances), columns

    def _module(self, module: RtlilModule, modules: Mapping[str, RtlilModule]) -> Netlist:
        text, stubs = _module_text(module, modules)
        result = self._cached(text, _MODULE_COMMANDS)
        cells = Counter(result["cells"])
        delays = [result["delay"]]
        for kind in [kind for kind in cells if _COLUMN.fullmatch(kind)]:
            size, ports = result["columns"][kind]
            column = self._cached(f"SIZE {size} PORTS {ports}", _column_commands(size, ports))
            count = cells.pop(kind)
            cells.update({name: number * count for name, number in column["cells"].items()})
            delays.append(column["delay"])
        for stub in stubs:
            cells.pop(stub, None)
        unknown = [kind for kind in cells if kind not in self.library.cells]
        if unknown:
            raise LibraryError(f"library {self.library.name} has no cell for {', '.join(unknown)} in {module.name[1:]}")
        return Netlist(dict(sorted(cells.items())), max((delay for delay in delays if delay is not None), default=None))

    def _cached(self, text: str, commands: Sequence[str], gates: bool = False) -> dict[str, Any]:
        """What is known of one module; with ``gates`` its gates, too, which are large and kept apart."""
        key = hashlib.sha256(f"{self.salt}\n{commands}\n{text}".encode()).hexdigest()
        path, gates_path = self.cache / f"{key}.json", self.cache / f"{key}.gates.json"
        known = kept(path)
        known_gates = kept(gates_path) if gates and known is not None else None
        if known is not None and not gates:
            return json.loads(known)
        if known is not None and known_gates is not None:
            return {**json.loads(known), "gates": json.loads(known_gates)}
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for file, content in {"design.il": text, **self.files}.items():
                (folder / file).write_text(content)
            for i, content in enumerate(self.library.texts):
                (folder / f"{i}.lib").write_text(content)
            commands = [command.replace("{defines}", self.defines) for command in commands]
            log = run_yosys([*commands, *self.map_logic, "write_json design.json"], folder)
            design = json.loads((folder / "design.json").read_text())
        mapped = next(m for m in design["modules"].values() if "blackbox" not in m["attributes"])
        cells: Counter[str] = Counter()
        columns = {}
        for cell in mapped["cells"].values():
            cells[cell["type"]] += 1
            if _COLUMN.fullmatch(cell["type"]):
                columns[cell["type"]] = [len(cell["connections"]["clock"]), len(cell["connections"]["q"])]
        delays = [float(delay) for delay in re.findall(r"Delay = *([\d.]+) ps", log)]
        result = {"cells": cells, "columns": columns, "delay": max(delays, default=None)}
        if known is None:
            keep(path, json.dumps(result))
        if not gates:
            return result
        described = asdict(module_gates(mapped, self.library))
        keep(gates_path, json.dumps(described, separators=(",", ":")))
        return {**result, "gates": described}


def _each_module(
    work: Callable[[RtlilModule, Mapping[str, RtlilModule]], _Made],
    rtlil: str,
    workers: int,
    progress: Callable[[int, int], None],
    only: Collection[str] | None = None,
) -> Iterator[tuple[str, _Made]]:
    """Names of modules, without backslash, and what ``work`` makes of each; else as :meth:`Synthesiser.netlists`."""
    modules = parse_modules(rtlil)
    wanted = [module for name, module in modules.items() if only is None or name in only]
    with ThreadPoolExecutor(workers) as pool:
        futures = {module.name: pool.submit(work, module, modules) for module in wanted}
        try:
            for done, (name, future) in enumerate(futures.items(), 1):
                yield name.removeprefix("\\"), future.result()
                progress(done, len(futures))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _module_text(module: RtlilModule, modules: Mapping[str, RtlilModule]) -> tuple[str, list[str]]:
    """RTLIL of one module with those that it instantiates as black boxes, and the names of these."""
    # The name of a child says nothing; its ports do.
    stubs = {}
    body = module.body[:]
    for line, kind, instance in module.instances:
        if kind in modules:
            ports = "\n".join(modules[kind].ports)
            stub = f"\\child_{hashlib.sha256(ports.encode()).hexdigest()[:16]}"
            # A child must not vanish for want of a reader, and its inputs with it.
            stubs[stub] = f"attribute \\blackbox 1\nattribute \\keep 1\nmodule {stub}\n{ports}\nend\n"
            body[line] = f"  cell {stub} {instance}"
    text = "\n".join([*stubs.values(), "module \\design", *module.ports, *module.wires, *body, "end", ""])
    return text, [stub.removeprefix("\\") for stub in stubs]


# Registers and memories of an ASIC have no initial values.
_MODULE_COMMANDS = (
    "read_rtlil design.il",
    "hierarchy -top design",
    "delete t:$meminit t:$meminit_v2",
    "setattr -unset init w:*",
    "proc",
    "opt_expr",
    "opt_clean",
    "memory_collect",
    "techmap -map register_file.v {defines}",
    "memory_map",
)


def _column_commands(size: int, ports: int) -> tuple[str, ...]:
    return (
        "read_verilog -icells {defines} column.v",
        f"chparam -set SIZE {size} -set PORTS {ports} register_file_column",
        "hierarchy -top register_file_column",
        "proc",
    )
