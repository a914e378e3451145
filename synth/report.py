"""Area by block of the paper's figure."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from hw.command_line import worker_pool, writable_folder, write_text
from hw.config import AcceleratorConfig
from hw.generate import TOP, source_hash, to_rtlil
from hw.rtlil import RtlilModule, parse_modules
from hw.yosys import yosys_version
from sw.format.strict_json import json_text
from synth.cache import keep, kept
from synth.flow import Netlist, Synthesiser
from synth.liberty import Library
from synth.papers import values

__all__ = [
    "BLOCKS",
    "CACHE",
    "INSTANCES",
    "PAPER",
    "UNITS",
    "AreaReport",
    "BlockArea",
    "area",
    "change",
    "component_rtlil",
    "markdown",
    "memory_bits",
    "rtlil_texts",
    "table",
    "unit_area",
    "unit_areas",
    "write",
    "write_files",
]

#: Results by content; may be deleted at any time.
CACHE = Path("build/synth/cache")

#: Name of an instance, without its number -> block. What has no name here belongs to the block around it.
INSTANCES: Mapping[str, str] = {
    "crf": "CRF",
    "weight_loader": "weight loader",
    "encoder": "LZC",
    "wrf": "WRF",
    "mrf": "MRF",
    "multiplier": "multipliers",
    "demux": "demux",
    "tree": "adder trees",
    "prf": "PRF",
    "arf": "ARF",
    "control": "control",
}

#: Blocks of a report. ``weight loader`` holds unpackers, mask decoder and sign unit; ``other`` the psum accumulators.
BLOCKS = (*INSTANCES.values(), "other")

#: What stands around the array: instances of :class:`hw.accelerator.Accelerator`, and their names in reports.
UNITS: Mapping[str, str] = {
    "sequencer": "sequencer",
    "registers": "registers",
    "reader": "DMA reader",
    "writer": "DMA writer",
    "load_unit": "load unit",
    "store_unit": "store unit",
    "ifmap_loader": "ifmap loader",
    "activation_reader": "activation reader",
    "psum_buffer": "psum buffer",
    "ofmap_storer": "ofmap storer",
    "vector_unit": "vector unit",
    "l2": "L2",
    "l1_ifmap": "L1 ifmap",
}

#: Parts of a vector unit with all functions that reports show by themselves: instances, and their names.
VECTOR_PARTS: Mapping[str, str] = {
    "operand_product": "vector unit: products",
    "byte_rotator": "vector unit: rotator",
    "lookup_table": "vector unit: table",
}

# The memory of a hw.memory.sram.Sram, as its RTLIL has it; those of register files have other names.
_MEMORY = re.compile(r"  memory width (\d+) size (\d+) \\mem")

#: MVQ table 7: mm2 at 40 nm of the array with CRF, by variant and array size. The paper has one figure for C and CM.
PAPER: Mapping[str, Mapping[int, float]] = {
    variant: {int(size): area for size, area in values("table 7")[name].items()}
    for name, variants in {
        "WS": ("ws",),
        "EWS": ("ews",),
        "EWS-C/CM": ("ews-c", "ews-cm"),
        "EWS-CMS": ("ews-cms",),
    }.items()
    for variant in variants
}


@dataclass(frozen=True)
class BlockArea:
    """Area of one block, all its instances together."""

    #: In the library's unit; of all cells, and of flip-flops, latches and clock gates.
    area: float
    sequential: float
    #: Estimate for its slowest module (:class:`synth.flow.Netlist`), None without gates.
    delay: float | None


@dataclass(frozen=True)
class AreaReport:
    """Area of one instance of the accelerator."""

    configuration: Mapping[str, Any]
    library: str
    #: Of all areas: ``um2`` or ``NAND2``.
    unit: str
    #: Area of the library's NAND2.
    nand2: float
    #: By name, in the order of :data:`BLOCKS`; blocks that the variant doesn't have are left out.
    blocks: Mapping[str, BlockArea]
    #: What stands around the array (:func:`unit_areas`), if it was asked for: area of the logic, and bits of the static
    #: memories, by unit.
    units: Mapping[str, BlockArea] = field(default_factory=dict)
    memory_bits: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """Area of all blocks."""
        return sum(block.area for block in self.blocks.values())

    @property
    def without_crf(self) -> float:
        """Area of all blocks but the CRF."""
        return sum(block.area for name, block in self.blocks.items() if name != "CRF")

    @property
    def logic(self) -> float:
        """Area of all blocks and of what stands around the array."""
        return self.total + sum(unit.area for unit in self.units.values())

    @property
    def sequential_share(self) -> float:
        """Share of the area that is flip-flops, latches and clock gates."""
        return sum(block.sequential for block in self.blocks.values()) / self.total

    def to_dict(self) -> dict[str, Any]:
        """JSON-compatible form, with gate equivalents."""
        return {
            "configuration": dict(self.configuration),
            "total": self.total,
            "total_nand2": self.total / self.nand2,
            "without_crf": self.without_crf,
            "without_crf_nand2": self.without_crf / self.nand2,
            "sequential_share": self.sequential_share,
            "blocks": {
                name: {**asdict(block), "nand2": block.area / self.nand2} for name, block in self.blocks.items()
            },
            "units": {name: {**asdict(unit), "nand2": unit.area / self.nand2} for name, unit in self.units.items()},
            "memory_bits": dict(self.memory_bits),
        }


def _walk(
    modules: Mapping[str, RtlilModule], top: str, block: str, names: Mapping[str, str] = INSTANCES
) -> Iterator[tuple[str, str, int]]:
    """(module, block, count) of everything below ``top``; equal (module, block) may come more than once.

    An instance that has a name in ``names`` begins a block.
    """
    level = Counter({(top, block): 1})
    while level:
        following: Counter[tuple[str, str]] = Counter()
        for (name, block), count in level.items():
            yield name, block, count
            for _, kind, instance in modules[name].instances:
                if kind in modules:
                    stem = re.sub(r"(_\d+|\$\d+)+$", "", instance.removeprefix("\\"))
                    following[kind, names.get(stem, block)] += count
        level = following


def _blocks(
    modules: Mapping[str, RtlilModule],
    netlists: Mapping[str, Netlist],
    library: Library,
    top: str,
    block: str = "other",
    names: Mapping[str, str] = INSTANCES,
) -> dict[str, BlockArea]:
    areas: dict[str, float] = defaultdict(float)
    sequential: dict[str, float] = defaultdict(float)
    delays: dict[str, list[float]] = defaultdict(list)
    for name, owner, count in _walk(modules, top, block, names):
        if name.removeprefix("\\") not in netlists:
            continue
        netlist = netlists[name.removeprefix("\\")]
        for kind, number in netlist.cells.items():
            cell = library.cells[kind]
            areas[owner] += cell.area * number * count
            sequential[owner] += cell.area * number * count if cell.sequential or cell.clock_gate else 0.0
        if netlist.delay is not None:
            delays[owner].append(netlist.delay)
    return {
        name: BlockArea(areas[name], sequential[name], max(delays[name], default=None))
        for name in dict.fromkeys([*names.values(), block])
        if name in areas
    }


def memory_bits(module: RtlilModule) -> int:
    """Bits of a static memory (:class:`hw.memory.sram.Sram`), which is a macro and not gates; 0 of other modules."""
    found = [memory for line in module.body if (memory := _MEMORY.fullmatch(line))]
    return int(found[0][1]) * int(found[0][2]) if found else 0


def component_rtlil(config: AcceleratorConfig, cache: Path, module: str, component: str) -> str:
    """RTLIL of ``module.component(config)``, from the cache if it is there."""
    key = json.dumps([source_hash(), metadata.version("amaranth"), config.to_dict(), module, component])
    path = cache / f"{sha256(key.encode()).hexdigest()}.il"
    text = kept(path)
    if text is None:
        text = to_rtlil(getattr(import_module(module), component)(config))
        keep(path, text)
    return text


def _rtlil(config: AcceleratorConfig, cache: Path) -> str:
    return component_rtlil(config, cache, "hw.core", "AcceleratorCore")


def rtlil_texts(
    configs: Mapping[str, AcceleratorConfig], cache: Path = CACHE, progress: Callable[[str], None] = lambda name: None
) -> dict[str, str]:
    """RTLIL of several configurations, in two processes; ``progress`` gets the name of each when it is done."""
    with worker_pool(min(2, len(configs))) as pool:
        futures = {pool.submit(_rtlil, config, cache): name for name, config in configs.items()}
        texts = {}
        for future in as_completed(futures):
            texts[futures[future]] = future.result()
            progress(futures[future])
    return {name: texts[name] for name in configs}


def area(
    config: AcceleratorConfig,
    library: Library,
    storage: str = "flipflop",
    cache: Path = CACHE,
    rtlil: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    workers: int = 2,
) -> AreaReport:
    """Synthesise one configuration and report area by block.

    Parameters
    ----------
    config
        The instance.
    library
        :func:`synth.generic.generic`, :func:`synth.liberty.load` or :func:`synth.osu018.osu018`.
    storage
        One of :data:`synth.flow.STORAGES`.
    cache
        Folder of results by content.
    rtlil
        The design, if it is there already.
    progress
        Called with the numbers of finished and of all modules.
    workers
        Yosys processes at a time.

    Raises
    ------
    synth.liberty.LibraryError
        The library lacks a cell.
    hw.yosys.YosysError
        Yosys refuses the design.
    """
    text = _rtlil(config, cache) if rtlil is None else rtlil
    netlists = Synthesiser(library, cache, storage).netlists(text, workers, progress)
    blocks = _blocks(parse_modules(text), netlists, library, f"\\{TOP}")
    return AreaReport(config.to_dict(), library.name, library.area_unit, library.nand2.area, blocks)


def unit_areas(
    config: AcceleratorConfig,
    library: Library,
    storage: str = "flipflop",
    cache: Path = CACHE,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[dict[str, BlockArea], dict[str, int]]:
    """What stands around the array in :class:`hw.accelerator.Accelerator`, by the names of :data:`UNITS`.

    Returns
    -------
    tuple
        Area of the logic of each unit, ``counters`` being what is between them; and bits of the static memories of each
        unit that has any. The memories are macros and have no area here.

    Raises
    ------
    hw.config.ConfigError
        The configuration has no bus: its ``word_width`` is no power of two.
    """
    text = component_rtlil(config, cache, "hw.accelerator", "Accelerator")
    modules = parse_modules(text)
    top, names = f"\\{TOP}", {**UNITS, **VECTOR_PARTS, "core": "core"}
    bits: Counter[str] = Counter()
    wanted = set()
    for name, owner, count in _walk(modules, top, "counters", names):
        if owner == "core":
            continue
        if size := memory_bits(modules[name]):
            bits[owner] += size * count
        else:
            wanted.add(name)
    netlists = Synthesiser(library, cache, storage).netlists(text, progress=progress, only=wanted)
    # Modules that the core shares with a unit have a netlist too.
    blocks = _blocks(modules, netlists, library, top, "counters", names)
    return {name: block for name, block in blocks.items() if name != "core"}, dict(bits)


def unit_area(
    config: AcceleratorConfig,
    unit: str,
    library: Library,
    storage: str = "flipflop",
    cache: Path = CACHE,
    *,
    carry_save: bool = False,
) -> tuple[BlockArea, int]:
    """Area of one instance of a unit, what is below it included, and how often it occurs.

    Parameters
    ----------
    unit
        Name of an instance without its number: ``mask_decoder``.
    carry_save
        As of :class:`synth.flow.Synthesiser`.

    Raises
    ------
    ValueError
        The design has no such instance.
    """
    text = _rtlil(config, cache)
    modules = parse_modules(text)
    counts: Counter[str] = Counter()
    stems = set()
    for name, _, count in _walk(modules, f"\\{TOP}", "other"):
        for _, kind, instance in modules[name].instances:
            stem = re.sub(r"(_\d+|\$\d+)+$", "", instance.removeprefix("\\"))
            stems.add(stem)
            if stem == unit and kind in modules:
                counts[kind] += count
    if not counts:
        raise ValueError(f"no unit {unit!r} in {config.variant}; the units are {', '.join(sorted(stems))}")
    kind = next(iter(counts))
    below = {name for name, _, _ in _walk(modules, kind, "other")}
    netlists = Synthesiser(library, cache, storage, carry_save=carry_save).netlists(text, only=below)
    parts = _blocks(modules, netlists, library, kind).values()
    delays = [part.delay for part in parts if part.delay is not None]
    total = BlockArea(sum(p.area for p in parts), sum(p.sequential for p in parts), max(delays, default=None))
    return total, sum(counts.values())


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are aligned to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def change(value: float, base: float | None) -> str:
    """The difference to a base in per cent; nothing without a base."""
    return "" if base is None else f"{100 * (value / base - 1):+.1f} %"


def markdown(reports: Mapping[str, AreaReport], storage: str) -> str:
    """The reports as Markdown: totals beside the paper's table 7, then blocks. All reports are for one library."""
    any_report = next(iter(reports.values()))
    scale, unit = (1e6, "mm2") if any_report.unit == "um2" else (1e3, "kNAND2")
    base = _baselines(reports)
    narrow = any(report.configuration["weight_bits"] < 8 for report in reports.values())
    rows = []
    for name, report in reports.items():
        config = report.configuration
        ews = base.get((config["H"], config["L"], 8))
        same = base.get((config["H"], config["L"], config["weight_bits"])) if config["weight_bits"] < 8 else None
        variant, size = config["variant"], config["H"]
        # The paper's weights have 8 bits.
        of_paper = config["H"] == config["L"] and config["weight_bits"] == 8
        paper = PAPER.get(variant, {}).get(size) if of_paper else None
        paper_ews = PAPER["ews"].get(size)
        rows.append(
            [
                name,
                f"{report.total / scale:.3f}",
                f"{report.total / report.nand2 / 1e3:.0f}",
                f"{report.without_crf / scale:.3f}",
                f"{100 * report.sequential_share:.0f} %",
                change(report.total, None if ews is None else ews.total),
                change(report.without_crf, None if ews is None else ews.without_crf),
                *([change(report.total, None if same is None else same.total)] if narrow else []),
                "" if paper is None else f"{paper:.3f}",
                "" if paper is None else change(paper, paper_ews),
                # The paper's CRF is what C and CM have over EWS (derived).
                ""
                if paper is None or paper_ews is None or variant in ("ws", "ews")
                else change(paper - (PAPER["ews-cm"][size] - paper_ews), paper_ews),
            ]
        )
    header = [
        "preset",
        f"total, {unit}",
        "kNAND2",
        f"without CRF, {unit}",
        "sequential",
        "to EWS",
        "to EWS, without CRF",
        *(["to EWS of as many bits"] if narrow else []),
    ]
    header += ["paper, mm2 at 40 nm", "paper to EWS", "paper to EWS, without CRF (derived)"]
    names = [block for block in BLOCKS if any(block in report.blocks for report in reports.values())]
    block_rows = []
    for name, report in reports.items():
        values = [report.blocks[block].area if block in report.blocks else None for block in names]
        block_rows.append([name, *("" if value is None else f"{value / scale:.4f}" for value in values)])
    around = [
        f"Whole accelerators, {unit}; static memories are macros, and not included:",
        _whole_table(reports, scale),
    ]
    gained = _functions_table(reports, scale)
    if gained:
        around += [f"What the functions of a full vector unit add to a basic one, {unit}:", gained]
    return "\n\n".join(
        [
            f"# Area, library {any_report.library}, registers: {storage}, Yosys {yosys_version()}",
            table(header, rows),
            f"Blocks, {unit}:",
            table(["preset", *names], block_rows),
            *(around if any(report.units for report in reports.values()) else []),
            "Cells alone: no buffers, clock tree, scan chain or wiring. The paper's figures are of Synopsys DC at 40 "
            "nm; the depths of its ARF and PRF are not published. It states one figure for EWS-C and EWS-CM.",
            "",
        ]
    )


def _baselines(reports: Mapping[str, AreaReport]) -> dict[tuple[int, int, int], AreaReport]:
    """The dense arrays of raw weights, by rows, columns and bits of a weight."""
    described = ((report.configuration, report) for report in reports.values())
    return {(c["H"], c["L"], c["weight_bits"]): report for c, report in described if c["variant"] == "ews"}


def _whole_table(reports: Mapping[str, AreaReport], scale: float) -> str:
    """Blocks of the array, then what is around it, then the memories; of the reports that have all that."""
    whole = {name: report for name, report in reports.items() if report.units}
    blocks = [block for block in BLOCKS if any(block in report.blocks for report in whole.values())]
    units = list(dict.fromkeys(unit for report in whole.values() for unit in report.units))
    memories = list(dict.fromkeys(unit for report in whole.values() for unit in report.memory_bits))

    rows = [
        [name, *(f"{r.blocks[name].area / scale:.4f}" if name in r.blocks else "" for r in whole.values())]
        for name in blocks
    ]
    rows.append(["**array and decoder**", *(f"**{r.total / scale:.4f}**" for r in whole.values())])
    for name in units:
        rows.append([name, *(f"{r.units[name].area / scale:.4f}" if name in r.units else "" for r in whole.values())])
    rows.append(["**around the array**", *(f"**{(r.logic - r.total) / scale:.4f}**" for r in whole.values())])
    rows.append(["**all logic**", *(f"**{r.logic / scale:.4f}**" for r in whole.values())])
    base = {key: report.logic for key, report in _baselines(whole).items()}
    sizes = [(r.configuration["H"], r.configuration["L"]) for r in whole.values()]
    logic = [r.logic for r in whole.values()]
    rows.append(["to EWS", *(change(area, base.get((*size, 8))) for area, size in zip(logic, sizes, strict=True))])
    bits = [r.configuration["weight_bits"] for r in whole.values()]
    if min(bits, default=8) < 8:
        same = (base.get((*size, number)) if number < 8 else None for size, number in zip(sizes, bits, strict=True))
        rows.append(["to EWS of as many bits", *(change(area, other) for area, other in zip(logic, same, strict=True))])
    for name in memories:
        sized = (r.memory_bits.get(name, 0) / 8192 for r in whole.values())
        rows.append([f"memory of {name}, KiB", *(f"{size:,.1f}" for size in sized)])
    return table(["block", *whole], rows)


def _functions_table(reports: Mapping[str, AreaReport], scale: float) -> str:
    """Units of presets with all vector functions that differ from those of the same preset with the basic ones."""
    whole = {name: report for name, report in reports.items() if report.units}
    field = "vector_unit_functions"
    pairs = {
        name: (basic, full)
        for name, full in whole.items()
        for basic in whole.values()
        if full.configuration[field] == "full" and basic.configuration == {**full.configuration, field: "basic"}
    }
    if not pairs:
        return ""

    def cells(areas: Sequence[tuple[float, float]], mark: str = "") -> list[str]:
        sizes = [size for basic, full in areas for size in (basic, full, full - basic)]
        return [f"{mark}{size / scale:.4f}{mark}" for size in sizes]

    rows = []
    for unit in dict.fromkeys(unit for _, full in pairs.values() for unit in full.units):
        areas = [
            (basic.units[unit].area if unit in basic.units else 0.0, full.units[unit].area)
            for basic, full in pairs.values()
        ]
        if any(basic != full for basic, full in areas):
            rows.append([unit, *cells(areas)])
    logic = [(basic.logic, full.logic) for basic, full in pairs.values()]
    rows.append(["**all logic**", *cells(logic, "**")])
    return table(["unit", *(text for name in pairs for text in ("basic", name, "more"))], rows)


def write(reports: Mapping[str, AreaReport], library: Library, storage: str, folder: Path) -> list[Path]:
    """Write ``area.json`` and ``area.md`` into ``folder``.

    Raises
    ------
    OSError
        The folder cannot be written.
    """
    described = {
        "library": {
            "name": library.name,
            "sha256": library.sha256,
            "unit": library.area_unit,
            "nand2": {"cell": library.nand2.name, "area": library.nand2.area},
            "full_adder": library.full_adder.cell if library.full_adder else None,
            "clock_gate": library.clock_gate.cell if library.clock_gate else None,
        },
        "storage": storage,
        "tools": {"yosys": yosys_version(), "amaranth": metadata.version("amaranth")},
        "hw_sha256": source_hash(),
        "presets": {name: report.to_dict() for name, report in reports.items()},
    }
    writable_folder(folder)
    return write_files(folder, {"area.json": json_text(described), "area.md": markdown(reports, storage)})


def write_files(folder: Path, texts: Mapping[str, str]) -> list[Path]:
    """Write texts by the names of their files into ``folder``; gives their paths.

    Raises
    ------
    OSError
        The folder cannot be written.
    """
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]
