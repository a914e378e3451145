"""Vector operations as VECTOR commands: in which rows they run, what they read, and the fields of each.

A map whose channels come from others by moving is made piece by piece. Channels of a piece begin at any byte of a word,
so a piece is up to three commands: the word that it shares with the piece before, the words that take bytes of two
words of the source each, and a last word that takes bytes of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hw.config import AcceleratorConfig
from hw.control.descriptor import TABLE_BYTES, VectorOp
from sw.compiler.graph import CompileError, Graph, Vector

__all__ = ["MOVES", "VECTORS", "check_functions", "pixel_words", "vector_commands", "vector_parts", "vector_reach"]

#: Parts in which a vector operation runs, and one that moves channels, whose parts are several commands: what needs
#: the first part need not wait for all.
VECTORS, MOVES = 8, 2


def check_functions(config: AcceleratorConfig, graph: Graph) -> None:
    """Check that the instance's vector unit has what the operations need.

    Raises
    ------
    CompileError
        It has not. The message names the operation, and the field that decides.
    """
    if config.full_vector_unit:
        return
    for operation in graph.operations:
        if isinstance(operation, Vector) and operation.full:
            raise CompileError(
                f"layer {operation.name!r}: the vector unit of this instance has no {operation.operation}: use "
                "--set vector_unit_functions=full, or a preset such as ews-msvq-full-16"
            )


def pixel_words(config: AcceleratorConfig, graph: Graph) -> list[int]:
    """Words that a pixel of each value takes.

    What the storer writes are whole vectors of L channels; an input needs no more than its channels do. So do results
    of a vector unit with all functions. Elsewhere all operands and results of a vector operation have pixels of one
    size.
    """
    W, L = config.l2_word, config.L
    vectors = [x for x in graph.operations if isinstance(x, Vector)]
    if config.full_vector_unit:
        narrow = {*graph.inputs, *(x.target for x in vectors)}
    else:
        narrow = {*graph.inputs} - {number for x in vectors for number in x.sources}
    narrow |= set(graph.constants)
    sizes = []
    for number, value in enumerate(graph.values):
        if number in narrow:
            sizes.append(-(-value.channels // W))
        else:
            sizes.append(-(-value.channels // L) * (4 if value.wide else 1) * (L // W))
    return sizes


def vector_parts(graph: Graph, operation: Vector) -> Iterator[tuple[int, int]]:
    """Output rows of each part of an operation."""
    rows = graph.values[operation.target].rows
    size = -(-rows // (MOVES if operation.kind == VectorOp.MERGE else VECTORS))
    # A part of an upsampled map begins with the first of the two rows that come from one.
    first = size = size + size % 2 if operation.upsample else size
    first += operation.padding[0] if operation.upsample else 0
    start = 0
    while start < rows:
        end = min(start + (first if start == 0 else size), rows)
        yield start, end
        start = end


def vector_reach(graph: Graph, operation: Vector, source: int, end: int) -> int:
    """Rows of a source, from its first, that the output rows before ``end`` need."""
    rows = graph.values[source].rows
    if source in graph.constants or operation.repeats(graph, source):
        return rows
    if operation.interleave == 1:
        return min(rows, (end - 1) // len(operation.sources) + 1)
    if operation.upsample:
        return min(rows, max(0, end - 1 - operation.padding[0]) // 2 + 1)
    last = operation.start[0] + (end - 1) * operation.stride[0] - operation.padding[0]
    return min(rows, last + operation.kernel[0])


def vector_commands(
    config: AcceleratorConfig,
    graph: Graph,
    operation: Vector,
    rows: tuple[int, int],
    bases: Sequence[int],
    pixels: Sequence[int],
) -> list[dict[str, int]]:
    """The commands of a part, in order, as bodies of descriptors.

    Parameters
    ----------
    config, graph, operation
        What runs where.
    rows
        The first output row, and the one behind the last.
    bases, pixels
        L2 word at which each value begins, and words of a pixel of each.
    """
    start, end = rows
    target = graph.values[operation.target]
    place = bases[operation.target] + start * target.columns * pixels[operation.target]
    found = []
    if operation.lookup and start == 0:
        words = TABLE_BYTES // config.l2_word
        found.append(_body(VectorOp.TABLE, 1, 1, words, a_base=bases[operation.sources[-1]], rows=1, columns=1))
    part = _Part(graph, operation, rows, place, bases, pixels, config.l2_word)
    if operation.kind == VectorOp.MERGE:
        return [*found, *_moves(part)]
    if operation.interleave:
        return list(_turns(part))
    numbers = operation.operands
    source = graph.values[numbers[0]]
    if operation.upsample:
        first = min(max(0, start - operation.padding[0]) // 2, source.rows - 1)
        above = operation.padding[0] if start == 0 else 0
    else:
        top = operation.start[0] + start * operation.stride[0] - operation.padding[0]
        first = max(0, top)
        above = first - top
    starts = [
        bases[x] + (0 if operation.repeats(graph, x) else first * graph.values[x].columns * pixels[x]) for x in numbers
    ]
    body = _body(
        operation.kind,
        end - start,
        target.columns,
        pixels[operation.target],
        kernel_rows=operation.kernel[0],
        kernel_columns=operation.kernel[1],
        stride_rows=operation.stride[0],
        stride_columns=operation.stride[1],
        padding_rows=above,
        padding_columns=operation.padding[1],
        shift=operation.shift,
        a_base=starts[0] + operation.start[1] * pixels[numbers[0]],
        b_base=starts[-1],
        l2_base=place,
        # Both operands give the rows of this part alone: source and result are of one size.
        rows=(end if len(numbers) == 2 else source.rows) - first,
        columns=source.columns,
        low=operation.low,
        high=operation.high,
        multiplier_a=operation.multipliers[0],
        multiplier_b=operation.multipliers[1],
    )
    if config.full_vector_unit:
        # Only words with channels, wherever the pixels of each tensor lie.
        words = -(-target.channels // config.l2_word)
        skips = {"a_skip": pixels[numbers[0]] - words, "l2_skip": pixels[operation.target] - words}
        skips["b_skip"] = -words if operation.repeats(graph, numbers[-1]) else pixels[numbers[-1]] - words
        body |= {"pixel_words": words, "upsample": operation.upsample, "lookup": int(operation.lookup), **skips}
        # Channels that do not exist stay 0, whatever the table makes of 0.
        body["tail"] = target.channels % config.l2_word if operation.lookup else 0
    return [*found, body]


def _body(kind: VectorOp, height: int, width: int, words: int, **fields: int) -> dict[str, int]:
    """A command, of windows of 1 x 1 unless the fields say otherwise."""
    sizes = {"height": height, "width": width, "pixel_words": words, "low": -128, "high": 127}
    window = dict.fromkeys(("kernel_rows", "kernel_columns", "stride_rows", "stride_columns"), 1)
    return {"operation": int(kind), **window, **sizes, **fields}


@dataclass(frozen=True)
class _Part:
    """A part of an operation that moves values, and where they lie in L2."""

    graph: Graph
    operation: Vector
    #: The first output row, and the one behind the last.
    rows: tuple[int, int]
    #: Word at which the part's result begins.
    place: int
    #: Word at which each value begins, and words of a pixel of each.
    bases: Sequence[int]
    pixels: Sequence[int]
    #: Bytes of a word.
    W: int


def _moves(part: _Part) -> Iterator[dict[str, int]]:
    """Commands that move channels: those of each source, one behind the other."""
    W, operation, rows, bases, pixels = part.W, part.operation, part.rows, part.bases, part.pixels
    target, pitch = part.graph.values[operation.target], pixels[operation.target]
    height, last, offset = rows[1] - rows[0], (target.channels - 1) // W, 0
    for number, (start, stop) in zip(operation.sources, operation.pieces, strict=True):
        source = bases[number] + rows[0] * target.columns * pixels[number] + start // W
        there, words = (stop - 1) // W - start // W + 1, (offset + stop - start - 1) // W - offset // W + 1
        assert not (offset and start), "a slice is a map of its own before it becomes a part of another"
        rotation = (offset - start) % W
        # First word of the result, words, and those of the sources: the result itself is -1.
        runs: list[tuple[int, int, int, int | None]] = []
        if not rotation:
            runs.append((0, words, 0, None))
        else:
            done = 0
            if offset % W:
                runs.append((0, 1, -1, 0))
                done = 1
            inner = min(words - done, there - 1)
            if inner:
                runs.append((done, inner, 0, 1))
            if done + inner < words:
                runs.append((done + inner, 1, there - 1, None))
        for at, count, a, b in runs:
            word = offset // W + at
            mine = part.place + word
            yield _body(
                VectorOp.MERGE,
                height,
                target.columns,
                count,
                rows=height,
                columns=target.columns,
                kernel_columns=1 if b is None else 2,
                a_base=mine if a < 0 else source + a,
                b_base=source + (b or 0),
                l2_base=mine,
                a_skip=(pitch if a < 0 else pixels[number]) - count,
                b_skip=pixels[number] - count,
                l2_skip=pitch - count,
                rotation=rotation,
                rotate_a=int(a >= 0 and rotation > 0),
                tail=target.channels % W if word + count - 1 == last else 0,
                low=operation.low,
                high=operation.high,
            )
        offset += stop - start


def _turns(part: _Part) -> Iterator[dict[str, int]]:
    """Commands that put rows or columns of several maps one behind the other, and again."""
    operation, rows, bases, pixels = part.operation, part.rows, part.bases, part.pixels
    source, pitch = part.graph.values[operation.sources[0]], pixels[operation.target]
    words, turns = -(-source.channels // part.W), len(operation.sources)
    # Of each command: a source, its first row, rows, where the result begins, and from one pixel of it to the next.
    if operation.interleave == 1:
        line = source.columns * pitch
        runs = [(row % turns, row // turns, 1, (row - rows[0]) * line, pitch) for row in range(*rows)]
    else:
        runs = [(turn, rows[0], rows[1] - rows[0], turn * pitch, turns * pitch) for turn in range(turns)]
    for turn, first, height, offset, step in runs:
        number = operation.sources[turn]
        base = bases[number] + first * source.columns * pixels[number]
        yield _body(
            operation.kind,
            height,
            source.columns,
            words,
            rows=height,
            columns=source.columns,
            a_base=base,
            b_base=base,
            l2_base=part.place + offset,
            a_skip=pixels[number] - words,
            b_skip=pixels[number] - words,
            l2_skip=step - words,
            low=operation.low,
            high=operation.high,
        )
