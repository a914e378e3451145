"""``python -m tools.tasks``: what the committed accuracies on Tiny-ImageNet say, in docs/tasks.md.

Every figure is of ``tiny-*.json``, and tables are those of ``tiny-*.md``, in ``docs/results``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import partial

from hw.command_line import Parser, interruptible
from tools.answers import RESULTS, ROOT, Case, best_vq, cases, verdict_row
from tools.marked import row, write_parts

PAGE = ROOT / "docs" / "tasks.md"

#: Studies with committed results, and what their networks are called.
STUDIES = {"tiny-dinov2-s": "ViT-S/14", "tiny-resnet18-64": "ResNet-18"}

#: What is asked: of one case, whether it is ahead of another one; "VQ": the better one of those that were run.
QUESTIONS = (
    ("SSVQ of VQ", "SSVQ", "VQ"),
    ("learned of fixed signs", "SSVQ learned signs", "SSVQ fixed signs"),
    ("frozen of learned signs", "SSVQ", "SSVQ learned signs"),
    ("majority of EMA", "SSVQ", "SSVQ frozen, EMA"),
    ("SSVQ of LSQ 2 bit", "SSVQ", "LSQ 2 bit"),
    ("MVQ of VQ", "MVQ", "VQ"),
    ("MSVQ of MVQ", "MSVQ", "MVQ"),
    ("MSVQ of SSVQ", "MSVQ", "SSVQ"),
)


def answers_part() -> Iterator[str]:
    """One row a question, network and size."""

    yield row("is ... ahead of ...", "network", "this", "that", "by", "seeds", "")
    yield "|---|---|---|---|--:|--:|---|"
    for study, network in STUDIES.items():
        found = cases(study)
        for size in ("", "26x ", "16x "):
            for question, this, that in QUESTIONS:
                other = _case(found, size, that)
                if size + this in found and other is not None:
                    yield verdict_row(question, f"{network}, {size or '21x '}".strip(), found[size + this], other)


def _case(found: dict[str, Case], size: str, name: str) -> Case | None:

    if name != "VQ":
        return found.get(size + name)
    own = {key.removeprefix(size): case for key, case in found.items() if key.startswith(size + "VQ")}
    return best_vq(own) if own else None


def table_part(study: str) -> Iterator[str]:
    """The table of a study, and its note."""

    yield from (RESULTS / f"{study}.md").read_text().rstrip("\n").split("\n")


def render(text: str) -> str:
    """The page with its parts written anew.

    Raises
    ------
    ValueError
        A part is missing or marked more than once.
    """
    tables = {study: partial(table_part, study) for study in STUDIES}
    return write_parts(text, {"answers": answers_part, **tables}, PAGE.name)


@interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    Parser(prog="python -m tools.tasks", description=__doc__).parse_args(arguments)
    PAGE.write_text(render(PAGE.read_text()))
    print(PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
