"""Mutants: what is changed and what is not, which of them a test finds, and that nothing is tried twice."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from tests.mutants import __main__ as module
from tests.mutants.__main__ import (
    BLOCKS,
    Block,
    drawn,
    equivalent,
    main,
    own_tests,
    score,
    table,
    tried_before,
    try_mutants,
)
from tests.mutants.mutate import meaning, mutants_of


def changes(source: str) -> set[str]:
    return {mutant.applied(source) for mutant in mutants_of("x.py", source)}


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("a == b", {"a != b"}),
        ("a <= b < c", {"a < b < c", "a <= b <= c"}),
        ("a + b", {"a - b"}),
        ("(a) << (b)", {"(a) >> (b)"}),
        ("a and b or c", {"a or b or c", "a and b and c"}),
        ("x is not None", {"x is None"}),
        ("~a & b", {"a & b", "~a | b"}),
        ("x = -2", {"x = 2", "x = -3"}),
        ("x = 1", {"x = 0"}),
        ("x = True", {"x = False"}),
        ("Mux(a, b, c)", {"pass", "Mux(a, c, b)"}),
        ("x = Mux(a, (b), [c])", {"x = Mux(a, ([c]), b)"}),
        ("y = [a.eq(b), c]", {"y = [*[], c]"}),
        ("d += [a.eq(b)]", {"pass", "d += [*[]]"}),
        ("with m.If(a):\n    x", {"with m.If(1):\n    x"}),
        ("x = a if b else c", {"x = a if True else c", "x = a if False else c"}),
        ("wide = 'äö', 3", {"wide = 'äö', 4"}),
        ("'''Text.'''\nfrom a import b\nassert 1\nraise E(1)\nx: int | None\ny = f'{1 + 2}'", set()),
    ],
)
def test_what_is_changed(source: str, wanted: set[str]) -> None:
    assert changes(source) == wanted


def test_what_a_source_means_is_neither_documentation_nor_layout() -> None:
    source = "def f(a):\n    return g(a, b=1) + a[0]\n\n\nx: int = 2\n"
    other = "'''Text.'''\n\n\ndef f(a):\n    'Text.'\n    # why\n"
    other += "    return (\n        g(\n            a,\n            b=1,\n        ) + a[0]  # and\n    )\n"
    other += "x: int = (2)\n'Of x.'\n"
    assert meaning(source) == meaning(other)
    for old, new in (("1", "2"), ("+ a", "- a"), ("int", "str"), ("f(a)", "f(a, b)"), ("x: int = 2", "'x', 2")):
        assert meaning(source.replace(old, new)) != meaning(source)
    assert meaning("a.eq(\n    b  # c\n)") == meaning("a.eq(b)")
    assert meaning("a +\n    b") == meaning("a + b")
    assert meaning("is not") == "is not"


def test_every_block_has_tests_that_exist() -> None:
    assert len(BLOCKS) >= 45
    # Units and what they are made of; not tables, settings and commands.
    assert {"hw/core.py", "hw/bus/axi.py", "hw/postprocess/loops.py", "hw/control/bodies.py", "hw/rtlil.py"} < set(
        BLOCKS
    )
    assert not {"hw/generate.py", "hw/config.py", "hw/bus/register_map.py", "hw/control/__init__.py"} & set(BLOCKS)
    for block in BLOCKS.values():
        assert block.tests, block.name
        for name in (*block.files, *block.tests):
            assert (module.ROOT / name).exists(), (block.name, name)
    kernels = {"sw/compress/kmeans_triton.py", "sw/compress/training/fused.py"}
    assert all((module.ROOT / name).exists() for name in kernels)
    assert kernels.isdisjoint(BLOCKS["sw/compress"].files) == (importlib.util.find_spec("triton") is None)
    few, more = (drawn(BLOCKS["hw/bus/fifo.py"], count, 0) for count in (5, 20))
    assert (len(few), len(more)) == (5, 20)
    assert set(few) < set(more)
    assert set(few) != set(drawn(BLOCKS["hw/bus/fifo.py"], 5, 1))


def test_equivalent_changes_are_there_and_have_a_reason() -> None:
    for entry in equivalent():
        source = (module.ROOT / entry["file"]).read_text()
        places = [(x.code, x.old, x.new) for x in mutants_of(entry["file"], source)]
        assert (entry["code"], entry["old"], entry["new"]) in places, entry
        assert len(entry["reason"]) > 20


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Block:
    """A block with a test that leaves something out."""
    for name in ("hw", "tests"):
        (tmp_path / name).mkdir()
    (tmp_path / "hw" / "__init__.py").write_text("")
    (tmp_path / "hw" / "x.py").write_text("def f(a, b):\n    while a < 0:\n        a += 5\n    return a + b\n")
    (tmp_path / "tests" / "test_x.py").write_text(
        # What does not end waits, and leaves the processor to others.
        "import time\nfrom hw.x import f\n\nclass Slow(int):\n    def __lt__(self, other):\n"
        "        time.sleep(0.02)\n        return int(self) < other\n"
        "    def __add__(self, other): return Slow(int(self) + other)\n"
        "    def __sub__(self, other): return Slow(int(self) - other)\n\ndef test_f():\n"
        f"    with open({str(tmp_path / 'runs')!r}, 'a') as file:\n        file.write('.')\n"
        "    assert f(Slow(-3), 0) == 2\n    assert f(1, 0) == 1\n"
    )
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / "equivalent.json").write_text("[]")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "EQUIVALENT", tmp_path / "equivalent.json")
    monkeypatch.setattr(module, "SPARE_SECONDS", 1.2)
    # pytest takes seconds to start.
    monkeypatch.setattr(module, "RUNNER", ("-c", "import runpy, sys; runpy.run_path(sys.argv[1])['test_f']()"))
    return Block("hw/x.py", ("hw/x.py",), ("tests/test_x.py",))


def test_survivors_are_found_and_nothing_is_tried_twice(
    project: Block, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, tried = tmp_path / "runs", tmp_path / "tried.jsonl"
    first = try_mutants([project], 99, 0, 1, False, tried)
    entries = first["hw/x.py"]
    verdicts = {(entry["old"], entry["new"]): entry["own"] for entry in entries}
    assert verdicts["a += 5", "pass"] == "late"  # it would not end
    assert verdicts["5", "6"] == "failed"
    assert verdicts["+", "-"] == verdicts["<", "<="] == "passed"
    assert {entry["by"] for entry in entries if entry["own"] != "passed"} == {"tests/test_x.py"}
    found = score(entries)
    survivors = [entry for entry in entries if entry["own"] == "passed"]
    assert found["own"] == found["any"] == found["tried"] - len(survivors) == len(entries) - len(found["left"])
    assert "hw/x.py:4: return a + b: '+' -> '-'" in capsys.readouterr().out
    assert (tmp_path / "hw" / "x.py").read_text().endswith("return a + b\n")

    before = runs.read_text()
    assert tried_before([project], 99, 0, tried) == first
    again = try_mutants([project], 99, 0, 2, False, tried)
    assert score(again["hw/x.py"]) == found
    assert runs.read_text() == before

    # Neither is it where documentation, comments and layout have changed, of the source and of its tests.
    path, test = tmp_path / "hw" / "x.py", tmp_path / "tests" / "test_x.py"
    source, tests, other = path.read_text(), test.read_text(), tmp_path / "other.jsonl"
    other.write_text(tried.read_text())
    path.write_text(
        '\'Text.\'\n\n\ndef f(a, b):\n    """Of +, < and 5."""\n    while a < 0:  # -5 is 5\n'
        "        a += (\n            5\n        )\n    return (a) + b\n"
    )
    test.write_text("# why\n" + tests)
    assert score(try_mutants([project], 99, 0, 1, False, other)["hw/x.py"])["own"] == found["own"]
    assert runs.read_text() == before
    # It is where one of two changes alike is another one's.
    path.write_text(source.replace("return a", "a += 5 if a < 0 else 0\n    return a"))
    try_mutants([project], 99, 0, 1, False, other)
    assert runs.read_text() != before
    before = runs.read_text()
    path.write_text(source)
    test.write_text(tests)

    # An interrupted run goes on, its last line half written; a change that changes nothing does not count.
    lines = tried.read_text().splitlines(keepends=True)
    tried.write_text("".join(lines[:-1]) + lines[-1][:9])
    place = {name: survivors[0][name] for name in ("file", "code", "old", "new")}
    (tmp_path / "equivalent.json").write_text(json.dumps([{**place, "reason": "because"}]))
    third = score(try_mutants([project], 99, 0, 1, False, tried)["hw/x.py"])
    assert len(runs.read_text()) == len(before) + 2  # the tests as they are, and one change
    assert (third["equivalent"], len(third["left"])) == (1, len(found["left"]) - 1)


def test_new_tests_are_tried_with_the_survivors_alone(
    project: Block, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, tried, test = tmp_path / "runs", tmp_path / "tried.jsonl", tmp_path / "tests" / "test_x.py"
    entries = try_mutants([project], 99, 0, 1, False, tried)["hw/x.py"]
    survivors = sum(entry["own"] == "passed" for entry in entries)
    before = len(runs.read_text())
    test.write_text(test.read_text() + "    assert f(0, 1) == 1\n    assert f(-5, 2) == 2\n")
    again = try_mutants([project], 99, 0, 1, False, tried)["hw/x.py"]
    assert len(runs.read_text()) == before + 1 + survivors
    assert all(entry["own"] != "passed" for entry in again)

    # What fails as it is finds nothing: it is left out, aloud, and so is a block that has nothing else.
    (tmp_path / "hw" / "x.py").write_text("def f(a, b):\n    return a + b\n")
    assert try_mutants([project], 99, 0, 1, False, tried) == {}
    out = capsys.readouterr().out
    assert "hw/x.py: left out, as it fails with the sources as they are: tests/test_x.py" in out
    assert "hw/x.py: NOT TRIED, no test of its own is left" in out


def test_what_is_edited_meanwhile_is_tried_as_it_was(
    project: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, test = tmp_path / "hw" / "x.py", tmp_path / "tests" / "test_x.py"
    whole = try_mutants([project], 99, 0, 1, False, tmp_path / "tried.jsonl")
    # The first run edits what is to be changed and what tests it.
    edit = "import pathlib\nfor name in ({!r}, {!r}):\n    pathlib.Path(name).write_text('x = 1 + 2\\n' * 9)\n"
    text = source.read_text(), test.read_text()
    runner = f"import runpy, sys; runpy.run_path(sys.argv[1])['test_f']()\n{edit.format(str(source), str(test))}"
    monkeypatch.setattr(module, "RUNNER", ("-c", runner))
    found = try_mutants([project], 99, 0, 2, False, tmp_path / "other.jsonl")
    assert source.read_text() != text[0]
    keys = ("line", "old", "new", "own", "state", "tests")
    assert [[x[key] for key in keys] for x in found["hw/x.py"]] == [[x[key] for key in keys] for x in whole["hw/x.py"]]


def test_namesakes_come_first() -> None:
    files = own_tests(BLOCKS["sw/compress"], "sw/compress/pruning.py")
    assert sorted(files) == own_tests(BLOCKS["sw/compress"])
    assert files[0] == "tests/sw/compress/test_pruning.py"
    mentions = [name for name in files if "sw.compress.pruning" in (module.ROOT / name).read_text()]
    assert set(files[1 : len(mentions)]) <= set(mentions)


def test_page_is_the_committed_results() -> None:
    committed = json.loads(module.COMMITTED.read_text())
    assert "\n".join(table(committed)) in module.PAGE.read_text()
    # Whatever makes hardware has a row.
    assert set(committed) == set(BLOCKS)


@pytest.mark.parametrize("name", ["count", "jobs"])
def test_command_refuses(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([f"--{name}", "0"])
    assert f"{name} must be at least 1, not 0" in capsys.readouterr().err
