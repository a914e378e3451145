from __future__ import annotations

import errno
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sw.format.container import write_container
from sw.format.output import OutputError, staged, staged_folder, write_atomically


@pytest.mark.parametrize("kind", ["pipe", "folder", "link to a pipe"])
def test_refuses_what_is_no_regular_file(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target"
    if kind == "folder":
        target.mkdir()
    else:
        os.mkfifo(tmp_path / "pipe" if "link" in kind else target)
        if "link" in kind:
            target.symlink_to(tmp_path / "pipe")
    before, mode = sorted(os.listdir(tmp_path)), stat.S_IFMT(target.lstat().st_mode)
    with pytest.raises(OutputError, match=r"output '.*target' must be a regular file or not exist"):
        write_container(target, [])
    assert stat.S_IFMT(target.lstat().st_mode) == mode
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_not_replaced(tmp_path: Path, there: bool) -> None:
    (tmp_path / "folder").mkdir()
    own, link = tmp_path / "folder" / "own", tmp_path / "link"
    if there:
        own.write_bytes(b"old")
    link.symlink_to(own)
    message = r"output '.*/link' must be a regular file or not exist, not a link: name '.*/folder/own' itself"
    with pytest.raises(OutputError, match=message):
        write_container(link, [])
    assert link.is_symlink()
    assert own.read_bytes() == b"old" if there else not own.exists()
    # A folder may be one.
    (tmp_path / "other").symlink_to("folder")
    write_atomically(tmp_path / "other" / "own", [b"new"])
    assert own.read_bytes() == b"new"


def test_standard_output_is_no_link_to_name(tmp_path: Path) -> None:
    """As /dev/stdout is one to a pipe, which has no name."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "stdout").symlink_to(tmp_path / "pipe")
    with pytest.raises(OutputError, match=r"output '.*/stdout' must be a regular file or not exist$"):
        write_container(tmp_path / "stdout", [])


def test_makes_folders_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    for content in (b"one", b"two"):
        write_atomically(path, [content[:1], content[1:]])
        assert path.read_bytes() == content
    assert os.listdir(path.parent) == ["file"]


def test_threads_write_one_file(tmp_path: Path) -> None:
    path, contents = tmp_path / "file", [letter * 10_000 for letter in (b"a", b"b", b"c", b"d")]
    with ThreadPoolExecutor(len(contents)) as pool:
        for written in [pool.submit(write_atomically, path, [content]) for _ in range(50) for content in contents]:
            written.result()
    assert path.read_bytes() in contents
    assert os.listdir(tmp_path) == ["file"]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_atomically(tmp_path / "a" / "b" / "file", [b"part", None])  # type: ignore[list-item]
    assert os.listdir(tmp_path) == []
    (tmp_path / "plain").touch()
    with pytest.raises(OSError, match="plain"), staged(tmp_path / "plain" / "file"):
        pytest.fail("the block must not begin")
    assert os.listdir(tmp_path) == ["plain"]


FULL, READ_ONLY = ((number, os.strerror(number)) for number in (errno.ENOSPC, errno.EROFS))


@pytest.mark.parametrize(
    ("into", "raised", "inside", "shown"),
    [
        (staged, FULL, None, "net"),
        (staged, FULL, "", "net"),
        (staged, READ_ONLY, "", "net"),
        (staged_folder, FULL, None, "net"),
        (staged_folder, FULL, "part", "net/part"),
        # What NumPy makes of a full disk.
        (staged, ("16 requested and 0 written",), None, "net"),
    ],
)
def test_an_error_names_the_file_that_the_user_did(
    into: Any, raised: tuple[Any, ...], inside: str | None, shown: str, tmp_path: Path
) -> None:
    with pytest.raises(OSError, match=r"No space|Read-only") as caught, into(tmp_path / "net") as temporary:
        raise OSError(*raised, *([] if inside is None else [str(temporary / inside)]))
    assert caught.value.filename == str(tmp_path / shown)
    assert os.listdir(tmp_path) == []


def test_other_errors_stay_as_they_are(tmp_path: Path) -> None:
    for error in (OSError("of a library"), OSError(*READ_ONLY, "elsewhere")):
        with pytest.raises(OSError, match=r"of a library|elsewhere") as caught, staged(tmp_path / "net"):
            raise error
        assert caught.value is error


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    for path in (tmp_path / "a" / "new", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with staged_folder(path) as temporary:
            (temporary / "file").touch()
            assert not path.exists() or not os.listdir(path)
        assert os.listdir(path) == ["file"]
        assert len(os.listdir(path.parent)) in (1, 2)
        message = r"output '.*' must be an empty folder or not exist"
        for full in (path, path / "file"):
            with pytest.raises(OutputError, match=message), staged_folder(full):
                pytest.fail("the block must not begin")
    with pytest.raises(FileNotFoundError), staged_folder(tmp_path / "b" / "c") as temporary:
        (temporary / "missing" / "file").touch()
    assert sorted(os.listdir(tmp_path)) == ["a", "empty"]
