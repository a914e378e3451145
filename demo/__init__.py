"""The main job, end to end: ``python -m demo``."""

import hw  # noqa: F401 - Ctrl-C while a command loads is one line
