"""Real activations: a photograph goes through the float network, and the inputs of chosen layers become int8."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Resampling

from sw.format.picture import middle_square, read_picture

__all__ = ["SIZE", "layer_inputs", "load_photograph", "photograph_path", "quantise_activations"]

#: Rows and columns of the network's input.
SIZE = 224


def photograph_path() -> Path:
    """The photograph of a Chinese palace that scikit-learn ships."""
    return Path(str(resources.files("sklearn.datasets") / "images" / "china.jpg"))


def load_photograph(path: Path) -> torch.Tensor:
    """A picture as the network's input, float32 ``[1, 3, 224, 224]``: middle square, resized, ``(x - 127) / 128``.

    Raises
    ------
    sw.format.picture.PictureError, OSError
        It is none, or is damaged; or cannot be read.
    """
    square = middle_square(read_picture(path, "RGB"))
    pixels = np.asarray(square.resize((SIZE, SIZE), Resampling.BICUBIC), dtype=np.float32)
    return torch.from_numpy((pixels - 127) / 128).permute(2, 0, 1)[None].contiguous()


def layer_inputs(
    network: torch.nn.Module, image: torch.Tensor, names: Sequence[str]
) -> tuple[dict[str, NDArray[np.float32]], torch.Tensor]:
    """What reaches these layers when the network sees the image, and the network's output.

    Returns
    -------
    inputs
        float32 ``[C, rows, columns]`` by layer name. Where the layer pads by a separate module, the padding is in it:
        the layer itself then has padding 0.
    output
        float32 ``[classes]``.

    Raises
    ------
    KeyError
        The network has no such layer.
    """
    modules = dict(network.named_modules())
    inputs: dict[str, NDArray[np.float32]] = {}
    hooks = []

    def keep(name: str) -> Any:
        def hook(module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
            padding = getattr(module, "static_padding", torch.nn.Identity())
            inputs[name] = padding(arguments[0])[0].numpy()

        return hook

    threads = torch.get_num_threads()
    # More threads add up in another order, and a sum that lands on the other side of a rounding is another int8.
    torch.set_num_threads(1)
    try:
        for name in names:
            hooks.append(modules[name].register_forward_pre_hook(keep(name)))
        with torch.inference_mode():
            output = network.eval()(image)[0]
    finally:
        torch.set_num_threads(threads)
        for hook in hooks:
            hook.remove()
    return inputs, output


def quantise_activations(activations: NDArray[np.float32]) -> tuple[NDArray[np.int8], float]:
    """Symmetric int8, zero point 0, one scale a tensor: max-abs becomes 127. Returns the integers and the scale."""
    scale = float(np.abs(activations).max(initial=0)) / 127 or 1.0
    return np.rint(activations / np.float32(scale)).astype(np.int8), scale
