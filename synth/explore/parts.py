"""What is computed for a point, part by part: area, cycles, energy, each known by the hash of its inputs.

Points share parts: instances that differ in the bus alone have one array, and those that differ in nothing but how
registers are kept take the same cycles. Below an area, modules are shared too (:mod:`synth.flow`).
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hw.config import AcceleratorConfig

if TYPE_CHECKING:
    from synth.liberty import Library

__all__ = ["KINDS", "ExploreError", "Part", "Settings", "compute", "core_config", "sources"]

_ROOT = Path(__file__).parents[2]

#: The sources on which each part depends, as patterns in the project's folder.
_SOURCES = {
    "area": ("hw/**/*.py", "synth/*.py", "synth/*.v"),
    "cycles": ("hw/**/*.py", "sw/**/*.py"),
    "energy": ("hw/**/*.py", "sw/**/*.py", "sw/**/*.cpp", "synth/*.py", "synth/*.v", "synth/power/*"),
}

#: What can be computed for a point.
KINDS = tuple(_SOURCES)

#: Fields that the array and its decoder do not have: of memories, of the bus, and of what is around the array.
_AROUND = (
    "address_bits", "l2_bytes", "l2_word_bytes", "l1_ifmap_bytes", "l1_psum_bytes", "post_lanes", "vector_lanes",
    "vector_unit_functions", "burst_words", "fifo_words",
)  # fmt: skip


class ExploreError(ValueError):
    """A sweep that cannot be made. The message names what is wrong."""


@dataclass(frozen=True)
class Settings:
    """What all points of a sweep share."""

    #: The library: its name, or paths of Liberty files.
    pdk: str | None
    liberty: tuple[str, ...]
    #: Of the library, so that a worker elsewhere takes the same one.
    library_sha256: str
    #: JSON of the shapes, or None for a container, whose path and hash are the next.
    network: str | None
    container: tuple[str, str] | None
    #: ``[C, rows, columns]``; None for the container's.
    image: tuple[int, int, int] | None
    #: Of the DRAM, in cycles.
    latency: int
    #: Options of the energy, as ``python -m synth.power`` has them.
    power: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """One thing to compute."""

    #: One of :data:`KINDS`.
    kind: str
    #: The instance.
    config: AcceleratorConfig
    #: How registers are kept (:data:`synth.libraries.STORAGES`); "" for cycles.
    storage: str

    def key(self, settings: Settings) -> str:
        """SHA-256 of all that the result depends on: inputs, sources, versions of the tools."""
        inputs: list[Any] = [self.kind, sources(self.kind), self.config.to_dict(), self.storage]
        if self.kind != "area":
            inputs += [settings.network, settings.container and settings.container[1], settings.image, settings.latency]
        if self.kind != "cycles":
            inputs.append(settings.library_sha256)
        if self.kind == "energy":
            inputs.append(settings.power)
        return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()


def core_config(config: AcceleratorConfig) -> AcceleratorConfig:
    """The instance with the same array and decoder, and everything around them as by default."""
    least = AcceleratorConfig()
    values = {name: getattr(least, name) for name in _AROUND}
    # The least that every array can have; they say nothing of the array.
    values |= {"l2_bytes": 1 << 30, "l1_ifmap_bytes": 1 << 24, "l1_psum_bytes": 1 << 24}
    return replace(config, **values)


@lru_cache
def sources(kind: str) -> str:
    """SHA-256 of the sources and the versions of the tools behind a part."""
    from hw.yosys import yosys_version

    versions = {name: metadata.version(name) for name in ("amaranth", "numpy")}
    digest = hashlib.sha256(json.dumps([versions, yosys_version() if kind != "cycles" else ""]).encode())
    paths = {path for pattern in _SOURCES[kind] for path in _ROOT.glob(pattern) if path.is_file()}
    for path in sorted(paths, key=lambda path: path.relative_to(_ROOT).as_posix()):
        if path.suffix in (".py", ".v", ".cpp"):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(_ROOT).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


@lru_cache
def _library(pdk: str | None, liberty: tuple[str, ...], sha256: str) -> Library:
    from argparse import Namespace

    from synth.libraries import LibraryParser

    library = LibraryParser.library(Namespace(pdk=pdk, lib=[Path(path) for path in liberty]))
    if library.sha256 != sha256:
        raise ExploreError(f"{platform.node()}: library {pdk or ', '.join(liberty)} is another one there")
    return library


@lru_cache
def _workload(network: str | None, container: tuple[str, str] | None, image: tuple[int, int, int] | None) -> Any:
    from sw.perf.shapes import Shapes, read_workload

    if network is not None:
        return Shapes(json.loads(network))
    assert container is not None
    path, sha256 = container
    if hashlib.sha256(Path(path).read_bytes()).hexdigest() != sha256:
        raise ExploreError(f"{platform.node()}: {path} is another file there")
    return read_workload(path, image)


def compute(part: Part, settings: Settings, expected: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
    """The result of a part, JSON-compatible.

    Parameters
    ----------
    expected
        Kind and :func:`sources` of the one who asks: another machine may have others.

    Raises
    ------
    ExploreError
        This machine has other sources, tools, or another library.
    """
    for kind, known in expected:
        if sources(kind) != known:
            raise ExploreError(f"worker {platform.node()} has other sources or tools than this machine")
    if part.kind == "cycles":
        from sw.perf.sweep import network_columns
        from sw.perf.timing import Latencies

        workload = _workload(settings.network, settings.container, settings.image)
        latencies = Latencies(read=settings.latency, write=settings.latency)
        return network_columns(workload, part.config, latencies)
    library = _library(settings.pdk, settings.liberty, settings.library_sha256)
    if part.kind == "area":
        from synth.report import area

        report = area(part.config, library, part.storage, workers=1)
        return {
            "area": report.total,
            "area_nand2": report.total / report.nand2,
            "area_unit": report.unit,
            "blocks": {name: block.area for name, block in report.blocks.items()},
        }
    return _energy(part, settings, library)


def _energy(part: Part, settings: Settings, library: Library) -> dict[str, Any]:
    from sim.networks.activations import photograph_path
    from sw.compress.methods import CompressError
    from synth.power.report import measure_instance
    from synth.power.sources import SourceError

    photograph = photograph_path()
    if hashlib.sha256(photograph.read_bytes()).hexdigest() != settings.power["photograph_sha256"]:
        raise ExploreError(f"{platform.node()}: {photograph} is another photograph there")
    options = {**settings.power, "photograph": photograph, "storage": part.storage, "network_energy": False}
    try:
        described = measure_instance(part.config, library, options)
    except (CompressError, SourceError) as error:
        return {"energy": None, "energy_refused": str(error)}
    return {"energy": described["per_mac"]}
