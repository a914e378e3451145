"""A network in integers on PyTorch's tensors and devices: :class:`sw.network.Network` with tensors in and out."""

from __future__ import annotations

import copy
import dataclasses
import os
from functools import cached_property
from typing import Any, TypeVar, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, fx, nn

from sw.compress.export.graph import export_network
from sw.compress.export.scales import fixed_point
from sw.compress.export.transformer import export_transformer
from sw.compress.methods import CompressError
from sw.compress.training.device import device_results, run_on_device
from sw.compress.training.quant import integers
from sw.network import Array, Network, NetworkError, network_metadata, write_network
from sw.network import read_network_and_metadata as read_file
from sw.network.fast import FastNetwork

__all__ = [
    "IntegerNetwork",
    "export_integers",
    "export_steps",
    "fixed_point",
    "integer_results",
    "network_metadata",
    "on_cpu",
    "quantise_images",
    "read_network",
    "read_network_and_metadata",
    "write_network",
]


_Model = TypeVar("_Model", bound=nn.Module)


def quantise_images(images: Tensor, scale: float) -> Tensor:
    """Normalised float images ``[batch, C, rows, columns]`` as an int8 input of this scale, on their device.

    Raises
    ------
    CompressError
        They are no floats, such as pixels, or NaN or infinite.
    """
    if not images.is_floating_point():
        raise CompressError(f"images must be normalised floats, not {str(images.dtype).removeprefix('torch.')}")
    if not images.isfinite().all():
        raise CompressError("images must be finite, not NaN or infinite")
    step = torch.tensor(scale, dtype=torch.float32, device=images.device)
    return integers(images.float(), step, -128, 127).to(torch.int8)


class IntegerNetwork(Network):
    """A network in integers that takes tensors, too, and gives tensors then."""

    @classmethod
    def of(cls, network: Network) -> IntegerNetwork:
        """The same network."""
        given = {field.name: getattr(network, field.name) for field in dataclasses.fields(network)}
        return cls(**given)

    @overload
    def quantise(self, images: Tensor) -> Tensor: ...

    @overload
    def quantise(self, images: ArrayLike) -> NDArray[np.int8]: ...

    def quantise(self, images: Tensor | ArrayLike) -> Tensor | NDArray[np.int8]:
        """:func:`quantise_images` by the input's scale; of an array, :meth:`sw.network.Network.quantise`."""
        if isinstance(images, Tensor):
            return quantise_images(images, self.input_scale)
        return super().quantise(images)

    @cached_property
    def _fast(self) -> FastNetwork:
        return FastNetwork(self)

    @overload
    def run(self, images: Tensor, *, golden: bool = True) -> Tensor: ...

    @overload
    def run(self, images: NDArray[np.int8]) -> Array: ...

    def run(self, images: Tensor | NDArray[np.int8], *, golden: bool = True) -> Tensor | Array:
        """The result for int8 images, such as logits, int32 ``[batch, classes]``.

        Parameters
        ----------
        images
            int8 ``[batch, C, rows, columns]``, a tensor on any device or an array.
        golden
            Compute it by the reference, :meth:`sw.network.Network.run`, on the CPU. Otherwise by exact operations on
            the device of the images (on a CPU :class:`sw.network.fast.FastNetwork`): the same integers, faster.

        Raises
        ------
        CompressError
            The images have another dtype or shape than the network takes.
        """
        try:
            if not isinstance(images, Tensor):
                return super().run(images)
            if golden:
                return torch.from_numpy(np.ascontiguousarray(super().run(images.cpu().numpy())))
            if images.device.type == "cpu":
                return torch.from_numpy(self._fast.run(images.numpy()))
            return run_on_device(self, images)
        except NetworkError as error:
            raise CompressError(str(error)) from None


def export_integers(
    graph: fx.GraphModule, image_shape: tuple[int, int, int], *, values: bool = False
) -> IntegerNetwork:
    """:func:`sw.compress.export.graph.export_network`, for tensors; from a copy on the CPU, if it is elsewhere."""
    return IntegerNetwork.of(export_network(on_cpu(graph), image_shape, values=values))


def export_steps(model: nn.Module, images: Tensor) -> IntegerNetwork:
    """:func:`sw.compress.export.transformer.export_transformer`, for tensors; from a copy on the CPU, as above."""
    return IntegerNetwork.of(export_transformer(on_cpu(model), images.cpu()))


def on_cpu(model: _Model) -> _Model:
    """The model, or its copy on the CPU.

    A step size is an exponential, whose last bit depends on the device, and a weight half-way between two integers
    follows it. What is exported must be what :mod:`sw.compress.training.comparison` computes again, on the CPU.
    """
    devices = {tensor.device.type for tensor in (*model.parameters(), *model.buffers())}
    return model if devices <= {"cpu"} else copy.deepcopy(model).cpu()


def integer_results(network: IntegerNetwork, images: Tensor) -> list[Tensor]:
    """All results of normalised float images, as the values that their integers stand for, float32.

    On a CPU by :class:`sw.network.fast.FastNetwork`, elsewhere by
    :func:`sw.compress.training.device.device_results`. Integers whose scale the network does not say stay as they are.

    Raises
    ------
    CompressError
        The images have another shape than the network takes.
    """
    integers = network.quantise(images)
    try:
        if images.device.type == "cpu":
            found = [torch.from_numpy(np.ascontiguousarray(each)) for each in network._fast.results(integers.numpy())]
        else:
            found = list(device_results(network, integers))
    except NetworkError as error:
        raise CompressError(str(error)) from None
    scales = [output.scale for output in network.outputs]
    return [values.float() * (1.0 if scale is None else scale) for values, scale in zip(found, scales, strict=True)]


def read_network_and_metadata(path: str | os.PathLike[str]) -> tuple[IntegerNetwork, dict[str, Any]]:
    """The network of a container and its metadata: :func:`sw.network.read_network_and_metadata`, for tensors.

    Raises
    ------
    sw.format.container.ContainerError
        The file is damaged.
    CompressError
        The container holds layers, but no operations, or some that cannot run on them.
    """
    try:
        network, metadata = read_file(path)
    except NetworkError as error:
        raise CompressError(str(error)) from None
    return IntegerNetwork.of(network), metadata


def read_network(path: str | os.PathLike[str]) -> IntegerNetwork:
    """The network alone of :func:`read_network_and_metadata`, which raises."""
    return read_network_and_metadata(path)[0]
