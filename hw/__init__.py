"""Register-transfer level description of the accelerator, in Amaranth.

:mod:`hw.config` and :mod:`hw.layout` are the ground floor: plain Python, no Amaranth and no numpy, imported by
everything else in the project. No module of ``hw`` imports ``sw``.

The first parameter of a component, and its attribute, is ``config``: the instance, a
:class:`hw.config.AcceleratorConfig`. Docstrings list the others, and the members.
"""

from __future__ import annotations

import os
import sys
from types import TracebackType


def _one_line_after_interrupt(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None, /
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


# Every package of commands imports this one before anything else, so that Ctrl-C while a command's modules load, which
# no `try` of its `main` can catch, ends it with one line. Python names the program so until the module is found; a
# library does not touch the hook.
if sys.argv[:1] == ["-m"] or os.path.basename("".join(sys.argv[:1])) == "msvq":
    sys.excepthook = _one_line_after_interrupt
