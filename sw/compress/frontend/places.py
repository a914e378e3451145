"""Where in the user's network an operation is, in the user's own names; and why it is refused."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from traceback import extract_tb
from typing import Any

import torch
from torch import fx

from sw.compress.methods import CompressError

__all__ = ["FrontEndError", "Refusal", "place", "source_of_error"]

_TORCH, _OURS = str(Path(torch.__file__).parent), str(Path(__file__).parents[1])
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in \S+\n\s*(?P<text>[^\n]*)')


@dataclass(frozen=True)
class Refusal:
    """One thing in a network that has no form here."""

    #: In the user's names: an operation, its module's path and class, the line of source.
    where: str
    #: What is wrong with it.
    why: str
    #: What to do.
    advice: str = ""

    def __str__(self) -> str:
        text = " ".join(part for part in (self.where, self.why) if part)
        return f"{text}: {self.advice}" if self.advice else text


class FrontEndError(CompressError):
    """A network that cannot be taken as it is. The message has all refusals, one after the other.

    Attributes
    ----------
    refusals
        One for each operation.
    """

    def __init__(self, refusals: Sequence[Refusal]) -> None:
        # The same said of two calls is said once.
        self.refusals = list({str(refusal): refusal for refusal in refusals}.values())
        super().__init__("; ".join(map(str, self.refusals)))


def place(node: fx.Node) -> str:
    """An operation of a captured graph as its user knows it.

    ``'stem.2' (SiLU)`` where the operation is a module of torch; otherwise ``sigmoid in 'gate' (Gate), net.py:7 ...``.
    """
    # The innermost of nested modules is last.
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path, kind = stack[-1] if stack else ("", "")
    kind = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__name__}"
    module = f"{path!r} ({kind.rsplit('.', 1)[-1]})" if path else f"the network ({kind.rsplit('.', 1)[-1]})"
    line = _source_line(str(node.meta.get("stack_trace") or ""))
    name = node.target._schema.name if isinstance(node.target, torch._ops.OpOverload) else str(node.target)
    name = "batch_norm" if "batch_norm" in name else name.partition("::")[2] or name
    ours, theirs = name.replace("_", ""), kind.rpartition(".")[2].lower()
    if kind.startswith("torch.nn.") and path and (ours in theirs or theirs in ours):
        return f"{module}{line}"
    return f"{name} in {module}{line}"


def _source_line(trace: str) -> str:
    """The source line of the innermost frame that is not torch's own."""
    frames = [frame for frame in _FRAME.finditer(trace) if not _is_foreign(frame["file"])]
    return _line(frames[-1]["file"], frames[-1]["line"], frames[-1]["text"]) if frames else ""


def _is_foreign(file: str) -> bool:
    return file.startswith((_TORCH, _OURS, "<"))


def _line(file: str, number: Any, text: str | None) -> str:
    return f", {Path(file).name}:{number} `{' '.join((text or '').split())[:80]}`"


def source_of_error(error: BaseException) -> str:
    """The innermost line of the user's that an exception came through; empty if there is none."""
    frames = [frame for frame in extract_tb(error.__traceback__) if not _is_foreign(frame.filename)]
    return _line(frames[-1].filename, frames[-1].lineno, frames[-1].line).removeprefix(", ") if frames else ""
