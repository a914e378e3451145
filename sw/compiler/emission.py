"""Descriptors of a graph whose convolutions have plans and whose tensors have places.

The array takes its tiles in order: layer by layer, strip by strip. COPYs and vector operations run ahead of that order
as far as their operands allow: each is put into the program as soon as all descriptors that it depends on are in it.
So a descriptor waits only for events of descriptors before it, where an OUTPUT counts from its last TILE on.

Hazards: a reader waits for the writers of the rows that it reads; the writer of a tensor waits for every access to the
tensors whose space it takes. A COPY waits for the TILEs that read the part of L1 that it overwrites.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from hw.config import AcceleratorConfig
from hw.control.descriptor import BYTES, WAIT_REACH, Channel, Descriptor, DescriptorError, Opcode
from sw.compiler.graph import CompileError, Convolution, Graph, Vector
from sw.compiler.placement import Place
from sw.compiler.tiling import Geometry, Plan, Strip, strips
from sw.compiler.vectors import vector_commands, vector_parts, vector_reach
from sw.compiler.weights import Streams, Tile, Weights
from sw.program import Tensor

__all__ = ["LOADS", "Dram", "Emitter", "Mapped"]

_COUNTED = {
    Opcode.LOAD: "loaded",
    Opcode.COPY: "copied",
    Opcode.TILE: "fed",
    Opcode.OUTPUT: "stored",
    Opcode.VECTOR: "vectored",
    Opcode.STORE: "written",
    Opcode.RECORD: "written",
}
_CHANNELS = {"weight": Channel.WEIGHT, "mask": Channel.MASK, "sign": Channel.SIGN}
#: Parts in which an input comes: what needs the first part need not wait for all.
LOADS = 16

Waits = dict[str, int]


def _later(a: Waits, b: Mapping[str, int]) -> None:
    """Wait for these events too."""
    for event, count in b.items():
        a[event] = max(a.get(event, 0), count)


class Dram:
    """The bytes of the image so far, and places behind it.

    Parameters
    ----------
    base
        Address of the first byte.
    alignment
        Of everything, in bytes.
    """

    def __init__(self, base: int, alignment: int) -> None:
        self.base, self.alignment = base, max(alignment, BYTES)
        self.image = bytearray()

    def put(self, data: bytes) -> int:
        """Address of these bytes, now a part of the image."""
        self.image += bytes(-len(self.image) % self.alignment)
        address = self.base + len(self.image)
        self.image += data
        return address


@dataclass(frozen=True)
class Mapped:
    """A convolution with all that emission needs."""

    #: Of its operation.
    number: int
    #: What it is, and how it is cut.
    convolution: Convolution
    weights: Weights
    plan: Plan
    geometry: Geometry
    #: Of one strip, for each set of output groups.
    tiles: list[list[Tile]]
    #: The weights of all of them.
    streams: Streams
    #: The codebook is not that of the coded layer before.
    load_codebook: bool
    #: DRAM addresses of the streams; in the weight channel's the codewords come right before.
    addresses: dict[str, int]
    #: Address and bytes of each set's requantisation parameters.
    parameters: list[tuple[int, bytes]]

    @property
    def strips(self) -> list[Strip]:
        """The strips of the layer."""
        return list(strips(self.geometry, self.plan))


@dataclass
class _Tensor:
    """What has happened to a value so far.

    ``writes``: in order of rows, the row behind the last one that is complete, and the event that says so.
    ``accesses``: the last event of each kind that reads or writes it. ``left``: operations, and transfers to DRAM, that
    have not given out all their accesses.
    """

    place: Place
    rows: int
    writes: list[tuple[int, str, int]] = field(default_factory=list)
    accesses: Waits = field(default_factory=dict)
    left: int = 0
    before: list[int] = field(default_factory=list)

    @property
    def ready(self) -> int:
        """Rows that are complete once what is in the program is done."""
        return self.writes[-1][0] if self.writes else 0

    def written(self, rows: int) -> Waits:
        """Events for which a reader of the first ``rows`` rows waits."""
        waits: Waits = {}
        for end, event, count in self.writes:
            _later(waits, {event: count})
            if end >= rows:
                break
        return waits


@dataclass
class _Copy:
    """A COPY: a chunk of row groups of a strip. ``uses``: TILEs that read it and are not in the program yet.

    ``key`` is what a tile finds it by. ``together``: vectors that lie in L1 in one piece, this copy's and those of the
    copies that follow it; 0 if it follows another. ``base`` is its place in L1, ``copied`` its event, ``fed`` that of
    its last TILE so far.
    """

    number: int
    strip: Strip
    key: tuple[int, ...]
    g: int
    groups: int
    uses: int
    vectors: int
    together: int
    base: int = -1
    copied: int = 0
    fed: int = 0


@dataclass
class _Region:
    start: int
    end: int
    copy: _Copy


class Emitter:
    """Gives out the descriptors of a program.

    Parameters
    ----------
    config
        The instance.
    graph
        Values and operations.
    places
        Of each value.
    mapped
        Of each convolution, by the number of its operation.
    inputs
        Tensors in DRAM, by value: the network's inputs, then constants in the order of their first readers.
    stores
        Tensors in DRAM to which values go once they are complete, by value.
    records
        DRAM addresses of the counters, by operation.
    """

    def __init__(
        self,
        config: AcceleratorConfig,
        graph: Graph,
        places: list[Place],
        mapped: Mapping[int, Mapped],
        inputs: Mapping[int, Tensor],
        stores: Mapping[int, Tensor],
        records: Mapping[int, int],
    ) -> None:
        self.config, self.graph, self.mapped = config, graph, mapped
        self.stores, self.records = stores, records
        self.descriptors: list[Descriptor] = []
        # Numbers of LOADs from the image.
        self.fixed: set[int] = set()
        self.counts = dict.fromkeys(_COUNTED.values(), 0)
        self.bases = [given.base for given in places]
        self.pixels = [given.pixel_words for given in places]
        self.tensors = [_Tensor(place, value.rows) for place, value in zip(places, graph.values, strict=True)]
        for operation in graph.operations:
            for number in {*operation.sources, operation.target}:
                self.tensors[number].left += 1
        for number in stores:
            self.tensors[number].left += 1
        for number in inputs:
            self.tensors[number].left += 1
        for number, tensor in enumerate(self.tensors):
            mine = tensor.place
            tensor.before = [
                other
                for other, given in enumerate(self.tensors)
                if other != number
                and given.place.last < mine.first
                and given.place.base < mine.end
                and mine.base < given.place.end
            ]
        # What can run ahead of the array, in the order in which each unit takes it.
        self.loads = deque(
            (number, *part) for number, tensor in inputs.items() for part in self._load_parts(number, tensor)
        )
        self.copies = deque(copy for number, entry in mapped.items() for copy in self._copies(number, entry))
        self.vectors = deque(
            (number, start, end)
            for number, operation in enumerate(graph.operations)
            if isinstance(operation, Vector)
            for start, end in vector_parts(graph, operation)
        )
        self.inputs = inputs
        self.regions: deque[_Region] = deque()
        self.next_vector = 0
        # Blocks to come, with whether each is its layer's first.
        self.passes = deque((entry, index == 0) for entry in mapped.values() for index in range(len(entry.strips)))
        self.given: dict[tuple[int, ...], _Copy] = {}
        self.done = [False] * len(graph.operations)

    # Parts

    def _load_parts(self, number: int, tensor: Tensor) -> Iterator[tuple[int, int]]:
        """First word and words of each LOAD of an input, on borders of DRAM words."""
        unit = max(1, self.config.word_width // 8 // self.config.l2_word)
        size = -(-tensor.words // LOADS)
        size = tensor.words if number in self.graph.constants else -(-size // unit) * unit
        for start in range(0, tensor.words, size):
            yield start, min(size, tensor.words - start)

    def _copies(self, number: int, entry: Mapped) -> Iterator[_Copy]:
        """The COPYs of a layer in the order in which its tiles need them."""
        for strip in entry.strips:
            chunks: dict[tuple[int, ...], list[Tile]] = {}
            for group, found in enumerate(entry.tiles):
                for tile in found:
                    chunks.setdefault(self._key(entry, strip, group, tile), []).append(tile)
            pixels = entry.geometry.region(0, strip.height) * entry.geometry.region(1, strip.width)
            groups = [max(tile.g + tile.B for tile in readers) - readers[0].g for readers in chunks.values()]
            for index, (key, readers) in enumerate(chunks.items()):
                vectors = pixels * groups[index]
                # What L1 holds for all output groups must not overlap, what comes again for each may.
                together = vectors if entry.plan.streaming else pixels * sum(groups) if index == 0 else 0
                yield _Copy(number, strip, key, readers[0].g, groups[index], len(readers), vectors, together)

    @staticmethod
    def _key(entry: Mapped, strip: Strip, group: int, tile: Tile) -> tuple[int, ...]:
        """What names the COPY that a tile of a set of output groups reads."""
        return (entry.number, strip.e, strip.f, group if entry.plan.streaming else 0, tile.chunk)

    # Output

    def _emit(self, opcode: Opcode, layer: int, body: Mapping[str, int], waits: Mapping[str, int] | None = None) -> int:
        """Give out a descriptor. Returns the count of its event once it is done."""
        wanted = {}
        for event, count in self.counts.items():
            # A wait must not lie further back than WAIT_REACH.
            count = max((waits or {}).get(event, 0), count - WAIT_REACH // 2)
            if count > 0:
                wanted[event] = count % (1 << 16)
        try:
            self.descriptors.append(Descriptor(opcode, body, layer, {} if opcode == Opcode.FETCH else wanted))
        except DescriptorError as error:
            raise CompileError(f"layer {self.graph.operations[layer].name!r}: {error}") from None
        if opcode not in _COUNTED:
            return 0
        self.counts[_COUNTED[opcode]] += 1
        return self.counts[_COUNTED[opcode]]

    def run(self) -> list[Descriptor]:
        """All descriptors, the END included."""
        if self.passes:
            self._fetch_pass(*self.passes[0])
        for number, operation in enumerate(self.graph.operations):
            if isinstance(operation, Convolution):
                self._convolution(number, self.mapped[number])
            while not self.done[number]:
                self._ahead(True)
        self._emit(Opcode.END, len(self.graph.operations), {})
        return self.descriptors

    def _ahead(self, needed: bool = False) -> None:
        """Give out what can run ahead of the array; if something more is needed, by the next LOAD."""
        if needed:
            given = self.loads and self._load()
            assert given, "operations come in an order in which they can run"
        moved = True
        while moved:
            moved = False
            while self.vectors and self._vector():
                moved = True
            while self.copies and self._copy():
                moved = True

    def _free(self, tensor: _Tensor) -> bool:
        """Whether all accesses to what lay in a tensor's place before are in the program."""
        return all(not self.tensors[other].left for other in tensor.before)

    def _taken(self, tensor: _Tensor) -> Waits:
        """Events for which the writer of a tensor waits."""
        waits: Waits = {}
        for other in tensor.before:
            _later(waits, self.tensors[other].accesses)
        return waits

    def _load(self) -> bool:
        number, start, words = self.loads[0]
        tensor, target = self.inputs[number], self.tensors[number]
        if not self._free(target):
            return False
        self.loads.popleft()
        if number in self.graph.constants:
            self.fixed.add(len(self.descriptors))
        count = self._emit(
            Opcode.LOAD,
            target.place.first,
            {
                "address": tensor.address + start * tensor.word_bytes,
                "l2_base": target.place.base + start,
                "words": words,
            },
            self._taken(target),
        )
        end = start + words
        target.writes.append((end // target.place.row_words, "loaded", count))
        _later(target.accesses, {"loaded": count})
        if end == tensor.words:
            target.left -= 1
        return True

    def _vector(self) -> bool:
        number, start, end = self.vectors[0]
        operation = self.graph.operations[number]
        assert isinstance(operation, Vector)
        target = self.tensors[operation.target]
        reach = {other: vector_reach(self.graph, operation, other, end) for other in operation.sources}
        if not self._free(target) or any(self.tensors[other].ready < rows for other, rows in reach.items()):
            return False
        self.vectors.popleft()
        waits = self._taken(target)
        for other, rows in reach.items():
            _later(waits, self.tensors[other].written(rows))
        count = 0
        for body in vector_commands(self.config, self.graph, operation, (start, end), self.bases, self.pixels):
            if count:
                # It may read what the one before has written.
                _later(waits, {"vectored": count})
            count = self._emit(Opcode.VECTOR, number, body, waits)
        target.writes.append((end, "vectored", count))
        for other in {*operation.sources, operation.target}:
            _later(self.tensors[other].accesses, {"vectored": count})
        if end == target.rows:
            self._finish(number)
        return True

    def _copy(self) -> bool:
        copy = self.copies[0]
        entry = self.mapped[copy.number]
        geometry, strip, config = entry.geometry, copy.strip, self.config
        source = self.tensors[entry.convolution.source]
        value = self.graph.values[entry.convolution.source]
        height, width = geometry.region(0, strip.height), geometry.region(1, strip.width)
        first_row = strip.e * geometry.stride[0] - geometry.padding[0]
        # Tensor rows up to the last one that is read; none if the region lies in the padding.
        bottom = min(geometry.rows, first_row + height)
        needed = (bottom - 1) * geometry.row_step + 1 if bottom > 0 else 0
        if source.ready < needed:
            return False
        place = self._room(copy)
        if place is None:
            return False
        base, fed = place
        self.copies.popleft()
        per_vector = config.H // config.l2_word
        first_word = copy.g * per_vector
        waits = source.written(needed)
        _later(waits, {"fed": fed})
        copy.base = base
        copy.copied = self._emit(
            Opcode.COPY,
            copy.number,
            {
                "l2_base": source.place.base,
                "rows": geometry.rows,
                "columns": geometry.columns,
                "row_words": source.place.row_words * geometry.row_step,
                "pixel_words": source.place.pixel_words * geometry.column_step,
                "first_row": first_row,
                "first_column": strip.f * geometry.stride[1] - geometry.padding[1],
                "height": height,
                "width": width,
                "first_word": first_word,
                "channel_words": min(-(-value.channels // config.l2_word) - first_word, copy.groups * per_vector),
                "groups": copy.groups,
                "l1_base": base,
            },
            waits,
        )
        _later(source.accesses, {"copied": copy.copied})
        self.regions.append(_Region(base, base + copy.vectors, copy))
        self.given[copy.key] = copy
        if not self.copies or self.copies[0].number != copy.number:
            source.left -= 1
        return True

    def _room(self, copy: _Copy) -> tuple[int, int] | None:
        """Where a COPY writes in L1, a ring, and the TILE that it waits for; None if that is not in the program yet."""
        base = self.next_vector if self.next_vector + copy.together <= self.config.l1_ifmap_depth else 0
        over = [region for region in self.regions if region.start < base + copy.vectors and base < region.end]
        if any(region.copy.uses for region in over):
            return None
        self.regions = deque(region for region in self.regions if region not in over)
        self.next_vector = base + copy.vectors
        return base, max((region.copy.fed for region in over), default=0)

    # Convolutions

    def _fetch_pass(self, entry: Mapped, first: bool) -> None:
        """Weights of all tiles of a strip; codewords for the first strip alone."""
        for name, data in entry.streams.channels.items():
            address = entry.addresses[name]
            if name == "weight" and first and entry.load_codebook:
                data = entry.streams.codebook + data
                address -= len(entry.streams.codebook)
            self._fetch(entry.number, _CHANNELS[name], address, data)

    def _fetch(self, layer: int, channel: Channel, address: int, data: bytes) -> None:
        self._emit(
            Opcode.FETCH,
            layer,
            {
                "address": address,
                "words": len(data) // (self.config.word_width // 8),
                "checksum": zlib.crc32(data),
                "channel": int(channel),
            },
        )

    def _convolution(self, number: int, entry: Mapped) -> None:
        target = self.tensors[entry.convolution.target]
        several = len(entry.tiles) > 1
        E, F = entry.geometry.output
        for index, strip in enumerate(entry.strips):
            self.passes.popleft()
            for group, found in enumerate(entry.tiles):
                for tile in found:
                    self._ahead()
                    while self._key(entry, strip, group, tile) not in self.given:
                        self._ahead(True)
                    # A LOAD at a time, lest they fill the sequencer's queue and hold up the rest.
                    if self.loads and self.tensors[self.loads[0][0]].place.first <= number + 1:
                        self._load()
                    if tile.last and group == len(entry.tiles) - 1 and self.passes:
                        self._fetch_pass(*self.passes[0])
                    if tile.last:
                        self._output(entry, strip, group, tile, several or index == 0)
                    start = group == 0 and tile is found[0]
                    self._tile(entry, strip, group, tile, start, start and index == 0)
            if strip.f + strip.width == F:
                target.writes.append((strip.e + strip.height, "stored", self.counts["stored"]))
        assert target.ready == E
        self._finish(number)
        self._ahead()

    def _output(self, entry: Mapped, strip: Strip, group: int, tile: Tile, parameters: bool) -> None:
        convolution, config, number = entry.convolution, self.config, entry.number
        target = self.tensors[convolution.target]
        while not self._free(target):
            # Rows of an input that no one reads.
            given = self.loads and self._load()
            assert given, "tensors that share space are used one after the other"
        if parameters:
            self._fetch(number, Channel.PARAMETER, *entry.parameters[group])
        vector_words = config.L // config.l2_word * (4 if convolution.wide else 1)
        place = target.place
        count = self._emit(
            Opcode.OUTPUT,
            number,
            {
                "l2_base": place.base + strip.e * place.row_words + strip.f * place.pixel_words + tile.i * vector_words,
                "line_words": place.row_words,
                "position_words": place.pixel_words,
                "A": tile.A,
                "low": convolution.low,
                "high": convolution.high,
                "width": strip.width,
                "height": strip.height,
                "channels": min(tile.A * config.L, convolution.shape[0] - tile.i * config.L),
                "parameters": int(parameters),
                "wide": int(convolution.wide),
            },
            self._taken(target),
        )
        _later(target.accesses, {"stored": count})

    def _tile(self, entry: Mapped, strip: Strip, group: int, tile: Tile, start: bool, first: bool) -> None:
        geometry, convolution = entry.geometry, entry.convolution
        copy = self.given[self._key(entry, strip, group, tile)]
        width = geometry.region(1, strip.width)
        dr_pitch, ds_pitch = geometry.dilation[0] * width * copy.groups, geometry.dilation[1] * copy.groups
        layer = convolution.layer
        assert layer is not None or not entry.weights.coded
        copy.fed = self._emit(
            Opcode.TILE,
            entry.number,
            {
                "A": tile.A,
                "B": tile.B * tile.passes,
                "D": tile.D,
                "Dr": tile.Dr,
                "rows": tile.rows,
                "width": strip.width,
                "height": strip.height,
                "codewords": layer.k if layer is not None and entry.load_codebook and first else 0,
                "advance_columns": min(geometry.stride[1], tile.Ds) if geometry.slides else tile.Ds,
                "passes": tile.passes,
                "start": int(start),
                "raw": int(not entry.weights.coded),
                "accumulate": int(not tile.first),
                "shift": int(tile.shift),
                "last": int(tile.last),
                "psum_base": 0,
                "l1_base": copy.base + tile.r0 * dr_pitch + tile.s0 * ds_pitch + tile.g - copy.g,
                "line_pitch": geometry.stride[0] * width * copy.groups,
                "position_pitch": geometry.stride[1] * copy.groups,
                "dr_pitch": dr_pitch,
                "ds_pitch": ds_pitch,
                "b_pitch": 1,
            },
            {"copied": copy.copied},
        )
        copy.uses -= 1
        if not copy.uses:
            del self.given[copy.key]

    # Ends

    def _finish(self, number: int) -> None:
        """An operation is in the program as a whole: what follows when it is complete."""
        operation = self.graph.operations[number]
        self.done[number] = True
        target = self.tensors[operation.target]
        target.left -= 1
        if isinstance(operation, Vector):
            for source in {*operation.sources}:
                self.tensors[source].left -= 1
        complete = target.written(target.rows)
        if operation.target in self.stores:
            tensor = self.stores[operation.target]
            count = self._emit(
                Opcode.STORE,
                number,
                {"address": tensor.address, "l2_base": target.place.base, "words": target.place.words},
                complete,
            )
            _later(target.accesses, {"written": count})
            target.left -= 1
        if number in self.records:
            self._emit(Opcode.RECORD, number, {"address": self.records[number]}, complete)
