"""Small programs for tests, put together by hand: one layer after another, each in one strip."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.config import AcceleratorConfig
from hw.control.descriptor import Channel, Descriptor, Opcode
from hw.layout import LayerTile, Schedule, layer_tiles
from sw.format.layer import CompressedLayer
from sw.format.packing import mask_code_bits, pack_fields, rank_masks
from sw.format.streams import StreamLayout, layer_streams
from sw.golden.layer import output_size
from sw.program import Input, Program, ProgramLayer, Tensor

#: Where tensors begin, from the program's base on.
ROOM = 1 << 16


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


@dataclass
class Assembler:
    """Collects descriptors and the data that they fetch."""

    config: AcceleratorConfig
    base: int = 0
    data: bytearray = field(default_factory=bytearray)
    descriptors: list[Descriptor] = field(default_factory=list)
    inputs: list[Input] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    layers: list[ProgramLayer] = field(default_factory=list)
    used: int = ROOM

    @property
    def layer(self) -> int:
        return max(len(self.layers) - 1, 0)

    def count(self, opcode: Opcode) -> int:
        return sum(descriptor.opcode == opcode for descriptor in self.descriptors)

    def add(self, opcode: Opcode, waits: dict[str, int] | None = None, **body: int) -> None:
        self.descriptors.append(Descriptor(opcode, body, self.layer, waits or {}))

    def fetch(self, channel: Channel, data: bytes) -> None:
        word = self.config.word_width // 8
        data = data + bytes(-len(data) % word)
        self.data += bytes(-len(self.data) % 64)
        address = self.base + len(self.data)
        self.data += data
        self.add(
            Opcode.FETCH, address=address, words=len(data) // word, checksum=zlib.crc32(data), channel=int(channel)
        )

    def tensor(self, name: str, shape: tuple[int, int, int], dtype: str = "int8", lanes: int = 0) -> Tensor:
        """Room for a tensor in DRAM. Pixels are filled up to whole vectors of that many channels."""
        word = self.config.l2_word
        channels = ceil_div(shape[0], lanes) * lanes if lanes else shape[0]
        pixel = ceil_div(channels * (4 if dtype == "int32" else 1), word)
        tensor = Tensor(name, self.base + self.used, *shape, word, pixel, dtype)
        self.used += ceil_div(tensor.size, 64) * 64
        return tensor

    def program(self) -> Program:
        self.add(Opcode.END)
        image = bytearray(self.data) + bytes(-len(self.data) % 64)
        start = len(image)
        image += b"".join(descriptor.pack() for descriptor in self.descriptors)
        assert len(image) <= ROOM
        return Program(
            self.config,
            self.base,
            bytes(image),
            self.base + start,
            len(self.descriptors),
            ceil_div(self.used, 64) * 64,
            tuple(self.inputs),
            tuple(self.outputs),
            tuple(self.layers),
        )


def pack_raw(
    config: AcceleratorConfig, weights: NDArray[np.int8], tile: LayerTile, passes: int
) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    """The raw weights of a tile in loader order, and its mask ranks (sparse tiles)."""
    C = weights.shape[1]
    H, L = config.H, config.L
    values: list[NDArray[np.int8]] = []
    ranks: list[NDArray[np.int64]] = []
    for ds in range(tile.Ds):
        for dr in range(tile.Dr):
            for r in range(tile.B * passes):
                b, number = divmod(r, passes)
                rows = H if passes > 1 or b < tile.B - 1 else tile.rows
                for s in range(tile.A):
                    for h in range(rows):
                        lane = np.zeros(L, np.int8)
                        k0, c = tile.k0 + s * L, tile.c0 + b * H + h
                        if c < C:
                            row = weights[k0 : k0 + L, c, tile.r0 + dr, tile.s0 + ds]
                            lane[: len(row)] = row
                        if not config.features.sparse:
                            values.append(lane)
                            continue
                        groups = lane.reshape(-1, config.M).copy()
                        first = min(number * config.N, config.M - config.N)
                        mask = np.zeros(groups.shape, np.bool_)
                        mask[:, first : first + config.N] = True
                        # What an earlier pass has given must not be added twice.
                        groups[:, : number * config.N] = 0
                        values.append(groups[mask])
                        ranks.append(rank_masks(mask, config.N))
    return np.concatenate(values), np.concatenate(ranks) if ranks else np.zeros(0, np.int64)


def add_layer(
    assembler: Assembler,
    layer: CompressedLayer,
    source: int,
    geometry: tuple[int, int, int],
    target: int,
    schedule: Schedule | None = None,
    *,
    raw: bool = False,
    waits: dict[str, int] | None = None,
    wide: bool = False,
    limits: tuple[int, int] = (-128, 127),
) -> tuple[int, int]:
    """A whole layer from L2 word ``source`` (rows, columns, pixel words) to ``target``. Returns its output's size."""
    config = assembler.config
    H, L, W = config.H, config.L, config.l2_word
    rows, columns, pixel_words = geometry
    E, F = output_size(layer, rows, columns)
    K, C, R, S = layer.shape
    raw = raw or not config.features.codebook
    passes = ceil_div(config.M, config.N) if raw and config.features.sparse else 1
    schedule = schedule or Schedule(H, L)
    groups = ceil_div(C, H)
    height = (E - 1) * layer.stride[0] + (R - 1) * layer.dilation[0] + 1
    width = (F - 1) * layer.stride[1] + (S - 1) * layer.dilation[1] + 1
    assembler.add(
        Opcode.COPY,
        {**(waits or {}), "fed": assembler.count(Opcode.TILE)},
        l2_base=source,
        rows=rows,
        columns=columns,
        row_words=columns * pixel_words,
        pixel_words=pixel_words,
        first_row=-layer.padding[0],
        first_column=-layer.padding[1],
        height=height,
        width=width,
        channel_words=ceil_div(C, W),
        groups=groups,
    )
    copied = {"copied": assembler.count(Opcode.COPY)}
    tiles = list(layer_tiles(layer.shape, schedule))
    if raw:
        packed = [pack_raw(config, layer.integer_weights(), tile, passes) for tile in tiles]
        assembler.fetch(Channel.WEIGHT, np.concatenate([values for values, _ in packed]).tobytes())
        if config.features.sparse:
            ranks = np.concatenate([ranks.reshape(-1) for _, ranks in packed])
            assembler.fetch(Channel.MASK, pack_fields(ranks, mask_code_bits(config.N, config.M)))
    else:
        assert layer.codebook is not None
        word = config.word_width // 8
        codebook = pack_fields(layer.codebook.view(np.uint8), config.element_bits)
        layout = StreamLayout.of(layer, schedule)
        fields = layout.row_writes * (L // layer.d)
        streams = {
            name: data[: ceil_div(fields * layout.bits[name], 8 * word) * word]
            for name, data in layer_streams(layer, schedule).items()
        }
        # The words' ends are not those of the streams' alignment where words are longer than it.
        streams["index"] = codebook + bytes(-len(codebook) % word) + streams["index"]
        for name, data in streams.items():
            assembler.fetch(Channel[name.upper() if name != "index" else "WEIGHT"], data)
    slides = layer.dilation[1] == 1 and layer.stride[1] < schedule.Ds
    for number, tile in enumerate(tiles):
        if tile.last:
            parameters = np.zeros((tile.A * L, 3), "<i4")
            channels = min(K - tile.k0, tile.A * L)
            given = layer.requantisation
            if given is not None:
                own = slice(tile.k0, tile.k0 + channels)
                parameters[:channels] = np.stack([given.bias[own], given.multiplier[own], given.shift[own]], axis=1)
            lanes = L * (4 if wide else 1) // W
            pixel = ceil_div(K, L) * lanes
            assembler.add(
                Opcode.OUTPUT,
                waits,
                l2_base=target + tile.k0 // L * lanes,
                line_words=F * pixel,
                position_words=pixel,
                A=tile.A,
                low=limits[0],
                high=limits[1],
                width=F,
                height=E,
                channels=channels,
                parameters=1,
                wide=int(wide),
            )
            assembler.fetch(Channel.PARAMETER, parameters.tobytes())
        assembler.add(
            Opcode.TILE,
            copied,
            A=tile.A,
            B=tile.B * passes,
            D=tile.D,
            Dr=tile.Dr,
            rows=H if passes > 1 else tile.rows,
            width=F,
            height=E,
            codewords=layer.k if not raw and number == 0 else 0,
            advance_columns=layer.stride[1] if slides else tile.Ds,
            passes=passes,
            start=int(number == 0),
            raw=int(raw),
            accumulate=int(not tile.first),
            last=int(tile.last),
            l1_base=(tile.r0 * layer.dilation[0] * width + tile.s0 * layer.dilation[1]) * groups + tile.c0 // H,
            line_pitch=layer.stride[0] * width * groups,
            position_pitch=layer.stride[1] * groups,
            dr_pitch=layer.dilation[0] * width * groups,
            ds_pitch=layer.dilation[1] * groups,
            b_pitch=1,
        )
    return E, F


def add_input(assembler: Assembler, shape: tuple[int, int, int], l2_base: int) -> tuple[int, int, int]:
    """An input tensor, loaded to L2; its rows, columns and pixel words."""
    tensor = assembler.tensor(f"input{len(assembler.inputs)}", shape)
    assembler.inputs.append(Input(tensor))
    assembler.add(Opcode.LOAD, address=tensor.address, l2_base=l2_base, words=tensor.words)
    return tensor.rows, tensor.columns, tensor.pixel_words


def add_output(
    assembler: Assembler,
    shape: tuple[int, int, int],
    l2_base: int,
    waits: dict[str, int],
    dtype: str = "int8",
) -> None:
    """An output tensor, stored from L2."""
    tensor = assembler.tensor(f"output{len(assembler.outputs)}", shape, dtype, assembler.config.L)
    assembler.outputs.append(tensor)
    assembler.add(Opcode.STORE, waits, address=tensor.address, l2_base=l2_base, words=tensor.words)


def layer_program(
    config: AcceleratorConfig,
    layer: CompressedLayer,
    rows: int,
    columns: int,
    schedule: Schedule | None = None,
    **options: Any,
) -> Program:
    """One layer: load, compute, store."""
    assembler = Assembler(config, base=1 << 20 if config.address_bits > 21 else 0)
    assembler.layers.append(ProgramLayer(layer.name, layer.kind))
    geometry = add_input(assembler, (layer.shape[1], rows, columns), 0)
    target = geometry[0] * geometry[1] * geometry[2]
    E, F = add_layer(assembler, layer, 0, geometry, target, schedule, waits={"loaded": 1}, **options)
    dtype = "int32" if options.get("wide") else "int8"
    add_output(assembler, (layer.shape[0], E, F), target, {"stored": assembler.count(Opcode.OUTPUT)}, dtype)
    return assembler.program()
