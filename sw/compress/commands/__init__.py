"""The commands of ``python -m sw.compress`` that are more than one call."""
