"""Instances as the points of a sweep, and what a network takes on each."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from hw.config import AcceleratorConfig, ConfigError, preset

if TYPE_CHECKING:
    from sw.perf.estimate import Network
    from sw.perf.timing import Latencies

__all__ = [
    "COLUMNS",
    "PRESET",
    "check_fields",
    "check_instances",
    "instance",
    "misfit",
    "network_columns",
    "point_fields",
    "sweep_points",
]

#: The axis whose values are presets.
PRESET = "preset"

#: Bytes read and written at each memory; ``l2_bytes`` is a field, and may be an axis.
_TRAFFIC = {"dram": "dram_bytes", "l2": "l2_traffic_bytes", "l1": "l1_bytes", "psum": "psum_bytes"}

#: What is known of a network on an instance.
COLUMNS = ("cycles", "utilisation", *_TRAFFIC.values(), "refused", "does_not_fit")


def sweep_points(sweeps: Sequence[str]) -> list[tuple[str, ...]]:
    """All combinations of ``FIELD=A,B,...``, each as assignments for :func:`instance`.

    ``FIELD:FIELD=A:B,C:D,...`` is one axis of fields that go together, such as ``N:M=2:4,4:16``; ``preset=A,B,...`` is
    an axis of presets.

    Raises
    ------
    ShapesError
        One has no value, a field or a value comes twice, or values are not as many as their fields.
    """
    from sw.perf.shapes import ShapesError

    axes: list[list[tuple[str, ...]]] = []
    seen: set[str] = set()
    for text in sweeps:
        name, equals, values = text.partition("=")
        names = name.split(":")
        if not equals or not all(names) or not all(values.split(",")):
            raise ShapesError(f"--sweep must be FIELD=A,B,..., not {text!r}")
        for field in names:
            if field in seen:
                raise ShapesError(f"--sweep has {field} twice; give all its values at once: {field}=A,B,...")
            seen.add(field)
        axis = []
        for value in values.split(","):
            parts = value.split(":") if len(names) > 1 else [value]
            if len(parts) != len(names) or not all(parts):
                raise ShapesError(f"--sweep {name}: {value!r} must be {len(names)} values with colons between them")
            point = tuple(f"{field}={part}" for field, part in zip(names, parts, strict=True))
            if point in axis:
                raise ShapesError(f"--sweep {name} has {value} twice; give it once")
            axis.append(point)
        axes.append(axis)
    return [tuple(itertools.chain(*point)) for point in itertools.product(*axes)]


def point_fields(point: Iterable[str]) -> dict[str, str]:
    """The values of a point by field."""
    return {name: value for name, _, value in (text.partition("=") for text in point)}


def check_fields(
    points: Sequence[Sequence[str]], others: Sequence[str] = (), sets: Sequence[str] = (), base: str | None = None
) -> None:
    """Check that an instance has the fields of all points, and that nothing else gives them.

    Parameters
    ----------
    points
        Of :func:`sweep_points`.
    others
        Names of axes beside the fields and ``preset``.
    sets
        Assignments that hold for all points (``--set``).
    base
        The preset that was named for all points (``--preset``), if one was.

    Raises
    ------
    hw.config.ConfigError
        One is unknown or has a value of another type, which no instance can have; ``sets`` or ``base`` gives one, too;
        or a point names a preset that there is not.
    """
    fields, given = AcceleratorConfig().to_dict(), point_fields(sets)
    for name, value in dict.fromkeys(pair for point in points for pair in point_fields(point).items()):
        if name == PRESET and base is not None:
            raise ConfigError(f"--sweep has {PRESET}, and there is --preset {base}, too; leave out one")
        if name in given:
            raise ConfigError(f"--sweep and --set both have {name}; leave out --set {name}={given[name]}")
        if name == PRESET:
            preset(value)
        elif name in fields:
            wanted = type(fields[name])
            if type(_value(value)) is not wanted:
                raise ConfigError(f"--sweep {name}: {name} must be {wanted.__name__}, not {value!r}")
        elif name not in others:
            allowed = [*fields, PRESET, *others]
            raise ConfigError(f"unknown field {name!r}; the fields are {', '.join(allowed)}")


def _value(text: str) -> Any:
    """A value as :meth:`hw.config.AcceleratorConfig.override` reads it."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def check_instances(base: str, sets: Sequence[str], points: Sequence[Sequence[str]]) -> None:
    """Check that one of the points can be an instance (:func:`instance`); the others are refused one by one.

    Raises
    ------
    hw.config.ConfigError
        None can; the message has the reason of the first.
    """
    first: ConfigError | None = None
    for point in points:
        try:
            instance(base, sets, point)
        except ConfigError as error:
            first = first or error
        else:
            return
    if first is not None:
        raise ConfigError(f"no point of the axes can be an instance; {', '.join(points[0])}: {first}")


def instance(base: str, sets: Sequence[str], point: Sequence[str]) -> AcceleratorConfig:
    """The instance of a point: its preset or ``base``, with ``sets`` (``--set``) and then its fields.

    Raises
    ------
    hw.config.ConfigError
        There cannot be one.
    """
    name = point_fields(point).get(PRESET, base)
    return preset(name).override([*sets, *(text for text in point if not text.startswith(f"{PRESET}="))])


def misfit(network: Network, config: AcceleratorConfig) -> str | None:
    """Why the compiler would refuse the network: no place in L2 or in DRAM, sums that overflow, a bus that AXI has not.

    The estimate is as if it did not. DRAM is counted without codebooks and gaps (:func:`sw.perf.mapping.least_bytes`),
    up to a tenth of it: of ``address_bits`` that just hold so much the compiler alone says that they are too few.
    """
    from sw.compiler.compile import check_instance
    from sw.compiler.graph import CompileError
    from sw.compiler.placement import place
    from sw.perf.mapping import least_bytes

    try:
        check_instance(config, network.graph)
        overflow = network.overflow(config.psum_width)
        if overflow is not None:
            return overflow
        mapped = network.mapped(config)
        # Of the network as the compiler folds it: an input of 3 channels takes several times its room without.
        place(config, mapped.graph, {})
        least = least_bytes(mapped)
    except CompileError as error:
        return str(error)
    if least > 1 << config.address_bits:
        wanted = f"address_bits must be at least {(least - 1).bit_length()}, not {config.address_bits}"
        return f"{wanted}: it takes {least} bytes of DRAM or more"
    return None


def network_columns(workload: Any, config: AcceleratorConfig, latencies: Latencies) -> dict[str, Any]:
    """:data:`COLUMNS` of a network on an instance; where it cannot run there, the reason alone."""
    from sw.compiler.graph import CompileError
    from sw.perf.estimate import estimate
    from sw.perf.report import layer_entries

    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    try:
        network = workload.network(config)
        entry = layer_entries(config, estimate(network, config, latencies))[-1]
    except CompileError as error:
        return row | {"refused": str(error)}
    moved = entry["bytes"]
    row |= {"cycles": entry["counters"]["cycles"], "utilisation": round(entry["utilisation"], 4)}
    row["does_not_fit"] = misfit(network, config)
    return row | {column: moved[f"{memory}_reads"] + moved[f"{memory}_writes"] for memory, column in _TRAFFIC.items()}
