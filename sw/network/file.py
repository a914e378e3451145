"""A network's container: its layers, and in the metadata its operations, constants and outputs.

A network for the accelerator alone has ``operations``, one in steps ``steps`` and ``constants``: lists and objects of
JSON, as :meth:`sw.network.operation.Operation.to_dict` gives them. Both have ``input_scale``. ``outputs`` is there
where they are not just the result of the last operation: objects of ``value``, ``name`` and ``scale``.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from sw.format.container import Container, read_container, write_container
from sw.network.fields import NetworkError
from sw.network.network import Network, Output, check_outputs, check_scale, parse_operations, to_dicts
from sw.network.operation import Array, Operation

__all__ = [
    "decode_constants",
    "decode_outputs",
    "encode_constants",
    "encode_outputs",
    "network_metadata",
    "network_of",
    "read_network",
    "read_network_and_metadata",
    "write_network",
]

_DTYPES = {"int8": "i1", "int32": "<i4", "float64": "<f8"}


def encode_constants(constants: Mapping[str, Array]) -> dict[str, Any]:
    """Constants as plain JSON: dtype, shape, and the bytes (little-endian) in base64."""
    return {
        name: {
            "dtype": values.dtype.name,
            "shape": list(values.shape),
            "data": base64.b64encode(values.astype(_DTYPES[values.dtype.name]).tobytes()).decode(),
        }
        for name, values in constants.items()
    }


def decode_constants(value: object) -> dict[str, Array]:
    """The reverse of :func:`encode_constants`, for any JSON value.

    Raises
    ------
    NetworkError
        It is something else. The message names the constant.
    """
    if not isinstance(value, dict):
        raise NetworkError(f"constants must be an object, not {type(value).__name__}")
    found: dict[str, Array] = {}
    for name, entry in value.items():
        place = f"constant {name!r}"
        if not isinstance(entry, dict) or sorted(entry) != ["data", "dtype", "shape"]:
            raise NetworkError("must be an object of dtype, shape and data", place)
        if entry["dtype"] not in list(_DTYPES):
            raise NetworkError(f"dtype must be one of {', '.join(_DTYPES)}, not {entry['dtype']!r}", place)
        shape = entry["shape"]
        if not isinstance(shape, list) or any(type(x) is not int or x < 1 for x in shape):
            raise NetworkError(f"shape must be positive integers, not {shape!r}", place)
        try:
            data = base64.b64decode(entry["data"], validate=True)
        except (TypeError, ValueError) as error:
            raise NetworkError(f"data must be base64: {error}", place) from None
        dtype = np.dtype(_DTYPES[entry["dtype"]])
        if len(data) != prod(shape) * dtype.itemsize:
            raise NetworkError(f"data must be {prod(shape) * dtype.itemsize} bytes, not {len(data)}", place)
        found[name] = np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="))
    return found


def encode_outputs(operations: Sequence[Operation], outputs: Sequence[Output]) -> dict[str, Any]:
    """The ``outputs`` of a file's header; nothing where they are just the result of the last operation."""
    if outputs == check_outputs(operations, ()):
        return {}
    return {"outputs": [{"value": x.value, "name": x.name, "scale": x.scale} for x in outputs]}


def decode_outputs(value: object) -> tuple[Output, ...]:
    """The reverse of :func:`encode_outputs`, for any JSON value.

    Raises
    ------
    NetworkError
        It is something else.
    """
    if not isinstance(value, list) or not value:
        raise NetworkError(f"outputs must be a list and not empty, not {value!r}")
    for entry in value:
        if not isinstance(entry, dict) or sorted(entry) != ["name", "scale", "value"]:
            raise NetworkError(f"outputs must be objects of value, name and scale, not {entry!r}")
    return tuple(Output(**entry) for entry in value)


def network_metadata(network: Network) -> dict[str, Any]:
    """What a network's container has beside its layers."""
    constants = {"constants": encode_constants(network.constants)}
    return {
        ("steps" if network.in_steps else "operations"): to_dicts(network.operations),
        **(constants if network.in_steps or network.constants else {}),
        "input_scale": network.input_scale,
        **encode_outputs(network.operations, network.outputs),
    }


def write_network(path: str | os.PathLike[str], network: Network, *, metadata: Mapping[str, Any] | None = None) -> None:
    """Write a network into one container.

    Parameters
    ----------
    path
        Of the file.
    network
        The network.
    metadata
        What else the file is to say.

    Raises
    ------
    sw.format.container.ContainerError, OSError
        As :func:`sw.format.container.write_container`.
    """
    write_container(path, list(network.layers.values()), metadata=network_metadata(network) | dict(metadata or {}))


def network_of(container: Container) -> Network:
    """The network of a container, with what else its metadata say as ``about``.

    Raises
    ------
    NetworkError
        It holds layers, but no operations, or some that cannot run on them.
    """
    metadata = container.metadata
    own = ("steps", "operations", "constants", "input_scale", "outputs")
    steps = "steps" in metadata
    if not steps and "operations" not in metadata:
        raise NetworkError(
            "it must hold a network's operations, not layers alone: msvq calibrate and msvq finetune write them"
        )
    for name in ("input_scale", *(["constants"] if steps else [])):
        if name not in metadata:
            raise NetworkError(f"it must hold a network, but {name!r} is missing")
    return Network(
        {layer.name: layer for layer in container.layers},
        parse_operations(metadata["steps" if steps else "operations"]),
        check_scale(metadata["input_scale"]),
        decode_constants(metadata.get("constants", {})),
        decode_outputs(metadata["outputs"]) if "outputs" in metadata else (),
        {name: value for name, value in metadata.items() if name not in own},
    )


def read_network_and_metadata(path: str | os.PathLike[str]) -> tuple[Network, dict[str, Any]]:
    """The network of a container that :func:`write_network` wrote, and all that its metadata say.

    Raises
    ------
    sw.format.container.ContainerError
        The file is damaged.
    NetworkError
        It holds layers, but no operations, or some that cannot run on them. The message names the file.
    """
    container = read_container(path)
    try:
        return network_of(container), container.metadata
    except NetworkError as error:
        raise NetworkError(str(error), f"container {os.fspath(path)!r}") from None


def read_network(path: str | os.PathLike[str]) -> Network:
    """The network alone of :func:`read_network_and_metadata`, which raises."""
    return read_network_and_metadata(path)[0]
