"""Software: compression, the container format, and the integer golden model of the accelerator."""

import hw  # noqa: F401 - Ctrl-C while a command loads is one line
