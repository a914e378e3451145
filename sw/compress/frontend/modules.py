"""What a graph has beside torch's modules and functions: operations that torch has no name for."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Affine", "Crop", "PadShortcut", "Repeat", "Spread"]


class PadShortcut(nn.Module):
    """Shortcut without weights (ResNet's option A): every other row and column, and channels of zeros around.

    Parameters
    ----------
    stride
        Of rows and columns.
    before, after
        Channels of zeros to add before and after.
    """

    def __init__(self, stride: int, before: int, after: int) -> None:
        super().__init__()
        self.stride, self.before, self.after = stride, before, after

    def forward(self, values: Tensor) -> Tensor:
        """``[batch, before + C + after, rows / stride, columns / stride]``."""
        return functional.pad(values[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


class Affine(nn.Module):
    """A factor and a summand for each channel of a map: what constants a network multiplies and adds.

    Parameters
    ----------
    weight, bias
        ``[C]``; None for ones and zeros.
    channels
        C.
    """

    def __init__(self, channels: int, weight: Tensor | None = None, bias: Tensor | None = None) -> None:
        super().__init__()
        device = next((each.device for each in (weight, bias) if each is not None), None)
        self.weight = nn.Parameter(torch.ones(channels, device=device) if weight is None else weight.detach().clone())
        self.bias = nn.Parameter(torch.zeros(channels, device=device) if bias is None else bias.detach().clone())

    def forward(self, values: Tensor) -> Tensor:
        """``weight * values + bias`` of a map ``[batch, C, rows, columns]``."""
        return values * self.weight[:, None, None] + self.bias[:, None, None]


class Crop(nn.Module):
    """Rows and columns of a map, every so many, without some at its edges.

    Parameters
    ----------
    margins
        How many are left out at the top, bottom, left and right.
    stride
        Of rows and columns.
    """

    def __init__(self, margins: tuple[int, int, int, int], stride: tuple[int, int] = (1, 1)) -> None:
        super().__init__()
        self.margins, self.stride = margins, stride

    def forward(self, values: Tensor) -> Tensor:
        """``[batch, C, rows, columns]`` of what is left."""
        (top, bottom, left, right), (rows, columns) = self.margins, values.shape[2:]
        return values[:, :, top : rows - bottom : self.stride[0], left : columns - right : self.stride[1]]


class Repeat(nn.Module):
    """Each row and column several times: nearest neighbours, whatever rounding torch's own have.

    Parameters
    ----------
    factors
        How often: rows and columns.
    """

    def __init__(self, factors: tuple[int, int]) -> None:
        super().__init__()
        self.factors = factors

    def forward(self, values: Tensor) -> Tensor:
        """``[batch, C, factors[0] * rows, factors[1] * columns]``."""
        return values.repeat_interleave(self.factors[0], 2).repeat_interleave(self.factors[1], 3)


class Spread(nn.Module):
    """Twice the rows and columns, zeros in those that are new: a transposed convolution of stride 2 convolves it."""

    def forward(self, values: Tensor) -> Tensor:
        """``y[..., 2 * i, 2 * j] = x[..., i, j]``."""
        batch, channels, rows, columns = values.shape
        spread = functional.pad(values[:, :, :, None, :, None], (0, 1, 0, 0, 0, 1))
        return spread.reshape(batch, channels, 2 * rows, 2 * columns)
