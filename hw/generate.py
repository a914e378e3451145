"""``python -m hw.generate``: Verilog and a manifest of one instance of the accelerator."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hw.command_line import Parser, add_set_option, interruptible, new_folder, path_argument, temporary_path
from hw.config import PRESETS, AcceleratorConfig, ConfigError, preset
from hw.verilog import KEYWORDS

if TYPE_CHECKING:
    from amaranth.lib import wiring

__all__ = [
    "TOP",
    "UNITS",
    "Generated",
    "check_files_name",
    "check_period",
    "check_top",
    "check_unit",
    "generate",
    "generate_into",
    "instance_name",
    "main",
    "source_hash",
    "to_rtlil",
    "to_verilog",
    "write",
]

#: Characters of a file's name before its ending; file systems take 255 bytes with all that is added.
_NAME_LIMIT = 200

#: What can be generated; also the name of the top module.
UNITS = ("core", "accelerator")

#: Name of the core's module, and the first part of the names of all below it.
TOP = UNITS[0]


@dataclass(frozen=True)
class Generated:
    """One instance of the accelerator as text.

    Attributes
    ----------
    name
        What the files are called.
    verilog, rtlil
        The design, with equal modules merged. The top module is called after the unit.
    manifest
        JSON-compatible description: configuration, derived values, ports, tool versions, hashes; of the core also its
        streams and the layout of a command, of the accelerator its registers.
    kit
        By their endings, the other files that belong to it: lint waivers (``.vlt``), constraints (``.sdc``), a FuseSoC
        core (``.core``); of the accelerator a C header of the registers (``.h``), a driver, an example and an
        IP-XACT component (``.xml``).
    """

    name: str
    verilog: str
    rtlil: str
    manifest: dict[str, Any]
    kit: dict[str, str]


def to_rtlil(component: wiring.Component, top: str = TOP) -> str:
    """RTLIL of a component, with equal modules merged."""
    from hw.emission import Emission
    from hw.rtlil import merge_equal_modules

    return merge_equal_modules(Emission(top).emit(component, top))


def to_verilog(rtlil_text: str) -> str:
    """Verilog of an RTLIL text, for every language mode from Verilog-2005 on. Equal texts give equal bytes.

    Raises
    ------
    hw.yosys.YosysError
        Yosys refuses the text.
    hw.verilog.VerilogError
        Yosys writes Verilog of another kind.
    """
    from hw.verilog import run_at_time_zero
    from hw.yosys import run_yosys

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "design.il").write_text(rtlil_text)
        # Without -nomux every process would come out as a net of multiplexers.
        commands = ["read_rtlil design.il", "proc -nomux -norom", "memory_collect", "write_verilog -noattr design.v"]
        run_yosys(commands, Path(folder))
        return run_at_time_zero((Path(folder) / "design.v").read_text())


def _shape(shape: Any) -> dict[str, Any]:
    """Width of a shape, and the fields with their bit offsets where it has any."""
    from amaranth.hdl import Shape
    from amaranth.lib import data, enum

    described: dict[str, Any] = {"width": Shape.cast(shape).width}
    if isinstance(shape, type) and issubclass(shape, data.Struct):
        shape = data.Layout.cast(shape)
    if isinstance(shape, data.ArrayLayout):
        described["elements"] = shape.length
        described["element"] = _shape(shape.elem_shape)
    elif isinstance(shape, data.Layout):
        described["fields"] = {str(name): {"offset": field.offset, **_shape(field.shape)} for name, field in shape}
    elif isinstance(shape, type) and issubclass(shape, enum.Enum):
        described["values"] = {member.name: int(member.value) for member in shape}
    elif Shape.cast(shape).signed:
        described["signed"] = True
    return described


def _ports(component: wiring.Component) -> Iterator[dict[str, Any]]:
    from amaranth.lib import wiring

    for name in ("clk", "rst"):
        yield {"name": name, "direction": "in", "width": 1}
    for path, member, _ in component.signature.flatten(component):
        direction = "in" if member.flow == wiring.In else "out"
        yield {"name": "__".join(map(str, path)), "direction": direction, **_shape(member.shape)}


def _streams(component: wiring.Component) -> dict[str, Any]:
    from amaranth.lib import stream, wiring

    streams = {}
    for name, member in component.signature.members.items():
        if member.is_signature and isinstance(member.signature, stream.Signature):
            direction = "in" if member.flow == wiring.In else "out"
            streams[name] = {"direction": direction, "payload": _shape(member.signature.members["payload"].shape)}
    return streams


def _derived(config: AcceleratorConfig) -> dict[str, Any]:
    derived = {}
    for name, value in vars(AcceleratorConfig).items():
        if isinstance(value, property):
            result = getattr(config, name)
            derived[name] = dataclasses.asdict(result) if dataclasses.is_dataclass(result) else result
    return derived


def check_top(name: str) -> None:
    """Check that a name can be that of a module in every language that reads Verilog.

    Raises
    ------
    ConfigError
        It is no plain identifier, or a keyword.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", name):
        raise ConfigError(f"name must be a letter and at most 63 letters, digits and underscores, not {name!r}")
    if name in KEYWORDS:
        raise ConfigError(f"name must not be a keyword of SystemVerilog, as {name!r} is")


def check_files_name(name: str) -> None:
    """Check that files can be called so, endings and all, on every usual file system.

    Raises
    ------
    ConfigError
        It is too long.
    """
    if len(name) > _NAME_LIMIT:
        most = f"at most {_NAME_LIMIT} letters, not {len(name)}"
        raise ConfigError(f"name of the files must have {most}, as {name}: give one (--name)")


def check_unit(folder: Path, name: str, unit: str) -> None:
    """Check that no files of another unit have the name in a folder: some would be replaced, and others left.

    Raises
    ------
    ConfigError
        The manifest there says that they are of another one.
    """
    try:
        manifest = json.loads((folder / f"{name}.json").read_bytes())
    except (OSError, ValueError):
        return
    found = manifest.get("unit") if isinstance(manifest, dict) else None
    if found != unit and found in UNITS:
        raise ConfigError(
            f"name of the files must be another than {name!r} in {str(folder)!r}, where those of the unit {found} have"
            " it: give one (--name), or another folder"
        )


def check_period(period: float) -> None:
    """Check a clock's period.

    Raises
    ------
    ConfigError
        It is no number, not positive, or not finite.
    """
    if not isinstance(period, Real) or isinstance(period, bool):
        raise ConfigError(f"period must be a positive number of nanoseconds, not {period!r}")
    if not 0 < period < float("inf"):
        raise ConfigError(f"period must be a positive number of nanoseconds, not {period:g}")


def source_hash() -> str:
    """SHA-256 of the names and contents of all Python files of ``hw``."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py"), key=lambda path: path.relative_to(folder).as_posix()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def generate(
    config: AcceleratorConfig, name: str, unit: str = TOP, top: str | None = None, period: float = 2.0
) -> Generated:
    """Verilog, RTLIL and manifest of one instance. Equal arguments give equal bytes.

    Parameters
    ----------
    config
        What to build.
    name
        What to call it, in the manifest and as a file.
    unit
        One of :data:`UNITS`: the core with streams for ports, or the whole accelerator.
    top
        Name of the top module, with which the names of all modules below it begin: instances of different names can
        be in one design. By default that of the unit.
    period
        Of the clock in nanoseconds, for the constraints.

    Raises
    ------
    ConfigError
        The accelerator's ``word_width`` is no power of two, ``top`` is no identifier of Verilog, ``name`` is too long,
        there is no such unit, or the period is not positive.
    hw.yosys.YosysError
        Yosys refuses the design.
    """
    # The whole of the hardware; a command line that is refused or lists presets doesn't need it.
    from hw.accelerator import Accelerator
    from hw.bus import register_map
    from hw.bus.driver import driver_files
    from hw.core import AcceleratorCore
    from hw.ipxact import component as ipxact_component
    from hw.kit import constraints, fusesoc_core, memories, waiver_file
    from hw.yosys import yosys_version

    if unit not in UNITS:
        raise ConfigError(f"unit must be one of {', '.join(UNITS)}, not {unit!r}")
    top = unit if top is None else top
    check_top(top)
    check_files_name(name)
    check_period(period)
    component = AcceleratorCore(config) if unit == TOP else Accelerator(config)
    rtlil_text = to_rtlil(component, top)
    verilog = to_verilog(rtlil_text)
    streams = _streams(component)
    own = {"streams": streams, "command": streams["i_command"]["payload"]} if unit == TOP else register_map.manifest()
    ports = list(_ports(component))
    manifest = {
        "name": name,
        "top": top,
        "unit": unit,
        "configuration": config.to_dict(),
        "derived": _derived(config),
        "ports": ports,
        "memories": memories(rtlil_text, top),
        **own,
        "tools": {
            "python": platform.python_version(),
            "amaranth": metadata.version("amaranth"),
            "yosys": yosys_version(),
        },
        "sha256": {"verilog": hashlib.sha256(verilog.encode()).hexdigest(), "hw": source_hash()},
    }
    inputs, outputs = ([port["name"] for port in ports if port["direction"] == way] for way in ("in", "out"))
    kit = {
        ".vlt": waiver_file(name),
        ".sdc": constraints(name, [port for port in inputs if port != "clk"], outputs, period),
        ".core": fusesoc_core(name, top),
    }
    if unit != TOP:
        kit |= {".h": register_map.header(), **driver_files(name), ".xml": ipxact_component(name, top, ports)}
    return Generated(name, verilog, rtlil_text, manifest, kit)


def generate_into(
    folder: Path, config: AcceleratorConfig, name: str, unit: str = TOP, top: str | None = None, period: float = 2.0
) -> tuple[Generated, list[Path]]:
    """:func:`generate` and :func:`write`, and what both give.

    The folder is made before the minutes that a large design takes, and is gone again if they end in an error.

    Raises
    ------
    ConfigError, OSError
        As there.
    """
    check_unit(folder, name, unit)
    with new_folder(folder):
        generated = generate(config, name, unit, top, period)
        return generated, write(generated, folder)


def write(generated: Generated, folder: Path) -> list[Path]:
    """Write ``<name>.v``, ``<name>.json`` and the files of the kit; they appear complete or not at all.

    Raises
    ------
    ConfigError
        Files of another unit have the name there.
    OSError
        The folder cannot be made or written.
    """
    check_unit(folder, generated.name, generated.manifest["unit"])
    manifest = json.dumps(generated.manifest, indent=2) + "\n"
    contents = {".v": generated.verilog, ".json": manifest, **generated.kit}
    texts = {folder / f"{generated.name}{ending}": text for ending, text in contents.items()}
    folder.mkdir(parents=True, exist_ok=True)
    temporary = {path: temporary_path(path) for path in texts}
    try:
        for path, text in texts.items():
            temporary[path].write_text(text)
        for path in texts:
            temporary[path].replace(path)
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)
    return list(texts)


def _print_presets() -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for column in ("preset", "array", "codebook", "N:M", "multipliers", "bits/weight", "what it is"):
        table.add_column(column, no_wrap=column != "what it is")
    for name, config in PRESETS.items():
        features = config.features
        table.add_row(
            name,
            f"{config.H} x {config.L}",
            f"{config.k} x {config.d}" if features.codebook else "-",
            f"{config.N}:{config.M}" if features.mask else "-",
            str(config.H * config.tiles * config.multipliers),
            f"{sum(config.streams.values()) / config.L:.4g}",
            features.summary,
        )
    # A terminal's own width on a terminal; whole lines in a file or pipe.
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def instance_name(preset_name: str, config: AcceleratorConfig) -> str:
    """Name of a preset's instance: the preset's, and the fields that differ from it with their values."""
    given = PRESETS[preset_name].to_dict()
    return "-".join([preset_name, *(f"{x}-{value}" for x, value in config.to_dict().items() if value != given[x])])


def _summary(generated: Generated) -> str:
    """The figures that matter, in a line."""
    manifest = generated.manifest
    config = AcceleratorConfig(**manifest["configuration"])
    parts = [
        f"{config.H} x {config.L} {config.variant}",
        f"{config.H * config.tiles * config.multipliers} multipliers",
        f"{sum(config.streams.values()) / config.L:.4g} bits a weight read",
        f"{generated.verilog.count(chr(10) + 'module ') + generated.verilog.startswith('module ')} modules",
    ]
    if manifest["memories"]:
        bits = sum(memory["depth"] * memory["width"] * memory["instances"] for memory in manifest["memories"])
        count = sum(memory["instances"] for memory in manifest["memories"])
        parts.append(f"{count} static memories of {bits / 8192:,.1f} KiB in all")
    return f"{manifest['top']}: {', '.join(parts)}"


@interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, or 2 after one line on stderr."""
    parser = Parser(prog="python -m hw.generate", description=__doc__)
    parser.add_argument("--preset", metavar="NAME", help="a named configuration; see --list")
    add_set_option(parser)
    parser.add_argument(
        "--unit", choices=UNITS, default=TOP, help="the core, or the whole accelerator with AXI ports (%(default)s)"
    )
    parser.add_argument(
        "--name",
        help="of the top module and the files, and the beginning of all modules' names, so that several instances can"
        " be in one design; by default the module is called after the unit, the files after preset and overrides",
    )
    parser.add_argument(
        "--period", type=float, default=2.0, metavar="NS", help="of the clock, in NAME.sdc (%(default)s)"
    )
    parser.add_argument("-o", metavar="DIR", type=path_argument, dest="folder", help="where the files go")
    parser.add_argument("--list", action="store_true", help="list the presets and exit")
    options = parser.parse_args(arguments)

    from rich.console import Console

    from hw.verilog import VerilogError
    from hw.yosys import YosysError

    if options.list:
        _print_presets()
        return 0
    try:
        if options.preset is None:
            parser.error("--preset NAME and -o DIR are needed (or --list)")
        config = preset(options.preset).override(options.set)
        if options.name is not None:
            check_top(options.name)
        check_period(options.period)
        if options.folder is None:
            parser.error("-o DIR is needed")
        name = options.name or instance_name(options.preset, config)
        check_files_name(name)
        with Console(stderr=True).status(f"generating {name}"):
            generated, paths = generate_into(options.folder, config, name, options.unit, options.name, options.period)
    except (ConfigError, YosysError, VerilogError) as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"cannot write into {str(options.folder)!r}: {error.strerror or error}")
    print(*paths, _summary(generated), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
