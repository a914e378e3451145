"""``python -m synth.timing``: ABC's estimate of the longest delay of each block, into build/synth/timing.json and .md.

For areas every module is mapped alone, small and without buffers, and ABC does not see into full-adder cells; delays
come from netlists of their own. A *section* is what lies between registers: a block with all that is below it,
flattened, and where a path goes on into the next block, both. Adders are prefix adders of gates: Brent-Kung, and where
the clock needs it, Kogge-Stone. ABC maps for speed, puts buffers into nets of a high fan-out and sizes the cells. So a
section is larger than its block in the area report; its own area stands beside its delay.

The same netlist is then timed from the clock edge of a register to that of the next by :mod:`synth.sta`: with clock to
output, set-up, wires, and balanced trees of buffers in all nets of many loads, those that go to all copies of a section
among them; and, where it is installed, by OpenSTA. :data:`MARGIN` of the clock cycle is left for what is not in it:
clock tree and layout. Paths that cross the border of a section without a register there are in a section of their own.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from hw.command_line import add_set_option, interruptible, writable_folder
from hw.config import AcceleratorConfig, ConfigError
from hw.control.descriptor import TABLE_BYTES
from sw.format.strict_json import json_text
from synth.libraries import LibraryParser, instances
from synth.report import CACHE, write_files
from synth.sections import SECTIONS, Section

if TYPE_CHECKING:
    from hw.rtlil import RtlilModule
    from synth.flow import GateNetlist
    from synth.liberty import Library

__all__ = ["CLOCK", "MARGIN", "PRESETS", "Delay", "delays", "main", "markdown", "write"]

#: What is timed by default.
PRESETS = (
    *("ews-64", "ews-cms-64", "ews-msvq-64", "ews-msvq-full-64", "ews4-64", "ews-msvq4-64"),
    *("ews-cms-500mhz", "ews-msvq-500mhz", "ews-msvq4-500mhz"),
)

#: Clock cycle in ps: 500 MHz.
CLOCK = 2000.0

_FOLDER = Path(__file__).parent
#: The part of a clock cycle that is left for the clock tree and the layout.
MARGIN = 0.1
#: The part of a clock cycle that ABC may use; of the rest come flip-flops, wires and the margin. Less where that is not
#: enough.
_LOGIC, _LESS_LOGIC, _LEAST_LOGIC = 0.7, 0.6, 0.5
#: How registers are kept in netlists for delays, of those of areas.
STYLES = ("flipflop", "gated")


@dataclass(frozen=True)
class Delay:
    """The longest path of a section."""

    #: ABC's estimate in the library's time unit, ps for most; 0.0 without gates.
    delay: float
    #: Of the section's netlist, in the library's unit.
    area: float
    #: Where it begins and ends, as ABC names it.
    path: str
    #: :mod:`synth.sta`'s delay from register to register in the library's time unit.
    registered: float = 0.0
    #: OpenSTA's of the same netlist; None where it is not installed.
    opensta: float | None = None


def _stem(instance: str) -> str:
    return re.sub(r"(_\d+|\$\d+)+$", "", instance.removeprefix("\\"))


def _section_text(
    modules: Mapping[str, RtlilModule], top: str, without: Sequence[str], first: Sequence[str] = ()
) -> str:
    """RTLIL of ``top`` as module ``design``, with all below it; instances in ``without`` are black boxes, and those in
    ``first`` but for the first one."""
    from synth.report import memory_bits

    level, texts, boxes = [top], {}, {}
    while level:
        name = level.pop()
        module = modules[name]
        body = module.body[:]
        for line, kind, instance in module.instances:
            if kind not in modules:
                continue
            # Static memories are macros, with registers at their borders.
            stem = _stem(instance)
            another = stem in first and not instance.endswith("_0")
            if stem in without or another or memory_bits(modules[kind]):
                # The name of a black box says nothing; its ports do.
                ports = "\n".join(modules[kind].ports)
                box = f"\\box_{hashlib.sha256(ports.encode()).hexdigest()[:16]}"
                boxes[box] = f"attribute \\blackbox 1\nattribute \\keep 1\nmodule {box}\n{ports}\nend\n"
                body[line] = f"  cell {box} {instance}"
            elif kind not in texts:
                level.append(kind)
        title = "\\design" if name == top else name
        texts[name] = "\n".join([f"module {title}", *module.ports, *module.wires, *body, "end", ""])
    return "\n".join([*boxes.values(), *texts.values()])


def _buffer(library: Library) -> str:
    """The smallest buffer, which drives the inputs of a section."""
    from synth.liberty import LibraryError

    cells = [
        cell
        for cell in library.cells.values()
        if not cell.dont_use and len(cell.inputs) == 1 and list(cell.outputs.values()) == [cell.inputs[0]] and cell.area
    ]
    if not cells:
        raise LibraryError(f"library {library.name} has no buffer, which delays need")
    return min(cells, key=lambda cell: (cell.area, cell.name)).name


def _femtofarads(library: Library) -> float:
    """Capacitance of an input of the smallest two-input NAND in fF."""
    unit = re.search(r"capacitive_load_unit\s*\(\s*([\d.]+)\s*,\s*\"?([a-z]+)", library.texts[0], re.IGNORECASE)
    factor = float(unit[1]) * {"ff": 1.0, "pf": 1e3}[unit[2].lower()] if unit else 1e3
    pins = library.nand2.capacitances
    return factor * max(pins.values(), default=0.0)


@dataclass(frozen=True)
class _Mapped:
    """What ABC made of a section: its delay, area and path, and the gates; black boxes by the directions of ports."""

    delay: float
    area: float
    path: str
    gates: GateNetlist
    outputs: Mapping[str, list[str]]


def _abc(
    text: str,
    commands: Sequence[str],
    library: Library,
    target: float,
    load: float,
    cache: Path,
    style: str,
    adders: str = "techmap",
) -> _Mapped:
    from hw.yosys import run_yosys, yosys_version
    from synth.cache import keep, kept
    from synth.flow import GateNetlist, cell_map, clock_gate_command, module_gates

    files = {name: (_FOLDER / name).read_text() for name in ("register_file.v", "column.v")}
    liberty = " ".join(f"-liberty {i}.lib" for i in range(len(library.texts)))
    dont_use = " ".join(f"-dont_use {cell.name}" for cell in library.cells.values() if cell.dont_use)
    gated = style == "gated"
    commands = [
        *(command.replace("{defines}", "-D GATED" if gated else "") for command in commands),
        adders,
        "opt -full",
        "simplemap",  # multiplexers that opt has made
        *([clock_gate_command(library)] if gated else []),
        f"dfflibmap {liberty} {dont_use}",
        *(["techmap -map cells.v"] if gated else []),
        f"abc {liberty} {dont_use} -constr limits -D {target:.0f}",
        "opt_clean",
        "stat " + liberty,
        "write_json design.json",
    ]
    files |= {"design.il": text, "limits": f"set_driving_cell {_buffer(library)}\nset_load {load:.4f} [all_outputs]\n"}
    files |= {"cells.v": cell_map(library)} if gated else {}
    key = hashlib.sha256(json.dumps([yosys_version(), library.sha256, commands, files]).encode()).hexdigest()
    path = cache / f"{key}.timing.json"
    known = kept(path)
    if known is not None:
        found = json.loads(known)
        return _Mapped(**{**found, "gates": GateNetlist(**found["gates"])})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, content in files.items():
            (folder / file).write_text(content)
        for i, content in enumerate(library.texts):
            (folder / f"{i}.lib").write_text(content)
        log = run_yosys(commands, folder)
        modules = json.loads((folder / "design.json").read_text())["modules"]
    # One result for each clock domain and pass of ABC; the last word on each domain is the one behind its sizing.
    delays_found = [float(value) for value in re.findall(r"ABC:.*Delay = *([\d.]+) ps", log)]
    ends = re.findall(r"ABC: Start-point = \w+ \((.*)\)\.\s+End-point = \w+ \((.*)\)\.", log)
    area = re.findall(r"Chip area for (?:top )?module.*: ([\d.]+)", log)
    mapped = next(module for module in modules.values() if "blackbox" not in module["attributes"])
    result = _Mapped(
        delays_found[-1] if delays_found else 0.0,
        float(area[-1]) if area else 0.0,
        " to ".join(ends[-1]) if ends else "",
        module_gates(mapped, library),
        {
            kind: [name for name, port in module["ports"].items() if port["direction"] == "output"]
            for kind, module in modules.items()
            if "blackbox" in module["attributes"]
        },
    )
    keep(path, json.dumps(asdict(result), separators=(",", ":")))
    return result


_Copies = Callable[[str, str], int]


def _second(library: Library) -> bool:
    """Whether OpenSTA times, too. A library in gate equivalents is not for it: no thresholds, and no time."""
    from synth.opensta import available

    return library.area_unit == "um2" and available() is not None


def _timed(mapped: _Mapped, library: Library, copies: _Copies) -> tuple[float, float, float, float | None]:
    """ps from register to register, the set-up and clock to output of its border registers in it, and OpenSTA's ps."""
    from synth.liberty import LibraryError
    from synth.opensta import opensta_delay
    from synth.power.cells import characterise
    from synth.sta import Borders, border_delays, enclosed, longest_path

    gates = mapped.gates
    flops = [cell for cell in library.cells.values() if cell.flip_flop and not cell.dont_use]
    if not flops:
        raise LibraryError(f"library {library.name} has no flip-flop, which delays need")
    flop = min(flops, key=lambda cell: (cell.area, cell.name))
    cells = characterise(library, {*gates.cells, flop.name})
    loads: dict[int, int] = {}
    sources: list[int] = []
    ends: list[int] = []
    for kind, name, connections in gates.instances:
        stem = _stem(name.rpartition(".")[2])
        for port, nets in connections.items():
            # Columns of register files are not in the design; what they read leaves by q.
            if port in mapped.outputs.get(kind, ["q"]):
                sources += nets
                loads |= dict.fromkeys(nets, copies(stem, port))
            else:
                ends += nets * copies(stem, port)
    for port in gates.inputs:
        loads |= dict.fromkeys(gates.ports[port], copies("", port))
    netlist = enclosed(gates, cells, Borders(loads, tuple(sources), tuple(ends)))
    slew = cells.nominal_slew
    path = longest_path(netlist, cells, slew)
    second = opensta_delay(netlist, library, cells, slew) if _second(library) else None
    launch, capture = border_delays(cells, slew)
    return path.delay, launch, capture, second


def _described(mapped: _Mapped, library: Library, cache: Path, copies: _Copies) -> tuple[Delay, float]:
    """The delay of a section, and the part that registers at its borders have in it."""
    from synth.cache import keep, kept

    if not mapped.gates.cells:
        return Delay(mapped.delay, mapped.area, mapped.path), 0.0
    pairs = sorted({(_stem(name.rpartition(".")[2]), port) for _, name, c in mapped.gates.instances for port in c})
    given = {f"{stem}.{port}": copies(stem, port) for stem, port in [*pairs, *(("", p) for p in mapped.gates.ports)]}
    sources = [(_FOLDER / name).read_text() for name in ("sta.py", "opensta.py", "power/cells.py")]
    text = json.dumps([library.sha256, asdict(mapped), given, sources, _second(library)])
    path = cache / f"{hashlib.sha256(text.encode()).hexdigest()}.sta.json"
    known = kept(path)
    found = json.loads(known) if known is not None else _timed(mapped, library, copies)
    if known is None:
        keep(path, json.dumps(found))
    delay, launch, capture, second = found
    return Delay(mapped.delay, mapped.area, mapped.path, delay, second), launch + capture


_READ = ("read_rtlil design.il", "hierarchy -top design", "delete t:$meminit t:$meminit_v2", "setattr -unset init w:*")
_MAP_FILES = ("proc", "opt_expr", "opt_clean", "memory_collect", "techmap -map register_file.v {defines}")
#: Kogge-Stone adders where Yosys' own, Brent-Kung, are too slow.
_FAST_ADDERS = "techmap -map +/techmap.v -map +/choices/kogge-stone.v"
_OPTIMISE = ("flatten", "opt -full", "wreduce", "opt_clean", "booth", "alumacc", "opt -full")


def _flat(text: str, library: Library, clock: float, cache: Path, style: str, copies: _Copies) -> Delay:
    columns = ("read_verilog -icells {defines} column.v", "memory_map", "hierarchy -top design", "proc")
    load = 4 * _femtofarads(library)
    commands = [*_READ, *_MAP_FILES, *columns, *_OPTIMISE]
    found: list[Delay] = []
    tries = (("techmap", _LOGIC), *((_FAST_ADDERS, share) for share in (_LOGIC, _LESS_LOGIC, _LEAST_LOGIC)))
    for adders, share in tries:
        mapped = _abc(text, commands, library, clock * share, load, cache, style, adders)
        found.append(_described(mapped, library, cache, copies)[0])
        if max(found[-1].registered, found[-1].opensta or 0.0) <= clock * (1 - MARGIN):
            break
    return min(found, key=lambda delay: delay.registered)


def _register_file(
    text: str, size: int, width: int, ports: int, library: Library, clock: float, cache: Path, style: str
) -> Delay:
    """A large register file: the decoders, loaded by one gate of each column, and then one column of its bits."""
    load = _femtofarads(library)
    commands = [*_READ, *_MAP_FILES, "memory_map", *_OPTIMISE]
    decoders = _abc(text, commands, library, clock * _LOGIC, width * load, cache, style)
    commands = [
        "read_verilog -icells {defines} column.v",
        f"chparam -set SIZE {size} -set PORTS {ports} register_file_column",
        "hierarchy -top register_file_column",
        "proc",
        "opt -full",
    ]
    column = _abc("", commands, library, clock * _LOGIC, 4 * load, cache, style)
    one, borders = _described(decoders, library, cache, lambda instance, port: 1)
    other, _ = _described(column, library, cache, lambda instance, port: 1)
    # Between the two there is no register.
    second = None if one.opensta is None or other.opensta is None else one.opensta + other.opensta - borders
    return Delay(
        one.delay + other.delay,
        one.area + width * other.area,
        f"{one.path}; {other.path}",
        one.registered + other.registered - borders,
        second,
    )


_EMITTING = Lock()


@lru_cache(4)
def _modules(config: AcceleratorConfig, cache: Path, module: str, component: str) -> dict[str, RtlilModule]:
    from hw.rtlil import parse_modules
    from synth.report import component_rtlil

    return parse_modules(component_rtlil(config, cache, module, component))


def _delay(
    section: Section, config: AcceleratorConfig, library: Library, clock: float, cache: Path, style: str
) -> Delay:
    # Most sections are of one component, and lru_cache lets every thread that misses do the work.
    with _EMITTING:
        modules = _modules(section.shrink(config), cache, *section.component)
    top = next(iter(modules))
    if section.top:
        kinds = [
            kind
            for module in modules.values()
            for _, kind, instance in module.instances
            if _stem(instance) == section.top and kind in modules
        ]
        top = kinds[0]
    text = _section_text(modules, top, section.without, section.first)
    if section.top == "crf":
        width = config.d * config.element_bits
        return _register_file(text, config.k, width, config.tiles, library, clock, cache, style)
    if section.top == "lookup_table":
        return _register_file(text, TABLE_BYTES, 8, config.vector_unit_lanes, library, clock, cache, style)
    return _flat(text, library, clock, cache, style, partial(section.copies, config))


def delays(
    config: AcceleratorConfig,
    library: Library,
    clock: float = CLOCK,
    sections: Sequence[Section] = SECTIONS,
    workers: int = 2,
    cache: Path = CACHE,
    progress: Callable[[int, int], None] = lambda done, total: None,
    style: str = STYLES[0],
) -> dict[str, Delay]:
    """The delay of each section that an instance has.

    Parameters
    ----------
    clock
        The cycle for which ABC sizes, in ps.
    workers
        Yosys processes at a time.
    progress
        Called with the numbers of finished and of all sections.
    style
        One of :data:`STYLES`.

    Raises
    ------
    hw.yosys.YosysError
        Yosys refuses a section.
    synth.liberty.LibraryError
        The library has no buffer or no flip-flop, or no clock gate, which the style ``gated`` needs.
    synth.opensta.OpenSTAError
        OpenSTA finds no path.
    """
    wanted = [section for section in sections if section.exists(config)]
    found: dict[str, Delay] = {}
    with ThreadPoolExecutor(workers) as pool:
        futures = {
            pool.submit(_delay, section, config, library, clock, cache, style): section.name for section in wanted
        }
        try:
            for future in as_completed(futures):
                found[futures[future]] = future.result()
                progress(len(found), len(futures))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {section.name: found[section.name] for section in wanted}


def markdown(
    results: Mapping[str, Mapping[str, Delay]], library: Library, clock: float, style: str = STYLES[0]
) -> Iterator[str]:
    """Delays by section and instance, line by line; those beyond the clock cycle, less the margin where registers and
    wires are in it, in bold."""
    from hw.yosys import yosys_version
    from synth.opensta import HINT
    from synth.report import table

    names = [section.name for section in SECTIONS if any(section.name in found for found in results.values())]
    real = library.area_unit == "um2"
    unit = "ps" if real else "tau"

    def rows(get: Callable[[Delay], float | None], limit: float) -> list[list[str]]:
        def cell(value: float | None) -> str:
            if value is None:
                return ""
            return f"**{value:,.0f}**" if real and value > limit else f"{value:,.0f}"

        found = [[name, *(cell(get(r[name])) if name in r else "" for r in results.values())] for name in names]
        longest = [max((x for d in r.values() if (x := get(d)) is not None), default=None) for r in results.values()]
        return [*found, ["longest", *map(cell, longest)]]

    limit = clock * (1 - MARGIN)
    yield f"# Delays, library {library.name}, Yosys {yosys_version()}"
    yield ""
    yield (
        f"From register to register, {unit}: with clock to output, set-up, wires, and buffers to all copies of a "
        f"section; registers: {style}."
    )
    yield ""
    yield table([f"section, {unit}", *results], rows(lambda found: found.registered, limit))
    yield ""
    if any(found.opensta is not None for r in results.values() for found in r.values()):
        yield "The same netlists by OpenSTA:"
        yield ""
        yield table([f"section, {unit}", *results], rows(lambda found: found.opensta, limit))
    else:
        yield f"No second opinion: {HINT if real else 'OpenSTA times libraries in units of time'}."
    yield ""
    if real:
        yield (
            f"In bold: beyond {limit:,.0f} {unit}, {1 - MARGIN:.0%} of a clock of {1e6 / clock:,.0f} MHz. The rest is "
            "for the clock tree and the layout, which are not included."
        )
        yield ""
    yield "ABC's own estimates, without flip-flops, wires and the buffers to other copies:"
    yield ""
    yield table([f"section, {unit}", *results], rows(lambda found: found.delay, clock))
    yield ""
    yield (
        f"ABC sizes for {clock * _LOGIC:,.0f} {unit} of a clock of {clock:,.0f} {unit}; adders as gates, nets buffered."
    )


def write(
    results: Mapping[str, Mapping[str, Delay]],
    configs: Mapping[str, AcceleratorConfig],
    library: Library,
    clock: float,
    folder: Path,
    style: str = STYLES[0],
) -> list[Path]:
    """Write ``timing.json`` and ``timing.md`` into ``folder``.

    Raises
    ------
    OSError
        The folder cannot be written.
    """
    from hw.generate import source_hash
    from hw.yosys import yosys_version

    described = {
        "library": {"name": library.name, "sha256": library.sha256, "unit": library.area_unit},
        "clock": clock,
        "margin": MARGIN,
        "storage": style,
        "tools": {"yosys": yosys_version()},
        "hw_sha256": source_hash(),
        "presets": {
            name: {
                "configuration": configs[name].to_dict(),
                "sections": {section: asdict(delay) for section, delay in found.items()},
            }
            for name, found in results.items()
        },
    }
    texts = {
        "timing.json": json_text(described),
        "timing.md": "\n".join(markdown(results, library, clock, style)) + "\n",
    }
    return write_files(folder, texts)


@interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, or 2 after one line on stderr."""
    parser = LibraryParser("synth.timing", (__doc__ or "").partition("\n")[0])
    parser.add_argument("--preset", metavar="NAME", action="append", help=f"default: {', '.join(PRESETS)}")
    add_set_option(parser)
    parser.add_argument("--section", metavar="NAME", action="append", help="time this section alone; may be repeated")
    parser.add_argument("--clock", metavar="PS", type=float, default=CLOCK, help=f"clock cycle (default: {CLOCK:g})")
    parser.add_argument(
        "--storage",
        choices=STYLES,
        default=STYLES[0],
        help="%(default)s, or gated: registers behind clock gates, pipeline registers too",
    )
    options = parser.parse_args(arguments)

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from hw.bus.axi import word_bytes
    from hw.yosys import YosysError
    from synth.liberty import LibraryError
    from synth.opensta import HINT, OpenSTAError, available

    try:
        if not 0 < options.clock < 1e6:
            parser.error(f"--clock must be above 0 and below 1000000, not {options.clock:g}")
        known = {section.name: section for section in SECTIONS}
        for name in options.section or ():
            if name not in known:
                parser.error(f"unknown section {name!r}; the sections are {'; '.join(known)}")
        sections = [known[name] for name in options.section or known]
        configs = instances(options.preset or PRESETS, options.set, options.storage)
        if any(section.component[0] == "hw.accelerator" for section in sections):
            for config in configs.values():
                word_bytes(config)  # refuses what is no bus, before the minutes that the sections of the core take
        library = parser.library(options)
        folder = writable_folder(options.folder)
        if library.area_unit == "um2" and not available():
            print(f"{parser.prog}: no second opinion: {HINT}", file=sys.stderr)
        console = Console(stderr=True)
        results = {}
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console) as progress:
            for name, config in configs.items():
                task = progress.add_task(name, total=None)

                def step(done: int, total: int, task: Any = task) -> None:
                    progress.update(task, completed=done, total=total)

                results[name] = delays(config, library, options.clock, sections, 2, CACHE, step, options.storage)
        paths = write(results, configs, library, options.clock, folder, options.storage)
    except (ConfigError, LibraryError, YosysError, OpenSTAError) as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"cannot write: {error}")
    print(paths[1].read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
