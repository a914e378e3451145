"""Hooks of ``mkdocs``: pages that come from the code, and links from the documentation to files outside it.

``reference/library.md`` lists what :mod:`msvq` offers, from its docstrings; ``reference/configuration.md`` the fields
of :class:`hw.config.AcceleratorConfig`; ``reference/commands.md`` what each command says to ``--help``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

_LINK = re.compile(r"\[([^\]]*)\]\((?!https?:|#|mailto:)([^)\s#]+)(#[^)\s]*)?\)")


def library_page() -> str:
    """What ``import msvq`` gives."""
    import msvq

    places = {name: f"msvq.api.{name}" for name in msvq.__all__} | {
        name: f"{module}.{name}" for name, module in msvq._PLACES.items()
    }
    functions = [name for name in msvq.__all__ if places[name].startswith("msvq.api.")]
    lines = ["# Library", "", inspect.getdoc(msvq) or "", ""]
    lines += [f"::: {places[name]}" for name in [*functions, "Recipe", "TrainConfig", "Freezing"]]
    return "\n\n".join(lines) + "\n"


def configuration_page() -> str:
    """Every field of a configuration with its meaning, range and default, and the presets."""
    from hw.config import PRESETS, AcceleratorConfig

    lines = ["# Configuration", "", "Fields of `AcceleratorConfig`, for `--set FIELD=VALUE`.", ""]
    lines += ["| field | default | meaning, and its range |", "|---|---|---|"]
    described = dict(_parameters(inspect.getdoc(AcceleratorConfig) or ""))
    for field in dataclasses.fields(AcceleratorConfig):
        text = described[field.name].replace("|", "\\|")
        lines.append(f"| `{field.name}` | `{field.default}` | {re.sub(r':[a-z]+:`', '`', text).replace('``', '`')} |")
    lines += ["", "## Presets", "", ", ".join(f"`{name}`" for name in PRESETS) + "."]
    return "\n".join(lines) + "\n"


def _parameters(doc: str) -> Iterator[tuple[str, str]]:
    """Names and descriptions of a numpydoc's parameters."""
    part = doc.partition("Parameters\n----------\n")[2].partition("\n\n")[0]
    for names, text in re.findall(r"^(\w[\w, ]*)\n((?:    .*\n?)+)", part, re.MULTILINE):
        for name in names.split(", "):
            yield name, " ".join(text.split())


def commands_page() -> str:
    """What ``msvq`` and each of its commands say to ``--help``."""
    from msvq.__main__ import COMMANDS, main

    def helped(*words: str) -> str:
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
            main([*words, "--help"])
        return shown.getvalue().rstrip()

    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"
    try:
        parts = ["# Commands", "```text\n" + helped() + "\n```"]
        for name, (_, _, about) in COMMANDS.items():
            parts += [f"## msvq {name}", about[0].upper() + about[1:] + ".", "```text\n" + helped(name) + "\n```"]
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    return "\n\n".join(parts) + "\n"


PAGES = {
    "reference/library.md": library_page,
    "reference/configuration.md": configuration_page,
    "reference/commands.md": commands_page,
}


def code_links(text: str, folder: Path) -> str:
    """Links that lead out of the documentation as a file's name; one that leads nowhere stays, and is an error."""

    def replaced(match: re.Match[str]) -> str:
        label, target, _ = match.groups()
        place = Path(os.path.normpath(folder / target))
        if place.is_relative_to(ROOT / "docs") or not place.exists():
            return match[0]
        name = place.relative_to(ROOT).as_posix() if place.is_relative_to(ROOT) else str(target)
        return f"`{name}`" if label.strip("`") in (name, target) else f"{label} (`{name}`)"

    return _LINK.sub(replaced, text)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages of the reference."""
    from mkdocs.structure.files import File

    # What a hook puts there when it is loaded is taken away again.
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    for name, make in PAGES.items():
        files.append(File.generated(config, name, content=make()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to code become names of files."""
    return code_links(markdown, (ROOT / "docs" / page.file.src_uri).parent)
