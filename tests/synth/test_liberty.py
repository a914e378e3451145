"""Reading cell libraries: what is found, and what is refused."""

from __future__ import annotations

import gzip
import random
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from synth.__main__ import main
from synth.generic import _text, generic
from synth.liberty import LibraryError, load, truth
from synth.osu018 import osu018
from tests.refusals import refusals

GENERIC = _text()


def without(cell: str) -> str:
    """The generic library without the cells whose names start so."""
    return "\n".join(line for line in GENERIC.split("\n") if not line.startswith(f"cell ({cell}"))


def test_cells_of_the_generic_library() -> None:
    library = generic()
    assert (library.nand2.name, library.nand2.area) == ("NAND2", 1.0)
    assert library.full_adder is not None
    assert (library.full_adder.cell, library.full_adder.sum, library.full_adder.carry) == ("FA", "S", "CO")
    assert library.clock_gate is not None
    assert (library.clock_gate.enable, library.clock_gate.out, library.clock_gate.test) == ("E", "GCK", ())
    assert library.latch is not None
    assert (library.latch.enable, library.latch.data, library.latch.out) == ("G", "D", "Q")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ('function : "A^B^C"', 'function : "(A ^ B) ^ C"'),
        ('function : "A^B^C"', "function : \"A B C + A B' C' + !A B !C + (A' * B' * C)\""),
    ],
)
def test_full_adder_is_found_by_its_function(written, read, tmp_path) -> None:
    path = tmp_path / "other.lib"
    assert written in GENERIC
    path.write_text(GENERIC.replace(written, read))
    adder = load([path]).full_adder
    assert adder is not None
    assert not adder.inverted_sum


def test_inverted_outputs_of_a_full_adder(tmp_path) -> None:
    path = tmp_path / "other.lib"
    path.write_text(GENERIC.replace('function : "A^B^C"', 'function : "!(A^B^C)"'))
    adder = load([path]).full_adder
    assert adder is not None
    assert (adder.inverted_sum, adder.inverted_carry) == (True, False)


def test_compressed_and_split_files_are_one_library(tmp_path) -> None:
    whole, flops, logic = tmp_path / "whole.lib.gz", tmp_path / "flops.lib", tmp_path / "logic.lib"
    whole.write_bytes(gzip.compress(GENERIC.encode()))
    header = GENERIC[: GENERIC.index("cell (")]
    flop = next(line for line in GENERIC.split("\n") if line.startswith("cell (DFF"))
    flops.write_text(f"{header}{flop}\n}}\n")
    logic.write_text(without("DFF"))
    assert load([whole]).name == "whole"
    assert load([logic, flops]).cells == load([whole]).cells


def with_area(area: str) -> bytes:
    """The generic library with another area of the cells that have NAND2's."""
    return GENERIC.replace("area : 1.0", f"area : {area}").encode()


BAD = {
    "empty": (b"", "not a Liberty file: no library group"),
    "prose": (b"This is not a library.", "not a Liberty file: no library group"),
    "verilog": (b"module a (input b);\nalways begin {b} end\nendmodule", "not a Liberty file"),
    "binary": (bytes(range(256)), "not a Liberty file: not text"),
    "other group": (b"cell (A) { area : 1; }", "the outermost group is 'cell', not 'library'"),
    "cut short": (GENERIC[: len(GENERIC) // 2].encode(), "corrupt Liberty file: group '.*' is not closed"),
    "brace too many": ((GENERIC + "}").encode(), "corrupt Liberty file: a '}' too many"),
    "area": (GENERIC.replace("area : 1.0", "area : large").encode(), "area of cell .* is 'large'"),
    "area inf": (
        with_area("inf"),
        "area of cell BUF must be finite and at least 0, not inf",
    ),
    "area nan": (
        with_area("nan"),
        "area of cell BUF must be finite and at least 0, not nan",
    ),
    "area below 0": (
        with_area("-1"),
        "area of cell BUF must be finite and at least 0, not -1.0",
    ),
    "NAND2 of area 0": (with_area("0"), "NAND NAND2 must be above 0, not 0"),
    "no flip-flop": (without("DFF").encode(), "no flip-flop in the library"),
    "no NAND2": (without("NAND2").encode(), "no two-input NAND in the library"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD)
def test_bad_files(content, message, tmp_path) -> None:
    path = tmp_path / "bad.lib"
    path.write_bytes(content)
    with pytest.raises(LibraryError, match=message):
        load([path])


def test_broken_archive(tmp_path) -> None:
    path = tmp_path / "bad.lib.gz"
    path.write_bytes(gzip.compress(GENERIC.encode())[:200])
    with pytest.raises(LibraryError, match=r"bad\.lib\.gz: cannot read the Liberty file"):
        load([path])


_GZIP = gzip.compress(b"library (a) {") + 2100 * gzip.compress(bytes(1 << 20))
BOMBS = {
    "gzip": (
        _GZIP,
        "the library must have at most 128 MiB, unpacked",
    ),
    "groups": (b"library(a){" + b"a(){" * 1_000_000, "groups lie more than 100 deep"),
    "cells": (b"library(a){" + b"cell(a){}" * 200_000, "the library must have at most 100000 cells"),
    "pins": (b"library(a){cell(a){pin(" + b"a," * 1_000_000 + b"){}}}", "cell a must have at most 10000 pins"),
    "comments": (b"/*" * 1_000_000, "no library group"),
    "one comment": (b"/*" + b"/ *" * 1_000_000, "no library group"),
    "name": (b"a" * 1_000_000 + b"{", "no group name"),
    "spaces": (b"library(a){ a :" + b" " * 1_000_000 + b'x"y"z; }', "no two-input NAND"),
    "semicolons": (b"library(a){" + b";" * 1_000_000, "'library' is not closed"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_small_files_that_want_much(name, tmp_path) -> None:
    """Of each, a tenth of the time and memory that it would take if they grew with the square, or were not limited."""
    content, message = BOMBS[name]
    path = tmp_path / ("bomb.lib.gz" if name == "gzip" else "bomb.lib")
    path.write_bytes(content)
    script = (
        "import resource, sys; from pathlib import Path; from synth.liberty import LibraryError, load\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29))\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (5, 5))\n"
        "try: load([Path(sys.argv[1])])\n"
        "except LibraryError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert re.search(message, done.stdout), done.stdout


@pytest.mark.parametrize(
    "function",
    [
        "(" * 4000 + "A*B" + ")" * 4000 + "'",
        "+".join(["(A*B)"] * 1500) + ")'",
        "!" * 9001 + "(A*B)",
        "!(A B)" + "'" * 8000,
    ],
)
def test_long_functions_are_read(function: str) -> None:
    function = function if function.count("(") == function.count(")") else f"({function}"
    assert truth(function, ["A", "B"]) == (True, True, True, False)


def test_functions_that_are_too_long_are_not() -> None:
    assert truth("+".join(["A"] * 10_000), ["A"]) is None
    assert truth("A", [*"ABCDEFGHIJKLMNOPQ"]) is None


@pytest.mark.parametrize("function", ["", "A+", "(A", "A)", "()", "!", "A+*B", "'", "A^", "C"])
def test_functions_that_cannot_be_read(function: str) -> None:
    assert truth(function, ["A", "B"]) is None


def test_damaged_archives(tmp_path) -> None:
    """Bytes of a compressed library changed, left out and added anywhere."""
    whole = gzip.compress(GENERIC.encode())
    path, rng = tmp_path / "bad.lib.gz", random.Random(1)
    messages = []
    for _ in range(300):
        start = rng.randrange(len(whole))
        path.write_bytes(whole[:start] + rng.randbytes(rng.randrange(4)) + whole[start + rng.randrange(4) :])
        with suppress(LibraryError):
            load([path])
            continue
        with pytest.raises(LibraryError) as raised:
            load([path])
        messages.append(str(raised.value))
    assert len(messages) > 200
    assert all(re.fullmatch(rf"{path}: .*", message) for message in messages)


def test_missing_file() -> None:
    with pytest.raises(LibraryError, match=r"nowhere\.lib: cannot read the Liberty file: No such file"):
        load([Path("nowhere.lib")])


def test_a_cell_of_two_files_is_refused(tmp_path) -> None:
    """The same library twice, or two corners of one: which cell would be the one that counts?"""
    paths = [tmp_path / "a.lib", tmp_path / "b.lib"]
    for path in paths:
        path.write_text(GENERIC)
    for pair in (paths, paths[:1] * 2):
        with pytest.raises(LibraryError, match=rf"cell \w+ is in {pair[0]} and in {pair[1]}: give a library once"):
            load(pair)


def test_library_with_too_few_cells_for_abc(tmp_path, monkeypatch, capsys) -> None:
    lines = [line for line in GENERIC.split("\n") if not line.startswith("cell (") or line.startswith(FEW)]
    (tmp_path / "few.lib").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["--preset", "ews-tiny", "--lib", "few.lib"])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error == "python -m synth: ABC: Library with only 1 cell classes cannot be used.\n"


FEW = ("cell (NAND2", "cell (DFF")


def test_osu018_without_apt(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LibraryError, match=r"Debian's package qflow-tech-osu018, but there is no apt-get here"):
        osu018(tmp_path)


@refusals(
    """
    --pdk tsmc -> unknown library 'tsmc'; the libraries are generic, osu018
    --lib nowhere.lib -> nowhere.lib: cannot read the Liberty file
    --pdk generic --lib a.lib -> give a named library or Liberty files, not both
    --lib '' -> argument --lib: must not be empty
    --preset ews-1 -> unknown preset 'ews-1'
    --set H=2 -> --set must be given with --preset NAME, whose field it changes; without it
    --preset ews-tiny --set d=3 -> L must be a multiple of d = 3, not 8
    --preset ews-tiny --storage sram -> invalid choice: 'sram'
    --preset ews-tiny --unit crf -> no unit 'crf' in ews; the units are arf, control
    """
)
def test_bad_arguments(arguments, message, tmp_path, monkeypatch, refused) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(main, arguments)
    assert not (tmp_path / "build" / "synth" / "area.json").exists()
