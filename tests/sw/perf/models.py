"""Both models of time of a network."""

from __future__ import annotations

import random
from functools import cache

from hw.config import AcceleratorConfig
from sw.compiler.compile import compile_network
from sw.compiler.graph import CompileError
from sw.compiler.lowering import lower
from sw.network import Network as Integers
from sw.perf.estimate import Network, estimate
from sw.perf.prediction import predict
from sw.perf.timing import LayerTiming
from tests.sw.random_networks import random_instance, random_network

#: A seed of :func:`of_seed` whose network takes longer than those of 59 others: with ``--full`` alone.
SLOW = 5
#: Of each layer, by the fast model and by that of the program.
Both = tuple[list[LayerTiming], list[LayerTiming]]


def both(network: Integers, shape: tuple[int, int, int], config: AcceleratorConfig) -> Both:
    return estimate(Network(lower(network, shape)), config), predict(compile_network(network, shape, config))


@cache
def of_seed(seed: int) -> Both | None:
    """Of a random network on an instance as odd as it can be; None where there is none, or it does not fit."""
    config = random_instance(random.Random(seed))
    network = random_network(seed, config)
    try:
        return None if network is None else both(network, network.image_shape, config)
    except CompileError:
        return None
