"""Places of tensors in L2: no two that are needed at the same time overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hw.config import AcceleratorConfig
from sw.compiler.graph import CompileError, Graph
from sw.compiler.vectors import pixel_words

__all__ = ["Place", "lifetimes", "place"]

_NEVER = 1 << 30
#: Operations for which the space of a tensor stays unused before the next one takes it, tried in turn: the more, the
#: further can transfers and vector operations run ahead of the array.
SLACK = (4, 2, 1, 0)


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in L2, in words.

    ``first`` and ``last`` are the numbers of the operations from the one that makes it to the last that reads it; an
    input comes before the first reader.
    """

    base: int
    words: int
    pixel_words: int
    columns: int
    first: int
    last: int

    @property
    def row_words(self) -> int:
        """Words from one row to the next."""
        return self.columns * self.pixel_words

    @property
    def end(self) -> int:
        """The word behind the tensor."""
        return self.base + self.words


def lifetimes(graph: Graph) -> list[tuple[int, int]]:
    """First and last operation at which each value is in L2."""
    spans = [[_NEVER, -1] for _ in graph.values]
    for number, operation in enumerate(graph.operations):
        for source in operation.sources:
            spans[source] = [min(spans[source][0], number), max(spans[source][1], number)]
        spans[operation.target] = [number, number]
    return [(first, last) for first, last in spans]


def _first_fit(
    order: Sequence[int], words: Sequence[int], spans: Sequence[tuple[int, int]], depth: int, both_ends: bool
) -> list[int] | None:
    """The lowest base for each value in turn, or with ``both_ends`` the highest for every other value.

    None if there is no room for one.
    """
    bases = [-1] * len(words)
    placed: list[int] = []
    for number in order:
        first, last = spans[number]
        size, top = words[number], both_ends and number % 2 == 1
        beside = [other for other in placed if spans[other][0] <= last and spans[other][1] >= first]
        # Seen from the end at which the value goes: where the others begin.
        taken = sorted((depth - bases[other] - words[other] if top else bases[other], words[other]) for other in beside)
        place = 0
        for start, length in taken:
            if start - place >= size:
                break
            place = max(place, start + length)
        if place + size > depth:
            return None
        bases[number] = depth - place - size if top else place
        placed.append(number)
    return bases


def place(config: AcceleratorConfig, graph: Graph, kept: Mapping[int, int]) -> list[Place]:
    """A place for each value.

    Parameters
    ----------
    config
        The instance.
    graph
        The network.
    kept
        Last operation until which a value must stay, beside its readers.

    Raises
    ------
    CompileError
        L2 is too small. The message names the operation with the largest tensors, and their size.
    """
    pixels = pixel_words(config, graph)
    words = [value.rows * value.columns * size for value, size in zip(graph.values, pixels, strict=True)]
    needed = [(first, max(last, kept.get(number, -1))) for number, (first, last) in enumerate(lifetimes(graph))]
    for slack in SLACK:
        spans = [(first - slack, last) for first, last in needed]
        by_size = sorted(range(len(words)), key=lambda number: (-words[number], number))
        by_time = sorted(range(len(words)), key=lambda number: (spans[number][0], -words[number]))
        for order, both_ends in ((by_size, False), (by_time, False), (by_time, True), (by_size, True)):
            bases = _first_fit(order, words, spans, config.l2_depth, both_ends)
            if bases is not None:
                return [
                    Place(base, size, pixel, value.columns, *span)
                    for base, size, pixel, value, span in zip(bases, words, pixels, graph.values, needed, strict=True)
                ]
    live = [
        sum(words[number] for number, (first, last) in enumerate(needed) if first <= step <= last)
        for step in range(len(graph.operations))
    ]
    worst = max(range(len(live)), key=live.__getitem__)
    size, room = live[worst] * config.l2_word, config.l2_depth * config.l2_word
    pieces = ", which its tensors do not fill without gaps" if size <= room else ""
    raise CompileError(
        f"layer {graph.operations[worst].name!r}: needs {size} bytes of L2, the instance has {room}{pieces}:"
        " take smaller images, or a larger l2_bytes"
    )
