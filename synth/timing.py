"""``python -m synth.timing``: ABC's estimate of the longest delay of each block, into build/synth/timing.json and .md.

For areas every module is mapped alone, small and without buffers, and ABC does not see into full-adder cells; delays
come from netlists of their own. A *section* is what lies between registers: a block with all that is below it,
flattened, and where a path goes on into the next block, both. Adders are prefix adders of gates: Brent-Kung, and where
the clock needs it, Kogge-Stone. ABC maps for speed, puts buffers into nets of a high fan-out and sizes the cells. So a
section is larger than its block in the area report; its own area stands beside its delay. Not included: wires, and the
flip-flops at both ends of a path.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from hw.command_line import add_set_option, interruptible, writable_folder, write_text
from hw.config import AcceleratorConfig, ConfigError, preset
from hw.control.descriptor import TABLE_BYTES
from synth.libraries import LibraryParser
from synth.report import CACHE, UNITS

if TYPE_CHECKING:
    from hw.rtlil import RtlilModule
    from synth.liberty import Library

__all__ = ["CLOCK", "PRESETS", "SECTIONS", "Delay", "Section", "delays", "main", "markdown", "write"]

#: What is timed by default.
PRESETS = ("ews-64", "ews-cms-64", "ews-msvq-64", "ews-msvq-full-64", "ews4-64", "ews-msvq4-64")

#: Clock cycle in ps: 500 MHz.
CLOCK = 2000.0

_FOLDER = Path(__file__).parent
#: The part of a clock cycle that ABC may use; the rest is for flip-flops.
_LOGIC = 0.9


def _first_tree_rows(config: AcceleratorConfig) -> AcceleratorConfig:
    """As many rows as meet in the first registers of the adder trees: all paths from the multipliers to there."""
    rows = 1 << (config.tree_register_levels or config.tree_levels)
    return replace(_one_tile(config), H=min(rows, config.H))


def _one_tile(config: AcceleratorConfig) -> AcceleratorConfig:
    return replace(config, L=config.d, post_lanes=0, vector_lanes=0, l2_word_bytes=0)


@dataclass(frozen=True)
class Section:
    """A part of the design that is timed by itself.

    Parameters
    ----------
    name
        In the report.
    top
        Instance that it consists of, without its number; empty for all of the component.
    without
        Instances whose pins are its borders, because registers are there.
    component
        Module and class of the component that has the instance.
    shrink
        Gives a configuration with the same paths in fewer copies.
    exists
        Whether a configuration has the section.
    """

    name: str
    top: str = ""
    without: tuple[str, ...] = ()
    component: tuple[str, str] = ("hw.core", "AcceleratorCore")
    shrink: Callable[[AcceleratorConfig], AcceleratorConfig] = lambda config: config
    exists: Callable[[AcceleratorConfig], bool] = lambda config: True


def _one_lane(config: AcceleratorConfig) -> AcceleratorConfig:
    return replace(config, variant="ews", d=1, L=1, post_lanes=0, vector_lanes=0, l2_word_bytes=0)


def _masked(config: AcceleratorConfig) -> bool:
    return config.features.mask and config.mask_bits > 0


def _coded(config: AcceleratorConfig) -> bool:
    return config.features.codebook


def _full(config: AcceleratorConfig) -> bool:
    return config.full_vector_unit


_BORDERS = ("scaler", "operand_product", "lookup_table")


def _unit(name: str, top: str) -> Section:
    # The lanes of requantiser and vector unit, and its table, are sections of their own.
    return Section(name, top, _BORDERS, component=("hw.accelerator", "Accelerator"))


_VECTOR_UNIT = "hw.postprocess.vector_unit", "VectorUnit"

#: The blocks of the core, then the units around it.
SECTIONS = (
    Section("unpackers and weight loader", "weight_loader", ("decoder",)),
    Section("mask decoder", "mask_decoder", exists=_masked),
    Section("LZC, selection, signs", "decoder", ("crf", "mask_decoder"), exists=_coded),
    Section("CRF", "crf", exists=_coded),
    Section("loop controller", "control"),
    Section("ARF, weight loader, loop controller", "", ("tile", "decoder"), shrink=_one_tile),
    Section("WRF, MRF, multipliers, demux", "row"),
    Section(
        "demux to first tree register",
        "tile",
        ("wrf", "prf", "multiplier"),
        shrink=_first_tree_rows,
        exists=lambda config: config.features.sparse and config.product_register,
    ),
    Section(
        "multipliers to first tree register",
        "tile",
        ("wrf", "prf"),
        shrink=_first_tree_rows,
        exists=lambda config: not config.product_register,
    ),
    Section("adder tree", "tree"),
    Section(
        "last tree levels, PRF",
        "tile",
        ("row",),
        shrink=_one_lane,
        exists=lambda config: not config.tree_registers or config.tree_levels % config.tree_register_levels > 0,
    ),
    Section("PRF, accumulators, output", "", ("row", "tree", "weight_loader", "control", "arf"), shrink=_one_tile),
    *(_unit(block, instance) for instance, block in UNITS.items()),
    Section("requantiser lane", "scaler", component=("hw.postprocess.ofmap_storer", "OfmapStorer")),
    Section("vector unit lane", "scaler", component=_VECTOR_UNIT),
    Section("vector unit product", "operand_product", component=_VECTOR_UNIT, exists=_full),
    Section("vector unit table", "lookup_table", component=_VECTOR_UNIT, exists=_full),
    Section("counters", "", ("core", *UNITS), component=("hw.accelerator", "Accelerator")),
)


@dataclass(frozen=True)
class Delay:
    """The longest path of a section.

    Attributes
    ----------
    delay
        ABC's estimate in the library's time unit, ps for most; 0.0 without gates.
    area
        Of the section's netlist, in the library's unit.
    path
        Where it begins and ends, as ABC names it.
    """

    delay: float
    area: float
    path: str


def _stem(instance: str) -> str:
    return re.sub(r"(_\d+|\$\d+)+$", "", instance.removeprefix("\\"))


def _section_text(modules: Mapping[str, RtlilModule], top: str, without: Sequence[str]) -> str:
    """RTLIL of ``top`` as module ``design``, with all below it; instances in ``without`` are black boxes."""
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
            if _stem(instance) in without or memory_bits(modules[kind]):
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


def _abc(
    text: str,
    commands: Sequence[str],
    library: Library,
    clock: float,
    load: float,
    cache: Path,
    adders: str = "techmap",
) -> Delay:
    from hw.yosys import run_yosys, yosys_version
    from synth.cache import keep, kept

    files = {name: (_FOLDER / name).read_text() for name in ("register_file.v", "column.v")}
    liberty = " ".join(f"-liberty {i}.lib" for i in range(len(library.texts)))
    dont_use = " ".join(f"-dont_use {cell.name}" for cell in library.cells.values() if cell.dont_use)
    commands = [
        *commands,
        adders,
        "opt -full",
        "simplemap",  # multiplexers that opt has made
        f"dfflibmap {liberty} {dont_use}",
        f"abc {liberty} {dont_use} -constr limits -D {clock * _LOGIC:.0f}",
        "opt_clean",
        "stat " + liberty,
    ]
    files |= {"design.il": text, "limits": f"set_driving_cell {_buffer(library)}\nset_load {load:.4f} [all_outputs]\n"}
    key = hashlib.sha256(json.dumps([yosys_version(), library.sha256, commands, files]).encode()).hexdigest()
    path = cache / f"{key}.timing.json"
    known = kept(path)
    if known is not None:
        return Delay(**json.loads(known))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, content in files.items():
            (folder / file).write_text(content)
        for i, content in enumerate(library.texts):
            (folder / f"{i}.lib").write_text(content)
        log = run_yosys(commands, folder)
    # One result for each clock domain and pass of ABC; the last word on each domain is the one behind its sizing.
    found = [float(value) for value in re.findall(r"ABC:.*Delay = *([\d.]+) ps", log)]
    ends = re.findall(r"ABC: Start-point = \w+ \((.*)\)\.\s+End-point = \w+ \((.*)\)\.", log)
    area = re.findall(r"Chip area for (?:top )?module.*: ([\d.]+)", log)
    result = Delay(found[-1] if found else 0.0, float(area[-1]) if area else 0.0, " to ".join(ends[-1]) if ends else "")
    keep(path, json.dumps(asdict(result)))
    return result


_READ = ("read_rtlil design.il", "hierarchy -top design", "delete t:$meminit t:$meminit_v2", "setattr -unset init w:*")
_MAP_FILES = ("proc", "opt_expr", "opt_clean", "memory_collect", "techmap -map register_file.v")
#: Kogge-Stone adders where Yosys' own, Brent-Kung, are too slow.
_FAST_ADDERS = "techmap -map +/techmap.v -map +/choices/kogge-stone.v"
_OPTIMISE = ("flatten", "opt -full", "wreduce", "opt_clean", "booth", "alumacc", "opt -full")


def _flat(text: str, library: Library, clock: float, cache: Path) -> Delay:
    columns = ("read_verilog -icells column.v", "memory_map", "hierarchy -top design", "proc")
    load = 4 * _femtofarads(library)
    commands = [*_READ, *_MAP_FILES, *columns, *_OPTIMISE]
    small = _abc(text, commands, library, clock, load, cache)
    if small.delay <= clock * _LOGIC:
        return small
    fast = _abc(text, commands, library, clock, load, cache, _FAST_ADDERS)
    return min(small, fast, key=lambda found: found.delay)


def _register_file(text: str, size: int, width: int, ports: int, library: Library, clock: float, cache: Path) -> Delay:
    """A large register file: the decoders, loaded by one gate of each column, and then one column of its bits."""
    load = _femtofarads(library)
    decoders = _abc(text, [*_READ, *_MAP_FILES, "memory_map", *_OPTIMISE], library, clock, width * load, cache)
    commands = [
        "read_verilog -icells column.v",
        f"chparam -set SIZE {size} -set PORTS {ports} register_file_column",
        "hierarchy -top register_file_column",
        "proc",
        "opt -full",
    ]
    column = _abc("", commands, library, clock, 4 * load, cache)
    return Delay(decoders.delay + column.delay, decoders.area + width * column.area, f"{decoders.path}; {column.path}")


_EMITTING = Lock()


@lru_cache(4)
def _modules(config: AcceleratorConfig, cache: Path, module: str, component: str) -> dict[str, RtlilModule]:
    from hw.rtlil import parse_modules
    from synth.report import component_rtlil

    return parse_modules(component_rtlil(config, cache, module, component))


def _delay(section: Section, config: AcceleratorConfig, library: Library, clock: float, cache: Path) -> Delay:
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
    text = _section_text(modules, top, section.without)
    if section.top == "crf":
        width = config.d * config.element_bits
        return _register_file(text, config.k, width, config.tiles, library, clock, cache)
    if section.top == "lookup_table":
        return _register_file(text, TABLE_BYTES, 8, config.vector_unit_lanes, library, clock, cache)
    return _flat(text, library, clock, cache)


def delays(
    config: AcceleratorConfig,
    library: Library,
    clock: float = CLOCK,
    sections: Sequence[Section] = SECTIONS,
    workers: int = 2,
    cache: Path = CACHE,
    progress: Callable[[int, int], None] = lambda done, total: None,
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

    Raises
    ------
    hw.yosys.YosysError
        Yosys refuses a section.
    synth.liberty.LibraryError
        The library has no buffer.
    """
    wanted = [section for section in sections if section.exists(config)]
    found: dict[str, Delay] = {}
    with ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(_delay, section, config, library, clock, cache): section.name for section in wanted}
        try:
            for future in as_completed(futures):
                found[futures[future]] = future.result()
                progress(len(found), len(futures))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {section.name: found[section.name] for section in wanted}


def markdown(results: Mapping[str, Mapping[str, Delay]], library: Library, clock: float) -> Iterator[str]:
    """Delays by section and instance, line by line; those beyond the clock cycle in bold."""
    from hw.yosys import yosys_version
    from synth.report import table

    names = [section.name for section in SECTIONS if any(section.name in found for found in results.values())]
    real = library.area_unit == "um2"
    unit = "ps" if real else "tau"

    def cell(delay: float) -> str:
        return f"**{delay:,.0f}**" if real and delay > clock else f"{delay:,.0f}"

    rows = [[name, *(cell(r[name].delay) if name in r else "" for r in results.values())] for name in names]
    rows.append(["longest", *(cell(max(x.delay for x in found.values())) for found in results.values())])
    if real:
        rows.append([f"clock of {1e6 / clock:,.0f} MHz", *(f"{clock:,.0f}" for _ in results)])
    yield f"# Delays, library {library.name}, Yosys {yosys_version()}"
    yield ""
    yield table([f"section, {unit}", *results], rows)
    yield ""
    yield (
        f"ABC's estimates, sized for {clock * _LOGIC:,.0f} {unit} of a clock of {clock:,.0f} {unit}; adders as gates, "
        "nets buffered. Flip-flops and wires are not included."
    )


def write(
    results: Mapping[str, Mapping[str, Delay]],
    configs: Mapping[str, AcceleratorConfig],
    library: Library,
    clock: float,
    folder: Path,
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
        "timing.json": json.dumps(described, indent=1) + "\n",
        "timing.md": "\n".join(markdown(results, library, clock)) + "\n",
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


@interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, or 2 after one line on stderr."""
    parser = LibraryParser("synth.timing", (__doc__ or "").partition("\n")[0])
    parser.add_argument("--preset", metavar="NAME", action="append", help=f"default: {', '.join(PRESETS)}")
    add_set_option(parser)
    parser.add_argument("--section", metavar="NAME", action="append", help="time this section alone; may be repeated")
    parser.add_argument("--clock", metavar="PS", type=float, default=CLOCK, help=f"clock cycle (default: {CLOCK:g})")
    options = parser.parse_args(arguments)

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from hw.yosys import YosysError
    from synth.liberty import LibraryError

    try:
        if not 0 < options.clock < 1e6:
            parser.error(f"--clock must be above 0 and below 1000000, not {options.clock:g}")
        known = {section.name: section for section in SECTIONS}
        for name in options.section or ():
            if name not in known:
                parser.error(f"unknown section {name!r}; the sections are {', '.join(known)}")
        sections = [known[name] for name in options.section or known]
        configs = {name: preset(name).override(options.set) for name in options.preset or PRESETS}
        library = parser.library(options)
        folder = writable_folder(options.folder)
        console = Console(stderr=True)
        results = {}
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console) as progress:
            for name, config in configs.items():
                task = progress.add_task(name, total=None)

                def step(done: int, total: int, task: Any = task) -> None:
                    progress.update(task, completed=done, total=total)

                results[name] = delays(config, library, options.clock, sections, progress=step)
        paths = write(results, configs, library, options.clock, folder)
    except (ConfigError, LibraryError, YosysError) as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"cannot write: {error}")
    print(paths[1].read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
