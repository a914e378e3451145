"""Scripts that make the results in docs/results. Each is one command: ``python -m experiments.<name>``."""

import hw  # noqa: F401 - Ctrl-C while a command loads is one line
