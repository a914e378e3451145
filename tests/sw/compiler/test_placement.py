from __future__ import annotations

import dataclasses
from itertools import combinations, pairwise

import numpy as np
import pytest

from hw.config import AcceleratorConfig, preset
from hw.control.descriptor import VectorOp
from sw.compiler.graph import CompileError, Graph, Value, Vector
from sw.compiler.placement import SLACK, lifetimes, place
from sw.compiler.vectors import pixel_words


def instance(words: int) -> AcceleratorConfig:
    config = dataclasses.replace(preset("ews-tiny"), L=4, l2_bytes=4 * words)
    assert (config.l2_word, config.l2_depth) == (4, words)
    return config


def small(words: int) -> AcceleratorConfig:
    """An instance that sees that many words, fewer than a configuration may have."""

    class Small(AcceleratorConfig):
        @property
        def l2_depth(self) -> int:
            return words

    return Small(**instance(64).to_dict())


def additions(first: int, *others: tuple[int, int, int]) -> Graph:
    """Values of so many words, each but the first the sum of two values before it."""
    graph = Graph(values=[Value("v0", 4, 1, first)], inputs=[0])
    for number, (words, a, b) in enumerate(others, 1):
        graph.add(Value(f"v{number}", 4, 1, words))
        graph.operations.append(Vector(f"v{number}", "add", VectorOp.ADD, (a, b), number))
    graph.outputs = [len(graph.values) - 1]
    return graph


def test_no_two_values_of_one_time_overlap() -> None:
    rng = np.random.default_rng(0)
    fitted = 0
    for _ in range(300):
        sizes = [int(size) for size in rng.integers(2, 30, int(rng.integers(3, 9)))]
        others = [(size, int(rng.integers(max(0, i - 2), i + 1)), i) for i, size in enumerate(sizes[1:])]
        graph = additions(sizes[0], *others)
        kept = {number: int(rng.integers(number, len(sizes))) for number in (2,)}
        try:
            places = place(instance(96), graph, kept)
        except CompileError:
            continue
        fitted += 1
        spans = [(x.first, x.last) for x in places]
        assert [first for first, _ in spans] == [first for first, _ in lifetimes(graph)]
        assert spans[2][1] >= kept[2]
        assert all(x.base >= 0 and x.end <= 96 for x in places)
        for a, b in combinations(places, 2):
            apart = a.end <= b.base or b.end <= a.base
            assert apart or a.last < b.first or b.last < a.first
    assert fitted > 200


def test_space_stays_unused_for_a_while_if_there_is_enough() -> None:
    chain = additions(10, *[(10, i, i) for i in range(12)])
    for depth, slack in ((60, 4), (40, 2), (30, 1), (20, 0)):
        places = place(small(depth), chain, {})
        for a, b in combinations(places, 2):
            if not (a.end <= b.base or b.end <= a.base):
                assert max(a.first, b.first) - min(a.last, b.last) > slack
    assert SLACK == (4, 2, 1, 0)


def test_chains_fill_l2_from_both_ends() -> None:
    """Of a chain two neighbours exist at a time: if they fit, all of it does."""
    sizes = (17, 11, 37, 18, 13, 29, 29, 35, 7, 50, 14)
    graph = additions(sizes[0], *[(size, i, i) for i, size in enumerate(sizes[1:])])
    assert max(a + b for a, b in pairwise(sizes)) == 64
    places = place(instance(64), graph, {})
    assert max(x.end for x in places) == 64


def test_large_values_have_their_places_first() -> None:
    graph = additions(18, (7, 0, 0), (24, 0, 0), (27, 1, 2))
    assert max(x.end for x in place(instance(64), graph, {})) <= 64


def test_a_value_that_nobody_reads_is_never_there() -> None:
    graph = additions(2, (2, 0, 0))
    graph.values.append(Value("idle", 4, 1, 3))
    (first, last) = lifetimes(graph)[2]
    assert (first > len(graph.operations), last) == (True, -1)


def test_message_says_so_where_only_gaps_are_left() -> None:
    graph = additions(7, (38, 0, 0), (4, 0, 1), (17, 1, 2), (26, 2, 3), (14, 3, 4))
    message = "layer 'v3': needs 236 bytes of L2, the instance has 256, which its tensors do not fill without gaps"
    with pytest.raises(CompileError, match=message):
        place(instance(64), graph, {})


def test_pixels_of_what_the_storer_writes_take_whole_vectors() -> None:
    config = preset("ews-tiny")
    assert (config.l2_word, config.L) == (4, 8)
    graph = Graph(values=[Value("input", 3, 1, 1), Value("b", 3, 1, 1), Value("c", 9, 1, 1, wide=True)], inputs=[0])
    assert pixel_words(config, graph) == [1, 2, 16]
    graph.operations.append(Vector("b", "range", VectorOp.SUM, (0,), 1))
    # Operands and results of a vector operation have pixels of one size.
    assert pixel_words(config, graph) == [2, 2, 16]
