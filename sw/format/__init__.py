"""The compressed network: a layer in memory, its packed weight streams, the container file. See ``docs/format.md``."""

from sw.format.container import (
    Container,
    ContainerError,
    compression_report,
    container_size,
    layer_fields,
    read_container,
    section_bytes,
    write_container,
)
from sw.format.layer import METHODS, CompressedLayer, LayerError, Requantisation
from sw.format.packing import PackingError, pack_fields, rank_masks, unpack_fields, unrank_masks
from sw.format.streams import StreamError, StreamLayout, layer_streams, subvector_order, unpack_streams

__all__ = [
    "METHODS",
    "CompressedLayer",
    "Container",
    "ContainerError",
    "LayerError",
    "PackingError",
    "Requantisation",
    "StreamError",
    "StreamLayout",
    "compression_report",
    "container_size",
    "layer_fields",
    "layer_streams",
    "pack_fields",
    "rank_masks",
    "read_container",
    "section_bytes",
    "subvector_order",
    "unpack_fields",
    "unpack_streams",
    "unrank_masks",
    "write_container",
]
