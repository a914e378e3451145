"""Directories of photographs, from small git repositories."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from experiments import photographs
from experiments.common import RESULTS
from experiments.pictures import picture_files
from experiments.repositories import contents, drawn, find_clones, read_sources
from tests.refusals import Refused


def git(directory: Path, *arguments: str) -> str:
    """Whatever the settings of the one who runs the tests are."""
    own = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-c", "user.name=A", "-c", "user.email=a@b", "-C", str(directory), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env={**surroundings, **own}).stdout


def smooth(seed: int, size: tuple[int, int] = (400, 300)) -> Image.Image:
    """A picture unlike those of other seeds."""
    values = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(values).resize(size, Image.Resampling.BICUBIC)


def row(**own: Any) -> dict[str, Any]:
    """Of the list of sources."""
    limits = {"of_group": 10, "in_all": 10, "least": 200, "leave": None, "licence": None}
    return {"take": "^pictures/", "directory": "photographs", **limits, **own}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The clones of two repositories, and the list of sources."""
    clones = tmp_path_factory.mktemp("photographs")
    pets, views = clones / "me+pets", clones / "you+views"
    for folder in ("cats", "dogs", "ILSVRC2012"):
        (pets / "pictures" / folder).mkdir(parents=True)
    pictures = {f"cats/{number}.png": smooth(number) for number in range(5)}
    pictures |= {f"dogs/{number}.JPG": smooth(10 + number) for number in range(2)}
    pictures |= {"cats/double.png": smooth(0, (280, 210)), "cats/small.png": smooth(20, (300, 199))}
    pictures |= {"cats/drawing.png": Image.new("RGB", (300, 300), "white"), "dogs/strip.png": smooth(21, (2000, 200))}
    pictures |= {"dogs/ILSVRC2012_val_00000007.png": smooth(22), "ILSVRC2012/1.png": smooth(23)}
    for name, picture in pictures.items():
        picture.save(pets / "pictures" / name)
    (pets / "pictures" / "cats" / "broken.png").write_bytes((pets / "pictures/cats/1.png").read_bytes()[:1000])
    (pets / "pictures" / "cats" / "about.txt").write_text("cats")
    (pets / "pictures" / "cats" / "link.png").symlink_to("0.png")
    (views / "pictures").mkdir(parents=True)
    for number in range(3):
        smooth(30 + number, (250, 230)).save(views / "pictures" / f"{number}.webp")
    for directory in (pets, views):
        git(directory, "init", "--quiet")
        git(directory, "add", ".")
        git(directory, "commit", "--quiet", "--message", "pictures")
    # Not what is checked out counts, but the commit.
    git(pets, "rm", "-r", "--quiet", "pictures")
    git(pets, "commit", "--quiet", "--message", "none")
    (clones / "you+bare").mkdir()
    git(clones, "clone", "--quiet", "--bare", str(views), "you+bare/repo")
    sources = [
        row(name="pets", repository="me/pets", commit=git(pets, "rev-parse", "HEAD~1").strip(), licence="MIT"),
        row(name="bare", repository="you/bare", commit=git(views, "rev-parse", "HEAD").strip(), directory="like"),
    ]
    return clones, {"validation": "ILSVRC2012_val|ILSVRC2012/", "sources": sources}


def listed(folder: Path, content: dict[str, Any], *changes: dict[str, Any]) -> Path:
    """The list as a file, each source with some other values."""
    sources = [{**source, **change} for source, change in zip(content["sources"], changes or ({}, {}), strict=True)]
    path = folder / "list.json"
    path.write_text(json.dumps({**content, "sources": sources}))
    return path


def test_pictures_come_out_in_halves_and_what_is_none_is_counted(
    made: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clones, content = made
    arguments = [str(clones), str(tmp_path / "out"), "--sources", str(listed(tmp_path, content)), "--quiet"]
    assert photographs.main([*arguments, "--json", str(tmp_path / "report.json")]) == 0
    assert "10 pictures of 2 sources" in (told := capsys.readouterr().out)
    assert "left out: 1 broken, 2 small, 1 drawings, 1 doubles" in told
    names = [path.relative_to(tmp_path / "out").as_posix() for path in picture_files(tmp_path / "out")]
    assert names == [
        *(f"like/bare_0000{number}.webp" for number in range(3)),
        *(f"photographs/a/pets_0000{number}.webp" for number in (0, 2, 4, 6)),
        *(f"photographs/b/pets_0000{number}.webp" for number in (1, 3, 5)),
    ]
    sizes = Counter(Image.open(path).size for path in picture_files(tmp_path / "out"))
    # Of the two that are doubles, the one drawn first is there.
    assert sizes[250, 230] == 3
    assert sizes[341, 256] + sizes[280, 210] == 7
    assert sizes[341, 256] >= 6
    pets, bare = json.loads((tmp_path / "report.json").read_text())["sources"]
    # Neither validation images nor links are read.
    assert (pets["read"], pets["written"], pets["licence"]) == (12, 7, "MIT")
    assert (bare["read"], bare["written"], bare["licence"]) == (3, 3, None)
    arguments[1] = str(tmp_path / "again")
    assert photographs.main(arguments) == 0
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["again", "list.json", "out", "report.json"]


def test_side_is_another_where_it_is_said(made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    clones, content = made
    arguments = [str(clones), str(tmp_path / "out"), "--sources", str(listed(tmp_path, content)), "--quiet"]
    assert photographs.main([*arguments, "--side", "100"]) == 0
    sides = {min(Image.open(path).size) for path in picture_files(tmp_path / "out")}
    assert sides == {100}


@pytest.mark.parametrize("kind", ["directory", "tar"])
def test_copies_of_images_are_left_out_mirrored_and_in_other_sizes(
    made: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    clones, content = made
    images = tmp_path / "images"
    images.mkdir()
    smooth(31, (90, 80)).save(images / "bare.png")
    smooth(11).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(images / "pets.JPG")
    smooth(99).save(images / "none.webp")
    if kind == "tar":
        (images / "words.txt").write_text("no picture")
        with tarfile.open(tmp_path / "images.tar", "w") as archive:
            archive.add(images, "part")
    unlike = tmp_path / "images.tar" if kind == "tar" else images
    arguments = [str(clones), str(tmp_path / "out"), "--sources", str(listed(tmp_path, content)), "--quiet"]
    assert photographs.main([*arguments, "--unlike", str(unlike), "--json", str(tmp_path / "report.json")]) == 0
    assert "left out: 1 broken, 2 small, 1 drawings, 2 copies, 1 doubles" in capsys.readouterr().out
    pets, bare = json.loads((tmp_path / "report.json").read_text())["sources"]
    assert (pets["copies"], pets["written"]) == (1, 6)
    assert (bare["copies"], bare["written"]) == (1, 2)


def test_what_is_no_images_is_refused(made: tuple[Path, dict[str, Any]], tmp_path: Path, refused: Refused) -> None:
    clones, content = made
    arguments = [str(clones), str(tmp_path / "out"), "--sources", str(listed(tmp_path, content)), "--unlike"]
    (tmp_path / "empty").mkdir()
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    assert "unlike must be a directory of pictures" in refused(photographs.main, [*arguments, str(tmp_path / "empty")])
    assert "unlike must be a tar file of pictures" in refused(
        photographs.main, [*arguments, str(tmp_path / "empty.tar")]
    )
    assert "unlike must be a directory of pictures, or a tar file of them" in refused(
        photographs.main, [*arguments, str(tmp_path / "list.json")]
    )


def test_grey_pictures_and_plain_edges_go_if_it_is_said(
    tmp_path: Path, made: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    content = made[1]
    more = tmp_path / "me+more"
    (more / "pictures").mkdir(parents=True)
    framed = Image.new("RGB", (400, 400), (120, 110, 100))
    framed.paste(smooth(40, (400, 260)), (0, 0))
    framed.save(more / "pictures" / "framed.png")
    thin = Image.new("RGB", (400, 400), "white")
    thin.paste(smooth(41, (400, 150)), (0, 100))
    thin.save(more / "pictures" / "thin.png")
    smooth(42).convert("L").save(more / "pictures" / "grey.png")
    git(more, "init", "--quiet")
    git(more, "add", ".")
    git(more, "commit", "--quiet", "--message", "pictures")
    source = row(name="more", repository="me/more", commit=git(more, "rev-parse", "HEAD").strip())
    path = listed(tmp_path, {**content, "sources": [source]}, {})
    arguments = [str(tmp_path), str(tmp_path / "out"), "--sources", str(path), "--quiet", "--side", "300"]
    assert photographs.main(arguments) == 0
    assert len(picture_files(tmp_path / "out")) == 3
    arguments[1] = str(tmp_path / "fewer")
    assert photographs.main([*arguments, "--coloured", "--trim"]) == 0
    assert "1 small, 0 drawings, 1 grey, 0 doubles" in capsys.readouterr().out
    assert [Image.open(path).size for path in picture_files(tmp_path / "fewer")] == [(400, 260)]
    # Of an image with plain edges a copy is known without them.
    (tmp_path / "images").mkdir()
    Image.open(more / "pictures" / "framed.png").save(tmp_path / "images" / "framed.jpg", quality=95)
    arguments[1] = str(tmp_path / "none")
    assert photographs.main([*arguments, "--coloured", "--trim", "--unlike", str(tmp_path / "images")]) == 0
    assert "1 grey, 1 copies, 0 doubles" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"of_group": 1}, "cats dogs"),
        ({"of_group": 3}, "cats dogs cats dogs cats dogs"),
        ({"of_group": 2, "leave": "dogs|ILSVRC"}, "cats cats"),
        ({"of_group": 3, "take": r"/(?P<g>cat|dog)s/[0-4]\."}, "cats dogs cats dogs cats"),
        ({"of_group": 3, "take": r"(?P<g>pictures)/cats/|pictures/dogs/[01]"}, "cats dogs cats dogs cats"),
        ({"of_group": 9, "take": r"(?P<g>pictures)/dogs/ILSVRC|cats/1\.", "leave": None}, "cats"),
    ],
)
def test_groups_take_turns(
    made: tuple[Path, dict[str, Any]], tmp_path: Path, change: dict[str, Any], wanted: str
) -> None:
    clones, content = made
    sources, validation = read_sources(listed(tmp_path, content, {"leave": "ILSVRC", **change}, {}))
    directory = find_clones(clones, sources)[0]
    lines = git(directory, "ls-tree", "-r", sources[0].commit).splitlines()
    paths = {line.split()[2]: line.split("\t")[1] for line in lines}
    found = [paths[name] for name in drawn(sources[0], directory, validation)]
    assert [path.split("/")[1] for path in found] == wanted.split()
    assert len(set(found)) == len(found)


def test_most_in_all(made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    clones, content = made
    path = listed(tmp_path, content, {"in_all": 3}, {"in_all": 1})
    assert photographs.main([str(clones), str(tmp_path / "out"), "--sources", str(path), "--quiet"]) == 0
    assert [file.name[:4] for file in picture_files(tmp_path / "out")] == ["bare", "pets", "pets", "pets"]


def test_what_a_clone_lacks_is_skipped(made: tuple[Path, dict[str, Any]]) -> None:
    directory = made[0] / "me+pets" / ".git"
    there = git(directory, "rev-parse", "HEAD~1:pictures/cats/about.txt").strip()
    assert list(contents(directory, [there, "0" * 40, there])) == [b"cats", b"", b"cats"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "a_b"}, "name of source 'a_b' must be small letters and digits, not 'a_b'"),
        ({"name": "bare"}, "there must be one source 'bare', not two"),
        ({"repository": "me/.."}, "repository of source 'pets' must be OWNER/NAME, not 'me/..'"),
        ({"commit": "HEAD"}, "commit of source 'pets' must be 40 hexadecimal digits, not 'HEAD'"),
        ({"take": "("}, "take of source 'pets' must be a pattern, not '('"),
        ({"leave": 1}, "leave of source 'pets' must be a pattern or null, not 1"),
        ({"in_all": 0}, "in_all of source 'pets' must be an integer of at least 1, not 0"),
        ({"least": True}, "least of source 'pets' must be an integer of at least 1, not True"),
        ({"directory": "b"}, "directory of source 'pets' must be like or photographs, not 'b'"),
        ({"licence": 3}, "licence of source 'pets' must be a text or null, not 3"),
        ({"more": 1}, "source 0 must have name, repository, commit"),
        ({"take": "^none/"}, "commit of source 'pets' must have pictures of paths '^none/'"),
    ],
)
def test_list_says_what_is_wrong(
    made: tuple[Path, dict[str, Any]], tmp_path: Path, refused: Refused, change: dict[str, Any], message: str
) -> None:
    clones, content = made
    path = listed(tmp_path, content, change, {})
    assert message in refused(photographs.main, [str(clones), str(tmp_path / "out"), "--sources", str(path)])
    assert os.listdir(tmp_path) == ["list.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no list of sources"),
        ("[]", "must have 'validation', a pattern, and 'sources', a list"),
        ('{"validation": "(", "sources": [1]}', "must have 'validation', a pattern, and 'sources', a list"),
        ('{"validation": "a", "sources": []}', "must have 'validation', a pattern, and 'sources', a list"),
    ],
)
def test_another_file_is_no_list(tmp_path: Path, refused: Refused, text: str, message: str) -> None:
    (tmp_path / "list.json").write_text(text)
    arguments = [str(tmp_path), str(tmp_path / "out"), "--sources", str(tmp_path / "list.json")]
    assert message in refused(photographs.main, arguments)


def test_what_is_missing_is_said_with_the_commands_that_bring_it(
    made: tuple[Path, dict[str, Any]], tmp_path: Path, refused: Refused
) -> None:
    clones, content = made
    arguments = [str(clones), str(tmp_path / "out"), "--sources", str(tmp_path / "list.json")]
    listed(tmp_path, content, {"repository": "me/dogs"}, {"repository": "me/birds"})
    assert (
        f"{clones} must have clones for pets, bare: git clone https://github.com/me/dogs {clones}/me+dogs;"
        f" git clone https://github.com/me/birds {clones}/me+birds"
    ) in refused(photographs.main, arguments)
    listed(tmp_path, content, {"commit": "0" * 40}, {})
    own = clones / "me+pets" / ".git"
    assert (
        f"clone '{own}' must have the commit of source 'pets': git --git-dir={own} fetch https://github.com/me/pets"
        f" {'0' * 40}"
    ) in refused(photographs.main, arguments)
    listed(tmp_path, content)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").touch()
    assert f"output '{tmp_path}/out' must be an empty folder or not exist" in refused(photographs.main, arguments)
    assert sorted(os.listdir(tmp_path)) == ["list.json", "out"]


def test_committed_report_is_of_the_committed_list() -> None:
    sources, validation = read_sources()
    rows = json.loads((RESULTS / "photographs.json").read_text())["sources"]
    assert [{name: row[name] for name in vars(source)} for source, row in zip(sources, rows, strict=True)] == [
        vars(source) for source in sources
    ]
    kinds = ("broken", "small", "drawings", "doubles", "written")
    assert all(row["read"] == sum(row[kind] for kind in kinds) for row in rows)
    assert all(0 < row["written"] <= row["in_all"] for row in rows)
    assert validation.search("train/n01440764/ILSVRC2012_val_00000293.JPEG")
