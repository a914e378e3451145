"""A network that runs in steps, in integers: layers, operations and constants; its container; its reference."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sw.format.container import Container, read_container, write_container
from sw.format.layer import CompressedLayer, Requantisation
from sw.golden import GoldenError, layer_sums, output_size, requantise
from sw.host.operations import Array, Kind, StepError, check_steps, run_steps

__all__ = [
    "SteppedNetwork",
    "check_scale",
    "decode_constants",
    "encode_constants",
    "is_stepped",
    "product_requantisation",
    "read_stepped",
    "stepped_metadata",
    "write_stepped",
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
    StepError
        It is something else. The message names the constant.
    """
    if not isinstance(value, dict):
        raise StepError(f"constants must be an object, not {type(value).__name__}")
    found: dict[str, Array] = {}
    for name, entry in value.items():
        if not isinstance(entry, dict) or sorted(entry) != ["data", "dtype", "shape"]:
            raise StepError(f"constant {name!r}: must be an object of dtype, shape and data")
        if entry["dtype"] not in list(_DTYPES):
            raise StepError(f"constant {name!r}: dtype must be one of {', '.join(_DTYPES)}, not {entry['dtype']!r}")
        shape = entry["shape"]
        if not isinstance(shape, list) or any(type(x) is not int or x < 1 for x in shape):
            raise StepError(f"constant {name!r}: shape must be positive integers, not {shape!r}")
        try:
            data = base64.b64decode(entry["data"], validate=True)
        except (TypeError, ValueError) as error:
            raise StepError(f"constant {name!r}: data must be base64: {error}") from None
        dtype = np.dtype(_DTYPES[entry["dtype"]])
        if len(data) != prod(shape) * dtype.itemsize:
            raise StepError(f"constant {name!r}: data must be {prod(shape) * dtype.itemsize} bytes, not {len(data)}")
        found[name] = np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="))
    return found


def check_scale(value: object) -> float:
    """The scale of an input.

    Raises
    ------
    StepError
        It is not a positive number that float32 holds.
    """
    limits = np.finfo(np.float32)
    if type(value) not in (int, float) or not float(limits.tiny) <= value <= float(limits.max):  # type: ignore[operator]
        raise StepError(f"input_scale must be a number in {limits.tiny}..{limits.max}, not {value!r}")
    return float(value)  # type: ignore[arg-type]


def product_requantisation(op: Mapping[str, Any], K: int) -> Requantisation | None:
    """Of the K rows of a ``matmul``; None if its result is int32."""
    if "shift" not in op:
        return None
    return Requantisation(
        np.zeros(K, np.int32), np.full(K, op["multiplier"], np.int32), np.full(K, op["shift"], np.uint8)
    )


@dataclass(frozen=True)
class SteppedNetwork:
    """A network in integers that the accelerator and the host compute in turn.

    Parameters
    ----------
    layers
        With requantisation, by name.
    operations
        In order, as :mod:`sw.host.operations` says; JSON can hold them.
    constants
        Arrays that operations name.
    input_scale
        Of the int8 input.

    Raises
    ------
    StepError
        The operations cannot run on the layers and constants.
    """

    layers: dict[str, CompressedLayer]
    operations: list[dict[str, Any]]
    constants: dict[str, Array]
    input_scale: float

    def __post_init__(self) -> None:
        check_scale(self.input_scale)
        assert len(self.kinds) == len(self.operations)

    @cached_property
    def kinds(self) -> list[Kind]:
        """Of every operation's result."""
        return check_steps(self.operations, self.constants, self._kind)

    def _kind(self, number: int, op: Mapping[str, Any], sources: Sequence[Kind]) -> Kind:
        if op["op"] == "matmul":
            a, b = sources
            return Kind("int8" if "shift" in op else "int32", (a.shape[0], b.shape[1], a.shape[2]))
        (source,) = sources
        layer = self.layers.get(op["layer"])
        if layer is None:
            raise StepError(f"layer must be the name of a layer of the file, not {op['layer']!r}")
        where, wide = f"layer {layer.name!r}", op["op"] == "logits"
        if layer.requantisation is None:
            raise StepError(f"{where} must have a requantisation")
        if wide and (
            len(layer.scale) > 1 or (layer.requantisation.multiplier != 1).any() or layer.requantisation.shift.any()
        ):
            raise StepError(f"{where} must have one scale, multipliers of 1 and shifts of 0")
        axes = 2 if layer.kind == "linear" else 3
        channels = layer.shape[1] * layer.groups
        if len(source.shape) != axes or source.shape[0] != channels:
            wanted = f"[{channels} x T]" if axes == 2 else f"[{channels} x rows x columns]"
            raise StepError(f"{where} must read int8 {wanted}, not {source}")
        dtype = "int32" if wide else "int8"
        if axes == 2:
            return Kind(dtype, (layer.shape[0], source.shape[1]))
        try:
            return Kind(dtype, (layer.shape[0], *output_size(layer, *source.shape[1:])))
        except GoldenError as error:
            raise StepError(str(error)) from None

    def quantise(self, images: ArrayLike) -> list[NDArray[np.int8]]:
        """Normalised float images ``[batch, C, rows, columns]`` as int8 inputs: rounded, halves to even."""
        integers = np.rint(np.asarray(images, np.float32) / np.float32(self.input_scale))
        return list(integers.clip(-128, 127).astype(np.int8))

    def run(self, images: Sequence[NDArray[np.int8]]) -> list[Array]:
        """The result for each image: layers by :func:`sw.golden.layer_sums` and :func:`sw.golden.requantise`.

        Parameters
        ----------
        images
            int8 ``[C, rows, columns]``.

        Raises
        ------
        StepError
            An image has another shape or dtype.
        """
        return run_steps(
            self.operations, self.constants, images, lambda _, op, inputs: [self._compute(op, *x) for x in inputs]
        )

    def _compute(self, op: Mapping[str, Any], values: Array, other: Array | None = None) -> Array:
        sums: Array
        if other is not None:
            sums = np.matmul(other.astype(np.int32), values.astype(np.int32))
            given = product_requantisation(op, sums.shape[1])
            return sums if given is None else np.stack([requantise(head[:, None], given)[:, 0] for head in sums])
        layer = self.layers[op["layer"]]
        sums = layer_sums(layer, values.reshape(len(values), -1, values.shape[-1]))
        assert layer.requantisation is not None
        if op["op"] == "logits":
            sums = sums + layer.requantisation.bias[:, None, None]
        else:
            sums = requantise(sums, layer.requantisation)
        return sums[:, 0] if values.ndim == 2 else sums


def stepped_metadata(network: SteppedNetwork) -> dict[str, Any]:
    """What a network's container has beside its layers."""
    return {
        "steps": network.operations,
        "constants": encode_constants(network.constants),
        "input_scale": network.input_scale,
    }


def write_stepped(path: str | os.PathLike[str], network: SteppedNetwork) -> None:
    """Write a network into one container; operations and constants go into its metadata.

    Raises
    ------
    sw.format.container.ContainerError, OSError
        As :func:`sw.format.container.write_container`.
    """
    write_container(path, list(network.layers.values()), metadata=stepped_metadata(network))


def is_stepped(container: Container) -> bool:
    """Whether a container holds a network that runs in steps."""
    return "steps" in container.metadata


def read_stepped(path: str | os.PathLike[str]) -> SteppedNetwork:
    """The network of a container that :func:`write_stepped` wrote.

    Raises
    ------
    sw.format.container.ContainerError
        The file is damaged.
    StepError
        It holds no such network, or one whose operations cannot run.
    """
    container = read_container(path)
    where = f"container {os.fspath(path)!r}"
    for name in ("steps", "constants", "input_scale"):
        if name not in container.metadata:
            raise StepError(f"{where} must hold a network in steps, but {name!r} is missing")
    try:
        return SteppedNetwork(
            {layer.name: layer for layer in container.layers},
            container.metadata["steps"],
            decode_constants(container.metadata["constants"]),
            check_scale(container.metadata["input_scale"]),
        )
    except StepError as error:
        raise StepError(f"{where}: {error}") from None
