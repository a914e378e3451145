"""Files of public git repositories: the list of the repositories, their clones, and which files are drawn."""

from __future__ import annotations

import random
import re
import subprocess
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sw.compress.methods import CompressError
from sw.format.strict_json import parse_json

__all__ = ["SOURCES", "Source", "contents", "drawn", "find_clones", "read_sources"]

#: The list of the sources.
SOURCES = Path(__file__).with_name("photographs.json")

_PICTURE = re.compile(r"\.(jpe?g|png|webp|bmp)$", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """A repository with photographs: a row of the list."""

    #: Small letters and digits, what files are called by; ``OWNER/NAME``; and 40 hexadecimal digits.
    name: str
    repository: str
    commit: str
    #: Patterns of the paths that are taken, and of those of them that are not. Pictures that the group ``g`` of the
    #: first one matches, or of a folder if it has none, are a group.
    take: str
    leave: str | None
    #: Most pictures that are read of a group, most that are written in all, and their least shorter side.
    of_group: int
    in_all: int
    least: int
    #: ``like`` or ``photographs``.
    directory: str
    #: As the repository states it; None if it states none.
    licence: str | None


def _pattern(value: Any) -> bool:
    try:
        return bool(re.compile(value).pattern)
    except (re.error, TypeError):
        return False


def _text(pattern: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


# What the values of a source must be.
_COUNT = ("an integer of at least 1", lambda value: type(value) is int and value >= 1)
_RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "name": ("small letters and digits", _text("[a-z0-9]+")),
    "repository": ("OWNER/NAME", _text("[A-Za-z0-9_-]+/[A-Za-z0-9_-][A-Za-z0-9._-]*")),
    "commit": ("40 hexadecimal digits", _text("[0-9a-f]{40}")),
    "take": ("a pattern", _pattern),
    "leave": ("a pattern or null", lambda value: value is None or _pattern(value)),
    "of_group": _COUNT,
    "in_all": _COUNT,
    "least": _COUNT,
    "directory": ("like or photographs", lambda value: value in ("like", "photographs")),
    "licence": ("a text or null", lambda value: value is None or isinstance(value, str)),
}


def read_sources(path: Path = SOURCES) -> tuple[list[Source], re.Pattern[str]]:
    """The list of sources, and the pattern of the paths of ImageNet's validation images.

    Raises
    ------
    CompressError
        It is none; the message names the source and the value.
    """
    try:
        found = parse_json(path.read_bytes())
    except ValueError as error:
        raise CompressError(f"{path} is no list of sources: {error}") from None
    rows = found.get("sources") if isinstance(found, dict) else None
    if not isinstance(rows, list) or not rows or not _pattern(found.get("validation")):
        raise CompressError(f"{path} must have 'validation', a pattern, and 'sources', a list")
    for place, row in enumerate(rows):
        if not isinstance(row, dict) or set(row) != set(_RULES):
            raise CompressError(f"{path}: source {place} must have {', '.join(_RULES)} alone")
        for name, (wanted, fits) in _RULES.items():
            if not fits(row[name]):
                raise CompressError(f"{path}: {name} of source {row['name']!r} must be {wanted}, not {row[name]!r}")
        if row["name"] in (other["name"] for other in rows[:place]):
            raise CompressError(f"{path}: there must be one source {row['name']!r}, not two")
    return [Source(**row) for row in rows], re.compile(found["validation"])


def _git(directory: Path, *arguments: str) -> list[str]:
    # Without a protocol, as a partial clone would fetch what it lacks.
    return ["git", "-c", "protocol.allow=never", f"--git-dir={directory}", *arguments]


def find_clones(directory: Path, sources: Sequence[Source]) -> list[Path]:
    """The git directory of each source.

    Raises
    ------
    CompressError
        Clones are missing, or the commit is missing in one.
    """
    found, missing = [], {}
    for source in sources:
        clone = directory / source.repository.replace("/", "+")
        tried = [parent / git for parent in (clone, clone / "repo") for git in ("", ".git")]
        found += [path for path in tried if (path / "objects").is_dir() and (path / "HEAD").is_file()][:1]
        if not found or found[-1] not in tried:
            missing[source.name] = f"git clone https://github.com/{source.repository} {clone}"
    if missing:
        raise CompressError(f"{directory} must have clones for {', '.join(missing)}: {'; '.join(missing.values())}")
    for source, own in zip(sources, found, strict=True):
        if subprocess.run(_git(own, "cat-file", "-e", f"{source.commit}^{{commit}}"), capture_output=True).returncode:
            raise CompressError(
                f"clone {str(own)!r} must have the commit of source {source.name!r}: git --git-dir={own} fetch"
                f" https://github.com/{source.repository} {source.commit}"
            )
    return found


def drawn(source: Source, directory: Path, validation: re.Pattern[str]) -> list[str]:
    """The files to read, one of each group in turn, by the names of their contents in git.

    Raises
    ------
    CompressError
        There is none, or git cannot list them.
    """
    listed = subprocess.run(_git(directory, "ls-tree", "-r", "-z", source.commit), capture_output=True)
    if listed.returncode:
        raise CompressError(f"{str(directory)!r} cannot be listed: {listed.stderr.decode(errors='replace')}")
    files = [line.partition("\t") for line in listed.stdout.decode(errors="replace").split("\0")]
    groups: dict[str, list[tuple[str, str]]] = {}
    for kind, _, path in sorted(files, key=lambda file: file[2]):
        match = re.search(source.take, path)
        left = source.leave is not None and re.search(source.leave, path)
        if match and not left and _PICTURE.search(path) and kind.startswith("100"):  # which links do not
            group = match.groupdict().get("g") or path.rpartition("/")[0]
            groups.setdefault(group, []).append((path, kind.split()[2]))
    draw = random.Random(source.name)
    for group in groups.values():
        draw.shuffle(group)
    turn = [group[place] for place in range(source.of_group) for group in groups.values() if place < len(group)]
    names = [name for path, name in turn if not validation.search(path)]
    if not names:
        raise CompressError(f"commit of source {source.name!r} must have pictures of paths {source.take!r}")
    return names


def contents(directory: Path, names: Sequence[str]) -> Generator[bytes, None, None]:
    """What is in each of them; of one that the clone lacks, nothing."""
    command = _git(directory, "cat-file", "--batch")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for name in names:
            process.stdin.write(f"{name}\n".encode())
            process.stdin.flush()
            head = process.stdout.readline().split()
            yield process.stdout.read(int(head[2]) + 1)[:-1] if len(head) == 3 else b""
