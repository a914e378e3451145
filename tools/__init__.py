"""Scripts that keep the documentation in step with the code, and benchmarks."""

import hw  # noqa: F401 - Ctrl-C while a command loads is one line
