"""Fine-tuning of compressed networks: how to use it is in ``docs/training.md``."""
