"""Scripts that make the results in docs/results. Each is one command: ``python -m experiments.<name>``."""
