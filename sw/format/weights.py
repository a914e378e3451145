"""Fields of a container's metadata that say of layers what :func:`msvq.decompress` must know of their weights.

Each is left out where it would be empty.
"""

__all__ = ["CONV1D", "DERIVED", "FACTORS", "KEYS"]

#: Names of convolutions of one axis, stored as ``[K, C, 1, S]``.
CONV1D = "conv1d"

#: Names of layers whose weights are not what the float network keeps under their names.
DERIVED = "derived"

#: Names of what is no weight of the network: factors of channels that stand alone, and later calls of a layer.
FACTORS = "factors"

#: By layers' names the weights' keys in a state dict, where these are not ``NAME.weight``.
KEYS = "keys"
