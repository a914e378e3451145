"""docs/architecture.md and its pictures show the hardware as it is."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest

from hw.config import PRESETS, preset
from hw.layout import Schedule
from sim.scenarios import random_activations, random_layer
from sim.transfers import layer_program
from sw.schedule import advance, tile_timings
from sw.schedule.cycles import loader_latency
from tools import architecture, overview, pictures, schedule_picture


def program(name: str, shape, size, extensions, word_width=16, **fields):
    config = replace(preset(name), word_width=word_width)
    rng = np.random.default_rng(1)
    layer = random_layer(config, rng, shape, **fields)
    activations = random_activations(rng, (shape[1], *size))
    return config, layer_program(config, layer, activations, Schedule(config.H, config.L, *extensions))


def loop_nest(config, layer):
    """Operations of MVQ figure 7 in the cycles that sw.perf gives, with the rings that they go round."""
    wrf = arf = prf = 0
    E, F = layer.output
    for _, timing in tile_timings(config, [layer.run]):
        tile, cycle = timing.tile, timing.started
        A, B, D = tile.A, tile.B, tile.D
        for _, column in product(range(E), range(F)):
            for q, r, s in product(range(D), range(B), range(A)):
                vector = q * B + r
                yield schedule_picture.Operation(
                    cycle,
                    (wrf + vector * A + s) % config.wrf_depth,
                    (arf + vector) % config.arf_depth,
                    (prf + s) % config.prf_depth,
                )
                cycle += 1
            arf += B * D if column == F - 1 else advance(layer.layer, tile)
            prf += A
        assert cycle == timing.issued + 1
        wrf += A * B * D


CASES = {
    "example": schedule_picture.schedule_example,
    "full-wrf": lambda: program("ews-cms-tiny", (32, 20, 1, 2), (2, 3), (4, 2, 1, 2)),
    "edges": lambda: program("ews-msvq-tiny", (12, 10, 3, 1), (5, 3), (2, 2, 3, 1), stride=(2, 1)),
    "raw": lambda: program("ews-tiny", (64, 16, 1, 2), (2, 5), (8, 2, 1, 1), word_width=64, stride=(1, 2)),
}


@pytest.fixture(scope="module", params=list(CASES))
def traced(request):
    config, layer = CASES[request.param]()
    return config, layer, schedule_picture.core_trace(config, layer)


def test_trace_is_the_loop_nest(traced) -> None:
    config, layer, trace = traced
    assert trace.operations == list(loop_nest(config, layer))


def test_trace_is_in_the_predicted_cycles(traced) -> None:
    config, layer, trace = traced
    timings = [timing for _, timing in tile_timings(config, [layer.run])]
    assert trace.commands == [timing.accepted for timing in timings]
    written, entry = 0, 0
    for timing in timings:
        tile = timing.tile
        entries = []
        for _, r, _ in product(range(tile.D), range(tile.B), range(tile.A)):
            entries += [entry % config.wrf_depth] * (tile.rows if r == tile.B - 1 else config.H)
            entry += 1
        rows = trace.wrf_writes[written : written + len(entries)]
        assert [address for _, address in rows] == entries
        assert rows[-1][0] == timing.loaded + config.decoder_stages
        written += len(entries)
    assert written == len(trace.wrf_writes)
    ends = np.cumsum(layer.vectors) - 1
    assert [trace.leaves[end][0] for end in ends] == [timing.finished for timing in timings]
    assert [entry for _, entry in trace.leaves] == [i % config.prf_depth for i in range(sum(layer.vectors))]
    assert [entry for _, entry in trace.arf_writes] == [i % config.arf_depth for i in range(len(trace.arf_writes))]


def distances(writes, reads):
    """Cycles from the last read of an entry's earlier content to its next write, and from a write to the next read."""
    events = sorted([(cycle, 0, entry) for cycle, entry in reads] + [(cycle, 1, entry) for cycle, entry in writes])
    last: dict[int, tuple[int, int]] = {}
    found: tuple[list[int], list[int]] = ([], [])
    for cycle, write, entry in events:
        before, was_write = last.get(entry, (cycle, write))
        if write != was_write:
            found[0 if write else 1].append(cycle - before)
        last[entry] = cycle, write
    return found


def test_entries_are_written_between_their_uses(traced) -> None:
    """What docs/architecture.md says of hazards: distances in cycles, which are the least where something waits."""
    config, layer, trace = traced
    pipeline = 4 if config.features.codebook else 2
    assert loader_latency(config) == pipeline
    to_write, to_read = distances(trace.wrf_writes, [(op.cycle, op.wrf) for op in trace.operations])
    assert min(to_read) >= 1
    tile = layer.tiles[0]
    if config.wrf_depth == tile.A * tile.B * tile.D:
        assert min(to_write) == pipeline
    else:
        assert min(to_write, default=pipeline) >= pipeline
    assert config.product_latency < pipeline or not config.position_bits
    to_write, to_read = distances(trace.arf_writes, [(op.cycle, op.arf) for op in trace.operations])
    assert min(to_write) == 1
    assert min(to_read) >= 1


def test_example_uses_the_entries_of_the_text() -> None:
    config, layer = schedule_picture.schedule_example()
    operations = schedule_picture.core_trace(config, layer).operations
    assert {op.wrf for op in operations[:48]} == set(range(8)) == {op.wrf for op in operations[96:]}
    assert {op.wrf for op in operations[48:96]} == set(range(8, 16))


def boxes_of_texts(svg: str):
    for text in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text"):
        x, y, size = (float(text.get(key)) for key in ("x", "y", "font-size"))
        width = 0.5 * size * len(text.text)
        left = x - {"start": 0, "middle": 0.5, "end": 1}[text.get("text-anchor")] * width
        yield text.text, left, y - 0.7 * size, left + width, y


DRAWINGS = (pictures.blocks, pictures.streams)
DRAWN = {
    **{f"{draw.__name__}-{name}": (draw, preset(name), name) for name in PRESETS for draw in DRAWINGS},
    "schedule": (schedule_picture.schedule,),
    "path": (overview.path,),
    "house": (overview.house,),
    f"whole_ip-{architecture.SHOWN}": (overview.whole_ip, preset(architecture.SHOWN), architecture.SHOWN),
}


@pytest.mark.parametrize("picture", DRAWN)
def test_texts_are_apart_and_inside(picture: str) -> None:
    draw, *arguments = DRAWN[picture]
    svg = draw(*arguments)
    root = ElementTree.fromstring(svg)
    texts = list(boxes_of_texts(svg))
    for text, left, top, right, bottom in texts:
        assert left >= 14, text
        assert top >= 0, text
        assert right <= float(root.get("width")), text
        assert bottom <= float(root.get("height")), text
    for (text, *a), (other, *b) in combinations(texts, 2):
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert apart, f"{text!r} over {other!r}"


@pytest.mark.parametrize(
    "picture",
    [
        f"blocks-{architecture.SHOWN}",
        f"streams-{architecture.SHOWN}",
        "schedule",
        "path",
        "house",
        f"whole_ip-{architecture.SHOWN}",
    ],
)
def test_committed_pictures_are_of_the_present_hardware(picture: str) -> None:
    draw, *arguments = DRAWN[picture]
    committed = (architecture.DOCS / f"{draw.__name__.removeprefix('whole_')}.svg").read_text()
    assert committed == draw(*arguments), "run python -m tools.pictures"


def test_rooms_import_downwards_only() -> None:
    arrows = overview.arrows()
    assert arrows["sw"] == {"hw"}
    assert not arrows["hw"]
    assert [
        (room, other)
        for room, others in arrows.items()
        for other in others
        if overview.ROOMS[other][0] >= overview.ROOMS[room][0]
    ] == []


def test_committed_tables_are_of_the_present_hardware() -> None:
    text = architecture.ARCHITECTURE.read_text()
    assert architecture.render(text) == text, "run python -m tools.pictures"


def test_missing_part_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"architecture\.md must have one part 'instances', not 0"):
        architecture.render("# nothing marked here\n")


def test_links_lead_somewhere() -> None:
    text = architecture.ARCHITECTURE.read_text()
    headings = {
        re.sub(r"[^\w -]", "", line).lower().strip().replace(" ", "-") for line in re.findall(r"^#+ (.*)$", text, re.M)
    }
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        file, _, anchor = target.partition("#")
        assert (architecture.DOCS / file).exists(), target
        assert file or anchor in headings, target


def test_files_and_names_of_the_text_exist() -> None:
    text = architecture.ARCHITECTURE.read_text()
    root = architecture.DOCS.parent
    for path in re.findall(r"`((?:hw|sw|sim|docs)/[\w/.]*)`", text):
        assert (root / path).exists(), path


def test_command_line_draws_another_instance(tmp_path, capsys) -> None:
    assert pictures.main(["--preset", "ews-tiny", "--set", "H=2", "-o", str(tmp_path)]) == 0
    paths = [tmp_path / f"ews-tiny-H-2-{name}.svg" for name in ("blocks", "streams")]
    assert capsys.readouterr().out.split() == [str(path) for path in paths]
    assert all("ews-tiny-H-2" in path.read_text() for path in paths)
    assert "2 x 8" in paths[0].read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "ews-tiny"], "--preset and -o belong together"),
        (["--set", "H=2"], "--preset and -o belong together"),
        (["--preset", "ews-7", "-o", "x"], "unknown preset 'ews-7'"),
        (["--preset", "ews-tiny", "--set", "H=0", "-o", "x"], r"H must be in 1\.\.256, not 0"),
        (["--preset", "ews-tiny", "-o", ""], "argument -o: must not be empty"),
        (["--preset", "ews-tiny", "-o", "/proc/x"], "cannot write: .*'/proc/x'"),
    ],
)
def test_bad_command_lines(arguments: list[str], message: str, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        pictures.main(arguments)
    assert re.search(message, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())
