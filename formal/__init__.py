"""Proofs about blocks of the hardware: what they must do for all inputs, by induction or up to a named bound."""

import hw  # noqa: F401 - Ctrl-C while a command loads is one line
