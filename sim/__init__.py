"""Co-simulation: cocotb testbenches on Verilator, checked against :mod:`sw.golden`."""

import hw  # noqa: F401 - Ctrl-C while a command loads is one line
