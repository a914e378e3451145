"""A network in integers, between PyTorch and the accelerator: its operations, its file, and its reference."""

from sw.network import spatial, tokens
from sw.network.fields import FULL_RANGE, NetworkError
from sw.network.file import network_metadata, network_of, read_network, read_network_and_metadata, write_network
from sw.network.network import Network, Output, parse_operations
from sw.network.operation import Array, Operation, Value, operation_from_dict, operation_kinds

__all__ = [
    "FULL_RANGE",
    "Array",
    "Network",
    "NetworkError",
    "Operation",
    "Output",
    "Value",
    "network_metadata",
    "network_of",
    "operation_from_dict",
    "operation_kinds",
    "parse_operations",
    "read_network",
    "read_network_and_metadata",
    "spatial",
    "tokens",
    "write_network",
]
