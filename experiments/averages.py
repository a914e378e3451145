"""A running mean of a network's weights while it is trained (:class:`Average`)."""

from __future__ import annotations

import copy

import torch
from torch import nn

__all__ = ["Average"]


class Average:
    """A copy of a network whose trained parameters are running means of the network's.

    While the rate is high, weights go to and fro about what is best; their mean is nearer to it. Of the first steps it
    is the plain mean, and no trace of where they started stays in it; then each step's weights count less, the longer
    they are ago.

    Parameters
    ----------
    network
        Stays as it is. Its buffers must not change, as those of a network in evaluation mode do not.
    steps
        About so many last ones the mean is taken over.
    """

    def __init__(self, network: nn.Module, steps: float) -> None:
        #: To be scored, or kept in the network's place.
        self.network = copy.deepcopy(network)
        self.steps = max(1.0, steps)
        self.done = 0
        pairs = list(zip(self.network.parameters(), network.parameters(), strict=True))
        self.means, self.weights = ([pair[side].detach() for pair in pairs if pair[1].requires_grad] for side in (0, 1))

    @torch.no_grad()
    def update(self) -> None:
        """Take in what the weights are now. On a GPU, after the replay of a graph of steps, not in it."""
        self.done += 1
        # How much it counts changes from step to step, which a graph would not see; all weights are a few launches.
        torch._foreach_lerp_(self.means, self.weights, 1 / min(self.done, self.steps))
